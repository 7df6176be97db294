//! The permutohedral lattice: a Gaussian filter over scattered points in a few dimensions, in time linear in the points.
//! Follows Adams, Baek and Davis 2010 with the rounding and order of summation of pydensecrf (SPEC 7.5). Knows no images.
//!
//! `VERTICES` is the number of dimensions plus one: the corners of the simplex that encloses a point.

/// A lattice over a fixed set of points; filters any number of values on them.
///
/// Vertex 0 is the missing one: its value is always zero.
pub struct Lattice<const VERTICES: usize> {
    /// Per point its enclosing vertices.
    vertices: Vec<[u32; VERTICES]>,
    /// Per point its barycentric weights, times its scale (see [`Lattice::scale_points`]).
    weights: Vec<[f32; VERTICES]>,
    /// Per axis and vertex the two neighbours; vertex 0 included.
    neighbours: Vec<Vec<[u32; 2]>>,
}

/// The values of `LANES` channels on all vertices, twice, so that a blur can go back and forth. Made once, used many times.
pub struct Scratch<const LANES: usize> {
    values: Vec<[f32; LANES]>,
    blurred: Vec<[f32; LANES]>,
}

impl<const VERTICES: usize> Lattice<VERTICES> {
    const DIMENSIONS: usize = VERTICES - 1;

    /// Builds the lattice over `points` points whose coordinates, in units of the filter's standard deviation, are the first
    /// `VERTICES - 1` numbers of `features(point)`.
    pub fn new(points: usize, mut features: impl FnMut(usize) -> [f32; VERTICES]) -> Self {
        let elevation = Elevation::new();
        let mut table = Table::new(points);
        let mut vertices = Vec::with_capacity(points);
        let mut weights = Vec::with_capacity(points);
        let mut last_keys = [0; VERTICES];
        let mut last_vertices = [0; VERTICES];
        for point in 0..points {
            let (keys, barycentric) = elevation.enclose(&features(point));
            for corner in 0..VERTICES {
                // Neighbouring pixels mostly lie in the same simplex, which saves the look-up.
                if last_vertices[corner] == 0 || last_keys[corner] != keys[corner] {
                    last_vertices[corner] = table.insert(keys[corner]);
                    last_keys[corner] = keys[corner];
                }
            }
            vertices.push(last_vertices);
            weights.push(barycentric);
        }
        Self { vertices, weights, neighbours: neighbours::<VERTICES>(&table) }
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

    /// Makes the room that [`Lattice::filter`] works in.
    pub fn scratch<const LANES: usize>(&self) -> Scratch<LANES> {
        let length = self.vertices() + 1;
        Scratch { values: vec![[0.0; LANES]; length], blurred: vec![[0.0; LANES]; length] }
    }

    /// Adds `factor` times the filtered `input` to `output`; both have one group of lanes per point.
    ///
    /// The kernel is close to exp(-distance^2 / 2), self included, and is not normalised.
    pub fn filter<const LANES: usize>(
        &self,
        input: &[[f32; LANES]],
        output: &mut [[f32; LANES]],
        factor: f32,
        scratch: &mut Scratch<LANES>,
    ) {
        assert_eq!(input.len(), self.points(), "one group of lanes per point");
        assert_eq!(output.len(), self.points(), "one group of lanes per point");
        let Scratch { values, blurred } = scratch;
        values.fill([0.0; LANES]);
        for ((value, vertices), weights) in input.iter().zip(&self.vertices).zip(&self.weights) {
            for (&vertex, &weight) in vertices.iter().zip(weights) {
                let sum = &mut values[vertex as usize];
                for lane in 0..LANES {
                    sum[lane] += weight * value[lane];
                }
            }
        }
        for neighbours in &self.neighbours {
            let old = values.as_slice();
            for ((new, centre), &[before, after]) in blurred.iter_mut().zip(old).zip(neighbours) {
                let (before, after) = (&old[before as usize], &old[after as usize]);
                for lane in 0..LANES {
                    new[lane] = centre[lane] + 0.5 * (before[lane] + after[lane]);
                }
            }
            std::mem::swap(values, blurred);
        }
        // What the unnormalised blur (1/2, 1, 1/2) adds too much (SPEC 7.5, alpha).
        let factor = factor / (1.0 + 0.5f32.powi(Self::DIMENSIONS as i32));
        for ((value, vertices), weights) in output.iter_mut().zip(&self.vertices).zip(&self.weights) {
            let mut sum = [0.0; LANES];
            for (&vertex, &weight) in vertices.iter().zip(weights) {
                let vertex = &values[vertex as usize];
                for lane in 0..LANES {
                    sum[lane] += weight * vertex[lane];
                }
            }
            for lane in 0..LANES {
                value[lane] += factor * sum[lane];
            }
        }
    }
}

/// A vertex's first `VERTICES - 1` coordinates, 16 bits each from the lowest, biased so that adding a step to all of them is one
/// addition. The last coordinate follows, since they sum to zero.
type Key = u128;

const BIAS: i32 = 1 << 15;

/// Returns one in every coordinate of a key.
fn ones(dimensions: usize) -> Key {
    (0..dimensions).map(|axis| 1 << (16 * axis)).sum()
}

/// Returns `VERTICES` in one coordinate of a key, or nothing for the coordinate that keys leave out.
fn period<const VERTICES: usize>(axis: usize) -> Key {
    if axis + 1 < VERTICES { (VERTICES as Key) << (16 * axis) } else { 0 }
}

/// Maps points to the plane of the lattice and finds the simplex around them.
struct Elevation<const VERTICES: usize> {
    scale: [f32; VERTICES],
}

impl<const VERTICES: usize> Elevation<VERTICES> {
    fn new() -> Self {
        // The blur adds variance 2/3 (d + 1)^2 along each axis, which this scale turns into 1.
        let deviation = (2.0f32 / 3.0).sqrt() * VERTICES as f32;
        Self { scale: std::array::from_fn(|axis| deviation / (((axis + 1) * (axis + 2)) as f32).sqrt()) }
    }

