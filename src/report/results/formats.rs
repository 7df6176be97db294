//! The table in the forms that people and programs read.

use serde_json::{Value, json};

use super::{Cell, Column, Measure, Results, Row};
use crate::report::html::{CellView, ColumnView, ResultsView, RowView};
use crate::report::text::{Align, table};

/// A form of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For a terminal
    Terminal,
    /// For programs and spreadsheets: fractions, not percent
    Csv,
    /// For programs: everything, fractions
    Json,
    /// For Markdown
    Markdown,
    /// For LaTeX, with the package booktabs
    Latex,
}

/// Returns the table; empty without scores.
pub fn render(results: &Results, format: Format) -> String {
    if results.columns.is_empty() && format != Format::Json {
        return String::new();
    }
    match format {
        Format::Terminal => terminal(results),
        Format::Csv => csv(results),
        Format::Json => format!("{:#}\n", as_json(results)),
        Format::Markdown => markdown(results),
        Format::Latex => latex(results),
    }
}

impl Results {
    /// Returns the table in words, for the page; nothing without scores.
    pub(in crate::report) fn view(&self) -> Option<ResultsView> {
        if self.columns.is_empty() {
            return None;
        }
        let columns = self.columns.iter().map(|column| ColumnView {
            stage: column.stage_title(),
            title: column.title(),
            protocol: self.protocols[column.protocol].clone(),
        });
        let rows = self.rows.iter().enumerate().map(|(index, row)| {
            let mut heads = head(self, row);
            if shows_counts(self) {
                heads.push(counted(row));
            }
            let cell = |(column, cell): (&Column, &Option<Cell>)| {
                let best = column.best.contains(&index);
                cell.as_ref().map(|cell| CellView { text: column.cell(cell, " ± "), best })
            };
            RowView { heads, cells: self.columns.iter().zip(&row.cells).map(cell).collect() }
        });
        let mut heads = head_titles(self);
        let mut notes = Vec::new();
        if shows_counts(self) {
            heads.push("seeds".to_owned());
            notes.push("mean ± sample standard deviation over seeds".to_owned());
        }
        if self.columns.iter().any(|column| column.oracle) {
            notes.push("\u{2020} oracle: ground truth of the scored images chose the threshold".to_owned());
        }
        Some(ResultsView { heads, columns: columns.collect(), rows: rows.collect(), notes })
    }
}

impl Measure {
    /// Returns the name in headers of files.
    fn key(self) -> &'static str {
        match self {
            Self::Miou => "miou",
            Self::Precision => "precision",
            Self::Recall => "recall",
            Self::Area => "area",
            Self::PrecisionAtRecall => "precision_at_recall",
            Self::Threshold => "threshold",
        }
    }
}

impl Column {
    /// Returns the words over the column, without its stage.
    fn title(&self) -> String {
        match (self.measure, self.recall) {
            (Measure::Miou, _) => "mIoU %".to_owned(),
            (Measure::Precision, _) => "precision %".to_owned(),
            (Measure::Recall, _) => "recall %".to_owned(),
            (Measure::Area, _) => "PR area %".to_owned(),
            (Measure::PrecisionAtRecall, recall) => {
                format!("precision % at recall {:.0} %", 100.0 * recall.unwrap_or_default())
            }
            (Measure::Threshold, _) => "threshold".to_owned(),
        }
    }

    /// Returns the stage, with the letter of the protocol where that is needed, and a dagger for an oracle.
    fn stage_title(&self) -> String {
        let letter = self.among.map(|at| format!(" [{}]", letter(at))).unwrap_or_default();
        let dagger = if self.oracle { "\u{2020}" } else { "" };
        format!("{}{letter}{dagger}", self.stage)
    }

    fn key(&self) -> String {
        let letter = self.among.map(|at| format!("[{}]", letter(at))).unwrap_or_default();
        let oracle = if self.oracle { "(oracle)" } else { "" };
        let recall = self.recall.map(|recall| format!("@{recall}")).unwrap_or_default();
        format!("{}{letter}{oracle}.{}{recall}", self.stage, self.measure.key())
    }

    /// Returns a value as a person reads it.
    fn number(&self, value: f64) -> String {
        if self.measure == Measure::Threshold { format!("{value:.2}") } else { format!("{:.1}", 100.0 * value) }
    }

    fn cell(&self, cell: &Cell, plus_minus: &str) -> String {
        let deviation = cell.deviation.map(|value| format!("{plus_minus}{}", self.number(value)));
        format!("{}{}", self.number(cell.mean), deviation.unwrap_or_default())
    }
}

fn letter(at: usize) -> String {
    match u8::try_from(at).ok().filter(|number| *number < 26) {
        Some(number) => char::from(b'a' + number).to_string(),
        None => (at + 1).to_string(),
    }
}

/// Returns the words in front of a row: what differs, or the point's name where nothing does.
fn head(results: &Results, row: &Row) -> Vec<String> {
    if results.labels.is_empty() { vec![row.name.clone()] } else { row.values.clone() }
}

fn head_titles(results: &Results) -> Vec<String> {
    if results.labels.is_empty() { vec!["point".to_owned()] } else { results.labels.clone() }
}

