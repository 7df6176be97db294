//! Why a stage runs, in the words of `plan`.

use orandflow::digest::Digest;
use orandflow::store::Store;
use serde_json::Value;

use crate::run::{CHAIN, chain};

#[test]
fn a_fresh_plan_says_what_is_known() {
    let bench = chain(2);
    let plan = bench.run(["plan", "pipeline.toml"]);
    assert_eq!(plan.code, Some(0), "{plan:?}");
    insta::assert_snapshot!(plan.stdout, @r"
    stage  kind           state    why
    items  debug.items    to run   never ran here
    copy   debug.copy     unknown  waits for items
    both   debug.copy     unknown  waits for copy
    text   debug.concat   unknown  waits for both
    score  debug.metrics  unknown  waits for text

    5 stages: 1 to run, 4 unknown
    ");
    assert!(!bench.path("cache/runs").exists(), "a plan runs nothing");
}

#[test]
fn a_changed_parameter_is_named_with_its_place() {
    let bench = chain(2);
    bench.run_json([]);
    bench.write("pipeline.toml", CHAIN.replace("-mark", "-other"));
    let plan = bench.run(["plan", "pipeline.toml"]);
    insta::assert_snapshot!(plan.stdout, @r#"
    stage  kind           state    why
    items  debug.items    cached
    copy   debug.copy     to run   suffix "-mark" -> "-other" (pipeline.toml:11)
    both   debug.copy     unknown  waits for copy
    text   debug.concat   unknown  waits for both
    score  debug.metrics  unknown  waits for text

    5 stages: 1 to run, 3 unknown, 1 cached
    "#);
    bench.write("pipeline.toml", CHAIN.replace("suffix = \"-mark\"\n", ""));
    let plan = bench.run(["plan", "pipeline.toml"]);
    assert!(plan.stdout.contains(r#"suffix "-mark" -> "" (default of pipeline.toml:9)"#), "{}", plan.stdout);
    bench.write("pipeline.toml", CHAIN);
    let plan = bench.run(["plan", "pipeline.toml", "--set", "stages.both.suffix=z"]);
    assert!(plan.stdout.contains(r#"to run   suffix "" -> "z" (--set)"#), "{}", plan.stdout);
    let plan = bench.run(["plan", "pipeline.toml", "--set", "stages.both.inputs.a=items"]);
    assert!(plan.stdout.contains("to run   input a changed (stage items)"), "{}", plan.stdout);
}

#[test]
fn a_new_version_of_a_kind_is_named() {
    let bench = chain(2);
    let (object, _) = bench.run_json([]);
    let key: Digest = object["stages"][1]["key"].as_str().expect("a key").parse().expect("a digest");
    // As if an earlier version of the program had been the last to run here.
    let store = Store::open(&bench.path("cache")).expect("a cache");
    let mut action: Value = serde_json::from_slice(&store.get(key).expect("its action is kept")).expect("JSON");
    assert_eq!(action["revision"], 1);
    action["revision"] = 0.into();
    let before = store.put(action.to_string().as_bytes(), false).expect("written");
    store.set_last("chain", "copy", before).expect("written");
    drop(store);
    let plan = bench.run(["plan", "pipeline.toml", "--set", "stages.copy.note=7"]);
    assert!(plan.stdout.contains("to run   revision 0 -> 1; note 0 -> 7 (--set)"), "{}", plan.stdout);
}

#[test]
fn changed_files_are_counted_and_named() {
    let bench = chain(5);
    bench.run_json([]);
    for index in 0..4 {
        bench.write(&format!("items/i{index}.txt"), "changed");
    }
    std::fs::remove_file(bench.path("items/i4.txt")).expect("it is there");
    bench.write("items/new.txt", "new");
    let plan = bench.run(["plan", "pipeline.toml"]);
    let expected = "4 files changed (i0.txt, i1.txt, i2.txt, …), 1 file added (new.txt), 1 file gone (i4)";
    assert!(plan.stdout.contains(expected), "{}", plan.stdout);
}

#[test]
fn going_back_needs_nothing() {
    let bench = chain(2);
    bench.run_json([]);
    bench.run_json(["--set", "stages.copy.suffix=x"]);
    assert!(bench.run(["plan", "pipeline.toml"]).stdout.contains("5 stages: 5 cached"));
}

#[test]
fn a_changed_and_a_removed_item_touch_their_shard_and_the_plan_counts() {
    let bench = chain(200);
    bench.run_json([]);
    for (what, why) in [("changed", "1 file changed (i7.txt)"), ("removed", "1 file gone (i7)")] {
        match what {
            "changed" => bench.write("items/i7.txt", "changed"),
            _ => std::fs::remove_file(bench.path("items/i7.txt")).expect("it is there"),
        }
        let plan = bench.run(["plan", "pipeline.toml"]).stdout;
        assert!(plan.contains(&format!("to run   1 of 8 shards: {why}")), "{plan}");
        bench.run_json([]);
        // A shard of each of the three stages that have shards, and the two whole ones.
        assert_eq!(bench.events("action.done").len(), 3 + 2, "{what}");
    }
}
