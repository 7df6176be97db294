//! `mctformer.train` and `mctformer.cams`: the transformer with a token for each class, and its maps (SPEC 4).

use burn::tensor::{Device, Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cam_export::{self, Resampling};
use super::training::Every;
use super::{io, training};
use crate::artifact::images::{ClassList, ImageEntry};
use crate::artifact::maps::{self, ImageMaps, PackedMaps};
use crate::data::crop_resize::CropResize;
use crate::data::rand_augment::RandAugment;
use crate::image::resize::scaled_size;
use crate::image::{Maps, large};
use crate::kind::Kind;
use crate::nn::cam::Views;
use crate::nn::mct_maps::{self, Fuse, Recipe};
use crate::nn::mctformer::{Config, MctFormer, Version, epoch_rates, from_deit};
use crate::nn::optim::{Group, Optimizer, Rule, Schedule};
use crate::nn::params;
use crate::nn::pass::Pass;
use crate::nn::precision::Precision;
use crate::nn::train;
use crate::stage::{Ctx, Devices, Inputs, NotInKey, Output, Port, Spec, Stage, StageError, Work};

/// The network and the values of its training that go together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Preset {
    /// DeiT-S/16, made to start from ImageNet weights: 22 million parameters
    #[default]
    Small,
    /// A small network with a convolutional stem for images of about 64 pixels, made to start from the seed
    Tiny,
}

/// How the learning rate moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Rates {
    /// From epoch to epoch as timm's cosine, a step late: up from 1e-6 over 5 epochs, then down to 1e-5
    EpochCosine,
    /// From step to step half a cosine, after one epoch of rise
    Cosine,
    /// The same throughout
    Constant,
}

/// Parameters of `mctformer.train`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TrainParams {
    /// Which network of the family
    #[serde(default = "default_version")]
    version: Version,
    /// Network and values that go together
    #[serde(default)]
    preset: Preset,
    /// Number of blocks; default: the preset's
    #[serde(default)]
    depth: Option<usize>,
    /// Length of a token; default: the preset's
    #[serde(default)]
    width: Option<usize>,
    /// Attention heads, which divide the width; default: the preset's
    #[serde(default)]
    heads: Option<usize>,
    /// Side of a patch in pixels, which divides `crop`; default: the preset's
    #[serde(default)]
    patch: Option<usize>,
    /// Probability with which the last block's branches are skipped, rising linearly from the first; default: the preset's
    #[serde(default)]
    drop_path: Option<f64>,
    /// Side of the square that images are resized to, in pixels; default: the preset's
    #[serde(default)]
    crop: Option<usize>,
    /// Smallest and largest share of an image's area that becomes the square; default: the preset's
    #[serde(default)]
    area: Option<[f64; 2]>,
    /// Probability of a horizontal flip
    #[serde(default = "training::default_flip")]
    #[schemars(range(min = 0.0, max = 1.0))]
    flip: f64,
    /// Random operations on each image, as timm's `rand-m9-mstd0.5-inc1`; default: 2, of `tiny` 0
    #[serde(default)]
    operations: Option<usize>,
    /// Their mean strength, 0 to 10
    #[serde(default = "default_magnitude")]
    magnitude: f64,
    /// Probability that a rectangle of the image is replaced by noise; default: the preset's
    #[serde(default)]
    erase: Option<f64>,
    /// How often each image is seen; default: the preset's
    #[serde(default)]
    epochs: Option<usize>,
    /// Images per step; default: the preset's
    #[serde(default)]
    batch: Option<usize>,
    /// Learning rate; default: 0.0005 batch / 512, of `tiny` 0.001
    #[serde(default)]
    lr: Option<f64>,
    /// Weight decay, beside the gradient
    #[serde(default = "default_weight_decay")]
    weight_decay: f64,
    /// How the learning rate moves; default: `epoch_cosine`, of `tiny` `cosine`
    #[serde(default)]
    rates: Option<Rates>,
    /// Weight of the term that tells class tokens apart; default: 1 for `plus`, 0 for others
    #[serde(default)]
    contrast: Option<f64>,
    /// In which numbers convolutions and matrix products are computed; weights, sums of gradients and all else are f32
    #[serde(default)]
    precision: Precision,
    /// How often a checkpoint is kept besides those at an interruption: `"10 min"`, `"500 steps"` or `"never"`
    #[serde(default)]
    checkpoint: NotInKey<Every>,
}

