//! Twenty steps of SGD of every network against PyTorch's autograd, and MCTformer V1, on the small networks of
//! `tests/fixtures/training.py`.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use orandflow::artifact::weights::{NamedTensors, Values};
use orandflow::image::normalise::normalise;
use orandflow::image::paths::paths;
use orandflow::image::{LabelMap, Maps};
use orandflow::nn::amn::{self, Amn};
use orandflow::nn::cam;
use orandflow::nn::irn::{Irn, IrnConfig};
use orandflow::nn::layers::NormKind;
use orandflow::nn::loss::multilabel_soft_margin;
use orandflow::nn::mct_maps::{self, Fuse};
use orandflow::nn::mctformer::{self, MctFormer, Version};
use orandflow::nn::optim::{Group, Optimizer, Rule, Schedule};
use orandflow::nn::orandnet::{OrandLoss, OrandNetConfig};
use orandflow::nn::pass::Pass;
use orandflow::nn::resnet::{self, ResNetCam};
use orandflow::nn::resnet38::{Resnet38, Resnet38Config, SegmentationLoss};
use orandflow::nn::vit::{self, Stem, VitCam};
use orandflow::nn::{device, params};

use crate::fixture::{Fixture, drawn_image};
use crate::reference::{draw, relative_l2};

const FIXTURE: &[u8] = include_bytes!("../fixtures/training.safetensors");

const STEPS: usize = 20;
const SIDE: usize = 48;
const WIDE: usize = 64;

/// Losses and first gradients are those of f64; f32 loses 1e-6 a step, which ReLUs that turn enlarge.
const TOLERANCE: f64 = 1e-3;

fn cpu() -> Device {
    device::named("cpu").expect("always there")
}

fn expected(name: &str) -> Vec<f64> {
    Fixture::new(FIXTURE).f64s(name)
}

/// Three images, `columns` wide.
fn images(columns: usize) -> Tensor<4> {
    let images: Vec<Maps> = (0..3).map(|seed| normalise(&drawn_image(SIDE, WIDE, seed))).collect();
    cam::batch(images.iter(), &cpu().autodiff()).narrow(3, 0, columns)
}

fn targets() -> Tensor<2> {
    Tensor::from_floats([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0]], &cpu().autodiff())
}

/// The labels of the fixture's script: background at the left, then objects, every seventh pixel open.
fn labels(height: usize, width: usize, classes: usize) -> Vec<LabelMap> {
    let label = |r: usize, c: usize, seed: usize| match (r * 5 + c * 3 + seed) % 7 {
        0 => 255,
        _ if c * 3 < width => 0,
        _ => (1 + (r / 2 + c / 3 + seed) % (classes - 1)) as u8,
    };
    let map = |seed| {
        let places = (0..height).flat_map(|r| (0..width).map(move |c| (r, c)));
        LabelMap::new(height, width, places.map(|(r, c)| label(r, c, seed)).collect())
    };
    (0..3).map(map).collect()
}

/// The values that the script draws for these names and shapes.
fn drawn(shapes: impl IntoIterator<Item = (String, Vec<usize>)>) -> NamedTensors {
    let draw = |(name, shape): (String, Vec<usize>)| {
        let data = draw(&name, &shape);
        (name, Values { shape, data })
    };
    shapes.into_iter().map(draw).collect()
}

fn seeded<M: Module>(network: M) -> M {
    let tensors = drawn(params::shapes(&network));
    params::load_strict(network, &tensors).expect("the names are its own")
}

