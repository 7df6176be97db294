//! Writes a bundle. Reads every blob once, and none of them as a whole.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use super::{BundleError, BundledStage, FORMAT, INDEX, Index, blob_name, record_name};
use crate::digest::Digest;
use crate::store::Store;
use crate::store::actions::{Lookup, Record};

/// zstd's own default. What is large in a cache is packed already.
const LEVEL: i32 = 3;

/// A result that goes into a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The stage's name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// The key of its action.
    pub key: Digest,
    /// Whether its bytes go with it.
    pub bytes: bool,
}

/// Keys and bytes of records.
type Records = Vec<(Digest, Vec<u8>)>;

impl Store {
    /// Writes results as a bundle, and returns what is in it. Steps stand after those they read from.
    ///
    /// # Errors
    /// If a result is not whole in the cache, or something cannot be read or written.
    pub fn export_bundle(&self, pipeline: &str, chosen: &[Chosen], to: &mut impl Write) -> Result<Index, BundleError> {
        let (index, records) = self.index_of(pipeline, chosen)?;
        let mut packer = zstd::Encoder::new(to, LEVEL)?;
        packer.include_checksum(true)?;
        let mut tar = tar::Builder::new(packer);
        let text = serde_json::to_vec(&index).expect("an index is JSON");
        append(&mut tar, INDEX, text.len() as u64, &text[..])?;
        for (digest, size) in &index.blobs {
            let mut file =
                Hashing { hasher: blake3::Hasher::new(), file: fs_err::File::open(self.blob_path(*digest))? };
            append(&mut tar, &blob_name(*digest), *size, &mut file)?;
            if Digest::from(file.hasher.finalize()) != *digest {
                let message =
                    format!("blob {} is damaged; `orandflow cache verify --repair` removes it", digest.short());
                return Err(BundleError::NotHere(message));
            }
        }
        for (key, record) in &records {
            append(&mut tar, &record_name(*key), record.len() as u64, &record[..])?;
        }
        tar.into_inner()?.finish()?.flush()?;
        Ok(index)
    }

    /// Returns the index of a bundle, and its records as bytes.
    fn index_of(&self, pipeline: &str, chosen: &[Chosen]) -> Result<(Index, Records), BundleError> {
        let mut stages = Vec::new();
        let mut blobs = BTreeMap::new();
        // Shards before what they are part of, then the order of the steps: whoever takes it in keeps it.
        let (mut shards, mut wholes) = (BTreeMap::new(), Vec::new());
        for Chosen { name, kind, key, bytes } in chosen {
            let record = self.whole(*key, name)?;
            let output = record.output.ok_or_else(|| not_here(name))?;
            let bytes = *bytes;
            if bytes && record.elsewhere && !self.fetch(&record.blobs)? {
                return Err(not_here(name));
            }
            // What is known from a remote cache alone comes with its action.
            self.keep_found(&[*key])?;
            self.with_action(*key, &mut blobs)?;
            let kept = record.blobs.iter().filter(|(digest, _)| bytes || *digest == output);
            blobs.extend(kept.copied());
            for key in record.shards.iter().filter(|_| bytes) {
                // A shard's own record is worth having and not needed.
                if let Lookup::Hit(shard) = self.lookup_here(*key)
                    && !shard.elsewhere
                    && self.with_action(*key, &mut blobs).is_ok()
                {
                    blobs.extend(shard.blobs.iter().copied());
                    shards.insert(*key, shard.to_bytes());
                }
            }
            wholes.retain(|(other, _)| other != key);
            wholes.push((*key, Record { elsewhere: !bytes, ..record }.to_bytes()));
            stages.push(BundledStage { name: name.clone(), kind: kind.clone(), key: *key, output, bytes });
        }
        let records: Records = shards.into_iter().chain(wholes).collect();
        let index = Index {
            format: FORMAT,
            pipeline: pipeline.to_owned(),
            stages,
            records: records.iter().map(|(key, bytes)| (*key, bytes.len() as u64)).collect(),
            blobs: blobs.into_iter().collect(),
        };
        Ok((index, records))
    }

    fn whole(&self, key: Digest, name: &str) -> Result<Record, BundleError> {
        match self.lookup(key) {
            Lookup::Hit(record) => Ok(*record),
            _ => Err(not_here(name)),
        }
    }

    /// Adds the action of a key and the listing that it names.
    fn with_action(&self, key: Digest, blobs: &mut BTreeMap<Digest, u64>) -> Result<(), BundleError> {
        for digest in std::iter::once(key).chain(self.action_listing(key)) {
            blobs.insert(digest, fs_err::metadata(self.blob_path(digest))?.len());
        }
        Ok(())
    }
}

fn not_here(name: &str) -> BundleError {
    BundleError::NotHere(format!("the result of stage `{name}` is not whole in this cache"))
}

/// Adds a member whose header says nothing but its name and its size.
fn append(tar: &mut tar::Builder<impl Write>, name: &str, size: u64, content: impl Read) -> std::io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    let mut content = content.take(size);
    tar.append(&header, &mut content)?;
    if content.limit() > 0 {
        let message = format!("`{name}` is shorter than its record says");
        return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, message));
    }
    Ok(())
}

/// A file that is hashed while it is read.
struct Hashing {
    hasher: blake3::Hasher,
    file: fs_err::File,
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}
