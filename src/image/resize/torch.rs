//! torch's `F.interpolate` on f32 maps, without antialiasing (SPEC 0.4).

use crate::image::Maps;

/// Where a new place lies among the old ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Coordinates {
    /// `align_corners=False` with `size`: centres of pixels, ratio old size / new size.
    HalfPixel,
    /// `align_corners=False` with `scale_factor`: centres of pixels, ratio 1 / factor, whatever the sizes are.
    ScaleFactor {
        /// The factor down the rows.
        vertical: f64,
        /// The factor along a row.
        horizontal: f64,
    },
    /// `align_corners=True`: the corner pixels of old and new lie on each other.
    AlignCorners,
}

impl Coordinates {
    /// The same scale factor both ways.
    pub fn scale_factor(factor: f64) -> Self {
        Coordinates::ScaleFactor { vertical: factor, horizontal: factor }
    }

    /// Returns the coordinates of `to` new places among `from` old ones, in f32 as torch computes them.
    fn places(self, from: usize, to: usize, axis: Axis) -> impl Iterator<Item = f32> {
        let (ratio, offset) = match self {
            Coordinates::HalfPixel => (from as f32 / to as f32, 0.5),
            Coordinates::ScaleFactor { vertical, horizontal } => {
                let factor = if axis == Axis::Vertical { vertical } else { horizontal };
                ((1.0 / factor) as f32, 0.5)
            }
            Coordinates::AlignCorners if to > 1 => ((from - 1) as f32 / (to - 1) as f32, 0.0),
            Coordinates::AlignCorners => (0.0, 0.0),
        };
        (0..to).map(move |x| ratio * (x as f32 + offset) - offset)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Axis {
    Vertical,
    Horizontal,
}

/// Returns the size that torch gives a side of `n` for a `scale_factor`.
pub fn scaled(n: usize, factor: f64) -> usize {
    (n as f64 * factor).floor() as usize
}

/// Resizes maps bilinearly to `[channels, height, width]`.
///
/// # Panics
/// If the maps have no pixels and the result would have some.
pub fn interpolate_bilinear(maps: &Maps, height: usize, width: usize, coordinates: Coordinates) -> Maps {
    let taps = |from: usize, to: usize, axis| -> Vec<[(usize, f32); 2]> {
        assert!(from > 0 || to == 0, "there is nothing to interpolate");
        let places = coordinates.places(from, to, axis);
        places
            .map(|place| {
                let place = place.max(0.0);
                let low = (place as usize).min(from - 1);
                let part = (place - low as f32).min(1.0);
                [(low, 1.0 - part), ((low + 1).min(from - 1), part)]
            })
            .collect()
    };
    let rows = taps(maps.height(), height, Axis::Vertical);
    let columns = taps(maps.width(), width, Axis::Horizontal);
    interpolate(maps, &rows, &columns)
}

/// Resizes maps bicubically (A = -0.75, border repeated) to `[channels, height, width]`.
///
/// # Panics
/// If the maps have no pixels and the result would have some.
pub fn interpolate_bicubic(maps: &Maps, height: usize, width: usize, coordinates: Coordinates) -> Maps {
    let taps = |from: usize, to: usize, axis| -> Vec<[(usize, f32); 4]> {
        assert!(from > 0 || to == 0, "there is nothing to interpolate");
        let places = coordinates.places(from, to, axis);
        places
            .map(|place| {
                let low = place.floor();
                let weights = cubic_weights(place - low);
                let index = |tap: usize| (low as isize - 1 + tap as isize).clamp(0, from as isize - 1) as usize;
                std::array::from_fn(|tap| (index(tap), weights[tap]))
            })
            .collect()
    };
    let rows = taps(maps.height(), height, Axis::Vertical);
    let columns = taps(maps.width(), width, Axis::Horizontal);
    interpolate(maps, &rows, &columns)
}

/// Keys' cubic at distances 1 + t, t, 1 - t and 2 - t.
fn cubic_weights(t: f32) -> [f32; 4] {
    const A: f32 = -0.75;
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]
}

/// Blends whole source rows first, since that runs over contiguous memory, then picks along the blended row.
fn interpolate<const TAPS: usize>(
    maps: &Maps,
    rows: &[[(usize, f32); TAPS]],
    columns: &[[(usize, f32); TAPS]],
) -> Maps {
    let width = maps.width();
    let mut blended = vec![0.0f32; width];
    let mut data = Vec::with_capacity(maps.channels() * rows.len() * columns.len());
    for channel in 0..maps.channels() {
        let plane = maps.channel(channel);
        for taps in rows {
            blended.fill(0.0);
            for &(row, weight) in taps {
                for (sum, &value) in blended.iter_mut().zip(&plane[row * width..(row + 1) * width]) {
                    *sum += weight * value;
                }
            }
            data.extend(
                columns.iter().map(|taps| taps.iter().map(|&(column, weight)| weight * blended[column]).sum::<f32>()),
            );
        }
    }
    Maps::new(maps.channels(), rows.len(), columns.len(), data)
}
