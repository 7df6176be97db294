//! Layers with PyTorch's names and layouts, so that the names of a state_dict match without a table. Values are zeros (ones
//! for scales) until [`crate::nn::init`] or [`crate::nn::params::load`] gives them others.

use burn::module::{Module, Param, RunningState};
use burn::tensor::module;
use burn::tensor::ops::{ConvOptions, ConvTransposeOptions, InterpolateMode, InterpolateOptions, MaxPoolOptions};
use burn::tensor::{Device, Tensor, s};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::nn::convolution::{convolve, on_cpu};
use crate::nn::fused::layer_norm;
use crate::nn::pass::Pass;
use crate::nn::precision::{factor, product};

/// How a convolution is built: `ConvSpec::new(3, 64, 7).stride(2).padding(3).build(&device)`.
#[derive(Clone, Copy, Debug)]
pub struct ConvSpec {
    input: usize,
    output: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    dilation: usize,
    groups: usize,
    bias: bool,
}

impl ConvSpec {
    /// A square kernel from `input` to `output` channels: stride 1, no padding, no dilation, no bias.
    pub fn new(input: usize, output: usize, kernel: usize) -> Self {
        Self { input, output, kernel, stride: 1, padding: 0, dilation: 1, groups: 1, bias: false }
    }

    /// Sets the step between output pixels.
    #[must_use]
    pub fn stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// Sets the zeros added on each side.
    #[must_use]
    pub fn padding(self, padding: usize) -> Self {
        Self { padding, ..self }
    }

    /// Sets the step between kernel cells.
    #[must_use]
    pub fn dilation(self, dilation: usize) -> Self {
        Self { dilation, ..self }
    }

    /// Splits the channels into groups.
    #[must_use]
    pub fn groups(self, groups: usize) -> Self {
        Self { groups, ..self }
    }

    /// Adds a bias.
    #[must_use]
    pub fn bias(self) -> Self {
        Self { bias: true, ..self }
    }

    /// Builds the layer.
    pub fn build(self, device: &Device) -> Conv2d {
        let shape = [self.output, self.input / self.groups, self.kernel, self.kernel];
        Conv2d {
            weight: zeros(shape, device),
            bias: self.bias.then(|| zeros([self.output], device)),
            options: ConvOptions::new([self.stride; 2], [self.padding; 2], [self.dilation; 2], self.groups),
        }
    }

    /// Builds the transposed layer, from `input` to `output` channels with stride as its factor; dilation and groups are not
    /// used.
    pub fn build_transposed(self, device: &Device) -> ConvTranspose2d {
        ConvTranspose2d {
            weight: zeros([self.input, self.output, self.kernel, self.kernel], device),
            bias: self.bias.then(|| zeros([self.output], device)),
            options: ConvTransposeOptions::new([self.stride; 2], [self.padding; 2], [0; 2], [1; 2], 1),
        }
    }
}

/// A two-dimensional convolution, as `torch.nn.Conv2d`.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[output, input / groups, kernel, kernel]`.
    pub weight: Param<Tensor<4>>,
    /// `[output]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    options: ConvOptions<2>,
}

impl Conv2d {
    /// # Shapes
    /// `[B, input, H, W]` to `[B, output, H', W']`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.apply(x, self.weight.val(), self.bias.as_ref().map(Param::val))
    }

    /// The same with another padding on all sides, for a part of an image.
    pub(super) fn forward_padded(&self, x: Tensor<4>, padding: usize) -> Tensor<4> {
        let options = ConvOptions { padding: [(padding, padding); 2], ..self.options.clone() };
        let bias = self.bias.as_ref().map(|bias| factor(bias.val()));
        product(convolve(factor(x), factor(self.weight.val()), bias, options))
    }

    fn apply(&self, x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>) -> Tensor<4> {
        let [output, input, height, width] = weight.dims();
        let options = &self.options;
        let (x, weight) = (factor(x), factor(weight));
        if [height, width] != [1, 1] || options.groups != 1 || options.padding != [(0, 0); 2] {
            return product(convolve(x, weight, bias.map(factor), options.clone()));
        }
        if let Some(y) = on_cpu(&x, &weight, bias.as_ref(), options) {
            return y;
        }
        // A kernel of one cell is a matrix product.
        let [rows, columns] = options.stride;
        let x = if [rows, columns] == [1, 1] { x } else { x.slice(s![.., .., ..;rows, ..;columns]) };
        let [batch, _, height, width] = x.dims();
        let y = product(weight.reshape([1, output, input]).matmul(x.reshape([batch, input, height * width])));
        let y = match bias {
            Some(bias) => y + bias.reshape([1, output, 1]),
            None => y,
        };
        y.reshape([batch, output, height, width])
    }

    /// Applies the layer and then `norm`. With fixed statistics the norm is folded into the kernel, which saves two passes
    /// over the activations and leaves all gradients as they are.
    pub fn forward_norm(&self, norm: &BatchNorm, x: Tensor<4>, pass: &Pass) -> Tensor<4> {
        if norm.uses_batch(pass) {
            return norm.forward(self.forward(x), pass);
        }
        let (scale, shift) = norm.affine();
        let channels = scale.dims()[0];
        let shift = match &self.bias {
            Some(bias) => shift + bias.val() * scale.clone(),
            None => shift,
        };
        let weight = self.weight.val() * scale.reshape([channels, 1, 1, 1]);
        self.apply(x, weight, Some(shift))
    }
}

