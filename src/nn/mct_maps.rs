//! The maps of one image from MCTformer's attention and patches, over scales and mirror images (SPEC 4.5). Knows no training.

use burn::tensor::{Device, Tensor, activation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::artifact::maps::stride4;
use crate::image::normalise::normalise;
use crate::image::resize::{Coordinates, interpolate_bilinear, resize_rgb, scaled_size};
use crate::image::{Maps, Rgb};
use crate::nn::cam::{ClassMaps, Views, batch};
use crate::nn::mctformer::{MctFormer, Outputs, Version};
use crate::nn::pass::Pass;

/// Added to a map's range before dividing by it (SPEC 4.5).
const EPSILON: f32 = 1e-8;

/// What maps are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fuse {
    /// Attention times patch map, of `plus` its square root
    #[default]
    Fused,
    /// The patch map alone
    Patchcam,
    /// The attention of class tokens to patches alone
    Mct,
}

/// How maps are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// The number of last blocks whose attention of class tokens is used.
    pub layers: usize,
    /// What maps are made of. V1 has attention only.
    pub fuse: Fuse,
    /// Whether the attention between patches, of all blocks, spreads the maps once.
    pub refine: bool,
}

impl Recipe {
    /// The reference's: the last 3 blocks, of Plus all 12, fused and refined (SPEC 4.5).
    pub fn new(version: Version) -> Self {
        Self { layers: if version == Version::Plus { 12 } else { 3 }, fuse: Fuse::Fused, refine: true }
    }
}

/// Returns the maps of a forward pass that kept its attention: before and after the attention between patches spreads them.
///
/// # Shapes
/// Two of `[B, C, h, w]`; `rows` and `columns` are `h` and `w`.
pub fn of_outputs(
    outputs: &Outputs,
    version: Version,
    recipe: Recipe,
    [rows, columns]: [usize; 2],
) -> (Tensor<4>, Tensor<4>) {
    let sum = |parts: &[Tensor<3>]| {
        parts.iter().cloned().reduce(|sum, part| sum + part).expect("the network has blocks and keeps their attention")
    };
    let [batch, classes] = outputs.class_logits.dims();
    let patches = rows * columns;
    let blocks = outputs.attention.len();
    let used = recipe.layers.clamp(1, blocks);
    let attention = sum(&outputs.attention[blocks - used..]);
    let attention = if version == Version::Plus { attention / used as f64 } else { attention };
    let class_attention = attention.narrow(1, 0, classes).narrow(2, classes, patches);
    let class_attention = class_attention.reshape([batch, classes, rows, columns]);
    let patch_map = outputs.patch_map.clone().map(activation::relu);
    let maps = match (patch_map, recipe.fuse) {
        (None, _) | (Some(_), Fuse::Mct) => class_attention,
        (Some(map), Fuse::Patchcam) => map,
        (Some(map), Fuse::Fused) if version == Version::Plus => (class_attention * map).sqrt(),
        (Some(map), Fuse::Fused) => class_attention * map,
    };
    let affinity = sum(&outputs.attention).narrow(1, classes, patches).narrow(2, classes, patches);
    // Row i of the affinity says how much of each patch j comes to patch i.
    let flat = maps.clone().reshape([batch, classes, patches]);
    let refined = flat.matmul(affinity.swap_dims(1, 2)).reshape([batch, classes, rows, columns]);
    (maps, refined)
}

/// Returns the maps of one image for `labels`, each stretched to [0, 1]; those at stride 4 are resized from those at full size.
pub fn maps(
    network: &MctFormer,
    image: &Rgb,
    labels: &[u8],
    recipe: Recipe,
    views: &Views,
    device: &Device,
) -> ClassMaps {
    let (height, width) = (image.height(), image.width());
    if labels.is_empty() {
        return ClassMaps::none(height, width);
    }
    let mut total = Maps::zeros(labels.len(), height, width);
    for &scale in &views.scales {
        let size = scaled_size(height, width, scale);
        let pixels = normalise(&resize_rgb(image, size.0, size.1, views.filter));
        let x = batch([&pixels].into_iter(), device);
        let x = if views.flip { Tensor::cat(vec![x.clone(), x.flip([3])], 0) } else { x };
        let count = x.dims()[0];
        let patch = network.config().patch;
        let (rows, columns) = (size.0 / patch, size.1 / patch);
        let outputs = network.forward(x, true, &Pass::inference());
        let (plain, refined) = of_outputs(&outputs, network.config().version, recipe, [rows, columns]);
        let maps = if recipe.refine { refined } else { plain };
        let [_, classes, _, _] = maps.dims();
        let values: Vec<f32> = maps.into_data().iter::<f32>().collect();
        let plane = rows * columns;
        for view in 0..count {
            let own = &values[view * classes * plane..][..classes * plane];
            let present = labels.iter().flat_map(|&label| own[usize::from(label) * plane..][..plane].iter().copied());
            let present = Maps::new(labels.len(), rows, columns, present.collect());
            let resized = interpolate_bilinear(&present, height, width, Coordinates::HalfPixel);
            let rows = total.data_mut().chunks_exact_mut(width).zip(resized.data().chunks_exact(width));
            for (sums, values) in rows {
                for (index, sum) in sums.iter_mut().enumerate() {
                    *sum += if view == 1 { values[width - 1 - index] } else { values[index] };
                }
            }
        }
    }
    for channel in 0..total.channels() {
        let values = total.channel_mut(channel);
        let (low, high) =
            values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &v| (low.min(v), high.max(v)));
        for value in values {
            *value = (*value - low) / (high - low + EPSILON);
        }
    }
    let cam = interpolate_bilinear(&total, stride4(height), stride4(width), Coordinates::HalfPixel);
    ClassMaps { cam, high_res: total }
}
