//! From the text of a format to its pieces.

use crate::operator::{self, Operator};
use crate::write::write_operator;
use crate::{Inputs, Missing};

/// A parsed format.
#[derive(Debug, Clone, PartialEq)]
pub struct Format {
    pub(crate) pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Piece {
    Text(String),
    Operator { operator: Operator, max_length: Option<usize> },
}

/// What is wrong with a format; positions count bytes from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("the `%` at position {0} starts no operator; write `%%` for a percent sign")]
    Percent(usize),
    #[error("the operator at position {position} is not closed: {text:?}")]
    Unclosed { position: usize, text: String },
    #[error("unknown operator {name} at position {position}{}", hint.as_ref().map(|h| format!("; did you mean {h}?")).unwrap_or_default())]
    Unknown { name: String, position: usize, hint: Option<&'static str> },
    #[error("operator {name} at position {position} is not implemented by weir-proxy")]
    Unimplemented { name: String, position: usize },
    #[error("operator {name} at position {position}: {reason}")]
    Argument { name: String, position: usize, reason: String },
    #[error("a JSON format must be an object of texts, numbers, booleans, lists and objects")]
    Json,
    #[error("{path}: {error}")]
    Member { path: String, error: Box<FormatError> },
}

impl Format {
    /// # Errors
    /// The text has an operator that is unknown, or wrongly used.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(start) = rest.find('%') {
            literal.push_str(&rest[..start]);
            rest = &rest[start + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                literal.push('%');
                rest = after;
                continue;
            }
            let position = text.len() - rest.len() - 1;
            let (piece, after) = parse_operator(rest, position)?;
            // What can be known now is text from now on.
            match piece {
                Piece::Text(constant) => literal.push_str(&constant),
                operator => {
                    if !literal.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut literal)));
                    }
                    pieces.push(operator);
                }
            }
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal));
        }
        Ok(Self { pieces })
    }

    /// A format without operators: `text` as it stands.
    pub fn literal(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { pieces: if text.is_empty() { Vec::new() } else { vec![Piece::Text(text)] } }
    }

    /// The text, when it is always the same.
    pub fn constant(&self) -> Option<&str> {
        match &self.pieces[..] {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Appends the text for `inputs` to `out`, with `-` for what is missing.
    pub fn write(&self, inputs: &Inputs<'_>, out: &mut String) {
        self.write_with(inputs, Missing::Dash, out);
    }

    pub fn write_with(&self, inputs: &Inputs<'_>, missing: Missing, out: &mut String) {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Operator { operator, max_length } => {
                    let start = out.len();
                    if !write_operator(operator, inputs, out) && missing == Missing::Dash {
                        out.push('-');
                    }
                    if let Some(max) = max_length {
                        truncate(out, start, *max);
                    }
                }
            }
        }
    }
}

/// Cuts what follows `start` to `max` bytes, or less where that would split a character.
pub(crate) fn truncate(out: &mut String, start: usize, max: usize) {
    let mut end = start.saturating_add(max);
    if end < out.len() {
        while !out.is_char_boundary(end) {
            end -= 1;
        }
        out.truncate(end);
    }
}

/// Parses `NAME(ARGUMENT):LENGTH%`, what follows a `%`, and answers what comes after.
fn parse_operator(text: &str, position: usize) -> Result<(Piece, &str), FormatError> {
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let end = text.find(|c| !is_name(c)).unwrap_or(text.len());
    let (name, mut rest) = text.split_at(end);
    if name.is_empty() {
        return Err(FormatError::Percent(position));
    }
    let unclosed = || FormatError::Unclosed { position, text: text.chars().take(40).collect() };
    let argument = |reason: &str| FormatError::Argument { name: name.to_owned(), position, reason: reason.to_owned() };
    let mut subcommand = None;
    if let Some(inner) = rest.strip_prefix('(') {
        let (inner, after) = inner.split_once(')').ok_or_else(unclosed)?;
        subcommand = Some(inner);
        rest = after;
    }
    let mut max_length = None;
    if let Some(after) = rest.strip_prefix(':') {
        let end = after.find('%').ok_or_else(unclosed)?;
        let length: usize = after[..end].parse().map_err(|_| argument("the maximum length is not a number"))?;
        max_length = Some(length);
        rest = &after[end..];
    }
    let rest = rest.strip_prefix('%').ok_or_else(unclosed)?;
    let parsed = operator::parse(name, subcommand).map_err(|problem| match problem {
        operator::Problem::Unknown(hint) => FormatError::Unknown { name: name.to_owned(), position, hint },
        operator::Problem::Unimplemented => FormatError::Unimplemented { name: name.to_owned(), position },
        operator::Problem::Argument(reason) => FormatError::Argument { name: name.to_owned(), position, reason },
    })?;
    if max_length.is_some() && !parsed.takes_length() {
        return Err(argument("has no maximum length"));
    }
    let piece = match parsed {
        Operator::Constant(mut text) => {
            truncate(&mut text, 0, max_length.unwrap_or(usize::MAX));
            Piece::Text(text)
        }
        operator => Piece::Operator { operator, max_length },
    };
    Ok((piece, rest))
}
