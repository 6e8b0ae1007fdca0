//! `envoy.extensions.filters.http.fault.v3.HTTPFault`: delays, aborts and slow responses on purpose.
//!
//! Runtime keys per downstream cluster (`fault.http.CLUSTER.…`) do not exist, nor do statistics.

use std::time::Duration;

use proto::envoy::extensions::filters::common::fault::v3 as common;
use proto::envoy::extensions::filters::http::fault::v3 as fault;
use proto::envoy::r#type::v3::FractionalPercent;

use super::Decode;
use crate::core::{self, Fraction};
use crate::invalid::Problems;
use crate::matcher::HeaderMatcher;

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Config {
    pub delay: Option<Fault<Delay>>,
    pub abort: Option<Fault<Abort>>,
    pub response_rate_limit: Option<Fault<Rate>>,
    /// The text of an abort; empty for the usual one.
    pub abort_body: String,
    /// Only requests routed to this cluster; empty for all.
    pub upstream_cluster: String,
    /// Only requests that match all of these.
    pub headers: Vec<HeaderMatcher>,
    /// Only requests with one of these in `x-envoy-downstream-service-node`; empty for all.
    pub downstream_nodes: Vec<String>,
    pub max_active_faults: Option<u32>,
    pub keys: RuntimeKeys,
}

/// The runtime keys that override what is configured, when they are set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeKeys {
    pub delay_percent: String,
    pub delay_duration: String,
    pub abort_percent: String,
    pub abort_http_status: String,
    pub abort_grpc_status: String,
    pub max_active_faults: String,
    pub response_rate_limit_percent: String,
}

pub type Override = Config;

/// A fault and the share of requests that suffer it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault<T> {
    pub percentage: Fraction,
    pub what: T,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delay {
    Fixed(Duration),
    /// As the request asks in `x-envoy-fault-delay-request`.
    Header,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abort {
    Http(u16),
    Grpc(u8),
    /// As the request asks in `x-envoy-fault-abort-request` or `x-envoy-fault-abort-grpc-request`.
    Header,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// KiB a second.
    Fixed(u64),
    /// As the request asks in `x-envoy-fault-throughput-response`.
    Header,
}

// === decode ===

impl Decode for Config {
    type Proto = fault::HttpFault;

    fn decode(proto: &fault::HttpFault, p: &mut Problems) -> Option<Self> {
        let before = p.count();
        // Statistics per downstream cluster do not exist here, so there are none to disable.
        p.unimplemented_if("filter_metadata", proto.filter_metadata.is_some());
        let config = Self {
            delay: proto.delay.as_ref().and_then(|delay| p.at("delay", |p| decode_delay(delay, p))),
            abort: proto.abort.as_ref().and_then(|abort| p.at("abort", |p| decode_abort(abort, p))),
            response_rate_limit: proto
                .response_rate_limit
                .as_ref()
                .and_then(|limit| p.at("response_rate_limit", |p| decode_rate(limit, p))),
            abort_body: proto.abort.as_ref().map(|abort| abort.response_body.clone()).unwrap_or_default(),
            upstream_cluster: proto.upstream_cluster.clone(),
            headers: p.each("headers", &proto.headers, |p, header| HeaderMatcher::decode(header, p)),
            downstream_nodes: proto.downstream_nodes.clone(),
            max_active_faults: proto.max_active_faults,
            keys: RuntimeKeys::decode(proto),
        };
        (p.count() == before).then_some(config)
    }
}

impl Default for RuntimeKeys {
    fn default() -> Self {
        Self::decode(&fault::HttpFault::default())
    }
}

impl RuntimeKeys {
    fn decode(proto: &fault::HttpFault) -> Self {
        let key = |given: &str, usual: &str| {
            if given.is_empty() { format!("fault.http.{usual}") } else { given.to_owned() }
        };
        Self {
            delay_percent: key(&proto.delay_percent_runtime, "delay.fixed_delay_percent"),
            delay_duration: key(&proto.delay_duration_runtime, "delay.fixed_duration_ms"),
            abort_percent: key(&proto.abort_percent_runtime, "abort.abort_percent"),
            abort_http_status: key(&proto.abort_http_status_runtime, "abort.http_status"),
            abort_grpc_status: key(&proto.abort_grpc_status_runtime, "abort.grpc_status"),
            max_active_faults: key(&proto.max_active_faults_runtime, "max_active_faults"),
            response_rate_limit_percent: key(&proto.response_rate_limit_percent_runtime, "rate_limit.response_percent"),
        }
    }
}

fn percentage(proto: Option<&FractionalPercent>, p: &mut Problems) -> Option<Fraction> {
    proto.map_or(Some(Fraction::NONE), |proto| p.at("percentage", |p| core::fraction(proto, p)))
}

fn decode_delay(proto: &common::FaultDelay, p: &mut Problems) -> Option<Fault<Delay>> {
    use common::fault_delay::FaultDelaySecifier as Choice;
    let percentage = percentage(proto.percentage.as_ref(), p);
    let what = match &proto.fault_delay_secifier {
        Some(Choice::FixedDelay(delay)) => match core::duration_at(Some(delay), "fixed_delay", p)? {
            Duration::ZERO => p.refuse_at("fixed_delay", "must be greater than 0"),
            delay => Some(Delay::Fixed(delay)),
        },
        Some(Choice::HeaderDelay(_)) => Some(Delay::Header),
        None => p.refuse_at("fixed_delay", "fixed_delay or header_delay is required"),
    };
    Some(Fault { percentage: percentage?, what: what? })
}

fn decode_abort(proto: &fault::FaultAbort, p: &mut Problems) -> Option<Fault<Abort>> {
    use fault::fault_abort::ErrorType;
    let percentage = percentage(proto.percentage.as_ref(), p);
    let what = match proto.error_type {
        Some(ErrorType::HttpStatus(status @ 200..600)) => Some(Abort::Http(status as u16)),
        Some(ErrorType::HttpStatus(status)) => p.refuse_at("http_status", format!("{status} is not in 200 to 599")),
        Some(ErrorType::GrpcStatus(status @ 0..=16)) => Some(Abort::Grpc(status as u8)),
        Some(ErrorType::GrpcStatus(status)) => p.refuse_at("grpc_status", format!("{status} is not in 0 to 16")),
        Some(ErrorType::HeaderAbort(_)) => Some(Abort::Header),
        None => p.refuse_at("http_status", "http_status, grpc_status or header_abort is required"),
    };
    Some(Fault { percentage: percentage?, what: what? })
}

fn decode_rate(proto: &common::FaultRateLimit, p: &mut Problems) -> Option<Fault<Rate>> {
    use common::fault_rate_limit::LimitType;
    let percentage = percentage(proto.percentage.as_ref(), p);
    let what = match &proto.limit_type {
        Some(LimitType::FixedLimit(limit)) if limit.limit_kbps == 0 => {
            p.refuse_at("fixed_limit.limit_kbps", "must be at least 1")
        }
        Some(LimitType::FixedLimit(limit)) => Some(Rate::Fixed(limit.limit_kbps)),
        Some(LimitType::HeaderLimit(_)) => Some(Rate::Header),
        None => p.refuse_at("fixed_limit", "fixed_limit or header_limit is required"),
    };
    Some(Fault { percentage: percentage?, what: what? })
}
