//! `cargo bench --bench networks`: how long the networks' training steps and exports take at the paper's sizes, and the loader,
//! beside PyTorch.
//!
//! `ORANDFLOW_PEER_PYTHON=PYTHON cargo bench --bench networks [-- NAME..]`, where PYTHON has torch, torchvision, timm and Pillow.
//! Both sides run in turns in one go, each on all cores; medians and their ratio are printed as a Markdown table. What is measured
//! is the time of the clock, since both sides are made of threads: run it on a machine that does nothing else.
//! `ORANDFLOW_BENCH_DEVICE` names the device (`cpu` without it), `ORANDFLOW_BENCH_PRECISION` the precision (`f32`),
//! `ORANDFLOW_BENCH_SIZES=gpu` takes batches that fill a GPU, `ORANDFLOW_BENCH_REPEATS` says how often each side is measured (5).
//! Batches of training steps lie in the host's memory and are copied in each step.
//!
//! `.. -- parity` measures nothing: it compares the outputs of every network on that device with those of the CPU, and its exit code
//! says whether they agree to 1e-3.

#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

#[path = "../../src/allocator.rs"]
mod allocator;
mod parity;
mod peer;

use std::cell::Cell;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use burn::module::Module;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, TensorData, module};
use orandflow::data::augment::{Augmentation, Scale};
use orandflow::image::resize::Filter;
use orandflow::image::{LabelMap, Rgb, codec};
use orandflow::nn::cam::{self, Views};
use orandflow::nn::convolution::convolve;
use orandflow::nn::loss::multilabel_soft_margin;
use orandflow::nn::mctformer::{self, MctFormer, Version};
use orandflow::nn::optim::{Group, Optimizer, Rule};
use orandflow::nn::orandnet::{OrandNet, OrandNetConfig};
use orandflow::nn::pass::Pass;
use orandflow::nn::refiner::Refiner;
use orandflow::nn::resnet::{self, ResNetCam};
use orandflow::nn::resnet38::{Resnet38Config, SegmentationLoss};
use orandflow::nn::{device, precision, train};
use rayon::prelude::*;

use crate::peer::Peer;

/// Classes of PASCAL VOC without the background.
const CLASSES: usize = 20;

/// Everything that the cases share.
struct Bench {
    /// Names of cases to run; all if empty.
    wanted: Vec<String>,
    repeats: usize,
    peer: Option<Peer>,
    device: Device,
    /// Whether batches are those for a GPU.
    large: bool,
}

