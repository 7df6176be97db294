//! `orandflow run`: carries a pipeline out, reports, and decides the exit code.

use std::io::{IsTerminal as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Failure;
use super::common::{PipelineArgs, deliver};
use super::engine::{
    CacheDir, Executor, ExecutorArgs, HowArgs, LogArgs, LogFormat, OnlyArgs, json, metrics, metrics_table, outside,
    summary,
};
use super::exec::{Loaded, PlanFile};
use super::remote::{PushArgs, Pusher, RemoteArgs, pushed, warn};
use super::watch::{Shown, Watcher, unheard};
use crate::plan::Plan;
use crate::plan::prepare::Planner;
use crate::report::bars::Bars;
use crate::report::jsonl::Jsonl;
use crate::report::log::Log;
use crate::report::plain::Plain;
use crate::report::tensorboard::TensorBoard;
use crate::report::text::duration;
use crate::report::{Listener, Reporter};
use crate::run::event::Stamped;
use crate::run::slots::Names;
use crate::run::{Options, Outcome, Status, Survey, choose, run as carry_out};
use crate::slurm::script::Site;
use crate::slurm::{Manner, Slurm};
use crate::store::Store;
use crate::store::files::Files;
use crate::store::remote::Pushed;
use crate::sweep::Sweep;

/// What a shell expects of a program that was stopped with Ctrl-C: 128 and the number of SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// The folder of a run that its jobs write to.
const SLURM: &str = "slurm";

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,

    #[command(flatten)]
    cache: CacheDir,

    #[command(flatten)]
    remote: RemoteArgs,

    #[command(flatten)]
    push: PushArgs,

    #[command(flatten)]
    how: HowArgs,

    /// Start this stage afresh where it has checkpoints of an interrupted run; may be repeated
    #[arg(long, value_name = "STAGE")]
    restart: Vec<String>,

    #[command(flatten)]
    executor: ExecutorArgs,

    /// With Slurm: print what would be submitted, and submit nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    only: OnlyArgs,

    #[command(flatten)]
    log: LogArgs,
}

/// Runs `run`.
pub(crate) fn run(args: &RunArgs) -> Result<ExitCode, Failure> {
    args.log.start();
    args.executor.check()?;
    let slurm = args.executor.executor == Executor::Slurm;
    if args.dry_run && !slurm {
        let message = "`--dry-run` prints the scripts of Slurm's jobs, and this run has none".to_owned();
        let help = "`orandflow plan FILE` says what a run would do".to_owned();
        return Err(Failure::Message { message, help: Some(help), code: 2 });
    }
    let PipelineArgs { file, set } = &args.pipeline;
    // Whatever is wrong with the file is said before the texts are taken for jobs.
    let mut plan = args.pipeline.load()?;
    let mut jobs = None;
    if slurm {
        let plan_file = PlanFile::of_pipeline(file, set, &args.cache.cache, &args.restart)?;
        if let Loaded::Plan(loaded) = plan_file.load()? {
            plan = loaded;
        }
        jobs = Some(plan_file);
    }
    let chosen = choose(&plan, &args.only.only).map_err(Failure::Diagnostics)?;
    choose(&plan, &args.restart).map_err(Failure::Diagnostics)?;
    let store = args.cache.open()?;
    let push = args.remote.attach_for(&args.push, &store, jobs.is_some())?;
    let sweep = Sweep::of(plan, &args.pipeline.file);
    let plan = &sweep.plan;
    let order = Order {
        sweep: &sweep,
        points: &[0],
        chosen: &chosen,
        store: &store,
        how: &args.how,
        executor: &args.executor,
        jobs: jobs.as_ref(),
        log: &args.log,
        files: &[("pipeline.toml", file)],
        set,
        restart: &args.restart,
        push,
    };
    if args.dry_run {
        return deliver(&order.scripts()?, None);
    }
    let (outcome, _) = order.carry_out()?;

    let metrics = metrics(plan, &store, &outcome.steps);
    let text = if args.how.json {
        format!("{:#}\n", json(plan, &outcome, &metrics))
    } else {
        let table = metrics_table(&metrics);
        let gap = if table.is_empty() { "" } else { "\n" };
        format!("{table}{gap}{} in {}\n", summary(&outcome), duration(outcome.seconds))
    };
    deliver(&text, None)?;
    Ok(exit_code(&outcome))
}

