//! What the steps that have not run will take, from records of the same kind. A guess, and said to be one.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::plan::Step;
use crate::plan::action::Action;
use crate::store::Store;

/// A guess at what some steps take.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Estimate {
    /// The sum of the times of the steps, in seconds; steps that run side by side take less.
    pub seconds: f64,
    /// The sum of the sizes of their results, in bytes.
    pub bytes: u64,
    /// Kinds without a record, with the number of their steps.
    pub unknown: BTreeMap<&'static str, usize>,
}

/// Adds up what the steps would take: for each the median of the records of its kind whose parameters differ the least from
/// its own.
///
/// # Errors
/// If the records cannot be listed.
pub fn estimate<'a>(store: &Store, steps: impl IntoIterator<Item = &'a Step>) -> std::io::Result<Estimate> {
    let mut records: BTreeMap<String, Vec<(Value, f64, u64)>> = BTreeMap::new();
    for (key, record) in store.records()?.readable {
        // Shards are part of the whole's record; what was put together from shards that were there took no time.
        if record.output.is_none() || record.provenance.seconds <= 0.0 {
            continue;
        }
        let action = store.get(key).ok().and_then(|bytes| serde_json::from_slice::<Action>(&bytes).ok());
        let params = action.map_or(Value::Null, |action| action.params);
        let bytes = record.blobs.iter().map(|(_, size)| size).sum();
        records.entry(record.provenance.kind).or_default().push((params, record.provenance.seconds, bytes));
    }
    let mut estimate = Estimate::default();
    for step in steps {
        let kind = step.kind.spec().name;
        let Some(known) = records.get(kind) else {
            *estimate.unknown.entry(kind).or_default() += 1;
            continue;
        };
        let distances: Vec<usize> = known.iter().map(|(params, ..)| distance(params, &step.key_params)).collect();
        let nearest = distances.iter().min().copied().unwrap_or(0);
        let near = known.iter().zip(&distances).filter(|(_, distance)| **distance == nearest);
        let (mut seconds, mut bytes): (Vec<f64>, Vec<u64>) = near.map(|((_, time, size), _)| (*time, *size)).unzip();
        seconds.sort_by(f64::total_cmp);
        bytes.sort_unstable();
        estimate.seconds += seconds[seconds.len() / 2];
        estimate.bytes += bytes[bytes.len() / 2];
    }
    Ok(estimate)
}

/// Returns how many parameters of two stages differ.
fn distance(one: &Value, other: &Value) -> usize {
    match (one.as_object(), other.as_object()) {
        (Some(one), Some(other)) => {
            let differ = one.iter().filter(|(name, value)| other.get(*name) != Some(value)).count();
            differ + other.keys().filter(|name| !one.contains_key(*name)).count()
        }
        _ => usize::from(one != other),
    }
}
