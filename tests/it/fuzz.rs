//! Damaged records, manifests and memories, and pipeline files that nobody would write: never a panic, never a wrong result.
//!
//! The short forms run with the other tests. The long ones: `cargo test --release --test it -- --ignored fuzz --nocapture`, each
//! for `ORANDFLOW_FUZZ_SECONDS`, 60 where it is not set. All are seeded and so repeat themselves.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::workbench::say;
use orandflow::diag::Source;
use orandflow::digest::Digest;
use orandflow::pipeline::{self, Texts};
use orandflow::plan;
use orandflow::report::draw;
use orandflow::stages::catalog;
use orandflow::store::Store;
use orandflow::store::actions::{Lookup, Provenance, Record};
use orandflow::store::bundle::{Chosen, Limits, read_index};
use orandflow::store::files::Files;
use orandflow::store::manifest::{Entry, Manifest};
use orandflow::sweep;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// How long, or how often.
#[derive(Clone, Copy)]
enum Length {
    Rounds(usize),
    Seconds(u64),
}

fn long() -> Length {
    let asked = std::env::var("ORANDFLOW_FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Length::Seconds(asked.unwrap_or(60))
}

/// Calls `round` again and again with random numbers, and says how often.
fn fuzz(name: &str, length: Length, mut round: impl FnMut(&mut ChaCha8Rng)) {
    let mut random = ChaCha8Rng::seed_from_u64(Digest::of(name.as_bytes()).to_u64());
    let (clock, mut rounds) = (Instant::now(), 0_usize);
    let goes_on = |rounds: usize| match length {
        Length::Rounds(most) => rounds < most,
        Length::Seconds(most) => clock.elapsed() < Duration::from_secs(most),
    };
    while goes_on(rounds) {
        round(&mut random);
        rounds += 1;
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or(" unknown").trim().to_owned();
    say(format!("{name}: {rounds} rounds in {:.1?}, peak memory of the process {memory}", clock.elapsed()));
    if let Some(kilobytes) = memory.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()) {
        assert!(kilobytes < 2_000_000, "{name} took {memory}");
    }
}

fn below(random: &mut ChaCha8Rng, most: usize) -> usize {
    (random.next_u64() % most.max(1) as u64) as usize
}

/// Damages bytes in one of the ways in which bytes get damaged, or are written by somebody who wants to see what happens.
fn damage(bytes: &mut Vec<u8>, words: &[&str], random: &mut ChaCha8Rng) {
    for _ in 0..=below(random, 4) {
        let (at, length) = (below(random, bytes.len()), below(random, 24));
        match below(random, 7) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << below(random, 8),
            1 => bytes.truncate(at),
            2 if !bytes.is_empty() => drop(bytes.drain(at..(at + length).min(bytes.len()))),
            3 if !bytes.is_empty() => {
                let piece = bytes[at..(at + length).min(bytes.len())].to_vec();
                let to = below(random, bytes.len());
                bytes.splice(to..to, piece);
            }
            4 if !bytes.is_empty() => bytes[at] = random.next_u32() as u8,
            5 => bytes.extend(std::iter::repeat_n(b"[{\"\n0"[below(random, 5)], length * 40)),
            _ => {
                let word = words[below(random, words.len())].as_bytes().to_vec();
                bytes.splice(at..at, word);
            }
        }
    }
}

const JSON_WORDS: &[&str] = &[
    "null",
    "[]",
    "{}",
    "-1",
    "1e999",
    "18446744073709551616",
    "\"\"",
    "\"version\":2,",
    "\\u0000",
    "\"ids\":[\"a\"],",
    "\n",
];

