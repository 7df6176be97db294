//! Typed reading of what stands on a stage's ports. Knows how each kind of artifact looks; decides nothing about it.
//!
//! Every function gives the images of the action that runs: all of them for `Whole` work, those of the bucket for `PerImage`
//! work. Errors name the image id and never a path, since content is found by digest.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::prelude::*;

use crate::artifact::images::{ClassList, ImageEntry};
use crate::artifact::maps::ImageMaps;
use crate::artifact::weights::{NamedTensors, WeightsMeta};
use crate::artifact::{images, maps, masks, weights};
use crate::data::{Problem, count, listed};
use crate::image::{LabelMap, Rgb, codec};
use crate::kind::Kind;
use crate::stage::{Ctx, Inputs, StageError};
use crate::store::manifest::{Entry, Manifest};

/// Waits for work on all cores and returns the results in order. All of it is done even if some fails, so that of several
/// faulty images it is always the first that is named, which collecting a `Result` leaves to chance.
pub fn in_order<R: Send>(work: impl ParallelIterator<Item = Result<R, StageError>>) -> Result<Vec<R>, StageError> {
    let results: Vec<Result<R, StageError>> = work.collect();
    results.into_iter().collect()
}

/// Loads on a thread of its own what `work` takes next, so that the host decodes while a device computes; at most one is waiting.
///
/// # Errors
/// The first error of either, in the order of the items.
pub fn ahead<T: Send, L: Send>(
    items: impl Iterator<Item = T> + Send,
    load: impl Fn(T) -> Result<L, StageError> + Send,
    mut work: impl FnMut(L) -> Result<(), StageError>,
) -> Result<(), StageError> {
    std::thread::scope(|scope| {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let loader = scope.spawn(move || {
            for item in items {
                let loaded = load(item);
                let failed = loaded.is_err();
                // Nobody listens any more where the work has failed.
                if sender.send(loaded).is_err() || failed {
                    return;
                }
            }
        });
        for loaded in receiver {
            work(loaded?)?;
        }
        loader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(())
    })
}

/// Reads the images on `port`, sorted by id.
pub fn images(ctx: &Ctx<'_>, port: &str) -> Result<Vec<ImageEntry>, StageError> {
    let mut found = Vec::new();
    for entry in ctx.shards(port) {
        let shard = images::decode(&ctx.access.entry(entry)?).map_err(|error| on_port(port, &error))?;
        found.extend(shard.into_iter().filter(|image| ctx.in_shard(&image.id)));
    }
    found.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(found)
}

/// Maps by image id, still packed: each image's are unpacked when they are asked for, as those of a few large photographs would fill the
/// memory.
pub struct MapSet<'run> {
    port: &'run str,
    shards: Vec<Vec<u8>>,
    /// The shard of each image.
    places: BTreeMap<String, usize>,
}

impl MapSet<'_> {
    fn add(&mut self, ctx: &Ctx<'_>, entry: &Entry) -> Result<(), StageError> {
        let bytes = ctx.access.entry(entry)?;
        let ids = maps::ids(&bytes).map_err(|error| on_port(self.port, &error))?;
        let place = self.shards.len();
        self.places.extend(ids.into_iter().filter(|id| ctx.in_shard(id)).map(|id| (id, place)));
        self.shards.push(bytes);
        Ok(())
    }

    /// Returns the ids of all images, sorted.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = &String> {
        self.places.keys()
    }

    /// Returns how many pixels the maps of an image have; 0 where they are missing or damaged, of which [`Self::get`] speaks.
    pub fn pixels(&self, id: &str) -> usize {
        let place = self.places.get(id).copied();
        place.and_then(|place| maps::size(&self.shards[place], id)).map_or(0, |[height, width]| height * width)
    }

    /// Unpacks the maps of an image; an error names it.
    pub fn get(&self, id: &str) -> Result<ImageMaps, StageError> {
        let &place = of_image(&self.places, id, self.port)?;
        maps::decode_one(&self.shards[place], id).map_err(|error| on_port(self.port, &error))
    }
}

/// Reads the maps on `port`.
pub fn maps<'run>(ctx: &Ctx<'_>, port: &'run str) -> Result<MapSet<'run>, StageError> {
    let mut set = MapSet { port, shards: Vec::new(), places: BTreeMap::new() };
    for entry in ctx.shards(port) {
        set.add(ctx, entry)?;
    }
    Ok(set)
}

/// Reads the maps of one shard on `port`, so that `Whole` work can go through a large set without holding all of it.
/// The shards are `ctx.shards(port)`.
pub fn maps_in<'run>(ctx: &Ctx<'_>, port: &'run str, entry: &Entry) -> Result<MapSet<'run>, StageError> {
    let mut set = MapSet { port, shards: Vec::new(), places: BTreeMap::new() };
    set.add(ctx, entry)?;
    Ok(set)
}

/// Reads the masks on `port`, a mask set or a seed set, by image id.
pub fn masks(ctx: &Ctx<'_>, port: &str) -> Result<BTreeMap<String, LabelMap>, StageError> {
    let mut found = BTreeMap::new();
    for entry in ctx.shards(port) {
        found.extend(masks_in(ctx, port, entry)?);
    }
    Ok(found)
}

