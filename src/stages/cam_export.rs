//! `cam.export`: a classifier's activation maps of the classes that an image is labelled with (SPEC 1.5, 2.3 to 2.5).

use burn::tensor::{Device, Tensor};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::classifier::{RESNET, VIT};
use crate::artifact::images::{ClassList, ImageEntry};
use crate::artifact::maps::{self, ImageMaps, PackedMaps};
use crate::artifact::weights::{NamedTensors, WeightsMeta};
use crate::image::normalise::normalise;
use crate::image::resize::{Coordinates, Filter, interpolate_bilinear};
use crate::image::{Maps, Rgb, large};
use crate::kind::Kind;
use crate::nn::attribution::{Attribution, Explainer};
use crate::nn::cam::{self, ClassMaps, Views};
use crate::nn::params;
use crate::nn::precision::Precision;
use crate::nn::resnet::{self, ResNetCam};
use crate::nn::vit::{self, VitCam};
use crate::stage::{Ctx, Devices, Inputs, NotInKey, Output, Port, Spec, Stage, StageError, Work};
use crate::stages::{io, room, training};

/// How images are resized to a scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Resampling {
    /// As ORANDNet's program
    #[default]
    Bilinear,
    /// As IRN's and AMN's programs
    Bicubic,
}

impl Resampling {
    /// Returns the filter.
    pub(super) fn filter(self) -> Filter {
        match self {
            Self::Bilinear => Filter::PillowBilinear,
            Self::Bicubic => Filter::PillowBicubic,
        }
    }
}

/// Parameters of `cam.export`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// Factors by which a ResNet sees each image resized; a ViT sees it at its own input size
    #[serde(default = "default_scales")]
    scales: Vec<f64>,
    /// Whether a ResNet also sees each scale mirrored
    #[serde(default = "default_flip")]
    flip: bool,
    /// How images are resized for a ResNet
    #[serde(default)]
    resampling: Resampling,
    /// How a ViT's maps are made
    #[serde(default)]
    attribution: Attribution,
    /// Images of more pixels are shrunk to so many before the network sees them, and maps enlarged: it has learned from
    /// 300 to 500 pixels a side, and its memory grows with the pixels
    #[serde(default = "large::max_pixels")]
    #[schemars(range(min = 1))]
    max_pixels: usize,
    /// In which numbers convolutions and matrix products are computed; weights, sums of gradients and all else are f32
    #[serde(default)]
    precision: Precision,
    /// Images of one size that go through the network together
    #[serde(default = "default_batch")]
    #[schemars(range(min = 1))]
    batch: NotInKey<usize>,
}

fn default_scales() -> Vec<f64> {
    vec![0.5, 1.0, 1.5, 2.0]
}

pub(super) fn default_flip() -> bool {
    true
}

pub(super) fn bicubic() -> Resampling {
    Resampling::Bicubic
}

fn default_batch() -> NotInKey<usize> {
    NotInKey(8)
}

/// `cam.export`.
pub(super) struct Export;

impl Stage for Export {
    type Params = Params;
    const DEVICES: Devices = Devices::One;

    const SPEC: Spec = Spec {
        name: "cam.export",
        about: "Make class activation maps of labelled images with a trained classifier",
        // 2: JPEGs decode to the pixels of libjpeg-turbo, and maps are packed.
        // 3: attributions of vision transformers are made of ordinary sums again, no longer in PyTorch's order.
        // 4: convolutions and their gradients are added up in another order.
        revision: 4,
        inputs: &[
            Port { name: "images", takes: &[Kind::ImageSet], optional: false, about: "images with labels" },
            Port { name: "weights", takes: &[Kind::Weights], optional: false, about: "a trained classifier" },
        ],
        output: Kind::CamSet,
        work: Work::PerImage,
        seeded: false,
    };

    fn check(params: &Params) -> Result<(), StageError> {
        training::scales(&params.scales)?;
        training::at_least_one("max_pixels", params.max_pixels)?;
        training::at_least_one("batch", params.batch.0)
    }

    fn meta(_params: &Params, inputs: &Inputs) -> Result<Value, StageError> {
        let classes = io::common_classes(inputs, &["images", "weights"])?;
        network(&io::weights_meta(inputs.get("weights"), "weights")?)?;
        Ok(serde_json::to_value(ClassList { classes }).expect("a class list is JSON"))
    }

    fn run(params: &Params, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let (device, _held) = training::device(ctx, params.precision)?;
        let images = io::images(ctx, "images")?;
        let (meta, loaded) = io::network(ctx, |meta, tensors| load(meta, tensors, &device))?;
        let count = meta.classes.len().saturating_sub(1);
        if let Some((entry, label)) = images
            .iter()
            .find_map(|entry| Some((entry, entry.labels.iter().find(|&&label| usize::from(label) >= count)?)))
        {
            let message = format!("image `{}` has a label {label}, but the weights know {count} classes", entry.id);
            return Err(StageError::data(message));
        }
        let maker: Box<Maker<'_>> = match &*loaded {
            Loaded::Resnet(config, network) => resnet(params, config, network, &device),
            Loaded::Vit(config, explainer) => vit(ctx, params, config, explainer, &device),
        };
        let mut made = Vec::with_capacity(images.len());
        let load = |group| {
            ctx.check_cancelled()?;
            let decoded = |entry| Ok((entry, large::shrunk(&io::pixels(ctx, entry)?, params.max_pixels).into_owned()));
            io::in_order(<[ImageEntry]>::par_iter(group).map(decoded))
        };
        io::ahead(groups(&images, params), load, |group| {
            ctx.check_cancelled()?;
            let maps = room::halving(&group, "images", &|text| ctx.warn(text), &mut |images| maker(images))?;
            let group: Vec<_> = group.into_iter().zip(maps).collect();
            made.par_extend(group.into_par_iter().map(|((entry, _), maps)| {
                let maps = maps.at_size(entry.height, entry.width);
                let (id, classes) = (entry.id.clone(), entry.labels.clone());
                PackedMaps::new(&ImageMaps { id, classes, cam: Some(maps.cam), high_res: maps.high_res })
            }));
            ctx.progress(made.len(), images.len(), "images");
            Ok(())
        })?;
        let ids = made.iter().map(|image| image.id().to_owned()).collect();
        Ok(Output::shard(ids, maps::encode(&made)))
    }
}

