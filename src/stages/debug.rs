//! `debug.*`: test furniture, so that the engine is tried out in milliseconds. Reads only what `debug.*` stages wrote.
//!
//! A shard is a JSON map from id to text; a whole artifact is one part, `text.txt`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::artifact::metrics::{self, ClassScores, CurvePoint, Protocol, Table};
use crate::digest::Digest;
use crate::kind::Kind;
use crate::stage::{
    Ctx, Devices, Inputs, NotInKey, Output, Port, SourceFile, SourceItem, Sources, Spec, Stage, StageError, Work,
};

/// The kinds that are spread over shards.
const PER_IMAGE: &[Kind] = &[Kind::ImageSet, Kind::CamSet, Kind::SeedSet, Kind::MaskSet, Kind::ScoreSet];
/// Every kind.
const ANY: &[Kind] = &[
    Kind::ImageSet,
    Kind::Weights,
    Kind::CamSet,
    Kind::SeedSet,
    Kind::MaskSet,
    Kind::ScoreSet,
    Kind::Metrics,
    Kind::Files,
];
/// Three optional ports that take anything.
const ANY_PORTS: &[Port] = &[
    Port { name: "a", takes: ANY, optional: true, about: "anything" },
    Port { name: "b", takes: ANY, optional: true, about: "anything" },
    Port { name: "c", takes: ANY, optional: true, about: "anything" },
];
/// The part that a whole artifact of this file consists of.
const TEXT: &str = "text.txt";

fn decode(bytes: &[u8]) -> Result<BTreeMap<String, String>, StageError> {
    serde_json::from_slice(bytes)
        .map_err(|error| StageError::data(format!("this is no shard of a debug stage: {error}")))
}

fn encode(items: &BTreeMap<String, String>) -> Output {
    let bytes = serde_json::to_vec(items).expect("texts are JSON");
    Output::shard(items.keys().cloned().collect(), bytes)
}

/// Returns the texts on a port that fall into the shard of `ctx`.
fn texts(ctx: &Ctx<'_>, port: &str) -> Result<BTreeMap<String, String>, StageError> {
    let mut all = BTreeMap::new();
    for entry in ctx.shards(port) {
        all.extend(decode(&ctx.access.entry(entry)?)?.into_iter().filter(|(id, _)| ctx.in_shard(id)));
    }
    Ok(all)
}

/// Returns everything on all ports as one text.
fn everything(ctx: &Ctx<'_>) -> Result<String, StageError> {
    let mut text = String::new();
    for (port, manifest) in &ctx.inputs.ports {
        if manifest.buckets.is_some() {
            for (id, item) in texts(ctx, port)? {
                text.push_str(&format!("{id}={item};"));
            }
        } else {
            for entry in manifest.entries.values() {
                text.push_str(&String::from_utf8_lossy(&ctx.access.entry(entry)?));
            }
        }
    }
    Ok(text)
}

/// `debug.items`: a folder of text files as a set of items.
pub struct Items;

/// Parameters of `debug.items`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ItemsParams {
    /// Folder whose files are the items; a file's stem is its id.
    pub folder: PathBuf,
    /// Takes a file's digest for its text, as sets of images do, instead of what it holds.
    #[serde(default)]
    pub digests: bool,
}

impl Stage for Items {
    type Params = ItemsParams;
    const SPEC: Spec = Spec {
        name: "debug.items",
        about: "A folder of text files as a set of items, to try out the engine",
        revision: 1,
        inputs: &[],
        output: Kind::ImageSet,
        work: Work::PerImage,
        seeded: false,
    };

    fn sources(params: &Self::Params, _inputs: &Inputs) -> Result<Sources, StageError> {
        let mut items = Vec::new();
        for entry in fs_err::read_dir(&params.folder)? {
            let path = entry?.path();
            let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
            let id = stem.to_owned();
            items.push(SourceItem { id, files: vec![SourceFile { role: "text".into(), path }], facts: Value::Null });
        }
        items.sort_by(|one, other| one.id.cmp(&other.id));
        if items.is_empty() {
            return Err(StageError::data_help(
                format!("the folder `{}` has no files", params.folder.display()),
                "give a folder with at least one file",
            ));
        }
        Ok(Sources { items, ..Sources::default() })
    }

