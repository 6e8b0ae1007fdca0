//! Weights from what endpoints report of their load (ORCA): `client_side_weighted_round_robin`.
//!
//! Reports come with responses, or when they are asked for (`stream.rs`). A worker that gets a report writes the weight it makes into the endpoint's atomics; the control thread reads them when
//! it makes the tables anew. Nothing here waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use dp_http::Headers;
use shared_config::lb_policy::{Algorithm, ClientSide, Metric, OutOfBand};
use tokio::time::Instant;

use crate::balance::Levels;
use crate::balance::latency::stamp;
use crate::cluster::Cluster;
use crate::endpoint::{Endpoint, EndpointState};

mod report;
pub mod stream;

/// What an endpoint reported last. Times are milliseconds of the process, from 1; 0 is never.
#[derive(Debug, Default)]
pub(crate) struct Reported {
    weight: AtomicU32,
    /// Since when it reports without a long pause.
    since: AtomicU64,
    last: AtomicU64,
    /// The weight that it has in the tables.
    current: AtomicU32,
}

/// The numbers of one report that its weight is made from.
#[derive(Debug, Default, PartialEq)]
struct Load {
    cpu: f64,
    application: f64,
    requests: f64,
    errors: f64,
    /// The largest of those that were configured.
    largest: f64,
}

// === impl Reported ===

impl Reported {
    fn note(&self, weight: u32, now: u64) {
        self.weight.store(weight, Relaxed);
        self.last.store(now + 1, Relaxed);
        // Only the first report of a row.
        let _ = self.since.compare_exchange(0, now + 1, Relaxed, Relaxed);
    }

    /// The weight, if it was reported for long enough, and lately.
    fn weight(&self, config: &ClientSide, now: u64) -> Option<u32> {
        let since = self.since.load(Relaxed);
        if since == 0 || now + 1 < since.saturating_add(millis(config.blackout)) {
            return None;
        }
        if now + 1 > self.last.load(Relaxed).saturating_add(millis(config.expiration)) {
            self.since.store(0, Relaxed);
            return None;
        }
        Some(self.weight.load(Relaxed))
    }

    pub(crate) fn current(&self) -> u32 {
        self.current.load(Relaxed).max(1)
    }
}

// === impl Load ===

impl Load {
    fn add(&mut self, metric: &Metric<&str>, value: f64, wanted: &[Metric]) {
        match metric {
            Metric::Cpu => self.cpu = value,
            Metric::Application => self.application = value,
            Metric::Requests => self.requests = value,
            Metric::Errors => self.errors = value,
            _ => {}
        }
        if wanted.iter().any(|wanted| wanted.is(metric)) {
            self.largest = self.largest.max(value);
        }
    }

    /// Makes the weight of an endpoint from it, if it says enough.
    fn note(&self, config: &ClientSide, endpoint: &EndpointState, now: Instant) -> bool {
        let weight = self.weight(config.error_penalty);
        if let Some(weight) = weight {
            endpoint.reported().note(weight, stamp(now));
        }
        weight.is_some()
    }

    /// `None` when it says nothing about how much the endpoint can take.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` stays within the range")]
    fn weight(&self, error_penalty: f64) -> Option<u32> {
        if self.requests <= 0.0 {
            return None;
        }
        let utilization = [self.largest, self.application].into_iter().find(|value| *value > 0.0).unwrap_or(self.cpu);
        let utilization = utilization + error_penalty * self.errors / self.requests;
        (utilization > 0.0).then(|| (self.requests / utilization) as u32)
    }
}

// === impl Cluster ===

impl Cluster {
    fn client_side(&self) -> Option<&ClientSide> {
        match &self.config.lb.algorithm {
            Algorithm::ClientSide(config) => Some(config),
            _ => None,
        }
    }

    /// Whether responses may bring reports that matter.
    pub fn wants_reports(&self) -> bool {
        self.client_side().is_some_and(|config| config.out_of_band.is_none())
    }

    /// How endpoints are asked for reports apart from requests, if they are.
    pub(crate) fn out_of_band(&self) -> Option<&OutOfBand> {
        self.client_side()?.out_of_band.as_ref()
    }

    /// Takes the report of a response's head or trailers in. Whether there was one.
    pub fn note_report(&self, endpoint: &EndpointState, headers: &Headers, now: Instant) -> bool {
        let Some(config) = self.client_side().filter(|config| config.out_of_band.is_none()) else { return false };
        let mut load = Load::default();
        if report::read(headers, |metric, value| load.add(&metric, value, &config.metrics)).is_none() {
            return false;
        }
        load.note(config, endpoint, now);
        true
    }

    /// The same for a message that came apart from requests. Whether a weight could be made from it.
    pub(crate) fn note_out_of_band(&self, endpoint: &EndpointState, message: &[u8], now: Instant) -> bool {
        let Some(config) = self.client_side() else { return false };
        let mut load = Load::default();
        report::message(message, |metric, value| load.add(&metric, value, &config.metrics))
            .is_some_and(|()| load.note(config, endpoint, now))
    }

    /// The weight that an endpoint has now, by configuration or by its reports.
    pub fn weight_of(&self, endpoint: &Endpoint) -> u32 {
        if self.client_side().is_some() { endpoint.state.reported().current() } else { endpoint.weight }
    }
}

/// Gives every endpoint the weight that it reported; those that have none get the median of the others of their priority.
pub(crate) fn weigh(levels: &Levels, algorithm: &Algorithm, now: Instant) {
    let Algorithm::ClientSide(config) = algorithm else { return };
    let now = stamp(now);
    for level in levels {
        let endpoints = || level.iter().flat_map(|locality| &locality.endpoints);
        let reported = |endpoint: &Arc<Endpoint>| endpoint.state.reported().weight(config, now);
        let weights: Vec<Option<u32>> = endpoints().map(reported).collect();
        let mut valid: Vec<u32> = weights.iter().copied().flatten().collect();
        let middle = valid.len() / 2;
        let median = if valid.is_empty() { 1 } else { *valid.select_nth_unstable(middle).1 };
        for (endpoint, weight) in endpoints().zip(weights) {
            endpoint.state.reported().current.store(weight.unwrap_or(median), Relaxed);
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
