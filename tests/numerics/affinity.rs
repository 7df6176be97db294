//! The pair loss of IRN against a brute-force computation in f64, gradients included.

use orandflow::image::LabelMap;
use orandflow::image::paths::paths;
use orandflow::nn::affinity::{PairBatch, pair_loss};

use crate::differences::{assert_close, scattered, slopes};

/// SPEC 8.3 written as it stands, for one batch of maps of `height x width` and a radius.
fn by_definition(values: &[f64], labels: &[LabelMap], radius: isize) -> f64 {
    let (height, width) = (labels[0].height() as isize, labels[0].width() as isize);
    let plane = (height * width) as usize;
    let (edges, displacements) = values.split_at(labels.len() * plane);
    let margin = radius - 1;
    let [mut bg, mut fg, mut neg, mut dp_bg, mut dp_fg] = [0.0; 5];
    let [mut bg_count, mut fg_count, mut neg_count] = [0.0; 3];
    for (image, map) in labels.iter().enumerate() {
        let edge = |row: isize, column: isize| edges[image * plane + (row * width + column) as usize];
        let moved = |channel: usize, row: isize, column: isize| {
            displacements[(2 * image + channel) * plane + (row * width + column) as usize]
        };
        for row in 0..height - margin {
            for column in margin..width - margin {
                for dy in 0..radius {
                    for dx in 1 - radius..radius {
                        if (dy == 0 && dx <= 0) || dy * dy + dx * dx >= radius * radius {
                            continue;
                        }
                        let mut largest = f64::NEG_INFINITY;
                        for y in 0..=dy {
                            for x in dx.min(0)..=dx.max(0) {
                                let distance = ((dy * x - dx * y) as f64).powi(2) / (dy * dy + dx * dx) as f64;
                                if distance < 1.0 {
                                    largest = largest.max(edge(row + y, column + x));
                                }
                            }
                        }
                        let affinity = 1.0 - largest;
                        let a = map.label(row as usize, column as usize);
                        let b = map.label((row + dy) as usize, (column + dx) as usize);
                        if a >= 21 || b >= 21 {
                            continue;
                        }
                        let delta =
                            [0, 1].map(|channel| moved(channel, row, column) - moved(channel, row + dy, column + dx));
                        if a != b {
                            neg -= (1.0 + 1e-5 - affinity).ln();
                            neg_count += 1.0;
                        } else if a == 0 {
                            bg -= (affinity + 1e-5).ln();
                            dp_bg += delta[0].abs() + delta[1].abs();
                            bg_count += 1.0;
                        } else {
                            fg -= (affinity + 1e-5).ln();
                            dp_fg += (delta[0] - dy as f64).abs() + (delta[1] - dx as f64).abs();
                            fg_count += 1.0;
                        }
                    }
                }
            }
        }
    }
    0.5 * (0.5 * bg / (bg_count + 1e-5) + 0.5 * fg / (fg_count + 1e-5) + neg / (neg_count + 1e-5))
        + 0.5 * (dp_fg / (2.0 * fg_count + 1e-5) + dp_bg / (2.0 * bg_count + 1e-5))
}

#[test]
fn loss_and_gradient_follow_the_definition() {
    for (radius, height, width, start) in [(3, 7, 9, 0.2), (4, 8, 11, 3.4)] {
        let plane = height * width;
        let values: Vec<f64> = scattered(2 * 3 * plane, start)
            .iter()
            .enumerate()
            .map(|(index, &v)| f64::from(if index < 2 * plane { 0.05 + 0.9 * v } else { 8.0 * v - 4.0 } as f32))
            .collect();
        let labels: Vec<LabelMap> = (0..2)
            .map(|image| {
                let noise = scattered(plane, 11.3 + f64::from(image));
                let data = noise.iter().enumerate().map(|(index, &v)| match (index % width / 3, v) {
                    (_, v) if v > 0.9 => 255,
                    (0, _) => 0,
                    (1, _) => 4,
                    _ => 20,
                });
                LabelMap::new(height, width, data.collect())
            })
            .collect();
        let narrow: Vec<f32> = values.iter().map(|&value| value as f32).collect();
        let (edge, displacement) = narrow.split_at(2 * plane);
        let batch = PairBatch { edge, displacement, labels: &labels, classes: 21 };
        let got = pair_loss(&batch, &paths(radius as usize));
        // Inputs are exact in both, sums are f64 in both; gradients are rounded to f32.
        let want = by_definition(&values, &labels, radius);
        assert!((got.total - want).abs() < 1e-9, "{} where {want} is due", got.total);
        let slopes = slopes(&values, |values| by_definition(values, &labels, radius));
        assert_close(&[got.edge_gradient, got.displacement_gradient].concat(), &slopes, 1e-6);
    }
}
