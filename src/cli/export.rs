//! `orandflow export`: a stage's result as files that other programs read.

use std::path::PathBuf;
use std::process::ExitCode;

use super::Failure;
use super::common::{PipelineArgs, deliver};
use super::engine::CacheDir;
use super::remote::RemoteArgs;
use super::run::remember;
use crate::artifact::export::{Format, Source, export as write};
use crate::data::voc;
use crate::digest::Digest;
use crate::kind::Kind;
use crate::plan::prepare::Planner;
use crate::report::text::count;
use crate::run::{Survey, choose};
use crate::store::Store;
use crate::store::files::Files;
use crate::store::manifest::{Entry, Manifest};

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

    /// The form, where a result has several
    #[arg(long, value_enum, hide_default_value = true)]
    format: Option<Form>,

    #[command(flatten)]
    cache: CacheDir,

    #[command(flatten)]
    remote: RemoteArgs,
}

/// A form of a result.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Form {
    /// Maps: `ID.npy` (f32, classes x height x width) and `ID.classes.npy` [usual for maps]
    Npy,
    /// Maps: one file per image, with the maps at stride 4; weights: `weights.safetensors` [usual for weights]
    Safetensors,
    /// Maps: `ID.npy` with IRN's dict of `keys`, `cam` and `high_res`, all of them NumPy arrays
    Irn,
    /// The same with `keys` and `cam` as tensors of PyTorch, as IRN's own scripts expect them
    IrnTorch,
    /// Maps: `ID.npy` with MCTformer's dict of a map for each class
    Mctformer,
    /// Weights: `weights.pth`, which `torch.load` and `load_state_dict` of the reference programs take
    Pth,
    /// Masks: `ID.png` with the colours of PASCAL VOC [usual for masks]
    Png,
    /// Masks: `results.tar.gz` for the PASCAL VOC server, each size and value checked
    VocTest,
}

impl From<Form> for Format {
    fn from(form: Form) -> Self {
        match form {
            Form::Npy => Self::Npy,
            Form::Safetensors => Self::Safetensors,
            Form::Irn => Self::Irn,
            Form::IrnTorch => Self::IrnTorch,
            Form::Mctformer => Self::Mctformer,
            Form::Pth => Self::Pth,
            Form::Png => Self::Png,
            Form::VocTest => Self::VocTest,
        }
    }
}

/// Runs `export`.
pub(crate) fn export(args: &ExportArgs) -> Result<ExitCode, Failure> {
    let format = args.format.map(Format::from);
    let written =
        with_result(&args.pipeline, &args.stage, &args.cache, &args.remote, |manifest, source, photographs| {
            if format == Some(Format::VocTest) && matches!(manifest.kind, Kind::MaskSet | Kind::SeedSet) {
                voc_classes(manifest, &args.stage)?;
            }
            write(manifest, source, &args.to, format, photographs).map_err(failed)
        })?;
    deliver(&format!("{} in {}\n", count(written, "file"), args.to.display()), None)
}

/// Finds the present result of a stage in the cache, and calls `see` with it, with what reads its parts, and with the image sets of
/// the stages before it.
pub(crate) fn with_result<T>(
    pipeline: &PipelineArgs,
    stage: &str,
    cache: &CacheDir,
    remote: &RemoteArgs,
    see: impl FnOnce(&Manifest, &Cache<'_>, &[&Manifest]) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let plan = pipeline.load()?;
    let chosen = choose(&plan, &[stage.to_owned()]).map_err(Failure::Diagnostics)?;
    let store = cache.open()?;
    remote.read(&store)?;
    let files = Files::load(&store);
    let planner = Planner::new(&store, &files);
    let survey = Survey::of(&plan, &chosen, &planner);
    remember(&files, &store);
    let outcome = survey.map_err(Failure::Diagnostics)?.outcome(&plan, &store);
    let step = outcome.steps.iter().find(|step| plan.steps[step.step].name == stage);
    let Some(artifact) = step.and_then(|step| step.output.as_ref()) else {
        let because = step.map(|step| step.reason.as_str()).filter(|reason| !reason.is_empty());
        let because = because.map_or(String::new(), |reason| format!(": {reason}"));
        return Err(Failure::Message {
            message: format!("stage `{stage}` has no result yet{because}"),
            help: Some(format!("make it: orandflow run {} --only {stage}", pipeline.file.display())),
            code: 1,
        });
    };
    let manifest = artifact.manifest.load().map_err(|message| Failure::Message {
        message,
        help: Some("run the pipeline again; it makes what is gone".to_owned()),
        code: 1,
    })?;
    let results = outcome.steps.iter().filter_map(|step| step.output.as_ref());
    let photographs: Vec<&Manifest> =
        results.map(|artifact| &**artifact.manifest).filter(|manifest| manifest.kind == Kind::ImageSet).collect();
    see(manifest, &Cache { store: &store, planner: &planner }, &photographs)
}

fn failed(message: String) -> Failure {
    Failure::Message { message, help: None, code: 1 }
}

/// Refuses masks of other classes than the server's.
fn voc_classes(manifest: &Manifest, stage: &str) -> Result<(), Failure> {
    let list = manifest.meta.get("classes").and_then(|list| list.as_array());
    let names = list.map(|list| list.iter().filter_map(|name| name.as_str()).collect::<Vec<_>>());
    if names.is_some_and(|names| names == voc::CLASSES) {
        return Ok(());
    }
    Err(failed(format!("the masks of stage `{stage}` have other classes than the 21 of PASCAL VOC, in their order")))
}

/// Reads what a result consists of: blobs of the cache, and files of the data set.
pub(crate) struct Cache<'a> {
    pub(crate) store: &'a Store,
    pub(crate) planner: &'a Planner<'a>,
}

impl Source for Cache<'_> {
    fn entry(&self, entry: &Entry) -> Result<Vec<u8>, String> {
        self.store.get(entry.digest).map_err(|error| error.to_string())
    }

    fn content(&self, digest: Digest) -> Result<Vec<u8>, String> {
        let Some(path) = self.planner.location(digest) else {
            return self.store.get(digest).map_err(|error| error.to_string());
        };
        let bytes = fs_err::read(&path).map_err(|error| error.to_string())?;
        if Digest::of(&bytes) == digest { Ok(bytes) } else { Err(format!("`{}` has just changed", path.display())) }
    }
}
