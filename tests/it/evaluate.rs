//! `mask.threshold`, `threshold.search` and `evaluate`: scores, protocols and oracles.

use serde_json::Value;

use crate::photographs::{IDS, SIZE, bench, failure, mask, scored, stage};
use crate::workbench::Workbench;

/// Maps of the ground truth of `images`, with further lines.
fn maps(name: &str, images: &str, more: &str) -> String {
    format!("[stages.{name}]\nkind = \"debug.maps\"\ninputs = {{ images = \"{images}\" }}\n{more}\n")
}

fn threshold(name: &str, inputs: &str, more: &str) -> String {
    format!("[stages.{name}]\nkind = \"mask.threshold\"\ninputs = {{ {inputs} }}\n{more}\n")
}

fn evaluate(name: &str, prediction: &str, truth: &str, more: &str) -> String {
    let inputs = format!("{{ prediction = \"{prediction}\", truth = \"{truth}\" }}");
    format!("[stages.{name}]\nkind = \"evaluate\"\ninputs = {inputs}\n{more}\n")
}

/// Runs the pipeline and returns its metrics by stage.
fn metrics(bench: &Workbench) -> Value {
    let outcome = bench.run(["run", "pipeline.toml", "--json"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let mut run: Value = serde_json::from_str(&outcome.stdout).expect("one JSON object");
    run["metrics"].take()
}

fn refused(bench: &Workbench) -> String {
    assert_eq!(bench.run(["run", "pipeline.toml", "--only", "images"]).code, Some(0));
    let outcome = bench.run(["plan", "pipeline.toml"]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    outcome.stderr
}

/// The last message of a run in which a stage fails.
fn failed(bench: &Workbench) -> String {
    let outcome = bench.run(["run", "pipeline.toml"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    failure(&outcome.stderr)
}

#[test]
fn maps_of_the_truth_score_one_and_the_protocol_says_how() {
    let bench = bench().pipeline(
        &(scored("images")
            + &maps("maps", "images", "")
            + &threshold("masks", "scores = \"maps\"", "background = 0.4")
            + &evaluate("score", "masks", "images", "")),
    );
    let table = &metrics(&bench)["score"];
    for name in ["miou", "precision", "recall", "pixel_accuracy"] {
        assert_eq!(table[name], 1.0, "{name}");
    }
    // Of 24 x 32 pixels 16 columns are of the class, one counts for nothing, 15 are background.
    assert_eq!(table["confusion"][0][0], 4 * 24 * 15);
    assert_eq!(table["confusion"][1][1], 2 * 24 * 16);
    insta::assert_snapshot!(serde_json::to_string_pretty(&table["protocol"]).expect("JSON"), @r#"
    {
      "classes": 4,
      "classes_scored": 4,
      "ignored": "pixels of index 255 in the truth or in the prediction",
      "images": 4,
      "only_predicted": 0,
      "only_true": 0,
      "oracle": false,
      "split": "train",
      "threshold": {
        "background": 0.4,
        "policy": "fixed"
      }
    }
    "#);
    insta::assert_snapshot!(table["per_class"].to_string(), @r#"[{"iou":1.0,"name":"background","precision":1.0,"recall":1.0},{"iou":1.0,"name":"cat","precision":1.0,"recall":1.0},{"iou":1.0,"name":"dog","precision":1.0,"recall":1.0},{"iou":1.0,"name":"bird","precision":1.0,"recall":1.0}]"#);
}

#[test]
fn fewer_classes_drop_the_pixels_of_the_others() {
    let bench = bench().pipeline(
        &(scored("images")
            + &maps("maps", "images", "")
            + &threshold("masks", "scores = \"maps\"", "background = 0.9")
            + &evaluate("all", "masks", "images", "")
            + &evaluate("two", "masks", "images", "num_classes = 2")),
    );
    let metrics = metrics(&bench);
    // Everything is background; four classes: 60 columns are right, 64 wrong.
    assert_eq!(metrics["all"]["pixel_accuracy"], 60.0 / 124.0);
    assert_eq!(metrics["all"]["per_class"][1]["precision"], Value::Null);
    // Of two classes the columns of dog and bird are not there.
    assert_eq!(metrics["two"]["pixel_accuracy"], 60.0 / 92.0);
    assert_eq!(metrics["two"]["per_class"].as_array().map(Vec::len), Some(2));
    insta::assert_snapshot!(metrics["two"]["protocol"]["ignored"].to_string(), @r#""pixels of index 255 in the truth or in the prediction; pixels whose true or predicted class is 2 or above""#);
}

#[test]
fn a_searched_threshold_is_an_oracle_for_the_images_it_looked_at_and_for_no_others() {
    let other = stage("other", "masks = \"SegmentationClass\"").replace("\"train\"", "\"rest\"");
    let search = |objective: &str| {
        format!(
            "[stages.search]\nkind = \"threshold.search\"\nobjective = \"{objective}\"\ninputs = {{ scores = \"maps\", truth = \"images\" }}\n"
        )
    };
    let common = scored("images").replace("\"train\"", "\"val\"")
        + &maps("maps", "images", "noise = 0.4")
        + &other
        + &maps("other_maps", "other", "noise = 0.4")
        + &threshold("own", "scores = \"maps\", threshold = \"search\"", "")
        + &threshold("others", "scores = \"other_maps\", threshold = \"search\"", "")
        + &evaluate("score_own", "own", "images", "")
        + &evaluate("score_others", "others", "other", "");
    let bench = bench()
        .pipeline(&(common.clone() + &search("miou")))
        .file("data/ImageSets/Segmentation/rest.txt", IDS[..3].join("\n"));
    let miou = metrics(&bench);
    assert_eq!(miou["score_own"]["protocol"]["oracle"], true);
    assert_eq!(miou["score_others"]["protocol"]["oracle"], false);
    assert_eq!(miou["search"]["protocol"]["oracle"], true);
    assert_eq!(miou["search"]["miou"], miou["score_own"]["miou"], "the threshold is applied as it was searched");
    let curve = miou["search"]["curve"].as_array().expect("a curve").clone();
    assert_eq!(curve.len(), 81);
    let best = curve.iter().map(|point| point["miou"].as_f64().expect("a number")).fold(0.0, f64::max);
    assert_eq!(miou["search"]["miou"], best);
    let policy = &miou["score_own"]["protocol"]["threshold"];
    assert_eq!(
        (&policy["policy"], &policy["objective"], &policy["split"]),
        (&"searched".into(), &"miou".into(), &"val".into())
    );

    bench.write("pipeline.toml", common + &search("precision_over_recall"));
    let crossing = metrics(&bench);
    let chosen = crossing["score_own"]["protocol"]["threshold"]["background"].as_f64().expect("a number");
    let first = curve.iter().find(|point| point["precision"].as_f64() > point["recall"].as_f64()).expect("they cross");
    assert_eq!(first["threshold"], chosen);
}

#[test]
fn scores_of_seeds_leave_unsure_pixels_out_or_call_them_background() {
    let labels = "[stages.labels]\nkind = \"irn.labels\"\ninputs = { images = \"images\", cams = \"maps\" }\n";
    let bench = bench().pipeline(
        &(scored("images")
            + &maps("maps", "images", "inside = 0.8\noutside = 0.01")
            + labels
            + &evaluate("dropped", "labels", "images", "")
            + &evaluate("background", "labels", "images", "ignored_prediction = \"background\"")),
    );
    let metrics = metrics(&bench);
    let pixels = |name: &str| -> u64 {
        let rows = metrics[name]["confusion"].as_array().expect("rows").iter();
        rows.flat_map(|row| row.as_array().expect("columns")).filter_map(Value::as_u64).sum()
    };
    assert!(metrics["dropped"]["miou"].as_f64() > Some(0.9), "{}", metrics["dropped"]["miou"]);
    assert_eq!(pixels("background"), 4 * 24 * 31);
    assert!(pixels("dropped") <= pixels("background"));
}

#[test]
fn sets_without_an_image_in_common_are_refused() {
    let other = stage("other", "masks = \"SegmentationClass\"").replace("\"train\"", "\"rest\"");
    let bench = bench().file("data/ImageSets/Segmentation/rest.txt", IDS[0]).pipeline(
        &(scored("images").replace("\"train\"", "\"val\"")
            + &other
            + &maps("maps", "images", "")
            + &threshold("masks", "scores = \"maps\"", "")
            + &evaluate("score", "masks", "other", "")),
    );
    insta::assert_snapshot!(failed(&bench), @r"
    error: stage `score` failed after [TIME]
      cause: ports `prediction` and `truth` have no image in common: 1 image there, such as `2007_000068`, and 1 image here, such as `2007_000032`
      help: score masks of the images that the ground truth is of
    ");
}

#[test]
fn images_without_ground_truth_are_refused() {
    let bench = bench().pipeline(
        &(scored("images")
            + &stage("bare", "")
            + &maps("maps", "images", "")
            + &threshold("masks", "scores = \"maps\"", "")
            + &evaluate("score", "masks", "bare", "")),
    );
    insta::assert_snapshot!(failed(&bench), @r#"
    error: stage `score` failed after [TIME]
      cause: the images on port `truth` have no ground truth
      help: connect a set that has masks, such as a `dataset.voc` with `masks = "SegmentationClass"`
    "#);
}

#[test]
fn class_lists_that_differ_are_refused() {
    let other = scored("other").replace("\"data\"", "\"data2\"");
    let bench = bench().pipeline(
        &(scored("images")
            + &other
            + &maps("maps", "images", "")
            + &threshold("masks", "scores = \"maps\"", "")
            + &evaluate("score", "masks", "other", "")),
    );
    for id in IDS {
        bench.write(&format!("data2/JPEGImages/{id}.jpg"), bench.read(&format!("data/JPEGImages/{id}.jpg")));
        bench.write(&format!("data2/SegmentationClass/{id}.png"), mask(SIZE, 1));
    }
    bench.write("data2/ImageSets/Segmentation/train.txt", IDS.join("\n"));
    bench.write("data2/classes.txt", "background\ncat\ncow\nbird\n");
    insta::assert_snapshot!(failed(&bench), @r"
    error: stage `score` failed after [TIME]
      cause: the class lists on ports `prediction` and `truth` differ: class 2 is `dog` there and `cow` here
      help: artifacts that meet must be made for the same classes in the same order
    ");
}

#[test]
fn thresholds_that_make_no_sense_are_refused_at_their_place() {
    let with =
        |more: &str| scored("images") + &maps("maps", "images", "") + &threshold("masks", "scores = \"maps\"", more);
    let bench = bench().pipeline(&with("background = 25"));
    insta::assert_snapshot!(refused_at_once(&bench), @r"
    error: `background` of stage `masks` must be at most 1
       ╭▸ pipeline.toml:13:14
       │
    13 │ background = 25
       │              ━━
       │
       ╰ help: `background`: Score of the background, 0 to 1: a pixel is background unless a class scores higher
    ");
    bench.write("pipeline.toml", with("").replace("scores = \"maps\"", "scores = \"maps\", threshold = \"images\""));
    insta::assert_snapshot!(refused_at_once(&bench), @r#"
    error: port `threshold` of stage `masks` takes a table of metrics, but `images` makes an image set
       ╭▸ pipeline.toml:12:41
       │
     2 │ kind = "dataset.voc"
       │        ───────────── `dataset.voc` makes an image set
       ┆
    12 │ inputs = { scores = "maps", threshold = "images" }
       │                                         ━━━━━━━━ this is an image set
       │
       ╰ help: a table of metrics comes from one of the kinds `threshold.search`, `evaluate`
    "#);
}

fn refused_at_once(bench: &Workbench) -> String {
    let outcome = bench.run(["plan", "pipeline.toml"]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    outcome.stderr
}

#[test]
fn scoring_more_classes_than_there_are_is_refused() {
    let bench = bench().pipeline(
        &(scored("images")
            + &maps("maps", "images", "")
            + &threshold("masks", "scores = \"maps\"", "")
            + &evaluate("score", "masks", "images", "num_classes = 5")),
    );
    assert_eq!(bench.run(["run", "pipeline.toml", "--only", "masks"]).code, Some(0));
    insta::assert_snapshot!(refused(&bench), @r"
    error: stage `score`: `num_classes` is 5, but there are 4 classes
       ╭▸ pipeline.toml:17:15
       │
    17 │ num_classes = 5
       ╰╴              ━
    ");
}
