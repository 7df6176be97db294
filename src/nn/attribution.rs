//! What a vision transformer's decision for a class rests on: relevance propagation through every layer (Chefer et al. 2021;
//! SPEC 2.4), or the cheaper gradient times attention, both rolled out over the blocks.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData, activation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::nn::layers::Linear;
use crate::nn::params;
use crate::nn::pass::Pass;
use crate::nn::vit::{Block, Trace, VitCam, merge};

/// The stabiliser of every division; added with its sign, as the reference program does.
const EPSILON: f64 = 1e-9;

/// What is rolled out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Attribution {
    /// Gradient times the relevance of the attention, propagated from the class down to the block (SPEC 2.4)
    #[default]
    Relevance,
    /// Gradient times the attention itself: a third of the time, less sharp
    GradientRollout,
}

/// A network that is asked for reasons.
pub struct Explainer {
    network: VitCam,
}

impl Explainer {
    /// Takes a network on a plain device. Nothing of it will train.
    pub fn new(network: VitCam) -> Self {
        Self { network: params::set_trainable(network, |_| false).train() }
    }

    /// Returns how much each patch counts for a class.
    ///
    /// # Shapes
    /// `x` is `[B, 3, image, image]` on the network's plain device and `classes` has one class for each of the B images; to see
    /// an image with several classes, repeat it. The result is `[B, patches]`.
    pub fn attribute(&self, x: Tensor<4>, classes: &[u8], attribution: Attribution) -> Tensor<2> {
        let x = Tensor::from_inner(x);
        // Relevances are badly conditioned, so that some ask for them in f64.
        let (device, precision) = (x.device(), x.dtype());
        let mut tokens = self.network.tokens(x, &Pass::inference());
        let [batch, count, _] = tokens.dims();
        let (mut probes, mut traces) = (Vec::new(), Vec::new());
        for block in &self.network.blocks {
            let probe = Tensor::<4>::zeros([batch, block.heads(), count, count], (&device, precision));
            let probe = probe.require_grad();
            let (out, trace) = block.forward(tokens, Some(probe.clone()));
            tokens = out;
            probes.push(probe);
            traces.push(trace.inner());
        }
        let (class_row, logits) = self.network.classify(tokens);
        let width = logits.dims()[1];
        let mut wanted = vec![0.0_f32; batch * width];
        for (row, &class) in classes.iter().enumerate() {
            wanted[row * width + usize::from(class)] = 1.0;
        }
        let plain = device.without_autodiff();
        let wanted = Tensor::<2>::from_data(TensorData::new(wanted, [batch, width]), &plain).cast(precision);
        let mut gradients = (logits * Tensor::from_inner(wanted.clone())).sum().backward();
        let relevances = match attribution {
            Attribution::GradientRollout => traces.into_iter().map(|trace| trace.attention).collect(),
            Attribution::Relevance => self.relevances(wanted, class_row.inner(), traces),
        };
        // Row 0 of (C_last + I) .. (C_0 + I).
        let mut row = Tensor::<3>::zeros([batch, 1, count], (&plain, precision));
        row = row.slice_fill([0..batch, 0..1, 0..1], 1.0);
        for (relevance, probe) in relevances.into_iter().zip(probes).rev() {
            let gradient = probe.grad_remove(&mut gradients).expect("every block's attention leads to the logits");
            // [B, heads, N, N] -> [B, N, N]
            let kept = activation::relu(gradient * relevance).mean_dim(1).squeeze_dim::<3>(1);
            row = row.clone() + row.matmul(kept);
        }
        row.squeeze_dim::<2>(1).narrow(1, 1, count - 1)
    }

    /// Returns the relevance of each block's attention, first block first: `[B, heads, N, N]`.
    fn relevances(&self, wanted: Tensor<2>, class_row: Tensor<2>, traces: Vec<Trace>) -> Vec<Tensor<4>> {
        let class_row = class_row.unsqueeze_dim::<3>(1);
        let relevance = through_linear(wanted.unsqueeze_dim::<3>(1), class_row.clone(), &self.network.head);
        // Only the class token goes on to the head; the final norm passes its relevance.
        let first = class_row.clone() * divide(relevance, class_row);
        let [batch, count, width] = traces[0].x0.dims();
        let rest = Tensor::zeros([batch, count - 1, width], (&first.device(), first.dtype()));
        let mut relevance = Tensor::cat(vec![first, rest], 1);
        let mut found = Vec::with_capacity(traces.len());
        for (block, trace) in self.network.blocks.iter().zip(traces).rev() {
            let (below, attention) = through_block(block, trace, relevance);
            relevance = below;
            found.push(attention);
        }
        found.reverse();
        found
    }
}