fn default_version() -> Version {
    Version::V2
}

fn default_magnitude() -> f64 {
    RandAugment::RECIPE.magnitude
}

fn default_weight_decay() -> f64 {
    0.05
}

/// Every value that preset and version decide.
struct Values {
    area: [f64; 2],
    operations: usize,
    erase: f64,
    epochs: usize,
    batch: usize,
    lr: f64,
    rates: Rates,
    contrast: f64,
}

impl TrainParams {
    fn config(&self) -> Config {
        let preset = match self.preset {
            Preset::Small => Config::small(self.version),
            Preset::Tiny => Config::tiny(self.version),
        };
        Config {
            image: self.crop.unwrap_or(preset.image),
            patch: self.patch.unwrap_or(preset.patch),
            width: self.width.unwrap_or(preset.width),
            depth: self.depth.unwrap_or(preset.depth),
            heads: self.heads.unwrap_or(preset.heads),
            drop_path: self.drop_path.unwrap_or(preset.drop_path),
            ..preset
        }
    }

    /// The values of SPEC 4.4; those of `tiny` were not tuned.
    fn values(&self) -> Values {
        let plus = self.version == Version::Plus;
        let small = self.preset == Preset::Small;
        let batch = self.batch.unwrap_or(if !small {
            16
        } else if plus {
            32
        } else {
            64
        });
        Values {
            area: self.area.unwrap_or(if small { [0.08, 1.0] } else { [0.6, 1.0] }),
            operations: self.operations.unwrap_or(if small { RandAugment::RECIPE.operations } else { 0 }),
            erase: self.erase.unwrap_or(if small { 0.25 } else { 0.0 }),
            epochs: self.epochs.unwrap_or(if !small {
                20
            } else if plus {
                45
            } else {
                60
            }),
            batch,
            lr: self.lr.unwrap_or(if small { 5e-4 * batch as f64 / 512.0 } else { 1e-3 }),
            rates: self.rates.unwrap_or(if small { Rates::EpochCosine } else { Rates::Cosine }),
            contrast: self.contrast.unwrap_or(if plus { 1.0 } else { 0.0 }),
        }
    }
}

/// `mctformer.train`.
pub(super) struct Train;

impl Stage for Train {
    type Params = TrainParams;
    const DEVICES: Devices = Devices::One;

    const SPEC: Spec = Spec {
        name: "mctformer.train",
        about: "Train an MCTformer on image-level labels",
        // 2: operations of RandAugment that move pixels sample bicubically, as its program asks timm to.
        // 3: convolutions and their gradients are added up in another order.
        revision: 3,
        inputs: &[
            Port { name: "images", takes: &[Kind::ImageSet], optional: false, about: "images with labels to train on" },
            Port {
                name: "init",
                takes: &[Kind::Weights],
                optional: true,
                about: "weights of DeiT or of an MCTformer to start from; without them the seed decides",
            },
        ],
        output: Kind::Weights,
        work: Work::Whole,
        seeded: true,
    };

    fn resolve(params: TrainParams) -> TrainParams {
        let (config, values) = (params.config(), params.values());
        TrainParams {
            depth: Some(config.depth),
            width: Some(config.width),
            heads: Some(config.heads),
            patch: Some(config.patch),
            drop_path: Some(config.drop_path),
            crop: Some(config.image),
            area: Some(values.area),
            operations: Some(values.operations),
            erase: Some(values.erase),
            epochs: Some(values.epochs),
            batch: Some(values.batch),
            lr: Some(values.lr),
            rates: Some(values.rates),
            contrast: Some(values.contrast),
            ..params
        }
    }

