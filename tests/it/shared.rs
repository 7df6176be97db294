//! Several processes on one cache, and processes that were killed: work is done once, and nothing stale is left.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::run::{chain, wait_for};
use crate::workbench::Workbench;

/// A pipeline whose only stage takes this long.
fn sleeping(seconds: f64) -> Workbench {
    Workbench::new().pipeline(&format!(
        "[pipeline]\nname = \"sleeping\"\n[stages.sleep]\nkind = \"debug.sleep\"\nseconds = {seconds}\n"
    ))
}

fn start(bench: &Workbench, more: &[&str]) -> Child {
    let mut command = bench.command(["run", "pipeline.toml"].into_iter().chain(more.iter().copied()));
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
}

/// Returns how often this event was written in all runs.
pub(crate) fn count_events(bench: &Workbench, event: &str) -> usize {
    let word = format!("\"event\":\"{event}\"");
    let runs = std::fs::read_dir(bench.path("cache/runs")).into_iter().flatten().filter_map(Result::ok);
    let texts = runs.filter_map(|run| std::fs::read_to_string(run.path().join("events.jsonl")).ok());
    texts.map(|text| text.lines().filter(|line| line.contains(&word)).count()).sum()
}

/// Returns the names in a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Moves the blob of a shard of a stage out of the cache; returns where it was, and where it is.
pub(crate) fn lose(bench: &Workbench, stage: &str) -> [PathBuf; 2] {
    let records = bench.path("cache/v1/ac");
    let paths = names(&records).into_iter().flat_map(|folder| {
        let folder = records.join(folder);
        names(&folder).into_iter().map(move |name| folder.join(name))
    });
    let digests = paths.filter_map(|path| {
        let text = std::fs::read_to_string(path).expect("a record");
        let record: serde_json::Value = serde_json::from_str(text.lines().next()?).expect("it is JSON");
        let own = record["provenance"]["stage"] == stage;
        own.then(|| record["shard"]["digest"].as_str().map(str::to_owned)).flatten()
    });
    let digest = digests.min().expect("the stage has shards");
    let (there, away) = (bench.path(&format!("cache/v1/cas/{}/{digest}", &digest[..2])), bench.path("away"));
    std::fs::rename(&there, &away).expect("it is there");
    [there, away]
}

#[test]
fn two_processes_do_the_same_work_once() {
    let bench = chain(150);
    let more = ["--set", "stages.copy.wait=20", "--set", "stages.both.wait=20"];
    let mut running = [start(&bench, &more), start(&bench, &more), start(&bench, &more)];
    for child in &mut running {
        assert_eq!(child.wait().expect("it ends").code(), Some(0));
    }
    // Four shards of three stages, and two whole ones.
    assert_eq!(count_events(&bench, "action.done"), 3 * 4 + 2);
    assert!(names(&bench.path("cache/v1/claims")).is_empty());
    assert!(names(&bench.path("cache/v1/tmp")).is_empty());
}

#[test]
fn a_process_that_waits_says_for_whom_and_takes_the_result() {
    let bench = sleeping(1.5);
    let mut first = start(&bench, &[]);
    wait_for(&bench, "step.started", "sleep");
    let (object, outcome) = bench.run_json([]);
    assert_eq!((outcome.code, object["stages"][0]["status"].as_str()), (Some(0), Some("cached")), "{outcome:?}");
    let says = format!("sleep: waits for process {} on ", first.id());
    assert!(outcome.stderr.contains(&says), "{}", outcome.stderr);
    assert_eq!(first.wait().expect("it ends").code(), Some(0));
    assert_eq!(count_events(&bench, "action.done"), 1);
}

#[test]
fn readers_do_not_wait() {
    let bench = sleeping(5.0);
    let mut first = start(&bench, &[]);
    wait_for(&bench, "step.started", "sleep");
    let clock = Instant::now();
    assert_eq!(bench.run(["plan", "pipeline.toml"]).code, Some(0));
    assert_eq!(bench.run(["cache", "du"]).code, Some(0));
    assert_eq!(bench.run(["cache", "verify"]).code, Some(0));
    assert!(clock.elapsed() < Duration::from_secs(4), "{:?}", clock.elapsed());
    first.kill().expect("it runs");
    first.wait().expect("it ends");
}

#[test]
fn the_work_of_a_killed_process_is_taken_over_at_once() {
    let bench = sleeping(1.0);
    let mut first = start(&bench, &[]);
    wait_for(&bench, "step.started", "sleep");
    let second = start(&bench, &[]);
    std::thread::sleep(Duration::from_millis(200));
    first.kill().expect("it runs");
    // It stays a zombie while the second one takes over.
    let clock = Instant::now();
    assert_eq!({ second }.wait().expect("it ends").code(), Some(0));
    assert!(clock.elapsed() < Duration::from_secs(20), "{:?}", clock.elapsed());
    first.wait().expect("it ends");
    assert_eq!(bench.statuses([]), ["sleep cached"]);
    assert!(names(&bench.path("cache/v1/claims")).is_empty());
    assert!(names(&bench.path("cache/v1/tmp")).is_empty());
}

#[test]
fn a_process_elsewhere_that_does_not_beat_is_dead() {
    let bench = sleeping(0.0);
    let (object, _) = bench.run_json([]);
    let key = object["stages"][0]["key"].as_str().expect("a key").to_owned();
    std::fs::remove_file(bench.path(&format!("cache/v1/ac/{}/{key}.json", &key[..2]))).expect("its record is there");
    bench.write(&format!("cache/v1/claims/{key}.0"), "elsewhere.0123456789ab.1.1");
    let clock = Instant::now();
    let mut command = bench.command(["run", "pipeline.toml"]);
    let output = command.env("ORANDFLOW_DEAD_AFTER", "1").output().expect("the program starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("sleep: waits for process 1 on elsewhere"), "{stderr}");
    assert!(clock.elapsed() >= Duration::from_secs(1), "it is given the time to beat");
    assert!(names(&bench.path("cache/v1/claims")).is_empty());
}

#[test]
fn an_interruption_while_waiting_ends_the_waiting() {
    let bench = sleeping(30.0);
    let mut first = start(&bench, &[]);
    wait_for(&bench, "step.started", "sleep");
    let mut second = start(&bench, &[]);
    std::thread::sleep(Duration::from_millis(500));
    let sent = std::process::Command::new("kill").args(["-TERM", &second.id().to_string()]).status();
    assert!(sent.expect("kill starts").success());
    let clock = Instant::now();
    assert_eq!(second.wait().expect("it ends").code(), Some(130));
    assert!(clock.elapsed() < Duration::from_secs(10), "{:?}", clock.elapsed());
    first.kill().expect("it runs");
    first.wait().expect("it ends");
}
