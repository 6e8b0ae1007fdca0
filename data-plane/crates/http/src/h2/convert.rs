//! Our heads and errors to those of the `h2` crate and back, with the rules of RFC 9113 §8 that it leaves to us.
//!
//! Well-known names are looked up, not parsed; values share one buffer a head.

use std::sync::LazyLock;

use bytes::Bytes;
use h2::Reason;
use h2::ext::Protocol as ConnectProtocol;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::{self, Uri};
use http::{Request, Response, StatusCode, Version};

use crate::headers::Headers;
use crate::names::{WELL_KNOWN, id};
use crate::stream::{Reset, StreamError, StreamErrorKind};
use crate::{Method, Protocol, RequestHead, ResponseHead, Scheme, authority, h1, name};

/// The `http` names of the well-known names, at the same places.
static NAMES: LazyLock<Vec<HeaderName>> =
    LazyLock::new(|| WELL_KNOWN.iter().map(|name| HeaderName::from_static(name)).collect());

/// The head breaks a rule: a stream error of type PROTOCOL_ERROR (RFC 9113 §8.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

// --- in ---

/// A request head that came in.
pub(super) fn request_in(parts: http::request::Parts) -> Result<RequestHead, Malformed> {
    let mut head = RequestHead::default();
    head.protocol = Protocol::Http2;
    head.method = Method::parse(parts.method.as_str());
    head.scheme = match parts.uri.scheme_str() {
        Some("https") => Scheme::Https,
        Some("http") | None => Scheme::Http,
        Some(_) => return Err(Malformed("unknown_scheme")),
    };
    let host = fields_in(&parts.headers, &mut head.headers)?;
    let authority = match (parts.uri.authority().map(uri::Authority::as_str), host) {
        (Some(authority), Some(host)) if !authority.as_bytes().eq_ignore_ascii_case(host) => {
            return Err(Malformed("host_differs_from_authority"));
        }
        (Some(authority), _) => authority,
        (None, Some(host)) => std::str::from_utf8(host).map_err(|_| Malformed("invalid_host"))?,
        (None, None) => return Err(Malformed("missing_authority")),
    };
    if !authority::is_valid(authority.as_bytes()) {
        return Err(Malformed("invalid_authority"));
    }
    head.set_authority(authority);
    if let Some(protocol) = parts.extensions.get::<ConnectProtocol>() {
        if !h1::is_name(protocol.as_str().as_bytes()) {
            return Err(Malformed("invalid_protocol"));
        }
        // From here on it looks like an upgrade by HTTP/1.
        head.method = Method::Get;
        head.set_connect_protocol(Some(&protocol.as_str().to_ascii_lowercase()));
    }
    let path = parts.uri.path_and_query().map(uri::PathAndQuery::as_str);
    match (&head.method, path) {
        (Method::Connect, None | Some("")) if authority::is_valid_with_port(authority.as_bytes()) => {}
        (Method::Connect, None | Some("")) => return Err(Malformed("invalid_connect_target")),
        (Method::Connect, Some(_)) => return Err(Malformed("path_in_connect")),
        (Method::Options, Some("*")) => head.set_path("*"),
        (_, Some(path)) if authority::is_path(path.as_bytes()) => head.set_path(path),
        _ => return Err(Malformed("invalid_path")),
    }
    Ok(head)
}

/// A response head that came in.
pub(super) fn response_in(status: StatusCode, fields: &HeaderMap) -> Result<ResponseHead, Malformed> {
    // HTTP/2 has no 101 (RFC 9113 §8.6); whoever asked for a tunnel gets a 2xx.
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Malformed("unexpected_101"));
    }
    let mut head = ResponseHead { protocol: Protocol::Http2, ..ResponseHead::new(status.as_u16()) };
    fields_in(fields, &mut head.headers)?;
    Ok(head)
}

/// Trailers that came in, without what has no place there.
pub(super) fn trailers_in(fields: &HeaderMap) -> Result<Headers, Malformed> {
    let mut headers = Headers::default();
    fields_in(fields, &mut headers)?;
    headers.retain_ids(|known, name| !h1::is_forbidden_trailer(known, name));
    Ok(headers)
}

