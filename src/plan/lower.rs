//! From names to a checked graph: kinds, parameters, ports and order. Draws nothing and runs nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::graph::StepGraph;
use super::{Connection, Plan, Step, params, shape};
use crate::diag::{Diagnostic, Span, nearest};
use crate::kind::Kind;
use crate::pipeline::{Pipeline, StageDecl, Texts, Word};
use crate::stage::{Devices, Port, Spec, StageKind, StageRun};

/// Checks a pipeline against the catalogue and puts its stages into order.
///
/// # Errors
/// Everything that is wrong, in order of the file.
pub fn lower(pipeline: Pipeline<'_>, catalog: &[&'static dyn StageKind]) -> Result<Plan, Vec<Diagnostic>> {
    let Pipeline { name, seed, stages, mut faults, texts } = pipeline;
    if stages.is_empty() && faults.is_empty() {
        let fault = Diagnostic::new(format!("`{}` has no stages", texts.file().name));
        faults.push(
            fault.help("a stage is `[stages.NAME]` with `kind = \"...\"` below; `orandflow stages` lists every kind"),
        );
    }
    let kinds: Vec<Option<&'static dyn StageKind>> =
        stages.iter().map(|stage| find_kind(stage.kind.as_ref()?, catalog, &mut faults)).collect();
    let inputs: Vec<Vec<Connection>> = connect(&stages, &kinds, catalog, &mut faults);
    let edges = inputs.iter().enumerate().flat_map(|(reader, inputs)| inputs.iter().map(move |one| (one.step, reader)));
    let graph = StepGraph::new(stages.len(), edges);
    faults.extend(graph.cycles().iter().map(|cycle| cyclic(cycle, &stages, &inputs)));

    let mut steps = Vec::with_capacity(stages.len());
    for ((stage, kind), inputs) in stages.into_iter().zip(kinds).zip(inputs) {
        let (Some(kind), false) = (kind, stage.faulty) else { continue };
        match read(stage, kind, inputs, seed, texts) {
            Ok(step) => steps.push(step),
            Err(mut found) => faults.append(&mut found),
        }
    }
    if !faults.is_empty() {
        faults.sort_by_key(|fault| place(fault, texts));
        return Err(faults);
    }
    Ok(Plan { pipeline: name, seed, steps: in_order(steps, &graph.order()) })
}

/// Returns the kind of this name, or reports that there is none.
fn find_kind(
    word: &Word,
    catalog: &[&'static dyn StageKind],
    faults: &mut Vec<Diagnostic>,
) -> Option<&'static dyn StageKind> {
    let found = catalog.iter().copied().find(|kind| kind.spec().name == word.text);
    if found.is_none() {
        let fault = Diagnostic::new(format!("unknown kind `{}`", word.text)).at(word.span.clone(), "");
        faults.push(match nearest(&word.text, catalog.iter().map(|kind| kind.spec().name)) {
            Some(near) => fault.help(format!("did you mean `{near}`?")),
            None => fault.help("`orandflow stages` lists every kind"),
        });
    }
    found
}

/// Reads a stage's parameters.
fn read(
    mut stage: StageDecl<'_>,
    kind: &'static dyn StageKind,
    inputs: Vec<Connection>,
    seed: u64,
    texts: &Texts,
) -> Result<Step, Vec<Diagnostic>> {
    let schema = kind.schema().to_value();
    let faults = params::check(&stage, kind.spec(), &schema, texts);
    if !faults.is_empty() {
        return Err(faults);
    }
    let places = params::places(stage.params.get_ref(), texts);
    let table = std::mem::replace(&mut stage.params, toml::Spanned::new(0..0, toml::de::DeTable::new()));
    let run: Arc<dyn StageRun> =
        kind.parse(table).map_err(|error| vec![params::refused(error, &stage, &places, &schema, texts)])?;
    let key_params: Value = shape::strip(&run.params(), &schema);
    let resources = stage.resources.resources;
    if let Some(fault) = too_many_gpus(&stage, kind) {
        return Err(vec![fault]);
    }
    Ok(Step { name: stage.name.text, kind, run, seed, key_params, inputs, resources, places, span: stage.name.span })
}

/// Refuses more GPUs than a stage of this kind can use.
fn too_many_gpus(stage: &StageDecl<'_>, kind: &dyn StageKind) -> Option<Diagnostic> {
    let (gpus, span) = stage.resources.resources.gpus.zip(stage.resources.gpus_at.clone())?;
    let (most, why) = match kind.devices() {
        Devices::None => (0, "computes on the CPU alone"),
        Devices::One => (1, "uses one GPU at most"),
        Devices::Any => return None,
    };
    let name = kind.spec().name;
    (gpus > most).then(|| {
        let title = format!("stage `{}` asks for more GPUs than it can use", stage.name.text);
        Diagnostic::new(title).at(span, format!("kind `{name}` {why}"))
    })
}

