//! Data sets in PASCAL VOC layout: which images a split has, where their files lie, and what their labels are.
//! Reads lists and annotations; opens no image.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{Problem, count, listed};
use crate::image::LabelMap;

/// The classes of PASCAL VOC in order of their mask index (SPEC 11), background first.
pub const CLASSES: [&str; 21] = [
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
];

/// How many images the splits of PASCAL VOC 2012 have; `train_aug` is that of SBD (SPEC 11).
pub const SPLIT_SIZES: [(&str, usize); 4] = [("train", 1464), ("train_aug", 10_582), ("val", 1449), ("test", 1456)];

/// The folder of images.
const IMAGES: &str = "JPEGImages";
/// The folder of split files.
const SPLITS: &str = "ImageSets/Segmentation";
/// The folder of XML annotations.
pub const ANNOTATIONS: &str = "Annotations";
/// The file with the names of the classes.
const CLASS_FILE: &str = "classes.txt";
/// What an image's file name may end with, in the order in which they are looked for.
pub(super) const IMAGE_ENDINGS: [&str; 4] = ["jpg", "jpeg", "png", "JPG"];

/// A data set in VOC layout.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Opens a data set; an error if the folder is not there.
    pub fn open(root: &str) -> Result<Self, Problem> {
        let root = PathBuf::from(root);
        if !root.is_dir() {
            return Err(Problem::with_help(
                format!("the data set is not there: `{}` is not a folder", root.display()),
                "put it there, or say where it lies: set `root`, or the variable that it uses, as in --set vars.voc=PATH",
            ));
        }
        Ok(Self { root })
    }

    /// Returns the path of a file or folder in the data set.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Returns the file with the class names if there is one.
    pub fn class_file(&self) -> Option<PathBuf> {
        Some(self.path(CLASS_FILE)).filter(|path| path.is_file())
    }

    /// Returns the names of the classes, background first: those of `classes.txt`, or the 21 of PASCAL VOC.
    pub fn classes(&self) -> Result<Vec<String>, Problem> {
        match self.class_file() {
            Some(path) => parse_classes(&read(&path)?, &path.display().to_string()),
            None => Ok(CLASSES.map(str::to_owned).to_vec()),
        }
    }

    /// Whether there is a file of this split.
    pub fn has_split(&self, split: &str) -> bool {
        self.path(SPLITS).join(format!("{split}.txt")).is_file()
    }

    /// Returns the image ids of a split in the order of its file; at most `limit`.
    pub fn ids(&self, split: &str, limit: Option<usize>) -> Result<Vec<String>, Problem> {
        let path = self.path(SPLITS).join(format!("{split}.txt"));
        if !path.is_file() {
            return Err(self.no_split(split, &path));
        }
        let mut ids = parse_split(&read(&path)?, &path)?;
        if ids.is_empty() {
            return Err(Problem::with_help(
                format!("split `{split}` is empty: `{}` lists no image", path.display()),
                "write one image id per line, or choose another `split`",
            ));
        }
        ids.truncate(limit.unwrap_or(usize::MAX));
        Ok(ids)
    }

    fn no_split(&self, split: &str, path: &Path) -> Problem {
        let mut known: Vec<String> = std::fs::read_dir(self.path(SPLITS))
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".txt")?.to_owned()))
            .collect();
        known.sort_unstable();
        let help = if known.is_empty() {
            format!("a data set in VOC layout has its splits in `{SPLITS}`, one image id per line")
        } else {
            format!(
                "the splits there are {}",
                known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
            )
        };
        Problem::with_help(format!("there is no split `{split}`: `{}` does not exist", path.display()), help)
    }

    /// Returns the image file of each id.
    pub fn images(&self, ids: &[String]) -> Result<Vec<PathBuf>, Problem> {
        self.files(IMAGES, ids, &IMAGE_ENDINGS, "image", "put them there, or take their ids out of the split file")
    }

    /// Returns the mask of each id in a folder of the data set.
    pub fn masks(&self, folder: &str, ids: &[String]) -> Result<Vec<PathBuf>, Problem> {
        self.files(
            folder,
            ids,
            &["png"],
            "mask",
            "name a folder that has them all, or a split of images that have masks",
        )
    }

    /// Returns the XML annotation of each id.
    pub fn annotations(&self, ids: &[String]) -> Result<Vec<PathBuf>, Problem> {
        let help = "read the labels from elsewhere: `labels = \"masks\"`, or a CSV file with the columns `id` and `label`; for images to be \
             segmented alone `labels = \"none\"`";
        self.files(ANNOTATIONS, ids, &["xml"], "annotation", help)
    }

    /// Looks the folder through once, which is much faster than asking for ten thousand files one by one.
    fn files(
        &self,
        folder: &str,
        ids: &[String],
        endings: &[&str],
        noun: &str,
        help: &str,
    ) -> Result<Vec<PathBuf>, Problem> {
        let directory = self.path(folder);
        let entries = std::fs::read_dir(&directory).map_err(|error| {
            Problem::with_help(
                format!("the folder of {noun}s cannot be read: `{}`: {error}", directory.display()),
                "a data set in VOC layout has `JPEGImages`, `ImageSets/Segmentation` and, as needed, folders of masks and `Annotations`",
            )
        })?;
        let names: BTreeSet<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        let find = |id: &String| {
            endings
                .iter()
                .map(|ending| format!("{id}.{ending}"))
                .find(|name| names.contains(name))
                .map(|name| directory.join(name))
        };
        let found: Vec<Option<PathBuf>> = ids.iter().map(find).collect();
        let missing: Vec<&str> =
            ids.iter().zip(&found).filter(|(_, path)| path.is_none()).map(|(id, _)| id.as_str()).collect();
        if !missing.is_empty() {
            let verb = if missing.len() == 1 { "is" } else { "are" };
            return Err(Problem::with_help(
                format!(
                    "{} of {} {verb} missing in `{}`: {}",
                    count(missing.len(), noun, &format!("{noun}s")),
                    ids.len(),
                    directory.display(),
                    listed(&missing)
                ),
                help,
            ));
        }
        Ok(found.into_iter().flatten().collect())
    }
}