/// Trains as the script does, and compares its losses and the gradients of its first step.
fn follows_pytorch<M: Module>(
    name: &str,
    network: M,
    head: &'static [&'static str],
    rate: f64,
    loss: impl Fn(&M) -> Tensor<1>,
) {
    let mut network = network.train();
    let mut optimizer = Optimizer::new(Rule::Sgd { momentum: 0.9 }, None, move |name| Group {
        rate: if head.iter().any(|prefix| name.starts_with(prefix)) { 10.0 } else { 1.0 },
        decay: 5e-4,
    });
    let mut losses = Vec::new();
    for step in 0..STEPS {
        let value = loss(&network);
        let gradients = value.backward();
        if step == 0 {
            let found = params::gradients(&network, &gradients);
            let prefix = format!("{name}.gradient.");
            let names = Fixture::new(FIXTURE).names();
            let kept: Vec<&String> = names.iter().filter(|known| known.starts_with(&prefix)).collect();
            assert!(!kept.is_empty(), "the script has kept gradients of `{name}`");
            for known in kept {
                let own = &found[&known[prefix.len()..]];
                let error = relative_l2(&own.data, &expected(known));
                assert!(error < TOLERANCE, "{known}: {error:e}");
            }
        }
        losses.push(value.into_scalar::<f32>());
        network = optimizer.step(network, gradients, rate * Schedule::Polynomial.factor(step, STEPS, 0));
    }
    let want = expected(&format!("{name}.losses"));
    for (step, (got, want)) in losses.iter().zip(&want).enumerate() {
        let error = (f64::from(*got) - want).abs() / want.abs();
        assert!(error < TOLERANCE, "{name}, step {step}: {got} where {want} is due");
    }
}

fn backbone() -> resnet::Config {
    resnet::Config { width: 4, blocks: [1, 1, 2, 1], ..resnet::Config::resnet50() }
}

#[test]
fn resnet_cam() {
    let network = seeded(ResNetCam::new(&backbone(), 3, 0, &cpu())).frozen(true);
    let x = images(WIDE);
    follows_pytorch("resnet", network, &["classifier"], 0.05, |network| {
        multilabel_soft_margin(network.logits(x.clone(), true, &Pass::inference()), targets())
    });
}

#[test]
fn resnet50_amn() {
    let config = amn::Config { backbone: backbone(), dilations: [1, 2, 3, 4], dropout: 0.1 };
    let network = seeded(Amn::new(&config, 3, 0, &cpu())).frozen();
    let x = images(WIDE);
    follows_pytorch("amn", network, &["classifier", "label_enc"], 0.02, |network| {
        let logits = network.forward(x.clone(), targets(), &Pass::inference());
        let [_, _, height, width] = logits.dims();
        SegmentationLoss { balance: true, smoothing: 0.4 }.of(logits, &labels(height, width, 4))
    });
}

#[test]
fn vit_cam() {
    let config = vit::Config { image: SIDE, patch: 8, width: 16, depth: 3, heads: 2, stem: Stem::Patch };
    let network = seeded(VitCam::new(&config, 3, 0, &cpu()));
    let network = params::set_trainable(network, |name| name != "patch_embed.proj.weight");
    let x = images(SIDE);
    follows_pytorch("vit", network, &["head"], 0.05, |network| {
        multilabel_soft_margin(network.logits(x.clone(), &Pass::inference()), targets())
    });
}

fn mct(version: Version) -> MctFormer {
    let config =
        mctformer::Config { image: SIDE, patch: 8, width: 16, depth: 3, heads: 2, ..mctformer::Config::small(version) };
    seeded(MctFormer::new(&config, 3, 0, &cpu()))
}

#[test]
fn mctformer_of_every_version() {
    for (name, version, rate, contrast) in [
        ("mct_v1", Version::V1, 0.05, 0.0),
        ("mct_v2", Version::V2, 0.004, 0.0),
        ("mct_plus", Version::Plus, 0.004, 1.0),
    ] {
        let x = images(SIDE);
        follows_pytorch(name, mct(version), &["head"], rate, |network| {
            network.forward(x.clone(), false, &Pass::inference()).loss(&targets(), contrast)
        });
    }
}

