//! Compiles a TCP proxy.

use std::sync::Arc;

use dp_observe::stats::TcpStats;
use dp_upstream::Criteria;
use shared_config::network_filter::NetworkFilter;
use shared_config::tcp_proxy::{TcpCluster, TcpProxy as Config};
use shared_telemetry::Scope;

use super::{Environment, Refusal, access_logs, names};
use crate::runtime::{ByServerName, TcpProxy, TcpTarget};

pub(super) fn compile(
    config: &Config,
    before: &[NetworkFilter],
    environment: &Environment,
) -> Result<TcpProxy, Refusal> {
    let criteria = Criteria::compile(&config.metadata_match);
    let target = |cluster: &TcpCluster| TcpTarget {
        cluster: Arc::from(cluster.name.as_str()),
        weight: cluster.weight,
        criteria: match (&criteria, Criteria::compile(&cluster.metadata_match)) {
            (Some(of_all), Some(own)) => Some(of_all.merged(&own)),
            (of_all, own) => own.or_else(|| of_all.clone()),
        },
    };
    let forward = before.iter().find_map(|filter| match filter {
        NetworkFilter::SniForward(config) => Some(config),
        _ => None,
    });
    let forward = match forward {
        Some(config) => {
            Some(ByServerName { names: names::shared(environment.names.cache(&config.cache)?), port: config.port })
        }
        None => None,
    };
    Ok(TcpProxy {
        forward,
        targets: config.clusters.iter().map(target).collect(),
        total: config.clusters.iter().map(|cluster| u64::from(cluster.weight)).sum(),
        by_server_name: before.contains(&NetworkFilter::SniCluster),
        stats: TcpStats::register(&environment.registry, Scope::tcp(&config.stat_prefix)),
        access_logs: access_logs(&config.access_logs, environment)?,
        config: config.clone(),
        criteria,
    })
}
