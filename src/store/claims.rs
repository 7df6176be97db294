//! Claims: who computes what now, so that two processes that need the same result compute it once. Nobody who reads results
//! looks at them, and a wrong one costs time, never a result.
//!
//! A claim on an action is a file `claims/KEY.GENERATION` that names its owner. It is made under a temporary name and moved to
//! a name that must be free, which network file systems do in one step as well; no file is ever locked. A claim whose owner is
//! dead is not removed, which two others could do at once and so remove each other's: it is outbid by the next generation,
//! whose name only one of them gets. Letting go removes all generations up to one's own, the oldest first.
//!
//! Nearly always nobody else wants the action. So generation 0 is asked for by its name. The folder, which has a file for each action
//! that is under way anywhere, is listed only where the owner of that is dead, and a later one may be another's.
//!
//! An owner on this machine is looked up by process number and start time. One elsewhere beats: it writes a new number to a
//! file of its folder now and then, and counts as dead when whoever waits has seen the same number for long enough by its own
//! steady clock. No clock of one machine is ever compared with that of another.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::owner::Owner;
use super::{Inner, Store};
use crate::digest::Digest;

/// How often a process that holds claims beats.
const BEAT: Duration = Duration::from_secs(3);

/// An owner on another machine whose beat has been the same for so long is dead, unless `ORANDFLOW_DEAD_AFTER` says otherwise,
/// in seconds: ten beats. A file that is opened is asked for anew by network file systems, whatever they keep in between.
const DEAD_AFTER: Duration = Duration::from_secs(30);

/// How often a claim is tried again when others try at the same moment.
const ATTEMPTS: u32 = 8;

/// The name of the file in an owner's folder that changes while it lives.
pub(super) const BEAT_FILE: &str = "beat";

/// What came of asking for a claim.
#[derive(Debug)]
pub enum Claim {
    /// It is held until the value goes.
    Mine(Held),
    /// This process, which lives as far as can be told, holds it.
    Theirs(Owner),
}

/// A claim that is held; it is let go when the value goes.
#[derive(Debug)]
pub struct Held {
    store: Store,
    key: Digest,
    generation: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        let bids = match self.generation {
            0 => vec![(0, self.store.bid(self.key, 0))],
            _ => self.store.bids(self.key),
        };
        // A later one is that of somebody who took this process for dead.
        for (_, path) in bids.into_iter().filter(|(generation, _)| *generation <= self.generation) {
            // Whoever tidies up at the same time may have been faster.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// What an owner's beat was, `None` if there was none, and since when it is that.
type Seen = (Option<Vec<u8>>, Instant);

/// When owners elsewhere were last seen to beat.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: Mutex<HashMap<Owner, Seen>>,
}

/// Whether the thread that beats has been started.
#[derive(Debug, Default)]
pub(super) struct Heart {
    started: Mutex<bool>,
}

impl Store {
    fn claims(&self) -> PathBuf {
        self.bucket().join("claims")
    }

    /// Asks for the claim on an action. Whoever gets it must look the action up again before working: another process may have
    /// finished it a moment ago.
    ///
    /// # Errors
    /// If the claim cannot be written; then the work may be done without one.
    pub fn claim(&self, key: Digest) -> std::io::Result<Claim> {
        self.beat();
        let mut holder = Owner::this().clone();
        for attempt in 0..ATTEMPTS {
            match self.living(&[(0, self.bid(key, 0))]) {
                Some(Some(owner)) => return Ok(Claim::Theirs(owner)),
                Some(None) if self.place(key, 0)? => return Ok(self.mine(key, 0)),
                // Somebody was faster.
                Some(None) => continue,
                None => {}
            }
            let bids = self.bids(key);
            match self.living(&bids) {
                Some(Some(owner)) => return Ok(Claim::Theirs(owner)),
                // One was let go while it was looked at.
                Some(None) => continue,
                None => {}
            }
            let generation = bids.last().map_or(0, |(generation, _)| generation + 1);
            if !self.place(key, generation)? {
                continue;
            }
            let path = self.bid(key, generation);
            let others: Vec<_> = self.bids(key).into_iter().filter(|(_, other)| *other != path).collect();
            match self.living(&others) {
                None => return Ok(self.mine(key, generation)),
                Some(other) => {
                    // Somebody who had seen other claims got another generation at the same moment: both step back.
                    let _ = std::fs::remove_file(&path);
                    holder = other.unwrap_or(holder);
                    let pause = Owner::this().process() % 7 + attempt + 1;
                    std::thread::sleep(Duration::from_millis(pause.into()));
                }
            }
        }
        Ok(Claim::Theirs(holder))
    }

