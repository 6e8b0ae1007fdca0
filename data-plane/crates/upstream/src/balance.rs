//! Balancing tables: compiled from the endpoints of a cluster and their health, read by every pick without a lock.
//!
//! The order is Envoy's: a priority level by its share of the load, a locality by its weight, an endpoint by the
//! policy. Pure: never looks at the clock; health is read when the tables are made and once more for the endpoint found.

use std::sync::Arc;

use shared_config::lb_policy::{Algorithm, LbPolicy, LeastRequest};

use crate::endpoint::{Endpoint, Health};

pub mod alias;
pub mod bounded;
pub mod hash_ring;
pub mod maglev;
pub mod priority;
pub mod schedule;

use alias::Alias;
use bounded::Bounded;
use hash_ring::Ring;
use priority::{Availability, Load};
use schedule::Schedule;

/// What a pick depends on, besides the tables.
pub(crate) struct Draw<'a> {
    pub rng: &'a mut fastrand::Rng,
    pub hash: Option<u64>,
    pub worker: usize,
    /// How many endpoints were turned down already.
    pub attempt: u32,
    /// Requests in progress in the whole cluster, for bounded loads.
    pub active: &'a dyn Fn() -> u32,
}

/// The tables of one cluster at one moment.
#[derive(Debug)]
pub(crate) struct Tables {
    load: Load,
    levels: Box<[Level]>,
    pub healthy: usize,
    pub degraded: usize,
}

/// The endpoints of one priority.
#[derive(Debug)]
struct Level {
    /// Too few are available, so that health is disregarded.
    panic: bool,
    healthy: Option<Balanced>,
    degraded: Option<Balanced>,
}

/// Localities by weight, each with its endpoints; or one group.
#[derive(Debug)]
struct Balanced {
    groups: Box<[Group]>,
    localities: Option<Schedule>,
}

/// Endpoints among which the policy decides.
#[derive(Debug)]
struct Group {
    endpoints: Box<[Arc<Endpoint>]>,
    rule: Rule,
}

#[derive(Debug)]
enum Rule {
    RoundRobin(Schedule),
    LeastRequest(LeastRequest),
    WeightedLeastRequest(LeastRequest, Alias),
    Random,
    Ring(Ring, Option<Bounded>),
    Maglev(maglev::Table, Option<Bounded>),
}

/// The endpoints of a cluster, as levels of localities: index is the priority.
pub(crate) type Levels = Vec<Vec<Locality>>;

/// The endpoints of one locality at one priority.
#[derive(Debug, Clone)]
pub(crate) struct Locality {
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
    /// How many workers pick.
    pub workers: usize,
}

// === impl Tables ===

impl Tables {
    /// Of a cluster without endpoints.
    pub(crate) fn empty() -> Self {
        Self { load: Load::default(), levels: Box::default(), healthy: 0, degraded: 0 }
    }

    pub(crate) fn build(levels: &Levels, rules: &Rules<'_>) -> Self {
        let load = Load::of(levels, rules);
        let count =
            |health| levels.iter().flatten().flat_map(|l| &l.endpoints).filter(|e| e.health() == health).count();
        let compiled = levels.iter().zip(&load.panic).map(|(level, &panic)| {
            if panic {
                let all = Balanced::build(level, rules, |_| true);
                return Level { panic, healthy: all, degraded: None };
            }
            let healthy = Balanced::build(level, rules, |e| e.health() == Health::Healthy);
            let degraded = Balanced::build(level, rules, |e| e.health() == Health::Degraded);
            Level { panic, healthy, degraded }
        });
        Self { levels: compiled.collect(), healthy: count(Health::Healthy), degraded: count(Health::Degraded), load }
    }

    /// The endpoint for one draw, and whether it was picked in panic.
    pub(crate) fn pick(&self, draw: &mut Draw<'_>) -> Option<(&Arc<Endpoint>, bool)> {
        // A consistent hash must also choose the same level each time.
        let hash = match draw.hash {
            Some(hash) => hash,
            None => draw.rng.u64(..),
        };
        let (index, availability) = self.load.choose(hash)?;
        let level = self.levels.get(index)?;
        let balanced = match availability {
            Availability::Healthy => level.healthy.as_ref()?,
            Availability::Degraded => level.degraded.as_ref()?,
        };
        Some((balanced.pick(hash, draw)?, level.panic))
    }
}

