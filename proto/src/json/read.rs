//! A JSON value to the wire bytes of the message it describes, guided by descriptors.
//!
//! Writes what prost would write (fields by number, maps sorted, no defaults), so equal documents give equal bytes.

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value};

use super::{Mode, Path, Problem, Segment, wkt};

/// Deeper documents are refused; Envoy's protobuf has the same limit.
const MAX_DEPTH: usize = 100;

pub(super) fn encode(desc: &MessageDescriptor, value: &Value, mode: Mode) -> Result<Vec<u8>, Vec<Problem>> {
    let mut reader = Reader { mode, path: Vec::new(), depth: 0, problems: Vec::new() };
    let mut out = Vec::new();
    // An empty file is an empty message, as for Envoy.
    if !value.is_null() {
        reader.message(desc, value, &mut out);
    }
    if reader.problems.is_empty() { Ok(out) } else { Err(reader.problems) }
}

pub(super) struct Reader {
    pub(super) mode: Mode,
    path: Vec<Segment>,
    depth: usize,
    problems: Vec<Problem>,
}

impl Reader {
    pub(super) fn lenient(&self) -> bool {
        self.mode == Mode::Lenient
    }

    pub(super) fn refuse(&mut self, reason: impl Into<String>) {
        self.problems.push(Problem { path: Path(self.path.clone()), reason: reason.into(), position: None });
    }

    pub(super) fn at_key(&mut self, key: &str, f: impl FnOnce(&mut Self)) {
        self.path.push(Segment::Key(key.to_owned()));
        f(self);
        self.path.pop();
    }

    fn at_index(&mut self, index: usize, f: impl FnOnce(&mut Self)) {
        self.path.push(Segment::Index(index));
        f(self);
        self.path.pop();
    }

    /// Appends the fields of the message that `value` describes.
    pub(super) fn message(&mut self, desc: &MessageDescriptor, value: &Value, out: &mut Vec<u8>) {
        if self.depth >= MAX_DEPTH {
            return self.refuse(format!("nested deeper than {MAX_DEPTH} levels"));
        }
        self.depth += 1;
        if !wkt::read(self, desc, value, out) {
            match value {
                Value::Object(object) => self.fields(desc, object, false, out),
                other => self.refuse(format!("expected an object ({}), not {}", desc.name(), kind_of(other))),
            }
        }
        self.depth -= 1;
    }

    /// Appends the fields of `object`; with `in_any` the key `@type` is no field.
    pub(super) fn fields(
        &mut self,
        desc: &MessageDescriptor,
        object: &Map<String, Value>,
        in_any: bool,
        out: &mut Vec<u8>,
    ) {
        let mut found: Vec<(FieldDescriptor, &String, &Value)> = Vec::with_capacity(object.len());
        for (key, value) in object {
            if in_any && key == "@type" {
                continue;
            }
            let Some(field) = desc.get_field_by_json_name(key).or_else(|| desc.get_field_by_name(key)) else {
                self.at_key(key, |r| r.refuse(unknown_field(desc, key)));
                continue;
            };
            if value.is_null() && !takes_null(&field) {
                continue;
            }
            let other = found.iter().find(|(f, ..)| {
                *f == field || (f.containing_oneof().is_some() && f.containing_oneof() == field.containing_oneof())
            });
            if let Some((_, other, _)) = other {
                let reason = format!("cannot be set together with {other}");
                self.at_key(key, |r| r.refuse(reason));
                continue;
            }
            found.push((field, key, value));
        }
        // Problems in the order of the document, bytes in the order of the fields.
        let mut parts: Vec<(u32, Vec<u8>)> = Vec::with_capacity(found.len());
        for (field, key, value) in found {
            let mut bytes = Vec::new();
            self.at_key(key, |r| r.field(&field, value, &mut bytes));
            parts.push((field.number(), bytes));
        }
        parts.sort_by_key(|(number, _)| *number);
        for (_, bytes) in parts {
            out.extend_from_slice(&bytes);
        }
    }

    fn field(&mut self, field: &FieldDescriptor, value: &Value, out: &mut Vec<u8>) {
        if field.is_map() {
            self.map(field, value, out);
        } else if field.is_list() {
            match value {
                Value::Array(items) => self.list(field, items, out),
                one if self.lenient() => self.list(field, std::slice::from_ref(one), out),
                other => self.refuse(format!("expected a list, not {}", kind_of(other))),
            }
        } else {
            self.single(field.number(), &field.kind(), field.supports_presence(), value, out);
        }
    }

    fn list(&mut self, field: &FieldDescriptor, items: &[Value], out: &mut Vec<u8>) {
        let kind = field.kind();
        let mut packed = Vec::new();
        for (index, item) in items.iter().enumerate() {
            self.at_index(index, |r| {
                if field.is_packed() {
                    let mut one = Vec::new();
                    r.scalar(&kind, item, &mut one);
                    packed.extend_from_slice(&one);
                } else {
                    r.single(field.number(), &kind, true, item, out);
                }
            });
        }
        if !packed.is_empty() {
            length_delimited(field.number(), &packed, out);
        }
    }