    fn check(params: &TrainParams) -> Result<(), StageError> {
        let (config, values) = (params.config(), params.values());
        let sizes = [
            ("depth", config.depth),
            ("width", config.width),
            ("heads", config.heads),
            ("patch", config.patch),
            ("crop", config.image),
            ("epochs", values.epochs),
            ("batch", values.batch),
        ];
        sizes.into_iter().try_for_each(|(name, size)| training::at_least_one(name, size))?;
        if !config.width.is_multiple_of(config.heads) {
            let message = format!("{} heads do not divide a width of {}", config.heads, config.width);
            return Err(StageError::parameter("heads", message));
        }
        if params.preset == Preset::Tiny && !config.patch.is_power_of_two() {
            let message = format!("`patch` is {}, but must be a power of two", config.patch);
            return Err(StageError::parameter("patch", message));
        }
        if !config.image.is_multiple_of(config.patch) {
            let message = format!("patches of {} do not divide a crop of {}", config.patch, config.image);
            return Err(StageError::parameter("patch", message));
        }
        training::within("drop_path", config.drop_path, 0.0, 0.9999)?;
        training::within("area", values.area[0], 1e-4, 1.0)?;
        training::within("area", values.area[1], values.area[0], 1.0)?;
        training::within("flip", params.flip, 0.0, 1.0)?;
        training::within("magnitude", params.magnitude, 0.0, 10.0)?;
        training::within("erase", values.erase, 0.0, 1.0)?;
        training::positive("lr", values.lr)?;
        training::within("weight_decay", params.weight_decay, 0.0, f64::INFINITY)?;
        training::within("contrast", values.contrast, 0.0, f64::INFINITY)
    }

    fn meta(_params: &TrainParams, inputs: &Inputs) -> Result<Value, StageError> {
        io::classes(inputs.get("images"), "images")?;
        Ok(Value::Null)
    }

    fn run(params: &TrainParams, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let (device, _held) = training::device(ctx, params.precision)?;
        let classes = io::classes(ctx.inputs.get("images"), "images")?;
        let count = classes.len().saturating_sub(1);
        let (config, values) = (params.config(), params.values());
        let network = initial(&config, count, ctx, &device)?;
        let images = io::images(ctx, "images")?;
        io::check_labels(&images, count)?;
        let augment = RandAugment { operations: values.operations, magnitude: params.magnitude, ..RandAugment::RECIPE };
        let augmentation = CropResize {
            side: config.image,
            area: values.area,
            flip: params.flip,
            augment: (values.operations > 0).then_some(augment),
            erase: values.erase,
        };
        let load = |mut sample: train::Sample| {
            let entry = &images[sample.index];
            let image = augmentation.apply(&io::pixels(ctx, entry)?, &mut sample.random);
            let mut target = vec![0.0_f32; count];
            entry.labels.iter().for_each(|&label| target[usize::from(label)] = 1.0);
            Ok::<_, StageError>((image, target))
        };
        let mut recipe = train::Recipe {
            items: images.len(),
            batch: values.batch,
            epochs: values.epochs,
            drop_last: true,
            rate: values.lr,
            schedule: if values.rates == Rates::Constant { Schedule::Constant } else { Schedule::Cosine },
            warmup: 0,
            seed: ctx.seed,
            epoch_rates: Vec::new(),
        };
        match values.rates {
            Rates::EpochCosine => recipe.epoch_rates = epoch_rates(values.lr, values.epochs),
            Rates::Cosine => recipe.warmup = recipe.steps_per_epoch(),
            Rates::Constant => {}
        }
        let decay = params.weight_decay;
        let mut optimizer = Optimizer::new(Rule::adamw(), None, move |name| {
            // SPEC 4.4: no decay of vectors, nor of class tokens and their places; Plus's own places do decay.
            let free = name.ends_with(".bias") || name.contains("norm") || name == "pos_embed" || name == "cls_token";
            Group { rate: 1.0, decay: if free { 0.0 } else { decay } }
        });
        let training_device = device.autodiff();
        let minimise = |network: &MctFormer, items: Vec<(Maps, Vec<f32>)>, pass: &Pass, _| {
            let (images, targets): (Vec<Maps>, Vec<Vec<f32>>) = items.into_iter().unzip();
            let data = TensorData::new(targets.concat(), [targets.len(), count]);
            let targets = Tensor::<2>::from_data(data, &training_device);
            network.forward(training::stack(images, &training_device), false, pass).loss(&targets, values.contrast)
        };
        let keep = ("", params.checkpoint.0);
        let trained = training::fit(ctx, keep, network, &recipe, &mut optimizer, load, minimise)?;
        training::output(params.version.arch(), &config, classes, &params::export(&trained))
    }
}

