//! RandAugment (Cubuk et al. 2020) with the operations and strengths of timm's `rand-m9-mstd0.5-inc1` on Pillow images (SPEC 4.4).
//! Knows nothing of masks: operations move pixels.
//!
//! timm picks bilinear or bicubic sampling at random only where nothing else is asked for; MCTformer's program asks for `bicubic`
//! (`--train-interpolation`), so that it is always that.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::color::{adjust_brightness, adjust_contrast, adjust_saturation};
use crate::image::Rgb;

/// What shows where an operation leaves the image: ImageNet's mean colour.
const FILL: [u8; 3] = [124, 116, 104];

/// The largest strength.
const MOST: f64 = 10.0;

/// How strongly images are varied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RandAugment {
    /// Operations drawn for each image; each is done with probability one half.
    pub operations: usize,
    /// Mean strength, 0 to 10.
    pub magnitude: f64,
    /// Its standard deviation.
    pub deviation: f64,
}

impl RandAugment {
    /// The values of the recipe.
    pub const RECIPE: Self = Self { operations: 2, magnitude: 9.0, deviation: 0.5 };

    /// Varies an image.
    pub fn apply(&self, image: &mut Rgb, rng: &mut ChaCha8Rng) {
        for _ in 0..self.operations {
            let operation = Operation::ALL[rng.random_range(0..Operation::ALL.len())];
            let strength = (self.magnitude + self.deviation * normal(rng)).clamp(0.0, MOST) / MOST;
            let sign = if rng.random_bool(0.5) { 1.0 } else { -1.0 };
            if rng.random_bool(0.5) {
                operation.apply(image, strength, sign);
            }
        }
    }
}

/// One standard normal number, by the transform of Box and Muller.
pub(super) fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

/// The operations of timm's increasing set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Each channel is stretched to 0 to 255.
    AutoContrast,
    /// Each channel's histogram becomes flat.
    Equalize,
    /// 255 minus the value.
    Invert,
    /// Up to 30 degrees.
    Rotate,
    /// Only the upper bits of each value are kept, down to none.
    Posterize,
    /// Values from a threshold on are inverted; it falls from 256.
    Solarize,
    /// Values below 128 grow by up to 110.
    SolarizeAdd,
    /// Saturation, by up to 0.9 more or less.
    Color,
    /// Contrast, by up to 0.9 more or less.
    Contrast,
    /// Brightness, by up to 0.9 more or less.
    Brightness,
    /// Sharpness, by up to 0.9 more or less.
    Sharpness,
    /// Rows slide by up to 0.3 of their distance.
    ShearX,
    /// Columns slide by up to 0.3 of their distance.
    ShearY,
    /// By up to 0.45 of the width.
    TranslateX,
    /// By up to 0.45 of the height.
    TranslateY,
}

impl Operation {
    /// All of them, each as likely.
    pub const ALL: [Self; 15] = [
        Self::AutoContrast,
        Self::Equalize,
        Self::Invert,
        Self::Rotate,
        Self::Posterize,
        Self::Solarize,
        Self::SolarizeAdd,
        Self::Color,
        Self::Contrast,
        Self::Brightness,
        Self::Sharpness,
        Self::ShearX,
        Self::ShearY,
        Self::TranslateX,
        Self::TranslateY,
    ];

