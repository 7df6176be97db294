//! LibTorch against burn-flex: the same weights give the same outputs and the same gradients on both back ends.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use orandflow::artifact::weights::NamedTensors;
use orandflow::nn::orandnet::OrandNetConfig;
use orandflow::nn::pass::Pass;
use orandflow::nn::resnet::{self, ResNetCam};
use orandflow::nn::resnet38::Resnet38Config;
use orandflow::nn::vit::{self, VitCam};
use orandflow::nn::{device, params};

use crate::differences::scattered;
use crate::reference::relative_l2;

/// Sums of thousands of products in f32, in another order.
const TOLERANCE: f64 = 1e-4;
/// Batch norm over few values and the sums of a whole backward pass lose a digit more.
const GRADIENT_TOLERANCE: f64 = 1e-3;

/// Returns the output for a fixed input, and the gradient of the output's sum of squares for all parameters.
fn computed<M: Module>(
    build: impl Fn(&Device) -> M,
    forward: impl Fn(&M, Tensor<4>, &Pass) -> Tensor<1>,
    name: &str,
    shape: [usize; 4],
) -> (Vec<f32>, NamedTensors) {
    let plain = device::named(name).expect("this test is built with LibTorch");
    let values: Vec<f32> =
        scattered(shape.iter().product(), 0.7).iter().map(|&value| 2.0 * value as f32 - 1.0).collect();
    let input = |device: &Device| Tensor::<4>::from_data(TensorData::new(values.clone(), shape), device);
    let output = forward(&build(&plain), input(&plain), &Pass::inference()).into_data();
    let training = plain.autodiff();
    let network = build(&training);
    let loss = forward(&network, input(&training), &Pass::training(1)).powi_scalar(2).sum();
    (output.iter::<f32>().collect(), params::gradients(&network, &loss.backward()))
}

/// Sees to it that outputs agree, and returns the relative difference of all gradients together.
fn difference<M: Module>(
    build: impl Fn(&Device) -> M,
    forward: impl Fn(&M, Tensor<4>, &Pass) -> Tensor<1>,
    shape: [usize; 4],
) -> f64 {
    let (flex, flex_gradients) = computed(&build, &forward, "cpu", shape);
    let (torch, torch_gradients) = computed(&build, &forward, "libtorch", shape);
    let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<f64>>();
    let difference = relative_l2(&torch, &wide(&flex));
    assert!(difference < TOLERANCE, "outputs differ by {difference}");
    assert_eq!(flex_gradients.keys().collect::<Vec<_>>(), torch_gradients.keys().collect::<Vec<_>>());
    assert!(!flex_gradients.is_empty(), "something is trained");
    let all =
        |gradients: &NamedTensors| gradients.values().flat_map(|values| values.data.clone()).collect::<Vec<f32>>();
    relative_l2(&all(&torch_gradients), &wide(&all(&flex_gradients)))
}

fn agree<M: Module>(
    build: impl Fn(&Device) -> M,
    forward: impl Fn(&M, Tensor<4>, &Pass) -> Tensor<1>,
    shape: [usize; 4],
) {
    let difference = difference(build, forward, shape);
    assert!(difference < GRADIENT_TOLERANCE, "gradients differ by {difference}");
}

#[test]
fn a_resnet_computes_the_same() {
    let build = |device: &Device| ResNetCam::new(&resnet::Config::tiny(), 4, 3, device);
    agree(build, |network, x, pass| network.logits(x, false, pass).flatten(0, 1), [2, 3, 64, 48]);
}

#[test]
fn a_vision_transformer_computes_the_same() {
    let config = vit::Config { image: 32, ..vit::Config::tiny() };
    let build = |device: &Device| VitCam::new(&config, 4, 3, device);
    agree(build, |network, x, pass| network.logits(x, pass).flatten(0, 1), [2, 3, 32, 32]);
}

#[test]
fn orandnet_computes_the_same() {
    let build = |device: &Device| OrandNetConfig::vgg_tiny().init(3, device);
    agree(build, |network, x, pass| network.forward(x, pass).flatten(0, 3), [2, 1, 40, 56]);
}

#[test]
fn a_segmentation_network_computes_the_same() {
    // Some draws of the weights put a value within rounding of zero before a ReLU: it passes the gradient on one side alone, and the
    // two differ by 1e-2. Where none does, they differ by some 1e-6. So most of the draws have to agree.
    let mut differences: Vec<f64> = (3..8)
        .map(|seed| {
            let build = |device: &Device| Resnet38Config::tiny(5).init(seed, device);
            difference(build, |network, x, pass| network.forward(x, pass).flatten(0, 3), [2, 3, 64, 48])
        })
        .collect();
    differences.sort_by(f64::total_cmp);
    assert!(differences[2] < GRADIENT_TOLERANCE, "gradients differ by {differences:?}");
}