    fn run(params: &Self::Params, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let mut items = BTreeMap::new();
        for item in ctx.items {
            ctx.check_cancelled()?;
            let Some(file) = item.file("text") else { continue };
            let text = match params.digests {
                true => file.digest.to_string(),
                false => String::from_utf8_lossy(&ctx.access.content(file.digest)?).into_owned(),
            };
            items.insert(item.id.clone(), text);
        }
        Ok(encode(&items))
    }
}

/// `debug.copy`: items as they come, with a suffix.
pub struct Copy;

/// Parameters of `debug.copy`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CopyParams {
    /// Written behind every item.
    #[serde(default)]
    pub suffix: String,
    /// Part of the key without any effect on the result.
    #[serde(default)]
    pub note: i64,
    /// Milliseconds to wait in every shard; not part of the key.
    #[serde(default)]
    pub wait: NotInKey<u64>,
    /// Refuses the shard that has this item.
    #[serde(default)]
    pub refuse: Option<String>,
    /// Shares something with its other shards and warns when it has to make it; not part of the key.
    #[serde(default)]
    pub share: NotInKey<bool>,
}

impl Stage for Copy {
    type Params = CopyParams;
    const DEVICES: Devices = Devices::Any;
    const SPEC: Spec = Spec {
        name: "debug.copy",
        about: "Items as they come, with a suffix, to try out the engine",
        revision: 1,
        inputs: &[
            Port { name: "a", takes: PER_IMAGE, optional: false, about: "items" },
            Port {
                name: "b",
                takes: PER_IMAGE,
                optional: true,
                about: "items whose text is added behind those of `a`",
            },
        ],
        output: Kind::ImageSet,
        work: Work::PerImage,
        seeded: false,
    };

    fn run(params: &Self::Params, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let mut items = texts(ctx, "a")?;
        let behind = texts(ctx, "b")?;
        if params.share.0 {
            ctx.shared.get(ctx.device, Digest::of(b"anything"), || {
                ctx.warn(format!("made on {}", ctx.device));
                Ok(())
            })?;
        }
        std::thread::sleep(Duration::from_millis(params.wait.0));
        if let Some(id) = params.refuse.as_ref().filter(|id| items.contains_key(*id)) {
            return Err(StageError::data(format!("item `{id}` is refused")));
        }
        for (id, item) in &mut items {
            item.push_str(behind.get(id).map_or("", String::as_str));
            item.push_str(&params.suffix);
        }
        ctx.progress(items.len(), items.len(), "items");
        Ok(encode(&items))
    }
}

/// Parameters of the stages that make one text.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TextParams {
    /// A text, put in front.
    #[serde(default)]
    pub text: String,
    /// Part of the key without any effect on the result.
    #[serde(default)]
    pub note: i64,
}

/// `debug.concat`: everything on the ports as one text.
pub struct Concat;

impl Stage for Concat {
    type Params = TextParams;
    const SPEC: Spec = Spec {
        name: "debug.concat",
        about: "Everything on the ports as one text, to try out the engine",
        revision: 1,
        inputs: ANY_PORTS,
        output: Kind::Files,
        work: Work::Whole,
        seeded: false,
    };

    fn run(params: &Self::Params, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let text = params.text.clone() + &everything(ctx)?;
        Ok(Output::whole(Value::Null, TEXT, text.into_bytes()))
    }
}

/// `debug.seed`: its seed as a text.
pub struct Seed;

impl Stage for Seed {
    type Params = TextParams;
    const SPEC: Spec = Spec {
        name: "debug.seed",
        about: "The seed that the stage was given as a text, to try out the engine",
        revision: 1,
        inputs: ANY_PORTS,
        output: Kind::Files,
        work: Work::Whole,
        seeded: true,
    };

    fn run(params: &Self::Params, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        Ok(Output::whole(Value::Null, TEXT, format!("{}{}", params.text, ctx.seed).into_bytes()))
    }
}

/// `debug.fail`: fails.
pub struct Fail;

