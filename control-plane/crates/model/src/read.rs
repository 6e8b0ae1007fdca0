//! Reading a tree: shapes, required and unknown keys, and every problem with its place and path.
//!
//! Knows no word of the language; the sections (`listener`, `route`, …) say which keys exist.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::draft::Kind;
use crate::node::{FILE_TAG, Key, Node, Value};
use crate::problem::{Code, Place, Problems, closest};
use crate::value;

/// The names a configuration defines, known before any section is read.
#[derive(Debug, Default)]
pub struct Names(BTreeMap<Kind, BTreeSet<String>>);

impl Names {
    pub fn add(&mut self, kind: Kind, name: &str) -> bool {
        self.0.entry(kind).or_default().insert(name.to_owned())
    }
    pub fn has(&self, kind: Kind, name: &str) -> bool {
        self.0.get(&kind).is_some_and(|set| set.contains(name))
    }
    fn of(&self, kind: Kind) -> impl Iterator<Item = &str> {
        self.0.get(&kind).into_iter().flatten().map(String::as_str)
    }
}

/// Content of what secret-bearing fields refer to, by the reference as written.
pub type Attachments = BTreeMap<String, String>;

/// Where the reader is, and what it found wrong so far.
pub struct Reader<'a> {
    pub file: &'a str,
    pub names: &'a Names,
    pub attachments: &'a Attachments,
    pub problems: &'a mut Problems,
    path: String,
}

/// A map whose keys were checked.
#[derive(Clone, Copy)]
pub struct Fields<'n> {
    pub node: &'n Node,
    entries: &'n [(Key, Node)],
}

impl<'n> Fields<'n> {
    /// The value of a key; a key with nothing behind it counts as absent.
    pub fn get(&self, key: &str) -> Option<&'n Node> {
        self.entries.iter().find(|(k, v)| k.text == key && v.value != Value::Null).map(|(_, v)| v)
    }
}

/// Which keys a map may have.
#[derive(Clone, Copy)]
pub struct Keys {
    pub known: &'static [&'static str],
    /// Part of the language; refused by name until implemented.
    pub not_yet: &'static [&'static str],
}

