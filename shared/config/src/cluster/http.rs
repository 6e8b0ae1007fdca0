//! How HTTP is spoken to a cluster.

use std::time::Duration;

use proto::envoy::config::cluster::v3 as wire;
use proto::envoy::config::core::v3 as pb;
use proto::envoy::extensions::upstreams::http::v3 as ext;

use super::wire::{at_least_1ms, percent_at};
use crate::core::timeout_at;
use crate::hcm::FrameLimits;
use crate::invalid::Problems;

/// How HTTP is spoken to a cluster, and how long its connections live.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpOptions {
    pub protocols: Protocols,
    /// A connection without a request is closed after this.
    pub idle_timeout: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    /// Percent of `max_connection_duration` that is added by chance.
    pub max_connection_duration_jitter: f64,
    pub max_requests_per_connection: Option<u32>,
    pub max_stream_duration: Option<Duration>,
    /// Of a response.
    pub max_headers_count: u32,
    pub max_headers_kb: u32,
    pub h1: H1Options,
    pub h2: H2Options,
    /// TLS asks for the name in the request's authority.
    pub auto_sni: bool,
    /// The certificate must be for that name.
    pub auto_san: bool,
    /// The header that gives the name, instead of the authority.
    pub auto_sni_header: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocols {
    #[default]
    Http1,
    Http2,
    /// The version that the client speaks.
    Downstream,
    /// What the endpoint chooses by ALPN.
    Auto,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct H1Options {
    /// Trailers are sent and taken.
    pub trailers: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct H2Options {
    pub header_table_size: u32,
    pub max_concurrent_streams: u32,
    pub stream_window: u32,
    pub connection_window: u32,
    pub frames: FrameLimits,
    pub keepalive: Option<H2Keepalive>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct H2Keepalive {
    pub interval: Option<Duration>,
    pub timeout: Duration,
    /// At most this share of `interval` is added to it by chance.
    pub jitter_percent: f64,
}

impl Default for H2Options {
    fn default() -> Self {
        Self {
            header_table_size: 4096,
            max_concurrent_streams: 1024,
            stream_window: 16 << 20,
            connection_window: 24 << 20,
            frames: FrameLimits::default(),
            keepalive: None,
        }
    }
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            protocols: Protocols::Http1,
            idle_timeout: Some(Duration::from_secs(3600)),
            max_connection_duration: None,
            max_connection_duration_jitter: 0.0,
            max_requests_per_connection: None,
            max_stream_duration: None,
            max_headers_count: 100,
            max_headers_kb: 60,
            h1: H1Options::default(),
            h2: H2Options::default(),
            auto_sni: false,
            auto_san: false,
            auto_sni_header: String::new(),
        }
    }
}

// === decode ===

/// The key that Envoy looks for among the typed options.
const KEY: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

impl HttpOptions {
    pub(super) fn decode(proto: &wire::Cluster, p: &mut Problems) -> Option<Self> {
        let typed = &proto.typed_extension_protocol_options;
        for key in typed.keys().filter(|key| *key != KEY) {
            p.at("typed_extension_protocol_options", |p| p.index(key, |p| p.refuse("not implemented by weir-proxy")));
        }
        match typed.get(KEY) {
            Some(any) => p.at("typed_extension_protocol_options", |p| {
                p.index(KEY, |p| {
                    #[allow(deprecated)]
                    if proto.upstream_http_protocol_options.is_some()
                        || proto.common_http_protocol_options.is_some()
                        || proto.http_protocol_options.is_some()
                        || proto.http2_protocol_options.is_some()
                        || proto.protocol_selection != 0
                    {
                        p.refuse("excludes the deprecated protocol options of the cluster");
                    }
                    let any = crate::core::extension(any, p)?;
                    Self::typed(&crate::core::unpack(&any, p)?, p)
                })
            }),
            None => Self::old(proto, p),
        }
    }

    #[allow(deprecated)]
    fn old(proto: &wire::Cluster, p: &mut Problems) -> Option<Self> {
        let max_requests_per_connection = proto.max_requests_per_connection.filter(|n| *n > 0);
        let mut options = Self { max_requests_per_connection, ..Self::default() };
        options.common(proto.common_http_protocol_options.as_ref(), p);
        options.upstream(proto.upstream_http_protocol_options.as_ref());
        options.h1 = H1Options::decode("http_protocol_options", proto.http_protocol_options.as_ref(), p);
        options.h2 = H2Options::decode("http2_protocol_options", proto.http2_protocol_options.as_ref(), p);
        let by_downstream = wire::cluster::ClusterProtocolSelection::UseDownstreamProtocol as i32;
        options.protocols = match (proto.protocol_selection == by_downstream, &proto.http2_protocol_options) {
            (true, _) => Protocols::Downstream,
            (false, Some(_)) => Protocols::Http2,
            (false, None) => Protocols::Http1,
        };
        Some(options)
    }

    fn typed(proto: &ext::HttpProtocolOptions, p: &mut Problems) -> Option<Self> {
        use ext::http_protocol_options::UpstreamProtocolOptions as Choice;
        use ext::http_protocol_options::explicit_http_config::ProtocolConfig;
        crate::refuse_set!(p, proto; header_validation_config, outlier_detection, request_mirror_policies,
            hash_policy, retry_policy);
        // The codec filter is what every chain ends with; we need none to send a request.
        let codec_only = proto.http_filters.iter().all(|f| f.name == "envoy.filters.http.upstream_codec");
        p.unimplemented_if("http_filters", !codec_only);
        let mut options = Self::default();
        options.common(proto.common_http_protocol_options.as_ref(), p);
        options.upstream(proto.upstream_http_protocol_options.as_ref());
        let (protocols, h1, h2) = match &proto.upstream_protocol_options {
            Some(Choice::ExplicitHttpConfig(explicit)) => {
                p.at("explicit_http_config", |p| match &explicit.protocol_config {
                    Some(ProtocolConfig::HttpProtocolOptions(h1)) => Some((Protocols::Http1, Some(h1), None)),
                    Some(ProtocolConfig::Http2ProtocolOptions(h2)) => Some((Protocols::Http2, None, Some(h2))),
                    Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                        p.unimplemented("http3_protocol_options");
                        None
                    }
                    None => p.refuse_at("protocol_config", "is not set"),
                })?
            }
            Some(Choice::UseDownstreamProtocolConfig(c)) => {
                p.at("use_downstream_protocol_config", |p| crate::refuse_set!(p, c; http3_protocol_options));
                (Protocols::Downstream, c.http_protocol_options.as_ref(), c.http2_protocol_options.as_ref())
            }
            Some(Choice::AutoConfig(c)) => {
                p.at("auto_config", |p| {
                    crate::refuse_set!(p, c; http3_protocol_options, alternate_protocols_cache_options);
                });
                (Protocols::Auto, c.http_protocol_options.as_ref(), c.http2_protocol_options.as_ref())
            }
            None => return p.refuse_at("upstream_protocol_options", "is not set"),
        };
        options.protocols = protocols;
        options.h1 = H1Options::decode("http_protocol_options", h1, p);
        options.h2 = H2Options::decode("http2_protocol_options", h2, p);
        Some(options)
    }

    fn common(&mut self, proto: Option<&pb::HttpProtocolOptions>, p: &mut Problems) {
        let Some(proto) = proto else { return };
        p.at("common_http_protocol_options", |p| {
            crate::refuse_set!(p, proto; headers_with_underscores_action);
            self.idle_timeout = timeout_at(proto.idle_timeout.as_ref(), "idle_timeout", self.idle_timeout, p);
            self.max_connection_duration =
                timeout_at(proto.max_connection_duration.as_ref(), "max_connection_duration", None, p);
            self.max_connection_duration_jitter =
                percent_at("max_connection_duration_jitter", proto.max_connection_duration_jitter.as_ref(), p)
                    .unwrap_or(0.0);
            self.max_stream_duration = timeout_at(proto.max_stream_duration.as_ref(), "max_stream_duration", None, p);
            if let Some(count) = proto.max_requests_per_connection {
                self.max_requests_per_connection = Some(count).filter(|n| *n > 0);
            }
            match proto.max_headers_count {
                Some(0) => p.at("max_headers_count", |p| p.refuse("must be at least 1")),
                Some(count) => self.max_headers_count = count,
                None => {}
            }
            match proto.max_response_headers_kb {
                Some(kb) if kb == 0 || kb > 8192 => {
                    p.at("max_response_headers_kb", |p| p.refuse("must be from 1 to 8192"))
                }
                Some(kb) => self.max_headers_kb = kb,
                None => {}
            }
        });
    }

    fn upstream(&mut self, proto: Option<&pb::UpstreamHttpProtocolOptions>) {
        let Some(proto) = proto else { return };
        self.auto_sni = proto.auto_sni;
        self.auto_san = proto.auto_san_validation;
        self.auto_sni_header = proto.override_auto_sni_header.to_ascii_lowercase();
    }
}

