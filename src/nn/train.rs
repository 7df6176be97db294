//! The training loop: seeded order, batches decoded while a step runs, loss, optimiser, reports. Knows no network, no data
//! set and no engine; they come in as closures.

use std::sync::mpsc::sync_channel;

use burn::module::Module;
use burn::tensor::Tensor;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::artifact::weights::NamedTensors;
use crate::digest::Digest;
use crate::nn::optim::{Optimizer, Schedule};
use crate::nn::params;
use crate::nn::pass::Pass;

/// The frame of a training.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Number of items (images).
    pub items: usize,
    /// Items in a batch.
    pub batch: usize,
    /// How often each item is seen.
    pub epochs: usize,
    /// Whether a last, smaller batch of each epoch is left out.
    pub drop_last: bool,
    /// Learning rate of a group with rate 1.
    pub rate: f64,
    /// How it moves.
    pub schedule: Schedule,
    /// Steps over which it rises at first.
    pub warmup: usize,
    /// The seed of order, augmentation and dropout.
    pub seed: u64,
    /// The learning rate of each epoch, for recipes that move it from epoch to epoch; empty where `rate`, `schedule` and `warmup`
    /// say it for each step.
    pub epoch_rates: Vec<f64>,
}

impl Recipe {
    /// Returns the number of steps in an epoch, at least one.
    pub fn steps_per_epoch(&self) -> usize {
        let batch = self.batch.max(1);
        if self.drop_last && self.items >= batch { self.items / batch } else { self.items.div_ceil(batch) }.max(1)
    }

    /// Returns the number of steps in all.
    pub fn steps(&self) -> usize {
        self.steps_per_epoch() * self.epochs
    }

    /// Returns the learning rate of a step.
    pub fn rate_at(&self, position: Position) -> f64 {
        match self.epoch_rates.get(position.epoch).or(self.epoch_rates.last()) {
            Some(&rate) => rate,
            None => self.rate * self.schedule.factor(position.step, position.steps, self.warmup),
        }
    }

    /// Returns the items in the order in which an epoch sees them.
    pub fn order(&self, epoch: usize) -> Vec<usize> {
        let mut random = generator(self.seed, "order", epoch, 0);
        let mut order: Vec<usize> = (0..self.items).collect();
        for i in (1..order.len()).rev() {
            // The remainder's bias is below 2^-32 for any number of images that there can be.
            order.swap(i, (random.next_u64() % (i as u64 + 1)) as usize);
        }
        order
    }
}

/// One item to be loaded.
pub struct Sample {
    /// Which item.
    pub index: usize,
    /// In which epoch, from 0.
    pub epoch: usize,
    /// Random numbers of its own: the same for the same seed, epoch and index, whatever else happens.
    pub random: ChaCha8Rng,
}

/// Where a training is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The step, from 0.
    pub step: usize,
    /// The number of steps in all.
    pub steps: usize,
    /// The epoch, from 0.
    pub epoch: usize,
}

/// What a training has to say. Losses are means over the steps since the last report.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Steps done.
    pub done: usize,
    /// Steps in all.
    pub steps: usize,
    /// Mean loss.
    pub loss: f64,
    /// Learning rate of a group with rate 1.
    pub rate: f64,
}

/// What a training is connected to.
pub struct Hooks<'a> {
    /// Called every [`REPORT_EVERY`] steps and at the end.
    pub report: &'a dyn Fn(Progress),
    /// Asked before every step.
    pub cancelled: &'a dyn Fn() -> bool,
    /// Keeps snapshots, so that the training survives an interruption; `None` where it need not.
    pub keeper: Option<&'a dyn Keeper>,
}

/// All that a training needs to go on: order, augmentation and dropout follow from the seed and the step.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Steps done.
    pub done: usize,
    /// The network, buffers included.
    pub network: NamedTensors,
    /// The optimiser's state, as [`Optimizer::state`] returns it.
    pub optimizer: NamedTensors,
}

/// Where snapshots go.
pub trait Keeper {
    /// Returns the last snapshot, if there is one.
    fn last(&self) -> Option<Snapshot>;

    /// Whether it is time for a snapshot, after `done` steps.
    fn due(&self, done: usize) -> bool;

    /// Takes a snapshot: when it is due, and when the training is stopped.
    fn keep(&self, snapshot: Snapshot);

    /// Hears that the last snapshot does not fit this training, which starts afresh.
    fn unfit(&self, why: String);
}

/// Steps between two reports. Reading a loss waits for the device, so it is not done at every step.
pub const REPORT_EVERY: usize = 10;

/// Why a training ended early.
#[derive(Debug, thiserror::Error)]
pub enum TrainError<E> {
    /// The user asked for it.
    #[error("stopped")]
    Cancelled,
    /// The loss is no number any more.
    #[error("the loss is {value} at step {step} of {steps}")]
    NotFinite {
        /// The first such step, counted from 1.
        step: usize,
        /// Steps in all.
        steps: usize,
        /// NaN or an infinity.
        value: f32,
    },
    /// There is nothing to train on.
    #[error("there is no image to train on")]
    Empty,
    /// An item could not be loaded.
    #[error(transparent)]
    Load(E),
}

/// Returns a generator for one purpose.
pub fn generator(seed: u64, purpose: &str, epoch: usize, index: usize) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(Digest::of(format!("{seed}/{purpose}/{epoch}/{index}").as_bytes()).to_u64())
}

