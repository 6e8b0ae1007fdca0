//! Encoded messages to JSON values, with proto field names, as Envoy's config dump has them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use prost_reflect::{DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor};
use prost_reflect::{ReflectMessage as _, Value as Reflected};
use serde_json::{Map, Value};
use std::sync::LazyLock;

use super::{JsonError, REDACTED, Secrets, descriptor, pool, wkt};
use crate::Any;

static SENSITIVE: LazyLock<Option<ExtensionDescriptor>> =
    LazyLock::new(|| pool().get_extension_by_name("udpa.annotations.sensitive"));

pub(super) fn any(any: &Any, secrets: Secrets) -> Result<Value, JsonError> {
    let desc = descriptor(any.type_name())?;
    Ok(with_type(&any.type_url, &desc, message(&desc, any.value.clone(), secrets)?))
}

pub(super) fn message(desc: &MessageDescriptor, bytes: Bytes, secrets: Secrets) -> Result<Value, JsonError> {
    let message = DynamicMessage::decode(desc.clone(), bytes)
        .map_err(|source| JsonError::Broken { type_name: desc.full_name().to_owned(), source })?;
    Ok(Writer { secrets, sensitive: false, depth: 0 }.message(&message))
}

fn with_type(url: &str, desc: &MessageDescriptor, value: Value) -> Value {
    let mut object = Map::new();
    object.insert("@type".to_owned(), Value::String(url.to_owned()));
    match value {
        Value::Object(fields) if !wkt::has_own_form(desc) => object.extend(fields),
        other => {
            object.insert("value".to_owned(), other);
        }
    }
    Value::Object(object)
}

#[derive(Clone, Copy)]
struct Writer {
    secrets: Secrets,
    /// Inside a field marked as sensitive.
    sensitive: bool,
    depth: usize,
}

/// From here on a packed message stays packed. Unpacking begins anew to count how deep the decoder goes, so that this
/// alone bounds how deep messages are that hold one another.
const MAX_DEPTH: usize = 100;

impl Writer {
    fn message(self, message: &DynamicMessage) -> Value {
        let inner = Self { depth: self.depth + 1, ..self };
        if let Some(value) = inner.own_form(message) {
            return value;
        }
        let fields = message.fields().map(|(field, value)| (field.name().to_owned(), inner.field(&field, value)));
        Value::Object(fields.collect())
    }

    fn field(self, field: &FieldDescriptor, value: &Reflected) -> Value {
        let inner =
            Self { sensitive: self.sensitive || (self.secrets == Secrets::Redacted && sensitive(field)), ..self };
        let kind = field.kind();
        match value {
            Reflected::List(items) => Value::Array(items.iter().map(|item| inner.value(&kind, item)).collect()),
            Reflected::Map(entries) => {
                let Kind::Message(entry) = kind else { return Value::Null };
                let value_kind = entry.map_entry_value_field().kind();
                let mut pairs: Vec<(String, Value)> =
                    entries.iter().map(|(k, v)| (map_key(k), inner.value(&value_kind, v))).collect();
                pairs.sort_by(|a, b| a.0.cmp(&b.0));
                Value::Object(pairs.into_iter().collect())
            }
            single => inner.value(&kind, single),
        }
    }

    fn value(self, kind: &Kind, value: &Reflected) -> Value {
        match value {
            Reflected::Bool(b) => Value::Bool(*b),
            Reflected::I32(n) => Value::from(*n),
            Reflected::U32(n) => Value::from(*n),
            // 64 bits do not fit a JSON number everywhere.
            Reflected::I64(n) => Value::String(n.to_string()),
            Reflected::U64(n) => Value::String(n.to_string()),
            Reflected::F32(n) => float(f64::from(*n), || n.to_string()),
            Reflected::F64(n) => float(*n, || n.to_string()),
            Reflected::String(_) if self.sensitive => Value::String(REDACTED.to_owned()),
            Reflected::String(s) => Value::String(s.clone()),
            Reflected::Bytes(_) if self.sensitive => Value::String(STANDARD.encode(REDACTED)),
            Reflected::Bytes(bytes) => Value::String(STANDARD.encode(bytes)),
            Reflected::EnumNumber(number) => match kind {
                Kind::Enum(desc) if desc.full_name() == "google.protobuf.NullValue" => Value::Null,
                Kind::Enum(desc) => desc
                    .get_value(*number)
                    .map_or_else(|| Value::from(*number), |value| Value::String(value.name().to_owned())),
                _ => Value::from(*number),
            },
            Reflected::Message(message) => self.message(message),
            Reflected::List(_) | Reflected::Map(_) => Value::Null,
        }
    }

