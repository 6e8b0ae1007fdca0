//! Where a cluster's endpoints come from: written down, DNS, other clusters, or the request itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::draft::Kind;
use crate::node::{Node, Value};
use crate::problem::Code;
use crate::read::{Fields, Keys, Reader};
use crate::value::HostPort;

#[derive(Debug, Clone, PartialEq)]
pub enum Discovery {
    /// Addresses, served by EDS.
    Fixed(Vec<Endpoint>),
    Dns(Dns),
    Srv(Srv),
    /// The first of these clusters that has healthy endpoints.
    Failover(Vec<String>),
    OriginalDst(OriginalDst),
    ForwardProxy(ForwardProxy),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    pub address: HostPort,
    /// Other addresses of the same endpoint, tried when the first does not answer.
    pub also: Vec<HostPort>,
    pub weight: u32,
    pub region: String,
    pub zone: String,
    /// 0 is tried first.
    pub priority: u32,
    /// What subsets are made by.
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Dns {
    pub names: Vec<Endpoint>,
    /// One endpoint behind whatever address the name has now, instead of one a record.
    pub logical: bool,
    pub lookup: Lookup,
}

/// Priorities, weights, ports and targets are what the records of this name say.
#[derive(Debug, Clone, PartialEq)]
pub struct Srv {
    pub name: String,
    pub lookup: Lookup,
}

/// How names are asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Lookup {
    /// How often to ask where the answer has no TTL, or `ttl` is off.
    pub refresh: Option<Duration>,
    /// Records are asked for again when their TTL is over.
    pub ttl: bool,
    pub jitter: Option<Duration>,
    pub family: Option<Family>,
    /// The servers to ask, instead of those of the proxy's machine.
    pub resolvers: Vec<SocketAddr>,
}

impl Default for Lookup {
    fn default() -> Self {
        Lookup { refresh: None, ttl: true, jitter: None, family: None, resolvers: Vec::new() }
    }
}

/// Which addresses of a name are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
    V4First,
    V6First,
    All,
}

/// Where the client was going before it was redirected to us.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OriginalDst {
    /// The header that says where to go, instead of the connection.
    pub header: Option<String>,
    pub port: Option<u32>,
}

/// Wherever the request's host leads.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ForwardProxy {
    pub family: Option<Family>,
    pub max_hosts: Option<u32>,
    /// How long a host that nobody asks for is kept.
    pub host_ttl: Option<Duration>,
    pub refresh: Option<Duration>,
}

impl Discovery {
    /// The endpoints written down, addresses or names.
    pub fn listed(&self) -> &[Endpoint] {
        match self {
            Discovery::Fixed(endpoints) | Discovery::Dns(Dns { names: endpoints, .. }) => endpoints,
            Discovery::Srv(_) | Discovery::Failover(_) | Discovery::OriginalDst(_) | Discovery::ForwardProxy(_) => &[],
        }
    }
}

// === reading ===

const KINDS: [&str; 6] = ["endpoints", "dns", "srv", "failover", "original_dst", "forward_proxy"];

/// A list of addresses, or one.
pub(crate) fn short(r: &mut Reader<'_>, node: &Node) -> Option<Discovery> {
    let endpoints = r.each(node, endpoint);
    kinds(r, node, endpoints)
}

pub(crate) fn discovery(r: &mut Reader<'_>, node: &Node, fields: &Fields<'_>) -> Option<Discovery> {
    let given: Vec<&str> = KINDS.into_iter().filter(|k| fields.get(k).is_some()).collect();
    let [kind] = given[..] else {
        let kinds = KINDS.join(", ");
        match given.is_empty() {
            true => r.wrong(node, Code::Shape, format!("one of {kinds} is missing")),
            false => r.wrong(node, Code::Conflict, format!("write only one of {kinds}")),
        }
        return None;
    };
    r.field(fields, kind, |r, n| match kind {
        "endpoints" => short(r, n),
        "dns" => dns(r, n).map(Discovery::Dns),
        "srv" => srv(r, n).map(Discovery::Srv),
        "failover" => failover(r, n).map(Discovery::Failover),
        "original_dst" => r.switch(n, OriginalDst::default, original_dst).map(Discovery::OriginalDst),
        _ => r.switch(n, ForwardProxy::default, forward_proxy).map(Discovery::ForwardProxy),
    })
}

