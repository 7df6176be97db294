//! `amn.train` and `amn.cams`: the network that classifies pixels knowing the image's labels, and its maps (SPEC 3).

use burn::tensor::{Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cam_export::{self, Resampling};
use super::classifier::resnet_names;
use super::shelf::Shelf;
use super::{io, training};
use crate::artifact::images::ClassList;
use crate::artifact::maps::{self, ImageMaps, PackedMaps};
use crate::data::augment::{Augmentation, Sample, Scale};
use crate::image::resize::{Nearest, nearest_mask};
use crate::image::{LabelMap, Maps, large};
use crate::kind::Kind;
use crate::nn::amn::{ARCH, Amn, Config, multi_hot};
use crate::nn::cam::{ClassMaps, Views};
use crate::nn::layers::NormKind;
use crate::nn::optim::{Group, Optimizer, Schedule};
use crate::nn::pass::Pass;
use crate::nn::precision::Precision;
use crate::nn::resnet38::SegmentationLoss;
use crate::nn::train;
use crate::nn::{amn, params};
use crate::stage::{Ctx, Devices, Inputs, NotInKey, Output, Port, Spec, Stage, StageError, Work};
use crate::stages::training::{Every, OptimizerKind};

/// The network and the values of its training that go together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Preset {
    /// ResNet-50 with frozen norms, made to start from ImageNet weights: 25 million parameters
    #[default]
    Resnet50,
    /// A small ResNet with batch norm for images of 64 to 224 pixels, made to start from the seed
    ResnetTiny,
}

/// Parameters of `amn.train`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TrainParams {
    /// Network and values that go together
    #[serde(default)]
    preset: Preset,
    /// Dilations of the four convolutions whose sum is the logits; default: the preset's
    #[serde(default)]
    dilations: Option<[usize; 4]>,
    /// Normalisation; `frozen` also freezes the first convolution, and only makes sense with `init`; default: the preset's
    #[serde(default)]
    norm: Option<NormKind>,
    /// Probability with which single features are dropped before the last convolutions
    #[serde(default = "default_dropout")]
    dropout: f64,
    /// Side of the square that is cut from each image, in pixels; default: the preset's
    #[serde(default)]
    crop: Option<usize>,
    /// Smallest and largest factor by which an image and its seed are resized before; default: the preset's
    #[serde(default)]
    scale: Option<[f64; 2]>,
    /// Probability of a horizontal flip
    #[serde(default = "training::default_flip")]
    #[schemars(range(min = 0.0, max = 1.0))]
    flip: f64,
    /// How often each image is seen; default: the preset's
    #[serde(default)]
    epochs: Option<usize>,
    /// Images per step
    #[serde(default = "default_batch")]
    #[schemars(range(min = 1))]
    batch: usize,
    /// How gradients become steps; default: the preset's
    #[serde(default)]
    optimizer: Option<OptimizerKind>,
    /// Learning rate of the backbone; default: the preset's
    #[serde(default)]
    lr: Option<f64>,
    /// The learning rate of the new layers as a multiple of `lr`; default: the preset's
    #[serde(default)]
    head_rate: Option<f64>,
    /// Momentum of SGD
    #[serde(default = "default_momentum")]
    momentum: f64,
    /// Weight decay; default: the preset's
    #[serde(default)]
    weight_decay: Option<f64>,
    /// How the learning rate moves over the steps; default: the preset's
    #[serde(default)]
    schedule: Option<Schedule>,
    /// Whether background and objects weigh half each in the loss
    #[serde(default = "default_balance")]
    balance: bool,
    /// Probability that a target spreads over the other classes
    #[serde(default = "default_smoothing")]
    smoothing: f64,
    /// In which numbers convolutions and matrix products are computed; weights, sums of gradients and all else are f32
    #[serde(default)]
    precision: Precision,
    /// How often a checkpoint is kept besides those at an interruption: `"10 min"`, `"500 steps"` or `"never"`
    #[serde(default)]
    checkpoint: NotInKey<Every>,
}

fn default_dropout() -> f64 {
    0.1
}

fn default_batch() -> usize {
    16
}

fn default_momentum() -> f64 {
    0.9
}

fn default_balance() -> bool {
    true
}

fn default_smoothing() -> f64 {
    0.4
}

/// Every value that a preset decides.
struct Values {
    crop: usize,
    scale: [f64; 2],
    epochs: usize,
    optimizer: OptimizerKind,
    lr: f64,
    head_rate: f64,
    weight_decay: f64,
    schedule: Schedule,
}

