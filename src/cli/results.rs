//! `orandflow results`: the scores of every point as one table.

use std::path::PathBuf;
use std::process::ExitCode;

use super::Failure;
use super::common::deliver;
use super::engine::CacheDir;
use super::run::survey_of;
use super::sweep::SweepFile;
use crate::artifact::metrics;
use crate::kind::Kind;
use crate::report::results::{Choice, Format, Measure, Results, Scored, collect, render};
use crate::run::Outcome;
use crate::store::Store;
use crate::sweep::Sweep;

/// Arguments of `results`.
#[derive(Debug, clap::Args)]
pub(crate) struct ResultsArgs {
    #[command(flatten)]
    file: SweepFile,

    /// Form of the table
    #[arg(long, value_enum, default_value = "terminal")]
    format: Format,

    /// One row for each point, seeds apart
    #[arg(long)]
    each: bool,

    /// The scores of this stage alone; may be repeated
    #[arg(long = "stage", value_name = "STAGE")]
    stages: Vec<String>,

    /// These columns alone, separated by commas [default: all that a stage has]
    #[arg(long, value_enum, value_delimiter = ',')]
    measures: Vec<Measure>,

    /// The recall at which precisions are compared, 0 to 1 [default: the largest multiple of 0.05 that every row reaches]
    #[arg(long, value_name = "RECALL")]
    at_recall: Option<f64>,

    /// Write to this file
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,

    #[command(flatten)]
    cache: CacheDir,
}

/// Runs `results`.
pub(crate) fn results(args: &ResultsArgs) -> Result<ExitCode, Failure> {
    let (sweep, points) = args.file.load()?;
    let store = args.cache.open()?;
    let (survey, _) = survey_of(&sweep.plan, &sweep.steps_of(&points), &store)?;
    let outcome = survey.outcome(&sweep.plan, &store);
    if let Some(recall) = args.at_recall.filter(|recall| !(0.0..=1.0).contains(recall)) {
        let message = format!("a recall lies in 0 to 1, and {recall} does not");
        return Err(Failure::Message { message, help: None, code: 2 });
    }
    for stage in &args.stages {
        let known = |name: &String| points.iter().any(|at| sweep.points[*at].step(name).is_some());
        if !known(stage) {
            let names = points.iter().flat_map(|at| &sweep.points[*at].steps).map(|(name, _)| name.as_str());
            let help = crate::diag::nearest(stage, names).map(|near| format!("did you mean `{near}`?"));
            return Err(Failure::Message { message: format!("no point has a stage `{stage}`"), help, code: 2 });
        }
    }
    let choice = Choice {
        each: args.each,
        stages: args.stages.clone(),
        measures: args.measures.clone(),
        at_recall: args.at_recall,
    };
    let makes_scores = |stage: &String| {
        let steps = points.iter().filter_map(|at| sweep.points[*at].step(stage));
        steps.into_iter().any(|step| sweep.plan.steps[step].kind.spec().output == Kind::Metrics)
    };
    if let Some(stage) = args.stages.iter().find(|stage| !makes_scores(stage)) {
        let mut names: Vec<&str> = Vec::new();
        for (name, step) in points.iter().flat_map(|at| &sweep.points[*at].steps) {
            if sweep.plan.steps[*step].kind.spec().output == Kind::Metrics && !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        let help = (!names.is_empty()).then(|| format!("these do: {}", names.join(", ")));
        return Err(Failure::Message { message: format!("stage `{stage}` makes no scores"), help, code: 2 });
    }
    let results = tables(&sweep, &points, &outcome, &store, &choice);
    if results.columns.is_empty() {
        return Err(Failure::Message {
            message: "no score is there yet".to_owned(),
            help: Some(format!("make them: orandflow sweep {}", args.file.file.display())),
            code: 1,
        });
    }
    deliver(&render(&results, args.format), args.out.as_deref())
}

/// Collects the scores of the points from the cache.
pub(crate) fn tables(sweep: &Sweep, points: &[usize], outcome: &Outcome, store: &Store, choice: &Choice) -> Results {
    let rows: Vec<Scored> = points
        .iter()
        .map(|at| {
            let point = &sweep.points[*at];
            let scores = point.steps.iter().filter_map(|(name, index)| {
                if sweep.plan.steps[*index].kind.spec().output != Kind::Metrics {
                    return None;
                }
                let output = outcome.steps.iter().find(|step| step.step == *index)?.output.as_ref()?;
                let entry = output.manifest.entries.get(metrics::PART)?;
                Some((name.clone(), metrics::decode(&store.get(entry.digest).ok()?).ok()?))
            });
            Scored { point, scores: scores.collect() }
        })
        .collect();
    collect(&sweep.labels, &rows, choice)
}
