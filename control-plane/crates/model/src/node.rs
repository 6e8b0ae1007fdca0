//! A configuration text as a tree in which every key and value knows its place.
//!
//! The only module that names the YAML library. Anchors, aliases and merge keys are resolved here; scalars keep their
//! spelling, so `1.10` stays `1.10`. Never knows a word of the configuration language.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;
use serde_saphyr::{DuplicateKeyPolicy, Spanned, Tagged};

use crate::problem::{Code, Place, Problem};

/// Texts longer than this are refused before they are parsed.
pub const MAX_TEXT: usize = 16 << 20;

/// How deep lists and maps of a text may be nested.
const MAX_DEPTH: usize = 100;

/// What the YAML library needs for that, several times over: in a debug build a level takes 40 KiB.
const STACK: usize = 32 << 20;

/// How a text tagged `!file` begins.
pub const FILE_TAG: &str = "!file ";

#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub line: u32,
    pub column: u32,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    /// `plain` = written without quotes, so it may be a number or a truth value.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    pub text: String,
    pub line: u32,
    pub column: u32,
}

impl Node {
    pub fn place(&self, file: &str) -> Place {
        Place { file: file.to_owned(), line: self.line, column: self.column }
    }

    /// What it is, for messages.
    pub fn shape(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Scalar { .. } => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// The documents of one text. An empty text has none.
    pub fn parse(file: &str, text: &str) -> Result<Vec<Node>, Problem> {
        let refused = |line, column, message: String| Problem {
            place: Place { file: file.to_owned(), line, column },
            field: String::new(),
            code: Code::Syntax,
            message,
            hint: None,
        };
        if text.len() > MAX_TEXT {
            return Err(refused(0, 0, format!("longer than {MAX_TEXT} bytes")));
        }
        let parse = || {
            // Trees are walked by recursion.
            let budget: Option<serde_saphyr::Budget> = serde_saphyr::budget! { max_depth: MAX_DEPTH };
            let options = serde_saphyr::options! {
                budget: budget,
                duplicate_keys: DuplicateKeyPolicy::Error,
                strict_booleans: true,
                with_snippet: false,
            };
            let documents = serde_saphyr::from_multiple_with_options::<Spanned<Tagged<Raw>>>(text, options);
            let documents = documents.map_err(|e| {
                let e = e.without_snippet();
                let (line, column) = e.location().map_or((0, 0), |l| (small(l.line()), small(l.column())));
                refused(line, column, bare_message(&e.to_string()))
            })?;
            Ok(documents.into_iter().map(|d| with_places(d, text)).collect())
        };
        // The caller may be a thread of a runtime, whose stack is small.
        std::thread::scope(|scope| match std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, parse) {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(error) => Err(refused(0, 0, format!("there is no thread to read it: {error}"))),
        })
    }

    pub fn to_json(&self) -> Json {
        match &self.value {
            Value::Null => Json::Null,
            Value::Scalar { text, plain } => scalar_to_json(text, *plain),
            Value::List(items) => Json::Array(items.iter().map(Node::to_json).collect()),
            Value::Map(entries) => Json::Object(entries.iter().map(|(k, v)| (k.text.clone(), v.to_json())).collect()),
        }
    }

    /// Line and column of every node and key, depth first; what `to_json` loses.
    pub fn places(&self) -> Vec<u32> {
        fn walk(node: &Node, out: &mut Vec<u32>) {
            out.extend([node.line, node.column]);
            match &node.value {
                Value::Null | Value::Scalar { .. } => (),
                Value::List(items) => items.iter().for_each(|n| walk(n, out)),
                Value::Map(entries) => {
                    for (key, value) in entries {
                        out.extend([key.line, key.column]);
                        walk(value, out);
                    }
                }
            }
        }
        let mut out = Vec::new();
        walk(self, &mut out);
        out
    }

    /// The inverse of `to_json` and `places`. Places that are missing are 0.
    pub fn from_json(json: &Json, places: &[u32]) -> Node {
        fn next(places: &mut std::slice::Iter<'_, u32>) -> (u32, u32) {
            (places.next().copied().unwrap_or(0), places.next().copied().unwrap_or(0))
        }
        fn walk(json: &Json, places: &mut std::slice::Iter<'_, u32>) -> Node {
            let (line, column) = next(places);
            let value = match json {
                Json::Null => Value::Null,
                Json::Bool(b) => Value::Scalar { text: b.to_string(), plain: true },
                Json::Number(n) => Value::Scalar { text: n.to_string(), plain: true },
                Json::String(s) => Value::Scalar { text: s.clone(), plain: false },
                Json::Array(items) => Value::List(items.iter().map(|v| walk(v, places)).collect()),
                Json::Object(entries) => Value::Map(
                    entries
                        .iter()
                        .map(|(k, v)| {
                            let (line, column) = next(places);
                            (Key { text: k.clone(), line, column }, walk(v, places))
                        })
                        .collect(),
                ),
            };
            Node { line, column, value }
        }
        walk(json, &mut places.iter())
    }

