//! `dataset.voc`: an image set from a folder in PASCAL VOC layout. Decodes masks; of images it reads the header.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::io;
use crate::artifact::images::{self, ImageEntry};
use crate::data::labels;
use crate::data::sbd::{self, Sbd};
use crate::data::voc::{self, Layout, labels_of};
use crate::digest::Digest;
use crate::foreign::mat;
use crate::image::{LabelMap, codec};
use crate::kind::Kind;
use crate::stage::{
    Ctx, HashedFile, HashedItem, Inputs, NotInKey, Output, SourceFile, SourceItem, Sources, Spec, Stage, StageError,
    Work,
};

/// Parameters. What decides the result is the ids and the files' content, which are in the key; paths are not.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// Folder of the data set, in VOC layout
    ///
    /// It has `JPEGImages` (JPEG or PNG), `ImageSets/Segmentation` and, where the classes are not the 20 of PASCAL VOC,
    /// `classes.txt` with one name per line, the background first.
    root: NotInKey<String>,
    /// Name of the split: the file `ImageSets/Segmentation/SPLIT.txt`, one image id or path per line
    split: String,
    /// Folder in the root with ground-truth masks, such as `SegmentationClass`
    ///
    /// Palette or 8-bit grey PNG, 255 = does not count. Without it the set has no ground truth.
    #[serde(default)]
    masks: NotInKey<Option<String>>,
    /// Where image-level labels come from: `annotations`, `masks`, `none`, or the path of a CSV or npy file
    ///
    /// `annotations`: the objects in `Annotations/ID.xml`. `masks`: the classes in the masks of `labels_from`. `none`: images have no
    /// labels, such as those of VOC's `test`, and can only be segmented. A CSV file has the columns `id` and `label`; an npy file is
    /// the `cls_labels.npy` of the reference programs. Without it: `annotations` where that folder exists, else `masks`.
    #[serde(default)]
    labels: NotInKey<Option<String>>,
    /// Folder in the root with the masks that labels are read from
    ///
    /// Without it the folder of `masks`, or `SegmentationClass`.
    #[serde(default)]
    labels_from: NotInKey<Option<String>>,
    /// Folder of the SBD data set, `benchmark_RELEASE/dataset` of its archive, whose `cls/ID.mat` are the masks of images that have
    /// none in the folder of `masks`
    ///
    /// Where `ImageSets/Segmentation` has no `train_aug.txt`, `split = "train_aug"` is then all images of SBD and of VOC's `train`,
    /// without those of VOC's `val`.
    #[serde(default)]
    sbd: NotInKey<Option<String>>,
    /// Number of images, counted from the top of the split file; without it all
    #[serde(default)]
    #[schemars(range(min = 1))]
    limit: NotInKey<Option<usize>>,
}

/// Roles of an item's files.
pub(super) const IMAGE: &str = "image";
pub(super) const MASK: &str = "mask";
pub(super) const LABEL_MASK: &str = "label_mask";
pub(super) const ANNOTATION: &str = "annotation";
/// Role of the file with class names.
pub(super) const CLASSES: &str = "classes";

/// Facts of an item whose labels come from a CSV or npy file.
#[derive(Serialize, Deserialize)]
pub(super) struct Facts {
    pub(super) labels: Vec<u8>,
}

/// The stage.
pub(super) struct DatasetVoc;

impl Stage for DatasetVoc {
    type Params = Params;

    const SPEC: Spec = Spec {
        name: "dataset.voc",
        about: "Images of a split of a data set in PASCAL VOC layout, with image-level labels",
        // 2: masks are deflated in another way.
        revision: 2,
        inputs: &[],
        output: Kind::ImageSet,
        work: Work::PerImage,
        seeded: false,
    };

