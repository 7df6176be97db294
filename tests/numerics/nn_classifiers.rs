//! The classifiers against the reference programs, with weights that both draw from the names of the tensors.

use burn::tensor::Tensor;
use orandflow::data::augment::normalise;
use orandflow::image::resize::{Filter, resize_rgb};
use orandflow::image::{Rgb, codec};
use orandflow::nn::attribution::{Attribution, Explainer};
use orandflow::nn::cam::{self, Views};
use orandflow::nn::pass::Pass;
use orandflow::nn::resnet::{self, ResNetCam};
use orandflow::nn::vit::{self, VitCam};
use orandflow::nn::{device, params};

use crate::reference::{arrays, relative_l2, shared, weights};

/// Sums of millions of products in f32, in another order than PyTorch's.
const TOLERANCE: f64 = 1e-4;

fn photograph(relative: &str) -> Option<Rgb> {
    let bytes = std::fs::read(shared(relative)?).expect("the photograph can be read");
    Some(codec::decode_rgb(&bytes).expect("the photograph can be decoded"))
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

fn close(got: &[f32], want: &[f64], tolerance: f64) {
    let error = relative_l2(got, want);
    assert!(error < tolerance, "the relative error is {error:e}, allowed are {tolerance:e}");
}

#[test]
fn resnet50_maps_agree_with_the_reference() {
    let (Some(expected), Some(tensors)) = (arrays("resnet50_cam"), weights("resnet50_cam")) else { return };
    let Some(image) = photograph("data/voc_mini/JPEGImages/2011_000006.jpg") else { return };
    let device = device::named("cpu").expect("always there");
    let config = resnet::Config::resnet50();
    let network = params::load_strict(ResNetCam::new(&config, 20, 0, &device), &tensors).expect("the names match");

    let small = normalise(&resize_rgb(&image, 321, 321, Filter::PillowBilinear));
    let logits = network.logits(cam::batch([&small].into_iter(), &device), false, &Pass::inference());
    close(&values(logits), &expected["2011_000006_logits321"].data, TOLERANCE);

    let views = Views { scales: vec![0.5, 1.0, 1.5, 2.0], flip: true, filter: Filter::PillowBilinear };
    let labels: &[u8] = &[8, 14, 17];
    let maps = cam::multi_scale(&network, config.output_stride(), &[&image], &[labels], &views, &device);
    close(maps[0].cam.data(), &expected["2011_000006_cam"].data, TOLERANCE);
    let high = &maps[0].high_res;
    let sampled: Vec<f32> = (0..3)
        .flat_map(|channel| (0..high.height()).step_by(4).map(move |row| (channel, row)))
        .flat_map(|(channel, row)| (0..high.width()).step_by(4).map(move |column| (channel, row, column)))
        .map(|(channel, row, column)| high.channel(channel)[row * high.width() + column])
        .collect();
    // The reference is stored in f16, with a relative error up to 2^-11.
    close(&sampled, &expected["2011_000006_high"].data, 5e-4);
}

#[test]
fn vit_attributions_agree_with_the_reference() {
    let (Some(expected), Some(tensors)) = (arrays("vit_base"), weights("vit_base")) else { return };
    let Some(image) = photograph("reference/vit_input.png") else { return };
    let device = device::named("cpu").expect("always there");
    let config = vit::Config { image: 224, ..vit::Config::base() };
    let network = params::load_strict(VitCam::new(&config, 20, 0, &device), &tensors).expect("the names match");
    let pixels = normalise(&image);
    let x = cam::batch([&pixels, &pixels].into_iter(), &device);
    let logits = network.logits(x.clone().narrow(0, 0, 1), &Pass::inference());
    close(&values(logits), &expected["logits"].data, TOLERANCE);
    let attribution = Explainer::new(network).attribute(x, &[8, 14], Attribution::Relevance);
    // Relevances are quotients of small sums (SPEC 2.4): two f32 programs differ more than their logits do.
    close(&values(attribution), &expected["attribution"].data, 1e-2);
}
