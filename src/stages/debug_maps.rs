//! `debug.maps`: maps made of the ground truth, so that what works on maps is tried out without a network.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::io;
use crate::artifact::maps::{self, ImageMaps, PackedMaps, stride4};
use crate::digest::Digest;
use crate::image::Maps;
use crate::image::resize::{Coordinates, interpolate_bilinear};
use crate::kind::Kind;
use crate::stage::{Ctx, Inputs, Output, Port, Spec, Stage, StageError, Work};

/// Parameters.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Params {
    /// Value where the class is
    inside: f32,
    /// Value elsewhere
    outside: f32,
    /// How far a value may lie beside these
    noise: f32,
    /// Sets with different seeds have different noise
    seed: u64,
    /// Image ids that get no maps
    without: Vec<String>,
}

impl Default for Params {
    fn default() -> Self {
        Self { inside: 0.7, outside: 0.15, noise: 0.0, seed: 0, without: Vec::new() }
    }
}

/// The stage.
pub(super) struct DebugMaps;

impl Stage for DebugMaps {
    type Params = Params;

    const SPEC: Spec = Spec {
        name: "debug.maps",
        about: "Maps made of the ground truth, to try out what works on maps",
        // 2: maps are packed.
        revision: 2,
        inputs: &[Port {
            name: "images",
            takes: &[Kind::ImageSet],
            optional: false,
            about: "images with ground truth",
        }],
        output: Kind::CamSet,
        work: Work::PerImage,
        seeded: false,
    };

    fn meta(_params: &Params, inputs: &Inputs) -> Result<serde_json::Value, StageError> {
        Ok(serde_json::json!({ "classes": io::classes(inputs.get("images"), "images")? }))
    }

    fn run(params: &Params, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let class_count = io::classes(ctx.inputs.get("images"), "images")?.len();
        let mut made = Vec::new();
        for entry in io::images(ctx, "images")?.iter().filter(|entry| !params.without.contains(&entry.id)) {
            // The pixels are not looked at, only read, as a stage that makes maps would.
            io::pixels(ctx, entry)?;
            let truth = io::ground_truth(ctx, entry, class_count)?;
            let mut rng = ChaCha8Rng::seed_from_u64(params.seed ^ Digest::of(entry.id.as_bytes()).to_u64());
            let mut values = Vec::with_capacity(entry.labels.len() * truth.data().len());
            for &class in &entry.labels {
                values.extend(truth.data().iter().map(|&index| {
                    let value = if index == class + 1 { params.inside } else { params.outside };
                    (value + params.noise * (2.0 * rng.random::<f32>() - 1.0)).clamp(0.0, 1.0)
                }));
            }
            let high_res = Maps::new(entry.labels.len(), entry.height, entry.width, values);
            let (height, width) = (stride4(entry.height), stride4(entry.width));
            let cam = Some(interpolate_bilinear(&high_res, height, width, Coordinates::HalfPixel));
            let (id, classes) = (entry.id.clone(), entry.labels.clone());
            made.push(PackedMaps::new(&ImageMaps { id, classes, cam, high_res }));
        }
        let ids = made.iter().map(|image| image.id().to_owned()).collect();
        Ok(Output::shard(ids, maps::encode(&made)))
    }
}
