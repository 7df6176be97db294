//! One action on one thread: scratch folder, guard against panics, result into the store. Unaware of the graph.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Instant;

use super::event::Event;
use crate::digest::Digest;
use crate::plan::Step;
use crate::plan::action::Action;
use crate::plan::prepare::{self, Artifact, Planner, Prepared, Shard};
use crate::stage::{Access, Checkpoints, Ctx, HashedItem, Output, Report, Shared, StageError, Work};
use crate::store::actions::{Provenance, Record};
use crate::store::blobs::BlobError;
use crate::store::claims::Claim;
use crate::store::manifest::Entry;
use crate::store::owner::Owner;
use crate::store::{Store, host};

/// Results of actions that took less than this are not waited for on the disk: a damaged one is only a miss.
const WORTH_SYNCING: f64 = 0.1;

/// What all actions of a run share.
pub(crate) struct Shop<'a> {
    /// Where results go.
    pub(crate) store: &'a Store,
    /// Knows where data files lie.
    pub(crate) planner: &'a Planner<'a>,
    /// Name of the pipeline.
    pub(crate) pipeline: &'a str,
    /// How many actions can run side by side.
    pub(crate) jobs: usize,
    /// Set when running actions should stop.
    pub(crate) cancelled: &'a AtomicBool,
    /// How often the user has asked for checkpoints.
    pub(crate) asked: &'a AtomicU64,
    /// The stages that start afresh, whatever they have kept.
    pub(crate) restart: &'a [String],
    /// Takes events.
    pub(crate) emit: &'a (dyn Fn(Event) + Sync),
    /// Takes reports, with the bucket of the action.
    pub(crate) report: &'a (dyn Fn(&Step, Option<u32>, Report) + Sync),
}

/// What the actions of a step have in common.
#[derive(Default)]
pub(crate) struct Common {
    /// What is said when the first of them begins.
    pub(crate) announcement: Mutex<Option<Event>>,
    /// What they share of their own.
    pub(crate) shared: Shared,
}

/// What came of an action.
#[derive(Debug)]
pub(crate) enum Made {
    /// A whole artifact.
    Whole(Artifact),
    /// A shard, if it has images.
    Shard(Option<Entry>),
}

/// What an action said besides its result.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// The last value of each metric.
    pub(crate) metrics: BTreeMap<String, f64>,
    /// Warnings.
    pub(crate) warnings: Vec<String>,
    /// Whether it did not run after all, as another process had just done it.
    pub(crate) found: bool,
}

/// Why an action came to nothing.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The stage failed.
    Failed {
        /// Why.
        message: String,
        /// What to try.
        help: Option<String>,
    },
    /// It was asked to stop.
    Cancelled,
    /// Blobs that it reads are gone; the reasons name them.
    Lost(Vec<(Digest, String)>),
    /// This process does it now.
    Claimed(Owner),
}

