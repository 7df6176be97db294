//! Fuzzes the readers of NumPy's, PyTorch's and MATLAB's files: no input may make them panic, recurse, or take more memory than their
//! budget and what the allocator rounds up to.
#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use libfuzzer_sys::fuzz_target;

#[path = "../../src/foreign/mod.rs"]
mod foreign;

use foreign::{Tree, View, mat, npy, torch};

/// Counts what is allocated.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on to the system's allocator; only numbers are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(now, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn look(view: View<'_, '_>) {
    let _ = (view.floats().map(drop), view.integers().map(drop), view.text().map(str::len));
}

fn exhaust(tree: &Tree<'_>) {
    let root = tree.root().item();
    look(root);
    for (key, value) in root.entries().into_iter().flatten() {
        look(key);
        look(value);
    }
    for member in root.members().into_iter().flatten() {
        look(member);
    }
    let _ = torch::state_dict(root).map(|tensors| tensors.into_values().for_each(look));
}

fuzz_target!(|bytes: &[u8]| {
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    if mat::is_mat(bytes) {
        let _ = mat::read(bytes, &["GTcls", "Segmentation"]);
    }
    let read = if bytes.starts_with(npy::MAGIC) { npy::read(bytes) } else { torch::read(bytes) };
    if let Ok(tree) = &read {
        exhaust(tree);
    }
    drop(read);
    // The budget, and 4 MiB for the machine itself and the text of an error.
    let most = 32 * bytes.len() + (20 << 20);
    let taken = MOST.load(Ordering::Relaxed).saturating_sub(before);
    assert!(taken <= most, "{taken} bytes of memory for {} bytes of input", bytes.len());
});
