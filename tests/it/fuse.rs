//! `cam.or`, `cam.and`, `cam.average` and `irn.labels`: sets that fit together and sets that do not.

use crate::photographs::{IDS, bench, failure, scored, stage};
use crate::workbench::Workbench;

fn maps(name: &str, images: &str, more: &str) -> String {
    format!("[stages.{name}]\nkind = \"debug.maps\"\ninputs = {{ images = \"{images}\" }}\n{more}\n")
}

fn fuse(name: &str, more: &str) -> String {
    format!("[stages.{name}]\nkind = \"cam.{name}\"\ninputs = {{ a = \"one\", b = \"two\" }}\n{more}\n")
}

/// Exports maps and returns the values of one image.
fn values(bench: &Workbench, name: &str) -> Vec<f32> {
    let outcome = bench.run(["export", "pipeline.toml", name, "--to", name]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let bytes = bench.read(&format!("{name}/{}.npy", IDS[0]));
    bytes[128..].chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect()
}

fn failed(bench: &Workbench) -> String {
    let outcome = bench.run(["run", "pipeline.toml"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    failure(&outcome.stderr)
}

#[test]
fn or_is_above_and_is_below_and_the_recipe_decides_on_normalisation() {
    let bench = bench().pipeline(
        &(scored("images")
            + &maps("one", "images", "noise = 0.3")
            + &maps("two", "images", "noise = 0.3\nseed = 1")
            + &fuse("or", "recipe = \"upstream\"")
            + &fuse("and", "normalisation = \"none\"")
            + &fuse("average", "")),
    );
    assert_eq!(bench.run(["run", "pipeline.toml"]).code, Some(0));
    let [one, two, or, and, average] = ["one", "two", "or", "and", "average"].map(|name| values(&bench, name));
    for index in 0..one.len() {
        let (a, b) = (one[index], two[index]);
        // Results are stored as f16: 2^-11 relative, on values up to 1.
        let close = |value: f32, exact: f32| (value - exact).abs() <= 1.0 / 2048.0;
        assert!(close(or[index], a + b - a * b) && close(and[index], a * b) && close(average[index], (a + b) / 2.0));
        assert!(and[index] <= average[index] && average[index] <= or[index]);
    }
    bench.write(
        "pipeline.toml",
        scored("images")
            + &maps("one", "images", "noise = 0.3")
            + &maps("two", "images", "noise = 0.3\nseed = 1")
            + &fuse("and", ""),
    );
    assert_eq!(bench.run(["run", "pipeline.toml"]).code, Some(0));
    let normalised = values(&bench, "and");
    assert_eq!(normalised.iter().copied().fold(0.0, f32::max), 1.0, "the paper divides by the largest value");
}

#[test]
fn a_set_that_lacks_images_is_refused_before_anything_is_fused() {
    let bench = bench().pipeline(
        &(scored("images")
            + &maps("one", "images", "")
            + &maps("two", "images", &format!("without = [\"{}\", \"{}\"]", IDS[0], IDS[2]))
            + &fuse("or", "")),
    );
    insta::assert_snapshot!(failed(&bench), @r"
    error: stage `or` failed after [TIME]
      cause: the input `b` lacks 2 images of the input `a`: `2007_000032`, `2007_000063`
      help: a CAM set is made for the images of `a`; make both inputs from the same image set
    ");
    // Once the maps are there, the plan says so.
    let outcome = bench.run(["plan", "pipeline.toml"]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    insta::assert_snapshot!(outcome.stderr, @r"
    error: stage `or`: the input `b` lacks 2 images of the input `a`: `2007_000032`, `2007_000063`
       ╭▸ pipeline.toml:14:9
       │
    14 │ [stages.or]
       │         ━━ a `cam.or` stage
       │
       ╰ help: a CAM set is made for the images of `a`; make both inputs from the same image set
    ");
}

#[test]
fn maps_that_lack_images_make_no_labels() {
    let bench = bench().pipeline(
        &(scored("images")
            + &maps("one", "images", &format!("without = [\"{}\"]", IDS[3]))
            + "[stages.labels]\nkind = \"irn.labels\"\ninputs = { images = \"images\", cams = \"one\" }\n"),
    );
    insta::assert_snapshot!(failed(&bench), @r"
    error: stage `labels` failed after [TIME]
      cause: the input `cams` lacks 1 image of the input `images`: `2007_000068`
      help: a seed set is made for the images of `images`; make both inputs from the same image set
    ");
}

#[test]
fn maps_of_other_classes_are_refused_with_the_image() {
    let bench =
        bench().file("table.csv", "id,label\n2007_000032,cat\n2007_000039,dog\n2007_000063,cat\n2007_000068,cat\n");
    bench.write(
        "pipeline.toml",
        scored("images")
            + &stage("other", "masks = \"SegmentationClass\"\nlabels = \"table.csv\"")
            + &maps("one", "images", "")
            + &maps("two", "other", "")
            + &fuse("or", ""),
    );
    insta::assert_snapshot!(failed(&bench), @r"
    error: stage `or` failed after [TIME]
      cause: the maps of image `2007_000063` are of classes [2] on port `a` and [0] on port `b`
      help: both sets must be made with the same image-level labels
    ");
}

#[test]
fn labels_whose_background_is_surer_than_their_objects_are_refused() {
    let bench = bench().pipeline(
        &(scored("images")
            + &maps("one", "images", "")
            + "[stages.labels]\nkind = \"irn.labels\"\nconf_fg = 0.1\nconf_bg = 0.2\ninputs = { images = \"images\", cams = \"one\" }\n"),
    );
    let outcome = bench.run(["plan", "pipeline.toml"]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    insta::assert_snapshot!(outcome.stderr, @r"
    error: `conf_bg` of stage `labels`: 0.2 is above `conf_fg`, which is 0.1
       ╭▸ pipeline.toml:13:11
       │
    13 │ conf_bg = 0.2
       │           ━━━
       │
       ╰ help: `conf_bg`: A pixel is background where no map exceeds this, 0 to `conf_fg`
    ");
}
