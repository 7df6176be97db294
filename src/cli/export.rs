//! `orandflow export`.

use super::Failure;
use std::process::ExitCode;

/// Arguments of `export`.
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {}

/// Runs `export`.
pub(crate) fn export(_args: &ExportArgs) -> Result<ExitCode, Failure> {
    Err(Failure::Message { message: "not built yet".into(), help: None, code: 2 })
}
