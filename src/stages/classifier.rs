//! `classifier.train`: a classifier learns image-level labels, so that its activation maps show where the classes are
//! (SPEC 1.6 and 2.2).

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::artifact::weights::{NamedTensors, WeightsMeta};
use crate::data::ColorJitter;
use crate::data::augment::{Augmentation, Scale};
use crate::image::Maps;
use crate::kind::Kind;
use crate::nn::layers::NormKind;
use crate::nn::loss::multilabel_soft_margin;
use crate::nn::optim::{Group, Optimizer, Schedule};
use crate::nn::params;
use crate::nn::pass::Pass;
use crate::nn::precision::Precision;
use crate::nn::resnet::{self, ResNetCam};
use crate::nn::train;
use crate::nn::vit::{self, VitCam};
use crate::stage::{Ctx, Devices, Inputs, NotInKey, Output, Port, Spec, Stage, StageError, Work};
use crate::stages::io;
use crate::stages::training::{self, Every, OptimizerKind, Recipe};

/// What the weights of a ResNet classifier are called.
pub(super) const RESNET: &str = "resnet_cam";
/// What the weights of a ViT classifier are called.
pub(super) const VIT: &str = "vit_cam";

/// The network and the values of its training that go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Preset {
    /// ResNet-50 with frozen norms, made to start from ImageNet weights: 24 million parameters
    Resnet50,
    /// A small ResNet with batch norm for images of 64 to 224 pixels, made to start from the seed
    ResnetTiny,
    /// ViT-B/16 at 512 pixels, made to start from DeiT weights: 86 million parameters
    VitBase,
    /// A small ViT with a convolutional stem for images of about 160 pixels, made to start from the seed
    VitTiny,
}

/// The kind of network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Family {
    /// Bottleneck ResNet; its maps are the classifier's weights applied at every place
    Resnet,
    /// Vision transformer; its maps are attributions
    Vit,
}

/// Parameters of `classifier.train`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// Kind of network: `resnet` or `vit`
    family: Family,
    /// Whose values the parameters take that are left out, where paper and program disagree
    #[serde(default)]
    recipe: Recipe,
    /// Network and values that go together; default: the family's tiny one
    #[serde(default)]
    preset: Option<Preset>,
    /// Number of blocks: four numbers for a ResNet's layers, one for a ViT; default: the preset's
    #[serde(default)]
    depth: Option<Vec<usize>>,
    /// Channels after a ResNet's first convolution, or length of a ViT's tokens; default: the preset's
    #[serde(default)]
    width: Option<usize>,
    /// Attention heads of a ViT, which divide its width; default: the preset's
    #[serde(default)]
    heads: Option<usize>,
    /// Side of a ViT's patches in pixels, which divides the input size, and with a convolutional stem is a power of two;
    /// default: the preset's
    #[serde(default)]
    patch: Option<usize>,
    /// Strides of a ResNet's first convolution, `layer2`, `layer3` and `layer4`; default: the preset's
    #[serde(default)]
    strides: Option<[usize; 4]>,
    /// Whether a 3x3 max pool with stride 2 follows a ResNet's first convolution; default: the preset's
    #[serde(default)]
    pool: Option<bool>,
    /// Normalisation of a ResNet; `frozen` also freezes the first convolution, and only makes sense with `init`; default: the
    /// preset's
    #[serde(default)]
    norm: Option<NormKind>,
    /// Whether nothing before `layer3` of a ResNet is trained (SPEC 1.3); default: the preset's
    #[serde(default)]
    detach_early: Option<bool>,
    /// Side of the square that is cut from each image, in pixels; a ViT has it as its input size; default: the preset's
    #[serde(default)]
    crop: Option<usize>,
    /// Shortest and longest long side to which an image is resized before it is cut, in pixels; default: the preset's
    #[serde(default)]
    scale: Option<[usize; 2]>,
    /// Probability of a horizontal flip
    #[serde(default = "training::default_flip")]
    #[schemars(range(min = 0.0, max = 1.0))]
    flip: f64,
    /// Largest change of brightness, contrast, saturation and hue; zeros leave colours alone; default: the preset's
    #[serde(default)]
    jitter: Option<[f64; 4]>,
    /// How often each image is seen; default: the preset's
    #[serde(default)]
    epochs: Option<usize>,
    /// Images per step; default: the preset's
    #[serde(default)]
    batch: Option<usize>,
    /// How gradients become steps; default: the preset's
    #[serde(default)]
    optimizer: Option<OptimizerKind>,
    /// Learning rate of all but the head; default: the preset's
    #[serde(default)]
    lr: Option<f64>,
    /// The head's learning rate as a multiple of `lr`; default: the preset's
    #[serde(default)]
    head_rate: Option<f64>,
    /// Momentum of SGD; default: 0.9 (paper), for a ResNet 0.0005 (upstream)
    #[serde(default)]
    momentum: Option<f64>,
    /// Weight decay; default: the preset's
    #[serde(default)]
    weight_decay: Option<f64>,
    /// How the learning rate moves over the steps; default: the preset's
    #[serde(default)]
    schedule: Option<Schedule>,
    /// Epochs over which the learning rate rises at first; default: the preset's
    #[serde(default)]
    warmup: Option<f64>,
    /// Bound of the gradient's norm over all parameters, 0 for none; default: the preset's
    #[serde(default)]
    clip: Option<f64>,
    /// In which numbers convolutions and matrix products are computed; weights, sums of gradients and all else are f32
    #[serde(default)]
    precision: Precision,
    /// How often a checkpoint is kept besides those at an interruption: `"10 min"`, `"500 steps"` or `"never"`
    #[serde(default)]
    checkpoint: NotInKey<Every>,
}

