//! `orandflow predict`: the same masks as the stage, from the cache and from an exported file, and nothing for damaged pictures.
#![cfg(feature = "nn")]

use orandflow::foreign::write::npy;
use orandflow::image::codec::{decode_mask, decode_rgb};

use crate::photographs::{IDS, SIZE, bench, stage};
use crate::workbench::{Outcome, Workbench};

/// A small segmentation network that is trained on maps from files, and its masks.
fn trained() -> Workbench {
    let bench = bench();
    let (height, width) = SIZE;
    let map: Vec<u8> = (0..height * width)
        .flat_map(|pixel| (if pixel % width < width / 2 { 0.9_f32 } else { 0.1 }).to_le_bytes())
        .collect();
    for id in IDS {
        bench.write(&format!("maps/{id}.npy"), npy("<f4", &[1, height, width], &map));
    }
    bench.write(
        "pipeline.toml",
        format!(
            "{}{}",
            stage("images", ""),
            r#"
[stages.maps]
kind = "cam.import"
format = "npy"
path = "maps"
inputs = { images = "images" }

[stages.seeds]
kind = "mask.threshold"
inputs = { scores = "maps" }

[stages.segmenter]
kind = "segment.train"
preset = "resnet38_tiny"
crop = 24
epochs = 2
batch = 2
scale_schedule = []
inputs = { images = "images", masks = "seeds" }

[stages.masks]
kind = "segment.predict"
scales = [0.5, 1.0]
mirror = true
crf = true
inputs = { images = "images", weights = "segmenter" }

[stages.coarse]
kind = "segment.predict"
max_pixels = 300
inputs = { images = "images", weights = "segmenter" }

[stages.usual]
kind = "segment.predict"
inputs = { images = "images", weights = "segmenter" }
"#
        ),
    );
    bench
}

fn done(bench: &Workbench, arguments: &[&str]) -> Outcome {
    let outcome = bench.run(arguments.iter().copied());
    assert_eq!(outcome.code, Some(0), "{arguments:?}: {outcome:?}");
    outcome
}

#[test]
fn pictures_get_the_masks_of_the_stage() {
    let bench = trained();
    let early = bench.run(["predict", "pipeline.toml:segmenter", "data/JPEGImages", "--to", "early"]);
    assert_eq!(early.code, Some(1), "{early:?}");
    assert!(early.stderr.contains("stage `segmenter` has no result yet"), "{early:?}");
    done(&bench, &["run", "pipeline.toml"]);
    for name in ["masks", "coarse", "usual", "segmenter"] {
        done(&bench, &["export", "pipeline.toml", name, "--to", name]);
    }

    // From the cache, a folder, with everything that the stage can do.
    let settings = ["--scales", "0.5,1.0", "--mirror", "--crf"];
    let call = ["predict", "pipeline.toml:segmenter", "data/JPEGImages", "--to", "first"];
    let outcome = done(&bench, &[&call[..], &settings[..]].concat());
    assert!(outcome.stdout.ends_with("4 masks in first/masks\n"), "{outcome:?}");
    for id in IDS {
        let own = bench.read(&format!("first/masks/{id}.png"));
        assert_eq!(own, bench.read(&format!("masks/{id}.png")), "{id}");
        let mask = decode_mask(&own).expect("a palette PNG");
        let overlay = decode_rgb(&bench.read(&format!("first/overlays/{id}.png"))).expect("a PNG");
        assert_eq!((mask.height(), mask.width()), (overlay.height(), overlay.width()));
    }
    assert_eq!(bench.read("first/classes.txt"), b"background\ncat\ndog\nbird\n");

    // A picture is shrunk as the stage shrinks it.
    done(
        &bench,
        &["predict", "pipeline.toml:segmenter", "data/JPEGImages", "--max-pixels", "300", "--to", "coarse_first"],
    );
    for id in IDS {
        let own = bench.read(&format!("coarse_first/masks/{id}.png"));
        assert_eq!(own, bench.read(&format!("coarse/{id}.png")), "{id}");
    }

    // From a file that knows its network and classes, elsewhere and without the pipeline, two pictures.
    std::fs::rename(bench.path("segmenter/weights.safetensors"), bench.path("own.safetensors")).expect("moved");
    let (a, b) = (format!("data/JPEGImages/{}.jpg", IDS[2]), format!("data/JPEGImages/{}.jpg", IDS[0]));
    let outcome = done(&bench, &["predict", "own.safetensors", &a, &b, &b, "--to", "second"]);
    assert!(outcome.stdout.ends_with("2 masks in second/masks\n"), "{outcome:?}");
    for id in [IDS[0], IDS[2]] {
        assert_eq!(bench.read(&format!("second/masks/{id}.png")), bench.read(&format!("usual/{id}.png")), "{id}");
    }
}

#[test]
fn what_cannot_be_predicted_leaves_nothing() {
    let bench = trained();
    done(&bench, &["run", "pipeline.toml", "--only", "segmenter"]);
    bench.write("photos/b.jpg", bench.read(&format!("data/JPEGImages/{}.jpg", IDS[0])));
    let refused = |arguments: &[&str]| {
        let outcome = bench.run(["predict"].iter().chain(arguments).chain(&["--to", "out"]).copied());
        assert_eq!((outcome.code, bench.path("out").exists()), (Some(2), false), "{outcome:?}");
        outcome.stderr.lines().next().unwrap_or_default().to_owned()
    };
    let network = "pipeline.toml:segmenter";
    let mut said = vec![refused(&[network, "photos", "absent.jpg"])];
    said.push(refused(&[network, "photos", "data/JPEGImages", "--scales", "0"]));
    said.push(refused(&[network, "photos", "--device", "gpu"]));
    said.push(refused(&["pipeline.toml:images", "photos"]));
    bench.write(
        "bare.safetensors",
        safetensors::serialize::<&str, safetensors::tensor::TensorView<'_>, _>([], None).expect("bytes"),
    );
    said.push(refused(&["bare.safetensors", "photos"]));
    bench.write("theirs.pth", crate::foreign::file("zip.pth"));
    said.push(refused(&["theirs.pth", "photos"]));
    bench.write("other/b.jpg", "another picture of the same name");
    said.push(refused(&[network, "photos", "other"]));
    bench.write("photos/a.jpg", "no picture");
    bench.write("photos/c.jpg", "no picture");
    said.push(refused(&[network, "photos"]));
    let said = said.join("\n");
    for part in [
        "absent.jpg",
        "`--scales`: 0 is not from 0.05 to 20",
        "`gpu` is not a device",
        "stage `images` makes an image set, and weights are due",
        "`bare.safetensors`: the file does not say which network and classes it is for",
        "`theirs.pth`: the file is PyTorch's, which does not say which network and classes it is for",
        "there are two pictures `b`",
        "`photos/a.jpg`: this file is neither JPEG nor PNG",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
