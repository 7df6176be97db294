//! The Semantic Boundaries Dataset (Hariharan and others, ICCV 2011), whose masks fill up those of PASCAL VOC 2012 to the 10,582
//! images of `train_aug`: where its files lie, and a mask from a mat file. Opens no image.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::voc::{Layout, parse_split, read};
use super::{Problem, count, folder, listed};
use crate::foreign::mat;
use crate::image::{LabelMap, codec};

/// The split that SBD and PASCAL VOC make together.
pub const SPLIT: &str = "train_aug";

/// The folder of masks, `ID.mat`.
const MASKS: &str = "cls";
/// Where its masks are in a file.
const PLACE: [&str; 2] = ["GTcls", "Segmentation"];

/// The data set as it is downloaded.
#[derive(Clone, Debug)]
pub struct Sbd {
    root: PathBuf,
}

impl Sbd {
    /// Opens the folder `dataset` of the download, or the folder `benchmark_RELEASE` around it.
    ///
    /// # Errors
    /// If there is no folder `cls` in it.
    pub fn open(root: &str) -> Result<Self, Problem> {
        let root = PathBuf::from(root);
        for root in [root.clone(), root.join("dataset"), root.join("benchmark_RELEASE/dataset")] {
            if root.join(MASKS).is_dir() {
                return Ok(Self { root });
            }
        }
        Err(Problem::with_help(
            format!("the SBD data set is not there: `{}` has no folder `{MASKS}`", root.display()),
            "name the folder `benchmark_RELEASE/dataset` of its archive, in which `cls` has a mat file for each image",
        ))
    }

    /// Returns the file of each mask.
    ///
    /// # Errors
    /// If the folder cannot be listed or is empty.
    pub fn masks(&self) -> Result<BTreeMap<String, PathBuf>, Problem> {
        folder::by_id(&self.root.join(MASKS).display().to_string(), &["mat"], "mask")
    }

    /// Returns the ids of `train_aug`, sorted: all images of SBD and those of VOC's `train`, without those of VOC's `val`. Of the
    /// whole data sets that is 10,582 images, those of the reference programs' list (SPEC 11).
    ///
    /// # Errors
    /// If one of the four lists cannot be read.
    pub fn train_aug(&self, voc: &Layout) -> Result<Vec<String>, Problem> {
        let mut ids: BTreeSet<String> = voc.ids("train", None)?.into_iter().collect();
        for split in ["train.txt", "val.txt"] {
            let path = self.root.join(split);
            ids.extend(parse_split(&read(&path)?, &path)?);
        }
        for id in voc.ids("val", None)? {
            ids.remove(&id);
        }
        Ok(ids.into_iter().collect())
    }

    /// Returns the mask of each id: VOC's own in its folder `folder` where there is one, SBD's elsewhere. SBD's boundaries are
    /// coarser, and VOC's have a border of 255 around objects, so that the usual `SegmentationClassAug` has VOC's as well.
    ///
    /// # Errors
    /// If an image has neither.
    pub fn masks_beside(&self, voc: &Layout, folder: &str, ids: &[String]) -> Result<Vec<PathBuf>, Problem> {
        let own = voc.path(folder);
        let names: BTreeSet<String> = std::fs::read_dir(&own)
            .map_err(|error| Problem::new(format!("the folder of masks cannot be read: `{}`: {error}", own.display())))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        let others = self.masks()?;
        let find = |id: &String| {
            let name = format!("{id}.png");
            if names.contains(&name) { Some(own.join(name)) } else { others.get(id).cloned() }
        };
        let found: Vec<Option<PathBuf>> = ids.iter().map(find).collect();
        let missing: Vec<&str> =
            ids.iter().zip(&found).filter(|(_, path)| path.is_none()).map(|(id, _)| id.as_str()).collect();
        if missing.is_empty() {
            return Ok(found.into_iter().flatten().collect());
        }
        Err(Problem::with_help(
            format!(
                "{} of {} {} no mask, neither in `{}` nor in `{}`: {}",
                count(missing.len(), "image", "images"),
                ids.len(),
                if missing.len() == 1 { "has" } else { "have" },
                own.display(),
                self.root.join(MASKS).display(),
                listed(&missing)
            ),
            "take a split of images that have masks",
        ))
    }
}

/// Reads a mask: a PNG, or a mat file of SBD, whichever the bytes are.
///
/// # Errors
/// A sentence about the bytes.
pub fn decode_mask(bytes: &[u8]) -> Result<LabelMap, String> {
    if !mat::is_mat(bytes) {
        return codec::decode_mask(bytes);
    }
    let mat::Matrix { rows, columns, values } = mat::read(bytes, &PLACE).map_err(|error| error.to_string())?;
    if values.is_empty() {
        return Err(format!("this mask has no pixels: its size is {columns} x {rows}"));
    }
    Ok(LabelMap::new(rows, columns, values))
}