fn damaged_records(length: Length) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path()).expect("a cache");
    let blob = store.put(b"shard", false).expect("written");
    let ids = vec!["2007_000032".to_owned(), "2007_000039".to_owned()];
    let entry = Entry { digest: blob, size: 5, ids, content: vec![(blob, 5)] };
    let provenance = Provenance { pipeline: "p".into(), stage: "s".into(), kind: "k".into(), ..Provenance::default() };
    let key = Digest::of(b"key");
    let records =
        [Record::shard(Some(entry), provenance.clone()), Record::whole(blob, vec![(blob, 5)], vec![key], provenance)];
    fuzz("records", length, |random| {
        let record = &records[below(random, 2)];
        store.record(key, record, false).expect("written");
        let path = store.record_path(key);
        let mut bytes = std::fs::read(&path).expect("it is there");
        damage(&mut bytes, JSON_WORDS, random);
        std::fs::write(&path, &bytes).expect("written");
        if let Lookup::Hit(read) = store.lookup(key) {
            // Only what is the same in every bit is taken, but for what stands behind its end.
            assert_eq!(*read, *record, "{}", String::from_utf8_lossy(&bytes));
        }
        let _ = store.records().expect("they can be listed");
    });
}

fn damaged_manifests(length: Length) {
    let entry = Entry { digest: Digest::of(b"a"), size: 1, ids: vec!["a".into()], content: Vec::new() };
    let manifest = Manifest {
        kind: orandflow::kind::Kind::CamSet,
        buckets: Some(4),
        meta: serde_json::json!({ "classes": ["background", "cat"] }),
        entries: (0..4).map(|bucket| (format!("shard/{bucket:04}"), entry.clone())).collect(),
    };
    let whole = serde_json::to_vec(&manifest).expect("JSON");
    fuzz("manifests", length, |random| {
        let mut bytes = whole.clone();
        damage(&mut bytes, JSON_WORDS, random);
        if let Ok(read) = serde_json::from_slice::<Manifest>(&bytes) {
            let _ = (read.digest(), read.ids().len(), read.shards().count());
            for buckets in [1, 2, 8] {
                let _ = read.shards_meeting(below(random, buckets) as u32, buckets as u32).len();
            }
        }
    });
}

fn damaged_memories(length: Length) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&folder.path().join("cache")).expect("a cache");
    let data = folder.path().join("data");
    std::fs::create_dir(&data).expect("made");
    let paths: Vec<_> = (0..20).map(|index| data.join(format!("{index}.bin"))).collect();
    let old = std::time::SystemTime::now() - Duration::from_secs(60);
    for path in &paths {
        std::fs::write(path, path.display().to_string()).expect("written");
        std::fs::File::open(path).and_then(|file| file.set_modified(old)).expect("set");
    }
    // Long enough ago for their change times to be remembered.
    std::thread::sleep(Duration::from_millis(2100));
    let paths: Vec<&Path> = paths.iter().map(AsRef::as_ref).collect();
    let files = Files::load(&store);
    let expected = files.digests(&paths).expect("hashed");
    files.save(&store).expect("saved");
    let memory = folder.path().join("cache/v1/files.bin");
    let whole = std::fs::read(&memory).expect("it is there");
    assert!(whole.len() > 1000);
    let key = Digest::of(b"key");
    fuzz("memories and checkpoints", length, |random| {
        let mut bytes = whole.clone();
        damage(&mut bytes, &["ofiles1\n"], random);
        std::fs::write(&memory, &bytes).expect("written");
        assert_eq!(Files::load(&store).digests(&paths).expect("hashed"), expected);
        store.keep_checkpoint(key, 7, b"what was kept".to_vec()).expect("kept");
        let path = folder.path().join(format!("cache/v1/checkpoints/{key}/7"));
        let mut bytes = std::fs::read(&path).expect("it is there");
        damage(&mut bytes, &["x"], random);
        std::fs::write(&path, &bytes).expect("written");
        assert!(store.newest_checkpoint(key).is_none_or(|(_, bytes)| bytes == b"what was kept"));
    });
}

