//! Digests of data files, remembered by path, size, times and inode, so that a run that has nothing to do only looks at them. Beside
//! them lists of files that somebody found in a large file, by a key of what they follow from.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use rayon::prelude::*;

use super::Store;
use crate::digest::Digest;

/// A file whose modification time is younger than this when it is hashed may change again without its time changing; it is
/// hashed anew next time. Two seconds is the coarsest time stamp in use (FAT).
const SETTLED_NANOSECONDS: i64 = 2_000_000_000;

/// First bytes of the memory file, with its version.
const MAGIC: &[u8; 8] = b"ofiles1\n";

/// The folder of the lists; each ends with the digest of the rest.
pub(super) const LISTS: &str = "lists";

/// Files up to this length are read at once; longer ones piece by piece.
const SMALL: u64 = 1 << 20;

/// What a file system says of a file without opening it. The change time is there because it cannot be set back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: i64,
    changed: i64,
    inode: u64,
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> Self {
        let modified = metadata.modified().map_or(0, nanoseconds);
        #[cfg(unix)]
        let (changed, inode) = {
            use std::os::unix::fs::MetadataExt as _;
            (metadata.ctime().saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec()), metadata.ino())
        };
        #[cfg(not(unix))]
        let (changed, inode) = (modified, 0);
        Self { size: metadata.len(), modified, changed, inode }
    }
}

fn nanoseconds(time: SystemTime) -> i64 {
    let wide = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_nanos() as i128,
        Err(before) => -(before.duration().as_nanos() as i128),
    };
    wide.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

/// A file cannot be hashed.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// It cannot be read; the message names its path.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// It is a folder, a socket or something else that has no bytes.
    #[error("`{}` is not a file", .0.display())]
    NotAFile(PathBuf),
    /// Somebody writes to it.
    #[error("`{}` changed while it was read", .0.display())]
    Changing(PathBuf),
}

/// The remembered digests of data files.
#[derive(Debug)]
pub struct Files {
    path: PathBuf,
    working_folder: PathBuf,
    remembered: HashMap<PathBuf, (Stamp, Digest)>,
    new: Mutex<HashMap<PathBuf, (Stamp, Digest)>>,
    /// Remembered files that are not what they were, and whose new digests cannot be remembered yet.
    stale: Mutex<HashSet<PathBuf>>,
    /// Lists that are not written yet.
    lists: Mutex<HashMap<Digest, Vec<u8>>>,
    trusting: bool,
}

impl Files {
    /// Reads the memory of a cache. A damaged one counts as empty.
    pub fn load(store: &Store) -> Self {
        let path = store.bucket().join("files.bin");
        let remembered = std::fs::read(&path).ok().and_then(|bytes| decode(&bytes)).unwrap_or_default();
        Self {
            path,
            working_folder: std::env::current_dir().unwrap_or_default(),
            remembered,
            new: Mutex::default(),
            stale: Mutex::default(),
            lists: Mutex::default(),
            trusting: false,
        }
    }

    /// Takes files for what they were when somebody last looked, without looking. What is read is verified all the same, so that
    /// a file that has changed since is an error of whoever reads it and never a wrong result.
    #[must_use]
    pub fn trusting(self) -> Self {
        Self { trusting: true, ..self }
    }

    /// Returns digest and size of each file, in the order given; files side by side.
    ///
    /// # Errors
    /// The first file, in the order given, that cannot be read or that changes while it is read.
    pub fn digests(&self, paths: &[&Path]) -> Result<Vec<(Digest, u64)>, HashError> {
        let results: Vec<Result<(Digest, u64), HashError>> = paths.par_iter().map(|path| self.digest(path)).collect();
        results.into_iter().collect()
    }

