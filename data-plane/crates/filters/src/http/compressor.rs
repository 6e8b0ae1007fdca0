//! The compressor filter: compresses what the client accepts compressed, chunk by chunk.
//!
//! With several in a chain, one answer is compressed by one of them. Never touches a body that is already encoded,
//! or part of one.

use bytes::Bytes;
use dp_http::{Headers, RequestHead, ResponseHead, name};
use shared_config::http_filter::compressor::{Config, Direction, Override};
use shared_config::http_filter::{FilterSource, HttpFilterConfig};

use crate::filter::{Cx, Flow, HttpFilter};
use crate::services::Scope;

mod encode;
mod negotiate;

use encode::Encoder;
use negotiate::Candidate;

pub struct Compressor {
    config: Config,
    response_enabled: bool,
    remove_accept_encoding: bool,
    /// The compressors of the chain in order, this one among them.
    candidates: Box<[Candidate]>,
}

#[derive(Default)]
pub struct Stream {
    /// `None`: the request had no `accept-encoding`.
    accept_encoding: Option<Box<str>>,
    encoder: Option<Box<Encoder>>,
    request_encoder: Option<Box<Encoder>>,
}

impl HttpFilter for Compressor {
    type Config = Config;
    type Override = Override;
    type Stream = Stream;

    fn compile(config: &Config, overrides: &[&Override], scope: &Scope<'_>) -> Option<Self> {
        let mut config = config.clone();
        let mut response_enabled = config.response.enabled;
        let mut remove_accept_encoding = config.remove_accept_encoding_header;
        match overrides.last() {
            Some(Override::Disabled) => response_enabled = false,
            Some(Override::Overrides { enable_response, remove_accept_encoding_header, library }) => {
                response_enabled |= enable_response;
                remove_accept_encoding = remove_accept_encoding_header.unwrap_or(remove_accept_encoding);
                config.library = library.unwrap_or(config.library);
            }
            None => {}
        }
        if !response_enabled && !config.request.as_ref().is_some_and(|request| request.enabled) {
            return None;
        }
        let candidates = scope.filters.iter().enumerate().filter_map(|(slot, filter)| match &filter.source {
            _ if slot == scope.slot => Some(Candidate::new(&config)),
            FilterSource::Config(HttpFilterConfig::Compressor(other)) if !filter.disabled => {
                Some(Candidate::new(other))
            }
            _ => None,
        });
        let candidates = candidates.collect();
        Some(Self { config, response_enabled, remove_accept_encoding, candidates })
    }

    fn on_request(&self, stream: &mut Stream, cx: &mut Cx<'_>, head: &mut RequestHead) -> Flow {
        if self.response_enabled {
            stream.accept_encoding = head.headers.text(&name::ACCEPT_ENCODING).map(Into::into);
            if self.remove_accept_encoding {
                head.headers.remove(&name::ACCEPT_ENCODING);
            }
        }
        if let Some(direction) = self.config.request.as_ref().filter(|request| request.enabled)
            && !cx.is_end()
            && head.connect_protocol().is_none()
            && is_long_enough(direction, &head.headers)
            && has_type(direction, &head.headers)
            && !head.headers.contains(&name::CONTENT_ENCODING)
            && let Some(encoder) = Encoder::new(self.config.library)
        {
            head.headers.remove(&name::CONTENT_LENGTH);
            head.headers.set(&name::CONTENT_ENCODING, self.config.library.encoding().as_bytes());
            stream.request_encoder = Some(Box::new(encoder));
            cx.read_request_body();
        }
        Flow::Continue
    }

    fn on_request_data(&self, stream: &mut Stream, _cx: &mut Cx<'_>, data: &mut Bytes, end: bool) -> Flow {
        if let Some(encoder) = &mut stream.request_encoder {
            *data = encoder.encode(data, end);
        }
        Flow::Continue
    }

