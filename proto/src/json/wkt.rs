//! The messages with a JSON form of their own: `Any`, `Duration`, `Timestamp`, wrappers, `Struct` and its parts, `FieldMask`.

use prost::Message as _;
use prost_reflect::{Kind, MessageDescriptor};
use serde_json::{Map, Value};

use super::pool;
use super::read::{Reader, did_you_mean, length_delimited, show, wire_type};

/// Appends the message if it has a form of its own; false when `value` is to be read field by field.
pub(super) fn read(reader: &mut Reader, desc: &MessageDescriptor, value: &Value, out: &mut Vec<u8>) -> bool {
    let Some(name) = desc.full_name().strip_prefix("google.protobuf.") else { return false };
    match name {
        "Any" => any(reader, value, out),
        "Duration" | "Timestamp" => match value {
            Value::Object(_) if reader.lenient() => return false,
            _ => time(reader, name, value, out),
        },
        "DoubleValue" | "FloatValue" | "Int64Value" | "UInt64Value" | "Int32Value" | "UInt32Value" | "BoolValue"
        | "StringValue" | "BytesValue" => match value {
            Value::Object(_) if reader.lenient() => return false,
            _ => wrapper(reader, desc, value, out),
        },
        "Struct" => match value {
            Value::Object(fields) => structure(fields, out),
            other => reader.refuse(format!("expected an object, not {}", show(other))),
        },
        "Value" => out.extend_from_slice(&json_value(value)),
        "ListValue" => match value {
            Value::Array(items) => list_value(items, out),
            other => reader.refuse(format!("expected a list, not {}", show(other))),
        },
        "FieldMask" => field_mask(reader, value, out),
        _ => return false,
    }
    true
}

/// Whether the JSON form of this message is not an object of its fields, so that an `Any` of it has a `value` key.
pub(super) fn has_own_form(desc: &MessageDescriptor) -> bool {
    let own = ["Any", "Duration", "Timestamp", "Struct", "Value", "ListValue", "FieldMask"];
    desc.full_name()
        .strip_prefix("google.protobuf.")
        .is_some_and(|name| own.contains(&name) || (name.ends_with("Value") && name != "NullValue"))
}

fn any(reader: &mut Reader, value: &Value, out: &mut Vec<u8>) {
    let Value::Object(object) = value else {
        return reader.refuse(format!("expected an object with \"@type\", not {}", show(value)));
    };
    let Some(url) = object.get("@type") else {
        return reader.refuse("\"@type\" is missing: it names the type of this configuration");
    };
    let mut url_text = "";
    reader.at_key("@type", |r| url_text = r.string(url));
    if url_text.is_empty() {
        return;
    }
    let type_name = url_text.rsplit('/').next().unwrap_or_default();
    let Some(desc) = pool().get_message_by_name(type_name) else {
        let hint = similar_type(type_name);
        return reader.at_key("@type", |r| r.refuse(format!("unknown type {type_name}{hint}")));
    };
    let mut bytes = Vec::new();
    if has_own_form(&desc) {
        match object.get("value") {
            Some(inner) => reader.at_key("value", |r| r.message(&desc, inner, &mut bytes)),
            None => reader.refuse("\"value\" is missing"),
        }
    } else {
        reader.fields(&desc, object, true, &mut bytes);
    }
    length_delimited(1, url_text.as_bytes(), out);
    if !bytes.is_empty() {
        length_delimited(2, &bytes, out);
    }
}

fn similar_type(type_name: &str) -> String {
    let last = type_name.rsplit('.').next().unwrap_or_default();
    let same_name = pool().all_messages().find(|m| m.name() == last && m.full_name().contains(".v3."));
    if let Some(found) = same_name {
        return format!(", did you mean {}?", found.full_name());
    }
    let names: Vec<String> = pool().all_messages().map(|m| m.full_name().to_owned()).collect();
    did_you_mean(type_name, &names)
}

