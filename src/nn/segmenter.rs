//! A trained segmentation network with what is asked of it: an image becomes a mask. `segment.predict` and `orandflow predict` both
//! segment with it, so that they cannot differ. Knows no files.

use burn::tensor::Device;

use crate::artifact::weights::NamedTensors;
use crate::image::crf::{DenseCrf, Kernels, Unary};
use crate::image::normalise::normalise;
use crate::image::{LabelMap, Maps, Rgb, large};
use crate::nn::params::{self, Mismatch};
use crate::nn::resnet38::{Merge, Resnet38, Resnet38Config};

/// Mean field iterations of the CRF (SPEC 7.3 c).
const ITERATIONS: usize = 10;

/// The scales of upstream's inference (SPEC 9.3).
pub const SCALES: [f64; 5] = [0.5, 0.75, 1.0, 1.25, 1.5];

/// How an image is segmented.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Factors by which the image is resized; at least one.
    pub scales: Vec<f64>,
    /// Whether each scale is also seen mirrored.
    pub mirror: bool,
    /// How the probabilities of all scales become one.
    pub merge: Merge,
    /// An image of more pixels is shrunk to so many, and its probabilities are enlarged.
    pub max_pixels: usize,
    /// Whether a dense CRF fits the mask to the colours (SPEC 7.3 c).
    pub crf: bool,
}

/// A network that is ready to segment.
#[derive(Debug)]
pub struct Segmenter {
    network: Resnet38,
    settings: Settings,
    device: Device,
}

impl Segmenter {
    /// Builds the network and takes over its weights.
    ///
    /// # Errors
    /// If names or shapes do not fit.
    pub fn load(
        config: &Resnet38Config,
        tensors: &NamedTensors,
        settings: Settings,
        device: Device,
    ) -> Result<Self, Mismatch> {
        let network = params::load_strict(config.init(0, &device), tensors)?;
        Ok(Self { network, settings, device })
    }

    /// Returns the class of each pixel.
    pub fn mask(&self, image: &Rgb) -> LabelMap {
        let Settings { scales, mirror, merge, max_pixels, crf } = &self.settings;
        let small = large::shrunk(image, *max_pixels);
        let mut scores = self.network.probabilities(&normalise(&small), scales, *mirror, *merge, &self.device);
        if *crf {
            scores =
                DenseCrf::new(&small, Kernels::SEGMENTATION).infer(&Unary::from_probabilities(&scores), ITERATIONS);
        }
        largest(&scores, image.height(), image.width())
    }
}

/// Returns the class with the largest score at each pixel of an image of this size, the lowest of those that are equal. Scores are
/// enlarged class by class, as all of a large photograph's together would take gigabytes.
fn largest(scores: &Maps, height: usize, width: usize) -> LabelMap {
    let one = |class: usize| {
        let scores = Maps::new(1, scores.height(), scores.width(), scores.channel(class).to_vec());
        large::enlarged(scores, height, width).into_data()
    };
    let mut best = one(0);
    let mut labels = vec![0_u8; best.len()];
    for class in 1..scores.channels() {
        for ((best, label), score) in best.iter_mut().zip(&mut labels).zip(one(class)) {
            if score > *best {
                (*best, *label) = (score, class as u8);
            }
        }
    }
    LabelMap::new(height, width, labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_lowest_class() {
        let scores = Maps::new(3, 1, 3, vec![0.5, 0.1, 0.0, 0.5, 0.6, 0.0, 0.2, 0.6, 0.0]);
        assert_eq!(largest(&scores, 1, 3).data(), [0, 1, 0]);
    }

    #[test]
    fn scores_are_enlarged_before_they_are_compared() {
        // Between the two pixels the classes change places where the lines cross, a third of the way.
        let scores = Maps::new(2, 1, 2, vec![0.6, 0.0, 0.4, 0.4]);
        assert_eq!(largest(&scores, 1, 12).data(), [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1]);
    }
}
