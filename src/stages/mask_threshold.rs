//! `mask.threshold`: soft maps become masks. `threshold.search` finds a threshold; this stage applies one.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::io;
use super::threshold_search::Found;
use crate::artifact::masks;
use crate::image::cam;
use crate::kind::Kind;
use crate::stage::{Ctx, Inputs, Output, Port, Spec, Stage, StageError, Work};

/// Parameters.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// Score of the background, 0 to 1: a pixel is background unless a class scores higher
    ///
    /// Among such classes the highest score wins. Not looked at where the port `threshold` is connected.
    #[serde(default = "default_background")]
    #[schemars(range(min = 0.0, max = 1.0))]
    background: f32,
}

/// ORANDNet's and IRN's threshold for masks from the random walk (SPEC 10.2).
fn default_background() -> f32 {
    0.25
}

/// Where the background's score of a mask set came from; stands in the set's metadata as `threshold`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "policy", rename_all = "snake_case")]
pub(super) enum Policy {
    /// A parameter.
    Fixed {
        /// The background's score.
        background: f64,
    },
    /// A search on ground truth.
    Searched {
        /// The background's score.
        background: f64,
        /// What was searched for.
        objective: String,
        /// The split that the ground truth was of.
        split: Option<String>,
        /// Number of images that were looked at.
        images: usize,
    },
}

/// The stage.
pub(super) struct MaskThreshold;

impl Stage for MaskThreshold {
    type Params = Params;

    const SPEC: Spec = Spec {
        name: "mask.threshold",
        about: "Masks from scores or maps: the largest class score above the background's",
        // 2: masks are deflated in another way.
        revision: 2,
        inputs: &[
            Port { name: "scores", takes: &[Kind::ScoreSet, Kind::CamSet], optional: false, about: "soft maps" },
            Port {
                name: "threshold",
                takes: &[Kind::Metrics],
                optional: true,
                about: "a `threshold.search` whose threshold is used instead of `background`",
            },
        ],
        output: Kind::MaskSet,
        work: Work::PerImage,
        seeded: false,
    };

    fn check(params: &Params) -> Result<(), StageError> {
        if (0.0..=1.0).contains(&params.background) {
            return Ok(());
        }
        let message = format!("scores lie in 0 to 1, and {} does not", params.background);
        Err(StageError::parameter("background", message))
    }

    fn meta(params: &Params, inputs: &Inputs) -> Result<serde_json::Value, StageError> {
        let scores = inputs.get("scores");
        let (policy, oracle) = match found(inputs)? {
            None => (Policy::Fixed { background: decimal(params.background) }, false),
            Some(found) => {
                // Thresholds tuned on other images than these are an ordinary way of choosing them.
                let oracle =
                    scores.ids().iter().any(|id| found.ids.binary_search_by(|known| known.as_str().cmp(id)).is_ok());
                let policy = Policy::Searched {
                    background: found.threshold,
                    objective: found.objective,
                    split: found.split,
                    images: found.ids.len(),
                };
                (policy, oracle)
            }
        };
        Ok(serde_json::json!({
            "classes": io::classes(scores, "scores")?,
            "threshold": policy,
            "oracle": oracle,
        }))
    }

    fn run(params: &Params, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let background = found(ctx.inputs)?.map_or(params.background, |found| found.threshold as f32);
        let class_count = io::classes(ctx.inputs.get("scores"), "scores")?.len();
        let scores = io::maps(ctx, "scores")?;
        let ids: Vec<String> = scores.ids().cloned().collect();
        let masks = io::in_order(ids.par_iter().map(|id| {
            ctx.check_cancelled()?;
            let image = scores.get(id)?;
            io::check_maps(&image, (image.high_res.height(), image.high_res.width()), class_count)?;
            Ok((id.clone(), cam::threshold(&image.high_res, &image.classes, background)))
        }))?;
        Ok(Output::shard(ids, masks::encode(&masks)))
    }
}

fn found(inputs: &Inputs) -> Result<Option<Found>, StageError> {
    let Some(manifest) = inputs.maybe("threshold") else { return Ok(None) };
    Found::deserialize(&manifest.meta).map(Some).map_err(|_| {
        StageError::data_help(
            "the table on port `threshold` has no threshold",
            "connect a stage of kind `threshold.search`, or set `background` and leave the port out",
        )
    })
}

/// Returns the decimal number that a person wrote for an f32: 0.25 and not 0.25000000372529.
pub(super) fn decimal(value: f32) -> f64 {
    value.to_string().parse().expect("a finite number is printed as one")
}
