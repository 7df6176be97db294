//! Shrinks a training sample: the image with antialiasing, the mask by nearest neighbour. Decides nothing about when.

use super::augment::Sample;
use crate::image::resize::{Nearest, nearest_mask, shrink_maps};

/// Returns a sample whose sides are divided by `factor`, rounded down and at least 1 (SPEC 9.4). Factor 1 returns it as it is.
pub fn shrink(sample: Sample, factor: usize) -> Sample {
    if factor <= 1 {
        return sample;
    }
    let (height, width) = (sample.image.height(), sample.image.width());
    let (height, width) = ((height / factor).max(1), (width / factor).max(1));
    Sample {
        image: shrink_maps(&sample.image, height, width),
        mask: sample.mask.map(|mask| nearest_mask(&mask, height, width, Nearest::Pillow)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{LabelMap, Maps};

    #[test]
    fn image_and_mask_shrink_together_and_factor_one_changes_nothing() {
        let sample = Sample {
            image: Maps::new(1, 4, 4, vec![1.0; 16]),
            mask: Some(LabelMap::new(4, 4, vec![0, 0, 3, 3, 0, 0, 3, 3, 255, 255, 7, 7, 255, 255, 7, 7])),
        };
        assert_eq!(shrink(sample.clone(), 1), sample);
        let small = shrink(sample, 2);
        assert!(small.image.data().iter().all(|value| (value - 1.0).abs() < 1e-6));
        assert_eq!(small.mask.expect("it has one").data(), [0, 3, 255, 7]);
    }
}
