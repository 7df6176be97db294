//! `orandflow graph`: a pipeline as text or picture, after every check that needs no data.

use std::path::PathBuf;
use std::process::ExitCode;

use super::Failure;
use super::common::{PipelineArgs, deliver};
use crate::plan::{render, svg};

/// Arguments of `graph`.
#[derive(Debug, clap::Args)]
pub(crate) struct GraphArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,

    /// How to draw it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,

    /// Write to this file instead of stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// A table, layer by layer
    Text,
    /// The language of Graphviz
    Dot,
    /// The language of Mermaid, which code hosts draw in Markdown
    Mermaid,
    /// A picture, light or dark as the reader likes
    Svg,
}

/// Runs `graph`.
pub(crate) fn graph(args: &GraphArgs) -> Result<ExitCode, Failure> {
    let plan = args.pipeline.load()?;
    let text = match args.format {
        Format::Text => render::text(&plan),
        Format::Dot => render::dot(&plan),
        Format::Mermaid => render::mermaid(&plan),
        Format::Svg => svg::svg(&plan),
    };
    deliver(&text, args.out.as_deref())
}