impl<'a> Reader<'a> {
    pub fn new(
        file: &'a str,
        path: String,
        names: &'a Names,
        attachments: &'a Attachments,
        problems: &'a mut Problems,
    ) -> Self {
        Reader { file, names, attachments, problems, path }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn place(&self, node: &Node) -> Place {
        node.place(self.file)
    }

    /// Reports a problem of the current field.
    pub fn wrong(&mut self, node: &Node, code: Code, message: impl Into<String>) {
        let place = self.place(node);
        self.problems.push(&place, self.path.clone(), code, message);
    }

    pub fn hint(&mut self, hint: impl Into<String>) {
        self.problems.hint(hint);
    }

    pub fn warn(&mut self, node: &Node, message: impl Into<String>) {
        let place = self.place(node);
        self.problems.warn(&place, self.path.clone(), message);
    }

    /// Runs `read` with `step` added to the path.
    pub fn at<T>(&mut self, step: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        if !step.starts_with('[') && !self.path.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(step);
        let value = read(self);
        self.path.truncate(length);
        value
    }

    /// Takes a map, and refuses each key that is not in `keys`.
    pub fn fields<'n>(&mut self, node: &'n Node, keys: Keys) -> Option<Fields<'n>> {
        let Value::Map(entries) = &node.value else {
            self.wrong(node, Code::Shape, format!("expected a map, found {}", node.shape()));
            return None;
        };
        for (key, _) in entries {
            let place = Place { file: self.file.to_owned(), line: key.line, column: key.column };
            let name = key.text.as_str();
            if keys.known.contains(&name) {
                continue;
            }
            let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
            if keys.not_yet.contains(&name) {
                self.problems.push(&place, path, Code::NotYet, format!("`{name}` is not implemented yet"));
                continue;
            }
            self.problems.push(&place, path, Code::UnknownKey, format!("unknown key `{name}`"));
            let all = keys.known.iter().chain(keys.not_yet).copied();
            match closest(name, all) {
                Some(near) => self.problems.hint(format!("did you mean `{near}`?")),
                None => self.problems.hint(format!("known keys: {}", keys.known.join(", "))),
            }
        }
        Some(Fields { node, entries })
    }

    /// Reads one key of a map, if it is there.
    pub fn field<T>(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        read: impl FnOnce(&mut Self, &Node) -> Option<T>,
    ) -> Option<T> {
        let node = fields.get(key)?;
        self.at(key, |r| read(r, node))
    }

    /// Reads one key of a map and refuses its absence.
    pub fn required<T>(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        read: impl FnOnce(&mut Self, &Node) -> Option<T>,
    ) -> Option<T> {
        match fields.get(key) {
            Some(node) => self.at(key, |r| read(r, node)),
            None => {
                self.wrong(fields.node, Code::Shape, format!("`{key}` is missing"));
                None
            }
        }
    }

    /// The elements of a list; a single value stands for a list of one.
    pub fn each<T>(&mut self, node: &Node, mut read: impl FnMut(&mut Self, &Node) -> Option<T>) -> Vec<T> {
        match &node.value {
            Value::List(items) => {
                items.iter().enumerate().filter_map(|(i, n)| self.at(&format!("[{i}]"), |r| read(r, n))).collect()
            }
            _ => read(self, node).into_iter().collect(),
        }
    }

    /// The elements of a list that must be one, and not be empty.
    pub fn list<T>(&mut self, node: &Node, mut read: impl FnMut(&mut Self, &Node) -> Option<T>) -> Option<Vec<T>> {
        let Value::List(items) = &node.value else {
            self.wrong(node, Code::Shape, format!("expected a list, found {}", node.shape()));
            return None;
        };
        if items.is_empty() {
            self.wrong(node, Code::Shape, "the list is empty");
            return None;
        }
        Some(items.iter().enumerate().filter_map(|(i, n)| self.at(&format!("[{i}]"), |r| read(r, n))).collect())
    }

    /// The entries of a map with free keys.
    pub fn entries<T>(
        &mut self,
        node: &Node,
        mut read: impl FnMut(&mut Self, &str, &Node) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Value::Map(entries) = &node.value else {
            self.wrong(node, Code::Shape, format!("expected a map, found {}", node.shape()));
            return None;
        };
        Some(entries.iter().filter_map(|(k, n)| self.at(&k.text, |r| read(r, &k.text, n))).collect())
    }

    /// `true` for all defaults, `false` for nothing, or a map.
    pub fn switch<T>(
        &mut self,
        node: &Node,
        default: impl FnOnce() -> T,
        read: impl FnOnce(&mut Self, &Node) -> Option<T>,
    ) -> Option<T> {
        match node.value {
            Value::Scalar { .. } => self.truth(node)?.then(default),
            _ => read(self, node),
        }
    }

    /// Refuses more than one of these keys.
    pub fn at_most_one(&mut self, fields: &Fields<'_>, keys: &[&str]) {
        if keys.iter().filter(|key| fields.get(key).is_some()).count() > 1 {
            self.wrong(fields.node, Code::Conflict, format!("only one of {} is possible", keys.join(", ")));
        }
    }

    fn scalar<'n>(&mut self, node: &'n Node, expected: &str) -> Option<&'n str> {
        match &node.value {
            Value::Scalar { text, .. } => Some(text),
            _ => {
                self.wrong(node, Code::Shape, format!("expected {expected}, found {}", node.shape()));
                None
            }
        }
    }

    /// A text. Variables and `!file` are for secret-bearing fields only.
    pub fn text(&mut self, node: &Node) -> Option<String> {
        let text = self.scalar(node, "a text")?;
        if text.starts_with(FILE_TAG) {
            self.wrong(
                node,
                Code::Value,
                "`!file` is allowed only in secret-bearing fields (tls certificates and keys)",
            );
            return None;
        }
        if text.contains("${") {
            self.wrong(
                node,
                Code::Value,
                "`${...}` is allowed only in secret-bearing fields (tls certificates and keys)",
            );
            return None;
        }
        Some(text.to_owned())
    }

    /// A text that is not empty.
    pub fn word(&mut self, node: &Node) -> Option<String> {
        let text = self.text(node)?;
        if text.is_empty() {
            self.wrong(node, Code::Value, "must not be empty");
            return None;
        }
        Some(text)
    }

    fn parsed<T>(&mut self, node: &Node, expected: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.scalar(node, expected)?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(why) => {
                self.wrong(node, Code::Value, why);
                None
            }
        }
    }

    pub fn duration(&mut self, node: &Node) -> Option<Duration> {
        self.parsed(node, "a duration", value::duration)
    }
    pub fn size(&mut self, node: &Node) -> Option<u64> {
        self.parsed(node, "a size", value::size)
    }
    pub fn percent(&mut self, node: &Node) -> Option<value::Percent> {
        self.parsed(node, "a percentage", value::percent)
    }
    /// A percentage that may be above 100%.
    pub fn share(&mut self, node: &Node) -> Option<value::Percent> {
        self.parsed(node, "a percentage", value::share)
    }
    pub fn decimal(&mut self, node: &Node, range: std::ops::RangeInclusive<f64>) -> Option<value::Decimal> {
        self.parsed(node, "a number", |text| match value::decimal(text) {
            Ok(number) if range.contains(&number.value()) => Ok(number),
            _ => Err(format!("expected a number from {} to {}, found `{text}`", range.start(), range.end())),
        })
    }
    pub fn rate(&mut self, node: &Node) -> Option<value::Rate> {
        self.parsed(node, "a rate", value::rate)
    }
    pub fn network(&mut self, node: &Node) -> Option<value::Network> {
        self.parsed(node, "an address or network", value::network)
    }
    pub fn endpoint(&mut self, node: &Node) -> Option<value::HostPort> {
        self.parsed(node, "host:port", value::host_port)
    }
    pub fn date(&mut self, node: &Node) -> Option<value::Date> {
        self.parsed(node, "a date", value::date)
    }

    pub fn truth(&mut self, node: &Node) -> Option<bool> {
        self.parsed(node, "true or false", |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(format!("expected true or false, found `{other}`")),
        })
    }

    pub fn number(&mut self, node: &Node, range: std::ops::RangeInclusive<u32>) -> Option<u32> {
        self.parsed(node, "a number", |text| match text.parse::<u32>() {
            Ok(n) if range.contains(&n) => Ok(n),
            _ => Err(format!("expected a number from {} to {}, found `{text}`", range.start(), range.end())),
        })
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, node: &Node, choices: &[(&str, T)]) -> Option<T> {
        let text = self.scalar(node, "a word")?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        self.wrong(node, Code::Value, format!("`{text}` is not one of {}", words.join(", ")));
        if let Some(near) = closest(text, words) {
            self.hint(format!("did you mean `{near}`?"));
        }
        None
    }

    /// The name of something the configuration defines.
    pub fn reference(&mut self, node: &Node, kind: Kind) -> Option<String> {
        let name = self.word(node)?;
        self.defined(node, kind, &name).then_some(name)
    }

    pub fn defined(&mut self, node: &Node, kind: Kind, name: &str) -> bool {
        if self.names.has(kind, name) {
            return true;
        }
        self.wrong(node, Code::Undefined, format!("{kind} `{name}` is not defined"));
        if let Some(near) = closest(name, self.names.of(kind)) {
            let near = near.to_owned();
            self.hint(format!("did you mean `{near}`?"));
        }
        false
    }

    /// A secret: a path, `!file path`, `${VARIABLE}`, or the PEM text itself.
    pub fn secret(&mut self, node: &Node) -> Option<String> {
        let text = self.scalar(node, "a file path, ${VARIABLE} or PEM text")?;
        let Some(reference) = value::secret_reference(text) else {
            return Some(text.to_owned());
        };
        match self.attachments.get(reference) {
            Some(content) => Some(content.clone()),
            // The draft has said so.
            None if reference == proto::json::REDACTED => None,
            None => {
                self.wrong(node, Code::Attachment, format!("the content of `{reference}` was not given"));
                None
            }
        }
    }
}