/// Copies fields; `host` is given back instead, and cookie crumbs become one field (RFC 9113 §8.2.3).
fn fields_in<'m>(fields: &'m HeaderMap, headers: &mut Headers) -> Result<Option<&'m [u8]>, Malformed> {
    headers.reserve(fields.len() * 48 + 128, fields.len() + 4);
    let mut host = None;
    let mut length = None;
    let mut cookies: Option<Vec<u8>> = None;
    for (name, value) in fields {
        let value = value.as_bytes();
        // A space around a value would be lost or kept, depending on the next reader (RFC 9113 §8.2.1).
        if matches!(value, [b' ' | b'\t', ..] | [.., b' ' | b'\t']) || !h1::is_value(value) {
            return Err(Malformed("invalid_header_value"));
        }
        let stored = headers.store_name(name.as_str().as_bytes());
        match stored.0 {
            id::HOST if host.replace(value).is_some() => return Err(Malformed("several_hosts")),
            id::HOST => continue,
            id::CONTENT_LENGTH if length.replace(value).is_some() => return Err(Malformed("several_content_lengths")),
            id::CONTENT_LENGTH if h1::decimal(value).is_none() => return Err(Malformed("invalid_content_length")),
            id::CONNECTION | id::TRANSFER_ENCODING | id::UPGRADE | id::KEEP_ALIVE | id::PROXY_CONNECTION => {
                return Err(Malformed("connection_field"));
            }
            id::COOKIE => match &mut cookies {
                Some(cookies) => {
                    cookies.extend_from_slice(b"; ");
                    cookies.extend_from_slice(value);
                    continue;
                }
                None => cookies = Some(value.to_vec()),
            },
            _ => {}
        }
        headers.append_stored(stored, value);
    }
    if let Some(cookies) = cookies.filter(|cookies| headers.get(&name::COOKIE).is_some_and(|c| c != cookies)) {
        headers.set(&name::COOKIE, &cookies);
    }
    Ok(host)
}

// --- out ---

const UNWRITABLE: StreamError = StreamError::protocol("head_cannot_be_written");

/// A request head to send.
pub(super) fn request_out(head: &RequestHead) -> Result<Request<()>, StreamError> {
    let mut request = Request::new(());
    let connect = head.method == Method::Connect;
    *request.method_mut() = match (&head.method, head.connect_protocol()) {
        (_, Some(protocol)) => {
            request.extensions_mut().insert(ConnectProtocol::from(protocol));
            http::Method::CONNECT
        }
        (method, None) => method_out(method)?,
    };
    let mut parts = uri::Parts::default();
    if !head.authority().is_empty() {
        let authority = Bytes::copy_from_slice(head.authority().as_bytes());
        parts.authority = Some(uri::Authority::from_maybe_shared(authority).map_err(|_| UNWRITABLE)?);
    }
    if !connect {
        if parts.authority.is_some() {
            let https = head.scheme == Scheme::Https;
            parts.scheme = Some(if https { uri::Scheme::HTTPS } else { uri::Scheme::HTTP });
        }
        parts.path_and_query = Some(path_out(head.path())?);
    }
    // Without an authority the crate wants to be told that the request was an older one.
    *request.version_mut() = if parts.authority.is_some() { Version::HTTP_2 } else { Version::HTTP_11 };
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| UNWRITABLE)?;
    *request.headers_mut() = fields_out(&head.headers, head.connect_protocol().is_some())?;
    Ok(request)
}

fn method_out(method: &Method) -> Result<http::Method, StreamError> {
    Ok(match method {
        Method::Get => http::Method::GET,
        Method::Head => http::Method::HEAD,
        Method::Post => http::Method::POST,
        Method::Put => http::Method::PUT,
        Method::Delete => http::Method::DELETE,
        Method::Connect => http::Method::CONNECT,
        Method::Options => http::Method::OPTIONS,
        Method::Trace => http::Method::TRACE,
        Method::Patch => http::Method::PATCH,
        Method::Other(name) => http::Method::from_bytes(name.as_bytes()).map_err(|_| UNWRITABLE)?,
    })
}

fn path_out(path: &str) -> Result<uri::PathAndQuery, StreamError> {
    if !authority::is_path(path.as_bytes()) && path != "*" {
        return Err(UNWRITABLE);
    }
    let parse = |path: Bytes| uri::PathAndQuery::from_maybe_shared(path).map_err(|_| UNWRITABLE);
    parse(Bytes::copy_from_slice(path.as_bytes())).or_else(|_| parse(escape(path)))
}

/// What HTTP/1 clients send as it is and the `http` crate does not take, percent-encoded, which means the same.
fn escape(path: &str) -> Bytes {
    let mut escaped = Vec::with_capacity(path.len() + 16);
    for byte in path.bytes() {
        match byte {
            b'"' | b'<' | b'>' | b'`' | b'\\' | b'^' | b'{' | b'|' | b'}' => {
                let digit = |value: u8| b"0123456789ABCDEF"[usize::from(value)];
                escaped.extend([b'%', digit(byte >> 4), digit(byte & 15)]);
            }
            other => escaped.push(other),
        }
    }
    escaped.into()
}

