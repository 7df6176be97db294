//! `cache/`: blobs by digest and records of actions, in plain files.
//!
//! Layout: `v1/cas/ab/abcd…` blobs, `v1/ac/ab/abcd….json` records of actions, `v1/last/` the last action of each stage, `v1/pins/`
//! what is never collected,
//! `v1/files.bin` remembered digests of data files, `v1/lists/` remembered lists of them, `v1/claims/` who computes what,
//! `v1/checkpoints/` what long
//! actions need to go on, `v1/tmp/` work under way, one folder per
//! process, `runs/` one folder per run. There is no lock: every file is written elsewhere and renamed into place, and whoever
//! writes the same name writes the same content.

pub mod actions;
pub mod blobs;
pub mod bundle;
pub mod checkpoints;
pub mod claims;
pub mod collect;
pub mod files;
pub mod manifest;
pub mod owner;
pub mod remote;

use std::collections::HashSet;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, SystemTime};

use owner::Owner;
pub use owner::host;

use crate::digest::Digest;

/// Version of the layout: it names the folder below the cache, so that two versions never read each other's files.
///
/// - 1: blobs, records, last actions, remembered digests of data files.
pub const VERSION: u32 = 1;

/// What the file `VERSION` holds.
const VERSION_TEXT: &str = "1\n";

/// The folders of a cache.
const FOLDERS: [&str; 5] = ["cas", "ac", "last", "tmp", "claims"];

/// Folders of work that another host left behind are removed after this long; those of this host as soon as their process
/// is gone.
const ABANDONED: Duration = Duration::from_secs(7 * 24 * 3600);

/// The text that tells backup programs to leave a folder out (bford.info/cachedir).
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# This folder holds what orandflow computed.\n";

/// The cache folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the cache `{}` cannot be written: {cause}", path.display())]
pub struct OpenError {
    /// The folder.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub cause: std::io::Error,
}

/// The `cache/` folder. Clones are the same store.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    bucket: PathBuf,
    own: PathBuf,
    watch: claims::Watch,
    heart: claims::Heart,
    /// Blobs that somebody asked for in vain.
    gone: Mutex<HashSet<Digest>>,
    /// Blobs that are there and that this process cannot read.
    unreadable: blobs::Unreadable,
    /// Whether this process runs a pipeline.
    runs: AtomicBool,
    remote: OnceLock<remote::Remote>,
}

impl Store {
    /// Opens the cache in `root`, and makes it where it is missing.
    ///
    /// # Errors
    /// If the folder cannot be made or cannot be written.
    pub fn open(root: &Path) -> Result<Self, OpenError> {
        Self::try_open(root).map_err(|cause| OpenError { path: root.to_owned(), cause })
    }

    fn try_open(root: &Path) -> std::io::Result<Self> {
        let bucket = root.join(format!("v{VERSION}"));
        for name in FOLDERS {
            std::fs::create_dir_all(bucket.join(name))?;
        }
        // Made on every opening: this is how an unwritable cache is found before anything runs.
        // Absolute, lest every temporary file ask for the working folder.
        let own = std::path::absolute(bucket.join("tmp").join(Owner::this().to_string()))?;
        std::fs::create_dir_all(&own)?;
        let inner = Inner {
            root: root.to_owned(),
            bucket,
            own,
            watch: Default::default(),
            heart: Default::default(),
            gone: Mutex::default(),
            unreadable: Default::default(),
            runs: AtomicBool::new(false),
            remote: OnceLock::new(),
        };
        let store = Self(Arc::new(inner));
        store.remove_abandoned();
        store.tidy_claims();
        store.tidy_checkpoints();
        for (path, text) in [(root.join("CACHEDIR.TAG"), TAG), (store.bucket().join("VERSION"), VERSION_TEXT)] {
            if std::fs::read(&path).map_or(true, |found| found != text.as_bytes()) {
                store.write(&path, text.as_bytes(), false)?;
            }
        }
        Ok(store)
    }

    /// Returns the cache folder.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// Returns the folder of this version's files.
    pub(crate) fn bucket(&self) -> &Path {
        &self.0.bucket
    }

    /// Returns the folder of what this process has under way.
    fn own(&self) -> &Path {
        &self.0.own
    }

    fn folder_of(&self, owner: &Owner) -> PathBuf {
        self.bucket().join("tmp").join(owner.to_string())
    }

    fn watch(&self) -> &claims::Watch {
        &self.0.watch
    }

    fn heart(&self) -> &claims::Heart {
        &self.0.heart
    }

