//! Brings blobs of a remote cache here. Every byte is verified before anybody sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};

use super::{ATTEMPTS, Place, Remote, lost, side_by_side};
use crate::digest::Digest;
use crate::store::Store;
use crate::store::actions::{Lookup, Record};
use crate::store::collect::listing_of;

/// Length in bytes that an object may have to be unpacked in memory: twice what this program packs.
const LONGEST_PACK: u64 = 16 << 20;

/// What came of a transfer.
enum Got {
    Whole,
    /// It is not there, or not of its length.
    Broken,
    /// The remote has been given up.
    Dead,
}

impl Store {
    /// Brings blobs here that are not, as far as the remote cache has them; says whether all of them are here now.
    ///
    /// # Errors
    /// If one cannot be written here; the message names the path.
    pub fn fetch(&self, blobs: &[(Digest, u64)]) -> std::io::Result<bool> {
        let missing: BTreeSet<Digest> =
            blobs.iter().filter(|(digest, size)| !self.has(*digest, *size)).map(|(digest, _)| *digest).collect();
        if missing.is_empty() {
            return Ok(true);
        }
        let Some(remote) = self.remote() else { return Ok(false) };
        let arrived = self.fetch_digests(remote, &missing)?;
        for digest in missing.difference(&arrived) {
            self.set_gone(*digest);
        }
        Ok(missing.is_subset(&arrived))
    }

    /// Brings one blob here, and says whether it came.
    pub(in crate::store) fn fetch_one(&self, digest: Digest) -> std::io::Result<bool> {
        let Some(remote) = self.remote() else { return Ok(false) };
        Ok(!self.fetch_digests(remote, &BTreeSet::from([digest]))?.is_empty())
    }

    /// Returns the blobs that came.
    fn fetch_digests(&self, remote: &Remote, wanted: &BTreeSet<Digest>) -> std::io::Result<BTreeSet<Digest>> {
        if remote.is_dead() {
            return Ok(BTreeSet::new());
        }
        // What an earlier run left elsewhere: the record says where.
        let keys: BTreeSet<Digest> = {
            let known = remote.known();
            let unplaced = wanted.iter().filter(|digest| !known.places.contains_key(*digest));
            unplaced.filter_map(|digest| known.keys.get(digest).copied()).collect()
        };
        side_by_side(&keys.into_iter().collect::<Vec<_>>(), |key| drop(remote.record(*key)));
        let mut objects: BTreeMap<String, Vec<(Digest, Place)>> = BTreeMap::new();
        {
            let known = remote.known();
            let usable = |digest: &Digest| known.places.get(digest).filter(|_| !known.broken.contains(digest));
            for place in wanted.iter().filter_map(usable) {
                // Everything that is known to be in a pack: it comes once.
                let all = known.objects.get(&place.object).into_iter().flatten().collect::<BTreeSet<_>>();
                objects.entry(place.object.clone()).or_insert_with(|| {
                    let here = |digest: &Digest| usable(digest).filter(|other| other.object == place.object);
                    all.into_iter().filter_map(|digest| Some((*digest, here(digest)?.clone()))).collect()
                });
            }
        }
        let objects: Vec<(String, Vec<(Digest, Place)>)> = objects.into_iter().collect();
        let results = side_by_side(&objects, |(object, blobs)| self.fetch_object(remote, object, blobs));
        let mut arrived = BTreeSet::new();
        for ((object, blobs), result) in objects.iter().zip(results) {
            let here = result?;
            let broken: Vec<Digest> =
                blobs.iter().map(|(digest, _)| *digest).filter(|digest| !here.contains(digest)).collect();
            if !broken.is_empty() && !remote.is_dead() {
                remote.broken(&format!("cas/{object}"));
                remote.known().broken.extend(broken);
            }
            arrived.extend(here);
        }
        arrived.retain(|digest| wanted.contains(digest));
        Ok(arrived)
    }

