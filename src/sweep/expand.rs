//! Every combination of a sweep's choices, with a stable name. Knows no stages.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use toml::Spanned;
use toml::de::DeValue;

use super::declared::{Axis, Choice, Condition, Declared, text};
use crate::diag::Diagnostic;
use crate::digest::Digest;
use crate::pipeline::overrides::{Part, Setting, settings};

/// Longer values stand in names by the first digits of their digest.
const LONGEST: usize = 32;

/// So many combinations are looked at, of which `exclude` may leave most out.
const MOST: usize = 1_000_000;

/// A sweep may have so many points: as many stages of each as a plan of its own has.
const MOST_POINTS: usize = 10_000;

/// A combination, not yet a plan.
#[derive(Clone, Debug)]
pub(super) struct Combination<'text> {
    pub(super) name: String,
    pub(super) group: String,
    pub(super) seed: Option<u64>,
    pub(super) values: Vec<String>,
    pub(super) settings: Vec<Setting<'text>>,
}

/// Returns the labels of what varies and every combination that is not excluded.
pub(super) fn combinations<'text>(
    declared: &Declared<'text>,
    faults: &mut Vec<Diagnostic>,
) -> (Vec<String>, Vec<Combination<'text>>) {
    let paths: BTreeSet<String> = unnamed(declared).flat_map(|choice| &choice.settings).map(Setting::dotted).collect();
    let short = short_labels(&paths);
    let labels = labels(declared, &short);
    check_conditions(declared, &paths, faults);
    let counts = declared.axes.iter().map(|axis| axis.choices.len()).chain([declared.seeds.len().max(1)]);
    if counts.fold(1, usize::saturating_mul) > MOST {
        return (labels, refuse_many(declared, format!("the sweep has more than {MOST} combinations"), faults));
    }
    // The odometer: the last axis turns fastest, seeds faster still.
    let mut combinations = Vec::new();
    let mut at = vec![0; declared.axes.len()];
    'all: loop {
        let choices: Vec<(&Axis<'text>, &Choice<'text>)> =
            declared.axes.iter().zip(&at).map(|(axis, at)| (axis, &axis.choices[*at])).collect();
        let seeds: Vec<Option<&(u64, Spanned<DeValue<'text>>)>> =
            if declared.seeds.is_empty() { vec![None] } else { declared.seeds.iter().map(Some).collect() };
        for seed in seeds {
            let combination = combine(&choices, seed, &labels, &short);
            let seed = combination.seed;
            if !declared.exclude.iter().any(|condition| holds(condition, &choices, seed)) {
                if combinations.len() == MOST_POINTS {
                    return (
                        labels,
                        refuse_many(declared, format!("the sweep has more than {MOST_POINTS} points"), faults),
                    );
                }
                combinations.push((combination, choices.last().map(|(_, choice)| choice.span.clone())));
            }
        }
        for axis in (0..at.len()).rev() {
            at[axis] += 1;
            if at[axis] < declared.axes[axis].choices.len() {
                continue 'all;
            }
            at[axis] = 0;
        }
        break;
    }
    let mut names = BTreeSet::new();
    for (combination, span) in &combinations {
        if !names.insert(combination.name.clone()) {
            let fault = Diagnostic::new(format!("the sweep has the point `{}` twice", combination.name));
            faults.push(match span.clone().or(declared.seeds_at.clone()) {
                Some(span) => fault.at(span, ""),
                None => fault,
            });
            break;
        }
    }
    if combinations.is_empty() && faults.is_empty() {
        faults.push(Diagnostic::new("the sweep has no points: `exclude` leaves all of them out"));
    }
    (labels, combinations.into_iter().map(|(combination, _)| combination).collect())
}

/// Says that a sweep is too large, and leaves it without points.
fn refuse_many<'text>(
    declared: &Declared<'text>,
    title: String,
    faults: &mut Vec<Diagnostic>,
) -> Vec<Combination<'text>> {
    let last =
        declared.axes.iter().filter_map(|axis| axis.choices.last()).map(|choice| choice.span.clone()).next_back();
    let fault = Diagnostic::new(title).help("vary less at once, or leave more out with `exclude`");
    faults.push(match last.or(declared.seeds_at.clone()) {
        Some(span) => fault.at(span, ""),
        None => fault,
    });
    Vec::new()
}

fn unnamed<'a, 'text>(declared: &'a Declared<'text>) -> impl Iterator<Item = &'a Choice<'text>> {
    declared.axes.iter().filter(|axis| !axis.named).flat_map(|axis| &axis.choices)
}

/// Returns for every path the shortest end of it that no other one has: `radius`, or `irn.radius` and `walk.radius`.
fn short_labels(paths: &BTreeSet<String>) -> BTreeMap<String, String> {
    let parts = |path: &str| -> Vec<String> {
        let parts = path.split('.').filter(|part| !matches!(*part, "stages" | "vars" | "inputs" | "pipeline"));
        parts.map(str::to_owned).collect()
    };
    let tail = |path: &str, count: usize| {
        let parts = parts(path);
        parts[parts.len().saturating_sub(count)..].join(".")
    };
    paths
        .iter()
        .map(|path| {
            let most = parts(path).len();
            let label = (1..=most).map(|count| (count, tail(path, count))).find(|(count, label)| {
                paths.iter().filter(|other| *other != path).all(|other| tail(other, *count) != *label)
            });
            (path.clone(), label.map_or(path.clone(), |(_, label)| label))
        })
        .collect()
}

