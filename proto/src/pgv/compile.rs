//! The rules of every message type, compiled from the options of its fields.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost::encoding::WireType;
use prost_reflect::{ExtensionDescriptor, FieldDescriptor, Kind as Reflected, MessageDescriptor};

use super::rule::{Rules, Value};
use crate::json::pool;
use crate::validate::FieldRules;

pub(super) static TYPES: LazyLock<HashMap<Box<str>, MessageType>> = LazyLock::new(compile);

pub(super) struct MessageType {
    /// Sorted by number; only fields that have rules, lead to rules, or are part of a required oneof.
    pub(super) fields: Vec<Field>,
    pub(super) required_oneofs: Vec<Oneof>,
    /// Whether there is anything to check, here or below.
    pub(super) relevant: bool,
}

pub(super) struct Oneof {
    pub(super) fields: Vec<usize>,
    pub(super) names: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Single,
    List,
    Map,
}

pub(super) struct Field {
    pub(super) number: u32,
    pub(super) name: Box<str>,
    pub(super) shape: Shape,
    pub(super) kind: Kind,
    /// Whether absence differs from the default.
    pub(super) presence: bool,
    /// Whether there is something to check when the field is absent.
    pub(super) checks_presence: bool,
    pub(super) rules: Option<Rules>,
    pub(super) item_rules: Option<Box<Rules>>,
    /// The fields below are not checked.
    pub(super) skip: bool,
    pub(super) map: Option<Box<MapFields>>,
    /// The fields of its oneof.
    pub(super) siblings: Option<Vec<usize>>,
}

pub(super) struct MapFields {
    pub(super) key: Field,
    pub(super) value: Field,
}

/// What a value is, as far as rules tell it apart.
pub(super) enum Kind {
    Signed,
    Unsigned,
    ZigZag,
    Fixed32Signed,
    Fixed32,
    Fixed64Signed,
    Fixed64,
    Float,
    Double,
    Bool,
    Enum(Vec<i32>),
    String,
    Bytes,
    Duration,
    /// A wrapper of the kind inside.
    Wrapper(Box<Kind>),
    Any,
    Message(Box<str>),
}

impl Kind {
    pub(super) fn wire_type(&self) -> WireType {
        match self {
            Self::Fixed32 | Self::Fixed32Signed | Self::Float => WireType::ThirtyTwoBit,
            Self::Fixed64 | Self::Fixed64Signed | Self::Double => WireType::SixtyFourBit,
            Self::Signed | Self::Unsigned | Self::ZigZag | Self::Bool | Self::Enum(_) => WireType::Varint,
            _ => WireType::LengthDelimited,
        }
    }

    pub(super) fn is_packable(&self) -> bool {
        self.wire_type() != WireType::LengthDelimited
    }

    pub(super) fn default(&self) -> Value<'static> {
        if self.is_packable() { Value::Number(0) } else { Value::Bytes(&[]) }
    }
}

fn compile() -> HashMap<Box<str>, MessageType> {
    let rules = pool().get_extension_by_name("validate.rules");
    let required = pool().get_extension_by_name("validate.required");
    let mut types: HashMap<Box<str>, MessageType> = pool()
        .all_messages()
        .filter(|message| !message.is_map_entry())
        .map(|desc| (desc.full_name().into(), message_type(&desc, rules.as_ref(), required.as_ref())))
        .collect();
    mark_relevant(&mut types);
    types
}

fn message_type(
    desc: &MessageDescriptor,
    rules: Option<&ExtensionDescriptor>,
    required: Option<&ExtensionDescriptor>,
) -> MessageType {
    let mut fields: Vec<Field> = desc.fields().map(|field| compile_field(&field, rules)).collect();
    fields.sort_by_key(|field| field.number);
    let index_of = |field: &FieldDescriptor| fields.binary_search_by_key(&field.number(), |f| f.number).ok();
    let mut required_oneofs = Vec::new();
    let mut siblings: Vec<Vec<usize>> = Vec::new();
    for oneof in desc.oneofs().filter(|oneof| !oneof.is_synthetic()) {
        let members: Vec<usize> = oneof.fields().filter_map(|field| index_of(&field)).collect();
        let is_required = required.is_some_and(|r| oneof.options().get_extension(r).as_bool() == Some(true));
        if is_required {
            let names: Vec<String> = oneof.fields().map(|field| field.name().to_owned()).collect();
            required_oneofs.push(Oneof { fields: members.clone(), names: names.join(", ") });
        }
        siblings.push(members);
    }
    for members in siblings {
        for index in &members {
            let field = &mut fields[*index];
            field.siblings = Some(members.clone());
            // A member of a oneof is required only when it is the one that is set.
            field.checks_presence = false;
            if let Some(rules) = &mut field.rules {
                rules.required = false;
            }
        }
    }
    // Until `mark_relevant` knows better, only what is checked here counts.
    let relevant = !required_oneofs.is_empty() || fields.iter().any(has_own_rules);
    MessageType { fields, required_oneofs, relevant }
}

fn has_own_rules(field: &Field) -> bool {
    field.rules.is_some()
        || field.item_rules.is_some()
        || matches!(field.kind, Kind::Any)
        || field.map.as_ref().is_some_and(|map| has_own_rules(&map.key) || has_own_rules(&map.value))
}

