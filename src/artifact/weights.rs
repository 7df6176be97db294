//! `Weights`: named f32 tensors as one safetensors file, with architecture and class list beside it.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype as Type, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::foreign::{Dtype, View, torch};

/// The name of the part that holds the tensors.
pub const PART: &str = "weights.safetensors";

/// Metadata of a `Weights` artifact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeightsMeta {
    /// Architecture, such as `resnet_cam`; decides what reads the tensors.
    pub arch: String,
    /// Its parameters (depth, widths, input size), as the network's own configuration type reads them.
    pub config: serde_json::Value,
    /// Names of the classes in order of their index; index 0 is the background.
    pub classes: Vec<String>,
}

/// One tensor: shape and values, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Values {
    /// Its shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// Its values.
    pub data: Vec<f32>,
}

/// Tensors by name; the names are those of the reference programs' state_dict.
pub type NamedTensors = BTreeMap<String, Values>;

/// Encodes tensors as safetensors, in order of their names.
pub fn encode(tensors: &NamedTensors) -> Vec<u8> {
    let bytes: Vec<(&str, &[usize], Vec<u8>)> = tensors
        .iter()
        .map(|(name, values)| {
            (name.as_str(), values.shape.as_slice(), values.data.iter().flat_map(|value| value.to_le_bytes()).collect())
        })
        .collect();
    let views = bytes.iter().map(|(name, shape, data)| {
        (*name, TensorView::new(Type::F32, shape.to_vec(), data).expect("the bytes fit the shape"))
    });
    safetensors::serialize(views, None).expect("the tensors can be laid out")
}

/// The key under which a file of its own carries its description, [`WeightsMeta`] as JSON.
const DESCRIPTION: &str = "orandflow";

/// Returns the same file with its description in it, so that it can be used without the cache. There is one key, as the file's order
/// of several would differ from time to time.
///
/// # Errors
/// If the bytes are no safetensors.
pub fn describe(bytes: &[u8], description: &serde_json::Value) -> Result<Vec<u8>, String> {
    let wrong = |error: safetensors::SafeTensorError| format!("these weights cannot be read: {error}");
    let file = SafeTensors::deserialize(bytes).map_err(wrong)?;
    let mut tensors = file.tensors();
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    let metadata = [(DESCRIPTION.to_owned(), description.to_string())];
    safetensors::serialize(tensors, Some(metadata.into())).map_err(wrong)
}

/// Returns the description in a file of weights; `None` if it has none.
///
/// # Errors
/// If the bytes are no safetensors, or the description is damaged.
pub fn description(bytes: &[u8]) -> Result<Option<WeightsMeta>, String> {
    let (_, header) =
        SafeTensors::read_metadata(bytes).map_err(|error| format!("it is no safetensors file: {error}"))?;
    let text = header.metadata().as_ref().and_then(|metadata| metadata.get(DESCRIPTION));
    let read =
        |text: &String| serde_json::from_str(text).map_err(|error| format!("its description is damaged: {error}"));
    text.map(read).transpose()
}

/// Returns the values of a tensor of numbers with a fraction, rounded to f32; `None` for other types.
pub fn floats(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let bytes = view.data();
    let two = || bytes.chunks_exact(2).map(|two| [two[0], two[1]]);
    Some(match view.dtype() {
        Type::F16 => two().map(|two| half::f16::from_le_bytes(two).to_f32()).collect(),
        Type::BF16 => two().map(|two| half::bf16::from_le_bytes(two).to_f32()).collect(),
        Type::F32 => {
            bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect()
        }
        Type::F64 => {
            let eight = bytes.chunks_exact(8).map(|eight| eight.try_into().expect("chunks of eight"));
            eight.map(|eight| f64::from_le_bytes(eight) as f32).collect()
        }
        _ => return None,
    })
}

/// Reads the weights of any program, safetensors or a `.pth` of PyTorch: numbers with a fraction as f32, without counters of whole
/// numbers.
///
/// # Errors
/// A sentence fragment on what is wrong with the file, to stand behind its name.
pub fn read(bytes: &[u8]) -> Result<NamedTensors, String> {
    if torch::is_torch(bytes) {
        let tree = torch::read(bytes).map_err(|error| error.to_string())?;
        let tensors = torch::state_dict(tree.root()).map_err(|error| error.to_string())?;
        let values = |view: &View<'_, '_>, name: &str| -> Result<Values, String> {
            let data = view.floats().map_err(|error| format!("tensor `{name}`: {error}"))?;
            Ok(Values { shape: view.shape().unwrap_or_default().to_vec(), data })
        };
        let fractions = tensors.iter().filter(|(_, view)| view.dtype().is_some_and(Dtype::is_float));
        return fractions.map(|(name, view)| Ok(((*name).to_owned(), values(view, name)?))).collect();
    }
    let file = SafeTensors::deserialize(bytes)
        .map_err(|error| format!("this is neither a file of PyTorch nor a safetensors file: {error}"))?;
    let mut tensors = NamedTensors::new();
    for (name, view) in file.tensors() {
        if matches!(view.dtype(), Type::I32 | Type::I64) {
            continue;
        }
        let data = floats(&view).ok_or_else(|| {
            format!("tensor `{name}` has type {:?}, and only F64, F32, F16 and BF16 are read", view.dtype())
        })?;
        tensors.insert(name, Values { shape: view.shape().to_vec(), data });
    }
    Ok(tensors)
}

/// Decodes safetensors whose tensors are all f32; an error says what is wrong with the bytes.
pub fn decode(bytes: &[u8]) -> Result<NamedTensors, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| format!("these weights cannot be read: {error}"))?;
    file.tensors()
        .into_iter()
        .map(|(name, view)| {
            if view.dtype() != Type::F32 {
                return Err(format!("tensor `{name}` has type {:?} where F32 is due", view.dtype()));
            }
            let data = floats(&view).expect("f32 has a fraction");
            Ok((name, Values { shape: view.shape().to_vec(), data }))
        })
        .collect()
}
