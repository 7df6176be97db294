//! What every stage that trains a network shares: recipes, optimisers, hooks into the run, and the artifact that comes out.
//! Knows no network.

use std::cell::Cell;
use std::time::{Duration, Instant};

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::artifact::weights::{self, NamedTensors, WeightsMeta};
use crate::image::Maps;
use crate::nn::device;
use crate::nn::optim::{Optimizer, Rule};
use crate::nn::params::Mismatch;
use crate::nn::pass::Pass;
use crate::nn::precision::{self, Held, Precision};
use crate::nn::train::{self, Hooks, Keeper, Position, Progress, Sample, Snapshot, TrainError};
use crate::stage::{Ctx, Inputs, Output, StageError};
use crate::stages::{io, room};

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
    /// Adam with its weight decay in the gradient; `momentum` is not used
    Adam,
}

impl OptimizerKind {
    /// Returns the rule.
    pub fn rule(self, momentum: f64) -> Rule {
        match self {
            Self::Sgd => Rule::Sgd { momentum },
            Self::Adamw => Rule::adamw(),
            Self::Adam => Rule::adam(),
        }
    }
}

/// The probability of a horizontal flip in every recipe (SPEC 1.6, 8.3 and 9.2).
pub fn default_flip() -> f64 {
    0.5
}

/// Finds the device of the action, and has products computed there in this precision as long as the guard lives.
pub fn device(ctx: &Ctx<'_>, precision: Precision) -> Result<(Device, Held), StageError> {
    let device = device::named(ctx.device).map_err(|error| StageError::data(error.to_string()))?;
    Ok((device, precision::hold(precision)))
}

/// How often a training keeps a checkpoint besides those at an interruption.
///
/// Written `"10 min"`, `"500 steps"` or `"never"`. A checkpoint is as large as the network and what its optimiser keeps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Every {
    /// After so many minutes.
    Minutes(f64),
    /// After so many steps.
    Steps(usize),
    /// Only when the run is interrupted or SIGUSR1 asks for one.
    Never,
}

impl Default for Every {
    fn default() -> Self {
        Self::Minutes(10.0)
    }
}

impl TryFrom<String> for Every {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let parsed = match words[..] {
            ["never"] => Some(Self::Never),
            [number, "min" | "minute" | "minutes"] => number.parse().ok().map(Self::Minutes),
            [number, "step" | "steps"] => number.parse().ok().map(Self::Steps),
            _ => None,
        };
        match parsed {
            Some(Self::Minutes(minutes)) if !(minutes > 0.0 && minutes.is_finite()) => None,
            Some(Self::Steps(0)) => None,
            other => other,
        }
        .ok_or_else(|| format!("`{text}` is no interval; write `\"10 min\"`, `\"500 steps\"` or `\"never\"`"))
    }
}

impl From<Every> for String {
    fn from(every: Every) -> Self {
        match every {
            Every::Minutes(minutes) => format!("{minutes} min"),
            Every::Steps(steps) => format!("{steps} steps"),
            Every::Never => "never".to_owned(),
        }
    }
}

impl JsonSchema for Every {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Every".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        String::json_schema(generator)
    }
}

/// Trains a network, as [`train::fit`] does, connected to the run: reports, stops when asked, keeps checkpoints and goes on from
/// the last one. All trainings of all stages come through here, so that none forgets.
///
/// `keep` has a word that tells the trainings of one stage apart, as a checkpoint of another one is not gone on from, and how
/// often a checkpoint is kept.
pub fn fit<M: Module, T: Send>(
    ctx: &Ctx<'_>,
    (phase, every): (&str, Every),
    network: M,
    recipe: &train::Recipe,
    optimizer: &mut Optimizer,
    load: impl Fn(Sample) -> Result<T, StageError> + Sync,
    loss: impl FnMut(&M, Vec<T>, &Pass, Position) -> Tensor<1>,
) -> Result<M, StageError> {
    let keeper = Checkpoints { ctx, phase, every, last: Cell::new((0, Instant::now())) };
    let hooks = Hooks {
        report: &|progress| report(ctx, progress),
        cancelled: &|| ctx.check_cancelled().is_err(),
        keeper: Some(&keeper),
    };
    room::training(|| train::fit(network, recipe, optimizer, &hooks, load, loss))?.map_err(failed)
}

/// The checkpoints of one training: a safetensors file with the phase, the network and the optimiser.
struct Checkpoints<'a> {
    ctx: &'a Ctx<'a>,
    phase: &'a str,
    every: Every,
    /// Steps and time at the last one.
    last: Cell<(usize, Instant)>,
}