/// Makes a store with one result of two shards, and a bundle of it.
fn bundle(folder: &Path) -> Vec<u8> {
    let store = Store::open(folder).expect("a cache");
    let put = |text: &str| (store.put(text.as_bytes(), false).expect("written"), text.len() as u64);
    let provenance = Provenance { pipeline: "p".into(), stage: "s".into(), kind: "k".into(), ..Provenance::default() };
    let (listing, _) = put("[\"a\",[],null]\n");
    let mut blobs = vec![put("a manifest")];
    let mut keys = Vec::new();
    for bucket in 0..2 {
        let (key, _) = put(&format!("{{\"items\":\"{listing}\",\"shard\":[{bucket},2]}}"));
        let (digest, size) = put(&format!("shard {bucket}"));
        let entry = Entry { digest, size, ids: vec![format!("id{bucket}")], content: Vec::new() };
        store.record(key, &Record::shard(Some(entry), provenance.clone()), false).expect("written");
        blobs.push((digest, size));
        keys.push(key);
    }
    let (key, _) = put("{\"kind\":\"k\"}");
    store.record(key, &Record::whole(blobs[0].0, blobs, keys, provenance), false).expect("written");
    let chosen = [Chosen { name: "s".into(), kind: "k".into(), key, bytes: true }];
    let mut bytes = Vec::new();
    store.export_bundle("p", &chosen, &mut bytes).expect("written");
    bytes
}

const BUNDLE_WORDS: &[&str] =
    &["cas/", "ac/", "../../x", "ustar\0", "\0\0\0\0\0\0\0\0", "\"format\":1", ",9223372036854775807]", "K", "L", "2"];

fn damaged_bundles(length: Length) {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = bundle(&folder.path().join("source"));
    let tar = zstd::decode_all(&whole[..]).expect("unpacked");
    let (cache, path) = (folder.path().join("cache"), folder.path().join("x.tar.zst"));
    fuzz("bundles", length, |random| {
        let bytes = if below(random, 3) == 0 {
            let mut bytes = whole.clone();
            damage(&mut bytes, BUNDLE_WORDS, random);
            bytes
        } else {
            let mut bytes = tar.clone();
            damage(&mut bytes, BUNDLE_WORDS, random);
            // A header whose sum is wrong is refused before anything in it is looked at.
            for at in (0..bytes.len().saturating_sub(511)).step_by(512) {
                let block = &mut bytes[at..at + 512];
                if &block[257..262] == b"ustar" {
                    block[148..156].fill(b' ');
                    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
                    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
                }
            }
            zstd::encode_all(&bytes[..], 1).expect("packed")
        };
        std::fs::write(&path, &bytes).expect("written");
        let _ = read_index(&path);
        let store = Store::open(&cache).expect("a cache");
        let taken = store.import_bundle(&path, Limits::default());
        let records = store.records().expect("they can be listed");
        assert!(records.damaged.is_empty() && records.closed.is_empty());
        match taken {
            // Nothing that is taken in is damaged.
            Ok(taken) => {
                for (key, record) in &records.readable {
                    assert!(store.get(*key).is_ok() && matches!(store.lookup(*key), Lookup::Hit(_)));
                    for (digest, _) in record.blobs.iter().filter(|_| !record.elsewhere) {
                        store.get(*digest).expect("intact");
                    }
                }
                assert!(records.readable.len() >= taken.index.stages.len());
            }
            Err(_) => {
                assert!(records.readable.is_empty() && store.blobs().expect("listed").is_empty());
            }
        }
        drop(store);
        std::fs::remove_dir_all(&cache).expect("removed");
    });
}

const TOML_WORDS: &[&str] = &[
    "[stages.x]\n",
    "kind = \"cam.or\"\n",
    "inputs = { a = \"b\" }\n",
    "${a}",
    "$${",
    "${",
    "\"\"\"",
    "'''",
    "[[stages]]\n",
    "nan",
    "1e400",
    "-9223372036854775809",
    "0x_1",
    "1979-05-27",
    "\u{feff}",
    "é",
    "= = =",
    "a.b.c.d = {}\n",
    "\\u0000",
    "inputs.a = 'items'\n",
    "]",
    "{",
    "#",
    "like = \"x\"\n",
    "[vars]\n",
    "a = \"${b}${b}${b}${b}\"\nb = \"${c}${c}${c}${c}\"\n",
    "[sweep.grid]\n",
    "seeds = [0, 1, 2]\n",
    "\"stages.x.y\" = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n",
    "[[sweep.list]]\n",
    "[sweep.variants.x]\n",
    "exclude = [{ seed = 0 }]\n",
    "targets = [\"x\"]\n",
];

