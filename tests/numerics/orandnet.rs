//! ORANDNet against the reference program, its losses against their formulas, and its sizes.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use orandflow::artifact::weights::Values;
use orandflow::image::Maps;
use orandflow::nn::orandnet::{Activation, OrandLoss, OrandNetConfig, from_vgg16};
use orandflow::nn::pass::Pass;
use orandflow::nn::refiner::Refiner;
use orandflow::nn::{device, params};

use crate::differences::{assert_close, scattered, slopes};
use crate::reference;

fn cpu() -> Device {
    device::named("cpu").expect("always there")
}

#[test]
fn vgg16_gives_the_numbers_of_the_reference() {
    let (Some(arrays), Some(weights)) = (reference::arrays("orandnet"), reference::weights("orandnet")) else { return };
    let network = params::load_strict(OrandNetConfig::vgg16().build(&cpu()), &weights)
        .expect("names and shapes are the reference's");
    let x = Tensor::<4>::from_data(TensorData::new(arrays["x"].f32(), [1, 1, 120, 160]), &cpu());
    let y: Vec<f32> = network.forward(x, &Pass::inference()).into_data().iter::<f32>().collect();
    // 1e-4: both sum in f32, in different orders.
    let error = reference::relative_l2(&y, &arrays["y"].data);
    assert!(error < 1e-4, "forward: {error}");
    let refined = Refiner::new(&network).refine(&Maps::new(2, 90, 125, arrays["cams"].f32()), Activation::Relu, &cpu());
    let error = reference::relative_l2(refined.data(), &arrays["pred"].data);
    assert!(error < 1e-4, "refine: {error}");
}

/// What the frame makes is shared between maps: nothing may change but rounding, which is of other blocks of the same sums.
#[test]
fn a_shared_frame_changes_nothing() {
    let config = OrandNetConfig { widths: [4, 5, 6, 7, 8], fc_width: 12, ..OrandNetConfig::vgg16() };
    let mut tensors = params::export(&config.init(3, &cpu()));
    for (name, values) in &mut tensors {
        if name.ends_with("bias") {
            // Without biases the frame would be zero.
            values.data = scattered(values.data.len(), 0.9).iter().map(|&value| 0.2 * value as f32).collect();
        }
    }
    let network = params::load_strict(config.build(&cpu()), &tensors).expect("nothing was renamed");
    let refiner = Refiner::new(&network);
    for (height, width) in
        [(100, 100), (120, 160), (137, 251), (338, 500), (375, 500), (101, 639), (639, 101), (224, 352)]
    {
        let values = scattered(height * width, 0.3).iter().map(|&value| value as f32).collect::<Vec<f32>>();
        let x = Tensor::<4>::from_data(TensorData::new(values, [1, 1, height, width]), &cpu());
        let plain = network.forward(x.clone(), &Pass::inference()).into_data();
        let shared: Vec<f32> = refiner.forward(x).into_data().iter::<f32>().collect();
        let plain: Vec<f64> = plain.iter::<f32>().map(f64::from).collect();
        let error = reference::relative_l2(&shared, &plain);
        assert!(error < 1e-6, "{height} x {width}: {error:e}");
    }
    assert!(refiner.shares(), "these sizes do share a frame");
}

#[test]
fn names_and_shapes_are_those_of_the_reference() {
    let Some(keys) = reference::keys("encdec") else { return };
    assert_eq!(params::shapes(&OrandNetConfig::vgg16().build(&cpu())), keys);
}