/// What the names of tensors in a checkpoint begin with.
const NETWORK: &str = "network/";
const OPTIMIZER: &str = "optimizer/";
/// The tensor whose name ends with the phase.
const PHASE: &str = "phase/";

impl Keeper for Checkpoints<'_> {
    fn last(&self) -> Option<Snapshot> {
        let (done, bytes) = self.ctx.checkpoints.newest()?;
        let done = usize::try_from(done).ok()?;
        let tensors = weights::decode(&bytes).map_err(|error| self.unfit(error)).ok()?;
        if !tensors.contains_key(&format!("{PHASE}{}", self.phase)) {
            return None;
        }
        let (mut network, mut optimizer) = (NamedTensors::new(), NamedTensors::new());
        for (name, values) in tensors {
            if let Some(name) = name.strip_prefix(NETWORK) {
                network.insert(name.to_owned(), values);
            } else if let Some(name) = name.strip_prefix(OPTIMIZER) {
                optimizer.insert(name.to_owned(), values);
            }
        }
        self.last.set((done, Instant::now()));
        Some(Snapshot { done, network, optimizer })
    }

    fn due(&self, done: usize) -> bool {
        let (steps, time) = self.last.get();
        let due = match self.every {
            Every::Minutes(minutes) => time.elapsed() >= Duration::from_secs_f64(minutes * 60.0),
            Every::Steps(every) => done >= steps + every,
            Every::Never => false,
        };
        // Asked in any case, so that one wish is met once.
        self.ctx.checkpoints.wanted() || due
    }

    fn keep(&self, snapshot: Snapshot) {
        let mut tensors = NamedTensors::new();
        tensors.insert(format!("{PHASE}{}", self.phase), weights::Values { shape: vec![0], data: Vec::new() });
        tensors.extend(snapshot.network.into_iter().map(|(name, values)| (format!("{NETWORK}{name}"), values)));
        tensors.extend(snapshot.optimizer.into_iter().map(|(name, values)| (format!("{OPTIMIZER}{name}"), values)));
        self.ctx.checkpoints.keep(snapshot.done as u64, weights::encode(&tensors));
        self.last.set((snapshot.done, Instant::now()));
    }

    fn unfit(&self, why: String) {
        self.ctx.warn(format!("the checkpoint cannot be gone on from, so the training starts afresh: {why}"));
    }
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
/// other, since a network's layers use all cores themselves and need memory for each image; on a GPU at least two, so that the host
/// decodes and encodes one while the device computes the other.
pub fn spread<T: Sync, R: Send>(
    ctx: &Ctx<'_>,
    images: &[T],
    pixels: impl Fn(&T) -> usize,
    work: impl Fn(&T) -> Result<R, StageError> + Sync,
) -> Result<Vec<R>, StageError> {
    /// Images side by side have at most so many pixels together.
    const TOGETHER: usize = 1 << 18;
    let largest = images.iter().map(pixels).max().unwrap_or(1).max(1);
    let least = if ["cpu", "libtorch"].contains(&ctx.device) { 1 } else { 2 };
    let side_by_side = (TOGETHER / largest).clamp(least, rayon::current_num_threads().max(least));
    let mut results = Vec::with_capacity(images.len());
    for chunk in images.chunks(side_by_side) {
        let mut together = |chunk: &[T]| io::in_order(chunk.par_iter().map(&work));
        results.extend(room::halving(chunk, "images", &|text| ctx.warn(text), &mut together)?);
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

/// Refuses factors on the size of images that make no sense.
pub fn scales(scales: &[f64]) -> Result<(), StageError> {
    if scales.is_empty() {
        return Err(StageError::parameter("scales", "`scales` is empty: give at least one factor, such as 1.0"));
    }
    scales.iter().try_for_each(|&scale| within("scales", scale, 0.05, 20.0))
}

/// Refuses a count of zero.
pub fn at_least_one(name: &str, value: usize) -> Result<(), StageError> {
    if value > 0 { Ok(()) } else { Err(StageError::parameter(name, format!("`{name}` is 0, but must be at least 1"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read_as_they_are_written() {
        for (text, every) in
            [("10 min", Every::Minutes(10.0)), ("0.5 min", Every::Minutes(0.5)), ("500 steps", Every::Steps(500))]
        {
            assert_eq!(Every::try_from(text.to_owned()), Ok(every));
            assert_eq!(String::from(every), text);
        }
        assert_eq!(Every::try_from("never".to_owned()), Ok(Every::Never));
        for wrong in ["", "10", "-1 min", "0 steps", "NaN min", "1.5 steps", "inf min"] {
            assert!(Every::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
