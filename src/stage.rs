//! The door between the two wings: what a kind of stage tells the engine, and what the engine hands a stage that runs.
//!
//! A new kind of stage is one `impl Stage`: a parameter struct, a [`Spec`] and `run`. The engine knows stages only through
//! [`StageKind`] and [`StageRun`], which are derived from it; a stage sees only its [`Ctx`] and never the store, the plan or
//! the terminal.

use std::any::Any;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::kind::Kind;
use crate::store::manifest::{Entry, Lazy, Manifest, bucket_of};

/// One input of a kind of stage.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    /// The word in `inputs = { name = "stage" }`.
    pub name: &'static str,
    /// The kinds of artifact it takes.
    pub takes: &'static [Kind],
    /// Whether it may be left out.
    pub optional: bool,
    /// What it is for, in a few words.
    pub about: &'static str,
}

/// How a stage's work is cut into actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// One action for the whole artifact: training, evaluation, outside commands.
    Whole,
    /// One action per shard of images: the engine calls `run` once for each bucket and assembles the artifact.
    PerImage,
}

/// How many of a run's devices a stage of a kind computes on. Where a run has no slots for devices of their own, everything runs
/// on the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Devices {
    /// None: it is work of the host.
    None,
    /// One, unless its `resources` say `gpus = 0`.
    One,
    /// As many as its `resources` say, by default none: for programs from outside.
    Any,
}

/// What the engine must know of a kind without running it.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// The word behind `kind =`, such as `cam.or`.
    pub name: &'static str,
    /// One line for the catalogue, without a full stop.
    pub about: &'static str,
    /// Raised when the same inputs and parameters would give other bytes; the history stands in a comment beside it.
    pub revision: u32,
    /// Inputs. For `PerImage` work the first connected port whose artifact is per image defines the shards.
    pub inputs: &'static [Port],
    /// What it makes.
    pub output: Kind,
    /// How its work is cut.
    pub work: Work,
    /// Whether the pipeline's seed belongs to its key.
    pub seeded: bool,
}

/// A parameter that changes how a result is made but not what it is, such as a number of images per batch of an export.
///
/// It is left out of keys: the JSON Schema of the field carries `"x-in-key": false`, and the engine strips such fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NotInKey<T>(pub T);

impl<T: JsonSchema> JsonSchema for NotInKey<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("NotInKey_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let mut schema = T::json_schema(generator);
        schema.insert("x-in-key".to_owned(), false.into());
        schema
    }
}

/// Why a stage could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The user stopped the run.
    #[error("stopped")]
    Cancelled,
    /// Something is wrong with a parameter; found before anything runs.
    #[error("{message}")]
    Parameter {
        /// The parameter's name, dotted for nested ones.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// Something is wrong with data, a file or the computation: one clear sentence, with the path or the image id in it.
    #[error("{message}")]
    Data {
        /// What is wrong.
        message: String,
        /// What to try.
        help: Option<String>,
    },
    /// A file could not be read or written; the message names its path.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl StageError {
    /// Makes a [`StageError::Data`] without help.
    pub fn data(message: impl Into<String>) -> Self {
        Self::Data { message: message.into(), help: None }
    }

    /// Makes a [`StageError::Data`] with a way out.
    pub fn data_help(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Data { message: message.into(), help: Some(help.into()) }
    }

    /// Makes a [`StageError::Parameter`].
    pub fn parameter(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Parameter { name: name.into(), message: message.into() }
    }
}

/// A file outside the cache that a stage reads. Its content, not its path, is part of the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// What it is to the stage: `image`, `mask`, `annotation`, or a relative path.
    pub role: String,
    /// Where it lies.
    pub path: PathBuf,
}

/// One image of a stage that brings data in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceItem {
    /// The image id.
    pub id: String,
    /// Its files.
    pub files: Vec<SourceFile>,
    /// Whatever else determines the result for this image, such as its labels from a CSV file.
    pub facts: serde_json::Value,
}

/// What a stage reads from outside the cache; found by looking, without opening images.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sources {
    /// Per image, for `PerImage` stages: these define the shards where no input does.
    pub items: Vec<SourceItem>,
    /// Files for the stage as a whole.
    pub files: Vec<SourceFile>,
    /// Whatever else determines the whole result.
    pub facts: serde_json::Value,
}

