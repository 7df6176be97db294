//! A stage's table against the schema of its kind, before serde sees it: so that everything wrong is found at once and said in
//! the user's words.

use std::collections::BTreeMap;

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::shape::{self, Shape};
use crate::diag::{Diagnostic, Span, nearest};
use crate::pipeline::{StageDecl, Texts};
use crate::stage::{ParseError, Spec, StageError};

/// Returns where each parameter stands, by dotted name; elements of lists are counted from 0.
pub(super) fn places(table: &DeTable<'_>, texts: &Texts) -> BTreeMap<String, Span> {
    let mut places = BTreeMap::new();
    for (key, value) in table {
        walk(key.get_ref(), value, texts, &mut places);
    }
    places
}

fn walk(name: &str, value: &Spanned<DeValue<'_>>, texts: &Texts, places: &mut BTreeMap<String, Span>) {
    places.insert(name.to_owned(), texts.span(value.span()));
    match value.get_ref() {
        DeValue::Table(table) => {
            for (key, value) in table {
                walk(&format!("{name}.{}", key.get_ref()), value, texts, places);
            }
        }
        DeValue::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                walk(&format!("{name}.{index}"), value, texts, places);
            }
        }
        _ => {}
    }
}

/// Returns everything that the schema refuses in a stage's parameters.
pub(super) fn check(stage: &StageDecl<'_>, spec: &Spec, schema: &Value, texts: &Texts) -> Vec<Diagnostic> {
    let mut checker = Checker { stage: &stage.name.text, spec, texts, faults: Vec::new() };
    checker.table(stage.params.get_ref(), schema, "", &stage.name.span);
    checker.faults
}

struct Checker<'a> {
    stage: &'a str,
    spec: &'a Spec,
    texts: &'a Texts,
    faults: Vec<Diagnostic>,
}

impl Checker<'_> {
    /// Checks a table; `path` is its dotted name, empty for the stage itself, and `place` is where it is to be blamed.
    fn table(&mut self, table: &DeTable<'_>, schema: &Value, path: &str, place: &Span) {
        let Some(fields) = shape::fields(schema) else { return };
        for name in shape::required(schema) {
            let misspelt =
                |key: &str| !fields.contains_key(key) && nearest(key, fields.keys().map(String::as_str)) == Some(name);
            if table.contains_key(name) || table.keys().any(|key| misspelt(key.get_ref())) {
                continue;
            }
            let full = join(path, name);
            let shape = shape::shape(&fields[name]).described();
            let fault = Diagnostic::new(format!("stage `{}` has no `{full}`", self.stage))
                .at(place.clone(), format!("kind `{}` needs it", self.spec.name));
            self.faults.push(fault.help(about(&full, &fields[name]).unwrap_or_else(|| format!("`{full}` is {shape}"))));
        }
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            match fields.get(name) {
                Some(schema) => self.value(value, schema, &join(path, name)),
                None if path.is_empty() || shape::is_closed(schema) => {
                    let span = self.texts.span(key.span());
                    let fault = self.unknown(name, path, fields.keys().map(String::as_str).collect(), span);
                    self.faults.push(fault);
                }
                None => {}
            }
        }
    }

    fn unknown(&self, name: &str, path: &str, known: Vec<&str>, span: Span) -> Diagnostic {
        let kind = self.spec.name;
        let (title, label) = if path.is_empty() {
            (format!("kind `{kind}` has no parameter `{name}`"), format!("written in stage `{}`", self.stage))
        } else {
            (format!("`{path}` of stage `{}` has no field `{name}`", self.stage), String::new())
        };
        let fault = Diagnostic::new(title).at(span, label);
        let reserved = if path.is_empty() { &["kind", "inputs", "resources"][..] } else { &[] };
        if path.is_empty() && self.spec.inputs.iter().any(|port| port.name == name) {
            return fault.help(format!("`{name}` is a port: write `inputs = {{ {name} = \"STAGE\" }}`"));
        }
        if let Some(near) = nearest(name, known.iter().copied().chain(reserved.iter().copied())) {
            return fault.help(format!("did you mean `{near}`?"));
        }
        if known.is_empty() {
            return fault.help(format!("kind `{kind}` takes no parameters"));
        }
        let known: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
        fault.help(format!("it has {}; `orandflow stages {kind}` explains them", known.join(", ")))
    }

    fn value(&mut self, value: &Spanned<DeValue<'_>>, schema: &Value, path: &str) {
        let allowed = shape::shape(schema);
        let span = self.texts.span(value.span());
        if let Some(fault) = self.mismatch(value.get_ref(), &allowed, path, &span) {
            self.faults.push(match about(path, schema) {
                Some(about) if fault.help.is_empty() => fault.help(about),
                _ => fault,
            });
            return;
        }
        match value.get_ref() {
            DeValue::Table(table) => self.table(table, schema, path, &span),
            DeValue::Array(list) => {
                if let Some(schema) = shape::elements(schema) {
                    for (index, element) in list.iter().enumerate() {
                        self.value(element, schema, &format!("{path}.{index}"));
                    }
                }
            }
            _ => {}
        }
    }

    /// Returns what is wrong with the type, the word or the size of a value.
    fn mismatch(&self, value: &DeValue<'_>, allowed: &Shape<'_>, path: &str, span: &Span) -> Option<Diagnostic> {
        let fits = |name: &&str| match value {
            DeValue::String(_) => *name == "string",
            DeValue::Integer(_) => *name == "integer" || *name == "number",
            DeValue::Float(_) => *name == "number",
            DeValue::Boolean(_) => *name == "boolean",
            DeValue::Array(_) => *name == "array",
            DeValue::Table(_) => *name == "object",
            DeValue::Datetime(_) => false,
        };
        let title = |complaint: String| format!("`{path}` of stage `{}` {complaint}", self.stage);
        if !allowed.types.is_empty() && !allowed.types.iter().any(fits) {
            let found = kind_of(value);
            let fault = Diagnostic::new(title(format!("must be {}, not {found}", allowed.described())));
            return Some(fault.at(span.clone(), format!("expected {}", allowed.described())));
        }
        if let DeValue::String(word) = value
            && !allowed.words.is_empty()
            && !allowed.words.contains(&word.as_ref())
        {
            let fault = Diagnostic::new(title(format!("cannot be `{word}`")))
                .at(span.clone(), format!("expected {}", allowed.described()));
            return Some(match nearest(word, allowed.words.iter().copied()) {
                Some(near) => fault.help(format!("did you mean `{near}`?")),
                None => fault,
            });
        }
        let whole = match value {
            DeValue::Integer(number) => {
                Some(i128::from_str_radix(number.as_str(), number.radix()).unwrap_or(i128::MAX))
            }
            _ => None,
        };
        let number = match value {
            DeValue::Float(number) => number.as_str().parse().ok(),
            _ => whole.map(|whole| whole as f64),
        }?;
        let bound = match (allowed.minimum, allowed.maximum, allowed.holds.zip(whole)) {
            (Some(minimum), _, _) if number < minimum => format!("at least {minimum}"),
            (_, Some(maximum), _) if number > maximum => format!("at most {maximum}"),
            (_, _, Some(((least, _), whole))) if whole < least => format!("at least {least}"),
            (_, _, Some(((_, most), whole))) if whole > most => format!("at most {most}"),
            _ => return None,
        };
        Some(Diagnostic::new(title(format!("must be {bound}"))).at(span.clone(), ""))
    }
}

