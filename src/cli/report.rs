//! `orandflow report`: everything that is known of a pipeline's results as one HTML page.

use std::io::BufRead as _;
use std::path::PathBuf;
use std::process::ExitCode;

use super::Failure;
use super::common::deliver;
use super::diff::Operand;
use super::engine::{CacheDir, outside, summary};
use super::export::Cache;
use super::results::tables;
use super::sweep::SweepFile;
use crate::artifact::metrics;
use crate::kind::Kind;
use crate::plan::prepare::Planner;
use crate::report::diff;
use crate::report::html::gallery::{Member, build};
use crate::report::html::{Made, MetricsView, Page, ResultsView, StepView, Training, history, render};
use crate::report::results::Choice;
use crate::report::text::{count, size};
use crate::run::event::{Event, Stamped};
use crate::run::{Outcome, StepOutcome, Survey};
use crate::store::Store;
use crate::store::actions::Lookup;
use crate::store::files::Files;
use crate::sweep::Sweep;

/// Most runs that are looked through for curves and logs, the newest first.
const RUNS: usize = 60;

/// Arguments of `report`.
#[derive(Debug, clap::Args)]
pub(crate) struct ReportArgs {
    #[command(flatten)]
    file: SweepFile,

    /// The folder that the page is written to, as `NAME.html`
    #[arg(long, value_name = "DIR", default_value = "report")]
    to: PathBuf,

    /// Compare with this pipeline file, `FILE#POINT` or folder below `cache/runs`
    #[arg(long, value_name = "OTHER")]
    against: Option<String>,

    /// Put a value in place of those of the other one, as `--set` does in this one; may be repeated
    #[arg(long = "against-set", value_name = "PATH=VALUE", requires = "against")]
    against_set: Vec<String>,

    /// How many images of each set are shown, at most 150
    #[arg(long, value_name = "N", default_value_t = 40)]
    images: usize,

    #[command(flatten)]
    cache: CacheDir,
}

/// Runs `report`.
pub(crate) fn report(args: &ReportArgs) -> Result<ExitCode, Failure> {
    let (sweep, points) = args.file.load()?;
    let store = args.cache.open()?;
    let files = Files::load(&store);
    let planner = Planner::new(&store, &files);
    let survey = Survey::of(&sweep.plan, &sweep.steps_of(&points), &planner);
    files.save(&store).map_err(|error| outside(&error))?;
    let outcome = survey.map_err(Failure::Diagnostics)?.outcome(&sweep.plan, &store);
    let runs = runs(&store);

    let first = points.first().copied().unwrap_or(0);
    let other = args.against.as_ref().map(|word| Operand::load(word, &args.against_set)).transpose()?;
    let other_outcome = match &other {
        Some(other) => {
            let survey = Survey::of(&other.sweep.plan, &other.sweep.steps_of(&[other.point]), &planner);
            Some(survey.map_err(Failure::Diagnostics)?.outcome(&other.sweep.plan, &store))
        }
        None => None,
    };
    let mut page = Page {
        title: sweep.name.clone(),
        summary: format!("{}; {}", count(points.len(), "point"), summary(&outcome)),
        steps: steps(&sweep, &outcome, &store, &runs),
        results: ResultsView::new(&tables(&sweep, &points, &outcome, &store, &Choice::default())),
        metrics: scores(&sweep, &outcome, &store),
        training: training(&sweep, &outcome, &runs),
        run: newest(&sweep, &runs).and_then(|(name, events)| history::run(name, events)),
        ..Page::default()
    };
    let source = Cache { store: &store, planner: &planner };
    let members = members(&sweep, first, &outcome, other.as_ref().zip(other_outcome.as_ref()));
    page.images = build(&members, &source, args.images).map_err(|message| Failure::Message {
        message,
        help: Some("run the pipeline again; it makes what is gone".to_owned()),
        code: 1,
    })?;
    if points.len() > 1 && !page.images.is_empty() {
        page.summary.push_str(&format!("; images of point {}", sweep.points[first].name));
    }
    let mine_name = args.file.file.display().to_string();
    if let (Some(other), Some(other_outcome)) = (&other, &other_outcome) {
        let name = if sweep.points.len() > 1 { format!("{mine_name}#{}", sweep.points[first].name) } else { mine_name };
        let mine = Operand::of(name, sweep.clone(), first);
        let difference = diff::compare(&mine.side(&outcome, &store), &other.side(other_outcome, &store));
        page.difference = Some(diff::as_json(&difference));
    }
    let text = render(&page, &sweep.plan);
    fs_err::create_dir_all(&args.to).map_err(|error| outside(&error))?;
    let path = args.to.join(format!("{}.html", sweep.name));
    fs_err::write(&path, &text).map_err(|error| outside(&error))?;
    deliver(&format!("{} ({})\n", path.display(), size(text.len() as u64)), None)
}

