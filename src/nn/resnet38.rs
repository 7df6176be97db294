//! Segmentation: the pre-activation ResNet-38 (Wu et al. 2019) with a dilated head, as DeepLab-v1 has it (SPEC 9.1), and its
//! class-balanced loss. Knows images as tensors.
//!
//! Names of tensors are those of the reference program's state_dict.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData, activation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::image::{LabelMap, Maps};
use crate::nn::init::{self, Init};
use crate::nn::layers::{Conv2d, ConvSpec, Norm, NormKind, bilinear};
use crate::nn::params;
use crate::nn::pass::Pass;

/// The name of this architecture in `Weights`.
pub const ARCH: &str = "resnet38_seg";

/// Sizes of the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resnet38Config {
    /// Channels after the first convolution, after `b2` to `b7`, and within the head.
    pub widths: [usize; 8],
    /// Blocks in `b2` to `b5`, at most 3, 3, 6 and 3.
    pub blocks: [usize; 4],
    /// Strides of the first blocks of `b2`, `b3` and `b4`.
    pub strides: [usize; 3],
    /// Dilations of `b5`, `b6`, `b7` and the head.
    pub dilations: [usize; 4],
    /// Probabilities with which channels are dropped in `b6` and `b7`.
    pub dropout: [f64; 2],
    /// The normalisation.
    pub norm: NormKind,
    /// Classes, background included.
    pub classes: usize,
}

impl Resnet38Config {
    /// The reference's network: 124 042 581 parameters with 21 classes (SPEC 9.1).
    pub fn resnet38(classes: usize) -> Self {
        Self {
            widths: [64, 128, 256, 512, 1024, 2048, 4096, 512],
            blocks: [3, 3, 6, 3],
            strides: [2; 3],
            dilations: [2, 4, 4, 12],
            dropout: [0.3, 0.5],
            norm: NormKind::Frozen,
            classes,
        }
    }

    /// The same in small, about a million parameters, trained from the seed on images of 64 to 200 pixels.
    pub fn tiny(classes: usize) -> Self {
        Self {
            widths: [16, 24, 48, 96, 128, 192, 256, 64],
            blocks: [1, 1, 2, 1],
            strides: [2; 3],
            dilations: [2, 2, 4, 4],
            dropout: [0.1, 0.1],
            norm: NormKind::Batch,
            classes,
        }
    }

    /// Builds the network with parameters drawn from `seed`: Glorot for the head (SPEC 9.1), He for the rest.
    pub fn init(&self, seed: u64, device: &Device) -> Resnet38 {
        init::seeded(Resnet38::new(self, device), seed, |name, shape| {
            let head = name.starts_with("fc8") && name.ends_with("weight");
            if head { Init::XavierUniform } else { init::usual(name, shape) }
        })
    }
}

/// Two 3x3 convolutions and a shortcut, each behind norm and ReLU.
#[derive(Module, Debug)]
struct Block {
    bn_branch2a: Norm,
    conv_branch2a: Conv2d,
    bn_branch2b1: Norm,
    conv_branch2b1: Conv2d,
    conv_branch1: Option<Conv2d>,
}

/// What a [`Block`] is built of.
#[derive(Clone, Copy)]
struct BlockSpec {
    input: usize,
    middle: usize,
    output: usize,
    stride: usize,
    first_dilation: usize,
    dilation: usize,
}

impl Block {
    fn new(spec: BlockSpec, norm: NormKind, device: &Device) -> Self {
        let BlockSpec { input, middle, output, stride, first_dilation, dilation } = spec;
        let same = input == output && stride == 1;
        let first = ConvSpec::new(input, middle, 3).stride(stride).padding(first_dilation).dilation(first_dilation);
        Self {
            bn_branch2a: Norm::new(input, norm, device),
            conv_branch2a: first.build(device),
            bn_branch2b1: Norm::new(middle, norm, device),
            conv_branch2b1: ConvSpec::new(middle, output, 3).padding(dilation).dilation(dilation).build(device),
            conv_branch1: (!same).then(|| ConvSpec::new(input, output, 1).stride(stride).build(device)),
        }
    }