impl Shop<'_> {
    /// Runs one action and records its result, unless another process does or did so; what is announced is said before it runs.
    pub(crate) fn act(
        &self,
        step: &Step,
        prepared: &Prepared,
        shard: Option<&Shard>,
        device: &str,
        common: &Common,
    ) -> Result<(Made, Said), Broken> {
        let key = shard.map_or(prepared.key, |shard| shard.key);
        // Held to the end of this function. Where claims cannot be written the work is done without one.
        let claim = self.store.claim(key);
        if let Ok(Claim::Theirs(owner)) = claim {
            return Err(Broken::Claimed(owner));
        }
        if let Some(made) = self.planner.result(step, key) {
            return Ok((made.map_or_else(Made::Shard, Made::Whole), Said { found: true, ..Said::default() }));
        }
        if let Some(event) = common.announcement.lock().unwrap_or_else(PoisonError::into_inner).take() {
            (self.emit)(event);
        }
        self.bring(prepared, shard);
        let lost = Mutex::new(Vec::new());
        let said = Mutex::new(Said::default());
        let result = guard(|| self.try_act(step, prepared, shard, (device, &common.shared), &lost, &said));
        let lost = lost.into_inner().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(Ok(made)) => Ok((made, said.into_inner().unwrap_or_else(PoisonError::into_inner))),
            _ if !lost.is_empty() => Err(Broken::Lost(lost)),
            Ok(Err(StageError::Cancelled)) => Err(Broken::Cancelled),
            Ok(Err(StageError::Data { message, help })) => Err(Broken::Failed { message, help }),
            Ok(Err(error)) => Err(Broken::Failed { message: error.to_string(), help: None }),
            Err(panic) => Err(Broken::Failed {
                message: panic,
                help: Some("this is a bug of the stage; the other stages are not affected".to_owned()),
            }),
        }
    }

    /// Brings the bytes here that an action reads, many at a time. What does not come is found missing when it is read.
    fn bring(&self, prepared: &Prepared, shard: Option<&Shard>) {
        if !self.store.has_remote() {
            return;
        }
        let part = shard.and_then(|shard| shard.action.shard);
        let blobs: Vec<(Digest, u64)> = prepared
            .inputs
            .ports
            .values()
            .flat_map(|manifest| match part {
                Some((bucket, buckets)) if manifest.buckets.is_some() => manifest.shards_meeting(bucket, buckets),
                _ => manifest.entries.values().collect(),
            })
            .flat_map(Entry::blobs)
            .collect();
        // A disk that is full fails the action as well, with the same words.
        let _ = self.store.fetch(&blobs);
    }

    fn try_act(
        &self,
        step: &Step,
        prepared: &Prepared,
        shard: Option<&Shard>,
        (device, shared): (&str, &Shared),
        lost: &Mutex<Vec<(Digest, String)>>,
        said: &Mutex<Said>,
    ) -> Result<Made, StageError> {
        let started = jiff::Timestamp::now();
        let clock = Instant::now();
        let action = shard.map_or(&prepared.action, |shard| &shard.action);
        let key = shard.map_or(prepared.key, |shard| shard.key);
        let items = shard.map_or(&prepared.items[..], |shard| &prepared.items[shard.items.clone()]);
        let bucket = shard.map(|shard| shard.bucket);
        let scratch = self.store.scratch()?;
        let reader = Reader { store: self.store, planner: self.planner, lost };
        let report = |report: Report| {
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            match &report {
                Report::Metric { name, value, .. } => {
                    said.metrics.insert((*name).to_owned(), *value);
                }
                Report::Warning(warning) => said.warnings.push(warning.clone()),
                Report::Progress { .. } => {}
            }
            drop(said);
            (self.report)(step, bucket, report);
        };
        if self.restart.contains(&step.name) {
            self.store.remove_checkpoints(key);
        }
        let seen = AtomicU64::new(self.asked.load(Ordering::Relaxed));
        let checkpoints =
            Kept { store: self.store, key, asked: self.asked, seen, any: AtomicBool::new(false), report: &report };
        let output = step.run.run(&Ctx {
            inputs: &prepared.inputs,
            shard: action.shard,
            items,
            files: &prepared.files,
            seed: action.stage_seed(),
            device,
            scratch: scratch.path(),
            access: &reader,
            checkpoints: &checkpoints,
            shared,
            report: &report,
            cancelled: self.cancelled,
        })?;
        // A stage that goes on without something it could not read has no result either.
        if let Some((_, message)) = lost.lock().unwrap_or_else(PoisonError::into_inner).first() {
            return Err(StageError::data(message.clone()));
        }
        let seconds = clock.elapsed().as_secs_f64();
        let said = said.lock().unwrap_or_else(PoisonError::into_inner);
        let provenance =
            Provenance { seconds, started: started.to_string(), ..self.provenance(step, device.to_owned(), &said) };
        drop(said);
        let sync = seconds >= WORTH_SYNCING;
        self.keep_action(action, items, prepared, sync)?;
        let made = match step.kind.spec().work {
            Work::PerImage => {
                let entry = self.keep_shard(step, output, sync)?;
                self.store.record(key, &Record::shard(entry.clone(), provenance), sync)?;
                Made::Shard(entry)
            }
            Work::Whole => {
                let mut entries = BTreeMap::new();
                for (name, bytes) in output.parts {
                    let digest = self.store.put(&bytes, sync)?;
                    entries
                        .insert(name, Entry { digest, size: bytes.len() as u64, ids: Vec::new(), content: Vec::new() });
                }
                let artifact = prepare::whole(step, output.meta, entries);
                self.keep_artifact(key, &artifact, Vec::new(), provenance, sync)?;
                Made::Whole(artifact)
            }
        };
        if checkpoints.any.load(Ordering::Relaxed) {
            self.store.remove_checkpoints(key);
        }
        Ok(made)
    }

    /// Returns the provenance of a result that is made now on a device, without its times.
    pub(crate) fn provenance(&self, step: &Step, device: String, said: &Said) -> Provenance {
        Provenance {
            pipeline: self.pipeline.to_owned(),
            stage: step.name.clone(),
            kind: step.kind.spec().name.to_owned(),
            started: String::new(),
            seconds: 0.0,
            host: host().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            device,
            jobs: self.jobs,
            metrics: said.metrics.clone(),
            warnings: said.warnings.clone(),
            peak_memory: peak_memory(),
        }
    }

    /// Stores the readable file that a key is the digest of, and the listing that it names.
    pub(crate) fn keep_action(
        &self,
        action: &Action,
        items: &[HashedItem],
        prepared: &Prepared,
        sync: bool,
    ) -> std::io::Result<()> {
        if action.items.is_some() {
            match &prepared.listing {
                Some(listing) if action.shard.is_none() => self.store.put(listing, sync)?,
                _ => self.store.put(&crate::plan::action::listing(items), sync)?,
            };
        }
        self.store.put(&action.to_bytes(), sync).map(drop)
    }

    /// Stores a manifest and, last, the record of its action; `shards` are the keys of the actions that made its shards.
    pub(crate) fn keep_artifact(
        &self,
        key: Digest,
        artifact: &Artifact,
        shards: Vec<Digest>,
        provenance: Provenance,
        sync: bool,
    ) -> std::io::Result<()> {
        let manifest = serde_json::to_value(&**artifact.manifest).expect("a manifest is JSON").to_string();
        let digest = self.store.put(manifest.as_bytes(), sync)?;
        let mut blobs = vec![(digest, manifest.len() as u64)];
        blobs.extend(artifact.manifest.entries.values().flat_map(Entry::blobs));
        // Shards of a remote cache may not have come yet.
        let elsewhere = self.store.remote().is_some() && self.store.missing(&blobs).is_some();
        self.store.record(key, &Record { elsewhere, ..Record::whole(digest, blobs, shards, provenance) }, sync)
    }

    fn keep_shard(&self, step: &Step, output: Output, sync: bool) -> Result<Option<Entry>, StageError> {
        let kind = step.kind.spec().name;
        if output.ids.is_empty() {
            return Ok(None);
        }
        let Some(bytes) = output.parts.get(Output::SHARD) else {
            return Err(StageError::data(format!("`{kind}` returned image ids without a shard")));
        };
        let mut ids = output.ids;
        ids.sort_unstable();
        let others = output.parts.iter().filter(|(name, _)| *name != Output::SHARD);
        let content = others.map(|(_, bytes)| Ok((self.store.put(bytes, sync)?, bytes.len() as u64)));
        let content = content.collect::<std::io::Result<Vec<_>>>()?;
        Ok(Some(Entry { digest: self.store.put(bytes, sync)?, size: bytes.len() as u64, ids, content }))
    }
}

