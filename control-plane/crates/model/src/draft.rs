//! A configuration as the operator wrote it: named objects in order, not yet checked.
//!
//! Reads texts, merges changes, takes objects out. Never looks inside an object beyond its name.

use std::fmt;

use proto::Any;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::node::{Node, Value};
use crate::problem::{Code, Place, Problems, closest};
use crate::read::Attachments;

/// The sections of the language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Listener,
    Route,
    Api,
    Policy,
    Cluster,
    Envoy,
}

impl Kind {
    pub const ALL: [Kind; 6] = [Kind::Listener, Kind::Route, Kind::Api, Kind::Policy, Kind::Cluster, Kind::Envoy];

    /// The key of its section.
    pub fn section(self) -> &'static str {
        match self {
            Kind::Listener => "listeners",
            Kind::Route => "routes",
            Kind::Api => "apis",
            Kind::Policy => "policies",
            Kind::Cluster => "clusters",
            Kind::Envoy => "envoy",
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Kind::Listener => "listener",
            Kind::Route => "route",
            Kind::Api => "api",
            Kind::Policy => "policy",
            Kind::Cluster => "cluster",
            Kind::Envoy => "envoy",
        }
    }

    /// From a section's key or the singular: `clusters`, `cluster`.
    pub fn named(word: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| k.section() == word || k.word() == word)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// One text as the operator wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub file: String,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    pub kind: Kind,
    /// Unique within its kind. A route without one has an empty name here.
    pub name: String,
    pub file: String,
    pub node: Node,
    /// What it was applied with, to know what belongs together; may be empty.
    pub tag: String,
}

impl Object {
    pub fn place(&self) -> Place {
        self.node.place(&self.file)
    }