/// Turns the kind's own complaint into a diagnostic at the parameter's place.
pub(super) fn refused(
    error: ParseError,
    stage: &StageDecl<'_>,
    places: &BTreeMap<String, Span>,
    schema: &Value,
    texts: &Texts,
) -> Diagnostic {
    let name = &stage.name.text;
    match error {
        ParseError::Toml(error) => {
            let message = error.message().trim();
            let span = error.span().map_or_else(|| stage.name.span.clone(), |place| texts.span(place));
            // The innermost parameter around the place of the error.
            let around = |other: &&Span| {
                other.source == span.source
                    && other.range.start <= span.range.start
                    && span.range.end <= other.range.end
            };
            let inner = places.iter().filter(|(_, place)| around(place)).min_by_key(|(_, place)| place.range.len());
            match inner {
                Some((path, _)) => {
                    let fault = Diagnostic::new(format!("`{path}` of stage `{name}` cannot be read: {message}"));
                    with_about(fault.at(span, ""), path, schema)
                }
                None => {
                    Diagnostic::new(format!("the parameters of stage `{name}` cannot be read: {message}")).at(span, "")
                }
            }
        }
        ParseError::Check(StageError::Parameter { name: path, message }) => {
            let fault = Diagnostic::new(format!("`{path}` of stage `{name}`: {message}"));
            match place_of(&path, places) {
                Some(span) => with_about(fault.at(span.clone(), ""), &path, schema),
                None => with_about(
                    fault.at(stage.name.span.clone(), format!("`{path}` has its default here")),
                    &path,
                    schema,
                ),
            }
        }
        ParseError::Check(StageError::Data { message, help }) => {
            let fault = Diagnostic::new(format!("stage `{name}`: {message}")).at(stage.name.span.clone(), "");
            match help {
                Some(help) => fault.help(help),
                None => fault,
            }
        }
        ParseError::Check(error) => Diagnostic::new(format!("stage `{name}`: {error}")).at(stage.name.span.clone(), ""),
    }
}

/// Returns the place of a parameter, or of the nearest table or list around it.
fn place_of<'a>(path: &str, places: &'a BTreeMap<String, Span>) -> Option<&'a Span> {
    let mut path = path;
    loop {
        if let Some(span) = places.get(path) {
            return Some(span);
        }
        path = path.rsplit_once('.')?.0;
    }
}

fn with_about(fault: Diagnostic, path: &str, schema: &Value) -> Diagnostic {
    let found = path.split('.').try_fold(schema, |schema, part| match shape::fields(schema) {
        Some(fields) => fields.get(part),
        None => shape::elements(schema),
    });
    match found.and_then(|schema| about(path, schema)) {
        Some(about) => fault.help(about),
        None => fault,
    }
}

/// Returns the first sentence of a parameter's meaning, which holds its unit.
fn about(path: &str, schema: &Value) -> Option<String> {
    let text = shape::description(schema)?;
    let sentence = text.split(". ").next().unwrap_or(&text).trim_end_matches('.');
    Some(format!("`{path}`: {sentence}"))
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn kind_of(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) if text.chars().count() <= 40 => format!("the string `{text}`"),
        DeValue::String(_) => "a string".to_owned(),
        DeValue::Integer(number) => format!("the whole number `{number}`"),
        DeValue::Float(number) => format!("the number `{number}`"),
        DeValue::Boolean(truth) => format!("`{truth}`"),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
