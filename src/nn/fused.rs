//! What transformers do beside products, GELU, softmax and layer norm, in one pass over memory and on all cores of the CPU. On
//! other devices burn's operations are taken. burn 0.22 takes five to ten passes for each of them where gradients are asked for,
//! on one thread (docs/performance.md).
//!
//! What is added up, and in which order, depends on shapes alone, so results are the same whatever the number of threads.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, Flex, TensorMetadata};
use burn::tensor::{DType, Tensor, TensorData, activation, module};
use rayon::prelude::*;

use crate::image::crf::exp_of_negative;
use crate::nn::flex::{Plain, Tracked, plain, tracked};

/// Values that one task takes, about.
const TASK: usize = 1 << 14;
/// Rows whose gradients of layer norm's scale and shift are added up by one task.
const ROWS: usize = 64;
/// Running sums side by side: a single one would wait for itself at every step.
const LANES: usize = 16;

/// A tensor on the CPU, with gradients or without.
enum Here {
    Plain(Plain),
    Tracked(Tracked),
}

/// Returns a tensor of f32 on the CPU, `None` for others.
fn here<const D: usize>(x: &Tensor<D>) -> Option<Here> {
    if x.dtype() != DType::F32 {
        return None;
    }
    plain(x).map(Here::Plain).or_else(|| tracked(x).map(Here::Tracked))
}

fn like(values: Vec<f32>, x: &Plain) -> Plain {
    Plain::from_data(TensorData::new(values, x.shape()))
}

/// Applies the Gaussian error linear unit, `x Φ(x)` with the exact Φ, as PyTorch's `gelu` does without an approximation.
///
/// # Shapes
/// Any to the same.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match here(&x) {
        None => activation::gelu(x),
        Some(Here::Plain(x)) => Tensor::from_primitive::<Flex>(gelu_values(&x.to_contiguous())),
        Some(Here::Tracked(x)) => {
            let y = match Gelu.prepare::<NoCheckpointing>([x.node()]).compute_bound().stateful() {
                OpsKind::Tracked(prepared) => {
                    let x = x.into_primitive().to_contiguous();
                    let (y, slopes) = gelu_slopes(&x);
                    prepared.finish(slopes, y)
                }
                OpsKind::UnTracked(prepared) => prepared.finish(gelu_values(&x.into_primitive().to_contiguous())),
            };
            Tensor::from_primitive::<Autodiff<Flex>>(y)
        }
    }
}

/// Applies the softmax over the last dimension to `factor x`, where the factor is positive.
///
/// # Shapes
/// `[.., N]` to the same.
pub fn softmax<const D: usize>(x: Tensor<D>, factor: f64) -> Tensor<D> {
    match here(&x) {
        None => activation::softmax(x * factor, D - 1),
        Some(Here::Plain(x)) => Tensor::from_primitive::<Flex>(softmax_rows(&x.to_contiguous(), factor as f32)),
        Some(Here::Tracked(x)) => {
            let factor = factor as f32;
            let y = match Softmax.prepare::<NoCheckpointing>([x.node()]).compute_bound().stateful() {
                OpsKind::Tracked(prepared) => {
                    let y = softmax_rows(&x.into_primitive().to_contiguous(), factor);
                    prepared.finish((y.clone(), factor), y)
                }
                OpsKind::UnTracked(prepared) => {
                    prepared.finish(softmax_rows(&x.into_primitive().to_contiguous(), factor))
                }
            };
            Tensor::from_primitive::<Autodiff<Flex>>(y)
        }
    }
}

/// Brings the last dimension to mean 0 and variance 1 and applies a scale and a shift: `(x - mean) / sqrt(var + epsilon) * weight +
/// bias`, as `torch.nn.LayerNorm`.
///
/// # Shapes
/// `[.., N]`, `[N]` and `[N]` to `[.., N]`.
pub fn layer_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, bias: Tensor<1>, epsilon: f64) -> Tensor<D> {
    match (here(&x), here(&weight), here(&bias)) {
        (Some(Here::Plain(x)), Some(Here::Plain(weight)), Some(Here::Plain(bias))) => {
            let (y, _) = layer_norm_rows(&x.to_contiguous(), &weight, &bias, epsilon);
            Tensor::from_primitive::<Flex>(y)
        }
        (Some(Here::Tracked(x)), Some(Here::Tracked(weight)), Some(Here::Tracked(bias))) => {
            let nodes = [x.node(), weight.node(), bias.node()];
            let prepared = LayerNorm.prepare::<NoCheckpointing>(nodes).compute_bound().stateful();
            let (x, weight) = (x.into_primitive().to_contiguous(), weight.into_primitive());
            let (y, rows) = layer_norm_rows(&x, &weight, &bias.into_primitive(), epsilon);
            let y = match prepared {
                OpsKind::Tracked(prepared) => prepared.finish((x, weight, rows), y),
                OpsKind::UnTracked(prepared) => prepared.finish(y),
            };
            Tensor::from_primitive::<Autodiff<Flex>>(y)
        }
        _ => module::layer_norm(x, weight, Some(bias), epsilon),
    }
}