/// A transposed convolution, as `torch.nn.ConvTranspose2d`.
#[derive(Module, Debug)]
pub struct ConvTranspose2d {
    /// `[input, output, kernel, kernel]`.
    pub weight: Param<Tensor<4>>,
    /// `[output]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    options: ConvTransposeOptions<2>,
}

impl ConvTranspose2d {
    /// # Shapes
    /// `[B, input, H, W]` to `[B, output, (H - 1) stride - 2 padding + kernel, ..]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let bias = self.bias.as_ref().map(|bias| factor(bias.val()));
        product(module::conv_transpose2d(factor(x), factor(self.weight.val()), bias, self.options.clone()))
    }
}

/// A linear map, as `torch.nn.Linear`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[output, input]`.
    pub weight: Param<Tensor<2>>,
    /// `[output]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// Builds a layer with a bias.
    pub fn new(input: usize, output: usize, device: &Device) -> Self {
        Self { weight: zeros([output, input], device), bias: Some(zeros([output], device)) }
    }

    /// # Shapes
    /// `[.., input]` to `[.., output]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let bias = self.bias.as_ref().map(|bias| factor(bias.val()));
        product(module::linear(factor(x), factor(self.weight.val()).transpose(), bias))
    }
}

/// Where a batch norm's statistics come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistics {
    /// Always the running ones, which never change: the recipes of SPEC 1.2 and 9.1.
    Frozen,
    /// The batch's in training, which also move the running ones; the running ones in inference.
    Batch,
}

/// Batch normalisation of `[B, C, H, W]`: `(x - mean) / sqrt(var + 1e-5) * weight + bias`.
#[derive(Module, Debug)]
pub struct BatchNorm {
    /// `[C]`.
    pub weight: Param<Tensor<1>>,
    /// `[C]`.
    pub bias: Param<Tensor<1>>,
    /// `[C]`, a buffer.
    pub running_mean: RunningState<Tensor<1>>,
    /// `[C]`, a buffer.
    pub running_var: RunningState<Tensor<1>>,
    #[module(skip)]
    statistics: Statistics,
}

impl BatchNorm {
    /// PyTorch's default.
    const EPSILON: f64 = 1e-5;
    /// PyTorch's default: new = 0.9 old + 0.1 of the batch.
    const MOMENTUM: f64 = 0.1;

    /// Builds the layer: scale 1, shift 0, mean 0, variance 1.
    pub fn new(channels: usize, statistics: Statistics, device: &Device) -> Self {
        Self {
            weight: Param::from_tensor(Tensor::ones([channels], device)),
            bias: zeros([channels], device),
            running_mean: RunningState::new(Tensor::zeros([channels], device)),
            running_var: RunningState::new(Tensor::ones([channels], device)),
            statistics,
        }
    }

    /// # Shapes
    /// `[B, C, H, W]` to the same.
    pub fn forward(&self, x: Tensor<4>, pass: &Pass) -> Tensor<4> {
        if !self.uses_batch(pass) {
            let (scale, shift) = self.affine();
            let shape = [1, scale.dims()[0], 1, 1];
            return x * scale.reshape(shape) + shift.reshape(shape);
        }
        // Written out, since `burn::tensor::module::batch_norm_train` of burn 0.22 transposes the batch twice on the CPU
        // and takes four times as long.
        let [batch, channels, height, width] = x.dims();
        let count = (batch * height * width) as f64;
        let x = x.reshape([batch, channels, height * width]);
        let mean = x.clone().mean_dim(2).mean_dim(0);
        let centred = x - mean.clone();
        let variance = (centred.clone() * centred.clone()).mean_dim(2).mean_dim(0);
        let scale = self.weight.val().reshape([1, channels, 1]) / (variance.clone() + Self::EPSILON).sqrt();
        let y = centred * scale + self.bias.val().reshape([1, channels, 1]);
        // PyTorch keeps the unbiased variance.
        let unbiased = variance.detach() * (count / (count - 1.0).max(1.0));
        for (state, new) in [(&self.running_mean, mean.detach()), (&self.running_var, unbiased)] {
            let old = state.value_sync();
            state.update(old * (1.0 - Self::MOMENTUM) + new.reshape([channels]) * Self::MOMENTUM);
            state.value_sync();
        }
        y.reshape([batch, channels, height, width])
    }

    fn uses_batch(&self, pass: &Pass) -> bool {
        self.statistics == Statistics::Batch && pass.is_training()
    }

    /// Returns scale and shift that do what the norm does with its running statistics.
    fn affine(&self) -> (Tensor<1>, Tensor<1>) {
        let deviation = (self.running_var.value_sync() + Self::EPSILON).sqrt();
        let scale = self.weight.val() / deviation;
        let shift = self.bias.val() - self.running_mean.value_sync() * scale.clone();
        (scale, shift)
    }
}

