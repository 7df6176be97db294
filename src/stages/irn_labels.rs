//! `irn.labels`: from maps and images to the labels that IRN learns from, by two passes of a dense CRF. The labels themselves are
//! made in `image::ir_label`.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::io;
use crate::artifact::masks;
use crate::image::crf::{Bilateral, Gaussian, Kernels};
use crate::image::ir_label::{IrLabelParams, ir_label};
use crate::image::large;
use crate::image::resize::{Nearest, nearest_mask, shrink_maps};
use crate::kind::Kind;
use crate::stage::{Ctx, Inputs, Output, Port, Spec, Stage, StageError, Work};

/// Parameters; the defaults are those of IRN and ORANDNet (SPEC 7.1 to 7.3).
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Params {
    /// A pixel is an object where a map exceeds this, 0 to 1
    #[schemars(range(min = 0.0, max = 1.0))]
    conf_fg: f32,
    /// A pixel is background where no map exceeds this, 0 to `conf_fg`
    ///
    /// What lies between the two is left open (index 255).
    #[schemars(range(min = 0.0, max = 1.0))]
    conf_bg: f32,
    /// How far the CRF believes each pass, as a probability, 0 to 1
    gt_prob: f32,
    /// Mean field iterations of the CRF
    iterations: usize,
    /// Smoothness kernel: standard deviation, in pixels
    gaussian_sxy: f32,
    /// Smoothness kernel: weight
    gaussian_compat: f32,
    /// Appearance kernel: standard deviation in position, in pixels
    bilateral_sxy: f32,
    /// Appearance kernel: standard deviation in colour, in steps of 8-bit RGB
    bilateral_srgb: f32,
    /// Appearance kernel: weight
    bilateral_compat: f32,
    /// Images and maps of more pixels are shrunk to so many before the CRF, and labels enlarged: the widths of its kernels are those
    /// for images of 300 to 500 pixels a side, and its memory grows with the pixels
    #[schemars(range(min = 1))]
    max_pixels: usize,
}

impl Default for Params {
    fn default() -> Self {
        let IrLabelParams { conf_fg, conf_bg, kernels, gt_prob, iterations } = IrLabelParams::default();
        Self {
            conf_fg,
            conf_bg,
            gt_prob,
            iterations,
            gaussian_sxy: kernels.gaussian.sxy,
            gaussian_compat: kernels.gaussian.compat,
            bilateral_sxy: kernels.bilateral.sxy,
            bilateral_srgb: kernels.bilateral.srgb,
            bilateral_compat: kernels.bilateral.compat,
            max_pixels: large::MAX_PIXELS,
        }
    }
}

impl Params {
    fn of_image(&self) -> IrLabelParams {
        IrLabelParams {
            conf_fg: self.conf_fg,
            conf_bg: self.conf_bg,
            kernels: Kernels {
                gaussian: Gaussian { sxy: self.gaussian_sxy, compat: self.gaussian_compat },
                bilateral: Bilateral {
                    sxy: self.bilateral_sxy,
                    srgb: self.bilateral_srgb,
                    compat: self.bilateral_compat,
                },
            },
            gt_prob: self.gt_prob,
            iterations: self.iterations,
        }
    }
}

/// The stage.
pub(super) struct IrnLabels;

impl Stage for IrnLabels {
    type Params = Params;

    const SPEC: Spec = Spec {
        name: "irn.labels",
        about: "Labels for IRN: sure objects, sure background, and 255 between, from maps and a dense CRF",
        // 2: JPEGs decode to the pixels of libjpeg-turbo.
        // 3: masks are deflated in another way.
        revision: 3,
        inputs: &[
            Port { name: "images", takes: &[Kind::ImageSet], optional: false, about: "the images" },
            Port { name: "cams", takes: &[Kind::CamSet], optional: false, about: "their maps" },
        ],
        output: Kind::SeedSet,
        work: Work::PerImage,
        seeded: false,
    };

    fn check(params: &Params) -> Result<(), StageError> {
        for (name, value) in [("conf_fg", params.conf_fg), ("conf_bg", params.conf_bg)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(StageError::parameter(name, format!("maps lie in 0 to 1, and {value} does not")));
            }
        }
        if params.conf_bg > params.conf_fg {
            let message = format!("{} is above `conf_fg`, which is {}", params.conf_bg, params.conf_fg);
            return Err(StageError::parameter("conf_bg", message));
        }
        if !(params.gt_prob > 0.0 && params.gt_prob < 1.0) {
            let message = format!("{} is not a probability between 0 and 1", params.gt_prob);
            return Err(StageError::parameter("gt_prob", message));
        }
        for (name, value) in [
            ("gaussian_sxy", params.gaussian_sxy),
            ("bilateral_sxy", params.bilateral_sxy),
            ("bilateral_srgb", params.bilateral_srgb),
        ] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(StageError::parameter(name, format!("{value} is not above 0")));
            }
        }
        if params.max_pixels == 0 {
            return Err(StageError::parameter("max_pixels", "`max_pixels` is 0, but must be at least 1"));
        }
        Ok(())
    }

    fn meta(_params: &Params, inputs: &Inputs) -> Result<serde_json::Value, StageError> {
        let classes = io::common_classes(inputs, &["images", "cams"])?;
        io::check_covers(inputs, "cams", "images")?;
        Ok(serde_json::json!({ "classes": classes }))
    }

    fn run(params: &Params, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let (images, cams) = (io::images(ctx, "images")?, io::maps(ctx, "cams")?);
        let class_count = io::classes(ctx.inputs.get("images"), "images")?.len();
        let (max_pixels, params) = (params.max_pixels, params.of_image());
        let labels = io::in_order(images.par_iter().map(|entry| {
            ctx.check_cancelled()?;
            let maps = cams.get(&entry.id)?;
            io::check_maps(&maps, (entry.height, entry.width), class_count)?;
            let image = io::pixels(ctx, entry)?;
            let image = large::shrunk(&image, max_pixels);
            let (height, width) = (image.height(), image.width());
            let label = if (height, width) == (entry.height, entry.width) {
                ir_label(&image, &maps.high_res, &maps.classes, &params)
            } else {
                let small = shrink_maps(&maps.high_res, height, width);
                let label = ir_label(&image, &small, &maps.classes, &params);
                label.map(|label| nearest_mask(&label, entry.height, entry.width, Nearest::Pillow))
            };
            let label = label.map_err(|error| StageError::data(format!("image `{}`: {error}", entry.id)))?;
            Ok((entry.id.clone(), label))
        }))?;
        let ids = labels.iter().map(|(id, _)| id.clone()).collect();
        Ok(Output::shard(ids, masks::encode(&labels)))
    }
}
