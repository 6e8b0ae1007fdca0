//! Resolves the names of DNS clusters, for as long as the clusters are there.
//!
//! One task a cluster, on the control thread. What it finds goes to the engine like any other change.

use std::collections::HashMap;
use std::sync::Arc;

use dp_upstream::dns::Resolution;
use dp_upstream::stats::ClusterStats;
use shared_config::cluster::Cluster;
use shared_config::endpoint::Assignment;
use shared_telemetry::{Registry, Scope};
use tokio::task::AbortHandle;

use crate::control::SharedEngine;

/// Follows the clusters that need names resolved.
pub(crate) async fn follow(engine: SharedEngine, registry: Registry) {
    let mut changes = engine.changes();
    let mut running: HashMap<Arc<str>, (Arc<Cluster>, AbortHandle)> = HashMap::new();
    loop {
        let wanted: Vec<Arc<Cluster>> = engine.lock().dns_clusters().cloned().collect();
        running.retain(|name, (config, task)| {
            let keep = wanted.iter().any(|cluster| cluster.name == *name && cluster.discovery == config.discovery);
            if !keep {
                task.abort();
            }
            keep
        });
        for cluster in wanted {
            if !running.contains_key(&cluster.name) {
                let task = tokio::task::spawn_local(resolve(engine.clone(), Arc::clone(&cluster), registry.clone()));
                running.insert(Arc::clone(&cluster.name), (cluster, task.abort_handle()));
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

async fn resolve(engine: SharedEngine, cluster: Arc<Cluster>, registry: Registry) {
    let found = |assignment: Assignment| {
        engine.lock().resolved(&cluster.name, Arc::new(assignment));
        engine.settle();
    };
    let stats = ClusterStats::register(&registry, Scope::cluster(&cluster.stat_name));
    match Resolution::new(&cluster.discovery, stats) {
        Ok(Some(resolution)) => resolution.run(found).await,
        Ok(None) => {}
        Err(error) => {
            tracing::error!(cluster = %cluster.name, %error, "names cannot be resolved");
            // Nobody should wait for it.
            found(Assignment::default());
        }
    }
}
