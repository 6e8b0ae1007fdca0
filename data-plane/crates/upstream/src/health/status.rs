//! What a series of checks makes of one endpoint: thresholds, the first check, and how long to wait for the next one.
//!
//! Pure: the result of a check and the flags before it in, the flags after it and what is worth telling out.

use std::time::Duration;

use shared_config::health_check::HealthCheck;

/// What one check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Passed { degraded: bool },
    Failed(Failure),
}

/// Why a check failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    /// Counts towards the threshold although the endpoint answered.
    pub retriable: bool,
    /// The answer said that the endpoint is to be left out at once.
    pub immediate: bool,
}

/// Envoy's `HealthCheckFailureType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The endpoint answered that it is not well.
    Active,
    /// An answer to ordinary traffic said so.
    Passive,
    Network,
    NetworkTimeout,
}

/// The flags of an endpoint that checks set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags {
    pub failed: bool,
    /// No check has ended yet.
    pub pending: bool,
    pub degraded: bool,
    pub timeout: bool,
    pub excluded: bool,
}

/// What a check changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    Unchanged,
    Changed,
    /// More checks with this result will change it.
    Pending,
}

/// Something for the event log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Ejected(FailureKind),
    Added { first: bool },
    Failed { kind: FailureKind, first: bool },
    Passed,
    Degraded,
    NoLongerDegraded,
}

/// What a result means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub flags: Flags,
    pub transition: Transition,
    pub passed: bool,
    pub events: Vec<Event>,
}

/// Results in a row that have not changed anything yet.
#[derive(Debug, Clone, Default)]
pub struct Status {
    passed: u32,
    failed: u32,
}

// === impl Status ===

impl Status {
    /// Takes a result in.
    pub fn note(&mut self, before: Flags, outcome: Outcome, check: &HealthCheck) -> Verdict {
        let mut verdict = match outcome {
            Outcome::Passed { degraded } => self.passed(before, degraded, check),
            Outcome::Failed(failure) => self.failed(before, failure, check),
        };
        if before.pending {
            // Others may have left the endpoint out because it was never checked.
            verdict.flags.pending = false;
            verdict.transition = Transition::Changed;
        }
        verdict
    }

    fn passed(&mut self, before: Flags, degraded: bool, check: &HealthCheck) -> Verdict {
        self.failed = 0;
        let mut flags = before;
        let mut transition = Transition::Unchanged;
        let mut events = Vec::new();
        if before.failed {
            self.passed += 1;
            // One success is enough for an endpoint that nobody has checked before, so that a start is quick.
            if before.pending || self.passed >= check.healthy_threshold {
                self.passed = 0;
                (flags.failed, flags.timeout, flags.excluded) = (false, false, false);
                transition = Transition::Changed;
                events.push(Event::Added { first: before.pending });
            } else {
                transition = Transition::Pending;
            }
        }
        if transition != Transition::Changed && check.always_log_success {
            events.push(Event::Passed);
        }
        if degraded != before.degraded {
            flags.degraded = degraded;
            events.push(if degraded { Event::Degraded } else { Event::NoLongerDegraded });
            if transition == Transition::Unchanged {
                transition = Transition::Changed;
            }
        }
        Verdict { flags, transition, passed: true, events }
    }

    fn failed(&mut self, before: Flags, failure: Failure, check: &HealthCheck) -> Verdict {
        self.passed = 0;
        let mut flags = before;
        let mut transition = Transition::Unchanged;
        let mut events = Vec::new();
        if !before.failed {
            self.failed += 1;
            let network = matches!(failure.kind, FailureKind::Network | FailureKind::NetworkTimeout);
            // An endpoint that says itself that it is not well is believed at once, and so is the very first check.
            let decisive = before.pending || !network && !failure.retriable;
            if decisive || self.failed >= check.unhealthy_threshold {
                self.failed = 0;
                flags.failed = true;
                transition = Transition::Changed;
                events.push(Event::Ejected(failure.kind));
            } else {
                transition = Transition::Pending;
            }
        }
        flags.excluded |= failure.immediate;
        flags.timeout = flags.failed && failure.kind == FailureKind::NetworkTimeout;
        if before.pending || check.always_log_failures {
            events.push(Event::Failed { kind: failure.kind, first: before.pending });
        }
        Verdict { flags, transition, passed: false, events }
    }
}

/// How long to wait after a check. `random` gives numbers from 0 to less than 1.
pub fn wait(check: &HealthCheck, verdict: &Verdict, traffic: bool, mut random: impl FnMut() -> f64) -> Duration {
    let pending = verdict.transition == Transition::Pending;
    let base = match (traffic, verdict.passed) {
        (false, true) if !pending => check.no_traffic_healthy_interval,
        (false, _) => check.no_traffic_interval,
        (true, true) if pending => check.healthy_edge_interval,
        (true, true) => check.interval,
        (true, false) if pending => check.unhealthy_edge_interval,
        (true, false) => check.unhealthy_interval,
    };
    let share = f64::from(check.interval_jitter_percent) / 100.0;
    let longer = base.mul_f64(share * random()) + check.interval_jitter.mul_f64(random());
    (base + longer).max(Duration::from_millis(1))
}

#[cfg(test)]
pub(crate) mod tests;