    /// Returns keys and barycentric weights of the enclosing vertices, by their remainder 0, 1, ..
    #[expect(clippy::needless_range_loop, reason = "ranks compare coordinates by index, as in the paper")]
    fn enclose(&self, features: &[f32; VERTICES]) -> ([Key; VERTICES], [f32; VERTICES]) {
        const PER_ULP: f32 = 12_582_912.0;
        let dimensions = VERTICES - 1;
        let period_inverse = 1.0 / VERTICES as f32;
        let mut elevated = [0.0; VERTICES];
        let mut sum = 0.0;
        for axis in (1..VERTICES).rev() {
            let scaled = features[axis - 1] * self.scale[axis - 1];
            elevated[axis] = sum - axis as f32 * scaled;
            sum += scaled;
        }
        elevated[0] = sum;

        // The nearest vertex of remainder 0, half to even; adding 1.5 * 2^23 rounds as the SSE instruction does.
        let mut nearest = [0.0; VERTICES];
        let mut offset = [0.0; VERTICES];
        let mut excess = 0.0;
        for axis in 0..VERTICES {
            let rounded = (elevated[axis] * period_inverse + PER_ULP) - PER_ULP;
            nearest[axis] = rounded * VERTICES as f32;
            offset[axis] = elevated[axis] - nearest[axis];
            excess += rounded;
        }
        let mut rank = [excess as i32; VERTICES];
        for i in 0..VERTICES {
            for j in i + 1..VERTICES {
                let below = i32::from(offset[i] < offset[j]);
                rank[i] += below;
                rank[j] += 1 - below;
            }
        }
        // Back to the plane where the coordinates sum to zero.
        for axis in 0..VERTICES {
            let shift = i32::from(rank[axis] < 0) - i32::from(rank[axis] > dimensions as i32);
            rank[axis] += shift * VERTICES as i32;
            nearest[axis] += (shift * VERTICES as i32) as f32;
        }

        let mut weights = [0.0; VERTICES];
        let mut axis_of_rank = [0; VERTICES];
        let mut wrapped = 0.0;
        for axis in 0..VERTICES {
            // A coordinate beyond the lattice's reach (not a number, say) must not break out of the arrays.
            let rank = rank[axis].clamp(0, dimensions as i32) as usize;
            let part = (elevated[axis] - nearest[axis]) * period_inverse;
            axis_of_rank[rank] = axis;
            weights[dimensions - rank] += part;
            if rank == 0 { wrapped -= part } else { weights[VERTICES - rank] -= part }
        }
        weights[0] += 1.0 + wrapped;

        let mut key: Key = 0;
        for axis in 0..dimensions {
            key |= Key::from((nearest[axis] as i32 + BIAS) as u16) << (16 * axis);
        }
        // From remainder r - 1 to r: one step up everywhere, and a period down in the coordinate that leads then.
        let mut keys = [key; VERTICES];
        for remainder in 1..VERTICES {
            key =
                key.wrapping_add(ones(dimensions)).wrapping_sub(period::<VERTICES>(axis_of_rank[VERTICES - remainder]));
            keys[remainder] = key;
        }
        (keys, weights)
    }
}

/// An open-addressing hash table from keys to vertices, which are numbered from 1 as they come.
struct Table {
    /// Vertex per slot; 0 is an empty slot. A power of two long, at most half full.
    slots: Vec<u32>,
    /// Key per vertex; that of vertex 0 stands for nothing.
    keys: Vec<Key>,
}

impl Table {
    fn new(expected: usize) -> Self {
        Self { slots: vec![0; (expected * 2).next_power_of_two().max(64)], keys: vec![0] }
    }

