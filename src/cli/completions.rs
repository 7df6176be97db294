//! `orandflow completions`: a script for a shell, made from the definition of the command line itself.

use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::common::deliver;
use super::{Cli, Failure};

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Runs `completions`.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "orandflow", &mut script);
    deliver(&String::from_utf8_lossy(&script), None)
}
