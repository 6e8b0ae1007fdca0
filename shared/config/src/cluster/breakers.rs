//! Circuit breakers: how much of a cluster may be in use at once, for each routing priority.

use std::time::Duration;

use proto::envoy::config::cluster::v3 as wire;
use proto::envoy::config::core::v3::RoutingPriority;

use super::wire::percent_at;
use crate::core::duration_at;
use crate::invalid::Problems;

/// The limits of both priorities.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Breakers {
    pub default: Thresholds,
    pub high: Thresholds,
    /// At most this many connections to one endpoint.
    pub per_host_connections: Option<u32>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Thresholds {
    pub connections: u32,
    pub pending_requests: u32,
    pub requests: u32,
    pub retries: u32,
    /// Takes the place of `retries`.
    pub retry_budget: Option<RetryBudget>,
    /// Sets of connections: one for each worker, endpoint, version of HTTP and name asked for by TLS.
    pub connection_pools: u32,
    /// Report how much is left of each limit.
    pub track_remaining: bool,
}

/// Retries as a share of the requests in progress, or of those that began lately.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    pub percent: f64,
    /// This many retries are always allowed.
    pub minimum: u32,
    /// All requests that began within this time count, in place of those in progress.
    pub interval: Option<Duration>,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            connections: 1024,
            pending_requests: 1024,
            requests: 1024,
            retries: 3,
            retry_budget: None,
            connection_pools: u32::MAX,
            track_remaining: false,
        }
    }
}

// === decode ===

impl Breakers {
    pub(crate) fn decode(proto: Option<&wire::CircuitBreakers>, p: &mut Problems) -> Self {
        let Some(proto) = proto else { return Self::default() };
        p.at("circuit_breakers", |p| {
            let mut breakers = Self::default();
            let mut seen = (false, false);
            // Envoy takes the first entry of a priority.
            p.each("thresholds", &proto.thresholds, |p, t| {
                let decoded = Thresholds::decode(t, p);
                match RoutingPriority::try_from(t.priority) {
                    Ok(RoutingPriority::Default) if !std::mem::replace(&mut seen.0, true) => {
                        breakers.default = decoded?
                    }
                    Ok(RoutingPriority::High) if !std::mem::replace(&mut seen.1, true) => breakers.high = decoded?,
                    Ok(_) => p.warn("priority", "was given before; the first entry counts"),
                    Err(_) => return p.refuse_at("priority", "unknown value"),
                }
                Some(())
            });
            breakers.per_host_connections = per_host(&proto.per_host_thresholds, p);
            breakers
        })
    }
}

/// Only `max_connections` of the default priority is allowed for one endpoint, as in Envoy.
fn per_host(list: &[wire::circuit_breakers::Thresholds], p: &mut Problems) -> Option<u32> {
    let found = p.each("per_host_thresholds", list, |p, t| {
        crate::refuse_set!(p, t; max_pending_requests, max_requests, max_retries, max_connection_pools,
            retry_budget, track_remaining);
        (t.priority == RoutingPriority::Default as i32).then_some(t.max_connections).flatten()
    });
    found.first().copied()
}

impl Thresholds {
    fn decode(proto: &wire::circuit_breakers::Thresholds, p: &mut Problems) -> Option<Self> {
        let default = Self::default();
        if proto.max_connection_pools == Some(0) {
            return p.refuse_at("max_connection_pools", "0 would allow no connection");
        }
        Some(Self {
            connections: proto.max_connections.unwrap_or(default.connections),
            pending_requests: proto.max_pending_requests.unwrap_or(default.pending_requests),
            requests: proto.max_requests.unwrap_or(default.requests),
            retries: proto.max_retries.unwrap_or(default.retries),
            retry_budget: proto.retry_budget.as_ref().map(|b| p.at("retry_budget", |p| RetryBudget::decode(b, p))),
            connection_pools: proto.max_connection_pools.unwrap_or(default.connection_pools),
            track_remaining: proto.track_remaining,
        })
    }
}

impl RetryBudget {
    fn decode(proto: &wire::circuit_breakers::thresholds::RetryBudget, p: &mut Problems) -> Self {
        let interval = duration_at(proto.budget_interval.as_ref(), "budget_interval", p);
        Self {
            // Envoy counts in milliseconds.
            interval: interval.filter(|interval| interval.as_millis() > 0),
            percent: percent_at("budget_percent", proto.budget_percent.as_ref(), p).unwrap_or(20.0),
            minimum: proto.min_retry_concurrency.unwrap_or(3),
        }
    }
}
