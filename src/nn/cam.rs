//! Class activation maps from a network's raw output: several scales, flip, classes that are present, normalisation (SPEC 1.5
//! and 2.5).

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

use crate::artifact::maps::stride4;
use crate::image::normalise::normalise;
use crate::image::resize::{Coordinates, Filter, interpolate_bilinear, resize_rgb, scaled_size};
use crate::image::{Maps, Rgb, large};
use crate::nn::resnet::ResNetCam;

/// The maps of one image, a channel for each present class, values in [0, 1].
#[derive(Clone, Debug, PartialEq)]
pub struct ClassMaps {
    /// At stride 4.
    pub cam: Maps,
    /// At the image's own size.
    pub high_res: Maps,
}

impl ClassMaps {
    /// The maps of an image without labels: no channels.
    pub fn none(height: usize, width: usize) -> Self {
        Self { cam: Maps::zeros(0, stride4(height), stride4(width)), high_res: Maps::zeros(0, height, width) }
    }

    /// Returns the maps of an image that was shrunk, at its own size: each enlarged bilinearly. Those that have it stay as they are.
    pub fn at_size(self, height: usize, width: usize) -> Self {
        Self {
            cam: large::enlarged(self.cam, stride4(height), stride4(width)),
            high_res: large::enlarged(self.high_res, height, width),
        }
    }
}

/// How often and at which sizes the network looks at an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Views {
    /// Factors on the image's size; 1 leaves it untouched.
    pub scales: Vec<f64>,
    /// Whether each is seen mirrored too.
    pub flip: bool,
    /// How images are resized.
    pub filter: Filter,
}

/// Returns the maps of images that all have the same size; `labels` has the present classes of each, ascending.
///
/// `output_stride` is that of the network: maps at full size are made by resizing to a multiple of it and cropping.
///
/// # Panics
/// If the images differ in size.
pub fn multi_scale(
    network: &ResNetCam,
    output_stride: usize,
    images: &[&Rgb],
    labels: &[&[u8]],
    views: &Views,
    device: &Device,
) -> Vec<ClassMaps> {
    let Some(first) = images.first() else { return Vec::new() };
    let (height, width) = (first.height(), first.width());
    assert!(images.iter().all(|image| (image.height(), image.width()) == (height, width)), "images of one size");
    let padded = |side: usize| side.div_ceil(output_stride) * output_stride;
    let mut sums: Vec<ClassMaps> = labels
        .iter()
        .map(|labels| ClassMaps {
            cam: Maps::zeros(labels.len(), stride4(height), stride4(width)),
            high_res: Maps::zeros(labels.len(), padded(height), padded(width)),
        })
        .collect();
    for &scale in &views.scales {
        let size = scaled_size(height, width, scale);
        let inputs: Vec<Maps> =
            images.par_iter().map(|image| normalise(&resize_rgb(image, size.0, size.1, views.filter))).collect();
        let x = batch(inputs.iter(), device);
        let raw = if views.flip { network.flip_merged(x) } else { network.cam(x, true) };
        let [_, channels, rows, columns] = raw.dims();
        let values: Vec<f32> = raw.into_data().iter::<f32>().collect();
        let plane = rows * columns;
        sums.par_iter_mut().zip(labels).enumerate().for_each(|(index, (sum, labels))| {
            let own = &values[index * channels * plane..][..channels * plane];
            let present = labels.iter().flat_map(|&class| own[usize::from(class) * plane..][..plane].iter().copied());
            let maps = Maps::new(labels.len(), rows, columns, present.collect());
            add(&mut sum.cam, &maps);
            add(&mut sum.high_res, &maps);
        });
    }
    sums.into_iter()
        .map(|ClassMaps { mut cam, high_res }| {
            let mut high_res = cropped(&high_res, height, width);
            divide_by_peak(&mut cam);
            divide_by_peak(&mut high_res);
            ClassMaps { cam, high_res }
        })
        .collect()
}

/// Returns the maps of one image from attributions over a square of patches, `[K, side, side]`: each between 0 and 1, then
/// resized (SPEC 2.5). An attribution that is the same everywhere becomes 0, where the reference program divides by zero.
pub fn from_attribution(mut attribution: Maps, height: usize, width: usize) -> ClassMaps {
    for channel in 0..attribution.channels() {
        let values = attribution.channel_mut(channel);
        let (low, high) =
            values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &v| (low.min(v), high.max(v)));
        let range = high - low;
        for value in values {
            *value = if range > 0.0 { (*value - low) / range } else { 0.0 };
        }
    }
    let resized = |height, width| interpolate_bilinear(&attribution, height, width, Coordinates::HalfPixel);
    ClassMaps { cam: resized(stride4(height), stride4(width)), high_res: resized(height, width) }
}

/// Puts maps of one size into a tensor.
///
/// # Shapes
/// B of `[C, H, W]` to `[B, C, H, W]`.
pub fn batch<'a>(maps: impl ExactSizeIterator<Item = &'a Maps> + Clone, device: &Device) -> Tensor<4> {
    let count = maps.len();
    let first = maps.clone().next().expect("a batch has an item");
    let shape = [count, first.channels(), first.height(), first.width()];
    let values: Vec<f32> = maps.flat_map(|maps| maps.data().iter().copied()).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn add(sum: &mut Maps, maps: &Maps) {
    let resized = interpolate_bilinear(maps, sum.height(), sum.width(), Coordinates::HalfPixel);
    for (sum, value) in sum.data_mut().iter_mut().zip(resized.data()) {
        *sum += value;
    }
}

fn cropped(maps: &Maps, height: usize, width: usize) -> Maps {
    let data = (0..maps.channels())
        .flat_map(|channel| maps.channel(channel).chunks_exact(maps.width()).take(height))
        .flat_map(|row| row[..width].iter().copied())
        .collect();
    Maps::new(maps.channels(), height, width, data)
}

/// Divides each channel by its largest value plus 1e-5 (SPEC 1.5).
fn divide_by_peak(maps: &mut Maps) {
    for channel in 0..maps.channels() {
        let values = maps.channel_mut(channel);
        let peak = values.iter().copied().fold(0.0_f32, f32::max) + 1e-5;
        values.iter_mut().for_each(|value| *value /= peak);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribution_spans_zero_to_one_and_a_constant_one_is_zero() {
        let maps = from_attribution(Maps::new(2, 2, 2, vec![1.0, 2.0, 3.0, 5.0, 7.0, 7.0, 7.0, 7.0]), 8, 8);
        assert_eq!((maps.cam.height(), maps.high_res.width()), (2, 8));
        assert_eq!(maps.cam.channel(0), [0.0, 0.25, 0.5, 1.0]);
        assert!(maps.high_res.channel(1).iter().all(|&value| value == 0.0));
    }
}
