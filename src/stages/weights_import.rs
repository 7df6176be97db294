//! `weights.import`: weights that were trained elsewhere come in, as safetensors.

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifact::weights::{self, NamedTensors, Values, WeightsMeta};
use crate::kind::Kind;
use crate::stage::{Ctx, Inputs, NotInKey, Output, SourceFile, Sources, Spec, Stage, StageError, Work};

/// Networks whose weights are commonly trained elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Arch {
    /// torchvision's ResNet-50, for a ResNet classifier or IRN
    Resnet50,
    /// timm's or DeiT's ViT-B/16, for a ViT classifier
    VitBase,
    /// torchvision's VGG16 without batch norm, for ORANDNet
    Vgg16,
    /// The wide ResNet-38 of the segmentation network
    Resnet38,
}

/// Parameters of `weights.import`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// What the weights belong to; the names of the tensors are those of the network's usual state_dict
    arch: Arch,
    /// The safetensors file
    path: NotInKey<String>,
}

/// The stage.
pub(super) struct Import;

impl Stage for Import {
    type Params = Params;

    const SPEC: Spec = Spec {
        name: "weights.import",
        about: "Weights that were trained elsewhere, from a safetensors file",
        revision: 1,
        inputs: &[],
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
        let file = ctx.files.first().expect("`sources` names one file");
        let tensors = read(&ctx.access.content(file.digest)?)
            .map_err(|message| StageError::data_help(format!("`{}`: {message}", params.path.0), CONVERT))?;
        let arch = match params.arch {
            Arch::Resnet50 => "resnet50",
            Arch::VitBase => "vit_base",
            Arch::Vgg16 => "vgg16",
            Arch::Resnet38 => "resnet38",
        };
        let meta = WeightsMeta { arch: arch.to_owned(), config: Value::Null, classes: Vec::new() };
        let meta = serde_json::to_value(meta).expect("the description of weights is JSON");
        Ok(Output::whole(meta, weights::PART, weights::encode(&tensors)))
    }
}

/// How a `.pth` becomes what is read here.
const CONVERT: &str =
    "a .pth becomes safetensors in Python with `safetensors.torch.save_file(torch.load(PTH, weights_only=True), OUT)`";

/// Reads floating-point tensors as f32 and leaves out counters of integers, such as `num_batches_tracked`.
fn read(bytes: &[u8]) -> Result<NamedTensors, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| format!("this is no safetensors file: {error}"))?;
    let tensors = file.tensors();
    let floats = tensors.into_iter().filter(|(_, view)| !matches!(view.dtype(), Dtype::I64 | Dtype::I32));
    floats.map(|(name, view)| Ok((name.clone(), values(&name, &view)?))).collect()
}

fn values(name: &str, view: &TensorView<'_>) -> Result<Values, String> {
    let bytes = view.data();
    let pairs = || bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
    let data = match view.dtype() {
        Dtype::F32 => {
            bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect()
        }
        Dtype::F16 => pairs().map(|pair| half::f16::from_le_bytes(pair).to_f32()).collect(),
        Dtype::BF16 => pairs().map(|pair| half::bf16::from_le_bytes(pair).to_f32()).collect(),
        other => return Err(format!("tensor `{name}` has type {other:?}, and only F32, F16 and BF16 are read")),
    };
    Ok(Values { shape: view.shape().to_vec(), data })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_become_floats_and_counters_stay_out() {
        let (half, count) = (half::f16::from_f32(0.5).to_le_bytes(), 7_i64.to_le_bytes());
        let file = safetensors::serialize(
            [
                ("conv1.weight", TensorView::new(Dtype::F16, vec![1], &half).expect("it fits")),
                ("bn1.num_batches_tracked", TensorView::new(Dtype::I64, vec![], &count).expect("it fits")),
            ],
            None,
        )
        .expect("it can be laid out");
        let read = read(&file).expect("it can be read");
        assert_eq!(read.len(), 1);
        assert_eq!(read["conv1.weight"], Values { shape: vec![1], data: vec![0.5] });
    }

    #[test]
    fn a_pickle_is_refused() {
        assert!(read(b"\x80\x02}q\x00.").expect_err("it is none").contains("no safetensors file"));
    }
}
