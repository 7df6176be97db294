//! What `[sweep]` says: axes of values, seeds, conditions and targets, each with its place. Combines nothing.

use toml::Spanned;
use toml::de::DeValue;

use crate::diag::{Diagnostic, Span, nearest};
use crate::pipeline::Texts;
use crate::pipeline::overrides::{Part, Setting, settings};

/// The words that `[sweep]` knows.
const WORDS: [&str; 7] = ["exclude", "grid", "list", "seeds", "targets", "variants", "zip"];

/// A `[sweep]` as its author wrote it.
#[derive(Debug, Default)]
pub struct Declared<'text> {
    /// What varies; every combination of one choice of each is a point.
    pub axes: Vec<Axis<'text>>,
    /// The seeds, each as it is written.
    pub seeds: Vec<(u64, Spanned<DeValue<'text>>)>,
    /// Where the seeds stand.
    pub seeds_at: Option<Span>,
    /// Combinations that are left out: those for which all of one condition's values hold.
    pub exclude: Vec<Condition>,
    /// The stages that a point is run for; all if there are none.
    pub targets: Vec<(String, Span)>,
}

/// What a sweep varies, all of it at once.
#[derive(Debug)]
pub struct Axis<'text> {
    /// Whether its choices have names.
    pub named: bool,
    /// What it can be.
    pub choices: Vec<Choice<'text>>,
}

/// One way in which an axis can be.
#[derive(Debug)]
pub struct Choice<'text> {
    /// Its name, for a variant.
    pub name: Option<String>,
    /// Where it stands.
    pub span: Span,
    /// What it sets.
    pub settings: Vec<Setting<'text>>,
}

/// A combination that is left out.
#[derive(Debug)]
pub struct Condition {
    /// Dotted path, `variant` or `seed`, and the value as text.
    pub values: Vec<(String, String)>,
    /// Where each path stands.
    pub spans: Vec<Span>,
}

