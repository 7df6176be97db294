//! `--set PATH=VALUE` and the layers of a sweep: put values in place of the file's. Knows no kinds; whether a parameter exists is
//! found out later, at the place that is kept here.

use std::borrow::Cow;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::texts::Texts;
use super::variables::article;
use crate::diag::{Diagnostic, nearest};

/// What messages call the arguments.
pub const SET: &str = "`--set`";

/// One part of a path, such as `lr`, with its place.
#[derive(Clone, Debug)]
pub struct Part<'text> {
    /// The word.
    pub word: Cow<'text, str>,
    /// Where it stands, over all texts.
    pub place: Range<usize>,
}

/// A value and the path at which it is put.
#[derive(Clone, Debug)]
pub struct Setting<'text> {
    /// The path, such as `stages`, `irn`, `radius`.
    pub path: Vec<Part<'text>>,
    /// The value. A table that has a `kind` or is `like` another stage, and stands at `stages.NAME` replaces or adds a stage.
    pub value: Spanned<DeValue<'text>>,
}

impl<'text> Setting<'text> {
    /// Returns the path with dots.
    pub fn dotted(&self) -> String {
        dotted(&self.path)
    }

    /// Whether this is a whole stage.
    fn is_stage(&self) -> bool {
        let has_kind = |table: &DeTable<'_>| table.contains_key("kind") || table.contains_key("like");
        let whole = self.value.get_ref().as_table().is_some_and(has_kind);
        whole && self.path.len() == 2 && self.path[0].word == "stages"
    }

    /// Puts the value in place, whether or not anything of the kind is known there.
    ///
    /// # Errors
    /// If the path leads into a value that has no parts.
    pub fn force(&self, root: &mut DeTable<'text>, texts: &Texts) -> Result<(), Diagnostic> {
        descend(root, texts, &self.path, self.value.clone())
    }

    /// Puts the value in place. `by` names what sets it, for messages.
    ///
    /// # Errors
    /// If the path leads nowhere.
    pub fn apply(&self, root: &mut DeTable<'text>, texts: &Texts, by: &str) -> Result<(), Diagnostic> {
        if !self.is_stage() {
            check_path(root, texts, &self.path, by)?;
        }
        descend(root, texts, &self.path, self.value.clone())
    }
}

/// Returns a path with dots.
pub fn dotted(path: &[Part<'_>]) -> String {
    path.iter().map(|part| part.word.as_ref()).collect::<Vec<_>>().join(".")
}

/// Returns the settings that a table spells out: keys may be nested or written as one with dots, `"stages.irn.radius"`. `stop`
/// says which values are not looked into although they are tables; whole stages never are.
pub fn settings<'text>(
    table: &DeTable<'text>,
    above: &[Part<'text>],
    stop: &dyn Fn(&DeValue<'text>) -> bool,
) -> Vec<Setting<'text>> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let mut all = Vec::new();
    for (key, value) in entries {
        let mut path = above.to_vec();
        path.extend(parts_of(key));
        let setting = Setting { path, value: value.clone() };
        match value.get_ref() {
            DeValue::Table(table) if !setting.is_stage() && !stop(value.get_ref()) => {
                all.extend(settings(table, &setting.path, stop));
            }
            _ => all.push(setting),
        }
    }
    all
}

/// Lays a table over another: its values take the place of those below, tables in both join.
pub(super) fn merge<'text>(below: &mut DeTable<'text>, above: &DeTable<'text>) {
    for (key, value) in above {
        match (below.get_mut(key.get_ref().as_ref()).map(Spanned::get_mut), value.get_ref()) {
            (Some(DeValue::Table(below)), DeValue::Table(above)) => merge(below, above),
            _ => {
                // `insert` alone would keep the old key and with it the old place.
                below.remove(key.get_ref().as_ref());
                below.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Splits a key at its dots. A quoted key keeps the places of its parts where it is written without escapes.
pub fn parts_of<'text>(key: &Spanned<toml::de::DeString<'text>>) -> Vec<Part<'text>> {
    let (whole, place) = (key.get_ref(), key.span());
    let quote = (place.len() == whole.len() + 2).then_some(1).or((place.len() == whole.len()).then_some(0));
    let mut at = 0;
    whole
        .split('.')
        .map(|word| {
            let from = at;
            at += word.len() + 1;
            let place = match quote {
                Some(quote) => place.start + quote + from..place.start + quote + from + word.len(),
                None => place.clone(),
            };
            Part { word: Cow::Owned(word.trim().to_owned()), place }
        })
        .collect()
}

/// Puts every override in place, in order; returns what is wrong with them.
pub(super) fn apply<'text>(root: &mut DeTable<'text>, texts: &'text Texts) -> Vec<Diagnostic> {
    texts.overrides().filter_map(|(start, source)| put(root, texts, start, &source.text).err()).collect()
}

fn put<'text>(root: &mut DeTable<'text>, texts: &Texts, start: usize, text: &'text str) -> Result<(), Diagnostic> {
    read_set(root, texts, start, text)?.apply(root, texts, SET)
}