/// Whether rows stand for different numbers of points, or for several, which a column then says.
fn shows_counts(results: &Results) -> bool {
    results.rows.iter().any(|row| row.points > 1)
}

/// Returns the fewest values in a row's cells: a row that lacks some of its points says so.
fn counted(row: &Row) -> String {
    let fewest = row.cells.iter().flatten().map(|cell| cell.count).min().unwrap_or(0);
    if fewest < row.points { format!("{fewest} of {}", row.points) } else { row.points.to_string() }
}

/// Returns what must be known beside the numbers, a line each.
fn notes(results: &Results) -> Vec<String> {
    let mut notes = Vec::new();
    for (at, protocol) in results.protocols.iter().enumerate() {
        let mut stages: Vec<String> = Vec::new();
        for column in results.columns.iter().filter(|column| column.protocol == at) {
            let name = column.stage_title();
            if !stages.contains(&name) {
                stages.push(name);
            }
        }
        if !stages.is_empty() {
            notes.push(format!("{}: {protocol}", stages.join(", ")));
        }
    }
    if shows_counts(results) {
        notes.push("mean ± standard deviation over seeds".to_owned());
    }
    notes
}

fn terminal(results: &Results) -> String {
    let mut text = String::new();
    let mut titles: Vec<(String, Align)> = head_titles(results).into_iter().map(|title| (title, Align::Left)).collect();
    if shows_counts(results) {
        titles.push(("seeds".to_owned(), Align::Right));
    }
    // A table for each stage and protocol: side by side they would not fit a terminal.
    let mut groups: Vec<(String, Vec<usize>)> = Vec::new();
    for (at, column) in results.columns.iter().enumerate() {
        let title = column.stage_title();
        match groups.iter_mut().find(|(known, _)| *known == title) {
            Some((_, columns)) => columns.push(at),
            None => groups.push((title, vec![at])),
        }
    }
    for (stage, columns) in groups {
        let mut all = titles.clone();
        all.extend(columns.iter().map(|at| (results.columns[*at].title(), Align::Right)));
        let rows: Vec<Vec<String>> = results
            .rows
            .iter()
            .enumerate()
            .filter(|(_, row)| columns.iter().any(|at| row.cells[*at].is_some()))
            .map(|(index, row)| {
                let mut cells = head(results, row);
                if shows_counts(results) {
                    let counts = columns.iter().filter_map(|at| row.cells[*at].as_ref()).map(|cell| cell.count);
                    let fewest = counts.min().unwrap_or(0);
                    let all = row.points;
                    cells.push(if fewest < all { format!("{fewest} of {all}") } else { all.to_string() });
                }
                cells.extend(columns.iter().map(|at| {
                    let column = &results.columns[*at];
                    let mark = if column.best.is_empty() {
                        ""
                    } else if column.best.contains(&index) {
                        " *"
                    } else {
                        "  "
                    };
                    row.cells[*at].map_or("-".to_owned() + mark, |cell| column.cell(&cell, " ± ") + mark)
                }));
                cells
            })
            .collect();
        let all: Vec<(&str, Align)> = all.iter().map(|(title, align)| (title.as_str(), *align)).collect();
        let protocol = &results.protocols[results.columns[columns[0]].protocol];
        text.push_str(&format!("{stage} ({protocol})\n{}\n", table(&all, &rows)));
    }
    let mut marks = Vec::new();
    if results.columns.iter().any(|column| !column.best.is_empty()) {
        marks.push("* best");
    }
    if shows_counts(results) {
        marks.push("± standard deviation over seeds");
    }
    if results.columns.iter().any(|column| column.oracle) {
        marks.push("\u{2020} oracle: ground truth of the scored images chose the threshold");
    }
    if !marks.is_empty() {
        text.push_str(&format!("{}\n", marks.join("; ")));
    }
    text
}

fn csv(results: &Results) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut titles = vec!["point".to_owned()];
    titles.extend(results.labels.iter().cloned());
    for column in &results.columns {
        let key = column.key();
        titles.extend([key.clone(), format!("{key}.sd"), format!("{key}.n")]);
    }
    let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    let mut rows = vec![titles];
    for row in &results.rows {
        let mut cells = vec![row.name.clone()];
        cells.extend(row.values.iter().cloned());
        for cell in &row.cells {
            cells.push(number(cell.map(|cell| cell.mean)));
            cells.push(number(cell.and_then(|cell| cell.deviation)));
            cells.push(cell.map_or(0, |cell| cell.count).to_string());
        }
        rows.push(cells);
    }
    for row in rows {
        writer.write_record(&row).expect("every row has the same number of cells");
    }
    String::from_utf8(writer.into_inner().expect("a vector takes all bytes")).expect("text stays text")
}

