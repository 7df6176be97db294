//! One network on one image, as `orandflow op forward` runs it: by the same code as the stages, with the outputs under the names
//! that people compare. Knows bytes that were read and no files.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifact::architecture::Architecture;
use crate::artifact::weights::{NamedTensors, Values};
use crate::image::normalise::normalise;
use crate::image::{Maps, Rgb};
use crate::nn::amn::{self, Amn};
use crate::nn::attribution::{Attribution, Explainer};
use crate::nn::cam::batch;
use crate::nn::irn::{Irn, IrnConfig};
use crate::nn::mct_maps::{self, Recipe};
use crate::nn::mctformer::{self, MctFormer, Version};
use crate::nn::orandnet::OrandNetConfig;
use crate::nn::params;
use crate::nn::pass::Pass;
use crate::nn::refiner::Refiner;
use crate::nn::resnet::{self, ResNetCam};
use crate::nn::resnet38::Resnet38Config;
use crate::nn::vit::{self, VitCam};

/// A network by its name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// ResNet-50 with class activation maps: `logits`, `cam` (SPEC 1).
    Resnet50Cam,
    /// AMN: `logits` (SPEC 3).
    Resnet50Amn,
    /// ViT-B/16: `logits`, `attribution` (SPEC 2).
    VitBase,
    /// MCTformer: `class_logits`, `patch_logits`, `cam`, `cam_refined` (SPEC 4).
    MctFormer(Version),
    /// ORANDNet: `out` (SPEC 6).
    OrandNet,
    /// IRN: `edge`, `displacement` (SPEC 8).
    Irn,
    /// ResNet-38: `logits` (SPEC 9).
    Resnet38Seg,
}

impl Arch {
    const NAMES: [(&str, Self); 9] = [
        ("resnet50_cam", Self::Resnet50Cam),
        ("resnet50_amn", Self::Resnet50Amn),
        ("vit_base", Self::VitBase),
        ("mctformer_v1", Self::MctFormer(Version::V1)),
        ("mctformer_v2", Self::MctFormer(Version::V2)),
        ("mctformer_plus", Self::MctFormer(Version::Plus)),
        ("orandnet", Self::OrandNet),
        ("irn", Self::Irn),
        ("resnet38_seg", Self::Resnet38Seg),
    ];

    /// Returns the network of this name.
    ///
    /// # Errors
    /// If there is none; the message lists all names.
    pub fn named(name: &str) -> Result<Self, String> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, arch)| *arch).ok_or_else(|| {
            let known: Vec<&str> = Self::NAMES.iter().map(|(known, _)| *known).collect();
            format!("`{name}` is no network; known are {}", known.join(", "))
        })
    }

    /// Returns its name in the table of architectures, where a network with a head is another one than its backbone.
    fn in_table(self) -> &'static str {
        match self {
            Self::Resnet50Cam => "resnet_cam",
            Self::VitBase => "vit_cam",
            other => Self::NAMES.iter().find(|(_, arch)| *arch == other).expect("every network has a name").0,
        }
    }

    /// Returns whether its input is a map instead of an image.
    pub fn takes_maps(self) -> bool {
        self == Self::OrandNet
    }

    /// Returns the options that are not sizes of the network.
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Resnet50Cam | Self::OrandNet | Self::Resnet38Seg => &[],
            Self::Resnet50Amn => &["labels"],
            Self::VitBase => &["class", "attribution", "precision"],
            Self::MctFormer(_) => &["layers", "fuse"],
            Self::Irn => &["pad_to"],
        }
    }
}

/// What goes into a network.
#[derive(Clone, Debug)]
pub enum Input {
    /// An image, which is normalised and not resized.
    Image(Rgb),
    /// Maps, each on its own.
    Maps(Maps),
}

/// What is asked of a network beside its weights.
#[derive(Clone, Debug)]
pub struct Options {
    arch: Arch,
    values: BTreeMap<String, Value>,
}

impl Options {
    /// The reference's sizes and settings.
    pub fn new(arch: Arch) -> Self {
        Self { arch, values: BTreeMap::new() }
    }

