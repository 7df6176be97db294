//! The main loop: which action runs next, and what its end means for the others. Runs nothing itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{Builder, Scope};
use std::time::{Duration, Instant};

use super::event::Event;
use super::slots::{Demand, Pool, Queue, Share};
use super::state::{Board, StepState};
use super::survey::{Bytes, Standing, Survey, prepare, wanted};
use super::worker::{Broken, Common, Made, Said, Shop};
use super::{Options, Outcome, Status, StepOutcome, why};
use crate::digest::Digest;
use crate::plan::action::Input;
use crate::plan::prepare::{Artifact, Need, Prepared, ShardState, Trouble, assemble};
use crate::plan::{Plan, Step};
use crate::stage::Devices;
use crate::store::actions::{Lookup, Provenance};
use crate::store::manifest::Entry;
use crate::store::owner::Owner;

/// How often a step is put back because blobs of its inputs are gone, before it fails. Each round makes them again, so a
/// second one means that something else removes or damages them.
const ROUNDS: usize = 3;

/// How long an action that another process has claimed is left alone before it is looked at again: at first, and at most.
/// A look costs a few small reads of the claims' folder, which may lie on a network.
const LOOK_AGAIN: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(500)];

/// How often the main loop looks whether the user has asked to stop while it only waits for other processes.
const ATTENTIVE: Duration = Duration::from_millis(100);

/// Stack of a thread that runs an action, in bytes: deep autodiff graphs are dropped recursively.
const STACK: usize = 32 << 20;

/// Something for a thread to do.
enum Job {
    Prepare(usize),
    Act(Act),
}

/// One action to run.
struct Act {
    step: usize,
    prepared: Arc<Prepared>,
    shard: Option<usize>,
    /// What it has in common with the step's other actions; gone with the last of them.
    common: Arc<Common>,
    /// How long it waits when it is claimed elsewhere.
    pause: Duration,
}

impl Job {
    fn step(&self) -> usize {
        match self {
            Self::Prepare(step) | Self::Act(Act { step, .. }) => *step,
        }
    }
}

/// What a thread has done.
enum Message {
    Prepared(usize, Share, Result<Arc<Prepared>, Trouble>),
    Acted { act: Act, share: Share, seconds: f64, result: Result<(Made, Said), Broken> },
}

/// What is known of a step while the run is under way.
#[derive(Default)]
struct StepWork {
    prepared: Option<Arc<Prepared>>,
    output: Option<Artifact>,
    reason: String,
    failure: Option<(String, Option<String>)>,
    started: Option<Instant>,
    seconds: f64,
    /// Actions that have not ended.
    left: usize,
    /// Actions that are on a thread now.
    running: usize,
    shards: BTreeMap<u32, Option<Entry>>,
    said: Said,
    lost: Vec<(Digest, String)>,
    rounds: usize,
    /// Steps that make lost blobs again, which need not stand on a port of this one.
    waits: Vec<usize>,
    ran: bool,
    cancelled: bool,
    /// Whether it has been said that other processes do its work.
    waiting: bool,
    /// The devices that its actions had.
    devices: BTreeSet<String>,
    /// What its actions have in common.
    common: Weak<Common>,
}

pub(super) struct MainLoop<'a> {
    plan: &'a Plan,
    shop: &'a Shop<'a>,
    options: &'a Options,
    emit: &'a dyn Fn(Event),
    board: Board,
    work: Vec<StepWork>,
    queue: Queue<Job>,
    /// What no action has now.
    pool: Pool,
    /// Actions that other processes do, with the time to look at them again.
    elsewhere: Vec<(Instant, Act)>,
    in_flight: usize,
    stopped_by_failure: bool,
    /// What is gone and for others to make again.
    lost: Option<String>,
    /// Steps that wait for another one whose action is the same, with that one.
    twins: Vec<(usize, usize)>,
    /// Of each step whether its bytes are asked for, and not only what depends on it.
    wanted: Vec<bool>,
}

