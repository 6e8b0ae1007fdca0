//! Whether a request is sent again: the retry policy of the route, asked about one failure or one response.
//!
//! Pure. Follows Envoy's router; adds one retry of its own, for a reused connection that the upstream had already
//! closed, because that is nobody's fault and would fail requests for no reason.

use std::borrow::Cow;
use std::time::Duration;

use dp_http::{HeaderName, Headers, NameSet, RequestHead, ResponseHead, name};
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

/// What the policy says of the outcome of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is the answer.
    Keep,
    /// Another try is wanted, and none is left.
    Spent,
    /// Another try may be made; it is counted already.
    Again,
}

/// Which outcomes ask for another try.
#[derive(Debug, Clone)]
pub(crate) struct Criteria<'p> {
    policy: Option<Cow<'p, RetryPolicy>>,
    on: RetryOn,
    /// What the request itself names (`x-envoy-retriable-status-codes` and `-header-names`), beside the policy.
    status_codes: Vec<u16>,
    header_names: Vec<String>,
}

/// What a route asks for when a try fails, and how much of it is left.
#[derive(Debug)]
pub(crate) struct Tries<'p> {
    pub(crate) criteria: Criteria<'p>,
    left: u32,
    /// Tries made.
    pub(crate) made: u32,
    /// The retry for a connection that was closed while idle is still there.
    stale: bool,
    pub(crate) per_try: Option<Duration>,
    pub(crate) per_try_idle: Option<Duration>,
    /// A try that is slow goes on beside the next one.
    pub(crate) hedged: bool,
}

/// What is for us only (Envoy removes it from what the upstream gets).
static CONSUMED: NameSet = NameSet::of(&[
    &name::X_ENVOY_RETRY_ON,
    &name::X_ENVOY_RETRY_GRPC_ON,
    &name::X_ENVOY_MAX_RETRIES,
    &name::X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT,
    &name::X_ENVOY_RETRIABLE_HEADER_NAMES,
    &name::X_ENVOY_RETRIABLE_STATUS_CODES,
    &name::X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS,
]);

impl<'p> Tries<'p> {
    /// What the policy and the request's `x-envoy-*` headers ask for, which are taken out of it. Those of strangers
    /// were removed before. `hedged`: by the route; `timeout`: of the whole response.
    pub(crate) fn new(
        policy: Option<&'p RetryPolicy>,
        hedged: bool,
        request: &mut RequestHead,
        timeout: Option<Duration>,
    ) -> Self {
        let mut tries = Self {
            criteria: Criteria {
                policy: policy.map(Cow::Borrowed),
                on: policy.map(|policy| policy.retry_on).unwrap_or_default(),
                status_codes: Vec::new(),
                header_names: Vec::new(),
            },
            left: policy.map_or(1, |policy| policy.retries),
            made: 0,
            stale: true,
            per_try: policy.and_then(|policy| policy.per_try_timeout),
            per_try_idle: policy.and_then(|policy| policy.per_try_idle_timeout),
            hedged,
        };
        if request.headers.contains_any(CONSUMED) {
            tries.read_headers(request);
        }
        let asked_for = policy.is_none_or(|policy| {
            let wanted = &policy.request_headers;
            wanted.is_empty() || wanted.iter().any(|m| m.matches(request.headers.all(m.name.as_str())))
        });
        if !asked_for {
            tries.criteria.on = RetryOn::default();
        }
        request.headers.remove_all(CONSUMED);
        let useful = |per_try: &Duration| !per_try.is_zero() && timeout.is_none_or(|timeout| *per_try < timeout);
        tries.per_try = tries.per_try.filter(useful);
        tries
    }

    fn read_headers(&mut self, request: &RequestHead) {
        let headers = &request.headers;
        for field in [&name::X_ENVOY_RETRY_ON, &name::X_ENVOY_RETRY_GRPC_ON] {
            if let Some(list) = headers.text(field) {
                self.criteria.on = self.criteria.on.with(RetryOn::parse(list).0);
            }
        }
        let number = |field: &HeaderName| headers.text(field).and_then(|text| text.parse::<u64>().ok());
        if let Some(retries) = number(&name::X_ENVOY_MAX_RETRIES) {
            self.left = u32::try_from(retries).unwrap_or(u32::MAX);
        }
        if let Some(ms) = number(&name::X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS) {
            self.per_try = Some(Duration::from_millis(ms));
        }
        let list = |field: &HeaderName| headers.text(field).into_iter().flat_map(|list| list.split(',').map(str::trim));
        let codes = list(&name::X_ENVOY_RETRIABLE_STATUS_CODES).filter_map(|code| code.parse::<u16>().ok());
        self.criteria.status_codes.extend(codes);
        let names = list(&name::X_ENVOY_RETRIABLE_HEADER_NAMES).filter(|name| !name.is_empty());
        self.criteria.header_names.extend(names.map(str::to_ascii_lowercase));
        match headers.get(&name::X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT) {
            Some(b"true") => self.hedged = true,
            Some(b"false") => self.hedged = false,
            _ => {}
        }
    }

