//! Collection: which results go when the cache has to be smaller, and what goes with them. Looks at records, never at what they
//! mean.
//!
//! A result is as old as its last use: the modification time of its record, which a run renews. A shard is as young as the
//! youngest whole result that it is part of. Records go before their blobs, so that whoever reads meanwhile finds nothing
//! instead of half. What a run that is under way may need stays, as does what is pinned or asked for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use super::Store;
use super::actions::{Lookup, Record};
use super::files::{self, Files};
use super::owner::Owner;
use crate::digest::Digest;

/// A record's time is renewed when it is older than this, and a run may have used what is older than its start by as much.
const RENEWED: Duration = Duration::from_secs(3600);

/// So many folders of runs are kept, however old.
const RUNS: usize = 100;

/// So many lists of files are kept, those that were used last.
const LISTS: usize = 32;

/// The name of the file in an owner's folder that says that it runs a pipeline, and since when.
pub(super) const RUN_FILE: &str = "run";

/// What may stay.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Bytes in the cache, at most.
    pub size: Option<u64>,
    /// Time since the last use, at most.
    pub age: Option<Duration>,
    /// Names of pipelines whose present results stay.
    pub keep: BTreeSet<String>,
}

/// What has gone, or would go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Results and shards.
    pub results: usize,
    /// Blobs.
    pub blobs: usize,
    /// Their size in bytes.
    pub bytes: u64,
    /// Checkpoints' folders, folders of runs, lists of files, and remembered files that are gone.
    pub others: usize,
    /// The size of all blobs that stay, in bytes.
    pub left: u64,
}

/// Why nothing can be collected.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The cache cannot be listed, or something cannot be removed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A record is closed to this program, so that nobody here can say which blobs it needs.
    #[error("the record {} {why}", path.display())]
    Closed {
        /// Where it lies.
        path: PathBuf,
        /// Why it is closed.
        why: String,
    },
}

/// One record while it is decided.
struct Candidate {
    key: Digest,
    whole: bool,
    /// When it was last used.
    time: SystemTime,
    /// The time of its own record.
    own: SystemTime,
    stays: bool,
    /// Everything that goes with it: its blobs, its action and the listing that the action names.
    blobs: Vec<Digest>,
}

impl Store {
    /// Says that this process runs a pipeline from now on, so that nothing it may need is collected. Where a bundle is taken in,
    /// or something of that sort, it has no name.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn run_begins(&self, pipeline: &str) -> std::io::Result<()> {
        self.in_own(|own| std::fs::write(own.join(RUN_FILE), pipeline))?;
        self.0.runs.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Hears that a result was used.
    pub fn used(&self, key: Digest) {
        let path = self.record_path(key);
        if !renew(&path)
            && let Ok(bytes) = std::fs::read(&path)
        {
            // Only its owner may set the time of a file; somebody else writes it once more. A cache that may only be read cannot
            // be collected from here either.
            let _ = self.write(&path, &bytes, false);
        }
    }

    /// Hears that a result was found. A run counts on it from then on, long before it has done with it; whoever only looks does
    /// not use it.
    pub(crate) fn found(&self, key: Digest) {
        if self.0.runs.load(Ordering::Relaxed) {
            self.used(key);
        }
    }

    /// Returns the runs that are under way: when each began, and the pipeline that it runs.
    fn runs(&self) -> Vec<(SystemTime, String)> {
        let now = SystemTime::now();
        let entries = std::fs::read_dir(self.bucket().join("tmp")).into_iter().flatten().filter_map(Result::ok);
        let run = |entry: std::fs::DirEntry| {
            let owner: Owner = entry.file_name().to_str()?.parse().ok()?;
            let file = entry.path().join(RUN_FILE);
            let begun = std::fs::metadata(&file).and_then(|metadata| metadata.modified()).ok()?;
            // After a clock was set back nobody can say what is older than the run.
            let begun = if begun > now { SystemTime::UNIX_EPOCH } else { begun };
            let lives = owner != *Owner::this() && self.lives(&owner);
            lives.then(|| (begun, std::fs::read_to_string(&file).unwrap_or_default()))
        };
        entries.filter_map(run).collect()
    }

    /// Returns the time from which on everything may be of use to a run that is under way: when the oldest one began.
    fn oldest_run(&self) -> Option<SystemTime> {
        self.runs().into_iter().map(|(begun, _)| begun).min()
    }