    /// Applied again without a tag, an object keeps the one it has.
    fn keep_tag(&mut self, old: &Object) {
        if self.tag.is_empty() {
            self.tag.clone_from(&old.tag);
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Draft {
    pub objects: Vec<Object>,
    pub attachments: Attachments,
}

impl Draft {
    /// The objects of some texts and raw resources. Wrong texts are reported, and what could be read is returned.
    pub fn read(sources: &[Source], resources: &[Any], attachments: Attachments, problems: &mut Problems) -> Draft {
        let mut draft = Draft { objects: Vec::new(), attachments };
        for source in sources {
            match Node::parse(&source.file, &source.text) {
                Ok(documents) => documents.into_iter().for_each(|d| draft.document(&source.file, d, problems)),
                Err(problem) => problems.errors.push(problem),
            }
        }
        for (i, any) in resources.iter().enumerate() {
            match proto::json::to_value(any, proto::json::Secrets::Shown) {
                Ok(json) => draft.envoy("", Node::from_json(&json, &[]), problems),
                Err(e) => {
                    problems.push(&Place::default(), format!("resources[{i}]"), Code::Value, e.to_string());
                }
            }
        }
        draft.refuse_duplicates(problems);
        draft.objects.iter().for_each(|object| redacted(object, &object.node, problems));
        draft
    }

    fn document(&mut self, file: &str, document: Node, problems: &mut Problems) {
        let place = document.place(file);
        let Value::Map(entries) = document.value else {
            if document.value != Value::Null {
                problems.push(&place, "", Code::Shape, format!("expected a map, found {}", document.shape()));
            }
            return;
        };
        if entries.iter().any(|(k, _)| k.text == "@type") {
            return self.envoy(file, Node { value: Value::Map(entries), ..document }, problems);
        }
        for (key, node) in entries {
            let place = Place { file: file.to_owned(), line: key.line, column: key.column };
            match Kind::named(&key.text).filter(|k| k.section() == key.text) {
                _ if node.value == Value::Null => (),
                Some(kind @ (Kind::Route | Kind::Envoy)) => self.list_section(kind, file, node, problems),
                Some(kind) => self.map_section(kind, file, node, problems),
                None if key.text == "resources" => self.list_section(Kind::Envoy, file, node, problems),
                None => {
                    problems.push(
                        &place,
                        key.text.clone(),
                        Code::UnknownKey,
                        format!("unknown section `{}`", key.text),
                    );
                    let sections = Kind::ALL.map(Kind::section);
                    match closest(&key.text, sections) {
                        Some(near) => problems.hint(format!("did you mean `{near}`?")),
                        None => problems.hint(format!("sections: {}", sections.join(", "))),
                    }
                }
            }
        }
    }

    fn list_section(&mut self, kind: Kind, file: &str, node: Node, problems: &mut Problems) {
        let place = node.place(file);
        let Value::List(items) = node.value else {
            let found = node.shape();
            return problems.push(&place, kind.section(), Code::Shape, format!("expected a list, found {found}"));
        };
        for item in items {
            match kind {
                Kind::Envoy => self.envoy(file, item, problems),
                _ => {
                    let name = text_of(&item, "name").unwrap_or_default().to_owned();
                    self.objects.push(Object { kind, name, file: file.to_owned(), node: item, tag: String::new() });
                }
            }
        }
    }

    fn map_section(&mut self, kind: Kind, file: &str, node: Node, problems: &mut Problems) {
        let place = node.place(file);
        let Value::Map(entries) = node.value else {
            let found = node.shape();
            return problems.push(&place, kind.section(), Code::Shape, format!("expected a map, found {found}"));
        };
        for (key, node) in entries {
            let place = Place { file: file.to_owned(), line: key.line, column: key.column };
            if key.text.is_empty() || key.text.len() > 200 || key.text.chars().any(|c| c.is_control() || c == '/') {
                let message = format!("`{}` is not a name: 1 to 200 characters, no `/`", key.text.escape_debug());
                problems.push(&place, kind.section(), Code::Value, message);
                continue;
            }
            self.objects.push(Object { kind, name: key.text, file: file.to_owned(), node, tag: String::new() });
        }
    }

    /// A raw Envoy resource is named after its message and its own name.
    fn envoy(&mut self, file: &str, node: Node, problems: &mut Problems) {
        let place = node.place(file);
        let Some(message) = text_of(&node, "@type").and_then(|t| t.rsplit(['.', '/']).next()) else {
            return problems.push(&place, "envoy", Code::Shape, "a raw Envoy resource needs `@type`");
        };
        let name_key =
            if message == "ClusterLoadAssignment" { ["cluster_name", "clusterName"] } else { ["name", "name"] };
        let Some(name) = name_key.iter().find_map(|k| text_of(&node, k)) else {
            return problems.push(
                &place,
                "envoy",
                Code::Shape,
                format!("a raw Envoy resource needs `{}`", name_key[0]),
            );
        };
        let name = format!("{message}/{name}");
        self.objects.push(Object { kind: Kind::Envoy, name, file: file.to_owned(), node, tag: String::new() });
    }

    fn refuse_duplicates(&self, problems: &mut Problems) {
        let mut seen = std::collections::BTreeMap::new();
        for object in self.objects.iter().filter(|o| !o.name.is_empty()) {
            if let Some(earlier) = seen.insert((object.kind, &object.name), object) {
                let message = format!("{} `{}` is defined twice", object.kind, object.name);
                let field = format!("{}.{}", object.kind.section(), object.name);
                problems.push(&object.place(), field, Code::Duplicate, message);
                problems.hint(format!("the other one is at {}", earlier.place()));
            }
        }
    }

    /// This configuration with `change` laid over it.
    ///
    /// Named objects are replaced where they stand, or added at the end. Routes are replaced as a block per file, at the
    /// place of the file's earlier block, so that their order stays what the file says. With `prune`, `change` is all there is;
    /// with a tag, all there is with that tag.
    pub fn with(&self, mut change: Draft, prune: bool, tag: &str) -> Draft {
        change.objects.iter_mut().for_each(|o| tag.clone_into(&mut o.tag));
        let mut attachments = self.attachments.clone();
        attachments.extend(change.attachments.clone());
        let mut merged = self.clone();
        if prune {
            merged.objects.retain(|o| !tag.is_empty() && o.tag != tag);
        }
        merged.attachments = attachments;
        let (routes, others): (Vec<_>, Vec<_>) = change.objects.into_iter().partition(|o| o.kind == Kind::Route);
        for mut object in others {
            let same = |o: &&mut Object| o.kind == object.kind && o.name == object.name;
            match merged.objects.iter_mut().find(same) {
                Some(old) => {
                    object.keep_tag(old);
                    *old = object;
                }
                None => merged.objects.push(object),
            }
        }
        merged.replace_routes(routes);
        merged.forget_attachments();
        merged
    }

    /// Objects that `change` would take from another tag, with that tag.
    pub fn tagged_otherwise<'d>(&'d self, change: &'d Draft, tag: &str) -> Vec<(&'d Object, &'d str)> {
        let other = |o: &'d Object| {
            let mut same = self.objects.iter().filter(|s| s.kind == o.kind && s.name == o.name && !s.name.is_empty());
            let theirs = same.find(|s| !s.tag.is_empty() && s.tag != tag)?;
            Some((o, theirs.tag.as_str()))
        };
        if tag.is_empty() { Vec::new() } else { change.objects.iter().filter_map(other).collect() }
    }

    /// Whether every object has the same tag in both.
    pub fn same_tags(&self, other: &Draft) -> bool {
        self.objects.iter().map(|o| &o.tag).eq(other.objects.iter().map(|o| &o.tag))
    }

    fn replace_routes(&mut self, routes: Vec<Object>) {
        let mut files: Vec<String> = Vec::new();
        for route in &routes {
            if !files.contains(&route.file) {
                files.push(route.file.clone());
            }
        }
        for file in files {
            let mut block: Vec<Object> = routes.iter().filter(|r| r.file == file).cloned().collect();
            let names: Vec<String> = block.iter().map(|b| b.name.clone()).collect();
            let replaced = |o: &Object| {
                o.kind == Kind::Route && (o.file == file || (!o.name.is_empty() && names.contains(&o.name)))
            };
            let at = self.objects.iter().position(replaced).unwrap_or(self.objects.len());
            if let Some(old) = self.objects.get(at) {
                block.iter_mut().for_each(|o| o.keep_tag(old));
            }
            self.objects.retain(|o| !replaced(o));
            self.objects.splice(at.min(self.objects.len())..at.min(self.objects.len()), block);
        }
    }

    /// This configuration without some objects. Routes without a name are called `routes[N]`.
    pub fn without(&self, gone: &[(Kind, String)]) -> Draft {
        let names = self.display_names();
        let keep = |(object, name): (&Object, &String)| {
            (!gone.iter().any(|(k, n)| *k == object.kind && n == name)).then(|| object.clone())
        };
        let objects = self.objects.iter().zip(&names).filter_map(keep).collect();
        let mut draft = Draft { objects, attachments: self.attachments.clone() };
        draft.forget_attachments();
        draft
    }

    /// What each object is called to people, in order.
    pub fn display_names(&self) -> Vec<String> {
        let mut routes = 0;
        let name = |o: &Object| {
            let index = routes;
            routes += usize::from(o.kind == Kind::Route);
            if o.name.is_empty() { format!("{}[{index}]", o.kind.section()) } else { o.name.clone() }
        };
        self.objects.iter().map(name).collect()
    }

    /// Content that no object refers to any more is not kept.
    fn forget_attachments(&mut self) {
        let mut used = Vec::new();
        for object in &self.objects {
            references(&object.node, &mut used);
        }
        self.attachments.retain(|reference, _| used.contains(reference));
    }

    /// Every object as one document of the short language.
    pub fn to_json(&self) -> Json {
        let mut document = serde_json::Map::new();
        for kind in Kind::ALL {
            let objects: Vec<&Object> = self.objects.iter().filter(|o| o.kind == kind).collect();
            if objects.is_empty() {
                continue;
            }
            let section = match kind {
                Kind::Route | Kind::Envoy => objects.iter().map(|o| o.node.to_json()).collect(),
                _ => Json::Object(objects.iter().map(|o| (o.name.clone(), o.node.to_json())).collect()),
            };
            document.insert(kind.section().to_owned(), section);
        }
        Json::Object(document)
    }
}

/// What was read without the right to see secrets cannot be written back: the secret would be lost.
fn redacted(object: &Object, node: &Node, problems: &mut Problems) {
    match &node.value {
        // As a text, and as the base64 of a field of bytes.
        Value::Scalar { text, .. } if text == proto::json::REDACTED || text == "W3JlZGFjdGVkXQ==" => {
            let field = format!("{}.{}", object.kind.section(), object.name);
            let message = format!("`{}` stands for a secret that was left out", proto::json::REDACTED);
            problems.push(&node.place(&object.file), field, Code::Attachment, message);
            problems.hint("write the secret itself, a file or ${VARIABLE}; the role admin can read it");
        }
        Value::Scalar { .. } | Value::Null => (),
        Value::List(items) => items.iter().for_each(|n| redacted(object, n, problems)),
        Value::Map(entries) => entries.iter().for_each(|(_, n)| redacted(object, n, problems)),
    }
}

/// The texts in `sources` that name a file or variable, wherever a secret may stand: what to send as attachments.
pub fn secret_references(sources: &[Source]) -> Vec<String> {
    let mut problems = Problems::default();
    let draft = Draft::read(sources, &[], Attachments::new(), &mut problems);
    let mut found = Vec::new();
    for object in &draft.objects {
        references(&object.node, &mut found);
    }
    found.sort();
    found.dedup();
    found
}

/// Secret-bearing keys stand only inside a `tls` map.
fn references(node: &Node, out: &mut Vec<String>) {
    fn secrets(node: &Node, out: &mut Vec<String>) {
        match &node.value {
            Value::Map(entries) => {
                for (key, value) in entries {
                    match (key.text.as_str(), &value.value) {
                        ("cert" | "key" | "ca" | "client_ca", Value::Scalar { text, .. }) => {
                            out.extend(crate::value::secret_reference(text).map(str::to_owned));
                        }
                        _ => secrets(value, out),
                    }
                }
            }
            Value::List(items) => items.iter().for_each(|n| secrets(n, out)),
            _ => (),
        }
    }
    if let Value::Map(entries) = &node.value
        && let Some((_, tls)) = entries.iter().find(|(k, _)| k.text == "tls")
    {
        secrets(tls, out);
    }
}

fn text_of<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    let Value::Map(entries) = &node.value else { return None };
    entries.iter().find_map(|(k, v)| match &v.value {
        Value::Scalar { text, .. } if k.text == key => Some(text.as_str()),
        _ => None,
    })
}

