//! When and how often a request is sent again (`RetryPolicy`).

use std::time::Duration;

use proto::envoy::config::route::v3 as route;
use proto::envoy::extensions::retry::host::omit_canary_hosts::v3 as omit_canary_hosts;
use proto::envoy::extensions::retry::host::omit_host_metadata::v3 as omit_host_metadata;
use proto::envoy::extensions::retry::host::previous_hosts::v3 as previous_hosts;
use proto::envoy::extensions::retry::priority::previous_priorities::v3 as previous_priorities;

use crate::core::{Metadata, duration_at, extension, metadata, timeout_at, unpack};
use crate::invalid::Problems;
use crate::matcher::HeaderMatcher;
use crate::refuse_set;

#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    pub retry_on: RetryOn,
    /// Tries after the first.
    pub retries: u32,
    /// `None`: only the timeout of the route counts.
    pub per_try_timeout: Option<Duration>,
    pub per_try_idle_timeout: Option<Duration>,
    /// With [`RetryOn::RETRIABLE_STATUS_CODES`].
    pub status_codes: Vec<u16>,
    /// Responses with any of these are retried, with [`RetryOn::RETRIABLE_HEADERS`].
    pub response_headers: Vec<HeaderMatcher>,
    /// Unless empty, only requests with any of these are retried.
    pub request_headers: Vec<HeaderMatcher>,
    pub back_off: BackOff,
    pub rate_limited: Option<RateLimitedBackOff>,
    /// Endpoints that another try should not take.
    pub avoid: Vec<Avoid>,
    /// How often to pick again when an endpoint is to be avoided.
    pub host_picks: u32,
    /// After every so many tries the priorities that were tried are left out; `None` never does.
    pub new_priority_after: Option<u32>,
}

/// An endpoint to avoid (`retry_host_predicate`).
#[derive(Debug, Clone, PartialEq)]
pub enum Avoid {
    /// One that was tried before.
    Previous,
    /// One whose metadata says `canary` in `envoy.lb`.
    Canary,
    /// One whose metadata has all of this in `envoy.lb`.
    Metadata(serde_json::Map<String, serde_json::Value>),
}

/// Full-jitter exponential back-off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackOff {
    pub base: Duration,
    pub max: Duration,
}

