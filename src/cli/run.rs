//! `orandflow run`.

use super::Failure;
use std::process::ExitCode;

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {}

/// Runs `run`.
pub(crate) fn run(_args: &RunArgs) -> Result<ExitCode, Failure> {
    Err(Failure::Message { message: "not built yet".into(), help: None, code: 2 })
}
