//! Which remote cache is meant: what was typed, the environment, or `orandflow.toml` in the working directory, in this order.

use std::io::{ErrorKind, Write as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};

use serde::Deserialize;

use super::Failure;
use crate::digest::Digest;
use crate::report::text::{count, size};
use crate::run::event::Event;
use crate::store::Store;
use crate::store::remote::{Address, Pushed, Remote};

/// The file of settings, in the working directory.
const FILE: &str = "orandflow.toml";

/// The variable that names a remote cache, and the only place where its address may carry a name and a password.
const VARIABLE: &str = "ORANDFLOW_REMOTE";

/// What stands for no remote cache, whatever the environment and the file say.
const NONE: &str = "none";

/// Which remote cache is read.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct RemoteArgs {
    /// Take results from this remote cache as well: `https://HOST/PATH`, `s3://BUCKET/PATH`, `gs://…`, `az://…`, or `none`
    /// [default: ORANDFLOW_REMOTE, or `[remote] url` in orandflow.toml]
    #[arg(long, value_name = "URL")]
    remote: Option<String>,
}

/// Whether results are written to it.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct PushArgs {
    /// Write every result to the remote cache when it is there
    #[arg(long)]
    push: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    remote: RemoteSettings,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RemoteSettings {
    url: Option<String>,
    push: bool,
}

/// Reads the file of settings; all defaults where there is none.
fn settings() -> Result<Settings, Failure> {
    let wrong = |why: &str| wrong(format!("the settings `{FILE}` cannot be read: {why}"));
    let text = match std::fs::read_to_string(FILE) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Settings::default()),
        Err(error) => return Err(wrong(&error.to_string())),
    };
    toml::from_str(&text).map_err(|error| {
        // Without the line itself, which may hold what nobody shall see.
        let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        wrong(&format!("{}{}", error.message(), line.map_or(String::new(), |line| format!(" (line {line})"))))
    })
}

fn wrong(message: String) -> Failure {
    Failure::Message { message, help: None, code: 2 }
}

impl RemoteArgs {
    /// Attaches the remote cache to the store, if one is meant; says whether results are to be written to it.
    pub(crate) fn attach(&self, push: &PushArgs, store: &Store) -> Result<bool, Failure> {
        let settings = settings()?;
        let environment = std::env::var(VARIABLE).ok().filter(|value| !value.is_empty());
        let (text, secret) = match (&self.remote, environment, settings.remote.url) {
            (Some(text), _, _) => (Some(text.clone()), false),
            (None, Some(text), _) => (Some(text), true),
            (None, None, text) => (text, false),
        };
        let Some(text) = text.filter(|text| text != NONE) else {
            if push.push {
                let help = format!("name one with `--remote URL`, {VARIABLE} or `[remote] url` in {FILE}");
                let message = "`--push` needs a remote cache".to_owned();
                return Err(Failure::Message { message, help: Some(help), code: 2 });
            }
            return Ok(false);
        };
        let remote = Address::parse(&text, secret).and_then(Remote::new).map_err(wrong)?;
        store.attach(remote);
        Ok(push.push || settings.remote.push)
    }

    /// As [`Self::attach`], for a run whose stages are jobs of a cluster: these share the cache alone.
    pub(crate) fn attach_for(&self, push: &PushArgs, store: &Store, cluster: bool) -> Result<bool, Failure> {
        match cluster {
            false => self.attach(push, store),
            true if push.push || self.remote.as_deref().is_some_and(|text| text != NONE) => Err(Failure::Message {
                message: "jobs of a cluster know no remote cache, they share the cache itself".to_owned(),
                help: Some(
                    "use `orandflow cache pull` before the run, and `orandflow cache push` behind it".to_owned(),
                ),
                code: 2,
            }),
            true => Ok(false),
        }
    }

    /// Attaches the remote cache, to read alone.
    pub(crate) fn read(&self, store: &Store) -> Result<(), Failure> {
        self.attach(&PushArgs::default(), store).map(drop)
    }
}

/// Writes the results of a run to the remote cache while it is under way.
pub(crate) struct Pusher {
    sender: Mutex<Option<Sender<(Digest, bool)>>>,
}

impl Pusher {
    /// Makes one, and what [`Self::work`] takes.
    pub(crate) fn new() -> (Self, Receiver<(Digest, bool)>) {
        let (sender, receiver) = std::sync::mpsc::channel();
        (Self { sender: Mutex::new(Some(sender)) }, receiver)
    }

    /// Hears what happens in the run.
    pub(crate) fn hear(&self, event: &Event) {
        let sender = self.sender.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let new = match event {
            Event::Done { key, .. } => (*key, true),
            Event::Cached { key, .. } => (*key, false),
            _ => return,
        };
        if let Some(sender) = &*sender {
            // The other side is there as long as this one, unless it has failed.
            let _ = sender.send(new);
        }
    }

    /// Hears that the run has ended.
    pub(crate) fn end(&self) {
        self.sender.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    }

    /// Writes results until the run has ended, and says what was written.
    pub(crate) fn work(
        store: &Store,
        keys: &Receiver<(Digest, bool)>,
        cancelled: &AtomicBool,
    ) -> std::io::Result<Pushed> {
        let mut pushed = Pushed::default();
        for (key, new) in keys {
            if cancelled.load(Ordering::Relaxed) {
                break;
            }
            pushed += store.push(key, new)?;
        }
        Ok(pushed)
    }
}

/// Returns what was written to the remote cache, in a sentence.
pub(crate) fn pushed(pushed: &Pushed, store: &Store) -> String {
    let Some(remote) = store.remote() else { return String::new() };
    let (results, objects) = (count(pushed.results, "result"), count(pushed.objects, "object"));
    let address = remote.address();
    let mut text = format!("pushed {results} in {objects} of {} to {address}\n", size(pushed.bytes));
    if pushed.others > 0 {
        let others = count(pushed.others, "result");
        text.push_str(&format!("of {others} another one is there under the same key; it stays\n"));
    }
    text
}

/// Writes the warnings about the remote cache to stderr.
pub(crate) fn warn(store: &Store) {
    for warning in store.take_warnings() {
        // Nothing is left to be done where stderr itself is gone.
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    }
}
