//! The classifiers against PyTorch, with weights that both draw from the names of the tensors.

use std::cell::RefCell;

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};
use orandflow::artifact::weights::{NamedTensors, Values};
use orandflow::image::normalise::normalise;
use orandflow::image::resize::Filter;
use orandflow::image::{Maps, codec};
use orandflow::nn::attribution::{Attribution, Explainer};
use orandflow::nn::cam::{self, Views};
use orandflow::nn::forward::{self, Arch, Input, Options};
use orandflow::nn::layers::NormKind;
use orandflow::nn::loss::multilabel_soft_margin;
use orandflow::nn::optim::{Group, Optimizer, Rule, Schedule};
use orandflow::nn::pass::Pass;
use orandflow::nn::resnet::{self, ResNetCam};
use orandflow::nn::train::{self, Hooks, Recipe};
use orandflow::nn::vit::{self, Stem, VitCam};
use orandflow::nn::{device, params};

use crate::fixture::{Fixture, drawn_image};
use crate::reference::{arrays, draw, relative_l2, shared, weights};

/// Sums of millions of products in f32, in another order than PyTorch's.
const TOLERANCE: f64 = 1e-4;

/// Made by `classifiers.py` beside it.
const FIXTURE: &[u8] = include_bytes!("../fixtures/classifiers.safetensors");

fn cpu() -> Device {
    device::named("cpu").expect("always there")
}

fn expected(name: &str) -> Vec<f64> {
    Fixture::new(FIXTURE).f64s(name)
}