    fn check(params: &Params) -> Result<(), StageError> {
        if params.limit.0 == Some(0) {
            return Err(StageError::parameter("limit", "a set needs at least one image"));
        }
        if let Some(labels) = &params.labels.0
            && !matches!(labels.as_str(), "annotations" | "masks" | "none")
            && !labels.ends_with(".csv")
            && !labels.ends_with(".npy")
        {
            let message = format!(
                "`{labels}` is not a source of labels: it is `annotations`, `masks`, `none` or a path that ends in `.csv` or `.npy`"
            );
            return Err(StageError::parameter("labels", message));
        }
        Ok(())
    }

    fn sources(params: &Params, _inputs: &Inputs) -> Result<Sources, StageError> {
        let layout = Layout::open(&params.root.0)?;
        let classes = layout.classes()?;
        let sbd = params.sbd.0.as_deref().map(Sbd::open).transpose()?;
        let ids = match &sbd {
            Some(sbd) if params.split == sbd::SPLIT && !layout.has_split(sbd::SPLIT) => {
                let mut ids = sbd.train_aug(&layout)?;
                ids.truncate(params.limit.0.unwrap_or(usize::MAX));
                ids
            }
            _ => layout.ids(&params.split, params.limit.0)?,
        };
        let masks = |folder: &str| match &sbd {
            Some(sbd) => sbd.masks_beside(&layout, folder, &ids),
            None => layout.masks(folder, &ids),
        };
        let mut items: Vec<SourceItem> = ids
            .iter()
            .map(|id| SourceItem { id: id.clone(), files: Vec::new(), facts: serde_json::Value::Null })
            .collect();
        add(&mut items, IMAGE, layout.images(&ids)?);
        if let Some(folder) = &params.masks.0 {
            add(&mut items, MASK, masks(folder)?);
        }
        let fallback = if layout.path(voc::ANNOTATIONS).is_dir() { "annotations" } else { "masks" };
        match params.labels.0.as_deref().unwrap_or(fallback) {
            "annotations" => add(&mut items, ANNOTATION, layout.annotations(&ids)?),
            "masks" => {
                let folder = params.labels_from.0.as_ref().or(params.masks.0.as_ref());
                add(&mut items, LABEL_MASK, masks(folder.map_or("SegmentationClass", String::as_str))?);
            }
            "none" => {}
            file => {
                for (item, labels) in items.iter_mut().zip(labels::read(Path::new(file), &ids, &classes)?) {
                    item.facts = serde_json::to_value(Facts { labels }).expect("labels are JSON");
                }
            }
        }
        let files = layout.class_file().map(|path| SourceFile { role: CLASSES.to_owned(), path });
        Ok(Sources { items, files: files.into_iter().collect(), facts: serde_json::Value::Null })
    }

    fn meta(params: &Params, _inputs: &Inputs) -> Result<serde_json::Value, StageError> {
        let classes = Layout::open(&params.root.0)?.classes()?;
        Ok(serde_json::json!({ "classes": classes, "split": params.split, "truth": params.masks.0.is_some() }))
    }

    fn run(_params: &Params, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let classes = match ctx.files.iter().find(|file| file.role == CLASSES) {
            Some(file) => voc::parse_classes(&text(ctx, file)?, &file.path.display().to_string())?,
            None => voc::CLASSES.map(str::to_owned).to_vec(),
        };
        collect(ctx, &classes)
    }
}

/// Looks at every item of a shard. Masks that are no PNG become parts of the artifact.
pub(super) fn collect(ctx: &Ctx<'_>, classes: &[String]) -> Result<Output, StageError> {
    collect_with(ctx, classes, |_, _| Ok(None))
}

