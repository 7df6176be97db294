//! `orandflow plan`: what `run` would do, and why.

use std::io::Write as _;
use std::process::ExitCode;

use super::Failure;
use super::common::{PipelineArgs, deliver};
use super::engine::{CacheDir, HowArgs, LogArgs, OnlyArgs, json, metrics, summary};
use super::remote::RemoteArgs;
use super::run::survey;
use crate::report::text::{Align, table};

/// Arguments of `plan`.
#[derive(Debug, clap::Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,

    #[command(flatten)]
    cache: CacheDir,

    #[command(flatten)]
    remote: RemoteArgs,

    #[command(flatten)]
    how: HowArgs,

    #[command(flatten)]
    only: OnlyArgs,

    #[command(flatten)]
    log: LogArgs,
}

/// Runs `plan`.
pub(crate) fn plan(args: &PlanArgs) -> Result<ExitCode, Failure> {
    args.log.start();
    let plan = args.pipeline.load()?;
    let store = args.cache.open()?;
    args.remote.read(&store)?;
    let (survey, warnings) = survey(&plan, &args.only.only, &store)?;
    for warning in warnings {
        // Nothing is left to be done where stderr itself is gone.
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    }
    let outcome = survey.outcome(&plan, &store);
    if args.how.json {
        let metrics = metrics(&plan, &store, &outcome.steps);
        return deliver(&format!("{:#}\n", json(&plan, &outcome, &metrics)), None);
    }
    let rows: Vec<Vec<String>> = outcome
        .steps
        .iter()
        .map(|step| {
            let placed = &plan.steps[step.step];
            let state = step.status.word().replace('-', " ");
            vec![placed.name.clone(), placed.kind.spec().name.to_owned(), state, step.reason.clone()]
        })
        .collect();
    let left = Align::Left;
    let table = table(&[("stage", left), ("kind", left), ("state", left), ("why", left)], &rows);
    deliver(&format!("{table}\n{}\n", summary(&outcome)), None)
}
