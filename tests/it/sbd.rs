//! The SBD data set: its mat files, beside PASCAL VOC as a data set, and as a folder of masks.

use std::path::Path;

use orandflow::data::sbd::decode_mask;
use orandflow::foreign::mat;

use crate::photographs::{IDS, SIZE, bench, failure, jpeg, mask};
use crate::workbench::Workbench;

/// Returns the bytes of a file that `tests/fixtures/sbd.py` has made.
fn file(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sbd").join(name))
        .expect("the fixture is there")
}

const GOOD: [&str; 4] = ["deflated.mat", "plain.mat", "doubles.mat", "second.mat"];

/// The mask in all of them.
fn expected() -> Vec<u8> {
    (0..SIZE.0 * SIZE.1).map(|pixel| ((pixel / SIZE.1 / 6 + pixel % SIZE.1 / 4) % 4) as u8).collect()
}

#[test]
fn masks_of_every_layout_are_read() {
    for name in GOOD {
        let mask = decode_mask(&file(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((mask.height(), mask.width()), SIZE, "{name}");
        assert_eq!(mask.data(), expected(), "{name}");
    }
}

#[test]
fn what_is_no_mask_says_why() {
    let mut text = String::new();
    for name in ["fraction", "variable", "field", "array", "cube"] {
        let error = decode_mask(&file(&format!("bad.{name}.mat"))).expect_err("refused");
        text.push_str(&format!("{name}: {error}\n"));
    }
    let level4 = mat::read(&file("bad.level4.mat"), &["GTcls"]).expect_err("refused");
    let mut new = b"MATLAB 7.3 MAT-file".to_vec();
    new.resize(600, 0);
    let new = mat::read(&new, &["GTcls"]).expect_err("refused");
    let mut big = file("plain.mat");
    big[124..128].copy_from_slice(&[1, 0, b'M', b'I']);
    let big = decode_mask(&big).expect_err("refused");
    insta::assert_snapshot!(format!("{text}level4: {level4}\nnew: {new}\nbig: {big}\n"), @r"
    fraction: a number is not a whole one from 0 to 255
    variable: it has no variable `GTcls`
    field: its struct has no field `Segmentation`
    array: `Segmentation` is to be a field of a struct, and there is none
    cube: its matrix has 3 dimensions where 2 are due
    level4: it is no mat file of level 5
    new: it is a mat file of version 7.3, which is not read: save it with `-v7`
    big: its numbers are big-endian, which is not read
    ");
}

#[test]
fn no_cut_and_no_byte_brings_the_reader_down() {
    for name in GOOD {
        let bytes = file(name);
        for length in 0..bytes.len() {
            // What follows the mask within its file is not looked at, except where both are deflated as one.
            let cut = mat::read(&bytes[..length], &["GTcls", "Segmentation"]);
            assert!(cut.is_err() || cut.is_ok_and(|matrix| matrix.values == expected()), "{name} cut to {length}");
        }
        for at in 0..bytes.len() {
            for value in [0, 0xff, bytes[at] ^ 0x80, bytes[at].wrapping_add(1)] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                let _ = mat::read(&damaged, &["GTcls", "Segmentation"]);
            }
        }
    }
    // A deflated variable that claims gigabytes.
    let packed = |size: u32| {
        let mut inner = 14_u32.to_le_bytes().to_vec();
        inner.extend(size.to_le_bytes());
        inner.resize(2000, 0);
        let mut deflated = Vec::new();
        let mut encoder = flate2::write::ZlibEncoder::new(&mut deflated, flate2::Compression::best());
        std::io::Write::write_all(&mut encoder, &inner).expect("written");
        encoder.finish().expect("finished");
        let mut bytes = file("deflated.mat")[..128].to_vec();
        bytes.extend(15_u32.to_le_bytes());
        bytes.extend((deflated.len() as u32).to_le_bytes());
        bytes.extend(deflated);
        mat::read(&bytes, &["GTcls", "Segmentation"]).expect_err("refused").to_string()
    };
    assert!(packed(4_000_000_000).contains("cannot have 4000000000 bytes"), "{}", packed(4_000_000_000));
    assert!(packed(20_000).contains("damaged"), "{}", packed(20_000));
}

/// VOC in small, of whose four photographs SBD knows the last two and one more.
fn beside() -> Workbench {
    let bench = bench();
    bench.write("data/ImageSets/Segmentation/train.txt", IDS[..2].join("\n"));
    bench.write("data/JPEGImages/2008_000005.jpg", jpeg(SIZE));
    std::fs::remove_file(bench.path(&format!("data/SegmentationClass/{}.png", IDS[2]))).expect("it was there");
    bench.write("sbd/dataset/train.txt", format!("{}\n{}\n", IDS[2], IDS[3]));
    bench.write("sbd/dataset/val.txt", "2008_000005\n");
    for id in [IDS[2], IDS[3], "2008_000005"] {
        bench.write(&format!("sbd/dataset/cls/{id}.mat"), file("deflated.mat"));
    }
    bench
}

const STAGE: &str = "[stages.images]\nkind = \"dataset.voc\"\nroot = \"data\"\nsplit = \"train_aug\"\nmasks = \"SegmentationClass\"\nsbd = \"sbd\"\n";

#[test]
fn sbd_fills_up_what_voc_lacks() {
    let bench = beside().pipeline(STAGE);
    let outcome = bench.run(["doctor", "pipeline.toml"]);
    insta::assert_snapshot!(outcome.stdout, @r"
    images (dataset.voc)
      4 images
      sizes from 32 x 24 to 32 x 24 pixels
      4 masks, each of its image's size
      labels are the classes of the mask in 4 of 4
    nothing is missing
    ");
    let outcome = bench.run(["run", "pipeline.toml"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let outcome = bench.run(["export", "pipeline.toml", "images", "--to", "out"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    // IDS[3] is in `val`, so that it is not in `train_aug`.
    let list = String::from_utf8(bench.read("out/ImageSets/Segmentation/train_aug.txt")).expect("UTF-8");
    assert_eq!(list.lines().collect::<Vec<_>>(), [IDS[0], IDS[1], IDS[2], "2008_000005"]);
    assert_eq!(bench.read(&format!("out/SegmentationClass/{}.png", IDS[0])), mask(SIZE, 1));
    for id in [IDS[2], "2008_000005"] {
        let mask = decode_mask(&bench.read(&format!("out/SegmentationClass/{id}.png"))).expect("a PNG");
        assert_eq!(mask.data(), expected(), "{id}");
    }
    let labels = String::from_utf8(bench.read("out/labels.csv")).expect("UTF-8");
    assert!(labels.contains("2008_000005,cat\n2008_000005,dog\n2008_000005,bird\n"), "{labels}");

    // A mask of another size, and one that is missing.
    bench.write("data/JPEGImages/2008_000005.jpg", jpeg((SIZE.0, SIZE.1 + 1)));
    let outcome = bench.run(["run", "pipeline.toml"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(failure(&outcome.stderr).contains("the mask of image `2008_000005` has 32 x 24 pixels"), "{outcome:?}");
    std::fs::remove_file(bench.path("sbd/dataset/cls/2008_000005.mat")).expect("it was there");
    let outcome = bench.run(["plan", "pipeline.toml"]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    let message =
        "1 image of 4 has no mask, neither in `data/SegmentationClass` nor in `sbd/dataset/cls`: `2008_000005`";
    assert!(outcome.stderr.contains(message), "{outcome:?}");
}

#[test]
fn sbd_becomes_a_folder_of_masks() {
    let bench = beside();
    std::fs::remove_file(bench.path("data/classes.txt")).expect("it was there");
    let outcome = bench.run(["import", "sbd", "sbd", "--voc", "data"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    insta::assert_snapshot!(outcome.stdout, @r"
    5 masks in data/SegmentationClassAug
    4 images in data/ImageSets/Segmentation/train_aug.txt
    ");
    let folder = "data/SegmentationClassAug";
    assert_eq!(bench.read(&format!("{folder}/{}.png", IDS[3])), mask(SIZE, 1), "VOC's own mask goes first");
    assert_eq!(decode_mask(&bench.read(&format!("{folder}/{}.png", IDS[2]))).expect("a PNG").data(), expected());
    let again = bench.run(["import", "sbd", "sbd/dataset", "--voc", "data"]);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.stdout.contains("was left alone"), "{again:?}");

    // Whatever is damaged, nothing is written.
    bench.write(&format!("sbd/dataset/cls/{}.mat", IDS[2]), &file("deflated.mat")[..300]);
    let outcome = bench.run(["import", "sbd", "sbd", "--voc", "data", "--to", "elsewhere"]);
    assert_eq!((outcome.code, bench.path("elsewhere").exists()), (Some(2), false), "{outcome:?}");
    insta::assert_snapshot!(outcome.stderr, @"error: `sbd/dataset/cls/2007_000063.mat` cannot be read: it is cut off: an element is incomplete");
}
