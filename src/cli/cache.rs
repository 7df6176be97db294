//! `orandflow cache`: how much lies there, whether it is intact, and what may go.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::Failure;
use super::common::{PipelineArgs, deliver};
use super::engine::{CacheDir, outside};
use super::remote::{RemoteArgs, pushed};
use super::run::survey;
use crate::diag::nearest;
use crate::digest::Digest;
use crate::pipeline::resources::{bytes, time};
use crate::report::text::{Align, count, size, table};
use crate::store::Store;
use crate::store::actions::{Lookup, Records};
use crate::store::blobs::Health;
use crate::store::collect::{CollectError, Limits};
use crate::store::remote::Pushed;

/// Arguments of `cache`.
#[derive(Debug, clap::Args)]
pub(crate) struct CacheArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Say how much lies in the cache: by kind of stage, pipeline, stage, or all three
    Du(Du),
    /// Remove results that were not used for long, until limits hold, and everything that no result needs
    Gc(Gc),
    /// Keep a stage's present result, whatever `gc` is asked for; without a stage list what is pinned
    Pin(Pin),
    /// Take a pin away
    Unpin(Pin),
    /// Write results of a pipeline to the remote cache
    Push(Share),
    /// Bring results of a pipeline here from the remote cache
    Pull(Share),
    /// Read everything in the cache and say what is damaged or missing
    Verify(Verify),
}

#[derive(Debug, clap::Args)]
struct Du {
    #[command(flatten)]
    cache: CacheDir,

    /// What a line stands for
    #[arg(long, value_name = "WHAT", default_value = "kind")]
    by: By,
}

/// What a line of `du` stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum By {
    /// A kind of stage
    Kind,
    /// A pipeline
    Pipeline,
    /// A stage of a pipeline
    Stage,
}

#[derive(Debug, clap::Args)]
struct Gc {
    #[command(flatten)]
    cache: CacheDir,

    /// Size that the cache may have, such as `20GiB` or `500MB`: the results that were not used for longest go
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    max_size: Option<u64>,

    /// Time since the last use after which a result goes, such as `30d`, `12h` or `45min`
    #[arg(long, value_name = "TIME", value_parser = time)]
    max_age: Option<Duration>,

    /// Keep the present results of this pipeline; may be repeated
    #[arg(long, value_name = "PIPELINE", num_args = 1..)]
    keep: Vec<String>,

    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
struct Pin {
    /// The pipeline file
    file: Option<PathBuf>,

    /// The stage
    #[arg(requires = "file")]
    stage: Option<String>,

    /// Put a value in place of the file's, as for `run`
    #[arg(long = "set", value_name = "PATH=VALUE", requires = "file")]
    set: Vec<String>,

    /// The key of the result, in place of a pipeline file and a stage
    #[arg(long, conflicts_with = "file")]
    key: Option<Digest>,

    #[command(flatten)]
    cache: CacheDir,
}

#[derive(Debug, clap::Args)]
struct Share {
    #[command(flatten)]
    pipeline: PipelineArgs,

    /// The stages, with all that they are made from [default: all stages]
    stages: Vec<String>,

    #[command(flatten)]
    cache: CacheDir,

    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, clap::Args)]
struct Verify {
    #[command(flatten)]
    cache: CacheDir,

    /// Remove what is damaged, so that the next run makes it again
    #[arg(long)]
    repair: bool,
}

/// Runs `cache`.
pub(crate) fn cache(args: &CacheArgs) -> Result<ExitCode, Failure> {
    match &args.verb {
        Verb::Du(args) => du(&args.cache.open()?, args.by),
        Verb::Gc(args) => gc(&args.cache.open()?, args),
        Verb::Pin(args) => pin(&args.cache.open()?, args, true),
        Verb::Unpin(args) => pin(&args.cache.open()?, args, false),
        Verb::Push(args) => push(args),
        Verb::Pull(args) => pull(args),
        Verb::Verify(args) => verify(&args.cache.open()?, args.repair),
    }
}

