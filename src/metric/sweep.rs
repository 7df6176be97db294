//! Scores of maps at many background thresholds in one pass over their pixels (SPEC 10.2).
//!
//! At threshold `t` a pixel is background unless the largest of its class scores is above `t`; a tie goes to the background, and
//! among classes to the first. So the best class and its score say all about a pixel, and a histogram over (best class, true
//! class, threshold) gives the confusion matrix of every threshold.

use super::confusion::Confusion;
use crate::image::{LabelMap, Maps};

/// What makes one threshold the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    /// The largest mean IoU; the lowest threshold among equals.
    MeanIou,
    /// The first threshold whose mean precision is above its mean recall (upstream's `finding_best_thres`).
    PrecisionOverRecall,
}

/// One threshold and what it gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// The background's score.
    pub threshold: f32,
    /// Mean IoU.
    pub miou: f64,
    /// Mean precision.
    pub precision: f64,
    /// Mean recall.
    pub recall: f64,
}

/// Counts pixels for many thresholds.
#[derive(Clone, Debug)]
pub struct Sweep {
    classes: usize,
    thresholds: Vec<f32>,
    /// `[best foreground class, true class, number of thresholds below the score]`.
    counts: Vec<u64>,
}

impl Sweep {
    /// Makes an empty count for `classes` classes, the background among them, and ascending thresholds.
    ///
    /// # Panics
    /// If the thresholds do not ascend, or there are fewer than two classes.
    pub fn new(classes: usize, thresholds: Vec<f32>) -> Self {
        assert!(classes >= 2, "a foreground class is scored");
        assert!(thresholds.is_sorted_by(|a, b| a < b), "thresholds ascend");
        let counts = vec![0; (classes - 1) * classes * (thresholds.len() + 1)];
        Self { classes, thresholds, counts }
    }

    /// Counts the pixels of an image: `channels` are the 0-based foreground classes of the maps. True indices that are no class,
    /// such as 255, do not count.
    ///
    /// # Panics
    /// If maps and truth have different sizes, or a channel is no foreground class.
    pub fn add(&mut self, maps: &Maps, channels: &[u8], truth: &LabelMap) {
        assert_eq!((maps.height(), maps.width()), (truth.height(), truth.width()), "maps and truth have the same size");
        let bins = self.thresholds.len() + 1;
        for (pixel, &label) in truth.data().iter().enumerate() {
            let label = usize::from(label);
            if label >= self.classes {
                continue;
            }
            // Without a class the pixel is background at any threshold; it is counted under the first class.
            let (class, bin) = match best(maps, pixel) {
                Some((channel, score)) => {
                    (usize::from(channels[channel]), self.thresholds.partition_point(|&threshold| threshold < score))
                }
                None => (0, 0),
            };
            self.counts[(class * self.classes + label) * bins + bin] += 1;
        }
    }

    /// Adds the counts of another sweep over the same classes and thresholds.
    ///
    /// # Panics
    /// If it has others.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(
            (self.classes, &self.thresholds),
            (other.classes, &other.thresholds),
            "only sweeps over the same classes and thresholds can be added"
        );
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }

    /// Returns the thresholds.
    pub fn thresholds(&self) -> &[f32] {
        &self.thresholds
    }

    /// Returns the confusion matrix at a threshold, given by its index.
    pub fn confusion(&self, threshold: usize) -> Confusion {
        let bins = self.thresholds.len() + 1;
        let mut counts = vec![0; self.classes * self.classes];
        for class in 0..self.classes - 1 {
            for label in 0..self.classes {
                let start = (class * self.classes + label) * bins;
                let (below, above) = self.counts[start..start + bins].split_at(threshold + 1);
                counts[label * self.classes] += below.iter().sum::<u64>();
                counts[label * self.classes + class + 1] += above.iter().sum::<u64>();
            }
        }
        Confusion::from_counts(self.classes, counts)
    }

    /// Returns the scores of the first `classes` classes at each threshold.
    pub fn curve(&self, classes: usize) -> Vec<Point> {
        self.thresholds
            .iter()
            .enumerate()
            .map(|(index, &threshold)| {
                let scores = self.confusion(index).of_first(classes).scores();
                Point { threshold, miou: scores.mean_iou, precision: scores.mean_precision, recall: scores.mean_recall }
            })
            .collect()
    }
}