/// Parameters of `debug.fail` and `debug.panic`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FailParams {
    /// What it says.
    #[serde(default = "default_message")]
    pub message: String,
    /// A file; while it exists the stage does not fail. Not part of the key.
    #[serde(default)]
    pub unless: NotInKey<Option<PathBuf>>,
}

fn default_message() -> String {
    "it was told to".to_owned()
}

impl FailParams {
    fn passes(&self) -> bool {
        self.unless.0.as_ref().is_some_and(|path| path.exists())
    }
}

impl Stage for Fail {
    type Params = FailParams;
    const SPEC: Spec = Spec {
        name: "debug.fail",
        about: "Fails, to try out the engine",
        revision: 1,
        inputs: ANY_PORTS,
        output: Kind::Files,
        work: Work::Whole,
        seeded: false,
    };

    fn run(params: &Self::Params, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let text = everything(ctx)?;
        if params.passes() {
            return Ok(Output::whole(Value::Null, TEXT, text.into_bytes()));
        }
        Err(StageError::data_help(params.message.clone(), "take the stage out"))
    }
}

/// `debug.panic`: panics.
pub struct Panic;

impl Stage for Panic {
    type Params = FailParams;
    const SPEC: Spec = Spec {
        name: "debug.panic",
        about: "Panics, to try out the engine",
        revision: 1,
        inputs: ANY_PORTS,
        output: Kind::Files,
        work: Work::Whole,
        seeded: false,
    };

    fn run(params: &Self::Params, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let text = everything(ctx)?;
        assert!(params.passes(), "{}", params.message);
        Ok(Output::whole(Value::Null, TEXT, text.into_bytes()))
    }
}

/// `debug.sleep`: takes its time.
pub struct Sleep;

/// Parameters of `debug.sleep`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SleepParams {
    /// How long, in seconds.
    pub seconds: f64,
    /// In so many steps, each with a falling loss; 0 says nothing. Not part of the key.
    #[serde(default)]
    pub steps: NotInKey<usize>,
}

impl Stage for Sleep {
    type Params = SleepParams;
    const DEVICES: Devices = Devices::Any;
    const SPEC: Spec = Spec {
        name: "debug.sleep",
        about: "Takes its time, to try out the engine",
        revision: 1,
        inputs: ANY_PORTS,
        output: Kind::Files,
        work: Work::Whole,
        seeded: false,
    };

    fn check(params: &Self::Params) -> Result<(), StageError> {
        if (0.0..=3600.0).contains(&params.seconds) {
            return Ok(());
        }
        Err(StageError::parameter("seconds", "must lie between 0 and 3600"))
    }

    fn run(params: &Self::Params, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let text = everything(ctx)?;
        let started = Instant::now();
        let mut told = 0;
        // The share is taken once a round, so that the last one tells what is left however late it comes.
        let mut share = if params.seconds > 0.0 { 0.0 } else { 1.0 };
        while share < 1.0 {
            ctx.check_cancelled()?;
            std::thread::sleep(Duration::from_millis(2));
            share = (started.elapsed().as_secs_f64() / params.seconds).min(1.0);
            while told < (share * params.steps.0 as f64) as usize {
                told += 1;
                ctx.metric("loss", told, 1.0 / told as f64);
                ctx.progress(told, params.steps.0, "steps");
            }
        }
        Ok(Output::whole(Value::Null, TEXT, text.into_bytes()))
    }
}

/// `debug.steps`: a long work in steps, with checkpoints.
pub struct Steps;

/// Parameters of `debug.steps`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StepsParams {
    /// Number of steps.
    pub steps: u64,
    /// Milliseconds that a step takes; not part of the key.
    #[serde(default)]
    pub wait: NotInKey<u64>,
    /// A checkpoint is kept after so many steps; not part of the key.
    #[serde(default = "every_step")]
    pub every: NotInKey<u64>,
}

fn every_step() -> NotInKey<u64> {
    NotInKey(1)
}

