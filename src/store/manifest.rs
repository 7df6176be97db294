//! What one artifact is: its kind, a little metadata, and its parts by digest. Its own digest is the artifact's name.

use std::collections::BTreeMap;

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
        let own = self.buckets.unwrap_or(1);
        let common = own.min(buckets);
        self.shards().filter(|(other, _)| other % common == bucket % common).map(|(_, entry)| entry).collect()
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
