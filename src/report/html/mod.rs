//! A run as one self-contained HTML page: what it shows, and how that becomes a file. Reads no cache.

pub mod gallery;
pub mod history;
pub mod thumbnail;

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::artifact::metrics::{ClassScores, CurvePoint, Table};
use crate::plan::{Plan, svg};
use crate::report::results::{Results, described};

pub use history::{Curve, Run, Training};

/// Everything that the page shows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Page {
    /// The heading.
    pub title: String,
    /// One sentence below it.
    pub summary: String,
    /// The stages, in order of the plan.
    pub steps: Vec<StepView>,
    /// The scores of all points.
    pub results: Option<ResultsView>,
    /// Every table of scores.
    pub metrics: Vec<MetricsView>,
    /// Sets of images with what stages made of them.
    pub images: Vec<ImagesView>,
    /// What differs from another pipeline; as `orandflow diff --json` prints it.
    pub difference: Option<Value>,
    /// Loss and learning rate of the stages that trained.
    pub training: Vec<Training>,
    /// The run that the timeline is of.
    pub run: Option<Run>,
    /// Where the page is served while a run goes on: which plan it shows. Then it asks for what is new.
    pub live: Option<String>,
}

/// A stage.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StepView {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// What came of it.
    pub status: String,
    /// Why it ran, or would run.
    pub reason: String,
    /// Key of its action.
    pub key: Option<String>,
    /// Digest of its result.
    pub output: Option<String>,
    /// Size of its result, in bytes.
    pub size: Option<u64>,
    /// Number of parts of its result.
    pub parts: usize,
    /// Number of images in its result.
    pub images: usize,
    /// Port, and index of the stage on it.
    pub inputs: Vec<(String, usize)>,
    /// Parameter, value, and place in the file; empty where it is a default.
    pub params: Vec<(String, String, String)>,
    /// How the result was made.
    pub made: Option<Made>,
    /// What the stage said in the run that made it.
    pub log: Vec<String>,
}

/// How a result was made.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Made {
    /// When.
    pub started: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// The machine.
    pub host: String,
    /// The device.
    pub device: String,
    /// The most memory that the process had used, in bytes.
    pub peak_memory: u64,
    /// The stage that made it.
    pub stage: String,
    /// Its pipeline.
    pub pipeline: String,
    /// Version of the program.
    pub version: String,
}

/// A table of scores.
#[derive(Clone, Debug, Serialize)]
pub struct MetricsView {
    /// The stage.
    pub stage: String,
    /// How the scores came about.
    pub protocol: String,
    /// The threshold, where there was one.
    pub threshold: Option<f64>,
    /// Mean IoU.
    pub miou: Option<f64>,
    /// Area under the curve of precision over recall.
    pub area: Option<f64>,
    /// Scores of each class.
    pub per_class: Vec<ClassScores>,
    /// Numbers of pixels, `[truth][prediction]`.
    pub confusion: Vec<Vec<u64>>,
    /// Scores at each threshold.
    pub curve: Vec<CurvePoint>,
}

impl MetricsView {
    /// Makes the view of a table.
    pub fn new(stage: &str, table: &Table) -> Self {
        Self {
            stage: stage.to_owned(),
            protocol: described(&table.protocol),
            threshold: table.protocol.threshold.get("background").and_then(Value::as_f64),
            miou: table.miou,
            area: table.area(),
            per_class: table.per_class.clone(),
            confusion: table.confusion.clone(),
            curve: table.curve.clone(),
        }
    }
}

/// The scores of all points, in words.
#[derive(Clone, Debug, Serialize)]
pub struct ResultsView {
    /// The tables.
    pub tables: Vec<TableView>,
    /// What must be known beside the numbers.
    pub notes: Vec<String>,
}

/// Scores that may be held against each other.
#[derive(Clone, Debug, Serialize)]
pub struct TableView {
    /// The stage, where all are of one.
    pub title: Option<String>,
    /// How the scores came about.
    pub protocol: String,
    /// Titles of what names a row.
    pub heads: Vec<String>,
    /// What was measured.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<RowView>,
}

