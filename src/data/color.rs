//! Colour jitter of 8-bit images as torchvision does it to Pillow images. Knows nothing of masks.
//!
//! Pillow blends with a degenerate image (black, the mean grey, the image's own greys), truncates to 8 bits after each
//! operation, and shifts hue in its 8-bit HSV, so four operations in another order give other pixels.

use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::image::Rgb;

/// How far each property may go: factors are drawn from `[max(0, 1 - x), 1 + x]`, the hue's shift from `[-hue, hue]` turns.
///
/// The four operations are done in a random order. ORANDNet uses 0.3, 0.3, 0.3 and 0.1 (SPEC 1.6).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ColorJitter {
    /// Brightness.
    pub brightness: f64,
    /// Contrast.
    pub contrast: f64,
    /// Saturation.
    pub saturation: f64,
    /// Hue, at most 0.5.
    pub hue: f64,
}

impl ColorJitter {
    /// Varies an image in place.
    pub fn apply(&self, image: &mut Rgb, rng: &mut ChaCha8Rng) {
        let mut order = [0, 1, 2, 3];
        order.shuffle(rng);
        let mut factor = |reach: f64| {
            let lowest = (1.0 - reach).max(0.0);
            (lowest + (1.0 + reach - lowest) * rng.random::<f64>()) as f32
        };
        let (brightness, contrast, saturation) =
            (factor(self.brightness), factor(self.contrast), factor(self.saturation));
        let hue = self.hue * (2.0 * rng.random::<f64>() - 1.0);
        for operation in order {
            match operation {
                0 => adjust_brightness(image, brightness),
                1 => adjust_contrast(image, contrast),
                2 => adjust_saturation(image, saturation),
                // A shift of 0 still takes the pixels through 8-bit HSV; torchvision leaves the operation out.
                _ if self.hue == 0.0 => {}
                _ => adjust_hue(image, hue),
            }
        }
    }
}

/// Blends with black: 0 is black, 1 the image itself.
pub fn adjust_brightness(image: &mut Rgb, factor: f32) {
    for value in image.data_mut() {
        *value = blend(0, *value, factor);
    }
}

/// Blends with the rounded mean of the image's greys.
pub fn adjust_contrast(image: &mut Rgb, factor: f32) {
    let greys: u64 = image.data().chunks_exact(3).map(|pixel| u64::from(grey(pixel))).sum();
    let count = (image.height() * image.width()).max(1);
    let mean = (greys as f64 / count as f64 + 0.5) as u8;
    for value in image.data_mut() {
        *value = blend(mean, *value, factor);
    }
}

/// Blends each pixel with its own grey: 0 is a grey image, 1 the image itself.
pub fn adjust_saturation(image: &mut Rgb, factor: f32) {
    for pixel in image.data_mut().chunks_exact_mut(3) {
        let grey = grey(pixel);
        for value in pixel {
            *value = blend(grey, *value, factor);
        }
    }
}

/// Turns the hue by `turns` of the circle, in steps of 1/256 as 8-bit HSV has them.
pub fn adjust_hue(image: &mut Rgb, turns: f64) {
    let shift = (turns * 255.0) as i32 as u8;
    for pixel in image.data_mut().chunks_exact_mut(3) {
        let [hue, saturation, value] = to_hsv([pixel[0], pixel[1], pixel[2]]);
        pixel.copy_from_slice(&from_hsv([hue.wrapping_add(shift), saturation, value]));
    }
}

/// Returns `from + factor * (to - from)`, truncated to 8 bits, as Pillow's blend.
fn blend(from: u8, to: u8, factor: f32) -> u8 {
    // `as` truncates towards zero and saturates, which is what Pillow's cast and clip do.
    (f32::from(from) + factor * (f32::from(to) - f32::from(from))) as u8
}

/// Returns the grey of a pixel: ITU-R 601 weights in 16-bit fixed point, rounded, as Pillow's conversion to `L`.
fn grey(pixel: &[u8]) -> u8 {
    let sum = u32::from(pixel[0]) * 19595 + u32::from(pixel[1]) * 38470 + u32::from(pixel[2]) * 7471 + 0x8000;
    (sum >> 16) as u8
}

fn to_hsv([red, green, blue]: [u8; 3]) -> [u8; 3] {
    let (largest, smallest) = (red.max(green).max(blue), red.min(green).min(blue));
    if largest == smallest {
        return [0, 0, largest];
    }
    let range = f32::from(largest - smallest);
    let saturation = range / f32::from(largest);
    let distance = |channel: u8| f32::from(largest - channel) / range;
    let (from_red, from_green, from_blue) = (distance(red), distance(green), distance(blue));
    let sector = if red == largest {
        f64::from(from_blue - from_green)
    } else if green == largest {
        2.0 + f64::from(from_red) - f64::from(from_blue)
    } else {
        4.0 + f64::from(from_green) - f64::from(from_red)
    };
    // Pillow keeps the hue in a float between the steps.
    let hue = ((f64::from(sector as f32) / 6.0 + 1.0) % 1.0) as f32;
    [(f64::from(hue) * 255.0) as u8, (f64::from(saturation) * 255.0) as u8, largest]
}

fn from_hsv([hue, saturation, value]: [u8; 3]) -> [u8; 3] {
    if saturation == 0 {
        return [value; 3];
    }
    let position = f64::from(hue) * 6.0 / 255.0;
    let strength = f64::from((f64::from(saturation) / 255.0) as f32);
    let sector = position.floor();
    let part = f64::from((position - sector) as f32);
    let scale = |share: f64| (f64::from(value) * share).round() as u8;
    let (low, falling, rising) =
        (scale(1.0 - strength), scale(1.0 - strength * part), scale(1.0 - strength * (1.0 - part)));
    match sector as u32 % 6 {
        0 => [value, rising, low],
        1 => [falling, value, low],
        2 => [low, value, rising],
        3 => [low, falling, value],
        4 => [rising, low, value],
        _ => [value, low, falling],
    }
}
