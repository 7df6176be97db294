//! IRN's random walk: class scores spread over a map, but not across its edges (SPEC 8.5, 8.6).
//!
//! The reference program builds the dense N x N transition matrix and squares it t times; this file applies the sparse one 2^t
//! times, which is the same product in another order, in time and memory linear in the number of pixels. One thread; images side
//! by side are the caller's business.

use std::ops::Range;

use super::Maps;
use super::cam::divide_by_max;
use super::paths::{PairPath, paths};
use super::resize::{Coordinates, interpolate_bilinear};

/// The walk's parameters; the defaults are those of IRN, AMN and ORANDNet (SPEC 8.5).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WalkParams {
    /// Pixels nearer than this are neighbours.
    pub radius: usize,
    /// The power that affinities are raised to: the higher, the harder an edge.
    pub beta: f32,
    /// The walk takes 2 to this power steps.
    pub exp_times: u32,
}

impl Default for WalkParams {
    fn default() -> Self {
        Self { radius: 5, beta: 10.0, exp_times: 8 }
    }
}

/// A walk of more steps than 2^20 is a mistake in a pipeline, not a wish.
const MAX_EXP_TIMES: u32 = 20;

/// Spreads maps along the affinities of an edge map: `cam * (1 - edge)`, then 2^t steps.
///
/// `cam` is `[classes, h, w]` at stride 4, `edge` is `[1, h, w]` with values in [0, 1]; returns `[classes, h, w]`.
///
/// # Errors
/// A sentence about the sizes, if they differ.
pub fn propagate(cam: &Maps, edge: &Maps, params: &WalkParams) -> Result<Maps, String> {
    if edge.channels() != 1 || (edge.height(), edge.width()) != (cam.height(), cam.width()) {
        return Err(format!(
            "the edge map is {} of {} x {} where one of {} x {} is due, as the maps are",
            edge.channels(),
            edge.width(),
            edge.height(),
            cam.width(),
            cam.height()
        ));
    }
    if params.exp_times > MAX_EXP_TIMES {
        return Err(format!("a walk of 2^{} steps would not end soon; 8 is usual", params.exp_times));
    }
    let mut start = cam.clone();
    for class in 0..start.channels() {
        for (value, edge) in start.channel_mut(class).iter_mut().zip(edge.data()) {
            *value *= 1.0 - edge;
        }
    }
    Ok(Transition::new(edge, params.radius, params.beta).walk(&start, 1 << params.exp_times))
}

/// Brings walked maps to the image's size: four times larger (bilinear, `scale_factor=4`), cropped, and divided by the maximum over
/// all classes and pixels, so that thresholds mean the same for every image. Maps without any activation stay zero.
///
/// # Errors
/// A sentence about the sizes, if four times the maps do not cover the image.
pub fn at_image_size(maps: &Maps, height: usize, width: usize) -> Result<Maps, String> {
    let large = interpolate_bilinear(maps, maps.height() * 4, maps.width() * 4, Coordinates::scale_factor(4.0));
    if large.height() < height || large.width() < width {
        return Err(format!(
            "maps of {} x {} at stride 4 do not cover an image of {width} x {height}",
            maps.width(),
            maps.height()
        ));
    }
    let mut data = Vec::with_capacity(maps.channels() * height * width);
    for channel in 0..large.channels() {
        for row in large.channel(channel).chunks_exact(large.width()).take(height) {
            data.extend_from_slice(&row[..width]);
        }
    }
    divide_by_max(&mut data);
    Ok(Maps::new(maps.channels(), height, width, data))
}

/// Pixels of a row that are worked on together, in registers: two AVX registers for each class of a pair.
const BLOCK: usize = 16;

/// Bytes of weights that steps in flight may need at once: what is left of a small second-level cache.
const CACHE: usize = 384 << 10;

/// Fewer steps in flight than this fetch the weights of wide maps too often: rows are then swept in strips.
const FEWEST_IN_FLIGHT: usize = 2;

