//! Finds the simplex of the permutohedral lattice around each point, many points at a time (Adams, Baek and Davis 2010, section 3;
//! SPEC 7.5). Knows nothing of the other points.

use super::vertices::Key;

/// How many points are done together: every loop over them has constant bounds, and becomes vector instructions.
pub(super) const POINTS: usize = 64;

/// The points under way.
pub(super) struct Block<K, const VERTICES: usize> {
    /// Per axis and point the coordinates that go in; the last axis is not used.
    features: [[f32; POINTS]; VERTICES],
    /// Per corner and point the enclosing vertices, by their remainder 0, 1, ..
    pub(super) keys: [[K; POINTS]; VERTICES],
    /// Per corner and point the barycentric weights.
    pub(super) weights: [[f32; POINTS]; VERTICES],
}

impl<K: Key, const VERTICES: usize> Block<K, VERTICES> {
    pub(super) fn new() -> Self {
        Self {
            features: [[0.0; POINTS]; VERTICES],
            keys: [[K::NONE; POINTS]; VERTICES],
            weights: [[0.0; POINTS]; VERTICES],
        }
    }

    /// Sets the coordinates of one point.
    pub(super) fn set(&mut self, at: usize, features: &[f32; VERTICES]) {
        for (axis, &feature) in self.features.iter_mut().zip(features) {
            axis[at] = feature;
        }
    }
}

/// Maps points to the plane of the lattice and finds the simplex around them.
pub(super) struct Elevation<const VERTICES: usize> {
    scale: [f32; VERTICES],
}

impl<const VERTICES: usize> Elevation<VERTICES> {
    pub(super) fn new() -> Self {
        // The blur adds variance 2/3 (d + 1)^2 along each axis, which this scale turns into 1.
        let deviation = (2.0f32 / 3.0).sqrt() * VERTICES as f32;
        Self { scale: std::array::from_fn(|axis| deviation / (((axis + 1) * (axis + 2)) as f32).sqrt()) }
    }