/// Normalisation over the last dimension, as `torch.nn.LayerNorm`.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[C]`.
    pub weight: Param<Tensor<1>>,
    /// `[C]`.
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    epsilon: f64,
}

impl LayerNorm {
    /// Builds the layer: scale 1, shift 0.
    pub fn new(channels: usize, epsilon: f64, device: &Device) -> Self {
        Self { weight: Param::from_tensor(Tensor::ones([channels], device)), bias: zeros([channels], device), epsilon }
    }

    /// # Shapes
    /// `[.., C]` to the same.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        layer_norm(x, self.weight.val(), self.bias.val(), self.epsilon)
    }
}

/// Normalisation over groups of channels of each image, as `torch.nn.GroupNorm`.
#[derive(Module, Debug)]
pub struct GroupNorm {
    /// `[C]`.
    pub weight: Param<Tensor<1>>,
    /// `[C]`.
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    groups: usize,
    #[module(skip)]
    epsilon: f64,
}

impl GroupNorm {
    /// Builds the layer: scale 1, shift 0.
    ///
    /// # Panics
    /// If the groups do not divide the channels.
    pub fn new(groups: usize, channels: usize, epsilon: f64, device: &Device) -> Self {
        assert!(groups > 0 && channels.is_multiple_of(groups), "{groups} groups do not divide {channels} channels");
        Self {
            weight: Param::from_tensor(Tensor::ones([channels], device)),
            bias: zeros([channels], device),
            groups,
            epsilon,
        }
    }

    /// # Shapes
    /// `[B, C, H, W]` to the same.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let grouped = x.reshape([batch, self.groups, channels / self.groups * height * width]);
        let centred = grouped.clone() - grouped.mean_dim(2);
        let variance = (centred.clone() * centred.clone()).mean_dim(2);
        let normal = (centred / (variance + self.epsilon).sqrt()).reshape([batch, channels, height, width]);
        let shape = [1, channels, 1, 1];
        normal * self.weight.val().reshape(shape) + self.bias.val().reshape(shape)
    }
}

/// Which normalisation a network of the ResNet family is built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// Batch norm with the statistics that came with the weights, never changed: for weights trained elsewhere
    Frozen,
    /// Batch norm with the batch's statistics in training: for training from the seed
    Batch,
    /// Group norm with 8 channels a group at least, 32 groups at most: independent of the batch
    Group,
}

/// A normalisation of `[B, C, H, W]`. Its tensors have the same names whichever it is.
#[derive(Module, Debug)]
pub enum Norm {
    /// Batch norm.
    Batch(BatchNorm),
    /// Group norm.
    Group(GroupNorm),
}

impl Norm {
    /// Builds the layer.
    pub fn new(channels: usize, kind: NormKind, device: &Device) -> Self {
        match kind {
            NormKind::Frozen => Self::Batch(BatchNorm::new(channels, Statistics::Frozen, device)),
            NormKind::Batch => Self::Batch(BatchNorm::new(channels, Statistics::Batch, device)),
            NormKind::Group => {
                let groups = (1..=32.min(channels / 8).max(1)).rev().find(|groups| channels.is_multiple_of(*groups));
                Self::Group(GroupNorm::new(groups.unwrap_or(1), channels, 1e-5, device))
            }
        }
    }

    /// # Shapes
    /// `[B, C, H, W]` to the same.
    pub fn forward(&self, x: Tensor<4>, pass: &Pass) -> Tensor<4> {
        match self {
            Self::Batch(norm) => norm.forward(x, pass),
            Self::Group(norm) => norm.forward(x),
        }
    }

    /// Applies a convolution and then this norm, in one pass where that is possible.
    pub fn after(&self, convolution: &Conv2d, x: Tensor<4>, pass: &Pass) -> Tensor<4> {
        match self {
            Self::Batch(norm) => convolution.forward_norm(norm, x, pass),
            Self::Group(norm) => norm.forward(convolution.forward(x)),
        }
    }
}

/// The largest value of each square window; `ceil_mode` keeps a last window that reaches over the edge.
pub fn max_pool2d(x: Tensor<4>, kernel: usize, stride: usize, padding: usize, ceil_mode: bool) -> Tensor<4> {
    let options =
        MaxPoolOptions::new([kernel; 2]).with_stride([stride; 2]).with_padding([padding; 2]).with_ceil_mode(ceil_mode);
    module::max_pool2d(x, options)
}

/// Resizes bilinearly to `[height, width]`, as torch's `interpolate(size = ..)` (SPEC 0.4).
pub fn bilinear(x: Tensor<4>, size: [usize; 2], align_corners: bool) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    if [height, width] == size {
        return x;
    }
    let options =
        InterpolateOptions::new(InterpolateMode::Bilinear).with_align_corners(align_corners).with_output_size(size);
    module::interpolate(x, options)
}

/// A trainable parameter of zeros.
pub fn zeros<const D: usize>(shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
    Param::from_tensor(Tensor::zeros(shape, device))
}
