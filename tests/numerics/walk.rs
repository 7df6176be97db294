//! The sparse random walk against the dense matrix product that the reference program computes.

use orandflow::image::Maps;
use orandflow::image::paths::paths;
use orandflow::image::walk::{Transition, WalkParams, at_image_size, propagate};
use proptest::prelude::*;

use crate::fixture::worst;
use crate::reference::arrays;

/// The transition as the reference builds it, in f64: affinities in a dense symmetric matrix with a diagonal of ones, to the power of
/// beta, each column divided by its sum (SPEC 8.5). `[from][to]`.
fn dense(edge: &Maps, radius: usize, beta: f64) -> Vec<Vec<f64>> {
    let (height, width) = (edge.height() as isize, edge.width() as isize);
    let pixels = (height * width) as usize;
    let mut matrix = vec![vec![0.0; pixels]; pixels];
    for row in 0..height {
        for column in 0..width {
            let source = (row * width + column) as usize;
            matrix[source][source] = 1.0;
            for path in paths(radius) {
                let (to_row, to_column) = (row + path.rows, column + path.columns);
                if !(0..height).contains(&to_row) || !(0..width).contains(&to_column) {
                    continue;
                }
                let largest = path
                    .cells
                    .iter()
                    .map(|(down, right)| f64::from(edge.data()[((row + down) * width + column + right) as usize]))
                    .fold(0.0, f64::max);
                let target = (to_row * width + to_column) as usize;
                matrix[source][target] = (1.0 - largest).powf(beta);
                matrix[target][source] = matrix[source][target];
            }
        }
    }
    for target in 0..pixels {
        let sum: f64 = matrix.iter().map(|row| row[target]).sum();
        matrix.iter_mut().for_each(|row| row[target] /= sum);
    }
    matrix
}

fn squared(matrix: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let size = matrix.len();
    matrix
        .iter()
        .map(|row| {
            let mut product = vec![0.0; size];
            for (factor, other) in row.iter().zip(matrix) {
                for (sum, value) in product.iter_mut().zip(other) {
                    *sum += factor * value;
                }
            }
            product
        })
        .collect()
}

fn grid(channels: usize, height: usize, width: usize) -> impl Strategy<Value = Maps> {
    proptest::collection::vec(0.0f32..=1.0, channels * height * width)
        .prop_map(move |data| Maps::new(channels, height, width, data))
}

