//! `orandflow cache`.

use super::Failure;
use std::process::ExitCode;

/// Arguments of `cache`.
#[derive(Debug, clap::Args)]
pub(crate) struct CacheArgs {}

/// Runs `cache`.
pub(crate) fn cache(_args: &CacheArgs) -> Result<ExitCode, Failure> {
    Err(Failure::Message { message: "not built yet".into(), help: None, code: 2 })
}
