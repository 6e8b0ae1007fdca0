//! How a cluster's endpoints are watched: active checks, and ejection of outliers.

use std::time::Duration;

use crate::cluster::{probe_method, whole_percent};
use crate::node::{Node, Value};
use crate::problem::Code;
use crate::read::{Fields, Keys, Reader};
use crate::route::action::{HeaderEdits, header_edits};
use crate::value::Decimal;

#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheck {
    pub probe: HealthProbe,
    pub interval: Duration,
    pub timeout: Duration,
    pub unhealthy: u32,
    pub healthy: u32,
    /// Instead of the endpoint's own.
    pub port: Option<u32>,
    /// At most so much is added to each interval at random.
    pub jitter: Option<Duration>,
    pub no_traffic_interval: Option<Duration>,
    pub unhealthy_interval: Option<Duration>,
    /// A new connection for each check when false.
    pub reuse: bool,
    /// Changes of health are written there, one JSON object a line.
    pub event_log: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum HealthProbe {
    Http(HttpProbe),
    Tcp {
        send: Option<Vec<u8>>,
        /// Parts that must come, in this order.
        expect: Vec<Vec<u8>>,
    },
    Grpc {
        /// May be empty: the whole server.
        service: String,
        authority: Option<String>,
    },
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct HttpProbe {
    pub path: String,
    pub host: Option<String>,
    pub method: Option<String>,
    /// From (with) to (without); none = 200.
    pub statuses: Vec<(u32, u32)>,
    /// Statuses that count as one failure only, instead of making the endpoint unhealthy at once.
    pub retriable: Vec<(u32, u32)>,
    pub headers: HeaderEdits,
    /// Parts of the body that must come.
    pub expect: Vec<Vec<u8>>,
    pub http2: bool,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outlier {
    /// 0: not at all.
    pub consecutive_5xx: Option<u32>,
    pub consecutive_gateway_errors: Option<u32>,
    /// Connects that fail and timeouts, apart from what the endpoint answers.
    pub consecutive_local_errors: Option<u32>,
    pub interval: Option<Duration>,
    pub eject: Option<Duration>,
    pub max_eject: Option<Duration>,
    pub jitter: Option<Duration>,
    pub max_ejected: Option<u32>,
    pub always_one: bool,
    pub success_rate: Option<SuccessRate>,
    pub failure_percentage: Option<FailurePercentage>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum SuccessRate {
    Off,
    On { factor: Option<Decimal>, min_endpoints: Option<u32>, min_requests: Option<u32> },
}

#[derive(Debug, Clone, PartialEq)]
pub struct FailurePercentage {
    pub threshold: u32,
    pub min_endpoints: Option<u32>,
    pub min_requests: Option<u32>,
}

// === checks ===

/// Keys that stand beside the kind in the short form, and inside it in the full form.
const OF_HTTP: [&str; 7] = ["host", "method", "statuses", "retriable", "headers", "expect", "http2"];

pub(crate) fn check(r: &mut Reader<'_>, node: &Node) -> Option<HealthCheck> {
    const KEYS: Keys = Keys {
        known: &[
            "http",
            "tcp",
            "grpc",
            "host",
            "method",
            "statuses",
            "retriable",
            "headers",
            "expect",
            "http2",
            "interval",
            "timeout",
            "unhealthy",
            "healthy",
            "port",
            "jitter",
            "no_traffic_interval",
            "unhealthy_interval",
            "reuse",
            "event_log",
        ],
        not_yet: &["init"],
    };
    let fields = r.fields(node, KEYS)?;
    if ["http", "tcp", "grpc"].iter().filter(|k| fields.get(k).is_some()).count() != 1 {
        r.wrong(node, Code::Shape, "exactly one of http, tcp, grpc is needed");
        return None;
    }
    let http = r.field(&fields, "http", |r, n| http(r, n, &fields)).map(HealthProbe::Http);
    let tcp = r.field(&fields, "tcp", tcp);
    let grpc = r.field(&fields, "grpc", grpc);
    if fields.get("http").is_none() {
        for key in OF_HTTP {
            if let Some(node) = fields.get(key) {
                r.at(key, |r| r.wrong(node, Code::Conflict, format!("`{key}` belongs to `http`")));
            }
        }
    }
    let interval = r.field(&fields, "interval", positive).unwrap_or(Duration::from_secs(5));
    let timeout = r.field(&fields, "timeout", positive).unwrap_or(Duration::from_secs(1));
    Some(HealthCheck {
        interval,
        timeout,
        unhealthy: r.field(&fields, "unhealthy", |r, n| r.number(n, 1..=1000)).unwrap_or(3),
        healthy: r.field(&fields, "healthy", |r, n| r.number(n, 1..=1000)).unwrap_or(2),
        port: r.field(&fields, "port", |r, n| r.number(n, 1..=65_535)),
        jitter: r.field(&fields, "jitter", Reader::duration),
        no_traffic_interval: r.field(&fields, "no_traffic_interval", positive),
        unhealthy_interval: r.field(&fields, "unhealthy_interval", positive),
        reuse: r.field(&fields, "reuse", Reader::truth).unwrap_or(true),
        event_log: r.field(&fields, "event_log", Reader::word),
        probe: http.or(tcp).or(grpc)?,
    })
}

fn positive(r: &mut Reader<'_>, node: &Node) -> Option<Duration> {
    let duration = r.duration(node)?;
    if duration.is_zero() {
        r.wrong(node, Code::Value, "must be more than nothing");
        return None;
    }
    Some(duration)
}

/// `http: /path` with the rest beside it, or all of it in a map.
fn http(r: &mut Reader<'_>, node: &Node, beside: &Fields<'_>) -> Option<HttpProbe> {
    const KEYS: Keys = Keys {
        known: &["path", "host", "method", "statuses", "retriable", "headers", "expect", "http2"],
        not_yet: &[],
    };
    let path = |r: &mut Reader<'_>, n: &Node| {
        let path = r.word(n)?;
        if !path.starts_with('/') {
            r.wrong(n, Code::Value, format!("`{path}` is not a path: it begins with `/`"));
            return None;
        }
        Some(path)
    };
    let (path, fields) = match node.value {
        Value::Map(_) => {
            let fields = r.fields(node, KEYS)?;
            if let Some(key) = OF_HTTP.into_iter().find(|k| beside.get(k).is_some()) {
                r.wrong(node, Code::Conflict, format!("`{key}` belongs into the map of `http`"));
            }
            (r.required(&fields, "path", path)?, fields)
        }
        _ => (path(r, node)?, *beside),
    };
    let fields = &fields;
    let statuses = |r: &mut Reader<'_>, n: &Node| Some(r.each(n, status_range));
    Some(HttpProbe {
        path,
        host: r.field(fields, "host", Reader::word),
        method: r.field(fields, "method", probe_method),
        statuses: r.field(fields, "statuses", statuses).unwrap_or_default(),
        retriable: r.field(fields, "retriable", statuses).unwrap_or_default(),
        headers: r.field(fields, "headers", header_edits).unwrap_or_default(),
        expect: r.field(fields, "expect", |r, n| Some(r.each(n, bytes))).unwrap_or_default(),
        http2: r.field(fields, "http2", Reader::truth).unwrap_or(false),
    })
}

/// `200`, `200-299`.
fn status_range(r: &mut Reader<'_>, node: &Node) -> Option<(u32, u32)> {
    let text = r.word(node)?;
    let (from, to) = text.split_once('-').unwrap_or((&text, &text));
    match (from.trim().parse::<u32>(), to.trim().parse::<u32>()) {
        (Ok(from), Ok(to)) if (100..=599).contains(&from) && from <= to && to <= 599 => Some((from, to + 1)),
        _ => {
            r.wrong(node, Code::Value, format!("`{text}` is not a status or a range of them: write 200 or 200-299"));
            None
        }
    }
}

fn tcp(r: &mut Reader<'_>, node: &Node) -> Option<HealthProbe> {
    const KEYS: Keys = Keys { known: &["send", "expect"], not_yet: &[] };
    if let Value::Map(_) = node.value {
        let fields = r.fields(node, KEYS)?;
        let send = r.field(&fields, "send", bytes);
        let expect = r.field(&fields, "expect", |r, n| Some(r.each(n, bytes))).unwrap_or_default();
        return Some(HealthProbe::Tcp { send, expect });
    }
    if !r.truth(node)? {
        r.wrong(node, Code::Value, "only `tcp: true`, or a map, means something");
        return None;
    }
    Some(HealthProbe::Tcp { send: None, expect: Vec::new() })
}

/// A text, or `hex:0a0d`.
fn bytes(r: &mut Reader<'_>, node: &Node) -> Option<Vec<u8>> {
    let text = r.word(node)?;
    let Some(digits) = text.strip_prefix("hex:") else { return Some(text.into_bytes()) };
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let whole = !digits.is_empty() && digits.len().is_multiple_of(2) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    match whole.then(|| digits.as_bytes().chunks(2).map(pair).collect::<Option<Vec<u8>>>()).flatten() {
        Some(bytes) => Some(bytes),
        None => {
            r.wrong(node, Code::Value, format!("`{digits}` is not pairs of hexadecimal digits"));
            None
        }
    }
}

fn grpc(r: &mut Reader<'_>, node: &Node) -> Option<HealthProbe> {
    const KEYS: Keys = Keys { known: &["service", "authority"], not_yet: &[] };
    if let Value::Map(_) = node.value {
        let fields = r.fields(node, KEYS)?;
        let service = r.field(&fields, "service", Reader::word).unwrap_or_default();
        return Some(HealthProbe::Grpc { service, authority: r.field(&fields, "authority", Reader::word) });
    }
    let text = r.text(node)?;
    Some(HealthProbe::Grpc { service: if text == "true" { String::new() } else { text }, authority: None })
}

// === outliers ===

pub(crate) fn outlier(r: &mut Reader<'_>, node: &Node) -> Option<Outlier> {
    const KEYS: Keys = Keys {
        known: &[
            "consecutive_5xx",
            "consecutive_gateway_errors",
            "consecutive_local_errors",
            "interval",
            "eject",
            "max_eject",
            "jitter",
            "max_ejected",
            "always_one",
            "success_rate",
            "failure_percentage",
        ],
        not_yet: &[],
    };
    const RATE: Keys = Keys { known: &["factor", "min_endpoints", "min_requests"], not_yet: &[] };
    if let Value::Scalar { .. } = node.value {
        return r.truth(node)?.then(Outlier::default);
    }
    let fields = r.fields(node, KEYS)?;
    let consecutive = |r: &mut Reader<'_>, n: &Node| r.number(n, 0..=1_000_000);
    Some(Outlier {
        consecutive_5xx: r.field(&fields, "consecutive_5xx", consecutive),
        consecutive_gateway_errors: r.field(&fields, "consecutive_gateway_errors", consecutive),
        consecutive_local_errors: r.field(&fields, "consecutive_local_errors", consecutive),
        interval: r.field(&fields, "interval", positive),
        eject: r.field(&fields, "eject", positive),
        max_eject: r.field(&fields, "max_eject", positive),
        jitter: r.field(&fields, "jitter", Reader::duration),
        max_ejected: r.field(&fields, "max_ejected", whole_percent),
        always_one: r.field(&fields, "always_one", Reader::truth).unwrap_or(false),
        success_rate: r.field(&fields, "success_rate", |r, n| {
            if let Value::Scalar { .. } = n.value {
                let none = SuccessRate::On { factor: None, min_endpoints: None, min_requests: None };
                return Some(if r.truth(n)? { none } else { SuccessRate::Off });
            }
            let fields = r.fields(n, RATE)?;
            let factor = r.field(&fields, "factor", |r, n| r.decimal(n, 0.0..=100.0));
            let (min_endpoints, min_requests) = minima(r, &fields);
            Some(SuccessRate::On { factor, min_endpoints, min_requests })
        }),
        failure_percentage: r.field(&fields, "failure_percentage", failure_percentage),
    })
}

fn minima(r: &mut Reader<'_>, fields: &Fields<'_>) -> (Option<u32>, Option<u32>) {
    let mut number = |key| r.field(fields, key, |r, n| r.number(n, 1..=1_000_000));
    (number("min_endpoints"), number("min_requests"))
}

fn failure_percentage(r: &mut Reader<'_>, node: &Node) -> Option<FailurePercentage> {
    const KEYS: Keys = Keys { known: &["threshold", "min_endpoints", "min_requests"], not_yet: &[] };
    if let Value::Scalar { .. } = node.value {
        let threshold = whole_percent(r, node)?;
        return Some(FailurePercentage { threshold, min_endpoints: None, min_requests: None });
    }
    let fields = r.fields(node, KEYS)?;
    let threshold = r.required(&fields, "threshold", whole_percent)?;
    let (min_endpoints, min_requests) = minima(r, &fields);
    Some(FailurePercentage { threshold, min_endpoints, min_requests })
}