/// Draws the network, and takes over what `init` has for it.
fn initial(config: &Config, classes: usize, ctx: &Ctx<'_>, device: &Device) -> Result<MctFormer, StageError> {
    let network = MctFormer::new(config, classes, ctx.seed, device);
    if ctx.inputs.maybe("init").is_none() {
        return Ok(network);
    }
    let (meta, tensors) = io::weights(ctx, "init")?;
    if meta.arch == config.version.arch() {
        return params::load_strict(network, &tensors).map_err(|report| training::misfit("init", &meta.arch, &report));
    }
    let renamed = from_deit(&tensors, config, classes).ok_or_else(|| {
        StageError::data_help(
            format!("port `init` has weights of `{}`, and an MCTformer starts from those of a DeiT", meta.arch),
            "connect weights of a vision transformer with one class token, or leave `init` out",
        )
    })?;
    let (network, mut report) = params::load(network, &renamed);
    report.missing.retain(|name| !name.starts_with("head."));
    if report.is_empty() { Ok(network) } else { Err(training::misfit("init", &meta.arch, &report)) }
}

/// Parameters of `mctformer.cams`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CamsParams {
    /// Factors by which each image is seen resized; default: 1, of `plus` 1, 0.75 and 1.25
    #[serde(default)]
    scales: Option<Vec<f64>>,
    /// Whether each scale is also seen mirrored
    #[serde(default = "cam_export::default_flip")]
    flip: bool,
    /// How images are resized
    #[serde(default = "cam_export::bicubic")]
    resampling: Resampling,
    /// From how many of the last blocks the attention of class tokens is taken; default: 3, of `plus` 12, at most all
    #[serde(default)]
    layers: Option<usize>,
    /// What maps are made of; V1 has attention only
    #[serde(default)]
    fuse: Fuse,
    /// Whether the attention between patches spreads the maps
    #[serde(default = "default_refine")]
    refine: bool,
    /// Images of more pixels are shrunk to so many before the network sees them, and maps enlarged: it has learned from
    /// 300 to 500 pixels a side, and its memory grows with the pixels
    #[serde(default = "large::max_pixels")]
    #[schemars(range(min = 1))]
    max_pixels: usize,
    /// In which numbers convolutions and matrix products are computed; weights, sums of gradients and all else are f32
    #[serde(default)]
    precision: Precision,
}

fn default_refine() -> bool {
    true
}

/// `mctformer.cams`.
pub(super) struct Cams;

impl Stage for Cams {
    type Params = CamsParams;
    const DEVICES: Devices = Devices::One;

    const SPEC: Spec = Spec {
        name: "mctformer.cams",
        about: "Make MCTformer's maps: attention of class tokens, patch maps, spread by the attention between patches",
        // 2: convolutions and their gradients are added up in another order.
        revision: 2,
        inputs: &[
            Port { name: "images", takes: &[Kind::ImageSet], optional: false, about: "images with labels" },
            Port { name: "weights", takes: &[Kind::Weights], optional: false, about: "a trained MCTformer" },
        ],
        output: Kind::CamSet,
        work: Work::PerImage,
        seeded: false,
    };

