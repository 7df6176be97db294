//! `command`: a program of the author's own as a cached stage, such as a script that makes CAMs with another framework.
//!
//! The program runs in the working directory. Its environment is what the author names, PATH, HOME, and
//!
//! - `ORANDFLOW_OUTPUT`: an empty folder for what it makes; the declared `outputs` must lie there afterwards,
//! - `ORANDFLOW_INPUT_A` to `ORANDFLOW_INPUT_D`: a folder per connected port, written as by `orandflow export` (an image set
//!   in VOC layout, CAMs as npy files, masks as palette PNG, weights as safetensors).

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifact::export::{self, Source};
use crate::digest::Digest;
use crate::kind::Kind;
use crate::stage::{Access, Ctx, Devices, Inputs, Output, Port, SourceFile, Sources, Spec, Stage, StageError, Work};
use crate::store::manifest::Entry;

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

/// How many of the last lines of stderr a failure shows.
const TAIL: usize = 12;

/// The longest pause between two looks at whether the program has ended.
const PAUSE: Duration = Duration::from_millis(50);

/// Runs a program.
pub(super) struct Command;

/// Parameters of `command`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CommandParams {
    /// The program and its arguments, such as `["python3", "make_cams.py", "--scales", "3"]`. No shell is involved.
    pub program: Vec<String>,
    /// Environment variables. The program sees these, PATH, HOME and the ORANDFLOW variables, and no others.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Files and folders outside the pipeline that the program reads, the script itself included. Their content is part of the
    /// key; folders with everything in them.
    #[serde(default)]
    pub input_files: Vec<PathBuf>,
    /// Files and folders that the program makes, relative to `ORANDFLOW_OUTPUT`.
    pub outputs: Vec<String>,
}

impl Stage for Command {
    type Params = CommandParams;
    const DEVICES: Devices = Devices::Any;
    const SPEC: Spec = Spec {
        name: "command",
        about: "Runs a program of your own and keeps the files that it makes",
        // 1: the first.
        revision: 1,
        inputs: &[
            Port { name: "a", takes: ANY, optional: true, about: "written to the folder `ORANDFLOW_INPUT_A`" },
            Port { name: "b", takes: ANY, optional: true, about: "written to the folder `ORANDFLOW_INPUT_B`" },
            Port { name: "c", takes: ANY, optional: true, about: "written to the folder `ORANDFLOW_INPUT_C`" },
            Port { name: "d", takes: ANY, optional: true, about: "written to the folder `ORANDFLOW_INPUT_D`" },
        ],
        output: Kind::Files,
        work: Work::Whole,
        seeded: false,
    };

    fn check(params: &Self::Params) -> Result<(), StageError> {
        if params.program.first().is_none_or(String::is_empty) {
            return Err(StageError::parameter(
                "program",
                "must name a program, such as [\"python3\", \"make_cams.py\"]",
            ));
        }
        if params.outputs.is_empty() {
            return Err(StageError::parameter(
                "outputs",
                "must name at least one file or folder that the program makes",
            ));
        }
        for output in &params.outputs {
            let inside = Path::new(output).components().all(|part| matches!(part, Component::Normal(_)));
            if output.is_empty() || !inside {
                return Err(StageError::parameter(
                    "outputs",
                    format!("`{output}` must be a path inside the output folder, without `..`"),
                ));
            }
        }
        if let Some(name) = params.environment.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return Err(StageError::parameter("environment", format!("`{name}` is no name of a variable")));
        }
        Ok(())
    }

    fn sources(params: &Self::Params, _inputs: &Inputs) -> Result<Sources, StageError> {
        let mut files = Vec::new();
        for (index, path) in params.input_files.iter().enumerate() {
            // The place in the list, not the path: moving the data changes nothing.
            collect(path, &format!("input_files[{index}]"), &mut |role, path| files.push(SourceFile { role, path }))?;
        }
        Ok(Sources { files, ..Sources::default() })
    }

    fn run(params: &Self::Params, ctx: &Ctx<'_>) -> Result<Output, StageError> {
        let output = ctx.scratch.join("output");
        fs_err::create_dir_all(&output)?;
        let mut environment = params.environment.clone();
        for (port, manifest) in &ctx.inputs.ports {
            ctx.check_cancelled()?;
            let folder = ctx.scratch.join("inputs").join(port);
            fs_err::create_dir_all(&folder)?;
            export::export(manifest, &Reads(ctx.access), &folder, None, &[])
                .map_err(|error| StageError::data(format!("the input `{port}` cannot be written out: {error}")))?;
            environment.insert(format!("ORANDFLOW_INPUT_{}", port.to_uppercase()), text(&folder)?);
        }
        environment.insert("ORANDFLOW_OUTPUT".to_owned(), text(&output)?);
        environment.insert("ORANDFLOW_DEVICES".to_owned(), ctx.device.to_owned());
        if let Some(cards) = visible_cards(ctx.device, std::env::var("CUDA_VISIBLE_DEVICES").ok().as_deref()) {
            environment.entry("CUDA_VISIBLE_DEVICES".to_owned()).or_insert(cards);
        }
        run_program(params, &environment, ctx)?;
        unchanged(ctx)?;

        let mut parts = BTreeMap::new();
        for declared in &params.outputs {
            let path = output.join(declared);
            if !path.exists() {
                return Err(StageError::data_help(
                    format!("`{}` ended well and did not make `{declared}`", params.program[0]),
                    "it must write its outputs into the folder that ORANDFLOW_OUTPUT names",
                ));
            }
            let mut found = Vec::new();
            collect(&path, declared, &mut |name, path| found.push((name, path)))?;
            for (name, path) in found {
                parts.insert(name, fs_err::read(path)?);
            }
        }
        Ok(Output { meta: Value::Null, parts, ids: Vec::new() })
    }
}

