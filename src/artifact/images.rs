//! `ImageSet`: image ids with file digests, sizes, image-level labels and optional ground-truth masks.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Metadata of an `ImageSet`, and of every set that is made from one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassList {
    /// Names of the classes in order of their index; index 0 is the background.
    pub classes: Vec<String>,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageEntry {
    /// The image id, such as `2007_000032`.
    pub id: String,
    /// Digest of the encoded file (JPEG or PNG).
    pub image: Digest,
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
    /// Present classes as 0-based foreground indices (mask index minus one), ascending.
    pub labels: Vec<u8>,
    /// Digest of the palette or grey PNG with the ground truth, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<Digest>,
}

/// Encodes a shard.
pub fn encode(entries: &[ImageEntry]) -> Vec<u8> {
    serde_json::to_vec(entries).expect("image entries are JSON")
}

/// Decodes a shard; an error says what is wrong with the bytes.
pub fn decode(bytes: &[u8]) -> Result<Vec<ImageEntry>, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("this shard of an image set cannot be read: {error}"))
}
