//! `like = "STAGE"`: a stage takes kind, parameters and inputs of another one where it has none of its own. Knows no kinds.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::overrides::{list, merge};
use super::texts::Texts;
use crate::diag::{Diagnostic, nearest};

/// So many stages may be like one another in a row.
const DEEPEST: usize = 100;

/// The stages as they are after everybody has taken what they take.
struct Inheritance<'a, 'text> {
    texts: &'a Texts,
    stages: &'a DeTable<'text>,
    done: BTreeMap<String, Spanned<DeValue<'text>>>,
    /// The stages that are being looked at, outermost first.
    open: Vec<String>,
    faults: Vec<Diagnostic>,
}

/// Fills in every stage that is like another one; returns what is wrong.
pub(super) fn fill<'text>(stages: &mut DeTable<'text>, texts: &Texts) -> Vec<Diagnostic> {
    let uses = |value: &Spanned<DeValue<'text>>| value.get_ref().get("like").is_some();
    if !stages.values().any(uses) {
        return Vec::new();
    }
    let mut all = Inheritance { texts, stages, done: BTreeMap::new(), open: Vec::new(), faults: Vec::new() };
    let names: Vec<String> = stages.keys().map(|name| name.get_ref().to_string()).collect();
    for name in names {
        all.stage(&name);
    }
    let Inheritance { mut done, faults, .. } = all;
    for (name, value) in stages.iter_mut() {
        if let Some(filled) = done.remove(name.get_ref().as_ref()) {
            *value = filled;
        }
    }
    faults
}

impl<'text> Inheritance<'_, 'text> {
    /// Works a stage out; afterwards it is in `done`.
    fn stage(&mut self, name: &str) {
        let Some(own) = self.stages.get(name).filter(|_| !self.done.contains_key(name)) else { return };
        let mut own = own.clone();
        let place = own.span();
        if let DeValue::Table(table) = own.get_mut()
            && let Some(like) = table.remove("like")
        {
            let filled = self.filled(name, table, &like);
            *table = filled;
        }
        self.done.insert(name.to_owned(), Spanned::new(place, own.into_inner()));
    }

    /// Returns the kind that a stage has or takes over, however far away.
    fn kind_above(&self, name: &str) -> Option<(Spanned<DeString<'text>>, Spanned<DeValue<'text>>)> {
        let mut name = name;
        // They may be like one another in a circle.
        for _ in 0..self.stages.len() {
            let table = self.stages.get(name)?.get_ref().as_table()?;
            if let Some((key, kind)) = table.get_key_value("kind") {
                return Some((key.clone(), kind.clone()));
            }
            name = table.get("like")?.get_ref().as_str()?;
        }
        None
    }

    fn filled(&mut self, name: &str, own: &DeTable<'text>, like: &Spanned<DeValue<'text>>) -> DeTable<'text> {
        let span = self.texts.span(like.span());
        let Some(other) = like.get_ref().as_str() else {
            let fault = Diagnostic::new(format!("`like` of stage `{name}` must be the name of a stage")).at(span, "");
            self.faults.push(fault);
            return own.clone();
        };
        if other == name || self.open.iter().any(|open| open == other) {
            let mut path: Vec<&str> = self.open.iter().map(String::as_str).collect();
            path.extend([name, other]);
            let title = format!("stage `{name}` cannot be like itself: `{}`", path.join(" -> "));
            self.faults.push(Diagnostic::new(title).at(span, ""));
            return own.clone();
        }
        if self.open.len() >= DEEPEST {
            let title = format!("more than {DEEPEST} stages are like one another in a row");
            self.faults.push(Diagnostic::new(title).at(span, "the last of them"));
            let mut filled = own.clone();
            // Lest it be blamed for having none.
            if let (false, Some((key, kind))) = (filled.contains_key("kind"), self.kind_above(other)) {
                filled.insert(key, kind);
            }
            return filled;
        }
        if !self.stages.contains_key(other) {
            let fault = Diagnostic::new(format!("unknown stage `{other}`")).at(span, format!("`{name}` is like it"));
            let known = || self.stages.keys().map(|key| key.get_ref().as_ref()).filter(|known| *known != name);
            self.faults.push(match nearest(other, known()) {
                Some(near) => fault.help(format!("did you mean `{near}`?")),
                None => fault.help(format!("the other stages are {}", list(known()))),
            });
            return own.clone();
        }
        self.open.push(name.to_owned());
        self.stage(other);
        self.open.pop();
        let mut filled = match self.done.get(other).map(|value| value.get_ref()) {
            Some(DeValue::Table(table)) => table.clone(),
            _ => DeTable::new(),
        };
        let kinds =
            |table: &DeTable<'text>| table.get("kind").and_then(|kind| kind.get_ref().as_str().map(str::to_owned));
        if let (Some(mine), Some(theirs)) = (kinds(own), kinds(&filled))
            && mine != theirs
        {
            let title = format!("stage `{name}` is like `{other}` and yet of another kind");
            let fault = Diagnostic::new(title).at(self.texts.span(own["kind"].span()), "");
            self.faults.push(fault.context(span, format!("`{other}` is of kind `{theirs}`")));
        }
        merge(&mut filled, own);
        filled
    }
}
