//! `orandflow sweep`: every point of a sweep, with what they share done once.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::Failure;
use super::common::deliver;
use super::engine::{CacheDir, Executor, ExecutorArgs, HowArgs, LogArgs, outside, stages_json, summary};
use super::exec::{Loaded, PlanFile};
use super::remote::{PushArgs, RemoteArgs};
use super::results::tables;
use super::run::{Order, exit_code, survey_of};
use crate::report::results::{Choice, Format, render};
use crate::report::text::{Align, count, duration, size, table};
use crate::run::{Outcome, Status};
use crate::stages;
use crate::store::Store;
use crate::sweep::estimate::{Estimate, estimate};
use crate::sweep::{self, Sweep};

/// The file of a sweep, and which of its points are meant.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SweepFile {
    /// The file of the sweep; a pipeline file is a sweep of one point
    pub(crate) file: PathBuf,

    /// Put a value in place of the files', in every point that has the stage: as for `run`;
    /// `sweep.seeds=[0, 1]` and kin for the sweep itself, `base=PATH` for another base
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub(crate) set: Vec<String>,

    /// Take this point alone, or those with this part in their name, such as `radius=3`; may be repeated
    #[arg(long = "only", value_name = "POINT")]
    pub(crate) only: Vec<String>,
}

impl SweepFile {
    /// Reads the file; returns the sweep and the chosen points.
    pub(crate) fn load(&self) -> Result<(Sweep, Vec<usize>), Failure> {
        let sweep = sweep::load(&self.file, &self.set, stages::catalog()).map_err(Failure::Diagnostics)?;
        let points = sweep.choose(&self.only).map_err(Failure::Diagnostics)?;
        Ok((sweep, points))
    }
}

/// Arguments of `sweep`.
#[derive(Debug, clap::Args)]
pub(crate) struct SweepArgs {
    #[command(flatten)]
    file: SweepFile,

    /// Say what there is to do, and what it may take, without doing it; with Slurm print what would be submitted
    #[arg(long, visible_alias = "plan")]
    dry_run: bool,

    #[command(flatten)]
    cache: CacheDir,

    #[command(flatten)]
    remote: RemoteArgs,

    #[command(flatten)]
    push: PushArgs,

    #[command(flatten)]
    how: HowArgs,

    #[command(flatten)]
    executor: ExecutorArgs,

    #[command(flatten)]
    log: LogArgs,
}

/// Runs `sweep`.
pub(crate) fn sweep(args: &SweepArgs) -> Result<ExitCode, Failure> {
    args.log.start();
    args.executor.check()?;
    let (mut sweep, points) = args.file.load()?;
    let slurm = args.executor.executor == Executor::Slurm;
    let mut jobs = None;
    if slurm {
        let plan_file = PlanFile::of_sweep(&args.file.file, &args.file.set, &args.cache.cache)?;
        if let Loaded::Sweep(loaded) = plan_file.load()? {
            sweep = Sweep { files: sweep.files, ..loaded };
        }
        jobs = Some(plan_file);
    }
    let store = args.cache.open()?;
    let push = args.remote.attach_for(&args.push, &store, slurm)?;
    let chosen = sweep.steps_of(&points);
    if args.dry_run && !slurm {
        let (survey, warnings) = survey_of(&sweep.plan, &chosen, &store)?;
        for warning in warnings {
            // Nothing is left to be done where stderr itself is gone.
            let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("warning: {warning}\n"));
        }
        let outcome = survey.outcome(&sweep.plan, &store);
        let text = if args.how.json {
            format!("{:#}\n", as_json(&sweep, &points, &outcome))
        } else {
            planned(&sweep, &points, &outcome, &store)?
        };
        return deliver(&text, None);
    }
    let files: Vec<(&str, &Path)> = match sweep.files.as_slice() {
        [base, own] => vec![("pipeline.toml", base.as_path()), ("sweep.toml", own.as_path())],
        files => files.iter().map(|file| ("pipeline.toml", file.as_path())).collect(),
    };
    let order = Order {
        sweep: &sweep,
        points: &points,
        chosen: &chosen,
        store: &store,
        how: &args.how,
        executor: &args.executor,
        jobs: jobs.as_ref(),
        log: &args.log,
        files: &files,
        set: &args.file.set,
        restart: &[],
        push,
    };
    if args.dry_run {
        return deliver(&order.scripts()?, None);
    }
    let (outcome, _) = order.carry_out()?;
    let text = if args.how.json {
        format!("{:#}\n", as_json(&sweep, &points, &outcome))
    } else {
        ended(&sweep, &points, &outcome, &store)
    };
    deliver(&text, None)?;
    Ok(exit_code(&outcome))
}

/// Returns the status of a point: that of its steps that stands in its way, or else `ran` or `cached`.
fn status_of(sweep: &Sweep, point: usize, outcome: &Outcome) -> Status {
    let own = |status: Status| {
        outcome
            .steps
            .iter()
            .any(|step| step.status == status && sweep.points[point].steps.iter().any(|(_, index)| *index == step.step))
    };
    let order = [Status::Failed, Status::Skipped, Status::ToRun, Status::Unknown, Status::Ran];
    order.into_iter().find(|status| own(*status)).unwrap_or(Status::Cached)
}

