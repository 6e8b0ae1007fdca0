//! Picks: which endpoint of a cluster takes one request.
//!
//! The tables in `balance` decide; here is what a request may ask of them, and what becomes of a pick that will not do.

use std::sync::Arc;

use dp_http::info::StickyHost;
use shared_config::lb_policy::{Algorithm, LeastTime, Measure};
use tokio::time::Instant;

use crate::balance::latency::{self, moment};
use crate::balance::subset::Criteria;
use crate::balance::{Draw, Place};
use crate::breaker::{Priority, Resource};
use crate::cluster::Cluster;
use crate::cluster::on_demand::Destination;
use crate::endpoint::{Endpoint, EndpointState, Health};

/// What a pick depends on. Made by [`PickContext::new`]; what a caller knows besides is set on it.
pub struct PickContext<'a> {
    pub rng: &'a mut fastrand::Rng,
    /// The worker that asks.
    pub worker: usize,
    /// From the route's hash policy.
    pub hash: Option<u64>,
    /// Endpoints (by id) that should not be picked again.
    pub tried: &'a [u64],
    /// Whether another endpoint should be picked, if there is one.
    pub refuse: Option<&'a dyn Fn(&Endpoint) -> bool>,
    /// How many further picks may be made to avoid those in `tried`, and those refused.
    pub reselect: u32,
    /// Priorities that take nothing, unless no other one can.
    pub without: &'a [u32],
    /// What the route asks of the endpoint's metadata (`metadata_match`).
    pub criteria: Option<&'a Criteria>,
    /// The endpoint that a session sticks to.
    pub sticky: Option<&'a StickyHost>,
    /// The moment, for policies by response time.
    pub now: Option<Instant>,
    /// The level to look in, when an aggregate has decided that.
    pub place: Option<Place>,
    /// Where the request wants to go, for clusters that leave it to the request.
    pub destination: Destination<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    #[error("the cluster has no endpoints")]
    Empty,
    #[error("no endpoint of the cluster is healthy")]
    Unhealthy,
    #[error("the endpoint that the session sticks to is not there")]
    Strict,
    #[error("the cluster drops this share of its requests")]
    Dropped,
    #[error("the cluster has too many endpoints that requests asked for")]
    Full,
}

/// How often a pick may hit an endpoint that the tables do not yet know to be unhealthy.
const STALE_PICKS: u32 = 3;

// === impl PickContext ===

impl<'a> PickContext<'a> {
    /// A pick that any endpoint will do for.
    pub fn new(rng: &'a mut fastrand::Rng, worker: usize) -> Self {
        Self {
            rng,
            worker,
            hash: None,
            tried: &[],
            refuse: None,
            reselect: 0,
            without: &[],
            criteria: None,
            sticky: None,
            now: None,
            place: None,
            destination: Destination::Unknown,
        }
    }

    fn is_unwanted(&self, endpoint: &Endpoint) -> bool {
        self.tried.contains(&endpoint.state.id) || self.refuse.is_some_and(|refuse| refuse(endpoint))
    }
}

impl Cluster {
    /// The head of a response came for a request that was sent at `since`.
    pub fn note_head(&self, endpoint: &EndpointState, since: Instant, now: Instant) {
        match &self.config.lb.algorithm {
            Algorithm::PeakEwma(config) => endpoint.latency().note(now - since, moment(now), config.decay, true),
            Algorithm::LeastTime(LeastTime { measure: Measure::Header, .. }) => {
                endpoint.latency().note(now - since, moment(now), latency::DECAY, false);
            }
            _ => {}
        }
    }

    /// The response is complete. Reads the clock only where the policy asks for it.
    pub fn note_end(&self, endpoint: &EndpointState, since: Instant) {
        if let Algorithm::LeastTime(LeastTime { measure: Measure::LastByte, .. }) = &self.config.lb.algorithm {
            let now = Instant::now();
            endpoint.latency().note(now - since, moment(now), latency::DECAY, false);
        }
    }