    fn forward(&self, x: Tensor<4>, pass: &Pass) -> Tensor<4> {
        let active = activation::relu(self.bn_branch2a.forward(x.clone(), pass));
        let shortcut = match &self.conv_branch1 {
            Some(project) => project.forward(active.clone()),
            None => x,
        };
        let y = self.conv_branch2a.forward(active);
        let y = activation::relu(self.bn_branch2b1.forward(y, pass));
        self.conv_branch2b1.forward(y) + shortcut
    }
}

/// 1x1, 3x3, 1x1 and a projected shortcut, each behind norm and ReLU, with dropout between.
#[derive(Module, Debug)]
struct Bottleneck {
    bn_branch2a: Norm,
    conv_branch2a: Conv2d,
    bn_branch2b1: Norm,
    conv_branch2b1: Conv2d,
    bn_branch2b2: Norm,
    conv_branch2b2: Conv2d,
    conv_branch1: Conv2d,
    #[module(skip)]
    dropout: f64,
}

impl Bottleneck {
    fn new(input: usize, output: usize, dilation: usize, dropout: f64, norm: NormKind, device: &Device) -> Self {
        let (quarter, half) = (output / 4, output / 2);
        Self {
            bn_branch2a: Norm::new(input, norm, device),
            conv_branch2a: ConvSpec::new(input, quarter, 1).build(device),
            bn_branch2b1: Norm::new(quarter, norm, device),
            conv_branch2b1: ConvSpec::new(quarter, half, 3).padding(dilation).dilation(dilation).build(device),
            bn_branch2b2: Norm::new(half, norm, device),
            conv_branch2b2: ConvSpec::new(half, output, 1).build(device),
            conv_branch1: ConvSpec::new(input, output, 1).build(device),
            dropout,
        }
    }

    fn forward(&self, x: Tensor<4>, pass: &Pass) -> Tensor<4> {
        let active = activation::relu(self.bn_branch2a.forward(x, pass));
        let shortcut = self.conv_branch1.forward(active.clone());
        let y = activation::relu(self.bn_branch2b1.forward(self.conv_branch2a.forward(active), pass));
        let y = self.conv_branch2b1.forward(pass.dropout2d(y, self.dropout));
        let y = activation::relu(self.bn_branch2b2.forward(y, pass));
        self.conv_branch2b2.forward(pass.dropout2d(y, self.dropout)) + shortcut
    }
}

/// The network. Blocks that a small configuration leaves out are `None`.
#[derive(Module, Debug)]
pub struct Resnet38 {
    conv1a: Conv2d,
    b2: Option<Block>,
    b2_1: Option<Block>,
    b2_2: Option<Block>,
    b3: Option<Block>,
    b3_1: Option<Block>,
    b3_2: Option<Block>,
    b4: Option<Block>,
    b4_1: Option<Block>,
    b4_2: Option<Block>,
    b4_3: Option<Block>,
    b4_4: Option<Block>,
    b4_5: Option<Block>,
    b5: Option<Block>,
    b5_1: Option<Block>,
    b5_2: Option<Block>,
    b6: Bottleneck,
    b7: Bottleneck,
    bn7: Norm,
    fc8_seg_conv1: Conv2d,
    fc8_seg_conv2: Conv2d,
}

