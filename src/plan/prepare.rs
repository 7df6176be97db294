//! What a step's result depends on, and whether it is there: the one function that `plan` and `run` share.
//!
//! Reads the cache and hashes data files; runs no stage and writes nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::Step;
use super::action::{Action, Input, file_parts, listing, rest_of};
use crate::diag::Diagnostic;
use crate::digest::Digest;
use crate::kind::Kind;
use crate::stage::{HashedFile, HashedItem, Inputs, SourceFile, SourceItem, Sources, StageError, Work};
use crate::store::Store;
use crate::store::actions::Lookup;
use crate::store::files::Files;
use crate::store::manifest::{Entry, Lazy, Manifest, bucket_of, buckets_for, shard_name};

/// How many image ids a message names.
const NAMED: usize = 5;

/// A finished artifact: its digest and its manifest.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// The manifest's digest.
    pub digest: Digest,
    /// The manifest, which is read when it is first looked at.
    pub manifest: Arc<Lazy>,
    /// Whether its blobs need not be here, as its record came without them.
    pub elsewhere: bool,
}

impl Artifact {
    fn new(manifest: Manifest) -> Self {
        let manifest = Lazy::from(manifest);
        Self { digest: manifest.digest(), manifest: Arc::new(manifest), elsewhere: false }
    }
}

/// What keeps a step from being prepared.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// One clear sentence.
    pub message: String,
    /// What to try.
    pub help: Option<String>,
    /// The parameter to blame, if it is one.
    pub parameter: Option<String>,
    /// The artifact on a port whose manifest is gone, if that is all: it can be made again.
    pub lost: Option<Digest>,
}

impl Trouble {
    fn new(message: String, help: &str) -> Self {
        Self { message, help: Some(help.to_owned()), parameter: None, lost: None }
    }

    /// Returns it as a diagnostic at the place of the stage, or of the parameter to blame.
    pub fn diagnostic(&self, step: &Step) -> Diagnostic {
        let named = self.parameter.as_ref().and_then(|name| step.places.get(name));
        let diagnostic = Diagnostic::new(format!("stage `{}`: {}", step.name, self.message));
        let diagnostic = match named {
            Some(span) => diagnostic.at(span.clone(), ""),
            None => diagnostic.at(step.span.clone(), format!("a `{}` stage", step.kind.spec().name)),
        };
        match &self.help {
            Some(help) => diagnostic.help(help.clone()),
            None => diagnostic,
        }
    }
}

impl From<StageError> for Trouble {
    fn from(error: StageError) -> Self {
        let message = error.to_string();
        match error {
            StageError::Parameter { name, .. } => Self { message, help: None, parameter: Some(name), lost: None },
            StageError::Data { help, .. } => Self { message, help, parameter: None, lost: None },
            StageError::Cancelled | StageError::Io(_) => Self { message, help: None, parameter: None, lost: None },
        }
    }
}

/// One shard of a per-image stage.
#[derive(Clone, Debug)]
pub struct Shard {
    /// Its bucket.
    pub bucket: u32,
    /// What determines it.
    pub action: Action,
    /// The action's key.
    pub key: Digest,
    /// Range of the items that fall into it, in [`Prepared::items`].
    pub items: std::ops::Range<usize>,
    /// Whether it is there.
    pub state: ShardState,
}

/// Whether a shard is there.
#[derive(Clone, Debug, PartialEq)]
pub enum ShardState {
    /// It is; `None` if it has no images.
    Hit(Option<Entry>),
    /// It is not.
    Miss,
    /// Another job makes it, and nobody has looked.
    Elsewhere,
}

impl ShardState {
    /// Whether it has to be made here.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Miss)
    }
}

/// The shards of a per-image stage that one of several jobs makes: every `of`-th one, from `index` on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The stage.
    pub stage: String,
    /// Which part, from 0.
    pub index: usize,
    /// How many parts there are.
    pub of: usize,
}

/// What there is to do for a step.
#[derive(Clone, Debug)]
pub enum Need {
    /// Nothing: this is its result.
    Nothing(Artifact),
    /// Nothing but to record the result, all shards of which are there.
    Assembly(Artifact),
    /// The stage as a whole.
    Whole,
    /// Some shards.
    Shards {
        /// Number of buckets.
        buckets: u32,
        /// Metadata of the artifact.
        meta: Value,
        /// All shards, in order of their bucket.
        shards: Vec<Shard>,
    },
}

