//! What `run` does, says and returns.

use std::time::{Duration, Instant};

use crate::workbench::Workbench;

/// Items, two per-image stages, two that read everything.
pub(crate) const CHAIN: &str = r#"
[pipeline]
name = "chain"

[stages.items]
kind = "debug.items"
folder = "items"

[stages.copy]
kind = "debug.copy"
suffix = "-mark"
inputs = { a = "items" }

[stages.both]
kind = "debug.copy"
inputs = { a = "copy", b = "items" }

[stages.text]
kind = "debug.concat"
inputs = { a = "both" }

[stages.score]
kind = "debug.metrics"
miou = 0.4567
precision = 0.5
recall = 0.615
inputs = { a = "text" }
"#;

/// Makes a workbench with the chain and so many items.
pub(crate) fn chain(items: usize) -> Workbench {
    let bench = Workbench::new().pipeline(CHAIN);
    for index in 0..items {
        bench.write(&format!("items/i{index}.txt"), format!("{index}"));
    }
    bench
}

/// Replaces every number of seconds by `[TIME]`.
pub(crate) fn without_times(text: &str) -> String {
    let time = |line: &str, word: &str| match line.split_once(word) {
        Some((before, time)) if time.ends_with(" s") => format!("{before}{word}[TIME]"),
        _ => line.to_owned(),
    };
    text.lines().map(|line| time(&time(line, " in "), " after ") + "\n").collect()
}

