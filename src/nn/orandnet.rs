//! ORANDNet: an FCN-8s over VGG16 that maps one class's OR map to its AND map. Knows maps; nothing of images or classes.
//!
//! SPEC section 6; FCN: Long et al. 2015; VGG16: Simonyan and Zisserman 2015. Field names are those of the reference
//! program's state_dict.

use burn::module::Module;
use burn::tensor::{Device, Tensor, activation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::artifact::weights::NamedTensors;
use crate::image::Maps;
use crate::nn::init::{self, Init};
use crate::nn::layers::{Conv2d, ConvSpec, ConvTranspose2d, max_pool2d};
use crate::nn::pass::Pass;

/// The name of this architecture in `Weights`.
pub const ARCH: &str = "orandnet";

/// Sizes of the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OrandNetConfig {
    /// Channels of the five groups of convolutions; each group ends with a pool that halves height and width.
    pub widths: [usize; 5],
    /// Channels of the two fully convolutional layers.
    pub fc_width: usize,
    /// Side of the kernel of the first of them, in cells of 32 pixels.
    pub fc_kernel: usize,
    /// Zeros around the map before the first convolution, in pixels. With 1 every layer keeps its size (`fc_kernel` must be odd)
    /// and the three strides are fused cell upon cell. With more, layers shrink the framed map and skips are cropped at the
    /// middle, as in the reference program, which uses 100.
    pub padding: usize,
}

impl OrandNetConfig {
    /// The paper's network, 134 264 547 parameters (SPEC 6.1).
    pub fn vgg16() -> Self {
        Self { widths: [64, 128, 256, 512, 512], fc_width: 4096, fc_kernel: 7, padding: 100 }
    }

    /// The same in small, for maps of 32 to 200 pixels on a CPU; it keeps every size.
    pub fn vgg_tiny() -> Self {
        Self { widths: [4, 8, 16, 32, 32], fc_width: 64, fc_kernel: 3, padding: 1 }
    }

