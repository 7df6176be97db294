//! Every dependency has a licence under which a program that is MIT OR Apache-2.0 may use it.

use std::path::Path;
use std::process::Command;

/// Licences that ask for no more than a notice. MPL-2.0 covers only its own files.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "IJG",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "NCSA",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Returns whether one of the alternatives of an SPDX expression consists of allowed licences only.
///
/// Good for the forms that crates use: `A OR B`, `A AND B`, `A/B`, and `(A OR B) AND C`.
fn is_allowed(expression: &str) -> bool {
    let expression = expression.trim();
    let outer = |separator: &str| -> Option<Vec<String>> {
        let mut depth = 0;
        let (mut parts, mut start) = (Vec::new(), 0);
        for (at, character) in expression.char_indices() {
            match character {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ if depth == 0 && expression[at..].starts_with(separator) => {
                    parts.push(expression[start..at].to_owned());
                    start = at + separator.len();
                }
                _ => {}
            }
        }
        parts.push(expression[start..].to_owned());
        (parts.len() > 1).then_some(parts)
    };
    if let Some(alternatives) = outer(" OR ").or_else(|| outer("/")) {
        alternatives.iter().any(|part| is_allowed(part))
    } else if let Some(together) = outer(" AND ") {
        together.iter().all(|part| is_allowed(part))
    } else if let Some(inner) = expression.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
        is_allowed(inner)
    } else {
        ALLOWED.contains(&expression)
    }
}

#[test]
fn expressions_are_read_as_spdx_means_them() {
    assert!(is_allowed("MIT OR GPL-3.0-only"));
    assert!(is_allowed("MIT/Apache-2.0"));
    assert!(is_allowed("(MIT OR Apache-2.0) AND Unicode-3.0"));
    assert!(!is_allowed("MIT AND GPL-3.0-only"));
    assert!(!is_allowed("(GPL-2.0-only OR GPL-3.0-only) AND MIT"));
    assert!(!is_allowed("GPL-3.0-only"));
}

#[test]
fn every_dependency_may_be_used() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--features", "libtorch"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();

    // Only what this build would link or run: the resolved graph, not every optional crate in the lock file.
    let resolved: std::collections::BTreeSet<String> =
        metadata["resolve"]["nodes"].as_array().expect("a graph").iter().map(|node| text(&node["id"])).collect();
    let packages = metadata["packages"].as_array().expect("a list of packages");
    let refused: Vec<String> = packages
        .iter()
        .filter(|package| resolved.contains(&text(&package["id"])))
        .filter(|package| package["license_file"].is_null() || !package["license"].is_null())
        .filter(|package| !is_allowed(&text(&package["license"])))
        .map(|package| {
            format!("{} {}: {}", text(&package["name"]), text(&package["version"]), text(&package["license"]))
        })
        .collect();
    assert!(packages.len() > 50, "the graph of dependencies is there");
    assert!(refused.is_empty(), "licences to look at: {refused:#?}");
}
