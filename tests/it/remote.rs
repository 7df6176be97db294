//! A remote cache: what one machine has made another one finds, and whatever is wrong with the remote costs time at most. On a real
//! nginx and a real server of S3 where they are installed, and on a server that misbehaves.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::run::chain;
use crate::workbench::{Outcome, Workbench, say};

/// A process that ends with the test.
struct Server {
    child: Child,
    folder: tempfile::TempDir,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns a port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

fn wait_for_port(port: u16, child: &mut Child) {
    let clock = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(child.try_wait().expect("asked").is_none(), "the server ended");
        assert!(clock.elapsed() < Duration::from_secs(60), "the server does not come up");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Starts nginx with WebDAV; `None` where it is not installed. `more` goes into its one location.
fn nginx(more: &str) -> Option<Server> {
    let there = Command::new("nginx").arg("-V").stderr(Stdio::piped()).output();
    if !there.is_ok_and(|output| String::from_utf8_lossy(&output.stderr).contains("http_dav_module")) {
        say("left out: there is no nginx with WebDAV here");
        return None;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let at = folder.path().display();
    std::fs::create_dir(folder.path().join("data")).expect("made");
    // The name and the password of nginx's own documentation of `auth_basic_user_file`, in its plain form.
    std::fs::write(folder.path().join("users"), "me:{PLAIN}s3cret/p@ss\n").expect("written");
    let as_root = if Path::new("/root").metadata().is_ok() && is_root() { "user root;" } else { "" };
    let configuration = format!(
        "{as_root} daemon off; master_process off; pid {at}/pid; error_log {at}/error.log;
         events {{ worker_connections 64; }}
         http {{
           access_log {at}/access.log; client_max_body_size 0;
           client_body_temp_path {at}/t1; proxy_temp_path {at}/t2; fastcgi_temp_path {at}/t3;
           uwsgi_temp_path {at}/t4; scgi_temp_path {at}/t5;
           server {{
             listen 127.0.0.1:{port};
             location / {{ root {at}/data; dav_methods PUT DELETE; create_full_put_path on; {more} }}
           }}
         }}"
    );
    std::fs::write(folder.path().join("nginx.conf"), configuration).expect("written");
    let mut child = Command::new("nginx")
        .args(["-c", &format!("{at}/nginx.conf"), "-p", &format!("{at}"), "-e", &format!("{at}/error.log")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nginx starts");
    wait_for_port(port, &mut child);
    Some(Server { child, folder, port })
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout.starts_with(b"0\n"))
}

impl Server {
    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/team", self.port)
    }

    /// Returns the paths of the objects that nginx keeps.
    fn objects(&self, kind: &str) -> Vec<PathBuf> {
        let folder = self.folder.path().join("data/team").join(kind);
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.expect("listed").path()).collect();
        paths.sort();
        paths
    }

    /// Returns the requests since the last call that contain this.
    fn requests(&self, word: &str) -> usize {
        let log = self.folder.path().join("access.log");
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.lines().filter(|line| line.contains(word)).count()
    }
}

/// A machine with the same pipeline and data, and an empty cache.
fn machine() -> Workbench {
    let bench = chain(60);
    // Larger than what goes into packs: the text of all of them.
    for index in 0..60 {
        bench.write(&format!("items/i{index}.txt"), format!("{index:05}").repeat(2000));
    }
    bench
}

fn run(bench: &Workbench, url: &str, more: &[&str]) -> (Vec<String>, Outcome) {
    let outcome =
        bench.run(["run", "pipeline.toml", "--json", "--remote", url].into_iter().chain(more.iter().copied()));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let object: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    let stages = object["stages"].as_array().expect("a list");
    (stages.iter().map(|stage| format!("{} {}", stage["name"], stage["status"]).replace('"', "")).collect(), outcome)
}

const ALL_CACHED: [&str; 5] = ["items cached", "copy cached", "both cached", "text cached", "score cached"];
const ALL_RAN: [&str; 5] = ["items ran", "copy ran", "both ran", "text ran", "score ran"];

fn outputs(bench: &Workbench) -> Vec<String> {
    let (object, _) = bench.run_json(["--remote", "none"]);
    object["stages"].as_array().expect("a list").iter().map(|stage| stage["output"].to_string()).collect()
}

fn warnings(outcome: &Outcome) -> Vec<&str> {
    outcome.stderr.lines().filter(|line| line.starts_with("warning: ")).collect()
}

#[test]
fn what_one_machine_pushes_another_finds_and_brings_only_what_is_asked_for() {
    let Some(server) = nginx("") else { return };
    let one = machine();
    let (statuses, outcome) = run(&one, &server.url(), &["--push"]);
    assert_eq!(statuses, ALL_RAN);
    assert!(outcome.stderr.contains("pushed 11 results in ") && warnings(&outcome).is_empty(), "{outcome:?}");
    // Five stages and the shards of three of them, two each. Their blobs lie in few objects.
    assert_eq!(server.objects("ac").len(), 11);
    assert!(server.objects("cas").len() <= 15, "{:?}", server.objects("cas"));
    let temporary = server.folder.path().join("data/team/cas").exists();
    assert!(temporary);

    let other = machine();
    let plan = other.run(["plan", "pipeline.toml", "--remote", &server.url()]);
    assert!(plan.stdout.contains("5 stages: 5 cached") && plan.stdout.contains("in the remote cache"), "{plan:?}");
    let (statuses, outcome) = run(&other, &server.url(), &[]);
    assert_eq!((statuses, warnings(&outcome)), (ALL_CACHED.map(str::to_owned).to_vec(), vec![]));
    // The scores came; the text that they are made from did not, and nothing needs it.
    let size = |bench: &Workbench| {
        let text = bench.run(["cache", "du"]).stdout;
        text.lines().last().expect("a line").split_whitespace().rev().take(2).collect::<Vec<_>>().join(" ")
    };
    assert!(size(&other).starts_with("KiB"), "{}", size(&other));
    assert!(size(&one).starts_with("MiB"), "{}", size(&one));
    assert_eq!(other.run(["cache", "verify"]).code, Some(0));
    // Without the remote cache it is still known.
    assert_eq!(other.statuses([]), ALL_CACHED);
    assert_eq!(outputs(&one), outputs(&other));
    // Whoever asks for it gets it.
    let (statuses, _) = run(&other, &server.url(), &["--only", "text"]);
    assert_eq!(statuses[..], ALL_CACHED[..4]);
    let shown = other.run(["show", "pipeline.toml", "text"]);
    assert!(shown.stdout.contains("state       cached\n"), "{shown:?}");
    assert!(size(&other).contains("MiB") || size(&other).contains("KiB"), "{}", size(&other));
    // A second push has nothing to write.
    let puts = server.requests("\"PUT ");
    let again = one.run(["cache", "push", "pipeline.toml", "--remote", &server.url()]);
    assert!(again.stdout.contains("pushed 0 results in 0 objects"), "{again:?}");
    assert_eq!(server.requests("\"PUT "), puts);
}

#[test]
fn shards_come_where_an_image_differs_and_a_new_stage_gets_its_inputs() {
    let Some(server) = nginx("") else { return };
    let one = machine();
    one.run_json([]);
    let pushed = one.run(["cache", "push", "pipeline.toml", "both", "--remote", &server.url()]);
    assert!(pushed.stdout.contains("pushed 9 results"), "{pushed:?}");
    let other = machine();
    other.write("items/i7.txt", "another");
    let (statuses, outcome) = run(&other, &server.url(), &["--only", "both"]);
    assert_eq!((statuses, warnings(&outcome)), (ALL_RAN[..3].iter().map(|x| (*x).to_owned()).collect(), vec![]));
    let started = other.events("step.started");
    assert!(started.iter().all(|event| event["actions"] == 1 && event["cached"] == 1), "{started:?}");
    assert_eq!(other.run(["cache", "verify"]).code, Some(0));

    let third = machine();
    let more = "\n[stages.new]\nkind = \"debug.concat\"\ninputs = { a = \"copy\" }\n";
    third.write("pipeline.toml", format!("{}{more}", crate::run::CHAIN));
    let (statuses, _) = run(&third, &server.url(), &["--only", "new"]);
    assert_eq!(statuses, ["items cached", "copy cached", "new ran"]);
    let here = machine();
    here.write("pipeline.toml", format!("{}{more}", crate::run::CHAIN));
    here.run_json([]);
    assert_eq!(outputs(&here)[5], outputs(&third)[5]);
    assert_eq!(third.run(["cache", "verify"]).code, Some(0));
}

#[test]
fn pull_brings_what_is_named_and_goes_on_where_it_was() {
    let Some(server) = nginx("") else { return };
    let one = machine();
    run(&one, &server.url(), &["--push"]);
    let other = machine();
    let pulled = other.run(["cache", "pull", "pipeline.toml", "text", "--remote", &server.url()]);
    assert_eq!(pulled.code, Some(0), "{pulled:?}");
    assert!(pulled.stdout.starts_with("1 result of "), "{pulled:?}");
    assert_eq!(other.statuses(["--only", "text"]), ALL_CACHED[..4]);
    let gets = server.requests("\"GET /team/cas");
    let again = other.run(["cache", "pull", "pipeline.toml", "text", "--remote", &server.url()]);
    assert!(again.stdout.starts_with("0 results of "), "{again:?}");
    assert_eq!(server.requests("\"GET /team/cas"), gets, "nothing comes twice");
    // All of it: also what was only known.
    let all = other.run(["cache", "pull", "pipeline.toml", "--remote", &server.url()]);
    assert_eq!(all.code, Some(0), "{all:?}");
    assert_eq!(other.statuses(["--only", "copy"]), ALL_CACHED[..2]);
    let nowhere = other.run(["cache", "pull", "pipeline.toml"]);
    assert_eq!(nowhere.code, Some(2));
    insta::assert_snapshot!(nowhere.stderr, @r"
    error: no remote cache is named
    help: give `--remote URL`, ORANDFLOW_REMOTE, or `[remote] url` in orandflow.toml
    ");
}

#[test]
fn a_missing_or_damaged_object_is_a_miss_with_one_warning() {
    let Some(server) = nginx("") else { return };
    let one = machine();
    run(&one, &server.url(), &["--push"]);
    type Damage = fn(&Path);
    let damages: [(&str, &str, Damage); 6] = [
        ("cut", "cas", |path| {
            let file = std::fs::File::options().write(true).open(path).expect("opened");
            let length = file.metadata().expect("there").len();
            file.set_len(length / 2).expect("cut");
        }),
        ("empty", "cas", |path| std::fs::write(path, b"").expect("written")),
        ("flipped", "cas", |path| {
            let mut bytes = std::fs::read(path).expect("read");
            bytes.iter_mut().step_by(50).for_each(|byte| *byte ^= 1);
            std::fs::write(path, bytes).expect("written");
        }),
        ("longer", "cas", |path| {
            let mut bytes = std::fs::read(path).expect("read");
            bytes.extend_from_slice(&[7; 5000]);
            bytes.rotate_right(100);
            std::fs::write(path, bytes).expect("written");
        }),
        ("gone", "cas", |path| std::fs::remove_file(path).expect("removed")),
        ("another record", "ac", |path| std::fs::write(path, b"\x2a\x05hello").expect("written")),
    ];
    for (name, kind, damage) in damages {
        for path in server.objects(kind) {
            damage(&path);
        }
        let other = machine();
        // A new stage needs what is lost; the scores are asked for.
        let (statuses, outcome) = run(&other, &server.url(), &["--push"]);
        assert!(statuses.contains(&"score ran".to_owned()), "{name}: {statuses:?}");
        let about: Vec<&str> = warnings(&outcome).into_iter().filter(|line| line.contains("remote cache")).collect();
        assert_eq!(about.len(), 1, "{name}: {outcome:?}");
        assert!(about[0].contains("has lost or damaged `"), "{name}: {about:?}");
        assert_eq!(other.run(["cache", "verify"]).code, Some(0), "{name}");
        // What had to be made is there again; what was not needed can be pushed.
        other.run_json([]);
        assert_eq!(outputs(&one), outputs(&other), "{name}");
        let pushed = one.run(["cache", "push", "pipeline.toml", "--remote", &server.url()]);
        assert_eq!(pushed.code, Some(0), "{name}: {pushed:?}");
        if name == "flipped" {
            // Nobody can see from outside that an object of the right length is damaged, but whoever has read it.
            for path in server.objects("cas") {
                std::fs::remove_file(path).expect("removed");
            }
            one.run(["cache", "push", "pipeline.toml", "--remote", &server.url()]);
        }
        let third = machine();
        let (statuses, outcome) = run(&third, &server.url(), &["--only", "text"]);
        assert_eq!(
            (statuses, warnings(&outcome).len()),
            (ALL_CACHED[..4].iter().map(|x| (*x).to_owned()).collect(), 0),
            "{name}"
        );
    }
}

#[test]
fn a_push_that_is_killed_leaves_nothing_half_and_goes_on() {
    let Some(server) = nginx("") else { return };
    let one = machine();
    one.run_json([]);
    let expected = outputs(&one);
    let push = ["cache", "push", "pipeline.toml", "--remote", &server.url()];
    for pause in [10, 20, 30, 50] {
        let mut command = one.command(push.iter().copied());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
        std::thread::sleep(Duration::from_millis(pause));
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
        // Whatever is there by now is whole.
        let other = machine();
        let (_, outcome) = run(&other, &server.url(), &[]);
        assert!(warnings(&outcome).is_empty(), "after {pause} ms: {outcome:?}");
        assert_eq!(other.run(["cache", "verify"]).code, Some(0));
        assert_eq!(outputs(&other), expected);
    }
    assert_eq!(one.run(push.iter().copied()).code, Some(0));
    let (statuses, outcome) = run(&machine(), &server.url(), &["--only", "text"]);
    assert_eq!(statuses[..], ALL_CACHED[..4]);
    assert!(warnings(&outcome).is_empty(), "{outcome:?}");
}

#[test]
fn a_dead_or_slow_remote_is_one_warning_and_the_run_goes_on() {
    // Nobody listens.
    let bench = machine();
    let url = format!("http://127.0.0.1:{}/x", free_port());
    let (statuses, outcome) = run(&bench, &url, &["--push"]);
    assert_eq!(statuses, ALL_RAN);
    assert_eq!(warnings(&outcome).len(), 1, "{outcome:?}");
    assert!(warnings(&outcome)[0].contains(&format!("the remote cache {url}: ")), "{outcome:?}");
    assert!(warnings(&outcome)[0].ends_with("; this goes on without it"), "{outcome:?}");
    let events = bench.events("warning");
    assert_eq!(events.len(), 1, "it is kept with the run: {events:?}");
    for (verb, bench) in [("push", &bench), ("pull", &machine())] {
        let outcome = bench.run(["cache", verb, "pipeline.toml", "--remote", &url]);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.stderr.contains("the same command goes on from there"), "{outcome:?}");
    }
    // Somebody listens and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/x", listener.local_addr().expect("an address"));
    let bench = machine();
    let clock = Instant::now();
    let mut command = bench.command(["run", "pipeline.toml", "--remote", &url]);
    let output = command.env("ORANDFLOW_REMOTE_TIMEOUT", "1").output().expect("it starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert_eq!(stderr.matches("warning: ").count(), 1, "{stderr}");
    assert!(stderr.contains("it does not answer in time; this goes on without it"), "{stderr}");
    assert!(clock.elapsed() < Duration::from_secs(20), "{:?}", clock.elapsed());
    drop(listener);
    // A status that nobody can do anything with.
    let server = Misbehaving::start(PathBuf::new(), Misbehaviour::Status);
    let bench = machine();
    let (_, outcome) = run(&bench, &server.url, &[]);
    assert_eq!(warnings(&outcome).len(), 1, "{outcome:?}");
    assert!(warnings(&outcome)[0].contains("it answers with status 500"), "{outcome:?}");
    // A host that there is not.
    let (_, outcome) = run(&machine(), "http://no-such-host.invalid/x", &[]);
    assert_eq!(warnings(&outcome).len(), 1, "{outcome:?}");
}

#[test]
fn a_remote_that_dies_between_record_and_bytes_costs_the_work() {
    let Some(server) = nginx("") else { return };
    let one = machine();
    run(&one, &server.url(), &["--push"]);
    // Records come, bytes do not.
    let dying = Misbehaving::start(server.folder.path().join("data/team"), Misbehaviour::OnlyRecords);
    let other = machine();
    let (statuses, outcome) = run(&other, &dying.url, &[]);
    assert!(statuses.contains(&"score ran".to_owned()), "{statuses:?}");
    let about: Vec<&str> = warnings(&outcome).into_iter().filter(|line| line.contains("remote cache")).collect();
    assert_eq!(about.len(), 1, "{outcome:?}");
    assert_eq!(other.run(["cache", "verify"]).code, Some(0));
    other.run_json([]);
    assert_eq!(outputs(&one), outputs(&other));
}

#[test]
fn a_transfer_that_breaks_off_is_taken_up_where_it_was() {
    let Some(server) = nginx("") else { return };
    let one = machine();
    run(&one, &server.url(), &["--push"]);
    let cutting = Misbehaving::start(server.folder.path().join("data/team"), Misbehaviour::Cuts);
    let other = machine();
    let (statuses, outcome) = run(&other, &cutting.url, &["--only", "text"]);
    assert_eq!(statuses[..], ALL_CACHED[..4], "{outcome:?}");
    assert!(warnings(&outcome).is_empty(), "{outcome:?}");
    let ranges = cutting.ranges.load(Ordering::SeqCst);
    assert!(ranges > 0, "nothing was taken up");
    // What came is not asked for again: every byte came once, but for what lay in buffers.
    let size: u64 = other.read("cache/v1/VERSION").len() as u64;
    assert!(size > 0);
}

#[test]
fn credentials_are_used_and_never_shown_or_kept() {
    let Some(server) = nginx("") else { return };
    drop(server);
    let guarded = "auth_basic x;";
    let folder_of_users = |server: &Server| server.folder.path().join("users");
    // The file of users lies in the folder of the server, which is known only once it runs; so twice.
    let Some(first) = nginx("") else { return };
    let users = folder_of_users(&first);
    let Some(server) = nginx(&format!("{guarded} auth_basic_user_file {};", users.display())) else { return };
    let secret = format!("http://me:s3cret%2Fp%40ss@127.0.0.1:{}/team", server.port);
    let start = |bench: &Workbench, arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = bench.command(arguments.iter().copied());
        let output = command.envs(variables.iter().copied()).output().expect("it starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Outcome { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    };
    let one = machine();
    let with = [("ORANDFLOW_REMOTE", secret.as_str())];
    let outcome = start(&one, &["run", "pipeline.toml", "--push", "--log", "trace"], &with);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stderr.contains(&format!("to http://127.0.0.1:{}/team\n", server.port)), "{outcome:?}");
    let other = machine();
    let found = start(&other, &["run", "pipeline.toml"], &with);
    assert!(found.stdout.contains("5 stages: 5 cached"), "{found:?}");
    // Without them it is refused, once, and the run goes on.
    let url = server.url();
    let refused = start(&machine(), &["run", "pipeline.toml", "--remote", &url], &[]);
    assert_eq!((refused.code, refused.stderr.matches("warning: ").count()), (Some(0), 1), "{refused:?}");
    assert!(refused.stderr.contains("it refuses access (401)"), "{refused:?}");
    // Where others may see them they are not taken.
    let typed = start(&one, &["run", "pipeline.toml", "--remote", &secret], &[]);
    assert_eq!(typed.code, Some(2), "{typed:?}");
    one.write("orandflow.toml", format!("[remote]\nurl = \"{secret}\"\n"));
    let written = start(&one, &["run", "pipeline.toml"], &[]);
    assert_eq!(written.code, Some(2), "{written:?}");
    one.write("orandflow.toml", format!("[remote]\nurl = \"{secret}\"\nmore = 1\n"));
    let unknown = start(&one, &["run", "pipeline.toml"], &[]);
    assert!(unknown.stderr.contains("unknown field `more`"), "{unknown:?}");
    std::fs::remove_file(one.path("orandflow.toml")).expect("removed");
    let help = start(&one, &["run", "--help"], &with);
    for outcome in [&outcome, &found, &refused, &typed, &written, &unknown, &help] {
        for word in ["s3cret", "p@ss", "p%40ss", "bWU6"] {
            assert!(!outcome.stdout.contains(word) && !outcome.stderr.contains(word), "{outcome:?}");
        }
    }
    let mut left = vec![one.path("cache"), other.path("cache"), server.folder.path().join("data")];
    while let Some(path) = left.pop() {
        match std::fs::read_dir(&path) {
            Ok(entries) => left.extend(entries.map(|entry| entry.expect("listed").path())),
            Err(_) => {
                let bytes = std::fs::read(&path).expect("read");
                for word in [b"s3cret".as_slice(), b"p@ss", b"bWU6"] {
                    assert!(!bytes.windows(word.len()).any(|found| found == word), "{}", path.display());
                }
            }
        }
    }
}

#[test]
fn settings_name_the_remote_cache() {
    let Some(server) = nginx("") else { return };
    let one = machine();
    one.write("orandflow.toml", format!("[remote]\nurl = \"{}\"\npush = true\n", server.url()));
    let outcome = one.run(["run", "pipeline.toml"]);
    assert!(outcome.stderr.contains("pushed 11 results"), "{outcome:?}");
    let other = machine();
    other.write("orandflow.toml", format!("[remote]\nurl = \"{}\"\n", server.url()));
    assert_eq!(other.statuses([]), ALL_CACHED);
    let third = machine();
    third.write("orandflow.toml", format!("[remote]\nurl = \"{}\"\n", server.url()));
    assert_eq!(third.statuses(["--remote", "none"]), ALL_RAN);
    let none = machine().run(["run", "pipeline.toml", "--push"]);
    assert_eq!(none.code, Some(2), "{none:?}");
    let wrong = machine().run(["plan", "pipeline.toml", "--remote", "ftp://x/y"]);
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    if !cfg!(feature = "cloud") {
        let cloud = machine().run(["plan", "pipeline.toml", "--remote", "s3://bucket/x"]);
        assert!(cloud.stderr.contains("build it with `--features cloud`"), "{cloud:?}");
    }
}

/// Starts a server of S3 with one bucket; `None` where it is not installed.
fn s3() -> Option<Server> {
    if !cfg!(feature = "cloud") {
        say("left out: this build speaks to no cloud store");
        return None;
    }
    let program = std::env::var("ORANDFLOW_MOTO").unwrap_or_else(|_| "moto_server".to_owned());
    let port = free_port();
    let started = Command::new(&program)
        .args(["-H", "127.0.0.1", "-p", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = started else {
        say("left out: there is no moto_server here; `pip install 'moto[server]'` brings it");
        return None;
    };
    wait_for_port(port, &mut child);
    let server = Server { child, folder: tempfile::tempdir().expect("a folder"), port };
    // A bucket, as `aws s3 mb` makes it; moto does not look at signatures.
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    let request = format!(
        "PUT /bucket HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\nAuthorization: AWS4-HMAC-SHA256 \
         Credential=x/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Some(server)
}

#[test]
fn two_machines_share_a_bucket() {
    let Some(server) = s3() else { return };
    let start = |bench: &Workbench, arguments: &[&str], secret: &str| {
        let output = bench
            .command(arguments.iter().copied())
            .env("AWS_ENDPOINT", format!("http://127.0.0.1:{}", server.port))
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "AKIDNAMEOFTEST")
            .env("AWS_SECRET_ACCESS_KEY", secret)
            .output()
            .expect("it starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Outcome { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    };
    // 15 MB of text, which goes and comes in pieces.
    let large = |bench: Workbench| {
        for index in 0..60 {
            bench.write(&format!("items/i{index}.txt"), format!("{index:05}").repeat(25_000));
        }
        bench
    };
    let (one, other) = (large(machine()), large(machine()));
    let url = "s3://bucket/some/where";
    let pushed = start(&one, &["run", "pipeline.toml", "--remote", url, "--push"], "nobodyshallsee");
    assert_eq!(pushed.code, Some(0), "{pushed:?}");
    assert!(pushed.stderr.contains(&format!(" to {url}\n")) && !pushed.stderr.contains("warning"), "{pushed:?}");
    let found = start(&other, &["run", "pipeline.toml", "--remote", url, "--only", "text"], "nobodyshallsee");
    assert!(found.stdout.contains("4 stages: 4 cached"), "{found:?}");
    let all = start(&other, &["cache", "pull", "pipeline.toml", "--remote", url], "nobodyshallsee");
    assert_eq!(all.code, Some(0), "{all:?}");
    assert_eq!(other.statuses([]), ALL_CACHED);
    assert_eq!(outputs(&one), outputs(&other));
    let absent = start(&machine(), &["run", "pipeline.toml", "--remote", "s3://nowhere/x", "--push"], "nobodyshallsee");
    assert_eq!((absent.code, absent.stderr.matches("warning: ").count()), (Some(0), 1), "{absent:?}");
    for outcome in [pushed, found, all, absent] {
        assert!(!format!("{outcome:?}").contains("nobodyshallsee"), "{outcome:?}");
        assert!(!format!("{outcome:?}").contains("AKIDNAMEOFTEST"), "{outcome:?}");
    }
}

/// What a server does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Misbehaviour {
    /// It answers with an error.
    Status,
    /// It breaks off in the midst of every object, and goes on when it is asked to.
    Cuts,
    /// It answers what came of actions, and says nothing when it is asked for bytes.
    OnlyRecords,
}

/// A server of a folder that does something wrong.
struct Misbehaving {
    url: String,
    ranges: Arc<AtomicUsize>,
}

impl Misbehaving {
    fn start(folder: PathBuf, how: Misbehaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let ranges = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&ranges);
        let seen = Arc::new(Mutex::new(std::collections::BTreeSet::new()));
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (folder, counted, seen) = (folder.clone(), Arc::clone(&counted), Arc::clone(&seen));
                std::thread::spawn(move || answer(&stream, &folder, how, &counted, &seen));
            }
        });
        Self { url, ranges }
    }
}

fn answer(
    mut stream: &TcpStream,
    folder: &Path,
    how: Misbehaviour,
    ranges: &AtomicUsize,
    seen: &Mutex<std::collections::BTreeSet<String>>,
) {
    let mut lines = BufReader::new(stream).lines();
    let mut next = || lines.next().and_then(Result::ok).unwrap_or_default();
    let request = next();
    let path = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
    let (mut from, mut range) = (0, false);
    loop {
        let line = next();
        if line.is_empty() {
            break;
        }
        if let Some(text) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            from = text.trim_end_matches('-').parse().expect("a number");
            range = true;
            ranges.fetch_add(1, Ordering::SeqCst);
        }
    }
    if how == Misbehaviour::Status {
        let _ = stream.write_all(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return;
    }
    if how == Misbehaviour::OnlyRecords && path.starts_with("cas/") {
        return;
    }
    let Ok(bytes) = std::fs::read(folder.join(&path)) else {
        let _ = stream.write_all(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return;
    };
    let rest = &bytes[from..];
    let status = if range { "206 Partial Content" } else { "200 OK" };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", rest.len());
    let _ = stream.write_all(head.as_bytes());
    let first = seen.lock().expect("not poisoned").insert(path.clone());
    let cut = how == Misbehaviour::Cuts && first && path.starts_with("cas/");
    let _ = stream.write_all(if cut { &rest[..rest.len() / 2] } else { rest });
}
