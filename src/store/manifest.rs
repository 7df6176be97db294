//! What one artifact is: its kind, a little metadata, and its parts by digest. Its own digest is the artifact's name.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::{LazyLock, OnceLock};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::kind::Kind;

/// One part of an artifact: a blob in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Digest of its bytes.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// The image ids in it, sorted; empty unless the entry is a shard.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<String>,
    /// Digest and length of the blobs that a shard speaks of by digest and that its stage made, such as drawn images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub content: Vec<(Digest, u64)>,
}

impl Entry {
    /// Returns digest and length of each of its blobs: its own bytes and the content that it speaks of.
    pub fn blobs(&self) -> impl Iterator<Item = (Digest, u64)> + '_ {
        std::iter::once((self.digest, self.size)).chain(self.content.iter().copied())
    }
}

/// One artifact.
///
/// A per-image artifact has `buckets` shards at most; the entry of bucket 7 of 16 is named `shard/0007` and is absent where no
/// image falls into the bucket. Other entries are named as their kind likes (`weights.safetensors`, `metrics.json`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// What it is.
    pub kind: Kind,
    /// Number of buckets over which image ids are spread, a power of two; absent unless the artifact is per image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buckets: Option<u32>,
    /// What must be known without opening a part: class list, architecture, protocol.
    pub meta: serde_json::Value,
    /// The parts by name.
    pub entries: BTreeMap<String, Entry>,
}

impl Manifest {
    /// Returns the digest that names this artifact: of the canonical JSON of the manifest.
    pub fn digest(&self) -> Digest {
        Digest::of_json(self)
    }

    /// Returns all image ids, sorted. Empty unless the artifact is per image.
    pub fn ids(&self) -> Vec<&str> {
        let mut ids: Vec<&str> = self.entries.values().flat_map(|entry| entry.ids.iter().map(String::as_str)).collect();
        ids.sort_unstable();
        ids
    }

    /// Returns the sum of the sizes of all parts, in bytes.
    pub fn size(&self) -> u64 {
        self.entries.values().flat_map(Entry::blobs).map(|(_, size)| size).sum()
    }

    /// Returns the shards as (bucket, entry), in order of their bucket.
    pub fn shards(&self) -> impl Iterator<Item = (u32, &Entry)> {
        self.entries.iter().filter_map(|(name, entry)| Some((name.strip_prefix("shard/")?.parse().ok()?, entry)))
    }

    /// Returns every shard of this artifact that can hold an image of bucket `bucket` out of `buckets`.
    ///
    /// Bucket counts are powers of two and a bucket is the id's hash modulo the count, so the buckets of one count nest in
    /// those of another.
    pub fn shards_meeting(&self, bucket: u32, buckets: u32) -> Vec<&Entry> {
        // A manifest from elsewhere may hold anything; no buckets are one.
        let own = self.buckets.unwrap_or(1).max(1);
        let common = own.min(buckets).max(1);
        self.shards().filter(|(other, _)| other % common == bucket % common).map(|(_, entry)| entry).collect()
    }
}

/// What stands for a manifest that cannot be read.
static NOTHING: LazyLock<Manifest> = LazyLock::new(|| Manifest {
    kind: Kind::Files,
    buckets: None,
    meta: serde_json::Value::Null,
    entries: BTreeMap::new(),
});

/// The manifest of an artifact whose digest is known; it is read when somebody first looks at it. A run that has nothing to do
/// reads none.
///
/// Looking at one that is gone or damaged shows an empty manifest, and [`Self::loss`] says so from then on: whoever hands it
/// to a stage asks afterwards, and takes what the stage made of it for nothing.
pub struct Lazy {
    digest: Digest,
    read: Box<dyn Fn() -> Result<Manifest, String> + Send + Sync>,
    cell: OnceLock<Result<Manifest, String>>,
}

impl Lazy {
    /// Makes the manifest of this digest; `read` gets it, or says in a sentence why it cannot be had.
    pub fn new(digest: Digest, read: impl Fn() -> Result<Manifest, String> + Send + Sync + 'static) -> Self {
        Self { digest, read: Box::new(read), cell: OnceLock::new() }
    }

    /// Returns its digest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Reads it, unless that has been done.
    ///
    /// # Errors
    /// The sentence that says why it cannot be had.
    pub fn load(&self) -> Result<&Manifest, String> {
        self.cell.get_or_init(&self.read).as_ref().map_err(Clone::clone)
    }

    /// Returns why it could not be read, if somebody has tried.
    pub fn loss(&self) -> Option<&str> {
        self.cell.get()?.as_ref().err().map(String::as_str)
    }
}

impl Deref for Lazy {
    type Target = Manifest;

    fn deref(&self) -> &Manifest {
        self.cell.get_or_init(&self.read).as_ref().unwrap_or(&NOTHING)
    }
}

impl From<Manifest> for Lazy {
    fn from(manifest: Manifest) -> Self {
        let (digest, copy) = (manifest.digest(), OnceLock::new());
        let _ = copy.set(Ok(manifest));
        Self { digest, read: Box::new(|| Err("it was given".to_owned())), cell: copy }
    }
}

impl fmt::Debug for Lazy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Lazy({})", self.digest.short())
    }
}

/// Returns the name of a bucket's entry.
pub fn shard_name(bucket: u32) -> String {
    format!("shard/{bucket:04}")
}

/// Returns how many buckets suit `count` images: a power of two that leaves 24 to 48 images in each.
pub fn buckets_for(count: usize) -> u32 {
    u32::try_from(count.div_ceil(48).next_power_of_two()).unwrap_or(1 << 31)
}

/// Returns the bucket of an image id: the first bytes of its BLAKE3 digest, modulo the number of buckets.
pub fn bucket_of(id: &str, buckets: u32) -> u32 {
    (Digest::of(id.as_bytes()).to_u64() % u64::from(buckets)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_nest() {
        for id in ["2007_000032", "a", "b", "c"] {
            assert_eq!(bucket_of(id, 16) % 4, bucket_of(id, 4));
        }
        assert_eq!(buckets_for(1), 1);
        assert_eq!(buckets_for(48), 1);
        assert_eq!(buckets_for(49), 2);
        assert_eq!(buckets_for(10_582), 256);
    }
}
