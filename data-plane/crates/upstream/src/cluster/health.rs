//! What active health checks mean to a cluster: which endpoints outlive service discovery, when a version is warm, and what
//! an answer to traffic can say.

use std::sync::Arc;

use shared_config::cluster::Discovery;

use super::Cluster;
use crate::balance::Locality;
use crate::endpoint::{Endpoint, Flag, Health};
use crate::stats::HealthCheckStats;

impl Cluster {
    /// Endpoints that service discovery no longer has stay for as long as their health checks pass.
    pub(super) fn keep_leaving(&mut self, previous: &Cluster) {
        let discovered =
            matches!(self.config.discovery, Discovery::Eds(_) | Discovery::StrictDns(..) | Discovery::Srv(_));
        if !discovered || self.config.ignore_health_on_removal || previous.config != self.config {
            return;
        }
        for (identity, endpoint) in &previous.known {
            let sound = endpoint.checked && endpoint.health() != Health::Unhealthy;
            if !sound || self.known.contains_key(identity) {
                continue;
            }
            let endpoint = Arc::new(Endpoint { leaving: true, ..Endpoint::clone(endpoint) });
            self.known.insert(identity.clone(), Arc::clone(&endpoint));
            let priority = endpoint.priority as usize;
            if self.levels.len() <= priority {
                self.levels.resize_with(priority + 1, Vec::new);
            }
            let level = &mut self.levels[priority];
            let same = |group: &&mut Locality| group.name == endpoint.locality;
            match level.iter_mut().find(same) {
                Some(group) => group.endpoints.push(endpoint),
                None => {
                    let name = Arc::clone(&endpoint.locality);
                    let weight = previous.locality_weight(&endpoint);
                    level.push(Locality { name, weight, endpoints: vec![endpoint] });
                }
            }
        }
    }

    /// The weight of the locality that has this endpoint.
    fn locality_weight(&self, endpoint: &Endpoint) -> Option<u32> {
        self.levels.get(endpoint.priority as usize)?.iter().find(|group| group.name == endpoint.locality)?.weight
    }

    /// What active health checks count; `None` for a cluster that never had any.
    pub fn health_stats(&self) -> Option<&Arc<HealthCheckStats>> {
        self.state.health.get()
    }

    /// Whether the version can take the place of another one: every endpoint was checked once, if endpoints are.
    pub fn is_warm(&self) -> bool {
        !self.warms || !self.endpoints().any(|e| e.checked && e.state.has(Flag::PendingActiveCheck))
    }

    /// An answer to ordinary traffic said that the endpoint is not well (`x-envoy-immediate-health-check-fail`). Only
    /// what is checked can come back, so that others are not taken out.
    pub fn fail_passively(&self, endpoint: &Endpoint) {
        if endpoint.checked {
            endpoint.state.fail_passively();
            self.state.health_changed.notify_one();
        }
    }

    /// Brings the gauges up to date.
    pub(super) fn report_checks(&self) {
        if let Some(health) = self.health_stats() {
            let count = |flag, on| self.endpoints().filter(|e| e.checked && e.state.has(flag) == on).count() as u64;
            health.healthy().set(count(Flag::FailedActiveCheck, false));
            health.degraded().set(count(Flag::DegradedActiveCheck, true));
        }
    }
}