/// Returns the events of the newest runs, the newest first, each with the name of its folder. Lines that cannot be read, such
/// as the last one of a run that was killed, are left out.
fn runs(store: &Store) -> Vec<(String, Vec<Stamped>)> {
    let Ok(folder) = std::fs::read_dir(store.root().join("runs")) else { return Vec::new() };
    let mut names: Vec<String> = folder.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort_unstable_by(|one, other| other.cmp(one));
    names.truncate(RUNS);
    let read = |name: String| {
        let file = std::fs::File::open(store.root().join("runs").join(&name).join("events.jsonl")).ok()?;
        let lines = std::io::BufReader::new(file).lines().map_while(Result::ok);
        let events = lines.filter_map(|line| serde_json::from_str(&line).ok()).collect();
        Some((name, events))
    };
    names.into_iter().filter_map(read).collect()
}

/// Returns the newest run of this pipeline.
fn newest<'a>(sweep: &Sweep, runs: &'a [(String, Vec<Stamped>)]) -> Option<(&'a str, &'a [Stamped])> {
    let is_own = |events: &[Stamped]| {
        events
            .iter()
            .any(|stamped| matches!(&stamped.event, Event::RunStarted { pipeline, .. } if *pipeline == sweep.name))
    };
    // A run that did nothing has no timeline; the one before it says more.
    let did_something =
        |events: &[Stamped]| events.iter().any(|stamped| matches!(stamped.event, Event::ActionDone { .. }));
    let own = || runs.iter().filter(|(_, events)| is_own(events));
    let found = own().find(|(_, events)| did_something(events)).or_else(|| own().next());
    found.map(|(name, events)| (name.as_str(), events.as_slice()))
}

/// Returns the newest run in which a stage with this key began, and the stage's name there.
fn begun<'a>(outcome: &StepOutcome, runs: &'a [(String, Vec<Stamped>)]) -> Vec<(&'a str, &'a [Stamped], String)> {
    let Some(key) = outcome.key else { return Vec::new() };
    let mut found = Vec::new();
    for (name, events) in runs {
        if let Some((stage, _)) = history::keys(events).into_iter().find(|(_, other)| *other == key) {
            found.push((name.as_str(), events.as_slice(), stage));
        }
    }
    found
}

fn steps(sweep: &Sweep, outcome: &Outcome, store: &Store, runs: &[(String, Vec<Stamped>)]) -> Vec<StepView> {
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
        if let Some((_, events, stage)) = begun(known, runs).first() {
            view.log = history::log(events, stage);
            for stamped in *events {
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

fn training(sweep: &Sweep, outcome: &Outcome, runs: &[(String, Vec<Stamped>)]) -> Vec<Training> {
    let all = outcome.steps.iter().filter_map(|step| {
        let found = begun(step, runs).into_iter().map(|(run, events, stage)| (run, history::curves(events, &stage)));
        let (run, curves) = found.into_iter().find(|(_, curves)| !curves.is_empty())?;
        Some(Training { stage: sweep.plan.steps[step.step].name.clone(), run: run.to_owned(), curves })
    });
    all.collect()
}

/// Returns the stages of a point whose results are per image and there.
fn members<'a>(
    sweep: &'a Sweep,
    point: usize,
    outcome: &'a Outcome,
    other: Option<(&'a Operand, &'a Outcome)>,
) -> Vec<Member<'a>> {
    fn result(outcome: &Outcome, index: usize) -> Option<&crate::plan::prepare::Artifact> {
        outcome.steps.iter().find(|step| step.step == index)?.output.as_ref()
    }
    let found = sweep.points[point].steps.iter().filter_map(|(stage, index)| {
        let own = result(outcome, *index).filter(|own| own.manifest.buckets.is_some())?;
        let other = other.and_then(|(operand, outcome)| {
            let index = operand.sweep.points[operand.point].step(stage)?;
            result(outcome, index)
                .filter(|other| other.digest != own.digest && other.manifest.kind == own.manifest.kind)
        });
        Some(Member { stage: stage.clone(), manifest: &own.manifest, other: other.map(|other| &**other.manifest) })
    });
    found.collect()
}
