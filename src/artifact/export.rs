//! Artifacts as files that other programs read. Knows how artifacts look; where their bytes come from is the caller's business.
//!
//! | artifact | files |
//! |---|---|
//! | image set | VOC layout: `JPEGImages`, `SegmentationClass`, `ImageSets/Segmentation/SPLIT.txt`, `classes.txt`, `labels.csv` |
//! | mask set, seed set | `ID.png`, an 8-bit palette PNG with the VOC colours, and `classes.txt`; or `results.tar.gz` for the VOC server |
//! | CAM set, score set | `ID.npy` (f32 `[K, H, W]`) and `ID.classes.npy` (u8 `[K]`), or `ID.safetensors`, or `ID.npy` with IRN's or MCTformer's dict, and `classes.txt` |
//! | weights | `weights.safetensors` (with its description inside) or `weights.pth`, and `weights.json` (architecture, its parameters, class list) |
//! | metrics | `metrics.json` |
//! | files | themselves |

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};

use super::images::{self, ClassList, ImageEntry};
use super::maps::{self, ImageMaps};
use super::{forms, masks, metrics, weights};
use crate::digest::Digest;
use crate::foreign::write::{Library, npy};
use crate::image::{Maps, codec};
use crate::kind::Kind;
use crate::store::manifest::{Entry, Manifest};

/// How an artifact is written, where it has several forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Maps as plain npy files, version 1.0.
    Npy,
    /// Maps as one safetensors file per image, weights as one file.
    Safetensors,
    /// Maps as IRN's dicts, of NumPy's arrays alone.
    Irn,
    /// Maps as IRN's dicts, with PyTorch's tensors where IRN has them.
    IrnTorch,
    /// Maps as MCTformer's dicts.
    Mctformer,
    /// Weights as PyTorch's file.
    Pth,
    /// Masks as 8-bit palette PNG.
    Png,
    /// Masks as the archive that the PASCAL VOC server takes.
    VocTest,
}

impl Format {
    /// Its word on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Npy => "npy",
            Self::Safetensors => "safetensors",
            Self::Irn => "irn",
            Self::IrnTorch => "irn-torch",
            Self::Mctformer => "mctformer",
            Self::Pth => "pth",
            Self::Png => "png",
            Self::VocTest => "voc-test",
        }
    }

    /// Returns the forms of a kind of artifact, the usual one first; none if it has one only.
    pub fn of(kind: Kind) -> &'static [Self] {
        match kind {
            Kind::CamSet | Kind::ScoreSet => {
                &[Self::Npy, Self::Safetensors, Self::Irn, Self::IrnTorch, Self::Mctformer]
            }
            Kind::Weights => &[Self::Safetensors, Self::Pth],
            Kind::MaskSet | Kind::SeedSet => &[Self::Png, Self::VocTest],
            Kind::ImageSet | Kind::Metrics | Kind::Files => &[],
        }
    }
}

/// Where the bytes of an artifact come from.
pub trait Source {
    /// Reads a part of the artifact.
    fn entry(&self, entry: &Entry) -> Result<Vec<u8>, String>;

    /// Reads content by digest: an image or a mask of the data set.
    fn content(&self, digest: Digest) -> Result<Vec<u8>, String>;
}

