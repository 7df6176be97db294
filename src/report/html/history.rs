//! The events of runs as curves, logs and a timeline. Reads no files.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::digest::Digest;
use crate::report::text::{ending, line};
use crate::run::event::{Event, Stamped};

/// Most points of a curve: more than a plot has pixels would only weigh.
const POINTS: usize = 400;
/// Most actions in a timeline; of more, the longest are kept.
const ACTIONS: usize = 3000;
/// Most lines of a stage's log.
const LINES: usize = 200;

/// What a stage measured while it trained.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Training {
    /// The stage.
    pub stage: String,
    /// The run in which it did.
    pub run: String,
    /// The curves by name.
    pub curves: Vec<Curve>,
}

/// A measured value over the steps.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Curve {
    /// Its name.
    pub name: String,
    /// Step and value; of many, the mean of neighbours.
    pub points: Vec<(f64, f64)>,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Run {
    /// Name of its folder.
    pub name: String,
    /// When it began.
    pub started: String,
    /// The device.
    pub device: String,
    /// How many actions could run side by side.
    pub jobs: usize,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// What came of it, in words.
    pub outcome: String,
    /// What was done when.
    pub work: Vec<Work>,
}

/// An action.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Work {
    /// Its stage.
    pub stage: String,
    /// Its bucket, for a shard.
    pub bucket: Option<u32>,
    /// The worker: actions of one worker do not overlap.
    pub lane: usize,
    /// When it began, in seconds since the run did.
    pub start: f64,
    /// When it ended.
    pub end: f64,
    /// Whether it failed.
    pub failed: bool,
}

/// Returns the key of each stage that began in a run.
pub fn keys(events: &[Stamped]) -> BTreeMap<String, Digest> {
    let begun = events.iter().filter_map(|stamped| match &stamped.event {
        Event::Started { stage, key, .. } => Some((stage.clone(), *key)),
        _ => None,
    });
    begun.collect()
}

/// Returns the curves of a stage in a run.
pub fn curves(events: &[Stamped], stage: &str) -> Vec<Curve> {
    let mut curves: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for stamped in events {
        if let Event::Metric { stage: of, name, step, value } = &stamped.event
            && of == stage
            && value.is_finite()
        {
            curves.entry(name).or_default().push((*step as f64, *value));
        }
    }
    curves
        .into_iter()
        .filter(|(_, points)| points.len() > 1)
        .map(|(name, points)| {
            let together = points.len().div_ceil(POINTS);
            let mean = |points: &[(f64, f64)]| {
                let count = points.len() as f64;
                let sum = points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
                (sum.0 / count, sum.1 / count)
            };
            Curve { name: name.to_owned(), points: points.chunks(together).map(mean).collect() }
        })
        .collect()
}

/// Returns what a person reads of a stage in a run, with its times.
pub fn log(events: &[Stamped], stage: &str) -> Vec<String> {
    let about = |event: &Event| match event {
        Event::Started { stage, .. }
        | Event::Done { stage, .. }
        | Event::Failed { stage, .. }
        | Event::Skipped { stage, .. }
        | Event::Warning { stage: Some(stage), .. } => Some(stage.clone()),
        _ => None,
    };
    let own = events.iter().filter(|stamped| about(&stamped.event).as_deref() == Some(stage));
    own.filter_map(|stamped| Some(format!("{:9.2} s  {}", stamped.at, line(&stamped.event)?))).take(LINES).collect()
}

/// Returns the timeline of a run.
///
/// Events say when an action ended and how long it took. Which thread did it they do not say; so each action is given to the
/// first worker that was free, which shows as many workers as actions ran side by side.
pub fn run(name: &str, events: &[Stamped]) -> Option<Run> {
    let (mut started, mut device, mut jobs) = (String::new(), String::new(), 0);
    let mut outcome = "it has not ended".to_owned();
    let mut seconds = 0.0_f64;
    let mut work = Vec::new();
    for stamped in events {
        seconds = seconds.max(stamped.at);
        let mut note = |stage: &str, bucket: Option<u32>, took: f64, failed: bool| {
            let start = (stamped.at - took).max(0.0);
            work.push(Work { stage: stage.to_owned(), bucket, lane: 0, start, end: stamped.at, failed });
        };
        match &stamped.event {
            Event::RunStarted { started: when, device: on, jobs: count, .. } => {
                (started, device, jobs) = (when.clone(), on.clone(), *count);
            }
            Event::ActionDone { stage, bucket, seconds, .. } => note(stage, *bucket, *seconds, false),
            Event::Failed { stage, seconds, .. } => note(stage, None, *seconds, true),
            event => outcome = ending(event).unwrap_or(outcome),
        }
    }
    if started.is_empty() {
        return None;
    }
    work.sort_by(|one: &Work, other: &Work| (other.end - other.start).total_cmp(&(one.end - one.start)));
    work.truncate(ACTIONS);
    work.sort_by(|one, other| one.start.total_cmp(&other.start));
    let mut free: Vec<f64> = Vec::new();
    for action in &mut work {
        // Clocks are read a little apart, so that a touch is no overlap.
        let found = free.iter().position(|until| *until <= action.start + 1e-3);
        action.lane = found.unwrap_or(free.len());
        match found {
            Some(lane) => free[lane] = action.end,
            None => free.push(action.end),
        }
    }
    Some(Run { name: name.to_owned(), started, device, jobs, seconds, outcome, work })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(at: f64, stage: &str, seconds: f64) -> Stamped {
        Stamped {
            at,
            event: Event::ActionDone {
                stage: stage.to_owned(),
                bucket: None,
                seconds,
                device: None,
                slots: Vec::new(),
            },
        }
    }

    fn begun() -> Stamped {
        let event = Event::RunStarted {
            pipeline: "p".into(),
            stages: 3,
            jobs: 2,
            device: "cpu".into(),
            started: "now".into(),
            version: "0".into(),
        };
        Stamped { at: 0.0, event }
    }

    #[test]
    fn actions_that_overlap_have_different_workers() {
        let events = [begun(), done(2.0, "a", 2.0), done(3.0, "b", 2.5), done(4.0, "c", 1.9)];
        let run = run("r", &events).expect("it began");
        let lanes: Vec<(&str, usize)> = run.work.iter().map(|work| (work.stage.as_str(), work.lane)).collect();
        assert_eq!(lanes, [("a", 0), ("b", 1), ("c", 0)]);
        assert_eq!(run.outcome, "it has not ended");
    }

    #[test]
    fn long_curves_are_means_of_neighbours() {
        let metric = |step: u64| Event::Metric { stage: "a".into(), name: "loss".into(), step, value: step as f64 };
        let events: Vec<Stamped> = (0..1000).map(|step| Stamped { at: 0.0, event: metric(step) }).collect();
        let curves = curves(&events, "a");
        assert_eq!(curves.len(), 1);
        assert_eq!(curves[0].points.len(), 334);
        assert_eq!(curves[0].points[0], (1.0, 1.0));
        assert!(super::curves(&events, "b").is_empty());
    }
}
