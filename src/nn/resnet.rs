//! Bottleneck ResNets (He et al. 2016) and the classifier whose weights are class activation maps (Zhou et al. 2016; SPEC 1).
//!
//! Names of parameters are those of the reference programs' state_dict, `resnet50.conv1.weight` to `classifier.weight`; the
//! aliases under which these programs store every tensor a second and third time are left out.

use burn::module::Module;
use burn::tensor::{Device, Tensor, activation};
use serde::{Deserialize, Serialize};

use crate::nn::init::{self, Init};
use crate::nn::layers::{Conv2d, ConvSpec, Norm, NormKind, max_pool2d};
use crate::nn::params;
use crate::nn::pass::Pass;

/// Output channels of a bottleneck over its inner ones.
const EXPANSION: usize = 4;

/// The shape of a network of the family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Side of the first kernel: 7 for ImageNet's, 3 for small images.
    pub stem: usize,
    /// Whether a 3x3 max pool with stride 2 follows the first convolution.
    pub pool: bool,
    /// Channels after the first convolution, and inner channels of `layer1`; each later layer doubles them.
    pub width: usize,
    /// Bottlenecks in `layer1` to `layer4`.
    pub blocks: [usize; 4],
    /// Strides of the first convolution, `layer2`, `layer3` and `layer4`.
    pub strides: [usize; 4],
    /// Dilations of `layer1` to `layer4`.
    pub dilations: [usize; 4],
    /// The normalisation.
    pub norm: NormKind,
}

impl Config {
    /// ResNet-50 with output stride 16: `layer4` has stride 1 and no dilation (SPEC 1.2).
    pub fn resnet50() -> Self {
        Self {
            stem: 7,
            pool: true,
            width: 64,
            blocks: [3, 4, 6, 3],
            strides: [2, 2, 2, 1],
            dilations: [1; 4],
            norm: NormKind::Frozen,
        }
    }

    /// A small network for images of 64 to 224 pixels, trained from the seed: output stride 8, 0.9 million parameters. On the
    /// photographs that it was tried on, a larger output stride and single blocks made worse maps.
    pub fn tiny() -> Self {
        Self {
            stem: 3,
            pool: true,
            width: 16,
            blocks: [2, 2, 2, 2],
            strides: [2, 2, 1, 1],
            dilations: [1; 4],
            norm: NormKind::Batch,
        }
    }

    /// Returns the number of input pixels per output pixel along each axis.
    pub fn output_stride(&self) -> usize {
        self.strides.iter().product::<usize>() * if self.pool { 2 } else { 1 }
    }

    /// Returns the channels of the five outputs of [`Backbone::stages`].
    pub fn channels(&self) -> [usize; 5] {
        let width = self.width;
        [width, width * EXPANSION, width * 2 * EXPANSION, width * 4 * EXPANSION, width * 8 * EXPANSION]
    }

    /// Returns the strides of the five outputs of [`Backbone::stages`] against the input.
    pub fn stage_strides(&self) -> [usize; 5] {
        let first = self.strides[0] * if self.pool { 2 } else { 1 };
        let third = first * self.strides[1];
        let fourth = third * self.strides[2];
        [first, first, third, fourth, fourth * self.strides[3]]
    }
}

/// One bottleneck: 1x1, 3x3 with the stride, 1x1, and the shortcut.
#[derive(Module, Debug)]
pub struct Bottleneck {
    conv1: Conv2d,
    bn1: Norm,
    conv2: Conv2d,
    bn2: Norm,
    conv3: Conv2d,
    bn3: Norm,
    downsample: Option<(Conv2d, Norm)>,
}

impl Bottleneck {
    fn new(input: usize, width: usize, stride: usize, dilation: usize, norm: NormKind, device: &Device) -> Self {
        let output = width * EXPANSION;
        let inner = ConvSpec::new(width, width, 3).stride(stride).padding(dilation).dilation(dilation);
        let downsample = (stride != 1 || input != output).then(|| {
            let project = ConvSpec::new(input, output, 1).stride(stride);
            (project.build(device), Norm::new(output, norm, device))
        });
        Self {
            conv1: ConvSpec::new(input, width, 1).build(device),
            bn1: Norm::new(width, norm, device),
            conv2: inner.build(device),
            bn2: Norm::new(width, norm, device),
            conv3: ConvSpec::new(width, output, 1).build(device),
            bn3: Norm::new(output, norm, device),
            downsample,
        }
    }

