//! What the verbs that look into the cache share: its folder, the developers' log, and results as tables and JSON.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr as _;

use serde_json::{Value, json};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::Failure;
use crate::kind::Kind;
use crate::pipeline::resources::bytes;
use crate::plan::Plan;
use crate::report::http::address;
use crate::report::text::{Align, count, table};
use crate::run::slots::Names;
use crate::run::{Outcome, Status, StepOutcome};
use crate::slurm::profile::Profile;
use crate::store::Store;

/// Where the cache is.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CacheDir {
    /// The folder of results
    #[arg(long = "cache", value_name = "DIR", env = "ORANDFLOW_CACHE", default_value = "cache")]
    pub(crate) cache: PathBuf,
}

impl CacheDir {
    /// Opens the cache.
    pub(crate) fn open(&self) -> Result<Store, Failure> {
        Store::open(&self.cache).map_err(|error| {
            let message = error.to_string();
            match error.cause.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                    let help = "make room on the disk; nothing that is complete has to be made again".to_owned();
                    Failure::Message { message, help: Some(help), code: 1 }
                }
                _ => {
                    let help = "give a folder that can be written with `--cache DIR` or ORANDFLOW_CACHE".to_owned();
                    Failure::Message { message, help: Some(help), code: 2 }
                }
            }
        })
    }
}

/// How a pipeline is carried out. `plan` takes the same, so that one word turns a command line into the other.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct HowArgs {
    /// Where networks run: `cpu`, or `libtorch` and `cuda:N` in a build with LibTorch; no part of any key
    #[arg(long, default_value = "cpu")]
    pub(crate) device: String,

    /// Several devices, such as `cuda:0,cuda:1`: each is had by one action at a time, so that so many trainings run side by
    /// side; one that is named twice is had by two
    #[arg(long, value_name = "DEVICE,...", value_delimiter = ',', conflicts_with = "device")]
    pub(crate) devices: Vec<String>,

    /// How many actions run side by side on the processor; those on other devices come on top [default: number of cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) jobs: Option<u16>,

    /// How much memory those actions may take together whose stages say how much they need, such as `64GiB` [default: all]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub(crate) memory: Option<u64>,

    /// Let stages that do not depend on a failed one go on (the default)
    #[arg(long, conflicts_with = "fail_fast")]
    pub(crate) keep_going: bool,

    /// Stop at the first failure
    #[arg(long)]
    pub(crate) fail_fast: bool,

    /// Print one JSON object at the end instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

impl HowArgs {
    /// Returns the devices of the run.
    pub(crate) fn names(&self) -> Result<Names, Failure> {
        let names = if self.devices.is_empty() { std::slice::from_ref(&self.device) } else { &self.devices[..] };
        Names::of(names).map_err(|message| Failure::Message { message, help: None, code: 2 })
    }

    /// Returns how many actions may run side by side.
    pub(crate) fn cores(&self) -> usize {
        self.jobs.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from)
    }

    /// Returns how much memory actions may take together, in bytes.
    pub(crate) fn most_memory(&self) -> Option<u64> {
        self.memory.or_else(memory_of_this_machine)
    }
}

/// Returns how much memory this machine has, or how much of it this process may have; `None` where the system does not say.
pub(crate) fn memory_of_this_machine() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let all = line.split_whitespace().next()?.parse::<u64>().ok()?.saturating_mul(1024);
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    Some(limit.map_or(all, |limit: u64| limit.min(all)))
}

/// Who carries the work out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Executor {
    /// This process, on this machine
    #[default]
    Local,
    /// A job of Slurm for each stage, with results through the shared cache; see docs/cluster.md
    Slurm,
}

/// Where work is carried out.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ExecutorArgs {
    /// Who carries the stages out
    #[arg(long, value_enum, default_value_t)]
    pub(crate) executor: Executor,

    /// With Slurm: the file that says what the site wants to be told, such as partitions and accounts
    #[arg(long, value_name = "FILE", env = "ORANDFLOW_SLURM_PROFILE")]
    pub(crate) profile: Option<PathBuf>,

    /// With Slurm: end when everything is submitted; the same command without this waits for it later
    #[arg(long)]
    pub(crate) detach: bool,
}

impl ExecutorArgs {
    /// Returns the site's profile.
    pub(crate) fn profile(&self) -> Result<Profile, Failure> {
        let profile = self.profile.as_deref().map(Profile::load).transpose();
        Ok(profile.map_err(|fault| Failure::Diagnostics(vec![fault]))?.unwrap_or_default())
    }

    /// Refuses what only Slurm knows.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.executor == Executor::Local && self.detach {
            let message = "`--detach` leaves jobs to Slurm, and this run has none".to_owned();
            return Err(Failure::Message { message, help: Some("add `--executor slurm`".to_owned()), code: 2 });
        }
        Ok(())
    }
}

/// Which stages are meant.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct OnlyArgs {
    /// Run only this stage and what it depends on; may be repeated
    #[arg(long, value_name = "STAGE")]
    pub(crate) only: Vec<String>,
}

