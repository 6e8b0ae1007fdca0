//! The checks of one endpoint, one after the other.

use std::cell::RefCell;
use std::rc::Rc;

use dp_http::Io;
use dp_http::info::Address;
use shared_config::health_check::Checker;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::dial::Subject;
use super::status::{Event, Failure, FailureKind, Flags, Outcome, Status, Transition, Verdict, wait};
use super::{Observer, exchange, grpc, http, tcp};
use crate::endpoint::{EndpointState, Flag};

/// Connections that are kept between checks, and what they are to.
#[derive(Default)]
struct Kept {
    raw: Option<Io>,
    http: Option<exchange::Kept>,
    of: Option<(u64, Address)>,
}

/// Checks the subject, whatever version of it is there at the time, for ever.
pub(super) async fn run(subject: Rc<RefCell<Subject>>, observer: Rc<dyn Observer>) {
    let mut status = Status::default();
    let mut kept = Kept::default();
    let jitter = subject.borrow().check.initial_jitter;
    if !jitter.is_zero() {
        sleep(jitter.mul_f64(fastrand::f64())).await;
    }
    loop {
        let asked = subject.borrow().clone();
        let outcome = check(&asked, &mut kept).await;
        // The configuration may have changed meanwhile; what is known is known of the version that serves now.
        let current = subject.borrow().clone();
        let verdict = apply(&current, &mut status, outcome, &*observer);
        let traffic = current.cluster.state.stats.upstream_cx_total().value() > 0;
        let next = Instant::now() + wait(&current.check, &verdict, traffic, fastrand::f64);
        drop((asked, verdict));
        loop {
            tokio::select! {
                () = sleep_until(next) => break,
                () = current.endpoint.state.failed_passively() => {
                    let failure = Failure { kind: FailureKind::Passive, retriable: false, immediate: true };
                    let current = subject.borrow().clone();
                    apply(&current, &mut status, Outcome::Failed(failure), &*observer);
                }
            }
        }
    }
}

/// One check within its time.
async fn check(subject: &Subject, kept: &mut Kept) -> Outcome {
    let of = Some((subject.endpoint.state.id, subject.endpoint.address.clone()));
    if kept.of != of {
        *kept = Kept { of, ..Kept::default() };
    }
    if let Some(stats) = subject.cluster.health_stats() {
        stats.attempt().inc(0);
    }
    let checking = async {
        match &subject.check.checker {
            Checker::Http(config) => http::check(subject, config, &mut kept.http).await,
            Checker::Tcp(config) => tcp::check(subject, config, &mut kept.raw).await,
            Checker::Grpc(config) => grpc::check(subject, config, &mut kept.http).await,
        }
    };
    let late = Failure { kind: FailureKind::NetworkTimeout, ..Failure::network() };
    timeout(subject.check.timeout, checking).await.unwrap_or(Outcome::Failed(late))
}

/// Puts a result into effect, and tells of it.
fn apply(subject: &Subject, status: &mut Status, outcome: Outcome, observer: &dyn Observer) -> Verdict {
    let Subject { cluster, endpoint, check } = subject;
    let state = &endpoint.state;
    let before = flags(state);
    let verdict = status.note(before, outcome, check);
    set_flags(state, verdict.flags);
    count(subject, outcome);
    if let Outcome::Failed(Failure { kind: FailureKind::Passive, .. }) = outcome {
        state.set(Flag::PassiveFailure, false);
    }
    if verdict.flags.failed && !before.failed {
        state.note_failure();
    }
    let returned = matches!(outcome, Outcome::Passed { .. }) && cluster.passed_active_check(endpoint);
    if returned || verdict.transition == Transition::Changed || verdict.flags.excluded != before.excluded {
        cluster.state.health_changed.notify_one();
    }
    for event in &verdict.events {
        tell(subject, *event);
        if !check.event_logs.is_empty() {
            observer.event(cluster, endpoint, check, *event);
        }
    }
    if before.pending {
        observer.checked(cluster);
    }
    if verdict.flags.failed && endpoint.leaving {
        observer.left(cluster);
    }
    verdict
}

fn flags(state: &EndpointState) -> Flags {
    Flags {
        failed: state.has(Flag::FailedActiveCheck),
        pending: state.has(Flag::PendingActiveCheck),
        degraded: state.has(Flag::DegradedActiveCheck),
        timeout: state.has(Flag::ActiveCheckTimeout),
        excluded: state.has(Flag::ExcludedByImmediateFail),
    }
}

fn set_flags(state: &EndpointState, flags: Flags) {
    state.set(Flag::FailedActiveCheck, flags.failed);
    state.set(Flag::PendingActiveCheck, flags.pending);
    state.set(Flag::DegradedActiveCheck, flags.degraded);
    state.set(Flag::ActiveCheckTimeout, flags.timeout);
    state.set(Flag::ExcludedByImmediateFail, flags.excluded);
}

fn count(subject: &Subject, outcome: Outcome) {
    let Some(stats) = subject.cluster.health_stats() else { return };
    let Outcome::Failed(failure) = outcome else { return stats.success().inc(0) };
    stats.failure().inc(0);
    match failure.kind {
        FailureKind::Active => {}
        FailureKind::Passive => stats.passive_failure().inc(0),
        FailureKind::Network | FailureKind::NetworkTimeout => stats.network_failure().inc(0),
    }
}

/// Operators see in the log when an endpoint goes or comes back.
fn tell(subject: &Subject, event: Event) {
    let (cluster, endpoint) = (subject.cluster.name(), &subject.endpoint.display);
    match event {
        Event::Ejected(kind) => tracing::warn!(%cluster, %endpoint, ?kind, "an endpoint failed its health check"),
        Event::Added { .. } => tracing::info!(%cluster, %endpoint, "an endpoint passes its health check"),
        Event::Failed { .. } | Event::Passed | Event::Degraded | Event::NoLongerDegraded => {}
    }
}
