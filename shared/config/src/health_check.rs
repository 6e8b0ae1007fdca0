//! Active health checks: how an endpoint is asked whether it is well.

use std::time::Duration;

use bytes::Bytes;
use proto::envoy::config::core::v3 as pb;
use proto::envoy::config::core::v3::health_check as kind;

use crate::cluster::wire::positive;
use crate::core::{duration_at, hex};
use crate::invalid::Problems;

#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheck {
    pub timeout: Duration,
    pub interval: Duration,
    /// The first check waits for a random time up to this.
    pub initial_jitter: Duration,
    /// Each wait is longer by a random time up to this, and by up to `interval_jitter_percent` percent.
    pub interval_jitter: Duration,
    pub interval_jitter_percent: u32,
    /// Failures in a row that make a healthy endpoint unhealthy.
    pub unhealthy_threshold: u32,
    /// Successes in a row that make an unhealthy endpoint healthy.
    pub healthy_threshold: u32,
    pub reuse_connection: bool,
    /// The interval while the cluster has never had traffic.
    pub no_traffic_interval: Duration,
    pub no_traffic_healthy_interval: Duration,
    pub unhealthy_interval: Duration,
    pub unhealthy_edge_interval: Duration,
    pub healthy_edge_interval: Duration,
    pub always_log_failures: bool,
    pub always_log_success: bool,
    /// Replaces the cluster's ALPN list.
    pub alpn: Vec<String>,
    pub checker: Checker,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Checker {
    Http(HttpCheck),
    Tcp(TcpCheck),
    Grpc(GrpcCheck),
}