    /// Refuses values that make no network: the name of the field and what is wrong.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if self.widths.contains(&0) {
            return Err(("widths", "every group needs at least one channel".into()));
        }
        if self.fc_width == 0 {
            return Err(("fc_width", "at least one channel is needed".into()));
        }
        if self.fc_kernel == 0 || (self.keeps_size() && self.fc_kernel.is_multiple_of(2)) {
            return Err(("fc_kernel", "with `padding = 1` the kernel's side must be odd".into()));
        }
        if self.padding == 0 {
            return Err(("padding", "at least one pixel is needed; 1 keeps every size".into()));
        }
        Ok(())
    }

    /// Refuses a map that is too small, or too oblong, for the frame: crops must lie within the skips (SPEC 6.1: with the
    /// paper's values everything from 100 to 639 pixels passes).
    pub fn check_size(&self, height: usize, width: usize) -> Result<(), String> {
        if self.keeps_size() {
            return if height > 0 && width > 0 { Ok(()) } else { Err("an empty map".into()) };
        }
        let (rows, columns) = (self.sizes(height), self.sizes(width));
        let fits = rows.zip(columns).is_some_and(|(rows, columns)| {
            rows.iter().zip(&columns).all(|(row, column)| {
                let offset = row.0.checked_sub(row.1).map(|slack| slack / 2);
                offset.is_some_and(|offset| offset + row.1 <= row.0 && offset + column.1 <= column.0)
            })
        });
        if fits {
            return Ok(());
        }
        Err(format!(
            "a map of {width} x {height} pixels does not fit a network with `padding = {}` and `fc_kernel = {}`",
            self.padding, self.fc_kernel
        ))
    }

    /// Returns, along one axis, (length to be cropped, length to crop to) at strides 16, 8 and 1.
    fn sizes(&self, length: usize) -> Option<[(usize, usize); 3]> {
        let mut pools = [0; 5];
        let mut cells = (length + 2 * self.padding).checked_sub(2)?;
        for pool in &mut pools {
            cells = cells.div_ceil(2);
            *pool = cells;
        }
        let coarse = (pools[4] + 1).checked_sub(self.fc_kernel).filter(|&cells| cells > 0)?;
        let (u16, u8) = (2 * coarse + 2, 2 * (2 * coarse + 2) + 2);
        Some([(pools[3], u16), (pools[2], u8), (8 * u8 + 8, length)])
    }

    fn keeps_size(&self) -> bool {
        self.padding == 1
    }

    /// Builds the network with parameters that are still to be drawn or loaded.
    pub fn build(&self, device: &Device) -> OrandNet {
        let [one, two, three, four, five] = self.widths;
        let conv = |input, output| ConvSpec::new(input, output, 3).padding(1).bias().build(device);
        let pair = |input, output| vec![Some(conv(input, output)), None, Some(conv(output, output))];
        let triple = |input, output| {
            vec![Some(conv(input, output)), None, Some(conv(output, output)), None, Some(conv(output, output))]
        };
        let mut downsample1 = pair(1, one);
        downsample1[0] = Some(ConvSpec::new(1, one, 3).padding(self.padding).bias().build(device));
        let fc_padding = if self.keeps_size() { self.fc_kernel / 2 } else { 0 };
        let point = |input, output| ConvSpec::new(input, output, 1).bias().build(device);
        let up = |kernel, stride| ConvSpec::new(1, 1, kernel).stride(stride).build_transposed(device);
        OrandNet {
            downsample1,
            downsample2: pair(one, two),
            downsample3: triple(two, three),
            downsample4: triple(three, four),
            downsample5: triple(four, five),
            fc6: vec![ConvSpec::new(five, self.fc_width, self.fc_kernel).padding(fc_padding).bias().build(device)],
            fc7: vec![point(self.fc_width, self.fc_width)],
            score_pool3: point(three, 1),
            score_pool4: point(four, 1),
            score_final: point(self.fc_width, 1),
            upsample_make_16s: up(4, 2),
            upsample_make_8s: up(4, 2),
            upsample_to_score: up(16, 8),
            padding: self.padding,
        }
    }

    /// Builds the network and draws its parameters from `seed`.
    ///
    /// Upsampling starts bilinear and the scores by Glorot, as in SPEC 6.1. The reference takes everything else from VGG16;
    /// here convolutions start by He with `fan_in`, which carries the signal through a network without norms, biases at 0.
    pub fn init(&self, seed: u64, device: &Device) -> OrandNet {
        init::seeded(self.build(device), seed, |name, shape| {
            let fan = |index: usize| shape.iter().skip(2).product::<usize>() as f64 * shape[index] as f64;
            match name {
                _ if name.starts_with("upsample") => Init::Bilinear,
                _ if name.ends_with("bias") => Init::Zeros,
                _ if name.starts_with("score") => Init::Normal((2.0 / (fan(0) + fan(1))).sqrt()),
                _ => Init::Normal((2.0 / fan(1)).sqrt()),
            }
        })
    }
}

/// The network. A `None` stands where the reference has a ReLU, so that the numbers in the names agree.
#[derive(Module, Debug)]
pub struct OrandNet {
    downsample1: Vec<Option<Conv2d>>,
    downsample2: Vec<Option<Conv2d>>,
    downsample3: Vec<Option<Conv2d>>,
    downsample4: Vec<Option<Conv2d>>,
    downsample5: Vec<Option<Conv2d>>,
    fc6: Vec<Conv2d>,
    fc7: Vec<Conv2d>,
    score_pool3: Conv2d,
    score_pool4: Conv2d,
    score_final: Conv2d,
    upsample_make_16s: ConvTranspose2d,
    upsample_make_8s: ConvTranspose2d,
    upsample_to_score: ConvTranspose2d,
    #[module(skip)]
    padding: usize,
}

impl OrandNet {
    /// Probability with which the channels of the fully convolutional layers are dropped in training (SPEC 6.1).
    const DROPOUT: f64 = 0.5;

