//! MCTformer V1, V2 and Plus: vision transformers with a token for each class, whose attention to the patches makes maps (Xu et
//! al. 2022 and 2024; SPEC 4). Knows images as tensors; the maps of an image over scales are in [`crate::nn::mct_maps`].
//!
//! Names of parameters are those of the reference programs' state_dict, parameters that no output depends on included.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData, activation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::artifact::weights::{NamedTensors, Values};
use crate::image::Maps;
use crate::image::resize::{Coordinates, interpolate_bicubic};
use crate::nn::init::{self, Init};
use crate::nn::layers::{Conv2d, ConvSpec, LayerNorm, Linear, zeros};
use crate::nn::loss::multilabel_soft_margin;
use crate::nn::pass::Pass;
use crate::nn::vit::{self, Block, PatchEmbed, Stem};

/// Which network of the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Version {
    /// Class tokens alone
    V1,
    /// Class tokens and a convolution over the patches
    V2,
    /// As `v2`, with ranked pooling of the patches and class tokens that are told apart
    Plus,
}

impl Version {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::V1, Self::V2, Self::Plus];

    /// Returns the name of this architecture in `Weights`.
    pub fn arch(self) -> &'static str {
        match self {
            Self::V1 => "mctformer_v1",
            Self::V2 => "mctformer_v2",
            Self::Plus => "mctformer_plus",
        }
    }
}

/// Sizes of a network of the family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Which network.
    pub version: Version,
    /// Side of the square input of trainings in pixels; its patches have the stored places.
    pub image: usize,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Length of a token.
    pub width: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads of a block.
    pub heads: usize,
    /// What turns pixels into tokens.
    pub stem: Stem,
    /// Probability with which the last block's branches are skipped in training; it rises linearly from 0 at the first.
    pub drop_path: f64,
}

impl Config {
    /// The reference's network over DeiT-S/16 (SPEC 4.1): V1 and V2 at 224 pixels, Plus at 448.
    pub fn small(version: Version) -> Self {
        let image = if version == Version::Plus { 448 } else { 224 };
        Self { version, image, patch: 16, width: 384, depth: 12, heads: 6, stem: Stem::Patch, drop_path: 0.1 }
    }

    /// A small network for images of about 64 pixels, trained from the seed.
    pub fn tiny(version: Version) -> Self {
        Self { version, image: 64, patch: 8, width: 96, depth: 4, heads: 4, stem: Stem::Convolution, drop_path: 0.0 }
    }

    /// Returns the number of patches along each side of a training image.
    pub fn grid(&self) -> usize {
        self.image / self.patch
    }
}

/// What follows the blocks.
#[derive(Module, Debug)]
enum Head {
    /// V1's, which no output depends on.
    Linear(Linear),
    /// A 3x3 convolution from patches to classes.
    Convolution(Conv2d),
}

/// The network.
#[derive(Module, Debug)]
pub struct MctFormer {
    cls_token: Param<Tensor<3>>,
    /// Of V1 and V2: class tokens, then patches. Of Plus: what DeiT left over, which no output depends on.
    pos_embed: Param<Tensor<3>>,
    pos_embed_cls: Option<Param<Tensor<3>>>,
    pos_embed_pat: Option<Param<Tensor<3>>>,
    patch_embed: PatchEmbed,
    blocks: Vec<Block>,
    /// Which no output depends on.
    norm: LayerNorm,
    head: Head,
    #[module(skip)]
    config: Config,
}

/// What a forward pass gives. `h` and `w` count patches, `N` is the number of classes and patches.
pub struct Outputs {
    /// `[B, C]`: the mean of each class token.
    pub class_logits: Tensor<2>,
    /// `[B, C]`, of V2 and Plus: the pooled patch map.
    pub patch_logits: Option<Tensor<2>>,
    /// `[B, C, h, w]`, of V2 and Plus: the convolution over the patches.
    pub patch_map: Option<Tensor<4>>,
    /// The attention of each block, averaged over its heads: `[B, N, N]`. Empty unless asked for.
    pub attention: Vec<Tensor<3>>,
    /// The class tokens after each block: `[B, C, width]`.
    pub class_tokens: Vec<Tensor<3>>,
}

