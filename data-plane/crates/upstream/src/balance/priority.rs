//! Which priority level takes a request: the first, until it is not well enough; then part of it spills over.

use super::{Locality, Place, Rules};
use crate::endpoint::{Endpoint, Health};

/// Shares of the load in percent, and which levels are in panic.
#[derive(Debug, PartialEq, Default)]
pub(crate) struct Load {
    healthy: Box<[u32]>,
    degraded: Box<[u32]>,
    pub panic: Box<[bool]>,
}

/// Which endpoints of a level are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Availability {
    Healthy,
    Degraded,
}

/// What one level has, in endpoints or in their weights.
#[derive(Debug, Clone, Copy, Default)]
struct Level {
    total: u64,
    /// Without those that do not count for now.
    eligible: u64,
    healthy: u64,
    degraded: u64,
}

/// How well one level is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LevelHealth {
    counts: Level,
    /// Percent of the load that its healthy and its degraded endpoints can take.
    healthy: u32,
    degraded: u32,
}

impl LevelHealth {
    pub(crate) fn of(level: &[Locality], rules: &Rules<'_>) -> Self {
        let counts = Level::count(level, rules, |_| 1);
        let sums =
            if rules.weighted_priority_health { Level::count(level, rules, |e| e.weight.into()) } else { counts };
        Self {
            counts,
            healthy: percent(sums.healthy, sums.eligible, rules.overprovisioning),
            degraded: percent(sums.degraded, sums.eligible, rules.overprovisioning),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.counts.total == 0
    }
}

impl Load {
    /// The shares of levels in the order of their preference.
    pub(crate) fn of(levels: &[LevelHealth], panic_threshold: f64) -> Self {
        let counts: Vec<Level> = levels.iter().map(|l| l.counts).collect();
        let healths: Vec<u32> = levels.iter().map(|l| l.healthy).collect();
        let degraded: Vec<u32> = levels.iter().map(|l| l.degraded).collect();
        let available = healths.iter().chain(&degraded).sum::<u32>().min(100);
        let panic: Box<[bool]> = counts.iter().map(|l| available < 100 && l.is_panic(panic_threshold)).collect();
        if available == 0 && panic_threshold == 0.0 || levels.is_empty() {
            return Self::first(levels.len(), panic);
        }
        if panic.iter().all(|panic| *panic) {
            return Self::by_count(&counts, panic);
        }
        Self::by_health(&healths, &degraded, available, panic)
    }

    /// The level and the kind of endpoints for a hash.
    pub(crate) fn choose(&self, hash: u64) -> Option<Place> {
        #[allow(clippy::cast_possible_truncation, reason = "at most 100")]
        let point = (hash % 100 + 1) as u32;
        let mut sum = 0;
        let healthy = self.healthy.iter().map(|load| (load, Availability::Healthy)).enumerate();
        let degraded = self.degraded.iter().map(|load| (load, Availability::Degraded)).enumerate();
        for (level, (load, availability)) in healthy.chain(degraded) {
            sum += load;
            if point <= sum {
                return Some(Place { level, availability });
            }
        }
        None
    }

    /// Nothing is available and panic is off: the first level gets it all, and has nobody to take it.
    fn first(count: usize, panic: Box<[bool]>) -> Self {
        let mut healthy = vec![0; count];
        if let Some(first) = healthy.first_mut() {
            *first = 100;
        }
        Self { healthy: healthy.into(), degraded: vec![0; count].into(), panic }
    }

    /// All levels are in panic: each takes as much as it has endpoints.
    fn by_count(counts: &[Level], panic: Box<[bool]>) -> Self {
        let total: u64 = counts.iter().map(|l| l.total).sum();
        let mut healthy: Vec<u32> =
            counts.iter().map(|l| u32::try_from(100 * l.total / total.max(1)).unwrap_or(100)).collect();
        let first = counts.iter().position(|l| l.total > 0).unwrap_or(0);
        let rest = 100 - healthy.iter().sum::<u32>().min(100);
        if let Some(first) = healthy.get_mut(first) {
            *first += rest;
        }
        Self { degraded: vec![0; counts.len()].into(), healthy: healthy.into(), panic }
    }

    fn by_health(healths: &[u32], degraded: &[u32], available: u32, panic: Box<[bool]>) -> Self {
        let mut left = 100;
        let mut share = |level: &u32| {
            let share = (level * 100 / available).min(left);
            left -= share;
            share
        };
        let mut healthy: Vec<u32> = healths.iter().map(&mut share).collect();
        let mut spilled: Vec<u32> = degraded.iter().map(&mut share).collect();
        // What rounding left over goes to the first level that takes anything.
        if let Some(first) = healthy.iter_mut().chain(&mut spilled).find(|share| **share > 0) {
            *first += left;
        }
        Self { healthy: healthy.into(), degraded: spilled.into(), panic }
    }
}

impl Level {
    fn count(localities: &[Locality], rules: &Rules<'_>, weight: impl Fn(&Endpoint) -> u64) -> Self {
        let mut level = Self::default();
        for endpoint in localities.iter().flat_map(|l| &l.endpoints) {
            let weight = weight(endpoint);
            level.total += weight;
            if !endpoint.is_excluded(rules.ignore_unchecked) {
                level.eligible += weight;
            }
            match endpoint.health() {
                Health::Healthy => level.healthy += weight,
                Health::Degraded => level.degraded += weight,
                Health::Unhealthy => {}
            }
        }
        level
    }

    #[allow(clippy::cast_precision_loss, reason = "fewer than 2^52 endpoints")]
    fn is_panic(&self, threshold: f64) -> bool {
        let available = match self.eligible {
            0 => 0.0,
            eligible => 100.0 * (self.healthy + self.degraded) as f64 / eligible as f64,
        };
        available < threshold
    }
}

fn percent(part: u64, total: u64, overprovisioning: u32) -> u32 {
    if total == 0 {
        return 0;
    }
    u32::try_from(u128::from(part) * u128::from(overprovisioning) / u128::from(total)).unwrap_or(u32::MAX).min(100)
}