/// The random walk's transition: each pixel becomes the weighted mean of its neighbours and itself.
///
/// A step is y = (W x) / s with the symmetric W of affinities to the power of beta, ones on its diagonal, and s = W 1 (SPEC 8.6). It
/// is computed as y = x + W (x' - x) / s, over the differences to each neighbour x': rounding then shrinks with the differences, and a
/// constant stays one to the last bit, where the plain mean drifts by a unit in the last place with every step.
///
/// # Layout
/// A plane of values is flat: rows of `stride` places, of which the last `radius - 1` or more are zero, with as many rows of zeros
/// before and behind. A neighbour is then a fixed distance away from any pixel, inside or outside of the image, and a step needs no
/// case for borders. Weights lie in the same order, with one row for each direction where a plane has one row.
pub struct Transition {
    height: usize,
    width: usize,
    /// How many rows or columns away a neighbour may be, `radius - 1`.
    reach: usize,
    /// Places from one row to the next.
    stride: usize,
    /// One half of the neighbours; the other half is seen from the other side.
    directions: Vec<Direction>,
    /// Per row, direction and place the affinity to that neighbour; zero if either is outside.
    weights: Vec<f32>,
    /// Per place 1 / s; zero outside the image.
    inverse_sums: Vec<f32>,
}

/// Where a neighbour is.
struct Direction {
    /// Places from a pixel to the neighbour in a plane.
    value: usize,
    /// Places from a pixel's own weight back to the weight of the pixel whose neighbour it is.
    weight: usize,
}

/// The values of one class before and after a step; which is which changes with every step.
type Planes = [Vec<f32>; 2];

impl Transition {
    /// Builds the transition for an edge map `[1, h, w]`: the affinity of two pixels is (1 - the largest edge on the path between
    /// them)^beta.
    pub fn new(edge: &Maps, radius: usize, beta: f32) -> Self {
        let (height, width) = (edge.height(), edge.width());
        let reach = radius.saturating_sub(1);
        let stride = (width + reach).max(BLOCK);
        let paths = paths(radius);
        let directions = paths
            .iter()
            .map(|path| Direction {
                value: (path.rows * stride as isize + path.columns).unsigned_abs(),
                weight: (path.rows * (paths.len() * stride) as isize + path.columns).unsigned_abs(),
            })
            .collect();
        let mut transition = Self {
            height,
            width,
            reach,
            stride,
            directions,
            weights: vec![0.0; (height + reach + 1) * paths.len() * stride],
            inverse_sums: vec![0.0; (height + 2 * reach + 1) * stride],
        };
        transition.weigh(edge, &paths, beta);
        transition.sum_up();
        transition
    }

    fn weigh(&mut self, edge: &Maps, paths: &[PairPath], beta: f32) {
        let power = |affinity: f32| {
            // Repeated multiplication gives the same bits on every platform, which the system's `powf` does not.
            if beta.fract() == 0.0 && beta.abs() < 1024.0 { affinity.powi(beta as i32) } else { affinity.powf(beta) }
        };
        let edge = edge.data();
        let mut largest = vec![0.0f32; self.width];
        for (direction, path) in paths.iter().enumerate() {
            let (rows, columns) = (path.rows.unsigned_abs(), path.columns.unsigned_abs());
            // The sources whose destination is inside: its bounding box is then inside, and with it the path.
            let first = if path.columns < 0 { columns } else { 0 };
            let Some(count) = self.width.checked_sub(columns).filter(|&count| count > 0) else { continue };
            let largest = &mut largest[..count];
            for row in 0..self.height.saturating_sub(rows) {
                largest.fill(0.0);
                for &(down, right) in &path.cells {
                    let start = (row + down.unsigned_abs()) * self.width + first.saturating_add_signed(right);
                    for (largest, &edge) in largest.iter_mut().zip(&edge[start..start + count]) {
                        *largest = largest.max(edge);
                    }
                }
                let start = self.weight_row(row, direction) + first;
                for (weight, largest) in self.weights[start..start + count].iter_mut().zip(&*largest) {
                    *weight = power(1.0 - largest);
                }
            }
        }
    }

