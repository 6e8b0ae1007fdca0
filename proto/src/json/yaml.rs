//! YAML text into JSON values, and the line and column of a path.
//!
//! Bounded: nesting, size and alias replay have limits, so a small text cannot become a huge value.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::Spanned;

use super::{JsonError, Path, Problem, Segment};

/// A place in a text, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line, from 1.
    pub line: u64,
    /// Column in characters, from 1.
    pub column: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

fn options() -> serde_saphyr::Options {
    let budget: Option<serde_saphyr::Budget> = serde_saphyr::budget! {
        // 10,000 clusters are some 600,000 nodes.
        max_nodes: 8_000_000,
        max_events: 24_000_000,
        max_depth: 100,
        max_aliases: 200_000,
    };
    serde_saphyr::options! {
        budget: budget,
        with_snippet: false,
        // `id: n` is a text; fields that are boolean take the YAML 1.1 words anyway.
        strict_booleans: true,
    }
}

pub(super) fn parse(text: &str) -> Result<Value, JsonError> {
    if text.lines().all(|line| line.trim_start().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Value::Null);
    }
    serde_saphyr::from_str_with_options(text, options()).map_err(|error| {
        let error = error.without_snippet();
        let position = error.location().map_or(Position { line: 1, column: 1 }, |l| position(&l));
        // The crate ends its messages with the position, which we say first.
        let reason = error.to_string();
        let reason = reason.split(" at line ").next().unwrap_or(&reason).to_owned();
        JsonError::Yaml { position, reason }
    })
}

/// Fills in the position of each problem. Reads the text again, because only a refused document needs positions.
pub(super) fn locate(text: &str, problems: &mut [Problem]) {
    let Ok(tree) = serde_saphyr::from_str_with_options::<Spanned<Node>>(text, options()) else { return };
    for problem in problems {
        problem.position = Some(find(&tree, &problem.path));
    }
}

/// The position of `path`, or of the nearest enclosing value that exists.
fn find(tree: &Spanned<Node>, path: &Path) -> Position {
    let mut node = tree;
    for segment in &path.0 {
        let child = match (segment, &node.value) {
            (Segment::Key(key), Node::Map(entries)) => entries.iter().find(|(k, _)| k.value == *key),
            (Segment::Index(index), Node::List(items)) => {
                let Some(item) = items.get(*index) else { break };
                node = item;
                continue;
            }
            _ => break,
        };
        let Some((key, value)) = child else { break };
        // The last key is what a reader looks for; a value on the next line would be misleading.
        if std::ptr::eq(segment, &path.0[path.0.len() - 1]) {
            return position(&key.referenced);
        }
        node = value;
    }
    position(&node.referenced)
}

fn position(location: &serde_saphyr::Location) -> Position {
    Position { line: location.line().max(1), column: location.column().max(1) }
}

/// A YAML value of which only the shape matters.
enum Node {
    Scalar,
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_str<E>(self, _: &str) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}
