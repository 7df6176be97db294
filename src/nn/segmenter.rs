//! A trained segmentation network with what is asked of it: an image becomes a mask. `segment.predict` and `orandflow predict` both
//! segment with it, so that they cannot differ. Knows no files.

use burn::tensor::Device;

use crate::artifact::weights::NamedTensors;
use crate::image::crf::{DenseCrf, Kernels, Unary};
use crate::image::normalise::normalise;
use crate::image::{LabelMap, Maps, Rgb};
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
        let Settings { scales, mirror, merge, crf } = &self.settings;
        let mut scores = self.network.probabilities(&normalise(image), scales, *mirror, *merge, &self.device);
        if *crf {
            scores = DenseCrf::new(image, Kernels::SEGMENTATION).infer(&Unary::from_probabilities(&scores), ITERATIONS);
        }
        largest(&scores)
    }
}

/// Returns the class with the largest score at each pixel, the lowest of those that are equal.
fn largest(scores: &Maps) -> LabelMap {
    let plane = scores.height() * scores.width();
    let mut best = scores.channel(0).to_vec();
    let mut labels = vec![0_u8; plane];
    for class in 1..scores.channels() {
        for ((best, label), &score) in best.iter_mut().zip(&mut labels).zip(scores.channel(class)) {
            if score > *best {
                (*best, *label) = (score, class as u8);
            }
        }
    }
    LabelMap::new(scores.height(), scores.width(), labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_lowest_class() {
        let scores = Maps::new(3, 1, 3, vec![0.5, 0.1, 0.0, 0.5, 0.6, 0.0, 0.2, 0.6, 0.0]);
        assert_eq!(largest(&scores).data(), [0, 1, 0]);
    }
}