#[derive(Debug)]
struct Gelu;

impl Backward<Flex, 1> for Gelu {
    /// The slope at each value.
    type State = Plain;

    fn backward(self, ops: Ops<Plain, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
        if let [Some(node)] = ops.parents {
            let (gradient_values, slopes): (&[f32], &[f32]) = (gradient.storage(), ops.state.storage());
            let mut of_x = vec![0.0; slopes.len()];
            let tasks = of_x.par_chunks_mut(TASK).zip(gradient_values.par_chunks(TASK)).zip(slopes.par_chunks(TASK));
            tasks.for_each(|((of_x, gradient), slopes)| {
                for ((of_x, gradient), slope) in of_x.iter_mut().zip(gradient).zip(slopes) {
                    *of_x = gradient * slope;
                }
            });
            gradients.register::<Flex>(node.id, like(of_x, &gradient));
        }
    }
}

#[derive(Debug)]
struct Softmax;

impl Backward<Flex, 1> for Softmax {
    /// What came out, and the factor.
    type State = (Plain, f32);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
        if let [Some(node)] = ops.parents {
            let (y, factor) = ops.state;
            let length = row_length(&y);
            let (y, gradient_values): (&[f32], &[f32]) = (y.storage(), gradient.storage());
            let mut of_x = vec![0.0; y.len()];
            let task = rows_of_task(length) * length;
            let tasks = of_x.par_chunks_mut(task).zip(y.par_chunks(task)).zip(gradient_values.par_chunks(task));
            tasks.for_each(|((of_x, y), gradient)| {
                let rows = of_x.chunks_exact_mut(length).zip(y.chunks_exact(length)).zip(gradient.chunks_exact(length));
                for ((of_x, y), gradient) in rows {
                    let mean = sum_of(y, gradient, |y, gradient| y * gradient);
                    for ((of_x, y), gradient) in of_x.iter_mut().zip(y).zip(gradient) {
                        *of_x = factor * y * (gradient - mean);
                    }
                }
            });
            gradients.register::<Flex>(node.id, like(of_x, &gradient));
        }
    }
}

#[derive(Debug)]
struct LayerNorm;

impl Backward<Flex, 3> for LayerNorm {
    /// What went in, the scale, and mean and 1 / deviation of each row.
    type State = (Plain, Plain, Vec<[f32; 2]>);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let (x, weight, rows) = ops.state;
        let length = row_length(&x);
        let weight = weight.to_contiguous();
        let (x_values, scale, gradient_values): (&[f32], &[f32], &[f32]) =
            (x.storage(), weight.storage(), gradient.storage());
        let mut of_x = vec![0.0; x_values.len()];
        let task = ROWS * length;
        let sums: Vec<[Vec<f32>; 2]> = of_x
            .par_chunks_mut(task)
            .zip(x_values.par_chunks(task))
            .zip(gradient_values.par_chunks(task))
            .zip(rows.par_chunks(ROWS))
            .map(|(((of_x, x), gradient), rows)| {
                let mut sums = [vec![0.0; length], vec![0.0; length]];
                let mut normal = vec![0.0; length];
                let mut scaled = vec![0.0; length];
                let values =
                    of_x.chunks_exact_mut(length).zip(x.chunks_exact(length)).zip(gradient.chunks_exact(length));
                for (((of_x, x), gradient), &[mean, inverse]) in values.zip(rows) {
                    let [of_weight, of_bias] = &mut sums;
                    for at in 0..length {
                        normal[at] = (x[at] - mean) * inverse;
                        scaled[at] = gradient[at] * scale[at];
                        of_weight[at] += gradient[at] * normal[at];
                        of_bias[at] += gradient[at];
                    }
                    let level = sum_of(&scaled, &scaled, |scaled, _| scaled) / length as f32;
                    let slope = sum_of(&scaled, &normal, |scaled, normal| scaled * normal) / length as f32;
                    for at in 0..length {
                        of_x[at] = inverse * (scaled[at] - level - normal[at] * slope);
                    }
                }
                sums
            })
            .collect();
        let [node_x, node_weight, node_bias] = ops.parents;
        if let Some(node) = node_x {
            gradients.register::<Flex>(node.id, like(of_x, &x));
        }
        for (which, node) in [node_weight, node_bias].into_iter().enumerate() {
            if let Some(node) = node {
                let mut total = vec![0.0; length];
                for part in &sums {
                    total.iter_mut().zip(&part[which]).for_each(|(total, part)| *total += part);
                }
                gradients.register::<Flex>(node.id, Plain::from_data(TensorData::new(total, [length])));
            }
        }
    }
}

