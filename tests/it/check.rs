//! Every complaint about a pipeline file, word for word, through the program itself: exit code 2, nothing on stdout.

use crate::workbench::Workbench;

/// Checks a pipeline that is wrong; returns what the program says.
fn complaint(toml: &str, sets: &[&str]) -> String {
    // Raw strings start below the quotation mark, so that their lines stand straight.
    let bench = Workbench::new().pipeline(toml.strip_prefix('\n').unwrap_or(toml));
    let overrides = sets.iter().flat_map(|set| ["--set", set]);
    let outcome = bench.run(["graph", "pipeline.toml"].into_iter().chain(overrides));
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{}", outcome.stderr);
    without_kinds(&outcome.stderr)
}

/// Hides which kinds there are, as that depends on the build and grows.
fn without_kinds(text: &str) -> String {
    let line = |line: &str| match line.split_once("one of the kinds ") {
        Some((before, _)) => format!(
            "{before}[KINDS]
"
        ),
        None => format!(
            "{line}
"
        ),
    };
    text.lines().map(line).collect()
}

#[test]
fn an_empty_file() {
    let toml = "";
    insta::assert_snapshot!(complaint(toml, &[]), @r#"
    error: `pipeline.toml` has no stages
    help: a stage is `[stages.NAME]` with `kind = "..."` below; `orandflow stages` lists every kind
    "#);
}

#[test]
fn several_syntax_errors() {
    let toml = r#"
[pipeline]
name = demo
[stages.a
kind = "x"
list = [1, 2
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @"
    error: this is not TOML: string values must be quoted
      ╭▸ pipeline.toml:2:8
      │
    2 │ name = demo
      ╰╴       ━━━━

    error: this is not TOML: unclosed table
      ╭▸ pipeline.toml:3:10
      │
    3 │ [stages.a
      ╰╴         ━ expected `]`

    error: this is not TOML: unclosed array
      ╭▸ pipeline.toml:5:13
      │
    5 │ list = [1, 2
      ╰╴            ━ expected `]`
    ");
}

#[test]
fn a_stage_that_stands_twice() {
    let toml = r#"
[stages.items]
kind = "debug.items"
folder = "data"

[stages.items]
kind = "debug.copy"
folder = "x"
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @"
    error: stage `items` stands twice
      ╭▸ pipeline.toml:5:9
      │
    1 │ [stages.items]
      │         ───── first here
      ┆
    5 │ [stages.items]
      ╰╴        ━━━━━ here again
    ");
}

#[test]
fn a_key_that_stands_twice() {
    let toml = r#"
[stages.a]
kind = "debug.concat"
text = "x"
text = "y"
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @r#"
    error: `text` stands twice in one table
      ╭▸ pipeline.toml:4:1
      │
    3 │ text = "x"
      │ ──── first here
    4 │ text = "y"
      ╰╴━━━━ here again
    "#);
}

#[test]
fn a_table_that_stands_twice() {
    let toml = r#"
[vars]
a = "1"
[pipeline]
[vars]
b = "2"
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @"
    error: table `vars` stands twice
      ╭▸ pipeline.toml:4:2
      │
    1 │ [vars]
      │  ──── first here
      ┆
    4 │ [vars]
      ╰╴ ━━━━ here again
    ");
}

#[test]
fn unknown_tables() {
    let toml = r#"
[stage.a]
kind = "debug.concat"

[limits]
lr = [1, 2]

[vars]
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @"
    error: unknown table `stage`
      ╭▸ pipeline.toml:1:2
      │
    1 │ [stage.a]
      │  ━━━━━
      │
      ╰ help: did you mean `stages`?

    error: unknown table `limits`
      ╭▸ pipeline.toml:4:2
      │
    4 │ [limits]
      │  ━━━━━━
      │
      ╰ help: this version reads the tables `pipeline`, `vars`, `stages`, `sweep`
    ");
}

#[test]
fn a_table_of_another_type() {
    let toml = r#"
vars = "x"
stages = 3
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @r#"
    error: `vars` must be a table, not a string
      ╭▸ pipeline.toml:1:8
      │
    1 │ vars = "x"
      ╰╴       ━━━

    error: `stages` must be a table, not a whole number
      ╭▸ pipeline.toml:2:10
      │
    2 │ stages = 3
      ╰╴         ━
    "#);
}

#[test]
fn the_pipeline_table() {
    let toml = r#"
[pipeline]
name = ""
seed = -1
nmae = "x"
owner = "y"
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @r#"
    error: the pipeline's `name` must be a string that is not empty
      ╭▸ pipeline.toml:2:8
      │
    2 │ name = ""
      ╰╴       ━━

    error: the pipeline's `seed` must be a whole number from 0
      ╭▸ pipeline.toml:3:8
      │
    3 │ seed = -1
      ╰╴       ━━ this is `-1`

    error: unknown key `nmae` in `[pipeline]`
      ╭▸ pipeline.toml:4:1
      │
    4 │ nmae = "x"
      │ ━━━━ it knows `name` and `seed`
      │
      ╰ help: did you mean `name`?

    error: unknown key `owner` in `[pipeline]`
      ╭▸ pipeline.toml:5:1
      │
    5 │ owner = "y"
      ╰╴━━━━━ it knows `name` and `seed`
    "#);
}

#[test]
fn stages_that_are_no_stages() {
    let toml = r#"
[stages]
a = "debug.copy"

[stages."b c"]
kind = "debug.concat"

[stages.d]
kynd = "debug.concat"

[stages.e]

[stages.f]
kind = 3
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @r#"
    error: stage `a` must be a table
      ╭▸ pipeline.toml:2:5
      │
    2 │ a = "debug.copy"
      │     ━━━━━━━━━━━━ this is a string
      │
      ╰ help: write `[stages.a]` and its parameters below

    error: `b c` cannot be the name of a stage
      ╭▸ pipeline.toml:4:9
      │
    4 │ [stages."b c"]
      │         ━━━━━
      │
      ╰ help: use letters without accents, digits, `_` and `-`

    error: stage `d` has no `kind`
      ╭▸ pipeline.toml:7:9
      │
    7 │ [stages.d]
      │         ━ its kind says what it does
      │
      ╰ help: did you mean `kind` by `kynd`?

    error: stage `e` has no `kind`
       ╭▸ pipeline.toml:10:9
       │
    10 │ [stages.e]
       │         ━ its kind says what it does
       │
       ╰ help: write `kind = "..."`; `orandflow stages` lists every kind

    error: the `kind` of stage `f` must be a string
       ╭▸ pipeline.toml:13:8
       │
    13 │ kind = 3
       ╰╴       ━ this is `3`
    "#);
}

#[test]
fn unknown_kinds() {
    let toml = r#"
[stages.a]
kind = "debug.concta"

[stages.b]
kind = "walk.dog"
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @r#"
    error: unknown kind `debug.concta`
      ╭▸ pipeline.toml:2:8
      │
    2 │ kind = "debug.concta"
      │        ━━━━━━━━━━━━━━
      │
      ╰ help: did you mean `debug.concat`?

    error: unknown kind `walk.dog`
      ╭▸ pipeline.toml:5:8
      │
    5 │ kind = "walk.dog"
      │        ━━━━━━━━━━
      │
      ╰ help: `orandflow stages` lists every kind
    "#);
}

#[test]
fn unknown_parameters_all_at_once() {
    let toml = r#"
[stages.items]
kind = "debug.items"
folder = "data"

[stages.a]
kind = "debug.copy"
sufix = "x"
momentum = 3
a = "items"
input = { a = "items" }

[stages.b]
kind = "debug.copy"
not = 3
inputs = { a = "items" }
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @r#"
    error: kind `debug.copy` has no parameter `sufix`
      ╭▸ pipeline.toml:7:1
      │
    7 │ sufix = "x"
      │ ━━━━━ written in stage `a`
      │
      ╰ help: did you mean `suffix`?

    error: kind `debug.copy` has no parameter `momentum`
      ╭▸ pipeline.toml:8:1
      │
    8 │ momentum = 3
      │ ━━━━━━━━ written in stage `a`
      │
      ╰ help: it has `note`, `refuse`, `share`, `suffix`, `wait`; `orandflow stages debug.copy` explains them

    error: kind `debug.copy` has no parameter `a`
      ╭▸ pipeline.toml:9:1
      │
    9 │ a = "items"
      │ ━ written in stage `a`
      │
      ╰ help: `a` is a port: write `inputs = { a = "STAGE" }`

    error: kind `debug.copy` has no parameter `input`
       ╭▸ pipeline.toml:10:1
       │
    10 │ input = { a = "items" }
       │ ━━━━━ written in stage `a`
       │
       ╰ help: did you mean `inputs`?

    error: kind `debug.copy` has no parameter `not`
       ╭▸ pipeline.toml:14:1
       │
    14 │ not = 3
       │ ━━━ written in stage `b`
       │
       ╰ help: did you mean `note`?
    "#);
}

#[test]
fn values_of_the_wrong_type() {
    let toml = r#"
[stages.a]
kind = "debug.sleep"
seconds = "long"

[stages.b]
kind = "debug.concat"
text = 3
note = 0.5

[stages.c]
kind = "debug.concat"
text = ["x"]
note = true

[stages.d]
kind = "debug.concat"
text = { a = 1 }
note = 2020-01-01
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @r#"
    error: `seconds` of stage `a` must be a number, not the string `long`
      ╭▸ pipeline.toml:3:11
      │
    3 │ seconds = "long"
      │           ━━━━━━ expected a number
      │
      ╰ help: `seconds`: How long, in seconds

    error: `text` of stage `b` must be a string, not the whole number `3`
      ╭▸ pipeline.toml:7:8
      │
    7 │ text = 3
      │        ━ expected a string
      │
      ╰ help: `text`: A text, put in front

    error: `note` of stage `b` must be a whole number, not the number `0.5`
      ╭▸ pipeline.toml:8:8
      │
    8 │ note = 0.5
      │        ━━━ expected a whole number
      │
      ╰ help: `note`: Part of the key without any effect on the result

    error: `text` of stage `c` must be a string, not a list
       ╭▸ pipeline.toml:12:8
       │
    12 │ text = ["x"]
       │        ━━━━━ expected a string
       │
       ╰ help: `text`: A text, put in front

    error: `note` of stage `c` must be a whole number, not `true`
       ╭▸ pipeline.toml:13:8
       │
    13 │ note = true
       │        ━━━━ expected a whole number
       │
       ╰ help: `note`: Part of the key without any effect on the result

    error: `text` of stage `d` must be a string, not a table
       ╭▸ pipeline.toml:17:8
       │
    17 │ text = { a = 1 }
       │        ━━━━━━━━━ expected a string
       │
       ╰ help: `text`: A text, put in front

    error: `note` of stage `d` must be a whole number, not a date
       ╭▸ pipeline.toml:18:8
       │
    18 │ note = 2020-01-01
       │        ━━━━━━━━━━ expected a whole number
       │
       ╰ help: `note`: Part of the key without any effect on the result
    "#);
}

#[test]
fn a_number_that_is_too_small() {
    let toml = r#"
[stages.items]
kind = "debug.items"
folder = "data"

[stages.a]
kind = "debug.copy"
wait = -5
inputs = { a = "items" }
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @"
    error: `wait` of stage `a` must be at least 0
      ╭▸ pipeline.toml:7:8
      │
    7 │ wait = -5
      │        ━━
      │
      ╰ help: `wait`: Milliseconds to wait in every shard; not part of the key
    ");
}

#[test]
fn a_number_that_is_too_large() {
    let toml = r#"
[stages.a]
kind = "debug.concat"
note = 99999999999999999999
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @"
    error: `note` of stage `a` must be at most 9223372036854775807
      ╭▸ pipeline.toml:3:8
      │
    3 │ note = 99999999999999999999
      │        ━━━━━━━━━━━━━━━━━━━━
      │
      ╰ help: `note`: Part of the key without any effect on the result
    ");
}

#[test]
fn a_parameter_that_must_be_given() {
    let toml = r#"
[stages.a]
kind = "debug.sleep"
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @"
    error: stage `a` has no `seconds`
      ╭▸ pipeline.toml:1:9
      │
    1 │ [stages.a]
      │         ━ kind `debug.sleep` needs it
      │
      ╰ help: `seconds`: How long, in seconds
    ");
}

#[test]
fn a_value_that_the_kind_refuses() {
    let toml = r#"
[stages.a]
kind = "debug.sleep"
seconds = -1.0
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @"
    error: `seconds` of stage `a`: must lie between 0 and 3600
      ╭▸ pipeline.toml:3:11
      │
    3 │ seconds = -1.0
      │           ━━━━
      │
      ╰ help: `seconds`: How long, in seconds
    ");
}

#[test]
fn unknown_ports() {
    let toml = r#"
[stages.items]
kind = "debug.items"
folder = "data"

[stages.a]
kind = "debug.copy"
inputs = { a = "items", images = "items" }

[stages.b]
kind = "debug.items"
folder = "x"
inputs = { a = "items" }
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @r#"
    error: kind `debug.copy` has no port `images`
      ╭▸ pipeline.toml:7:25
      │
    7 │ inputs = { a = "items", images = "items" }
      │                         ━━━━━━
      │
      ╰ help: its ports are `a` (an image set, a CAM set, a seed set, a mask set or a score set), `b` (an image set, a CAM set, a seed set, a mask set or a score set)

    error: kind `debug.items` has no port `a`
       ╭▸ pipeline.toml:12:12
       │
    12 │ inputs = { a = "items" }
       │            ━
       │
       ╰ help: `debug.items` reads from no other stage
    "#);
}

#[test]
fn a_port_with_nothing_on_it() {
    let toml = r#"
[stages.a]
kind = "debug.copy"
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @"
    error: stage `a` has nothing on its port `a`
      ╭▸ pipeline.toml:1:9
      │
    1 │ [stages.a]
      │         ━ kind `debug.copy` needs an image set, a CAM set, a seed set, a mask set or a score set there: items
      │
      ╰ help: an image set, a CAM set, a seed set, a mask set or a score set comes from [KINDS]
    ");
}

#[test]
fn a_port_with_nothing_on_it_and_one_stage_that_fits() {
    let toml = r#"
[stages.items]
kind = "debug.items"
folder = "data"

[stages.a]
kind = "debug.concat"

[stages.b]
kind = "debug.copy"
inputs = { b = "items" }
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @r#"
    error: stage `b` has nothing on its port `a`
      ╭▸ pipeline.toml:8:9
      │
    8 │ [stages.b]
      │         ━ kind `debug.copy` needs an image set, a CAM set, a seed set, a mask set or a score set there: items
      │
      ╰ help: write `inputs = { a = "items" }`
    "#);
}

#[test]
fn a_port_with_nothing_on_it_and_several_stages_that_fit() {
    let toml = r#"
[stages.items]
kind = "debug.items"
folder = "data"

[stages.a]
kind = "debug.copy"
inputs = { a = "items" }

[stages.b]
kind = "debug.copy"
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @"
    error: stage `b` has nothing on its port `a`
      ╭▸ pipeline.toml:9:9
      │
    9 │ [stages.b]
      │         ━ kind `debug.copy` needs an image set, a CAM set, a seed set, a mask set or a score set there: items
      │
      ╰ help: in this pipeline an image set, a CAM set, a seed set, a mask set or a score set is made by `items`, `a`
    ");
}

#[test]
fn unknown_stages_on_ports() {
    let toml = r#"
[stages.items]
kind = "debug.items"
folder = "data"

[stages.a]
kind = "debug.copy"
inputs = { a = "itms", b = "resnet" }
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @r#"
    error: unknown stage `itms`
      ╭▸ pipeline.toml:7:16
      │
    7 │ inputs = { a = "itms", b = "resnet" }
      │                ━━━━━━ `a` reads it on port `a`
      │
      ╰ help: did you mean `items`?

    error: unknown stage `resnet`
      ╭▸ pipeline.toml:7:28
      │
    7 │ inputs = { a = "itms", b = "resnet" }
      │                            ━━━━━━━━ `a` reads it on port `b`
      │
      ╰ help: the pipeline has no `[stages.resnet]`
    "#);
}

#[test]
fn inputs_of_another_type() {
    let toml = r#"
[stages.a]
kind = "debug.concat"
inputs = "b"

[stages.b]
kind = "debug.concat"
inputs = { a = 3, b = ["a"] }
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @r#"
    error: the `inputs` of stage `a` must be a table
      ╭▸ pipeline.toml:3:10
      │
    3 │ inputs = "b"
      │          ━━━
      │
      ╰ help: write `inputs = { PORT = "STAGE" }`

    error: the input `a` of stage `b` must be the name of a stage
      ╭▸ pipeline.toml:7:16
      │
    7 │ inputs = { a = 3, b = ["a"] }
      ╰╴               ━ this is `3`

    error: the input `b` of stage `b` must be the name of a stage
      ╭▸ pipeline.toml:7:23
      │
    7 │ inputs = { a = 3, b = ["a"] }
      ╰╴                      ━━━━━ this is a list
    "#);
}

#[test]
fn an_artifact_of_the_wrong_type() {
    let toml = r#"
[stages.items]
kind = "debug.items"
folder = "data"

[stages.table]
kind = "debug.metrics"
inputs = { a = "items" }

[stages.copy]
kind = "debug.copy"
inputs = { a = "table" }
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @r#"
    error: port `a` of stage `copy` takes an image set, a CAM set, a seed set, a mask set or a score set, but `table` makes a table of metrics
       ╭▸ pipeline.toml:11:16
       │
     6 │ kind = "debug.metrics"
       │        ─────────────── `debug.metrics` makes a table of metrics
       ┆
    11 │ inputs = { a = "table" }
       │                ━━━━━━━ this is a table of metrics
       │
       ╰ help: in this pipeline an image set, a CAM set, a seed set, a mask set or a score set is made by `items`
    "#);
}

#[test]
fn an_artifact_of_the_wrong_type_and_no_stage_that_fits() {
    let toml = r#"
[stages.table]
kind = "debug.metrics"

[stages.copy]
kind = "debug.copy"
inputs = { a = "table" }
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @r#"
    error: port `a` of stage `copy` takes an image set, a CAM set, a seed set, a mask set or a score set, but `table` makes a table of metrics
      ╭▸ pipeline.toml:6:16
      │
    2 │ kind = "debug.metrics"
      │        ─────────────── `debug.metrics` makes a table of metrics
      ┆
    6 │ inputs = { a = "table" }
      │                ━━━━━━━ this is a table of metrics
      │
      ╰ help: an image set, a CAM set, a seed set, a mask set or a score set comes from [KINDS]
    "#);
}

#[test]
fn a_stage_that_waits_for_itself() {
    let toml = r#"
[stages.a]
kind = "debug.concat"
inputs = { a = "a" }
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @r#"
    error: stage `a` waits for itself
      ╭▸ pipeline.toml:3:16
      │
    3 │ inputs = { a = "a" }
      │                ━━━ this is its own result
      │
      ╰ help: its input must come from another stage
    "#);
}

#[test]
fn stages_that_wait_for_each_other() {
    let toml = r#"
[stages.a]
kind = "debug.concat"
inputs = { a = "c" }

[stages.b]
kind = "debug.concat"
inputs = { a = "a" }

[stages.c]
kind = "debug.concat"
inputs = { a = "b" }
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @r#"
    error: stages wait for each other: `a -> c -> b -> a`
       ╭▸ pipeline.toml:3:16
       │
     3 │ inputs = { a = "c" }
       │                ━━━ `a` waits for `c` here
       ┆
     7 │ inputs = { a = "a" }
       │                ─── `b` waits for `a` here
       ┆
    11 │ inputs = { a = "b" }
       │                ─── `c` waits for `b` here
       │
       ╰ help: one of these inputs must come from elsewhere
    "#);
}

#[test]
fn the_shortest_of_several_cycles() {
    let toml = r#"
[stages.a]
kind = "debug.concat"
inputs = { a = "b" }

[stages.b]
kind = "debug.concat"
inputs = { a = "c" }

[stages.c]
kind = "debug.concat"
inputs = { a = "a", b = "b" }
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @r#"
    error: stages wait for each other: `b -> c -> b`
       ╭▸ pipeline.toml:7:16
       │
     7 │ inputs = { a = "c" }
       │                ━━━ `b` waits for `c` here
       ┆
    11 │ inputs = { a = "a", b = "b" }
       │                         ─── `c` waits for `b` here
       │
       ╰ help: one of these inputs must come from elsewhere
    "#);
}

#[test]
fn unknown_variables() {
    let toml = r#"
[vars]
voc = "data/voc"
root = "data"

[stages.a]
kind = "debug.items"
folder = "${vco}/x"

[stages.b]
kind = "debug.items"
folder = "${weights}/${}"
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @r#"
    error: unknown variable `vco`
      ╭▸ pipeline.toml:7:11
      │
    7 │ folder = "${vco}/x"
      │           ━━━━━━ `[vars]` has no such name
      │
      ╰ help: did you mean `${voc}`?

    error: unknown variable `weights`
       ╭▸ pipeline.toml:11:11
       │
    11 │ folder = "${weights}/${}"
       │           ━━━━━━━━━━ `[vars]` has no such name
       │
       ╰ help: the variables of this file: `root`, `voc`

    error: `${}` names no variable
       ╭▸ pipeline.toml:11:22
       │
    11 │ folder = "${weights}/${}"
       │                      ━━━ `[vars]` has no such name
       │
       ╰ help: the variables of this file: `root`, `voc`
    "#);
}

#[test]
fn an_unknown_variable_where_none_is_declared() {
    let toml = r#"
[stages.a]
kind = "debug.items"
folder = "${voc}"
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @r#"
    error: unknown variable `voc`
      ╭▸ pipeline.toml:3:11
      │
    3 │ folder = "${voc}"
      │           ━━━━━━ `[vars]` has no such name
      │
      ╰ help: declare it: `[vars]` and below it `voc = "..."`
    "#);
}

#[test]
fn a_variable_that_is_not_closed() {
    let toml = r#"
[vars]
voc = "x"

[stages.a]
kind = "debug.items"
folder = "${voc/x"
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @r#"
    error: `${` without a closing `}`
      ╭▸ pipeline.toml:6:11
      │
    6 │ folder = "${voc/x"
      │           ━━━━━━━
      │
      ╰ help: write `$${` if these two characters are meant
    "#);
}

#[test]
fn variables_that_need_each_other() {
    let toml = r#"
[vars]
a = "${b}/x"
b = "${a}/y"
c = "${c}"

[stages.s]
kind = "debug.items"
folder = "${a}"
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @r#"
    error: variable `a` needs its own value: `a -> b -> a`
      ╭▸ pipeline.toml:3:6
      │
    3 │ b = "${a}/y"
      ╰╴     ━━━━

    error: variable `c` needs its own value: `c -> c`
      ╭▸ pipeline.toml:4:6
      │
    4 │ c = "${c}"
      ╰╴     ━━━━
    "#);
}

#[test]
fn a_variable_that_is_a_table() {
    let toml = r#"
[vars]
a = { b = 1 }
c = [1]

[stages.s]
kind = "debug.items"
folder = "${a}"
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @"
    error: variable `a` is a table and cannot be pasted into a string
      ╭▸ pipeline.toml:2:5
      │
    2 │ a = { b = 1 }
      │     ━━━━━━━━━
      │
      ╰ help: a variable is a string, a number, `true` or `false`

    error: variable `c` is a list and cannot be pasted into a string
      ╭▸ pipeline.toml:3:5
      │
    3 │ c = [1]
      │     ━━━
      │
      ╰ help: a variable is a string, a number, `true` or `false`
    ");
}

#[test]
fn a_variable_of_the_wrong_type() {
    let toml = r#"
[vars]
long = "a while"

[stages.s]
kind = "debug.sleep"
seconds = "${long}"
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @r#"
    error: `seconds` of stage `s` must be a number, not the string `a while`
      ╭▸ pipeline.toml:6:11
      │
    6 │ seconds = "${long}"
      │           ━━━━━━━━━ expected a number
      │
      ╰ help: `seconds`: How long, in seconds
    "#);
}

#[test]
fn an_override_without_a_value() {
    let toml = r#"
[stages.items]
kind = "debug.items"
folder = "data"
"#;
    insta::assert_snapshot!(complaint(toml, &["stages.items.folder"]), @"
    error: `--set` needs a path and a value
      ╭▸ --set:1:1
      │
    1 │ stages.items.folder
      │ ━━━━━━━━━━━━━━━━━━━ there is no `=` here
      │
      ╰ help: write `--set stages.NAME.PARAMETER=VALUE` or `--set vars.NAME=VALUE`
    ");
}

#[test]
fn an_override_with_an_empty_part() {
    let toml = r#"
[stages.items]
kind = "debug.items"
folder = "data"
"#;
    insta::assert_snapshot!(complaint(toml, &["stages..folder=x"]), @"
    error: a part of this path is empty
      ╭▸ --set:1:8
      │
    1 │ stages..folder=x
      │        ━
      │
      ╰ help: write `--set stages.NAME.PARAMETER=VALUE` or `--set vars.NAME=VALUE`
    ");
}

#[test]
fn overrides_of_what_is_not_there() {
    let toml = r#"
[vars]
voc = "x"

[stages.items]
kind = "debug.items"
folder = "data"
"#;
    insta::assert_snapshot!(complaint(toml, &["stages.itmes.folder=x", "stages.walk.lr=1", "vars.vco=x", "vars.weights=x", "stage.items.folder=x", "items.folder=x", "lr=3", "stages.items=x", "pipeline=x", "stages=x"]), @"
    error: unknown stage `itmes` in `--set`
      ╭▸ --set:1:8
      │
    1 │ stages.itmes.folder=x
      │        ━━━━━ the file has no stage of this name
      │
      ╰ help: did you mean `items`?

    error: unknown stage `walk` in `--set`
      ╭▸ --set:1:8
      │
    1 │ stages.walk.lr=1
      │        ━━━━ the file has no stage of this name
      │
      ╰ help: the stages of this file: `items`

    error: unknown variable `vco` in `--set`
      ╭▸ --set:1:6
      │
    1 │ vars.vco=x
      │      ━━━ the file has no variable of this name
      │
      ╰ help: did you mean `voc`?

    error: unknown variable `weights` in `--set`
      ╭▸ --set:1:6
      │
    1 │ vars.weights=x
      │      ━━━━━━━ the file has no variable of this name
      │
      ╰ help: the variables of this file: `voc`

    error: `--set` cannot find `stage`
      ╭▸ --set:1:1
      │
    1 │ stage.items.folder=x
      │ ━━━━━ paths start with `stages.`, `vars.` or `pipeline.`
      │
      ╰ help: did you mean `stages`?

    error: `--set` cannot find `items`
      ╭▸ --set:1:1
      │
    1 │ items.folder=x
      │ ━━━━━ paths start with `stages.`, `vars.` or `pipeline.`
      │
      ╰ help: did you mean `stages.items.folder`?

    error: `--set` cannot find `lr`
      ╭▸ --set:1:1
      │
    1 │ lr=3
      ╰╴━━ paths start with `stages.`, `vars.` or `pipeline.`

    error: `--set` sets one value, and `stages.items` is a table
      ╭▸ --set:1:8
      │
    1 │ stages.items=x
      │        ━━━━━
      │
      ╰ help: write `stages.items.PARAMETER=VALUE`

    error: `--set` sets one value, and `pipeline` is a table
      ╭▸ --set:1:1
      │
    1 │ pipeline=x
      │ ━━━━━━━━
      │
      ╰ help: write `pipeline.seed=NUMBER`

    error: `--set` sets one value, and `stages` is a table
      ╭▸ --set:1:1
      │
    1 │ stages=x
      │ ━━━━━━
      │
      ╰ help: write `stages.NAME.PARAMETER=VALUE`
    ");
}

#[test]
fn overrides_that_lead_into_a_value() {
    let toml = r#"
[stages.a]
kind = "debug.concat"
text = "x"
list = [{ a = 1 }]
"#;
    insta::assert_snapshot!(complaint(toml, &["stages.a.text.deep=1", "stages.a.list.2.a=1", "stages.a.list.first=1"]), @"
    error: kind `debug.concat` has no parameter `list`
      ╭▸ pipeline.toml:4:1
      │
    4 │ list = [{ a = 1 }]
      │ ━━━━ written in stage `a`
      │
      ╰ help: it has `note`, `text`; `orandflow stages debug.concat` explains them

    error: `text` is a string and has no parts
      ╭▸ --set:1:15
      │
    1 │ stages.a.text.deep=1
      ╰╴              ━━━━ there is no `deep` in it

    error: `2` is not an element of `list`
      ╭▸ --set:1:15
      │
    1 │ stages.a.list.2.a=1
      │               ━
      │
      ╰ help: `list` has 1 elements, counted from 0

    error: `first` is not an element of `list`
      ╭▸ --set:1:15
      │
    1 │ stages.a.list.first=1
      │               ━━━━━
      │
      ╰ help: `list` has 1 elements, counted from 0
    ");
}

#[test]
fn overrides_are_checked_like_the_file() {
    let toml = r#"
[stages.items]
kind = "debug.items"
folder = "data"

[stages.a]
kind = "debug.copy"
inputs = { a = "items" }
"#;
    insta::assert_snapshot!(complaint(toml, &["stages.a.note=many", "stages.a.sufix=x", "stages.a.inputs.b=itmes", "stages.items.kind=debug.item", "pipeline.seed=x"]), @"
    error: `note` of stage `a` must be a whole number, not the string `many`
      ╭▸ --set:1:15
      │
    1 │ stages.a.note=many
      │               ━━━━ expected a whole number
      │
      ╰ help: `note`: Part of the key without any effect on the result

    error: kind `debug.copy` has no parameter `sufix`
      ╭▸ --set:1:10
      │
    1 │ stages.a.sufix=x
      │          ━━━━━ written in stage `a`
      │
      ╰ help: did you mean `suffix`?

    error: unknown stage `itmes`
      ╭▸ --set:1:19
      │
    1 │ stages.a.inputs.b=itmes
      │                   ━━━━━ `a` reads it on port `b`
      │
      ╰ help: did you mean `items`?

    error: unknown kind `debug.item`
      ╭▸ --set:1:19
      │
    1 │ stages.items.kind=debug.item
      │                   ━━━━━━━━━━
      │
      ╰ help: did you mean `debug.items`?

    error: the pipeline's `seed` must be a whole number from 0
      ╭▸ --set:1:15
      │
    1 │ pipeline.seed=x
      ╰╴              ━ this is a string
    ");
}

#[test]
fn everything_at_once_in_order_of_the_file() {
    let toml = r#"
[pipeline]
seed = "x"

[stages.a]
kind = "debug.copy"
note = "x"
inputs = { a = "c" }

[stages.b]
kind = "debug.nothing"

[stages.c]
kind = "debug.copy"
inputs = { a = "a", b = "d" }

[vars]
x = {}
"#;
    insta::assert_snapshot!(complaint(toml, &[]), @r#"
    error: the pipeline's `seed` must be a whole number from 0
      ╭▸ pipeline.toml:2:8
      │
    2 │ seed = "x"
      ╰╴       ━━━ this is a string

    error: `note` of stage `a` must be a whole number, not the string `x`
      ╭▸ pipeline.toml:6:8
      │
    6 │ note = "x"
      │        ━━━ expected a whole number
      │
      ╰ help: `note`: Part of the key without any effect on the result

    error: stages wait for each other: `a -> c -> a`
       ╭▸ pipeline.toml:7:16
       │
     7 │ inputs = { a = "c" }
       │                ━━━ `a` waits for `c` here
       ┆
    14 │ inputs = { a = "a", b = "d" }
       │                ─── `c` waits for `a` here
       │
       ╰ help: one of these inputs must come from elsewhere

    error: unknown kind `debug.nothing`
       ╭▸ pipeline.toml:10:8
       │
    10 │ kind = "debug.nothing"
       │        ━━━━━━━━━━━━━━━
       │
       ╰ help: `orandflow stages` lists every kind

    error: unknown stage `d`
       ╭▸ pipeline.toml:14:25
       │
    14 │ inputs = { a = "a", b = "d" }
       │                         ━━━ `c` reads it on port `b`
       │
       ╰ help: the pipeline has no `[stages.d]`

    error: variable `x` is a table and cannot be pasted into a string
       ╭▸ pipeline.toml:17:5
       │
    17 │ x = {}
       │     ━━
       │
       ╰ help: a variable is a string, a number, `true` or `false`
    "#);
}

#[test]
fn variables_that_would_fill_any_memory() {
    let mut toml = "[vars]\nv0 = \"0123456789\"\n".to_owned();
    for index in 1..=12 {
        let inner = format!("${{v{}}}", index - 1).repeat(10);
        toml += &format!("v{index} = \"{inner}\"\n");
    }
    toml += "[stages.a]\nkind = \"debug.concat\"\ntext = \"${v12}\"\n";
    let said = complaint(&toml, &[]);
    assert_eq!(said.matches("error: ").count(), 1, "{said}");
    assert!(said.starts_with("error: the variables of this file make more than 16 MiB of text\n"), "{said}");
}

#[test]
fn variables_and_stages_in_rows_without_end() {
    let mut toml = "[vars]\n".to_owned();
    for index in 0..20_000 {
        toml += &format!("v{index:05} = \"${{v{:05}}}\"\n", index + 1);
    }
    toml += "v20000 = \"a\"\n[stages.a]\nkind = \"debug.concat\"\ntext = \"${v00000}\"\n";
    let said = complaint(&toml, &[]);
    assert!(said.starts_with("error: more than 100 variables need each other's values\n"), "{said}");
    let mut toml = String::new();
    for index in 0..20_000 {
        toml += &format!("[stages.s{index:05}]\nlike = \"s{:05}\"\n", index + 1);
    }
    toml += "[stages.s20000]\nkind = \"debug.concat\"\n";
    let said = complaint(&toml, &[]);
    assert!(said.starts_with("error: more than 100 stages are like one another in a row\n"), "{said}");
}

#[test]
fn more_mistakes_than_anybody_reads() {
    let mut toml = "[stages.a]\nkind = \"debug.concat\"\n".to_owned();
    for index in 0..300 {
        toml += &format!("p{index} = 1\n");
    }
    let said = complaint(&toml, &[]);
    assert_eq!(said.matches("error: ").count(), 101, "{said}");
    assert!(said.ends_with("\nerror: 200 more mistakes are not shown\n"), "{said}");
}