impl Resnet38 {
    fn new(config: &Resnet38Config, device: &Device) -> Self {
        let [first, two, three, four, five, six, seven, head] = config.widths;
        let inputs = [first, two, three, four];
        let outputs = [two, three, four, five];
        let block = |level: usize, index: usize| {
            let output = outputs[level];
            let input = if index == 0 { inputs[level] } else { output };
            // `b5` is narrow within and dilated instead of strided; its first convolution is not (SPEC 9.1).
            let last = level == 3;
            let dilation = if last { config.dilations[0] } else { 1 };
            let spec = BlockSpec {
                input,
                middle: if last { output / 2 } else { output },
                output,
                stride: if index == 0 && !last { config.strides[level] } else { 1 },
                first_dilation: if index == 0 { 1 } else { dilation },
                dilation,
            };
            (index < config.blocks[level]).then(|| Block::new(spec, config.norm, device))
        };
        let [_, dilation6, dilation7, head_dilation] = config.dilations;
        let wide = |input, output| {
            ConvSpec::new(input, output, 3).padding(head_dilation).dilation(head_dilation).bias().build(device)
        };
        Self {
            conv1a: ConvSpec::new(3, first, 3).padding(1).build(device),
            b2: block(0, 0),
            b2_1: block(0, 1),
            b2_2: block(0, 2),
            b3: block(1, 0),
            b3_1: block(1, 1),
            b3_2: block(1, 2),
            b4: block(2, 0),
            b4_1: block(2, 1),
            b4_2: block(2, 2),
            b4_3: block(2, 3),
            b4_4: block(2, 4),
            b4_5: block(2, 5),
            b5: block(3, 0),
            b5_1: block(3, 1),
            b5_2: block(3, 2),
            b6: Bottleneck::new(five, six, dilation6, config.dropout[0], config.norm, device),
            b7: Bottleneck::new(six, seven, dilation7, config.dropout[1], config.norm, device),
            bn7: Norm::new(seven, config.norm, device),
            fc8_seg_conv1: wide(seven, head),
            fc8_seg_conv2: wide(head, config.classes),
        }
    }

    /// Freezes what the recipe of SPEC 9.1 never trains: the first convolution and the scales and shifts of all norms.
    #[must_use]
    pub fn frozen(self) -> Self {
        params::set_trainable(self, |name| !(name.starts_with("conv1a") || name.contains("bn")))
    }

    /// Returns whether a parameter belongs to the head, which learns ten times as fast (SPEC 9.2).
    pub fn is_head(name: &str) -> bool {
        name.starts_with("fc8")
    }

    /// Returns logits.
    ///
    /// # Shapes
    /// Normalised pixels `[B, 3, H, W]` to `[B, classes, h, w]`, where each stride `s` makes `n` to `ceil(n / s)`.
    pub fn forward(&self, x: Tensor<4>, pass: &Pass) -> Tensor<4> {
        let blocks = [
            &self.b2, &self.b2_1, &self.b2_2, &self.b3, &self.b3_1, &self.b3_2, &self.b4, &self.b4_1, &self.b4_2,
            &self.b4_3, &self.b4_4, &self.b4_5, &self.b5, &self.b5_1, &self.b5_2,
        ];
        let x = blocks.into_iter().flatten().fold(self.conv1a.forward(x), |x, block| block.forward(x, pass));
        let x = self.b7.forward(self.b6.forward(x, pass), pass);
        let x = activation::relu(self.bn7.forward(x, pass));
        self.fc8_seg_conv2.forward(activation::relu(self.fc8_seg_conv1.forward(x)))
    }