/// Back-off that a response asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimitedBackOff {
    /// The first of these that a response has counts.
    pub headers: Vec<ResetHeader>,
    /// A longer wait is ignored.
    pub max: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResetHeader {
    /// Lower case.
    pub name: String,
    pub format: ResetFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetFormat {
    Seconds,
    UnixTimestamp,
}

/// A set of reasons to retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetryOn(u32);

macro_rules! reasons {
    ($($constant:ident $name:literal,)+) => {
        impl RetryOn {
            reasons!(@constants 1, $($constant,)+);
        }
        const REASONS: &[(RetryOn, &str)] = &[$((RetryOn::$constant, $name)),+];
    };
    (@constants $bit:expr, $constant:ident, $($rest:ident,)*) => {
        pub const $constant: Self = Self($bit);
        reasons!(@constants $bit << 1, $($rest,)*);
    };
    (@constants $bit:expr,) => {};
}

reasons! {
    SERVER_ERROR "5xx",
    GATEWAY_ERROR "gateway-error",
    RESET "reset",
    RESET_BEFORE_REQUEST "reset-before-request",
    CONNECT_FAILURE "connect-failure",
    ENVOY_RATELIMITED "envoy-ratelimited",
    RETRIABLE_4XX "retriable-4xx",
    REFUSED_STREAM "refused-stream",
    RETRIABLE_STATUS_CODES "retriable-status-codes",
    RETRIABLE_HEADERS "retriable-headers",
    HTTP3_POST_CONNECT_FAILURE "http3-post-connect-failure",
    GRPC_CANCELLED "cancelled",
    GRPC_DEADLINE_EXCEEDED "deadline-exceeded",
    GRPC_RESOURCE_EXHAUSTED "resource-exhausted",
    GRPC_UNAVAILABLE "unavailable",
    GRPC_INTERNAL "internal",
}

// === impl RetryOn ===

impl RetryOn {
    pub fn has(self, reason: Self) -> bool {
        self.0 & reason.0 != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The reasons of a comma-separated list, and the first name in it that is unknown. This is also the form of
    /// `x-envoy-retry-on` and `x-envoy-retry-grpc-on`, where unknown names are skipped.
    pub fn parse(list: &str) -> (Self, Option<&str>) {
        let mut reasons = Self::default();
        let mut unknown = None;
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match REASONS.iter().find(|(_, known)| *known == name) {
                Some((reason, _)) => reasons = reasons.with(*reason),
                None => unknown = unknown.or(Some(name)),
            }
        }
        (reasons, unknown)
    }
}

// === impl RetryPolicy ===

impl RetryPolicy {
    pub(super) fn decode(proto: &route::RetryPolicy, p: &mut Problems) -> Option<Self> {
        refuse_set!(p, proto; retry_options_predicates, refresh_cluster_on_retry);
        let (retry_on, unknown) = RetryOn::parse(&proto.retry_on);
        if let Some(name) = unknown {
            let names = REASONS.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
            p.refuse_at::<()>("retry_on", format!("{name:?} is not one of {names}"));
        }
        let status_codes =
            p.each("retriable_status_codes", &proto.retriable_status_codes, |p, code| match u16::try_from(*code) {
                Ok(code @ 100..=599) => Some(code),
                _ => {
                    p.refuse(format!("{code} is not a status code"));
                    None
                }
            });
        let avoid = p.each("retry_host_predicate", &proto.retry_host_predicate, Avoid::decode);
        let new_priority_after =
            proto.retry_priority.as_ref().and_then(|priority| p.at("retry_priority", |p| decode_priority(priority, p)));
        let host_picks = match proto.host_selection_retry_max_attempts {
            0 => 1,
            n => u32::try_from(n)
                .ok()
                .or_else(|| p.refuse_at("host_selection_retry_max_attempts", "is negative"))
                .unwrap_or(1),
        };
        Some(Self {
            retry_on,
            retries: proto.num_retries.unwrap_or(1),
            // Zero means no timeout, in both.
            per_try_timeout: timeout_at(proto.per_try_timeout.as_ref(), "per_try_timeout", None, p),
            per_try_idle_timeout: timeout_at(proto.per_try_idle_timeout.as_ref(), "per_try_idle_timeout", None, p),
            status_codes,
            response_headers: p.each("retriable_headers", &proto.retriable_headers, |p, m| HeaderMatcher::decode(m, p)),
            request_headers: p.each("retriable_request_headers", &proto.retriable_request_headers, |p, m| {
                HeaderMatcher::decode(m, p)
            }),
            back_off: match &proto.retry_back_off {
                Some(back_off) => p.at("retry_back_off", |p| BackOff::decode(back_off, p))?,
                None => BackOff::default(),
            },
            rate_limited: match &proto.rate_limited_retry_back_off {
                Some(limited) => Some(p.at("rate_limited_retry_back_off", |p| RateLimitedBackOff::decode(limited, p))?),
                None => None,
            },
            avoid,
            host_picks,
            new_priority_after,
        })
    }
}

/// The namespace of metadata that balancing looks at.
const BALANCING: &str = "envoy.lb";

impl Avoid {
    fn decode(p: &mut Problems, proto: &route::retry_policy::RetryHostPredicate) -> Option<Self> {
        use route::retry_policy::retry_host_predicate::ConfigType;
        let any = match &proto.config_type {
            Some(ConfigType::TypedConfig(any)) => extension(any, p)?,
            None if proto.name == "envoy.retry_host_predicates.previous_hosts" => return Some(Self::Previous),
            None if proto.name == "envoy.retry_host_predicates.omit_canary_hosts" => return Some(Self::Canary),
            None => return p.refuse_at("typed_config", "is required"),
        };
        if any.is::<previous_hosts::PreviousHostsPredicate>() {
            return Some(Self::Previous);
        }
        if any.is::<omit_canary_hosts::OmitCanaryHostsPredicate>() {
            return Some(Self::Canary);
        }
        if any.is::<omit_host_metadata::OmitHostMetadataConfig>() {
            let config: omit_host_metadata::OmitHostMetadataConfig = unpack(&any, p)?;
            let mut wanted = metadata(config.metadata_match.as_ref());
            return match wanted.remove(BALANCING) {
                Some(serde_json::Value::Object(fields)) if wanted.is_empty() && !fields.is_empty() => {
                    Some(Self::Metadata(fields))
                }
                _ => p.refuse_at("typed_config.metadata_match", format!("needs filter_metadata of {BALANCING} only")),
            };
        }
        p.refuse(format!("{} is not implemented by weir-proxy", any.type_name()));
        None
    }

    /// Whether it is an endpoint with this metadata that is to be avoided, or one that was `tried`.
    pub fn matches(&self, metadata: &Metadata, tried: bool) -> bool {
        let balancing = metadata.get(BALANCING);
        match self {
            Self::Previous => tried,
            Self::Canary => is_canary(metadata),
            Self::Metadata(wanted) => {
                balancing.is_some_and(|has| wanted.iter().all(|(key, value)| has.get(key) == Some(value)))
            }
        }
    }
}

/// Whether an endpoint with this metadata is a canary (`canary: true` in `envoy.lb`).
pub fn is_canary(metadata: &Metadata) -> bool {
    metadata.get(BALANCING).and_then(|fields| fields.get("canary")) == Some(&serde_json::Value::Bool(true))
}

fn decode_priority(proto: &route::retry_policy::RetryPriority, p: &mut Problems) -> Option<u32> {
    use route::retry_policy::retry_priority::ConfigType;
    let Some(ConfigType::TypedConfig(any)) = &proto.config_type else {
        return p.refuse_at("typed_config", "is required");
    };
    p.at("typed_config", |p| {
        let any = extension(any, p)?;
        if !any.is::<previous_priorities::PreviousPrioritiesConfig>() {
            p.refuse(format!("{} is not implemented by weir-proxy", any.type_name()));
            return None;
        }
        let config: previous_priorities::PreviousPrioritiesConfig = unpack(&any, p)?;
        match u32::try_from(config.update_frequency) {
            Ok(0) | Err(_) => p.refuse_at("update_frequency", "must be more than zero"),
            Ok(frequency) => Some(frequency),
        }
    })
}

/// The duration in the field `name`, which must be more than zero.
fn positive(proto: Option<&prost_types::Duration>, name: &str, p: &mut Problems) -> Option<Duration> {
    match duration_at(proto, name, p) {
        Some(Duration::ZERO) => p.refuse_at(name, "must be more than zero"),
        other => other,
    }
}

// === impl BackOff ===

impl Default for BackOff {
    fn default() -> Self {
        Self { base: Duration::from_millis(25), max: Duration::from_millis(250) }
    }
}

impl BackOff {
    fn decode(proto: &route::retry_policy::RetryBackOff, p: &mut Problems) -> Option<Self> {
        if proto.base_interval.is_none() {
            return p.refuse_at("base_interval", "is required");
        }
        let base = positive(proto.base_interval.as_ref(), "base_interval", p)?.max(Duration::from_millis(1));
        let max = match proto.max_interval {
            Some(_) => positive(proto.max_interval.as_ref(), "max_interval", p)?.max(Duration::from_millis(1)),
            None => base.saturating_mul(10),
        };
        if max < base {
            return p.refuse_at("max_interval", "must not be less than base_interval");
        }
        Some(Self { base, max })
    }
}

impl RateLimitedBackOff {
    fn decode(proto: &route::retry_policy::RateLimitedRetryBackOff, p: &mut Problems) -> Option<Self> {
        use route::retry_policy::ResetHeaderFormat as Format;
        if proto.reset_headers.is_empty() {
            p.refuse_at::<()>("reset_headers", "needs at least one header");
        }
        let headers = p.each("reset_headers", &proto.reset_headers, |p, header| {
            if !crate::header::is_header_name(&header.name) {
                return p.refuse_at("name", format!("{:?} is not a header name", header.name));
            }
            let format = match Format::try_from(header.format) {
                Ok(Format::Seconds) => ResetFormat::Seconds,
                Ok(Format::UnixTimestamp) => ResetFormat::UnixTimestamp,
                Err(_) => return p.refuse_at("format", "is not SECONDS or UNIX_TIMESTAMP"),
            };
            Some(ResetHeader { name: header.name.to_ascii_lowercase(), format })
        });
        let max = match proto.max_interval {
            Some(_) => positive(proto.max_interval.as_ref(), "max_interval", p)?,
            None => Duration::from_secs(300),
        };
        Some(Self { headers, max })
    }
}
