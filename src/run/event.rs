//! What happened, with stable names: the only thing that leaves a run while it is under way.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// An event and when it happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stamped {
    /// Seconds since the run started.
    pub at: f64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event")]
pub enum Event {
    /// The run begins.
    #[serde(rename = "run.started")]
    RunStarted {
        /// Name of the pipeline.
        pipeline: String,
        /// Number of stages.
        stages: usize,
        /// How many actions can run side by side.
        jobs: usize,
        /// The device; several with commas.
        device: String,
        /// When, in UTC as RFC 3339.
        started: String,
        /// Version of this program.
        version: String,
    },
    /// A stage's result was in the cache.
    #[serde(rename = "step.cached")]
    Cached {
        /// Name of the stage.
        stage: String,
        /// Key of the stage's action.
        key: Digest,
        /// Digest of its artifact.
        output: Digest,
    },
    /// A stage begins.
    #[serde(rename = "step.started")]
    Started {
        /// Name of the stage.
        stage: String,
        /// Key of the stage's action.
        key: Digest,
        /// Why it runs.
        reason: String,
        /// Number of actions to run.
        actions: usize,
        /// Number of actions whose results are there already.
        cached: usize,
    },
    /// A job of a cluster will make the stage.
    #[serde(rename = "step.submitted")]
    Submitted {
        /// Name of the stage.
        stage: String,
        /// The job's number.
        job: u64,
        /// How many tasks it has.
        parts: u32,
        /// The jobs that it waits for.
        after: Vec<u64>,
        /// Whether somebody else had submitted it already.
        adopted: bool,
    },
    /// Another process does the work of a stage, or a part of it; this one waits for its result.
    #[serde(rename = "step.waiting")]
    Waiting {
        /// Name of the stage.
        stage: String,
        /// Where that process runs.
        host: String,
        /// Its number there.
        process: u32,
    },
    /// An action of a stage has ended well.
    #[serde(rename = "action.done")]
    ActionDone {
        /// Name of the stage.
        stage: String,
        /// The action's bucket, for a shard.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bucket: Option<u32>,
        /// How long it took, in seconds.
        seconds: f64,
        /// The device that it had for itself, if it had one; several with commas.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        /// The slots of the run that this device is, counted from 0: no two actions have one at the same time.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        slots: Vec<usize>,
    },
    /// So much of an action is done.
    #[serde(rename = "step.progress")]
    Progress {
        /// Name of the stage.
        stage: String,
        /// The action's bucket, for a shard.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bucket: Option<u32>,
        /// Units done.
        done: u64,
        /// Units in all.
        total: u64,
        /// What is counted.
        unit: String,
    },
    /// A measured value.
    #[serde(rename = "step.metric")]
    Metric {
        /// Name of the stage.
        stage: String,
        /// Name of the value.
        name: String,
        /// The step it belongs to.
        step: u64,
        /// The value.
        value: f64,
    },
    /// Something the user should know; of a stage, or of the cache.
    #[serde(rename = "warning")]
    Warning {
        /// Name of the stage, if it is about one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stage: Option<String>,
        /// What.
        message: String,
    },
    /// A stage has ended well.
    #[serde(rename = "step.done")]
    Done {
        /// Name of the stage.
        stage: String,
        /// Key of the stage's action.
        key: Digest,
        /// Digest of its artifact.
        output: Digest,
        /// How long it took, in seconds.
        seconds: f64,
    },
    /// A stage has failed.
    #[serde(rename = "step.failed")]
    Failed {
        /// Name of the stage.
        stage: String,
        /// Why.
        message: String,
        /// What to try.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        help: Option<String>,
        /// How long it took, in seconds.
        seconds: f64,
    },
    /// A stage was left out.
    #[serde(rename = "step.skipped")]
    Skipped {
        /// Name of the stage.
        stage: String,
        /// Why.
        reason: String,
    },
    /// The run ends.
    #[serde(rename = "run.finished")]
    RunFinished {
        /// Stages that ran.
        ran: usize,
        /// Stages whose results were there.
        cached: usize,
        /// Stages that failed.
        failed: usize,
        /// Stages that were left out.
        skipped: usize,
        /// Whether the user stopped it.
        interrupted: bool,
        /// How long it took, in seconds.
        seconds: f64,
    },
}
