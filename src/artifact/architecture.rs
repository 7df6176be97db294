//! What state_dicts of the reference programs hold, by architecture: names and shapes, the further names under which some of
//! them repeat every tensor, and heads that belong to another task. Builds no network.
//!
//! A network whose weights are to come in or go out needs one row in [`ALL`].

use serde_json::{Value, json};

use super::weights::NamedTensors;

/// Names with shapes.
pub type Layout = Vec<(String, Vec<usize>)>;

/// Looks up the shape that a tensor has in a file.
pub type Shapes<'a> = &'a dyn Fn(&str) -> Option<Vec<usize>>;

/// What is known of an architecture's weights.
pub struct Architecture {
    /// Its word in `arch` and in the metadata of weights.
    pub name: &'static str,
    /// Names and shapes, those that repeat others left out. Sizes that differ from file to file, such as the number of classes,
    /// are read off the file.
    pub layout: fn(Shapes<'_>) -> Layout,
    /// What names begin with, and what the same tensors' further names begin with instead.
    pub aliases: &'static [(&'static str, &'static [&'static str])],
    /// Whether each batch norm has a counter `num_batches_tracked`.
    pub counters: bool,
    /// Names, `*` standing for anything, of a head for another task and of buffers that the network does not need: they are left
    /// out.
    pub dropped: &'static [&'static str],
    /// The tensor whose first side is the number of classes, and how many of them are the background. `None` for weights that know
    /// no classes, and `""` for those that suit any.
    pub classes: Option<(&'static str, usize)>,
    /// Sizes of the network, as its own configuration type reads them.
    pub config: fn(Shapes<'_>) -> Value,
}

/// Every architecture that is known.
pub const ALL: &[Architecture] = &[
    Architecture {
        name: "resnet50",
        layout: |_| resnet50(""),
        aliases: &[],
        counters: true,
        dropped: &["fc.weight", "fc.bias"],
        classes: None,
        config: nothing,
    },
    Architecture {
        name: "vgg16",
        layout: |_| vgg16(),
        aliases: &[],
        counters: false,
        dropped: &["classifier.6.weight", "classifier.6.bias"],
        classes: None,
        config: nothing,
    },
    Architecture {
        name: "vit_base",
        layout: |shapes| {
            vit(768, vec![("pos_embed", places(shapes, "pos_embed", 197, 768)), ("cls_token", vec![1, 1, 768])])
        },
        aliases: &[],
        counters: false,
        dropped: &["head.weight", "head.bias"],
        classes: None,
        config: nothing,
    },
    Architecture {
        name: "deit_small",
        layout: |shapes| {
            vit(384, vec![("pos_embed", places(shapes, "pos_embed", 197, 384)), ("cls_token", vec![1, 1, 384])])
        },
        aliases: &[],
        counters: false,
        dropped: &["head.weight", "head.bias"],
        classes: None,
        config: nothing,
    },
    Architecture {
        name: "resnet38",
        layout: |_| resnet38(),
        aliases: &[],
        counters: true,
        dropped: &["fc8*"],
        classes: None,
        config: nothing,
    },
    Architecture {
        name: "resnet_cam",
        layout: |shapes| {
            let classes = first_side(shapes, "classifier.weight", 20);
            [resnet50("resnet50."), named(vec![("classifier.weight", vec![classes, 2048, 1, 1])])].concat()
        },
        aliases: CLASSIFIER_ALIASES,
        counters: true,
        dropped: &[],
        classes: Some(("classifier.weight", 0)),
        config: |_| resnet50_config(),
    },
    Architecture {
        name: "resnet50_amn",
        layout: |shapes| {
            let scores = first_side(shapes, "classifier.1.c0.weight", 21);
            let mut layout = resnet50("resnet50.");
            layout.extend(named(vec![
                ("label_enc.weight", vec![2048, scores.saturating_sub(1)]),
                ("label_enc.bias", vec![2048]),
            ]));
            for branch in 0..4 {
                layout.push((format!("classifier.1.c{branch}.weight"), vec![scores, 2048, 3, 3]));
                layout.push((format!("classifier.1.c{branch}.bias"), vec![scores]));
            }
            layout
        },
        aliases: CLASSIFIER_ALIASES,
        counters: true,
        dropped: &[],
        classes: Some(("classifier.1.c0.weight", 1)),
        config: |_| json!({ "backbone": resnet50_config(), "dilations": [6, 12, 18, 24], "dropout": 0.1 }),
    },
    Architecture {
        name: "vit_cam",
        layout: |shapes| {
            let classes = first_side(shapes, "head.weight", 20);
            let own = vec![
                ("pos_embed", places(shapes, "pos_embed", 1025, 768)),
                ("cls_token", vec![1, 1, 768]),
                ("head.weight", vec![classes, 768]),
                ("head.bias", vec![classes]),
            ];
            vit(768, own)
        },
        aliases: &[],
        counters: false,
        dropped: &[],
        classes: Some(("head.weight", 0)),
        config: |shapes| {
            // Patches of 16 x 16 pixels on a square, and one token for the class (SPEC 2.1).
            let tokens = places(shapes, "pos_embed", 1025, 768)[1];
            let image = tokens.saturating_sub(1).isqrt() * 16;
            json!({ "image": image, "patch": 16, "width": 768, "depth": 12, "heads": 12, "stem": "patch" })
        },
    },
    Architecture {
        name: "mctformer_v1",
        layout: |shapes| {
            let classes = tokens(shapes);
            mctformer(shapes, vec![("head.weight", vec![classes, 384])])
        },
        aliases: &[],
        counters: false,
        dropped: &[],
        classes: Some(("head.weight", 0)),
        config: |shapes| mctformer_config(shapes, "v1"),
    },
    Architecture {
        name: "mctformer_v2",
        layout: |shapes| {
            let classes = tokens(shapes);
            mctformer(shapes, vec![("head.weight", vec![classes, 384, 3, 3])])
        },
        aliases: &[],
        counters: false,
        dropped: &[],
        classes: Some(("head.weight", 0)),
        config: |shapes| mctformer_config(shapes, "v2"),
    },
    Architecture {
        name: "mctformer_plus",
        layout: |shapes| {
            let classes = tokens(shapes);
            let own = vec![
                ("head.weight", vec![classes, 384, 3, 3]),
                ("head.bias", vec![classes]),
                ("cls_token", vec![1, classes, 384]),
                ("pos_embed", vec![1, 197, 384]),
                ("pos_embed_cls", vec![1, classes, 384]),
                ("pos_embed_pat", places(shapes, "pos_embed_pat", 784, 384)),
            ];
            vit(384, own)
        },
        aliases: &[],
        counters: false,
        dropped: &[],
        classes: Some(("head.weight", 0)),
        config: |shapes| mctformer_config(shapes, "plus"),
    },
    Architecture {
        name: "orandnet",
        layout: |_| orandnet(),
        aliases: &[],
        counters: false,
        dropped: &[],
        classes: Some(("", 0)),
        // The released program has no other loss (SPEC 6.2), and the loss decides how outputs become maps.
        config: |_| {
            json!({
                "sizes": { "widths": [64, 128, 256, 512, 512], "fc_width": 4096, "fc_kernel": 7, "padding": 100 },
                "loss": "class_softmax",
            })
        },
    },
    Architecture {
        name: "irn",
        layout: |_| [resnet50("resnet50."), irn_heads()].concat(),
        aliases: IRN_ALIASES,
        counters: true,
        // Buffers of the class that trains it.
        dropped: &["path_indices*", "disp_target"],
        classes: Some(("", 0)),
        config: |_| {
            json!({
                "backbone": resnet50_config(),
                "edge_width": 32,
                "edge_groups": 4,
                "displacement_widths": [64, 128, 256, 256, 256, 256, 256],
                "displacement_groups": [8, 16, 16, 16, 16, 16, 16],
            })
        },
    },
    Architecture {
        name: "resnet38_seg",
        layout: |shapes| {
            let classes = first_side(shapes, "fc8_seg_conv2.weight", 21);
            let head = named(vec![
                ("fc8_seg_conv1.weight", vec![512, 4096, 3, 3]),
                ("fc8_seg_conv1.bias", vec![512]),
                ("fc8_seg_conv2.weight", vec![classes, 512, 3, 3]),
                ("fc8_seg_conv2.bias", vec![classes]),
            ]);
            [resnet38(), head].concat()
        },
        aliases: &[],
        counters: true,
        dropped: &[],
        classes: Some(("fc8_seg_conv2.weight", 1)),
        config: |shapes| {
            json!({
                "widths": [64, 128, 256, 512, 1024, 2048, 4096, 512],
                "blocks": [3, 3, 6, 3],
                "strides": [2, 2, 2],
                "dilations": [2, 4, 4, 12],
                "dropout": [0.3, 0.5],
                "norm": "frozen",
                "classes": first_side(shapes, "fc8_seg_conv2.weight", 21),
            })
        },
    },
];

/// Classifiers and AMN keep their backbone under three names and their head under two (SPEC 1.4 and 3.1).
const CLASSIFIER_ALIASES: &[(&str, &[&str])] = &[
    ("resnet50.conv1.", &["stage1.0.", "backbone.0.0."]),
    ("resnet50.bn1.", &["stage1.1.", "backbone.0.1."]),
    ("resnet50.layer1.", &["stage1.4.", "backbone.0.4."]),
    ("resnet50.layer2.", &["stage2.0.", "backbone.1.0."]),
    ("resnet50.layer3.", &["stage3.0.", "backbone.2.0."]),
    ("resnet50.layer4.", &["stage4.0.", "backbone.3.0."]),
    ("classifier.", &["newly_added.0."]),
    ("label_enc.", &["newly_added.1."]),
];

/// As [`CLASSIFIER_ALIASES`], for IRN's five stages and its heads (SPEC 8.1).
const IRN_ALIASES: &[(&str, &[&str])] = &[
    ("resnet50.conv1.", &["stage1.0.", "backbone.0.0."]),
    ("resnet50.bn1.", &["stage1.1.", "backbone.0.1."]),
    ("resnet50.layer1.", &["stage2.0.", "backbone.1.0."]),
    ("resnet50.layer2.", &["stage3.0.", "backbone.2.0."]),
    ("resnet50.layer3.", &["stage4.0.", "backbone.3.0."]),
    ("resnet50.layer4.", &["stage5.0.", "backbone.4.0."]),
    ("mean_shift.", &["fc_dp7.4.", "dp_layers.6.4."]),
    ("fc_edge1.", &["edge_layers.0."]),
    ("fc_edge2.", &["edge_layers.1."]),
    ("fc_edge3.", &["edge_layers.2."]),
    ("fc_edge4.", &["edge_layers.3."]),
    ("fc_edge5.", &["edge_layers.4."]),
    ("fc_edge6.", &["edge_layers.5."]),
    ("fc_dp1.", &["dp_layers.0."]),
    ("fc_dp2.", &["dp_layers.1."]),
    ("fc_dp3.", &["dp_layers.2."]),
    ("fc_dp4.", &["dp_layers.3."]),
    ("fc_dp5.", &["dp_layers.4."]),
    ("fc_dp6.", &["dp_layers.5."]),
    ("fc_dp7.", &["dp_layers.6."]),
];

impl Architecture {
    /// Finds an architecture by its name.
    pub fn find(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|architecture| architecture.name == name)
    }

    /// Returns the further names of a tensor.
    pub fn aliases_of(&self, name: &str) -> Vec<String> {
        let rules = self.aliases.iter().filter_map(|(own, others)| Some((name.strip_prefix(own)?, *others)));
        rules.flat_map(|(rest, others)| others.iter().map(move |other| format!("{other}{rest}"))).collect()
    }

    /// Returns the first name of a tensor that has several, `None` for a first name.
    pub fn first_name(&self, alias: &str) -> Option<String> {
        // The longest one counts: `fc_dp7.4.` is a further name of its own within `fc_dp7.`.
        let all = self.aliases.iter().flat_map(|(own, others)| others.iter().map(move |other| (*own, *other)));
        let found = all.filter(|(_, other)| alias.starts_with(other)).max_by_key(|(_, other)| other.len());
        found.map(|(own, other)| format!("{own}{}", &alias[other.len()..]))
    }

    /// Whether a tensor is left out.
    pub fn drops(&self, name: &str) -> bool {
        self.dropped.iter().any(|pattern| matches(pattern, name))
    }
}

