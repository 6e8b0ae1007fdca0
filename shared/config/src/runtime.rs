//! Runtime values: what the layers of the bootstrap say about keys that fractions, flags and numbers refer to.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use proto::envoy::config::bootstrap::v3 as pb;
use serde_json::Value;

use crate::core::{Fraction, RuntimeFlag, RuntimeFraction, RuntimeNumber};
use crate::invalid::Problems;

/// One layer.
#[derive(Debug, Clone, PartialEq)]
pub struct RuntimeLayer {
    /// Unique.
    pub name: String,
    /// Where its values are.
    pub values: LayerValues,
}

/// See [`RuntimeLayer`].
#[derive(Debug, Clone, PartialEq)]
pub enum LayerValues {
    /// Here, by the whole key: `{a: {b: 1}}` is `a.b`.
    Static(BTreeMap<String, Value>),
    /// In the memory of the admin server, which changes them.
    Admin,
}

/// The values in force.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Runtime {
    values: BTreeMap<String, Value>,
}

impl Runtime {
    /// The values of `layers`, later ones over earlier ones; `admin` stands for the admin layer, if there is one.
    pub fn new(layers: &[RuntimeLayer], admin: &BTreeMap<String, Value>) -> Self {
        let mut values = BTreeMap::new();
        for layer in layers {
            let layer = match &layer.values {
                LayerValues::Static(values) => values,
                LayerValues::Admin => admin,
            };
            values.extend(layer.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        Self { values }
    }

    /// Every value, by key.
    pub fn values(&self) -> &BTreeMap<String, Value> {
        &self.values
    }

    /// The value of a fraction: a number means percent, an object has `numerator` and `denominator`.
    pub fn fraction(&self, fraction: &RuntimeFraction) -> Fraction {
        match self.values.get(&fraction.key) {
            Some(Value::Object(fields)) => {
                let denominator = match fields.get("denominator").and_then(Value::as_str) {
                    Some("TEN_THOUSAND") => 10_000,
                    Some("MILLION") => 1_000_000,
                    _ => 100,
                };
                let numerator = fields.get("numerator").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
                Fraction { numerator: numerator.unwrap_or_default(), denominator }
            }
            Some(value) => match number(value).and_then(|n| u32::try_from(n).ok()) {
                Some(numerator) => Fraction { numerator: numerator.min(100), denominator: 100 },
                None => fraction.default,
            },
            None => fraction.default,
        }
    }

    /// The value of a flag.
    pub fn flag(&self, flag: &RuntimeFlag) -> bool {
        match self.values.get(&flag.key) {
            Some(Value::Bool(value)) => *value,
            Some(Value::String(text)) if text == "true" || text == "false" => text == "true",
            Some(value) => number(value).map_or(flag.default, |n| n != 0),
            None => flag.default,
        }
    }

    /// The value of a number.
    pub fn number(&self, runtime_number: &RuntimeNumber) -> u64 {
        let value = self.values.get(&runtime_number.key).and_then(number);
        value.unwrap_or(u64::from(runtime_number.default))
    }
}

static PROCESS: OnceLock<Runtime> = OnceLock::new();

/// Makes these the values of the process. The layers of a bootstrap never change, so they are set once, before the
/// first snapshot is compiled; whoever does not set them (the control plane, a test) has the defaults.
pub fn install(runtime: Runtime) {
    // A second proxy in one process, as tests have it, keeps the values of the first.
    let _ = PROCESS.set(runtime);
}

/// The values of the process.
pub fn process() -> &'static Runtime {
    PROCESS.get_or_init(Runtime::default)
}

/// A number, also one in quotes.
fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Number(n) => n.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

// === decode ===

/// Decodes the layers of the bootstrap: static ones, and one admin layer.
pub fn layers(proto: &pb::LayeredRuntime, p: &mut Problems) -> Vec<RuntimeLayer> {
    use pb::runtime_layer::LayerSpecifier;
    let mut names: Vec<&str> = Vec::new();
    let mut admin = false;
    p.at("layers", |p| {
        let mut layers = Vec::new();
        for (index, layer) in proto.layers.iter().enumerate() {
            p.index(index, |p| {
                if layer.name.is_empty() {
                    p.refuse_at::<()>("name", "must not be empty");
                } else if names.contains(&layer.name.as_str()) {
                    p.refuse_at::<()>("name", format!("there is another layer {:?}", layer.name));
                }
                names.push(&layer.name);
                let values = match &layer.layer_specifier {
                    Some(LayerSpecifier::StaticLayer(fields)) => {
                        let mut values = BTreeMap::new();
                        flatten("", &proto::json::struct_to_value(fields), &mut values);
                        LayerValues::Static(values)
                    }
                    Some(LayerSpecifier::AdminLayer(_)) if admin => {
                        return p.refuse("there is another admin layer");
                    }
                    Some(LayerSpecifier::AdminLayer(_)) => {
                        admin = true;
                        LayerValues::Admin
                    }
                    Some(LayerSpecifier::DiskLayer(_)) => return p.unimplemented("disk_layer"),
                    Some(LayerSpecifier::RtdsLayer(_)) => return p.unimplemented("rtds_layer"),
                    None => return p.refuse("one of static_layer and admin_layer is required"),
                };
                layers.push(RuntimeLayer { name: layer.name.clone(), values });
            });
        }
        layers
    })
}

/// Flattens nested objects to whole keys; an object with a `numerator` is a fraction and stays.
fn flatten(prefix: &str, value: &Value, values: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) if prefix.is_empty() || !is_fraction(fields) => {
            for (key, value) in fields {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&key, value, values);
            }
        }
        value => {
            values.insert(prefix.to_owned(), value.clone());
        }
    }
}

