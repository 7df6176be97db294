//! `weights.import`: weights that were trained elsewhere come in, from `.pth` or safetensors. What an architecture's tensors are
//! called is written in `artifact::architecture`; which of them a network takes over is its own business.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::io;
use crate::artifact::architecture::{Architecture, matches};
use crate::artifact::weights::{self, NamedTensors, Values, WeightsMeta};
use crate::data::{count, voc};
use crate::foreign::{Tree, View, torch};
use crate::kind::Kind;
use crate::stage::{Ctx, Inputs, NotInKey, Output, Port, SourceFile, Sources, Spec, Stage, StageError, Work};

/// Networks whose weights are trained elsewhere. The first are backbones to start from, the others whole networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Arch {
    /// torchvision's ResNet-50, for a ResNet classifier, AMN or IRN
    Resnet50,
    /// timm's or DeiT's ViT-B/16, for a ViT classifier
    VitBase,
    /// DeiT-S/16, for MCTformer
    DeitSmall,
    /// torchvision's VGG16 without batch norm, for ORANDNet
    Vgg16,
    /// The wide ResNet-38 of the segmentation network
    Resnet38,
    /// The ResNet-50 classifier of IRN and ORANDNet, such as `res50_cam.pth.pth`
    ResnetCam,
    /// The ViT-B/16 classifier of ORANDNet
    VitCam,
    /// AMN, such as `res50_amn.pth.pth`
    Resnet50Amn,
    /// MCTformer V1
    MctformerV1,
    /// MCTformer V2
    MctformerV2,
    /// MCTformer+
    MctformerPlus,
    /// ORANDNet, such as `encdec.pth`
    Orandnet,
    /// IRN, such as `res50_irn.pth.pth`
    Irn,
    /// ResNet-38 as segmentation network
    Resnet38Seg,
}

impl Arch {
    fn architecture(self) -> &'static Architecture {
        let name = match self {
            Self::Resnet50 => "resnet50",
            Self::VitBase => "vit_base",
            Self::DeitSmall => "deit_small",
            Self::Vgg16 => "vgg16",
            Self::Resnet38 => "resnet38",
            Self::ResnetCam => "resnet_cam",
            Self::VitCam => "vit_cam",
            Self::Resnet50Amn => "resnet50_amn",
            Self::MctformerV1 => "mctformer_v1",
            Self::MctformerV2 => "mctformer_v2",
            Self::MctformerPlus => "mctformer_plus",
            Self::Orandnet => "orandnet",
            Self::Irn => "irn",
            Self::Resnet38Seg => "resnet38_seg",
        };
        Architecture::find(name).expect("every architecture that can be named has a row in the table")
    }
}

/// Parameters of `weights.import`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// What the weights belong to; the names of the tensors are those of the network's usual state_dict
    arch: Arch,
    /// The file: a `.pth` of PyTorch in any of its forms, in which only tensors are read and nothing is run, or safetensors
    path: NotInKey<String>,
    /// Names that the file may lack, `*` standing for anything
    #[serde(default)]
    allow_missing: Vec<String>,
    /// Names that the file may have besides, `*` standing for anything; they are left out
    #[serde(default)]
    allow_unexpected: Vec<String>,
}

/// The stage.
pub(super) struct Import;

impl Stage for Import {
    type Params = Params;

    const SPEC: Spec = Spec {
        name: "weights.import",
        about: "Weights that were trained elsewhere, from a .pth or safetensors file",
        // 2: checks names and shapes, leaves out heads for other tasks, keeps what networks have besides their tensors.
        revision: 2,
        inputs: &[Port {
            name: "images",
            takes: &[Kind::ImageSet],
            optional: true,
            about: "a set whose classes the weights know; without it those of PASCAL VOC",
        }],
        output: Kind::Weights,
        work: Work::Whole,
        seeded: false,
    };