/// Returns the names of every batch norm's counter among first names.
pub fn counters(tensors: &NamedTensors) -> Vec<String> {
    let norms = tensors.keys().filter_map(|name| name.strip_suffix("running_var"));
    norms.map(|norm| format!("{norm}num_batches_tracked")).collect()
}

/// Whether a name is what a pattern says, `*` standing for any number of letters.
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

fn nothing(_: Shapes<'_>) -> Value {
    Value::Null
}

fn resnet50_config() -> Value {
    json!({
        "stem": 7,
        "pool": true,
        "width": 64,
        "blocks": [3, 4, 6, 3],
        "strides": [2, 2, 2, 1],
        "dilations": [1, 1, 1, 1],
        "norm": "frozen",
    })
}

fn first_side(shapes: Shapes<'_>, name: &str, usual: usize) -> usize {
    shapes(name).and_then(|shape| shape.first().copied()).unwrap_or(usual)
}

/// Returns the shape of position embeddings, of which there are as many as the file has.
fn places(shapes: Shapes<'_>, name: &str, usual: usize, width: usize) -> Vec<usize> {
    vec![1, shapes(name).and_then(|shape| shape.get(1).copied()).unwrap_or(usual), width]
}

/// The sizes of an MCTformer; the places of its patches are a square and say for which images it was trained (SPEC 4.1).
fn mctformer_config(shapes: Shapes<'_>, version: &str) -> Value {
    let (name, usual, own) =
        if version == "plus" { ("pos_embed_pat", 784, 0) } else { ("pos_embed", 216, tokens(shapes)) };
    let image = places(shapes, name, usual, 384)[1].saturating_sub(own).isqrt() * 16;
    json!({
        "version": version,
        "image": image,
        "patch": 16,
        "width": 384,
        "depth": 12,
        "heads": 6,
        "stem": "patch",
        "drop_path": 0.1,
    })
}

