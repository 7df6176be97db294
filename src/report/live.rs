//! What is known of a run under way, gathered from its events one by one and never larger than a page shows. Reads no files.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use super::html::{Curve, Training};
use super::pace::Pace;
use super::text::{ending, line};
use crate::run::event::{Event, Stamped};

/// Most lines of the log that are kept, the newest.
const LINES: usize = 300;
/// Most points of a curve; beyond, neighbours become their mean.
const POINTS: usize = 400;

/// A run under way.
#[derive(Clone, Debug, Default)]
pub struct Live {
    pipeline: String,
    started: String,
    device: String,
    jobs: usize,
    stages: usize,
    /// Seconds from the start to the last event.
    at: f64,
    outcome: Option<String>,
    tracks: BTreeMap<String, Track>,
    log: VecDeque<String>,
}

/// A stage.
#[derive(Clone, Debug, Default)]
struct Track {
    state: State,
    note: String,
    /// Whether it counts shards.
    sharded: bool,
    done: u64,
    total: u64,
    unit: String,
    began: f64,
    seconds: Option<f64>,
    pace: Option<Pace>,
    traces: BTreeMap<String, Trace>,
}

/// Where a stage stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It runs.
    #[default]
    Running,
    /// Another process does its work.
    Elsewhere,
    /// Its result was there.
    Cached,
    /// It has run.
    Done,
    /// It has failed.
    Failed,
    /// It was left out.
    Skipped,
    /// The run ended before it did.
    Stopped,
}

/// Values of one name, thinned out as they grow.
#[derive(Clone, Debug, Default)]
struct Trace {
    points: Vec<(f64, f64)>,
    /// How many values are one point, less one.
    more: usize,
    /// Sum of the values that are no point yet, and their number.
    rest: (f64, f64, usize),
    last: f64,
}

/// A run as the page shows it.
#[derive(Clone, Debug, Serialize)]
pub struct LiveView {
    /// Its pipeline or sweep.
    pub pipeline: String,
    /// When it began.
    pub started: String,
    /// The device.
    pub device: String,
    /// How many actions can run side by side.
    pub jobs: usize,
    /// Seconds from its start to its last event.
    pub seconds: f64,
    /// What came of it, once it has ended.
    pub outcome: Option<String>,
    /// Number of its stages.
    pub total: usize,
    /// The stages that something is known of.
    pub stages: Vec<TrackView>,
    /// The newest lines of its log.
    pub log: Vec<String>,
    /// Curves of the stages that run.
    pub training: Vec<Training>,
}

/// A stage as the page shows it.
#[derive(Clone, Debug, Serialize)]
pub struct TrackView {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub state: State,
    /// Why it runs, failed or was left out.
    pub note: String,
    /// Units done.
    pub done: u64,
    /// Units in all; 0 where nothing is counted.
    pub total: u64,
    /// What is counted.
    pub unit: String,
    /// Rate and time left, in words; empty before they are known.
    pub pace: String,
    /// What was measured last.
    pub values: Vec<(String, f64)>,
    /// Seconds from the start of the run to its own.
    pub began: f64,
    /// How long it took, once it has ended.
    pub seconds: Option<f64>,
}

