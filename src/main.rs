//! The program: hands over to the command line.

/// Keeps freed memory for the next tensor. glibc gives blocks of this size back to the system, and taking them again page by
/// page costs as much as the arithmetic.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    orandflow::cli::main()
}
