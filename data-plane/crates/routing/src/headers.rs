//! Adding and removing header fields, at all levels of a route configuration.
//!
//! Per level: first all removals; then every value is made from the message as it is by then; then what overwrites, and
//! last what is added. So the result does not depend on the order in which operators look at fields.

use dp_format::{Format, Inputs, Missing};
use dp_http::{HeaderName, Headers, RequestHead, ResponseHead, StreamInfo};
use shared_config::header::{AppendAction, HeaderChanges, HeaderMutation, HeaderValueOption};
use shared_config::matcher::StringMatcher;
use smallvec::SmallVec;

use crate::CompileError;
use crate::inline::{joins_in_request, joins_in_response};

/// All header changes for one route and direction, in the order in which they are made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeaderPlan(Vec<Level>);

/// Where header changes come from.
#[derive(Clone, Copy)]
pub struct HeaderLevels<'a> {
    pub weighted_cluster: Option<&'a HeaderChanges>,
    pub route: &'a HeaderChanges,
    pub virtual_host: &'a HeaderChanges,
    pub configuration: &'a HeaderChanges,
    /// `most_specific_header_mutations_wins`.
    pub most_specific_wins: bool,
}

/// A list of mutations, each made when its turn comes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeaderSteps(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Remove(HeaderName),
    RemoveOnMatch(StringMatcher),
    Append(Level),
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Level {
    remove: Vec<HeaderName>,
    add: Vec<Addition>,
}

#[derive(Debug, Clone, PartialEq)]
struct Addition {
    name: HeaderName,
    value: Format,
    action: AppendAction,
    keep_empty_value: bool,
    /// In requests and in responses: appending joins with the value that is there.
    joins: [bool; 2],
}

const REQUEST: usize = 0;
const RESPONSE: usize = 1;

impl HeaderPlan {
    /// # Errors
    /// A value is no format, or a name cannot be a field.
    pub fn compile(levels: HeaderLevels<'_>) -> Result<Self, CompileError> {
        let mut order = [levels.route, levels.virtual_host, levels.configuration];
        if levels.most_specific_wins {
            order.reverse();
        }
        // A weighted cluster comes first either way.
        let all = levels.weighted_cluster.into_iter().chain(order).filter(|changes| !changes.is_empty());
        all.map(Level::compile).collect::<Result<_, _>>().map(Self)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn apply_to_request(&self, head: &mut RequestHead, info: &StreamInfo) {
        for level in &self.0 {
            level.apply_to_request(head, info);
        }
    }

    pub fn apply_to_response(&self, head: &mut ResponseHead, request: Option<&RequestHead>, info: &StreamInfo) {
        for level in &self.0 {
            level.apply_to_response(head, request, info);
        }
    }
}

impl HeaderSteps {
    /// # Errors
    /// A value is no format, or a name cannot be a field.
    pub fn compile(mutations: &[HeaderMutation]) -> Result<Self, CompileError> {
        let compile = |mutation: &HeaderMutation| {
            Ok(match mutation {
                HeaderMutation::Remove(name) => Step::Remove(HeaderName::new(name)?),
                HeaderMutation::RemoveOnMatch(matcher) => Step::RemoveOnMatch(matcher.clone()),
                HeaderMutation::Append(option) => {
                    Step::Append(Level { remove: Vec::new(), add: vec![Addition::compile(option)?] })
                }
            })
        };
        mutations.iter().map(compile).collect::<Result<_, _>>().map(Self)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn apply_to_request(&self, head: &mut RequestHead, info: &StreamInfo) {
        for step in &self.0 {
            match step {
                Step::Append(level) => level.apply_to_request(head, info),
                step => step.remove_from(&mut head.headers),
            }
        }
    }

    pub fn apply_to_response(&self, head: &mut ResponseHead, request: Option<&RequestHead>, info: &StreamInfo) {
        for step in &self.0 {
            match step {
                Step::Append(level) => level.apply_to_response(head, request, info),
                step => step.remove_from(&mut head.headers),
            }
        }
    }
}

impl Step {
    fn remove_from(&self, headers: &mut Headers) {
        match self {
            Self::Remove(name) => {
                headers.remove(name);
            }
            Self::RemoveOnMatch(matcher) => headers.retain(|name, _| !matcher.matches(name.as_bytes())),
            Self::Append(_) => {}
        }
    }
}

impl Level {
    fn compile(changes: &HeaderChanges) -> Result<Self, CompileError> {
        Ok(Self {
            remove: changes.remove.iter().map(|name| HeaderName::new(name)).collect::<Result<_, _>>()?,
            add: changes.add.iter().map(Addition::compile).collect::<Result<_, _>>()?,
        })
    }