/// Plus pools ranked values with weights that fall by this factor (SPEC 4.3).
const RANK_DECAY: f64 = 0.996;

/// DeiT's number of places at 224 pixels, which Plus keeps unused.
const LEFT_OVER: usize = 197;

impl MctFormer {
    /// Builds the network for `classes` classes with values drawn from `seed`.
    pub fn new(config: &Config, classes: usize, seed: u64, device: &Device) -> Self {
        let places = config.grid() * config.grid();
        let width = config.width;
        let plus = config.version == Version::Plus;
        let body = vit::Config {
            image: config.image,
            patch: config.patch,
            width,
            depth: config.depth,
            heads: config.heads,
            stem: config.stem,
        };
        let head = match config.version {
            Version::V1 => Head::Linear(Linear::new(width, classes, device)),
            Version::V2 | Version::Plus => {
                Head::Convolution(ConvSpec::new(width, classes, 3).padding(1).bias().build(device))
            }
        };
        let network = Self {
            cls_token: zeros([1, classes, width], device),
            pos_embed: zeros([1, if plus { LEFT_OVER } else { classes + places }, width], device),
            pos_embed_cls: plus.then(|| zeros([1, classes, width], device)),
            pos_embed_pat: plus.then(|| zeros([1, places, width], device)),
            patch_embed: PatchEmbed::new(&body, device),
            blocks: (0..config.depth).map(|_| Block::new(&body, device)).collect(),
            norm: LayerNorm::new(width, Block::EPSILON, device),
            head,
            config: config.clone(),
        };
        init::seeded(network, seed, |name, shape| match name {
            "pos_embed" | "cls_token" | "pos_embed_cls" | "pos_embed_pat" => Init::TruncatedNormal(0.02),
            "head.weight" if shape.len() == 4 => Init::KaimingUniform,
            _ => init::usual(name, shape),
        })
    }

    /// Returns its sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the number of classes.
    pub fn classes(&self) -> usize {
        self.cls_token.dims()[1]
    }

    /// Runs the network.
    ///
    /// # Shapes
    /// `[B, 3, H, W]`; what does not fill a patch right and below is not seen.
    ///
    /// # Panics
    /// If a training pass of Plus has an image of another size than its configuration's.
    pub fn forward(&self, x: Tensor<4>, want_attention: bool, pass: &Pass) -> Outputs {
        let [batch, _, height, width] = x.dims();
        let patch = self.config.patch;
        let (rows, columns) = (height / patch, width / patch);
        let x = x.narrow(2, 0, rows * patch).narrow(3, 0, columns * patch);
        let patches = self.patch_embed.forward(x, pass);
        let classes = self.classes();
        let length = self.config.width;
        let (class_places, patch_places) = self.places([height, width], [rows, columns], pass);
        let class = (self.cls_token.val() + class_places).expand([batch, classes, length]);
        let mut tokens = Tensor::cat(vec![class, patches + patch_places], 1);
        let (mut attention, mut class_tokens) = (Vec::new(), Vec::new());
        for (index, block) in self.blocks.iter().enumerate() {
            let skipped = self.config.drop_path * index as f64 / (self.blocks.len() - 1).max(1) as f64;
            let (next, weights) = block.forward_dropping(tokens, skipped, pass);
            tokens = next;
            if want_attention {
                attention.push(weights.mean_dim(1).squeeze_dim::<3>(1));
            }
            class_tokens.push(tokens.clone().narrow(1, 0, classes));
        }
        let class_logits = tokens.clone().narrow(1, 0, classes).mean_dim(2).squeeze_dim::<2>(2);
        let patch_map = match &self.head {
            Head::Linear(_) => None,
            Head::Convolution(head) => {
                let patches = tokens.narrow(1, classes, rows * columns).swap_dims(1, 2);
                Some(head.forward(patches.reshape([batch, length, rows, columns])))
            }
        };
        let patch_logits = patch_map.clone().map(|map| {
            let values = map.reshape([batch, classes, rows * columns]);
            if self.config.version == Version::Plus {
                ranked_mean(values)
            } else {
                values.mean_dim(2).squeeze_dim::<2>(2)
            }
        });
        Outputs { class_logits, patch_logits, patch_map, attention, class_tokens }
    }

