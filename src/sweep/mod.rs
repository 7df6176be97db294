//! Many pipelines as one plan: a base, the values that vary, and every combination of them as a point. Runs nothing.

pub mod declared;
pub mod estimate;
mod expand;
mod merge;

use std::path::{Component, Path, PathBuf};

use toml::de::DeValue;

use crate::diag::{Diagnostic, Source};
use crate::pipeline::overrides::{SET, Setting, read_set, settings};
use crate::pipeline::{Texts, assemble, tables};
use crate::plan::{Plan, lower};
use crate::stage::StageKind;
use declared::Declared;
use expand::{Combination, combinations};

/// What messages call the tables of a sweep.
const SWEEP: &str = "the sweep";

/// All points of a sweep as one plan.
#[derive(Clone)]
pub struct Sweep {
    /// Its name: that of the file.
    pub name: String,
    /// Every distinct step of every point, once.
    pub plan: Plan,
    /// The points, in order of the file.
    pub points: Vec<Point>,
    /// What varies, in order of the file, `seed` last: the titles of [`Point::values`].
    pub labels: Vec<String>,
    /// The files that were read: the base, if it is another one, and the sweep's own.
    pub files: Vec<PathBuf>,
}

/// One combination.
#[derive(Clone, Debug)]
pub struct Point {
    /// Its name, such as `or/radius=3/seed=1`; `base` where nothing varies.
    pub name: String,
    /// Its name without the seed: points of one group are repetitions of each other.
    pub group: String,
    /// The seed, if the sweep has seeds.
    pub seed: Option<u64>,
    /// Per label its value as text; empty where it sets none.
    pub values: Vec<String>,
    /// Its stages: the name in the base, and the index of the step in [`Sweep::plan`].
    pub steps: Vec<(String, usize)>,
}

impl Point {
    /// Whether the point is meant by a word: its name, or one part of it, such as `or` or `radius=3`.
    pub fn is_meant(&self, word: &str) -> bool {
        self.name == word || self.group == word || self.name.split('/').any(|part| part == word)
    }

    /// Returns the step of a stage.
    pub fn step(&self, stage: &str) -> Option<usize> {
        self.steps.iter().find(|(name, _)| name == stage).map(|(_, step)| *step)
    }
}

impl Sweep {
    /// Makes a sweep of one point, a pipeline that was read from a file.
    pub fn of(plan: Plan, file: &Path) -> Self {
        let steps = plan.steps.iter().enumerate().map(|(index, step)| (step.name.clone(), index)).collect();
        let (name, group) = ("base".to_owned(), "base".to_owned());
        let point = Point { name, group, seed: None, values: Vec::new(), steps };
        let (labels, files) = (Vec::new(), vec![file.to_owned()]);
        Self { name: plan.pipeline.clone(), plan, points: vec![point], labels, files }
    }

    /// Returns the points that are meant by at least one word; all points without words.
    ///
    /// # Errors
    /// A word that means none.
    pub fn choose(&self, words: &[String]) -> Result<Vec<usize>, Vec<Diagnostic>> {
        let all: Vec<usize> = (0..self.points.len()).collect();
        if words.is_empty() {
            return Ok(all);
        }
        let wrong: Vec<Diagnostic> = words
            .iter()
            .filter(|word| !self.points.iter().any(|point| point.is_meant(word)))
            .map(|word| {
                let parts = self.points.iter().flat_map(|point| point.name.split('/').chain([point.name.as_str()]));
                let diagnostic = Diagnostic::new(format!("there is no point `{word}`"));
                match crate::diag::nearest(word, parts) {
                    Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
                    None => {
                        let file = self.files.last().map_or("FILE".to_owned(), |file| file.display().to_string());
                        diagnostic.help(format!("`orandflow sweep {file} --dry-run` lists the points"))
                    }
                }
            })
            .collect();
        if !wrong.is_empty() {
            return Err(wrong);
        }
        Ok(all.into_iter().filter(|at| words.iter().any(|word| self.points[*at].is_meant(word))).collect())
    }