// === impl Balanced ===

impl Balanced {
    fn build(level: &[Locality], rules: &Rules<'_>, usable: impl Fn(&Endpoint) -> bool) -> Option<Self> {
        let filter = |l: &Locality| -> Vec<_> { l.endpoints.iter().filter(|e| usable(e)).cloned().collect() };
        let hashing = matches!(rules.policy.algorithm, Algorithm::RingHash(_) | Algorithm::Maglev(_));
        let weighted = rules.policy.locality_weighted && level.iter().any(|l| l.weight.unwrap_or(0) > 0);
        if !weighted {
            let endpoints: Vec<_> = level.iter().flat_map(filter).collect();
            return (!endpoints.is_empty()).then(|| Self::flat(Group::build(endpoints, None, rules)));
        }
        if hashing {
            // Each locality's share is divided among its endpoints, in one table.
            let mut endpoints = Vec::new();
            let mut shares = Vec::new();
            for locality in level {
                let found = filter(locality);
                let sum: f64 = found.iter().map(|e| f64::from(e.weight)).sum();
                let weight = f64::from(locality.weight.unwrap_or(0));
                if weight > 0.0 {
                    shares.extend(found.iter().map(|e| weight * f64::from(e.weight) / sum));
                    endpoints.extend(found);
                }
            }
            return (!endpoints.is_empty()).then(|| Self::flat(Group::build(endpoints, Some(shares), rules)));
        }
        let mut groups = Vec::new();
        let mut weights = Vec::new();
        for locality in level {
            let found = filter(locality);
            let weight = locality_weight(locality, found.len(), rules.overprovisioning);
            if weight > 0 && !found.is_empty() {
                weights.push(weight);
                groups.push(Group::build(found, None, rules));
            }
        }
        let localities = (groups.len() > 1).then(|| Schedule::build(&weights, rules.workers));
        (!groups.is_empty()).then(|| Self { groups: groups.into(), localities })
    }

    fn flat(group: Group) -> Self {
        Self { groups: Box::new([group]), localities: None }
    }

    fn pick(&self, hash: u64, draw: &mut Draw<'_>) -> Option<&Arc<Endpoint>> {
        let index = self.localities.as_ref().map_or(0, |schedule| schedule.next(draw.worker));
        self.groups.get(index)?.pick(hash, draw)
    }
}

/// A locality whose endpoints are partly away takes less than its weight, in thousandths of it.
fn locality_weight(locality: &Locality, available: usize, overprovisioning: u32) -> u64 {
    let total = locality.endpoints.len() as u64;
    if total == 0 {
        return 0;
    }
    let thousandths = (available as u64 * u64::from(overprovisioning) * 10 / total).min(1000);
    let weight = u64::from(locality.weight.unwrap_or(0));
    (weight * thousandths).max(u64::from(weight > 0 && available > 0))
}

// === impl Group ===

impl Group {
    fn build(endpoints: Vec<Arc<Endpoint>>, shares: Option<Vec<f64>>, rules: &Rules<'_>) -> Self {
        let weights = || -> Vec<u64> { endpoints.iter().map(|e| u64::from(e.weight)).collect() };
        let shares =
            || normalized(shares.clone().unwrap_or_else(|| endpoints.iter().map(|e| e.weight.into()).collect()));
        let rule = match &rules.policy.algorithm {
            Algorithm::RoundRobin => Rule::RoundRobin(Schedule::build(&weights(), rules.workers)),
            Algorithm::LeastRequest(config) => {
                let even = endpoints.windows(2).all(|pair| pair[0].weight == pair[1].weight);
                if even || config.full_scan {
                    Rule::LeastRequest(config.clone())
                } else {
                    Rule::WeightedLeastRequest(config.clone(), Alias::build(&weights()))
                }
            }
            Algorithm::Random => Rule::Random,
            Algorithm::RingHash(config) => {
                let shares = shares();
                let bounded = config.consistent.balance_factor.map(|factor| Bounded::new(factor, shares.clone()));
                Rule::Ring(Ring::build(config, &endpoints, &shares), bounded)
            }
            Algorithm::Maglev(config) => {
                let shares = shares();
                let bounded = config.consistent.balance_factor.map(|factor| Bounded::new(factor, shares.clone()));
                Rule::Maglev(maglev::Table::build(config, &endpoints, &shares), bounded)
            }
        };
        Self { endpoints: endpoints.into(), rule }
    }