/// Addresses are fixed; names need DNS. A mix is refused, because it would be two clusters.
fn kinds(r: &mut Reader<'_>, node: &Node, endpoints: Vec<Endpoint>) -> Option<Discovery> {
    let names = endpoints.iter().filter(|e| e.address.ip().is_none()).count();
    match names {
        0 => Some(Discovery::Fixed(endpoints)),
        n if n == endpoints.len() => Some(Discovery::Dns(Dns { names: endpoints, ..Dns::default() })),
        _ => {
            r.wrong(node, Code::Conflict, "host names and addresses are mixed");
            r.hint("use one cluster for the names and one for the addresses, and weights in the route");
            None
        }
    }
}

fn endpoint(r: &mut Reader<'_>, node: &Node) -> Option<Endpoint> {
    const ENDPOINT: Keys = Keys {
        known: &["address", "also", "weight", "region", "zone", "priority", "backup", "labels"],
        not_yet: &["health"],
    };
    let plain = |address| Endpoint {
        address,
        also: Vec::new(),
        weight: 1,
        region: String::new(),
        zone: String::new(),
        priority: 0,
        labels: BTreeMap::new(),
    };
    if let Value::Scalar { .. } = node.value {
        return r.endpoint(node).map(plain);
    }
    let fields = r.fields(node, ENDPOINT)?;
    r.at_most_one(&fields, &["priority", "backup"]);
    let mut out = plain(r.required(&fields, "address", Reader::endpoint)?);
    out.also = r.field(&fields, "also", |r, n| Some(r.each(n, Reader::endpoint))).unwrap_or_default();
    for (node, also) in fields.get("also").into_iter().flat_map(|n| out.also.iter().map(move |a| (n, a))) {
        if also.ip().is_none() {
            r.at("also", |r| r.wrong(node, Code::Value, format!("`{}` is not an address", also.host)));
        }
    }
    out.weight = r.field(&fields, "weight", |r, n| r.number(n, 1..=128_000)).unwrap_or(1);
    out.region = r.field(&fields, "region", Reader::word).unwrap_or_default();
    out.zone = r.field(&fields, "zone", Reader::word).unwrap_or_default();
    let backup = r.field(&fields, "backup", Reader::truth).unwrap_or(false);
    out.priority = r.field(&fields, "priority", |r, n| r.number(n, 0..=128)).unwrap_or(u32::from(backup));
    out.labels = r.field(&fields, "labels", labels).unwrap_or_default();
    Some(out)
}

/// Texts by name.
pub(crate) fn labels(r: &mut Reader<'_>, node: &Node) -> Option<BTreeMap<String, String>> {
    let entries = r.entries(node, |r, name, n| Some((name.to_owned(), r.text(n)?)))?;
    Some(entries.into_iter().collect())
}

fn dns(r: &mut Reader<'_>, node: &Node) -> Option<Dns> {
    const DNS: Keys =
        Keys { known: &["names", "mode", "refresh", "ttl", "jitter", "family", "resolvers"], not_yet: &[] };
    let plain = matches!(&node.value, Value::Map(entries) if entries.iter().any(|(k, _)| k.text == "address"));
    if plain || !matches!(node.value, Value::Map(_)) {
        let names = r.each(node, endpoint);
        return (!names.is_empty()).then_some(Dns { names, ..Dns::default() });
    }
    let fields = r.fields(node, DNS)?;
    let names = r.required(&fields, "names", |r, n| Some(r.each(n, endpoint)))?;
    let logical = r.field(&fields, "mode", |r, n| r.choice(n, &[("strict", false), ("logical", true)]));
    let dns = Dns { names, logical: logical.unwrap_or(false), lookup: lookup(r, &fields) };
    if dns.logical && dns.names.len() > 1 {
        r.wrong(node, Code::Conflict, "`mode: logical` takes one name");
    }
    (!dns.names.is_empty()).then_some(dns)
}

