//! From text to declared stages, or to everything that is wrong with the text. Knows no kinds.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::like;
use super::overrides::{self, list};
use super::resources;
use super::texts::Texts;
use super::variables::{Variables, article};
use super::{Pipeline, StageDecl, Word};
use crate::diag::{Diagnostic, nearest};

/// The tables that a pipeline file may have; `sweep` is looked at by the room of that name alone.
const TABLES: [&str; 4] = ["pipeline", "stages", "sweep", "vars"];

type Entry<'text> = (Spanned<toml::de::DeString<'text>>, Spanned<DeValue<'text>>);

/// Reads a pipeline.
///
/// # Errors
/// If the file is not TOML: every syntax error. Everything else that is wrong stands in [`Pipeline::faults`], so that it can be
/// reported together with what is found later.
pub fn parse(texts: &Texts) -> Result<Pipeline<'_>, Vec<Diagnostic>> {
    let mut root = tables(texts)?.remove(0);
    let faults = overrides::apply(&mut root, texts);
    Ok(assemble(root, faults, texts))
}

/// Returns each file as a table whose places count over all texts.
///
/// # Errors
/// If one is not TOML: every syntax error of all files.
pub fn tables(texts: &Texts) -> Result<Vec<DeTable<'_>>, Vec<Diagnostic>> {
    let mut tables = Vec::new();
    let mut faults = Vec::new();
    for (start, source) in texts.files() {
        let (root, errors) = DeTable::parse_recoverable(&source.text);
        let root = root.into_inner();
        if errors.is_empty() {
            tables.push(overrides::shift_table(root, start));
        } else {
            // Places of a file that was not read count over it alone.
            faults.extend(syntax(&errors, &root, &Texts::new(&source.name, &source.text, &[])));
        }
    }
    if faults.is_empty() { Ok(tables) } else { Err(faults) }
}

/// Makes a pipeline of a file's table. `faults` are those that are known already.
pub fn assemble<'text>(root: DeTable<'text>, mut faults: Vec<Diagnostic>, texts: &'text Texts) -> Pipeline<'text> {
    let mut pipeline = None;
    let mut vars = DeTable::new();
    let mut stages = DeTable::new();
    for (key, value) in in_order(root) {
        let name = key.get_ref().as_ref();
        if name == "sweep" && value.get_ref().is_table() {
            continue;
        }
        if !TABLES.contains(&name) {
            faults.push(unknown_table(&key, texts));
            continue;
        }
        let place = value.span();
        match (name, value.into_inner()) {
            ("pipeline", DeValue::Table(table)) => pipeline = Some(table),
            ("vars", DeValue::Table(table)) => vars = table,
            ("stages", DeValue::Table(table)) => stages = table,
            (name, other) => {
                let title = format!("`{name}` must be a table, not {}", article(&other));
                faults.push(Diagnostic::new(title).at(texts.span(place), ""));
            }
        }
    }
    let (name, seed) = header(pipeline.unwrap_or_default(), texts, &mut faults);
    faults.extend(like::fill(&mut stages, texts));
    let mut variables = Variables::new(vars, texts);
    let stages = in_order(stages)
        .into_iter()
        .map(|(key, value)| stage(key, value, texts, &mut variables, &mut faults))
        .collect();
    faults.append(&mut variables.faults);
    Pipeline { name, seed, stages, faults, texts }
}

