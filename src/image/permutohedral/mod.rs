//! The permutohedral lattice: a Gaussian filter over scattered points in a few dimensions, in time linear in the points.
//! Follows Adams, Baek and Davis 2010 with the rounding and order of summation of pydensecrf (SPEC 7.5). Knows no images.
//!
//! `VERTICES` is the number of dimensions plus one: the corners of the simplex that encloses a point.

mod enclose;
mod vertices;

use enclose::{Elevation, POINTS};
use vertices::{Key, Table};

/// A lattice over a fixed set of points; filters any number of values on them.
///
/// Vertex 0 is the missing one: its value is always zero.
pub struct Lattice<const VERTICES: usize> {
    /// Per point its enclosing vertices.
    vertices: Vec<[u32; VERTICES]>,
    /// Per point its barycentric weights, times its scale (see [`Lattice::scale_points`]).
    weights: Vec<[f32; VERTICES]>,
    /// Per axis and vertex the two neighbours; vertex 0 included. Vertices are numbered in order of their coordinates, so that a
    /// blur reads neighbours in order too.
    neighbours: Vec<Vec<[u32; 2]>>,
}

impl<const VERTICES: usize> Lattice<VERTICES> {
    const DIMENSIONS: usize = VERTICES - 1;

    /// What the unnormalised blur (1/2, 1, 1/2) adds too much is taken away by this factor (SPEC 7.5, alpha).
    pub const ALPHA: f32 = 1.0 / (1.0 + 1.0 / (1u32 << Self::DIMENSIONS) as f32);

    /// Builds the lattice over `points` points whose coordinates, in units of the filter's standard deviation, are the first
    /// `VERTICES - 1` numbers of `features(point)`.
    pub fn new(points: usize, features: impl Fn(usize) -> [f32; VERTICES]) -> Self {
        // Narrow keys are faster, and wide enough for the kernels that people use.
        Self::build::<u64>(points, &features)
            .or_else(|| Self::build::<u128>(points, &features))
            .expect("wide keys take every point, if need be at the lattice's border")
    }

    /// Nothing if a point lies beyond what the keys can hold.
    fn build<K: Key>(points: usize, features: &impl Fn(usize) -> [f32; VERTICES]) -> Option<Self> {
        let elevation = Elevation::<VERTICES>::new();
        let mut table = Table::<K>::new(points);
        let mut vertices = Vec::with_capacity(points);
        let mut weights = Vec::with_capacity(points);
        let mut block = enclose::Block::<K, VERTICES>::new();
        for first in (0..points).step_by(POINTS) {
            let count = POINTS.min(points - first);
            for at in 0..count {
                block.set(at, &features(first + at));
            }
            elevation.enclose(&mut block)?;
            vertices.resize(first + count, [0; VERTICES]);
            for (corner, keys) in block.keys.iter().enumerate() {
                table.insert(keys, &mut vertices[first..], corner);
            }
            weights.extend(
                (0..count).map(|at| -> [f32; VERTICES] { std::array::from_fn(|corner| block.weights[corner][at]) }),
            );
        }
        let sorted = table.into_sorted();
        let numbers = sorted.numbers();
        for vertex in vertices.as_flattened_mut() {
            *vertex = numbers[*vertex as usize];
        }
        let neighbours = (0..VERTICES).map(|axis| sorted.neighbours(K::step(axis, VERTICES))).collect();
        Some(Self { vertices, weights, neighbours })
    }

    /// Returns the number of points.
    pub fn points(&self) -> usize {
        self.vertices.len()
    }

    /// Returns the number of lattice vertices, without the missing one.
    pub fn vertices(&self) -> usize {
        self.neighbours[0].len() - 1
    }

    /// Multiplies what goes in and what comes out at each point by its scale: `scale * K(scale * values)` from now on.
    pub fn scale_points(&mut self, scales: &[f32]) {
        assert_eq!(scales.len(), self.weights.len(), "one scale per point");
        for (weights, scale) in self.weights.iter_mut().zip(scales) {
            for weight in weights {
                *weight *= scale;
            }
        }
    }

    /// Makes the values of all vertices, `blocks` groups of `LANES` channels each, all zero.
    pub fn values<const LANES: usize>(&self, blocks: usize) -> Vec<[f32; LANES]> {
        vec![[0.0; LANES]; (self.vertices() + 1) * blocks]
    }

    /// Adds what all points have, `[points, blocks, LANES]`, to their vertices.
    #[inline(always)]
    pub fn splat<const LANES: usize>(&self, blocks: usize, input: &[[f32; LANES]], values: &mut [[f32; LANES]]) {
        assert_eq!(input.len(), self.points() * blocks, "groups of lanes for every point");
        for (point, (vertices, weights)) in self.vertices.iter().zip(&self.weights).enumerate() {
            for block in 0..blocks {
                let group = &input[point * blocks + block];
                for (&vertex, &weight) in vertices.iter().zip(weights) {
                    let sum = &mut values[vertex as usize * blocks + block];
                    for lane in 0..LANES {
                        sum[lane] += weight * group[lane];
                    }
                }
            }
        }
    }

