//! Convolutions, on the CPU by our own kernels: those of burn-flex 0.22 copy the image into another layout on one thread and take
//! the gradient of the weights as one product for each input channel, which leaves half to three quarters of the processor unused
//! (docs/performance.md). On other devices burn's are taken.

mod kernels;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::ops::ModuleOps;
use burn::backend::{Autodiff, Flex, TensorMetadata};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Tensor, TensorData, module};

use self::kernels::Geometry;
use crate::nn::flex::{Plain, Tracked, plain, tracked};

/// Convolves `[B, input, H, W]` with `[output, input / groups, ky, kx]` and adds the bias, `[output]`: the same as
/// `torch.nn.functional.conv2d`.
///
/// # Panics
/// If shapes do not fit.
pub fn convolve(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, options: ConvOptions<2>) -> Tensor<4> {
    match on_cpu(&x, &weight, bias.as_ref(), &options) {
        Some(y) => y,
        None => module::conv2d(x, weight, bias, options),
    }
}

/// Like [`convolve`], or `None` where our kernels cannot: on other devices, of other numbers than f32, with channels in groups, with
/// sides that are padded unlike, and for shapes that do not fit.
pub fn on_cpu(
    x: &Tensor<4>,
    weight: &Tensor<4>,
    bias: Option<&Tensor<1>>,
    options: &ConvOptions<2>,
) -> Option<Tensor<4>> {
    geometry(&x.shape(), &weight.shape(), x.dtype(), options)?;
    if let (Some(x), Some(weight)) = (plain(x), plain(weight)) {
        let bias = bias.map(plain).map_or(Some(None), |bias| bias.map(Some))?;
        return Some(Tensor::from_primitive::<Flex>(forward(&x, &weight, bias.as_ref(), options)));
    }
    let (x, weight) = (tracked(x)?, tracked(weight)?);
    let bias = bias.map(tracked).map_or(Some(None), |bias| bias.map(Some))?;
    Some(Tensor::from_primitive::<Autodiff<Flex>>(differentiable(x, weight, bias, options)))
}

/// Returns the sizes, or `None` for what is left to burn. That is patches side by side, too: a transformer has one such product,
/// under a hundredth of its work, and its relevances hang on the order of these sums (docs/results.md).
fn geometry(x: &[usize], weight: &[usize], dtype: DType, options: &ConvOptions<2>) -> Option<Geometry> {
    let (&[batch, input, height, width], &[output, channels, ky, kx]) = (x, weight) else { return None };
    let padding = options.padding.map(|(before, _)| before);
    let even = options.padding.iter().all(|(before, after)| before == after);
    let something = [batch, input, output, ky, kx].iter().all(|size| *size > 0);
    let patches = [ky, kx] == options.stride && ky * kx > 1 && padding == [0, 0];
    if dtype != DType::F32 || options.groups != 1 || !even || channels != input || !something || patches {
        return None;
    }
    let geometry = Geometry {
        batch,
        input,
        output,
        size: [height, width],
        kernel: [ky, kx],
        stride: options.stride,
        padding,
        dilation: options.dilation,
    };
    let [rows, columns] = geometry.output_size()?;
    (rows > 0 && columns > 0).then_some(geometry)
}

/// Like [`geometry`], of tensors that [`on_cpu`] has let through.
fn geometry_of(x: &Plain, weight: &Plain, options: &ConvOptions<2>) -> Geometry {
    geometry(&x.shape(), &weight.shape(), x.dtype(), options).expect("shapes were looked at before")
}

fn tensor(values: Vec<f32>, shape: [usize; 4]) -> Plain {
    Plain::from_data(TensorData::new(values, shape))
}

fn forward(x: &Plain, weight: &Plain, bias: Option<&Plain>, options: &ConvOptions<2>) -> Plain {
    let (x, weight, bias) = (x.to_contiguous(), weight.to_contiguous(), bias.map(Plain::to_contiguous));
    let geometry = geometry_of(&x, &weight, options);
    let [rows, columns] = geometry.output_size().expect("shapes were looked at before");
    let bias = bias.as_ref().map(|bias| bias.storage());
    let values = kernels::convolve(x.storage(), weight.storage(), bias, &geometry);
    tensor(values, [geometry.batch, geometry.output, rows, columns])
}