/// Returns the entries of a table in order of their places, so that the file's order is kept and overrides come last.
fn in_order(table: DeTable<'_>) -> Vec<Entry<'_>> {
    let mut entries: Vec<Entry<'_>> = table.into_iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// Returns the pipeline's name, by default the file's, and its seed, by default 0.
fn header(table: DeTable<'_>, texts: &Texts, faults: &mut Vec<Diagnostic>) -> (String, u64) {
    let stem = Path::new(&texts.file().name).file_stem().and_then(|stem| stem.to_str());
    let (mut name, mut seed) = (stem.unwrap_or("pipeline").to_owned(), 0);
    for (key, value) in in_order(table) {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("name", DeValue::String(text)) if !text.is_empty() => name = text.to_string(),
            ("name", _) => faults.push(
                Diagnostic::new("the pipeline's `name` must be a string that is not empty")
                    .at(texts.span(value.span()), ""),
            ),
            ("seed", other) => match other.as_integer().map(|n| u64::from_str_radix(n.as_str(), n.radix())) {
                Some(Ok(number)) => seed = number,
                _ => faults.push(
                    Diagnostic::new("the pipeline's `seed` must be a whole number from 0")
                        .at(texts.span(value.span()), format!("this is {}", described(other))),
                ),
            },
            (word, _) => {
                let mut fault = Diagnostic::new(format!("unknown key `{word}` in `[pipeline]`"))
                    .at(texts.span(key.span()), "it knows `name` and `seed`");
                if let Some(name) = nearest(word, ["name", "seed"]) {
                    fault = fault.help(format!("did you mean `{name}`?"));
                }
                faults.push(fault);
            }
        }
    }
    (name, seed)
}

fn stage<'text>(
    key: Spanned<toml::de::DeString<'text>>,
    mut value: Spanned<DeValue<'text>>,
    texts: &'text Texts,
    variables: &mut Variables<'text>,
    faults: &mut Vec<Diagnostic>,
) -> StageDecl<'text> {
    let name = word(key, texts);
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.text.is_empty() || !name.text.chars().all(plain) {
        let fault = Diagnostic::new(format!("`{}` cannot be the name of a stage", name.text)).at(name.span.clone(), "");
        faults.push(fault.help("use letters without accents, digits, `_` and `-`"));
    }
    let place = value.span();
    if !value.get_ref().is_table() {
        let fault = Diagnostic::new(format!("stage `{}` must be a table", name.text))
            .at(texts.span(place.clone()), format!("this is {}", article(value.get_ref())));
        faults.push(fault.help(format!("write `[stages.{}]` and its parameters below", name.text)));
        let params = Spanned::new(place, DeTable::new());
        let resources = resources::Declared::default();
        return StageDecl { name, kind: None, inputs: Vec::new(), resources, params, faulty: true };
    }
    let faulty = !variables.fill(&mut value);
    let DeValue::Table(mut table) = value.into_inner() else { unreachable!("it was a table before it was filled") };
    let kind = kind(&mut table, &name, texts, faults);
    let inputs = inputs(&mut table, &name, texts, faults);
    let resources = resources::take(&mut table, &name, texts, faults);
    StageDecl { name, kind, inputs, resources, params: Spanned::new(place, table), faulty }
}

fn kind(table: &mut DeTable<'_>, stage: &Word, texts: &Texts, faults: &mut Vec<Diagnostic>) -> Option<Word> {
    let Some(value) = table.remove("kind") else {
        let mut fault = Diagnostic::new(format!("stage `{}` has no `kind`", stage.text))
            .at(stage.span.clone(), "its kind says what it does");
        fault = match nearest("kind", table.keys().map(|key| key.get_ref().as_ref())) {
            Some(near) => fault.help(format!("did you mean `kind` by `{near}`?")),
            None => fault.help("write `kind = \"...\"`; `orandflow stages` lists every kind"),
        };
        faults.push(fault);
        return None;
    };
    let span = texts.span(value.span());
    match value.into_inner() {
        DeValue::String(text) => Some(Word { text: text.into_owned(), span }),
        other => {
            let title = format!("the `kind` of stage `{}` must be a string", stage.text);
            faults.push(Diagnostic::new(title).at(span, format!("this is {}", described(&other))));
            None
        }
    }
}

