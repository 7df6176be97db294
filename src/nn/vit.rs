//! Vision transformers (Dosovitskiy et al. 2021) in DeiT's layout: the classifier of SPEC 2.1.
//!
//! Names of parameters are those of the reference program's state_dict. What a decision rests on is in
//! [`crate::nn::attribution`].

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation};
use serde::{Deserialize, Serialize};

use crate::artifact::weights::{NamedTensors, Values};
use crate::image::Maps;
use crate::image::resize::{Coordinates, interpolate_bilinear};
use crate::nn::fused::{gelu, softmax};
use crate::nn::init::{self, Init};
use crate::nn::layers::{Conv2d, ConvSpec, LayerNorm, Linear, Norm, NormKind, zeros};
use crate::nn::pass::Pass;
use crate::nn::precision::matmul;

/// What turns pixels into tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stem {
    /// One convolution with a stride as large as its kernel.
    Patch,
    /// 3x3 convolutions with stride 2, batch norm and ReLU, then a 1x1 convolution (Xiao et al. 2021): learns from far fewer
    /// images.
    Convolution,
}

/// The shape of a network of the family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Side of the square input in pixels.
    pub image: usize,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Length of a token.
    pub width: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads of a block.
    pub heads: usize,
    /// The stem.
    pub stem: Stem,
}

impl Config {
    /// DeiT-B/16 at 512 pixels (SPEC 2.1).
    pub fn base() -> Self {
        Self { image: 512, patch: 16, width: 768, depth: 12, heads: 12, stem: Stem::Patch }
    }

    /// A small network for images of about 160 pixels, trained from the seed.
    pub fn tiny() -> Self {
        Self { image: 160, patch: 8, width: 128, depth: 4, heads: 4, stem: Stem::Convolution }
    }

    /// Returns the number of patches along each side.
    pub fn grid(&self) -> usize {
        self.image / self.patch
    }
}

/// Pixels to tokens.
#[derive(Module, Debug)]
pub struct PatchEmbed {
    stem: Vec<(Conv2d, Norm)>,
    proj: Conv2d,
}

impl PatchEmbed {
    pub(super) fn new(config: &Config, device: &Device) -> Self {
        if config.stem == Stem::Patch {
            let proj = ConvSpec::new(3, config.width, config.patch).stride(config.patch).bias().build(device);
            return Self { stem: Vec::new(), proj };
        }
        let steps = config.patch.trailing_zeros();
        let mut input = 3;
        let stem = (0..steps)
            .map(|step| {
                let output = (config.width >> (steps - 1 - step)).max(16);
                let conv = ConvSpec::new(input, output, 3).stride(2).padding(1).build(device);
                input = output;
                (conv, Norm::new(output, NormKind::Batch, device))
            })
            .collect();
        Self { stem, proj: ConvSpec::new(input, config.width, 1).bias().build(device) }
    }

    /// `[B, 3, H, W]` to `[B, patches, width]`, patches row by row.
    pub(super) fn forward(&self, x: Tensor<4>, pass: &Pass) -> Tensor<3> {
        let x = self.stem.iter().fold(x, |x, (conv, norm)| activation::relu(norm.after(conv, x, pass)));
        flat(self.proj.forward(x))
    }
}

/// `[B, C, H, W]` to `[B, H W, C]`.
fn flat(x: Tensor<4>) -> Tensor<3> {
    let [batch, width, rows, columns] = x.dims();
    x.reshape([batch, width, rows * columns]).swap_dims(1, 2)
}

/// Multi-head self-attention.
#[derive(Module, Debug)]
pub struct Attention {
    pub(super) qkv: Linear,
    pub(super) proj: Linear,
}

/// The two layers after attention.
#[derive(Module, Debug)]
pub struct Mlp {
    pub(super) fc1: Linear,
    pub(super) fc2: Linear,
}

/// One block: `x += attention(norm1(x)); x += mlp(norm2(x))`.
#[derive(Module, Debug)]
pub struct Block {
    norm1: LayerNorm,
    pub(super) attn: Attention,
    norm2: LayerNorm,
    pub(super) mlp: Mlp,
    #[module(skip)]
    heads: usize,
}

/// What attribution needs of a block's forward pass; tokens are `[B, N, width]`, heads `[B, heads, N, d]`.
pub(super) struct Trace {
    /// Input of the block, and after norm.
    pub(super) x0: Tensor<3>,
    pub(super) n1: Tensor<3>,
    /// Queries, keys, values.
    pub(super) q: Tensor<4>,
    pub(super) k: Tensor<4>,
    pub(super) v: Tensor<4>,
    /// `q kᵀ`, unscaled, and its softmax: `[B, heads, N, N]`.
    pub(super) dots: Tensor<4>,
    pub(super) attention: Tensor<4>,
    /// `attention v`, split and merged.
    pub(super) heads: Tensor<4>,
    pub(super) merged: Tensor<3>,
    /// Output of the attention layer, and the sum with the input.
    pub(super) y: Tensor<3>,
    pub(super) x1: Tensor<3>,
    /// After the second norm, after GELU, and output of the second linear layer.
    pub(super) n2: Tensor<3>,
    pub(super) g: Tensor<3>,
    pub(super) z: Tensor<3>,
}

