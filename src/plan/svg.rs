//! A plan as a picture: a layered drawing of our own, top to bottom, as in Sugiyama, Tagawa and Toda (1981): layers, long
//! edges cut into pieces, fewer crossings by barycentres, then places. Needs no font and no script.

use std::collections::BTreeSet;

use super::graph::StepGraph;
use super::{Plan, Step};

/// Height of a box, in pixels.
const BOX_HEIGHT: f64 = 46.0;
/// From the top of a layer to the top of the next, in pixels.
const LAYER_HEIGHT: f64 = 92.0;
/// Between two neighbours of a layer, in pixels.
const GAP: f64 = 28.0;
/// Around everything, in pixels.
const MARGIN: f64 = 24.0;
/// Width of a long edge where it passes a layer, in pixels.
const PASSING_WIDTH: f64 = 12.0;
/// Rounds of reordering and of placing; both settle well before that on graphs of this size.
const ROUNDS: usize = 60;

/// A box, or a place where a long edge passes a layer.
struct Node {
    step: Option<usize>,
    layer: usize,
    width: f64,
    x: f64,
    above: Vec<usize>,
    below: Vec<usize>,
}

/// An edge as the chain of nodes that it runs through, from the producer to the reader.
struct Edge {
    port: &'static str,
    chain: Vec<usize>,
}

/// Returns the picture as an SVG document that follows the reader's choice of light or dark.
pub fn svg(plan: &Plan) -> String {
    drawn(plan, &(0..plan.steps.len()).collect::<Vec<_>>())
}

/// Returns the picture of a part of a plan: of these steps, each with the name that it has there. What one of them reads from is
/// one of them, too.
pub fn part(plan: &Plan, steps: &[(String, usize)]) -> String {
    let mut own: Vec<&(String, usize)> = steps.iter().collect();
    own.sort_by_key(|(_, index)| *index);
    let indices: Vec<usize> = own.iter().map(|(_, index)| *index).collect();
    let mut part = Plan { pipeline: plan.pipeline.clone(), seed: plan.seed, steps: Vec::new() };
    for (name, index) in own {
        let mut step = Step { name: name.clone(), ..plan.steps[*index].clone() };
        step.inputs.retain_mut(|input| match indices.binary_search(&input.step) {
            Ok(at) => {
                input.step = at;
                true
            }
            Err(_) => false,
        });
        part.steps.push(step);
    }
    drawn(&part, &indices)
}

/// Draws a plan whose steps are called `numbers` in the picture.
fn drawn(plan: &Plan, numbers: &[usize]) -> String {
    let (mut nodes, edges) = nodes_and_edges(plan);
    let layers = order(&nodes);
    place(&mut nodes, &layers);
    draw(plan, &nodes, &edges, numbers)
}

/// Makes the nodes: a box per step and a passing place for every layer that an edge crosses.
fn nodes_and_edges(plan: &Plan) -> (Vec<Node>, Vec<Edge>) {
    let layers = hanging_layers(plan);
    let mut nodes: Vec<Node> = plan
        .steps
        .iter()
        .zip(&layers)
        .enumerate()
        .map(|(index, (step, layer))| {
            // Widths of the letters are not known without the font: 9.2 and 7.2 pixels hold for common sans-serif ones.
            let name = step.name.chars().count() as f64 * 9.2;
            let kind = step.kind.spec().name.chars().count() as f64 * 7.2;
            let width = (name.max(kind) + 28.0).max(96.0);
            Node { step: Some(index), layer: *layer, width, x: 0.0, above: Vec::new(), below: Vec::new() }
        })
        .collect();
    let mut edges = Vec::new();
    for (reader, step) in plan.steps.iter().enumerate() {
        for connection in &step.inputs {
            let mut chain = vec![connection.step];
            for layer in layers[connection.step] + 1..layers[reader] {
                chain.push(nodes.len());
                let (above, below) = (Vec::new(), Vec::new());
                nodes.push(Node { step: None, layer, width: PASSING_WIDTH, x: 0.0, above, below });
            }
            chain.push(reader);
            for pair in chain.windows(2) {
                nodes[pair[0]].below.push(pair[1]);
                nodes[pair[1]].above.push(pair[0]);
            }
            edges.push(Edge { port: connection.port, chain });
        }
    }
    (nodes, edges)
}