    /// Adds `factor` times what the vertices of a point come to at its place to what it has, `[blocks, LANES]`.
    #[inline(always)]
    pub fn slice<const LANES: usize>(
        &self,
        point: usize,
        blocks: usize,
        values: &[[f32; LANES]],
        factor: f32,
        groups: &mut [[f32; LANES]],
    ) {
        let (vertices, weights) = (&self.vertices[point], &self.weights[point]);
        for (block, group) in groups[..blocks].iter_mut().enumerate() {
            let mut sum = [0.0; LANES];
            for (&vertex, &weight) in vertices.iter().zip(weights) {
                let value = &values[vertex as usize * blocks + block];
                for lane in 0..LANES {
                    sum[lane] += weight * value[lane];
                }
            }
            for lane in 0..LANES {
                group[lane] += factor * sum[lane];
            }
        }
    }

    /// Spreads the values of all vertices to their neighbours, along one axis after the other; `spare` is as long and overwritten.
    #[inline(always)]
    pub fn blur<const LANES: usize>(
        &self,
        blocks: usize,
        values: &mut Vec<[f32; LANES]>,
        spare: &mut Vec<[f32; LANES]>,
    ) {
        for neighbours in &self.neighbours {
            let (old, new) = (values.as_slice(), &mut spare[..values.len()]);
            for (vertex, &[before, after]) in neighbours.iter().enumerate() {
                for block in 0..blocks {
                    let of = |vertex: usize| vertex * blocks + block;
                    let (before, after) = (&old[of(before as usize)], &old[of(after as usize)]);
                    let (centre, new) = (&old[of(vertex)], &mut new[of(vertex)]);
                    for lane in 0..LANES {
                        new[lane] = centre[lane] + 0.5 * (before[lane] + after[lane]);
                    }
                }
            }
            std::mem::swap(values, spare);
        }
    }

    /// Returns what the filter makes of a one at every point: the sum of the kernel around each, self included.
    pub fn sums(&self) -> Vec<f32> {
        let (mut values, mut spare) = (self.values::<1>(1), self.values::<1>(1));
        self.splat(1, &vec![[1.0]; self.points()], &mut values);
        self.blur(1, &mut values, &mut spare);
        let sum = |point| {
            let mut sum = [[0.0]];
            self.slice(point, 1, &values, Self::ALPHA, &mut sum);
            sum[0][0]
        };
        (0..self.points()).map(sum).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_is_close_to_a_gaussian() {
        let points: Vec<[f32; 3]> = (0..60).map(|i| [(i % 10) as f32 * 0.45, (i / 10) as f32 * 0.45, 0.0]).collect();
        let lattice = Lattice::<3>::new(points.len(), |point| points[point]);
        let (mut values, mut spare) = (lattice.values::<1>(1), lattice.values::<1>(1));
        let mut kernel = vec![vec![0.0; points.len()]; points.len()];
        for (at, row) in kernel.iter_mut().enumerate() {
            let mut input = vec![[0.0]; points.len()];
            input[at] = [1.0];
            values.fill([0.0]);
            lattice.splat(1, &input, &mut values);
            lattice.blur(1, &mut values, &mut spare);
            for (point, value) in row.iter_mut().enumerate() {
                let mut group = [[0.0]];
                lattice.slice(point, 1, &values, Lattice::<3>::ALPHA, &mut group);
                *value = group[0][0];
            }
        }
        let mut error = 0.0;
        for i in 0..points.len() {
            for j in 0..points.len() {
                let square = (points[i][0] - points[j][0]).powi(2) + (points[i][1] - points[j][1]).powi(2);
                error += (kernel[i][j] - (-square / 2.0).exp()).abs();
            }
        }
        // The lattice's kernel is piecewise linear; on average it is this close to the Gaussian.
        assert!(error / 3600.0 < 0.05, "{}", error / 3600.0);
        for (point, sum) in lattice.sums().into_iter().enumerate() {
            let want: f32 = kernel.iter().map(|row| row[point]).sum();
            assert!((sum - want).abs() < 1e-4, "{sum} where {want} is due");
        }
    }

    /// Both widths of keys give the same lattice, but for how vertices are numbered; wide ones are for points far apart.
    #[test]
    fn keys_of_both_widths_give_the_same_filter() {
        let near = |point: usize| -> [f32; 6] { std::array::from_fn(|axis| ((point * (axis + 7)) % 41) as f32 / 3.0) };
        let narrow = Lattice::<6>::build::<u64>(200, &near).expect("these points are near");
        let wide = Lattice::<6>::build::<u128>(200, &near).expect("wide keys take every point");
        assert_eq!((narrow.vertices(), narrow.sums()), (wide.vertices(), wide.sums()));

        let far = |point: usize| -> [f32; 6] { std::array::from_fn(|axis| near(point)[axis] * 1e3) };
        assert!(Lattice::<6>::build::<u64>(200, &far).is_none());
        // The first 41 are all different.
        let sums = Lattice::<6>::new(41, far).sums();
        // Alone, a point gives itself what the squares of its weights add up to, blurred along six axes: between a sixth and one.
        assert!(sums.iter().all(|sum| (0.1..1.5).contains(sum)), "{sums:?}");
    }

    #[test]
    fn points_at_infinity_and_nowhere_do_no_harm() {
        let lattice = Lattice::<3>::new(100, |point| match point % 4 {
            0 => [f32::NAN, 0.0, 0.0],
            1 => [f32::INFINITY, -1e30, 0.0],
            2 => [-1e12, 1e12, 0.0],
            _ => [point as f32, 0.0, 0.0],
        });
        assert_eq!((lattice.points(), lattice.sums().len()), (100, 100));
    }
}
