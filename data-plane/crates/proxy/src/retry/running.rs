//! A request in progress at an endpoint: counted where breakers, balancing, statistics and outlier detection look.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use dp_http::{Headers, RequestHead, ResponseHead, StreamErrorKind, name};
use dp_upstream::endpoint::ActiveRequest;
use dp_upstream::stats::ClusterStats;
use dp_upstream::{Cluster, Endpoint, Guard, Outcome, Priority, Resource};
use tokio::time::Instant;

use super::Failure;
use crate::clocks::Expired;
use crate::fault::Fault;
use crate::reply;

/// Who asks, and when.
pub(crate) struct Asker {
    pub(crate) priority: Priority,
    pub(crate) shard: usize,
    /// Responses are counted by their status.
    pub(crate) by_status: bool,
    pub(crate) now: Instant,
}

pub(crate) struct Running {
    cluster: Arc<Cluster>,
    endpoint: Arc<Endpoint>,
    active: Option<ActiveRequest>,
    _guard: Guard,
    shard: usize,
    since: Instant,
    by_status: bool,
    /// The head of the response told how much the endpoint has to do.
    reported: bool,
    /// The response was no server error.
    good: bool,
}

/// Takes an endpoint's report of its load out of the trailers of a response.
pub(crate) struct Reporter {
    cluster: Arc<Cluster>,
    endpoint: Arc<Endpoint>,
}

// === impl Reporter ===

impl Reporter {
    pub(crate) fn trailers(&self, trailers: &Headers, now: Instant) {
        self.cluster.note_report(&self.endpoint.state, trailers, now);
    }
}

// === impl Running ===

impl Running {
    /// Counts the request in, unless too many are in progress.
    pub(crate) fn begin(cluster: &Arc<Cluster>, endpoint: &Arc<Endpoint>, asker: &Asker) -> Result<Self, Fault> {
        let shard = asker.shard;
        let guard = cluster.admit(Resource::Requests, asker.priority, shard - 1);
        let guard = guard.ok_or(Fault::Overflow)?;
        cluster.note_started(asker.priority, asker.now);
        cluster.state.stats.upstream_rq_total().inc(shard);
        cluster.state.stats.upstream_rq_active().inc(shard);
        Ok(Self {
            cluster: Arc::clone(cluster),
            endpoint: Arc::clone(endpoint),
            active: Some(endpoint.state.begin_request()),
            _guard: guard,
            shard,
            since: asker.now,
            by_status: asker.by_status,
            reported: false,
            good: false,
        })
    }

    /// Tells outlier detection how it went.
    pub(crate) fn observe(&self, outcome: Outcome) {
        self.cluster.observe(&self.endpoint, outcome, self.shard - 1);
    }

    /// The head of the response came.
    pub(crate) fn answered(&mut self, request: &RequestHead, head: &ResponseHead, now: Instant) {
        if self.endpoint.checked && head.headers.contains(&name::X_ENVOY_IMMEDIATE_HEALTH_CHECK_FAIL) {
            self.cluster.fail_passively(&self.endpoint);
        }
        self.cluster.note_head(&self.endpoint.state, self.since, now);
        self.reported = self.cluster.note_report(&self.endpoint.state, &head.headers, now);
        if let Some(active) = &self.active {
            active.answered(now.saturating_duration_since(self.since));
        }
        let status = told_status(request, head);
        let degraded = self.cluster.detects_degraded() && head.headers.contains(&name::X_ENVOY_DEGRADED);
        self.observe(if degraded { Outcome::Degraded(status) } else { Outcome::Response(status) });
        self.good = head.status < 500;
    }

    /// Who takes the report that may come with the trailers.
    pub(crate) fn reporter(&self) -> Option<Reporter> {
        let wanted = self.cluster.wants_reports() && !self.reported;
        wanted.then(|| Reporter { cluster: Arc::clone(&self.cluster), endpoint: Arc::clone(&self.endpoint) })
    }

    /// Counts the response that the client gets.
    pub(crate) fn charge(&self, head: &ResponseHead, now: Instant) {
        if !self.by_status {
            return;
        }
        let (stats, shard) = (&self.cluster.state.stats, self.shard);
        charge(stats, shard, head.status);
        let took = now.saturating_duration_since(self.since).as_millis();
        stats.upstream_rq_time().record(shard, u64::try_from(took).unwrap_or(u64::MAX));
    }

