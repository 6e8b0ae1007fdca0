//! The head of a request as the upstream gets it: once for all tries, then what each try changes.

use std::borrow::Cow;
use std::time::Duration;

use dp_http::{ResponseHead, Scheme, name};
use dp_upstream::Endpoint;
use shared_config::hcm::Scheme as SchemeOption;
use shared_config::route::HostRewrite;
use tokio::time::Instant;

use crate::retry::Tries;
use crate::route::Chosen;
use crate::stream::Stream;

/// Applies what the route changes: headers, host, path.
pub(crate) fn prepare(stream: &mut Stream<'_>, chosen: &Chosen) {
    let plan = chosen.plan();
    let headers = chosen.target().map_or(&chosen.route().headers, |target| &target.headers);
    headers.request.apply_to_request(&mut stream.request, &stream.info);
    let host = match chosen.target().and_then(|target| target.host_rewrite.as_ref()) {
        Some(host) => Some(host.clone()),
        None => plan.host.as_ref().and_then(|host| host.rewrite(&stream.request)).map(Cow::into_owned),
    };
    if let Some(host) = host {
        set_host(stream, chosen, &host);
    }
    if let Some(rewrite) = &plan.path {
        let original = stream.request.path().to_owned();
        let path = rewrite.rewrite(&original);
        set_path(stream, original, &path);
    }
}

/// Replaces the path and tells the upstream what it was.
pub(crate) fn set_path(stream: &mut Stream<'_>, original: String, path: &str) {
    if envoy_headers(stream) && !stream.request.headers.contains(&name::X_ENVOY_ORIGINAL_PATH) {
        stream.request.headers.set(&name::X_ENVOY_ORIGINAL_PATH, original.as_bytes());
    }
    stream.info.original_path = Some(original);
    stream.request.set_path(path);
}

fn set_host(stream: &mut Stream<'_>, chosen: &Chosen, host: &str) {
    let old = stream.request.authority().to_owned();
    let headers = &mut stream.request.headers;
    if chosen.plan().config.append_x_forwarded_host && !old.is_empty() {
        let last = headers.text(&name::X_FORWARDED_HOST).and_then(|list| list.rsplit(',').next());
        if last.is_none_or(|last| last.trim() != old) {
            super::append_list(headers, &name::X_FORWARDED_HOST, b",", old.as_bytes());
        }
    }
    if envoy_headers(stream) && !stream.request.headers.contains(&name::X_ENVOY_ORIGINAL_HOST) {
        stream.request.headers.set(&name::X_ENVOY_ORIGINAL_HOST, old.as_bytes());
    }
    stream.request.set_authority(host);
}

/// Applies what depends on this try: its endpoint, its number, its protocol.
pub(crate) fn attempt(stream: &mut Stream<'_>, chosen: &Chosen, endpoint: &Endpoint, tries: &Tries<'_>) {
    let (plan, number) = (chosen.plan(), tries.made);
    if plan.config.host_rewrite == HostRewrite::Auto && !endpoint.state.hostname.is_empty() {
        let host = endpoint.state.hostname.to_string();
        if stream.request.authority() != host {
            set_host(stream, chosen, &host);
        }
    }
    if chosen.route().is_timeout_retry_header && number > 1 {
        let after_timeout: &[u8] = if stream.timed_out { b"true" } else { b"false" };
        stream.request.headers.set(&name::X_ENVOY_IS_TIMEOUT_RETRY, after_timeout);
    }
    if chosen.route().attempt_count_in_request {
        stream.request.headers.set_number(&name::X_ENVOY_ATTEMPT_COUNT, u64::from(number));
    }
    let respected = stream.rules.chain().router().is_some_and(|router| router.respect_expected_rq_timeout)
        && stream.request.headers.contains(&name::X_ENVOY_EXPECTED_RQ_TIMEOUT_MS);
    if envoy_headers(stream) && !respected {
        let clocks = &stream.clocks;
        // What is left of it, though 0 would be no limit.
        let left = |until: Instant| until.saturating_duration_since(clocks.now).max(Duration::from_millis(1));
        let whole = clocks.route.filter(|_| number > 1).map(left).or(clocks.route_timeout);
        // A try that is hedged may take as long as the request.
        let of_try = clocks.per_try_limit.filter(|_| !tries.hedged);
        if let Some(timeout) = [of_try, whole].into_iter().flatten().min() {
            stream.request.headers.set_number(&name::X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, timeout.as_millis() as u64);
        }
    }
    match stream.rules.hcm.config.scheme {
        SchemeOption::Keep => {}
        SchemeOption::Http => stream.request.scheme = Scheme::Http,
        SchemeOption::Https => stream.request.scheme = Scheme::Https,
        SchemeOption::MatchUpstream => {
            stream.request.scheme = if chosen.cluster.tls.is_some() { Scheme::Https } else { Scheme::Http }
        }
    }
}

/// Completes the head of an upstream's response: what the route adds, before the filters see it.
pub(crate) fn from_upstream(stream: &mut Stream<'_>, chosen: &Chosen, head: &mut ResponseHead) {
    stream.info.status = head.status;
    stream.info.details = "via_upstream".into();
    if envoy_headers(stream) {
        let timing = &stream.info.timing;
        let sent = timing.request_complete.max(timing.upstream_first_sent).unwrap_or_default();
        let took = timing.upstream_first_received.unwrap_or_default().saturating_sub(sent);
        head.headers.set_number(&name::X_ENVOY_UPSTREAM_SERVICE_TIME, took.as_millis() as u64);
    }
    if chosen.route().attempt_count_in_response {
        head.headers.set_number(&name::X_ENVOY_ATTEMPT_COUNT, u64::from(stream.info.upstream.attempts));
    }
    for cookie in stream.set_cookies.drain(..) {
        head.headers.append(&name::SET_COOKIE, cookie.as_bytes());
    }
    let headers = chosen.target().map_or(&chosen.route().headers, |target| &target.headers);
    headers.response.apply_to_response(head, Some(&stream.request), &stream.info);
}

/// Whether `x-envoy-*` headers are written (the router's `suppress_envoy_headers`).
pub(super) fn envoy_headers(stream: &Stream<'_>) -> bool {
    stream.rules.chain().router().is_none_or(|router| !router.suppress_envoy_headers)
}