    fn map(&mut self, field: &FieldDescriptor, value: &Value, out: &mut Vec<u8>) {
        let Value::Object(object) = value else {
            return self.refuse(format!("expected a map, not {}", kind_of(value)));
        };
        let Kind::Message(entry) = field.kind() else { return };
        let (key_kind, value_kind) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
        let mut keys: Vec<&String> = object.keys().collect();
        if matches!(key_kind, Kind::String) {
            keys.sort_unstable();
        } else {
            keys.sort_by_key(|key| key.parse::<i128>().unwrap_or(i128::MAX));
        }
        for key in keys {
            let mut bytes = Vec::new();
            self.at_key(key, |r| {
                let key_value = match key_kind {
                    Kind::Bool => Value::Bool(key == "true"),
                    _ => Value::String(key.clone()),
                };
                r.single(1, &key_kind, false, &key_value, &mut bytes);
                let mut value_bytes = Vec::new();
                r.single(2, &value_kind, false, &object[key], &mut value_bytes);
                // prost leaves out a value that is the default message.
                if !matches!(value_kind, Kind::Message(_)) || value_bytes.len() > 2 {
                    bytes.extend_from_slice(&value_bytes);
                }
            });
            length_delimited(field.number(), &bytes, out);
        }
    }

    /// Appends one value with its key; a default only when `presence` says that it is told apart from absence.
    fn single(&mut self, number: u32, kind: &Kind, presence: bool, value: &Value, out: &mut Vec<u8>) {
        if let Kind::Message(desc) = kind {
            let mut bytes = Vec::new();
            self.message(desc, value, &mut bytes);
            return length_delimited(number, &bytes, out);
        }
        let mut bytes = Vec::new();
        self.scalar(kind, value, &mut bytes);
        if !presence && bytes.iter().all(|b| *b == 0) {
            return;
        }
        encode_key(number, wire_type(kind), out);
        out.extend_from_slice(&bytes);
    }

    /// Appends one scalar without its key.
    #[allow(clippy::cast_possible_truncation, reason = "the range is checked before")]
    pub(super) fn scalar(&mut self, kind: &Kind, value: &Value, out: &mut Vec<u8>) {
        let signed = |bits: u32| (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1);
        match kind {
            Kind::Double => out.extend_from_slice(&self.float(value).to_le_bytes()),
            Kind::Float => out.extend_from_slice(&(self.float(value) as f32).to_le_bytes()),
            Kind::Int32 | Kind::Int64 => {
                let (min, max) = signed(if matches!(kind, Kind::Int32) { 32 } else { 64 });
                let number = self.integer(value, min, max) as i64;
                encode_varint(number.cast_unsigned(), out);
            }
            Kind::Uint32 => encode_varint(self.integer(value, 0, u32::MAX.into()) as u64, out),
            Kind::Uint64 => encode_varint(self.integer(value, 0, u64::MAX.into()) as u64, out),
            Kind::Sint32 | Kind::Sint64 => {
                let (min, max) = signed(if matches!(kind, Kind::Sint32) { 32 } else { 64 });
                let number = self.integer(value, min, max) as i64;
                encode_varint(((number << 1) ^ (number >> 63)).cast_unsigned(), out);
            }
            Kind::Fixed32 => out.extend_from_slice(&(self.integer(value, 0, u32::MAX.into()) as u32).to_le_bytes()),
            Kind::Fixed64 => out.extend_from_slice(&(self.integer(value, 0, u64::MAX.into()) as u64).to_le_bytes()),
            Kind::Sfixed32 => {
                let (min, max) = signed(32);
                out.extend_from_slice(&(self.integer(value, min, max) as i32).to_le_bytes());
            }
            Kind::Sfixed64 => {
                let (min, max) = signed(64);
                out.extend_from_slice(&(self.integer(value, min, max) as i64).to_le_bytes());
            }
            Kind::Bool => encode_varint(self.boolean(value).into(), out),
            Kind::String => bytes_value(self.string(value).as_bytes(), out),
            Kind::Bytes => bytes_value(&self.base64(value), out),
            Kind::Enum(desc) => encode_varint(i64::from(self.enumeration(desc, value)).cast_unsigned(), out),
            Kind::Message(_) => self.refuse("a message is no scalar"),
        }
    }

