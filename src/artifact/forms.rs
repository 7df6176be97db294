//! Artifacts in the forms of the reference programs: their dicts of maps, their state_dicts, and the archive that the PASCAL VOC
//! server takes. Writes no file itself.

use std::collections::BTreeMap;

use super::architecture::{Architecture, counters};
use super::maps::ImageMaps;
use super::weights::NamedTensors;
use crate::foreign::write::{self, Element, Entry, Item, Key, Library, Storage};
use crate::image::{LabelMap, Maps, codec};

/// Encodes the maps of an image as IRN does (SPEC 1.5): a dict of `keys`, `cam` where there are maps at stride 4, and `high_res`.
///
/// With [`Library::Torch`] `keys` and `cam` are tensors of PyTorch, as in IRN's own files; with [`Library::Numpy`] all are arrays
/// of NumPy, which needs no PyTorch to be read.
pub fn irn(image: &ImageMaps, library: Library) -> Vec<u8> {
    let keys = image.classes.iter().flat_map(|&class| i64::from(class).to_le_bytes()).collect();
    let keys = Item { library, element: Element::I64, shape: vec![image.classes.len()], data: keys };
    let mut entries = vec![(Key::Text("keys"), keys)];
    if let Some(cam) = &image.cam {
        entries.push((Key::Text("cam"), item(library, cam)));
    }
    entries.push((Key::Text("high_res"), item(Library::Numpy, &image.high_res)));
    write::npy_dict(&entries)
}

/// Encodes the maps of an image as MCTformer does (SPEC 4.5): a dict of a map for each class, in ascending order.
pub fn mctformer(image: &ImageMaps) -> Vec<u8> {
    let shape = [image.high_res.height(), image.high_res.width()];
    let map = |channel: usize| Item {
        library: Library::Numpy,
        element: Element::F32,
        shape: shape.to_vec(),
        data: bytes(image.high_res.channel(channel)),
    };
    let entries: Vec<(Key<'_>, Item)> =
        image.classes.iter().enumerate().map(|(channel, &class)| (Key::Number(class), map(channel))).collect();
    write::npy_dict(&entries)
}

fn item(library: Library, maps: &Maps) -> Item {
    let shape = vec![maps.channels(), maps.height(), maps.width()];
    Item { library, element: Element::F32, shape, data: bytes(maps.data()) }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Encodes weights as the `.pth` of a state_dict. What the reference program stores under several names stands under all of them,
/// and batch norms have their counters, so that `load_state_dict(strict=True)` takes it; tensors with several names share their
/// data, as in the program's own files.
///
/// # Errors
/// If the file would be larger than 4 GiB.
pub fn pth(arch: &str, tensors: &NamedTensors) -> Result<Vec<u8>, String> {
    let architecture = Architecture::find(arch);
    let (mut entries, mut storages) = (Vec::new(), Vec::new());
    let mut add = |name: &str, shape: &[usize], storage: Storage| {
        let aliases = architecture.map(|architecture| architecture.aliases_of(name)).unwrap_or_default();
        for name in std::iter::once(name.to_owned()).chain(aliases) {
            entries.push(Entry { name, shape: shape.to_vec(), storage: storages.len() });
        }
        storages.push(storage);
    };
    for (name, values) in tensors {
        add(name, &values.shape, Storage { element: Element::F32, data: bytes(&values.data) });
    }
    if architecture.is_some_and(|architecture| architecture.counters) {
        for name in counters(tensors) {
            add(&name, &[], Storage { element: Element::I64, data: 0_i64.to_le_bytes().to_vec() });
        }
    }
    write::pth(&entries, &storages)
}

/// Where the PASCAL VOC server expects the masks of the segmentation task (competition 6: trained on any data).
const VOC_TEST: &str = "results/VOC2012/Segmentation/comp6_test_cls";

/// Encodes masks as the archive that the PASCAL VOC server takes. `sizes` has height and width of each photograph.
///
/// # Errors
/// One sentence, if a mask is not as large as its photograph or has a pixel that is none of the `classes`; the server knows no
/// pixels that count for nothing.
pub fn voc_test(
    masks: &[(String, LabelMap)],
    sizes: &BTreeMap<String, (usize, usize)>,
    classes: usize,
) -> Result<Vec<u8>, String> {
    let mut files = BTreeMap::new();
    for (id, mask) in masks {
        let &(height, width) =
            sizes.get(id).ok_or_else(|| format!("image `{id}` has a mask and is in no image set of this pipeline"))?;
        if (mask.height(), mask.width()) != (height, width) {
            return Err(format!(
                "the mask of image `{id}` has {} x {} pixels and the photograph {width} x {height}",
                mask.width(),
                mask.height()
            ));
        }
        if let Some(index) = mask.data().iter().find(|&&index| usize::from(index) >= classes) {
            return Err(format!(
                "the mask of image `{id}` has a pixel of {index}, and the server takes 0 to {}",
                classes - 1
            ));
        }
        files.insert(format!("{VOC_TEST}/{id}.png"), codec::encode_mask(mask));
    }
    write::tar_gz(&files)
}
