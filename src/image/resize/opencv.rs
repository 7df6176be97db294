//! OpenCV's `resize` as the segmentation program of MCTformer uses it (SPEC 0.5): linear on f64 pixels, nearest on masks.

use crate::image::{Maps, Rgb};

/// Resizes an image by `INTER_LINEAR` on unrounded pixels, no antialiasing; returns `[3, height, width]` in [0, 255].
///
/// All in f64, weights included, as OpenCV 4.14 and 5.0 measurably do on x86-64 (f32 weights, as SPEC 0.5 has them, would be
/// off by up to 5e-3); the result is stored as f32.
///
/// # Panics
/// If the image has no pixels and the result would have some.
pub fn opencv_linear(image: &Rgb, height: usize, width: usize) -> Maps {
    let rows = taps(image.height(), height);
    let columns = taps(image.width(), width);
    let mut maps = Maps::zeros(3, height, width);
    let mut blended = vec![0.0f64; image.width() * 3];
    let row_length = image.width() * 3;
    for (y, &(low, high, part)) in rows.iter().enumerate() {
        let upper = &image.data()[low * row_length..(low + 1) * row_length];
        let lower = &image.data()[high * row_length..(high + 1) * row_length];
        for ((value, &above), &below) in blended.iter_mut().zip(upper).zip(lower) {
            *value = f64::from(above) * (1.0 - part) + f64::from(below) * part;
        }
        for channel in 0..3 {
            let target = &mut maps.channel_mut(channel)[y * width..(y + 1) * width];
            for (value, &(low, high, part)) in target.iter_mut().zip(&columns) {
                *value = (blended[low * 3 + channel] * (1.0 - part) + blended[high * 3 + channel] * part) as f32;
            }
        }
    }
    maps
}

/// Returns per new place the two old places and the part of the second.
fn taps(from: usize, to: usize) -> Vec<(usize, usize, f64)> {
    assert!(from > 0 || to == 0, "there is nothing to resize");
    let scale = 1.0 / (to as f64 / from as f64);
    (0..to)
        .map(|x| {
            let place = (x as f64 + 0.5) * scale - 0.5;
            let low = place.floor();
            if low < 0.0 {
                (0, 0, 0.0)
            } else if low as usize >= from - 1 {
                (from - 1, from - 1, 0.0)
            } else {
                (low as usize, low as usize + 1, place - low)
            }
        })
        .collect()
}

pub(super) fn nearest_indices(from: usize, to: usize) -> Vec<usize> {
    assert!(from > 0 || to == 0, "there is nothing to pick from");
    let scale = 1.0 / (to as f64 / from as f64);
    (0..to).map(|x| ((x as f64 * scale).floor() as usize).min(from - 1)).collect()
}
