//! One endpoint: what the configuration says of it, and what all workers know of it.
//!
//! The state is shared by every version of the cluster that has the endpoint; the rest is one version's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use dp_http::info::Address;
use shared_config::core::Metadata;
use shared_config::endpoint::{EndpointHealthCheck, HealthStatus, Locality};
use tokio::time::Instant;

use crate::balance::latency::{Latency, stamp};

/// An endpoint as one version of its cluster has it.
#[derive(Debug)]
pub struct Endpoint {
    pub state: Arc<EndpointState>,
    /// Where connections go.
    pub address: Address,
    /// At least 1.
    pub weight: u32,
    /// 0 is tried first.
    pub priority: u32,
    pub locality: Arc<Locality>,
    pub metadata: Arc<Metadata>,
    /// What service discovery says.
    pub discovery: HealthStatus,
    pub health_check: EndpointHealthCheck,
    /// The address, or the observability name when one is given.
    pub display: Arc<str>,
}

/// What lives as long as the endpoint does, over all versions of its cluster.
#[derive(Debug)]
pub struct EndpointState {
    /// Unique in this process: pools are kept under it.
    pub id: u64,
    /// Empty when not given.
    pub hostname: Arc<str>,
    active: AtomicU32,
    connections: AtomicU32,
    flags: AtomicU32,
    retired: AtomicBool,
    /// When it became healthy (`latency::stamp`), for slow start.
    healthy_since: AtomicU64,
    pub latency: Latency,
    pub counters: Counters,
}

/// What `/clusters` shows of an endpoint.
#[derive(Debug, Default)]
pub struct Counters {
    pub cx_total: AtomicU64,
    pub cx_connect_fail: AtomicU64,
    pub rq_total: AtomicU64,
    pub rq_success: AtomicU64,
    pub rq_error: AtomicU64,
    pub rq_timeout: AtomicU64,
    /// Responses whose head came, and the microseconds that all of them took.
    pub rq_answered: AtomicU64,
    pub rq_time_us: AtomicU64,
}

/// How well an endpoint is, as balancing sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Healthy,
    /// Used when too few are healthy.
    Degraded,
    Unhealthy,
}

/// Why an endpoint is left out, besides what service discovery says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Flag {
    FailedActiveCheck = 1,
    FailedOutlierCheck = 2,
    DegradedActiveCheck = 4,
}

/// The flags of endpoints that take no requests.
const OUT: u32 = Flag::FailedActiveCheck as u32 | Flag::FailedOutlierCheck as u32;

/// A request in progress at an endpoint; ends when dropped.
#[derive(Debug)]
pub struct ActiveRequest(Arc<EndpointState>);

// === impl Endpoint ===

impl Endpoint {
    /// What discovery and all checks say together.
    pub fn health(&self) -> Health {
        let flags = self.state.flags.load(Relaxed);
        match self.discovery {
            HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout => Health::Unhealthy,
            _ if flags & OUT != 0 => Health::Unhealthy,
            HealthStatus::Degraded => Health::Degraded,
            _ if flags & Flag::DegradedActiveCheck as u32 != 0 => Health::Degraded,
            HealthStatus::Unknown | HealthStatus::Healthy => Health::Healthy,
        }
    }

    /// The same in the words of discovery, which tell more.
    pub fn status(&self) -> HealthStatus {
        match (self.discovery, self.health()) {
            (HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout, _) => self.discovery,
            (_, Health::Unhealthy) => HealthStatus::Unhealthy,
            (_, Health::Degraded) => HealthStatus::Degraded,
            (_, Health::Healthy) => self.discovery,
        }
    }

    /// Envoy's words for `/clusters`.
    pub fn health_flags(&self) -> String {
        let flag = |flag, name| self.state.has(flag).then_some(name);
        let discovery = match self.discovery {
            HealthStatus::Unhealthy | HealthStatus::Timeout | HealthStatus::Draining => Some("/failed_eds_health"),
            HealthStatus::Degraded => Some("/degraded_eds_health"),
            HealthStatus::Unknown | HealthStatus::Healthy => None,
        };
        let set = [
            flag(Flag::FailedActiveCheck, "/failed_active_hc"),
            flag(Flag::FailedOutlierCheck, "/failed_outlier_check"),
            flag(Flag::DegradedActiveCheck, "/degraded_active_hc"),
            discovery,
        ];
        let text: String = set.into_iter().flatten().collect();
        if text.is_empty() { "healthy".into() } else { text }
    }
}