impl TrainParams {
    /// The values of SPEC 3.2; those of `resnet_tiny` follow `classifier.train`'s tiny ResNet and were not tuned.
    fn values(&self) -> Values {
        let preset = match self.preset {
            Preset::Resnet50 => Values {
                crop: 512,
                scale: [0.5, 1.5],
                epochs: 5,
                optimizer: OptimizerKind::Adam,
                lr: 5e-6,
                head_rate: 20.0,
                weight_decay: 1e-4,
                schedule: Schedule::Constant,
            },
            Preset::ResnetTiny => Values {
                crop: 64,
                scale: [0.8, 1.2],
                epochs: 10,
                optimizer: OptimizerKind::Adamw,
                lr: 2e-3,
                head_rate: 1.0,
                weight_decay: 0.05,
                schedule: Schedule::Cosine,
            },
        };
        Values {
            crop: self.crop.unwrap_or(preset.crop),
            scale: self.scale.unwrap_or(preset.scale),
            epochs: self.epochs.unwrap_or(preset.epochs),
            optimizer: self.optimizer.unwrap_or(preset.optimizer),
            lr: self.lr.unwrap_or(preset.lr),
            head_rate: self.head_rate.unwrap_or(preset.head_rate),
            weight_decay: self.weight_decay.unwrap_or(preset.weight_decay),
            schedule: self.schedule.unwrap_or(preset.schedule),
        }
    }

    fn config(&self) -> Config {
        let mut config = match self.preset {
            Preset::Resnet50 => Config::resnet50(),
            Preset::ResnetTiny => Config::tiny(),
        };
        config.dilations = self.dilations.unwrap_or(config.dilations);
        config.backbone.norm = self.norm.unwrap_or(config.backbone.norm);
        config.dropout = self.dropout;
        config
    }
}

/// `amn.train`.
pub(super) struct Train;

impl Stage for Train {
    type Params = TrainParams;
    const DEVICES: Devices = Devices::One;

    const SPEC: Spec = Spec {
        name: "amn.train",
        about: "Train AMN: pixels are classified after seeds, knowing the labels of the image",
        // 2: convolutions and their gradients are added up in another order.
        revision: 2,
        inputs: &[
            Port { name: "images", takes: &[Kind::ImageSet], optional: false, about: "images with labels to train on" },
            Port {
                name: "seeds",
                takes: &[Kind::SeedSet, Kind::MaskSet],
                optional: false,
                about: "a seed for each image; 255 counts for nothing",
            },
            Port {
                name: "init",
                takes: &[Kind::Weights],
                optional: true,
                about: "ResNet weights to start from; without them the seed decides",
            },
        ],
        output: Kind::Weights,
        work: Work::Whole,
        seeded: true,
    };

    fn resolve(params: TrainParams) -> TrainParams {
        let (values, config) = (params.values(), params.config());
        TrainParams {
            dilations: Some(config.dilations),
            norm: Some(config.backbone.norm),
            crop: Some(values.crop),
            scale: Some(values.scale),
            epochs: Some(values.epochs),
            optimizer: Some(values.optimizer),
            lr: Some(values.lr),
            head_rate: Some(values.head_rate),
            weight_decay: Some(values.weight_decay),
            schedule: Some(values.schedule),
            ..params
        }
    }

    fn check(params: &TrainParams) -> Result<(), StageError> {
        let values = params.values();
        if params.config().dilations.contains(&0) {
            return Err(StageError::parameter("dilations", "every value of `dilations` must be at least 1"));
        }
        training::within("dropout", params.dropout, 0.0, 0.9999)?;
        training::at_least_one("crop", values.crop)?;
        let [smallest, largest] = values.scale;
        training::within("scale", smallest, 0.05, 20.0)?;
        training::within("scale", largest, smallest, 20.0)?;
        training::within("flip", params.flip, 0.0, 1.0)?;
        training::at_least_one("epochs", values.epochs)?;
        training::at_least_one("batch", params.batch)?;
        training::positive("lr", values.lr)?;
        training::positive("head_rate", values.head_rate)?;
        training::within("momentum", params.momentum, 0.0, 0.9999)?;
        training::within("weight_decay", values.weight_decay, 0.0, f64::INFINITY)?;
        training::within("smoothing", params.smoothing, 0.0, 0.9999)
    }

    fn meta(_params: &TrainParams, inputs: &Inputs) -> Result<Value, StageError> {
        io::common_classes(inputs, &["images", "seeds"])?;
        io::check_covers(inputs, "seeds", "images")?;
        Ok(Value::Null)
    }

