//! A plan as text, DOT and Mermaid. Decides nothing; `svg` draws the picture.

use super::Plan;
use super::graph::StepGraph;

/// Returns the steps as a table for people, layer by layer: what reads from nothing is layer 0.
pub fn text(plan: &Plan) -> String {
    let layers = StepGraph::of(plan).layers();
    let mut order: Vec<usize> = (0..plan.steps.len()).collect();
    order.sort_by_key(|step| layers[*step]);
    let width = |of: fn(&super::Step) -> usize| plan.steps.iter().map(of).max().unwrap_or(0);
    let name_width = width(|step| step.name.len());
    let kind_width = width(|step| step.kind.spec().name.len());
    let count = plan.steps.len();
    let stages = if count == 1 { "stage" } else { "stages" };
    let mut text = format!("{}: {count} {stages}, seed {}\n\n", plan.pipeline, plan.seed);
    let mut above = None;
    for step in order {
        let layer = if above == Some(layers[step]) { String::new() } else { layers[step].to_string() };
        above = Some(layers[step]);
        let step = &plan.steps[step];
        let inputs: Vec<String> =
            step.inputs.iter().map(|one| format!("{} = {}", one.port, plan.steps[one.step].name)).collect();
        let arrow = if inputs.is_empty() { "" } else { "<- " };
        let kind = step.kind.spec().name;
        let line = format!("{layer:>3}  {:name_width$}  {kind:kind_width$}  {arrow}{}", step.name, inputs.join(", "));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Returns the graph in the language of Graphviz.
pub fn dot(plan: &Plan) -> String {
    let mut text = format!("digraph {} {{\n", quoted(&plan.pipeline));
    text.push_str("  rankdir = TB;\n  node [shape = box, style = rounded, fontname = \"sans-serif\"];\n");
    text.push_str("  edge [fontname = \"sans-serif\", fontsize = 10];\n");
    for step in &plan.steps {
        let label = quoted(&format!("{}\n{}", step.name, step.kind.spec().name));
        text.push_str(&format!("  {} [label = {label}];\n", quoted(&step.name)));
    }
    for step in &plan.steps {
        for one in &step.inputs {
            let producer = quoted(&plan.steps[one.step].name);
            text.push_str(&format!("  {producer} -> {} [label = {}];\n", quoted(&step.name), quoted(one.port)));
        }
    }
    text.push_str("}\n");
    text
}

/// Returns the graph in the language of Mermaid. Nodes are numbered, as some names of stages (`end`) are its own words.
pub fn mermaid(plan: &Plan) -> String {
    let mut text = "flowchart TD\n".to_owned();
    for (index, step) in plan.steps.iter().enumerate() {
        text.push_str(&format!("  s{index}[\"{}<br/>{}\"]\n", step.name, step.kind.spec().name));
    }
    for (index, step) in plan.steps.iter().enumerate() {
        for one in &step.inputs {
            text.push_str(&format!("  s{} -->|{}| s{index}\n", one.step, one.port));
        }
    }
    text
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}
