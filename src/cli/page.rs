//! What the cache and the folders of runs know of a sweep, as the parts of its page. Serves and writes nothing.

use std::collections::BTreeMap;
use std::io::BufRead as _;
use std::path::Path;

use super::diff::Operand;
use super::results::tables;
use crate::artifact::metrics;
use crate::digest::Digest;
use crate::kind::Kind;
use crate::plan::graph::StepGraph;
use crate::report::html::gallery::Member;
use crate::report::html::{Made, MetricsView, Page, ResultsView, StepView, Training, history};
use crate::report::results::Choice;
use crate::report::text::count;
use crate::run::event::{Event, Stamped};
use crate::run::{Outcome, StepOutcome};
use crate::store::Store;
use crate::store::actions::Lookup;
use crate::sweep::Sweep;

use super::engine::summary;

/// Most runs that are looked through for curves and logs, the newest first.
const RUNS: usize = 60;

/// What happened in a run.
pub(crate) struct RunLog {
    /// Name of its folder.
    name: String,
    events: Vec<Stamped>,
    /// The stages that began, by key.
    begun: BTreeMap<Digest, String>,
    /// Size of its record when it was read, in bytes.
    size: u64,
}

/// Returns the page of these points, without images.
pub(crate) fn page(sweep: &Sweep, points: &[usize], outcome: &Outcome, store: &Store, runs: &[RunLog]) -> Page {
    Page {
        title: sweep.name.clone(),
        summary: if sweep.points.len() > 1 {
            format!("{}; {}", count(points.len(), "point"), summary(outcome))
        } else {
            summary(outcome)
        },
        steps: steps(sweep, outcome, store, runs),
        results: ResultsView::new(&tables(sweep, points, outcome, store, &Choice::default())),
        metrics: scores(sweep, outcome, store),
        training: training(sweep, outcome, runs),
        run: newest(sweep, runs).and_then(|log| history::run(&log.name, &log.events)),
        ..Page::default()
    }
}

/// Returns the newest runs, the newest first; of those that `known` has and that have not grown since, what was read then.
pub(crate) fn runs(store: &Store, mut known: Vec<RunLog>) -> Vec<RunLog> {
    let folder = store.root().join("runs");
    let mut names = run_names(&folder);
    names.truncate(RUNS);
    let read = |name: String| {
        let path = folder.join(&name).join("events.jsonl");
        let size = std::fs::metadata(&path).ok()?.len();
        if let Some(at) = known.iter().position(|log| log.name == name && log.size == size) {
            return Some(known.swap_remove(at));
        }
        // Lines that cannot be read, such as the last one of a run that was killed, are left out.
        let lines = std::io::BufReader::new(std::fs::File::open(path).ok()?).lines().map_while(Result::ok);
        let events: Vec<Stamped> = lines.filter_map(|line| serde_json::from_str(&line).ok()).collect();
        let begun = history::keys(&events).into_iter().map(|(stage, key)| (key, stage)).collect();
        Some(RunLog { name, events, begun, size })
    };
    names.into_iter().filter_map(read).collect()
}

/// Returns the names of the folders of runs, the newest first.
pub(crate) fn run_names(folder: &Path) -> Vec<String> {
    let Ok(folder) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> = folder.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort_unstable_by(|one, other| other.cmp(one));
    names
}

/// Whether events are those of a run of this pipeline or sweep.
pub(crate) fn is_of(sweep: &Sweep, events: &[Stamped]) -> bool {
    let begins =
        |stamped: &Stamped| matches!(&stamped.event, Event::RunStarted { pipeline, .. } if *pipeline == sweep.name);
    events.iter().any(begins)
}

/// Returns the newest run of this pipeline.
fn newest<'a>(sweep: &Sweep, runs: &'a [RunLog]) -> Option<&'a RunLog> {
    // A run that did nothing has no timeline; the one before it says more.
    let did_something =
        |log: &&RunLog| log.events.iter().any(|stamped| matches!(stamped.event, Event::ActionDone { .. }));
    let own = || runs.iter().filter(|log| is_of(sweep, &log.events));
    own().find(did_something).or_else(|| own().next())
}

/// Returns the runs in which a stage with this key began, the newest first, each with the stage's name there.
fn begun<'a>(outcome: &StepOutcome, runs: &'a [RunLog]) -> impl Iterator<Item = (&'a RunLog, &'a str)> {
    let key = outcome.key;
    runs.iter().filter_map(move |log| Some((log, log.begun.get(&key?)?.as_str())))
}