    /// YAML text of a JSON value.
    pub fn yaml(json: &Json) -> String {
        serde_saphyr::to_string(json).expect("a JSON value has only texts as keys")
    }
}

/// A plain scalar that spells a JSON number or truth value becomes one; all else is a text, so nothing is lost.
fn scalar_to_json(text: &str, plain: bool) -> Json {
    if plain {
        match serde_json::from_str::<Json>(text) {
            Ok(Json::Number(n)) if n.to_string() == text => return Json::Number(n),
            Ok(Json::Bool(b)) => return Json::Bool(b),
            _ => (),
        }
    }
    Json::String(text.to_owned())
}

fn small(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// The library's message without the location it appends; ours stands in front.
fn bare_message(message: &str) -> String {
    let line = message.lines().next().unwrap_or(message);
    if line.contains("Depth {") || line.contains("recursion limit") {
        return format!("nested more than {MAX_DEPTH} deep");
    }
    let line = line.strip_prefix("error: ").unwrap_or(line);
    let line = match line.find(" at line ") {
        Some(at) => &line[..at],
        None => line,
    };
    line.to_owned()
}

// === the tree as the YAML library gives it ===

enum Raw {
    Null,
    /// Inferred as a number or truth value: the spelling is in the source text.
    Inferred(String),
    Text(String),
    List(Vec<Spanned<Tagged<Raw>>>),
    Map(Vec<(Spanned<String>, Spanned<Tagged<Raw>>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Raw, E> {
        Ok(Raw::Inferred(v.to_string()))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Raw, E> {
        Ok(Raw::Inferred(v.to_string()))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Raw, E> {
        Ok(Raw::Inferred(v.to_string()))
    }
    fn visit_i128<E>(self, v: i128) -> Result<Raw, E> {
        Ok(Raw::Inferred(v.to_string()))
    }
    fn visit_u128<E>(self, v: u128) -> Result<Raw, E> {
        Ok(Raw::Inferred(v.to_string()))
    }
    fn visit_f64<E>(self, v: f64) -> Result<Raw, E> {
        Ok(Raw::Inferred(v.to_string()))
    }
    fn visit_str<E>(self, v: &str) -> Result<Raw, E> {
        Ok(Raw::Text(v.to_owned()))
    }
    fn visit_string<E>(self, v: String) -> Result<Raw, E> {
        Ok(Raw::Text(v))
    }
    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }
    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

fn with_places(raw: Spanned<Tagged<Raw>>, text: &str) -> Node {
    let Tagged(value, tag) = raw.value;
    let span = raw.defined.span();
    let spelling = || {
        let start = usize::try_from(span.byte_offset()?).ok()?;
        let end = start.checked_add(usize::try_from(span.byte_len()?).ok()?)?;
        text.get(start..end).map(str::trim).filter(|s| !s.is_empty())
    };
    let value = match value {
        Raw::Null => Value::Null,
        Raw::Inferred(said) => Value::Scalar { text: spelling().map_or(said, str::to_owned), plain: true },
        Raw::Text(text) => match tag.as_deref() {
            // `!file x` travels as that very text; only secret-bearing fields take it.
            Some("!file") => Value::Scalar { text: format!("{FILE_TAG}{text}"), plain: false },
            _ => Value::Scalar { text, plain: false },
        },
        Raw::List(items) => Value::List(items.into_iter().map(|n| with_places(n, text)).collect()),
        Raw::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(k, v)| {
                    let at = k.defined;
                    (Key { text: k.value, line: small(at.line()), column: small(at.column()) }, with_places(v, text))
                })
                .collect(),
        ),
    };
    Node { line: small(raw.defined.line()), column: small(raw.defined.column()), value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Node {
        Node::parse("a.yaml", text).expect("parses").remove(0)
    }

    fn child<'a>(node: &'a Node, path: &[&str]) -> &'a Node {
        path.iter().fold(node, |n, step| match &n.value {
            Value::Map(entries) => &entries.iter().find(|(k, _)| k.text == *step).expect("key").1,
            Value::List(items) => &items[step.parse::<usize>().expect("index")],
            _ => panic!("no child {step} in {n:?}"),
        })
    }

    #[test]
    fn every_value_knows_its_place() {
        let node = parse("clusters:\n  app: [\"a:1\", b]\n  web: { tls: { sni: x } }\n");
        for (path, line, column) in [
            (&["clusters"][..], 2, 3),
            (&["clusters", "app"], 2, 8),
            (&["clusters", "app", "1"], 2, 16),
            (&["clusters", "web", "tls", "sni"], 3, 22),
        ] {
            let found = child(&node, path);
            assert_eq!((found.line, found.column), (line, column), "{path:?}");
        }
    }

    #[test]
    fn scalars_keep_their_spelling() {
        let node = parse("a: 1.10\nb: \"2\"\nc: true\nd: 0755\ne: 60/min\non: no\nf: ~\n");
        let scalar = |k| match &child(&node, &[k]).value {
            Value::Scalar { text, plain } => (text.clone(), *plain),
            other => panic!("{other:?}"),
        };
        assert_eq!(scalar("a"), ("1.10".to_owned(), true));
        assert_eq!(scalar("b"), ("2".to_owned(), false));
        assert_eq!(scalar("c"), ("true".to_owned(), true));
        assert_eq!(scalar("d"), ("0755".to_owned(), true));
        assert_eq!(scalar("e").0, "60/min");
        assert_eq!(scalar("on").0, "no");
        assert_eq!(child(&node, &["f"]).value, Value::Null);
        assert_eq!(node.to_json()["b"], Json::String("2".into()));
        assert_eq!(node.to_json()["a"], Json::String("1.10".into()));
        assert_eq!(node.to_json()["c"], Json::Bool(true));
    }

    #[test]
    fn anchors_and_merge_keys_are_resolved() {
        let node = parse("a: &x { k: 1, z: 2 }\nb: { <<: *x, k: 3 }\nc: *x\n");
        assert_eq!(node.to_json(), serde_json::json!({"a":{"k":1,"z":2},"b":{"k":3,"z":2},"c":{"k":1,"z":2}}));
    }

    #[test]
    fn json_and_places_bring_the_tree_back() {
        let node = parse("a:\n  - x: 1\n    y: [b, c]\n  - ~\nz: \"1\"\n");
        assert_eq!(Node::from_json(&node.to_json(), &node.places()), node.clone_unplain());
    }

    impl Node {
        /// What the way through JSON keeps: a plain text and a quoted one are the same.
        fn clone_unplain(&self) -> Node {
            let mut node = self.clone();
            fn walk(node: &mut Node) {
                match &mut node.value {
                    Value::Scalar { text, plain } => *plain = !scalar_to_json(text, *plain).is_string(),
                    Value::List(items) => items.iter_mut().for_each(walk),
                    Value::Map(entries) => entries.iter_mut().for_each(|(_, v)| walk(v)),
                    Value::Null => (),
                }
            }
            walk(&mut node);
            node
        }
    }

    #[test]
    fn bad_yaml_is_refused_with_its_place() {
        let deep = [["{a: "; 5000].concat(), ["["; 5000].concat(), ["- "; 5000].concat()];
        for (text, line, says) in
            [("a: [1, 2\nb: 3\n", 2, ""), ("a: 1\na: 2\n", 2, "duplicate"), ("a: *nowhere\n", 1, "")]
                .into_iter()
                .chain(deep.iter().map(|text| (&**text, 1, "nested more than 100 deep")))
        {
            let problem = Node::parse("f.yaml", text).expect_err(text);
            assert_eq!(problem.place.file, "f.yaml");
            assert_eq!(problem.place.line, line, "{problem}");
            assert!(problem.message.to_lowercase().contains(says), "{problem}");
            assert!(!problem.message.contains("line "), "{problem}");
        }
    }

    #[test]
    fn the_file_tag_is_kept_in_the_text() {
        let node = parse("key: !file /etc/key.pem\nb: x\n");
        assert_eq!(node.to_json()["key"], Json::String("!file /etc/key.pem".into()));
    }

    #[test]
    fn several_documents_and_none() {
        assert_eq!(Node::parse("f", "a: 1\n---\nb: 2\n").expect("two").len(), 2);
        assert_eq!(Node::parse("f", "# only a comment\n").expect("none").len(), 0);
    }
}
