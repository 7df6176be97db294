//! `orandflow graph`.

use super::Failure;
use super::common::PipelineArgs;
use std::process::ExitCode;

/// Arguments of `graph`.
#[derive(Debug, clap::Args)]
pub(crate) struct GraphArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
}

/// Runs `graph`.
pub(crate) fn graph(args: &GraphArgs) -> Result<ExitCode, Failure> {
    args.pipeline.load()?;
    Err(Failure::Message { message: "not built yet".into(), help: None, code: 2 })
}
