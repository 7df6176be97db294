//! The algebra of class activation maps: OR, AND and average of two aligned sets of maps, and the mask that they vote for.
//! Aligned means the same classes in the same order; seeing to that is the caller's business.

use super::{LabelMap, Maps};

/// How two maps become one, pixel by pixel (paper equation 1, SPEC 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// a + b - a b: high where either is.
    Or,
    /// a b: high where both are.
    And,
    /// (a + b) / 2: the paper's baseline ("simply averages CAMs").
    Average,
}

/// What the result is divided by (SPEC 5.2; the paper says "max" and leaves its scope open).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Normalisation {
    /// Each class by its own maximum: every present class reaches 1.
    #[default]
    PerClass,
    /// All classes by the one maximum, which keeps their ratios.
    Global,
    /// Nothing, as the released program has it.
    None,
}

/// What the released program adds to the maps of the vision transformer before it combines them (SPEC 5.1).
pub const VIT_OFFSET: f32 = 0.15;

/// Combines `a` with `b + offset`. Maps whose maximum is not positive are left as they are by the normalisation.
///
/// # Errors
/// A sentence about the shapes, if they differ.
pub fn combine(
    a: &Maps,
    b: &Maps,
    offset: f32,
    operation: Operation,
    normalisation: Normalisation,
) -> Result<Maps, String> {
    let shape = |maps: &Maps| (maps.channels(), maps.height(), maps.width());
    if shape(a) != shape(b) {
        let text = |maps: &Maps| format!("{} of {} x {}", maps.channels(), maps.width(), maps.height());
        return Err(format!(
            "these maps do not lie on each other: {} and {} (classes, width x height)",
            text(a),
            text(b)
        ));
    }
    let mut maps = Maps::zeros(a.channels(), a.height(), a.width());
    // Each product once, so that swapping a and b changes no bit.
    match operation {
        Operation::Or => combine_with(a, b, offset, normalisation, &mut maps, |a, b| (a + b) - a * b),
        Operation::And => combine_with(a, b, offset, normalisation, &mut maps, |a, b| a * b),
        Operation::Average => combine_with(a, b, offset, normalisation, &mut maps, |a, b| (a + b) * 0.5),
    }
    Ok(maps)
}

/// Goes through memory once: a map is divided while it is still in cache.
fn combine_with(
    a: &Maps,
    b: &Maps,
    offset: f32,
    normalisation: Normalisation,
    maps: &mut Maps,
    combine: impl Fn(f32, f32) -> f32,
) {
    for channel in 0..maps.channels() {
        let values = maps.channel_mut(channel);
        for ((value, &a), &b) in values.iter_mut().zip(a.channel(channel)).zip(b.channel(channel)) {
            *value = combine(a, b + offset);
        }
        if normalisation == Normalisation::PerClass {
            divide_by_max(values);
        }
    }
    if normalisation == Normalisation::Global {
        divide_by_max(maps.data_mut());
    }
}

/// Divides maps by their maximum, in the scope that `normalisation` names.
pub fn normalise(maps: &mut Maps, normalisation: Normalisation) {
    match normalisation {
        Normalisation::PerClass => (0..maps.channels()).for_each(|channel| divide_by_max(maps.channel_mut(channel))),
        Normalisation::Global => divide_by_max(maps.data_mut()),
        Normalisation::None => {}
    }
}

/// Divides by the maximum where it is positive; an empty slice and one without activation stay as they are.
pub(super) fn divide_by_max(values: &mut [f32]) {
    let max = largest(values);
    if max > 0.0 {
        for value in values {
            *value /= max;
        }
    }
}

/// Returns the largest value, or zero where none is above; what is not a number is passed over.
fn largest(values: &[f32]) -> f32 {
    // Many at once: a single running maximum waits for itself at every step.
    const LANES: usize = 32;
    let mut tops = [0.0f32; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (top, &value) in tops.iter_mut().zip(chunk) {
            *top = if value > *top { value } else { *top };
        }
    }
    tops.into_iter().chain(rest.iter().copied()).fold(0.0, f32::max)
}

/// Lets maps and a constant `background` score vote for each pixel (SPEC 10.2); ties go to the background, then to the lower class.
///
/// `classes[channel]` is the channel's 0-based foreground index, which becomes mask index + 1.
///
/// # Panics
/// If there is not one class per channel, or a class has no 8-bit index.
pub fn threshold(maps: &Maps, classes: &[u8], background: f32) -> LabelMap {
    assert_eq!(classes.len(), maps.channels(), "one class per channel");
    let winners = argmax_over_background(maps, background);
    let index = |winner: u8| match winner {
        0 => 0,
        channel => classes[usize::from(channel) - 1].checked_add(1).expect("classes go up to 254"),
    };
    LabelMap::new(maps.height(), maps.width(), winners.into_iter().map(index).collect())
}