// === how a draft is kept in the store ===

#[derive(Serialize, Deserialize)]
struct StoredObject {
    kind: Kind,
    name: String,
    file: String,
    value: Json,
    places: Vec<u32>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    tag: String,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    objects: Vec<StoredObject>,
    attachments: Attachments,
}

impl Draft {
    /// Bytes for the store, places included, so that a later problem still points into the operator's file.
    pub fn encode(&self) -> Vec<u8> {
        let stored = |o: &Object| StoredObject {
            kind: o.kind,
            name: o.name.clone(),
            file: o.file.clone(),
            value: o.node.to_json(),
            places: o.node.places(),
            tag: o.tag.clone(),
        };
        let stored =
            Stored { objects: self.objects.iter().map(stored).collect(), attachments: self.attachments.clone() };
        serde_json::to_vec(&stored).expect("texts and numbers always serialise")
    }

    pub fn decode(bytes: &[u8]) -> Result<Draft, serde_json::Error> {
        let stored: Stored = serde_json::from_slice(bytes)?;
        let object = |o: StoredObject| Object {
            kind: o.kind,
            name: o.name,
            file: o.file,
            node: Node::from_json(&o.value, &o.places),
            tag: o.tag,
        };
        Ok(Draft { objects: stored.objects.into_iter().map(object).collect(), attachments: stored.attachments })
    }
}

#[cfg(test)]
mod tests;
