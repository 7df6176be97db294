//! `orandflow schema`: a JSON Schema (draft 7) of pipeline files, for editors such as those that use taplo.

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::Failure;
use super::common::deliver;
use super::stages::is_debug;
use crate::pipeline::resources;
use crate::stage::{Spec, StageKind};
use crate::stages;

/// Arguments of `schema`.
#[derive(Debug, clap::Args)]
pub(crate) struct SchemaArgs {}

/// Runs `schema`.
pub(crate) fn schema(_args: &SchemaArgs) -> Result<ExitCode, Failure> {
    let text = serde_json::to_string_pretty(&of_files(stages::catalog())).expect("a schema is JSON");
    deliver(&(text + "\n"), None)
}

/// Returns the schema of a whole file. A stage is one of as many shapes as there are kinds, told apart by `kind`.
fn of_files(catalog: &[&'static dyn StageKind]) -> Value {
    let shown = || catalog.iter().filter(|kind| !is_debug(kind.spec()));
    let definitions: Map<String, Value> =
        shown().map(|kind| (kind.spec().name.to_owned(), of_stage(kind.spec(), kind.schema().to_value()))).collect();
    let choices: Vec<Value> =
        shown().map(|kind| json!({ "$ref": format!("#/definitions/{}", kind.spec().name) })).collect();
    let like = json!({
        "type": "object",
        "description": "A stage that takes kind, parameters and inputs of another one where it has none of its own.",
        "required": ["like"],
        "properties": { "like": { "type": "string", "description": "The other stage." } }
    });
    let choices: Vec<Value> = choices.into_iter().chain([like]).collect();
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "orandflow pipeline",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "pipeline": {
                "type": "object",
                "description": "The pipeline as a whole.",
                "additionalProperties": false,
                "properties": {
                    "name": { "type": "string", "description": "Its name; by default the file's." },
                    "seed": {
                        "type": "integer",
                        "minimum": 0,
                        "default": 0,
                        "description": "Every stage that draws random numbers derives its own seed from this one."
                    }
                }
            },
            "vars": {
                "type": "object",
                "description": "Values for `${name}` in the strings of stages.",
                "additionalProperties": { "type": ["string", "number", "boolean"] }
            },
            "stages": {
                "type": "object",
                "description": "The stages by name.",
                "additionalProperties": { "oneOf": choices }
            }
        },
        "definitions": definitions
    })
}

/// Returns the schema of `resources`.
fn resources() -> Value {
    let fields = resources::WORDS.iter().map(|(word, about)| {
        let shape = match *word {
            "gpus" => json!({ "type": "integer", "minimum": 0, "description": about }),
            "cpus" => json!({ "type": "integer", "minimum": 1, "description": about }),
            _ => json!({ "type": "string", "description": about }),
        };
        ((*word).to_owned(), shape)
    });
    json!({
        "type": "object",
        "description": "What one action of the stage needs of a machine. Not part of the key.",
        "additionalProperties": false,
        "properties": fields.collect::<Map<String, Value>>(),
    })
}

/// Returns the schema of a stage: its kind's parameters, and beside them `kind` and `inputs`.
fn of_stage(spec: &Spec, parameters: Value) -> Value {
    let mut schema = match parameters {
        Value::Object(schema) => schema,
        _ => Map::new(),
    };
    schema.remove("$schema");
    schema.insert("title".to_owned(), spec.name.into());
    schema.insert("description".to_owned(), spec.about.into());
    let ports: Map<String, Value> = spec
        .inputs
        .iter()
        .map(|port| {
            let takes: Vec<&str> = port.takes.iter().map(|kind| kind.article()).collect();
            let about = format!("{}. Takes {}.", port.about, takes.join(" or "));
            (port.name.to_owned(), json!({ "type": "string", "description": about }))
        })
        .collect();
    let needed: Vec<&str> = spec.inputs.iter().filter(|port| !port.optional).map(|port| port.name).collect();
    let mut required: Vec<Value> = vec!["kind".into()];
    if let Some(Value::Array(more)) = schema.remove("required") {
        required.extend(more);
    }
    if !needed.is_empty() {
        required.push("inputs".into());
    }
    let inputs = json!({
        "type": "object",
        "description": "Port and stage.",
        "additionalProperties": false,
        "properties": ports,
        "required": needed
    });
    if let Value::Object(properties) = schema.entry("properties").or_insert_with(|| json!({})) {
        properties.insert("kind".to_owned(), json!({ "const": spec.name, "description": spec.about }));
        properties.insert("inputs".to_owned(), inputs);
        properties.insert("resources".to_owned(), resources());
    }
    schema.insert("required".to_owned(), required.into());
    schema.insert("type".to_owned(), "object".into());
    schema.insert("additionalProperties".to_owned(), false.into());
    Value::Object(schema)
}
