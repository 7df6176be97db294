//! `pipelines/voc_amn_mct_train.toml`: it passes `plan`, and runs with its sizes reduced.
#![cfg(feature = "nn")]

use crate::photographs::{IDS, bench};
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
        bench.write(&format!("weights/{file}.safetensors"), "planning opens no weights");
    }
    let outcome = bench.run(["plan", "pipeline.toml", "--set", "vars.voc=data", "--set", "vars.weights=weights"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    for stage in ["amn_cams", "mctformer_cams", "score_val"] {
        assert!(outcome.stdout.contains(stage), "{}", outcome.stdout);
    }
}

/// Weights of the paper's size would not fit the small networks, so their stages and ports are taken out of the text; every other
/// stage is the file's own.
#[test]
fn it_runs_in_small() {
    let mut text = String::new();
    for block in PIPELINE.split_inclusive("\n\n") {
        if !block.contains("kind = \"weights.import\"") {
            text.push_str(block);
        }
    }
    for weights in ["imagenet_resnet50", "imagenet_deit", "imagenet_vgg16", "voc_resnet38"] {
        text = text.replace(&format!(", init = \"{weights}\""), "");
    }
    let bench = data().pipeline(&text);
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
    let arguments = sets.iter().flat_map(|set| ["--set", *set]);
    let outcome = bench.run(["run", "pipeline.toml"].into_iter().chain(arguments));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
}
