//! Optimisers over parameters by name, learning-rate schedules and gradient clipping.
//!
//! Written here and not taken from burn because every recipe has parameter groups, and because the state must be kept by
//! name, so that it can be saved and restored.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::artifact::weights::{NamedTensors, Values};
use crate::nn::params::Path;

/// How a gradient becomes a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// torch's SGD without dampening: `d = g + wd p; b = momentum b + d; p -= lr b`, with b = d at the first step.
    Sgd {
        /// 0 for none. SPEC 0.7: upstream's value is its weight decay, the paper's is 0.9.
        momentum: f64,
    },
    /// Adam (Kingma and Ba 2015) with its weight decay in the gradient, as torch's Adam.
    Adam {
        /// Decay of the mean of gradients.
        beta1: f64,
        /// Decay of the mean of their squares.
        beta2: f64,
        /// Added to the divisor.
        epsilon: f64,
    },
    /// Adam with its weight decay beside the gradient (Loshchilov and Hutter 2019), as torch's AdamW.
    AdamW {
        /// Decay of the mean of gradients.
        beta1: f64,
        /// Decay of the mean of their squares.
        beta2: f64,
        /// Added to the divisor.
        epsilon: f64,
    },
}

impl Rule {
    /// AdamW with torch's values.
    pub fn adamw() -> Self {
        Self::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
    }

    /// Adam with torch's values.
    pub fn adam() -> Self {
        Self::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
    }
}

/// What is particular to one parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// The learning rate is multiplied by this.
    pub rate: f64,
    /// Weight decay.
    pub decay: f64,
}

/// How the learning rate moves over the steps of a training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// `(1 - step / steps)^0.9` before each step (SPEC 0.7).
    #[default]
    Polynomial,
    /// Half a cosine from 1 to 0, after a linear rise over `warmup` steps.
    Cosine,
    /// The same throughout, after a linear rise over `warmup` steps.
    Constant,
}

impl Schedule {
    /// Returns the factor on the learning rate before step `step` (from 0) of `steps`, of which the first `warmup` rise
    /// linearly.
    pub fn factor(self, step: usize, steps: usize, warmup: usize) -> f64 {
        if step < warmup {
            return (step + 1) as f64 / warmup as f64;
        }
        let done = (step - warmup) as f64 / (steps.saturating_sub(warmup)).max(1) as f64;
        match self {
            Self::Polynomial => (1.0 - done).max(0.0).powf(0.9),
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos()),
            Self::Constant => 1.0,
        }
    }
}

/// What is kept of one parameter between steps, flattened.
#[derive(Clone, Debug, Default)]
struct Slot {
    /// Momentum, or the mean of gradients.
    first: Option<Tensor<1>>,
    /// The mean of squared gradients.
    second: Option<Tensor<1>>,
}

type Groups = Box<dyn Fn(&str) -> Group + Send>;

/// An optimiser.
pub struct Optimizer {
    rule: Rule,
    groups: Groups,
    clip: Option<f64>,
    steps: u64,
    slots: BTreeMap<String, Slot>,
}

impl Optimizer {
    /// Makes an optimiser; `groups` says for each parameter's name what is particular to it, and `clip` bounds the global L2
    /// norm of the gradients.
    pub fn new(rule: Rule, clip: Option<f64>, groups: impl Fn(&str) -> Group + Send + 'static) -> Self {
        Self { rule, groups: Box::new(groups), clip, steps: 0, slots: BTreeMap::new() }
    }

    /// Takes one step. Parameters without a gradient stay as they are, without decay, as in PyTorch.
    pub fn step<M: Module>(&mut self, module: M, mut gradients: Gradients, rate: f64) -> M {
        let scale = self.clip.and_then(|limit| clip_factor(&module, &gradients, limit));
        self.steps += 1;
        module.map(&mut Update { path: Path::default(), optimizer: self, gradients: &mut gradients, rate, scale })
    }

    /// Returns the state under `first/NAME`, `second/NAME` and `steps`.
    pub fn state(&self) -> NamedTensors {
        let mut tensors = NamedTensors::new();
        // Two halves, so that the count is exact in f32.
        let steps = vec![(self.steps >> 24) as f32, (self.steps & 0xff_ffff) as f32];
        tensors.insert("steps".into(), Values { shape: vec![2], data: steps });
        for (name, slot) in &self.slots {
            for (part, tensor) in [("first", &slot.first), ("second", &slot.second)] {
                if let Some(tensor) = tensor {
                    let data: Vec<f32> = tensor.clone().into_data().iter::<f32>().collect();
                    tensors.insert(format!("{part}/{name}"), Values { shape: vec![data.len()], data });
                }
            }
        }
        tensors
    }

