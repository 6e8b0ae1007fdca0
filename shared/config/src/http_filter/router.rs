//! `envoy.extensions.filters.http.router.v3.Router`: the end of every chain.

use proto::envoy::extensions::filters::http::router::v3::Router;

use super::{Decode, NoOverride};
use crate::invalid::Problems;
use crate::refuse_set;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Count responses per cluster by status (`upstream_rq_2xx` and so on).
    pub dynamic_stats: bool,
    /// Add no `x-envoy-*` fields to requests and responses.
    pub suppress_envoy_headers: bool,
    /// Requests with invalid values in these are answered with 400.
    pub strict_check_headers: Vec<StrictHeader>,
    /// Keep the `x-envoy-expected-rq-timeout-ms` of the client instead of setting it.
    pub respect_expected_rq_timeout: bool,
}

pub type Override = NoOverride;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StrictHeader {
    RequestTimeout,
    PerTryTimeout,
    MaxRetries,
    RetryOn,
    RetryGrpcOn,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dynamic_stats: true,
            suppress_envoy_headers: false,
            strict_check_headers: Vec::new(),
            respect_expected_rq_timeout: false,
        }
    }
}

// === impl StrictHeader ===

impl StrictHeader {
    const ALL: [Self; 5] =
        [Self::RequestTimeout, Self::PerTryTimeout, Self::MaxRetries, Self::RetryOn, Self::RetryGrpcOn];

    pub fn name(self) -> &'static str {
        match self {
            Self::RequestTimeout => "x-envoy-upstream-rq-timeout-ms",
            Self::PerTryTimeout => "x-envoy-upstream-rq-per-try-timeout-ms",
            Self::MaxRetries => "x-envoy-max-retries",
            Self::RetryOn => "x-envoy-retry-on",
            Self::RetryGrpcOn => "x-envoy-retry-grpc-on",
        }
    }
}

// === decode ===

impl Decode for Config {
    type Proto = Router;

    #[allow(deprecated)]
    fn decode(proto: &Router, p: &mut Problems) -> Option<Self> {
        refuse_set!(p, proto;
            start_child_span, upstream_log, upstream_log_options, suppress_grpc_request_failure_code_stats,
            upstream_http_filters,
        );
        p.unimplemented_if("reject_connect_request_early_data", proto.reject_connect_request_early_data == Some(true));
        let strict_check_headers = p.each("strict_check_headers", &proto.strict_check_headers, |p, text| {
            let known = StrictHeader::ALL.into_iter().find(|header| header.name().eq_ignore_ascii_case(text));
            if known.is_none() {
                p.refuse(format!("{text:?} is not a header that can be checked"));
            }
            known
        });
        Some(Self {
            dynamic_stats: proto.dynamic_stats.unwrap_or(true),
            suppress_envoy_headers: proto.suppress_envoy_headers,
            strict_check_headers,
            respect_expected_rq_timeout: proto.respect_expected_rq_timeout,
        })
    }
}
