//! The constraints that the Envoy API states on its fields (`validate.rules`), checked on encoded messages.
//!
//! Rules are compiled once from the descriptors. A message is walked on the wire, without decoding it, and parts whose
//! types have no rules are not looked at, so that checking ten thousand clusters is cheap.

use prost::bytes::Buf as _;
use prost::encoding::{WireType, decode_key, decode_varint};

mod compile;
mod rule;

use compile::{Field, Kind, MessageType, Shape, TYPES};
use rule::Value;

/// A constraint that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The field, as in `filter_chains[0].filters[1].typed_config.stat_prefix`.
    pub path: String,
    /// What must hold.
    pub reason: String,
}

/// Deeper messages are a problem of their own.
const MAX_DEPTH: usize = 100;

/// The constraints that the message `type_name` in `bytes` breaks; messages in an `Any` are checked too. Nothing for a type
/// that is not in the descriptor set.
pub fn validate(type_name: &str, bytes: &[u8]) -> Vec<Problem> {
    let mut checker = Checker { path: String::new(), problems: Vec::new(), depth: 0 };
    if let Some(message) = TYPES.get(type_name) {
        checker.message(message, bytes);
    }
    checker.problems
}

/// What was seen of one field.
#[derive(Clone, Copy, Default)]
struct Seen<'a> {
    count: usize,
    last: Option<Value<'a>>,
}

struct Checker {
    path: String,
    problems: Vec<Problem>,
    depth: usize,
}

impl Checker {
    fn refuse(&mut self, reason: impl Into<String>) {
        self.problems.push(Problem { path: self.path.clone(), reason: reason.into() });
    }

    fn at(&mut self, name: &str, f: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        if length > 0 && !name.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(name);
        f(self);
        self.path.truncate(length);
    }

    fn message(&mut self, message: &MessageType, bytes: &[u8]) {
        if !message.relevant {
            return;
        }
        if self.depth >= MAX_DEPTH {
            return self.refuse(format!("nested deeper than {MAX_DEPTH} levels"));
        }
        self.depth += 1;
        let mut seen = vec![Seen::default(); message.fields.len()];
        let mut items: Vec<(usize, Value<'_>)> = Vec::new();
        if !self.collect(message, bytes, &mut seen, &mut items) {
            self.refuse("broken message");
        }
        for (index, field) in message.fields.iter().enumerate() {
            if field.checks_presence || seen[index].count > 0 {
                self.at(&field.name, |c| c.field(field, index, seen[index], &items));
            }
        }
        for oneof in &message.required_oneofs {
            if !oneof.fields.iter().any(|index| seen[*index].count > 0) {
                self.refuse(format!("one of {} is required", oneof.names));
            }
        }
        self.depth -= 1;
    }

    /// Reads all fields; false when the bytes are broken.
    fn collect<'a>(
        &mut self,
        message: &MessageType,
        mut bytes: &'a [u8],
        seen: &mut [Seen<'a>],
        items: &mut Vec<(usize, Value<'a>)>,
    ) -> bool {
        while !bytes.is_empty() {
            let Some((number, value)) = read(&mut bytes) else { return false };
            let Ok(index) = message.fields.binary_search_by_key(&number, |field| field.number) else { continue };
            let field = &message.fields[index];
            match (field.shape, value) {
                (Shape::List, Value::Bytes(packed)) if field.kind.is_packable() => {
                    let mut packed = packed;
                    while !packed.is_empty() {
                        let Some(value) = read_value(field.kind.wire_type(), &mut packed) else { return false };
                        seen[index].count += 1;
                        items.push((index, value));
                    }
                }
                (Shape::List | Shape::Map, value) => {
                    seen[index].count += 1;
                    items.push((index, value));
                }
                (Shape::Single, value) => seen[index] = Seen { count: 1, last: Some(value) },
            }
            // Setting one field of a oneof clears the others.
            if let Some(siblings) = &field.siblings {
                for other in siblings.iter().filter(|other| **other != index) {
                    seen[*other] = Seen::default();
                }
            }
        }
        true
    }

    fn field(&mut self, field: &Field, index: usize, seen: Seen<'_>, items: &[(usize, Value<'_>)]) {
        if let Some(reason) = field.rules.as_ref().and_then(|rules| rules.check_count(seen.count)) {
            self.refuse(reason);
        }
        let mine = items.iter().filter(|(of, _)| *of == index).map(|(_, value)| *value);
        match field.shape {
            Shape::Single => match seen.last {
                Some(value) => self.value(field, field.rules.as_ref(), value),
                // What is absent has its default, unless absence means something.
                None if !field.presence => self.value(field, field.rules.as_ref(), field.kind.default()),
                None => {}
            },
            Shape::List => {
                if field.rules.as_ref().is_some_and(|rules| rules.unique) {
                    let mut all: Vec<Value<'_>> = mine.clone().collect();
                    all.sort_unstable();
                    if all.windows(2).any(|pair| pair[0] == pair[1]) {
                        self.refuse("must not have the same item twice");
                    }
                }
                for (position, value) in mine.enumerate() {
                    self.at(&format!("[{position}]"), |c| c.value(field, field.item_rules.as_deref(), value));
                }
            }
            Shape::Map => {
                for entry in mine {
                    self.map_entry(field, entry);
                }
            }
        }
    }

