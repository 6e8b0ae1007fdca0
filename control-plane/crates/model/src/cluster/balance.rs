//! How a cluster's requests are spread over its endpoints.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cluster::endpoints::labels;
use crate::node::{Node, Value};
use crate::problem::Code;
use crate::read::{Fields, Keys, Reader};
use crate::route::matching::is_header_name;
use crate::value::{Decimal, Percent};

#[derive(Debug, Clone, PartialEq)]
pub enum Balance {
    RoundRobin,
    LeastRequest {
        /// Of how many drawn at random the least loaded is taken.
        choices: Option<u32>,
        /// All are looked at instead.
        full_scan: bool,
        active_bias: Option<Decimal>,
    },
    Random,
    RingHash(Hashing),
    Maglev(Hashing),
    /// The smaller expected wait of two. Ours; stock Envoy takes least request instead.
    PeakEwma {
        decay: Option<Duration>,
        default_rtt: Option<Duration>,
    },
    /// The smallest response time times load. Ours; stock Envoy takes least request instead.
    LeastTime {
        last_byte: bool,
        choices: Option<u32>,
    },
}

/// Consistent hashing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Hashing {
    pub keys: Vec<HashKey>,
    /// Entries of the ring at least, or of the Maglev table.
    pub table_size: Option<u32>,
    /// No endpoint gets more than this share of the mean.
    pub max_load: Option<Percent>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum HashKey {
    Cookie { name: String, ttl: Option<Duration>, path: Option<String> },
    Header(String),
    Query(String),
    ClientIp,
}

/// Endpoints that become healthy get their share little by little.
#[derive(Debug, Clone, PartialEq)]
pub struct SlowStart {
    pub window: Duration,
    pub aggression: Option<Decimal>,
    pub min_weight: Option<Percent>,
}

/// What zones mean for the choice.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Localities {
    /// Weights of zones; empty = zones have none.
    pub weights: BTreeMap<String, u32>,
    pub zone_aware: Option<ZoneAware>,
    pub overprovisioning: Option<Percent>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct ZoneAware {
    /// Of requests that are routed so.
    pub share: Option<Percent>,
    pub min_endpoints: Option<u32>,
    /// In panic no endpoint is used, instead of every one.
    pub fail_in_panic: bool,
}

/// A client stays with its endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Sticky {
    pub by: StickyBy,
    /// Requests fail when the endpoint is gone, instead of going elsewhere.
    pub strict: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum StickyBy {
    /// Without ttl the cookie is one of the browser's session.
    Cookie {
        name: String,
        ttl: Option<Duration>,
        path: Option<String>,
    },
    Header(String),
}

/// Requests may ask for the endpoints with certain labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Subsets {
    /// Each a set of label names.
    pub selectors: Vec<Vec<String>>,
    pub fallback: SubsetFallback,
}

#[derive(Debug, Clone, PartialEq)]
pub enum SubsetFallback {
    None,
    Any,
    Default(BTreeMap<String, String>),
}

impl Balance {
    pub fn hash_keys(&self) -> &[HashKey] {
        match self {
            Balance::RingHash(hashing) | Balance::Maglev(hashing) => &hashing.keys,
            _ => &[],
        }
    }

    /// Whether Envoy has no such policy.
    pub fn is_own(&self) -> bool {
        matches!(self, Balance::PeakEwma { .. } | Balance::LeastTime { .. })
    }
}

// === reading ===

const WORDS: &[(&str, &str)] = &[
    ("round_robin", "round_robin"),
    ("least_request", "least_request"),
    ("least_conn", "least_request"),
    ("random", "random"),
    ("ip_hash", "ip_hash"),
    ("source", "ip_hash"),
    ("ring_hash", "ring_hash"),
    ("maglev", "maglev"),
    ("least_time", "least_time"),
    ("peak_ewma", "peak_ewma"),
];

pub(crate) fn balance(r: &mut Reader<'_>, node: &Node) -> Option<(Balance, Option<SlowStart>)> {
    const MAPS: Keys = Keys {
        known: &["round_robin", "least_request", "least_conn", "ring_hash", "maglev", "peak_ewma", "least_time"],
        not_yet: &[],
    };
    if let Value::Map(_) = node.value {
        let fields = r.fields(node, MAPS)?;
        let given: Vec<&str> = MAPS.known.iter().copied().filter(|k| fields.get(k).is_some()).collect();
        let [name] = given[..] else {
            if !given.is_empty() || MAPS.not_yet.iter().all(|k| fields.get(k).is_none()) {
                r.wrong(node, Code::Shape, format!("exactly one of {} is needed", MAPS.known.join(", ")));
            }
            return None;
        };
        return r.field(&fields, name, |r, n| match name {
            "round_robin" => Some((Balance::RoundRobin, of_round_robin(r, n))),
            "ring_hash" => Some((Balance::RingHash(hashing(r, n)?), None)),
            "maglev" => Some((Balance::Maglev(hashing(r, n)?), None)),
            "peak_ewma" => peak_ewma(r, n).map(|balance| (balance, None)),
            "least_time" => least_time(r, n).map(|balance| (balance, None)),
            _ => least_request(r, n),
        });
    }
    let balance = match r.choice(node, WORDS)? {
        "round_robin" => Balance::RoundRobin,
        "least_request" => Balance::LeastRequest { choices: None, full_scan: false, active_bias: None },
        "random" => Balance::Random,
        "ip_hash" => Balance::RingHash(Hashing { keys: vec![HashKey::ClientIp], ..Hashing::default() }),
        "ring_hash" | "maglev" => {
            r.wrong(node, Code::Shape, "says not what to hash");
            r.hint("write `balance: { ring_hash: { header: x-user } }`, or cookie, query, source_ip");
            return None;
        }
        "peak_ewma" => Balance::PeakEwma { decay: None, default_rtt: None },
        _ => Balance::LeastTime { last_byte: false, choices: None },
    };
    Some((balance, None))
}