/// Trains `model` and returns it, without automatic differentiation, ready for inference.
///
/// `load` makes one item, on threads, ahead of the step that needs it. `loss` runs the network on one batch and returns the
/// loss, `[1]`. Parameters that shall not train are frozen beforehand ([`crate::nn::params::set_trainable`]).
///
/// The result depends on the recipe, the optimiser, the initial values and the closures; not on the number of threads that
/// load. A training that is stopped and goes on from a snapshot of its keeper ends in the same bytes as one that is not, on a
/// device that gives the same bytes twice.
///
/// # Errors
/// If the user stops it, an item cannot be loaded, or the loss is not finite.
pub fn fit<M, T, E>(
    model: M,
    recipe: &Recipe,
    optimizer: &mut Optimizer,
    hooks: &Hooks<'_>,
    load: impl Fn(Sample) -> Result<T, E> + Sync,
    mut loss: impl FnMut(&M, Vec<T>, &Pass, Position) -> Tensor<1>,
) -> Result<M, TrainError<E>>
where
    M: Module,
    T: Send,
    E: Send,
{
    if recipe.items == 0 {
        return Err(TrainError::Empty);
    }
    let steps = recipe.steps();
    let mut meter = Meter { pending: Vec::new(), steps };
    let (model, first) = resume(model, steps, optimizer, hooks.keeper);
    std::thread::scope(|scope| {
        let mut model = model.train();
        let (sender, receiver) = sync_channel(2);
        let load = &load;
        scope.spawn(move || {
            let length = recipe.steps_per_epoch();
            for epoch in first / length..recipe.epochs {
                let order = recipe.order(epoch);
                let skipped = first.saturating_sub(epoch * length);
                for indices in order.chunks(recipe.batch.max(1)).take(length).skip(skipped) {
                    let items: Result<Vec<T>, E> = indices
                        .par_iter()
                        .map(|&index| {
                            let random = generator(recipe.seed, "item", epoch, index);
                            load(Sample { index, epoch, random })
                        })
                        .collect();
                    let failed = items.is_err();
                    if sender.send((epoch, items)).is_err() || failed {
                        return;
                    }
                }
            }
        });
        for step in first..steps {
            let stopped = (hooks.cancelled)();
            if let Some(keeper) = hooks.keeper
                && step > first
                && (stopped || keeper.due(step))
            {
                // A loss that is no number must not be gone on from.
                meter.check()?;
                let network = params::export(&model.valid());
                keeper.keep(Snapshot { done: step, network, optimizer: optimizer.state() });
            }
            if stopped {
                return Err(TrainError::Cancelled);
            }
            // The loader ends early only after an error that it has sent, or by a panic that the scope passes on.
            let Ok((epoch, items)) = receiver.recv() else { return Err(TrainError::Cancelled) };
            let items = items.map_err(TrainError::Load)?;
            let pass = Pass::training(generator(recipe.seed, "dropout", 0, step).next_u64());
            let position = Position { step, steps, epoch };
            let value = loss(&model, items, &pass, position);
            meter.pending.push((step, value.clone().inner()));
            let rate = recipe.rate_at(position);
            model = optimizer.step(model, value.backward(), rate);
            if (step + 1) % REPORT_EVERY == 0 || step + 1 == steps {
                let loss = meter.read()?;
                (hooks.report)(Progress { done: step + 1, steps, loss, rate });
            }
        }
        Ok(model.valid())
    })
}

/// Takes over the last snapshot and returns the network with the number of steps that it has done.
fn resume<M: Module>(model: M, steps: usize, optimizer: &mut Optimizer, keeper: Option<&dyn Keeper>) -> (M, usize) {
    let Some((keeper, snapshot)) = keeper.and_then(|keeper| Some((keeper, keeper.last()?))) else { return (model, 0) };
    if snapshot.done > steps {
        keeper.unfit(format!("it has {} steps of {steps}", snapshot.done));
        return (model, 0);
    }
    let Some(device) = model.devices().into_iter().next() else { return (model, 0) };
    match params::load_strict(model.clone(), &snapshot.network) {
        Ok(model) => {
            optimizer.restore(&snapshot.optimizer, &device.without_autodiff());
            (model, snapshot.done)
        }
        Err(mismatch) => {
            keeper.unfit(mismatch.to_string());
            (model, 0)
        }
    }
}

/// Losses that have not been read from the device yet.
struct Meter {
    pending: Vec<(usize, Tensor<1>)>,
    steps: usize,
}

impl Meter {
    /// Returns the mean loss since the last time.
    fn read<E>(&mut self) -> Result<f64, TrainError<E>> {
        self.check()?;
        let (count, mut sum) = (self.pending.len() as f64, 0.0);
        for (_, loss) in self.pending.drain(..) {
            sum += f64::from(loss.into_scalar::<f32>());
        }
        Ok(sum / count)
    }

    /// Refuses losses that are no numbers.
    fn check<E>(&self) -> Result<(), TrainError<E>> {
        for (step, loss) in &self.pending {
            let value: f32 = loss.clone().into_scalar();
            if !value.is_finite() {
                return Err(TrainError::NotFinite { step: step + 1, steps: self.steps, value });
            }
        }
        Ok(())
    }
}
