//! Arguments that several verbs share.

use std::path::PathBuf;

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
