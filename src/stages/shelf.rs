//! Reads single images out of large per-image artifacts, in any order and from any thread, as training needs it. Decides
//! nothing about order.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::artifact::maps::{self, ImageMaps};
use crate::artifact::masks;
use crate::image::LabelMap;
use crate::stage::{Ctx, StageError};
use crate::store::manifest::Entry;

/// Encoded shards are kept in memory if all of them together are no larger, in bytes; otherwise each image is read from its
/// shard whenever it is needed.
const KEPT: u64 = 1 << 30;

/// The shards on one port.
pub(super) struct Shelf<'run> {
    ctx: &'run Ctx<'run>,
    port: &'static str,
    entries: Vec<&'run Entry>,
    /// The shard of each image.
    places: BTreeMap<&'run str, usize>,
    /// Shards that have been read; empty if they are not kept.
    kept: Vec<Mutex<Option<Arc<Vec<u8>>>>>,
}

impl<'run> Shelf<'run> {
    /// Opens the artifact on a port.
    pub(super) fn new(ctx: &'run Ctx<'run>, port: &'static str) -> Self {
        let entries = ctx.shards(port);
        let places = entries
            .iter()
            .enumerate()
            .flat_map(|(place, entry)| entry.ids.iter().map(move |id| (id.as_str(), place)))
            .collect();
        let size: u64 = entries.iter().map(|entry| entry.size).sum();
        let kept = if size <= KEPT { entries.iter().map(|_| Mutex::new(None)).collect() } else { Vec::new() };
        Self { ctx, port, entries, places, kept }
    }

    /// Returns all image ids, sorted.
    pub(super) fn ids(&self) -> Vec<String> {
        self.places.keys().map(|&id| id.to_owned()).collect()
    }

    /// Reads the maps of an image.
    pub(super) fn maps(&self, id: &str) -> Result<ImageMaps, StageError> {
        self.decode(id, maps::decode_one)
    }

    /// Reads the mask of an image.
    pub(super) fn mask(&self, id: &str) -> Result<LabelMap, StageError> {
        self.decode(id, masks::decode_one)
    }

    fn decode<T>(&self, id: &str, decode: impl Fn(&[u8], &str) -> Result<T, String>) -> Result<T, StageError> {
        let place = *self
            .places
            .get(id)
            .ok_or_else(|| StageError::data(format!("image `{id}` is missing on port `{}`", self.port)))?;
        let bytes = self.shard(place)?;
        decode(&bytes, id).map_err(|error| StageError::data(format!("the artifact on port `{}`: {error}", self.port)))
    }

    fn shard(&self, place: usize) -> Result<Arc<Vec<u8>>, StageError> {
        let Some(slot) = self.kept.get(place) else {
            return Ok(Arc::new(self.ctx.access.entry(self.entries[place])?));
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = slot.as_ref() {
            return Ok(Arc::clone(bytes));
        }
        let bytes = Arc::new(self.ctx.access.entry(self.entries[place])?);
        *slot = Some(Arc::clone(&bytes));
        Ok(bytes)
    }
}