/// Writes an artifact into a folder, which is made if it is not there, and returns the number of files. `photographs` are the
/// image sets whose sizes masks are compared with, where the form asks for that.
///
/// Each file is written beside its place and renamed, so that no reader sees half of one; files of other names are left alone.
///
/// # Errors
/// One sentence: the format does not fit the artifact, a part cannot be read, a file cannot be written.
pub fn export(
    manifest: &Manifest,
    source: &dyn Source,
    to: &Path,
    format: Option<Format>,
    photographs: &[&Manifest],
) -> Result<usize, String> {
    let forms = Format::of(manifest.kind);
    if let Some(format) = format.filter(|format| !forms.contains(format)) {
        let article = manifest.kind.article();
        if forms.is_empty() {
            return Err(format!("{article} has one form only: leave `--format` out"));
        }
        let words: Vec<String> = forms.iter().map(|form| format!("`{}`", form.word())).collect();
        return Err(format!("{article} has no form `{}`; its forms are {}", format.word(), words.join(", ")));
    }
    let format = format.or(forms.first().copied());
    let mut folder = Folder::new(to);
    match manifest.kind {
        Kind::ImageSet => image_set(manifest, source, &mut folder)?,
        Kind::MaskSet | Kind::SeedSet if format == Some(Format::VocTest) => {
            let bytes = voc_test(manifest, source, photographs)?;
            folder.write("results.tar.gz", &bytes)?;
        }
        Kind::MaskSet | Kind::SeedSet => {
            class_names(manifest, &mut folder)?;
            for (_, entry) in manifest.shards() {
                for (id, mask) in masks::decode(&source.entry(entry)?)? {
                    folder.write(&format!("{}.png", plain(&id)?), &codec::encode_mask(&mask))?;
                }
            }
        }
        Kind::CamSet | Kind::ScoreSet => {
            class_names(manifest, &mut folder)?;
            for (_, entry) in manifest.shards() {
                for image in maps::decode(&source.entry(entry)?)? {
                    image_maps(&image, format.unwrap_or(Format::Npy), &mut folder)?;
                }
            }
        }
        Kind::Weights => {
            let bytes = source.entry(part(manifest, weights::PART)?)?;
            if format == Some(Format::Pth) {
                let arch = manifest.meta.get("arch").and_then(|arch| arch.as_str()).unwrap_or_default();
                folder.write("weights.pth", &forms::pth(arch, &weights::decode(&bytes)?)?)?;
            } else {
                folder.write(weights::PART, &weights::describe(&bytes, &manifest.meta)?)?;
            }
            let description = serde_json::to_string_pretty(&manifest.meta).expect("metadata is JSON");
            folder.write("weights.json", format!("{description}\n").as_bytes())?;
        }
        Kind::Metrics => folder.write(metrics::PART, &source.entry(part(manifest, metrics::PART)?)?)?,
        Kind::Files => {
            for (name, entry) in &manifest.entries {
                folder.write(name, &source.entry(entry)?)?;
            }
        }
    }
    Ok(folder.files)
}

/// Packs masks for the PASCAL VOC server, after a look at every size and value.
fn voc_test(manifest: &Manifest, source: &dyn Source, photographs: &[&Manifest]) -> Result<Vec<u8>, String> {
    let mut sizes = BTreeMap::new();
    for (_, entry) in photographs.iter().flat_map(|manifest| manifest.shards()) {
        let images = images::decode(&source.entry(entry)?)?;
        sizes.extend(images.into_iter().map(|image| (image.id, (image.height, image.width))));
    }
    let mut all = Vec::new();
    for (_, entry) in manifest.shards() {
        all.extend(masks::decode(&source.entry(entry)?)?);
    }
    for (id, _) in &all {
        plain(id)?;
    }
    let list: ClassList = serde_json::from_value(manifest.meta.clone())
        .map_err(|_| format!("{} has no class list", manifest.kind.article()))?;
    forms::voc_test(&all, &sizes, list.classes.len())
}

fn part<'manifest>(manifest: &'manifest Manifest, name: &str) -> Result<&'manifest Entry, String> {
    manifest.entries.get(name).ok_or_else(|| format!("{} has no part `{name}`", manifest.kind.article()))
}

/// Writes an image set in the layout that `dataset.voc` reads.
fn image_set(manifest: &Manifest, source: &dyn Source, folder: &mut Folder<'_>) -> Result<(), String> {
    let classes = class_names(manifest, folder)?;
    let mut found: Vec<ImageEntry> = Vec::new();
    for (_, entry) in manifest.shards() {
        found.extend(images::decode(&source.entry(entry)?)?);
    }
    found.sort_by(|a, b| a.id.cmp(&b.id));
    let (mut list, mut labels) = (String::new(), csv::Writer::from_writer(Vec::new()));
    let mut row = |id: &str, label: &str| labels.write_record([id, label]).map_err(|error| error.to_string());
    row("id", "label")?;
    for image in &found {
        let id = plain(&image.id)?;
        let bytes = source.content(image.image)?;
        let ending = if bytes.starts_with(b"\x89PNG") { "png" } else { "jpg" };
        folder.write(&format!("JPEGImages/{id}.{ending}"), &bytes)?;
        if let Some(mask) = image.mask {
            folder.write(&format!("SegmentationClass/{id}.png"), &source.content(mask)?)?;
        }
        writeln!(list, "{id}").expect("a string takes text");
        if image.labels.is_empty() {
            row(id, "")?;
        }
        for &label in &image.labels {
            let name = classes.get(usize::from(label) + 1);
            row(id, name.ok_or_else(|| format!("image `{id}` has class {label}, which has no name"))?)?;
        }
    }
    let split = manifest.meta.get("split").and_then(|split| split.as_str()).unwrap_or("all");
    folder.write(&format!("ImageSets/Segmentation/{}.txt", plain(split)?), list.as_bytes())?;
    folder.write("labels.csv", &labels.into_inner().map_err(|error| error.to_string())?)
}