    fn slot(&self, key: Key) -> usize {
        // Multiplicative hashing with odd constants near 2^64 / golden ratio and its square; the high bits are the mixed ones.
        let mixed =
            (key as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ ((key >> 64) as u64).wrapping_mul(0xD1B5_4A32_D192_ED03);
        (mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - self.slots.len().trailing_zeros())) as usize
    }

    /// Returns the vertex with this key or 0, and the slot where it is or belongs.
    fn find(&self, key: Key) -> (u32, usize) {
        let mask = self.slots.len() - 1;
        let mut slot = self.slot(key);
        loop {
            let vertex = self.slots[slot];
            if vertex == 0 || self.keys[vertex as usize] == key {
                return (vertex, slot);
            }
            slot = (slot + 1) & mask;
        }
    }

    fn insert(&mut self, key: Key) -> u32 {
        let (found, slot) = self.find(key);
        if found != 0 {
            return found;
        }
        let vertex = self.keys.len() as u32;
        self.keys.push(key);
        self.slots[slot] = vertex;
        if self.keys.len() * 2 > self.slots.len() {
            self.slots = vec![0; self.slots.len() * 2];
            for vertex in 1..self.keys.len() {
                let (_, slot) = self.find(self.keys[vertex]);
                self.slots[slot] = vertex as u32;
            }
        }
        vertex
    }
}

/// Along each axis the vertices one step before and after; each pair is looked up once.
fn neighbours<const VERTICES: usize>(table: &Table) -> Vec<Vec<[u32; 2]>> {
    let down = ones(VERTICES - 1);
    (0..VERTICES)
        .map(|axis| {
            let mut pairs = vec![[0; 2]; table.keys.len()];
            for vertex in 1..table.keys.len() {
                let key = table.keys[vertex].wrapping_sub(down).wrapping_add(period::<VERTICES>(axis));
                let (before, _) = table.find(key);
                if before != 0 {
                    pairs[vertex][0] = before;
                    pairs[before as usize][1] = vertex as u32;
                }
            }
            pairs
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn barycentric_weights_place_the_point() {
        // A simplex that encloses the point: weights in [0, 1], their sum 1, and the weighted vertices are the elevated point.
        let elevation = Elevation::<6>::new();
        for case in 0..2000u32 {
            let mut features: [f32; 6] = std::array::from_fn(|axis| {
                ((case.wrapping_mul(2_654_435_761) >> (axis * 3)) % 997) as f32 / 31.0 - 14.0
            });
            features[5] = 0.0;
            let (keys, weights) = elevation.enclose(&features);
            assert!(weights.iter().all(|weight| (-1e-5..=1.0 + 1e-5).contains(weight)), "{weights:?}");
            assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            let mut sum = 0.0;
            let mut elevated = [0.0f32; 6];
            for axis in (1..6).rev() {
                let scaled = features[axis - 1] * elevation.scale[axis - 1];
                elevated[axis] = sum - axis as f32 * scaled;
                sum += scaled;
            }
            elevated[0] = sum;
            for (axis, elevated) in elevated.iter().enumerate().take(5) {
                let placed: f32 = keys
                    .iter()
                    .zip(weights)
                    .map(|(key, weight)| weight * (((key >> (16 * axis)) as u16 as i32) - BIAS) as f32)
                    .sum();
                assert!((placed - elevated).abs() < 1e-2, "{placed} where {elevated} is due");
            }
        }
    }

    #[test]
    fn filter_is_close_to_a_gaussian() {
        let points: Vec<[f32; 3]> = (0..60).map(|i| [(i % 10) as f32 * 0.45, (i / 10) as f32 * 0.45, 0.0]).collect();
        let lattice = Lattice::<3>::new(points.len(), |point| points[point]);
        let mut scratch = lattice.scratch::<1>();
        let kernel: Vec<Vec<f32>> = (0..points.len())
            .map(|at| {
                let mut input = vec![[0.0]; points.len()];
                input[at] = [1.0];
                let mut output = vec![[0.0]; points.len()];
                lattice.filter(&input, &mut output, 1.0, &mut scratch);
                output.into_iter().map(|[value]| value).collect()
            })
            .collect();
        let mut error = 0.0;
        for i in 0..points.len() {
            for j in 0..points.len() {
                let square = (points[i][0] - points[j][0]).powi(2) + (points[i][1] - points[j][1]).powi(2);
                error += (kernel[i][j] - (-square / 2.0).exp()).abs();
            }
        }
        // The lattice's kernel is piecewise linear; on average it is this close to the Gaussian.
        assert!(error / 3600.0 < 0.05, "{}", error / 3600.0);
    }
}