/// Returns how many class tokens an MCTformer has.
fn tokens(shapes: Shapes<'_>) -> usize {
    shapes("cls_token").and_then(|shape| shape.get(1).copied()).unwrap_or(20)
}

fn named(tensors: Vec<(&str, Vec<usize>)>) -> Layout {
    tensors.into_iter().map(|(name, shape)| (name.to_owned(), shape)).collect()
}

fn convolution(layout: &mut Layout, name: &str, [output, input, side]: [usize; 3]) {
    layout.push((format!("{name}.weight"), vec![output, input, side, side]));
}

fn with_bias(layout: &mut Layout, name: &str, sides: [usize; 3]) {
    convolution(layout, name, sides);
    layout.push((format!("{name}.bias"), vec![sides[0]]));
}

fn batch_norm(layout: &mut Layout, name: &str, channels: usize) {
    for leaf in ["weight", "bias", "running_mean", "running_var"] {
        layout.push((format!("{name}.{leaf}"), vec![channels]));
    }
}

/// torchvision's ResNet-50 without `fc` (SPEC 1.2).
fn resnet50(prefix: &str) -> Layout {
    let mut layout = Layout::new();
    convolution(&mut layout, &format!("{prefix}conv1"), [64, 3, 7]);
    batch_norm(&mut layout, &format!("{prefix}bn1"), 64);
    let mut input = 64;
    for (layer, blocks) in [3, 4, 6, 3].into_iter().enumerate() {
        let inner = 64 << layer;
        for block in 0..blocks {
            let name = |part: &str| format!("{prefix}layer{}.{block}.{part}", layer + 1);
            for (index, sides) in [[inner, input, 1], [inner, inner, 3], [4 * inner, inner, 1]].into_iter().enumerate()
            {
                convolution(&mut layout, &name(&format!("conv{}", index + 1)), sides);
                batch_norm(&mut layout, &name(&format!("bn{}", index + 1)), sides[0]);
            }
            if block == 0 {
                convolution(&mut layout, &name("downsample.0"), [4 * inner, input, 1]);
                batch_norm(&mut layout, &name("downsample.1"), 4 * inner);
            }
            input = 4 * inner;
        }
    }
    layout
}

