//! How a cluster's endpoints are watched: active checks, and ejection of outliers.

use std::time::Duration;

use crate::cluster::{probe_method, whole_percent};
use crate::node::{Node, Value};
use crate::problem::Code;
use crate::read::{Keys, Reader};

#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheck {
    pub probe: HealthProbe,
    pub interval: Duration,
    pub timeout: Duration,
    pub unhealthy: u32,
    pub healthy: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub enum HealthProbe {
    Http {
        path: String,
        host: Option<String>,
        method: Option<String>,
    },
    Tcp,
    /// The service name; may be empty.
    Grpc(String),
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outlier {
    pub consecutive_5xx: Option<u32>,
    pub consecutive_gateway_errors: Option<u32>,
    pub interval: Option<Duration>,
    pub eject: Option<Duration>,
    pub max_ejected: Option<u32>,
}

pub(crate) fn check(r: &mut Reader<'_>, node: &Node) -> Option<HealthCheck> {
    const KEYS: Keys = Keys {
        known: &["http", "tcp", "grpc", "host", "method", "interval", "timeout", "unhealthy", "healthy"],
        not_yet: &["statuses", "headers", "send", "expect", "port", "init"],
    };
    let fields = r.fields(node, KEYS)?;
    let method = r.field(&fields, "method", probe_method);
    let host = r.field(&fields, "host", Reader::word);
    let http = r.field(&fields, "http", |r, n| {
        let path = r.word(n)?;
        if !path.starts_with('/') {
            r.wrong(n, Code::Value, format!("`{path}` is not a path: it begins with `/`"));
            return None;
        }
        Some(path)
    });
    let tcp = r.field(&fields, "tcp", |r, n| match r.truth(n)? {
        true => Some(()),
        false => {
            r.wrong(n, Code::Value, "only `tcp: true` means something");
            None
        }
    });
    let grpc = r.field(&fields, "grpc", |r, n| match n.value {
        Value::Scalar { .. } => r.text(n).map(|s| if s == "true" { String::new() } else { s }),
        _ => r.text(n),
    });
    if ["http", "tcp", "grpc"].iter().filter(|k| fields.get(k).is_some()).count() != 1 {
        r.wrong(node, Code::Shape, "exactly one of http, tcp, grpc is needed");
    }
    let interval = r.field(&fields, "interval", Reader::duration).unwrap_or(Duration::from_secs(5));
    let timeout = r.field(&fields, "timeout", Reader::duration).unwrap_or(Duration::from_secs(1));
    let unhealthy = r.field(&fields, "unhealthy", |r, n| r.number(n, 1..=1000)).unwrap_or(3);
    let healthy = r.field(&fields, "healthy", |r, n| r.number(n, 1..=1000)).unwrap_or(2);
    let probe = match (http, tcp, grpc) {
        (Some(path), ..) => HealthProbe::Http { path, host, method },
        (_, Some(()), _) => HealthProbe::Tcp,
        (.., Some(service)) => HealthProbe::Grpc(service),
        _ => return None,
    };
    if !matches!(probe, HealthProbe::Http { .. }) {
        for key in ["host", "method"] {
            if let Some(node) = fields.get(key) {
                r.at(key, |r| r.wrong(node, Code::Conflict, format!("`{key}` belongs to `http`")));
            }
        }
    }
    Some(HealthCheck { probe, interval, timeout, unhealthy, healthy })
}

pub(crate) fn outlier(r: &mut Reader<'_>, node: &Node) -> Option<Outlier> {
    const KEYS: Keys = Keys {
        known: &["consecutive_5xx", "consecutive_gateway_errors", "interval", "eject", "max_ejected"],
        not_yet: &["success_rate", "failure_percentage", "max_eject"],
    };
    let fields = r.fields(node, KEYS)?;
    Some(Outlier {
        consecutive_5xx: r.field(&fields, "consecutive_5xx", |r, n| r.number(n, 1..=1_000_000)),
        consecutive_gateway_errors: r.field(&fields, "consecutive_gateway_errors", |r, n| r.number(n, 1..=1_000_000)),
        interval: r.field(&fields, "interval", Reader::duration),
        eject: r.field(&fields, "eject", Reader::duration),
        max_ejected: r.field(&fields, "max_ejected", whole_percent),
    })
}