    fn apply_to_request(&self, head: &mut RequestHead, info: &StreamInfo) {
        self.remove_from(&mut head.headers);
        let mut text = String::new();
        let values = self.evaluate(&head.headers, &Inputs::request(info, head), &mut text);
        self.add_to(&mut head.headers, REQUEST, &values, &text);
    }

    fn apply_to_response(&self, head: &mut ResponseHead, request: Option<&RequestHead>, info: &StreamInfo) {
        self.remove_from(&mut head.headers);
        let mut text = String::new();
        let inputs = Inputs { info, request, response: Some(head), trailers: None, local_reply_body: "" };
        let values = self.evaluate(&head.headers, &inputs, &mut text);
        self.add_to(&mut head.headers, RESPONSE, &values, &text);
    }

    fn remove_from(&self, headers: &mut Headers) {
        for name in &self.remove {
            headers.remove(name);
        }
    }

    /// For each addition whether it is made, and where in `text` its value ends. Values that never change are not
    /// copied into `text`.
    fn evaluate(&self, headers: &Headers, inputs: &Inputs<'_>, text: &mut String) -> SmallVec<[Option<usize>; 8]> {
        let evaluate = |addition: &Addition| {
            let wanted = match addition.action {
                AppendAction::AppendIfExistsOrAdd | AppendAction::OverwriteIfExistsOrAdd => true,
                AppendAction::AddIfAbsent => !headers.contains(&addition.name),
                AppendAction::OverwriteIfExists => headers.contains(&addition.name),
            };
            if !wanted {
                return None;
            }
            let start = text.len();
            let is_empty = match addition.value.constant() {
                Some(constant) => constant.is_empty(),
                None => {
                    addition.value.write_with(inputs, Missing::Empty, text);
                    text.len() == start
                }
            };
            (!is_empty || addition.keep_empty_value).then_some(text.len())
        };
        self.add.iter().map(evaluate).collect()
    }

    fn add_to(&self, headers: &mut Headers, direction: usize, values: &[Option<usize>], text: &str) {
        for overwrites in [true, false] {
            let mut start = 0;
            for (addition, end) in self.add.iter().zip(values) {
                let Some(end) = *end else { continue };
                let value = addition.value.constant().unwrap_or(&text[start..end]);
                start = end;
                if addition.overwrites() == overwrites {
                    addition.apply(headers, direction, value.as_bytes());
                }
            }
        }
    }
}

impl Addition {
    fn compile(option: &HeaderValueOption) -> Result<Self, CompileError> {
        let value =
            Format::parse(&option.value).map_err(|error| CompileError::Format { name: option.name.clone(), error })?;
        Ok(Self {
            name: HeaderName::new(&option.name)?,
            value,
            action: option.action,
            keep_empty_value: option.keep_empty_value,
            joins: [joins_in_request(&option.name), joins_in_response(&option.name)],
        })
    }

    fn overwrites(&self) -> bool {
        matches!(self.action, AppendAction::OverwriteIfExistsOrAdd | AppendAction::OverwriteIfExists)
    }

    fn apply(&self, headers: &mut Headers, direction: usize, value: &[u8]) {
        // What comes from a peer by an operator must not start a new line.
        let checked: Vec<u8>;
        let value = if value.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
            checked = value.iter().map(|b| if matches!(b, b'\r' | b'\n' | 0) { b' ' } else { *b }).collect();
            &checked
        } else {
            value
        };
        if self.overwrites() {
            headers.set(&self.name, value);
            return;
        }
        match headers.get(&self.name) {
            Some(there) if self.joins[direction] => {
                let joined = [there, b",", value].concat();
                headers.set(&self.name, &joined);
            }
            _ => headers.append(&self.name, value),
        }
    }
}

#[cfg(test)]
mod tests;
