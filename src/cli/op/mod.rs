//! `orandflow op`: single operations of the craft on plain files, one file per operation. Knows no pipeline and no cache.

mod arrays;
mod crf;
mod forward;
mod fuse;
mod threshold;
mod walk;

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
    /// Refine labels or probabilities by a dense CRF, with pydensecrf's meaning of every number
    Crf(crf::CrfArgs),
    /// Spread maps along the affinities of an edge map: IRN's random walk
    Walk(walk::WalkArgs),
    /// Unite two sets of maps: a + b - a b
    Or(fuse::FuseArgs),
    /// Intersect two sets of maps: a b
    And(fuse::FuseArgs),
    /// Average two sets of maps
    Average(fuse::FuseArgs),
    /// Turn maps into a mask: the highest map above a constant background
    Threshold(threshold::ThresholdArgs),
}

/// Runs one operation.
pub(crate) fn op(args: &OpArgs) -> Result<ExitCode, Failure> {
    use crate::image::cam::Operation as Algebra;
    match &args.operation {
        Operation::Forward(args) => forward::forward(args),
        Operation::Crf(args) => crf::crf(args),
        Operation::Walk(args) => walk::walk(args),
        Operation::Or(args) => fuse::fuse(args, Algebra::Or),
        Operation::And(args) => fuse::fuse(args, Algebra::And),
        Operation::Average(args) => fuse::fuse(args, Algebra::Average),
        Operation::Threshold(args) => threshold::threshold(args),
    }
}

/// Reads a file that the user named.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs_err::read(path).map_err(|error| Failure::Message { message: error.to_string(), help: None, code: 2 })
}

/// Writes the result.
fn write(path: &Path, bytes: &[u8]) -> Result<ExitCode, Failure> {
    match fs_err::write(path, bytes) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(Failure::Message { message: error.to_string(), help: None, code: 1 }),
    }
}

/// Says what is wrong with a file or a value that the user gave.
fn refuse(message: String, help: Option<&str>) -> Failure {
    Failure::Message { message, help: help.map(str::to_owned), code: 2 }
}
