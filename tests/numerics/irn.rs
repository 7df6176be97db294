//! IRN against the reference program, and the gradient that its heads get.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use orandflow::image::normalise::normalise;
use orandflow::image::paths::paths;
use orandflow::image::{LabelMap, codec};
use orandflow::nn::irn::{Irn, IrnConfig};
use orandflow::nn::layers::NormKind;
use orandflow::nn::resnet::Config;
use orandflow::nn::{device, params};

use crate::differences::scattered;
use crate::reference;

fn cpu() -> Device {
    device::named("cpu").expect("always there")
}

#[test]
fn edges_and_displacements_are_those_of_the_reference() {
    let (Some(arrays), Some(weights)) = (reference::arrays("irn"), reference::weights("irn")) else { return };
    let Some(file) = reference::shared("reference/irn_input.png") else { return };
    let image = codec::decode_rgb(&std::fs::read(file).expect("readable")).expect("a PNG");
    let network = Irn::load(&IrnConfig::resnet50(), &weights, &cpu()).expect("names and shapes are the reference's");
    let (edge, displacement) = network.infer(&normalise(&image), 512, &cpu());
    // 1e-4: both sum in f32, in different orders.
    let error = reference::relative_l2(edge.data(), &arrays["edge_net"].data);
    assert!(error < 1e-4, "edge: {error}");
    let error = reference::relative_l2(displacement.data(), &arrays["dp"].data);
    assert!(error < 1e-4, "displacement: {error}");
}

#[test]
fn names_and_shapes_are_those_of_the_reference() {
    let Some(mut keys) = reference::keys("irn") else { return };
    let aliases = ["stage", "backbone.", "edge_layers.", "dp_layers.", "fc_dp7.4."];
    keys.retain(|name, _| !aliases.iter().any(|alias| name.starts_with(alias)));
    let tensors = Irn::new(&IrnConfig::resnet50(), 0, &cpu()).export();
    let own = tensors.into_iter().map(|(name, values)| (name, values.shape)).collect();
    assert_eq!(keys, own);
}

/// The loss reaches the heads through a linear function of their outputs; the gradient of their last bias and weight must be
/// that of the loss itself.
#[test]
fn heads_get_the_gradient_of_the_loss() {
    let config = IrnConfig::tiny(Config { width: 8, norm: NormKind::Group, ..Config::tiny() });
    let network = Irn::new(&config, 3, &cpu());
    let pixels: Vec<f32> = scattered(2 * 3 * 48 * 56, 0.7).iter().map(|&v| (4.0 * v - 2.0) as f32).collect();
    let features = network.features(Tensor::from_data(TensorData::new(pixels, [2, 3, 48, 56]), &cpu()));
    let labels: Vec<LabelMap> = [3.1, 8.2]
        .map(|start| {
            let noise = scattered(12 * 14, start);
            LabelMap::new(
                12,
                14,
                noise.iter().enumerate().map(|(i, v)| if *v > 0.8 { 255 } else { (i % 14 / 5) as u8 }).collect(),
            )
        })
        .to_vec();
    let paths = paths(4);
    let tensors = params::export(&network.heads);
    let loss_with = |name: &str, index: usize, moved: f32| {
        let mut tensors = tensors.clone();
        tensors.get_mut(name).expect("known").data[index] += moved;
        let heads = params::load_strict(network.heads.clone(), &tensors).expect("the same names");
        heads.loss(&features, &labels, 21, &paths).1.total
    };
    let heads = network.heads.clone().train();
    let (loss, parts) = heads.loss(&features, &labels, 21, &paths);
    let value: f32 = loss.clone().into_scalar();
    assert!((f64::from(value) - parts.total).abs() < 1e-5);
    let gradients = params::gradients(&heads, &loss.backward());
    for name in [
        "fc_edge6.bias",
        "fc_edge6.weight",
        "fc_edge4.1.bias",
        "fc_edge1.0.weight",
        "fc_dp7.3.weight",
        "fc_dp5.0.weight",
    ] {
        let gradient = &gradients[name].data;
        // The steepest value: differences of f32 forward passes say little about flat ones.
        let index =
            (0..gradient.len()).max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs())).expect("not empty");
        let step = 2e-3;
        let slope = (loss_with(name, index, step) - loss_with(name, index, -step)) / (2.0 * f64::from(step));
        // 5e-2: kinks of ReLU, of the maximum and of the absolute value lie within the step.
        let error = (f64::from(gradient[index]) - slope).abs() / slope.abs();
        assert!(error < 5e-2, "{name}[{index}]: {} where {slope} is due", gradient[index]);
    }
}