    /// Removes results until the limits hold, and blobs that no result needs. With `dry` it only says what would go.
    ///
    /// # Errors
    /// If the cache cannot be listed, holds records that are closed to this program, or something cannot be removed.
    pub fn collect(&self, limits: &Limits, dry: bool) -> Result<Collected, CollectError> {
        let now = SystemTime::now();
        let run = self.oldest_run();
        let in_use = |time: SystemTime, run: Option<SystemTime>| run.is_some_and(|run| time + RENEWED >= run);
        let sizes: HashMap<Digest, u64> = self.blobs()?.into_iter().collect();
        let records = self.records()?;
        if let Some((path, why)) = records.closed.into_iter().next() {
            return Err(CollectError::Closed { path, why });
        }
        let mut candidates = self.candidates(records.readable, &self.kept(limits)?);
        for candidate in &mut candidates {
            candidate.stays |= in_use(candidate.time, run);
        }
        // The oldest first; a whole result before its shards, which are as old.
        candidates.sort_by_key(|candidate| (candidate.time, !candidate.whole, candidate.key));

        let mut needed: HashMap<Digest, usize> = HashMap::new();
        for digest in candidates.iter().flat_map(|candidate| &candidate.blobs).copied().chain(self.last_keys()) {
            *needed.entry(digest).or_default() += 1;
        }
        let size = |digest: &Digest| sizes.get(digest).copied().unwrap_or(0);
        let mut left: u64 = needed.keys().map(size).sum();
        let mut gone = Vec::new();
        for candidate in candidates.iter().filter(|candidate| !candidate.stays) {
            let age = now.duration_since(candidate.time).unwrap_or_default();
            let too_old = limits.age.is_some_and(|most| age > most);
            let too_much = limits.size.is_some_and(|most| left > most);
            if !(too_old || too_much) {
                continue;
            }
            gone.push(candidate);
            for digest in &candidate.blobs {
                let count = needed.entry(*digest).or_default();
                *count = count.saturating_sub(1);
                if *count == 0 {
                    left -= size(digest);
                }
            }
        }
        let mut collected = Collected { results: gone.len(), ..Collected::default() };
        for candidate in gone.iter().filter(|_| !dry) {
            if self.record_time(candidate.key).is_some_and(|time| time != candidate.own) {
                // A run has begun to count on it since it was looked at, or somebody has pinned it.
                candidate.blobs.iter().for_each(|digest| *needed.entry(*digest).or_default() += 1);
                collected.results -= 1;
            } else {
                remove(self.record_path(candidate.key))?;
            }
        }
        // One may have begun meanwhile, and found the bytes of what it is making.
        let run = [run, self.oldest_run()].into_iter().flatten().min();
        for (digest, size) in &sizes {
            let path = self.blob_path(*digest);
            let wanted = needed.get(digest).is_some_and(|count| *count > 0);
            let modified = std::fs::metadata(&path).and_then(|metadata| metadata.modified());
            if wanted || modified.is_ok_and(|time| in_use(time, run)) {
                collected.left += size;
                continue;
            }
            collected.blobs += 1;
            collected.bytes += size;
            if !dry {
                remove(path)?;
            }
        }
        collected.others = self.tidy_others(limits, now, run, dry)?;
        Ok(collected)
    }

    /// Returns the keys that stay whatever the limits say: what is pinned, asked for, or what runs under way will find most of
    /// their shards in.
    fn kept(&self, limits: &Limits) -> std::io::Result<BTreeSet<Digest>> {
        let mut kept: BTreeSet<Digest> = self.pins()?.into_keys().collect();
        let mut pipelines: BTreeSet<String> = self.runs().into_iter().map(|(_, pipeline)| pipeline).collect();
        pipelines.remove("");
        pipelines.extend(limits.keep.iter().cloned());
        kept.extend(self.lasts().into_iter().filter(|last| pipelines.contains(&last.pipeline)).map(|last| last.key));
        Ok(kept)
    }

    fn last_keys(&self) -> Vec<Digest> {
        // Their actions are small, and say why a stage has to run again when its result has gone.
        self.lasts().into_iter().map(|last| last.key).collect()
    }

    /// Returns the time of a record, if there is one.
    fn record_time(&self, key: Digest) -> Option<SystemTime> {
        std::fs::metadata(self.record_path(key)).and_then(|metadata| metadata.modified()).ok()
    }

    fn candidates(&self, records: Vec<(Digest, Record)>, kept: &BTreeSet<Digest>) -> Vec<Candidate> {
        // A record that has gone meanwhile is nobody's loss.
        let time_of = |key: Digest| self.record_time(key).unwrap_or(SystemTime::UNIX_EPOCH);
        // Of every blob of whole results: when it was last used, and whether it stays.
        let mut users: HashMap<Digest, (SystemTime, bool)> = HashMap::new();
        for (key, record) in records.iter().filter(|(_, record)| record.output.is_some()) {
            let (time, stays) = (time_of(*key), kept.contains(key));
            for (digest, _) in &record.blobs {
                let user = users.entry(*digest).or_insert((time, false));
                *user = (user.0.max(time), user.1 || stays);
            }
        }
        let candidate = |(key, record): (Digest, Record)| {
            let user = record.shard.as_ref().and_then(|shard| users.get(&shard.digest)).copied();
            let (time, stays) = user.unwrap_or((SystemTime::UNIX_EPOCH, false));
            let listing = self.action_listing(key);
            let blobs: BTreeSet<Digest> =
                record.blobs.iter().map(|(digest, _)| *digest).chain([key]).chain(listing).collect();
            let own = time_of(key);
            Candidate {
                key,
                whole: record.output.is_some(),
                time: time.max(own),
                own,
                stays: stays || kept.contains(&key),
                blobs: blobs.into_iter().collect(),
            }
        };
        records.into_iter().map(candidate).collect()
    }