    /// Fills in keys and weights; nothing if a point lies beyond what the keys can hold.
    #[expect(clippy::needless_range_loop, reason = "ranks compare coordinates by index, as in the paper")]
    pub(super) fn enclose<K: Key>(&self, block: &mut Block<K, VERTICES>) -> Option<()> {
        /// 1.5 * 2^23: adding it leaves the integer nearest to a number in its low bits, half to even as the SSE instruction does.
        const ROUND: f32 = 12_582_912.0;
        let dimensions = VERTICES - 1;
        let period = VERTICES as f32;
        let period_inverse = 1.0 / period;

        let mut elevated = [[0.0f32; POINTS]; VERTICES];
        let mut sum = [0.0f32; POINTS];
        for axis in (1..VERTICES).rev() {
            for at in 0..POINTS {
                let scaled = block.features[axis - 1][at] * self.scale[axis - 1];
                elevated[axis][at] = sum[at] - axis as f32 * scaled;
                sum[at] += scaled;
            }
        }
        elevated[0] = sum;

        // The nearest vertex of remainder 0, and how far each coordinate is from it.
        let mut nearest = [[0.0f32; POINTS]; VERTICES];
        let mut offset = [[0.0f32; POINTS]; VERTICES];
        let mut excess = [0.0f32; POINTS];
        for axis in 0..VERTICES {
            for at in 0..POINTS {
                let rounded = (elevated[axis][at] * period_inverse + ROUND) - ROUND;
                nearest[axis][at] = rounded * period;
                offset[axis][at] = elevated[axis][at] - nearest[axis][at];
                excess[at] += rounded;
            }
        }
        // Ranks are small integers; as floats they stay in the same registers.
        let mut rank = [excess; VERTICES];
        for i in 0..VERTICES {
            for j in i + 1..VERTICES {
                for at in 0..POINTS {
                    let below = if offset[i][at] < offset[j][at] { 1.0 } else { 0.0 };
                    rank[i][at] += below;
                    rank[j][at] += 1.0 - below;
                }
            }
        }
        // Back to the plane where the coordinates sum to zero.
        let mut beyond = [false; POINTS];
        for axis in 0..VERTICES {
            for at in 0..POINTS {
                let up = if rank[axis][at] < 0.0 { period } else { 0.0 };
                let down = if rank[axis][at] > dimensions as f32 { period } else { 0.0 };
                rank[axis][at] += up - down;
                nearest[axis][at] += up - down;
                beyond[at] |= !(0.0..=K::reach(dimensions)).contains(&nearest[axis][at].abs());
            }
        }
        if beyond.contains(&true) && !K::WIDEST {
            return None;
        }

        // Per rank the distance of the coordinate that has it.
        let mut part = [[0.0f32; POINTS]; VERTICES];
        for axis in 0..VERTICES {
            for r in 0..VERTICES {
                for at in 0..POINTS {
                    let distance = (elevated[axis][at] - nearest[axis][at]) * period_inverse;
                    part[r][at] += if rank[axis][at] == r as f32 { distance } else { 0.0 };
                }
            }
        }
        for at in 0..POINTS {
            block.weights[0][at] = part[dimensions][at] + (1.0 - part[0][at]);
        }
        for corner in 1..VERTICES {
            for at in 0..POINTS {
                block.weights[corner][at] = part[dimensions - corner][at] - part[VERTICES - corner][at];
            }
        }

        for at in 0..POINTS {
            let mut leads = [K::zero(); VERTICES];
            let mut key = K::zero();
            for axis in 0..VERTICES {
                // A coordinate beyond the lattice's reach (not a number, say) must not break out of the arrays.
                leads[(rank[axis][at] as usize).min(dimensions)] = K::period(axis, VERTICES);
                if axis < dimensions {
                    key = key.with(axis, nearest[axis][at], dimensions);
                }
            }
            // From remainder r - 1 to r: one step up everywhere, and a period down in the coordinate that leads then.
            block.keys[0][at] = key;
            for remainder in 1..VERTICES {
                key = key.add(K::ones(dimensions)).sub(leads[VERTICES - remainder]);
                block.keys[remainder][at] = key;
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A simplex that encloses the point: weights in [0, 1], their sum 1, and the weighted vertices are the elevated point.
    #[test]
    fn barycentric_weights_place_the_point() {
        let elevation = Elevation::<6>::new();
        let feature = |case: usize, axis: usize| {
            ((case as u32).wrapping_mul(2_654_435_761) >> (axis * 3)) as usize as f32 % 997.0 / 31.0 - 14.0
        };
        for first in (0..2048).step_by(POINTS) {
            let mut block = Block::<u64, 6>::new();
            for at in 0..POINTS {
                block.set(at, &std::array::from_fn(|axis| feature(first + at, axis)));
            }
            elevation.enclose(&mut block).expect("the points are near");
            for at in 0..POINTS {
                let weights = block.weights.map(|corner| corner[at]);
                assert!(weights.iter().all(|weight| (-1e-5..=1.0 + 1e-5).contains(weight)), "{weights:?}");
                assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5);
                let mut sum = 0.0;
                let mut elevated = [0.0f32; 6];
                for axis in (1..6).rev() {
                    let scaled = feature(first + at, axis - 1) * elevation.scale[axis - 1];
                    elevated[axis] = sum - axis as f32 * scaled;
                    sum += scaled;
                }
                elevated[0] = sum;
                let bits = u64::field(5);
                for (axis, elevated) in elevated.iter().enumerate().take(5) {
                    let coordinate =
                        |key: u64| ((key >> (bits * axis)) % (1 << bits)) as f32 - (1 << (bits - 1)) as f32;
                    let placed: f32 =
                        block.keys.iter().zip(weights).map(|(key, weight)| weight * coordinate(key[at])).sum();
                    assert!((placed - elevated).abs() < 1e-2, "{placed} where {elevated} is due");
                }
            }
        }
    }
}
