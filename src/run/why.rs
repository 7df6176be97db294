//! Why a step runs: two actions compared, field by field.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::digest::Digest;
use crate::plan::action::{Action, read_listing};
use crate::plan::prepare::{Need, Prepared, ShardState};
use crate::plan::{Plan, Step};
use crate::store::Store;
use crate::store::actions::Lookup;

/// How many file names a reason lists.
const NAMED: usize = 3;

/// Returns why a step that is not in the cache has to run, in one line.
pub fn why(plan: &Plan, step: &Step, prepared: &Prepared, store: &Store) -> String {
    let mut reasons = Vec::new();
    if matches!(store.lookup(prepared.key), Lookup::Hit(record) if record.elsewhere) {
        reasons.push("its record is here and its bytes are not".to_owned());
    } else if let Some(lost) = prepared.lost {
        reasons.push(format!("result was lost from the cache (blob {})", lost.short()));
    } else {
        let last = store.last(&plan.pipeline, &step.name);
        let before = last.and_then(|key| serde_json::from_slice::<Action>(&store.get(key).ok()?).ok());
        match before {
            None => reasons.push("never ran here".to_owned()),
            Some(before) if before == prepared.action => {
                reasons.push("result is not in the cache any more".to_owned());
            }
            Some(before) => differences(plan, step, &before, prepared, store, &mut reasons),
        }
    }
    if reasons.is_empty() {
        reasons.push("its action changed".to_owned());
    }
    let text = reasons.join("; ");
    match &prepared.need {
        Need::Shards { shards, .. } => {
            let missing = shards.iter().filter(|shard| shard.state == ShardState::Miss).count();
            let own = shards.iter().filter(|shard| shard.state != ShardState::Elsewhere).count();
            if missing < own { format!("{missing} of {own} shards: {text}") } else { text }
        }
        _ => text,
    }
}

fn differences(
    plan: &Plan,
    step: &Step,
    before: &Action,
    prepared: &Prepared,
    store: &Store,
    reasons: &mut Vec<String>,
) {
    let now = &prepared.action;
    if before.schema != now.schema {
        reasons.push(format!("engine schema {} -> {}", before.schema, now.schema));
    }
    if before.kind != now.kind {
        reasons.push(format!("kind {} -> {} ({})", before.kind, now.kind, place(&step.span)));
        return;
    }
    if before.revision != now.revision {
        reasons.push(format!("revision {} -> {}", before.revision, now.revision));
    }
    let (mut old, mut new) = (BTreeMap::new(), BTreeMap::new());
    flatten("", &before.params, &mut old);
    flatten("", &now.params, &mut new);
    for name in union(&old, &new) {
        if old.get(name) != new.get(name) {
            reasons.push(format!(
                "{name} {} -> {} ({})",
                value(old.get(name)),
                value(new.get(name)),
                blame(step, name)
            ));
        }
    }
    if before.seed != now.seed {
        let text = |seed: Option<u64>| seed.map_or("none".to_owned(), |seed| seed.to_string());
        reasons.push(format!("seed {} -> {}", text(before.seed), text(now.seed)));
    }
    for port in union(&before.inputs, &now.inputs) {
        let stage = step.inputs.iter().find(|input| input.port == port).map(|input| &plan.steps[input.step].name);
        match (before.inputs.get(port), now.inputs.get(port), stage) {
            (old, new, Some(stage)) if old.is_some() && old != new => {
                reasons.push(format!("input {port} changed (stage {stage})"));
            }
            (None, Some(_), Some(stage)) => reasons.push(format!("input {port} is new (stage {stage})")),
            (Some(_), None, _) => reasons.push(format!("input {port} is no longer connected")),
            _ => {}
        }
    }
    if let Some(reason) = changed_files(before, prepared, store) {
        reasons.push(reason);
    }
    if before.facts != now.facts {
        reasons.push("facts about its sources changed".to_owned());
    }
}

