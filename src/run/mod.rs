//! Carries a plan out: whatever is not in the cache, side by side where the graph allows. Knows no images and no terminal.

pub mod event;
mod schedule;
pub mod slots;
pub mod state;
mod survey;
pub mod why;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Instant;

use crate::diag::Diagnostic;
use crate::digest::Digest;
use crate::plan::prepare::{Artifact, Planner};
use crate::plan::{Plan, Step};
use crate::stage::Report;
use crate::store::Store;
use event::{Event, Stamped};
use schedule::MainLoop;
use slots::Names;
use survey::Standing;
use worker::Shop;

pub use survey::Survey;
pub(crate) use survey::{Bytes, prepare, wanted};
#[cfg(feature = "nn")]
pub(crate) use worker::guard;

/// How a plan is carried out.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many cores actions may take, of which each takes one unless its stage says otherwise.
    pub jobs: usize,
    /// How much memory the actions may take of which it is known, in bytes; without it any.
    pub memory: Option<u64>,
    /// The devices, as given.
    pub devices: Names,
    /// Whether the first failure stops everything.
    pub fail_fast: bool,
    /// Set from outside when the user asks to stop.
    pub cancelled: Arc<AtomicBool>,
    /// Counted up from outside when the user asks for checkpoints.
    pub asked: Arc<AtomicU64>,
    /// The stages that start afresh, whatever checkpoints they have.
    pub restart: Vec<String>,
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Its result was there.
    Cached,
    /// It ran.
    Ran,
    /// It failed.
    Failed,
    /// It was left out, behind a failure or after an interruption.
    Skipped,
    /// It would run; of a plan.
    ToRun,
    /// Nobody can say before a step above has run; of a plan.
    Unknown,
}

impl Status {
    /// Returns the word that the outside reads.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Ran => "ran",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::ToRun => "to-run",
            Self::Unknown => "unknown",
        }
    }
}

/// A step at the end of a run, or in a plan.
#[derive(Clone, Debug)]
pub struct StepOutcome {
    /// Its index in the plan.
    pub step: usize,
    /// What came of it.
    pub status: Status,
    /// Why, in one line; empty if there is nothing to say.
    pub reason: String,
    /// Key of its action, if its inputs are known.
    pub key: Option<Digest>,
    /// Its artifact, if it is there.
    pub output: Option<Artifact>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// A run at its end.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The chosen steps, in order of the plan.
    pub steps: Vec<StepOutcome>,
    /// Whether the user stopped it.
    pub interrupted: bool,
    /// What a step reads that is gone and that nothing here makes again, as the planner took it for whole without a look.
    pub lost: Option<String>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

impl Outcome {
    /// Returns how many steps have this status.
    pub fn count(&self, status: Status) -> usize {
        self.steps.iter().filter(|step| step.status == status).count()
    }
}

/// Returns which steps are needed for the named ones: these and all above them; all steps if none is named.
///
/// # Errors
/// A name that no stage has.
pub fn choose(plan: &Plan, only: &[String]) -> Result<Vec<bool>, Vec<Diagnostic>> {
    if only.is_empty() {
        return Ok(vec![true; plan.steps.len()]);
    }
    let mut chosen = vec![false; plan.steps.len()];
    let mut wrong = Vec::new();
    for name in only {
        match plan.steps.iter().position(|step| step.name == *name) {
            Some(step) => chosen[step] = true,
            None => {
                let known = plan.steps.iter().map(|step| step.name.as_str());
                let diagnostic = Diagnostic::new(format!("there is no stage `{name}`"));
                wrong.push(match crate::diag::nearest(name, known) {
                    Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
                    None => diagnostic.help("`orandflow graph FILE` lists the stages of a pipeline"),
                });
            }
        }
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    // Steps stand after those they read from.
    for step in (0..plan.steps.len()).rev().filter(|step| chosen[*step]).collect::<Vec<_>>() {
        mark_above(plan, step, &mut chosen);
    }
    Ok(chosen)
}

fn mark_above(plan: &Plan, step: usize, chosen: &mut [bool]) {
    for input in &plan.steps[step].inputs {
        if !chosen[input.step] {
            chosen[input.step] = true;
            mark_above(plan, input.step, chosen);
        }
    }
}

/// Carries a plan out from where the survey found it. `sink` hears of everything, from several threads.
pub fn run(
    plan: &Plan,
    survey: Survey,
    planner: &Planner<'_>,
    store: &Store,
    options: &Options,
    sink: &(dyn Fn(Stamped) + Sync),
) -> Outcome {
    let clock = Instant::now();
    let emit = |event: Event| sink(Stamped { at: clock.elapsed().as_secs_f64(), event });
    let report = |step: &Step, bucket: Option<u32>, report: Report| {
        let stage = step.name.clone();
        emit(match report {
            Report::Progress { done, total, unit } => {
                Event::Progress { stage, bucket, done, total, unit: unit.to_owned() }
            }
            Report::Metric { name, step, value } => Event::Metric { stage, name: name.to_owned(), step, value },
            Report::Warning(message) => Event::Warning { stage: Some(stage), message },
        });
    };
    let shop = Shop {
        store,
        planner,
        pipeline: &plan.pipeline,
        jobs: options.jobs,
        cancelled: &options.cancelled,
        asked: &options.asked,
        restart: &options.restart,
        emit: &emit,
        report: &report,
    };
    let chosen: Vec<bool> = survey.standings.iter().map(|standing| !matches!(standing, Standing::Outside)).collect();
    emit(Event::RunStarted {
        pipeline: plan.pipeline.clone(),
        stages: chosen.iter().filter(|chosen| **chosen).count(),
        jobs: options.jobs,
        device: options.devices.text(),
        started: jiff::Timestamp::now().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    });
    let mut main = MainLoop::new(plan, &shop, options, &emit, &chosen);
    std::thread::scope(|scope| main.drive(scope, survey));
    let mut outcome = main.finish();
    outcome.seconds = clock.elapsed().as_secs_f64();
    emit(Event::RunFinished {
        ran: outcome.count(Status::Ran),
        cached: outcome.count(Status::Cached),
        failed: outcome.count(Status::Failed),
        skipped: outcome.count(Status::Skipped),
        interrupted: outcome.interrupted,
        seconds: outcome.seconds,
    });
    outcome
}