    /// Returns the places of class tokens and of patches, the latter interpolated to the image (SPEC 4.2).
    fn places(&self, [height, width]: [usize; 2], [rows, columns]: [usize; 2], pass: &Pass) -> (Tensor<3>, Tensor<3>) {
        let grid = self.config.grid();
        let (class, patches) = match (&self.pos_embed_cls, &self.pos_embed_pat) {
            (Some(class), Some(patches)) => (class.val(), patches.val()),
            _ => {
                let (all, classes) = (self.pos_embed.val(), self.classes());
                (all.clone().narrow(1, 0, classes), all.narrow(1, classes, grid * grid))
            }
        };
        let plus = self.config.version == Version::Plus;
        let stored = rows * columns == grid * grid && height == width;
        if stored || (plus && pass.is_training()) {
            return (class, patches);
        }
        // V1 and V2 add a tenth of a patch to the size, so that torch rounds it to the wanted one, and then keep the factor.
        let extra = if plus { 0.0 } else { 0.1 };
        let factor = |count: usize| (count as f64 + extra) / grid as f64;
        let [_, count, length] = patches.dims();
        let device = patches.device();
        // [1, grid grid, width] -> [width, grid, grid]
        let planes: Vec<f32> = patches.swap_dims(1, 2).into_data().iter::<f32>().collect();
        debug_assert_eq!(planes.len(), count * length);
        let coordinates = Coordinates::ScaleFactor { vertical: factor(rows), horizontal: factor(columns) };
        let resized = interpolate_bicubic(&Maps::new(length, grid, grid, planes), rows, columns, coordinates);
        let data = TensorData::new(resized.into_data(), [1, length, rows * columns]);
        (class, Tensor::<3>::from_data(data, &device).swap_dims(1, 2))
    }
}

impl Outputs {
    /// Returns the training loss (SPEC 4.3), `[1]`: multilabel soft margin of class tokens, and of patches where there are any;
    /// with `contrast`, that many times the term that tells class tokens apart, which is Plus's.
    ///
    /// # Shapes
    /// `targets` is `[B, C]` in {0, 1}.
    pub fn loss(&self, targets: &Tensor<2>, contrast: f64) -> Tensor<1> {
        let mut loss = multilabel_soft_margin(self.class_logits.clone(), targets.clone());
        if let Some(logits) = &self.patch_logits {
            loss = loss + multilabel_soft_margin(logits.clone(), targets.clone());
        }
        if contrast > 0.0 { loss + self.contrast(targets) * contrast } else { loss }
    }

    /// Returns how unlike class tokens are: cross entropy of each present class's token against all tokens of its block, by the
    /// cosine of their angle; the mean over blocks and images, each image divided by its number of classes (SPEC 4.3).
    fn contrast(&self, targets: &Tensor<2>) -> Tensor<1> {
        let [batch, classes] = targets.dims();
        let mut sum = Tensor::<2>::zeros([batch, classes], &targets.device());
        for tokens in &self.class_tokens {
            let norm = (tokens.clone() * tokens.clone()).sum_dim(2).sqrt().clamp_min(1e-12);
            let unit = tokens.clone() / norm;
            let scores = unit.clone().matmul(unit.swap_dims(1, 2));
            // torch's cross entropy counts classes along the second dimension, which is the first of the scores' two.
            let log = activation::log_softmax(scores, 1);
            let diagonal = Tensor::<2>::eye(classes, &targets.device()).unsqueeze::<3>();
            sum = sum - (log * diagonal).sum_dim(1).squeeze_dim::<2>(1);
        }
        let per_image = (sum * targets.clone()).sum_dim(1) / self.class_tokens.len() as f64;
        (per_image / (targets.clone().sum_dim(1) + 1e-8)).mean()
    }
}

