//! What outlives one version of a cluster: its counts, its circuit breakers, who was told of changes.
//!
//! Shared by all workers, as atomics. Never holds endpoints that serve.

use std::sync::{Arc, Mutex, OnceLock};

use arc_swap::ArcSwap;
use hashbrown::HashSet;
use shared_config::cluster::{Breakers as Limits, Cluster as Config};
use shared_telemetry::{Registry, Scope};

use super::{Departed, Site};
use crate::breaker::Breakers;
use crate::breaker::gauges::Gauges;
use crate::outlier::Detector;
use crate::refresh::HealthChanged;
use crate::stats::{ClusterStats, ClusterUdpStats, HealthCheckStats, LbStats, OrcaStats};

/// What all versions of a cluster share.
pub struct ClusterState {
    pub name: Arc<str>,
    pub stats: Arc<ClusterStats>,
    /// Once the cluster has subsets or zone-aware routing.
    pub lb_stats: OnceLock<Arc<LbStats>>,
    /// The subsets that were there when that was last told.
    pub(super) subsets: Mutex<HashSet<u64>>,
    pub breakers: Arc<Breakers>,
    /// Of the version that serves, for the gauges.
    pub(super) limits: Arc<ArcSwap<Limits>>,
    pub(super) gauges: ArcSwap<Gauges>,
    /// Told when an endpoint's health changed, so that the tables are made anew.
    pub health_changed: HealthChanged,
    pub(super) departed: Departed,
    /// Made when the first version with health checks is.
    pub(super) health: OnceLock<Arc<HealthCheckStats>>,
    pub(crate) outliers: Detector,
    /// Made when the first datagram comes: few clusters are used for them.
    pub(super) udp: OnceLock<Arc<ClusterUdpStats>>,
    /// Made when endpoints are asked for reports first.
    pub(super) orca: OnceLock<Arc<OrcaStats>>,
    pub(super) registry: Registry,
    pub(super) stat_name: String,
}

// === impl ClusterState ===

impl ClusterState {
    pub(super) fn new(config: &Config, site: &Site) -> Self {
        Self {
            name: Arc::clone(&config.name),
            stats: ClusterStats::register(&site.registry, Scope::cluster(&config.stat_name)),
            lb_stats: OnceLock::new(),
            subsets: Mutex::default(),
            breakers: Arc::default(),
            health_changed: HealthChanged::new(site.bell.clone()),
            departed: Departed::default(),
            limits: Arc::new(ArcSwap::from_pointee(config.breakers.clone())),
            gauges: ArcSwap::default(),
            outliers: Detector::new(),
            health: OnceLock::new(),
            udp: OnceLock::new(),
            orca: OnceLock::new(),
            registry: site.registry.clone(),
            stat_name: config.stat_name.clone(),
        }
    }

    /// What is counted of UDP sessions.
    pub fn udp_stats(&self) -> &Arc<ClusterUdpStats> {
        let make = || ClusterUdpStats::register(&self.registry, Scope::cluster(&self.stat_name).child("udp"));
        self.udp.get_or_init(make)
    }

    /// What is counted of reports that endpoints are asked for.
    pub(crate) fn orca_stats(&self) -> &Arc<OrcaStats> {
        let make = || OrcaStats::register(&self.registry, Scope::cluster(&self.stat_name).child("lb_orca_oob"));
        self.orca.get_or_init(make)
    }

    /// Lets the gauges of the circuit breakers tell of a version that takes over.
    pub(super) fn show_breakers(&self, config: &Config) {
        self.limits.store(Arc::new(config.breakers.clone()));
        let gauges = Gauges::show(&self.breakers, &self.limits, &self.registry, || Scope::cluster(&config.stat_name));
        self.gauges.store(Arc::new(gauges));
    }
}
