//! `segment.train` and `segment.predict`: a segmentation network is trained on pseudo masks and segments images (SPEC 9).

use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::artifact::images::ImageEntry;
use crate::artifact::masks;
use crate::data::augment::{Augmentation, Sample, Scale};
use crate::data::shrink::shrink;
use crate::image::{LabelMap, Maps, large};
use crate::kind::Kind;
use crate::nn::layers::NormKind;
use crate::nn::optim::{Group, Optimizer, Schedule};
use crate::nn::params;
use crate::nn::pass::Pass;
use crate::nn::precision::Precision;
use crate::nn::resnet38::{ARCH, Merge, Resnet38, Resnet38Config, SegmentationLoss};
use crate::nn::segmenter::{SCALES, Segmenter, Settings};
use crate::nn::train;
use crate::stage::{Ctx, Devices, Inputs, NotInKey, Output, Port, Spec, Stage, StageError, Work};
use crate::stages::io;
use crate::stages::shelf::Shelf;
use crate::stages::training::{self, Every, OptimizerKind, Recipe};

/// Sizes that go together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Preset {
    /// ResNet-38 with frozen norms, made to start from trained weights: 124 million parameters
    #[default]
    Resnet38,
    /// The same in small, a million parameters, with batch norm, made to start from the seed
    Resnet38Tiny,
}

/// Images are smaller in early epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ScaleStep {
    /// Height and width of image and mask are divided by this after the crop
    #[schemars(range(min = 1))]
    factor: usize,
    /// The first epoch, from 0, in which it no longer holds; with `reading = "consecutive"` the number of epochs that it holds
    #[schemars(range(min = 1))]
    until: usize,
}

/// How a scale schedule is read: the paper's sentence allows both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Reading {
    /// Each step lasts until an epoch that is counted from the start: 8, 4, 2 until 2, 4, 6 are six epochs
    #[default]
    Nested,
    /// Each step lasts so many epochs: 8, 4, 2 for 2, 4, 6 are twelve epochs
    Consecutive,
}

/// Parameters of `segment.train`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TrainParams {
    /// Whose values the parameters take that are left out, where paper and program disagree
    #[serde(default)]
    recipe: Recipe,
    /// Sizes that go together
    #[serde(default)]
    preset: Preset,
    /// Channels after the first convolution, after `b2` to `b7`, and within the head; default: the preset's
    #[serde(default)]
    widths: Option<[usize; 8]>,
    /// Blocks in `b2` to `b5`, at most 3, 3, 6 and 3; default: the preset's (3, 3, 6, 3 or 1, 1, 2, 1)
    #[serde(default)]
    blocks: Option<[usize; 4]>,
    /// Strides of `b2`, `b3` and `b4`; default: 2, 2, 2
    #[serde(default)]
    strides: Option<[usize; 3]>,
    /// Dilations of `b5`, `b6`, `b7` and the head; default: the preset's (2, 4, 4, 12 or 2, 2, 4, 4)
    #[serde(default)]
    dilations: Option<[usize; 4]>,
    /// Normalisation; `frozen` also freezes the first convolution, and only makes sense with `init`; default: the preset's
    /// (`frozen` or `batch`)
    #[serde(default)]
    norm: Option<NormKind>,
    /// Side of the square that is cut from each image, in pixels
    #[serde(default = "default_crop")]
    #[schemars(range(min = 8))]
    crop: usize,
    /// Smallest and largest factor by which an image is resized before it is cut
    #[serde(default = "default_scale")]
    scale: [f64; 2],
    /// Probability of a horizontal flip
    #[serde(default = "training::default_flip")]
    #[schemars(range(min = 0.0, max = 1.0))]
    flip: f64,
    /// How often each image is seen
    #[serde(default = "default_epochs")]
    #[schemars(range(min = 1))]
    epochs: usize,
    /// Images per step
    #[serde(default = "default_batch")]
    #[schemars(range(min = 1))]
    batch: usize,
    /// Learning rate of all but the head before the first step
    #[serde(default = "default_lr")]
    lr: f64,
    /// The head's learning rate as a multiple of `lr`
    #[serde(default = "default_head_rate")]
    head_rate: f64,
    /// Momentum of SGD; default: 0.9 (paper), 0.00001 (upstream)
    #[serde(default)]
    momentum: Option<f64>,
    /// Weight decay; default: 0.00001 (paper: what upstream meant), 0 (upstream: what it does)
    #[serde(default)]
    weight_decay: Option<f64>,
    /// How gradients become steps
    #[serde(default)]
    optimizer: OptimizerKind,
    /// How the learning rate moves over the steps
    #[serde(default)]
    schedule: Schedule,
    /// Whether background and objects weigh half each in the loss; default: true (paper), false (upstream)
    #[serde(default)]
    balance: Option<bool>,
    /// Probability that a target spreads over the other classes; default: 0.4 (paper, after AMN), 0 (upstream)
    #[serde(default)]
    smoothing: Option<f64>,
    /// Smaller images in early epochs; default: factors 8, 4, 2 until epochs 2, 4, 6 (paper), none (upstream)
    #[serde(default)]
    scale_schedule: Option<Vec<ScaleStep>>,
    /// How `scale_schedule` is read
    #[serde(default)]
    reading: Reading,
    /// In which numbers convolutions and matrix products are computed; weights, sums of gradients and all else are f32
    #[serde(default)]
    precision: Precision,
    /// How often a checkpoint is kept besides those at an interruption: `"10 min"`, `"500 steps"` or `"never"`
    #[serde(default)]
    checkpoint: NotInKey<Every>,
}