fn as_json(results: &Results) -> Value {
    let rows: Vec<Value> = results
        .rows
        .iter()
        .enumerate()
        .map(|(index, row)| {
            let values: serde_json::Map<String, Value> =
                results.labels.iter().cloned().zip(row.values.iter().map(|value| json!(value))).collect();
            let scores: Vec<Value> = results
                .columns
                .iter()
                .zip(&row.cells)
                .filter_map(|(column, cell)| {
                    let cell = cell.as_ref()?;
                    Some(json!({
                        "stage": column.stage,
                        "measure": column.measure.key(),
                        "recall": column.recall,
                        "protocol": results.protocols[column.protocol],
                        "oracle": column.oracle,
                        "mean": cell.mean,
                        "standard_deviation": cell.deviation,
                        "count": cell.count,
                        "best": column.best.contains(&index),
                    }))
                })
                .collect();
            json!({ "point": row.name, "values": values, "points": row.points, "scores": scores })
        })
        .collect();
    json!({ "rows": rows })
}

fn markdown(results: &Results) -> String {
    let plain = |text: &str| text.replace('|', "\\|").replace('*', "\\*");
    let mut titles: Vec<String> = head_titles(results).iter().map(|title| plain(title)).collect();
    let words = titles.len() + usize::from(shows_counts(results));
    if shows_counts(results) {
        titles.push("seeds".to_owned());
    }
    titles.extend(results.columns.iter().map(|column| plain(&format!("{}: {}", column.stage_title(), column.title()))));
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(&titles);
    let rule: Vec<String> =
        (0..titles.len()).map(|at| if at < words { "---".to_owned() } else { "---:".to_owned() }).collect();
    text.push_str(&line(&rule));
    for (index, row) in results.rows.iter().enumerate() {
        let mut cells: Vec<String> = head(results, row).iter().map(|value| plain(value)).collect();
        if shows_counts(results) {
            cells.push(counted(row));
        }
        cells.extend(results.columns.iter().zip(&row.cells).map(|(column, cell)| match cell {
            None => "-".to_owned(),
            Some(cell) if column.best.contains(&index) => format!("**{}**", column.cell(cell, " ± ")),
            Some(cell) => column.cell(cell, " ± "),
        }));
        text.push_str(&line(&cells));
    }
    text.push('\n');
    for note in notes(results) {
        text.push_str(&format!("- {}\n", plain(&note)));
    }
    if results.columns.iter().any(|column| column.oracle) {
        text.push_str("- \u{2020} oracle: ground truth of the scored images chose the threshold\n");
    }
    text
}

fn latex(results: &Results) -> String {
    let heads = head_titles(results);
    let counts = shows_counts(results);
    let mut text = "% needs \\usepackage{booktabs}\n".to_owned();
    for note in notes(results) {
        // A comment ends with its line; nothing in it needs escapes.
        text.push_str(&format!("% {}\n", note.replace('\n', " ")));
    }
    let columns = "l".repeat(heads.len()) + if counts { "r" } else { "" } + &"r".repeat(results.columns.len());
    text.push_str(&format!("\\begin{{tabular}}{{{columns}}}\n\\toprule\n"));
    // One title over the columns of a stage.
    let mut over = vec![String::new(); heads.len() + usize::from(counts)];
    let mut at = 0;
    while at < results.columns.len() {
        let title = results.columns[at].stage_title();
        let width = results.columns[at..].iter().take_while(|column| column.stage_title() == title).count();
        over.push(format!("\\multicolumn{{{width}}}{{c}}{{{}}}", escaped(&title)));
        at += width;
    }
    text.push_str(&format!("{} \\\\\n", over.join(" & ")));
    let mut titles: Vec<String> = heads.iter().map(|title| escaped(title)).collect();
    if counts {
        titles.push("seeds".to_owned());
    }
    titles.extend(results.columns.iter().map(|column| escaped(&column.title())));
    text.push_str(&format!("{} \\\\\n\\midrule\n", titles.join(" & ")));
    for (index, row) in results.rows.iter().enumerate() {
        let mut cells: Vec<String> = head(results, row).iter().map(|value| escaped(value)).collect();
        if counts {
            cells.push(counted(row));
        }
        cells.extend(results.columns.iter().zip(&row.cells).map(|(column, cell)| match cell {
            None => "--".to_owned(),
            Some(cell) if column.best.contains(&index) => format!("\\textbf{{{}}}", column.cell(cell, "$\\pm$")),
            Some(cell) => column.cell(cell, "$\\pm$"),
        }));
        text.push_str(&format!("{} \\\\\n", cells.join(" & ")));
    }
    text.push_str("\\bottomrule\n\\end{tabular}\n");
    if results.columns.iter().any(|column| column.oracle) {
        text.push_str("% $\\dagger$: ground truth of the scored images chose the threshold\n");
    }
    text
}

/// Returns text as LaTeX writes it.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        match letter {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => escaped.extend(['\\', letter]),
            '~' => escaped.push_str("\\textasciitilde{}"),
            '^' => escaped.push_str("\\textasciicircum{}"),
            '\\' => escaped.push_str("\\textbackslash{}"),
            '\u{2020}' => escaped.push_str("$^\\dagger$"),
            '\u{b1}' => escaped.push_str("$\\pm$"),
            '[' => escaped.push_str("{[}"),
            ']' => escaped.push_str("{]}"),
            other => escaped.push(other),
        }
    }
    escaped
}
