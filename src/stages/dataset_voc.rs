//! `dataset.voc`: an image set from a folder in PASCAL VOC layout. Decodes masks; of images it reads the header.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::io;
use crate::artifact::images::{self, ImageEntry};
use crate::data::labels;
use crate::data::voc::{self, Layout, labels_of};
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
    /// Where image-level labels come from: `annotations`, `masks`, or the path of a CSV or npy file
    ///
    /// `annotations`: the objects in `Annotations/ID.xml`. `masks`: the classes in the masks of `labels_from`. A CSV file has the
    /// columns `id` and `label`; an npy file is the `cls_labels.npy` of the reference programs. Without it: `annotations` where
    /// that folder exists, else `masks`.
    #[serde(default)]
    labels: NotInKey<Option<String>>,
    /// Folder in the root with the masks that labels are read from
    ///
    /// Without it the folder of `masks`, or `SegmentationClass`.
    #[serde(default)]
    labels_from: NotInKey<Option<String>>,
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
        revision: 1,
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
            && !matches!(labels.as_str(), "annotations" | "masks")
            && !labels.ends_with(".csv")
            && !labels.ends_with(".npy")
        {
            let message = format!(
                "`{labels}` is not a source of labels: it is `annotations`, `masks` or a path that ends in `.csv` or `.npy`"
            );
            return Err(StageError::parameter("labels", message));
        }
        Ok(())
    }

    fn sources(params: &Params, _inputs: &Inputs) -> Result<Sources, StageError> {
        let layout = Layout::open(&params.root.0)?;
        let classes = layout.classes()?;
        let ids = layout.ids(&params.split, params.limit.0)?;
        let mut items: Vec<SourceItem> = ids
            .iter()
            .map(|id| SourceItem { id: id.clone(), files: Vec::new(), facts: serde_json::Value::Null })
            .collect();
        add(&mut items, IMAGE, layout.images(&ids)?);
        if let Some(folder) = &params.masks.0 {
            add(&mut items, MASK, layout.masks(folder, &ids)?);
        }
        let fallback = if layout.path(voc::ANNOTATIONS).is_dir() { "annotations" } else { "masks" };
        match params.labels.0.as_deref().unwrap_or(fallback) {
            "annotations" => add(&mut items, ANNOTATION, layout.annotations(&ids)?),
            "masks" => {
                let folder = params.labels_from.0.as_ref().or(params.masks.0.as_ref());
                add(&mut items, LABEL_MASK, layout.masks(folder.map_or("SegmentationClass", String::as_str), &ids)?);
            }
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
        let mut entries = io::in_order(ctx.items.par_iter().map(|item| entry(ctx, item, &classes)))?;
        entries.sort_by(|a, b| a.id.cmp(&b.id));
        let ids = entries.iter().map(|entry| entry.id.clone()).collect();
        Ok(Output::shard(ids, images::encode(&entries)))
    }
}

pub(super) fn add(items: &mut [SourceItem], role: &str, paths: Vec<PathBuf>) {
    for (item, path) in items.iter_mut().zip(paths) {
        item.files.push(SourceFile { role: role.to_owned(), path });
    }
}

pub(super) fn entry(ctx: &Ctx<'_>, item: &HashedItem, classes: &[String]) -> Result<ImageEntry, StageError> {
    ctx.check_cancelled()?;
    let id = &item.id;
    let file = item.file(IMAGE).expect("each item has an image");
    let (height, width) = codec::image_size(&ctx.access.content(file.digest)?).map_err(|error| {
        StageError::data_help(
            format!("image `{id}` cannot be read: `{}`: {error}", file.path.display()),
            "replace the file by an undamaged JPEG or PNG, or take its id out of the split",
        )
    })?;
    let mask = |file: &HashedFile| -> Result<LabelMap, StageError> {
        let mask = codec::decode_mask(&ctx.access.content(file.digest)?).map_err(|error| {
            StageError::data_help(
                format!("the mask of image `{id}` cannot be read: `{}`: {error}", file.path.display()),
                "masks are palette or 8-bit grey PNG whose pixel values are class indices",
            )
        })?;
        io::check_mask(&mask, id, (height, width), classes.len())?;
        Ok(mask)
    };
    let truth = item.file(MASK).map(|file| mask(file).map(|mask| (file.digest, mask))).transpose()?;
    let labels = if let Some(file) = item.file(LABEL_MASK) {
        match &truth {
            Some((digest, mask)) if *digest == file.digest => labels_of(mask),
            _ => labels_of(&mask(file)?),
        }
    } else if let Some(file) = item.file(ANNOTATION) {
        voc::parse_annotation(&text(ctx, file)?, classes, &file.path.display().to_string())?
    } else {
        let facts = Facts::deserialize(&item.facts);
        facts.map_err(|error| StageError::data(format!("the labels of image `{id}` cannot be read: {error}")))?.labels
    };
    let mask = truth.map(|(digest, _)| digest);
    Ok(ImageEntry { id: id.clone(), image: file.digest, height, width, labels, mask })
}

pub(super) fn text(ctx: &Ctx<'_>, file: &HashedFile) -> Result<String, StageError> {
    String::from_utf8(ctx.access.content(file.digest)?)
        .map_err(|_| StageError::data(format!("`{}` is not UTF-8 text", file.path.display())))
}
