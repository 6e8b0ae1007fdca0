//! Active health checks: how an endpoint is asked whether it is well.

use std::time::Duration;

use bytes::Bytes;
use proto::envoy::config::core::v3 as pb;
use proto::envoy::config::core::v3::health_check as kind;
use proto::envoy::extensions::health_check::event_sinks::file::v3::HealthCheckEventFileSink;

use crate::cluster::wire::positive;
use crate::core::{duration_at, extension, hex, unpack};
use crate::header::{HeaderChanges, HeaderValueOption};
use crate::invalid::Problems;
use crate::matcher::StringMatcher;
use crate::proxy_protocol::{self, Outbound};

#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheck {
    /// Covers connecting and the answer.
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
    /// The port to check where the endpoint names none for checks.
    pub alt_port: Option<u16>,
    /// Replaces the cluster's ALPN list, unless it is empty.
    pub alpn: Vec<String>,
    /// Files that get a line for each event.
    pub event_logs: Vec<String>,
    pub checker: Checker,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Checker {
    Http(Box<HttpCheck>),
    Tcp(TcpCheck),
    Grpc(GrpcCheck),
}

#[derive(Debug, Clone, PartialEq)]
pub struct HttpCheck {
    /// Used where the endpoint names no host for checks; empty takes the cluster's name.
    pub host: String,
    pub path: String,
    pub method: String,
    /// The body of the request.
    pub send: Bytes,
    /// Half-open ranges of good statuses.
    pub expected: Vec<(u16, u16)>,
    /// Statuses that count as a failure only at the threshold.
    pub retriable: Vec<(u16, u16)>,
    pub headers: HeaderChanges,
    /// Byte sequences that must be in the body, in this order.
    pub receive: Vec<Bytes>,
    /// How much of the body is looked at; 0 is all of it.
    pub response_buffer: u64,
    pub http2: bool,
    /// What `x-envoy-upstream-healthchecked-cluster` of the answer has to be.
    pub service_name: Option<StringMatcher>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TcpCheck {
    /// Empty: a connection is enough.
    pub send: Bytes,
    pub receive: Vec<Bytes>,
    /// The connection begins with this header, in what TLS carries.
    pub proxy_protocol: Option<Outbound>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct GrpcCheck {
    pub service: String,
    /// Used where the endpoint names no host for checks; empty takes the cluster's name.
    pub authority: String,
    pub metadata: HeaderChanges,
}

// === decode ===

impl HealthCheck {
    pub(crate) fn decode(p: &mut Problems, proto: &pb::HealthCheck) -> Option<Self> {
        crate::refuse_set!(p, proto; event_service, transport_socket_match_criteria);
        let checker = match &proto.health_checker {
            Some(kind::HealthChecker::HttpHealthCheck(c)) => {
                p.at("http_health_check", |p| HttpCheck::decode(c, p)).map(|check| Checker::Http(Box::new(check)))
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
        let alt_port = match proto.alt_port {
            None | Some(0) => None,
            Some(port) => match u16::try_from(port) {
                Ok(port) => Some(port),
                Err(_) => return p.refuse_at("alt_port", format!("{port} is not a port (0 to 65535)")),
            },
        };
        let event_logs = event_logs(proto, p);
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
            alt_port,
            event_logs,
            alpn: proto.tls_options.as_ref().map(|t| t.alpn_protocols.clone()).unwrap_or_default(),
            checker: checker?,
        })
    }
}

impl HttpCheck {
    fn decode(proto: &kind::HttpHealthCheck, p: &mut Problems) -> Option<Self> {
        use proto::envoy::r#type::v3::CodecClientType;
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
        let send = match &proto.send {
            Some(_) if matches!(method, "GET" | "HEAD" | "DELETE" | "TRACE") => {
                return p.refuse_at("send", format!("a {method} request has no body"));
            }
            Some(send) => p.at("send", |p| payload(p, send))?,
            None => Bytes::new(),
        };
        let receive = p.each("receive", &proto.receive, payload);
        let response_buffer = proto.response_buffer_size.unwrap_or(1024);
        let length: usize = receive.iter().map(Bytes::len).sum();
        if response_buffer != 0 && length as u64 > response_buffer {
            return p.refuse_at("receive", format!("{length} bytes are more than response_buffer_size"));
        }
        let service_name = match &proto.service_name_matcher {
            Some(matcher) => Some(p.at("service_name_matcher", |p| StringMatcher::decode(matcher, p))?),
            None => None,
        };
        let headers = HeaderChanges::decode(
            ("request_headers_to_add", &proto.request_headers_to_add),
            ("request_headers_to_remove", &proto.request_headers_to_remove),
            p,
        );
        fixed("request_headers_to_add", &headers.add, p)?;
        let mut expected = p.each("expected_statuses", &proto.expected_statuses, statuses);
        if expected.is_empty() {
            expected.push((200, 201));
        }
        Some(Self {
            host: proto.host.clone(),
            path: proto.path.clone(),
            method: method.to_owned(),
            send,
            expected,
            retriable: p.each("retriable_statuses", &proto.retriable_statuses, statuses),
            headers,
            receive,
            response_buffer,
            http2,
            service_name,
        })
    }
}

impl TcpCheck {
    fn decode(proto: &kind::TcpHealthCheck, p: &mut Problems) -> Option<Self> {
        let proxy_protocol = match &proto.proxy_protocol_config {
            Some(config) => Some(p.at("proxy_protocol_config", |p| proxy_protocol::outbound(config, p))?),
            None => None,
        };
        Some(Self {
            proxy_protocol,
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
        let metadata =
            HeaderChanges::decode(("initial_metadata", &proto.initial_metadata), ("initial_metadata", &[]), p);
        fixed("initial_metadata", &metadata.add, p)?;
        Some(Self { service: proto.service_name.clone(), authority: proto.authority.clone(), metadata })
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

/// Checks are sent for nobody's request, so that there is nothing that a command operator could tell of.
fn fixed(name: &str, headers: &[HeaderValueOption], p: &mut Problems) -> Option<()> {
    for (index, header) in headers.iter().enumerate() {
        if header.value.contains('%') {
            p.at(name, |p| p.index(index, |p| p.refuse("command operators are not implemented here")));
            return None;
        }
    }
    Some(())
}

fn event_logs(proto: &pb::HealthCheck, p: &mut Problems) -> Vec<String> {
    const SINK: &str = "envoy.extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink";
    let mut logs = p.each("event_logger", &proto.event_logger, |p, sink| {
        let Some(any) = &sink.typed_config else { return p.refuse_at("typed_config", "is not set") };
        p.at("typed_config", |p| {
            let any = extension(any, p)?;
            if any.type_name() != SINK {
                p.refuse(format!("{} is not implemented by weir-proxy", any.type_name()));
                return None;
            }
            let sink: HealthCheckEventFileSink = unpack(&any, p)?;
            match sink.event_log_path.is_empty() {
                true => p.refuse_at("event_log_path", "is empty"),
                false => Some(sink.event_log_path),
            }
        })
    });
    #[allow(deprecated)]
    let old = &proto.event_log_path;
    if !old.is_empty() {
        logs.push(old.clone());
    }
    logs
}

#[cfg(test)]
mod tests;