/// Returns per pixel 0 where `background` is not exceeded, else the number of the highest channel plus one.
pub(super) fn argmax_over_background(maps: &Maps, background: f32) -> Vec<u8> {
    assert!(maps.channels() < 256, "channels are numbered in a byte");
    let mut best = vec![background; maps.height() * maps.width()];
    let mut winners = vec![0; best.len()];
    for channel in 0..maps.channels() {
        for ((winner, best), &value) in winners.iter_mut().zip(&mut best).zip(maps.channel(channel)) {
            if value > *best {
                *best = value;
                *winner = channel as u8 + 1;
            }
        }
    }
    winners
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn maps(channels: usize, low: f32, high: f32) -> impl Strategy<Value = Maps> {
        // Zeros are common in CAMs and are where divisions go wrong.
        let value = prop_oneof![1 => Just(0.0f32), 4 => low..=high];
        proptest::collection::vec(value, channels * 12).prop_map(move |data| Maps::new(channels, 3, 4, data))
    }

    proptest! {
        #[test]
        fn or_lies_above_and_and_below(a in maps(2, 0.0, 1.0), b in maps(2, 0.0, 1.0)) {
            let or = combine(&a, &b, 0.0, Operation::Or, Normalisation::None).expect("aligned");
            let and = combine(&a, &b, 0.0, Operation::And, Normalisation::None).expect("aligned");
            let average = combine(&a, &b, 0.0, Operation::Average, Normalisation::None).expect("aligned");
            for i in 0..a.data().len() {
                let (high, low) = (a.data()[i].max(b.data()[i]), a.data()[i].min(b.data()[i]));
                // One rounding of a sum below 2 and one of the difference.
                prop_assert!(or.data()[i] >= high - 2e-7 && or.data()[i] <= 1.0 + 2e-7);
                prop_assert!(and.data()[i] <= low && and.data()[i] >= 0.0);
                prop_assert!((low..=high).contains(&average.data()[i]));
            }
        }

        #[test]
        fn the_order_of_a_and_b_changes_no_bit(a in maps(2, 0.0, 1.0), b in maps(2, 0.0, 1.0)) {
            for operation in [Operation::Or, Operation::And, Operation::Average] {
                for normalisation in [Normalisation::PerClass, Normalisation::Global, Normalisation::None] {
                    prop_assert_eq!(
                        combine(&a, &b, 0.0, operation, normalisation),
                        combine(&b, &a, 0.0, operation, normalisation)
                    );
                }
            }
        }

        #[test]
        fn normalised_maps_reach_one_or_stay_zero(a in maps(3, 0.0, 1.0), b in maps(3, 0.0, 1.0)) {
            for operation in [Operation::Or, Operation::And, Operation::Average] {
                let plain = combine(&a, &b, 0.0, operation, Normalisation::None).expect("aligned");
                let per_class = combine(&a, &b, 0.0, operation, Normalisation::PerClass).expect("aligned");
                for channel in 0..3 {
                    let max = |maps: &Maps| maps.channel(channel).iter().copied().fold(0.0, f32::max);
                    prop_assert_eq!(max(&per_class), if max(&plain) > 0.0 { 1.0 } else { 0.0 });
                }
                let global = combine(&a, &b, 0.0, operation, Normalisation::Global).expect("aligned");
                let max = |maps: &Maps| maps.data().iter().copied().fold(0.0, f32::max);
                prop_assert_eq!(max(&global), if max(&plain) > 0.0 { 1.0 } else { 0.0 });
                for (value, &original) in global.data().iter().zip(plain.data()) {
                    prop_assert!((value * max(&plain) - original).abs() <= 1e-6);
                }
            }
        }

        #[test]
        fn with_the_offset_the_ranges_are_those_of_the_program(a in maps(1, 0.0, 0.999), b in maps(1, 0.0, 1.0)) {
            let or = combine(&a, &b, VIT_OFFSET, Operation::Or, Normalisation::None).expect("aligned");
            let and = combine(&a, &b, VIT_OFFSET, Operation::And, Normalisation::None).expect("aligned");
            // SPEC 5.1.
            prop_assert!(or.data().iter().all(|value| (0.15 - 1e-6..=1.15 + 1e-6).contains(value)));
            prop_assert!(and.data().iter().all(|value| (0.0..=1.15 + 1e-6).contains(value)));
        }

        #[test]
        fn a_pixel_is_foreground_exactly_where_a_map_exceeds_the_background(a in maps(3, 0.0, 1.0), background in 0.0f32..1.0) {
            let mask = threshold(&a, &[2, 7, 19], background);
            for (pixel, &index) in mask.data().iter().enumerate() {
                let scores: Vec<f32> = (0..3).map(|channel| a.channel(channel)[pixel]).collect();
                let top = scores.iter().copied().fold(f32::MIN, f32::max);
                let want = if top > background {
                    [3, 8, 20][scores.iter().position(|&score| score == top).expect("the top is among them")]
                } else {
                    0
                };
                prop_assert_eq!(index, want);
            }
        }
    }

    #[test]
    fn ties_go_to_the_background_and_no_class_means_background() {
        let maps = Maps::new(2, 1, 3, vec![0.5, 0.6, 0.4, 0.5, 0.6, 0.7]);
        assert_eq!(threshold(&maps, &[4, 9], 0.5).data(), [0, 5, 10]);
        assert_eq!(threshold(&Maps::zeros(0, 1, 2), &[], 0.0).data(), [0, 0]);
    }

    #[test]
    fn other_shapes_are_refused() {
        let error = combine(&Maps::zeros(2, 3, 4), &Maps::zeros(2, 3, 5), 0.0, Operation::Or, Normalisation::None);
        assert_eq!(
            error,
            Err("these maps do not lie on each other: 2 of 4 x 3 and 2 of 5 x 3 (classes, width x height)".to_owned())
        );
    }
}