    /// Returns class probabilities of one image over several scales (SPEC 9.3): the image is resized with aligned corners to
    /// `floor(side * scale)`, logits are resized to the image, and softmaxes are merged. The maximum is not renormalised.
    ///
    /// # Shapes
    /// Normalised pixels `[3, H, W]` to `[classes, H, W]`.
    pub fn probabilities(&self, image: &Maps, scales: &[f64], flip: bool, merge: Merge, device: &Device) -> Maps {
        let (height, width) = (image.height(), image.width());
        let data = TensorData::new(image.data().to_vec(), [1, 3, height, width]);
        let pixels = Tensor::<4>::from_data(data, device);
        let pass = Pass::inference();
        let mut merged: Option<Tensor<4>> = None;
        let mut count = 0;
        for scale in scales {
            let side = |length: usize| ((length as f64 * scale) as usize).max(1);
            let scaled = bilinear(pixels.clone(), [side(height), side(width)], true);
            let views =
                if flip { vec![(scaled.clone(), false), (scaled.flip([3]), true)] } else { vec![(scaled, false)] };
            for (view, mirrored) in views {
                let logits = self.forward(view, &pass);
                let logits = if mirrored { logits.flip([3]) } else { logits };
                let probabilities = activation::softmax(bilinear(logits, [height, width], false), 1);
                count += 1;
                merged = Some(match (merged, merge) {
                    (None, _) => probabilities,
                    (Some(merged), Merge::Max) => merged.max_pair(probabilities),
                    (Some(merged), Merge::Mean) => merged + probabilities,
                });
            }
        }
        let merged = merged.expect("there is at least one scale");
        let classes = merged.dims()[1];
        let merged = if merge == Merge::Mean { merged / f64::from(count) } else { merged };
        Maps::new(classes, height, width, merged.into_data().iter::<f32>().collect())
    }
}

/// How the probabilities of several scales become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Merge {
    /// The largest, as upstream (SPEC 9.3).
    #[default]
    Max,
    /// The mean.
    Mean,
}

/// Cross entropy over pixels, with label smoothing and, if asked for, balance between background and objects.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SegmentationLoss {
    /// Whether background and objects weigh half each, whatever their area (SPEC 9.4, 3.2). Otherwise every pixel weighs the
    /// same.
    pub balance: bool,
    /// The probability that is spread evenly over the other classes.
    pub smoothing: f64,
}

impl SegmentationLoss {
    /// Returns the loss of a batch, `[1]`.
    ///
    /// Logits are resized to the masks. Pixels of 255, or of a class that the logits lack, count for nothing. If the batch has
    /// no background, or no objects, the other alone makes the loss; if it has neither, the loss is 0.
    ///
    /// # Shapes
    /// `[B, C, h, w]` and `B` masks of one size.
    pub fn of(&self, logits: Tensor<4>, masks: &[LabelMap]) -> Tensor<1> {
        let (height, width) = masks.first().map_or((0, 0), |mask| (mask.height(), mask.width()));
        let logits = bilinear(logits, [height, width], false);
        let [batch, classes, _, _] = logits.dims();
        assert_eq!(batch, masks.len(), "one mask per image");
        let weights = self.weights(masks, classes);
        let weights =
            Tensor::<4>::from_data(TensorData::new(weights, [batch, classes, height, width]), &logits.device());
        (activation::log_softmax(logits, 1) * weights).sum().neg()
    }

    /// Returns what the log probability of each class at each pixel weighs, `[B, C, H, W]`: the smoothed target times the
    /// pixel's share of the mean that it belongs to.
    fn weights(&self, masks: &[LabelMap], classes: usize) -> Vec<f32> {
        let labels = || masks.iter().flat_map(|mask| mask.data().iter().map(|&label| usize::from(label)));
        let background = labels().filter(|&label| label == 0).count();
        let objects = labels().filter(|&label| label > 0 && label < classes).count();
        let (background, objects) = if self.balance {
            let sets = f64::from(u8::from(background > 0) + u8::from(objects > 0));
            let share = |count: usize| if count > 0 { 1.0 / (sets * count as f64) } else { 0.0 };
            (share(background), share(objects))
        } else {
            let share = 1.0 / (background + objects).max(1) as f64;
            (share, share)
        };
        let others = if classes > 1 { self.smoothing / (classes - 1) as f64 } else { 0.0 };
        let mut weights = Vec::with_capacity(masks.iter().map(|mask| mask.data().len()).sum::<usize>() * classes);
        for mask in masks {
            for class in 0..classes {
                weights.extend(mask.data().iter().map(|&label| {
                    let label = usize::from(label);
                    let share = match label {
                        0 => background,
                        _ if label < classes => objects,
                        _ => 0.0,
                    };
                    (share * if label == class { 1.0 - self.smoothing } else { others }) as f32
                }));
            }
        }
        weights
    }
}