    fn integer(&mut self, value: &Value, min: i128, max: i128) -> i128 {
        let number = match value {
            Value::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
                (Some(n), ..) => Some(i128::from(n)),
                (_, Some(n), _) => Some(i128::from(n)),
                // 1.0 and 1e3 are integers too.
                #[allow(clippy::cast_possible_truncation, reason = "no fraction and within i64, as tested")]
                (_, _, Some(n)) if n.fract() == 0.0 && n.abs() < 9e18 => Some(n as i128),
                _ => None,
            },
            Value::String(s) => s.parse::<i128>().ok(),
            _ => None,
        };
        let Some(number) = number else {
            self.refuse(format!("expected a whole number, not {}", show(value)));
            return 0;
        };
        if number < min || number > max {
            self.refuse(format!("{number} is out of range ({min} to {max})"));
            return 0;
        }
        number
    }

    fn float(&mut self, value: &Value) -> f64 {
        let number = match value {
            Value::Number(n) => n.as_f64(),
            Value::String(s) => match s.as_str() {
                "NaN" => Some(f64::NAN),
                "Infinity" => Some(f64::INFINITY),
                "-Infinity" => Some(f64::NEG_INFINITY),
                s => s.parse().ok().filter(|n: &f64| n.is_finite()),
            },
            _ => None,
        };
        number.unwrap_or_else(|| {
            self.refuse(format!("expected a number, not {}", show(value)));
            0.0
        })
    }

    fn boolean(&mut self, value: &Value) -> bool {
        match value {
            Value::Bool(b) => *b,
            other => {
                let word = other.as_str().filter(|_| self.lenient()).map(str::to_ascii_lowercase);
                match word.as_deref() {
                    Some("true" | "yes" | "on" | "y") => true,
                    Some("false" | "no" | "off" | "n") => false,
                    _ => {
                        self.refuse(format!("expected true or false, not {}", show(other)));
                        false
                    }
                }
            }
        }
    }

    pub(super) fn string<'v>(&mut self, value: &'v Value) -> &'v str {
        match value {
            Value::String(s) => s,
            other @ (Value::Number(_) | Value::Bool(_)) => {
                self.refuse(format!("expected a string, not {}: put it in quotes", show(other)));
                ""
            }
            other => {
                self.refuse(format!("expected a string, not {}", show(other)));
                ""
            }
        }
    }

    fn base64(&mut self, value: &Value) -> Vec<u8> {
        const CONFIG: GeneralPurposeConfig =
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        const STANDARD: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, CONFIG);
        const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::URL_SAFE, CONFIG);
        let text = self.string(value);
        STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).unwrap_or_else(|_| {
            self.refuse("expected base64");
            Vec::new()
        })
    }

    fn enumeration(&mut self, desc: &EnumDescriptor, value: &Value) -> i32 {
        match value {
            Value::Null if desc.full_name() == "google.protobuf.NullValue" => 0,
            Value::String(name) => {
                let found = desc.get_value_by_name(name).or_else(|| {
                    let lenient = self.lenient();
                    desc.values().find(|v| lenient && v.name().eq_ignore_ascii_case(&name.replace('-', "_")))
                });
                match found {
                    Some(found) => found.number(),
                    None => {
                        let names: Vec<String> = desc.values().map(|v| v.name().to_owned()).collect();
                        self.refuse(format!("unknown value {name:?}{}", did_you_mean(name, &names)));
                        0
                    }
                }
            }
            // Enums are open: whether the number means something is for validation to say.
            number @ Value::Number(_) => {
                let number = self.integer(number, i32::MIN.into(), i32::MAX.into());
                i32::try_from(number).unwrap_or_default()
            }
            other => {
                self.refuse(format!("expected a name of {}, not {}", desc.name(), show(other)));
                0
            }
        }
    }
}

fn takes_null(field: &FieldDescriptor) -> bool {
    match field.kind() {
        Kind::Message(desc) => desc.full_name() == "google.protobuf.Value" && !field.is_list(),
        Kind::Enum(desc) => desc.full_name() == "google.protobuf.NullValue",
        _ => false,
    }
}

pub(super) fn wire_type(kind: &Kind) -> WireType {
    match kind {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => WireType::SixtyFourBit,
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => WireType::ThirtyTwoBit,
        Kind::String | Kind::Bytes | Kind::Message(_) => WireType::LengthDelimited,
        _ => WireType::Varint,
    }
}

fn bytes_value(bytes: &[u8], out: &mut Vec<u8>) {
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

pub(super) fn length_delimited(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    bytes_value(bytes, out);
}

pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A scalar as it is in the document, anything else by its kind.
pub(super) fn show(value: &Value) -> String {
    match value {
        Value::Null | Value::Array(_) | Value::Object(_) => kind_of(value).to_owned(),
        Value::String(s) if s.chars().count() > 60 => format!("{:?}…", s.chars().take(60).collect::<String>()),
        scalar => scalar.to_string(),
    }
}

fn unknown_field(desc: &MessageDescriptor, key: &str) -> String {
    let names: Vec<String> = desc.fields().map(|f| f.name().to_owned()).collect();
    let hint = did_you_mean(key, &names);
    format!("{} has no such field{hint}", desc.name())
}

/// `, did you mean x?` when one of `names` is close to `wrong`.
pub(super) fn did_you_mean(wrong: &str, names: &[String]) -> String {
    // What is longer than every name is none of them; comparing takes time by both lengths.
    let names = names.iter().filter(|_| wrong.len() <= 256);
    let best = names.map(|name| (strsim::jaro_winkler(&wrong.to_ascii_lowercase(), &name.to_ascii_lowercase()), name));
    match best.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((score, name)) if score > 0.8 => format!(", did you mean {name}?"),
        _ => String::new(),
    }
}
