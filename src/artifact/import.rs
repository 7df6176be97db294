//! CAM files of other programs as maps. Knows what each program calls its arrays; which images there are and where files lie is
//! the caller's business.
//!
//! | layout | content of `ID.npy` (SPEC 11 and Appendix A) |
//! |---|---|
//! | irn, orandnet | dict: `keys` `[K]`, `cam` `[K, s4(H), s4(W)]`, `high_res` `[K, H, W]` |
//! | amn | the same with the background as channel 0 of `cam` and `high_res`, which is dropped |
//! | mctformer | dict: class to `[H, W]` |
//! | plain | array `[K, H, W]`, classes in a second file or as the image is labelled |
//! | safetensors | `classes` `[K]`, `high_res` `[K, H, W]` and, where there is one, `cam` |

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::maps::{ImageMaps, stride4};
use super::weights;
use crate::foreign::{View, npy};
use crate::image::Maps;
use crate::image::resize::{Coordinates, interpolate_bilinear};

/// How a program lays out its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// IRN's and ORANDNet's dict.
    Irn,
    /// AMN's dict, background first.
    Amn,
    /// MCTformer's dict of classes.
    Mctformer,
    /// A plain array.
    Plain,
    /// Named tensors.
    Safetensors,
}

/// What becomes of values outside of 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// They are an error.
    Refuse,
    /// They become 0 or 1.
    Clip,
    /// They stay.
    Keep,
}

/// Values so little outside of 0 to 1 are rounding, and become 0 or 1: half of what f16, in which maps are kept, tells apart
/// below 1.
const ROUNDING: f32 = 1.0 / 4096.0;

/// The image that maps are read for.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Its id.
    pub id: &'a str,
    /// Height and width in pixels.
    pub size: (usize, usize),
    /// The classes it is labelled with, ascending.
    pub labels: &'a [u8],
    /// How many foreground classes there are.
    pub classes: usize,
}

/// Reads the maps of an image. `class_file` is the second file of a plain array. Classes are put into ascending order, maps at
/// stride 4 that the file lacks are made from those at full size (SPEC 5.1).
///
/// # Errors
/// A sentence fragment on what is wrong with the file, to stand behind its name.
pub fn read(
    layout: Layout,
    bytes: &[u8],
    class_file: Option<&[u8]>,
    target: &Target<'_>,
    outside: Outside,
) -> Result<ImageMaps, String> {
    let Found { mut classes, cam, high_res } = match layout {
        Layout::Safetensors => from_safetensors(bytes)?,
        _ => from_npy(layout, bytes, class_file, target)?,
    };
    if high_res.channels() != classes.len() || cam.as_ref().is_some_and(|cam| cam.channels() != classes.len()) {
        let count = high_res.channels();
        return Err(format!(
            "it has {} and {count} maps{}",
            counted(classes.len()),
            background_hint(layout, count, classes.len())
        ));
    }
    if let Some(class) = classes.iter().find(|class| **class >= target.classes as i64 || **class < 0) {
        return Err(format!(
            "it has class {class}, but there are {} foreground classes, 0 to {}",
            target.classes,
            target.classes - 1
        ));
    }
    let (height, width) = target.size;
    let (high_res, cam) = if classes.is_empty() {
        (Maps::zeros(0, height, width), Some(Maps::zeros(0, stride4(height), stride4(width))))
    } else {
        check_size("maps", &high_res, (height, width), "the image has")?;
        if let Some(cam) = &cam {
            check_size("maps at stride 4", cam, (stride4(height), stride4(width)), "stride 4 makes")?;
        }
        (high_res, cam)
    };

    let mut order: Vec<usize> = (0..classes.len()).collect();
    order.sort_by_key(|&channel| classes[channel]);
    let ordered = |maps: &Maps| {
        let data = order.iter().flat_map(|&channel| maps.channel(channel)).copied().collect();
        Maps::new(maps.channels(), maps.height(), maps.width(), data)
    };
    let high_res = in_range(ordered(&high_res), outside)?;
    let cam = match cam {
        Some(cam) => in_range(ordered(&cam), outside)?,
        None => interpolate_bilinear(&high_res, stride4(height), stride4(width), Coordinates::HalfPixel),
    };
    classes.sort_unstable();
    if let Some(pair) = classes.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("it has class {} twice", pair[0]));
    }
    let classes = classes.into_iter().map(|class| u8::try_from(class).expect("class lists are shorter")).collect();
    Ok(ImageMaps { id: target.id.to_owned(), classes, cam: Some(cam), high_res })
}

