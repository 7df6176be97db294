//! Pipelines through a real Slurm on this machine: the same results as without it, whatever happens to jobs, nodes and coordinators.
//!
//! `cargo test --test it -- --ignored slurm:: --nocapture`, as root and with the Debian packages slurm-wlm and munge.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::shared::{lose, names};
use crate::workbench::{Workbench, say};

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(150);

/// Every shape: data brought in, shards, a diamond, a training on a card, a program, metrics.
const SHAPES: &str = r#"
[pipeline]
name = "shapes"
[stages.items]
kind = "debug.items"
folder = "items"
[stages.one]
kind = "debug.copy"
suffix = "-one"
inputs = { a = "items" }
[stages.other]
kind = "debug.copy"
suffix = "-other's"
inputs = { a = "items" }
[stages.both]
kind = "debug.copy"
inputs = { a = "one", b = "other" }
[stages.long]
kind = "debug.steps"
steps = 40
wait = 0
resources = { memory = "60MiB", cpus = 2, time = "5min" }
inputs = { a = "both" }
[stages.program]
kind = "command"
program = ["sh", "-c", "echo made > \"$ORANDFLOW_OUTPUT/file.txt\""]
outputs = ["file.txt"]
[stages.text]
kind = "debug.concat"
inputs = { a = "long", b = "both", c = "program" }
[stages.score]
kind = "debug.metrics"
miou = 0.5
inputs = { a = "text" }
"#;

/// A patient site is a slow test.
const PROFILE: &str = "shards = 2\narray = 3\npoll = \"0.3s\"\nsettle = \"2s\"\n[all]\nmemory = \"40MiB\"\n\
                       setup = [\"# nothing\"]\n[gpu]\nflags = [\"--nice=1\"]\n";

/// A Slurm that is stopped when the value goes.
struct Cluster {
    folder: tempfile::TempDir,
}

impl Cluster {
    fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("slurm-").tempdir().expect("a folder");
        let cluster = Self { folder };
        let output = cluster.script("start").output().expect("bash starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        cluster
    }

    fn script(&self, verb: &str) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slurm/cluster.sh");
        let mut command = Command::new("bash");
        command.arg(script).arg(verb).arg(self.folder.path().join("slurm")).env("CPUS", "16");
        command
    }

    fn conf(&self) -> PathBuf {
        self.folder.path().join("slurm/slurm.conf")
    }

    /// Runs one of Slurm's programs and returns what it wrote.
    fn ask(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program).args(arguments).env("SLURM_CONF", self.conf()).output().expect("it starts");
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("it is text")
    }

    /// Returns the jobs of a stage that wait or run: number, state, node and comment.
    fn jobs(&self, bench: &Bench, stage: &str) -> Vec<(String, String, String)> {
        let name = format!("{}.{stage}", bench.name);
        let text = self.ask("squeue", &["--noheader", "--format=%F|%T|%N|%j"]);
        let fields = text.lines().map(|line| line.split('|').map(str::to_owned).collect::<Vec<_>>());
        fields
            .filter(|fields| fields.len() == 4 && fields[3] == name && fields[1] != "COMPLETING")
            .map(|fields| (fields[0].clone(), fields[1].clone(), fields[2].clone()))
            .collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Whatever else it says, nothing can be done about it here.
        let _ = self.script("stop").output();
    }
}

/// A workbench whose pipeline has a name of its own in the queue.
struct Bench {
    bench: Workbench,
    name: String,
    conf: PathBuf,
}

impl Bench {
    fn new(cluster: &Cluster, name: &str, toml: &str) -> Self {
        let toml = toml.replace("name = \"shapes\"", &format!("name = \"{name}\""));
        let bench = Workbench::new().pipeline(&toml).file("profile.toml", PROFILE);
        for index in 0..150 {
            bench.write(&format!("items/i{index}.txt"), format!("{index}"));
        }
        Self { bench, name: name.to_owned(), conf: cluster.conf() }
    }

