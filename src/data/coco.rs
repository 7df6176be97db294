//! COCO's files of instances: which images there are, what objects they have, and the mask that those make. Reads a file of several
//! hundred megabytes piece by piece and keeps of it only where each object is described. Opens no image.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use serde::{Deserialize, Deserializer};

use super::pieces::Pieces;
use super::{Problem, count, listed};
use crate::digest::Digest;
use crate::image::LabelMap;
use crate::image::outline::{Region, unpack_runs};

/// How many images the splits of COCO 2014 have, and how many of those have objects (SPEC 11).
pub const SPLIT_SIZES: [(&str, usize, usize); 2] = [("train2014", 82_783, 82_081), ("val2014", 40_504, 40_137)];

/// The number of COCO's classes with the background.
pub const CLASSES: usize = 81;

/// What is known of a file.
#[derive(Debug)]
pub struct Instances {
    path: PathBuf,
    /// Names of the classes by category number, the background first.
    pub classes: Vec<String>,
    /// The images in the order of the file.
    pub pictures: Vec<Picture>,
    places: BTreeMap<String, usize>,
    /// Where objects are described, those of an image side by side and in the order of the file.
    objects: Vec<Place>,
}

/// An image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// The file's name without its ending.
    pub id: String,
    /// The file's name.
    pub file: String,
    /// In pixels.
    pub height: usize,
    /// In pixels.
    pub width: usize,
    /// Where in [`Instances::objects`] its objects are.
    objects: std::ops::Range<usize>,
}

/// Where an object is described.
#[derive(Clone, Copy, Debug)]
struct Place {
    picture: u32,
    /// 0-based, without the background.
    class: u8,
    crowd: bool,
    offset: u64,
    length: u32,
    digest: Digest,
}

/// What becomes of regions that are marked as a crowd of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crowd {
    /// They are objects.
    Object,
    /// They count for nothing: 255 in masks, and no label.
    Ignore,
}

#[derive(Deserialize)]
struct RawImage {
    id: i64,
    file_name: String,
    height: usize,
    width: usize,
}

#[derive(Deserialize)]
struct RawCategory {
    id: i64,
    name: String,
}

#[derive(Deserialize)]
struct RawPlace {
    image_id: i64,
    category_id: i64,
    #[serde(default, deserialize_with = "truth")]
    iscrowd: bool,
}

#[derive(Deserialize)]
struct RawObject {
    area: Option<f64>,
    segmentation: Outline,
}

/// How the pixels of an object are described.
#[derive(Deserialize)]
#[serde(untagged)]
enum Outline {
    Polygons(Vec<Vec<f64>>),
    Runs { size: [usize; 2], counts: Counts },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Counts {
    Plain(Vec<u64>),
    Packed(String),
}

/// COCO writes 0 and 1, other programs truth values.
fn truth<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Bool(bool),
        Number(i64),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::Bool(value) => value,
        Either::Number(number) => number != 0,
    })
}

/// What the process has read already, by path.
static KNOWN: Mutex<BTreeMap<PathBuf, Known>> = Mutex::new(BTreeMap::new());

/// A file that was read, with its length and time of change.
struct Known {
    state: (u64, Option<SystemTime>),
    instances: Arc<Instances>,
}

impl Instances {
    /// Reads a file, or takes what this process knows of it.
    ///
    /// # Errors
    /// If it cannot be read or is no file of instances.
    pub fn open(path: &Path) -> Result<Arc<Self>, Problem> {
        let read = |error: std::io::Error| {
            Problem::with_help(
                format!("the annotations cannot be read: `{}`: {error}", path.display()),
                "put COCO's `instances_*.json` there, or name another file with `annotations`",
            )
        };
        let metadata = std::fs::metadata(path).map_err(read)?;
        let state = (metadata.len(), metadata.modified().ok());
        // Held while the file is read, so that stages side by side do not read it twice.
        let mut known = KNOWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(known) = known.get(path).filter(|known| known.state == state) {
            return Ok(Arc::clone(&known.instances));
        }
        let file = File::open(path).map_err(read)?;
        let instances = Self::read(path, file).map_err(|what| {
            Problem::with_help(
                format!("`{}` is no file of COCO's instances: {what}", path.display()),
                "it needs `images`, `annotations` and `categories`, as `instances_train2014.json` has them",
            )
        })?;
        let instances = Arc::new(instances);
        known.insert(path.to_owned(), Known { state, instances: Arc::clone(&instances) });
        Ok(instances)
    }

