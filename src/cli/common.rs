//! Arguments that several verbs share.

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::Failure;
use crate::plan::{self, Plan};
use crate::stages;

/// A pipeline file and the values that the command line puts in place of its own.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PipelineArgs {
    /// The pipeline file
    pub(crate) file: PathBuf,

    /// Put a value in place of the file's: `stages.NAME.PARAMETER=VALUE`, `stages.NAME.inputs.PORT=STAGE`,
    /// `vars.NAME=VALUE` or `pipeline.seed=N`
    ///
    /// VALUE is read as TOML, and as a plain string if it is none. May be repeated; the last one counts.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub(crate) set: Vec<String>,
}

impl PipelineArgs {
    /// Reads the file and checks it against the catalogue.
    pub(crate) fn load(&self) -> Result<Plan, Failure> {
        plan::load(&self.file, &self.set, stages::catalog()).map_err(Failure::Diagnostics)
    }
}

/// Writes a verb's result to a file, or to stdout. A reader of stdout that has gone away is no failure.
pub(crate) fn deliver(text: &str, out: Option<&Path>) -> Result<ExitCode, Failure> {
    let written = match out {
        Some(path) => fs_err::write(path, text),
        None => std::io::stdout().lock().write_all(text.as_bytes()),
    };
    match written {
        Err(error) if out.is_some() || error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::Message { message: error.to_string(), help: None, code: 1 })
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
