//! `dataset.voc` and `dataset.synthetic`: what they read, and what they say of data that is wrong.

use std::path::Path;

use crate::photographs::{IDS, SIZE, bench, failure, jpeg, mask, scored, stage};
use crate::workbench::Workbench;

/// Runs `plan`, which must refuse with exit code 2, and returns what it says.
fn refused(bench: &Workbench) -> String {
    let outcome = bench.run(["plan", "pipeline.toml"]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    outcome.stderr
}

/// Runs the pipeline, in which a stage must fail with exit code 1, and returns what it says.
fn failed(bench: &Workbench) -> String {
    let outcome = bench.run(["run", "pipeline.toml"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    failure(&outcome.stderr)
}

/// Runs the pipeline, exports the stage and returns its labels, `id,label` a line.
fn labels(bench: &Workbench, name: &str) -> String {
    let outcome = bench.run(["run", "pipeline.toml"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let outcome = bench.run(["export", "pipeline.toml", name, "--to", "out"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    String::from_utf8(bench.read("out/labels.csv")).expect("labels are UTF-8")
}

#[test]
fn labels_come_from_masks_annotations_or_a_table() {
    let bench = bench().pipeline(&stage("images", ""));
    let expected = "id,label\n2007_000032,cat\n2007_000039,dog\n2007_000063,bird\n2007_000068,cat\n";
    assert_eq!(labels(&bench, "images"), expected);

    bench.write("table.csv", format!("{expected}2007_000068,bird\n"));
    bench.write("pipeline.toml", stage("images", "labels = \"table.csv\""));
    assert_eq!(
        labels(&bench, "images"),
        format!("{expected}2007_000068,bird\n").replace("cat\n2007_000068,bird", "cat\n2007_000068,bird")
    );

    for (id, classes) in IDS.iter().zip([&["dog"][..], &["bird", "cat", "bird"], &["cat"], &[]]) {
        let objects: String = classes.iter().map(|class| format!("<object><name>{class}</name></object>")).collect();
        bench.write(&format!("data/Annotations/{id}.xml"), format!("<annotation>{objects}</annotation>"));
    }
    bench.write("pipeline.toml", stage("images", ""));
    let annotated = "id,label\n2007_000032,dog\n2007_000039,cat\n2007_000039,bird\n2007_000063,cat\n2007_000068,\n";
    assert_eq!(labels(&bench, "images"), annotated);

    // Images to be segmented alone, as those of VOC's `test`: nothing but the photographs is there.
    std::fs::remove_dir_all(bench.path("data/Annotations")).expect("it was there");
    std::fs::remove_dir_all(bench.path("data/SegmentationClass")).expect("it was there");
    bench.write("pipeline.toml", stage("images", "labels = \"none\""));
    assert_eq!(labels(&bench, "images"), "id,label\n2007_000032,\n2007_000039,\n2007_000063,\n2007_000068,\n");
    let doctor = bench.run(["doctor", "pipeline.toml"]);
    assert_eq!(doctor.code, Some(0), "{doctor:?}");
}

#[test]
fn a_file_of_labels_that_is_not_there_says_so() {
    let bench = bench().pipeline(&stage("images", "labels = \"table.npy\""));
    insta::assert_snapshot!(refused(&bench), @r"
    error: stage `images`: the file of labels cannot be read: `table.npy`: No such file or directory (os error 2)
      ╭▸ pipeline.toml:1:9
      │
    1 │ [stages.images]
      │         ━━━━━━ a `dataset.voc` stage
      │
      ╰ help: `labels` says where it lies; paths are relative to the working directory
    ");
}

#[test]
fn an_exported_set_reads_as_the_set_itself() {
    let bench = bench().pipeline(&scored("images"));
    let before = labels(&bench, "images");
    std::fs::rename(bench.path("out"), bench.path("data2")).expect("renamed");
    let again = stage("again", "masks = \"SegmentationClass\"").replace("\"data\"", "\"data2\"");
    bench.write("pipeline.toml", again);
    assert_eq!(labels(&bench, "again"), before);
    for id in IDS {
        assert_eq!(bench.read(&format!("out/JPEGImages/{id}.jpg")), bench.read(&format!("data/JPEGImages/{id}.jpg")));
    }
}

#[test]
fn a_limit_takes_the_first_ids() {
    let bench = bench().pipeline(&stage("images", "limit = 2"));
    assert_eq!(labels(&bench, "images"), "id,label\n2007_000032,cat\n2007_000039,dog\n");
}

#[test]
fn a_missing_root_says_how_to_name_another() {
    let bench = Workbench::new().pipeline(
        &format!("[vars]\nvoc = \"no/VOC2012\"\n\n{}", stage("images", "")).replace("\"data\"", "\"${voc}\""),
    );
    insta::assert_snapshot!(refused(&bench), @r"
    error: stage `images`: the data set is not there: `no/VOC2012` is not a folder
      ╭▸ pipeline.toml:4:9
      │
    4 │ [stages.images]
      │         ━━━━━━ a `dataset.voc` stage
      │
      ╰ help: put it there, or say where it lies: set `root`, or the variable that it uses, as in --set vars.voc=PATH
    ");
}

#[test]
fn a_missing_split_lists_those_that_exist() {
    let bench = bench().pipeline(&stage("images", "").replace("\"train\"", "\"trian\""));
    insta::assert_snapshot!(refused(&bench), @r"
    error: stage `images`: there is no split `trian`: `data/ImageSets/Segmentation/trian.txt` does not exist
      ╭▸ pipeline.toml:1:9
      │
    1 │ [stages.images]
      │         ━━━━━━ a `dataset.voc` stage
      │
      ╰ help: the splits there are `train`, `val`
    ");
}

#[test]
fn an_empty_split_is_refused() {
    let bench = bench().pipeline(&stage("images", "")).file("data/ImageSets/Segmentation/train.txt", "\n\n");
    insta::assert_snapshot!(refused(&bench), @r"
    error: stage `images`: split `train` is empty: `data/ImageSets/Segmentation/train.txt` lists no image
      ╭▸ pipeline.toml:1:9
      │
    1 │ [stages.images]
      │         ━━━━━━ a `dataset.voc` stage
      │
      ╰ help: write one image id per line, or choose another `split`
    ");
}

#[test]
fn missing_images_are_counted_and_named() {
    let bench = bench().pipeline(&stage("images", ""));
    for id in &IDS[1..3] {
        std::fs::remove_file(bench.path(&format!("data/JPEGImages/{id}.jpg"))).expect("removed");
    }
    insta::assert_snapshot!(refused(&bench), @r"
    error: stage `images`: 2 images of 4 are missing in `data/JPEGImages`: `2007_000039`, `2007_000063`
      ╭▸ pipeline.toml:1:9
      │
    1 │ [stages.images]
      │         ━━━━━━ a `dataset.voc` stage
      │
      ╰ help: put them there, or take their ids out of the split file
    ");
}

#[test]
fn missing_masks_are_counted_and_named() {
    let bench = bench().pipeline(&scored("images"));
    std::fs::remove_file(bench.path(&format!("data/SegmentationClass/{}.png", IDS[2]))).expect("removed");
    insta::assert_snapshot!(refused(&bench), @r"
    error: stage `images`: 1 mask of 4 is missing in `data/SegmentationClass`: `2007_000063`
      ╭▸ pipeline.toml:1:9
      │
    1 │ [stages.images]
      │         ━━━━━━ a `dataset.voc` stage
      │
      ╰ help: name a folder that has them all, or a split of images that have masks
    ");
}

#[test]
fn a_label_that_is_no_class_is_refused_with_its_line() {
    let bench = bench().pipeline(&stage("images", "labels = \"table.csv\""));
    bench.write("table.csv", "id,label\n2007_000032,cat\n2007_000039,cow\n");
    insta::assert_snapshot!(refused(&bench), @r"
    error: stage `images`: `table.csv` line 3 has the label `cow`, which is not a foreground class
      ╭▸ pipeline.toml:1:9
      │
    1 │ [stages.images]
      │         ━━━━━━ a `dataset.voc` stage
      │
      ╰ help: the classes are cat, dog, bird
    ");
    bench.write("table.csv", "id,label\n2007_000032,cat\n2007_000039,dog\n");
    insta::assert_snapshot!(refused(&bench), @r"
    error: stage `images`: `table.csv` has no row for 2 images of 4: `2007_000063`, `2007_000068`
      ╭▸ pipeline.toml:1:9
      │
    1 │ [stages.images]
      │         ━━━━━━ a `dataset.voc` stage
      │
      ╰ help: give an image without any class a row with an empty label
    ");
}

#[test]
fn an_unknown_source_of_labels_is_refused_at_its_place() {
    let bench = bench().pipeline(&stage("images", "labels = \"mask\""));
    insta::assert_snapshot!(refused(&bench), @r#"
    error: `labels` of stage `images`: `mask` is not a source of labels: it is `annotations`, `masks`, `none` or a path that ends in `.csv` or `.npy`
      ╭▸ pipeline.toml:5:10
      │
    5 │ labels = "mask"
      │          ━━━━━━
      │
      ╰ help: `labels`: Where image-level labels come from: `annotations`, `masks`, `none`, or the path of a CSV or npy file
    "#);
}

#[test]
fn a_file_that_is_no_image_is_named() {
    let bench = bench().pipeline(&stage("images", "")).file(&format!("data/JPEGImages/{}.jpg", IDS[1]), "text");
    insta::assert_snapshot!(failed(&bench), @r"
    error: stage `images` failed after [TIME]
      cause: image `2007_000039` cannot be read: `data/JPEGImages/2007_000039.jpg`: this file is neither JPEG nor PNG
      help: replace the file by an undamaged JPEG or PNG, or take its id out of the split
    ");
}

#[test]
fn a_truncated_photograph_is_named_by_the_stage_that_reads_pixels() {
    let whole = jpeg(SIZE);
    let bench = bench().file(&format!("data/JPEGImages/{}.jpg", IDS[1]), &whole[..whole.len() - 60]);
    let maps = "[stages.maps]\nkind = \"debug.maps\"\ninputs = { images = \"images\" }\n";
    bench.write("pipeline.toml", scored("images") + maps);
    insta::assert_snapshot!(failed(&bench), @r"
    error: stage `maps` failed after [TIME]
      cause: image `2007_000039` cannot be decoded: this JPEG is truncated: it ends before its end-of-image marker; copy it again
      help: replace the file by an undamaged JPEG or PNG, or take its id out of the split
    ");
    // Nothing is lost: with the photograph mended only what needs it runs.
    bench.write(&format!("data/JPEGImages/{}.jpg", IDS[1]), &whole);
    assert_eq!(bench.run(["run", "pipeline.toml"]).code, Some(0));
}

#[test]
fn a_mask_of_another_size_is_named() {
    let bench = bench().pipeline(&scored("images"));
    bench.write(&format!("data/SegmentationClass/{}.png", IDS[2]), mask((SIZE.0, SIZE.1 - 2), 3));
    insta::assert_snapshot!(failed(&bench), @r"
    error: stage `images` failed after [TIME]
      cause: the mask of image `2007_000063` has 30 x 24 pixels and the image 32 x 24: `data/SegmentationClass/2007_000063.png`
      help: a mask has one pixel for each pixel of its image: make it from the same file, or take the id out of the split
    ");
}

#[test]
fn a_mask_with_an_index_that_is_no_class_is_named() {
    let bench = bench().pipeline(&scored("images"));
    bench.write(&format!("data/SegmentationClass/{}.png", IDS[2]), mask(SIZE, 4));
    insta::assert_snapshot!(failed(&bench), @r"
    error: stage `images` failed after [TIME]
      cause: the mask of image `2007_000063` has a pixel of class 4, but there are 4 classes, 0 to 3: `data/SegmentationClass/2007_000063.png`
      help: 255 marks pixels that count for nothing; a mask with more classes needs a class list with as many names
    ");
}

/// The status of each stage, in order.
fn statuses(bench: &Workbench) -> Vec<String> {
    let outcome = bench.run(["run", "pipeline.toml", "--json"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let run: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("one JSON object");
    let stages = run["stages"].as_array().expect("a list of stages").iter();
    stages.map(|stage| format!("{} {}", stage["name"], stage["status"]).replace('"', "")).collect()
}

const SYNTHETIC: &str = r#"
[stages.images]
kind = "dataset.synthetic"
count = 6
size = 32

[stages.maps]
kind = "debug.maps"
inputs = { images = "images" }
"#;

#[test]
fn synthetic_images_are_made_once_and_again_when_one_is_damaged() {
    let bench = Workbench::new().pipeline(SYNTHETIC);
    assert_eq!(statuses(&bench), ["images ran", "maps ran"]);
    assert_eq!(statuses(&bench), ["images cached", "maps cached"]);
    // The first PNG of an image that is found in the cache.
    let blobs = walk(&bench.path("cache/v1/cas"));
    let png = blobs.iter().find(|path| {
        std::fs::read(path).expect("readable").starts_with(b"\x89PNG")
            && std::fs::metadata(path).expect("there").len() > 1500
    });
    let png = png.expect("drawn images are blobs");
    let original = std::fs::read(png).expect("readable");
    let mut damaged = original.clone();
    damaged[700] ^= 1;
    std::fs::write(png, damaged).expect("writable");
    bench.write("pipeline.toml", SYNTHETIC.replace("\"debug.maps\"", "\"debug.maps\"\ninside = 0.8"));
    let outcome = bench.run(["run", "pipeline.toml"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stderr.contains("it is made again"), "{}", outcome.stderr);
    assert_eq!(std::fs::read(png).expect("readable"), original);
}

#[test]
fn more_synthetic_images_leave_the_first_ones_as_they_are() {
    let bench = Workbench::new().pipeline(SYNTHETIC);
    let first = labels(&bench, "images");
    bench.write("pipeline.toml", SYNTHETIC.replace("count = 6", "count = 9"));
    let more = labels(&bench, "images");
    assert!(more.starts_with(&first) && more.len() > first.len(), "{first}{more}");
}

#[test]
fn synthetic_parameters_out_of_range_are_refused_at_their_place() {
    let bench = Workbench::new().pipeline(&SYNTHETIC.replace("size = 32", "classes = 9"));
    insta::assert_snapshot!(refused(&bench), @r"
    error: `classes` of stage `images` must be at most 8
      ╭▸ pipeline.toml:5:11
      │
    5 │ classes = 9
      │           ━
      │
      ╰ help: `classes`: Number of foreground classes; pairs of them share the body and differ in a small mark
    ");
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("listed").path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
    }
    found.sort_unstable();
    found
}

/// Returns a folder of real photographs that development machines have, or says that it is missing.
#[expect(clippy::print_stderr, reason = "a test that is left out says so")]
fn shared(name: &str) -> Option<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(name);
    if !path.is_dir() {
        eprintln!("skipped: `{}` is not there", path.display());
        return None;
    }
    Some(path.to_str().expect("the path is UTF-8").to_owned())
}

#[test]
fn photographs_of_pascal_voc_are_read() {
    let Some(root) = shared("voc_mini") else { return };
    let bench = Workbench::new().pipeline(&scored("images").replace("\"data\"", &format!("{root:?}")));
    let mut labels: Vec<String> = labels(&bench, "images").lines().skip(1).map(str::to_owned).collect();
    labels.dedup_by(|a, b| a.split(',').next() == b.split(',').next());
    let ids: Vec<&str> = labels.iter().filter_map(|line| line.split(',').next()).collect();
    assert_eq!(ids, ["2011_000003", "2011_000006", "2011_000025"]);
}

#[test]
fn patches_of_camvid_have_labels_of_their_masks() {
    let Some(root) = shared("camvid_patches") else { return };
    let set = scored("images").replace("\"data\"", &format!("{root:?}")).replace("\"train\"", "\"val\"");
    let bench = Workbench::new().pipeline(&format!("{set}limit = 60\n"));
    let labels = labels(&bench, "images");
    let names = ["background", "sky", "building", "tree", "car", "person"];
    let mut expected = String::from("id,label\n");
    let mut ids: Vec<String> = std::fs::read_dir(bench.path("out/SegmentationClass"))
        .expect("written")
        .map(|entry| {
            let name = entry.expect("listed").file_name().into_string().expect("UTF-8");
            name.strip_suffix(".png").expect("a mask").to_owned()
        })
        .collect();
    ids.sort_unstable();
    assert_eq!(ids.len(), 60);
    for id in ids {
        let mask = orandflow::image::codec::decode_mask(&bench.read(&format!("out/SegmentationClass/{id}.png")));
        let mask = mask.expect("a mask");
        for (index, name) in names.iter().enumerate().skip(1) {
            if mask.data().contains(&(index as u8)) {
                expected.push_str(&format!("{id},{name}\n"));
            }
        }
    }
    assert_eq!(labels, expected);
}
