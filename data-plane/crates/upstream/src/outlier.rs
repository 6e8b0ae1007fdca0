//! Outlier detection: counts how requests to an endpoint end, and leaves out for a while those that fail too often.
//!
//! Envoy's detector with its defaults, names and arithmetic. Workers count with relaxed atomics, and eject at once after
//! failures in a row; what needs a look at all endpoints is done at every interval by the control thread
//! (`interval.rs`). Never locks, and reads the clock only when an endpoint is ejected or returns.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use shared_config::outlier::OutlierDetection as Config;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::endpoint::{Endpoint, Flag};

pub mod event;
mod interval;
pub mod monitor;
mod stats;

pub use event::{Action, Event, EventSink, Reason};
pub use monitor::Monitor;
pub use stats::OutlierStats;

/// How an exchange with an endpoint went, as far as it tells whether the endpoint is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A request was answered with this status.
    Response(u16),
    /// The same, and the endpoint calls itself degraded (`x-envoy-degraded`).
    Degraded(u16),
    /// A connection is ready for a request, which may still fail.
    Connected,
    /// A connection is ready, and nothing more will be known: TCP.
    Carried,
    /// No connection could be made, or it broke before an answer.
    Failed,
    TimedOut,
}

/// What all versions of a cluster know about its ejections.
#[derive(Debug)]
pub(crate) struct Detector {
    began: Instant,
    /// How many endpoints are out; limits how many more may go.
    ejected: AtomicU32,
    /// When the interval ends, in milliseconds since `began`; 0 while nothing is detected.
    interval_ends: AtomicU64,
    stats: OnceLock<Arc<OutlierStats>>,
}

// === impl Detector ===

impl Detector {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            ejected: AtomicU32::new(0),
            interval_ends: AtomicU64::new(0),
            stats: OnceLock::new(),
        }
    }

    /// Statistics exist only for clusters that detect outliers.
    pub(crate) fn count_with(&self, register: impl FnOnce() -> Arc<OutlierStats>) {
        self.stats.get_or_init(register);
    }

    pub(crate) fn stats(&self) -> Option<&OutlierStats> {
        self.stats.get().map(|stats| &**stats)
    }

    fn at(&self, now: Instant) -> u64 {
        // Starts at 1, so that 0 can mean never.
        1 + u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX - 1)
    }

    /// Takes one of the places for ejected endpoints.
    fn take_place(&self, config: &Config, endpoints: usize) -> bool {
        let take = |ejected| may_eject(config, ejected, endpoints).then_some(ejected + 1);
        self.ejected.fetch_update(Relaxed, Relaxed, take).is_ok()
    }
}

fn may_eject(config: &Config, ejected: u32, endpoints: usize) -> bool {
    #[allow(clippy::cast_precision_loss, reason = "a count of endpoints")]
    let percent = 100.0 * f64::from(ejected + 1) / endpoints as f64;
    percent <= f64::from(config.max_ejection_percent) || (config.always_eject_one && ejected == 0)
}

// === impl Cluster ===

impl Cluster {
    /// Counts how an exchange with one of its endpoints went; costs a branch when outliers are not detected.
    pub fn observe(&self, endpoint: &Endpoint, outcome: Outcome, worker: usize) {
        let Some(config) = &self.config.outlier else { return };
        let monitor = endpoint.state.monitor();
        let status = match (outcome, config.split_local) {
            (Outcome::Response(status), _) => status,
            (Outcome::Degraded(status), _) => {
                self.degrade(config, endpoint, status, worker);
                status
            }
            (Outcome::Connected | Outcome::Carried, true) => return monitor.local_success(),
            (Outcome::Failed | Outcome::TimedOut, true) => {
                if monitor.local_failure() == config.consecutive_local.count {
                    self.failed_in_a_row(config, endpoint, Reason::ConsecutiveLocal, worker);
                }
                return;
            }
            (Outcome::Connected, false) => return,
            (Outcome::Carried, false) => 200,
            (Outcome::Failed, false) => 503,
            (Outcome::TimedOut, false) => 504,
        };
        let Some(in_a_row) = monitor.answered(status) else { return };
        if in_a_row.gateway == Some(config.consecutive_gateway.count) {
            self.failed_in_a_row(config, endpoint, Reason::ConsecutiveGateway, worker);
        }
        if in_a_row.server == config.consecutive_5xx.count {
            self.failed_in_a_row(config, endpoint, Reason::Consecutive5xx, worker);
        }
    }

    /// Whether answers may say that their endpoint is degraded.
    pub fn detects_degraded(&self) -> bool {
        self.config.outlier.as_ref().is_some_and(|config| config.detect_degraded)
    }

