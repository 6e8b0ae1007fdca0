//! What a route does: redirects, own answers, rewrites, header edits.

use crate::node::{Node, Value};
use crate::problem::Code;
use crate::read::{Keys, Reader};
use crate::route::matching::is_header_name;

#[derive(Debug, Clone, PartialEq)]
pub struct Redirect {
    pub https: bool,
    pub host: Option<String>,
    pub port: Option<u32>,
    pub path: Option<RedirectPath>,
    pub status: u32,
    pub strip_query: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum RedirectPath {
    Whole(String),
    /// Replaces the matched prefix.
    Prefix(String),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Respond {
    pub status: u32,
    pub body: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rewrite {
    pub path: Option<PathRewrite>,
    pub host: Option<HostRewrite>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum PathRewrite {
    /// `/orders/v1/7` with strip `/orders/v1` and prefix `/orders` becomes `/orders/7`. No trailing slashes here.
    Strip {
        strip: String,
        prefix: String,
    },
    Regex {
        pattern: String,
        substitution: String,
    },
    /// With the variables of a path template.
    Template(String),
}

#[derive(Debug, Clone, PartialEq)]
pub enum HostRewrite {
    Literal(String),
    /// The host name of the endpoint that was picked.
    Endpoint,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeaderEdits {
    pub set: Vec<(String, String)>,
    pub add: Vec<(String, String)>,
    pub remove: Vec<String>,
}

impl HeaderEdits {
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// These edits, then those of `later`.
    pub fn and(mut self, later: &HeaderEdits) -> Self {
        self.set.extend(later.set.iter().cloned());
        self.add.extend(later.add.iter().cloned());
        self.remove.extend(later.remove.iter().cloned());
        self
    }
}

pub(crate) fn redirect(r: &mut Reader<'_>, node: &Node) -> Option<Redirect> {
    const KEYS: Keys =
        Keys { known: &["scheme", "host", "port", "path", "prefix", "status", "strip_query"], not_yet: &[] };
    let mut to = Redirect { https: false, host: None, port: None, path: None, status: 301, strip_query: false };
    if let Value::Scalar { .. } = node.value {
        let text = r.word(node)?;
        match text.as_str() {
            "https" => to.https = true,
            path if path.starts_with('/') => to.path = Some(RedirectPath::Whole(text)),
            _ => {
                r.wrong(node, Code::Value, format!("`{text}` is not a redirect: write `https`, a path, or a map"));
                return None;
            }
        }
        return Some(to);
    }
    let fields = r.fields(node, KEYS)?;
    to.https = r.field(&fields, "scheme", |r, n| r.choice(n, &[("https", true)])).unwrap_or(false);
    to.host = r.field(&fields, "host", Reader::word);
    to.port = r.field(&fields, "port", |r, n| r.number(n, 1..=65535));
    let whole = r.field(&fields, "path", slashed).map(RedirectPath::Whole);
    let prefix = r.field(&fields, "prefix", slashed).map(RedirectPath::Prefix);
    if whole.is_some() && prefix.is_some() {
        r.wrong(node, Code::Conflict, "write either `path` or `prefix`");
    }
    to.path = whole.or(prefix);
    let statuses = [("301", 301), ("302", 302), ("303", 303), ("307", 307), ("308", 308)];
    to.status = r.field(&fields, "status", |r, n| r.choice(n, &statuses)).unwrap_or(301);
    to.strip_query = r.field(&fields, "strip_query", Reader::truth).unwrap_or(false);
    if !to.https && to.host.is_none() && to.port.is_none() && to.path.is_none() {
        r.wrong(node, Code::Shape, "the redirect changes nothing");
        return None;
    }
    Some(to)
}

fn slashed(r: &mut Reader<'_>, node: &Node) -> Option<String> {
    let text = r.word(node)?;
    if !text.starts_with('/') {
        r.wrong(node, Code::Value, format!("`{text}` does not begin with `/`"));
        return None;
    }
    Some(text)
}

pub(crate) fn respond(r: &mut Reader<'_>, node: &Node) -> Option<Respond> {
    const KEYS: Keys = Keys { known: &["status", "body"], not_yet: &["file"] };
    if let Value::Scalar { .. } = node.value {
        return Some(Respond { status: r.number(node, 200..=599)?, body: None });
    }
    let fields = r.fields(node, KEYS)?;
    let body = r.field(&fields, "body", |r, n| {
        let text = r.text(n)?;
        if text.len() > 4096 {
            r.wrong(n, Code::Value, "longer than 4096 bytes");
            return None;
        }
        Some(text)
    });
    Some(Respond { status: r.required(&fields, "status", |r, n| r.number(n, 200..=599))?, body })
}

pub(crate) fn rewrite(r: &mut Reader<'_>, node: &Node) -> Option<Rewrite> {
    const KEYS: Keys = Keys { known: &["strip", "prefix", "regex", "template", "host"], not_yet: &[] };
    let fields = r.fields(node, KEYS)?;
    let host = r.field(&fields, "host", |r, n| {
        let text = r.word(n)?;
        Some(if text == "auto" { HostRewrite::Endpoint } else { HostRewrite::Literal(text) })
    });
    let path = path_rewrite(r, node, &fields);
    Some(Rewrite { path, host })
}

/// `strip`, `prefix`, `regex`, `template` of a map; shared with the versions of an api.
pub(crate) fn path_rewrite(r: &mut Reader<'_>, node: &Node, fields: &crate::read::Fields<'_>) -> Option<PathRewrite> {
    const REGEX: Keys = Keys { known: &["match", "replace"], not_yet: &[] };
    let trimmed = |r: &mut Reader<'_>, n: &Node| slashed(r, n).map(|s| s.trim_end_matches('/').to_owned());
    let strip = r.field(fields, "strip", trimmed);
    let prefix = r.field(fields, "prefix", trimmed);
    let regex = r.field(fields, "regex", |r, n| {
        let fields = r.fields(n, REGEX)?;
        let pattern = r.required(&fields, "match", Reader::word);
        let substitution = r.required(&fields, "replace", Reader::text);
        Some(PathRewrite::Regex { pattern: pattern?, substitution: substitution? })
    });
    let template = r.field(fields, "template", slashed).map(PathRewrite::Template);
    let stripped = (strip.is_some() || prefix.is_some())
        .then(|| PathRewrite::Strip { strip: strip.unwrap_or_default(), prefix: prefix.unwrap_or_default() });
    if [stripped.is_some(), regex.is_some(), template.is_some()].iter().filter(|b| **b).count() > 1 {
        r.wrong(node, Code::Conflict, "write either `strip` and `prefix`, or `regex`, or `template`");
    }
    stripped.or(regex).or(template)
}

/// `{ request: {...}, response: {...} }`.
pub(crate) fn both_headers(r: &mut Reader<'_>, node: &Node) -> Option<(HeaderEdits, HeaderEdits)> {
    const KEYS: Keys = Keys { known: &["request", "response"], not_yet: &[] };
    let fields = r.fields(node, KEYS)?;
    let request = r.field(&fields, "request", header_edits).unwrap_or_default();
    let response = r.field(&fields, "response", header_edits).unwrap_or_default();
    Some((request, response))
}

/// `{ set: {a: b}, add: {a: b}, remove: [a] }`.
pub(crate) fn header_edits(r: &mut Reader<'_>, node: &Node) -> Option<HeaderEdits> {
    const KEYS: Keys = Keys { known: &["set", "add", "remove"], not_yet: &[] };
    let fields = r.fields(node, KEYS)?;
    Some(HeaderEdits {
        set: r.field(&fields, "set", header_values).unwrap_or_default(),
        add: r.field(&fields, "add", header_values).unwrap_or_default(),
        remove: r
            .field(&fields, "remove", |r, n| {
                Some(r.each(n, |r, n| {
                    let name = r.word(n)?;
                    header_name(r, n, &name)
                }))
            })
            .unwrap_or_default(),
    })
}

fn header_values(r: &mut Reader<'_>, node: &Node) -> Option<Vec<(String, String)>> {
    r.entries(node, |r, name, n| {
        let name = header_name(r, n, name);
        let value = r.text(n)?;
        if value.bytes().any(|b| b < 0x20 && b != b'\t' || b == 0x7f) {
            r.wrong(n, Code::Value, "a header value has no control characters");
            return None;
        }
        Some((name?, value))
    })
}

pub(crate) fn header_name(r: &mut Reader<'_>, node: &Node, name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    if !is_header_name(&lower) {
        r.wrong(node, Code::Value, format!("`{name}` is not a header name"));
        return None;
    }
    if lower == "host" {
        r.wrong(node, Code::Conflict, "the host is changed with `rewrite: { host: ... }`");
        return None;
    }
    Some(lower)
}
