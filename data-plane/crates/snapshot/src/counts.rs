//! What the engine counts: clusters and listeners that came, changed and went (`cluster_manager.`, `listener_manager.`).

use std::sync::Arc;

use dp_observe::stats::{ClusterManagerStats, ListenerManagerStats};
use shared_telemetry::{Registry, Scope};

use crate::runtime::Snapshot;

pub(crate) struct Counts {
    clusters: Arc<ClusterManagerStats>,
    listeners: Arc<ListenerManagerStats>,
}

// === impl Counts ===

impl Counts {
    pub(crate) fn register(registry: &Registry) -> Self {
        Self {
            clusters: ClusterManagerStats::register(registry, Scope::new("cluster_manager", "cluster_manager")),
            listeners: ListenerManagerStats::register(registry, Scope::new("listener_manager", "listener_manager")),
        }
    }

    /// `new` takes the place of `old`.
    pub(crate) fn published(&self, old: &Snapshot, new: &Snapshot) {
        for cluster in new.clusters() {
            match old.cluster(cluster.name()) {
                None => self.clusters.cluster_added().inc(0),
                Some(before) if !Arc::ptr_eq(before, cluster) => self.clusters.cluster_modified().inc(0),
                Some(_) => {}
            }
        }
        let gone = old.clusters().filter(|cluster| new.cluster(cluster.name()).is_none()).count();
        self.clusters.cluster_removed().add(0, gone as u64);
        self.clusters.active_clusters().set(new.clusters().count() as u64);
        for listener in new.listeners() {
            match old.listener(&listener.name) {
                None => self.listeners.listener_added().inc(0),
                Some(before) if !Arc::ptr_eq(before, listener) => self.listeners.listener_modified().inc(0),
                Some(_) => {}
            }
        }
        let gone = old.listeners().iter().filter(|listener| new.listener(&listener.name).is_none()).count();
        self.listeners.listener_removed().add(0, gone as u64);
        self.listeners.total_listeners_active().set(new.listeners().len() as u64);
    }

    pub(crate) fn warming(&self, clusters: usize, listeners: usize) {
        self.clusters.warming_clusters().set(clusters as u64);
        self.listeners.total_listeners_warming().set(listeners as u64);
    }
}
