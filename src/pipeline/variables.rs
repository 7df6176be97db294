//! `${name}`: puts the values of `[vars]` into the strings of stages.
//!
//! A string that is nothing but `${name}` takes the variable's value as it is, numbers included; within a longer string the
//! value is written out. `$${` writes `${`. Variables may use one another.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::overrides::list;
use super::texts::Texts;
use crate::diag::{Diagnostic, nearest};

/// All strings into which variables were put may have so many bytes together. Variables that use one another twice each double
/// with every step, which takes a few lines to fill any memory.
const LONGEST: usize = 16 << 20;

/// So many variables may be looked up one within the other.
const DEEPEST: usize = 100;

/// The variables of a pipeline, each looked up once.
pub(super) struct Variables<'text> {
    texts: &'text Texts,
    declared: BTreeMap<String, Spanned<DeValue<'text>>>,
    known: BTreeMap<String, Option<DeValue<'text>>>,
    /// The variables that are being looked up, outermost first.
    open: Vec<String>,
    /// How many bytes may still be put into strings; `None` once that was too little.
    left: Option<usize>,
    /// What is wrong so far.
    pub(super) faults: Vec<Diagnostic>,
}

impl<'text> Variables<'text> {
    /// Takes the variables of `[vars]` and works out the value of each.
    pub(super) fn new(table: DeTable<'text>, texts: &'text Texts) -> Self {
        let declared = table.into_iter().map(|(key, value)| (key.into_inner().into_owned(), value)).collect();
        let (known, open, faults) = (BTreeMap::new(), Vec::new(), Vec::new());
        let mut variables = Self { texts, declared, known, open, left: Some(LONGEST), faults };
        let names: Vec<String> = variables.declared.keys().cloned().collect();
        for name in names {
            variables.value(&name);
        }
        variables
    }

    /// Fills in every variable within a value. Returns whether that worked; if it did not, `faults` says why.
    pub(super) fn fill(&mut self, value: &mut Spanned<DeValue<'text>>) -> bool {
        let place = value.span();
        match value.get_mut() {
            DeValue::String(text) => match self.expand(text, &place) {
                Some(Some(filled)) => {
                    *value.get_mut() = filled;
                    true
                }
                Some(None) => true,
                None => false,
            },
            DeValue::Array(array) => {
                // Every element is looked at, so that every fault is found.
                let faulty = array.iter_mut().filter_map(|element| (!self.fill(element)).then_some(())).count();
                faulty == 0
            }
            DeValue::Table(table) => {
                let faulty = table.iter_mut().filter_map(|(_, value)| (!self.fill(value)).then_some(())).count();
                faulty == 0
            }
            _ => true,
        }
    }