    /// An endpoint that calls itself degraded is used less for a while; one that fails is a matter of ejection.
    fn degrade(&self, config: &Config, endpoint: &Endpoint, status: u16, worker: usize) {
        if !config.detect_degraded || status >= 500 || endpoint.state.is_retired() {
            return;
        }
        if endpoint.state.set(Flag::DegradedOutlierCheck, true) {
            endpoint.state.monitor().degraded.begin(self.state.outliers.at(Instant::now()), config);
            if let Some(stats) = self.state.outliers.stats() {
                stats.detected_degradation().inc(worker + 1);
            }
            self.state.health_changed.notify_one();
        }
    }

    /// As many failures in a row as it takes.
    fn failed_in_a_row(&self, config: &Config, endpoint: &Endpoint, reason: Reason, worker: usize) {
        let is_known = self.endpoint_count() > 0;
        if !is_known || endpoint.state.has(Flag::FailedOutlierCheck) || endpoint.state.is_retired() {
            return;
        }
        let shard = worker + 1;
        if let Some(stats) = self.state.outliers.stats() {
            stats.detected(reason, shard);
            if reason == Reason::Consecutive5xx {
                stats.ejections_consecutive_5xx().inc(shard);
            }
        }
        if self.eject(config, endpoint, reason, shard, None) {
            self.state.health_changed.notify_one();
        }
        endpoint.state.monitor().start_over(reason);
    }

    /// Leaves an endpoint out if as many may be out, and if the dice say that the reason is enforced.
    fn eject(
        &self,
        config: &Config,
        endpoint: &Endpoint,
        reason: Reason,
        shard: usize,
        rates: Option<event::Rates>,
    ) -> bool {
        let (detector, monitor) = (&self.state.outliers, endpoint.state.monitor());
        let Some(stats) = detector.stats() else { return false };
        let endpoints = self.endpoint_count();
        if !may_eject(config, detector.ejected.load(Relaxed), endpoints) {
            stats.ejections_overflow().inc(shard);
            return false;
        }
        if matches!(reason, Reason::Consecutive5xx | Reason::SuccessRate) {
            stats.ejections_total().inc(shard);
        }
        let now = detector.at(Instant::now());
        let enforced = fastrand::u32(..100) < enforcing(config, reason);
        if enforced {
            if !detector.take_place(config, endpoints) {
                // Another worker took the last place meanwhile.
                stats.ejections_overflow().inc(shard);
                return false;
            }
            if !endpoint.state.set(Flag::FailedOutlierCheck, true) {
                detector.ejected.fetch_sub(1, Relaxed);
                return false;
            }
            stats.enforced(reason, shard);
            monitor.ejected(now, config);
        }
        let since_last = monitor.since_return(now);
        self.tell(endpoint, Action::Eject { reason, enforced, rates }, since_last);
        enforced
    }

    /// An ejected endpoint takes requests again. Whether it was ejected.
    fn return_to_service(&self, endpoint: &Endpoint, now: u64) -> bool {
        let (detector, monitor) = (&self.state.outliers, endpoint.state.monitor());
        if !endpoint.state.set(Flag::FailedOutlierCheck, false) {
            return false;
        }
        // A recount (`recount_ejected`) may have been faster.
        let _ = detector.ejected.fetch_update(Relaxed, Relaxed, |ejected| ejected.checked_sub(1));
        let since_last = monitor.since_ejection(now);
        monitor.returned(now);
        self.tell(endpoint, Action::Uneject, since_last);
        true
    }

    /// A successful active health check ends an ejection, unless the configuration says otherwise. Whether it did: the
    /// cluster must be refreshed then.
    pub fn passed_active_check(&self, endpoint: &Endpoint) -> bool {
        let wanted = self.config.outlier.as_ref().is_none_or(|config| config.uneject_on_health_check);
        if !wanted || !endpoint.state.has(Flag::FailedOutlierCheck) || endpoint.state.has(Flag::FailedActiveCheck) {
            return false;
        }
        self.return_to_service(endpoint, self.state.outliers.at(Instant::now()))
    }

    fn tell(&self, endpoint: &Endpoint, action: Action, since_last: Option<Duration>) {
        let Some(sink) = &self.events else { return };
        sink.outlier(&Event {
            cluster: &self.state.name,
            address: &endpoint.address,
            action,
            ejections: endpoint.state.monitor().ejections(),
            since_last,
        });
    }
}

/// In percent.
fn enforcing(config: &Config, reason: Reason) -> u32 {
    match reason {
        Reason::Consecutive5xx => config.consecutive_5xx.enforcing,
        Reason::ConsecutiveGateway => config.consecutive_gateway.enforcing,
        Reason::ConsecutiveLocal => config.consecutive_local.enforcing,
        Reason::SuccessRate => config.success_rate.enforcing,
        Reason::SuccessRateLocal => config.success_rate.enforcing_local,
        Reason::FailurePercentage => config.failure_percentage.enforcing,
        Reason::FailurePercentageLocal => config.failure_percentage.enforcing_local,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