    fn on_response(&self, stream: &mut Stream, cx: &mut Cx<'_>, head: &mut ResponseHead) -> Flow {
        if !self.response_enabled || !self.is_compressible(head) {
            return Flow::Continue;
        }
        let encoding = self.config.library.encoding();
        let accepts = stream.accept_encoding.as_deref();
        let content_type = content_type(&head.headers);
        let chosen = accepts.and_then(|accepts| negotiate::choose(accepts, content_type, &self.candidates));
        if !cx.is_end()
            && chosen == Some(encoding)
            && let Some(encoder) = Encoder::new(self.config.library)
        {
            self.change_etag(&mut head.headers);
            head.headers.remove(&name::CONTENT_LENGTH);
            head.headers.set(&name::CONTENT_ENCODING, encoding.as_bytes());
            // Ranges of the compressed form are other bytes than the origin would send.
            head.headers.remove("accept-ranges");
            stream.encoder = Some(Box::new(encoder));
            cx.read_response_body();
        }
        // Also when this client does not want it: a cache must know that others get another form.
        add_vary(&mut head.headers);
        Flow::Continue
    }

    fn on_response_data(&self, stream: &mut Stream, _cx: &mut Cx<'_>, data: &mut Bytes, end: bool) -> Flow {
        if let Some(encoder) = &mut stream.encoder {
            *data = encoder.encode(data, end);
        }
        Flow::Continue
    }
}

impl Compressor {
    fn is_compressible(&self, head: &ResponseHead) -> bool {
        let headers = &head.headers;
        let direction = &self.config.response;
        // 101 ends HTTP; 206 is a piece whose place in the whole is told in bytes of the plain form.
        head.status != 101
            && head.status != 206
            && !self.config.uncompressible_response_codes.contains(&head.status)
            && is_long_enough(direction, headers)
            && has_type(direction, headers)
            && !has_token(headers.all(&name::CACHE_CONTROL), "no-transform")
            && !(self.config.disable_on_etag_header && headers.contains(&name::ETAG))
            && !headers.contains(&name::CONTENT_ENCODING)
    }

    /// The compressed form is not byte for byte the one that a strong tag stands for.
    fn change_etag(&self, headers: &mut Headers) {
        let Some(etag) = headers.get(&name::ETAG) else { return };
        if etag.len() <= 2 || etag.starts_with(b"W/") || etag.starts_with(b"w/") {
            return;
        }
        if self.config.weaken_etag_on_compress {
            let weak = [b"W/", etag].concat();
            headers.set(&name::ETAG, &weak);
        } else {
            headers.remove(&name::ETAG);
        }
    }
}

fn is_long_enough(direction: &Direction, headers: &Headers) -> bool {
    headers.get(&name::CONTENT_LENGTH).is_none_or(|_| {
        let length = headers.text(&name::CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
        length.is_some_and(|length| length >= direction.min_content_length)
    })
}

/// The media type without parameters; empty when there is none.
fn content_type(headers: &Headers) -> &str {
    headers.text(&name::CONTENT_TYPE).and_then(|text| text.split(';').next()).unwrap_or_default().trim()
}

fn has_type(direction: &Direction, headers: &Headers) -> bool {
    let content_type = content_type(headers);
    content_type.is_empty() || direction.content_types.iter().any(|known| known.matches(content_type.as_bytes()))
}

fn has_token<'a>(mut values: impl Iterator<Item = &'a [u8]>, token: &str) -> bool {
    values.any(|value| value.split(|b| *b == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes())))
}

fn add_vary(headers: &mut Headers) {
    if has_token(headers.all(&name::VARY), "accept-encoding") {
        return;
    }
    match headers.get(&name::VARY) {
        None => headers.set(&name::VARY, b"Accept-Encoding"),
        Some(_) => {
            let all: Vec<_> = headers.all(&name::VARY).collect();
            let longer = [all.join(&b", "[..]).as_slice(), b", Accept-Encoding"].concat();
            headers.set(&name::VARY, &longer);
        }
    }
}

#[cfg(test)]
mod tests;