#[test]
fn vgg16_fills_all_but_what_the_network_draws_itself() {
    // torchvision's VGG16: the convolutions' places in `features`, and the first two of three fully connected layers.
    let convolutions = [
        (0, 3, 64),
        (2, 64, 64),
        (5, 64, 128),
        (7, 128, 128),
        (10, 128, 256),
        (12, 256, 256),
        (14, 256, 256),
        (17, 256, 512),
        (19, 512, 512),
        (21, 512, 512),
        (24, 512, 512),
        (26, 512, 512),
        (28, 512, 512),
    ];
    let mut theirs: Vec<(String, Vec<usize>)> = Vec::new();
    for (place, input, output) in convolutions {
        theirs.push((format!("features.{place}.weight"), vec![output, input, 3, 3]));
        theirs.push((format!("features.{place}.bias"), vec![output]));
    }
    for (place, input, output) in [(0, 512 * 7 * 7, 4096), (3, 4096, 4096), (6, 4096, 1000)] {
        theirs.push((format!("classifier.{place}.weight"), vec![output, input]));
        theirs.push((format!("classifier.{place}.bias"), vec![output]));
    }
    // Only names and shapes matter here.
    let theirs = theirs.into_iter().map(|(name, shape)| (name, Values { shape, data: Vec::new() })).collect();
    let renamed: BTreeMap<String, Vec<usize>> =
        from_vgg16(&theirs).into_iter().map(|(name, values)| (name, values.shape)).collect();
    let mut own = params::shapes(&OrandNetConfig::vgg16().build(&cpu()));
    own.retain(|name, _| !["downsample1.0.", "score_", "upsample_"].iter().any(|drawn| name.starts_with(drawn)));
    assert_eq!(renamed, own);
}

#[test]
fn the_output_is_as_large_as_the_input() {
    let pass = Pass::inference();
    let tiny = OrandNetConfig { widths: [1; 5], fc_width: 1, ..OrandNetConfig::vgg_tiny() };
    let framed = OrandNetConfig { widths: [1; 5], fc_width: 1, ..OrandNetConfig::vgg16() };
    let check = |config: &OrandNetConfig, height: usize, width: usize| {
        config.check_size(height, width).expect("this size fits");
        let y = config.init(0, &cpu()).forward(Tensor::zeros([1, 1, height, width], &cpu()), &pass);
        assert_eq!(y.dims(), [1, 1, height, width]);
    };
    for size in 1..=130 {
        check(&tiny, size, 130 - size / 2);
    }
    // SPEC 6.1: everything from 100 to 639 pixels fits the frame of the paper.
    for (height, width) in [(100, 639), (639, 100), (375, 500), (333, 500), (500, 333), (224, 224), (101, 102)] {
        check(&framed, height, width);
    }
    for height in 100..640 {
        assert!(framed.check_size(height, 100 + (height * 7) % 540).is_ok());
    }
}

/// A map that is constant in x must stay so up to the border: the fusion is not shifted. With bilinear upsampling alone
/// (convolutions that pass their input through), a small net that keeps sizes reproduces a ramp to within its cells.
#[test]
fn the_small_network_does_not_shift_its_map() {
    let config = OrandNetConfig { widths: [1; 5], fc_width: 1, fc_kernel: 1, padding: 1 };
    let mut tensors = params::export(&config.init(0, &cpu()));
    for (name, values) in &mut tensors {
        if name.starts_with("upsample") {
            continue;
        }
        values.data.fill(0.0);
        // Identity kernels; the scores take the mean of the three strides.
        if name.ends_with("weight") {
            let middle = values.data.len() / 2;
            values.data[middle] = if name.starts_with("score") { 1.0 / 3.0 } else { 1.0 };
        }
    }
    let network = params::load_strict(config.build(&cpu()), &tensors).expect("nothing was renamed");
    let size = 128;
    let ramp: Vec<f32> = (0..size * size).map(|index| (index % size) as f32).collect();
    let x = Tensor::<4>::from_data(TensorData::new(ramp, [1, 1, size, size]), &cpu());
    let y: Vec<f32> = network.forward(x, &Pass::inference()).into_data().iter::<f32>().collect();
    // A pool shows the last column of its cell, so the ramp is ahead of its cell's middle by 15.5, 7.5 and 3.5 columns, 8.83 in
    // the mean of strides 32, 16 and 8. A shift by a cell of stride 8 would add 8.
    for column in 40..88 {
        let ahead = y[64 * size + column] - column as f32;
        assert!((ahead - 8.83).abs() < 0.1, "column {column} is ahead by {ahead}");
    }
}