/// Gives a network the weights that the fixture's script draws.
fn drawn<M: Module>(network: M) -> M {
    let tensors: NamedTensors = params::shapes(&network)
        .into_iter()
        .map(|(name, shape)| {
            let data = draw(&name, &shape);
            (name, Values { shape, data })
        })
        .collect();
    params::load_strict(network, &tensors).expect("the names are its own")
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

#[track_caller]
fn close(got: &[f32], want: &[f64], tolerance: f64) {
    let error = relative_l2(got, want);
    assert!(error < tolerance, "the relative error is {error:e}, allowed are {tolerance:e}");
}

fn views() -> Views {
    Views { scales: vec![0.5, 1.0, 1.5, 2.0], flip: true, filter: Filter::PillowBilinear }
}

fn sampled(maps: &Maps, step: usize) -> Vec<f32> {
    (0..maps.channels())
        .flat_map(|channel| (0..maps.height()).step_by(step).map(move |row| (channel, row)))
        .flat_map(|(channel, row)| (0..maps.width()).step_by(step).map(move |column| (channel, row, column)))
        .map(|(channel, row, column)| maps.channel(channel)[row * maps.width() + column])
        .collect()
}

#[test]
fn resnet50_maps_agree_with_pytorch() {
    let config = resnet::Config::resnet50();
    let network = drawn(ResNetCam::new(&config, 20, 0, &cpu()));
    let image = drawn_image(97, 130, 1);
    let maps = cam::multi_scale(&network, config.output_stride(), &[&image], &[&[3, 11]], &views(), &cpu());
    close(maps[0].cam.data(), &expected("resnet.cam"), TOLERANCE);
    close(&sampled(&maps[0].high_res, 5), &expected("resnet.high_res"), TOLERANCE);
}

#[test]
fn resnet50_maps_of_a_photograph_agree_with_the_reference_program() {
    let (Some(arrays), Some(tensors)) = (arrays("resnet50_cam"), weights("resnet50_cam")) else { return };
    let Some(path) = shared("data/voc_mini/JPEGImages/2011_000006.jpg") else { return };
    let bytes = std::fs::read(path).expect("the photograph can be read");
    let image = codec::decode_rgb(&bytes).expect("the photograph can be decoded");
    let config = resnet::Config::resnet50();
    let network = params::load_strict(ResNetCam::new(&config, 20, 0, &cpu()), &tensors).expect("the names match");
    let maps = cam::multi_scale(&network, config.output_stride(), &[&image], &[&[8, 14, 17]], &views(), &cpu());
    close(maps[0].cam.data(), &arrays["2011_000006_cam"].data, TOLERANCE);
    // These are stored as f16: half a unit in the last place is 2.4e-4 to 4.9e-4 of a value, 2e-4 in the mean square.
    close(&sampled(&maps[0].high_res, 4), &arrays["2011_000006_high"].data, 3e-4);
}

#[test]
fn three_training_steps_with_batch_norm_agree_with_pytorch() {
    let config = resnet::Config {
        stem: 3,
        pool: true,
        width: 4,
        blocks: [1, 1, 2, 1],
        strides: [2, 2, 1, 1],
        dilations: [1; 4],
        norm: NormKind::Batch,
    };
    let mut network = drawn(ResNetCam::new(&config, 3, 0, &cpu())).train();
    let images: Vec<Maps> = (0..4).map(|seed| normalise(&drawn_image(33, 40, seed))).collect();
    let x = cam::batch(images.iter(), &cpu().autodiff());
    let y: Tensor<2> =
        Tensor::from_floats([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [0.0; 3]], &cpu().autodiff());
    let mut optimizer = Optimizer::new(Rule::Sgd { momentum: 0.9 }, None, |_| Group { rate: 1.0, decay: 1e-3 });
    let mut losses = Vec::new();
    for _ in 0..3 {
        let loss = multilabel_soft_margin(network.logits(x.clone(), false, &Pass::training(0)), y.clone());
        losses.extend(values(loss.clone()));
        network = optimizer.step(network, loss.backward(), 0.05);
    }
    // PyTorch computed in f64; f32 loses about 1e-6 a step here, which batch norm over few values enlarges.
    close(&losses, &expected("training.losses"), 1e-5);
    let tensors = params::export(&network.valid());
    for name in [
        "resnet50.conv1.weight",
        "resnet50.bn1.bias",
        "resnet50.bn1.running_var",
        "resnet50.layer2.0.bn2.weight",
        "resnet50.layer3.1.conv2.weight",
        "resnet50.layer4.0.downsample.1.running_mean",
        "classifier.weight",
    ] {
        close(&tensors[name].data, &expected(&format!("training.{name}")), TOLERANCE);
    }
}

#[test]
fn vit_attributions_agree_with_pytorch_in_f64() {
    let config = vit::Config { image: 32, patch: 8, width: 32, depth: 3, heads: 4, stem: Stem::Patch };
    let network = params::in_f64(drawn(VitCam::new(&config, 5, 0, &cpu())));
    let pixels = normalise(&drawn_image(32, 32, 5));
    let x = cam::batch([&pixels, &pixels].into_iter(), &cpu()).cast(DType::F64);
    let logits = network.logits(x.clone().narrow(0, 0, 1), &Pass::inference());
    close(&values(logits.cast(DType::F32)), &expected("vit.logits"), 1e-6);
    let explainer = Explainer::new(network);
    for (name, attribution) in
        [("relevance", Attribution::Relevance), ("gradient_rollout", Attribution::GradientRollout)]
    {
        let found = values(explainer.attribute(x.clone(), &[1, 3], attribution).cast(DType::F32));
        let want = [1, 3].map(|class| expected(&format!("vit.{name}.{class}"))).concat();
        // Both compute in f64; the fixture and the comparison are rounded to f32.
        close(&found, &want, 1e-6);
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "docs/results.md has what is measured here")]
fn vit_base_agrees_with_the_reference_program() {
    let (Some(arrays), Some(tensors)) = (arrays("vit_base"), weights("vit_base")) else { return };
    let Some(path) = shared("reference/vit_input.png") else { return };
    let image = codec::decode_rgb(&std::fs::read(path).expect("readable")).expect("a PNG");
    let config = vit::Config { image: 224, ..vit::Config::base() };
    let network = params::load_strict(VitCam::new(&config, 20, 0, &cpu()), &tensors).expect("the names match");
    let pixels = normalise(&image);
    let x = cam::batch([&pixels, &pixels].into_iter(), &cpu());
    let logits = network.logits(x.clone().narrow(0, 0, 1), &Pass::inference());
    close(&values(logits), &arrays["logits"].data, TOLERANCE);
    // In f32 this network's relevances have one digit only: PyTorch's own results in f32 and f64 differ by 0.4 (relative L2), and
    // its f32 runs on other instruction sets are up to 0.17 off the reference (docs/results.md). Ours were 0.0098 and 0.0018 off
    // when this was written, and would be others on another processor. So this bound only catches gross errors and is no parity,
    // which the test below shows in f64.
    let found = values(Explainer::new(network).attribute(x, &[8, 14], Attribution::Relevance));
    let want = &arrays["attribution"].data;
    let half = found.len() / 2;
    for (class, (found, want)) in [8, 14].iter().zip(found.chunks(half).zip(want.chunks(half))) {
        println!("relevances of class {class}: {:.4} from the reference", relative_l2(found, want));
    }
    close(&found, want, 0.2);
}

#[test]
fn vit_base_has_pytorchs_relevances_in_f64() {
    let Some(tensors) = weights("vit_base") else { return };
    let Some(path) = shared("reference/vit_input.png") else { return };
    let image = codec::decode_rgb(&std::fs::read(path).expect("readable")).expect("a PNG");
    let mut options = Options::new(Arch::VitBase);
    options.set("class", "14").expect("an option");
    options.set("precision", "f64").expect("an option");
    let found = forward::run(&options, tensors, &Input::Image(image), &cpu()).expect("weights and image fit");
    // Made by `attribution.py` beside it. Both compute in f64 and round to f32, by up to 6e-8 of a value; f32 is 0.4 off.
    let want = Fixture::new(include_bytes!("../fixtures/attribution.safetensors")).f64s("relevance.14");
    close(&found["attribution"].data, &want, 1e-6);
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    let trained = |seed: u64| {
        let config = vit::Config { image: 32, patch: 8, width: 32, depth: 2, heads: 2, stem: Stem::Convolution };
        let network = VitCam::new(&config, 3, seed, &cpu());
        let recipe = Recipe {
            items: 12,
            batch: 4,
            epochs: 1,
            drop_last: true,
            rate: 1e-3,
            schedule: Schedule::Cosine,
            warmup: 1,
            seed,
            epoch_rates: Vec::new(),
        };
        let losses = RefCell::new(Vec::new());
        let report = |progress: train::Progress| losses.borrow_mut().push(progress.loss);
        let hooks = Hooks { report: &report, cancelled: &|| false, keeper: None };
        let mut optimizer = Optimizer::new(Rule::adamw(), Some(1.0), |_| Group { rate: 1.0, decay: 0.05 });
        let load = |sample: train::Sample| Ok::<_, String>(normalise(&drawn_image(32, 32, sample.index)));
        let network = train::fit(network, &recipe, &mut optimizer, &hooks, load, |network, images, pass, _| {
            let device = cpu().autodiff();
            let logits = network.logits(pass.dropout(cam::batch(images.iter(), &device), 0.1), pass);
            let wanted = TensorData::new([1.0_f32, 0.0, 1.0].repeat(4), [4, 3]);
            multilabel_soft_margin(logits, Tensor::from_data(wanted, &device))
        })
        .expect("nothing can fail");
        assert_eq!(losses.borrow().len(), 1);
        params::export(&network)
    };
    let first = trained(1);
    assert_eq!(first, trained(1));
    assert_ne!(first, trained(2));
}