    /// Takes over a state that [`Self::state`] returned; `device` is the plain device of the parameters.
    pub fn restore(&mut self, state: &NamedTensors, device: &Device) {
        self.slots.clear();
        for (name, values) in state {
            let tensor = || Some(Tensor::from_data(TensorData::new(values.data.clone(), [values.data.len()]), device));
            match name.split_once('/') {
                Some(("first", name)) => self.slots.entry(name.to_owned()).or_default().first = tensor(),
                Some(("second", name)) => self.slots.entry(name.to_owned()).or_default().second = tensor(),
                _ if values.data.len() == 2 => {
                    self.steps = ((values.data[0] as u64) << 24) | values.data[1] as u64;
                }
                _ => {}
            }
        }
    }

    fn update(&mut self, name: &str, value: Tensor<1>, gradient: Tensor<1>, rate: f64) -> Tensor<1> {
        let group = (self.groups)(name);
        let rate = rate * group.rate;
        let slot = self.slots.entry(name.to_owned()).or_default();
        match self.rule {
            Rule::Sgd { momentum } => {
                let step = if group.decay == 0.0 { gradient } else { gradient + value.clone() * group.decay };
                let step = match slot.first.take() {
                    Some(buffer) if momentum != 0.0 => buffer * momentum + step,
                    _ => step,
                };
                if momentum != 0.0 {
                    slot.first = Some(step.clone());
                }
                value - step * rate
            }
            Rule::Adam { beta1, beta2, epsilon } | Rule::AdamW { beta1, beta2, epsilon } => {
                let decoupled = matches!(self.rule, Rule::AdamW { .. });
                let (value, gradient) = match (group.decay, decoupled) {
                    (0.0, _) => (value, gradient),
                    (decay, true) => (value * (1.0 - rate * decay), gradient),
                    (decay, false) => {
                        let gradient = gradient + value.clone() * decay;
                        (value, gradient)
                    }
                };
                let squared = gradient.clone() * gradient.clone() * (1.0 - beta2);
                let fresh = gradient * (1.0 - beta1);
                let first = match slot.first.take() {
                    Some(mean) => mean * beta1 + fresh,
                    None => fresh,
                };
                let second = match slot.second.take() {
                    Some(mean) => mean * beta2 + squared,
                    None => squared,
                };
                slot.first = Some(first.clone());
                slot.second = Some(second.clone());
                let power = i32::try_from(self.steps).unwrap_or(i32::MAX);
                let (correct1, correct2) = (1.0 - beta1.powi(power), 1.0 - beta2.powi(power));
                let divisor = second.sqrt() / correct2.sqrt() + epsilon;
                value - first / divisor * (rate / correct1)
            }
        }
    }
}

struct Update<'a> {
    path: Path,
    optimizer: &'a mut Optimizer,
    gradients: &'a mut Gradients,
    rate: f64,
    scale: Option<Tensor<1>>,
}

impl ModuleMapper for Update<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = param.val().grad_remove(self.gradients) else { return param };
        let name = self.path.name();
        param.map(|value| {
            let shape = value.dims();
            let count = shape.iter().product::<usize>();
            let mut gradient = gradient.reshape([count]);
            if let Some(scale) = &self.scale {
                gradient = gradient * scale.clone();
            }
            let value = self.optimizer.update(&name, value.inner().reshape([count]), gradient, self.rate);
            Tensor::from_inner(value.reshape(shape)).require_grad()
        })
    }
}

