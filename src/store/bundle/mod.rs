//! Bundles: some results of a cache with everything that says where they come from, as one file. Knows nothing of what they mean.
//!
//! A bundle is a tar file, packed with zstd. Its first member is the [`Index`], which names every other one with its size: the
//! blobs in order of their digest, then the records. The names, the order and the headers follow from the content, so that the same
//! results are the same bytes. Whoever reads one follows the index and looks at nothing else: no path of the file ever reaches
//! the file system.
//!
//! A result is in it with its bytes, or by its record, its action and its manifest alone: then it says what the others were made
//! from, and whoever takes it in knows their keys.

mod read;
mod write;

use serde::{Deserialize, Serialize};

pub use read::{Limits, Taken, read_index};
pub use write::Chosen;

use crate::digest::Digest;

/// Version of the format. One of a later version is refused.
///
/// - 1: index, blobs, records.
const FORMAT: u32 = 1;

/// Name of the first member.
const INDEX: &str = "orandflow-bundle.json";

/// Length in bytes that the index and a record may have: some hundred thousand blobs, or images of one shard.
const LONGEST_TEXT: u64 = 64 << 20;

/// What a bundle holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// Version of the format.
    pub format: u32,
    /// Name of the pipeline whose stages these are.
    pub pipeline: String,
    /// The stages, each after those it reads from.
    pub stages: Vec<BundledStage>,
    /// Key of each record and the length of its member, in order of the members.
    pub records: Vec<(Digest, u64)>,
    /// Digest and length of each blob, in order of the digest.
    pub blobs: Vec<(Digest, u64)>,
}

/// One stage of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundledStage {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// The key of its action.
    pub key: Digest,
    /// Its artifact.
    pub output: Digest,
    /// Whether the artifact's bytes are in the bundle, or only what is known of it.
    pub bytes: bool,
}

impl Index {
    /// Returns the length of all blobs and records, in bytes.
    pub fn size(&self) -> u64 {
        self.blobs.iter().chain(&self.records).fold(0, |sum, (_, size)| sum.saturating_add(*size))
    }
}

/// Why a bundle cannot be written or taken in.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// It is not a bundle at all.
    #[error("it is no bundle: {0}")]
    NoBundle(String),
    /// It is damaged, was cut short, or was made by somebody who wants to see what happens.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// It was made by a later version.
    #[error("it has format {0}, this program reads format {FORMAT}")]
    Future(u32),
    /// It is larger than allowed.
    #[error("it unpacks to {size} bytes, and {limit} are allowed")]
    TooLarge {
        /// Its size, as its index says.
        size: u64,
        /// What is allowed.
        limit: u64,
    },
    /// A result is not whole in the cache.
    #[error("{0}")]
    NotHere(String),
}

/// Returns the name of a blob's member.
fn blob_name(digest: Digest) -> String {
    format!("cas/{digest}")
}

/// Returns the name of a record's member.
fn record_name(key: Digest) -> String {
    format!("ac/{key}.json")
}