/// Reads class names, one per line, background first; empty lines at the end do not count.
pub fn parse_classes(text: &str, name: &str) -> Result<Vec<String>, Problem> {
    let classes: Vec<String> = text.trim_end().lines().map(|line| line.trim().to_owned()).collect();
    let wrong = |what: String| {
        Problem::with_help(format!("`{name}` {what}"), "write one class name per line, the background first")
    };
    if classes.len() < 2 {
        return Err(wrong("names fewer than two classes".to_owned()));
    }
    // 255 marks pixels that count for nothing.
    if classes.len() > 255 {
        return Err(wrong(format!("names {} classes where an 8-bit mask has room for 255", classes.len())));
    }
    let mut seen = BTreeSet::new();
    for (index, class) in classes.iter().enumerate() {
        if class.is_empty() {
            return Err(wrong(format!("has an empty line {}", index + 1)));
        }
        if !seen.insert(class) {
            return Err(wrong(format!("names `{class}` twice")));
        }
    }
    Ok(classes)
}

/// Reads a split file: an id per line, or a path whose file name is the id; further columns and empty lines do not count.
pub(super) fn parse_split(text: &str, path: &Path) -> Result<Vec<String>, Problem> {
    let mut ids = Vec::new();
    let mut lines: BTreeMap<String, usize> = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let Some(word) = line.split_whitespace().next() else { continue };
        let name = word.rsplit(['/', '\\']).next().unwrap_or(word);
        let id = IMAGE_ENDINGS.iter().find_map(|ending| name.strip_suffix(&format!(".{ending}"))).unwrap_or(name);
        if id.is_empty() {
            return Err(Problem::new(format!("`{}` line {} has no image id: `{word}`", path.display(), index + 1)));
        }
        if let Some(first) = lines.insert(id.to_owned(), index + 1) {
            return Err(Problem::with_help(
                format!("`{}` lists image `{id}` twice, in lines {first} and {}", path.display(), index + 1),
                "take one of the two lines out",
            ));
        }
        ids.push(id.to_owned());
    }
    Ok(ids)
}

