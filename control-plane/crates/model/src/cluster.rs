//! Clusters: the endpoints of one service, and how we speak to them.

use std::time::Duration;

use crate::listener::{KeyPair, certificate, key_pair};
use crate::node::{Node, Value};
use crate::problem::{Code, Place};
use crate::read::{Fields, Keys, Reader};
use crate::route::matching::method;
use crate::value::{HostPort, Percent};

pub mod health;

pub use health::{HealthCheck, HealthProbe, Outlier};

#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    pub name: String,
    pub place: Place,
    pub endpoints: Endpoints,
    pub balance: Balance,
    pub limits: Limits,
    pub tls: Option<ClientTls>,
    pub protocol: UpstreamProtocol,
    pub connect_timeout: Option<Duration>,
    pub idle_timeout: Option<Duration>,
    pub health: Vec<HealthCheck>,
    pub outlier: Option<Outlier>,
    pub proxy_protocol: Option<ProxyProtocol>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Endpoints {
    /// Addresses, served by EDS.
    Fixed(Vec<Endpoint>),
    /// Every record of these names is an endpoint.
    Dns(Vec<Endpoint>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    pub address: HostPort,
    pub weight: u32,
    pub zone: String,
    pub priority: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Balance {
    RoundRobin,
    LeastRequest,
    Random,
    RingHash(Vec<HashKey>),
    Maglev(Vec<HashKey>),
}

impl Balance {
    pub fn hash_keys(&self) -> &[HashKey] {
        match self {
            Balance::RingHash(keys) | Balance::Maglev(keys) => keys,
            _ => &[],
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum HashKey {
    Cookie { name: String, ttl: Option<Duration> },
    Header(String),
    Query(String),
    ClientIp,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Limits {
    pub connections: Option<u32>,
    pub pending: Option<u32>,
    pub requests: Option<u32>,
    pub retries: Option<u32>,
    pub requests_per_connection: Option<u32>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ClientTls {
    pub sni: Option<String>,
    /// None: the system's authorities.
    pub ca: Option<String>,
    pub identity: Option<KeyPair>,
    pub verify: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamProtocol {
    H1,
    H2,
    /// By ALPN; only with `tls`.
    Auto,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    V1,
    V2,
}

// === reading ===

const KEYS: Keys = Keys {
    known: &[
        "endpoints",
        "dns",
        "balance",
        "limits",
        "tls",
        "protocol",
        "connect_timeout",
        "idle_timeout",
        "health",
        "outlier",
        "proxy_protocol",
    ],
    not_yet: &["slow_start", "subsets", "panic", "srv", "keepalive", "affinity"],
};

pub(crate) fn cluster(r: &mut Reader<'_>, name: &str, node: &Node) -> Option<Cluster> {
    let place = r.place(node);
    let mut cluster = Cluster {
        name: name.to_owned(),
        place,
        endpoints: Endpoints::Fixed(Vec::new()),
        balance: Balance::RoundRobin,
        limits: Limits::default(),
        tls: None,
        protocol: UpstreamProtocol::H1,
        connect_timeout: None,
        idle_timeout: None,
        health: Vec::new(),
        outlier: None,
        proxy_protocol: None,
    };
    if !matches!(node.value, Value::Map(_)) {
        let endpoints = r.each(node, endpoint);
        cluster.endpoints = kinds(r, node, endpoints)?;
        return Some(cluster);
    }
    let fields = r.fields(node, KEYS)?;
    let endpoints = where_to(r, node, &fields);
    cluster.balance = r.field(&fields, "balance", balance).unwrap_or(Balance::RoundRobin);
    cluster.limits = r.field(&fields, "limits", limits).unwrap_or_default();
    cluster.tls = r.field(&fields, "tls", client_tls);
    cluster.protocol = protocol(r, &fields, cluster.tls.is_some() || fields.get("tls").is_some());
    cluster.connect_timeout = r.field(&fields, "connect_timeout", Reader::duration);
    cluster.idle_timeout = r.field(&fields, "idle_timeout", Reader::duration);
    let health_node = fields.get("health");
    cluster.health = r.field(&fields, "health", |r, n| Some(r.each(n, health::check))).unwrap_or_default();
    if let (Some(node), true) = (health_node, cluster.health.iter().any(|h| matches!(h.probe, HealthProbe::Grpc(_)))) {
        // gRPC is HTTP/2, so who is checked by it speaks it.
        match fields.get("protocol") {
            None => cluster.protocol = UpstreamProtocol::H2,
            Some(_) if cluster.protocol == UpstreamProtocol::H2 => (),
            Some(_) => r.at("health", |r| r.wrong(node, Code::Conflict, "`grpc` checks need `protocol: h2`")),
        }
    }
    cluster.outlier = r.field(&fields, "outlier", health::outlier);
    let versions = [("v1", ProxyProtocol::V1), ("v2", ProxyProtocol::V2)];
    cluster.proxy_protocol = r.field(&fields, "proxy_protocol", |r, n| r.choice(n, &versions));
    cluster.endpoints = endpoints?;
    if let (Some(tls), Some(node), Endpoints::Fixed(_)) = (&cluster.tls, fields.get("tls"), &cluster.endpoints)
        && tls.verify
        && tls.sni.is_none()
    {
        r.at("tls", |r| {
            r.wrong(node, Code::Conflict, "`sni` is missing: the name the endpoints' certificates must have")
        });
        r.hint("write `tls: { sni: app.internal }`, or `verify: false` to trust anyone");
    }
    Some(cluster)
}

fn where_to(r: &mut Reader<'_>, node: &Node, fields: &Fields<'_>) -> Option<Endpoints> {
    match (fields.get("endpoints"), fields.get("dns")) {
        (Some(list), None) => r.at("endpoints", |r| {
            let endpoints = r.each(list, endpoint);
            kinds(r, list, endpoints)
        }),
        (None, Some(names)) => r.at("dns", |r| {
            let endpoints = r.each(names, endpoint);
            if endpoints.is_empty() {
                return None;
            }
            Some(Endpoints::Dns(endpoints))
        }),
        (None, None) => {
            r.wrong(node, Code::Shape, "`endpoints` or `dns` is missing");
            None
        }
        (Some(_), Some(_)) => {
            r.wrong(node, Code::Conflict, "write either `endpoints` or `dns`");
            None
        }
    }
}

/// Addresses are fixed; names need DNS. A mix is refused, because it would be two clusters.
fn kinds(r: &mut Reader<'_>, node: &Node, endpoints: Vec<Endpoint>) -> Option<Endpoints> {
    let names = endpoints.iter().filter(|e| e.address.ip().is_none()).count();
    match names {
        0 => Some(Endpoints::Fixed(endpoints)),
        n if n == endpoints.len() => Some(Endpoints::Dns(endpoints)),
        _ => {
            r.wrong(node, Code::Conflict, "host names and addresses are mixed");
            r.hint("use one cluster for the names and one for the addresses, and weights in the route");
            None
        }
    }
}

fn endpoint(r: &mut Reader<'_>, node: &Node) -> Option<Endpoint> {
    const ENDPOINT: Keys = Keys { known: &["address", "weight", "zone", "priority"], not_yet: &["labels", "health"] };
    if let Value::Scalar { .. } = node.value {
        return Some(Endpoint { address: r.endpoint(node)?, weight: 1, zone: String::new(), priority: 0 });
    }
    let fields = r.fields(node, ENDPOINT)?;
    let weight = r.field(&fields, "weight", |r, n| r.number(n, 1..=128_000)).unwrap_or(1);
    let zone = r.field(&fields, "zone", Reader::word).unwrap_or_default();
    let priority = r.field(&fields, "priority", |r, n| r.number(n, 0..=128)).unwrap_or(0);
    Some(Endpoint { address: r.required(&fields, "address", Reader::endpoint)?, weight, zone, priority })
}

fn balance(r: &mut Reader<'_>, node: &Node) -> Option<Balance> {
    const HASHED: Keys = Keys { known: &["ring_hash", "maglev"], not_yet: &["least_time", "peak_ewma"] };
    if let Value::Map(_) = node.value {
        let fields = r.fields(node, HASHED)?;
        let ring = r.field(&fields, "ring_hash", hash_keys).map(Balance::RingHash);
        let maglev = r.field(&fields, "maglev", hash_keys).map(Balance::Maglev);
        if ring.is_some() == maglev.is_some() && fields.get("ring_hash").is_some() == fields.get("maglev").is_some() {
            r.wrong(node, Code::Shape, "exactly one of ring_hash, maglev is needed");
        }
        return ring.or(maglev);
    }
    let word = r.choice(
        node,
        &[
            ("round_robin", 0),
            ("least_request", 1),
            ("least_conn", 1),
            ("random", 2),
            ("ip_hash", 3),
            ("source", 3),
            ("ring_hash", 4),
            ("maglev", 4),
            ("least_time", 5),
            ("peak_ewma", 5),
        ],
    )?;
    match word {
        0 => Some(Balance::RoundRobin),
        1 => Some(Balance::LeastRequest),
        2 => Some(Balance::Random),
        3 => Some(Balance::RingHash(vec![HashKey::ClientIp])),
        4 => {
            r.wrong(node, Code::Shape, "says not what to hash");
            r.hint("write `balance: { ring_hash: { header: x-user } }`, or cookie, query, client_ip");
            None
        }
        _ => {
            r.wrong(node, Code::NotYet, "this algorithm is not implemented yet");
            None
        }
    }
}

fn hash_keys(r: &mut Reader<'_>, node: &Node) -> Option<Vec<HashKey>> {
    const HASH: Keys = Keys { known: &["cookie", "ttl", "header", "query", "client_ip"], not_yet: &["table_size"] };
    let fields = r.fields(node, HASH)?;
    let ttl = r.field(&fields, "ttl", Reader::duration);
    let mut keys = Vec::new();
    if let Some(name) = r.field(&fields, "cookie", Reader::word) {
        keys.push(HashKey::Cookie { name, ttl });
    } else if let Some(node) = fields.get("ttl") {
        r.at("ttl", |r| r.wrong(node, Code::Conflict, "`ttl` belongs to `cookie`"));
    }
    keys.extend(r.field(&fields, "header", Reader::word).map(HashKey::Header));
    keys.extend(r.field(&fields, "query", Reader::word).map(HashKey::Query));
    if r.field(&fields, "client_ip", Reader::truth) == Some(true) {
        keys.push(HashKey::ClientIp);
    }
    if keys.is_empty() {
        r.wrong(node, Code::Shape, "says not what to hash: cookie, header, query or client_ip");
        return None;
    }
    Some(keys)
}

fn limits(r: &mut Reader<'_>, node: &Node) -> Option<Limits> {
    const LIMITS: Keys =
        Keys { known: &["connections", "pending", "requests", "retries", "requests_per_connection"], not_yet: &[] };
    let fields = r.fields(node, LIMITS)?;
    let mut number = |key: &str| r.field(&fields, key, |r, n| r.number(n, 0..=u32::MAX));
    Some(Limits {
        connections: number("connections"),
        pending: number("pending"),
        requests: number("requests"),
        retries: number("retries"),
        requests_per_connection: number("requests_per_connection"),
    })
}

fn client_tls(r: &mut Reader<'_>, node: &Node) -> Option<ClientTls> {
    const TLS: Keys = Keys { known: &["sni", "ca", "cert", "key", "verify"], not_yet: &["alpn", "min_version"] };
    if let Value::Scalar { .. } = node.value {
        let on = r.truth(node)?;
        return on.then_some(ClientTls { sni: None, ca: None, identity: None, verify: true });
    }
    let fields = r.fields(node, TLS)?;
    let sni = r.field(&fields, "sni", Reader::word);
    let ca = r.field(&fields, "ca", certificate);
    let identity = match fields.get("cert").is_some() || fields.get("key").is_some() {
        true => key_pair(r, &fields),
        false => None,
    };
    let verify = r.field(&fields, "verify", Reader::truth).unwrap_or(true);
    if let (Some(node), false) = (fields.get("ca"), verify) {
        r.at("ca", |r| r.wrong(node, Code::Conflict, "`ca` means nothing with `verify: false`"));
    }
    Some(ClientTls { sni, ca, identity, verify })
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
