//! The clusters that an aggregate names, as they serve now.

use std::collections::BTreeSet;
use std::sync::Arc;

use dp_upstream::Cluster;
use shared_config::cluster::{Cluster as Config, Discovery};

use crate::resources::Resources;

/// What an aggregate is made of. Empty for other clusters.
#[derive(Clone, Default)]
pub(crate) struct Members {
    /// In the order of preference; a name that nobody knows is left out, as in Envoy.
    pub(crate) serving: Vec<Arc<Cluster>>,
    /// The first version of one is still to come.
    pub(crate) is_warming: bool,
    /// The aggregate is a member of itself.
    pub(crate) is_loop: bool,
    /// Its members have members, and so on, more than [`DEEPEST`] times.
    pub(crate) is_too_deep: bool,
}

/// How deep aggregates may hold aggregates. Whoever goes through them does so by recursion.
pub(crate) const DEEPEST: usize = 32;

/// How one cluster stands.
pub(crate) enum Standing {
    Serving(Arc<Cluster>),
    Warming,
    Refused,
}

// === impl Members ===

impl Members {
    pub(crate) fn gather(config: &Config, resources: &Resources, standing: impl Fn(&str) -> Standing) -> Self {
        let mut members = Self::default();
        let Discovery::Aggregate(names) = &config.discovery else { return members };
        for name in names {
            match reaches(name, &config.name, resources, &mut BTreeSet::new(), DEEPEST) {
                Some(reaches) => members.is_loop |= reaches,
                None => members.is_too_deep = true,
            }
        }
        if members.is_loop || members.is_too_deep {
            return members;
        }
        for name in names.iter().filter(|name| resources.clusters.get(name).is_some()) {
            match standing(name) {
                Standing::Serving(cluster) => members.serving.push(cluster),
                Standing::Warming => members.is_warming = true,
                Standing::Refused => {}
            }
        }
        members
    }
}

impl PartialEq for Members {
    fn eq(&self, other: &Self) -> bool {
        let same = |(a, b): (&Arc<Cluster>, &Arc<Cluster>)| Arc::ptr_eq(a, b);
        (self.is_loop, self.is_too_deep) == (other.is_loop, other.is_too_deep)
            && self.serving.len() == other.serving.len()
            && self.serving.iter().zip(&other.serving).all(same)
    }
}

/// Whether `from` is `wanted` or names it, through however many aggregates; `None` for more than `depth`.
fn reaches<'r>(
    from: &'r str,
    wanted: &str,
    resources: &'r Resources,
    seen: &mut BTreeSet<&'r str>,
    depth: usize,
) -> Option<bool> {
    if from == wanted {
        return Some(true);
    }
    if !seen.insert(from) {
        return Some(false);
    }
    let Some(Discovery::Aggregate(names)) = resources.clusters.get(from).map(|config| &config.discovery) else {
        return Some(false);
    };
    let depth = depth.checked_sub(1)?;
    for name in names {
        if reaches(name, wanted, resources, seen, depth)? {
            return Some(true);
        }
    }
    Some(false)
}

/// All clusters, members before the aggregates that name them.
pub(crate) fn in_order(resources: &Resources) -> Vec<Arc<Config>> {
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    // By a stack of our own: what is nested too deep to be served must not break this.
    let mut left: Vec<_> = resources.clusters.iter().map(|(_, config)| (config, false)).collect();
    left.reverse();
    while let Some((config, members_are_there)) = left.pop() {
        if members_are_there {
            order.push(Arc::clone(config));
        } else if seen.insert(&config.name) {
            left.push((config, true));
            if let Discovery::Aggregate(names) = &config.discovery {
                let members = names.iter().rev().filter_map(|name| resources.clusters.get(name));
                left.extend(members.map(|member| (member, false)));
            }
        }
    }
    order
}