impl Bench {
    fn wants(&self, name: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|wanted| name.contains(wanted.as_str()))
    }

    /// Runs both sides in turns and prints a row. `request` is what the peer is asked, its name first.
    fn row(&mut self, name: &str, request: &str, mut work: impl FnMut()) {
        work();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..self.repeats {
            let start = Instant::now();
            work();
            ours.push(start.elapsed());
            theirs.extend(self.peer.as_mut().and_then(|peer| peer.time(request)));
        }
        let ours = median(&mut ours).as_secs_f64();
        if theirs.is_empty() {
            println!("| {name} | {ours:.3} | | |");
        } else {
            let theirs = median(&mut theirs).as_secs_f64();
            println!("| {name} | {ours:.3} | {theirs:.3} | {:.2} |", ours / theirs);
        }
    }

    /// Makes something that copies a batch of noise to the device.
    fn batches(&self, shape: [usize; 4]) -> impl Fn() -> Tensor<4> + use<> {
        let mut state = 1u32;
        let values: Vec<f32> = (0..shape.iter().product::<usize>())
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (f64::from(state) / f64::from(u32::MAX) * 4.0 - 2.0) as f32
            })
            .collect();
        let (data, device) = (TensorData::new(values, shape), self.device.clone().autodiff());
        move || Tensor::from_data(data.clone(), &device)
    }

    /// Makes something that copies the labels of a batch to the device: two or three of the classes each.
    fn targets(&self, batch: usize) -> impl Fn() -> Tensor<2> + use<> {
        let values = (0..batch * CLASSES).map(|i| f32::from(u8::from(i % 9 == 3))).collect::<Vec<f32>>();
        let (data, device) = (TensorData::new(values, [batch, CLASSES]), self.device.clone().autodiff());
        move || Tensor::from_data(data.clone(), &device)
    }

    /// Measures training steps: forward, backward and the optimiser's.
    fn steps<M: Module>(&mut self, name: &str, request: &str, network: M, rule: Rule, loss: impl Fn(&M) -> Tensor<1>) {
        let mut optimizer = Optimizer::new(rule, None, |_| Group { rate: 1.0, decay: 1e-4 });
        let device = self.device.clone();
        let mut network = Some(network.train());
        self.row(name, request, || {
            let current = network.take().expect("it is put back below");
            let gradients = loss(&current).backward();
            network = Some(optimizer.step(current, gradients, 1e-4));
            device.sync().expect("the device works");
        });
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn main() -> ExitCode {
    allocator::keep_freed_memory();
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let variable = |name: &str, usual: &str| std::env::var(name).unwrap_or_else(|_| usual.to_owned());
    let repeats = variable("ORANDFLOW_BENCH_REPEATS", "5").parse().expect("ORANDFLOW_BENCH_REPEATS is a number");
    let name = variable("ORANDFLOW_BENCH_DEVICE", "cpu");
    let device = device::named(&name).unwrap_or_else(|error| panic!("{error}"));
    let word = variable("ORANDFLOW_BENCH_PRECISION", "f32");
    let precision =
        serde_json::from_value(word.clone().into()).expect("ORANDFLOW_BENCH_PRECISION is f32, tf32 or bf16");
    let _held = precision::hold(precision);
    if wanted == ["parity"] {
        return parity::of(&device, &name);
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let large = variable("ORANDFLOW_BENCH_SIZES", "cpu") == "gpu";
    let mut bench = Bench { wanted, repeats, peer: Peer::start("networks.py", threads), device, large };
    println!(
        "| work, {threads} threads, device {name}, {word} | ours, s | PyTorch, s | ours / PyTorch |\n|---|---|---|---|"
    );
    loader(&mut bench);
    convolutions(&mut bench);
    resnet_export(&mut bench);
    orandnet(&mut bench);
    resnet_step(&mut bench);
    mctformer_step(&mut bench);
    resnet38_step(&mut bench);
    ExitCode::SUCCESS
}

/// A drawn photograph with noise.
fn photograph(height: usize, width: usize, seed: u32) -> Rgb {
    let mut state = seed + 1;
    let data = (0..height * width * 3).map(|at| {
        let (x, y) = (at / 3 % width, at / 3 / width);
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let shape = if (x / 90 + y / 70).is_multiple_of(2) { 60 } else { 150 };
        (shape + x / 10 + (state >> 28) as usize) as u8
    });
    Rgb::new(height, width, data.collect())
}

fn loader(bench: &mut Bench) {
    let name = "decode, augment and batch 96 JPEGs, batches of 16, crop 512";
    if !bench.wants(name) {
        return;
    }
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    let sizes = [(375, 500), (333, 500), (500, 375)];
    for (index, (height, width)) in sizes.into_iter().enumerate() {
        let image = photograph(height, width, index as u32);
        let path = folder.path().join(format!("{index}.jpg"));
        let encoder = jpeg_encoder::Encoder::new_file(path, 92).expect("the file can be made");
        encoder
            .encode(image.data(), width as u16, height as u16, jpeg_encoder::ColorType::Rgb)
            .expect("the image can be encoded");
    }
    let augmentation = Augmentation {
        scale: Scale::LongSide { shortest: 320, longest: 640 },
        flip: 0.5,
        jitter: None,
        crop: Some(512),
    };
    let paths: Vec<_> = (0..3).map(|index| folder.path().join(format!("{index}.jpg"))).collect();
    let request = format!("loader {}/ 96 16", folder.path().display());
    let mut epoch = 0;
    bench.row(name, &request, || {
        epoch += 1;
        for start in (0..96).step_by(16) {
            // As `nn::train::fit` loads a batch.
            let batch: Vec<_> = (start..start + 16)
                .into_par_iter()
                .map(|index| {
                    let bytes = std::fs::read(&paths[index % 3]).expect("it was just written");
                    let image = codec::decode_rgb(&bytes).expect("it was just written");
                    augmentation.apply(&image, None, &mut train::generator(0, "item", epoch, index)).image
                })
                .collect();
            std::hint::black_box(cam::batch(batch.iter(), &device::named("cpu").expect("always there")));
        }
    });
}

/// Convolutions with their gradients: of VGG16 in ORANDNet, of ResNet-38, ResNet-50 and the small networks of the demo; ours, and on
/// the CPU burn's.
fn convolutions(bench: &mut Bench) {
    for ([batch, input, output], [height, width], stride, dilation) in [
        ([1, 64, 64], [538, 700], 1, 1),
        ([1, 256, 256], [135, 175], 1, 1),
        ([2, 512, 1024], [41, 41], 1, 4),
        ([4, 128, 128], [81, 81], 2, 1),
        ([8, 24, 24], [80, 80], 1, 1),
    ] {
        let size =
            format!("{input} to {output} channels, {batch} x {height} x {width}, stride {stride}, dilation {dilation}");
        let name = format!("convolution, {size}");
        if !bench.wants(&name) {
            continue;
        }
        let (x, weight) = (bench.batches([batch, input, height, width])(), bench.batches([output, input, 3, 3])());
        let (x, weight) = (x.require_grad(), weight.require_grad());
        let options = ConvOptions::new([stride; 2], [dilation; 2], [dilation; 2], 1);
        let device = bench.device.clone();
        let both = |y: Tensor<4>| {
            std::hint::black_box((y.clone() * y).mean().backward());
            device.sync().expect("the device works");
        };
        let request = format!("convolution {batch} {input} {output} {height} {width} {stride} {dilation}");
        bench.row(&name, &request, || both(convolve(x.clone(), weight.clone(), None, options.clone())));
        bench.row(&format!("the same by burn, {size}"), &request, || {
            both(module::conv2d(x.clone(), weight.clone(), None, options.clone()));
        });
    }
}

fn resnet_export(bench: &mut Bench) {
    let name = "ResNet-50 CAM export, 500 x 338, 4 scales with flips";
    if !bench.wants(name) {
        return;
    }
    let config = resnet::Config::resnet50();
    let network = ResNetCam::new(&config, CLASSES, 0, &bench.device);
    let (image, device) = (photograph(338, 500, 0), bench.device.clone());
    let views = Views { scales: vec![1.0, 0.5, 1.5, 2.0], flip: true, filter: Filter::PillowBicubic };
    bench.row(name, "resnet_export 338 500", || {
        let maps = cam::multi_scale(&network, config.output_stride(), &[&image], &[&[3, 7]], &views, &device);
        std::hint::black_box(maps);
    });
}

fn orandnet(bench: &mut Bench) {
    // The paper's images have up to 500 x 375 pixels, and two classes or fewer as a rule.
    let (maps, height, width) = if bench.large { (2, 375, 500) } else { (1, 338, 500) };
    let size = format!("{height} x {width}, maps: {maps}");
    let names = ["forward", "forward and backward", "training step"].map(|work| format!("ORANDNet {work}, {size}"));
    if !names.iter().any(|name| bench.wants(name)) {
        return;
    }
    let network = OrandNetConfig::vgg16().init(0, &bench.device);
    let (device, batch) = (bench.device.clone(), bench.batches([maps, 1, height, width]));
    let arguments = format!("{maps} {height} {width}");
    let refiner = Refiner::new(&network);
    bench.row(&names[0], &format!("orandnet_forward {arguments}"), || {
        let x = batch().inner();
        for map in 0..maps {
            std::hint::black_box(refiner.forward(x.clone().narrow(0, map, 1)).into_data());
        }
    });
    let pass = Cell::new(0);
    let loss = |network: &OrandNet| {
        pass.set(pass.get() + 1);
        let y = network.forward(batch(), &Pass::training(pass.get()));
        (y.clone() * y).mean()
    };
    let network = network.train();
    bench.row(&names[1], &format!("orandnet_both {arguments}"), || {
        std::hint::black_box(loss(&network).backward());
        device.sync().expect("the device works");
    });
    bench.steps(&names[2], &format!("orandnet_step {arguments}"), network, Rule::Sgd { momentum: 0.9 }, loss);
}

fn resnet_step(bench: &mut Bench) {
    let (batch, side) = if bench.large { (16, 512) } else { (4, 321) };
    let name = format!("ResNet-50 CAM training step, batch {batch}, {side} px");
    if !bench.wants(&name) {
        return;
    }
    let network = ResNetCam::new(&resnet::Config::resnet50(), CLASSES, 0, &bench.device).frozen(true);
    let (x, targets) = (bench.batches([batch, 3, side, side]), bench.targets(batch));
    bench.steps(&name, &format!("resnet_step {batch} {side}"), network, Rule::Sgd { momentum: 0.9 }, |network| {
        multilabel_soft_margin(network.logits(x(), true, &Pass::inference()), targets())
    });
}

fn mctformer_step(bench: &mut Bench) {
    let batch = if bench.large { 64 } else { 4 };
    let name = format!("MCTformer-V2 training step, batch {batch}, 224 px");
    if !bench.wants(&name) {
        return;
    }
    let network = MctFormer::new(&mctformer::Config::small(Version::V2), CLASSES, 0, &bench.device);
    let (x, targets) = (bench.batches([batch, 3, 224, 224]), bench.targets(batch));
    bench.steps(&name, &format!("mctformer_step {batch} 224"), network, Rule::adamw(), |network| {
        network.forward(x(), false, &Pass::inference()).loss(&targets(), 0.0)
    });
}

fn resnet38_step(bench: &mut Bench) {
    let batch = if bench.large { 8 } else { 2 };
    let name = format!("ResNet-38 training step, batch {batch}, 321 px");
    if !bench.wants(&name) {
        return;
    }
    let network = Resnet38Config::resnet38(CLASSES + 1).init(0, &bench.device).frozen();
    let x = bench.batches([batch, 3, 321, 321]);
    let label = |at: usize| ((at * 7919) % (CLASSES + 1)) as u8;
    let mask = LabelMap::new(321, 321, (0..321 * 321).map(label).collect());
    let masks = vec![mask; batch];
    let loss = SegmentationLoss { balance: true, smoothing: 0.4 };
    let pass = Cell::new(0);
    bench.steps(&name, &format!("resnet38_step {batch} 321"), network, Rule::Sgd { momentum: 0.9 }, |network| {
        pass.set(pass.get() + 1);
        loss.of(network.forward(x(), &Pass::training(pass.get())), &masks)
    });
}
