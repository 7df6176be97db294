//! `irn.train` and `irn.propagate`: boundaries between classes are learned from seeds, and CAMs walk over the image without
//! crossing them (Ahn et al. 2019; SPEC 8).

use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::Device;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifact::images::ImageEntry;
use crate::artifact::maps::{self, ImageMaps, PackedMaps, stride4};
use crate::artifact::weights::{NamedTensors, WeightsMeta};
use crate::data::augment::{Augmentation, Scale};
use crate::image::normalise::normalise;
use crate::image::paths::paths;
use crate::image::resize::{Coordinates, Nearest, interpolate_bilinear, nearest_mask, shrink_maps};
use crate::image::walk::{self, WalkParams};
use crate::image::{LabelMap, Maps, large};
use crate::kind::Kind;
use crate::nn::irn::{ARCH, Heads, Irn, IrnConfig};
use crate::nn::optim::{Group, Optimizer, Schedule};
use crate::nn::pass::Pass;
use crate::nn::precision::Precision;
use crate::nn::resnet;
use crate::nn::train;
use crate::stage::{Ctx, Devices, Inputs, NotInKey, Output, Port, Spec, Stage, StageError, Work};
use crate::stages::io;
use crate::stages::shelf::Shelf;
use crate::stages::training::{self, Every, OptimizerKind, Recipe};

/// The stride of labels and edges against the image (SPEC 8.1).
const STRIDE: usize = 4;

/// A backbone that is drawn from the seed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Preset {
    /// ResNet-50
    #[default]
    Resnet50,
    /// A small ResNet
    ResnetTiny,
}

/// Sizes of the layers that are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum HeadSize {
    /// The reference's: 32 channels for edges, 64 to 256 for displacements
    Full,
    /// 16 channels for edges, 8 to 32 for displacements
    Small,
}

/// Parameters of `irn.train`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TrainParams {
    /// Whose values the parameters take that are left out, where paper and program disagree
    #[serde(default)]
    recipe: Recipe,
    /// The backbone where `init` is not connected; otherwise it is that of `init`
    #[serde(default)]
    preset: Preset,
    /// Sizes of the layers that are trained; default: `full` over backbones as wide as ResNet-50, `small` over narrower ones
    #[serde(default)]
    heads: Option<HeadSize>,
    /// Pairs of pixels nearer than this are compared, in cells of stride 4
    #[serde(default = "default_radius")]
    #[schemars(range(min = 2, max = 32))]
    radius: usize,
    /// Side of the square that is cut from each image, in pixels; a multiple of 4
    #[serde(default = "default_crop")]
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
    /// Learning rate of the edge layers before the first step; default: 0.01 (paper: the pace of upstream's at a real
    /// momentum), 0.1 (upstream)
    #[serde(default)]
    lr: Option<f64>,
    /// The displacement layers' learning rate as a multiple of `lr`
    #[serde(default = "default_displacement_rate")]
    displacement_rate: f64,
    /// Momentum of SGD; default: 0.9 (paper), 0.0001 (upstream)
    #[serde(default)]
    momentum: Option<f64>,
    /// Weight decay
    #[serde(default = "default_weight_decay")]
    weight_decay: f64,
    /// How gradients become steps
    #[serde(default)]
    optimizer: OptimizerKind,
    /// How the learning rate moves over the steps
    #[serde(default)]
    schedule: Schedule,
    /// Whether the mean displacement is measured over all images in the end; masks of classes do not need it
    #[serde(default = "default_mean_shift")]
    mean_shift: bool,
    /// In which numbers convolutions and matrix products are computed; weights, sums of gradients and all else are f32
    #[serde(default)]
    precision: Precision,
    /// How often a checkpoint is kept besides those at an interruption: `"10 min"`, `"500 steps"` or `"never"`
    #[serde(default)]
    checkpoint: NotInKey<Every>,
}

fn default_radius() -> usize {
    10
}

fn default_crop() -> usize {
    512
}

fn default_scale() -> [f64; 2] {
    [0.5, 1.5]
}

fn default_epochs() -> usize {
    3
}

fn default_batch() -> usize {
    16
}

fn default_displacement_rate() -> f64 {
    10.0
}

