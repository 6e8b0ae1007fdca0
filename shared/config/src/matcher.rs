//! Matchers of text, headers, query parameters, cookies and values, shared by routes and filters.
//!
//! Decoding compiles regular expressions, so that a bad one is a problem of the resource. Matching is pure and knows
//! no message type: the caller hands in the value.

use proto::envoy::config::route::v3 as route;
use proto::envoy::r#type::matcher::v3 as matcher;

use crate::invalid::Problems;

mod regex;
mod value;

pub use self::regex::{Regex, Substitution};
pub use self::value::{MetadataMatcher, ValueMatcher};

/// How a text must look (`envoy.type.matcher.v3.StringMatcher`).
#[derive(Debug, Clone, PartialEq)]
pub struct StringMatcher {
    pub pattern: StringPattern,
    /// ASCII letters are the same in both cases. Does not apply to regular expressions.
    pub ignore_case: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum StringPattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    /// The whole text must match.
    Regex(Regex),
}

/// What a header must be (`HeaderMatcher`).
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderMatcher {
    /// In lower case; may be a pseudo-header such as `:path`.
    pub name: String,
    pub test: HeaderTest,
    pub invert: bool,
    /// A missing header counts as one with an empty value.
    pub missing_is_empty: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum HeaderTest {
    /// It is there (`true`) or not (`false`).
    Present(bool),
    /// It is a whole number in `start..end`.
    Range(std::ops::Range<i64>),
    Text(StringMatcher),
}

/// What the first query parameter of a name must be (`QueryParameterMatcher`).
#[derive(Debug, Clone, PartialEq)]
pub struct QueryParameterMatcher {
    pub name: String,
    pub test: ParameterTest,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ParameterTest {
    Present(bool),
    Text(StringMatcher),
}

/// What a cookie must be (`CookieMatcher`).
#[derive(Debug, Clone, PartialEq)]
pub struct CookieMatcher {
    pub name: String,
    pub text: StringMatcher,
    pub invert: bool,
}

// === impl StringMatcher ===

impl StringMatcher {
    pub fn exact(text: impl Into<String>) -> Self {
        Self { pattern: StringPattern::Exact(text.into()), ignore_case: false }
    }

    pub fn matches(&self, value: &[u8]) -> bool {
        match &self.pattern {
            StringPattern::Exact(text) => equal(value, text.as_bytes(), self.ignore_case),
            StringPattern::Prefix(text) => {
                value.get(..text.len()).is_some_and(|start| equal(start, text.as_bytes(), self.ignore_case))
            }
            StringPattern::Suffix(text) => value
                .len()
                .checked_sub(text.len())
                .is_some_and(|at| equal(&value[at..], text.as_bytes(), self.ignore_case)),
            StringPattern::Contains(text) => contains(value, text.as_bytes(), self.ignore_case),
            StringPattern::Regex(regex) => regex.is_full_match(value),
        }
    }

    pub fn decode(proto: &matcher::StringMatcher, p: &mut Problems) -> Option<Self> {
        use matcher::string_matcher::MatchPattern;
        let pattern = match &proto.match_pattern {
            Some(MatchPattern::Exact(text)) => StringPattern::Exact(text.clone()),
            Some(MatchPattern::Prefix(text)) => StringPattern::Prefix(not_empty("prefix", text, p)?),
            Some(MatchPattern::Suffix(text)) => StringPattern::Suffix(not_empty("suffix", text, p)?),
            Some(MatchPattern::Contains(text)) => StringPattern::Contains(not_empty("contains", text, p)?),
            Some(MatchPattern::SafeRegex(_)) if proto.ignore_case => {
                return p.refuse_at("ignore_case", "has no effect on safe_regex; write (?i) into the expression");
            }
            Some(MatchPattern::SafeRegex(regex)) => {
                StringPattern::Regex(p.at("safe_regex", |p| Regex::decode(regex, p))?)
            }
            Some(MatchPattern::Custom(_)) => {
                p.unimplemented("custom");
                return None;
            }
            None => {
                p.refuse("needs exact, prefix, suffix, contains or safe_regex");
                return None;
            }
        };
        Some(Self { pattern, ignore_case: proto.ignore_case })
    }

    /// Decodes the required matcher in the field `name`.
    pub fn decode_at(name: &str, proto: &Option<matcher::StringMatcher>, p: &mut Problems) -> Option<Self> {
        match proto {
            Some(proto) => p.at(name, |p| Self::decode(proto, p)),
            None => p.refuse_at(name, "is required"),
        }
    }
}

fn not_empty(name: &str, text: &str, p: &mut Problems) -> Option<String> {
    if text.is_empty() { p.refuse_at(name, "must not be empty") } else { Some(text.to_owned()) }
}

fn equal(a: &[u8], b: &[u8], ignore_case: bool) -> bool {
    if ignore_case { a.eq_ignore_ascii_case(b) } else { a == b }
}

fn contains(value: &[u8], part: &[u8], ignore_case: bool) -> bool {
    part.is_empty() || value.windows(part.len()).any(|window| equal(window, part, ignore_case))
}

// === impl HeaderTest ===

impl HeaderTest {
    fn holds(&self, value: &[u8]) -> bool {
        match self {
            Self::Present(present) => *present,
            Self::Range(range) => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.trim_ascii().parse().ok())
                .is_some_and(|number| range.contains(&number)),
            Self::Text(text) => text.matches(value),
        }
    }
}

// === impl HeaderMatcher ===

impl HeaderMatcher {
    /// Whether a header matches of which there are these values, one a field line. Each is looked at by itself and one is
    /// enough, so that none can hide behind another (CVE-2026-26308).
    pub fn matches<'v>(&self, values: impl IntoIterator<Item = &'v [u8]>) -> bool {
        let mut values = values.into_iter();
        let first = values.next();
        if let HeaderTest::Present(present) = self.test {
            let is_there = first.is_some() || self.missing_is_empty;
            return (is_there == present) != self.invert;
        }
        // A missing header matches nothing, not even an inverted test.
        let Some(first) = first.or(self.missing_is_empty.then_some(&b""[..])) else { return false };
        (self.test.holds(first) || values.any(|value| self.test.holds(value))) != self.invert
    }

    pub fn decode(proto: &route::HeaderMatcher, p: &mut Problems) -> Option<Self> {
        use route::header_matcher::HeaderMatchSpecifier as Specifier;
        if !crate::header::is_header_name(&proto.name) {
            return p.refuse_at("name", format!("{:?} is not a header name", proto.name));
        }
        let text = |pattern| HeaderTest::Text(StringMatcher { pattern, ignore_case: false });
        let test = match &proto.header_match_specifier {
            None => HeaderTest::Present(true),
            Some(Specifier::PresentMatch(present)) => HeaderTest::Present(*present),
            // An empty exact_match asks for any value, by Envoy's rule.
            Some(Specifier::ExactMatch(exact)) if exact.is_empty() => text(StringPattern::Contains(String::new())),
            Some(Specifier::ExactMatch(exact)) => text(StringPattern::Exact(exact.clone())),
            Some(Specifier::PrefixMatch(part)) => text(StringPattern::Prefix(not_empty("prefix_match", part, p)?)),
            Some(Specifier::SuffixMatch(part)) => text(StringPattern::Suffix(not_empty("suffix_match", part, p)?)),
            Some(Specifier::ContainsMatch(part)) => {
                text(StringPattern::Contains(not_empty("contains_match", part, p)?))
            }
            Some(Specifier::SafeRegexMatch(regex)) => {
                text(StringPattern::Regex(p.at("safe_regex_match", |p| Regex::decode(regex, p))?))
            }
            Some(Specifier::RangeMatch(range)) => HeaderTest::Range(range.start..range.end),
            Some(Specifier::StringMatch(string)) => {
                HeaderTest::Text(p.at("string_match", |p| StringMatcher::decode(string, p))?)
            }
        };
        Some(Self {
            name: proto.name.to_ascii_lowercase(),
            test,
            invert: proto.invert_match,
            missing_is_empty: proto.treat_missing_header_as_empty,
        })
    }
}

