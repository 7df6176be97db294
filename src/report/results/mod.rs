//! The scores of a sweep as a table: rows of points, columns of what differs and of what was measured. Reads no cache.

mod formats;

use crate::artifact::metrics::{Protocol, Table};
use crate::sweep::Point;

pub use formats::{Format, render};

/// The steps of recalls at which precisions are compared, where none is given.
const RECALL_STEP: f64 = 0.05;

/// A point with the scores of its stages.
#[derive(Clone, Debug)]
pub struct Scored<'a> {
    /// The point.
    pub point: &'a Point,
    /// Stage and scores, in order of the plan.
    pub scores: Vec<(String, Table)>,
}

/// What of the scores is shown.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Whether every seed has a row of its own.
    pub each: bool,
    /// The stages; all without any.
    pub stages: Vec<String>,
    /// The measures; all that a stage has without any.
    pub measures: Vec<Measure>,
    /// The recall at which precisions are compared.
    pub at_recall: Option<f64>,
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Measure {
    /// Mean intersection over union
    Miou,
    /// Mean precision
    Precision,
    /// Mean recall
    Recall,
    /// Area under the curve of precision over recall
    Area,
    /// Precision at a recall that all rows reach
    PrecisionAtRecall,
    /// The threshold that was chosen
    Threshold,
}

impl Measure {
    /// All, in order of the columns.
    const ALL: [Self; 6] =
        [Self::Miou, Self::Precision, Self::Recall, Self::Area, Self::PrecisionAtRecall, Self::Threshold];

    /// Whether more is better; of a threshold nobody can say.
    fn has_best(self) -> bool {
        self != Self::Threshold
    }

    fn of(self, table: &Table, recall: Option<f64>) -> Option<f64> {
        match self {
            Self::Miou => table.miou,
            Self::Precision => table.precision,
            Self::Recall => table.recall,
            Self::Area => table.area(),
            Self::PrecisionAtRecall => table.precision_at_recall(recall?),
            Self::Threshold => table.protocol.threshold.get("background")?.as_f64(),
        }
    }
}

/// A column of scores.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// The stage.
    pub stage: String,
    /// What was measured.
    pub measure: Measure,
    /// The recall at which a precision was taken.
    pub recall: Option<f64>,
    /// Index of the protocol in [`Results::protocols`].
    pub protocol: usize,
    /// Where the stage has scores under several protocols, so that a title must tell them apart: which of them this is.
    pub among: Option<usize>,
    /// Whether ground truth of the scored images chose a threshold.
    pub oracle: bool,
    /// Indices of the rows with the highest mean; empty where there is nothing to compare.
    pub best: Vec<usize>,
}

/// A value, or several over seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    /// Their mean.
    pub mean: f64,
    /// Their sample standard deviation (with n - 1); absent for a single value.
    pub deviation: Option<f64>,
    /// How many there are.
    pub count: usize,
}

/// A row.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Name of the point, or of the group of points that differ in their seed.
    pub name: String,
    /// The values of what varies, by [`Results::labels`].
    pub values: Vec<String>,
    /// How many points it stands for.
    pub points: usize,
    /// The scores, by [`Results::columns`].
    pub cells: Vec<Option<Cell>>,
}

/// The whole table.
#[derive(Clone, Debug, PartialEq)]
pub struct Results {
    /// The titles of what varies, where it differs between rows.
    pub labels: Vec<String>,
    /// The columns of scores.
    pub columns: Vec<Column>,
    /// How the scores came about, in words.
    pub protocols: Vec<String>,
    /// The rows, in order of the sweep.
    pub rows: Vec<Row>,
}