    fn run(params: &TrainParams, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        Self::meta(params, ctx.inputs)?;
        let (device, _held) = training::device(ctx, params.precision)?;
        let classes = io::common_classes(ctx.inputs, &["images", "seeds"])?;
        let objects = classes.len().saturating_sub(1);
        let config = params.config();
        let mut network = initial(&config, objects, ctx, &device)?;
        if config.backbone.norm == NormKind::Frozen {
            network = network.frozen();
        }
        let images = io::images(ctx, "images")?;
        io::check_labels(&images, objects)?;
        let seeds = Shelf::new(ctx, "seeds");
        let values = params.values();
        let augmentation = Augmentation {
            scale: Scale::Factor { smallest: values.scale[0], largest: values.scale[1] },
            flip: params.flip,
            jitter: None,
            crop: Some(values.crop),
        };
        let load = |mut sample: train::Sample| {
            let entry = &images[sample.index];
            let (image, seed) = (io::pixels(ctx, entry)?, seeds.mask(&entry.id)?);
            io::check_mask(&seed, &entry.id, (entry.height, entry.width), classes.len())?;
            // Labels are those of the whole image, whatever the crop shows (SPEC 3.2).
            Ok((augmentation.apply(&image, Some(&seed), &mut sample.random), entry.labels.clone()))
        };
        let recipe = train::Recipe {
            items: images.len(),
            batch: params.batch,
            epochs: values.epochs,
            drop_last: true,
            rate: values.lr,
            schedule: values.schedule,
            warmup: 0,
            seed: ctx.seed,
            epoch_rates: Vec::new(),
        };
        let (decay, head_rate) = (values.weight_decay, values.head_rate);
        let mut optimizer = Optimizer::new(values.optimizer.rule(params.momentum), None, move |name| Group {
            rate: if Amn::is_head(name) { head_rate } else { 1.0 },
            decay,
        });
        let loss = SegmentationLoss { balance: params.balance, smoothing: params.smoothing };
        let training_device = device.autodiff();
        let minimise = |network: &Amn, items: Vec<(Sample, Vec<u8>)>, pass: &Pass, _| {
            let (samples, labels): (Vec<Sample>, Vec<Vec<u8>>) = items.into_iter().unzip();
            let (pixels, seeds) = stacked(samples, &training_device);
            let labels: Vec<&[u8]> = labels.iter().map(Vec::as_slice).collect();
            let logits = network.forward(pixels, multi_hot(&labels, objects, &training_device), pass);
            let [_, _, height, width] = logits.dims();
            let small: Vec<LabelMap> =
                seeds.iter().map(|seed| nearest_mask(seed, height, width, Nearest::Pillow)).collect();
            loss.of(logits, &small)
        };
        let keep = ("", params.checkpoint.0);
        let trained = training::fit(ctx, keep, network, &recipe, &mut optimizer, load, minimise)?;
        training::output(ARCH, &config, classes, &params::export(&trained))
    }
}

fn stacked(samples: Vec<Sample>, device: &Device) -> (Tensor<4>, Vec<LabelMap>) {
    let (images, seeds): (Vec<Maps>, Vec<Option<LabelMap>>) =
        samples.into_iter().map(|sample| (sample.image, sample.mask)).unzip();
    (training::stack(images, device), seeds.into_iter().flatten().collect())
}

/// Draws the network, and takes over what `init` has for it: a ResNet's backbone, or another AMN.
fn initial(config: &Config, classes: usize, ctx: &Ctx<'_>, device: &Device) -> Result<Amn, StageError> {
    let network = Amn::new(config, classes, ctx.seed, device);
    if ctx.inputs.maybe("init").is_none() {
        if config.backbone.norm == NormKind::Frozen {
            ctx.warn("the first convolution and all norms are frozen at random values: connect `init`, or set `norm`");
        }
        return Ok(network);
    }
    let (meta, tensors) = io::weights(ctx, "init")?;
    let (network, mut report) = params::load(network, &resnet_names(tensors, &meta)?);
    if meta.arch != ARCH {
        report.missing.retain(|name| !Amn::is_head(name));
        report.unexpected.retain(|name| {
            let head = ["classifier.", "resnet50.fc."].iter().any(|prefix| name.starts_with(prefix));
            !head && !name.ends_with("num_batches_tracked")
        });
    }
    if report.is_empty() { Ok(network) } else { Err(training::misfit("init", &meta.arch, &report)) }
}

