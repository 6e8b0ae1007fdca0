//! Zone-aware routing: traffic stays in this node's zone as far as the zones' shares of endpoints allow.
//!
//! Each zone of the local cluster (the proxies) is to send as much as it has proxies; each zone of the upstream is to get
//! as much as it has endpoints. What a zone sends more than it gets goes to the zones that get more than they send.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwapOption;
use shared_config::endpoint::Locality as Name;
use shared_config::lb_policy::{LocalityBasis, ZoneAware};

use super::{Draw, Locality, Rules};
use crate::endpoint::{Endpoint, Health};
use crate::refresh::Bell;
use crate::stats::LbStats;

/// The cluster that this proxy is an endpoint of, and where in it (`cluster_manager.local_cluster_name`).
#[derive(Debug)]
pub struct LocalCluster {
    pub name: Arc<str>,
    /// Where this proxy is.
    pub locality: Name,
    counts: ArcSwapOption<Counts>,
    changes: AtomicU64,
    bell: Bell,
}

/// What the local cluster has that is healthy.
#[derive(Debug, PartialEq, Default)]
struct Counts {
    zones: Vec<(Arc<Name>, Share)>,
    /// Percent of the endpoints that are healthy or degraded.
    available: f64,
}

/// How much of a cluster is in one zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Share {
    endpoints: u64,
    weight: u64,
}

/// Zones, each with what was found there.
pub(super) type Zones = Vec<(Arc<Name>, Vec<Arc<Endpoint>>)>;

/// Where the traffic of this node goes; zones are numbered with the local one first.
#[derive(Debug)]
pub(super) struct Routes {
    /// The zones in this order, as indexes into what they were made from.
    order: Box<[usize]>,
    has_local: bool,
    config: ZoneAware,
    local_panic: bool,
    way: Way,
}

#[derive(Debug, PartialEq)]
enum Way {
    /// All in the local zone.
    Direct,
    /// So much of 10,000 in the local zone, the rest where there is room: running sums.
    Residual(u64, Box<[u64]>),
}

/// Parts of a whole in 10,000.
const WHOLE: u64 = 10_000;

// === impl LocalCluster ===

impl LocalCluster {
    /// `bell` is rung when it changes.
    pub fn new(name: &str, locality: Name, bell: Bell) -> Self {
        Self { name: name.into(), locality, counts: ArcSwapOption::empty(), changes: AtomicU64::new(0), bell }
    }

    /// Notes how the local cluster is now.
    pub(crate) fn note(&self, level: &[Locality]) {
        let counts = Counts::of(level);
        if self.counts.load().as_deref() != Some(&counts) {
            self.counts.store(Some(Arc::new(counts)));
            self.changes.fetch_add(1, Relaxed);
            self.bell.ring();
        }
    }

    /// Grows with each change, so that who depends on it can tell.
    pub fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }
}

impl Counts {
    #[allow(clippy::cast_precision_loss, reason = "fewer than 2^52 endpoints")]
    fn of(level: &[Locality]) -> Self {
        let all = || level.iter().flat_map(|l| &l.endpoints);
        let available = all().filter(|e| e.health() != Health::Unhealthy).count();
        Self {
            zones: healthy(level).into_iter().map(|(name, list)| (name, Share::of(&list))).collect(),
            available: 100.0 * available as f64 / all().count().max(1) as f64,
        }
    }

    fn zone(&self, name: &Name) -> Share {
        self.zones.iter().find(|(zone, _)| **zone == *name).map_or(Share::default(), |(_, share)| *share)
    }
}

impl Share {
    fn of(endpoints: &[Arc<Endpoint>]) -> Self {
        let weight = endpoints.iter().map(|e| u64::from(e.weight)).sum();
        Self { endpoints: endpoints.len() as u64, weight }
    }

    fn by(self, basis: LocalityBasis) -> u64 {
        match basis {
            LocalityBasis::HealthyEndpoints => self.endpoints,
            LocalityBasis::HealthyWeight => self.weight,
        }
    }
}

/// The healthy endpoints by locality, without the localities that have none.
pub(super) fn healthy(level: &[Locality]) -> Zones {
    let endpoints =
        |l: &Locality| -> Vec<_> { l.endpoints.iter().filter(|e| e.health() == Health::Healthy).cloned().collect() };
    let zones = level.iter().map(|locality| (Arc::clone(&locality.name), endpoints(locality)));
    zones.filter(|(_, endpoints)| !endpoints.is_empty()).collect()
}

// === impl Routes ===