impl Trace {
    /// Leaves automatic differentiation.
    pub(super) fn inner(self) -> Self {
        Self {
            x0: self.x0.inner(),
            n1: self.n1.inner(),
            q: self.q.inner(),
            k: self.k.inner(),
            v: self.v.inner(),
            dots: self.dots.inner(),
            attention: self.attention.inner(),
            heads: self.heads.inner(),
            merged: self.merged.inner(),
            y: self.y.inner(),
            x1: self.x1.inner(),
            n2: self.n2.inner(),
            g: self.g.inner(),
            z: self.z.inner(),
        }
    }
}

impl Block {
    /// The reference's blocks have epsilon 1e-6 and its final norm 1e-5 (SPEC 2.1).
    pub(super) const EPSILON: f64 = 1e-6;

    pub(super) fn new(config: &Config, device: &Device) -> Self {
        let width = config.width;
        Self {
            norm1: LayerNorm::new(width, Self::EPSILON, device),
            attn: Attention { qkv: Linear::new(width, 3 * width, device), proj: Linear::new(width, width, device) },
            norm2: LayerNorm::new(width, Self::EPSILON, device),
            mlp: Mlp { fc1: Linear::new(width, 4 * width, device), fc2: Linear::new(4 * width, width, device) },
            heads: config.heads,
        }
    }

    /// Returns the number of heads.
    pub(super) fn heads(&self) -> usize {
        self.heads
    }

    /// Runs the block. `probe`, zeros of the attention's shape, is added to the attention, so that its gradient is the
    /// attention's.
    pub(super) fn forward(&self, x0: Tensor<3>, probe: Option<Tensor<4>>) -> (Tensor<3>, Trace) {
        let n1 = self.norm1.forward(x0.clone());
        let [batch, count, width] = n1.dims();
        let depth = width / self.heads;
        // [B, N, 3 width] -> [3, B, heads, N, d]
        let qkv = self.attn.qkv.forward(n1.clone()).reshape([batch, count, 3, self.heads, depth]);
        let qkv = qkv.permute([2, 0, 3, 1, 4]);
        let part = |index: usize| qkv.clone().narrow(0, index, 1).squeeze_dim::<4>(0);
        let (q, k, v) = (part(0), part(1), part(2));
        let dots = matmul(q.clone(), k.clone().swap_dims(2, 3));
        let attention = softmax(dots.clone(), (depth as f64).sqrt().recip());
        let attention = match probe {
            Some(probe) => attention + probe,
            None => attention,
        };
        let heads = matmul(attention.clone(), v.clone());
        let merged = merge(heads.clone());
        let y = self.attn.proj.forward(merged.clone());
        let x1 = x0.clone() + y.clone();
        let n2 = self.norm2.forward(x1.clone());
        let g = gelu(self.mlp.fc1.forward(n2.clone()));
        let z = self.mlp.fc2.forward(g.clone());
        let x2 = x1.clone() + z.clone();
        (x2, Trace { x0, n1, q, k, v, dots, attention, heads, merged, y, x1, n2, g, z })
    }
}

impl Block {
    /// Runs the block, each branch of which is left out of some images with probability `skipped` in training. Also returns
    /// the attention, `[B, heads, N, N]`.
    pub(super) fn forward_dropping(&self, x: Tensor<3>, skipped: f64, pass: &Pass) -> (Tensor<3>, Tensor<4>) {
        if !pass.is_training() || skipped <= 0.0 {
            let (out, trace) = self.forward(x, None);
            return (out, trace.attention);
        }
        let (y, attention) = self.attend(self.norm1.forward(x.clone()));
        let x = x + pass.drop_path(y, skipped);
        let z = self.mlp.fc2.forward(gelu(self.mlp.fc1.forward(self.norm2.forward(x.clone()))));
        (x + pass.drop_path(z, skipped), attention)
    }

    fn attend(&self, x: Tensor<3>) -> (Tensor<3>, Tensor<4>) {
        let [batch, count, width] = x.dims();
        let depth = width / self.heads;
        let qkv = self.attn.qkv.forward(x).reshape([batch, count, 3, self.heads, depth]).permute([2, 0, 3, 1, 4]);
        let part = |index: usize| qkv.clone().narrow(0, index, 1).squeeze_dim::<4>(0);
        let dots = matmul(part(0), part(1).swap_dims(2, 3));
        let attention = softmax(dots, (depth as f64).sqrt().recip());
        (self.attn.proj.forward(merge(matmul(attention.clone(), part(2)))), attention)
    }
}

/// `[B, heads, N, d]` to `[B, N, heads d]`.
pub(super) fn merge(heads: Tensor<4>) -> Tensor<3> {
    let [batch, count, tokens, depth] = heads.dims();
    heads.swap_dims(1, 2).reshape([batch, tokens, count * depth])
}