impl<'text> Declared<'text> {
    /// Reads a `[sweep]`; what is wrong with it joins `faults`.
    pub fn read(table: Option<Spanned<DeValue<'text>>>, texts: &Texts, faults: &mut Vec<Diagnostic>) -> Self {
        let mut declared = Self::default();
        let Some(table) = table else { return declared };
        let place = texts.span(table.span());
        let DeValue::Table(table) = table.into_inner() else {
            faults.push(Diagnostic::new("`sweep` must be a table").at(place, "write `[sweep]`"));
            return declared;
        };
        let mut entries: Vec<_> = table.into_iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            match key.get_ref().as_ref() {
                "variants" => declared.variants(value, texts, faults),
                "grid" => declared.grid(&value, texts, faults),
                "zip" => declared.zip(&value, texts, faults),
                "list" => declared.list(&value, texts, faults),
                "seeds" => declared.read_seeds(&value, texts, faults),
                "exclude" => declared.excluded(&value, texts, faults),
                "targets" => declared.read_targets(&value, texts, faults),
                word => {
                    let fault = Diagnostic::new(format!("unknown key `{word}` in `[sweep]`"));
                    let fault = fault.at(texts.span(key.span()), "");
                    faults.push(match nearest(word, WORDS) {
                        Some(near) => fault.help(format!("did you mean `{near}`?")),
                        None => fault.help(
                            "it knows `grid`, `zip`, `list`, `variants`, `seeds`, `exclude` and `targets`".to_owned(),
                        ),
                    });
                }
            }
        }
        declared
    }

    /// Returns everything that any choice sets.
    pub fn settings(&self) -> impl Iterator<Item = &Setting<'text>> {
        self.axes.iter().flat_map(|axis| &axis.choices).flat_map(|choice| &choice.settings)
    }

    fn variants(&mut self, value: Spanned<DeValue<'text>>, texts: &Texts, faults: &mut Vec<Diagnostic>) {
        let place = texts.span(value.span());
        let DeValue::Table(variants) = value.into_inner() else {
            let fault = Diagnostic::new("`variants` must be a table of tables").at(place, "");
            faults.push(fault.help("write `[sweep.variants.NAME]` and below it what differs"));
            return;
        };
        let mut entries: Vec<_> = variants.into_iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let mut choices = Vec::new();
        for (key, value) in entries {
            let name = key.get_ref().to_string();
            let span = texts.span(key.span());
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+');
            if name.is_empty() || !name.chars().all(plain) {
                let fault = Diagnostic::new(format!("`{name}` cannot be the name of a variant")).at(span.clone(), "");
                faults.push(fault.help("use letters without accents, digits, `_`, `-`, `+` and `.`"));
            }
            let Some(table) = value.get_ref().as_table() else {
                let fault = Diagnostic::new(format!("variant `{name}` must be a table")).at(span, "");
                faults.push(fault.help(format!("write `[sweep.variants.{name}]` and below it what differs")));
                continue;
            };
            choices.push(Choice { name: Some(name), span, settings: settings(table, &[], &|_| false) });
        }
        if !choices.is_empty() {
            self.axes.push(Axis { named: true, choices });
        }
    }

    fn grid(&mut self, value: &Spanned<DeValue<'text>>, texts: &Texts, faults: &mut Vec<Diagnostic>) {
        for (path, values) in lists(value, "grid", texts, faults) {
            let choices = values.into_iter().map(|value| choice(vec![(path.clone(), value)], texts)).collect();
            self.axes.push(Axis { named: false, choices });
        }
    }

    fn zip(&mut self, value: &Spanned<DeValue<'text>>, texts: &Texts, faults: &mut Vec<Diagnostic>) {
        let lists = lists(value, "zip", texts, faults);
        let Some((first, values)) = lists.first() else { return };
        for (path, others) in &lists[1..] {
            if others.len() != values.len() {
                let place = |path: &[Part<'_>]| texts.span(path[path.len() - 1].place.clone());
                let fault = Diagnostic::new("lists that are zipped must have the same length");
                let fault = fault.at(place(path), format!("{} values", others.len()));
                faults.push(fault.context(place(first), format!("{} values", values.len())));
                return;
            }
        }
        let choices = (0..values.len())
            .map(|at| choice(lists.iter().map(|(path, values)| (path.clone(), values[at].clone())).collect(), texts));
        self.axes.push(Axis { named: false, choices: choices.collect() });
    }

    fn list(&mut self, value: &Spanned<DeValue<'text>>, texts: &Texts, faults: &mut Vec<Diagnostic>) {
        let rows = value.get_ref().as_array().map(|rows| rows.iter().collect::<Vec<_>>());
        let Some(rows) = rows.filter(|rows| !rows.is_empty() && rows.iter().all(|row| row.get_ref().is_table())) else {
            let fault = Diagnostic::new("`list` must be a list of tables").at(texts.span(value.span()), "");
            faults.push(fault.help("write `[[sweep.list]]` and below it the values of one combination"));
            return;
        };
        let choices = rows.into_iter().map(|row| {
            let table = row.get_ref().as_table().expect("every row is a table");
            Choice { name: None, span: texts.span(row.span()), settings: settings(table, &[], &|_| false) }
        });
        self.axes.push(Axis { named: false, choices: choices.collect() });
    }

    fn read_seeds(&mut self, value: &Spanned<DeValue<'text>>, texts: &Texts, faults: &mut Vec<Diagnostic>) {
        let place = texts.span(value.span());
        self.seeds_at = Some(place.clone());
        let whole = |value: &Spanned<DeValue<'text>>| {
            let number = value.get_ref().as_integer()?;
            Some((u64::from_str_radix(number.as_str(), number.radix()).ok()?, value.clone()))
        };
        let seeds = value.get_ref().as_array().and_then(|list| list.iter().map(whole).collect::<Option<Vec<_>>>());
        match seeds {
            Some(seeds) if !seeds.is_empty() => self.seeds = seeds,
            _ => faults.push(
                Diagnostic::new("`seeds` must be a list of whole numbers from 0")
                    .at(place, "")
                    .help("write `seeds = [0, 1, 2]`"),
            ),
        }
    }

    fn excluded(&mut self, value: &Spanned<DeValue<'text>>, texts: &Texts, faults: &mut Vec<Diagnostic>) {
        let rows = value.get_ref().as_array().map(|rows| rows.iter().collect::<Vec<_>>()).unwrap_or_default();
        if rows.is_empty() || !rows.iter().all(|row| row.get_ref().is_table()) {
            let fault = Diagnostic::new("`exclude` must be a list of tables").at(texts.span(value.span()), "");
            faults.push(fault.help("write `exclude = [{ \"stages.NAME.PARAMETER\" = VALUE, seed = 0 }]`"));
            return;
        }
        for table in rows.into_iter().filter_map(|row| row.get_ref().as_table()) {
            let found = settings(table, &[], &|_| false);
            let spans = found.iter().map(|one| texts.span(one.path[one.path.len() - 1].place.clone()));
            self.exclude.push(Condition {
                spans: spans.collect(),
                values: found.iter().map(|one| (one.dotted(), text(one.value.get_ref()))).collect(),
            });
        }
    }

    fn read_targets(&mut self, value: &Spanned<DeValue<'text>>, texts: &Texts, faults: &mut Vec<Diagnostic>) {
        let name =
            |value: &Spanned<DeValue<'_>>| Some((value.get_ref().as_str()?.to_owned(), texts.span(value.span())));
        let names = value.get_ref().as_array().and_then(|list| list.iter().map(name).collect::<Option<Vec<_>>>());
        match names {
            Some(names) => self.targets = names,
            None => faults
                .push(Diagnostic::new("`targets` must be a list of names of stages").at(texts.span(value.span()), "")),
        }
    }
}

