//! Losses of the classifiers.

use burn::tensor::{Tensor, activation};

/// Returns the multilabel soft-margin loss (SPEC 0.8): the mean over classes and batch of
/// `-(y log sigmoid(x) + (1 - y) log sigmoid(-x))`.
///
/// # Shapes
/// `logits` and `targets` are `[B, C]`, targets in {0, 1}; the result is `[1]`.
pub fn multilabel_soft_margin(logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    // y log s(x) + (1 - y) log s(-x) = log s(x) - (1 - y) x, as log s(-x) = log s(x) - x.
    let absent = targets.neg().add_scalar(1.0);
    (activation::log_sigmoid(logits.clone()) - absent * logits).mean().neg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::device;

    #[test]
    fn soft_margin_agrees_with_its_definition() {
        let device = device::named("cpu").expect("always there");
        let (x, y) = ([[0.5_f32, -2.0], [30.0, -30.0]], [[1.0_f32, 0.0], [0.0, 0.0]]);
        let loss = multilabel_soft_margin(Tensor::from_floats(x, &device), Tensor::from_floats(y, &device));
        let mut expected = 0.0_f64;
        for (x, y) in x.iter().flatten().zip(y.iter().flatten()) {
            let (x, y) = (f64::from(*x), f64::from(*y));
            expected += y * (1.0 + (-x).exp()).ln() + (1.0 - y) * (1.0 + x.exp()).ln();
        }
        assert!((f64::from(loss.into_scalar::<f32>()) - expected / 4.0).abs() < 1e-5);
    }
}
