//! `images.resize` and `mask.resize`: the method on smaller images, and its masks at the size of the photographs.

use serde_json::Value;

use crate::photographs::{IDS, bench, failure, jpeg, mask, scored};
use crate::workbench::Workbench;

const PIPELINE: &str = r#"
[stages.small]
kind = "images.resize"
max_side = 48
inputs = { images = "images" }

[stages.maps]
kind = "debug.maps"
inputs = { images = "small" }

[stages.masks]
kind = "mask.threshold"
inputs = { scores = "maps" }

[stages.large]
kind = "mask.resize"
inputs = { masks = "masks", images = "images" }

[stages.score]
kind = "evaluate"
inputs = { prediction = "large", truth = "images" }
"#;

/// One photograph of 96 x 120 pixels with its mask; the others have 24 x 32.
fn one_large() -> Workbench {
    let large = (96, 120);
    bench()
        .pipeline(&(scored("images") + PIPELINE))
        .file(&format!("data/JPEGImages/{}.jpg", IDS[1]), jpeg(large))
        .file(&format!("data/SegmentationClass/{}.png", IDS[1]), mask(large, 2))
}

/// Width and height that the header of a PNG names.
fn size(png: &[u8]) -> (u32, u32) {
    let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().expect("four bytes"));
    (number(16), number(20))
}

fn exported(bench: &Workbench, stage: &str, to: &str) {
    let outcome = bench.run(["export", "pipeline.toml", stage, "--to", to]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

#[test]
fn masks_of_shrunk_images_come_back_at_the_size_of_the_photographs() {
    let bench = one_large();
    let (run, _) = bench.run_json([]);
    let score: &Value = &run["metrics"]["score"];
    // The maps are made of the truth, which lies in halves: shrunk and enlarged, only pixels beside the line between them move.
    assert!(score["miou"].as_f64() > Some(0.95), "{score}");
    assert_eq!(score["protocol"]["images"], 4);

    exported(&bench, "small", "small");
    exported(&bench, "large", "large");
    let folder = |name: &str| bench.path(name);
    let small = bench.read(&format!("small/SegmentationClass/{}.png", IDS[1]));
    assert_eq!(size(&small), (48, 38), "96 x 48 / 120 = 38.4");
    let photograph = std::fs::read_dir(folder("small/JPEGImages")).expect("it is there").filter_map(Result::ok);
    let names: Vec<String> = photograph.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    assert!(names.contains(&format!("{}.png", IDS[1])) && names.contains(&format!("{}.jpg", IDS[0])), "{names:?}");
    assert_eq!(size(&bench.read(&format!("small/JPEGImages/{}.png", IDS[1]))), (48, 38));
    // What is small enough is the very file.
    for (image, from) in [(IDS[0], "JPEGImages"), (IDS[2], "JPEGImages")] {
        assert_eq!(bench.read(&format!("small/{from}/{image}.jpg")), bench.read(&format!("data/{from}/{image}.jpg")));
    }
    assert_eq!(size(&bench.read(&format!("large/{}.png", IDS[1]))), (120, 96));
    assert_eq!(size(&bench.read(&format!("large/{}.png", IDS[0]))), (32, 24));
}

#[test]
fn a_side_of_zero_is_refused_and_images_that_fit_stay_as_they_are() {
    let bench = one_large();
    assert_eq!(bench.run(["run", "pipeline.toml"]).code, Some(0));
    assert!(bench.statuses([]).iter().all(|status| status.ends_with(" cached")));
    let set = ["--set", "stages.small.max_side=0"];
    let outcome = bench.run(["plan", "pipeline.toml"].into_iter().chain(set));
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert!(outcome.stderr.contains("`max_side` of stage `small` must be at least 1"), "{}", outcome.stderr);
    // Nothing is larger than this, so that the set is another one only as far as files are concerned.
    let (run, _) = bench.run_json(["--set", "stages.small.max_side=120"]);
    assert_eq!(run["metrics"]["score"]["miou"], 1.0, "{run}");
}

#[test]
fn masks_of_other_images_are_refused() {
    let bench = one_large();
    assert_eq!(bench.run(["run", "pipeline.toml"]).code, Some(0));
    let toml = scored("images") + PIPELINE + "\n[stages.other]\nkind = \"dataset.synthetic\"\ncount = 2\n";
    bench.write(
        "pipeline.toml",
        toml.replace("masks = \"masks\", images = \"images\"", "masks = \"masks\", images = \"other\""),
    );
    let outcome = bench.run(["run", "pipeline.toml"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let message = "the input `images` lacks 4 images of the input `masks`: `2007_000032`, `2007_000039`";
    assert!(failure(&outcome.stderr).contains(message), "{}", outcome.stderr);
}
