//! Reads the reference arrays that lie outside the project, and draws the weights that go with them. Knows no network.
//!
//! The arrays were computed by the reference programs with the weights that `seeded_weights.py` beside them draws; [`weights`]
//! draws the same ones. Tests that need them return early, with a line that says so, where the folder is missing.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use orandflow::artifact::weights::{NamedTensors, Values};

/// An array of an npz file, whatever its type, as f64 values.
#[derive(Clone, Debug)]
pub(crate) struct Array {
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<f64>,
}

impl Array {
    /// Returns the values as f32, which loses nothing for f32, f16 and u8 arrays.
    pub(crate) fn f32(&self) -> Vec<f32> {
        self.data.iter().map(|&value| value as f32).collect()
    }
}

/// Returns the folder of the data that lies beside the project, or `None` (and says so) if it is not there.
pub(crate) fn shared(relative: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared").join(relative);
    if path.exists() {
        return Some(path);
    }
    #[expect(clippy::print_stderr, reason = "a test that checks nothing says so")]
    {
        eprintln!("skipped: ../shared/{relative} is not there");
    }
    None
}

/// Reads all arrays of `reference/NAME.npz`, or `None` if the folder is not there.
pub(crate) fn arrays(name: &str) -> Option<BTreeMap<String, Array>> {
    let bytes = std::fs::read(shared(&format!("reference/{name}.npz"))?).expect("the reference file can be read");
    Some(unzip(&bytes).into_iter().map(|(file, bytes)| (file.replace(".npy", ""), npy(&bytes))).collect())
}

/// Draws the tensors of `reference/NAME.shapes.json`, or returns `None` if the folder is not there.
pub(crate) fn weights(name: &str) -> Option<NamedTensors> {
    let text = std::fs::read_to_string(shared(&format!("reference/{name}.shapes.json"))?).expect("readable");
    let shapes: BTreeMap<String, Vec<usize>> = serde_json::from_str(&text).expect("shapes are lists of numbers");
    Some(
        shapes
            .into_iter()
            .filter(|(name, _)| !name.ends_with("num_batches_tracked"))
            .map(|(name, shape)| {
                let data = draw(&name, &shape);
                (name, Values { shape, data })
            })
            .collect(),
    )
}

/// Reads name and shape of every f32 tensor of `keys/NAME.txt`, or `None` if the folder is not there.
pub(crate) fn keys(name: &str) -> Option<BTreeMap<String, Vec<usize>>> {
    let text = std::fs::read_to_string(shared(&format!("keys/{name}.txt"))?).expect("readable");
    Some(
        text.lines()
            .filter(|line| line.ends_with(") float32"))
            .map(|line| {
                let (name, rest) = line.split_once(' ').expect("a name and a shape");
                let numbers = rest.trim_start_matches('(').split(')').next().expect("a closing bracket");
                let shape = numbers.split(',').filter_map(|part| part.trim().parse().ok()).collect();
                (name.to_owned(), shape)
            })
            .collect(),
    )
}

/// Returns the L2 norm of the difference over the L2 norm of `want`.
pub(crate) fn relative_l2(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len(), "both arrays have as many values");
    assert!(got.iter().all(|value| value.is_finite()), "every value is finite");
    let difference: f64 = got.iter().zip(want).map(|(&got, &want)| (f64::from(got) - want).powi(2)).sum();
    let norm: f64 = want.iter().map(|want| want * want).sum();
    (difference / norm).sqrt()
}

