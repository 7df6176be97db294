//! Where images, masks and labels come from, and how they are varied for training. Knows no stages and no cache.

pub mod augment;
pub mod coco;
pub mod color;
pub mod crop_resize;
pub mod folder;
pub mod labels;
mod pieces;
pub mod rand_augment;
pub mod sbd;
pub mod shrink;
pub mod synthetic;
pub mod voc;

pub use color::ColorJitter;

/// How many image ids a message lists before it only counts the rest.
const LISTED: usize = 5;

/// What is wrong with a data set: one sentence with the path or the image id in it, and a way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// What is wrong.
    pub message: String,
    /// What to try.
    pub help: Option<String>,
}

impl Problem {
    /// Makes a problem without a way out.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    /// Makes a problem with a way out.
    pub fn with_help(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), help: Some(help.into()) }
    }
}

/// Lists the first few image ids, in backticks, and counts the rest.
pub fn listed(ids: &[&str]) -> String {
    let mut text: Vec<String> = ids.iter().take(LISTED).map(|id| format!("`{id}`")).collect();
    if ids.len() > LISTED {
        text.push(format!("and {} more", ids.len() - LISTED));
    }
    text.join(", ")
}

/// Returns a number with its noun: `1 image`, `3 images`.
pub fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}
