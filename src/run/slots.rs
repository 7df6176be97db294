//! What a run has of its machine, and which action has what of it: cores, memory, and devices as slots, each of which one action
//! at a time has. Runs nothing.

use std::collections::{BTreeSet, VecDeque};

use crate::diag::Diagnostic;
use crate::plan::{Plan, Step};
use crate::stage::Devices;

/// The devices of a run.
///
/// A name with a colon, such as `cuda:0`, is a card of its own: a slot. Any other one, such as `cpu`, is the processor, on which
/// everything runs that has no slot, side by side. A card that is named twice has two slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Where actions without a slot compute.
    pub processor: String,
    /// The device of each slot.
    pub slots: Vec<String>,
}

impl Names {
    /// Sorts the names that the user gave.
    ///
    /// # Errors
    /// If there is more than one processor; a sentence.
    pub fn of<S: AsRef<str>>(names: &[S]) -> Result<Self, String> {
        let names = names.iter().map(|name| name.as_ref().trim()).filter(|name| !name.is_empty());
        let (slots, processors): (Vec<&str>, Vec<&str>) = names.partition(|name| name.contains(':'));
        match processors[..] {
            [first, second, ..] => Err(format!("`{first}` and `{second}` are both this machine's processor; name one")),
            _ => Ok(Self {
                processor: processors.first().map_or("cpu", |name| name).to_owned(),
                slots: slots.into_iter().map(str::to_owned).collect(),
            }),
        }
    }

    /// Returns how many slots an action of a step takes.
    pub fn wanted(&self, step: &Step) -> usize {
        if self.slots.is_empty() {
            return 0;
        }
        let said = step.resources.gpus.map(|gpus| gpus as usize);
        match step.kind.devices() {
            Devices::None => 0,
            Devices::One => said.unwrap_or(1).min(1),
            Devices::Any => said.unwrap_or(0),
        }
    }

    /// Returns the name of the device on which an action with these slots computes.
    pub fn device(&self, step: &Step, slots: &[usize]) -> String {
        match (slots, step.kind.devices()) {
            ([], Devices::None) => "cpu".to_owned(),
            ([], _) => self.processor.clone(),
            _ => slots.iter().map(|slot| self.slots[*slot].as_str()).collect::<Vec<_>>().join(","),
        }
    }

    /// Returns all names as one text.
    pub fn text(&self) -> String {
        if self.slots.is_empty() { self.processor.clone() } else { self.slots.join(",") }
    }

    /// Refuses steps that want more slots than there are.
    ///
    /// # Errors
    /// One diagnostic a step.
    pub fn check(&self, plan: &Plan, chosen: &[bool]) -> Result<(), Vec<Diagnostic>> {
        let short = |step: &&Step| self.wanted(step) > self.slots.len();
        let steps = plan.steps.iter().zip(chosen).filter(|(_, chosen)| **chosen).map(|(step, _)| step);
        let wrong: Vec<Diagnostic> = steps
            .filter(short)
            .map(|step| {
                let (wanted, number) = (self.wanted(step), self.slots.len());
                let title = format!("stage `{}` asks for {wanted} GPUs, and the run has {number}", step.name);
                let fault = Diagnostic::new(title).at(step.span.clone(), "");
                fault.help("name more with `--devices`, or set `resources.gpus` of the stage")
            })
            .collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}

/// What an action takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Demand {
    slots: usize,
    cores: usize,
    memory: u64,
}

impl Demand {
    /// Returns what a look at a step takes.
    pub(super) fn look() -> Self {
        Self { slots: 0, cores: 1, memory: 0 }
    }

    /// Returns what an action of a step takes. One on a card mostly waits for it, so that it counts for no core unless the
    /// pipeline says otherwise.
    pub(super) fn of(step: &Step, names: &Names) -> Self {
        let slots = names.wanted(step);
        let cores = step.resources.cpus.map_or(usize::from(slots == 0), |cpus| cpus as usize);
        Self { slots, cores, memory: step.resources.memory.unwrap_or(0) }
    }
}

/// What an action has.
#[derive(Clone, Debug, Default)]
pub(super) struct Share {
    /// Its slots, in order.
    pub(super) slots: Vec<usize>,
    cores: usize,
    memory: u64,
}

/// Why an action has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Short {
    Slots,
    Host,
}

/// What nobody has now.
#[derive(Debug)]
pub(super) struct Pool {
    all_slots: usize,
    all_cores: usize,
    all_memory: u64,
    slots: BTreeSet<usize>,
    cores: usize,
    memory: u64,
}

impl Pool {
    /// Makes a pool of which everything is free.
    pub(super) fn new(slots: usize, cores: usize, memory: Option<u64>) -> Self {
        let (cores, memory) = (cores.max(1), memory.unwrap_or(u64::MAX));
        Self { all_slots: slots, all_cores: cores, all_memory: memory, slots: (0..slots).collect(), cores, memory }
    }

