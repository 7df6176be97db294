//! What goes when the cache has to be smaller, and what stays.

use std::process::Stdio;
use std::time::{Duration, SystemTime};

use crate::run::{CHAIN, chain, wait_for};
use crate::shared::names;
use crate::workbench::Workbench;

/// Makes every record and blob so many hours older.
fn age(bench: &Workbench, hours: u64) {
    for folder in ["cache/v1/ac", "cache/v1/cas"] {
        for prefix in names(&bench.path(folder)) {
            for name in names(&bench.path(folder).join(&prefix)) {
                let file = std::fs::File::open(bench.path(folder).join(&prefix).join(name)).expect("it is there");
                let time = file.metadata().and_then(|metadata| metadata.modified()).expect("it has a time");
                file.set_modified(time - Duration::from_secs(hours * 3600)).expect("it can be set");
            }
        }
    }
}

fn gc(bench: &Workbench, more: &[&str]) -> String {
    let outcome = bench.run(["cache", "gc"].into_iter().chain(more.iter().copied()));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    outcome.stdout
}

fn all_cached(bench: &Workbench, more: &[&str]) -> bool {
    bench.statuses(more.iter().copied()).iter().all(|status| status.ends_with(" cached"))
}

/// How many stages would run now.
fn to_run(bench: &Workbench, more: &[&str]) -> usize {
    let plan = bench.run(["plan", "pipeline.toml", "--json"].into_iter().chain(more.iter().copied()));
    let plan: serde_json::Value = serde_json::from_str(&plan.stdout).expect("plan prints JSON");
    plan["stages"].as_array().expect("a list").iter().filter(|stage| stage["status"] != "cached").count()
}

#[test]
fn what_was_not_used_for_long_goes_and_what_was_used_stays() {
    let bench = chain(100);
    bench.run_json(["--set", "stages.copy.suffix=old"]);
    age(&bench, 50);
    bench.run_json([]);
    let dry = gc(&bench, &["--max-age", "40h", "--dry-run"]);
    assert!(dry.starts_with("would remove "), "{dry}");
    assert!(!dry.contains(" 0 results"), "{dry}");
    assert_eq!(to_run(&bench, &["--set", "stages.copy.suffix=old"]), 0, "a dry run removes nothing");
    let said = gc(&bench, &["--max-age", "40h"]);
    assert_eq!(said, dry.replace("would remove", "removed"));
    assert_eq!(to_run(&bench, &[]), 0);
    assert!(to_run(&bench, &["--set", "stages.copy.suffix=old"]) > 0);
    assert_eq!(bench.run(["cache", "verify"]).code, Some(0));
    // Shards of what stays have stayed as well: an added image touches one of each stage.
    bench.write("items/extra.txt", "new");
    bench.run_json([]);
    assert_eq!(bench.events("action.done").len(), 3 + 2);
}

#[test]
fn a_size_takes_the_oldest_first() {
    let bench = chain(20);
    for (hours, suffix) in [(30, "one"), (20, "two"), (10, "three")] {
        bench.run_json(["--set", &format!("stages.copy.suffix={suffix}")]);
        age(&bench, hours);
    }
    // What is there now, less a little, so that something has to go.
    let all = gc(&bench, &["--max-size", "1TB", "--dry-run"]);
    assert!(all.starts_with("would remove 0 results"), "{all}");
    let set = |suffix: &str| format!("stages.copy.suffix={suffix}");
    let mut most = 40_000_i64;
    while to_run(&bench, &["--set", &set("one")]) == 0 && most > 0 {
        most -= 2000;
        gc(&bench, &["--max-size", &most.to_string()]);
    }
    assert!(to_run(&bench, &["--set", &set("one")]) > 0);
    assert_eq!(to_run(&bench, &["--set", &set("three")]), 0);
    assert_eq!(bench.run(["cache", "verify"]).code, Some(0));
    gc(&bench, &["--max-size", "0"]);
    assert!(names(&bench.path("cache/v1/ac")).iter().all(|it| names(&bench.path("cache/v1/ac").join(it)).is_empty()));
    bench.run_json([]);
    assert_eq!(to_run(&bench, &[]), 0, "the run made everything again");
}