/// The network's shape.
enum Shape {
    Resnet { config: resnet::Config, detach: bool },
    Vit(vit::Config),
}

/// Every value of a training.
struct Values {
    crop: usize,
    scale: [usize; 2],
    jitter: [f64; 4],
    epochs: usize,
    batch: usize,
    optimizer: OptimizerKind,
    lr: f64,
    head_rate: f64,
    momentum: f64,
    weight_decay: f64,
    schedule: Schedule,
    warmup: f64,
    clip: f64,
}

impl Preset {
    fn family(self) -> Family {
        match self {
            Self::Resnet50 | Self::ResnetTiny => Family::Resnet,
            Self::VitBase | Self::VitTiny => Family::Vit,
        }
    }

    fn shape(self) -> Shape {
        match self {
            Self::Resnet50 => Shape::Resnet { config: resnet::Config::resnet50(), detach: true },
            Self::ResnetTiny => Shape::Resnet { config: resnet::Config::tiny(), detach: false },
            Self::VitBase => Shape::Vit(vit::Config::base()),
            Self::VitTiny => Shape::Vit(vit::Config::tiny()),
        }
    }

    /// The values of SPEC 1.6 (right column) and 2.2; those of `ResnetTiny` were found by trial
    /// (docs/results.md), those of `VitTiny` follow them and were not scored.
    fn values(self, recipe: Recipe) -> Values {
        let upstream = |paper, upstream| recipe.or(None, paper, upstream);
        match self {
            Self::Resnet50 => Values {
                crop: 512,
                scale: [256, 512],
                jitter: [0.3, 0.3, 0.3, 0.1],
                epochs: 10,
                batch: 8,
                optimizer: OptimizerKind::Sgd,
                lr: 0.01,
                head_rate: 10.0,
                momentum: upstream(0.9, 5e-4),
                weight_decay: 5e-4,
                schedule: Schedule::Polynomial,
                warmup: 0.0,
                clip: 0.0,
            },
            Self::ResnetTiny => Values {
                crop: 160,
                scale: [160, 192],
                jitter: [0.2, 0.2, 0.2, 0.0],
                epochs: 9,
                batch: 16,
                optimizer: OptimizerKind::Adamw,
                lr: 2e-3,
                head_rate: 1.0,
                momentum: 0.9,
                weight_decay: 0.05,
                schedule: Schedule::Cosine,
                warmup: 1.0,
                clip: 0.0,
            },
            Self::VitBase => Values {
                crop: 512,
                scale: [256, 512],
                jitter: [0.3, 0.3, 0.3, 0.1],
                epochs: 10,
                batch: 4,
                optimizer: OptimizerKind::Sgd,
                lr: upstream(0.001, 0.01),
                head_rate: 10.0,
                momentum: 0.9,
                weight_decay: 1e-5,
                // Upstream's cosine is stepped once per epoch over a length in steps, and so never falls (SPEC 2.2).
                schedule: recipe.or(None, Schedule::Cosine, Schedule::Constant),
                warmup: 0.0,
                clip: 1.0,
            },
            Self::VitTiny => Values {
                crop: 160,
                scale: [160, 192],
                jitter: [0.2, 0.2, 0.2, 0.0],
                epochs: 12,
                batch: 16,
                optimizer: OptimizerKind::Adamw,
                lr: 1e-3,
                head_rate: 1.0,
                momentum: 0.9,
                weight_decay: 0.05,
                schedule: Schedule::Cosine,
                warmup: 1.0,
                clip: 1.0,
            },
        }
    }
}