/// A step whose inputs are known.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// What determines the stage's result.
    pub action: Action,
    /// The action's key.
    pub key: Digest,
    /// The artifacts on its ports.
    pub inputs: Inputs,
    /// Its items, in order of bucket and id for per-image work, else of id.
    pub items: Vec<HashedItem>,
    /// The [`listing`] of its items in order of id, which the action names by digest.
    pub listing: Option<Vec<u8>>,
    /// Its files as a whole, in order of their role.
    pub files: Vec<HashedFile>,
    /// What there is to do.
    pub need: Need,
    /// A blob of an earlier result that is gone.
    pub lost: Option<Digest>,
    /// Keys of its shards, where it was cut into them.
    pub shards: Vec<Digest>,
}

/// Prepares steps.
pub struct Planner<'a> {
    store: &'a Store,
    files: &'a Files,
    locations: Mutex<HashMap<Digest, PathBuf>>,
    warnings: Mutex<Vec<String>>,
    /// Artifacts whose manifest could not be read: no record that names one is a hit any more.
    unreadable: Mutex<HashSet<Digest>>,
    part: Option<Part>,
    /// The only stage whose blobs are looked at; without it those of all are.
    doubted: Option<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is guarded here can be left half changed by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Planner<'a> {
    /// Makes a planner.
    pub fn new(store: &'a Store, files: &'a Files) -> Self {
        Self {
            store,
            files,
            locations: Mutex::default(),
            warnings: Mutex::default(),
            unreadable: Mutex::default(),
            part: None,
            doubted: None,
        }
    }

    /// Leaves all shards of a stage to others but one part.
    #[must_use]
    pub fn only(self, part: Option<Part>) -> Self {
        Self { part, ..self }
    }

    /// Takes the records of all stages but this one at their word, where they say which blobs there are: a job of a cluster has a
    /// coordinator that looks at them, and a thousand jobs would look at each blob a thousand times. One that is gone is found to be so
    /// when it is read.
    #[must_use]
    pub fn trusting_all_but(self, stage: &str) -> Self {
        Self { doubted: Some(stage.to_owned()), ..self }
    }

    /// Whether results are taken for whole that nobody has looked at. Then it is for others to make one again that is not.
    pub(crate) fn is_trusting(&self) -> bool {
        self.doubted.is_some()
    }

    /// Returns where a data file with this content lies.
    pub fn location(&self, digest: Digest) -> Option<PathBuf> {
        lock(&self.locations).get(&digest).cloned()
    }

    /// Hears that an artifact has been made again.
    pub fn made(&self, digest: Digest) {
        lock(&self.unreadable).remove(&digest);
    }

    /// Takes the warnings that have come up since the last call, such as damaged records.
    pub fn take_warnings(&self) -> Vec<String> {
        let mut warnings = std::mem::take(&mut *lock(&self.warnings));
        warnings.extend(self.store.take_warnings());
        warnings
    }

    fn warn(&self, message: String) {
        lock(&self.warnings).push(message);
    }

    /// Says what a step's result depends on and what there is to do for it. `inputs` has the artifact of each connection.
    ///
    /// # Errors
    /// If the stage refuses its inputs or sources, or a data file cannot be read.
    pub fn prepare(&self, step: &Step, inputs: &[Artifact]) -> Result<Prepared, Trouble> {
        let spec = step.kind.spec();
        let mut action = Action::new(step);
        let mut ports = Inputs::default();
        for (connection, artifact) in step.inputs.iter().zip(inputs) {
            action.inputs.insert(connection.port.to_owned(), Input::Whole(artifact.digest));
            ports.ports.insert(connection.port, Arc::clone(&artifact.manifest));
        }
        let (mut items, mut files, facts) = self.sources(step, &ports)?;
        files.sort_by(|one, other| one.role.cmp(&other.role));
        items.sort_by(|one, other| one.id.cmp(&other.id));
        if let Some(pair) = items.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(Trouble::new(
                format!("the id `{}` occurs twice", pair[0].id),
                "ids name images; make them unique",
            ));
        }
        let listing = (!items.is_empty()).then(|| listing(&items));
        action.files = file_parts(&files);
        action.items = listing.as_deref().map(Digest::of);
        action.facts = facts;
        let key = action.key();

        let mut prepared = Prepared {
            action,
            key,
            inputs: ports,
            items,
            listing,
            files,
            need: Need::Whole,
            lost: None,
            shards: Vec::new(),
        };
        let others = self.doubted.as_ref().is_some_and(|doubted| *doubted != step.name);
        let trusted = others && self.store.remote().is_none();
        let found = if trusted { self.warned(key, self.store.recorded(key)) } else { self.lookup(key) };
        match found {
            Lookup::Hit(record) => {
                match record.output.map(|output| self.artifact(output, spec.output, record.elsewhere)) {
                    Some(Ok(artifact)) => {
                        prepared.need = Need::Nothing(artifact);
                        return Ok(prepared);
                    }
                    Some(Err(digest)) => prepared.lost = Some(digest),
                    None => {}
                }
            }
            Lookup::Lost(digest) => prepared.lost = Some(digest),
            Lookup::Miss(_) => {}
        }
        // Only whoever runs looks at its inputs.
        for manifest in prepared.inputs.ports.values() {
            let _ = manifest.load();
        }
        self.losses(&prepared.inputs)?;
        self.here(inputs)?;
        if spec.work == Work::PerImage {
            self.cut(step, &mut prepared)?;
        } else {
            step.run.meta(&prepared.inputs)?;
        }
        Ok(prepared)
    }

    /// Returns the result of an action if it has come in since the step was prepared: the artifact of a whole stage, or a shard.
    pub(crate) fn result(&self, step: &Step, key: Digest) -> Option<Result<Artifact, Option<Entry>>> {
        let Lookup::Hit(record) = self.store.lookup(key) else { return None };
        self.store.found(key);
        match record.output {
            Some(output) => self.artifact(output, step.kind.spec().output, record.elsewhere).ok().map(Ok),
            None => Some(Err(record.shard)),
        }
    }

    /// Refuses inputs whose manifest turned out to be gone when somebody looked.
    fn losses(&self, inputs: &Inputs) -> Result<(), Trouble> {
        let mut losses = inputs.ports.values().filter_map(|manifest| Some((manifest.digest(), manifest.loss()?)));
        let Some((digest, loss)) = losses.next() else { return Ok(()) };
        lock(&self.unreadable).insert(digest);
        Err(Trouble { message: loss.to_owned(), help: None, parameter: None, lost: Some(digest) })
    }

    /// Refuses inputs whose bytes are elsewhere, where nobody can get them.
    fn here(&self, inputs: &[Artifact]) -> Result<(), Trouble> {
        if self.store.has_remote() {
            return Ok(());
        }
        for artifact in inputs.iter().filter(|artifact| artifact.elsewhere) {
            let blobs: Vec<(Digest, u64)> = artifact.manifest.entries.values().flat_map(Entry::blobs).collect();
            if self.store.missing(&blobs).is_some() {
                self.refuse(artifact.digest);
                let message = format!("the bytes of artifact {} are not in this cache", artifact.digest.short());
                return Err(Trouble { message, help: None, parameter: None, lost: Some(artifact.digest) });
            }
        }
        Ok(())
    }

    /// Brings the bytes of a prepared step here that it has already; says whether they came, or were there.
    pub(crate) fn fetch(&self, prepared: &Prepared) -> bool {
        let blobs = match &prepared.need {
            Need::Nothing(artifact) | Need::Assembly(artifact) => {
                let Ok(manifest) = artifact.manifest.load() else { return false };
                manifest.entries.values().flat_map(Entry::blobs).collect()
            }
            Need::Whole => Vec::new(),
            Need::Shards { shards, .. } => {
                let hits = shards.iter().filter_map(|shard| match &shard.state {
                    ShardState::Hit(entry) => entry.as_ref(),
                    ShardState::Miss | ShardState::Elsewhere => None,
                });
                hits.flat_map(Entry::blobs).collect::<Vec<_>>()
            }
        };
        self.store.fetch(&blobs).unwrap_or_else(|error| {
            self.warn(error.to_string());
            false
        })
    }

    /// Whether bytes that are elsewhere may be had.
    pub(crate) fn has_remote(&self) -> bool {
        self.store.has_remote()
    }

    /// Takes no record that names this artifact for a hit any more, until it has been made.
    pub(crate) fn refuse(&self, digest: Digest) {
        lock(&self.unreadable).insert(digest);
    }

    fn lookup(&self, key: Digest) -> Lookup {
        self.warned(key, self.store.lookup(key))
    }

    /// Passes on what a lookup warns of, and keeps what it found from collections.
    fn warned(&self, key: Digest, found: Lookup) -> Lookup {
        match &found {
            Lookup::Hit(_) => self.store.found(key),
            Lookup::Miss(Some(warning)) => self.warn(warning.clone()),
            Lookup::Miss(None) | Lookup::Lost(_) => {}
        }
        found
    }

    /// Returns an artifact, or the digest of a blob of it that is known to be gone. Metrics are so small, and read so soon, that
    /// all of them is verified at once.
    fn artifact(&self, digest: Digest, kind: Kind, elsewhere: bool) -> Result<Artifact, Digest> {
        if lock(&self.unreadable).contains(&digest) {
            return Err(digest);
        }
        let store = self.store.clone();
        let manifest = Lazy::new(digest, move || {
            let bytes = store.get(digest).map_err(|error| error.to_string())?;
            serde_json::from_slice(&bytes).map_err(|error| format!("blob {} is no manifest: {error}", digest.short()))
        });
        if kind == Kind::Metrics {
            let warned = |digest| {
                move |message: String| {
                    self.warn(message);
                    digest
                }
            };
            for entry in manifest.load().map_err(warned(digest))?.entries.values() {
                self.store.get(entry.digest).map_err(|error| warned(entry.digest)(error.to_string()))?;
            }
        }
        Ok(Artifact { digest, manifest: Arc::new(manifest), elsewhere })
    }

    /// Returns what a step reads from outside the cache, hashed, and the facts about all of it: from memory where the file in which
    /// it is found is what it was.
    fn sources(&self, step: &Step, ports: &Inputs) -> Result<(Vec<HashedItem>, Vec<HashedFile>, Value), Trouble> {
        // A file that is not there is named by the stage, which knows what it is for.
        let content = |index: &Path| Some(self.files.digests(&[index]).ok()?.pop()?.0);
        let index = step.run.index().and_then(|index| Some((content(&index)?, index)));
        let key = index.as_ref().map(|(content, _)| {
            let spec = step.kind.spec();
            Digest::of_json(&(env!("CARGO_PKG_VERSION"), spec.name, spec.revision, step.run.params(), content))
        });
        let known = key.and_then(|key| serde_json::from_slice::<Sources>(&self.files.list(key)?).ok());
        if let Some(Sources { items, files, facts }) = known
            && let Ok((items, files)) = self.hash(items, files)
        {
            return Ok((items, files, facts));
        }
        let sources = step.run.sources(ports);
        self.losses(ports)?;
        let sources = sources?;
        // What was found is only known to follow from a file that is still the same. Paths that are no text cannot be kept.
        if let Some((before, index)) = index
            && content(&index) == Some(before)
            && let Some((key, bytes)) = key.zip(serde_json::to_vec(&sources).ok())
        {
            self.files.keep_list(key, bytes);
        }
        let (items, files) = self.hash(sources.items, sources.files)?;
        Ok((items, files, sources.facts))
    }

    /// Hashes all files of a step at once, side by side.
    fn hash(
        &self,
        items: Vec<SourceItem>,
        files: Vec<SourceFile>,
    ) -> Result<(Vec<HashedItem>, Vec<HashedFile>), Trouble> {
        let paths: Vec<&Path> =
            items.iter().flat_map(|item| &item.files).chain(&files).map(|file| file.path.as_path()).collect();
        if paths.is_empty() && items.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let digests = self.files.digests(&paths).map_err(|error| Trouble {
            message: error.to_string(),
            help: None,
            parameter: None,
            lost: None,
        })?;
        let mut locations = lock(&self.locations);
        let mut digests = digests.into_iter();
        let mut hashed = |file: SourceFile| {
            let (digest, size) = digests.next().expect("one digest per path");
            locations.insert(digest, file.path.clone());
            HashedFile { role: file.role, path: file.path, digest, size }
        };
        let items = items
            .into_iter()
            .map(|item| HashedItem {
                id: item.id,
                files: item.files.into_iter().map(&mut hashed).collect(),
                facts: item.facts,
            })
            .collect();
        let files = files.into_iter().map(hashed).collect();
        Ok((items, files))
    }

    /// Cuts per-image work into shards and looks each of them up.
    fn cut(&self, step: &Step, prepared: &mut Prepared) -> Result<(), Trouble> {
        let ports: Vec<Port<'_>> = step
            .inputs
            .iter()
            .map(|connection| Port::new(connection.port, prepared.inputs.get(connection.port)))
            .collect();
        let primary = ports.iter().find(|port| port.manifest.buckets.is_some());
        if let Some(primary) = primary {
            for other in ports.iter().filter(|port| port.manifest.buckets.is_some()) {
                agree(step, primary, other)?;
            }
        }
        let meta = step.run.meta(&prepared.inputs)?;
        let buckets =
            primary.and_then(|port| port.manifest.buckets).unwrap_or_else(|| buckets_for(prepared.items.len()));

        let mut items: Vec<(u32, HashedItem)> =
            std::mem::take(&mut prepared.items).into_iter().map(|item| (bucket_of(&item.id, buckets), item)).collect();
        items.sort_by_key(|(bucket, _)| *bucket);
        let mut present: Vec<u32> = match primary {
            Some(port) => port.shards.keys().copied().collect(),
            None => items.iter().map(|(bucket, _)| *bucket).collect(),
        };
        present.dedup();

        let mut shards = Vec::with_capacity(present.len());
        for bucket in present {
            let start = items.partition_point(|(other, _)| *other < bucket);
            let end = items.partition_point(|(other, _)| *other <= bucket);
            let mut action = prepared.action.clone();
            action.shard = Some((bucket, buckets));
            action.items = (start < end).then(|| Digest::of(&listing(items[start..end].iter().map(|(_, item)| item))));
            for port in &ports {
                if port.manifest.buckets.is_some() {
                    action.inputs.insert(port.name.to_owned(), port.part(bucket, buckets));
                }
            }
            let key = action.key();
            let own = |part: &Part| part.stage != step.name || shards.len() % part.of.max(1) == part.index;
            let state = match self.part.as_ref().is_none_or(own).then(|| self.lookup(key)) {
                Some(Lookup::Hit(record)) => ShardState::Hit(record.shard),
                Some(Lookup::Lost(digest)) => {
                    prepared.lost.get_or_insert(digest);
                    ShardState::Miss
                }
                Some(Lookup::Miss(_)) => ShardState::Miss,
                None => ShardState::Elsewhere,
            };
            shards.push(Shard { bucket, action, key, items: start..end, state });
        }
        prepared.items = items.into_iter().map(|(_, item)| item).collect();
        prepared.shards = shards.iter().map(|shard| shard.key).collect();
        prepared.need = if shards.iter().all(|shard| matches!(shard.state, ShardState::Hit(_))) {
            let entries = shards.into_iter().filter_map(|shard| match shard.state {
                ShardState::Hit(Some(entry)) => Some((shard.bucket, entry)),
                _ => None,
            });
            Need::Assembly(assemble(step, buckets, meta, entries))
        } else {
            Need::Shards { buckets, meta, shards }
        };
        Ok(())
    }
}

