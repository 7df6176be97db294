//! AMN: per-pixel classification that is told the image's labels (Lee et al. 2022; SPEC 3), and its maps. Knows images and
//! seeds as plain grids.
//!
//! Names of parameters are those of the reference program's state_dict, without its aliases.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::artifact::maps::stride4;
use crate::image::normalise::normalise;
use crate::image::resize::{Coordinates, Nearest, interpolate_bilinear, nearest_mask, resize_rgb, scaled_size};
use crate::image::{LabelMap, Maps, Rgb};
use crate::nn::cam::{ClassMaps, Views, batch};
use crate::nn::init::{self, Init};
use crate::nn::layers::{Conv2d, ConvSpec, Linear};
use crate::nn::params;
use crate::nn::pass::Pass;
use crate::nn::resnet::{self, Backbone, backbone_init};

/// The name of this architecture in `Weights`.
pub const ARCH: &str = "resnet50_amn";

/// Added to a map's range before dividing by it (SPEC 3.3).
const EPSILON: f32 = 1e-5;

/// Sizes of the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The backbone.
    pub backbone: resnet::Config,
    /// Dilations of the four convolutions whose sum is the logits.
    pub dilations: [usize; 4],
    /// Probability with which single features are dropped before them in training. The reference program drops them in
    /// inference too, by a slip (SPEC 3.1); here inference is deterministic.
    pub dropout: f64,
}

impl Config {
    /// The reference's network, 25 099 412 parameters with 20 classes (SPEC 3.1).
    pub fn resnet50() -> Self {
        Self { backbone: resnet::Config::resnet50(), dilations: [6, 12, 18, 24], dropout: 0.1 }
    }

    /// A small network for images of 64 to 224 pixels, trained from the seed; dilations suit its smaller maps.
    pub fn tiny() -> Self {
        Self { backbone: resnet::Config::tiny(), dilations: [1, 2, 3, 4], dropout: 0.1 }
    }
}

/// Four dilated 3x3 convolutions, summed.
#[derive(Module, Debug)]
struct Pyramid {
    c0: Conv2d,
    c1: Conv2d,
    c2: Conv2d,
    c3: Conv2d,
}

/// The network. A `None` stands where the reference has its dropout, so that the numbers in the names agree.
#[derive(Module, Debug)]
pub struct Amn {
    resnet50: Backbone,
    label_enc: Linear,
    classifier: Vec<Option<Pyramid>>,
    #[module(skip)]
    dropout: f64,
}

impl Amn {
    /// Builds the network for `classes` classes, the background not counted, with values drawn from `seed` (SPEC 3.1).
    pub fn new(config: &Config, classes: usize, seed: u64, device: &Device) -> Self {
        let [.., channels] = config.backbone.channels();
        let convolution = |index: usize| {
            let dilation = config.dilations[index];
            ConvSpec::new(channels, classes + 1, 3).padding(dilation).dilation(dilation).bias().build(device)
        };
        let pyramid = Pyramid { c0: convolution(0), c1: convolution(1), c2: convolution(2), c3: convolution(3) };
        let network = Self {
            resnet50: Backbone::new(&config.backbone, device),
            label_enc: Linear::new(classes, channels, device),
            classifier: vec![None, Some(pyramid)],
            dropout: config.dropout,
        };
        // torch draws a linear layer's bias from the same bound as its weight.
        let bound = 1.0 / (classes.max(1) as f64).sqrt();
        init::seeded(network, seed, |name, shape| match name {
            "label_enc.weight" => Init::KaimingUniform,
            "label_enc.bias" => Init::Uniform(bound),
            _ if name.starts_with("classifier.") && name.ends_with("weight") => Init::Normal(0.01),
            _ if name.starts_with("classifier.") => Init::Zeros,
            _ => backbone_init(name, shape),
        })
    }

    /// Freezes what the recipe never trains: the first convolution and its norm (SPEC 3.2).
    pub fn frozen(self) -> Self {
        params::set_trainable(self, |name| !(name.starts_with("resnet50.conv1.") || name.starts_with("resnet50.bn1.")))
    }

    /// Returns whether a parameter belongs to the new layers, which learn faster (SPEC 3.2).
    pub fn is_head(name: &str) -> bool {
        name.starts_with("classifier.") || name.starts_with("label_enc.")
    }

    /// Returns logits, background first.
    ///
    /// # Shapes
    /// Pixels `[B, 3, H, W]` and labels in {0, 1} `[B, C]` to `[B, C + 1, ceil(H / stride), ceil(W / stride)]`.
    pub fn forward(&self, x: Tensor<4>, labels: Tensor<2>, pass: &Pass) -> Tensor<4> {
        let features = self.resnet50.features(x, false, pass);
        let [count, channels, _, _] = features.dims();
        let gate = self.label_enc.forward(labels).reshape([count, channels, 1, 1]);
        let features = pass.dropout(features * gate, self.dropout);
        let Pyramid { c0, c1, c2, c3 } =
            self.classifier.iter().flatten().next().expect("the classifier has its convolutions");
        [c1, c2, c3].into_iter().fold(c0.forward(features.clone()), |sum, layer| sum + layer.forward(features.clone()))
    }
}

