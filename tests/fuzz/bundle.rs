//! Fuzzes the reader of bundles: no input may make it panic, take more memory than unpacking is allowed, or leave anything
//! behind that was not verified. The input is the tar file; it is packed here, as nobody gets past zstd's own checksum by chance.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::Ordering;

use libfuzzer_sys::fuzz_target;

mod counting;
#[path = "../../src/digest.rs"]
mod digest;
#[path = "../../src/kind.rs"]
mod kind;
#[path = "../../src/store/mod.rs"]
mod store;

use counting::{MOST, NOW};
use store::Store;
use store::actions::Lookup;
use store::bundle::{Limits, read_index};

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

fuzz_target!(|bytes: &[u8]| {
    let (path, cache): (PathBuf, PathBuf) = (FOLDER.path().join("x.tar.zst"), FOLDER.path().join("cache"));
    std::fs::write(&path, zstd::encode_all(bytes, 1).expect("packed")).expect("written");
    let store = Store::open(&cache).expect("a cache");
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let _ = read_index(&path);
    let taken = store.import_bundle(&path, Limits::default());
    // Texts of the tar file as they are and as they are read, and the buffers of pieces that are copied.
    let most = 32 * bytes.len() + (8 << 20);
    let peak = MOST.load(Ordering::Relaxed).saturating_sub(before);
    assert!(peak <= most, "{peak} bytes of memory for {} bytes of input", bytes.len());
    let records = store.records().expect("they can be listed");
    assert!(records.damaged.is_empty() && records.closed.is_empty());
    assert!(taken.is_ok() || records.readable.is_empty());
    for (key, record) in &records.readable {
        assert!(matches!(store.lookup(*key), Lookup::Hit(_)));
        for (digest, _) in record.blobs.iter().filter(|_| !record.elsewhere) {
            store.get(*digest).expect("intact");
        }
    }
    drop((taken, store));
    std::fs::remove_dir_all(&cache).expect("removed");
});
