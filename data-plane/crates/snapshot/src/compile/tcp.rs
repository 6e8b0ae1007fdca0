//! Compiles a TCP proxy.

use std::sync::Arc;

use dp_observe::stats::TcpStats;
use shared_config::listener::NetworkFilter;
use shared_config::tcp_proxy::TcpProxy as Config;
use shared_telemetry::Scope;

use super::{Environment, Refusal, access_logs};
use crate::runtime::TcpProxy;

pub(super) fn compile(
    config: &Config,
    before: &[NetworkFilter],
    environment: &Environment,
) -> Result<TcpProxy, Refusal> {
    Ok(TcpProxy {
        targets: config.clusters.iter().map(|(name, weight)| (Arc::from(name.as_str()), *weight)).collect(),
        total: config.clusters.iter().map(|(_, weight)| u64::from(*weight)).sum(),
        by_server_name: before.contains(&NetworkFilter::SniCluster),
        stats: TcpStats::register(&environment.registry, Scope::tcp(&config.stat_prefix)),
        access_logs: access_logs(&config.access_logs, environment)?,
        config: config.clone(),
    })
}
