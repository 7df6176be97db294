//! `orandflow op`: the operations of the image room on plain files, against the references that the library is held to.

use orandflow::foreign::{npy, write};
use orandflow::image::{Maps, codec};
use safetensors::SafeTensors;

use crate::workbench::{Outcome, Workbench};

const CRF: &[u8] = include_bytes!("../fixtures/crf.safetensors");

fn array(maps: &Maps) -> Vec<u8> {
    let bytes: Vec<u8> = maps.data().iter().flat_map(|value| value.to_le_bytes()).collect();
    write::npy("<f4", &[maps.channels(), maps.height(), maps.width()], &bytes)
}

fn maps(bytes: &[u8]) -> Maps {
    let tree = npy::read(bytes).expect("an npy file");
    let &[channels, height, width] = tree.root().shape().expect("an array") else { panic!("three dimensions") };
    Maps::new(channels, height, width, tree.root().floats().expect("floats"))
}

/// Reads an array of the CRF's fixture: shape and bytes.
fn fixture(name: &str) -> (Vec<usize>, Vec<u8>) {
    let file = SafeTensors::deserialize(CRF).expect("the fixture is readable");
    let view = file.tensor(name).expect("the fixture has it");
    (view.shape().to_vec(), view.data().to_vec())
}

/// A bench with the CRF's image, labels and probabilities.
fn crf_bench() -> Workbench {
    let (shape, data) = fixture("image");
    let image = codec::encode_rgb(&orandflow::image::Rgb::new(shape[0], shape[1], data));
    let (shape, data) = fixture("labels");
    let labels = codec::encode_mask(&orandflow::image::LabelMap::new(shape[0], shape[1], data));
    let (shape, data) = fixture("soft");
    Workbench::new()
        .file("image.png", image)
        .file("labels.png", labels)
        .file("soft.npy", write::npy("<f4", &shape, &data))
}

#[track_caller]
fn assert_done(outcome: &Outcome) {
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
}

#[test]
fn crf_is_pydensecrf() {
    let bench = crf_bench();
    for (name, arguments) in [
        ("a", vec!["--labels", "labels.png", "--n", "3", "--gt-prob", "0.7"]),
        ("b", vec!["--probs", "soft.npy", "--bilateral-sxy", "80", "--bilateral-srgb", "13"]),
        (
            "c",
            vec![
                "--probs",
                "soft.npy",
                "--gaussian-sxy",
                "4",
                "--bilateral-sxy",
                "83",
                "--bilateral-srgb",
                "5",
                "--bilateral-compat",
                "3",
            ],
        ),
        ("unsure", vec!["--labels", "labels.png", "--n", "2", "--zero-unsure"]),
        ("none", vec!["--labels", "labels.png", "--n", "3", "--iterations", "0"]),
    ] {
        let all = ["op", "crf", "--image", "image.png", "--out", "out.npy"].into_iter().chain(arguments);
        assert_done(&bench.run(all));
        let got = maps(&bench.read("out.npy"));
        let (shape, data) = fixture(name);
        assert_eq!([got.channels(), got.height(), got.width()], shape[..]);
        let want = data.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("four bytes")));
        let worst = got.data().iter().zip(want).map(|(got, want)| (got - want).abs()).fold(0.0, f32::max);
        // The library's own tolerance, see tests/numerics/crf.rs.
        assert!(worst < 5e-5, "{name} is off by {worst}");
    }
}

