//! In which numbers products are computed: convolutions, linear maps, attention. Everything else, and everything that is kept,
//! is f32.
//!
//! A precision holds for the whole program, as LibTorch's own switches do. So a stage takes it for as long as it computes
//! ([`hold`]); stages that want the same share it, and one that wants another waits until they have ended.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use burn::tensor::{DType, FloatDType, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// In which numbers products are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 24 bits everywhere
    #[default]
    F32,
    /// Factors rounded to 11 bits, sums of 24, where the GPU has TF32 (NVIDIA since Ampere); elsewhere the same as `f32`
    Tf32,
    /// Factors and products of 8 bits, the rest of 24, weights included
    Bf16,
}

/// The precision that holds, and how many hold it.
static STATE: Mutex<(Precision, usize)> = Mutex::new((Precision::F32, 0));

/// Told when nobody holds a precision any more.
static FREE: Condvar = Condvar::new();

fn state() -> MutexGuard<'static, (Precision, usize)> {
    // A number and a word are whole whatever panicked beside them.
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As long as it lives, products are computed as was asked.
#[derive(Debug)]
pub struct Held(());

/// Makes products be computed in this precision until the guard is dropped. Waits while others hold another one.
#[must_use = "the precision holds as long as the guard lives"]
pub fn hold(precision: Precision) -> Held {
    let mut state = state();
    while state.1 > 0 && state.0 != precision {
        state = FREE.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
    if state.1 == 0 {
        state.0 = precision;
        super::device::allow_tf32(precision == Precision::Tf32);
    }
    state.1 += 1;
    Held(())
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = state();
        state.1 -= 1;
        if state.1 == 0 {
            state.0 = Precision::F32;
            super::device::allow_tf32(false);
            FREE.notify_all();
        }
    }
}

/// Rounds a factor of a product to the precision that holds. Gradients come back in the precision of `x`.
pub fn factor<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let narrow = state().0 == Precision::Bf16 && x.dtype() == DType::F32;
    if narrow { x.cast(FloatDType::BF16) } else { x }
}

/// Brings a product back to f32.
pub fn product<const D: usize>(y: Tensor<D>) -> Tensor<D> {
    if y.dtype() == DType::BF16 { y.cast(FloatDType::F32) } else { y }
}

/// Returns the matrix product in the precision that holds.
pub fn matmul<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    product(factor(a).matmul(factor(b)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::nn::device;

    #[test]
    fn bf16_rounds_products_keeps_f32_outside_and_waits_for_others() {
        let cpu = device::named("cpu").expect("always there");
        // Of one sign, so that no sum cancels what its terms were rounded by.
        let wave =
            |count: usize, step: f64| (0..count).map(|i| (i as f64 * step).sin().abs() as f32).collect::<Vec<f32>>();
        let input = |shape: [usize; 4]| {
            let values = wave(shape.iter().product(), 0.7);
            Tensor::<1>::from_floats(values.as_slice(), &cpu.clone().autodiff()).reshape(shape).require_grad()
        };
        let filled = |count: usize, shape: [usize; 4]| {
            Tensor::<1>::from_floats(wave(count, 1.3).as_slice(), &cpu.clone().autodiff()).reshape(shape).require_grad()
        };
        let run = || {
            let (x, kernel) = (input([2, 3, 9, 9]), filled(108, [4, 3, 3, 3]));
            let options = burn::tensor::ops::ConvOptions::new([1; 2], [1; 2], [1; 2], 1);
            let y = product(burn::tensor::module::conv2d(factor(x), factor(kernel.clone()), None, options));
            let flat = y.reshape([8, 81]);
            let z = matmul(flat.clone(), flat.transpose());
            assert_eq!(z.dtype(), DType::F32);
            let value = z.clone().sum();
            let gradients = value.backward();
            let gradient = kernel.grad(&gradients).expect("it is asked for");
            assert_eq!(gradient.dtype(), DType::F32);
            (
                z.into_data().iter::<f32>().collect::<Vec<f32>>(),
                gradient.into_data().iter::<f32>().collect::<Vec<f32>>(),
            )
        };
        let exact = run();
        let rounded = {
            let held = hold(Precision::Bf16);
            let shared = hold(Precision::Bf16);
            let rounded = run();
            let other = std::thread::spawn(|| drop(hold(Precision::F32)));
            std::thread::sleep(Duration::from_millis(50));
            assert!(!other.is_finished(), "one that wants another precision waits");
            drop(held);
            drop(shared);
            other.join().expect("it goes on as soon as nobody holds the first");
            rounded
        };
        assert_eq!(run(), exact, "f32 is back");
        for (exact, rounded) in [(&exact.0, &rounded.0), (&exact.1, &rounded.1)] {
            let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            let error = norm(&mut exact.iter().zip(rounded).map(|(a, b)| a - b)) / norm(&mut exact.iter().copied());
            // Factors are rounded by up to 2^-9, three times one after the other.
            assert!(error > 1e-5 && error < 1e-2, "{error}");
        }
    }
}