fn of_round_robin(r: &mut Reader<'_>, node: &Node) -> Option<SlowStart> {
    const KEYS: Keys = Keys { known: &["slow_start"], not_yet: &[] };
    let fields = r.fields(node, KEYS)?;
    r.field(&fields, "slow_start", slow_start)
}

fn least_request(r: &mut Reader<'_>, node: &Node) -> Option<(Balance, Option<SlowStart>)> {
    const KEYS: Keys = Keys { known: &["choices", "full_scan", "active_bias", "slow_start"], not_yet: &[] };
    let fields = r.fields(node, KEYS)?;
    let choices = r.field(&fields, "choices", |r, n| r.number(n, 2..=100));
    let full_scan = r.field(&fields, "full_scan", Reader::truth).unwrap_or(false);
    if let (true, Some(node)) = (full_scan, fields.get("choices")) {
        r.at("choices", |r| r.wrong(node, Code::Conflict, "`choices` means nothing with `full_scan`"));
    }
    let active_bias = r.field(&fields, "active_bias", |r, n| r.decimal(n, 0.0..=100.0));
    let slow_start = r.field(&fields, "slow_start", slow_start);
    Some((Balance::LeastRequest { choices, full_scan, active_bias }, slow_start))
}

fn peak_ewma(r: &mut Reader<'_>, node: &Node) -> Option<Balance> {
    const KEYS: Keys = Keys { known: &["decay", "default_rtt"], not_yet: &[] };
    let fields = r.fields(node, KEYS)?;
    let decay = r.field(&fields, "decay", Reader::duration);
    Some(Balance::PeakEwma { decay, default_rtt: r.field(&fields, "default_rtt", Reader::duration) })
}

fn least_time(r: &mut Reader<'_>, node: &Node) -> Option<Balance> {
    const KEYS: Keys = Keys { known: &["measure", "choices"], not_yet: &[] };
    let fields = r.fields(node, KEYS)?;
    let measures = [("header", false), ("last_byte", true)];
    let last_byte = r.field(&fields, "measure", |r, n| r.choice(n, &measures)).unwrap_or(false);
    Some(Balance::LeastTime { last_byte, choices: r.field(&fields, "choices", |r, n| r.number(n, 2..=100)) })
}

pub(crate) fn slow_start(r: &mut Reader<'_>, node: &Node) -> Option<SlowStart> {
    const KEYS: Keys = Keys { known: &["window", "aggression", "min_weight"], not_yet: &[] };
    if let Value::Scalar { .. } = node.value {
        return Some(SlowStart { window: r.duration(node)?, aggression: None, min_weight: None });
    }
    let fields = r.fields(node, KEYS)?;
    let aggression = r.field(&fields, "aggression", |r, n| r.decimal(n, 0.001..=1000.0));
    let min_weight = r.field(&fields, "min_weight", Reader::percent);
    Some(SlowStart { window: r.required(&fields, "window", Reader::duration)?, aggression, min_weight })
}

fn hashing(r: &mut Reader<'_>, node: &Node) -> Option<Hashing> {
    const HASH: Keys = Keys {
        known: &["cookie", "ttl", "path", "header", "query", "source_ip", "client_ip", "table_size", "max_load"],
        not_yet: &[],
    };
    let fields = r.fields(node, HASH)?;
    let ttl = r.field(&fields, "ttl", Reader::duration);
    let path = r.field(&fields, "path", Reader::word);
    let mut keys = Vec::new();
    if let Some(name) = r.field(&fields, "cookie", Reader::word) {
        keys.push(HashKey::Cookie { name, ttl, path });
    } else {
        only_with_cookie(r, &fields);
    }
    keys.extend(r.field(&fields, "header", header_name).map(HashKey::Header));
    keys.extend(r.field(&fields, "query", Reader::word).map(HashKey::Query));
    r.at_most_one(&fields, &["source_ip", "client_ip"]);
    for key in ["source_ip", "client_ip"] {
        if r.field(&fields, key, Reader::truth) == Some(true) {
            keys.push(HashKey::ClientIp);
        }
    }
    if keys.is_empty() {
        r.wrong(node, Code::Shape, "says not what to hash: cookie, header, query or source_ip");
        return None;
    }
    let table_size = r.field(&fields, "table_size", |r, n| r.number(n, 1..=5_000_011));
    let max_load = r.field(&fields, "max_load", |r, n| {
        let share = r.share(n)?;
        if share.0 < 10_000 {
            r.wrong(n, Code::Value, "must be 100% or more: it is a share of the mean");
            return None;
        }
        Some(share)
    });
    Some(Hashing { keys, table_size, max_load })
}