    fn check(params: &CamsParams) -> Result<(), StageError> {
        if let Some(scales) = &params.scales {
            training::scales(scales)?;
        }
        training::at_least_one("max_pixels", params.max_pixels)?;
        training::at_least_one("layers", params.layers.unwrap_or(1))
    }

    fn meta(params: &CamsParams, inputs: &Inputs) -> Result<Value, StageError> {
        let classes = io::common_classes(inputs, &["images", "weights"])?;
        let config = saved(inputs)?;
        if let Some(layers) = params.layers.filter(|&layers| layers > config.depth) {
            let message =
                format!("`layers` is {layers}, but the network on port `weights` has {} blocks", config.depth);
            return Err(StageError::parameter("layers", message));
        }
        Ok(serde_json::to_value(ClassList { classes }).expect("a class list is JSON"))
    }

    fn run(params: &CamsParams, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let (device, _held) = training::device(ctx, params.precision)?;
        let config = saved(ctx.inputs)?;
        let images = io::images(ctx, "images")?;
        let (meta, network) = io::network(ctx, |meta, tensors| {
            params::load_strict(MctFormer::new(&config, meta.classes.len().saturating_sub(1), 0, &device), tensors)
                .map_err(|report| training::misfit("weights", &meta.arch, &report))
        })?;
        io::check_labels(&images, meta.classes.len().saturating_sub(1))?;
        let usual = Recipe::new(config.version);
        let recipe = Recipe {
            layers: params.layers.unwrap_or(usual.layers.min(config.depth)),
            fuse: params.fuse,
            refine: params.refine,
        };
        let scales = params.scales.clone().unwrap_or_else(|| match config.version {
            Version::Plus => vec![1.0, 0.75, 1.25],
            Version::V1 | Version::V2 => vec![1.0],
        });
        let small = |entry: &&ImageEntry| {
            let (height, width) = large::size_within(entry.height, entry.width, params.max_pixels);
            let sizes = scales.iter().map(|&scale| scaled_size(height, width, scale));
            sizes.map(|(height, width)| height.min(width)).any(|side| side < config.patch)
        };
        if let Some(entry) = images.iter().find(small) {
            return Err(StageError::data_help(
                format!("image `{}` is smaller than a patch of {} pixels at one of `scales`", entry.id, config.patch),
                "leave out the smallest of `scales`",
            ));
        }
        let views = Views { scales, flip: params.flip, filter: params.resampling.filter() };
        let made = training::spread(
            ctx,
            &images,
            |entry| entry.height * entry.width,
            |entry| {
                ctx.check_cancelled()?;
                let image = io::pixels(ctx, entry)?;
                let image = large::shrunk(&image, params.max_pixels);
                let found = mct_maps::maps(&network, &image, &entry.labels, recipe, &views, &device);
                let found = found.at_size(entry.height, entry.width);
                let (id, classes) = (entry.id.clone(), entry.labels.clone());
                Ok(PackedMaps::new(&ImageMaps { id, classes, cam: Some(found.cam), high_res: found.high_res }))
            },
        )?;
        ctx.progress(made.len(), images.len(), "images");
        let ids = made.iter().map(|image| image.id().to_owned()).collect();
        Ok(Output::shard(ids, maps::encode(&made)))
    }
}

fn saved(inputs: &Inputs) -> Result<Config, StageError> {
    let meta = io::weights_meta(inputs.get("weights"), "weights")?;
    let known = Version::ALL.into_iter().find(|version| version.arch() == meta.arch);
    let Some(version) = known else {
        return Err(StageError::data_help(
            format!("port `weights` has weights of `{}`, which is no MCTformer", meta.arch),
            "connect the result of `mctformer.train`, or imported weights of an MCTformer",
        ));
    };
    training::saved(inputs, version.arch(), "network", "connect the result of `mctformer.train`")
}
