//! `watch` and `--serve`: the page of a run under way, over a socket and in a browser.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::browser::Browser;
use crate::workbench::Workbench;

/// Images and their scores, a stage that takes its time and measures, and one behind it.
const PIPELINE: &str = r#"
[pipeline]
name = "look"

[stages.train]
kind = "dataset.synthetic"
count = 12
size = 32

[stages.cams]
kind = "debug.maps"
noise = 0.4
inputs = { images = "train" }

[stages.masks]
kind = "mask.threshold"
background = 0.4
inputs = { scores = "cams" }

[stages.score]
kind = "evaluate"
inputs = { prediction = "masks", truth = "train" }

[stages.nap]
kind = "debug.sleep"
seconds = SECONDS
steps = 40

[stages.after]
kind = "debug.sleep"
seconds = 0.1
steps = 2
inputs = { a = "nap" }
"#;

fn bench(seconds: &str) -> Workbench {
    Workbench::new().pipeline(&PIPELINE.replace("SECONDS", seconds))
}

/// A program that serves, ended with this value.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn watch(bench: &Workbench) -> Self {
        let mut child =
            bench.command(["watch", "pipeline.toml"]).stdout(Stdio::piped()).spawn().expect("the program starts");
        let line = first_line(child.stdout.take().expect("it is piped"));
        let address = line.strip_prefix("http://").and_then(|rest| rest.split('/').next()).expect("an address");
        Self { child, address: address.parse().expect("it is one") }
    }

    fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).expect("somebody listens");
        stream.write_all(request.as_bytes()).expect("it can be written");
        let mut bytes = Vec::new();
        // A connection that is turned away may be reset.
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8(bytes).expect("it answers in UTF-8")
    }

    fn get(&self, path: &str) -> (String, String) {
        let text = self.ask(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address));
        let (head, body) = text.split_once("\r\n\r\n").expect("a head ends");
        (head.to_owned(), body.to_owned())
    }

    fn json(&self, path: &str) -> Value {
        let (head, body) = self.get(path);
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        serde_json::from_str(&body).expect("it is JSON")
    }

    /// Asks until what is known of the run is as it should be.
    fn wait_for(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let state = self.json("/live.json");
            if holds(&state) {
                return state;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}: {state}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn first_line(output: impl std::io::Read) -> String {
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).expect("it can be read");
    line
}

/// Returns where a stage stands.
fn state_of(state: &Value, stage: &str) -> String {
    let stages = state["state"]["stages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = stages.iter().find(|one| one["name"] == stage).and_then(|one| one["state"].as_str());
    found.unwrap_or("waits").to_owned()
}

#[test]
fn only_this_machine_reads_and_nobody_writes() {
    let bench = bench("0.1");
    let server = Server::watch(&bench);
    assert!(server.address.ip().is_loopback());
    let status = |request: &str| server.ask(request).split(' ').nth(1).unwrap_or_default().to_owned();
    let own = server.address;
    assert_eq!(status(&format!("GET / HTTP/1.1\r\nHost: {own}\r\n\r\n")), "200");
    assert_eq!(status("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), "200");
    // A name of somebody else that leads here.
    assert_eq!(status("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n"), "403");
    assert_eq!(status(&format!("GET /live.json HTTP/1.1\r\nHost: evil.example:{}\r\n\r\n", own.port())), "403");
    assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), "400");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        assert_eq!(status(&format!("{method} / HTTP/1.1\r\nHost: {own}\r\n\r\n")), "405", "{method}");
    }
    for path in
        ["/../pipeline.toml", "/..%2fpipeline.toml", "//etc/passwd", "/pipeline.toml", "/cache/v1/VERSION", "/%00"]
    {
        assert_eq!(status(&format!("GET {path} HTTP/1.1\r\nHost: {own}\r\n\r\n")), "404", "{path}");
    }
    assert_eq!(status("no words at all\r\n\r\n"), "400");
    assert_eq!(status(&format!("GET /{} HTTP/1.1\r\n", "x".repeat(20_000))), "431");
    let (head, body) = server.get("/");
    assert!(head.contains("Content-Security-Policy: default-src 'none'"), "{head}");
    assert!(!head.contains("Access-Control-Allow-Origin"), "{head}");
    assert!(body.starts_with("<!DOCTYPE html>"));
    let head = server.ask(&format!("HEAD / HTTP/1.1\r\nHost: {own}\r\n\r\n"));
    assert!(head.ends_with("\r\n\r\n") && head.starts_with("HTTP/1.1 200 "), "{head}");

    // Whoever only opens connections does not keep others out for long, and does not cost a thread each.
    let idle: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(own).expect("it is accepted")).collect();
    let turned_away = status(&format!("GET / HTTP/1.1\r\nHost: {own}\r\n\r\n"));
    assert!(["503", ""].contains(&turned_away.as_str()), "{turned_away}");
    drop(idle);
    let begun = Instant::now();
    while server.ask(&format!("GET / HTTP/1.1\r\nHost: {own}\r\n\r\n")).split(' ').nth(1) != Some("200") {
        assert!(begun.elapsed() < Duration::from_secs(20), "it answers again");
    }
}

