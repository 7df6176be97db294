//! `orandflow bundle`: results with where they come from as one file, for another cache.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::Failure;
use super::common::{PipelineArgs, deliver};
use super::engine::CacheDir;
use super::run::survey;
use crate::kind::Kind;
use crate::pipeline::resources::bytes;
use crate::report::text::{Align, count, size, table};
use crate::run::StepOutcome;
use crate::store::bundle::{BundleError, Chosen, Index, Limits, Taken, read_index};

/// Arguments of `bundle`.
#[derive(Debug, clap::Args)]
pub(crate) struct BundleArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Write results of a pipeline to a file, with what is known of all results that they were made from
    Export(Export),
    /// Take the results of a file into the cache, once every byte of it has been verified
    Import(Import),
    /// List what a file holds
    List(List),
}

#[derive(Debug, clap::Args)]
struct Export {
    #[command(flatten)]
    pipeline: PipelineArgs,

    /// The stages [default: all that have a result]
    stages: Vec<String>,

    /// The file to write, such as `cams.tar.zst`
    #[arg(long, value_name = "FILE")]
    to: PathBuf,

    /// Write the bytes of all results that the stages were made from as well, and not only their records
    #[arg(long)]
    with_inputs: bool,

    #[command(flatten)]
    cache: CacheDir,
}

#[derive(Debug, clap::Args)]
struct Import {
    /// The file
    file: PathBuf,

    /// Bytes that it may unpack to, such as `20GiB` [default: 1 GiB, or 200 times the file]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    max_size: Option<u64>,

    /// Only look whether it is whole
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    cache: CacheDir,
}

#[derive(Debug, clap::Args)]
struct List {
    /// The file
    file: PathBuf,
}

/// Runs `bundle`.
pub(crate) fn bundle(args: &BundleArgs) -> Result<ExitCode, Failure> {
    match &args.verb {
        Verb::Export(args) => export(args),
        Verb::Import(args) => import(args),
        Verb::List(args) => list(&args.file),
    }
}

fn export(args: &Export) -> Result<ExitCode, Failure> {
    let plan = args.pipeline.load()?;
    let store = args.cache.open()?;
    let (survey, _) = survey(&plan, &args.stages, &store)?;
    let outcome = survey.outcome(&plan, &store);
    let name = |step: &StepOutcome| plan.steps[step.step].name.clone();
    let asked = |step: &StepOutcome| args.stages.is_empty() || args.stages.contains(&plan.steps[step.step].name);
    let without = outcome.steps.iter().filter(|step| step.output.is_none() && asked(step));
    let without: Vec<&StepOutcome> = without.collect();
    if let Some(step) = without.first()
        && (!args.stages.is_empty() || without.len() == outcome.steps.len())
    {
        let why = if step.reason.is_empty() { String::new() } else { format!(": {}", step.reason) };
        return Err(Failure::Message {
            message: format!("stage `{}` has no result yet{why}", name(step)),
            help: Some(format!("make it: orandflow run {} --only {}", args.pipeline.file.display(), name(step))),
            code: 1,
        });
    }
    let chosen: Vec<Chosen> = outcome
        .steps
        .iter()
        .filter_map(|step| {
            let spec = plan.steps[step.step].kind.spec();
            step.output.as_ref()?;
            // Metrics are small, and stages ask what is in them before they run.
            let bytes = asked(step) || args.with_inputs || spec.output == Kind::Metrics;
            Some(Chosen { name: name(step), kind: spec.name.to_owned(), key: step.key?, bytes })
        })
        .collect();
    let written = write(&args.to, |file| store.export_bundle(&plan.pipeline, &chosen, file));
    let index = written.map_err(|error| failed("written", &args.to, &error))?;
    let packed = fs_err::metadata(&args.to).map_or(0, |metadata| metadata.len());
    let mut text = format!("{} in {}, {}\n", contents(&index), args.to.display(), size(packed));
    if !without.is_empty() {
        text.push_str(&format!("{} without a result are left out\n", count(without.len(), "stage")));
    }
    deliver(&text, None)
}

