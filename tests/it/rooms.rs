//! The order of the rooms of `src/`: what each may import, read from every `crate::` in it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Of each room the rooms it may know, or single files of them. What is not named here may not be imported.
const MAY_KNOW: &[(&str, &[&str])] = &[
    // Words that everything may use.
    ("digest", &[]),
    ("diag", &[]),
    ("kind", &[]),
    // The craft: no graph, no cache; an artifact is read through its manifest.
    ("image", &[]),
    ("metric", &["image"]),
    ("foreign", &[]),
    ("artifact", &["digest", "kind", "image", "foreign", "store::manifest"]),
    ("data", &["image", "artifact", "foreign", "digest"]),
    ("nn", &["image", "artifact", "digest"]),
    // The engine: no image, no tensor.
    ("store", &["digest", "kind"]),
    ("pipeline", &["diag"]),
    ("stage", &["store", "kind", "digest", "diag"]),
    ("plan", &["pipeline", "stage", "store", "kind", "digest", "diag"]),
    ("run", &["plan", "store", "stage", "kind", "digest", "diag"]),
    ("slurm", &["run", "plan", "pipeline::resources", "store", "stage", "digest", "diag"]),
    ("sweep", &["plan", "pipeline", "stage", "store", "digest", "diag"]),
    // Where they meet.
    ("stages", &["stage", "artifact", "image", "foreign", "nn", "data", "metric", "kind", "digest", "store::manifest"]),
    // What people see.
    ("report", &["sweep", "run", "plan", "stage", "artifact", "image", "kind", "digest", "diag", "store::manifest"]),
    (
        "cli",
        &[
            "report", "sweep", "slurm", "stages", "run", "plan", "pipeline", "stage", "store", "artifact", "image",
            "foreign", "metric", "data", "nn", "kind", "digest", "diag",
        ],
    ),
];

/// The files that only hold the house together; the allocator is the program's and its benchmarks'.
const DOORS: &[&str] = &["lib", "main", "allocator"];

#[test]
fn no_room_knows_what_lies_above_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for file in files(&src) {
        let inner = file.strip_prefix(&src).expect("it lies in src").with_extension("");
        let room = inner.iter().next().and_then(|room| room.to_str()).expect("a room has a name").to_owned();
        if DOORS.contains(&room.as_str()) {
            continue;
        }
        let Some((_, allowed)) = MAY_KNOW.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("room `{room}` has no line in the table of this test"));
            continue;
        };
        let text = std::fs::read_to_string(&file).expect("source is UTF-8");
        for path in imports(&text) {
            let other = path.split("::").next().unwrap_or_default();
            let fits = |known: &&str| *known == other || path == **known || path.starts_with(&format!("{known}::"));
            if other != room && !allowed.iter().any(fits) {
                wrong.push(format!("{} imports `crate::{path}`", file.display()));
            }
        }
        seen.insert(room);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (room, _) in MAY_KNOW {
        assert!(seen.contains(*room), "room `{room}` is in the table and not in src");
    }
}

#[test]
fn petgraph_and_annotate_snippets_have_one_room_each() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (name, home) in [("petgraph", "plan/graph.rs"), ("annotate_snippets", "report/draw.rs")] {
        for file in files(&src) {
            let text = std::fs::read_to_string(&file).expect("source is UTF-8");
            assert_eq!(text.contains(&format!("use {name}")), file == src.join(home), "{name} in {}", file.display());
        }
    }
}

#[test]
fn imports_are_found_in_every_form() {
    let text = "use crate::a::b;\nuse crate::{c, d::{e, f}, g::h as i};\n// crate::no\n/// [`crate::no`]\n\
                fn x() { crate::j::k(); }\n#[cfg(test)]\nmod tests {\n    use crate::l;\n}\n";
    assert_eq!(imports(text), ["a::b", "c", "d", "g::h", "j::k"]);
}

/// Returns every Rust file below a folder, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the folder can be listed") {
        let path = entry.expect("its entries can be read").path();
        if path.is_dir() {
            all.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push(path);
        }
    }
    all.sort();
    all
}

/// Returns the first two words of every path behind `crate::`, outside of comments and of unit tests, which may know more.
fn imports(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    let code = lines.collect::<Vec<_>>().join("\n");
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => paths.extend(members(group).iter().map(|member| two_words(member))),
            None => paths.push(two_words(rest)),
        }
    }
    paths
}

/// Returns the members of a group, up to the brace that closes it.
fn members(group: &str) -> Vec<String> {
    let (mut depth, mut members) = (0, vec![String::new()]);
    for letter in group.chars() {
        match letter {
            '}' if depth == 0 => break,
            ',' if depth == 0 => members.push(String::new()),
            _ => {
                depth += i32::from(letter == '{') - i32::from(letter == '}');
                members.last_mut().expect("there is one").push(letter);
            }
        }
    }
    members.into_iter().map(|member| member.trim().to_owned()).filter(|member| !member.is_empty()).collect()
}

/// Returns the first two words of a path, or one where nothing or a group follows it.
fn two_words(path: &str) -> String {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let first = word(path);
    let second = path[first.len()..].strip_prefix("::").map(word).unwrap_or_default();
    if second.is_empty() { first } else { format!("{first}::{second}") }
}
