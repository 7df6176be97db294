//! Pixels as networks want them: by ImageNet's mean and deviation. Knows no networks.

use super::{Maps, Rgb};

/// Means of the red, green and blue channel over ImageNet, in [0, 1] (SPEC 0.1).
pub const MEAN: [f64; 3] = [0.485, 0.456, 0.406];

/// Standard deviations of the channels over ImageNet, in [0, 1] (SPEC 0.1).
pub const DEVIATION: [f64; 3] = [0.229, 0.224, 0.225];

/// Returns the normalised value of each byte in each channel: `(x / 255 - mean) / deviation`, computed in f64 and stored in f32
/// (SPEC 0.1).
pub fn tables() -> [[f32; 256]; 3] {
    std::array::from_fn(|channel| {
        std::array::from_fn(|value| ((value as f64 / 255.0 - MEAN[channel]) / DEVIATION[channel]) as f32)
    })
}

/// Normalises an image to `[3, height, width]` by [`tables`].
pub fn normalise(image: &Rgb) -> Maps {
    let tables = tables();
    let mut maps = Maps::zeros(3, image.height(), image.width());
    for (channel, table) in tables.iter().enumerate() {
        for (value, pixel) in maps.channel_mut(channel).iter_mut().zip(image.data().chunks_exact(3)) {
            *value = table[usize::from(pixel[channel])];
        }
    }
    maps
}