fn default_crop() -> usize {
    321
}

fn default_scale() -> [f64; 2] {
    [0.7, 1.3]
}

fn default_epochs() -> usize {
    30
}

fn default_batch() -> usize {
    4
}

fn default_lr() -> f64 {
    7e-4
}

fn default_head_rate() -> f64 {
    10.0
}

impl TrainParams {
    fn config(&self, classes: usize) -> Resnet38Config {
        let preset = match self.preset {
            Preset::Resnet38 => Resnet38Config::resnet38(classes),
            Preset::Resnet38Tiny => Resnet38Config::tiny(classes),
        };
        Resnet38Config {
            widths: self.widths.unwrap_or(preset.widths),
            blocks: self.blocks.unwrap_or(preset.blocks),
            strides: self.strides.unwrap_or(preset.strides),
            dilations: self.dilations.unwrap_or(preset.dilations),
            norm: self.norm.unwrap_or(preset.norm),
            ..preset
        }
    }

    fn loss(&self) -> SegmentationLoss {
        SegmentationLoss {
            balance: self.recipe.or(self.balance, true, false),
            smoothing: self.recipe.or(self.smoothing, 0.4, 0.0),
        }
    }

    fn momentum(&self) -> f64 {
        self.recipe.or(self.momentum, 0.9, 1e-5)
    }

    fn weight_decay(&self) -> f64 {
        self.recipe.or(self.weight_decay, 1e-5, 0.0)
    }

    fn scale_schedule(&self) -> Vec<ScaleStep> {
        let paper = [(8, 2), (4, 4), (2, 6)].map(|(factor, until)| ScaleStep { factor, until });
        self.recipe.or(self.scale_schedule.clone(), paper.to_vec(), Vec::new())
    }

    /// Returns what sides are divided by in an epoch.
    fn factor(&self, epoch: usize) -> usize {
        let mut end = 0;
        for step in self.scale_schedule() {
            end = match self.reading {
                Reading::Nested => step.until,
                Reading::Consecutive => end + step.until,
            };
            if epoch < end {
                return step.factor;
            }
        }
        1
    }
}

/// `segment.train`.
pub(super) struct Train;

impl Stage for Train {
    type Params = TrainParams;
    const DEVICES: Devices = Devices::One;

    const SPEC: Spec = Spec {
        name: "segment.train",
        about: "Train a segmentation network on masks",
        // 2: JPEGs decode to the pixels of libjpeg-turbo.
        // 3: convolutions and their gradients are added up in another order.
        revision: 3,
        inputs: &[
            Port { name: "images", takes: &[Kind::ImageSet], optional: false, about: "images to train on" },
            Port {
                name: "masks",
                takes: &[Kind::MaskSet, Kind::SeedSet],
                optional: false,
                about: "a mask for each image; 255 counts for nothing",
            },
            Port {
                name: "init",
                takes: &[Kind::Weights],
                optional: true,
                about: "ResNet-38 weights to start from; without them the seed decides",
            },
        ],
        output: Kind::Weights,
        work: Work::Whole,
        seeded: true,
    };

