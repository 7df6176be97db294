//! The pipeline file, a file that lies over it, and the `--set` arguments, laid end to end, so that one number names a place in
//! any of them.

use std::ops::Range;
use std::sync::Arc;

use crate::diag::{Source, Span};

/// The name of sources that are `--set` arguments.
pub(super) const SET: &str = "--set";

/// The texts of a pipeline: its files first, then each `--set` argument.
#[derive(Debug)]
pub struct Texts {
    sources: Vec<(usize, Arc<Source>)>,
    files: usize,
}

impl Texts {
    /// Lays the texts end to end. Two texts are one byte apart, so that the end of one is not the start of the next.
    pub fn new(name: impl Into<String>, text: impl Into<String>, overrides: &[String]) -> Self {
        Self::layers(vec![Source { name: name.into(), text: text.into() }], overrides)
    }

    /// Lays several files and the `--set` arguments end to end; the first file is the pipeline's own.
    ///
    /// # Panics
    /// If there is no file.
    pub fn layers(files: Vec<Source>, overrides: &[String]) -> Self {
        assert!(!files.is_empty(), "a pipeline has a file");
        let sets = overrides.iter().map(|text| Source { name: SET.to_owned(), text: text.clone() });
        let count = files.len();
        let mut start = 0;
        let sources = files
            .into_iter()
            .chain(sets)
            .map(|source| {
                let at = start;
                start += source.text.len() + 1;
                (at, Arc::new(source))
            })
            .collect();
        Self { sources, files: count }
    }

    /// Returns the file.
    pub fn file(&self) -> &Arc<Source> {
        &self.sources[0].1
    }

    /// Returns the files with the place where each starts.
    pub fn files(&self) -> impl Iterator<Item = (usize, &Arc<Source>)> {
        self.sources[..self.files].iter().map(|(start, source)| (*start, source))
    }

    /// Returns the `--set` arguments with the place where each starts.
    pub fn overrides(&self) -> impl Iterator<Item = (usize, &Arc<Source>)> {
        self.sources[self.files..].iter().map(|(start, source)| (*start, source))
    }

    /// Returns where a span lies over all texts, the reverse of [`Self::span`].
    pub fn place(&self, span: &Span) -> Option<usize> {
        let (start, _) = self.sources.iter().find(|(_, source)| Arc::ptr_eq(source, &span.source))?;
        Some(start + span.range.start)
    }

    /// Returns the text and the range within it.
    pub fn span(&self, place: Range<usize>) -> Span {
        let index = self.sources.partition_point(|(start, _)| *start <= place.start) - 1;
        let (start, source) = &self.sources[index];
        let end = source.text.len();
        let from = (place.start - start).min(end);
        let to = place.end.saturating_sub(*start).clamp(from, end);
        Span { source: Arc::clone(source), range: from..to }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_behind_the_file_lies_in_an_override() {
        let texts = Texts::new("a.toml", "name", &["x=1".to_owned(), "y=2".to_owned()]);
        assert_eq!(texts.span(0..4).source.name, "a.toml");
        assert_eq!(texts.span(4..4).source.name, "a.toml");
        let span = texts.span(11..12);
        assert_eq!((span.source.text.as_str(), span.range), ("y=2", 2..3));
    }
}
