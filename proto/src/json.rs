//! JSON and YAML <-> proto for every message of the descriptor set, `Any` with `@type` included.
//!
//! Works by reflection over the committed descriptors, so it is for the edges (files, admin dumps, the management API) and
//! never for a path that runs per request. Reading is as lenient as Envoy is (see [`Mode`]); an unknown field is always an
//! error. Every problem carries its field path, all problems of a document are reported at once.

use std::fmt;
use std::io::Read as _;
use std::sync::LazyLock;

use bytes::Bytes;
use prost::Name;
use prost_reflect::{DescriptorPool, MessageDescriptor};
use serde_json::Value;

use crate::Any;

mod path;
mod read;
mod typed_struct;
mod wkt;
mod write;
mod yaml;

pub use path::{Path, Segment};
pub use typed_struct::unwrap_typed_struct;
pub use yaml::Position;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let packed = include_bytes!("../envoy/envoy.binpb.gz");
    let mut raw = Vec::new();
    flate2::read::GzDecoder::new(&packed[..])
        .read_to_end(&mut raw)
        .expect("the build script has unpacked the same bytes");
    let mut pool = DescriptorPool::decode(&raw[..]).expect("the build script has read the same set");
    let own = include_bytes!(concat!(env!("OUT_DIR"), "/weir.binpb"));
    pool.decode_file_descriptor_set(&own[..]).expect("the build script has compiled it against the same imports");
    pool
});

/// All messages we know, decoded at the first use (some 50 ms).
pub(crate) fn pool() -> &'static DescriptorPool {
    &POOL
}

/// Whether the codec knows the message `full_name`.
pub fn knows(full_name: &str) -> bool {
    pool().get_message_by_name(full_name).is_some()
}

/// How much of what canonical proto3 JSON forbids is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// What Envoy reads: one value where a list is expected, enum names in any case, durations and wrappers as objects
    /// (`{seconds: 5}`, `{value: 1}`), booleans as the strings `"true"` and `"false"` or the words of YAML 1.1 (`yes`, `off`).
    #[default]
    Lenient,
    /// Canonical proto3 JSON only.
    Strict,
}

/// One thing that is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where in the document.
    pub path: Path,
    /// What is wrong, with a hint if there is one.
    pub reason: String,
    /// Where in the YAML text, once known.
    pub position: Option<Position>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(position) = self.position {
            write!(f, "{position}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.reason)
    }
}

/// Why a document could not be read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JsonError {
    /// The text is not JSON.
    #[error("{position}: not JSON: {reason}")]
    Json { position: Position, reason: String },
    /// The text is not YAML.
    #[error("{position}: not YAML: {reason}")]
    Yaml { position: Position, reason: String },
    /// The document does not fit the message; every problem, in the order of the document.
    #[error("{}", list(.0))]
    Invalid(Vec<Problem>),
    /// The message type is not in the descriptor set.
    #[error("unknown type {0}")]
    UnknownType(String),
    /// The encoded message is broken.
    #[error("broken {type_name}: {source}")]
    Broken { type_name: String, source: prost::DecodeError },
}

