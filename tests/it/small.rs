//! Pipelines that come with the program, planned as they are and run with their sizes reduced: the paper's first experiment, its naive
//! baseline, and the second experiment on COCO.
#![cfg(feature = "nn")]

use orandflow::foreign::write::{Element, Item, Key, Library, npy_dict};

use crate::photographs::{IDS, SIZE, bench, jpeg};
use crate::workbench::{Outcome, Workbench};

const RESNET_VIT: &str = include_str!("../../pipelines/voc_resnet_vit.toml");
const NAIVE: &str = include_str!("../../pipelines/voc_naive.toml");
const COCO: &str = include_str!("../../pipelines/coco_amn_mct.toml");

/// What the networks of all of them are run with.
const NETWORKS: &[&str] = &[
    "stages.irn.preset=resnet_tiny",
    "stages.irn.radius=3",
    "stages.irn.crop=32",
    "stages.irn.epochs=1",
    "stages.irn.batch=2",
    "stages.segmenter.preset=resnet38_tiny",
    "stages.segmenter.crop=32",
    "stages.segmenter.epochs=2",
    "stages.segmenter.batch=2",
    "stages.segmenter.scale_schedule=[{ factor = 2, until = 1 }]",
    "stages.val_masks.scales=[1.0]",
];

/// And those that start from image-level labels.
const CLASSIFIERS: &[&str] = &[
    "vars.voc=data",
    "stages.resnet.preset=resnet_tiny",
    "stages.resnet.crop=32",
    "stages.resnet.scale=[32, 36]",
    "stages.resnet.epochs=1",
    "stages.resnet.batch=2",
    "stages.vit.preset=vit_tiny",
    "stages.vit.crop=32",
    "stages.vit.scale=[32, 36]",
    "stages.vit.depth=[2]",
    "stages.vit.epochs=1",
    "stages.vit.batch=2",
    "stages.scores.pad_to=16",
];

const ORANDNET: &[&str] = &["stages.orandnet.preset=vgg_tiny", "stages.orandnet.steps=3"];

/// Returns what `run` is told so that a pipeline's networks start from the seed, as weights of the paper's size fit no smaller ones:
/// inputs without `init`, and the stages that score, which leaves out those that read weights.
pub(crate) fn from_seed(pipeline: &str) -> Vec<String> {
    let mut arguments = Vec::new();
    for block in pipeline.split("\n\n") {
        let Some((_, name)) = block.split_once("[stages.") else { continue };
        let (name, body) = name.split_once(']').expect("a name ends");
        if body.contains("kind = \"evaluate\"") {
            arguments.extend(["--only".to_owned(), name.to_owned()]);
        }
        let inputs = body.lines().find_map(|line| line.strip_prefix("inputs = "));
        if let Some((kept, _)) = inputs.and_then(|inputs| inputs.split_once(", init = ")) {
            arguments.extend(["--set".to_owned(), format!("stages.{name}.inputs={kept} }}")]);
        }
    }
    assert!(arguments.contains(&"--only".to_owned()) && arguments.contains(&"--set".to_owned()), "{arguments:?}");
    arguments
}

fn with(bench: &Workbench, verb: &str, file: &str, more: &[String], sets: &[&[&str]]) -> Outcome {
    let sets = sets.iter().flat_map(|some| some.iter()).flat_map(|set| ["--set", *set]);
    let outcome = bench.run([verb, file].into_iter().chain(more.iter().map(String::as_str)).chain(sets));
    assert_eq!(outcome.code, Some(0), "{verb} {file}: {}{}", outcome.stdout, outcome.stderr);
    outcome
}

fn voc() -> Workbench {
    let bench = bench();
    bench.write("data/ImageSets/Segmentation/train_aug.txt", IDS.join("\n"));
    bench
}

