//! The loss that teaches IRN's edges and displacements from pairs of labels (SPEC 8.3), with its gradient in closed form.
//! Knows maps and labels; knows no network.
//!
//! The affinity of two pixels is one minus the largest edge on the path between them. Automatic differentiation would record
//! a maximum over shifted copies of the map for each cell of each path, some 2,000 at the paper's radius, and keep every one
//! in memory for the way back (2 GB for a batch of 16). The derivative of that maximum is one at the largest cell, so the loss
//! is summed here in one sweep over the pairs, image by image on all cores, and its gradient is given to the network through
//! a linear function of its outputs. Nothing is stored per pair, sums are f64, and the result is the same on every device.

use rayon::prelude::*;

use crate::image::LabelMap;
use crate::image::paths::PairPath;

/// Added to divisors and within logarithms (SPEC 8.3).
const EPSILON: f64 = 1e-5;

/// Edges and displacements of a batch, and what they should be.
#[derive(Clone, Copy, Debug)]
pub struct PairBatch<'a> {
    /// Edges in (0, 1), `[B, H, W]`.
    pub edge: &'a [f32],
    /// Displacements in (rows, columns), `[B, 2, H, W]`.
    pub displacement: &'a [f32],
    /// Labels of the `B` images, each of `H x W`. Indices at or above `classes` count for nothing.
    pub labels: &'a [LabelMap],
    /// Number of classes, background included.
    pub classes: u8,
}

/// The loss of a batch and its gradient.
#[derive(Clone, Debug, PartialEq)]
pub struct PairLoss {
    /// The sum that is minimised.
    pub total: f64,
    /// Pairs within the background: mean of `-ln(affinity)`.
    pub background: f64,
    /// Pairs within one object class: the same.
    pub foreground: f64,
    /// Pairs of different classes: mean of `-ln(1 - affinity)`.
    pub different: f64,
    /// Displacement of pairs within an object class.
    pub displacement_foreground: f64,
    /// Displacement of pairs within the background.
    pub displacement_background: f64,
    /// Derivative of the total by each edge, `[B, H, W]`.
    pub edge_gradient: Vec<f32>,
    /// Derivative of the total by each displacement, `[B, 2, H, W]`.
    pub displacement_gradient: Vec<f32>,
}

/// What two labels say about their pair.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Relation {
    Background,
    Foreground,
    Different,
}

fn relation(source: u8, destination: u8, classes: u8) -> Option<Relation> {
    if source >= classes || destination >= classes {
        return None;
    }
    Some(match (source == destination, source) {
        (false, _) => Relation::Different,
        (true, 0) => Relation::Background,
        (true, _) => Relation::Foreground,
    })
}

/// Sums of one image, or of the batch.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    background: f64,
    foreground: f64,
    different: f64,
    displacement_background: f64,
    displacement_foreground: f64,
}

impl Sums {
    fn add(self, other: Self) -> Self {
        Self {
            background: self.background + other.background,
            foreground: self.foreground + other.foreground,
            different: self.different + other.different,
            displacement_background: self.displacement_background + other.displacement_background,
            displacement_foreground: self.displacement_foreground + other.displacement_foreground,
        }
    }
}

/// A map's size and its source pixels: those whose every destination lies within the map (SPEC 8.2).
#[derive(Clone, Copy)]
struct Frame {
    height: usize,
    width: usize,
    margin: usize,
}

impl Frame {
    fn rows(&self) -> std::ops::Range<usize> {
        0..self.height.saturating_sub(self.margin)
    }

    fn columns(&self) -> std::ops::Range<usize> {
        self.margin..self.width.saturating_sub(self.margin).max(self.margin)
    }

    fn offset(&self, (row, column): (isize, isize)) -> isize {
        row * self.width as isize + column
    }
}

/// Returns loss and gradient (SPEC 8.3):
/// `L = 1/2 [ 1/2 bg + 1/2 fg + neg ] + 1/2 [ dp_fg + dp_bg ]`, each a mean over its pairs in the whole batch.
///
/// A map smaller than the disc has no pairs, and its loss is 0.
///
/// # Panics
/// If the lengths do not fit the labels' sizes.
pub fn pair_loss(batch: &PairBatch<'_>, paths: &[PairPath]) -> PairLoss {
    let (height, width) = batch.labels.first().map_or((0, 0), |labels| (labels.height(), labels.width()));
    let plane = height * width;
    assert_eq!(batch.edge.len(), batch.labels.len() * plane, "one edge map per label map");
    assert_eq!(batch.displacement.len(), 2 * batch.edge.len(), "two displacement maps per label map");
    assert!(batch.labels.iter().all(|labels| (labels.height(), labels.width()) == (height, width)), "one size");
    let margin = paths.iter().flat_map(|path| [path.rows, path.columns.abs()]).max().unwrap_or(0).unsigned_abs();
    let frame = Frame { height, width, margin };

    let counts = sum(batch.labels.par_iter().map(|labels| count(labels, batch.classes, paths, frame)).collect());
    let scale = Sums {
        background: 0.25 / (counts.background + EPSILON),
        foreground: 0.25 / (counts.foreground + EPSILON),
        different: 0.5 / (counts.different + EPSILON),
        displacement_background: 0.5 / (2.0 * counts.background + EPSILON),
        displacement_foreground: 0.5 / (2.0 * counts.foreground + EPSILON),
    };
    let images: Vec<(Sums, Vec<f32>, Vec<f32>)> = batch
        .labels
        .par_iter()
        .enumerate()
        .map(|(index, labels)| {
            let edge = &batch.edge[index * plane..(index + 1) * plane];
            let displacement = &batch.displacement[2 * index * plane..2 * (index + 1) * plane];
            sweep(edge, displacement, labels, batch.classes, paths, frame, &scale)
        })
        .collect();

    let mut edge_gradient = Vec::with_capacity(batch.edge.len());
    let mut displacement_gradient = Vec::with_capacity(batch.displacement.len());
    let mut sums = Vec::with_capacity(images.len());
    for (part, edge, displacement) in images {
        sums.push(part);
        edge_gradient.extend(edge);
        displacement_gradient.extend(displacement);
    }
    let sums = sum(sums);
    PairLoss {
        total: sums.background * scale.background
            + sums.foreground * scale.foreground
            + sums.different * scale.different
            + sums.displacement_background * scale.displacement_background
            + sums.displacement_foreground * scale.displacement_foreground,
        background: sums.background * scale.background * 4.0,
        foreground: sums.foreground * scale.foreground * 4.0,
        different: sums.different * scale.different * 2.0,
        displacement_foreground: sums.displacement_foreground * scale.displacement_foreground * 2.0,
        displacement_background: sums.displacement_background * scale.displacement_background * 2.0,
        edge_gradient,
        displacement_gradient,
    }
}

