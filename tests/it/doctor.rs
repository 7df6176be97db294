//! `orandflow doctor` and the data sets that are no VOC folder: what is missing is said before any time is spent.

use crate::photographs::{IDS, SIZE, bench, jpeg, mask, stage};
use crate::workbench::Workbench;

/// Runs `doctor`; returns its exit code and what it prints.
fn doctor(bench: &Workbench) -> (Option<i32>, String) {
    let outcome = bench.run(["doctor", "pipeline.toml"]);
    assert_eq!(outcome.stderr, "");
    (outcome.code, outcome.stdout)
}

#[test]
fn data_in_order_is_counted() {
    let bench = bench().pipeline(&stage("images", "masks = \"SegmentationClass\"\nlabels = \"table.csv\""));
    let table = "id,label\n2007_000032,cat\n2007_000039,dog\n2007_000063,cat\n2007_000068,cat\n";
    bench.write("table.csv", table);
    let (code, text) = doctor(&bench);
    insta::assert_snapshot!(text, @r"
    images (dataset.voc)
      4 images
      sizes from 32 x 24 to 32 x 24 pixels
      4 masks, each of its image's size
      labels are the classes of the mask in 3 of 4; not in `2007_000063`
    nothing is missing
    ");
    assert_eq!(code, Some(0));
}

#[test]
fn what_is_missing_or_damaged_ends_in_exit_code_2() {
    let bench = bench().pipeline(&stage("images", "masks = \"SegmentationClass\""));
    bench.write(&format!("data/JPEGImages/{}.jpg", IDS[1]), "no image");
    bench.write(&format!("data/SegmentationClass/{}.png", IDS[2]), mask((SIZE.0, SIZE.1 + 1), 1));
    let (code, text) = doctor(&bench);
    insta::assert_snapshot!(text, @r"
    images (dataset.voc)
      4 images
      sizes from 32 x 24 to 32 x 24 pixels
      2 masks, each of its image's size
      labels are the classes of the mask in 2 of 2
      FAULT: 2 images have faults: `2007_000039`, `2007_000063`; of the first: this file is neither JPEG nor PNG
    1 fault, see above
    ");
    assert_eq!(code, Some(2));

    std::fs::remove_file(bench.path(&format!("data/JPEGImages/{}.jpg", IDS[0]))).expect("it was there");
    let (code, text) = doctor(&bench);
    insta::assert_snapshot!(text, @r"
    images (dataset.voc)
      FAULT: 1 image of 4 is missing in `data/JPEGImages`: `2007_000032`
        help: put them there, or take their ids out of the split file
    1 fault, see above
    ");
    assert_eq!(code, Some(2));
}

#[test]
fn files_of_maps_and_of_weights_are_looked_for_too() {
    let weights = |name: &str, inputs: &str| {
        format!("[stages.{name}]\nkind = \"weights.import\"\narch = \"resnet50\"\npath = \"{name}.pth\"\n{inputs}")
    };
    let import = |name: &str, inputs: &str| {
        format!(
            "[stages.{name}]\nkind = \"cam.import\"\nformat = \"mctformer\"\npath = \"{name}\"\ninputs = {{ {inputs} }}\n"
        )
    };
    let pipeline = [
        stage("images", "masks = \"SegmentationClass\""),
        import("ours", "images = \"images\""),
        import("theirs", "images = \"images\""),
        weights("backbone", ""),
        weights("network", "inputs = { images = \"images\" }\n"),
    ];
    let bench = bench().pipeline(&pipeline.concat());
    for id in &IDS[1..] {
        bench.write(&format!("ours/{id}.npy"), "not opened");
    }
    let (code, text) = doctor(&bench);
    insta::assert_snapshot!(text, @r"
    images (dataset.voc)
      4 images
      sizes from 32 x 24 to 32 x 24 pixels
      4 masks, each of its image's size
      labels are the classes of the mask in 4 of 4
    ours (cam.import)
      FAULT: the maps of 1 image of 4 are missing in `ours`: `2007_000032`
        help: the file of the first would be `ours/2007_000032.npy`; names are set by `file` and `strip_prefix`, and where images without labels have no file, set `allow_missing = true`
    theirs (cam.import)
      FAULT: the maps are not there: `theirs` is not a folder
        help: put them there, or say where they lie: set `path`, or the variable that it uses, as in --set vars.amn=PATH
    backbone (weights.import)
      FAULT: the weights are not there: `backbone.pth` is no file
        help: put the file there, or give its path with `--set`
    network (weights.import)
      FAULT: the weights are not there: `network.pth` is no file
        help: put the file there, or give its path with `--set`
    4 faults, see above
    ");
    assert_eq!(code, Some(2));
    bench.write(&format!("ours/{}.npy", IDS[0]), "not opened");
    let (_, text) = doctor(&bench);
    assert!(text.contains("ours (cam.import)\n  files of 4 of 4 images\n"), "{text}");
}

#[test]
fn a_split_of_voc_has_its_known_size() {
    let bench = Workbench::new().file("VOC2012/ImageSets/Segmentation/train.txt", "a\n");
    bench.write("VOC2012/JPEGImages/a.jpg", jpeg(SIZE));
    bench.write("VOC2012/SegmentationClass/a.png", mask(SIZE, 15));
    bench.write(
        "pipeline.toml",
        "[stages.images]\nkind = \"dataset.voc\"\nroot = \"VOC2012\"\nsplit = \"train\"\nlabels = \"masks\"\n",
    );
    let (code, text) = doctor(&bench);
    assert!(text.contains("FAULT: 1 image, where `train` of PASCAL VOC 2012 has 1464"), "{text}");
    assert_eq!(code, Some(2));
}

const FOLDER: &str = "[stages.images]\nkind = \"dataset.folder\"\nimages = \"photos\"\nlabels = \"labels.csv\"\nclasses = \"classes.txt\"\n";

#[test]
fn a_plain_folder_is_a_data_set() {
    let bench = Workbench::new().file("classes.txt", "background\ncat\ndog\n").pipeline(FOLDER);
    bench.write("photos/b.jpg", jpeg(SIZE));
    bench.write("photos/a.jpeg", jpeg(SIZE));
    bench.write("photos/notes.txt", "no image");
    bench.write("labels.csv", "id,label\na,dog\na,cat\nb,\n");
    assert_eq!(doctor(&bench).0, Some(0));
    let outcome = bench.run(["run", "pipeline.toml"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let outcome = bench.run(["export", "pipeline.toml", "images", "--to", "out"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(String::from_utf8(bench.read("out/labels.csv")).as_deref(), Ok("id,label\na,cat\na,dog\nb,\n"));

    bench.write("labels.csv", "id,label\na,dog\nb,\nc,cat\n");
    let (code, text) = doctor(&bench);
    assert!(text.contains("FAULT: `labels.csv` has rows for 1 image missing in `photos`: `c`"), "{text}");
    assert_eq!(code, Some(2));
    bench.write("labels.csv", "id,label\na,dog\n");
    assert!(doctor(&bench).1.contains("`labels.csv` has no row for 1 image of 2: `b`"));
    bench.write("labels.csv", "id,label\na,dog\nb,\n");
    bench.write("photos/b.png", jpeg(SIZE));
    assert!(doctor(&bench).1.contains("there are two images `b`"));
}

/// The label file of the reference programs, with ids or numbers for keys.
#[test]
fn labels_of_the_reference_programs_are_read() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/voc_mini");
    if !root.exists() {
        #[expect(clippy::print_stderr, reason = "a test that checks nothing says so")]
        {
            eprintln!("skipped: ../shared/data/voc_mini is not there");
        }
        return;
    }
    let root = root.display();
    let pipeline = format!(
        "[stages.images]\nkind = \"dataset.voc\"\nroot = \"{root}\"\nsplit = \"train\"\nmasks = \"SegmentationClass\"\nlabels = \"{root}/cls_labels.npy\"\n"
    );
    let (code, text) = doctor(&Workbench::new().pipeline(&pipeline));
    assert!(text.contains("labels are the classes of the mask in 3 of 3"), "{text}");
    assert_eq!(code, Some(0));
}

#[test]
fn devices_are_listed_and_tested() {
    let outcome = Workbench::new().run(["doctor", "--devices"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert!(lines[0].starts_with(concat!("orandflow ", env!("CARGO_PKG_VERSION"), ", built with: ")), "{}", lines[0]);
    if cfg!(feature = "nn") {
        assert!(outcome.stdout.contains("device `cpu`: computes rightly, 0.0e0 from the CPU"), "{}", outcome.stdout);
    } else {
        assert!(outcome.stdout.contains("built without networks"), "{}", outcome.stdout);
    }
    let both = Workbench::new().run(["doctor", "pipeline.toml", "--devices"]);
    assert_eq!(both.code, Some(2), "one or the other: {}", both.stdout);
}
