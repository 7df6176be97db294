//! `Metrics`: scores and the protocol that made them, as one JSON file. A score that is no number (0 / 0) is null.

use serde::{Deserialize, Serialize};

/// The name of the part that holds the scores.
pub const PART: &str = "metrics.json";

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Mean IoU over the classes where it is a number.
    pub miou: Option<f64>,
    /// Mean precision, likewise.
    pub precision: Option<f64>,
    /// Mean recall, likewise.
    pub recall: Option<f64>,
    /// Share of the counted pixels that are right.
    pub pixel_accuracy: Option<f64>,
    /// Scores of each class, the background first.
    pub per_class: Vec<ClassScores>,
    /// Numbers of pixels, `[truth][prediction]`.
    pub confusion: Vec<Vec<u64>>,
    /// How the scores came about.
    pub protocol: Protocol,
    /// Area under the curve of precision over recall, where thresholds were tried; see [`Table::area`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub area_under_curve: Option<f64>,
    /// Scores at each threshold, where thresholds were tried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<CurvePoint>,
}

impl Table {
    /// Returns the largest mean precision among the thresholds whose mean recall is at least `recall`; `None` if none is.
    ///
    /// With several classes and a background the recall does not fall evenly with the threshold, so this is what "precision at a
    /// recall" can mean: the best that can be had without finding less (the interpolated precision of Salton and McGill, 1983).
    pub fn precision_at_recall(&self, recall: f64) -> Option<f64> {
        let reached = self.curve.iter().filter(|point| point.recall.is_some_and(|reached| reached >= recall));
        reached.filter_map(|point| point.precision).max_by(f64::total_cmp)
    }

    /// Returns the largest mean recall of the curve.
    pub fn highest_recall(&self) -> Option<f64> {
        let known = self.curve.iter().filter(|point| point.precision.is_some());
        known.filter_map(|point| point.recall).max_by(f64::total_cmp)
    }

    /// Returns the area under [`Self::precision_at_recall`] over recalls from 0 to 1; 0 beyond the highest that is reached.
    pub fn area(&self) -> Option<f64> {
        let mut points: Vec<(f64, f64)> =
            self.curve.iter().filter_map(|point| Some((point.recall?, point.precision?))).collect();
        points.sort_by(|one, other| other.0.total_cmp(&one.0));
        let highest = points.first()?.0;
        let (mut area, mut best, mut right) = (0.0, 0.0_f64, highest);
        for (recall, precision) in points {
            // Between this recall and the one before, that one's precision can be had.
            area += (right - recall) * best;
            best = best.max(precision);
            right = recall;
        }
        Some(area + right * best)
    }
}

/// Scores of one class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassScores {
    /// Its name.
    pub name: String,
    /// Intersection over union.
    pub iou: Option<f64>,
    /// Share of its predicted pixels that are right.
    pub precision: Option<f64>,
    /// Share of its true pixels that are found.
    pub recall: Option<f64>,
}

/// Scores at one threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// The background's score.
    pub threshold: f64,
    /// Mean IoU.
    pub miou: Option<f64>,
    /// Mean precision.
    pub precision: Option<f64>,
    /// Mean recall.
    pub recall: Option<f64>,
}

/// What somebody must know to compare the scores with others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Protocol {
    /// Name of the split that the ground truth is of, where it has one.
    pub split: Option<String>,
    /// Number of images that were scored.
    pub images: usize,
    /// Number of images that have a prediction and no ground truth.
    pub only_predicted: usize,
    /// Number of images that have ground truth and no prediction.
    pub only_true: usize,
    /// Number of classes that were scored, the background among them.
    pub classes_scored: usize,
    /// Number of classes that there are.
    pub classes: usize,
    /// Which pixels do not count.
    pub ignored: String,
    /// Where the background's threshold came from; null where there was none.
    pub threshold: serde_json::Value,
    /// Whether the prediction was tuned on the ground truth of images that are scored here.
    pub oracle: bool,
}

/// Encodes the file, indented for people.
pub fn encode(table: &Table) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(table).expect("scores are JSON");
    bytes.push(b'\n');
    bytes
}

/// Decodes the file; an error says what is wrong with the bytes.
pub fn decode(bytes: &[u8]) -> Result<Table, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("this table of metrics cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(curve: &[(f64, f64)]) -> Table {
        let protocol = Protocol::default();
        let point = |(precision, recall): &(f64, f64)| CurvePoint {
            threshold: 0.0,
            miou: None,
            precision: Some(*precision),
            recall: Some(*recall),
        };
        Table { curve: curve.iter().map(point).collect(), protocol, ..Table::default() }
    }

    #[test]
    fn the_area_is_that_of_steps_from_the_right() {
        // Recall neither falls nor rises evenly: 0.6 of precision can be had up to a recall of 0.8, 0.9 up to 0.5.
        let table = table(&[(0.3, 0.7), (0.6, 0.8), (0.9, 0.5), (0.7, 0.2)]);
        let area = table.area().expect("there is a curve");
        assert!((area - (0.3 * 0.6 + 0.5 * 0.9)).abs() < 1e-12, "{area}");
        assert_eq!(table.precision_at_recall(0.8), Some(0.6));
        assert_eq!(table.precision_at_recall(0.5), Some(0.9));
        assert_eq!(table.precision_at_recall(0.81), None);
        assert_eq!(table.highest_recall(), Some(0.8));
        assert_eq!(super::Table::default().area(), None);
    }
}
