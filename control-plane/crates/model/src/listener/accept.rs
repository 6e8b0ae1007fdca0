//! How a listener takes connections: whom it believes, how many, how fast, and for how long.

use std::time::Duration;

use crate::node::{Node, Value};
use crate::problem::Code;
use crate::read::{Fields, Keys, Reader};
use crate::value::{Network, Rate};

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Accept {
    pub proxy_header: Option<ProxyHeader>,
    /// Where the client was going before it was redirected here is asked of the kernel.
    pub original_dst: bool,
    pub max_connections: Option<u32>,
    pub rate: Option<ConnectionRate>,
    pub max_age: Option<Duration>,
    pub max_requests: Option<u32>,
}

/// The PROXY protocol of who stands in front of us.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ProxyHeader {
    /// Only these may connect; empty = everybody may, and is believed.
    pub from: Vec<Network>,
    /// Connections without it are taken too.
    pub optional: bool,
    pub v1: bool,
    pub v2: bool,
    /// TLVs are kept for `pass_tlvs` of clusters.
    pub keep_tlvs: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionRate {
    pub rate: Rate,
    /// So many at once; by default those of one period.
    pub burst: Option<u32>,
}

pub(crate) fn accept(r: &mut Reader<'_>, fields: &Fields<'_>) -> Accept {
    Accept {
        proxy_header: r.field(fields, "proxy_protocol", |r, n| r.switch(n, ProxyHeader::both, proxy_header)),
        original_dst: r.field(fields, "original_dst", Reader::truth).unwrap_or(false),
        max_connections: r.field(fields, "max_connections", |r, n| r.number(n, 1..=u32::MAX)),
        rate: r.field(fields, "connection_rate", rate),
        max_age: r.field(fields, "max_age", Reader::duration),
        max_requests: r.field(fields, "max_requests", |r, n| r.number(n, 1..=u32::MAX)),
    }
}

impl ProxyHeader {
    fn both() -> Self {
        ProxyHeader { v1: true, v2: true, ..ProxyHeader::default() }
    }
}

fn proxy_header(r: &mut Reader<'_>, node: &Node) -> Option<ProxyHeader> {
    const KEYS: Keys = Keys { known: &["from", "optional", "versions", "keep_tlvs"], not_yet: &[] };
    let fields = r.fields(node, KEYS)?;
    let mut header = ProxyHeader::both();
    header.from = r.field(&fields, "from", |r, n| Some(r.each(n, Reader::network))).unwrap_or_default();
    header.optional = r.field(&fields, "optional", Reader::truth).unwrap_or(false);
    header.keep_tlvs = r.field(&fields, "keep_tlvs", Reader::truth).unwrap_or(false);
    if let Some(node) = fields.get("versions") {
        let versions = r.at("versions", |r| r.each(node, |r, n| r.choice(n, &[("v1", 1), ("v2", 2)])));
        (header.v1, header.v2) = (versions.contains(&1), versions.contains(&2));
        if versions.is_empty() {
            r.at("versions", |r| r.wrong(node, Code::Shape, "name at least one of v1, v2"));
        }
    }
    Some(header)
}

fn rate(r: &mut Reader<'_>, node: &Node) -> Option<ConnectionRate> {
    const KEYS: Keys = Keys { known: &["limit", "burst"], not_yet: &[] };
    if let Value::Scalar { .. } = node.value {
        return Some(ConnectionRate { rate: r.rate(node)?, burst: None });
    }
    let fields = r.fields(node, KEYS)?;
    let burst = r.field(&fields, "burst", |r, n| r.number(n, 1..=u32::MAX));
    Some(ConnectionRate { rate: r.required(&fields, "limit", Reader::rate)?, burst })
}
