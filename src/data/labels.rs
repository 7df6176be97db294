//! Image-level labels from files: CSV, and the `cls_labels.npy` of the reference programs. Knows no images.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::voc::foreground;
use super::{Problem, count, listed};
use crate::foreign::npy;

/// Labels by image id: 0-based foreground indices.
pub type Rows = BTreeMap<String, BTreeSet<u8>>;

/// Reads the labels of images from a `.csv` or `.npy` file: 0-based foreground indices, ascending.
///
/// A CSV file has the columns `id` and `label`, one row per image and class; a row with an empty label says that the image is there
/// and has no class. An npy file holds a dict from ids, or from their digits as a number, to an array of one number per foreground
/// class, above zero where the class is present (SPEC 11).
///
/// # Errors
/// What is wrong with the file, and images that it does not have.
pub fn read(path: &Path, ids: &[String], classes: &[String]) -> Result<Vec<Vec<u8>>, Problem> {
    let is_npy = path.extension().is_some_and(|extension| extension == "npy");
    let rows = if is_npy { npy_rows(path, classes)? } else { csv_rows(path, classes)? };
    let found: Vec<Option<&BTreeSet<u8>>> =
        ids.iter().map(|id| rows.get(id).or_else(|| rows.get(&digits(id)).filter(|_| is_npy))).collect();
    let missing: Vec<&str> =
        ids.iter().zip(&found).filter(|(_, row)| row.is_none()).map(|(id, _)| id.as_str()).collect();
    if !missing.is_empty() {
        let message = format!(
            "`{}` has no row for {} of {}: {}",
            path.display(),
            count(missing.len(), "image", "images"),
            ids.len(),
            listed(&missing)
        );
        return Err(match is_npy {
            true => Problem::with_help(message, "take labels that were made for this list of images"),
            false => Problem::with_help(message, "give an image without any class a row with an empty label"),
        });
    }
    Ok(found.into_iter().flatten().map(|row| row.iter().copied().collect()).collect())
}

/// Returns the digits of an id without leading zeros: IRN's and AMN's dicts have numbers for keys, 2007000032 for `2007_000032`.
fn digits(id: &str) -> String {
    let digits: String = id.chars().filter(char::is_ascii_digit).collect();
    digits.trim_start_matches('0').to_owned()
}

fn unread(path: &Path, error: &std::io::Error) -> Problem {
    Problem::with_help(
        format!("the file of labels cannot be read: `{}`: {error}", path.display()),
        "`labels` says where it lies; paths are relative to the working directory",
    )
}

/// Reads a dict of one array per image.
fn npy_rows(path: &Path, classes: &[String]) -> Result<Rows, Problem> {
    let name = path.display();
    let bytes = std::fs::read(path).map_err(|error| unread(path, &error))?;
    let wrong = |what: String| {
        Problem::with_help(
            format!("the labels in `{name}` cannot be read: {what}"),
            "the file needs a dict from image ids to arrays of one number per foreground class",
        )
    };
    let tree = npy::read(&bytes).map_err(|error| wrong(error.to_string()))?;
    let dict = tree.root().item();
    let entries = dict.entries().ok_or_else(|| wrong(format!("a dict is due where it has {}", dict.word())))?;
    let mut rows = Rows::new();
    for (key, value) in entries {
        let id = match (key.text(), key.integer()) {
            (Some(text), _) => text.to_owned(),
            (None, Some(number)) => number.to_string(),
            (None, None) => return Err(wrong(format!("a key is {} where an image id is due", key.word()))),
        };
        let of_image = |error| wrong(format!("image `{id}`: {error}"));
        let values: Vec<f32> = match value.dtype() {
            Some(dtype) if dtype.is_float() => value.floats().map_err(of_image)?,
            _ => value.integers().map_err(of_image)?.into_iter().map(|value| value as f32).collect(),
        };
        if values.len() + 1 != classes.len() {
            let known = classes.len().saturating_sub(1);
            return Err(wrong(format!("image `{id}` has {} numbers, and there are {known} classes", values.len())));
        }
        let present = values.iter().zip(0u8..).filter(|&(&value, _)| value > 0.0).map(|(_, class)| class);
        rows.insert(id, present.collect());
    }
    Ok(rows)
}

/// Reads the columns `id` and `label`.
pub fn csv_rows(path: &Path, classes: &[String]) -> Result<Rows, Problem> {
    const COLUMNS: &str = "the file needs a first line `id,label` and then one row per image and class";
    let text = std::fs::read_to_string(path).map_err(|error| unread(path, &error))?;
    let name = path.display();
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let wrong =
        |error: csv::Error| Problem::with_help(format!("the labels in `{name}` cannot be read: {error}"), COLUMNS);
    let headers = reader.headers().map_err(wrong)?.clone();
    let column = |wanted: &str| {
        headers
            .iter()
            .position(|header| header == wanted)
            .ok_or_else(|| Problem::with_help(format!("the labels in `{name}` have no column `{wanted}`"), COLUMNS))
    };
    let (id_column, label_column) = (column("id")?, column("label")?);
    let mut labels = Rows::new();
    for record in reader.records() {
        let record = record.map_err(wrong)?;
        let field = |column: usize| record.get(column).unwrap_or_default();
        let of_image = labels.entry(field(id_column).to_owned()).or_default();
        let label = field(label_column);
        if !label.is_empty() {
            let line = record.position().map_or(0, csv::Position::line);
            of_image.insert(foreground(label, classes).ok_or_else(|| {
                let known: Vec<&str> = classes.iter().skip(1).map(String::as_str).collect();
                Problem::with_help(
                    format!("`{name}` line {line} has the label `{label}`, which is not a foreground class"),
                    format!("the classes are {}", known.join(", ")),
                )
            })?);
        }
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::foreign::write::{Element, Item, Key, Library, npy_dict};

    fn item(values: &[f32]) -> Item {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Item { library: Library::Numpy, element: Element::F32, shape: vec![values.len()], data }
    }

    #[test]
    fn dicts_have_texts_or_numbers_for_keys() {
        let classes = ["background", "cat", "dog", "bird"].map(str::to_owned);
        let folder = tempfile::tempdir().expect("there is room");
        let path = folder.path().join("cls_labels.npy");
        let write = |entries: &[(Key<'_>, Item)]| std::fs::write(&path, npy_dict(entries)).expect("it can be written");
        let ids = ["img_007", "img_012"].map(str::to_owned);

        write(&[(Key::Text("img_012"), item(&[1.0, 0.0, 1.0])), (Key::Text("img_007"), item(&[0.0, 1.0, 0.0]))]);
        assert_eq!(read(&path, &ids, &classes), Ok(vec![vec![1], vec![0, 2]]));
        write(&[(Key::Number(12), item(&[1.0, 0.0, 1.0])), (Key::Number(7), item(&[0.0, 0.0, 0.0]))]);
        assert_eq!(read(&path, &ids, &classes), Ok(vec![vec![], vec![0, 2]]));

        write(&[(Key::Number(7), item(&[0.0, 1.0, 0.0]))]);
        let error = read(&path, &ids, &classes).expect_err("one is missing").message;
        assert!(error.ends_with("cls_labels.npy` has no row for 1 image of 2: `img_012`"), "{error}");
        write(&[(Key::Number(7), item(&[0.0, 1.0]))]);
        let error = read(&path, &ids, &classes).expect_err("three classes are due").message;
        assert!(error.ends_with("cannot be read: image `7` has 2 numbers, and there are 3 classes"), "{error}");
        std::fs::write(&path, "no npy").expect("it can be written");
        assert!(read(&path, &ids, &classes).is_err());
    }
}
