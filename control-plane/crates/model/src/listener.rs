//! Listeners: where to listen, and what is spoken there.

use std::net::SocketAddr;
use std::time::Duration;

use crate::draft::Kind;
use crate::node::{Node, Value};
use crate::problem::{Code, Place};
use crate::read::{Fields, Keys, Reader};
use crate::route::{Destination, destination};
use crate::value;

pub mod accept;
pub mod tls;

pub use accept::{Accept, ProxyHeader};
pub use tls::{ClientCertificate, KeyPair, ServerTls, TlsVersion};
pub(crate) use tls::{certificate, key_pair};

#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    pub name: String,
    pub place: Place,
    pub address: SocketAddr,
    pub protocol: Protocol,
    pub accept: Accept,
    pub access_log: Option<AccessLog>,
    /// Only nodes of these groups listen; empty = all nodes.
    pub groups: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Protocol {
    Http(Http),
    /// Bytes to one destination.
    Tcp(Tcp),
    /// Routed by server name, never decrypted; the routes with `on` this listener say where to.
    TlsPassthrough {
        idle_timeout: Option<Duration>,
    },
    /// Datagrams to one cluster.
    Udp {
        to: String,
        idle_timeout: Option<Duration>,
        /// Each datagram may go to another endpoint; else those of one client stay together.
        per_packet: bool,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Tcp {
    pub to: Destination,
    /// Decrypted here.
    pub tls: Option<ServerTls>,
    pub idle_timeout: Option<Duration>,
    /// Connects that are tried before the client is sent away.
    pub attempts: Option<u32>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Http {
    pub h1: bool,
    pub h2: bool,
    pub tls: Option<ServerTls>,
    /// Every request is answered with a redirect to https.
    pub redirect_https: bool,
    pub policies: Vec<String>,
    /// Proxies in front of us whose `x-forwarded-for` is believed.
    pub trusted_hops: u32,
    pub idle_timeout: Option<Duration>,
    pub request_timeout: Option<Duration>,
    pub max_header_size: Option<u64>,
    pub websocket: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    pub sink: LogSink,
    pub json: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum LogSink {
    Stdout,
    File(String),
}

// === reading ===

const KEYS: Keys = Keys {
    known: &[
        "address",
        "protocol",
        "protocols",
        "tls",
        "redirect",
        "to",
        "idle_timeout",
        "request_timeout",
        "max_header_size",
        "policies",
        "trusted_hops",
        "websocket",
        "access_log",
        "groups",
        "attempts",
        "per_packet",
        "proxy_protocol",
        "original_dst",
        "max_connections",
        "connection_rate",
        "max_age",
        "max_requests",
    ],
    not_yet: &["trusted_proxies"],
};

pub(crate) fn listener(r: &mut Reader<'_>, name: &str, node: &Node) -> Option<Listener> {
    let place = r.place(node);
    if let Value::Scalar { .. } = node.value {
        let address = address(r, node)?;
        let protocol = Protocol::Http(Http::default());
        return Some(Listener {
            name: name.to_owned(),
            place,
            address,
            protocol,
            accept: Accept::default(),
            access_log: None,
            groups: Vec::new(),
        });
    }
    let fields = r.fields(node, KEYS)?;
    let address = r.required(&fields, "address", address);
    let access_log = r.field(&fields, "access_log", access_log);
    let groups = r.field(&fields, "groups", |r, n| Some(r.each(n, Reader::word))).unwrap_or_default();
    let kind = match fields.get("protocol") {
        None => Some("http"),
        Some(node) => r.at("protocol", |r| protocol_name(r, node)),
    };
    let protocol = match kind? {
        "tcp" => tcp(r, &fields),
        "tls" => passthrough(r, &fields),
        "udp" => udp(r, &fields),
        _ => http(r, &fields),
    };
    let accept = accept::accept(r, &fields);
    Some(Listener { name: name.to_owned(), place, address: address?, protocol: protocol?, accept, access_log, groups })
}

fn address(r: &mut Reader<'_>, node: &Node) -> Option<SocketAddr> {
    let text = r.word(node)?;
    match value::listen_address(&text) {
        Ok(address) => Some(address),
        Err(why) => {
            r.wrong(node, Code::Value, why);
            None
        }
    }
}

fn protocol_name(r: &mut Reader<'_>, node: &Node) -> Option<&'static str> {
    r.choice(node, &[("http", "http"), ("tcp", "tcp"), ("tls", "tls"), ("udp", "udp")])
}

/// Refuses keys that mean nothing for this protocol.
fn only(r: &mut Reader<'_>, fields: &Fields<'_>, protocol: &str, allowed: &[&str]) {
    for key in KEYS.known {
        if let Some(node) = fields.get(key)
            && !allowed.contains(key)
        {
            r.at(key, |r| r.wrong(node, Code::Conflict, format!("`{key}` means nothing with protocol {protocol}")));
        }
    }
}

/// Keys of every protocol that has connections.
const OF_CONNECTIONS: [&str; 9] = [
    "address",
    "protocol",
    "idle_timeout",
    "access_log",
    "groups",
    "proxy_protocol",
    "original_dst",
    "max_connections",
    "connection_rate",
];

fn tcp(r: &mut Reader<'_>, fields: &Fields<'_>) -> Option<Protocol> {
    only(r, fields, "tcp", &[&OF_CONNECTIONS[..], &["to", "tls", "attempts", "max_age"]].concat());
    let idle_timeout = r.field(fields, "idle_timeout", Reader::duration);
    let tls = r.field(fields, "tls", tls::server_tls);
    let attempts = r.field(fields, "attempts", |r, n| r.number(n, 1..=100));
    let to = r.required(fields, "to", destination)?;
    Some(Protocol::Tcp(Tcp { to, tls, idle_timeout, attempts }))
}

fn passthrough(r: &mut Reader<'_>, fields: &Fields<'_>) -> Option<Protocol> {
    only(r, fields, "tls", &[&OF_CONNECTIONS[..], &["max_age"]].concat());
    Some(Protocol::TlsPassthrough { idle_timeout: r.field(fields, "idle_timeout", Reader::duration) })
}

fn udp(r: &mut Reader<'_>, fields: &Fields<'_>) -> Option<Protocol> {
    only(r, fields, "udp", &["address", "protocol", "to", "idle_timeout", "per_packet", "access_log", "groups"]);
    let idle_timeout = r.field(fields, "idle_timeout", Reader::duration);
    let per_packet = r.field(fields, "per_packet", Reader::truth).unwrap_or(false);
    let to = r.required(fields, "to", |r, n| r.reference(n, Kind::Cluster))?;
    Some(Protocol::Udp { to, idle_timeout, per_packet })
}

impl Default for Http {
    fn default() -> Self {
        Http {
            h1: true,
            h2: true,
            tls: None,
            redirect_https: false,
            policies: Vec::new(),
            trusted_hops: 0,
            idle_timeout: None,
            request_timeout: None,
            max_header_size: None,
            websocket: true,
        }
    }
}

fn http(r: &mut Reader<'_>, fields: &Fields<'_>) -> Option<Protocol> {
    if let Some(node) = fields.get("to") {
        r.at("to", |r| r.wrong(node, Code::Conflict, "an http listener takes no `to`"));
        r.hint("write a route: `routes: [{ on: <listener>, to: <cluster> }]`, or set `protocol: tcp`");
    }
    for key in ["attempts", "per_packet"] {
        if let Some(node) = fields.get(key) {
            r.at(key, |r| r.wrong(node, Code::Conflict, format!("`{key}` means nothing with protocol http")));
        }
    }
    let mut http = Http::default();
    if let Some(node) = fields.get("protocols") {
        r.at("protocols", |r| protocols(r, node, &mut http));
    }
    http.tls = r.field(fields, "tls", tls::server_tls);
    http.redirect_https = r.field(fields, "redirect", |r, n| r.choice(n, &[("https", true)])).unwrap_or(false);
    if let (true, Some(node)) = (http.redirect_https && http.tls.is_some(), fields.get("redirect")) {
        r.at("redirect", |r| r.wrong(node, Code::Conflict, "a listener with `tls` cannot redirect to https"));
    }
    http.policies = policies(r, fields);
    http.trusted_hops = r.field(fields, "trusted_hops", |r, n| r.number(n, 0..=100)).unwrap_or(0);
    http.idle_timeout = r.field(fields, "idle_timeout", Reader::duration);
    http.request_timeout = r.field(fields, "request_timeout", Reader::duration);
    http.max_header_size = r.field(fields, "max_header_size", |r, n| {
        let size = r.size(n)?;
        if !(1024..=8 << 20).contains(&size) {
            r.wrong(n, Code::Value, "must be from 1KiB to 8MiB");
            return None;
        }
        Some(size)
    });
    http.websocket = r.field(fields, "websocket", Reader::truth).unwrap_or(true);
    Some(Protocol::Http(http))
}

fn protocols(r: &mut Reader<'_>, node: &Node, http: &mut Http) {
    let named = r.each(node, |r, n| {
        let name = r.choice(n, &[("h1", "h1"), ("h2", "h2"), ("h3", "h3")])?;
        if name == "h3" {
            r.wrong(n, Code::NotYet, "protocol `h3` is not implemented yet");
        }
        Some(name)
    });
    http.h1 = named.contains(&"h1");
    http.h2 = named.contains(&"h2");
    if named.is_empty() {
        r.wrong(node, Code::Shape, "name at least one of h1, h2");
    }
}

pub(crate) fn policies(r: &mut Reader<'_>, fields: &Fields<'_>) -> Vec<String> {
    let read = |r: &mut Reader<'_>, n: &Node| Some(r.each(n, |r, n| r.reference(n, Kind::Policy)));
    r.field(fields, "policies", read).unwrap_or_default()
}

fn access_log(r: &mut Reader<'_>, node: &Node) -> Option<AccessLog> {
    const LOG: Keys = Keys { known: &["path", "format"], not_yet: &["fields", "filter", "grpc", "otlp", "syslog"] };
    let sink = |r: &mut Reader<'_>, n: &Node| {
        let text = r.word(n)?;
        Some(if text == "stdout" { LogSink::Stdout } else { LogSink::File(text) })
    };
    if let Value::Scalar { .. } = node.value {
        return Some(AccessLog { sink: sink(r, node)?, json: true });
    }
    let fields = r.fields(node, LOG)?;
    let json = r.field(&fields, "format", |r, n| r.choice(n, &[("json", true), ("text", false)])).unwrap_or(true);
    Some(AccessLog { sink: r.required(&fields, "path", sink)?, json })
}