/// As [`collect`], where `draw` may make the ground truth of an image, as a PNG.
pub(super) fn collect_with(
    ctx: &Ctx<'_>,
    classes: &[String],
    draw: impl Fn(&HashedItem, &ImageEntry) -> Result<Option<Vec<u8>>, StageError> + Sync,
) -> Result<Output, StageError> {
    let look = |item: &HashedItem| {
        let (mut entry, mut made) = entry(ctx, item, classes)?;
        if let Some(mask) = draw(item, &entry)? {
            entry.mask = Some(Digest::of(&mask));
            made = Some(mask);
        }
        Ok((entry, made))
    };
    let mut found = io::in_order(ctx.items.par_iter().map(look))?;
    found.sort_by(|(a, _), (b, _)| a.id.cmp(&b.id));
    let (entries, made): (Vec<ImageEntry>, Vec<Option<Vec<u8>>>) = found.into_iter().unzip();
    let ids = entries.iter().map(|entry| entry.id.clone()).collect();
    let mut output = Output::shard(ids, images::encode(&entries));
    for (entry, mask) in entries.iter().zip(made) {
        output.parts.extend(mask.map(|mask| (format!("mask/{}.png", entry.id), mask)));
    }
    Ok(output)
}

pub(super) fn add(items: &mut [SourceItem], role: &str, paths: Vec<PathBuf>) {
    for (item, path) in items.iter_mut().zip(paths) {
        item.files.push(SourceFile { role: role.to_owned(), path });
    }
}

/// Looks at an item; returns its ground truth as well where that is not in a PNG of its own.
fn entry(ctx: &Ctx<'_>, item: &HashedItem, classes: &[String]) -> Result<(ImageEntry, Option<Vec<u8>>), StageError> {
    ctx.check_cancelled()?;
    let id = &item.id;
    let file = item.file(IMAGE).expect("each item has an image");
    let (height, width) = codec::image_size(&ctx.access.content(file.digest)?).map_err(|error| {
        StageError::data_help(
            format!("image `{id}` cannot be read: `{}`: {error}", file.path.display()),
            "replace the file by an undamaged JPEG or PNG, or take its id out of the split",
        )
    })?;
    let mask = |file: &HashedFile| -> Result<(LabelMap, bool), StageError> {
        let bytes = ctx.access.content(file.digest)?;
        let mask = sbd::decode_mask(&bytes).map_err(|error| {
            StageError::data_help(
                format!("the mask of image `{id}` cannot be read: `{}`: {error}", file.path.display()),
                "masks are palette or 8-bit grey PNG whose pixel values are class indices, or SBD's mat files",
            )
        })?;
        io::check_mask(&mask, id, (height, width), classes.len()).map_err(|error| match error {
            StageError::Data { message, help } => {
                StageError::Data { message: format!("{message}: `{}`", file.path.display()), help }
            }
            other => other,
        })?;
        Ok((mask, mat::is_mat(&bytes)))
    };
    let truth =
        item.file(MASK).map(|file| mask(file).map(|(mask, foreign)| (file.digest, mask, foreign))).transpose()?;
    let labels = if let Some(file) = item.file(LABEL_MASK) {
        match &truth {
            Some((digest, mask, _)) if *digest == file.digest => labels_of(mask),
            _ => labels_of(&mask(file)?.0),
        }
    } else if let Some(file) = item.file(ANNOTATION) {
        voc::parse_annotation(&text(ctx, file)?, classes, &file.path.display().to_string())?
    } else if item.facts.is_null() {
        Vec::new()
    } else {
        let facts = Facts::deserialize(&item.facts);
        facts.map_err(|error| StageError::data(format!("the labels of image `{id}` cannot be read: {error}")))?.labels
    };
    let made = truth.as_ref().and_then(|(_, mask, foreign)| foreign.then(|| codec::encode_mask(mask)));
    let mask = made.as_deref().map(Digest::of).or(truth.map(|(digest, ..)| digest));
    Ok((ImageEntry { id: id.clone(), image: file.digest, height, width, labels, mask }, made))
}

pub(super) fn text(ctx: &Ctx<'_>, file: &HashedFile) -> Result<String, StageError> {
    String::from_utf8(ctx.access.content(file.digest)?)
        .map_err(|_| StageError::data(format!("`{}` is not UTF-8 text", file.path.display())))
}
