//! Heads of HTTP/1 to bytes: fields are copied once, framing and connection fields are the codec's own.
//!
//! Whatever a filter put into a head, no line break leaves here.

use super::fields;
use super::parse::decimal;
use crate::names::NameSet;
use crate::stream::StreamError;
use crate::{Headers, Method, RequestHead, ResponseHead, authority, name};

/// Fields that belong to the connection: the codec writes its own.
static OF_CONNECTION: NameSet = NameSet::of(&[
    &name::CONNECTION,
    &name::CONTENT_LENGTH,
    &name::HOST,
    &name::HTTP2_SETTINGS,
    &name::KEEP_ALIVE,
    &name::PROXY_CONNECTION,
    &name::TRANSFER_ENCODING,
    &name::UPGRADE,
]);

/// How the body of an outgoing message is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Writing {
    /// No head was sent yet.
    #[default]
    Head,
    /// So many bytes must follow.
    Length(u64),
    Chunked,
    /// All until the connection closes (responses to HTTP/1.0).
    UntilClose,
    /// The message has no body, whatever the head says; data is dropped.
    Bodiless,
    /// Raw bytes after an upgrade.
    Tunnel,
    Done,
}

/// What a response answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answering<'r> {
    pub(super) http10: bool,
    pub(super) head: bool,
    pub(super) connect: bool,
    pub(super) keep_alive: bool,
    /// The protocol the client asked to upgrade to.
    pub(super) upgrade: Option<&'r str>,
    pub(super) accept: Option<&'r [u8; 28]>,
    pub(super) proper_case: bool,
}