/// Reads a `--set` argument, which starts at `start`; `root` has the variables that it may speak of.
///
/// # Errors
/// If it has no value, or a part of its path is empty.
pub fn read_set<'text>(
    root: &DeTable<'text>,
    texts: &Texts,
    start: usize,
    text: &'text str,
) -> Result<Setting<'text>, Diagnostic> {
    let whole = start..start + text.len();
    let Some((path, value)) = text.split_once('=') else {
        let fault = Diagnostic::new("`--set` needs a path and a value").at(texts.span(whole), "there is no `=` here");
        return Err(fault.help("write `--set stages.NAME.PARAMETER=VALUE` or `--set vars.NAME=VALUE`"));
    };
    let parts = split(path, start);
    if let Some(empty) = parts.iter().find(|part| part.word.is_empty()) {
        let fault = Diagnostic::new("a part of this path is empty").at(texts.span(empty.place.clone()), "");
        return Err(fault.help("write `--set stages.NAME.PARAMETER=VALUE` or `--set vars.NAME=VALUE`"));
    }
    let value = read(value, start + path.len() + 1, &parts, root);
    Ok(Setting { path: parts, value })
}

/// Splits a path at its dots.
fn split(path: &str, start: usize) -> Vec<Part<'_>> {
    let mut at = start;
    path.split('.')
        .map(|raw| {
            let word = raw.trim();
            let from = at + (raw.len() - raw.trim_start().len());
            at += raw.len() + 1;
            Part { word: Cow::Borrowed(word), place: from..from + word.len() }
        })
        .collect()
}

/// Reads a value as TOML and, if it is none, as a plain string.
///
/// The new value of a variable that is a string in the file is taken as a string whatever it looks like, so that
/// `vars.run=2012` replaces `run = "a"`.
fn read<'text>(value: &'text str, start: usize, parts: &[Part<'_>], root: &DeTable<'_>) -> Spanned<DeValue<'text>> {
    let plain = || {
        let trimmed = value.trim();
        let from = start + (value.len() - value.trim_start().len());
        Spanned::new(from..from + trimmed.len(), DeValue::String(Cow::Borrowed(trimmed)))
    };
    let string_variable = parts[0].word == "vars"
        && parts.len() > 1
        && root
            .get("vars")
            .and_then(|vars| vars.get_ref().get(parts[1].word.as_ref()))
            .is_some_and(|old| old.get_ref().is_str());
    match DeValue::parse(value) {
        Ok(parsed) if string_variable && !parsed.get_ref().is_str() => plain(),
        Ok(parsed) => shift(parsed, start),
        Err(_) => plain(),
    }
}

/// Refuses paths that lead nowhere.
fn check_path(root: &DeTable<'_>, texts: &Texts, parts: &[Part<'_>], by: &str) -> Result<(), Diagnostic> {
    let first = &parts[0];
    let table = |name: &str| root.get(name).and_then(|value| value.get_ref().as_table());
    let names = |name: &str| -> Vec<String> {
        table(name).map(|table| table.keys().map(|key| key.get_ref().to_string()).collect()).unwrap_or_default()
    };
    match first.word.as_ref() {
        "stages" | "vars" if parts.len() > 1 => {
            let known = names(&first.word);
            let second = &parts[1];
            let what = if first.word == "stages" { "stage" } else { "variable" };
            if !known.iter().any(|name| *name == second.word) {
                let mut fault = Diagnostic::new(format!("unknown {what} `{}` in {by}", second.word))
                    .at(texts.span(second.place.clone()), format!("the file has no {what} of this name"));
                if let Some(name) = nearest(&second.word, known.iter().map(String::as_str)) {
                    fault = fault.help(format!("did you mean `{name}`?"));
                } else if !known.is_empty() {
                    fault = fault.help(format!("the {what}s of this file: {}", list(known.iter().map(String::as_str))));
                }
                return Err(fault);
            }
            if what == "stage" && parts.len() == 2 {
                let fault = Diagnostic::new(format!("{by} sets one value, and `stages.{}` is a table", second.word))
                    .at(texts.span(second.place.clone()), "")
                    .help(format!("write `stages.{}.PARAMETER=VALUE`", second.word));
                return Err(fault);
            }
            Ok(())
        }
        "pipeline" if parts.len() > 1 => Ok(()),
        word @ ("pipeline" | "stages" | "vars") => {
            let path = match word {
                "pipeline" => "pipeline.seed=NUMBER",
                "stages" => "stages.NAME.PARAMETER=VALUE",
                _ => "vars.NAME=VALUE",
            };
            Err(Diagnostic::new(format!("{by} sets one value, and `{word}` is a table"))
                .at(texts.span(first.place.clone()), "")
                .help(format!("write `{path}`")))
        }
        word => {
            let mut fault = Diagnostic::new(format!("{by} cannot find `{word}`"))
                .at(texts.span(first.place.clone()), "paths start with `stages.`, `vars.` or `pipeline.`");
            if let Some(name) = names("stages").iter().find(|name| *name == word) {
                let path = if parts.len() > 1 { dotted(parts) } else { format!("{name}.PARAMETER") };
                fault = fault.help(format!("did you mean `stages.{path}`?"));
            } else if let Some(name) = nearest(word, ["stages", "vars", "pipeline"]) {
                fault = fault.help(format!("did you mean `{name}`?"));
            }
            Err(fault)
        }
    }
}