    /// Maps each class's map on its own; classes are the batch, with dropout of their own.
    ///
    /// # Shapes
    /// `[K, 1, H, W]` to the same.
    ///
    /// # Panics
    /// If the size does not pass [`OrandNetConfig::check_size`].
    pub fn forward(&self, x: Tensor<4>, pass: &Pass) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let pool1 = group(&self.downsample1, x);
        let pool2 = group(&self.downsample2, pool1);
        let pool3 = group(&self.downsample3, pool2);
        let pool4 = group(&self.downsample4, pool3.clone());
        let pool5 = group(&self.downsample5, pool4.clone());
        self.finish([pool3, pool4, pool5], [height, width], pass)
    }

    /// Makes the output of the outputs of the last three pools.
    pub(super) fn finish(&self, pools: [Tensor<4>; 3], [height, width]: [usize; 2], pass: &Pass) -> Tensor<4> {
        let [pool3, pool4, mut coarse] = pools;
        for conv in self.fc6.iter().chain(&self.fc7) {
            coarse = pass.dropout2d(activation::relu(conv.forward(coarse)), Self::DROPOUT);
        }
        let coarse = self.score_final.forward(coarse);
        let stride16 = self.fuse(self.upsample_make_16s.forward(coarse), self.score_pool4.forward(pool4));
        let stride8 = self.fuse(self.upsample_make_8s.forward(stride16), self.score_pool3.forward(pool3));
        let fine = self.upsample_to_score.forward(stride8);
        if self.padding == 1 {
            // Cell i of the last kernel covers pixels 8i - 4 to 8i + 11.
            return crop(fine, 4, 4, height, width);
        }
        let offset = middle(&fine, height);
        crop(fine, offset, offset, height, width)
    }

    /// The convolutions of the five groups.
    pub(super) fn groups(&self) -> [&[Option<Conv2d>]; 5] {
        [&self.downsample1, &self.downsample2, &self.downsample3, &self.downsample4, &self.downsample5]
    }

    /// Zeros around the map, in pixels.
    pub(super) fn padding(&self) -> usize {
        self.padding
    }

    /// Adds a skip to upsampled scores.
    ///
    /// A kernel of side 4 and stride 2 puts pixel i of the finer grid at cell i + 1. Where every layer keeps its size the scores
    /// are cropped there. Otherwise the skip is cropped to the scores, by the offset of its rows in both directions, as the
    /// reference program does it (SPEC 6.1).
    fn fuse(&self, up: Tensor<4>, skip: Tensor<4>) -> Tensor<4> {
        if self.padding == 1 {
            let [_, _, height, width] = skip.dims();
            return crop(up, 1, 1, height, width) + skip;
        }
        let [_, _, height, width] = up.dims();
        let offset = middle(&skip, height);
        up + crop(skip, offset, offset, height, width)
    }

    /// Returns a loss of 0 whose gradient is 0, for an image without classes.
    pub fn nothing(&self) -> Tensor<1> {
        self.upsample_make_16s.weight.val().sum() * 0.0
    }
}

/// What makes maps of the network's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// What is negative becomes 0, as in the released program
    Relu,
    /// The probability of each class among the image's classes and the background, whose logit is 0
    Softmax,
    /// The probability of each class on its own
    Sigmoid,
}

impl Activation {
    /// Changes outputs into maps, pixel by pixel.
    pub(super) fn apply(self, maps: &mut Maps) {
        match self {
            Self::Relu => maps.data_mut().iter_mut().for_each(|value| *value = value.max(0.0)),
            Self::Sigmoid => maps.data_mut().iter_mut().for_each(|value| *value = 1.0 / (1.0 + (-*value).exp())),
            Self::Softmax => {
                let plane = maps.height() * maps.width();
                let classes = maps.channels();
                let data = maps.data_mut();
                for pixel in 0..plane {
                    let places = (0..classes).map(|class| class * plane + pixel);
                    let largest = places.clone().map(|place| data[place]).fold(0.0, f32::max);
                    let sum = places.clone().map(|place| (data[place] - largest).exp()).sum::<f32>() + (-largest).exp();
                    places.for_each(|place| data[place] = (data[place] - largest).exp() / sum);
                }
            }
        }
    }
}

/// Applies convolutions, each with its ReLU, and halves the size, rounded up.
fn group(convolutions: &[Option<Conv2d>], mut x: Tensor<4>) -> Tensor<4> {
    for conv in convolutions.iter().flatten() {
        x = activation::relu(conv.forward(x));
    }
    max_pool2d(x, 2, 2, 0, true)
}

/// Returns where a window of `rows` rows in the middle of `x` begins.
fn middle(x: &Tensor<4>, rows: usize) -> usize {
    (x.dims()[2] - rows) / 2
}

