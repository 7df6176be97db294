//! A bar per running stage, for terminals.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Listener, text};
use crate::run::event::{Event, Stamped};

/// Draws a bar per running stage on stderr, and lines above them.
pub struct Bars {
    screen: MultiProgress,
    bars: BTreeMap<String, Bar>,
}

struct Bar {
    bar: ProgressBar,
    /// Whether it counts shards.
    sharded: bool,
    metrics: BTreeMap<String, f64>,
}

impl Default for Bars {
    fn default() -> Self {
        Self::new()
    }
}

impl Bars {
    /// Makes a listener that draws on stderr.
    pub fn new() -> Self {
        Self { screen: MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)), bars: BTreeMap::new() }
    }

    fn start(&mut self, stage: &str, actions: usize) {
        let style = ProgressStyle::with_template("{prefix:16} {bar:24} {pos}/{len} {msg} {elapsed}");
        let bar = self.screen.add(ProgressBar::new(actions as u64));
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(stage.to_owned());
        bar.enable_steady_tick(Duration::from_millis(500));
        let sharded = actions > 1;
        bar.set_message(if sharded { "shards" } else { "" });
        self.bars.insert(stage.to_owned(), Bar { bar, sharded, metrics: BTreeMap::new() });
    }

    fn finish(&mut self, stage: &str) {
        if let Some(bar) = self.bars.remove(stage) {
            bar.bar.finish_and_clear();
            self.screen.remove(&bar.bar);
        }
    }
}

impl Listener for Bars {
    fn hear(&mut self, stamped: &Stamped) {
        match &stamped.event {
            Event::Started { stage, actions, .. } => {
                self.finish(stage);
                self.start(stage, *actions);
            }
            Event::ActionDone { stage, .. } => {
                if let Some(bar) = self.bars.get(stage).filter(|bar| bar.sharded) {
                    bar.bar.inc(1);
                }
            }
            Event::Progress { stage, done, total, unit, .. } => {
                if let Some(bar) = self.bars.get(stage).filter(|bar| !bar.sharded) {
                    bar.bar.set_length(*total);
                    bar.bar.set_position(*done);
                    let metrics: String =
                        bar.metrics.iter().map(|(name, value)| format!(" {name} {value:.4}")).collect();
                    bar.bar.set_message(format!("{unit}{metrics}"));
                }
            }
            Event::Metric { stage, name, value, .. } => {
                if let Some(bar) = self.bars.get_mut(stage) {
                    bar.metrics.insert(name.clone(), *value);
                }
            }
            Event::Done { stage, .. } | Event::Failed { stage, .. } | Event::Skipped { stage, .. } => {
                self.finish(stage);
            }
            Event::RunFinished { .. } => {
                for stage in self.bars.keys().cloned().collect::<Vec<_>>() {
                    self.finish(&stage);
                }
            }
            Event::RunStarted { .. } | Event::Cached { .. } | Event::Waiting { .. } | Event::Warning { .. } => {}
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