/// What a file has, as it has it.
struct Found {
    classes: Vec<i64>,
    cam: Option<Maps>,
    high_res: Maps,
}

fn counted(classes: usize) -> String {
    format!("{classes} {}", if classes == 1 { "class" } else { "classes" })
}

fn background_hint(layout: Layout, maps: usize, classes: usize) -> &'static str {
    match layout {
        Layout::Irn if maps == classes + 1 => ", as AMN's files have, whose first map is the background",
        Layout::Amn => " besides the background, which is dropped",
        _ => "",
    }
}

fn check_size(what: &str, maps: &Maps, (height, width): (usize, usize), why: &str) -> Result<(), String> {
    if (maps.height(), maps.width()) == (height, width) {
        return Ok(());
    }
    Err(format!("its {what} have {} x {} pixels where {why} {width} x {height}", maps.width(), maps.height()))
}

/// Sees to it that values lie in 0 to 1, and refuses those that are no numbers.
fn in_range(mut maps: Maps, outside: Outside) -> Result<Maps, String> {
    for value in maps.data_mut() {
        if !value.is_finite() {
            return Err(format!("it has a value that is {value}"));
        }
        if value.abs() > f32::from(half::f16::MAX) {
            return Err(format!("it has the value {value}, which f16 cannot hold"));
        }
        let clipped = value.clamp(0.0, 1.0);
        if *value == clipped || outside == Outside::Keep {
            continue;
        }
        if outside == Outside::Refuse && (*value - clipped).abs() > ROUNDING {
            return Err(format!("it has the value {value}, and maps lie in 0 to 1"));
        }
        *value = clipped;
    }
    Ok(maps)
}

fn from_npy(layout: Layout, bytes: &[u8], class_file: Option<&[u8]>, target: &Target<'_>) -> Result<Found, String> {
    let text = |error: crate::foreign::Error| error.to_string();
    let tree = npy::read(bytes).map_err(text)?;
    let root = tree.root().item();
    if layout == Layout::Plain {
        let classes = match class_file {
            Some(bytes) => npy::read(bytes)
                .and_then(|tree| tree.root().integers())
                .map_err(|error| format!("its file of classes cannot be read: {error}"))?,
            None => target.labels.iter().map(|&label| label.into()).collect(),
        };
        let high_res = stack(root, "the array")?;
        return Ok(Found { classes, cam: None, high_res });
    }
    if root.entries().is_none() {
        return Err(format!("a dict is due where it has {}", root.word()));
    }
    if layout == Layout::Mctformer {
        return classes_to_maps(root, target.size);
    }
    let keys = root.get("keys").ok_or("it has no `keys`, which name the classes of its maps")?;
    let classes = keys.integers().map_err(|error| format!("its `keys` cannot be read: {error}"))?;
    let high_res = match root.get("high_res") {
        Some(maps) => stack(maps, "`high_res`")?,
        // AMN writes nothing but an empty `keys` for an image without labels (SPEC 3.3).
        None if classes.is_empty() => return Ok(Found { classes, cam: None, high_res: Maps::zeros(0, 1, 1) }),
        None => return Err("it has no `high_res`, the maps at full size".to_owned()),
    };
    let cam = root.get("cam").map(|maps| stack(maps, "`cam`")).transpose()?;
    if layout == Layout::Amn {
        let cam = cam.map(|cam| without_background(&cam)).transpose()?;
        return Ok(Found { classes, cam, high_res: without_background(&high_res)? });
    }
    Ok(Found { classes, cam, high_res })
}