impl Routes {
    /// `None` when localities play no part: too few endpoints or zones, or nothing is known of the local cluster.
    pub(super) fn compile(zones: &Zones, config: &ZoneAware, rules: &Rules<'_>) -> Option<Self> {
        let local = rules.local?;
        let counts = local.counts.load_full()?;
        let healthy: usize = zones.iter().map(|(_, endpoints)| endpoints.len()).sum();
        if let Some(stats) = rules.stats {
            stats.lb_recalculate_zone_structures().inc(0);
        }
        if zones.len() < 2 {
            return None;
        }
        if (healthy as u64) < config.min_cluster_size {
            if let Some(stats) = rules.stats {
                stats.lb_zone_cluster_too_small().inc(0);
            }
            return None;
        }
        let mut order: Vec<usize> = (0..zones.len()).collect();
        order.sort_by_key(|at| *zones[*at].0 != local.locality);
        let has_local = *zones[order[0]].0 == local.locality;
        let upstream: u64 = zones.iter().map(|(_, endpoints)| Share::of(endpoints).by(config.basis)).sum();
        let proxies: u64 = counts.zones.iter().map(|(_, share)| share.by(config.basis)).sum();
        let shares: Vec<(u64, u64)> = order
            .iter()
            .map(|at| {
                let (name, endpoints) = &zones[*at];
                let sends = WHOLE * counts.zone(name).by(config.basis) / proxies.max(1);
                (sends, WHOLE * Share::of(endpoints).by(config.basis) / upstream.max(1))
            })
            .collect();
        let way = Way::of(&shares, has_local, config.force_direct);
        Some(Self {
            order: order.into(),
            has_local,
            config: *config,
            local_panic: counts.available < rules.panic_threshold,
            way,
        })
    }

    pub(super) fn order(&self) -> impl Iterator<Item = usize> {
        self.order.iter().copied()
    }

    /// The zone for one pick; `None` for all endpoints. The outer `None`: nobody is to take it.
    pub(super) fn choose(&self, draw: &mut Draw<'_>) -> Option<Option<usize>> {
        let (stats, shard) = (draw.stats, draw.worker + 1);
        let count = |inc: fn(&LbStats, usize)| {
            if let Some(stats) = stats {
                inc(stats, shard);
            }
        };
        if self.config.enabled < 100.0 && draw.rng.f64() * 100.0 >= self.config.enabled {
            return Some(None);
        }
        if self.local_panic {
            count(|stats, shard| stats.lb_local_cluster_not_ok().inc(shard));
            return (!self.config.fail_traffic_on_panic).then_some(None);
        }
        let (kept, room) = match &self.way {
            Way::Direct => {
                count(|stats, shard| stats.lb_zone_routing_all_directly().inc(shard));
                return Some(Some(0));
            }
            Way::Residual(kept, room) => (*kept, room),
        };
        if self.has_local && draw.rng.u64(..WHOLE) < kept {
            count(|stats, shard| stats.lb_zone_routing_sampled().inc(shard));
            return Some(Some(0));
        }
        count(|stats, shard| stats.lb_zone_routing_cross_zone().inc(shard));
        match room.last().copied().unwrap_or(0) {
            // Rounding can leave no room anywhere.
            0 => {
                count(|stats, shard| stats.lb_zone_no_capacity_left().inc(shard));
                Some(Some(draw.rng.usize(..self.order.len())))
            }
            all => {
                let point = draw.rng.u64(..all);
                Some(Some(room.partition_point(|sum| *sum <= point)))
            }
        }
    }
}

impl Way {
    /// `shares`: what each zone sends and gets, the local one first when there is one.
    fn of(shares: &[(u64, u64)], has_local: bool, force_direct: bool) -> Self {
        let (sends, gets) = shares.first().copied().unwrap_or_default();
        if has_local && gets > 0 && (gets >= sends || force_direct) {
            return Self::Direct;
        }
        let kept = if has_local && sends > 0 { gets * WHOLE / sends } else { 0 };
        let mut sum = 0;
        let room = shares.iter().enumerate().map(|(index, (sends, gets))| {
            if !(has_local && index == 0) {
                sum += gets.saturating_sub(*sends);
            }
            sum
        });
        Self::Residual(kept, room.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_own_zone_cannot_take_goes_where_there_is_room() {
        let check = |shares: &[(u64, u64)], has_local, wanted| assert_eq!(Way::of(shares, has_local, false), wanted);
        check(&[(5000, 5000), (5000, 5000)], true, Way::Direct);
        check(&[(3000, 5000), (7000, 5000)], true, Way::Direct);
        // Envoy's documentation: 20 % of the proxies and 10 % of the endpoints keep half.
        let room = |sums: &[u64]| Box::from(sums);
        check(&[(2000, 1000), (4000, 4500), (4000, 4500)], true, Way::Residual(5000, room(&[0, 500, 1000])));
        check(&[(5000, 2500), (2500, 2500), (2500, 5000)], true, Way::Residual(5000, room(&[0, 0, 2500])));
        check(&[(0, 5000), (0, 5000)], false, Way::Residual(0, room(&[5000, 10_000])));
        assert_eq!(Way::of(&[(5000, 1000), (5000, 9000)], true, true), Way::Direct);
    }
}
