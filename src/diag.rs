//! What is wrong, where in the text, and what to try. Draws nothing; `report::draw` does.

use std::ops::Range;
use std::sync::Arc;

/// A text that a person wrote: a pipeline file, or one `--set` argument.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// How a person finds it: the path as given, or `--set`.
    pub name: String,
    /// Its whole text.
    pub text: String,
}

/// A range of bytes in a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The text it lies in.
    pub source: Arc<Source>,
    /// Byte range, within the text.
    pub range: Range<usize>,
}

impl Span {
    /// Returns line and column, both counted from 1; columns in characters.
    pub fn line_column(&self) -> (usize, usize) {
        let before = &self.source.text[..self.range.start.min(self.source.text.len())];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// Returns `file:line`, as printed behind a changed parameter; `--set` alone for what the command line says.
    pub fn place(&self) -> String {
        if self.source.name == "--set" {
            return self.source.name.clone();
        }
        format!("{}:{}", self.source.name, self.line_column().0)
    }
}

/// A part of the text with a remark under it.
#[derive(Clone, Debug)]
pub struct Label {
    /// Where.
    pub span: Span,
    /// The remark; may be empty.
    pub text: String,
    /// Whether this is the place itself (`^^^`) or context (`---`).
    pub primary: bool,
}

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// One line: a lowercase sentence without a full stop, user words in backticks.
    pub title: String,
    /// Where; empty if it has no place in a text.
    pub labels: Vec<Label>,
    /// What to try.
    pub help: Vec<String>,
}

impl Diagnostic {
    /// Makes a diagnostic without a place.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), labels: Vec::new(), help: Vec::new() }
    }

    /// Adds the place itself.
    #[must_use]
    pub fn at(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push(Label { span, text: text.into(), primary: true });
        self
    }

    /// Adds a place that explains.
    #[must_use]
    pub fn context(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push(Label { span, text: text.into(), primary: false });
        self
    }

    /// Adds a way out.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help.push(text.into());
        self
    }
}

/// Returns the known name nearest to `word`, if one is near enough to be meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(word, name), name))
        .filter(|(distance, name)| *distance <= 1 + word.len().max(name.len()) / 4 && *distance < name.len())
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_a_typing_error_and_nothing_far_away() {
        let known = ["background", "epochs", "learning_rate"];
        assert_eq!(nearest("backgruond", known), Some("background"));
        assert_eq!(nearest("epoch", known), Some("epochs"));
        assert_eq!(nearest("momentum", known), None);
        assert_eq!(nearest("c", ["a", "b"]), None);
    }

    #[test]
    fn line_and_column_count_from_one() {
        let source = Arc::new(Source { name: "a.toml".into(), text: "x\nyz\n".into() });
        let span = Span { source, range: 3..4 };
        assert_eq!(span.line_column(), (2, 2));
        assert_eq!(span.place(), "a.toml:2");
    }
}
