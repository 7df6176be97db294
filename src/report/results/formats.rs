//! The table in the forms that people and programs read.

use serde_json::{Value, json};

use super::{Cell, Column, Measure, Results, Row, best};
use crate::report::html::{CellView, ResultsView, RowView, TableView};
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
        let mut notes = Vec::new();
        if shows_counts(self) {
            notes.push("mean ± sample standard deviation over seeds".to_owned());
        }
        if self.columns.iter().any(|column| column.oracle) {
            notes.push("\u{2020} oracle: ground truth of the scored images chose the threshold".to_owned());
        }
        Some(ResultsView { tables: tables(self, " ± "), notes })
    }
}

/// Returns the tables that people read. Of several rows: one for each stage and protocol, as side by side they would not fit. Of a
/// single row: one for each protocol, with the stages as rows, as nothing else is there to be compared.
fn tables(results: &Results, plus_minus: &str) -> Vec<TableView> {
    match results.rows.as_slice() {
        [row] => by_protocol(results, row, plus_minus),
        _ => by_stage(results, plus_minus),
    }
}

fn by_stage(results: &Results, plus_minus: &str) -> Vec<TableView> {
    let mut groups: Vec<(String, Vec<usize>)> = Vec::new();
    for (at, column) in results.columns.iter().enumerate() {
        let title = column.stage_title();
        match groups.iter_mut().find(|(known, _)| *known == title) {
            Some((_, columns)) => columns.push(at),
            None => groups.push((title, vec![at])),
        }
    }
    let counts = shows_counts(results);
    let made = groups.into_iter().map(|(stage, columns)| {
        let own = results.rows.iter().enumerate().filter(|(_, row)| columns.iter().any(|at| row.cells[*at].is_some()));
        let rows = own.map(|(index, row)| {
            let mut heads = head(results, row);
            if counts {
                heads.push(counted(columns.iter().filter_map(|at| row.cells[*at].as_ref()), row.points));
            }
            let cell = |at: &usize| {
                let column = &results.columns[*at];
                let text = column.cell(row.cells[*at].as_ref()?, plus_minus);
                Some(CellView { text, best: column.best.contains(&index) })
            };
            RowView { heads, cells: columns.iter().map(cell).collect() }
        });
        let rows = rows.collect();
        let mut heads = head_titles(results);
        if counts {
            heads.push(SEEDS.to_owned());
        }
        let titles = columns.iter().map(|at| results.columns[*at].title()).collect();
        let protocol = results.protocols[results.columns[columns[0]].protocol].clone();
        TableView { title: Some(stage), protocol, heads, columns: titles, rows }
    });
    made.collect()
}

fn by_protocol(results: &Results, row: &Row, plus_minus: &str) -> Vec<TableView> {
    let counts = shows_counts(results);
    let made = results.protocols.iter().enumerate().map(|(protocol, words)| {
        let own: Vec<(&Column, &Option<Cell>)> =
            results.columns.iter().zip(&row.cells).filter(|(column, _)| column.protocol == protocol).collect();
        let (mut stages, mut titles): (Vec<String>, Vec<(Measure, String)>) = (Vec::new(), Vec::new());
        for (column, _) in &own {
            if !stages.contains(&column.stage_title()) {
                stages.push(column.stage_title());
            }
            let title = (column.measure, column.title());
            if !titles.contains(&title) {
                titles.push(title);
            }
        }
        titles.sort_by_key(|(measure, _)| *measure);
        let find = |stage: &String, title: &String| {
            own.iter().find(|(column, _)| column.stage_title() == *stage && column.title() == *title)
        };
        let bests: Vec<Vec<usize>> = titles
            .iter()
            .map(|(measure, title)| {
                let cells: Vec<Option<Cell>> =
                    stages.iter().map(|stage| find(stage, title).and_then(|(_, cell)| **cell)).collect();
                if measure.has_best() { best(&cells) } else { Vec::new() }
            })
            .collect();
        let rows = stages.iter().enumerate().map(|(index, stage)| {
            let mut heads = vec![stage.clone()];
            if counts {
                let cells = own.iter().filter(|(column, _)| column.stage_title() == *stage);
                heads.push(counted(cells.filter_map(|(_, cell)| cell.as_ref()), row.points));
            }
            let cells = titles.iter().zip(&bests).map(|((_, title), best)| {
                let (column, cell) = find(stage, title)?;
                Some(CellView { text: column.cell(cell.as_ref()?, plus_minus), best: best.contains(&index) })
            });
            RowView { heads, cells: cells.collect() }
        });
        let rows = rows.collect();
        let mut heads = vec!["stage".to_owned()];
        if counts {
            heads.push(SEEDS.to_owned());
        }
        let columns = titles.into_iter().map(|(_, title)| title).collect();
        TableView { title: None, protocol: words.clone(), heads, columns, rows }
    });
    made.filter(|table| !table.rows.is_empty()).collect()
}

/// Title of the column that says over how many seeds a mean is.
const SEEDS: &str = "seeds";

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

