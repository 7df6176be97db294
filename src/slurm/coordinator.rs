//! The coordinator: which step gets a job, and what its end means for the others. Runs no stage.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::profile::Profile;
use super::queue::{self, Listed};
use super::report::{Ears, End, ends, tail};
use super::script::{Mark, Site, label};
use crate::digest::Digest;
use crate::plan::prepare::{Artifact, Need, Planner, Prepared, Trouble};
use crate::plan::{Plan, Step};
use crate::run::event::{Event, Stamped};
use crate::run::state::{Board, StepState};
use crate::run::{Bytes, Options, Outcome, Status, StepOutcome, Survey, prepare, run, wanted};
use crate::stage::Work;
use crate::store::Store;
use crate::store::actions::Lookup;
use crate::store::claims::{Claim, Held};
use crate::store::owner::Owner;

/// How often it is looked whether the user has asked to stop.
const ATTENTIVE: Duration = Duration::from_millis(100);

/// How often sbatch is asked again while nothing of ours is in the queue, before its refusal counts.
const ASKED: usize = 3;

/// How often the result of a step may turn out to be gone, before the step behind it fails.
const ROUNDS: usize = 3;

/// The file that names a coordinator while it is there.
const PRESENCE: &str = "coordinator";

/// How a plan is handed to Slurm.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// Whether the coordinator ends as soon as everything is submitted.
    pub detach: bool,
}

/// A plan, and the Slurm that carries it out.
pub struct Slurm<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The steps that are asked for.
    pub chosen: &'a [bool],
    /// The shared cache.
    pub store: &'a Store,
    /// Knows what is there.
    pub planner: &'a Planner<'a>,
    /// What all jobs share.
    pub site: Site<'a>,
    /// As for a run on this machine; of `jobs` and `memory` nothing is used.
    pub options: &'a Options,
    /// How it is done.
    pub manner: Manner,
}

/// A job that a step has.
#[derive(Clone, Debug)]
struct Job {
    id: u64,
    /// The folder that it writes to: that of the run which submitted it.
    folder: PathBuf,
}

/// What is known of a step.
#[derive(Default)]
struct Task {
    prepared: Option<Arc<Prepared>>,
    output: Option<Artifact>,
    job: Option<Job>,
    /// Since when its job is out of the queue without a result.
    gone: Option<Instant>,
    /// How often its job was killed from outside.
    killed: u32,
    rounds: usize,
    started: Option<Instant>,
    ran: bool,
    /// Whether its result came while a job of it was under way that had not said yet whether it had anything to do.
    unheard: bool,
    reason: String,
    seconds: f64,
}

impl Slurm<'_> {
    /// Returns what would be submitted, as text: of each job the call of sbatch and the script.
    pub fn dry(&self, survey: &Survey) -> String {
        let emit = |_: Event| {};
        let mut coordinator = Coordinator::new(self, &emit);
        coordinator.survey(survey);
        let mut text = String::new();
        for step in coordinator.missing() {
            let placed = &self.plan.steps[step];
            let behind = placed.inputs.iter().filter(|input| coordinator.tasks[input.step].output.is_none());
            let behind: BTreeSet<usize> = behind.map(|input| input.step).collect();
            let behind: Vec<String> =
                behind.iter().map(|step| format!("JOB({})", self.plan.steps[*step].name)).collect();
            let after =
                if behind.is_empty() { String::new() } else { format!(" --dependency=afterok:{}", behind.join(":")) };
            let label = label(step, placed);
            text.push_str(&format!("# {}: sbatch --parsable{after} {label}.sh\n", placed.name));
            text.push_str(&self.site.script(step, placed, &self.plan.pipeline, coordinator.parts(step)));
            text.push('\n');
        }
        text
    }

    /// Submits what is missing and waits for it. `sink` hears of everything.
    pub fn carry_out(&self, survey: &Survey, sink: &dyn Fn(Stamped)) -> Outcome {
        let clock = Instant::now();
        let emit = |event: Event| sink(Stamped { at: clock.elapsed().as_secs_f64(), event });
        emit(Event::RunStarted {
            pipeline: self.plan.pipeline.clone(),
            stages: self.chosen.iter().filter(|chosen| **chosen).count(),
            jobs: self.options.jobs,
            device: format!("{} (Slurm)", self.options.devices.text()),
            started: jiff::Timestamp::now().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        });
        let presence = self.site.folder.join(PRESENCE);
        // Where it cannot be written another coordinator may cancel the jobs that it has submitted itself.
        let _ = std::fs::write(&presence, format!("{} {}", self.site.identity, Owner::this()));
        let mut coordinator = Coordinator::new(self, &emit);
        coordinator.drive(survey);
        let _ = std::fs::remove_file(presence);
        let mut outcome = coordinator.finish();
        outcome.seconds = clock.elapsed().as_secs_f64();
        emit(Event::RunFinished {
            ran: outcome.count(Status::Ran),
            cached: outcome.count(Status::Cached),
            failed: outcome.count(Status::Failed),
            skipped: outcome.count(Status::Skipped),
            interrupted: outcome.interrupted,
            seconds: outcome.seconds,
        });
        outcome
    }
}

