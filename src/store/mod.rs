//! `cache/`: blobs by digest and records of actions, in plain files.
//!
//! Layout: `v1/cas/ab/abcd…` blobs, `v1/ac/ab/abcd….json` records of actions, `v1/last/` the last action of each stage,
//! `v1/files.bin` remembered digests of data files, `v1/tmp/` work under way, `runs/` one folder per run. There is no lock:
//! every file is written elsewhere and renamed into place, and whoever writes the same name writes the same content.

pub mod actions;
pub mod blobs;
pub mod files;
pub mod manifest;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Version of the layout: it names the folder below the cache, so that two versions never read each other's files.
///
/// - 1: blobs, records, last actions, remembered digests of data files.
pub const VERSION: u32 = 1;

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

/// The `cache/` folder.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    bucket: PathBuf,
    own: PathBuf,
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
        for name in ["cas", "ac", "last", "tmp"] {
            std::fs::create_dir_all(bucket.join(name))?;
        }
        let own = bucket.join("tmp").join(format!("{}.{}", host(), std::process::id()));
        remove_abandoned(&bucket.join("tmp"), &own);
        std::fs::create_dir_all(&own)?;
        let store = Self { root: root.to_owned(), bucket, own };
        let tag = root.join("CACHEDIR.TAG");
        if !tag.exists() {
            store.write(&tag, TAG.as_bytes(), false)?;
        }
        // Written on every opening: this is how an unwritable cache is found before anything runs.
        store.write(&store.bucket.join("VERSION"), format!("{VERSION}\n").as_bytes(), false)?;
        Ok(store)
    }

    /// Returns the cache folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the folder of this version's files.
    pub(crate) fn bucket(&self) -> &Path {
        &self.bucket
    }

    /// Makes an empty folder for one action; it is removed when the value goes.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn scratch(&self) -> std::io::Result<tempfile::TempDir> {
        tempfile::Builder::new().prefix("action-").tempdir_in(&self.own)
    }

    /// Makes a folder for one run, `runs/20261124-204306-ab12`.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn run_folder(&self) -> std::io::Result<PathBuf> {
        let now = jiff::Timestamp::now();
        let time = now.strftime("%Y%m%d-%H%M%S");
        let unique = format!("{}{}{}", host(), std::process::id(), now.as_nanosecond());
        let short = &crate::digest::Digest::of(unique.as_bytes()).short()[..4];
        let folder = self.root.join("runs").join(format!("{time}-{short}"));
        fs_err::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Writes a file by way of a temporary one, so that nobody ever sees half of it.
    pub(crate) fn write(&self, path: &Path, bytes: &[u8], sync: bool) -> std::io::Result<()> {
        let named = |cause: std::io::Error| std::io::Error::new(cause.kind(), format!("{}: {cause}", path.display()));
        let mut file = tempfile::Builder::new().tempfile_in(&self.own).map_err(named)?;
        file.write_all(bytes).map_err(named)?;
        if sync {
            file.as_file().sync_all().map_err(named)?;
        }
        let file = match file.persist(path) {
            Err(error) if error.error.kind() == std::io::ErrorKind::NotFound => {
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
}

impl Drop for Store {
    fn drop(&mut self) {
        // Another store of this process may still use the folder; then it is not empty or is made again.
        let _ = std::fs::remove_dir(&self.own);
    }
}

/// Removes what processes that are gone left in `tmp`.
fn remove_abandoned(tmp: &Path, own: &Path) {
    let Ok(entries) = std::fs::read_dir(tmp) else { return };
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path != own) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let here = name.rsplit_once('.').filter(|(name, _)| *name == host()).map(|(_, process)| process);
        let gone = match here {
            Some(process) if Path::new("/proc/self").exists() => !Path::new("/proc").join(process).exists(),
            _ => path
                .metadata()
                .and_then(|metadata| metadata.modified())
                .is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age > ABANDONED)),
        };
        if gone {
            // Whoever else tidies up at the same time may have been faster.
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

/// Returns the name of this machine.
pub fn host() -> &'static str {
    static HOST: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    HOST.get_or_init(|| {
        ["/proc/sys/kernel/hostname", "/etc/hostname"]
            .iter()
            .find_map(|path| std::fs::read_to_string(path).ok())
            .or_else(|| std::env::var("HOSTNAME").ok())
            .map(|name| name.trim().replace(['/', '.'], "-"))
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "unknown".to_owned())
    })
}
