//! One endpoint: what the configuration says of it, and what all workers know of it.
//!
//! The state is shared by every version of the cluster that has the endpoint; the rest is one version's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use dp_http::info::Address;
use shared_config::core::Metadata;
use shared_config::endpoint::{EndpointHealthCheck, HealthStatus, Locality};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::balance::latency::{Latency, stamp};

use crate::orca::Reported;
use crate::outlier::Monitor;

mod vitals;

pub(crate) use vitals::Vitals;

/// An endpoint as one version of its cluster has it.
#[derive(Debug, Clone)]
#[repr(C)] // What a pick looks at comes first, beside the count of references that it changes.
pub struct Endpoint {
    /// Those of the state.
    pub(crate) vitals: &'static Vitals,
    /// What service discovery says.
    pub discovery: HealthStatus,
    pub state: Arc<EndpointState>,
    /// Where connections go.
    pub address: Address,
    /// All of its addresses in the order they are tried, if it has several.
    pub addresses: Box<[Address]>,
    /// At least 1.
    pub weight: u32,
    /// 0 is tried first.
    pub priority: u32,
    pub locality: Arc<Locality>,
    pub metadata: Arc<Metadata>,
    /// The same for formatters (`%UPSTREAM_METADATA%`); `None` when there is none.
    pub shown_metadata: Option<Arc<dp_http::info::Metadata>>,
    pub health_check: EndpointHealthCheck,
    /// Active health checks ask it.
    pub checked: bool,
    /// Service discovery has it no more; it stays for as long as its health checks pass.
    pub leaving: bool,
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
    /// Those of `known`.
    vitals: &'static Vitals,
    connections: AtomicU32,
    /// How often the endpoint failed: connections from before are not used again.
    failures: AtomicU32,
    known: Arc<Known>,
    retired: AtomicBool,
    pub counters: Counters,
}

/// What is known of an endpoint's load and health, also by endpoints that differ only in how connections to them are made.
#[derive(Debug, Default)]
struct Known {
    vitals: vitals::Held,
    outlier: Monitor,
    reported: Reported,
    /// When it became healthy (`latency::stamp`), for slow start.
    since: AtomicU64,
    /// An answer to ordinary traffic said that the endpoint is not well.
    passive: Notify,
    /// The endpoint failed.
    failed: Notify,
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
    /// No active check has ended yet.
    PendingActiveCheck = 8,
    /// The last active check got no answer in time.
    ActiveCheckTimeout = 16,
    /// It asked to be left out, so that it does not count among the endpoints of its cluster.
    ExcludedByImmediateFail = 32,
    /// It asked to be left out, and its health checker has not heard it yet.
    PassiveFailure = 64,
    /// It said so in answers to requests.
    DegradedOutlierCheck = 128,
}

/// The flags of endpoints that are used when too few others are healthy.
const DEGRADED: u32 = Flag::DegradedActiveCheck as u32 | Flag::DegradedOutlierCheck as u32;
/// The flags of endpoints that take no requests.
const OUT: u32 = Flag::FailedActiveCheck as u32 | Flag::FailedOutlierCheck as u32 | Flag::PassiveFailure as u32;

/// A request in progress at an endpoint; ends when dropped.
#[derive(Debug)]
pub struct ActiveRequest(Arc<EndpointState>);

// === impl Endpoint ===

impl Endpoint {
    /// What discovery and all checks say together.
    pub fn health(&self) -> Health {
        let flags = self.vitals.flags.load(Relaxed);
        match self.discovery {
            HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout => Health::Unhealthy,
            _ if flags & OUT != 0 => Health::Unhealthy,
            HealthStatus::Degraded => Health::Degraded,
            _ if flags & DEGRADED != 0 => Health::Degraded,
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

    /// Whether it does not count among the endpoints of its cluster; `unchecked`: nor do those that were never checked.
    pub(crate) fn is_excluded(&self, unchecked: bool) -> bool {
        self.state.has(Flag::ExcludedByImmediateFail) || unchecked && self.state.has(Flag::PendingActiveCheck)
    }

    /// Envoy's words for why it is left out; none when it is healthy. `pending` tells also of endpoints that were
    /// never checked.
    pub fn health_flags(&self, pending: bool) -> Vec<&'static str> {
        let flags = [
            (Flag::FailedActiveCheck, "failed_active_hc"),
            (Flag::FailedOutlierCheck, "failed_outlier_check"),
            (Flag::DegradedActiveCheck, "degraded_active_hc"),
            (Flag::DegradedOutlierCheck, "degraded_outlier_detection"),
            (Flag::ExcludedByImmediateFail, "excluded_via_immediate_hc_fail"),
            (Flag::ActiveCheckTimeout, "active_hc_timeout"),
        ];
        let set = flags.into_iter().filter(|(flag, _)| self.state.has(*flag)).map(|(_, name)| name);
        let discovered = match self.discovery {
            HealthStatus::Unhealthy | HealthStatus::Timeout | HealthStatus::Draining => Some("failed_eds_health"),
            HealthStatus::Degraded => Some("degraded_eds_health"),
            HealthStatus::Unknown | HealthStatus::Healthy => None,
        };
        let leaving = self.leaving.then_some("pending_dynamic_removal");
        let pending = (pending && self.state.has(Flag::PendingActiveCheck)).then_some("pending_active_hc");
        set.chain(discovered).chain(leaving).chain(pending).collect()
    }
}

// === impl EndpointState ===

impl EndpointState {
    pub fn new(hostname: Arc<str>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let known = Known { since: stamp(Instant::now()).into(), ..Known::default() };
        Self {
            id: NEXT.fetch_add(1, Relaxed),
            hostname,
            vitals: known.vitals.0,
            connections: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            known: Arc::new(known),
            retired: AtomicBool::new(false),
            counters: Counters::default(),
        }
    }