/// Writes a file beside its place and moves it there when it is whole.
fn write<T>(
    to: &Path,
    content: impl FnOnce(&mut std::io::BufWriter<&mut tempfile::NamedTempFile>) -> Result<T, BundleError>,
) -> Result<T, BundleError> {
    let folder = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    // Others shall read it, as far as the user's mask allows.
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.prefix(".orandflow-").tempfile_in(folder)?;
    let mut writer = std::io::BufWriter::with_capacity(1 << 18, &mut file);
    let done = content(&mut writer)?;
    writer.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    file.as_file().sync_all()?;
    file.persist(to).map_err(|error| error.error)?;
    Ok(done)
}

/// Returns what a bundle holds: `2 results with 13 blobs of 1.2 MiB, and the records of 3 more`.
fn contents(index: &Index) -> String {
    let whole = index.stages.iter().filter(|stage| stage.bytes).count();
    let rest = index.stages.len() - whole;
    let blobs = count(index.blobs.len(), "blob");
    let more = if rest == 0 { String::new() } else { format!(", and the {} of {rest} more", plural("record", rest)) };
    format!("{} with {blobs} of {}{more}", count(whole, "result"), size(index.size()))
}

fn plural(noun: &str, number: usize) -> String {
    if number == 1 { noun.to_owned() } else { format!("{noun}s") }
}

fn import(args: &Import) -> Result<ExitCode, Failure> {
    let store = args.cache.open()?;
    let limits = Limits { size: args.max_size, dry: args.dry_run };
    let taken = store.import_bundle(&args.file, limits).map_err(|error| failed("taken in", &args.file, &error))?;
    deliver(&imported(&taken, args.dry_run), None)
}

fn imported(taken: &Taken, dry: bool) -> String {
    let mut text = format!("{} of pipeline `{}`", contents(&taken.index), taken.index.pipeline);
    if dry {
        return text + ": all of it is intact\n";
    }
    let (records, blobs) = (count(taken.records, "record"), count(taken.blobs, "blob"));
    text.push_str(&format!("; new here: {records} and {blobs} of {}\n", size(taken.bytes)));
    for name in &taken.others {
        text.push_str(&format!(
            "stage `{name}` has another result in this cache, made from the same; it stays, and what was made from the \
             other one is not found\n"
        ));
    }
    text
}

fn list(file: &Path) -> Result<ExitCode, Failure> {
    let index = read_index(file).map_err(|error| failed("read", file, &error))?;
    let rows: Vec<Vec<String>> = index
        .stages
        .iter()
        .map(|stage| {
            let what = if stage.bytes { "with its bytes" } else { "its record" };
            vec![stage.name.clone(), stage.kind.clone(), what.to_owned(), stage.key.short(), stage.output.short()]
        })
        .collect();
    let titles = ["stage", "kind", "what", "key", "artifact"].map(|title| (title, Align::Left));
    deliver(&format!("{}\n{} of pipeline `{}`\n", table(&titles, &rows), contents(&index), index.pipeline), None)
}

fn failed(verb: &str, file: &Path, error: &BundleError) -> Failure {
    let help = match error {
        BundleError::TooLarge { .. } => Some("allow it with `--max-size SIZE` if you trust whoever made it".to_owned()),
        BundleError::Damaged(_) => Some("nothing of it was taken in; fetch it again".to_owned()),
        BundleError::Future(_) => Some("use a newer orandflow".to_owned()),
        BundleError::NotHere(_) => Some("run the pipeline, which makes what is gone".to_owned()),
        BundleError::NoBundle(_) | BundleError::Io(_) => None,
    };
    let code = if matches!(error, BundleError::NoBundle(_)) { 2 } else { 1 };
    Failure::Message { message: format!("the bundle `{}` cannot be {verb}: {error}", file.display()), help, code }
}