fn inputs(table: &mut DeTable<'_>, stage: &Word, texts: &Texts, faults: &mut Vec<Diagnostic>) -> Vec<(Word, Word)> {
    let Some(value) = table.remove("inputs") else { return Vec::new() };
    let span = texts.span(value.span());
    let DeValue::Table(ports) = value.into_inner() else {
        let fault = Diagnostic::new(format!("the `inputs` of stage `{}` must be a table", stage.text)).at(span, "");
        faults.push(fault.help("write `inputs = { PORT = \"STAGE\" }`"));
        return Vec::new();
    };
    let mut inputs = Vec::new();
    for (key, value) in in_order(ports) {
        let port = word(key, texts);
        let span = texts.span(value.span());
        match value.into_inner() {
            DeValue::String(text) => inputs.push((port, Word { text: text.into_owned(), span })),
            other => {
                let title = format!("the input `{}` of stage `{}` must be the name of a stage", port.text, stage.text);
                faults.push(Diagnostic::new(title).at(span, format!("this is {}", described(&other))));
            }
        }
    }
    inputs
}

fn word(key: Spanned<toml::de::DeString<'_>>, texts: &Texts) -> Word {
    Word { span: texts.span(key.span()), text: key.into_inner().into_owned() }
}

fn described(value: &DeValue<'_>) -> String {
    match value {
        DeValue::Integer(number) => format!("`{number}`"),
        DeValue::Float(number) => format!("`{number}`"),
        other => article(other).to_owned(),
    }
}

fn unknown_table(key: &Spanned<toml::de::DeString<'_>>, texts: &Texts) -> Diagnostic {
    let name = key.get_ref();
    if name == "base" {
        let fault = Diagnostic::new("this is the file of a sweep, not of a pipeline").at(texts.span(key.span()), "");
        return fault.help(format!("run it with `orandflow sweep {}`", texts.file().name));
    }
    let fault = Diagnostic::new(format!("unknown table `{name}`")).at(texts.span(key.span()), "");
    match nearest(name, TABLES) {
        Some(near) => fault.help(format!("did you mean `{near}`?")),
        None => fault.help(format!("this version reads the tables {}", list(["pipeline", "vars", "stages", "sweep"]))),
    }
}

/// Turns the parser's errors into diagnostics.
fn syntax(errors: &[toml::de::Error], root: &DeTable<'_>, texts: &Texts) -> Vec<Diagnostic> {
    let text = &texts.file().text;
    let mut faults = Vec::new();
    // Where the body of a table that stands twice ends: its keys are no further news.
    let mut repeated_until = 0;
    let mut errors: Vec<&toml::de::Error> = errors.iter().collect();
    errors.sort_by_key(|error| error.span().map_or(0, |place| place.start));
    for error in errors {
        let message = error.message().trim();
        let Some(place) = error.span() else {
            faults.push(Diagnostic::new(format!("this is not TOML: {message}")));
            continue;
        };
        if message == "duplicate key" {
            if place.start < repeated_until {
                continue;
            }
            let line_start = text[..place.start].rfind('\n').map_or(0, |newline| newline + 1);
            let is_header = text[line_start..].trim_start().starts_with('[');
            if is_header {
                repeated_until = text[place.start..].find("\n[").map_or(text.len(), |next| place.start + next);
            }
            faults.push(duplicate(place, is_header, root, texts));
            continue;
        }
        let (what, expected) = message.split_once(", expected ").unwrap_or((message, "nothing"));
        let label = match expected {
            "nothing" | "literal string" => String::new(),
            expected => format!("expected {expected}"),
        };
        faults.push(Diagnostic::new(format!("this is not TOML: {what}")).at(texts.span(place), label));
    }
    faults
}

/// Says that a key or a table stands twice, and where it stood first.
fn duplicate(place: Range<usize>, is_header: bool, root: &DeTable<'_>, texts: &Texts) -> Diagnostic {
    let text = &texts.file().text;
    let word = text[place.clone()].trim_matches(['"', '\'']);
    let (title, first) = if is_header {
        // The parser keeps the later of two headers, so the first is looked for in the text.
        let line_start = text[..place.start].rfind('\n').map_or(0, |newline| newline + 1);
        let header = text[line_start..].split_inclusive(']').next().unwrap_or_default().trim();
        let what = if header.starts_with("[stages.") { "stage" } else { "table" };
        let first = text[..line_start].find(header).map(|at| {
            let start = at + header.rfind(word).unwrap_or(0);
            start..start + word.len()
        });
        (format!("{what} `{word}` stands twice"), first)
    } else {
        let mut places = Vec::new();
        places_of(word, root, &mut places);
        let before = places.into_iter().filter(|other| other.start < place.start);
        (format!("`{word}` stands twice in one table"), before.max_by_key(|place| place.start))
    };
    let fault = Diagnostic::new(title).at(texts.span(place), "here again");
    match first {
        Some(first) => fault.context(texts.span(first), "first here"),
        None => fault,
    }
}

