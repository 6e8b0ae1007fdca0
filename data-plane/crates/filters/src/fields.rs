//! Header fields to add, with formatted values, and the changes of a mutation list.
//!
//! Formats are parsed when a snapshot compiles. A value that would not be a legal field value leaves its field out.

use dp_format::{Format, Inputs, Missing};
use dp_http::names::is_value;
use dp_http::{HeaderName, Headers, RequestHead, ResponseHead, StreamInfo};
use shared_config::header::{AppendAction, HeaderMutation, HeaderValueOption};
use shared_config::matcher::StringMatcher;

use crate::services::Scope;

/// A field to add.
pub(crate) struct AddField {
    name: HeaderName,
    value: Format,
    action: AppendAction,
    keep_empty: bool,
}

/// One step of a mutation list.
pub(crate) enum Change {
    Remove(HeaderName),
    RemoveOnMatch(StringMatcher),
    Add(AddField),
}

/// Parses a format, or refuses it in the snapshot that is being compiled.
pub(crate) fn format(text: &str, scope: &Scope<'_>) -> Option<Format> {
    Format::parse(text).map_err(|error| scope.refuse(format!("{text:?}: {error}"))).ok()
}

// === impl AddField ===

impl AddField {
    pub(crate) fn compile(option: &HeaderValueOption, scope: &Scope<'_>) -> Option<Self> {
        let name = HeaderName::new(&option.name).map_err(|error| scope.refuse(error)).ok()?;
        let value = format(&option.value, scope)?;
        Some(Self { name, value, action: option.action, keep_empty: option.keep_empty_value })
    }

    pub(crate) fn compile_all(options: &[HeaderValueOption], scope: &Scope<'_>) -> Box<[Self]> {
        options.iter().filter_map(|option| Self::compile(option, scope)).collect()
    }

    /// The value for `inputs`; `None` when the field is to be left out.
    fn value(&self, inputs: &Inputs<'_>) -> Option<String> {
        let mut text = String::new();
        self.value.write_with(inputs, Missing::Empty, &mut text);
        (text.bytes().all(is_value) && (self.keep_empty || !text.is_empty())).then_some(text)
    }

    fn put(&self, value: &str, headers: &mut Headers) {
        let value = value.as_bytes();
        match self.action {
            AppendAction::AppendIfExistsOrAdd => headers.append(&self.name, value),
            AppendAction::AddIfAbsent if headers.contains(&self.name) => {}
            AppendAction::AddIfAbsent => headers.append(&self.name, value),
            AppendAction::OverwriteIfExists if !headers.contains(&self.name) => {}
            AppendAction::OverwriteIfExists | AppendAction::OverwriteIfExistsOrAdd => headers.set(&self.name, value),
        }
    }

    pub(crate) fn add_to_request(&self, info: &StreamInfo, head: &mut RequestHead) {
        if let Some(value) = self.value(&Inputs::request(info, head)) {
            self.put(&value, &mut head.headers);
        }
    }

    pub(crate) fn add_to_response(&self, info: &StreamInfo, request: Option<&RequestHead>, head: &mut ResponseHead) {
        let inputs = Inputs { info, request, response: Some(head), trailers: None, local_reply_body: "" };
        if let Some(value) = self.value(&inputs) {
            self.put(&value, &mut head.headers);
        }
    }

    pub(crate) fn add_to_trailers(&self, info: &StreamInfo, request: Option<&RequestHead>, trailers: &mut Headers) {
        let inputs = Inputs { info, request, response: None, trailers: Some(trailers), local_reply_body: "" };
        if let Some(value) = self.value(&inputs) {
            self.put(&value, trailers);
        }
    }

    /// Adds the field to a reply of ours, of which there is no head yet.
    pub(crate) fn add_to_reply(&self, info: &StreamInfo, request: &RequestHead, headers: &mut Headers) {
        if let Some(value) = self.value(&Inputs::request(info, request)) {
            self.put(&value, headers);
        }
    }
}

// === impl Change ===

impl Change {
    pub(crate) fn compile(mutation: &HeaderMutation, scope: &Scope<'_>) -> Option<Self> {
        Some(match mutation {
            HeaderMutation::Remove(name) => Self::Remove(HeaderName::new(name).map_err(|e| scope.refuse(e)).ok()?),
            HeaderMutation::RemoveOnMatch(matcher) => Self::RemoveOnMatch(matcher.clone()),
            HeaderMutation::Append(option) => Self::Add(AddField::compile(option, scope)?),
        })
    }

    /// What is to be added, after removing what is to be removed.
    pub(crate) fn remove(&self, headers: &mut Headers) -> Option<&AddField> {
        match self {
            Self::Remove(name) => {
                headers.remove(name);
                None
            }
            Self::RemoveOnMatch(matcher) => {
                headers.retain(|name, _| !matcher.matches(name.as_bytes()));
                None
            }
            Self::Add(field) => Some(field),
        }
    }
}
