//! Seeded, joint augmentation of an image and its mask: scale, flip, colour, normalise, crop. Decides nothing about batches.
//!
//! The order is that of ORANDNet (SPEC 1.6, right column): resize, flip, colour jitter, normalise, crop. IRN normalises before
//! it flips, which gives the same values. All randomness comes from the one generator that is passed in, and every step draws
//! from it in a fixed order.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::ColorJitter;
use crate::image::normalise::{normalise, tables};
use crate::image::resize::{Filter, Nearest, nearest_mask, resize_rgb, scaled_size};
use crate::image::{LabelMap, Maps, Rgb};

/// How an image is resized before it is cropped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// Not at all.
    Keep,
    /// So that its long side has a length drawn uniformly from `shortest..=longest` pixels (SPEC 1.6).
    LongSide {
        /// Shortest length, in pixels.
        shortest: usize,
        /// Longest length, in pixels.
        longest: usize,
    },
    /// By a factor drawn uniformly from `smallest..largest` (SPEC 3.2).
    Factor {
        /// Smallest factor.
        smallest: f64,
        /// Largest factor.
        largest: f64,
    },
}

/// What is done to each training image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Augmentation {
    /// Resizing.
    pub scale: Scale,
    /// Probability of a horizontal flip.
    pub flip: f64,
    /// Colour jitter, of the image only.
    pub jitter: Option<ColorJitter>,
    /// Side of the square crop, in pixels; without it the whole image is kept.
    pub crop: Option<usize>,
}

/// An image that is ready for a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Normalised pixels, `[3, height, width]`; 0 where the crop reaches over the image's edge.
    pub image: Maps,
    /// Its mask, `[height, width]`; 255 where the crop reaches over the image's edge.
    pub mask: Option<LabelMap>,
}

impl Augmentation {
    /// Varies an image and, jointly, its mask.
    ///
    /// # Panics
    /// If the mask has another size than the image; reading it has made sure that it has not.
    pub fn apply(&self, image: &Rgb, mask: Option<&LabelMap>, rng: &mut ChaCha8Rng) -> Sample {
        if let Some(mask) = mask {
            assert_eq!(
                (mask.height(), mask.width()),
                (image.height(), image.width()),
                "a mask is as large as its image"
            );
        }
        let (height, width) = self.scale.draw(image.height(), image.width(), rng);
        let mut image = resize_rgb(image, height, width, Filter::PillowBicubic);
        let mut mask = mask.map(|mask| nearest_mask(mask, height, width, Nearest::Pillow));
        if self.flip > 0.0 && rng.random_bool(self.flip.min(1.0)) {
            image = flip_image(&image);
            mask = mask.as_ref().map(flip_mask);
        }
        if let Some(jitter) = &self.jitter {
            jitter.apply(&mut image, rng);
        }
        let Some(side) = self.crop else { return Sample { image: normalise(&image), mask } };
        let window = Crop::draw(height, width, side, rng);
        Sample { image: window.normalised(&image), mask: mask.as_ref().map(|mask| window.of_mask(mask)) }
    }
}

impl Scale {
    /// Draws the size (height, width) to which an image of this size is resized.
    ///
    /// Lengths are rounded half to even (SPEC 0.6) and at least 1.
    pub fn draw(&self, height: usize, width: usize, rng: &mut ChaCha8Rng) -> (usize, usize) {
        let factor = match *self {
            Self::Keep => return (height, width),
            Self::LongSide { shortest, longest } => {
                rng.random_range(shortest..=longest.max(shortest)) as f64 / height.max(width) as f64
            }
            Self::Factor { smallest, largest } => smallest + (largest - smallest) * rng.random::<f64>(),
        };
        scaled_size(height, width, factor)
    }
}

/// Where a square crop lies: the rule that all reference programs share (SPEC 1.6).
///
/// Along each axis a longer image gives a random window of itself; a shorter one lies at a random offset in the canvas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    side: usize,
    columns: Overlap,
    rows: Overlap,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Overlap {
    image: usize,
    canvas: usize,
    length: usize,
}

impl Crop {
    /// Draws a window, columns first.
    pub fn draw(height: usize, width: usize, side: usize, rng: &mut ChaCha8Rng) -> Self {
        let columns = Overlap::draw(width, side, rng);
        let rows = Overlap::draw(height, side, rng);
        Self { side, columns, rows }
    }

    /// Cuts an image and normalises what is left of it; what lies outside is 0.
    pub fn normalised(&self, image: &Rgb) -> Maps {
        let tables = tables();
        let mut canvas = Maps::zeros(3, self.side, self.side);
        for (channel, table) in tables.iter().enumerate() {
            let to = canvas.channel_mut(channel);
            for row in 0..self.rows.length {
                let from = ((self.rows.image + row) * image.width() + self.columns.image) * 3;
                let pixels = image.data()[from..from + self.columns.length * 3].chunks_exact(3);
                let to = &mut to[(self.rows.canvas + row) * self.side + self.columns.canvas..];
                for (value, pixel) in to.iter_mut().zip(pixels) {
                    *value = table[usize::from(pixel[channel])];
                }
            }
        }
        canvas
    }