    fn pick(&self, hash: u64, draw: &mut Draw<'_>) -> Option<&Arc<Endpoint>> {
        let index = match &self.rule {
            Rule::RoundRobin(schedule) => schedule.next(draw.worker),
            Rule::LeastRequest(config) if config.full_scan => self.least_of_all(config.bias, draw.rng),
            Rule::LeastRequest(config) => self.least_of(config.choices, draw.rng),
            Rule::WeightedLeastRequest(config, alias) => self.least_weighted(config, alias, draw.rng),
            Rule::Random => draw.rng.usize(..self.endpoints.len()),
            Rule::Ring(ring, bounded) => {
                let index = ring.find(hash, draw.attempt)?;
                bounded.as_ref().map_or(index, |b| b.choose(index, hash, &self.endpoints, (draw.active)()))
            }
            Rule::Maglev(table, bounded) => {
                let index = table.find(hash, draw.attempt)?;
                bounded.as_ref().map_or(index, |b| b.choose(index, hash, &self.endpoints, (draw.active)()))
            }
        };
        self.endpoints.get(index)
    }

    /// The least loaded of some endpoints drawn by chance (the power of two choices).
    fn least_of(&self, choices: u32, rng: &mut fastrand::Rng) -> usize {
        let mut best = rng.usize(..self.endpoints.len());
        let mut least = self.endpoints[best].state.active();
        for _ in 1..choices {
            let index = rng.usize(..self.endpoints.len());
            let active = self.endpoints[index].state.active();
            if active < least {
                (best, least) = (index, active);
            }
        }
        best
    }

    /// The least loaded for its weight of all endpoints; one of them by chance when several are.
    fn least_of_all(&self, bias: f64, rng: &mut fastrand::Rng) -> usize {
        let (mut best, mut most, mut ties) = (0, f64::NEG_INFINITY, 0);
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            let room = room(endpoint, bias) * f64::from(endpoint.weight);
            if room > most {
                (best, most, ties) = (index, room, 1);
            } else if room >= most {
                ties += 1;
                if rng.u32(..ties) == 0 {
                    best = index;
                }
            }
        }
        best
    }

    /// Candidates are drawn by weight, then one of them by 1 / (active + 1)^bias: the more candidates, the closer to
    /// Envoy's weight / (active + 1)^bias, without its scheduler behind a lock.
    fn least_weighted(&self, config: &LeastRequest, alias: &Alias, rng: &mut fastrand::Rng) -> usize {
        const CANDIDATES: usize = 8;
        let count = (config.choices as usize).clamp(4, CANDIDATES);
        let mut candidates = [(0, 0.0); CANDIDATES];
        let mut sum = 0.0;
        for candidate in &mut candidates[..count] {
            let index = alias.draw(rng);
            sum += room(&self.endpoints[index], config.bias);
            *candidate = (index, sum);
        }
        let target = rng.f64() * sum;
        candidates[..count].iter().find(|(_, upto)| target < *upto).unwrap_or(&candidates[count - 1]).0
    }
}

/// How much an endpoint can still take, between 0 and 1.
fn room(endpoint: &Endpoint, bias: f64) -> f64 {
    let active = f64::from(endpoint.state.active()) + 1.0;
    if bias == 1.0 { 1.0 / active } else { active.powf(-bias) }
}

/// Shares that add up to 1.
fn normalized(mut shares: Vec<f64>) -> Vec<f64> {
    let sum: f64 = shares.iter().sum();
    shares.iter_mut().for_each(|share| *share /= sum);
    shares
}

#[cfg(test)]
mod tests;