/// Parameters of `amn.cams`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CamsParams {
    /// Factors by which each image is seen resized
    #[serde(default = "default_scales")]
    scales: Vec<f64>,
    /// Whether each scale is also seen mirrored
    #[serde(default = "cam_export::default_flip")]
    flip: bool,
    /// How images are resized
    #[serde(default = "cam_export::bicubic")]
    resampling: Resampling,
    /// Images of more pixels are shrunk to so many before the network sees them, and maps enlarged: it has learned from
    /// 300 to 500 pixels a side, and its memory grows with the pixels
    #[serde(default = "large::max_pixels")]
    #[schemars(range(min = 1))]
    max_pixels: usize,
    /// In which numbers convolutions and matrix products are computed; weights, sums of gradients and all else are f32
    #[serde(default)]
    precision: Precision,
}

fn default_scales() -> Vec<f64> {
    vec![1.0, 0.5, 1.5, 2.0]
}

/// `amn.cams`.
pub(super) struct Cams;

impl Stage for Cams {
    type Params = CamsParams;
    const DEVICES: Devices = Devices::One;

    const SPEC: Spec = Spec {
        name: "amn.cams",
        about: "Make AMN's maps: probabilities of the image's classes, stretched where the seed is not background",
        // 2: convolutions and their gradients are added up in another order.
        revision: 2,
        inputs: &[
            Port { name: "images", takes: &[Kind::ImageSet], optional: false, about: "images with labels" },
            Port {
                name: "seeds",
                takes: &[Kind::SeedSet, Kind::MaskSet],
                optional: false,
                about: "the seeds that say where background is sure",
            },
            Port { name: "weights", takes: &[Kind::Weights], optional: false, about: "a trained AMN" },
        ],
        output: Kind::CamSet,
        work: Work::PerImage,
        seeded: false,
    };

    fn check(params: &CamsParams) -> Result<(), StageError> {
        training::scales(&params.scales)?;
        training::at_least_one("max_pixels", params.max_pixels)
    }

    fn meta(_params: &CamsParams, inputs: &Inputs) -> Result<Value, StageError> {
        let classes = io::common_classes(inputs, &["images", "seeds", "weights"])?;
        io::check_covers(inputs, "seeds", "images")?;
        saved(inputs)?;
        Ok(serde_json::to_value(ClassList { classes }).expect("a class list is JSON"))
    }

    fn run(params: &CamsParams, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let (device, _held) = training::device(ctx, params.precision)?;
        let config = saved(ctx.inputs)?;
        let images = io::images(ctx, "images")?;
        let (meta, network) = io::network(ctx, |meta, tensors| {
            params::load_strict(Amn::new(&config, meta.classes.len().saturating_sub(1), 0, &device), tensors)
                .map_err(|report| training::misfit("weights", &meta.arch, &report))
        })?;
        let objects = meta.classes.len().saturating_sub(1);
        io::check_labels(&images, objects)?;
        let views = Views { scales: params.scales.clone(), flip: params.flip, filter: params.resampling.filter() };
        let seeds = Shelf::new(ctx, "seeds");
        let mut made = Vec::with_capacity(images.len());
        for entry in &images {
            ctx.check_cancelled()?;
            let found = if entry.labels.is_empty() {
                ClassMaps::none(entry.height, entry.width)
            } else {
                let (image, seed) = (io::pixels(ctx, entry)?, seeds.mask(&entry.id)?);
                io::check_mask(&seed, &entry.id, (entry.height, entry.width), meta.classes.len())?;
                let image = large::shrunk(&image, params.max_pixels);
                let seed = nearest_mask(&seed, image.height(), image.width(), Nearest::Pillow);
                let found = amn::maps(&network, objects, &image, &entry.labels, &seed, &views, &device);
                let found = ClassMaps { cam: without_first(found.cam), high_res: without_first(found.high_res) };
                found.at_size(entry.height, entry.width)
            };
            let (id, classes) = (entry.id.clone(), entry.labels.clone());
            made.push(PackedMaps::new(&ImageMaps { id, classes, cam: Some(found.cam), high_res: found.high_res }));
            ctx.progress(made.len(), images.len(), "images");
        }
        let ids = made.iter().map(|image| image.id().to_owned()).collect();
        Ok(Output::shard(ids, maps::encode(&made)))
    }
}

fn saved(inputs: &Inputs) -> Result<Config, StageError> {
    training::saved(inputs, ARCH, "network", "connect the result of `amn.train`")
}

/// Drops the background, which everything that follows makes of the other maps (SPEC 3.3).
fn without_first(maps: Maps) -> Maps {
    let (channels, height, width) = (maps.channels(), maps.height(), maps.width());
    Maps::new(channels - 1, height, width, maps.into_data().split_off(height * width))
}