/// Returns the classes that an annotation names, as 0-based foreground indices, ascending.
///
/// Objects marked difficult count: the label files of the reference programs contain them.
pub fn parse_annotation(text: &str, classes: &[String], name: &str) -> Result<Vec<u8>, Problem> {
    let wrong = |error: String| Problem::new(format!("the annotation `{name}` cannot be read: {error}"));
    let document = roxmltree::Document::parse(text).map_err(|error| wrong(error.to_string()))?;
    let mut labels = BTreeSet::new();
    for object in document.root_element().children().filter(|node| node.has_tag_name("object")) {
        let class = object.children().find(|node| node.has_tag_name("name")).and_then(|node| node.text());
        let class = class.ok_or_else(|| wrong("an object has no name".to_owned()))?.trim();
        labels.insert(foreground(class, classes).ok_or_else(|| {
            Problem::with_help(
                format!("the annotation `{name}` has an object of class `{class}`, which is not in the class list"),
                "add the class to `classes.txt` in the data set's root",
            )
        })?);
    }
    Ok(labels.into_iter().collect())
}

/// Returns the foreground classes of a mask, 0-based and ascending; 255 is no class.
pub fn labels_of(mask: &LabelMap) -> Vec<u8> {
    let mut present = [false; 256];
    for &index in mask.data() {
        present[usize::from(index)] = true;
    }
    (1..LabelMap::IGNORE).filter(|&index| present[usize::from(index)]).map(|index| index - 1).collect()
}

/// Returns the 0-based index of a foreground class.
pub(super) fn foreground(class: &str, classes: &[String]) -> Option<u8> {
    let index = classes.iter().skip(1).position(|known| known == class)?;
    u8::try_from(index).ok()
}

pub(super) fn read(path: &Path) -> Result<String, Problem> {
    fs_err::read_to_string(path).map_err(|error| Problem::new(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_split_file_is_read() {
        let path = Path::new("train.txt");
        let ids = |text| parse_split(text, path).expect("readable");
        assert_eq!(ids("2007_000032\n2007_000039"), ["2007_000032", "2007_000039"]);
        assert_eq!(
            ids("/JPEGImages/2008_000006.jpg\r\n/JPEGImages/2008_000011.jpg\r\n"),
            ["2008_000006", "2008_000011"]
        );
        assert_eq!(ids("/JPEGImages/a.jpg /SegmentationClassAug/a.png\n\n"), ["a"]);
        assert_eq!(ids("v1.2\n"), ["v1.2"]);
        assert!(ids("\n \n").is_empty());
        let twice = parse_split("a\nb\na\n", path).expect_err("a is there twice");
        assert_eq!(twice.message, "`train.txt` lists image `a` twice, in lines 1 and 3");
    }

    #[test]
    fn annotations_name_each_class_once() {
        let classes = CLASSES.map(str::to_owned);
        let object = |name: &str| format!("<object><name>{name}</name><part><name>head</name></part></object>");
        let text = format!("<annotation>{}{}{}</annotation>", object("person"), object("dog"), object("person"));
        assert_eq!(parse_annotation(&text, &classes, "a.xml").expect("readable"), [11, 14]);
        let unknown = parse_annotation(&text, &classes[..12], "a.xml").expect_err("no person there");
        assert!(unknown.message.contains("`a.xml` has an object of class `person`"), "{}", unknown.message);
        assert!(parse_annotation("<annotation>", &classes, "a.xml").is_err());
    }
}
