//! `CamSet` and `ScoreSet`: per image the present classes and their maps.
//!
//! A shard is one safetensors file with three tensors per image: `ID/classes` (u8, `[K]`, 0-based foreground indices,
//! ascending), `ID/high_res` (`[K, H, W]`) and, in a `CamSet`, `ID/cam` (`[K, s4(H), s4(W)]`, where `s4(n) = (n - 1) / 4 + 1`).
//! Maps are f16, which keeps 11 significant bits: within 2^-12 of a value in [0, 1]; they are packed without loss into a
//! one-dimensional u8 tensor (see [`super::packed`]). Shards of older versions, whose maps are plain f16 tensors, are read too.

use half::f16;
use half::slice::HalfFloatSliceExt as _;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::packed;
use crate::image::Maps;

/// The maps of one image.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageMaps {
    /// The image id.
    pub id: String,
    /// The classes of the channels: 0-based foreground indices, ascending.
    pub classes: Vec<u8>,
    /// Maps at stride 4, `[K, s4(H), s4(W)]`; absent in a `ScoreSet`.
    pub cam: Option<Maps>,
    /// Maps at the image's own size, `[K, H, W]`.
    pub high_res: Maps,
}

/// Returns the size at stride 4, `(n - 1) / 4 + 1` (SPEC conventions, `s4`).
pub fn stride4(n: usize) -> usize {
    (n - 1) / 4 + 1
}

/// The maps of one image as they lie in a shard: a tenth of [`ImageMaps`] or less, so that a stage keeps these of all its images.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedMaps {
    id: String,
    classes: Vec<u8>,
    cam: Option<Vec<u8>>,
    high_res: Vec<u8>,
}

impl PackedMaps {
    /// Packs the maps of an image.
    pub fn new(image: &ImageMaps) -> Self {
        let (cam, high_res) = (image.cam.as_ref().map(packed::pack), packed::pack(&image.high_res));
        Self { id: image.id.clone(), classes: image.classes.clone(), cam, high_res }
    }

    /// Returns the image id.
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// Encodes a shard.
pub fn encode(images: &[PackedMaps]) -> Vec<u8> {
    let mut parts: Vec<(String, &[u8])> = Vec::new();
    for image in images {
        parts.push((format!("{}/classes", image.id), &image.classes));
        parts.push((format!("{}/high_res", image.id), &image.high_res));
        if let Some(cam) = &image.cam {
            parts.push((format!("{}/cam", image.id), cam));
        }
    }
    let views = parts.iter().map(|(name, bytes)| {
        let view = TensorView::new(Dtype::U8, vec![bytes.len()], bytes).expect("the bytes fit the shape");
        (name.as_str(), view)
    });
    safetensors::serialize(views, None).expect("the tensors can be laid out")
}

/// Returns the ids of the images in a shard, sorted; an error says what is wrong with the bytes.
pub fn ids(bytes: &[u8]) -> Result<Vec<String>, String> {
    Ok(ids_of(&opened(bytes)?).into_iter().map(str::to_owned).collect())
}

/// Decodes a shard, in order of ids; an error says what is wrong with the bytes.
pub fn decode(bytes: &[u8]) -> Result<Vec<ImageMaps>, String> {
    let file = opened(bytes)?;
    ids_of(&file).into_iter().map(|id| image(&file, id)).collect()
}

/// Decodes one image of a shard; an error says what is wrong with the bytes.
pub fn decode_one(bytes: &[u8], id: &str) -> Result<ImageMaps, String> {
    image(&opened(bytes)?, id)
}

/// Returns height and width of the maps of one image of a shard without unpacking them; `None` where the bytes do not say.
pub fn size(bytes: &[u8], id: &str) -> Option<[usize; 2]> {
    let file = opened(bytes).ok()?;
    let view = any_tensor(&file, id, "high_res").ok()?;
    match (view.dtype(), view.shape()) {
        (Dtype::F16, &[_, height, width]) => Some([height, width]),
        _ => packed::size(view.data()),
    }
}

fn opened(bytes: &[u8]) -> Result<SafeTensors<'_>, String> {
    SafeTensors::deserialize(bytes).map_err(|error| format!("this shard of maps cannot be read: {error}"))
}

fn ids_of<'file>(file: &'file SafeTensors<'_>) -> Vec<&'file str> {
    let mut ids: Vec<&str> = file.names().into_iter().filter_map(|name| name.strip_suffix("/classes")).collect();
    ids.sort_unstable();
    ids
}