fn gc(store: &Store, args: &Gc) -> Result<ExitCode, Failure> {
    let known: BTreeSet<String> = store.lasts().into_iter().map(|last| last.pipeline).collect();
    if let Some(name) = args.keep.iter().find(|name| !known.contains(*name)) {
        let help = match nearest(name, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "`orandflow cache du --by pipeline` lists the pipelines".to_owned(),
        };
        return Err(Failure::Message {
            message: format!("no pipeline `{name}` has been run with this cache"),
            help: Some(help),
            code: 2,
        });
    }
    let limits = Limits { size: args.max_size, age: args.max_age, keep: args.keep.iter().cloned().collect() };
    let gone = store.collect(&limits, args.dry_run).map_err(|error| match error {
        CollectError::Closed { .. } => Failure::Message {
            message: error.to_string(),
            help: Some(
                "nobody here can say what it needs: collect with that version, or as whoever may read it".to_owned(),
            ),
            code: 1,
        },
        CollectError::Io(error) => outside(&error),
    })?;
    let verb = if args.dry_run { "would remove" } else { "removed" };
    let (results, blobs) = (count(gone.results, "result"), count(gone.blobs, "blob"));
    let text = format!("{verb} {results} and {blobs} of {}; {} stay\n", size(gone.bytes), size(gone.left));
    let more = match args.max_size.filter(|most| gone.left > *most) {
        Some(most) => format!("more than {} is pinned, asked for or in use\n", size(most)),
        None => String::new(),
    };
    deliver(&(text + &more), None)
}

fn pin(store: &Store, args: &Pin, keep: bool) -> Result<ExitCode, Failure> {
    let (key, about) = match (&args.file, &args.stage, args.key) {
        (_, _, Some(key)) => (key, "by key".to_owned()),
        (Some(file), Some(stage), None) => present(store, file, stage, &args.set)?,
        _ => {
            let pins = store.pins().map_err(|error| outside(&error))?;
            let text: String = pins.iter().map(|(key, about)| format!("{key}  {about}\n")).collect();
            return deliver(if text.is_empty() { "nothing is pinned\n" } else { &text }, None);
        }
    };
    if keep {
        if !matches!(store.lookup_here(key), Lookup::Hit(_)) {
            let message = format!("there is no result {} in the cache", key.short());
            return Err(Failure::Message { message, help: Some("run the pipeline first".to_owned()), code: 1 });
        }
        store.pin(key, &about).map_err(|error| outside(&error))?;
        return deliver(&format!("pinned {} ({about})\n", key.short()), None);
    }
    match store.unpin(key).map_err(|error| outside(&error))? {
        true => deliver(&format!("{} is not pinned any more\n", key.short()), None),
        false => Err(Failure::Message {
            message: format!("{} is not pinned", key.short()),
            help: Some("`orandflow cache pin` lists what is".to_owned()),
            code: 1,
        }),
    }
}

/// Opens the cache with a remote one, which must be named somewhere.
fn shared(args: &Share) -> Result<Store, Failure> {
    let store = args.cache.open()?;
    args.remote.read(&store)?;
    if store.remote().is_some() {
        return Ok(store);
    }
    let help = "give `--remote URL`, ORANDFLOW_REMOTE, or `[remote] url` in orandflow.toml".to_owned();
    Err(Failure::Message { message: "no remote cache is named".to_owned(), help: Some(help), code: 2 })
}