fn crop(x: Tensor<4>, row: usize, column: usize, height: usize, width: usize) -> Tensor<4> {
    x.narrow(2, row, height).narrow(3, column, width)
}

/// How the network is taught to predict AND from OR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OrandLoss {
    /// Cross entropy over the image's classes with soft targets, as the released program: no gradient at all for an image
    /// with one class (SPEC 6.2). Of the three it makes the most precise maps at equal recall (docs/results.md).
    #[default]
    ClassSoftmax,
    /// The same with the background as one more class: its logit is 0, its target 1 minus the largest AND.
    WithBackground,
    /// Binary cross entropy of each map on its own.
    PerPixelBce,
}

impl OrandLoss {
    /// Returns what makes maps of a network trained with this loss. Only `class_softmax` leaves the level of its outputs open,
    /// which the reference program then cuts at 0; outputs of the others are logits of probabilities, and cutting them would
    /// drop whatever is less likely than not.
    pub fn activation(self) -> Activation {
        match self {
            Self::ClassSoftmax => Activation::Relu,
            Self::WithBackground => Activation::Softmax,
            Self::PerPixelBce => Activation::Sigmoid,
        }
    }

    /// Returns the loss of one image, `[1]`: a mean over pixels (SPEC 6.2: targets are used as they are, whatever their sum).
    ///
    /// # Shapes
    /// Both `[K, 1, H, W]`; `K` is at least 1.
    pub fn of(self, logits: Tensor<4>, target: Tensor<4>) -> Tensor<1> {
        let [classes, _, height, width] = logits.dims();
        let pixels = height * width;
        let logits = logits.reshape([classes, pixels]);
        let target = target.reshape([classes, pixels]);
        match self {
            Self::ClassSoftmax => soft_cross_entropy(logits, target),
            Self::WithBackground => {
                let background = target.clone().max_dim(0).neg().add_scalar(1.0).clamp_min(0.0);
                let zero = Tensor::<2>::zeros([1, pixels], &logits.device());
                soft_cross_entropy(Tensor::cat(vec![zero, logits], 0), Tensor::cat(vec![background, target], 0))
            }
            Self::PerPixelBce => {
                // t log s(x) + (1 - t) log s(-x) = log s(x) - (1 - t) x
                let rest = target.clamp(0.0, 1.0).neg().add_scalar(1.0);
                (activation::log_sigmoid(logits.clone()) - rest * logits).mean().neg()
            }
        }
    }
}

/// `-(1 / pixels) sum target log_softmax(logits)` over the first dimension.
fn soft_cross_entropy(logits: Tensor<2>, target: Tensor<2>) -> Tensor<1> {
    let [_, pixels] = logits.dims();
    (activation::log_softmax(logits, 0) * target).sum().neg() / pixels as f64
}

/// Renames the tensors of torchvision's VGG16 to those of this network (SPEC 6.1). What the network draws itself is absent:
/// the first convolution, the scores and the upsampling.
pub fn from_vgg16(tensors: &NamedTensors) -> NamedTensors {
    const NAMES: [(&str, &str); 14] = [
        ("features.2", "downsample1.2"),
        ("features.5", "downsample2.0"),
        ("features.7", "downsample2.2"),
        ("features.10", "downsample3.0"),
        ("features.12", "downsample3.2"),
        ("features.14", "downsample3.4"),
        ("features.17", "downsample4.0"),
        ("features.19", "downsample4.2"),
        ("features.21", "downsample4.4"),
        ("features.24", "downsample5.0"),
        ("features.26", "downsample5.2"),
        ("features.28", "downsample5.4"),
        ("classifier.0", "fc6.0"),
        ("classifier.3", "fc7.0"),
    ];
    let mut renamed = NamedTensors::new();
    for (theirs, ours) in NAMES {
        for leaf in ["weight", "bias"] {
            let Some(values) = tensors.get(&format!("{theirs}.{leaf}")) else { continue };
            let mut values = values.clone();
            if let (&[output, input], "weight") = (values.shape.as_slice(), leaf) {
                // A fully connected layer over a window of 7 x 7 cells is a convolution of that kernel.
                let side = if theirs == "classifier.0" { 7 } else { 1 };
                values.shape = vec![output, input / (side * side), side, side];
            }
            renamed.insert(format!("{ours}.{leaf}"), values);
        }
    }
    renamed
}
