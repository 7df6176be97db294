//! `orandflow run`: carries a pipeline out, reports, and decides the exit code.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Failure;
use super::common::{PipelineArgs, deliver};
use super::engine::{CacheDir, HowArgs, LogArgs, json, metrics, metrics_table, outside, summary};
use crate::plan::Plan;
use crate::plan::prepare::Planner;
use crate::report::bars::Bars;
use crate::report::jsonl::Jsonl;
use crate::report::log::Log;
use crate::report::plain::Plain;
use crate::report::text::duration;
use crate::report::{Listener, Reporter};
use crate::run::{Options, Status, Survey, choose, run as carry_out};
use crate::store::Store;
use crate::store::files::Files;

/// What a shell expects of a program that was stopped with Ctrl-C: 128 and the number of SIGINT.
const INTERRUPTED: u8 = 130;

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,

    #[command(flatten)]
    cache: CacheDir,

    #[command(flatten)]
    how: HowArgs,

    #[command(flatten)]
    log: LogArgs,
}

/// Runs `run`.
pub(crate) fn run(args: &RunArgs) -> Result<ExitCode, Failure> {
    args.log.start();
    let plan = args.pipeline.load()?;
    let chosen = choose(&plan, &args.how.only).map_err(Failure::Diagnostics)?;
    let store = args.cache.open()?;
    let cancelled = Arc::new(AtomicBool::new(false));
    stop_on_interrupt(&cancelled);
    let files = Files::load(&store);
    let planner = Planner::new(&plan, &store, &files);
    let survey = Survey::of(&plan, &chosen, &planner);
    files.save(&store).map_err(|error| outside(&error))?;
    let survey = survey.map_err(Failure::Diagnostics)?;

    let options = Options {
        jobs: args.how.jobs.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from),
        device: args.how.device.clone(),
        fail_fast: args.how.fail_fast,
        cancelled,
    };
    let reporter = Reporter::new(listeners(args, &store)?);
    let surveyed = survey.seconds();
    let mut outcome = carry_out(&plan, survey, &planner, &store, &options, &|event| reporter.hear(&event));
    outcome.seconds += surveyed;
    files.save(&store).map_err(|error| outside(&error))?;

    let metrics = metrics(&plan, &store, &outcome.steps);
    let text = if args.how.json {
        format!("{:#}\n", json(&plan, &outcome, &metrics))
    } else {
        let table = metrics_table(&metrics);
        let gap = if table.is_empty() { "" } else { "\n" };
        format!("{table}{gap}{} in {}\n", summary(&outcome), duration(outcome.seconds))
    };
    deliver(&text, None)?;
    Ok(match outcome.count(Status::Failed) {
        _ if outcome.interrupted => ExitCode::from(INTERRUPTED),
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(1),
    })
}

/// Returns the listeners: the folder of the run, stderr, and the developers' log.
fn listeners(args: &RunArgs, store: &Store) -> Result<Vec<Box<dyn Listener>>, Failure> {
    let folder = store.run_folder().map_err(|error| outside(&error))?;
    fs_err::copy(&args.pipeline.file, folder.join("pipeline.toml")).map_err(|error| outside(&error))?;
    if !args.pipeline.set.is_empty() {
        let set = args.pipeline.set.join("\n") + "\n";
        fs_err::write(folder.join("set.txt"), set).map_err(|error| outside(&error))?;
    }
    let recording = Jsonl::create(&folder.join("events.jsonl")).map_err(|error| outside(&error))?;
    let mut listeners: Vec<Box<dyn Listener>> = vec![Box::new(recording)];
    if args.log.log.is_some() {
        listeners.push(Box::new(Log));
    }
    listeners.push(if std::io::stderr().is_terminal() && args.log.log.is_none() {
        Box::new(Bars::new())
    } else {
        Box::new(Plain::new(std::io::stderr()))
    });
    Ok(listeners)
}

/// The first Ctrl-C asks running stages to stop, the second one ends the program.
fn stop_on_interrupt(cancelled: &Arc<AtomicBool>) {
    let cancelled = Arc::clone(cancelled);
    let mut asked = false;
    let handler = move || {
        if asked {
            #[expect(
                clippy::exit,
                reason = "the user asked twice; every file is written by rename, nothing is left half"
            )]
            std::process::exit(INTERRUPTED.into());
        }
        asked = true;
        cancelled.store(true, Ordering::Relaxed);
    };
    // Without a handler Ctrl-C ends the program at once, which loses nothing that was recorded.
    let _ = ctrlc::set_handler(handler);
}

/// Looks at every chosen step and remembers the digests of data files; for verbs that run nothing.
pub(crate) fn survey(plan: &Plan, only: &[String], store: &Store) -> Result<(Survey, Vec<String>), Failure> {
    let chosen = choose(plan, only).map_err(Failure::Diagnostics)?;
    let files = Files::load(store);
    let planner = Planner::new(plan, store, &files);
    let survey = Survey::of(plan, &chosen, &planner);
    files.save(store).map_err(|error| outside(&error))?;
    Ok((survey.map_err(Failure::Diagnostics)?, planner.take_warnings()))
}
