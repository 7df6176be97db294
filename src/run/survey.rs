//! What is known of each step before anything runs. Runs nothing and writes nothing.

use std::sync::Arc;
use std::time::Instant;

use super::worker::guard;
use super::{Outcome, Status, StepOutcome, why};
use crate::diag::Diagnostic;
use crate::plan::prepare::{Artifact, Need, Planner, Prepared, Trouble};
use crate::plan::{Plan, Step};
use crate::store::Store;

/// What is said of a step whose result is known and not here.
const ELSEWHERE: &str = "its bytes are elsewhere, and nothing here needs them";

/// The same where whoever needs them can have them.
const REMOTE: &str = "in the remote cache";

/// What is known of each step before anything runs.
#[derive(Debug)]
pub struct Survey {
    pub(super) standings: Vec<Standing>,
    seconds: f64,
}

#[derive(Debug)]
pub(super) enum Standing {
    Outside,
    /// It waits for the step with this index.
    Waits(usize),
    Known(Arc<Prepared>),
}

impl Survey {
    /// Looks at every chosen step whose inputs are there already. Runs nothing and writes nothing.
    ///
    /// # Errors
    /// Everything that the stages refuse.
    pub fn of(plan: &Plan, chosen: &[bool], planner: &Planner<'_>) -> Result<Self, Vec<Diagnostic>> {
        let clock = Instant::now();
        let mut outputs: Vec<Option<Artifact>> = vec![None; plan.steps.len()];
        let mut standings = Vec::with_capacity(plan.steps.len());
        let mut wrong = Vec::new();
        let wanted = wanted(plan, chosen);
        for (index, step) in plan.steps.iter().enumerate() {
            if !chosen[index] {
                standings.push(Standing::Outside);
                continue;
            }
            let inputs = inputs(step, &outputs);
            let standing = match inputs {
                Err(missing) => Standing::Waits(missing),
                Ok(inputs) => match prepare(planner, step, &inputs, Bytes::of(wanted[index])) {
                    Err(Trouble { lost: Some(lost), .. }) => {
                        let makers: Vec<usize> = (0..index)
                            .filter(|maker| outputs[*maker].as_ref().is_some_and(|output| output.digest == lost))
                            .collect();
                        for &maker in &makers {
                            standings[maker] = again(plan, planner, maker, &outputs, &mut wrong);
                            outputs[maker] = None;
                        }
                        Standing::Waits(makers.first().copied().unwrap_or(index))
                    }
                    Err(trouble) => {
                        wrong.push(trouble.diagnostic(step));
                        Standing::Waits(index)
                    }
                    Ok(prepared) => {
                        if let Need::Nothing(artifact) | Need::Assembly(artifact) = &prepared.need {
                            outputs[index] = Some(artifact.clone());
                        }
                        Standing::Known(Arc::new(prepared))
                    }
                },
            };
            standings.push(standing);
        }
        if wrong.is_empty() { Ok(Self { standings, seconds: clock.elapsed().as_secs_f64() }) } else { Err(wrong) }
    }

    /// Returns what there is to do for a step, if that is known.
    pub(crate) fn prepared(&self, step: usize) -> Option<&Arc<Prepared>> {
        match self.standings.get(step)? {
            Standing::Known(prepared) => Some(prepared),
            Standing::Outside | Standing::Waits(_) => None,
        }
    }