/// The classifier.
#[derive(Module, Debug)]
pub struct VitCam {
    pub(super) pos_embed: Param<Tensor<3>>,
    pub(super) cls_token: Param<Tensor<3>>,
    patch_embed: PatchEmbed,
    pub(super) blocks: Vec<Block>,
    norm: LayerNorm,
    pub(super) head: Linear,
}

impl VitCam {
    /// Builds the network for `classes` classes with values drawn from `seed`.
    pub fn new(config: &Config, classes: usize, seed: u64, device: &Device) -> Self {
        Self::with_places(config, config.grid() * config.grid(), classes, seed, device)
    }

    /// As [`Self::new`], for images of `places` patches whatever `config.image` says, so that they need not be square.
    pub fn with_places(config: &Config, places: usize, classes: usize, seed: u64, device: &Device) -> Self {
        let network = Self {
            pos_embed: zeros([1, places + 1, config.width], device),
            cls_token: zeros([1, 1, config.width], device),
            patch_embed: PatchEmbed::new(config, device),
            blocks: (0..config.depth).map(|_| Block::new(config, device)).collect(),
            norm: LayerNorm::new(config.width, 1e-5, device),
            head: Linear::new(config.width, classes, device),
        };
        init::seeded(network, seed, |name, shape| match name {
            "pos_embed" | "cls_token" => Init::TruncatedNormal(0.02),
            _ => init::usual(name, shape),
        })
    }

    /// Returns logits.
    ///
    /// # Shapes
    /// `[B, 3, image, image]` to `[B, C]`.
    pub fn logits(&self, x: Tensor<4>, pass: &Pass) -> Tensor<2> {
        let tokens = self.blocks.iter().fold(self.tokens(x, pass), |tokens, block| block.forward(tokens, None).0);
        self.classify(tokens).1
    }

    /// `[B, 3, image, image]` to `[B, N, width]`: the class token, then the patches row by row, with their places added.
    pub(super) fn tokens(&self, x: Tensor<4>, pass: &Pass) -> Tensor<3> {
        let patches = self.patch_embed.forward(x, pass);
        let [batch, _, width] = patches.dims();
        let class = self.cls_token.val().expand([batch, 1, width]);
        Tensor::cat(vec![class, patches], 1) + self.pos_embed.val()
    }

    /// The class token after the final norm, `[B, width]`, and the logits, `[B, C]`.
    pub(super) fn classify(&self, tokens: Tensor<3>) -> (Tensor<2>, Tensor<2>) {
        let class = self.norm.forward(tokens.narrow(1, 0, 1).squeeze_dim::<2>(1));
        (class.clone(), self.head.forward(class))
    }
}

/// Resizes the places of patches in `tensors` to `grid` along each side, bilinearly, as the reference program does when it
/// takes over DeiT's weights (SPEC 2.1). Does nothing where they fit already or are no square.
pub fn resize_places(tensors: &mut NamedTensors, grid: usize) {
    let Some(places) = tensors.get_mut("pos_embed") else { return };
    let &[1, count, width] = places.shape.as_slice() else { return };
    let side = count.saturating_sub(1).isqrt();
    if side == grid || side * side + 1 != count || side == 0 {
        return;
    }
    let (class, patches) = places.data.split_at(width);
    // [side side, width] -> [width, side, side]
    let planes = (0..width).flat_map(|c| (0..side * side).map(move |p| patches[p * width + c])).collect();
    let planes = Maps::new(width, side, side, planes);
    let resized = interpolate_bilinear(&planes, grid, grid, Coordinates::HalfPixel);
    let back = (0..grid * grid).flat_map(|p| (0..width).map(move |c| (c, p)));
    let data = class.iter().copied().chain(back.map(|(c, p)| resized.channel(c)[p])).collect();
    *places = Values { shape: vec![1, grid * grid + 1, width], data };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{device, params};

    #[test]
    fn the_base_network_has_the_names_and_the_size_of_the_reference() {
        let device = device::named("cpu").expect("always there");
        let shapes = params::shapes(&VitCam::new(&Config::base(), 20, 0, &device));
        assert_eq!(shapes.len(), 152);
        assert_eq!(shapes.values().map(|shape| shape.iter().product::<usize>()).sum::<usize>(), 86_449_940);
        assert_eq!(shapes["blocks.11.mlp.fc1.weight"], [3072, 768]);
        assert_eq!(shapes["pos_embed"], [1, 1025, 768]);
    }

    #[test]
    fn places_keep_their_class_row_and_a_linear_ramp() {
        let data: Vec<f32> = vec![9.0, 0.0, 1.0, 0.0, 1.0];
        let mut tensors = NamedTensors::from([("pos_embed".to_owned(), Values { shape: vec![1, 5, 1], data })]);
        resize_places(&mut tensors, 4);
        let places = &tensors["pos_embed"];
        assert_eq!(places.shape, [1, 17, 1]);
        assert_eq!(places.data[..5], [9.0, 0.0, 0.25, 0.75, 1.0]);
    }
}
