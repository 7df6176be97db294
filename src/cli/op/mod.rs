//! `orandflow op`: single operations of the craft on plain files, one file per operation. Knows no pipeline and no cache.

mod forward;

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;

use super::Failure;

/// Arguments of `orandflow op`.
#[derive(Debug, clap::Args)]
pub(crate) struct OpArgs {
    #[command(subcommand)]
    operation: Operation,
}

#[derive(Debug, Subcommand)]
enum Operation {
    /// Run a network on one image and write its outputs as named tensors
    Forward(forward::ForwardArgs),
}

/// Runs one operation.
pub(crate) fn op(args: &OpArgs) -> Result<ExitCode, Failure> {
    match &args.operation {
        Operation::Forward(args) => forward::forward(args),
    }
}

/// Reads a file that the user named.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs_err::read(path).map_err(|error| Failure::Message { message: error.to_string(), help: None, code: 2 })
}

/// Says what is wrong with a file or a value that the user gave.
fn refuse(message: String, help: Option<&str>) -> Failure {
    Failure::Message { message, help: help.map(str::to_owned), code: 2 }
}
