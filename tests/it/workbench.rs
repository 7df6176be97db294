//! A folder of its own with a pipeline in it, and the program run there.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Says something that whoever reads a test's output should know, such as what was left out.
#[expect(clippy::print_stdout, reason = "the output of tests is where it belongs")]
pub(crate) fn say(text: impl std::fmt::Display) {
    println!("{text}");
}

/// A temporary folder in which the program is run.
pub(crate) struct Workbench {
    folder: tempfile::TempDir,
}

/// What the program did.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Its exit code; `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    /// What it wrote to stdout, with the folder's path as `[FOLDER]`.
    pub(crate) stdout: String,
    /// What it wrote to stderr, with the folder's path as `[FOLDER]`.
    pub(crate) stderr: String,
}

impl Workbench {
    /// Makes an empty folder.
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder can be made") }
    }

    /// Returns the folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the path of a file in the folder.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Writes a file, and the folders above it.
    pub(crate) fn file(self, path: &str, bytes: impl AsRef<[u8]>) -> Self {
        self.write(path, bytes);
        self
    }

    /// Writes `pipeline.toml`.
    pub(crate) fn pipeline(self, toml: &str) -> Self {
        self.file("pipeline.toml", toml)
    }

    /// As [`Self::file`], for a workbench that is already in use.
    pub(crate) fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(path);
        let parent = path.parent().expect("a file lies in a folder");
        std::fs::create_dir_all(parent).expect("the folders can be made");
        std::fs::write(path, bytes).expect("the file can be written");
    }

    /// Reads a file.
    pub(crate) fn read(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.path(path)).expect("the file is there")
    }

    /// Returns the program, ready to be started in the folder, without colours and with the folder's `cache/`.
    pub(crate) fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orandflow"));
        command
            .args(arguments)
            .current_dir(self.folder())
            .env("NO_COLOR", "1")
            .env_remove("ORANDFLOW_CACHE")
            .env_remove("ORANDFLOW_REMOTE")
            .env_remove("RUST_LOG")
            .env_remove("RUST_BACKTRACE");
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Outcome {
        let output = self.command(arguments).output().expect("the program starts");
        Outcome { code: output.status.code(), stdout: self.text(&output.stdout), stderr: self.text(&output.stderr) }
    }

    /// Runs the pipeline with `run --json` and more arguments, and returns the object with the outcome.
    pub(crate) fn run_json<'a>(&self, more: impl IntoIterator<Item = &'a str>) -> (serde_json::Value, Outcome) {
        let outcome = self.run(["run", "pipeline.toml", "--json"].into_iter().chain(more));
        let object = serde_json::from_str(&outcome.stdout);
        (object.unwrap_or_else(|error| panic!("{error} in {outcome:?}")), outcome)
    }

    /// Runs the pipeline and returns what came of each stage: `copy ran`, in order of the plan.
    pub(crate) fn statuses<'a>(&self, more: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let (object, _) = self.run_json(more);
        let stages = object["stages"].as_array().expect("stages are a list");
        let word = |value: &serde_json::Value| value.as_str().unwrap_or("?").to_owned();
        stages.iter().map(|stage| format!("{} {}", word(&stage["name"]), word(&stage["status"]))).collect()
    }

    /// Returns the events of the newest run whose name is `event`.
    pub(crate) fn events(&self, event: &str) -> Vec<serde_json::Value> {
        let runs = std::fs::read_dir(self.path("cache/runs")).expect("there are runs");
        let newest = runs.map(|run| run.expect("runs can be listed").path()).max_by_key(|run| {
            let made = std::fs::metadata(run.join("events.jsonl")).and_then(|metadata| metadata.modified());
            made.unwrap_or(std::time::SystemTime::UNIX_EPOCH)
        });
        // A run that just began has no file yet, and one under way may be in the midst of a line.
        let text = std::fs::read_to_string(newest.expect("there is a run").join("events.jsonl")).unwrap_or_default();
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let all = whole.map(|line| serde_json::from_str(line).expect("events are JSON"));
        all.filter(|one: &serde_json::Value| one["event"] == event).collect()
    }

    fn text(&self, bytes: &[u8]) -> String {
        let text = String::from_utf8(bytes.to_vec()).expect("the program writes UTF-8");
        text.replace(self.folder().to_str().expect("the folder's path is UTF-8"), "[FOLDER]")
    }
}

#[test]
fn the_program_runs_in_the_folder_and_its_path_is_hidden() {
    let bench = Workbench::new().pipeline("[stages.x]\n").file("data/list.txt", "one\n");
    bench.write("data/list.txt", "two\n");
    assert_eq!(bench.read("data/list.txt"), b"two\n");
    let outcome = bench.run(["graph", bench.path("no.toml").to_str().expect("the path is UTF-8")]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""));
    assert!(outcome.stderr.starts_with("error: "), "{}", outcome.stderr);
}
