//! `cargo bench`: how long the image room takes, beside the programs that people use for the same today.
//!
//! `ORANDFLOW_PEER_PYTHON=PYTHON cargo bench --no-default-features [-- NAME..]`, where PYTHON has numpy, Pillow and pydensecrf2. Both
//! sides run in turns in one go, one thread each; medians and their ratio are printed as a Markdown table. Inputs are drawn here;
//! where the photographs lie beside the project, those are taken.

#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

mod peer;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use orandflow::image::crf::{DenseCrf, Kernels, Unary};
use orandflow::image::walk::{WalkParams, propagate};
use orandflow::image::{LabelMap, Maps, Rgb, codec};

use crate::peer::Peer;

/// Everything that the cases share.
struct Bench {
    /// Names of cases to run; all if empty.
    wanted: Vec<String>,
    peer: Option<Peer>,
    /// Where inputs lie that the peer reads.
    folder: tempfile::TempDir,
}

impl Bench {
    /// Runs both sides in turns and prints a row. `request` is what the peer is asked, its name first.
    fn row(&mut self, name: &str, repeats: usize, request: Option<&str>, mut work: impl FnMut()) -> Option<Duration> {
        if !self.wanted.is_empty() && !self.wanted.iter().any(|wanted| name.contains(wanted.as_str())) {
            return None;
        }
        work();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..repeats {
            let start = Instant::now();
            work();
            ours.push(start.elapsed());
            if let (Some(peer), Some(request)) = (&mut self.peer, request) {
                theirs.extend(peer.time(request));
            }
        }
        let ours = median(&mut ours);
        let milliseconds = |time: Duration| format!("{:.3}", time.as_secs_f64() * 1e3);
        if theirs.is_empty() {
            println!("| {name} | {} | | |", milliseconds(ours));
        } else {
            let theirs = median(&mut theirs);
            let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
            println!("| {name} | {} | {} | {ratio:.2} |", milliseconds(ours), milliseconds(theirs));
        }
        Some(ours)
    }

    /// Writes an input of the peer's and returns its path.
    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).expect("the temporary folder takes files");
        path
    }

    fn stem(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn main() {
    let wanted = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    let mut bench = Bench { wanted, peer: Peer::start(), folder };
    println!("| work | ours, ms | peer, ms | peer / ours |\n|---|---|---|---|");
    jpeg(&mut bench);
    crf(&mut bench);
    walk(&mut bench);
}

/// A photograph of VOC's usual size: one that lies beside the project, or a drawn one with noise.
fn photograph() -> (Vec<u8>, Rgb) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/voc_mini/JPEGImages/2011_000003.jpg");
    let bytes = std::fs::read(path).unwrap_or_else(|_| {
        let (width, height) = (500u16, 338u16);
        let mut state = 1u32;
        let data: Vec<u8> = (0..usize::from(width) * usize::from(height) * 3)
            .map(|at| {
                let (x, y) = (at / 3 % usize::from(width), at / 3 / usize::from(width));
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let shape = if (x / 90 + y / 70) % 2 == 0 { 60 } else { 150 };
                (shape + x / 10 + (state >> 28) as usize) as u8
            })
            .collect();
        let mut bytes = Vec::new();
        let encoder = jpeg_encoder::Encoder::new(&mut bytes, 92);
        encoder.encode(&data, width, height, jpeg_encoder::ColorType::Rgb).expect("the image can be encoded");
        bytes
    });
    let image = codec::decode_rgb(&bytes).expect("the photograph can be decoded");
    (bytes, image)
}

fn jpeg(bench: &mut Bench) {
    let (bytes, _) = photograph();
    let request = format!("jpeg {}", bench.put("photograph.jpg", &bytes).display());
    bench.row("JPEG decode, 500 px", 41, Some(&request), || {
        std::hint::black_box(codec::decode_rgb(&bytes)).expect("the photograph can be decoded");
    });
}

fn crf(bench: &mut Bench) {
    let (_, image) = photograph();
    let (height, width) = (image.height(), image.width());
    let guess = |margin: usize| {
        let label = |at: usize| {
            let (row, column) = (at / width, at % width);
            let inside = row > height / 4 + margin && row < height * 3 / 4 - margin;
            match column * 5 / width {
                1 if inside => 1,
                3 if inside => 2,
                _ => 0,
            }
        };
        LabelMap::new(height, width, (0..height * width).map(label).collect())
    };
    let (strict, lenient) = (guess(10), guess(0));
    bench.put("crf.rgb", image.data());
    bench.put("crf.labels", strict.data());
    let arguments = format!("{} {height} {width} 3 10", bench.stem("crf"));
    let [strict, lenient] = [&strict, &lenient].map(|map| Unary::from_labels(map, 3, 0.7, false));
    let name = format!("{width} x {height}");
    bench.row(&format!("CRF lattices, {name}"), 11, None, || {
        std::hint::black_box(DenseCrf::new(&image, Kernels::IR_LABELS));
    });
    bench.row(&format!("CRF, 3 labels, 10 iterations, {name}"), 11, Some(&format!("crf {arguments}")), || {
        std::hint::black_box(DenseCrf::new(&image, Kernels::IR_LABELS).infer(&strict, 10));
    });
    bench.row(&format!("two CRFs of one image, {name}"), 11, Some(&format!("crf_pair {arguments}")), || {
        std::hint::black_box(DenseCrf::new(&image, Kernels::IR_LABELS).infer_pair([&strict, &lenient], 10));
    });
}

fn walk(bench: &mut Bench) {
    let (height, width) = (94, 125);
    let edge = Maps::new(1, height, width, (0..height * width).map(|i| (i * 7919 % 97) as f32 / 140.0).collect());
    let maps = Maps::new(2, height, width, (0..2 * height * width).map(|i| (i * 104_729 % 89) as f32 / 89.0).collect());
    bench.row("walk, 125 x 94, 2 classes, 256 steps", 21, None, || {
        std::hint::black_box(propagate(&maps, &edge, &WalkParams::default())).expect("the sizes fit");
    });
}