#[test]
fn walk_is_the_dense_product() {
    let (height, width, classes) = (7, 9, 2);
    let edge = Maps::new(1, height, width, (0..63).map(|i| (i * 37 % 50) as f32 / 60.0).collect());
    let cam = Maps::new(classes, height, width, (0..126).map(|i| (i * 29 % 31) as f32 / 31.0).collect());
    let edge_2d: Vec<u8> = edge.data().iter().flat_map(|value| value.to_le_bytes()).collect();
    let bench =
        Workbench::new().file("edge.npy", write::npy("<f4", &[height, width], &edge_2d)).file("cam.npy", array(&cam));
    assert_done(&bench.run([
        "op", "walk", "--edge", "edge.npy", "--cam", "cam.npy", "--beta", "10", "--exp", "3", "--radius", "2", "--out",
        "out.npy",
    ]));
    // Radius 2 knows the four neighbours and the four diagonals; the paths between neighbours hold their two ends, and those
    // between diagonals all four cells of their box.
    let at = |row: usize, column: usize| row * width + column;
    let mut matrix = vec![vec![0.0f64; 63]; 63];
    for row in 0..height {
        for column in 0..width {
            matrix[at(row, column)][at(row, column)] = 1.0;
            for (down, right) in [(0, 1), (1, 0), (1, 1), (1, -1)] {
                let (Some(to_column), to_row) = (column.checked_add_signed(right), row + down) else { continue };
                if to_row >= height || to_column >= width {
                    continue;
                }
                let mut largest = 0.0f64;
                for cell_row in row..=to_row {
                    for cell_column in column.min(to_column)..=column.max(to_column) {
                        largest = largest.max(f64::from(edge.data()[at(cell_row, cell_column)]));
                    }
                }
                // The cells beside a diagonal lie at a distance of 0.71 from it, nearer than one.
                let affinity = (1.0 - largest).powi(10);
                matrix[at(row, column)][at(to_row, to_column)] = affinity;
                matrix[at(to_row, to_column)][at(row, column)] = affinity;
            }
        }
    }
    let sums: Vec<f64> = (0..63).map(|to| matrix.iter().map(|row| row[to]).sum()).collect();
    let got = maps(&bench.read("out.npy"));
    for class in 0..classes {
        let mut values: Vec<f64> =
            (0..63).map(|i| f64::from(cam.channel(class)[i]) * (1.0 - f64::from(edge.data()[i]))).collect();
        for _ in 0..8 {
            values =
                (0..63).map(|to| (0..63).map(|from| values[from] * matrix[from][to]).sum::<f64>() / sums[to]).collect();
        }
        for (got, want) in got.channel(class).iter().zip(values) {
            assert!((f64::from(*got) - want).abs() < 1e-5, "{got} where {want} is due");
        }
    }
}

#[test]
fn or_and_average_and_threshold() {
    let a = Maps::new(2, 1, 3, vec![0.5, 0.2, 0.0, 0.1, 0.4, 0.0]);
    let b = Maps::new(2, 1, 3, vec![0.5, 0.4, 0.0, 0.3, 0.5, 0.0]);
    let bench = Workbench::new().file("a.npy", array(&a)).file("b.npy", array(&b));
    let run = |operation: &str, more: &[&str]| {
        let fixed = ["op", operation, "--a", "a.npy", "--b", "b.npy", "--out", "out.npy"];
        assert_done(&bench.run(fixed.into_iter().chain(more.iter().copied())));
        maps(&bench.read("out.npy")).into_data()
    };
    let near = |got: Vec<f32>, want: [f32; 6]| {
        assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-6), "{got:?} where {want:?} is due");
    };
    let plain = ["--normalisation", "none"];
    near(run("or", &plain), [0.75, 0.52, 0.0, 0.37, 0.7, 0.0]);
    near(run("and", &plain), [0.25, 0.08, 0.0, 0.03, 0.2, 0.0]);
    near(run("average", &plain), [0.5, 0.3, 0.0, 0.2, 0.45, 0.0]);
    near(run("and", &[]), [1.0, 0.32, 0.0, 0.15, 1.0, 0.0]);
    near(run("and", &["--normalisation", "global"]), [1.0, 0.32, 0.0, 0.12, 0.8, 0.0]);
    near(run("and", &["--normalisation", "none", "--offset", "0.15"]), [0.325, 0.11, 0.0, 0.045, 0.26, 0.0]);

    let arguments =
        ["op", "threshold", "--cam", "a.npy", "--background", "0.15", "--classes", "4,14", "--out", "mask.png"];
    assert_done(&bench.run(arguments));
    assert_eq!(codec::decode_mask(&bench.read("mask.png")).map(|mask| mask.data().to_vec()), Ok(vec![5, 15, 0]));
}

