//! Takes a bundle in. Trusts nothing in it: every member must be the next one of the index, of its size, and have its digest.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{BundleError, FORMAT, INDEX, Index, LONGEST_TEXT, blob_name, record_name};
use crate::digest::Digest;
use crate::store::Store;
use crate::store::actions::{Lookup, Record};

/// Memory that unpacking may take, as a power of two: what zstd itself allows without being asked, 128 MiB.
const WINDOW: u32 = 27;

/// Without another limit a bundle may unpack to so many times its own size, and to [`SMALL`] in any case. Results are packed
/// already; texts and JSON shrink to a tenth.
const GROWTH: u64 = 200;

/// What every bundle may unpack to.
const SMALL: u64 = 1 << 30;

/// Length of the zeros that may stand at the end of a tar file: blocking factors of up to 2048.
const LONGEST_END: u64 = 1 << 20;

/// How a bundle is taken in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that it may unpack to.
    pub size: Option<u64>,
    /// Only look whether it is whole.
    pub dry: bool,
}

/// What came of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// What it says of itself.
    pub index: Index,
    /// Records that are new here.
    pub records: usize,
    /// Blobs that are new here.
    pub blobs: usize,
    /// Their size in bytes.
    pub bytes: u64,
    /// Stages of which this cache has another result under the same key. It stays.
    pub others: Vec<String>,
}

/// Members of a bundle, one after the other.
struct Members<'a, R: Read> {
    entries: tar::Entries<'a, R>,
}

impl<'a, R: Read> Members<'a, R> {
    /// Returns the next member, which must have this name and, if given, this size.
    fn next(&mut self, name: &str, size: Option<u64>) -> Result<tar::Entry<'a, R>, BundleError> {
        let entry = self.entries.next().transpose().map_err(unreadable)?;
        // The first member says that it is a bundle.
        let wrong =
            |message| if name == INDEX { BundleError::NoBundle(message) } else { BundleError::Damaged(message) };
        let entry = entry.ok_or_else(|| wrong(format!("`{name}` is missing at its end")))?;
        let found = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if entry.header().entry_type() != tar::EntryType::Regular {
            return Err(BundleError::Damaged(format!("`{}` is not a plain file", shown(&found))));
        }
        if found != name {
            return Err(wrong(format!("`{}` stands where `{name}` should", shown(&found))));
        }
        let length = entry.size();
        match size {
            Some(size) if size != length => {
                Err(BundleError::Damaged(format!("`{name}` has {length} bytes, and its index says {size}")))
            }
            None if length > LONGEST_TEXT => {
                Err(BundleError::Damaged(format!("`{name}` has {length} bytes, more than any bundle's")))
            }
            _ => Ok(entry),
        }
    }

    /// Reads a text whole.
    fn text(&mut self, name: &str, size: Option<u64>) -> Result<Vec<u8>, BundleError> {
        let entry = self.next(name, size)?;
        let length = entry.size();
        let mut bytes = Vec::new();
        entry.take(length).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 != length {
            return Err(BundleError::Damaged(format!("it ends within `{name}`")));
        }
        Ok(bytes)
    }
}

/// Returns a name out of the file as something that can stand in a message.
fn shown(name: &str) -> String {
    name.chars().take(80).flat_map(char::escape_default).collect()
}

/// What unpacking says of a file that is not what it should be.
fn unreadable(error: std::io::Error) -> BundleError {
    match error.kind() {
        ErrorKind::UnexpectedEof => BundleError::Damaged("it ends too early".to_owned()),
        // Errors of zstd and tar; those of the file system have a number.
        _ if error.raw_os_error().is_none() => BundleError::Damaged(error.to_string()),
        _ => BundleError::Io(error),
    }
}

type Unpacked = tar::Archive<zstd::Decoder<'static, BufReader<fs_err::File>>>;

/// Opens a bundle; returns it and its own size.
fn open(path: &Path) -> Result<(Unpacked, u64), BundleError> {
    let mut file = fs_err::File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(BundleError::NoBundle("it is not a file".to_owned()));
    }
    let mut magic = [0; 4];
    let zstd = file.read_exact(&mut magic).is_ok() && u32::from_le_bytes(magic) == zstd::zstd_safe::MAGICNUMBER;
    if !zstd {
        return Err(BundleError::NoBundle("it does not begin as files of zstd do".to_owned()));
    }
    let mut decoder = zstd::Decoder::new(fs_err::File::open(path)?)?;
    decoder.window_log_max(WINDOW)?;
    Ok((tar::Archive::new(decoder), metadata.len()))
}

/// Reads the index of a bundle and nothing else.
///
/// # Errors
/// If it cannot be read, or is no bundle.
pub fn read_index(path: &Path) -> Result<Index, BundleError> {
    let (mut archive, _) = open(path)?;
    let mut members = Members { entries: archive.entries().map_err(unreadable)?.raw(true) };
    index(&mut members)
}