fn default_weight_decay() -> f64 {
    1e-4
}

fn default_mean_shift() -> bool {
    true
}

impl TrainParams {
    fn config(&self, backbone: resnet::Config) -> IrnConfig {
        let usual = if backbone.width >= resnet::Config::resnet50().width { HeadSize::Full } else { HeadSize::Small };
        match self.heads.unwrap_or(usual) {
            HeadSize::Full => IrnConfig { backbone, ..IrnConfig::resnet50() },
            HeadSize::Small => IrnConfig::tiny(backbone),
        }
    }

    /// Neither the paper nor IRN's own says more than 0.1, and released programs run it without momentum in effect. A momentum of
    /// 0.9 makes steps ten times as long in the end, at which edges saturate at 1 and stop learning, so that recipe has a
    /// tenth of it.
    fn lr(&self) -> f64 {
        self.recipe.or(self.lr, 0.01, 0.1)
    }

    fn momentum(&self) -> f64 {
        self.recipe.or(self.momentum, 0.9, 1e-4)
    }
}

/// `irn.train`.
pub(super) struct Train;

impl Stage for Train {
    type Params = TrainParams;
    const DEVICES: Devices = Devices::One;

    const SPEC: Spec = Spec {
        name: "irn.train",
        about: "Train IRN to see boundaries between classes",
        // 2: JPEGs decode to the pixels of libjpeg-turbo.
        // 3: convolutions and their gradients are added up in another order.
        revision: 3,
        inputs: &[
            Port { name: "images", takes: &[Kind::ImageSet], optional: false, about: "images to train on" },
            Port {
                name: "labels",
                takes: &[Kind::SeedSet, Kind::MaskSet],
                optional: false,
                about: "labels of confident pixels, 255 elsewhere: `irn.labels`",
            },
            Port {
                name: "init",
                takes: &[Kind::Weights],
                optional: true,
                about: "ResNet or classifier weights whose backbone is used; it is not trained further",
            },
        ],
        output: Kind::Weights,
        work: Work::Whole,
        seeded: true,
    };

    fn resolve(params: TrainParams) -> TrainParams {
        TrainParams { lr: Some(params.lr()), momentum: Some(params.momentum()), ..params }
    }

    fn check(params: &TrainParams) -> Result<(), StageError> {
        training::within("radius", params.radius as f64, 2.0, 32.0)?;
        let least = STRIDE * 2 * params.radius;
        if !params.crop.is_multiple_of(STRIDE) || params.crop < least {
            let message = format!(
                "`crop` is {}, but must be a multiple of 4 and at least {least}, which is 8 times `radius`",
                params.crop
            );
            return Err(StageError::parameter("crop", message));
        }
        let [smallest, largest] = params.scale;
        training::within("scale", smallest, 0.05, 20.0)?;
        training::within("scale", largest, smallest, 20.0)?;
        training::within("flip", params.flip, 0.0, 1.0)?;
        training::at_least_one("epochs", params.epochs)?;
        training::at_least_one("batch", params.batch)?;
        training::positive("lr", params.lr())?;
        training::positive("displacement_rate", params.displacement_rate)?;
        training::within("momentum", params.momentum(), 0.0, 0.9999)?;
        training::within("weight_decay", params.weight_decay, 0.0, f64::INFINITY)
    }

    fn meta(_params: &TrainParams, inputs: &Inputs) -> Result<Value, StageError> {
        io::common_classes(inputs, &["images", "labels"])?;
        io::check_covers(inputs, "labels", "images")?;
        Ok(Value::Null)
    }