/// Returns the titles of the values, in order of the file.
fn labels(declared: &Declared<'_>, short: &BTreeMap<String, String>) -> Vec<String> {
    let mut labels = Vec::new();
    for axis in &declared.axes {
        if axis.named {
            labels.push("variant".to_owned());
            continue;
        }
        for setting in axis.choices.iter().flat_map(|choice| &choice.settings) {
            let label = short[&setting.dotted()].clone();
            if !labels.contains(&label) {
                labels.push(label);
            }
        }
    }
    if !declared.seeds.is_empty() {
        labels.push("seed".to_owned());
    }
    labels
}

fn combine<'text>(
    choices: &[(&Axis<'text>, &Choice<'text>)],
    seed: Option<&(u64, Spanned<DeValue<'text>>)>,
    labels: &[String],
    short: &BTreeMap<String, String>,
) -> Combination<'text> {
    let mut parts = Vec::new();
    let mut values = vec![String::new(); labels.len()];
    let mut set: Vec<Setting<'text>> = Vec::new();
    let mut put = |label: &str, value: &str| {
        if let Some(at) = labels.iter().position(|known| known == label) {
            value.clone_into(&mut values[at]);
        }
    };
    for (_, choice) in choices {
        if let Some(name) = &choice.name {
            put("variant", name);
            parts.push(name.clone());
        } else {
            let named = choice.settings.iter().map(|setting| {
                let (label, value) = (&short[&setting.dotted()], text(setting.value.get_ref()));
                put(label, &value);
                format!("{label}={}", part(&value))
            });
            parts.push(named.collect::<Vec<_>>().join(","));
        }
        for setting in &choice.settings {
            // A table is put in place value by value, so that it joins what is there.
            match setting.value.get_ref() {
                DeValue::Table(table) if choice.name.is_none() && setting.path.len() > 2 => {
                    set.extend(settings(table, &setting.path, &|_| false));
                }
                _ => set.push(setting.clone()),
            }
        }
    }
    let joined = |parts: &[String]| if parts.is_empty() { "base".to_owned() } else { parts.join("/") };
    let group = joined(&parts);
    if let Some((seed, value)) = seed {
        put("seed", &seed.to_string());
        parts.push(format!("seed={seed}"));
        set.push(seed_setting(value));
    }
    Combination { name: joined(&parts), group, seed: seed.map(|(seed, _)| *seed), values, settings: set }
}

/// Makes the setting of a seed, at the place of its number in the list.
fn seed_setting<'text>(value: &Spanned<DeValue<'text>>) -> Setting<'text> {
    let place = value.span();
    let part = |word| Part { word: Cow::Borrowed(word), place: place.clone() };
    Setting { path: vec![part("pipeline"), part("seed")], value: value.clone() }
}

/// Returns a value as it stands in a name.
fn part(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.,+[]{}:=".contains(c);
    let clean: String = value.chars().filter(|c| *c != ' ').map(|c| if plain(c) { c } else { '-' }).collect();
    if clean.len() > LONGEST { format!("~{}", &Digest::of(value.as_bytes()).hex()[..6]) } else { clean }
}

/// Whether all values of a condition hold.
fn holds(condition: &Condition, choices: &[(&Axis<'_>, &Choice<'_>)], seed: Option<u64>) -> bool {
    condition.values.iter().all(|(path, value)| match path.as_str() {
        "variant" => choices.iter().any(|(_, choice)| choice.name.as_ref() == Some(value)),
        "seed" => seed.is_some_and(|seed| seed.to_string() == *value),
        path => choices
            .iter()
            .flat_map(|(_, choice)| &choice.settings)
            .any(|setting| setting.dotted() == path && text(setting.value.get_ref()) == *value),
    })
}

/// Refuses conditions that can never hold.
fn check_conditions(declared: &Declared<'_>, paths: &BTreeSet<String>, faults: &mut Vec<Diagnostic>) {
    let variants: Vec<&str> =
        declared.axes.iter().flat_map(|axis| &axis.choices).filter_map(|choice| choice.name.as_deref()).collect();
    let set: BTreeSet<String> = declared.settings().map(Setting::dotted).chain(paths.iter().cloned()).collect();
    for condition in &declared.exclude {
        for ((path, value), span) in condition.values.iter().zip(&condition.spans) {
            let known = match path.as_str() {
                "variant" if !variants.contains(&value.as_str()) => {
                    faults.push(Diagnostic::new(format!("there is no variant `{value}`")).at(span.clone(), ""));
                    continue;
                }
                "variant" => true,
                "seed" => !declared.seeds.is_empty(),
                path => set.contains(path),
            };
            if !known {
                let fault = Diagnostic::new(format!("the sweep never sets `{path}`")).at(span.clone(), "");
                faults.push(match crate::diag::nearest(path, set.iter().map(String::as_str)) {
                    Some(near) => fault.help(format!("did you mean `{near}`?")),
                    None => fault.help("a condition names `variant`, `seed`, or a path that the sweep sets"),
                });
            }
        }
    }
}