/// Makes the table. Scores of one stage under different protocols stand in different columns.
pub fn collect(labels: &[String], points: &[Scored<'_>], choice: &Choice) -> Results {
    let groups = grouped(points, choice.each);
    let (shown, labels) = differing(labels, &groups, choice.each);
    let mut protocols: Vec<String> = Vec::new();
    // Stages in order of their first score, each with its protocols in order of theirs.
    let mut stages: Vec<(String, Vec<(usize, bool)>)> = Vec::new();
    for (name, table) in points.iter().flat_map(|point| &point.scores) {
        if !choice.stages.is_empty() && !choice.stages.contains(name) {
            continue;
        }
        let words = described(&table.protocol);
        let at = protocols.iter().position(|known| *known == words).unwrap_or_else(|| {
            protocols.push(words);
            protocols.len() - 1
        });
        let at = (at, table.protocol.oracle);
        match stages.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) if known.contains(&at) => {}
            Some((_, known)) => known.push(at),
            None => stages.push((name.clone(), vec![at])),
        }
    }
    // Whatever may be compared is compared at one recall, also curves of different stages.
    let of_protocol = |words: &String| {
        let all = points.iter().flat_map(|point| &point.scores);
        let all = all.filter(|(name, _)| choice.stages.is_empty() || choice.stages.contains(name));
        common_recall(all.map(|(_, table)| table).filter(|table| described(&table.protocol) == *words))
    };
    let recalls: Vec<Option<f64>> =
        protocols.iter().map(|words| choice.at_recall.or_else(|| of_protocol(words))).collect();
    let mut columns: Vec<Column> = Vec::new();
    let mut cells: Vec<Vec<Option<Cell>>> = vec![Vec::new(); groups.len()];
    for (stage, uses) in &stages {
        for (at, &(protocol, oracle)) in uses.iter().enumerate() {
            let tables = |group: &[&Scored<'_>]| -> Vec<Table> {
                let own = group.iter().flat_map(|point| &point.scores);
                let own =
                    own.filter(|(name, table)| name == stage && described(&table.protocol) == protocols[protocol]);
                own.map(|(_, table)| table.clone()).collect()
            };
            let tables: Vec<Vec<Table>> = groups.iter().map(|group| tables(group)).collect();
            let recall = recalls[protocol];
            for measure in Measure::ALL {
                if !choice.measures.is_empty() && !choice.measures.contains(&measure) {
                    continue;
                }
                let column: Vec<Option<Cell>> = tables
                    .iter()
                    .map(|tables| {
                        cell(&tables.iter().filter_map(|table| measure.of(table, recall)).collect::<Vec<_>>())
                    })
                    .collect();
                if column.iter().all(Option::is_none) || (measure == Measure::Threshold && !is_searched(&tables)) {
                    continue;
                }
                columns.push(Column {
                    stage: stage.clone(),
                    measure,
                    recall: recall.filter(|_| measure == Measure::PrecisionAtRecall),
                    protocol,
                    among: (uses.len() > 1).then_some(at),
                    oracle,
                    best: if measure.has_best() { best(&column) } else { Vec::new() },
                });
                for (cells, cell) in cells.iter_mut().zip(column) {
                    cells.push(cell);
                }
            }
        }
    }
    let rows = groups.iter().zip(cells).map(|(group, cells)| {
        let first = group[0].point;
        Row {
            name: if choice.each { first.name.clone() } else { first.group.clone() },
            values: shown.iter().map(|at| first.values[*at].clone()).collect(),
            points: group.len(),
            cells,
        }
    });
    Results { labels, columns, rows: rows.collect(), protocols }
}

/// Returns the points by row, in order of the sweep.
fn grouped<'a, 'b>(points: &'b [Scored<'a>], each: bool) -> Vec<Vec<&'b Scored<'a>>> {
    let mut groups: Vec<Vec<&Scored<'_>>> = Vec::new();
    for point in points {
        match groups.iter_mut().find(|group| !each && group[0].point.group == point.point.group) {
            Some(group) => group.push(point),
            None => groups.push(vec![point]),
        }
    }
    groups
}