    /// Puts a value in place: an option of the network, such as `class`, or one of its sizes. It is read as JSON, and as a plain
    /// word where it is none.
    ///
    /// # Errors
    /// If the network has none of this name; sizes are checked by [`run`].
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let known = self.arch.options();
        let ours = ["labels", "class", "attribution", "precision", "layers", "fuse", "pad_to"];
        if ours.contains(&name) && !known.contains(&name) {
            return Err(format!("`{name}` is not an option of this network"));
        }
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        self.values.insert(name.to_owned(), value);
        Ok(())
    }

    fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, String> {
        let Some(value) = self.values.get(name) else { return Ok(None) };
        serde_json::from_value(value.clone()).map(Some).map_err(|error| format!("`{name}` is {value}: {error}"))
    }

    /// Returns the network's sizes with the values that were set.
    fn config<T: Serialize + DeserializeOwned>(&self, config: &T) -> Result<T, String> {
        let mut sizes = serde_json::to_value(config).map_err(|error| error.to_string())?;
        for (name, value) in &self.values {
            if self.arch.options().contains(&name.as_str()) {
                continue;
            }
            let known: Vec<String> = sizes.as_object().map(|sizes| sizes.keys().cloned().collect()).unwrap_or_default();
            let Some(slot) = sizes.get_mut(name) else {
                let options = self.arch.options().iter().map(|&name| name.to_owned());
                let known: Vec<String> = options.chain(known).collect();
                return Err(format!("this network has no `{name}`; it has {}", known.join(", ")));
            };
            *slot = value.clone();
        }
        serde_json::from_value(sizes).map_err(|error| format!("the network's sizes do not make sense: {error}"))
    }
}

/// Runs a network.
///
/// # Errors
/// If the weights do not fit, an option makes no sense, or the input is of a size or kind that the network does not take.
pub fn run(options: &Options, tensors: NamedTensors, input: &Input, device: &Device) -> Result<NamedTensors, String> {
    let tensors = first_names(options.arch, tensors);
    let mut outputs = Outputs::default();
    match (options.arch, input) {
        (Arch::OrandNet, Input::Maps(maps)) => orandnet(options, &tensors, maps, device, &mut outputs)?,
        (Arch::OrandNet, Input::Image(_)) => return Err("this network takes maps, not an image".to_owned()),
        (_, Input::Maps(_)) => return Err("this network takes an image, not maps".to_owned()),
        (Arch::Resnet50Cam, Input::Image(image)) => resnet50_cam(options, &tensors, image, device, &mut outputs)?,
        (Arch::Resnet50Amn, Input::Image(image)) => resnet50_amn(options, &tensors, image, device, &mut outputs)?,
        (Arch::VitBase, Input::Image(image)) => vit_base(options, &tensors, image, device, &mut outputs)?,
        (Arch::MctFormer(version), Input::Image(image)) => {
            mct(options, version, &tensors, image, device, &mut outputs)?;
        }
        (Arch::Irn, Input::Image(image)) => {
            let network = Irn::load(&options.config(&IrnConfig::resnet50())?, &tensors, device);
            let network = network.map_err(|error| error.to_string())?;
            let pad_to = options.get("pad_to")?.unwrap_or(512_usize).max(1);
            let (edge, displacement) = network.infer(&normalise(image), pad_to, device);
            outputs.maps("edge", edge);
            outputs.maps("displacement", displacement);
        }
        (Arch::Resnet38Seg, Input::Image(image)) => {
            let classes = leading(&tensors, "fc8_seg_conv2.bias")?;
            let config: Resnet38Config = options.config(&Resnet38Config::resnet38(classes))?;
            let network = load(config.init(0, device), &tensors)?;
            outputs.tensor("logits", network.forward(pixels(image, device), &Pass::inference()));
        }
    }
    Ok(outputs.0)
}

