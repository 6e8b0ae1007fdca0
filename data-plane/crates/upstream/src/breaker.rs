//! Circuit breakers: how much of a cluster is in use in this process, and guards that count it.
//!
//! The counts outlive a version of the cluster, the limits are that version's. Never waits: a caller is let in or not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use shared_config::cluster::{RetryBudget, Thresholds};
use tokio::time::Instant;

use crate::balance::latency::stamp;

pub(crate) mod gauges;
mod started;

use started::Started;

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    Connections,
    Pending,
    Requests,
    Retries,
    /// Sets of connections: one for each worker, endpoint, version of HTTP and name asked for by TLS.
    Pools,
}

/// The routing priority of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Priority {
    #[default]
    Default,
    High,
}

/// The counts of one cluster.
#[derive(Debug, Default)]
pub struct Breakers {
    counts: [[AtomicU32; 5]; 2],
    /// Requests of the last interval, where a retry budget has one.
    started: [Started; 2],
}

/// One unit of a resource; given back when dropped.
#[derive(Debug)]
pub struct Guard {
    breakers: Arc<Breakers>,
    priority: Priority,
    resource: Resource,
}

// === impl Breakers ===

impl Breakers {
    fn count(&self, priority: Priority, resource: Resource) -> &AtomicU32 {
        &self.counts[priority as usize][resource as usize]
    }

    /// How many are in use.
    pub fn used(&self, priority: Priority, resource: Resource) -> u32 {
        self.count(priority, resource).load(Relaxed)
    }

    /// How many may be in use under `limits`.
    pub fn limit(&self, limits: &Thresholds, priority: Priority, resource: Resource) -> u32 {
        match resource {
            Resource::Connections => limits.connections,
            Resource::Pending => limits.pending_requests,
            Resource::Requests => limits.requests,
            Resource::Pools => limits.connection_pools,
            Resource::Retries => match limits.retry_budget {
                None => limits.retries,
                Some(budget) => self.budget(budget, priority),
            },
        }
    }

    /// How many retries may run.
    fn budget(&self, budget: RetryBudget, priority: Priority) -> u32 {
        let used = |resource| u64::from(self.used(priority, resource));
        let requests = match budget.interval {
            Some(interval) => self.started[priority as usize].within(interval, stamp(Instant::now())),
            None => used(Resource::Requests) + used(Resource::Pending),
        };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let share = (requests as f64 * budget.percent / 100.0) as u32;
        share.max(budget.minimum)
    }

    /// A request begins at an endpoint: retry budgets may count it for a while.
    pub(crate) fn note_started(&self, limits: &Thresholds, priority: Priority, now: Instant) {
        if let Some(RetryBudget { interval: Some(interval), .. }) = limits.retry_budget {
            self.started[priority as usize].note(interval, stamp(now));
        }
    }

    /// Takes one unit if the limit allows.
    pub(crate) fn admit(
        self: &Arc<Self>,
        limits: &Thresholds,
        priority: Priority,
        resource: Resource,
    ) -> Option<Guard> {
        let limit = self.limit(limits, priority, resource);
        let guard = self.admit_anyway(priority, resource);
        // The guard counts itself; dropping it takes that back.
        (self.used(priority, resource) <= limit).then_some(guard)
    }

    /// Takes one unit whatever the limit: every pool may have one connection.
    pub(crate) fn admit_anyway(self: &Arc<Self>, priority: Priority, resource: Resource) -> Guard {
        self.count(priority, resource).fetch_add(1, Relaxed);
        Guard { breakers: Arc::clone(self), priority, resource }
    }
}

// === impl Guard ===

impl Drop for Guard {
    fn drop(&mut self) {
        self.breakers.count(self.priority, self.resource).fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use shared_config::cluster::RetryBudget;

    use super::*;

    fn limits(retries: u32, retry_budget: Option<RetryBudget>) -> Thresholds {
        Thresholds { retries, retry_budget, ..Thresholds::default() }
    }

    #[test]
    fn a_unit_is_given_back_when_its_guard_is_dropped() {
        let breakers = Arc::new(Breakers::default());
        let admit = || breakers.admit(&limits(1, None), Priority::Default, Resource::Retries);
        let first = admit();
        assert!(first.is_some());
        assert!(admit().is_none());
        assert_eq!(breakers.used(Priority::Default, Resource::Retries), 1);
        drop(first);
        assert!(admit().is_some());
    }

    #[test]
    fn priorities_are_counted_apart() {
        let breakers = Arc::new(Breakers::default());
        let _held = breakers.admit(&limits(1, None), Priority::Default, Resource::Retries);
        assert!(breakers.admit(&limits(1, None), Priority::High, Resource::Retries).is_some());
    }

    #[test]
    fn a_retry_budget_is_a_share_of_what_runs_but_never_under_its_minimum() {
        let breakers = Arc::new(Breakers::default());
        let budget = limits(0, Some(RetryBudget { percent: 20.0, minimum: 3, interval: None }));
        let limit = || breakers.limit(&budget, Priority::Default, Resource::Retries);
        assert_eq!(limit(), 3);
        let _running: Vec<_> = (0..50).map(|_| breakers.admit_anyway(Priority::Default, Resource::Requests)).collect();
        assert_eq!(limit(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn with_an_interval_a_budget_is_a_share_of_what_began_within_it() {
        let breakers = Arc::new(Breakers::default());
        let interval = Some(std::time::Duration::from_secs(10));
        let budget = limits(0, Some(RetryBudget { percent: 20.0, minimum: 1, interval }));
        let limit = || breakers.limit(&budget, Priority::Default, Resource::Retries);
        let _running = breakers.admit_anyway(Priority::Default, Resource::Requests);
        (0..50).for_each(|_| breakers.note_started(&budget, Priority::Default, Instant::now()));
        assert_eq!(limit(), 10);
        assert_eq!(breakers.limit(&budget, Priority::High, Resource::Retries), 1);
        tokio::time::advance(std::time::Duration::from_secs(11)).await;
        assert_eq!(limit(), 1);
    }
}