#[test]
fn pinned_results_and_kept_pipelines_stay() {
    let bench = chain(20);
    bench.run_json([]);
    let missing = bench.run(["cache", "pin", "pipeline.toml", "copy", "--set", "stages.copy.note=7"]);
    assert_eq!(missing.code, Some(1));
    assert!(missing.stderr.contains("stage `copy` has no result yet"), "{}", missing.stderr);
    let pinned = bench.run(["cache", "pin", "pipeline.toml", "copy"]);
    assert_eq!(pinned.code, Some(0), "{pinned:?}");
    assert!(bench.run(["cache", "pin"]).stdout.ends_with("  copy of chain\n"));
    gc(&bench, &["--max-size", "0"]);
    let plan = bench.run(["plan", "pipeline.toml"]).stdout;
    assert!(plan.contains("items  debug.items    to run"), "{plan}");
    assert_eq!(bench.statuses([])[1], "copy cached");
    assert_eq!(bench.run(["cache", "unpin", "pipeline.toml", "copy"]).code, Some(0));
    assert_eq!(bench.run(["cache", "unpin", "pipeline.toml", "copy"]).code, Some(1));

    let wrong = bench.run(["cache", "gc", "--keep", "chian"]);
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.stderr.contains("did you mean `chain`?"), "{}", wrong.stderr);
    bench.write("pipeline.toml", CHAIN.replace("name = \"chain\"", "name = \"other\"").replace("-mark", "-else"));
    bench.run_json([]);
    let said = gc(&bench, &["--max-size", "0", "--keep", "chain"]);
    assert!(said.contains("more than 0 B is pinned, asked for or in use"), "{said}");
    bench.write("pipeline.toml", CHAIN);
    assert_eq!(to_run(&bench, &[]), 0);
}