    fn sum_up(&mut self) {
        for row in 0..self.height {
            let start = self.value_row(row);
            let mut sums = vec![1.0; self.width];
            for (number, direction) in self.directions.iter().enumerate() {
                let weights = self.weight_row(row, number);
                for (column, sum) in sums.iter_mut().enumerate() {
                    *sum += self.weights[weights + column] + self.weights[weights + column - direction.weight];
                }
            }
            for (inverse, sum) in self.inverse_sums[start..].iter_mut().zip(sums) {
                *inverse = 1.0 / sum;
            }
        }
    }

    /// Takes `steps` steps from `maps`, `[channels, h, w]`.
    ///
    /// # Panics
    /// If the maps have another size than the edge map.
    pub fn walk(&self, maps: &Maps, steps: usize) -> Maps {
        assert_eq!((maps.height(), maps.width()), (self.height, self.width), "the maps have the size of the edge map");
        let mut walked = Maps::zeros(maps.channels(), self.height, self.width);
        let mut one = [(); 2].map(|()| vec![0.0; self.inverse_sums.len()]);
        let mut other = one.clone();
        for channel in (0..maps.channels()).step_by(2) {
            self.load(maps.channel(channel), &mut one);
            let paired = channel + 1 < maps.channels();
            if paired {
                // Every weight that is fetched serves both.
                self.load(maps.channel(channel + 1), &mut other);
                self.sweep::<true>(&mut one, &mut other, steps);
                self.store(&other[steps % 2], walked.channel_mut(channel + 1));
            } else {
                self.sweep::<false>(&mut one, &mut other, steps);
            }
            self.store(&one[steps % 2], walked.channel_mut(channel));
        }
        walked
    }

    fn sweep<const PAIRED: bool>(&self, one: &mut Planes, other: &mut Planes, steps: usize) {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            #[expect(unsafe_code, reason = "the processor has the instructions that the function is compiled for")]
            // SAFETY: see above.
            unsafe {
                self.sweep_avx2::<PAIRED>(one, other, steps);
            }
            return;
        }
        self.sweep_here::<PAIRED>(one, other, steps);
    }

    /// The same on vectors of eight. Not of fused multiply-add, so that every processor gives the same bits.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn sweep_avx2<const PAIRED: bool>(&self, one: &mut Planes, other: &mut Planes, steps: usize) {
        self.sweep_here::<PAIRED>(one, other, steps);
    }

    /// Takes all steps, several in one sweep over the rows: while the weights of some rows are in cache, each step in flight does one
    /// row, `reach` rows behind the step before it, whose results it needs from there on. The row that it overwrites is then the
    /// last that the step before it has read.
    ///
    /// Rows too wide for that are swept in strips from left to right, and each step in flight does its part of a row `reach` columns
    /// to the left of the step before it, for the same two reasons. No pixel is computed twice.
    #[inline(always)]
    fn sweep_here<const PAIRED: bool>(&self, one: &mut Planes, other: &mut Planes, steps: usize) {
        let strip = self.strip();
        // Of each row that a step in flight still needs the weights take this much.
        let window = (self.directions.len() * strip.min(self.stride) * size_of::<f32>() * self.reach).max(1);
        let together = (CACHE / window).saturating_sub(1).clamp(1, 16);
        let mut done = 0;
        while done < steps {
            let flight = together.min(steps - done);
            let behind = (flight - 1) * self.reach;
            // The last step in flight is the last to come to the end of a row.
            for left in (0..self.width + behind).step_by(strip) {
                for front in 0..self.height + behind {
                    for step in 0..flight {
                        let lag = step * self.reach;
                        let Some(row) = front.checked_sub(lag).filter(|&row| row < self.height) else {
                            continue;
                        };
                        let columns = left.saturating_sub(lag)..(left + strip).saturating_sub(lag).min(self.width);
                        self.step_row::<PAIRED>(one, other, (done + step) % 2, row, columns);
                    }
                }
            }
            done += flight;
        }
    }

    /// Returns how many columns are swept at a time: all, if the weights of some steps in flight then stay in cache.
    fn strip(&self) -> usize {
        let column = (self.directions.len() * size_of::<f32>() * self.reach).max(1);
        let fits = |steps: usize| CACHE / (column * (steps + 1));
        if self.stride <= fits(FEWEST_IN_FLIGHT) {
            // Longer than any row with what is in flight behind it.
            return usize::MAX / 2;
        }
        (fits(FEWEST_IN_FLIGHT + 1) / BLOCK * BLOCK).max(4 * BLOCK)
    }

    /// One step of some columns of one row, from the planes `source` to the others.
    #[inline(always)]
    fn step_row<const PAIRED: bool>(
        &self,
        one: &mut Planes,
        other: &mut Planes,
        source: usize,
        row: usize,
        columns: Range<usize>,
    ) {
        let (from, to) = before_and_after(one, source);
        let (from_other, to_other) = before_and_after(other, source);
        let (values, weights) = (self.value_row(row), self.weight_row(row, 0));
        for column in columns.clone().step_by(BLOCK) {
            let at = values + column;
            let (centre, centre_other) = (block(from, at), block(from_other, at));
            let mut sums = [0.0; BLOCK];
            let mut sums_other = [0.0; BLOCK];
            let mut weight = weights + column;
            for direction in &self.directions {
                let ahead = block(&self.weights, weight);
                let behind = block(&self.weights, weight - direction.weight);
                accumulate(&mut sums, centre, ahead, behind, from, at, direction.value);
                if PAIRED {
                    accumulate(&mut sums_other, centre_other, ahead, behind, from_other, at, direction.value);
                }
                weight += self.stride;
            }
            let inverse = block(&self.inverse_sums, at);
            // What the last block computes beyond its columns is another row's or another strip's, and is not written.
            let kept = BLOCK.min(columns.end - column);
            write(&mut to[at..], kept, finished(centre, &sums, inverse));
            if PAIRED {
                write(&mut to_other[at..], kept, finished(centre_other, &sums_other, inverse));
            }
        }
    }

    fn load(&self, map: &[f32], planes: &mut Planes) {
        for (row, values) in map.chunks_exact(self.width).enumerate() {
            let start = self.value_row(row);
            planes[0][start..start + self.width].copy_from_slice(values);
        }
    }

    fn store(&self, plane: &[f32], map: &mut [f32]) {
        for (row, values) in map.chunks_exact_mut(self.width).enumerate() {
            let start = self.value_row(row);
            values.copy_from_slice(&plane[start..start + self.width]);
        }
    }

    /// Returns where a row starts in a plane of values.
    fn value_row(&self, row: usize) -> usize {
        (self.reach + row) * self.stride + self.reach
    }

    /// Returns where the weights of a row and direction start.
    fn weight_row(&self, row: usize, direction: usize) -> usize {
        ((self.reach + row) * self.directions.len() + direction) * self.stride + self.reach
    }
}