    /// Returns which steps of the plan belong to these points.
    pub fn steps_of(&self, points: &[usize]) -> Vec<bool> {
        let mut chosen = vec![false; self.plan.steps.len()];
        for point in points {
            for (_, step) in &self.points[*point].steps {
                chosen[*step] = true;
            }
        }
        chosen
    }
}

/// Reads the file of a sweep, or of a pipeline, which is a sweep of one point. `sets` are `--set` arguments: those that start
/// with `sweep.` change the sweep itself, `base=PATH` takes another base, and all others hold for every point that has the stage.
///
/// # Errors
/// Everything that is wrong with the files and the arguments.
pub fn load(path: &Path, sets: &[String], catalog: &[&'static dyn StageKind]) -> Result<Sweep, Vec<Diagnostic>> {
    let Texted { sources, files, sets } = texts(path, sets)?;
    Ok(Sweep { files, ..of_texts(path, sources, &sets, catalog)? })
}

/// The texts of a sweep.
#[derive(Debug)]
pub struct Texted {
    /// The base, if it is another file, and the sweep's own file.
    pub sources: Vec<Source>,
    /// Their paths.
    pub files: Vec<PathBuf>,
    /// The `--set` arguments but for those that give another base.
    pub sets: Vec<String>,
}

/// Reads the files of a sweep and nothing of what stands in them but the base.
///
/// # Errors
/// If a file cannot be read, or has no base where one is given.
pub fn texts(path: &Path, sets: &[String]) -> Result<Texted, Vec<Diagnostic>> {
    let own = read(path, "the file")?;
    let mut files = vec![path.to_owned()];
    let mut sources = vec![own];
    let (bases, sets): (Vec<&String>, Vec<&String>) = sets.iter().partition(|set| is_base(set));
    let sets: Vec<String> = sets.into_iter().cloned().collect();
    let given = bases.last().and_then(|set| set.split_once('=')).map(|(_, path)| PathBuf::from(path.trim()));
    let beside = |base: PathBuf| plainly(&path.parent().unwrap_or(Path::new("")).join(base));
    let declared = base_of(&sources[0])?;
    if let (Some(given), None) = (&given, &declared) {
        let name = path.display();
        let fault = Diagnostic::new(format!("`{name}` has no base that `{}` could replace", given.display()));
        return Err(vec![fault.help("leave `--set base=` out, or write `base = \"FILE\"` in the file")]);
    }
    if let Some(base) = given.or(declared.map(beside)) {
        sources.insert(0, read(&base, "the base of the sweep")?);
        files.insert(0, base);
    }
    Ok(Texted { sources, files, sets })
}

/// As [`load`], of texts; [`Sweep::files`] is empty.
///
/// # Errors
/// Everything that is wrong with them and the arguments.
pub fn of_texts(
    path: &Path,
    sources: Vec<Source>,
    sets: &[String],
    catalog: &[&'static dyn StageKind],
) -> Result<Sweep, Vec<Diagnostic>> {
    let texts = Texts::layers(sources, sets);
    let mut roots = tables(&texts)?;
    let mut faults = Vec::new();
    let mut own = roots.pop().expect("there is a file");
    let mut layer = Vec::new();
    let mut root = match roots.pop() {
        None => own.clone(),
        Some(root) => {
            if let Some((key, _)) = root.get_key_value("base") {
                let fault = Diagnostic::new("the base of a sweep is a pipeline, and this is a sweep");
                faults.push(fault.at(texts.span(key.span()), ""));
            }
            own.remove("base");
            layer = settings(&own, &[], &|_| false);
            layer.retain(|setting| setting.path[0].word != "sweep");
            root
        }
    };
    let mut tables = own;
    root.remove("sweep");

    for setting in &layer {
        // A sweep may have variables of its own.
        let is_variable = setting.path[0].word == "vars" && setting.path.len() == 2;
        let put = if is_variable { setting.force(&mut root, &texts) } else { setting.apply(&mut root, &texts, SWEEP) };
        faults.extend(put.err());
    }
    let mut set = Vec::new();
    for (start, source) in texts.overrides() {
        match read_set(&root, &texts, start, &source.text) {
            Ok(setting) if setting.path[0].word == "sweep" && setting.path.len() > 1 => {
                faults.extend(setting.force(&mut tables, &texts).err());
            }
            Ok(setting) => set.push(setting),
            Err(fault) => faults.push(fault),
        }
    }
    let declared = Declared::read(tables.remove("sweep"), &texts, &mut faults);
    let (labels, combinations) = combinations(&declared, &mut faults);
    refuse_swept(&set, &declared, &texts, &mut faults);
    if !faults.is_empty() {
        return Err(in_order(faults, &texts));
    }
    let plans = lowered(&root, &combinations, &set, &declared, &texts, catalog)?;
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("sweep").to_owned();
    let name = if labels.is_empty() { plans.first().map_or(stem, |plan| plan.pipeline.clone()) } else { stem };
    let (plan, points) = merge::merge(&name, combinations, plans);
    Ok(Sweep { name, plan, points, labels, files: Vec::new() })
}

/// So many stages may all points have before those that are the same become one: some kilobytes of memory each.
const MOST_STEPS: usize = 200_000;

/// Makes the plan of every combination, with the stages that the targets need.
fn lowered<'text>(
    root: &toml::de::DeTable<'text>,
    combinations: &[Combination<'text>],
    set: &[Setting<'text>],
    declared: &Declared<'text>,
    texts: &'text Texts,
    catalog: &[&'static dyn StageKind],
) -> Result<Vec<Plan>, Vec<Diagnostic>> {
    let mut plans = Vec::new();
    // Per fault the number of points that have it, and the first of them.
    let mut faults: Vec<(Diagnostic, usize, String)> = Vec::new();
    let mut note = |fault: Diagnostic, point: &str| {
        let same = |other: &Diagnostic| {
            let place = |fault: &Diagnostic| fault.labels.first().map(|label| label.span.clone());
            other.title == fault.title && place(other) == place(&fault)
        };
        match faults.iter_mut().find(|(other, ..)| same(other)) {
            Some((_, count, _)) => *count += 1,
            None => faults.push((fault, 1, point.to_owned())),
        }
    };
    let mut unused: Vec<Option<Diagnostic>> = vec![None; set.len()];
    let mut used = vec![false; set.len()];
    let mut met = vec![false; declared.targets.len()];
    let mut steps = 0;
    for combination in combinations {
        let mut root = root.clone();
        let mut wrong = Vec::new();
        for setting in &combination.settings {
            wrong.extend(setting.apply(&mut root, texts, SWEEP).err());
        }
        for (at, setting) in set.iter().enumerate() {
            match setting.apply(&mut root, texts, SET) {
                Ok(()) => used[at] = true,
                Err(fault) => unused[at] = Some(fault),
            }
        }
        match lower(assemble(root, wrong, texts), catalog) {
            Ok(plan) => {
                let found: Vec<bool> = declared
                    .targets
                    .iter()
                    .map(|(target, _)| plan.steps.iter().any(|step| step.name == *target))
                    .collect();
                for (met, found) in met.iter_mut().zip(&found) {
                    *met |= found;
                }
                if !found.is_empty() && !found.contains(&true) {
                    let fault = Diagnostic::new(format!("point `{}` has none of the targets", combination.name));
                    note(fault.at(declared.targets[0].1.clone(), ""), &combination.name);
                }
                let plan = merge::only(plan, &declared.targets);
                steps += plan.steps.len();
                if steps > MOST_STEPS {
                    let title = format!("the points of the sweep have more than {MOST_STEPS} stages together");
                    return Err(vec![Diagnostic::new(title).help("vary less at once, or name `targets`")]);
                }
                plans.push(plan);
            }
            Err(found) => found.into_iter().for_each(|fault| note(fault, &combination.name)),
        }
    }
    for (at, fault) in unused.into_iter().enumerate() {
        if let (Some(fault), false) = (fault, used[at]) {
            note(fault, "");
        }
    }
    if plans.len() == combinations.len() {
        for ((target, span), _) in declared.targets.iter().zip(&met).filter(|(_, met)| !**met) {
            let known = plans.iter().flat_map(|plan| plan.steps.iter().map(|step| step.name.as_str()));
            let fault = Diagnostic::new(format!("no point has a stage `{target}`")).at(span.clone(), "");
            note(
                match crate::diag::nearest(target, known) {
                    Some(near) => fault.help(format!("did you mean `{near}`?")),
                    None => fault,
                },
                "",
            );
        }
    }
    if faults.is_empty() {
        return Ok(plans);
    }
    let faults = faults.into_iter().map(|(fault, count, point)| {
        if point.is_empty() || count >= combinations.len() {
            return fault;
        }
        let others = if count > 1 { format!(" and {} others", count - 1) } else { String::new() };
        fault.help(format!("this is so in point `{point}`{others}"))
    });
    Err(in_order(faults.collect(), texts))
}

/// Refuses `--set` arguments for what the sweep varies: they would have no effect.
fn refuse_swept(set: &[Setting<'_>], declared: &Declared<'_>, texts: &Texts, faults: &mut Vec<Diagnostic>) {
    for setting in set {
        let path = setting.dotted();
        let swept = declared.settings().find(|other| {
            let other = other.dotted();
            other == path || other.strip_prefix(&path).is_some_and(|rest| rest.starts_with('.'))
        });
        let part = &setting.path[setting.path.len() - 1];
        let place = setting.path[0].place.start..part.place.end;
        let seeds = (path == "pipeline.seed").then_some(declared.seeds_at.clone()).flatten();
        let other = swept.map(|other| texts.span(other.value.span())).or(seeds);
        if let Some(other) = other {
            let fault = Diagnostic::new(format!("`--set` cannot set `{path}`, as the sweep does"))
                .at(texts.span(place), "")
                .context(other, "set here");
            faults.push(
                fault.help("pick points with `--only`, or change the sweep itself, as in `--set sweep.seeds=[0]`"),
            );
        }
    }
}

/// Sorts faults by their place.
fn in_order(mut faults: Vec<Diagnostic>, texts: &Texts) -> Vec<Diagnostic> {
    let place = |fault: &Diagnostic| {
        let label = fault.labels.iter().find(|label| label.primary);
        label.and_then(|label| texts.place(&label.span)).unwrap_or(0)
    };
    faults.sort_by_key(place);
    faults
}

/// Returns the path behind `base =`, if the file has one and is TOML.
fn base_of(source: &Source) -> Result<Option<PathBuf>, Vec<Diagnostic>> {
    let texts = Texts::new(&source.name, &source.text, &[]);
    let root = tables(&texts)?.remove(0);
    let Some(value) = root.get("base") else { return Ok(None) };
    match value.get_ref() {
        DeValue::String(path) => Ok(Some(PathBuf::from(path.as_ref()))),
        _ => {
            let fault = Diagnostic::new("`base` must be the path of a pipeline file").at(texts.span(value.span()), "");
            Err(vec![fault.help("it is relative to the folder of this file: `base = \"../demo.toml\"`")])
        }
    }
}

/// Whether a `--set` argument gives the sweep another base.
fn is_base(set: &str) -> bool {
    set.split_once('=').is_some_and(|(path, _)| path.trim() == "base")
}

fn read(path: &Path, what: &str) -> Result<Source, Vec<Diagnostic>> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| {
        let text = error.to_string();
        let text = text.split(" (os error").next().unwrap_or(&text).to_lowercase();
        vec![Diagnostic::new(format!("{what} `{name}` cannot be read: {text}"))]
    })?;
    Ok(Source { name, text })
}

/// Returns the path without `x/..`.
fn plainly(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir if matches!(plain.components().next_back(), Some(Component::Normal(_))) => {
                plain.pop();
            }
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}
