//! Bundles: what one cache has is `cached` in another, whatever is wrong with the file is said, and nothing is half taken in.

use std::path::Path;

use orandflow::digest::Digest;

use crate::run::chain;
use crate::workbench::{Outcome, Workbench};

/// Makes a second workbench with the same pipeline and the same data, and the bundle of the first in it.
fn elsewhere(bench: &Workbench, items: usize) -> Workbench {
    let other = chain(items);
    std::fs::copy(bench.path("x.tar.zst"), other.path("x.tar.zst")).expect("copied");
    other
}

fn export(bench: &Workbench, more: &[&str]) -> Outcome {
    let outcome =
        bench.run(["bundle", "export", "pipeline.toml", "--to", "x.tar.zst"].into_iter().chain(more.iter().copied()));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    outcome
}

/// Members of a tar file: header and content without padding.
type Members = Vec<(tar::Header, Vec<u8>)>;

/// Packs a tar file.
fn pack(tar: &[u8]) -> Vec<u8> {
    zstd::encode_all(tar, 1).expect("packed")
}

fn unpack(bench: &Workbench) -> Vec<u8> {
    zstd::decode_all(&bench.read("x.tar.zst")[..]).expect("unpacked")
}

fn members(tar: &[u8]) -> Members {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().expect("a tar file");
    entries
        .map(|entry| {
            let mut entry = entry.expect("a member");
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).expect("read");
            (entry.header().clone(), content)
        })
        .collect()
}