    fn command<'a>(&self, more: impl IntoIterator<Item = &'a str>) -> Command {
        let start = ["run", "pipeline.toml", "--json", "--executor", "slurm", "--profile", "profile.toml"];
        let mut command = self.bench.command(start.into_iter().chain(more));
        command.env("SLURM_CONF", &self.conf);
        command
    }

    fn start<'a>(&self, more: impl IntoIterator<Item = &'a str>) -> Child {
        self.command(more).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
    }

    fn run<'a>(&self, more: impl IntoIterator<Item = &'a str>) -> Ended {
        Ended::of(self.start(more))
    }

    /// Returns key and output of every stage, as a run on this machine with a cache of its own makes them.
    fn local<'a>(&self, more: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, Value> {
        let start = ["run", "pipeline.toml", "--json", "--cache", "local"];
        let output = self.bench.command(start.into_iter().chain(more)).output();
        let output = output.expect("the program starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        outputs(&serde_json::from_slice(&output.stdout).expect("it is JSON"))
    }

    /// Returns the events that the jobs of all runs have written of a stage.
    fn events(&self, event: &str, stage: &str) -> Vec<Value> {
        let runs = self.bench.path("cache/runs");
        let mut events = Vec::new();
        for run in names(&runs) {
            let folder = runs.join(run).join("slurm/events");
            for name in names(&folder) {
                let text = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
                let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
                events.extend(lines.filter(|line| line["event"] == event && line["stage"] == stage));
            }
        }
        events
    }

    /// Makes sure that jobs have done so many actions in all. A job says so a moment after its result is there.
    fn assert_actions(&self, expected: usize) {
        let start = Instant::now();
        while self.actions() < expected && start.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(self.actions(), expected, "of `{}`", self.name);
    }

    fn actions(&self) -> usize {
        ["items", "one", "other", "both", "long", "program", "text", "score"]
            .map(|stage| self.events("action.done", stage).len())
            .iter()
            .sum()
    }

    /// Returns the processes of jobs of a stage.
    fn processes(&self, stage: &str) -> Vec<u32> {
        let folder = self.bench.folder().to_str().expect("it is UTF-8").to_owned();
        let process = |entry: std::fs::DirEntry| {
            let id: u32 = entry.file_name().to_str()?.parse().ok()?;
            let text = std::fs::read(entry.path().join("cmdline")).ok()?;
            let words: Vec<String> =
                text.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
            let is_it =
                words.get(1)? == "exec" && words.get(2)?.starts_with(&folder) && words.contains(&stage.to_owned());
            is_it.then_some(id)
        };
        std::fs::read_dir("/proc").expect("it can be read").filter_map(|entry| process(entry.ok()?)).collect()
    }

    /// Waits until a job has kept so many checkpoints of its stage as to be in the midst of it.
    fn wait_for_checkpoint(&self) {
        let folder = self.bench.path("cache/v1/checkpoints");
        wait("a checkpoint", || names(&folder).iter().any(|key| !names(&folder.join(key)).is_empty()));
    }
}

/// What a coordinator did.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    object: Value,
    stderr: String,
}

impl Ended {
    fn of(child: Child) -> Self {
        let output = child.wait_with_output().expect("it ends");
        let object = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        Self { code: output.status.code(), object, stderr: String::from_utf8_lossy(&output.stderr).into_owned() }
    }

    fn statuses(&self) -> BTreeSet<&str> {
        self.object["stages"].as_array().into_iter().flatten().filter_map(|stage| stage["status"].as_str()).collect()
    }

    fn status(&self, name: &str) -> &str {
        let mut stages = self.object["stages"].as_array().into_iter().flatten();
        stages.find(|stage| stage["name"] == name).and_then(|stage| stage["status"].as_str()).unwrap_or("?")
    }
}