// === impl EndpointState ===

impl EndpointState {
    pub fn new(hostname: Arc<str>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Relaxed),
            hostname,
            active: AtomicU32::new(0),
            connections: AtomicU32::new(0),
            flags: AtomicU32::new(0),
            retired: AtomicBool::new(false),
            healthy_since: AtomicU64::new(stamp(Instant::now())),
            latency: Latency::default(),
            counters: Counters::default(),
        }
    }

    /// A new state for the same endpoint, as well as this one is.
    pub(crate) fn renewed(&self) -> Self {
        let next = Self::new(Arc::clone(&self.hostname));
        next.flags.store(self.flags.load(Relaxed), Relaxed);
        next.healthy_since.store(self.healthy_since.load(Relaxed), Relaxed);
        next
    }

    /// Requests in progress on all workers.
    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    /// Counts a request until the guard is dropped.
    pub fn begin_request(self: &Arc<Self>) -> ActiveRequest {
        self.active.fetch_add(1, Relaxed);
        self.counters.rq_total.fetch_add(1, Relaxed);
        ActiveRequest(Arc::clone(self))
    }

    pub fn connections(&self) -> u32 {
        self.connections.load(Relaxed)
    }

    /// Counts a connection, unless there are `limit` already.
    pub(crate) fn open_connection(&self, limit: Option<u32>) -> bool {
        let before = self.connections.fetch_add(1, Relaxed);
        if limit.is_some_and(|limit| before >= limit) {
            self.connections.fetch_sub(1, Relaxed);
            return false;
        }
        true
    }

    pub(crate) fn close_connection(&self) {
        self.connections.fetch_sub(1, Relaxed);
    }

    pub fn has(&self, flag: Flag) -> bool {
        self.flags.load(Relaxed) & flag as u32 != 0
    }

    /// Sets or clears a flag; whether that changed anything. The cluster must be refreshed after a change.
    pub fn set(&self, flag: Flag, on: bool) -> bool {
        let bit = flag as u32;
        let before = if on { self.flags.fetch_or(bit, Relaxed) } else { self.flags.fetch_and(!bit, Relaxed) };
        let changed = (before & bit != 0) != on;
        if changed && !on && bit & OUT != 0 && before & !bit & OUT == 0 {
            self.became_healthy();
        }
        changed
    }

    /// Slow start begins.
    pub(crate) fn became_healthy(&self) {
        self.healthy_since(Instant::now());
    }

    pub(crate) fn healthy_since(&self, moment: Instant) {
        self.healthy_since.store(stamp(moment), Relaxed);
    }

    /// How long it has been healthy at a moment (`latency::stamp`), as far as checks and discovery told.
    pub(crate) fn time_healthy(&self, now: u64) -> Duration {
        Duration::from_millis(now.saturating_sub(self.healthy_since.load(Relaxed)))
    }

    /// No version of the cluster has it any more: its connections close when their last request ends.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Relaxed)
    }

    pub(crate) fn retire(&self) {
        self.retired.store(true, Relaxed);
    }

    /// A version of the cluster has it again.
    pub(crate) fn revive(&self) {
        self.retired.store(false, Relaxed);
    }
}

// === impl ActiveRequest ===

impl ActiveRequest {
    pub fn endpoint(&self) -> &EndpointState {
        &self.0
    }

    /// The head of the response came after this time.
    pub fn answered(&self, took: Duration) {
        let counters = &self.0.counters;
        counters.rq_answered.fetch_add(1, Relaxed);
        counters.rq_time_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Tells how the request ended, for `/clusters`.
    pub fn end(self, success: bool) {
        let counters = &self.0.counters;
        if success { &counters.rq_success } else { &counters.rq_error }.fetch_add(1, Relaxed);
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}
