//! Listeners: where to listen, and what is spoken there.

use std::net::SocketAddr;
use std::time::Duration;

use crate::draft::Kind;
use crate::node::{Node, Value};
use crate::problem::{Code, Place};
use crate::read::{Fields, Keys, Reader};
use crate::route::{Destination, destination};
use crate::value;

#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    pub name: String,
    pub place: Place,
    pub address: SocketAddr,
    pub protocol: Protocol,
    pub access_log: Option<AccessLog>,
    /// Only nodes of these groups listen; empty = all nodes.
    pub groups: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Protocol {
    Http(Http),
    /// Bytes to one destination.
    Tcp {
        to: Destination,
        idle_timeout: Option<Duration>,
    },
    /// Routed by server name, never decrypted; the routes with `on` this listener say where to.
    TlsPassthrough {
        idle_timeout: Option<Duration>,
    },
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
pub struct ServerTls {
    pub certificates: Vec<KeyPair>,
    pub min_version: TlsVersion,
    /// Clients must show a certificate of this authority.
    pub client_ca: Option<String>,
    pub client_certificate: ClientCertificate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificate {
    Required,
    Optional,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

/// PEM texts.
#[derive(Clone, PartialEq)]
pub struct KeyPair {
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyPair").field("certificate", &self.certificate.len()).finish_non_exhaustive()
    }
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
    ],
    not_yet: &["proxy_protocol", "max_connections", "trusted_proxies"],
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
        _ => http(r, &fields),
    };
    Some(Listener { name: name.to_owned(), place, address: address?, protocol: protocol?, access_log, groups })
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
    let choices = [("http", "http"), ("tcp", "tcp"), ("tls", "tls"), ("udp", "udp")];
    match r.choice(node, &choices)? {
        "udp" => {
            r.wrong(node, Code::NotYet, "protocol `udp` is not implemented yet");
            None
        }
        known => Some(known),
    }
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

fn tcp(r: &mut Reader<'_>, fields: &Fields<'_>) -> Option<Protocol> {
    only(r, fields, "tcp", &["address", "protocol", "to", "idle_timeout", "access_log", "groups"]);
    let idle_timeout = r.field(fields, "idle_timeout", Reader::duration);
    let to = r.required(fields, "to", destination)?;
    Some(Protocol::Tcp { to, idle_timeout })
}

fn passthrough(r: &mut Reader<'_>, fields: &Fields<'_>) -> Option<Protocol> {
    only(r, fields, "tls", &["address", "protocol", "idle_timeout", "access_log", "groups"]);
    Some(Protocol::TlsPassthrough { idle_timeout: r.field(fields, "idle_timeout", Reader::duration) })
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
    let mut http = Http::default();
    if let Some(node) = fields.get("protocols") {
        r.at("protocols", |r| protocols(r, node, &mut http));
    }
    http.tls = r.field(fields, "tls", server_tls);
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

const TLS: Keys = Keys {
    known: &["cert", "key", "certificates", "min_version", "client_ca", "client_certificate"],
    not_yet: &["acme", "ocsp", "ciphers", "max_version", "session_tickets"],
};

fn server_tls(r: &mut Reader<'_>, node: &Node) -> Option<ServerTls> {
    let fields = r.fields(node, TLS)?;
    let mut certificates = Vec::new();
    if fields.get("cert").is_some() || fields.get("key").is_some() {
        certificates.extend(key_pair(r, &fields));
    }
    if let Some(list) = fields.get("certificates") {
        const PAIR: Keys = Keys { known: &["cert", "key"], not_yet: &[] };
        let pairs = r.at("certificates", |r| {
            r.list(list, |r, n| {
                let fields = r.fields(n, PAIR)?;
                key_pair(r, &fields)
            })
        });
        certificates.extend(pairs.unwrap_or_default());
    } else if fields.get("cert").is_none() && fields.get("key").is_none() && fields.get("acme").is_none() {
        r.wrong(node, Code::Shape, "`cert` and `key` are missing");
    }
    let versions = [("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
    let min_version = r.field(&fields, "min_version", |r, n| r.choice(n, &versions)).unwrap_or(TlsVersion::V1_2);
    let client_ca = r.field(&fields, "client_ca", certificate);
    let wanted = [("required", ClientCertificate::Required), ("optional", ClientCertificate::Optional)];
    let client_certificate = r.field(&fields, "client_certificate", |r, n| r.choice(n, &wanted));
    if let (Some(node), None) = (fields.get("client_certificate"), fields.get("client_ca")) {
        r.at("client_certificate", |r| r.wrong(node, Code::Conflict, "needs `client_ca`"));
    }
    let client_certificate = client_certificate.unwrap_or(ClientCertificate::Required);
    Some(ServerTls { certificates, min_version, client_ca, client_certificate })
}

pub(crate) fn key_pair(r: &mut Reader<'_>, fields: &Fields<'_>) -> Option<KeyPair> {
    let certificate = r.required(fields, "cert", certificate);
    let key = r.required(fields, "key", |r, n| pem(r, n, "PRIVATE KEY-----", "private key"));
    Some(KeyPair { certificate: certificate?, key: key? })
}

pub(crate) fn certificate(r: &mut Reader<'_>, node: &Node) -> Option<String> {
    pem(r, node, "-----BEGIN CERTIFICATE-----", "certificate")
}

fn pem(r: &mut Reader<'_>, node: &Node, marker: &str, what: &str) -> Option<String> {
    let text = r.secret(node)?;
    if !text.contains(marker) {
        r.wrong(node, Code::Value, format!("holds no PEM {what}"));
        return None;
    }
    Some(text)
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