/// Draws one tensor as `seeded_weights.py` does: uniform noise from splitmix64 started at the FNV-1a hash of the salted name,
/// scaled by the kind of tensor, in f64 and then rounded to f32.
pub(crate) fn draw(name: &str, shape: &[usize]) -> Vec<f32> {
    let start = format!("reference/{name}")
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3));
    let leaf = name.rsplit('.').next().expect("a split has a last part");
    let fan_in: usize = shape.iter().skip(1).product();
    let damped = ["conv3.weight", "conv_branch2b1.weight", "conv_branch2b2.weight"];
    let heads = ["classifier", "label_enc", "head", "fc8"];
    (1..=shape.iter().product::<usize>() as u64)
        .map(|index| {
            let mut z = start.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            let u = (z >> 11) as f64 * 2f64.powi(-53);
            let mut x = match leaf {
                "running_var" => 0.5 + u,
                "running_mean" => 0.2 * (u - 0.5),
                "bias" => 0.1 * (u - 0.5),
                _ if shape.len() == 1 => 0.8 + 0.4 * u,
                _ if leaf.contains("token") || leaf.contains("pos_embed") => 0.2 * (u - 0.5),
                _ => (u - 0.5) * 2.0 * (3.0 * 1.4 / fan_in as f64).sqrt(),
            };
            if damped.iter().any(|end| name.ends_with(end)) {
                x *= 0.25;
            }
            if heads.iter().any(|start| name.starts_with(start)) {
                x *= 0.1;
            }
            x as f32
        })
        .collect()
}

/// Returns the files of a zip archive (stored or deflated, below 4 GiB) by name.
fn unzip(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let u16_at = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let u32_at = |at: usize| u16_at(at) + (u16_at(at + 2) << 16);
    let end = bytes.windows(4).rposition(|four| four == b"PK\x05\x06").expect("a zip archive has an end record");
    let mut at = u32_at(end + 16);
    (0..u16_at(end + 10))
        .map(|_| {
            let (method, size, name_length, local) =
                (u16_at(at + 10), u32_at(at + 20), u16_at(at + 28), u32_at(at + 42));
            let name = String::from_utf8(bytes[at + 46..at + 46 + name_length].to_vec()).expect("names are ASCII");
            at += 46 + name_length + u16_at(at + 30) + u16_at(at + 32);
            let start = local + 30 + u16_at(local + 26) + u16_at(local + 28);
            let packed = &bytes[start..start + size];
            let mut unpacked = Vec::new();
            match method {
                0 => unpacked.extend_from_slice(packed),
                8 => {
                    flate2::read::DeflateDecoder::new(packed).read_to_end(&mut unpacked).expect("the stream is whole");
                }
                other => panic!("compression method {other} is not known"),
            }
            (name, unpacked)
        })
        .collect()
}

/// Reads one npy file of a plain type.
fn npy(bytes: &[u8]) -> Array {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00", "an npy file of version 1.0");
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..start]).expect("the header is ASCII");
    assert!(header.contains("'fortran_order': False"), "arrays are in C order");
    let field = |from: &str, to: char| {
        let rest = &header[header.find(from).expect("the header has the field") + from.len()..];
        &rest[..rest.find(to).expect("the field ends")]
    };
    let shape: Vec<usize> = field("'shape': (", ')')
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().expect("a number"))
        .collect();
    let body = &bytes[start..];
    let data: Vec<f64> = match field("'descr': '", '\'') {
        "|u1" | "|b1" => body.iter().map(|&byte| f64::from(byte)).collect(),
        "<f2" => body.chunks_exact(2).map(|two| half::f16::from_le_bytes([two[0], two[1]]).to_f64()).collect(),
        "<f4" => body
            .chunks_exact(4)
            .map(|four| f64::from(f32::from_le_bytes(four.try_into().expect("four bytes"))))
            .collect(),
        "<f8" => body.chunks_exact(8).map(|eight| f64::from_le_bytes(eight.try_into().expect("eight bytes"))).collect(),
        "<i8" => body
            .chunks_exact(8)
            .map(|eight| i64::from_le_bytes(eight.try_into().expect("eight bytes")) as f64)
            .collect(),
        other => panic!("arrays of type {other} are not known"),
    };
    assert_eq!(data.len(), shape.iter().product::<usize>(), "the header's shape fits the values");
    Array { shape, data }
}

#[test]
fn npz_arrays_and_seeded_weights_can_be_read() {
    let (Some(arrays), Some(weights)) = (arrays("orandnet"), weights("orandnet")) else { return };
    assert_eq!(arrays["x"].shape, [1, 1, 120, 160]);
    assert!(arrays["x"].data.iter().all(|value| (0.0..=1.0).contains(value)));
    assert_eq!(relative_l2(&arrays["x"].f32(), &arrays["x"].data), 0.0);
    assert_eq!(weights.values().map(|values| values.data.len()).sum::<usize>(), 134_264_547);
}