fn class_names(manifest: &Manifest, folder: &mut Folder<'_>) -> Result<Vec<String>, String> {
    let list: ClassList = serde_json::from_value(manifest.meta.clone())
        .map_err(|_| format!("{} has no class list", manifest.kind.article()))?;
    folder.write("classes.txt", (list.classes.join("\n") + "\n").as_bytes())?;
    Ok(list.classes)
}

fn image_maps(image: &ImageMaps, format: Format, folder: &mut Folder<'_>) -> Result<(), String> {
    let id = plain(&image.id)?;
    let shape = |maps: &Maps| [maps.channels(), maps.height(), maps.width()];
    let bytes = |maps: &Maps| maps.data().iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    match format {
        Format::Irn => folder.write(&format!("{id}.npy"), &forms::irn(image, Library::Numpy)),
        Format::IrnTorch => folder.write(&format!("{id}.npy"), &forms::irn(image, Library::Torch)),
        // Upstream writes no file for an image without classes.
        Format::Mctformer if image.classes.is_empty() => Ok(()),
        Format::Mctformer => folder.write(&format!("{id}.npy"), &forms::mctformer(image)),
        Format::Safetensors => {
            let mut tensors = vec![
                ("classes", Dtype::U8, vec![image.classes.len()], image.classes.clone()),
                ("high_res", Dtype::F32, shape(&image.high_res).to_vec(), bytes(&image.high_res)),
            ];
            if let Some(cam) = &image.cam {
                tensors.push(("cam", Dtype::F32, shape(cam).to_vec(), bytes(cam)));
            }
            let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
                (*name, TensorView::new(*dtype, shape.clone(), bytes).expect("the bytes fit the shape"))
            });
            let file = safetensors::serialize(views, None).expect("the tensors can be laid out");
            folder.write(&format!("{id}.safetensors"), &file)
        }
        _ => {
            folder.write(&format!("{id}.npy"), &npy("<f4", &shape(&image.high_res), &bytes(&image.high_res)))?;
            folder.write(&format!("{id}.classes.npy"), &npy("|u1", &[image.classes.len()], &image.classes))
        }
    }
}

/// Refuses a name that would lead out of the folder.
fn plain(name: &str) -> Result<&str, String> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(part)), None) if part == name => Ok(name),
        _ => Err(format!("`{name}` cannot be the name of a file")),
    }
}

/// A folder that files are written to.
#[derive(Debug)]
pub struct Folder<'path> {
    root: &'path Path,
    files: usize,
}

impl<'path> Folder<'path> {
    /// Names the folder; it is made with the first file.
    pub fn new(root: &'path Path) -> Self {
        Self { root, files: 0 }
    }

    /// Writes a file beside its place and renames it; folders on the way are made.
    ///
    /// # Errors
    /// If the name leads out of the folder, or the file cannot be written.
    pub fn write(&mut self, relative: &str, bytes: &[u8]) -> Result<(), String> {
        let inside = |part: Component<'_>| matches!(part, Component::Normal(_));
        if relative.is_empty() || !Path::new(relative).components().all(inside) {
            return Err(format!("`{relative}` leads out of the folder"));
        }
        let path = self.root.join(relative);
        let beside = beside(&path);
        let parent = path.parent().expect("a file lies in a folder");
        let written = fs_err::create_dir_all(parent)
            .and_then(|()| fs_err::write(&beside, bytes))
            .and_then(|()| fs_err::rename(&beside, &path));
        written.map_err(|error| {
            // What is left of a failed attempt is of no use; that it cannot be removed either changes nothing.
            let _ = std::fs::remove_file(&beside);
            error.to_string()
        })?;
        self.files += 1;
        Ok(())
    }
}

fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.part", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::LabelMap;

    struct Shelf(BTreeMap<Digest, Vec<u8>>);

    impl Source for Shelf {
        fn entry(&self, entry: &Entry) -> Result<Vec<u8>, String> {
            self.content(entry.digest)
        }

        fn content(&self, digest: Digest) -> Result<Vec<u8>, String> {
            self.0.get(&digest).cloned().ok_or_else(|| format!("{digest} is not there"))
        }
    }

    fn set(kind: Kind, parts: &[(&str, Vec<u8>)]) -> (Manifest, Shelf) {
        let entry = |bytes: &[u8]| Entry {
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            ids: Vec::new(),
            content: Vec::new(),
        };
        let entries = parts.iter().map(|(name, bytes)| ((*name).to_owned(), entry(bytes))).collect();
        let meta = serde_json::json!({ "classes": ["background", "cat"] });
        let shelf = parts.iter().map(|(_, bytes)| (Digest::of(bytes), bytes.clone())).collect();
        (Manifest { kind, buckets: Some(1), meta, entries }, Shelf(shelf))
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).expect("the folder is there");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("listed").file_name().into_string().expect("UTF-8")).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn npy_is_laid_out_as_numpy_does_it() {
        let bytes = npy("<f4", &[2, 1], &[0; 8]);
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1), }";
        assert_eq!(&bytes[..10], b"\x93NUMPY\x01\x00\x76\x00");
        assert_eq!(bytes.len(), 128 + 8);
        assert_eq!(std::str::from_utf8(&bytes[10..128]).expect("text"), format!("{header:<117}\n"));
        assert!(npy("|u1", &[3], &[1, 2, 3]).windows(5).any(|part| part == b"(3,),"));
        assert!(npy("|u1", &[0, 4, 5], &[]).windows(9).any(|part| part == b"(0, 4, 5)"));
    }

    #[test]
    fn masks_become_palette_files_and_nothing_else_is_touched() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        std::fs::write(folder.path().join("mine.txt"), "mine").expect("writable");
        let mask = LabelMap::new(1, 2, vec![0, 1]);
        let (manifest, shelf) = set(Kind::MaskSet, &[("shard/0000", masks::encode(&[("a".into(), mask.clone())]))]);
        assert_eq!(export(&manifest, &shelf, folder.path(), None, &[]), Ok(2));
        assert_eq!(names(folder.path()), ["a.png", "classes.txt", "mine.txt"]);
        let written = std::fs::read(folder.path().join("a.png")).expect("readable");
        assert_eq!(codec::decode_mask(&written), Ok(mask));
        let refused =
            export(&manifest, &shelf, folder.path(), Some(Format::Npy), &[]).expect_err("masks have one form");
        assert_eq!(refused, "a mask set has no form `npy`; its forms are `png`, `voc-test`");
    }

    #[test]
    fn weights_keep_their_tensors_and_get_a_description() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let tensors = weights::NamedTensors::from([(
            "conv1.weight".to_owned(),
            weights::Values { shape: vec![1, 2], data: vec![0.5, -1.0] },
        )]);
        let (manifest, shelf) = set(Kind::Weights, &[(weights::PART, weights::encode(&tensors))]);
        assert_eq!(export(&manifest, &shelf, folder.path(), Some(Format::Safetensors), &[]), Ok(2));
        let written = std::fs::read(folder.path().join(weights::PART)).expect("readable");
        assert_eq!(weights::decode(&written), Ok(tensors));
        let description = std::fs::read(folder.path().join("weights.json")).expect("readable");
        let description: serde_json::Value = serde_json::from_slice(&description).expect("JSON");
        assert_eq!(description, manifest.meta);
        assert!(export(&manifest, &shelf, folder.path(), Some(Format::Npy), &[]).is_err());
    }

    #[test]
    fn a_part_that_is_gone_is_an_error_and_leaves_no_half_file() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let (manifest, _) = set(Kind::Files, &[("a.txt", vec![1])]);
        assert!(export(&manifest, &Shelf(BTreeMap::new()), folder.path(), None, &[]).is_err());
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn no_name_leads_out_of_the_folder() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let inside = folder.path().join("inside");
        for name in ["../a", "/a", "a/../../b"] {
            let (manifest, shelf) = set(Kind::Files, &[(name, vec![1])]);
            let error = export(&manifest, &shelf, &inside, None, &[]).expect_err("refused");
            assert_eq!(error, format!("`{name}` leads out of the folder"));
        }
        let mask = LabelMap::new(1, 1, vec![0]);
        let (manifest, shelf) = set(Kind::MaskSet, &[("shard/0000", masks::encode(&[("../a".into(), mask)]))]);
        assert!(export(&manifest, &shelf, &inside, None, &[]).is_err());
        assert_eq!(names(folder.path()), ["inside"]);
    }
}