/// The three losses by their definitions, in f64. `x` and `target` are `[classes, pixels]`.
fn by_definition(loss: OrandLoss, x: &[f64], target: &[f64], classes: usize) -> f64 {
    let pixels = x.len() / classes;
    let sum: f64 = (0..pixels)
        .map(|pixel| {
            let mut logits: Vec<f64> = (0..classes).map(|class| x[class * pixels + pixel]).collect();
            let mut targets: Vec<f64> = (0..classes).map(|class| target[class * pixels + pixel]).collect();
            if loss == OrandLoss::PerPixelBce {
                let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
                let terms =
                    logits.iter().zip(&targets).map(|(&x, &t)| t * sigmoid(x).ln() + (1.0 - t) * sigmoid(-x).ln());
                return -terms.sum::<f64>() / classes as f64;
            }
            if loss == OrandLoss::WithBackground {
                targets.push(1.0 - targets.iter().copied().fold(0.0, f64::max));
                logits.push(0.0);
            }
            let log_sum = logits.iter().map(|x| x.exp()).sum::<f64>().ln();
            -logits.iter().zip(&targets).map(|(x, t)| t * (x - log_sum)).sum::<f64>()
        })
        .sum();
    sum / pixels as f64
}

#[test]
fn losses_and_gradients_follow_their_definitions() {
    for loss in [OrandLoss::ClassSoftmax, OrandLoss::WithBackground, OrandLoss::PerPixelBce] {
        for classes in 1..4 {
            let (x, target) = (scattered(classes * 12, 0.3), scattered(classes * 12, 5.1));
            let x: Vec<f64> = x.iter().map(|x| f64::from((6.0 * x - 3.0) as f32)).collect();
            let target: Vec<f64> = target.iter().map(|&t| f64::from(t as f32)).collect();
            let tensor = |values: &[f64]| {
                let data = TensorData::new(values.iter().map(|&v| v as f32).collect::<Vec<_>>(), [classes, 1, 3, 4]);
                Tensor::<4>::from_data(data, &cpu().autodiff())
            };
            let logits = tensor(&x).require_grad();
            let got = loss.of(logits.clone(), tensor(&target));
            let gradients = got.backward();
            let got: f32 = got.into_scalar();
            let gradient: Vec<f32> = logits
                .grad(&gradients)
                .map_or(vec![0.0; x.len()], |gradient| gradient.into_data().iter::<f32>().collect());
            let want = by_definition(loss, &x, &target, classes);
            // f32 against f64 on a dozen pixels.
            assert_close(&[got], &[want], 1e-5);
            assert_close(&gradient, &slopes(&x, |x| by_definition(loss, x, &target, classes)), 1e-6);
            if loss == OrandLoss::ClassSoftmax && classes == 1 {
                assert_eq!(got, 0.0, "one class alone is certain");
                assert!(gradient.iter().all(|&slope| slope == 0.0), "and teaches nothing");
            }
        }
    }
}

#[test]
fn probabilities_are_those_of_the_loss() {
    let config = OrandNetConfig::vgg_tiny();
    let network = config.init(5, &cpu());
    let maps = Maps::new(2, 9, 11, scattered(2 * 99, 0.4).iter().map(|&value| value as f32).collect());
    let logits: Vec<f64> = (0..2)
        .flat_map(|class| {
            let data = TensorData::new(maps.channel(class).to_vec(), [1, 1, 9, 11]);
            let y = network.forward(Tensor::<4>::from_data(data, &cpu()), &Pass::inference()).into_data();
            y.iter::<f32>().map(f64::from).collect::<Vec<f64>>()
        })
        .collect();
    for loss in [OrandLoss::WithBackground, OrandLoss::PerPixelBce] {
        let refined = Refiner::new(&network).refine(&maps, loss.activation(), &cpu());
        for class in 0..2 {
            let raw: Vec<f64> = (0..99)
                .map(|pixel| {
                    let all = logits[pixel].exp() + logits[99 + pixel].exp();
                    let own = logits[class * 99 + pixel].exp();
                    if loss == OrandLoss::WithBackground { own / (1.0 + all) } else { own / (1.0 + own) }
                })
                .collect();
            let largest = raw.iter().copied().fold(0.0, f64::max);
            let want: Vec<f64> = raw.iter().map(|value| value / (largest + 1e-5)).collect();
            assert_close(refined.channel(class), &want, 1e-5);
        }
    }
}