/// A response head to send; to a client that asked for an extended CONNECT, 101 is 200.
pub(super) fn response_out(head: &ResponseHead) -> Result<Response<()>, StreamError> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status).map_err(|_| UNWRITABLE)?;
    *response.headers_mut() = fields_out(&head.headers, false)?;
    Ok(response)
}

/// Fields to send, without those of an HTTP/1 connection. `bare`: a tunnel has no length.
pub(super) fn fields_out(headers: &Headers, bare: bool) -> Result<HeaderMap, StreamError> {
    let mut map = HeaderMap::with_capacity(headers.len());
    let shared = headers.to_shared();
    for (known, name, value) in headers.iter_shared(&shared) {
        match known {
            id::CONNECTION
            | id::HOST
            | id::HTTP2_SETTINGS
            | id::KEEP_ALIVE
            | id::PROXY_CONNECTION
            | id::TRANSFER_ENCODING
            | id::UPGRADE => continue,
            id::TE if &value[..] != b"trailers" => continue,
            id::CONTENT_LENGTH if bare => continue,
            _ => {}
        }
        let name = match NAMES.get(usize::from(known).wrapping_sub(1)) {
            Some(name) => name.clone(),
            None => HeaderName::from_bytes(name).map_err(|_| UNWRITABLE)?,
        };
        map.append(name, HeaderValue::from_maybe_shared(value).map_err(|_| UNWRITABLE)?);
    }
    Ok(map)
}

// --- errors ---

/// What the stream is asked for is not possible in its state.
pub(super) const MISUSE: StreamErrorKind = StreamErrorKind::Protocol("http2");

pub(super) fn error(error: &h2::Error) -> StreamError {
    // A GOAWAY reaches exactly those streams that the peer did not look at (RFC 9113 §6.8).
    let refused = error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM));
    let kind = match (error.get_io(), error.reason()) {
        (Some(io), _) => StreamError::io(io).kind,
        (None, Some(reason)) => StreamErrorKind::Reset(reset_in(reason)),
        (None, None) => MISUSE,
    };
    StreamError { kind, retry_safe: refused }
}

/// The same on the client side: what the library finds wrong with what a server sent is no reset by that server.
pub(super) fn server_error(error: &h2::Error) -> StreamError {
    let found = self::error(error);
    match found.kind {
        StreamErrorKind::Reset(_) if error.is_library() => {
            StreamError { kind: StreamErrorKind::Protocol("http2_codec_error"), ..found }
        }
        _ => found,
    }
}

pub(super) fn reset_error(reason: Reason) -> StreamError {
    let kind = StreamErrorKind::Reset(reset_in(reason));
    StreamError { kind, retry_safe: reason == Reason::REFUSED_STREAM }
}

fn reset_in(reason: Reason) -> Reset {
    match reason {
        Reason::NO_ERROR => Reset::NoError,
        Reason::PROTOCOL_ERROR => Reset::Protocol,
        Reason::INTERNAL_ERROR => Reset::Internal,
        Reason::FLOW_CONTROL_ERROR => Reset::FlowControl,
        Reason::FRAME_SIZE_ERROR => Reset::FrameSize,
        Reason::REFUSED_STREAM => Reset::Refused,
        Reason::CANCEL => Reset::Cancel,
        Reason::CONNECT_ERROR => Reset::Connect,
        Reason::ENHANCE_YOUR_CALM => Reset::EnhanceYourCalm,
        Reason::HTTP_1_1_REQUIRED => Reset::Http11Required,
        other => Reset::Other(other.into()),
    }
}

pub(super) fn reset_out(reset: Reset) -> Reason {
    match reset {
        Reset::NoError => Reason::NO_ERROR,
        Reset::Protocol => Reason::PROTOCOL_ERROR,
        Reset::Internal => Reason::INTERNAL_ERROR,
        Reset::FlowControl => Reason::FLOW_CONTROL_ERROR,
        Reset::FrameSize => Reason::FRAME_SIZE_ERROR,
        Reset::Refused => Reason::REFUSED_STREAM,
        Reset::Cancel => Reason::CANCEL,
        Reset::Connect => Reason::CONNECT_ERROR,
        Reset::EnhanceYourCalm => Reason::ENHANCE_YOUR_CALM,
        Reset::Http11Required => Reason::HTTP_1_1_REQUIRED,
        Reset::Other(code) => code.into(),
    }
}
