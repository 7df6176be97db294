//! `cargo bench --bench networks`: how long the networks' training steps and exports take at the paper's sizes, and the loader,
//! beside PyTorch.
//!
//! `ORANDFLOW_PEER_PYTHON=PYTHON cargo bench --bench networks [-- NAME..]`, where PYTHON has torch, torchvision, timm and Pillow.
//! Both sides run in turns in one go, each on all cores; medians and their ratio are printed as a Markdown table. What is measured
//! is the time of the clock, since both sides are made of threads: run it on a machine that does nothing else.
//! `ORANDFLOW_BENCH_DEVICE` names the device (`cpu` without it), `ORANDFLOW_BENCH_REPEATS` how often each side is measured (5).

#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

#[path = "../../src/allocator.rs"]
mod allocator;
mod peer;

use std::time::{Duration, Instant};

use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor};
use orandflow::data::augment::{Augmentation, Scale};
use orandflow::image::resize::Filter;
use orandflow::image::{LabelMap, Rgb, codec};
use orandflow::nn::cam::{self, Views};
use orandflow::nn::loss::multilabel_soft_margin;
use orandflow::nn::mctformer::{self, MctFormer, Version};
use orandflow::nn::optim::{Group, Optimizer, Rule};
use orandflow::nn::orandnet::OrandNetConfig;
use orandflow::nn::pass::Pass;
use orandflow::nn::resnet::{self, ResNetCam};
use orandflow::nn::resnet38::{Resnet38Config, SegmentationLoss};
use orandflow::nn::{device, train};
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

    fn noise(&self, shape: [usize; 4]) -> Tensor<4> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), &self.device.clone().autodiff())
    }

    /// Labels of a batch: two of the classes each.
    fn targets(&self, batch: usize) -> Tensor<2> {
        let values = (0..batch * CLASSES).map(|i| f32::from(u8::from(i % 9 == 3))).collect::<Vec<f32>>();
        Tensor::<1>::from_floats(values.as_slice(), &self.device.clone().autodiff()).reshape([batch, CLASSES])
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

fn main() {
    allocator::keep_freed_memory();
    let wanted = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let repeats = std::env::var("ORANDFLOW_BENCH_REPEATS").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let name = std::env::var("ORANDFLOW_BENCH_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    let device = device::named(&name).unwrap_or_else(|error| panic!("{error}"));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut bench = Bench { wanted, repeats, peer: Peer::start("networks.py", threads), device };
    println!("| work, {threads} threads, device {name} | ours, s | PyTorch, s | ours / PyTorch |\n|---|---|---|---|");
    loader(&mut bench);
    resnet_export(&mut bench);
    orandnet(&mut bench);
    resnet_step(&mut bench);
    mctformer_step(&mut bench);
    resnet38_step(&mut bench);
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
    let names = ["ORANDNet forward, 338 x 500, one map", "ORANDNet forward and backward, 338 x 500, one map"];
    if !names.iter().any(|name| bench.wants(name)) {
        return;
    }
    let network = OrandNetConfig::vgg16().init(0, &bench.device);
    let device = bench.device.clone();
    let x = bench.noise([1, 1, 338, 500]).inner();
    bench.row(names[0], "orandnet_forward 338 500", || {
        std::hint::black_box(network.forward(x.clone(), &Pass::inference()).into_data());
    });
    let (network, x) = (network.train(), bench.noise([1, 1, 338, 500]));
    let mut pass = 0;
    bench.row(names[1], "orandnet_both 338 500", || {
        pass += 1;
        let y = network.forward(x.clone(), &Pass::training(pass));
        std::hint::black_box((y.clone() * y).mean().backward());
        device.sync().expect("the device works");
    });
}

fn resnet_step(bench: &mut Bench) {
    let name = "ResNet-50 CAM training step, batch 4, 321 px";
    if !bench.wants(name) {
        return;
    }
    let network = ResNetCam::new(&resnet::Config::resnet50(), CLASSES, 0, &bench.device).frozen(true);
    let (x, targets) = (bench.noise([4, 3, 321, 321]), bench.targets(4));
    bench.steps(name, "resnet_step 4 321", network, Rule::Sgd { momentum: 0.9 }, |network| {
        multilabel_soft_margin(network.logits(x.clone(), true, &Pass::inference()), targets.clone())
    });
}

fn mctformer_step(bench: &mut Bench) {
    let name = "MCTformer-V2 training step, batch 4, 224 px";
    if !bench.wants(name) {
        return;
    }
    let network = MctFormer::new(&mctformer::Config::small(Version::V2), CLASSES, 0, &bench.device);
    let (x, targets) = (bench.noise([4, 3, 224, 224]), bench.targets(4));
    bench.steps(name, "mctformer_step 4 224", network, Rule::adamw(), |network| {
        network.forward(x.clone(), false, &Pass::inference()).loss(&targets, 0.0)
    });
}

fn resnet38_step(bench: &mut Bench) {
    let name = "ResNet-38 training step, batch 2, 321 px";
    if !bench.wants(name) {
        return;
    }
    let network = Resnet38Config::resnet38(CLASSES + 1).init(0, &bench.device).frozen();
    let x = bench.noise([2, 3, 321, 321]);
    let label = |at: usize| ((at * 7919) % (CLASSES + 1)) as u8;
    let masks: Vec<LabelMap> = (0..2).map(|_| LabelMap::new(321, 321, (0..321 * 321).map(label).collect())).collect();
    let loss = SegmentationLoss { balance: true, smoothing: 0.4 };
    let seed = std::cell::Cell::new(0);
    bench.steps(name, "resnet38_step 2 321", network, Rule::Sgd { momentum: 0.9 }, |network| {
        seed.set(seed.get() + 1);
        loss.of(network.forward(x.clone(), &Pass::training(seed.get())), &masks)
    });
}