fn case() -> impl Strategy<Value = (Maps, Maps, usize, u32)> {
    (1usize..=5, 1usize..=9, 1usize..=11, 1usize..=6, 0u32..=6).prop_flat_map(
        |(channels, height, width, radius, times)| {
            (grid(channels, height, width), grid(1, height, width), Just(radius), Just(times))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_walk_is_the_dense_product((cam, edge, radius, exp_times) in case(), beta in prop_oneof![Just(10.0f32), 0.5f32..4.0]) {
        let params = WalkParams { radius, beta, exp_times };
        let walked = propagate(&cam, &edge, &params).expect("sizes fit");
        let mut matrix = dense(&edge, radius, f64::from(beta));
        for _ in 0..exp_times {
            matrix = squared(&matrix);
        }
        for channel in 0..cam.channels() {
            let start: Vec<f64> =
                cam.channel(channel).iter().zip(edge.data()).map(|(x, edge)| f64::from(*x) * (1.0 - f64::from(*edge))).collect();
            for (target, &got) in walked.channel(channel).iter().enumerate() {
                let want: f64 = start.iter().zip(&matrix).map(|(x, row)| x * row[target]).sum();
                prop_assert!((f64::from(got) - want).abs() < 1e-5, "{got} where {want} is due");
            }
        }
    }

    #[test]
    fn the_largest_value_never_grows_and_the_smallest_never_falls((cam, edge, radius, _) in case()) {
        let transition = Transition::new(&edge, radius, 10.0);
        let mut maps = cam;
        for _ in 0..4 {
            let next = transition.walk(&maps, 1);
            for channel in 0..maps.channels() {
                let range = |maps: &Maps| {
                    maps.channel(channel).iter().fold((f32::MAX, f32::MIN), |(low, high), &value| (low.min(value), high.max(value)))
                };
                let ((low, high), (next_low, next_high)) = (range(&maps), range(&next));
                // The rounding of one sum.
                prop_assert!(next_high <= high + 1e-6 && next_low >= low - 1e-6);
            }
            maps = next;
        }
    }
}

#[test]
fn constants_are_preserved() {
    let edge = Maps::new(1, 23, 31, (0..23 * 31).map(|i| (i * 7919 % 100) as f32 / 101.0).collect());
    let walked = Transition::new(&edge, 5, 10.0).walk(&Maps::new(2, 23, 31, vec![0.375; 2 * 23 * 31]), 256);
    assert!(walked.data().iter().all(|&value| value == 0.375));
}

#[test]
fn an_edge_holds_the_walk_back() {
    let mut edge = Maps::zeros(1, 20, 30);
    for row in 0..20 {
        edge.data_mut()[row * 30 + 15] = 0.999;
    }
    let mut cam = Maps::zeros(1, 20, 30);
    cam.data_mut()[10 * 30 + 5] = 1.0;
    let walked = propagate(&cam, &edge, &WalkParams::default()).expect("sizes fit");
    let sum = |columns: std::ops::Range<usize>| -> f32 {
        (0..20).map(|row| walked.data()[row * 30..][columns.clone()].iter().sum::<f32>()).sum()
    };
    assert!(sum(0..15) > 0.5 && sum(16..30) < 1e-6, "{} stays, {} crosses", sum(0..15), sum(16..30));
}

/// Rows narrower than a block of the inner loop, over as many steps as IRN takes: what lies beyond them must not grow.
#[test]
fn narrow_maps_walk_as_wide_ones() {
    for width in 1..=20 {
        for radius in [2, 5, 6] {
            let (height, pixels) = (8, 8 * width);
            let edge = Maps::new(1, height, width, (0..pixels).map(|i| (i * 7919 % 13) as f32 / 40.0).collect());
            let cam = Maps::new(1, height, width, (0..pixels).map(|i| (i * 104_729 % 89) as f32 / 89.0).collect());
            let params = WalkParams { radius, beta: 0.75, exp_times: 8 };
            let walked = propagate(&cam, &edge, &params).expect("sizes fit");
            let matrix = dense(&edge, radius, f64::from(params.beta));
            let mut want: Vec<f64> =
                cam.data().iter().zip(edge.data()).map(|(x, edge)| f64::from(*x) * (1.0 - f64::from(*edge))).collect();
            for _ in 0..1 << params.exp_times {
                want =
                    (0..pixels).map(|target| want.iter().zip(&matrix).map(|(x, row)| x * row[target]).sum()).collect();
            }
            for (got, want) in walked.data().iter().zip(want) {
                assert!(
                    (f64::from(*got) - want).abs() < 1e-5,
                    "width {width}, radius {radius}: {got} where {want} is due"
                );
            }
        }
    }
}

/// Many steps in flight give the bits that one after another gives: width and steps that no block or flight divides.
#[test]
fn steps_together_are_steps_alone() {
    let edge = Maps::new(1, 37, 53, (0..37 * 53).map(|i| (i * 104_729 % 97) as f32 / 120.0).collect());
    let cam = Maps::new(3, 37, 53, (0..3 * 37 * 53).map(|i| (i * 7919 % 89) as f32 / 89.0).collect());
    let transition = Transition::new(&edge, 5, 10.0);
    let mut alone = cam.clone();
    for _ in 0..21 {
        alone = transition.walk(&alone, 1);
    }
    assert_eq!(transition.walk(&cam, 21), alone);
}

#[test]
fn the_reference_program_agrees() {
    let Some(arrays) = arrays("irn") else { return };
    let maps = |name: &str| {
        let array = &arrays[name];
        let [height, width] = array.shape[array.shape.len() - 2..] else {
            panic!("`{name}` has two dimensions or more")
        };
        Maps::new(array.data.len() / (height * width), height, width, array.f32())
    };
    for (edge, walked) in [("edge_synth", "rw_synth"), ("edge_net", "rw_net")] {
        let want = maps(walked);
        let got = propagate(&maps("cam"), &maps(edge), &WalkParams::default()).expect("sizes fit");
        let top = want.data().iter().copied().fold(0.0, f32::max);
        // The reference squares the dense matrix eight times in f32, which is less exact than the steps (SPEC 8.6: up to 8e-5).
        assert!(worst(&got, &want) < 1e-4 * top, "{walked} is off by {} of {top}", worst(&got, &want));
    }
}

#[test]
fn maps_come_to_the_size_of_the_image() {
    let maps = Maps::new(2, 3, 4, (0..24).map(|i| i as f32).collect());
    let large = at_image_size(&maps, 9, 14).expect("4 x 3 covers 14 x 9");
    assert_eq!((large.channels(), large.height(), large.width()), (2, 9, 14));
    // The maximum of what is left is 1, for all classes together: `scale_factor=4` puts pixel (2, 3) at rows and columns from 9.5.
    let top = large.data().iter().copied().fold(0.0, f32::max);
    assert_eq!(top, 1.0);
    assert!(large.channel(0).iter().all(|&value| value < 0.6));
    // Pixel (0, 0) is the mean position -0.375, clamped to the first value.
    assert_eq!((large.data()[0], large.channel(1)[0] > 0.5), (0.0, true));

    assert_eq!(at_image_size(&Maps::zeros(1, 2, 2), 8, 7).expect("covers").data(), vec![0.0; 56]);
    assert!(at_image_size(&maps, 13, 14).is_err());
    assert_eq!(
        propagate(&maps, &Maps::zeros(1, 4, 3), &WalkParams::default()),
        Err("the edge map is 1 of 3 x 4 where one of 4 x 3 is due, as the maps are".to_owned())
    );
}