fn only_with_cookie(r: &mut Reader<'_>, fields: &Fields<'_>) {
    for key in ["ttl", "path"] {
        if let Some(node) = fields.get(key) {
            r.at(key, |r| r.wrong(node, Code::Conflict, format!("`{key}` belongs to `cookie`")));
        }
    }
}

pub(crate) fn header_name(r: &mut Reader<'_>, node: &Node) -> Option<String> {
    let name = r.word(node)?.to_ascii_lowercase();
    if !is_header_name(&name) {
        r.wrong(node, Code::Value, format!("`{name}` is not a header name"));
        return None;
    }
    Some(name)
}

pub(crate) fn sticky(r: &mut Reader<'_>, node: &Node) -> Option<Sticky> {
    const KEYS: Keys = Keys { known: &["cookie", "ttl", "path", "header", "strict"], not_yet: &[] };
    let fields = r.fields(node, KEYS)?;
    let ttl = r.field(&fields, "ttl", Reader::duration);
    let path = r.field(&fields, "path", Reader::word);
    let strict = r.field(&fields, "strict", Reader::truth).unwrap_or(false);
    let cookie = r.field(&fields, "cookie", Reader::word);
    let header = r.field(&fields, "header", header_name);
    if fields.get("cookie").is_none() {
        only_with_cookie(r, &fields);
    }
    let by = match (cookie, header) {
        (Some(name), None) => StickyBy::Cookie { name, ttl, path },
        (None, Some(name)) => StickyBy::Header(name),
        _ => {
            if fields.get("cookie").is_some() == fields.get("header").is_some() {
                r.wrong(node, Code::Shape, "exactly one of cookie, header is needed");
            }
            return None;
        }
    };
    Some(Sticky { by, strict })
}

pub(crate) fn subsets(r: &mut Reader<'_>, node: &Node) -> Option<Subsets> {
    const KEYS: Keys = Keys { known: &["by", "fallback"], not_yet: &[] };
    let selectors = |r: &mut Reader<'_>, n: &Node| {
        let selector = |r: &mut Reader<'_>, n: &Node| {
            let mut names = r.each(n, Reader::word);
            names.sort();
            names.dedup();
            (!names.is_empty()).then_some(names)
        };
        match n.value {
            // One label is a list of one selector with one label.
            Value::Scalar { .. } => Some(vec![selector(r, n)?]),
            _ => r.list(n, selector),
        }
    };
    if !matches!(node.value, Value::Map(_)) {
        return Some(Subsets { selectors: selectors(r, node)?, fallback: SubsetFallback::None });
    }
    let fields = r.fields(node, KEYS)?;
    let fallback = r.field(&fields, "fallback", |r, n| match n.value {
        Value::Map(_) => labels(r, n).map(SubsetFallback::Default),
        _ => match r.choice(n, &[("none", false), ("any", true)])? {
            true => Some(SubsetFallback::Any),
            false => Some(SubsetFallback::None),
        },
    });
    let selectors = r.required(&fields, "by", selectors)?;
    Some(Subsets { selectors, fallback: fallback.unwrap_or(SubsetFallback::None) })
}

pub(crate) fn localities(r: &mut Reader<'_>, fields: &Fields<'_>) -> Localities {
    const AWARE: Keys = Keys { known: &["share", "min_endpoints", "fail_in_panic"], not_yet: &[] };
    r.at_most_one(fields, &["zones", "zone_aware"]);
    let weights =
        r.field(fields, "zones", |r, n| r.entries(n, |r, name, n| Some((name.to_owned(), r.number(n, 1..=128_000)?))));
    let zone_aware = r.field(fields, "zone_aware", |r, n| {
        r.switch(n, ZoneAware::default, |r, n| {
            let fields = r.fields(n, AWARE)?;
            Some(ZoneAware {
                share: r.field(&fields, "share", Reader::percent),
                min_endpoints: r.field(&fields, "min_endpoints", |r, n| r.number(n, 1..=u32::MAX)),
                fail_in_panic: r.field(&fields, "fail_in_panic", Reader::truth).unwrap_or(false),
            })
        })
    });
    let overprovisioning = r.field(fields, "overprovisioning", |r, n| {
        let share = r.share(n)?;
        if share.0 < 10_000 {
            r.wrong(n, Code::Value, "must be 100% or more");
            return None;
        }
        Some(share)
    });
    Localities { weights: weights.unwrap_or_default().into_iter().collect(), zone_aware, overprovisioning }
}