fn index(members: &mut Members<'_, impl Read>) -> Result<Index, BundleError> {
    #[derive(serde::Deserialize)]
    struct Format {
        format: u32,
    }
    let text = members.text(INDEX, None)?;
    let wrong = |error: serde_json::Error| BundleError::Damaged(format!("its index cannot be read: {error}"));
    let Format { format } = serde_json::from_slice(&text).map_err(wrong)?;
    if format > FORMAT {
        return Err(BundleError::Future(format));
    }
    let index: Index = serde_json::from_slice(&text).map_err(wrong)?;
    if !index.blobs.windows(2).all(|pair| pair[0].0 < pair[1].0) {
        return Err(BundleError::Damaged("its index names blobs out of order".to_owned()));
    }
    let keys: BTreeSet<Digest> = index.records.iter().map(|(key, _)| *key).collect();
    if keys.len() != index.records.len() || !index.stages.iter().all(|stage| keys.contains(&stage.key)) {
        return Err(BundleError::Damaged("its index names a record twice, or a stage without one".to_owned()));
    }
    if index.records.iter().any(|(_, size)| *size > LONGEST_TEXT) {
        return Err(BundleError::Damaged("its index names a record that is too long".to_owned()));
    }
    Ok(index)
}

impl Store {
    /// Takes the results of a bundle in. Nothing is here before all of it has been verified; records come last.
    ///
    /// # Errors
    /// If it is no bundle, damaged, too large, or something cannot be read or written.
    pub fn import_bundle(&self, path: &Path, limits: Limits) -> Result<Taken, BundleError> {
        // Nothing that has been put here is collected before its record is.
        self.run_begins("")?;
        let (mut archive, packed) = open(path)?;
        let mut members = Members { entries: archive.entries().map_err(unreadable)?.raw(true) };
        let index = index(&mut members)?;
        let limit = limits.size.unwrap_or_else(|| packed.saturating_mul(GROWTH).max(SMALL));
        if index.size() > limit {
            return Err(BundleError::TooLarge { size: index.size(), limit });
        }
        let scratch = self.scratch()?;
        let mut staged = BTreeMap::new();
        for (digest, size) in &index.blobs {
            let mut entry = members.next(&blob_name(*digest), Some(*size))?;
            let keep = !limits.dry && !self.has(*digest, *size);
            let to = scratch.path().join(digest.hex());
            self.stage(&mut entry, *digest, *size, keep.then_some(&to))?;
            if keep {
                staged.insert(*digest, (to, *size));
            }
        }
        let records = records(&mut members, &index, scratch.path())?;
        end(&mut members)?;
        rest(archive)?;
        let mut taken = Taken { index, records: 0, blobs: 0, bytes: 0, others: Vec::new() };
        let new = self.new_here(records, &mut taken);
        if limits.dry {
            return Ok(taken);
        }
        self.settle(&new, staged, &mut taken)?;
        for stage in &taken.index.stages {
            if self.last(&taken.index.pipeline, &stage.name).is_none() {
                self.set_last(&taken.index.pipeline, &stage.name, stage.key)?;
            }
        }
        Ok(taken)
    }

    /// Reads a blob and, where it is not here yet, writes it aside.
    fn stage(&self, entry: &mut impl Read, digest: Digest, size: u64, to: Option<&Path>) -> Result<(), BundleError> {
        let mut hasher = blake3::Hasher::new();
        let mut file = to.map(fs_err::File::create).transpose()?;
        let mut buffer = vec![0; 1 << 18];
        let mut left = size;
        while left > 0 {
            let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = match entry.read(&mut buffer[..most]) {
                Ok(0) => return Err(BundleError::Damaged(format!("it ends within blob {}", digest.short()))),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(unreadable(error)),
            };
            hasher.update(&buffer[..count]);
            if let Some(file) = &mut file {
                let path = self.blob_path(digest);
                let named = |cause: std::io::Error| {
                    std::io::Error::new(cause.kind(), crate::store::unwritten(&path, size as usize, &cause))
                };
                file.write_all(&buffer[..count]).map_err(named)?;
            }
            left -= count as u64;
        }
        if Digest::from(hasher.finalize()) != digest {
            return Err(BundleError::Damaged(format!("blob {} has other bytes than its name says", digest.short())));
        }
        Ok(())
    }

    /// Returns the records that this cache lacks.
    fn new_here(&self, records: Vec<Aside>, taken: &mut Taken) -> Vec<Aside> {
        let names: HashMap<Digest, &str> =
            taken.index.stages.iter().map(|stage| (stage.key, stage.name.as_str())).collect();
        let mut others = Vec::new();
        let lacks = |record: &Aside| match self.lookup_here(record.key) {
            Lookup::Hit(known) if record.output != known.output => {
                others.extend(names.get(&record.key).map(|name| (*name).to_owned()));
                false
            }
            // Bytes are more than none.
            Lookup::Hit(known) => known.elsewhere && !record.elsewhere,
            _ => true,
        };
        let new = records.into_iter().filter(lacks).collect();
        taken.others = others;
        new
    }