/// Marks the types that lead to rules, until no more are found.
fn mark_relevant(types: &mut HashMap<Box<str>, MessageType>) {
    loop {
        let leads = |field: &Field| match (&field.kind, &field.map) {
            (Kind::Message(name), _) => !field.skip && types.get(name).is_some_and(|message| message.relevant),
            _ => false,
        };
        let found: Vec<Box<str>> = types
            .iter()
            .filter(|(_, message)| !message.relevant)
            .filter(|(_, message)| {
                message.fields.iter().any(|f| leads(f) || f.map.as_ref().is_some_and(|map| leads(&map.value)))
            })
            .map(|(name, _)| name.clone())
            .collect();
        if found.is_empty() {
            return;
        }
        for name in found {
            if let Some(message) = types.get_mut(&name) {
                message.relevant = true;
            }
        }
    }
}

fn compile_field(field: &FieldDescriptor, extension: Option<&ExtensionDescriptor>) -> Field {
    let options = field.options();
    let rules: Option<FieldRules> = extension
        .filter(|extension| options.has_extension(extension))
        .and_then(|extension| options.get_extension(extension).as_message()?.transcode_to().ok());
    let mut compiled = plain_field(field);
    if let Some(rules) = rules {
        apply(&mut compiled, &rules);
    }
    compiled
}

fn plain_field(field: &FieldDescriptor) -> Field {
    let shape = if field.is_map() {
        Shape::Map
    } else if field.is_list() {
        Shape::List
    } else {
        Shape::Single
    };
    let map = match field.kind() {
        Reflected::Message(entry) if field.is_map() => Some(Box::new(MapFields {
            key: Field { presence: false, ..plain_field(&entry.map_entry_key_field()) },
            value: Field { presence: false, ..plain_field(&entry.map_entry_value_field()) },
        })),
        _ => None,
    };
    Field {
        number: field.number(),
        name: field.name().into(),
        shape,
        kind: kind(field.kind()),
        presence: field.supports_presence(),
        checks_presence: false,
        rules: None,
        item_rules: None,
        skip: false,
        map,
        siblings: None,
    }
}

fn apply(field: &mut Field, proto: &FieldRules) {
    use crate::validate::field_rules::Type;
    field.skip = proto.message.as_ref().is_some_and(|message| message.skip());
    match &proto.r#type {
        Some(Type::Map(map)) => {
            if let Some(fields) = &mut field.map {
                for (field, rules) in [(&mut fields.key, &map.keys), (&mut fields.value, &map.values)] {
                    if let Some(rules) = rules {
                        apply(field, rules);
                    }
                }
            }
        }
        Some(Type::Repeated(repeated)) => {
            if let Some(items) = &repeated.items {
                field.skip |= items.message.as_ref().is_some_and(|message| message.skip());
                field.item_rules = Rules::compile(items).map(Box::new);
            }
        }
        _ => {}
    }
    field.rules = Rules::compile(proto);
    field.checks_presence = field.rules.as_ref().is_some_and(|rules| {
        rules.required || rules.min_items > 0 || (field.shape == Shape::Single && !field.presence)
    });
}

fn kind(kind: Reflected) -> Kind {
    match kind {
        Reflected::Int32 | Reflected::Int64 => Kind::Signed,
        Reflected::Uint32 | Reflected::Uint64 => Kind::Unsigned,
        Reflected::Sint32 | Reflected::Sint64 => Kind::ZigZag,
        Reflected::Fixed32 => Kind::Fixed32,
        Reflected::Sfixed32 => Kind::Fixed32Signed,
        Reflected::Fixed64 => Kind::Fixed64,
        Reflected::Sfixed64 => Kind::Fixed64Signed,
        Reflected::Float => Kind::Float,
        Reflected::Double => Kind::Double,
        Reflected::Bool => Kind::Bool,
        Reflected::Enum(desc) => Kind::Enum(desc.values().map(|value| value.number()).collect()),
        Reflected::String => Kind::String,
        Reflected::Bytes => Kind::Bytes,
        Reflected::Message(desc) => match desc.full_name() {
            "google.protobuf.Duration" => Kind::Duration,
            "google.protobuf.Any" => Kind::Any,
            "google.protobuf.BoolValue" => Kind::Wrapper(Box::new(Kind::Bool)),
            "google.protobuf.Int32Value" | "google.protobuf.Int64Value" => Kind::Wrapper(Box::new(Kind::Signed)),
            "google.protobuf.UInt32Value" | "google.protobuf.UInt64Value" => Kind::Wrapper(Box::new(Kind::Unsigned)),
            "google.protobuf.FloatValue" => Kind::Wrapper(Box::new(Kind::Float)),
            "google.protobuf.DoubleValue" => Kind::Wrapper(Box::new(Kind::Double)),
            "google.protobuf.StringValue" => Kind::Wrapper(Box::new(Kind::String)),
            "google.protobuf.BytesValue" => Kind::Wrapper(Box::new(Kind::Bytes)),
            name => Kind::Message(name.into()),
        },
    }
}