/// Says which data files changed, by the names they have now.
fn changed_files(before: &Action, prepared: &Prepared, store: &Store) -> Option<String> {
    let now = &prepared.action;
    if before.files == now.files && before.items == now.items {
        return None;
    }
    let (mut changed, mut added, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    let mut compare = |old: Option<Digest>, new: Option<Digest>, name: String| match (old, new) {
        (Some(old), Some(new)) if old != new => changed.push(name),
        (None, Some(_)) => added.push(name),
        (Some(_), None) => gone.push(name),
        _ => {}
    };
    let old_files: BTreeMap<String, Digest> = before.files.iter().cloned().collect();
    let new_files: BTreeMap<String, Digest> = now.files.iter().cloned().collect();
    for role in union(&old_files, &new_files) {
        let path = prepared.files.iter().find(|file| file.role == role).map(|file| name_of(&file.path));
        compare(old_files.get(role).copied(), new_files.get(role).copied(), path.unwrap_or_else(|| role.to_owned()));
    }
    let listing = |digest: Option<Digest>| match digest {
        Some(digest) => read_listing(&store.get(digest).ok()?),
        None => Some(BTreeMap::new()),
    };
    let mut facts = Vec::new();
    if let (Some(old), Some(new)) =
        (listing(before.items), prepared.listing.as_deref().map_or(Some(BTreeMap::new()), read_listing))
    {
        let paths: BTreeMap<(&str, &str), String> = prepared
            .items
            .iter()
            .flat_map(|item| {
                item.files.iter().map(|file| ((item.id.as_str(), file.role.as_str()), name_of(&file.path)))
            })
            .collect();
        for id in union(&old, &new) {
            let files = |items: &BTreeMap<String, crate::plan::action::Listed>| -> BTreeMap<String, Digest> {
                items.get(id).map(|(files, _)| files.iter().cloned().collect()).unwrap_or_default()
            };
            let (old_files, new_files) = (files(&old), files(&new));
            for role in union(&old_files, &new_files) {
                let name = paths.get(&(id, role)).cloned().unwrap_or_else(|| id.to_owned());
                compare(old_files.get(role).copied(), new_files.get(role).copied(), name);
            }
            if let (Some((_, old)), Some((_, new))) = (old.get(id), new.get(id))
                && old != new
            {
                facts.push(id.to_owned());
            }
        }
    }
    let parts: Vec<String> = [
        (changed, "file", "changed"),
        (added, "file", "added"),
        (gone, "file", "gone"),
        (facts, "item", "has other facts"),
    ]
    .into_iter()
    .filter(|(names, _, _)| !names.is_empty())
    .map(|(names, what, how)| {
        let more = if names.len() > NAMED { ", …" } else { "" };
        let plural = if names.len() == 1 { "" } else { "s" };
        format!("{} {what}{plural} {how} ({}{more})", names.len(), names[..names.len().min(NAMED)].join(", "))
    })
    .collect();
    Some(if parts.is_empty() { "its data files changed".to_owned() } else { parts.join(", ") })
}

fn name_of(path: &std::path::Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Returns the keys of both maps, sorted.
fn union<'a, A, B>(old: &'a BTreeMap<String, A>, new: &'a BTreeMap<String, B>) -> std::collections::BTreeSet<&'a str> {
    old.keys().chain(new.keys()).map(String::as_str).collect()
}

/// Takes nested tables apart, so that each value has a dotted name.
fn flatten(prefix: &str, value: &Value, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                flatten(&name, value, into);
            }
        }
        other => {
            into.insert(prefix.to_owned(), other.clone());
        }
    }
}

/// Returns a value as a person writes it, cut where it is long.
fn value(value: Option<&Value>) -> String {
    let text = match value {
        None | Some(Value::Null) => "none".to_owned(),
        Some(value) => value.to_string(),
    };
    if text.chars().count() > 40 { text.chars().take(39).chain(['…']).collect() } else { text }
}

/// Returns where a parameter stands: its own place or that of the table around it, else that of the stage, by default.
fn blame(step: &Step, name: &str) -> String {
    let mut name = name;
    loop {
        if let Some(span) = step.places.get(name) {
            return place(span);
        }
        match name.rsplit_once('.') {
            Some((parent, _)) => name = parent,
            None => return format!("default of {}", place(&step.span)),
        }
    }
}

fn place(span: &crate::diag::Span) -> String {
    if span.source.name.starts_with("--set") { span.source.name.clone() } else { span.place() }
}
