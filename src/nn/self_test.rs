//! Whether a device computes what the CPU computes: a convolution, its gradients and a matrix product.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, TensorData, module};

use crate::nn::{device, precision};

/// What a device gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// The largest relative L2 distance from the CPU's result, over the output and each gradient.
    pub error: f64,
    /// How long a second run took.
    pub time: Duration,
}

impl Outcome {
    /// Sums of some hundred products in f32, in any order, differ by less; a wrong one by far more.
    pub const BOUND: f64 = 1e-4;

    /// Whether the device computes rightly.
    pub fn passes(&self) -> bool {
        self.error < Self::BOUND
    }
}

/// Computes on the device of this name and on the CPU, and compares.
///
/// # Errors
/// If the device cannot be used; the message is that of its back end.
pub fn of(name: &str) -> Result<Outcome, String> {
    let device = device::named(name).map_err(|error| error.to_string())?;
    let cpu = device::named("cpu").map_err(|error| error.to_string())?;
    let _held = precision::hold(precision::Precision::F32);
    let run = |device: &Device| catch_unwind(AssertUnwindSafe(|| compute(device))).map_err(|panic| said(&*panic));
    let expected = run(&cpu)?;
    run(&device)?;
    let start = Instant::now();
    let got = run(&device)?;
    let time = start.elapsed();
    let error = expected.iter().zip(&got).map(|(expected, got)| distance(expected, got)).fold(0.0, f64::max);
    Ok(Outcome { error, time })
}

/// Output, gradient of the input and gradient of the kernel of a convolution followed by a product.
fn compute(device: &Device) -> [Vec<f32>; 3] {
    let device = device.clone().autodiff();
    let wave = |shape: [usize; 4], step: f64| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| (i as f64 * step).sin() as f32).collect();
        Tensor::<4>::from_data(TensorData::new(values, shape), &device).require_grad()
    };
    let (x, kernel) = (wave([2, 8, 33, 29], 0.7), wave([16, 8, 3, 3], 1.3));
    let options = ConvOptions::new([2; 2], [1; 2], [1; 2], 1);
    let y = module::conv2d(x.clone(), kernel.clone(), None, options);
    let [batch, channels, height, width] = y.dims();
    let rows = y.reshape([batch * channels, height * width]);
    let product = rows.clone().matmul(rows.transpose());
    let gradients = (product.clone() * product.clone()).mean().backward();
    let values = |tensor: Tensor<4>| tensor.into_data().iter::<f32>().collect();
    [
        product.into_data().iter::<f32>().collect(),
        values(x.grad(&gradients).expect("it is asked for")),
        values(kernel.grad(&gradients).expect("it is asked for")),
    ]
}

fn distance(expected: &[f32], got: &[f32]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    let apart = square(&mut expected.iter().zip(got).map(|(a, b)| f64::from(a - b)));
    let whole = square(&mut expected.iter().map(|&value| f64::from(value)));
    let error = (apart / whole.max(f64::MIN_POSITIVE)).sqrt();
    // A device that gives no numbers is as wrong as can be.
    if error.is_finite() && expected.len() == got.len() { error } else { f64::INFINITY }
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.and_then(|text| text.lines().next()).unwrap_or("it panicked without a message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_agrees_with_itself_and_a_wrong_device_would_be_seen() {
        let outcome = of("cpu").expect("always there");
        assert_eq!(outcome.error, 0.0);
        assert!(outcome.passes());
        assert!(!Outcome { error: distance(&[1.0, 2.0], &[1.0, 2.1]), time: Duration::ZERO }.passes());
        assert_eq!(distance(&[1.0], &[f32::NAN]), f64::INFINITY);
        assert!(of("nowhere").is_err());
    }
}
