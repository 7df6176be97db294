//! Writes results of this cache to a remote one: objects first, what came of the action last. Small blobs go in packs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use sha2::{Digest as _, Sha256};

use super::{Place, Remote, result, side_by_side};
use crate::digest::Digest;
use crate::store::Store;
use crate::store::actions::{Lookup, Record};

/// Blobs up to this length in bytes go into packs.
const SMALL: u64 = 256 << 10;

/// Length of a pack in bytes, about. Which pack a blob goes into follows from its digest, so that one changed blob changes one pack.
const PACK: u64 = 1 << 20;

/// What has been written to a remote cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Results and shards.
    pub results: usize,
    /// Objects.
    pub objects: usize,
    /// Their size in bytes.
    pub bytes: u64,
    /// Results of which the remote cache has another one under the same key, which stays.
    pub others: usize,
}

impl std::ops::AddAssign for Pushed {
    fn add_assign(&mut self, other: Self) {
        self.results += other.results;
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.others += other.others;
    }
}

/// One object to write.
struct Object {
    name: String,
    size: u64,
    content: Content,
}

enum Content {
    /// A blob of its own.
    Blob(Digest),
    Pack(Vec<u8>),
}

/// A result with what it consists of.
struct Result {
    key: Digest,
    record: Record,
    blobs: Vec<Digest>,
}

impl Store {
    /// Writes a result to the remote cache, unless it is there. One that is not whole here is left alone. `every` looks whether
    /// each object of a result that is there is there as well.
    ///
    /// # Errors
    /// If something cannot be read here.
    pub fn push(&self, key: Digest, every: bool) -> std::io::Result<Pushed> {
        let mut pushed = Pushed::default();
        let Some(remote) = self.remote().filter(|remote| !remote.is_dead()) else { return Ok(pushed) };
        let Lookup::Hit(record) = self.lookup_here(key) else { return Ok(pushed) };
        if record.elsewhere {
            return Ok(pushed);
        }
        if let Some(theirs) = remote.record(key)
            && !theirs.blobs.iter().any(|(digest, _)| remote.known().broken.contains(digest))
        {
            if theirs.output != record.output {
                return Ok(Pushed { others: 1, ..pushed });
            }
            if !every {
                return Ok(pushed);
            }
        }
        // Shards first, then what they are part of.
        let shards = side_by_side(&record.shards, |key| match self.lookup_here(*key) {
            Lookup::Hit(shard) if !shard.elsewhere => self.with_parts(*key, *shard),
            _ => None,
        });
        let mut results: Vec<Result> = shards.into_iter().flatten().collect();
        results.extend(self.with_parts(key, *record));
        let blobs: BTreeSet<Digest> = results.iter().flat_map(|result| result.blobs.iter().copied()).collect();
        let (objects, places) = self.packed(&blobs)?;
        let written = side_by_side(&objects, |object| self.put_object(remote, object));
        for (object, written) in objects.iter().zip(written) {
            match written? {
                Some(true) => {
                    pushed.objects += 1;
                    pushed.bytes += object.size;
                }
                Some(false) => {}
                None => return Ok(pushed),
            }
        }
        let (whole, shards) = results.split_last().map_or((None, &results[..]), |(whole, rest)| (Some(whole), rest));
        let put = |result: &Result| self.put_result(remote, result, &places);
        let written = side_by_side(shards, put).into_iter().chain(whole.map(put));
        pushed.results = written.filter(|written| *written).count();
        Ok(pushed)
    }

    /// Returns a result with its action and the listing that the action names, if its action is here.
    fn with_parts(&self, key: Digest, record: Record) -> Option<Result> {
        let listing = self.action_listing(key);
        let blobs: BTreeSet<Digest> =
            record.blobs.iter().map(|(digest, _)| *digest).chain([key]).chain(listing).collect();
        self.blob_path(key).exists().then(|| Result { key, record, blobs: blobs.into_iter().collect() })
    }

