//! Whether a device gives the outputs of the CPU, network by network, by the code behind `orandflow op forward`.

use std::process::ExitCode;

use burn::tensor::Device;
use orandflow::artifact::weights::NamedTensors;
use orandflow::image::Maps;
use orandflow::nn::amn::{self, Amn};
use orandflow::nn::forward::{self, Arch, Input, Options};
use orandflow::nn::irn::{Irn, IrnConfig};
use orandflow::nn::mctformer::{self, MctFormer, Version};
use orandflow::nn::orandnet::OrandNetConfig;
use orandflow::nn::resnet::{self, ResNetCam};
use orandflow::nn::resnet38::Resnet38Config;
use orandflow::nn::vit::{self, VitCam};
use orandflow::nn::{device, params};

use crate::{CLASSES, photograph};

/// The largest relative L2 distance that passes: f32 sums in another order, through fifty layers.
const BOUND: f64 = 1e-3;

/// Outputs that may differ by more: the relevance of a transformer is divided by sums that are almost 0 (docs/results.md).
const ILL_CONDITIONED: [&str; 1] = ["attribution"];

/// Compares every network on this device with the CPU, and prints a row for each output.
pub(crate) fn of(other: &Device, name: &str) -> ExitCode {
    println!("| network | output | {name} from cpu, relative L2 |\n|---|---|---|");
    let mut apart = 0;
    for (arch, height, width) in [
        ("resnet50_cam", 150, 200),
        ("resnet50_amn", 150, 200),
        ("vit_base", 512, 512),
        ("mctformer_v1", 176, 240),
        ("mctformer_v2", 176, 240),
        ("mctformer_plus", 176, 240),
        ("orandnet", 120, 150),
        ("irn", 150, 200),
        ("resnet38_seg", 150, 200),
    ] {
        let outputs = |device: &Device| run(arch, height, width, device);
        let (expected, got) = (outputs(&device::named("cpu").expect("always there")), outputs(other));
        for (output, expected) in &expected {
            let error = distance(&expected.data, &got[output].data);
            let bound = if ILL_CONDITIONED.contains(&output.as_str()) { f64::INFINITY } else { BOUND };
            // A distance that is no number is none.
            let passes = error <= bound && error.is_finite();
            println!("| {arch} | {output} | {error:.1e}{} |", if passes { "" } else { " APART" });
            apart += usize::from(!passes);
        }
    }
    if apart == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a network of the paper's size, its weights drawn from a seed, on a drawn image.
fn run(arch: &str, height: usize, width: usize, device: &Device) -> NamedTensors {
    let kind = Arch::named(arch).expect("it is in the table");
    let mut options = Options::new(kind);
    for (name, value) in match arch {
        "resnet50_amn" => vec![("labels", "[3, 7]")],
        "vit_base" => vec![("class", "3")],
        _ => vec![],
    } {
        options.set(name, value).expect("the network has this option");
    }
    let input = if kind.takes_maps() {
        let values = (0..height * width).map(|i| (i * 7919 % 97) as f32 / 97.0).collect();
        Input::Maps(Maps::new(1, height, width, values))
    } else {
        Input::Image(photograph(height, width, 5))
    };
    forward::run(&options, weights(arch), &input, device).unwrap_or_else(|message| panic!("{arch}: {message}"))
}

fn weights(arch: &str) -> NamedTensors {
    let cpu = device::named("cpu").expect("always there");
    let mct = |version| params::export(&MctFormer::new(&mctformer::Config::small(version), CLASSES, 1, &cpu));
    match arch {
        "resnet50_cam" => params::export(&ResNetCam::new(&resnet::Config::resnet50(), CLASSES, 1, &cpu)),
        "resnet50_amn" => params::export(&Amn::new(&amn::Config::resnet50(), CLASSES, 1, &cpu)),
        "vit_base" => params::export(&VitCam::new(&vit::Config::base(), CLASSES, 1, &cpu)),
        "mctformer_v1" => mct(Version::V1),
        "mctformer_v2" => mct(Version::V2),
        "mctformer_plus" => mct(Version::Plus),
        "orandnet" => params::export(&OrandNetConfig::vgg16().init(1, &cpu)),
        "irn" => Irn::new(&IrnConfig::resnet50(), 1, &cpu).export(),
        _ => params::export(&Resnet38Config::resnet38(CLASSES + 1).init(1, &cpu)),
    }
}

fn distance(expected: &[f32], got: &[f32]) -> f64 {
    if expected.len() != got.len() {
        return f64::INFINITY;
    }
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    let apart = square(&mut expected.iter().zip(got).map(|(a, b)| f64::from(a - b)));
    let whole = square(&mut expected.iter().map(|&value| f64::from(value)));
    (apart / whole.max(f64::MIN_POSITIVE)).sqrt()
}