    /// Moves blobs to their place and, last, writes the records.
    fn settle(
        &self,
        records: &[Aside],
        staged: BTreeMap<Digest, (PathBuf, u64)>,
        taken: &mut Taken,
    ) -> std::io::Result<()> {
        let mut needed = BTreeSet::new();
        for aside in records {
            let action = staged.get(&aside.key).map_or_else(|| self.blob_path(aside.key), |(path, _)| path.clone());
            needed.extend(crate::store::collect::listing_of(&fs_err::read(action)?));
            needed.extend(aside.read()?.blobs.iter().map(|(digest, _)| *digest).chain([aside.key]));
        }
        // What is here already counts as new, lest it be collected before its record is written.
        for digest in needed.iter().filter(|digest| !staged.contains_key(digest)) {
            crate::store::collect::renew(&self.blob_path(*digest));
        }
        let staged: Vec<_> = staged.into_iter().filter(|(digest, _)| needed.contains(digest)).collect();
        let place = |(digest, (from, _)): &(Digest, (PathBuf, u64))| {
            fs_err::File::open(from)?.sync_all()?;
            let to = self.blob_path(*digest);
            if let Some(parent) = to.parent() {
                fs_err::create_dir_all(parent)?;
            }
            fs_err::rename(from, to)?;
            self.arrived(*digest);
            Ok(())
        };
        staged.par_iter().map(place).collect::<std::io::Result<()>>()?;
        for aside in records {
            self.record(aside.key, &aside.read()?, true)?;
        }
        taken.records = records.len();
        taken.blobs = staged.len();
        taken.bytes = staged.iter().map(|(_, (_, size))| size).sum();
        Ok(())
    }
}

/// A record that has been verified and lies aside: all of them together may be more than fits into memory.
struct Aside {
    key: Digest,
    output: Option<Digest>,
    elsewhere: bool,
    path: PathBuf,
}

impl Aside {
    fn read(&self) -> std::io::Result<Record> {
        Record::from_bytes(&fs_err::read(&self.path)?).map_err(std::io::Error::other)
    }
}

/// Reads all records and lays them aside, and refuses those that speak of what is not in the bundle.
fn records(members: &mut Members<'_, impl Read>, index: &Index, folder: &Path) -> Result<Vec<Aside>, BundleError> {
    let blobs: HashMap<Digest, u64> = index.blobs.iter().copied().collect();
    let mut records = Vec::new();
    for (key, size) in &index.records {
        let bytes = members.text(&record_name(*key), Some(*size))?;
        let wrong = |why: String| BundleError::Damaged(format!("the record {}: {why}", key.short()));
        let record = Record::from_bytes(&bytes).map_err(wrong)?;
        if blobs.get(key).is_none_or(|size| *size > LONGEST_TEXT) {
            return Err(wrong("the action that it is of is missing".to_owned()));
        }
        let present = |(digest, size): &(Digest, u64)| blobs.get(digest) == Some(size);
        let there = record.blobs.iter().all(|blob| present(blob) || record.elsewhere);
        let named = record.output.into_iter().chain(record.shard.iter().map(|shard| shard.digest));
        if !there || !named.into_iter().all(|digest| blobs.contains_key(&digest)) {
            return Err(wrong("it names blobs that are missing".to_owned()));
        }
        let path = folder.join(format!("{key}.json"));
        fs_err::write(&path, bytes)?;
        records.push(Aside { key: *key, output: record.output, elsewhere: record.elsewhere, path });
    }
    let by_key: HashMap<Digest, &Aside> = records.iter().map(|record| (record.key, record)).collect();
    for stage in &index.stages {
        if by_key
            .get(&stage.key)
            .is_none_or(|record| record.output != Some(stage.output) || record.elsewhere == stage.bytes)
        {
            return Err(BundleError::Damaged(format!(
                "its index and its records differ in stage `{}`",
                shown(&stage.name)
            )));
        }
    }
    Ok(records)
}

/// Refuses anything behind the last member.
fn end(members: &mut Members<'_, impl Read>) -> Result<(), BundleError> {
    if let Some(entry) = members.entries.next() {
        let entry = entry.map_err(unreadable)?;
        let name = shown(&String::from_utf8_lossy(&entry.path_bytes()));
        return Err(BundleError::Damaged(format!("`{name}` stands behind its end")));
    }
    Ok(())
}

/// Refuses anything but zeros behind the end of the tar file.
fn rest(archive: tar::Archive<impl Read>) -> Result<(), BundleError> {
    let mut rest = Vec::new();
    archive.into_inner().take(LONGEST_END + 1).read_to_end(&mut rest).map_err(unreadable)?;
    if rest.len() as u64 > LONGEST_END || rest.iter().any(|byte| *byte != 0) {
        return Err(BundleError::Damaged("something stands behind its end".to_owned()));
    }
    Ok(())
}
