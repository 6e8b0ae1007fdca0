//! Connections to endpoints: how many, how long, and how they are opened.

use std::time::Duration;

use crate::cluster::endpoints::Family;
use crate::node::{Node, Value};
use crate::problem::Code;
use crate::read::{Fields, Keys, Reader};
use crate::value::{Decimal, Percent};

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Limits {
    pub default: Pool,
    /// For routes with `priority: high`.
    pub high: Option<Pool>,
    /// Connections to one endpoint.
    pub connections_per_endpoint: Option<u32>,
    pub requests_per_connection: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Pool {
    pub connections: Option<u32>,
    pub pending: Option<u32>,
    pub requests: Option<u32>,
    pub retries: Option<u32>,
    /// Retries as a share of the active requests.
    pub budget: Option<Percent>,
    /// The share is that of the requests of the last so long.
    pub budget_interval: Option<Duration>,
    /// So many retries are allowed whatever the share.
    pub min_retries: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Connections {
    pub max_requests: Option<u32>,
    pub max_age: Option<Duration>,
    pub keepalive: Option<Keepalive>,
    pub happy_eyeballs: Option<HappyEyeballs>,
    pub preconnect: Option<Preconnect>,
}

/// TCP keep-alive; None: the system's.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Keepalive {
    pub idle: Option<Duration>,
    pub interval: Option<Duration>,
    pub probes: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct HappyEyeballs {
    /// `V4` or `V6`.
    pub first: Option<Family>,
    /// So many of the first family before the other one is tried.
    pub count: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Preconnect {
    /// Connections for each that is needed, an endpoint.
    pub ratio: Option<Decimal>,
    /// The same over the cluster, ahead of the next picks.
    pub predictive: Option<Decimal>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    V1,
    V2 {
        /// TLVs that came in go out again.
        pass_tlvs: bool,
    },
}

// === reading ===

const POOL: [&str; 7] = ["connections", "pending", "requests", "retries", "budget", "budget_interval", "min_retries"];

pub(crate) fn limits(r: &mut Reader<'_>, node: &Node) -> Option<Limits> {
    const LIMITS: Keys = Keys {
        known: &[
            "connections",
            "pending",
            "requests",
            "retries",
            "budget",
            "budget_interval",
            "min_retries",
            "high",
            "connections_per_endpoint",
            "requests_per_connection",
        ],
        not_yet: &[],
    };
    const HIGH: Keys = Keys { known: &POOL, not_yet: &[] };
    let fields = r.fields(node, LIMITS)?;
    let number = |r: &mut Reader<'_>, n: &Node| r.number(n, 0..=u32::MAX);
    Some(Limits {
        default: pool(r, &fields),
        high: r.field(&fields, "high", |r, n| {
            let fields = r.fields(n, HIGH)?;
            Some(pool(r, &fields))
        }),
        connections_per_endpoint: r.field(&fields, "connections_per_endpoint", number),
        requests_per_connection: r.field(&fields, "requests_per_connection", number),
    })
}

fn pool(r: &mut Reader<'_>, fields: &Fields<'_>) -> Pool {
    let mut number = |key: &str| r.field(fields, key, |r, n| r.number(n, 0..=u32::MAX));
    let (connections, pending, requests) = (number("connections"), number("pending"), number("requests"));
    let (retries, min_retries) = (number("retries"), number("min_retries"));
    let budget = r.field(fields, "budget", Reader::percent);
    let budget_interval = r.field(fields, "budget_interval", Reader::duration);
    r.at_most_one(fields, &["retries", "budget"]);
    r.at_most_one(fields, &["retries", "budget_interval"]);
    Pool { connections, pending, requests, retries, budget, budget_interval, min_retries }
}

pub(crate) fn connections(r: &mut Reader<'_>, fields: &Fields<'_>, limits: &Limits) -> Connections {
    let max_requests = r.field(fields, "max_requests", |r, n| r.number(n, 1..=u32::MAX));
    if let (Some(node), Some(_)) = (fields.get("max_requests"), limits.requests_per_connection) {
        let why = "is the same as `limits.requests_per_connection`: write one of them";
        r.at("max_requests", |r| r.wrong(node, Code::Conflict, why));
    }
    Connections {
        max_requests: max_requests.or(limits.requests_per_connection),
        max_age: r.field(fields, "max_age", Reader::duration),
        keepalive: r.field(fields, "keepalive", |r, n| r.switch(n, Keepalive::default, keepalive)),
        happy_eyeballs: r.field(fields, "happy_eyeballs", |r, n| r.switch(n, HappyEyeballs::default, happy_eyeballs)),
        preconnect: r.field(fields, "preconnect", preconnect),
    }
}

fn keepalive(r: &mut Reader<'_>, node: &Node) -> Option<Keepalive> {
    const KEYS: Keys = Keys { known: &["idle", "interval", "probes"], not_yet: &[] };
    let fields = r.fields(node, KEYS)?;
    let seconds = |r: &mut Reader<'_>, n: &Node| {
        let duration = r.duration(n)?;
        if duration.as_secs() == 0 || duration.subsec_nanos() != 0 {
            r.wrong(n, Code::Value, "must be whole seconds");
            return None;
        }
        Some(duration)
    };
    Some(Keepalive {
        idle: r.field(&fields, "idle", seconds),
        interval: r.field(&fields, "interval", seconds),
        probes: r.field(&fields, "probes", |r, n| r.number(n, 1..=255)),
    })
}

fn happy_eyeballs(r: &mut Reader<'_>, node: &Node) -> Option<HappyEyeballs> {
    const KEYS: Keys = Keys { known: &["first", "count"], not_yet: &[] };
    let fields = r.fields(node, KEYS)?;
    Some(HappyEyeballs {
        first: r.field(&fields, "first", |r, n| r.choice(n, &[("v4", Family::V4), ("v6", Family::V6)])),
        count: r.field(&fields, "count", |r, n| r.number(n, 1..=100)),
    })
}

fn preconnect(r: &mut Reader<'_>, node: &Node) -> Option<Preconnect> {
    const KEYS: Keys = Keys { known: &["ratio", "predictive"], not_yet: &[] };
    let ratio = |r: &mut Reader<'_>, n: &Node| r.decimal(n, 1.0..=3.0);
    if let Value::Scalar { .. } = node.value {
        return Some(Preconnect { ratio: Some(ratio(r, node)?), predictive: None });
    }
    let fields = r.fields(node, KEYS)?;
    Some(Preconnect { ratio: r.field(&fields, "ratio", ratio), predictive: r.field(&fields, "predictive", ratio) })
}

pub(crate) fn proxy_protocol(r: &mut Reader<'_>, node: &Node) -> Option<ProxyProtocol> {
    const KEYS: Keys = Keys { known: &["version", "pass_tlvs"], not_yet: &["tlvs"] };
    let version = |r: &mut Reader<'_>, n: &Node| r.choice(n, &[("v1", 1), ("v2", 2)]);
    if let Value::Scalar { .. } = node.value {
        return Some(match version(r, node)? {
            1 => ProxyProtocol::V1,
            _ => ProxyProtocol::V2 { pass_tlvs: false },
        });
    }
    let fields = r.fields(node, KEYS)?;
    let version = r.required(&fields, "version", version)?;
    let pass_tlvs = r.field(&fields, "pass_tlvs", Reader::truth).unwrap_or(false);
    if let (1, Some(node)) = (version, fields.get("pass_tlvs")) {
        r.at("pass_tlvs", |r| r.wrong(node, Code::Conflict, "only v2 has TLVs"));
    }
    Some(if version == 1 { ProxyProtocol::V1 } else { ProxyProtocol::V2 { pass_tlvs } })
}
