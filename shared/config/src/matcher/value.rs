//! Matchers of structured values (`ValueMatcher`, `MetadataMatcher`).

use proto::envoy::r#type::matcher::v3 as matcher;
use serde_json::Value;

use super::StringMatcher;
use crate::invalid::Problems;

/// How deeply matchers may be nested; they come from outside.
const MAX_DEPTH: usize = 16;

/// What a JSON value must be (`envoy.type.matcher.v3.ValueMatcher`).
#[derive(Debug, Clone, PartialEq)]
pub enum ValueMatcher {
    Null,
    Number(f64),
    /// `start..end`.
    Range(f64, f64),
    Text(StringMatcher),
    Bool(bool),
    Present(bool),
    /// A list with an element that matches.
    OneOf(Box<ValueMatcher>),
    Any(Vec<ValueMatcher>),
}

/// What metadata of one filter must hold (`MetadataMatcher`).
#[derive(Debug, Clone, PartialEq)]
pub struct MetadataMatcher {
    pub filter: String,
    pub path: Vec<String>,
    pub value: ValueMatcher,
    pub invert: bool,
}

impl ValueMatcher {
    /// Whether the value matches; `None` when there is no such value.
    pub fn matches(&self, value: Option<&Value>) -> bool {
        match (self, value) {
            (Self::Present(present), value) => value.is_some() == *present,
            (Self::Any(matchers), value) => matchers.iter().any(|matcher| matcher.matches(value)),
            (Self::Null, Some(Value::Null)) => true,
            (Self::Number(n), Some(value)) => value.as_f64() == Some(*n),
            (Self::Range(start, end), Some(value)) => value.as_f64().is_some_and(|n| *start <= n && n < *end),
            (Self::Text(text), Some(Value::String(value))) => text.matches(value.as_bytes()),
            (Self::Bool(expected), Some(Value::Bool(value))) => expected == value,
            (Self::OneOf(matcher), Some(Value::Array(list))) => list.iter().any(|item| matcher.matches(Some(item))),
            _ => false,
        }
    }

    pub fn decode(proto: &matcher::ValueMatcher, p: &mut Problems) -> Option<Self> {
        Self::decode_nested(proto, p, 0)
    }

    fn decode_nested(proto: &matcher::ValueMatcher, p: &mut Problems, depth: usize) -> Option<Self> {
        use matcher::value_matcher::MatchPattern as Pattern;
        if depth > MAX_DEPTH {
            p.refuse(format!("is nested more than {MAX_DEPTH} deep"));
            return None;
        }
        match &proto.match_pattern {
            Some(Pattern::NullMatch(_)) => Some(Self::Null),
            Some(Pattern::DoubleMatch(number)) => p.at("double_match", |p| decode_double(number, p)),
            Some(Pattern::StringMatch(text)) => {
                Some(Self::Text(p.at("string_match", |p| StringMatcher::decode(text, p))?))
            }
            Some(Pattern::BoolMatch(value)) => Some(Self::Bool(*value)),
            Some(Pattern::PresentMatch(present)) => Some(Self::Present(*present)),
            Some(Pattern::ListMatch(list)) => match &list.match_pattern {
                Some(matcher::list_matcher::MatchPattern::OneOf(one)) => {
                    let one = p.at("list_match.one_of", |p| Self::decode_nested(one, p, depth + 1))?;
                    Some(Self::OneOf(Box::new(one)))
                }
                None => p.refuse_at("list_match", "needs one_of"),
            },
            Some(Pattern::OrMatch(any)) => {
                if any.value_matchers.len() < 2 {
                    return p.refuse_at("or_match.value_matchers", "needs at least two matchers");
                }
                let matchers = p.at("or_match", |p| {
                    p.each("value_matchers", &any.value_matchers, |p, one| Self::decode_nested(one, p, depth + 1))
                });
                Some(Self::Any(matchers))
            }
            None => {
                p.refuse("needs a pattern, for example string_match");
                None
            }
        }
    }
}

fn decode_double(proto: &matcher::DoubleMatcher, p: &mut Problems) -> Option<ValueMatcher> {
    use matcher::double_matcher::MatchPattern as Pattern;
    match &proto.match_pattern {
        Some(Pattern::Exact(n)) => Some(ValueMatcher::Number(*n)),
        Some(Pattern::Range(range)) => Some(ValueMatcher::Range(range.start, range.end)),
        None => {
            p.refuse("needs exact or range");
            None
        }
    }
}

impl MetadataMatcher {
    /// Whether the metadata of the filter [`Self::filter`] matches; `None` when there is none.
    pub fn matches(&self, metadata: Option<&Value>) -> bool {
        let value = self.path.iter().try_fold(metadata, |value, key| Some(value?.get(key))).flatten();
        self.value.matches(value) != self.invert
    }

    pub fn decode(proto: &matcher::MetadataMatcher, p: &mut Problems) -> Option<Self> {
        use matcher::metadata_matcher::path_segment::Segment;
        if proto.filter.is_empty() {
            p.refuse_at::<()>("filter", "is required");
        }
        if proto.path.is_empty() {
            p.refuse_at::<()>("path", "needs at least one segment");
        }
        let path = p.each("path", &proto.path, |p, segment| match &segment.segment {
            Some(Segment::Key(key)) if !key.is_empty() => Some(key.clone()),
            _ => p.refuse_at("key", "must not be empty"),
        });
        let Some(value) = &proto.value else {
            return p.refuse_at("value", "is required");
        };
        let value = p.at("value", |p| ValueMatcher::decode(value, p))?;
        Some(Self { filter: proto.filter.clone(), path, value, invert: proto.invert })
    }
}
