//! `orandflow graph`.

use super::Failure;
use std::process::ExitCode;

/// Arguments of `graph`.
#[derive(Debug, clap::Args)]
pub(crate) struct GraphArgs {}

/// Runs `graph`.
pub(crate) fn graph(_args: &GraphArgs) -> Result<ExitCode, Failure> {
    Err(Failure::Message { message: "not built yet".into(), help: None, code: 2 })
}
