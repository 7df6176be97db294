//! Diagnostics and failures as text, by way of annotate-snippets. Knows nothing of where the text goes.

use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use crate::diag::{Diagnostic, Label, Source};

/// Lines are cut at so many columns: far enough that only data in one endless line is.
const WIDTH: usize = 1000;

/// So many diagnostics are drawn: nobody reads more, and each takes a look through the whole text.
const SHOWN: usize = 100;

/// Returns all diagnostics as text, an empty line between two, ending with a line end. Of very many the first are drawn, and the others
/// counted.
pub fn diagnostics(diagnostics: &[Diagnostic], colour: bool) -> String {
    let mut texts: Vec<String> = diagnostics.iter().take(SHOWN).map(|one| diagnostic(one, colour)).collect();
    if diagnostics.len() > SHOWN {
        let message = format!("{} more mistakes are not shown", diagnostics.len() - SHOWN);
        texts.push(failure(&message, &[], colour));
    }
    texts.join("\n")
}

/// Returns one diagnostic as text, ending with a line end.
pub fn diagnostic(diagnostic: &Diagnostic, colour: bool) -> String {
    if diagnostic.labels.is_empty() {
        return failure(&diagnostic.title, &diagnostic.help, colour);
    }
    let mut group = Level::ERROR.primary_title(&diagnostic.title).elements(snippets(&diagnostic.labels));
    for help in &diagnostic.help {
        group = group.element(Level::HELP.message(help));
    }
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let mut text = renderer.decor_style(DecorStyle::Unicode).term_width(WIDTH).render(&[group]);
    text.push('\n');
    text
}

/// Returns a failure without a place in a text, ending with a line end.
pub fn failure(message: &str, help: &[String], colour: bool) -> String {
    let (error, hint, reset) = if colour { ("\x1b[1m\x1b[91m", "\x1b[1m\x1b[96m", "\x1b[0m") } else { ("", "", "") };
    let help: String = help.iter().map(|help| format!("{hint}help{reset}: {help}\n")).collect();
    format!("{error}error{reset}: {message}\n{help}")
}

/// Returns one snippet per source, the one with the first primary label first.
fn snippets(labels: &[Label]) -> Vec<Snippet<'_, annotate_snippets::Annotation<'_>>> {
    let mut ordered: Vec<&Label> = labels.iter().collect();
    ordered.sort_by_key(|label| !label.primary);
    let mut sources: Vec<&Arc<Source>> = Vec::new();
    for label in ordered {
        if !sources.iter().any(|source| Arc::ptr_eq(source, &label.span.source)) {
            sources.push(&label.span.source);
        }
    }
    sources
        .into_iter()
        .map(|source| {
            let annotations = labels.iter().filter(|label| Arc::ptr_eq(source, &label.span.source)).map(|label| {
                let kind = if label.primary { AnnotationKind::Primary } else { AnnotationKind::Context };
                kind.span(inside(&label.span.range, &source.text)).label(&label.text)
            });
            Snippet::source(&source.text).path(&source.name).annotations(annotations)
        })
        .collect()
}

/// Returns the range, moved onto the text and onto whole characters, so that drawing never fails.
fn inside(range: &Range<usize>, text: &str) -> Range<usize> {
    let whole = |at: usize| (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    let start = whole(range.start);
    start..whole(range.end).max(start)
}