impl Live {
    /// Takes one event. Returns whether a result came to be, or the run began or ended: then the rest of the page is old.
    pub fn hear(&mut self, stamped: &Stamped) -> bool {
        self.at = self.at.max(stamped.at);
        if let Some(text) = line(&stamped.event) {
            for text in text.lines() {
                if self.log.len() == LINES {
                    self.log.pop_front();
                }
                self.log.push_back(format!("{:9.2} s  {text}", stamped.at));
            }
        }
        let at = stamped.at;
        match &stamped.event {
            Event::RunStarted { pipeline, stages, jobs, device, started, .. } => {
                let (pipeline, device, started) = (pipeline.clone(), device.clone(), started.clone());
                *self = Self { pipeline, started, device, jobs: *jobs, stages: *stages, at, ..Self::default() };
                return true;
            }
            Event::Started { stage, reason, actions, cached, .. } => {
                let (done, total) = (*cached as u64, (actions + cached) as u64);
                let sharded = total > 1;
                let mut track = Track { note: reason.clone(), sharded, began: at, ..Track::default() };
                if sharded {
                    (track.done, track.total, track.unit) = (done, total, "shards".to_owned());
                }
                track.pace = Some(Pace::from(at, done));
                self.tracks.insert(stage.clone(), track);
            }
            // The log has its line; the stage is shown when its job begins.
            Event::Submitted { .. } => {}
            Event::Waiting { stage, host, process } => {
                let track = self.tracks.entry(stage.clone()).or_default();
                track.state = State::Elsewhere;
                track.note = format!("process {process} on {host} does the same work");
            }
            Event::ActionDone { stage, .. } => {
                if let Some(track) = self.tracks.get_mut(stage).filter(|track| track.sharded) {
                    let (done, total) = ((track.done + 1).min(track.total), track.total);
                    track.progress(at, done, total);
                }
            }
            Event::Progress { stage, done, total, unit, .. } => {
                let track = self.tracks.entry(stage.clone()).or_default();
                if !track.sharded {
                    track.unit.clone_from(unit);
                    track.progress(at, *done, *total);
                }
            }
            Event::Metric { stage, name, step, value } => {
                let track = self.tracks.entry(stage.clone()).or_default();
                track.state = State::Running;
                track.traces.entry(name.clone()).or_default().push(*step as f64, *value);
            }
            Event::Cached { stage, .. } => {
                self.end(stage, State::Cached, String::new(), None);
                return true;
            }
            Event::Done { stage, seconds, .. } => {
                self.end(stage, State::Done, String::new(), Some(*seconds));
                return true;
            }
            Event::Failed { stage, message, seconds, .. } => {
                self.end(stage, State::Failed, message.clone(), Some(*seconds));
                return true;
            }
            Event::Skipped { stage, reason } => {
                self.end(stage, State::Skipped, reason.clone(), None);
                return true;
            }
            event @ Event::RunFinished { .. } => {
                self.outcome = ending(event);
                for track in self.tracks.values_mut() {
                    if matches!(track.state, State::Running | State::Elsewhere) {
                        track.state = State::Stopped;
                    }
                }
                return true;
            }
            Event::Warning { .. } => {}
        }
        false
    }

    fn end(&mut self, stage: &str, state: State, note: String, seconds: Option<f64>) {
        let track = self.tracks.entry(stage.to_owned()).or_default();
        (track.state, track.seconds) = (state, seconds);
        if !note.is_empty() {
            track.note = note;
        }
        if track.state == State::Done && track.total > 0 {
            track.done = track.total;
        }
        // Curves of what has ended stand in the page's own part.
        track.traces.clear();
        track.pace = None;
    }

    /// Whether the run has ended.
    pub fn has_ended(&self) -> bool {
        self.outcome.is_some()
    }

    /// Returns the run as the page shows it.
    pub fn view(&self) -> LiveView {
        let stages = self.tracks.iter().map(|(name, track)| TrackView {
            name: name.clone(),
            state: track.state,
            note: track.note.clone(),
            done: track.done,
            total: track.total,
            unit: track.unit.clone(),
            pace: track.pace.as_ref().map(Pace::text).unwrap_or_default().trim_start_matches(", ").to_owned(),
            values: track.traces.iter().map(|(name, trace)| (name.clone(), trace.last)).collect(),
            began: track.began,
            seconds: track.seconds,
        });
        let running = self.tracks.iter().filter(|(_, track)| track.state == State::Running);
        let training = running.filter_map(|(stage, track)| {
            let curves: Vec<Curve> = track.traces.iter().filter_map(|(name, trace)| trace.curve(name)).collect();
            (!curves.is_empty()).then(|| Training { stage: stage.clone(), run: String::new(), curves })
        });
        LiveView {
            pipeline: self.pipeline.clone(),
            started: self.started.clone(),
            device: self.device.clone(),
            jobs: self.jobs,
            seconds: self.at,
            outcome: self.outcome.clone(),
            total: self.stages,
            stages: stages.collect(),
            log: self.log.iter().cloned().collect(),
            training: training.collect(),
        }
    }
}

impl Track {
    fn progress(&mut self, at: f64, done: u64, total: u64) {
        (self.done, self.total, self.state) = (done, total, State::Running);
        self.pace.get_or_insert_with(|| Pace::from(at, done)).step(at, done, total);
    }
}

impl Trace {
    fn push(&mut self, step: f64, value: f64) {
        self.last = value;
        if !value.is_finite() {
            return;
        }
        self.rest = (self.rest.0 + step, self.rest.1 + value, self.rest.2 + 1);
        if self.rest.2 <= self.more {
            return;
        }
        let number = self.rest.2 as f64;
        self.points.push((self.rest.0 / number, self.rest.1 / number));
        self.rest = (0.0, 0.0, 0);
        if self.points.len() == POINTS {
            let mean = |pair: &[(f64, f64)]| (f64::midpoint(pair[0].0, pair[1].0), f64::midpoint(pair[0].1, pair[1].1));
            self.points = self.points.chunks_exact(2).map(mean).collect();
            self.more = 2 * self.more + 1;
        }
    }

