//! IRN: class boundaries and displacements from the features of a fixed ResNet (Ahn et al. 2019; SPEC 8.1, 8.4). Knows images
//! as tensors; the walk over its edges is `image::walk`, its loss is [`crate::nn::affinity`].
//!
//! Names of tensors are those of the reference program's state_dict, without its aliases.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData, activation};
use serde::{Deserialize, Serialize};

use crate::artifact::weights::{NamedTensors, Values};
use crate::image::paths::PairPath;
use crate::image::{LabelMap, Maps};
use crate::nn::affinity::{PairBatch, PairLoss, pair_loss};
use crate::nn::init::{self, Init};
use crate::nn::layers::{Conv2d, ConvSpec, GroupNorm, bilinear};
use crate::nn::params::{self, Mismatch};
use crate::nn::pass::Pass;
use crate::nn::resnet::{self, Backbone};

/// The name of this architecture in `Weights`.
pub const ARCH: &str = "irn";

/// The stride of edges and displacements, which is that of CAMs (SPEC 8.1).
const STRIDE: usize = 4;

/// Sizes of the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IrnConfig {
    /// The backbone, which is never trained here.
    pub backbone: resnet::Config,
    /// Channels of each of the five edge layers.
    pub edge_width: usize,
    /// Groups of their norms.
    pub edge_groups: usize,
    /// Channels of the seven displacement layers.
    pub displacement_widths: [usize; 7],
    /// Groups of their norms.
    pub displacement_groups: [usize; 7],
}

impl IrnConfig {
    /// The reference's network over ResNet-50, 24 902 561 parameters (SPEC 8.1).
    pub fn resnet50() -> Self {
        Self {
            backbone: resnet::Config::resnet50(),
            edge_width: 32,
            edge_groups: 4,
            displacement_widths: [64, 128, 256, 256, 256, 256, 256],
            displacement_groups: [8, 16, 16, 16, 16, 16, 16],
        }
    }

    /// Small heads over any backbone.
    pub fn tiny(backbone: resnet::Config) -> Self {
        Self {
            backbone,
            edge_width: 16,
            edge_groups: 4,
            displacement_widths: [8, 16, 32, 32, 32, 32, 32],
            displacement_groups: [2, 4, 4, 4, 4, 4, 4],
        }
    }
}

/// The layers that are trained: 1x1 convolutions, each with its norm.
#[derive(Module, Debug)]
pub struct Heads {
    fc_edge1: (Conv2d, GroupNorm),
    fc_edge2: (Conv2d, GroupNorm),
    fc_edge3: (Conv2d, GroupNorm),
    fc_edge4: (Conv2d, GroupNorm),
    fc_edge5: (Conv2d, GroupNorm),
    fc_edge6: Conv2d,
    fc_dp1: (Conv2d, GroupNorm),
    fc_dp2: (Conv2d, GroupNorm),
    fc_dp3: (Conv2d, GroupNorm),
    fc_dp4: (Conv2d, GroupNorm),
    fc_dp5: (Conv2d, GroupNorm),
    fc_dp6: (Conv2d, GroupNorm),
    fc_dp7: (Conv2d, GroupNorm, Option<Conv2d>, Conv2d),
    /// Strides of the five features.
    #[module(skip)]
    strides: [usize; 5],
}

