//! `orandflow stages`: the catalogue, printed from the same types that parse a pipeline file. docs/stages.md is its Markdown.

use std::process::ExitCode;

use serde_json::Value;

use super::Failure;
use super::common::deliver;
use crate::diag::nearest;
use crate::pipeline::resources;
use crate::plan::shape;
use crate::stage::{Devices, Port, Spec, StageKind, Work};
use crate::stages;

/// Arguments of `stages`.
#[derive(Debug, clap::Args)]
pub(crate) struct StagesArgs {
    /// Explain this kind: its ports, what it makes, and every parameter
    kind: Option<String>,

    /// Show the kinds for trying out the engine, too
    #[arg(long)]
    all: bool,

    /// Print everything about every kind as Markdown
    #[arg(long, conflicts_with = "kind")]
    markdown: bool,
}

/// Runs `stages`.
pub(crate) fn stages(args: &StagesArgs) -> Result<ExitCode, Failure> {
    let catalog = stages::catalog();
    let shown: Vec<&'static dyn StageKind> =
        catalog.iter().copied().filter(|kind| args.all || !is_debug(kind.spec())).collect();
    let text = match &args.kind {
        Some(name) => match catalog.iter().find(|kind| kind.spec().name == name) {
            Some(kind) => explained(*kind),
            None => return Err(unknown(name, catalog)),
        },
        None if args.markdown => markdown(&shown),
        None => listed(&shown),
    };
    deliver(&text, None)
}

/// Whether a kind only exists to try out the engine.
pub(super) fn is_debug(spec: &Spec) -> bool {
    spec.name.starts_with("debug.")
}

fn unknown(name: &str, catalog: &[&'static dyn StageKind]) -> Failure {
    let help = match nearest(name, catalog.iter().map(|kind| kind.spec().name)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`orandflow stages` lists every kind".to_owned(),
    };
    Failure::Message { message: format!("unknown kind `{name}`"), help: Some(help), code: 2 }
}

/// Returns the kinds as a list, grouped by the word before the dot.
fn listed(kinds: &[&'static dyn StageKind]) -> String {
    let width = kinds.iter().map(|kind| kind.spec().name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (group, kinds) in grouped(kinds) {
        text.push_str(&format!("{group}\n"));
        for kind in kinds {
            let spec = kind.spec();
            text.push_str(&format!("  {:width$}  {}\n", spec.name, spec.about));
        }
        text.push('\n');
    }
    text + "`orandflow stages KIND` explains one of them.\n"
}

/// Groups kinds by the word before the dot; groups stand where their first kind does.
fn grouped(kinds: &[&'static dyn StageKind]) -> Vec<(&'static str, Vec<&'static dyn StageKind>)> {
    let mut groups: Vec<(&str, Vec<&'static dyn StageKind>)> = Vec::new();
    for kind in kinds {
        let name = kind.spec().name;
        let group = name.split('.').next().unwrap_or(name);
        match groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, members)) => members.push(*kind),
            None => groups.push((group, vec![*kind])),
        }
    }
    groups
}

/// One parameter, or a field of one.
struct Parameter {
    /// Its dotted name; `[]` stands for the elements of a list.
    name: String,
    allowed: String,
    /// As TOML; `None` if it must be given.
    default: Option<String>,
    in_key: bool,
    about: String,
    /// The words that it may be, each with its meaning, where they have one.
    words: Vec<(String, String)>,
}

/// Returns every parameter of a kind; those that must be given come first.
fn parameters(kind: &dyn StageKind) -> Vec<Parameter> {
    let schema = kind.schema().to_value();
    let mut all = Vec::new();
    collect(&schema, "", true, &mut all);
    all
}

fn collect(schema: &Value, prefix: &str, in_key: bool, all: &mut Vec<Parameter>) {
    let Some(fields) = shape::fields(schema) else { return };
    let required = shape::required(schema);
    let mut names: Vec<&String> = fields.keys().collect();
    names.sort_by_key(|name| !required.contains(&name.as_str()));
    for name in names {
        let field = &fields[name];
        let in_key = in_key && shape::is_in_key(field);
        let default = if required.contains(&name.as_str()) {
            None
        } else {
            Some(field.get("default").map_or_else(|| "not set".to_owned(), toml))
        };
        let full = format!("{prefix}{name}");
        all.push(Parameter {
            name: full.clone(),
            allowed: allowed(field),
            default,
            in_key,
            about: shape::description(field).unwrap_or_default(),
            words: words(field),
        });
        match shape::elements(field) {
            Some(element) => collect(element, &format!("{full}[]."), in_key, all),
            None => collect(field, &format!("{full}."), in_key, all),
        }
    }
}

/// Returns what a parameter may be, in a few words.
fn allowed(schema: &Value) -> String {
    let shape = shape::shape(schema);
    let mut text = shape.described();
    if let Some(elements) = shape::elements(schema) {
        let of = shape::shape(elements).described();
        let of = of.strip_prefix("a ").unwrap_or(&of);
        text = text.replace("a list", &format!("a list, each {of}"));
    }
    match (shape.minimum, shape.maximum) {
        // That a count is not negative goes without saying.
        (Some(0.0), None) => text,
        (Some(minimum), None) => format!("{text} from {minimum}"),
        (Some(minimum), Some(maximum)) => format!("{text} from {minimum} to {maximum}"),
        (None, Some(maximum)) => format!("{text} up to {maximum}"),
        (None, None) => text,
    }
}

/// Returns the words that a string may be with their doc comments, if any has one.
fn words(schema: &Value) -> Vec<(String, String)> {
    let branches = shape::branches(schema).into_iter();
    let meant = branches.filter_map(|branch| {
        let word = branch.get("const")?.as_str()?;
        Some((word.to_owned(), shape::description(branch).unwrap_or_default()))
    });
    let meant: Vec<_> = meant.collect();
    if meant.iter().all(|(_, about)| about.is_empty()) { Vec::new() } else { meant }
}

/// Returns a JSON value as TOML writes it.
fn toml(value: &Value) -> String {
    match value {
        Value::Null => "not set".to_owned(),
        Value::Number(number) => match number.as_f64() {
            // A single-precision default became a double on its way here; its own shortest form is meant.
            Some(double) if number.is_f64() && f64::from(double as f32) == double => format!("{:?}", double as f32),
            _ => number.to_string(),
        },
        Value::Array(list) => format!("[{}]", list.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name} = {}", toml(value))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        other => other.to_string(),
    }
}

fn takes(port: &Port) -> String {
    port.takes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}

fn work(spec: &Spec) -> &'static str {
    match spec.work {
        Work::Whole => "in one piece",
        Work::PerImage => "image by image, in shards",
    }
}

fn devices(kind: &dyn StageKind) -> &'static str {
    match kind.devices() {
        Devices::None => "",
        Devices::One => "; it computes on a device, one GPU at most",
        Devices::Any => "; it has as many GPUs as its `resources` say",
    }
}