fn row_length(x: &Plain) -> usize {
    x.shape().last().copied().unwrap_or(1).max(1)
}

fn rows_of_task(length: usize) -> usize {
    (TASK / length).max(1)
}

/// Adds up what `term` makes of pairs of values.
#[inline(always)]
fn sum_of(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let ((whole_a, rest_a), (whole_b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (a, b) in whole_a.iter().zip(whole_b) {
        for lane in 0..LANES {
            sums[lane] += term(a[lane], b[lane]);
        }
    }
    let rest: f32 = rest_a.iter().zip(rest_b).map(|(a, b)| term(*a, *b)).sum();
    sums.iter().sum::<f32>() + rest
}

/// Returns Φ(x), the normal distribution function, and `exp(-x² / 2)`. Φ is off by 1e-7 at most: Hastings' approximation of the
/// error function, Abramowitz and Stegun 7.1.26.
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    const P: f32 = 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + P * x.abs());
    let bell = exp_of_negative(-0.5 * x * x);
    let mut sum = 1.061_405_4;
    for coefficient in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        sum = sum * t + coefficient;
    }
    let tail = 0.5 * sum * t * bell;
    (if x < 0.0 { tail } else { 1.0 - tail }, bell)
}

fn gelu_values(x: &Plain) -> Plain {
    let source: &[f32] = x.storage();
    let mut values = vec![0.0; source.len()];
    values.par_chunks_mut(TASK).zip(source.par_chunks(TASK)).for_each(|(values, source)| {
        for (value, &x) in values.iter_mut().zip(source) {
            *value = x * normal(x).0;
        }
    });
    like(values, x)
}

/// Returns the values and their slopes, `Φ(x) + x φ(x)`.
fn gelu_slopes(x: &Plain) -> (Plain, Plain) {
    /// 1 / sqrt(2 π)
    const DENSITY: f32 = 0.398_942_3;
    let source: &[f32] = x.storage();
    let (mut values, mut slopes) = (vec![0.0; source.len()], vec![0.0; source.len()]);
    let tasks = values.par_chunks_mut(TASK).zip(slopes.par_chunks_mut(TASK)).zip(source.par_chunks(TASK));
    tasks.for_each(|((values, slopes), source)| {
        for ((value, slope), &x) in values.iter_mut().zip(slopes).zip(source) {
            let (below, bell) = normal(x);
            *value = x * below;
            *slope = below + x * DENSITY * bell;
        }
    });
    (like(values, x), like(slopes, x))
}

fn softmax_rows(x: &Plain, factor: f32) -> Plain {
    let length = row_length(x);
    let source: &[f32] = x.storage();
    let mut values = vec![0.0; source.len()];
    let task = rows_of_task(length) * length;
    values.par_chunks_mut(task).zip(source.par_chunks(task)).for_each(|(values, source)| {
        for (values, source) in values.chunks_exact_mut(length).zip(source.chunks_exact(length)) {
            let top = source.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            for (value, &x) in values.iter_mut().zip(source) {
                *value = exp_of_negative((x - top) * factor);
            }
            let whole = 1.0 / sum_of(values, values, |value, _| value);
            values.iter_mut().for_each(|value| *value *= whole);
        }
    });
    like(values, x)
}

