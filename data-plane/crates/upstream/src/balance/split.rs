//! A priority level's endpoints, split over localities as the policy says.

use std::sync::Arc;

use shared_config::lb_policy::{Algorithm, LocalityLb, ZoneAware};

use super::group::Group;
use super::schedule::Schedule;
use super::zone::Routes;
use super::{Draw, Locality, Rules, zone};
use crate::endpoint::Endpoint;

/// Localities by weight or by zone, each with its endpoints; or one group.
#[derive(Debug)]
pub(super) struct Balanced {
    groups: Box<[Group]>,
    split: Split,
}

#[derive(Debug)]
enum Split {
    One,
    Weighted(Schedule),
    Zones(Routes),
}

// === impl Balanced ===

impl Balanced {
    pub(super) fn build(level: &[Locality], rules: &Rules<'_>, usable: impl Fn(&Endpoint) -> bool) -> Option<Self> {
        let filter = |l: &Locality| -> Vec<_> { l.endpoints.iter().filter(|e| usable(e)).cloned().collect() };
        let weighted =
            matches!(rules.policy.locality, LocalityLb::Weighted) && level.iter().any(|l| l.weight.unwrap_or(0) > 0);
        if !weighted {
            let endpoints: Vec<_> = level.iter().flat_map(filter).collect();
            return (!endpoints.is_empty()).then(|| Self::flat(Group::build(endpoints, None, rules)));
        }
        if is_hashing(rules) {
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
            let weight = locality_weight(locality, found.len(), rules);
            if weight > 0 && !found.is_empty() {
                weights.push(weight);
                groups.push(Group::build(found, None, rules));
            }
        }
        let split = match groups.len() {
            0 => return None,
            1 => Split::One,
            _ => Split::Weighted(Schedule::build(&weights, rules.workers)),
        };
        Some(Self { groups: groups.into(), split })
    }

    /// The healthy endpoints of the first priority, for zone-aware routing.
    pub(super) fn by_zone(level: &[Locality], config: &ZoneAware, rules: &Rules<'_>) -> Option<Self> {
        if is_hashing(rules) {
            return None;
        }
        let zones = zone::healthy(level);
        let routes = Routes::compile(&zones, config, rules)?;
        let all = zones.iter().flat_map(|(_, endpoints)| endpoints).cloned().collect();
        let mut groups = vec![Group::build(all, None, rules)];
        groups.extend(routes.order().map(|at| Group::build(zones[at].1.clone(), None, rules)));
        Some(Self { groups: groups.into(), split: Split::Zones(routes) })
    }

    fn flat(group: Group) -> Self {
        Self { groups: Box::new([group]), split: Split::One }
    }

    pub(super) fn pick(&self, hash: u64, draw: &mut Draw<'_>) -> Option<&Arc<Endpoint>> {
        let index = match &self.split {
            Split::One => 0,
            Split::Weighted(schedule) => match draw.ahead {
                Some(ahead) => schedule.peek(draw.worker, ahead),
                None => schedule.next(draw.worker),
            },
            // The group of all endpoints comes first.
            Split::Zones(routes) => routes.choose(draw)?.map_or(0, |zone| zone + 1),
        };
        self.groups.get(index)?.pick(hash, draw)
    }
}

/// Whether the policy makes one table for all localities.
fn is_hashing(rules: &Rules<'_>) -> bool {
    matches!(rules.policy.algorithm, Algorithm::RingHash(_) | Algorithm::Maglev(_))
}

/// A locality whose endpoints are partly away takes less than its weight, in thousandths of it.
fn locality_weight(locality: &Locality, available: usize, rules: &Rules<'_>) -> u64 {
    let total = locality.endpoints.iter().filter(|e| !e.is_excluded(rules.ignore_unchecked)).count() as u64;
    if total == 0 {
        return 0;
    }
    let thousandths = (available as u64 * u64::from(rules.overprovisioning) * 10 / total).min(1000);
    let weight = u64::from(locality.weight.unwrap_or(0));
    (weight * thousandths).max(u64::from(weight > 0 && available > 0))
}