/// Returns what a sweep would do.
fn planned(sweep: &Sweep, points: &[usize], outcome: &Outcome, store: &Store) -> Result<String, Failure> {
    let rows: Vec<Vec<String>> = points
        .iter()
        .map(|at| {
            let point = &sweep.points[*at];
            let mut row = vec![point.name.clone()];
            for status in [Status::Cached, Status::ToRun, Status::Unknown] {
                let own = outcome.steps.iter().filter(|step| step.status == status);
                row.push(own.filter(|step| point.steps.iter().any(|(_, own)| *own == step.step)).count().to_string());
            }
            row
        })
        .collect();
    let right = Align::Right;
    let titles = [("point", Align::Left), ("cached", right), ("to run", right), ("waiting", right)];
    let mut text = table(&titles, &rows);
    let all: usize = points.iter().map(|at| sweep.points[*at].steps.len()).sum();
    let left: Vec<usize> =
        outcome.steps.iter().filter(|step| step.status != Status::Cached).map(|step| step.step).collect();
    let _ = write!(
        text,
        "\n{}, {} of {all}: {} cached, {} to run",
        count(points.len(), "point"),
        count(outcome.steps.len(), "distinct stage"),
        outcome.count(Status::Cached),
        left.len()
    );
    text.push('\n');
    let estimate =
        estimate(store, left.iter().map(|step| &sweep.plan.steps[*step])).map_err(|error| outside(&error))?;
    text.push_str(&estimated(&estimate, left.len()));
    Ok(text)
}

/// Returns what the steps may take, in a sentence.
fn estimated(estimate: &Estimate, left: usize) -> String {
    if left == 0 {
        return String::new();
    }
    let unknown: usize = estimate.unknown.values().sum();
    let mut text = String::new();
    if unknown < left {
        let known = count(left - unknown, "stage");
        let (time, disk) = (duration(estimate.seconds), size(estimate.bytes));
        let _ = writeln!(text, "about {time} one after another and {disk} of disk, by earlier records of {known}");
    }
    if unknown > 0 {
        let kinds: Vec<String> = estimate.unknown.iter().map(|(kind, number)| format!("{number} {kind}")).collect();
        let _ = writeln!(text, "nothing is known yet of what these take: {}", kinds.join(", "));
    }
    text
}

/// Returns what a person reads at the end: the results, and every point that has none.
fn ended(sweep: &Sweep, points: &[usize], outcome: &Outcome, store: &Store) -> String {
    let results = tables(sweep, points, outcome, store, &Choice::default());
    let mut text = render(&results, Format::Terminal);
    if !text.is_empty() {
        text.push('\n');
    }
    let of = |status: Status| points.iter().filter(|point| status_of(sweep, **point, outcome) == status).count();
    for at in points {
        let status = status_of(sweep, *at, outcome);
        if matches!(status, Status::Failed | Status::Skipped) {
            let point = &sweep.points[*at];
            let broken = outcome.steps.iter().filter(|step| matches!(step.status, Status::Failed | Status::Skipped));
            let mut broken: Vec<_> =
                broken.filter(|step| point.steps.iter().any(|(_, own)| *own == step.step)).collect();
            broken.sort_by_key(|step| step.status != Status::Failed);
            let why = broken.first().map(|step| {
                let name = &sweep.plan.steps[step.step].name;
                let word = if step.status == Status::Failed { "failed" } else { "was skipped" };
                format!(": {name} {word} ({})", step.reason.lines().next().unwrap_or_default())
            });
            let _ = writeln!(text, "point {} has no result{}", point.name, why.unwrap_or_default());
        }
    }
    let complete = of(Status::Ran) + of(Status::Cached);
    let _ = writeln!(
        text,
        "{complete} of {} complete; {} in {}",
        count(points.len(), "point"),
        summary(outcome),
        duration(outcome.seconds)
    );
    text
}

/// Returns the one object of `--json`.
fn as_json(sweep: &Sweep, points: &[usize], outcome: &Outcome) -> Value {
    let points: Vec<Value> = points
        .iter()
        .map(|at| {
            let point = &sweep.points[*at];
            let values: serde_json::Map<String, Value> =
                sweep.labels.iter().cloned().zip(point.values.iter().map(|value| json!(value))).collect();
            let stages: serde_json::Map<String, Value> =
                point.steps.iter().map(|(name, step)| (name.clone(), json!(sweep.plan.steps[*step].name))).collect();
            let status = status_of(sweep, *at, outcome).word();
            json!({ "name": point.name, "values": values, "status": status, "stages": stages })
        })
        .collect();
    json!({
        "sweep": sweep.name,
        "points": points,
        "stages": stages_json(&sweep.plan, outcome),
        "interrupted": outcome.interrupted,
        "seconds": outcome.seconds,
    })
}