impl Params {
    fn preset(&self) -> Preset {
        self.preset.unwrap_or(match self.family {
            Family::Resnet => Preset::ResnetTiny,
            Family::Vit => Preset::VitTiny,
        })
    }

    fn values(&self) -> Values {
        let preset = self.preset().values(self.recipe);
        Values {
            crop: self.crop.unwrap_or(preset.crop),
            scale: self.scale.unwrap_or(preset.scale),
            jitter: self.jitter.unwrap_or(preset.jitter),
            epochs: self.epochs.unwrap_or(preset.epochs),
            batch: self.batch.unwrap_or(preset.batch),
            optimizer: self.optimizer.unwrap_or(preset.optimizer),
            lr: self.lr.unwrap_or(preset.lr),
            head_rate: self.head_rate.unwrap_or(preset.head_rate),
            momentum: self.momentum.unwrap_or(preset.momentum),
            weight_decay: self.weight_decay.unwrap_or(preset.weight_decay),
            schedule: self.schedule.unwrap_or(preset.schedule),
            warmup: self.warmup.unwrap_or(preset.warmup),
            clip: self.clip.unwrap_or(preset.clip),
        }
    }

    /// Fills in whatever the preset and the recipe decide. Parameters of the other family stay empty, to be refused.
    fn resolved(self) -> Self {
        let values = self.values();
        let filled = Self {
            preset: Some(self.preset()),
            crop: Some(values.crop),
            scale: Some(values.scale),
            jitter: Some(values.jitter),
            epochs: Some(values.epochs),
            batch: Some(values.batch),
            optimizer: Some(values.optimizer),
            lr: Some(values.lr),
            head_rate: Some(values.head_rate),
            momentum: Some(values.momentum),
            weight_decay: Some(values.weight_decay),
            schedule: Some(values.schedule),
            warmup: Some(values.warmup),
            clip: Some(values.clip),
            ..self
        };
        match filled.preset().shape() {
            Shape::Resnet { config, detach } => Self {
                depth: filled.depth.or_else(|| Some(config.blocks.to_vec())),
                width: filled.width.or(Some(config.width)),
                strides: filled.strides.or(Some(config.strides)),
                pool: filled.pool.or(Some(config.pool)),
                norm: filled.norm.or(Some(config.norm)),
                detach_early: filled.detach_early.or(Some(detach)),
                ..filled
            },
            Shape::Vit(config) => Self {
                depth: filled.depth.or_else(|| Some(vec![config.depth])),
                width: filled.width.or(Some(config.width)),
                heads: filled.heads.or(Some(config.heads)),
                patch: filled.patch.or(Some(config.patch)),
                ..filled
            },
        }
    }