/// A [`SourceFile`] after hashing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashedFile {
    /// What it is to the stage.
    pub role: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Digest of its content.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// A [`SourceItem`] after hashing.
#[derive(Clone, Debug, PartialEq)]
pub struct HashedItem {
    /// The image id.
    pub id: String,
    /// Its files.
    pub files: Vec<HashedFile>,
    /// As in [`SourceItem`].
    pub facts: serde_json::Value,
}

impl HashedItem {
    /// Returns the file of this role.
    pub fn file(&self, role: &str) -> Option<&HashedFile> {
        self.files.iter().find(|file| file.role == role)
    }
}

/// The artifacts on a stage's ports, before it runs.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Port name to artifact; a port that was left out is absent. A manifest is read when it is first looked at.
    pub ports: BTreeMap<&'static str, Arc<Lazy>>,
}

impl Inputs {
    /// Returns the artifact on a port that is not optional.
    ///
    /// # Panics
    /// If the port is not connected, which the plan has made sure of.
    pub fn get(&self, port: &str) -> &Manifest {
        self.ports.get(port).unwrap_or_else(|| panic!("port `{port}` is connected"))
    }

    /// Returns the artifact on an optional port.
    pub fn maybe(&self, port: &str) -> Option<&Manifest> {
        self.ports.get(port).map(|manifest| &***manifest)
    }
}

/// A kind of stage, as its author writes it.
pub trait Stage: Send + Sync + 'static {
    /// Parameters: `#[derive(Serialize, Deserialize, JsonSchema)] #[serde(deny_unknown_fields)]`, a doc comment with unit and
    /// meaning on each field, `#[serde(default = ...)]` on all that have a default. Fields of type [`NotInKey`] are not part
    /// of the key.
    type Params: Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static;

    /// What the engine must know.
    const SPEC: Spec;

    /// Whether it computes on a device; those that call for one in `run` must say so here.
    const DEVICES: Devices = Devices::None;

    /// Fills in the parameters whose default depends on others, such as a preset or a recipe, so that keys and records hold
    /// every value in force: leaving a value out and writing its default are the same action.
    fn resolve(params: Self::Params) -> Self::Params {
        params
    }

    /// Refuses values that have the right type and make no sense, before anything runs.
    fn check(_params: &Self::Params) -> Result<(), StageError> {
        Ok(())
    }

    /// Names a file that is too large to be read for every plan and from which [`Self::sources`] finds out all that it says. Their
    /// answer is then remembered: as long as this file, all parameters and the revision are what they were, they are not asked
    /// again. They may list folders beside, if only to find the files that they name, and may not depend on inputs.
    fn index(_params: &Self::Params) -> Option<PathBuf> {
        None
    }

    /// Says what the stage reads from outside the cache. Called at plan time as soon as the inputs are known; only lists and
    /// reads small files, but for [`Self::index`].
    fn sources(_params: &Self::Params, _inputs: &Inputs) -> Result<Sources, StageError> {
        Ok(Sources::default())
    }

    /// Refuses inputs that do not fit together (class lists, image ids) and returns the metadata of the artifact that a
    /// `PerImage` stage makes. Called before any shard runs. `Whole` stages give their metadata with [`Output`].
    fn meta(_params: &Self::Params, _inputs: &Inputs) -> Result<serde_json::Value, StageError> {
        Ok(serde_json::Value::Null)
    }

    /// Does the work: of the whole artifact, or of the shard that `ctx` is about.
    fn run(params: &Self::Params, ctx: &Ctx<'_>) -> Result<Output, StageError>;
}

/// What one action made.
#[derive(Debug, Default)]
pub struct Output {
    /// Metadata of the artifact; only looked at for `Whole` work.
    pub meta: serde_json::Value,
    /// Parts by name. A shard's own part has the name [`Output::SHARD`]; the engine gives it its bucket's name. Further parts of a
    /// shard, such as images that it made, lose their names: the shard speaks of them by digest.
    pub parts: BTreeMap<String, Vec<u8>>,
    /// The image ids in the shard, for `PerImage` work.
    pub ids: Vec<String>,
}

