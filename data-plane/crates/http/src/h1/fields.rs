//! Field lines of HTTP/1 (RFC 9112 §5), of heads and of trailers.
//!
//! Strict: lines end with CRLF, no folding, no space around a name, no control character in a value. Pure.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use memchr::{memchr, memchr_iter};

use super::HeadError;
use crate::Headers;
use crate::names::{id, is_token};

/// What to do with a field whose name holds an underscore (Envoy's `headers_with_underscores_action`). Some servers
/// take `_` for `-`, which lets a client write names past a rule for `-`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Underscores {
    #[default]
    Allow,
    /// Leave the field out.
    Drop,
    /// Refuse the request.
    Reject,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct FieldRules {
    pub(super) max_fields: usize,
    pub(super) underscores: Underscores,
}

impl Default for FieldRules {
    fn default() -> Self {
        Self { max_fields: 100, underscores: Underscores::Allow }
    }
}

/// The index behind the empty line that ends a block of fields, looking from `from` on.
pub(super) fn find_end(bytes: &[u8], from: usize) -> Option<usize> {
    static EMPTY_LINE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));
    EMPTY_LINE.find(&bytes[from..]).map(|at| from + at + 4)
}

/// Whether some LF from `from` on has no CR before it. Found early, so that nobody waits for an end that never comes.
pub(super) fn has_bare_lf(bytes: &[u8], from: usize) -> bool {
    memchr_iter(b'\n', &bytes[from..]).any(|at| (from + at).checked_sub(1).is_none_or(|before| bytes[before] != b'\r'))
}

/// Splits the first line off `block`, without its CRLF.
pub(super) fn line<'b>(block: &mut &'b [u8]) -> Result<&'b [u8], HeadError> {
    let end = memchr(b'\n', block).ok_or(HeadError::bad("line_without_end"))?;
    let (line, rest) = block.split_at(end + 1);
    *block = rest;
    line[..end].strip_suffix(b"\r").ok_or(HeadError::bad("bare_lf"))
}

/// Reads all field lines of `block` into `headers`, except those that `accept(id, name, value)` answers `false` for.
pub(super) fn parse<'b>(
    mut block: &'b [u8],
    rules: &FieldRules,
    headers: &mut Headers,
    mut accept: impl FnMut(u8, &[u8], &'b [u8]) -> Result<bool, HeadError>,
) -> Result<(), HeadError> {
    let mut count = 0;
    // One look at the whole block is cheaper than one at each value.
    let is_clean = has_only_line_ends(block);
    while !block.is_empty() {
        let line = line(&mut block)?;
        count += 1;
        if count > rules.max_fields {
            return Err(HeadError::new(431, "too_many_headers"));
        }
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return Err(HeadError::bad("obs_fold"));
        }
        let length = line.iter().position(|byte| !TOKEN[usize::from(*byte)]).unwrap_or(line.len());
        let (name, value) = match line.split_at(length) {
            (name, [b':', value @ ..]) if !name.is_empty() => (name, trim(value)),
            _ if memchr(b':', line).is_some() => return Err(HeadError::bad("invalid_header_name")),
            _ => return Err(HeadError::bad("header_without_colon")),
        };
        if !is_clean && !is_value(value) {
            return Err(HeadError::bad("invalid_header_value"));
        }
        if rules.underscores != Underscores::Allow && memchr(b'_', name).is_some() {
            if rules.underscores == Underscores::Reject {
                return Err(HeadError::bad("unexpected_underscore"));
            }
            continue;
        }
        let stored = headers.store_name(name);
        if accept(stored.0, headers.bytes(stored.1), value)? {
            headers.append_stored(stored, value);
        }
    }
    Ok(())
}

/// Whether no control character but tab stands in the lines of `block`, if each of them ends with CRLF.
fn has_only_line_ends(block: &[u8]) -> bool {
    let other = |byte: u8| (byte < b' ') & (byte != b'\t') | (byte == 0x7f);
    let (mut others, mut feeds, mut returns) = (0usize, 0usize, 0usize);
    // By pieces, so that the counts fit into bytes and the compiler makes wide instructions of it.
    for piece in block.chunks(128) {
        let (mut in_piece, mut feeds_in, mut returns_in) = (0u8, 0u8, 0u8);
        for &byte in piece {
            in_piece += u8::from(other(byte));
            feeds_in += u8::from(byte == b'\n');
            returns_in += u8::from(byte == b'\r');
        }
        others += usize::from(in_piece);
        feeds += usize::from(feeds_in);
        returns += usize::from(returns_in);
    }
    others == feeds + returns && feeds == returns
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = is_token(byte as u8);
        byte += 1;
    }
    table
};

/// A token (RFC 9110 §5.6.2) of a length that a name may have.
pub(crate) fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().fold(true, |all, byte| all & TOKEN[usize::from(*byte)])
}

/// No control character but tab. Written as a fold, which the compiler makes wide instructions of.
#[inline(never)]
pub(crate) fn is_value(value: &[u8]) -> bool {
    value.iter().fold(true, |all, &byte| all & (((byte >= b' ') & (byte != 0x7f)) | (byte == b'\t')))
}

/// Without spaces and tabs around.
pub(super) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// The elements of a comma-separated list, empty ones included.
pub(crate) fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim)
}

/// Fields that must not come in trailers (RFC 9110 §6.5.1): framing, routing, authentication, content format, and what
/// the proxy vouches for. A recipient that merged them into the head would act on them too late.
pub(crate) fn is_forbidden_trailer(known: u8, name: &[u8]) -> bool {
    matches!(
        known,
        id::AUTHORIZATION
            | id::CACHE_CONTROL
            | id::CONNECTION
            | id::CONTENT_ENCODING
            | id::CONTENT_LENGTH
            | id::CONTENT_TYPE
            | id::COOKIE
            | id::EXPECT
            | id::FORWARDED
            | id::HOST
            | id::HTTP2_SETTINGS
            | id::KEEP_ALIVE
            | id::LOCATION
            | id::PROXY_AUTHENTICATE
            | id::PROXY_AUTHORIZATION
            | id::PROXY_CONNECTION
            | id::SET_COOKIE
            | id::TE
            | id::TRAILER
            | id::TRANSFER_ENCODING
            | id::UPGRADE
    ) || name.starts_with(b"x-forwarded-")
        || name.starts_with(b"x-envoy-")
        || matches!(name, b"content-range" | b"max-forwards" | b"range" | b"age" | b"expires" | b"pragma")
        || name.starts_with(b"if-")
}