// === impl QueryParameterMatcher ===

impl QueryParameterMatcher {
    /// Whether the first value of the parameter matches; `None` when the query has no such parameter.
    pub fn matches(&self, value: Option<&[u8]>) -> bool {
        match &self.test {
            ParameterTest::Present(present) => value.is_some() == *present,
            ParameterTest::Text(text) => value.is_some_and(|value| text.matches(value)),
        }
    }

    pub fn decode(proto: &route::QueryParameterMatcher, p: &mut Problems) -> Option<Self> {
        use route::query_parameter_matcher::QueryParameterMatchSpecifier as Specifier;
        if proto.name.is_empty() || proto.name.len() > 1024 {
            return p.refuse_at("name", "must have 1 to 1024 bytes");
        }
        let test = match &proto.query_parameter_match_specifier {
            None => ParameterTest::Present(true),
            Some(Specifier::PresentMatch(present)) => ParameterTest::Present(*present),
            Some(Specifier::StringMatch(text)) => {
                ParameterTest::Text(p.at("string_match", |p| StringMatcher::decode(text, p))?)
            }
        };
        Some(Self { name: proto.name.clone(), test })
    }
}

// === impl CookieMatcher ===

impl CookieMatcher {
    /// Whether the cookie with this value matches; `None` when the request has no such cookie.
    pub fn matches(&self, value: Option<&[u8]>) -> bool {
        value.is_some_and(|value| self.text.matches(value)) != self.invert
    }

    pub fn decode(proto: &route::CookieMatcher, p: &mut Problems) -> Option<Self> {
        if proto.name.is_empty() || proto.name.len() > 1024 {
            return p.refuse_at("name", "must have 1 to 1024 bytes");
        }
        let text = StringMatcher::decode_at("string_match", &proto.string_match, p)?;
        Some(Self { name: proto.name.clone(), text, invert: proto.invert_match })
    }
}

#[cfg(test)]
mod tests;
