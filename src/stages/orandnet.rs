//! `orandnet.train` and `orandnet.refine`: ORANDNet learns to predict the AND of two CAM sets from their OR, and refines the OR
//! (SPEC 6).

use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{Device, Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifact::maps::{self, ImageMaps, PackedMaps, stride4};
use crate::artifact::weights::NamedTensors;
use crate::image::large;
use crate::image::resize::{Coordinates, interpolate_bilinear, shrink_maps};
use crate::kind::Kind;
use crate::nn::init::{self, Init};
use crate::nn::optim::{Group, Optimizer, Schedule};
use crate::nn::orandnet::{ARCH, Activation, OrandLoss, OrandNet, OrandNetConfig, from_vgg16};
use crate::nn::params;
use crate::nn::pass::Pass;
use crate::nn::precision::Precision;
use crate::nn::refiner::Refiner;
use crate::nn::train;
use crate::stage::{Ctx, Devices, Inputs, NotInKey, Output, Port, Spec, Stage, StageError, Work};
use crate::stages::io;
use crate::stages::shelf::Shelf;
use crate::stages::training::{self, Every, OptimizerKind, Recipe};

/// Sizes that go together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Preset {
    /// The paper's FCN-8s over VGG16: 134 million parameters
    #[default]
    Vgg16,
    /// The same in small: 80 thousand parameters, maps of any size, for a CPU
    VggTiny,
}

/// Parameters of `orandnet.train`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TrainParams {
    /// Whose values the parameters take that are left out, where paper and program disagree
    #[serde(default)]
    recipe: Recipe,
    /// Sizes that go together
    #[serde(default)]
    preset: Preset,
    /// Channels of the five groups of convolutions; default: the preset's (64, 128, 256, 512, 512 or 4, 8, 16, 32, 32)
    #[serde(default)]
    widths: Option<[usize; 5]>,
    /// Channels of the two fully convolutional layers; default: the preset's (4096 or 64)
    #[serde(default)]
    fc_width: Option<usize>,
    /// Side of the first fully convolutional kernel, in cells of 32 pixels; default: the preset's (7 or 3)
    #[serde(default)]
    fc_kernel: Option<usize>,
    /// Zeros around the map, in pixels; 1 keeps the size in every layer; default: the preset's (100 or 1)
    #[serde(default)]
    padding: Option<usize>,
    /// What is minimised; the default, which is the released program's, makes the most precise maps (docs/results.md)
    #[serde(default)]
    loss: OrandLoss,
    /// Steps of the optimiser; each image comes equally often
    #[serde(default = "default_steps")]
    #[schemars(range(min = 1))]
    steps: usize,
    /// Images per step, each with all its classes
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    batch: usize,
    /// Learning rate before the first step
    #[serde(default = "default_lr")]
    lr: f64,
    /// Momentum of SGD; default: 0.9 (paper), 0.0001 (upstream)
    #[serde(default)]
    momentum: Option<f64>,
    /// Weight decay
    #[serde(default)]
    weight_decay: f64,
    /// How gradients become steps
    #[serde(default)]
    optimizer: OptimizerKind,
    /// How the learning rate moves over the steps
    #[serde(default)]
    schedule: Schedule,
    /// In which numbers convolutions and matrix products are computed; weights, sums of gradients and all else are f32
    #[serde(default)]
    precision: Precision,
    /// How often a checkpoint is kept besides those at an interruption: `"10 min"`, `"500 steps"` or `"never"`
    #[serde(default)]
    checkpoint: NotInKey<Every>,
}

fn default_steps() -> usize {
    5000
}

fn one() -> usize {
    1
}

fn default_lr() -> f64 {
    1e-3
}

