//! Bytes by digest. Verified when read; knows nothing of what they mean.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

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
    /// It is there, and this process may not read it, or its disk does not give it back. It counts as missing from now on.
    #[error("blob {} cannot be read: {cause}", digest.short())]
    Unreadable {
        /// Its digest.
        digest: Digest,
        /// What the system says.
        cause: std::io::Error,
    },
    /// It cannot be read just now.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// The number that Unix gives to a disk that fails, for which Rust has no kind.
const DISK_FAILS: i32 = 5;

/// Whether another try would not go better.
fn for_good(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied || (cfg!(unix) && error.raw_os_error() == Some(DISK_FAILS))
}

/// Blobs that are there and cannot be read. There are none most of the time, which is known without a lock.
#[derive(Debug, Default)]
pub(super) struct Unreadable {
    any: AtomicBool,
    digests: Mutex<HashSet<Digest>>,
}

impl Unreadable {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<Digest>> {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, digest: Digest) {
        self.lock().insert(digest);
        self.any.store(true, Ordering::Release);
    }

    fn remove(&self, digest: Digest) {
        if self.any.load(Ordering::Acquire) {
            self.lock().remove(&digest);
        }
    }

    fn contains(&self, digest: Digest) -> bool {
        self.any.load(Ordering::Acquire) && self.lock().contains(&digest)
    }
}

/// What is known of a blob whose bytes were looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// They are those of its digest.
    Intact,
    /// They are others.
    Damaged,
    /// They cannot be read, for this reason.
    Unreadable(String),
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
        let path = self.blob_path(digest);
        // One that is here counts as new, lest it be collected before somebody names it.
        if !self.has(digest, bytes.len() as u64) || !super::collect::renew(&path) {
            self.write(&path, bytes, sync)?;
        }
        self.arrived(digest);
        Ok(digest)
    }

    /// Whether there is a blob of this digest and length that can be read, as far as is known. Its bytes are not looked at.
    pub fn has(&self, digest: Digest, size: u64) -> bool {
        let there = std::fs::metadata(self.blob_path(digest)).is_ok_and(|metadata| metadata.len() == size);
        there && !self.0.unreadable.contains(digest)
    }

    /// Reads a blob and verifies it; one that is not here comes from the remote cache, if it is there.
    ///
    /// # Errors
    /// If it is missing, cannot be read, or is damaged; a damaged one is removed.
    pub fn get(&self, digest: Digest) -> Result<Vec<u8>, BlobError> {
        let found = self.get_here(digest);
        if matches!(found, Ok(_) | Err(BlobError::Io(_))) {
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
        // Not by way of fs_err, which hides the number of an error.
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(BlobError::Missing(digest)),
            Err(cause) if for_good(&cause) => {
                self.0.unreadable.insert(digest);
                return Err(BlobError::Unreadable { digest, cause });
            }
            Err(error) => {
                let message = format!("`{}` cannot be read: {error}", path.display());
                return Err(std::io::Error::new(error.kind(), message).into());
            }
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

    /// Reads blobs, side by side; removes those that are damaged and remembers those that cannot be read.
    pub(super) fn doubt(&self, blobs: &[(Digest, u64)]) {
        for ((digest, _), health) in blobs.iter().zip(self.health(blobs)) {
            match health {
                Health::Intact => {}
                // Where it cannot be removed it is found damaged once more, by whoever reads it.
                Health::Damaged => drop(std::fs::remove_file(self.blob_path(*digest))),
                Health::Unreadable(_) => self.0.unreadable.insert(*digest),
            }
        }
    }

    /// Hears that a blob has been put in its place.
    pub(super) fn arrived(&self, digest: Digest) {
        self.not_gone(digest);
        self.0.unreadable.remove(digest);
    }

    /// Whether one of these blobs was asked for in vain.
    pub(super) fn any_gone(&self, blobs: &[(Digest, u64)]) -> bool {
        let gone = self.gone();
        !gone.is_empty() && blobs.iter().any(|(digest, _)| gone.contains(digest))
    }

    /// Says of each blob whether its bytes are those of its digest; blobs side by side. Removes nothing.
    pub fn health(&self, blobs: &[(Digest, u64)]) -> Vec<Health> {
        let check = |(digest, _): &(Digest, u64)| {
            let mut hasher = blake3::Hasher::new();
            let read = fs_err::File::open(self.blob_path(*digest))
                .and_then(|file| hasher.update_reader(file).map(|hasher| hasher.finalize()));
            match read {
                Ok(found) if Digest::from(found) == *digest => Health::Intact,
                Ok(_) => Health::Damaged,
                // It has been collected meanwhile, which damages nothing.
                Err(error) if error.kind() == ErrorKind::NotFound => Health::Intact,
                Err(error) => Health::Unreadable(error.to_string()),
            }
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
