//! Products whose f32 sums are taken in the order in which PyTorch takes them on x86-64, for relevance propagation alone.
//!
//! Relevances are divided by sums of activations that nearly cancel (SPEC 2.4), so the last bits of a forward pass decide
//! their leading digits, and an implementation that sums in another order, or more exactly, gets other numbers. Measured with
//! `tests/fixtures/attribution.py` on PyTorch 2.9: its convolution with a stride as large as the kernel (oneDNN) adds one product after the
//! other, down the rows of a kernel, along them, and through the channels, and the bias last; its matrix products (MKL) start from
//! the bias and add partial sums over equal blocks of at most 192 products.

use burn::module::Param;
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use crate::nn::layers::Linear;

/// The longest block of products that is summed up before it is added to the result.
const BLOCK: usize = 192;

/// Returns the patches of `x`, each times the kernels: a convolution whose stride is its kernel's side. No gradient passes.
///
/// # Shapes
/// `x` is `[B, C, H, W]`, `weight` `[O, C, s, s]`, `bias` `[O]`; the result is `[B, patches, O]`, patches row by row.
pub(super) fn patches(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>) -> Tensor<3> {
    let [batch, channels, height, width] = x.dims();
    let [output, _, side, _] = weight.dims();
    let (rows, columns) = (height / side, width / side);
    let (device, differentiable) = (x.device().without_autodiff(), x.is_autodiff());
    let pixels: Vec<f32> = x.into_data().iter::<f32>().collect();
    // [O, C, s, s] -> [s, s, C, O]
    let kernel: Vec<f64> = weight.permute([2, 3, 1, 0]).into_data().iter::<f32>().map(f64::from).collect();
    let bias: Vec<f32> = bias.map_or_else(|| vec![0.0; output], |bias| bias.into_data().iter::<f32>().collect());
    let mut values = vec![0.0_f32; batch * rows * columns * output];
    values.par_chunks_exact_mut(output).enumerate().for_each(|(place, sums)| {
        let (image, row, column) = (place / (rows * columns), place / columns % rows, place % columns);
        let mut weights = kernel.chunks_exact(output);
        for y in 0..side {
            for x in 0..side {
                for channel in 0..channels {
                    let at = ((image * channels + channel) * height + row * side + y) * width + column * side + x;
                    let pixel = f64::from(pixels[at]);
                    let weights = weights.next().expect("one row of weights for each pixel of a patch");
                    // A product of two f32 is exact in f64, so this rounds once, as a fused multiply-add does.
                    for (sum, weight) in sums.iter_mut().zip(weights) {
                        *sum = (f64::from(*sum) + pixel * weight) as f32;
                    }
                }
            }
        }
        for (sum, bias) in sums.iter_mut().zip(&bias) {
            *sum += bias;
        }
    });
    let found = Tensor::<3>::from_data(TensorData::new(values, [batch, rows * columns, output]), &device);
    if differentiable { Tensor::from_inner(found) } else { found }
}

/// Applies a linear layer.
///
/// # Shapes
/// `[B, N, input]` to `[B, N, output]`.
pub(super) fn linear(layer: &Linear, x: Tensor<3>) -> Tensor<3> {
    let weight = layer.weight.val().transpose();
    let [input, output] = weight.dims();
    let start = layer.bias.as_ref().map(Param::val).map(|bias| bias.reshape([1, 1, output]));
    blocks(input)
        .fold(start, |sum, (from, length)| {
            let part =
                x.clone().narrow(2, from, length).matmul(weight.clone().narrow(0, from, length).unsqueeze::<3>());
            Some(match sum {
                Some(sum) => sum + part,
                None => part,
            })
        })
        .expect("a layer has inputs")
}

/// Multiplies matrices.
///
/// # Shapes
/// `[B, h, N, K]` and `[B, h, K, M]` to `[B, h, N, M]`.
pub(super) fn product(p: Tensor<4>, q: Tensor<4>) -> Tensor<4> {
    let [_, _, _, inner] = p.dims();
    blocks(inner)
        .map(|(from, length)| p.clone().narrow(3, from, length).matmul(q.clone().narrow(2, from, length)))
        .reduce(|sum, part| sum + part)
        .expect("matrices are not empty")
}

/// Cuts `count` products into blocks: where each begins and how long it is.
fn blocks(count: usize) -> impl Iterator<Item = (usize, usize)> {
    let length = (count / count.div_ceil(BLOCK).max(1)).max(1);
    (0..count).step_by(length).map(move |from| (from, length.min(count - from)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_equal_but_for_the_rest() {
        assert_eq!(blocks(64).collect::<Vec<_>>(), [(0, 64)]);
        assert_eq!(blocks(384).collect::<Vec<_>>(), [(0, 192), (192, 192)]);
        assert_eq!(blocks(197).collect::<Vec<_>>(), [(0, 98), (98, 98), (196, 1)]);
    }
}