fn seeded(spec: &Spec) -> &'static str {
    if spec.seeded { "; the pipeline's seed is part of its key" } else { "" }
}

/// Returns everything about a kind, for a terminal.
fn explained(kind: &dyn StageKind) -> String {
    let spec = kind.spec();
    let mut text = format!("{}: {}\n\n", spec.name, spec.about);
    text.push_str(&format!("makes {}, {}{}{}\n", spec.output.article(), work(spec), devices(kind), seeded(spec)));
    if !spec.inputs.is_empty() {
        text.push_str("\nports\n");
        let width = spec.inputs.iter().map(|port| port.name.len()).max().unwrap_or(0);
        for port in spec.inputs {
            let optional = if port.optional { " (optional)" } else { "" };
            text.push_str(&format!("  {:width$}  {}{optional}: {}\n", port.name, takes(port), port.about));
        }
    }
    let parameters = parameters(kind);
    if !parameters.is_empty() {
        text.push_str("\nparameters\n");
    }
    for parameter in parameters {
        let default = match &parameter.default {
            Some(default) => format!("default {default}"),
            None => "must be given".to_owned(),
        };
        let in_key = if parameter.in_key { "" } else { "; not part of the key" };
        text.push_str(&format!("  {}: {}; {default}{in_key}\n", parameter.name, parameter.allowed));
        for line in wrapped(&parameter.about, 100) {
            text.push_str(&format!("      {line}\n"));
        }
        for (word, about) in parameter.words {
            text.push_str(&format!("      `{word}`: {about}\n"));
        }
    }
    text
}

/// Cuts a text into lines of at most `width` characters, at its spaces.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Returns everything about all kinds as Markdown.
fn markdown(kinds: &[&'static dyn StageKind]) -> String {
    let mut text = "# Kinds of stage\n\n\
         Printed by `orandflow stages --markdown`, from the types that parse a pipeline file; do not edit.\n\
         `kind = \"...\"` in a `[stages.NAME]` picks one of these. Paths are relative to the working directory.\n\n\
         Beside its parameters a stage may say what one action of it needs of a machine, as in\n\
         `resources = { gpus = 1, memory = \"16GiB\", cpus = 4, time = \"4h\" }`. Nothing of it is part of a key.\n\n"
        .to_owned();
    for (word, about) in resources::WORDS {
        text.push_str(&format!("- `{word}`: {about}\n"));
    }
    for (group, kinds) in grouped(kinds) {
        text.push_str(&format!("\n## {group}\n"));
        for kind in kinds {
            text.push_str(&section(kind));
        }
    }
    text
}

fn section(kind: &dyn StageKind) -> String {
    let spec = kind.spec();
    let mut text = format!("\n### `{}`\n\n{}.\n\n", spec.name, spec.about);
    text.push_str(&format!("Makes {}, {}{}{}.\n", spec.output.article(), work(spec), devices(kind), seeded(spec)));
    if !spec.inputs.is_empty() {
        text.push_str("\n| port | takes | |\n| --- | --- | --- |\n");
        for port in spec.inputs {
            let optional = if port.optional { " (optional)" } else { "" };
            text.push_str(&format!("| `{}` | {}{optional} | {} |\n", port.name, takes(port), cell(port.about)));
        }
    }
    let parameters = parameters(kind);
    if !parameters.is_empty() {
        text.push_str("\n| parameter | is | default | |\n| --- | --- | --- | --- |\n");
    }
    for parameter in parameters {
        let default = parameter.default.map_or_else(|| "must be given".to_owned(), |default| format!("`{default}`"));
        let mut about = parameter.about;
        for (word, meaning) in parameter.words {
            about.push_str(&format!(" `{word}`: {meaning}"));
        }
        if !parameter.in_key {
            about.push_str(" Not part of the key.");
        }
        let row = [format!("`{}`", parameter.name), parameter.allowed, default, about];
        text.push_str(&format!("| {} |\n", row.map(|text| cell(text.trim())).join(" | ")));
    }
    text
}

/// Returns text that stays within a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
