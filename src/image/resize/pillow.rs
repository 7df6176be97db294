//! Pillow's resampling of 8-bit images, bit for bit (SPEC 0.2), and its nearest neighbour (SPEC 0.3).

use crate::image::{Maps, Rgb};

/// Bits after the point of a quantised weight: 32 less 8 for the pixel less 2 for the head room of negative lobes.
const PRECISION_BITS: u32 = 22;

/// A convolution filter of Pillow's, widened by the ratio where the image shrinks (antialiasing).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// `Image.BILINEAR`: a triangle of radius 1.
    PillowBilinear,
    /// `Image.BICUBIC`: Keys' cubic with a = -0.5, radius 2.
    PillowBicubic,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Filter::PillowBilinear => 1.0,
            Filter::PillowBicubic => 2.0,
        }
    }

    fn weight(self, at: f64) -> f64 {
        const A: f64 = -0.5;
        let t = at.abs();
        match self {
            Filter::PillowBilinear if t < 1.0 => 1.0 - t,
            Filter::PillowBicubic if t < 1.0 => ((A + 2.0) * t - (A + 3.0)) * t * t + 1.0,
            Filter::PillowBicubic if t < 2.0 => (((t - 5.0) * t + 8.0) * t - 4.0) * A,
            _ => 0.0,
        }
    }
}

/// Resizes an image as Pillow's `Image.resize` does: across, then down, rounded to bytes in between.
///
/// # Panics
/// If the image has no pixels and the result would have some.
pub fn resize_rgb(image: &Rgb, height: usize, width: usize, filter: Filter) -> Rgb {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        #[expect(unsafe_code, reason = "the processor has the instructions that the function is compiled for")]
        // SAFETY: see above.
        return unsafe { resize_avx2(image, height, width, filter) };
    }
    resize_here(image, height, width, filter)
}

/// The same on vectors of eight; sums are of integers, so that the bytes are the same.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn resize_avx2(image: &Rgb, height: usize, width: usize, filter: Filter) -> Rgb {
    resize_here(image, height, width, filter)
}

#[inline(always)]
fn resize_here(image: &Rgb, height: usize, width: usize, filter: Filter) -> Rgb {
    let across;
    let image = if image.width() == width {
        image
    } else {
        across = resize_rows(image, width, filter);
        &across
    };
    if image.height() == height { image.clone() } else { resize_columns(image, height, filter) }
}

/// Resizes maps by Pillow's nearest neighbour (mode `F`).
///
/// # Panics
/// If the maps have no pixels and the result would have some.
pub fn nearest_maps(maps: &Maps, height: usize, width: usize) -> Maps {
    let rows = nearest_indices(maps.height(), height);
    let columns = nearest_indices(maps.width(), width);
    let mut data = Vec::with_capacity(maps.channels() * height * width);
    for channel in 0..maps.channels() {
        data.extend(super::gather(maps.channel(channel), maps.width(), &rows, &columns));
    }
    Maps::new(maps.channels(), height, width, data)
}

/// The places are summed up one by one as Pillow does; the closed form rounds other places down (SPEC 0.3).
pub(super) fn nearest_indices(from: usize, to: usize) -> Vec<usize> {
    assert!(from > 0 || to == 0, "there is nothing to pick from");
    let step = from as f64 / to as f64;
    let mut place = step * 0.5;
    (0..to)
        .map(|_| {
            let index = (place as usize).min(from - 1);
            place += step;
            index
        })
        .collect()
}

/// The window of one output place: the first source place and one quantised weight per source place.
struct Window {
    first: usize,
    weights: Vec<i32>,
}

