//! `orandflow show`: what is known of one stage's result.

use std::fmt::Write as _;
use std::process::ExitCode;

use super::Failure;
use super::common::{PipelineArgs, deliver};
use super::engine::{CacheDir, metrics, metrics_table};
use super::remote::RemoteArgs;
use super::run::survey;
use crate::plan::{Plan, Step};
use crate::report::text::{Align, count, duration, size, table};
use crate::run::{Status, StepOutcome};
use crate::store::Store;
use crate::store::actions::{Lookup, Provenance};
use crate::store::manifest::Manifest;

/// Arguments of `show`.
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,

    /// The stage
    stage: String,

    #[command(flatten)]
    cache: CacheDir,

    #[command(flatten)]
    remote: RemoteArgs,
}

/// Runs `show`.
pub(crate) fn show(args: &ShowArgs) -> Result<ExitCode, Failure> {
    let plan = args.pipeline.load()?;
    let store = args.cache.open()?;
    args.remote.read(&store)?;
    let (survey, _) = survey(&plan, std::slice::from_ref(&args.stage), &store)?;
    let outcome = survey.outcome(&plan, &store);
    let Some(shown) = outcome.steps.iter().find(|step| plan.steps[step.step].name == args.stage) else {
        let message = format!("there is no stage `{}`", args.stage);
        return Err(Failure::Message { message, help: None, code: 2 });
    };
    if let Some(Err(message)) = shown.output.as_ref().map(|output| output.manifest.load()) {
        let help = Some("run the pipeline again; it makes what is gone".to_owned());
        return Err(Failure::Message { message, help, code: 1 });
    }
    let step = &plan.steps[shown.step];
    let mut text = heading(step, shown);
    let record = shown.key.map(|key| store.lookup(key));
    if let Some(Lookup::Hit(record)) = &record {
        text.push_str(&provenance(&record.provenance));
    }
    text.push_str(&parameters(step));
    text.push_str(&inputs(&plan, step, &outcome.steps));
    if let Some(output) = &shown.output {
        text.push_str(&parts(&output.manifest));
    }
    let table = metrics_table(&metrics(&plan, &store, std::slice::from_ref(shown)));
    if !table.is_empty() {
        let _ = write!(text, "\n{table}");
    }
    if let Some(per_class) = per_class(&plan, &store, shown) {
        let _ = write!(text, "\n{per_class}");
    }
    deliver(&text, None)
}

fn field(text: &mut String, name: &str, value: impl std::fmt::Display) {
    let _ = writeln!(text, "{name:<12}{value}");
}

fn heading(step: &Step, shown: &StepOutcome) -> String {
    let mut text = String::new();
    field(&mut text, "stage", &step.name);
    field(&mut text, "kind", step.kind.spec().name);
    let why = if shown.reason.is_empty() { String::new() } else { format!(" ({})", shown.reason) };
    field(&mut text, "state", format!("{}{why}", shown.status.word().replace('-', " ")));
    if let Some(key) = shown.key {
        field(&mut text, "key", key);
    }
    if let Some(output) = &shown.output {
        field(&mut text, "output", output.digest);
    }
    debug_assert!(shown.status != Status::Cached || shown.output.is_some());
    text
}

fn provenance(provenance: &Provenance) -> String {
    let mut text = String::new();
    field(&mut text, "made", format!("{} in {}", provenance.started, duration(provenance.seconds)));
    let by = format!("stage `{}` of `{}`, orandflow {}", provenance.stage, provenance.pipeline, provenance.version);
    field(&mut text, "by", by);
    let jobs = count(provenance.jobs, "job");
    let memory = size(provenance.peak_memory);
    field(&mut text, "on", format!("{}, device {}, {jobs}, peak memory {memory}", provenance.host, provenance.device));
    for (name, value) in &provenance.metrics {
        field(&mut text, "last value", format!("{name} {value}"));
    }
    for warning in &provenance.warnings {
        field(&mut text, "warning", warning);
    }
    text
}

fn parameters(step: &Step) -> String {
    let params = step.run.params();
    let Some(map) = params.as_object().filter(|map| !map.is_empty()) else { return String::new() };
    let rows: Vec<Vec<String>> = map
        .iter()
        .map(|(name, value)| {
            let place = step.places.get(name).map_or("default".to_owned(), |span| span.place());
            vec![name.clone(), value.to_string(), place]
        })
        .collect();
    let left = Align::Left;
    format!("\n{}", table(&[("parameter", left), ("value", left), ("place", left)], &rows))
}

fn inputs(plan: &Plan, step: &Step, steps: &[StepOutcome]) -> String {
    if step.inputs.is_empty() {
        return String::new();
    }
    let digest = |index: usize| {
        let found = steps.iter().find(|step| step.step == index).and_then(|step| step.output.as_ref());
        found.map_or("not made yet".to_owned(), |output| output.digest.to_string())
    };
    let rows: Vec<Vec<String>> = step
        .inputs
        .iter()
        .map(|input| vec![input.port.to_owned(), plan.steps[input.step].name.clone(), digest(input.step)])
        .collect();
    let left = Align::Left;
    format!("\n{}", table(&[("input", left), ("stage", left), ("artifact", left)], &rows))
}

fn parts(manifest: &Manifest) -> String {
    let mut rows: Vec<Vec<String>> = manifest
        .entries
        .iter()
        .map(|(name, entry)| {
            let images = if entry.ids.is_empty() { String::new() } else { entry.ids.len().to_string() };
            vec![name.clone(), size(entry.size), images, entry.digest.short()]
        })
        .collect();
    let images = manifest.entries.values().map(|entry| entry.ids.len()).sum::<usize>();
    let images = if images == 0 { String::new() } else { images.to_string() };
    rows.push(vec![format!("in all ({})", count(rows.len(), "part")), size(manifest.size()), images, String::new()]);
    let titles = [("part", Align::Left), ("size", Align::Right), ("images", Align::Right), ("digest", Align::Left)];
    format!("\n{}", table(&titles, &rows))
}

/// Returns the table of classes, where the metrics have one.
fn per_class(plan: &Plan, store: &Store, shown: &StepOutcome) -> Option<String> {
    let metrics = metrics(plan, store, std::slice::from_ref(shown));
    let classes = metrics.first()?.1.get("per_class")?.as_array()?.clone();
    let cell = |value: Option<&serde_json::Value>| match value {
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(value) => value.as_f64().map_or("-".to_owned(), |value| format!("{:.1}", 100.0 * value)),
        None => "-".to_owned(),
    };
    let rows: Vec<Vec<String>> = classes
        .iter()
        .map(|class| {
            vec![
                cell(class.get("name")),
                cell(class.get("iou")),
                cell(class.get("precision")),
                cell(class.get("recall")),
            ]
        })
        .collect();
    let right = Align::Right;
    Some(table(&[("class", Align::Left), ("IoU %", right), ("precision %", right), ("recall %", right)], &rows))
}