type List<'text> = (Vec<Part<'text>>, Vec<Spanned<DeValue<'text>>>);

/// Returns the lists of values of `grid` or `zip`, each with its path.
fn lists<'text>(
    value: &Spanned<DeValue<'text>>,
    what: &str,
    texts: &Texts,
    faults: &mut Vec<Diagnostic>,
) -> Vec<List<'text>> {
    let Some(table) = value.get_ref().as_table() else {
        let fault = Diagnostic::new(format!("`{what}` must be a table")).at(texts.span(value.span()), "");
        faults.push(fault.help(format!("write `[sweep.{what}]` and `\"stages.NAME.PARAMETER\" = [VALUE, VALUE]`")));
        return Vec::new();
    };
    let mut found = Vec::new();
    for setting in settings(table, &[], &DeValue::is_array) {
        match setting.value.get_ref() {
            DeValue::Array(list) if list.iter().next().is_some() => {
                found.push((setting.path.clone(), list.iter().cloned().collect()));
            }
            _ => {
                let fault = Diagnostic::new(format!("`{}` in `{what}` needs a list of values", setting.dotted()));
                let fault = fault.at(texts.span(setting.value.span()), "");
                faults.push(fault.help("write `[VALUE, VALUE]`; a value that is a list itself is one of its elements"));
            }
        }
    }
    found
}

fn choice<'text>(values: Vec<(Vec<Part<'text>>, Spanned<DeValue<'text>>)>, texts: &Texts) -> Choice<'text> {
    let span = texts.span(values.first().map_or(0..0, |(_, value)| value.span()));
    let settings = values.into_iter().map(|(path, value)| Setting { path, value }).collect();
    Choice { name: None, span, settings }
}

/// Returns a value as TOML in as few letters as it takes; a string without its quotes.
pub fn text(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(list) => {
            format!("[{}]", list.iter().map(|value| text(value.get_ref())).collect::<Vec<_>>().join(","))
        }
        DeValue::Table(table) => {
            let field = |(key, value): (&Spanned<toml::de::DeString<'_>>, &Spanned<DeValue<'_>>)| {
                format!("{}={}", key.get_ref(), text(value.get_ref()))
            };
            format!("{{{}}}", table.iter().map(field).collect::<Vec<_>>().join(","))
        }
    }
}
