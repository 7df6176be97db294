//! `orandflow exec`, hidden: one stage of a plan, or a part of its shards, inside a job of a cluster; and the plan file that tells
//! it what to do.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::Failure;
use super::engine::{memory_of_this_machine, outside};
use super::run::{INTERRUPTED, exit_code, stop_on_interrupt};
use crate::diag::Source;
use crate::digest::Digest;
use crate::plan::prepare::{Part, Planner};
use crate::plan::{self, Plan};
use crate::report::jsonl::Jsonl;
use crate::report::plain::Plain;
use crate::report::{Listener, Reporter};
use crate::run::event::{Event, Stamped};
use crate::run::slots::Names;
use crate::run::{Options, Outcome, Status, Survey, choose, run as carry_out};
use crate::slurm::queue;
use crate::slurm::report::{End, FOLDERS, write_end};
use crate::slurm::script::{PLAN, label};
use crate::stages;
use crate::store::Store;
use crate::store::files::Files;
use crate::sweep::{self, Sweep};

/// Version of [`PlanFile`]. One of another version is refused.
const PLAN_VERSION: u32 = 1;

/// How long a job that is back in the queue waits for Slurm to end it.
const ENDED_WITHIN: Duration = Duration::from_secs(60);

/// How often a result that does not show yet is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A plan as jobs read it: the texts, not the files, so that an edit does not change what is under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PlanFile {
    version: u32,
    /// The program, its length and when it was written: another one may mean other keys.
    program: (PathBuf, u64, SystemTime),
    /// The working directory.
    folder: PathBuf,
    cache: PathBuf,
    /// The file as given, which names the pipeline.
    file: PathBuf,
    /// Names and texts of the files, the base of a sweep first.
    sources: Vec<(String, String)>,
    set: Vec<String>,
    sweep: bool,
    restart: Vec<String>,
}

/// A plan that was read from a plan file.
pub(crate) enum Loaded {
    /// Of a pipeline.
    Plan(Plan),
    /// Of a sweep.
    Sweep(Sweep),
}

impl Loaded {
    /// Returns the plan.
    pub(crate) fn plan(&self) -> &Plan {
        match self {
            Self::Plan(plan) => plan,
            Self::Sweep(sweep) => &sweep.plan,
        }
    }
}

impl PlanFile {
    /// Makes the plan file of a pipeline.
    pub(crate) fn of_pipeline(file: &Path, set: &[String], cache: &Path, restart: &[String]) -> Result<Self, Failure> {
        let text = fs_err::read_to_string(file).map_err(|error| outside(&error))?;
        let sources = vec![(file.display().to_string(), text)];
        Self::new(file, sources, set.to_vec(), false, cache, restart)
    }

    /// Makes the plan file of a sweep.
    pub(crate) fn of_sweep(file: &Path, set: &[String], cache: &Path) -> Result<Self, Failure> {
        let sweep::Texted { sources, sets, .. } = sweep::texts(file, set).map_err(Failure::Diagnostics)?;
        let sources = sources.into_iter().map(|source| (source.name, source.text)).collect();
        Self::new(file, sources, sets, true, cache, &[])
    }

    fn new(
        file: &Path,
        sources: Vec<(String, String)>,
        set: Vec<String>,
        sweep: bool,
        cache: &Path,
        restart: &[String],
    ) -> Result<Self, Failure> {
        let here = || Ok((program()?, std::env::current_dir()?, std::path::absolute(cache)?));
        let (program, folder, cache) = here().map_err(|error| outside(&error))?;
        let (file, restart) = (file.to_owned(), restart.to_vec());
        Ok(Self { version: PLAN_VERSION, program, folder, cache, file, sources, set, sweep, restart })
    }

    /// Returns the path of the program.
    pub(crate) fn program(&self) -> &Path {
        &self.program.0
    }

    /// Returns what tells this plan from others, whoever carries it out.
    pub(crate) fn identity(&self) -> String {
        let Self { version, program: _, folder, cache, file, sources, set, sweep, restart: _ } = self;
        Digest::of_json(&(version, folder, cache, file, sources, set, sweep)).short()
    }

