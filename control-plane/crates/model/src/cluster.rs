//! Clusters: the endpoints of one service, and how we speak to them.

use std::time::Duration;

use crate::node::{Node, Value};
use crate::problem::{Code, Place};
use crate::read::{Fields, Keys, Reader};
use crate::route::matching::method;
use crate::value::Percent;

pub mod balance;
pub mod connections;
pub mod endpoints;
pub mod health;
pub mod tls;

pub use balance::{Balance, HashKey, Hashing, Localities, SlowStart, Sticky, Subsets};
pub use connections::{Connections, Limits, Pool, ProxyProtocol};
pub use endpoints::{Discovery, Dns, Endpoint, Family, ForwardProxy, Lookup, OriginalDst, Srv};
pub use health::{HealthCheck, HealthProbe, Outlier};
pub use tls::ClientTls;

#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    pub name: String,
    pub place: Place,
    pub discovery: Discovery,
    pub balance: Balance,
    pub slow_start: Option<SlowStart>,
    pub localities: Localities,
    pub subsets: Option<Subsets>,
    pub sticky: Option<Sticky>,
    /// Below this share of healthy endpoints all of them are used.
    pub panic: Option<Percent>,
    pub limits: Limits,
    pub tls: Option<ClientTls>,
    pub protocol: UpstreamProtocol,
    pub connect_timeout: Option<Duration>,
    pub idle_timeout: Option<Duration>,
    pub connections: Connections,
    pub health: Vec<HealthCheck>,
    pub outlier: Option<Outlier>,
    pub proxy_protocol: Option<ProxyProtocol>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamProtocol {
    H1,
    H2,
    /// By ALPN; only with `tls`.
    Auto,
}

// === reading ===

const KEYS: Keys = Keys {
    known: &[
        "endpoints",
        "dns",
        "srv",
        "failover",
        "original_dst",
        "forward_proxy",
        "balance",
        "slow_start",
        "sticky",
        "subsets",
        "panic",
        "zones",
        "zone_aware",
        "overprovisioning",
        "limits",
        "tls",
        "protocol",
        "connect_timeout",
        "idle_timeout",
        "max_requests",
        "max_age",
        "keepalive",
        "happy_eyeballs",
        "preconnect",
        "health",
        "outlier",
        "proxy_protocol",
    ],
    not_yet: &[],
};

pub(crate) fn cluster(r: &mut Reader<'_>, name: &str, node: &Node) -> Option<Cluster> {
    let place = r.place(node);
    let empty = |discovery| Cluster {
        name: name.to_owned(),
        place,
        discovery,
        balance: Balance::RoundRobin,
        slow_start: None,
        localities: Localities::default(),
        subsets: None,
        sticky: None,
        panic: None,
        limits: Limits::default(),
        tls: None,
        protocol: UpstreamProtocol::H1,
        connect_timeout: None,
        idle_timeout: None,
        connections: Connections::default(),
        health: Vec::new(),
        outlier: None,
        proxy_protocol: None,
    };
    if !matches!(node.value, Value::Map(_)) {
        return endpoints::short(r, node).map(empty);
    }
    let fields = r.fields(node, KEYS)?;
    let discovery = endpoints::discovery(r, node, &fields);
    let mut cluster = empty(Discovery::Fixed(Vec::new()));
    balancing(r, &fields, &mut cluster);
    cluster.limits = r.field(&fields, "limits", connections::limits).unwrap_or_default();
    cluster.tls = r.field(&fields, "tls", tls::client_tls);
    cluster.protocol = protocol(r, &fields, cluster.tls.is_some() || fields.get("tls").is_some());
    cluster.connect_timeout = r.field(&fields, "connect_timeout", Reader::duration);
    cluster.idle_timeout = r.field(&fields, "idle_timeout", Reader::duration);
    cluster.connections = connections::connections(r, &fields, &cluster.limits);
    cluster.health = r.field(&fields, "health", |r, n| Some(r.each(n, health::check))).unwrap_or_default();
    cluster.protocol = checked_protocol(r, &fields, &cluster);
    cluster.outlier = r.field(&fields, "outlier", health::outlier);
    cluster.proxy_protocol = r.field(&fields, "proxy_protocol", connections::proxy_protocol);
    cluster.discovery = discovery?;
    together(r, &fields, &cluster);
    Some(cluster)
}

