//! The catalogue, the schema and the completions.

use crate::workbench::Workbench;
use orandflow::stages::catalog;

/// Runs a verb that must succeed; returns its stdout.
fn stdout(arguments: &[&str]) -> String {
    let outcome = Workbench::new().run(arguments.iter().copied());
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
    outcome.stdout
}

#[test]
fn every_kind_is_listed_and_test_furniture_only_on_request() {
    let (shown, all) = (stdout(&["stages"]), stdout(&["stages", "--all"]));
    for kind in catalog() {
        let spec = kind.spec();
        let line = |text: &str| text.lines().any(|line| line.contains(spec.name) && line.ends_with(spec.about));
        assert!(line(&all), "{}", spec.name);
        assert_eq!(line(&shown), !spec.name.starts_with("debug."), "{}", spec.name);
    }
}

#[test]
fn a_kind_is_explained() {
    insta::assert_snapshot!(stdout(&["stages", "debug.copy"]), @r#"
    debug.copy: Items as they come, with a suffix, to try out the engine

    makes an image set, image by image, in shards; it has as many GPUs as its `resources` say

    ports
      a  ImageSet or CamSet or SeedSet or MaskSet or ScoreSet: items
      b  ImageSet or CamSet or SeedSet or MaskSet or ScoreSet (optional): items whose text is added behind those of `a`

    parameters
      note: a whole number; default 0
          Part of the key without any effect on the result.
      refuse: a string; default not set
          Refuses the shard that has this item.
      share: `true` or `false`; default false; not part of the key
          Shares something with its other shards and warns when it has to make it; not part of the key.
      suffix: a string; default ""
          Written behind every item.
      wait: a whole number; default 0; not part of the key
          Milliseconds to wait in every shard; not part of the key.
    "#);
}

#[test]
fn an_unknown_kind_is_refused() {
    let outcome = Workbench::new().run(["stages", "debug.cpy"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""));
    insta::assert_snapshot!(outcome.stderr, @"
    error: unknown kind `debug.cpy`
    help: did you mean `debug.copy`?
    ");
}

#[test]
fn every_parameter_has_a_meaning() {
    for kind in catalog() {
        let schema = kind.schema().to_value();
        for (name, field) in orandflow::plan::shape::fields(&schema).into_iter().flatten() {
            let about = orandflow::plan::shape::description(field);
            assert!(about.is_some_and(|about| about.len() > 10), "parameter `{name}` of `{}`", kind.spec().name);
        }
    }
}

#[test]
fn the_markdown_catalogue_has_a_section_and_a_row_for_everything() {
    let markdown = stdout(&["stages", "--markdown"]);
    for kind in catalog().iter().filter(|kind| !kind.spec().name.starts_with("debug.")) {
        let heading = format!("\n### `{}`\n", kind.spec().name);
        let section = markdown.split(&heading).nth(1).expect("every kind has a section");
        let section = section.split("\n### ").next().expect("a section ends");
        let schema = kind.schema().to_value();
        let fields = orandflow::plan::shape::fields(&schema).into_iter().flatten().map(|(name, _)| name.as_str());
        for word in kind.spec().inputs.iter().map(|port| port.name).chain(fields) {
            assert!(section.contains(&format!("\n| `{word}` | ")), "`{word}` of `{}`", kind.spec().name);
        }
    }
    // Every row of a table has as many cells as its head.
    let bars = |line: &str| line.replace("\\|", "").matches('|').count();
    for pair in markdown.lines().collect::<Vec<_>>().windows(2) {
        assert!(
            !pair[0].starts_with('|') || !pair[1].starts_with('|') || bars(pair[0]) == bars(pair[1]),
            "{}",
            pair[1]
        );
    }
}

#[test]
fn the_schema_describes_every_kind_with_its_ports_and_parameters() {
    let schema: serde_json::Value = serde_json::from_str(&stdout(&["schema"])).expect("the schema is JSON");
    assert_eq!(schema["$schema"], "http://json-schema.org/draft-07/schema#");
    let choices = schema["properties"]["stages"]["additionalProperties"]["oneOf"].as_array().expect("a list of kinds");
    let shown: Vec<_> = catalog().iter().filter(|kind| !kind.spec().name.starts_with("debug.")).collect();
    // The last one is a stage that is like another.
    assert_eq!(choices.len(), shown.len() + 1);
    for (kind, choice) in shown.iter().zip(choices) {
        let spec = kind.spec();
        let pointer =
            choice["$ref"].as_str().and_then(|path| path.strip_prefix('#')).expect("a reference into the schema");
        let stage = schema.pointer(pointer).expect("the reference leads somewhere");
        assert_eq!(stage["properties"]["kind"]["const"], spec.name);
        assert_eq!(stage["additionalProperties"], false);
        for port in spec.inputs {
            assert!(stage["properties"]["inputs"]["properties"][port.name].is_object(), "{} {}", spec.name, port.name);
        }
        let parameters = kind.schema().to_value();
        for (name, _) in orandflow::plan::shape::fields(&parameters).into_iter().flatten() {
            assert!(stage["properties"][name].is_object(), "{} {name}", spec.name);
        }
    }
}

#[test]
fn completions_name_every_verb() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout(&["completions", shell]);
        for verb in ["run", "plan", "graph", "show", "export", "stages", "schema", "cache", "completions"] {
            assert!(script.contains(verb), "{verb} in {shell}");
        }
    }
}
