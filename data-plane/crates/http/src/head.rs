//! The heads of requests and responses, whatever version of HTTP they came by.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::headers::Headers;

/// A request method (RFC 9110 §9).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
    Other(Arc<str>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Scheme {
    #[default]
    Http,
    Https,
}

/// The version of HTTP a message travels by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Protocol {
    Http10,
    #[default]
    Http11,
    Http2,
}

/// A request without its body. The host of the request is `authority`; there is no `host` field among the headers.
#[derive(Clone, Default)]
pub struct RequestHead {
    pub method: Method,
    pub scheme: Scheme,
    pub protocol: Protocol,
    /// What the three below are pieces of; a piece that was replaced stays.
    line: String,
    authority: Range<u32>,
    path: Range<u32>,
    connect_protocol: Option<Range<u32>>,
    pub headers: Headers,
}

/// A response without its body.
#[derive(Clone, Default)]
pub struct ResponseHead {
    /// 100 to 999.
    pub status: u16,
    pub protocol: Protocol,
    pub headers: Headers,
}

// === impl Method ===

impl Method {
    /// Reads a method; names are case-sensitive (RFC 9110 §9.1). The caller checked that it is a token.
    pub fn parse(name: &str) -> Self {
        match name {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "CONNECT" => Self::Connect,
            "OPTIONS" => Self::Options,
            "TRACE" => Self::Trace,
            "PATCH" => Self::Patch,
            other => Self::Other(other.into()),
        }
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
            Self::Other(name) => name,
        }
    }

    /// Whether repeating the request changes nothing more (RFC 9110 §9.2.2). Unknown methods are not.
    pub fn is_idempotent(&self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Put | Self::Delete | Self::Options | Self::Trace)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Scheme, Protocol ===

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl Protocol {
    /// As access logs write it, for example `HTTP/1.1`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

// === impl RequestHead ===

/// Bytes that path and authority of most requests need together.
const LINE: usize = 96;

impl RequestHead {
    pub fn new(method: Method, authority: &str, path: &str) -> Self {
        let mut head = Self { method, ..Self::default() };
        head.set_authority(authority);
        head.set_path(path);
        head
    }

    /// The host and optional port the request is for; empty when an HTTP/1.0 request named none.
    pub fn authority(&self) -> &str {
        self.piece(&self.authority)
    }

    /// The path with its query, as in `:path`; `*` for OPTIONS of the server, empty for CONNECT.
    pub fn path(&self) -> &str {
        self.piece(&self.path)
    }

    /// The path without query and fragment.
    pub fn path_only(&self) -> &str {
        let path = self.path();
        path.find(['?', '#']).map_or(path, |end| &path[..end])
    }

    /// What follows the first `?` of the path, without a fragment; empty when there is none.
    pub fn query(&self) -> &str {
        let path = self.path();
        let path = path.split('#').next().unwrap_or_default();
        path.split_once('?').map_or("", |(_, query)| query)
    }

    /// The `:protocol` of an extended CONNECT (RFC 8441), or the protocol of an HTTP/1.1 upgrade, in lower case.
    pub fn connect_protocol(&self) -> Option<&str> {
        self.connect_protocol.as_ref().map(|range| self.piece(range))
    }

    pub fn set_authority(&mut self, authority: &str) {
        self.authority = self.keep(authority);
    }

    pub fn set_path(&mut self, path: &str) {
        self.path = self.keep(path);
    }

    pub fn set_connect_protocol(&mut self, protocol: Option<&str>) {
        self.connect_protocol = protocol.map(|protocol| self.keep(protocol));
    }

    fn keep(&mut self, piece: &str) -> Range<u32> {
        if self.line.capacity() == 0 {
            // Room for the other pieces, too.
            self.line.reserve(piece.len() + LINE);
        }
        let start = self.line.len() as u32;
        self.line.push_str(piece);
        start..self.line.len() as u32
    }

    // Called so often that a copy at each place would cost more than the call.
    #[inline(never)]
    fn piece(&self, range: &Range<u32>) -> &str {
        self.line.get(range.start as usize..range.end as usize).unwrap_or_default()
    }
}

impl fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {:?}", self.method, self.authority(), self.path(), self.headers)
    }
}

// === impl ResponseHead ===

impl ResponseHead {
    pub fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// 1xx: a further head follows (RFC 9110 §15.2). 101 ends HTTP on an HTTP/1.1 connection.
    pub fn is_informational(&self) -> bool {
        (100..200).contains(&self.status)
    }
}

impl fmt::Debug for ResponseHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.status, self.headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_told_from_its_query_and_fragment() {
        let head = RequestHead::new(Method::Get, "h", "/a/b?c=d?e#f");
        assert_eq!((head.path_only(), head.query()), ("/a/b", "c=d?e"));
        assert_eq!(RequestHead::new(Method::Get, "h", "/a#b?c").query(), "");
    }

    #[test]
    fn a_changed_path_leaves_the_rest_alone() {
        let mut head = RequestHead::new(Method::Get, "host", "/a");
        head.headers.append("x", b"y");
        head.set_path("/longer");
        assert_eq!((head.authority(), head.path(), head.headers.text("x")), ("host", "/longer", Some("y")));
    }
}
