//! `orandflow plan`.

use super::Failure;
use std::process::ExitCode;

/// Arguments of `plan`.
#[derive(Debug, clap::Args)]
pub(crate) struct PlanArgs {}

/// Runs `plan`.
pub(crate) fn plan(_args: &PlanArgs) -> Result<ExitCode, Failure> {
    Err(Failure::Message { message: "not built yet".into(), help: None, code: 2 })
}