#[test]
fn what_does_not_fit_is_refused_in_one_sentence() {
    let bench = crf_bench()
        .file("small.npy", array(&Maps::zeros(1, 2, 3)))
        .file("nan.npy", array(&Maps::new(1, 1, 1, vec![f32::NAN])))
        .file("high.npy", array(&Maps::new(1, 2, 3, vec![1.5; 6])))
        .file("bytes.npy", write::npy("|u1", &[1, 2, 3], &[7; 6]))
        .file("logits.npy", array(&Maps::new(2, 36, 44, vec![-2.0; 2 * 36 * 44])))
        .file("line.npy", write::npy("<f4", &[2], &[0; 8]))
        .file("text.npy", "no array");
    for (arguments, sentence) in [
        (
            vec!["crf", "--image", "image.png", "--probs", "small.npy"],
            "`small.npy`: it is 3 x 2, and the image is 44 x 36",
        ),
        (
            vec!["crf", "--image", "image.png", "--labels", "labels.png", "--n", "2"],
            "`labels.png`: it has the label 2, and there are 2",
        ),
        (
            vec!["crf", "--image", "image.png", "--labels", "labels.png", "--n", "3", "--bilateral-srgb", "0"],
            "`--bilateral-srgb 0` is not above 0",
        ),
        (
            vec!["walk", "--edge", "small.npy", "--cam", "soft.npy"],
            "`small.npy` and `soft.npy`: the edge map is 3 x 2 and the maps are 44 x 36",
        ),
        (vec!["walk", "--edge", "high.npy", "--cam", "small.npy"], "`high.npy`: edges lie in 0 to 1, and 1.5 does not"),
        (
            vec!["walk", "--edge", "small.npy", "--cam", "small.npy", "--exp", "40"],
            "a walk of 2^40 steps would not end soon",
        ),
        (
            vec!["or", "--a", "small.npy", "--b", "soft.npy"],
            "`small.npy` and `soft.npy`: these maps do not lie on each other",
        ),
        (
            vec!["and", "--a", "bytes.npy", "--b", "small.npy"],
            "`bytes.npy`: numbers with a fraction are due where the type is uint8",
        ),
        (
            vec!["crf", "--image", "image.png", "--probs", "logits.npy"],
            "`logits.npy`: it has the value -2, and probabilities lie in 0 to 1",
        ),
        (vec!["and", "--a", "nan.npy", "--b", "nan.npy"], "`nan.npy`: these maps hold NaN, which is no score"),
        (
            vec!["average", "--a", "line.npy", "--b", "line.npy"],
            "maps have 3 dimensions (classes, height, width) or 2, and these have 1",
        ),
        (vec!["threshold", "--cam", "text.npy"], "`text.npy`: it is no npy file"),
        (
            vec!["threshold", "--cam", "small.npy", "--classes", "1,2"],
            "`--classes` names 2 classes, and there are 1 maps",
        ),
        (vec!["threshold", "--cam", "missing.npy"], "missing.npy"),
    ] {
        let outcome = bench.run(["op"].into_iter().chain(arguments.iter().copied()).chain(["--out", "out"]));
        assert_eq!(outcome.code, Some(2), "{arguments:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(sentence), "{arguments:?}: {}", outcome.stderr);
        assert!(!bench.path("out").exists(), "nothing is written");
    }
    // One of the two is needed, and not both.
    let outcome = bench.run(["op", "crf", "--image", "image.png", "--out", "out"]);
    assert_eq!(outcome.code, Some(2));
}