/// Returns `min(1, limit / (norm + 1e-6))` of the global norm (torch's `clip_grad_norm_`), without waiting for the device.
fn clip_factor<M: Module>(module: &M, gradients: &Gradients, limit: f64) -> Option<Tensor<1>> {
    struct Visitor<'a>(&'a Gradients, Option<Tensor<1>>);
    impl ModuleVisitor for Visitor<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let Some(gradient) = param.val().grad(self.0) else { return };
            let squares = (gradient.clone() * gradient).sum();
            self.1 = Some(match self.1.take() {
                Some(sum) => sum + squares,
                None => squares,
            });
        }
    }
    let mut visitor = Visitor(gradients, None);
    module.visit(&mut visitor);
    Some(((visitor.1?.sqrt() + 1e-6).recip() * limit).clamp_max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{device, layers::Linear};

    fn module() -> Linear {
        let device = device::named("cpu").expect("always there");
        Linear {
            weight: Param::from_tensor(Tensor::from_floats([[1.0_f32, -2.0]], &device)),
            bias: Some(Param::from_tensor(Tensor::from_floats([0.5_f32], &device))),
        }
        .train()
    }

    /// Loss x w + b with x = (1, 2): the gradient is (1, 2) for the weight and 1 for the bias.
    fn gradients(module: &Linear) -> Gradients {
        let device = device::named("cpu").expect("always there").autodiff();
        module.forward(Tensor::<2>::from_floats([[1.0_f32, 2.0]], &device)).sum().backward()
    }

    fn values(module: &Linear) -> Vec<f32> {
        module.weight.val().into_data().iter::<f32>().collect()
    }

    fn close(got: &[f32], want: &[f64]) {
        for (got, want) in got.iter().zip(want) {
            assert!((f64::from(*got) - want).abs() < 1e-6, "{got:?} {want:?}");
        }
    }

    #[test]
    fn sgd_follows_its_definition() {
        let mut optimizer = Optimizer::new(Rule::Sgd { momentum: 0.9 }, None, |_| Group { rate: 2.0, decay: 0.1 });
        let mut module = module();
        let (mut p, mut buffer) = ([1.0_f64, -2.0], [0.0_f64; 2]);
        for _ in 0..3 {
            let gradients = gradients(&module);
            module = optimizer.step(module, gradients, 0.05);
            for (i, gradient) in [1.0, 2.0].into_iter().enumerate() {
                buffer[i] = 0.9 * buffer[i] + gradient + 0.1 * p[i];
                p[i] -= 0.1 * buffer[i];
            }
            close(&values(&module), &p);
        }
    }

    #[test]
    fn adamw_follows_its_definition_and_survives_a_restart() {
        let make = || Optimizer::new(Rule::adamw(), None, |_| Group { rate: 1.0, decay: 0.1 });
        let (mut optimizer, mut module) = (make(), module());
        let (mut p, mut m, mut v) = ([1.0_f64, -2.0], [0.0_f64; 2], [0.0_f64; 2]);
        for step in 1..4 {
            let gradients = gradients(&module);
            module = optimizer.step(module, gradients, 0.05);
            let mut fresh = make();
            fresh.restore(&optimizer.state(), &device::named("cpu").expect("always there"));
            optimizer = fresh;
            for (i, gradient) in [1.0_f64, 2.0].into_iter().enumerate() {
                m[i] = 0.9 * m[i] + 0.1 * gradient;
                v[i] = 0.999 * v[i] + 0.001 * gradient * gradient;
                let (mean, square) = (m[i] / (1.0 - 0.9_f64.powi(step)), v[i] / (1.0 - 0.999_f64.powi(step)));
                p[i] = p[i] * (1.0 - 0.05 * 0.1) - 0.05 * mean / (square.sqrt() + 1e-8);
            }
            close(&values(&module), &p);
        }
    }

    #[test]
    fn clipping_bounds_the_global_norm() {
        let mut optimizer = Optimizer::new(Rule::Sgd { momentum: 0.0 }, Some(1.0), |_| Group { rate: 1.0, decay: 0.0 });
        let module = module();
        let gradients = gradients(&module);
        let module = optimizer.step(module, gradients, 1.0);
        // The norm of (1, 2, 1) is sqrt 6.
        let norm = 6.0_f64.sqrt();
        close(&values(&module), &[1.0 - 1.0 / norm, -2.0 - 2.0 / norm]);
    }

    #[test]
    fn schedules_start_and_end_where_they_should() {
        assert_eq!(Schedule::Polynomial.factor(0, 10, 0), 1.0);
        assert!((Schedule::Polynomial.factor(5, 10, 0) - 0.5_f64.powf(0.9)).abs() < 1e-12);
        assert_eq!(Schedule::Cosine.factor(1, 10, 2), 1.0);
        assert_eq!(Schedule::Cosine.factor(0, 10, 2), 0.5);
        assert!(Schedule::Cosine.factor(10, 10, 2) < 1e-12);
        assert_eq!(Schedule::Constant.factor(7, 10, 0), 1.0);
    }
}