    fn sources(params: &Params, _inputs: &Inputs) -> Result<Sources, StageError> {
        let path = std::path::PathBuf::from(&params.path.0);
        if !path.is_file() {
            return Err(StageError::data_help(
                format!("the weights are not there: `{}` is no file", path.display()),
                "put the file there, or give its path with `--set`",
            ));
        }
        let file = SourceFile { role: "weights".to_owned(), path };
        Ok(Sources { files: vec![file], ..Sources::default() })
    }

    fn run(params: &Params, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let architecture = params.arch.architecture();
        let file = ctx.files.first().expect("`sources` names one file");
        let bytes = ctx.access.content(file.digest)?;
        let wrong = |message: String| {
            StageError::data_help(
                format!("`{}`: {message}", params.path.0),
                "see that the file is whole, and that it holds tensors alone: `torch.save(model.state_dict(), PATH)` writes one",
            )
        };
        let tree;
        let tensors = if torch::is_torch(&bytes) {
            tree = torch::read(&bytes).map_err(|error| wrong(error.to_string()))?;
            Tensors::of_tree(&tree).map_err(wrong)?
        } else {
            Tensors::of_safetensors(&bytes).map_err(wrong)?
        };
        let shape = |name: &str| tensors.shape(name);
        let (read, fit) = read(&tensors, architecture).map_err(wrong)?;
        let allowed = fit.allow(&params.allow_missing, &params.allow_unexpected);
        if !fit.is_empty(&allowed) {
            return Err(StageError::data_help(
                format!("`{}` does not fit `{}`: {}", params.path.0, architecture.name, fit.text(&allowed)),
                "another `arch` may be right; tensors that may be missing or too many are named in `allow_missing` and \
                 `allow_unexpected`, with `*` for anything",
            ));
        }
        for (what, names) in [("lacks", &fit.missing), ("has besides, and leaves out,", &fit.unexpected)] {
            if !names.is_empty() {
                ctx.warn(format!("`{}` {what} {}", params.path.0, listed(names)));
            }
        }
        let classes = class_list(architecture, &params.path.0, &read, ctx.inputs)?;
        let config = (architecture.config)(&shape);
        let meta = WeightsMeta { arch: architecture.name.to_owned(), config, classes };
        let meta = serde_json::to_value(meta).expect("the description of weights is JSON");
        Ok(Output::whole(meta, weights::PART, weights::encode(&read)))
    }
}

/// Tensors by name, in whichever file they are.
enum Tensors<'file> {
    Torch(BTreeMap<&'file str, View<'file, 'file>>),
    Safetensors(BTreeMap<String, TensorView<'file>>),
}

impl<'file> Tensors<'file> {
    fn of_tree(tree: &'file Tree<'file>) -> Result<Self, String> {
        torch::state_dict(tree.root()).map(Self::Torch).map_err(|error| error.to_string())
    }

    fn of_safetensors(bytes: &'file [u8]) -> Result<Self, String> {
        let file = SafeTensors::deserialize(bytes)
            .map_err(|error| format!("this is neither a file of PyTorch nor a safetensors file: {error}"))?;
        let mut tensors: BTreeMap<String, TensorView<'file>> = file.tensors().into_iter().collect();
        const PREFIX: &str = "module.";
        if !tensors.is_empty() && tensors.keys().all(|name| name.starts_with(PREFIX)) {
            tensors = tensors.into_iter().map(|(name, view)| (name[PREFIX.len()..].to_owned(), view)).collect();
        }
        Ok(Self::Safetensors(tensors))
    }

    fn names(&self) -> Vec<&str> {
        match self {
            Self::Torch(tensors) => tensors.keys().copied().collect(),
            Self::Safetensors(tensors) => tensors.keys().map(String::as_str).collect(),
        }
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::Torch(tensors) => tensors.contains_key(name),
            Self::Safetensors(tensors) => tensors.contains_key(name),
        }
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match self {
            Self::Torch(tensors) => tensors.get(name)?.shape().map(<[usize]>::to_vec),
            Self::Safetensors(tensors) => Some(tensors.get(name)?.shape().to_vec()),
        }
    }

    /// Whether a tensor has numbers with a fraction; the others are counters, such as `num_batches_tracked`.
    fn is_float(&self, name: &str) -> bool {
        match self {
            Self::Torch(tensors) => tensors[name].dtype().is_some_and(|dtype| dtype.is_float()),
            Self::Safetensors(tensors) => {
                matches!(tensors[name].dtype(), Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
            }
        }
    }

    fn values(&self, name: &str) -> Result<Values, String> {
        let shape = self.shape(name).expect("it is one of the names");
        let data = match self {
            Self::Torch(tensors) => tensors[name].floats().map_err(|error| format!("tensor `{name}`: {error}"))?,
            Self::Safetensors(tensors) => weights::floats(&tensors[name])
                .ok_or_else(|| format!("tensor `{name}` has type {:?}, not a fraction", tensors[name].dtype()))?,
        };
        Ok(Values { shape, data })
    }
}

/// What of a file fits its architecture and what does not.
#[derive(Debug, Default)]
struct Fit {
    missing: Vec<String>,
    unexpected: Vec<String>,
    misshapen: Vec<String>,
}

/// The names that nobody has allowed.
struct Refused<'fit> {
    missing: Vec<&'fit String>,
    unexpected: Vec<&'fit String>,
}

