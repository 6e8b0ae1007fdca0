//! Whether a request is sent again: the retry policy of the route, asked about one failure or one response.
//!
//! Pure. Follows Envoy's router; adds one retry of its own, for a reused connection that the upstream had already
//! closed, because that is nobody's fault and would fail requests for no reason.

use std::time::Duration;

use dp_http::{HeaderName, Headers, RequestHead, ResponseHead, name};
use shared_config::matcher::HeaderMatcher;
use shared_config::route::{ResetFormat, RetryOn, RetryPolicy};

/// The outcome of a try that brought no response head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// No connection could be made.
    Connect,
    /// The upstream refused the stream before it looked at it.
    Refused,
    /// The connection or the stream broke; `started`: something of the request was sent.
    Reset { started: bool },
    /// `per_try_timeout` passed.
    Timeout,
}

/// What a route asks for when a try fails, and how much of it is left.
#[derive(Debug)]
pub(crate) struct Tries {
    on: RetryOn,
    left: u32,
    /// Tries made.
    pub(crate) made: u32,
    status_codes: Vec<u16>,
    /// Another try was wanted, and none was left.
    pub(crate) exhausted: bool,
    /// The retry for a connection that was closed while idle is still there.
    stale: bool,
    pub(crate) per_try: Option<Duration>,
    pub(crate) per_try_idle: Option<Duration>,
}

impl Tries {
    /// What the policy and the request's `x-envoy-*` headers ask for. Those of strangers were removed before.
    pub(crate) fn new(policy: Option<&RetryPolicy>, request: &RequestHead) -> Self {
        let mut tries = Self {
            on: RetryOn::default(),
            left: 0,
            made: 0,
            status_codes: Vec::new(),
            exhausted: false,
            stale: true,
            per_try: None,
            per_try_idle: None,
        };
        if let Some(policy) = policy {
            tries.per_try = policy.per_try_timeout;
            tries.per_try_idle = policy.per_try_idle_timeout;
            if policy.request_headers.is_empty() || policy.request_headers.iter().any(|m| matches(m, &request.headers))
            {
                tries.on = policy.retry_on;
                tries.left = policy.retries;
                tries.status_codes.clone_from(&policy.status_codes);
            }
        }
        tries.read_headers(request);
        tries
    }

    fn read_headers(&mut self, request: &RequestHead) {
        for field in [&name::X_ENVOY_RETRY_ON, &name::X_ENVOY_RETRY_GRPC_ON] {
            if let Some(list) = request.headers.text(field) {
                self.on = self.on.with(RetryOn::parse(list).0);
                self.left = self.left.max(1);
            }
        }
        let number = |field: &HeaderName| request.headers.text(field).and_then(|text| text.parse::<u64>().ok());
        if let Some(retries) = number(&name::X_ENVOY_MAX_RETRIES) {
            self.left = retries.min(100) as u32;
        }
        if let Some(ms) = number(&name::X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS) {
            self.per_try = Some(Duration::from_millis(ms));
        }
        if let Some(list) = request.headers.text(&name::X_ENVOY_RETRIABLE_STATUS_CODES) {
            self.status_codes.extend(list.split(',').filter_map(|code| code.trim().parse::<u16>().ok()));
        }
    }

    /// Whether the body has to be kept for another try.
    pub(crate) fn may_repeat(&self) -> bool {
        self.left > 0 && !self.on.is_empty()
    }

    /// Whether to try again after a try that brought no head. Counts it when so.
    pub(crate) fn after_loss(&mut self, lost: Lost) -> bool {
        let on = self.on;
        let any_reset = on.has(RetryOn::SERVER_ERROR) || on.has(RetryOn::GATEWAY_ERROR) || on.has(RetryOn::RESET);
        let wanted = match lost {
            Lost::Connect => any_reset || on.has(RetryOn::CONNECT_FAILURE) || on.has(RetryOn::RESET_BEFORE_REQUEST),
            Lost::Refused => any_reset || on.has(RetryOn::REFUSED_STREAM),
            Lost::Reset { started } => any_reset || (!started && on.has(RetryOn::RESET_BEFORE_REQUEST)),
            Lost::Timeout => any_reset,
        };
        wanted && self.spend()
    }

    /// The one retry for a reused connection that turned out to be closed, when the request may be sent again.
    pub(crate) fn after_stale(&mut self, safe: bool) -> bool {
        safe && std::mem::take(&mut self.stale)
    }

    /// Whether to try again after this response. Counts it when so.
    pub(crate) fn after_response(&mut self, policy: Option<&RetryPolicy>, head: &ResponseHead) -> bool {
        let on = self.on;
        if on.is_empty() {
            return false;
        }
        if head.headers.contains(&name::X_ENVOY_RATELIMITED) {
            return on.has(RetryOn::ENVOY_RATELIMITED) && self.spend();
        }
        let status = head.status;
        let wanted = (on.has(RetryOn::SERVER_ERROR) && (500..600).contains(&status))
            || (on.has(RetryOn::GATEWAY_ERROR) && (502..=504).contains(&status))
            || (on.has(RetryOn::RETRIABLE_4XX) && status == 409)
            || (on.has(RetryOn::RETRIABLE_STATUS_CODES) && self.status_codes.contains(&status))
            || (on.has(RetryOn::RETRIABLE_HEADERS)
                && policy.is_some_and(|p| p.response_headers.iter().any(|m| matches(m, &head.headers))))
            || grpc_wanted(on, &head.headers);
        wanted && self.spend()
    }

    fn spend(&mut self) -> bool {
        let any = self.left > 0;
        self.exhausted |= !any;
        self.left = self.left.saturating_sub(1);
        any
    }
}

fn grpc_wanted(on: RetryOn, headers: &Headers) -> bool {
    let reason = match headers.get(&name::GRPC_STATUS) {
        Some(b"1") => RetryOn::GRPC_CANCELLED,
        Some(b"4") => RetryOn::GRPC_DEADLINE_EXCEEDED,
        Some(b"8") => RetryOn::GRPC_RESOURCE_EXHAUSTED,
        Some(b"13") => RetryOn::GRPC_INTERNAL,
        Some(b"14") => RetryOn::GRPC_UNAVAILABLE,
        _ => return false,
    };
    on.has(reason)
}

/// Several fields of one name count as one with commas (RFC 9110 §5.3).
fn matches(matcher: &HeaderMatcher, headers: &Headers) -> bool {
    let mut values = headers.all(matcher.name.as_str());
    match (values.next(), values.next()) {
        (first, None) => matcher.matches(first),
        (first, second) => {
            let all: Vec<&[u8]> = first.into_iter().chain(second).chain(values).collect();
            matcher.matches(Some(&all.join(&b","[..])))
        }
    }
}

/// How long the response asks to wait, if it does within bounds (`rate_limited_retry_back_off`).
pub(crate) fn asked_delay(config: &RetryPolicy, headers: &Headers, unix_now: u64) -> Option<Duration> {
    let limits = config.rate_limited.as_ref()?;
    let delay = limits.headers.iter().find_map(|reset| {
        let value: u64 = headers.text(reset.name.as_str())?.trim().parse().ok()?;
        let seconds = match reset.format {
            ResetFormat::Seconds => value,
            ResetFormat::UnixTimestamp => value.checked_sub(unix_now)?,
        };
        Some(Duration::from_secs(seconds))
    })?;
    (delay <= limits.max).then_some(delay)
}