/// Reads for one action, and remembers what it did not find.
struct Reader<'a> {
    store: &'a Store,
    planner: &'a Planner<'a>,
    lost: &'a Mutex<Vec<(Digest, String)>>,
}

impl Reader<'_> {
    fn blob(&self, digest: Digest) -> Result<Vec<u8>, StageError> {
        self.store.get(digest).map_err(|error| match error {
            BlobError::Io(error) => StageError::Io(error),
            BlobError::Missing(_) | BlobError::Damaged(_) | BlobError::Unreadable { .. } => {
                let message = error.to_string();
                self.lost.lock().unwrap_or_else(PoisonError::into_inner).push((digest, message.clone()));
                StageError::data(message)
            }
        })
    }
}

impl Access for Reader<'_> {
    fn entry(&self, entry: &Entry) -> Result<Vec<u8>, StageError> {
        self.blob(entry.digest)
    }

    fn content(&self, digest: Digest) -> Result<Vec<u8>, StageError> {
        let Some(path) = self.planner.location(digest) else { return self.blob(digest) };
        let bytes = fs_err::read(&path)?;
        if Digest::of(&bytes) == digest {
            return Ok(bytes);
        }
        Err(StageError::data_help(
            format!("`{}` changed while the run was under way", path.display()),
            "run again when nothing writes to it any more",
        ))
    }
}