fn windows(from: usize, to: usize, filter: Filter) -> Vec<Window> {
    assert!(from > 0 || to == 0, "there is nothing to resize");
    let scale = from as f64 / to as f64;
    let filter_scale = scale.max(1.0);
    let support = filter.support() * filter_scale;
    let per_filter_scale = 1.0 / filter_scale;
    (0..to)
        .map(|x| {
            let centre = (x as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let raw: Vec<f64> =
                (first..end).map(|place| filter.weight((place as f64 - centre + 0.5) * per_filter_scale)).collect();
            let sum: f64 = raw.iter().sum();
            let quantise = |weight: f64| {
                let scaled = if sum == 0.0 { weight } else { weight / sum } * f64::from(1 << PRECISION_BITS);
                if weight < 0.0 { (scaled - 0.5) as i32 } else { (scaled + 0.5) as i32 }
            };
            Window { first, weights: raw.iter().map(|&weight| quantise(weight)).collect() }
        })
        .collect()
}

/// Half of a grey level.
const HALF: i32 = 1 << (PRECISION_BITS - 1);

#[inline(always)]
fn round(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Rows that are resized across together: one weight then serves 24 bytes, three vectors of eight.
const STRIP: usize = 8;

/// Bytes of a row that are resized down together.
const CHUNK: usize = 32;

#[inline(always)]
fn resize_rows(image: &Rgb, width: usize, filter: Filter) -> Rgb {
    let windows = windows(image.width(), width, filter);
    let mut data = vec![0; image.height() * width * 3];
    let mut columns = vec![[0; STRIP * 3]; image.width()];
    let from = image.data().chunks(image.width() * 3 * STRIP);
    for (from, to) in from.zip(data.chunks_mut(width * 3 * STRIP)) {
        for (row, pixels) in from.chunks_exact(image.width() * 3).enumerate() {
            for (column, pixel) in columns.iter_mut().zip(pixels.chunks_exact(3)) {
                column[row * 3..row * 3 + 3].copy_from_slice(pixel);
            }
        }
        for (x, window) in windows.iter().enumerate() {
            let bytes = weighted(columns[window.first..].iter(), &window.weights);
            for (row, pixel) in to.chunks_exact_mut(width * 3).zip(bytes.chunks_exact(3)) {
                row[x * 3..x * 3 + 3].copy_from_slice(pixel);
            }
        }
    }
    Rgb::new(image.height(), width, data)
}

#[inline(always)]
fn resize_columns(image: &Rgb, height: usize, filter: Filter) -> Rgb {
    let row_length = image.width() * 3;
    let mut data = vec![0; height * row_length];
    for (window, to) in windows(image.height(), height, filter).iter().zip(data.chunks_exact_mut(row_length)) {
        let from = &image.data()[window.first * row_length..];
        let (chunks, rest) = to.as_chunks_mut::<CHUNK>();
        let rest_at = chunks.len() * CHUNK;
        for (index, to) in chunks.iter_mut().enumerate() {
            let rows = from.chunks_exact(row_length).map(|row| &row[index * CHUNK..]);
            *to = weighted(rows.map(|row| row.first_chunk().expect("the chunk ends within the row")), &window.weights);
        }
        for (index, to) in rest.iter_mut().enumerate() {
            let bytes = from.chunks_exact(row_length).map(|row| row[rest_at + index]);
            let sum: i32 = bytes.zip(&window.weights).map(|(byte, &weight)| i32::from(byte) * weight).sum();
            *to = round(HALF + sum);
        }
    }
    Rgb::new(height, image.width(), data)
}

/// Returns the weighted sums of bytes side by side, rounded.
#[inline(always)]
fn weighted<'a, const N: usize>(bytes: impl Iterator<Item = &'a [u8; N]>, weights: &[i32]) -> [u8; N] {
    let mut sums = [HALF; N];
    for (bytes, &weight) in bytes.zip(weights) {
        for (sum, &byte) in sums.iter_mut().zip(bytes) {
            *sum += i32::from(byte) * weight;
        }
    }
    sums.map(round)
}

/// Returns a size times a factor, each side rounded half to even and at least 1.
pub fn scaled_size(height: usize, width: usize, factor: f64) -> (usize, usize) {
    let side = |length: usize| (length as f64 * factor).round_ties_even().max(1.0) as usize;
    (side(height), side(width))
}
