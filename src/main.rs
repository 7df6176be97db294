//! The program: hands over to the command line.

/// Keeps freed memory for the next tensor. glibc gives blocks of this size back to the system, and a training takes them
/// again page by page.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    orandflow::cli::main()
}
