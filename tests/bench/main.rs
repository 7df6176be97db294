//! `cargo bench`: how long the image room takes, beside the programs that people use for the same today.
//!
//! `ORANDFLOW_PEER_PYTHON=PYTHON cargo bench --no-default-features [-- NAME..]`, where PYTHON has numpy, Pillow and pydensecrf2. Both
//! sides run in turns in one go, one thread each; medians and their ratio are printed as a Markdown table. What is measured is the
//! processor time of the thread, so that other work on the machine counts less. Inputs are drawn here; where the photographs lie
//! beside the project, those are taken.

#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

#[path = "../../src/allocator.rs"]
mod allocator;
mod peer;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use orandflow::artifact::maps::{self, ImageMaps, PackedMaps};
use orandflow::image::cam::{Normalisation, Operation, combine};
use orandflow::image::crf::{DenseCrf, Kernels, Unary};
use orandflow::image::resize::{Coordinates, interpolate_bilinear};
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
        // The system counts processor time in ticks of some milliseconds, so that short work is done many times for one measurement.
        // The first time it takes its memory from the system, which is no part of the work.
        work();
        let start = Instant::now();
        work();
        let times = (Duration::from_millis(60).as_nanos() / start.elapsed().as_nanos().max(1)).clamp(1, 1000) as u32;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..repeats {
            let start = processor_time();
            for _ in 0..times {
                work();
            }
            ours.push(processor_time().saturating_sub(start) / times);
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

/// Returns the time that this thread has run. Where the system does not say, the time of day, which serves as well on an idle machine.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    match text.split_whitespace().next().and_then(|nanoseconds| nanoseconds.parse().ok()) {
        Some(nanoseconds) if nanoseconds > 0 => Duration::from_nanos(nanoseconds),
        _ => std::time::UNIX_EPOCH.elapsed().unwrap_or_default(),
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn main() {
    allocator::keep_freed_memory();
    let wanted = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    let mut bench = Bench { wanted, peer: Peer::start("peers.py", 1), folder };
    println!("| work | ours, ms | peer, ms | peer / ours |\n|---|---|---|---|");
    jpeg(&mut bench);
    crf(&mut bench);
    walk(&mut bench);
    algebra(&mut bench);
    masks(&mut bench);
    cams(&mut bench);
    growth(&mut bench);
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
    bench.row("JPEG decode, 500 px", 11, Some(&request), || {
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

/// An edge map and maps of two classes for a walk.
fn walkable(height: usize, width: usize) -> (Maps, Maps) {
    let edge = Maps::new(1, height, width, (0..height * width).map(|i| (i * 7919 % 97) as f32 / 140.0).collect());
    let maps = Maps::new(2, height, width, (0..2 * height * width).map(|i| (i * 104_729 % 89) as f32 / 89.0).collect());
    (edge, maps)
}

fn walk(bench: &mut Bench) {
    // The peer's matrix has as many rows as there are pixels, so that it is given a map of half the size.
    for (height, width, repeats, with_peer) in [(94, 125, 11, false), (47, 63, 3, true)] {
        let (edge, maps) = walkable(height, width);
        let request = with_peer.then(|| format!("walk {height} {width} 2 8"));
        let name = format!("random walk, {width} x {height}, 2 classes, 256 steps");
        bench.row(&name, repeats, request.as_deref(), || {
            std::hint::black_box(propagate(&maps, &edge, &WalkParams::default())).expect("the sizes fit");
        });
    }
}

/// Smooth maps as networks make them: enlarged sixteen times.
fn smooth_maps(classes: usize, height: usize, width: usize, seed: usize) -> Maps {
    let (rows, columns) = (height.div_ceil(16), width.div_ceil(16));
    let coarse = (0..classes * rows * columns).map(|i| ((i + seed) * 104_729 % 1013) as f32 / 1013.0).collect();
    interpolate_bilinear(&Maps::new(classes, rows, columns, coarse), height, width, Coordinates::HalfPixel)
}

fn algebra(bench: &mut Bench) {
    let (a, b) = (smooth_maps(2, 375, 500, 0), smooth_maps(2, 375, 500, 7));
    // What OR reads and writes is three times the bytes of a set of maps; a copy of one and a half sets is as much.
    bench.row("copy of as many bytes as OR moves", 11, None, || {
        std::hint::black_box((a.data().to_vec(), b.channel(0).to_vec()));
    });
    for (name, operation) in [("OR", Operation::Or), ("AND", Operation::And), ("average", Operation::Average)] {
        bench.row(&format!("{name}, normalised, 2 classes, 500 x 375"), 11, None, || {
            std::hint::black_box(combine(&a, &b, 0.0, operation, Normalisation::PerClass)).expect("the shapes fit");
        });
    }
}

fn masks(bench: &mut Bench) {
    let (height, width) = (375, 500);
    let label = |at: usize| {
        let (y, x) = ((at / width) as isize, (at % width) as isize);
        match ((y - 150).pow(2) + (x - 200).pow(2) < 10_000, (y - 250).pow(2) / 3 + (x - 350).pow(2) < 5_000) {
            (true, _) => 15,
            (_, true) => 7,
            _ => 0,
        }
    };
    let mask = LabelMap::new(height, width, (0..height * width).map(label).collect());
    let encoded = codec::encode_mask(&mask);
    bench.put("mask", mask.data());
    let arguments = format!("{} {height} {width}", bench.stem("mask"));
    bench.row("mask to PNG, 500 x 375", 11, Some(&format!("mask_write {arguments}")), || {
        std::hint::black_box(codec::encode_mask(&mask));
    });
    bench.row("mask from PNG, 500 x 375", 11, Some(&format!("mask_read {arguments}")), || {
        std::hint::black_box(codec::decode_mask(&encoded)).expect("it was just written");
    });
}

fn cams(bench: &mut Bench) {
    let (height, width) = (375, 500);
    let high_res = smooth_maps(2, height, width, 0);
    let values: Vec<u8> = high_res.data().iter().flat_map(|value| value.to_le_bytes()).collect();
    bench.put("maps", &values);
    let image = ImageMaps { id: "a".to_owned(), classes: vec![3, 7], cam: Some(smooth_maps(2, 94, 125, 0)), high_res };
    let shard = maps::encode(&[PackedMaps::new(&image)]);
    let arguments = format!("{} 2 {height} {width}", bench.stem("maps"));
    bench.row("maps to a set, 2 classes, 500 x 375", 11, Some(&format!("maps_write {arguments}")), || {
        std::hint::black_box(maps::encode(&[PackedMaps::new(&image)]));
    });
    bench.row("maps from a set, 2 classes, 500 x 375", 11, Some(&format!("maps_read {arguments}")), || {
        std::hint::black_box(maps::decode(&shard)).expect("it was just written");
    });
}

/// Time per pixel of walk and CRF from 0.1 to 12 megapixels: linear growth is a constant.
fn growth(bench: &mut Bench) {
    let (_, photograph) = photograph();
    for (width, height) in [(400, 250), (800, 500), (1600, 1000), (3000, 2000), (4000, 3000)] {
        let megapixels = (width * height) as f64 / 1e6;
        let data = (0..height * width).flat_map(|at| {
            // Mirrored tiles, so that larger images have no more edges per pixel.
            let fold = |place: usize, side: usize| {
                if (place / side).is_multiple_of(2) { place % side } else { side - 1 - place % side }
            };
            photograph.pixel(fold(at / width, photograph.height()), fold(at % width, photograph.width()))
        });
        let image = Rgb::new(height, width, data.collect());
        let labels =
            LabelMap::new(height, width, (0..height * width).map(|at| u8::from(at % width > width / 2)).collect());
        let unary = Unary::from_labels(&labels, 2, 0.7, false);
        let took = bench.row(&format!("growth: CRF, 2 labels, {megapixels} megapixels"), 1, None, || {
            std::hint::black_box(DenseCrf::new(&image, Kernels::IR_LABELS).infer(&unary, 10));
        });
        print_rate(took, megapixels);
        drop((image, labels, unary));
        let (edge, maps) = walkable(height.div_ceil(4), width.div_ceil(4));
        let took = bench.row(&format!("growth: walk, 2 classes, image of {megapixels} megapixels"), 1, None, || {
            std::hint::black_box(propagate(&maps, &edge, &WalkParams::default())).expect("the sizes fit");
        });
        print_rate(took, megapixels);
    }
}

fn print_rate(took: Option<Duration>, megapixels: f64) {
    if let Some(took) = took {
        println!("| … per megapixel | {:.0} | | |", took.as_secs_f64() * 1e3 / megapixels);
    }
}
