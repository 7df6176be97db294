//! A remote cache: results of other machines, over HTTP or in a cloud store, and a place for those of this one. Knows nothing of
//! what they mean.
//!
//! The layout is that of Bazel's simple remote cache: `ac/KEY` is what came of an action ([`result`]), `cas/SHA256` are bytes.
//! Small blobs of a result lie in packs, so that a few requests bring many. A lookup that finds nothing here asks for `ac/KEY`
//! and nothing more; bytes come when somebody reads them, and are verified against their own digest. What is missing there or
//! has other bytes is a miss. A remote that does not answer is left alone for the rest of the run, with one warning.

mod address;
#[cfg(feature = "cloud")]
mod cloud;
mod fetch;
mod http;
mod push;
mod result;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use address::{Address, Scheme};
pub use push::Pushed;

use super::Store;
use super::actions::{Lookup, Record};
use crate::digest::Digest;

/// How many transfers are under way at a time.
const CONNECTIONS: usize = 8;

/// How long a remote may say nothing before it counts as dead, unless `ORANDFLOW_REMOTE_TIMEOUT` says otherwise, in seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a transfer is begun or taken up again.
const ATTEMPTS: usize = 3;

/// Length in bytes that what came of an action may have.
const LONGEST_RESULT: u64 = 64 << 20;

/// What went wrong with a request, in a few words, without the address.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    message: String,
    /// Whether it may go well when it is tried again.
    again: bool,
}

/// Bytes that come in.
struct Stream {
    /// Where they begin.
    from: u64,
    body: Box<dyn Read + Send>,
}

/// How objects come and go.
trait Transport: fmt::Debug + Send + Sync {
    /// Returns an object of about this size, from a byte on or from its beginning; `None` if there is none.
    fn get(&self, name: &str, from: u64, size: u64) -> Result<Option<Stream>, Fault>;

    /// Whether there is an object of this name, and of this length where it says how long it is: some servers keep the half of a
    /// transfer that broke off.
    fn has(&self, name: &str, size: u64) -> Result<bool, Fault>;

    /// Writes an object whole, or not at all.
    fn put(&self, name: &str, size: u64, content: &mut (dyn Read + Send)) -> Result<(), Fault>;
}

/// Where a blob is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// SHA-256 of the object that it is in, as 64 hex digits.
    object: String,
    /// The object's length in bytes.
    object_size: u64,
    /// Where it begins in the object.
    offset: u64,
    /// Its length.
    size: u64,
}

/// What is known of a remote cache by now.
#[derive(Debug, Default)]
struct Known {
    /// What it has for a key.
    records: HashMap<Digest, Option<Record>>,
    places: HashMap<Digest, Place>,
    /// The blobs of each object.
    objects: HashMap<String, Vec<Digest>>,
    /// Which result to ask for where a blob is.
    keys: HashMap<Digest, Digest>,
    /// Blobs that it does not have, or has wrong.
    broken: HashSet<Digest>,
}

/// A remote cache.
#[derive(Debug)]
pub struct Remote {
    transport: Box<dyn Transport>,
    address: Address,
    known: Mutex<Known>,
    dead: AtomicBool,
    said_broken: AtomicBool,
    warnings: Mutex<Vec<String>>,
}