fn before_and_after([even, odd]: &mut Planes, source: usize) -> (&[f32], &mut [f32]) {
    if source == 0 { (even, odd) } else { (odd, even) }
}

/// Adds what sets the neighbours `distance` ahead and behind apart from the centre, times their weights.
#[inline(always)]
fn accumulate(
    sums: &mut [f32; BLOCK],
    centre: &[f32; BLOCK],
    ahead: &[f32; BLOCK],
    behind: &[f32; BLOCK],
    from: &[f32],
    at: usize,
    distance: usize,
) {
    let (next, last) = (block(from, at + distance), block(from, at - distance));
    for lane in 0..BLOCK {
        sums[lane] += ahead[lane] * (next[lane] - centre[lane]) + behind[lane] * (last[lane] - centre[lane]);
    }
}

#[inline(always)]
fn finished(centre: &[f32; BLOCK], sums: &[f32; BLOCK], inverse: &[f32; BLOCK]) -> [f32; BLOCK] {
    std::array::from_fn(|lane| centre[lane] + sums[lane] * inverse[lane])
}

/// Writes the first `kept` values. All of a block, as it is mostly, are two vectors.
#[inline(always)]
fn write(to: &mut [f32], kept: usize, values: [f32; BLOCK]) {
    if kept == BLOCK {
        to[..BLOCK].copy_from_slice(&values);
    } else {
        to[..kept].copy_from_slice(&values[..kept]);
    }
}

#[inline(always)]
fn block(plane: &[f32], at: usize) -> &[f32; BLOCK] {
    plane[at..].first_chunk().expect("planes reach beyond the neighbours of their last pixel")
}
