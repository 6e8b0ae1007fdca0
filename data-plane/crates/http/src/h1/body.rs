//! Body framing of HTTP/1 (RFC 9112 §6, §7): how long a body is, and what of the input belongs to it.
//!
//! Pure: bytes in, pieces out. Pieces share the input buffer; nothing is copied.

use bytes::{Buf, Bytes, BytesMut};

use super::fields::{self, FieldRules};
use crate::Headers;

/// How the rest of a message is framed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Body {
    Done,
    Length(u64),
    Chunked(Chunked),
    /// Everything until the peer closes; also the bytes of a tunnel.
    UntilEof,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chunked {
    at: At,
    /// What is left of the current chunk.
    left: u64,
    digits: u8,
    /// Bytes of chunk extensions so far, of all chunks.
    extensions: u32,
}

#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
enum At {
    #[default]
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers,
}

/// What the input held.
#[derive(Debug)]
pub(super) enum Decoded {
    Data(Bytes),
    Trailers(Headers),
    /// The message is complete.
    End,
    /// More input is needed.
    More,
}

/// Limits on what is not payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyLimits {
    pub(super) extensions: u32,
    pub(super) trailers: usize,
    pub(super) fields: usize,
}

/// Sixteen hexadecimal digits are 2^64; no chunk needs more.
const MAX_DIGITS: u8 = 16;

impl Body {
    /// Takes the next piece from `input`. `eof`: nothing follows what is there.
    pub(super) fn decode(
        &mut self,
        input: &mut BytesMut,
        eof: bool,
        limits: &BodyLimits,
    ) -> Result<Decoded, &'static str> {
        match self {
            Self::Done => Ok(Decoded::End),
            Self::Length(left) => {
                if *left == 0 {
                    *self = Self::Done;
                    return Ok(Decoded::End);
                }
                if input.is_empty() {
                    return if eof { Err("body_ended_early") } else { Ok(Decoded::More) };
                }
                let data = take(input, *left);
                *left -= data.len() as u64;
                if *left == 0 {
                    *self = Self::Done;
                }
                Ok(Decoded::Data(data))
            }
            Self::UntilEof => {
                if !input.is_empty() {
                    return Ok(Decoded::Data(input.split().freeze()));
                }
                if !eof {
                    return Ok(Decoded::More);
                }
                *self = Self::Done;
                Ok(Decoded::End)
            }
            Self::Chunked(chunked) => {
                let decoded = chunked.decode(input, limits)?;
                match decoded {
                    Decoded::End | Decoded::Trailers(_) => *self = Self::Done,
                    Decoded::More if eof => return Err("body_ended_early"),
                    _ => {}
                }
                Ok(decoded)
            }
        }
    }
}

fn take(input: &mut BytesMut, limit: u64) -> Bytes {
    let size = usize::try_from(limit).unwrap_or(usize::MAX).min(input.len());
    input.split_to(size).freeze()
}

impl Chunked {
    fn decode(&mut self, input: &mut BytesMut, limits: &BodyLimits) -> Result<Decoded, &'static str> {
        loop {
            if self.at == At::Data {
                if input.is_empty() {
                    return Ok(Decoded::More);
                }
                let data = take(input, self.left);
                self.left -= data.len() as u64;
                if self.left == 0 {
                    self.at = At::DataCr;
                }
                return Ok(Decoded::Data(data));
            }
            if self.at == At::Trailers {
                return trailers(input, limits);
            }
            let Some(&byte) = input.first() else { return Ok(Decoded::More) };
            input.advance(1);
            self.step(byte, limits)?;
        }
    }

    /// One byte of what surrounds the data of a chunk.
    fn step(&mut self, byte: u8, limits: &BodyLimits) -> Result<(), &'static str> {
        self.at = match (self.at, byte) {
            (At::Size, b';' | b'\r') if self.digits == 0 => return Err("chunk_size_missing"),
            (At::Size, b';') => At::Extension,
            (At::Size | At::Extension, b'\r') => At::SizeLf,
            (At::Size, digit) => {
                let Some(value) = char::from(digit).to_digit(16) else { return Err("chunk_size_invalid") };
                self.digits += 1;
                if self.digits > MAX_DIGITS {
                    return Err("chunk_size_too_large");
                }
                self.left = self.left << 4 | u64::from(value);
                At::Size
            }
            (At::Extension, byte) => {
                if !crate::names::is_value(byte) {
                    return Err("chunk_extension_invalid");
                }
                self.extensions += 1;
                if self.extensions > limits.extensions {
                    return Err("chunk_extensions_too_large");
                }
                At::Extension
            }
            (At::SizeLf, b'\n') => {
                self.digits = 0;
                if self.left == 0 { At::Trailers } else { At::Data }
            }
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size,
            (At::SizeLf | At::DataCr | At::DataLf | At::Data | At::Trailers, _) => return Err("chunk_end_invalid"),
        };
        Ok(())
    }
}

/// What follows the last chunk: fields, if any, and an empty line. Read whole, so that they are kept only once.
fn trailers(input: &mut BytesMut, limits: &BodyLimits) -> Result<Decoded, &'static str> {
    if input.starts_with(b"\r\n") {
        input.advance(2);
        return Ok(Decoded::End);
    }
    let Some(end) = fields::find_end(input, 0) else {
        if input.len() > limits.trailers {
            return Err("trailers_too_large");
        }
        if fields::has_bare_lf(input, 0) {
            return Err("bare_lf");
        }
        return Ok(Decoded::More);
    };
    if end > limits.trailers {
        return Err("trailers_too_large");
    }
    let mut headers = Headers::default();
    let block = &input[..end - 2];
    let rules = FieldRules { max_fields: limits.fields, ..FieldRules::default() };
    fields::parse(block, &rules, &mut headers, |id, name, _| Ok(!fields::is_forbidden_trailer(id, name)))
        .map_err(|error| error.details)?;
    input.advance(end);
    Ok(if headers.is_empty() { Decoded::End } else { Decoded::Trailers(headers) })
}