/// Returns the exit code of a run that came to its end.
pub(crate) fn exit_code(outcome: &Outcome) -> ExitCode {
    match outcome.count(Status::Failed) {
        _ if outcome.interrupted => ExitCode::from(INTERRUPTED),
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(1),
    }
}

/// A plan, and how it is to be carried out.
pub(crate) struct Order<'a> {
    pub(crate) sweep: &'a Sweep,
    /// The points that are meant.
    pub(crate) points: &'a [usize],
    pub(crate) chosen: &'a [bool],
    pub(crate) store: &'a Store,
    pub(crate) how: &'a HowArgs,
    pub(crate) executor: &'a ExecutorArgs,
    /// What jobs of a cluster are told; without it everything runs here.
    pub(crate) jobs: Option<&'a PlanFile>,
    pub(crate) log: &'a LogArgs,
    /// Files that the run's folder keeps a copy of, by name.
    pub(crate) files: &'a [(&'a str, &'a Path)],
    /// `--set` arguments.
    pub(crate) set: &'a [String],
    /// The stages that start afresh, whatever checkpoints they have.
    pub(crate) restart: &'a [String],
    /// Whether results are written to the remote cache.
    pub(crate) push: bool,
}

impl Order<'_> {
    /// Carries the plan out until it is done or the user stops it; returns the outcome and the run's folder.
    pub(crate) fn carry_out(&self) -> Result<(Outcome, PathBuf), Failure> {
        let plan = &self.sweep.plan;
        let listener = self.log.serve.map(|place| TcpListener::bind(place).map_err(|error| unheard(place, &error)));
        let listener = listener.transpose()?;
        let (cancelled, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let devices = self.devices()?;
        let profile = self.executor.profile()?;
        stop_on_interrupt(&cancelled);
        keep_on_request(&asked);
        self.store.run_begins(&plan.pipeline).map_err(|error| outside(&error))?;
        let files = Files::load(self.store);
        let planner = Planner::new(self.store, &files);
        let survey = Survey::of(plan, self.chosen, &planner);
        remember(&files, self.store);
        let survey = survey.map_err(Failure::Diagnostics)?;
        let how = self.how;
        let options = Options {
            jobs: how.cores(),
            memory: how.most_memory(),
            devices,
            fail_fast: how.fail_fast,
            cancelled,
            asked,
            restart: self.restart.to_vec(),
        };
        let (listeners, folder) = self.listeners()?;
        let reporter = Reporter::new(listeners);
        let watcher = listener.map(|listener| self.serve(listener, &folder)).transpose()?;
        let surveyed = survey.seconds();
        let (pusher, keys) = Pusher::new();
        let hear = |event: Stamped| {
            if self.push {
                pusher.hear(&event.event);
            }
            reporter.hear(&event);
        };
        let carry_out = || match self.jobs {
            None => Ok(carry_out(plan, survey, &planner, self.store, &options, &hear)),
            Some(plan_file) => {
                let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
                let folder = std::path::absolute(&folder).map_err(|error| outside(&error))?.join(SLURM);
                plan_file.write(&folder)?;
                let identity = plan_file.identity();
                let site = Site {
                    profile: &profile,
                    program: plan_file.program(),
                    folder: &folder,
                    run: &name,
                    identity: &identity,
                    devices: &options.devices,
                };
                Ok(self.slurm(&planner, site, &options).carry_out(&survey, &hear))
            }
        };
        let outcome: Result<Outcome, Failure> = std::thread::scope(|scope| {
            let cancelled = &options.cancelled;
            let work = self.push.then(|| scope.spawn(move || Pusher::work(self.store, &keys, cancelled)));
            let outcome = carry_out();
            pusher.end();
            self.said(work.map(|work| work.join()));
            outcome
        });
        let mut outcome = outcome?;
        outcome.seconds += surveyed;
        remember(&files, self.store);
        if let Some(watcher) = watcher {
            watcher.bid_farewell();
        }
        Ok((outcome, folder))
    }

    /// Shows the run as a page, and says where.
    fn serve(&self, listener: TcpListener, folder: &Path) -> Result<Arc<Watcher>, Failure> {
        let place = listener.local_addr().map_err(|error| outside(&error))?;
        let shown = Shown::new(self.sweep.clone(), self.points.to_vec(), self.chosen.to_vec());
        let watcher = Watcher::of_run(shown, self.store.clone(), folder);
        watcher.start(listener)?;
        // Nobody is left to be told where stderr is gone.
        let _ = match self.log.log_format {
            LogFormat::Json => {
                writeln!(std::io::stderr(), r#"{{"at":0.0,"event":"page.served","address":"http://{place}/"}}"#)
            }
            LogFormat::Plain => writeln!(std::io::stderr(), "the page of this run: http://{place}/"),
        };
        Ok(watcher)
    }

    /// Returns the scripts of the jobs that would be submitted.
    pub(crate) fn scripts(&self) -> Result<String, Failure> {
        let Some(plan_file) = self.jobs else { return Ok(String::new()) };
        let (devices, profile) = (self.devices()?, self.executor.profile()?);
        let files = Files::load(self.store);
        let planner = Planner::new(self.store, &files);
        let survey = Survey::of(&self.sweep.plan, self.chosen, &planner);
        remember(&files, self.store);
        let survey = survey.map_err(Failure::Diagnostics)?;
        let folder = std::path::absolute(self.store.root()).map_err(|error| outside(&error))?;
        let folder = folder.join("runs").join("RUN").join(SLURM);
        let identity = plan_file.identity();
        let options = Options {
            jobs: 1,
            memory: None,
            devices,
            fail_fast: false,
            cancelled: Arc::default(),
            asked: Arc::default(),
            restart: Vec::new(),
        };
        let (program, devices) = (plan_file.program(), &options.devices);
        let site = Site { profile: &profile, program, folder: &folder, run: "RUN", identity: &identity, devices };
        Ok(self.slurm(&planner, site, &options).dry(&survey))
    }

    fn slurm<'a>(&'a self, planner: &'a Planner<'a>, site: Site<'a>, options: &'a Options) -> Slurm<'a> {
        let (plan, chosen, store) = (&self.sweep.plan, self.chosen, self.store);
        Slurm { plan, chosen, store, planner, site, options, manner: Manner { detach: self.executor.detach } }
    }

    /// Returns the devices, if every chosen stage can have what it asks for.
    fn devices(&self) -> Result<Names, Failure> {
        let devices = self.how.names()?;
        if self.jobs.is_none() {
            devices.check(&self.sweep.plan, self.chosen).map_err(Failure::Diagnostics)?;
        } else if devices.slots.len() > 1 {
            let message = "Slurm hands out the cards: every job counts its own from 0".to_owned();
            let help = Some("name one, as in `--device cuda:0`".to_owned());
            return Err(Failure::Message { message, help, code: 2 });
        }
        Ok(devices)
    }

    /// Says what was written to the remote cache. That it was not is no failure of the run.
    fn said(&self, written: Option<std::thread::Result<std::io::Result<Pushed>>>) {
        warn(self.store);
        let text = match written {
            None => return,
            Some(Ok(Ok(written))) => pushed(&written, self.store),
            Some(Ok(Err(error))) => format!("warning: the results could not be pushed: {error}\n"),
            Some(Err(_)) => "warning: the results could not be pushed\n".to_owned(),
        };
        // Nothing is left to be done where stderr itself is gone.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    /// Returns the listeners: the folder of the run, stderr, and the developers' log.
    fn listeners(&self) -> Result<(Vec<Box<dyn Listener>>, PathBuf), Failure> {
        let folder = self.store.run_folder().map_err(|error| outside(&error))?;
        for (name, file) in self.files {
            fs_err::copy(file, folder.join(name)).map_err(|error| outside(&error))?;
        }
        if !self.set.is_empty() {
            let set = self.set.join("\n") + "\n";
            fs_err::write(folder.join("set.txt"), set).map_err(|error| outside(&error))?;
        }
        let recording = Jsonl::create(&folder.join("events.jsonl")).map_err(|error| outside(&error))?;
        let mut listeners: Vec<Box<dyn Listener>> =
            vec![Box::new(recording), Box::new(TensorBoard::new(&folder.join("tensorboard")))];
        if self.log.log.is_some() {
            listeners.push(Box::new(Log));
        }
        listeners.push(match self.log.log_format {
            LogFormat::Json if self.log.log.is_none() => Box::new(Jsonl::new(std::io::stderr())),
            _ if std::io::stderr().is_terminal() && self.log.log.is_none() => Box::new(Bars::new()),
            _ => Box::new(Plain::new(std::io::stderr())),
        });
        Ok((listeners, folder))
    }
}

