//! `orandflow op forward`: what it writes, and when it refuses.
#![cfg(feature = "nn")]

use orandflow::artifact::weights::{self, NamedTensors};
use orandflow::image::{Rgb, codec};
use orandflow::nn::mctformer::{Config, MctFormer, Version};
use orandflow::nn::orandnet::OrandNetConfig;
use orandflow::nn::{device, params};

use crate::workbench::{Outcome, Workbench};

fn bench(tensors: &NamedTensors) -> Workbench {
    let pixels = (0..40 * 64 * 3).map(|place: usize| (place * 13 % 251) as u8).collect();
    let image = codec::encode_rgb(&Rgb::new(40, 64, pixels));
    Workbench::new().file("w.safetensors", weights::encode(tensors)).file("i.png", image)
}

fn forward(bench: &Workbench, more: &str) -> Outcome {
    let words = ["op", "forward", "--weights", "w.safetensors", "--image", "i.png", "--out", "o.safetensors"];
    bench.run(words.into_iter().chain(more.split_whitespace()))
}

fn outputs(bench: &Workbench) -> NamedTensors {
    weights::decode(&bench.read("o.safetensors")).expect("it is written as safetensors")
}

#[test]
fn an_mctformer_gives_its_logits_and_maps() {
    let device = device::named("cpu").expect("always there");
    let config = Config { width: 24, depth: 2, heads: 2, patch: 8, ..Config::small(Version::V2) };
    let config = Config { image: 48, ..config };
    let bench = bench(&params::export(&MctFormer::new(&config, 3, 5, &device)));
    let sizes = "--set width=24 --set depth=2 --set heads=2 --set patch=8 --set image=48";
    let outcome = forward(&bench, &format!("--arch mctformer_v2 --layers 1 --fuse mct {sizes}"));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let mct = outputs(&bench);
    let shapes: Vec<(&str, &[usize])> =
        mct.iter().map(|(name, values)| (name.as_str(), values.shape.as_slice())).collect();
    assert_eq!(
        shapes,
        [
            ("cam", &[1, 3, 5, 8][..]),
            ("cam_refined", &[1, 3, 5, 8]),
            ("class_logits", &[1, 3]),
            ("patch_logits", &[1, 3]),
        ]
    );
    // A row of attention sums to 1, of which class tokens keep a part.
    let first: f32 = mct["cam"].data[..40].iter().sum();
    assert!(first > 0.5 && first < 1.0, "{first}");
    assert_eq!(forward(&bench, &format!("--arch mctformer_v2 --layers 2 {sizes}")).code, Some(0));
    assert_ne!(outputs(&bench)["cam"], mct["cam"]);
}

#[test]
fn orandnet_takes_maps() {
    let device = device::named("cpu").expect("always there");
    let bench = bench(&params::export(&OrandNetConfig::vgg_tiny().init(1, &device)));
    let mut npy = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 20, 30), }";
    npy.extend(format!("{header:<117}\n").bytes());
    npy.extend((0..1200).flat_map(|place| (place as f32 / 1200.0).to_le_bytes()));
    bench.write("i.npy", npy);
    let words = ["op", "forward", "--arch", "orandnet", "--weights", "w.safetensors", "--image", "i.npy"];
    let sizes = "--out o.safetensors --set widths=[4,8,16,32,32] --set fc_width=64 --set fc_kernel=3 --set padding=1";
    let outcome = bench.run(words.into_iter().chain(sizes.split_whitespace()));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert_eq!(outputs(&bench)["out"].shape, [2, 20, 30]);
}

#[test]
fn what_does_not_fit_is_named() {
    let bench = bench(&NamedTensors::new());
    let refused = |more: &str| {
        let outcome = forward(&bench, more);
        assert_eq!(outcome.code, Some(2), "{more}");
        outcome.stderr.lines().next().unwrap_or_default().to_owned()
    };
    insta::assert_snapshot!(refused("--arch resnet"), @"error: `resnet` is no network; known are resnet50_cam, resnet50_amn, vit_base, mctformer_v1, mctformer_v2, mctformer_plus, orandnet, irn, resnet38_seg");
    insta::assert_snapshot!(refused("--arch resnet50_cam"), @"error: `w.safetensors` on `i.png`: the weights do not fit: the network needs `classifier.weight`");
    insta::assert_snapshot!(refused("--arch resnet50_cam --class 3"), @"error: `class` is not an option of this network");
    insta::assert_snapshot!(refused("--arch irn --set edges=3"), @"error: `w.safetensors` on `i.png`: this network has no `edges`; it has pad_to, backbone, displacement_groups, displacement_widths, edge_groups, edge_width");
    insta::assert_snapshot!(refused("--arch irn --set edges"), @"error: `--set edges` has no `=`");
}