/// torchvision's VGG16 without batch norm and without its last layer (SPEC 6.1).
fn vgg16() -> Layout {
    let mut layout = Layout::new();
    let mut input = 3;
    for (index, output) in [
        (0, 64),
        (2, 64),
        (5, 128),
        (7, 128),
        (10, 256),
        (12, 256),
        (14, 256),
        (17, 512),
        (19, 512),
        (21, 512),
        (24, 512),
        (26, 512),
        (28, 512),
    ] {
        with_bias(&mut layout, &format!("features.{index}"), [output, input, 3]);
        input = output;
    }
    for (index, input) in [(0, 512 * 7 * 7), (3, 4096)] {
        layout.push((format!("classifier.{index}.weight"), vec![4096, input]));
        layout.push((format!("classifier.{index}.bias"), vec![4096]));
    }
    layout
}

/// timm's ViT with patches of 16 x 16 pixels and 12 blocks, and tensors of its own (SPEC 2.1 and 4.1).
fn vit(width: usize, own: Vec<(&str, Vec<usize>)>) -> Layout {
    let mut layout = named(own);
    with_bias(&mut layout, "patch_embed.proj", [width, 3, 16]);
    let mut layer = |name: String, output: usize, input: Option<usize>| {
        let weight = input.map_or(vec![output], |input| vec![output, input]);
        layout.push((format!("{name}.weight"), weight));
        layout.push((format!("{name}.bias"), vec![output]));
    };
    for block in 0..12 {
        let name = |part: &str| format!("blocks.{block}.{part}");
        layer(name("norm1"), width, None);
        layer(name("attn.qkv"), 3 * width, Some(width));
        layer(name("attn.proj"), width, Some(width));
        layer(name("norm2"), width, None);
        layer(name("mlp.fc1"), 4 * width, Some(width));
        layer(name("mlp.fc2"), width, Some(4 * width));
    }
    layer("norm".to_owned(), width, None);
    layout
}

