//! Series of results, and what they make of an endpoint.

use shared_config::health_check::{Checker, TcpCheck};

use super::*;

const PASSED: Outcome = Outcome::Passed { degraded: false };
const DEGRADED: Outcome = Outcome::Passed { degraded: true };
const REFUSED: Outcome = failed(FailureKind::Network, false);
const TIMEOUT: Outcome = failed(FailureKind::NetworkTimeout, false);
const ERROR: Outcome = failed(FailureKind::Active, false);
const RETRIABLE: Outcome = failed(FailureKind::Active, true);
const PASSIVE: Outcome = failed(FailureKind::Passive, false);

const fn failed(kind: FailureKind, retriable: bool) -> Outcome {
    Outcome::Failed(Failure { kind, retriable, immediate: false })
}

/// Three failures make an endpoint unhealthy, two successes healthy.
pub(crate) fn config() -> HealthCheck {
    let seconds = Duration::from_secs;
    HealthCheck {
        timeout: seconds(1),
        interval: seconds(10),
        initial_jitter: Duration::ZERO,
        interval_jitter: Duration::ZERO,
        interval_jitter_percent: 0,
        unhealthy_threshold: 3,
        healthy_threshold: 2,
        reuse_connection: true,
        no_traffic_interval: seconds(60),
        no_traffic_healthy_interval: seconds(90),
        unhealthy_interval: seconds(20),
        unhealthy_edge_interval: seconds(3),
        healthy_edge_interval: seconds(2),
        always_log_failures: false,
        always_log_success: false,
        alt_port: None,
        alpn: Vec::new(),
        event_logs: Vec::new(),
        checker: Checker::Tcp(TcpCheck { send: Default::default(), receive: Vec::new(), proxy_protocol: None }),
    }
}

fn new() -> Flags {
    Flags { failed: true, pending: true, ..Flags::default() }
}

/// Runs a series on an endpoint with these flags; what each result left it as (`+` well, `-` not) and changed (`!`
/// changed, `?` is about to, nothing).
#[track_caller]
fn check(mut flags: Flags, outcomes: &[Outcome], wanted: &str) -> Flags {
    let mut status = Status::default();
    let mut seen = Vec::new();
    for outcome in outcomes {
        let verdict = status.note(flags, *outcome, &config());
        flags = verdict.flags;
        let state = if flags.failed { "-" } else { "+" };
        let change = match verdict.transition {
            Transition::Unchanged => "",
            Transition::Changed => "!",
            Transition::Pending => "?",
        };
        seen.push(format!("{state}{change}"));
    }
    assert_eq!(seen.join(" "), wanted);
    flags
}

#[test]
fn the_first_check_of_a_new_endpoint_decides() {
    check(new(), &[PASSED, PASSED], "+! +");
    check(new(), &[REFUSED, PASSED, PASSED], "-! -? +!");
    check(Flags { pending: true, ..Flags::default() }, &[REFUSED], "-!");
}

#[test]
fn failures_in_a_row_make_an_endpoint_unhealthy_and_one_success_starts_over() {
    check(Flags::default(), &[REFUSED, REFUSED, REFUSED, REFUSED], "+? +? -! -");
    check(Flags::default(), &[REFUSED, TIMEOUT, PASSED, REFUSED, REFUSED, TIMEOUT], "+? +? + +? +? -!");
}

#[test]
fn successes_in_a_row_make_it_healthy_and_one_failure_starts_over() {
    let failed = Flags { failed: true, ..Flags::default() };
    check(failed, &[PASSED, REFUSED, PASSED, PASSED, PASSED], "-? - -? +! +");
}

#[test]
fn an_endpoint_that_says_it_is_not_well_is_believed_at_once_unless_its_status_may_be_retried() {
    check(Flags::default(), &[ERROR], "-!");
    check(Flags::default(), &[PASSIVE], "-!");
    check(Flags::default(), &[RETRIABLE, RETRIABLE, RETRIABLE], "+? +? -!");
}

#[test]
fn a_timeout_is_told_apart_while_the_endpoint_is_unhealthy() {
    let after = |outcomes: &[Outcome], wanted| check(Flags { failed: true, ..Flags::default() }, outcomes, wanted);
    assert!(after(&[TIMEOUT], "-").timeout);
    assert!(!after(&[TIMEOUT, REFUSED], "- -").timeout);
    assert!(!after(&[TIMEOUT, PASSED, PASSED], "- -? +!").timeout);
    assert!(!check(Flags::default(), &[TIMEOUT], "+?").timeout, "it still counts as well");
}

#[test]
fn a_degraded_endpoint_is_well_and_the_change_is_told() {
    assert!(check(Flags::default(), &[DEGRADED, DEGRADED], "+! +").degraded);
    assert!(!check(Flags::default(), &[DEGRADED, PASSED], "+! +!").degraded);
    check(Flags { failed: true, ..Flags::default() }, &[DEGRADED, DEGRADED], "-? +!");
}

#[test]
fn an_endpoint_that_was_excluded_is_let_in_when_it_is_healthy_again() {
    let mut flags = Flags::default();
    let mut status = Status::default();
    let failure = Failure { kind: FailureKind::Active, retriable: false, immediate: true };
    for (outcome, excluded) in [(Outcome::Failed(failure), true), (PASSED, true), (PASSED, false)] {
        flags = status.note(flags, outcome, &config()).flags;
        assert_eq!(flags.excluded, excluded, "{outcome:?}");
    }
}

#[test]
fn events_are_those_of_envoy() {
    let events = |before: Flags, outcome: Outcome, always: bool| {
        let config = HealthCheck { always_log_failures: always, always_log_success: always, ..config() };
        Status::default().note(before, outcome, &config).events
    };
    let failed = Flags { failed: true, ..Flags::default() };
    let kind = FailureKind::Network;
    assert_eq!(events(new(), PASSED, true), [Event::Added { first: true }]);
    assert_eq!(events(new(), REFUSED, false), [Event::Failed { kind, first: true }]);
    assert_eq!(events(failed, REFUSED, false), []);
    assert_eq!(events(failed, REFUSED, true), [Event::Failed { kind, first: false }]);
    assert_eq!(events(Flags::default(), PASSED, true), [Event::Passed]);
    assert_eq!(events(Flags::default(), ERROR, false), [Event::Ejected(FailureKind::Active)]);
    assert_eq!(events(Flags::default(), DEGRADED, false), [Event::Degraded]);
}

#[test]
fn the_wait_depends_on_the_result_on_what_is_about_to_change_and_on_traffic() {
    let verdict = |passed, transition| Verdict { flags: Flags::default(), transition, passed, events: Vec::new() };
    let rows = [
        (true, true, Transition::Unchanged, 10),
        (true, true, Transition::Changed, 10),
        (true, true, Transition::Pending, 2),
        (true, false, Transition::Pending, 3),
        (true, false, Transition::Changed, 20),
        (false, true, Transition::Unchanged, 90),
        (false, true, Transition::Pending, 60),
        (false, false, Transition::Unchanged, 60),
    ];
    for (traffic, passed, transition, seconds) in rows {
        let waited = wait(&config(), &verdict(passed, transition), traffic, || 0.5);
        assert_eq!(waited.as_secs(), seconds, "traffic: {traffic}, passed: {passed}, {transition:?}");
    }
    let jittery = HealthCheck { interval_jitter: Duration::from_secs(2), interval_jitter_percent: 50, ..config() };
    let waited = wait(&jittery, &verdict(true, Transition::Unchanged), true, || 0.5);
    assert_eq!(waited.as_millis(), 10_000 + 2_500 + 1_000);
}
