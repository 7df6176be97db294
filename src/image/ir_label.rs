//! IR labels: from soft maps to a mask that is sure of its objects, sure of its background, and silent elsewhere (SPEC 7.1).

use super::cam::argmax_over_background;
use super::crf::{DenseCrf, Kernels, Unary};
use super::{LabelMap, Maps, Rgb};

/// The parameters of IR labels; the defaults are those of IRN and ORANDNet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IrLabelParams {
    /// A pixel is taken for an object where a map exceeds this: the strict pass, which decides on objects.
    pub conf_fg: f32,
    /// The same in the lenient pass, which decides on background.
    pub conf_bg: f32,
    /// The CRF's kernels.
    pub kernels: Kernels,
    /// How far the CRF believes each pass, as a probability.
    pub gt_prob: f32,
    /// Mean field iterations.
    pub iterations: usize,
}

impl Default for IrLabelParams {
    fn default() -> Self {
        Self { conf_fg: 0.30, conf_bg: 0.05, kernels: Kernels::IR_LABELS, gt_prob: 0.7, iterations: 10 }
    }
}

/// Makes the IR label of an image: class index + 1 where the strict pass sees an object after its CRF, 0 where neither pass sees
/// one, 255 elsewhere.
///
/// `cams` are foreground maps at the image's size, `[classes, height, width]`; `classes` are their 0-based foreground indices.
///
/// # Errors
/// A sentence about the sizes, if maps, classes and image do not belong together.
pub fn ir_label(image: &Rgb, cams: &Maps, classes: &[u8], params: &IrLabelParams) -> Result<LabelMap, String> {
    let (height, width) = (image.height(), image.width());
    if (cams.height(), cams.width()) != (height, width) {
        return Err(format!("the maps are {} x {} and the image is {width} x {height}", cams.width(), cams.height()));
    }
    if cams.channels() != classes.len() || classes.contains(&255) {
        return Err(format!("there are {} maps for the classes {classes:?}", cams.channels()));
    }
    if classes.is_empty() {
        return Ok(LabelMap::new(height, width, vec![0; height * width]));
    }
    let labels = classes.len() + 1;
    let unary = |background| {
        let guess = LabelMap::new(height, width, argmax_over_background(cams, background));
        Unary::from_labels(&guess, labels, params.gt_prob, false)
    };
    let (strict, lenient) = (unary(params.conf_fg), unary(params.conf_bg));
    let crf = DenseCrf::new(image, params.kernels);
    let [strict, lenient] = crf.infer_pair([&strict, &lenient], params.iterations).map(|beliefs| likeliest(&beliefs));
    let merge = |(strict, lenient): (u8, u8)| match (strict, lenient) {
        (0, 0) => 0,
        (0, _) => LabelMap::IGNORE,
        (label, _) => classes[usize::from(label) - 1] + 1,
    };
    Ok(LabelMap::new(height, width, strict.into_iter().zip(lenient).map(merge).collect()))
}

/// Returns per pixel the likeliest label; ties go to the lower one.
fn likeliest(beliefs: &Maps) -> Vec<u8> {
    let mut best = beliefs.channel(0).to_vec();
    let mut winners = vec![0; best.len()];
    for label in 1..beliefs.channels() {
        for ((winner, best), &belief) in winners.iter_mut().zip(&mut best).zip(beliefs.channel(label)) {
            if belief > *best {
                *best = belief;
                *winner = label as u8;
            }
        }
    }
    winners
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A square on another ground, and a map that is sure of its middle and doubtful around it.
    fn scene() -> (Rgb, Maps) {
        let inside = |y: usize, x: usize, margin: usize| {
            (8 + margin..24 - margin).contains(&y) && (10 + margin..30 - margin).contains(&x)
        };
        let mut image = Rgb::new(32, 40, vec![60; 32 * 40 * 3]);
        let mut maps = Maps::zeros(1, 32, 40);
        for y in 0..32 {
            for x in 0..40 {
                let at = y * 40 + x;
                if inside(y, x, 0) {
                    image.data_mut()[at * 3..at * 3 + 3].copy_from_slice(&[200, 90, 40]);
                }
                maps.data_mut()[at] = match (inside(y, x, 1), y < 28) {
                    (true, _) => 0.8,
                    (false, true) if x > 34 => 0.1,
                    _ => 0.01,
                };
            }
        }
        (image, maps)
    }

    #[test]
    fn sure_object_sure_ground_and_doubt() {
        let (image, maps) = scene();
        let label = ir_label(&image, &maps, &[14], &IrLabelParams::default()).expect("sizes fit");
        assert_eq!(label.label(16, 20), 15);
        // The map stops one pixel inside the square; the CRF follows the colours to its edge.
        assert_eq!((label.label(8, 20), label.label(7, 20)), (15, 0));
        assert_eq!(label.label(30, 2), 0);
        assert!(label.data().iter().all(|index| [0, 15, 255].contains(index)));
    }

    #[test]
    fn without_iterations_it_is_the_two_thresholds() {
        let (image, maps) = scene();
        let params = IrLabelParams { iterations: 0, ..Default::default() };
        let label = ir_label(&image, &maps, &[0], &params).expect("sizes fit");
        for (index, &score) in label.data().iter().zip(maps.data()) {
            let want = match score {
                score if score > 0.3 => 1,
                score if score > 0.05 => 255,
                _ => 0,
            };
            assert_eq!(*index, want);
        }
    }

    #[test]
    fn no_class_is_background_and_wrong_sizes_are_refused() {
        let (image, maps) = scene();
        let params = IrLabelParams::default();
        let empty = ir_label(&image, &Maps::zeros(0, 32, 40), &[], &params).expect("sizes fit");
        assert!(empty.data().iter().all(|&index| index == 0));
        assert_eq!(
            ir_label(&image, &Maps::zeros(1, 8, 10), &[3], &params),
            Err("the maps are 10 x 8 and the image is 40 x 32".to_owned())
        );
        assert!(ir_label(&image, &maps, &[3, 4], &params).is_err());
    }
}