fn image(file: &SafeTensors<'_>, id: &str) -> Result<ImageMaps, String> {
    let classes = tensor(file, id, "classes", Dtype::U8)?.data().to_vec();
    let high_res = maps(&any_tensor(file, id, "high_res")?, id)?;
    let cam = match file.tensor(&format!("{id}/cam")) {
        Ok(view) => Some(maps(&view, id)?),
        Err(_) => None,
    };
    if high_res.channels() != classes.len() || cam.as_ref().is_some_and(|cam| cam.channels() != classes.len()) {
        return Err(format!("the maps of image `{id}` do not have one channel per class"));
    }
    Ok(ImageMaps { id: id.to_owned(), classes, cam, high_res })
}

fn any_tensor<'data>(file: &SafeTensors<'data>, id: &str, name: &str) -> Result<TensorView<'data>, String> {
    file.tensor(&format!("{id}/{name}")).map_err(|_| format!("the maps of image `{id}` lack `{name}`"))
}

fn tensor<'data>(file: &SafeTensors<'data>, id: &str, name: &str, dtype: Dtype) -> Result<TensorView<'data>, String> {
    let view = any_tensor(file, id, name)?;
    if view.dtype() != dtype {
        return Err(format!("`{name}` of image `{id}` has type {:?} where {dtype:?} is due", view.dtype()));
    }
    Ok(view)
}

fn maps(view: &TensorView<'_>, id: &str) -> Result<Maps, String> {
    match (view.dtype(), view.shape()) {
        (Dtype::U8, _) => packed::unpack(view.data()).map_err(|error| format!("image `{id}`: {error}")),
        (Dtype::F16, &[channels, height, width]) => {
            let halves: Vec<f16> =
                view.data().chunks_exact(2).map(|pair| f16::from_le_bytes([pair[0], pair[1]])).collect();
            Ok(Maps::new(channels, height, width, halves.to_f32_vec()))
        }
        (dtype, shape) => Err(format!(
            "the maps of image `{id}` are {dtype:?} of shape {shape:?}, and neither packed nor of 3 dimensions"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_round_trip_within_half_precision() {
        let values: Vec<f32> = (0..12).map(|i| i as f32 / 11.0).collect();
        let image = ImageMaps {
            id: "2007_000032".into(),
            classes: vec![0, 14],
            cam: Some(Maps::new(2, 1, 1, vec![0.25, 0.5])),
            high_res: Maps::new(2, 2, 3, values.clone()),
        };
        let empty = ImageMaps { id: "a".into(), classes: vec![], cam: None, high_res: Maps::zeros(0, 2, 3) };
        let bytes = encode(&[&image, &empty].map(PackedMaps::new));
        assert_eq!(ids(&bytes), Ok(vec!["2007_000032".to_owned(), "a".to_owned()]));
        assert_eq!((size(&bytes, "a"), size(&bytes, "b")), (Some([2, 3]), None));
        let read = decode(&bytes).expect("readable");
        assert_eq!(read[1], empty);
        assert_eq!(read[0].cam, image.cam);
        for (got, want) in read[0].high_res.data().iter().zip(&values) {
            assert!((got - want).abs() <= 1.0 / 4096.0);
        }
    }

    #[test]
    fn shards_of_older_versions_are_read() {
        let bytes: Vec<u8> =
            [0.0f32, 0.5, 1.0, 0.25].iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
        let view = |dtype, shape: &[usize], data| TensorView::new(dtype, shape.to_vec(), data).expect("the bytes fit");
        let parts = [("a/classes", view(Dtype::U8, &[1], &[7])), ("a/high_res", view(Dtype::F16, &[1, 2, 2], &bytes))];
        let bytes = safetensors::serialize(parts, None).expect("it can be laid out");
        assert_eq!(size(&bytes, "a"), Some([2, 2]));
        let read = decode(&bytes).expect("readable");
        assert_eq!((read[0].classes.as_slice(), &read[0].cam), ([7].as_slice(), &None));
        assert_eq!(read[0].high_res, Maps::new(1, 2, 2, vec![0.0, 0.5, 1.0, 0.25]));
    }

    #[test]
    fn damaged_bytes_are_an_error() {
        assert!(decode(b"no safetensors").is_err());
    }
}