/// MCTformer V1 and V2: 14 x 14 places for patches behind one for each class (SPEC 4.1).
fn mctformer(shapes: Shapes<'_>, mut own: Vec<(&str, Vec<usize>)>) -> Layout {
    let classes = tokens(shapes);
    own.push(("head.bias", vec![classes]));
    own.push(("cls_token", vec![1, classes, 384]));
    own.push(("pos_embed", vec![1, classes + 196, 384]));
    vit(384, own)
}

/// ORANDNet (SPEC 6.1).
fn orandnet() -> Layout {
    let mut layout = Layout::new();
    let mut input = 1;
    for (group, (convolutions, output)) in [(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)].into_iter().enumerate() {
        for index in 0..convolutions {
            with_bias(&mut layout, &format!("downsample{}.{}", group + 1, 2 * index), [output, input, 3]);
            input = output;
        }
    }
    with_bias(&mut layout, "fc6.0", [4096, 512, 7]);
    with_bias(&mut layout, "fc7.0", [4096, 4096, 1]);
    for (name, input) in [("score_pool3", 256), ("score_pool4", 512), ("score_final", 4096)] {
        with_bias(&mut layout, name, [1, input, 1]);
    }
    for (name, side) in [("upsample_make_16s", 4), ("upsample_make_8s", 4), ("upsample_to_score", 16)] {
        convolution(&mut layout, name, [1, 1, side]);
    }
    layout
}

