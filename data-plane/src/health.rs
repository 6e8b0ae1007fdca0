//! How well this process is, for the health-check filter and `/ready`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use dp_filters::{ClusterHealth, Health};
use dp_snapshot::Snapshot;
use dp_upstream::Health as EndpointHealth;
use stdx::drain::{Drain, Phase};
use stdx::live::Live;

/// What makes the process fail its health check.
pub(crate) struct ProcessHealth {
    drain: Drain,
    failed: AtomicBool,
    live: OnceLock<Live<Snapshot>>,
}

impl ProcessHealth {
    pub(crate) fn new(drain: Drain) -> Self {
        Self { drain, failed: AtomicBool::new(false), live: OnceLock::new() }
    }

    /// Answers about clusters from these snapshots from now on.
    pub(crate) fn follow(&self, live: Live<Snapshot>) {
        // Set once, at the start.
        let _ = self.live.set(live);
    }

    /// An operator's word (`/healthcheck/fail` and `/healthcheck/ok`).
    pub(crate) fn fail(&self, fail: bool) {
        self.failed.store(fail, Ordering::Relaxed);
    }
}

impl Health for ProcessHealth {
    fn is_failing(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.drain.phase() > Phase::Serving
    }

    fn cluster(&self, name: &str) -> Option<ClusterHealth> {
        let snapshot = self.live.get()?.load();
        let cluster = snapshot.cluster(name)?;
        let mut health = ClusterHealth::default();
        for endpoint in cluster.endpoints() {
            health.total += 1;
            match endpoint.health() {
                EndpointHealth::Healthy => health.healthy += 1,
                EndpointHealth::Degraded => health.degraded += 1,
                EndpointHealth::Unhealthy => {}
            }
        }
        Some(health)
    }
}