    fn forward(&self, x: Tensor<4>, pass: &Pass) -> Tensor<4> {
        let y = activation::relu(self.bn1.after(&self.conv1, x.clone(), pass));
        let y = activation::relu(self.bn2.after(&self.conv2, y, pass));
        let y = self.bn3.after(&self.conv3, y, pass);
        let shortcut = match &self.downsample {
            Some((project, norm)) => norm.after(project, x, pass),
            None => x,
        };
        activation::relu(y + shortcut)
    }
}

/// A network without its classifier.
#[derive(Module, Debug)]
pub struct Backbone {
    conv1: Conv2d,
    bn1: Norm,
    layer1: Vec<Bottleneck>,
    layer2: Vec<Bottleneck>,
    layer3: Vec<Bottleneck>,
    layer4: Vec<Bottleneck>,
    #[module(skip)]
    pool: bool,
}

impl Backbone {
    /// Builds the network with values of zero; see [`Self::init`].
    pub fn new(config: &Config, device: &Device) -> Self {
        let layer = |index: usize| {
            let width = config.width << index;
            let stride = if index == 0 { 1 } else { config.strides[index] };
            let input = if index == 0 { config.width } else { (config.width * EXPANSION) << (index - 1) };
            (0..config.blocks[index])
                .map(|block| {
                    let (input, stride) = if block == 0 { (input, stride) } else { (width * EXPANSION, 1) };
                    Bottleneck::new(input, width, stride, config.dilations[index], config.norm, device)
                })
                .collect()
        };
        let stem = ConvSpec::new(3, config.width, config.stem).stride(config.strides[0]).padding(config.stem / 2);
        Self {
            conv1: stem.build(device),
            bn1: Norm::new(config.width, config.norm, device),
            layer1: layer(0),
            layer2: layer(1),
            layer3: layer(2),
            layer4: layer(3),
            pool: config.pool,
        }
    }

    /// Runs the network and returns the outputs of its five stages: the first convolution with norm, ReLU and max pool, then
    /// `layer1` to `layer4`. This is what IRN reads its edges from; [`Config::channels`] and [`Config::stage_strides`] say
    /// how large they are.
    ///
    /// # Shapes
    /// `[B, 3, H, W]` to five of `[B, C, ceil(H / stride), ceil(W / stride)]`.
    pub fn stages(&self, x: Tensor<4>, pass: &Pass) -> [Tensor<4>; 5] {
        let first = self.stem(x, pass);
        let second = run(&self.layer1, first.clone(), pass);
        let third = run(&self.layer2, second.clone(), pass);
        let fourth = run(&self.layer3, third.clone(), pass);
        let fifth = run(&self.layer4, fourth.clone(), pass);
        [first, second, third, fourth, fifth]
    }

    /// Returns the features before the classifier. With `detach`, nothing before `layer3` gets a gradient (SPEC 1.3).
    ///
    /// # Shapes
    /// `[B, 3, H, W]` to `[B, 32 width, ceil(H / stride), ceil(W / stride)]`.
    pub fn features(&self, x: Tensor<4>, detach: bool, pass: &Pass) -> Tensor<4> {
        let x = run(&self.layer1, self.stem(x, pass), pass);
        let x = run(&self.layer2, x, pass);
        let x = if detach { x.detach() } else { x };
        run(&self.layer4, run(&self.layer3, x, pass), pass)
    }

    fn stem(&self, x: Tensor<4>, pass: &Pass) -> Tensor<4> {
        let x = activation::relu(self.bn1.after(&self.conv1, x, pass));
        if self.pool { max_pool2d(x, 3, 2, 1, false) } else { x }
    }
}

fn run(layer: &[Bottleneck], x: Tensor<4>, pass: &Pass) -> Tensor<4> {
    layer.iter().fold(x, |x, block| block.forward(x, pass))
}

/// How the first values of a backbone's tensors are drawn: He normal for convolutions, and scale 0 for the last norm of each
/// bottleneck, so that blocks start as their shortcut (Goyal et al. 2017).
pub fn backbone_init(name: &str, shape: &[usize]) -> Init {
    if name.ends_with("bn3.weight") { Init::Zeros } else { init::usual(name, shape) }
}

/// The classifier: backbone, mean over all places, and a 1x1 convolution without bias whose weights turn features into maps.
#[derive(Module, Debug)]
pub struct ResNetCam {
    resnet50: Backbone,
    classifier: Conv2d,
}

impl ResNetCam {
    /// Builds the network for `classes` classes with values drawn from `seed`.
    pub fn new(config: &Config, classes: usize, seed: u64, device: &Device) -> Self {
        let [.., channels] = config.channels();
        let network = Self {
            resnet50: Backbone::new(config, device),
            classifier: ConvSpec::new(channels, classes, 1).build(device),
        };
        init::seeded(network, seed, |name, shape| {
            if name == "classifier.weight" { Init::KaimingUniform } else { backbone_init(name, shape) }
        })
    }

