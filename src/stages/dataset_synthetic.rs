//! `dataset.synthetic`: an image set that is drawn instead of read. The pictures are parts of the artifact.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::artifact::images::{self, ImageEntry};
use crate::data::synthetic::{MOST_CLASSES, Recipe, class_names};
use crate::data::voc::labels_of;
use crate::digest::Digest;
use crate::image::codec;
use crate::kind::Kind;
use crate::stage::{Ctx, Inputs, NotInKey, Output, SourceItem, Sources, Spec, Stage, StageError, Work};
use crate::stages::io;

/// Smallest picture in which objects can be told apart, in pixels.
const SMALLEST: usize = 16;
/// Largest picture, in pixels.
const LARGEST: usize = 4096;

/// Parameters. Picture 42 of a split is the same in a set of 50 and in one of 5000.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// Number of images
    #[schemars(range(min = 1))]
    count: NotInKey<usize>,
    /// Name of the split: sets with different names have different images
    #[serde(default = "default_split")]
    split: String,
    /// Height and width of each image, in pixels
    #[serde(default = "default_size")]
    #[schemars(range(min = 16, max = 4096))]
    size: usize,
    /// Number of foreground classes; pairs of them share the body and differ in a small mark
    #[serde(default = "default_classes")]
    #[schemars(range(min = 2, max = 8))]
    classes: usize,
    /// Largest number of objects in an image; an image has 1 to 3 classes
    #[serde(default = "default_objects")]
    #[schemars(range(min = 1, max = 16))]
    objects: usize,
    /// Whether the set carries the exact masks as its ground truth
    #[serde(default = "default_masks")]
    masks: bool,
    /// Sets with different seeds have different images; the pipeline's seed does not touch a data set
    #[serde(default)]
    seed: u64,
}

fn default_split() -> String {
    "train".to_owned()
}

fn default_size() -> usize {
    64
}

fn default_classes() -> usize {
    4
}

fn default_objects() -> usize {
    3
}

fn default_masks() -> bool {
    true
}

/// Facts of an item.
#[derive(Serialize, Deserialize)]
struct Facts {
    index: usize,
}

/// The stage.
pub(super) struct DatasetSynthetic;

impl Stage for DatasetSynthetic {
    type Params = Params;

    const SPEC: Spec = Spec {
        name: "dataset.synthetic",
        about: "Drawn images of textured objects with image-level labels and exact masks",
        // 2: masks are deflated in another way.
        revision: 2,
        inputs: &[],
        output: Kind::ImageSet,
        work: Work::PerImage,
        seeded: false,
    };

    fn check(params: &Params) -> Result<(), StageError> {
        let within = |name: &str, value: usize, least: usize, most: usize| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                let message = format!("{value} is not from {least} to {most}");
                Err(StageError::parameter(name, message))
            }
        };
        within("count", params.count.0, 1, 10_000_000)?;
        within("size", params.size, SMALLEST, LARGEST)?;
        within("classes", params.classes, 2, MOST_CLASSES)?;
        within("objects", params.objects, 1, 16)?;
        let plain = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '-' | '.');
        if params.split.is_empty() || !params.split.chars().all(plain) {
            let message = format!("`{}` cannot begin image ids: use letters, digits, `_`, `-` and `.`", params.split);
            return Err(StageError::parameter("split", message));
        }
        Ok(())
    }

    fn sources(params: &Params, _inputs: &Inputs) -> Result<Sources, StageError> {
        let items = (0..params.count.0).map(|index| SourceItem {
            id: format!("{}_{index:05}", params.split),
            files: Vec::new(),
            facts: serde_json::to_value(Facts { index }).expect("an index is JSON"),
        });
        Ok(Sources { items: items.collect(), files: Vec::new(), facts: serde_json::Value::Null })
    }

    fn meta(params: &Params, _inputs: &Inputs) -> Result<serde_json::Value, StageError> {
        Ok(serde_json::json!({ "classes": class_names(params.classes), "split": params.split, "truth": params.masks }))
    }

    fn run(params: &Params, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let recipe = Recipe {
            size: params.size,
            classes: params.classes,
            objects: params.objects,
            seed: params.seed,
            split: params.split.clone(),
        };
        let drawn = io::in_order(ctx.items.par_iter().map(|item| {
            ctx.check_cancelled()?;
            let facts = Facts::deserialize(&item.facts)
                .map_err(|error| StageError::data(format!("item `{}` has no index: {error}", item.id)))?;
            let (image, mask) = recipe.draw(facts.index);
            let (pixels, indices) = (codec::encode_rgb(&image), codec::encode_mask(&mask));
            let entry = ImageEntry {
                id: item.id.clone(),
                image: Digest::of(&pixels),
                height: params.size,
                width: params.size,
                labels: labels_of(&mask),
                mask: params.masks.then(|| Digest::of(&indices)),
            };
            Ok((entry, pixels, indices))
        }))?;
        let mut entries: Vec<ImageEntry> = drawn.iter().map(|(entry, ..)| entry.clone()).collect();
        entries.sort_by(|a, b| a.id.cmp(&b.id));
        let ids = entries.iter().map(|entry| entry.id.clone()).collect();
        let mut output = Output::shard(ids, images::encode(&entries));
        for (entry, pixels, indices) in drawn {
            output.parts.insert(format!("image/{}.png", entry.id), pixels);
            if params.masks {
                output.parts.insert(format!("mask/{}.png", entry.id), indices);
            }
        }
        Ok(output)
    }
}
