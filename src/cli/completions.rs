//! `orandflow completions`.

use super::Failure;
use std::process::ExitCode;

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {}

/// Runs `completions`.
pub(crate) fn completions(_args: &CompletionsArgs) -> Result<ExitCode, Failure> {
    Err(Failure::Message { message: "not built yet".into(), help: None, code: 2 })
}