    fn own_form(self, message: &DynamicMessage) -> Option<Value> {
        let desc = message.descriptor();
        if !wkt::has_own_form(&desc) {
            return None;
        }
        Some(match desc.name() {
            "Any" => self.nested_any(&message.transcode_to().ok()?),
            "Duration" => Value::String(duration(&message.transcode_to().ok()?)),
            "Timestamp" => Value::String(message.transcode_to::<prost_types::Timestamp>().ok()?.to_string()),
            "Struct" => self.redactable(struct_to_value(message.transcode_to().ok()?)),
            "Value" => self.redactable(json_value(message.transcode_to().ok()?)),
            "ListValue" => {
                let list: prost_types::ListValue = message.transcode_to().ok()?;
                self.redactable(Value::Array(list.values.into_iter().map(json_value).collect()))
            }
            "FieldMask" => {
                let mask: prost_types::FieldMask = message.transcode_to().ok()?;
                Value::String(mask.paths.iter().map(|p| camel(p)).collect::<Vec<_>>().join(","))
            }
            _ => self.value(&desc.get_field(1)?.kind(), message.get_field_by_number(1)?.as_ref()),
        })
    }

    fn nested_any(self, any: &Any) -> Value {
        let desc = pool().get_message_by_name(any.type_name()).filter(|_| self.depth < MAX_DEPTH);
        let decoded = desc.and_then(|d| Some((DynamicMessage::decode(d.clone(), any.value.clone()).ok()?, d)));
        match decoded {
            Some((message, desc)) => with_type(&any.type_url, &desc, self.message(&message)),
            None if self.sensitive => serde_json::json!({"@type": any.type_url, "value": REDACTED}),
            None => serde_json::json!({"@type": any.type_url, "value": STANDARD.encode(&any.value)}),
        }
    }

    fn redactable(self, value: Value) -> Value {
        if self.sensitive { Value::String(REDACTED.to_owned()) } else { value }
    }
}

fn sensitive(field: &FieldDescriptor) -> bool {
    SENSITIVE.as_ref().is_some_and(|extension| field.options().get_extension(extension).as_bool() == Some(true))
}

fn float(number: f64, text: impl FnOnce() -> String) -> Value {
    if number.is_nan() {
        Value::String("NaN".to_owned())
    } else if number.is_infinite() {
        Value::String(if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned())
    } else {
        // The shortest text of an f32 is not that of the f64 it widens to.
        text().parse().ok().and_then(serde_json::Number::from_f64).map_or(Value::Null, Value::Number)
    }
}

fn map_key(key: &MapKey) -> String {
    match key {
        MapKey::Bool(k) => k.to_string(),
        MapKey::I32(k) => k.to_string(),
        MapKey::I64(k) => k.to_string(),
        MapKey::U32(k) => k.to_string(),
        MapKey::U64(k) => k.to_string(),
        MapKey::String(k) => k.clone(),
    }
}

fn duration(duration: &prost_types::Duration) -> String {
    let sign = if duration.seconds < 0 || duration.nanos < 0 { "-" } else { "" };
    let (seconds, nanos) = (duration.seconds.unsigned_abs(), duration.nanos.unsigned_abs());
    let digits = format!("{nanos:09}");
    let fraction = match nanos {
        0 => "",
        n if n % 1_000_000 == 0 => &digits[..3],
        n if n % 1_000 == 0 => &digits[..6],
        _ => &digits,
    };
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{seconds}{point}{fraction}s")
}

fn camel(path: &str) -> String {
    let mut out = String::new();
    let mut upper = false;
    for c in path.chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                out.push(c.to_ascii_uppercase());
                upper = false;
            }
            c => out.push(c),
        }
    }
    out
}

/// A `google.protobuf.Struct` as JSON.
pub(super) fn struct_to_value(fields: prost_types::Struct) -> Value {
    Value::Object(fields.fields.into_iter().map(|(key, value)| (key, json_value(value))).collect())
}

#[allow(clippy::cast_possible_truncation, reason = "no fraction and within 2^53, as tested")]
fn json_value(value: prost_types::Value) -> Value {
    use prost_types::value::Kind;
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        // A whole number is shown without a fraction; JSON makes no difference.
        Some(Kind::NumberValue(n)) if n.fract() == 0.0 && n.abs() < 9e15 => Value::from(n as i64),
        Some(Kind::NumberValue(n)) => serde_json::Number::from_f64(n).map_or(Value::Null, Value::Number),
        Some(Kind::StringValue(s)) => Value::String(s),
        Some(Kind::BoolValue(b)) => Value::Bool(b),
        Some(Kind::StructValue(fields)) => struct_to_value(fields),
        Some(Kind::ListValue(list)) => Value::Array(list.values.into_iter().map(json_value).collect()),
    }
}