    fn run(params: &TrainParams, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        Self::meta(params, ctx.inputs)?;
        let (device, _held) = training::device(ctx, params.precision)?;
        let classes = io::common_classes(ctx.inputs, &["images", "labels"])?;
        let class_count =
            u8::try_from(classes.len()).map_err(|_| StageError::data("there are more than 255 classes"))?;
        let (config, mut network) = initial(params, ctx, &device)?;

        let images = io::images(ctx, "images")?;
        let labels = Shelf::new(ctx, "labels");
        let augmentation = Augmentation {
            scale: Scale::Factor { smallest: params.scale[0], largest: params.scale[1] },
            flip: params.flip,
            jitter: None,
            crop: Some(params.crop),
        };
        let side = params.crop / STRIDE;
        let load = |mut sample: train::Sample| {
            let entry = &images[sample.index];
            let (image, label) = (io::pixels(ctx, entry)?, labels.mask(&entry.id)?);
            io::check_mask(&label, &entry.id, (entry.height, entry.width), classes.len())?;
            let drawn = augmentation.apply(&image, Some(&label), &mut sample.random);
            let label = drawn.mask.expect("a mask went in");
            Ok((drawn.image, nearest_mask(&label, side, side, Nearest::Pillow)))
        };
        let recipe = train::Recipe {
            items: images.len(),
            batch: params.batch,
            epochs: params.epochs,
            drop_last: true,
            rate: params.lr(),
            schedule: params.schedule,
            warmup: 0,
            seed: ctx.seed,
            epoch_rates: Vec::new(),
        };
        let (decay, displacement_rate) = (params.weight_decay, params.displacement_rate);
        let mut optimizer = Optimizer::new(params.optimizer.rule(params.momentum()), None, move |name| Group {
            rate: if name.starts_with("fc_dp") { displacement_rate } else { 1.0 },
            decay,
        });
        let paths = paths(params.radius);
        let keep = ("", params.checkpoint.0);
        let loss = |heads: &Heads, samples: Vec<(Maps, LabelMap)>, _: &Pass, _| {
            let (images, labels): (Vec<Maps>, Vec<LabelMap>) = samples.into_iter().unzip();
            let features = network.features(training::stack(images, &device));
            heads.loss(&features, &labels, class_count, &paths).0
        };
        let heads = training::fit(ctx, keep, network.heads.clone(), &recipe, &mut optimizer, load, loss)?;
        network = network.with_heads(heads);
        if params.mean_shift {
            network.mean_shift = mean_displacement(&network, &images, params, ctx, &device)?;
        }
        training::output(ARCH, &config, classes, &network.export())
    }
}

/// Returns the mean displacement over the images, cut or padded with zeros to the crop from their upper left corner (SPEC 8.3).
fn mean_displacement(
    network: &Irn,
    images: &[ImageEntry],
    params: &TrainParams,
    ctx: &Ctx<'_>,
    device: &Device,
) -> Result<[f32; 2], StageError> {
    let mut sum = [0.0_f64; 2];
    let mut batches = 0;
    for chunk in images.chunks(params.batch) {
        ctx.check_cancelled()?;
        // A last, smaller batch is left out, as everywhere in this recipe.
        if chunk.len() < params.batch && batches > 0 {
            break;
        }
        let crops = chunk.par_iter().map(|entry| Ok(corner(&normalise(&io::pixels(ctx, entry)?), params.crop)));
        let crops = io::in_order(crops)?;
        let means =
            network.heads.displacements(&network.features(training::stack(crops, device))).mean_dims(&[0, 2, 3]);
        for (sum, mean) in sum.iter_mut().zip(means.into_data().iter::<f32>()) {
            *sum += f64::from(mean);
        }
        batches += 1;
    }
    Ok(sum.map(|sum| (sum / f64::from(batches.max(1))) as f32))
}

/// Cuts the upper left corner of `side` by `side`; what lies outside is 0.
fn corner(maps: &Maps, side: usize) -> Maps {
    let mut cut = Maps::zeros(maps.channels(), side, side);
    let width = maps.width().min(side);
    for channel in 0..maps.channels() {
        let rows =
            maps.channel(channel).chunks_exact(maps.width()).zip(cut.channel_mut(channel).chunks_exact_mut(side));
        rows.for_each(|(source, target)| target[..width].copy_from_slice(&source[..width]));
    }
    cut
}