    /// Returns the curve, once it has two points.
    fn curve(&self, name: &str) -> Option<Curve> {
        (self.points.len() > 1).then(|| Curve { name: name.to_owned(), points: self.points.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn hear(live: &mut Live, at: f64, event: Event) -> bool {
        live.hear(&Stamped { at, event })
    }

    fn begun() -> Live {
        let mut live = Live::default();
        let event = Event::RunStarted {
            pipeline: "p".into(),
            stages: 3,
            jobs: 2,
            device: "cpu".into(),
            started: "now".into(),
            version: "0".into(),
        };
        assert!(hear(&mut live, 0.0, event));
        live
    }

    fn started(stage: &str, actions: usize, cached: usize) -> Event {
        Event::Started { stage: stage.into(), key: Digest::of(b""), reason: "why".into(), actions, cached }
    }

    #[test]
    fn a_stage_goes_from_running_to_done() {
        let mut live = begun();
        assert!(!hear(&mut live, 1.0, started("a", 1, 0)));
        for step in 1..=4 {
            let stage = "a".to_owned();
            let unit = "steps".to_owned();
            hear(&mut live, 1.0 + step as f64, Event::Progress { stage, bucket: None, done: step, total: 8, unit });
            let (stage, name) = ("a".to_owned(), "loss".to_owned());
            hear(&mut live, 1.0 + step as f64, Event::Metric { stage, name, step, value: 1.0 / step as f64 });
        }
        let view = live.view();
        let track = &view.stages[0];
        assert_eq!((track.state, track.done, track.total, track.unit.as_str()), (State::Running, 4, 8, "steps"));
        assert_eq!(track.pace, "1.0/s, 4.0 s left");
        assert_eq!(track.values, [("loss".to_owned(), 0.25)]);
        assert_eq!(view.training[0].curves[0].points.len(), 4);
        let done = Event::Done { stage: "a".into(), key: Digest::of(b""), output: Digest::of(b""), seconds: 4.0 };
        assert!(hear(&mut live, 5.0, done));
        let view = live.view();
        assert_eq!((view.stages[0].state, view.stages[0].done), (State::Done, 8));
        assert!(view.training.is_empty());
        assert_eq!(view.log, ["     1.00 s  a: runs (why)", "     5.00 s  a: done in 4.0 s"]);
    }

    #[test]
    fn shards_are_counted_and_what_runs_at_the_end_was_stopped() {
        let mut live = begun();
        hear(&mut live, 1.0, started("a", 3, 2));
        let (device, slots) = (None, Vec::new());
        hear(&mut live, 2.0, Event::ActionDone { stage: "a".into(), bucket: Some(1), seconds: 1.0, device, slots });
        // Progress within a shard says nothing of the whole.
        let (stage, unit) = ("a".to_owned(), "images".to_owned());
        hear(&mut live, 2.0, Event::Progress { stage, bucket: Some(2), done: 7, total: 9, unit });
        let track = live.view().stages.remove(0);
        assert_eq!((track.done, track.total, track.unit.as_str()), (3, 5, "shards"));
        let (ran, cached, failed, skipped) = (0, 0, 0, 3);
        hear(&mut live, 3.0, Event::RunFinished { ran, cached, failed, skipped, interrupted: true, seconds: 3.0 });
        assert!(live.has_ended());
        assert_eq!(live.view().stages[0].state, State::Stopped);
        assert!(live.view().outcome.is_some_and(|text| text.ends_with(", interrupted")));
    }

    #[test]
    fn what_is_kept_does_not_grow() {
        let mut live = begun();
        hear(&mut live, 0.0, started("a", 1, 0));
        for step in 0..100_000 {
            let (stage, name) = ("a".to_owned(), "loss".to_owned());
            hear(&mut live, 0.1, Event::Metric { stage, name, step, value: step as f64 });
        }
        for _ in 0..1000 {
            hear(&mut live, 0.1, Event::Warning { stage: None, message: "one\ntwo".into() });
        }
        let view = live.view();
        assert_eq!(view.log.len(), LINES);
        let points = &view.training[0].curves[0].points;
        assert!((POINTS / 2..POINTS).contains(&points.len()), "{}", points.len());
        // The mean of neighbours lies on the same line.
        assert!(points.iter().all(|(step, value)| (step - value).abs() < 1e-6));
        assert!(points.is_sorted_by(|one, other| one.0 < other.0));
    }
}