impl Remote {
    /// Makes one. Nothing is asked of it yet.
    ///
    /// # Errors
    /// If this program cannot speak to such an address.
    pub fn new(address: Address) -> Result<Self, String> {
        let asked = std::env::var("ORANDFLOW_REMOTE_TIMEOUT").ok().and_then(|seconds| seconds.parse().ok());
        let asked = asked.and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok());
        let patience = asked.filter(|time| !time.is_zero()).unwrap_or(PATIENCE);
        let transport: Box<dyn Transport> = match address.scheme {
            Scheme::Http | Scheme::Https => Box::new(http::Http::new(address.clone(), patience)),
            #[cfg(feature = "cloud")]
            Scheme::S3 | Scheme::Gs | Scheme::Az => Box::new(cloud::Cloud::new(&address, patience)?),
            #[cfg(not(feature = "cloud"))]
            Scheme::S3 | Scheme::Gs | Scheme::Az => {
                return Err(format!(
                    "the remote cache {address} is a cloud store, which this program was built without; build it with \
                     `--features cloud`"
                ));
            }
        };
        let (known, warnings) = (Mutex::default(), Mutex::default());
        let (dead, said_broken) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { transport, address, known, dead, said_broken, warnings })
    }

    /// Returns its address, which shows no secret.
    pub fn address(&self) -> &Address {
        &self.address
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// Leaves it alone from now on, and says so once.
    fn give_up(&self, fault: &Fault) {
        if !self.dead.swap(true, Ordering::Relaxed) {
            self.warn(format!("the remote cache {}: {}; this goes on without it", self.address, fault.message));
        }
    }

    fn warn(&self, message: String) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(message);
    }

    /// Says once that something there is not what it should be.
    fn broken(&self, name: &str) {
        if !self.said_broken.swap(true, Ordering::Relaxed) {
            self.warn(format!(
                "the remote cache {} has lost or damaged `{name}`, and perhaps more; what is not whole there counts as missing",
                self.address
            ));
        }
    }

    /// Does something that may fail for a moment, a few times at most; gives the remote up when it fails for good.
    fn try_it<T>(&self, mut work: impl FnMut() -> Result<T, Fault>) -> Option<T> {
        for attempt in 1.. {
            if self.is_dead() {
                return None;
            }
            match work() {
                Ok(done) => return Some(done),
                Err(fault) if fault.again && attempt < ATTEMPTS => {
                    std::thread::sleep(Duration::from_millis(50 << attempt));
                }
                Err(fault) => {
                    self.give_up(&fault);
                    return None;
                }
            }
        }
        None
    }

    /// Returns what it has for a key. Its blobs are elsewhere.
    fn record(&self, key: Digest) -> Option<Record> {
        if let Some(known) = self.known().records.get(&key) {
            return known.clone();
        }
        let found = self.ask(key)?;
        let mut known = self.known();
        let record = found.map(|(record, places)| {
            for (digest, place) in places {
                known.objects.entry(place.object.clone()).or_default().push(digest);
                known.places.insert(digest, place);
            }
            Record { elsewhere: true, ..record }
        });
        known.records.insert(key, record.clone());
        record
    }

    /// Asks for what came of an action; the outer `None` if it does not answer.
    #[expect(clippy::type_complexity, reason = "a record and the places of its blobs, used once")]
    fn ask(&self, key: Digest) -> Option<Option<(Record, Vec<(Digest, Place)>)>> {
        let name = format!("ac/{key}");
        let bytes = self.try_it(|| {
            let Some(stream) = self.transport.get(&name, 0, LONGEST_RESULT)? else { return Ok(None) };
            let mut bytes = Vec::new();
            let read = stream.body.take(LONGEST_RESULT + 1).read_to_end(&mut bytes);
            read.map(|_| Some(bytes)).map_err(|error| lost(&error))
        })?;
        let Some(bytes) = bytes else { return Some(None) };
        let decoded = if bytes.len() as u64 > LONGEST_RESULT { None } else { result::decode(key, &bytes) };
        if decoded.is_none() {
            self.broken(&name);
        }
        Some(decoded)
    }
}

/// What is said of a transfer that breaks off.
fn lost(error: &std::io::Error) -> Fault {
    let time = matches!(error.kind(), std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock)
        || error.get_ref().is_some_and(|inner| matches!(inner.downcast_ref(), Some(ureq::Error::Timeout(_))));
    let message = if time { "it does not answer in time" } else { "the connection breaks off" };
    Fault { message: message.to_owned(), again: !time }
}

/// Does the same to many things, some at a time; the results in their order.
fn side_by_side<T: Sync, R: Send>(things: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let body = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(thing) = things.get(at) else { break };
            let result = work(thing);
            done.lock().unwrap_or_else(PoisonError::into_inner).insert(at, result);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..CONNECTIONS.min(things.len()) {
            scope.spawn(body);
        }
        body();
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}

impl Store {
    /// Reads through a remote cache from now on. Only the first one counts.
    pub fn attach(&self, remote: Remote) {
        let _ = self.0.remote.set(remote);
    }

    /// Returns the remote cache, if there is one.
    pub fn remote(&self) -> Option<&Remote> {
        self.0.remote.get()
    }

    /// Whether there is a remote cache that answers.
    pub fn has_remote(&self) -> bool {
        self.remote().is_some_and(|remote| !remote.is_dead())
    }

    /// Takes the warnings about the remote cache that have come up since the last call.
    pub fn take_warnings(&self) -> Vec<String> {
        let take =
            |remote: &Remote| std::mem::take(&mut *remote.warnings.lock().unwrap_or_else(PoisonError::into_inner));
        self.remote().map(take).unwrap_or_default()
    }

    /// As [`Self::lookup_here`], and where there is no result here, in the remote cache: such a record says that its blobs are
    /// elsewhere.
    pub fn lookup(&self, key: Digest) -> Lookup {
        let here = self.lookup_here(key);
        let Some(remote) = self.remote() else { return here };
        if let Lookup::Hit(record) = &here {
            if record.elsewhere {
                remote.known().keys.extend(record.blobs.iter().map(|(digest, _)| (*digest, key)));
            }
            return here;
        }
        let Some(record) = remote.record(key) else { return here };
        let known = remote.known();
        for (digest, _) in record.blobs.iter().filter(|(digest, _)| !known.broken.contains(digest)) {
            self.not_gone(*digest);
        }
        drop(known);
        match self.missing(&record.blobs) {
            None => Lookup::Hit(Box::new(Record { elsewhere: false, ..record })),
            Some(_) if remote.is_dead() => here,
            Some(_) if !self.any_gone(&record.blobs) => Lookup::Hit(Box::new(record)),
            Some(digest) if matches!(here, Lookup::Miss(None)) => Lookup::Lost(digest),
            Some(_) => here,
        }
    }
}