/// The mean of values sorted downwards, with weights that fall by [`RANK_DECAY`] from each to the next.
///
/// # Shapes
/// `[B, C, P]` to `[B, C]`.
fn ranked_mean(values: Tensor<3>) -> Tensor<2> {
    let [batch, classes, count] = values.dims();
    let plain: Vec<f32> = values.clone().into_data().iter::<f32>().collect();
    let weights: Vec<f64> = (0..count).map(|rank| RANK_DECAY.powi(i32::try_from(rank).unwrap_or(i32::MAX))).collect();
    let total: f64 = weights.iter().sum();
    let mut by_place = vec![0.0_f32; plain.len()];
    for (row, into) in plain.chunks_exact(count).zip(by_place.chunks_exact_mut(count)) {
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        for (rank, place) in order.into_iter().enumerate() {
            into[place] = (weights[rank] / total) as f32;
        }
    }
    let weights = Tensor::<3>::from_data(TensorData::new(by_place, [batch, classes, count]), &values.device());
    (values * weights).sum_dim(2).squeeze_dim::<2>(2)
}

/// Renames and repeats the tensors of DeiT for a network of this family (SPEC 4.4): every class token and its place start as
/// DeiT's one; places of patches are taken over, of V1 and V2 interpolated bicubically and of Plus repeated; DeiT's own head is
/// dropped, and the network keeps the head that it has drawn.
///
/// Returns `None` where these are not the tensors of a vision transformer with one class token.
pub fn from_deit(tensors: &NamedTensors, config: &Config, classes: usize) -> Option<NamedTensors> {
    let (token, places) = (tensors.get("cls_token")?, tensors.get("pos_embed")?);
    let &[1, 1, width] = token.shape.as_slice() else { return None };
    let &[1, count, _] = places.shape.as_slice() else { return None };
    let side = count.checked_sub(1)?.isqrt();
    if side == 0 || side * side + 1 != count || places.data.len() != count * width {
        return None;
    }
    let mut renamed = tensors.clone();
    renamed.retain(|name, _| !(name.starts_with("head.") || name.starts_with("head_dist.") || name == "dist_token"));
    let repeated = |row: &[f32]| Values { shape: vec![1, classes, width], data: row.repeat(classes) };
    renamed.insert("cls_token".to_owned(), repeated(&token.data));
    let (first, patches) = places.data.split_at(width);
    let grid = config.grid();
    let patches = if grid == side {
        patches.to_vec()
    } else if config.version == Version::Plus {
        let cells = (0..grid * grid).map(|cell| (cell / grid * side / grid) * side + cell % grid * side / grid);
        cells.flat_map(|cell| patches[cell * width..][..width].iter().copied()).collect()
    } else {
        let planes = (0..width).flat_map(|c| (0..side * side).map(move |cell| patches[cell * width + c])).collect();
        let resized = interpolate_bicubic(&Maps::new(width, side, side, planes), grid, grid, Coordinates::HalfPixel);
        (0..grid * grid)
            .flat_map(|cell| (0..width).map(move |c| (c, cell)))
            .map(|(c, cell)| resized.channel(c)[cell])
            .collect()
    };
    if config.version == Version::Plus {
        if count != LEFT_OVER {
            let data = vec![0.0; LEFT_OVER * width];
            renamed.insert("pos_embed".to_owned(), Values { shape: vec![1, LEFT_OVER, width], data });
        }
        renamed.insert("pos_embed_cls".to_owned(), repeated(first));
        renamed.insert("pos_embed_pat".to_owned(), Values { shape: vec![1, grid * grid, width], data: patches });
    } else {
        let data: Vec<f32> = first.repeat(classes).into_iter().chain(patches).collect();
        renamed.insert("pos_embed".to_owned(), Values { shape: vec![1, classes + grid * grid, width], data });
    }
    Some(renamed)
}