impl Output {
    /// The name under which a `PerImage` stage returns its shard.
    pub const SHARD: &'static str = "shard";

    /// Makes the output of a `PerImage` stage.
    pub fn shard(ids: Vec<String>, bytes: Vec<u8>) -> Self {
        Self { meta: serde_json::Value::Null, parts: BTreeMap::from([(Self::SHARD.to_owned(), bytes)]), ids }
    }

    /// Makes the output of a `Whole` stage with one part.
    pub fn whole(meta: serde_json::Value, name: &str, bytes: Vec<u8>) -> Self {
        Self { meta, parts: BTreeMap::from([(name.to_owned(), bytes)]), ids: Vec::new() }
    }
}

/// Something a running stage has to say. The engine adds the stage's name and the time.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// So much of the work is done.
    Progress {
        /// Units done.
        done: u64,
        /// Units in all.
        total: u64,
        /// What is counted: `steps`, `images`.
        unit: &'static str,
    },
    /// A measured value, such as `loss` or `learning_rate` at a step.
    Metric {
        /// Its name.
        name: &'static str,
        /// The step it belongs to.
        step: u64,
        /// The value.
        value: f64,
    },
    /// Something the user should know, that does not stop the stage.
    Warning(String),
}

/// How a running stage reads bytes: the engine implements it over the store and the files of the data set.
pub trait Access: Send + Sync {
    /// Reads and verifies a part of an artifact.
    fn entry(&self, entry: &Entry) -> Result<Vec<u8>, StageError>;

    /// Reads and verifies content by digest: a file of the data set, or a blob of the store.
    fn content(&self, digest: Digest) -> Result<Vec<u8>, StageError>;
}

/// Where a stage that takes long keeps what it needs to go on after an interruption: the engine implements it over the store.
///
/// It is kept under the key of the action and removed when the action has its result. A stage that goes on from it must end in
/// the same bytes as one that was never interrupted.
pub trait Checkpoints: Send + Sync {
    /// Returns what was kept last, with its number; `None` at a fresh start.
    fn newest(&self) -> Option<(u64, Vec<u8>)>;

    /// Keeps bytes under a number that grows, such as the steps done. That it could not is said as a warning and is no failure.
    fn keep(&self, number: u64, bytes: Vec<u8>);

    /// Whether the user has asked for a checkpoint (SIGUSR1) since this was last asked.
    fn wanted(&self) -> bool;
}

/// What the actions of one stage share in a process, such as a network that the first of them has loaded. The engine holds it as long
/// as the stage has actions left, and does not know what it is.
///
/// There is one value for each device, so that beside the ones in use no more memory is taken than a network needs on each device.
#[derive(Default)]
pub struct Shared {
    places: Mutex<BTreeMap<String, Arc<Place>>>,
}

/// The value for a device, with what determines it.
type Place = Mutex<Option<(Digest, Arc<dyn Any + Send + Sync>)>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A value is there as a whole or not at all, whatever panicked while it was made.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Returns the value of a device, as whoever asked first made it; another `key` takes the place of the one before. Those who ask
    /// while it is made wait for it.
    ///
    /// # Errors
    /// Those of `make`; then whoever asks next makes it.
    pub fn get<T: Any + Send + Sync>(
        &self,
        device: &str,
        key: Digest,
        make: impl FnOnce() -> Result<T, StageError>,
    ) -> Result<Arc<T>, StageError> {
        let place = Arc::clone(lock(&self.places).entry(device.to_owned()).or_default());
        let mut place = lock(&place);
        let known = place.as_ref().filter(|(known, _)| *known == key).map(|(_, value)| Arc::clone(value));
        if let Some(Ok(value)) = known.map(Arc::downcast) {
            return Ok(value);
        }
        // The one before goes first, lest there be room for both to find.
        *place = None;
        let value = Arc::new(make()?);
        *place = Some((key, Arc::clone(&value) as Arc<dyn Any + Send + Sync>));
        Ok(value)
    }

    /// Forgets the value of a device; those who use it keep it until they have ended.
    pub fn forget(&self, device: &str) {
        lock(&self.places).remove(device);
    }
}

