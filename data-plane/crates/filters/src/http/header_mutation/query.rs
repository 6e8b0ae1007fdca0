//! Changes to the query of a path.
//!
//! What is not changed stays byte for byte as it came, in its order.

use std::fmt::Write;

use dp_format::query::decoded;
use dp_format::{Format, Inputs, Missing};
use dp_http::{RequestHead, StreamInfo};
use shared_config::http_filter::header_mutation::{QueryAction, QueryMutation};

use crate::fields::format;
use crate::services::Scope;

pub(super) enum QueryChange {
    Remove(String),
    Append { key: String, value: Format, action: QueryAction },
}

impl QueryChange {
    pub(super) fn compile(mutation: &QueryMutation, scope: &Scope<'_>) -> Option<Self> {
        Some(match mutation {
            QueryMutation::Remove(key) => Self::Remove(key.clone()),
            QueryMutation::Append { key, value, action } => {
                Self::Append { key: key.clone(), value: format(value, scope)?, action: *action }
            }
        })
    }

    pub(super) fn apply(&self, info: &StreamInfo, head: &mut RequestHead) {
        let (key, value, action) = match self {
            Self::Remove(key) => (key, None, QueryAction::OverwriteIfExists),
            Self::Append { key, value, action } => {
                let mut text = String::new();
                value.write_with(&Inputs::request(info, head), Missing::Empty, &mut text);
                (key, Some(text), *action)
            }
        };
        if let Some(path) = changed(head.path(), key, value.as_deref(), action) {
            head.set_path(&path);
        }
    }
}

/// The path with the change, or `None` when it stays as it is. No value removes the parameter.
fn changed(path: &str, key: &str, value: Option<&str>, action: QueryAction) -> Option<String> {
    let (before, fragment) = path.find('#').map_or((path, ""), |at| path.split_at(at));
    let (base, query) = before.split_once('?').unwrap_or((before, ""));
    let is_key = |part: &&str| decoded(part.split_once('=').map_or(part, |(key, _)| key)) == key;
    let parts = || query.split('&').filter(|part| !part.is_empty());
    let exists = parts().any(|part| is_key(&part));
    let (keep, add) = match action {
        QueryAction::AppendIfExistsOrAdd => (true, true),
        QueryAction::AddIfAbsent => (true, !exists),
        QueryAction::OverwriteIfExistsOrAdd => (false, true),
        QueryAction::OverwriteIfExists => (false, exists),
    };
    let add = value.filter(|_| add);
    if add.is_none() && (keep || !exists) {
        return None;
    }
    let mut out = base.to_owned();
    let mut separator = '?';
    for part in parts().filter(|part| keep || !is_key(part)) {
        out.push(separator);
        out.push_str(part);
        separator = '&';
    }
    if let Some(value) = add {
        out.push(separator);
        percent_encode(key, &mut out);
        out.push('=');
        percent_encode(value, &mut out);
    }
    out.push_str(fragment);
    Some(out)
}

/// Encodes all that is not unreserved (RFC 3986 §2.3).
fn percent_encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte.into());
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use QueryAction::{AddIfAbsent, AppendIfExistsOrAdd, OverwriteIfExists, OverwriteIfExistsOrAdd};

    fn check(path: &str, value: Option<&str>, action: QueryAction, expected: &str) {
        assert_eq!(changed(path, "k", value, action).as_deref().unwrap_or(path), expected);
    }

    #[test]
    fn a_parameter_is_added_replaced_or_removed() {
        check("/", Some("a b&"), AppendIfExistsOrAdd, "/?k=a%20b%26");
        check("/?k=1&x=2", Some("v"), AppendIfExistsOrAdd, "/?k=1&x=2&k=v");
        check("/?k=1&x=2", Some("v"), AddIfAbsent, "/?k=1&x=2");
        check("/?x=%20", Some("v"), AddIfAbsent, "/?x=%20&k=v");
        check("/?k=1&x=2&k=3#f", Some("v"), OverwriteIfExistsOrAdd, "/?x=2&k=v#f");
        check("/?x=2", Some("v"), OverwriteIfExists, "/?x=2");
        check("/?%6b=1", Some("v"), OverwriteIfExists, "/?k=v");
        check("/?k", None, OverwriteIfExists, "/");
        check("/a?x&k=1", None, OverwriteIfExists, "/a?x");
        check("/a?x", None, OverwriteIfExists, "/a?x");
    }
}
