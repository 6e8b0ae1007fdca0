//! The processes of `weir up`: one control plane and its proxies, with free ports of loopback.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::failure::Failure;
use crate::flags::{Global, Up};
use crate::up::child::{self, Running, Words};

/// How long the control plane may take to answer.
const START_BOUND: Duration = Duration::from_secs(15);
/// How often proxies report load, for `weir get endpoints`.
const LOAD_INTERVAL: &str = "2s";

pub(crate) struct Fleet {
    pub(crate) client: Client,
    pub(crate) management: SocketAddr,
    pub(crate) admins: Vec<SocketAddr>,
    control: Running,
    proxies: Vec<Running>,
}

/// The programs that must be there before anything is started.
pub(crate) struct Programs {
    control: PathBuf,
    proxy: PathBuf,
}

pub(crate) fn programs() -> Result<Programs, Failure> {
    Ok(Programs { control: child::find("weir-control")?, proxy: child::find("weir-proxy")? })
}

impl Fleet {
    pub(crate) async fn start(
        given: &Up,
        global: &Global,
        programs: &Programs,
        state: &Path,
        groups: &[String],
    ) -> Result<Fleet, Failure> {
        let nodes = nodes(given.proxies, groups);
        let ports = Ports::choose(given, nodes.len())?;
        let settings = state.join("weir-control.yaml");
        let selectors: Vec<Value> = groups.iter().map(|g| json!({ "name": g, "cluster": g })).collect();
        std::fs::write(&settings, json!({ "groups": selectors }).to_string())
            .map_err(|e| Failure::refused(format!("cannot write {}: {e}", settings.display())))?;
        let words = if global.verbose { Words::ToUs } else { Words::ToFile };
        let level = if global.verbose { "info" } else { "warning" };
        let arguments = [
            format!("--config={}", settings.display()),
            format!("--load-interval={LOAD_INTERVAL}"),
            "--store".to_owned(),
            state.join("weir-control.redb").display().to_string(),
            format!("--xds-address={}", ports.xds),
            format!("--management-address={}", ports.management),
            "--insecure-loopback".to_owned(),
            format!("--log={level}"),
        ];
        let mut control =
            child::start("weir-control", &programs.control, &arguments, state.join("weir-control.log"), words)?;
        let client = match connect(&mut control, ports.management, global).await {
            Ok(client) => client,
            Err(failure) => {
                control.stop().await;
                return Err(failure);
            }
        };
        let mut fleet =
            Fleet { client, management: ports.management, admins: ports.admins.clone(), control, proxies: Vec::new() };
        for ((name, cluster), admin) in nodes.into_iter().zip(&ports.admins) {
            let mut arguments = vec![
                format!("--config-yaml={}", bootstrap(&name, &cluster, ports.xds, *admin)),
                format!("--concurrency={}", given.concurrency),
                format!("--state-dir={}", state.join(&name).display()),
                format!("--log-level={level}"),
                "--drain-time-s=2".to_owned(),
            ];
            if given.proxies > 1 {
                arguments.push("--share-ports".to_owned());
            }
            match child::start(&name, &programs.proxy, &arguments, state.join(format!("{name}.log")), words) {
                Ok(proxy) => fleet.proxies.push(proxy),
                Err(failure) => {
                    fleet.stop().await;
                    return Err(failure);
                }
            }
        }
        Ok(fleet)
    }

    pub(crate) fn proxies(&self) -> usize {
        self.proxies.len()
    }

    /// How a process failed, if one has ended.
    pub(crate) fn has_ended(&mut self) -> Option<Failure> {
        let all = std::iter::once(&mut self.control).chain(&mut self.proxies);
        all.into_iter().find_map(Running::has_ended)
    }

    /// Proxies first: they would only log that the control plane is gone.
    pub(crate) async fn stop(self) {
        let mut stops = tokio::task::JoinSet::new();
        self.proxies.into_iter().for_each(|proxy| {
            stops.spawn(proxy.stop());
        });
        stops.join_all().await;
        self.control.stop().await;
    }
}