    /// Reads the plan.
    pub(crate) fn load(&self) -> Result<Loaded, Failure> {
        let catalog = stages::catalog();
        if self.sweep {
            let sources = self.sources.iter().map(|(name, text)| Source { name: name.clone(), text: text.clone() });
            let sweep = sweep::of_texts(&self.file, sources.collect(), &self.set, catalog);
            return sweep.map(Loaded::Sweep).map_err(Failure::Diagnostics);
        }
        let (name, text) = self.sources.first().map_or(("", ""), |(name, text)| (name, text));
        plan::of_text(name, text, &self.set, catalog).map(Loaded::Plan).map_err(Failure::Diagnostics)
    }

    /// Writes the plan file into a run's folder for jobs, and makes the folders that they write to.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), Failure> {
        let write = || {
            for name in FOLDERS {
                fs_err::create_dir_all(folder.join(name))?;
            }
            fs_err::write(folder.join(PLAN), serde_json::to_vec(self).expect("a plan file is JSON"))
        };
        write().map_err(|error: std::io::Error| outside(&error))
    }

    fn read(path: &Path) -> Result<Self, Failure> {
        let name = path.display();
        let bytes = fs_err::read(path).map_err(|error| outside(&error))?;
        let file: Self = serde_json::from_slice(&bytes).map_err(|error| {
            let message = format!("`{name}` is no plan file of this version: {error}");
            Failure::Message { message, help: None, code: 2 }
        })?;
        if file.version == PLAN_VERSION {
            return Ok(file);
        }
        let message =
            format!("the plan file `{name}` has version {}, and this program reads {PLAN_VERSION}", file.version);
        Err(Failure::Message { message, help: None, code: 2 })
    }

    /// Refuses a plan of another program.
    fn check_program(&self) -> Result<(), String> {
        match program() {
            Ok(program) if (program.1, program.2) == (self.program.1, self.program.2) => Ok(()),
            _ => Err(format!("`{}` is not the program any more that submitted this job", self.program.0.display())),
        }
    }
}

/// Returns path, length and time of this program.
fn program() -> std::io::Result<(PathBuf, u64, SystemTime)> {
    let path = std::env::current_exe()?;
    let metadata = std::fs::metadata(&path)?;
    Ok((path, metadata.len(), metadata.modified()?))
}

/// Arguments of `exec`.
#[derive(Debug, clap::Args)]
pub(crate) struct ExecArgs {
    /// The plan file; the run's events and ends are written beside it
    plan: PathBuf,

    /// The stage
    #[arg(long)]
    stage: String,

    /// Which part of its shards, counted from 0
    #[arg(long, default_value_t = 0)]
    part: usize,

    /// How many parts there are
    #[arg(long, default_value_t = 1)]
    parts: usize,

    /// The devices of the job
    #[arg(long, value_delimiter = ',', default_value = "cpu")]
    devices: Vec<String>,

    /// How often a job of this stage may get back into the queue at its time limit
    #[arg(long, default_value_t = 0)]
    requeues: u32,

    /// How long results of other jobs may take to show here, in seconds
    #[arg(long, default_value_t = 0)]
    settle: u64,
}

/// Runs `exec`.
pub(crate) fn exec(args: &ExecArgs) -> Result<ExitCode, Failure> {
    let file = PlanFile::read(&args.plan)?;
    let folder = std::path::absolute(args.plan.parent().unwrap_or(Path::new("."))).map_err(|error| outside(&error))?;
    std::env::set_current_dir(&file.folder).map_err(|error| outside(&error))?;
    let loaded = file.load()?;
    let plan = loaded.plan();
    let chosen = choose(plan, std::slice::from_ref(&args.stage)).map_err(Failure::Diagnostics)?;
    let index = plan.steps.iter().position(|step| step.name == args.stage).expect("it was just chosen");
    let job = Job { args, file: &file, folder: &folder, plan, index, label: label(index, &plan.steps[index]) };
    let (end, code) = job.run(&chosen)?;
    job.end(&end)?;
    Ok(code)
}