    /// Returns where the claim on an action of a generation lies.
    fn bid(&self, key: Digest, generation: u64) -> PathBuf {
        self.claims().join(format!("{}.{generation}", key.hex()))
    }

    fn mine(&self, key: Digest, generation: u64) -> Claim {
        Claim::Mine(Held { store: self.clone(), key, generation })
    }

    /// Puts this process's claim where none may be; says whether there was none.
    fn place(&self, key: Digest, generation: u64) -> std::io::Result<bool> {
        let mut file = self.temporary()?;
        std::io::Write::write_all(&mut file, Owner::this().to_string().as_bytes())?;
        match file.persist_noclobber(self.bid(key, generation)) {
            Ok(_) => Ok(true),
            Err(error) if error.error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error.error),
        }
    }

    /// Returns the claims on an action with their generations, the oldest first.
    fn bids(&self, key: Digest) -> Vec<(u64, PathBuf)> {
        let hex = key.hex();
        let mut bids: Vec<(u64, PathBuf)> = self
            .claimed()
            .into_iter()
            .filter(|(other, _, _)| *other == hex)
            .map(|(_, generation, path)| (generation, path))
            .collect();
        bids.sort_unstable();
        bids
    }

    /// Returns all claims: key, generation and path.
    fn claimed(&self) -> Vec<(String, u64, PathBuf)> {
        let Ok(entries) = std::fs::read_dir(self.claims()) else { return Vec::new() };
        let parse = |path: PathBuf| {
            let (key, generation) = path.file_name()?.to_str()?.split_once('.')?;
            Some((key.to_owned(), generation.parse().ok()?, path.clone()))
        };
        entries.filter_map(|entry| parse(entry.ok()?.path())).collect()
    }

    /// Returns the first owner of these claims that lives; `Some(None)` if a claim is gone by now.
    fn living(&self, bids: &[(u64, PathBuf)]) -> Option<Option<Owner>> {
        bids.iter().find_map(|(_, path)| match std::fs::read_to_string(path) {
            Ok(name) => {
                let owner: Owner = name.parse().ok()?;
                self.lives(&owner).then_some(Some(owner))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Some(None),
            // Nobody can say whose it is.
            Err(_) => None,
        })
    }

    /// Whether an owner lives, as far as can be told from here.
    pub fn lives(&self, owner: &Owner) -> bool {
        if let Some(lives) = owner.lives() {
            return lives;
        }
        let beat = std::fs::read(self.folder_of(owner).join(BEAT_FILE)).ok();
        let mut seen = self.watch().seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, since) = seen.entry(owner.clone()).or_insert_with(|| (beat.clone(), Instant::now()));
        if *known != beat {
            (*known, *since) = (beat, Instant::now());
        }
        since.elapsed() < dead_after()
    }

    /// Starts to beat, once.
    fn beat(&self) {
        let mut started = self.heart().started.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *started, true) {
            return;
        }
        let path = self.own().join(BEAT_FILE);
        beat_once(&path);
        let store: Weak<Inner> = self.downgrade();
        let body = move || {
            while store.upgrade().is_some_and(|store| Arc::strong_count(&store) > 1) {
                beat_once(&path);
                std::thread::sleep(BEAT);
            }
        };
        // Without the thread others elsewhere take this process for dead after a while, and do its work again.
        let _ = std::thread::Builder::new().name("beat".to_owned()).spawn(body);
    }

    /// Lets go of the claims of processes that certainly are gone.
    pub(super) fn tidy_claims(&self) {
        let dead = |path: &Path| {
            let name = std::fs::read_to_string(path).ok()?;
            (name.parse::<Owner>().ok()?.lives() == Some(false)).then_some(())
        };
        for (key, generation, path) in self.claimed() {
            // By way of a claim, as somebody may be about to take it over.
            if let (Some(()), Ok(key)) = (dead(&path), key.parse())
                && let Ok(Claim::Mine(mut held)) = self.claim(key)
            {
                // One that died while it let go may have left a later generation alone.
                held.generation = held.generation.max(generation);
            }
        }
    }
}