    /// Does the operation with a strength from 0 to 1; `sign` is 1 or -1 and turns those around that have a direction.
    pub fn apply(self, image: &mut Rgb, strength: f64, sign: f64) {
        let factor = (1.0 + sign * strength * 0.9) as f32;
        let (height, width) = (image.height() as f64, image.width() as f64);
        match self {
            Self::AutoContrast => per_channel(image, stretch),
            Self::Equalize => per_channel(image, flatten),
            Self::Invert => per_value(image, |value| 255 - value),
            Self::Posterize => {
                let bits = 4 - (strength * 4.0) as u32;
                let mask = (0xff00_u32 >> bits) as u8;
                per_value(image, |value| value & mask);
            }
            Self::Solarize => {
                let threshold = 256 - (strength * 256.0) as u32;
                per_value(image, |value| if u32::from(value) < threshold { value } else { 255 - value });
            }
            Self::SolarizeAdd => {
                let more = (strength * 110.0) as u8;
                per_value(image, |value| if value < 128 { value.saturating_add(more) } else { value });
            }
            Self::Color => adjust_saturation(image, factor),
            Self::Contrast => adjust_contrast(image, factor),
            Self::Brightness => adjust_brightness(image, factor),
            Self::Sharpness => sharpen(image, factor),
            Self::Rotate => {
                let (sine, cosine) = (sign * strength * 30.0).to_radians().sin_cos();
                // Pillow rounds to 15 decimals, so that right angles are right.
                let [sine, cosine] = [sine, cosine].map(|value| (value * 1e15).round() / 1e15);
                let (middle_x, middle_y) = (width / 2.0, height / 2.0);
                let matrix = [
                    cosine,
                    -sine,
                    -cosine * middle_x + sine * middle_y + middle_x,
                    sine,
                    cosine,
                    -sine * middle_x - cosine * middle_y + middle_y,
                ];
                transform(image, matrix);
            }
            Self::ShearX => transform(image, [1.0, sign * strength * 0.3, 0.0, 0.0, 1.0, 0.0]),
            Self::ShearY => transform(image, [1.0, 0.0, 0.0, sign * strength * 0.3, 1.0, 0.0]),
            Self::TranslateX => transform(image, [1.0, 0.0, sign * strength * 0.45 * width, 0.0, 1.0, 0.0]),
            Self::TranslateY => transform(image, [1.0, 0.0, 0.0, 0.0, 1.0, sign * strength * 0.45 * height]),
        }
    }
}

fn per_value(image: &mut Rgb, change: impl Fn(u8) -> u8) {
    image.data_mut().iter_mut().for_each(|value| *value = change(*value));
}

/// Changes each channel by a table that is made of its histogram.
fn per_channel(image: &mut Rgb, table: impl Fn(&[u64; 256]) -> [u8; 256]) {
    for channel in 0..3 {
        let mut histogram = [0_u64; 256];
        for pixel in image.data().chunks_exact(3) {
            histogram[usize::from(pixel[channel])] += 1;
        }
        let table = table(&histogram);
        for pixel in image.data_mut().chunks_exact_mut(3) {
            pixel[channel] = table[usize::from(pixel[channel])];
        }
    }
}

fn unchanged() -> [u8; 256] {
    std::array::from_fn(|value| value as u8)
}

/// Pillow's `autocontrast` without cutoff.
fn stretch(histogram: &[u64; 256]) -> [u8; 256] {
    let (Some(low), Some(high)) =
        (histogram.iter().position(|&count| count > 0), histogram.iter().rposition(|&count| count > 0))
    else {
        return unchanged();
    };
    if high <= low {
        return unchanged();
    }
    let scale = 255.0 / (high - low) as f64;
    let offset = -(low as f64) * scale;
    std::array::from_fn(|value| (value as f64 * scale + offset) as u8)
}

/// Pillow's `equalize`.
fn flatten(histogram: &[u64; 256]) -> [u8; 256] {
    let Some(last) = histogram.iter().rposition(|&count| count > 0) else { return unchanged() };
    let step = (histogram.iter().sum::<u64>() - histogram[last]) / 255;
    if step == 0 {
        return unchanged();
    }
    let mut sum = step / 2;
    std::array::from_fn(|value| {
        let level = (sum / step).min(255) as u8;
        sum += histogram[value];
        level
    })
}

/// Blends with a smoothed image: 0 is smooth, 1 the image itself. The image's rim is not smoothed.
fn sharpen(image: &mut Rgb, factor: f32) {
    let (height, width) = (image.height(), image.width());
    let source = image.clone();
    for row in 1..height.saturating_sub(1) {
        for column in 1..width.saturating_sub(1) {
            for channel in 0..3 {
                let at = |row: usize, column: usize| i32::from(source.data()[(row * width + column) * 3 + channel]);
                let around: i32 = (row - 1..=row + 1)
                    .flat_map(|y| (column - 1..=column + 1).map(move |x| (y, x)))
                    .map(|(y, x)| at(y, x))
                    .sum();
                let own = at(row, column) as f32;
                let smooth = ((around as f32 + 4.0 * own) / 13.0 + 0.5).floor();
                image.data_mut()[(row * width + column) * 3 + channel] = (smooth + factor * (own - smooth)) as u8;
            }
        }
    }
}