    fn read(path: &Path, file: impl std::io::Read) -> Result<Self, String> {
        let mut images: Vec<RawImage> = Vec::new();
        let mut categories: Vec<RawCategory> = Vec::new();
        let mut objects: Vec<(RawPlace, u64, u32, Digest)> = Vec::new();
        let mut pieces = Pieces::new(file);
        pieces.each_member(&["images", "categories", "annotations"], |list, offset, bytes| {
            let at = |error: serde_json::Error| format!("in `{list}`, from byte {offset} on: {error}");
            match list {
                "images" => images.push(serde_json::from_slice(bytes).map_err(at)?),
                "categories" => categories.push(serde_json::from_slice(bytes).map_err(at)?),
                _ => {
                    let object = serde_json::from_slice(bytes).map_err(at)?;
                    objects.push((object, offset, bytes.len() as u32, Digest::of(bytes)));
                }
            }
            Ok(())
        })?;
        if images.is_empty() || categories.is_empty() {
            return Err(format!("it has {} images and {} categories", images.len(), categories.len()));
        }

        categories.sort_by_key(|category| category.id);
        // 0 is the background, 255 counts for nothing.
        if categories.len() > 254 {
            return Err(format!("it has {} categories, and a mask has room for 254", categories.len()));
        }
        let mut classes = vec!["background".to_owned()];
        let mut class_of = BTreeMap::new();
        for (category, class) in categories.into_iter().zip(0_u8..) {
            if class_of.insert(category.id, class).is_some() || classes.contains(&category.name) {
                return Err(format!("category {} (`{}`) is there twice", category.id, category.name));
            }
            classes.push(category.name);
        }

        let mut number_of = BTreeMap::new();
        let mut places = BTreeMap::new();
        let mut pictures = Vec::with_capacity(images.len());
        for RawImage { id: number, file_name: file, height, width } in images {
            let stem = Path::new(&file).file_stem().and_then(|stem| stem.to_str());
            let id =
                stem.filter(|_| !file.contains(['/', '\\'])).ok_or_else(|| format!("`{file}` is no name of a file"))?;
            if number_of.insert(number, pictures.len()).is_some()
                || places.insert(id.to_owned(), pictures.len()).is_some()
            {
                return Err(format!("image {number} (`{file}`) is there twice"));
            }
            pictures.push(Picture { id: id.to_owned(), file: file.clone(), height, width, objects: 0..0 });
        }

        let mut found = Vec::with_capacity(objects.len());
        for (object, offset, length, digest) in objects {
            let picture = number_of.get(&object.image_id);
            let picture =
                picture.ok_or_else(|| format!("an annotation is of image {}, which is not there", object.image_id))?;
            let class = class_of.get(&object.category_id);
            let class = class
                .ok_or_else(|| format!("an annotation is of category {}, which is not there", object.category_id))?;
            let (picture, class, crowd) = (*picture as u32, *class, object.iscrowd);
            found.push(Place { picture, class, crowd, offset, length, digest });
        }
        // Keeps the order of the file within an image.
        found.sort_by_key(|place| place.picture);
        let mut start = 0;
        for (number, picture) in pictures.iter_mut().enumerate() {
            let end = start + found[start..].iter().take_while(|place| place.picture as usize == number).count();
            picture.objects = start..end;
            start = end;
        }
        Ok(Self { path: path.to_owned(), classes, pictures, places, objects: found })
    }

    /// Returns an image by its id.
    pub fn picture(&self, id: &str) -> Option<&Picture> {
        self.places.get(id).map(|&place| &self.pictures[place])
    }

    /// Returns the classes of an image, 0-based and ascending.
    pub fn labels(&self, picture: &Picture, crowd: Crowd) -> Vec<u8> {
        let places = self.objects[picture.objects.clone()].iter();
        let counted = places.filter(|place| crowd == Crowd::Object || !place.crowd);
        counted.map(|place| place.class).collect::<BTreeSet<u8>>().into_iter().collect()
    }

