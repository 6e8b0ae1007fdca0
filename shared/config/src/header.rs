//! Header fields to add and remove (`HeaderValueOption`), at whatever level they stand.
//!
//! Values stay text here; their `%COMMAND%` operators are parsed by the data plane.

use proto::envoy::config::common::mutation_rules::v3 as rules;
use proto::envoy::config::core::v3 as core;

use crate::invalid::Problems;
use crate::matcher::StringMatcher;

/// A field to add, and what to do with one that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderValueOption {
    /// Lower case.
    pub name: String,
    /// A format with `%COMMAND%` operators.
    pub value: String,
    pub action: AppendAction,
    /// Add the field also when its value turns out to be empty.
    pub keep_empty_value: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AppendAction {
    #[default]
    AppendIfExistsOrAdd,
    AddIfAbsent,
    OverwriteIfExistsOrAdd,
    OverwriteIfExists,
}

/// Changes to the fields of one message: first all removals, then the additions in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderChanges {
    /// Lower case.
    pub remove: Vec<String>,
    pub add: Vec<HeaderValueOption>,
}

/// The changes of one level to requests and responses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mutations {
    pub request: HeaderChanges,
    pub response: HeaderChanges,
}

/// One step of a list of mutations (`envoy.config.common.mutation_rules.v3.HeaderMutation`).
#[derive(Debug, Clone, PartialEq)]
pub enum HeaderMutation {
    Remove(String),
    Append(HeaderValueOption),
    RemoveOnMatch(StringMatcher),
}

// === impl HeaderChanges ===

impl HeaderChanges {
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    /// Decodes the pair of fields `add_name` and `remove_name`.
    pub fn decode(
        (add_name, add): (&str, &[core::HeaderValueOption]),
        (remove_name, remove): (&str, &[String]),
        p: &mut Problems,
    ) -> Self {
        if add.len() > 1000 {
            p.refuse_at::<()>(add_name, "may have at most 1000 entries");
        }
        Self {
            add: p.each(add_name, add, |p, option| HeaderValueOption::decode(option, p)),
            remove: p.each(remove_name, remove, |p, name| decode_removed(name, p)),
        }
    }
}

/// Decodes the four fields of header changes that routes, virtual hosts, weighted clusters and route configurations have.
#[macro_export]
macro_rules! decode_mutations {
    ($proto:expr, $p:expr) => {
        $crate::header::Mutations {
            request: $crate::header::HeaderChanges::decode(
                ("request_headers_to_add", &$proto.request_headers_to_add),
                ("request_headers_to_remove", &$proto.request_headers_to_remove),
                $p,
            ),
            response: $crate::header::HeaderChanges::decode(
                ("response_headers_to_add", &$proto.response_headers_to_add),
                ("response_headers_to_remove", &$proto.response_headers_to_remove),
                $p,
            ),
        }
    };
}

fn decode_removed(name: &str, p: &mut Problems) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    if lower.starts_with(':') || lower == "host" {
        p.refuse(format!("{name:?} may not be removed: no pseudo-header and not host"));
        return None;
    }
    if !is_header_name(name) {
        p.refuse(format!("{name:?} is not a header name"));
        return None;
    }
    Some(lower)
}

// === impl HeaderValueOption ===

impl HeaderValueOption {
    pub fn decode(proto: &core::HeaderValueOption, p: &mut Problems) -> Option<Self> {
        let Some(header) = &proto.header else {
            return p.refuse_at("header", "is required");
        };
        let action = decode_action(proto, p)?;
        let name = header.key.to_ascii_lowercase();
        p.at("header", |p| {
            if name.starts_with(':') || name == "host" {
                return p.refuse_at("key", format!("{:?} may not be changed here; use a rewrite", header.key));
            }
            if !is_header_name(&name) {
                return p.refuse_at("key", format!("{:?} is not a header name", header.key));
            }
            if !header.raw_value.is_empty() && !header.value.is_empty() {
                return p.refuse_at("raw_value", "may not be set beside value");
            }
            let value = if header.raw_value.is_empty() {
                header.value.clone()
            } else {
                match std::str::from_utf8(&header.raw_value) {
                    Ok(text) => text.to_owned(),
                    Err(_) => return p.refuse_at("raw_value", "must be UTF-8"),
                }
            };
            if value.len() > 16_384 {
                return p.refuse_at("value", "is longer than 16384 bytes");
            }
            if value.contains(['\0', '\r', '\n']) {
                return p.refuse_at("value", "must not hold a line break or a zero byte");
            }
            Some(Self { name, value, action, keep_empty_value: proto.keep_empty_value })
        })
    }
}

fn decode_action(proto: &core::HeaderValueOption, p: &mut Problems) -> Option<AppendAction> {
    use core::header_value_option::HeaderAppendAction as Proto;
    let action = match Proto::try_from(proto.append_action) {
        Ok(Proto::AppendIfExistsOrAdd) => AppendAction::AppendIfExistsOrAdd,
        Ok(Proto::AddIfAbsent) => AppendAction::AddIfAbsent,
        Ok(Proto::OverwriteIfExistsOrAdd) => AppendAction::OverwriteIfExistsOrAdd,
        Ok(Proto::OverwriteIfExists) => AppendAction::OverwriteIfExists,
        Err(_) => return p.refuse_at("append_action", "is not an append action"),
    };
    match proto.append {
        None => Some(action),
        Some(_) if action != AppendAction::AppendIfExistsOrAdd => {
            p.refuse_at("append", "may not be set beside append_action")
        }
        Some(true) => Some(AppendAction::AppendIfExistsOrAdd),
        Some(false) => Some(AppendAction::OverwriteIfExistsOrAdd),
    }
}

// === impl HeaderMutation ===

impl HeaderMutation {
    pub fn decode(proto: &rules::HeaderMutation, p: &mut Problems) -> Option<Self> {
        use rules::header_mutation::Action;
        match &proto.action {
            Some(Action::Remove(name)) => Some(Self::Remove(p.at("remove", |p| decode_removed(name, p))?)),
            Some(Action::Append(option)) => {
                Some(Self::Append(p.at("append", |p| HeaderValueOption::decode(option, p))?))
            }
            Some(Action::RemoveOnMatch(on)) => {
                let matcher =
                    p.at("remove_on_match", |p| StringMatcher::decode_at("key_matcher", &on.key_matcher, p))?;
                Some(Self::RemoveOnMatch(matcher))
            }
            None => {
                p.refuse("needs remove, append or remove_on_match");
                None
            }
        }
    }
}

/// Whether this can name a field in configuration: a token (RFC 9110 §5.6.2), or a pseudo-header such as `:path`.
pub fn is_header_name(name: &str) -> bool {
    let token = name.strip_prefix(':').unwrap_or(name);
    !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}