    fn digest(&self, path: &Path) -> Result<(Digest, u64), HashError> {
        if self.trusting
            && let Some((stamp, digest)) = self.remembered.get(&self.working_folder.join(path))
        {
            return Ok((*digest, stamp.size));
        }
        let metadata = fs_err::metadata(path)?;
        if !metadata.is_file() {
            return Err(HashError::NotAFile(path.to_owned()));
        }
        let stamp = Stamp::of(&metadata);
        let absolute = self.working_folder.join(path);
        if let Some((_, digest)) = self.remembered.get(&absolute).filter(|(known, _)| *known == stamp) {
            return Ok((*digest, stamp.size));
        }
        if let Some((_, digest)) = self.lock().get(&absolute).filter(|(known, _)| *known == stamp) {
            return Ok((*digest, stamp.size));
        }
        let hashed_at = nanoseconds(SystemTime::now());
        let digest = hash(path, stamp.size)?;
        if Stamp::of(&fs_err::metadata(path)?) != stamp {
            return Err(HashError::Changing(path.to_owned()));
        }
        if hashed_at.saturating_sub(stamp.modified.max(stamp.changed)) > SETTLED_NANOSECONDS {
            self.lock().insert(absolute, (stamp, digest));
        } else if self.remembered.contains_key(&absolute) {
            // Jobs of a cluster take what is remembered for what is there.
            self.stale.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(absolute);
        }
        Ok((digest, stamp.size))
    }

    /// Returns the list that was kept under a key. A damaged one counts as none.
    pub fn list(&self, key: Digest) -> Option<Vec<u8>> {
        if let Some(bytes) = self.lists.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(&key) {
            return Some(bytes.clone());
        }
        let path = self.list_path(key);
        let mut bytes = std::fs::read(&path).ok()?;
        let (body, checksum) = bytes.split_last_chunk::<32>()?;
        if Digest::of(body).as_bytes() != checksum {
            return None;
        }
        bytes.truncate(body.len());
        super::collect::renew(&path);
        Some(bytes)
    }

    /// Keeps a list for the next time, once [`Self::save`] is called.
    pub fn keep_list(&self, key: Digest, bytes: Vec<u8>) {
        self.lists.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(key, bytes);
    }

    fn list_path(&self, key: Digest) -> PathBuf {
        self.path.with_file_name(LISTS).join(key.hex())
    }