/// Returns tensors under their first names alone, without counters and what belongs to another task: the reference programs store
/// some tensors a second and third time (SPEC 1.4, 3.1 and 8.1), as the table of architectures says.
fn first_names(arch: Arch, tensors: NamedTensors) -> NamedTensors {
    let known = Architecture::find(arch.in_table()).expect("every network has a row in the table");
    let counts = |name: &str| known.counters && name.ends_with("num_batches_tracked");
    let (aliases, mut firsts): (NamedTensors, NamedTensors) = tensors
        .into_iter()
        .filter(|(name, _)| !known.drops(name) && !counts(name))
        .partition(|(name, _)| known.first_name(name).is_some());
    for (alias, values) in aliases {
        let first = known.first_name(&alias).expect("aliases have a first name");
        firsts.entry(first).or_insert(values);
    }
    firsts
}

fn load<M: Module>(network: M, tensors: &NamedTensors) -> Result<M, String> {
    params::load_strict(network, tensors).map_err(|error| error.to_string())
}

/// Returns the first dimension of a tensor that says how many classes there are.
fn leading(tensors: &NamedTensors, name: &str) -> Result<usize, String> {
    let first = tensors.get(name).and_then(|values| values.shape.first().copied()).filter(|&count| count > 0);
    first.ok_or_else(|| format!("the weights do not fit: the network needs `{name}`"))
}

fn pixels(image: &Rgb, device: &Device) -> Tensor<4> {
    batch([&normalise(image)].into_iter(), device)
}

/// Outputs by name.
#[derive(Default)]
struct Outputs(NamedTensors);

impl Outputs {
    fn tensor<const D: usize>(&mut self, name: &str, tensor: Tensor<D>) {
        let shape = tensor.dims().to_vec();
        self.0.insert(name.to_owned(), Values { shape, data: tensor.into_data().iter::<f32>().collect() });
    }

    fn maps(&mut self, name: &str, maps: Maps) {
        let shape = vec![maps.channels(), maps.height(), maps.width()];
        self.0.insert(name.to_owned(), Values { shape, data: maps.into_data() });
    }
}

/// `cam` is the rectified maps of the image plus those of its mirror image, mirrored back, before any normalisation.
fn resnet50_cam(
    options: &Options,
    tensors: &NamedTensors,
    image: &Rgb,
    device: &Device,
    outputs: &mut Outputs,
) -> Result<(), String> {
    let classes = leading(tensors, "classifier.weight")?;
    let config: resnet::Config = options.config(&resnet::Config::resnet50())?;
    let network = load(ResNetCam::new(&config, classes, 0, device), tensors)?;
    let x = pixels(image, device);
    outputs.tensor("logits", network.logits(x.clone(), false, &Pass::inference()));
    outputs.tensor("cam", network.flip_merged(x).squeeze_dim::<3>(0));
    Ok(())
}

fn resnet50_amn(
    options: &Options,
    tensors: &NamedTensors,
    image: &Rgb,
    device: &Device,
    outputs: &mut Outputs,
) -> Result<(), String> {
    let classes = leading(tensors, "classifier.1.c0.bias")?.saturating_sub(1);
    let labels: Vec<u8> = options.get("labels")?.unwrap_or_default();
    if let Some(label) = labels.iter().find(|&&label| usize::from(label) >= classes) {
        return Err(format!("label {label} is none of the {classes} classes that the weights know"));
    }
    let config: amn::Config = options.config(&amn::Config::resnet50())?;
    let network = load(Amn::new(&config, classes, 0, device), tensors)?;
    let labels = amn::multi_hot(&[&labels], classes, device);
    outputs.tensor("logits", network.forward(pixels(image, device), labels, &Pass::inference()));
    Ok(())
}

/// In which numbers a network computes; outputs are f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Numbers {
    #[default]
    F32,
    /// Relevances divide by sums that nearly cancel: in f32 their digits are those of the roundings (docs/results.md).
    F64,
}