#[test]
fn what_a_run_that_is_under_way_needs_stays() {
    let bench = chain(20);
    bench.run_json([]);
    bench.write("pipeline.toml", CHAIN.to_owned() + "[stages.sleep]\nkind = \"debug.sleep\"\nseconds = 60\n");
    let mut command = bench.command(["run", "pipeline.toml"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
    wait_for(&bench, "step.started", "sleep");
    gc(&bench, &["--max-size", "0", "--max-age", "0s"]);
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    bench.write("pipeline.toml", CHAIN);
    assert_eq!(to_run(&bench, &[]), 0, "the run that was under way used them");
    gc(&bench, &["--max-size", "0"]);
    assert!(to_run(&bench, &[]) > 0, "nobody uses them any more");
}

/// Collects what was not used for an hour, again and again, until all of these have ended well.
fn collect_until_the_end(bench: &Workbench, mut running: Vec<std::process::Child>) {
    while running.iter_mut().any(|child| child.try_wait().expect("it can be asked").is_none()) {
        gc(bench, &["--max-age", "1h"]);
    }
    for mut child in running {
        assert_eq!(child.wait().expect("it ends").code(), Some(0));
    }
}

fn start(bench: &Workbench, arguments: &[&str]) -> std::process::Child {
    let mut command = bench.command(arguments.iter().copied());
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
}

#[test]
fn shards_that_a_run_under_way_counts_on_stay() {
    let bench = chain(200);
    bench.run_json([]);
    age(&bench, 50);
    bench.write("items/i7.txt", "edited");
    // One shard of three stages is made again. Those of `copy` that are good are known by now, those of `both` are not yet.
    let before = crate::shared::count_events(&bench, "step.started");
    let child = start(&bench, &["run", "pipeline.toml", "--set", "stages.copy.wait=2000"]);
    while crate::shared::count_events(&bench, "step.started") < before + 2 {
        std::thread::sleep(Duration::from_millis(10));
    }
    collect_until_the_end(&bench, vec![child]);
    assert_eq!(bench.events("action.done").len(), 3 + 2, "nothing was made that had been there");
    assert_eq!(bench.run(["cache", "verify"]).code, Some(0));
    assert_eq!(to_run(&bench, &[]), 0);
}

#[test]
fn collections_beside_two_runs_cost_them_nothing() {
    let bench = chain(150);
    let run = ["run", "pipeline.toml", "--set", "stages.copy.wait=50", "--set", "stages.both.wait=50"];
    collect_until_the_end(&bench, vec![start(&bench, &run), start(&bench, &run)]);
    // Four shards of three stages, and two whole ones, each made once by one of the two.
    assert_eq!(crate::shared::count_events(&bench, "action.done"), 3 * 4 + 2);
    assert_eq!(bench.run(["cache", "verify"]).code, Some(0));
    assert_eq!(to_run(&bench, &[]), 0);
}

#[test]
fn after_a_clock_was_set_back_nothing_is_collected_beside_a_run() {
    let bench = chain(20);
    bench.run_json([]);
    age(&bench, 50);
    bench.write("sleep.toml", "[pipeline]\nname = \"sleep\"\n[stages.sleep]\nkind = \"debug.sleep\"\nseconds = 60\n");
    let mut child = start(&bench, &["run", "sleep.toml"]);
    wait_for(&bench, "step.started", "sleep");
    for owner in names(&bench.path("cache/v1/tmp")) {
        let file = std::fs::File::options().write(true).open(bench.path("cache/v1/tmp").join(owner).join("run"));
        let later = SystemTime::now() + Duration::from_secs(24 * 3600);
        file.and_then(|file| file.set_modified(later)).expect("a run says since when it runs");
    }
    gc(&bench, &["--max-size", "0"]);
    assert_eq!(to_run(&bench, &[]), 0, "nobody can say what is older than the run");
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    gc(&bench, &["--max-size", "0"]);
    assert!(to_run(&bench, &[]) > 0);
}

#[test]
fn a_clock_that_jumps_costs_nothing() {
    let bench = chain(10);
    bench.run_json([]);
    // As if everything had been made by a machine whose clock is years ahead, and again years behind.
    for time in [SystemTime::now() + Duration::from_secs(1 << 27), SystemTime::UNIX_EPOCH + Duration::from_secs(1)] {
        for folder in ["cache/v1/ac", "cache/v1/cas"] {
            for prefix in names(&bench.path(folder)) {
                for name in names(&bench.path(folder).join(&prefix)) {
                    let file = std::fs::File::open(bench.path(folder).join(&prefix).join(name)).expect("it is there");
                    file.set_modified(time).expect("it can be set");
                }
            }
        }
        assert!(all_cached(&bench, &[]));
        assert_eq!(bench.run(["cache", "verify"]).code, Some(0));
    }
    gc(&bench, &["--max-age", "1h"]);
    assert_eq!(to_run(&bench, &[]), 0, "the run has used them just now");
}

#[test]
fn du_counts_by_stage_and_pipeline() {
    let bench = chain(2);
    bench.run_json([]);
    let du = bench.run(["cache", "du", "--by", "stage"]).stdout;
    assert!(du.starts_with("pipeline  stage  kind           results  blobs"), "{du}");
    assert!(du.contains("chain     both   debug.copy"), "{du}");
    let du = bench.run(["cache", "du", "--by", "pipeline"]).stdout;
    assert_eq!(du.lines().filter(|line| line.starts_with("chain")).count(), 1, "{du}");
    for (wrong, says) in [("--max-size=12parsecs", "is no size"), ("--max-age=7", "is no length of time")] {
        let outcome = bench.run(["cache", "gc", wrong]);
        assert_eq!(outcome.code, Some(2));
        assert!(outcome.stderr.contains(says), "{}", outcome.stderr);
    }
}