/// The job that this process is.
struct Job<'a> {
    args: &'a ExecArgs,
    file: &'a PlanFile,
    folder: &'a Path,
    plan: &'a Plan,
    index: usize,
    label: String,
}

/// Returns the number under which the coordinator knows this job.
fn number() -> String {
    let of = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    of("SLURM_ARRAY_JOB_ID").or_else(|| of("SLURM_JOB_ID")).unwrap_or_else(|| "0".to_owned())
}

/// Returns how often this job has been put back into the queue.
fn restarts() -> u32 {
    std::env::var("SLURM_RESTART_COUNT").ok().and_then(|count| count.parse().ok()).unwrap_or(0)
}

impl Job<'_> {
    /// Writes how it ended.
    fn end(&self, end: &End) -> Result<(), Failure> {
        let part = u32::try_from(self.args.part).unwrap_or(u32::MAX);
        write_end(self.folder, &self.label, &number(), part, end).map_err(|error| outside(&error))
    }

    fn run(&self, chosen: &[bool]) -> Result<(End, ExitCode), Failure> {
        let failed = |message: String| Ok((End::Failed { message, help: None }, ExitCode::from(1)));
        if let Err(message) = self.file.check_program() {
            return failed(message);
        }
        let (cancelled, told) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        stop_on_interrupt(&cancelled);
        stop_on_notice(&cancelled, &told);
        let store = Store::open(&self.file.cache).map_err(|error| outside(&error.cause))?;
        store.run_begins(&self.plan.pipeline).map_err(|error| outside(&error))?;
        let files = Files::load(&store).trusting();
        let until = Instant::now() + Duration::from_secs(self.args.settle);
        let devices =
            Names::of(&self.args.devices).map_err(|message| Failure::Message { message, help: None, code: 2 })?;
        let mut options = Options {
            jobs: cores(),
            memory: memory_of_this_machine(),
            devices,
            fail_fast: false,
            cancelled: Arc::clone(&cancelled),
            asked: Arc::default(),
            // Once: a job that is back in the queue goes on from where it was.
            restart: if restarts() == 0 { self.file.restart.clone() } else { Vec::new() },
        };
        let reporter = Reporter::new(self.listeners()?);
        let mut trusting = true;
        let outcome = loop {
            let (planner, survey) = match self.survey(chosen, (&store, &files), trusting, until, &cancelled) {
                Ok(known) => known,
                Err(end) => return Ok((end, ExitCode::from(1))),
            };
            let outcome = carry_out(self.plan, survey, &planner, &store, &options, &|event| reporter.hear(&event));
            if outcome.lost.is_none() || outcome.interrupted {
                break outcome;
            }
            // Something that was not looked at is gone, or does not show yet. Now everything is looked at, as a maker has to be named.
            trusting = false;
            options.restart.clear();
        };
        let end = self.end_of(&outcome);
        if outcome.interrupted && told.load(Ordering::Relaxed) {
            return self.requeue(&reporter, outcome.seconds);
        }
        Ok((end, exit_code(&outcome)))
    }

    /// Looks at the stage and those above it until the results of these are there. Unless `trusting`, their blobs are looked at as well.
    ///
    /// # Errors
    /// How the job ends, if they are not there in time, or a stage refuses what it reads.
    fn survey<'s>(
        &self,
        chosen: &[bool],
        (store, files): (&'s Store, &'s Files),
        trusting: bool,
        until: Instant,
        cancelled: &AtomicBool,
    ) -> Result<(Planner<'s>, Survey), End> {
        let stage = &self.args.stage;
        let part = Part { stage: stage.clone(), index: self.args.part, of: self.args.parts.max(1) };
        let part = (part.of > 1).then_some(part);
        loop {
            let planner = Planner::new(store, files).only(part.clone());
            let planner = if trusting { planner.trusting_all_but(stage) } else { planner };
            let survey = Survey::of(self.plan, chosen, &planner).map_err(|faults| {
                let fault = faults.first().map_or_else(String::new, |fault| fault.title.clone());
                let help = faults.first().and_then(|fault| fault.help.first().cloned());
                let place = format!("stage `{stage}`: ");
                End::Failed { message: fault.strip_prefix(&place).unwrap_or(&fault).to_owned(), help }
            })?;
            let outcome = survey.outcome(self.plan, store);
            let missing = outcome.steps.iter().find(|step| step.step != self.index && step.status != Status::Cached);
            match missing {
                None => return Ok((planner, survey)),
                Some(missing) if Instant::now() >= until || cancelled.load(Ordering::Relaxed) => {
                    let message = format!("the result of stage `{}` is not there", self.plan.steps[missing.step].name);
                    return Err(End::Lost { message });
                }
                Some(_) => std::thread::sleep(LOOK_AGAIN),
            }
        }
    }

    fn end_of(&self, outcome: &Outcome) -> End {
        // What stands above it was there; if something of it had to be made again and failed, that is what is to be said.
        match outcome.steps.iter().find(|step| step.status == Status::Failed) {
            Some(step) => End::Failed { message: step.reason.clone(), help: None },
            None if outcome.interrupted => End::Stopped,
            None => End::Done,
        }
    }

    /// Returns the listeners: a file beside the plan file, and stderr, which is the job's log.
    fn listeners(&self) -> Result<Vec<Box<dyn Listener>>, Failure> {
        let name = format!("{}.{}.{}.{}.jsonl", self.label, number(), self.args.part, restarts());
        let recording = Jsonl::create(&self.folder.join("events").join(name)).map_err(|error| outside(&error))?;
        Ok(vec![Box::new(recording), Box::new(Plain::new(std::io::stderr()))])
    }

    /// The time is nearly over, and what was under way has been kept: puts the job back into the queue.
    fn requeue(&self, reporter: &Reporter, seconds: f64) -> Result<(End, ExitCode), Failure> {
        let stage = self.args.stage.clone();
        if restarts() >= self.args.requeues {
            let message = format!("it has not ended within {} times the time limit of its job", restarts() + 1);
            let help = Some(format!("give it more time: `resources.time` of stage `{stage}`"));
            return Ok((End::Failed { message, help }, ExitCode::from(1)));
        }
        let message = "its time is nearly over: it goes back into the queue, and on from its checkpoint".to_owned();
        reporter.hear(&Stamped { at: seconds, event: Event::Warning { stage: Some(stage), message } });
        let Ok(id) = std::env::var("SLURM_JOB_ID") else { return Ok((End::Stopped, ExitCode::from(INTERRUPTED))) };
        match queue::requeue(&id) {
            Ok(()) => std::thread::sleep(ENDED_WITHIN),
            Err(message) => reporter.hear(&Stamped { at: seconds, event: Event::Warning { stage: None, message } }),
        }
        Ok((End::Stopped, ExitCode::from(INTERRUPTED)))
    }
}

/// Returns how many cores the job has.
fn cores() -> usize {
    let of = |name: &str| std::env::var(name).ok()?.parse().ok();
    let told = of("SLURM_CPUS_PER_TASK").or_else(|| of("SLURM_CPUS_ON_NODE"));
    told.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// SIGUSR1 says that the time limit is near.
fn stop_on_notice(cancelled: &Arc<AtomicBool>, told: &Arc<AtomicBool>) {
    #[cfg(unix)]
    if let Ok(mut signals) = signal_hook::iterator::Signals::new([signal_hook::consts::SIGUSR1]) {
        let (cancelled, told) = (Arc::clone(cancelled), Arc::clone(told));
        let body = move || {
            for _ in signals.forever() {
                told.store(true, Ordering::Relaxed);
                cancelled.store(true, Ordering::Relaxed);
            }
        };
        // Without the thread the job ends at its time limit, and the coordinator submits it anew.
        let _ = std::thread::Builder::new().name("notice".to_owned()).spawn(body);
    }
    #[cfg(not(unix))]
    let _ = (cancelled, told);
}
