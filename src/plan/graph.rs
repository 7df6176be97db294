//! Order, ancestors and cycles of the graph of steps. The only file that knows petgraph; knows steps by their index alone.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};

use petgraph::Direction;
use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::{Dfs, Reversed};

use super::Plan;

/// From so many steps of a knot a cycle is looked for; each look goes through all of it.
const TRIED: usize = 500;

/// A graph whose edges run from a step to those that read from it.
#[derive(Debug)]
pub struct StepGraph(DiGraph<(), ()>);

impl StepGraph {
    /// Makes a graph of `count` steps from the edges (producer, reader).
    pub fn new(count: usize, edges: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let mut graph = DiGraph::with_capacity(count, 0);
        for _ in 0..count {
            graph.add_node(());
        }
        for (producer, reader) in edges {
            graph.update_edge(NodeIndex::new(producer), NodeIndex::new(reader), ());
        }
        Self(graph)
    }

    /// Makes the graph of a plan.
    pub fn of(plan: &Plan) -> Self {
        let edges = plan
            .steps
            .iter()
            .enumerate()
            .flat_map(|(reader, step)| step.inputs.iter().map(move |connection| (connection.step, reader)));
        Self::new(plan.steps.len(), edges)
    }

    /// Returns the steps so that each stands after those it reads from; of those that could come next, the one with the
    /// smallest index does. Steps on and behind a cycle are left out.
    pub fn order(&self) -> Vec<usize> {
        let mut missing: Vec<usize> =
            self.0.node_indices().map(|node| self.0.neighbors_directed(node, Direction::Incoming).count()).collect();
        let mut ready: BinaryHeap<Reverse<usize>> =
            missing.iter().enumerate().filter(|(_, count)| **count == 0).map(|(step, _)| Reverse(step)).collect();
        let mut order = Vec::with_capacity(missing.len());
        while let Some(Reverse(step)) = ready.pop() {
            order.push(step);
            for reader in self.0.neighbors(NodeIndex::new(step)) {
                missing[reader.index()] -= 1;
                if missing[reader.index()] == 0 {
                    ready.push(Reverse(reader.index()));
                }
            }
        }
        order
    }

    /// Returns one shortest cycle of every knot of steps that wait for each other, each as a list of steps in which every
    /// one reads from the next and the last from the first. In a very large knot it is a short one.
    pub fn cycles(&self) -> Vec<Vec<usize>> {
        if self.order().len() == self.0.node_count() {
            return Vec::new();
        }
        let mut cycles: Vec<Vec<usize>> = kosaraju_scc(&self.0)
            .into_iter()
            // Most knots are one step that does not wait for itself.
            .filter(|knot| knot.len() > 1 || self.0.contains_edge(knot[0], knot[0]))
            .filter_map(|knot| {
                let mut starts: Vec<usize> = knot.iter().map(|node| node.index()).collect();
                starts.sort_unstable();
                starts.into_iter().take(TRIED).filter_map(|start| self.cycle_through(start)).min_by_key(Vec::len)
            })
            .collect();
        cycles.sort();
        cycles
    }

    /// Returns a shortest cycle through a step, by a search in breadth along "reads from".
    fn cycle_through(&self, start: usize) -> Option<Vec<usize>> {
        let mut reader_of = vec![None; self.0.node_count()];
        let mut queue = VecDeque::from([start]);
        while let Some(step) = queue.pop_front() {
            let mut producers: Vec<usize> =
                self.0.neighbors_directed(NodeIndex::new(step), Direction::Incoming).map(|node| node.index()).collect();
            producers.sort_unstable();
            for producer in producers {
                if producer == start {
                    let mut cycle = vec![step];
                    while let Some(reader) = reader_of[cycle[cycle.len() - 1]] {
                        cycle.push(reader);
                    }
                    cycle.reverse();
                    return Some(cycle);
                }
                if reader_of[producer].is_none() {
                    reader_of[producer] = Some(step);
                    queue.push_back(producer);
                }
            }
        }
        None
    }

    /// Returns the steps that this one needs, near or far.
    pub fn ancestors(&self, step: usize) -> BTreeSet<usize> {
        let reversed = Reversed(&self.0);
        let mut search = Dfs::new(reversed, NodeIndex::new(step));
        std::iter::from_fn(|| search.next(reversed)).map(NodeIndex::index).filter(|other| *other != step).collect()
    }

    /// Returns the steps that need this one, near or far.
    pub fn descendants(&self, step: usize) -> BTreeSet<usize> {
        let mut search = Dfs::new(&self.0, NodeIndex::new(step));
        std::iter::from_fn(|| search.next(&self.0)).map(NodeIndex::index).filter(|other| *other != step).collect()
    }

    /// Returns the layer of every step: one more than the deepest it reads from, 0 for those that read from none.
    pub fn layers(&self) -> Vec<usize> {
        let mut layers = vec![0; self.0.node_count()];
        for step in self.order() {
            for reader in self.0.neighbors(NodeIndex::new(step)) {
                layers[reader.index()] = layers[reader.index()].max(layers[step] + 1);
            }
        }
        layers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_keep_the_order_of_the_file() {
        let graph = StepGraph::new(5, [(4, 0), (3, 1), (1, 2)]);
        assert_eq!(graph.order(), [3, 1, 2, 4, 0]);
        assert_eq!(graph.layers(), [1, 1, 2, 0, 0]);
        assert_eq!(graph.ancestors(2), BTreeSet::from([1, 3]));
        assert_eq!(graph.descendants(3), BTreeSet::from([1, 2]));
        assert!(graph.cycles().is_empty());
    }

    #[test]
    fn the_shortest_cycle_of_each_knot_is_found() {
        // 0 reads from 2, 2 from 1, 1 from 0; 1 and 2 also wait for each other; 3 for itself.
        let graph = StepGraph::new(5, [(2, 0), (1, 2), (0, 1), (2, 1), (3, 3), (3, 4)]);
        assert_eq!(graph.cycles(), [vec![1, 2], vec![3]]);
        let ring = StepGraph::new(3, [(2, 0), (1, 2), (0, 1)]);
        assert_eq!(ring.cycles(), [vec![0, 2, 1]]);
    }

    #[test]
    fn a_hundred_thousand_steps_are_no_trouble() {
        let clock = std::time::Instant::now();
        let row = (1..100_000).map(|step| (step - 1, step));
        assert!(StepGraph::new(100_000, row.clone()).cycles().is_empty());
        assert_eq!(StepGraph::new(100_000, row.chain([(7, 7)])).cycles(), [[7]]);
        let ring = (0..20_000).map(|step| (step, (step + 1) % 20_000));
        assert_eq!(StepGraph::new(20_000, ring).cycles()[0].len(), 20_000);
        // Steps times steps would take minutes.
        assert!(clock.elapsed() < std::time::Duration::from_secs(30), "{:?}", clock.elapsed());
    }
}
