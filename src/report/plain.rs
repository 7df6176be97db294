//! One line per change, for files and pipes.

use std::collections::BTreeMap;
use std::io::Write;

use super::pace::Pace;
use super::{Listener, text};
use crate::run::event::{Event, Stamped};

/// Seconds between two lines on the progress of one stage.
const PAUSE: f64 = 20.0;

/// Writes one line per change.
pub struct Plain<W> {
    out: W,
    told: BTreeMap<String, (f64, Pace)>,
    metrics: BTreeMap<String, BTreeMap<String, f64>>,
}

impl<W: Write + Send> Plain<W> {
    /// Makes a listener that writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out, told: BTreeMap::new(), metrics: BTreeMap::new() }
    }

    /// Returns a line on progress if the last one is long ago.
    fn progress(&mut self, at: f64, stage: &str, done: u64, total: u64, unit: &str) -> Option<String> {
        let (told, pace) = self.told.entry(stage.to_owned()).or_insert_with(|| (at, Pace::from(at, done)));
        pace.step(at, done, total);
        if at - *told < PAUSE {
            return None;
        }
        *told = at;
        let pace = pace.text();
        let metrics = self.metrics.get(stage).into_iter().flatten();
        let metrics: String = metrics.map(|(name, value)| format!(", {}", text::measured(name, *value))).collect();
        Some(format!("{stage}: {done} of {total} {unit}{pace}{metrics}"))
    }
}

impl<W: Write + Send> Listener for Plain<W> {
    fn hear(&mut self, stamped: &Stamped) {
        let line = match &stamped.event {
            Event::Progress { stage, bucket: None, done, total, unit } => {
                self.progress(stamped.at, stage, *done, *total, unit)
            }
            Event::Metric { stage, name, value, .. } => {
                self.metrics.entry(stage.clone()).or_default().insert(name.clone(), *value);
                None
            }
            other => text::line(other),
        };
        if let Some(line) = line {
            // Nobody is left to be told where stderr is gone; the run goes on.
            let _ = writeln!(self.out, "{line}");
        }
    }
}
