//! `cam.import`: class activation maps that other programs have made come in, one file per image.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::io;
use crate::artifact::images::{ClassList, ImageEntry};
use crate::artifact::import::{self, Layout, Outside, Target};
use crate::artifact::maps::{self, ImageMaps, PackedMaps, stride4};
use crate::data::{count, listed};
use crate::image::Maps;
use crate::kind::Kind;
use crate::stage::{
    Ctx, HashedItem, Inputs, NotInKey, Output, Port, SourceFile, SourceItem, Sources, Spec, Stage, StageError, Work,
};

/// Whose files they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Format {
    /// IRN's `ID.npy`: a dict of `keys`, `cam` and `high_res`, tensors of PyTorch among them
    Irn,
    /// AMN's `ID.npy`: the same with the background as first map, which is dropped
    Amn,
    /// MCTformer's `ID.npy`: a dict of a map per class
    Mctformer,
    /// ORANDNet's `ID_1.npy`: a dict of `keys`, `cam` and `high_res`
    Orandnet,
    /// An array of classes x height x width per image; the classes are those in `ID.classes.npy` if it is there, else those
    /// that the image is labelled with, in ascending order
    Npy,
    /// Tensors `classes`, `high_res` and, where there is one, `cam`, as `orandflow export --format safetensors` writes them
    Safetensors,
}

impl Format {
    fn layout(self) -> Layout {
        match self {
            Self::Irn | Self::Orandnet => Layout::Irn,
            Self::Amn => Layout::Amn,
            Self::Mctformer => Layout::Mctformer,
            Self::Npy => Layout::Plain,
            Self::Safetensors => Layout::Safetensors,
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::Orandnet => "{id}_1.npy",
            Self::Safetensors => "{id}.safetensors",
            _ => "{id}.npy",
        }
    }
}

/// What becomes of values outside of 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum OutsideValues {
    /// They are an error that names the image; up to 1/4096 beyond counts as rounding and is clipped
    #[default]
    Refuse,
    /// They become 0 or 1
    Clip,
    /// They stay, as in the OR maps of the released program, which go up to 1.15
    Keep,
}

/// What becomes of an image whose file has other classes than its labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum OtherClasses {
    /// It is an error that names the image
    #[default]
    Refuse,
    /// The file's classes are taken
    Take,
}

/// Parameters. Paths are no part of the key; the content of every file is.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// Whose files they are
    format: Format,
    /// Folder with one file per image
    path: NotInKey<String>,
    /// Name of an image's file, `{id}` being its id; without it the one that `format` has
    #[serde(default)]
    file: NotInKey<Option<String>>,
    /// What ids begin with and names of files do not, such as `COCO_train2014_`
    #[serde(default)]
    strip_prefix: NotInKey<String>,
    /// What becomes of values outside of 0 to 1; values that are no numbers are always refused
    #[serde(default)]
    outside: OutsideValues,
    /// What becomes of an image whose file has other classes than its labels
    #[serde(default)]
    other_classes: OtherClasses,
    /// Whether an image without labels may lack its file, as MCTformer writes none; it gets no maps then
    #[serde(default)]
    allow_missing: bool,
}

/// Roles of an item's files.
const MAPS: &str = "maps";
const CLASSES: &str = "classes";

impl Params {
    /// Returns the name of an image's file, `{id}` being its id.
    fn file(&self) -> &str {
        self.file.0.as_deref().unwrap_or(self.format.file())
    }

    /// Returns the path of an image's file.
    fn path_of(&self, id: &str) -> PathBuf {
        let id = id.strip_prefix(self.strip_prefix.0.as_str()).unwrap_or(id);
        PathBuf::from(&self.path.0).join(self.file().replace("{id}", id))
    }

    /// Returns the folder that has the files of all images; `None` where each may have a folder of its own.
    fn folder(&self) -> Option<PathBuf> {
        let folder = Path::new(self.file()).parent()?;
        (!folder.to_str()?.contains("{id}")).then(|| PathBuf::from(&self.path.0).join(folder))
    }
}

/// Returns the names of the files in a folder; `None` if it cannot be listed.
fn files_in(folder: &Path) -> Option<HashSet<OsString>> {
    let is_file = |entry: &std::fs::DirEntry| match entry.file_type() {
        Ok(kind) if !kind.is_symlink() => kind.is_file(),
        _ => entry.path().is_file(),
    };
    let mut names = HashSet::new();
    for entry in std::fs::read_dir(folder).ok()? {
        let entry = entry.ok()?;
        if is_file(&entry) {
            names.insert(entry.file_name());
        }
    }
    Some(names)
}

/// The stage.
pub(super) struct Import;

impl Stage for Import {
    type Params = Params;

    const SPEC: Spec = Spec {
        name: "cam.import",
        about: "Class activation maps that other programs have made, one file per image",
        revision: 1,
        inputs: &[Port {
            name: "images",
            takes: &[Kind::ImageSet],
            optional: false,
            about: "the images that the maps belong to, with labels",
        }],
        output: Kind::CamSet,
        work: Work::PerImage,
        seeded: false,
    };

    fn check(params: &Params) -> Result<(), StageError> {
        match &params.file.0 {
            Some(file) if !file.contains("{id}") => Err(StageError::parameter(
                "file",
                format!("`{file}` is the same for every image: write `{{id}}` where the image's id is due"),
            )),
            _ => Ok(()),
        }
    }

