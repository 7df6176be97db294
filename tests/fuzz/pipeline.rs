//! Fuzzes the front end: a pipeline file, a sweep over it and a `--set` argument, apart by a byte that TOML does not have. No input
//! may make it panic, recurse, or take more memory than the limits of variables and sweeps allow.
#![no_main]

use std::path::Path;
use std::sync::atomic::Ordering;

mod counting;

use counting::{MOST, NOW};
use libfuzzer_sys::fuzz_target;
use orandflow::diag::Source;
use orandflow::pipeline::{self, Texts};
use orandflow::report::draw;
use orandflow::stages::catalog;
use orandflow::{plan, sweep};

/// Stands between the texts of an input.
const BETWEEN: char = '\u{1}';

/// Bytes of memory, at most: 16 MiB of text out of variables, which lie in the table, in the parameters and in the key; and the two
/// hundred thousand stages that the points of a sweep may have.
const LIMIT: usize = 1 << 30;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let mut texts = text.splitn(3, BETWEEN);
    let (pipeline, over) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
    let sets: Vec<String> = texts.map(str::to_owned).collect();
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let read = Texts::new("a.toml", pipeline, &sets);
    let plan = pipeline::parse(&read).and_then(|pipeline| plan::lower(pipeline, catalog()));
    let source = |text: &str| Source { name: "a.toml".to_owned(), text: text.to_owned() };
    let sources = if over.is_empty() { vec![source(pipeline)] } else { vec![source(pipeline), source(over)] };
    let swept = sweep::of_texts(Path::new("a.toml"), sources, &sets, catalog());
    for faults in [plan.err(), swept.err()].into_iter().flatten() {
        assert!(!faults.is_empty(), "refused without a reason");
        let _ = draw::diagnostics(&faults, false);
    }
    let taken = MOST.load(Ordering::Relaxed).saturating_sub(before);
    assert!(taken <= LIMIT, "{taken} bytes of memory for {} bytes of input", bytes.len());
});
