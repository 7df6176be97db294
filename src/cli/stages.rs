//! `orandflow stages`.

use super::Failure;
use std::process::ExitCode;

/// Arguments of `stages`.
#[derive(Debug, clap::Args)]
pub(crate) struct StagesArgs {}

/// Runs `stages`.
pub(crate) fn stages(_args: &StagesArgs) -> Result<ExitCode, Failure> {
    Err(Failure::Message { message: "not built yet".into(), help: None, code: 2 })
}