    /// Returns the network's shape.
    ///
    /// # Errors
    /// If parameters of the other family are set, or sizes do not fit together.
    fn shape(&self) -> Result<Shape, StageError> {
        let refuse = |name: &str, message: String| Err(StageError::parameter(name, message));
        let preset = self.preset();
        if preset.family() != self.family {
            return refuse("preset", "`preset` belongs to the other `family`".into());
        }
        let foreign = match self.family {
            Family::Resnet => [("heads", self.heads.is_some()), ("patch", self.patch.is_some())].to_vec(),
            Family::Vit => vec![
                ("strides", self.strides.is_some()),
                ("pool", self.pool.is_some()),
                ("norm", self.norm.is_some()),
                ("detach_early", self.detach_early.is_some()),
            ],
        };
        if let Some((name, _)) = foreign.iter().find(|(_, set)| *set) {
            let other = if self.family == Family::Vit { "resnet" } else { "vit" };
            return refuse(name, format!("`{name}` is for networks of the family `{other}`"));
        }
        match preset.shape() {
            Shape::Resnet { mut config, detach } => {
                config.width = self.width.unwrap_or(config.width);
                config.strides = self.strides.unwrap_or(config.strides);
                config.pool = self.pool.unwrap_or(config.pool);
                config.norm = self.norm.unwrap_or(config.norm);
                if let Some(depth) = &self.depth {
                    let Ok(blocks) = <[usize; 4]>::try_from(depth.clone()) else {
                        return refuse("depth", format!("`depth` of a ResNet is four numbers, not {}", depth.len()));
                    };
                    config.blocks = blocks;
                }
                if config.blocks.contains(&0) {
                    return refuse("depth", "every number of `depth` must be at least 1".into());
                }
                if config.strides.contains(&0) {
                    return refuse("strides", "every number of `strides` must be at least 1".into());
                }
                training::at_least_one("width", config.width)?;
                Ok(Shape::Resnet { config, detach: self.detach_early.unwrap_or(detach) })
            }
            Shape::Vit(mut config) => {
                config.image = self.values().crop;
                config.width = self.width.unwrap_or(config.width);
                config.heads = self.heads.unwrap_or(config.heads);
                config.patch = self.patch.unwrap_or(config.patch);
                if let Some(depth) = &self.depth {
                    let &[depth] = depth.as_slice() else {
                        return refuse("depth", format!("`depth` of a ViT is one number, not {}", depth.len()));
                    };
                    config.depth = depth;
                }
                let sizes = [("width", config.width), ("heads", config.heads), ("patch", config.patch)];
                for (name, size) in sizes.into_iter().chain([("depth", config.depth), ("crop", config.image)]) {
                    training::at_least_one(name, size)?;
                }
                if !config.width.is_multiple_of(config.heads) {
                    return refuse(
                        "heads",
                        format!("{} heads do not divide a width of {}", config.heads, config.width),
                    );
                }
                if config.stem == vit::Stem::Convolution && !config.patch.is_power_of_two() {
                    return refuse("patch", format!("`patch` is {}, but must be a power of two", config.patch));
                }
                if !config.image.is_multiple_of(config.patch) {
                    let message = format!("patches of {} do not divide a crop of {}", config.patch, config.image);
                    return refuse("patch", message);
                }
                Ok(Shape::Vit(config))
            }
        }
    }
}

/// `classifier.train`.
pub(super) struct Train;

impl Stage for Train {
    type Params = Params;
    const DEVICES: Devices = Devices::One;

    const SPEC: Spec = Spec {
        name: "classifier.train",
        about: "Train a classifier on image-level labels",
        // 2: JPEGs decode to the pixels of libjpeg-turbo.
        // 3: convolutions and their gradients are added up in another order.
        revision: 3,
        inputs: &[
            Port { name: "images", takes: &[Kind::ImageSet], optional: false, about: "images with labels to train on" },
            Port {
                name: "init",
                takes: &[Kind::Weights],
                optional: true,
                about: "weights to start from; without them the seed decides",
            },
        ],
        output: Kind::Weights,
        work: Work::Whole,
        seeded: true,
    };

