//! The program: hands over to the command line.

mod allocator;

fn main() -> std::process::ExitCode {
    allocator::keep_freed_memory();
    orandflow::cli::main()
}
