//! `evaluate`: masks against ground truth, with the protocol that makes the scores comparable.

use std::collections::BTreeMap;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::io;
use crate::artifact::images::ImageEntry;
use crate::artifact::metrics::{self, ClassScores, Protocol, Table};
use crate::data::{count, listed};
use crate::image::LabelMap;
use crate::kind::Kind;
use crate::metric::Confusion;
use crate::stage::{Ctx, Inputs, Output, Port, Spec, Stage, StageError, Work};

/// What becomes of predicted pixels of index 255, such as the unsure ones of a seed set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum IgnoredPrediction {
    /// they do not count
    #[default]
    Drop,
    /// they count as background, as in IRN's evaluation
    Background,
}

/// Parameters.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// Number of classes that are scored, the background among them; without it all
    ///
    /// Pixels whose true or predicted class is another do not count. The programs released with the paper score 20 of VOC's 21
    /// classes, all but `tvmonitor`.
    #[serde(default)]
    #[schemars(range(min = 1))]
    num_classes: Option<usize>,
    /// What becomes of predicted pixels of index 255, such as the unsure ones of a seed set
    #[serde(default)]
    ignored_prediction: IgnoredPrediction,
}

/// The stage.
pub(super) struct Evaluate;

impl Stage for Evaluate {
    type Params = Params;

    const SPEC: Spec = Spec {
        name: "evaluate",
        about: "Mean IoU, precision and recall of masks against ground truth, over the images that both sides have",
        revision: 1,
        inputs: &[
            Port {
                name: "prediction",
                takes: &[Kind::MaskSet, Kind::SeedSet],
                optional: false,
                about: "masks to score",
            },
            Port { name: "truth", takes: &[Kind::ImageSet], optional: false, about: "images with ground-truth masks" },
        ],
        output: Kind::Metrics,
        work: Work::Whole,
        seeded: false,
    };

    fn meta(params: &Params, inputs: &Inputs) -> Result<serde_json::Value, StageError> {
        Scored::of(inputs, "prediction", params.num_classes)?;
        Ok(serde_json::Value::Null)
    }

    fn run(params: &Params, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let scored = Scored::of(ctx.inputs, "prediction", params.num_classes)?;
        let truth = truth_by_id(ctx)?;
        let empty = Confusion::new(scored.count);
        let shards = ctx.shards("prediction");
        let confusion = shards
            .par_iter()
            .map(|entry| {
                let mut confusion = empty.clone();
                for (id, mut prediction) in io::masks_in(ctx, "prediction", entry)? {
                    ctx.check_cancelled()?;
                    let Some(entry) = truth.get(&id) else { continue };
                    let mask = io::ground_truth(ctx, entry, scored.classes.len())?;
                    io::check_mask(&prediction, &id, (mask.height(), mask.width()), scored.classes.len())?;
                    if params.ignored_prediction == IgnoredPrediction::Background {
                        for index in prediction.data_mut().iter_mut().filter(|index| **index == LabelMap::IGNORE) {
                            *index = 0;
                        }
                    }
                    confusion.add(mask.data(), prediction.data());
                }
                Ok(confusion)
            })
            .try_reduce(
                || empty.clone(),
                |mut all, more| {
                    all.merge(&more);
                    Ok::<_, StageError>(all)
                },
            )?;
        let prediction = &ctx.inputs.get("prediction").meta;
        let policy = prediction.get("threshold").cloned().unwrap_or_default();
        let oracle = prediction.get("oracle").and_then(serde_json::Value::as_bool).unwrap_or(false);
        let ignored = match params.ignored_prediction {
            IgnoredPrediction::Drop => "pixels of index 255 in the truth or in the prediction",
            IgnoredPrediction::Background => "pixels of index 255 in the truth; 255 in the prediction is background",
        };
        let table = table(&scored, &confusion, policy, oracle, ignored);
        let meta = serde_json::json!({ "classes": scored.classes, "split": scored.split, "oracle": oracle });
        Ok(Output::whole(meta, metrics::PART, metrics::encode(&table)))
    }
}

