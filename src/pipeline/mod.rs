//! A pipeline file as its author wrote it: every word with its place. Knows no kinds and no graph.

mod like;
pub mod overrides;
mod parse;
pub mod resources;
mod texts;
mod variables;

pub use parse::{assemble, parse, tables};
pub use texts::Texts;

use toml::Spanned;
use toml::de::DeTable;

use crate::diag::{Diagnostic, Span};

/// What a pipeline file and the `--set` arguments say.
#[derive(Debug)]
pub struct Pipeline<'text> {
    /// Its name.
    pub name: String,
    /// Its seed.
    pub seed: u64,
    /// Its stages, in order of the file.
    pub stages: Vec<StageDecl<'text>>,
    /// What is already known to be wrong; the rest of the pipeline is good enough to look for more.
    pub faults: Vec<Diagnostic>,
    /// The texts that the ranges in `stages` count over.
    pub texts: &'text Texts,
}

/// One `[stages.NAME]`.
#[derive(Debug)]
pub struct StageDecl<'text> {
    /// Its name.
    pub name: Word,
    /// The word behind `kind =`; absent after a fault.
    pub kind: Option<Word>,
    /// `inputs`: port and stage, in order of the file.
    pub inputs: Vec<(Word, Word)>,
    /// `resources`: what its actions need of a machine.
    pub resources: resources::Declared,
    /// Everything else; ranges count over the [`Texts`].
    pub params: Spanned<DeTable<'text>>,
    /// Whether a fault was found in the parameters, so that looking for more would only repeat it.
    pub faulty: bool,
}

/// A word and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// The word.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}