    fn downgrade(&self) -> Weak<Inner> {
        Arc::downgrade(&self.0)
    }

    /// Makes an empty folder for one action; it is removed when the value goes.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn scratch(&self) -> std::io::Result<tempfile::TempDir> {
        self.in_own(|own| tempfile::Builder::new().prefix("action-").tempdir_in(own))
    }

    /// Makes an empty file that is removed when the value goes, unless it is moved to its place before.
    fn temporary(&self) -> std::io::Result<tempfile::NamedTempFile> {
        self.in_own(|own| {
            let mut builder = tempfile::Builder::new();
            #[cfg(unix)]
            // Whoever shares the cache reads what others wrote, as far as the user's mask allows.
            builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
            builder.tempfile_in(own)
        })
    }

    /// Makes something in the folder of this process, which somebody may have tidied away.
    fn in_own<T>(&self, make: impl Fn(&Path) -> std::io::Result<T>) -> std::io::Result<T> {
        match make(self.own()) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                std::fs::create_dir_all(self.own())?;
                make(self.own())
            }
            other => other,
        }
    }

    /// Makes a folder for one run, `runs/20261124-204306-ab12`.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn run_folder(&self) -> std::io::Result<PathBuf> {
        let now = jiff::Timestamp::now();
        let time = now.strftime("%Y%m%d-%H%M%S");
        let unique = format!("{}{}", Owner::this(), now.as_nanosecond());
        let short = &crate::digest::Digest::of(unique.as_bytes()).short()[..4];
        let folder = self.root().join("runs").join(format!("{time}-{short}"));
        fs_err::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Writes a file by way of a temporary one, so that nobody ever sees half of it.
    pub(crate) fn write(&self, path: &Path, bytes: &[u8], sync: bool) -> std::io::Result<()> {
        let named = |cause: std::io::Error| std::io::Error::new(cause.kind(), unwritten(path, bytes.len(), &cause));
        let mut file = self.temporary().map_err(named)?;
        file.write_all(bytes).map_err(named)?;
        self.move_to(file, path, bytes.len(), sync)
    }

    /// Moves a temporary file of so many bytes to its place.
    fn move_to(&self, file: tempfile::NamedTempFile, path: &Path, bytes: usize, sync: bool) -> std::io::Result<()> {
        let named = |cause: std::io::Error| std::io::Error::new(cause.kind(), unwritten(path, bytes, &cause));
        if sync {
            file.as_file().sync_all().map_err(named)?;
        }
        let file = match file.persist(path) {
            Err(error) if error.error.kind() == ErrorKind::NotFound => {
                // The folder of this prefix is made when it is first needed.
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent).map_err(named)?;
                }
                error.file.persist(path)
            }
            other => other,
        };
        file.map(drop).map_err(|error| named(error.error))
    }

    /// Removes what processes that are gone left in `tmp`.
    fn remove_abandoned(&self) {
        let Ok(entries) = std::fs::read_dir(self.bucket().join("tmp")) else { return };
        // By the clock of whoever keeps the files, as this machine's may be wrong: the own folder has just been made.
        let now = self.own().metadata().and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        for path in entries
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .filter(|path| path.file_name() != self.own().file_name())
        {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let gone = match name.parse::<Owner>().ok().and_then(|owner| owner.lives()) {
                Some(lives) => !lives,
                // The file that beats is younger than the folder.
                None => [path.join(claims::BEAT_FILE), path.clone()].iter().all(|path| is_abandoned(path, now)),
            };
            if gone {
                // Whoever else tidies up at the same time may have been faster.
                let _ = std::fs::remove_dir_all(&path);
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for name in [claims::BEAT_FILE, collect::RUN_FILE] {
            let _ = std::fs::remove_file(self.own.join(name));
        }
        // Another store of this process may still use the folder; then it is not empty or is made again.
        let _ = std::fs::remove_dir(&self.own);
    }
}

/// Whether nothing has changed there for so long before `now` that nobody will come back; also if there is nothing.
fn is_abandoned(path: &Path, now: SystemTime) -> bool {
    let modified = path.metadata().and_then(|metadata| metadata.modified());
    modified.map_or(true, |time| now.duration_since(time).is_ok_and(|age| age > ABANDONED))
}

/// Says that a file could not be written and, where there was no room for it, how much it takes.
fn unwritten(path: &Path, bytes: usize, cause: &std::io::Error) -> String {
    match cause.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            format!("`{}` needs {bytes} bytes, and there is no room for them: {cause}", path.display())
        }
        _ => format!("`{}` cannot be written: {cause}", path.display()),
    }
}
