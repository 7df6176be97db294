//! The plans of all points as one: steps that are the same in kind, parameters, seed and everything above them are one step.

use std::collections::{BTreeMap, BTreeSet};

use super::Point;
use super::expand::Combination;
use crate::diag::Span;
use crate::plan::{Connection, Plan, Step};

/// Returns the plan with the named stages and what they need alone; the whole plan if none is named.
pub(super) fn only(plan: Plan, targets: &[(String, Span)]) -> Plan {
    if targets.is_empty() {
        return plan;
    }
    let mut wanted: Vec<bool> =
        plan.steps.iter().map(|step| targets.iter().any(|(target, _)| *target == step.name)).collect();
    // Steps stand after those they read from.
    for step in (0..plan.steps.len()).rev() {
        if wanted[step] {
            for input in &plan.steps[step].inputs {
                wanted[input.step] = true;
            }
        }
    }
    let mut place = Vec::with_capacity(plan.steps.len());
    let mut count = 0;
    for wanted in &wanted {
        place.push(count);
        count += usize::from(*wanted);
    }
    let kept = plan.steps.into_iter().zip(&wanted).filter(|(_, wanted)| **wanted).map(|(mut step, _)| {
        for input in &mut step.inputs {
            input.step = place[input.step];
        }
        step
    });
    Plan { steps: kept.collect(), pipeline: plan.pipeline, seed: plan.seed }
}

/// Makes one plan of many.
pub(super) fn merge(name: &str, combinations: Vec<Combination<'_>>, plans: Vec<Plan>) -> (Plan, Vec<Point>) {
    let seed = plans.first().map_or(0, |plan| plan.seed);
    let mut steps: Vec<Step> = Vec::new();
    let mut users: Vec<Vec<usize>> = Vec::new();
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    let mut points = Vec::new();
    for (at, (combination, plan)) in combinations.into_iter().zip(plans).enumerate() {
        let mut place = Vec::with_capacity(plan.steps.len());
        let mut own = Vec::with_capacity(plan.steps.len());
        for mut step in plan.steps {
            for input in &mut step.inputs {
                input.step = place[input.step];
            }
            let index = *known.entry(sameness(&step)).or_insert(steps.len());
            place.push(index);
            own.push((step.name.clone(), index));
            if index == steps.len() {
                steps.push(step);
                users.push(Vec::new());
            }
            if users[index].last() != Some(&at) {
                users[index].push(at);
            }
        }
        let Combination { name, group, seed, values, .. } = combination;
        points.push(Point { name, group, seed, values, steps: own });
    }
    rename(&mut steps, &users, &points);
    (Plan { pipeline: name.to_owned(), seed, steps }, points)
}

/// Returns what a step's result can depend on, as text: everything but its name. Parameters that are not part of a key are in
/// it, such as the number of images of a drawn set, as they can decide what its sources are.
fn sameness(step: &Step) -> String {
    let spec = step.kind.spec();
    let inputs: Vec<(&str, usize)> = step.inputs.iter().map(|Connection { port, step, .. }| (*port, *step)).collect();
    let seed = spec.seeded.then_some(step.seed);
    serde_json::json!([spec.name, spec.revision, step.run.params(), seed, inputs]).to_string()
}

/// Gives every step a name of its own: that of the stage where all points share it, else with what its points have in common.
fn rename(steps: &mut [Step], users: &[Vec<usize>], points: &[Point]) {
    let mut taken = BTreeSet::new();
    for (step, users) in steps.iter_mut().zip(users) {
        let mut candidates = Vec::new();
        if users.len() == points.len() {
            candidates.push(step.name.clone());
        }
        let first: Vec<&str> = points[users[0]].name.split('/').collect();
        let common: Vec<&str> = first
            .iter()
            .copied()
            .filter(|part| users.iter().all(|user| points[*user].name.split('/').any(|other| other == *part)))
            .collect();
        if !common.is_empty() {
            candidates.push(format!("{}@{}", step.name, common.join("/")));
        }
        candidates.push(format!("{}@{}", step.name, first.join("/")));
        let free = candidates.iter().find(|name| !taken.contains(*name)).cloned();
        // Two stages of one point have different names, so that the last candidate is free unless a base uses `@`-like names.
        let name = free.unwrap_or_else(|| format!("{}@{}+{}", step.name, first.join("/"), taken.len()));
        taken.insert(name.clone());
        step.name = name;
    }
}