fn gradient_of_x(x: &Plain, weight: &Plain, gradient: &Plain, options: &ConvOptions<2>) -> Plain {
    let geometry = geometry_of(x, weight, options);
    let Some(backward) = geometry.backward() else {
        // burn's own is as fast where the stride is not 1.
        return Flex::conv2d_x_backward(x.clone(), weight.clone(), gradient.clone(), options.clone());
    };
    let (weight, gradient) = (weight.to_contiguous(), gradient.to_contiguous());
    let turned = kernels::turned(weight.storage(), &geometry);
    let values = kernels::convolve(gradient.storage(), &turned, None, &backward);
    let [height, width] = geometry.size;
    tensor(values, [geometry.batch, geometry.input, height, width])
}

fn gradient_of_weight(x: &Plain, weight: &Plain, gradient: &Plain, options: &ConvOptions<2>) -> Plain {
    let geometry = geometry_of(x, weight, options);
    let (x, gradient) = (x.to_contiguous(), gradient.to_contiguous());
    let values = kernels::weight_gradient(x.storage(), gradient.storage(), &geometry);
    let [ky, kx] = geometry.kernel;
    tensor(values, [geometry.output, geometry.input, ky, kx])
}

/// A convolution on the tape; `N` is 3 with a bias and 2 without.
#[derive(Debug)]
struct Convolution<const N: usize>;

impl<const N: usize> Backward<Flex, N> for Convolution<N> {
    /// Where the tape keeps image and weights, the bias, and how the two are convolved.
    type State = (NodeId, NodeId, Option<Plain>, ConvOptions<2>);

    fn backward(self, ops: Ops<Self::State, N>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let gradient = gradients.consume::<Flex>(&ops.node);
        let (x, weight, bias, options) = ops.state;
        let x: Plain = checkpointer.retrieve_node_output(x);
        let weight: Plain = checkpointer.retrieve_node_output(weight);
        let mut parents = ops.parents.into_iter();
        if let Some(node) = parents.next().flatten() {
            gradients.register::<Flex>(node.id, gradient_of_x(&x, &weight, &gradient, &options));
        }
        if let Some(node) = parents.next().flatten() {
            gradients.register::<Flex>(node.id, gradient_of_weight(&x, &weight, &gradient, &options));
        }
        if let (Some(node), Some(bias)) = (parents.next().flatten(), bias) {
            gradients.register::<Flex>(node.id, Flex::conv2d_bias_backward(x, bias, gradient));
        }
    }
}

fn differentiable(x: Tracked, weight: Tracked, bias: Option<Tracked>, options: &ConvOptions<2>) -> Tracked {
    let y = |x: Tracked, weight: Tracked, bias: Option<Tracked>| {
        let bias = bias.map(Tracked::into_primitive);
        forward(&x.into_primitive(), &weight.into_primitive(), bias.as_ref(), options)
    };
    if let Some(bias) = bias {
        let nodes = [x.node(), weight.node(), bias.node()];
        match Convolution::<3>.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prepared) => {
                let kept = bias.clone().into_primitive();
                let state = (prepared.checkpoint(&x), prepared.checkpoint(&weight), Some(kept), options.clone());
                prepared.finish(state, y(x, weight, Some(bias)))
            }
            OpsKind::UnTracked(prepared) => prepared.finish(y(x, weight, Some(bias))),
        }
    } else {
        let nodes = [x.node(), weight.node()];
        match Convolution::<2>.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prepared) => {
                let state = (prepared.checkpoint(&x), prepared.checkpoint(&weight), None, options.clone());
                prepared.finish(state, y(x, weight, None))
            }
            OpsKind::UnTracked(prepared) => prepared.finish(y(x, weight, None)),
        }
    }
}