/// Returns labels as a row of zeros and ones for each image, `[B, classes]`.
///
/// # Panics
/// If a label is not below `classes`.
pub fn multi_hot(labels: &[&[u8]], classes: usize, device: &Device) -> Tensor<2> {
    let mut values = vec![0.0_f32; labels.len() * classes];
    for (row, labels) in labels.iter().enumerate() {
        for &label in *labels {
            assert!(usize::from(label) < classes, "label {label} of {classes} classes");
            values[row * classes + usize::from(label)] = 1.0;
        }
    }
    Tensor::from_data(TensorData::new(values, [labels.len(), classes]), device)
}

/// Returns the maps of one image (SPEC 3.3), the background first, then `labels`: probabilities where the seed says
/// background, and elsewhere stretched to their range over the image.
///
/// # Panics
/// If the seed has another size than the image.
pub fn maps(
    network: &Amn,
    classes: usize,
    image: &Rgb,
    labels: &[u8],
    seed: &LabelMap,
    views: &Views,
    device: &Device,
) -> ClassMaps {
    let (height, width) = (image.height(), image.width());
    assert_eq!((seed.height(), seed.width()), (height, width), "a seed is as large as its image");
    let mut sums = ClassMaps {
        cam: Maps::zeros(classes + 1, stride4(height), stride4(width)),
        high_res: Maps::zeros(classes + 1, height, width),
    };
    for &scale in &views.scales {
        let size = scaled_size(height, width, scale);
        let pixels = normalise(&resize_rgb(image, size.0, size.1, views.filter));
        let x = batch([&pixels].into_iter(), device);
        let x = if views.flip { Tensor::cat(vec![x.clone(), x.flip([3])], 0) } else { x };
        let rows = vec![labels; x.dims()[0]];
        let logits = network.forward(x, multi_hot(&rows, classes, device), &Pass::inference());
        let logits =
            if views.flip { (logits.clone().narrow(0, 0, 1) + logits.narrow(0, 1, 1).flip([3])) / 2.0 } else { logits };
        let [_, channels, rows, columns] = logits.dims();
        let logits = Maps::new(channels, rows, columns, logits.into_data().iter::<f32>().collect());
        add(&mut sums.cam, &logits);
        add(&mut sums.high_res, &logits);
    }
    let finish = |sum: &Maps| {
        let mask = nearest_mask(seed, sum.height(), sum.width(), Nearest::Pillow);
        normalised(&present(sum, views.scales.len(), labels), &mask)
    };
    ClassMaps { cam: finish(&sums.cam), high_res: finish(&sums.high_res) }
}

fn add(sum: &mut Maps, maps: &Maps) {
    let resized = interpolate_bilinear(maps, sum.height(), sum.width(), Coordinates::HalfPixel);
    for (sum, value) in sum.data_mut().iter_mut().zip(resized.data()) {
        *sum += value;
    }
}

/// Returns the probabilities of background and `labels` among all classes, of the mean of `count` logits.
fn present(sum: &Maps, count: usize, labels: &[u8]) -> Maps {
    let plane = sum.height() * sum.width();
    let (channels, data) = (sum.channels(), sum.data());
    let chosen: Vec<usize> = std::iter::once(0).chain(labels.iter().map(|&label| usize::from(label) + 1)).collect();
    let mut maps = Maps::zeros(chosen.len(), sum.height(), sum.width());
    let mut logits = vec![0.0_f32; channels];
    for pixel in 0..plane {
        for (channel, logit) in logits.iter_mut().enumerate() {
            *logit = data[channel * plane + pixel] / count as f32;
        }
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f32 = logits.iter().map(|logit| (logit - largest).exp()).sum();
        for (row, &channel) in chosen.iter().enumerate() {
            maps.data_mut()[row * plane + pixel] = (logits[channel] - largest).exp() / total;
        }
    }
    maps
}

/// Stretches each map to [0, 1], except where the seed says background.
fn normalised(maps: &Maps, seed: &LabelMap) -> Maps {
    let mut result = maps.clone();
    for channel in 0..maps.channels() {
        let values = maps.channel(channel);
        let (low, high) =
            values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &v| (low.min(v), high.max(v)));
        for (value, &label) in result.channel_mut(channel).iter_mut().zip(seed.data()) {
            if label != 0 {
                *value = (*value - low) / (high - low + EPSILON);
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::device;

    #[test]
    fn the_network_has_the_names_and_the_size_of_the_reference() {
        let device = device::named("cpu").expect("always there");
        let shapes = params::shapes(&Amn::new(&Config::resnet50(), 20, 0, &device));
        let trained = shapes.iter().filter(|(name, _)| !name.contains("running_"));
        assert_eq!(trained.map(|(_, shape)| shape.iter().product::<usize>()).sum::<usize>(), 25_099_412);
        assert_eq!(shapes["classifier.1.c3.weight"], [21, 2048, 3, 3]);
        assert_eq!(shapes["label_enc.weight"], [2048, 20]);
    }

    #[test]
    fn a_seed_of_background_keeps_the_probability_and_any_other_stretches_it() {
        let maps = Maps::new(1, 1, 4, vec![0.2, 0.4, 0.6, 0.3]);
        let found = normalised(&maps, &LabelMap::new(1, 4, vec![0, 255, 3, 0]));
        assert_eq!(found.data()[0], 0.2);
        assert!((found.data()[1] - 0.5).abs() < 1e-4 && found.data()[2] > 0.999 && found.data()[2] < 1.0);
        assert_eq!(found.data()[3], 0.3);
    }
}
