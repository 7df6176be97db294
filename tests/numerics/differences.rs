//! Slopes of a function by central differences in f64: the reference for gradients.

/// Returns the derivative of `function` by each value of `at`.
pub(crate) fn slopes(at: &[f64], function: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-6;
    let mut moved = at.to_vec();
    (0..at.len())
        .map(|index| {
            moved[index] = at[index] + STEP;
            let above = function(&moved);
            moved[index] = at[index] - STEP;
            let below = function(&moved);
            moved[index] = at[index];
            (above - below) / (2.0 * STEP)
        })
        .collect()
}

/// Returns numbers in (0, 1) that look random and are the same everywhere (a Weyl sequence of the golden ratio, squared).
pub(crate) fn scattered(count: usize, start: f64) -> Vec<f64> {
    (0..count).map(|index| ((index as f64 + start) * (index as f64 + 1.7) * 0.618_033_988_749_895).fract()).collect()
}

/// Fails unless both have as many values and each pair is within `tolerance` of the larger of 1 and its reference.
pub(crate) fn assert_close(got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "both have as many values");
    for (index, (&got, &want)) in got.iter().zip(want).enumerate() {
        let difference = (f64::from(got) - want).abs();
        assert!(difference <= tolerance * want.abs().max(1.0), "value {index}: {got} where {want} is due");
    }
}