/// Shows at each pixel (x, y) what was at `(a x + b y + c, d x + e y + f)`, as Pillow's affine transform with the bicubic filter
/// (`ImagingTransform` in its `Geometry.c`): rows and columns beyond the rim repeat it, and values are cut, not rounded.
fn transform(image: &mut Rgb, [a, b, c, d, e, f]: [f64; 6]) {
    let (height, width) = (image.height(), image.width());
    let source = image.clone();
    for row in 0..height {
        for column in 0..width {
            let (x, y) = (column as f64 + 0.5, row as f64 + 0.5);
            let (from_x, from_y) = (a * x + b * y + c, d * x + e * y + f);
            let inside = from_x >= 0.0 && from_y >= 0.0 && from_x < width as f64 && from_y < height as f64;
            let pixel = if inside { sample(&source, from_x - 0.5, from_y - 0.5) } else { FILL };
            image.data_mut()[(row * width + column) * 3..][..3].copy_from_slice(&pixel);
        }
    }
}

fn sample(image: &Rgb, x: f64, y: f64) -> [u8; 3] {
    let (left, top) = (x.floor(), y.floor());
    let near = |first: f64, length: usize| {
        [-1.0, 0.0, 1.0, 2.0].map(|offset| (first + offset).clamp(0.0, length as f64 - 1.0) as usize)
    };
    let (columns, rows) = (near(left, image.width()), near(top, image.height()));
    std::array::from_fn(|channel| {
        let lines = rows.map(|row| {
            cubic(columns.map(|column| f64::from(image.data()[(row * image.width() + column) * 3 + channel])), x - left)
        });
        // Cut at 0 and 255 by the conversion.
        cubic(lines, y - top) as u8
    })
}

/// The cubic through the two values in the middle whose slopes there are those between their neighbours (Keys's with a = -1).
fn cubic([before, first, second, after]: [f64; 4], at: f64) -> f64 {
    let square = 2.0 * (before - first) + second - after;
    let cube = -before + first - second + after;
    first + at * (second - before + at * (square + at * cube))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn picture() -> Rgb {
        let data = (0..12 * 10 * 3).map(|place: usize| (40 + place * 37 % 150) as u8).collect();
        Rgb::new(12, 10, data)
    }

    #[test]
    fn nothing_moves_at_strength_zero_but_what_has_no_strength() {
        // Pillow's equalisation leaves images alone that have hardly more pixels than there are values.
        let data: Vec<u8> = (0..40 * 32 * 3).map(|place: usize| (40 + place * 37 % 150) as u8).collect();
        let picture = || Rgb::new(40, 32, data.clone());
        for operation in Operation::ALL {
            let mut image = picture();
            operation.apply(&mut image, 0.0, 1.0);
            let fixed = [Operation::AutoContrast, Operation::Equalize, Operation::Invert, Operation::Posterize];
            assert_eq!(image == picture(), !fixed.contains(&operation), "{operation:?}");
        }
    }

    #[test]
    fn operations_have_the_strength_of_timm() {
        let mut image = Rgb::new(1, 2, vec![100, 200, 130, 20, 127, 128]);
        Operation::SolarizeAdd.apply(&mut image, 0.9, 1.0);
        assert_eq!(image.data(), [199, 200, 130, 119, 226, 128]);
        let mut image = Rgb::new(1, 2, vec![100, 200, 130, 20, 127, 128]);
        // 4 - int(0.9 * 4) = 1 bit is left.
        Operation::Posterize.apply(&mut image, 0.9, 1.0);
        assert_eq!(image.data(), [0, 128, 128, 0, 0, 128]);
        let mut image = Rgb::new(1, 2, vec![100, 200, 130, 20, 26, 25]);
        // From 256 - int(0.9 * 256) = 26 on.
        Operation::Solarize.apply(&mut image, 0.9, 1.0);
        assert_eq!(image.data(), [155, 55, 125, 20, 229, 25]);
    }

    #[test]
    fn a_shift_of_whole_pixels_copies_them_and_fills_the_rest() {
        let mut image = picture();
        // 0.45 of the width, times a strength that makes it 3 pixels.
        Operation::TranslateX.apply(&mut image, 3.0 / 4.5, 1.0);
        assert_eq!(image.pixel(5, 2), picture().pixel(5, 5));
        assert_eq!(image.pixel(5, 9), FILL);
    }

    #[test]
    fn the_same_seed_varies_in_the_same_way() {
        let varied = |seed| {
            let mut image = picture();
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            (0..4).for_each(|_| RandAugment::RECIPE.apply(&mut image, &mut rng));
            image
        };
        assert_eq!(varied(1), varied(1));
        assert_ne!(varied(1), varied(2));
    }
}
