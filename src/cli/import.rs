//! `orandflow import`: whole folders of other data sets become folders that every program reads. Knows no pipeline and no cache.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use rayon::prelude::*;

use super::Failure;
use super::common::deliver;
use crate::artifact::export::Folder;
use crate::data::sbd::{self, Sbd};
use crate::data::voc::{self, Layout};
use crate::data::{Problem, count};
use crate::image::codec;

/// The folder of masks that is written.
const MASKS: &str = "SegmentationClassAug";

/// Arguments of `import`.
#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    #[command(subcommand)]
    data: Data,
}

#[derive(Debug, Subcommand)]
enum Data {
    /// The mat files of SBD become `SegmentationClassAug` and the list `train_aug.txt` beside PASCAL VOC 2012
    ///
    /// `SegmentationClassAug/ID.png` is VOC's own mask where `SegmentationClass` has one, and SBD's elsewhere.
    /// `ImageSets/Segmentation/train_aug.txt` is all images of SBD and of VOC's `train`, without those of VOC's `val`; a list
    /// that is there already is left alone. `dataset.voc` reads SBD without this as well, with its parameter `sbd`.
    Sbd(SbdArgs),
}

#[derive(Debug, clap::Args)]
struct SbdArgs {
    /// The folder `benchmark_RELEASE/dataset` of SBD's archive
    folder: String,

    /// The folder of PASCAL VOC 2012, with `SegmentationClass` and `ImageSets`
    #[arg(long, value_name = "DIR")]
    voc: String,

    /// Where to write; without it the folder of PASCAL VOC
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

/// Runs `import`.
pub(crate) fn import(args: &ImportArgs) -> Result<ExitCode, Failure> {
    let Data::Sbd(args) = &args.data;
    sbd(args)
}

/// Decodes all masks before the first one is written, so that a damaged one leaves nothing half done.
fn sbd(args: &SbdArgs) -> Result<ExitCode, Failure> {
    let sbd = Sbd::open(&args.folder)?;
    let layout = Layout::open(&args.voc)?;
    let mut ids = sbd.train_aug(&layout)?;
    let listed = ids.clone();
    ids.extend(layout.ids("val", None)?);
    ids.sort_unstable();
    let paths = sbd.masks_beside(&layout, "SegmentationClass", &ids)?;
    let masks: Vec<Result<Vec<u8>, Failure>> = paths.par_iter().map(|path| mask(path)).collect();
    let masks = masks.into_iter().collect::<Result<Vec<_>, _>>()?;

    let to = args.to.clone().unwrap_or_else(|| PathBuf::from(&args.voc));
    let mut folder = Folder::new(&to);
    for (id, mask) in ids.iter().zip(&masks) {
        folder.write(&format!("{MASKS}/{id}.png"), mask).map_err(outside)?;
    }
    let list = format!("ImageSets/Segmentation/{}.txt", sbd::SPLIT);
    let shown = to.join(&list).display().to_string();
    let said = if to.join(&list).exists() {
        format!("{shown} is there and was left alone")
    } else {
        folder.write(&list, format!("{}\n", listed.join("\n")).as_bytes()).map_err(outside)?;
        format!("{} in {shown}", count(listed.len(), "image", "images"))
    };
    let text = format!("{} in {}\n{said}\n", count(masks.len(), "mask", "masks"), to.join(MASKS).display());
    deliver(&text, None)
}

/// Returns a mask as a palette PNG.
fn mask(path: &Path) -> Result<Vec<u8>, Failure> {
    let wrong = |error: String| Failure::from(Problem::new(format!("`{}` cannot be read: {error}", path.display())));
    let mask = sbd::decode_mask(&fs_err::read(path).map_err(|error| outside(error.to_string()))?).map_err(wrong)?;
    let most = voc::CLASSES.len();
    match mask.data().iter().find(|&&index| index != 255 && usize::from(index) >= most) {
        Some(index) => Err(wrong(format!("it has the index {index}, and the classes are 0 to {}", most - 1))),
        None => Ok(codec::encode_mask(&mask)),
    }
}

fn outside(message: String) -> Failure {
    Failure::Message { message, help: None, code: 1 }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Message { message: problem.message, help: problem.help, code: 2 }
    }
}