    /// Returns the blob that the action of a key names as the listing of its items.
    pub(super) fn action_listing(&self, key: Digest) -> Option<Digest> {
        listing_of(&std::fs::read(self.blob_path(key)).ok()?)
    }

    /// Removes old checkpoints, folders of runs, lists of files, and remembered files that are gone; returns how many.
    fn tidy_others(
        &self,
        limits: &Limits,
        now: SystemTime,
        run: Option<SystemTime>,
        dry: bool,
    ) -> std::io::Result<usize> {
        let modified = |path: &PathBuf| std::fs::metadata(path).and_then(|metadata| metadata.modified()).unwrap_or(now);
        let too_old = |path: &PathBuf| {
            limits.age.is_some_and(|most| now.duration_since(modified(path)).unwrap_or_default() > most)
        };
        let mut gone: Vec<PathBuf> = Vec::new();
        for path in list(self.bucket().join("checkpoints")) {
            let key: Option<Digest> =
                path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            let done = key.is_some_and(|key| matches!(self.lookup_here(key), Lookup::Hit(_)));
            if run.is_none() && (done || too_old(&path)) {
                gone.push(path);
            }
        }
        let mut runs = list(self.root().join("runs"));
        // Their names begin with the time.
        runs.sort_unstable_by(|one, other| other.cmp(one));
        let old = runs.into_iter().enumerate().filter(|(place, path)| *place >= RUNS || too_old(path));
        gone.extend(old.map(|(_, path)| path).filter(|path| run.is_none_or(|run| modified(path) < run)));
        let mut lists = list(self.bucket().join(files::LISTS));
        lists.sort_unstable_by_key(|path| std::cmp::Reverse(modified(path)));
        let old: Vec<PathBuf> = lists
            .into_iter()
            .enumerate()
            .filter(|(place, path)| *place >= LISTS || too_old(path))
            .map(|(_, path)| path)
            .collect();
        if !dry {
            // Whoever tidies up at the same time may have been faster.
            for path in &gone {
                let _ = std::fs::remove_dir_all(path);
            }
            for path in &old {
                let _ = std::fs::remove_file(path);
            }
        }
        Ok(gone.len() + old.len() + Files::forget_missing(self, dry)?)
    }

    /// Pins a result: it is never collected. `about` says what it is, for people.
    ///
    /// # Errors
    /// If that cannot be written; the message names the path.
    pub fn pin(&self, key: Digest, about: &str) -> std::io::Result<()> {
        self.write(&self.bucket().join("pins").join(key.hex()), about.as_bytes(), true)?;
        // Whoever collects just now and has not seen the pin sees this.
        if !set_now(&self.record_path(key)) {
            self.used(key);
        }
        Ok(())
    }

    /// Takes a pin away, and says whether there was one.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn unpin(&self, key: Digest) -> std::io::Result<bool> {
        match fs_err::remove_file(self.bucket().join("pins").join(key.hex())) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Returns all pinned keys with what was said about them.
    ///
    /// # Errors
    /// If a pin cannot be read.
    pub fn pins(&self) -> std::io::Result<BTreeMap<Digest, String>> {
        let mut pins = BTreeMap::new();
        for path in list(self.bucket().join("pins")) {
            if let Some(key) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()) {
                pins.insert(key, fs_err::read_to_string(&path)?);
            }
        }
        Ok(pins)
    }
}

/// Returns the blob that an action, as it is kept, names as the listing of its items.
pub(super) fn listing_of(action: &[u8]) -> Option<Digest> {
    #[derive(serde::Deserialize)]
    struct Items {
        items: Option<Digest>,
    }
    serde_json::from_slice::<Items>(action).ok()?.items
}

/// Sets the time of a file to now, if it is not young; says whether it is young then.
pub(super) fn renew(path: &Path) -> bool {
    let young = |time: SystemTime| SystemTime::now().duration_since(time).is_ok_and(|age| age < RENEWED);
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).is_ok_and(young) || set_now(path)
}

/// Sets the time of a file to now, and says whether that could be done.
fn set_now(path: &Path) -> bool {
    std::fs::File::open(path).and_then(|file| file.set_modified(SystemTime::now())).is_ok()
}

fn list(folder: PathBuf) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| entry.path()).collect()
}

/// Removes a file; one that has gone already is no failure.
fn remove(path: PathBuf) -> std::io::Result<()> {
    match fs_err::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
