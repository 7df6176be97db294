//! Runs that are killed at random moments, alone and several at once, end in the same results as one that was left in peace, and
//! nothing that was complete is made twice.
//!
//! The short form runs with the other tests. The full one: `cargo test --release --test it -- --ignored --nocapture crash::`,
//! with the number of kills of each of its three parts in `ORANDFLOW_KILLS`, 200 where it is not set.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::shared::names;
use crate::workbench::{Workbench, say};

/// Every sort of work, each just long enough for a kill to hit it: data brought in, shards, shards of two inputs, whole stages, seeds,
/// checkpoints, metrics, and a command.
const PIPELINE: &str = r#"
[pipeline]
name = "crash"
[stages.items]
kind = "debug.items"
folder = "items"
[stages.copy]
kind = "debug.copy"
suffix = "-one"
wait = 3
inputs = { a = "items" }
[stages.both]
kind = "debug.copy"
wait = 3
inputs = { a = "copy", b = "items" }
[stages.long]
kind = "debug.steps"
steps = 40
wait = 1
every = 5
inputs = { a = "both" }
[stages.other_long]
kind = "debug.steps"
steps = 60
wait = 1
every = 1
inputs = { a = "copy" }
[stages.seed]
kind = "debug.seed"
inputs = { a = "long" }
[stages.text]
kind = "debug.concat"
inputs = { a = "both", b = "seed", c = "other_long" }
[stages.command]
kind = "command"
program = ["sh", "-c", "sleep 0.03; echo made > \"$ORANDFLOW_OUTPUT/file.txt\""]
outputs = ["file.txt"]
[stages.score]
kind = "debug.metrics"
miou = 0.5
inputs = { a = "text" }
"#;

/// Trainings of networks, as small as they get; their checkpoints come every step.
#[cfg(feature = "nn")]
const TRAININGS: &str = r#"
[stages.images]
kind = "dataset.synthetic"
count = 12
size = 48
[stages.classifier]
kind = "classifier.train"
family = "resnet"
depth = [1, 1, 1, 1]
width = 8
crop = 32
scale = [40, 48]
epochs = 2
batch = 4
checkpoint = "1 steps"
inputs = { images = "images" }
"#;

fn pipeline() -> String {
    #[cfg(feature = "nn")]
    return format!("{PIPELINE}{TRAININGS}");
    #[cfg(not(feature = "nn"))]
    PIPELINE.to_owned()
}

fn bench() -> Workbench {
    let bench = Workbench::new().pipeline(&pipeline());
    for index in 0..200 {
        bench.write(&format!("items/i{index}.txt"), format!("{index}"));
    }
    bench
}

fn start(bench: &Workbench) -> Child {
    let mut command = bench.command(["run", "pipeline.toml", "--jobs", "2"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
}

/// Returns the digest of every stage's result.
fn outputs(object: &Value) -> BTreeMap<String, String> {
    let stages = object["stages"].as_array().expect("a list").iter();
    stages.map(|stage| (stage["name"].to_string(), stage["output"].to_string())).collect()
}

/// Returns every record with what tells one writing of it from another.
fn records(bench: &Workbench) -> BTreeSet<(String, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let folder = bench.path("cache/v1/ac");
    let mut found = BTreeSet::new();
    for prefix in names(&folder) {
        for name in names(&folder.join(&prefix)) {
            if let Ok(metadata) = std::fs::metadata(folder.join(&prefix).join(&name)) {
                found.insert((name, metadata.ino()));
            }
        }
    }
    found
}

/// Returns how often each action of each stage ended well, over all runs.
fn done(bench: &Workbench) -> BTreeMap<String, usize> {
    let mut done = BTreeMap::new();
    for run in names(&bench.path("cache/runs")) {
        let text = std::fs::read_to_string(bench.path("cache/runs").join(run).join("events.jsonl")).unwrap_or_default();
        // The last line of a run that was killed may be half.
        for event in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            if event["event"] == "action.done" {
                *done.entry(format!("{} {}", event["stage"], event["bucket"])).or_default() += 1;
            }
        }
    }
    done
}

/// Kills runs, `together` at once, until so many have been killed; then one is left in peace. A cache is begun anew whenever
/// a run gets to its end. Returns the number of caches that were filled.
fn crash(kills: usize, together: usize, seed: u64) -> usize {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let peace = bench();
    let clock = Instant::now();
    let (object, outcome) = peace.run_json(["--jobs", "2"]);
    let whole = clock.elapsed();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let expected = outputs(&object);

    let (mut killed, mut filled, mut started) = (0, 0, 0);
    while killed < kills {
        let bench = bench();
        let mut seen = records(&bench);
        loop {
            let mut running: Vec<Child> = (0..together).map(|_| start(&bench)).collect();
            started += together;
            let mut ended = false;
            for child in &mut running {
                // Short pauses mostly, so that a run takes many deaths to get to its end.
                let pause = whole.as_millis() as u64 / 3 / together as u64;
                std::thread::sleep(Duration::from_millis(random.next_u64() % pause.max(1)));
                if child.try_wait().expect("it can be asked").is_some() || killed >= kills {
                    ended = true;
                    continue;
                }
                child.kill().expect("it can be killed");
                killed += 1;
                // Not waited for: whoever takes over must see that a zombie is dead.
            }
            for child in &mut running {
                child.wait().expect("it ends");
            }
            let now = records(&bench);
            let twice: Vec<_> = seen.difference(&now).collect();
            assert!(twice.is_empty(), "written again: {twice:?}");
            seen = now;
            if ended {
                break;
            }
        }
        let (object, outcome) = bench.run_json([]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert_eq!(outputs(&object), expected);
        assert!(seen.is_subset(&records(&bench)), "what was complete stayed");
        let twice: Vec<_> = done(&bench).into_iter().filter(|(_, times)| *times > 1).collect();
        assert!(twice.is_empty(), "ended well more than once: {twice:?}");
        let verify = bench.run(["cache", "verify"]);
        assert_eq!(verify.code, Some(0), "{verify:?}");
        for folder in ["claims", "tmp", "checkpoints"] {
            let left = names(&bench.path("cache/v1").join(folder));
            assert!(left.is_empty(), "{folder}: {left:?}");
        }
        filled += 1;
    }
    say(format!("{together} at once: a run takes {whole:.2?}; {killed} of {started} were killed"));
    filled
}

#[test]
fn runs_that_are_killed_end_in_the_same_results() {
    crash(12, 1, 1);
}

#[test]
fn two_runs_at_once_that_are_killed_end_in_the_same_results() {
    crash(8, 2, 2);
}

/// The full form, with as many kills as are asked for.
fn many_crashes(together: usize, seed: u64) {
    let kills = std::env::var("ORANDFLOW_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(200);
    let clock = Instant::now();
    let filled = crash(kills, together, seed);
    say(format!("{kills} kills, {together} at once: {filled} caches filled in {:.0?}", clock.elapsed()));
}

#[test]
#[ignore = "takes minutes; the short form runs always"]
fn two_hundred_crashes_alone() {
    many_crashes(1, 11);
}

#[test]
#[ignore = "takes minutes; the short form runs always"]
fn two_hundred_crashes_two_at_once() {
    many_crashes(2, 12);
}

#[test]
#[ignore = "takes minutes; the short form runs always"]
fn two_hundred_crashes_four_at_once() {
    many_crashes(4, 14);
}