/// All that a running stage sees of the world.
pub struct Ctx<'run> {
    /// The artifacts on the ports.
    pub inputs: &'run Inputs,
    /// For `PerImage` work: the bucket and the number of buckets.
    pub shard: Option<(u32, u32)>,
    /// For stages that bring data in: the items of this shard, or all of them.
    pub items: &'run [HashedItem],
    /// For stages that bring data in: the files of the stage as a whole.
    pub files: &'run [HashedFile],
    /// This stage's seed, from the pipeline's seed and the stage's content.
    pub seed: u64,
    /// The name of the device that this action has, as given with `--device` or `--devices`; where it has several, all of them
    /// with commas. Only `nn::device` understands it.
    pub device: &'run str,
    /// A folder of the stage's own, empty at first, removed afterwards.
    pub scratch: &'run Path,
    /// Reads bytes.
    pub access: &'run dyn Access,
    /// Keeps what is needed to go on after an interruption.
    pub checkpoints: &'run dyn Checkpoints,
    /// What the actions of this stage share in this process.
    pub shared: &'run Shared,
    /// Takes reports.
    pub report: &'run (dyn Fn(Report) + Sync),
    /// Set when the user has asked to stop.
    pub cancelled: &'run AtomicBool,
}

impl Ctx<'_> {
    /// Returns [`StageError::Cancelled`] if the user has asked to stop. Called between units of work.
    pub fn check_cancelled(&self) -> Result<(), StageError> {
        if self.cancelled.load(Ordering::Relaxed) { Err(StageError::Cancelled) } else { Ok(()) }
    }

    /// Says how much of the work is done.
    pub fn progress(&self, done: usize, total: usize, unit: &'static str) {
        (self.report)(Report::Progress { done: done as u64, total: total as u64, unit });
    }

    /// Says a measured value.
    pub fn metric(&self, name: &'static str, step: usize, value: f64) {
        (self.report)(Report::Metric { name, step: step as u64, value });
    }

    /// Says what the user should know.
    pub fn warn(&self, message: impl Into<String>) {
        (self.report)(Report::Warning(message.into()));
    }

    /// Whether the image falls into this action's shard; always true for `Whole` work. Parts of [`Ctx::shards`] can hold others.
    pub fn in_shard(&self, id: &str) -> bool {
        self.shard.is_none_or(|(bucket, buckets)| bucket_of(id, buckets) == bucket)
    }

    /// Returns the parts of the artifact on `port` that this action needs: those that meet its shard, or all shards.
    pub fn shards(&self, port: &str) -> Vec<&Entry> {
        let Some(manifest) = self.inputs.maybe(port) else { return Vec::new() };
        match self.shard {
            Some((bucket, buckets)) => manifest.shards_meeting(bucket, buckets),
            None => manifest.shards().map(|(_, entry)| entry).collect(),
        }
    }
}

/// A kind of stage, as the engine knows it.
pub trait StageKind: Send + Sync {
    /// Name, ports and the rest.
    fn spec(&self) -> &'static Spec;

    /// How many devices it computes on.
    fn devices(&self) -> Devices;

    /// The JSON Schema of the parameters, defaults and descriptions included.
    fn schema(&self) -> schemars::Schema;

    /// Reads the parameters: the stage's table without `kind` and `inputs`. The error carries a span within the same text as
    /// the table's own spans.
    fn parse(&self, table: toml::Spanned<toml::de::DeTable<'_>>) -> Result<Arc<dyn StageRun>, ParseError>;
}

/// Why a stage's table could not be read.
#[derive(Debug)]
pub enum ParseError {
    /// A value has the wrong type, or one that is missing.
    Toml(Box<toml::de::Error>),
    /// A value has the right type and makes no sense.
    Check(StageError),
}

/// A kind of stage with its parameters, ready to run.
pub trait StageRun: Send + Sync {
    /// Parameters with defaults filled in, those that are not part of the key included.
    fn params(&self) -> serde_json::Value;
    /// As [`Stage::index`].
    fn index(&self) -> Option<PathBuf>;
    /// As [`Stage::sources`].
    fn sources(&self, inputs: &Inputs) -> Result<Sources, StageError>;
    /// As [`Stage::meta`].
    fn meta(&self, inputs: &Inputs) -> Result<serde_json::Value, StageError>;
    /// As [`Stage::run`].
    fn run(&self, ctx: &Ctx<'_>) -> Result<Output, StageError>;
}

/// Makes a [`StageKind`] of a [`Stage`]: `&Listed::<Or>::NEW` is how the catalogue lists it.
pub struct Listed<S>(PhantomData<fn() -> S>);

impl<S> Listed<S> {
    /// The one value.
    pub const NEW: Self = Self(PhantomData);
}

struct Parsed<S: Stage>(S::Params);

impl<S: Stage> StageKind for Listed<S> {
    fn spec(&self) -> &'static Spec {
        const { &S::SPEC }
    }