/// The name alone, or with how to ask for it.
fn srv(r: &mut Reader<'_>, node: &Node) -> Option<Srv> {
    const SRV: Keys = Keys { known: &["name", "refresh", "ttl", "jitter", "family", "resolvers"], not_yet: &[] };
    if !matches!(node.value, Value::Map(_)) {
        return Some(Srv { name: srv_name(r, node)?, lookup: Lookup::default() });
    }
    let fields = r.fields(node, SRV)?;
    let lookup = lookup(r, &fields);
    Some(Srv { name: r.required(&fields, "name", srv_name)?, lookup })
}

fn srv_name(r: &mut Reader<'_>, node: &Node) -> Option<String> {
    let name = r.word(node)?;
    let labels: Vec<&str> = name.trim_end_matches('.').split('.').collect();
    let fits = |label: &&str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    if labels.len() < 2 || name.len() > 253 || !labels.iter().all(fits) {
        r.wrong(node, Code::Value, format!("`{name}` is not the name of SRV records: write _http._tcp.app.internal"));
        if name.contains(':') {
            r.hint("the ports come with the records; a name with a port is for `dns`");
        }
        return None;
    }
    Some(name)
}

fn lookup(r: &mut Reader<'_>, fields: &Fields<'_>) -> Lookup {
    Lookup {
        refresh: r.field(fields, "refresh", at_least_a_millisecond),
        ttl: r.field(fields, "ttl", Reader::truth).unwrap_or(true),
        jitter: r.field(fields, "jitter", Reader::duration),
        family: r.field(fields, "family", family),
        resolvers: r.field(fields, "resolvers", |r, n| Some(r.each(n, resolver))).unwrap_or_default(),
    }
}

/// A name server: its address, and its port unless that is 53.
fn resolver(r: &mut Reader<'_>, node: &Node) -> Option<SocketAddr> {
    let text = r.text(node)?;
    let address = text.parse().ok().or_else(|| Some(SocketAddr::new(text.parse().ok()?, 53)));
    if address.is_none_or(|a| a.port() == 0) {
        r.wrong(node, Code::Value, format!("`{text}` is not a name server: write 10.0.0.53 or 10.0.0.53:5353"));
        return None;
    }
    address
}

fn at_least_a_millisecond(r: &mut Reader<'_>, node: &Node) -> Option<Duration> {
    let duration = r.duration(node)?;
    if duration < Duration::from_millis(1) {
        r.wrong(node, Code::Value, "must be 1ms or more");
        return None;
    }
    Some(duration)
}

fn family(r: &mut Reader<'_>, node: &Node) -> Option<Family> {
    let families = [
        ("v4", Family::V4),
        ("v6", Family::V6),
        ("v4_first", Family::V4First),
        ("v6_first", Family::V6First),
        ("all", Family::All),
    ];
    r.choice(node, &families)
}

fn failover(r: &mut Reader<'_>, node: &Node) -> Option<Vec<String>> {
    let names = r.list(node, |r, n| r.reference(n, Kind::Cluster))?;
    let mut seen = std::collections::BTreeSet::new();
    if let Some(twice) = names.iter().find(|n| !seen.insert(*n)) {
        r.wrong(node, Code::Duplicate, format!("cluster `{twice}` is there twice"));
    }
    (!names.is_empty()).then_some(names)
}

fn original_dst(r: &mut Reader<'_>, node: &Node) -> Option<OriginalDst> {
    const KEYS: Keys = Keys { known: &["header", "port"], not_yet: &[] };
    let fields = r.fields(node, KEYS)?;
    Some(OriginalDst {
        header: r.field(&fields, "header", super::balance::header_name),
        port: r.field(&fields, "port", |r, n| r.number(n, 1..=65_535)),
    })
}

fn forward_proxy(r: &mut Reader<'_>, node: &Node) -> Option<ForwardProxy> {
    const KEYS: Keys = Keys { known: &["family", "max_hosts", "host_ttl", "refresh"], not_yet: &["preresolve"] };
    let fields = r.fields(node, KEYS)?;
    Some(ForwardProxy {
        family: r.field(&fields, "family", family),
        max_hosts: r.field(&fields, "max_hosts", |r, n| r.number(n, 1..=1_000_000)),
        host_ttl: r.field(&fields, "host_ttl", at_least_a_millisecond),
        refresh: r.field(&fields, "refresh", at_least_a_millisecond),
    })
}