/// Collects the places of a key at any depth.
fn places_of(word: &str, table: &DeTable<'_>, places: &mut Vec<Range<usize>>) {
    for (key, value) in table {
        if key.get_ref() == word {
            places.push(key.span());
        }
        if let Some(table) = value.get_ref().as_table() {
            places_of(word, table, places);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, overrides: &[&str]) -> Texts {
        Texts::new("a.toml", text, &overrides.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn stages_and_ports_keep_the_order_of_the_file() {
        let texts = read("[stages.b]\nkind = 'x'\ninputs = { z = 'c', a = 'a' }\n[stages.a]\nkind = 'y'\n", &[]);
        let pipeline = parse(&texts).expect("it is TOML");
        assert!(pipeline.faults.is_empty());
        assert_eq!((pipeline.name.as_str(), pipeline.seed), ("a", 0));
        let names: Vec<_> = pipeline.stages.iter().map(|stage| stage.name.text.as_str()).collect();
        assert_eq!(names, ["b", "a"]);
        let ports: Vec<_> = pipeline.stages[0].inputs.iter().map(|(port, _)| port.text.as_str()).collect();
        assert_eq!(ports, ["z", "a"]);
    }

    #[test]
    fn variables_fill_strings_and_keep_their_type_alone() {
        let texts = read(
            "[vars]\nroot = '/data'\nvoc = '${root}/voc'\nlr = 0.1\n[stages.a]\nkind = 'x'\npath = '${voc}/${lr}'\n\
             rate = '${lr}'\nplain = '$${lr}'\nlist = [{ deep = '${voc}' }]\n",
            &["vars.root=2012"],
        );
        let pipeline = parse(&texts).expect("it is TOML");
        assert!(pipeline.faults.is_empty(), "{:?}", pipeline.faults);
        let params = pipeline.stages[0].params.get_ref();
        assert_eq!(params["path"].get_ref().as_str(), Some("2012/voc/0.1"));
        assert!(params["rate"].get_ref().is_float());
        assert_eq!(params["plain"].get_ref().as_str(), Some("${lr}"));
        assert_eq!(params["list"].get_ref()[0].get_ref()["deep"].get_ref().as_str(), Some("2012/voc"));
    }

    #[test]
    fn overrides_reach_into_lists_and_point_at_their_own_text() {
        let texts = read(
            "[stages.a]\nkind = 'x'\nsteps = [{ factor = 8 }, { factor = 4 }]\nlr = 1\n",
            &["stages.a.steps.1.factor=3", "stages.a.lr = 0.5", "stages.a.new.deep=[1, two]", "stages.a.inputs.p=b"],
        );
        let pipeline = parse(&texts).expect("it is TOML");
        assert!(pipeline.faults.is_empty(), "{:?}", pipeline.faults);
        let stage = &pipeline.stages[0];
        let params = stage.params.get_ref();
        assert_eq!(
            params["steps"].get_ref()[1].get_ref()["factor"].get_ref().as_integer().map(|n| n.as_str()),
            Some("3")
        );
        assert_eq!(params["new"].get_ref()["deep"].get_ref().as_str(), Some("[1, two]"));
        let span = texts.span(params["lr"].span());
        assert_eq!((&span.source.text[span.range.clone()], span.source.name.as_str()), ("0.5", "--set"));
        let (key, _) = params.get_key_value("lr").expect("it is set");
        assert_eq!(texts.span(key.span()).source.text, "stages.a.lr = 0.5");
        assert_eq!(stage.inputs[0].1.text, "b");
    }
}
