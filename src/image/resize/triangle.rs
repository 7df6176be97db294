//! Maps made smaller with antialiasing, in unrounded numbers.

use crate::image::Maps;

/// Resizes maps to a smaller size with a triangular filter as wide as two new pixels: Pillow's bilinear filter (SPEC 0.2) without
/// its rounding to bytes, which normalised pixels would not survive.
pub fn shrink_maps(maps: &Maps, height: usize, width: usize) -> Maps {
    let (rows, columns) = (filter(maps.height(), height), filter(maps.width(), width));
    let mut small = Maps::zeros(maps.channels(), height, width);
    let mut across = vec![0.0_f64; maps.height() * width];
    for channel in 0..maps.channels() {
        for (source, target) in maps.channel(channel).chunks_exact(maps.width()).zip(across.chunks_exact_mut(width)) {
            for (value, (start, weights)) in target.iter_mut().zip(&columns) {
                *value = weights.iter().zip(&source[*start..]).map(|(weight, &x)| weight * f64::from(x)).sum();
            }
        }
        for (target, (start, weights)) in small.channel_mut(channel).chunks_exact_mut(width).zip(&rows) {
            for (column, value) in target.iter_mut().enumerate() {
                let down = weights.iter().enumerate().map(|(i, weight)| weight * across[(start + i) * width + column]);
                *value = down.sum::<f64>() as f32;
            }
        }
    }
    small
}

/// Returns for each new place the first old one it draws from and their weights, which sum to 1 (SPEC 0.2).
fn filter(from: usize, to: usize) -> Vec<(usize, Vec<f64>)> {
    let scale = from as f64 / to as f64;
    let support = scale.max(1.0);
    (0..to)
        .map(|place| {
            let centre = (place as f64 + 0.5) * scale;
            let start = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let raw: Vec<f64> =
                (start..end).map(|old| (1.0 - ((old as f64 - centre + 0.5) / support).abs()).max(0.0)).collect();
            let sum: f64 = raw.iter().sum();
            (start, raw.into_iter().map(|weight| weight / sum).collect())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Rgb;
    use crate::image::resize::{Filter, resize_rgb};

    #[test]
    fn shrinking_agrees_with_pillow_to_its_rounding() {
        let (height, width) = (41, 37);
        let data: Vec<u8> = (0..height * width * 3).map(|i| (i * i % 251) as u8).collect();
        let image = Rgb::new(height, width, data);
        let pillow = resize_rgb(&image, 10, 9, Filter::PillowBilinear);
        let mut maps = Maps::zeros(3, height, width);
        for channel in 0..3 {
            for (value, pixel) in maps.channel_mut(channel).iter_mut().zip(image.data().chunks_exact(3)) {
                *value = f32::from(pixel[channel]);
            }
        }
        let small = shrink_maps(&maps, 10, 9);
        for channel in 0..3 {
            for (value, pixel) in small.channel(channel).iter().zip(pillow.data().chunks_exact(3)) {
                // Pillow rounds after each of its two passes.
                assert!((value - f32::from(pixel[channel])).abs() <= 1.0, "{value} {}", pixel[channel]);
            }
        }
    }
}
