//! `pipelines/voc_amn_mct_train.toml`: it passes `plan`, and runs with its sizes reduced.
#![cfg(feature = "nn")]

use crate::photographs::{IDS, bench};
use crate::small::from_seed;
use crate::workbench::Workbench;

const PIPELINE: &str = include_str!("../../pipelines/voc_amn_mct_train.toml");

fn data() -> Workbench {
    let bench = bench();
    bench.write("data/ImageSets/Segmentation/train_aug.txt", IDS.join("\n"));
    bench
}

#[test]
fn it_passes_plan() {
    let bench = data().pipeline(PIPELINE);
    for file in ["resnet50-19c8e357", "deit_small_patch16_224-cd65a155", "vgg16-397923af", "res38_cls"] {
        bench.write(&format!("weights/{file}.pth"), "planning opens no weights");
    }
    let outcome = bench.run(["plan", "pipeline.toml", "--set", "vars.voc=data", "--set", "vars.weights=weights"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    for stage in ["amn_cams", "mctformer_cams", "score_val"] {
        assert!(outcome.stdout.contains(stage), "{}", outcome.stdout);
    }
}

#[test]
fn it_runs_in_small_and_takes_the_maps_of_others_in_place_of_its_own() {
    let bench = data().pipeline(PIPELINE);
    let seeded = from_seed(PIPELINE);
    let sets = [
        "vars.voc=data",
        "stages.resnet.preset=resnet_tiny",
        "stages.resnet.crop=32",
        "stages.resnet.scale=[32, 36]",
        "stages.resnet.lr=0.001",
        "stages.resnet.epochs=2",
        "stages.resnet.batch=2",
        "stages.amn.preset=resnet_tiny",
        "stages.amn.crop=32",
        "stages.amn.epochs=2",
        "stages.amn.batch=2",
        "stages.mctformer.preset=tiny",
        "stages.mctformer.crop=32",
        "stages.mctformer.depth=2",
        "stages.mctformer.width=32",
        "stages.mctformer.epochs=2",
        "stages.mctformer.batch=2",
        "stages.mctformer_cams.layers=2",
        "stages.orandnet.preset=vgg_tiny",
        "stages.orandnet.steps=4",
        "stages.irn.preset=resnet_tiny",
        "stages.irn.radius=3",
        "stages.irn.crop=32",
        "stages.irn.epochs=1",
        "stages.irn.batch=2",
        "stages.scores.pad_to=16",
        "stages.segmenter.preset=resnet38_tiny",
        "stages.segmenter.crop=32",
        "stages.segmenter.epochs=2",
        "stages.segmenter.batch=2",
        "stages.segmenter.scale_schedule=[{ factor = 2, until = 1 }]",
    ];
    let run = |verb: &[&str], sets: &[&str]| {
        let arguments = verb.iter().copied().chain(sets.iter().flat_map(|set| ["--set", *set]));
        let outcome = bench.run(arguments);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        outcome.stdout
    };
    let all: Vec<&str> =
        ["run", "pipeline.toml", "--json"].into_iter().chain(seeded.iter().map(String::as_str)).collect();
    run(&all, &sets);

    // MCTformer's maps as its program writes them, in place of the stage that makes them here.
    let inputs = seeded.iter().filter(|argument| argument.contains(".inputs="));
    let with_inputs: Vec<&str> = sets.iter().copied().chain(inputs.map(String::as_str)).collect();
    run(&["export", "pipeline.toml", "mctformer_cams", "--to", "files", "--format", "mctformer"], &with_inputs);
    let made = "kind = \"mctformer.cams\"\ninputs = { images = \"train\", weights = \"mctformer\" }\n";
    assert!(PIPELINE.contains(made));
    let read = "kind = \"cam.import\"\nformat = \"mctformer\"\npath = \"files\"\ninputs = { images = \"train\" }\n";
    bench.write("pipeline.toml", PIPELINE.replace(made, read));
    // How many layers maps are made of is a parameter of the stage that is gone.
    let sets: Vec<&str> = sets.into_iter().filter(|set| !set.contains("mctformer_cams")).collect();
    let outcome: serde_json::Value = serde_json::from_str(&run(&all, &sets)).expect("JSON");
    let stages = outcome["stages"].as_array().expect("a list").iter();
    let (ran, cached): (Vec<_>, Vec<_>) = stages.partition(|stage| stage["status"] == "ran");
    let names = |stages: Vec<&serde_json::Value>| -> Vec<String> {
        stages.iter().filter_map(|stage| stage["name"].as_str()).map(str::to_owned).collect()
    };
    let (ran, cached) = (names(ran), names(cached));
    // These files lack maps at stride 4, which are made from those at full size here, so that what reads them runs again.
    for name in ["mctformer_cams", "or", "and", "average", "orandnet", "refined"] {
        assert!(ran.iter().any(|other| other == name), "{name} did not run: {ran:?}");
    }
    for name in ["train", "resnet", "resnet_cams", "amn_seeds", "amn", "amn_cams", "amn_masks", "score_amn"] {
        assert!(cached.iter().any(|other| other == name), "{name} is not cached: {cached:?}");
    }
}