    /// Brings an object here and takes its blobs out; returns those that are what their digest says.
    fn fetch_object(
        &self,
        remote: &Remote,
        object: &str,
        blobs: &[(Digest, Place)],
    ) -> std::io::Result<BTreeSet<Digest>> {
        let Some((_, Place { object_size, .. })) = blobs.first() else { return Ok(BTreeSet::new()) };
        if let [(digest, place)] = blobs
            && place.size == *object_size
        {
            let came = self.fetch_file(remote, object, *digest, *object_size)?;
            return Ok(came.then_some(*digest).into_iter().collect());
        }
        let mut bytes = Vec::new();
        if *object_size > LONGEST_PACK {
            return Ok(BTreeSet::new());
        }
        let got = remote.download(object, *object_size, &mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        let mut here = BTreeSet::new();
        for (digest, place) in blobs.iter().filter(|_| matches!(got, Got::Whole)) {
            let range = place.offset as usize..place.offset.saturating_add(place.size) as usize;
            if let Some(blob) = bytes.get(range).filter(|blob| Digest::of(blob) == *digest) {
                self.put(blob, false)?;
                here.insert(*digest);
            }
        }
        Ok(here)
    }

    /// Brings a blob here that is an object of its own, which may be too large for memory.
    fn fetch_file(&self, remote: &Remote, object: &str, digest: Digest, size: u64) -> std::io::Result<bool> {
        let path = self.blob_path(digest);
        let named = |cause: std::io::Error| {
            std::io::Error::new(cause.kind(), crate::store::unwritten(&path, size as usize, &cause))
        };
        let mut file = self.temporary().map_err(named)?;
        let mut hasher = blake3::Hasher::new();
        let got = remote.download(object, size, &mut |piece| {
            hasher.update(piece);
            file.write_all(piece).map_err(named)
        })?;
        if !matches!(got, Got::Whole) || Digest::from(hasher.finalize()) != digest {
            return Ok(false);
        }
        self.move_to(file, &path, size as usize, false)?;
        self.arrived(digest);
        Ok(true)
    }

    /// Keeps the records of results that were found in the remote cache, with their actions, as far as they can be had.
    ///
    /// # Errors
    /// If something cannot be written here; the message names the path.
    pub fn keep_found(&self, keys: &[Digest]) -> std::io::Result<()> {
        let Some(remote) = self.remote() else { return Ok(()) };
        let found: Vec<(Digest, Record)> = {
            let known = remote.known();
            keys.iter().filter_map(|key| Some((*key, known.records.get(key)?.clone()?))).collect()
        };
        let found: Vec<_> =
            found.into_iter().filter(|(key, _)| !matches!(self.lookup_here(*key), Lookup::Hit(_))).collect();
        if found.is_empty() {
            return Ok(());
        }
        let absent = |digest: &Digest| !self.blob_path(*digest).exists();
        let first = found.iter().flat_map(|(key, record)| record.output.into_iter().chain([*key]));
        self.fetch_digests(remote, &first.filter(absent).collect())?;
        let listings = found.iter().filter_map(|(key, _)| listing_of(&self.get_here(*key).ok()?));
        self.fetch_digests(remote, &listings.filter(absent).collect())?;
        for (key, record) in found {
            // A record whose action is not here says nothing of where it comes from.
            if self.blob_path(key).exists() {
                let elsewhere = self.missing(&record.blobs).is_some();
                self.record(key, &Record { elsewhere, ..record }, false)?;
            }
        }
        Ok(())
    }

    /// Takes for gone what is not here of these blobs, without asking for it, and reads those that are, so that all that are damaged
    /// or cannot be read are known at once.
    pub fn give_up(&self, blobs: &[(Digest, u64)]) {
        let (here, gone): (Vec<_>, Vec<_>) = blobs.iter().partition(|(digest, size)| self.has(*digest, *size));
        gone.into_iter().for_each(|(digest, _)| self.set_gone(digest));
        self.doubt(&here);
    }
}

impl Remote {
    /// Reads an object, and takes it up where it was when the connection breaks off.
    fn download(
        &self,
        object: &str,
        size: u64,
        append: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
    ) -> std::io::Result<Got> {
        let name = format!("cas/{object}");
        let (mut received, mut buffer) = (0_u64, vec![0; 1 << 16]);
        for attempt in 1..=ATTEMPTS {
            let Some(stream) = self.try_it(|| self.transport.get(&name, received, size)) else { return Ok(Got::Dead) };
            let Some(mut stream) = stream else { return Ok(Got::Broken) };
            let mut skip = received.saturating_sub(stream.from);
            let fault = loop {
                match stream.body.read(&mut buffer) {
                    Ok(0) => break None,
                    Ok(count) => {
                        let skipped = skip.min(count as u64);
                        skip -= skipped;
                        let piece = &buffer[skipped as usize..count];
                        received += piece.len() as u64;
                        if received > size {
                            return Ok(Got::Broken);
                        }
                        append(piece)?;
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => break Some(lost(&error)),
                }
            };
            match fault {
                _ if received == size => return Ok(Got::Whole),
                Some(fault) if !fault.again || attempt == ATTEMPTS => {
                    self.give_up(&fault);
                    return Ok(Got::Dead);
                }
                _ => {}
            }
        }
        Ok(Got::Broken)
    }
}