/// Reads parts for the export.
struct Reads<'a>(&'a dyn Access);

impl Source for Reads<'_> {
    fn entry(&self, entry: &Entry) -> Result<Vec<u8>, String> {
        self.0.entry(entry).map_err(|error| error.to_string())
    }

    fn content(&self, digest: Digest) -> Result<Vec<u8>, String> {
        self.0.content(digest).map_err(|error| error.to_string())
    }
}

/// Returns a path of our own as an absolute text, as programs may change their working directory.
fn text(path: &Path) -> Result<String, StageError> {
    let path = std::path::absolute(path)?;
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| StageError::data(format!("the path `{}` is not UTF-8; use another cache", path.display())))
}

/// Calls `found` with every file at or below `path`, sorted by name.
fn collect(path: &Path, name: &str, found: &mut impl FnMut(String, PathBuf)) -> Result<(), StageError> {
    if !fs_err::metadata(path)?.is_dir() {
        found(name.to_owned(), path.to_owned());
        return Ok(());
    }
    let mut entries: Vec<PathBuf> =
        fs_err::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    entries.sort();
    for entry in entries {
        let Some(last) = entry.file_name().and_then(|last| last.to_str()) else {
            return Err(StageError::data(format!("the name of `{}` is not UTF-8", entry.display())));
        };
        collect(&entry, &format!("{name}/{last}"), found)?;
    }
    Ok(())
}

/// Returns the CUDA cards that a program may see, as `CUDA_VISIBLE_DEVICES` names them: those of the action, counted among the
/// ones that this process may see itself; `None` where the action has others, or none.
fn visible_cards(devices: &str, visible: Option<&str>) -> Option<String> {
    let own: Option<Vec<&str>> = visible.filter(|list| !list.is_empty()).map(|list| list.split(',').collect());
    let card = |device: &str| {
        let number = device.strip_prefix("libtorch:").unwrap_or(device).strip_prefix("cuda:")?;
        match &own {
            Some(own) => own.get(number.parse::<usize>().ok()?).map(|card| (*card).to_owned()),
            None => Some(number.to_owned()),
        }
    };
    devices.split(',').map(card).collect::<Option<Vec<_>>>().map(|cards| cards.join(","))
}

/// Runs the program to its end, or until the user asks to stop.
fn run_program(
    params: &CommandParams,
    environment: &BTreeMap<String, String>,
    ctx: &Ctx<'_>,
) -> Result<(), StageError> {
    let log = ctx.scratch.join("stderr");
    let mut process = Process::new(&params.program[0]);
    process.args(&params.program[1..]).env_clear();
    for name in ["PATH", "HOME"] {
        if let Some(value) = std::env::var_os(name) {
            process.env(name, value);
        }
    }
    process.envs(environment).stdin(Stdio::null()).stdout(Stdio::null());
    process.stderr(fs_err::File::create(&log)?.into_parts().0);
    let mut child = process.spawn().map_err(|error| {
        StageError::data_help(
            format!("the program `{}` cannot be started: {error}", params.program[0]),
            "give its path, or a name that is found in PATH",
        )
    })?;
    let mut pause = Duration::from_millis(1);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if let Err(cancelled) = ctx.check_cancelled() {
            // It may have ended by itself in this very moment.
            let _ = child.kill();
            child.wait()?;
            return Err(cancelled);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSE);
    };
    if status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&fs_err::read(&log)?).into_owned();
    let lines: Vec<&str> = stderr.lines().collect();
    let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
    let said = if tail.is_empty() { "it wrote nothing to stderr".to_owned() } else { format!("stderr:\n{tail}") };
    Err(StageError::data(format!("`{}` ended with {status}; {said}", params.program[0])))
}

/// Refuses the result if a declared file is no longer what the key says.
fn unchanged(ctx: &Ctx<'_>) -> Result<(), StageError> {
    for file in ctx.files {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(fs_err::File::open(&file.path)?)?;
        if Digest::from(hasher.finalize()) != file.digest {
            return Err(StageError::data_help(
                format!("`{}` changed while the program ran", file.path.display()),
                "run again when nothing writes to it any more",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(outputs: &[&str]) -> CommandParams {
        CommandParams {
            program: vec!["true".into()],
            environment: BTreeMap::new(),
            input_files: Vec::new(),
            outputs: outputs.iter().map(|output| (*output).to_owned()).collect(),
        }
    }

    #[test]
    fn a_program_sees_the_cards_of_its_action_alone() {
        assert_eq!(visible_cards("cpu", None), None);
        assert_eq!(visible_cards("libtorch:cuda:1,cuda:3", None).as_deref(), Some("1,3"));
        assert_eq!(visible_cards("cuda:1", Some("4,7")).as_deref(), Some("7"), "counted among those that are left");
        assert_eq!(visible_cards("cuda:2", Some("4,7")), None);
    }

    #[test]
    fn outputs_stay_inside_the_folder() {
        assert!(Command::check(&params(&["cams", "a/b.npy"])).is_ok());
        for wrong in ["", "../x", "/etc/passwd", "a/../../b"] {
            assert!(Command::check(&params(&[wrong])).is_err(), "{wrong}");
        }
        assert!(Command::check(&params(&[])).is_err());
    }
}