/// The checkpoints of one action.
struct Kept<'a> {
    store: &'a Store,
    key: Digest,
    asked: &'a AtomicU64,
    /// How often the user had asked when this was last looked at.
    seen: AtomicU64,
    /// Whether there may be any.
    any: AtomicBool,
    report: &'a (dyn Fn(Report) + Sync),
}

impl Checkpoints for Kept<'_> {
    fn newest(&self) -> Option<(u64, Vec<u8>)> {
        self.any.store(true, Ordering::Relaxed);
        self.store.newest_checkpoint(self.key)
    }

    fn keep(&self, number: u64, bytes: Vec<u8>) {
        self.any.store(true, Ordering::Relaxed);
        if let Err(error) = self.store.keep_checkpoint(self.key, number, bytes) {
            (self.report)(Report::Warning(format!("the checkpoint is not kept: {error}")));
        }
    }

    fn wanted(&self) -> bool {
        let asked = self.asked.load(Ordering::Relaxed);
        self.seen.swap(asked, Ordering::Relaxed) != asked
    }
}

thread_local! {
    /// Whether a panic on this thread belongs to a stage.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// How many calls of [`guard`] are under way.
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// The panics of stages that nobody has asked for yet: message and place.
static PANICS: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

/// Runs `work`; a panic becomes its message with its place, and nothing is printed.
pub(crate) fn guard<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // Threads of rayon's pool have no name; what panics there while a stage runs belongs to that stage as well.
            let pool = std::thread::current().name().is_none() && UNDER_WAY.load(Ordering::SeqCst) > 0;
            if !GUARDED.get() && !pool {
                return before(info);
            }
            let place = info.location().map(|place| format!("{}:{}", place.file(), place.line())).unwrap_or_default();
            let message = message_of(info.payload());
            let mut panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
            panics.truncate(64);
            panics.push((message, place));
        }));
    });
    UNDER_WAY.fetch_add(1, Ordering::SeqCst);
    let outer = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(outer);
    UNDER_WAY.fetch_sub(1, Ordering::SeqCst);
    result.map_err(|payload| {
        let message = message_of(&*payload);
        let mut panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
        let place = panics.iter().rposition(|(other, _)| *other == message).map(|at| panics.swap_remove(at).1);
        match place {
            Some(place) if !place.is_empty() => format!("it panicked at {place}: {message}"),
            _ => format!("it panicked: {message}"),
        }
    })
}

fn message_of(payload: &dyn std::any::Any) -> String {
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without a message").to_owned()
}

/// Returns the most memory that this process has used, in bytes; 0 where the system does not say.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}