#[test]
fn a_first_run_runs_everything_and_a_second_one_says_that_it_does_nothing() {
    let bench = chain(3);
    let first = bench.run(["run", "pipeline.toml"]);
    assert_eq!(first.code, Some(0), "{first:?}");
    insta::assert_snapshot!(without_times(&first.stdout), @r"
    stage  mIoU %  precision %  recall %  scored on
    score    45.7         50.0      61.5  10 images

    5 stages: 5 ran in [TIME]
    ");
    insta::assert_snapshot!(without_times(&first.stderr), @r"
    items: runs (never ran here)
    items: done in [TIME]
    copy: runs (never ran here)
    copy: done in [TIME]
    both: runs (never ran here)
    both: done in [TIME]
    text: runs (never ran here)
    text: done in [TIME]
    score: runs (never ran here)
    score: done in [TIME]
    ");
    let second = bench.run(["run", "pipeline.toml"]);
    assert_eq!((second.code, second.stderr.as_str()), (Some(0), ""));
    assert!(second.stdout.contains("5 stages: 5 cached in "), "{}", second.stdout);
    assert_eq!(bench.events("step.cached").len(), 5);
    assert!(bench.events("step.started").is_empty());
}

#[test]
fn json_has_every_stage_and_the_metrics() {
    let bench = chain(2);
    let (object, outcome) = bench.run_json([]);
    assert_eq!(outcome.code, Some(0));
    let names: Vec<&str> =
        object["stages"].as_array().expect("a list").iter().filter_map(|stage| stage["name"].as_str()).collect();
    assert_eq!(names, ["items", "copy", "both", "text", "score"]);
    for stage in object["stages"].as_array().expect("a list") {
        assert_eq!(stage["status"], "ran");
        assert_eq!(stage["reason"], "never ran here");
        assert!(stage["seconds"].as_f64().is_some_and(|seconds| seconds >= 0.0));
        assert_eq!(stage["key"].as_str().map(str::len), Some(64));
        assert!(stage["kind"].as_str().is_some_and(|kind| kind.starts_with("debug.")));
    }
    assert_eq!(object["metrics"]["score"]["miou"], 0.4567);
    assert_eq!(object["metrics"].as_object().map(|metrics| metrics.len()), Some(1));

    let plan = bench.run(["plan", "pipeline.toml", "--json"]);
    let plan: serde_json::Value = serde_json::from_str(&plan.stdout).expect("plan prints JSON");
    assert!(plan["stages"].as_array().expect("a list").iter().all(|stage| stage["status"] == "cached"));
    assert_eq!(plan["stages"][1]["key"], object["stages"][1]["key"]);
    assert_eq!(plan["metrics"]["score"]["recall"], 0.615);
}

#[test]
fn comments_names_and_order_rerun_nothing() {
    let bench = chain(2);
    bench.run_json([]);
    let renamed = CHAIN.replace("copy]", "kopie]").replace("\"copy\"", "\"kopie\"");
    bench.write("pipeline.toml", renamed.replace("[stages.text]", "# a comment\n[stages.text]"));
    assert_eq!(bench.statuses([]), ["items cached", "kopie cached", "both cached", "text cached", "score cached"]);
    let reordered = CHAIN
        .replace("kind = \"debug.copy\"\nsuffix = \"-mark\"", "suffix = \"-mark\"\nnote = 0\nkind = \"debug.copy\"")
        .replace("name = \"chain\"", "name = \"other\"");
    bench.write("pipeline.toml", reordered);
    assert!(bench.statuses([]).iter().all(|status| status.ends_with(" cached")));
    // What is not part of the key.
    assert!(bench.statuses(["--set", "stages.copy.wait=1"]).iter().all(|status| status.ends_with(" cached")));
    assert!(bench.statuses(["--jobs", "7", "--device", "other"]).iter().all(|status| status.ends_with(" cached")));
}

#[test]
fn a_changed_parameter_reruns_its_stage_and_those_below() {
    let bench = chain(2);
    bench.run_json([]);
    let changed = bench.statuses(["--set", "stages.both.suffix=!"]);
    assert_eq!(changed, ["items cached", "copy cached", "both ran", "text ran", "score ran"]);
    assert!(bench.statuses([]).iter().all(|status| status.ends_with(" cached")), "the old value is still there");
}

#[test]
fn equal_bytes_stop_the_wave() {
    let bench = chain(2);
    bench.run_json([]);
    let changed = bench.statuses(["--set", "stages.copy.note=1"]);
    assert_eq!(changed, ["items cached", "copy ran", "both cached", "text cached", "score cached"]);
}

#[test]
fn an_added_item_touches_one_shard() {
    let bench = chain(200);
    bench.run_json([]);
    assert_eq!(bench.events("action.done").len(), 3 * 8 + 2);
    bench.write("items/extra.txt", "new");
    let (object, _) = bench.run_json([]);
    assert_eq!(object["stages"][0]["reason"], "1 of 8 shards: 1 file added (extra.txt)");
    assert_eq!(object["stages"][1]["reason"], "1 of 8 shards: input a changed (stage items)");
    assert_eq!(bench.events("action.done").len(), 3 + 2);
}

#[test]
fn the_seed_changes_seeded_stages_only() {
    let bench = Workbench::new().pipeline(
        r#"
        [pipeline]
        name = "seeds"
        [stages.one]
        kind = "debug.seed"
        [stages.two]
        kind = "debug.seed"
        [stages.three]
        kind = "debug.seed"
        note = 1
        [stages.text]
        kind = "debug.concat"
        "#,
    );
    let (object, _) = bench.run_json([]);
    let output =
        |object: &serde_json::Value, stage: usize| object["stages"][stage]["output"].as_str().map(str::to_owned);
    assert_eq!(output(&object, 0), output(&object, 1), "a name is no content");
    assert_eq!((&object["stages"][0]["status"], &object["stages"][1]["status"]), (&"ran".into(), &"cached".into()));
    assert_ne!(output(&object, 0), output(&object, 2));
    let (other, _) = bench.run_json(["--set", "pipeline.seed=1"]);
    assert_eq!(other["stages"][0]["reason"], "seed 0 -> 1");
    assert_ne!(output(&object, 0), output(&other, 0));
    assert_eq!(other["stages"][3]["status"], "cached");
}

const FAILURES: &str = r#"
[pipeline]
name = "failures"
[stages.fail]
kind = "debug.fail"
message = "the disk is made of cheese"
[stages.panic]
kind = "debug.panic"
message = "a broken promise"
[stages.behind]
kind = "debug.concat"
inputs = { a = "fail" }
[stages.far_behind]
kind = "debug.concat"
inputs = { a = "behind", b = "fine" }
[stages.fine]
kind = "debug.concat"
text = "fine"
[stages.below]
kind = "debug.concat"
inputs = { a = "fine" }
"#;

#[test]
fn a_failing_or_panicking_stage_fails_alone() {
    let bench = Workbench::new().pipeline(FAILURES);
    let outcome = bench.run(["run", "pipeline.toml", "--jobs", "1"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stdout.contains("6 stages: 2 ran, 2 failed, 2 skipped"), "{}", outcome.stdout);
    let failed =
        "error: stage `fail` failed after [TIME]\n  cause: the disk is made of cheese\n  help: take the stage out\n";
    assert!(without_times(&outcome.stderr).contains(failed), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("  cause: it panicked at src/stages/debug.rs:"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains(": a broken promise\n"), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("thread '"), "a panic prints nothing by itself: {}", outcome.stderr);
    assert!(outcome.stderr.contains("behind: skipped (waits for fail)"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("far_behind: skipped (waits for behind)"), "{}", outcome.stderr);
    // A failure is not remembered as a result.
    let again = bench.statuses([]);
    let expected =
        ["fail failed", "panic failed", "behind skipped", "fine cached", "far_behind skipped", "below cached"];
    let mut again_sorted = again;
    again_sorted.sort();
    let mut expected_sorted = expected.map(str::to_owned).to_vec();
    expected_sorted.sort();
    assert_eq!(again_sorted, expected_sorted);
}

#[test]
fn fail_fast_starts_nothing_more() {
    let bench = Workbench::new().pipeline(
        r#"
        [pipeline]
        name = "fast"
        [stages.fail]
        kind = "debug.fail"
        [stages.later]
        kind = "debug.concat"
        "#,
    );
    let (object, outcome) = bench.run_json(["--fail-fast", "--jobs", "1"]);
    assert_eq!(outcome.code, Some(1));
    assert_eq!(object["stages"][1]["status"], "skipped");
    assert_eq!(object["stages"][1]["reason"], "stopped by --fail-fast");
    assert_eq!(object["interrupted"], false);
    let (object, _) = bench.run_json(["--keep-going", "--jobs", "1"]);
    assert_eq!(object["stages"][1]["status"], "ran");
}

#[test]
fn only_runs_a_stage_and_what_it_needs() {
    let bench = chain(2);
    assert_eq!(bench.statuses(["--only", "both"]), ["items ran", "copy ran", "both ran"]);
    let wrong = bench.run(["run", "pipeline.toml", "--only", "bouth"]);
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.stderr.contains("there is no stage `bouth`"), "{}", wrong.stderr);
    assert!(wrong.stderr.contains("did you mean `both`?"), "{}", wrong.stderr);
}

#[test]
fn independent_stages_run_side_by_side() {
    let mut pipeline = "[pipeline]\nname = \"wide\"\n".to_owned();
    for index in 0..4 {
        pipeline += &format!("[stages.s{index}]\nkind = \"debug.sleep\"\nseconds = 0.{}\n", 4 + index);
    }
    let bench = Workbench::new().pipeline(&pipeline);
    let clock = Instant::now();
    assert_eq!(bench.run(["run", "pipeline.toml", "--jobs", "4"]).code, Some(0));
    // One after the other they would take 2.2 s.
    assert!(clock.elapsed() < Duration::from_millis(1900), "{:?}", clock.elapsed());
}

#[test]
fn interrupting_ends_with_130_and_keeps_what_was_done() {
    let bench = Workbench::new().pipeline(
        r#"
        [pipeline]
        name = "long"
        [stages.first]
        kind = "debug.concat"
        [stages.long]
        kind = "debug.sleep"
        seconds = 60
        inputs = { a = "first" }
        [stages.last]
        kind = "debug.concat"
        inputs = { a = "long" }
        "#,
    );
    let mut child = bench.command(["run", "pipeline.toml"]).spawn().expect("the program starts");
    wait_for(&bench, "step.started", "long");
    let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.expect("kill starts").success());
    let clock = Instant::now();
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    assert!(clock.elapsed() < Duration::from_secs(10), "the stage was asked to stop");
    let plan = bench.run(["plan", "pipeline.toml"]);
    assert!(plan.stdout.contains("3 stages: 1 to run, 1 unknown, 1 cached"), "{}", plan.stdout);
}

/// Waits until the newest run has said this of the stage.
pub(crate) fn wait_for(bench: &Workbench, event: &str, stage: &str) {
    let clock = Instant::now();
    loop {
        let begun = std::fs::read_dir(bench.path("cache/runs")).is_ok_and(|mut runs| runs.next().is_some());
        let text = if begun { newest_events(bench) } else { String::new() };
        if text.lines().any(|line| line.contains(event) && line.contains(&format!("\"stage\":\"{stage}\""))) {
            return;
        }
        assert!(clock.elapsed() < Duration::from_secs(30), "`{event}` of `{stage}` never came: {text}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn newest_events(bench: &Workbench) -> String {
    let runs = std::fs::read_dir(bench.path("cache/runs")).expect("there are runs").filter_map(Result::ok);
    // By their time, as the names of runs of the same second say nothing of their order.
    let events = runs.map(|run| run.path().join("events.jsonl"));
    let newest = events.max_by_key(|events| std::fs::metadata(events).and_then(|metadata| metadata.modified()).ok());
    newest.and_then(|events| std::fs::read_to_string(events).ok()).unwrap_or_default()
}

#[test]
fn nothing_to_do_over_two_thousand_files_takes_no_time() {
    let bench = chain(2000);
    assert_eq!(bench.run(["run", "pipeline.toml"]).code, Some(0));
    let best = (0..5).map(|_| {
        let clock = Instant::now();
        let outcome = bench.run(["run", "pipeline.toml"]);
        assert!(outcome.stdout.contains("5 stages: 5 cached"), "{outcome:?}");
        clock.elapsed()
    });
    // The best of five, as other tests run at the same time.
    let best = best.min().expect("five runs");
    assert!(best < Duration::from_millis(200), "{best:?}");
}