impl Fit {
    fn allow(&self, missing: &[String], unexpected: &[String]) -> Refused<'_> {
        let refused = |names: &'_ [String], patterns: &[String]| -> Vec<usize> {
            let allowed = |name: &String| patterns.iter().any(|pattern| matches(pattern, name));
            names.iter().enumerate().filter(|(_, name)| !allowed(name)).map(|(index, _)| index).collect()
        };
        Refused {
            missing: refused(&self.missing, missing).into_iter().map(|index| &self.missing[index]).collect(),
            unexpected: refused(&self.unexpected, unexpected)
                .into_iter()
                .map(|index| &self.unexpected[index])
                .collect(),
        }
    }

    fn is_empty(&self, refused: &Refused<'_>) -> bool {
        refused.missing.is_empty() && refused.unexpected.is_empty() && self.misshapen.is_empty()
    }

    fn text(&self, refused: &Refused<'_>) -> String {
        let mut parts = Vec::new();
        if !refused.missing.is_empty() {
            parts.push(format!("it lacks {}", listed(&refused.missing)));
        }
        if !refused.unexpected.is_empty() {
            let names = &refused.unexpected;
            parts.push(format!(
                "it has {} that {} not belong to it: {}",
                count(names.len(), "tensor", "tensors"),
                if names.len() == 1 { "does" } else { "do" },
                first(names, "`")
            ));
        }
        if !self.misshapen.is_empty() {
            parts.push(format!("{} in shape: {}", differ(self.misshapen.len()), first(&self.misshapen, "")));
        }
        parts.join("; ")
    }
}

fn differ(number: usize) -> String {
    format!("{} {}", count(number, "tensor", "tensors"), if number == 1 { "differs" } else { "differ" })
}

/// Counts names and lists the first few.
fn listed(names: &[impl AsRef<str>]) -> String {
    format!("{}: {}", count(names.len(), "tensor", "tensors"), first(names, "`"))
}

fn first(names: &[impl AsRef<str>], quote: &str) -> String {
    const SHOWN: usize = 4;
    let mut text: Vec<String> =
        names.iter().take(SHOWN).map(|name| format!("{quote}{}{quote}", name.as_ref())).collect();
    if names.len() > SHOWN {
        text.push(format!("{} more", names.len() - SHOWN));
    }
    text.join(", ")
}

