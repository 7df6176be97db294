//! `images.resize` and `mask.resize`: large photographs made small for the method, and its masks made large again.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::io;
use crate::artifact::images::{self, ImageEntry};
use crate::artifact::masks;
use crate::digest::Digest;
use crate::image::resize::{Filter, Nearest, nearest_mask, resize_rgb, scaled_size};
use crate::image::{LabelMap, codec};
use crate::kind::Kind;
use crate::stage::{Ctx, Inputs, Output, Port, Spec, Stage, StageError, Work};

/// Parameters of `images.resize`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ImagesParams {
    /// Longest side that an image may have, in pixels; smaller images stay as they are
    #[schemars(range(min = 1))]
    max_side: usize,
}

/// `images.resize`.
pub(super) struct Images;

impl Stage for Images {
    type Params = ImagesParams;

    const SPEC: Spec = Spec {
        name: "images.resize",
        about: "Shrink large images, and their ground truth, to a longest side: bicubic with antialiasing, masks by the nearest pixel",
        // 2: masks are deflated in another way.
        revision: 2,
        inputs: &[Port { name: "images", takes: &[Kind::ImageSet], optional: false, about: "the images" }],
        output: Kind::ImageSet,
        work: Work::PerImage,
        seeded: false,
    };

    fn meta(_params: &ImagesParams, inputs: &Inputs) -> Result<serde_json::Value, StageError> {
        io::classes(inputs.get("images"), "images")?;
        Ok(inputs.get("images").meta.clone())
    }

    fn run(params: &ImagesParams, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let entries = io::images(ctx, "images")?;
        let class_count = io::classes(ctx.inputs.get("images"), "images")?.len();
        let resized = io::in_order(entries.par_iter().map(|entry| {
            ctx.check_cancelled()?;
            shrunk(ctx, entry, params.max_side, class_count)
        }))?;
        let ids = entries.iter().map(|entry| entry.id.clone()).collect();
        let (entries, parts): (Vec<ImageEntry>, Vec<Parts>) = resized.into_iter().unzip();
        let mut output = Output::shard(ids, images::encode(&entries));
        output.parts.extend(parts.into_iter().flatten());
        Ok(output)
    }
}

/// New files with their names in the artifact.
type Parts = Vec<(String, Vec<u8>)>;

/// Returns an image's new entry with the files that are new with it.
fn shrunk(
    ctx: &Ctx<'_>,
    entry: &ImageEntry,
    max_side: usize,
    class_count: usize,
) -> Result<(ImageEntry, Parts), StageError> {
    let mut entry = entry.clone();
    let Some((height, width)) = smaller(entry.height, entry.width, max_side) else { return Ok((entry, Vec::new())) };
    let pixels = codec::encode_rgb(&resize_rgb(&io::pixels(ctx, &entry)?, height, width, Filter::PillowBicubic));
    let truth = io::truth(ctx, &entry, class_count)?;
    entry.image = Digest::of(&pixels);
    let mut parts = vec![(format!("image/{}.png", entry.id), pixels)];
    if let Some(truth) = truth {
        let mask = codec::encode_mask(&nearest_mask(&truth, height, width, Nearest::Pillow));
        entry.mask = Some(Digest::of(&mask));
        parts.push((format!("mask/{}.png", entry.id), mask));
    }
    (entry.height, entry.width) = (height, width);
    Ok((entry, parts))
}

/// Returns the size at which the longer side is `max_side`; `None` if it is not longer than that.
fn smaller(height: usize, width: usize, max_side: usize) -> Option<(usize, usize)> {
    let longest = height.max(width);
    (longest > max_side).then(|| scaled_size(height, width, max_side as f64 / longest as f64))
}

/// Parameters of `mask.resize`: none.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MasksParams {}

/// `mask.resize`.
pub(super) struct Masks;

impl Stage for Masks {
    type Params = MasksParams;

    const SPEC: Spec = Spec {
        name: "mask.resize",
        about: "Bring masks to the size of their images, by the nearest pixel",
        // 2: masks are deflated in another way.
        revision: 2,
        inputs: &[
            Port {
                name: "masks",
                takes: &[Kind::MaskSet],
                optional: false,
                about: "masks, such as those of smaller images",
            },
            Port {
                name: "images",
                takes: &[Kind::ImageSet],
                optional: false,
                about: "the images whose sizes the masks get, such as those that `images.resize` took",
            },
        ],
        output: Kind::MaskSet,
        work: Work::PerImage,
        seeded: false,
    };

    fn meta(_params: &MasksParams, inputs: &Inputs) -> Result<serde_json::Value, StageError> {
        io::common_classes(inputs, &["masks", "images"])?;
        io::check_covers(inputs, "masks", "images")?;
        // How the masks were made stays known, so that a threshold tuned on their ground truth goes on being marked.
        Ok(inputs.get("masks").meta.clone())
    }

    fn run(_params: &MasksParams, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let (masks, images) = (io::masks(ctx, "masks")?, io::images(ctx, "images")?);
        let resized: Vec<(String, LabelMap)> = io::in_order(images.par_iter().map(|entry| {
            ctx.check_cancelled()?;
            let mask = io::of_image(&masks, &entry.id, "masks")?;
            Ok((entry.id.clone(), nearest_mask(mask, entry.height, entry.width, Nearest::Pillow)))
        }))?;
        let ids = resized.iter().map(|(id, _)| id.clone()).collect();
        Ok(Output::shard(ids, masks::encode(&resized)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_side_decides() {
        assert_eq!(smaller(3000, 4000, 500), Some((375, 500)));
        assert_eq!(smaller(4000, 3000, 500), Some((500, 375)));
        assert_eq!(smaller(334, 500, 500), None);
        // 333 * 100 / 500 = 66.6, and a strip of one pixel stays one.
        assert_eq!(smaller(333, 500, 100), Some((67, 100)));
        assert_eq!(smaller(1, 9000, 100), Some((1, 100)));
    }
}