/// The image may have any size whose patches are as many as the weights have places.
fn vit_base(
    options: &Options,
    tensors: &NamedTensors,
    image: &Rgb,
    device: &Device,
    outputs: &mut Outputs,
) -> Result<(), String> {
    let classes = leading(tensors, "head.bias")?;
    let config: vit::Config = options.config(&vit::Config::base())?;
    let (height, width, patch) = (image.height(), image.width(), config.patch.max(1));
    let places = tensors.get("pos_embed").and_then(|values| values.shape.get(1).copied()).unwrap_or_default();
    let (rows, columns) = (height / patch, width / patch);
    if rows * patch != height || columns * patch != width || rows * columns + 1 != places {
        let places = places.saturating_sub(1);
        return Err(format!(
            "an image of {width} x {height} pixels does not fit: the weights have places for {places} patches of {patch} x \
             {patch} pixels"
        ));
    }
    let mut network = load(VitCam::with_places(&config, rows * columns, classes, 0, device), tensors)?;
    let mut x = pixels(image, device);
    if options.get::<Numbers>("precision")?.unwrap_or_default() == Numbers::F64 {
        (network, x) = (params::in_f64(network), x.cast(DType::F64));
    }
    outputs.tensor("logits", network.logits(x.clone(), &Pass::inference()));
    let Some(class) = options.get::<u8>("class")? else { return Ok(()) };
    if usize::from(class) >= classes {
        return Err(format!("class {class} is none of the {classes} that the weights know"));
    }
    let attribution: Attribution = options.get("attribution")?.unwrap_or_default();
    let found = Explainer::new(network).attribute(x, &[class], attribution);
    outputs.tensor("attribution", found.reshape([rows, columns]));
    Ok(())
}

fn mct(
    options: &Options,
    version: Version,
    tensors: &NamedTensors,
    image: &Rgb,
    device: &Device,
    outputs: &mut Outputs,
) -> Result<(), String> {
    let classes = tensors.get("cls_token").and_then(|values| values.shape.get(1).copied()).unwrap_or_default();
    let mut config = mctformer::Config::small(version);
    // The stored places say for which size the weights were trained.
    let (name, own) = if version == Version::Plus { ("pos_embed_pat", 0) } else { ("pos_embed", classes) };
    let places = tensors.get(name).and_then(|values| values.shape.get(1).copied()).unwrap_or_default();
    config.image = places.saturating_sub(own).isqrt() * config.patch;
    let config: mctformer::Config = options.config(&config)?;
    let network = load(MctFormer::new(&config, classes, 0, device), tensors)?;
    let (rows, columns) = (image.height() / config.patch.max(1), image.width() / config.patch.max(1));
    if rows * columns == 0 {
        return Err(format!("the image is smaller than a patch of {0} x {0} pixels", config.patch));
    }
    let mut recipe = Recipe::new(version);
    recipe.layers = options.get("layers")?.unwrap_or(recipe.layers);
    if recipe.layers == 0 || recipe.layers > config.depth {
        return Err(format!("`layers` is {}, but must be from 1 to {}", recipe.layers, config.depth));
    }
    recipe.fuse = options.get("fuse")?.unwrap_or_default();
    let found = network.forward(pixels(image, device), true, &Pass::inference());
    let (cam, refined) = mct_maps::of_outputs(&found, version, recipe, [rows, columns]);
    outputs.tensor("class_logits", found.class_logits);
    if let Some(logits) = found.patch_logits {
        outputs.tensor("patch_logits", logits);
    }
    outputs.tensor("cam", cam);
    outputs.tensor("cam_refined", refined);
    Ok(())
}

fn orandnet(
    options: &Options,
    tensors: &NamedTensors,
    maps: &Maps,
    device: &Device,
    outputs: &mut Outputs,
) -> Result<(), String> {
    let config: OrandNetConfig = options.config(&OrandNetConfig::vgg16())?;
    config.check().map_err(|(name, message)| format!("`{name}`: {message}"))?;
    config.check_size(maps.height(), maps.width())?;
    let network = load(config.build(device), tensors)?;
    let refiner = Refiner::new(&network);
    let shape = [1, 1, maps.height(), maps.width()];
    let mut values = Vec::with_capacity(maps.data().len());
    for channel in 0..maps.channels() {
        let x = Tensor::<4>::from_data(TensorData::new(maps.channel(channel).to_vec(), shape), device);
        values.extend(refiner.forward(x).into_data().iter::<f32>());
    }
    outputs.maps("out", Maps::new(maps.channels(), maps.height(), maps.width(), values));
    Ok(())
}
