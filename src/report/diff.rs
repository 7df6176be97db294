//! Two pipelines, or two points of a sweep, side by side: what differs in them and in what came of them. Reads no cache.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::results::described;
use super::text::{Align, count, duration, table};
use crate::artifact::metrics::Table;
use crate::digest::Digest;
use crate::plan::Step;

/// One stage of a side.
#[derive(Clone)]
pub struct Member<'a> {
    /// Its name in the pipeline.
    pub stage: String,
    /// It.
    pub step: &'a Step,
    /// Per port the name of the stage on it.
    pub inputs: BTreeMap<&'static str, String>,
    /// Digest of its result, if it is there.
    pub output: Option<Digest>,
    /// How long it took when it was made, in seconds.
    pub seconds: Option<f64>,
    /// Its scores, if it made some.
    pub scores: Option<Table>,
}

/// One of the two.
#[derive(Clone)]
pub struct Side<'a> {
    /// What a person calls it.
    pub name: String,
    /// Its stages, in order.
    pub members: Vec<Member<'a>>,
}

/// What differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The names of both sides.
    pub names: [String; 2],
    /// Stages that one side alone has.
    pub alone: [Vec<String>; 2],
    /// Stages whose own parameters, inputs or times differ.
    pub stages: Vec<StageDifference>,
    /// Scores of stages that both have.
    pub scores: Vec<ScoreDifference>,
    /// The number of stages whose results are the same.
    pub same: usize,
}

/// What differs in a stage.
#[derive(Clone, Debug, PartialEq)]
pub struct StageDifference {
    /// The stage.
    pub stage: String,
    /// `kind`, `seed`, parameters and `inputs.PORT`, with the value on both sides.
    pub values: Vec<(String, String, String)>,
    /// How long it took on both sides, in seconds.
    pub seconds: [Option<f64>; 2],
}

/// The scores of a stage on both sides.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreDifference {
    /// The stage.
    pub stage: String,
    /// How the scores came about; where the two differ, they cannot be held against each other.
    pub protocols: [String; 2],
    /// What was measured, and both values.
    pub values: Vec<(String, Option<f64>, Option<f64>)>,
}

/// Compares two sides, stage by stage of the same name.
pub fn compare(one: &Side<'_>, other: &Side<'_>) -> Difference {
    let mut difference = Difference {
        names: [one.name.clone(), other.name.clone()],
        alone: [Vec::new(), Vec::new()],
        stages: Vec::new(),
        scores: Vec::new(),
        same: 0,
    };
    let find = |side: &Side<'_>, stage: &str| side.members.iter().position(|member| member.stage == stage);
    difference.alone[1] = other
        .members
        .iter()
        .filter(|member| find(one, &member.stage).is_none())
        .map(|member| member.stage.clone())
        .collect();
    for mine in &one.members {
        let Some(at) = find(other, &mine.stage) else {
            difference.alone[0].push(mine.stage.clone());
            continue;
        };
        let theirs = &other.members[at];
        let same = mine.output.is_some() && mine.output == theirs.output;
        difference.same += usize::from(same);
        let values = values(mine, theirs);
        if !values.is_empty() || !same {
            let seconds = [mine.seconds, theirs.seconds];
            difference.stages.push(StageDifference { stage: mine.stage.clone(), values, seconds });
        }
        if let (Some(mine_scores), Some(their_scores), false) = (&mine.scores, &theirs.scores, same) {
            difference.scores.push(ScoreDifference {
                stage: mine.stage.clone(),
                protocols: [described(&mine_scores.protocol), described(&their_scores.protocol)],
                values: scores(mine_scores, their_scores),
            });
        }
    }
    difference
}

fn values(one: &Member<'_>, other: &Member<'_>) -> Vec<(String, String, String)> {
    let mut values = Vec::new();
    let mut note = |name: &str, mine: String, theirs: String| {
        if mine != theirs {
            values.push((name.to_owned(), mine, theirs));
        }
    };
    let (mine, theirs) = (one.step.kind.spec(), other.step.kind.spec());
    note("kind", mine.name.to_owned(), theirs.name.to_owned());
    if mine.seeded && theirs.seeded {
        note("seed", one.step.seed.to_string(), other.step.seed.to_string());
    }
    let ports: BTreeSet<&str> = one.inputs.keys().chain(other.inputs.keys()).copied().collect();
    let stage = |member: &Member<'_>, port: &str| member.inputs.get(port).cloned().unwrap_or_else(|| "-".to_owned());
    for port in ports {
        note(&format!("inputs.{port}"), stage(one, port), stage(other, port));
    }
    let (mut mine, mut theirs) = (BTreeMap::new(), BTreeMap::new());
    flatten("", &one.step.run.params(), &mut mine);
    flatten("", &other.step.run.params(), &mut theirs);
    let names: BTreeSet<&String> = mine.keys().chain(theirs.keys()).collect();
    for name in names {
        let text = |map: &BTreeMap<String, String>| map.get(name).cloned().unwrap_or_else(|| "-".to_owned());
        note(name, text(&mine), text(&theirs));
    }
    values
}

