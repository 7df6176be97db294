//! `orandflow export`: what is written, and when it refuses.

use orandflow::image::codec;

use crate::photographs::{IDS, SIZE, bench, scored};
use crate::workbench::{Outcome, Workbench};

fn pipeline() -> String {
    scored("images")
        + "[stages.maps]\nkind = \"debug.maps\"\ninputs = { images = \"images\" }\n"
        + "[stages.masks]\nkind = \"mask.threshold\"\ninputs = { scores = \"maps\" }\n"
        + "[stages.score]\nkind = \"evaluate\"\ninputs = { prediction = \"masks\", truth = \"images\" }\n"
}

fn done() -> Workbench {
    let bench = bench().pipeline(&pipeline());
    assert_eq!(bench.run(["run", "pipeline.toml"]).code, Some(0));
    bench
}

fn export(bench: &Workbench, stage: &str, more: &[&str]) -> Outcome {
    let arguments = ["export", "pipeline.toml", stage, "--to", "out"];
    bench.run(arguments.into_iter().chain(more.iter().copied()))
}

fn names(bench: &Workbench) -> Vec<String> {
    let entries = std::fs::read_dir(bench.path("out")).expect("the folder is there");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("listed").file_name().into_string().expect("UTF-8")).collect();
    names.sort_unstable();
    names
}

#[test]
fn masks_are_palette_files_with_their_indices() {
    let bench = done();
    bench.write("out/notes.txt", "mine");
    let outcome = export(&bench, "masks", &[]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), "5 files in out\n"));
    assert_eq!(names(&bench).len(), 6);
    assert_eq!(bench.read("out/notes.txt"), b"mine");
    let mask = codec::decode_mask(&bench.read(&format!("out/{}.png", IDS[1]))).expect("a mask");
    assert_eq!((mask.height(), mask.width()), SIZE);
    assert_eq!((mask.label(0, 0), mask.label(0, SIZE.1 - 1)), (2, 0));
}

#[test]
fn maps_are_npy_or_safetensors() {
    let bench = done();
    assert_eq!(export(&bench, "maps", &[]).stdout, "9 files in out\n");
    let npy = bench.read(&format!("out/{}.npy", IDS[2]));
    assert!(npy.windows(11).any(|part| part == b"(1, 24, 32)"));
    assert_eq!(npy.len(), 128 + 24 * 32 * 4);
    let classes = bench.read(&format!("out/{}.classes.npy", IDS[2]));
    assert_eq!(classes.last(), Some(&2));
    assert_eq!(export(&bench, "maps", &["--format", "safetensors"]).stdout, "5 files in out\n");
    let bytes = bench.read(&format!("out/{}.safetensors", IDS[2]));
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    assert_eq!(file.tensor("high_res").expect("there").shape(), [1, 24, 32]);
    assert_eq!(file.tensor("cam").expect("there").shape(), [1, 6, 8]);
    let mut tensors = file.names();
    tensors.sort_unstable();
    assert_eq!(tensors, ["cam", "classes", "high_res"]);
}

#[test]
fn metrics_are_one_file() {
    let bench = done();
    assert_eq!(export(&bench, "score", &[]).stdout, "1 file in out\n");
    let table: serde_json::Value = serde_json::from_slice(&bench.read("out/metrics.json")).expect("JSON");
    assert_eq!(table["per_class"][3]["name"], "bird");
}

#[test]
fn a_stage_without_a_result_says_how_to_make_it() {
    let bench = bench().pipeline(&pipeline());
    let outcome = export(&bench, "masks", &[]);
    assert_eq!(outcome.code, Some(1));
    insta::assert_snapshot!(outcome.stderr, @r"
    error: stage `masks` has no result yet: waits for maps
    help: make it: orandflow run pipeline.toml --only masks
    ");
    assert!(!bench.path("out").exists());
}

#[test]
fn an_unknown_stage_and_a_format_that_does_not_fit_are_refused() {
    let bench = done();
    let outcome = export(&bench, "mask", &[]);
    assert_eq!(outcome.code, Some(2));
    insta::assert_snapshot!(outcome.stderr, @r"
    error: there is no stage `mask`
    help: did you mean `masks`?
    ");
    let outcome = export(&bench, "masks", &["--format", "npy"]);
    assert_eq!(outcome.code, Some(1));
    insta::assert_snapshot!(outcome.stderr, @"error: a mask set has one form only: `--format` is for CAM sets and score sets");
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let bench = done();
    bench.write("out", "a file stands in the way");
    let outcome = export(&bench, "masks", &[]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("out"), "{}", outcome.stderr);
    assert_eq!(bench.read("out"), b"a file stands in the way");
}