impl<'a> MainLoop<'a> {
    /// Makes the loop of a plan. `chosen` says which steps are asked for.
    pub(super) fn new(
        plan: &'a Plan,
        shop: &'a Shop<'a>,
        options: &'a Options,
        emit: &'a dyn Fn(Event),
        chosen: &[bool],
    ) -> Self {
        Self {
            plan,
            shop,
            options,
            emit,
            board: Board::new(plan, chosen),
            work: plan.steps.iter().map(|_| StepWork::default()).collect(),
            queue: Queue::new(),
            pool: Pool::new(options.devices.slots.len(), options.jobs, options.memory),
            elsewhere: Vec::new(),
            in_flight: 0,
            stopped_by_failure: false,
            lost: None,
            twins: Vec::new(),
            wanted: wanted(plan, chosen),
        }
    }
}

impl<'scope, 'env: 'scope> MainLoop<'env> {
    /// Runs until nothing is left to do, or the user asks to stop.
    pub(super) fn drive(&mut self, scope: &'scope Scope<'scope, 'env>, survey: Survey) {
        let (sender, receiver) = channel();
        for (step, standing) in survey.standings.into_iter().enumerate() {
            if let Standing::Known(prepared) = standing
                && !self.must_come(step, &prepared)
            {
                self.board.set(step, StepState::Wanted);
                self.prepared(step, prepared);
            }
        }
        self.want();
        loop {
            if self.options.cancelled.load(Ordering::Relaxed) {
                self.queue.clear();
                self.elsewhere.clear();
            }
            let now = Instant::now();
            let due: Vec<_> = self.elsewhere.extract_if(.., |(due, _)| *due <= now).collect();
            due.into_iter().for_each(|(_, act)| self.queue_act(act));
            while let Some((job, share)) = self.queue.pop(&mut self.pool) {
                self.start(scope, job, share, sender.clone());
            }
            self.warn();
            if self.in_flight == 0 && self.elsewhere.is_empty() {
                break;
            }
            let message = match self.elsewhere.iter().map(|(due, _)| *due).min() {
                None => receiver.recv().map_err(RecvTimeoutError::from),
                Some(due) => receiver.recv_timeout(due.saturating_duration_since(Instant::now()).min(ATTENTIVE)),
            };
            let message = match message {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            self.in_flight -= 1;
            match message {
                Message::Prepared(step, share, result) => {
                    self.pool.give_back(share);
                    self.looked_at(step, result);
                }
                Message::Acted { act, share, seconds, result } => self.acted(act, share, seconds, result),
            }
            self.want();
        }
    }

    fn looked_at(&mut self, step: usize, result: Result<Arc<Prepared>, Trouble>) {
        match result {
            Ok(prepared) => self.prepared(step, prepared),
            Err(Trouble { lost: Some(lost), message, .. }) => {
                self.work[step].lost.push((lost, message));
                self.make_again(step);
            }
            Err(trouble) => {
                self.work[step].failure = Some((trouble.message, trouble.help));
                self.fail(step);
            }
        }
    }

    /// Puts an action at the end of the queue.
    fn queue_act(&mut self, act: Act) {
        let demand = Demand::of(&self.plan.steps[act.step], &self.options.devices);
        self.queue.push_back(demand, Job::Act(act));
    }

    /// Puts a look at a step at the front of the queue: what it costs to know more is small, and it may free whole branches.
    fn queue_look(&mut self, step: usize) {
        self.queue.push_front(Demand::look(), Job::Prepare(step));
    }

    /// Whether bytes of a step are asked for that may have to come from elsewhere; then it is prepared on a thread.
    fn must_come(&self, step: usize, prepared: &Prepared) -> bool {
        let perhaps = match &prepared.need {
            Need::Nothing(artifact) => artifact.elsewhere,
            Need::Assembly(_) | Need::Shards { .. } => self.shop.store.has_remote(),
            Need::Whole => false,
        };
        self.wanted[step] && perhaps
    }

    /// Puts a job on a thread of its own.
    fn start(&mut self, scope: &'scope Scope<'scope, 'env>, job: Job, share: Share, sender: Sender<Message>) {
        let index = job.step();
        let step: &'env Step = &self.plan.steps[index];
        let shop = self.shop;
        let inputs = self.inputs(index);
        let bytes = if self.wanted[index] { Bytes::Here } else { Bytes::Anywhere };
        if matches!(job, Job::Act(_)) {
            self.board.set(index, StepState::Running);
            let work = &mut self.work[index];
            work.running += 1;
            work.started.get_or_insert_with(Instant::now);
        }
        self.in_flight += 1;
        let device = self.options.devices.device(step, &share.slots);
        if matches!(job, Job::Act(_)) && (step.kind.devices() == Devices::One || !share.slots.is_empty()) {
            self.make_room(index, &device);
        }
        let unused = share.clone();
        let body = move || {
            let message = match job {
                Job::Prepare(_) => {
                    let result = prepare(shop.planner, step, &inputs, bytes).map(Arc::new);
                    Message::Prepared(index, share, result)
                }
                Job::Act(act) => {
                    let clock = Instant::now();
                    let part = match (&act.prepared.need, act.shard) {
                        (Need::Shards { shards, .. }, Some(shard)) => Some(&shards[shard]),
                        _ => None,
                    };
                    let result = shop.act(step, &act.prepared, part, &device, &act.common);
                    Message::Acted { act, share, seconds: clock.elapsed().as_secs_f64(), result }
                }
            };
            // The main loop waits for as many messages as it has started threads.
            let _ = sender.send(message);
        };
        let builder = Builder::new().name(format!("stage {}", step.name)).stack_size(STACK);
        if let Err(error) = builder.spawn_scoped(scope, body) {
            self.in_flight -= 1;
            self.pool.give_back(unused);
            self.work[index].running = self.work[index].running.saturating_sub(1);
            self.work[index].failure = Some((format!("a thread could not be started: {error}"), None));
            self.fail(index);
        }
    }

    /// A step computes on a device, whose memory is its own: what other steps share there goes.
    fn make_room(&self, step: usize, device: &str) {
        for (_, work) in self.work.iter().enumerate().filter(|(other, _)| *other != step) {
            if let Some(common) = work.common.upgrade() {
                common.shared.forget(device);
            }
        }
    }

    /// Returns the artifacts on a step's ports, as far as they are known.
    fn inputs(&self, step: usize) -> Vec<Artifact> {
        self.plan.steps[step].inputs.iter().filter_map(|input| self.work[input.step].output.clone()).collect()
    }

    /// Moves every step whose inputs have become known, or whose twin has ended.
    fn want(&mut self) {
        let board = &self.board;
        let free: Vec<_> = self
            .twins
            .extract_if(.., |(_, twin)| !matches!(board.state(*twin), StepState::Ready | StepState::Running))
            .collect();
        for (step, _) in free {
            if self.board.state(step) == StepState::Wanted {
                self.queue_look(step);
            }
        }
        for step in self.board.all(|state| state == StepState::Unknown) {
            let waits = &self.work[step].waits;
            if let Some(above) = waits.iter().copied().find(|above| !self.board.state(*above).has_result()) {
                if self.board.state(above).is_final() {
                    self.skip(step, format!("waits for {}", self.plan.steps[above].name));
                    self.skip_behind(step);
                }
            } else if self.board.inputs_known(step) {
                self.board.set(step, StepState::Wanted);
                self.queue_look(step);
            }
        }
    }

    fn prepared(&mut self, step: usize, prepared: Arc<Prepared>) {
        let stage = self.plan.steps[step].name.clone();
        self.work[step].prepared = Some(Arc::clone(&prepared));
        let (total, missing): (usize, Vec<Option<usize>>) = match &prepared.need {
            Need::Nothing(artifact) => return self.end(step, artifact.clone(), StepState::Cached),
            Need::Assembly(artifact) => {
                let said = Said::default();
                let started = jiff::Timestamp::now().to_string();
                let device = self.devices_of(step);
                let provenance = Provenance { started, ..self.shop.provenance(&self.plan.steps[step], device, &said) };
                return self.keep(step, &prepared, artifact.clone(), provenance, StepState::Cached);
            }
            Need::Whole => (1, vec![None]),
            Need::Shards { shards, .. } => {
                let hits = shards.iter().filter_map(|shard| match &shard.state {
                    ShardState::Hit(entry) => Some((shard.bucket, entry.clone())),
                    ShardState::Miss | ShardState::Elsewhere => None,
                });
                self.work[step].shards = hits.collect();
                let missing = (0..shards.len()).filter(|shard| shards[*shard].state == ShardState::Miss);
                (shards.len(), missing.map(Some).collect())
            }
        };
        let twin = (0..self.work.len()).find(|other| {
            let same = self.work[*other].prepared.as_ref().is_some_and(|other| other.key == prepared.key);
            *other != step && same && matches!(self.board.state(*other), StepState::Ready | StepState::Running)
        });
        if let Some(twin) = twin {
            // The same work is under way: this step looks again when it has ended, one way or the other.
            self.twins.push((step, twin));
            return;
        }
        let reason = why::why(self.plan, &self.plan.steps[step], &prepared, self.shop.store);
        if missing.is_empty() {
            // This part of it is there.
            return self.assemble(step, &prepared);
        }
        let work = &mut self.work[step];
        work.left = missing.len();
        if work.reason.is_empty() {
            work.reason.clone_from(&reason);
        }
        self.board.set(step, StepState::Ready);
        let cached = total - missing.len();
        let announcement = Event::Started { stage, key: prepared.key, reason, actions: missing.len(), cached };
        let common = Arc::new(Common { announcement: Mutex::new(Some(announcement)), ..Common::default() });
        self.work[step].common = Arc::downgrade(&common);
        for shard in missing {
            let (prepared, common) = (Arc::clone(&prepared), Arc::clone(&common));
            self.queue_act(Act { step, prepared, shard, common, pause: LOOK_AGAIN[0] });
        }
    }

    fn acted(&mut self, act: Act, share: Share, seconds: f64, result: Result<(Made, Said), Broken>) {
        let (step, shard) = (act.step, act.shard);
        let stage = self.plan.steps[step].name.clone();
        let slots = share.slots.clone();
        let device = self.options.devices.device(&self.plan.steps[step], &slots);
        self.pool.give_back(share);
        let Some(prepared) = self.work[step].prepared.clone() else { return };
        let bucket = match (&prepared.need, shard) {
            (Need::Shards { shards, .. }, Some(shard)) => Some(shards[shard].bucket),
            _ => None,
        };
        let work = &mut self.work[step];
        work.running -= 1;
        match result {
            Ok((made, said)) => {
                work.left -= 1;
                if !said.found {
                    work.ran = true;
                    work.said.metrics.extend(said.metrics);
                    work.said.warnings.extend(said.warnings);
                    work.devices.insert(device.clone());
                    let device = (!slots.is_empty()).then_some(device);
                    (self.emit)(Event::ActionDone { stage, bucket, seconds, device, slots });
                }
                match (made, bucket) {
                    (Made::Whole(artifact), _) if said.found => return self.end(step, artifact, StepState::Cached),
                    (Made::Whole(artifact), _) => return self.end(step, artifact, StepState::Done),
                    (Made::Shard(entry), Some(bucket)) => {
                        work.shards.insert(bucket, entry);
                    }
                    (Made::Shard(_), None) => {}
                }
            }
            Err(Broken::Failed { message, help }) => {
                work.failure.get_or_insert((message, help));
            }
            Err(Broken::Cancelled) => work.cancelled = true,
            Err(Broken::Lost(lost)) => work.lost.extend(lost),
            Err(Broken::Claimed(owner)) => {
                if !std::mem::replace(&mut work.waiting, true) && owner != *Owner::this() {
                    let (host, process) = (owner.host().to_owned(), owner.process());
                    (self.emit)(Event::Waiting { stage, host, process });
                }
                let broken = work.failure.is_some() || !work.lost.is_empty() || work.cancelled;
                if !broken {
                    let pause = act.pause.mul_f64(1.5).min(LOOK_AGAIN[1]);
                    self.elsewhere.push((Instant::now() + act.pause, Act { pause, ..act }));
                }
            }
        }
        let work = &self.work[step];
        let broken = work.failure.is_some() || !work.lost.is_empty() || work.cancelled;
        if broken {
            self.forget(step);
        }
        if self.work[step].running > 0 {
            return;
        }
        if self.work[step].failure.is_some() {
            self.fail(step);
        } else if !self.work[step].lost.is_empty() {
            self.make_again(step);
        } else if !broken && self.work[step].left == 0 {
            self.assemble(step, &prepared);
        }
    }

    /// Returns the devices that a step's actions had.
    fn devices_of(&self, step: usize) -> String {
        let devices = &self.work[step].devices;
        if devices.is_empty() {
            return self.options.devices.device(&self.plan.steps[step], &[]);
        }
        devices.iter().map(String::as_str).collect::<Vec<_>>().join(",")
    }

    /// Puts a per-image stage's shards together and records the whole.
    fn assemble(&mut self, step: usize, prepared: &Prepared) {
        let Need::Shards { buckets, meta, shards: all } = &prepared.need else { return };
        let mut shards = std::mem::take(&mut self.work[step].shards);
        // The last ones are the last to be made: whoever is not the last job sees so at once.
        for shard in all.iter().rev().filter(|shard| shard.state == ShardState::Elsewhere) {
            let Some(Err(entry)) = self.shop.planner.result(&self.plan.steps[step], shard.key) else {
                self.skip(step, "other jobs make the rest of it".to_owned());
                return self.skip_behind(step);
            };
            shards.insert(shard.bucket, entry);
        }
        let shards = shards.into_iter().filter_map(|(bucket, entry)| Some((bucket, entry?)));
        let artifact = assemble(&self.plan.steps[step], *buckets, meta.clone(), shards);
        let seconds = self.work[step].started.map_or(0.0, |started| started.elapsed().as_secs_f64());
        let span = jiff::SignedDuration::try_from_secs_f64(seconds).unwrap_or_default();
        let provenance = Provenance {
            started: (jiff::Timestamp::now() - span).to_string(),
            seconds,
            ..self.shop.provenance(&self.plan.steps[step], self.devices_of(step), &self.work[step].said)
        };
        self.keep(step, prepared, artifact, provenance, StepState::Done);
    }

    fn keep(&mut self, step: usize, prepared: &Prepared, artifact: Artifact, provenance: Provenance, state: StepState) {
        // Another process that worked on the same shards may have been faster.
        if matches!(self.shop.store.lookup(prepared.key), Lookup::Hit(record) if !record.elsewhere) {
            return self.end(step, artifact, state);
        }
        let kept = self.shop.keep_action(&prepared.action, &prepared.items, prepared, false).and_then(|()| {
            self.shop.keep_artifact(prepared.key, &artifact, prepared.shards.clone(), provenance, false)
        });
        match kept {
            Ok(()) => self.end(step, artifact, state),
            Err(error) => {
                self.work[step].failure = Some((error.to_string(), None));
                self.fail(step);
            }
        }
    }

    /// A step has its result.
    fn end(&mut self, step: usize, artifact: Artifact, state: StepState) {
        let stage = self.plan.steps[step].name.clone();
        let output = artifact.digest;
        self.shop.planner.made(output);
        let work = &mut self.work[step];
        work.output = Some(artifact);
        // A step whose lost parts were made again has run, even if its own record was found in the end.
        let state = if work.ran { StepState::Done } else { state };
        let key = work.prepared.as_ref().map_or(output, |prepared| prepared.key);
        work.seconds = work.started.map_or(0.0, |started| started.elapsed().as_secs_f64());
        let seconds = work.seconds;
        let shards = work.prepared.as_ref().map(|prepared| prepared.shards.clone()).unwrap_or_default();
        self.board.set(step, state);
        // What came from a remote cache is known here from now on.
        if let Err(error) = self.shop.store.keep_found(&[&shards[..], &[key]].concat()) {
            (self.emit)(Event::Warning { stage: Some(stage.clone()), message: error.to_string() });
        }
        self.shop.store.used(key);
        if let Err(error) = self.shop.store.set_last(&self.plan.pipeline, &stage, key) {
            (self.emit)(Event::Warning { stage: Some(stage.clone()), message: error.to_string() });
        }
        (self.emit)(match state {
            StepState::Done => Event::Done { stage, key, output, seconds },
            _ => Event::Cached { stage, key, output },
        });
    }

    fn fail(&mut self, step: usize) {
        let work = &mut self.work[step];
        work.seconds = work.started.map_or(0.0, |started| started.elapsed().as_secs_f64());
        let (message, help) = work.failure.clone().unwrap_or_default();
        work.reason.clone_from(&message);
        let stage = self.plan.steps[step].name.clone();
        self.board.set(step, StepState::Failed);
        self.forget(step);
        (self.emit)(Event::Failed { stage, message, help, seconds: self.work[step].seconds });
        self.skip_behind(step);
        if self.options.fail_fast {
            self.stopped_by_failure = true;
            self.options.cancelled.store(true, Ordering::Relaxed);
        }
    }

    /// Leaves out everything that depends on a step.
    fn skip_behind(&mut self, step: usize) {
        for (skipped, above) in self.board.skip_behind(step) {
            let reason = format!("waits for {}", self.plan.steps[above].name);
            self.forget(skipped);
            self.skip(skipped, reason);
        }
    }

    /// Takes everything that a step still had to do out of the queues.
    fn forget(&mut self, step: usize) {
        self.queue.retain(|job| job.step() != step);
        self.elsewhere.retain(|(_, act)| act.step != step);
    }

    fn skip(&mut self, step: usize, reason: String) {
        self.board.set(step, StepState::Skipped);
        self.work[step].reason.clone_from(&reason);
        (self.emit)(Event::Skipped { stage: self.plan.steps[step].name.clone(), reason });
    }

    /// Blobs that a step reads are gone: the steps that made them are looked at again, and this one waits for them. Where nobody has looked
    /// at them before, whoever asked for the step does so first.
    fn make_again(&mut self, step: usize) {
        let lost = std::mem::take(&mut self.work[step].lost);
        if self.shop.planner.is_trusting() {
            let message = lost.first().map(|(_, message)| message.clone()).unwrap_or_default();
            self.lost.get_or_insert_with(|| message.clone());
            self.skip(step, message);
            return self.skip_behind(step);
        }
        self.work[step].rounds += 1;
        let makers: Vec<usize> = (0..step)
            .filter(|maker| {
                self.work[*maker].output.as_ref().is_some_and(|output| {
                    let parts = || output.manifest.entries.values().flat_map(Entry::blobs).map(|(digest, _)| digest);
                    lost.iter().any(|(digest, _)| *digest == output.digest || parts().any(|part| part == *digest))
                })
            })
            .collect();
        // An input that was made again in the meantime may have come out differently; then this step only looks again.
        let stale =
            self.work[step].prepared.as_ref().is_some_and(|prepared| {
                self.plan.steps[step].inputs.iter().zip(self.inputs(step)).any(|(input, artifact)| {
                    prepared.action.inputs.get(input.port) != Some(&Input::Whole(artifact.digest))
                })
            });
        if (makers.is_empty() && !stale) || self.work[step].rounds > ROUNDS {
            let message = lost.first().map(|(_, message)| message.clone()).unwrap_or_default();
            self.work[step].failure = Some((message, Some("`orandflow cache verify` looks at the whole cache".into())));
            return self.fail(step);
        }
        for (_, message) in &lost {
            let message = format!("{message}; it is made again");
            (self.emit)(Event::Warning { stage: Some(self.plan.steps[step].name.clone()), message });
        }
        self.board.set(step, StepState::Unknown);
        self.work[step].waits.clone_from(&makers);
        for maker in makers {
            // One that is lost, damaged or unreadable is seldom the only one; finding each as it is read takes a round for each.
            if let Some(output) = self.work[maker].output.as_ref() {
                let blobs: Vec<(Digest, u64)> = output.manifest.entries.values().flat_map(Entry::blobs).collect();
                self.shop.store.give_up(&blobs);
            }
            if self.board.state(maker).has_result() {
                self.board.set(maker, StepState::Unknown);
                self.work[maker].reason.clear();
            }
        }
    }

    fn warn(&self) {
        for message in self.shop.planner.take_warnings() {
            (self.emit)(Event::Warning { stage: None, message });
        }
    }

    /// Returns what came of each chosen step.
    pub(super) fn finish(mut self) -> Outcome {
        let stopped = self.options.cancelled.load(Ordering::Relaxed);
        let why_left = if self.stopped_by_failure { "stopped by --fail-fast" } else { "interrupted" };
        for step in self.board.all(|state| !state.is_final()) {
            self.skip(step, why_left.to_owned());
        }
        let steps = self.board.all(|state| state != StepState::Outside).into_iter().map(|step| {
            let work = &mut self.work[step];
            StepOutcome {
                step,
                status: match self.board.state(step) {
                    StepState::Cached => Status::Cached,
                    StepState::Done => Status::Ran,
                    StepState::Failed => Status::Failed,
                    _ => Status::Skipped,
                },
                reason: std::mem::take(&mut work.reason),
                key: work.prepared.as_ref().map(|prepared| prepared.key),
                output: work.output.take(),
                seconds: work.seconds,
            }
        });
        let interrupted = stopped && !self.stopped_by_failure;
        Outcome { steps: steps.collect(), interrupted, lost: self.lost, seconds: 0.0 }
    }
}