/// Returns the layers of the steps, where a step that reads from nothing hangs right above its first reader.
fn hanging_layers(plan: &Plan) -> Vec<usize> {
    let mut layers = StepGraph::of(plan).layers();
    for index in 0..plan.steps.len() {
        if plan.steps[index].inputs.is_empty() {
            let readers =
                plan.steps.iter().enumerate().filter(|(_, step)| step.inputs.iter().any(|one| one.step == index));
            let first = readers.map(|(reader, _)| layers[reader]).min();
            layers[index] = first.map_or(0, |first| first.saturating_sub(1));
        }
    }
    layers
}

/// Orders the nodes within each layer: by turns downwards and upwards, each node goes to the mean rank of its neighbours. The
/// order with the fewest crossings stays.
fn order(nodes: &[Node]) -> Vec<Vec<usize>> {
    let depth = nodes.iter().map(|node| node.layer + 1).max().unwrap_or(0);
    let mut layers: Vec<Vec<usize>> = vec![Vec::new(); depth];
    for (index, node) in nodes.iter().enumerate() {
        layers[node.layer].push(index);
    }
    let mut best = (crossings(nodes, &layers), layers.clone());
    for round in 0..ROUNDS {
        let downwards = round % 2 == 0;
        let walk: Vec<usize> =
            if downwards { (1..depth).collect() } else { (0..depth.saturating_sub(1)).rev().collect() };
        for layer in walk {
            let ranks = ranks(nodes.len(), &layers);
            let mut keyed: Vec<(f64, usize)> = layers[layer]
                .iter()
                .map(|&node| {
                    let neighbours = if downwards { &nodes[node].above } else { &nodes[node].below };
                    let sum: f64 = neighbours.iter().map(|other| ranks[*other]).sum();
                    let mean = if neighbours.is_empty() { ranks[node] } else { sum / neighbours.len() as f64 };
                    (mean, node)
                })
                .collect();
            // Stable, so that ties keep their order.
            keyed.sort_by(|one, other| one.0.total_cmp(&other.0));
            layers[layer] = keyed.into_iter().map(|(_, node)| node).collect();
        }
        let count = crossings(nodes, &layers);
        if count < best.0 {
            best = (count, layers.clone());
        }
    }
    best.1
}

/// Returns each node's rank in its layer, between 0 and 1, so that layers of different lengths can be compared.
fn ranks(count: usize, layers: &[Vec<usize>]) -> Vec<f64> {
    let mut ranks = vec![0.0; count];
    for layer in layers {
        for (rank, node) in layer.iter().enumerate() {
            ranks[*node] = (rank as f64 + 0.5) / layer.len() as f64;
        }
    }
    ranks
}

/// Counts the pairs of edges that cross.
fn crossings(nodes: &[Node], layers: &[Vec<usize>]) -> usize {
    let ranks = ranks(nodes.len(), layers);
    layers
        .iter()
        .map(|layer| {
            let ends = layer.iter().flat_map(|&node| nodes[node].below.iter().map(move |&other| (node, other)));
            let ends: Vec<(f64, f64)> = ends.map(|(from, to)| (ranks[from], ranks[to])).collect();
            let pairs =
                ends.iter().enumerate().flat_map(|(at, one)| ends[at + 1..].iter().map(move |other| (one, other)));
            pairs.filter(|(one, other)| (one.0 - other.0) * (one.1 - other.1) < 0.0).count()
        })
        .sum()
}

/// Gives every node its middle: by turns, each layer is drawn towards the mean of its neighbours and its nodes pushed apart.
fn place(nodes: &mut [Node], layers: &[Vec<usize>]) {
    for layer in layers {
        spread(nodes, layer, &vec![(0.0, 1.0); layer.len()]);
    }
    for round in 0..ROUNDS {
        let mut walk: Vec<usize> = (0..layers.len()).collect();
        if round % 2 == 1 {
            walk.reverse();
        }
        for layer in walk {
            let wishes: Vec<(f64, f64)> = layers[layer].iter().map(|node| wish(nodes, *node)).collect();
            spread(nodes, &layers[layer], &wishes);
        }
    }
    let left = nodes.iter().map(|node| node.x - node.width / 2.0).fold(f64::INFINITY, f64::min);
    for node in nodes {
        node.x += MARGIN - left;
    }
}