/// Ends a verb that is about the remote cache alone: with a failure where that did not answer.
fn answered(store: &Store, text: &str) -> Result<ExitCode, Failure> {
    deliver(text, None)?;
    let mut warnings = store.take_warnings();
    if store.has_remote() {
        for warning in warnings {
            // Nothing is left to be done where stderr itself is gone.
            let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("warning: {warning}\n"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let message = warnings.pop().unwrap_or_else(|| "the remote cache does not answer".to_owned());
    let help = "what has been transferred stays; the same command goes on from there".to_owned();
    Err(Failure::Message { message, help: Some(help), code: 1 })
}

fn push(args: &Share) -> Result<ExitCode, Failure> {
    let plan = args.pipeline.load()?;
    // Looked at without the remote cache: what is here is what can be written.
    let (survey, _) = survey(&plan, &args.stages, &args.cache.open()?)?;
    let store = shared(args)?;
    let outcome = survey.outcome(&plan, &store);
    let mut written = Pushed::default();
    let mut left = 0;
    for step in &outcome.steps {
        match step.key.filter(|_| step.output.as_ref().is_some_and(|output| !output.elsewhere)) {
            Some(key) => written += store.push(key, true).map_err(|error| outside(&error))?,
            None => left += 1,
        }
    }
    let mut text = pushed(&written, &store);
    if left > 0 {
        let _ = writeln!(text, "{} without a result here are left out", count(left, "stage"));
    }
    answered(&store, &text)
}

fn pull(args: &Share) -> Result<ExitCode, Failure> {
    let plan = args.pipeline.load()?;
    let store = shared(args)?;
    // Nothing that has come is collected before its record is written.
    store.run_begins(&plan.pipeline).map_err(|error| outside(&error))?;
    let (survey, _) = survey(&plan, &args.stages, &store)?;
    let outcome = survey.outcome(&plan, &store);
    let (mut came, mut bytes, mut missing) = (0, 0, Vec::new());
    for step in &outcome.steps {
        let name = &plan.steps[step.step].name;
        let asked = args.stages.is_empty() || args.stages.contains(name);
        let (Some(key), Some(output)) = (step.key, &step.output) else {
            missing.extend(asked.then(|| name.clone()));
            continue;
        };
        if output.elsewhere && asked {
            let Lookup::Hit(record) = store.lookup(key) else { continue };
            if store.fetch(&record.blobs).map_err(|error| outside(&error))? {
                came += 1;
                bytes += record.blobs.iter().map(|(_, size)| size).sum::<u64>();
            } else {
                missing.push(name.clone());
            }
        }
        store.keep_found(&[key]).map_err(|error| outside(&error))?;
        store.set_last(&plan.pipeline, name, key).map_err(|error| outside(&error))?;
    }
    let mut text = format!("{} of {} came\n", count(came, "result"), size(bytes));
    if !missing.is_empty() {
        let _ = writeln!(text, "not there: {}", missing.join(", "));
    }
    answered(&store, &text)
}

/// Returns the key of a stage's present result, and what to call it.
fn present(store: &Store, file: &Path, stage: &str, set: &[String]) -> Result<(Digest, String), Failure> {
    let pipeline = PipelineArgs { file: file.to_owned(), set: set.to_owned() };
    let plan = pipeline.load()?;
    let (survey, _) = survey(&plan, &[stage.to_owned()], store)?;
    let outcome = survey.outcome(&plan, store);
    let found = outcome.steps.iter().find(|step| plan.steps[step.step].name == stage);
    match found.and_then(|step| step.key.filter(|_| step.output.is_some())) {
        Some(key) => Ok((key, format!("{stage} of {}", plan.pipeline))),
        None => Err(Failure::Message {
            message: format!("stage `{stage}` has no result yet"),
            help: Some(format!("make it: orandflow run {} --only {stage}", file.display())),
            code: 1,
        }),
    }
}

fn du(store: &Store, by: By) -> Result<ExitCode, Failure> {
    let blobs = store.blobs().map_err(|error| outside(&error))?;
    let records = store.records().map_err(|error| outside(&error))?.readable;
    let number = records.len();
    let here: BTreeSet<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
    let mut groups: BTreeMap<Vec<String>, (usize, BTreeMap<Digest, u64>)> = BTreeMap::new();
    for (_, record) in records {
        let provenance = record.provenance;
        let group = match by {
            By::Kind => vec![provenance.kind],
            By::Pipeline => vec![provenance.pipeline],
            By::Stage => vec![provenance.pipeline, provenance.stage, provenance.kind],
        };
        let (results, blobs) = groups.entry(group).or_default();
        *results += 1;
        // Those of a record that came without them need not be here.
        blobs.extend(record.blobs.into_iter().filter(|(digest, _)| here.contains(digest)));
    }
    let names: &[&str] = match by {
        By::Kind => &["kind"],
        By::Pipeline => &["pipeline"],
        By::Stage => &["pipeline", "stage", "kind"],
    };
    let mut rows: Vec<Vec<String>> = groups
        .into_iter()
        .map(|(mut row, (results, blobs))| {
            row.extend([results.to_string(), blobs.len().to_string(), size(blobs.values().sum())]);
            row
        })
        .collect();
    let all = blobs.iter().map(|(_, size)| size).sum();
    let mut last = vec![String::new(); names.len()];
    last[0] = "in all".to_owned();
    last.extend([number.to_string(), blobs.len().to_string(), size(all)]);
    rows.push(last);
    let mut titles: Vec<(&str, Align)> = names.iter().map(|name| (*name, Align::Left)).collect();
    titles.extend([("results", Align::Right), ("blobs", Align::Right), ("size", Align::Right)]);
    deliver(&table(&titles, &rows), None)
}

fn verify(store: &Store, repair: bool) -> Result<ExitCode, Failure> {
    let blobs = store.blobs().map_err(|error| outside(&error))?;
    let Records { readable: records, closed, damaged: unreadable } =
        store.records().map_err(|error| outside(&error))?;
    let mut damaged = BTreeSet::new();
    let mut text = String::new();
    for ((digest, _), health) in blobs.iter().zip(store.health(&blobs)) {
        let _ = match health {
            Health::Intact => continue,
            Health::Damaged => writeln!(text, "damaged blob {digest}"),
            Health::Unreadable(error) => writeln!(text, "unreadable blob {digest}: {error}"),
        };
        damaged.insert(*digest);
    }
    for (path, why) in &closed {
        let _ = writeln!(text, "not looked at: the record {} {why}", path.display());
    }
    for path in &unreadable {
        let _ = writeln!(text, "damaged record {}", path.display());
    }
    let mut broken = Vec::new();
    for (key, record) in records.iter().filter(|(_, record)| !record.elsewhere) {
        let lost = record.blobs.iter().find(|(blob, size)| damaged.contains(blob) || !store.has(*blob, *size));
        if let Some((blob, _)) = lost {
            let provenance = &record.provenance;
            let _ = writeln!(
                text,
                "result {} of stage `{}` ({}) lacks blob {}",
                key.short(),
                provenance.stage,
                provenance.kind,
                blob.short()
            );
            broken.push(*key);
        }
    }
    let fine = damaged.is_empty() && unreadable.is_empty() && broken.is_empty();
    if repair {
        let paths = damaged.iter().map(|digest| store.blob_path(*digest));
        let paths = paths.chain(unreadable.iter().cloned()).chain(broken.iter().map(|key| store.record_path(*key)));
        for path in paths {
            match fs_err::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(outside(&error)),
                _ => {}
            }
        }
    }
    let (blobs, results) = (count(blobs.len(), "blob"), count(records.len(), "result"));
    let _ = match (fine, repair) {
        (true, _) => writeln!(text, "{blobs} and {results} are intact"),
        (false, true) => writeln!(text, "removed what is damaged; the next run makes it again"),
        (false, false) => writeln!(
            text,
            "{} of {blobs} and {} of {results} are damaged; `orandflow cache verify --repair` removes them",
            damaged.len(),
            broken.len() + unreadable.len()
        ),
    };
    deliver(&text, None)?;
    Ok(ExitCode::from(u8::from(!fine && !repair)))
}
