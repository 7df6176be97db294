//! Fuzzes the readers of NumPy's, PyTorch's and MATLAB's files: no input may make them panic, recurse, or take more memory than their
//! budget and what the allocator rounds up to.
#![no_main]

use std::sync::atomic::Ordering;

use libfuzzer_sys::fuzz_target;

mod counting;
#[path = "../../src/foreign/mod.rs"]
mod foreign;

use counting::{MOST, NOW};
use foreign::{Tree, View, mat, npy, torch};

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