/// Returns the learning rate of each epoch as timm's cosine schedule gives it when it is stepped after the epoch (SPEC 4.4): up from
/// 1e-6 over 5 epochs, down to 1e-5, a step late, so that the first two epochs share the smallest rate.
pub fn epoch_rates(rate: f64, epochs: usize) -> Vec<f64> {
    const FIRST: f64 = 1e-6;
    const LAST: f64 = 1e-5;
    const RISE: usize = 5;
    let at = |epoch: usize| {
        if epoch < RISE {
            return FIRST + epoch as f64 * (rate - FIRST) / RISE as f64;
        }
        let turn = std::f64::consts::PI * epoch as f64 / epochs.max(1) as f64;
        LAST + 0.5 * (rate - LAST) * (1.0 + turn.cos())
    };
    (0..epochs).map(|epoch| at(epoch.saturating_sub(1))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::device;

    #[test]
    fn rates_rise_a_step_late() {
        let rates = epoch_rates(6.25e-5, 60);
        assert_eq!(rates.len(), 60);
        assert_eq!((rates[0], rates[1]), (1e-6, 1e-6));
        assert!((rates[2] - (1e-6 + 61.5e-6 / 5.0)).abs() < 1e-12);
        let sixth = 1e-5 + 0.5 * 5.25e-5 * (1.0 + (std::f64::consts::PI * 5.0 / 60.0).cos());
        assert!((rates[6] - sixth).abs() < 1e-12);
        assert!(rates[59] > 1e-5 && rates[59] < 1.1e-5);
    }

    #[test]
    fn ranked_values_weigh_less_and_less() {
        let device = device::named("cpu").expect("always there");
        let values = Tensor::<3>::from_floats([[[1.0_f32, 3.0, 2.0]]], &device);
        let want = (3.0 + 0.996 * 2.0 + 0.996 * 0.996) / (1.0 + 0.996 + 0.996 * 0.996);
        assert!((ranked_mean(values).into_scalar::<f32>() - want as f32).abs() < 1e-6);
    }

    #[test]
    fn deit_starts_every_network_of_the_family() {
        let device = device::named("cpu").expect("always there");
        let tiny = |version| Config { stem: Stem::Patch, ..Config::tiny(version) };
        let body = vit::Config { image: 32, patch: 8, width: 96, depth: 4, heads: 4, stem: Stem::Patch };
        let deit = crate::nn::params::export(&vit::VitCam::new(&body, 7, 3, &device));
        for version in [Version::V1, Version::V2, Version::Plus] {
            let config = tiny(version);
            let renamed = from_deit(&deit, &config, 3).expect("a vision transformer");
            let (network, report) = crate::nn::params::load(MctFormer::new(&config, 3, 0, &device), &renamed);
            let mut absent: Vec<&str> = report.missing.iter().map(String::as_str).collect();
            absent.sort_unstable();
            assert_eq!(absent, ["head.bias", "head.weight"], "{version:?}");
            assert!(report.unexpected.is_empty() && report.misshapen.is_empty(), "{version:?}: {report}");
            let places = network.places([64, 64], [8, 8], &Pass::inference());
            let first: Vec<f32> = deit["pos_embed"].data[..96].to_vec();
            assert_eq!(places.0.into_data().iter::<f32>().take(96).collect::<Vec<_>>(), first);
            assert_eq!(places.1.dims(), [1, 64, 96]);
        }
    }
}
