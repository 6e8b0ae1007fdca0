//! Balancing tables: compiled from the endpoints of a cluster and their health, read by every pick without a lock.
//!
//! The order is Envoy's: a priority level by its share of the load, a locality by its weight, an endpoint by the
//! policy. Pure: never looks at the clock; health is read when the tables are made and once more for the endpoint found.

use std::sync::Arc;

use shared_config::endpoint::Locality as LocalityName;
use shared_config::lb_policy::{Algorithm, LbPolicy, LocalityLb};
use tokio::time::Instant;

use crate::endpoint::{Endpoint, Health};
use crate::stats::LbStats;

pub mod alias;
pub mod bounded;
mod group;
pub mod hash_ring;
pub mod latency;
pub mod maglev;
pub mod priority;
pub mod schedule;
mod split;
pub mod subset;
pub mod zone;

use priority::{Availability, LevelHealth, Load};
use split::Balanced;
use subset::{Criteria, Subsets};
use zone::LocalCluster;

/// What a pick depends on, besides the tables.
pub(crate) struct Draw<'a> {
    pub rng: &'a mut fastrand::Rng,
    pub hash: Option<u64>,
    pub worker: usize,
    /// Only looks, at the pick after so many others; nobody's turn is over.
    pub ahead: Option<u64>,
    /// How many endpoints were turned down already.
    pub attempt: u32,
    /// Where to look, when the level is decided already.
    pub place: Option<Place>,
    /// Requests in progress in the whole cluster, for bounded loads.
    pub active: &'a dyn Fn() -> u32,
    /// What the endpoint's metadata must be, for a cluster that is divided into subsets.
    pub criteria: Option<&'a Criteria>,
    /// For policies by time.
    pub now: Option<Instant>,
    /// Of clusters with subsets or zone-aware routing.
    pub stats: Option<&'a LbStats>,
    /// Priorities that take nothing, unless no other one can.
    pub without: &'a [u32],
}

/// A level of a cluster, and which of its endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub(crate) level: usize,
    pub(crate) availability: Availability,
}

/// The tables of one cluster at one moment.
#[derive(Debug)]
pub(crate) struct Tables {
    whole: Part,
    pub subsets: Option<Subsets>,
    pub healthy: usize,
    pub degraded: usize,
    /// When they are to be made anew because time passed.
    pub due: Option<Instant>,
}

/// The tables of all endpoints, or of a subset.
#[derive(Debug, Default)]
struct Part {
    /// How well each level was when the tables were made.
    health: Box<[LevelHealth]>,
    load: Load,
    levels: Box<[Level]>,
}

/// The endpoints of one priority.
#[derive(Debug)]
struct Level {
    /// Too few are available, so that health is disregarded.
    panic: bool,
    /// Nobody takes a request in panic.
    fails: bool,
    healthy: Option<Balanced>,
    degraded: Option<Balanced>,
}

/// The endpoints of a cluster, as levels of localities: index is the priority.
pub(crate) type Levels = Vec<Vec<Locality>>;

/// The endpoints of one locality at one priority.
#[derive(Debug, Clone)]
pub(crate) struct Locality {
    pub name: Arc<LocalityName>,
    pub weight: Option<u32>,
    pub endpoints: Vec<Arc<Endpoint>>,
}

/// What a cluster's configuration says about its tables.
pub(crate) struct Rules<'a> {
    pub policy: &'a LbPolicy,
    /// Percent.
    pub panic_threshold: f64,
    /// Percent.
    pub overprovisioning: u32,
    pub weighted_priority_health: bool,
    /// Endpoints that were never checked do not count.
    pub ignore_unchecked: bool,
    /// How many workers pick.
    pub workers: usize,
    /// The moment that the tables are made for.
    pub now: Instant,
    /// For zone-aware routing.
    pub local: Option<&'a LocalCluster>,
    pub stats: Option<&'a LbStats>,
}

// === impl Tables ===

impl Tables {
    /// Of a cluster without endpoints.
    pub(crate) fn empty() -> Self {
        Self { whole: Part::default(), subsets: None, healthy: 0, degraded: 0, due: None }
    }

    pub(crate) fn build(levels: &Levels, rules: &Rules<'_>) -> Self {
        let count =
            |health| levels.iter().flatten().flat_map(|l| &l.endpoints).filter(|e| e.health() == health).count();
        Self {
            whole: Part::build(levels, rules),
            subsets: rules.policy.subset.as_ref().map(|config| Subsets::build(config, levels, rules)),
            healthy: count(Health::Healthy),
            degraded: count(Health::Degraded),
            due: rules.due(levels),
        }
    }