fn outputs(object: &Value) -> BTreeMap<String, Value> {
    let stages = object["stages"].as_array().into_iter().flatten();
    stages
        .map(|stage| {
            (stage["name"].as_str().unwrap_or("?").to_owned(), serde_json::json!([stage["key"], stage["output"]]))
        })
        .collect()
}

fn wait(what: &str, mut until: impl FnMut() -> bool) {
    let start = Instant::now();
    while !until() {
        assert!(start.elapsed() < PATIENCE, "there is no {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn signal(name: &str, process: u32) {
    let sent = Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status();
    assert!(sent.expect("kill starts").success());
}

/// A long stage whose steps take a while.
const SLOW: [&str; 2] = ["--set", "stages.long.wait=100"];

fn the_same_digests_as_without_it(cluster: &Cluster) {
    let bench = Bench::new(cluster, "same", SHAPES);
    let first = bench.run(["--device", "fake:0"]);
    assert_eq!((first.code, first.statuses()), (Some(0), BTreeSet::from(["ran"])), "{first:?}");
    assert_eq!(outputs(&first.object), bench.local([]));
    // Four shards of four stages in two tasks each, and four whole ones.
    bench.assert_actions(4 * 4 + 4);
    assert_eq!(bench.events("action.done", "long")[0]["device"], "fake:0");
    assert!(first.stderr.contains("both: job ") && first.stderr.contains(" of 2 tasks, after "), "{}", first.stderr);
    assert_eq!(first.object["metrics"]["score"]["miou"], 0.5);

    let second = bench.run([]);
    assert_eq!((second.code, second.statuses()), (Some(0), BTreeSet::from(["cached"])), "{second:?}");
    assert!(!second.stderr.contains("job"), "{}", second.stderr);

    // A changed image costs its shard in every stage behind, and a note that changes nothing stops the wave.
    bench.bench.write("items/i7.txt", "another");
    bench.run([]);
    bench.assert_actions(20 + 4 + 3);
    let third = bench.run(["--set", "stages.one.note=1"]);
    assert_eq!((third.status("one"), third.status("both")), ("ran", "cached"), "{third:?}");
    let object = bench.bench.run_json(["--set", "stages.one.note=1"]).0;
    assert_eq!(outputs(&third.object), outputs(&object), "a run on this machine finds everything");
}

/// The whole method on few images and with short trainings: weights, maps, masks and scores are those of a run without Slurm.
#[cfg(feature = "nn")]
fn the_demo_as_without_it(cluster: &Cluster) {
    let demo = include_str!("../../pipelines/demo.toml");
    let bench = Bench::new(cluster, "demo", &demo.replace("name = \"demo\"", "name = \"shapes\""));
    let less = [
        "train.count=40",
        "val.count=12",
        "resnet.epochs=1",
        "vit.epochs=1",
        "orandnet.steps=10",
        "irn.epochs=1",
        "segmenter.epochs=2",
    ];
    let less: Vec<String> = less.iter().map(|value| format!("stages.{value}")).collect();
    let less: Vec<&str> = less.iter().flat_map(|value| ["--set", value]).collect();
    let ended = bench.run(less.iter().copied());
    assert_eq!((ended.code, ended.statuses()), (Some(0), BTreeSet::from(["ran"])), "{ended:?}");
    assert!(!ended.object["metrics"]["score_val"]["miou"].is_null(), "{}", ended.object);
    assert_eq!(outputs(&ended.object), bench.local(less));
}

fn a_failure_is_told_and_the_rest_goes_on(cluster: &Cluster) {
    let more = "[stages.bad]\nkind = \"debug.fail\"\nmessage = \"it cannot\"\ninputs = { a = \"both\" }\n\
                [stages.behind]\nkind = \"debug.concat\"\ninputs = { a = \"bad\" }\n";
    let bench = Bench::new(cluster, "fails", &format!("{SHAPES}{more}"));
    let ended = bench.run([]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert_eq!((ended.status("bad"), ended.status("behind"), ended.status("score")), ("failed", "skipped", "ran"));
    assert!(ended.stderr.contains("stage `bad` failed") && ended.stderr.contains("it cannot"), "{}", ended.stderr);
    assert!(cluster.jobs(&bench, "behind").is_empty());
    let refused = bench.run(["--set", "stages.score.miou=0.6", "--only", "score", "--profile", "no.toml"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    bench.bench.write("profile.toml", format!("{PROFILE}[stages.score]\npartition = \"nowhere\"\n"));
    let refused = bench.run(["--set", "stages.score.miou=0.6", "--only", "score"]);
    assert_eq!((refused.code, refused.status("score")), (Some(1), "failed"), "{refused:?}");
    assert!(refused.stderr.contains("invalid partition"), "{}", refused.stderr);
}

fn a_killed_job_is_submitted_again_and_goes_on(cluster: &Cluster) {
    let bench = Bench::new(cluster, "killed", SHAPES);
    let child = bench.start(SLOW);
    bench.wait_for_checkpoint();
    let process = bench.processes("long")[0];
    signal("KILL", process);
    let ended = Ended::of(child);
    assert_eq!((ended.code, ended.statuses()), (Some(0), BTreeSet::from(["ran"])), "{ended:?}");
    assert!(ended.stderr.contains("without a result; it is submitted again"), "{}", ended.stderr);
    assert_eq!(outputs(&ended.object), bench.local([]));
    let firsts: Vec<f64> =
        bench.events("step.metric", "long").iter().filter_map(|event| event["value"].as_f64()).collect();
    assert!(firsts.iter().any(|first| *first > 0.0), "it went on from a checkpoint: {firsts:?}");
    bench.assert_actions(20);
}

fn a_cancelled_job_fails_its_stage(cluster: &Cluster) {
    let bench = Bench::new(cluster, "scancel", SHAPES);
    let child = bench.start(SLOW);
    bench.wait_for_checkpoint();
    cluster.ask("scancel", &[&cluster.jobs(&bench, "long")[0].0]);
    let ended = Ended::of(child);
    assert_eq!((ended.code, ended.status("long"), ended.status("score")), (Some(1), "failed", "skipped"), "{ended:?}");
    assert!(ended.stderr.contains("was cancelled"), "{}", ended.stderr);
    let again = bench.run([]);
    assert_eq!((again.code, again.status("long")), (Some(0), "ran"), "{again:?}");
    assert_eq!(outputs(&again.object), bench.local([]));
}

fn a_job_at_its_time_limit_goes_back_into_the_queue(cluster: &Cluster) {
    // Slurm's shortest limit is a minute, of which the job hears at half time.
    let bench = Bench::new(cluster, "limit", SHAPES);
    let set = ["--set", "stages.long.wait=1200", "--set", "stages.long.resources.time=\"1min\""];
    let ended = bench.run(set);
    assert_eq!((ended.code, ended.statuses()), (Some(0), BTreeSet::from(["ran"])), "{ended:?}");
    assert!(ended.stderr.contains("goes back into the queue"), "{}", ended.stderr);
    assert_eq!(outputs(&ended.object), bench.local([]));
    let starts = bench.events("step.started", "long").len();
    assert!(starts >= 2, "{starts}");
    bench.assert_actions(20);
}

fn an_interrupted_run_cancels_its_jobs(cluster: &Cluster) {
    let bench = Bench::new(cluster, "stopped", SHAPES);
    let child = bench.start(SLOW);
    bench.wait_for_checkpoint();
    signal("INT", child.id());
    let ended = Ended::of(child);
    assert_eq!((ended.code, ended.status("long"), ended.status("both")), (Some(130), "skipped", "ran"), "{ended:?}");
    wait("empty queue", || cluster.jobs(&bench, "long").is_empty() && bench.processes("long").is_empty());
    assert!(cluster.jobs(&bench, "score").is_empty());
    let again = bench.run([]);
    assert_eq!((again.code, again.status("long"), again.status("both")), (Some(0), "ran", "cached"), "{again:?}");
    assert_eq!(outputs(&again.object), bench.local([]));
    let firsts: Vec<f64> =
        bench.events("step.metric", "long").iter().filter_map(|event| event["value"].as_f64()).collect();
    assert!(firsts.iter().any(|first| *first > 0.0), "{firsts:?}");
}

fn a_coordinator_may_end_and_be_started_again(cluster: &Cluster) {
    let bench = Bench::new(cluster, "restart", SHAPES);
    let mut child = bench.start(SLOW);
    bench.wait_for_checkpoint();
    let job = cluster.jobs(&bench, "long")[0].0.clone();
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    let ended = bench.run(SLOW);
    assert_eq!((ended.code, ended.status("both"), ended.status("long")), (Some(0), "cached", "ran"), "{ended:?}");
    assert!(ended.stderr.contains(&format!("long: has job {job} already")), "{}", ended.stderr);
    assert_eq!(outputs(&ended.object), bench.local([]));
    bench.assert_actions(20);

    // Nobody has to be there at all.
    let detached = bench.run(["--detach", "--set", "stages.one.suffix=-x"]);
    assert_eq!(detached.code, Some(0), "{detached:?}");
    wait("job of the last stage", || cluster.jobs(&bench, "score").is_empty());
    let (object, _) = bench.bench.run_json(["--set", "stages.one.suffix=-x"]);
    let statuses = object["stages"].as_array().expect("a list").iter().map(|stage| stage["status"].clone());
    assert!(statuses.into_iter().all(|status| status == "cached"), "{object:#}");
}

fn two_coordinators_do_everything_once(cluster: &Cluster) {
    let bench = Bench::new(cluster, "two", SHAPES);
    let two = [bench.start(SLOW), bench.start(SLOW)].map(Ended::of);
    for ended in &two {
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert_eq!(outputs(&ended.object), bench.local([]));
    }
    bench.assert_actions(20);
    let submitted = two.iter().filter(|ended| ended.stderr.contains("long: has job ")).count();
    assert_eq!(submitted, 1, "one has submitted, and the other has taken that over: {two:?}");
    // What two plans share is done once as well, by whoever claims it first.
    let plans = [["--set", "stages.long.steps=41"], ["--set", "stages.long.steps=42"]];
    bench.bench.write("items/i7.txt", "another");
    let before = bench.events("action.done", "both").len();
    for ended in plans.map(|plan| bench.start(plan)).map(Ended::of) {
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
    wait("action", || bench.events("action.done", "both").len() > before);
    assert_eq!(bench.events("action.done", "both").len(), before + 1);
}

fn a_result_that_goes_meanwhile_is_made_again(cluster: &Cluster) {
    let bench = Bench::new(cluster, "gone", SHAPES);
    let child = bench.start(SLOW);
    bench.wait_for_checkpoint();
    // `text` will read it.
    lose(&bench.bench, "both");
    let ended = Ended::of(child);
    assert_eq!((ended.code, ended.statuses()), (Some(0), BTreeSet::from(["ran"])), "{ended:?}");
    assert_eq!(outputs(&ended.object), bench.local([]));
    assert!(bench.events("step.failed", "text").is_empty());
    bench.assert_actions(20 + 1);
}

fn a_sweep_is_a_plan_like_any_other(cluster: &Cluster) {
    let sweep = "[sweep]\ngrid = { \"stages.one.suffix\" = [\"-a\", \"-b\"] }\n";
    let bench = Bench::new(cluster, "points", &format!("{SHAPES}{sweep}"));
    let run = |more: &[&'static str]| {
        let start = ["sweep", "pipeline.toml", "--json"].into_iter().chain(more.iter().copied());
        let output = bench.bench.command(start).env("SLURM_CONF", &bench.conf).output().expect("it starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        outputs(&serde_json::from_slice(&output.stdout).expect("it is JSON"))
    };
    let through = run(&["--executor", "slurm", "--profile", "profile.toml"]);
    assert_eq!(through, run(&["--cache", "local"]));
    assert!(through.len() > 8 && through.len() < 16, "{through:?}");
}

fn a_node_that_fails_is_replaced(cluster: &Cluster) {
    let bench = Bench::new(cluster, "node", SHAPES);
    let child = bench.start(SLOW);
    bench.wait_for_checkpoint();
    let node = cluster.jobs(&bench, "long")[0].2.clone();
    let pid = cluster.folder.path().join(format!("slurm/slurmd-{node}.pid"));
    let slurmd: u32 = std::fs::read_to_string(pid).expect("it runs").trim().parse().expect("a number");
    // The node, and everything on it, is gone from one moment to the next.
    signal("KILL", slurmd);
    bench.processes("long").into_iter().for_each(|process| signal("KILL", process));
    cluster.ask("scontrol", &["update", &format!("nodename={node}"), "state=down", "reason=test"]);
    let ended = Ended::of(child);
    assert_eq!((ended.code, ended.statuses()), (Some(0), BTreeSet::from(["ran"])), "{ended:?}");
    assert_eq!(outputs(&ended.object), bench.local([]));
    let firsts: Vec<f64> =
        bench.events("step.metric", "long").iter().filter_map(|event| event["value"].as_f64()).collect();
    assert!(firsts.iter().any(|first| *first > 0.0), "it went on elsewhere: {firsts:?}");
}

/// What is tried on a cluster.
type Scenario = fn(&Cluster);

#[test]
#[ignore = "starts a Slurm of its own, as root, for a minute or two"]
fn pipelines_run_through_a_real_slurm() {
    for program in ["slurmctld", "slurmd", "munged", "sbatch"] {
        let found = ["/usr/sbin", "/usr/bin"].iter().any(|folder| Path::new(folder).join(program).exists());
        if !found {
            say(format!("`{program}` is not installed: nothing was tried through Slurm"));
            return;
        }
    }
    // One of them loses a node.
    let [cluster, doomed] = [Cluster::start(), Cluster::start()];
    let together: &[(&str, Scenario)] = &[
        ("failed node", a_node_that_fails_is_replaced),
        ("time limit", a_job_at_its_time_limit_goes_back_into_the_queue),
        ("same digests", the_same_digests_as_without_it),
        ("failure", a_failure_is_told_and_the_rest_goes_on),
        ("killed job", a_killed_job_is_submitted_again_and_goes_on),
        ("cancelled job", a_cancelled_job_fails_its_stage),
        ("interrupted run", an_interrupted_run_cancels_its_jobs),
        ("restart", a_coordinator_may_end_and_be_started_again),
        ("two coordinators", two_coordinators_do_everything_once),
        ("sweep", a_sweep_is_a_plan_like_any_other),
        ("lost result", a_result_that_goes_meanwhile_is_made_again),
        #[cfg(feature = "nn")]
        ("demo", the_demo_as_without_it),
    ];
    let only = std::env::var("ORANDFLOW_SLURM_ONLY").unwrap_or_default();
    let meant = |name: &str| only.is_empty() || name == only;
    let timed = |name: &str, scenario: Scenario| {
        let clock = Instant::now();
        scenario(if name == "failed node" { &doomed } else { &cluster });
        say(format!("{name}: {:.1} s", clock.elapsed().as_secs_f64()));
    };
    let failed: Vec<&str> = std::thread::scope(|scope| {
        let threads: Vec<_> = together
            .iter()
            .map(|&(name, scenario)| (name, meant(name).then(|| scope.spawn(move || timed(name, scenario)))))
            .collect();
        threads
            .into_iter()
            .filter_map(|(name, thread)| thread.is_some_and(|thread| thread.join().is_err()).then_some(name))
            .collect()
    });
    assert!(failed.is_empty(), "{failed:?}");
}
