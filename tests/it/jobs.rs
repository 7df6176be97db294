//! Jobs of a cluster by themselves, without a cluster: what they take for granted, and what they say where it is gone.
#![cfg(unix)]

use std::os::unix::fs::PermissionsExt as _;
use std::process::Child;
use std::time::Duration;

use serde_json::Value;

use crate::shared::{lose, names};
use crate::workbench::Workbench;

const CHAIN: &str = "[pipeline]\nname = \"chain\"\n[stages.items]\nkind = \"debug.items\"\nfolder = \"items\"\n\
                     [stages.one]\nkind = \"debug.copy\"\nsuffix = \"-one\"\ninputs = { a = \"items\" }\n\
                     [stages.two]\nkind = \"debug.copy\"\nsuffix = \"-two\"\ninputs = { a = \"one\" }\n";

/// The chain with all but its last stage in the cache and a plan file for that one's job, from a Slurm that starts nothing.
struct Bench {
    bench: Workbench,
    plan: String,
}

impl Bench {
    fn new() -> Self {
        let bench = Workbench::new().pipeline(CHAIN).file("profile.toml", "shards = 1\narray = 2\n");
        for index in 0..150 {
            bench.write(&format!("items/i{index}.txt"), format!("{index}"));
        }
        assert_eq!(bench.run(["run", "pipeline.toml", "--only", "one"]).code, Some(0));
        for (program, answer) in [("sbatch", "echo 7"), ("squeue", ""), ("sacct", ""), ("scancel", "")] {
            bench.write(&format!("bin/{program}"), format!("#!/bin/sh\n{answer}\n"));
            let path = bench.path(&format!("bin/{program}"));
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("it is there");
        }
        let path = format!("{}:{}", bench.path("bin").display(), std::env::var("PATH").unwrap_or_default());
        let slurm = ["--executor", "slurm", "--profile", "profile.toml", "--detach"];
        let mut command = bench.command(["run", "pipeline.toml"].into_iter().chain(slurm));
        let output = command.env("PATH", path).output().expect("the program starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let runs = names(&bench.path("cache/runs")).into_iter();
        let plans = runs.map(|run| format!("cache/runs/{run}/slurm/plan.json"));
        let plan = plans.into_iter().find(|plan| bench.path(plan).exists()).expect("there is a plan file");
        Self { bench, plan }
    }

    /// Starts the job of both parts of the last stage, as one.
    fn start(&self, settle: &str) -> Child {
        let mut command = self.bench.command(["exec", &self.plan, "--stage", "two", "--settle", settle]);
        command.stderr(std::process::Stdio::null()).spawn().expect("the program starts")
    }

    /// Runs the job; returns its exit code and how it says that it ended.
    fn run(&self, settle: &str) -> (Option<i32>, Value) {
        let code = self.start(settle).wait().expect("it ends").code();
        (code, self.end())
    }

    fn end(&self) -> Value {
        let folder = self.plan.replace("plan.json", "ends");
        let end = names(&self.bench.path(&folder)).pop().expect("the job says how it ended");
        serde_json::from_slice(&self.bench.read(&format!("{folder}/{end}"))).expect("it is JSON")
    }
}

#[test]
fn a_job_does_not_mind_what_is_gone_and_it_does_not_read() {
    let bench = Bench::new();
    lose(&bench.bench, "items");
    assert_eq!(bench.run("0"), (Some(0), serde_json::json!({ "end": "done" })));
}

#[test]
fn a_job_says_whose_result_is_gone_that_it_reads_and_fails_nothing() {
    let bench = Bench::new();
    lose(&bench.bench, "one");
    let lost = serde_json::json!({ "end": "lost", "message": "the result of stage `one` is not there" });
    assert_eq!(bench.run("0"), (Some(1), lost));
    let events = bench.plan.replace("plan.json", "events");
    for name in names(&bench.bench.path(&events)) {
        let text = String::from_utf8(bench.bench.read(&format!("{events}/{name}"))).expect("it is text");
        assert!(!text.contains("\"step.failed\""), "{text}");
    }
    // Its maker makes it again, and then it is a job like any other.
    let again = bench.bench.run(["run", "pipeline.toml", "--only", "one"]);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert_eq!(bench.run("0"), (Some(0), serde_json::json!({ "end": "done" })));
    let (object, _) = bench.bench.run_json([]);
    let (local, _) = bench.bench.run_json(["--cache", "local"]);
    for (one, other) in
        object["stages"].as_array().expect("a list").iter().zip(local["stages"].as_array().expect("a list"))
    {
        assert_eq!((&one["status"], &one["key"], &one["output"]), (&"cached".into(), &other["key"], &other["output"]));
    }
}

#[test]
fn a_job_waits_for_what_it_reads_to_show() {
    let bench = Bench::new();
    let [there, away] = lose(&bench.bench, "one");
    let mut job = bench.start("60");
    std::thread::sleep(Duration::from_millis(1500));
    assert!(job.try_wait().expect("it can be asked").is_none(), "it waits: {}", bench.end());
    std::fs::rename(away, there).expect("it is moved back");
    assert_eq!(job.wait().expect("it ends").code(), Some(0));
    assert_eq!(bench.end(), serde_json::json!({ "end": "done" }));
}