fn is_fraction(fields: &serde_json::Map<String, Value>) -> bool {
    fields.contains_key("numerator") || fields.contains_key("denominator")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn runtime(text: &str) -> Runtime {
        let proto: pb::LayeredRuntime = proto::json::from_yaml(text).unwrap();
        let mut p = Problems::default();
        let layers = layers(&proto, &mut p);
        assert_eq!(p.count(), 0);
        Runtime::new(&layers, &[("x.y".to_owned(), json!("7"))].into())
    }

    #[test]
    fn later_layers_win_and_nested_keys_are_joined() {
        let runtime = runtime(
            "{layers: [{name: a, static_layer: {x: {y: 5, z: true}, f: {numerator: 3, denominator: MILLION}}}, \
             {name: b, admin_layer: {}}, {name: c, static_layer: {x.z: false, p: 30}}]}",
        );
        let number = |key: &str| runtime.number(&RuntimeNumber { default: 1, key: key.into() });
        let flag = |key: &str| runtime.flag(&RuntimeFlag { default: true, key: key.into() });
        let fraction = |key: &str| runtime.fraction(&RuntimeFraction { default: Fraction::ALL, key: key.into() });
        assert_eq!((number("x.y"), number("none"), number("")), (7, 1, 1));
        assert_eq!((flag("x.z"), flag("none")), (false, true));
        assert_eq!(fraction("f"), Fraction { numerator: 3, denominator: 1_000_000 });
        assert_eq!(fraction("p"), Fraction { numerator: 30, denominator: 100 });
        assert_eq!(fraction("none"), Fraction::ALL);
    }

    #[test]
    fn layers_we_do_not_have_are_refused_by_name() {
        let proto: pb::LayeredRuntime = proto::json::from_yaml(
            "{layers: [{name: a, rtds_layer: {name: x}}, {name: a, admin_layer: {}}, {name: c, disk_layer: {}}]}",
        )
        .unwrap();
        let mut p = Problems::default();
        layers(&proto, &mut p);
        let text = p.finish(Some(())).unwrap_err().to_string();
        assert_eq!(
            text,
            "layers[0].rtds_layer: not implemented by weir-proxy; layers[1].name: there is another layer \"a\"; \
             layers[2].disk_layer: not implemented by weir-proxy"
        );
    }
}