/// IRN's edge and displacement heads (SPEC 8.1).
fn irn_heads() -> Layout {
    let mut layout = named(vec![("mean_shift.running_mean", vec![2])]);
    let mut head = |name: String, output: usize, input: usize| {
        convolution(&mut layout, &format!("{name}.0"), [output, input, 1]);
        layout.push((format!("{name}.1.weight"), vec![output]));
        layout.push((format!("{name}.1.bias"), vec![output]));
    };
    let stages = [64, 256, 512, 1024, 2048];
    for (index, input) in stages.into_iter().enumerate() {
        head(format!("fc_edge{}", index + 1), 32, input);
    }
    for (index, (output, input)) in [64, 128, 256, 256, 256].into_iter().zip(stages).enumerate() {
        head(format!("fc_dp{}", index + 1), output, input);
    }
    head("fc_dp6".to_owned(), 256, 768);
    head("fc_dp7".to_owned(), 256, 448);
    with_bias(&mut layout, "fc_edge6", [1, 160, 1]);
    convolution(&mut layout, "fc_dp7.3", [2, 256, 1]);
    layout
}

/// The wide ResNet-38 up to `bn7` (SPEC 9.1).
fn resnet38() -> Layout {
    let mut layout = Layout::new();
    convolution(&mut layout, "conv1a", [64, 3, 3]);
    let mut block = |name: &str, [input, middle, output]: [usize; 3], strided: bool| {
        batch_norm(&mut layout, &format!("{name}.bn_branch2a"), input);
        convolution(&mut layout, &format!("{name}.conv_branch2a"), [middle, input, 3]);
        batch_norm(&mut layout, &format!("{name}.bn_branch2b1"), middle);
        convolution(&mut layout, &format!("{name}.conv_branch2b1"), [output, middle, 3]);
        if strided || input != output {
            convolution(&mut layout, &format!("{name}.conv_branch1"), [output, input, 1]);
        }
    };
    for (name, further, input, output) in [("b2", 2, 64, 128), ("b3", 2, 128, 256), ("b4", 5, 256, 512)] {
        block(name, [input, output, output], true);
        (1..=further).for_each(|index| block(&format!("{name}_{index}"), [output; 3], false));
    }
    block("b5", [512, 512, 1024], false);
    block("b5_1", [1024, 512, 1024], false);
    block("b5_2", [1024, 512, 1024], false);
    for (name, input, output) in [("b6", 1024, 2048), ("b7", 2048, 4096)] {
        let (quarter, half) = (output / 4, output / 2);
        batch_norm(&mut layout, &format!("{name}.bn_branch2a"), input);
        convolution(&mut layout, &format!("{name}.conv_branch2a"), [quarter, input, 1]);
        batch_norm(&mut layout, &format!("{name}.bn_branch2b1"), quarter);
        convolution(&mut layout, &format!("{name}.conv_branch2b1"), [half, quarter, 3]);
        batch_norm(&mut layout, &format!("{name}.bn_branch2b2"), half);
        convolution(&mut layout, &format!("{name}.conv_branch2b2"), [output, half, 1]);
        convolution(&mut layout, &format!("{name}.conv_branch1"), [output, input, 1]);
    }
    batch_norm(&mut layout, "bn7", 4096);
    layout
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_file_names_do() {
        for (pattern, name, fits) in [
            ("fc.weight", "fc.weight", true),
            ("fc.weight", "fc.weights", false),
            ("fc8*", "fc8.weight", true),
            ("*", "", true),
            ("blocks.*.norm1.*", "blocks.11.norm1.bias", true),
            ("blocks.*.norm1.*", "blocks.11.norm2.bias", false),
            ("*.bias", "a.bias.weight", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn aliases_and_first_names_are_inverse() {
        for architecture in ALL {
            for (name, _) in (architecture.layout)(&|_| None) {
                assert_eq!(architecture.first_name(&name), None, "{name} is a first name");
                for alias in architecture.aliases_of(&name) {
                    assert_eq!(architecture.first_name(&alias).as_ref(), Some(&name), "{alias}");
                }
            }
        }
    }
}
