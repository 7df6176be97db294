//! Convolutions of f32 on the CPU as matrix products of tiles: what a tile of output cells sees is laid out as a matrix, whose
//! product with the weights is written where it belongs. A tile stays in the second-level cache.
//!
//! What is added up, and in which order, depends on shapes alone and never on the number of threads, so results are the same to
//! the last bit.

use std::ops::Range;

use gemm::Parallelism;
use rayon::prelude::*;

/// Output cells of a tile, about: whole rows are taken.
const TILE: usize = 512;
/// Values of the matrix of a tile at most, 1 MiB.
const UNROLLED: usize = 1 << 18;
/// Into how many tasks at least a convolution is cut, where it is large enough.
const TASKS: usize = 16;
/// Output channels of a task at least, below which laying out would cost more than it saves.
const CHANNELS: usize = 128;
/// Columns of the weights' gradient of a task, about.
const COLUMNS: usize = 288;

/// The sizes of a convolution: `[batch, input, height, width]` to `[batch, output, rows, columns]`, in groups of all channels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) batch: usize,
    pub(super) input: usize,
    pub(super) output: usize,
    pub(super) size: [usize; 2],
    pub(super) kernel: [usize; 2],
    pub(super) stride: [usize; 2],
    pub(super) padding: [usize; 2],
    pub(super) dilation: [usize; 2],
}

impl Geometry {
    /// Returns the output's `[rows, columns]`, or `None` where the kernel is larger than the padded image.
    pub(super) fn output_size(&self) -> Option<[usize; 2]> {
        let mut size = [0; 2];
        for (axis, size) in size.iter_mut().enumerate() {
            let reach = self.dilation[axis] * self.kernel[axis].checked_sub(1)? + 1;
            let free = (self.size[axis] + 2 * self.padding[axis]).checked_sub(reach)?;
            *size = free / self.stride[axis] + 1;
        }
        Some(size)
    }

    /// Returns the convolution that takes the output's gradient to the input's: with the kernel turned round, where the stride is
    /// 1 and the padding no larger than the kernel's reach.
    pub(super) fn backward(&self) -> Option<Self> {
        let [rows, columns] = self.output_size()?;
        if self.stride != [1, 1] {
            return None;
        }
        let mut padding = [0; 2];
        for (axis, padding) in padding.iter_mut().enumerate() {
            *padding = (self.dilation[axis] * (self.kernel[axis] - 1)).checked_sub(self.padding[axis])?;
        }
        Some(Self { input: self.output, output: self.input, size: [rows, columns], padding, ..*self })
    }

    /// Is every output cell a mix of the channels of one input cell, in the same order?
    fn is_plain(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.padding == [0, 0]
    }

    fn cells(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }
}

/// A matrix in a slice: row `r` and column `c` lie at `r * row + c * column`.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    values: &'a [f32],
    row: usize,
    column: usize,
}

impl Matrix<'_> {
    fn holds(&self, rows: usize, columns: usize) -> bool {
        rows > 0 && columns > 0 && (rows - 1) * self.row + (columns - 1) * self.column < self.values.len()
    }
}

/// Memory that tasks write into at once, each its own rows.
#[derive(Clone, Copy)]
struct Shared {
    start: *mut f32,
    length: usize,
}

#[expect(unsafe_code, reason = "tasks write rows that lie between those of others")]
// SAFETY: all access is through `add_product` and `add_to_rows`, whose callers vouch for separate blocks.
unsafe impl Send for Shared {}
#[expect(unsafe_code, reason = "as above")]
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// Which block of the shared memory: `rows` rows of `columns` values from `start`, `stride` apart.
#[derive(Clone, Copy)]
struct Block {
    start: usize,
    rows: usize,
    columns: usize,
    stride: usize,
}

