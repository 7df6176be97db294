//! The augmentation of image classifiers that see one square: a random part of the image resized to it, mirrored, varied, and
//! partly erased (SPEC 4.4). Knows nothing of masks.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::augment::flip_image;
use super::rand_augment::{RandAugment, normal};
use crate::image::normalise::normalise;
use crate::image::resize::{Filter, resize_rgb};
use crate::image::{Maps, Rgb};

/// What is done to each training image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CropResize {
    /// Side of the square, in pixels.
    pub side: usize,
    /// Smallest and largest share of the image's area that is seen.
    pub area: [f64; 2],
    /// Probability of a horizontal flip.
    pub flip: f64,
    /// Random operations.
    pub augment: Option<RandAugment>,
    /// Probability that a rectangle is filled with noise (Zhong et al. 2020).
    pub erase: f64,
}

/// Width over height of the part that is seen, as torchvision's default.
const ASPECT: [f64; 2] = [3.0 / 4.0, 4.0 / 3.0];
/// Share of the area that is erased, and width over height of what is, as timm's default.
const ERASED: [f64; 2] = [0.02, 1.0 / 3.0];
const ERASED_ASPECT: [f64; 2] = [0.3, 1.0 / 0.3];
/// How often a rectangle is drawn until one fits.
const TRIES: usize = 10;

impl CropResize {
    /// Varies an image and normalises it, `[3, side, side]`.
    pub fn apply(&self, image: &Rgb, rng: &mut ChaCha8Rng) -> Maps {
        let [row, column, height, width] = self.part(image.height(), image.width(), rng);
        let mut image =
            resize_rgb(&cut(image, row, column, height, width), self.side, self.side, Filter::PillowBicubic);
        if self.flip > 0.0 && rng.random_bool(self.flip.min(1.0)) {
            image = flip_image(&image);
        }
        if let Some(augment) = &self.augment {
            augment.apply(&mut image, rng);
        }
        let mut pixels = normalise(&image);
        if self.erase > 0.0 && rng.random_bool(self.erase.min(1.0)) {
            erase(&mut pixels, rng);
        }
        pixels
    }

    /// Draws the part that is seen: row, column, height and width. If ten draws do not fit, the middle of the image.
    fn part(&self, height: usize, width: usize, rng: &mut ChaCha8Rng) -> [usize; 4] {
        for _ in 0..TRIES {
            let (tall, wide) = rectangle((height * width) as f64, self.area, ASPECT, rng);
            if tall > 0 && wide > 0 && tall <= height && wide <= width {
                return [rng.random_range(0..=height - tall), rng.random_range(0..=width - wide), tall, wide];
            }
        }
        let aspect = (width as f64 / height as f64).clamp(ASPECT[0], ASPECT[1]);
        let wide = ((height as f64 * aspect).round_ties_even() as usize).clamp(1, width);
        let tall = ((width as f64 / aspect).round_ties_even() as usize).clamp(1, height);
        [(height - tall) / 2, (width - wide) / 2, tall, wide]
    }
}

/// Draws height and width: the area's share uniformly, the aspect uniformly in its logarithm.
fn rectangle(area: f64, share: [f64; 2], aspect: [f64; 2], rng: &mut ChaCha8Rng) -> (usize, usize) {
    let between = |[low, high]: [f64; 2], part: f64| low + (high - low) * part;
    let area = area * between(share, rng.random::<f64>());
    let aspect = between(aspect.map(f64::ln), rng.random::<f64>()).exp();
    ((area / aspect).sqrt().round_ties_even() as usize, (area * aspect).sqrt().round_ties_even() as usize)
}

fn cut(image: &Rgb, row: usize, column: usize, height: usize, width: usize) -> Rgb {
    let rows = image.data().chunks_exact(image.width() * 3).skip(row).take(height);
    Rgb::new(height, width, rows.flat_map(|row| row[column * 3..(column + width) * 3].iter().copied()).collect())
}

/// Fills one rectangle with normal noise.
fn erase(pixels: &mut Maps, rng: &mut ChaCha8Rng) {
    let (height, width) = (pixels.height(), pixels.width());
    for _ in 0..TRIES {
        let (tall, wide) = rectangle((height * width) as f64, ERASED, ERASED_ASPECT, rng);
        if tall >= height || wide >= width {
            continue;
        }
        let (top, left) = (rng.random_range(0..=height - tall), rng.random_range(0..=width - wide));
        for channel in 0..pixels.channels() {
            for row in top..top + tall {
                let row = &mut pixels.channel_mut(channel)[row * width + left..][..wide];
                row.iter_mut().for_each(|value| *value = normal(rng) as f32);
            }
        }
        return;
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn parts_lie_within_and_have_the_share_that_was_asked_for() {
        let crop = CropResize { side: 8, area: [0.2, 0.5], flip: 0.0, augment: None, erase: 0.0 };
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..300 {
            let [row, column, height, width] = crop.part(60, 80, &mut rng);
            assert!(row + height <= 60 && column + width <= 80);
            let share = (height * width) as f64 / 4800.0;
            assert!((0.19..0.52).contains(&share), "{share}");
        }
        // No part of such an image has an aspect that is allowed, except a small one.
        let whole = CropResize { area: [1.0, 1.0], ..crop };
        assert_eq!(whole.part(10, 100, &mut rng), [0, 43, 10, 13]);
    }

    #[test]
    fn erasing_fills_one_rectangle() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let mut pixels = Maps::zeros(3, 40, 40);
        erase(&mut pixels, &mut rng);
        let share = pixels.data().iter().filter(|value| **value != 0.0).count() as f64 / 4800.0;
        assert!((0.01..0.35).contains(&share), "{share}");
    }

    #[test]
    fn the_same_seed_gives_the_same_square() {
        let image = Rgb::new(30, 44, (0..30 * 44 * 3).map(|place: usize| (place * 7 % 256) as u8).collect());
        let crop =
            CropResize { side: 16, area: [0.08, 1.0], flip: 0.5, augment: Some(RandAugment::RECIPE), erase: 0.25 };
        let square = |seed| crop.apply(&image, &mut ChaCha8Rng::seed_from_u64(seed));
        assert_eq!((square(1).height(), square(1).width()), (16, 16));
        assert_eq!(square(1), square(1));
        assert_ne!(square(1), square(2));
    }
}