    fn resolve(params: TrainParams) -> TrainParams {
        // The number of classes decides nothing that is filled in.
        let config = params.config(2);
        TrainParams {
            widths: Some(config.widths),
            blocks: Some(config.blocks),
            strides: Some(config.strides),
            dilations: Some(config.dilations),
            norm: Some(config.norm),
            momentum: Some(params.momentum()),
            weight_decay: Some(params.weight_decay()),
            balance: Some(params.loss().balance),
            smoothing: Some(params.loss().smoothing),
            scale_schedule: Some(params.scale_schedule()),
            ..params
        }
    }

    fn check(params: &TrainParams) -> Result<(), StageError> {
        let config = params.config(21);
        let sizes =
            [("widths", &config.widths[..]), ("strides", &config.strides[..]), ("dilations", &config.dilations[..])];
        for (name, values) in sizes {
            if values.contains(&0) {
                return Err(StageError::parameter(name, format!("every value of `{name}` must be at least 1")));
            }
        }
        if config.widths[5..7].iter().any(|width| !width.is_multiple_of(4)) || !config.widths[4].is_multiple_of(2) {
            let message = "in `widths` the fifth value must be even, the sixth and seventh multiples of 4";
            return Err(StageError::parameter("widths", message));
        }
        if config.blocks.iter().zip([3, 3, 6, 3]).any(|(&blocks, most)| blocks == 0 || blocks > most) {
            return Err(StageError::parameter("blocks", "`blocks` must be from 1 to 3, 3, 6 and 3"));
        }
        if params.crop < 8 {
            return Err(StageError::parameter("crop", format!("`crop` is {}, but must be at least 8", params.crop)));
        }
        let [smallest, largest] = params.scale;
        training::within("scale", smallest, 0.05, 20.0)?;
        training::within("scale", largest, smallest, 20.0)?;
        training::within("flip", params.flip, 0.0, 1.0)?;
        training::at_least_one("epochs", params.epochs)?;
        training::at_least_one("batch", params.batch)?;
        training::positive("lr", params.lr)?;
        training::positive("head_rate", params.head_rate)?;
        training::within("momentum", params.momentum(), 0.0, 0.9999)?;
        training::within("weight_decay", params.weight_decay(), 0.0, f64::INFINITY)?;
        training::within("smoothing", params.loss().smoothing, 0.0, 0.9999)?;
        let steps = params.scale_schedule();
        if steps.iter().any(|step| step.factor == 0 || step.until == 0) {
            let message = "`factor` and `until` of each step must be at least 1";
            return Err(StageError::parameter("scale_schedule", message));
        }
        if params.reading == Reading::Nested && !steps.is_sorted_by(|a, b| a.until < b.until) {
            let message = "`until` must grow from step to step, or `reading` be \"consecutive\"";
            return Err(StageError::parameter("scale_schedule", message));
        }
        Ok(())
    }

    fn meta(_params: &TrainParams, inputs: &Inputs) -> Result<Value, StageError> {
        io::common_classes(inputs, &["images", "masks"])?;
        io::check_covers(inputs, "masks", "images")?;
        Ok(Value::Null)
    }