#[test]
fn the_first_experiment_and_its_baseline_plan_and_run() {
    let bench = voc().file("first.toml", RESNET_VIT).file("naive.toml", NAIVE);
    for file in ["resnet50-19c8e357", "deit_base_patch16_224-b5f2ef4d", "vgg16-397923af", "res38_cls"] {
        bench.write(&format!("weights/{file}.pth"), "planning opens no weights");
    }
    for (file, stage) in [("first.toml", "refined"), ("naive.toml", "score_average")] {
        let plan = with(&bench, "plan", file, &[], &[&["vars.voc=data", "vars.weights=weights"]]);
        assert!(plan.stdout.contains(stage), "{}", plan.stdout);
    }

    with(&bench, "run", "first.toml", &from_seed(RESNET_VIT), &[NETWORKS, CLASSIFIERS, ORANDNET]);
    // The baseline shares everything up to the average.
    let plan = with(&bench, "plan", "naive.toml", &from_seed(NAIVE), &[NETWORKS, CLASSIFIERS]);
    for stage in ["resnet ", "vit ", "resnet_cams", "vit_cams", "average "] {
        let line = plan.stdout.lines().find(|line| line.trim_start().starts_with(stage));
        assert!(line.is_some_and(|line| line.contains("cached")), "{stage}: {}", plan.stdout);
    }
    with(&bench, "run", "naive.toml", &from_seed(NAIVE), &[NETWORKS, CLASSIFIERS]);
}

/// COCO in small: four photographs with a box each, and the files that AMN and MCTformer would write for them.
fn coco() -> Workbench {
    let bench = Workbench::new();
    let (height, width) = SIZE;
    let numbers = [9_usize, 25, 30, 34];
    let image = |split: &str, number: usize| serde_json::json!({ "id": number, "file_name": format!("COCO_{split}_{number:012}.jpg"), "height": height, "width": width });
    for split in ["train2014", "val2014"] {
        let images: Vec<_> = numbers.iter().map(|&number| image(split, number)).collect();
        let objects: Vec<_> = numbers
            .iter()
            .zip([1, 90, 1, 18])
            .map(|(number, category)| {
                let outline = [[4, 4, 16, 4, 16, 18, 4, 18]];
                serde_json::json!({ "image_id": number, "category_id": category, "iscrowd": 0, "area": 168.0, "segmentation": outline })
            })
            .collect();
        let categories: Vec<_> = [(1, "person"), (18, "dog"), (90, "toothbrush")]
            .map(|(id, name)| serde_json::json!({ "id": id, "name": name }))
            .to_vec();
        let file = serde_json::json!({ "images": images, "annotations": objects, "categories": categories });
        bench.write(&format!("coco/annotations/instances_{split}.json"), file.to_string());
        for number in numbers {
            bench.write(&format!("coco/{split}/COCO_{split}_{number:012}.jpg"), jpeg(SIZE));
        }
    }
    let floats = |values: &mut dyn Iterator<Item = f32>| values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
    for (number, class) in numbers.into_iter().zip([0_u8, 2, 0, 1]) {
        let item =
            |element, shape: &[usize], data| Item { library: Library::Numpy, element, shape: shape.to_vec(), data };
        let map = |height: usize, width: usize| {
            (0..height * width).map(move |pixel| (pixel % width) as f32 / width as f32 * 0.8 + 0.1)
        };
        let both = |height, width| floats(&mut map(height, width).map(|value| 1.0 - value).chain(map(height, width)));
        let (low, wide) = ((height - 1) / 4 + 1, (width - 1) / 4 + 1);
        let amn = npy_dict(&[
            (Key::Text("keys"), item(Element::I64, &[1], i64::from(class).to_le_bytes().to_vec())),
            (Key::Text("cam"), item(Element::F32, &[2, low, wide], both(low, wide))),
            (Key::Text("high_res"), item(Element::F32, &[2, height, width], both(height, width))),
        ]);
        bench.write(&format!("amn/{number:012}.npy"), amn);
        let mctformer =
            item(Element::F32, &[height, width], floats(&mut map(height, width).map(|value| value * value)));
        bench.write(&format!("mct/COCO_train2014_{number:012}.npy"), npy_dict(&[(Key::Number(class), mctformer)]));
    }
    bench
}

#[test]
fn the_second_experiment_on_coco_plans_and_runs() {
    const OWN: &[&str] = &["vars.coco=coco", "vars.amn=amn", "vars.mctformer=mct"];
    let bench = coco().pipeline(COCO);
    for file in ["resnet50-19c8e357", "vgg16-397923af", "res38_cls"] {
        bench.write(&format!("weights/{file}.pth"), "planning opens no weights");
    }
    let plan = with(&bench, "plan", "pipeline.toml", &[], &[OWN, &["vars.weights=weights"]]);
    assert!(plan.stdout.contains("score_val"), "{}", plan.stdout);
    with(&bench, "run", "pipeline.toml", &from_seed(COCO), &[OWN, NETWORKS, ORANDNET]);
}
