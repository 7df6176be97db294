//! `dataset.coco`: an image set from COCO's photographs and its file of instances.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::dataset_voc::{IMAGE, MASK, add, collect_with};
use super::io;
use crate::artifact::images::ImageEntry;
use crate::data::coco::{self, Instances, Picture};
use crate::data::{Problem, folder};
use crate::digest::Digest;
use crate::image::codec;
use crate::kind::Kind;
use crate::stage::{Ctx, HashedItem, Inputs, NotInKey, Output, SourceItem, Sources, Spec, Stage, StageError, Work};

/// The word in `masks` for masks that are drawn.
const DRAWN: &str = "annotations";

/// What becomes of regions that are marked as a crowd of objects (`iscrowd`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Crowd {
    /// They are objects, as in the masks and lists that the field uses
    #[default]
    Object,
    /// They give no label, and pixels of theirs that no object covers are 255
    Ignore,
}

impl From<Crowd> for coco::Crowd {
    fn from(crowd: Crowd) -> Self {
        match crowd {
            Crowd::Object => Self::Object,
            Crowd::Ignore => Self::Ignore,
        }
    }
}

/// What becomes of images without any object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Unlabelled {
    /// They are in the set, without labels: 82,783 images of `train2014`
    #[default]
    Keep,
    /// They are left out: 82,081 images of `train2014`, ORANDNet's list
    Drop,
}

/// Parameters. What decides the result is the ids, the photographs' content and what the file says of each image; paths are not.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// Folder of the data set: it has a folder of photographs for each split, and `annotations`
    root: NotInKey<String>,
    /// Name of the split, such as `train2014`
    split: String,
    /// Folder in the root with the photographs; without it the split's name
    #[serde(default)]
    images: NotInKey<Option<String>>,
    /// File in the root with the instances; without it `annotations/instances_SPLIT.json`
    ///
    /// It is read piece by piece. Labels are the categories that an image has objects of; classes are all categories in the order
    /// of their numbers, 1 to 80 in masks.
    #[serde(default)]
    annotations: NotInKey<Option<String>>,
    /// Where ground truth comes from: `annotations`, which are drawn, or a folder in the root with PNG masks named like the images
    ///
    /// Drawn masks have the pixels of pycocotools, and where objects overlap the one of smaller `area` lies above (coco2voc). Without
    /// it the set has no ground truth.
    #[serde(default)]
    masks: NotInKey<Option<String>>,
    /// What becomes of regions that are marked as a crowd of objects (`iscrowd`)
    #[serde(default)]
    crowd: NotInKey<Crowd>,
    /// What becomes of images without any object
    #[serde(default)]
    unlabelled: NotInKey<Unlabelled>,
    /// Number of images, counted from the top of the file; without it all
    #[serde(default)]
    #[schemars(range(min = 1))]
    limit: NotInKey<Option<usize>>,
}

/// Facts of an item; the part of them that `dataset.voc` reads has the same name there.
#[derive(Serialize, Deserialize)]
struct Facts {
    labels: Vec<u8>,
    /// Height and width that the file says.
    size: (usize, usize),
    /// Digest of what is drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drawn: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crowd: Option<Crowd>,
}

impl Params {
    fn file(&self) -> PathBuf {
        let usual = format!("annotations/instances_{}.json", self.split);
        Path::new(&self.root.0).join(self.annotations.0.as_ref().unwrap_or(&usual))
    }

    fn instances(&self) -> Result<Arc<Instances>, Problem> {
        Instances::open(&self.file())
    }

    fn folder(&self) -> PathBuf {
        Path::new(&self.root.0).join(self.images.0.as_ref().unwrap_or(&self.split))
    }

    fn draws(&self) -> bool {
        self.masks.0.as_deref() == Some(DRAWN)
    }
}

/// The stage.
pub(super) struct DatasetCoco;

impl Stage for DatasetCoco {
    type Params = Params;

