//! `diff`: two pipelines, runs or points side by side.

use crate::workbench::Workbench;

const SWEEP: &str = r#"
[stages.drawn]
kind = "debug.seed"

[stages.nap]
kind = "debug.sleep"
seconds = 0.01
inputs = { a = "drawn" }

[stages.score]
kind = "debug.metrics"
miou = 0.4
precision = 0.5
recall = 0.6
split = "val"
inputs = { a = "nap" }

[sweep.variants.one]

[sweep.variants.two]
stages.score.miou = 0.5
stages.score.inputs.a = "drawn"
stages.more = { kind = "debug.seed", text = "x" }

[sweep.variants.three]
stages.score.split = "train"
"#;

fn bench() -> Workbench {
    let bench = Workbench::new().file("s.toml", SWEEP);
    assert_eq!(bench.run(["sweep", "s.toml"]).code, Some(0));
    bench
}

#[test]
fn parameters_inputs_scores_and_times_are_compared() {
    let bench = bench();
    let text = bench.run(["diff", "s.toml#one", "s.toml#two"]).stdout;
    // How long a stage took is not the same twice.
    let lines = text.lines().filter(|line| !line.ends_with(" s") && !line.starts_with("took "));
    let lines: Vec<&str> = lines.collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    A  s.toml#one
    B  s.toml#two

    only in B: more

    stage  value     A    B
    score  inputs.a  nap  drawn
    score  miou      0.4  0.5

    score (10 images of split `val`, 2 of 2 classes; not counted: nothing)
    score %                   A     B  B - A
    mIoU                   40.0  50.0  +10.0
    precision              50.0  50.0   +0.0
    recall                 60.0  60.0   +0.0
    background: IoU        50.0  60.0  +10.0
    background: precision  60.0  60.0   +0.0
    background: recall     70.0  70.0   +0.0
    thing: IoU             30.0  40.0  +10.0
    thing: precision       40.0  40.0   +0.0
    thing: recall          50.0  50.0   +0.0


    2 stages with the same result
    ");
    assert!(text.lines().any(|line| line.starts_with("score") && line.ends_with(" s")), "{text}");
    insta::assert_snapshot!(
        bench.run(["diff", "s.toml#one", "s.toml#three"]).stdout.lines().skip(6).take(5).collect::<Vec<_>>().join("\n"),
        @r"
    score: not to be held against each other
      A: 10 images of split `val`, 2 of 2 classes; not counted: nothing
      B: 10 images of split `train`, 2 of 2 classes; not counted: nothing
    score %                   A     B  B - A
    mIoU                   40.0  40.0      -
    "
    );
    let object = bench.run(["diff", "s.toml#one", "s.toml#two", "--json"]).stdout;
    let object: serde_json::Value = serde_json::from_str(&object).expect("it is JSON");
    assert_eq!(object["only_in"], serde_json::json!([[], ["more"]]));
    assert_eq!(object["scores"][0]["values"][0], serde_json::json!({ "name": "mIoU", "a": 0.4, "b": 0.5 }));
}

#[test]
fn a_run_is_compared_by_its_folder_and_a_point_must_be_one() {
    let bench = bench();
    let pipeline = SWEEP.split("[sweep").next().expect("there is a first part");
    bench.write("p.toml", pipeline);
    std::fs::remove_dir_all(bench.path("cache/runs")).expect("the runs can be removed");
    assert_eq!(bench.run(["run", "p.toml", "--set", "stages.score.miou=0.7"]).code, Some(0));
    let run = std::fs::read_dir(bench.path("cache/runs")).expect("there are runs").next().expect("there is one");
    let run = format!("cache/runs/{}", run.expect("it can be listed").file_name().to_str().expect("it is UTF-8"));
    let text = bench.run(["diff", &run, "p.toml"]).stdout;
    assert!(text.lines().any(|line| line.split_whitespace().eq(["score", "miou", "0.7", "0.4"])), "{text}");
    assert!(text.ends_with("2 stages with the same result\n"), "{text}");
    let several = bench.run(["diff", "s.toml", "p.toml"]);
    assert_eq!(several.code, Some(2));
    insta::assert_snapshot!(several.stderr, @r"
    error: `s.toml` means 3 points, and one is compared
    help: write one of `s.toml#one`, `s.toml#two`, `s.toml#three`
    ");
}