    /// Freezes what the recipe of SPEC 1.3 never trains: the first convolution and its norm, and with `detach` everything
    /// before `layer3`.
    pub fn frozen(self, detach: bool) -> Self {
        params::set_trainable(self, |name| !is_frozen(name, detach))
    }

    /// Returns logits.
    ///
    /// # Shapes
    /// `[B, 3, H, W]` to `[B, C]`.
    pub fn logits(&self, x: Tensor<4>, detach: bool, pass: &Pass) -> Tensor<2> {
        let features = self.resnet50.features(x, detach, pass);
        let [batch, channels, height, width] = features.dims();
        let pooled = features.reshape([batch, channels, height * width]).mean_dim(2);
        let logits = self.classifier.forward(pooled.reshape([batch, channels, 1, 1]));
        let classes = logits.dims()[1];
        logits.reshape([batch, classes])
    }

    /// Returns class activation maps: the classifier at every place, and ReLU where `rectify`.
    ///
    /// # Shapes
    /// `[B, 3, H, W]` to `[B, C, ceil(H / stride), ceil(W / stride)]`.
    pub fn cam(&self, x: Tensor<4>, rectify: bool) -> Tensor<4> {
        let maps = self.classifier.forward(self.resnet50.features(x, false, &Pass::inference()));
        if rectify { activation::relu(maps) } else { maps }
    }

    /// Returns the rectified maps of images plus those of their mirror images, mirrored back (SPEC 1.1).
    ///
    /// # Shapes
    /// As [`Self::cam`].
    pub fn flip_merged(&self, x: Tensor<4>) -> Tensor<4> {
        let [count, ..] = x.dims();
        let both = self.cam(Tensor::cat(vec![x.clone(), x.flip([3])], 0), true);
        both.clone().narrow(0, 0, count) + both.narrow(0, count, count).flip([3])
    }
}

fn is_frozen(name: &str, detach: bool) -> bool {
    let early = ["resnet50.layer1.", "resnet50.layer2."];
    name.starts_with("resnet50.conv1.")
        || name.starts_with("resnet50.bn1.")
        || (detach && early.iter().any(|prefix| name.starts_with(prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::device;

    #[test]
    fn resnet50_has_the_names_and_the_size_of_the_reference() {
        let device = device::named("cpu").expect("always there");
        let network = ResNetCam::new(&Config::resnet50(), 20, 0, &device);
        let shapes = params::shapes(&network);
        // SPEC 1.4: 318 backbone tensors, of which 53 are `num_batches_tracked`, and the classifier.
        assert_eq!(shapes.len(), 318 - 53 + 1);
        let trained = shapes.iter().filter(|(name, _)| !name.contains("running_"));
        let count: usize = trained.map(|(_, shape)| shape.iter().product::<usize>()).sum();
        assert_eq!(count, 23_548_992);
        assert_eq!(shapes["resnet50.layer4.0.downsample.0.weight"], [2048, 1024, 1, 1]);
        assert_eq!(shapes["resnet50.bn1.running_var"], [64]);
    }

    #[test]
    fn stages_have_the_promised_sizes() {
        let device = device::named("cpu").expect("always there");
        for config in [Config::tiny(), Config { norm: NormKind::Group, pool: false, ..Config::tiny() }] {
            let network = init::seeded(Backbone::new(&config, &device), 0, backbone_init);
            let stages = network.stages(Tensor::ones([1, 3, 45, 64], &device), &Pass::inference());
            for ((stage, channels), stride) in stages.iter().zip(config.channels()).zip(config.stage_strides()) {
                assert_eq!(stage.dims(), [1, channels, 45_usize.div_ceil(stride), 64 / stride]);
            }
        }
    }

    #[test]
    fn batch_norm_moves_its_statistics_in_training_only() {
        let device = device::named("cpu").expect("always there");
        let network = ResNetCam::new(&Config::tiny(), 3, 0, &device).train();
        let x = Tensor::<4>::ones([2, 3, 16, 16], &device.autodiff());
        let before = params::export(&network.valid());
        let _ = network.logits(x.clone(), false, &Pass::inference());
        assert_eq!(before, params::export(&network.valid()));
        let _ = network.logits(x, false, &Pass::training(0));
        let after = params::export(&network.valid());
        let changed: Vec<&String> = before.keys().filter(|name| before[*name] != after[*name]).collect();
        assert!(!changed.is_empty() && changed.iter().all(|name| name.contains("running_")));
    }
}