/// Connects the ports of every stage, as far as they can be.
fn connect(
    stages: &[StageDecl<'_>],
    kinds: &[Option<&'static dyn StageKind>],
    catalog: &[&'static dyn StageKind],
    faults: &mut Vec<Diagnostic>,
) -> Vec<Vec<Connection>> {
    let index: BTreeMap<&str, usize> =
        stages.iter().enumerate().map(|(index, stage)| (stage.name.text.as_str(), index)).collect();
    let pipeline = Connected { stages, kinds, catalog, index };
    stages.iter().zip(kinds).map(|(stage, kind)| pipeline.inputs(stage, kind.map(|kind| kind.spec()), faults)).collect()
}

struct Connected<'a, 'text> {
    stages: &'a [StageDecl<'text>],
    kinds: &'a [Option<&'static dyn StageKind>],
    catalog: &'a [&'static dyn StageKind],
    index: BTreeMap<&'a str, usize>,
}

impl Connected<'_, '_> {
    /// Returns the connections of a stage in order of its kind's ports. The ports of an unknown kind are not looked at, only
    /// the stages that they name.
    fn inputs(
        &self,
        stage: &StageDecl<'_>,
        spec: Option<&'static Spec>,
        faults: &mut Vec<Diagnostic>,
    ) -> Vec<Connection> {
        let mut connections = Vec::new();
        for (port, source) in &stage.inputs {
            let known = spec.map(|spec| spec.inputs.iter().find(|known| known.name == port.text).ok_or(spec));
            if let Some(Err(spec)) = known {
                faults.push(unknown_port(port, spec));
            }
            let Some(&step) = self.index.get(source.text.as_str()) else {
                faults.push(self.unknown_stage(stage, port, source));
                continue;
            };
            let Some(Ok(known)) = known else { continue };
            if let Some(producer) = self.kinds[step]
                && !known.takes.contains(&producer.spec().output)
            {
                faults.push(self.wrong_type(stage, known, source, step, producer.spec()));
            }
            connections.push(Connection { port: known.name, step, span: source.span.clone() });
        }
        let Some(spec) = spec else { return connections };
        for port in spec.inputs.iter().filter(|port| !port.optional && !is_written(port.name, stage, spec)) {
            faults.push(self.missing_port(stage, port, spec));
        }
        let rank = |name: &str| spec.inputs.iter().position(|port| port.name == name);
        connections.sort_by_key(|connection| rank(connection.port));
        connections
    }

    fn unknown_stage(&self, stage: &StageDecl<'_>, port: &Word, source: &Word) -> Diagnostic {
        let fault = Diagnostic::new(format!("unknown stage `{}`", source.text))
            .at(source.span.clone(), format!("`{}` reads it on port `{}`", stage.name.text, port.text));
        match nearest(&source.text, self.index.keys().copied().filter(|name| *name != stage.name.text)) {
            Some(near) => fault.help(format!("did you mean `{near}`?")),
            None => fault.help(format!("the pipeline has no `[stages.{}]`", source.text)),
        }
    }

    fn missing_port(&self, stage: &StageDecl<'_>, port: &Port, spec: &Spec) -> Diagnostic {
        let title = format!("stage `{}` has nothing on its port `{}`", stage.name.text, port.name);
        let label = format!("kind `{}` needs {} there: {}", spec.name, one_of(port.takes), port.about);
        let fault = Diagnostic::new(title).at(stage.name.span.clone(), label);
        fault.help(match self.producers(port.takes, Some(&stage.name.text)).as_slice() {
            [] => format!("{} comes from {}", one_of(port.takes), self.makers(port.takes)),
            [only] => format!("write `inputs = {{ {} = \"{only}\" }}`", port.name),
            several => format!("in this pipeline {} is made by {}", one_of(port.takes), backticks(several)),
        })
    }

    fn wrong_type(
        &self,
        stage: &StageDecl<'_>,
        port: &Port,
        source: &Word,
        step: usize,
        producer: &Spec,
    ) -> Diagnostic {
        let wanted = one_of(port.takes);
        let title = format!(
            "port `{}` of stage `{}` takes {wanted}, but `{}` makes {}",
            port.name,
            stage.name.text,
            source.text,
            producer.output.article()
        );
        let mut fault =
            Diagnostic::new(title).at(source.span.clone(), format!("this is {}", producer.output.article()));
        if let Some(kind) = &self.stages[step].kind {
            fault = fault.context(kind.span.clone(), format!("`{}` makes {}", kind.text, producer.output.article()));
        }
        fault.help(match self.producers(port.takes, Some(&stage.name.text)).as_slice() {
            [] => format!("{wanted} comes from {}", self.makers(port.takes)),
            several => format!("in this pipeline {wanted} is made by {}", backticks(several)),
        })
    }