impl Shared {
    /// Writes `a b` into the block, or adds it to what is there.
    ///
    /// # Safety
    /// Nobody else reads or writes the block meanwhile, and with `add` it has been written.
    #[expect(unsafe_code, reason = "the matrix product takes pointers")]
    unsafe fn product(self, block: Block, add: bool, a: Matrix<'_>, b: Matrix<'_>, inner: usize) {
        let Block { start, rows, columns, stride } = block;
        assert!(a.holds(rows, inner) && b.holds(inner, columns), "factors are whole");
        assert!(start + (rows - 1) * stride + columns <= self.length, "the block lies inside");
        let step = usize::cast_signed;
        // SAFETY: by the assertions, all that is touched lies inside the three slices; the rest is the caller's word.
        unsafe {
            gemm::gemm(
                rows,
                columns,
                inner,
                self.start.add(start),
                1,
                step(stride),
                add,
                a.values.as_ptr(),
                step(a.column),
                step(a.row),
                b.values.as_ptr(),
                step(b.column),
                step(b.row),
                1.0,
                1.0,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    }

    /// Adds a value to each row of the block.
    ///
    /// # Safety
    /// As [`Self::product`] with `add`.
    #[expect(unsafe_code, reason = "rows are slices of shared memory")]
    unsafe fn add_to_rows(self, block: Block, values: &[f32]) {
        assert!(block.start + (block.rows - 1) * block.stride + block.columns <= self.length, "the block lies inside");
        for (row, value) in (0..block.rows).zip(values) {
            // SAFETY: inside by the assertion, written and nobody else's by the caller's word.
            let row = unsafe {
                std::slice::from_raw_parts_mut(self.start.add(block.start + row * block.stride), block.columns)
            };
            row.iter_mut().for_each(|cell| *cell += value);
        }
    }
}

/// Lays out what some output rows see of some channels: a line for each channel and cell of the kernel, a column for each output
/// cell.
fn unroll(
    lines: &mut [f32],
    image: &[f32],
    geometry: &Geometry,
    channels: Range<usize>,
    rows: Range<usize>,
    width: usize,
) {
    let [height_in, width_in] = geometry.size;
    let [stride_y, stride_x] = geometry.stride;
    let mut lines = lines.chunks_exact_mut(rows.len() * width);
    for channel in channels {
        let plane = &image[channel * height_in * width_in..][..height_in * width_in];
        for ky in 0..geometry.kernel[0] {
            for kx in 0..geometry.kernel[1] {
                let Some(line) = lines.next() else { return };
                let offset = kx * geometry.dilation[1];
                // The columns between which the source lies inside the image.
                let low = geometry.padding[1].saturating_sub(offset).div_ceil(stride_x).min(width);
                let high = (width_in + geometry.padding[1]).saturating_sub(offset).div_ceil(stride_x).clamp(low, width);
                for (cells, row) in line.chunks_exact_mut(width).zip(rows.clone()) {
                    let source = (row * stride_y + ky * geometry.dilation[0]).checked_sub(geometry.padding[0]);
                    let Some(y) = source.filter(|y| *y < height_in && low < high) else {
                        cells.fill(0.0);
                        continue;
                    };
                    cells[..low].fill(0.0);
                    cells[high..].fill(0.0);
                    let source = &plane[y * width_in..][..width_in][low * stride_x + offset - geometry.padding[1]..];
                    if stride_x == 1 {
                        cells[low..high].copy_from_slice(&source[..high - low]);
                    } else {
                        let picked = source.iter().step_by(stride_x);
                        cells[low..high].iter_mut().zip(picked).for_each(|(cell, value)| *cell = *value);
                    }
                }
            }
        }
    }
}

/// Room for a value that is not there yet in each cell; every cell has to be written before it is read.
#[expect(unsafe_code, reason = "zeros would be written for nothing, a pass over memory")]
fn written_later(length: usize, write: impl FnOnce(Shared)) -> Vec<f32> {
    let mut values: Vec<f32> = Vec::with_capacity(length);
    write(Shared { start: values.as_mut_ptr(), length });
    // SAFETY: `write` has written all of it, which each caller below argues.
    unsafe { values.set_len(length) };
    values
}

/// Convolves `[batch, input, H, W]` with `[output, input, ky, kx]` and adds the bias, `[output]`.
///
/// # Panics
/// If a slice has another length, or the kernel is larger than the padded image.
pub(super) fn convolve(x: &[f32], weight: &[f32], bias: Option<&[f32]>, geometry: &Geometry) -> Vec<f32> {
    let &Geometry { batch, input, output, size, .. } = geometry;
    let [rows, columns] = geometry.output_size().expect("the kernel fits into the padded image");
    let (cells, image, map) = (geometry.cells(), input * size[0] * size[1], rows * columns);
    assert!(x.len() == batch * image && weight.len() == output * input * cells, "slices are as long as their shapes");
    assert!(bias.is_none_or(|bias| bias.len() == output), "a bias for each output channel");

    let tile = (TILE / columns).clamp(1, rows);
    let tiles = rows.div_ceil(tile);
    let parts = TASKS.div_ceil(batch * tiles).min(output.div_ceil(CHANNELS));
    let part = output.div_ceil(parts);
    let parts = output.div_ceil(part);
    let chunk = (UNROLLED / (tile * columns * cells)).clamp(1, input);
    let room = if geometry.is_plain() { 0 } else { chunk * cells * tile * columns };
    written_later(batch * output * map, |y| {
        (0..batch * tiles * parts).into_par_iter().for_each_init(
            || vec![0.0; room],
            |unrolled, task| {
                let (number, first_row) = (task / parts / tiles, task / parts % tiles * tile);
                let first = task % parts * part;
                let outputs = part.min(output - first);
                let seen = first_row..(first_row + tile).min(rows);
                let wide = seen.len() * columns;
                let image = &x[number * image..][..image];
                let start = (number * output + first) * map + first_row * columns;
                let block = Block { start, rows: outputs, columns: wide, stride: map };
                for channel in (0..input).step_by(chunk) {
                    let channels = channel..(channel + chunk).min(input);
                    let inner = channels.len() * cells;
                    let b = if geometry.is_plain() {
                        Matrix { values: &image[channel * map + first_row * columns..], row: map, column: 1 }
                    } else {
                        unroll(&mut unrolled[..inner * wide], image, geometry, channels, seen.clone(), columns);
                        Matrix { values: unrolled, row: wide, column: 1 }
                    };
                    let a = &weight[(first * input + channel) * cells..];
                    let a = Matrix { values: a, row: input * cells, column: 1 };
                    #[expect(unsafe_code, reason = "see the comment")]
                    // SAFETY: a task has its own image, output channels and rows, and all of these together are the whole output;
                    // the first group of channels writes, later ones add.
                    unsafe {
                        y.product(block, channel > 0, a, b, inner);
                    }
                }
                if let Some(bias) = bias {
                    #[expect(unsafe_code, reason = "see the comment")]
                    // SAFETY: the same block, written above.
                    unsafe {
                        y.add_to_rows(block, &bias[first..]);
                    }
                }
            },
        );
    })
}

/// Returns the gradient of the weights, `[output, input, ky, kx]`, from the output's, `[batch, output, rows, columns]`.
///
/// # Panics
/// As [`convolve`].
pub(super) fn weight_gradient(x: &[f32], gradient: &[f32], geometry: &Geometry) -> Vec<f32> {
    let &Geometry { batch, input, output, size, .. } = geometry;
    let [rows, columns] = geometry.output_size().expect("the kernel fits into the padded image");
    let (cells, image, map) = (geometry.cells(), input * size[0] * size[1], rows * columns);
    assert!(x.len() == batch * image && gradient.len() == batch * output * map, "slices are as long as their shapes");

    let tile = (TILE / columns).clamp(1, rows);
    let tiles = rows.div_ceil(tile);
    let chunk = (COLUMNS / cells).clamp(1, input);
    let chunks = input.div_ceil(chunk);
    // Few channels leave tasks for few threads: then tiles are shared out as well, and their sums added in the end.
    let steps = batch * tiles;
    let share = steps.div_ceil(TASKS.div_ceil(chunks).min(steps));
    let shares = steps.div_ceil(share);
    let whole = output * input * cells;
    let room = if geometry.is_plain() { 0 } else { chunk * cells * tile * columns };
    let mut sums = written_later(whole * shares, |sums| {
        (0..chunks * shares).into_par_iter().for_each_init(
            || vec![0.0; room],
            |unrolled, task| {
                let (part, first) = (task / chunks, task % chunks * chunk);
                let channels = first..(first + chunk).min(input);
                let wide = channels.len() * cells;
                let start = part * whole + first * cells;
                let block = Block { start, rows: output, columns: wide, stride: input * cells };
                for step in part * share..((part + 1) * share).min(steps) {
                    let (number, first_row) = (step / tiles, step % tiles * tile);
                    let seen = first_row..(first_row + tile).min(rows);
                    let inner = seen.len() * columns;
                    let image = &x[number * image..][..image];
                    let a = &gradient[number * output * map + first_row * columns..];
                    let a = Matrix { values: a, row: map, column: 1 };
                    let b = if geometry.is_plain() {
                        Matrix { values: &image[first * map + first_row * columns..], row: 1, column: map }
                    } else {
                        unroll(&mut unrolled[..wide * inner], image, geometry, channels.clone(), seen, columns);
                        Matrix { values: unrolled, row: 1, column: inner }
                    };
                    #[expect(unsafe_code, reason = "see the comment")]
                    // SAFETY: a task has its own copy and input channels, and all of these together are all copies; the first step
                    // of a task writes, later ones add, and each task has a step.
                    unsafe {
                        sums.product(block, step > part * share, a, b, inner);
                    }
                }
            },
        );
    });
    let (sum, others) = sums.split_at_mut(whole);
    for other in others.chunks_exact(whole) {
        sum.iter_mut().zip(other).for_each(|(sum, value)| *sum += value);
    }
    sums.truncate(whole);
    sums
}

/// Turns a kernel `[output, input, ky, kx]` round and swaps its channels, `[input, output, ky, kx]`: for [`Geometry::backward`].
pub(super) fn turned(weight: &[f32], geometry: &Geometry) -> Vec<f32> {
    let (input, output, cells) = (geometry.input, geometry.output, geometry.cells());
    let mut turned = vec![0.0; weight.len()];
    turned.par_chunks_exact_mut(output * cells).enumerate().for_each(|(channel, lines)| {
        for (number, line) in lines.chunks_exact_mut(cells).enumerate() {
            let kernel = &weight[(number * input + channel) * cells..][..cells];
            line.iter_mut().zip(kernel.iter().rev()).for_each(|(cell, value)| *cell = *value);
        }
    });
    turned
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All sums of the definition, in f64.
    fn by_hand(x: &[f32], weight: &[f32], gradient: &[f32], geometry: &Geometry) -> [Vec<f64>; 3] {
        let &Geometry { batch, input, output, size: [height, width], kernel, stride, padding, dilation } = geometry;
        let [rows, columns] = geometry.output_size().expect("it fits");
        let mut y = vec![0.0; batch * output * rows * columns];
        let (mut of_x, mut of_weight) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
        for (at, value) in y.iter_mut().enumerate() {
            let (column, row) = (at % columns, at / columns % rows);
            let (to, number) = (at / columns / rows % output, at / columns / rows / output);
            for cell in 0..input * kernel[0] * kernel[1] {
                let (kx, ky, from) = (cell % kernel[1], cell / kernel[1] % kernel[0], cell / kernel[1] / kernel[0]);
                let source_y = (row * stride[0] + ky * dilation[0]).checked_sub(padding[0]).filter(|y| *y < height);
                let source_x = (column * stride[1] + kx * dilation[1]).checked_sub(padding[1]).filter(|x| *x < width);
                let (Some(source_y), Some(source_x)) = (source_y, source_x) else { continue };
                let source = ((number * input + from) * height + source_y) * width + source_x;
                let tap = to * input * kernel[0] * kernel[1] + cell;
                *value += f64::from(x[source]) * f64::from(weight[tap]);
                of_x[source] += f64::from(gradient[at]) * f64::from(weight[tap]);
                of_weight[tap] += f64::from(gradient[at]) * f64::from(x[source]);
            }
        }
        [y, of_x, of_weight]
    }

    fn wave(count: usize, step: f64) -> Vec<f32> {
        (0..count).map(|i| ((i as f64 * step).sin() * 1.3) as f32).collect()
    }

    fn close(got: &[f32], want: &[f64], what: &str, geometry: &Geometry) {
        assert_eq!(got.len(), want.len(), "{what} of {geometry:?}");
        let largest = want.iter().fold(0.0, |largest: f64, value| largest.max(value.abs())).max(1.0);
        for (at, (got, want)) in got.iter().zip(want).enumerate() {
            // f32 keeps 24 bits; sums here have up to 16,384 terms of both signs.
            assert!((f64::from(*got) - want).abs() < 1e-5 * largest, "{what} {at}: {got} for {want} of {geometry:?}");
        }
    }

    #[test]
    fn convolutions_and_their_gradients_are_the_sums_of_the_definition() {
        let geometry = |batch, [input, output]: [usize; 2], size, kernel, stride, padding, dilation| Geometry {
            batch,
            input,
            output,
            size,
            kernel,
            stride,
            padding,
            dilation,
        };
        let mut cases = vec![
            geometry(2, [3, 5], [7, 9], [3, 3], [1, 1], [1, 1], [1, 1]),
            geometry(1, [1, 1], [1, 1], [1, 1], [1, 1], [0, 0], [1, 1]),
            // Padding beyond the kernel's reach, as of ORANDNet's first layer; a kernel of one cell with padding.
            geometry(1, [2, 4], [5, 6], [3, 3], [1, 1], [10, 7], [1, 1]),
            geometry(1, [2, 3], [4, 4], [1, 1], [1, 1], [2, 2], [1, 1]),
            // Strides, with cells of the image that no output sees.
            geometry(2, [4, 3], [10, 11], [3, 3], [2, 2], [1, 1], [1, 1]),
            geometry(1, [3, 8], [33, 31], [7, 7], [2, 2], [3, 3], [1, 1]),
            geometry(2, [4, 6], [9, 8], [1, 1], [2, 2], [0, 0], [1, 1]),
            geometry(1, [3, 4], [32, 48], [16, 16], [16, 16], [0, 0], [1, 1]),
            // Dilation wider than the image.
            geometry(1, [2, 3], [5, 4], [3, 3], [1, 1], [12, 12], [12, 12]),
            geometry(1, [2, 3], [9, 20], [3, 3], [1, 1], [2, 4], [2, 4]),
            geometry(1, [2, 3], [6, 9], [1, 3], [1, 2], [0, 1], [1, 1]),
            // The whole image as one cell.
            geometry(2, [3, 2], [4, 6], [4, 6], [1, 1], [0, 0], [1, 1]),
            // Several tiles, several groups of channels, several tasks of output channels.
            geometry(2, [40, 150], [40, 30], [1, 1], [1, 1], [0, 0], [1, 1]),
            geometry(1, [70, 130], [26, 40], [3, 3], [1, 1], [1, 1], [1, 1]),
            geometry(1, [1, 2], [3, 700], [3, 3], [1, 1], [1, 1], [1, 1]),
        ];
        cases.push(geometry(1, [120, 140], [12, 12], [5, 5], [1, 1], [2, 2], [1, 1]));
        for geometry in cases {
            let [rows, columns] = geometry.output_size().expect("it fits");
            let x = wave(geometry.batch * geometry.input * geometry.size[0] * geometry.size[1], 0.7);
            let weight = wave(geometry.output * geometry.input * geometry.cells(), 1.9);
            let bias = wave(geometry.output, 0.3);
            let gradient = wave(geometry.batch * geometry.output * rows * columns, 2.3);
            let [mut y, of_x, of_weight] = by_hand(&x, &weight, &gradient, &geometry);
            close(&convolve(&x, &weight, None, &geometry), &y, "output", &geometry);
            for (at, value) in y.iter_mut().enumerate() {
                *value += f64::from(bias[at / (rows * columns) % geometry.output]);
            }
            close(&convolve(&x, &weight, Some(&bias), &geometry), &y, "output with bias", &geometry);
            close(&weight_gradient(&x, &gradient, &geometry), &of_weight, "gradient of the weights", &geometry);
            if let Some(backward) = geometry.backward() {
                let got = convolve(&gradient, &turned(&weight, &geometry), None, &backward);
                close(&got, &of_x, "gradient of the input", &geometry);
            } else {
                let mut reach = geometry.padding.iter().zip(geometry.kernel).zip(geometry.dilation);
                let beyond = reach.any(|((padding, kernel), dilation)| *padding > dilation * (kernel - 1));
                assert!(geometry.stride != [1, 1] || beyond, "{geometry:?}");
            }
        }
    }

    #[test]
    fn results_are_the_same_whatever_the_number_of_threads() {
        let geometry = Geometry {
            batch: 2,
            input: 20,
            output: 140,
            size: [50, 41],
            kernel: [3, 3],
            stride: [1, 1],
            padding: [1, 1],
            dilation: [1, 1],
        };
        let (x, weight) = (wave(2 * 20 * 50 * 41, 0.7), wave(140 * 20 * 9, 1.9));
        let gradient = wave(2 * 140 * 50 * 41, 2.3);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads are to be had");
            pool.install(|| (convolve(&x, &weight, None, &geometry), weight_gradient(&x, &gradient, &geometry)))
        };
        let one = run(1);
        assert!(run(3) == one && run(8) == one);
    }
}