    /// The state of a new endpoint: one that is to be checked is out until it has passed a check.
    pub(crate) fn of_new(hostname: Arc<str>, checked: bool) -> Self {
        let state = Self::new(hostname);
        state.set(Flag::FailedActiveCheck, checked);
        state.set(Flag::PendingActiveCheck, checked);
        state
    }

    /// Nobody checks the endpoint any more: what checks found is gone. Whether that was anything.
    pub(crate) fn forget_checks(&self) -> bool {
        const ALL: u32 = Flag::FailedActiveCheck as u32
            | Flag::DegradedActiveCheck as u32
            | Flag::PendingActiveCheck as u32
            | Flag::ActiveCheckTimeout as u32
            | Flag::ExcludedByImmediateFail as u32
            | Flag::PassiveFailure as u32;
        self.vitals.flags.fetch_and(!ALL, Relaxed) & ALL != 0
    }

    /// A new state for the same endpoint: other connections, the same load and health.
    pub(crate) fn renewed(&self) -> Self {
        let known = Arc::clone(&self.known);
        Self { vitals: known.vitals.0, known, ..Self::new(Arc::clone(&self.hostname)) }
    }

    /// How long it takes to respond.
    pub fn latency(&self) -> &Latency {
        &self.vitals.latency
    }

    pub(crate) fn vitals(&self) -> &'static Vitals {
        self.vitals
    }

    /// Requests in progress on all workers.
    pub fn active(&self) -> u32 {
        self.vitals.active()
    }

    /// Counts a request until the guard is dropped.
    pub fn begin_request(self: &Arc<Self>) -> ActiveRequest {
        self.vitals.active.fetch_add(1, Relaxed);
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
        self.vitals.flags.load(Relaxed) & flag as u32 != 0
    }

    /// Sets or clears a flag; whether that changed anything. The cluster must be refreshed after a change.
    pub fn set(&self, flag: Flag, on: bool) -> bool {
        let (bit, flags) = (flag as u32, &self.vitals.flags);
        let before = if on { flags.fetch_or(bit, Relaxed) } else { flags.fetch_and(!bit, Relaxed) };
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
        self.known.since.store(stamp(moment), Relaxed);
    }

    /// How long it has been healthy at a moment (`latency::stamp`), as far as checks and discovery told.
    pub(crate) fn time_healthy(&self, now: u64) -> Duration {
        Duration::from_millis(now.saturating_sub(self.known.since.load(Relaxed)))
    }

    /// Takes the endpoint out because it asked for it; its health checker hears of it.
    pub(crate) fn fail_passively(&self) {
        self.set(Flag::ExcludedByImmediateFail, true);
        self.set(Flag::PassiveFailure, true);
        self.known.passive.notify_one();
    }

    /// Resolves when the endpoint asked to be left out since the last time. One task waits.
    pub(crate) async fn failed_passively(&self) {
        self.known.passive.notified().await;
    }

    /// The endpoint became unhealthy: connections to it are not used again, and those who wait are told.
    pub(crate) fn note_failure(&self) {
        self.failures.fetch_add(1, Relaxed);
        self.known.failed.notify_waiters();
    }

    /// Resolves when the endpoint has become unhealthy since it had done so `failures` times.
    pub(crate) async fn failed_since(&self, failures: u32) {
        let failed = self.known.failed.notified();
        if self.failures() == failures {
            failed.await;
        }
    }

    pub(crate) fn failures(&self) -> u32 {
        self.failures.load(Relaxed)
    }

    /// What it reported of its load.
    pub(crate) fn reported(&self) -> &Reported {
        &self.known.reported
    }

    /// What outlier detection knows of it.
    pub fn monitor(&self) -> &Monitor {
        &self.known.outlier
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
        self.0.vitals.active.fetch_sub(1, Relaxed);
    }
}