impl Heads {
    fn new(config: &IrnConfig, device: &Device) -> Self {
        let channels = config.backbone.channels();
        let strides = config.backbone.stage_strides().map(|stride| stride.max(STRIDE));
        let layer = |input, output, groups| {
            (ConvSpec::new(input, output, 1).build(device), GroupNorm::new(groups, output, 1e-5, device))
        };
        let edge = |stage: usize| layer(channels[stage], config.edge_width, config.edge_groups);
        let widths = config.displacement_widths;
        let displacement = |index: usize, input| layer(input, widths[index], config.displacement_groups[index]);
        let last = displacement(6, widths[0] + widths[1] + widths[5]);
        Self {
            fc_edge1: edge(0),
            fc_edge2: edge(1),
            fc_edge3: edge(2),
            fc_edge4: edge(3),
            fc_edge5: edge(4),
            fc_edge6: ConvSpec::new(5 * config.edge_width, 1, 1).bias().build(device),
            fc_dp1: displacement(0, channels[0]),
            fc_dp2: displacement(1, channels[1]),
            fc_dp3: displacement(2, channels[2]),
            fc_dp4: displacement(3, channels[3]),
            fc_dp5: displacement(4, channels[4]),
            fc_dp6: displacement(5, widths[2] + widths[3] + widths[4]),
            fc_dp7: (last.0, last.1, None, ConvSpec::new(widths[6], 2, 1).build(device)),
            strides,
        }
    }

    /// Returns the logits of edges.
    ///
    /// # Shapes
    /// Features as [`Irn::features`] gives them, to `[B, 1, h, w]` at stride 4.
    pub fn edges(&self, features: &[Tensor<4>; 5]) -> Tensor<4> {
        let [one, two, three, four, five] = features.clone();
        let [_, _, height, width] = two.dims();
        let finer = |stage: usize| self.strides[stage] / STRIDE;
        let parts = vec![
            apply(&self.fc_edge1, one, 1, height, width),
            apply(&self.fc_edge2, two, 1, height, width),
            apply(&self.fc_edge3, three, finer(2), height, width),
            apply(&self.fc_edge4, four, finer(3), height, width),
            apply(&self.fc_edge5, five, finer(4), height, width),
        ];
        self.fc_edge6.forward(Tensor::cat(parts, 1))
    }

    /// Returns displacements in (rows, columns), cells of stride 4.
    ///
    /// # Shapes
    /// Features as [`Irn::features`] gives them, to `[B, 2, h, w]` at stride 4.
    pub fn displacements(&self, features: &[Tensor<4>; 5]) -> Tensor<4> {
        let [one, two, three, four, five] = features.clone();
        let [_, _, height, width] = two.dims();
        let [_, _, middle_height, middle_width] = three.dims();
        let middle = |stage: usize| self.strides[stage] / self.strides[2];
        let parts = vec![
            apply(&self.fc_dp3, three, 1, middle_height, middle_width),
            apply(&self.fc_dp4, four, middle(3), middle_height, middle_width),
            apply(&self.fc_dp5, five, middle(4), middle_height, middle_width),
        ];
        let coarse = apply(&self.fc_dp6, Tensor::cat(parts, 1), self.strides[2] / STRIDE, height, width);
        let parts =
            vec![apply(&self.fc_dp1, one, 1, height, width), apply(&self.fc_dp2, two, 1, height, width), coarse];
        let (convolution, norm, _, last) = &self.fc_dp7;
        let x = activation::relu(norm.forward(convolution.forward(Tensor::cat(parts, 1))));
        last.forward(x)
    }

    /// Returns the loss of a batch (SPEC 8.3), `[1]`, connected to the heads' parameters, and its parts.
    ///
    /// # Shapes
    /// Features of `B` images; `B` label maps at stride 4.
    pub fn loss(
        &self,
        features: &[Tensor<4>; 5],
        labels: &[LabelMap],
        classes: u8,
        paths: &[PairPath],
    ) -> (Tensor<1>, PairLoss) {
        let (logits, displacements) = (self.edges(features), self.displacements(features));
        let edge: Vec<f32> = activation::sigmoid(logits.clone().inner()).into_data().iter::<f32>().collect();
        let displacement: Vec<f32> = displacements.clone().inner().into_data().iter::<f32>().collect();
        let loss = pair_loss(&PairBatch { edge: &edge, displacement: &displacement, labels, classes }, paths);
        // The derivative of the sigmoid is e (1 - e).
        let by_logit = edge.iter().zip(&loss.edge_gradient).map(|(edge, slope)| slope * edge * (1.0 - edge)).collect();
        let linear = along(logits, by_logit) + along(displacements, loss.displacement_gradient.clone());
        // The gradient is that of the linear function, the value is that of the loss.
        let rest = Tensor::<1>::from_floats([loss.total as f32], &linear.device()) - linear.clone().detach();
        (linear + rest, loss)
    }
}