    /// Puts small blobs into packs; returns the objects, and where each blob is.
    fn packed(&self, blobs: &BTreeSet<Digest>) -> std::io::Result<(Vec<Object>, BTreeMap<Digest, Place>)> {
        let mut sizes = Vec::new();
        for digest in blobs {
            sizes.push((*digest, fs_err::metadata(self.blob_path(*digest))?.len()));
        }
        let small: u64 = sizes.iter().map(|(_, size)| *size).filter(|size| *size <= SMALL).sum();
        let packs = small.div_ceil(PACK).max(1).next_power_of_two();
        let mut groups: BTreeMap<u64, Vec<Digest>> = BTreeMap::new();
        let mut alone = Vec::new();
        for (digest, size) in sizes {
            if size <= SMALL {
                groups.entry(digest.to_u64() & (packs - 1)).or_default().push(digest);
            } else {
                alone.push((digest, size));
            }
        }
        let (mut objects, mut places) = (Vec::new(), BTreeMap::new());
        for group in groups.into_values() {
            let (mut bytes, mut pieces) = (Vec::new(), Vec::new());
            for digest in group {
                let blob = self.get_here(digest).map_err(std::io::Error::other)?;
                pieces.push((digest, bytes.len() as u64, blob.len() as u64));
                bytes.extend_from_slice(&blob);
            }
            let (name, object_size) = (hex(&Sha256::digest(&bytes)), bytes.len() as u64);
            for (digest, offset, size) in pieces {
                places.insert(digest, Place { object: name.clone(), object_size, offset, size });
            }
            objects.push(Object { name, size: object_size, content: Content::Pack(bytes) });
        }
        for ((digest, size), name) in alone.iter().zip(side_by_side(&alone, |(digest, _)| self.sha256(*digest))) {
            let name = name?;
            places.insert(*digest, Place { object: name.clone(), object_size: *size, offset: 0, size: *size });
            objects.push(Object { name, size: *size, content: Content::Blob(*digest) });
        }
        Ok((objects, places))
    }

    /// Returns the SHA-256 of a blob, whose own digest is verified on the way.
    fn sha256(&self, digest: Digest) -> std::io::Result<String> {
        let mut file = fs_err::File::open(self.blob_path(digest))?;
        let (mut own, mut sha256, mut buffer) = (blake3::Hasher::new(), Sha256::new(), vec![0; 1 << 18]);
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    own.update(&buffer[..count]);
                    sha256.update(&buffer[..count]);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if Digest::from(own.finalize()) == digest {
            return Ok(hex(&sha256.finalize()));
        }
        let message = format!("blob {} is damaged; `orandflow cache verify --repair` removes it", digest.short());
        Err(std::io::Error::other(message))
    }

    /// Writes an object that is not there yet, and says whether it was; `None` if the remote has been given up.
    fn put_object(&self, remote: &Remote, object: &Object) -> std::io::Result<Option<bool>> {
        let name = format!("cas/{}", object.name);
        let broken = {
            let known = remote.known();
            known.objects.get(&object.name).into_iter().flatten().any(|digest| known.broken.contains(digest))
        };
        match remote.try_it(|| remote.transport.has(&name, object.size)) {
            None => return Ok(None),
            Some(true) if !broken => return Ok(Some(false)),
            Some(_) => {}
        }
        let done = match &object.content {
            Content::Pack(bytes) => remote.try_it(|| remote.transport.put(&name, object.size, &mut &bytes[..])),
            Content::Blob(digest) => {
                let path = self.blob_path(*digest);
                // It was there a moment ago.
                fs_err::File::open(&path)?;
                remote.try_it(|| {
                    let file = std::fs::File::open(&path);
                    let mut file = file.map_err(|error| super::Fault { message: error.to_string(), again: false })?;
                    remote.transport.put(&name, object.size, &mut file)
                })
            }
        };
        if done.is_some() {
            let mut known = remote.known();
            let Some(blobs) = known.objects.get(&object.name).cloned() else { return Ok(Some(true)) };
            for digest in blobs {
                known.broken.remove(&digest);
            }
        }
        Ok(done.map(|()| true))
    }

    /// Writes what came of an action, unless it is there; says whether it did.
    fn put_result(&self, remote: &Remote, result: &Result, places: &BTreeMap<Digest, Place>) -> bool {
        let places: Vec<(Digest, Place)> =
            result.blobs.iter().filter_map(|digest| Some((*digest, places.get(digest)?.clone()))).collect();
        if remote.record(result.key).is_some() {
            let known = remote.known();
            if places.iter().all(|(digest, place)| known.places.get(digest) == Some(place)) {
                return false;
            }
        }
        let bytes = result::encode(result.key, &result.record, &places);
        let name = format!("ac/{}", result.key);
        let done = remote.try_it(|| remote.transport.put(&name, bytes.len() as u64, &mut &bytes[..])).is_some();
        if done {
            // It is asked anew when somebody wants to know.
            remote.known().records.remove(&result.key);
        }
        done
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
