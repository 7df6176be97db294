//! `orandflow cache`: how much lies there, and whether it is intact.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::ExitCode;

use super::Failure;
use super::common::deliver;
use super::engine::{CacheDir, outside};
use crate::digest::Digest;
use crate::report::text::{Align, count, size, table};
use crate::store::Store;
use crate::store::actions::Records;

/// Arguments of `cache`.
#[derive(Debug, clap::Args)]
pub(crate) struct CacheArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Say how much lies in the cache, by kind of stage
    Du(Du),
    /// Read everything in the cache and say what is damaged or missing
    Verify(Verify),
}

#[derive(Debug, clap::Args)]
struct Du {
    #[command(flatten)]
    cache: CacheDir,
}

#[derive(Debug, clap::Args)]
struct Verify {
    #[command(flatten)]
    cache: CacheDir,

    /// Remove what is damaged, so that the next run makes it again
    #[arg(long)]
    repair: bool,
}

/// Runs `cache`.
pub(crate) fn cache(args: &CacheArgs) -> Result<ExitCode, Failure> {
    match &args.verb {
        Verb::Du(args) => du(&args.cache.open()?),
        Verb::Verify(args) => verify(&args.cache.open()?, args.repair),
    }
}

fn du(store: &Store) -> Result<ExitCode, Failure> {
    let blobs = store.blobs().map_err(|error| outside(&error))?;
    let records = store.records().map_err(|error| outside(&error))?.readable;
    let number = records.len();
    let mut kinds: BTreeMap<String, (usize, BTreeMap<Digest, u64>)> = BTreeMap::new();
    for (_, record) in records {
        let (results, blobs) = kinds.entry(record.provenance.kind).or_default();
        *results += 1;
        blobs.extend(record.blobs);
    }
    let mut rows: Vec<Vec<String>> = kinds
        .into_iter()
        .map(|(kind, (results, blobs))| {
            vec![kind, results.to_string(), blobs.len().to_string(), size(blobs.values().sum())]
        })
        .collect();
    let all = blobs.iter().map(|(_, size)| size).sum();
    rows.push(vec!["in all".to_owned(), number.to_string(), blobs.len().to_string(), size(all)]);
    let right = Align::Right;
    deliver(&table(&[("kind", Align::Left), ("results", right), ("blobs", right), ("size", right)], &rows), None)
}

fn verify(store: &Store, repair: bool) -> Result<ExitCode, Failure> {
    let blobs = store.blobs().map_err(|error| outside(&error))?;
    let Records { readable: records, unreadable } = store.records().map_err(|error| outside(&error))?;
    let mut damaged = BTreeSet::new();
    let mut text = String::new();
    let intact = store.intact(&blobs).map_err(|error| outside(&error))?;
    for ((digest, _), intact) in blobs.iter().zip(intact) {
        if !intact {
            damaged.insert(*digest);
            let _ = writeln!(text, "damaged blob {digest}");
        }
    }
    for path in &unreadable {
        let _ = writeln!(text, "damaged record {}", path.display());
    }
    let mut broken = Vec::new();
    for (key, record) in &records {
        let lost = record.blobs.iter().find(|(blob, size)| damaged.contains(blob) || !store.has(*blob, *size));
        if let Some((blob, _)) = lost {
            let provenance = &record.provenance;
            let _ = writeln!(
                text,
                "result {} of stage `{}` ({}) lacks blob {}",
                key.short(),
                provenance.stage,
                provenance.kind,
                blob.short()
            );
            broken.push(*key);
        }
    }
    let fine = damaged.is_empty() && unreadable.is_empty() && broken.is_empty();
    if repair {
        let paths = damaged.iter().map(|digest| store.blob_path(*digest));
        let paths = paths.chain(unreadable.iter().cloned()).chain(broken.iter().map(|key| store.record_path(*key)));
        for path in paths {
            fs_err::remove_file(path).map_err(|error| outside(&error))?;
        }
    }
    let (blobs, results) = (count(blobs.len(), "blob"), count(records.len(), "result"));
    let _ = match (fine, repair) {
        (true, _) => writeln!(text, "{blobs} and {results} are intact"),
        (false, true) => writeln!(text, "removed what is damaged; the next run makes it again"),
        (false, false) => writeln!(
            text,
            "{} of {blobs} and {} of {results} are damaged; `orandflow cache verify --repair` removes them",
            damaged.len(),
            broken.len() + unreadable.len()
        ),
    };
    deliver(&text, None)?;
    Ok(ExitCode::from(u8::from(!fine && !repair)))
}