/// Returns the sum of `x` times constants.
fn along(x: Tensor<4>, slopes: Vec<f32>) -> Tensor<1> {
    let slopes = Tensor::<4>::from_data(TensorData::new(slopes, x.dims()), &x.device());
    (x * slopes).sum()
}

/// Convolution, norm, bilinear upsampling by `factor`, ReLU, in this order (SPEC 8.1), cropped to a size.
fn apply(layer: &(Conv2d, GroupNorm), x: Tensor<4>, factor: usize, height: usize, width: usize) -> Tensor<4> {
    let x = layer.1.forward(layer.0.forward(x));
    let [_, _, old_height, old_width] = x.dims();
    let x = bilinear(x, [old_height * factor, old_width * factor], false);
    activation::relu(x.narrow(2, 0, height).narrow(3, 0, width))
}

/// The network.
#[derive(Clone, Debug)]
pub struct Irn {
    config: IrnConfig,
    backbone: Backbone,
    /// What is trained.
    pub heads: Heads,
    /// The mean displacement over the training images, which is subtracted from displacements (SPEC 8.3).
    pub mean_shift: [f32; 2],
}

impl Irn {
    const BACKBONE: &str = "resnet50.";
    const MEAN_SHIFT: &str = "mean_shift.running_mean";

    /// Builds the network with heads drawn from `seed`, as torch does it (SPEC 8.3), and a backbone that must still be loaded.
    pub fn new(config: &IrnConfig, seed: u64, device: &Device) -> Self {
        let heads = init::seeded(Heads::new(config, device), seed, |name, shape| match (name, shape.len()) {
            (_, 4) => Init::KaimingUniform,
            (_, 1) if name.ends_with("weight") => Init::Ones,
            _ => Init::Zeros,
        });
        let backbone = init::seeded(Backbone::new(&config.backbone, device), seed, resnet::backbone_init);
        Self { config: config.clone(), backbone, heads, mean_shift: [0.0; 2] }
    }

    /// Takes the backbone from the weights of a classifier or of another IRN: the tensors `resnet50.*`.
    ///
    /// # Errors
    /// If one is missing or has another shape.
    pub fn with_backbone(self, tensors: &NamedTensors) -> Result<Self, Mismatch> {
        let own = strip(tensors, Self::BACKBONE);
        Ok(Self { backbone: params::load_strict(self.backbone, &own)?, ..self })
    }

    /// Returns the same with other heads.
    pub fn with_heads(self, heads: Heads) -> Self {
        Self { heads, ..self }
    }

    /// Builds the network of saved weights.
    ///
    /// # Errors
    /// If the tensors are not exactly those of the network.
    pub fn load(config: &IrnConfig, tensors: &NamedTensors, device: &Device) -> Result<Self, Mismatch> {
        let network = Self::new(config, 0, device).with_backbone(tensors)?;
        let rest = |name: &str| !name.starts_with(Self::BACKBONE) && name != Self::MEAN_SHIFT;
        let heads = tensors.iter().filter(|(name, _)| rest(name)).map(|(name, values)| (name.clone(), values.clone()));
        let heads = params::load_strict(network.heads.clone(), &heads.collect())?;
        let mean_shift = match tensors.get(Self::MEAN_SHIFT).map(|values| values.data.as_slice()) {
            Some(&[rows, columns]) => [rows, columns],
            _ => return Err(Mismatch { missing: vec![Self::MEAN_SHIFT.to_owned()], ..Mismatch::default() }),
        };
        Ok(Self { heads, mean_shift, ..network })
    }