impl JsonError {
    /// The problems with their paths; one without a path for errors of another kind.
    pub fn problems(&self) -> Vec<Problem> {
        match self {
            Self::Invalid(problems) => problems.clone(),
            Self::Json { position, .. } | Self::Yaml { position, .. } => {
                vec![Problem { path: Path::default(), reason: self.to_string(), position: Some(*position) }]
            }
            _ => vec![Problem { path: Path::default(), reason: self.to_string(), position: None }],
        }
    }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Reads an `M` from YAML text (anchors and merge keys work; JSON is YAML too).
///
/// # Errors
/// The text is not YAML or does not describe an `M`; problems carry their line and column.
pub fn from_yaml<M: Name + Default>(text: &str) -> Result<M, JsonError> {
    decode(&from_yaml_named(&M::full_name(), text, Mode::Lenient)?)
}

/// Reads an `M` from JSON text.
///
/// # Errors
/// The text is not JSON or does not describe an `M`.
pub fn from_json<M: Name + Default>(text: &str) -> Result<M, JsonError> {
    from_value(&parse_json(text)?)
}

/// Reads an `M` from a JSON value.
///
/// # Errors
/// The value does not describe an `M`.
pub fn from_value<M: Name + Default>(value: &Value) -> Result<M, JsonError> {
    decode(&encode(&M::full_name(), value, Mode::Lenient)?)
}

/// Reads a message of the type its `@type` names.
///
/// # Errors
/// There is no `@type`, it is unknown, or the value does not describe such a message.
pub fn any_from_value(value: &Value) -> Result<Any, JsonError> {
    decode(&encode("google.protobuf.Any", value, Mode::Lenient)?)
}

/// The wire bytes of the message `type_name` that `value` describes; the same value always gives the same bytes.
///
/// # Errors
/// The type is unknown or the value does not describe such a message.
pub fn encode(type_name: &str, value: &Value, mode: Mode) -> Result<Vec<u8>, JsonError> {
    read::encode(&descriptor(type_name)?, value, mode).map_err(JsonError::Invalid)
}

/// [`encode`] from YAML text, with line and column in the problems.
///
/// # Errors
/// As [`encode`], or the text is not YAML.
pub fn from_yaml_named(type_name: &str, text: &str, mode: Mode) -> Result<Vec<u8>, JsonError> {
    let value = parse_yaml(text)?;
    encode(type_name, &value, mode).map_err(|error| match error {
        JsonError::Invalid(mut problems) => {
            yaml::locate(text, &mut problems);
            JsonError::Invalid(problems)
        }
        other => other,
    })
}

/// Parses YAML text into a JSON value, anchors and merge keys resolved; an empty document is null.
///
/// # Errors
/// The text is not YAML, or exceeds the size limits of the parser.
pub fn parse_yaml(text: &str) -> Result<Value, JsonError> {
    yaml::parse(text)
}

/// Parses JSON text.
///
/// # Errors
/// The text is not JSON.
pub fn parse_json(text: &str) -> Result<Value, JsonError> {
    serde_json::from_str(text).map_err(|error| JsonError::Json {
        position: Position { line: error.line() as u64, column: error.column() as u64 },
        reason: error.to_string(),
    })
}

/// The line and column of `path` in `text`, or of its nearest enclosing value.
pub fn position_in_yaml(text: &str, path: &Path) -> Option<Position> {
    let mut problems = [Problem { path: path.clone(), reason: String::new(), position: None }];
    yaml::locate(text, &mut problems);
    problems[0].position
}

/// What stands in a dump for a secret.
pub const REDACTED: &str = "[redacted]";

/// Whether secrets are shown in a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrets {
    /// As they are.
    Shown,
    /// Fields marked `udpa.annotations.sensitive` become `[redacted]`, as in Envoy's config dump.
    Redacted,
}

/// The JSON form of the message in `any`, with `@type` and proto field names as Envoy's config dump has them. A nested `Any` of
/// an unknown type is shown as its base64 `value`.
///
/// # Errors
/// The type is unknown or the bytes are not such a message.
pub fn to_value(any: &Any, secrets: Secrets) -> Result<Value, JsonError> {
    write::any(any, secrets)
}

/// The JSON form of a `google.protobuf.Struct`.
pub fn struct_to_value(fields: &prost_types::Struct) -> Value {
    write::struct_to_value(fields.clone())
}

/// The JSON form of `message`, without `@type`.
///
/// # Errors
/// The type is not in the descriptor set.
pub fn message_to_value<M: Name>(message: &M) -> Result<Value, JsonError> {
    let bytes = Bytes::from(message.encode_to_vec());
    write::message(&descriptor(&M::full_name())?, bytes, Secrets::Shown)
}

/// The YAML form of the message in `any`, as [`to_value`].
///
/// # Errors
/// As [`to_value`].
pub fn to_yaml(any: &Any) -> Result<String, JsonError> {
    Ok(value_to_yaml(&to_value(any, Secrets::Shown)?))
}

/// Any JSON value as YAML text.
pub fn value_to_yaml(value: &Value) -> String {
    serde_saphyr::to_string(value).expect("a JSON value has string keys only, which YAML can always say")
}

fn descriptor(type_name: &str) -> Result<MessageDescriptor, JsonError> {
    pool().get_message_by_name(type_name).ok_or_else(|| JsonError::UnknownType(type_name.to_owned()))
}

fn decode<M: Name + Default>(bytes: &[u8]) -> Result<M, JsonError> {
    M::decode(bytes).map_err(|source| JsonError::Broken { type_name: M::full_name(), source })
}

#[cfg(test)]
mod tests;
