//! Bytes by digest. Verified when read; knows nothing of what they mean.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::PoisonError;

use rayon::prelude::*;

use super::Store;
use crate::digest::Digest;

/// Why the bytes of a digest cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// There is no such blob.
    #[error("blob {} is missing from the cache", .0.short())]
    Missing(Digest),
    /// Its bytes are not those of its digest. It has been removed.
    #[error("blob {} was damaged in the cache and is removed", .0.short())]
    Damaged(Digest),
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Store {
    /// Returns where a blob lies.
    pub fn blob_path(&self, digest: Digest) -> PathBuf {
        let hex = digest.hex();
        self.bucket().join("cas").join(&hex[..2]).join(hex)
    }

    /// Stores bytes and returns their digest. `sync` waits until they are on the disk.
    ///
    /// # Errors
    /// If they cannot be written; the message names the path.
    pub fn put(&self, bytes: &[u8], sync: bool) -> std::io::Result<Digest> {
        let digest = Digest::of(bytes);
        self.not_gone(digest);
        if self.has(digest, bytes.len() as u64) {
            // It counts as new, lest it be collected before somebody names it.
            super::collect::renew(self.blob_path(digest));
        } else {
            self.write(&self.blob_path(digest), bytes, sync)?;
        }
        Ok(digest)
    }

    /// Whether there is a blob of this digest and length. Its bytes are not looked at.
    pub fn has(&self, digest: Digest, size: u64) -> bool {
        std::fs::metadata(self.blob_path(digest)).is_ok_and(|metadata| metadata.len() == size)
    }

    /// Reads a blob and verifies it; one that is not here comes from the remote cache, if it is there.
    ///
    /// # Errors
    /// If it is missing, cannot be read, or is damaged; a damaged one is removed.
    pub fn get(&self, digest: Digest) -> Result<Vec<u8>, BlobError> {
        let found = self.get_here(digest);
        if !matches!(found, Err(BlobError::Missing(_) | BlobError::Damaged(_))) {
            return found;
        }
        if self.fetch_one(digest)? {
            return self.get_here(digest);
        }
        self.set_gone(digest);
        found
    }

    /// As [`Self::get`], in this cache alone.
    pub(super) fn get_here(&self, digest: Digest) -> Result<Vec<u8>, BlobError> {
        let path = self.blob_path(digest);
        let bytes = match fs_err::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(BlobError::Missing(digest)),
            Err(error) => return Err(error.into()),
        };
        if Digest::of(&bytes) == digest {
            return Ok(bytes);
        }
        match fs_err::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Err(BlobError::Damaged(digest)),
        }
    }

    fn gone(&self) -> std::sync::MutexGuard<'_, HashSet<Digest>> {
        self.0.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears that somebody asked for a blob in vain: a record that leaves it to others is no hit any more.
    pub(super) fn set_gone(&self, digest: Digest) {
        self.gone().insert(digest);
    }

    pub(super) fn not_gone(&self, digest: Digest) {
        self.gone().remove(&digest);
    }

    /// Whether one of these blobs was asked for in vain.
    pub(super) fn any_gone(&self, blobs: &[(Digest, u64)]) -> bool {
        let gone = self.gone();
        !gone.is_empty() && blobs.iter().any(|(digest, _)| gone.contains(digest))
    }

    /// Says of each blob whether its bytes are those of its digest; blobs side by side. Removes nothing.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn intact(&self, blobs: &[(Digest, u64)]) -> std::io::Result<Vec<bool>> {
        let check = |(digest, _): &(Digest, u64)| {
            let mut hasher = blake3::Hasher::new();
            match fs_err::File::open(self.blob_path(*digest)) {
                Ok(file) => hasher.update_reader(file)?,
                // It has been collected meanwhile, which damages nothing.
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
                Err(error) => return Err(error),
            };
            Ok(Digest::from(hasher.finalize()) == *digest)
        };
        blobs.par_iter().map(check).collect()
    }

    /// Returns the digest and length of every blob, in order of the digest.
    ///
    /// # Errors
    /// If the folder cannot be listed.
    pub fn blobs(&self) -> std::io::Result<Vec<(Digest, u64)>> {
        let mut found = Vec::new();
        for folder in fs_err::read_dir(self.bucket().join("cas"))? {
            let folder = folder?.path();
            if !folder.is_dir() {
                continue;
            }
            for entry in fs_err::read_dir(folder)? {
                let entry = entry?;
                if let Some(digest) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                    found.push((digest, entry.metadata()?.len()));
                }
            }
        }
        found.sort_unstable();
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_is_seen_and_the_blob_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path()).expect("a cache");
        let digest = store.put(b"bytes", true).expect("written");
        assert_eq!(store.get(digest).expect("there"), b"bytes");
        std::fs::write(store.blob_path(digest), b"bytez").expect("written");
        assert!(store.has(digest, 5));
        assert!(matches!(store.get(digest), Err(BlobError::Damaged(_))));
        assert!(matches!(store.get(digest), Err(BlobError::Missing(_))));
        store.put(b"bytes", false).expect("written again");
        assert_eq!(store.get(digest).expect("there again"), b"bytes");
    }
}