    fn run(params: &TrainParams, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        Self::meta(params, ctx.inputs)?;
        let (device, _held) = training::device(ctx, params.precision)?;
        let classes = io::common_classes(ctx.inputs, &["images", "masks"])?;
        let config = params.config(classes.len());
        let mut network = initial(&config, ctx, &device)?;
        if config.norm == NormKind::Frozen {
            network = network.frozen();
        }

        let images = io::images(ctx, "images")?;
        let masks = Shelf::new(ctx, "masks");
        let augmentation = Augmentation {
            scale: Scale::Factor { smallest: params.scale[0], largest: params.scale[1] },
            flip: params.flip,
            jitter: None,
            crop: Some(params.crop),
        };
        let load = |mut sample: train::Sample| {
            let entry = &images[sample.index];
            let (image, mask) = (io::pixels(ctx, entry)?, masks.mask(&entry.id)?);
            io::check_mask(&mask, &entry.id, (entry.height, entry.width), classes.len())?;
            let drawn = augmentation.apply(&image, Some(&mask), &mut sample.random);
            Ok(shrink(drawn, params.factor(sample.epoch)))
        };
        let recipe = train::Recipe {
            items: images.len(),
            batch: params.batch,
            epochs: params.epochs,
            drop_last: true,
            rate: params.lr,
            schedule: params.schedule,
            warmup: 0,
            seed: ctx.seed,
            epoch_rates: Vec::new(),
        };
        let (decay, head_rate) = (params.weight_decay(), params.head_rate);
        let mut optimizer = Optimizer::new(params.optimizer.rule(params.momentum()), None, move |name| Group {
            rate: if Resnet38::is_head(name) { head_rate } else { 1.0 },
            decay,
        });
        let loss = params.loss();
        let keep = ("", params.checkpoint.0);
        let loss = |network: &Resnet38, samples: Vec<Sample>, pass: &Pass, _| {
            let (pixels, masks) = batch(samples, &device.clone().autodiff());
            loss.of(network.forward(pixels, pass), &masks)
        };
        let trained = training::fit(ctx, keep, network, &recipe, &mut optimizer, load, loss)?;
        training::output(ARCH, &config, classes, &params::export(&trained))
    }
}

/// Stacks samples of one size.
fn batch(samples: Vec<Sample>, device: &Device) -> (Tensor<4>, Vec<LabelMap>) {
    let (images, masks): (Vec<Maps>, Vec<Option<LabelMap>>) =
        samples.into_iter().map(|sample| (sample.image, sample.mask)).unzip();
    (training::stack(images, device), masks.into_iter().flatten().collect())
}

/// Draws the network, and takes over what `init` has for it.
fn initial(config: &Resnet38Config, ctx: &Ctx<'_>, device: &Device) -> Result<Resnet38, StageError> {
    let network = config.init(ctx.seed, device);
    if ctx.inputs.maybe("init").is_none() {
        if config.norm == NormKind::Frozen {
            ctx.warn(
                "norms and the first convolution are frozen at random values, as `init` is not connected: set `norm`",
            );
        }
        return Ok(network);
    }
    let (meta, tensors) = io::weights(ctx, "init")?;
    let (network, mut report) = params::load(network, &tensors);
    match meta.arch.as_str() {
        ARCH => {}
        // A ResNet-38 classifier lacks the head of segmentation and has one of its own.
        "resnet38" => {
            report.missing.retain(|name| !Resnet38::is_head(name));
            report.unexpected.retain(|name| !name.starts_with("fc8") && !name.ends_with("num_batches_tracked"));
        }
        other => {
            return Err(StageError::data_help(
                format!("port `init` has weights of `{other}`, and the network starts from `resnet38` or `{ARCH}`"),
                "connect `weights.import` with `arch = \"resnet38\"`, or leave `init` out",
            ));
        }
    }
    if report.is_empty() { Ok(network) } else { Err(training::misfit("init", &meta.arch, &report)) }
}

/// Parameters of `segment.predict`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PredictParams {
    /// Whose values the parameters take that are left out, where paper and program disagree
    #[serde(default)]
    recipe: Recipe,
    /// Factors by which each image is resized
    #[serde(default = "default_scales")]
    scales: Vec<f64>,
    /// Whether each scale is also seen mirrored
    #[serde(default)]
    mirror: bool,
    /// How the probabilities of all scales become one
    #[serde(default)]
    merge: Merge,
    /// Whether a dense CRF (10 iterations, SPEC 7.3 c) fits the masks to the colours; default: false (paper), true (upstream)
    #[serde(default)]
    crf: Option<bool>,
    /// Images of more pixels are shrunk to so many before the network sees them, and its probabilities enlarged: it has learned from
    /// 300 to 500 pixels a side, and its memory grows with the pixels
    #[serde(default = "large::max_pixels")]
    #[schemars(range(min = 1))]
    max_pixels: usize,
    /// In which numbers convolutions and matrix products are computed; weights, sums of gradients and all else are f32
    #[serde(default)]
    precision: Precision,
}

fn default_scales() -> Vec<f64> {
    SCALES.to_vec()
}

/// `segment.predict`.
pub(super) struct Predict;

