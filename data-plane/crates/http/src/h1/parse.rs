//! Heads of HTTP/1 from bytes (RFC 9112 §2 to §6): the request line, the status line, and what decides the framing.
//!
//! Pure and strict: what two readers could take differently is refused, because the next reader is another program.

use super::HeadError;
use super::body::{Body, Chunked};
use super::fields::{self, FieldRules};
use crate::names::id;
use crate::{Headers, Method, Protocol, RequestHead, ResponseHead, Scheme, authority, name};

/// A request head and what the codec needs to know of it.
pub(super) struct ParsedRequest {
    pub(super) head: RequestHead,
    pub(super) body: Body,
    pub(super) keep_alive: bool,
    pub(super) expects_continue: bool,
}

/// A response head and what the codec needs to know of it.
pub(super) struct ParsedResponse {
    pub(super) head: ResponseHead,
    pub(super) body: Body,
    pub(super) keep_alive: bool,
}

/// What the request was decides how its response is framed (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Asked {
    pub(super) head: bool,
    pub(super) connect: bool,
    pub(super) upgrade: bool,
}

/// What the fields said, gathered while they are read.
#[derive(Default)]
struct Seen {
    length: Option<u64>,
    length_repeated: bool,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    upgrade_nominated: bool,
    upgrade: bool,
    expects_continue: bool,
}

/// Reads a whole request head, ending with its empty line. With `chunked_length` a length beside a chunked body is
/// dropped instead of refused.
pub(super) fn request(bytes: &[u8], rules: &FieldRules, chunked_length: bool) -> Result<ParsedRequest, HeadError> {
    let mut block = &bytes[..bytes.len() - 2];
    let line = fields::line(&mut block)?;
    let (method, target, protocol) = request_line(line)?;
    let mut head = RequestHead::default();
    head.protocol = protocol;
    head.method = Method::parse(method);
    head.headers.reserve(bytes.len() + 64, 16);
    let mut seen = Seen::default();
    let mut host: Option<&[u8]> = None;
    fields::parse(block, rules, &mut head.headers, |known, _, value| {
        if known == id::HOST {
            if host.replace(value).is_some() {
                return Err(HeadError::bad("several_hosts"));
            }
            return Ok(false);
        }
        seen.note(known, value)?;
        Ok(true)
    })?;
    set_target(&mut head, target, host)?;
    if chunked_length && seen.chunked && seen.length.take().is_some() {
        head.headers.remove(&name::CONTENT_LENGTH);
    }
    let body = request_body(&seen, protocol)?;
    seen.normalise_length(&mut head.headers);
    if protocol == Protocol::Http11 && seen.upgrade_nominated && seen.upgrade {
        set_upgrade(&mut head);
    }
    Ok(ParsedRequest {
        body,
        keep_alive: seen.keeps_alive(protocol),
        expects_continue: seen.expects_continue && protocol == Protocol::Http11,
        head,
    })
}

fn request_line(line: &[u8]) -> Result<(&str, &[u8], Protocol), HeadError> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(HeadError::bad("request_line"));
    };
    if !fields::is_name(method) || method.len() > MAX_METHOD {
        return Err(HeadError::bad("invalid_method"));
    }
    let method = std::str::from_utf8(method).map_err(|_| HeadError::bad("invalid_method"))?;
    if target.is_empty() || !authority::is_target(target) {
        return Err(HeadError::bad("invalid_url"));
    }
    Ok((method, target, version_of(version, HeadError::new(505, "http_version_not_supported"))?))
}

/// No registered method is longer than 17 bytes.
const MAX_METHOD: usize = 64;

fn version_of(version: &[u8], unsupported: HeadError) -> Result<Protocol, HeadError> {
    match version {
        b"HTTP/1.1" => Ok(Protocol::Http11),
        b"HTTP/1.0" => Ok(Protocol::Http10),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            Err(unsupported)
        }
        _ => Err(HeadError::bad("invalid_http_version")),
    }
}