fn beat_once(path: &Path) {
    static BEATS: AtomicU64 = AtomicU64::new(0);
    let beat = BEATS.fetch_add(1, Ordering::Relaxed);
    // Too few beats at worst cost others the work that this process does.
    let _ = std::fs::write(path, beat.to_string());
}

fn dead_after() -> Duration {
    let asked = std::env::var("ORANDFLOW_DEAD_AFTER").ok().and_then(|seconds| seconds.parse().ok());
    asked.and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(DEAD_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(store: &Store) -> usize {
        store.claimed().len()
    }

    #[test]
    fn a_claim_is_held_once_and_let_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path()).expect("a cache");
        let key = Digest::of(b"key");
        let first = store.claim(key).expect("claimed");
        assert!(matches!(&first, Claim::Mine(_)));
        assert!(matches!(store.claim(key).expect("asked"), Claim::Theirs(owner) if owner == *Owner::this()));
        assert!(matches!(store.claim(Digest::of(b"other")).expect("claimed"), Claim::Mine(_)));
        drop(first);
        assert_eq!(count(&store), 0);
        assert!(matches!(store.claim(key).expect("claimed again"), Claim::Mine(_)));
    }

    #[test]
    fn the_claim_of_a_dead_process_is_taken_over_by_one_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path()).expect("a cache");
        let key = Digest::of(b"key");
        let this = Owner::this().to_string();
        let (rest, _) = this.rsplit_once('.').expect("four parts");
        std::fs::write(store.claims().join(format!("{}.0", key.hex())), format!("{rest}.1")).expect("written");
        let claims: Vec<Claim> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| store.claim(key).expect("asked"))).collect();
            threads.into_iter().map(|thread| thread.join().expect("it ends")).collect()
        });
        let mine = claims.iter().filter(|claim| matches!(claim, Claim::Mine(_))).count();
        assert!(mine <= 1, "{claims:?}");
        drop(claims);
        assert!(matches!(store.claim(key).expect("asked"), Claim::Mine(_)));
        assert_eq!(count(&store), 0, "the dead one's claim went as well");
    }

    #[test]
    fn letting_go_leaves_later_claims_and_tidying_removes_those_of_the_dead() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path()).expect("a cache");
        let key = Digest::of(b"key");
        let Claim::Mine(held) = store.claim(key).expect("claimed") else { panic!("nobody else wants it") };
        let this = Owner::this().to_string();
        // Somebody took this process for dead.
        std::fs::write(store.bid(key, 1), &this).expect("written");
        drop(held);
        assert_eq!(store.bids(key), [(1, store.bid(key, 1))]);
        store.tidy_claims();
        assert_eq!(count(&store), 1, "its owner lives");
        let (rest, _) = this.rsplit_once('.').expect("four parts");
        std::fs::write(store.bid(key, 1), format!("{rest}.1")).expect("written");
        store.tidy_claims();
        assert_eq!(count(&store), 0);
    }

    #[test]
    fn an_owner_elsewhere_lives_while_it_beats() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path()).expect("a cache");
        let owner: Owner = "elsewhere.place.1.1".parse().expect("a name");
        assert!(store.lives(&owner), "nobody is dead who was seen for the first time");
        let long_ago = Instant::now().checked_sub(DEAD_AFTER).expect("the machine has been up for a while");
        store.watch().seen.lock().expect("not poisoned").insert(owner.clone(), (None, long_ago));
        assert!(!store.lives(&owner));
        std::fs::create_dir(store.folder_of(&owner)).expect("made");
        std::fs::write(store.folder_of(&owner).join(BEAT_FILE), "7").expect("written");
        assert!(store.lives(&owner), "it beats");
    }
}
