//! The checked graph of steps in a fixed order: what a pipeline file means.

pub mod action;
pub mod graph;
mod lower;
mod params;
pub mod prepare;
pub mod render;
pub mod shape;
pub mod svg;

pub use crate::pipeline::resources::Resources;
pub use lower::lower;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::diag::{Diagnostic, Span};
use crate::pipeline::{self, Texts};
use crate::stage::{StageKind, StageRun};

/// Reads a pipeline file, puts the `--set` arguments (`PATH=VALUE`) in place, and checks it against the catalogue.
///
/// # Errors
/// Everything that is wrong with the file and the arguments, in order of the file.
pub fn load(path: &Path, overrides: &[String], catalog: &[&'static dyn StageKind]) -> Result<Plan, Vec<Diagnostic>> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let name = path.display();
        let fault = Diagnostic::new(format!("the pipeline file `{name}` cannot be read: {}", plain(&error)));
        vec![match error.kind() {
            std::io::ErrorKind::NotFound => fault.help("paths are relative to the working directory"),
            _ => fault,
        }]
    })?;
    of_text(&path.display().to_string(), &text, overrides, catalog)
}

/// As [`load`], of a file's text.
///
/// # Errors
/// Everything that is wrong with it and the arguments.
pub fn of_text(
    name: &str,
    text: &str,
    overrides: &[String],
    catalog: &[&'static dyn StageKind],
) -> Result<Plan, Vec<Diagnostic>> {
    let texts = Texts::new(name, text, overrides);
    lower(pipeline::parse(&texts)?, catalog)
}

/// Returns an error of the operating system without its number.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// A checked pipeline: every port connected to a step of a kind it takes, no cycle, every parameter read.
#[derive(Clone)]
pub struct Plan {
    /// The pipeline's name.
    pub pipeline: String,
    /// The pipeline's seed.
    pub seed: u64,
    /// The steps; each stands after those it reads from, and in the order of the file where that leaves a choice.
    pub steps: Vec<Step>,
}

/// One `[stages.x]` placed in a plan.
#[derive(Clone)]
pub struct Step {
    /// The stage's name, `x`.
    pub name: String,
    /// What it is.
    pub kind: &'static dyn StageKind,
    /// It, with its parameters.
    pub run: Arc<dyn StageRun>,
    /// The seed of the pipeline that it belongs to; part of its key where its kind draws random numbers.
    pub seed: u64,
    /// Parameters with defaults filled in and without those that are not part of the key.
    pub key_params: serde_json::Value,
    /// Its connected ports, in order of the kind's ports.
    pub inputs: Vec<Connection>,
    /// What one action of it needs of a machine; no part of its key.
    pub resources: Resources,
    /// Where each parameter that the user wrote stands, by dotted name.
    pub places: BTreeMap<String, Span>,
    /// Where the stage's name stands.
    pub span: Span,
}

/// A connected port.
#[derive(Clone)]
pub struct Connection {
    /// The port.
    pub port: &'static str,
    /// The index in [`Plan::steps`] of the step it reads from.
    pub step: usize,
    /// Where the connection stands.
    pub span: Span,
}