/// The four forms of RFC 9112 §3.2, and the host that goes with them.
fn set_target(head: &mut RequestHead, target: &[u8], host: Option<&[u8]>) -> Result<(), HeadError> {
    match host {
        None if head.protocol == Protocol::Http11 => return Err(HeadError::bad("missing_host")),
        Some(host) if !(authority::is_valid(host) || host.is_empty()) => return Err(HeadError::bad("invalid_host")),
        _ => {}
    }
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| HeadError::bad("invalid_url"));
    if head.method == Method::Connect {
        if !authority::is_valid_with_port(target) {
            return Err(HeadError::bad("invalid_connect_target"));
        }
        head.set_authority(text(target)?);
        return Ok(());
    }
    let host = host.unwrap_or_default();
    match target {
        [b'/', ..] => head.set_path(text(target)?),
        b"*" if head.method == Method::Options => head.set_path("*"),
        _ => return absolute_form(head, text(target)?),
    }
    if host.is_empty() && head.protocol == Protocol::Http11 {
        return Err(HeadError::bad("empty_host"));
    }
    head.set_authority(text(host)?);
    Ok(())
}

/// `http://host/path`: the host of the target replaces that of the field (RFC 9112 §3.2.2).
fn absolute_form(head: &mut RequestHead, target: &str) -> Result<(), HeadError> {
    let bad = HeadError::bad("invalid_url");
    let (scheme, rest) = target.split_once("://").ok_or(bad)?;
    head.scheme = match scheme {
        s if s.eq_ignore_ascii_case("http") => Scheme::Http,
        s if s.eq_ignore_ascii_case("https") => Scheme::Https,
        _ => return Err(bad),
    };
    let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if !authority::is_valid(host.as_bytes()) {
        return Err(HeadError::bad("invalid_host"));
    }
    head.set_authority(host);
    match path.as_bytes().first() {
        Some(b'/') => head.set_path(path),
        Some(_) => head.set_path(&["/", path].concat()),
        None if head.method == Method::Options => head.set_path("*"),
        None => head.set_path("/"),
    }
    Ok(())
}

/// RFC 9112 §6.3 for requests; everything ambiguous is an error.
fn request_body(seen: &Seen, protocol: Protocol) -> Result<Body, HeadError> {
    match (seen.chunked, seen.length) {
        (true, _) if protocol == Protocol::Http10 => Err(HeadError::bad("transfer_encoding_in_http10")),
        (true, Some(_)) => Err(HeadError::bad("content_length_and_transfer_encoding")),
        (true, None) => Ok(Body::Chunked(Chunked::default())),
        (false, Some(length)) if length > 0 => Ok(Body::Length(length)),
        (false, _) => Ok(Body::Done),
    }
}

/// A cleartext upgrade to HTTP/2 is not offered, so it is an ordinary request (RFC 9110 §7.8 allows to ignore it).
fn set_upgrade(head: &mut RequestHead) {
    let protocol = head.headers.text(&name::UPGRADE).unwrap_or_default().to_ascii_lowercase();
    if !protocol.is_empty() && protocol != "h2c" {
        head.set_connect_protocol(Some(&protocol));
    }
}

/// Reads a whole response head, ending with its empty line.
pub(super) fn response(bytes: &[u8], rules: &FieldRules, asked: Asked) -> Result<ParsedResponse, HeadError> {
    let mut block = &bytes[..bytes.len() - 2];
    let line = fields::line(&mut block)?;
    let (protocol, status) = status_line(line)?;
    let mut head = ResponseHead { status, protocol, ..ResponseHead::default() };
    head.headers.reserve(bytes.len() + 64, 16);
    let mut seen = Seen::default();
    fields::parse(block, rules, &mut head.headers, |known, _, value| {
        // An expectation means nothing in a response.
        if known != id::EXPECT {
            seen.note(known, value)?;
        }
        Ok(true)
    })?;
    seen.normalise_length(&mut head.headers);
    let body = response_body(&seen, &head, asked)?;
    let keep_alive = seen.keeps_alive(protocol) && body != Body::UntilEof;
    Ok(ParsedResponse { head, body, keep_alive })
}

