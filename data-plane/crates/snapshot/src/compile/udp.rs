//! Compiles a UDP proxy.

use dp_observe::stats::UdpStats;
use shared_config::udp_proxy::UdpListener;
use shared_telemetry::Scope;

use super::{Environment, Refusal, access_logs};
use crate::runtime::UdpProxy;

pub(super) fn compile(config: &UdpListener, environment: &Environment) -> Result<UdpProxy, Refusal> {
    let proxy = &config.proxy;
    let scope = Scope::new(&format!("udp.{}", proxy.stat_prefix), "udp").label("envoy_udp_prefix", &proxy.stat_prefix);
    Ok(UdpProxy {
        max_datagram: config.max_datagram,
        stats: UdpStats::register(&environment.registry, scope),
        access_logs: access_logs(&proxy.access_logs, environment)?,
        proxy_access_logs: access_logs(&proxy.proxy_access_logs, environment)?,
        config: proxy.clone(),
    })
}