/// Keeps the digests of data files for the next time. Where that fails they are found again, so it stops nothing.
pub(crate) fn remember(files: &Files, store: &Store) {
    if let Err(error) = files.save(store) {
        // Nothing is left to be done where stderr itself is gone.
        let _ = writeln!(std::io::stderr(), "warning: {error}");
    }
}

/// SIGUSR1, which schedulers of clusters send before they end a job, makes running trainings keep a checkpoint and go on.
fn keep_on_request(asked: &Arc<AtomicU64>) {
    #[cfg(unix)]
    if let Ok(mut signals) = signal_hook::iterator::Signals::new([signal_hook::consts::SIGUSR1]) {
        let asked = Arc::clone(asked);
        let body = move || {
            for _ in signals.forever() {
                asked.fetch_add(1, Ordering::Relaxed);
            }
        };
        // Without the thread the signal does nothing.
        let _ = std::thread::Builder::new().name("signals".to_owned()).spawn(body);
    }
    #[cfg(not(unix))]
    let _ = asked;
}

/// The first Ctrl-C or SIGTERM asks running stages to stop, which keep checkpoints; the second one ends the program.
pub(crate) fn stop_on_interrupt(cancelled: &Arc<AtomicBool>) {
    let cancelled = Arc::clone(cancelled);
    let mut asked = false;
    let handler = move || {
        if asked {
            #[expect(
                clippy::exit,
                reason = "the user asked twice; every file is written by rename, nothing is left half"
            )]
            std::process::exit(INTERRUPTED.into());
        }
        asked = true;
        cancelled.store(true, Ordering::Relaxed);
    };
    // Without a handler Ctrl-C ends the program at once, which loses nothing that was recorded.
    let _ = ctrlc::set_handler(handler);
}

/// Looks at every chosen step and remembers the digests of data files; for verbs that run nothing.
pub(crate) fn survey(plan: &Plan, only: &[String], store: &Store) -> Result<(Survey, Vec<String>), Failure> {
    survey_of(plan, &choose(plan, only).map_err(Failure::Diagnostics)?, store)
}

/// As [`survey`], for steps that are chosen already.
pub(crate) fn survey_of(plan: &Plan, chosen: &[bool], store: &Store) -> Result<(Survey, Vec<String>), Failure> {
    let files = Files::load(store);
    let planner = Planner::new(store, &files);
    let survey = Survey::of(plan, chosen, &planner);
    remember(&files, store);
    Ok((survey.map_err(Failure::Diagnostics)?, planner.take_warnings()))
}
