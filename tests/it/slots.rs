//! What actions get of a machine: a device for each that computes on one, cores, memory; and what a pipeline may ask for.

use serde_json::Value;

use crate::run::chain;
use crate::workbench::Workbench;

/// When an action began and ended, and its slots.
struct Span {
    stage: String,
    from: f64,
    to: f64,
    device: Option<String>,
    slots: Vec<u64>,
}

fn spans(bench: &Workbench) -> Vec<Span> {
    let all = bench.events("action.done").into_iter().map(|event| {
        let number = |name: &str| event[name].as_f64().expect("a number");
        Span {
            stage: event["stage"].as_str().expect("a name").to_owned(),
            from: number("at") - number("seconds"),
            to: number("at"),
            device: event["device"].as_str().map(str::to_owned),
            slots: event["slots"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect(),
        }
    });
    all.collect()
}

fn overlap(one: &Span, other: &Span) -> bool {
    // An event is written a moment after its action has ended.
    const MOMENT: f64 = 0.005;
    one.from + MOMENT < other.to && other.from + MOMENT < one.to
}

/// Five trainings, and work of the host in shards that takes about as long as two of them.
fn trainings() -> Workbench {
    let mut toml = "[pipeline]\nname = \"slots\"\n[stages.items]\nkind = \"debug.items\"\nfolder = \"items\"\n\
                    [stages.copy]\nkind = \"debug.copy\"\nwait = 100\ninputs = { a = \"items\" }\n"
        .to_owned();
    for index in 0..5 {
        toml.push_str(&format!("[stages.train{index}]\nkind = \"debug.steps\"\nsteps = {}\nwait = 8\n", 30 + index));
    }
    let bench = Workbench::new().pipeline(&toml);
    for index in 0..150 {
        bench.write(&format!("items/i{index}.txt"), format!("{index}"));
    }
    bench
}

#[test]
fn each_training_has_a_device_for_itself_and_host_work_goes_on_beside_them() {
    let bench = trainings();
    let (object, outcome) = bench.run_json(["--devices", "fake:0,fake:1", "--jobs", "1"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let spans = spans(&bench);
    let (trained, copied): (Vec<&Span>, Vec<&Span>) = spans.iter().partition(|span| span.stage.starts_with("train"));
    assert_eq!((trained.len(), copied.len()), (5, 8));
    for (at, one) in trained.iter().enumerate() {
        assert_eq!(one.slots.len(), 1);
        assert_eq!(one.device.as_deref(), Some(format!("fake:{}", one.slots[0]).as_str()));
        for other in &trained[at + 1..] {
            assert!(!overlap(one, other) || one.slots != other.slots, "{} and {}", one.stage, other.stage);
        }
    }
    for slot in [0, 1] {
        assert!(trained.iter().filter(|span| span.slots == [slot]).count() >= 2, "both are used, and used again");
    }
    assert!(trained.iter().any(|one| trained.iter().any(|other| one.stage != other.stage && overlap(one, other))));
    assert!(copied.iter().all(|span| span.slots.is_empty() && span.device.is_none()));
    assert!(copied.iter().any(|copy| trained.iter().any(|train| overlap(copy, train))));
    assert_eq!(bench.events("run.started")[0]["device"], "fake:0,fake:1");
    // The record says which device it was, and the result does not depend on it.
    let shown = bench.run(["show", "pipeline.toml", "train0"]);
    assert!(shown.stdout.contains("device fake:"), "{}", shown.stdout);
    assert!(bench.run(["show", "pipeline.toml", "copy"]).stdout.contains("device cpu"));
    let (again, _) = bench.run_json(["--cache", "other"]);
    for (one, other) in
        object["stages"].as_array().expect("a list").iter().zip(again["stages"].as_array().expect("a list"))
    {
        assert_eq!((&one["key"], &one["output"]), (&other["key"], &other["output"]));
    }
    assert!(again["stages"].as_array().is_some_and(|stages| stages.iter().all(|stage| stage["status"] == "ran")));
}

#[test]
fn shards_share_what_the_first_has_made_on_each_device() {
    let bench = trainings();
    let made = |more: &[&'static str]| {
        let set = ["--only", "copy", "--set", "stages.copy.share=true", "--set", "stages.copy.wait=20", "--jobs", "4"];
        let outcome = bench.run_json(set.into_iter().chain(more.iter().copied())).1;
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert_eq!(bench.events("action.done").iter().filter(|event| event["stage"] == "copy").count(), 4);
        let warnings = bench.events("warning");
        let mut texts: Vec<String> =
            warnings.iter().filter_map(|event| event["message"].as_str().map(str::to_owned)).collect();
        texts.sort();
        texts
    };
    assert_eq!(made(&[]), ["made on cpu"]);
    let cards = ["--set", "stages.copy.resources.gpus=1", "--devices", "fake:0,fake:1", "--set", "stages.copy.note=1"];
    assert_eq!(made(&cards), ["made on fake:0", "made on fake:1"]);
}

#[test]
fn a_card_that_is_named_twice_has_two_slots() {
    let bench = trainings();
    bench.run_json(["--devices", "fake:0,fake:0", "--jobs", "1"]);
    let spans = spans(&bench);
    let trained: Vec<&Span> = spans.iter().filter(|span| span.stage.starts_with("train")).collect();
    assert!(trained.iter().all(|span| span.device.as_deref() == Some("fake:0")));
    assert!(trained.iter().any(|one| trained.iter().any(|other| one.slots != other.slots && overlap(one, other))));
}

#[test]
fn resources_decide_about_devices_cores_and_memory_and_about_no_key() {
    let bench = trainings();
    let (before, _) = bench.run_json(["--only", "items", "--only", "train0"]);
    let set = [
        "--set",
        "stages.train0.resources.gpus=0",
        "--set",
        "stages.copy.resources={ gpus = 2, memory = \"1GiB\" }",
        "--set",
        "stages.train1.resources={ cpus = 2 }",
        "--set",
        "stages.train2.resources.cpus=2",
        "--set",
        "stages.train3.resources.memory=\"3 GiB\"",
        "--set",
        "stages.train4.resources.memory=\"3GiB\"",
        "--devices",
        "fake:0,fake:1",
        "--jobs",
        "2",
        "--memory",
        "4GiB",
    ];
    let (after, outcome) = bench.run_json(set);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let stages = |object: &Value| object["stages"].as_array().expect("a list").clone();
    for stage in stages(&before) {
        let same = stages(&after).into_iter().find(|other| other["name"] == stage["name"]).expect("it is there");
        assert_eq!((&same["key"], &same["status"]), (&stage["key"], &"cached".into()));
    }
    let spans = spans(&bench);
    for copy in spans.iter().filter(|span| span.stage == "copy") {
        assert_eq!((&copy.slots[..], copy.device.as_deref()), (&[0, 1][..], Some("fake:0,fake:1")));
    }
    let of = |name: &str| spans.iter().find(|span| span.stage == name).expect("it ran");
    assert!(!overlap(of("train1"), of("train2")), "each takes all cores");
    assert!(!overlap(of("train3"), of("train4")), "there is memory for one");
}

#[test]
fn what_a_machine_cannot_give_and_what_makes_no_sense_is_refused_before_anything_runs() {
    let bench = chain(2);
    let refused = |set: &[&str]| {
        let arguments = ["run", "pipeline.toml"].into_iter().chain(set.iter().flat_map(|set| ["--set", *set]));
        let outcome = bench.run(arguments.chain(["--devices", "fake:0"]));
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{outcome:?}");
        outcome.stderr
    };
    insta::assert_snapshot!(refused(&["stages.copy.resources.gpus=2"]), @r#"
    error: stage `copy` asks for 2 GPUs, and the run has 1
      ╭▸ pipeline.toml:9:9
      │
    9 │ [stages.copy]
      │         ━━━━
      │
      ╰ help: name more with `--devices`, or set `resources.gpus` of the stage
    "#);
    insta::assert_snapshot!(refused(&["stages.text.resources.gpus=1"]), @r#"
    error: stage `text` asks for more GPUs than it can use
      ╭▸ --set:1:28
      │
    1 │ stages.text.resources.gpus=1
      ╰╴                           ━ kind `debug.concat` computes on the CPU alone
    "#);
    insta::assert_snapshot!(refused(&[
        "stages.copy.resources={ gpu = 1, memory = \"much\", cpus = 0, time = 4 }",
        "stages.both.resources=1",
    ]), @r#"
    error: unknown key `gpu` in the `resources` of stage `copy`
      ╭▸ --set:1:25
      │
    1 │ stages.copy.resources={ gpu = 1, memory = "much", cpus = 0, time = 4 }
      │                         ━━━
      │
      ╰ help: did you mean `gpus`?

    error: `resources.memory` of stage `copy`: `much` is no size; write a number and `MB`, `GB`, `MiB` or `GiB`
      ╭▸ --set:1:43
      │
    1 │ stages.copy.resources={ gpu = 1, memory = "much", cpus = 0, time = 4 }
      │                                           ━━━━━━
      │
      ╰ help: Host memory of one action, such as `"16GiB"`: those that run side by side stay within `--memory`.

    error: `resources.cpus` of stage `copy`: it must be a whole number from 1 to 65536
      ╭▸ --set:1:58
      │
    1 │ stages.copy.resources={ gpu = 1, memory = "much", cpus = 0, time = 4 }
      │                                                          ━
      │
      ╰ help: Cores of one action, from 1: so many of `--jobs` it counts for. By default 1, and none beside a GPU.

    error: `resources.time` of stage `copy`: it must be a string such as `"4h"`, not a whole number
      ╭▸ --set:1:68
      │
    1 │ stages.copy.resources={ gpu = 1, memory = "much", cpus = 0, time = 4 }
      │                                                                    ━
      │
      ╰ help: The longest time that one job on a cluster may take, such as `"4h"` or `"1h30min"`; it goes on after that from its checkpoint.

    error: the `resources` of stage `both` must be a table, not a whole number
      ╭▸ --set:1:23
      │
    1 │ stages.both.resources=1
      │                       ━
      │
      ╰ help: write `resources = { gpus = 1, memory = "16GiB", cpus = 4, time = "4h" }`
    "#);
    let outcome = bench.run(["run", "pipeline.toml", "--devices", "cpu,libtorch"]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert!(!bench.path("cache/runs").exists());
}

#[test]
fn a_stage_that_calls_for_a_device_says_so() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/stages");
    let mut found = 0;
    for entry in std::fs::read_dir(folder).expect("the stages are there") {
        let path = entry.expect("they can be listed").path();
        let text = std::fs::read_to_string(&path).expect("source is UTF-8");
        for stage in text.split("impl Stage for ").skip(1) {
            let body = stage.split("\n}\n").next().unwrap_or_default();
            let calls = body.contains("training::device(");
            found += usize::from(calls);
            let name = body.split_whitespace().next().unwrap_or_default();
            assert!(!calls || body.contains("Devices::One"), "`{name}` in {}", path.display());
        }
    }
    assert!(found > 5);
}