/// What is scored: known before anything is read.
pub(super) struct Scored {
    /// Names of all classes, the background first.
    pub(super) classes: Vec<String>,
    /// How many of them are scored.
    pub(super) count: usize,
    /// The split of the ground truth.
    pub(super) split: Option<String>,
    /// The images that both sides have, sorted.
    pub(super) common: Vec<String>,
    only_predicted: usize,
    only_true: usize,
}

impl Scored {
    /// Looks at what is on `port` and on `truth`; an error if the two cannot be compared.
    pub(super) fn of(inputs: &Inputs, port: &'static str, num_classes: Option<usize>) -> Result<Self, StageError> {
        let classes = io::common_classes(inputs, &[port, "truth"])?;
        let scored = num_classes.unwrap_or(classes.len());
        if !(1..=classes.len()).contains(&scored) {
            let message = format!("`num_classes` is {scored}, but there are {} classes", classes.len());
            return Err(StageError::parameter("num_classes", message));
        }
        let (prediction, truth) = (inputs.get(port), inputs.get("truth"));
        if truth.meta.get("truth").and_then(serde_json::Value::as_bool) == Some(false) {
            return Err(StageError::data_help(
                "the images on port `truth` have no ground truth",
                "connect a set that has masks, such as a `dataset.voc` with `masks = \"SegmentationClass\"`",
            ));
        }
        let (predicted, known) = (prediction.ids(), truth.ids());
        let common: Vec<String> =
            predicted.iter().filter(|id| known.binary_search(id).is_ok()).map(|&id| id.to_owned()).collect();
        if common.is_empty() {
            return Err(StageError::data_help(
                format!(
                    "ports `{port}` and `truth` have no image in common: {} there, such as {}, and {} here, such as {}",
                    count(predicted.len(), "image", "images"),
                    listed(&predicted[..predicted.len().min(1)]),
                    count(known.len(), "image", "images"),
                    listed(&known[..known.len().min(1)])
                ),
                "score masks of the images that the ground truth is of",
            ));
        }
        Ok(Self {
            count: scored,
            split: truth.meta.get("split").and_then(|split| split.as_str()).map(str::to_owned),
            only_predicted: predicted.len() - common.len(),
            only_true: known.len() - common.len(),
            classes,
            common,
        })
    }
}

/// Reads the images on port `truth` by id.
pub(super) fn truth_by_id(ctx: &Ctx<'_>) -> Result<BTreeMap<String, ImageEntry>, StageError> {
    Ok(io::images(ctx, "truth")?.into_iter().map(|image| (image.id.clone(), image)).collect())
}

/// Makes the table of a confusion matrix over at least the classes that are scored.
pub(super) fn table(
    scored: &Scored,
    confusion: &Confusion,
    threshold: serde_json::Value,
    oracle: bool,
    ignored: &str,
) -> Table {
    let confusion = confusion.of_first(scored.count);
    let scores = confusion.scores();
    let per_class = scored.classes.iter().take(scored.count).enumerate().map(|(class, name)| ClassScores {
        name: name.clone(),
        iou: number(scores.iou[class]),
        precision: number(scores.precision[class]),
        recall: number(scores.recall[class]),
    });
    let ignored = if scored.count < scored.classes.len() {
        format!("{ignored}; pixels whose true or predicted class is {} or above", scored.count)
    } else {
        ignored.to_owned()
    };
    Table {
        miou: number(scores.mean_iou),
        precision: number(scores.mean_precision),
        recall: number(scores.mean_recall),
        pixel_accuracy: number(scores.pixel_accuracy),
        per_class: per_class.collect(),
        confusion: confusion.counts().chunks_exact(scored.count).map(<[u64]>::to_vec).collect(),
        protocol: Protocol {
            split: scored.split.clone(),
            images: scored.common.len(),
            only_predicted: scored.only_predicted,
            only_true: scored.only_true,
            classes_scored: scored.count,
            classes: scored.classes.len(),
            ignored,
            threshold,
            oracle,
        },
        area_under_curve: None,
        curve: Vec::new(),
    }
}

/// Returns a score, or nothing where it is 0 / 0.
pub(super) fn number(score: f64) -> Option<f64> {
    score.is_finite().then_some(score)
}