    fn resolve(params: Params) -> Params {
        params.resolved()
    }

    fn check(params: &Params) -> Result<(), StageError> {
        params.shape()?;
        let values = params.values();
        training::at_least_one("crop", values.crop)?;
        training::at_least_one("scale", values.scale[0])?;
        if values.scale[0] > values.scale[1] {
            return Err(StageError::parameter("scale", "the first number of `scale` is larger than the second"));
        }
        training::at_least_one("epochs", values.epochs)?;
        training::at_least_one("batch", values.batch)?;
        training::within("flip", params.flip, 0.0, 1.0)?;
        for (value, most) in values.jitter.into_iter().zip([1.0, 1.0, 1.0, 0.5]) {
            training::within("jitter", value, 0.0, most)?;
        }
        training::positive("lr", values.lr)?;
        training::positive("head_rate", values.head_rate)?;
        training::within("momentum", values.momentum, 0.0, 0.9999)?;
        training::within("weight_decay", values.weight_decay, 0.0, f64::INFINITY)?;
        training::within("warmup", values.warmup, 0.0, f64::INFINITY)?;
        training::within("clip", values.clip, 0.0, f64::INFINITY)
    }

    fn meta(_params: &Params, inputs: &Inputs) -> Result<serde_json::Value, StageError> {
        io::classes(inputs.get("images"), "images")?;
        Ok(serde_json::Value::Null)
    }

    fn run(params: &Params, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let (device, _held) = training::device(ctx, params.precision)?;
        let classes = io::classes(ctx.inputs.get("images"), "images")?;
        let count = classes.len().saturating_sub(1);
        match params.shape()? {
            Shape::Resnet { config, detach } => {
                let mut network = ResNetCam::new(&config, count, ctx.seed, &device);
                if let Some((meta, tensors)) = init(ctx)? {
                    network = start(network, &meta, resnet_names(tensors, &meta)?)?;
                } else if config.norm == NormKind::Frozen {
                    ctx.warn("the first convolution and all norms are frozen at random values: connect `init`, or set `norm`");
                }
                if config.norm == NormKind::Frozen || detach {
                    network = network.frozen(detach);
                }
                let trained =
                    fit(params, ctx, network, count, &device, move |network, x, pass| network.logits(x, detach, pass))?;
                training::output(RESNET, &config, classes, &trained)
            }
            Shape::Vit(config) => {
                let mut network = VitCam::new(&config, count, ctx.seed, &device);
                if let Some((meta, mut tensors)) = init(ctx)? {
                    vit::resize_places(&mut tensors, config.grid());
                    network = start(network, &meta, tensors)?;
                    // SPEC 2.2; the bias trains.
                    network = params::set_trainable(network, |name| name != "patch_embed.proj.weight");
                }
                let trained =
                    fit(params, ctx, network, count, &device, |network: &VitCam, x, pass| network.logits(x, pass))?;
                training::output(VIT, &config, classes, &trained)
            }
        }
    }
}

/// Returns whether a parameter belongs to the classifier proper, which data sets do not share.
fn is_head(name: &str) -> bool {
    name.starts_with("classifier.") || name.starts_with("head.")
}

fn init(ctx: &Ctx<'_>) -> Result<Option<(WeightsMeta, NamedTensors)>, StageError> {
    ctx.inputs.maybe("init").map(|_| io::weights(ctx, "init")).transpose()
}

/// Gives ImageNet weights of a ResNet, `conv1.weight` and so on, the names of the classifier: `resnet50.conv1.weight`.
pub(super) fn resnet_names(tensors: NamedTensors, meta: &WeightsMeta) -> Result<NamedTensors, StageError> {
    if meta.arch.starts_with("vit") {
        return Err(StageError::data_help(
            format!("port `init` has weights of `{}`, and this network is a ResNet", meta.arch),
            "connect weights of a ResNet, or set `family = \"vit\"`",
        ));
    }
    if tensors.keys().any(|name| name.starts_with("resnet50.")) {
        return Ok(tensors);
    }
    Ok(tensors.into_iter().map(|(name, values)| (format!("resnet50.{name}"), values)).collect())
}