#[test]
fn others_cannot_be_let_in() {
    let bench = bench("0.1");
    for place in ["0.0.0.0:0", "[::]:0", "192.168.0.1:0"] {
        let outcome = bench.run(["watch", "pipeline.toml", "--listen", place]);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(outcome.stderr.contains("is no loopback address"), "{}", outcome.stderr);
        let outcome = bench.run(["run", "pipeline.toml", &format!("--serve={place}")]);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let place = taken.local_addr().expect("it has one").to_string();
    let outcome = bench.run(["watch", "pipeline.toml", "--listen", &place]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert!(outcome.stderr.contains("choose another port"), "{}", outcome.stderr);
}

#[test]
fn a_run_is_followed_from_before_its_beginning_to_its_end() {
    let bench = bench("2.0");
    let server = Server::watch(&bench);
    let state = server.json("/live.json");
    assert_eq!((state["run"].clone(), state["state"].clone()), (Value::Null, Value::Null));
    let mut run =
        bench.command(["run", "pipeline.toml"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let state = server.wait_for("progress", |state| {
        let stages = state["state"]["stages"].as_array().map(Vec::as_slice).unwrap_or_default();
        stages.iter().any(|one| one["name"] == "nap" && one["done"].as_u64() > Some(3))
    });
    assert_eq!((state_of(&state, "nap"), state_of(&state, "after")), ("running".to_owned(), "waits".to_owned()));
    let nap = state["state"]["stages"]
        .as_array()
        .and_then(|all| all.iter().find(|one| one["name"] == "nap"))
        .expect("it runs");
    assert_eq!(nap["total"], 40);
    assert!(nap["pace"].as_str().is_some_and(|text| text.contains("/s")), "{nap}");
    assert!(nap["values"][0][1].is_number(), "{nap}");
    assert!(state["state"]["training"][0]["curves"][0]["points"].as_array().map(Vec::len) > Some(2), "{state}");
    assert!(state["state"]["log"].to_string().contains("nap: runs (never ran here)"), "{state}");
    // Scores are there while the nap goes on.
    server.wait_for("scores", |state| state_of(state, "score") == "done");
    let page = server.json("/page.json");
    assert_eq!(page["page"]["metrics"][0]["stage"], "score");
    assert_eq!(page["page"]["images"], serde_json::json!([]), "images come by themselves");
    let images = server.json("/images.json");
    assert_eq!(images["images"][0]["columns"], serde_json::json!(["photograph", "cams", "masks", "ground truth"]));
    assert!(run.wait().expect("it ends").success());
    let state = server.wait_for("the end", |state| !state["state"]["outcome"].is_null());
    assert_eq!(state["state"]["outcome"], "6 stages: 6 ran, 0 cached, 0 failed, 0 skipped");
    assert_eq!((state_of(&state, "nap"), state_of(&state, "after")), ("done".to_owned(), "done".to_owned()));
    // Who knows it already is told nothing.
    let (head, _) = server.get(&format!("/live.json?since={}", state["version"]));
    assert!(head.starts_with("HTTP/1.1 204 "), "{head}");
    let page = server.json("/page.json");
    assert_eq!(page["revision"], state["revision"]);
    let statuses = page["page"]["steps"].as_array().expect("a list").iter().map(|step| step["status"].clone());
    assert_eq!(statuses.collect::<Vec<_>>(), ["cached"; 6]);

    // The next run is followed in its turn, with the values that it was given.
    assert_eq!(bench.run(["run", "pipeline.toml", "--set", "stages.masks.background=0.5"]).code, Some(0));
    let next =
        server.wait_for("the next run", |next| next["run"] != state["run"] && !next["state"]["outcome"].is_null());
    assert_eq!(state_of(&next, "masks"), "done");
    let page = server.json("/page.json")["page"]["steps"].to_string();
    assert!(page.contains("[\"background\",\"0.5\",\"--set"), "{page}");
}

#[test]
fn a_run_serves_its_own_page_and_ends_without_readers() {
    let bench = bench("1.0");
    let mut child = bench
        .command(["run", "pipeline.toml", "--serve", "--log-format", "json"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    let first: Value = serde_json::from_str(&lines.next().expect("a line").expect("it can be read")).expect("JSON");
    assert_eq!(first["event"], "page.served");
    let address = first["address"]
        .as_str()
        .and_then(|text| text.strip_prefix("http://"))
        .map(|text| text.trim_end_matches('/').to_owned());
    let address: SocketAddr = address.expect("an address").parse().expect("it is one");
    let server = Server { child, address };
    let state = server.wait_for("progress", |state| state_of(state, "nap") == "running");
    assert_eq!(state["state"]["pipeline"], "look");
    // Whoever asks until the end is told of it before the program goes.
    let state = server.wait_for("the end", |state| !state["state"]["outcome"].is_null());
    assert_eq!(state["state"]["outcome"], "6 stages: 6 ran, 0 cached, 0 failed, 0 skipped");
    assert_eq!(server.json("/page.json")["page"]["metrics"][0]["stage"], "score");
    drop(lines);
    let mut server = server;
    let begun = Instant::now();
    assert!(server.child.wait().expect("it ends").success());
    assert!(begun.elapsed() < Duration::from_secs(15), "it does not wait for readers that have gone");
}

#[test]
fn a_page_in_a_browser_shows_how_a_run_goes_on() {
    let Some(mut browser) = Browser::start() else { return };
    let bench = bench("6.0");
    let server = Server::watch(&bench);
    browser.open(&format!("http://{}/", server.address));
    browser.wait_for("document.querySelector('#live p').textContent.startsWith('No run of this pipeline')");
    let mut run =
        bench.command(["run", "pipeline.toml"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let label = |stage: &str| {
        format!("document.querySelector('#picture .step[aria-label^=\"{stage},\"]').getAttribute('aria-label')")
    };
    let state = |stage: &str, word: &str| format!("{}.includes('{word}')", label(stage));
    browser.wait_for(&state("nap", "running"));
    browser.wait_for(&state("after", "waits"));
    browser.wait_for("document.querySelector('#live progress') && document.querySelector('#live progress').value > 4");
    browser.wait_for("document.querySelectorAll('#live svg.plot path').length > 0");
    // Scores and images come while the run goes on.
    browser.wait_for("!document.getElementById('metrics').hidden");
    browser.wait_for("!document.getElementById('images').hidden && [...document.images].length > 8");
    // With the keyboard alone: to a stage in the picture, which then is shown and keeps the focus while the page goes on.
    browser.value("document.querySelector('#picture .step[aria-label^=\"nap,\"]').focus()");
    browser.press("Enter");
    browser.wait_for("document.querySelector('#details h3').textContent === 'nap'");
    browser.wait_for("document.getElementById('details').textContent.includes(' of 40 steps')");
    browser.scheme("light");
    browser.keep("live-light");
    browser.scheme("dark");
    browser.keep("live-dark");
    browser.scheme("light");
    assert_eq!(browser.value("document.activeElement.getAttribute('data-step')"), "4");
    assert!(run.wait().expect("it ends").success());
    browser.wait_for("document.querySelector('#live p').textContent.startsWith('The run has ended. 6 stages: 6 ran')");
    browser.wait_for(&state("after", "done"));
    browser.wait_for("!document.getElementById('training').hidden && !document.getElementById('timeline').hidden");
    browser.wait_for("document.querySelectorAll('#live progress').length === 0");
    assert_eq!(browser.value("document.activeElement.getAttribute('data-step')"), "4", "the focus stays");
    browser.keep("live-end");
    // What is said to a screen reader is one sentence, not each step.
    assert_eq!(browser.value("document.querySelectorAll('#live [role=status]').length"), 1);
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
    drop(server);
    browser.wait_for(
        "document.querySelector('#live p').textContent.startsWith('The program that served this page has ended')",
    );
}