    /// Returns all tensors under the reference's names.
    pub fn export(&self) -> NamedTensors {
        let mut tensors = params::export(&self.heads);
        let backbone = params::export(&self.backbone);
        tensors.extend(backbone.into_iter().map(|(name, values)| (format!("{}{name}", Self::BACKBONE), values)));
        let mean_shift = Values { shape: vec![2], data: self.mean_shift.to_vec() };
        tensors.insert(Self::MEAN_SHIFT.to_owned(), mean_shift);
        tensors
    }

    /// Returns the outputs of the backbone's five stages without a gradient. Those of a stride below 4 are averaged down to
    /// stride 4, which does nothing to ResNet-50's.
    ///
    /// # Shapes
    /// `[B, 3, H, W]` to five of `[B, C, ceil(H / s), ceil(W / s)]` with `s` at least 4.
    pub fn features(&self, x: Tensor<4>) -> [Tensor<4>; 5] {
        let [_, _, height, width] = x.dims();
        let stages = self.backbone.stages(x, &Pass::inference());
        let strides = self.config.backbone.stage_strides();
        let mut strides = strides.into_iter();
        stages.map(|stage| match strides.next() {
            Some(stride) if stride < STRIDE => {
                bilinear(stage, [height.div_ceil(STRIDE), width.div_ceil(STRIDE)], false)
            }
            _ => stage,
        })
    }

    /// Returns the edges and displacements of one image (SPEC 8.4): the logits of the image and of its mirror image are
    /// averaged, displacements are those of the image itself. Both images are padded with zeros, right and below, to the next
    /// multiple of `pad_to` pixels: the norms of the heads see the padding, so it belongs to the recipe (512).
    ///
    /// # Shapes
    /// Normalised pixels `[3, H, W]` to edges in (0, 1) `[1, h, w]` and displacements `[2, h, w]`, where `h = ceil(H / 4)`.
    pub fn infer(&self, image: &Maps, pad_to: usize, device: &Device) -> (Maps, Maps) {
        let (height, width) = (image.height(), image.width());
        let (full_height, full_width) = (height.next_multiple_of(pad_to), width.next_multiple_of(pad_to));
        let plane = full_height * full_width;
        let mut pixels = vec![0.0; 2 * 3 * plane];
        for channel in 0..3 {
            for (row, source) in image.channel(channel).chunks_exact(width).enumerate() {
                let start = channel * plane + row * full_width;
                pixels[start..start + width].copy_from_slice(source);
                for (to, from) in pixels[3 * plane + start..][..width].iter_mut().zip(source.iter().rev()) {
                    *to = *from;
                }
            }
        }
        let x = Tensor::<4>::from_data(TensorData::new(pixels, [2, 3, full_height, full_width]), device);
        let features = self.features(x);
        let (small_height, small_width) = (height.div_ceil(STRIDE), width.div_ceil(STRIDE));
        let crop = |maps: Tensor<4>| maps.narrow(2, 0, small_height).narrow(3, 0, small_width);
        let logits = crop(self.heads.edges(&features));
        let edge = logits.clone().narrow(0, 0, 1) / 2.0 + logits.narrow(0, 1, 1).flip([3]) / 2.0;
        let edge = activation::sigmoid(edge).into_data().iter::<f32>().collect();
        let mut displacement: Vec<f32> =
            crop(self.heads.displacements(&features)).narrow(0, 0, 1).into_data().iter::<f32>().collect();
        for (channel, mean) in displacement.chunks_exact_mut(small_height * small_width).zip(self.mean_shift) {
            channel.iter_mut().for_each(|value| *value -= mean);
        }
        (Maps::new(1, small_height, small_width, edge), Maps::new(2, small_height, small_width, displacement))
    }
}

/// Returns the tensors whose names begin with `prefix`, without it.
fn strip(tensors: &NamedTensors, prefix: &str) -> NamedTensors {
    let own = tensors.iter().filter_map(|(name, values)| Some((name.strip_prefix(prefix)?.to_owned(), values.clone())));
    own.collect()
}