struct Coordinator<'a> {
    order: &'a Slurm<'a>,
    emit: &'a dyn Fn(Event),
    board: Board,
    tasks: Vec<Task>,
    wanted: Vec<bool>,
    ears: Ears,
    /// The last thing that Slurm did not answer, so that it is said once.
    silence: Option<String>,
    refused: usize,
    stopped_by_failure: bool,
    detached: bool,
}

impl<'a> Coordinator<'a> {
    fn new(order: &'a Slurm<'a>, emit: &'a dyn Fn(Event)) -> Self {
        Self {
            order,
            emit,
            board: Board::new(order.plan, order.chosen),
            tasks: order.plan.steps.iter().map(|_| Task::default()).collect(),
            wanted: wanted(order.plan, order.chosen),
            ears: Ears::default(),
            silence: None,
            refused: 0,
            stopped_by_failure: false,
            detached: false,
        }
    }

    fn profile(&self) -> &'a Profile {
        self.order.site.profile
    }

    fn step(&self, step: usize) -> &'a Step {
        &self.order.plan.steps[step]
    }

    fn name(&self, step: usize) -> String {
        self.step(step).name.clone()
    }

    fn stopping(&self) -> bool {
        self.order.options.cancelled.load(Ordering::Relaxed)
    }

    /// Takes over what the survey has found.
    fn survey(&mut self, survey: &Survey) {
        for step in 0..self.tasks.len() {
            if let Some(prepared) = survey.prepared(step) {
                self.prepared(step, Arc::clone(prepared));
            }
        }
    }

    fn drive(&mut self, survey: &Survey) {
        self.survey(survey);
        loop {
            self.hear();
            self.look();
            self.warn();
            if self.stopping() || self.board.all(|state| !state.is_final()).is_empty() {
                break;
            }
            match queue::list() {
                Ok(jobs) => {
                    self.silence = None;
                    self.judge(&jobs);
                    self.submit();
                }
                Err(message) => self.not_answered(message),
            }
            let all_have_jobs = self.missing().iter().all(|step| self.tasks[*step].job.is_some());
            if self.order.manner.detach && all_have_jobs {
                self.detached = true;
                break;
            }
            self.pause();
        }
        self.hear();
        self.warn();
        if self.stopping() {
            self.stop();
        }
    }

    fn pause(&self) {
        let until = Instant::now() + self.profile().poll.0;
        while Instant::now() < until && !self.stopping() {
            std::thread::sleep(ATTENTIVE.min(until.saturating_duration_since(Instant::now())));
        }
    }

    /// Says once that Slurm does not answer. The cache is looked at all the same.
    fn not_answered(&mut self, message: String) {
        if self.silence.as_ref() != Some(&message) {
            (self.emit)(Event::Warning { stage: None, message: message.clone() });
            self.silence = Some(message);
        }
    }

    fn warn(&self) {
        for message in self.order.planner.take_warnings() {
            (self.emit)(Event::Warning { stage: None, message });
        }
    }

    /// Returns the steps that have no result and can get one, in order of the plan.
    fn missing(&self) -> Vec<usize> {
        self.board.all(|state| !state.is_final())
    }

    /// Passes on what jobs say.
    fn hear(&mut self) {
        let mut folders: BTreeSet<PathBuf> =
            self.tasks.iter().filter_map(|task| Some(task.job.as_ref()?.folder.clone())).collect();
        folders.insert(self.order.site.folder.to_owned());
        for folder in folders {
            for Stamped { event, .. } in self.ears.hear(&folder) {
                self.heard(event);
            }
        }
    }

    fn heard(&mut self, mut event: Event) {
        let stage = match &event {
            Event::Started { stage, .. }
            | Event::Waiting { stage, .. }
            | Event::ActionDone { stage, .. }
            | Event::Progress { stage, .. }
            | Event::Metric { stage, .. }
            | Event::Warning { stage: Some(stage), .. } => stage,
            // How a stage ended is for the cache to say.
            _ => return,
        };
        let Some(step) = self.order.plan.steps.iter().position(|step| step.name == *stage) else { return };
        if self.board.state(step).is_final() && !matches!(event, Event::ActionDone { .. }) {
            if let Event::Started { reason, .. } = event {
                self.ran_after_all(step, reason);
            }
            return;
        }
        if let Event::Started { reason, .. } = &event {
            if !self.board.inputs_known(step) {
                // What it reads is there by now, and is to be told of first.
                self.look();
            }
            let task = &mut self.tasks[step];
            task.ran = true;
            if task.started.is_some() {
                return;
            }
            task.started = Some(Instant::now());
            task.reason.clone_from(reason);
            self.board.set(step, StepState::Running);
            // A task of an array speaks of its part alone.
            if let (Some(all), Event::Started { actions, cached, .. }) =
                (self.tasks[step].prepared.as_deref(), &mut event)
                && let Need::Shards { shards, .. } = &all.need
            {
                *actions = shards.iter().filter(|shard| shard.state.is_missing()).count();
                *cached = shards.len() - *actions;
            }
        }
        (self.emit)(event);
    }

    /// Looks into the cache, until that brings nothing new.
    fn look(&mut self) {
        loop {
            let mut news = false;
            for step in self.missing() {
                match (&self.tasks[step].prepared, self.board.inputs_known(step)) {
                    (Some(prepared), true) => {
                        let found = self.order.planner.result(self.step(step), prepared.key);
                        if let Some(Ok(artifact)) = found {
                            self.end(step, artifact);
                            news = true;
                        }
                    }
                    (None, true) => {
                        news = true;
                        self.prepare(step);
                    }
                    (_, false) => {}
                }
            }
            if !news || self.stopping() {
                return;
            }
        }
    }

    fn prepare(&mut self, step: usize) {
        let inputs = self.step(step).inputs.iter().filter_map(|input| self.tasks[input.step].output.clone());
        let inputs: Vec<Artifact> = inputs.collect();
        match prepare(self.order.planner, self.step(step), &inputs, Bytes::of(self.wanted[step])) {
            Ok(prepared) => self.prepared(step, Arc::new(prepared)),
            Err(Trouble { lost: Some(lost), message, .. }) => self.make_again(step, lost, message),
            Err(trouble) => self.fail(step, trouble.message, trouble.help),
        }
    }

    fn prepared(&mut self, step: usize, prepared: Arc<Prepared>) {
        self.board.set(step, StepState::Wanted);
        let need = prepared.need.clone();
        self.tasks[step].prepared = Some(prepared);
        match need {
            Need::Nothing(artifact) => self.end(step, artifact),
            Need::Assembly(artifact) => {
                self.record(step);
                self.end(step, artifact);
            }
            Need::Whole | Need::Shards { .. } => {}
        }
    }

    /// Records a result all shards of which are there. That is no work, and a run on this machine does it.
    fn record(&self, step: usize) {
        let mut chosen = vec![false; self.tasks.len()];
        chosen[step] = true;
        for above in (0..=step).rev() {
            if chosen[above] {
                self.step(above).inputs.iter().for_each(|input| chosen[input.step] = true);
            }
        }
        let Ok(survey) = Survey::of(self.order.plan, &chosen, self.order.planner) else { return };
        let there = |step: usize| {
            let need = survey.prepared(step).map(|prepared| &prepared.need);
            matches!(need, Some(Need::Nothing(_) | Need::Assembly(_)))
        };
        if (0..=step).all(|step| !chosen[step] || there(step)) {
            run(self.order.plan, survey, self.order.planner, self.order.store, self.order.options, &|_| {});
        }
    }

    /// An artifact that a step reads turned out to be gone: whoever made it makes it again.
    fn make_again(&mut self, step: usize, lost: Digest, message: String) {
        self.tasks[step].rounds += 1;
        let is_it = |task: &Task| task.output.as_ref().is_some_and(|output| output.digest == lost);
        let makers: Vec<usize> = (0..step).filter(|maker| is_it(&self.tasks[*maker])).collect();
        if makers.is_empty() || self.tasks[step].rounds > ROUNDS {
            return self.fail(step, message, Some("`orandflow cache verify` looks at the whole cache".to_owned()));
        }
        let message = format!("{message}; it is made again");
        (self.emit)(Event::Warning { stage: Some(self.name(step)), message });
        for maker in makers {
            self.tasks[maker] = Task { rounds: self.tasks[maker].rounds, ..Task::default() };
            self.board.set(maker, StepState::Unknown);
        }
        self.tasks[step].prepared = None;
        self.board.set(step, StepState::Unknown);
    }

    /// A step has its result.
    fn end(&mut self, step: usize, artifact: Artifact) {
        let stage = self.name(step);
        let task = &mut self.tasks[step];
        let key = task.prepared.as_ref().map_or(artifact.digest, |prepared| prepared.key);
        self.order.planner.made(artifact.digest);
        task.output = Some(artifact);
        task.unheard = task.job.take().is_some() && !task.ran;
        self.order.store.used(key);
        if let Err(error) = self.order.store.set_last(&self.order.plan.pipeline, &stage, key) {
            (self.emit)(Event::Warning { stage: Some(stage), message: error.to_string() });
        }
        self.say_end(step);
    }

    /// A result that seemed to have been there was a job's: the job says so after its result was seen.
    fn ran_after_all(&mut self, step: usize, reason: String) {
        let task = &mut self.tasks[step];
        if std::mem::take(&mut task.unheard) {
            (task.ran, task.started, task.reason) = (true, Some(Instant::now()), reason);
            self.say_end(step);
        }
    }

    /// Says of a step that has its result whether it ran for it, and how long.
    fn say_end(&mut self, step: usize) {
        let stage = self.name(step);
        let task = &mut self.tasks[step];
        let Some(output) = task.output.as_ref().map(|artifact| artifact.digest) else { return };
        let key = task.prepared.as_ref().map_or(output, |prepared| prepared.key);
        let record = match self.order.store.lookup(key) {
            Lookup::Hit(record) => record.provenance.seconds,
            _ => 0.0,
        };
        task.seconds = task.started.map_or(0.0, |started| started.elapsed().as_secs_f64().max(record));
        let (ran, seconds) = (task.ran, task.seconds);
        self.board.set(step, if ran { StepState::Done } else { StepState::Cached });
        (self.emit)(if ran {
            Event::Done { stage, key, output, seconds }
        } else {
            Event::Cached { stage, key, output }
        });
    }

    fn fail(&mut self, step: usize, message: String, help: Option<String>) {
        let task = &mut self.tasks[step];
        task.job = None;
        task.seconds = task.started.map_or(0.0, |started| started.elapsed().as_secs_f64());
        task.reason.clone_from(&message);
        let seconds = task.seconds;
        self.board.set(step, StepState::Failed);
        (self.emit)(Event::Failed { stage: self.name(step), message, help, seconds });
        let mut idle = Vec::new();
        for (skipped, above) in self.board.skip_behind(step) {
            idle.extend(self.tasks[skipped].job.take().map(|job| job.id));
            self.skip(skipped, format!("waits for {}", self.name(above)));
        }
        // Slurm would see by itself that they wait for nothing.
        let _ = queue::cancel(&idle);
        if self.order.options.fail_fast {
            self.stopped_by_failure = true;
            self.order.options.cancelled.store(true, Ordering::Relaxed);
        }
    }

    fn skip(&mut self, step: usize, reason: String) {
        self.board.set(step, StepState::Skipped);
        self.tasks[step].reason.clone_from(&reason);
        (self.emit)(Event::Skipped { stage: self.name(step), reason });
    }

    /// Says what becomes of steps whose jobs are out of the queue and have left no result.
    fn judge(&mut self, jobs: &[Listed]) {
        for step in self.missing() {
            let Some(job) = self.tasks[step].job.clone() else { continue };
            let own: Vec<&Listed> = jobs.iter().filter(|listed| listed.id == job.id).collect();
            if own.iter().any(|listed| listed.is_active()) {
                self.tasks[step].gone = None;
                continue;
            }
            if !self.board.inputs_known(step) {
                // What it waited for did not end well; it gets a job again when that has one.
                self.tasks[step].job = None;
                continue;
            }
            let said = ends(&job.folder, &label(step, self.step(step)), job.id);
            if let Some(End::Failed { message, help }) = said.iter().find(|end| matches!(end, End::Failed { .. })) {
                self.fail(step, message.clone(), help.clone());
                continue;
            }
            // A result may take a while to show here, and squeue a while to list a job that was just submitted.
            let since = *self.tasks[step].gone.get_or_insert_with(Instant::now);
            let ended_well = own.is_empty() || own.iter().any(|listed| listed.state == "COMPLETED");
            let patience = if ended_well { self.profile().settle.0 } else { self.profile().poll.0 };
            if since.elapsed() >= patience {
                let states: BTreeSet<String> = own.iter().map(|listed| listed.state.clone()).collect();
                self.without_result(step, &job, states, &said);
            }
        }
    }

    /// A step's job has ended, and there is no result: it gets another one, or it fails.
    fn without_result(&mut self, step: usize, job: &Job, mut states: BTreeSet<String>, said: &[End]) {
        self.tasks[step].job = None;
        self.tasks[step].gone = None;
        // Perhaps nobody has put the shards together, or an input is gone.
        self.prepare(step);
        if self.board.state(step).is_final() || self.tasks[step].prepared.is_none() {
            return;
        }
        if let Some(End::Lost { message }) = said.iter().find(|end| matches!(end, End::Lost { .. })) {
            self.tasks[step].rounds += 1;
            if self.tasks[step].rounds > ROUNDS {
                return self.fail(step, message.clone(), None);
            }
            return self.look_above(step);
        }
        if states.is_empty() {
            states.extend(queue::remembered(job.id));
        }
        let state = states.iter().find(|state| *state != "COMPLETED").or(states.first());
        let state = state.map_or("unknown", String::as_str).to_owned();
        let named = label(step, self.step(step));
        let log = || tail(&job.folder, &named, job.id);
        if state == "CANCELLED" {
            let message = format!("its job {} was cancelled", job.id);
            return self.fail(
                step,
                message,
                Some("run again to submit it anew; it goes on from its last checkpoint".into()),
            );
        }
        self.tasks[step].killed += 1;
        let ended = format!("its job {} ended as {state} without a result", job.id);
        if self.tasks[step].killed > self.profile().retries {
            let times = self.tasks[step].killed;
            return self.fail(step, format!("{ended}, the last of {times}"), log());
        }
        let message = format!("{ended}; it is submitted again");
        (self.emit)(Event::Warning { stage: Some(self.name(step)), message });
    }

    /// Looks at everything above a step anew, as a job found a result gone.
    fn look_above(&mut self, step: usize) {
        for input in self.step(step).inputs.iter().map(|input| input.step).collect::<Vec<_>>() {
            let key = self.tasks[input].prepared.as_ref().map(|prepared| prepared.key);
            let there = key.is_some_and(|key| matches!(self.order.planner.result(self.step(input), key), Some(Ok(_))));
            if !there {
                self.tasks[input] = Task { rounds: self.tasks[input].rounds, ..Task::default() };
                self.board.set(input, StepState::Unknown);
                self.tasks[step].prepared = None;
                self.board.set(step, StepState::Unknown);
            }
        }
    }

    /// Returns how many shards a step has, as far as that can be known: as many as what it reads, or those that are missing.
    fn shards(&self, step: usize) -> Option<usize> {
        if self.step(step).kind.spec().work == Work::Whole {
            return None;
        }
        let missing = |prepared: &Arc<Prepared>| match &prepared.need {
            Need::Shards { shards, .. } => Some(shards.iter().filter(|shard| shard.state.is_missing()).count()),
            _ => None,
        };
        let all = |input: usize| {
            let output = self.tasks[input].output.as_ref().map(|output| output.manifest.shards().count());
            let prepared = self.tasks[input].prepared.as_ref().map(|prepared| prepared.shards.len());
            output.or(prepared).filter(|count| *count > 0).or_else(|| self.shards(input))
        };
        let own = self.tasks[step].prepared.as_ref().and_then(missing);
        own.or_else(|| self.step(step).inputs.iter().find_map(|input| all(input.step)))
    }

    /// Returns how many jobs a step's shards are spread over.
    fn parts(&self, step: usize) -> u32 {
        let profile = self.profile();
        let shards = self.shards(step).and_then(|shards| u32::try_from(shards).ok());
        shards.map_or(1, |shards| shards.div_ceil(profile.shards).clamp(1, profile.array))
    }

    /// Gives a job to every step that needs one and whose inputs have results or jobs. One coordinator of a plan at a time does so,
    /// and takes over the jobs that others have submitted.
    fn submit(&mut self) {
        if self.missing().iter().all(|step| self.tasks[*step].job.is_some()) {
            return;
        }
        let Some(_held) = self.alone() else { return };
        match queue::list() {
            Ok(jobs) => self.adopt(&jobs),
            Err(message) => return self.not_answered(message),
        }
        for step in self.missing() {
            if self.tasks[step].job.is_some() || self.stopping() {
                continue;
            }
            let mut after = BTreeSet::new();
            let mut ready = true;
            for input in &self.step(step).inputs {
                match (&self.tasks[input.step].output, &self.tasks[input.step].job) {
                    (Some(_), _) => {}
                    // A job that has ended may be forgotten by Slurm at any time: its result decides.
                    (None, Some(job)) if self.tasks[input.step].gone.is_none() => drop(after.insert(job.id)),
                    (None, _) => ready = false,
                }
            }
            let after: Vec<u64> = after.into_iter().collect();
            if ready && !self.submit_one(step, after) {
                return;
            }
        }
    }

    /// Submits a job; returns whether Slurm took it.
    fn submit_one(&mut self, step: usize, after: Vec<u64>) -> bool {
        let site = &self.order.site;
        let parts = self.parts(step);
        let script = site.script(step, self.step(step), &self.order.plan.pipeline, parts);
        let path = site.folder.join("scripts").join(format!("{}.sh", label(step, self.step(step))));
        if let Err(error) = fs_err::write(&path, script) {
            self.fail(step, error.to_string(), None);
            return true;
        }
        match queue::submit(&path, &after) {
            Ok(id) => {
                self.refused = 0;
                self.has_job(step, Job { id, folder: site.folder.to_owned() }, parts, after, false);
                true
            }
            Err(message) => {
                // A full queue takes more when jobs end; whatever else it is will not change by itself.
                let busy = self.tasks.iter().any(|task| task.job.is_some());
                self.refused += usize::from(!busy);
                if self.refused >= ASKED {
                    let help = format!("the script is {}", path.display());
                    self.fail(step, message, Some(help));
                } else {
                    self.not_answered(message);
                }
                false
            }
        }
    }

    fn has_job(&mut self, step: usize, job: Job, parts: u32, after: Vec<u64>, adopted: bool) {
        let id = job.id;
        let task = &mut self.tasks[step];
        task.job = Some(job);
        task.gone = None;
        (self.emit)(Event::Submitted { stage: self.name(step), job: id, parts, after, adopted });
    }

    /// Takes over the jobs of this very plan that are in the queue.
    fn adopt(&mut self, jobs: &[Listed]) {
        for listed in jobs.iter().filter(|listed| listed.is_active()) {
            let Some(mark) = Mark::read(&listed.comment) else { continue };
            let step = mark.step;
            let own = mark.identity == self.order.site.identity && step < self.tasks.len();
            if own && !self.board.state(step).is_final() && self.tasks[step].job.is_none() {
                let runs = self.order.site.folder.ancestors().nth(2).unwrap_or(Path::new(""));
                let inner = self.order.site.folder.file_name().unwrap_or_default();
                let folder = runs.join(&mark.run).join(inner);
                self.has_job(step, Job { id: listed.id, folder }, mark.parts, Vec::new(), true);
            }
        }
    }

    /// Waits until no other coordinator of this plan submits; `None` if the user asks to stop meanwhile.
    fn alone(&self) -> Option<Option<Held>> {
        let key = Digest::of_json(&("slurm", self.order.site.identity));
        while !self.stopping() {
            match self.order.store.claim(key) {
                Ok(Claim::Mine(held)) => return Some(Some(held)),
                Ok(Claim::Theirs(_)) => std::thread::sleep(ATTENTIVE),
                // A claim that cannot be written saves work at best.
                Err(_) => return Some(None),
            }
        }
        None
    }

    /// Cancels the jobs, unless another coordinator of this plan waits for them.
    fn stop(&mut self) {
        let ids: BTreeSet<u64> = self.tasks.iter().filter_map(|task| Some(task.job.as_ref()?.id)).collect();
        let ids: Vec<u64> = ids.into_iter().collect();
        if ids.is_empty() {
            return;
        }
        let message = match self.other() {
            Some(other) => {
                let (process, host) = (other.process(), other.host());
                format!("the jobs are left to process {process} on {host}, which waits for them as well")
            }
            None => match queue::cancel(&ids) {
                Ok(()) => return,
                Err(message) => message,
            },
        };
        (self.emit)(Event::Warning { stage: None, message });
    }

    /// Returns another coordinator of this plan that lives.
    fn other(&self) -> Option<Owner> {
        let runs = self.order.site.folder.ancestors().nth(2)?;
        let inner = self.order.site.folder.file_name()?;
        let entries = std::fs::read_dir(runs).ok()?.filter_map(Result::ok);
        let texts = entries.filter_map(|run| std::fs::read_to_string(run.path().join(inner).join(PRESENCE)).ok());
        let owners = texts.filter_map(|text| {
            let (identity, owner) = text.split_once(' ')?;
            if identity == self.order.site.identity { owner.parse::<Owner>().ok() } else { None }
        });
        owners.into_iter().find(|owner| owner != Owner::this() && self.order.store.lives(owner))
    }

    /// Returns what came of each chosen step.
    fn finish(mut self) -> Outcome {
        let stopped = self.stopping();
        let why_left = match (self.stopped_by_failure, self.detached) {
            (true, _) => "stopped by --fail-fast",
            (_, true) => "submitted",
            _ => "interrupted",
        };
        for step in self.missing() {
            if self.detached {
                self.board.set(step, StepState::Skipped);
                self.tasks[step].reason = why_left.to_owned();
            } else {
                self.skip(step, why_left.to_owned());
            }
        }
        let steps = self.board.all(|state| state != StepState::Outside).into_iter().map(|step| {
            let task = &mut self.tasks[step];
            StepOutcome {
                step,
                status: match self.board.state(step) {
                    StepState::Cached => Status::Cached,
                    StepState::Done => Status::Ran,
                    StepState::Failed => Status::Failed,
                    _ => Status::Skipped,
                },
                reason: std::mem::take(&mut task.reason),
                key: task.prepared.as_ref().map(|prepared| prepared.key),
                output: task.output.take(),
                seconds: task.seconds,
            }
        });
        let interrupted = stopped && !self.stopped_by_failure;
        Outcome { steps: steps.collect(), interrupted, lost: None, seconds: 0.0 }
    }
}