impl TrainParams {
    fn config(&self) -> OrandNetConfig {
        let preset = match self.preset {
            Preset::Vgg16 => OrandNetConfig::vgg16(),
            Preset::VggTiny => OrandNetConfig::vgg_tiny(),
        };
        OrandNetConfig {
            widths: self.widths.unwrap_or(preset.widths),
            fc_width: self.fc_width.unwrap_or(preset.fc_width),
            fc_kernel: self.fc_kernel.unwrap_or(preset.fc_kernel),
            padding: self.padding.unwrap_or(preset.padding),
        }
    }

    fn momentum(&self) -> f64 {
        self.recipe.or(self.momentum, 0.9, 1e-4)
    }
}

/// `orandnet.train`.
pub(super) struct Train;

impl Stage for Train {
    type Params = TrainParams;
    const DEVICES: Devices = Devices::One;

    const SPEC: Spec = Spec {
        name: "orandnet.train",
        about: "Train ORANDNet to predict AND maps from OR maps",
        // 2: keeps the loss beside the sizes.
        // 3: convolutions and their gradients are added up in another order.
        revision: 3,
        inputs: &[
            Port { name: "input", takes: &[Kind::CamSet], optional: false, about: "maps that go in: OR" },
            Port { name: "target", takes: &[Kind::CamSet], optional: false, about: "maps that should come out: AND" },
            Port {
                name: "init",
                takes: &[Kind::Weights],
                optional: true,
                about: "VGG16 or ORANDNet weights to start from; without them the seed decides",
            },
        ],
        output: Kind::Weights,
        work: Work::Whole,
        seeded: true,
    };

    fn resolve(params: TrainParams) -> TrainParams {
        let config = params.config();
        TrainParams {
            widths: Some(config.widths),
            fc_width: Some(config.fc_width),
            fc_kernel: Some(config.fc_kernel),
            padding: Some(config.padding),
            momentum: Some(params.momentum()),
            ..params
        }
    }

    fn check(params: &TrainParams) -> Result<(), StageError> {
        params.config().check().map_err(|(name, message)| StageError::parameter(name, message))?;
        training::at_least_one("steps", params.steps)?;
        training::at_least_one("batch", params.batch)?;
        training::positive("lr", params.lr)?;
        training::within("momentum", params.momentum(), 0.0, 0.9999)?;
        training::within("weight_decay", params.weight_decay, 0.0, f64::INFINITY)
    }

    fn meta(_params: &TrainParams, inputs: &Inputs) -> Result<Value, StageError> {
        io::common_classes(inputs, &["input", "target"])?;
        io::check_covers(inputs, "target", "input")?;
        Ok(Value::Null)
    }

    fn run(params: &TrainParams, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        Self::meta(params, ctx.inputs)?;
        let (device, _held) = training::device(ctx, params.precision)?;
        let classes = io::common_classes(ctx.inputs, &["input", "target"])?;
        let config = params.config();
        let network = initial(&config, ctx, &device)?;

        let (input, target) = (Shelf::new(ctx, "input"), Shelf::new(ctx, "target"));
        let ids = input.ids();
        if ids.is_empty() {
            return Err(StageError::data("there is no image to train on"));
        }
        // Step by step through the set, as often as it takes: item i of the training is image i modulo their number.
        let recipe = train::Recipe {
            items: params.steps * params.batch,
            batch: params.batch,
            epochs: 1,
            drop_last: false,
            rate: params.lr,
            schedule: params.schedule,
            warmup: 0,
            seed: ctx.seed,
            epoch_rates: Vec::new(),
        };
        let decay = params.weight_decay;
        let rule = params.optimizer.rule(params.momentum());
        let mut optimizer = Optimizer::new(rule, None, move |_| Group { rate: 1.0, decay });
        let load = |sample: train::Sample| {
            let id = &ids[sample.index % ids.len()];
            pair(&config, input.maps(id)?, target.maps(id)?)
        };
        let (loss, batch) = (params.loss, params.batch as f64);
        let keep = ("", params.checkpoint.0);
        let loss = |network: &OrandNet, pairs: Vec<Option<Pair>>, pass: &Pass, _| {
            let device = device.clone().autodiff();
            let losses = pairs.into_iter().map(|pair| match pair {
                Some(Pair { shape, input, target }) => {
                    let tensor = |values| Tensor::<4>::from_data(TensorData::new(values, shape), &device);
                    loss.of(network.forward(tensor(input), pass), tensor(target)) / batch
                }
                None => network.nothing(),
            });
            losses.reduce(|sum, loss| sum + loss).expect("a batch has at least one image")
        };
        let trained = training::fit(ctx, keep, network, &recipe, &mut optimizer, load, loss)?;
        training::output(ARCH, &Saved { sizes: config, loss: params.loss }, classes, &params::export(&trained))
    }
}

