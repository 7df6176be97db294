//! A Python process that runs the other programs, so that both sides of a comparison see the same machine at the same time.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// The process behind `peers.py`; answers each request with the seconds that the work took, or says that it lacks the program.
pub(crate) struct Peer {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts the interpreter named by `ORANDFLOW_PEER_PYTHON`; without it there are no peers.
    pub(crate) fn start() -> Option<Self> {
        let python = std::env::var_os("ORANDFLOW_PEER_PYTHON")?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/peers.py");
        let mut child = Command::new(python)
            .arg(script)
            // One core, as ours.
            .envs([("OMP_NUM_THREADS", "1"), ("OPENBLAS_NUM_THREADS", "1"), ("MKL_NUM_THREADS", "1")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("ORANDFLOW_PEER_PYTHON is a Python interpreter");
        let requests = child.stdin.take().expect("it was asked for");
        let answers = BufReader::new(child.stdout.take().expect("it was asked for"));
        Some(Self { child, requests, answers })
    }

    /// Has one piece of work done, `NAME PATH..`; nothing if the interpreter lacks the program for it.
    pub(crate) fn time(&mut self, request: &str) -> Option<Duration> {
        writeln!(self.requests, "{request}").expect("the interpreter listens");
        self.requests.flush().expect("the interpreter listens");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the interpreter answers");
        answer.trim().parse().ok().map(Duration::from_secs_f64)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