    /// Returns the digest of all that is said of an image's objects.
    pub fn digest(&self, picture: &Picture) -> Digest {
        let digests: String =
            self.objects[picture.objects.clone()].iter().map(|place| place.digest.to_string()).collect();
        Digest::of(digests.as_bytes())
    }

    /// Draws the mask of an image: where objects overlap, the one of smaller `area` lies above, as in coco2voc, with which the
    /// field makes its masks of COCO 2014 (`annotations_to_mask` in coco2voc_aux.py at 5fb6021). Crowds are objects there.
    ///
    /// # Errors
    /// If the file has changed, or an object is described in a way that makes no pixels.
    pub fn mask(&self, picture: &Picture, crowd: Crowd) -> Result<LabelMap, String> {
        let (height, width) = (picture.height, picture.width);
        let mut objects = Vec::new();
        let mut file = File::open(&self.path).map_err(|error| format!("`{}`: {error}", self.path.display()))?;
        for place in &self.objects[picture.objects.clone()] {
            let bytes = read_at(&mut file, place).map_err(|error| format!("`{}`: {error}", self.path.display()))?;
            if Digest::of(&bytes) != place.digest {
                return Err(format!("`{}` has changed since it was read", self.path.display()));
            }
            let at = |error: &dyn std::fmt::Display| format!("the annotation from byte {} on: {error}", place.offset);
            let object: RawObject = serde_json::from_slice(&bytes).map_err(|error| at(&error))?;
            let region = object.segmentation.region(height, width).map_err(|error| at(&error))?;
            objects.push((object.area.unwrap_or(region.area() as f64), place, region));
        }
        objects.sort_by(|(a, ..), (b, ..)| a.total_cmp(b));
        let mut data = vec![0; height * width];
        let ignored = |place: &Place| crowd == Crowd::Ignore && place.crowd;
        for (_, place, region) in objects.iter().filter(|(_, place, _)| !ignored(place)) {
            region.paint_below(place.class + 1, &mut data);
        }
        for (_, _, region) in objects.iter().filter(|(_, place, _)| ignored(place)) {
            region.paint_below(LabelMap::IGNORE, &mut data);
        }
        Ok(LabelMap::new(height, width, data))
    }

    /// Returns the file of each image in a folder.
    ///
    /// # Errors
    /// If one is missing.
    pub fn files(folder: &Path, pictures: &[&Picture]) -> Result<Vec<PathBuf>, Problem> {
        let entries = std::fs::read_dir(folder).map_err(|error| {
            Problem::with_help(
                format!("the folder of images cannot be read: `{}`: {error}", folder.display()),
                "COCO has a folder with the split's name beside `annotations`; `images` names another one",
            )
        })?;
        let names: BTreeSet<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        let missing: Vec<&str> = pictures
            .iter()
            .filter(|picture| !names.contains(&picture.file))
            .map(|picture| picture.id.as_str())
            .collect();
        if missing.is_empty() {
            return Ok(pictures.iter().map(|picture| folder.join(&picture.file)).collect());
        }
        Err(Problem::with_help(
            format!(
                "{} of {} {} missing in `{}`: {}",
                count(missing.len(), "image", "images"),
                pictures.len(),
                if missing.len() == 1 { "is" } else { "are" },
                folder.display(),
                listed(&missing)
            ),
            "unpack the whole archive of the split, or take another `annotations`",
        ))
    }
}

fn read_at(file: &mut File, place: &Place) -> std::io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(place.offset))?;
    let mut bytes = vec![0; place.length as usize];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

impl Outline {
    fn region(&self, height: usize, width: usize) -> Result<Region, String> {
        let mut region = Region::empty(height, width);
        match self {
            Self::Polygons(polygons) => polygons.iter().try_for_each(|polygon| region.add_polygon(polygon))?,
            Self::Runs { size, .. } if *size != [height, width] => {
                return Err(format!(
                    "its runs are of an image of {} x {} pixels, not {width} x {height}",
                    size[1], size[0]
                ));
            }
            Self::Runs { counts: Counts::Plain(runs), .. } => region.add_runs(runs.iter().copied())?,
            Self::Runs { counts: Counts::Packed(text), .. } => region.add_runs(unpack_runs(text)?)?,
        }
        Ok(region)
    }
}
