//! `sweep`: points, what they share, what is left out, failures and interruptions.

use std::time::{Duration, Instant};

use crate::workbench::{Outcome, Workbench};

/// A pipeline in which `told` depends on `drawn`, which depends on the seed.
const BASE: &str = r#"
[pipeline]
name = "small"

[vars]
level = 0.5

[stages.drawn]
kind = "debug.seed"

[stages.slow]
kind = "debug.concat"
text = "a"
inputs = { a = "drawn" }

[stages.other]
kind = "debug.concat"
text = "b"

[stages.told]
kind = "debug.metrics"
miou = "${level}"
precision = 0.4
inputs = { a = "slow" }
"#;

fn bench(sweep: &str) -> Workbench {
    let sweep = sweep.strip_prefix('\n').unwrap_or(sweep);
    Workbench::new().file("pipelines/base.toml", BASE).file("pipelines/ablations/s.toml", sweep)
}

fn sweep<'a>(bench: &Workbench, more: impl IntoIterator<Item = &'a str>) -> Outcome {
    bench.run(["sweep", "pipelines/ablations/s.toml"].into_iter().chain(more))
}

/// Names and statuses of all points.
fn points(bench: &Workbench, more: &[&str]) -> Vec<String> {
    let outcome = sweep(bench, ["--json"].into_iter().chain(more.iter().copied()));
    let object: serde_json::Value =
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error} in {outcome:?}"));
    let points = object["points"].as_array().expect("points are a list");
    let word = |value: &serde_json::Value| value.as_str().unwrap_or("?").to_owned();
    points.iter().map(|point| format!("{} {}", word(&point["name"]), word(&point["status"]))).collect()
}

/// The names of the stages that ran.
fn ran(bench: &Workbench) -> Vec<String> {
    let events = bench.events("step.done");
    let mut names: Vec<String> = events.iter().filter_map(|event| event["stage"].as_str()).map(str::to_owned).collect();
    names.sort();
    names
}

fn complaint(toml: &str, more: &[&str]) -> String {
    let bench = bench(toml);
    let outcome = sweep(&bench, ["--dry-run"].into_iter().chain(more.iter().copied()));
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{}", outcome.stderr);
    outcome.stderr
}

