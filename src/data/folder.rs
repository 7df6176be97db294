//! Plain folders of images with a CSV file of labels: which images there are. Opens no image.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::voc::IMAGE_ENDINGS;
use super::{Problem, count, listed};

/// Returns the images of a folder by id, the file's name without its ending; folders inside do not count.
///
/// # Errors
/// If it is no folder, has no image, or has two images of one id.
pub fn images(folder: &str) -> Result<BTreeMap<String, PathBuf>, Problem> {
    by_id(folder, &IMAGE_ENDINGS, "image")
}

/// Returns the mask of each id in a folder.
///
/// # Errors
/// If one is missing.
pub fn masks(folder: &str, ids: &[String]) -> Result<Vec<PathBuf>, Problem> {
    let found = by_id(folder, &["png"], "mask")?;
    let missing: Vec<&str> = ids.iter().filter(|id| !found.contains_key(*id)).map(String::as_str).collect();
    if !missing.is_empty() {
        return Err(Problem::with_help(
            format!(
                "{} of {} missing in `{folder}`: {}",
                count(missing.len(), "mask", "masks"),
                ids.len(),
                listed(&missing)
            ),
            "a mask has the name of its image and the ending `.png`",
        ));
    }
    Ok(ids.iter().map(|id| found[id].clone()).collect())
}

pub(super) fn by_id(folder: &str, endings: &[&str], noun: &str) -> Result<BTreeMap<String, PathBuf>, Problem> {
    let entries = std::fs::read_dir(Path::new(folder)).map_err(|error| {
        Problem::with_help(
            format!("the folder of {noun}s cannot be read: `{folder}`: {error}"),
            "paths are relative to the working directory",
        )
    })?;
    let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(|error| Problem::new(format!("`{folder}` cannot be listed: {error}")))?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        if !ending.is_some_and(|ending| endings.contains(&ending)) || !path.is_file() {
            continue;
        }
        let Some(id) = path.file_stem().and_then(|stem| stem.to_str()) else {
            return Err(Problem::new(format!("`{}` is no name in UTF-8, which an image id must be", path.display())));
        };
        let id = id.to_owned();
        if let Some(other) = found.insert(id.clone(), path.clone()) {
            return Err(Problem::with_help(
                format!("there are two {noun}s `{id}`: `{}` and `{}`", other.display(), path.display()),
                "take one of them away",
            ));
        }
    }
    if found.is_empty() {
        let endings: Vec<String> = endings.iter().map(|ending| format!("`.{ending}`")).collect();
        return Err(Problem::new(format!("there is no {noun} in `{folder}`: looked for {}", endings.join(", "))));
    }
    Ok(found)
}
