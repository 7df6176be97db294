//! The command line: what was typed, handed to one verb's file each; and the only place that turns failures into exit codes.

mod bundle;
mod cache;
mod common;
mod completions;
mod diff;
mod doctor;
mod doctor_devices;
mod engine;
mod exec;
mod export;
mod graph;
mod import;
mod op;
mod page;
mod plan;
mod predict;
mod remote;
mod report;
mod results;
mod run;
mod schema;
mod show;
mod stages;
mod sweep;
mod watch;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::diag::Diagnostic;
use crate::report::draw;

/// Runs declarative, cached pipelines for weakly supervised semantic segmentation
#[derive(Debug, Parser)]
#[command(name = "orandflow", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a pipeline: whatever is not in the cache yet, and nothing else
    Run(run::RunArgs),
    /// Say what `run` would do and why, without doing it
    Plan(plan::PlanArgs),
    /// Run every point of a sweep, with what they share done once
    Sweep(sweep::SweepArgs),
    /// Show the scores of every point of a sweep as a table
    Results(results::ResultsArgs),
    /// Say what differs between two pipelines, runs or points of a sweep, and in what came of them
    Diff(diff::DiffArgs),
    /// Write everything that is known of a pipeline's results as one HTML page
    Report(report::ReportArgs),
    /// Show a run under way as a page that keeps itself up to date, for this machine alone
    Watch(watch::WatchArgs),
    /// Look the data of a pipeline through, or the devices: what is missing or damaged, before any time is spent
    Doctor(doctor::DoctorArgs),
    /// Draw the graph of a pipeline
    Graph(graph::GraphArgs),
    /// Show what is known of a stage's result: provenance, sizes, metrics
    Show(show::ShowArgs),
    /// Write a stage's result to a folder in formats that other programs read
    Export(export::ExportArgs),
    /// Segment pictures of your own with a trained network
    Predict(predict::PredictArgs),
    /// Turn the files of another data set into a folder that every program reads
    Import(import::ImportArgs),
    /// Run a single operation on plain files
    Op(op::OpArgs),
    /// List the kinds of stage, or everything about one of them
    Stages(stages::StagesArgs),
    /// Print the JSON Schema of pipeline files, for editors
    Schema(schema::SchemaArgs),
    /// Look after the cache
    Cache(cache::CacheArgs),
    /// Write results to one file and take them into another cache
    Bundle(bundle::BundleArgs),
    /// Run one stage inside a job of a cluster
    #[command(hide = true)]
    Exec(exec::ExecArgs),
    /// Print completions for a shell
    Completions(completions::CompletionsArgs),
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// The pipeline file or the command line is wrong; exit code 2.
    Diagnostics(Vec<Diagnostic>),
    /// Anything else that has one sentence.
    Message {
        /// A lowercase sentence without a full stop.
        message: String,
        /// What to try.
        help: Option<String>,
        /// 1: a stage failed or the outside world did; 2: the user's input is wrong; 130: interrupted.
        code: u8,
    },
}

/// Runs the program and returns its exit code: 0 all done, 1 a stage failed, 2 the pipeline or the command line is wrong,
/// 130 interrupted.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Plan(args) => plan::plan(args),
        Command::Sweep(args) => sweep::sweep(args),
        Command::Results(args) => results::results(args),
        Command::Diff(args) => diff::diff(args),
        Command::Report(args) => self::report::report(args),
        Command::Watch(args) => watch::watch(args),
        Command::Doctor(args) => doctor::doctor(args),
        Command::Graph(args) => graph::graph(args),
        Command::Show(args) => show::show(args),
        Command::Export(args) => export::export(args),
        Command::Import(args) => self::import::import(args),
        Command::Predict(args) => predict::predict(args),
        Command::Op(args) => op::op(args),
        Command::Stages(args) => stages::stages(args),
        Command::Schema(args) => schema::schema(args),
        Command::Cache(args) => cache::cache(args),
        Command::Bundle(args) => bundle::bundle(args),
        Command::Exec(args) => exec::exec(args),
        Command::Completions(args) => completions::completions(args),
    };
    result.unwrap_or_else(|failure| {
        // Nothing is left to be done where the error stream itself is gone.
        let _ = std::io::stderr().lock().write_all(failure.draw(colour_on_stderr()).as_bytes());
        failure.code()
    })
}

impl Failure {
    /// Returns the text that a person reads.
    fn draw(&self, colour: bool) -> String {
        match self {
            Self::Diagnostics(diagnostics) => draw::diagnostics(diagnostics, colour),
            Self::Message { message, help, .. } => draw::failure(message, help.as_slice(), colour),
        }
    }

    /// Returns the exit code.
    fn code(&self) -> ExitCode {
        match self {
            Self::Diagnostics(_) => ExitCode::from(2),
            Self::Message { code, .. } => ExitCode::from(*code),
        }
    }
}

/// Whether text on stderr may carry colours.
pub(crate) fn colour_on_stderr() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
