//! Endpoints among which the policy decides, and the policies.
//!
//! What a pick costs is here: a draw and a few atomic reads, whatever the number of endpoints, except where the
//! operator asked for all of them to be compared.

use std::sync::Arc;

use shared_config::lb_policy::{Algorithm, LeastRequest, LeastTime, PeakEwma};

use super::alias::Alias;
use super::bounded::Bounded;
use super::hash_ring::Ring;
use super::schedule::Schedule;
use super::{Draw, Rules, latency, maglev};
use crate::endpoint::{Endpoint, Vitals};

/// Endpoints and the rule that picks one of them.
#[derive(Debug)]
pub(super) struct Group {
    endpoints: Box<[Arc<Endpoint>]>,
    /// Those of the endpoints: comparing them does not touch the endpoints.
    vitals: Box<[&'static Vitals]>,
    rule: Rule,
}

#[derive(Debug)]
enum Rule {
    RoundRobin(Schedule),
    /// Of so many endpoints drawn by chance.
    LeastRequest(u32),
    /// Of all endpoints, with their weights.
    LeastOfAll(f64, Box<[u64]>),
    WeightedLeastRequest(LeastRequest, Alias),
    PeakEwma(PeakEwma, Option<Odds>),
    LeastTime(LeastTime),
    Random,
    Ring(Ring, Option<Bounded>),
    Maglev(maglev::Table, Option<Bounded>),
}

/// How unequal weights play into a draw.
#[derive(Debug)]
struct Odds {
    alias: Alias,
    /// Of the weights.
    mean: f64,
}

/// Draws for another endpoint than the first one.
const MORE_DRAWS: usize = 4;

// === impl Group ===

impl Group {
    pub(super) fn build(endpoints: Vec<Arc<Endpoint>>, shares: Option<Vec<f64>>, rules: &Rules<'_>) -> Self {
        let weights: Vec<u64> = rules.weights(&endpoints);
        let even = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let shares =
            || normalized(shares.clone().unwrap_or_else(|| endpoints.iter().map(|e| e.weight.into()).collect()));
        let rule = match &rules.policy.algorithm {
            Algorithm::RoundRobin | Algorithm::ClientSide(_) => {
                Rule::RoundRobin(Schedule::build(&weights, rules.workers))
            }
            Algorithm::LeastRequest(config) if config.full_scan => Rule::LeastOfAll(config.bias, weights.into()),
            Algorithm::LeastRequest(config) if even => Rule::LeastRequest(config.choices),
            Algorithm::LeastRequest(config) => Rule::WeightedLeastRequest(config.clone(), Alias::build(&weights)),
            Algorithm::PeakEwma(config) => Rule::PeakEwma(*config, (!even).then(|| Odds::build(&weights))),
            Algorithm::LeastTime(config) => Rule::LeastTime(*config),
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
        let vitals = endpoints.iter().map(|endpoint| endpoint.vitals).collect();
        Self { endpoints: endpoints.into(), vitals, rule }
    }

    pub(super) fn pick(&self, hash: u64, draw: &mut Draw<'_>) -> Option<&Arc<Endpoint>> {
        let index = match &self.rule {
            Rule::RoundRobin(schedule) => match draw.ahead {
                Some(ahead) => schedule.peek(draw.worker, ahead),
                None => schedule.next(draw.worker),
            },
            Rule::Random => draw.rng.usize(..self.endpoints.len()),
            // The others depend on the request, or on what runs by then.
            _ if draw.ahead.is_some() => return None,
            Rule::LeastRequest(choices) => self.least_of(*choices, draw.rng),
            Rule::LeastOfAll(bias, weights) => self.least_of_all(*bias, weights, draw.rng),
            Rule::WeightedLeastRequest(config, alias) => self.least_weighted(config, alias, draw.rng),
            Rule::PeakEwma(config, odds) => self.shortest_wait(config, odds.as_ref(), draw),
            Rule::LeastTime(config) => self.least_time(config, draw),
            Rule::Ring(ring, bounded) => {
                let index = ring.find(hash, draw.attempt)?;
                bounded.as_ref().map_or(index, |b| b.choose(index, hash, &self.vitals, (draw.active)()))
            }
            Rule::Maglev(table, bounded) => {
                let index = table.find(hash, draw.attempt)?;
                bounded.as_ref().map_or(index, |b| b.choose(index, hash, &self.vitals, (draw.active)()))
            }
        };
        self.endpoints.get(index)
    }

    /// The least loaded of some endpoints drawn by chance (the power of two choices).
    fn least_of(&self, choices: u32, rng: &mut fastrand::Rng) -> usize {
        let mut best = rng.usize(..self.vitals.len());
        let mut least = self.vitals[best].active();
        for _ in 1..choices {
            let index = rng.usize(..self.vitals.len());
            let active = self.vitals[index].active();
            if active < least {
                (best, least) = (index, active);
            }
        }
        best
    }

    /// The least loaded for its weight of all endpoints; one of them by chance when several are.
    #[allow(clippy::cast_precision_loss, reason = "weights are far below 2^52")]
    fn least_of_all(&self, bias: f64, weights: &[u64], rng: &mut fastrand::Rng) -> usize {
        let (mut best, mut most, mut ties) = (0, f64::NEG_INFINITY, 0);
        for ((index, vitals), weight) in self.vitals.iter().enumerate().zip(weights) {
            let room = room(vitals, bias) * *weight as f64;
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
            sum += room(self.vitals[index], config.bias);
            *candidate = (index, sum);
        }
        let target = rng.f64() * sum;
        candidates[..count].iter().find(|(_, upto)| target < *upto).unwrap_or(&candidates[count - 1]).0
    }

    /// Of two different endpoints drawn by weight, the one with the shorter expected wait.
    fn shortest_wait(&self, config: &PeakEwma, odds: Option<&Odds>, draw: &mut Draw<'_>) -> usize {
        let now = draw.now.map(latency::moment);
        let count = self.vitals.len();
        let (first, second) = match odds {
            Some(odds) => {
                let first = odds.alias.draw(draw.rng);
                // One with nearly all the weight is drawn again and again.
                let second = (0..MORE_DRAWS).map(|_| odds.alias.draw(draw.rng)).find(|index| *index != first);
                (first, second.unwrap_or(first))
            }
            None if count < 2 => (0, 0),
            None => {
                let first = draw.rng.usize(..count);
                (first, (first + draw.rng.usize(1..count)) % count)
            }
        };
        if first == second {
            return first;
        }
        let wait = |index: usize| {
            let vitals = self.vitals[index];
            let active = f64::from(vitals.active());
            // Requests count for more at an endpoint that is made for fewer.
            let active = odds.map_or(active, |odds| active * odds.mean / f64::from(self.endpoints[index].weight));
            match vitals.latency.read(now, config.decay) {
                Some(time) => time * (active + 1.0),
                // One request finds out; more would be a guess.
                None if active == 0.0 => 0.0,
                None => config.default_rtt.as_secs_f64() * (active + 1.0),
            }
        };
        if wait(second) < wait(first) { second } else { first }
    }

    /// The endpoint with the least time for its weight; one of them by chance when several have it.
    fn least_time(&self, config: &LeastTime, draw: &mut Draw<'_>) -> usize {
        let now = draw.now.map(latency::moment);
        let (mut best, mut least, mut ties) = (0, f64::INFINITY, 0);
        let mut consider = |index: usize, rng: &mut fastrand::Rng| {
            let endpoint = &self.endpoints[index];
            let active = f64::from(endpoint.vitals.active());
            let time = match endpoint.vitals.latency.read(now, latency::DECAY) {
                Some(time) => time * (active + 1.0) / f64::from(endpoint.weight),
                None if active == 0.0 => 0.0,
                None => latency::LOSS.as_secs_f64() * (active + 1.0) / f64::from(endpoint.weight),
            };
            if time < least {
                (best, least, ties) = (index, time, 1);
            } else if time <= least {
                ties += 1;
                if rng.u32(..ties) == 0 {
                    best = index;
                }
            }
        };
        match config.choices {
            Some(choices) if (choices as usize) < self.endpoints.len() => {
                for _ in 0..choices {
                    let index = draw.rng.usize(..self.endpoints.len());
                    consider(index, draw.rng);
                }
            }
            _ => (0..self.endpoints.len()).for_each(|index| consider(index, draw.rng)),
        }
        best
    }
}

// === impl Odds ===

impl Odds {
    #[allow(clippy::cast_precision_loss, reason = "sums of weights are far below 2^52")]
    fn build(weights: &[u64]) -> Self {
        let mean = weights.iter().sum::<u64>() as f64 / weights.len().max(1) as f64;
        Self { alias: Alias::build(weights), mean }
    }
}

/// How much an endpoint can still take, between 0 and 1.
fn room(vitals: &Vitals, bias: f64) -> f64 {
    let active = f64::from(vitals.active()) + 1.0;
    if bias == 1.0 { 1.0 / active } else { active.powf(-bias) }
}

/// Shares that add up to 1.
fn normalized(mut shares: Vec<f64>) -> Vec<f64> {
    let sum: f64 = shares.iter().sum();
    shares.iter_mut().for_each(|share| *share /= sum);
    shares
}
