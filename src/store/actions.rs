//! Records of actions: what came of them, by key. A record that cannot be read counts as none.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Store;
use super::manifest::Entry;
use crate::digest::Digest;

/// Version of [`Record`]. One of a later version counts as none.
///
/// - 1: output, blobs and provenance. Still read.
/// - 2: the JSON is followed by a line with its digest, as a flipped bit in an image id would be a wrong result.
const RECORD_VERSION: u32 = 2;

/// The last version without a digest.
const WITHOUT_DIGEST: u32 = 1;

/// How and where a result was made. Never part of a key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Name of the pipeline.
    pub pipeline: String,
    /// Name of the stage.
    pub stage: String,
    /// Kind of the stage.
    pub kind: String,
    /// When it started, in UTC as RFC 3339.
    pub started: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Name of the machine.
    pub host: String,
    /// Version of this program.
    pub version: String,
    /// The device, as given.
    pub device: String,
    /// How many actions could run side by side.
    pub jobs: usize,
    /// The last value of each metric that the stage reported.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, f64>,
    /// Warnings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The most memory that the process had used by the end of the action, in bytes; 0 if unknown.
    pub peak_memory: u64,
}

/// What came of an action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this type.
    pub version: u32,
    /// The artifact's manifest; absent for a shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Digest>,
    /// The shard; absent for a whole artifact, and for a shard without images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Entry>,
    /// Digest and length of every blob of the result, the manifest included.
    pub blobs: Vec<(Digest, u64)>,
    /// Whether the blobs need not be here: it came with a bundle or from a remote cache without them. Good for what depends on
    /// it and is here; whoever needs the bytes asks for them, or makes them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub elsewhere: bool,
    /// Keys of the actions that made the shards of a whole artifact, where they are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shards: Vec<Digest>,
    /// How it came about.
    pub provenance: Provenance,
}

impl Record {
    /// Makes the record of a whole artifact; `shards` are the keys of the actions that made its shards.
    pub fn whole(output: Digest, blobs: Vec<(Digest, u64)>, shards: Vec<Digest>, provenance: Provenance) -> Self {
        let version = RECORD_VERSION;
        Self { version, output: Some(output), shard: None, blobs, elsewhere: false, shards, provenance }
    }

    /// Makes the record of a shard.
    pub fn shard(shard: Option<Entry>, provenance: Provenance) -> Self {
        let blobs = shard.iter().flat_map(Entry::blobs).collect();
        let version = RECORD_VERSION;
        Self { version, output: None, shard, blobs, elsewhere: false, shards: Vec::new(), provenance }
    }

    /// Returns it as bytes: JSON, then a line with the digest of that.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("a record is JSON");
        let digest = Digest::of(&bytes);
        bytes.extend_from_slice(format!("\n{digest}\n").as_bytes());
        bytes
    }

    /// Reads [`Self::to_bytes`]; the error says in a few words what is wrong.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        read_record(bytes).map_err(|error| match error {
            Unreadable::Future(version) => format!("it has version {version}, this program reads {RECORD_VERSION}"),
            Unreadable::Damaged(error) => error,
        })
    }
}

/// All records of a cache.
#[derive(Debug, Default)]
pub struct Records {
    /// Those that can be read, by key.
    pub readable: Vec<(Digest, Record)>,
    /// Paths of those that are whole as far as anybody knows, and closed to this program, with why: they are of a later version, or
    /// may not be read.
    pub closed: Vec<(PathBuf, String)>,
    /// Paths of those that are damaged.
    pub damaged: Vec<PathBuf>,
}

/// The action that a stage of a pipeline last ended with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Last {
    /// Its key.
    pub key: Digest,
    /// Name of the pipeline.
    pub pipeline: String,
    /// Name of the stage.
    pub stage: String,
}

/// What is known of an action.
#[derive(Debug)]
pub enum Lookup {
    /// Its result is there.
    Hit(Box<Record>),
    /// It never ran here, or its record cannot be read; then the warning says so.
    Miss(Option<String>),
    /// It ran, and this blob of its result is gone.
    Lost(Digest),
}

/// Why a record cannot be read.
enum Unreadable {
    /// It has this version.
    Future(u32),
    /// This is wrong with it.
    Damaged(String),
}

/// Reads a record. One that is whole in every bit is taken, and nothing else.
fn read_record(bytes: &[u8]) -> Result<Record, Unreadable> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let damaged = |message: &dyn std::fmt::Display| Unreadable::Damaged(message.to_string());
    let (json, rest) = parts(bytes);
    let Version { version } = serde_json::from_slice(json).map_err(|error| damaged(&error))?;
    if version > RECORD_VERSION {
        return Err(Unreadable::Future(version));
    }
    if (version != WITHOUT_DIGEST || !rest.is_empty()) && !is_whole(bytes) {
        return Err(damaged(&"its digest is another one"));
    }
    serde_json::from_slice(json).map_err(|error| damaged(&error))
}

/// Returns the JSON of a record, and what stands behind it.
fn parts(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len()))
}

/// Whether a record ends with the digest of what stands before.
fn is_whole(bytes: &[u8]) -> bool {
    let (json, rest) = parts(bytes);
    let digest = std::str::from_utf8(rest).ok().and_then(|rest| rest.trim().parse::<Digest>().ok());
    digest == Some(Digest::of(json))
}

impl Store {
    /// Returns where the record of an action lies.
    pub fn record_path(&self, key: Digest) -> PathBuf {
        let hex = key.hex();
        self.bucket().join("ac").join(&hex[..2]).join(format!("{hex}.json"))
    }

