//! Decoded JPEGs against Pillow's pixels, byte for byte, and damaged ones against the promise of a plain error.

use orandflow::image::codec::{decode_rgb, image_size};
use proptest::prelude::*;

use crate::fixture::Fixture;
use crate::reference::shared;

const FIXTURE: &[u8] = include_bytes!("../fixtures/jpeg.safetensors");
const KINDS: [&str; 11] =
    ["444", "422", "420", "411", "420_low", "progressive", "optimized", "restarts", "narrow", "grey", "rgb"];

#[test]
fn every_kind_of_jpeg_has_pillows_pixels() {
    let fixture = Fixture::new(FIXTURE);
    for kind in KINDS {
        let (_, bytes) = fixture.bytes(&format!("{kind}.jpg"));
        let want = fixture.rgb(&format!("{kind}.rgb"));
        assert_eq!(image_size(&bytes), Ok((want.height(), want.width())), "{kind}");
        assert!(decode_rgb(&bytes) == Ok(want), "{kind} differs from Pillow");
    }
}

#[test]
fn photographs_have_pillows_pixels() {
    // The checksums are those that `jpeg.py crc FOLDER` prints.
    for (folder, want) in [("data/voc_mini/JPEGImages", 0xc155_9c2d), ("data/camvid_patches/JPEGImages", 0x42a2_5564)] {
        let Some(folder) = shared(folder) else { continue };
        let mut paths: Vec<_> = std::fs::read_dir(folder)
            .expect("the folder can be listed")
            .map(|entry| entry.expect("the folder can be listed").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "jpg"))
            .collect();
        paths.sort();
        let mut crc = flate2::Crc::new();
        for path in paths {
            let image = decode_rgb(&std::fs::read(&path).expect("readable")).expect("a photograph");
            crc.update(image.data());
        }
        assert_eq!(crc.sum(), want);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Neither an abort nor a panic nor a hang; where pixels come out, they are as many as the headers promise.
    #[test]
    fn damage_ends_in_a_sentence(kind in 0..KINDS.len(), flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let (_, mut bytes) = Fixture::new(FIXTURE).bytes(&format!("{}.jpg", KINDS[kind]));
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        // Sides of up to 65,535 pixels may come of it: what is decoded is bounded, and kept small here for the test's time.
        if let Ok((height, width)) = image_size(&bytes) && height * width < 1 << 22 {
            match decode_rgb(&bytes) {
                Ok(image) => prop_assert_eq!((image.height(), image.width()), (height, width)),
                Err(error) => prop_assert!(error.starts_with("this "), "{}", error),
            }
        }
    }
}

#[test]
fn sizes_beyond_the_limit_are_refused_before_memory_is_taken() {
    let (_, mut bytes) = Fixture::new(FIXTURE).bytes("444.jpg");
    let frame = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).expect("a baseline frame");
    bytes[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xdc, 0xff, 0xdc]);
    let error = decode_rgb(&bytes).expect_err("65,500 pixels each way");
    assert_eq!(error, "this JPEG is 65500 x 65500, and sides are decoded up to 16384 pixels");
    assert_eq!(image_size(&bytes), Err(error));
}

#[test]
fn lost_pixels_are_an_error_in_the_librarys_words() {
    let (_, mut bytes) = Fixture::new(FIXTURE).bytes("420.jpg");
    let length = bytes.len();
    // The entropy-coded data ends early, before a marker that is still there.
    bytes.drain(length - 60..length - 2);
    assert_eq!(
        decode_rgb(&bytes),
        Err("this JPEG is damaged: Corrupt JPEG data: premature end of data segment".to_owned())
    );
}
