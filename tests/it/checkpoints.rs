//! Long stages that are interrupted go on from their checkpoints and end in the same bytes.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::run::wait_for;
use crate::shared::names;
use crate::workbench::Workbench;

const PIPELINE: &str = "[pipeline]\nname = \"long\"\n[stages.long]\nkind = \"debug.steps\"\nsteps = 400\n";

fn bench() -> Workbench {
    Workbench::new().pipeline(PIPELINE)
}

fn start(bench: &Workbench, more: &[&str]) -> Child {
    let more = more.iter().copied();
    let mut command = bench.command(["run", "pipeline.toml", "--set", "stages.long.wait=10"].into_iter().chain(more));
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
}

fn signal(child: &Child, name: &str) {
    let sent = std::process::Command::new("kill").args([name, &child.id().to_string()]).status();
    assert!(sent.expect("kill starts").success());
}

/// Returns the numbers of the checkpoints that there are.
fn numbers(bench: &Workbench) -> Vec<u64> {
    let folder = bench.path("cache/v1/checkpoints");
    let keys = names(&folder);
    let files = keys.iter().flat_map(|key| names(&folder.join(key)));
    let mut numbers: Vec<u64> = files.map(|name| name.parse().expect("a number")).collect();
    numbers.sort_unstable();
    numbers
}

fn wait_for_checkpoint(bench: &Workbench) {
    let clock = Instant::now();
    while numbers(bench).is_empty() {
        assert!(clock.elapsed() < Duration::from_secs(30), "no checkpoint came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Returns the step that the stage last began with, and its result.
fn finish(bench: &Workbench, more: &[&str]) -> (u64, Value) {
    let (object, outcome) = bench.run_json(more.iter().copied());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let metrics = bench.events("step.metric");
    let first = metrics.iter().find(|event| event["name"] == "first_step").expect("it says where it began");
    (first["step"].as_u64().expect("a number"), object["stages"][0]["output"].clone())
}

#[test]
fn stopped_and_killed_runs_go_on_and_end_in_the_same_bytes() {
    let (began, whole) = finish(&bench(), &[]);
    assert_eq!(began, 0);
    for (name, code) in [("-INT", Some(130)), ("-TERM", Some(130)), ("-KILL", None)] {
        let bench = bench();
        let more = if name == "-KILL" { ["--set", "stages.long.every=3"] } else { ["--set", "stages.long.every=9999"] };
        let mut child = start(&bench, &more);
        wait_for(&bench, "step.started", "long");
        if name == "-KILL" {
            wait_for_checkpoint(&bench);
        } else {
            std::thread::sleep(Duration::from_millis(300));
        }
        signal(&child, name);
        assert_eq!(child.wait().expect("it ends").code(), code, "{name}");
        let kept = numbers(&bench);
        assert!((1..=2).contains(&kept.len()), "{kept:?}");
        let (began, resumed) = finish(&bench, &[]);
        assert_eq!(Some(&began), kept.last(), "{name}");
        assert!(began > 0);
        assert_eq!(resumed, whole, "{name}");
        assert!(names(&bench.path("cache/v1/checkpoints")).is_empty(), "they go with the result");
    }
}

#[test]
fn restart_begins_afresh() {
    let bench = bench();
    let mut child = start(&bench, &[]);
    wait_for_checkpoint(&bench);
    signal(&child, "-INT");
    child.wait().expect("it ends");
    let wrong = bench.run(["run", "pipeline.toml", "--restart", "lang"]);
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.stderr.contains("did you mean `long`?"), "{}", wrong.stderr);
    let (began, _) = finish(&bench, &["--restart", "long"]);
    assert_eq!(began, 0);
}

#[test]
fn a_signal_asks_for_a_checkpoint_and_the_run_goes_on() {
    let bench = bench();
    let mut child = start(&bench, &["--set", "stages.long.every=9999"]);
    wait_for(&bench, "step.started", "long");
    std::thread::sleep(Duration::from_millis(200));
    assert!(numbers(&bench).is_empty());
    signal(&child, "-USR1");
    wait_for_checkpoint(&bench);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn damaged_checkpoints_are_not_gone_on_from() {
    let (_, whole) = finish(&bench(), &[]);
    let bench = bench();
    let mut child = start(&bench, &["--set", "stages.long.every=1"]);
    while numbers(&bench).len() < 2 {
        std::thread::sleep(Duration::from_millis(5));
    }
    signal(&child, "-KILL");
    child.wait().expect("it ends");
    let folder = bench.path("cache/v1/checkpoints");
    let kept = numbers(&bench);
    for (number, damage) in kept.iter().zip([&b"short"[..], &[7; 96]]) {
        std::fs::write(folder.join(&names(&folder)[0]).join(number.to_string()), damage).expect("it can be written");
    }
    let (began, resumed) = finish(&bench, &[]);
    assert_eq!((began, resumed), (0, whole));
}