impl H1Options {
    fn decode(name: &str, proto: Option<&pb::Http1ProtocolOptions>, p: &mut Problems) -> Self {
        let Some(proto) = proto else { return Self::default() };
        p.at(name, |p| {
            // allow_absolute_url, accept_http_10, default_host_for_http_10 and ignore_http_11_upgrade are about what
            // a client sends; use_balsa_parser picks one of Envoy's parsers; any method that is a token is sent.
            crate::refuse_set!(p, proto; header_key_format, allow_chunked_length, send_fully_qualified_url);
            p.unimplemented_if(
                "override_stream_error_on_invalid_http_message",
                proto.override_stream_error_on_invalid_http_message == Some(true),
            );
        });
        Self { trailers: proto.enable_trailers }
    }
}

impl H2Options {
    fn decode(name: &str, proto: Option<&pb::Http2ProtocolOptions>, p: &mut Problems) -> Self {
        let default = Self::default();
        let Some(proto) = proto else { return default };
        p.at(name, |p| {
            // What waits to be sent is bounded by the codec, which reads no more meanwhile.
            // use_oghttp2_codec picks one of Envoy's codecs; allow_connect is about what a client may ask for.
            crate::refuse_set!(p, proto; allow_metadata, custom_settings_parameters, max_metadata_size);
            let ranged =
                |name, value: Option<u32>, default, range: std::ops::RangeInclusive<u32>, p: &mut Problems| match value
                {
                    Some(value) if !range.contains(&value) => {
                        let (low, high) = range.into_inner();
                        p.refuse_at::<()>(name, format!("must be from {low} to {high}"));
                        default
                    }
                    other => other.unwrap_or(default),
                };
            let window = 65_535..=0x7fff_ffff;
            Self {
                header_table_size: proto.hpack_table_size.unwrap_or(default.header_table_size),
                max_concurrent_streams: ranged(
                    "max_concurrent_streams",
                    proto.max_concurrent_streams,
                    default.max_concurrent_streams,
                    1..=0x7fff_ffff,
                    p,
                ),
                stream_window: ranged(
                    "initial_stream_window_size",
                    proto.initial_stream_window_size,
                    default.stream_window,
                    window.clone(),
                    p,
                ),
                connection_window: ranged(
                    "initial_connection_window_size",
                    proto.initial_connection_window_size,
                    default.connection_window,
                    window,
                    p,
                ),
                frames: FrameLimits::decode(proto, p),
                keepalive: proto.connection_keepalive.as_ref().and_then(|k| H2Keepalive::decode(k, p)),
            }
        })
    }
}

impl H2Keepalive {
    fn decode(proto: &pb::KeepaliveSettings, p: &mut Problems) -> Option<Self> {
        p.at("connection_keepalive", |p| {
            let timeout = at_least_1ms("timeout", proto.timeout.as_ref(), p);
            if proto.timeout.is_none() {
                p.refuse_at::<()>("timeout", "is not set");
            }
            crate::refuse_set!(p, proto; connection_idle_interval);
            let jitter_percent = percent_at("interval_jitter", proto.interval_jitter.as_ref(), p).unwrap_or(15.0);
            let interval = at_least_1ms("interval", proto.interval.as_ref(), p);
            Some(Self { interval, timeout: timeout?, jitter_percent })
        })
    }
}