/// Adds up in the order of images, so that the sum does not depend on threads.
fn sum(parts: Vec<Sums>) -> Sums {
    parts.into_iter().fold(Sums::default(), Sums::add)
}

/// Counts the pairs of each relation.
fn count(labels: &LabelMap, classes: u8, paths: &[PairPath], frame: Frame) -> Sums {
    let mut counts = [0_u64; 3];
    for path in paths {
        let to_destination = frame.offset((path.rows, path.columns));
        for row in frame.rows() {
            for column in frame.columns() {
                let source = row * frame.width + column;
                let destination = source.wrapping_add_signed(to_destination);
                if let Some(relation) = relation(labels.data()[source], labels.data()[destination], classes) {
                    counts[relation as usize] += 1;
                }
            }
        }
    }
    let [background, foreground, different] = counts.map(|count| count as f64);
    Sums { background, foreground, different, ..Sums::default() }
}

/// Sums the losses of one image's pairs and gathers the scaled gradients.
fn sweep(
    edge: &[f32],
    displacement: &[f32],
    labels: &LabelMap,
    classes: u8,
    paths: &[PairPath],
    frame: Frame,
    scale: &Sums,
) -> (Sums, Vec<f32>, Vec<f32>) {
    let plane = frame.height * frame.width;
    let mut sums = Sums::default();
    let mut edge_gradient = vec![0.0_f64; plane];
    let mut displacement_gradient = vec![0.0_f64; 2 * plane];
    for path in paths {
        let offsets: Vec<isize> = path.cells.iter().map(|&cell| frame.offset(cell)).collect();
        let to_destination = frame.offset((path.rows, path.columns));
        let target = [path.rows as f64, path.columns as f64];
        for row in frame.rows() {
            for column in frame.columns() {
                let source = row * frame.width + column;
                let destination = source.wrapping_add_signed(to_destination);
                let Some(relation) = relation(labels.data()[source], labels.data()[destination], classes) else {
                    continue;
                };
                let mut largest = destination;
                for &offset in &offsets {
                    let cell = source.wrapping_add_signed(offset);
                    if edge[cell] > edge[largest] {
                        largest = cell;
                    }
                }
                let affinity = 1.0 - f64::from(edge[largest]);
                match relation {
                    Relation::Background => {
                        sums.background -= (affinity + EPSILON).ln();
                        edge_gradient[largest] += scale.background / (affinity + EPSILON);
                    }
                    Relation::Foreground => {
                        sums.foreground -= (affinity + EPSILON).ln();
                        edge_gradient[largest] += scale.foreground / (affinity + EPSILON);
                    }
                    Relation::Different => {
                        sums.different -= (1.0 + EPSILON - affinity).ln();
                        edge_gradient[largest] -= scale.different / (1.0 + EPSILON - affinity);
                        continue;
                    }
                }
                for (channel, target) in target.into_iter().enumerate() {
                    let (from, to) = (channel * plane + source, channel * plane + destination);
                    let difference = f64::from(displacement[from]) - f64::from(displacement[to]);
                    let (wrong, weight, total) = if relation == Relation::Foreground {
                        (difference - target, scale.displacement_foreground, &mut sums.displacement_foreground)
                    } else {
                        (difference, scale.displacement_background, &mut sums.displacement_background)
                    };
                    *total += wrong.abs();
                    let slope = if wrong == 0.0 { 0.0 } else { wrong.signum() * weight };
                    displacement_gradient[from] += slope;
                    displacement_gradient[to] -= slope;
                }
            }
        }
    }
    let narrow = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect();
    (sums, narrow(edge_gradient), narrow(displacement_gradient))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::paths::paths;

    #[test]
    fn a_map_smaller_than_the_disc_has_no_pairs() {
        let labels = [LabelMap::new(2, 3, vec![0; 6])];
        let batch = PairBatch { edge: &[0.5; 6], displacement: &[0.0; 12], labels: &labels, classes: 21 };
        let loss = pair_loss(&batch, &paths(5));
        assert_eq!(loss.total, 0.0);
        assert!(loss.edge_gradient.iter().all(|&value| value == 0.0));
    }
}