    /// How well each level was.
    pub(crate) fn health(&self) -> &[LevelHealth] {
        &self.whole.health
    }

    pub(crate) fn has_priority_besides(&self, without: &[u32]) -> bool {
        self.whole.load.has_besides(without)
    }

    /// The endpoint for one draw, and whether it was picked in panic.
    pub(crate) fn pick(&self, draw: &mut Draw<'_>) -> Option<(&Arc<Endpoint>, bool)> {
        match &self.subsets {
            None => self.whole.pick(draw),
            Some(_) if draw.ahead.is_some() => None,
            Some(subsets) => subsets.pick(&self.whole, draw),
        }
    }
}

// === impl Part ===

impl Part {
    fn build(levels: &Levels, rules: &Rules<'_>) -> Self {
        let health: Box<[LevelHealth]> = levels.iter().map(|level| LevelHealth::of(level, rules)).collect();
        let load = Load::of(&health, rules.panic_threshold);
        let zone_aware = match &rules.policy.locality {
            LocalityLb::ZoneAware(config) => Some(config),
            LocalityLb::Even | LocalityLb::Weighted => None,
        };
        let fails = zone_aware.is_some_and(|config| config.fail_traffic_on_panic);
        let compiled = levels.iter().zip(&load.panic).enumerate().map(|(priority, (level, &panic))| {
            if panic {
                let all = Balanced::build(level, rules, |_| true);
                return Level { panic, fails, healthy: all, degraded: None };
            }
            // Zones play a part in the first priority only, as in Envoy.
            let zones = zone_aware.filter(|_| priority == 0).and_then(|config| Balanced::by_zone(level, config, rules));
            let healthy = zones.or_else(|| Balanced::build(level, rules, |e| e.health() == Health::Healthy));
            let degraded = Balanced::build(level, rules, |e| e.health() == Health::Degraded);
            Level { panic, fails, healthy, degraded }
        });
        Self { levels: compiled.collect(), health, load }
    }

    fn pick(&self, draw: &mut Draw<'_>) -> Option<(&Arc<Endpoint>, bool)> {
        // A consistent hash must also choose the same level each time.
        let hash = match draw.hash {
            Some(hash) => hash,
            None => draw.rng.u64(..),
        };
        let Place { level, availability } = draw.place.or_else(|| self.load.choose(hash, draw.without))?;
        let level = self.levels.get(level)?;
        if level.panic && level.fails {
            return None;
        }
        let balanced = match availability {
            _ if level.panic => level.healthy.as_ref()?,
            Availability::Healthy => level.healthy.as_ref()?,
            Availability::Degraded => level.degraded.as_ref()?,
        };
        Some((balanced.pick(hash, draw)?, level.panic))
    }
}

// === impl Rules ===

impl Rules<'_> {
    /// The weights of endpoints; in hundredths while slow start holds one of them back.
    fn weights(&self, endpoints: &[Arc<Endpoint>]) -> Vec<u64> {
        let now = latency::stamp(self.now);
        let factor = |e: &Endpoint| self.policy.slow_start.as_ref()?.held_back(e.state.time_healthy(now));
        let factors: Vec<Option<f64>> = endpoints.iter().map(|e| factor(e)).collect();
        let scale = if factors.iter().any(Option::is_some) { 100 } else { 1 };
        let reports = matches!(self.policy.algorithm, Algorithm::ClientSide(_));
        let weight = |(endpoint, factor): (&Arc<Endpoint>, &Option<f64>)| {
            let weight = if reports { endpoint.state.reported().current() } else { endpoint.weight };
            let weight = u64::from(weight) * scale;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            match factor {
                Some(factor) => ((weight as f64 * factor).round() as u64).max(1),
                None => weight,
            }
        };
        endpoints.iter().zip(&factors).map(weight).collect()
    }

    /// When time will have changed the weights: slow start, and what endpoints report.
    fn due(&self, levels: &Levels) -> Option<Instant> {
        let reports = match &self.policy.algorithm {
            Algorithm::ClientSide(config) => Some(self.now + config.update),
            _ => None,
        };
        [reports, self.slow_start_due(levels)].into_iter().flatten().min()
    }

    fn slow_start_due(&self, levels: &Levels) -> Option<Instant> {
        let slow_start = self.policy.slow_start.as_ref()?;
        let now = latency::stamp(self.now);
        let mut endpoints = levels.iter().flatten().flat_map(|l| &l.endpoints);
        let is_held = |e: &Arc<Endpoint>| {
            e.health() == Health::Healthy && slow_start.held_back(e.state.time_healthy(now)).is_some()
        };
        endpoints.any(is_held).then(|| self.now + slow_start.step())
    }
}

#[cfg(test)]
mod tests;