    fn devices(&self) -> Devices {
        S::DEVICES
    }

    fn schema(&self) -> schemars::Schema {
        schemars::generate::SchemaSettings::draft07()
            .with(|settings| settings.inline_subschemas = true)
            .into_generator()
            .into_root_schema_for::<S::Params>()
    }

    fn parse(&self, table: toml::Spanned<toml::de::DeTable<'_>>) -> Result<Arc<dyn StageRun>, ParseError> {
        let params = S::Params::deserialize(toml::de::Deserializer::from(table))
            .map_err(|error| ParseError::Toml(Box::new(error)))?;
        let params = S::resolve(params);
        S::check(&params).map_err(ParseError::Check)?;
        Ok(Arc::new(Parsed::<S>(params)))
    }
}

impl<S: Stage> StageRun for Parsed<S> {
    fn params(&self) -> serde_json::Value {
        // Through text, where an f32 of 0.3 is `0.3`; `to_value` would widen it to 0.30000001192092896.
        let text = serde_json::to_string(&self.0).expect("parameters are JSON");
        serde_json::from_str(&text).expect("what was written can be read")
    }

    fn index(&self) -> Option<PathBuf> {
        S::index(&self.0)
    }

    fn sources(&self, inputs: &Inputs) -> Result<Sources, StageError> {
        S::sources(&self.0, inputs)
    }

    fn meta(&self, inputs: &Inputs) -> Result<serde_json::Value, StageError> {
        S::meta(&self.0, inputs)
    }

    fn run(&self, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        S::run(&self.0, ctx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn what_is_shared_is_made_once_for_each_device_and_goes_when_another_comes() {
        let shared = Shared::default();
        let made = AtomicUsize::new(0);
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        let get = |device: &str, key: Digest| {
            let value = shared.get(device, key, || {
                std::thread::sleep(std::time::Duration::from_millis(20));
                Ok(made.fetch_add(1, Ordering::Relaxed))
            });
            value.expect("it is made")
        };
        let values: Vec<Arc<usize>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| get("cpu", one))).collect();
            threads.into_iter().map(|thread| thread.join().expect("it ends")).collect()
        });
        assert!(values.iter().all(|value| Arc::ptr_eq(value, &values[0])), "whoever comes meanwhile waits");
        let weak = Arc::downgrade(&values[0]);
        drop(values);
        assert_eq!((*get("cuda:0", one), *get("cpu", one)), (1, 0), "each device has its own");
        assert_eq!(*get("cpu", other), 2);
        assert!(weak.upgrade().is_none(), "there is one at most");
        assert_eq!((*get("cpu", one), *get("cuda:0", one)), (3, 1));
        shared.forget("cpu");
        assert_eq!((*get("cpu", one), *get("cuda:0", one)), (4, 1));
    }

    #[test]
    fn what_could_not_be_made_is_made_by_the_next() {
        let (shared, key) = (Shared::default(), Digest::of(b"key"));
        let failed = shared.get::<u8>("cpu", key, || Err(StageError::data("no")));
        assert_eq!(failed.expect_err("it fails").to_string(), "no");
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = shared.get::<u8>("cpu", key, || panic!("no"));
        }));
        assert!(panicked.is_err());
        assert_eq!(*shared.get("cpu", key, || Ok(7_u8)).expect("made"), 7);
        assert_eq!(*shared.get("cpu", key, || Ok("text")).expect("made"), "text", "a value of another type is another");
    }
}
