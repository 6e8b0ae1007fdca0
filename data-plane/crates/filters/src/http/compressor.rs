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

mod count;
mod encode;
mod negotiate;

use count::{Counters, DirectionStats};
use encode::Encoder;
use negotiate::Candidate;

pub struct Compressor {
    config: Config,
    counters: Counters,
    response_enabled: bool,
    request_enabled: bool,
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
        let mut response_enabled = config.response.enabled.value();
        let request_enabled = config.request.as_ref().is_some_and(|request| request.enabled.value());
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
        if !response_enabled && !request_enabled {
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
        let counters = Counters::register(&config, scope);
        Some(Self { config, counters, response_enabled, request_enabled, remove_accept_encoding, candidates })
    }

    fn on_request(&self, stream: &mut Stream, cx: &mut Cx<'_>, head: &mut RequestHead) -> Flow {
        if self.response_enabled {
            stream.accept_encoding = head.headers.text(&name::ACCEPT_ENCODING).map(Into::into);
            if self.remove_accept_encoding {
                head.headers.remove(&name::ACCEPT_ENCODING);
            }
        }
        let (Some(direction), Some(stats)) = (&self.config.request, &self.counters.request) else {
            return Flow::Continue;
        };
        if self.request_enabled
            && !cx.is_end()
            && head.connect_protocol().is_none()
            && is_long_enough(direction, &head.headers, stats, cx.shard())
            && has_type(direction, &head.headers)
            && !head.headers.contains(&name::CONTENT_ENCODING)
            && let Some(encoder) = Encoder::new(self.config.library)
        {
            stats.compressed().inc(cx.shard());
            head.headers.remove(&name::CONTENT_LENGTH);
            head.headers.set(&name::CONTENT_ENCODING, self.config.library.encoding().as_bytes());
            stream.request_encoder = Some(Box::new(encoder));
            cx.read_request_body();
        } else {
            stats.not_compressed().inc(cx.shard());
        }
        Flow::Continue
    }

    fn on_request_data(&self, stream: &mut Stream, cx: &mut Cx<'_>, data: &mut Bytes, end: bool) -> Flow {
        if let (Some(encoder), Some(stats)) = (&mut stream.request_encoder, &self.counters.request) {
            encode(encoder, data, end, stats, cx.shard());
        }
        Flow::Continue
    }

    fn on_response(&self, stream: &mut Stream, cx: &mut Cx<'_>, head: &mut ResponseHead) -> Flow {
        if !self.response_enabled {
            return Flow::Continue;
        }
        let (stats, shard) = (&self.counters.response, cx.shard());
        if !self.is_compressible(head, shard) {
            stats.not_compressed().inc(shard);
            return Flow::Continue;
        }
        let encoding = self.config.library.encoding();
        if !cx.is_end()
            && self.is_chosen(stream, head, shard)
            && let Some(encoder) = Encoder::new(self.config.library)
        {
            stats.compressed().inc(shard);
            self.change_etag(&mut head.headers);
            head.headers.remove(&name::CONTENT_LENGTH);
            head.headers.set(&name::CONTENT_ENCODING, encoding.as_bytes());
            // Ranges of the compressed form are other bytes than the origin would send.
            head.headers.remove("accept-ranges");
            stream.encoder = Some(Box::new(encoder));
            cx.read_response_body();
        } else {
            stats.not_compressed().inc(shard);
        }
        // Also when this client does not want it: a cache must know that others get another form.
        add_vary(&mut head.headers);
        Flow::Continue
    }

    fn on_response_data(&self, stream: &mut Stream, cx: &mut Cx<'_>, data: &mut Bytes, end: bool) -> Flow {
        if let Some(encoder) = &mut stream.encoder {
            encode(encoder, data, end, &self.counters.response, cx.shard());
        }
        Flow::Continue
    }
}

impl Compressor {
    /// Whether the client gets this filter's encoding, of all that the chain has.
    fn is_chosen(&self, stream: &Stream, head: &ResponseHead, shard: usize) -> bool {
        let stats = &self.counters.response_only;
        let Some(accepts) = &stream.accept_encoding else {
            stats.no_accept_header().inc(shard);
            return false;
        };
        let (why, chosen) = negotiate::choose(accepts, content_type(&head.headers), &self.candidates);
        let is_ours = chosen == Some(self.config.library.encoding());
        stats.count(why, is_ours, shard);
        is_ours
    }

    fn is_compressible(&self, head: &ResponseHead, shard: usize) -> bool {
        let headers = &head.headers;
        let direction = &self.config.response;
        // 101 ends HTTP; 206 is a piece whose place in the whole is told in bytes of the plain form.
        head.status != 101
            && head.status != 206
            && !self.config.uncompressible_response_codes.contains(&head.status)
            && is_long_enough(direction, headers, &self.counters.response, shard)
            && has_type(direction, headers)
            && !has_token(headers.all(&name::CACHE_CONTROL), "no-transform")
            && self.takes_etag(headers, shard)
            && !headers.contains(&name::CONTENT_ENCODING)
    }

    fn takes_etag(&self, headers: &Headers, shard: usize) -> bool {
        let refuses = self.config.disable_on_etag_header && headers.contains(&name::ETAG);
        if refuses {
            self.counters.response_only.not_compressed_etag().inc(shard);
        }
        !refuses
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

fn encode(encoder: &mut Encoder, data: &mut Bytes, end: bool, stats: &DirectionStats, shard: usize) {
    stats.total_uncompressed_bytes().add(shard, data.len() as u64);
    *data = encoder.encode(data, end);
    stats.total_compressed_bytes().add(shard, data.len() as u64);
}

fn is_long_enough(direction: &Direction, headers: &Headers, stats: &DirectionStats, shard: usize) -> bool {
    let is_long_enough = headers.get(&name::CONTENT_LENGTH).is_none_or(|_| {
        let length = headers.text(&name::CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
        length.is_some_and(|length| length >= direction.min_content_length)
    });
    if !is_long_enough {
        stats.content_length_too_small().inc(shard);
    }
    is_long_enough
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
