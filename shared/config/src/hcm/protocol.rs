//! Options of the HTTP versions, as listeners and clusters have them.

use std::time::Duration;

use proto::envoy::config::core::v3 as pb;

use crate::core::{duration_at, percent, timeout_at};
use crate::invalid::{Problems, is_set};
use crate::refuse_set;

/// Options of every HTTP version.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpOptions {
    /// A connection without streams is closed after this long; 1 hour by default, `None` is never.
    pub idle_timeout: Option<Duration>,
    /// A connection is drained after this long.
    pub max_connection_duration: Option<Duration>,
    /// A stream is reset after this long.
    pub max_stream_duration: Option<Duration>,
    /// More header fields are an error; 100 by default.
    pub max_headers_count: u32,
    /// The largest response head in KiB; 60 by default (for clusters).
    pub max_response_headers_kb: u32,
    /// What happens to requests with `_` in a header name.
    pub headers_with_underscores: HeadersWithUnderscores,
    /// A connection is closed after this many requests; `None` is unlimited.
    pub max_requests_per_connection: Option<u32>,
}

/// See [`HttpOptions`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HeadersWithUnderscores {
    /// Nothing.
    #[default]
    Allow,
    /// 400.
    Reject,
    /// The header is dropped.
    Drop,
}

/// Options of HTTP/1.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Http1Options {
    /// Take requests with a whole URL in the first line; on by default.
    pub allow_absolute_url: bool,
    /// Take HTTP/1.0 requests.
    pub accept_http_10: bool,
    /// The host of HTTP/1.0 requests without one.
    pub default_host_for_http_10: String,
    /// Pass on and send trailers.
    pub enable_trailers: bool,
    /// Write header names in `Proper-Case`.
    pub proper_case_words: bool,
    /// Take requests with both `content-length` and `transfer-encoding: chunked`, without the first.
    pub allow_chunked_length: bool,
    /// Take methods that are not registered.
    pub allow_custom_methods: bool,
}

/// Options of HTTP/2; `None` is the codec's choice.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Http2Options {
    /// Size of the header compression table.
    pub hpack_table_size: Option<u32>,
    /// Streams the other side may have open at once.
    pub max_concurrent_streams: Option<u32>,
    /// Flow control window of a stream.
    pub initial_stream_window_size: Option<u32>,
    /// Flow control window of a connection.
    pub initial_connection_window_size: Option<u32>,
    pub frames: FrameLimits,
    /// Take extended CONNECT (RFC 8441).
    pub allow_connect: bool,
    /// Probing of connections.
    pub keepalive: Option<Keepalive>,
}

/// Frames that the other side may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameLimits {
    /// In a row without a payload.
    pub empty: u32,
    /// PRIORITY for each stream.
    pub priority: u32,
    /// WINDOW_UPDATE for each DATA that was sent; at least 1.
    pub window_updates: u32,
}

/// Probing of connections with PING.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Keepalive {
    /// How often; never without one.
    pub interval: Option<Duration>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Share of `interval` that is added by chance, in percent.
    pub jitter_percent: u8,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            idle_timeout: Some(Duration::from_secs(3600)),
            max_connection_duration: None,
            max_stream_duration: None,
            max_headers_count: 100,
            max_response_headers_kb: 60,
            headers_with_underscores: HeadersWithUnderscores::Allow,
            max_requests_per_connection: None,
        }
    }
}

impl Default for Http1Options {
    fn default() -> Self {
        Self {
            allow_absolute_url: true,
            accept_http_10: false,
            default_host_for_http_10: String::new(),
            enable_trailers: false,
            proper_case_words: false,
            allow_chunked_length: false,
            allow_custom_methods: false,
        }
    }
}

/// Decodes the options of every version.
pub fn http_options(proto: Option<&pb::HttpProtocolOptions>, p: &mut Problems) -> HttpOptions {
    use pb::http_protocol_options::HeadersWithUnderscoresAction as Action;
    let defaults = HttpOptions::default();
    let Some(proto) = proto else { return defaults };
    refuse_set!(p, proto; max_connection_duration_jitter);
    if proto.max_headers_count == Some(0) {
        p.refuse_at::<()>("max_headers_count", "must be at least 1");
    }
    let max_response_headers_kb = proto.max_response_headers_kb.unwrap_or(defaults.max_response_headers_kb);
    if !(1..=8192).contains(&max_response_headers_kb) {
        p.refuse_at::<()>("max_response_headers_kb", "must be between 1 and 8192");
    }
    HttpOptions {
        idle_timeout: timeout_at(proto.idle_timeout.as_ref(), "idle_timeout", defaults.idle_timeout, p),
        max_connection_duration: timeout_at(proto.max_connection_duration.as_ref(), "max_connection_duration", None, p),
        max_stream_duration: timeout_at(proto.max_stream_duration.as_ref(), "max_stream_duration", None, p),
        max_headers_count: proto.max_headers_count.unwrap_or(defaults.max_headers_count),
        max_response_headers_kb,
        headers_with_underscores: match Action::try_from(proto.headers_with_underscores_action) {
            Ok(Action::Allow) => HeadersWithUnderscores::Allow,
            Ok(Action::RejectRequest) => HeadersWithUnderscores::Reject,
            Ok(Action::DropHeader) => HeadersWithUnderscores::Drop,
            Err(_) => p.refuse_at("headers_with_underscores_action", "unknown value").unwrap_or_default(),
        },
        max_requests_per_connection: proto.max_requests_per_connection.filter(|n| *n > 0),
    }
}

