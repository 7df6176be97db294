//! `Metrics`: scores and the protocol that made them, as one JSON file. A score that is no number (0 / 0) is null.

use serde::{Deserialize, Serialize};

/// The name of the part that holds the scores.
pub const PART: &str = "metrics.json";

/// The whole file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Scores at each threshold, where thresholds were tried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<CurvePoint>,
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