    /// Whether the body has to be kept for another try.
    pub(crate) fn may_repeat(&self) -> bool {
        self.left > 0 && !self.criteria.on.is_empty()
    }

    /// Whether to try again after a try that brought no head. Counts it when so.
    pub(crate) fn after_loss(&mut self, lost: Lost) -> Verdict {
        let on = self.criteria.on;
        let any_reset = on.has(RetryOn::SERVER_ERROR) || on.has(RetryOn::GATEWAY_ERROR) || on.has(RetryOn::RESET);
        let wanted = match lost {
            Lost::Connect => any_reset || on.has(RetryOn::CONNECT_FAILURE) || on.has(RetryOn::RESET_BEFORE_REQUEST),
            Lost::Refused => any_reset || on.has(RetryOn::REFUSED_STREAM),
            Lost::Reset { started } => any_reset || (!started && on.has(RetryOn::RESET_BEFORE_REQUEST)),
            Lost::Timeout => any_reset,
        };
        self.spend_if(wanted)
    }

    /// Whether to make another try beside one that is slow: whatever the policy retries, it is wanted.
    pub(crate) fn after_slow(&mut self) -> Verdict {
        self.spend_if(!self.criteria.on.is_empty())
    }

    /// The one retry for a reused connection that turned out to be closed, when the request may be sent again.
    pub(crate) fn after_stale(&mut self, safe: bool) -> bool {
        safe && std::mem::take(&mut self.stale)
    }

    /// Whether to try again after this response. Counts it when so.
    pub(crate) fn after_response(&mut self, head: &ResponseHead) -> Verdict {
        let wanted = self.criteria.wanted(head);
        self.spend_if(wanted)
    }

    fn spend_if(&mut self, wanted: bool) -> Verdict {
        match (wanted, self.left.checked_sub(1)) {
            (false, _) => Verdict::Keep,
            (true, None) => Verdict::Spent,
            (true, Some(left)) => {
                self.left = left;
                Verdict::Again
            }
        }
    }
}

impl Criteria<'_> {
    /// The same, to outlive the policy it was made from.
    pub(crate) fn into_owned(self) -> Criteria<'static> {
        let Self { policy, on, status_codes, header_names } = self;
        Criteria { policy: policy.map(|policy| Cow::Owned(policy.into_owned())), on, status_codes, header_names }
    }

    /// Whether a response with this head asks for another try.
    pub(crate) fn wanted(&self, head: &ResponseHead) -> bool {
        let on = self.on;
        if on.is_empty() {
            return false;
        }
        if head.headers.contains(&name::X_ENVOY_RATELIMITED) {
            return on.has(RetryOn::ENVOY_RATELIMITED);
        }
        let status = head.status;
        (on.has(RetryOn::SERVER_ERROR) && (500..600).contains(&status))
            || (on.has(RetryOn::GATEWAY_ERROR) && (502..=504).contains(&status))
            || (on.has(RetryOn::RETRIABLE_4XX) && status == 409)
            || (on.has(RetryOn::RETRIABLE_STATUS_CODES) && self.status_wanted(status))
            || (on.has(RetryOn::RETRIABLE_HEADERS) && self.header_wanted(&head.headers))
            || grpc_wanted(on, &head.headers)
    }

    fn status_wanted(&self, status: u16) -> bool {
        self.status_codes.contains(&status) || self.policy.as_ref().is_some_and(|p| p.status_codes.contains(&status))
    }

    fn header_wanted(&self, headers: &Headers) -> bool {
        self.header_names.iter().any(|name| headers.contains(name.as_str()))
            || self
                .policy
                .as_ref()
                .is_some_and(|p| p.response_headers.iter().any(|m| m.matches(headers.all(m.name.as_str()))))
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
    // A little more, so that not all come at once.
    (delay <= limits.max).then(|| delay.mul_f64(1.0 + fastrand::f64() / 2.0))
}

#[cfg(test)]
mod tests;
