//! Tensors of burn's CPU back end as what they are underneath, for kernels of our own.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex};
use burn::tensor::Tensor;

/// A tensor on the CPU.
pub(super) type Plain = FloatTensor<Flex>;

/// A tensor on the CPU with its place on the tape of gradients.
pub(super) type Tracked = FloatTensor<Autodiff<Flex>>;

/// Returns a tensor on the CPU without gradients, `None` for others.
pub(super) fn plain<const D: usize>(x: &Tensor<D>) -> Option<Plain> {
    x.clone().try_into_primitive::<Flex>().ok()
}

/// Returns a tensor on the CPU that may have gradients, `None` for others.
pub(super) fn tracked<const D: usize>(x: &Tensor<D>) -> Option<Tracked> {
    x.clone().try_into_primitive::<Autodiff<Flex>>().ok()
}