/// Puts the artifact of a per-image stage together.
pub fn assemble(step: &Step, buckets: u32, meta: Value, shards: impl IntoIterator<Item = (u32, Entry)>) -> Artifact {
    Artifact::new(Manifest {
        kind: step.kind.spec().output,
        buckets: Some(buckets),
        meta,
        entries: shards.into_iter().map(|(bucket, entry)| (shard_name(bucket), entry)).collect(),
    })
}

/// Puts the artifact of a whole stage together.
pub fn whole(step: &Step, meta: Value, entries: BTreeMap<String, Entry>) -> Artifact {
    Artifact::new(Manifest { kind: step.kind.spec().output, buckets: None, meta, entries })
}

/// An artifact on a port, with its shards by bucket.
struct Port<'a> {
    name: &'static str,
    manifest: &'a Manifest,
    shards: BTreeMap<u32, &'a Entry>,
    rest: Option<Digest>,
}

impl<'a> Port<'a> {
    fn new(name: &'static str, manifest: &'a Manifest) -> Self {
        let rest = manifest.buckets.map(|_| rest_of(manifest));
        Self { name, manifest, shards: manifest.shards().collect(), rest }
    }

    /// Returns what of it meets a bucket. The same shards as [`Manifest::shards_meeting`] gives, without a walk over all.
    fn part(&self, bucket: u32, buckets: u32) -> Input {
        let own = self.manifest.buckets.unwrap_or(1).max(1);
        let common = own.min(buckets).max(1);
        let shards = (bucket % common..own)
            .step_by(common as usize)
            .filter_map(|other| self.shards.get(&other))
            .map(|entry| entry.digest)
            .collect();
        Input::Part { shards, rest: self.rest.unwrap_or_else(|| rest_of(self.manifest)) }
    }
}

/// Refuses an input that lacks images of the primary one.
fn agree(step: &Step, primary: &Port<'_>, other: &Port<'_>) -> Result<(), Trouble> {
    if primary.name == other.name {
        return Ok(());
    }
    let have = other.manifest.ids();
    let missing: Vec<&str> = primary.manifest.ids().into_iter().filter(|id| have.binary_search(id).is_err()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let named: Vec<String> = missing.iter().take(NAMED).map(|id| format!("`{id}`")).collect();
    let more = if missing.len() > NAMED { ", …" } else { "" };
    let count = match missing.len() {
        1 => "1 image".to_owned(),
        count => format!("{count} images"),
    };
    let output = step.kind.spec().output.article();
    Err(Trouble::new(
        format!("the input `{}` lacks {count} of the input `{}`: {}{more}", other.name, primary.name, named.join(", ")),
        &format!("{output} is made for the images of `{}`; make both inputs from the same image set", primary.name),
    ))
}