/// Returns where a node would stand by itself, and with what weight: the mean of its neighbours, where long edges pull harder
/// the longer they are so that they run straight (weights 1, 2 and 8 as in Gansner et al., 1993, section 4).
fn wish(nodes: &[Node], node: usize) -> (f64, f64) {
    let (mut sum, mut weights) = (0.0, 0.0);
    for &other in nodes[node].above.iter().chain(&nodes[node].below) {
        let weight = match (nodes[node].step, nodes[other].step) {
            (Some(_), Some(_)) => 1.0,
            (None, None) => 8.0,
            _ => 2.0,
        };
        sum += nodes[other].x * weight;
        weights += weight;
    }
    if weights == 0.0 { (nodes[node].x, 1.0) } else { (sum / weights, weights) }
}

/// Places the nodes of a layer as near to their wishes as their widths allow: neighbours that overlap become one block, which
/// goes to the weighted mean of its wishes (the pool-adjacent-violators algorithm).
fn spread(nodes: &mut [Node], layer: &[usize], wishes: &[(f64, f64)]) {
    // Shifted left by all widths before it, a node may stand exactly where the one before it stands.
    let mut offset = 0.0;
    let mut offsets = Vec::with_capacity(layer.len());
    for (at, &node) in layer.iter().enumerate() {
        if at > 0 {
            offset += (nodes[layer[at - 1]].width + nodes[node].width) / 2.0 + GAP;
        }
        offsets.push(offset);
    }
    // Of every block: its place, its weight and the number of its nodes.
    let mut blocks: Vec<(f64, f64, usize)> = Vec::new();
    for ((wish, weight), offset) in wishes.iter().zip(&offsets) {
        blocks.push((wish - offset, *weight, 1));
        while let [.., before, last] = blocks[..]
            && before.0 > last.0
        {
            let weight = before.1 + last.1;
            let mean = (before.0 * before.1 + last.0 * last.1) / weight;
            blocks.truncate(blocks.len() - 2);
            blocks.push((mean, weight, before.2 + last.2));
        }
    }
    let places = blocks.iter().flat_map(|(mean, _, count)| std::iter::repeat_n(*mean, *count));
    for ((&node, place), offset) in layer.iter().zip(places).zip(offsets) {
        nodes[node].x = place + offset;
    }
}

fn draw(plan: &Plan, nodes: &[Node], edges: &[Edge], numbers: &[usize]) -> String {
    let top = |node: &Node| MARGIN + node.layer as f64 * LAYER_HEIGHT;
    let width = nodes.iter().map(|node| node.x + node.width / 2.0).fold(0.0, f64::max) + MARGIN;
    let height = nodes.iter().map(|node| top(node) + BOX_HEIGHT).fold(0.0, f64::max) + MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\">\n<title>{}</title>\n{STYLE}",
        escaped(&plan.pipeline)
    );
    for edge in edges {
        let mut points: Vec<(f64, f64)> = Vec::new();
        for (at, &node) in edge.chain.iter().enumerate() {
            let node = &nodes[node];
            let x = if at == 0 || at + 1 == edge.chain.len() { end_of(edge, at, nodes) } else { node.x };
            // An edge leaves a box at its bottom, enters one at its top, and passes a layer straight.
            if at > 0 {
                points.push((x, top(node)));
            }
            if at + 1 < edge.chain.len() {
                points.push((x, top(node) + BOX_HEIGHT));
            }
        }
        svg.push_str(&curve(&points, edge, plan, nodes, numbers));
    }
    for node in nodes {
        let Some(index) = node.step else { continue };
        let step = &plan.steps[index];
        let spec = step.kind.spec();
        let (x, y) = (node.x - node.width / 2.0, top(node));
        svg.push_str(&format!(
            "<g class=\"step\" data-step=\"{}\"><title>{} makes {}</title><rect class=\"box {}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" \
             height=\"{BOX_HEIGHT}\" rx=\"7\"/><text class=\"name\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\
             <text class=\"kind\" x=\"{:.1}\" y=\"{:.1}\">{}</text></g>\n",
            numbers[index],
            escaped(&step.name),
            spec.output.article(),
            spec.output,
            node.width,
            node.x,
            y + 20.0,
            escaped(&step.name),
            node.x,
            y + 36.0,
            escaped(spec.name),
        ));
    }
    svg.push_str("</svg>\n");
    svg
}

