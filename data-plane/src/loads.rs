//! What every endpoint got since the last report, as the load reporting service wants it.
//!
//! Reads the counters that workers keep anyway; costs nothing until a server asks.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use dp_ads::{Asked, EndpointView, NodeIdentity, StreamSource};
use dp_http::info::Address;
use dp_snapshot::Snapshot;
use dp_upstream::{Cluster, Endpoint, Health};
use proto::envoy::config::core::v3 as pb_core;
use proto::envoy::config::endpoint::v3 as pb;
use shared_config::endpoint::{HealthStatus, Locality};
use stdx::live::Live;

/// Reports for ever, if there is whom to report to.
pub(crate) async fn report(source: Option<StreamSource>, node: NodeIdentity, live: Live<Snapshot>) {
    if let Some(source) = source {
        let loads = Loads { live, seen: HashMap::new(), dropped: HashMap::new(), at: Instant::now() };
        dp_ads::report_loads(source, node, loads).await;
    }
}

struct Loads {
    live: Live<Snapshot>,
    /// The counters of each endpoint (by id) at the last report.
    seen: HashMap<u64, Counts>,
    /// By cluster.
    dropped: HashMap<Arc<str>, u64>,
    at: Instant,
}

/// Counters that only grow.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    issued: u64,
    success: u64,
    error: u64,
    answered: u64,
    time_us: u64,
}

impl Counts {
    fn of(endpoint: &Endpoint) -> Self {
        let counters = &endpoint.state.counters;
        Self {
            issued: counters.rq_total.load(Relaxed),
            success: counters.rq_success.load(Relaxed),
            error: counters.rq_error.load(Relaxed),
            answered: counters.rq_answered.load(Relaxed),
            time_us: counters.rq_time_us.load(Relaxed),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            issued: self.issued.saturating_sub(before.issued),
            success: self.success.saturating_sub(before.success),
            error: self.error.saturating_sub(before.error),
            answered: self.answered.saturating_sub(before.answered),
            time_us: self.time_us.saturating_sub(before.time_us),
        }
    }
}

impl dp_ads::Loads for Loads {
    fn report(&mut self, asked: &Asked) -> Vec<pb::ClusterStats> {
        let snapshot = self.live.load();
        let took = std::mem::replace(&mut self.at, Instant::now()).elapsed();
        // What is not there any more is forgotten with the old maps.
        let (mut seen, mut dropped) = (HashMap::new(), HashMap::new());
        let wanted = snapshot.clusters().filter(|cluster| asked.wants(&cluster.state.name));
        let mut stats = Vec::new();
        for cluster in wanted {
            let before = self.dropped.get(&cluster.state.name).copied().unwrap_or_default();
            let now = cluster.state.stats.upstream_rq_drop_overload().value();
            dropped.insert(Arc::clone(&cluster.state.name), now);
            stats.push(pb::ClusterStats {
                cluster_name: cluster.state.name.to_string(),
                upstream_locality_stats: self.localities(cluster, asked, &mut seen),
                total_dropped_requests: now.saturating_sub(before),
                load_report_interval: prost_types::Duration::try_from(took).ok(),
                ..Default::default()
            });
        }
        (self.seen, self.dropped) = (seen, dropped);
        stats
    }
}

impl Loads {
    fn localities(
        &self,
        cluster: &Cluster,
        asked: &Asked,
        seen: &mut HashMap<u64, Counts>,
    ) -> Vec<pb::UpstreamLocalityStats> {
        let mut localities: BTreeMap<(u32, &Locality), pb::UpstreamLocalityStats> = BTreeMap::new();
        for endpoint in cluster.endpoints() {
            let now = Counts::of(endpoint);
            let counts = now.since(self.seen.get(&endpoint.state.id).copied().unwrap_or_default());
            seen.insert(endpoint.state.id, now);
            let stats = localities.entry((endpoint.priority, &*endpoint.locality)).or_insert_with(|| {
                let Locality { region, zone, sub_zone } = Locality::clone(&endpoint.locality);
                let locality = Some(pb_core::Locality { region, zone, sub_zone });
                pb::UpstreamLocalityStats { locality, priority: endpoint.priority, ..Default::default() }
            });
            stats.total_issued_requests += counts.issued;
            stats.total_successful_requests += counts.success;
            stats.total_error_requests += counts.error;
            stats.total_requests_in_progress += u64::from(endpoint.state.active());
            if asked.endpoints {
                stats.upstream_endpoint_stats.push(of_endpoint(endpoint, counts));
            }
        }
        localities.into_values().collect()
    }
}

fn of_endpoint(endpoint: &Endpoint, counts: Counts) -> pb::UpstreamEndpointStats {
    let health = match endpoint.health() {
        _ if endpoint.discovery == HealthStatus::Draining => "draining",
        Health::Healthy => "healthy",
        Health::Degraded => "degraded",
        Health::Unhealthy => "unhealthy",
    };
    let view = EndpointView {
        health: health.to_owned(),
        reasons: endpoint.health_flags(true).into_iter().map(str::to_owned).collect(),
        weight: endpoint.weight,
        latency: counts.time_us.checked_div(counts.answered).map(Duration::from_micros),
    };
    pb::UpstreamEndpointStats {
        address: Some(address(&endpoint.address)),
        metadata: Some(view.to_metadata()),
        total_successful_requests: counts.success,
        total_requests_in_progress: endpoint.state.active().into(),
        total_error_requests: counts.error,
        total_issued_requests: counts.issued,
        ..Default::default()
    }
}

fn address(address: &Address) -> pb_core::Address {
    let address = match address {
        Address::Ip(address) => pb_core::address::Address::SocketAddress(pb_core::SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(pb_core::socket_address::PortSpecifier::PortValue(address.port().into())),
            ..Default::default()
        }),
        Address::Pipe(path) => {
            pb_core::address::Address::Pipe(pb_core::Pipe { path: path.to_string(), ..Default::default() })
        }
    };
    pb_core::Address { address: Some(address) }
}