/// Reads the masks of one shard on `port`.
pub fn masks_in(ctx: &Ctx<'_>, port: &str, entry: &Entry) -> Result<Vec<(String, LabelMap)>, StageError> {
    let mut shard = masks::decode(&ctx.access.entry(entry)?).map_err(|error| on_port(port, &error))?;
    shard.retain(|(id, _)| ctx.in_shard(id));
    Ok(shard)
}

/// Reads the weights on `port` with their architecture and class list.
pub fn weights(ctx: &Ctx<'_>, port: &str) -> Result<(WeightsMeta, NamedTensors), StageError> {
    let manifest = ctx.inputs.get(port);
    let meta = weights_meta(manifest, port)?;
    let entry = manifest
        .entries
        .get(weights::PART)
        .ok_or_else(|| StageError::data(format!("the weights on port `{port}` lack `{}`", weights::PART)))?;
    let tensors = weights::decode(&ctx.access.entry(entry)?).map_err(|error| on_port(port, &error))?;
    Ok((meta, tensors))
}

/// Returns the network on port `weights`, and what is said of it. The first of the stage's actions on a device reads the weights and has
/// `build` load them, the others in this process find the network as it is: what became of the file meanwhile does not matter, as its bytes
/// were verified when they were read.
///
/// `build` may use the weights, the device and the stage's parameters, its precision among them, and nothing that differs from shard to shard.
pub fn network<N: Any + Send + Sync>(
    ctx: &Ctx<'_>,
    build: impl FnOnce(&WeightsMeta, &NamedTensors) -> Result<N, StageError>,
) -> Result<(WeightsMeta, Arc<N>), StageError> {
    let manifest = ctx.inputs.get("weights");
    let network = ctx.shared.get(ctx.device, manifest.digest(), || {
        let (meta, tensors) = weights(ctx, "weights")?;
        build(&meta, &tensors)
    })?;
    Ok((weights_meta(manifest, "weights")?, network))
}

/// Reads architecture and class list of the weights on `port` from their manifest, as `Stage::meta` may.
pub fn weights_meta(manifest: &Manifest, port: &str) -> Result<WeightsMeta, StageError> {
    serde_json::from_value(manifest.meta.clone())
        .map_err(|error| on_port(port, &format!("the description of these weights cannot be read: {error}")))
}

/// Decodes the pixels of an image; an image that is damaged or has changed its size is an error that names its id.
pub fn pixels(ctx: &Ctx<'_>, entry: &ImageEntry) -> Result<Rgb, StageError> {
    let bytes = ctx.access.content(entry.image)?;
    let image = codec::decode_rgb(&bytes).map_err(|error| {
        StageError::data_help(
            format!("image `{}` cannot be decoded: {error}", entry.id),
            "replace the file by an undamaged JPEG or PNG, or take its id out of the split",
        )
    })?;
    if (image.height(), image.width()) != (entry.height, entry.width) {
        return Err(StageError::data(format!(
            "image `{}` has {} x {} pixels where its header promises {} x {}",
            entry.id,
            image.width(),
            image.height(),
            entry.width,
            entry.height
        )));
    }
    Ok(image)
}

/// Decodes the ground truth of an image if it has one.
///
/// `class_count` counts the background: indices must be below it, or 255 for pixels that count for nothing. A mask of another
/// size than the image and an index out of range are errors that name the image.
pub fn truth(ctx: &Ctx<'_>, entry: &ImageEntry, class_count: usize) -> Result<Option<LabelMap>, StageError> {
    let Some(digest) = entry.mask else { return Ok(None) };
    let mask = codec::decode_mask(&ctx.access.content(digest)?).map_err(|error| {
        StageError::data_help(
            format!("the ground-truth mask of image `{}` cannot be decoded: {error}", entry.id),
            "masks are palette or 8-bit grey PNG whose pixel values are class indices",
        )
    })?;
    check_mask(&mask, &entry.id, (entry.height, entry.width), class_count)?;
    Ok(Some(mask))
}

/// As [`truth`], of an image that must have ground truth.
pub fn ground_truth(ctx: &Ctx<'_>, entry: &ImageEntry, class_count: usize) -> Result<LabelMap, StageError> {
    truth(ctx, entry, class_count)?.ok_or_else(|| {
        StageError::data_help(
            format!("image `{}` has no ground-truth mask", entry.id),
            "connect a set that has masks, such as a `dataset.voc` with `masks = \"SegmentationClass\"`",
        )
    })
}

/// Refuses maps of another size than their image, and maps of a class that is not in the class list.
pub fn check_maps(maps: &ImageMaps, (height, width): (usize, usize), class_count: usize) -> Result<(), StageError> {
    let id = &maps.id;
    if (maps.high_res.height(), maps.high_res.width()) != (height, width) {
        return Err(StageError::data_help(
            format!(
                "the maps of image `{id}` have {} x {} pixels and the image {width} x {height}",
                maps.high_res.width(),
                maps.high_res.height()
            ),
            "make the maps from the same images at their full size",
        ));
    }
    match maps.classes.iter().find(|&&class| usize::from(class) + 1 >= class_count) {
        Some(class) => Err(StageError::data(format!(
            "the maps of image `{id}` have class {class}, but there are {} foreground classes, 0 to {}",
            class_count - 1,
            class_count - 2
        ))),
        None => Ok(()),
    }
}