/// Follows the path and puts the value at its end; tables on the way are made where they are missing.
fn descend<'text>(
    table: &mut DeTable<'text>,
    texts: &Texts,
    parts: &[Part<'text>],
    value: Spanned<DeValue<'text>>,
) -> Result<(), Diagnostic> {
    let (first, rest) = parts.split_first().expect("a path has a part");
    if rest.is_empty() {
        // `insert` alone would keep the old key and with it the old place.
        table.remove(first.word.as_ref());
        table.insert(Spanned::new(first.place.clone(), first.word.clone()), value);
        return Ok(());
    }
    let missing = || Spanned::new(first.place.clone(), DeValue::Table(DeTable::new()));
    let next = table.entry(Spanned::new(first.place.clone(), first.word.clone())).or_insert_with(missing);
    into(next, texts, first, rest, value)
}

/// Goes on inside a value: a table by its key, an array by its index from 0.
fn into<'text>(
    holder: &mut Spanned<DeValue<'text>>,
    texts: &Texts,
    name: &Part<'text>,
    rest: &[Part<'text>],
    value: Spanned<DeValue<'text>>,
) -> Result<(), Diagnostic> {
    match holder.get_mut() {
        DeValue::Table(table) => descend(table, texts, rest, value),
        DeValue::Array(array) => {
            let (first, rest) = rest.split_first().expect("a path that goes on has a part");
            let count = array.len();
            let index: Option<usize> = first.word.parse().ok();
            match index.and_then(|index| array.get_mut(index)) {
                Some(element) if rest.is_empty() => {
                    *element = value;
                    Ok(())
                }
                Some(element) => into(element, texts, first, rest, value),
                None => Err(Diagnostic::new(format!("`{}` is not an element of `{}`", first.word, name.word))
                    .at(texts.span(first.place.clone()), "")
                    .help(format!("`{}` has {count} elements, counted from 0", name.word))),
            }
        }
        other => Err(Diagnostic::new(format!("`{}` is {} and has no parts", name.word, article(other)))
            .at(texts.span(rest[0].place.clone()), format!("there is no `{}` in it", rest[0].word))),
    }
}

/// Moves every place in a table by `by` bytes.
pub(super) fn shift_table(table: DeTable<'_>, by: usize) -> DeTable<'_> {
    match shift(Spanned::new(0..0, DeValue::Table(table)), by).into_inner() {
        DeValue::Table(table) => table,
        _ => unreachable!("a table stays one"),
    }
}

/// Moves every place in a value by `by` bytes.
fn shift(value: Spanned<DeValue<'_>>, by: usize) -> Spanned<DeValue<'_>> {
    let moved = |range: Range<usize>| range.start + by..range.end + by;
    let place = moved(value.span());
    let value = match value.into_inner() {
        DeValue::Array(array) => DeValue::Array(array.into_iter().map(|element| shift(element, by)).collect()),
        DeValue::Table(table) => DeValue::Table(
            table
                .into_iter()
                .map(|(key, value)| (Spanned::new(moved(key.span()), key.into_inner()), shift(value, by)))
                .collect(),
        ),
        scalar => scalar,
    };
    Spanned::new(place, value)
}

/// Returns names in backticks, with commas between.
pub fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