    /// Looks an action up, in this cache alone. All blobs of a hit are there with their full length, unless its record says that they are elsewhere;
    /// their bytes are verified when they are read.
    pub fn lookup_here(&self, key: Digest) -> Lookup {
        self.look(key, false)
    }

    /// As [`Self::lookup_here`], but takes the record's word for its blobs as long as nobody has asked for one of them in vain. Whoever
    /// reads one that is gone finds out.
    pub(crate) fn recorded(&self, key: Digest) -> Lookup {
        self.look(key, true)
    }

    fn look(&self, key: Digest, trusting: bool) -> Lookup {
        let path = self.record_path(key);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Lookup::Miss(None),
            Err(error) => {
                return Lookup::Miss(Some(format!("the record {} cannot be read: {error}", path.display())));
            }
        };
        match read_record(&bytes) {
            Err(Unreadable::Future(version)) => Lookup::Miss(Some(format!(
                "the record {} has version {version}, this program reads version {RECORD_VERSION}; the result is made again",
                path.display(),
            ))),
            Ok(record) if trusting && !record.elsewhere && !self.any_gone(&record.blobs) => {
                Lookup::Hit(Box::new(record))
            }
            Ok(mut record) => match self.missing(&record.blobs) {
                None => {
                    record.elsewhere = false;
                    Lookup::Hit(Box::new(record))
                }
                // A shard alone is good for nothing but its bytes.
                Some(_)
                    if record.elsewhere
                        && (record.output.is_some() || self.has_remote())
                        && !self.any_gone(&record.blobs) =>
                {
                    Lookup::Hit(Box::new(record))
                }
                Some(digest) => Lookup::Lost(digest),
            },
            Err(Unreadable::Damaged(error)) => Lookup::Miss(Some(format!(
                "the record {} is damaged ({error}); the result is made again",
                path.display()
            ))),
        }
    }

    /// Returns the first of these blobs that is not there.
    pub(crate) fn missing(&self, blobs: &[(Digest, u64)]) -> Option<Digest> {
        let missing = |(digest, size): &(Digest, u64)| (!self.has(*digest, *size)).then_some(*digest);
        // Starting threads is not worth it for a few.
        if blobs.len() < 64 { blobs.iter().find_map(missing) } else { blobs.par_iter().find_map_first(missing) }
    }

    /// Writes the record of an action. The action and all blobs of its result must be in the store already.
    ///
    /// # Errors
    /// If it cannot be written; the message names the path.
    pub fn record(&self, key: Digest, record: &Record, sync: bool) -> std::io::Result<()> {
        self.write(&self.record_path(key), &record.to_bytes(), sync)
    }

    /// Returns all records.
    ///
    /// # Errors
    /// If the folder cannot be listed.
    pub fn records(&self) -> std::io::Result<Records> {
        let mut records = Records::default();
        for folder in fs_err::read_dir(self.bucket().join("ac"))? {
            let folder = folder?.path();
            if !folder.is_dir() {
                continue;
            }
            for entry in fs_err::read_dir(folder)? {
                let path = entry?.path();
                let key = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
                let bytes = match std::fs::read(&path) {
                    Ok(bytes) => bytes,
                    // It has been collected meanwhile.
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    Err(error) => {
                        records.closed.push((path, format!("cannot be read: {error}")));
                        continue;
                    }
                };
                match (key, read_record(&bytes)) {
                    (Some(key), Ok(record)) => records.readable.push((key, record)),
                    (Some(_), Err(Unreadable::Future(_))) if is_whole(&bytes) => {
                        records.closed.push((path, "is of a later version of this program".to_owned()));
                    }
                    _ => records.damaged.push(path),
                }
            }
        }
        records.readable.sort_by_key(|(key, _)| *key);
        records.closed.sort();
        records.damaged.sort();
        Ok(records)
    }

    fn last_path(&self, pipeline: &str, stage: &str) -> PathBuf {
        self.bucket().join("last").join(Digest::of_json(&(pipeline, stage)).hex())
    }

    /// Returns the key of the action that a stage of a pipeline last ended with.
    pub fn last(&self, pipeline: &str, stage: &str) -> Option<Digest> {
        std::fs::read_to_string(self.last_path(pipeline, stage)).ok()?.lines().next()?.trim().parse().ok()
    }

    /// Returns the last action of every stage of every pipeline that has been run here.
    pub fn lasts(&self) -> Vec<Last> {
        let entries = std::fs::read_dir(self.bucket().join("last")).into_iter().flatten().filter_map(Result::ok);
        let texts = entries.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
        texts
            .filter_map(|text| {
                let mut lines = text.lines();
                let key = lines.next()?.trim().parse().ok()?;
                let (pipeline, stage) = serde_json::from_str(lines.next().unwrap_or("[\"\",\"\"]")).ok()?;
                Some(Last { key, pipeline, stage })
            })
            .collect()
    }

    /// Remembers the action that a stage of a pipeline ended with.
    ///
    /// # Errors
    /// If it cannot be written; the message names the path.
    pub fn set_last(&self, pipeline: &str, stage: &str, key: Digest) -> std::io::Result<()> {
        if self.last(pipeline, stage) == Some(key) {
            return Ok(());
        }
        let names = serde_json::to_string(&(pipeline, stage)).expect("names are JSON");
        self.write(&self.last_path(pipeline, stage), format!("{}\n{names}\n", key.hex()).as_bytes(), false)
    }
}
