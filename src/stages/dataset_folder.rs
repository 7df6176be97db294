//! `dataset.folder`: an image set from a plain folder of images and a CSV file of labels.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::dataset_voc::{CLASSES, Facts, IMAGE, MASK, add, collect, text};
use crate::data::{Problem, count, folder, labels, listed, voc};
use crate::kind::Kind;
use crate::stage::{Ctx, Inputs, NotInKey, Output, SourceFile, SourceItem, Sources, Spec, Stage, StageError, Work};

/// Parameters. What decides the result is the ids and the files' content, which are in the key; paths are not.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// Folder of the images, JPEG or PNG; a file's name without its ending is its id
    images: NotInKey<String>,
    /// CSV file with the columns `id` and `label`, one row per image and class
    ///
    /// A row with an empty label says that the image has no class. Every image has a row, and every row an image.
    labels: NotInKey<String>,
    /// File with the names of the classes, one per line, the background first
    classes: NotInKey<String>,
    /// Folder with ground-truth masks of the same names, palette or 8-bit grey PNG, 255 = does not count
    ///
    /// Without it the set has no ground truth.
    #[serde(default)]
    masks: NotInKey<Option<String>>,
}

/// The stage.
pub(super) struct DatasetFolder;

impl Stage for DatasetFolder {
    type Params = Params;

    const SPEC: Spec = Spec {
        name: "dataset.folder",
        about: "Images of a plain folder, with image-level labels from a CSV file",
        revision: 1,
        inputs: &[],
        output: Kind::ImageSet,
        work: Work::PerImage,
        seeded: false,
    };

    fn sources(params: &Params, _inputs: &Inputs) -> Result<Sources, StageError> {
        let classes = classes(params)?;
        let found = folder::images(&params.images.0)?;
        let ids: Vec<String> = found.keys().cloned().collect();
        let path = Path::new(&params.labels.0);
        let rows = labels::csv_rows(path, &classes)?;
        let without: Vec<&str> = rows.keys().filter(|id| !found.contains_key(*id)).map(String::as_str).collect();
        if !without.is_empty() {
            return Err(Problem::with_help(
                format!(
                    "`{}` has rows for {} missing in `{}`: {}",
                    path.display(),
                    count(without.len(), "image", "images"),
                    params.images.0,
                    listed(&without)
                ),
                "an id is the file's name without its ending",
            )
            .into());
        }
        let labels = labels::read(path, &ids, &classes)?;
        let item = |(id, labels): (&String, Vec<u8>)| SourceItem {
            id: id.clone(),
            files: Vec::new(),
            facts: serde_json::to_value(Facts { labels }).expect("labels are JSON"),
        };
        let mut items: Vec<SourceItem> = ids.iter().zip(labels).map(item).collect();
        add(&mut items, IMAGE, found.into_values().collect());
        if let Some(masks) = &params.masks.0 {
            add(&mut items, MASK, folder::masks(masks, &ids)?);
        }
        let files = vec![SourceFile { role: CLASSES.to_owned(), path: Path::new(&params.classes.0).to_owned() }];
        Ok(Sources { items, files, facts: serde_json::Value::Null })
    }

    fn meta(params: &Params, _inputs: &Inputs) -> Result<serde_json::Value, StageError> {
        Ok(serde_json::json!({ "classes": classes(params)?, "truth": params.masks.0.is_some() }))
    }

    fn run(_params: &Params, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let file = ctx.files.iter().find(|file| file.role == CLASSES).expect("the stage has a file of classes");
        let classes = voc::parse_classes(&text(ctx, file)?, &file.path.display().to_string())?;
        collect(ctx, &classes)
    }
}

fn classes(params: &Params) -> Result<Vec<String>, Problem> {
    let text = fs_err::read_to_string(&params.classes.0).map_err(|error| Problem::new(error.to_string()))?;
    voc::parse_classes(&text, &params.classes.0)
}