#[derive(Debug, Clone, PartialEq)]
pub struct HttpCheck {
    /// Empty takes the endpoint's host name for checks, then the cluster's name.
    pub host: String,
    pub path: String,
    pub method: String,
    /// Half-open ranges of good statuses.
    pub expected: Vec<(u16, u16)>,
    /// Statuses that count as a failure only at the threshold.
    pub retriable: Vec<(u16, u16)>,
    pub headers_to_add: Vec<(String, String)>,
    pub headers_to_remove: Vec<String>,
    /// Byte sequences that must be in the body, in this order.
    pub receive: Vec<Bytes>,
    /// How much of the body is looked at.
    pub response_buffer: u64,
    pub http2: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TcpCheck {
    /// Empty: a connection is enough.
    pub send: Bytes,
    pub receive: Vec<Bytes>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct GrpcCheck {
    pub service: String,
    /// Empty takes the endpoint's host name for checks, then the cluster's name.
    pub authority: String,
    pub metadata: Vec<(String, String)>,
}

// === decode ===

impl HealthCheck {
    pub(crate) fn decode(p: &mut Problems, proto: &pb::HealthCheck) -> Option<Self> {
        // Nothing runs health checks yet; a cluster that asks for them must not be told that all is well.
        p.refuse("active health checks are not implemented by weir-proxy");
        crate::refuse_set!(p, proto; alt_port, event_logger, event_service, transport_socket_match_criteria);
        #[allow(deprecated)]
        {
            crate::refuse_set!(p, proto; event_log_path);
        }
        let checker = match &proto.health_checker {
            Some(kind::HealthChecker::HttpHealthCheck(c)) => {
                p.at("http_health_check", |p| HttpCheck::decode(c, p)).map(Checker::Http)
            }
            Some(kind::HealthChecker::TcpHealthCheck(c)) => {
                p.at("tcp_health_check", |p| TcpCheck::decode(c, p)).map(Checker::Tcp)
            }
            Some(kind::HealthChecker::GrpcHealthCheck(c)) => {
                p.at("grpc_health_check", |p| GrpcCheck::decode(c, p)).map(Checker::Grpc)
            }
            Some(kind::HealthChecker::CustomHealthCheck(_)) => {
                p.unimplemented("custom_health_check");
                None
            }
            None => p.refuse_at("health_checker", "is not set"),
        };
        let required = |name: &str, value: Option<&prost_types::Duration>, p: &mut Problems| match value {
            Some(_) => positive(name, value, p),
            None => p.refuse_at(name, "is not set"),
        };
        let threshold = |name: &str, value: Option<u32>, p: &mut Problems| match value {
            Some(value) => Some(value),
            None => p.refuse_at(name, "is not set"),
        };
        let timeout = required("timeout", proto.timeout.as_ref(), p);
        let interval = required("interval", proto.interval.as_ref(), p);
        let unhealthy_threshold = threshold("unhealthy_threshold", proto.unhealthy_threshold, p);
        let healthy_threshold = threshold("healthy_threshold", proto.healthy_threshold, p);
        let no_traffic = positive("no_traffic_interval", proto.no_traffic_interval.as_ref(), p);
        let no_traffic_healthy = positive("no_traffic_healthy_interval", proto.no_traffic_healthy_interval.as_ref(), p);
        let unhealthy = positive("unhealthy_interval", proto.unhealthy_interval.as_ref(), p);
        let unhealthy_edge = positive("unhealthy_edge_interval", proto.unhealthy_edge_interval.as_ref(), p);
        let healthy_edge = positive("healthy_edge_interval", proto.healthy_edge_interval.as_ref(), p);
        let (initial, jitter) = (proto.initial_jitter.as_ref(), proto.interval_jitter.as_ref());
        let initial_jitter = duration_at(initial, "initial_jitter", p).unwrap_or_default();
        let interval_jitter = duration_at(jitter, "interval_jitter", p).unwrap_or_default();
        let (interval, no_traffic) = (interval?, no_traffic.unwrap_or(Duration::from_secs(60)));
        let unhealthy = unhealthy.unwrap_or(interval);
        Some(Self {
            timeout: timeout?,
            interval,
            initial_jitter,
            interval_jitter,
            interval_jitter_percent: proto.interval_jitter_percent,
            unhealthy_threshold: unhealthy_threshold?,
            healthy_threshold: healthy_threshold?,
            reuse_connection: proto.reuse_connection.unwrap_or(true),
            no_traffic_interval: no_traffic,
            no_traffic_healthy_interval: no_traffic_healthy.unwrap_or(no_traffic),
            unhealthy_interval: unhealthy,
            unhealthy_edge_interval: unhealthy_edge.unwrap_or(unhealthy),
            healthy_edge_interval: healthy_edge.unwrap_or(interval),
            always_log_failures: proto.always_log_health_check_failures,
            always_log_success: proto.always_log_health_check_success,
            alpn: proto.tls_options.as_ref().map(|t| t.alpn_protocols.clone()).unwrap_or_default(),
            checker: checker?,
        })
    }
}

impl HttpCheck {
    fn decode(proto: &kind::HttpHealthCheck, p: &mut Problems) -> Option<Self> {
        use proto::envoy::r#type::v3::CodecClientType;
        crate::refuse_set!(p, proto; send, service_name_matcher);
        if proto.path.is_empty() {
            return p.refuse_at("path", "is empty");
        }
        let http2 = match CodecClientType::try_from(proto.codec_client_type) {
            Ok(CodecClientType::Http1) => false,
            Ok(CodecClientType::Http2) => true,
            _ => return p.refuse_at("codec_client_type", "only HTTP1 and HTTP2 are implemented"),
        };
        let method = match pb::RequestMethod::try_from(proto.method) {
            Ok(pb::RequestMethod::MethodUnspecified) => "GET",
            Ok(pb::RequestMethod::Connect) | Err(_) => return p.refuse_at("method", "CONNECT is not allowed"),
            Ok(method) => method.as_str_name(),
        };
        let mut expected = p.each("expected_statuses", &proto.expected_statuses, statuses);
        if expected.is_empty() {
            expected.push((200, 201));
        }
        Some(Self {
            host: proto.host.clone(),
            path: proto.path.clone(),
            method: method.to_owned(),
            expected,
            retriable: p.each("retriable_statuses", &proto.retriable_statuses, statuses),
            headers_to_add: p.each("request_headers_to_add", &proto.request_headers_to_add, header),
            headers_to_remove: proto.request_headers_to_remove.clone(),
            receive: p.each("receive", &proto.receive, payload),
            response_buffer: proto.response_buffer_size.unwrap_or(1024),
            http2,
        })
    }
}

impl TcpCheck {
    fn decode(proto: &kind::TcpHealthCheck, p: &mut Problems) -> Option<Self> {
        crate::refuse_set!(p, proto; proxy_protocol_config);
        Some(Self {
            send: match &proto.send {
                Some(send) => p.at("send", |p| payload(p, send))?,
                None => Bytes::new(),
            },
            receive: p.each("receive", &proto.receive, payload),
        })
    }
}

impl GrpcCheck {
    fn decode(proto: &kind::GrpcHealthCheck, p: &mut Problems) -> Option<Self> {
        Some(Self {
            service: proto.service_name.clone(),
            authority: proto.authority.clone(),
            metadata: p.each("initial_metadata", &proto.initial_metadata, header),
        })
    }
}

fn statuses(p: &mut Problems, range: &proto::envoy::r#type::v3::Int64Range) -> Option<(u16, u16)> {
    match (u16::try_from(range.start), u16::try_from(range.end)) {
        (Ok(start), Ok(end)) if start >= 100 && end <= 600 && start < end => Some((start, end)),
        _ => {
            p.refuse("must be a range of statuses from 100 to 600, the end not included");
            None
        }
    }
}

fn payload(p: &mut Problems, proto: &kind::Payload) -> Option<Bytes> {
    match &proto.payload {
        Some(kind::payload::Payload::Text(text)) => match hex(text) {
            Some(bytes) if !bytes.is_empty() => Some(bytes.into()),
            _ => p.refuse_at("text", "is not a sequence of hex digits, two for each byte"),
        },
        Some(kind::payload::Payload::Binary(bytes)) => Some(bytes.clone()),
        None => p.refuse_at("payload", "is not set"),
    }
}

fn header(p: &mut Problems, proto: &pb::HeaderValueOption) -> Option<(String, String)> {
    crate::refuse_set!(p, proto; append_action, keep_empty_value);
    let Some(header) = &proto.header else { return p.refuse_at("header", "is not set") };
    if header.value.contains('%') {
        return p.refuse_at("header.value", "command operators are not implemented here");
    }
    Some((header.key.to_ascii_lowercase(), header.value.clone()))
}