/// There are no arrays of the reference program for V1; these are of the definition in PyTorch.
#[test]
fn maps_of_mctformer_v1() {
    let network = mct(Version::V1);
    for (name, width) in [("square", SIDE), ("wide", WIDE)] {
        let x = cam::batch([&normalise(&drawn_image(SIDE, width, 3))].into_iter(), &cpu());
        let outputs = network.forward(x, true, &Pass::inference());
        let recipe = mct_maps::Recipe { layers: 2, fuse: Fuse::Fused, refine: true };
        let (cam, refined) = mct_maps::of_outputs(&outputs, Version::V1, recipe, [SIDE / 8, width / 8]);
        let values = |tensor: Tensor<4>| tensor.into_data().iter::<f32>().collect::<Vec<f32>>();
        for (part, got) in [
            ("class_logits", outputs.class_logits.into_data().iter::<f32>().collect()),
            ("cam", values(cam)),
            ("cam_refined", values(refined)),
        ] {
            // f32 against f64.
            let error = relative_l2(&got, &expected(&format!("mct_v1.{name}.{part}")));
            assert!(error < 1e-4, "{name}, {part}: {error:e}");
        }
    }
}

#[test]
fn orandnet() {
    let config = OrandNetConfig { widths: [6, 8, 10, 12, 14], fc_width: 16, ..OrandNetConfig::vgg16() };
    let (height, width) = (101, 124);
    let maps = |seed: usize| {
        let value = |r: usize, c: usize, k: usize| {
            let edge = if c > width / 3 { 60 } else { 0 };
            ((r * (3 + k) + c * (5 - k) + seed * 11 + k * 29 + edge) % 97) as f32 / 97.0
        };
        let places = (0..3).flat_map(|k| (0..height).flat_map(move |r| (0..width).map(move |c| (r, c, k))));
        let data = places.map(|(r, c, k)| value(r, c, k)).collect();
        Tensor::<4>::from_data(TensorData::new::<f32, _>(data, [3, 1, height, width]), &cpu().autodiff())
    };
    let (or, and) = (maps(0), maps(5));
    follows_pytorch("orandnet", seeded(config.build(&cpu())), &[], 2.0, |network| {
        OrandLoss::ClassSoftmax.of(network.forward(or.clone(), &Pass::inference()), and.clone())
    });
}

#[test]
fn irn() {
    let config = IrnConfig {
        backbone: backbone(),
        edge_width: 4,
        edge_groups: 2,
        displacement_widths: [4, 4, 8, 8, 8, 8, 8],
        displacement_groups: [2; 7],
    };
    let shapes: Vec<(String, Vec<usize>)> =
        Irn::new(&config, 0, &cpu()).export().into_iter().map(|(name, values)| (name, values.shape)).collect();
    let network = Irn::load(&config, &drawn(shapes), &cpu()).expect("the names are its own");
    let features = network.features(images(WIDE).inner());
    let [_, _, height, width] = features[1].dims();
    let (labels, paths) = (labels(height, width, 4), paths(4));
    follows_pytorch("irn", network.heads, &["fc_dp"], 0.01, |heads| {
        let features = features.clone().map(Tensor::from_inner);
        heads.loss(&features, &labels, 21, &paths).0
    });
}

#[test]
fn resnet38_seg() {
    let config = Resnet38Config {
        widths: [4, 6, 8, 10, 12, 16, 20, 8],
        blocks: [1, 1, 2, 2],
        strides: [2; 3],
        dilations: [2, 4, 4, 12],
        dropout: [0.3, 0.5],
        norm: NormKind::Frozen,
        classes: 4,
    };
    let network: Resnet38 = seeded(config.init(0, &cpu())).frozen();
    let (x, masks) = (images(WIDE), labels(SIDE, WIDE, 4));
    follows_pytorch("resnet38", network, &["fc8"], 0.02, |network| {
        SegmentationLoss { balance: true, smoothing: 0.4 }.of(network.forward(x.clone(), &Pass::inference()), &masks)
    });
}
