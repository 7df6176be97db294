//! What lies in the cache, and what happens when it is damaged, shared or unwritable.

use std::path::PathBuf;

use crate::run::chain;
use crate::workbench::Workbench;

/// Returns all files below a folder of the cache, sorted.
fn files(bench: &Workbench, folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for prefix in std::fs::read_dir(bench.path(folder)).expect("the folder is there").filter_map(Result::ok) {
        found.extend(
            std::fs::read_dir(prefix.path()).into_iter().flatten().filter_map(Result::ok).map(|file| file.path()),
        );
    }
    found.sort();
    found
}

/// Returns the blobs that begin and go on like this.
fn blobs(bench: &Workbench, begin: &str, inside: &str) -> Vec<PathBuf> {
    let mut found = files(bench, "cache/v1/cas");
    found.retain(|path| {
        let text = String::from_utf8_lossy(&std::fs::read(path).expect("blobs can be read")).into_owned();
        text.starts_with(begin) && text.contains(inside)
    });
    found
}

fn flip(path: &std::path::Path) {
    let mut bytes = std::fs::read(path).expect("it is there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(path, bytes).expect("it can be written");
}

#[test]
fn a_flipped_bit_is_computed_again_and_said() {
    let bench = chain(100);
    bench.run_json([]);
    let (fresh, _) = chain(100).run_json(["--set", "stages.text.text=other"]);
    // A shard of `copy` that `both` reads when it has to run again.
    let mut shards = blobs(&bench, "{\"i", "-mark\"");
    shards.retain(|path| !String::from_utf8_lossy(&std::fs::read(path).expect("it is there")).contains("schema"));
    assert!(!shards.is_empty());
    for shard in &shards {
        flip(shard);
    }
    let (object, outcome) = bench.run_json(["--set", "stages.text.text=other", "--set", "stages.both.note=1"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(
        outcome.stderr.contains(" was damaged in the cache and is removed; it is made again"),
        "{}",
        outcome.stderr
    );
    let status = |stage: usize| object["stages"][stage]["status"].as_str();
    assert_eq!((status(0), status(1), status(2), status(3)), (Some("cached"), Some("ran"), Some("ran"), Some("ran")));
    assert_eq!(object["stages"][3]["output"], fresh["stages"][3]["output"], "damage changes no result");
    assert_eq!(bench.run(["cache", "verify"]).code, Some(0));
}

#[test]
fn damage_in_many_places_is_mended_in_one_run() {
    // Sixteen shards, each of them damaged, and a stage that reads them one after the other.
    let bench = chain(500);
    bench.run_json([]);
    let (fresh, _) = chain(500).run_json(["--set", "stages.text.text=other"]);
    let mut shards = blobs(&bench, "{\"i", "-mark\"");
    shards.retain(|path| !String::from_utf8_lossy(&std::fs::read(path).expect("it is there")).contains("schema"));
    assert!(shards.len() >= 16, "{}", shards.len());
    shards.iter().for_each(|shard| flip(shard));
    let (object, outcome) = bench.run_json(["--set", "stages.text.text=other", "--set", "stages.both.note=1"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    for stage in 0..4 {
        assert_eq!(object["stages"][stage]["output"], fresh["stages"][stage]["output"], "damage changes no result");
    }
    assert_eq!(object["stages"][1]["status"], "ran", "{object}");
    let outcome = bench.run(["cache", "verify"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

#[test]
fn a_missing_blob_is_computed_again_and_the_plan_says_which() {
    let bench = chain(2);
    let (before, _) = bench.run_json([]);
    for path in blobs(&bench, "i0=", "") {
        std::fs::remove_file(path).expect("it can be removed");
    }
    let plan = bench.run(["plan", "pipeline.toml"]);
    assert!(plan.stdout.contains("result was lost from the cache (blob "), "{}", plan.stdout);
    let (after, outcome) = bench.run_json([]);
    assert_eq!(outcome.code, Some(0));
    assert_eq!(after["stages"][3]["status"], "ran");
    assert_eq!(after["stages"][4]["status"], "cached", "the same bytes came back");
    assert_eq!(before["stages"][3]["output"], after["stages"][3]["output"]);
}

#[test]
fn damaged_and_future_records_are_misses() {
    let bench = chain(2);
    bench.run_json([]);
    for path in files(&bench, "cache/v1/ac") {
        let bytes = std::fs::read(&path).expect("it is there");
        std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("it can be written");
    }
    let (object, outcome) = bench.run_json([]);
    assert_eq!(outcome.code, Some(0));
    assert!(outcome.stderr.contains(" is damaged ("), "{}", outcome.stderr);
    assert!(object["stages"].as_array().expect("a list").iter().all(|stage| stage["status"] == "ran"));
    for path in files(&bench, "cache/v1/ac") {
        let text = std::fs::read_to_string(&path).expect("it is there");
        std::fs::write(&path, text.replace("\"version\":2,", "\"version\":99,")).expect("it can be written");
    }
    let outcome = bench.run(["run", "pipeline.toml"]);
    assert!(outcome.stderr.contains(" has version 99, this program reads version 2"), "{}", outcome.stderr);
    assert!(outcome.stdout.contains("5 stages: 5 ran"), "{}", outcome.stdout);
    assert!(bench.statuses([]).iter().all(|status| status.ends_with(" cached")));
}

#[test]
fn results_of_a_later_version_are_left_to_it() {
    let bench = chain(2);
    bench.run_json([]);
    let count = || files(&bench, "cache/v1/cas").len();
    let before = count();
    for path in files(&bench, "cache/v1/ac") {
        let text = std::fs::read_to_string(&path).expect("it is there");
        let json = text.lines().next().expect("a line").replace("\"version\":2,", "\"version\":99,");
        let digest = orandflow::digest::Digest::of(json.as_bytes());
        std::fs::write(&path, format!("{json}\n{digest}\n")).expect("it can be written");
    }
    // Nobody here can say which blobs they need, so none may go.
    let gc = bench.run(["cache", "gc", "--max-size", "0"]);
    assert_eq!(gc.code, Some(1), "{gc:?}");
    assert!(
        gc.stderr.contains(" is of a later version of this program\nhelp: nobody here can say what it needs"),
        "{gc:?}"
    );
    let verify = bench.run(["cache", "verify", "--repair"]);
    assert_eq!(verify.code, Some(0), "{verify:?}");
    assert_eq!(verify.stdout.matches(" is of a later version of this program\n").count(), 8, "{verify:?}");
    assert_eq!((count(), files(&bench, "cache/v1/ac").len()), (before, 8));
    assert!(bench.run(["run", "pipeline.toml"]).stdout.contains("5 stages: 5 ran"));
}

#[test]
fn an_unwritable_cache_is_refused_before_anything_runs() {
    let bench = chain(1);
    bench.write("file", "not a folder");
    for verb in ["run", "plan"] {
        let outcome = bench.run([verb, "pipeline.toml", "--cache", "file"]);
        assert_eq!(outcome.code, Some(2));
        insta::allow_duplicates! {
            insta::assert_snapshot!(outcome.stderr, @r"
            error: the cache `file` cannot be written: Not a directory (os error 20)
            help: give a folder that can be written with `--cache DIR` or ORANDFLOW_CACHE
            ");
        }
    }
}

#[test]
fn the_cache_is_where_the_environment_says() {
    let bench = chain(1);
    let output = bench.command(["run", "pipeline.toml"]).env("ORANDFLOW_CACHE", "elsewhere").output();
    assert!(output.expect("the program starts").status.success());
    assert!(bench.path("elsewhere/CACHEDIR.TAG").exists());
    assert!(!bench.path("cache").exists());
}

#[test]
fn two_processes_share_a_cache() {
    let bench = chain(150);
    let start = || {
        let mut command = bench.command(["run", "pipeline.toml", "--set", "stages.copy.wait=20"]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        command.spawn().expect("the program starts")
    };
    let mut running = [start(), start(), start()];
    for child in &mut running {
        assert_eq!(child.wait().expect("it ends").code(), Some(0));
    }
    assert!(bench.statuses([]).iter().all(|status| status.ends_with(" cached")));
    assert_eq!(bench.run(["cache", "verify"]).code, Some(0));
    let left: Vec<_> = std::fs::read_dir(bench.path("cache/v1/tmp")).expect("it is there").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_a_killed_process_left_is_removed() {
    let bench = chain(1);
    bench.run_json([]);
    bench.write("sleep.toml", "[pipeline]\nname = \"sleep\"\n[stages.sleep]\nkind = \"debug.sleep\"\nseconds = 60\n");
    let mut child = bench.command(["run", "sleep.toml"]);
    let mut child = child.stderr(std::process::Stdio::null()).spawn().expect("the program starts");
    crate::run::wait_for(&bench, "step.started", "sleep");
    let left = || crate::shared::names(&bench.path("cache/v1/tmp"));
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    assert_eq!(left().len(), 1);
    bench.write("cache/v1/tmp/elsewhere.0123456789ab.1.1/action-y/half", "of another host, and young");
    assert_eq!(bench.run(["cache", "du"]).code, Some(0));
    assert_eq!(left(), ["elsewhere.0123456789ab.1.1"]);
}

#[test]
fn verify_finds_damage_and_repairs_it() {
    let bench = chain(2);
    bench.run_json([]);
    assert_eq!(bench.run(["cache", "verify"]).code, Some(0));
    flip(&blobs(&bench, "i0=", "")[0]);
    let verify = bench.run(["cache", "verify"]);
    assert_eq!(verify.code, Some(1));
    assert!(verify.stdout.contains("of stage `text` (debug.concat) lacks blob "), "{}", verify.stdout);
    assert_eq!(bench.run(["cache", "verify"]).code, Some(1), "looking removes nothing");
    assert_eq!(bench.run(["cache", "verify", "--repair"]).code, Some(0));
    assert_eq!(bench.run(["cache", "verify"]).code, Some(0));
    assert_eq!(bench.statuses([])[3], "text ran");
}

#[test]
fn du_counts_by_kind() {
    let bench = chain(2);
    bench.run_json([]);
    let du = bench.run(["cache", "du"]);
    assert_eq!(du.code, Some(0));
    let kinds: Vec<&str> = du.stdout.lines().filter_map(|line| line.split("  ").next()).collect();
    assert_eq!(kinds, ["kind", "debug.concat", "debug.copy", "debug.items", "debug.metrics", "in all"]);
}

#[test]
fn show_tells_what_is_known_of_a_stage() {
    let bench = chain(2);
    let before = bench.run(["show", "pipeline.toml", "both"]);
    assert!(before.stdout.contains("state       unknown (waits for copy)"), "{}", before.stdout);
    bench.run_json([]);
    let shown = bench.run(["show", "pipeline.toml", "copy"]);
    assert_eq!(shown.code, Some(0));
    for part in ["kind        debug.copy", "state       cached", "made        20", "suffix     \"-mark\"", "shard/0000"]
    {
        assert!(shown.stdout.contains(part), "{part} in {}", shown.stdout);
    }
    assert!(bench.run(["show", "pipeline.toml", "score"]).stdout.contains("45.7"));
    assert_eq!(bench.run(["show", "pipeline.toml", "none"]).code, Some(2));
}
