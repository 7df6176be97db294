//! `cam.or`, `cam.and` and `cam.average`: two sets of class activation maps become one, pixel by pixel.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::io;
use crate::artifact::maps::{self, ImageMaps, PackedMaps, stride4};
use crate::image::Maps;
use crate::image::cam::{self, Operation};
use crate::image::resize::{Coordinates, interpolate_bilinear};
use crate::kind::Kind;
use crate::stage::{Ctx, Inputs, Output, Port, Spec, Stage, StageError, Work};

/// What a result is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Normalisation {
    /// each class's map by its own largest value: how Eq. 1 of the paper reads most naturally
    PerClass,
    /// all maps of an image by the largest value among them, which keeps the ratios between classes
    Global,
    /// nothing
    None,
}

impl From<Normalisation> for cam::Normalisation {
    fn from(normalisation: Normalisation) -> Self {
        match normalisation {
            Normalisation::PerClass => Self::PerClass,
            Normalisation::Global => Self::Global,
            Normalisation::None => Self::None,
        }
    }
}

/// Whose choices fill the parameters that are not given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Recipe {
    /// as the text has it: `per_class` for OR and AND, `none` for the average
    #[default]
    Paper,
    /// as the released programs do it: `none` for OR and AND, `per_class` for the average; they also add 0.15 to the maps of a
    /// ViT, so give `offset = 0.15` where `b` is one
    Upstream,
}

/// Parameters.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// Whose choice of `normalisation` holds where it is not given
    #[serde(default)]
    recipe: Recipe,
    /// What the result is divided by; without it as `recipe` says
    #[serde(default)]
    normalisation: Option<Normalisation>,
    /// Added to every value of `b` beforehand, without clipping (upstream: 0.15 for a ViT beside a ResNet)
    #[serde(default)]
    offset: f32,
}

const PORTS: &[Port] = &[
    Port { name: "a", takes: &[Kind::CamSet], optional: false, about: "maps of one method" },
    Port { name: "b", takes: &[Kind::CamSet], optional: false, about: "maps of another, for the same images" },
];

/// The stage `cam.or`.
pub(super) struct Or;
/// The stage `cam.and`.
pub(super) struct And;
/// The stage `cam.average`.
pub(super) struct Average;

impl Stage for Or {
    type Params = Params;
    const SPEC: Spec = spec("cam.or", "The union of two sets of maps: a + b - a b, where either method sees the class");

    fn resolve(params: Params) -> Params {
        params.resolved([Normalisation::PerClass, Normalisation::None])
    }

    fn check(params: &Params) -> Result<(), StageError> {
        check(params)
    }

    fn meta(_params: &Params, inputs: &Inputs) -> Result<serde_json::Value, StageError> {
        meta(inputs)
    }

    fn run(params: &Params, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        run(ctx, params, Operation::Or)
    }
}

impl Stage for And {
    type Params = Params;
    const SPEC: Spec = spec("cam.and", "The intersection of two sets of maps: a b, where both methods see the class");

    fn resolve(params: Params) -> Params {
        params.resolved([Normalisation::PerClass, Normalisation::None])
    }

    fn check(params: &Params) -> Result<(), StageError> {
        check(params)
    }

    fn meta(_params: &Params, inputs: &Inputs) -> Result<serde_json::Value, StageError> {
        meta(inputs)
    }

    fn run(params: &Params, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        run(ctx, params, Operation::And)
    }
}

impl Stage for Average {
    type Params = Params;
    const SPEC: Spec =
        spec("cam.average", "The mean of two sets of maps: the baseline that OR and AND are compared with");

    fn resolve(params: Params) -> Params {
        params.resolved([Normalisation::None, Normalisation::PerClass])
    }

    fn check(params: &Params) -> Result<(), StageError> {
        check(params)
    }

    fn meta(_params: &Params, inputs: &Inputs) -> Result<serde_json::Value, StageError> {
        meta(inputs)
    }

    fn run(params: &Params, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        run(ctx, params, Operation::Average)
    }
}

const fn spec(name: &'static str, about: &'static str) -> Spec {
    // 2: maps are packed.
    Spec { name, about, revision: 2, inputs: PORTS, output: Kind::CamSet, work: Work::PerImage, seeded: false }
}

impl Params {
    /// Fills in the recipe's normalisation.
    fn resolved(self, [paper, upstream]: [Normalisation; 2]) -> Self {
        let usual = match self.recipe {
            Recipe::Paper => paper,
            Recipe::Upstream => upstream,
        };
        Self { normalisation: self.normalisation.or(Some(usual)), ..self }
    }
}

fn check(params: &Params) -> Result<(), StageError> {
    if (-1.0..=1.0).contains(&params.offset) {
        return Ok(());
    }
    Err(StageError::parameter(
        "offset",
        format!("{} is more than maps, which lie in 0 to 1, can be off", params.offset),
    ))
}

fn meta(inputs: &Inputs) -> Result<serde_json::Value, StageError> {
    let classes = io::common_classes(inputs, &["a", "b"])?;
    io::check_covers(inputs, "b", "a")?;
    io::check_covers(inputs, "a", "b")?;
    Ok(serde_json::json!({ "classes": classes }))
}