/// Returns the fewest values in cells of a row that stands for so many points: a row that lacks some of them says so.
fn counted<'a>(cells: impl Iterator<Item = &'a Cell>, points: usize) -> String {
    let fewest = cells.map(|cell| cell.count).min().unwrap_or(0);
    if fewest < points { format!("{fewest} of {points}") } else { points.to_string() }
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
    let mut marks = Vec::new();
    for one in tables(results, " ± ") {
        let heads = one.heads.iter().map(|title| {
            let align = if shows_counts(results) && title == SEEDS { Align::Right } else { Align::Left };
            (title.as_str(), align)
        });
        let titles: Vec<(&str, Align)> =
            heads.chain(one.columns.iter().map(|title| (title.as_str(), Align::Right))).collect();
        let is_best = |cell: &Option<CellView>| cell.as_ref().is_some_and(|cell| cell.best);
        let marked: Vec<bool> =
            (0..one.columns.len()).map(|at| one.rows.iter().any(|row| is_best(&row.cells[at]))).collect();
        if marked.contains(&true) && marks.is_empty() {
            marks.push("* best");
        }
        let rows: Vec<Vec<String>> = one
            .rows
            .iter()
            .map(|row| {
                let cells = row.cells.iter().zip(&marked).map(|(cell, marked)| {
                    let mark = match marked {
                        false => "",
                        true if is_best(cell) => " *",
                        true => "  ",
                    };
                    cell.as_ref().map_or("-", |cell| cell.text.as_str()).to_owned() + mark
                });
                row.heads.iter().cloned().chain(cells).collect()
            })
            .collect();
        let title = one.title.map_or(one.protocol.clone(), |stage| format!("{stage} ({})", one.protocol));
        text.push_str(&format!("{title}\n{}\n", table(&titles, &rows)));
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

/// The line below tables with oracles.
const ORACLE: &str = "\u{2020} oracle: ground truth of the scored images chose the threshold";

fn markdown(results: &Results) -> String {
    let plain = |text: &str| text.replace('|', "\\|").replace('*', "\\*");
    if results.rows.len() == 1 {
        return markdown_by_protocol(results, plain);
    }
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
            cells.push(counted(row.cells.iter().flatten(), row.points));
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
        text.push_str(&format!("- {ORACLE}\n"));
    }
    text
}

fn markdown_by_protocol(results: &Results, plain: fn(&str) -> String) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = String::new();
    for one in tables(results, " ± ") {
        text.push_str(&format!("{}:\n\n", plain(&one.protocol)));
        text.push_str(&line(one.heads.iter().chain(&one.columns).map(|title| plain(title)).collect()));
        let rule = one.heads.iter().map(|_| "---").chain(one.columns.iter().map(|_| "---:"));
        text.push_str(&line(rule.map(str::to_owned).collect()));
        for row in one.rows {
            let cells = row.cells.into_iter().map(|cell| match cell {
                None => "-".to_owned(),
                Some(cell) if cell.best => format!("**{}**", cell.text),
                Some(cell) => cell.text,
            });
            text.push_str(&line(row.heads.iter().map(|head| plain(head)).chain(cells).collect()));
        }
        text.push('\n');
    }
    if shows_counts(results) {
        text.push_str("- mean ± standard deviation over seeds\n");
    }
    if results.columns.iter().any(|column| column.oracle) {
        text.push_str(&format!("- {ORACLE}\n"));
    }
    text
}

fn latex_by_protocol(results: &Results) -> String {
    let mut text = "% needs \\usepackage{booktabs}\n".to_owned();
    if shows_counts(results) {
        text.push_str("% mean ± standard deviation over seeds\n");
    }
    for one in tables(results, "$\\pm$") {
        // The words left of the numbers are the stage and, over seeds, how many there are.
        let columns = format!("l{}{}", "r".repeat(one.heads.len() - 1), "r".repeat(one.columns.len()));
        text.push_str(&format!("% {}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n", one.protocol.replace('\n', " ")));
        let titles: Vec<String> = one.heads.iter().chain(&one.columns).map(|title| escaped(title)).collect();
        text.push_str(&format!("{} \\\\\n\\midrule\n", titles.join(" & ")));
        for row in one.rows {
            let cells = row.cells.into_iter().map(|cell| match cell {
                None => "--".to_owned(),
                Some(cell) if cell.best => format!("\\textbf{{{}}}", cell.text),
                Some(cell) => cell.text,
            });
            let cells: Vec<String> = row.heads.iter().map(|head| escaped(head)).chain(cells).collect();
            text.push_str(&format!("{} \\\\\n", cells.join(" & ")));
        }
        text.push_str("\\bottomrule\n\\end{tabular}\n");
    }
    if results.columns.iter().any(|column| column.oracle) {
        text.push_str("% $\\dagger$: ground truth of the scored images chose the threshold\n");
    }
    text
}

fn latex(results: &Results) -> String {
    if results.rows.len() == 1 {
        return latex_by_protocol(results);
    }
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
            cells.push(counted(row.cells.iter().flatten(), row.points));
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
