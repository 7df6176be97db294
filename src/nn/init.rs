//! First values of parameters. Every tensor is drawn from a generator of its own, seeded by the seed and the tensor's name,
//! so that adding a layer changes no other layer's values.

use burn::module::Module;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::artifact::weights::{NamedTensors, Values};
use crate::digest::Digest;
use crate::nn::params;

/// How the first values of one tensor are drawn. Fans are those of PyTorch: `fan_in` is the product of all dimensions but
/// the first, `fan_out` of all but the second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All zero.
    Zeros,
    /// All one.
    Ones,
    /// All this value.
    Constant(f32),
    /// Uniform in plus or minus this bound.
    Uniform(f64),
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// As `Normal`, redrawn where it lies more than two standard deviations away.
    TruncatedNormal(f64),
    /// Uniform in `±1 / sqrt(fan_in)`: PyTorch's default for weights (Kaiming uniform, a = sqrt 5).
    KaimingUniform,
    /// Normal with standard deviation `sqrt(2 / fan_out)`, for convolutions before a ReLU (He et al. 2015, as in torchvision's
    /// ResNet).
    HeNormal,
    /// Uniform in `±sqrt(6 / (fan_in + fan_out))` (Glorot and Bengio 2010).
    XavierUniform,
    /// The bilinear kernel on the diagonal of channels, for transposed convolutions that upsample by half their kernel size.
    Bilinear,
}

/// What PyTorch's layers do, but for biases of convolutions and linear layers, which start at zero here: He normal for
/// convolutions, truncated normal with 0.02 for matrices, ones for the scales of norms and for `running_var`.
pub fn usual(name: &str, shape: &[usize]) -> Init {
    let leaf = name.rsplit('.').next().unwrap_or(name);
    match (leaf, shape.len()) {
        ("running_var", _) | ("weight", 1) => Init::Ones,
        ("weight", 4) => Init::HeNormal,
        ("weight", 2) => Init::TruncatedNormal(0.02),
        _ => Init::Zeros,
    }
}

/// Draws every tensor of a network anew: `choose(name, shape)` says how.
pub fn seeded<M: Module>(module: M, seed: u64, choose: impl Fn(&str, &[usize]) -> Init) -> M {
    let tensors: NamedTensors = params::shapes(&module)
        .into_iter()
        .map(|(name, shape)| {
            let data = draw(choose(&name, &shape), &shape, seed, &name);
            (name, Values { shape, data })
        })
        .collect();
    params::load(module, &tensors).0
}

/// Draws one tensor.
pub fn draw(init: Init, shape: &[usize], seed: u64, name: &str) -> Vec<f32> {
    let count: usize = shape.iter().product();
    let receptive: usize = shape.iter().skip(2).product();
    let fan_in = (shape.get(1).copied().unwrap_or(1) * receptive) as f64;
    let fan_out = (shape.first().copied().unwrap_or(1) * receptive) as f64;
    let mut random = Source::new(seed, name);
    match init {
        Init::Zeros => vec![0.0; count],
        Init::Ones => vec![1.0; count],
        Init::Constant(value) => vec![value; count],
        Init::Uniform(bound) => random.uniform(count, bound),
        Init::KaimingUniform => random.uniform(count, 1.0 / fan_in.sqrt()),
        Init::XavierUniform => random.uniform(count, (6.0 / (fan_in + fan_out)).sqrt()),
        Init::Normal(deviation) => (0..count).map(|_| (random.normal() * deviation) as f32).collect(),
        Init::HeNormal => {
            let deviation = (2.0 / fan_out).sqrt();
            (0..count).map(|_| (random.normal() * deviation) as f32).collect()
        }
        Init::TruncatedNormal(deviation) => (0..count)
            .map(|_| {
                loop {
                    let value = random.normal();
                    if value.abs() <= 2.0 {
                        break (value * deviation) as f32;
                    }
                }
            })
            .collect(),
        Init::Bilinear => bilinear(shape),
    }
}

/// The kernel of side k has `f = ceil(k / 2)`, centre `c = (2f - 1 - f mod 2) / (2f)` and the separable profile
/// `1 - |i / f - c|` (FCN, Long et al. 2015; SPEC 6.2).
fn bilinear(shape: &[usize]) -> Vec<f32> {
    let &[input, output, height, width] = shape else { panic!("a bilinear kernel has four dimensions, not {shape:?}") };
    let profile = |side: usize| -> Vec<f64> {
        let half = side.div_ceil(2) as f64;
        let centre = (2.0 * half - 1.0 - half % 2.0) / (2.0 * half);
        (0..side).map(|i| 1.0 - (i as f64 / half - centre).abs()).collect()
    };
    let (rows, columns) = (profile(height), profile(width));
    let mut values = vec![0.0; input * output * height * width];
    for channel in 0..input.min(output) {
        let kernel = &mut values[(channel * output + channel) * height * width..][..height * width];
        for (i, value) in kernel.iter_mut().enumerate() {
            *value = (rows[i / width] * columns[i % width]) as f32;
        }
    }
    values
}

/// Random numbers of one tensor.
struct Source {
    random: ChaCha8Rng,
    spare: Option<f64>,
}

impl Source {
    fn new(seed: u64, name: &str) -> Self {
        let digest = Digest::of(format!("{seed}/{name}").as_bytes());
        Self { random: ChaCha8Rng::seed_from_u64(digest.to_u64()), spare: None }
    }

    /// Uniform in (0, 1).
    fn unit(&mut self) -> f64 {
        ((self.random.next_u64() >> 11) as f64 + 0.5) * 2.0_f64.powi(-53)
    }

    fn uniform(&mut self, count: usize, bound: f64) -> Vec<f32> {
        (0..count).map(|_| ((2.0 * self.unit() - 1.0) * bound) as f32).collect()
    }

    /// Standard normal, by the transform of Box and Muller.
    fn normal(&mut self) -> f64 {
        if let Some(value) = self.spare.take() {
            return value;
        }
        let radius = (-2.0 * self.unit().ln()).sqrt();
        let (sine, cosine) = (std::f64::consts::TAU * self.unit()).sin_cos();
        self.spare = Some(radius * sine);
        radius * cosine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_values_have_their_deviation() {
        let values = draw(Init::Normal(2.0), &[10_000], 1, "a");
        let mean = values.iter().sum::<f32>() / 1e4;
        let variance = values.iter().map(|v| v * v).sum::<f32>() / 1e4;
        assert!(mean.abs() < 0.08 && (variance - 4.0).abs() < 0.25, "{mean} {variance}");
        assert_ne!(values, draw(Init::Normal(2.0), &[10_000], 1, "b"));
        assert_eq!(values, draw(Init::Normal(2.0), &[10_000], 1, "a"));
    }

    #[test]
    fn bilinear_kernel_of_side_four() {
        // SPEC appendix C: the outer product of [.25, .75, .75, .25] with itself.
        let kernel = draw(Init::Bilinear, &[1, 1, 4, 4], 0, "up");
        let row = [0.25, 0.75, 0.75, 0.25_f32];
        for (i, value) in kernel.iter().enumerate() {
            assert!((value - row[i / 4] * row[i % 4]).abs() < 1e-7);
        }
        let sum: f32 = draw(Init::Bilinear, &[1, 1, 16, 16], 0, "up").iter().sum();
        assert!((sum - 64.0).abs() < 1e-4);
    }
}