    /// The endpoint brought no response: a fast failure must not look like a fast endpoint.
    pub fn note_loss(&self, endpoint: &EndpointState, since: Instant) {
        let (decay, peak) = match &self.config.lb.algorithm {
            Algorithm::PeakEwma(config) => (config.decay, true),
            Algorithm::LeastTime(_) => (latency::DECAY, false),
            _ => return,
        };
        let now = Instant::now();
        endpoint.latency().note((now - since).max(latency::LOSS), moment(now), decay, peak);
    }

    /// The endpoint of a pick to come, after `ahead` others that were looked at. `None` where that cannot be known: it
    /// is known of round robin and of picks by chance, as in Envoy.
    pub(crate) fn peek(&self, rng: &mut fastrand::Rng, worker: usize, ahead: u64) -> Option<Arc<Endpoint>> {
        if let Some(drop) = &self.drop {
            // The pick draws this one first.
            let _ = rng.u32(..drop.share.denominator);
        }
        let mut draw = Draw {
            rng,
            hash: None,
            worker,
            ahead: Some(ahead),
            attempt: 0,
            active: &|| 0,
            criteria: None,
            now: None,
            place: None,
            stats: None,
            without: &[],
        };
        let tables = self.tables.load();
        tables.pick(&mut draw).map(|(endpoint, _)| Arc::clone(endpoint))
    }

    pub(crate) fn healthy_endpoints(&self) -> usize {
        self.tables.load().healthy
    }

    /// Whether every request is dropped.
    pub fn drops_all(&self) -> bool {
        self.drop.as_ref().is_some_and(|drop| drop.share.numerator >= drop.share.denominator)
    }

    /// The endpoint for a request.
    ///
    /// # Errors
    /// No endpoint can take it, or the cluster drops it.
    pub fn pick(&self, context: &mut PickContext<'_>) -> Result<Arc<Endpoint>, PickError> {
        if let Some(drop) = &self.drop
            && context.rng.u32(..drop.share.denominator) < drop.share.numerator
        {
            self.state.stats.upstream_rq_drop_overload().inc(context.worker + 1);
            return Err(PickError::Dropped);
        }
        if let Some(sticky) = context.sticky {
            if let Some(endpoint) = self.endpoint_at(&sticky.address) {
                return Ok(Arc::clone(endpoint));
            }
            if sticky.is_strict {
                return Err(PickError::Strict);
            }
        }
        if let Some(on_demand) = &self.on_demand {
            return self.pick_on_demand(on_demand, context);
        }
        let tables = self.tables.load();
        let active = || {
            let used = |priority| self.state.breakers.used(priority, Resource::Requests);
            used(Priority::Default).saturating_add(used(Priority::High))
        };
        let mut found = None;
        // A table can lag behind an endpoint's health for a moment, so that an endpoint may have to be passed over.
        for attempt in 0..=context.reselect + STALE_PICKS {
            let mut draw = Draw {
                rng: context.rng,
                hash: context.hash,
                worker: context.worker,
                ahead: None,
                attempt,
                active: &active,
                criteria: context.criteria,
                now: context.now,
                place: context.place,
                stats: self.state.lb_stats.get().map(|stats| &**stats),
                without: context.without,
            };
            let Some((endpoint, panic)) = tables.pick(&mut draw) else { break };
            if panic && attempt == 0 {
                self.state.stats.lb_healthy_panic().inc(context.worker + 1);
            }
            let stale = !panic && endpoint.health() == Health::Unhealthy;
            let unwanted = attempt < context.reselect && context.is_unwanted(endpoint);
            if !stale && !unwanted {
                return Ok(Arc::clone(endpoint));
            }
            found = Some(endpoint);
        }
        match found {
            Some(endpoint) => Ok(Arc::clone(endpoint)),
            None => {
                self.state.stats.upstream_cx_none_healthy().inc(context.worker + 1);
                Err(if self.known.is_empty() { PickError::Empty } else { PickError::Unhealthy })
            }
        }
    }
}
