//! When and how a request is sent again.

use std::time::Duration;

use crate::cluster::balance::header_name;
use crate::node::{Node, Value};
use crate::problem::Code;
use crate::read::{Keys, Reader};
use crate::value::Percent;

#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// Envoy's words: `connect-failure`, `5xx`, …; numbers are statuses.
    pub on: Vec<String>,
    pub statuses: Vec<u32>,
    /// Responses that have one of these headers are tried again.
    pub response_headers: Vec<String>,
    /// Only requests that have one of these headers are tried again.
    pub request_headers: Vec<String>,
    /// Tries after the first.
    pub attempts: u32,
    pub per_try_timeout: Option<Duration>,
    pub per_try_idle_timeout: Option<Duration>,
    /// At most this share of active requests may be retries; kept by the clusters the route leads to.
    pub budget: Option<Percent>,
    pub backoff: Option<Backoff>,
    /// Not the endpoint that failed.
    pub avoid_tried: bool,
    /// Not the priority that failed.
    pub avoid_tried_priority: bool,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Backoff {
    pub base: Option<Duration>,
    pub max: Option<Duration>,
    /// Headers of the response that say how long to wait.
    pub after: Vec<After>,
    /// Waits that are longer are not believed.
    pub after_max: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct After {
    pub header: String,
    /// A unix time instead of seconds to wait.
    pub unix: bool,
}

const RETRY_WORDS: &[&str] = &[
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "refused-stream",
    "retriable-4xx",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

pub(crate) fn retry(r: &mut Reader<'_>, node: &Node) -> Option<Retry> {
    const RETRY: Keys = Keys {
        known: &[
            "on",
            "response_headers",
            "request_headers",
            "attempts",
            "per_try_timeout",
            "per_try_idle_timeout",
            "budget",
            "backoff",
            "avoid_tried",
            "avoid_tried_priority",
        ],
        not_yet: &[],
    };
    let fields = r.fields(node, RETRY)?;
    let mut statuses = Vec::new();
    let on = r.required(&fields, "on", |r, n| Some(r.each(n, |r, n| reason(r, n, &mut statuses))))?;
    let headers = |r: &mut Reader<'_>, n: &Node| Some(r.each(n, header_name));
    Some(Retry {
        on,
        statuses,
        response_headers: r.field(&fields, "response_headers", headers).unwrap_or_default(),
        request_headers: r.field(&fields, "request_headers", headers).unwrap_or_default(),
        attempts: r.field(&fields, "attempts", |r, n| r.number(n, 1..=100)).unwrap_or(1),
        per_try_timeout: r.field(&fields, "per_try_timeout", Reader::duration),
        per_try_idle_timeout: r.field(&fields, "per_try_idle_timeout", Reader::duration),
        budget: r.field(&fields, "budget", Reader::percent),
        backoff: r.field(&fields, "backoff", backoff),
        avoid_tried: r.field(&fields, "avoid_tried", Reader::truth).unwrap_or(false),
        avoid_tried_priority: r.field(&fields, "avoid_tried_priority", Reader::truth).unwrap_or(false),
    })
}

fn reason(r: &mut Reader<'_>, node: &Node, statuses: &mut Vec<u32>) -> Option<String> {
    let word = r.word(node)?;
    if let Ok(status) = word.parse::<u32>() {
        if !(100..=599).contains(&status) {
            r.wrong(node, Code::Value, format!("`{word}` is not a status"));
        }
        statuses.push(status);
        return None;
    }
    if !RETRY_WORDS.contains(&word.as_str()) {
        r.wrong(node, Code::Value, format!("`{word}` is not a reason to retry"));
        r.hint(match crate::problem::closest(&word, RETRY_WORDS.iter().copied()) {
            _ if word == "retriable-status-codes" => "name the statuses themselves: `on: [503, 429]`".to_owned(),
            _ if word == "retriable-headers" => "name the headers: `response_headers: [x-retry]`".to_owned(),
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("use a status, or one of {}", RETRY_WORDS.join(", ")),
        });
        return None;
    }
    Some(word)
}

fn backoff(r: &mut Reader<'_>, node: &Node) -> Option<Backoff> {
    const BACKOFF: Keys = Keys { known: &["base", "max", "after", "after_max"], not_yet: &[] };
    if let Value::Scalar { .. } = node.value {
        return Some(Backoff { base: Some(r.duration(node)?), ..Backoff::default() });
    }
    let fields = r.fields(node, BACKOFF)?;
    let backoff = Backoff {
        base: r.field(&fields, "base", Reader::duration),
        max: r.field(&fields, "max", Reader::duration),
        after: r.field(&fields, "after", |r, n| Some(r.each(n, after))).unwrap_or_default(),
        after_max: r.field(&fields, "after_max", Reader::duration),
    };
    for (key, needs) in [("max", "base"), ("after_max", "after")] {
        if let (Some(node), None) = (fields.get(key), fields.get(needs)) {
            r.at(key, |r| r.wrong(node, Code::Conflict, format!("needs `{needs}`")));
        }
    }
    Some(backoff)
}

/// `retry-after`, or `{ header: x-ratelimit-reset, format: unix }`.
fn after(r: &mut Reader<'_>, node: &Node) -> Option<After> {
    const KEYS: Keys = Keys { known: &["header", "format"], not_yet: &[] };
    if let Value::Scalar { .. } = node.value {
        return Some(After { header: header_name(r, node)?, unix: false });
    }
    let fields = r.fields(node, KEYS)?;
    let unix = r.field(&fields, "format", |r, n| r.choice(n, &[("seconds", false), ("unix", true)])).unwrap_or(false);
    Some(After { header: r.required(&fields, "header", header_name)?, unix })
}
