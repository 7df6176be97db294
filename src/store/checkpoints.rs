//! Checkpoints: what a long action needs to go on after an interruption, under the key of the action. Knows nothing of what the
//! bytes mean.
//!
//! A checkpoint is one file, `checkpoints/KEY/NUMBER`: the bytes, then their digest. One that is damaged or cut short counts as
//! none, and the one before takes its place. They go when the action has its result.

use std::path::PathBuf;

use super::Store;
use super::actions::Lookup;
use crate::digest::Digest;

/// How many checkpoints of an action are kept: the last one, and the one before in case the last is damaged.
const KEPT: usize = 2;

/// Length of the digest at the end of a checkpoint.
const DIGEST: usize = 32;

impl Store {
    fn checkpoint_folder(&self, key: Digest) -> PathBuf {
        self.bucket().join("checkpoints").join(key.hex())
    }

    /// Returns the checkpoints of an action, the newest first.
    fn checkpoints(&self, key: Digest) -> Vec<(u64, PathBuf)> {
        let Ok(entries) = std::fs::read_dir(self.checkpoint_folder(key)) else { return Vec::new() };
        let mut found: Vec<(u64, PathBuf)> = entries
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                Some((path.file_name()?.to_str()?.parse().ok()?, path))
            })
            .collect();
        found.sort_unstable_by(|one, other| other.cmp(one));
        found
    }

    /// Keeps a checkpoint, and of the earlier ones the last.
    ///
    /// # Errors
    /// If it cannot be written; the message names the path.
    pub fn keep_checkpoint(&self, key: Digest, number: u64, mut bytes: Vec<u8>) -> std::io::Result<()> {
        let digest = Digest::of(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        self.write(&self.checkpoint_folder(key).join(number.to_string()), &bytes, true)?;
        for (_, path) in self.checkpoints(key).into_iter().skip(KEPT) {
            // Another process on the same action may have been faster.
            let _ = std::fs::remove_file(path);
        }
        Ok(())
    }

    /// Returns the newest checkpoint of an action that is whole.
    pub fn newest_checkpoint(&self, key: Digest) -> Option<(u64, Vec<u8>)> {
        self.checkpoints(key).into_iter().find_map(|(number, path)| {
            let mut bytes = std::fs::read(path).ok()?;
            let (body, digest) = bytes.split_last_chunk::<DIGEST>()?;
            if Digest::of(body).as_bytes() != digest {
                return None;
            }
            bytes.truncate(bytes.len() - DIGEST);
            Some((number, bytes))
        })
    }

    /// Removes the checkpoints of actions that have their result: their process died between the two.
    pub(super) fn tidy_checkpoints(&self) {
        let Ok(entries) = std::fs::read_dir(self.bucket().join("checkpoints")) else { return };
        let keys = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        // One whose result was lost since is made again, and needs its checkpoints.
        for key in keys.filter(|key| matches!(self.lookup_here(*key), Lookup::Hit(_))).collect::<Vec<Digest>>() {
            self.remove_checkpoints(key);
        }
    }

    /// Removes the checkpoints of an action.
    pub fn remove_checkpoints(&self, key: Digest) {
        // There are none for most actions.
        let _ = std::fs::remove_dir_all(self.checkpoint_folder(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_are_kept_and_a_damaged_one_counts_as_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path()).expect("a cache");
        let key = Digest::of(b"key");
        assert_eq!(store.newest_checkpoint(key), None);
        for number in [9, 10, 11] {
            store.keep_checkpoint(key, number, format!("at {number}").into_bytes()).expect("kept");
        }
        let numbers: Vec<u64> = store.checkpoints(key).into_iter().map(|(number, _)| number).collect();
        assert_eq!(numbers, [11, 10]);
        assert_eq!(store.newest_checkpoint(key), Some((11, b"at 11".to_vec())));
        let newest = store.checkpoint_folder(key).join("11");
        for damage in [b"short".to_vec(), vec![7; 37], Vec::new()] {
            std::fs::write(&newest, damage).expect("written");
            assert_eq!(store.newest_checkpoint(key), Some((10, b"at 10".to_vec())));
        }
        store.remove_checkpoints(key);
        assert_eq!(store.newest_checkpoint(key), None);
    }
}
