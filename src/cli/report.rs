//! `orandflow report`: everything that is known of a pipeline's results as one HTML page.

use std::path::PathBuf;
use std::process::ExitCode;

use super::Failure;
use super::common::deliver;
use super::diff::{Operand, called};
use super::engine::{CacheDir, outside};
use super::export::Cache;
use super::page::{graphs, members, page, runs};
use super::sweep::SweepFile;
use crate::plan::prepare::Planner;
use crate::report::diff;
use crate::report::html::gallery::build;
use crate::report::html::render;
use crate::report::text::size;
use crate::run::Survey;
use crate::store::files::Files;

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
    let first = points.first().copied().unwrap_or(0);
    let other = args.against.as_ref().map(|word| Operand::load(word, &args.against_set)).transpose()?;
    let other_outcome = match &other {
        Some(other) => {
            let survey = Survey::of(&other.sweep.plan, &other.sweep.steps_of(&[other.point]), &planner);
            Some(survey.map_err(Failure::Diagnostics)?.outcome(&other.sweep.plan, &store))
        }
        None => None,
    };
    let mut page = page(&sweep, &points, &outcome, &store, &runs(&store, Vec::new()));
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
        let mine = Operand::of(called(&name, &args.file.set), sweep.clone(), first);
        let difference = diff::compare(&mine.side(&outcome, &store), &other.side(other_outcome, &store));
        page.difference = Some(diff::as_json(&difference));
    }
    let text = render(&page, &sweep.plan, &graphs(&sweep, &points));
    fs_err::create_dir_all(&args.to).map_err(|error| outside(&error))?;
    let path = args.to.join(format!("{}.html", sweep.name));
    fs_err::write(&path, &text).map_err(|error| outside(&error))?;
    deliver(&format!("{} ({})\n", path.display(), size(text.len() as u64)), None)
}
