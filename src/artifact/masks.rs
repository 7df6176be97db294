//! `MaskSet` and `SeedSet`: per image an 8-bit index mask, as a palette PNG.
//!
//! A shard is one safetensors file; the tensor `ID` (u8, one-dimensional) holds the bytes of the image's PNG.

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::image::{LabelMap, codec};

/// Encodes a shard of (image id, mask).
pub fn encode(masks: &[(String, LabelMap)]) -> Vec<u8> {
    let files: Vec<(&str, Vec<u8>)> = masks.iter().map(|(id, mask)| (id.as_str(), codec::encode_mask(mask))).collect();
    let views = files.iter().map(|(id, bytes)| {
        (*id, TensorView::new(Dtype::U8, vec![bytes.len()], bytes).expect("the bytes fit the shape"))
    });
    safetensors::serialize(views, None).expect("the tensors can be laid out")
}

/// Decodes a shard, in order of ids; an error says what is wrong with the bytes.
pub fn decode(bytes: &[u8]) -> Result<Vec<(String, LabelMap)>, String> {
    let file =
        SafeTensors::deserialize(bytes).map_err(|error| format!("this shard of masks cannot be read: {error}"))?;
    let mut masks = file
        .tensors()
        .into_iter()
        .map(|(id, view)| {
            let mask = codec::decode_mask(view.data()).map_err(|error| format!("the mask of image `{id}`: {error}"))?;
            Ok((id, mask))
        })
        .collect::<Result<Vec<_>, String>>()?;
    masks.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(masks)
}

/// Decodes one mask of a shard; an error says what is wrong with the bytes.
pub fn decode_one(bytes: &[u8], id: &str) -> Result<LabelMap, String> {
    let file =
        SafeTensors::deserialize(bytes).map_err(|error| format!("this shard of masks cannot be read: {error}"))?;
    let view = file.tensor(id).map_err(|_| format!("the mask of image `{id}` is missing"))?;
    codec::decode_mask(view.data()).map_err(|error| format!("the mask of image `{id}`: {error}"))
}
