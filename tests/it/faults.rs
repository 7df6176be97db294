//! Data that is wrong, missing or edited: a clear message, and no wrong result.

use crate::run::{chain, wait_for};
use crate::workbench::Workbench;

#[test]
fn missing_data_is_found_by_the_plan_at_its_place() {
    let bench = Workbench::new().pipeline(crate::run::CHAIN);
    for verb in ["plan", "run"] {
        let outcome = bench.run([verb, "pipeline.toml"]);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(outcome.stderr.starts_with("error: stage `items`: failed to "), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("items`: No such file or directory"), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("pipeline.toml:5:"), "{}", outcome.stderr);
    }
    std::fs::create_dir(bench.path("items")).expect("it can be made");
    let outcome = bench.run(["plan", "pipeline.toml"]);
    assert!(outcome.stderr.contains("the folder `items` has no files"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("give a folder with at least one file"), "{}", outcome.stderr);
}

#[test]
fn an_input_that_lacks_images_is_refused_with_their_ids() {
    let bench = Workbench::new().pipeline(
        r#"
        [pipeline]
        name = "lack"
        [stages.many]
        kind = "debug.items"
        folder = "many"
        [stages.few]
        kind = "debug.items"
        folder = "few"
        [stages.both]
        kind = "debug.copy"
        inputs = { a = "many", b = "few" }
        [stages.swapped]
        kind = "debug.copy"
        inputs = { a = "few", b = "many" }
        "#,
    );
    for index in 0..60 {
        bench.write(&format!("many/i{index:02}.txt"), "x");
    }
    for index in 0..53 {
        bench.write(&format!("few/i{index:02}.txt"), "x");
    }
    // Nobody knows the ids before the sets are made: the stage fails.
    let outcome = bench.run(["run", "pipeline.toml"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let message = "the input `b` lacks 7 images of the input `a`: `i53`, `i54`, `i55`, `i56`, `i57`, …";
    assert!(outcome.stderr.contains(message), "{}", outcome.stderr);
    assert!(outcome.stdout.contains("4 stages: 3 ran, 1 failed"), "{}", outcome.stdout);
    // Now everybody does: nothing runs.
    let outcome = bench.run(["plan", "pipeline.toml"]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert!(outcome.stderr.contains(message), "{}", outcome.stderr);
}

#[test]
fn a_file_that_is_edited_or_vanishes_during_the_run_is_noticed() {
    type Event = fn(&Workbench);
    let events: [(Event, &str); 2] = [
        (|bench| bench.write("items/i1.txt", "edited"), "`items/i1.txt` changed while the run was under way"),
        (
            |bench| std::fs::remove_file(bench.path("items/i1.txt")).expect("it is there"),
            "failed to open file `items/i1.txt`: No such file or directory",
        ),
    ];
    for (event, message) in events {
        let bench = chain(2);
        let pipeline = "[pipeline]\nname = \"edit\"\n[stages.sleep]\nkind = \"debug.sleep\"\nseconds = 1.5\n\
                        [stages.items]\nkind = \"debug.items\"\nfolder = \"items\"\n";
        bench.write("pipeline.toml", pipeline);
        let child = bench
            .command(["run", "pipeline.toml", "--jobs", "1"])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("the program starts");
        wait_for(&bench, "step.started", "sleep");
        event(&bench);
        let output = child.wait_with_output().expect("it ends");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(message), "{stderr}");
        // The next run sees the files as they are now.
        assert_eq!(bench.statuses([]), ["sleep cached", "items ran"]);
        assert_eq!(bench.run(["cache", "verify"]).code, Some(0));
    }
}

#[test]
fn a_failing_shard_keeps_the_other_shards() {
    let bench = chain(200);
    let outcome = bench.run(["run", "pipeline.toml", "--set", "stages.copy.refuse=i7", "--jobs", "1"]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("cause: item `i7` is refused"), "{}", outcome.stderr);
    let done: Vec<_> = bench.events("action.done").into_iter().filter(|event| event["stage"] == "copy").collect();
    let (object, _) = bench.run_json(["--set", "stages.copy.refuse=i7", "--jobs", "1"]);
    assert_eq!(object["stages"][1]["status"], "failed");
    let started = bench.events("step.started");
    let copy = started.iter().find(|event| event["stage"] == "copy").expect("copy started");
    assert_eq!(copy["cached"].as_u64(), Some(done.len() as u64), "finished shards are not run again");
}
