//! `threshold.search`: soft maps scored against ground truth at many thresholds, and the best of them. Makes no masks.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::evaluate::{Scored, number, table, truth_by_id};
use super::io;
use super::mask_threshold::decimal;
use crate::artifact::metrics::{self, CurvePoint};
use crate::kind::Kind;
use crate::metric::{Sweep, sweep};
use crate::stage::{Ctx, Inputs, Output, Port, Spec, Stage, StageError, Work};

/// Most thresholds that are tried.
const MOST: usize = 10_000;

/// What makes a threshold the best.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Objective {
    /// the largest mean IoU
    #[default]
    Miou,
    /// the first threshold whose mean precision is above its mean recall, as upstream's `finding_best_thres`
    PrecisionOverRecall,
}

/// Parameters.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// What makes a threshold the best
    #[serde(default)]
    objective: Objective,
    /// Lowest threshold, 0 to 1 (upstream's search begins at 0.1)
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    lowest: f64,
    /// Highest threshold, 0 to 1
    #[serde(default = "default_highest")]
    #[schemars(range(min = 0.0, max = 1.0))]
    highest: f64,
    /// Distance between thresholds
    #[serde(default = "default_step")]
    step: f64,
    /// Number of classes that are scored, the background among them; without it all
    ///
    /// Pixels whose true or predicted class is another do not count.
    #[serde(default)]
    #[schemars(range(min = 1))]
    num_classes: Option<usize>,
}

fn default_highest() -> f64 {
    0.8
}

fn default_step() -> f64 {
    0.01
}

/// What a search found; the metadata of its table, beside its class list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Found {
    /// The best threshold.
    pub(super) threshold: f64,
    /// What was searched for.
    pub(super) objective: String,
    /// The split that the ground truth is of.
    pub(super) split: Option<String>,
    /// Always true: what is scored here is also what was looked at.
    pub(super) oracle: bool,
    /// The images that were looked at, sorted.
    pub(super) ids: Vec<String>,
}

/// The stage.
pub(super) struct ThresholdSearch;

impl Stage for ThresholdSearch {
    type Params = Params;

    const SPEC: Spec = Spec {
        // 2: the table has the area under its curve.
        name: "threshold.search",
        about: "Scores at every threshold against ground truth, and the best of them: an oracle for the images that it looks at",
        revision: 2,
        inputs: &[
            Port { name: "scores", takes: &[Kind::ScoreSet, Kind::CamSet], optional: false, about: "soft maps" },
            Port { name: "truth", takes: &[Kind::ImageSet], optional: false, about: "images with ground-truth masks" },
        ],
        output: Kind::Metrics,
        work: Work::Whole,
        seeded: false,
    };

    fn check(params: &Params) -> Result<(), StageError> {
        for (name, value) in [("lowest", params.lowest), ("highest", params.highest)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(StageError::parameter(name, format!("scores lie in 0 to 1, and {value} does not")));
            }
        }
        if params.highest < params.lowest {
            let message = format!("{} is below `lowest`, which is {}", params.highest, params.lowest);
            return Err(StageError::parameter("highest", message));
        }
        if !(params.step > 0.0 && (params.highest - params.lowest) / params.step < MOST as f64) {
            let message = format!("{} is not above 0, or gives {MOST} thresholds or more", params.step);
            return Err(StageError::parameter("step", message));
        }
        Ok(())
    }

    fn meta(params: &Params, inputs: &Inputs) -> Result<serde_json::Value, StageError> {
        Scored::of(inputs, "scores", params.num_classes)?;
        Ok(serde_json::Value::Null)
    }

    fn run(params: &Params, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let scored = Scored::of(ctx.inputs, "scores", params.num_classes)?;
        let truth = truth_by_id(ctx)?;
        let empty = Sweep::new(scored.classes.len(), params.thresholds());
        let shards = ctx.shards("scores");
        let sweep = shards
            .par_iter()
            .map(|entry| {
                let mut sweep = empty.clone();
                let images = io::maps_in(ctx, "scores", entry)?;
                for id in images.ids() {
                    ctx.check_cancelled()?;
                    let Some(entry) = truth.get(id) else { continue };
                    let image = images.get(id)?;
                    let mask = io::ground_truth(ctx, entry, scored.classes.len())?;
                    io::check_maps(&image, (entry.height, entry.width), scored.classes.len())?;
                    sweep.add(&image.high_res, &image.classes, &mask);
                }
                Ok(sweep)
            })
            .try_reduce(
                || empty.clone(),
                |mut all, more| {
                    all.merge(&more);
                    Ok::<_, StageError>(all)
                },
            )?;
        let curve = sweep.curve(scored.count);
        let (objective, name) = match params.objective {
            Objective::Miou => (sweep::Objective::MeanIou, "miou"),
            Objective::PrecisionOverRecall => (sweep::Objective::PrecisionOverRecall, "precision_over_recall"),
        };
        let best = objective.best(&curve).ok_or_else(|| {
            StageError::data_help(
                format!(
                    "no threshold from {} to {} has a mean precision above its mean recall",
                    params.lowest, params.highest
                ),
                "raise `highest`, or search with `objective = \"miou\"`",
            )
        })?;
        let threshold = decimal(curve[best].threshold);
        let found = Found {
            threshold,
            objective: name.to_owned(),
            split: scored.split.clone(),
            oracle: true,
            ids: scored.common.clone(),
        };
        let policy = serde_json::json!({ "policy": "searched", "background": threshold, "objective": name });
        let mut table = table(&scored, &sweep.confusion(best), policy, true, "pixels of index 255 in the truth");
        table.curve = curve
            .iter()
            .map(|point| CurvePoint {
                threshold: decimal(point.threshold),
                miou: number(point.miou),
                precision: number(point.precision),
                recall: number(point.recall),
            })
            .collect();
        table.area_under_curve = table.area();
        let mut meta = serde_json::to_value(&found).expect("what was found is JSON");
        meta["classes"] = scored.classes.into();
        Ok(Output::whole(meta, metrics::PART, metrics::encode(&table)))
    }
}

impl Params {
    /// Returns the thresholds, ascending; each is the decimal number that the step suggests.
    fn thresholds(&self) -> Vec<f32> {
        let count = ((self.highest - self.lowest) / self.step + 1e-6).floor() as usize;
        let mut thresholds: Vec<f32> = (0..=count)
            .map(|index| {
                let value = self.lowest + index as f64 * self.step;
                ((value * 1e9).round() / 1e9) as f32
            })
            .collect();
        thresholds.dedup();
        thresholds
    }
}
