//! `orandflow export`: a stage's result as files that other programs read.

use std::path::PathBuf;
use std::process::ExitCode;

use super::Failure;
use super::common::{PipelineArgs, deliver};
use super::engine::{CacheDir, outside};
use crate::artifact::export::{Format, Source, export as write};
use crate::digest::Digest;
use crate::plan::prepare::Planner;
use crate::report::text::count;
use crate::run::{Survey, choose};
use crate::store::Store;
use crate::store::files::Files;
use crate::store::manifest::Entry;

/// Arguments of `export`.
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,

    /// The stage
    stage: String,

    /// The folder to write to; it is made if it is not there, and files of other names in it are left alone
    #[arg(long, value_name = "DIR")]
    to: PathBuf,

    /// How CAM sets and score sets are written: `npy` gives `ID.npy` (f32, classes x height x width) and `ID.classes.npy`,
    /// `safetensors` one file per image [default: npy]
    #[arg(long, value_enum, hide_default_value = true)]
    format: Option<MapFormat>,

    #[command(flatten)]
    cache: CacheDir,
}

/// A form of maps.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum MapFormat {
    /// Plain npy files
    Npy,
    /// One safetensors file per image
    Safetensors,
}

/// Runs `export`.
pub(crate) fn export(args: &ExportArgs) -> Result<ExitCode, Failure> {
    let plan = args.pipeline.load()?;
    let chosen = choose(&plan, std::slice::from_ref(&args.stage)).map_err(Failure::Diagnostics)?;
    let store = args.cache.open()?;
    let files = Files::load(&store);
    let planner = Planner::new(&store, &files);
    let survey = Survey::of(&plan, &chosen, &planner);
    files.save(&store).map_err(|error| outside(&error))?;
    let outcome = survey.map_err(Failure::Diagnostics)?.outcome(&plan, &store);
    let step = outcome.steps.iter().find(|step| plan.steps[step.step].name == args.stage);
    let Some(artifact) = step.and_then(|step| step.output.as_ref()) else {
        let because = step.map(|step| step.reason.as_str()).filter(|reason| !reason.is_empty());
        let because = because.map_or(String::new(), |reason| format!(": {reason}"));
        return Err(Failure::Message {
            message: format!("stage `{}` has no result yet{because}", args.stage),
            help: Some(format!("make it: orandflow run {} --only {}", args.pipeline.file.display(), args.stage)),
            code: 1,
        });
    };
    let format = args.format.map(|format| match format {
        MapFormat::Npy => Format::Npy,
        MapFormat::Safetensors => Format::Safetensors,
    });
    let source = Cache { store: &store, planner: &planner };
    let written = write(&artifact.manifest, &source, &args.to, format).map_err(|message| Failure::Message {
        message,
        help: None,
        code: 1,
    })?;
    deliver(&format!("{} in {}\n", count(written, "file"), args.to.display()), None)
}

/// Reads what a result consists of: blobs of the cache, and files of the data set.
struct Cache<'a> {
    store: &'a Store,
    planner: &'a Planner<'a>,
}

impl Source for Cache<'_> {
    fn entry(&self, entry: &Entry) -> Result<Vec<u8>, String> {
        self.store.get(entry.digest).map_err(|error| error.to_string())
    }

    fn content(&self, digest: Digest) -> Result<Vec<u8>, String> {
        match self.planner.location(digest) {
            Some(path) => fs_err::read(path).map_err(|error| error.to_string()),
            None => self.store.get(digest).map_err(|error| error.to_string()),
        }
    }
}