/// Takes over weights; those of the head only where they fit, as class lists differ.
fn start<M: Module>(network: M, meta: &WeightsMeta, tensors: NamedTensors) -> Result<M, StageError> {
    let shapes = params::shapes(&network);
    let tensors: NamedTensors = tensors
        .into_iter()
        .filter(|(name, values)| {
            let fits = shapes.get(name).is_some_and(|shape| *shape == values.shape);
            fits || !(is_head(name) || name.contains(".fc.") || name.ends_with("num_batches_tracked"))
        })
        .collect();
    let (network, mut report) = params::load(network, &tensors);
    report.missing.retain(|name| !is_head(name));
    if report.is_empty() { Ok(network) } else { Err(training::misfit("init", &meta.arch, &report)) }
}

/// Trains a network and returns its tensors.
fn fit<M: Module>(
    params: &Params,
    ctx: &Ctx<'_>,
    network: M,
    classes: usize,
    device: &Device,
    logits: impl Fn(&M, Tensor<4>, &Pass) -> Tensor<2>,
) -> Result<NamedTensors, StageError> {
    let values = params.values();
    let images = io::images(ctx, "images")?;
    let [brightness, contrast, saturation, hue] = values.jitter;
    let augmentation = Augmentation {
        scale: Scale::LongSide { shortest: values.scale[0], longest: values.scale[1] },
        flip: params.flip,
        jitter: (values.jitter != [0.0; 4]).then_some(ColorJitter { brightness, contrast, saturation, hue }),
        crop: Some(values.crop),
    };
    let load = |mut sample: train::Sample| {
        let entry = &images[sample.index];
        let image = augmentation.apply(&io::pixels(ctx, entry)?, None, &mut sample.random).image;
        let mut target = vec![0.0_f32; classes];
        for &label in &entry.labels {
            let slot = target.get_mut(usize::from(label)).ok_or_else(|| {
                StageError::data(format!("image `{}` has a label {label}, but there are {classes} classes", entry.id))
            })?;
            *slot = 1.0;
        }
        Ok::<_, StageError>((image, target))
    };
    let mut recipe = train::Recipe {
        items: images.len(),
        batch: values.batch,
        epochs: values.epochs,
        drop_last: true,
        rate: values.lr,
        schedule: values.schedule,
        warmup: 0,
        seed: ctx.seed,
        epoch_rates: Vec::new(),
    };
    recipe.warmup = (values.warmup * recipe.steps_per_epoch() as f64).round() as usize;
    let (decay, head_rate) = (values.weight_decay, values.head_rate);
    let adamw = values.optimizer == OptimizerKind::Adamw;
    let clip = (values.clip > 0.0).then_some(values.clip);
    let mut optimizer = Optimizer::new(values.optimizer.rule(values.momentum), clip, move |name| Group {
        rate: if is_head(name) { head_rate } else { 1.0 },
        // As DeiT: no decay of biases, norms, places and the class token under AdamW; SGD decays all (SPEC 2.2).
        decay: if adamw && (name.contains("norm") || !name.ends_with("weight")) { 0.0 } else { decay },
    });
    let training_device = device.clone().autodiff();
    let loss = |network: &M, items: Vec<(Maps, Vec<f32>)>, pass: &Pass, _| {
        let (images, targets): (Vec<Maps>, Vec<Vec<f32>>) = items.into_iter().unzip();
        let shape = [targets.len(), classes];
        let targets = TensorData::new(targets.concat(), shape);
        let logits = logits(network, training::stack(images, &training_device), pass);
        multilabel_soft_margin(logits, Tensor::from_data(targets, &training_device))
    };
    let trained = training::fit(ctx, ("", params.checkpoint.0), network, &recipe, &mut optimizer, load, loss)?;
    Ok(params::export(&trained))
}