/// Returns where an edge meets the box at one of its ends: ends share the middle half of the box, in order of where they go.
fn end_of(edge: &Edge, at: usize, nodes: &[Node]) -> f64 {
    let node = &nodes[edge.chain[at]];
    let (next, neighbours) = if at == 0 { (edge.chain[1], &node.below) } else { (edge.chain[at - 1], &node.above) };
    // Two ports on one producer meet at one point; the set counts them once.
    let mut others: Vec<usize> = neighbours.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    others.sort_by(|one, other| nodes[*one].x.total_cmp(&nodes[*other].x));
    let rank = others.iter().position(|other| *other == next).unwrap_or(0);
    node.x + node.width / 2.0 * ((rank as f64 + 0.5) / others.len() as f64 - 0.5)
}

/// Draws an edge through points that lie in pairs: a curve from one to the next between layers, a line within a layer.
fn curve(points: &[(f64, f64)], edge: &Edge, plan: &Plan, nodes: &[Node], numbers: &[usize]) -> String {
    let mut path = format!("M{:.1} {:.1}", points[0].0, points[0].1);
    for pair in points.windows(2) {
        let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
        if (x0 - x1).abs() < 0.05 {
            path.push_str(&format!("L{x1:.1} {y1:.1}"));
        } else {
            let middle = f64::midpoint(y0, y1);
            path.push_str(&format!("C{x0:.1} {middle:.1} {x1:.1} {middle:.1} {x1:.1} {y1:.1}"));
        }
    }
    let (x, y) = points[points.len() - 1];
    let name = |step: usize| plan.steps.get(step).map_or("", |step| step.name.as_str());
    let step = |node: usize| nodes[node].step.unwrap_or_default();
    let (first, last) = (step(edge.chain[0]), step(edge.chain[edge.chain.len() - 1]));
    let (from, to) = (name(first), name(last));
    let number = |step: usize| numbers.get(step).copied().unwrap_or_default();
    let (first, last) = (number(first), number(last));
    format!(
        "<g data-from=\"{first}\" data-to=\"{last}\"><title>{} is {} of {}</title><path class=\"edge\" d=\"{path}\"/><path class=\"tip\" d=\"M{x:.1} {y:.1}l-4 -7h8z\"/></g>\n",
        escaped(from),
        escaped(edge.port),
        escaped(to)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Colours name the kind of artifact that a stage makes; they are no more than a help, as the text says everything.
const STYLE: &str = "<style>
svg { background: #ffffff; }
text { font-family: system-ui, sans-serif; text-anchor: middle; }
.name { font-size: 14px; font-weight: 600; fill: #1b1f24; }
.kind { font-size: 12px; fill: #57606a; }
.edge { fill: none; stroke: #8c959f; stroke-width: 1.4; }
.tip { fill: #8c959f; }
.box { fill: #f6f8fa; stroke: #8c959f; stroke-width: 1.4; }
.ImageSet { stroke: #2f6f9f; } .Weights { stroke: #8a5a2b; } .CamSet { stroke: #b3541e; } .SeedSet { stroke: #7a5195; }
.MaskSet { stroke: #2e7d4f; } .ScoreSet { stroke: #a0376b; } .Metrics { stroke: #1b1f24; } .Files { stroke: #57606a; }
@media (prefers-color-scheme: dark) {
svg { background: #0d1117; }
.name { fill: #e6edf3; }
.kind { fill: #9da7b3; }
.edge { stroke: #6e7681; }
.tip { fill: #6e7681; }
.box { fill: #161b22; stroke: #6e7681; }
.ImageSet { stroke: #6cb6f0; } .Weights { stroke: #d6a36a; } .CamSet { stroke: #f0883e; } .SeedSet { stroke: #c297e0; }
.MaskSet { stroke: #56c07f; } .ScoreSet { stroke: #e58ab8; } .Metrics { stroke: #e6edf3; } .Files { stroke: #9da7b3; }
}
</style>
";
