//! Pictures of a pipeline.

use crate::workbench::Workbench;

const PIPELINE: &str = r#"
[pipeline]
name = "two branches"
seed = 7

[vars]
data = "data"

[stages.table]
kind = "debug.metrics"
inputs = { b = "right", a = "left" }

[stages.left]
kind = "debug.copy"
inputs = { a = "items" }

[stages.items]
kind = "debug.items"
folder = "${data}"

[stages.right]
kind = "debug.copy"
suffix = "x"
inputs = { a = "items", b = "left" }
"#;

/// Draws the pipeline; returns what is on stdout.
fn drawn(more: &[&str]) -> String {
    let bench = Workbench::new().pipeline(PIPELINE);
    let outcome = bench.run(["graph", "pipeline.toml"].into_iter().chain(more.iter().copied()));
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
    outcome.stdout
}

#[test]
fn text() {
    insta::assert_snapshot!(drawn(&[]), @"
    two branches: 4 stages, seed 7

      0  items  debug.items
      1  left   debug.copy     <- a = items
      2  right  debug.copy     <- a = items, b = left
      3  table  debug.metrics  <- a = left, b = right
    ");
}

#[test]
fn overrides_rewire_the_graph() {
    insta::assert_snapshot!(drawn(&["--set", "stages.right.inputs.b=items", "--set", "pipeline.seed=8"]), @"
    two branches: 4 stages, seed 8

      0  items  debug.items
      1  left   debug.copy     <- a = items
         right  debug.copy     <- a = items, b = items
      2  table  debug.metrics  <- a = left, b = right
    ");
}

#[test]
fn dot() {
    insta::assert_snapshot!(drawn(&["--format", "dot"]), @r#"
    digraph "two branches" {
      rankdir = TB;
      node [shape = box, style = rounded, fontname = "sans-serif"];
      edge [fontname = "sans-serif", fontsize = 10];
      "items" [label = "items\ndebug.items"];
      "left" [label = "left\ndebug.copy"];
      "right" [label = "right\ndebug.copy"];
      "table" [label = "table\ndebug.metrics"];
      "items" -> "left" [label = "a"];
      "items" -> "right" [label = "a"];
      "left" -> "right" [label = "b"];
      "left" -> "table" [label = "a"];
      "right" -> "table" [label = "b"];
    }
    "#);
}

#[test]
fn mermaid() {
    insta::assert_snapshot!(drawn(&["--format", "mermaid"]), @r#"
    flowchart TD
      s0["items<br/>debug.items"]
      s1["left<br/>debug.copy"]
      s2["right<br/>debug.copy"]
      s3["table<br/>debug.metrics"]
      s0 -->|a| s1
      s0 -->|a| s2
      s1 -->|b| s2
      s1 -->|a| s3
      s2 -->|b| s3
    "#);
}

#[test]
fn svg() {
    let svg = drawn(&["--format", "svg"]);
    let document = roxmltree::Document::parse(&svg).expect("the picture is XML");
    let texts: Vec<&str> =
        document.descendants().filter(|node| node.has_tag_name("text")).filter_map(|node| node.text()).collect();
    for word in ["items", "left", "right", "table", "debug.items", "debug.metrics"] {
        assert!(texts.contains(&word), "{word}");
    }
    let count = |class: &str| document.descendants().filter(|node| node.attribute("class") == Some(class)).count();
    assert_eq!((count("edge"), count("tip")), (5, 5));
    assert!(svg.contains("prefers-color-scheme: dark"));
    // Boxes do not overlap.
    let number = |node: &roxmltree::Node<'_, '_>, name: &str| node.attribute(name)?.parse::<f64>().ok();
    let boxes: Vec<_> = document
        .descendants()
        .filter(|node| node.has_tag_name("rect"))
        .filter_map(|node| {
            Some((number(&node, "x")?, number(&node, "y")?, number(&node, "width")?, number(&node, "height")?))
        })
        .collect();
    assert_eq!(boxes.len(), 4);
    for (at, one) in boxes.iter().enumerate() {
        for other in &boxes[at + 1..] {
            let apart = one.0 + one.2 <= other.0
                || other.0 + other.2 <= one.0
                || one.1 + one.3 <= other.1
                || other.1 + other.3 <= one.1;
            assert!(apart, "{one:?} and {other:?}");
        }
    }
}

#[test]
fn a_picture_goes_to_a_file_on_request() {
    let bench = Workbench::new().pipeline(PIPELINE);
    let outcome = bench.run(["graph", "pipeline.toml", "--format", "dot", "--out", "graph.dot"]);
    assert_eq!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (Some(0), "", ""));
    assert_eq!(bench.read("graph.dot"), drawn(&["--format", "dot"]).as_bytes());
    let outcome = bench.run(["graph", "pipeline.toml", "--out", "no/folder/graph.txt"]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("no/folder/graph.txt"), "{}", outcome.stderr);
}

#[test]
fn a_file_that_is_not_there_is_said_to_be_missing() {
    let outcome = Workbench::new().run(["graph", "missing.toml"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""));
    insta::assert_snapshot!(outcome.stderr, @"
    error: the pipeline file `missing.toml` cannot be read: no such file or directory
    help: paths are relative to the working directory
    ");
}