/// The developers' log.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LogArgs {
    /// Write a developers' log to stderr: `info`, `debug`, or `TARGET=LEVEL,...`
    #[arg(long = "log", value_name = "LEVEL", value_parser = Targets::from_str)]
    pub(crate) log: Option<Targets>,

    /// Form of the developers' log; without `--log`, of what is told of the run: `json` writes every event as a line
    #[arg(long = "log-format", value_name = "FORMAT", default_value = "plain")]
    pub(crate) log_format: LogFormat,

    /// Show the run as a page while it goes on, for this machine alone: at a port that is free, or with `--serve=PORT`
    #[arg(
        long,
        value_name = "ADDRESS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "127.0.0.1:0",
        value_parser = address
    )]
    pub(crate) serve: Option<SocketAddr>,
}

/// Form of the developers' log.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    Plain,
    /// A JSON object a line
    Json,
}

impl LogArgs {
    /// Starts the log, if it is asked for.
    pub(crate) fn start(&self) {
        let Some(targets) = self.log.clone() else { return };
        let registry = tracing_subscriber::registry().with(targets);
        // Only a library user can have started one before; theirs stays.
        let _ = match self.log_format {
            LogFormat::Plain => registry.with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr)).try_init(),
            LogFormat::Json => {
                registry.with(tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr)).try_init()
            }
        };
    }
}

/// A failure of the outside world, as it is.
pub(crate) fn outside(error: &std::io::Error) -> Failure {
    Failure::Message { message: error.to_string(), help: None, code: 1 }
}

/// Returns `metrics.json` of every step that makes metrics and whose result is there, by stage, in order of the plan.
pub(crate) fn metrics(plan: &Plan, store: &Store, steps: &[StepOutcome]) -> Vec<(String, Value)> {
    let made = steps.iter().filter_map(|step| Some((step, step.output.as_ref()?)));
    made.filter(|(step, _)| plan.steps[step.step].kind.spec().output == Kind::Metrics)
        .filter_map(|(step, output)| {
            let entry = output.manifest.entries.get("metrics.json")?;
            let value = serde_json::from_slice(&store.get(entry.digest).ok()?).ok()?;
            Some((plan.steps[step.step].name.clone(), value))
        })
        .collect()
}

/// Returns the metrics as a table in percent, with what was scored and a mark where ground truth chose a threshold; empty if there
/// are none.
pub(crate) fn metrics_table(metrics: &[(String, Value)]) -> String {
    if metrics.is_empty() {
        return String::new();
    }
    let percent = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{:.1}", 100.0 * value));
    let is_oracle = |value: &Value| value["protocol"]["oracle"].as_bool().unwrap_or(false);
    let rows: Vec<Vec<String>> = metrics
        .iter()
        .map(|(stage, value)| {
            let mut row = vec![format!("{stage}{}", if is_oracle(value) { "\u{2020}" } else { "" })];
            row.extend(["miou", "precision", "recall"].map(|name| percent(value.get(name).and_then(Value::as_f64))));
            let protocol = &value["protocol"];
            let images = protocol["images"].as_u64().and_then(|images| usize::try_from(images).ok());
            let split = protocol["split"].as_str().map(|split| format!(" of `{split}`")).unwrap_or_default();
            row.push(images.map_or("-".to_owned(), |images| format!("{}{split}", count(images, "image"))));
            row
        })
        .collect();
    let (left, right) = (Align::Left, Align::Right);
    let titles = [("stage", left), ("mIoU %", right), ("precision %", right), ("recall %", right), ("scored on", left)];
    let mut text = table(&titles, &rows);
    if metrics.iter().any(|(_, value)| is_oracle(value)) {
        text.push_str("\u{2020} oracle: ground truth of the scored images chose the threshold\n");
    }
    text
}

/// Returns the number of stages in each state: `13 stages: 2 ran, 11 cached`.
pub(crate) fn summary(outcome: &Outcome) -> String {
    let order = [Status::Ran, Status::ToRun, Status::Unknown, Status::Failed, Status::Skipped, Status::Cached];
    let parts: Vec<String> = order
        .into_iter()
        .map(|status| (outcome.count(status), status))
        .filter(|(number, _)| *number > 0)
        .map(|(number, status)| format!("{number} {}", status.word().replace('-', " ")))
        .collect();
    let stages = count(outcome.steps.len(), "stage");
    let parts = if parts.is_empty() { "nothing to do".to_owned() } else { parts.join(", ") };
    format!("{stages}: {parts}")
}

/// Returns the one object of `--json`.
pub(crate) fn json(plan: &Plan, outcome: &Outcome, metrics: &[(String, Value)]) -> Value {
    let metrics: serde_json::Map<String, Value> = metrics.iter().cloned().collect();
    json!({
        "pipeline": plan.pipeline,
        "stages": stages_json(plan, outcome),
        "metrics": metrics,
        "interrupted": outcome.interrupted,
        "seconds": outcome.seconds,
    })
}

/// Returns what became of each stage, for `--json`.
pub(crate) fn stages_json(plan: &Plan, outcome: &Outcome) -> Vec<Value> {
    outcome
        .steps
        .iter()
        .map(|step| {
            json!({
                "name": plan.steps[step.step].name,
                "kind": plan.steps[step.step].kind.spec().name,
                "key": step.key,
                "status": step.status.word(),
                "seconds": step.seconds,
                "reason": step.reason,
                "output": step.output.as_ref().map(|output| output.digest),
            })
        })
        .collect()
}