#[test]
fn every_combination_is_a_point_and_what_points_share_runs_once() {
    let bench = bench(
        r#"
base = "../base.toml"

[sweep]
seeds = [0, 1]
targets = ["told"]

[sweep.variants.a]

[sweep.variants.b]
"stages.told.inputs.a" = "other"

[sweep.grid]
"vars.level" = [0.25, 0.75]
"#,
    );
    let planned = sweep(&bench, ["--dry-run"]);
    insta::assert_snapshot!(planned.stdout, @r"
    point                cached  to run  waiting
    a/level=0.25/seed=0       0       1        2
    a/level=0.25/seed=1       0       1        2
    a/level=0.75/seed=0       0       1        2
    a/level=0.75/seed=1       0       1        2
    b/level=0.25/seed=0       0       1        1
    b/level=0.25/seed=1       0       1        1
    b/level=0.75/seed=0       0       1        1
    b/level=0.75/seed=1       0       1        1

    8 points, 11 distinct stages of 20: 0 cached, 11 to run
    nothing is known yet of what these take: 3 debug.concat, 6 debug.metrics, 2 debug.seed
    ");
    assert_eq!(points(&bench, &[]).len(), 8);
    assert_eq!(
        ran(&bench),
        [
            "drawn@a/seed=0",
            "drawn@a/seed=1",
            "other@b",
            "slow@a/seed=0",
            "slow@a/seed=1",
            "told@a/level=0.25/seed=0",
            "told@a/level=0.25/seed=1",
            "told@a/level=0.75/seed=0",
            "told@a/level=0.75/seed=1",
            "told@b/level=0.25",
            "told@b/level=0.75",
        ]
    );
    assert!(points(&bench, &[]).iter().all(|point| point.ends_with(" cached")));

    // A third seed and a changed level cost what is new, and nothing else.
    let known = sweep(&bench, ["--dry-run", "--set", "sweep.seeds=[0, 1, 2]"]);
    assert!(known.stdout.contains("12 points, 15 distinct stages of 30: 11 cached, 4 to run\n"), "{}", known.stdout);
    assert!(known.stdout.contains("of disk, by earlier records of 4 stages\n"), "{}", known.stdout);
    // The same results are those of a run by itself.
    let alone = bench.run(["run", "pipelines/base.toml", "--set", "vars.level=0.75", "--only", "told"]);
    assert!(alone.stdout.contains("3 stages: 3 cached"), "{}", alone.stdout);
}

#[test]
fn zip_list_and_exclude_choose_the_combinations() {
    let toml = r#"
base = "../base.toml"

[sweep]
exclude = [{ "stages.told.precision" = 0.2, "vars.level" = 0.3 }, { "stages.slow.text" = "z" }]

[sweep.zip]
vars.level = [0.3, 0.4]
"stages.other.text" = ["x y", "another text that is longer than a name may be"]

[[sweep.list]]
"stages.told.precision" = 0.1

[[sweep.list]]
"stages.told.precision" = 0.2
"stages.slow.note" = 3

[[sweep.list]]
"stages.slow.text" = "z"
"#;
    let bench = bench(toml);
    assert_eq!(
        points(&bench, &["--dry-run"]),
        [
            "level=0.3,other.text=xy/precision=0.1 to-run",
            "level=0.4,other.text=~6fb186/precision=0.1 to-run",
            "level=0.4,other.text=~6fb186/precision=0.2,note=3 to-run",
        ]
    );
    assert_eq!(
        points(&bench, &["--only", "precision=0.2,note=3"]),
        ["level=0.4,other.text=~6fb186/precision=0.2,note=3 ran"]
    );
}

#[test]
fn a_sweep_lays_its_own_stages_over_the_base_and_a_variant_replaces_or_adds_some() {
    let bench = bench(
        r#"
base = "../base.toml"

[stages.second]
kind = "debug.metrics"
miou = 0.1
inputs = { a = "slow" }

[sweep]
targets = ["told", "second", "third"]

[sweep.variants.plain]

[sweep.variants.replaced.stages.slow]
kind = "debug.seed"
text = "s"

[sweep.variants.added.stages]
third = { kind = "debug.metrics", miou = 0.9 }
second.miou = 0.2
"#,
    );
    let outcome = sweep(&bench, []);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    insta::assert_snapshot!(bench.run(["results", "pipelines/ablations/s.toml", "--measures", "miou"]).stdout, @r"
    told (10 images, 2 of 2 classes; not counted: nothing)
    variant   mIoU %
    plain       50.0
    replaced    50.0
    added       50.0

    second (10 images, 2 of 2 classes; not counted: nothing)
    variant   mIoU %
    plain     10.0
    replaced  10.0
    added     20.0 *

    third (10 images, 2 of 2 classes; not counted: nothing)
    variant  mIoU %
    added      90.0

    * best
    ");
    assert_eq!(bench.run(["run", "pipelines/base.toml", "--only", "told", "--json"]).code, Some(0));
    assert!(bench.events("step.done").is_empty(), "the plain variant is the base");
}

#[test]
fn a_failed_point_leaves_the_others_whole() {
    let bench = bench(
        r#"
base = "../base.toml"

[sweep.variants.good]

[sweep.variants.bad]
stages.slow = { kind = "debug.fail", inputs = { a = "drawn" } }
"#,
    );
    let outcome = sweep(&bench, []);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let last: Vec<&str> = outcome.stdout.lines().rev().take(2).collect();
    assert_eq!(last[1], "point bad has no result: slow@bad failed (it was told to)");
    assert!(last[0].starts_with("1 of 2 points complete; 6 stages: 4 ran, 1 failed, 1 skipped in "), "{}", last[0]);
    assert_eq!(points(&bench, &[]), ["good cached", "bad failed"]);
}

#[test]
fn a_sweep_that_was_interrupted_again_and_again_ends_with_the_same_table() {
    let toml = r#"
base = "../base.toml"
sweep.seeds = [0, 1, 2, 3]

[sweep.grid]
stages.nap.seconds = [0.1, 0.15]

[stages.nap]
kind = "debug.sleep"
seconds = 0.2
inputs = { a = "drawn" }

[stages.score]
kind = "debug.metrics"
spread = 0.5
inputs = { a = "nap" }
"#;
    let whole = bench(toml);
    assert_eq!(sweep(&whole, ["--jobs", "2"]).code, Some(0));
    let bench = bench(toml);
    let table = |bench: &Workbench| bench.run(["results", "pipelines/ablations/s.toml", "--format", "csv"]).stdout;
    // Again and again a few stages further, by turns killed and asked to stop.
    let mut interruptions = 0;
    loop {
        let mut child = bench
            .command(["sweep", "pipelines/ablations/s.toml", "--jobs", "1"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("the program starts");
        let clock = Instant::now();
        let ended = loop {
            let own = bench.path("cache/runs").read_dir().is_ok_and(|runs| runs.count() > interruptions);
            if own && bench.events("step.done").len() > interruptions % 3 {
                break None;
            }
            if let Some(status) = child.try_wait().expect("it can be asked") {
                break Some(status);
            }
            assert!(clock.elapsed() < Duration::from_secs(60), "some stages end within a minute");
            std::thread::sleep(Duration::from_millis(5));
        };
        if ended.is_some_and(|status| status.success()) {
            break;
        }
        if interruptions % 2 == 0 {
            // It may have come to its end meanwhile.
            let _ = child.kill();
        } else {
            let asked = std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
            asked.expect("there is `kill`");
        }
        let ended = child.wait().expect("it ends");
        interruptions += 1;
        if ended.success() {
            break;
        }
        // Looked at only now: on a busy machine the look may take longer than the rest of the sweep. It may also have been
        // interrupted between its last stage and its end.
        if table(&bench) == table(&whole) {
            break;
        }
    }
    assert!(interruptions >= 4, "{interruptions}");
    assert_eq!(sweep(&bench, ["--jobs", "2"]).code, Some(0));
    assert_eq!(table(&bench), table(&whole));
    // What had ended was not done again.
    let mut done = std::collections::BTreeMap::<String, usize>::new();
    for run in bench.path("cache/runs").read_dir().expect("there are runs") {
        let events = run.expect("it can be listed").path().join("events.jsonl");
        for line in std::fs::read_to_string(events).unwrap_or_default().lines() {
            let event: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
            if event["event"] == "step.done" {
                *done.entry(event["stage"].to_string()).or_default() += 1;
            }
        }
    }
    // A kill may come between a result and the line that says so.
    assert!(done.len() + interruptions >= ran(&whole).len(), "{done:?}");
    assert!(done.values().all(|times| *times == 1), "{done:?}");
}

#[test]
fn a_pipeline_is_a_sweep_of_one_point_and_may_hold_its_own_sweep() {
    let bench = bench("").file("own.toml", format!("{BASE}\n[sweep.grid]\nvars.level = [0.1, 0.2]\n"));
    let outcome = bench.run(["sweep", "pipelines/base.toml"]);
    assert!(outcome.stdout.contains("1 of 1 point complete; 4 stages: 4 ran"), "{outcome:?}");
    let outcome = bench.run(["sweep", "own.toml", "--dry-run"]);
    assert!(outcome.stdout.contains("2 points, 5 distinct stages of 8: 3 cached, 2 to run"), "{outcome:?}");
    assert_eq!(bench.run(["run", "own.toml"]).code, Some(0));
    let refused = bench.run(["run", "pipelines/ablations/s.toml"]);
    assert_eq!(refused.code, Some(2));
}

#[test]
fn what_is_wrong_with_a_sweep_is_said_with_its_place() {
    insta::assert_snapshot!(complaint(r#"
base = "../base.toml"
[sweep]
seed = [1]
seeds = [0, -1]
targets = "told"
[sweep.grid]
"vars.level" = 0.3
"vars.levle" = [1]
"stages.told.bogus" = [1, 2]
[sweep.zip]
stages.slow.note = [1, 2]
stages.other.note = [1, 2, 3]
"#, &[]), @r#"
    error: unknown key `seed` in `[sweep]`
      ╭▸ pipelines/ablations/s.toml:3:1
      │
    3 │ seed = [1]
      │ ━━━━
      │
      ╰ help: did you mean `seeds`?

    error: `seeds` must be a list of whole numbers from 0
      ╭▸ pipelines/ablations/s.toml:4:9
      │
    4 │ seeds = [0, -1]
      │         ━━━━━━━
      │
      ╰ help: write `seeds = [0, 1, 2]`

    error: `targets` must be a list of names of stages
      ╭▸ pipelines/ablations/s.toml:5:11
      │
    5 │ targets = "told"
      ╰╴          ━━━━━━

    error: `vars.level` in `grid` needs a list of values
      ╭▸ pipelines/ablations/s.toml:7:16
      │
    7 │ "vars.level" = 0.3
      │                ━━━
      │
      ╰ help: write `[VALUE, VALUE]`; a value that is a list itself is one of its elements

    error: lists that are zipped must have the same length
       ╭▸ pipelines/ablations/s.toml:12:14
       │
    11 │ stages.slow.note = [1, 2]
       │             ──── 2 values
    12 │ stages.other.note = [1, 2, 3]
       ╰╴             ━━━━ 3 values
    "#);
    insta::assert_snapshot!(complaint(r#"
base = "../base.toml"
[sweep]
seeds = [0, 1]
exclude = [{ "vars.leve" = 1 }]
[sweep.grid]
"vars.level" = [0.3, 0.3]
"#, &[]), @r#"
    error: the sweep never sets `vars.leve`
      ╭▸ pipelines/ablations/s.toml:4:20
      │
    4 │ exclude = [{ "vars.leve" = 1 }]
      │                    ━━━━
      │
      ╰ help: did you mean `vars.level`?

    error: the sweep has the point `level=0.3/seed=0` twice
      ╭▸ pipelines/ablations/s.toml:6:22
      │
    6 │ "vars.level" = [0.3, 0.3]
      ╰╴                     ━━━
    "#);
    insta::assert_snapshot!(complaint(r#"
base = "../base.toml"
[sweep]
targets = ["tolt"]
[sweep.grid]
"vars.levle" = [1]
[sweep.variants.a.stages.told]
bogus = 3
[sweep.variants.b]
"#, &[]), @r#"
    error: unknown variable `levle` in the sweep
      ╭▸ pipelines/ablations/s.toml:5:7
      │
    5 │ "vars.levle" = [1]
      │       ━━━━━ the file has no variable of this name
      │
      ╰ help: did you mean `level`?

    error: kind `debug.metrics` has no parameter `bogus`
      ╭▸ pipelines/ablations/s.toml:7:1
      │
    7 │ bogus = 3
      │ ━━━━━ written in stage `told`
      │
      ├ help: it has `curve`, `miou`, `oracle`, `precision`, `recall`, `split`, `spread`; `orandflow stages debug.metrics` explains them
      ╰ help: this is so in point `levle=1/a`
    "#);
    insta::assert_snapshot!(complaint("base = \"../base.toml\"\n[sweep]\nseeds = [0]\ngrid.vars.level = [1]\n",
        &["--set", "vars.level=0.3", "--set", "pipeline.seed=3", "--set", "stages.tolt.miou=1"]), @r"
    error: `--set` cannot set `vars.level`, as the sweep does
      ╭▸ --set:1:1
      │
    1 │ vars.level=0.3
      │ ━━━━━━━━━━
      │
      ⸬  pipelines/ablations/s.toml:4:20
      │
    4 │ grid.vars.level = [1]
      │                    ─ set here
      │
      ╰ help: pick points with `--only`, or change the sweep itself, as in `--set sweep.seeds=[0]`

    error: `--set` cannot set `pipeline.seed`, as the sweep does
      ╭▸ --set:1:1
      │
    1 │ pipeline.seed=3
      │ ━━━━━━━━━━━━━
      │
      ⸬  pipelines/ablations/s.toml:3:9
      │
    3 │ seeds = [0]
      │         ─── set here
      │
      ╰ help: pick points with `--only`, or change the sweep itself, as in `--set sweep.seeds=[0]`
    ");
    insta::assert_snapshot!(complaint("base = \"no.toml\"\n", &[]), @r"error: the base of the sweep `pipelines/ablations/no.toml` cannot be read: no such file or directory");
    insta::assert_snapshot!(complaint("base = \"../base.toml\"\n[sweep.grid]\nvars.level = [1]\n", &["--only", "leval=1"]), @r"
    error: there is no point `leval=1`
    help: did you mean `level=1`?
    ");
    let run = bench("base = \"../base.toml\"\n").run(["run", "pipelines/ablations/s.toml"]);
    insta::assert_snapshot!(run.stderr, @r#"
    error: this is the file of a sweep, not of a pipeline
      ╭▸ pipelines/ablations/s.toml:1:1
      │
    1 │ base = "../base.toml"
      │ ━━━━
      │
      ╰ help: run it with `orandflow sweep pipelines/ablations/s.toml`
    "#);
}

#[test]
fn a_sweep_without_end_is_refused_before_it_is_expanded() {
    let ten = (0..10).map(|seed| seed.to_string()).collect::<Vec<_>>().join(", ");
    let grid = |axes: usize| {
        let axis = |index: usize| format!("\"vars.v{index}\" = [{ten}]\n");
        let variables = (0..axes).map(|index| format!("v{index} = 0\n")).collect::<String>();
        let axes = (0..axes).map(axis).collect::<String>();
        format!("base = \"../base.toml\"\n[vars]\n{variables}[sweep.grid]\n{axes}")
    };
    let said = complaint(&grid(12), &[]);
    assert!(said.contains("error: the sweep has more than 1000000 combinations\n"), "{said}");
    let said = complaint(&grid(5), &[]);
    assert!(said.contains("error: the sweep has more than 10000 points\n"), "{said}");
    let said = complaint(&format!("base = \"../base.toml\"\n[sweep]\nseeds = [{}0]\n", "1, ".repeat(10_000)), &[]);
    assert!(said.contains("error: the sweep has more than 10000 points\n"), "{said}");
    let stages = (0..300).map(|index| format!("[stages.more{index}]\nkind = \"debug.concat\"\n")).collect::<String>();
    let said = complaint(&format!("{}{stages}", grid(3)), &[]);
    assert!(said.contains("error: the points of the sweep have more than 200000 stages together\n"), "{said}");
}

#[test]
fn a_stage_may_be_like_another_one() {
    let bench = Workbench::new().pipeline(
        r#"
[stages.one]
kind = "debug.metrics"
miou = 0.25
recall = 0.5

[stages.two]
like = "one"
miou = 0.75

[stages.three]
like = "two"
recall = 0.1
"#,
    );
    let (object, _) = bench.run_json([]);
    let scores = |stage: &str| ["miou", "recall"].map(|name| object["metrics"][stage][name].as_f64());
    assert_eq!(scores("two"), [Some(0.75), Some(0.5)]);
    assert_eq!(scores("three"), [Some(0.75), Some(0.1)]);
    // The value is blamed where it stands, not where it is taken to.
    let complaint = |toml: &str| {
        bench.write("pipeline.toml", toml);
        bench.run(["plan", "pipeline.toml"]).stderr
    };
    insta::assert_snapshot!(complaint("[stages.a]\nlike = \"b\"\n[stages.b]\nlike = \"a\"\n[stages.c]\nlike = \"d\"\n"), @r#"
    error: stage `a` has no `kind`
      ╭▸ pipeline.toml:1:9
      │
    1 │ [stages.a]
      │         ━ its kind says what it does
      │
      ╰ help: write `kind = "..."`; `orandflow stages` lists every kind

    error: stage `b` has no `kind`
      ╭▸ pipeline.toml:3:9
      │
    3 │ [stages.b]
      │         ━ its kind says what it does
      │
      ╰ help: write `kind = "..."`; `orandflow stages` lists every kind

    error: stage `b` cannot be like itself: `a -> b -> a`
      ╭▸ pipeline.toml:4:8
      │
    4 │ like = "a"
      ╰╴       ━━━

    error: stage `c` has no `kind`
      ╭▸ pipeline.toml:5:9
      │
    5 │ [stages.c]
      │         ━ its kind says what it does
      │
      ╰ help: write `kind = "..."`; `orandflow stages` lists every kind

    error: unknown stage `d`
      ╭▸ pipeline.toml:6:8
      │
    6 │ like = "d"
      │        ━━━ `c` is like it
      │
      ╰ help: the other stages are `a`, `b`
    "#);
    insta::assert_snapshot!(complaint("[stages.a]\nkind = \"debug.seed\"\n[stages.b]\nlike = \"a\"\nkind = \"debug.fail\"\nbogus = 1\n"), @r#"
    error: stage `b` is like `a` and yet of another kind
      ╭▸ pipeline.toml:5:8
      │
    4 │ like = "a"
      │        ─── `a` is of kind `debug.seed`
    5 │ kind = "debug.fail"
      ╰╴       ━━━━━━━━━━━━

    error: kind `debug.fail` has no parameter `bogus`
      ╭▸ pipeline.toml:6:1
      │
    6 │ bogus = 1
      │ ━━━━━ written in stage `b`
      │
      ╰ help: it has `message`, `unless`; `orandflow stages debug.fail` explains them
    "#);
}