/// Returns the normalised rows, and mean and 1 / deviation of each.
fn layer_norm_rows(x: &Plain, weight: &Plain, bias: &Plain, epsilon: f64) -> (Plain, Vec<[f32; 2]>) {
    let (weight, bias) = (weight.to_contiguous(), bias.to_contiguous());
    let length = row_length(x);
    let (source, weight, bias): (&[f32], &[f32], &[f32]) = (x.storage(), weight.storage(), bias.storage());
    assert!(weight.len() == length && bias.len() == length, "scale and shift are as long as a row");
    let (mut values, mut rows) = (vec![0.0; source.len()], vec![[0.0; 2]; source.len() / length]);
    let task = rows_of_task(length);
    let tasks =
        values.par_chunks_mut(task * length).zip(source.par_chunks(task * length)).zip(rows.par_chunks_mut(task));
    tasks.for_each(|((values, source), rows)| {
        let lines = values.chunks_exact_mut(length).zip(source.chunks_exact(length)).zip(rows);
        for ((values, source), row) in lines {
            let mean = sum_of(source, source, |x, _| x) / length as f32;
            let variance = sum_of(source, source, |x, _| (x - mean) * (x - mean)) / length as f32;
            let inverse = 1.0 / (variance + epsilon as f32).sqrt();
            *row = [mean, inverse];
            for at in 0..length {
                values[at] = (source[at] - mean) * inverse * weight[at] + bias[at];
            }
        }
    });
    (like(values, x), rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::device;

    /// Runs an operation and burn's own on the same numbers, and compares outputs and the gradients of a weighted sum.
    fn compare<const D: usize>(
        shape: [usize; D],
        ours: impl Fn(Tensor<D>, Tensor<1>, Tensor<1>) -> Tensor<D>,
        burns: impl Fn(Tensor<D>, Tensor<1>, Tensor<1>) -> Tensor<D>,
    ) {
        let cpu = device::named("cpu").expect("always there");
        let wave = |count: usize, step: f64, scale: f64| {
            let values: Vec<f32> = (0..count).map(|i| ((i as f64 * step).sin() * scale) as f32).collect();
            Tensor::<1>::from_floats(values.as_slice(), &cpu.clone().autodiff())
        };
        let (count, length) = (shape.iter().product(), shape[D - 1]);
        let run = |operation: &dyn Fn(Tensor<D>, Tensor<1>, Tensor<1>) -> Tensor<D>| {
            let x = wave(count, 0.7, 4.0).reshape(shape).require_grad();
            let (weight, bias) = (wave(length, 1.1, 2.0).require_grad(), wave(length, 0.4, 1.0).require_grad());
            let y = operation(x.clone(), weight.clone(), bias.clone());
            let gradients = (y.clone() * wave(count, 1.7, 1.0).reshape(shape)).sum().backward();
            let mut found = vec![y.into_data().try_to_vec::<f32>().expect("it is of f32")];
            found.push(
                x.grad(&gradients).expect("it is asked for").into_data().try_to_vec::<f32>().expect("it is of f32"),
            );
            for other in [weight, bias] {
                found.extend(other.grad(&gradients).map(|g| g.into_data().try_to_vec::<f32>().expect("it is of f32")));
            }
            let x = wave(count, 0.7, 4.0).reshape(shape).inner();
            let plain = operation(x, wave(length, 1.1, 2.0).inner(), wave(length, 0.4, 1.0).inner());
            found.push(plain.into_data().try_to_vec::<f32>().expect("it is of f32"));
            found
        };
        let (ours, burns) = (run(&ours), run(&burns));
        assert_eq!(ours.len(), burns.len());
        for (which, (ours, burns)) in ours.iter().zip(&burns).enumerate() {
            assert_eq!(ours.len(), burns.len(), "array {which}");
            let largest = burns.iter().fold(1.0, |largest: f32, value| largest.max(value.abs()));
            for (at, (ours, burns)) in ours.iter().zip(burns).enumerate() {
                // Both sides round sums of up to some thousand terms to 24 bits.
                assert!((ours - burns).abs() < 5e-6 * largest, "array {which}, {at}: {ours} for {burns}");
            }
        }
    }

    #[test]
    fn values_and_gradients_are_those_of_burn() {
        for shape in [[3, 5, 7], [2, 70, 96], [1, 1, 1], [4, 3, 197]] {
            compare(shape, |x, _, _| gelu(x), |x, _, _| activation::gelu(x));
            compare(shape, |x, _, _| softmax(x, 0.3), |x, _, _| activation::softmax(x * 0.3, 2));
        }
        for shape in [[3, 5, 7], [2, 70, 96], [4, 3, 197]] {
            compare(
                shape,
                |x, weight, bias| layer_norm(x, weight, bias, 1e-6),
                |x, weight, bias| module::layer_norm(x, weight, Some(bias), 1e-6),
            );
        }
    }

    #[test]
    fn the_normal_distribution_is_exact_to_seven_places_and_what_is_no_number_stays() {
        // Values of the error function to ten places, from its table in Abramowitz and Stegun (7.1).
        for (x, erf) in [(0.0, 0.0), (0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0)] {
            let x = (x * std::f64::consts::SQRT_2) as f32;
            for (x, want) in [(x, 0.5 + 0.5 * erf), (-x, 0.5 - 0.5 * erf)] {
                assert!((f64::from(normal(x).0) - want).abs() < 1.5e-7, "Φ({x}) = {} for {want}", normal(x).0);
            }
        }
        assert_eq!((normal(40.0).0, normal(-40.0).0), (1.0, 0.0));
        assert!(normal(f32::NAN).0.is_nan());
        let cpu = device::named("cpu").expect("always there");
        let x = Tensor::<2>::from_floats([[1.0, f32::NAN, 2.0], [1.0, 1.0, 1.0]], &cpu);
        let y: Vec<f32> = softmax(x, 1.0).into_data().try_to_vec::<f32>().expect("it is of f32");
        assert!(
            y[..3].iter().all(|value| value.is_nan()) && y[3..].iter().all(|value| (value - 1.0 / 3.0).abs() < 1e-6)
        );
    }
}