    /// Counts a response in whose place another one is asked for.
    pub(super) fn charge_retried(&self, head: &ResponseHead) {
        if self.by_status {
            let (stats, shard) = (&self.cluster.state.stats, self.shard);
            stats.retry_upstream_rq_completed().inc(shard);
            stats.retry_upstream_rq().inc(shard, head.status);
            match head.status {
                500.. => stats.retry_upstream_rq_5xx().inc(shard),
                400..500 => stats.retry_upstream_rq_4xx().inc(shard),
                300..400 => stats.retry_upstream_rq_3xx().inc(shard),
                _ => stats.retry_upstream_rq_2xx().inc(shard),
            }
        }
    }

    /// The try brought no head. `stale`: because the connection had been idle for too long, which is nobody's fault.
    pub(crate) fn lost(mut self, failure: &Failure, stale: bool) {
        match failure {
            Failure::Connect(error) if error.is_overflow() => {}
            Failure::Connect(_) => self.observe(Outcome::Failed),
            Failure::Stream { .. } if stale => {}
            Failure::Stream { .. } => self.observe(Outcome::Failed),
            Failure::PerTry(Expired::MaxUpstream) => {}
            Failure::PerTry(_) | Failure::Final(Fault::RouteTimeout) => self.timed_out(),
            Failure::Final(_) | Failure::Slow(_) => {}
        }
        let (stats, shard) = (&self.cluster.state.stats, self.shard);
        match failure {
            Failure::Stream { error, .. } => {
                stats.upstream_rq_rx_reset().inc(shard);
                if matches!(error.kind, StreamErrorKind::Protocol(_)) {
                    stats.upstream_cx_protocol_error().inc(shard);
                }
            }
            Failure::PerTry(Expired::PerTryIdle) => stats.upstream_rq_per_try_idle_timeout().inc(shard),
            Failure::PerTry(Expired::MaxUpstream) => self.note_max_duration(),
            Failure::PerTry(_) => stats.upstream_rq_per_try_timeout().inc(shard),
            Failure::Final(Fault::RouteTimeout) => stats.upstream_rq_timeout().inc(shard),
            Failure::Final(Fault::Overtaken) => stats.upstream_rq_tx_reset().inc(shard),
            Failure::Final(_) => stats.upstream_rq_cancelled().inc(shard),
            Failure::Connect(_) | Failure::Slow(_) => {}
        }
        if failure.is_of_endpoint() {
            self.cluster.note_loss(&self.endpoint.state, self.since);
        }
        self.end(false);
    }

    pub(super) fn note_max_duration(&self) {
        self.cluster.state.stats.upstream_rq_max_duration_reached().inc(self.shard);
    }

    pub(super) fn timed_out(&self) {
        self.observe(Outcome::TimedOut);
        self.endpoint.state.counters.rq_timeout.fetch_add(1, Relaxed);
    }

    /// Another try was faster.
    pub(super) fn overtaken(self) {
        self.lost(&Failure::Final(Fault::Overtaken), false);
    }

    /// Whether it succeeded is known by its response.
    pub(crate) fn finish(mut self) {
        self.cluster.note_end(&self.endpoint.state, self.since);
        let good = self.good;
        self.end(good);
    }

    pub(super) fn end(&mut self, success: bool) {
        if let Some(active) = self.active.take() {
            active.end(success);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end(false);
        self.cluster.state.stats.upstream_rq_active().dec(self.shard);
        self.cluster.state.stats.upstream_rq_completed().inc(self.shard);
    }
}

/// Counts an answer of the proxy's own, in the place of the upstream's.
pub(crate) fn charge_fault(stats: &ClusterStats, shard: usize, fault: &Fault) {
    if let Some(status) = fault.upstream_status() {
        charge(stats, shard, status);
    }
}

fn charge(stats: &ClusterStats, shard: usize, status: u16) {
    match status {
        100..200 => stats.upstream_rq_1xx().inc(shard),
        200..300 => stats.upstream_rq_2xx().inc(shard),
        300..400 => stats.upstream_rq_3xx().inc(shard),
        400..500 => stats.upstream_rq_4xx().inc(shard),
        _ => stats.upstream_rq_5xx().inc(shard),
    }
    stats.upstream_rq().inc(shard, status);
}

/// The status that an answer means: a gRPC status in its head counts like the status of HTTP that it stands for.
fn told_status(request: &RequestHead, head: &ResponseHead) -> u16 {
    let Some(status) = head.headers.text(&name::GRPC_STATUS).filter(|_| reply::is_grpc(&request.headers)) else {
        return head.status;
    };
    match status.parse::<u8>() {
        Ok(0) => 200,
        Ok(1) => 499,
        Ok(3 | 9 | 11) => 400,
        Ok(4) => 504,
        Ok(5) => 404,
        Ok(6 | 10) => 409,
        Ok(7) => 403,
        Ok(8) => 429,
        Ok(12) => 501,
        Ok(14) => 503,
        Ok(16) => 401,
        _ => 500,
    }
}