    /// Returns the stages of this pipeline that make one of these kinds of artifact.
    fn producers(&self, takes: &[Kind], except: Option<&str>) -> Vec<&str> {
        let stages = self.stages.iter().zip(self.kinds);
        stages
            .filter(|(_, kind)| kind.is_some_and(|kind| takes.contains(&kind.spec().output)))
            .map(|(stage, _)| stage.name.text.as_str())
            .filter(|name| Some(*name) != except)
            .collect()
    }

    /// Returns the kinds of stage that make one of these kinds of artifact, for people.
    fn makers(&self, takes: &[Kind]) -> String {
        let makers = self.catalog.iter().map(|kind| kind.spec()).filter(|spec| takes.contains(&spec.output));
        let makers: Vec<&str> = makers.map(|spec| spec.name).filter(|name| !name.starts_with("debug.")).collect();
        if makers.is_empty() {
            "a kind of stage that this build lacks".to_owned()
        } else {
            format!("{} {}", if makers.len() == 1 { "kind" } else { "one of the kinds" }, backticks(&makers))
        }
    }
}

/// Whether a stage says something of a port, be it misspelt or in the wrong place, which is reported by itself.
fn is_written(name: &str, stage: &StageDecl<'_>, spec: &Spec) -> bool {
    let ports = || spec.inputs.iter().map(|port| port.name);
    let meant =
        |word: &str| word == name || (!ports().any(|port| port == word) && nearest(word, ports()) == Some(name));
    stage.inputs.iter().any(|(port, _)| meant(&port.text))
        || stage
            .params
            .get_ref()
            .keys()
            .any(|key| key.get_ref() == name || nearest(key.get_ref(), ["inputs"]).is_some())
}

fn unknown_port(port: &Word, spec: &Spec) -> Diagnostic {
    let fault = Diagnostic::new(format!("kind `{}` has no port `{}`", spec.name, port.text)).at(port.span.clone(), "");
    if let Some(near) = nearest(&port.text, spec.inputs.iter().map(|port| port.name)) {
        return fault.help(format!("did you mean `{near}`?"));
    }
    if spec.inputs.is_empty() {
        return fault.help(format!("`{}` reads from no other stage", spec.name));
    }
    let ports: Vec<String> =
        spec.inputs.iter().map(|port| format!("`{}` ({})", port.name, one_of(port.takes))).collect();
    fault.help(format!("its ports are {}", ports.join(", ")))
}

/// Says that steps wait for each other; each of `cycle` reads from the next.
fn cyclic(cycle: &[usize], stages: &[StageDecl<'_>], inputs: &[Vec<Connection>]) -> Diagnostic {
    let name = |step: usize| stages[step].name.text.as_str();
    let span = |reader: usize, producer: usize| -> Option<Span> {
        Some(inputs[reader].iter().find(|connection| connection.step == producer)?.span.clone())
    };
    let mut fault = match cycle {
        [only] => Diagnostic::new(format!("stage `{}` waits for itself", name(*only))),
        _ => {
            let mut path: Vec<&str> = cycle.iter().map(|step| name(*step)).collect();
            path.push(name(cycle[0]));
            Diagnostic::new(format!("stages wait for each other: `{}`", path.join(" -> ")))
        }
    };
    for (at, &reader) in cycle.iter().enumerate() {
        let producer = cycle[(at + 1) % cycle.len()];
        let Some(span) = span(reader, producer) else { continue };
        let text = if reader == producer {
            "this is its own result".to_owned()
        } else {
            format!("`{}` waits for `{}` here", name(reader), name(producer))
        };
        fault = if at == 0 { fault.at(span, text) } else { fault.context(span, text) };
    }
    fault.help(if cycle.len() == 1 {
        "its input must come from another stage"
    } else {
        "one of these inputs must come from elsewhere"
    })
}

/// Puts the steps into this order and renumbers their connections.
fn in_order(steps: Vec<Step>, order: &[usize]) -> Vec<Step> {
    let mut rank = vec![0; steps.len()];
    for (place, step) in order.iter().enumerate() {
        rank[*step] = place;
    }
    let mut placed: Vec<(usize, Step)> = steps
        .into_iter()
        .enumerate()
        .map(|(index, mut step)| {
            for connection in &mut step.inputs {
                connection.step = rank[connection.step];
            }
            (rank[index], step)
        })
        .collect();
    placed.sort_by_key(|(rank, _)| *rank);
    placed.into_iter().map(|(_, step)| step).collect()
}

/// Returns where a diagnostic belongs in the order of all texts; those without a place come first.
fn place(fault: &Diagnostic, texts: &Texts) -> usize {
    fault.labels.iter().find(|label| label.primary).and_then(|label| texts.place(&label.span)).unwrap_or(0)
}

fn one_of(kinds: &[Kind]) -> String {
    let articles: Vec<&str> = kinds.iter().map(|kind| kind.article()).collect();
    match articles.as_slice() {
        [] => "nothing".to_owned(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

fn backticks(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