impl Stage for Predict {
    type Params = PredictParams;
    const DEVICES: Devices = Devices::One;

    const SPEC: Spec = Spec {
        name: "segment.predict",
        about: "Segment images with a trained network",
        // 2: JPEGs decode to the pixels of libjpeg-turbo.
        // 3: convolutions and their gradients are added up in another order, and masks are deflated in another way.
        revision: 3,
        inputs: &[
            Port { name: "images", takes: &[Kind::ImageSet], optional: false, about: "images to segment" },
            Port { name: "weights", takes: &[Kind::Weights], optional: false, about: "a trained segmentation network" },
        ],
        output: Kind::MaskSet,
        work: Work::PerImage,
        seeded: false,
    };

    fn resolve(params: PredictParams) -> PredictParams {
        PredictParams { crf: Some(params.recipe.or(params.crf, false, true)), ..params }
    }

    fn check(params: &PredictParams) -> Result<(), StageError> {
        if params.scales.is_empty() {
            return Err(StageError::parameter("scales", "at least one scale is needed; 1.0 is the image's own size"));
        }
        for &scale in &params.scales {
            training::within("scales", scale, 0.05, 20.0)?;
        }
        training::at_least_one("max_pixels", params.max_pixels)
    }

    fn meta(_params: &PredictParams, inputs: &Inputs) -> Result<Value, StageError> {
        saved(inputs)?;
        let classes = io::common_classes(inputs, &["images", "weights"])?;
        Ok(json!({ "classes": classes }))
    }

    fn run(params: &PredictParams, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let (device, _held) = training::device(ctx, params.precision)?;
        let config = saved(ctx.inputs)?;
        let settings = Settings {
            scales: params.scales.clone(),
            mirror: params.mirror,
            merge: params.merge,
            max_pixels: params.max_pixels,
            crf: params.crf.expect("`resolve` fills it in"),
        };
        let (_, segmenter) = io::network(ctx, |meta, tensors| {
            Segmenter::load(&config, tensors, settings, device)
                .map_err(|report| training::misfit("weights", &meta.arch, &report))
        })?;
        let images = io::images(ctx, "images")?;
        let done = AtomicUsize::new(0);
        let segment = |entry: &ImageEntry| {
            ctx.check_cancelled()?;
            let image = io::pixels(ctx, entry)?;
            let mask = segmenter.mask(&image);
            ctx.progress(done.fetch_add(1, Ordering::Relaxed) + 1, images.len(), "images");
            Ok((entry.id.clone(), mask))
        };
        let masks = training::spread(ctx, &images, |entry| entry.height * entry.width, segment)?;
        Ok(Output::shard(images.iter().map(|entry| entry.id.clone()).collect(), masks::encode(&masks)))
    }
}

/// Reads the sizes of the segmentation network on port `weights`.
fn saved(inputs: &Inputs) -> Result<Resnet38Config, StageError> {
    training::saved(inputs, ARCH, "network", "connect a `segment.train` stage")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(text: &str) -> TrainParams {
        toml::from_str(text).expect("readable")
    }

    #[test]
    fn the_scale_schedule_has_two_readings() {
        let factors = |text: &str| -> Vec<usize> { (0..14).map(|epoch| params(text).factor(epoch)).collect() };
        assert_eq!(factors(""), [8, 8, 4, 4, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!(factors("reading = 'consecutive'"), [8, 8, 4, 4, 4, 4, 2, 2, 2, 2, 2, 2, 1, 1]);
        assert_eq!(factors("recipe = 'upstream'"), [1; 14]);
        assert_eq!(factors("scale_schedule = [{ factor = 3, until = 1 }]")[..2], [3, 1]);
    }

    #[test]
    fn values_without_sense_are_refused() {
        for text in [
            "scale_schedule = [{ factor = 8, until = 4 }, { factor = 4, until = 2 }]",
            "scale_schedule = [{ factor = 0, until = 4 }]",
            "blocks = [1, 1, 7, 1]",
            "widths = [4, 4, 4, 4, 4, 6, 4, 4]",
            "smoothing = 1.0",
            "lr = 0.0",
            "scale = [1.3, 0.7]",
        ] {
            assert!(Train::check(&params(text)).is_err(), "{text}");
        }
        assert!(Train::check(&params("")).is_ok());
    }
}