impl Stage for Steps {
    type Params = StepsParams;
    const DEVICES: Devices = Devices::One;
    const SPEC: Spec = Spec {
        name: "debug.steps",
        about: "A long work in steps that keeps checkpoints as trainings do, to try out the engine",
        revision: 1,
        inputs: ANY_PORTS,
        output: Kind::Files,
        work: Work::Whole,
        seeded: true,
    };

    fn run(params: &Self::Params, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let (mut done, mut state) = (0, Digest::of(format!("{}{}", ctx.seed, everything(ctx)?).as_bytes()));
        if let Some((number, bytes)) = ctx.checkpoints.newest() {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            state = text.parse().map_err(|error| StageError::data(format!("the checkpoint is none: {error}")))?;
            done = number;
        }
        ctx.metric("first_step", done as usize, done as f64);
        while done < params.steps {
            if ctx.cancelled.load(Ordering::Relaxed) {
                ctx.checkpoints.keep(done, state.hex().into_bytes());
                return Err(StageError::Cancelled);
            }
            std::thread::sleep(Duration::from_millis(params.wait.0));
            state = Digest::of(format!("{}{done}", state.hex()).as_bytes());
            done += 1;
            let due = done % params.every.0.max(1) == 0;
            if ctx.checkpoints.wanted() || due {
                ctx.checkpoints.keep(done, state.hex().into_bytes());
            }
        }
        Ok(Output::whole(Value::Null, TEXT, state.hex().into_bytes()))
    }
}

/// `debug.metrics`: a table of metrics with the values it is told.
pub struct Metrics;

/// Parameters of `debug.metrics`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MetricsParams {
    /// Mean intersection over union, 0 to 1.
    #[serde(default)]
    pub miou: f64,
    /// Mean precision, 0 to 1.
    #[serde(default)]
    pub precision: f64,
    /// Mean recall, 0 to 1.
    #[serde(default)]
    pub recall: f64,
    /// So much at most is added to all three, by what stands on the ports.
    #[serde(default)]
    pub spread: f64,
    /// The split that its protocol names.
    #[serde(default)]
    pub split: Option<String>,
    /// Whether its protocol is that of an oracle, with a searched threshold of 0.3.
    #[serde(default)]
    pub oracle: bool,
    /// Threshold, mean IoU, precision and recall of each point of a curve.
    #[serde(default)]
    pub curve: Vec<[f64; 4]>,
}

impl Stage for Metrics {
    type Params = MetricsParams;
    const SPEC: Spec = Spec {
        name: "debug.metrics",
        about: "A table of metrics with the values it is told, to try out the engine",
        // 2: a whole table with a protocol.
        revision: 2,
        inputs: ANY_PORTS,
        output: Kind::Metrics,
        work: Work::Whole,
        seeded: false,
    };

    fn run(params: &Self::Params, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let text = everything(ctx)?;
        let more = params.spread * (Digest::of(text.as_bytes()).to_u64() % 1000) as f64 / 1000.0;
        let point = |[threshold, miou, precision, recall]: &[f64; 4]| CurvePoint {
            threshold: *threshold,
            miou: Some(*miou),
            precision: Some(*precision),
            recall: Some(*recall),
        };
        let threshold = if params.oracle {
            json!({ "policy": "searched", "background": 0.3, "objective": "miou" })
        } else {
            json!(null)
        };
        let protocol = Protocol {
            split: params.split.clone(),
            images: 10,
            classes_scored: 2,
            classes: 2,
            ignored: "nothing".to_owned(),
            threshold,
            oracle: params.oracle,
            ..Protocol::default()
        };
        let class = |name: &str, away: f64| ClassScores {
            name: name.to_owned(),
            iou: Some(params.miou + more + away),
            precision: Some(params.precision + more + away),
            recall: Some(params.recall + more + away),
        };
        let mut table = Table {
            miou: Some(params.miou + more),
            precision: Some(params.precision + more),
            recall: Some(params.recall + more),
            per_class: vec![class("background", 0.1), class("thing", -0.1)],
            protocol,
            curve: params.curve.iter().map(point).collect(),
            ..Table::default()
        };
        table.area_under_curve = table.area();
        Ok(Output::whole(Value::Null, metrics::PART, metrics::encode(&table)))
    }
}
