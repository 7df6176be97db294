//! MCTformer against the reference programs, with weights that both draw from the names of the tensors.

use burn::tensor::Device;
use orandflow::artifact::architecture::Architecture;
use orandflow::artifact::weights::NamedTensors;
use orandflow::image::{Rgb, codec};
use orandflow::nn::amn;
use orandflow::nn::forward::{Arch, Input, Options, run};
use orandflow::nn::mctformer::{Config, MctFormer, Version};
use orandflow::nn::{device, params};

use crate::reference::{arrays, keys, relative_l2, shared, weights};

/// Sums in f32, in another order than PyTorch's.
const TOLERANCE: f64 = 1e-4;

fn cpu() -> Device {
    device::named("cpu").expect("always there")
}

fn image(name: &str) -> Option<Rgb> {
    let path = shared(&format!("reference/{name}.png"))?;
    Some(codec::decode_rgb(&std::fs::read(path).expect("readable")).expect("a PNG"))
}

fn outputs(arch: &str, tensors: &NamedTensors, image: Rgb, layers: &str) -> NamedTensors {
    let mut options = Options::new(Arch::named(arch).expect("a network"));
    options.set("layers", layers).expect("an option");
    run(&options, tensors.clone(), &Input::Image(image), &cpu()).expect("weights and image fit")
}

#[track_caller]
fn close(found: &NamedTensors, name: &str, want: &crate::reference::Array) {
    assert_eq!(found[name].shape, want.shape, "{name}");
    let error = relative_l2(&found[name].data, &want.data);
    assert!(error < TOLERANCE, "{name}: {error:e}");
}

#[test]
fn v2_agrees_with_the_reference_program_on_a_square_and_a_wide_image() {
    let (Some(arrays), Some(tensors)) = (arrays("mctformer_v2"), weights("mctformer_v2")) else { return };
    let (Some(square), Some(wide)) = (image("vit_input"), image("vit_input_wide")) else { return };
    let found = outputs("mctformer_v2", &tensors, square, "3");
    for name in ["class_logits", "patch_logits", "cam", "cam_refined"] {
        close(&found, name, &arrays[name]);
    }
    let found = outputs("mctformer_v2", &tensors, wide, "3");
    close(&found, "class_logits", &arrays["wide_class_logits"]);
    close(&found, "cam", &arrays["wide_cam"]);
}

#[test]
fn plus_agrees_with_the_reference_program() {
    let (Some(arrays), Some(tensors)) = (arrays("mctformer_plus"), weights("mctformer_plus")) else { return };
    let Some(square) = image("vit_input") else { return };
    let found = outputs("mctformer_plus", &tensors, square, "12");
    for name in ["class_logits", "patch_logits", "cam"] {
        close(&found, name, &arrays[name]);
    }
}

#[test]
fn names_and_shapes_are_those_of_the_reference() {
    for (version, name) in [(Version::V2, "mctformer_v2"), (Version::Plus, "mctformer_plus")] {
        let Some(keys) = keys(name) else { return };
        // The list of Plus was made at 224 pixels, too.
        let config = Config { image: 224, ..Config::small(version) };
        assert!(keys == params::shapes(&MctFormer::new(&config, 20, 0, &cpu())), "{name}");
    }
    // SPEC 4.1.
    for (version, count) in [(Version::V1, 21_687_956), (Version::V2, 21_749_396), (Version::Plus, 22_050_836)] {
        let shapes = params::shapes(&MctFormer::new(&Config::small(version), 20, 0, &cpu()));
        assert_eq!(shapes.values().map(|shape| shape.iter().product::<usize>()).sum::<usize>(), count);
    }
}

#[test]
fn imported_weights_bring_the_sizes_of_their_network() {
    for version in Version::ALL {
        let known = Architecture::find(version.arch()).expect("it can be imported");
        let config: Config =
            serde_json::from_value((known.config)(&|_| None)).expect("the network's own type reads it");
        assert_eq!(config, Config::small(version));
    }
    let known = Architecture::find(amn::ARCH).expect("it can be imported");
    let config: amn::Config =
        serde_json::from_value((known.config)(&|_| None)).expect("the network's own type reads it");
    assert_eq!(config, amn::Config::resnet50());
}