/// Collects every value below a name that is not a table itself.
fn flatten(name: &str, value: &Value, all: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                let name = if name.is_empty() { field.clone() } else { format!("{name}.{field}") };
                flatten(&name, value, all);
            }
        }
        Value::String(text) => drop(all.insert(name.to_owned(), text.clone())),
        other => drop(all.insert(name.to_owned(), other.to_string())),
    }
}

fn scores(one: &Table, other: &Table) -> Vec<(String, Option<f64>, Option<f64>)> {
    let mut values = vec![
        ("mIoU".to_owned(), one.miou, other.miou),
        ("precision".to_owned(), one.precision, other.precision),
        ("recall".to_owned(), one.recall, other.recall),
    ];
    if let (Some(mine), Some(theirs)) = (one.area(), other.area()) {
        values.push(("PR area".to_owned(), Some(mine), Some(theirs)));
    }
    for class in &one.per_class {
        let Some(other) = other.per_class.iter().find(|other| other.name == class.name) else { continue };
        values.push((format!("{}: IoU", class.name), class.iou, other.iou));
        values.push((format!("{}: precision", class.name), class.precision, other.precision));
        values.push((format!("{}: recall", class.name), class.recall, other.recall));
    }
    values
}

/// Returns the differences for a terminal.
pub fn text(difference: &Difference) -> String {
    let [one, other] = &difference.names;
    let mut text = format!("A  {one}\nB  {other}\n");
    for (side, alone) in ["A", "B"].into_iter().zip(&difference.alone) {
        if !alone.is_empty() {
            let _ = write!(text, "\nonly in {side}: {}\n", alone.join(", "));
        }
    }
    let left = Align::Left;
    let right = Align::Right;
    let rows: Vec<Vec<String>> = difference
        .stages
        .iter()
        .flat_map(|stage| {
            stage
                .values
                .iter()
                .map(|(name, mine, theirs)| vec![stage.stage.clone(), name.clone(), mine.clone(), theirs.clone()])
        })
        .collect();
    if !rows.is_empty() {
        let _ = write!(text, "\n{}", table(&[("stage", left), ("value", left), ("A", left), ("B", left)], &rows));
    }
    for scores in &difference.scores {
        let [mine, theirs] = &scores.protocols;
        if mine == theirs {
            let _ = write!(text, "\n{} ({mine})\n", scores.stage);
        } else {
            let _ = write!(text, "\n{}: not to be held against each other\n  A: {mine}\n  B: {theirs}\n", scores.stage);
        }
        let percent = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{:.1}", 100.0 * value));
        let rows: Vec<Vec<String>> = scores
            .values
            .iter()
            .map(|(name, one, other)| {
                let change = one.zip(*other).filter(|_| mine == theirs).map(|(one, other)| 100.0 * (other - one));
                let change = change.map_or("-".to_owned(), |change| format!("{change:+.1}"));
                vec![name.clone(), percent(*one), percent(*other), change]
            })
            .collect();
        text.push_str(&table(&[("score %", left), ("A", right), ("B", right), ("B - A", right)], &rows));
    }
    let time = |seconds: Option<f64>| seconds.map_or("-".to_owned(), duration);
    let rows: Vec<Vec<String>> = difference
        .stages
        .iter()
        .filter(|stage| stage.seconds.iter().any(Option::is_some))
        .map(|stage| vec![stage.stage.clone(), time(stage.seconds[0]), time(stage.seconds[1])])
        .collect();
    if !rows.is_empty() {
        let _ = write!(text, "\n{}", table(&[("took", left), ("A", right), ("B", right)], &rows));
    }
    let _ = write!(text, "\n{} with the same result\n", count(difference.same, "stage"));
    text
}

/// Returns the differences as one JSON object.
pub fn as_json(difference: &Difference) -> Value {
    let stages: Vec<Value> = difference
        .stages
        .iter()
        .map(|stage| {
            let values: Vec<Value> =
                stage.values.iter().map(|(name, one, other)| json!({ "name": name, "a": one, "b": other })).collect();
            json!({ "stage": stage.stage, "values": values, "seconds": stage.seconds })
        })
        .collect();
    let scores: Vec<Value> = difference
        .scores
        .iter()
        .map(|scores| {
            let values: Vec<Value> =
                scores.values.iter().map(|(name, one, other)| json!({ "name": name, "a": one, "b": other })).collect();
            json!({ "stage": scores.stage, "protocols": scores.protocols, "values": values })
        })
        .collect();
    json!({
        "names": difference.names,
        "only_in": difference.alone,
        "stages": stages,
        "scores": scores,
        "same": difference.same,
    })
}
