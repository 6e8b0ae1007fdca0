//! Formats that are JSON objects: operators alone in a text keep their type.

use serde_json::Value;

use crate::operator::{Number, Operator, Part};
use crate::parse::{Format, FormatError, Piece, truncate};
use crate::write::{number, port, write_operator};
use crate::{Inputs, Missing};

/// A parsed JSON format. Members are written in the order of their names.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonFormat {
    root: Node,
    omit_empty: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    /// JSON text that is always the same.
    Constant(String),
    /// One operator and nothing else: a number, a text or null.
    Single {
        operator: Operator,
        max_length: Option<usize>,
    },
    Text(Format),
    List(Vec<Node>),
    /// Members with their names as JSON text.
    Object(Vec<(String, Node)>),
}

impl JsonFormat {
    /// Parses a format from an object. With `omit_empty`, members without a value are left out.
    ///
    /// # Errors
    /// It is no object, or a text in it is a wrong format.
    pub fn parse(object: &Value, omit_empty: bool) -> Result<Self, FormatError> {
        if !object.is_object() {
            return Err(FormatError::Json);
        }
        Ok(Self { root: Node::parse(object, "")?, omit_empty })
    }

    /// Appends the object for `inputs` to `out`, without a line end.
    pub fn write(&self, inputs: &Inputs<'_>, out: &mut String) {
        let mut scratch = String::new();
        let start = out.len();
        self.root.write(inputs, self.omit_empty, &mut scratch, out);
        if out.len() == start {
            out.push_str("{}");
        }
    }
}

impl Node {
    fn parse(value: &Value, path: &str) -> Result<Self, FormatError> {
        let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        Ok(match value {
            Value::String(text) => {
                let format = Format::parse(text)
                    .map_err(|error| FormatError::Member { path: path.to_owned(), error: Box::new(error) })?;
                match (&format.pieces[..], format.constant()) {
                    (_, Some(constant)) => Self::Constant(quoted(constant)),
                    ([Piece::Operator { operator, max_length }], _) => {
                        Self::Single { operator: alone(operator), max_length: *max_length }
                    }
                    _ => Self::Text(format),
                }
            }
            Value::Object(members) => {
                let mut nodes = Vec::new();
                for (name, value) in members {
                    nodes.push((name, Self::parse(value, &below(name))?));
                }
                nodes.sort_by(|a, b| a.0.cmp(b.0));
                Self::Object(nodes.into_iter().map(|(name, node)| (quoted(name), node)).collect())
            }
            Value::Array(items) => {
                let items = items.iter().enumerate().map(|(i, item)| Self::parse(item, &below(&i.to_string())));
                Self::List(items.collect::<Result<_, _>>()?)
            }
            Value::Null => return Err(FormatError::Json),
            constant => Self::Constant(constant.to_string()),
        })
    }

    /// Appends the value; nothing when it is missing and may be left out.
    fn write(&self, inputs: &Inputs<'_>, omit_empty: bool, scratch: &mut String, out: &mut String) {
        match self {
            Self::Constant(text) => out.push_str(text),
            Self::Single { operator, max_length } => {
                if !write_single(operator, *max_length, inputs, scratch, out) && !omit_empty {
                    out.push_str("null");
                }
            }
            Self::Text(format) => {
                scratch.clear();
                format.write_with(inputs, if omit_empty { Missing::Empty } else { Missing::Dash }, scratch);
                push_quoted(scratch, out);
            }
            Self::List(items) => {
                out.push('[');
                let mut separated = out.len();
                for item in items {
                    separated = write_next(out, separated, |out| item.write(inputs, omit_empty, scratch, out));
                }
                close(out, ']');
            }
            Self::Object(members) => {
                let start = out.len();
                out.push('{');
                let mut separated = out.len();
                for (name, node) in members {
                    separated = write_next(out, separated, |out| {
                        let start = out.len();
                        out.push_str(name);
                        out.push(':');
                        let value = out.len();
                        node.write(inputs, omit_empty, scratch, out);
                        if out.len() == value {
                            out.truncate(start);
                        }
                    });
                }
                let is_empty = out.len() == start + 1;
                if is_empty && omit_empty {
                    out.truncate(start);
                } else {
                    close(out, '}');
                }
            }
        }
    }
}

/// The operator where it stands alone: texts are quoted here.
fn alone(operator: &Operator) -> Operator {
    match operator {
        Operator::FilterState { key, .. } => Operator::FilterState { key: key.clone(), typed: false },
        other => other.clone(),
    }
}

/// Writes an element and the comma after it, or nothing if the element is left out. Answers where the next one starts.
fn write_next(out: &mut String, start: usize, write: impl FnOnce(&mut String)) -> usize {
    write(out);
    if out.len() > start {
        out.push(',');
    }
    out.len()
}

/// Ends a list or object: the comma after the last element becomes the bracket.
fn close(out: &mut String, bracket: char) {
    if out.ends_with(',') {
        out.pop();
    }
    out.push(bracket);
}

fn write_single(
    operator: &Operator,
    max_length: Option<usize>,
    inputs: &Inputs<'_>,
    scratch: &mut String,
    out: &mut String,
) -> bool {
    let count = match operator {
        Operator::Number(Number::GrpcStatus) => number(Number::GrpcStatus, inputs),
        Operator::Number(which) => number(*which, inputs),
        Operator::Duration(span) => span.measure(inputs.info),
        Operator::Address { whose, part: Part::Port } => port(*whose, inputs.info),
        other => return write_quoted(other, max_length, inputs, scratch, out),
    };
    match count {
        Some(count) => {
            out.push_str(&count.to_string());
            true
        }
        None => false,
    }
}

fn write_quoted(
    operator: &Operator,
    max_length: Option<usize>,
    inputs: &Inputs<'_>,
    scratch: &mut String,
    out: &mut String,
) -> bool {
    scratch.clear();
    let found = write_operator(operator, inputs, scratch);
    if !found {
        // Flags are never null: a stream without any has the text `-`.
        if matches!(
            operator,
            Operator::Text(crate::operator::Text::ResponseFlags | crate::operator::Text::ResponseFlagsLong)
        ) {
            out.push_str("\"-\"");
            return true;
        }
        return false;
    }
    truncate(scratch, 0, max_length.unwrap_or(usize::MAX));
    // Metadata that is not text is JSON already.
    let is_json = matches!(operator, Operator::Metadata { .. }) && scratch.starts_with(['{', '[']);
    if is_json && serde_json::from_str::<serde::de::IgnoredAny>(scratch).is_ok() {
        out.push_str(scratch);
    } else {
        push_quoted(scratch, out);
    }
    true
}

fn quoted(text: &str) -> String {
    let mut out = String::new();
    push_quoted(text, &mut out);
    out
}

/// Appends `text` as a JSON string.
pub(crate) fn push_quoted(text: &str, out: &mut String) {
    out.push('"');
    let mut plain = 0;
    for (i, byte) in text.bytes().enumerate() {
        if byte >= b' ' && byte != b'"' && byte != b'\\' && byte != 0x7f {
            continue;
        }
        out.push_str(&text[plain..i]);
        plain = i + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            other => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.push_str("\\u00");
                out.push(HEX[usize::from(other >> 4)].into());
                out.push(HEX[usize::from(other & 15)].into());
            }
        }
    }
    out.push_str(&text[plain..]);
    out.push('"');
}