fn status_line(line: &[u8]) -> Result<(Protocol, u16), HeadError> {
    let (version, rest) = line.split_at_checked(8).ok_or(HeadError::bad("status_line"))?;
    let protocol = version_of(version, HeadError::bad("http_version_not_supported"))?;
    let [b' ', a, b, c, reason @ ..] = rest else { return Err(HeadError::bad("status_line")) };
    if ![a, b, c].iter().all(|digit| digit.is_ascii_digit()) || *a == b'0' {
        return Err(HeadError::bad("invalid_status"));
    }
    // Many servers leave out the space before an empty reason.
    if !(reason.is_empty() || reason[0] == b' ') || !fields::is_value(reason) {
        return Err(HeadError::bad("invalid_reason"));
    }
    Ok((protocol, [a, b, c].iter().fold(0, |status, digit| status * 10 + u16::from(**digit - b'0'))))
}

/// RFC 9112 §6.3 for responses.
fn response_body(seen: &Seen, head: &ResponseHead, asked: Asked) -> Result<Body, HeadError> {
    if seen.chunked && seen.length.is_some() {
        return Err(HeadError::bad("content_length_and_transfer_encoding"));
    }
    if seen.chunked && (head.protocol == Protocol::Http10 || head.is_informational() || head.status == 204) {
        return Err(HeadError::bad("transfer_encoding_not_allowed"));
    }
    if asked.connect && (200..300).contains(&head.status) || head.status == 101 {
        return Ok(Body::Done);
    }
    if asked.head || head.is_informational() || matches!(head.status, 204 | 304) {
        return Ok(Body::Done);
    }
    Ok(match (seen.chunked, seen.length) {
        (true, _) => Body::Chunked(Chunked::default()),
        (false, Some(0)) => Body::Done,
        (false, Some(length)) => Body::Length(length),
        (false, None) => Body::UntilEof,
    })
}

// === impl Seen ===

impl Seen {
    fn note(&mut self, known: u8, value: &[u8]) -> Result<(), HeadError> {
        match known {
            id::CONTENT_LENGTH => self.note_length(value)?,
            id::TRANSFER_ENCODING => self.note_coding(value)?,
            id::CONNECTION => {
                for option in fields::elements(value) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                    self.upgrade_nominated |= option.eq_ignore_ascii_case(b"upgrade");
                }
            }
            id::UPGRADE => self.upgrade = true,
            id::EXPECT => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(HeadError::new(417, "unknown_expectation"));
                }
                self.expects_continue = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// Only digits; repeated only with the same value (RFC 9112 §6.3, rule 5).
    fn note_length(&mut self, value: &[u8]) -> Result<(), HeadError> {
        for element in fields::elements(value) {
            let length = decimal(element).ok_or(HeadError::bad("invalid_content_length"))?;
            if self.length.is_some_and(|before| before != length) {
                return Err(HeadError::bad("several_content_lengths"));
            }
            self.length_repeated |= self.length.is_some();
            self.length = Some(length);
        }
        Ok(())
    }

    /// `chunked`, once, is the only coding there is: all others could be framed differently by the next reader.
    fn note_coding(&mut self, value: &[u8]) -> Result<(), HeadError> {
        if self.chunked {
            return Err(HeadError::bad("invalid_transfer_encoding"));
        }
        let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
        if is_chunked(value) {
            self.chunked = true;
            return Ok(());
        }
        // Well formed, framed by chunks, but with a coding below that we do not know (RFC 9112 §6.1).
        let codings = || fields::elements(value);
        if codings().all(fields::is_name)
            && codings().last().is_some_and(is_chunked)
            && codings().filter(|coding| is_chunked(coding)).count() == 1
        {
            return Err(HeadError::new(501, "transfer_coding_not_implemented"));
        }
        Err(HeadError::bad("invalid_transfer_encoding"))
    }

    fn keeps_alive(&self, protocol: Protocol) -> bool {
        !self.close && (protocol == Protocol::Http11 || self.keep_alive)
    }

    /// Leaves one `content-length` in one form, however often it came.
    fn normalise_length(&self, headers: &mut Headers) {
        if let (true, Some(length)) = (self.length_repeated, self.length) {
            headers.set(&name::CONTENT_LENGTH, length.to_string().as_bytes());
        }
    }
}

/// Decimal digits only, as many as a u64 can need.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 20 {
        return None;
    }
    digits.iter().try_fold(0u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}
