//! What jobs leave behind for the coordinator in the run's folder: their events, and how they ended.

use std::collections::HashMap;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::run::event::Stamped;

/// The folders that a run with jobs has.
pub const FOLDERS: [&str; 4] = ["scripts", "logs", "events", "ends"];

/// How a job ended, by its own account. One that was killed leaves none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "lowercase")]
pub enum End {
    /// Its result, or its part of it, is in the cache.
    Done,
    /// The stage failed.
    Failed {
        /// Why.
        message: String,
        /// What to try.
        help: Option<String>,
    },
    /// A result that it needs is not in the cache any more.
    Lost {
        /// Whose.
        message: String,
    },
    /// It was stopped.
    Stopped,
}

/// Writes how a job ended; `label` is that of its step.
///
/// # Errors
/// If it cannot be written.
pub fn write_end(folder: &Path, label: &str, job: &str, part: u32, end: &End) -> std::io::Result<()> {
    let path = folder.join("ends").join(format!("{label}.{job}.{part}.json"));
    let beside = path.with_extension("new");
    let text = serde_json::to_string(end).expect("an end is JSON");
    fs_err::write(&beside, text)?;
    fs_err::rename(beside, path)
}

/// Returns how the tasks of a job ended, as far as they say.
pub fn ends(folder: &Path, label: &str, job: u64) -> Vec<End> {
    let start = format!("{label}.{job}.");
    let entries = std::fs::read_dir(folder.join("ends")).into_iter().flatten().filter_map(Result::ok);
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    let own = |path: &&PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(&start) && name.ends_with(".json")
    };
    paths.iter().filter(own).filter_map(|path| serde_json::from_slice(&std::fs::read(path).ok()?).ok()).collect()
}

/// Returns the last lines of a job's logs, for messages.
pub fn tail(folder: &Path, label: &str, job: u64) -> Option<String> {
    let start = format!("{label}-{job}");
    let entries = std::fs::read_dir(folder.join("logs")).ok()?.filter_map(Result::ok);
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    let own =
        |path: &&PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&start));
    let mut texts = paths.iter().filter(own).filter_map(|path| Some((path, std::fs::read_to_string(path).ok()?)));
    let (path, text) = texts.rfind(|(_, text)| !text.trim().is_empty())?;
    let lines: Vec<&str> = text.lines().collect();
    Some(format!("{} ends with:\n{}", path.display(), lines[lines.len().saturating_sub(5)..].join("\n")))
}

/// Reads the events of jobs as they come in.
#[derive(Debug, Default)]
pub struct Ears {
    heard: HashMap<PathBuf, u64>,
}

impl Ears {
    /// Returns the events that have come in since the last call, each with the name of the file that it stands in. Whole lines
    /// alone are read: the last one may still be under way.
    pub fn hear(&mut self, folder: &Path) -> Vec<Stamped> {
        let entries = std::fs::read_dir(folder.join("events")).into_iter().flatten().filter_map(Result::ok);
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        let mut events = Vec::new();
        for path in paths {
            let from = self.heard.entry(path.clone()).or_default();
            let Some(text) = read_from(&path, *from) else { continue };
            let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            *from += whole as u64;
            events.extend(
                text[..whole].split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()),
            );
        }
        events
    }
}

fn read_from(path: &Path, from: u64) -> Option<Vec<u8>> {
    let mut file = std::fs::File::open(path).ok()?;
    if file.metadata().ok()?.len() <= from {
        return None;
    }
    file.seek(SeekFrom::Start(from)).ok()?;
    let mut text = Vec::new();
    file.read_to_end(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::event::Event;

    #[test]
    fn events_are_heard_once_and_only_when_their_line_is_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("events")).expect("made");
        let path = folder.path().join("events/a.jsonl");
        let event =
            |stage: &str| Stamped { at: 0.0, event: Event::Skipped { stage: stage.into(), reason: "r".into() } };
        let line = |stage: &str| serde_json::to_string(&event(stage)).expect("JSON");
        std::fs::write(&path, format!("{}\n{}", line("x"), line("y"))).expect("written");
        let mut ears = Ears::default();
        assert_eq!(ears.hear(folder.path()), [event("x")]);
        assert!(ears.hear(folder.path()).is_empty());
        std::fs::write(&path, format!("{}\n{}\n", line("x"), line("y"))).expect("written");
        assert_eq!(ears.hear(folder.path()), [event("y")]);
    }

    #[test]
    fn ends_belong_to_one_job() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("ends")).expect("made");
        let failed = End::Failed { message: "m".into(), help: None };
        write_end(folder.path(), "000-a", "12", 1, &failed).expect("written");
        write_end(folder.path(), "000-a", "12", 0, &End::Done).expect("written");
        write_end(folder.path(), "000-a", "13", 0, &End::Stopped).expect("written");
        assert_eq!(ends(folder.path(), "000-a", 12), [End::Done, failed]);
        assert!(ends(folder.path(), "001-a", 12).is_empty());
    }
}