/// Decodes the options of HTTP/1. `use_balsa_parser` chooses between two parsers of Envoy, neither of which is ours.
pub fn http1_options(proto: Option<&pb::Http1ProtocolOptions>, p: &mut Problems) -> Http1Options {
    use pb::http1_protocol_options::header_key_format::HeaderFormat;
    let Some(proto) = proto else { return Http1Options::default() };
    refuse_set!(p, proto; send_fully_qualified_url, ignore_http_11_upgrade);
    if proto.override_stream_error_on_invalid_http_message == Some(true) {
        p.warn("override_stream_error_on_invalid_http_message", STREAM_ERRORS);
    }
    let proper_case_words = match proto.header_key_format.as_ref().map(|format| &format.header_format) {
        Some(Some(HeaderFormat::ProperCaseWords(_))) => true,
        Some(Some(HeaderFormat::StatefulFormatter(_))) => {
            p.at("header_key_format", |p| p.unimplemented("stateful_formatter"));
            false
        }
        Some(None) => p.refuse_at("header_key_format", "a format is required").unwrap_or_default(),
        None => false,
    };
    Http1Options {
        allow_absolute_url: proto.allow_absolute_url.unwrap_or(true),
        accept_http_10: proto.accept_http_10,
        default_host_for_http_10: proto.default_host_for_http_10.clone(),
        enable_trailers: proto.enable_trailers,
        proper_case_words,
        allow_chunked_length: proto.allow_chunked_length,
        allow_custom_methods: proto.allow_custom_methods,
    }
}

/// What becomes of the options that keep a connection open after a message that is not valid.
pub(super) const STREAM_ERRORS: &str =
    "has no effect: weir-proxy closes a connection of HTTP/1 after such a message, and resets the stream of HTTP/2";

/// Decodes the options of HTTP/2. An invalid message resets its stream only, so the options that ask for that have no
/// effect. `use_oghttp2_codec` chooses between two codecs of Envoy, neither of which is ours;
/// `max_metadata_size` limits METADATA frames, which are refused.
pub fn http2_options(proto: Option<&pb::Http2ProtocolOptions>, p: &mut Problems) -> Http2Options {
    let Some(proto) = proto else { return Http2Options::default() };
    refuse_set!(
        p, proto;
        allow_metadata, custom_settings_parameters, max_metadata_size, stream_reset_burst, stream_reset_rate,
    );
    p.unimplemented_if("enable_huffman_encoding", proto.enable_huffman_encoding == Some(false));
    p.unimplemented_if("disallow_obs_text", is_set(&proto.disallow_obs_text));
    let window = |name: &str, size: Option<u32>, p: &mut Problems| {
        if size.is_some_and(|size| !(65_535..=0x7fff_ffff).contains(&size)) {
            p.refuse_at::<()>(name, "must be between 65535 and 2147483647");
        }
        size
    };
    if proto.max_concurrent_streams.is_some_and(|n| !(1..=0x7fff_ffff).contains(&n)) {
        p.refuse_at::<()>("max_concurrent_streams", "must be between 1 and 2147483647");
    }
    // The codec bounds whole heads, and queued frames by its own limits.
    refuse_set!(p, proto; max_header_field_size_kb, max_outbound_frames, max_outbound_control_frames);
    Http2Options {
        hpack_table_size: proto.hpack_table_size,
        max_concurrent_streams: proto.max_concurrent_streams,
        initial_stream_window_size: window("initial_stream_window_size", proto.initial_stream_window_size, p),
        initial_connection_window_size: window(
            "initial_connection_window_size",
            proto.initial_connection_window_size,
            p,
        ),
        frames: FrameLimits::decode(proto, p),
        allow_connect: proto.allow_connect,
        keepalive: proto
            .connection_keepalive
            .as_ref()
            .and_then(|keepalive| p.at("connection_keepalive", |p| keepalive_of(keepalive, p))),
    }
}

impl Default for FrameLimits {
    fn default() -> Self {
        Self { empty: 1, priority: 100, window_updates: 10 }
    }
}

impl FrameLimits {
    pub(crate) fn decode(proto: &pb::Http2ProtocolOptions, p: &mut Problems) -> Self {
        let default = Self::default();
        let window_updates = proto.max_inbound_window_update_frames_per_data_frame_sent;
        if window_updates == Some(0) {
            p.refuse_at::<()>("max_inbound_window_update_frames_per_data_frame_sent", "must be at least 1");
        }
        Self {
            empty: proto.max_consecutive_inbound_frames_with_empty_payload.unwrap_or(default.empty),
            priority: proto.max_inbound_priority_frames_per_stream.unwrap_or(default.priority),
            window_updates: window_updates.unwrap_or(default.window_updates),
        }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a percentage")]
fn keepalive_of(proto: &pb::KeepaliveSettings, p: &mut Problems) -> Option<Keepalive> {
    let millisecond = Duration::from_millis(1);
    let mut at_least = |name: &str, proto: Option<&_>| {
        let duration = duration_at(proto, name, p);
        if duration.is_some_and(|duration| duration < millisecond) {
            p.refuse_at::<()>(name, "must be at least 1ms");
        }
        duration
    };
    let interval = at_least("interval", proto.interval.as_ref());
    let timeout = at_least("timeout", proto.timeout.as_ref());
    p.unimplemented_if("connection_idle_interval", proto.connection_idle_interval.is_some());
    if proto.timeout.is_none() {
        return p.refuse_at("timeout", "is required");
    }
    let jitter = match &proto.interval_jitter {
        Some(jitter) => p.at("interval_jitter", |p| percent(jitter, p))?,
        None => 15.0,
    };
    Some(Keepalive { interval, timeout: timeout?, jitter_percent: jitter.round() as u8 })
}