/// Returns the indices and titles of what differs between rows; what varies between the points of one row is the seed alone.
fn differing(labels: &[String], groups: &[Vec<&Scored<'_>>], each: bool) -> (Vec<usize>, Vec<String>) {
    let differs = |at: usize| {
        let mut values = groups.iter().map(|group| &group[0].point.values[at]);
        let first = values.next();
        values.any(|value| Some(value) != first)
    };
    let shown = (0..labels.len()).filter(|at| (each || labels[*at] != "seed") && differs(*at));
    let shown: Vec<usize> = shown.collect();
    let titles = shown.iter().map(|at| labels[*at].clone()).collect();
    (shown, titles)
}

/// Returns the largest multiple of [`RECALL_STEP`] that every curve reaches.
fn common_recall<'a>(tables: impl Iterator<Item = &'a Table>) -> Option<f64> {
    let least = tables.filter_map(Table::highest_recall).min_by(f64::total_cmp)?;
    // A little is added so that 0.45 is not missed by the last digit of a sum.
    let steps = (least / RECALL_STEP + 1e-9).floor();
    (steps > 0.0).then(|| (steps * RECALL_STEP * 100.0).round() / 100.0)
}

fn is_searched(tables: &[Vec<Table>]) -> bool {
    tables
        .iter()
        .flatten()
        .any(|table| table.protocol.threshold.get("policy").is_some_and(|policy| policy == "searched"))
}

fn cell(values: &[f64]) -> Option<Cell> {
    let count = values.len();
    if count == 0 {
        return None;
    }
    // Relative to the first, so that equal values have exactly their own mean and no deviation.
    let mean = values[0] + values.iter().map(|value| value - values[0]).sum::<f64>() / count as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let deviation = (count > 1).then(|| (squares / (count - 1) as f64).sqrt());
    Some(Cell { mean, deviation, count })
}

/// Returns the rows with the highest mean, where there are at least two rows and not all are equal.
fn best(column: &[Option<Cell>]) -> Vec<usize> {
    let known: Vec<(usize, f64)> =
        column.iter().enumerate().filter_map(|(at, cell)| Some((at, cell.as_ref()?.mean))).collect();
    if known.len() < 2 {
        return Vec::new();
    }
    let highest = known.iter().map(|(_, mean)| *mean).fold(f64::NEG_INFINITY, f64::max);
    let best: Vec<usize> = known.iter().filter(|(_, mean)| *mean >= highest).map(|(at, _)| *at).collect();
    if best.len() == known.len() { Vec::new() } else { best }
}

/// Returns how scores came about, in words. Two scores may be held against each other only where this is the same; the value of
/// a threshold is not part of it, where it came from is.
pub fn described(protocol: &Protocol) -> String {
    let number = |count: usize, noun: &str| crate::report::text::count(count, noun);
    let split = protocol.split.as_ref().map(|split| format!(" of split `{split}`")).unwrap_or_default();
    let mut text = format!("{}{split}", number(protocol.images, "image"));
    for (count, what) in
        [(protocol.only_predicted, "without ground truth"), (protocol.only_true, "without a prediction")]
    {
        if count > 0 {
            text.push_str(&format!(", {count} more {what}"));
        }
    }
    text.push_str(&format!(
        ", {} of {}",
        protocol.classes_scored,
        number(protocol.classes, "class").replace("classs", "classes")
    ));
    if !protocol.ignored.is_empty() {
        text.push_str(&format!("; not counted: {}", protocol.ignored));
    }
    let word = |name: &str| protocol.threshold.get(name).and_then(|word| word.as_str()).map(str::to_owned);
    match word("policy").as_deref() {
        Some("fixed") => text.push_str("; fixed threshold"),
        Some("searched") => {
            let objective = word("objective").map(|name| format!(" for `{name}`")).unwrap_or_default();
            let on = match word("split") {
                _ if protocol.oracle => " on the scored images: an oracle".to_owned(),
                Some(split) => format!(" on split `{split}`"),
                None => " on other images".to_owned(),
            };
            text.push_str(&format!("; threshold searched{objective}{on}"));
        }
        Some(other) => text.push_str(&format!("; threshold: {other}")),
        None if protocol.oracle => text.push_str("; an oracle"),
        None => {}
    }
    text
}
