//! The profile file: what a site's Slurm wants to be told, in TOML. Starts nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::diag::{Diagnostic, Source, Span};
use crate::pipeline::resources::{bytes, time};
use crate::plan::{Resources, Step};

/// What is said of jobs, all of it optional. More special tables count before general ones.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// `--partition`.
    pub partition: Option<String>,
    /// `--account`.
    pub account: Option<String>,
    /// Further arguments of sbatch, one each.
    pub flags: Option<Vec<String>>,
    /// Lines of shell before the program, such as `module load cuda`.
    pub setup: Option<Vec<String>>,
    /// The name of GPUs behind `--gres`, such as `gpu:a100`; by default `gpu`.
    pub gres: Option<String>,
    /// `--cpus-per-task` where the stage does not say.
    pub cpus: Option<u32>,
    /// `--mem` where the stage does not say.
    pub memory: Option<Size>,
    /// `--time` where the stage does not say.
    pub time: Option<Time>,
}

/// A size such as `16GiB`, in bytes.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub struct Size(pub u64);

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        bytes(&text).map(Self)
    }
}

/// A length of time such as `4h`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub struct Time(pub Duration);

impl TryFrom<String> for Time {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        time(&text).map(Self)
    }
}

/// What a site's Slurm wants to be told, and how patient the coordinator is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Profile {
    /// Said of all jobs.
    pub all: Layer,
    /// Said of jobs with a GPU.
    pub gpu: Layer,
    /// Said of jobs without one.
    pub cpu: Layer,
    /// Said of the jobs of single stages.
    pub stages: BTreeMap<String, Layer>,
    /// Most jobs that the shards of one stage are spread over.
    pub array: u32,
    /// Least number of shards that are worth a job.
    pub shards: u32,
    /// Most jobs of one array that run at the same time; without it all.
    pub concurrent: Option<u32>,
    /// How long before its time limit a job is told, to keep a checkpoint and get back into the queue.
    pub notice: Time,
    /// How often the coordinator looks.
    pub poll: Time,
    /// How long a result may take to show on this machine after its job has ended: what a network file system keeps in memory.
    pub settle: Time,
    /// How often a job is submitted anew that was killed from outside.
    pub retries: u32,
    /// How often a job may get back into the queue at its time limit.
    pub requeues: u32,
}

impl Default for Profile {
    fn default() -> Self {
        let seconds = |seconds| Time(Duration::from_secs(seconds));
        Self {
            all: Layer::default(),
            gpu: Layer::default(),
            cpu: Layer::default(),
            stages: BTreeMap::new(),
            array: 16,
            shards: 8,
            concurrent: None,
            notice: seconds(180),
            poll: seconds(10),
            settle: seconds(90),
            retries: 2,
            requeues: 50,
        }
    }
}

/// What one job asks Slurm for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `--partition`.
    pub partition: Option<String>,
    /// `--account`.
    pub account: Option<String>,
    /// Further arguments, the general ones first.
    pub flags: Vec<String>,
    /// Lines of shell, the general ones first.
    pub setup: Vec<String>,
    /// The name of GPUs.
    pub gres: String,
    /// Cores, memory, time.
    pub resources: Resources,
}

impl Profile {
    /// Reads a profile file.
    ///
    /// # Errors
    /// If it cannot be read or says something that a profile does not know.
    pub fn load(path: &Path) -> Result<Self, Diagnostic> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Diagnostic::new(format!("the profile `{name}` cannot be read: {error}")))?;
        let profile: Self = toml::from_str(&text).map_err(|error| {
            let range = error.span().unwrap_or(0..0);
            let source = Arc::new(Source { name: name.clone(), text: text.clone() });
            let title = format!("the profile cannot be read: {}", error.message().trim());
            let fault = Diagnostic::new(title).at(Span { source, range }, "");
            fault.help("docs/cluster.md lists what a profile may say")
        })?;
        if profile.array == 0 || profile.shards == 0 || profile.concurrent == Some(0) {
            let title = format!("in the profile `{name}` `array`, `shards` and `concurrent` must be at least 1");
            return Err(Diagnostic::new(title));
        }
        Ok(profile)
    }

    /// Returns what a job of a step asks for, which has so many GPUs. The profile's table of the stage counts before what the
    /// pipeline says, and that before the profile's general tables.
    pub fn request(&self, step: &Step, gpus: usize) -> Request {
        // A stage of a sweep is named `stage@point`.
        let name = step.name.split('@').next().unwrap_or(&step.name);
        let own = self.stages.get(&step.name).or_else(|| self.stages.get(name));
        let kind = if gpus > 0 { &self.gpu } else { &self.cpu };
        let special: Vec<&Layer> = own.into_iter().chain([kind, &self.all]).collect();
        let general = [kind, &self.all];
        let said = step.resources;
        let of_stage = |of: fn(&Layer) -> Option<u64>| own.and_then(of);
        let of_site = |of: fn(&Layer) -> Option<u64>| general.iter().find_map(|layer| of(layer));
        let pick = |of: fn(&Layer) -> Option<u64>, said: Option<u64>| of_stage(of).or(said).or_else(|| of_site(of));
        let seconds = said.time.map(|time| time.as_secs().max(1));
        let lists = |of: fn(&Layer) -> Option<&Vec<String>>| {
            special.iter().rev().filter_map(|layer| of(layer)).flatten().cloned().collect()
        };
        Request {
            partition: special.iter().find_map(|layer| layer.partition.clone()),
            account: special.iter().find_map(|layer| layer.account.clone()),
            flags: lists(|layer| layer.flags.as_ref()),
            setup: lists(|layer| layer.setup.as_ref()),
            gres: special.iter().find_map(|layer| layer.gres.clone()).unwrap_or_else(|| "gpu".to_owned()),
            resources: Resources {
                gpus: Some(gpus as u32),
                memory: pick(|layer| Some(layer.memory?.0), said.memory),
                cpus: pick(|layer| Some(layer.cpus?.into()), said.cpus.map(u64::from)).map(|cpus| cpus as u32),
                time: pick(|layer| Some(layer.time?.0.as_secs().max(1)), seconds).map(Duration::from_secs),
            },
        }
    }
}
