//! The JSON Schema of a kind's parameters, read the way the plan, the catalogue and the editor's schema need it.

use serde_json::Value;

/// What a schema allows, as far as it can be said in one line.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape<'schema> {
    /// The JSON types: `number`, `integer`, `string`, `boolean`, `array`, `object`; empty if anything goes. `null`, which TOML
    /// cannot write, is left out.
    pub types: Vec<&'schema str>,
    /// The words a string may be; empty if it is free.
    pub words: Vec<&'schema str>,
    /// The least allowed number.
    pub minimum: Option<f64>,
    /// The greatest allowed number.
    pub maximum: Option<f64>,
    /// The least and the greatest whole number that the parameter's type can hold.
    pub holds: Option<(i128, i128)>,
}

/// Returns the schemas that together describe a value: the schema itself and every branch of `anyOf`, `oneOf` and `allOf`.
pub fn branches(schema: &Value) -> Vec<&Value> {
    let mut all = vec![schema];
    for word in ["anyOf", "oneOf", "allOf"] {
        for branch in schema.get(word).and_then(Value::as_array).into_iter().flatten() {
            all.extend(branches(branch));
        }
    }
    all
}

/// Returns the fields of a table with one shape, or `None` if the schema is of something else or of several shapes of table.
pub fn fields(schema: &Value) -> Option<&serde_json::Map<String, Value>> {
    let mut tables = branches(schema).into_iter().filter_map(|branch| branch.get("properties")?.as_object());
    let first = tables.next()?;
    tables.next().is_none().then_some(first)
}

/// Returns whether a table with these fields may have no others.
pub fn is_closed(schema: &Value) -> bool {
    branches(schema).into_iter().any(|branch| branch.get("additionalProperties") == Some(&Value::Bool(false)))
}

/// Returns the fields that must be there.
pub fn required(schema: &Value) -> Vec<&str> {
    let lists = branches(schema).into_iter().filter_map(|branch| branch.get("required")?.as_array());
    lists.flatten().filter_map(Value::as_str).collect()
}

/// Returns the schema of the elements of a list, if they share one.
pub fn elements(schema: &Value) -> Option<&Value> {
    branches(schema).into_iter().find_map(|branch| branch.get("items").filter(|items| items.is_object()))
}

/// Returns the doc comment as one line; each of its paragraphs ends as a sentence does.
pub fn description(schema: &Value) -> Option<String> {
    let text = branches(schema).into_iter().find_map(|branch| branch.get("description")?.as_str())?;
    let sentence = |paragraph: &str| {
        let mut line = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
        if !line.ends_with(['.', '!', '?', ':']) {
            line.push('.');
        }
        line
    };
    Some(text.split("\n\n").map(sentence).collect::<Vec<_>>().join(" "))
}

/// Whether the parameter is part of the key.
pub fn is_in_key(schema: &Value) -> bool {
    !branches(schema).into_iter().any(|branch| branch.get("x-in-key") == Some(&Value::Bool(false)))
}

/// Returns what a schema allows.
pub fn shape(schema: &Value) -> Shape<'_> {
    let mut shape = Shape { types: Vec::new(), words: Vec::new(), minimum: None, maximum: None, holds: None };
    let mut free_string = false;
    for branch in branches(schema) {
        let words: Vec<&str> = match (branch.get("enum"), branch.get("const")) {
            (Some(Value::Array(words)), _) => words.iter().filter_map(Value::as_str).collect(),
            (_, Some(Value::String(word))) => vec![word.as_str()],
            _ => Vec::new(),
        };
        let types: Vec<&str> = match branch.get("type") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ if words.is_empty() => Vec::new(),
            _ => vec!["string"],
        };
        free_string |= types.contains(&"string") && words.is_empty();
        for name in types.into_iter().filter(|name| *name != "null") {
            if !shape.types.contains(&name) {
                shape.types.push(name);
            }
        }
        shape.words.extend(words);
        shape.minimum = shape.minimum.or(branch.get("minimum").and_then(Value::as_f64));
        shape.maximum = shape.maximum.or(branch.get("maximum").and_then(Value::as_f64));
        shape.holds = shape.holds.or(branch.get("format").and_then(Value::as_str).and_then(range_of));
    }
    if free_string {
        shape.words.clear();
    }
    shape
}

/// Returns the range of an integer type, by the name that schemars gives it.
fn range_of(format: &str) -> Option<(i128, i128)> {
    Some(match format {
        "int8" => (i8::MIN.into(), i8::MAX.into()),
        "int16" => (i16::MIN.into(), i16::MAX.into()),
        "int32" => (i32::MIN.into(), i32::MAX.into()),
        "int" | "int64" => (i64::MIN.into(), i64::MAX.into()),
        "uint8" => (0, u8::MAX.into()),
        "uint16" => (0, u16::MAX.into()),
        "uint32" => (0, u32::MAX.into()),
        "uint" | "uint64" => (0, u64::MAX.into()),
        _ => return None,
    })
}