/// A row of scores.
#[derive(Clone, Debug, Serialize)]
pub struct RowView {
    /// What names it.
    pub heads: Vec<String>,
    /// The scores.
    pub cells: Vec<Option<CellView>>,
}

/// A score.
#[derive(Clone, Debug, Serialize)]
pub struct CellView {
    /// As a person reads it.
    pub text: String,
    /// Whether it is the best of its column.
    pub best: bool,
}

impl ResultsView {
    /// Makes the view of a table; nothing where no score is there.
    pub fn new(results: &Results) -> Option<Self> {
        results.view()
    }
}

/// A set of images with what stages made of them.
#[derive(Clone, Debug, Serialize)]
pub struct ImagesView {
    /// The stage that the images come from.
    pub name: String,
    /// Number of images in the set.
    pub total: usize,
    /// The stage whose masks gave the scores of the rows.
    pub scored: Option<String>,
    /// What the colours of masks mean: a name and the colour, as CSS writes it; empty where no masks are shown.
    pub colours: Vec<(String, String)>,
    /// Whether maps are shown.
    pub has_maps: bool,
    /// Titles of the columns.
    pub columns: Vec<String>,
    /// The chosen images.
    pub rows: Vec<ImageRow>,
}

/// An image.
#[derive(Clone, Debug, Serialize)]
pub struct ImageRow {
    /// Its id.
    pub id: String,
    /// The names of its classes.
    pub classes: Vec<String>,
    /// Mean IoU of its mask over the classes that it or the truth has.
    pub score: Option<f64>,
    /// Width of its pictures, in pixels.
    pub width: usize,
    /// Height of its pictures, in pixels.
    pub height: usize,
    /// Per column its pictures as data URIs, by name of class; the empty name is that of all classes together.
    pub cells: Vec<Option<BTreeMap<String, String>>>,
}

/// Most bytes of the pictures of points, which a sweep of hundreds would have more of than the page has room for.
const GRAPHS: usize = 2_000_000;

/// Returns the page as one file that needs nothing else. The graph is that of the first of these points, each given by its name and by
/// the names and numbers of its stages, and the reader may choose another one, or that of all; without points it is the plan's.
pub fn render(page: &Page, plan: &Plan, points: &[(&str, &[(String, usize)])]) -> String {
    // `</script>` within a string would end the element; JSON may write `<` in another way.
    let data = serde_json::to_string(page).expect("the page is JSON").replace('<', "\\u003c");
    let (title, whole) = (escaped(&page.title), svg::svg(plan));
    let template = |name: &str, svg: &str| {
        format!("<template data-graph=\"{}\">\n{}\n</template>\n", escaped(name), svg.trim_end())
    };
    let (mut graph, mut graphs) = (whole.clone(), String::new());
    for (at, (name, steps)) in points.iter().enumerate() {
        let svg = svg::part(plan, steps);
        if graphs.len() + svg.len() > GRAPHS {
            break;
        }
        graphs.push_str(&template(name, &svg));
        if at == 0 {
            graph = svg;
        }
    }
    if !graphs.is_empty() {
        graphs.push_str(&template("", &whole));
    }
    let parts: [(&str, &str); 6] = [
        ("{{graphs}}", graphs.trim_end()),
        ("{{title}}", &title),
        ("{{style}}", include_str!("style.css").trim_end()),
        ("{{graph}}", graph.trim_end()),
        ("{{data}}", &data),
        ("{{script}}", include_str!("script.js").trim_end()),
    ];
    // In one pass over the frame, so that nothing within the parts is taken for a name.
    let mut text = String::new();
    let mut rest = include_str!("page.html");
    while let Some(at) = rest.find("{{") {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let found = parts.iter().find(|(name, _)| rest.starts_with(name));
        let (name, part) = found.expect("every name in page.html has its part");
        text.push_str(part);
        rest = &rest[name.len()..];
    }
    text + rest
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