    /// Takes what an action needs. One that asks for more than there is at all gets all there is.
    fn take(&mut self, demand: Demand) -> Result<Share, Short> {
        let (slots, cores, memory) =
            (demand.slots.min(self.all_slots), demand.cores.min(self.all_cores), demand.memory.min(self.all_memory));
        if slots > self.slots.len() {
            return Err(Short::Slots);
        }
        if cores > self.cores || memory > self.memory {
            return Err(Short::Host);
        }
        self.cores -= cores;
        self.memory -= memory;
        let slots = (0..slots).filter_map(|_| self.slots.pop_first()).collect();
        Ok(Share { slots, cores, memory })
    }

    /// Takes back what an action had.
    pub(super) fn give_back(&mut self, share: Share) {
        self.slots.extend(share.slots);
        self.cores += share.cores;
        self.memory += share.memory;
    }
}

/// What waits for a share, in the order in which it is served: those that need slots in one row, all others in another. Nobody
/// overtakes within a row, so that one who needs much is not kept waiting by many who need little.
#[derive(Debug)]
pub(super) struct Queue<J> {
    host: VecDeque<(Demand, J)>,
    devices: VecDeque<(Demand, J)>,
}

impl<J> Queue<J> {
    /// Makes an empty queue.
    pub(super) fn new() -> Self {
        Self { host: VecDeque::new(), devices: VecDeque::new() }
    }

    fn row(&mut self, demand: Demand) -> &mut VecDeque<(Demand, J)> {
        if demand.slots > 0 { &mut self.devices } else { &mut self.host }
    }

    /// Adds at the end.
    pub(super) fn push_back(&mut self, demand: Demand, job: J) {
        self.row(demand).push_back((demand, job));
    }

    /// Adds in front.
    pub(super) fn push_front(&mut self, demand: Demand, job: J) {
        self.row(demand).push_front((demand, job));
    }

    /// Takes the next one that can have what it needs. Devices are what a run waits for, so that their row comes first, and who is
    /// next there and lacks cores or memory alone keeps the others from taking them.
    pub(super) fn pop(&mut self, pool: &mut Pool) -> Option<(J, Share)> {
        for row in [&mut self.devices, &mut self.host] {
            let Some((demand, _)) = row.front() else { continue };
            match pool.take(*demand) {
                Ok(share) => return row.pop_front().map(|(_, job)| (job, share)),
                Err(Short::Slots) => {}
                Err(Short::Host) => return None,
            }
        }
        None
    }

    /// Keeps those that `keep` picks.
    pub(super) fn retain(&mut self, keep: impl Fn(&J) -> bool) {
        for row in [&mut self.devices, &mut self.host] {
            row.retain(|(_, job)| keep(job));
        }
    }

    /// Removes everything.
    pub(super) fn clear(&mut self) {
        self.retain(|_| false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(slots: usize, cores: usize, memory: u64) -> Demand {
        Demand { slots, cores, memory }
    }

    #[test]
    fn names_with_a_colon_are_slots() {
        let names = Names::of(&["cuda:0", " libtorch", "cuda:0"]).expect("one processor");
        assert_eq!((names.processor.as_str(), names.slots.len()), ("libtorch", 2));
        assert_eq!(Names::of(&["cuda:1"]).map(|names| names.processor), Ok("cpu".to_owned()));
        assert!(Names::of(&["cpu", "libtorch"]).is_err());
    }

    #[test]
    fn a_slot_is_had_by_one_and_host_work_goes_past_those_who_wait_for_one() {
        let mut pool = Pool::new(2, 2, None);
        let mut queue = Queue::new();
        for name in ["a", "b", "c"] {
            queue.push_back(demand(1, 0, 0), name);
        }
        for name in ["x", "y", "z"] {
            queue.push_back(demand(0, 1, 0), name);
        }
        let mut have = Vec::new();
        while let Some((name, share)) = queue.pop(&mut pool) {
            have.push((name, share));
        }
        let names: Vec<_> = have.iter().map(|(name, share)| (*name, share.slots.clone())).collect();
        assert_eq!(names, [("a", vec![0]), ("b", vec![1]), ("x", vec![]), ("y", vec![])]);
        pool.give_back(have.remove(1).1);
        assert_eq!(queue.pop(&mut pool).map(|(name, share)| (name, share.slots)), Some(("c", vec![1])));
        assert!(queue.pop(&mut pool).is_none());
    }

    #[test]
    fn nobody_overtakes_one_who_needs_much() {
        let mut pool = Pool::new(0, 8, Some(10));
        let mut queue = Queue::new();
        queue.push_back(demand(0, 1, 6), "first");
        queue.push_back(demand(0, 1, 6), "second");
        queue.push_back(demand(0, 1, 1), "small");
        queue.push_back(demand(0, 99, 99), "all");
        let (name, share) = queue.pop(&mut pool).expect("there is room");
        assert_eq!(name, "first");
        assert!(queue.pop(&mut pool).is_none());
        pool.give_back(share);
        let (_, second) = queue.pop(&mut pool).expect("there is room again");
        let (name, small) = queue.pop(&mut pool).expect("both fit");
        assert_eq!(name, "small");
        assert!(queue.pop(&mut pool).is_none(), "it needs everything");
        pool.give_back(second);
        pool.give_back(small);
        assert_eq!(queue.pop(&mut pool).map(|(name, _)| name), Some("all"), "more than all there is gets all there is");
    }
}
