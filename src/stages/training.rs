//! What every stage that trains a network shares: recipes, optimisers, hooks into the run, and the artifact that comes out.
//! Knows no network.

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::artifact::weights::{self, NamedTensors, WeightsMeta};
use crate::image::Maps;
use crate::nn::device;
use crate::nn::optim::Rule;
use crate::nn::params::Mismatch;
use crate::nn::train::{Progress, TrainError};
use crate::stage::{Ctx, Inputs, Output, StageError};
use crate::stages::io;

/// Whose values the parameters take that are left out, where the sources disagree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Recipe {
    /// The text of the paper, read sensibly: SGD with a real momentum of 0.9
    #[default]
    Paper,
    /// What the released programs effectively do, slips included: their momentum is the value meant as weight decay
    Upstream,
}

impl Recipe {
    /// Returns what was asked for, or else this recipe's value.
    pub fn or<T>(self, asked: Option<T>, paper: T, upstream: T) -> T {
        asked.unwrap_or(match self {
            Self::Paper => paper,
            Self::Upstream => upstream,
        })
    }
}

/// How gradients become steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    /// Stochastic gradient descent, as all recipes have it
    #[default]
    Sgd,
    /// Adam with its weight decay beside the gradient; `momentum` is not used
    Adamw,
}

impl OptimizerKind {
    /// Returns the rule.
    pub fn rule(self, momentum: f64) -> Rule {
        match self {
            Self::Sgd => Rule::Sgd { momentum },
            Self::Adamw => Rule::adamw(),
        }
    }
}

/// The probability of a horizontal flip in every recipe (SPEC 1.6, 8.3 and 9.2).
pub fn default_flip() -> f64 {
    0.5
}

/// Finds the device of the run.
pub fn device(ctx: &Ctx<'_>) -> Result<Device, StageError> {
    device::named(ctx.device).map_err(|error| StageError::data(error.to_string()))
}

/// Tells the run how a training is doing: `loss`, `learning_rate`, and the steps done.
pub fn report(ctx: &Ctx<'_>, progress: Progress) {
    ctx.metric("loss", progress.done, progress.loss);
    ctx.metric("learning_rate", progress.done, progress.rate);
    ctx.progress(progress.done, progress.steps, "steps");
}

/// Turns what ended a training into what the run shows.
pub fn failed(error: TrainError<StageError>) -> StageError {
    match error {
        TrainError::Cancelled => StageError::Cancelled,
        TrainError::Load(error) => error,
        TrainError::NotFinite { .. } => {
            StageError::data_help(error.to_string(), "try a lower `lr`, or a lower `momentum` with the same `lr`")
        }
        other => StageError::data(other.to_string()),
    }
}

/// Says that weights on `port` do not fit the network that was to take them.
pub fn misfit(port: &str, arch: &str, mismatch: &Mismatch) -> StageError {
    StageError::data_help(
        format!("the `{arch}` weights on port `{port}`: {mismatch}"),
        "weights fit only the network that they were made for, in the same sizes",
    )
}

/// Reads the description that [`output`] kept beside the weights on port `weights`, which must be of architecture `arch`. An
/// error calls the network `what` and says with `help` where its weights come from.
pub fn saved<T: DeserializeOwned>(inputs: &Inputs, arch: &str, what: &str, help: &str) -> Result<T, StageError> {
    let meta = io::weights_meta(inputs.get("weights"), "weights")?;
    if meta.arch != arch {
        let message = format!("port `weights` has weights of `{}` where `{arch}` is due", meta.arch);
        return Err(StageError::data_help(message, help));
    }
    serde_json::from_value(meta.config)
        .map_err(|error| StageError::data(format!("the sizes of the {what} on port `weights` cannot be read: {error}")))
}

/// Makes the artifact of a training.
pub fn output(
    arch: &str,
    config: &impl Serialize,
    classes: Vec<String>,
    tensors: &NamedTensors,
) -> Result<Output, StageError> {
    let json = |error: serde_json::Error| StageError::data(format!("the network's description is no JSON: {error}"));
    let config = serde_json::to_value(config).map_err(json)?;
    let meta = WeightsMeta { arch: arch.to_owned(), config, classes };
    Ok(Output::whole(serde_json::to_value(meta).map_err(json)?, weights::PART, weights::encode(tensors)))
}

/// Stacks maps of one size to `[B, C, H, W]`.
///
/// # Panics
/// If there are none, or sizes differ; crops have made them one.
pub fn stack(images: Vec<Maps>, device: &Device) -> Tensor<4> {
    let first = images.first().expect("a batch has at least one image");
    let (channels, height, width) = (first.channels(), first.height(), first.width());
    let shape = [images.len(), channels, height, width];
    let mut values = Vec::with_capacity(shape.iter().product());
    for image in images {
        assert_eq!((image.channels(), image.height(), image.width()), (channels, height, width), "one size");
        values.extend(image.into_data());
    }
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Works on images of about `pixels` pixels each, in order: small ones side by side on all cores, large ones one after the
/// other, since a network's layers use all cores themselves and need memory for each image.
pub fn spread<T: Sync, R: Send>(
    images: &[T],
    pixels: impl Fn(&T) -> usize,
    work: impl Fn(&T) -> Result<R, StageError> + Sync,
) -> Result<Vec<R>, StageError> {
    /// Images side by side have at most so many pixels together.
    const TOGETHER: usize = 1 << 18;
    let largest = images.iter().map(pixels).max().unwrap_or(1).max(1);
    let side_by_side = (TOGETHER / largest).clamp(1, rayon::current_num_threads());
    let mut results = Vec::with_capacity(images.len());
    for chunk in images.chunks(side_by_side) {
        results.extend(chunk.par_iter().map(&work).collect::<Result<Vec<R>, StageError>>()?);
    }
    Ok(results)
}

/// Refuses a number that is not finite or lies outside of `from..=to`.
pub fn within(name: &str, value: f64, from: f64, to: f64) -> Result<(), StageError> {
    if value.is_finite() && (from..=to).contains(&value) {
        return Ok(());
    }
    let range = if to.is_finite() { format!("from {from} to {to}") } else { format!("{from} or more") };
    Err(StageError::parameter(name, format!("`{name}` is {value}, but must be {range}")))
}

/// Refuses a learning rate that is not a positive number.
pub fn positive(name: &str, value: f64) -> Result<(), StageError> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(StageError::parameter(name, format!("`{name}` is {value}, but must be greater than 0")))
}

/// Refuses a count of zero.
pub fn at_least_one(name: &str, value: usize) -> Result<(), StageError> {
    if value > 0 { Ok(()) } else { Err(StageError::parameter(name, format!("`{name}` is 0, but must be at least 1"))) }
}