    /// Returns the value of a declared variable, or `None` if it has none for a reason that was reported.
    fn value(&mut self, name: &str) -> Option<DeValue<'text>> {
        if let Some(known) = self.known.get(name) {
            return known.clone();
        }
        let declared = self.declared.get(name)?.clone();
        let place = declared.span();
        let value = match declared.into_inner() {
            DeValue::String(text) => {
                self.open.push(name.to_owned());
                let expanded = self.expand(&text, &place);
                self.open.pop();
                expanded.map(|filled| filled.unwrap_or(DeValue::String(text)))
            }
            value @ (DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_)) => Some(value),
            other => {
                let title = format!("variable `{name}` is {} and cannot be pasted into a string", article(&other));
                let fault = Diagnostic::new(title).at(self.texts.span(place), "");
                self.faults.push(fault.help("a variable is a string, a number, `true` or `false`"));
                None
            }
        };
        self.known.insert(name.to_owned(), value.clone());
        value
    }

    /// Returns the filled string, `Some(None)` where there was nothing to fill, or `None` after a fault.
    #[expect(clippy::option_option, reason = "a fault and nothing to do are two things")]
    fn expand(&mut self, text: &str, place: &Range<usize>) -> Option<Option<DeValue<'text>>> {
        if !text.contains("${") {
            return Some(None);
        }
        let mut filled = String::new();
        let mut rest = text;
        let mut fine = true;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                filled.push_str(&rest[..at - 1]);
                filled.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            filled.push_str(&rest[..at]);
            let Some(end) = rest[at..].find('}') else {
                let fault = Diagnostic::new("`${` without a closing `}`").at(self.within(place, &rest[at..]), "");
                self.faults.push(fault.help("write `$${` if these two characters are meant"));
                return None;
            };
            let reference = &rest[at..=at + end];
            let name = reference[2..reference.len() - 1].trim();
            let value = self.look_up(name, reference, place);
            if let Some(value) = value {
                if !self.take(value.as_str().map_or(0, str::len), place) {
                    return None;
                }
                if reference == text {
                    return Some(Some(value));
                }
                write(&mut filled, &value);
            } else {
                fine = false;
            }
            rest = &rest[at + end + 1..];
        }
        filled.push_str(rest);
        fine.then_some(Some(DeValue::String(Cow::Owned(filled))))
    }

    /// Takes so many bytes of those that may be put into strings; says whether there were as many, and reports it once if not.
    fn take(&mut self, bytes: usize, place: &Range<usize>) -> bool {
        let Some(left) = self.left else { return false };
        self.left = left.checked_sub(bytes);
        if self.left.is_none() {
            let title = format!("the variables of this file make more than {} MiB of text", LONGEST >> 20);
            self.faults.push(Diagnostic::new(title).at(self.texts.span(place.clone()), "with this string"));
        }
        self.left.is_some()
    }

    /// Returns the value of a variable that is used at a place, or reports that there is none.
    fn look_up(&mut self, name: &str, reference: &str, place: &Range<usize>) -> Option<DeValue<'text>> {
        if let Some(start) = self.open.iter().position(|open| open == name) {
            let mut path = self.open[start..].to_vec();
            path.push(name.to_owned());
            let title = format!("variable `{name}` needs its own value: `{}`", path.join(" -> "));
            self.faults.push(Diagnostic::new(title).at(self.within(place, reference), ""));
            return None;
        }
        if !self.declared.contains_key(name) {
            let title = if name.is_empty() {
                "`${}` names no variable".to_owned()
            } else {
                format!("unknown variable `{name}`")
            };
            let mut fault = Diagnostic::new(title).at(self.within(place, reference), "`[vars]` has no such name");
            let known = self.declared.keys().map(String::as_str);
            if let Some(near) = nearest(name, known.clone()) {
                fault = fault.help(format!("did you mean `${{{near}}}`?"));
            } else if self.declared.is_empty() {
                fault = fault.help(format!("declare it: `[vars]` and below it `{name} = \"...\"`"));
            } else {
                fault = fault.help(format!("the variables of this file: {}", list(known)));
            }
            self.faults.push(fault);
            return None;
        }
        if self.open.len() >= DEEPEST {
            let title = format!("more than {DEEPEST} variables need each other's values");
            self.faults.push(Diagnostic::new(title).at(self.within(place, reference), ""));
            return None;
        }
        self.value(name)
    }

    /// Returns the span of `part` within the string at `place`, or of the whole string where it is written in another way.
    fn within(&self, place: &Range<usize>, part: &str) -> crate::diag::Span {
        let mut span = self.texts.span(place.clone());
        if let Some(at) = span.source.text[span.range.clone()].find(part) {
            let start = span.range.start + at;
            span.range = start..start + part.len();
        }
        span
    }
}

fn write(filled: &mut String, value: &DeValue<'_>) {
    match value {
        DeValue::String(text) => filled.push_str(text),
        DeValue::Integer(number) => filled.push_str(&number.to_string()),
        DeValue::Float(number) => filled.push_str(&number.to_string()),
        DeValue::Boolean(truth) => filled.push_str(if *truth { "true" } else { "false" }),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
            unreachable!("variables of these types are refused")
        }
    }
}

/// Returns what a value is, with its article.
pub(super) fn article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a truth value",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