fn steps(sweep: &Sweep, outcome: &Outcome, store: &Store, runs: &[RunLog]) -> Vec<StepView> {
    let all = sweep.plan.steps.iter().enumerate().map(|(index, step)| {
        let mut view = StepView {
            name: step.name.clone(),
            kind: step.kind.spec().name.to_owned(),
            status: "not looked at".to_owned(),
            inputs: step.inputs.iter().map(|input| (input.port.to_owned(), input.step)).collect(),
            ..StepView::default()
        };
        if let Some(params) = step.run.params().as_object() {
            let place = |name: &String| step.places.get(name).map(|span| span.place()).unwrap_or_default();
            view.params = params.iter().map(|(name, value)| (name.clone(), value.to_string(), place(name))).collect();
        }
        let Some(known) = outcome.steps.iter().find(|known| known.step == index) else { return view };
        view.status = known.status.word().replace('-', " ");
        view.reason.clone_from(&known.reason);
        view.key = known.key.map(|key| key.to_string());
        if let Some(output) = &known.output {
            view.output = Some(output.digest.to_string());
            view.size = Some(output.manifest.size());
            view.parts = output.manifest.entries.len();
            view.images = output.manifest.entries.values().map(|entry| entry.ids.len()).sum();
        }
        if let Some(Lookup::Hit(record)) = known.key.map(|key| store.lookup(key)) {
            let from = record.provenance;
            view.made = Some(Made {
                started: from.started,
                seconds: from.seconds,
                host: from.host,
                device: from.device,
                peak_memory: from.peak_memory,
                stage: from.stage,
                pipeline: from.pipeline,
                version: from.version,
            });
        }
        if let Some((log, stage)) = begun(known, runs).next() {
            view.log = history::log(&log.events, stage);
            for stamped in &log.events {
                match &stamped.event {
                    Event::Started { stage: of, reason, .. } if of == stage && view.reason.is_empty() => {
                        view.reason.clone_from(reason);
                    }
                    Event::Failed { stage: of, message, .. } if of == stage && known.output.is_none() => {
                        view.status = "failed".to_owned();
                        view.reason.clone_from(message);
                    }
                    _ => {}
                }
            }
        }
        view
    });
    all.collect()
}

fn scores(sweep: &Sweep, outcome: &Outcome, store: &Store) -> Vec<MetricsView> {
    let made = outcome.steps.iter().filter_map(|step| {
        let placed = &sweep.plan.steps[step.step];
        let output = step.output.as_ref().filter(|_| placed.kind.spec().output == Kind::Metrics)?;
        let bytes = store.get(output.manifest.entries.get(metrics::PART)?.digest).ok()?;
        Some(MetricsView::new(&placed.name, &metrics::decode(&bytes).ok()?))
    });
    made.collect()
}

fn training(sweep: &Sweep, outcome: &Outcome, runs: &[RunLog]) -> Vec<Training> {
    let all = outcome.steps.iter().filter_map(|step| {
        let mut found = begun(step, runs).map(|(log, stage)| (log, history::curves(&log.events, stage)));
        let (log, curves) = found.find(|(_, curves)| !curves.is_empty())?;
        Some(Training { stage: sweep.plan.steps[step.step].name.clone(), run: log.name.clone(), curves })
    });
    all.collect()
}

/// Returns the points whose graphs the page shows one at a time: where the plan is that of a single one, none.
pub(crate) fn graphs<'a>(sweep: &'a Sweep, points: &[usize]) -> Vec<(&'a str, &'a [(String, usize)])> {
    if sweep.points.len() < 2 {
        return Vec::new();
    }
    points.iter().map(|at| (sweep.points[*at].name.as_str(), sweep.points[*at].steps.as_slice())).collect()
}

/// Returns the stages of a point whose results are per image and there.
pub(crate) fn members<'a>(
    sweep: &'a Sweep,
    point: usize,
    outcome: &'a Outcome,
    other: Option<(&'a Operand, &'a Outcome)>,
) -> Vec<Member<'a>> {
    fn result(outcome: &Outcome, index: usize) -> Option<&crate::plan::prepare::Artifact> {
        outcome.steps.iter().find(|step| step.step == index)?.output.as_ref()
    }
    let depths = StepGraph::of(&sweep.plan).layers();
    let found = sweep.points[point].steps.iter().filter_map(|(stage, index)| {
        let own = result(outcome, *index).filter(|own| own.manifest.buckets.is_some())?;
        let other = other.and_then(|(operand, outcome)| {
            let index = operand.sweep.points[operand.point].step(stage)?;
            result(outcome, index)
                .filter(|other| other.digest != own.digest && other.manifest.kind == own.manifest.kind)
        });
        let depth = depths[*index];
        Some(Member {
            stage: stage.clone(),
            depth,
            manifest: &own.manifest,
            other: other.map(|other| &**other.manifest),
        })
    });
    found.collect()
}