    /// Cuts a mask; what lies outside is 255.
    pub fn of_mask(&self, mask: &LabelMap) -> LabelMap {
        let mut canvas = vec![LabelMap::IGNORE; self.side * self.side];
        for row in 0..self.rows.length {
            let from = (self.rows.image + row) * mask.width() + self.columns.image;
            let to = (self.rows.canvas + row) * self.side + self.columns.canvas;
            canvas[to..to + self.columns.length].copy_from_slice(&mask.data()[from..from + self.columns.length]);
        }
        LabelMap::new(self.side, self.side, canvas)
    }
}

impl Overlap {
    fn draw(length: usize, side: usize, rng: &mut ChaCha8Rng) -> Self {
        if length > side {
            Self { image: rng.random_range(0..=length - side), canvas: 0, length: side }
        } else {
            Self { image: 0, canvas: rng.random_range(0..=side - length), length }
        }
    }
}

/// Mirrors an image left to right.
pub fn flip_image(image: &Rgb) -> Rgb {
    let mut data = Vec::with_capacity(image.data().len());
    for row in image.data().chunks_exact(image.width() * 3) {
        data.extend(row.chunks_exact(3).rev().flatten());
    }
    Rgb::new(image.height(), image.width(), data)
}

/// Mirrors a mask left to right.
pub fn flip_mask(mask: &LabelMap) -> LabelMap {
    let data = mask.data().chunks_exact(mask.width()).flat_map(|row| row.iter().rev().copied()).collect();
    LabelMap::new(mask.height(), mask.width(), data)
}

/// Mirrors maps left to right.
pub fn flip_maps(maps: &Maps) -> Maps {
    let data = maps.data().chunks_exact(maps.width()).flat_map(|row| row.iter().rev().copied()).collect();
    Maps::new(maps.channels(), maps.height(), maps.width(), data)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn numbered(height: usize, width: usize) -> (Rgb, LabelMap) {
        let data: Vec<u8> = (0..height * width).map(|index| (index % 251) as u8).collect();
        let image = Rgb::new(height, width, data.iter().flat_map(|&value| [value; 3]).collect());
        (image, LabelMap::new(height, width, data))
    }

    #[test]
    fn a_crop_shows_the_same_pixels_of_image_and_mask_and_pads_what_is_missing() {
        let (image, mask) = numbered(7, 12);
        let augmentation = Augmentation { scale: Scale::Keep, flip: 0.5, jitter: None, crop: Some(9) };
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for _ in 0..50 {
            let sample = augmentation.apply(&image, Some(&mask), &mut rng);
            let cut = sample.mask.expect("a mask went in");
            let mut inside = 0;
            for (&label, &red) in cut.data().iter().zip(sample.image.channel(0)) {
                if label == LabelMap::IGNORE {
                    assert_eq!(red, 0.0);
                } else {
                    inside += 1;
                    assert_eq!(
                        red,
                        ((f64::from(label) / 255.0 - crate::image::normalise::MEAN[0])
                            / crate::image::normalise::DEVIATION[0]) as f32
                    );
                }
            }
            assert_eq!(inside, 7 * 9);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_sample_and_another_seed_another() {
        let (image, mask) = numbered(20, 30);
        let augmentation = Augmentation {
            scale: Scale::LongSide { shortest: 16, longest: 48 },
            flip: 0.5,
            jitter: Some(ColorJitter { brightness: 0.3, contrast: 0.3, saturation: 0.3, hue: 0.1 }),
            crop: Some(16),
        };
        let sample = |seed| augmentation.apply(&image, Some(&mask), &mut ChaCha8Rng::seed_from_u64(seed));
        assert_eq!(sample(1), sample(1));
        assert_ne!(sample(1), sample(2));
    }

    #[test]
    fn the_long_side_gets_the_length_that_was_drawn() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        for _ in 0..100 {
            let (height, width) = Scale::LongSide { shortest: 256, longest: 512 }.draw(375, 500, &mut rng);
            assert!((256..=512).contains(&width));
            assert_eq!(height, (width as f64 * 0.75).round_ties_even() as usize);
        }
    }

    #[test]
    fn flipping_twice_changes_nothing() {
        let (image, mask) = numbered(5, 8);
        assert_ne!(flip_image(&image), image);
        assert_eq!(flip_image(&flip_image(&image)), image);
        assert_eq!(flip_mask(&flip_mask(&mask)), mask);
        let maps = normalise(&image);
        assert_eq!(flip_maps(&maps), normalise(&flip_image(&image)));
    }
}
