//! `orandflow doctor`: looks the data of a pipeline through before any time is spent. Reads files and keeps nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use rayon::prelude::*;

use super::common::{PipelineArgs, deliver};
use super::{Failure, doctor_devices};
use crate::artifact::images::ClassList;
use crate::data::voc::{self, labels_of};
use crate::data::{coco, count, listed, sbd};
use crate::digest::Digest;
use crate::image::codec;
use crate::kind::Kind;
use crate::plan::Step;
use crate::stage::{Inputs, SourceItem, Sources, StageError};
use crate::store::manifest::{Entry, Lazy, Manifest, shard_name};

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pipeline: Option<PipelineArgs>,

    /// Say instead what this program can compute on, and test each device against the CPU
    #[arg(long, exclusive = true)]
    devices: bool,
}

/// Runs `doctor`: exit code 0 if nothing is missing or damaged, else 2.
pub(crate) fn doctor(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let Some(pipeline) = args.pipeline.as_ref().filter(|_| !args.devices) else { return doctor_devices::devices() };
    let plan = pipeline.load()?;
    let mut text = String::new();
    let mut faults = 0;
    // The images of data sets are known, and with them the files that go with each; what other stages make is not there yet.
    let mut sets: BTreeMap<usize, Arc<Lazy>> = BTreeMap::new();
    for (index, step) in plan.steps.iter().enumerate() {
        let ports = step.inputs.iter().map(|input| Some((input.port, Arc::clone(sets.get(&input.step)?)))).collect();
        let Some(ports) = ports else { continue };
        let inputs = Inputs { ports };
        let mut findings = Findings::default();
        match step.run.sources(&inputs) {
            Err(error) => findings.refused(&error),
            Ok(sources) => {
                examine(step, &sources, &inputs, &mut findings);
                if step.kind.spec().output == Kind::ImageSet {
                    sets.insert(index, Arc::new(Lazy::from(images(step, &sources))));
                }
            }
        }
        if findings.lines.is_empty() {
            continue;
        }
        let _ = writeln!(text, "{} ({})", step.name, step.kind.spec().name);
        for line in &findings.lines {
            let _ = writeln!(text, "  {line}");
        }
        faults += findings.faults;
    }
    let verdict = match faults {
        0 => "nothing is missing".to_owned(),
        _ => format!("{}, see above", count(faults, "fault", "faults")),
    };
    let _ = writeln!(text, "{verdict}");
    deliver(&text, None)?;
    Ok(if faults == 0 { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

/// What there is to say of a stage.
#[derive(Default)]
struct Findings {
    lines: Vec<String>,
    faults: usize,
}

impl Findings {
    fn fine(&mut self, line: String) {
        self.lines.push(line);
    }

    fn fault(&mut self, line: &str) {
        self.lines.push(format!("FAULT: {line}"));
        self.faults += 1;
    }

    fn refused(&mut self, error: &StageError) {
        self.fault(&error.to_string());
        if let StageError::Data { help: Some(help), .. } = error {
            self.lines.push(format!("  help: {help}"));
        }
    }
}

/// A set of images as stages see it that only ask for ids and classes.
fn images(step: &Step, sources: &Sources) -> Manifest {
    let mut ids: Vec<String> = sources.items.iter().map(|item| item.id.clone()).collect();
    ids.sort_unstable();
    let entry = Entry { digest: Digest::of(b""), size: 0, ids, content: Vec::new() };
    let meta = step.run.meta(&Inputs::default()).unwrap_or_default();
    Manifest { kind: Kind::ImageSet, buckets: Some(1), meta, entries: BTreeMap::from([(shard_name(0), entry)]) }
}

fn examine(step: &Step, sources: &Sources, inputs: &Inputs, findings: &mut Findings) {
    let absent: Vec<String> =
        sources.files.iter().filter(|file| !file.path.exists()).map(|file| file.path.display().to_string()).collect();
    if !absent.is_empty() {
        let names: Vec<&str> = absent.iter().map(String::as_str).collect();
        findings.fault(&format!("{} missing: {}", count(absent.len(), "file is", "files are"), listed(&names)));
    }
    if sources.items.iter().any(|item| item.files.iter().any(|file| file.role == "image")) {
        let classes = step.run.meta(&Inputs::default()).ok().and_then(|meta| serde_json::from_value(meta).ok());
        dataset(step, &sources.items, classes.as_ref(), findings);
    } else if let Some(set) = inputs.maybe("images")
        && !sources.items.is_empty()
    {
        findings.fine(format!("files of {} of {}", sources.items.len(), count(set.ids().len(), "image", "images")));
    }
}

/// What a look at one image and its files found.
struct Look {
    /// Height and width.
    size: (usize, usize),
    /// Whether there is a mask.
    mask: bool,
    /// Whether image-level labels are the classes of the mask, where both are there.
    agrees: Option<bool>,
}

fn dataset(step: &Step, items: &[SourceItem], classes: Option<&ClassList>, findings: &mut Findings) {
    let images = count(items.len(), "image", "images");
    match known_count(step, classes) {
        None => findings.fine(images),
        Some((split, known)) if known == items.len() => findings.fine(format!("{images}, as many as {split} has")),
        Some((split, known)) => findings.fault(&format!("{images}, where {split} has {known}")),
    }
    let names = classes.map_or(&[][..], |list| &list.classes);
    let looks: Vec<(&SourceItem, Result<Look, String>)> =
        items.par_iter().map(|item| (item, look(item, names))).collect();
    let good: Vec<&Look> = looks.iter().filter_map(|(_, look)| look.as_ref().ok()).collect();
    let bad: Vec<(&str, &str)> =
        looks.iter().filter_map(|(item, look)| Some((item.id.as_str(), look.as_ref().err()?.as_str()))).collect();
    if let (Some(small), Some(large)) = (
        good.iter().map(|look| look.size).min_by_key(|(height, width)| height * width),
        good.iter().map(|look| look.size).max_by_key(|(height, width)| height * width),
    ) {
        findings.fine(format!("sizes from {} x {} to {} x {} pixels", small.1, small.0, large.1, large.0));
    }
    let masks = good.iter().filter(|look| look.mask).count();
    if masks > 0 {
        findings.fine(format!("{}, each of its image's size", count(masks, "mask", "masks")));
    }
    let compared = good.iter().filter(|look| look.agrees.is_some()).count();
    if compared > 0 {
        let other: Vec<&str> = looks
            .iter()
            .filter(|(_, look)| look.as_ref().is_ok_and(|look| look.agrees == Some(false)))
            .map(|(item, _)| item.id.as_str())
            .collect();
        let agreeing = compared - other.len();
        let rest = if other.is_empty() { String::new() } else { format!("; not in {}", listed(&other)) };
        // Annotators disagree now and then, so this is no fault.
        findings.fine(format!("labels are the classes of the mask in {agreeing} of {compared}{rest}"));
    }
    match bad.as_slice() {
        [] => {}
        [(id, error)] => findings.fault(&format!("image `{id}`: {error}")),
        [(_, error), ..] => {
            let ids: Vec<&str> = bad.iter().map(|(id, _)| *id).collect();
            findings.fault(&format!("{} images have faults: {}; of the first: {error}", bad.len(), listed(&ids)));
        }
    }
}

/// Returns what a split is called and how many images it has, where a stage takes all of a split of PASCAL VOC 2012 or COCO 2014.
fn known_count(step: &Step, classes: Option<&ClassList>) -> Option<(String, usize)> {
    let params = step.run.params();
    let text = |name: &str| params.get(name)?.as_str().map(str::to_owned);
    if params.get("limit").is_some_and(|limit| !limit.is_null()) {
        return None;
    }
    let (split, classes) = (text("split")?, &classes?.classes);
    if step.kind.spec().name == "dataset.coco" {
        // An excerpt has a name of its own, or some of the classes.
        let (name, all, labelled) = coco::SPLIT_SIZES.into_iter().find(|(name, ..)| *name == split)?;
        let drops = text("unlabelled")? == "drop";
        let known = format!("`{name}` of COCO 2014{}", if drops { " with objects" } else { "" });
        return (classes.len() == coco::CLASSES).then_some((known, if drops { labelled } else { all }));
    }
    // Excerpts of the data set have its classes and splits too, but lie elsewhere.
    let complete = Path::new(&text("root")?).file_name().is_some_and(|name| name == "VOC2012");
    let (name, known) = voc::SPLIT_SIZES.into_iter().find(|(name, _)| *name == split)?;
    (complete && *classes == voc::CLASSES).then(|| (format!("`{name}` of PASCAL VOC 2012"), known))
}

fn look(item: &SourceItem, classes: &[String]) -> Result<Look, String> {
    let file = |role: &str| item.files.iter().find(|file| file.role == role);
    let read =
        |role: &str| file(role).map(|file| fs_err::read(&file.path).map_err(|error| error.to_string())).transpose();
    let size = codec::image_size(&read("image")?.ok_or("it has no image file")?)?;
    let mask = |role: &str| -> Result<Option<BTreeSet<u8>>, String> {
        let Some(bytes) = read(role)? else { return Ok(None) };
        let mask = sbd::decode_mask(&bytes)?;
        if (mask.height(), mask.width()) != size {
            return Err(format!("its mask is {} x {}, and it is {} x {}", mask.width(), mask.height(), size.1, size.0));
        }
        let labels: BTreeSet<u8> = labels_of(&mask).into_iter().collect();
        match labels.iter().find(|&&label| usize::from(label) + 1 >= classes.len()) {
            Some(label) => Err(format!("its mask has the index {}, which is no class", label + 1)),
            None => Ok(Some(labels)),
        }
    };
    let truth = mask("mask")?;
    let labels: Option<BTreeSet<u8>> = if let Some(bytes) = read("annotation")? {
        let text = String::from_utf8(bytes).map_err(|_| "its annotation is not UTF-8 text".to_owned())?;
        let labels = voc::parse_annotation(&text, classes, &item.id).map_err(|problem| problem.message)?;
        Some(labels.into_iter().collect())
    } else if let Some(labels) = mask("label_mask")? {
        Some(labels)
    } else {
        item.facts.get("labels").and_then(|labels| serde_json::from_value(labels.clone()).ok())
    };
    let agrees = truth.as_ref().zip(labels.as_ref()).map(|(truth, labels)| truth == labels);
    Ok(Look { size, mask: truth.is_some(), agrees })
}
