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
}

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
        members.is_loop = names.iter().any(|name| reaches(name, &config.name, resources, &mut BTreeSet::new()));
        if members.is_loop {
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
        self.is_loop == other.is_loop
            && self.serving.len() == other.serving.len()
            && self.serving.iter().zip(&other.serving).all(same)
    }
}

/// Whether `from` is `wanted` or names it, through however many aggregates.
fn reaches<'r>(from: &'r str, wanted: &str, resources: &'r Resources, seen: &mut BTreeSet<&'r str>) -> bool {
    if from == wanted {
        return true;
    }
    if !seen.insert(from) {
        return false;
    }
    let Some(config) = resources.clusters.get(from) else { return false };
    let Discovery::Aggregate(names) = &config.discovery else { return false };
    names.iter().any(|name| reaches(name, wanted, resources, seen))
}

/// All clusters, members before the aggregates that name them.
pub(crate) fn in_order(resources: &Resources) -> Vec<Arc<Config>> {
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    for (_, config) in resources.clusters.iter() {
        visit(config, resources, &mut seen, &mut order);
    }
    order
}

fn visit<'r>(
    config: &'r Arc<Config>,
    resources: &'r Resources,
    seen: &mut BTreeSet<&'r str>,
    order: &mut Vec<Arc<Config>>,
) {
    if !seen.insert(&config.name) {
        return;
    }
    if let Discovery::Aggregate(names) = &config.discovery {
        for member in names.iter().filter_map(|name| resources.clusters.get(name)) {
            visit(member, resources, seen, order);
        }
    }
    order.push(Arc::clone(config));
}
