//! What is tried again, by policy and by the headers of internal clients.

use dp_http::Method;
use shared_config::matcher::{HeaderMatcher, HeaderTest};
use shared_config::route::{BackOff, RateLimitedBackOff, ResetHeader};

use super::*;

fn policy(on: &str) -> RetryPolicy {
    RetryPolicy {
        retry_on: RetryOn::parse(on).0,
        retries: 1,
        per_try_timeout: None,
        per_try_idle_timeout: None,
        status_codes: vec![418],
        response_headers: vec![],
        request_headers: vec![],
        back_off: BackOff::default(),
        rate_limited: None,
        avoid: vec![],
        host_picks: 1,
        new_priority_after: None,
    }
}

fn request(headers: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead::new(Method::Get, "a", "/");
    headers.iter().for_each(|(name, value)| head.headers.append(*name, value.as_bytes()));
    head
}

fn response(status: u16, headers: &[(&str, &str)]) -> ResponseHead {
    let mut head = ResponseHead::new(status);
    headers.iter().for_each(|(name, value)| head.headers.append(*name, value.as_bytes()));
    head
}

/// Whether a response is tried again.
#[track_caller]
fn check(on: &str, asked: &[(&str, &str)], status: u16, headers: &[(&str, &str)], again: bool) {
    let policy = policy(on);
    let mut tries = Tries::new(Some(&policy), false, &mut request(asked), None);
    let verdict = tries.after_response(&response(status, headers));
    assert_eq!(verdict == Verdict::Again, again, "{on} {asked:?} {status} {headers:?}");
}

#[test]
fn responses_are_tried_again_by_status_headers_and_grpc_status() {
    check("5xx", &[], 500, &[], true);
    check("5xx", &[], 499, &[], false);
    check("gateway-error", &[], 500, &[], false);
    check("gateway-error", &[], 503, &[], true);
    check("retriable-4xx", &[], 409, &[], true);
    check("retriable-4xx", &[], 404, &[], false);
    check("retriable-status-codes", &[], 418, &[], true);
    check("5xx", &[], 418, &[], false);
    check("unavailable", &[], 200, &[("grpc-status", "14")], true);
    check("unavailable", &[], 200, &[("grpc-status", "13")], false);
    check("5xx", &[], 503, &[("x-envoy-ratelimited", "true")], false);
    check("envoy-ratelimited", &[], 429, &[("x-envoy-ratelimited", "true")], true);
}

#[test]
fn headers_of_the_request_add_to_the_policy() {
    check("", &[], 500, &[], false);
    check("", &[("x-envoy-retry-on", "5xx")], 500, &[], true);
    check("", &[("x-envoy-retry-grpc-on", "internal")], 200, &[("grpc-status", "13")], true);
    check("5xx", &[("x-envoy-max-retries", "0")], 500, &[], false);
    check("retriable-status-codes", &[("x-envoy-retriable-status-codes", "404, 410")], 410, &[], true);
    check("5xx", &[("x-envoy-retriable-status-codes", "410")], 410, &[], false);
    let named = ("x-envoy-retriable-header-names", "x-again, X-More");
    check("retriable-headers", &[named], 200, &[("x-more", "")], true);
    check("retriable-headers", &[named], 200, &[("x-other", "")], false);
}

#[test]
fn a_request_that_the_policy_does_not_mean_is_never_tried_again() {
    let mut policy = policy("5xx");
    policy.request_headers = vec![HeaderMatcher {
        name: "x-safe".into(),
        test: HeaderTest::Present(true),
        invert: false,
        missing_is_empty: false,
    }];
    for (headers, again) in
        [(&[("x-safe", "1")][..], true), (&[][..], false), (&[("x-envoy-retry-on", "5xx")][..], false)]
    {
        let mut tries = Tries::new(Some(&policy), false, &mut request(headers), None);
        assert_eq!(tries.after_response(&response(500, &[])) == Verdict::Again, again, "{headers:?}");
    }
}

#[test]
fn what_was_lost_is_tried_again_by_its_kind() {
    let rows = [
        ("5xx", Lost::Reset { started: true }, true),
        ("reset", Lost::Timeout, true),
        ("connect-failure", Lost::Connect, true),
        ("connect-failure", Lost::Reset { started: false }, false),
        ("reset-before-request", Lost::Reset { started: false }, true),
        ("reset-before-request", Lost::Reset { started: true }, false),
        ("refused-stream", Lost::Refused, true),
        ("refused-stream", Lost::Timeout, false),
        ("retriable-4xx", Lost::Connect, false),
    ];
    for (on, lost, again) in rows {
        let policy = policy(on);
        let mut tries = Tries::new(Some(&policy), false, &mut request(&[]), None);
        assert_eq!(tries.after_loss(lost) == Verdict::Again, again, "{on} {lost:?}");
    }
}

#[test]
fn retries_are_counted_down() {
    let mut policy = policy("5xx");
    policy.retries = 2;
    let mut tries = Tries::new(Some(&policy), false, &mut request(&[]), None);
    let verdicts = [(); 3].map(|()| tries.after_response(&response(500, &[])));
    assert_eq!(verdicts, [Verdict::Again, Verdict::Again, Verdict::Spent]);
    assert_eq!(tries.after_response(&response(200, &[])), Verdict::Keep);
}

#[test]
fn headers_for_us_are_not_for_the_upstream() {
    let mut request = request(&[
        ("x-envoy-retry-on", "5xx"),
        ("x-envoy-max-retries", "3"),
        ("x-envoy-hedge-on-per-try-timeout", "true"),
        ("x-envoy-upstream-rq-per-try-timeout-ms", "20"),
        ("x-kept", "1"),
    ]);
    let second = Some(Duration::from_secs(1));
    let tries = Tries::new(None, false, &mut request, second);
    assert!(tries.hedged && tries.may_repeat());
    assert_eq!(tries.per_try, Some(Duration::from_millis(20)));
    assert_eq!(request.headers.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["x-kept"]);
}

#[test]
fn a_try_may_not_take_longer_than_everything() {
    let mut policy = policy("5xx");
    policy.per_try_timeout = Some(Duration::from_secs(2));
    for (timeout, per_try) in [(Some(1), None), (Some(2), None), (Some(3), Some(2)), (None, Some(2))] {
        let timeout = timeout.map(Duration::from_secs);
        let tries = Tries::new(Some(&policy), false, &mut request(&[]), timeout);
        assert_eq!(tries.per_try, per_try.map(Duration::from_secs), "{timeout:?}");
    }
}

#[test]
fn a_response_may_say_how_long_to_wait() {
    let mut policy = policy("5xx");
    let header = |name: &str, format| ResetHeader { name: name.into(), format };
    policy.rate_limited = Some(RateLimitedBackOff {
        headers: vec![header("retry-after", ResetFormat::Seconds), header("x-reset", ResetFormat::UnixTimestamp)],
        max: Duration::from_secs(10),
    });
    let delay = |headers: &[(&str, &str)]| asked_delay(&policy, &response(503, headers).headers, 1000);
    for (headers, seconds) in [(("retry-after", "4"), 4), (("x-reset", "1006"), 6)] {
        let found = delay(&[headers]).unwrap().as_secs_f64();
        assert!((f64::from(seconds)..=f64::from(seconds) * 1.5).contains(&found), "{found}");
    }
    for headers in [("retry-after", "11"), ("retry-after", "soon"), ("x-reset", "999")] {
        assert_eq!(delay(&[headers]), None, "{headers:?}");
    }
}