impl Objective {
    /// Returns the index of the best point of a curve; `None` if no point meets the objective.
    pub fn best(self, curve: &[Point]) -> Option<usize> {
        match self {
            Self::MeanIou => {
                let mut best: Option<usize> = None;
                for (index, point) in curve.iter().enumerate() {
                    if !point.miou.is_nan() && best.is_none_or(|best| point.miou > curve[best].miou) {
                        best = Some(index);
                    }
                }
                best
            }
            Self::PrecisionOverRecall => curve.iter().position(|point| point.precision > point.recall),
        }
    }
}

/// Returns the channel with the largest value at a pixel, the first among equals, and the value. A NaN is never the largest.
fn best(maps: &Maps, pixel: usize) -> Option<(usize, f32)> {
    let plane = maps.height() * maps.width();
    let mut best: Option<(usize, f32)> = None;
    for channel in 0..maps.channels() {
        let score = maps.data()[channel * plane + pixel];
        if !score.is_nan() && best.is_none_or(|(_, highest)| score > highest) {
            best = Some((channel, score));
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::image::cam;

    fn point(threshold: f32, miou: f64, precision: f64, recall: f64) -> Point {
        Point { threshold, miou, precision, recall }
    }

    #[test]
    fn objectives_choose_as_they_say() {
        let curve = [
            point(0.1, 0.3, 0.2, 0.9),
            point(0.2, 0.5, 0.6, 0.7),
            point(0.3, 0.5, 0.8, 0.5),
            point(0.4, 0.2, 0.9, 0.3),
        ];
        assert_eq!(Objective::MeanIou.best(&curve), Some(1));
        assert_eq!(Objective::PrecisionOverRecall.best(&curve), Some(2));
        assert_eq!(Objective::PrecisionOverRecall.best(&curve[..2]), None);
        assert_eq!(Objective::MeanIou.best(&[point(0.1, f64::NAN, 0.0, 0.0)]), None);
    }

    proptest! {
        /// Values and thresholds lie on the same grid, so that ties are common.
        #[test]
        fn one_pass_equals_thresholding_again_and_again(
            images in proptest::collection::vec(
                (proptest::sample::subsequence(vec![0u8, 1, 2, 3], 0..=4), any::<u64>()), 1..4),
        ) {
            use rand::{RngExt, SeedableRng};
            let thresholds: Vec<f32> = (0..10).map(|step| step as f32 / 10.0).collect();
            let mut sweep = Sweep::new(5, thresholds.clone());
            let mut naive = vec![Confusion::new(5); thresholds.len()];
            for (channels, seed) in images {
                let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
                let values = (0..channels.len() * 30).map(|_| rng.random_range(0..=10) as f32 / 10.0).collect();
                let maps = Maps::new(channels.len(), 5, 6, values);
                let truth = (0..30).map(|_| if rng.random_bool(0.1) { 255 } else { rng.random_range(0..5) }).collect();
                let truth = LabelMap::new(5, 6, truth);
                let mut one = Sweep::new(5, thresholds.clone());
                one.add(&maps, &channels, &truth);
                sweep.merge(&one);
                for (confusion, &threshold) in naive.iter_mut().zip(&thresholds) {
                    confusion.add(truth.data(), cam::threshold(&maps, &channels, threshold).data());
                }
            }
            for (index, confusion) in naive.iter().enumerate() {
                prop_assert_eq!(&sweep.confusion(index), confusion);
            }
        }
    }
}