/// What is kept of the network beside its tensors.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    sizes: OrandNetConfig,
    loss: OrandLoss,
}

/// OR and AND of one image.
struct Pair {
    shape: [usize; 4],
    input: Vec<f32>,
    target: Vec<f32>,
}

/// Checks that the maps of both sets belong together; `None` for an image without classes.
fn pair(config: &OrandNetConfig, input: ImageMaps, target: ImageMaps) -> Result<Option<Pair>, StageError> {
    let size = |maps: &ImageMaps| [maps.high_res.channels(), maps.high_res.height(), maps.high_res.width()];
    if input.classes != target.classes || size(&input) != size(&target) {
        return Err(StageError::data_help(
            format!("the maps of image `{}` on ports `input` and `target` differ in classes or size", input.id),
            "make both from the same two CAM sets: `cam.or` and `cam.and`",
        ));
    }
    let [classes, height, width] = size(&input);
    if classes == 0 {
        return Ok(None);
    }
    config.check_size(height, width).map_err(|error| too_small(&input.id, &error))?;
    let shape = [classes, 1, height, width];
    Ok(Some(Pair { shape, input: input.high_res.into_data(), target: target.high_res.into_data() }))
}

fn too_small(id: &str, error: &str) -> StageError {
    StageError::data_help(format!("image `{id}`: {error}"), "set `padding = 1`, with which maps of any size fit")
}

/// Draws the network, and takes over what `init` has for it.
fn initial(config: &OrandNetConfig, ctx: &Ctx<'_>, device: &Device) -> Result<OrandNet, StageError> {
    let network = config.init(ctx.seed, device);
    if ctx.inputs.maybe("init").is_none() {
        return Ok(network);
    }
    let (meta, tensors) = io::weights(ctx, "init")?;
    match meta.arch.as_str() {
        ARCH => params::load_strict(network, &tensors).map_err(|report| training::misfit("init", ARCH, &report)),
        "vgg16" => {
            let mut tensors = from_vgg16(&tensors);
            // The first convolution sees one channel instead of three and starts as torch starts it (SPEC 6.1).
            let name = "downsample1.0.weight";
            let shape = vec![config.widths[0], 1, 3, 3];
            let data = init::draw(Init::KaimingUniform, &shape, ctx.seed, name);
            tensors.insert(name.to_owned(), crate::artifact::weights::Values { shape, data });
            fill(network, &tensors)
        }
        other => Err(StageError::data_help(
            format!("port `init` has weights of `{other}`, and ORANDNet starts from `vgg16` or `{ARCH}`"),
            "connect `weights.import` with `arch = \"vgg16\"`, or leave `init` out",
        )),
    }
}

/// Takes over tensors of which none may be unknown or of another shape; the network's other values stay.
fn fill(network: OrandNet, tensors: &NamedTensors) -> Result<OrandNet, StageError> {
    let (network, mut report) = params::load(network, tensors);
    report.missing.retain(|name| !["score_", "upsample_", "downsample1.0."].iter().any(|own| name.starts_with(own)));
    if report.is_empty() { Ok(network) } else { Err(training::misfit("init", "vgg16", &report)) }
}

