//! Where each step of a run stands, and which step may move next. Runs nothing.
//!
//! ```text
//! Unknown ──inputs known──► Wanted ──prepared──► Cached
//!    ▲                         │──► Ready ──first action──► Running ──► Done
//!    └── a blob of an input is gone: the step waits again ◄────┘ └────► Failed ──► Skipped (all that depend on it)
//! ```

use crate::plan::Plan;

/// Where a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepState {
    /// Not asked for.
    Outside,
    /// Its inputs are not known yet.
    Unknown,
    /// Its inputs are known; what there is to do is not.
    Wanted,
    /// What there is to do is known; none of it has begun.
    Ready,
    /// Its actions run.
    Running,
    /// Its result was there.
    Cached,
    /// It has run.
    Done,
    /// It has failed.
    Failed,
    /// It was left out.
    Skipped,
}

impl StepState {
    /// Whether its result is known.
    pub fn has_result(self) -> bool {
        matches!(self, Self::Cached | Self::Done)
    }

    /// Whether nothing more will happen to it by itself.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Outside | Self::Cached | Self::Done | Self::Failed | Self::Skipped)
    }
}

/// The states of all steps of a plan.
#[derive(Debug)]
pub struct Board {
    states: Vec<StepState>,
    inputs: Vec<Vec<usize>>,
    dependents: Vec<Vec<usize>>,
}

impl Board {
    /// Makes the board of a plan, with the steps that are not `chosen` outside.
    pub fn new(plan: &Plan, chosen: &[bool]) -> Self {
        let inputs: Vec<Vec<usize>> =
            plan.steps.iter().map(|step| step.inputs.iter().map(|input| input.step).collect()).collect();
        let mut dependents = vec![Vec::new(); plan.steps.len()];
        for (step, inputs) in inputs.iter().enumerate().filter(|(step, _)| chosen[*step]) {
            for &input in inputs {
                if !dependents[input].contains(&step) {
                    dependents[input].push(step);
                }
            }
        }
        let states = chosen.iter().map(|chosen| if *chosen { StepState::Unknown } else { StepState::Outside });
        Self { states: states.collect(), inputs, dependents }
    }

    /// Returns where a step stands.
    pub fn state(&self, step: usize) -> StepState {
        self.states[step]
    }

    /// Moves a step.
    pub fn set(&mut self, step: usize, state: StepState) {
        self.states[step] = state;
    }

    /// Whether all inputs of a step are known.
    pub fn inputs_known(&self, step: usize) -> bool {
        self.inputs[step].iter().all(|input| self.states[*input].has_result())
    }

    /// Returns the steps that read from a step.
    pub fn dependents(&self, step: usize) -> &[usize] {
        &self.dependents[step]
    }

    /// Skips every step behind a failed one, and returns them with the nearest step that they wait for.
    pub fn skip_behind(&mut self, failed: usize) -> Vec<(usize, usize)> {
        let mut skipped = Vec::new();
        let mut stack = vec![failed];
        while let Some(step) = stack.pop() {
            for dependent in self.dependents[step].clone() {
                if !self.states[dependent].is_final() {
                    self.states[dependent] = StepState::Skipped;
                    skipped.push((dependent, step));
                    stack.push(dependent);
                }
            }
        }
        skipped
    }

    /// Returns the steps in one of the states that `which` picks.
    pub fn all(&self, which: impl Fn(StepState) -> bool) -> Vec<usize> {
        (0..self.states.len()).filter(|step| which(self.states[*step])).collect()
    }
}