    /// Returns how long it took, in seconds.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    /// Returns the steps as a plan shows them.
    pub fn outcome(&self, plan: &Plan, store: &Store) -> Outcome {
        let steps = self.standings.iter().enumerate().filter_map(|(index, standing)| {
            let (status, reason, key, output) = match standing {
                Standing::Outside => return None,
                Standing::Waits(above) => {
                    (Status::Unknown, format!("waits for {}", plan.steps[*above].name), None, None)
                }
                Standing::Known(prepared) => match &prepared.need {
                    Need::Nothing(artifact) | Need::Assembly(artifact) => {
                        let reason = match artifact.elsewhere {
                            false => "",
                            true if store.has_remote() => REMOTE,
                            true => ELSEWHERE,
                        };
                        (Status::Cached, reason.to_owned(), Some(prepared.key), Some(artifact.clone()))
                    }
                    _ => (Status::ToRun, why::why(plan, &plan.steps[index], prepared, store), Some(prepared.key), None),
                },
            };
            Some(StepOutcome { step: index, status, reason, key, output, seconds: 0.0 })
        });
        Outcome { steps: steps.collect(), interrupted: false, lost: None, seconds: self.seconds }
    }
}

/// Returns the artifacts on a step's ports, or the first step that has none yet.
fn inputs(step: &Step, outputs: &[Option<Artifact>]) -> Result<Vec<Artifact>, usize> {
    step.inputs.iter().map(|input| outputs[input.step].clone().ok_or(input.step)).collect()
}

/// Looks again at a step whose result turned out to be gone.
fn again(
    plan: &Plan,
    planner: &Planner<'_>,
    step: usize,
    outputs: &[Option<Artifact>],
    wrong: &mut Vec<Diagnostic>,
) -> Standing {
    let placed = &plan.steps[step];
    match inputs(placed, outputs) {
        Err(missing) => Standing::Waits(missing),
        Ok(inputs) => match prepare(planner, placed, &inputs, Bytes::Anywhere) {
            Ok(prepared) => Standing::Known(Arc::new(prepared)),
            // Its own inputs are gone as well: the run makes them again, one after the other.
            Err(Trouble { lost: Some(_), .. }) => Standing::Waits(step),
            Err(trouble) => {
                wrong.push(trouble.diagnostic(placed));
                Standing::Waits(step)
            }
        },
    }
}

/// Returns of each step whether its bytes are asked for: of those that no chosen step reads.
pub(crate) fn wanted(plan: &Plan, chosen: &[bool]) -> Vec<bool> {
    let mut wanted = chosen.to_vec();
    for (step, _) in plan.steps.iter().zip(chosen).filter(|(_, chosen)| **chosen) {
        for input in &step.inputs {
            wanted[input.step] = false;
        }
    }
    wanted
}

/// What is asked of the bytes of a result that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bytes {
    /// Nothing: they may be elsewhere.
    Anywhere,
    /// That they can be had.
    Reachable,
    /// That they are here.
    Here,
}

impl Bytes {
    pub(crate) fn of(wanted: bool) -> Self {
        if wanted { Self::Reachable } else { Self::Anywhere }
    }
}

/// Prepares a step; a panic of the stage is a trouble like any other. Where its bytes are asked for a record alone is not enough.
pub(crate) fn prepare(
    planner: &Planner<'_>,
    step: &Step,
    inputs: &[Artifact],
    bytes: Bytes,
) -> Result<Prepared, Trouble> {
    let work = || {
        let mut prepared = planner.prepare(step, inputs)?;
        let remote = planner.has_remote();
        let there = match bytes {
            Bytes::Anywhere => true,
            Bytes::Reachable => remote,
            Bytes::Here => remote && planner.fetch(&prepared),
        };
        match &mut prepared.need {
            Need::Nothing(artifact) if artifact.elsewhere && there => {
                artifact.elsewhere = bytes != Bytes::Here;
                Ok(prepared)
            }
            Need::Nothing(artifact) if artifact.elsewhere => {
                planner.refuse(artifact.digest);
                planner.prepare(step, inputs)
            }
            // Shards that did not come are no hits any more.
            Need::Assembly(_) | Need::Shards { .. } if bytes == Bytes::Here && remote && !there => {
                planner.prepare(step, inputs)
            }
            _ => Ok(prepared),
        }
    };
    guard(work).unwrap_or_else(|panic| {
        let help = Some("this is a bug of the stage".to_owned());
        Err(Trouble { message: panic, help, parameter: None, lost: None })
    })
}
