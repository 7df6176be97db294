//! `cam.import`: files of other programs on the way into a CAM set, and files that do not belong to the images.

use orandflow::foreign::write::{Element, Item, Key, Library, npy, npy_dict};
use orandflow::image::codec;

use crate::photographs::{IDS, SIZE, bench, failure, scored};
use crate::workbench::Workbench;

/// The class of each photograph, as its mask has it.
const LABELS: [u8; 4] = [0, 1, 2, 0];

fn import(format: &str, more: &str) -> String {
    scored("images")
        + &format!(
            "[stages.cams]\nkind = \"cam.import\"\nformat = \"{format}\"\npath = \"cams\"\n{more}\ninputs = {{ images = \"images\" }}\n"
        )
}

fn stride4() -> (usize, usize) {
    (SIZE.0.div_ceil(4), SIZE.1.div_ceil(4))
}

/// Values that tell a channel, a row and a column apart, exact in f16.
fn ramp(channel: usize, (height, width): (usize, usize)) -> Vec<f32> {
    (0..height * width).map(|pixel| (channel * 64 + pixel % 64) as f32 / 256.0).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn array(library: Library, channels: &[usize], size: (usize, usize)) -> Item {
    let data = channels.iter().flat_map(|&channel| bytes(&ramp(channel, size))).collect();
    Item { library, element: Element::F32, shape: vec![channels.len(), size.0, size.1], data }
}

fn keys(library: Library, classes: &[i64]) -> Item {
    let data = classes.iter().flat_map(|class| class.to_le_bytes()).collect();
    Item { library, element: Element::I64, shape: vec![classes.len()], data }
}

/// A dict as AMN writes it for one class: background first, tensors of PyTorch but for the maps at full size.
fn amn(class: u8) -> Vec<u8> {
    npy_dict(&[
        (Key::Text("keys"), keys(Library::Torch, &[class.into()])),
        (Key::Text("cam"), array(Library::Torch, &[3, 1], stride4())),
        (Key::Text("high_res"), array(Library::Numpy, &[3, 1], SIZE)),
    ])
}

/// A dict as MCTformer writes it.
fn mctformer(classes: &[u8]) -> Vec<u8> {
    let entries: Vec<(Key<'_>, Item)> = classes
        .iter()
        .map(|&class| {
            let mut map = array(Library::Numpy, &[1], SIZE);
            map.shape.remove(0);
            (Key::Number(class), map)
        })
        .collect();
    npy_dict(&entries)
}

/// Puts a file for each photograph into `cams`.
fn with_files(pipeline: &str, name: impl Fn(&str) -> String, file: impl Fn(u8) -> Vec<u8>) -> Workbench {
    let bench = bench().pipeline(pipeline);
    for (id, label) in IDS.iter().zip(LABELS) {
        bench.write(&format!("cams/{}", name(id)), file(label));
    }
    bench
}

fn plain_name(id: &str) -> String {
    format!("{id}.npy")
}

/// Runs the pipeline and returns classes, maps and maps at stride 4 of the second photograph.
fn imported(bench: &Workbench) -> (Vec<u8>, Vec<f32>, Vec<f32>) {
    let outcome = bench.run(["run", "pipeline.toml"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let outcome = bench.run(["export", "pipeline.toml", "cams", "--to", "out", "--format", "safetensors"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let file = bench.read(&format!("out/{}.safetensors", IDS[1]));
    let file = safetensors::SafeTensors::deserialize(&file).expect("safetensors");
    let floats = |name: &str| {
        let view = file.tensor(name).expect("it is there");
        let four = view.data().chunks_exact(4);
        four.map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect::<Vec<f32>>()
    };
    (file.tensor("classes").expect("it is there").data().to_vec(), floats("high_res"), floats("cam"))
}

fn refused(bench: &Workbench) -> String {
    let outcome = bench.run(["run", "pipeline.toml"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    failure(&outcome.stderr)
}

#[test]
fn amn_loses_its_background_and_keeps_its_maps_at_stride_4() {
    let bench = with_files(&import("amn", ""), plain_name, amn);
    let (classes, high_res, cam) = imported(&bench);
    assert_eq!(classes, [1]);
    assert_eq!((high_res, cam), (ramp(1, SIZE), ramp(1, stride4())));
    assert_eq!(bench.statuses([]), ["images cached", "cams cached"]);
}

#[test]
fn irn_and_orandnet_have_their_own_names_of_files() {
    let dict = |library: Library| {
        move |class: u8| {
            npy_dict(&[
                (Key::Text("keys"), keys(Library::Torch, &[class.into()])),
                (Key::Text("cam"), array(library, &[2], stride4())),
                (Key::Text("high_res"), array(Library::Numpy, &[2], SIZE)),
            ])
        }
    };
    let bench = with_files(&import("irn", ""), plain_name, dict(Library::Torch));
    assert_eq!(imported(&bench), (vec![1], ramp(2, SIZE), ramp(2, stride4())));
    let bench = with_files(&import("orandnet", ""), |id| format!("{id}_1.npy"), dict(Library::Numpy));
    assert_eq!(imported(&bench), (vec![1], ramp(2, SIZE), ramp(2, stride4())));
    let pipeline = import("orandnet", "file = \"maps/x_{id}.npy\"\nstrip_prefix = \"2007_\"");
    let bench = with_files(&pipeline, |id| format!("maps/x_{}.npy", &id[5..]), dict(Library::Numpy));
    assert_eq!(imported(&bench).1, ramp(2, SIZE));
}

#[cfg(unix)]
#[test]
fn files_are_found_in_folders_of_their_own_and_behind_links_and_folders_are_no_files() {
    let file = |class: u8| mctformer(&[class]);
    let bench = with_files(&import("mctformer", "file = \"{id}/maps.npy\""), |id| format!("{id}/maps.npy"), file);
    assert_eq!(imported(&bench).1, ramp(1, SIZE));
    let bench = with_files(&import("mctformer", ""), |id| format!("../elsewhere/{id}.npy"), file);
    std::fs::create_dir_all(bench.path("cams")).expect("made");
    for id in IDS {
        let (from, to) = (bench.path(&format!("elsewhere/{id}.npy")), bench.path(&format!("cams/{id}.npy")));
        std::os::unix::fs::symlink(from, to).expect("linked");
    }
    assert_eq!(imported(&bench).1, ramp(1, SIZE));
    // A link into nowhere, and a folder.
    std::fs::remove_file(bench.path(&format!("elsewhere/{}.npy", IDS[0]))).expect("it is there");
    std::fs::remove_file(bench.path(&format!("cams/{}.npy", IDS[1]))).expect("it is there");
    std::fs::create_dir(bench.path(&format!("cams/{}.npy", IDS[1]))).expect("made");
    let outcome = bench.run(["plan", "pipeline.toml"]);
    assert!(outcome.stderr.contains("the maps of 2 images of 4 are missing"), "{outcome:?}");
}

#[test]
fn maps_at_stride_4_that_a_file_lacks_are_made_by_interpolation() {
    let bench = with_files(&import("mctformer", ""), plain_name, |class| mctformer(&[class]));
    let (classes, high_res, cam) = imported(&bench);
    assert_eq!((classes, &high_res), (vec![1], &ramp(1, SIZE)));
    // Ratio 4, half a pixel off: the mean of rows and columns 1 and 2 of each four (SPEC 0.4). f16 keeps 2^-12 of that.
    let mean = |row: usize, column: usize| {
        let at = |row: usize, column: usize| high_res[row * SIZE.1 + column];
        (at(row, column) + at(row, column + 1) + at(row + 1, column) + at(row + 1, column + 1)) / 4.0
    };
    for (place, value) in cam.iter().enumerate() {
        let (row, column) = (place / stride4().1 * 4 + 1, place % stride4().1 * 4 + 1);
        assert!((value - mean(row, column)).abs() <= 1.0 / 4096.0, "{place}: {value}");
    }
}

#[test]
fn plain_arrays_take_their_classes_from_labels_or_from_a_second_file() {
    let maps = |_: u8| npy("<f4", &[1, SIZE.0, SIZE.1], &bytes(&ramp(2, SIZE)));
    let bench = with_files(&import("npy", ""), plain_name, maps);
    assert_eq!(imported(&bench).0, [1]);
    for (id, label) in IDS.iter().zip(LABELS) {
        bench.write(&format!("cams/{id}.classes.npy"), npy("|u1", &[1], &[label]));
    }
    assert_eq!(bench.statuses([]), ["images cached", "cams ran"], "the second file is part of the key");
    bench.write(&format!("cams/{}.classes.npy", IDS[2]), npy("|u1", &[1], &[0]));
    insta::assert_snapshot!(refused(&bench), @r#"
    error: stage `cams` failed after [TIME]
      cause: the maps of image `2007_000063` in `cams/2007_000063.npy` are of classes [0] and the image is labelled with [2]
      help: use the labels that the maps were made with, or set `other_classes = "take"`
    "#);
}

#[test]
fn what_export_writes_comes_back_as_it_was() {
    let maps = "[stages.maps]\nkind = \"debug.maps\"\nnoise = 0.3\ninputs = { images = \"images\" }\n";
    for format in ["safetensors", "npy"] {
        let bench = bench().pipeline(&(import(format, "") + maps));
        assert_eq!(bench.run(["run", "pipeline.toml", "--only", "maps"]).code, Some(0));
        let export = ["export", "pipeline.toml", "maps", "--to", "cams", "--format", format];
        assert_eq!(bench.run(export).code, Some(0));
        let (object, outcome) = bench.run_json([]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let stages = object["stages"].as_array().expect("a list");
        let digest = |name: &str| stages.iter().find(|stage| stage["name"] == name).expect("listed")["output"].clone();
        assert!(digest("maps").is_string(), "{object}");
        // A plain array has no maps at stride 4, and those that are made of it differ by f16's rounding.
        assert_eq!(digest("maps") == digest("cams"), format == "safetensors", "{format}");
        let export = ["export", "pipeline.toml", "cams", "--to", "again", "--format", format];
        assert_eq!(bench.run(export).code, Some(0));
        for name in [format!("{}.{format}", IDS[2]), "classes.txt".to_owned()] {
            assert_eq!(bench.read(&format!("cams/{name}")), bench.read(&format!("again/{name}")), "{name}");
        }
    }
}

#[test]
fn missing_files_are_counted_in_the_plan() {
    let bench = with_files(&import("mctformer", ""), plain_name, |class| mctformer(&[class]));
    for id in [IDS[0], IDS[3]] {
        std::fs::remove_file(bench.path(&format!("cams/{id}.npy"))).expect("it was there");
    }
    assert_eq!(bench.run(["run", "pipeline.toml", "--only", "images"]).code, Some(0));
    let outcome = bench.run(["plan", "pipeline.toml"]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    insta::assert_snapshot!(outcome.stderr, @r"
    error: stage `cams`: the maps of 2 images of 4 are missing in `cams`: `2007_000032`, `2007_000068`
      ╭▸ pipeline.toml:6:9
      │
    6 │ [stages.cams]
      │         ━━━━ a `cam.import` stage
      │
      ╰ help: the file of the first would be `cams/2007_000032.npy`; names are set by `file` and `strip_prefix`, and where images without labels have no file, set `allow_missing = true`
    ");
    bench.write("pipeline.toml", import("mctformer", "allow_missing = true"));
    insta::assert_snapshot!(refused(&bench), @r"
    error: stage `cams` failed after [TIME]
      cause: the maps of image `2007_000032` are missing, and it is labelled with [0]: `cams/2007_000032.npy` is no file
      help: `allow_missing` is for images without labels
    ");
    // Images without labels need no file.
    bench.write("labels.csv", format!("id,label\n{},\n{},dog\n{},bird\n{},\n", IDS[0], IDS[1], IDS[2], IDS[3]));
    let unlabelled = import("mctformer", "allow_missing = true")
        .replace("masks = \"SegmentationClass\"", "masks = \"SegmentationClass\"\nlabels = \"labels.csv\"");
    bench.write("pipeline.toml", unlabelled);
    assert_eq!(imported(&bench).0, [1]);
}

#[test]
fn a_file_that_changes_reruns_its_shard_and_a_renamed_folder_nothing() {
    let bench = with_files(&import("mctformer", ""), plain_name, |class| mctformer(&[class]));
    assert_eq!(bench.statuses([]), ["images ran", "cams ran"]);
    std::fs::rename(bench.path("cams"), bench.path("moved")).expect("it can be renamed");
    assert_eq!(bench.statuses(["--set", "stages.cams.path=moved"]), ["images cached", "cams cached"]);
    bench.write(&format!("moved/{}.npy", IDS[0]), {
        let mut map = array(Library::Numpy, &[3], SIZE);
        map.shape.remove(0);
        npy_dict(&[(Key::Number(0), map)])
    });
    assert_eq!(bench.statuses(["--set", "stages.cams.path=moved"]), ["images cached", "cams ran"]);
}

#[test]
fn files_that_do_not_belong_are_refused_with_image_and_file() {
    let first = |file: Vec<u8>, format: &str, more: &str| {
        let bench = with_files(&import(format, more), plain_name, amn);
        bench.write(&format!("cams/{}.npy", IDS[0]), file);
        for id in &IDS[1..] {
            bench.write(
                &format!("cams/{id}.npy"),
                amn(LABELS[IDS.iter().position(|other| other == id).expect("one of them")]),
            );
        }
        refused(&bench)
    };
    let mut texts = vec![
        first(amn(0), "irn", ""),
        first(mctformer(&[0]), "amn", ""),
        first(amn(7), "amn", ""),
        first(amn(2), "amn", ""),
        first(b"no array".to_vec(), "amn", ""),
        first(crate::foreign::file("evil.npy"), "amn", ""),
        first(crate::foreign::file("amn.npy"), "amn", ""),
    ];
    let beyond = |value: f32| {
        let mut maps = ramp(0, SIZE);
        maps[5] = value;
        npy("<f4", &[1, SIZE.0, SIZE.1], &bytes(&maps))
    };
    for value in [1.15, f32::NAN] {
        let bench = with_files(&import("npy", ""), plain_name, |_| beyond(0.5));
        bench.write(&format!("cams/{}.npy", IDS[0]), beyond(value));
        texts.push(refused(&bench));
    }
    for (word, size) in [("|u1", 1), (">f4", 4)] {
        let bench = with_files(&import("npy", ""), plain_name, |_| beyond(0.5));
        let bytes = vec![0; SIZE.0 * SIZE.1 * size];
        bench.write(&format!("cams/{}.npy", IDS[0]), npy(word, &[1, SIZE.0, SIZE.1], &bytes));
        texts.push(refused(&bench));
    }
    insta::assert_snapshot!(texts.join("\n"), @r#"
    error: stage `cams` failed after [TIME]
      cause: the maps of image `2007_000032` in `cams/2007_000032.npy`: it has 1 class and 2 maps, as AMN's files have, whose first map is the background
      help: see that `format` is that of the program which made the files, and that they are whole
    error: stage `cams` failed after [TIME]
      cause: the maps of image `2007_000032` in `cams/2007_000032.npy`: it has no `keys`, which name the classes of its maps
      help: see that `format` is that of the program which made the files, and that they are whole
    error: stage `cams` failed after [TIME]
      cause: the maps of image `2007_000032` in `cams/2007_000032.npy`: it has class 7, but there are 3 foreground classes, 0 to 2
      help: see that `format` is that of the program which made the files, and that they are whole
    error: stage `cams` failed after [TIME]
      cause: the maps of image `2007_000032` in `cams/2007_000032.npy` are of classes [2] and the image is labelled with [0]
      help: use the labels that the maps were made with, or set `other_classes = "take"`
    error: stage `cams` failed after [TIME]
      cause: the maps of image `2007_000032` in `cams/2007_000032.npy`: it is no npy file
      help: see that `format` is that of the program which made the files, and that they are whole
    error: stage `cams` failed after [TIME]
      cause: the maps of image `2007_000032` in `cams/2007_000032.npy`: it asks for `posix.system`, which files of arrays and weights do not need; it was not run, and the file is not read
      help: see that `format` is that of the program which made the files, and that they are whole
    error: stage `cams` failed after [TIME]
      cause: the maps of image `2007_000032` in `cams/2007_000032.npy`: it has class 4, but there are 3 foreground classes, 0 to 2
      help: see that `format` is that of the program which made the files, and that they are whole
    error: stage `cams` failed after [TIME]
      cause: the maps of image `2007_000032` in `cams/2007_000032.npy`: it has the value 1.15, and maps lie in 0 to 1
      help: set `outside = "clip"`, or `outside = "keep"` for maps that are meant to go beyond
    error: stage `cams` failed after [TIME]
      cause: the maps of image `2007_000032` in `cams/2007_000032.npy`: it has a value that is NaN
      help: see that `format` is that of the program which made the files, and that they are whole
    error: stage `cams` failed after [TIME]
      cause: the maps of image `2007_000032` in `cams/2007_000032.npy`: the array cannot be read: numbers with a fraction are due where the type is uint8
      help: save the maps as little-endian float16, float32 or float64 from 0 to 1; maps of 8 bits are divided by 255 for that
    error: stage `cams` failed after [TIME]
      cause: the maps of image `2007_000032` in `cams/2007_000032.npy`: its arrays have the type `>f4`, big-endian, which is not read
      help: save the maps as little-endian float16, float32 or float64 from 0 to 1; maps of 8 bits are divided by 255 for that
    "#);
    for (outside, value) in [("clip", 1.0), ("keep", 1.15)] {
        let bench = with_files(&import("npy", &format!("outside = \"{outside}\"")), plain_name, |_| beyond(1.15));
        let read = imported(&bench).1[5];
        assert!((read - value).abs() < 1e-3, "{outside}: {read}");
    }
    // Rounding of another program's arithmetic is no mistake.
    let bench = with_files(&import("npy", ""), plain_name, |_| beyond(1.0001));
    assert_eq!(imported(&bench).1[5], 1.0);
    // Other classes than the labels, where they are wanted.
    let bench = with_files(&import("amn", "other_classes = \"take\""), plain_name, |_| amn(2));
    assert_eq!(imported(&bench).0, [2]);
}

/// The files that the programs themselves have written, for three photographs of VOC.
#[test]
#[expect(clippy::print_stderr, reason = "a test that is left out says so")]
fn files_of_amn_and_mctformer_themselves() {
    let shared = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if !shared.join("cams").is_dir() {
        eprintln!("left out: {} is not there", shared.display());
        return;
    }
    let shared = shared.to_str().expect("UTF-8");
    let stages: String = ["amn", "mctformer"]
        .iter()
        .map(|format| {
            format!(
                "[stages.{format}]\nkind = \"cam.import\"\nformat = \"{format}\"\npath = \"{shared}/cams/{format}\"\ninputs = {{ images = \"images\" }}\n"
            )
        })
        .collect();
    let bench = Workbench::new().pipeline(&format!(
        "[stages.images]\nkind = \"dataset.voc\"\nroot = \"{shared}/voc_mini\"\nsplit = \"train\"\n{stages}"
    ));
    assert_eq!(bench.statuses([]), ["images ran", "amn ran", "mctformer ran"]);
    for format in ["amn", "mctformer"] {
        let outcome = bench.run(["export", "pipeline.toml", format, "--to", format, "--format", "safetensors"]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    }
    let photograph = std::fs::read(format!("{shared}/voc_mini/JPEGImages/2011_000003.jpg")).expect("a photograph");
    let (height, width) = codec::image_size(&photograph).expect("a JPEG");
    for format in ["amn", "mctformer"] {
        let bytes = bench.read(&format!("{format}/2011_000003.safetensors"));
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
        assert_eq!(file.tensor("high_res").expect("maps").shape()[1..], [height, width]);
        // Upstream divides by the maximum and a little: the largest value of each map is just below 1.
        let largest = file
            .tensor("high_res")
            .expect("maps")
            .data()
            .chunks_exact(4)
            .fold(0.0_f32, |largest, four| largest.max(f32::from_le_bytes([four[0], four[1], four[2], four[3]])));
        assert!((0.5..=1.0).contains(&largest), "{format}: {largest}");
    }
}