    /// Writes what is new to the memory of the cache. Whoever writes last wins; what another process wrote in between is kept.
    ///
    /// # Errors
    /// If it cannot be written; the message names the path.
    pub fn save(&self, store: &Store) -> std::io::Result<()> {
        let lists = std::mem::take(&mut *self.lists.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for (key, mut bytes) in lists {
            let checksum = Digest::of(&bytes);
            bytes.extend_from_slice(checksum.as_bytes());
            store.write(&self.list_path(key), &bytes, false)?;
        }
        let new = self.lock();
        let stale = self.stale.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if new.is_empty() && stale.is_empty() {
            return Ok(());
        }
        let mut all = std::fs::read(&self.path).ok().and_then(|bytes| decode(&bytes)).unwrap_or_default();
        all.retain(|path, _| !stale.contains(path));
        all.extend(new.iter().map(|(path, value)| (path.clone(), *value)));
        store.write(&self.path, &encode(&all), false)
    }

    /// Forgets the files that are gone, and says how many there are. With `dry` it only counts.
    ///
    /// # Errors
    /// If the memory cannot be written; the message names the path.
    pub(super) fn forget_missing(store: &Store, dry: bool) -> std::io::Result<usize> {
        let path = store.bucket().join("files.bin");
        let Some(mut all) = std::fs::read(&path).ok().and_then(|bytes| decode(&bytes)) else { return Ok(0) };
        let before = all.len();
        all.retain(|path, _| path.exists());
        if all.len() < before && !dry {
            store.write(&path, &encode(&all), false)?;
        }
        Ok(before - all.len())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, (Stamp, Digest)>> {
        self.new.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn hash(path: &Path, size: u64) -> std::io::Result<Digest> {
    if size <= SMALL {
        return Ok(Digest::of(&fs_err::read(path)?));
    }
    let mut hasher = blake3::Hasher::new();
    let mut file = fs_err::File::open(path)?;
    let mut buffer = vec![0; SMALL as usize];
    loop {
        match std::io::Read::read(&mut file, &mut buffer) {
            Ok(0) => return Ok(hasher.finalize().into()),
            // Many lanes at once; threads are already busy with other files.
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
    }
}

/// One record per file: digest, four numbers, length of the path, path; then the digest of all that. A memory with a flipped
/// bit would be a wrong result, hence the last one.
fn encode(all: &HashMap<PathBuf, (Stamp, Digest)>) -> Vec<u8> {
    let mut sorted: Vec<_> = all.iter().collect();
    sorted.sort_by_key(|(path, _)| *path);
    let mut bytes = MAGIC.to_vec();
    for (path, (stamp, digest)) in sorted {
        let Some(path) = path.to_str() else { continue };
        bytes.extend_from_slice(digest.as_bytes());
        bytes.extend_from_slice(&stamp.size.to_le_bytes());
        bytes.extend_from_slice(&stamp.modified.to_le_bytes());
        bytes.extend_from_slice(&stamp.changed.to_le_bytes());
        bytes.extend_from_slice(&stamp.inode.to_le_bytes());
        bytes.extend_from_slice(&(path.len() as u32).to_le_bytes());
        bytes.extend_from_slice(path.as_bytes());
    }
    let checksum = Digest::of(&bytes);
    bytes.extend_from_slice(checksum.as_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<HashMap<PathBuf, (Stamp, Digest)>> {
    let (body, checksum) = bytes.split_last_chunk::<32>()?;
    if Digest::of(body).as_bytes() != checksum {
        return None;
    }
    let mut rest = body.strip_prefix(MAGIC)?;
    let mut all = HashMap::with_capacity(rest.len() / 128);
    while !rest.is_empty() {
        let (digest, tail) = rest.split_first_chunk::<32>()?;
        let (numbers, tail) = tail.split_first_chunk::<32>()?;
        let (length, tail) = tail.split_first_chunk::<4>()?;
        let (path, tail) = tail.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let number = |index: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&numbers[index * 8..index * 8 + 8]);
            eight
        };
        let stamp = Stamp {
            size: u64::from_le_bytes(number(0)),
            modified: i64::from_le_bytes(number(1)),
            changed: i64::from_le_bytes(number(2)),
            inode: u64::from_le_bytes(number(3)),
        };
        all.insert(PathBuf::from(std::str::from_utf8(path).ok()?), (stamp, Digest::from_bytes(*digest)));
        rest = tail;
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_round_trips_and_a_damaged_one_is_empty() {
        let stamp = Stamp { size: 3, modified: -5, changed: 7, inode: 9 };
        let all = HashMap::from([(PathBuf::from("/a/b"), (stamp, Digest::of(b"abc")))]);
        let bytes = encode(&all);
        assert_eq!(decode(&bytes), Some(all));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(decode(&damaged), None, "byte {at}");
            assert_eq!(decode(&bytes[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn a_file_that_grows_while_it_is_read_is_noticed() {
        use std::io::Write as _;
        use std::sync::atomic::{AtomicBool, Ordering};
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("cache")).expect("a cache");
        let path = folder.path().join("growing");
        std::fs::write(&path, vec![7; 8 << 20]).expect("written");
        let done = AtomicBool::new(false);
        let noticed = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut file = std::fs::File::options().append(true).open(&path).expect("opened");
                while !done.load(Ordering::Relaxed) {
                    file.write_all(b"more").expect("written");
                }
            });
            let files = Files::load(&store);
            let noticed = (0..50).any(|_| matches!(files.digests(&[&path]), Err(HashError::Changing(_))));
            done.store(true, Ordering::Relaxed);
            noticed
        });
        assert!(noticed);
    }

    #[test]
    fn a_settled_file_is_remembered_and_an_edit_is_seen() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("cache")).expect("a cache");
        let path = folder.path().join("a");
        std::fs::write(&path, b"one").expect("written");
        let files = Files::load(&store);
        assert_eq!(files.digests(&[&path]).expect("read")[0], (Digest::of(b"one"), 3));
        // Just written: not remembered, as its time would not tell an edit in the same instant.
        assert!(files.lock().is_empty());
        std::fs::write(&path, b"two").expect("written");
        assert_eq!(files.digests(&[&path]).expect("read")[0], (Digest::of(b"two"), 3));
        assert!(matches!(files.digests(&[folder.path()]), Err(HashError::NotAFile(_))));
    }
}