/// Draws the heads, and takes the backbone from `init` if it is connected.
fn initial(params: &TrainParams, ctx: &Ctx<'_>, device: &Device) -> Result<(IrnConfig, Irn), StageError> {
    if ctx.inputs.maybe("init").is_none() {
        ctx.warn("the backbone is drawn from the seed and never trained, as `init` is not connected");
        let config = params.config(match params.preset {
            Preset::Resnet50 => resnet::Config::resnet50(),
            Preset::ResnetTiny => resnet::Config::tiny(),
        });
        let network = Irn::new(&config, ctx.seed, device);
        return Ok((config, network));
    }
    let (meta, tensors) = io::weights(ctx, "init")?;
    let (backbone, tensors) = backbone(&meta, tensors)?;
    let config = params.config(backbone);
    let network = Irn::new(&config, ctx.seed, device)
        .with_backbone(&tensors)
        .map_err(|report| training::misfit("init", &meta.arch, &report))?;
    Ok((config, network))
}

/// Parameters of `irn.propagate`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PropagateParams {
    /// A pixel is connected with all nearer than this, in cells of stride 4
    #[serde(default = "default_walk_radius")]
    #[schemars(range(min = 2, max = 32))]
    radius: usize,
    /// Power to which affinities are raised
    #[serde(default = "default_beta")]
    beta: f64,
    /// The walk takes 2 to this power steps
    #[serde(default = "default_exp_times")]
    #[schemars(range(max = 16))]
    exp_times: u32,
    /// Each side of an image is padded to the next multiple of this, in pixels; the norms of the network see it
    #[serde(default = "default_crop")]
    pad_to: usize,
    /// Power to which CAMs are raised before the walk (AMN: 1.3)
    #[serde(default = "default_power")]
    power: f64,
    /// Images of more pixels are shrunk to so many before the network sees them, and scores enlarged: it has learned from
    /// 300 to 500 pixels a side, and its memory grows with the pixels
    #[serde(default = "large::max_pixels")]
    #[schemars(range(min = 1))]
    max_pixels: usize,
    /// In which numbers convolutions and matrix products are computed; weights, sums of gradients and all else are f32
    #[serde(default)]
    precision: Precision,
}

fn default_walk_radius() -> usize {
    5
}

fn default_beta() -> f64 {
    10.0
}

fn default_exp_times() -> u32 {
    8
}

fn default_power() -> f64 {
    1.0
}

/// `irn.propagate`.
pub(super) struct Propagate;

impl Stage for Propagate {
    type Params = PropagateParams;
    const DEVICES: Devices = Devices::One;

    const SPEC: Spec = Spec {
        name: "irn.propagate",
        about: "Spread maps over each image by a random walk that stops at IRN's boundaries",
        // 2: JPEGs decode to the pixels of libjpeg-turbo, and maps are packed. 3: no NaN on images narrower than 64 pixels.
        // 4: convolutions and their gradients are added up in another order.
        revision: 4,
        inputs: &[
            Port {
                name: "images",
                takes: &[Kind::ImageSet],
                optional: false,
                about: "images whose boundaries are drawn",
            },
            Port { name: "cams", takes: &[Kind::CamSet], optional: false, about: "maps that walk" },
            Port { name: "weights", takes: &[Kind::Weights], optional: false, about: "a trained IRN" },
        ],
        output: Kind::ScoreSet,
        work: Work::PerImage,
        seeded: false,
    };

    fn check(params: &PropagateParams) -> Result<(), StageError> {
        training::within("radius", params.radius as f64, 2.0, 32.0)?;
        training::within("beta", params.beta, 0.0, 1000.0)?;
        training::within("exp_times", f64::from(params.exp_times), 0.0, 16.0)?;
        training::at_least_one("pad_to", params.pad_to)?;
        training::at_least_one("max_pixels", params.max_pixels)?;
        training::positive("power", params.power)
    }

    fn meta(_params: &PropagateParams, inputs: &Inputs) -> Result<Value, StageError> {
        saved(inputs)?;
        io::common_classes(inputs, &["images", "cams"])?;
        io::check_covers(inputs, "cams", "images")?;
        // IRN's boundaries know no classes, so those of its training images do not matter.
        Ok(inputs.get("cams").meta.clone())
    }

