//! What a route matches: host, path, headers, query, methods, server name.

use crate::node::{Node, Value};
use crate::problem::Code;
use crate::read::{Keys, Reader};

/// All parts must match; an empty `Match` matches everything.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Match {
    /// Any of these; none = every host.
    pub hosts: Vec<Host>,
    pub path: Option<PathMatch>,
    pub headers: Vec<(String, TextMatch)>,
    pub query: Vec<(String, TextMatch)>,
    pub methods: Vec<String>,
    /// Server names of TLS clients, for connections that are passed on undecrypted.
    pub sni: Vec<Host>,
    /// Protocols that TLS clients offer, likewise.
    pub alpn: Vec<String>,
}

impl Match {
    /// Whether it is about connections, before anything is decrypted, and not about requests.
    pub fn is_of_connections(&self) -> bool {
        !(self.sni.is_empty() && self.alpn.is_empty())
    }
}

/// `shop.example.com`, `*.example.com`, or `*`; lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    Any,
    /// `*.example.com`, kept as `.example.com`.
    Suffix(String),
    Exact(String),
}

impl Host {
    /// Whether every name that `other` matches is matched by this one.
    pub fn covers(&self, other: &Host) -> bool {
        match (self, other) {
            (Host::Any, _) => true,
            (Host::Suffix(suffix), Host::Exact(name) | Host::Suffix(name)) => {
                name == suffix && matches!(other, Host::Suffix(_))
                    || name.len() > suffix.len() && name.ends_with(suffix)
            }
            (Host::Exact(a), Host::Exact(b)) => a == b,
            _ => false,
        }
    }

