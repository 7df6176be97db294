//! `Action`: everything that determines a result, as a file that a person can read. Its digest is the key.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Step;
use crate::digest::Digest;
use crate::stage::{HashedFile, HashedItem};
use crate::store::manifest::Manifest;

/// Version of what a key means. Raised when the same action would give other bytes for a reason that lies in the engine.
///
/// - 1: the first.
const SCHEMA: u32 = 1;

/// Everything that determines the result of a stage, or of one shard of it.
///
/// Not in it: names of stages and pipelines, paths, the device, numbers of workers, time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// The engine's [`SCHEMA`].
    pub schema: u32,
    /// The kind of stage.
    pub kind: String,
    /// The kind's revision.
    pub revision: u32,
    /// Parameters with defaults filled in, without those that are not part of the key.
    pub params: Value,
    /// The pipeline's seed, for kinds that draw random numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Per connected port, the content on it.
    pub inputs: BTreeMap<String, Input>,
    /// Files of the stage as a whole, as (role, digest).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<(String, Digest)>,
    /// Digest of the [`listing`] of its items, for stages that bring data in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<Digest>,
    /// Facts about the sources as a whole.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub facts: Value,
    /// Bucket and number of buckets, for a shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<(u32, u32)>,
}

/// What stands on a port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Input {
    /// A whole artifact, by its digest.
    Whole(Digest),
    /// For a shard: the part of a per-image artifact that meets it.
    Part {
        /// Digests of the shards that meet it.
        shards: Vec<Digest>,
        /// Digest of the artifact without its shards: kind, metadata, number of buckets, other parts.
        rest: Digest,
    },
}

impl Action {
    /// Makes the action of a whole stage, with nothing on its ports and no sources yet.
    pub(crate) fn new(step: &Step) -> Self {
        let spec = step.kind.spec();
        Self {
            schema: SCHEMA,
            kind: spec.name.to_owned(),
            revision: spec.revision,
            params: step.key_params.clone(),
            seed: spec.seeded.then_some(step.seed),
            inputs: BTreeMap::new(),
            files: Vec::new(),
            items: None,
            facts: Value::Null,
            shard: None,
        }
    }

    /// Returns the file that is kept for it: canonical JSON.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_value(self).expect("an action is JSON").to_string().into_bytes()
    }

    /// Returns its key: the digest of [`Self::to_bytes`].
    pub fn key(&self) -> Digest {
        Digest::of_json(self)
    }

    /// Returns the seed of its random numbers. It depends on the pipeline's seed for seeded kinds, and on the content of the
    /// action; so on everything that the key depends on and on nothing else.
    pub fn stage_seed(&self) -> u64 {
        Digest::of_json(&("seed", self.seed, self.key())).to_u64()
    }
}

/// Returns the artifact's digest without its shards.
pub(crate) fn rest_of(manifest: &Manifest) -> Digest {
    let entries = manifest.entries.iter().filter(|(name, _)| !name.starts_with("shard/"));
    Digest::of_json(&Manifest {
        kind: manifest.kind,
        buckets: manifest.buckets,
        meta: manifest.meta.clone(),
        entries: entries.map(|(name, entry)| (name.clone(), entry.clone())).collect(),
    })
}

/// Returns (role, digest) of each file.
pub(crate) fn file_parts(files: &[HashedFile]) -> Vec<(String, Digest)> {
    files.iter().map(|file| (file.role.clone(), file.digest)).collect()
}

/// Returns the items as text, one JSON array `[id, [[role, digest]], facts]` a line. Paths are not in it.
pub(crate) fn listing<'a>(items: impl IntoIterator<Item = &'a HashedItem>) -> Vec<u8> {
    let mut text = Vec::new();
    for item in items {
        let files: Vec<(&str, Digest)> = item.files.iter().map(|file| (file.role.as_str(), file.digest)).collect();
        serde_json::to_writer(&mut text, &(&item.id, files, &item.facts)).expect("an item is JSON");
        text.push(b'\n');
    }
    text
}

/// What a listing says of one item: its files as (role, digest), and facts.
pub(crate) type Listed = (Vec<(String, Digest)>, Value);

/// Reads a [`listing`]; `None` if it is none.
pub(crate) fn read_listing(bytes: &[u8]) -> Option<BTreeMap<String, Listed>> {
    bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            let (id, files, facts): (String, Vec<(String, Digest)>, Value) = serde_json::from_slice(line).ok()?;
            Some((id, (files, facts)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_round_trips_without_paths() {
        let file = HashedFile { role: "image".into(), path: "/x/a.jpg".into(), digest: Digest::of(b"a"), size: 1 };
        let items = [HashedItem { id: "a\n\"b".into(), files: vec![file], facts: serde_json::json!({"labels": [1]}) }];
        let text = listing(&items);
        assert!(!String::from_utf8_lossy(&text).contains("/x/"));
        let read = read_listing(&text).expect("a listing");
        assert_eq!(read["a\n\"b"].0, [("image".to_owned(), Digest::of(b"a"))]);
        assert_eq!(read["a\n\"b"].1, items[0].facts);
    }
}
