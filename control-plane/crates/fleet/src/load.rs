//! What one node reported last of the endpoints it sends to.

use std::time::{Duration, SystemTime};

use proto::envoy::config::core::v3::{Address, address, socket_address::PortSpecifier};
use proto::envoy::config::endpoint::v3::{ClusterStats, UpstreamEndpointStats, UpstreamLocalityStats};
use shared_xds::load::EndpointView;

/// The latest load report of a node.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadReport {
    pub at: SystemTime,
    /// How many clusters it was about.
    pub clusters: usize,
    /// Requests that were dropped on purpose.
    pub dropped: u64,
    pub endpoints: Vec<EndpointReport>,
    /// There were more endpoints than are kept.
    pub cut: bool,
}

/// One endpoint, over the time the report is about.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EndpointReport {
    pub cluster: String,
    /// `10.0.0.1:80`
    pub address: String,
    pub region: String,
    pub zone: String,
    pub priority: u32,
    /// Of our own proxies only, as `reasons`, `weight` and `latency`; empty when not said.
    pub health: String,
    pub reasons: Vec<String>,
    pub weight: Option<u32>,
    pub latency: Option<Duration>,
    pub active: u64,
    pub requests: u64,
    pub errors: u64,
}

/// Endpoints that are kept of one node.
const MAX_ENDPOINTS: usize = 20_000;
/// Longer names are no names.
const MAX_TEXT: usize = 512;

impl LoadReport {
    pub(crate) fn of(clusters: &[ClusterStats], at: SystemTime) -> Self {
        let mut report = LoadReport {
            at,
            clusters: clusters.len(),
            dropped: clusters.iter().map(|c| c.total_dropped_requests).fold(0, u64::saturating_add),
            endpoints: Vec::new(),
            cut: false,
        };
        for cluster in clusters.iter().filter(|c| c.cluster_name.len() <= MAX_TEXT) {
            for locality in &cluster.upstream_locality_stats {
                for stats in &locality.upstream_endpoint_stats {
                    if report.endpoints.len() >= MAX_ENDPOINTS {
                        report.cut = true;
                        return report;
                    }
                    report.endpoints.extend(endpoint(cluster, locality, stats));
                }
            }
        }
        report
    }
}

fn endpoint(
    cluster: &ClusterStats,
    locality: &UpstreamLocalityStats,
    stats: &UpstreamEndpointStats,
) -> Option<EndpointReport> {
    let place = locality.locality.clone().unwrap_or_default();
    let view = stats.metadata.as_ref().and_then(EndpointView::from_metadata);
    let weight = view.as_ref().map(|v| v.weight);
    let view = view.unwrap_or_default();
    Some(EndpointReport {
        cluster: cluster.cluster_name.clone(),
        address: address_text(stats.address.as_ref()?).filter(|a| a.len() <= MAX_TEXT)?,
        region: place.region,
        zone: place.zone,
        priority: locality.priority,
        health: view.health,
        reasons: view.reasons,
        weight,
        latency: view.latency,
        active: stats.total_requests_in_progress,
        requests: stats.total_issued_requests,
        errors: stats.total_error_requests,
    })
}

/// `10.0.0.1:80`, `[::1]:80`, or the path of a pipe.
pub fn address_text(address: &Address) -> Option<String> {
    match address.address.as_ref()? {
        address::Address::SocketAddress(socket) => {
            let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else { return None };
            match socket.address.contains(':') {
                true => Some(format!("[{}]:{port}", socket.address)),
                false => Some(format!("{}:{port}", socket.address)),
            }
        }
        address::Address::Pipe(pipe) => Some(pipe.path.clone()),
        _ => None,
    }
}