    fn run(params: &PropagateParams, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let (device, _held) = training::device(ctx, params.precision)?;
        let config = saved(ctx.inputs)?;
        let (_, network) = io::network(ctx, |meta, tensors| {
            Irn::load(&config, tensors, &device).map_err(|report| training::misfit("weights", &meta.arch, &report))
        })?;
        let images = io::images(ctx, "images")?;
        let cams = io::maps(ctx, "cams")?;
        let walk = WalkParams { radius: params.radius, beta: params.beta as f32, exp_times: params.exp_times };
        let done = AtomicUsize::new(0);
        let propagate = |entry: &ImageEntry| {
            ctx.check_cancelled()?;
            let maps = cams.get(&entry.id)?;
            let scores = if maps.classes.is_empty() {
                Maps::zeros(0, entry.height, entry.width)
            } else {
                let image = io::pixels(ctx, entry)?;
                let image = large::shrunk(&image, params.max_pixels);
                let (height, width) = (image.height(), image.width());
                let (edge, _) = network.infer(&normalise(&image), params.pad_to, &device);
                let of_image = |error| StageError::data(format!("image `{}`: {error}", entry.id));
                let mut start = start(&maps);
                // Maps that are not those of this image stay as they are, so that the walk refuses them.
                if (height, width) != (entry.height, entry.width)
                    && (start.height(), start.width()) == (stride4(entry.height), stride4(entry.width))
                {
                    start = shrink_maps(&start, stride4(height), stride4(width));
                }
                let start = raised(start, params.power);
                let walked = walk::propagate(&start, &edge, &walk).map_err(of_image)?;
                let scores = walk::at_image_size(&walked, height, width).map_err(of_image)?;
                large::enlarged(scores, entry.height, entry.width)
            };
            ctx.progress(done.fetch_add(1, Ordering::Relaxed) + 1, images.len(), "images");
            let classes = maps.classes;
            Ok(PackedMaps::new(&ImageMaps { id: entry.id.clone(), classes, cam: None, high_res: scores }))
        };
        let pixels = |entry: &ImageEntry| {
            let (height, width) = large::size_within(entry.height, entry.width, params.max_pixels);
            height.next_multiple_of(params.pad_to) * width.next_multiple_of(params.pad_to)
        };
        let scores = training::spread(ctx, &images, pixels, propagate)?;
        Ok(Output::shard(images.iter().map(|entry| entry.id.clone()).collect(), maps::encode(&scores)))
    }
}

/// Returns the maps at stride 4 from which the walk starts.
fn start(image: &ImageMaps) -> Maps {
    match &image.cam {
        Some(cam) => cam.clone(),
        None => {
            let full = &image.high_res;
            interpolate_bilinear(full, stride4(full.height()), stride4(full.width()), Coordinates::HalfPixel)
        }
    }
}

/// Raises maps to a power.
fn raised(mut maps: Maps, power: f64) -> Maps {
    if power != 1.0 {
        maps.data_mut().iter_mut().for_each(|value| *value = value.max(0.0).powf(power as f32));
    }
    maps
}

/// Reads the sizes of the IRN on port `weights`.
fn saved(inputs: &Inputs) -> Result<IrnConfig, StageError> {
    training::saved(inputs, ARCH, "IRN", "connect an `irn.train` stage")
}

/// Finds the backbone within weights of the ResNet family: its sizes, and its tensors under `resnet50.`.
fn backbone(meta: &WeightsMeta, tensors: NamedTensors) -> Result<(resnet::Config, NamedTensors), StageError> {
    if meta.arch == "resnet50" {
        // torchvision's own names, without a prefix.
        let tensors = tensors.into_iter().map(|(name, values)| (format!("resnet50.{name}"), values));
        let own = |name: &String| !name.starts_with("resnet50.fc.") && !name.ends_with("num_batches_tracked");
        return Ok((resnet::Config::resnet50(), tensors.filter(|(name, _)| own(name)).collect()));
    }
    let config = [meta.config.get("backbone"), Some(&meta.config)]
        .into_iter()
        .flatten()
        .find_map(|config| resnet::Config::deserialize(config).ok());
    let config = config.ok_or_else(|| {
        StageError::data_help(
            format!("port `init` has weights of `{}`, which have no ResNet backbone", meta.arch),
            "connect a `classifier.train` stage of the `resnet` family, or `weights.import` with `arch = \"resnet50\"`",
        )
    })?;
    Ok((config, tensors))
}