impl Shape<'_> {
    /// Returns what is allowed, for people: `a number`, ``one of `paper`, `upstream` ``.
    pub fn described(&self) -> String {
        let mut parts: Vec<String> = Vec::new();
        for name in &self.types {
            match *name {
                // A number that may be whole is a number.
                "integer" if self.types.contains(&"number") => {}
                "integer" => parts.push("a whole number".to_owned()),
                "number" => parts.push("a number".to_owned()),
                "boolean" => parts.push("`true` or `false`".to_owned()),
                "array" => parts.push("a list".to_owned()),
                "object" => parts.push("a table".to_owned()),
                "string" if self.words.is_empty() => parts.push("a string".to_owned()),
                "string" => {
                    let words: Vec<String> = self.words.iter().map(|word| format!("`{word}`")).collect();
                    let one_of = if words.len() > 1 { "one of " } else { "" };
                    parts.push(format!("{one_of}{}", words.join(", ")));
                }
                other => parts.push(other.to_owned()),
            }
        }
        if parts.is_empty() { "a value".to_owned() } else { parts.join(" or ") }
    }
}

/// Returns parameters without those whose schema says `"x-in-key": false`, at any depth.
pub fn strip(params: &Value, schema: &Value) -> Value {
    match params {
        Value::Object(fields) => {
            let kept = fields.iter().filter_map(|(name, value)| {
                let schemas = branches(schema);
                let known: Vec<&Value> =
                    schemas.iter().filter_map(|branch| branch.get("properties")?.get(name)).collect();
                if known.iter().any(|schema| !is_in_key(schema)) {
                    return None;
                }
                let others = || schemas.iter().find_map(|branch| branch.get("additionalProperties"));
                // Where several shapes of table share a field's name, the first decides what lies below.
                let below = known.first().copied().or_else(others).unwrap_or(&Value::Null);
                Some((name.clone(), strip(value, below)))
            });
            Value::Object(kept.collect())
        }
        Value::Array(list) => {
            let tuple = branches(schema).into_iter().find_map(|branch| {
                let listed = branch.get("items").filter(|items| items.is_array());
                listed.or_else(|| branch.get("prefixItems"))?.as_array()
            });
            let of = |index: usize| match tuple {
                Some(schemas) => schemas.get(index).unwrap_or(&Value::Null),
                None => elements(schema).unwrap_or(&Value::Null),
            };
            Value::Array(list.iter().enumerate().map(|(index, value)| strip(value, of(index))).collect())
        }
        scalar => scalar.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::NotInKey;
    use schemars::JsonSchema;
    use serde::Serialize;
    use serde_json::json;

    #[derive(Serialize, JsonSchema)]
    struct Outer {
        kept: u32,
        dropped: NotInKey<u32>,
        maybe: Option<Inner>,
        list: Vec<Inner>,
        pair: (u8, Inner),
        map: std::collections::BTreeMap<String, Inner>,
        chosen: Chosen,
    }

    #[derive(Clone, Serialize, JsonSchema)]
    struct Inner {
        kept: u32,
        dropped: NotInKey<Option<u32>>,
    }

    #[derive(Serialize, JsonSchema)]
    #[serde(tag = "by")]
    enum Chosen {
        #[expect(dead_code, reason = "only its schema counts")]
        One {
            kept: u8,
        },
        Two {
            kept: u8,
            dropped: NotInKey<u8>,
        },
    }

    /// A schema as [`crate::stage::Listed`] makes it.
    fn schema<T: JsonSchema>() -> Value {
        schemars::generate::SchemaSettings::draft07()
            .with(|settings| settings.inline_subschemas = true)
            .into_generator()
            .into_root_schema_for::<T>()
            .to_value()
    }

    #[test]
    fn fields_that_are_not_in_the_key_are_stripped_at_any_depth() {
        let inner = Inner { kept: 1, dropped: NotInKey(Some(2)) };
        let outer = Outer {
            kept: 1,
            dropped: NotInKey(2),
            maybe: Some(inner.clone()),
            list: vec![inner.clone()],
            pair: (3, inner.clone()),
            map: [("a".to_owned(), inner)].into(),
            chosen: Chosen::Two { kept: 4, dropped: NotInKey(5) },
        };
        let params = serde_json::to_value(&outer).expect("JSON");
        assert_eq!(
            strip(&params, &schema::<Outer>()),
            json!({
                "kept": 1,
                "maybe": { "kept": 1 },
                "list": [{ "kept": 1 }],
                "pair": [3, { "kept": 1 }],
                "map": { "a": { "kept": 1 } },
                "chosen": { "by": "Two", "kept": 4 },
            })
        );
    }

    #[derive(JsonSchema)]
    #[serde(rename_all = "snake_case")]
    #[expect(dead_code, reason = "only its schema counts")]
    enum Word {
        /// Each class.
        PerClass,
        /// All of them.
        Global,
    }

    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema counts")]
    struct Several {
        count: u32,
        rate: Option<f32>,
        word: Option<Word>,
        words: Vec<Word>,
        list: Vec<(f32, u8)>,
    }

    #[test]
    fn shapes_are_said_in_one_line() {
        let schema = schema::<Several>();
        let fields = fields(&schema).expect("a table");
        let said = |name: &str| shape(&fields[name]).described();
        assert_eq!(said("count"), "a whole number");
        assert_eq!(shape(&fields["count"]).minimum, Some(0.0));
        assert_eq!(said("rate"), "a number");
        assert_eq!(said("word"), "one of `per_class`, `global`");
        assert_eq!(said("words"), "a list");
        assert_eq!(said("list"), "a list");
        assert_eq!(
            required(&schema),
            ["count", "word", "words", "list"].iter().copied().filter(|n| *n != "word").collect::<Vec<_>>()
        );
    }
}
