//! `dataset.coco`: labels and masks from a file of instances, against those of pycocotools.

use std::path::{Path, PathBuf};

use orandflow::data::coco::Instances;
use orandflow::digest::Digest;
use orandflow::image::codec::decode_mask;

use crate::photographs::{failure, jpeg};
use crate::workbench::Workbench;

/// The folder of the files that `tests/fixtures/coco.py` has made.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/coco")
}

fn json() -> String {
    std::fs::read_to_string(folder().join("instances_mini.json")).expect("the fixture is there")
}

/// A workbench with photographs for the file.
fn bench() -> Workbench {
    let bench = Workbench::new().file("coco/annotations/instances_mini.json", json());
    let instances = Instances::open(&folder().join("instances_mini.json")).expect("readable");
    for picture in &instances.pictures {
        bench.write(&format!("coco/mini/{}", picture.file), jpeg((picture.height, picture.width)));
    }
    bench
}

fn stage(more: &str) -> String {
    format!("[stages.images]\nkind = \"dataset.coco\"\nroot = \"coco\"\nsplit = \"mini\"\n{more}\n")
}

/// Runs the pipeline and exports its set.
fn export(bench: &Workbench) {
    let outcome = bench.run(["run", "pipeline.toml"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let _ = std::fs::remove_dir_all(bench.path("out"));
    let outcome = bench.run(["export", "pipeline.toml", "images", "--to", "out"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

fn ids(bench: &Workbench) -> Vec<String> {
    let list = String::from_utf8(bench.read("out/ImageSets/Segmentation/mini.txt")).expect("UTF-8");
    list.lines().map(str::to_owned).collect()
}

#[test]
fn masks_are_those_of_pycocotools() {
    for (crowd, prefix) in [("object", ""), ("ignore", "ignore_")] {
        let bench = bench().pipeline(&stage(&format!("masks = \"annotations\"\ncrowd = \"{crowd}\"")));
        export(&bench);
        let ids = ids(&bench);
        assert_eq!(ids.len(), 20);
        for id in ids {
            let expected =
                std::fs::read(folder().join(format!("masks/{prefix}{id}.png"))).expect("the fixture is there");
            let expected = decode_mask(&expected).expect("a grey PNG");
            let drawn = decode_mask(&bench.read(&format!("out/SegmentationClass/{id}.png"))).expect("a palette PNG");
            assert_eq!(drawn, expected, "{crowd}: {id}");
        }
    }
}

#[test]
fn labels_are_the_categories_of_objects_in_the_order_of_their_numbers() {
    let bench = bench().pipeline(&stage(""));
    export(&bench);
    let classes = String::from_utf8(bench.read("out/classes.txt")).expect("UTF-8");
    assert_eq!(classes.lines().collect::<Vec<_>>(), ["background", "person", "car", "dog", "bottle", "toothbrush"]);
    // What the file says, read as a whole.
    let file: serde_json::Value = serde_json::from_str(&json()).expect("JSON");
    let list = |name: &str| file[name].as_array().expect("a list");
    let mut expected = vec!["id,label".to_owned()];
    let mut images: Vec<_> = list("images").iter().collect();
    images.sort_by_key(|image| image["file_name"].as_str());
    for image in images {
        let mut numbers: Vec<i64> = list("annotations")
            .iter()
            .filter(|annotation| annotation["image_id"] == image["id"])
            .filter_map(|annotation| annotation["category_id"].as_i64())
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        let id = image["file_name"].as_str().expect("a name").trim_end_matches(".jpg");
        let name = |number: &i64| match number {
            1 => "person",
            3 => "car",
            18 => "dog",
            44 => "bottle",
            _ => "toothbrush",
        };
        expected.extend(numbers.iter().map(|number| format!("{id},{}", name(number))));
        if numbers.is_empty() {
            expected.push(format!("{id},"));
        }
    }
    let labels = String::from_utf8(bench.read("out/labels.csv")).expect("UTF-8");
    assert_eq!(labels.lines().collect::<Vec<_>>(), expected);

    bench.write("pipeline.toml", stage("unlabelled = \"drop\""));
    export(&bench);
    assert_eq!(ids(&bench).len(), 19);
    bench.write("pipeline.toml", stage("limit = 3"));
    export(&bench);
    assert_eq!(ids(&bench).len(), 3);

    // Ready masks in a folder.
    for id in expected.iter().filter_map(|row| row.split(',').next()) {
        let mask = std::fs::read(folder().join(format!("masks/{id}.png"))).unwrap_or_default();
        bench.write(&format!("coco/masks/{id}.png"), mask);
    }
    bench.write("pipeline.toml", stage("masks = \"masks\""));
    export(&bench);
    let id = &ids(&bench)[0];
    assert_eq!(bench.read(&format!("out/SegmentationClass/{id}.png")), bench.read(&format!("coco/masks/{id}.png")));
}

#[test]
fn what_the_file_says_is_the_key_and_not_how() {
    let bench = bench().pipeline(&stage("masks = \"annotations\""));
    assert_eq!(bench.statuses([]), ["images ran"]);
    let moved = json().replacen("{\"info\"", "\n  {\"more\": [[{}], \"]\"],  \"info\"", 1);
    bench.write("coco/annotations/instances_mini.json", &moved);
    assert_eq!(bench.statuses([]), ["images cached"]);
    // One object less in one image.
    let mut file: serde_json::Value = serde_json::from_str(&moved).expect("JSON");
    file["annotations"].as_array_mut().expect("a list").pop();
    bench.write("coco/annotations/instances_mini.json", file.to_string());
    assert_eq!(bench.statuses([]), ["images ran"]);
}

/// The lists of images that are remembered.
fn lists(bench: &Workbench) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(bench.path("cache/v1/lists")).into_iter().flatten();
    entries.map(|entry| entry.expect("lists can be listed").path()).collect()
}

#[test]
fn a_second_run_asks_its_memory_and_not_the_file() {
    let bench = bench().pipeline(&stage("masks = \"annotations\""));
    assert_eq!(bench.statuses([]), ["images ran"]);
    assert_eq!(bench.statuses([]), ["images cached"]);
    let [list] = lists(&bench).try_into().expect("one list for one stage");
    // Another label in the memory makes another set, which shows who was asked.
    let bytes = std::fs::read(&list).expect("readable");
    let remembered = |text: &str| {
        let mut bytes = text.as_bytes().to_vec();
        bytes.extend_from_slice(Digest::of(text.as_bytes()).as_bytes());
        std::fs::write(&list, bytes).expect("written");
    };
    let text = std::str::from_utf8(&bytes[..bytes.len() - 32]).expect("UTF-8").to_owned();
    let other = text.replacen("\"labels\":[", "\"labels\":[3,", 1);
    assert_ne!(text, other);
    remembered(&other);
    let plan = bench.run(["plan", "pipeline.toml", "--json"]);
    assert!(plan.stdout.contains("to-run"), "{plan:?}");
    // A damaged one is none, and is written again.
    std::fs::write(&list, &bytes[1..]).expect("written");
    assert_eq!(bench.statuses([]), ["images cached"]);
    assert_eq!(std::fs::read(&list).expect("readable"), bytes);
    // One that names a photograph that is not there is not taken at its word.
    remembered(&text.replacen("COCO_mini_000000000009.jpg", "COCO_mini_moved.jpg", 1));
    assert_eq!(bench.statuses([]), ["images cached"]);
    assert_eq!(std::fs::read(&list).expect("readable"), bytes);
    // Another value of a parameter is asked for anew, in any case one that is not in the key.
    bench.write("pipeline.toml", stage("masks = \"annotations\"\nlimit = 20"));
    assert_eq!(bench.statuses([]), ["images cached"]);
    assert_eq!(lists(&bench).len(), 2);
    // They go with what was not used for long.
    assert_eq!(bench.run(["cache", "gc", "--max-age", "30d"]).code, Some(0));
    assert_eq!(lists(&bench).len(), 2);
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(60 * 24 * 3600);
    for list in lists(&bench) {
        std::fs::File::open(list).and_then(|file| file.set_modified(old)).expect("its time can be set");
    }
    assert_eq!(bench.run(["cache", "gc", "--max-age", "30d"]).code, Some(0));
    assert_eq!(lists(&bench).len(), 0);
    assert_eq!(bench.statuses([]), ["images cached"]);
}

#[test]
fn what_does_not_fit_is_said_before_anything_runs() {
    let refused = |bench: &Workbench| {
        let outcome = bench.run(["plan", "pipeline.toml"]);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        outcome.stderr.lines().next().unwrap_or_default().trim_start_matches("error: stage `images`: ").to_owned()
    };
    let with = |from: &str, to: &str| {
        let bench = Workbench::new().pipeline(&stage(""));
        assert!(json().contains(from), "{from}");
        bench.write("coco/annotations/instances_mini.json", json().replacen(from, to, 1));
        refused(&bench)
    };
    let mut said = vec![refused(&Workbench::new().pipeline(&stage("")))];
    said.push(with("\"category_id\": 44", "\"category_id\": 45"));
    said.push(with("\"image_id\": 9,", "\"image_id\": 10,"));
    said.push(with("{\"supercategory\": \"x\", \"id\": 44, \"name\": \"bottle\"}", "{\"id\": 44}"));
    said.push(with("\"id\": 44,", "\"id\": 1,"));
    said.push(with("\"categories\": [", "\"other\": ["));
    said.push(with("COCO_mini_000000000009.jpg", "../COCO_mini_000000000009.jpg"));
    let bench = Workbench::new().pipeline(&stage(""));
    bench.write("coco/annotations/instances_mini.json", &json()[..20_000]);
    said.push(refused(&bench));
    let bench = self::bench().pipeline(&stage(""));
    // Whether or not the images are known by heart.
    assert_eq!(bench.run(["plan", "pipeline.toml"]).code, Some(0));
    std::fs::remove_file(bench.path("coco/mini/COCO_mini_000000000016.jpg")).expect("it was there");
    said.push(refused(&bench));
    insta::assert_snapshot!(said.join("\n"), @r"
    the annotations cannot be read: `coco/annotations/instances_mini.json`: No such file or directory (os error 2)
    `coco/annotations/instances_mini.json` is no file of COCO's instances: an annotation is of category 45, which is not there
    `coco/annotations/instances_mini.json` is no file of COCO's instances: an annotation is of image 10, which is not there
    `coco/annotations/instances_mini.json` is no file of COCO's instances: in `categories`, from byte 30203 on: missing field `name` at line 1 column 10
    `coco/annotations/instances_mini.json` is no file of COCO's instances: category 1 (`person`) is there twice
    `coco/annotations/instances_mini.json` is no file of COCO's instances: it has 20 images and 0 categories
    `coco/annotations/instances_mini.json` is no file of COCO's instances: `../COCO_mini_000000000009.jpg` is no name of a file
    `coco/annotations/instances_mini.json` is no file of COCO's instances: at byte 20000: the file ends too early
    1 image of 20 is missing in `coco/mini`: `COCO_mini_000000000016`
    ");
}

#[test]
fn an_object_that_cannot_be_drawn_names_its_image() {
    let bench = bench().pipeline(&stage("masks = \"annotations\""));
    let failed = |text: String| {
        bench.write("coco/annotations/instances_mini.json", text);
        let outcome = bench.run(["run", "pipeline.toml"]);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        failure(&outcome.stderr).lines().nth(1).unwrap_or_default().trim().to_owned()
    };
    let mut said = vec![failed(json().replacen("\"size\": [24, 32]", "\"size\": [32, 24]", 1))];
    said.push(failed(json().replacen("\"segmentation\": [[", "\"segmentation\": [[1, 2, 3], [", 1)));
    bench.write("coco/mini/COCO_mini_000000000009.jpg", jpeg((32, 24)));
    said.push(failed(json()));
    insta::assert_snapshot!(said.join("\n"), @r"
    cause: the mask of image `COCO_mini_000000000009` cannot be drawn: the annotation from byte 12767 on: its runs are of an image of 24 x 32 pixels, not 32 x 24
    cause: the mask of image `COCO_mini_000000000135` cannot be drawn: the annotation from byte 2722 on: a polygon has 3 numbers
    cause: image `COCO_mini_000000000009` has 24 x 32 pixels where the annotations say 32 x 24
    ");
}

#[test]
fn doctor_knows_how_many_images_coco_has() {
    let bench = bench();
    let mut file: serde_json::Value = serde_json::from_str(&json()).expect("JSON");
    let categories = file["categories"].as_array_mut().expect("a list");
    categories.extend((100..175).map(|id| serde_json::json!({ "id": id, "name": format!("thing {id}") })));
    bench.write("coco/annotations/instances_val2014.json", file.to_string());
    let doctor = |more: &str| {
        bench.write("pipeline.toml", stage(more).replace("\"mini\"", "\"val2014\"") + "images = \"mini\"\n");
        bench.run(["doctor", "pipeline.toml"])
    };
    insta::assert_snapshot!(doctor("").stdout, @r"
    images (dataset.coco)
      FAULT: 20 images, where `val2014` of COCO 2014 has 40504
      sizes from 9 x 1 to 40 x 48 pixels
    1 fault, see above
    ");
    let dropped = doctor("unlabelled = \"drop\"");
    assert!(dropped.stdout.contains("19 images, where `val2014` of COCO 2014 with objects has 40137"), "{dropped:?}");
    assert_eq!(doctor("limit = 5\nmasks = \"annotations\"").code, Some(0));
}