/// Reads the tensors of an architecture, under their first names.
///
/// # Errors
/// If a further name has other values than the first, or a tensor cannot be read or holds what is no number. Names and shapes that do not fit are for the
/// caller to judge.
fn read(tensors: &Tensors<'_>, architecture: &Architecture) -> Result<(NamedTensors, Fit), String> {
    let layout: BTreeMap<String, Vec<usize>> = (architecture.layout)(&|name| tensors.shape(name)).into_iter().collect();
    let (mut read, mut fit) = (NamedTensors::new(), Fit::default());
    for (name, shape) in &layout {
        match tensors.shape(name) {
            None => fit.missing.push(name.clone()),
            Some(own) if own != *shape => fit.misshapen.push(format!("`{name}` is {own:?} and not {shape:?}")),
            Some(_) if !tensors.is_float(name) => fit.misshapen.push(format!("`{name}` has whole numbers")),
            Some(_) => {
                let values = tensors.values(name)?;
                if let Some(value) = values.data.iter().find(|value| !value.is_finite()) {
                    return Err(format!("tensor `{name}` has a value that is {value}"));
                }
                read.insert(name.clone(), values);
            }
        }
    }
    for name in tensors.names() {
        // Counters are whole numbers, unless a whole checkpoint was rounded to halves.
        let counts = !tensors.is_float(name) || architecture.counters && name.ends_with("num_batches_tracked");
        if layout.contains_key(name) || counts || architecture.drops(name) {
            continue;
        }
        let Some(first) = architecture.first_name(name).filter(|first| tensors.has(first)) else {
            fit.unexpected.push(name.to_owned());
            continue;
        };
        // Compared bit by bit: they are one and the same tensor, or the file is not what it seems.
        let bits = |values: &Values| values.data.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        let same = match read.get(&first) {
            Some(values) => {
                let other = tensors.values(name)?;
                values.shape == other.shape && bits(values) == bits(&other)
            }
            // The first one is misshapen or does not belong to it itself, which is said already.
            None => true,
        };
        if !same {
            return Err(format!(
                "tensor `{name}` should be `{first}` under a further name, and differs from it; the file is damaged or was \
                 put together from two"
            ));
        }
    }
    Ok((read, fit))
}

/// Finds the names of the classes that weights know; none for a backbone.
fn class_list(
    architecture: &Architecture,
    path: &str,
    tensors: &NamedTensors,
    inputs: &Inputs,
) -> Result<Vec<String>, StageError> {
    let Some((head, background)) = architecture.classes else { return Ok(Vec::new()) };
    let list = match inputs.maybe("images") {
        Some(images) => io::classes(images, "images")?,
        None => voc::CLASSES.map(str::to_owned).to_vec(),
    };
    let Some(head) = tensors.get(head) else { return Ok(list) };
    let scored = head.shape.first().copied().unwrap_or(0);
    if scored + 1 - background == list.len() {
        return Ok(list);
    }
    let whose = if inputs.maybe("images").is_some() { "the set on port `images`" } else { "PASCAL VOC" };
    Err(StageError::data_help(
        format!(
            "the weights of `{}` in `{path}` know {} and {whose} has {}",
            architecture.name,
            count(scored - background, "foreground class", "foreground classes"),
            list.len() - 1
        ),
        "connect port `images` with a set of the classes that the weights were trained for",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_become_floats_and_counters_stay_out() {
        let (half, count) = (half::f16::from_f32(0.5).to_le_bytes(), 7_i64.to_le_bytes());
        let file = safetensors::serialize(
            [
                ("module.a.weight", TensorView::new(Dtype::F16, vec![1], &half).expect("it fits")),
                ("module.bn.num_batches_tracked", TensorView::new(Dtype::I64, vec![], &count).expect("it fits")),
            ],
            None,
        )
        .expect("it can be laid out");
        let tensors = Tensors::of_safetensors(&file).expect("it can be read");
        assert!(tensors.is_float("a.weight") && !tensors.is_float("bn.num_batches_tracked"));
        assert_eq!(tensors.values("a.weight"), Ok(Values { shape: vec![1], data: vec![0.5] }));
        assert!(Tensors::of_safetensors(b"something else").is_err());
    }
}