    /// As Envoy writes it.
    pub fn domain(&self) -> String {
        match self {
            Host::Any => "*".to_owned(),
            Host::Suffix(suffix) => format!("*{suffix}"),
            Host::Exact(name) => name.clone(),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum PathMatch {
    /// `/api/` begins with it; `/api` also ends at a segment: `/api`, `/api/x`, not `/apix`.
    Prefix(String),
    Exact(String),
    /// The whole path.
    Regex(String),
    /// `/users/{id}/**`.
    Template(String),
}

#[derive(Debug, Clone, PartialEq)]
pub struct TextMatch {
    pub pattern: Pattern,
    pub not: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Pattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    Regex(String),
    Present,
}

pub(crate) fn matching(r: &mut Reader<'_>, node: &Node) -> Option<Match> {
    const KEYS: Keys = Keys {
        known: &["host", "hosts", "path", "headers", "query", "method", "methods", "sni", "alpn"],
        not_yet: &["cookies", "client_ip", "port"],
    };
    if let Value::Scalar { .. } = node.value {
        return Some(Match { path: path(r, node), ..Match::default() });
    }
    let fields = r.fields(node, KEYS)?;
    let both = |r: &mut Reader<'_>, one: &str, many: &str| {
        if let (Some(node), Some(_)) = (fields.get(one), fields.get(many)) {
            r.wrong(node, Code::Conflict, format!("write either `{one}` or `{many}`"));
        }
        if fields.get(one).is_some() { one.to_owned() } else { many.to_owned() }
    };
    let hosts_key = both(r, "host", "hosts");
    let methods_key = both(r, "method", "methods");
    Some(Match {
        hosts: r.field(&fields, &hosts_key, |r, n| Some(r.each(n, host))).unwrap_or_default(),
        path: r.field(&fields, "path", path),
        headers: r.field(&fields, "headers", |r, n| text_matches(r, n, true)).unwrap_or_default(),
        query: r.field(&fields, "query", |r, n| text_matches(r, n, false)).unwrap_or_default(),
        methods: r.field(&fields, &methods_key, |r, n| Some(r.each(n, method))).unwrap_or_default(),
        sni: r.field(&fields, "sni", |r, n| Some(r.each(n, host))).unwrap_or_default(),
        alpn: r.field(&fields, "alpn", |r, n| Some(r.each(n, Reader::word))).unwrap_or_default(),
    })
}

pub(crate) fn host(r: &mut Reader<'_>, node: &Node) -> Option<Host> {
    let text = r.word(node)?.to_ascii_lowercase();
    let name = |s: &str| {
        !s.is_empty() && s.len() <= 253 && s.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
    };
    match text.strip_prefix("*.") {
        _ if text == "*" => Some(Host::Any),
        Some(rest) if name(rest) => Some(Host::Suffix(format!(".{rest}"))),
        None if name(&text) => Some(Host::Exact(text)),
        // An IPv6 address stands in brackets, as in the Host header.
        None if text.starts_with('[') && text.ends_with(']') => Some(Host::Exact(text)),
        _ => {
            r.wrong(node, Code::Value, format!("`{text}` is not a host: write shop.example.com, *.example.com or *"));
            if text.contains(':') {
                r.hint("hosts have no port; the port of a request is not looked at");
            }
            None
        }
    }
}

pub(crate) fn path(r: &mut Reader<'_>, node: &Node) -> Option<PathMatch> {
    const KEYS: Keys = Keys { known: &["prefix", "exact", "regex", "template"], not_yet: &[] };
    let slashed = |r: &mut Reader<'_>, n: &Node| {
        let text = r.word(n)?;
        if !text.starts_with('/') || text.contains(['?', '#']) {
            r.wrong(n, Code::Value, format!("`{text}` is not a path: it begins with `/` and has no `?` or `#`"));
            return None;
        }
        Some(text)
    };
    if let Value::Scalar { .. } = node.value {
        return slashed(r, node).map(PathMatch::Prefix);
    }
    let fields = r.fields(node, KEYS)?;
    let prefix = r.field(&fields, "prefix", slashed).map(PathMatch::Prefix);
    let exact = r.field(&fields, "exact", slashed).map(PathMatch::Exact);
    let template = r.field(&fields, "template", slashed).map(PathMatch::Template);
    let regex = r.field(&fields, "regex", Reader::word).map(PathMatch::Regex);
    one_of(r, node, KEYS.known.iter().filter(|k| fields.get(k).is_some()).count(), KEYS.known);
    prefix.or(exact).or(template).or(regex)
}

fn one_of(r: &mut Reader<'_>, node: &Node, given: usize, keys: &[&str]) {
    if given != 1 {
        r.wrong(node, Code::Shape, format!("exactly one of {} is needed", keys.join(", ")));
    }
}

fn text_matches(r: &mut Reader<'_>, node: &Node, headers: bool) -> Option<Vec<(String, TextMatch)>> {
    r.entries(node, |r, name, n| {
        if headers && !is_header_name(name) {
            r.wrong(n, Code::Value, format!("`{name}` is not a header name"));
            return None;
        }
        let name = if headers { name.to_ascii_lowercase() } else { name.to_owned() };
        let text = text_match(r, n)?;
        if !headers && text.not && text.pattern != Pattern::Present {
            r.wrong(n, Code::NotYet, "`not` is implemented for headers only; a query can be `{ present: false }`");
            return None;
        }
        Some((name, text))
    })
}

fn text_match(r: &mut Reader<'_>, node: &Node) -> Option<TextMatch> {
    const KEYS: Keys =
        Keys { known: &["exact", "prefix", "suffix", "contains", "regex", "present", "not"], not_yet: &[] };
    if let Value::Scalar { .. } = node.value {
        return Some(TextMatch { pattern: Pattern::Exact(r.text(node)?), not: false });
    }
    let fields = r.fields(node, KEYS)?;
    let kinds = &KEYS.known[..6];
    one_of(r, node, kinds.iter().filter(|k| fields.get(k).is_some()).count(), kinds);
    let not = r.field(&fields, "not", Reader::truth).unwrap_or(false);
    if let Some(present) = r.field(&fields, "present", Reader::truth) {
        return Some(TextMatch { pattern: Pattern::Present, not: not == present });
    }
    let pattern = r
        .field(&fields, "exact", Reader::text)
        .map(Pattern::Exact)
        .or_else(|| r.field(&fields, "prefix", Reader::word).map(Pattern::Prefix))
        .or_else(|| r.field(&fields, "suffix", Reader::word).map(Pattern::Suffix))
        .or_else(|| r.field(&fields, "contains", Reader::word).map(Pattern::Contains))
        .or_else(|| r.field(&fields, "regex", Reader::word).map(Pattern::Regex))?;
    Some(TextMatch { pattern, not })
}

pub(crate) fn method(r: &mut Reader<'_>, node: &Node) -> Option<String> {
    let text = r.word(node)?;
    if !text.chars().all(|c| c.is_ascii_uppercase() || c == '-') {
        r.wrong(node, Code::Value, format!("`{text}` is not a method: methods are upper case"));
        return None;
    }
    Some(text)
}

/// RFC 9110 token.
pub(crate) fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_covers_what_it_matches() {
        let exact = |s: &str| Host::Exact(s.into());
        let suffix = |s: &str| Host::Suffix(s.into());
        for (a, b, covers) in [
            (Host::Any, exact("a.b"), true),
            (suffix(".b.c"), exact("a.b.c"), true),
            (suffix(".b.c"), exact("b.c"), false),
            (suffix(".c"), suffix(".b.c"), true),
            (suffix(".b.c"), suffix(".b.c"), true),
            (suffix(".b.c"), suffix(".c"), false),
            (suffix(".b.c"), exact("xb.c"), false),
            (exact("a"), exact("a"), true),
            (exact("a"), Host::Any, false),
            (suffix(".c"), Host::Any, false),
        ] {
            assert_eq!(a.covers(&b), covers, "{a:?} {b:?}");
        }
    }
}
