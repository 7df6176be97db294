//! Whatever order of edits, runs, kills, damage and collections: a result that is read from the cache equals a fresh one.
//!
//! The short form runs with the other tests; the long one as in `crash.rs`, with `ORANDFLOW_ORDERS` sequences, 100 where it is
//! not set.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::run::CHAIN;
use crate::shared::names;
use crate::workbench::{Workbench, say};

fn below(random: &mut ChaCha8Rng, most: usize) -> usize {
    (random.next_u64() % most.max(1) as u64) as usize
}

fn outputs(object: &Value) -> BTreeMap<String, String> {
    let stages = object["stages"].as_array().expect("a list").iter();
    stages.map(|stage| (stage["name"].to_string(), stage["output"].to_string())).collect()
}

/// What the world looks like: what a fresh computation has to go by.
struct World {
    items: BTreeMap<String, String>,
    suffix: usize,
    note: usize,
}

impl World {
    fn write(&self, bench: &Workbench) {
        let folder = bench.path("items");
        for name in names(&folder) {
            if !self.items.contains_key(&name) {
                std::fs::remove_file(folder.join(name)).expect("it is there");
            }
        }
        for (name, text) in &self.items {
            if std::fs::read_to_string(folder.join(name)).ok().as_ref() != Some(text) {
                bench.write(&format!("items/{name}"), text);
            }
        }
    }

    fn sets(&self) -> [String; 2] {
        [format!("stages.copy.suffix=s{}", self.suffix), format!("stages.both.note={}", self.note)]
    }
}

/// Returns some file below a folder of the cache.
fn some_file(bench: &Workbench, folder: &str, random: &mut ChaCha8Rng) -> Option<std::path::PathBuf> {
    let folder = bench.path(folder);
    let mut files = Vec::new();
    for prefix in names(&folder) {
        let folder = folder.join(prefix);
        files.extend(names(&folder).into_iter().map(|name| folder.join(name)));
    }
    files.sort();
    (!files.is_empty()).then(|| files.swap_remove(below(random, files.len())))
}

/// Returns the bytes of the stage that reads all others, as whoever exports it gets them. One that is damaged is refused, and
/// then made again.
fn text(bench: &Workbench, sets: &[String; 2]) -> Vec<u8> {
    let more = ["--set", &sets[0], "--set", &sets[1]];
    let export = || bench.run(["export", "pipeline.toml", "text", "--to", "out"].into_iter().chain(more));
    let first = export();
    if first.code != Some(0) {
        assert!(first.stderr.contains(" was damaged in the cache and is removed"), "{first:?}");
        assert_eq!(bench.run(["run", "pipeline.toml"].into_iter().chain(more)).code, Some(0));
        let second = export();
        assert_eq!(second.code, Some(0), "{second:?}");
    }
    bench.read("out/text.txt")
}

fn sequence(seed: u64, length: usize) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let random = &mut random;
    let mut world = World { items: BTreeMap::new(), suffix: 0, note: 0 };
    for index in 0..60 {
        world.items.insert(format!("i{index}.txt"), format!("{index}"));
    }
    let bench = Workbench::new().pipeline(CHAIN);
    let mut story = Vec::new();
    for _ in 0..length {
        world.write(&bench);
        let sets = world.sets();
        let run = ["run", "pipeline.toml", "--json", "--set", &sets[0], "--set", &sets[1]];
        let start = || {
            let mut command = bench.command(run.iter().copied());
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
        };
        let what = below(random, 11);
        story.push(what);
        match what {
            0 => drop(world.items.insert(format!("i{}.txt", below(random, 90)), format!("{}", random.next_u32()))),
            1 if world.items.len() > 2 => drop(world.items.pop_first()),
            2 => world.suffix = below(random, 3),
            3 => world.note = below(random, 3),
            4 => {
                let mut child = start();
                std::thread::sleep(Duration::from_millis(below(random, 60) as u64));
                child.kill().expect("it can be killed");
                child.wait().expect("it ends");
            }
            5 => {
                let most = format!("{}", below(random, 60_000));
                let mut command = bench.command(["cache", "gc", "--max-size", &most]);
                let mut child = command.stdout(Stdio::null()).spawn().expect("the program starts");
                if below(random, 2) == 0 {
                    std::thread::sleep(Duration::from_millis(below(random, 10) as u64));
                    child.kill().expect("it can be killed");
                    child.wait().expect("it ends");
                } else {
                    assert_eq!(child.wait().expect("it ends").code(), Some(0), "seed {seed}, {story:?}");
                }
            }
            6 => {
                let folder = ["cache/v1/cas", "cache/v1/ac"][below(random, 2)];
                // Many, as most are not read again.
                for _ in 0..30 {
                    let Some(path) = some_file(&bench, folder, random) else { break };
                    let mut bytes = std::fs::read(&path).expect("it is there");
                    match below(random, 3) {
                        0 => bytes.truncate(below(random, bytes.len())),
                        1 if !bytes.is_empty() => {
                            let at = below(random, bytes.len());
                            bytes[at] ^= 1 << below(random, 8);
                        }
                        _ => bytes.clear(),
                    }
                    std::fs::write(&path, bytes).expect("it can be written");
                }
            }
            7 => {
                // Two at once, and a collection beside them.
                let running = [start(), start()];
                let most = format!("{}", below(random, 60_000));
                assert_eq!(bench.run(["cache", "gc", "--max-size", &most]).code, Some(0));
                for mut child in running {
                    assert_eq!(child.wait().expect("it ends").code(), Some(0), "seed {seed}, {story:?}");
                }
            }
            _ => {
                let outcome = bench.run(run.iter().copied());
                assert_eq!(outcome.code, Some(0), "seed {seed}, {story:?}: {outcome:?}");
                let got: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
                let fresh = Workbench::new().pipeline(CHAIN);
                world.write(&fresh);
                let expected: Value = serde_json::from_str(&fresh.run(run.iter().copied()).stdout).expect("JSON");
                assert_eq!(outputs(&got), outputs(&expected), "seed {seed}, {story:?}");
                assert_eq!(text(&bench, &sets), text(&fresh, &sets), "seed {seed}, {story:?}");
            }
        }
    }
    assert_eq!(bench.run(["cache", "verify", "--repair"]).code, Some(0));
    world.write(&bench);
    let sets = world.sets();
    let run = ["run", "pipeline.toml", "--set", &sets[0], "--set", &sets[1]];
    assert_eq!(bench.run(run.iter().copied()).code, Some(0), "seed {seed}, {story:?}");
    assert_eq!(bench.run(["cache", "verify"]).code, Some(0), "seed {seed}, {story:?}");
}

#[test]
fn any_order_of_events_gives_fresh_results() {
    for seed in 0..3 {
        sequence(seed, 16);
    }
}

#[test]
#[ignore = "takes long; the short form runs always"]
fn many_orders_of_events_give_fresh_results() {
    let many = std::env::var("ORANDFLOW_ORDERS").ok().and_then(|many| many.parse().ok()).unwrap_or(100);
    let clock = std::time::Instant::now();
    for seed in 100..100 + many {
        sequence(seed, 40);
    }
    say(format!("{many} sequences of 40 events in {:.0?}", clock.elapsed()));
}
