//! A cache on a disk that fills up or becomes read-only. On a small file system in memory, for which the test must be allowed to
//! mount one; where it is not, limits on the size of files stand in for the full disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use crate::workbench::{Workbench, say};

const PIPELINE: &str = r#"
[pipeline]
name = "full"
[stages.items]
kind = "debug.items"
folder = "items"
[stages.copy]
kind = "debug.copy"
suffix = "!"
inputs = { a = "items" }
[stages.text]
kind = "debug.concat"
inputs = { a = "copy" }
"#;

/// 120 items of 10 kB: four shards of about 300 kB, and a text of 1.2 MB.
fn bench() -> Workbench {
    let bench = Workbench::new().pipeline(PIPELINE);
    for index in 0..120 {
        bench.write(&format!("items/i{index}.txt"), format!("{index:05}").repeat(2000));
    }
    bench
}

/// A file system in memory over `cache/`, taken away at the end.
struct Mount(PathBuf);

impl Mount {
    fn over(bench: &Workbench, size: &str) -> Option<Self> {
        let path = bench.path("cache");
        std::fs::create_dir_all(&path).expect("it can be made");
        let option = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &option, "orandflow-test"]).arg(&path).output();
        if mounted.is_ok_and(|output| output.status.success()) { Some(Self(path)) } else { None }
    }

    fn remount(&self, option: &str) {
        let done = Command::new("mount").args(["-o", &format!("remount,{option}")]).arg(&self.0).status();
        assert!(done.expect("mount starts").success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Returns path and time of every record: none of them is written twice.
fn records(bench: &Workbench) -> BTreeMap<PathBuf, SystemTime> {
    let list = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let prefixes = list(&bench.path("cache/v1/ac"));
    let files = prefixes.flat_map(|prefix| list(&prefix.path()).collect::<Vec<_>>());
    let time =
        |file: &std::fs::DirEntry| file.metadata().and_then(|metadata| metadata.modified()).expect("it is there");
    files.map(|file| (file.path(), time(&file))).collect()
}

#[test]
fn a_full_disk_fails_with_path_and_size_and_goes_on_when_there_is_room() {
    let bench = bench();
    let Some(mount) = Mount::over(&bench, "4m") else {
        say("no file system can be mounted here; limits on the size of files stand in for it");
        return limited(&bench);
    };
    bench.write("cache/filler", vec![0; 5 << 19]);
    let outcome = bench.run(["run", "pipeline.toml", "--jobs", "1"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let line = outcome.stderr.lines().find(|line| line.contains("needs")).unwrap_or_default();
    assert!(line.contains("cache/v1/cas/") && line.contains(" bytes, and there is no room for them"), "{outcome:?}");
    let before = records(&bench);
    assert!(!before.is_empty(), "some shards fitted");
    // Still full: it fails again, and says so again.
    assert_eq!(bench.run(["run", "pipeline.toml"]).code, Some(1));
    std::fs::remove_file(bench.path("cache/filler")).expect("it is there");
    let outcome = bench.run(["run", "pipeline.toml"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let after = records(&bench);
    assert!(before.iter().all(|(path, time)| after.get(path) == Some(time)), "what was complete was not made again");
    assert_eq!(bench.run(["cache", "verify"]).code, Some(0));
    drop(mount);
}

/// The same where nothing can be mounted: no file may be larger than 512 kB, so that the text cannot be written.
fn limited(bench: &Workbench) {
    let program = env!("CARGO_BIN_EXE_orandflow");
    let line = format!("trap '' XFSZ; ulimit -f 1024; exec {program} run pipeline.toml");
    let output = Command::new("sh").args(["-c", &line]).current_dir(bench.folder()).output().expect("sh starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(" bytes, and there is no room for them"), "{stderr}");
    let before = records(bench);
    assert_eq!(bench.statuses([]), ["items cached", "copy cached", "text ran"]);
    let after = records(bench);
    assert!(before.iter().all(|(path, time)| after.get(path) == Some(time)), "what was complete was not made again");
}

#[test]
fn a_cache_that_becomes_read_only_is_refused_and_loses_nothing() {
    let bench = bench();
    let Some(mount) = Mount::over(&bench, "16m") else {
        say("left out: no file system can be mounted here");
        return;
    };
    bench.run_json(["--only", "items"]);
    mount.remount("ro");
    for verb in ["run", "plan"] {
        let outcome = bench.run([verb, "pipeline.toml"]);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(outcome.stderr.starts_with("error: the cache `cache` cannot be written: "), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("Read-only file system"), "{}", outcome.stderr);
    }
    mount.remount("rw");
    assert_eq!(bench.statuses([]), ["items cached", "copy ran", "text ran"]);
    assert_eq!(bench.run(["cache", "verify"]).code, Some(0));
}

/// Starts the program as somebody who is not root, whom no permission stops; `None` where that cannot be done.
fn as_somebody(bench: &Workbench, arguments: &[&str]) -> Option<Command> {
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.starts_with(b"0\n"));
    if !root {
        return Some(bench.command(arguments.iter().copied()));
    }
    // 65534 is `nobody` wherever there is one.
    let flags = ["--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    let program = env!("CARGO_BIN_EXE_orandflow");
    let tried = Command::new("setpriv").args(flags).args([program, "--version"]).output();
    if !tried.is_ok_and(|output| output.status.success()) {
        return None;
    }
    let given = Command::new("chown").args(["-R", "65534:65534"]).arg(bench.folder()).status();
    assert!(given.expect("chown starts").success());
    let mut command = Command::new("setpriv");
    command.args(flags).arg(program).args(arguments).current_dir(bench.folder()).env("NO_COLOR", "1");
    Some(command)
}

fn permit(bench: &Workbench, mode: &str) {
    let folders = ["cas", "ac", "tmp"].map(|name| bench.path("cache/v1").join(name));
    let done = Command::new("chmod").args(["-R", mode]).args(folders).status();
    assert!(done.expect("chmod starts").success());
}

#[test]
fn permission_that_is_lost_during_a_run_fails_the_stage_and_nothing_is_made_twice() {
    let bench = Workbench::new().pipeline(
        "[pipeline]\nname = \"lost\"\n[stages.items]\nkind = \"debug.items\"\nfolder = \"items\"\n\
         [stages.sleep]\nkind = \"debug.sleep\"\nseconds = 3.0\ninputs = { a = \"items\" }\n\
         [stages.text]\nkind = \"debug.concat\"\ninputs = { a = \"sleep\", b = \"items\" }\n",
    );
    bench.write("items/i1.txt", "one");
    let Some(mut command) = as_somebody(&bench, &["run", "pipeline.toml", "--jobs", "1"]) else {
        say("left out: the program cannot be run here as somebody who is not root");
        return;
    };
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn();
    let child = child.expect("the program starts");
    crate::run::wait_for(&bench, "step.started", "sleep");
    let before = records(&bench);
    permit(&bench, "a-w");
    let output = child.wait_with_output().expect("it ends");
    permit(&bench, "u+w");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("stage `sleep` failed") && stderr.contains("Permission denied"), "{stderr}");
    assert!(stderr.contains("cache/v1/") && stderr.contains("cannot be written"), "the place is named: {stderr}");
    // A cache that may not be written at all is refused before anything runs.
    permit(&bench, "a-w");
    let refused = as_somebody(&bench, &["plan", "pipeline.toml"]).expect("as before").output().expect("it starts");
    permit(&bench, "u+w");
    assert_eq!(refused.status.code(), Some(2), "{}", String::from_utf8_lossy(&refused.stderr));
    let again = as_somebody(&bench, &["run", "pipeline.toml"]).expect("as before").output().expect("it starts");
    let stdout = String::from_utf8_lossy(&again.stdout);
    assert!(stdout.contains("3 stages: 2 ran, 1 cached"), "{stdout}");
    let after = records(&bench);
    assert!(before.iter().all(|(path, time)| after.get(path) == Some(time)), "what was complete was not made again");
    assert_eq!(bench.run(["cache", "verify"]).code, Some(0));
}

#[test]
fn blobs_that_may_not_be_read_are_made_again() {
    let bench = bench();
    let (fresh, _) = self::bench().run_json(["--set", "stages.text.text=new"]);
    let start = |arguments: &[&str]| {
        let output = as_somebody(&bench, arguments)?.output().expect("it starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the program writes UTF-8");
        Some((output.status.code(), text(output.stdout), text(output.stderr)))
    };
    let Some((code, ..)) = start(&["run", "pipeline.toml"]) else {
        say("left out: the program cannot be run here as somebody who is not root");
        return;
    };
    assert_eq!(code, Some(0));
    // As when a colleague's mask lets nobody else read.
    let done = Command::new("find")
        .arg(bench.path("cache/v1/cas"))
        .args(["-type", "f", "-exec", "chmod", "a-r", "{}", "+"])
        .status();
    assert!(done.expect("find starts").success());
    let (code, stdout, _) = start(&["cache", "verify"]).expect("as before");
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stdout.contains("unreadable blob ") && stdout.contains("Permission denied"), "{stdout}");
    let (code, stdout, stderr) =
        start(&["run", "pipeline.toml", "--json", "--set", "stages.text.text=new"]).expect("as before");
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains(" cannot be read: ") && stderr.contains("; it is made again"), "{stderr}");
    let object: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(object["stages"][2]["output"], fresh["stages"][2]["output"]);
    let (code, stdout, _) = start(&["cache", "verify", "--repair"]).expect("as before");
    assert_eq!(code, Some(0), "{stdout}");
    assert_eq!(start(&["cache", "verify"]).expect("as before").0, Some(0));
    // Whoever may not read a record cannot say which blobs it needs.
    let record = records(&bench).into_keys().next().expect("there are records");
    let chmod = |mode: &str| {
        let done = Command::new("chmod").arg(mode).arg(&record).status();
        assert!(done.expect("chmod starts").success());
    };
    chmod("a-r");
    let (code, _, stderr) = start(&["cache", "gc", "--max-size", "0"]).expect("as before");
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(" cannot be read: Permission denied"), "{stderr}");
    chmod("u+r");
    assert_eq!(start(&["cache", "verify"]).expect("as before").0, Some(0));
}

#[test]
fn what_a_colleague_uses_is_not_collected() {
    let bench = bench();
    bench.run_json([]);
    let Some(mut command) = as_somebody(&bench, &["run", "pipeline.toml"]) else {
        say("left out: the program cannot be run here as somebody who is not root");
        return;
    };
    // Folders that both may write, and files of this one that were made long ago: only their owner can set their time.
    let files = |do_it: &[&str]| {
        let folders = ["cache/v1/ac", "cache/v1/cas"].map(|folder| bench.path(folder));
        let done =
            Command::new("find").args(folders).args(["-type", "f", "-exec"]).args(do_it).args(["{}", "+"]).status();
        assert!(done.expect("find starts").success());
    };
    let own = Command::new("id").arg("-u").output().expect("id starts").stdout;
    files(&["chown", String::from_utf8_lossy(&own).trim()]);
    files(&["touch", "-d", "50 hours ago"]);
    let output = command.output().expect("it starts");
    assert!(String::from_utf8_lossy(&output.stdout).contains("3 stages: 3 cached"), "{output:?}");
    assert_eq!(bench.run(["cache", "gc", "--max-age", "1h"]).code, Some(0));
    assert_eq!(bench.statuses([]), ["items cached", "copy cached", "text cached"]);
    assert_eq!(bench.run(["cache", "verify"]).code, Some(0));
}
