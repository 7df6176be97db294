//! `orandflow schema`.

use super::Failure;
use std::process::ExitCode;

/// Arguments of `schema`.
#[derive(Debug, clap::Args)]
pub(crate) struct SchemaArgs {}

/// Runs `schema`.
pub(crate) fn schema(_args: &SchemaArgs) -> Result<ExitCode, Failure> {
    Err(Failure::Message { message: "not built yet".into(), help: None, code: 2 })
}