fn join(members: &[(tar::Header, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (header, content) in members {
        let mut header = header.clone();
        header.set_cksum();
        builder.append(&header, &content[..]).expect("written");
    }
    builder.into_inner().expect("written")
}

/// Returns every file of a cache that holds results.
fn results(cache: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["cas", "ac", "last", "tmp"] {
        let mut left = vec![cache.join("v1").join(folder)];
        while let Some(path) = left.pop() {
            match std::fs::read_dir(&path) {
                Ok(entries) => left.extend(entries.map(|entry| entry.expect("listed").path())),
                Err(_) => found.push(path.display().to_string()),
            }
        }
    }
    found
}

#[test]
fn what_is_taken_in_is_cached_and_nothing_above_it_runs() {
    let bench = chain(60);
    bench.run_json([]);
    let outcome = export(&bench, &["both"]);
    assert!(outcome.stdout.contains("1 result with") && outcome.stdout.contains("records of 2 more"), "{outcome:?}");
    let other = elsewhere(&bench, 60);
    let outcome = other.run(["bundle", "import", "x.tar.zst"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let plan = other.run(["plan", "pipeline.toml", "--only", "both"]);
    assert!(plan.stdout.contains("3 stages: 3 cached"), "{plan:?}");
    assert!(plan.stdout.contains("its bytes are elsewhere, and nothing here needs them"), "{plan:?}");
    assert_eq!(other.statuses(["--only", "both"]), ["items cached", "copy cached", "both cached"]);
    // Its bytes are there, so that what comes after it runs, and ends in the same.
    let (object, _) = other.run_json([]);
    let statuses: Vec<&str> =
        object["stages"].as_array().expect("a list").iter().filter_map(|stage| stage["status"].as_str()).collect();
    assert_eq!(statuses, ["cached", "cached", "cached", "ran", "ran"]);
    let (first, _) = bench.run_json([]);
    assert_eq!(first["stages"][4]["output"], object["stages"][4]["output"]);
    let verified = other.run(["cache", "verify"]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    assert_eq!(other.run(["bundle", "import", "x.tar.zst"]).code, Some(0), "twice is no harm");
}

#[test]
fn a_result_without_its_bytes_is_made_when_somebody_needs_it() {
    let bench = chain(60);
    bench.run_json([]);
    export(&bench, &["both"]);
    let other = elsewhere(&bench, 60);
    other.run(["bundle", "import", "x.tar.zst"]);
    // Asked for itself.
    let plan = other.run(["plan", "pipeline.toml", "--only", "copy"]);
    assert!(plan.stdout.contains("its record is here and its bytes are not"), "{plan:?}");
    assert_eq!(other.statuses(["--only", "copy"]), ["items ran", "copy ran"]);
    let verified = other.run(["cache", "verify"]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    // Or by a stage that the bundle knew nothing of.
    let other = elsewhere(&bench, 60);
    other.run(["bundle", "import", "x.tar.zst"]);
    let more = "\n[stages.new]\nkind = \"debug.copy\"\nsuffix = \"?\"\ninputs = { a = \"copy\" }\n";
    other.write("pipeline.toml", format!("{}{more}", crate::run::CHAIN));
    let plan = other.run(["plan", "pipeline.toml", "--only", "new"]);
    assert!(plan.stdout.contains("waits for copy") || plan.stdout.contains("waits for items"), "{plan:?}");
    let new = other.statuses(["--only", "new", "--only", "both"]);
    assert_eq!(new, ["items ran", "copy ran", "both cached", "new ran"]);
    assert_eq!(other.run(["cache", "verify"]).code, Some(0));
    let shown = other.run(["show", "pipeline.toml", "copy"]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
}

#[test]
fn with_inputs_everything_is_there() {
    let bench = chain(5);
    bench.run_json([]);
    export(&bench, &["both", "--with-inputs"]);
    let other = elsewhere(&bench, 5);
    other.run(["bundle", "import", "x.tar.zst"]);
    assert_eq!(other.statuses(["--only", "copy"]), ["items cached", "copy cached"]);
    // Its shards are known one by one.
    other.write("items/i0.txt", "another");
    let (object, outcome) = other.run_json(["--only", "both"]);
    assert_eq!(object["stages"][2]["status"], "ran", "{outcome:?}");
    let list = other.run(["bundle", "list", "x.tar.zst"]);
    assert!(list.stdout.contains("with its bytes") && list.stdout.contains("of pipeline `chain`"), "{list:?}");
    // All of it, where no stage is named.
    let all = export(&bench, &[]);
    assert!(all.stdout.starts_with("5 results with"), "{all:?}");
}

#[test]
fn shards_of_a_bundle_are_worth_something_where_an_image_differs() {
    let bench = chain(200);
    bench.run_json([]);
    export(&bench, &["copy", "--with-inputs"]);
    let other = elsewhere(&bench, 200);
    other.run(["bundle", "import", "x.tar.zst"]);
    other.write("items/i7.txt", "another");
    other.run_json(["--only", "copy"]);
    let started = other.events("step.started");
    assert!(started.iter().all(|event| event["actions"] == 1 && event["cached"] == 7), "{started:?}");
}

#[test]
fn the_same_results_are_the_same_bytes() {
    let bench = chain(60);
    bench.run_json([]);
    export(&bench, &["copy", "both"]);
    let first = bench.read("x.tar.zst");
    export(&bench, &["both", "copy"]);
    assert_eq!(first, bench.read("x.tar.zst"));
    // Also out of the cache that took it in.
    let other = elsewhere(&bench, 60);
    other.run(["bundle", "import", "x.tar.zst"]);
    other.run(["bundle", "export", "pipeline.toml", "copy", "both", "--to", "y.tar.zst"]);
    assert_eq!(first, other.read("y.tar.zst"));
}

#[test]
fn what_is_not_there_cannot_be_written() {
    let bench = chain(2);
    let outcome = bench.run(["bundle", "export", "pipeline.toml", "copy", "--to", "x.tar.zst"]);
    assert_eq!(outcome.code, Some(1));
    insta::assert_snapshot!(outcome.stderr, @r"
    error: stage `copy` has no result yet: waits for items
    help: make it: orandflow run pipeline.toml --only copy
    ");
    assert!(!bench.path("x.tar.zst").exists());
    bench.run_json([]);
    let blob = std::fs::read_dir(bench.path("cache/v1/cas")).expect("listed").flatten().map(|entry| entry.path());
    let blobs: Vec<_> = blob.flat_map(|folder| std::fs::read_dir(folder).expect("listed").flatten()).collect();
    for blob in blobs {
        let length = blob.metadata().expect("there").len();
        std::fs::write(blob.path(), vec![0; length as usize]).expect("damaged");
    }
    let outcome = bench.run(["bundle", "export", "pipeline.toml", "text", "--to", "x.tar.zst"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let left = std::fs::read_dir(bench.folder()).expect("listed").flatten();
    let left: Vec<_> = left.filter(|entry| entry.file_name().to_string_lossy().contains("orandflow")).collect();
    assert!(left.is_empty() && !bench.path("x.tar.zst").exists(), "{left:?}");
}

#[test]
fn whatever_is_wrong_with_a_bundle_is_said_and_nothing_is_taken_in() {
    let bench = chain(60);
    bench.run_json([]);
    export(&bench, &["text"]);
    let whole = bench.read("x.tar.zst");
    let tar = unpack(&bench);
    let good = members(&tar);
    let changed = |change: &dyn Fn(&mut Members)| {
        let mut members = good.clone();
        change(&mut members);
        pack(&join(&members))
    };
    let named = |members: &mut Members, at: usize, name: &[u8]| {
        let field = &mut members[at].0.as_old_mut().name;
        field.fill(0);
        field[..name.len()].copy_from_slice(name);
    };
    let index = |from: &str, to: &str| {
        changed(&|members| {
            let text = String::from_utf8(members[0].1.clone()).expect("JSON");
            assert!(text.contains(from));
            members[0].1 = text.replacen(from, to, 1).into_bytes();
            let length = members[0].1.len() as u64;
            members[0].0.set_size(length);
        })
    };
    let record = good.len() - 1;
    let blob_size = format!(",{}]", good[1].1.len());
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", Vec::new(), "is no bundle"),
        ("another file", b"PK\x03\x04 and so on".to_vec(), "is no bundle"),
        ("an empty tar", pack(&join(&[])), "is no bundle"),
        ("another tar", pack(&join(&good[1..])), "is no bundle"),
        ("cut short", whole[..whole.len() / 2].to_vec(), "is damaged: it ends too early"),
        ("cut near its end", whole[..whole.len() - 3].to_vec(), "is damaged"),
        ("a tar cut short", pack(&tar[..tar.len() / 2]), "is damaged"),
        ("more behind it", [whole.clone(), b"more".to_vec()].concat(), "is damaged"),
        ("another frame behind it", [whole.clone(), pack(&[7; 100])].concat(), "something stands behind its end"),
        ("a member more", changed(&|members| members.push(good[1].clone())), "stands behind its end"),
        ("a member less", changed(&|members| drop(members.remove(2))), "stands where"),
        ("no record", changed(&|members| drop(members.remove(record))), "is missing at its end"),
        ("other bytes", changed(&|members| members[1].1[0] ^= 1), "has other bytes than its name says"),
        ("another record", changed(&|members| members[record].1[5] ^= 1), "the record"),
        ("a link", changed(&|members| members[1].0.set_entry_type(tar::EntryType::Symlink)), "is not a plain file"),
        ("a hard link", changed(&|members| members[1].0.set_entry_type(tar::EntryType::Link)), "is not a plain file"),
        ("a long name", changed(&|m| m[1].0.set_entry_type(tar::EntryType::GNULongName)), "is not a plain file"),
        ("a way out", changed(&|members| named(members, 1, b"../../../escaped")), "`../../../escaped` stands where"),
        ("an absolute path", changed(&|members| named(members, 1, b"/tmp/escaped")), "`/tmp/escaped` stands where"),
        ("a later format", index("\"format\":1", "\"format\":2"), "has format 2"),
        ("an unknown field", index("\"format\":1", "\"format\":1,\"more\":1"), "its index cannot be read"),
        ("a huge blob", index(&blob_size, ",9000000000000000000]"), "unpacks to 9"),
        ("huge blobs", index(&blob_size, ",18446744073709551615]"), "unpacks to 18446744073709551615"),
        ("another size", index(&blob_size, ",7]"), "and its index says 7"),
        ("bytes that are not there", index("\"bytes\":false", "\"bytes\":true"), "its index and its records differ"),
    ];
    for (name, bytes, says) in cases {
        let other = chain(60);
        other.write("x.tar.zst", bytes);
        for dry in [true, false] {
            let flag: &[&str] = if dry { &["--dry-run"] } else { &[] };
            let outcome = other.run(["bundle", "import", "x.tar.zst"].into_iter().chain(flag.iter().copied()));
            let expected = if says == "is no bundle" { 2 } else { 1 };
            assert_eq!(outcome.code, Some(expected), "{name}: {outcome:?}");
            assert!(
                outcome.stderr.starts_with("error: the bundle `x.tar.zst` cannot be taken in: it "),
                "{name}: {outcome:?}"
            );
            assert!(outcome.stderr.contains(says), "{name}: {outcome:?}");
            assert!(outcome.stderr.lines().count() <= 2, "{name}: {outcome:?}");
        }
        assert_eq!(results(&other.path("cache")), Vec::<String>::new(), "{name}");
    }
    assert!(!Path::new("/tmp/escaped").exists());
    let other = chain(60);
    other.write("x.tar.zst", &whole);
    let dry = other.run(["bundle", "import", "x.tar.zst", "--dry-run"]);
    assert!(dry.stdout.ends_with("all of it is intact\n"), "{dry:?}");
    assert_eq!(results(&other.path("cache")), Vec::<String>::new());
}

#[test]
fn a_bomb_takes_neither_memory_nor_disk() {
    // A member of 4 GB of zeros, which packs to some 100 kB; its name is right.
    let bench = chain(2);
    let digest = Digest::of(b"whatever");
    let size = 4_u64 << 30;
    let index =
        format!("{{\"format\":1,\"pipeline\":\"p\",\"stages\":[],\"records\":[],\"blobs\":[[\"{digest}\",{size}]]}}");
    let header = |name: &str, size: u64| {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).expect("short");
        header.set_size(size);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o644);
        header.set_cksum();
        header
    };
    let mut packed = zstd::Encoder::new(Vec::new(), 1).expect("a packer");
    let mut tar = tar::Builder::new(&mut packed);
    tar.append(&header("orandflow-bundle.json", index.len() as u64), index.as_bytes()).expect("written");
    let zeros = std::io::Read::take(std::io::repeat(0), 64 << 20);
    // The rest is missing: it is refused long before.
    let _ = tar.append(&header(&format!("cas/{digest}"), size), zeros);
    drop(tar);
    bench.write("x.tar.zst", packed.finish().expect("packed"));
    let outcome = bench.run(["bundle", "import", "x.tar.zst"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("it unpacks to 4294967296 bytes, and 1073741824 are allowed"), "{outcome:?}");
    assert!(outcome.stderr.contains("--max-size"), "{outcome:?}");
    // Allowed, it is cut short, in little memory.
    let line =
        format!("ulimit -v 1500000; exec {} bundle import x.tar.zst --max-size 5GB", env!("CARGO_BIN_EXE_orandflow"));
    let output = std::process::Command::new("sh").args(["-c", &line]).current_dir(bench.folder()).output();
    let stderr = String::from_utf8_lossy(&output.expect("sh starts").stderr).into_owned();
    assert!(stderr.contains("it is damaged: "), "{stderr}");
    // An index that never ends is not read to its end.
    let mut packed = zstd::Encoder::new(Vec::new(), 1).expect("a packer");
    let mut tar = tar::Builder::new(&mut packed);
    let spaces = std::io::Read::take(std::io::repeat(b' '), 80 << 20);
    tar.append(&header("orandflow-bundle.json", 80 << 20), spaces).expect("written");
    drop(tar);
    bench.write("x.tar.zst", packed.finish().expect("packed"));
    let outcome = bench.run(["bundle", "import", "x.tar.zst"]);
    assert!(outcome.stderr.contains("has 83886080 bytes, more than any bundle's"), "{outcome:?}");
}

#[test]
fn another_result_under_the_same_key_stays() {
    // Two machines that disagree: the same record, but for its output.
    let bench = chain(3);
    bench.run_json([]);
    export(&bench, &["text"]);
    let other = elsewhere(&bench, 3);
    other.run_json([]);
    let (object, _) = other.run_json([]);
    let key: Digest = object["stages"][3]["key"].as_str().expect("a key").parse().expect("a digest");
    let store = orandflow::store::Store::open(&other.path("cache")).expect("a cache");
    let blob = store.put(b"another", false).expect("written");
    let record = orandflow::store::actions::Record::whole(blob, vec![(blob, 7)], Vec::new(), Default::default());
    store.record(key, &record, false).expect("written");
    let outcome = other.run(["bundle", "import", "x.tar.zst"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stdout.contains("stage `text` has another result in this cache"), "{outcome:?}");
    assert!(matches!(store.lookup(key), orandflow::store::actions::Lookup::Hit(found) if found.output == Some(blob)));
}

#[test]
fn a_bundle_may_come_in_beside_a_run_and_collections() {
    let bench = chain(150);
    bench.run_json([]);
    export(&bench, &["both", "--with-inputs"]);
    let other = elsewhere(&bench, 150);
    let quiet = |arguments: &[&str]| {
        let mut command = other.command(arguments.iter().copied());
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        command.spawn().expect("the program starts")
    };
    let run = quiet(&["run", "pipeline.toml", "--set", "stages.copy.wait=100"]);
    crate::run::wait_for(&other, "step.started", "copy");
    let mut running = [run, quiet(&["bundle", "import", "x.tar.zst"]), quiet(&["bundle", "import", "x.tar.zst"])];
    while running.iter_mut().any(|child| child.try_wait().expect("it can be asked").is_none()) {
        assert_eq!(other.run(["cache", "gc"]).code, Some(0));
    }
    for mut child in running {
        assert_eq!(child.wait().expect("it ends").code(), Some(0));
    }
    let verified = other.run(["cache", "verify"]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    let ((first, _), (second, _)) = (bench.run_json([]), other.run_json([]));
    for (one, other) in
        first["stages"].as_array().expect("a list").iter().zip(second["stages"].as_array().expect("a list"))
    {
        assert_eq!((&one["output"], &one["status"]), (&other["output"], &other["status"]));
    }
}

#[test]
fn an_import_that_is_killed_leaves_nothing_half() {
    let bench = chain(150);
    bench.run_json([]);
    export(&bench, &["both", "--with-inputs"]);
    let other = elsewhere(&bench, 150);
    for pause in [2, 5, 10, 15, 20] {
        let mut command = other.command(["bundle", "import", "x.tar.zst"]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut child = command.spawn().expect("the program starts");
        std::thread::sleep(std::time::Duration::from_millis(pause));
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
        let verified = other.run(["cache", "verify"]);
        assert_eq!(verified.code, Some(0), "after {pause} ms: {verified:?}");
        assert!(crate::shared::names(&other.path("cache/v1/tmp")).is_empty(), "after {pause} ms");
    }
    assert_eq!(other.run(["bundle", "import", "x.tar.zst"]).code, Some(0));
    assert_eq!(other.statuses(["--only", "both"]), ["items cached", "copy cached", "both cached"]);
}