/// Parameters of `orandnet.refine`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RefineParams {
    /// What makes maps of the network's outputs, before each is divided by its maximum; default: what belongs to the loss that
    /// the network was trained with: `relu` (`class_softmax`), `softmax` (`with_background`), `sigmoid` (`per_pixel_bce`)
    #[serde(default)]
    activation: Option<Activation>,
    /// Maps of more pixels are shrunk to so many before the network sees them, and enlarged again: it has learned from
    /// 300 to 500 pixels a side, and its memory grows with the pixels
    #[serde(default = "large::max_pixels")]
    #[schemars(range(min = 1))]
    max_pixels: usize,
    /// In which numbers convolutions and matrix products are computed; weights, sums of gradients and all else are f32
    #[serde(default)]
    precision: Precision,
}

/// `orandnet.refine`.
pub(super) struct Refine;

impl Stage for Refine {
    type Params = RefineParams;
    const DEVICES: Devices = Devices::One;

    const SPEC: Spec = Spec {
        name: "orandnet.refine",
        about: "Refine maps with a trained ORANDNet",
        // 2: maps are probabilities where the loss makes them so.
        // 3: maps are packed.
        // 5: convolutions and their gradients are added up in another order.
        revision: 5,
        inputs: &[
            Port { name: "input", takes: &[Kind::CamSet], optional: false, about: "maps to refine: OR" },
            Port { name: "weights", takes: &[Kind::Weights], optional: false, about: "a trained ORANDNet" },
        ],
        output: Kind::CamSet,
        work: Work::PerImage,
        seeded: false,
    };

    fn check(params: &RefineParams) -> Result<(), StageError> {
        training::at_least_one("max_pixels", params.max_pixels)
    }

    fn meta(_params: &RefineParams, inputs: &Inputs) -> Result<Value, StageError> {
        let config = saved(inputs)?.sizes;
        config.check().map_err(|(name, message)| StageError::data(format!("the weights' `{name}`: {message}")))?;
        // ORANDNet sees one map at a time, so it refines classes that it was not trained on as well.
        Ok(inputs.get("input").meta.clone())
    }

    fn run(params: &RefineParams, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let (device, _held) = training::device(ctx, params.precision)?;
        let Saved { sizes: config, loss } = saved(ctx.inputs)?;
        let activation = params.activation.unwrap_or(loss.activation());
        let (_, network) = io::network(ctx, |meta, tensors| {
            params::load_strict(config.build(&device), tensors)
                .map_err(|report| training::misfit("weights", &meta.arch, &report))
        })?;
        // Its frames are kept for this shard alone, as there may be one for each size.
        let refiner = Refiner::new(&network);
        let images = io::maps(ctx, "input")?;
        let ids: Vec<String> = images.ids().cloned().collect();
        let done = AtomicUsize::new(0);
        let refine = |id: &String| {
            ctx.check_cancelled()?;
            let ImageMaps { id, classes, high_res: maps, .. } = images.get(id)?;
            let own = (maps.height(), maps.width());
            let (height, width) = large::size_within(own.0, own.1, params.max_pixels);
            config.check_size(height, width).map_err(|error| too_small(&id, &error))?;
            let small = if (height, width) == own { maps } else { shrink_maps(&maps, height, width) };
            let high_res = large::enlarged(refiner.refine(&small, activation, &device), own.0, own.1);
            // SPEC 6.3: those at stride 4 are made of those at full size.
            let cam = interpolate_bilinear(&high_res, stride4(own.0), stride4(own.1), Coordinates::HalfPixel);
            ctx.progress(done.fetch_add(1, Ordering::Relaxed) + 1, ids.len(), "images");
            Ok(PackedMaps::new(&ImageMaps { id, classes, cam: Some(cam), high_res }))
        };
        let refined = training::spread(ctx, &ids, |id| images.pixels(id), refine)?;
        Ok(Output::shard(ids, maps::encode(&refined)))
    }
}

/// Reads what was kept of the ORANDNet on port `weights`.
fn saved(inputs: &Inputs) -> Result<Saved, StageError> {
    training::saved(inputs, ARCH, "ORANDNet", "connect an `orandnet.train` stage")
}