fn run(ctx: &Ctx<'_>, params: &Params, operation: Operation) -> Result<Output, StageError> {
    let normalisation = params.normalisation.expect("`resolved` has filled it in");
    let (a, b) = (io::maps(ctx, "a")?, io::maps(ctx, "b")?);
    let ids: Vec<String> = a.ids().cloned().collect();
    let fused = io::in_order(ids.par_iter().map(|id| {
        ctx.check_cancelled()?;
        fuse(&a.get(id)?, &b.get(id)?, params.offset, normalisation, operation).map(|maps| PackedMaps::new(&maps))
    }))?;
    Ok(Output::shard(ids, maps::encode(&fused)))
}

/// Fuses the maps of one image; an error if the two do not have the same classes or sizes.
fn fuse(
    a: &ImageMaps,
    b: &ImageMaps,
    offset: f32,
    normalisation: Normalisation,
    operation: Operation,
) -> Result<ImageMaps, StageError> {
    let id = &a.id;
    if a.classes != b.classes {
        return Err(StageError::data_help(
            format!(
                "the maps of image `{id}` are of classes {:?} on port `a` and {:?} on port `b`",
                a.classes, b.classes
            ),
            "both sets must be made with the same image-level labels",
        ));
    }
    let both = |of_a: &Maps, of_b: &Maps| {
        cam::combine(of_a, of_b, offset, operation, normalisation.into()).map_err(|error| {
            StageError::data_help(format!("image `{id}`: {error}"), "both sets must be made from the same images")
        })
    };
    let high_res = both(&a.high_res, &b.high_res)?;
    let cam = match (&a.cam, &b.cam) {
        (Some(a), Some(b)) => both(a, b)?,
        // Where a method has no maps at stride 4, upstream makes them from the fused ones (SPEC 5.1, `make_orand`).
        _ => {
            let (height, width) = (stride4(high_res.height()), stride4(high_res.width()));
            interpolate_bilinear(&high_res, height, width, Coordinates::HalfPixel)
        }
    };
    Ok(ImageMaps { id: id.clone(), classes: a.classes.clone(), cam: Some(cam), high_res })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn image(classes: &[u8], values: Vec<f32>) -> ImageMaps {
        let high_res = Maps::new(classes.len(), 3, 5, values);
        ImageMaps { id: "a".into(), classes: classes.to_vec(), cam: None, high_res }
    }

    fn fused(a: &ImageMaps, b: &ImageMaps, normalisation: Normalisation, operation: Operation) -> Maps {
        fuse(a, b, 0.0, normalisation, operation).expect("the two fit together").high_res
    }

    fn values() -> impl Strategy<Value = Vec<f32>> {
        proptest::collection::vec(prop_oneof![Just(0.0f32), Just(1.0), 0.0f32..=1.0], 30)
    }

    proptest! {
        #[test]
        fn the_algebra_holds(a in values(), b in values()) {
            let (a, b) = (image(&[2, 7], a), image(&[2, 7], b));
            let [or, and, average] = [Operation::Or, Operation::And, Operation::Average].map(|operation| fused(&a, &b, Normalisation::None, operation));
            for ((((&or, &and), &average), &a), &b) in
                or.data().iter().zip(and.data()).zip(average.data()).zip(a.high_res.data()).zip(b.high_res.data())
            {
                // One rounding of f32 on values up to 2.
                let slack = 2.0 * f32::EPSILON;
                prop_assert!((0.0..=1.0 + slack).contains(&or) && (0.0..=1.0).contains(&and));
                prop_assert!(and <= a.min(b) + slack && a.max(b) <= or + slack);
                prop_assert!(and <= average + slack && average <= or + slack);
                prop_assert!((or + and - a - b).abs() <= 2.0 * slack);
            }
            for operation in [Operation::Or, Operation::And, Operation::Average] {
                for normalisation in [Normalisation::PerClass, Normalisation::Global, Normalisation::None] {
                    prop_assert_eq!(fused(&a, &b, normalisation, operation), fused(&b, &a, normalisation, operation));
                }
                let per_class = fused(&a, &b, Normalisation::PerClass, operation);
                for channel in 0..2 {
                    let largest = per_class.channel(channel).iter().copied().fold(0.0, f32::max);
                    prop_assert!(largest == 1.0 || largest == 0.0, "{}", largest);
                }
            }
        }
    }

    #[test]
    fn upstreams_offset_is_neither_clipped_nor_normalised() {
        let (a, b) = (image(&[0], vec![0.5; 15]), image(&[0], vec![1.0; 15]));
        let or = fuse(&a, &b, 0.15, Normalisation::None, Operation::Or).expect("the two fit together");
        // 0.5 + 1.15 - 0.5 * 1.15
        assert!((or.high_res.data()[0] - 1.075).abs() < 1e-6);
        let cam = or.cam.expect("there are maps at stride 4");
        assert_eq!((cam.height(), cam.width()), (1, 2));
    }

    #[test]
    fn other_classes_are_an_error_that_names_the_image() {
        let error =
            fuse(&image(&[0], vec![0.0; 15]), &image(&[3], vec![0.0; 15]), 0.0, Normalisation::None, Operation::Or);
        let error = error.expect_err("the classes differ").to_string();
        assert_eq!(error, "the maps of image `a` are of classes [0] on port `a` and [3] on port `b`");
    }
}