fn time(reader: &mut Reader, name: &str, value: &Value, out: &mut Vec<u8>) {
    let Value::String(text) = value else {
        let example = if name == "Duration" { "\"1.5s\"" } else { "\"2026-01-02T15:04:05Z\"" };
        return reader.refuse(format!("expected a string like {example}, not {}", show(value)));
    };
    if name == "Duration" {
        match duration(text) {
            Some(duration) => out.extend_from_slice(&duration.encode_to_vec()),
            None => reader.refuse(format!("expected a duration in seconds like \"1.5s\", not {text:?}")),
        }
    } else {
        match text.parse::<prost_types::Timestamp>() {
            Ok(timestamp) => out.extend_from_slice(&timestamp.encode_to_vec()),
            Err(_) => reader.refuse(format!("expected a time like \"2026-01-02T15:04:05Z\", not {text:?}")),
        }
    }
}

/// `1.5s`; only seconds, at most nine decimals, at most 10,000 years.
fn duration(text: &str) -> Option<prost_types::Duration> {
    const MAX_SECONDS: i64 = 315_576_000_000;
    let text = text.strip_suffix('s')?;
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |t| (true, t));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 9 || text.ends_with('.') {
        return None;
    }
    let seconds: i64 = whole.parse().ok().filter(|s| *s <= MAX_SECONDS)?;
    let nanos: i32 = format!("{fraction:0<9}").parse().ok()?;
    let sign = if negative { -1 } else { 1 };
    Some(prost_types::Duration { seconds: seconds * i64::from(sign), nanos: nanos * sign })
}

fn wrapper(reader: &mut Reader, desc: &MessageDescriptor, value: &Value, out: &mut Vec<u8>) {
    let Some(field) = desc.get_field(1) else { return };
    let mut bytes = Vec::new();
    reader.scalar(&field.kind(), value, &mut bytes);
    if bytes.iter().any(|b| *b != 0) {
        prost::encoding::encode_key(1, wire_type(&field.kind()), out);
        out.extend_from_slice(&bytes);
    }
}

fn field_mask(reader: &mut Reader, value: &Value, out: &mut Vec<u8>) {
    for path in reader.string(value).split(',').filter(|p| !p.is_empty()) {
        let mut snake = String::new();
        for c in path.chars() {
            if c.is_ascii_uppercase() {
                snake.push('_');
            }
            snake.push(c.to_ascii_lowercase());
        }
        length_delimited(1, snake.as_bytes(), out);
    }
}

fn structure(fields: &Map<String, Value>, out: &mut Vec<u8>) {
    let mut keys: Vec<&String> = fields.keys().collect();
    keys.sort_unstable();
    for key in keys {
        let mut entry = Vec::new();
        if !key.is_empty() {
            length_delimited(1, key.as_bytes(), &mut entry);
        }
        length_delimited(2, &json_value(&fields[key]), &mut entry);
        length_delimited(1, &entry, out);
    }
}

fn list_value(items: &[Value], out: &mut Vec<u8>) {
    for item in items {
        length_delimited(1, &json_value(item), out);
    }
}

/// An encoded `google.protobuf.Value`.
fn json_value(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    match value {
        Value::Null => {
            prost::encoding::encode_key(1, wire_type(&Kind::Bool), &mut out);
            out.push(0);
        }
        Value::Number(n) => {
            prost::encoding::encode_key(2, wire_type(&Kind::Double), &mut out);
            out.extend_from_slice(&n.as_f64().unwrap_or_default().to_le_bytes());
        }
        Value::String(s) => length_delimited(3, s.as_bytes(), &mut out),
        Value::Bool(b) => {
            prost::encoding::encode_key(4, wire_type(&Kind::Bool), &mut out);
            out.push(u8::from(*b));
        }
        Value::Object(fields) => {
            let mut inner = Vec::new();
            structure(fields, &mut inner);
            length_delimited(5, &inner, &mut out);
        }
        Value::Array(items) => {
            let mut inner = Vec::new();
            list_value(items, &mut inner);
            length_delimited(6, &inner, &mut out);
        }
    }
    out
}