    const SPEC: Spec = Spec {
        name: "dataset.coco",
        about: "Images of a split of COCO 2014, or of any data set with a file of instances like its own",
        // 2: masks are deflated in another way.
        revision: 2,
        inputs: &[],
        output: Kind::ImageSet,
        work: Work::PerImage,
        seeded: false,
    };

    fn check(params: &Params) -> Result<(), StageError> {
        match params.limit.0 {
            Some(0) => Err(StageError::parameter("limit", "a set needs at least one image")),
            _ => Ok(()),
        }
    }

    fn index(params: &Params) -> Option<PathBuf> {
        Some(params.file())
    }

    fn sources(params: &Params, _inputs: &Inputs) -> Result<Sources, StageError> {
        let instances = params.instances()?;
        let crowd = params.crowd.0;
        let mut chosen: Vec<(&Picture, Vec<u8>)> =
            instances.pictures.iter().map(|picture| (picture, instances.labels(picture, crowd.into()))).collect();
        if params.unlabelled.0 == Unlabelled::Drop {
            chosen.retain(|(_, labels)| !labels.is_empty());
        }
        chosen.truncate(params.limit.0.unwrap_or(usize::MAX));
        let pictures: Vec<&Picture> = chosen.iter().map(|(picture, _)| *picture).collect();
        let draws = params.draws();
        let item = |(picture, labels): (&Picture, Vec<u8>)| {
            let drawn = draws.then(|| instances.digest(picture));
            let facts = Facts { labels, size: (picture.height, picture.width), drawn, crowd: draws.then_some(crowd) };
            let facts = serde_json::to_value(facts).expect("facts are JSON");
            SourceItem { id: picture.id.clone(), files: Vec::new(), facts }
        };
        let files = Instances::files(&params.folder(), &pictures)?;
        let mut items: Vec<SourceItem> = chosen.into_iter().map(item).collect();
        add(&mut items, IMAGE, files);
        if let Some(masks) = params.masks.0.as_ref().filter(|_| !draws) {
            let ids: Vec<String> = items.iter().map(|item| item.id.clone()).collect();
            let masks = Path::new(&params.root.0).join(masks);
            add(&mut items, MASK, folder::masks(&masks.display().to_string(), &ids)?);
        }
        let facts = serde_json::json!({ "classes": instances.classes });
        Ok(Sources { items, files: Vec::new(), facts })
    }

    fn meta(params: &Params, _inputs: &Inputs) -> Result<serde_json::Value, StageError> {
        let classes = &params.instances()?.classes;
        Ok(serde_json::json!({ "classes": classes, "split": params.split, "truth": params.masks.0.is_some() }))
    }

    fn run(params: &Params, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let instances = params.instances()?;
        collect_with(ctx, &instances.classes, |item, entry| drawn(&instances, item, entry))
    }
}

/// Draws the ground truth of an image, where it is to be drawn.
fn drawn(instances: &Instances, item: &HashedItem, entry: &ImageEntry) -> Result<Option<Vec<u8>>, StageError> {
    let id = &item.id;
    let facts = Facts::deserialize(&item.facts)
        .map_err(|error| StageError::data(format!("what is known of image `{id}` cannot be read: {error}")))?;
    let (height, width) = facts.size;
    if (entry.height, entry.width) != (height, width) {
        return Err(StageError::data_help(
            format!(
                "image `{id}` has {} x {} pixels where the annotations say {width} x {height}",
                entry.width, entry.height
            ),
            "the photographs and the file of instances must be of one data set",
        ));
    }
    let Some(digest) = facts.drawn else { return Ok(None) };
    let wrong = |what: String| StageError::data(format!("the mask of image `{id}` cannot be drawn: {what}"));
    let picture = instances.picture(id).filter(|picture| instances.digest(picture) == digest);
    let picture = picture.ok_or_else(|| wrong("the annotations have changed since the run began".to_owned()))?;
    let mask = instances.mask(picture, facts.crowd.unwrap_or_default().into()).map_err(wrong)?;
    io::check_mask(&mask, id, (height, width), instances.classes.len())?;
    Ok(Some(codec::encode_mask(&mask)))
}
