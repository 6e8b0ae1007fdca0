//! What is known about one upstream connection, and its place in all counts until it is dropped.

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use dp_http::head::Protocol;
use dp_http::info::{Address, TlsInfo};
use dp_http::{h1, h2};
use tokio::time::Instant;

use super::ahead::Room;
use super::connect::Made;
use super::queue::Queue;
use crate::breaker::Guard;
use crate::cluster::Cluster;
use crate::endpoint::{Endpoint, EndpointState};

/// An upstream connection.
pub struct Connection {
    pub id: u64,
    pub protocol: Protocol,
    pub remote: Address,
    pub local: Option<Address>,
    pub tls: Option<TlsInfo>,
    pub timing: Timing,
    /// When it is too old for another request.
    pub(super) expires: Option<Instant>,
    requests: Cell<u32>,
    _slot: Slot,
}

/// When a connection was made.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    pub began: Instant,
    pub connected: Instant,
    /// The end of the TLS handshake.
    pub handshake: Option<Instant>,
}

/// A stream that a request can be sent on.
pub(super) enum Ready {
    Http1(Box<h1::ClientConn>, Rc<Connection>),
    Http2(Box<h2::ClientStream>, Rc<Connection>),
}

/// A connection's place in the circuit breaker, the endpoint's count and the statistics.
pub(super) struct Slot {
    cluster: Arc<Cluster>,
    endpoint: Arc<EndpointState>,
    worker: usize,
    began: Instant,
    /// How often the endpoint had failed before.
    failures: u32,
    /// Told when the place is free.
    queue: Weak<Queue>,
    /// For clusters that connect ahead.
    room: Option<Room>,
    _guard: Guard,
}

// === impl Slot ===

impl Slot {
    /// `None` when the endpoint has `limit` connections already.
    pub(super) fn open(
        cluster: &Arc<Cluster>,
        endpoint: &Endpoint,
        guard: Guard,
        worker: usize,
        limit: Option<u32>,
    ) -> Option<Self> {
        if !endpoint.state.open_connection(limit) {
            cluster.state.stats.upstream_cx_overflow().inc(worker + 1);
            return None;
        }
        let stats = &cluster.state.stats;
        stats.upstream_cx_total().inc(worker + 1);
        stats.upstream_cx_active().inc(worker + 1);
        endpoint.state.counters.cx_total.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Some(Self {
            cluster: Arc::clone(cluster),
            endpoint: Arc::clone(&endpoint.state),
            worker,
            began: Instant::now(),
            failures: endpoint.state.failures(),
            queue: Weak::new(),
            room: None,
            _guard: guard,
        })
    }

    pub(super) fn of(mut self, queue: &Rc<Queue>, room: Option<Room>) -> Self {
        queue.opened();
        self.room = room;
        self.queue = Rc::downgrade(queue);
        self
    }

    pub(super) fn connected(self, id: u64, made: &Made, protocol: Protocol) -> Connection {
        let stats = &self.cluster.state.stats;
        stats.upstream_cx_connect_ms().record_duration(self.worker + 1, self.began.elapsed());
        if let Some(room) = self.room.as_ref().filter(|_| !made.http2) {
            room.becomes(1);
        }
        let http = &self.cluster.config.http;
        let expires = http.max_connection_duration.map(|longest| {
            let jitter = http.max_connection_duration_jitter / 100.0 * fastrand::f64();
            self.began + longest + longest.mul_f64(jitter)
        });
        Connection {
            id,
            protocol,
            remote: made.remote.clone(),
            local: made.local.clone(),
            tls: made.tls.clone(),
            timing: Timing { began: self.began, connected: made.connected, handshake: made.handshake },
            expires,
            requests: Cell::new(0),
            _slot: self,
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.endpoint.close_connection();
        let stats = &self.cluster.state.stats;
        stats.upstream_cx_active().dec(self.worker + 1);
        stats.upstream_cx_destroy().inc(self.worker + 1);
        stats.upstream_cx_length_ms().record_duration(self.worker + 1, self.began.elapsed());
        if let Some(queue) = self.queue.upgrade() {
            queue.closed();
        }
    }
}

// === impl Connection ===

impl Connection {
    /// Counts a request; how many there were before.
    pub(super) fn begin_request(&self) -> u32 {
        let before = self.requests.get();
        self.requests.set(before + 1);
        before
    }

    /// Why it takes no further request, if so; counts the reason.
    pub(super) fn is_used_up(&self, now: Instant) -> bool {
        let (http, stats) = (&self._slot.cluster.config.http, &self._slot.cluster.state.stats);
        if http.max_requests_per_connection.is_some_and(|most| self.requests.get() >= most) {
            stats.upstream_cx_max_requests().inc(self._slot.worker + 1);
            return true;
        }
        if self.expires.is_some_and(|expires| now >= expires) {
            stats.upstream_cx_max_duration_reached().inc(self._slot.worker + 1);
            return true;
        }
        false
    }

    /// The endpoint is gone, or has failed since: the connection takes no further request.
    pub(super) fn is_retired(&self) -> bool {
        let (endpoint, failures) = (&self._slot.endpoint, self._slot.failures);
        endpoint.is_retired() || endpoint.failures() != failures
    }

    /// Resolves when the endpoint becomes unhealthy, if the cluster closes connections then.
    pub async fn endpoint_failed(&self) {
        let Slot { cluster, endpoint, failures, .. } = &self._slot;
        match cluster.config.close_on_health_failure {
            true => endpoint.failed_since(*failures).await,
            false => std::future::pending().await,
        }
    }

    pub(super) fn idle_timeout(&self) -> Option<Duration> {
        self._slot.cluster.config.http.idle_timeout
    }

    pub(super) fn count_idle_timeout(&self) {
        self._slot.cluster.state.stats.upstream_cx_idle_timeout().inc(self._slot.worker + 1);
    }
}
