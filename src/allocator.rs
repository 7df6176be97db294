//! The program's allocator, shared with the benchmarks: mimalloc, told to keep what was freed.

/// Keeps freed memory for the next tensor. glibc gives blocks of this size back to the system, and a training takes them
/// again page by page.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` in the `mimalloc.h` of versions 2 and 3; the crate has no name for it.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Stops the allocator from giving pages back after a second: the system would clear them anew at the next training step.
/// `docs/performance.md` has what it brings.
#[expect(unsafe_code, reason = "the allocator's options can only be set through its C interface")]
pub(crate) fn keep_freed_memory() {
    // SAFETY: the function stores a number in a table of options, and may be called at any time.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) }
}
