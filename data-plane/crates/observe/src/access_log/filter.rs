//! Whether a request gets a line in an access log.
//!
//! Pure. No runtime layer overrides the numbers: their configured defaults hold.

use dp_http::RequestHead;
use dp_http::flags::Flags;
use dp_http::info::StreamInfo;
use serde_json::Value;
use shared_config::access_log::{AccessLogFilter, Comparison};
use shared_config::matcher::{HeaderMatcher, MetadataMatcher};

/// A compiled condition.
#[derive(Debug, Clone)]
pub struct Filter(Test);

#[derive(Debug, Clone)]
enum Test {
    Status(Comparison),
    Duration(Comparison),
    NotHealthCheck,
    Share {
        fraction: shared_config::core::Fraction,
        independent: bool,
    },
    All(Vec<Test>),
    Any(Vec<Test>),
    Header(Box<HeaderMatcher>),
    /// Any flag when `None`.
    Flags(Option<Vec<Flags>>),
    GrpcStatus {
        codes: Vec<u32>,
        exclude: bool,
    },
    Metadata {
        matcher: Option<Box<MetadataMatcher>>,
        if_missing: bool,
    },
}

/// What a condition looks at.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub info: &'a StreamInfo,
    pub request: Option<&'a RequestHead>,
    /// Drawn once a request.
    pub random: u64,
}

// === impl Filter ===

impl Filter {
    pub fn compile(config: &AccessLogFilter) -> Self {
        Self(Test::compile(config))
    }

    pub fn admits(&self, subject: Subject<'_>) -> bool {
        self.0.holds(subject)
    }
}

impl Test {
    fn compile(config: &AccessLogFilter) -> Self {
        match config {
            AccessLogFilter::StatusCode(comparison) => Self::Status(comparison.clone()),
            AccessLogFilter::Duration(comparison) => Self::Duration(comparison.clone()),
            AccessLogFilter::NotHealthCheck => Self::NotHealthCheck,
            AccessLogFilter::Runtime { fraction, independent } => {
                Self::Share { fraction: fraction.value(), independent: *independent }
            }
            AccessLogFilter::And(tests) => Self::All(tests.iter().map(Self::compile).collect()),
            AccessLogFilter::Or(tests) => Self::Any(tests.iter().map(Self::compile).collect()),
            AccessLogFilter::Header(matcher) => Self::Header(matcher.clone()),
            AccessLogFilter::ResponseFlag(names) if names.is_empty() => Self::Flags(None),
            AccessLogFilter::ResponseFlag(names) => {
                Self::Flags(Some(names.iter().filter_map(|name| Flags::by_short_name(name)).collect()))
            }
            AccessLogFilter::GrpcStatus { codes, exclude } => {
                Self::GrpcStatus { codes: codes.clone(), exclude: *exclude }
            }
            AccessLogFilter::Metadata { matcher, if_missing } => {
                Self::Metadata { matcher: matcher.clone(), if_missing: *if_missing }
            }
        }
    }

    fn holds(&self, subject: Subject<'_>) -> bool {
        let info = subject.info;
        match self {
            Self::Status(comparison) => holds(comparison, u64::from(info.status)),
            Self::Duration(comparison) => {
                let duration = info.duration.unwrap_or_else(|| info.began.elapsed());
                holds(comparison, u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
            }
            Self::NotHealthCheck => !info.health_check,
            Self::Share { fraction, independent } => {
                let by_id = if *independent { None } else { request_id_number(&info.request_id) };
                fraction.admits(by_id.unwrap_or(subject.random))
            }
            Self::All(tests) => tests.iter().all(|test| test.holds(subject)),
            Self::Any(tests) => tests.iter().any(|test| test.holds(subject)),
            Self::Header(matcher) => subject.request.is_some_and(|request| header_matches(matcher, request)),
            Self::Flags(None) => !info.flags.is_empty(),
            Self::Flags(Some(any)) => any.iter().any(|flag| info.flags.has(*flag)),
            Self::GrpcStatus { codes, exclude } => {
                let status = info.grpc_status.map_or_else(|| grpc_from_http(info.status), u32::from);
                codes.contains(&status) != *exclude
            }
            Self::Metadata { matcher: None, if_missing } => *if_missing,
            Self::Metadata { matcher: Some(matcher), if_missing } => metadata_matches(matcher, info, *if_missing),
        }
    }
}

fn holds(comparison: &Comparison, actual: u64) -> bool {
    comparison.holds(actual, comparison.value.value())
}

/// A number from the first digits of a request id, so that all logs and all proxies choose the same requests.
fn request_id_number(id: &str) -> Option<u64> {
    u64::from_str_radix(id.get(..8)?, 16).ok()
}

fn header_matches(matcher: &HeaderMatcher, request: &RequestHead) -> bool {
    match matcher.name.as_str() {
        ":path" => matcher.matches(Some(request.path().as_bytes())),
        ":method" => matcher.matches(Some(request.method.as_str().as_bytes())),
        ":authority" | "host" => matcher.matches(Some(request.authority().as_bytes())),
        ":scheme" => matcher.matches(Some(request.scheme.as_str().as_bytes())),
        name => matcher.matches(request.headers.all(name)),
    }
}

/// Dynamic metadata holds texts, or JSON texts, by dotted path.
fn metadata_matches(matcher: &MetadataMatcher, info: &StreamInfo, if_missing: bool) -> bool {
    let namespace = info.metadata.as_ref().and_then(|all| all.get(&matcher.filter));
    let Some(text) = namespace.and_then(|values| values.get(&matcher.path.join("."))) else { return if_missing };
    let value = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone()));
    matcher.value.matches(Some(&value)) != matcher.invert
}

/// The gRPC status that stands for an HTTP status (gRPC's http-grpc-status-mapping).
fn grpc_from_http(status: u16) -> u32 {
    match status {
        200 => 0,
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

#[cfg(test)]
pub(super) mod testing;

#[cfg(test)]
mod tests;
