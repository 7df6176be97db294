//! `orandflow export`: what is written, and when it refuses.

use orandflow::image::codec;

use crate::photographs::{IDS, SIZE, bench, scored};
use crate::workbench::{Outcome, Workbench};

fn pipeline() -> String {
    scored("images")
        + "[stages.maps]\nkind = \"debug.maps\"\ninputs = { images = \"images\" }\n"
        + "[stages.masks]\nkind = \"mask.threshold\"\ninputs = { scores = \"maps\" }\n"
        + "[stages.score]\nkind = \"evaluate\"\ninputs = { prediction = \"masks\", truth = \"images\" }\n"
}

fn done() -> Workbench {
    let bench = bench().pipeline(&pipeline());
    assert_eq!(bench.run(["run", "pipeline.toml"]).code, Some(0));
    bench
}

fn export(bench: &Workbench, stage: &str, more: &[&str]) -> Outcome {
    let arguments = ["export", "pipeline.toml", stage, "--to", "out"];
    bench.run(arguments.into_iter().chain(more.iter().copied()))
}

fn names(bench: &Workbench) -> Vec<String> {
    let entries = std::fs::read_dir(bench.path("out")).expect("the folder is there");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("listed").file_name().into_string().expect("UTF-8")).collect();
    names.sort_unstable();
    names
}

#[test]
fn masks_are_palette_files_with_their_indices() {
    let bench = done();
    bench.write("out/notes.txt", "mine");
    let outcome = export(&bench, "masks", &[]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), "5 files in out\n"));
    assert_eq!(names(&bench).len(), 6);
    assert_eq!(bench.read("out/notes.txt"), b"mine");
    let mask = codec::decode_mask(&bench.read(&format!("out/{}.png", IDS[1]))).expect("a mask");
    assert_eq!((mask.height(), mask.width()), SIZE);
    assert_eq!((mask.label(0, 0), mask.label(0, SIZE.1 - 1)), (2, 0));
}

#[test]
fn maps_are_npy_or_safetensors() {
    let bench = done();
    assert_eq!(export(&bench, "maps", &[]).stdout, "9 files in out\n");
    let npy = bench.read(&format!("out/{}.npy", IDS[2]));
    assert!(npy.windows(11).any(|part| part == b"(1, 24, 32)"));
    assert_eq!(npy.len(), 128 + 24 * 32 * 4);
    let classes = bench.read(&format!("out/{}.classes.npy", IDS[2]));
    assert_eq!(classes.last(), Some(&2));
    assert_eq!(export(&bench, "maps", &["--format", "safetensors"]).stdout, "5 files in out\n");
    let bytes = bench.read(&format!("out/{}.safetensors", IDS[2]));
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    assert_eq!(file.tensor("high_res").expect("there").shape(), [1, 24, 32]);
    assert_eq!(file.tensor("cam").expect("there").shape(), [1, 6, 8]);
    let mut tensors = file.names();
    tensors.sort_unstable();
    assert_eq!(tensors, ["cam", "classes", "high_res"]);
}

/// Reads a dict that was exported, as `np.load(path, allow_pickle=True).item()` would.
fn dict<T>(bytes: &[u8], look: impl Fn(orandflow::foreign::View<'_, '_>) -> T) -> T {
    look(orandflow::foreign::npy::read(bytes).expect("an npy file").root().item())
}

#[test]
fn maps_are_dicts_of_irn_and_mctformer() {
    let bench = done();
    export(&bench, "maps", &[]);
    let plain = bench.read(&format!("out/{}.npy", IDS[2]))[128..].to_vec();
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect()
    };
    for format in ["irn", "irn-torch"] {
        assert_eq!(export(&bench, "maps", &["--format", format]).stdout, "5 files in out\n");
        dict(&bench.read(&format!("out/{}.npy", IDS[2])), |dict| {
            assert_eq!(dict.entries().expect("a dict").len(), 3);
            assert_eq!(dict.get("keys").expect("classes").integers(), Ok(vec![2]));
            assert_eq!(dict.get("cam").expect("maps").shape(), Some(&[1, 6, 8][..]));
            assert_eq!(dict.get("high_res").expect("maps").floats(), Ok(floats(&plain)));
        });
    }
    assert_eq!(export(&bench, "maps", &["--format", "mctformer"]).stdout, "5 files in out\n");
    dict(&bench.read(&format!("out/{}.npy", IDS[2])), |dict| {
        let entries: Vec<_> = dict.entries().expect("a dict").collect();
        assert_eq!((entries.len(), entries[0].0.integer()), (1, Some(2)));
        assert_eq!(entries[0].1.shape(), Some(&[24, 32][..]));
        assert_eq!(entries[0].1.floats(), Ok(floats(&plain)));
    });
}