/// Step 3 of SPEC 2.4: the relevance of the block's input and of its attention.
fn through_block(block: &Block, trace: Trace, relevance: Tensor<3>) -> (Tensor<3>, Tensor<4>) {
    let (skip, branch) = through_sum(trace.x1.clone(), trace.z, relevance);
    let branch = through_linear(branch, trace.g, &block.mlp.fc2);
    let branch = through_linear(branch, trace.n2, &block.mlp.fc1);
    let relevance = through_fork(trace.x1, skip, branch);

    let (skip, branch) = through_sum(trace.x0.clone(), trace.y, relevance);
    let branch = through_linear(branch, trace.merged, &block.attn.proj);
    let [batch, heads, count, depth] = trace.heads.dims();
    let branch = branch.reshape([batch, count, heads, depth]).swap_dims(1, 2);
    let (attention, values) = through_product(trace.attention, trace.v, trace.heads, branch);
    let keys = trace.k.swap_dims(2, 3);
    let (queries, keys) = through_product(trace.q, keys, trace.dots, attention.clone());
    let parts = [queries, keys.swap_dims(2, 3), values].map(merge);
    let branch = through_linear(Tensor::cat(parts.to_vec(), 2), trace.n1, &block.attn.qkv);
    (through_fork(trace.x0, skip, branch), attention)
}

/// `a / (b + 1e-9)`, and 0 where b is 0.
fn divide<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    let zero = b.clone().equal_elem(0.0);
    let divisor = b + EPSILON;
    let vanishes = divisor.clone().equal_elem(0.0);
    (a / divisor.mask_fill(vanishes, EPSILON)).mask_fill(zero, 0.0)
}

/// Linear layer, alpha 1 and beta 0: positive inputs over positive weights and negative over negative; the bias does not count.
fn through_linear(relevance: Tensor<3>, x: Tensor<3>, layer: &Linear) -> Tensor<3> {
    let weight = layer.weight.val().inner().unsqueeze::<3>();
    let (positive, negative) = (weight.clone().clamp_min(0.0), weight.clamp_max(0.0));
    let (above, below) = (x.clone().clamp_min(0.0), x.clamp_max(0.0));
    let out =
        above.clone().matmul(positive.clone().swap_dims(1, 2)) + below.clone().matmul(negative.clone().swap_dims(1, 2));
    let share = divide(relevance, out);
    above * share.clone().matmul(positive) + below * share.matmul(negative)
}

/// `a + b`: each part by its size, and the totals of the parts in proportion to their absolute sums, over each image.
fn through_sum(a: Tensor<3>, b: Tensor<3>, relevance: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
    let total = |x: &Tensor<3>| x.clone().sum_dim(2).sum_dim(1);
    let share = divide(relevance.clone(), a.clone() + b.clone());
    let (a, b) = (a * share.clone(), b * share);
    let (sum_a, sum_b, sum) = (total(&a), total(&b), total(&relevance));
    let both = sum_a.clone().abs() + sum_b.clone().abs();
    let scaled = |part: Tensor<3>, own: Tensor<3>| {
        let due = divide(own.clone().abs(), both.clone()) * sum.clone();
        part * divide(due, own)
    };
    (scaled(a, sum_a), scaled(b, sum_b))
}

/// x used twice.
fn through_fork(x: Tensor<3>, one: Tensor<3>, other: Tensor<3>) -> Tensor<3> {
    x.clone() * (divide(one, x.clone()) + divide(other, x))
}

/// `out = p q`: half of the relevance to each.
fn through_product(p: Tensor<4>, q: Tensor<4>, out: Tensor<4>, relevance: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    let share = divide(relevance, out);
    let to_p = p.clone() * share.clone().matmul(q.clone().swap_dims(2, 3)) * 0.5;
    let to_q = q * p.swap_dims(2, 3).matmul(share) * 0.5;
    (to_p, to_q)
}
