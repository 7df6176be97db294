//! `pipelines/voc_amn_mct.toml` in small: the files that AMN and MCTformer have written for three photographs of VOC, through
//! ORANDNet, IRN and a segmentation network to scores, with the pipeline's own stages and sizes reduced by `--set`.
#![cfg(feature = "nn")]

use std::path::{Path, PathBuf};

use orandflow::foreign::npy;
use orandflow::foreign::write::{Element, Item, Key, Library, npy_dict};

use crate::photographs::{IDS, bench};
use crate::small::from_seed;
use crate::workbench::Workbench;

/// What the pipeline is run with.
const REDUCED: &[&str] = &[
    "stages.train.split=train",
    "stages.val.split=train",
    "stages.orandnet.preset=vgg_tiny",
    "stages.orandnet.steps=3",
    "stages.irn.preset=resnet_tiny",
    "stages.irn.crop=64",
    "stages.irn.radius=5",
    "stages.irn.batch=3",
    "stages.irn.epochs=1",
    "stages.scores.exp_times=2",
    "stages.scores.pad_to=16",
    "stages.segmenter.preset=resnet38_tiny",
    "stages.segmenter.crop=64",
    "stages.segmenter.batch=3",
    "stages.segmenter.epochs=1",
    "stages.val_masks.scales=[0.5]",
];

/// Returns the folder with the photographs and files, `None` without it.
#[expect(clippy::print_stderr, reason = "a test that is left out says so")]
fn shared() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if path.join("cams").is_dir() {
        return Some(path);
    }
    eprintln!("left out: {} is not there", path.display());
    None
}

const PIPELINE: &str = include_str!("../../pipelines/voc_amn_mct.toml");

/// Runs the pipeline and returns what came of each stage that was asked for: `amn ran`.
fn run(bench: &Workbench, shared: &Path, more: &[String]) -> Vec<String> {
    let variable = |name: &str, path: &str| format!("vars.{name}={}", shared.join(path).display());
    let own = [variable("voc", "voc_mini"), variable("amn", "cams/amn"), variable("mctformer", "cams/mctformer")];
    let mut arguments: Vec<String> = ["run", "pipeline.toml", "--json"].map(str::to_owned).to_vec();
    arguments.extend(from_seed(PIPELINE));
    for set in REDUCED.iter().map(|set| (*set).to_owned()).chain(own).chain(more.iter().cloned()) {
        arguments.extend(["--set".to_owned(), set]);
    }
    let outcome = bench.run(arguments.iter().map(String::as_str));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let object: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    let word = |value: &serde_json::Value| value.as_str().unwrap_or("?").to_owned();
    let stages = object["stages"].as_array().expect("a list").iter();
    stages.map(|stage| format!("{} {}", word(&stage["name"]), word(&stage["status"]))).collect()
}

#[test]
fn it_passes_plan() {
    let bench = bench().pipeline(PIPELINE);
    bench.write("data/ImageSets/Segmentation/train_aug.txt", IDS.join("\n"));
    for file in ["resnet50-19c8e357", "vgg16-397923af", "res38_cls"] {
        bench.write(&format!("weights/{file}.pth"), "planning opens no weights");
    }
    let outcome = bench.run(["plan", "pipeline.toml", "--set", "vars.voc=data", "--set", "vars.weights=weights"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(outcome.stdout.contains("score_val"), "{}", outcome.stdout);
}

#[test]
fn official_files_drive_the_pipeline_to_its_scores() {
    let Some(shared) = shared() else { return };
    let bench = Workbench::new().pipeline(PIPELINE);
    let first = run(&bench, &shared, &[]);
    let ran = |name: &str| first.contains(&format!("{name} ran"));
    for name in
        ["amn", "mctformer", "or", "and", "orandnet", "refined", "irn", "segmenter", "score_pseudo", "score_val"]
    {
        assert!(ran(name), "{name}: {first:?}");
    }
    let second = run(&bench, &shared, &[]);
    assert!(second.iter().all(|stage| stage.ends_with(" cached")), "{second:?}");

    // Other maps of the same images and classes: each value squared.
    for entry in std::fs::read_dir(shared.join("cams/mctformer")).expect("files") {
        let path = entry.expect("listed").path();
        let bytes = std::fs::read(&path).expect("readable");
        let tree = npy::read(&bytes).expect("MCTformer's own file");
        let entries: Vec<(Key<'_>, Item)> = tree
            .root()
            .item()
            .entries()
            .expect("a dict")
            .map(|(class, map)| {
                let squared = map.floats().expect("floats").into_iter().flat_map(|value| (value * value).to_le_bytes());
                let shape = map.shape().expect("an array").to_vec();
                let item = Item { library: Library::Numpy, element: Element::F32, shape, data: squared.collect() };
                (Key::Number(u8::try_from(class.integer().expect("a class")).expect("one of 20")), item)
            })
            .collect();
        let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8").to_owned();
        bench.write(&format!("other/{name}"), npy_dict(&entries));
    }
    let third = run(&bench, &shared, &["vars.mctformer=other".to_owned()]);
    for name in ["train", "train_scored", "val", "amn"] {
        assert!(third.contains(&format!("{name} cached")), "{name}: {third:?}");
    }
    for name in ["mctformer", "or", "and", "orandnet", "refined"] {
        assert!(third.contains(&format!("{name} ran")), "{name}: {third:?}");
    }
    // The files as they were, in another folder: nothing is left to do.
    for entry in std::fs::read_dir(shared.join("cams/mctformer")).expect("files") {
        let path = entry.expect("listed").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8").to_owned();
        bench.write(&format!("moved/{name}"), std::fs::read(&path).expect("readable"));
    }
    let fourth = run(&bench, &shared, &["vars.mctformer=moved".to_owned()]);
    assert!(fourth.iter().all(|stage| stage.ends_with(" cached")), "{fourth:?}");
}