/// Refuses a mask of another size than its image, and a mask with an index that is neither a class nor 255.
pub fn check_mask(
    mask: &LabelMap,
    id: &str,
    (height, width): (usize, usize),
    class_count: usize,
) -> Result<(), StageError> {
    if (mask.height(), mask.width()) != (height, width) {
        return Err(StageError::data_help(
            format!(
                "the mask of image `{id}` has {} x {} pixels and the image {width} x {height}",
                mask.width(),
                mask.height()
            ),
            "a mask has one pixel for each pixel of its image: make it from the same file, or take the id out of the split",
        ));
    }
    let wrong = mask.data().iter().find(|&&index| index != LabelMap::IGNORE && usize::from(index) >= class_count);
    if let Some(index) = wrong {
        return Err(StageError::data_help(
            format!(
                "the mask of image `{id}` has a pixel of class {index}, but there are {class_count} classes, 0 to {}",
                class_count - 1
            ),
            "255 marks pixels that count for nothing; a mask with more classes needs a class list with as many names",
        ));
    }
    Ok(())
}

/// Refuses labels that the class list does not have.
pub fn check_labels(images: &[ImageEntry], classes: usize) -> Result<(), StageError> {
    for entry in images {
        if let Some(label) = entry.labels.iter().find(|&&label| usize::from(label) >= classes) {
            let message = format!("image `{}` has a label {label}, but there are {classes} classes", entry.id);
            return Err(StageError::data(message));
        }
    }
    Ok(())
}

/// Reads the class list of a set; index 0 is the background.
pub fn classes(manifest: &Manifest, port: &str) -> Result<Vec<String>, StageError> {
    let list: ClassList =
        serde_json::from_value(manifest.meta.clone()).map_err(|_| on_port(port, "its metadata has no class list"))?;
    if list.classes.len() < 2 {
        return Err(on_port(port, "its class list has no foreground class"));
    }
    Ok(list.classes)
}

/// Returns the class list that the artifacts on `ports` share; an error names the first difference. Ports that are not
/// connected are passed over.
///
/// # Panics
/// If none of the ports is connected, which the plan has made sure of.
pub fn common_classes(inputs: &Inputs, ports: &[&'static str]) -> Result<Vec<String>, StageError> {
    let mut common: Option<(&str, Vec<String>)> = None;
    for &port in ports {
        let Some(manifest) = inputs.maybe(port) else { continue };
        let list = classes(manifest, port)?;
        match &common {
            None => common = Some((port, list)),
            Some((first, known)) if *known != list => return Err(class_lists_differ(first, known, port, &list)),
            Some(_) => {}
        }
    }
    Ok(common.expect("at least one of the ports is connected").1)
}

fn class_lists_differ(first: &str, known: &[String], port: &str, list: &[String]) -> StageError {
    let difference = (0..known.len().max(list.len()))
        .find(|&index| known.get(index) != list.get(index))
        .map(|index| {
            let name = |list: &[String]| list.get(index).map_or("nothing".to_owned(), |name| format!("`{name}`"));
            format!(": class {index} is {} there and {} here", name(known), name(list))
        })
        .unwrap_or_default();
    StageError::data_help(
        format!("the class lists on ports `{first}` and `{port}` differ{difference}"),
        "artifacts that meet must be made for the same classes in the same order",
    )
}

/// Refuses, at plan time, an artifact on `port` that lacks images of the set on `images`.
pub fn check_covers(inputs: &Inputs, port: &'static str, images: &'static str) -> Result<(), StageError> {
    let (Some(have), Some(need)) = (inputs.maybe(port), inputs.maybe(images)) else { return Ok(()) };
    let known = have.ids();
    let missing: Vec<&str> = need.ids().into_iter().filter(|id| known.binary_search(id).is_err()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(StageError::data_help(
        format!(
            "{} on port `{port}` lacks {} of the {} on port `{images}`: {}",
            have.kind.article(),
            count(missing.len(), "image", "images"),
            need.ids().len(),
            listed(&missing)
        ),
        match have.kind {
            Kind::CamSet | Kind::ScoreSet => {
                "make the maps from the same image set, or use the set that they were made from"
            }
            _ => "make both from the same image set",
        },
    ))
}

/// Finds the value of an image in a map by id, as [`maps`] and [`masks`] return it; an error names the image.
pub fn of_image<'map, T>(found: &'map BTreeMap<String, T>, id: &str, port: &str) -> Result<&'map T, StageError> {
    found.get(id).ok_or_else(|| StageError::data(format!("image `{id}` is missing on port `{port}`")))
}

impl From<Problem> for StageError {
    fn from(problem: Problem) -> Self {
        Self::Data { message: problem.message, help: problem.help }
    }
}

fn on_port(port: &str, error: &str) -> StageError {
    StageError::data(format!("the artifact on port `{port}`: {error}"))
}