/// What goes out in a form of another program comes in again as it was.
#[test]
fn dicts_come_back_through_cam_import() {
    let bench = done();
    for format in ["irn", "irn-torch", "mctformer"] {
        let folder = format!("as-{format}");
        let outcome = bench.run(["export", "pipeline.toml", "maps", "--to", &folder, "--format", format]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let program = format.trim_end_matches("-torch");
        bench.write(
            "back.toml",
            scored("images")
                + &format!(
                    "[stages.back]\nkind = \"cam.import\"\nformat = \"{program}\"\npath = \"{folder}\"\ninputs = {{ images = \"images\" }}\n"
                ),
        );
        assert_eq!(bench.run(["run", "back.toml"]).code, Some(0));
        for (file, stage, to) in [("pipeline.toml", "maps", "one"), ("back.toml", "back", "other")] {
            assert_eq!(bench.run(["export", file, stage, "--to", to]).code, Some(0));
        }
        for id in IDS {
            assert_eq!(bench.read(&format!("one/{id}.npy")), bench.read(&format!("other/{id}.npy")), "{format}");
        }
    }
}

/// A pipeline whose masks have the classes of PASCAL VOC.
fn voc_masks() -> Workbench {
    let bench = bench().pipeline(&pipeline());
    bench.write("data/classes.txt", orandflow::data::voc::CLASSES.join("\n"));
    assert_eq!(bench.run(["run", "pipeline.toml"]).code, Some(0));
    bench
}

#[test]
fn masks_for_the_voc_server_are_one_archive() {
    let bench = voc_masks();
    assert_eq!(export(&bench, "masks", &["--format", "voc-test"]).stdout, "1 file in out\n");
    let mut tar = Vec::new();
    let packed = bench.read("out/results.tar.gz");
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed[..]), &mut tar).expect("gzip");
    let mut at = 0;
    for id in IDS {
        let name = format!("results/VOC2012/Segmentation/comp6_test_cls/{id}.png");
        assert_eq!(&tar[at..at + name.len() + 1], [name.as_bytes(), &[0]].concat());
        assert_eq!((&tar[at + 156..at + 157], &tar[at + 257..at + 263]), (&b"0"[..], &b"ustar\0"[..]));
        let sum: u32 =
            (0..512).map(|place| if (148..156).contains(&place) { 32 } else { u32::from(tar[at + place]) }).sum();
        assert_eq!(&tar[at + 148..at + 154], format!("{sum:06o}").as_bytes());
        let size =
            usize::from_str_radix(std::str::from_utf8(&tar[at + 124..at + 135]).expect("digits"), 8).expect("octal");
        let png = &tar[at + 512..at + 512 + size];
        let mask = codec::decode_mask(png).expect("a mask");
        assert_eq!((mask.height(), mask.width()), SIZE);
        let reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().expect("a PNG");
        let info = reader.info();
        assert_eq!((info.color_type, info.bit_depth), (png::ColorType::Indexed, png::BitDepth::Eight));
        assert_eq!(info.palette.as_ref().expect("a palette")[..9], [0, 0, 0, 128, 0, 0, 0, 128, 0]);
        at += 512 + size.next_multiple_of(512);
    }
    assert!(tar[at..].len() >= 1024 && tar[at..].iter().all(|byte| *byte == 0));
}

#[test]
fn masks_that_the_voc_server_would_refuse_are_refused_here() {
    let mut texts = vec![export(&done(), "masks", &["--format", "voc-test"]).stderr];
    let unsure =
        pipeline().replace("[stages.masks]\nkind = \"mask.threshold\"", "[stages.masks]\nkind = \"irn.labels\"");
    let unsure = unsure.replace("inputs = { scores = \"maps\" }", "inputs = { images = \"images\", cams = \"maps\" }");
    let unsure = unsure.split("[stages.score]").next().expect("the beginning").to_owned();
    let bench = voc_masks();
    bench.write("pipeline.toml", unsure);
    let outcome = bench.run(["run", "pipeline.toml"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    texts.push(export(&bench, "masks", &["--format", "voc-test"]).stderr);
    texts.push(export(&bench, "maps", &["--format", "pth"]).stderr);
    texts.push(export(&bench, "images", &["--format", "npy"]).stderr);
    insta::assert_snapshot!(texts.concat(), @r"
    error: the masks of stage `masks` have other classes than the 21 of PASCAL VOC, in their order
    error: the mask of image `2007_000032` has a pixel of 255, and the server takes 0 to 20
    error: a CAM set has no form `pth`; its forms are `npy`, `safetensors`, `irn`, `irn-torch`, `mctformer`
    error: an image set has one form only: leave `--format` out
    ");
}

#[test]
fn metrics_are_one_file() {
    let bench = done();
    assert_eq!(export(&bench, "score", &[]).stdout, "1 file in out\n");
    let table: serde_json::Value = serde_json::from_slice(&bench.read("out/metrics.json")).expect("JSON");
    assert_eq!(table["per_class"][3]["name"], "bird");
}

#[test]
fn a_stage_without_a_result_says_how_to_make_it() {
    let bench = bench().pipeline(&pipeline());
    let outcome = export(&bench, "masks", &[]);
    assert_eq!(outcome.code, Some(1));
    insta::assert_snapshot!(outcome.stderr, @r"
    error: stage `masks` has no result yet: waits for maps
    help: make it: orandflow run pipeline.toml --only masks
    ");
    assert!(!bench.path("out").exists());
}

#[test]
fn an_unknown_stage_and_a_format_that_does_not_fit_are_refused() {
    let bench = done();
    let outcome = export(&bench, "mask", &[]);
    assert_eq!(outcome.code, Some(2));
    insta::assert_snapshot!(outcome.stderr, @r"
    error: there is no stage `mask`
    help: did you mean `masks`?
    ");
    let outcome = export(&bench, "masks", &["--format", "npy"]);
    assert_eq!(outcome.code, Some(1));
    insta::assert_snapshot!(outcome.stderr, @"error: a mask set has no form `npy`; its forms are `png`, `voc-test`");
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let bench = done();
    bench.write("out", "a file stands in the way");
    let outcome = export(&bench, "masks", &[]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("out"), "{}", outcome.stderr);
    assert_eq!(bench.read("out"), b"a file stands in the way");
}