fn without_background(maps: &Maps) -> Result<Maps, String> {
    let count =
        maps.channels().checked_sub(1).ok_or("it has no map of the background, which AMN's files begin with")?;
    let data = maps.data()[maps.height() * maps.width()..].to_vec();
    Ok(Maps::new(count, maps.height(), maps.width(), data))
}

/// Reads `{class: [H, W]}`.
fn classes_to_maps(dict: View<'_, '_>, (height, width): (usize, usize)) -> Result<Found, String> {
    let entries = dict.entries().expect("it is a dict");
    let (mut classes, mut data, mut size) = (Vec::new(), Vec::new(), None);
    for (key, map) in entries {
        let class = key.integer().and_then(|class| i64::try_from(class).ok());
        let class = class.ok_or_else(|| match key.text() {
            Some(text) => format!("its dict has the key `{text}` where classes are due, as whole numbers"),
            None => format!("its dict has {} as a key where classes are due, as whole numbers", key.word()),
        })?;
        let shape = map.shape().map(<[usize]>::to_vec).unwrap_or_default();
        let &[height, width] = shape.as_slice() else {
            return Err(format!("the map of class {class} has the shape {shape:?} where [height, width] is due"));
        };
        if *size.get_or_insert((height, width)) != (height, width) {
            return Err("its maps differ in size".to_owned());
        }
        classes.push(class);
        data.extend(map.floats().map_err(|error| format!("the map of class {class} cannot be read: {error}"))?);
    }
    let (height, width) = size.unwrap_or((height, width));
    let high_res = Maps::new(classes.len(), height, width, data);
    Ok(Found { classes, cam: None, high_res })
}

/// Reads `[K, H, W]`.
fn stack(array: View<'_, '_>, what: &str) -> Result<Maps, String> {
    match array.shape() {
        Some(&[channels, height, width]) => {
            let data = array.floats().map_err(|error| format!("{what} cannot be read: {error}"))?;
            Ok(Maps::new(channels, height, width, data))
        }
        Some(shape) => Err(format!("{what} has the shape {shape:?} where [classes, height, width] is due")),
        None => Err(format!("{what} is {} where an array is due", array.word())),
    }
}

fn from_safetensors(bytes: &[u8]) -> Result<Found, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| format!("it is no safetensors file: {error}"))?;
    let tensor = |name: &str| file.tensor(name).map_err(|_| format!("it has no tensor `{name}`"));
    let classes = tensor("classes")?;
    let width = match classes.dtype() {
        Dtype::U8 => 1,
        Dtype::I32 => 4,
        Dtype::I64 => 8,
        other => return Err(format!("`classes` has the type {other:?} where U8, I32 or I64 is due")),
    };
    let number = |bytes: &[u8]| match width {
        1 => i64::from(bytes[0]),
        _ => {
            // Two's complement: the sign fills the upper bytes.
            let mut all = [if bytes[width - 1] & 0x80 != 0 { 0xff } else { 0 }; 8];
            all[..width].copy_from_slice(bytes);
            i64::from_le_bytes(all)
        }
    };
    let classes = classes.data().chunks_exact(width).map(number).collect();
    let cam = file.tensor("cam").ok().map(|view| named_maps(&view, "cam")).transpose()?;
    Ok(Found { classes, cam, high_res: named_maps(&tensor("high_res")?, "high_res")? })
}

fn named_maps(view: &TensorView<'_>, name: &str) -> Result<Maps, String> {
    let &[channels, height, width] = view.shape() else {
        return Err(format!("`{name}` has the shape {:?} where [classes, height, width] is due", view.shape()));
    };
    let data = match view.dtype() {
        Dtype::F32 | Dtype::F16 => weights::floats(view).expect("they have a fraction"),
        other => return Err(format!("`{name}` has the type {other:?} where F32 or F16 is due")),
    };
    Ok(Maps::new(channels, height, width, data))
}
