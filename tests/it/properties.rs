//! Any graph: every step runs once and after its inputs, and a result from the cache equals a fresh one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use orandflow::plan;
use orandflow::plan::prepare::Planner;
use orandflow::run::event::Event;
use orandflow::run::slots::Names;
use orandflow::run::{Options, Outcome, Status, Survey, choose, run};
use orandflow::stages::catalog;
use orandflow::store::Store;
use orandflow::store::files::Files;
use proptest::prelude::*;

/// A stage of a random graph: its kind, a text, and which of the stages before it stand on its ports.
#[derive(Clone, Debug)]
struct Node {
    shape: u8,
    text: u8,
    inputs: Vec<prop::sample::Index>,
}

fn node() -> impl Strategy<Value = Node> {
    let inputs = prop::collection::vec(any::<prop::sample::Index>(), 1..4);
    (0..4u8, 0..3u8, inputs).prop_map(|(shape, text, inputs)| Node { shape, text, inputs })
}

/// Writes a random graph as a pipeline. Stages of the first shape bring items in; others read from stages before them.
fn pipeline(nodes: &[Node], folder: &Path) -> String {
    let mut toml = "[pipeline]\nname = \"random\"\n".to_owned();
    let mut per_image: Vec<usize> = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        toml += &format!("[stages.s{index}]\n");
        let shape = if node.shape == 1 && per_image.is_empty() { 0 } else { node.shape };
        match shape {
            0 => {
                toml += &format!("kind = \"debug.items\"\nfolder = {:?}\n", folder.display().to_string());
                per_image.push(index);
            }
            1 => {
                toml += &format!("kind = \"debug.copy\"\nsuffix = \"{}\"\n", node.text);
                let ports: Vec<String> = (["a", "b"].iter())
                    .zip(&node.inputs)
                    .map(|(port, input)| format!("{port} = \"s{}\"", input.get(&per_image)))
                    .collect();
                toml += &format!("inputs = {{ {} }}\n", ports.join(", "));
                per_image.push(index);
            }
            shape => {
                let kind = if shape == 2 { "debug.concat" } else { "debug.seed" };
                toml += &format!("kind = \"{kind}\"\ntext = \"{}\"\n", node.text);
                if index > 0 {
                    let ports: Vec<String> = (["a", "b", "c"].iter())
                        .zip(&node.inputs)
                        .map(|(port, input)| format!("{port} = \"s{}\"", input.index(index)))
                        .collect();
                    toml += &format!("inputs = {{ {} }}\n", ports.join(", "));
                }
            }
        }
    }
    toml
}

/// Runs a pipeline file and returns what came of it and what was said.
fn carry_out(file: &Path, cache: &Path, jobs: usize) -> (Outcome, Vec<Event>) {
    let plan = plan::load(file, &[], catalog()).expect("the pipeline is right");
    let store = Store::open(cache).expect("the cache can be written");
    let files = Files::load(&store);
    let planner = Planner::new(&store, &files);
    let chosen = choose(&plan, &[]).expect("all stages");
    let survey = Survey::of(&plan, &chosen, &planner).expect("nothing is refused");
    let options = Options {
        jobs,
        memory: None,
        devices: Names::of(&["cpu"]).expect("one name"),
        fail_fast: false,
        cancelled: Arc::new(AtomicBool::new(false)),
        asked: Arc::default(),
        restart: Vec::new(),
    };
    let events = Mutex::new(Vec::new());
    let outcome = run(&plan, survey, &planner, &store, &options, &|stamped| {
        events.lock().expect("no listener panics").push(stamped.event);
    });
    (outcome, events.into_inner().expect("no listener panics"))
}

fn outputs(outcome: &Outcome) -> Vec<String> {
    outcome.steps.iter().map(|step| step.output.as_ref().map_or(String::new(), |output| output.digest.hex())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_graph_runs_each_step_once_and_after_its_inputs(nodes in prop::collection::vec(node(), 1..12), jobs in 1..5usize) {
        let folder = tempfile::tempdir().expect("a folder");
        let items = folder.path().join("items");
        std::fs::create_dir(&items).expect("it can be made");
        for index in 0..60 {
            std::fs::write(items.join(format!("i{index}.txt")), format!("{index}")).expect("it can be written");
        }
        let file = folder.path().join("p.toml");
        std::fs::write(&file, pipeline(&nodes, &items)).expect("it can be written");

        let (fresh, events) = carry_out(&file, &folder.path().join("cache"), jobs);
        prop_assert!(fresh.steps.iter().all(|step| matches!(step.status, Status::Ran | Status::Cached)));
        let plan = plan::load(&file, &[], catalog()).expect("the pipeline is right");
        let mut ended: BTreeMap<&str, usize> = BTreeMap::new();
        let mut begun: BTreeMap<&str, usize> = BTreeMap::new();
        for (time, event) in events.iter().enumerate() {
            match event {
                Event::Started { stage, .. } => prop_assert!(begun.insert(stage, time).is_none(), "{} began twice", stage),
                Event::Done { stage, .. } | Event::Cached { stage, .. } => {
                    prop_assert!(ended.insert(stage, time).is_none(), "{} ended twice", stage);
                }
                _ => {}
            }
        }
        prop_assert_eq!(ended.len(), plan.steps.len());
        for step in &plan.steps {
            for input in &step.inputs {
                let above = ended[plan.steps[input.step].name.as_str()];
                prop_assert!(begun.get(step.name.as_str()).is_none_or(|began| *began > above));
            }
        }

        let (again, events) = carry_out(&file, &folder.path().join("cache"), jobs);
        prop_assert!(again.steps.iter().all(|step| step.status == Status::Cached));
        let none_began = !events.iter().any(|event| matches!(event, Event::Started { .. }));
        prop_assert!(none_began);
        let (alone, _) = carry_out(&file, &folder.path().join("other"), 1);
        prop_assert_eq!(outputs(&fresh), outputs(&again));
        prop_assert_eq!(outputs(&fresh), outputs(&alone));
    }
}
