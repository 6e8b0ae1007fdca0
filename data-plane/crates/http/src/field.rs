//! Names by which configuration refers to fields of a message: header fields and pseudo-headers such as `:path`.
//!
//! Configuration writes `host` and `:authority` for the same thing; here they are one.

use std::borrow::Cow;

use crate::head::{Method, RequestHead, ResponseHead};
use crate::names::{HeaderName, InvalidName};

/// A field of a request or response head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    Method,
    Scheme,
    Authority,
    /// The path with its query.
    Path,
    /// `:protocol` of an extended CONNECT.
    Protocol,
    Status,
    Header(HeaderName),
}

impl Field {
    /// # Errors
    /// The name is neither a token nor a known pseudo-header.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        let lower = name.to_ascii_lowercase();
        Ok(match lower.as_str() {
            ":method" => Self::Method,
            ":scheme" => Self::Scheme,
            ":authority" | "host" => Self::Authority,
            ":path" => Self::Path,
            ":protocol" => Self::Protocol,
            ":status" => Self::Status,
            _ => Self::Header(HeaderName::new(&lower)?),
        })
    }

    /// The first value in a request.
    pub fn in_request<'a>(&self, head: &'a RequestHead) -> Option<&'a [u8]> {
        let text = match self {
            Self::Method => head.method.as_str(),
            Self::Scheme => head.scheme.as_str(),
            // A CONNECT without `:protocol` has no path, and nothing else is without one.
            Self::Path if head.path().is_empty() => return None,
            Self::Path => head.path(),
            Self::Authority if head.authority().is_empty() => return None,
            Self::Authority => head.authority(),
            Self::Protocol if head.method == Method::Connect => head.connect_protocol()?,
            Self::Protocol | Self::Status => return None,
            Self::Header(name) => return head.headers.get(name),
        };
        Some(text.as_bytes())
    }

    /// The first value in a response.
    pub fn in_response<'a>(&self, head: &'a ResponseHead) -> Option<Cow<'a, [u8]>> {
        match self {
            Self::Status => Some(Cow::Owned(head.status.to_string().into_bytes())),
            Self::Header(name) => head.headers.get(name).map(Cow::Borrowed),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pseudo_headers_and_fields_are_found_by_name() {
        let mut head = RequestHead::new(Method::Get, "a.com", "/p?q");
        head.headers.append("x-a", b"1");
        head.headers.append("x-b", b"2");
        let check = |name: &str, expected: Option<&str>| {
            let field = Field::new(name).unwrap();
            assert_eq!(field.in_request(&head), expected.map(str::as_bytes), "{name}");
        };
        check(":method", Some("GET"));
        check("Host", Some("a.com"));
        check(":authority", Some("a.com"));
        check(":path", Some("/p?q"));
        check("X-A", Some("1"));
        check("x-b", Some("2"));
        check("x-c", None);
        check(":protocol", None);
        assert!(Field::new(":other").is_err());
    }
}
