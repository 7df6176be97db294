//! A Python process that runs the other programs, so that both sides of a comparison see the same machine at the same time.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// The process behind a script of this folder; answers each request with the seconds that the work took, or says that it lacks the
/// program.
pub(crate) struct Peer {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts the interpreter named by `ORANDFLOW_PEER_PYTHON` on a script of this folder, with as many threads as our side has;
    /// without the variable there are no peers.
    pub(crate) fn start(script: &str, threads: usize) -> Option<Self> {
        let python = std::env::var_os("ORANDFLOW_PEER_PYTHON")?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench").join(script);
        let mut child = Command::new(python)
            .arg(script)
            .envs(
                ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"].map(|name| (name, threads.to_string())),
            )
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
