//! A bar per running stage and one line on all of them, for terminals.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::pace::Pace;
use super::text::count;
use super::{Listener, text};
use crate::run::event::{Event, Stamped};

/// Most letters of a stage's name before its bar.
const NAME: usize = 24;

/// Draws a bar per running stage on stderr, lines above them, and below them how many stages are done. Stages whose results were
/// there are counted and not named.
pub struct Bars {
    screen: MultiProgress,
    bars: BTreeMap<String, Bar>,
    all: Option<ProgressBar>,
    stages: usize,
    done: usize,
    cached: usize,
}

struct Bar {
    bar: ProgressBar,
    /// Whether it counts shards.
    sharded: bool,
    /// What it counts.
    unit: String,
    pace: Pace,
    metrics: BTreeMap<String, f64>,
}

impl Bar {
    /// Writes what it counts, how fast that goes, how long it will take, and what was measured last.
    fn say(&self) {
        let metrics: String =
            self.metrics.iter().map(|(name, value)| format!(", {}", text::measured(name, *value))).collect();
        self.bar.set_message(format!("{}{}{metrics}", self.unit, self.pace.text()));
    }
}

impl Default for Bars {
    fn default() -> Self {
        Self::new()
    }
}

impl Bars {
    /// Makes a listener that draws on stderr.
    pub fn new() -> Self {
        let screen = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        Self { screen, bars: BTreeMap::new(), all: None, stages: 0, done: 0, cached: 0 }
    }

    fn start(&mut self, stage: &str, actions: usize, cached: usize, at: f64) {
        // What is too wide for the terminal is cut off: lines that wrap would not stand below each other.
        let style = ProgressStyle::with_template("{prefix:24} {bar:20} {pos:>4}/{len:<4} {wide_msg}");
        let bar = ProgressBar::new((actions + cached) as u64).with_position(cached as u64);
        let bar = match &self.all {
            Some(all) => self.screen.insert_before(all, bar),
            None => self.screen.add(bar),
        };
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(text::shortened(stage, NAME));
        let sharded = actions + cached > 1;
        let unit = if sharded { "shards" } else { "" }.to_owned();
        let bar = Bar { bar, sharded, unit, pace: Pace::from(at, cached as u64), metrics: BTreeMap::new() };
        bar.say();
        self.bars.insert(stage.to_owned(), bar);
    }

    fn finish(&mut self, stage: &str) {
        if let Some(bar) = self.bars.remove(stage) {
            bar.bar.finish_and_clear();
            self.screen.remove(&bar.bar);
        }
    }

    /// Writes the line on all stages.
    fn overall(&self) {
        if let Some(all) = &self.all {
            let cached = if self.cached > 0 { format!(", {} of them cached", self.cached) } else { String::new() };
            all.set_message(format!("{} of {} done{cached}", self.done, count(self.stages, "stage")));
        }
    }
}

impl Listener for Bars {
    fn hear(&mut self, stamped: &Stamped) {
        match &stamped.event {
            Event::RunStarted { stages, .. } => {
                let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
                let all = self.screen.add(ProgressBar::new_spinner());
                all.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
                all.enable_steady_tick(Duration::from_millis(250));
                (self.all, self.stages) = (Some(all), *stages);
                self.overall();
            }
            Event::Started { stage, actions, cached, .. } => {
                self.finish(stage);
                self.start(stage, *actions, *cached, stamped.at);
            }
            Event::ActionDone { stage, .. } => {
                if let Some(bar) = self.bars.get_mut(stage).filter(|bar| bar.sharded) {
                    bar.bar.inc(1);
                    bar.pace.step(stamped.at, bar.bar.position(), bar.bar.length().unwrap_or(0));
                    bar.say();
                }
            }
            Event::Progress { stage, done, total, unit, .. } => {
                if let Some(bar) = self.bars.get_mut(stage).filter(|bar| !bar.sharded) {
                    bar.bar.set_length(*total);
                    bar.bar.set_position(*done);
                    bar.unit.clone_from(unit);
                    bar.pace.step(stamped.at, *done, *total);
                    bar.say();
                }
            }
            Event::Metric { stage, name, value, .. } => {
                if let Some(bar) = self.bars.get_mut(stage) {
                    bar.metrics.insert(name.clone(), *value);
                }
            }
            Event::Cached { .. } => {
                self.cached += 1;
                self.done += 1;
                self.overall();
            }
            Event::Done { stage, .. } | Event::Failed { stage, .. } | Event::Skipped { stage, .. } => {
                self.finish(stage);
                self.done += 1;
                self.overall();
            }
            Event::RunFinished { .. } => {
                for stage in self.bars.keys().cloned().collect::<Vec<_>>() {
                    self.finish(&stage);
                }
                if let Some(all) = self.all.take() {
                    all.finish_and_clear();
                }
            }
            Event::Submitted { .. } | Event::Waiting { .. } | Event::Warning { .. } => {}
        }
        // That a stage begins is seen from its bar.
        if !matches!(stamped.event, Event::Started { .. })
            && let Some(line) = text::line(&stamped.event)
        {
            // Nobody is left to be told where the terminal is gone; the run goes on.
            let _ = self.screen.println(line);
        }
    }
}
