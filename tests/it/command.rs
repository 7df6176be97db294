//! `kind = "command"`: programs of the author's own.

use crate::workbench::Workbench;

fn bench(script: &str) -> Workbench {
    let pipeline = r#"
[pipeline]
name = "command"
[stages.text]
kind = "debug.concat"
text = "hello"
[stages.shout]
kind = "command"
program = ["sh", "script.sh"]
environment = { LOUD = "yes" }
input_files = ["script.sh", "data"]
outputs = ["out.txt", "folder"]
inputs = { a = "text" }
[stages.after]
kind = "debug.concat"
inputs = { a = "shout" }
"#;
    Workbench::new()
        .pipeline(pipeline)
        .file("script.sh", script)
        .file("data/one.txt", "one")
        .file("data/sub/two.txt", "two")
}

const GOOD: &str = r#"
mkdir "$ORANDFLOW_OUTPUT/folder"
tr a-z A-Z < "$ORANDFLOW_INPUT_A/text.txt" > "$ORANDFLOW_OUTPUT/out.txt"
cat data/one.txt data/sub/two.txt > "$ORANDFLOW_OUTPUT/folder/both.txt"
echo "$LOUD" > "$ORANDFLOW_OUTPUT/folder/loud.txt"
echo "${SECRET-unset}" > "$ORANDFLOW_OUTPUT/folder/secret.txt"
"#;

#[test]
fn a_program_is_a_cached_stage() {
    let bench = bench(GOOD);
    let output = bench.command(["run", "pipeline.toml"]).env("SECRET", "leaked").output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(bench.statuses([]).iter().all(|status| status.ends_with(" cached")));
    let shown = bench.run(["show", "pipeline.toml", "shout"]).stdout;
    for part in ["folder/both.txt", "folder/loud.txt", "out.txt"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    // The stage after it has everything as one text.
    let all = std::fs::read_dir(bench.path("cache/v1/cas")).expect("there are blobs").filter_map(Result::ok);
    let all = all.flat_map(|folder| std::fs::read_dir(folder.path()).expect("a folder").filter_map(Result::ok));
    let texts: Vec<String> =
        all.map(|file| String::from_utf8_lossy(&std::fs::read(file.path()).expect("a blob")).into_owned()).collect();
    assert!(texts.iter().any(|text| text == "onetwoyes\nunset\nHELLO"), "{texts:?}");
}

#[test]
fn what_it_reads_is_part_of_the_key() {
    let bench = bench(GOOD);
    bench.run_json([]);
    bench.write("data/sub/two.txt", "zwei");
    let plan = bench.run(["plan", "pipeline.toml"]).stdout;
    assert!(plan.contains("1 file changed (two.txt)"), "{plan}");
    assert_eq!(bench.statuses([]), ["text cached", "shout ran", "after ran"]);
    bench.write("script.sh", format!("{GOOD}\n# a comment"));
    assert_eq!(bench.statuses([]), ["text cached", "shout ran", "after cached"]);
    let plan = bench.run(["plan", "pipeline.toml", "--set", "stages.shout.environment.LOUD=\"no\""]).stdout;
    assert!(plan.contains(r#"environment.LOUD "yes" -> "no" (--set)"#), "{plan}");
}

#[test]
fn a_program_that_fails_shows_the_end_of_its_stderr() {
    let outcome = bench("echo first >&2; echo the model is missing >&2; exit 3").run(["run", "pipeline.toml"]);
    assert_eq!(outcome.code, Some(1));
    let cause = "cause: `sh` ended with exit status: 3; stderr:\n    first\n    the model is missing\n";
    assert!(outcome.stderr.contains(cause), "{}", outcome.stderr);
}

#[test]
fn a_missing_output_or_program_is_named() {
    let outcome = bench("true").run(["run", "pipeline.toml"]);
    assert!(outcome.stderr.contains("`sh` ended well and did not make `out.txt`"), "{}", outcome.stderr);
    let outcome = bench("true").run(["run", "pipeline.toml", "--set", "stages.shout.program=[\"no-such-program\"]"]);
    assert!(outcome.stderr.contains("the program `no-such-program` cannot be started"), "{}", outcome.stderr);
    let outcome = bench("true").run(["run", "pipeline.toml", "--set", "stages.shout.outputs=[\"../x\"]"]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert!(outcome.stderr.contains("must be a path inside the output folder"), "{}", outcome.stderr);
}

#[test]
fn a_declared_file_that_changes_while_it_runs_gives_no_result() {
    let outcome = bench(&format!("{GOOD}\necho more >> data/one.txt")).run(["run", "pipeline.toml"]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("`data/one.txt` changed while the program ran"), "{}", outcome.stderr);
}
