//! `resources = { gpus = 1, memory = "16GiB", cpus = 4, time = "4h" }` of a stage: what its actions need of a machine. It says how
//! a result is made and never what it is, so no key knows it.

use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Word;
use super::overrides::list;
use super::texts::Texts;
use super::variables::article;
use crate::diag::{Diagnostic, Span, nearest};

/// The words of the table, each with its meaning; for the editors' schema and for messages.
pub const WORDS: [(&str, &str); 4] = [
    (
        "gpus",
        "Number of GPUs of one action, from 0. By default 1 for kinds that compute on a device, and 0 for all others.",
    ),
    ("memory", "Host memory of one action, such as `\"16GiB\"`: those that run side by side stay within `--memory`."),
    ("cpus", "Cores of one action, from 1: so many of `--jobs` it counts for. By default 1, and none beside a GPU."),
    (
        "time",
        "The longest time that one job on a cluster may take, such as `\"4h\"` or `\"1h30min\"`; it goes on after that from its checkpoint.",
    ),
];

/// The most GPUs and cores that a stage may ask for: more is a slip.
const MOST: u32 = 65_536;

/// What one action of a stage needs; absent where the stage does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Number of GPUs.
    pub gpus: Option<u32>,
    /// Host memory, in bytes.
    pub memory: Option<u64>,
    /// Number of cores, at least 1.
    pub cpus: Option<u32>,
    /// The longest time that a job on a cluster may take.
    pub time: Option<Duration>,
}

/// What a stage declares, and where.
#[derive(Clone, Debug, Default)]
pub struct Declared {
    /// What it needs.
    pub resources: Resources,
    /// Where the number of GPUs stands.
    pub gpus_at: Option<Span>,
}

/// Reads a size in bytes: a number and `MB`, `GB`, `MiB` or `GiB`.
///
/// # Errors
/// A sentence on what it should be.
pub fn bytes(text: &str) -> Result<u64, String> {
    let parsed = quantity(text).and_then(|(number, unit)| {
        let (base, power) = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => (1.0_f64, 0),
            "kb" | "k" => (1e3, 1),
            "mb" | "m" => (1e3, 2),
            "gb" | "g" => (1e3, 3),
            "tb" | "t" => (1e3, 4),
            "kib" => (1024.0, 1),
            "mib" => (1024.0, 2),
            "gib" => (1024.0, 3),
            "tib" => (1024.0, 4),
            _ => return None,
        };
        Some((number * base.powi(power)) as u64)
    });
    parsed.ok_or_else(|| format!("`{text}` is no size; write a number and `MB`, `GB`, `MiB` or `GiB`"))
}

/// Reads a length of time: a number and `s`, `min`, `h`, `d` or `w`, or several of them in a row, as in `1h30min`.
///
/// # Errors
/// A sentence on what it should be.
pub fn time(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    let mut seconds = 0.0;
    let mut parse = || {
        while !rest.is_empty() {
            let (number, unit) = quantity(rest)?;
            let end = unit.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(unit.len());
            seconds += number
                * match &unit[..end] {
                    "s" => 1.0,
                    "min" => 60.0,
                    "h" => 3600.0,
                    "d" => 86_400.0,
                    "w" => 604_800.0,
                    _ => return None,
                };
            rest = unit[end..].trim_start();
        }
        Duration::try_from_secs_f64(seconds).ok()
    };
    let parsed = if text.trim().is_empty() { None } else { parse() };
    parsed.ok_or_else(|| format!("`{text}` is no length of time; write a number and `min`, `h`, `d` or `w`"))
}

/// Splits `12GiB` into its number and what follows.
fn quantity(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    number.is_finite().then_some((number, text[end..].trim()))
}

/// Takes `resources` out of a stage's table.
pub(super) fn take(table: &mut DeTable<'_>, stage: &Word, texts: &Texts, faults: &mut Vec<Diagnostic>) -> Declared {
    let Some(value) = table.remove("resources") else { return Declared::default() };
    let span = texts.span(value.span());
    let fields = match value.into_inner() {
        DeValue::Table(fields) => fields,
        other => {
            let title = format!("the `resources` of stage `{}` must be a table, not {}", stage.text, article(&other));
            let fault = Diagnostic::new(title).at(span, "");
            faults.push(fault.help("write `resources = { gpus = 1, memory = \"16GiB\", cpus = 4, time = \"4h\" }`"));
            return Declared::default();
        }
    };
    let mut declared = Declared::default();
    for (key, value) in fields {
        let name = key.get_ref().as_ref();
        let Some((_, about)) = WORDS.iter().find(|(word, _)| *word == name) else {
            let fault = Diagnostic::new(format!("unknown key `{name}` in the `resources` of stage `{}`", stage.text))
                .at(texts.span(key.span()), "");
            let words = || WORDS.iter().map(|(word, _)| *word);
            faults.push(match nearest(name, words()) {
                Some(near) => fault.help(format!("did you mean `{near}`?")),
                None => fault.help(format!("it knows {}", list(words()))),
            });
            continue;
        };
        let span = texts.span(value.span());
        let resources = &mut declared.resources;
        let read = match name {
            "gpus" => {
                declared.gpus_at = Some(span.clone());
                whole(&value, 0).map(|number| resources.gpus = Some(number))
            }
            "cpus" => whole(&value, 1).map(|number| resources.cpus = Some(number)),
            "memory" => quoted(&value, "16GiB").and_then(bytes).and_then(some).map(|n| resources.memory = Some(n)),
            _ => quoted(&value, "4h").and_then(time).and_then(some).map(|n| resources.time = Some(n)),
        };
        if let Err(message) = read {
            let fault = Diagnostic::new(format!("`resources.{name}` of stage `{}`: {message}", stage.text));
            faults.push(fault.at(span, "").help(*about));
        }
    }
    declared
}

fn whole(value: &Spanned<DeValue<'_>>, least: u32) -> Result<u32, String> {
    let number = value.get_ref().as_integer().and_then(|n| u32::from_str_radix(n.as_str(), n.radix()).ok());
    let fits = number.filter(|number| (least..=MOST).contains(number));
    fits.ok_or_else(|| format!("it must be a whole number from {least} to {MOST}"))
}

fn quoted<'a>(value: &'a Spanned<DeValue<'_>>, example: &str) -> Result<&'a str, String> {
    let text = value.get_ref().as_str();
    text.ok_or_else(|| format!("it must be a string such as `\"{example}\"`, not {}", article(value.get_ref())))
}

fn some<T: Default + PartialEq>(value: T) -> Result<T, String> {
    if value == T::default() { Err("it must be more than nothing".to_owned()) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_read() {
        let seconds = |text: &str| time(text).map(|time| time.as_secs_f64());
        assert_eq!(seconds("90min"), Ok(5400.0));
        assert_eq!(seconds("1h30min"), Ok(5400.0));
        assert_eq!(seconds("1 d 2 h"), Ok(93_600.0));
        assert_eq!(seconds("0.5h"), Ok(1800.0));
        for wrong in ["", "4", "h", "4x", "4h3", "-1h", "1e999h"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
        assert_eq!(bytes("16GiB"), Ok(16 << 30));
        assert_eq!(bytes("1.5 GB"), Ok(1_500_000_000));
        assert!(bytes("much").is_err());
    }
}
