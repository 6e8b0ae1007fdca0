//! Matching a request against configured matchers: where a value comes from, and the shares of requests.

use std::borrow::Cow;

use dp_http::{HeaderName, RequestHead};
use shared_config::core::Fraction;
use shared_config::matcher::HeaderMatcher;

/// Where in a request a configured header name points to.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Authority,
    Method,
    Path,
    Protocol,
    Scheme,
    Field(HeaderName),
    /// A pseudo-header that requests do not have.
    Nothing,
}

/// A header matcher whose name was looked up once.
pub(crate) struct HeaderMatch {
    source: Source,
    matcher: HeaderMatcher,
}

// === impl Source ===

impl Source {
    pub(crate) fn new(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            ":authority" | "host" => Self::Authority,
            ":method" => Self::Method,
            ":path" => Self::Path,
            ":protocol" => Self::Protocol,
            ":scheme" => Self::Scheme,
            name => HeaderName::new(name).map_or(Self::Nothing, Self::Field),
        }
    }

    /// The value; several fields of the name are joined with `,`.
    pub(crate) fn value<'h>(&self, head: &'h RequestHead) -> Option<Cow<'h, [u8]>> {
        let text = match self {
            Self::Authority => head.authority(),
            Self::Method => head.method.as_str(),
            Self::Path => head.path(),
            Self::Protocol => head.connect_protocol()?,
            Self::Scheme => head.scheme.as_str(),
            Self::Field(name) => {
                let first = head.headers.get(name)?;
                let mut others = head.headers.all(name).skip(1).peekable();
                if others.peek().is_none() {
                    return Some(first.into());
                }
                let mut joined = first.to_vec();
                for value in others {
                    joined.push(b',');
                    joined.extend_from_slice(value);
                }
                return Some(joined.into());
            }
            Self::Nothing => return None,
        };
        Some(text.as_bytes().into())
    }
}

// === impl HeaderMatch ===

impl HeaderMatch {
    pub(crate) fn new(matcher: &HeaderMatcher) -> Self {
        Self { source: Source::new(&matcher.name), matcher: matcher.clone() }
    }

    pub(crate) fn all(matchers: &[HeaderMatcher]) -> Box<[Self]> {
        matchers.iter().map(Self::new).collect()
    }

    pub(crate) fn matches(&self, head: &RequestHead) -> bool {
        match &self.source {
            Source::Field(name) => self.matcher.matches(head.headers.all(name)),
            source => self.matcher.matches(source.value(head).as_deref()),
        }
    }
}

/// Whether a request with this random number is among the share.
pub(crate) fn admits(fraction: Fraction, random: u64) -> bool {
    random % u64::from(fraction.denominator.max(1)) < u64::from(fraction.numerator)
}