    fn map_entry(&mut self, field: &Field, entry: Value<'_>) {
        let (Value::Bytes(mut bytes), Some(map)) = (entry, &field.map) else { return };
        let (mut key, mut value) = (map.key.kind.default(), map.value.kind.default());
        while !bytes.is_empty() {
            match read(&mut bytes) {
                Some((1, read)) => key = read,
                Some((2, read)) => value = read,
                Some(_) => {}
                None => return self.refuse("broken map entry"),
            }
        }
        let name = match key {
            Value::Bytes(text) => format!("[{}]", String::from_utf8_lossy(text)),
            Value::Number(number) => format!("[{number}]"),
        };
        self.at(&name, |c| {
            c.value(&map.key, map.key.rules.as_ref(), key);
            c.value(&map.value, map.value.rules.as_ref(), value);
        });
    }

    fn value(&mut self, field: &Field, rules: Option<&rule::Rules>, value: Value<'_>) {
        if let Some(reason) = rules.and_then(|rules| rules.check(&field.kind, value)) {
            self.refuse(reason);
        }
        if field.skip {
            return;
        }
        match (&field.kind, value) {
            (Kind::Message(name), Value::Bytes(bytes)) => {
                if let Some(message) = TYPES.get(&**name) {
                    self.message(message, bytes);
                }
            }
            (Kind::Any, Value::Bytes(bytes)) => self.any(bytes),
            _ => {}
        }
    }

    fn any(&mut self, bytes: &[u8]) {
        use prost::Message as _;
        let Ok(any) = crate::Any::decode(bytes) else { return self.refuse("broken Any") };
        // What a TypedStruct cannot say is for its decoder to refuse.
        let Ok(any) = crate::json::unwrap_typed_struct(&any) else { return };
        if let Some(message) = TYPES.get(any.type_name()) {
            self.message(message, &any.value);
        }
    }
}

/// Reads one field off the front of `bytes`.
fn read<'a>(bytes: &mut &'a [u8]) -> Option<(u32, Value<'a>)> {
    let (number, wire_type) = decode_key(bytes).ok()?;
    Some((number, read_value(wire_type, bytes)?))
}

fn read_value<'a>(wire_type: WireType, bytes: &mut &'a [u8]) -> Option<Value<'a>> {
    match wire_type {
        WireType::Varint => Some(Value::Number(decode_varint(bytes).ok()?)),
        WireType::SixtyFourBit => bytes.try_get_u64_le().ok().map(Value::Number),
        WireType::ThirtyTwoBit => bytes.try_get_u32_le().ok().map(|n| Value::Number(n.into())),
        WireType::LengthDelimited => {
            let length = usize::try_from(decode_varint(bytes).ok()?).ok()?;
            let (value, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            Some(Value::Bytes(value))
        }
        WireType::StartGroup | WireType::EndGroup => None,
    }
}

#[cfg(test)]
mod tests;