/// Returns the texts of the pipeline files in a folder.
fn pipelines(folder: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut texts: Vec<String> = std::fs::read_dir(folder)
        .expect("there are pipelines")
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok())
        .collect();
    texts.sort();
    texts
}

fn damaged_sweeps(length: Length) {
    let (bases, sweeps) = (pipelines("pipelines"), pipelines("pipelines/ablations"));
    let path = Path::new("fuzz.toml");
    fuzz("sweeps", length, |random| {
        let mut sources = Vec::new();
        for texts in [&bases, &sweeps] {
            let mut bytes = texts[below(random, texts.len())].clone().into_bytes();
            if sources.len() == 1 || below(random, 4) == 0 {
                damage(&mut bytes, TOML_WORDS, random);
            }
            sources.push(Source { name: "fuzz.toml".to_owned(), text: String::from_utf8_lossy(&bytes).into_owned() });
        }
        if below(random, 4) == 0 {
            // A pipeline with a sweep of its own.
            sources.remove(0);
        }
        if let Err(faults) = sweep::of_texts(path, sources, &[], catalog()) {
            assert!(!faults.is_empty());
            let _ = draw::diagnostics(&faults, false);
        }
    });
}

fn damaged_pipelines(length: Length) {
    let mut texts = pipelines("pipelines");
    texts.push(crate::run::CHAIN.to_owned());
    fuzz("pipelines", length, |random| {
        let mut bytes = texts[below(random, texts.len())].clone().into_bytes();
        damage(&mut bytes, TOML_WORDS, random);
        let mut set = b"stages.copy.suffix=\"x\"".to_vec();
        let sets = match below(random, 3) {
            0 => {
                damage(&mut set, TOML_WORDS, random);
                vec![String::from_utf8_lossy(&set).into_owned()]
            }
            _ => Vec::new(),
        };
        let texts = Texts::new("fuzz.toml", String::from_utf8_lossy(&bytes), &sets);
        let plan = pipeline::parse(&texts).and_then(|pipeline| plan::lower(pipeline, catalog()));
        if let Err(faults) = plan {
            assert!(!faults.is_empty());
            let _ = draw::diagnostics(&faults, false);
        }
    });
}

#[test]
fn damaged_records_are_misses() {
    damaged_records(Length::Rounds(300));
}

#[test]
fn damaged_manifests_do_not_panic() {
    damaged_manifests(Length::Rounds(2000));
}

#[test]
fn damaged_memories_count_as_none() {
    damaged_memories(Length::Rounds(100));
}

#[test]
fn damaged_bundles_are_refused_whole() {
    damaged_bundles(Length::Rounds(300));
}

#[test]
#[ignore = "takes long; the short form runs always"]
fn fuzz_bundles() {
    damaged_bundles(long());
}

#[test]
fn damaged_pipelines_are_refused() {
    damaged_pipelines(Length::Rounds(150));
}

#[test]
fn damaged_sweeps_are_refused() {
    damaged_sweeps(Length::Rounds(60));
}

#[test]
#[ignore = "takes long; the short form runs always"]
fn fuzz_sweeps() {
    damaged_sweeps(long());
}

#[test]
#[ignore = "takes long; the short form runs always"]
fn fuzz_records() {
    damaged_records(long());
}

#[test]
#[ignore = "takes long; the short form runs always"]
fn fuzz_manifests() {
    damaged_manifests(long());
}

#[test]
#[ignore = "takes long; the short form runs always"]
fn fuzz_memories() {
    damaged_memories(long());
}

#[test]
#[ignore = "takes long; the short form runs always"]
fn fuzz_pipelines() {
    damaged_pipelines(long());
}