/// Makes the maps of images of one size.
type Maker<'a> = dyn Fn(&[(&ImageEntry, Rgb)]) -> Result<Vec<ClassMaps>, StageError> + 'a;

/// A network that `cam.export` knows.
enum Network {
    Resnet(resnet::Config),
    Vit(vit::Config),
}

fn network(meta: &WeightsMeta) -> Result<Network, StageError> {
    fn config<T: DeserializeOwned>(meta: &WeightsMeta) -> Result<T, StageError> {
        serde_json::from_value(meta.config.clone()).map_err(|error| {
            StageError::data(format!("the shape of the `{}` on port `weights` cannot be read: {error}", meta.arch))
        })
    }
    match meta.arch.as_str() {
        RESNET => Ok(Network::Resnet(config(meta)?)),
        VIT => Ok(Network::Vit(config(meta)?)),
        other => Err(StageError::data_help(
            format!("port `weights` has weights of `{other}`, which make no class activation maps"),
            format!("connect a stage whose weights are those of `{RESNET}` or `{VIT}`, such as `classifier.train`"),
        )),
    }
}

/// The same with its weights.
enum Loaded {
    Resnet(resnet::Config, ResNetCam),
    Vit(vit::Config, Explainer),
}

fn load(meta: &WeightsMeta, tensors: &NamedTensors, device: &Device) -> Result<Loaded, StageError> {
    let classes = meta.classes.len().saturating_sub(1);
    let misfit = |report| training::misfit("weights", &meta.arch, &report);
    Ok(match network(meta)? {
        Network::Resnet(config) => {
            let network = ResNetCam::new(&config, classes, 0, device);
            Loaded::Resnet(config, params::load_strict(network, tensors).map_err(misfit)?)
        }
        Network::Vit(config) => {
            let network = VitCam::new(&config, classes, 0, device);
            let network = params::load_strict(network, tensors).map_err(misfit)?;
            Loaded::Vit(config, Explainer::new(network))
        }
    })
}

/// Cuts a list where the size of images changes, and into batches; an image that is shrunk is one by itself, so that memory does not
/// grow with `batch` where photographs are large.
fn groups<'a>(images: &'a [ImageEntry], params: &Params) -> impl Iterator<Item = &'a [ImageEntry]> {
    let (batch, max_pixels) = (params.batch.0, params.max_pixels);
    images.chunk_by(|one, other| (one.height, one.width) == (other.height, other.width)).flat_map(move |group| {
        let large = group[0].height * group[0].width > max_pixels;
        group.chunks(if large { 1 } else { batch })
    })
}

fn resnet<'a>(
    params: &'a Params,
    config: &resnet::Config,
    network: &'a ResNetCam,
    device: &'a Device,
) -> Box<Maker<'a>> {
    let filter = params.resampling.filter();
    let views = Views { scales: params.scales.clone(), flip: params.flip, filter };
    let stride = config.output_stride();
    Box::new(move |images| {
        let (labels, pixels): (Vec<&[u8]>, Vec<&Rgb>) =
            images.iter().map(|(entry, pixels)| (entry.labels.as_slice(), pixels)).unzip();
        Ok(cam::multi_scale(network, stride, &pixels, &labels, &views, device))
    })
}

fn vit<'a>(
    ctx: &'a Ctx<'_>,
    params: &'a Params,
    config: &vit::Config,
    explainer: &'a Explainer,
    device: &'a Device,
) -> Box<Maker<'a>> {
    let (side, grid) = (config.image, config.grid());
    Box::new(move |images| {
        // One row of the batch for each class of each image.
        let rows: Vec<(Maps, u8)> = images
            .iter()
            .filter(|(entry, _)| !entry.labels.is_empty())
            .flat_map(|(entry, pixels)| {
                // Normalised first and resized then, without antialiasing (SPEC 2.3).
                let input = interpolate_bilinear(&normalise(pixels), side, side, Coordinates::HalfPixel);
                entry.labels.iter().map(move |&label| (input.clone(), label)).collect::<Vec<_>>()
            })
            .collect();
        let mut values: Vec<f32> = Vec::with_capacity(rows.len() * grid * grid);
        for rows in rows.chunks(params.batch.0) {
            values.extend(room::halving(rows, "classes of images", &|text| ctx.warn(text), &mut |rows| {
                let x: Tensor<4> = cam::batch(rows.iter().map(|(input, _)| input), device);
                let classes: Vec<u8> = rows.iter().map(|(_, class)| *class).collect();
                Ok(explainer.attribute(x, &classes, params.attribution).into_data().iter::<f32>().collect())
            })?);
        }
        let mut values = values.into_iter();
        let maps = images
            .iter()
            .map(|(entry, pixels)| {
                let (height, width) = (pixels.height(), pixels.width());
                if entry.labels.is_empty() {
                    return ClassMaps::none(height, width);
                }
                let own = values.by_ref().take(entry.labels.len() * grid * grid).collect();
                cam::from_attribution(Maps::new(entry.labels.len(), grid, grid, own), height, width)
            })
            .collect();
        Ok(maps)
    })
}
