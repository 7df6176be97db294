//! What a forward pass must know beside its input: whether it trains, and where its random numbers come from.

use std::cell::RefCell;

use burn::tensor::{Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// One forward pass.
///
/// Dropout masks come from a generator of this pass, never from a device's global one, so that a step gives the same numbers
/// wherever and whenever it runs.
#[derive(Debug)]
pub struct Pass {
    random: Option<RefCell<ChaCha8Rng>>,
}

impl Pass {
    /// Returns a pass without dropout that uses and keeps running statistics.
    pub fn inference() -> Self {
        Self { random: None }
    }

    /// Returns a pass that drops out and normalises by the batch, its random numbers seeded with `seed`.
    pub fn training(seed: u64) -> Self {
        Self { random: Some(RefCell::new(ChaCha8Rng::seed_from_u64(seed))) }
    }

    /// Returns whether this pass trains.
    pub fn is_training(&self) -> bool {
        self.random.is_some()
    }

    /// In training, sets each value to zero with this probability and divides the others by what is left.
    pub fn dropout<const D: usize>(&self, x: Tensor<D>, probability: f64) -> Tensor<D> {
        let dims = x.dims();
        self.mask(x, probability, dims)
    }

    /// In training, sets whole channels of each image to zero, as [`Self::dropout`] does single values.
    ///
    /// # Shapes
    /// `x` is `[B, C, H, W]`.
    pub fn dropout2d(&self, x: Tensor<4>, probability: f64) -> Tensor<4> {
        let [batch, channels, _, _] = x.dims();
        self.mask(x, probability, [batch, channels, 1, 1])
    }

    /// In training, sets the whole of a sample to zero, as [`Self::dropout`] does single values (stochastic depth).
    pub fn drop_path<const D: usize>(&self, x: Tensor<D>, probability: f64) -> Tensor<D> {
        let mut dims = [1; D];
        dims[0] = x.dims()[0];
        self.mask(x, probability, dims)
    }

    fn mask<const D: usize>(&self, x: Tensor<D>, probability: f64, dims: [usize; D]) -> Tensor<D> {
        let Some(random) = &self.random else { return x };
        if probability <= 0.0 {
            return x;
        }
        let keep = 1.0 - probability;
        let threshold = (keep * f64::from(u32::MAX)) as u32;
        let scale = (1.0 / keep) as f32;
        let mut random = random.borrow_mut();
        let count = dims.iter().product();
        let values: Vec<f32> = (0..count).map(|_| if random.next_u32() <= threshold { scale } else { 0.0 }).collect();
        let mask = Tensor::<D>::from_data(TensorData::new(values, dims), &x.device());
        x * mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::device;

    #[test]
    fn dropout_keeps_the_mean_and_repeats_itself() {
        let device = device::named("cpu").expect("always there");
        let x = Tensor::<2>::ones([100, 100], &device);
        let once = Pass::training(7).dropout(x.clone(), 0.3).into_data();
        assert_eq!(once, Pass::training(7).dropout(x.clone(), 0.3).into_data());
        let mean = once.iter::<f32>().sum::<f32>() / 10_000.0;
        // Standard error of the mean: sqrt(0.3 / 0.7 / 10^4) = 0.0065.
        assert!((mean - 1.0).abs() < 0.03, "{mean}");
        assert_eq!(Pass::inference().dropout(x.clone(), 0.3).into_data(), x.into_data());
    }
}