fn balancing(r: &mut Reader<'_>, fields: &Fields<'_>, cluster: &mut Cluster) {
    if let Some((balance, slow_start)) = r.field(fields, "balance", balance::balance) {
        (cluster.balance, cluster.slow_start) = (balance, slow_start);
    }
    cluster.slow_start = r.field(fields, "slow_start", balance::slow_start).or(cluster.slow_start.take());
    if let (Some(node), Some(_)) = (fields.get("slow_start"), &cluster.slow_start)
        && !matches!(cluster.balance, Balance::RoundRobin | Balance::LeastRequest { .. })
    {
        let why = "`slow_start` works with round_robin and least_request only";
        r.at("slow_start", |r| r.wrong(node, Code::Conflict, why));
    }
    cluster.sticky = r.field(fields, "sticky", balance::sticky);
    cluster.subsets = r.field(fields, "subsets", balance::subsets);
    cluster.panic = r.field(fields, "panic", Reader::percent);
    cluster.localities = balance::localities(r, fields);
}

/// gRPC is HTTP/2, so who is checked by it speaks it.
fn checked_protocol(r: &mut Reader<'_>, fields: &Fields<'_>, cluster: &Cluster) -> UpstreamProtocol {
    let Some(node) = fields.get("health") else { return cluster.protocol };
    if !cluster.health.iter().any(|h| matches!(h.probe, HealthProbe::Grpc { .. })) {
        return cluster.protocol;
    }
    if fields.get("protocol").is_some() && cluster.protocol != UpstreamProtocol::H2 {
        r.at("health", |r| r.wrong(node, Code::Conflict, "`grpc` checks need `protocol: h2`"));
    }
    UpstreamProtocol::H2
}

/// What only shows when the keys are seen together.
fn together(r: &mut Reader<'_>, fields: &Fields<'_>, cluster: &Cluster) {
    let refuse = |r: &mut Reader<'_>, keys: &[&str], why: &str| {
        for key in keys {
            if let Some(node) = fields.get(key) {
                r.at(key, |r| r.wrong(node, Code::Conflict, format!("`{key}` means nothing with {why}")));
            }
        }
    };
    match &cluster.discovery {
        Discovery::Failover(_) => {
            let others: Vec<&str> = KEYS.known.iter().copied().filter(|k| *k != "failover").collect();
            refuse(r, &others, "`failover`: the clusters it leads to say it for themselves");
        }
        Discovery::OriginalDst(_) | Discovery::ForwardProxy(_) => {
            let of_many = ["balance", "slow_start", "sticky", "subsets", "panic", "zones", "zone_aware", "health"];
            refuse(r, &of_many, "endpoints that only requests name");
        }
        Discovery::Srv(_) => {
            refuse(r, &["subsets", "zones", "zone_aware", "overprovisioning"], "`srv`: its records say nothing of it");
            let port = |h: &HealthCheck| h.port.is_some();
            if let (Some(node), true) = (fields.get("health"), cluster.health.iter().any(port)) {
                r.at("health", |r| {
                    r.wrong(node, Code::Conflict, "`port` means nothing with `srv`: its records say it")
                });
            }
        }
        Discovery::Fixed(_) | Discovery::Dns(_) => (),
    }
    if cluster.balance.is_own() {
        refuse(r, &["subsets", "zones", "zone_aware"], "this balance");
    }
    if matches!(cluster.balance, Balance::LeastRequest { full_scan: true, .. }) {
        refuse(r, &["subsets"], "`full_scan`");
    }
    let no_name = matches!(&cluster.discovery, Discovery::Fixed(_) | Discovery::Srv(_) | Discovery::OriginalDst(_));
    if let (Some(tls), Some(node), true) = (&cluster.tls, fields.get("tls"), no_name)
        && tls.verify
        && tls.sni.is_none()
    {
        r.at("tls", |r| {
            r.wrong(node, Code::Conflict, "`sni` is missing: the name the endpoints' certificates must have")
        });
        r.hint("write `tls: { sni: app.internal }`, or `verify: false` to trust anyone");
    }
    if cluster.health.len() > 1 {
        let node = fields.get("health").unwrap_or(fields.node);
        r.at("health", |r| r.wrong(node, Code::Conflict, "a cluster has at most one health check"));
    }
}

fn protocol(r: &mut Reader<'_>, fields: &Fields<'_>, tls: bool) -> UpstreamProtocol {
    use UpstreamProtocol::{Auto, H1, H2};
    let Some(node) = fields.get("protocol") else { return H1 };
    let protocol = r.at("protocol", |r| r.choice(node, &[("h1", H1), ("h2", H2), ("auto", Auto)])).unwrap_or(H1);
    if protocol == Auto && !tls {
        r.at("protocol", |r| r.wrong(node, Code::Conflict, "`auto` asks by ALPN and so needs `tls`"));
    }
    protocol
}

/// For health probes: the method must be one that asks for nothing to change.
pub(crate) fn probe_method(r: &mut Reader<'_>, node: &Node) -> Option<String> {
    method(r, node)
}

/// How much of something, as whole percent, which is what Envoy takes here.
pub(crate) fn whole_percent(r: &mut Reader<'_>, node: &Node) -> Option<u32> {
    let Percent(hundredths) = r.percent(node)?;
    Some(hundredths.div_ceil(100))
}