    fn sources(params: &Params, inputs: &Inputs) -> Result<Sources, StageError> {
        let folder = PathBuf::from(&params.path.0);
        if !folder.is_dir() {
            return Err(StageError::data_help(
                format!("the maps are not there: `{}` is not a folder", folder.display()),
                "put them there, or say where they lie: set `path`, or the variable that it uses, as in --set vars.amn=PATH",
            ));
        }
        let ids = inputs.get("images").ids();
        // A look at each file would be as many questions to the file system as there are images, in every job of a cluster.
        let listing = params.folder().and_then(|folder| Some((files_in(&folder)?, folder)));
        let is_file = |path: &Path| match &listing {
            Some((names, folder)) if path.parent() == Some(folder.as_path()) => {
                path.file_name().is_some_and(|name| names.contains(name))
            }
            _ => path.is_file(),
        };
        let (mut items, mut missing) = (Vec::with_capacity(ids.len()), Vec::new());
        for id in ids {
            let path = params.path_of(id);
            if !is_file(&path) {
                missing.push(id);
                continue;
            }
            let mut files = Vec::new();
            let classes = path.with_extension("classes.npy");
            if params.format == Format::Npy && is_file(&classes) {
                files.push(SourceFile { role: CLASSES.to_owned(), path: classes });
            }
            files.push(SourceFile { role: MAPS.to_owned(), path });
            items.push(SourceItem { id: id.to_owned(), files, facts: Value::Null });
        }
        match missing.first() {
            Some(first) if !params.allow_missing => Err(StageError::data_help(
                format!(
                    "the maps of {} of {} are missing in `{}`: {}",
                    count(missing.len(), "image", "images"),
                    missing.len() + items.len(),
                    folder.display(),
                    listed(&missing)
                ),
                format!(
                    "the file of the first would be `{}`; names are set by `file` and `strip_prefix`, and where images \
                     without labels have no file, set `allow_missing = true`",
                    params.path_of(first).display()
                ),
            )),
            _ => Ok(Sources { items, ..Sources::default() }),
        }
    }

    fn meta(_params: &Params, inputs: &Inputs) -> Result<Value, StageError> {
        let classes = io::classes(inputs.get("images"), "images")?;
        Ok(serde_json::to_value(ClassList { classes }).expect("a class list is JSON"))
    }

    fn run(params: &Params, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let classes = io::classes(ctx.inputs.get("images"), "images")?.len() - 1;
        let images = io::images(ctx, "images")?;
        let made = io::in_order(images.par_iter().map(|entry| {
            ctx.check_cancelled()?;
            match ctx.items.iter().find(|item| item.id == entry.id) {
                Some(item) => read(params, ctx, entry, item, classes),
                None => none(params, entry),
            }
            .map(|maps| PackedMaps::new(&maps))
        }))?;
        let ids = made.iter().map(|image| image.id().to_owned()).collect();
        Ok(Output::shard(ids, maps::encode(&made)))
    }
}

/// Reads the maps of an image.
fn read(
    params: &Params,
    ctx: &Ctx<'_>,
    entry: &ImageEntry,
    item: &HashedItem,
    classes: usize,
) -> Result<ImageMaps, StageError> {
    let file = item.file(MAPS).expect("each item has a file of maps");
    let bytes = ctx.access.content(file.digest)?;
    let class_file = item.file(CLASSES).map(|file| ctx.access.content(file.digest)).transpose()?;
    let target = Target { id: &entry.id, size: (entry.height, entry.width), labels: &entry.labels, classes };
    let outside = match params.outside {
        OutsideValues::Refuse => Outside::Refuse,
        OutsideValues::Clip => Outside::Clip,
        OutsideValues::Keep => Outside::Keep,
    };
    let maps =
        import::read(params.format.layout(), &bytes, class_file.as_deref(), &target, outside).map_err(|error| {
            StageError::data_help(
                format!("the maps of image `{}` in `{}`: {error}", entry.id, file.path.display()),
                help(&error),
            )
        })?;
    if maps.classes != entry.labels && params.other_classes == OtherClasses::Refuse {
        return Err(StageError::data_help(
            format!(
                "the maps of image `{}` in `{}` are of classes {:?} and the image is labelled with {:?}",
                entry.id,
                file.path.display(),
                maps.classes,
                entry.labels
            ),
            "use the labels that the maps were made with, or set `other_classes = \"take\"`",
        ));
    }
    Ok(maps)
}

/// What to try, by what went wrong.
fn help(error: &str) -> &'static str {
    if error.contains("maps lie in 0 to 1") {
        "set `outside = \"clip\"`, or `outside = \"keep\"` for maps that are meant to go beyond"
    } else if error.contains("pixels where") {
        "maps have the size of their image: make them from the same files"
    } else if error.contains("where the type is") || error.contains("which is not read") {
        "save the maps as little-endian float16, float32 or float64 from 0 to 1; maps of 8 bits are divided by 255 for that"
    } else {
        "see that `format` is that of the program which made the files, and that they are whole"
    }
}

/// Returns the maps of an image that has no file.
fn none(params: &Params, entry: &ImageEntry) -> Result<ImageMaps, StageError> {
    if !entry.labels.is_empty() {
        return Err(StageError::data_help(
            format!(
                "the maps of image `{}` are missing, and it is labelled with {:?}: `{}` is no file",
                entry.id,
                entry.labels,
                params.path_of(&entry.id).display()
            ),
            "`allow_missing` is for images without labels",
        ));
    }
    let cam = Maps::zeros(0, stride4(entry.height), stride4(entry.width));
    let high_res = Maps::zeros(0, entry.height, entry.width);
    Ok(ImageMaps { id: entry.id.clone(), classes: Vec::new(), cam: Some(cam), high_res })
}