/// Tries until it answers, it ends, or time is up.
async fn connect(control: &mut Running, management: SocketAddr, global: &Global) -> Result<Client, Failure> {
    // The settings of `weir up`'s own command line are about other control planes.
    let global = Global {
        server: format!("http://{management}"),
        token_file: None,
        tls_ca: None,
        tls_cert: None,
        tls_key: None,
        ..global.clone()
    };
    let end = Instant::now() + START_BOUND;
    loop {
        if let Some(failure) = control.has_ended() {
            return Err(failure);
        }
        match Client::connect(&global).await {
            Ok(client) => return Ok(client),
            Err(failure) if Instant::now() >= end => return Err(failure),
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}

struct Ports {
    xds: SocketAddr,
    management: SocketAddr,
    admins: Vec<SocketAddr>,
}

impl Ports {
    /// All are held until all are chosen, so that no two are the same.
    fn choose(given: &Up, proxies: usize) -> Result<Ports, Failure> {
        let mut held = Vec::new();
        let mut free = |address: Option<SocketAddr>| -> Result<SocketAddr, Failure> {
            let wanted = address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
            let cannot = |e: std::io::Error| Failure::refused(format!("cannot listen on {wanted}: {e}"));
            let listener = TcpListener::bind(wanted).map_err(cannot)?;
            let address = listener.local_addr().map_err(cannot)?;
            held.push(listener);
            Ok(address)
        };
        let (xds, management) = (free(given.xds_address)?, free(given.management_address)?);
        let admins = (0..proxies).map(|_| free(None)).collect::<Result<_, _>>()?;
        Ok(Ports { xds, management, admins })
    }
}

/// Name and `node.cluster` of every proxy: so many for each group, which is found by that cluster.
fn nodes(proxies: u8, groups: &[String]) -> Vec<(String, String)> {
    let fleet = |name: &str, cluster: &str| -> Vec<(String, String)> {
        (1..=proxies).map(|i| (format!("{name}-{i}"), cluster.to_owned())).collect()
    };
    match groups {
        [] => fleet("proxy", "weir-up"),
        groups => groups.iter().flat_map(|group| fleet(group, group)).collect(),
    }
}

/// What a proxy is started with: JSON, which is YAML too.
fn bootstrap(node: &str, cluster: &str, xds: SocketAddr, admin: SocketAddr) -> Value {
    let socket = |a: SocketAddr| json!({ "socket_address": { "address": a.ip().to_string(), "port_value": a.port() } });
    let ads = json!({ "ads": {}, "resource_api_version": "V3" });
    json!({
        "node": { "id": node, "cluster": cluster },
        "admin": { "address": socket(admin) },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{ "envoy_grpc": { "cluster_name": "weir-control" } }],
            },
            "lds_config": ads.clone(),
            "cds_config": ads,
        },
        "cluster_manager": { "load_stats_config": {
            "api_type": "GRPC",
            "transport_api_version": "V3",
            "grpc_services": [{ "envoy_grpc": { "cluster_name": "weir-control" } }],
        } },
        "static_resources": { "clusters": [{
            "name": "weir-control",
            "type": "STATIC",
            "connect_timeout": "1s",
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": { "http2_protocol_options": {} },
                },
            },
            "load_assignment": {
                "cluster_name": "weir-control",
                "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": socket(xds) } }] }],
            },
        }] },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bootstrap_is_one_that_the_proxy_takes() {
        let address = SocketAddr::from(([127, 0, 0, 1], 18000));
        let bootstrap = proto::json::from_yaml::<proto::envoy::config::bootstrap::v3::Bootstrap>(
            &bootstrap("proxy-1", "edge", address, address).to_string(),
        );
        let bootstrap = bootstrap.expect("it is Envoy's bootstrap");
        let node = bootstrap.node.expect("given");
        assert_eq!((node.id.as_str(), node.cluster.as_str()), ("proxy-1", "edge"));
    }

    #[test]
    fn every_group_has_a_fleet_of_its_own() {
        let names = |groups: &[String]| nodes(2, groups).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(&[]), ["proxy-1", "proxy-2"]);
        assert_eq!(names(&["edge".into(), "inner".into()]), ["edge-1", "edge-2", "inner-1", "inner-2"]);
    }
}