/// Writes a 1xx head.
pub(super) fn informational(out: &mut Vec<u8>, head: &ResponseHead, proper_case: bool) -> Result<(), StreamError> {
    status_line(out, head.status);
    plain_fields(out, &head.headers, proper_case)?;
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Writes a final response head (or a 101) and says how its body is framed.
pub(super) fn response(
    out: &mut Vec<u8>,
    head: &ResponseHead,
    end: bool,
    answering: &Answering<'_>,
) -> Result<Writing, StreamError> {
    status_line(out, head.status);
    plain_fields(out, &head.headers, answering.proper_case)?;
    let length = content_length(&head.headers)?;
    let upgraded = head.status == 101 || answering.connect && (200..300).contains(&head.status);
    let case = answering.proper_case;
    if head.status == 101 || head.status == 426 {
        let offered = head.headers.get(&name::UPGRADE);
        if let Some(protocol) = offered.or(answering.upgrade.map(str::as_bytes)) {
            field(out, b"connection", b"upgrade", case)?;
            field(out, b"upgrade", protocol, case)?;
        } else if !answering.keep_alive {
            field(out, b"connection", b"close", case)?;
        }
        // An upstream that spoke HTTP/2 saw no key, or had no reason to answer it.
        if let (101, Some(accept), false) =
            (head.status, answering.accept, head.headers.contains(&name::SEC_WEBSOCKET_ACCEPT))
        {
            field(out, b"sec-websocket-accept", accept, case)?;
        }
    } else if !answering.keep_alive {
        field(out, b"connection", b"close", case)?;
    } else if answering.http10 {
        field(out, b"connection", b"keep-alive", case)?;
    }
    let writing = if upgraded || head.status == 204 {
        Writing::Bodiless
    } else if answering.head || head.status == 304 {
        if let Some(length) = length {
            length_field(out, length, case)?;
        }
        Writing::Bodiless
    } else {
        match length {
            Some(length) if length > 0 && end => return Err(StreamError::protocol("body_shorter_than_content_length")),
            Some(length) => {
                length_field(out, length, case)?;
                Writing::Length(length)
            }
            None if end => {
                length_field(out, 0, case)?;
                Writing::Length(0)
            }
            None if answering.http10 => Writing::UntilClose,
            None => {
                field(out, b"transfer-encoding", b"chunked", case)?;
                Writing::Chunked
            }
        }
    };
    out.extend_from_slice(b"\r\n");
    Ok(writing)
}

/// Writes a request head and says how its body is framed.
pub(super) fn request(
    out: &mut Vec<u8>,
    head: &RequestHead,
    end: bool,
    proper_case: bool,
) -> Result<Writing, StreamError> {
    request_line(out, head)?;
    field(out, b"host", head.authority().as_bytes(), proper_case)?;
    plain_fields(out, &head.headers, proper_case)?;
    let upgrade = head.connect_protocol();
    match (upgrade, head.headers.contains(&name::TE)) {
        (Some(protocol), te) => {
            field(out, b"connection", if te { b"upgrade, te" } else { b"upgrade" }, proper_case)?;
            field(out, b"upgrade", protocol.as_bytes(), proper_case)?;
            // A WebSocket that came by HTTP/2 has no key, but HTTP/1.1 needs one (RFC 8441 §5, RFC 6455 §4.1).
            if protocol == "websocket" && !head.headers.contains(&name::SEC_WEBSOCKET_KEY) {
                field(out, b"sec-websocket-key", &super::websocket::new_key(), proper_case)?;
            }
        }
        (None, true) => field(out, b"connection", b"te", proper_case)?,
        (None, false) => {}
    }
    let writing = match content_length(&head.headers)? {
        Some(length) if length > 0 && end => return Err(StreamError::protocol("body_shorter_than_content_length")),
        Some(length) => {
            length_field(out, length, proper_case)?;
            Writing::Length(length)
        }
        None if head.method == Method::Connect || upgrade.is_some() => Writing::Bodiless,
        None if end => {
            // Methods of which a server may expect a body (RFC 9110 §8.6).
            if !matches!(head.method, Method::Get | Method::Head | Method::Delete | Method::Trace) {
                length_field(out, 0, proper_case)?;
            }
            Writing::Length(0)
        }
        None => {
            field(out, b"transfer-encoding", b"chunked", proper_case)?;
            Writing::Chunked
        }
    };
    out.extend_from_slice(b"\r\n");
    Ok(writing)
}

/// Writes the end of a chunked body with trailer fields.
pub(super) fn trailers(out: &mut Vec<u8>, trailers: &Headers, proper_case: bool) -> Result<(), StreamError> {
    out.extend_from_slice(b"0\r\n");
    for (known, name, value) in trailers.iter_ids() {
        if !fields::is_forbidden_trailer(known, name) {
            field(out, name, value, proper_case)?;
        }
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Writes the line before the data of a chunk.
pub(super) fn chunk_size(out: &mut Vec<u8>, size: usize) {
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        out.push(b"0123456789abcdef"[size >> (digit * 4) & 15]);
    }
    out.extend_from_slice(b"\r\n");
}

fn request_line(out: &mut Vec<u8>, head: &RequestHead) -> Result<(), StreamError> {
    let method = head.method.as_str().as_bytes();
    let target = if head.method == Method::Connect { head.authority() } else { head.path() };
    let whole = head.authority().is_empty() || authority::is_valid(head.authority().as_bytes());
    if !whole || !fields::is_name(method) || target.is_empty() || !authority::is_target(target.as_bytes()) {
        return Err(StreamError::protocol("request_head_cannot_be_written"));
    }
    out.extend_from_slice(method);
    out.push(b' ');
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    Ok(())
}

fn status_line(out: &mut Vec<u8>, status: u16) {
    out.extend_from_slice(b"HTTP/1.1 ");
    let status = status.clamp(100, 999);
    out.extend([status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8));
    out.push(b' ');
    out.extend_from_slice(super::reason::phrase(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// All fields but those that belong to the connection, which the codec writes itself.
fn plain_fields(out: &mut Vec<u8>, headers: &Headers, proper_case: bool) -> Result<(), StreamError> {
    out.reserve(headers.byte_size() + 128);
    // One look at all bytes at once is cheaper than one at each value.
    let is_clean = headers.is_clean();
    for (known, name, value) in headers.iter_ids() {
        if OF_CONNECTION.has(known) {
            continue;
        }
        if is_clean {
            write_field(out, name, value, proper_case);
        } else {
            field(out, name, value, proper_case)?;
        }
    }
    Ok(())
}

fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8], proper_case: bool) -> Result<(), StreamError> {
    if !fields::is_value(value) {
        return Err(StreamError::protocol("header_value_cannot_be_written"));
    }
    write_field(out, name, value, proper_case);
    Ok(())
}

fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8], proper_case: bool) {
    if proper_case {
        let mut start = true;
        out.extend(name.iter().map(|byte| {
            let upper = std::mem::replace(&mut start, !byte.is_ascii_alphanumeric());
            if upper { byte.to_ascii_uppercase() } else { *byte }
        }));
    } else {
        out.extend_from_slice(name);
    }
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn length_field(out: &mut Vec<u8>, mut length: u64, proper_case: bool) -> Result<(), StreamError> {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (length % 10) as u8;
        length /= 10;
        if length == 0 {
            return field(out, b"content-length", &digits[at..], proper_case);
        }
    }
}

/// The one length that all `content-length` fields give.
fn content_length(headers: &Headers) -> Result<Option<u64>, StreamError> {
    let mut length = None;
    for value in headers.all(&name::CONTENT_LENGTH) {
        let this = decimal(value).ok_or(StreamError::protocol("invalid_content_length"))?;
        if length.is_some_and(|before| before != this) {
            return Err(StreamError::protocol("several_content_lengths"));
        }
        length = Some(this);
    }
    Ok(length)
}
