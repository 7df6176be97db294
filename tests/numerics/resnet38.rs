//! The segmentation network against the reference program, and its loss against its definition.

use burn::tensor::{Device, Tensor, TensorData};
use orandflow::image::normalise::normalise;
use orandflow::image::{LabelMap, codec};
use orandflow::nn::layers::NormKind;
use orandflow::nn::pass::Pass;
use orandflow::nn::resnet38::{Merge, Resnet38Config, SegmentationLoss};
use orandflow::nn::{device, params};

use crate::differences::{assert_close, scattered, slopes};
use crate::reference;

fn cpu() -> Device {
    device::named("cpu").expect("always there")
}

#[test]
fn resnet38_gives_the_numbers_of_the_reference() {
    let (Some(arrays), Some(weights)) = (reference::arrays("resnet38_seg"), reference::weights("resnet38_seg")) else {
        return;
    };
    let Some(file) = reference::shared("reference/seg_input.png") else { return };
    let image = normalise(&codec::decode_rgb(&std::fs::read(file).expect("readable")).expect("a PNG"));
    let network = Resnet38Config::resnet38(21).init(0, &cpu());
    let network = params::load_strict(network, &weights).expect("names and shapes are the reference's");
    let x = TensorData::new(image.data().to_vec(), [1, 3, image.height(), image.width()]);
    let logits = network.forward(Tensor::<4>::from_data(x, &cpu()), &Pass::inference());
    assert_eq!(logits.dims().to_vec(), arrays["logits"].shape);
    let logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
    // 1e-4: both sum in f32, in different orders.
    let error = reference::relative_l2(&logits, &arrays["logits"].data);
    assert!(error < 1e-4, "logits: {error}");
    let merged = network.probabilities(&image, &[0.5, 0.75, 1.0, 1.25, 1.5], false, Merge::Max, &cpu());
    for (&got, &want) in merged.data().iter().zip(&arrays["probs"].data) {
        // Stored as f16, whose values lie 2^-15 apart there: half of that, and a little for f32.
        assert!((f64::from(got) - want).abs() < 1.6e-5, "{got} where {want} is due");
    }
    let plane = image.height() * image.width();
    let wrong = (0..plane)
        .filter(|&pixel| {
            let best = (0..21).max_by(|&a, &b| merged.channel(a)[pixel].total_cmp(&merged.channel(b)[pixel]));
            best.expect("21 classes") as f64 != arrays["pred"].data[pixel]
        })
        .count();
    // The classes of random weights are nearly tied; one pixel in a thousand may fall to the other side.
    assert!(wrong * 1000 <= plane, "{wrong} of {plane} pixels differ");
}

#[test]
fn names_and_shapes_are_those_of_the_reference() {
    let Some(keys) = reference::keys("seg38") else { return };
    assert_eq!(params::shapes(&Resnet38Config::resnet38(21).init(0, &cpu())), keys);
}

#[test]
fn the_small_network_is_small_and_has_stride_eight() {
    for norm in [NormKind::Batch, NormKind::Group, NormKind::Frozen] {
        let config = Resnet38Config { norm, ..Resnet38Config::tiny(6) };
        let network = config.init(1, &cpu());
        let count: usize = params::shapes(&network).values().map(|shape| shape.iter().product::<usize>()).sum();
        assert!((700_000..1_500_000).contains(&count), "{count} parameters");
        let logits = network.forward(Tensor::<4>::ones([2, 3, 97, 64], &cpu()), &Pass::inference());
        assert_eq!(logits.dims(), [2, 6, 13, 8]);
    }
}

/// SPEC 3.2 and 9.4 written as they stand. `x` is `[B, C, pixels]`.
fn by_definition(loss: SegmentationLoss, x: &[f64], labels: &[u8], classes: usize) -> f64 {
    let pixels = x.len() / classes / 2;
    let (mut sums, mut counts) = ([0.0; 2], [0.0; 2]);
    for (index, &label) in labels.iter().enumerate().filter(|(_, label)| **label != 255) {
        let (image, pixel) = (index / pixels, index % pixels);
        let logits: Vec<f64> = (0..classes).map(|class| x[(image * classes + class) * pixels + pixel]).collect();
        let log_sum = logits.iter().map(|x| x.exp()).sum::<f64>().ln();
        let term: f64 = (0..classes)
            .map(|class| {
                let target = if class == usize::from(label) {
                    1.0 - loss.smoothing
                } else {
                    loss.smoothing / (classes - 1) as f64
                };
                -target * (logits[class] - log_sum)
            })
            .sum();
        let set = usize::from(label != 0);
        sums[set] += term;
        counts[set] += 1.0;
    }
    if !loss.balance {
        return (sums[0] + sums[1]) / (counts[0] + counts[1]);
    }
    let means: Vec<f64> = (0..2).filter(|&set| counts[set] > 0.0).map(|set| sums[set] / counts[set]).collect();
    means.iter().sum::<f64>() / means.len() as f64
}

#[test]
fn the_loss_and_its_gradient_follow_the_definition() {
    let (classes, height, width) = (4, 3, 5);
    let x: Vec<f64> =
        scattered(2 * classes * height * width, 0.9).iter().map(|v| f64::from((8.0 * v - 4.0) as f32)).collect();
    let mixed: Vec<u8> =
        scattered(2 * height * width, 4.4).iter().map(|v| [0, 1, 2, 3, 255, 0][(v * 6.0) as usize]).collect();
    let objects = vec![2; mixed.len()];
    let background = vec![0; mixed.len()];
    for labels in [mixed, objects, background] {
        let masks: Vec<LabelMap> =
            labels.chunks_exact(height * width).map(|part| LabelMap::new(height, width, part.to_vec())).collect();
        for (balance, smoothing) in [(true, 0.4), (true, 0.0), (false, 0.1)] {
            let loss = SegmentationLoss { balance, smoothing };
            let narrow: Vec<f32> = x.iter().map(|&x| x as f32).collect();
            let logits =
                Tensor::<4>::from_data(TensorData::new(narrow, [2, classes, height, width]), &cpu().autodiff())
                    .require_grad();
            let got = loss.of(logits.clone(), &masks);
            let gradient = logits.grad(&got.backward()).expect("connected").into_data();
            // f32 against f64 on thirty pixels.
            assert_close(&[got.into_scalar::<f32>()], &[by_definition(loss, &x, &labels, classes)], 1e-5);
            let slopes = slopes(&x, |x| by_definition(loss, x, &labels, classes));
            assert_close(&gradient.iter::<f32>().collect::<Vec<f32>>(), &slopes, 1e-6);
        }
    }
}

#[test]
fn a_batch_without_a_labelled_pixel_has_loss_zero() {
    let logits = Tensor::<4>::ones([1, 3, 2, 2], &cpu());
    let masks = [LabelMap::new(4, 4, vec![255; 16])];
    let loss = SegmentationLoss { balance: true, smoothing: 0.4 }.of(logits, &masks);
    assert_eq!(loss.into_scalar::<f32>(), 0.0);
}
