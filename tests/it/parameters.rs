//! A kind with every sort of parameter: what is said of wrong values, and what the key is made of.

use std::path::PathBuf;

use orandflow::kind::Kind;
use orandflow::pipeline::{self, Texts};
use orandflow::plan::{self, Plan};
use orandflow::report::draw;
use orandflow::stage::{Ctx, Listed, NotInKey, Output, Port, Spec, Stage, StageError, StageKind, Work};
use proptest::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

struct Probe;

/// How values are scaled.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Scale {
    /// Each class by itself.
    PerClass,
    /// All classes together.
    Global,
    /// Not at all.
    None,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Phase {
    /// Divisor of the size, a power of two.
    factor: u32,
    /// Last epoch of the phase.
    until: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Smoothing {
    /// Number of rounds.
    iterations: u8,
    /// Threads at work; the result is the same.
    #[serde(default)]
    threads: NotInKey<u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ProbeParams {
    /// Number of passes over
    /// the images. More is slower.
    epochs: u32,
    /// Learning rate of the first step, per image.
    #[serde(default = "default_rate")]
    learning_rate: f32,
    /// How values are scaled.
    #[serde(default = "default_scale")]
    scale: Scale,
    /// The schedule.
    #[serde(default)]
    phases: Vec<Phase>,
    /// Smoothing afterwards; without it there is none.
    #[serde(default)]
    smoothing: Option<Smoothing>,
    /// Whether images are mirrored.
    #[serde(default)]
    mirror: bool,
    /// A label for the result.
    #[serde(default)]
    label: String,
    /// Images per batch; the result is the same.
    #[serde(default)]
    batch: NotInKey<u32>,
    /// Where files lie; their content is what counts.
    #[serde(default)]
    folder: NotInKey<PathBuf>,
}

fn default_rate() -> f32 {
    0.1
}

fn default_scale() -> Scale {
    Scale::PerClass
}

impl Stage for Probe {
    type Params = ProbeParams;
    const SPEC: Spec = Spec {
        name: "test.probe",
        about: "Every sort of parameter",
        revision: 1,
        inputs: &[Port { name: "images", takes: &[Kind::ImageSet], optional: true, about: "what it is trained on" }],
        output: Kind::ImageSet,
        work: Work::Whole,
        seeded: false,
    };

    fn check(params: &ProbeParams) -> Result<(), StageError> {
        for (index, phase) in params.phases.iter().enumerate() {
            if !phase.factor.is_power_of_two() {
                return Err(StageError::parameter(format!("phases.{index}.factor"), "must be a power of two"));
            }
        }
        if params.learning_rate > 0.0 {
            return Ok(());
        }
        Err(StageError::parameter("learning_rate", "must be above 0"))
    }

    fn run(_params: &ProbeParams, _ctx: &Ctx<'_>) -> Result<Output, StageError> {
        Err(StageError::data("this kind is never run"))
    }
}

static CATALOG: &[&dyn StageKind] = &[&Listed::<Probe>::NEW];

/// Reads a pipeline; the error is what a person would see.
fn read(toml: &str) -> Result<Plan, String> {
    let texts = Texts::new("pipeline.toml", toml, &[]);
    let pipeline = pipeline::parse(&texts).map_err(|faults| draw::diagnostics(&faults, false))?;
    plan::lower(pipeline, CATALOG).map_err(|faults| draw::diagnostics(&faults, false))
}

fn complaint(body: &str) -> String {
    read(&format!("[stages.p]\nkind = \"test.probe\"\n{body}")).err().expect("this pipeline is wrong")
}

/// The parameters that are part of the key, of a stage with this body.
fn key_params(body: &str) -> serde_json::Value {
    let plan =
        read(&format!("[stages.p]\nkind = \"test.probe\"\n{body}")).unwrap_or_else(|fault| panic!("{fault}\n{body}"));
    plan.steps[0].key_params.clone()
}

#[test]
fn a_word_that_is_none() {
    let body = r#"epochs = 3
scale = "globl""#;
    insta::assert_snapshot!(complaint(body), @r#"
    error: `scale` of stage `p` cannot be `globl`
      ╭▸ pipeline.toml:4:9
      │
    4 │ scale = "globl"
      │         ━━━━━━━ expected one of `per_class`, `global`, `none`
      │
      ╰ help: did you mean `global`?
    "#);
}

#[test]
fn a_word_that_is_far_off() {
    let body = r#"epochs = 3
scale = "sometimes""#;
    insta::assert_snapshot!(complaint(body), @r#"
    error: `scale` of stage `p` cannot be `sometimes`
      ╭▸ pipeline.toml:4:9
      │
    4 │ scale = "sometimes"
      │         ━━━━━━━━━━━ expected one of `per_class`, `global`, `none`
      │
      ╰ help: `scale`: How values are scaled
    "#);
}

#[test]
fn fields_of_tables() {
    let body = r#"epochs = 3
smoothing = { iteratons = 3, width = 2 }"#;
    insta::assert_snapshot!(complaint(body), @"
    error: `smoothing` of stage `p` has no field `iteratons`
      ╭▸ pipeline.toml:4:15
      │
    4 │ smoothing = { iteratons = 3, width = 2 }
      │               ━━━━━━━━━
      │
      ╰ help: did you mean `iterations`?

    error: `smoothing` of stage `p` has no field `width`
      ╭▸ pipeline.toml:4:30
      │
    4 │ smoothing = { iteratons = 3, width = 2 }
      │                              ━━━━━
      │
      ╰ help: it has `iterations`, `threads`; `orandflow stages test.probe` explains them
    ");
}

#[test]
fn fields_of_tables_in_lists() {
    let body = r#"epochs = 3
phases = [{ factor = 2, until = "x" }, { factr = 3, until = 4 }, 5]"#;
    insta::assert_snapshot!(complaint(body), @r#"
    error: `phases.0.until` of stage `p` must be a whole number, not the string `x`
      ╭▸ pipeline.toml:4:33
      │
    4 │ phases = [{ factor = 2, until = "x" }, { factr = 3, until = 4 }, 5]
      │                                 ━━━ expected a whole number
      │
      ╰ help: `phases.0.until`: Last epoch of the phase

    error: `phases.1` of stage `p` has no field `factr`
      ╭▸ pipeline.toml:4:42
      │
    4 │ phases = [{ factor = 2, until = "x" }, { factr = 3, until = 4 }, 5]
      │                                          ━━━━━
      │
      ╰ help: did you mean `factor`?

    error: `phases.2` of stage `p` must be a table, not the whole number `5`
      ╭▸ pipeline.toml:4:66
      │
    4 │ phases = [{ factor = 2, until = "x" }, { factr = 3, until = 4 }, 5]
      ╰╴                                                                 ━ expected a table
    "#);
}

#[test]
fn a_field_that_must_be_given() {
    let body = r#"epochs = 3
phases = [{ factor = 2 }]"#;
    insta::assert_snapshot!(complaint(body), @"
    error: stage `p` has no `phases.0.until`
      ╭▸ pipeline.toml:4:11
      │
    4 │ phases = [{ factor = 2 }]
      │           ━━━━━━━━━━━━━━ kind `test.probe` needs it
      │
      ╰ help: `phases.0.until`: Last epoch of the phase
    ");
}

#[test]
fn a_misspelt_parameter_that_must_be_given() {
    let body = r#"epocs = 3"#;
    insta::assert_snapshot!(complaint(body), @"
    error: kind `test.probe` has no parameter `epocs`
      ╭▸ pipeline.toml:3:1
      │
    3 │ epocs = 3
      │ ━━━━━ written in stage `p`
      │
      ╰ help: did you mean `epochs`?
    ");
}

#[test]
fn a_parameter_that_must_be_given_with_its_meaning() {
    let body = r#"label = "x""#;
    insta::assert_snapshot!(complaint(body), @"
    error: stage `p` has no `epochs`
      ╭▸ pipeline.toml:1:9
      │
    1 │ [stages.p]
      │         ━ kind `test.probe` needs it
      │
      ╰ help: `epochs`: Number of passes over the images
    ");
}

#[test]
fn numbers_out_of_range() {
    let body = r#"epochs = 5000000000
smoothing = { iterations = 256 }
batch = -1"#;
    insta::assert_snapshot!(complaint(body), @"
    error: `epochs` of stage `p` must be at most 4294967295
      ╭▸ pipeline.toml:3:10
      │
    3 │ epochs = 5000000000
      │          ━━━━━━━━━━
      │
      ╰ help: `epochs`: Number of passes over the images

    error: `smoothing.iterations` of stage `p` must be at most 255
      ╭▸ pipeline.toml:4:28
      │
    4 │ smoothing = { iterations = 256 }
      │                            ━━━
      │
      ╰ help: `smoothing.iterations`: Number of rounds

    error: `batch` of stage `p` must be at least 0
      ╭▸ pipeline.toml:5:9
      │
    5 │ batch = -1
      │         ━━
      │
      ╰ help: `batch`: Images per batch; the result is the same
    ");
}

#[test]
fn a_nested_value_that_the_kind_refuses() {
    let body = r#"epochs = 3
phases = [{ factor = 2, until = 2 }, { factor = 3, until = 4 }]"#;
    insta::assert_snapshot!(complaint(body), @"
    error: `phases.1.factor` of stage `p`: must be a power of two
      ╭▸ pipeline.toml:4:49
      │
    4 │ phases = [{ factor = 2, until = 2 }, { factor = 3, until = 4 }]
      │                                                 ━
      │
      ╰ help: `phases.1.factor`: Divisor of the size, a power of two
    ");
}

#[test]
fn a_port_with_a_typing_error() {
    let body = r#"epochs = 3
inputs = { imags = "p" }"#;
    insta::assert_snapshot!(complaint(body), @r#"
    error: kind `test.probe` has no port `imags`
      ╭▸ pipeline.toml:4:12
      │
    4 │ inputs = { imags = "p" }
      │            ━━━━━
      │
      ╰ help: did you mean `images`?
    "#);
}

/// Returns a value as TOML.
fn toml(value: &impl Serialize) -> String {
    toml::Value::try_from(value).expect("it is TOML").to_string()
}

/// Returns the parameters as lines of TOML, in order of the struct. Values that are not part of the key are left out.
fn lines(params: &ProbeParams) -> Vec<String> {
    let mut lines = vec![
        format!("epochs = {}", params.epochs),
        format!("learning_rate = {:?}", params.learning_rate),
        format!("scale = {}", toml(&params.scale)),
        format!("phases = {}", toml(&params.phases)),
        format!("mirror = {}", params.mirror),
        format!("label = {}", toml(&params.label)),
    ];
    if let Some(smoothing) = &params.smoothing {
        lines.push(format!("smoothing = {{ iterations = {} }}", smoothing.iterations));
    }
    lines
}

prop_compose! {
    fn probes()(
        epochs in 0_u32..20,
        rate in prop_oneof![Just(0.1_f32), Just(0.05), Just(1.0), 0.001_f32..10.0],
        scale in prop_oneof![Just(Scale::PerClass), Just(Scale::Global), Just(Scale::None)],
        phases in prop::collection::vec((0_u32..5, 0_u32..9), 0..3),
        iterations in prop::option::of(0_u8..9),
        mirror in any::<bool>(),
        label in "[ -~]{0,6}",
    ) -> ProbeParams {
        ProbeParams {
            epochs,
            learning_rate: rate,
            scale,
            phases: phases.into_iter().map(|(power, until)| Phase { factor: 1 << power, until }).collect(),
            smoothing: iterations.map(|iterations| Smoothing { iterations, threads: NotInKey(0) }),
            mirror,
            // `${` would be a variable.
            label: label.replace('$', "_"),
            batch: NotInKey(0),
            folder: NotInKey(PathBuf::new()),
        }
    }
}

proptest! {
    #[test]
    fn order_comments_and_blank_lines_never_matter(
        params in probes(),
        order in Just((0..9).collect::<Vec<usize>>()).prop_shuffle(),
        remarks in prop::collection::vec(prop_oneof![Just("\n"), Just("# epochs = 7\n"), Just("   \t\n"), Just("#\n")], 9),
        (batch, folder, threads) in (0_u32..9, "[a-z/]{0,5}", 0_u32..9),
    ) {
        let plain = lines(&params).join("\n");
        let mut shuffled = lines(&params);
        // Nor does anything that is not part of the key, at any depth.
        shuffled.push(format!("batch = {batch}"));
        shuffled.push(format!("folder = \"{folder}\""));
        if let Some(line) = shuffled.iter_mut().find(|line| line.starts_with("smoothing")) {
            *line = line.replace(" }", &format!(", threads = {threads} }}"));
        }
        let mut body = String::new();
        for (&at, remark) in order.iter().zip(&remarks) {
            body.push_str(remark);
            if let Some(line) = shuffled.get(at) {
                body.push_str(&format!("{line}   # {remark}").replace('\n', " "));
                body.push('\n');
            }
        }
        prop_assert_eq!(key_params(&plain), key_params(&body));
    }

    #[test]
    fn any_value_that_matters_changes_the_key(one in probes(), other in probes(), field in 0_usize..7) {
        // Two sets of parameters that differ in at most one field, so that no other difference can hide it.
        let mut changed = one.clone();
        match field {
            0 => changed.epochs = other.epochs,
            1 => changed.learning_rate = other.learning_rate,
            2 => changed.scale = other.scale,
            3 => changed.phases = other.phases,
            4 => changed.smoothing = other.smoothing,
            5 => changed.mirror = other.mirror,
            _ => changed.label = other.label,
        }
        let same = key_params(&lines(&one).join("\n")) == key_params(&lines(&changed).join("\n"));
        prop_assert_eq!(same, one == changed);
    }
}

#[test]
fn a_default_that_is_written_out_is_the_same_as_one_that_is_not() {
    let written =
        "epochs = 3\nlearning_rate = 0.1\nscale = \"per_class\"\nphases = []\nmirror = false\nlabel = \"\"\nbatch = 4";
    assert_eq!(key_params("epochs = 3"), key_params(written));
    // Whole numbers are numbers.
    assert_eq!(key_params("epochs = 3\nlearning_rate = 1"), key_params("epochs = 0x3\nlearning_rate = 1.0"));
}

#[test]
fn names_of_stages_and_of_the_pipeline_are_no_part_of_the_parameters() {
    let one = read("[pipeline]\nname = \"x\"\n[stages.a]\nkind = \"test.probe\"\nepochs = 1\n")
        .unwrap_or_else(|fault| panic!("{fault}"));
    let other = read("[stages.b]\nepochs = 1\nkind = \"test.probe\"\n").unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(one.steps[0].key_params, other.steps[0].key_params);
}

#[test]
fn places_are_known_by_dotted_name() {
    let text = "[stages.p]\nkind = \"test.probe\"\nepochs = 3\nphases = [{ factor = 2, until = 4 }]\n";
    let plan = read(text).unwrap_or_else(|fault| panic!("{fault}"));
    let places: Vec<(&str, &str)> =
        plan.steps[0].places.iter().map(|(name, span)| (name.as_str(), &text[span.range.clone()])).collect();
    let inner = "{ factor = 2, until = 4 }";
    let expected = [
        ("epochs", "3"),
        ("phases", "[{ factor = 2, until = 4 }]"),
        ("phases.0", inner),
        ("phases.0.factor", "2"),
        ("phases.0.until", "4"),
    ];
    assert_eq!(places, expected);
    assert_eq!(plan.steps[0].places["phases"].place(), "pipeline.toml:4");
}

/// A pipeline with a little of everything, to be damaged.
const WHOLE: &str = "[pipeline]\nname = \"x\"\nseed = 1\n[vars]\nvoc = \"däta\"\n[stages.a]\nkind = \"test.probe\"\nepochs = 3\n\
    phases = [{ factor = 2, until = 4 }]\nlabel = \"${voc}/ß\"\n[stages.b]\nkind = \"test.probe\"\nepochs = 0x3\n\
    smoothing.iterations = 1\ninputs = { images = \"a\" }\n";

proptest! {
    #[test]
    fn no_damage_to_a_file_brings_the_program_down(
        cuts in prop::collection::vec((0_usize..300, 0_usize..12, prop_oneof![Just("["), Just("]"), Just("\""), Just("${"),
            Just("}"), Just("="), Just("\n"), Just("a"), Just("é"), Just("."), Just("{"), Just("#"), Just("'''"), Just("-"),
            Just("inputs = { images = \"b\" }\n"), Just("[stages.a]\n"), Just("\u{0}")]), 0..4),
        set in prop_oneof![Just("stages.a.label=ü"), Just("vars.voc=${voc}"), Just("stages.b.phases.0=é"), Just("="),
            Just("stages.a.smoothing.x=\"${vöc}\""), Just("stages.ä.é=[1, \"é"), Just("")],
    ) {
        let mut text: Vec<char> = WHOLE.chars().collect();
        for (at, length, put) in cuts {
            let at = at.min(text.len());
            let end = (at + length).min(text.len());
            text.splice(at..end, put.chars());
        }
        let overrides: Vec<String> = (!set.is_empty()).then(|| set.to_owned()).into_iter().collect();
        let texts = Texts::new("pipeline.toml", text.into_iter().collect::<String>(), &overrides);
        let result = pipeline::parse(&texts).and_then(|pipeline| plan::lower(pipeline, CATALOG));
        if let Err(faults) = result {
            prop_assert!(!faults.is_empty());
            for colour in [false, true] {
                prop_assert!(draw::diagnostics(&faults, colour).contains("error"));
            }
        }
    }
}

/// Reads the one stage `s` of a pipeline against the real catalogue and returns what of its parameters is in the key.
fn real_key_params(body: &str) -> serde_json::Value {
    let text = format!(
        "[stages.m]\nkind = \"debug.maps\"\ninputs = {{ images = \"i\" }}\n[stages.i]\nkind = \"dataset.synthetic\"\ncount = 1\n{body}"
    );
    let texts = Texts::new("pipeline.toml", text, &[]);
    let pipeline = pipeline::parse(&texts).expect("the pipeline is TOML");
    let plan = plan::lower(pipeline, orandflow::stages::catalog()).unwrap_or_else(|faults| panic!("{faults:?}"));
    plan.steps.into_iter().find(|step| step.name == "s").expect("the stage is there").key_params
}

#[test]
fn a_default_that_the_recipe_decides_is_in_the_key_with_its_value() {
    let stage = |line: &str| format!("[stages.s]\nkind = \"cam.or\"\n{line}\ninputs = {{ a = \"m\", b = \"m\" }}\n");
    let left_out = real_key_params(&stage(""));
    assert_eq!(left_out["normalisation"], "per_class");
    assert_eq!(left_out, real_key_params(&stage("normalisation = \"per_class\"")));
    assert_ne!(left_out, real_key_params(&stage("recipe = \"upstream\"")));
}

#[test]
fn a_number_is_kept_as_it_was_written() {
    let stage = "[stages.s]\nkind = \"irn.labels\"\nconf_fg = 0.35\ninputs = { images = \"i\", cams = \"m\" }\n";
    let params = real_key_params(stage);
    assert_eq!((params["conf_fg"].to_string(), params["conf_bg"].to_string()), ("0.35".to_owned(), "0.05".to_owned()));
}

#[cfg(feature = "nn")]
#[test]
fn a_default_that_the_preset_decides_is_in_the_key_with_its_value() {
    let stage = |line: &str| {
        format!("[stages.s]\nkind = \"classifier.train\"\nfamily = \"resnet\"\n{line}\ninputs = {{ images = \"i\" }}\n")
    };
    let left_out = real_key_params(&stage(""));
    assert_eq!(left_out["preset"], "resnet_tiny");
    for (name, value) in left_out.as_object().expect("parameters are a table") {
        let foreign = ["heads", "patch"].contains(&name.as_str());
        assert_eq!(value.is_null(), foreign, "{name} = {value}");
    }
    assert_eq!(left_out, real_key_params(&stage(&format!("epochs = {}", left_out["epochs"]))));
    assert_ne!(left_out, real_key_params(&stage("preset = \"resnet50\"")));
}
