//! The confusion matrix, and the scores that are read from it (SPEC 10.1).

/// Counts of pixels by true and predicted class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    counts: Vec<u64>,
}

/// Scores of a confusion matrix. A quotient 0 / 0 is NaN and left out of the means.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Intersection over union of each class.
    pub iou: Vec<f64>,
    /// Precision of each class: NaN for a class that is never predicted.
    pub precision: Vec<f64>,
    /// Recall of each class: NaN for a class that is not in the truth.
    pub recall: Vec<f64>,
    /// Mean of `iou` over the classes where it is a number.
    pub mean_iou: f64,
    /// Mean of `precision` over the classes where it is a number.
    pub mean_precision: f64,
    /// Mean of `recall` over the classes where it is a number.
    pub mean_recall: f64,
    /// Share of the counted pixels that are right.
    pub pixel_accuracy: f64,
}

impl Confusion {
    /// Makes an empty matrix for classes `0..classes`.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * classes] }
    }

    /// Makes a matrix of its counts, `[truth, prediction]`.
    ///
    /// # Panics
    /// If `counts` does not have `classes * classes` values.
    pub fn from_counts(classes: usize, counts: Vec<u64>) -> Self {
        assert_eq!(counts.len(), classes * classes, "a confusion matrix of {classes} classes is square");
        Self { classes, counts }
    }

    /// Counts pixels. A pixel counts only if both its true and its predicted index are below the number of classes, which
    /// drops 255 and, where fewer classes are scored than there are, every pixel that touches one of the others.
    ///
    /// # Panics
    /// If the two have different lengths.
    pub fn add(&mut self, truth: &[u8], prediction: &[u8]) {
        assert_eq!(truth.len(), prediction.len(), "truth and prediction have the same size");
        for (&truth, &prediction) in truth.iter().zip(prediction) {
            let (truth, prediction) = (usize::from(truth), usize::from(prediction));
            if truth < self.classes && prediction < self.classes {
                self.counts[truth * self.classes + prediction] += 1;
            }
        }
    }

    /// Adds the counts of another matrix of the same size.
    ///
    /// # Panics
    /// If it has another size.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(self.classes, other.classes, "only matrices of the same classes can be added");
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }

    /// Returns the matrix of the first `classes` classes, as if pixels of the others had not been counted.
    pub fn of_first(&self, classes: usize) -> Self {
        let rows = self.counts.chunks_exact(self.classes).take(classes);
        Self::from_counts(classes, rows.flat_map(|row| &row[..classes]).copied().collect())
    }

    /// Returns the number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Returns the counts, `[truth, prediction]`.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Returns the number of pixels of a true class that were given a predicted class.
    pub fn count(&self, truth: usize, prediction: usize) -> u64 {
        self.counts[truth * self.classes + prediction]
    }

    /// Returns the number of pixels that were counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Computes the scores: with `t` the diagonal, `r` the row sum and `c` the column sum of a class, its IoU is `t / (r + c - t)`,
    /// its precision `t / c` and its recall `t / r`.
    pub fn scores(&self) -> Scores {
        let right = |class| self.count(class, class);
        let row = |class: usize| (0..self.classes).map(|other| self.count(class, other)).sum::<u64>();
        let column = |class: usize| (0..self.classes).map(|other| self.count(other, class)).sum::<u64>();
        let all = |of: &dyn Fn(usize) -> u64| -> Vec<f64> {
            (0..self.classes).map(|class| right(class) as f64 / of(class) as f64).collect()
        };
        let iou = all(&|class| row(class) + column(class) - right(class));
        let (precision, recall) = (all(&column), all(&row));
        let diagonal: u64 = (0..self.classes).map(right).sum();
        Scores {
            mean_iou: nan_mean(&iou),
            mean_precision: nan_mean(&precision),
            mean_recall: nan_mean(&recall),
            iou,
            precision,
            recall,
            pixel_accuracy: diagonal as f64 / self.total() as f64,
        }
    }
}

/// Returns the mean of the values that are numbers; NaN if none is.
pub fn nan_mean(values: &[f64]) -> f64 {
    let numbers: Vec<f64> = values.iter().copied().filter(|value| !value.is_nan()).collect();
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_class_that_is_never_predicted_has_no_precision_but_counts_in_the_mean_iou() {
        let mut confusion = Confusion::new(3);
        confusion.add(&[0, 0, 1, 1, 255], &[0, 0, 0, 0, 2]);
        let scores = confusion.scores();
        assert_eq!(confusion.total(), 4);
        assert_eq!(scores.iou[..2], [0.5, 0.0]);
        assert!(scores.iou[2].is_nan() && scores.precision[1].is_nan() && scores.recall[2].is_nan());
        assert_eq!((scores.mean_iou, scores.mean_precision, scores.mean_recall), (0.25, 0.5, 0.5));
        assert_eq!(scores.pixel_accuracy, 0.5);
    }

    /// Counts set members one class at a time, as the definitions of the scores read.
    fn brute_force(truth: &[u8], prediction: &[u8], classes: u8) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let pairs: Vec<(u8, u8)> = truth
            .iter()
            .copied()
            .zip(prediction.iter().copied())
            .filter(|&(t, p)| t < classes && p < classes)
            .collect();
        let ratio = |class: u8, of: &dyn Fn(bool, bool) -> bool| {
            let both = pairs.iter().filter(|&&(t, p)| t == class && p == class).count();
            let whole = pairs.iter().filter(|&&(t, p)| of(t == class, p == class)).count();
            both as f64 / whole as f64
        };
        let each = |of: &dyn Fn(bool, bool) -> bool| (0..classes).map(|class| ratio(class, of)).collect();
        (each(&|t, p| t || p), each(&|_, p| p), each(&|t, _| t))
    }

    fn same(a: &[f64], b: &[f64]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b || a.is_nan() && b.is_nan())
    }

    proptest! {
        #[test]
        fn scores_equal_a_count_by_hand(
            pixels in proptest::collection::vec((prop_oneof![0u8..6, Just(255)], prop_oneof![0u8..6, Just(255)]), 0..200),
            classes in 1u8..6,
        ) {
            let (truth, prediction): (Vec<u8>, Vec<u8>) = pixels.into_iter().unzip();
            let mut confusion = Confusion::new(classes.into());
            let half = truth.len() / 2;
            confusion.add(&truth[..half], &prediction[..half]);
            let mut rest = Confusion::new(classes.into());
            rest.add(&truth[half..], &prediction[half..]);
            confusion.merge(&rest);
            let mut all = Confusion::new(6);
            all.add(&truth, &prediction);
            prop_assert_eq!(&all.of_first(classes.into()), &confusion);
            let scores = confusion.scores();
            let (iou, precision, recall) = brute_force(&truth, &prediction, classes);
            prop_assert!(same(&scores.iou, &iou), "{:?} {:?}", scores.iou, iou);
            prop_assert!(same(&scores.precision, &precision));
            prop_assert!(same(&scores.recall, &recall));
        }
    }
}
