//! `orandflow diff`: two pipelines, runs or points of a sweep side by side.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::Failure;
use super::common::deliver;
use super::engine::CacheDir;
use super::run::survey_of;
use crate::artifact::metrics;
use crate::kind::Kind;
use crate::report::diff::{Member, Side, as_json, compare, text};
use crate::run::Outcome;
use crate::stages;
use crate::store::Store;
use crate::store::actions::Lookup;
use crate::sweep::{self, Sweep};

/// Arguments of `diff`.
#[derive(Debug, clap::Args)]
pub(crate) struct DiffArgs {
    /// A pipeline file, `FILE#POINT` for a point of a sweep, or a folder below `cache/runs`
    a: String,

    /// The other one
    b: String,

    /// Put a value in place of those of A alone, as for `run`; may be repeated
    #[arg(long = "set-a", value_name = "PATH=VALUE")]
    set_a: Vec<String>,

    /// Put a value in place of those of B alone, as for `run`; may be repeated
    #[arg(long = "set-b", value_name = "PATH=VALUE")]
    set_b: Vec<String>,

    /// Put a value in place of those of both, as for `run`; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    set: Vec<String>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    cache: CacheDir,
}

/// Runs `diff`.
pub(crate) fn diff(args: &DiffArgs) -> Result<ExitCode, Failure> {
    let with = |own: &[String]| -> Vec<String> { args.set.iter().chain(own).cloned().collect() };
    let one = Operand::load(&args.a, &with(&args.set_a))?;
    let other = Operand::load(&args.b, &with(&args.set_b))?;
    let store = args.cache.open()?;
    let (mine, theirs) = (one.survey(&store)?, other.survey(&store)?);
    let difference = compare(&one.side(&mine, &store), &other.side(&theirs, &store));
    let shown = if args.json { format!("{:#}\n", as_json(&difference)) } else { text(&difference) };
    deliver(&shown, None)
}

/// A point that is compared.
pub(crate) struct Operand {
    name: String,
    pub(crate) sweep: Sweep,
    pub(crate) point: usize,
}

impl Operand {
    /// Reads `FILE`, `FILE#POINT` or the folder of a run.
    pub(crate) fn load(word: &str, set: &[String]) -> Result<Self, Failure> {
        let (path, point) = match word.split_once('#') {
            Some((path, point)) => (path, Some(point)),
            None => (word, None),
        };
        let (file, mut sets) = run_folder(Path::new(path)).unwrap_or_else(|| (PathBuf::from(path), Vec::new()));
        sets.extend(set.iter().cloned());
        let sweep = sweep::load(&file, &sets, stages::catalog()).map_err(Failure::Diagnostics)?;
        let words: Vec<String> = point.map(str::to_owned).into_iter().collect();
        let points = sweep.choose(&words).map_err(Failure::Diagnostics)?;
        // A whole name is meant before a part of one.
        let exact = points.iter().find(|at| Some(sweep.points[**at].name.as_str()) == point);
        let point = match (exact, points.as_slice()) {
            (Some(point), _) | (None, [point]) => *point,
            (None, several) => {
                let names = several.iter().take(5).map(|at| format!("`{path}#{}`", sweep.points[*at].name));
                return Err(Failure::Message {
                    message: format!("`{word}` means {} points, and one is compared", several.len()),
                    help: Some(format!("write one of {}", names.collect::<Vec<_>>().join(", "))),
                    code: 2,
                });
            }
        };
        Ok(Self { name: called(word, set), sweep, point })
    }

    /// Makes one of a point that is known.
    pub(crate) fn of(name: String, sweep: Sweep, point: usize) -> Self {
        Self { name, sweep, point }
    }

    /// Looks at the point's stages.
    pub(crate) fn survey(&self, store: &Store) -> Result<Outcome, Failure> {
        let chosen = self.sweep.steps_of(&[self.point]);
        let (survey, _) = survey_of(&self.sweep.plan, &chosen, store)?;
        Ok(survey.outcome(&self.sweep.plan, store))
    }

    /// Returns what is compared of it.
    pub(crate) fn side<'a>(&'a self, outcome: &Outcome, store: &Store) -> Side<'a> {
        let point = &self.sweep.points[self.point];
        let name_of = |step: usize| {
            let found = point.steps.iter().find(|(_, own)| *own == step);
            found.map_or_else(|| self.sweep.plan.steps[step].name.clone(), |(name, _)| name.clone())
        };
        let members = point.steps.iter().map(|(stage, index)| {
            let step = &self.sweep.plan.steps[*index];
            let known = outcome.steps.iter().find(|known| known.step == *index);
            let output = known.and_then(|known| known.output.as_ref());
            let seconds = known.and_then(|known| known.key).and_then(|key| match store.lookup(key) {
                Lookup::Hit(record) => Some(record.provenance.seconds).filter(|seconds| *seconds > 0.0),
                _ => None,
            });
            let scores = output.filter(|_| step.kind.spec().output == Kind::Metrics).and_then(|output| {
                let entry = output.manifest.entries.get(metrics::PART)?;
                metrics::decode(&store.get(entry.digest).ok()?).ok()
            });
            let inputs: BTreeMap<&'static str, String> =
                step.inputs.iter().map(|input| (input.port, name_of(input.step))).collect();
            Member { stage: stage.clone(), step, inputs, output: output.map(|output| output.digest), seconds, scores }
        });
        Side { name: self.name.clone(), members: members.collect() }
    }
}

/// Returns what a person calls a side: the word on the command line, with the values that were put in place.
pub(crate) fn called(word: &str, set: &[String]) -> String {
    set.iter().fold(word.to_owned(), |name, value| format!("{name} --set {value}"))
}

/// Returns the pipeline of a run's folder, and its `--set` arguments.
fn run_folder(path: &Path) -> Option<(PathBuf, Vec<String>)> {
    let file = path.join("pipeline.toml");
    if !path.is_dir() || !file.is_file() {
        return None;
    }
    let set = std::fs::read_to_string(path.join("set.txt")).unwrap_or_default();
    Some((file, set.lines().map(str::to_owned).collect()))
}
