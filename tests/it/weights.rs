//! Weights on their way in and out: names, shapes, further names, heads, and what of a file may be missing.

use std::collections::{BTreeMap, BTreeSet};

use orandflow::artifact::architecture::{ALL, Architecture, counters};
use orandflow::artifact::weights::{NamedTensors, Values};
use orandflow::foreign::write::{Element, Entry, Storage, pth};

use crate::photographs::failure;
use crate::workbench::Workbench;

/// Returns name and shape of every tensor of a network of the reference programs, `None` without the folder.
#[expect(clippy::print_stderr, reason = "a test that is left out says so")]
fn keys(name: &str) -> Option<BTreeMap<String, Vec<usize>>> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../shared/keys/{name}.txt"));
    let Ok(text) = std::fs::read_to_string(&path) else {
        eprintln!("left out: {} is not there", path.display());
        return None;
    };
    let line = |line: &str| {
        let (name, rest) = line.split_once(" (")?;
        let (shape, kind) = rest.split_once(") ")?;
        matches!(kind, "float32" | "int64").then_some(())?;
        Some((name.to_owned(), shape.split(',').filter_map(|side| side.trim().parse().ok()).collect()))
    };
    Some(text.lines().filter_map(line).collect())
}

/// Returns name and shape of everything that a `.pth` of an architecture has.
fn written(architecture: &Architecture, sizes: &BTreeMap<String, Vec<usize>>) -> BTreeMap<String, Vec<usize>> {
    let layout = (architecture.layout)(&|name| sizes.get(name).cloned());
    let first: NamedTensors =
        layout.into_iter().map(|(name, shape)| (name, Values { shape, data: Vec::new() })).collect();
    let counters = if architecture.counters { counters(&first) } else { Vec::new() };
    let all = first.iter().map(|(name, values)| (name.clone(), values.shape.clone()));
    all.chain(counters.into_iter().map(|name| (name, Vec::new())))
        .flat_map(|(name, shape)| {
            let aliases = architecture.aliases_of(&name);
            std::iter::once(name).chain(aliases).map(move |name| (name, shape.clone())).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn names_and_shapes_are_those_of_the_reference_programs() {
    for (file, name, tensors) in [
        ("irn_cam", "resnet_cam", 956),
        ("amn", "resnet50_amn", 974),
        ("irn", "irn", 1035),
        ("encdec", "orandnet", 39),
        ("seg38", "resnet38_seg", 232),
        ("vit_base", "vit_cam", 152),
        ("mctformer_v2", "mctformer_v2", 152),
        ("mctformer_plus", "mctformer_plus", 154),
    ] {
        let Some(keys) = keys(file) else { return };
        let architecture = Architecture::find(name).expect("it has a row");
        let own = written(architecture, &keys);
        assert_eq!(own.len(), tensors, "{name}");
        assert_eq!(own, keys, "{name}");
    }
    // The class that trains IRN has buffers besides.
    let Some(keys) = keys("irn_train") else { return };
    let irn = Architecture::find("irn").expect("it has a row");
    let own: BTreeSet<String> = written(irn, &keys).into_keys().collect();
    assert!(keys.keys().all(|name| own.contains(name) || irn.drops(name)));
}

#[test]
fn every_architecture_can_be_named_in_a_pipeline() {
    for architecture in ALL {
        let bench = Workbench::new().pipeline(&stage(architecture.name, "weights.pth", ""));
        let outcome = bench.run(["graph", "pipeline.toml"]);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{}", architecture.name);
    }
}

fn stage(arch: &str, path: &str, more: &str) -> String {
    format!("[stages.weights]\nkind = \"weights.import\"\narch = \"{arch}\"\npath = \"{path}\"\n{more}\n")
}

/// Floats of one storage that tensors of any size begin in, so that files stay small.
fn noise(count: usize) -> Vec<u8> {
    let values =
        (0..count as u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 25) as f32 - 0.25);
    values.flat_map(f32::to_le_bytes).collect()
}

/// A `.pth` of an architecture as its program writes it. `change` may take names away, add some or alter shapes; `zero.` and `nan.`
/// before a name say what its values are.
fn file(architecture: &Architecture, change: impl Fn(&mut BTreeMap<String, Vec<usize>>)) -> Vec<u8> {
    let mut tensors = written(architecture, &BTreeMap::new());
    change(&mut tensors);
    let largest = tensors.values().map(|shape| shape.iter().product::<usize>()).max().unwrap_or(0);
    let storages = [
        Storage { element: Element::F32, data: noise(largest) },
        Storage { element: Element::I64, data: 100_i64.to_le_bytes().to_vec() },
        Storage { element: Element::F32, data: vec![0; 4 * 64] },
        Storage { element: Element::F32, data: f32::NAN.to_le_bytes().repeat(64) },
    ];
    let entries: Vec<Entry> = tensors
        .into_iter()
        .map(|(name, shape)| {
            let (name, storage) = match name.split_once('.') {
                Some(("zero", name)) => (name.to_owned(), 2),
                Some(("nan", name)) => (name.to_owned(), 3),
                _ => {
                    let storage = usize::from(name.ends_with("num_batches_tracked"));
                    (name, storage)
                }
            };
            Entry { name, shape, storage }
        })
        .collect();
    pth(&entries, &storages).expect("small enough")
}

fn architecture(name: &str) -> &'static Architecture {
    Architecture::find(name).expect("it has a row")
}

/// Imports a file and returns the outcome of the stage, or its failure.
fn imported(arch: &str, file: &[u8], more: &str) -> Result<Workbench, String> {
    let bench = Workbench::new().pipeline(&stage(arch, "weights.pth", more)).file("weights.pth", file);
    let outcome = bench.run(["run", "pipeline.toml"]);
    match outcome.code {
        Some(0) => Ok(bench),
        _ => Err(failure(&outcome.stderr)),
    }
}

fn exported(bench: &Workbench, format: &str) -> Vec<u8> {
    let outcome = bench.run(["export", "pipeline.toml", "weights", "--to", "out", "--format", format]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    bench.read(if format == "pth" { "out/weights.pth" } else { "out/weights.safetensors" })
}

fn tensor_names(file: &[u8]) -> BTreeSet<String> {
    let file = safetensors::SafeTensors::deserialize(file).expect("safetensors");
    file.names().into_iter().map(str::to_owned).collect()
}

#[test]
fn a_backbone_loses_its_head_and_its_counters() {
    let resnet50 = architecture("resnet50");
    let with_head = file(resnet50, |tensors| {
        tensors.extend([("fc.weight".to_owned(), vec![1000, 2048]), ("fc.bias".to_owned(), vec![1000])]);
        // Whoever rounds all tensors of a file makes fractions of counters too.
        let shape = tensors.remove("bn1.num_batches_tracked").expect("it is there");
        tensors.insert("zero.bn1.num_batches_tracked".to_owned(), shape);
    });
    let bench = imported("resnet50", &with_head, "").expect("it fits");
    let names = tensor_names(&exported(&bench, "safetensors"));
    let layout: BTreeSet<String> = (resnet50.layout)(&|_| None).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, layout);
}

#[test]
fn further_names_go_in_and_come_out_again() {
    let resnet_cam = architecture("resnet_cam");
    let all = written(resnet_cam, &BTreeMap::new());
    let whole = file(resnet_cam, |_| {});
    let bench = imported("resnet_cam", &whole, "").expect("it fits");
    let safetensors = exported(&bench, "safetensors");
    assert_eq!(
        tensor_names(&safetensors).len(),
        all.keys().filter(|name| name.starts_with("resnet50.")).count() - 53 + 1
    );
    let description: serde_json::Value = serde_json::from_slice(&bench.read("out/weights.json")).expect("JSON");
    assert_eq!((&description["arch"], &description["classes"][20]), (&"resnet_cam".into(), &"tvmonitor".into()));
    let pth = exported(&bench, "pth");
    let tree = orandflow::foreign::torch::read(&pth).expect("readable");
    let tensors = orandflow::foreign::torch::state_dict(tree.root()).expect("tensors by name");
    let shapes: BTreeMap<String, Vec<usize>> =
        tensors.iter().map(|(name, view)| ((*name).to_owned(), view.shape().expect("a tensor").to_vec())).collect();
    assert_eq!(shapes, all);
    assert_eq!(tensors["backbone.3.0.2.bn3.num_batches_tracked"].integers(), Ok(vec![0]));
    // What has come out goes in again, and is the same.
    bench.write("weights.pth", &pth);
    assert_eq!(bench.statuses([]), ["weights ran"]);
    assert_eq!(exported(&bench, "safetensors"), safetensors);

    let two = file(resnet_cam, |tensors| {
        let shape = tensors.remove("stage1.1.bias").expect("it is there");
        tensors.insert("zero.stage1.1.bias".to_owned(), shape);
    });
    insta::assert_snapshot!(imported("resnet_cam", &two, "").err().expect("it is refused"), @r"
    error: stage `weights` failed after [TIME]
      cause: `weights.pth`: tensor `stage1.1.bias` should be `resnet50.bn1.bias` under a further name, and differs from it; the file is damaged or was put together from two
      help: see that the file is whole, and that it holds tensors alone: `torch.save(model.state_dict(), PATH)` writes one
    ");
}

#[test]
fn what_does_not_fit_is_listed_and_may_be_allowed_by_name() {
    let resnet50 = architecture("resnet50");
    let odd = file(resnet50, |tensors| {
        tensors.retain(|name, _| !name.starts_with("layer4.2."));
        tensors.insert("layer5.0.conv1.weight".to_owned(), vec![3, 3]);
        tensors.insert("bn1.bias".to_owned(), vec![32]);
    });
    let refused = imported("resnet50", &odd, "").err().expect("it is refused");
    let shapeless = file(resnet50, |tensors| {
        tensors.retain(|name, _| !name.starts_with("layer4.2."));
        tensors.insert("layer5.0.conv1.weight".to_owned(), vec![3, 3]);
    });
    let half = imported("resnet50", &shapeless, "allow_missing = [\"layer4.*\"]").err().expect("it is refused");
    let other = imported("resnet50", &crate::foreign::file("checkpoint.pth"), "").err().expect("it is refused");
    let evil = imported("resnet50", &crate::foreign::file("evil.pth"), "").err().expect("it is refused");
    let text = imported("resnet50", b"<html>not found</html>", "").err().expect("it is refused");
    let diverged = file(resnet50, |tensors| {
        let shape = tensors.remove("bn1.bias").expect("it is there");
        tensors.insert("nan.bn1.bias".to_owned(), shape);
    });
    let diverged = imported("resnet50", &diverged, "").err().expect("it is refused");
    insta::assert_snapshot!([refused, half, other, evil, text, diverged].join("\n"), @r"
    error: stage `weights` failed after [TIME]
      cause: `weights.pth` does not fit `resnet50`: it lacks 15 tensors: `layer4.2.bn1.bias`, `layer4.2.bn1.running_mean`, `layer4.2.bn1.running_var`, `layer4.2.bn1.weight`, 11 more; it has 1 tensor that does not belong to it: `layer5.0.conv1.weight`; 1 tensor differs in shape: `bn1.bias` is [32] and not [64]
      help: another `arch` may be right; tensors that may be missing or too many are named in `allow_missing` and `allow_unexpected`, with `*` for anything
    error: stage `weights` failed after [TIME]
      cause: `weights.pth` does not fit `resnet50`: it has 1 tensor that does not belong to it: `layer5.0.conv1.weight`
      help: another `arch` may be right; tensors that may be missing or too many are named in `allow_missing` and `allow_unexpected`, with `*` for anything
    error: stage `weights` failed after [TIME]
      cause: `weights.pth` does not fit `resnet50`: it lacks 265 tensors: `bn1.bias`, `bn1.running_mean`, `bn1.running_var`, `bn1.weight`, 261 more; it has 9 tensors that do not belong to it: `alias`, `bfloat`, `double`, `expanded`, 5 more
      help: another `arch` may be right; tensors that may be missing or too many are named in `allow_missing` and `allow_unexpected`, with `*` for anything
    error: stage `weights` failed after [TIME]
      cause: `weights.pth`: it asks for `posix.system`, which files of arrays and weights do not need; it was not run, and the file is not read
      help: see that the file is whole, and that it holds tensors alone: `torch.save(model.state_dict(), PATH)` writes one
    error: stage `weights` failed after [TIME]
      cause: `weights.pth`: this is neither a file of PyTorch nor a safetensors file: header too large
      help: see that the file is whole, and that it holds tensors alone: `torch.save(model.state_dict(), PATH)` writes one
    error: stage `weights` failed after [TIME]
      cause: `weights.pth`: tensor `bn1.bias` has a value that is NaN
      help: see that the file is whole, and that it holds tensors alone: `torch.save(model.state_dict(), PATH)` writes one
    ");
    let allowed = "allow_missing = [\"layer4.2.*\"]\nallow_unexpected = [\"layer5*\"]";
    let bench = imported("resnet50", &shapeless, allowed).expect("everything is allowed");
    let names = tensor_names(&exported(&bench, "safetensors"));
    assert!(!names.contains("layer5.0.conv1.weight") && !names.contains("layer4.2.bn1.bias"));
    let (object, _) = bench.run_json([]);
    assert!(object.to_string().contains("cached"), "{object}");
}

#[test]
fn the_number_of_classes_is_that_of_the_list() {
    let other = |tensors: &mut BTreeMap<String, Vec<usize>>| {
        for name in ["classifier.weight", "newly_added.0.weight"] {
            tensors.insert(name.to_owned(), vec![3, 2048, 1, 1]);
        }
    };
    let bytes = file(architecture("resnet_cam"), other);
    insta::assert_snapshot!(imported("resnet_cam", &bytes, "").err().expect("it is refused"), @r"
    error: stage `weights` failed after [TIME]
      cause: the weights of `resnet_cam` in `weights.pth` know 3 foreground classes and PASCAL VOC has 20
      help: connect port `images` with a set of the classes that the weights were trained for
    ");
    let bench = crate::photographs::bench().file("weights.pth", &bytes);
    let more = "inputs = { images = \"images\" }";
    bench.write("pipeline.toml", stage("resnet_cam", "weights.pth", more) + &crate::photographs::scored("images"));
    let outcome = bench.run(["run", "pipeline.toml"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    exported(&bench, "safetensors");
    let description: serde_json::Value = serde_json::from_slice(&bench.read("out/weights.json")).expect("JSON");
    assert_eq!(description["classes"], serde_json::json!(["background", "cat", "dog", "bird"]));
}

/// The sizes that weights get from the table are those that the networks have at the paper's size.
#[cfg(feature = "nn")]
#[test]
fn imported_networks_have_the_sizes_of_the_paper() {
    use orandflow::nn::{irn, orandnet, resnet, resnet38, vit};
    let config = |name: &str| (architecture(name).config)(&|_| None);
    let json = |value: Result<serde_json::Value, serde_json::Error>| value.expect("JSON");
    let resnet50 = json(serde_json::to_value(resnet::Config::resnet50()));
    assert_eq!((&config("resnet_cam"), &config("resnet50_amn")["backbone"]), (&resnet50, &resnet50));
    assert_eq!(config("vit_cam"), json(serde_json::to_value(vit::Config::base())));
    assert_eq!(config("irn"), json(serde_json::to_value(irn::IrnConfig::resnet50())));
    assert_eq!(config("orandnet")["sizes"], json(serde_json::to_value(orandnet::OrandNetConfig::vgg16())));
    assert_eq!(config("resnet38_seg"), json(serde_json::to_value(resnet38::Resnet38Config::resnet38(21))));
    for (name, arch) in [("irn", irn::ARCH), ("orandnet", orandnet::ARCH), ("resnet38_seg", resnet38::ARCH)] {
        assert_eq!(name, arch);
    }
}
