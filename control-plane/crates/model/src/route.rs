//! Routes: which requests, where to, and what happens on the way.

use std::time::Duration;

use crate::draft::Kind;
use crate::listener::policies;
use crate::node::{Node, Value};
use crate::problem::{Code, Place};
use crate::read::{Keys, Reader};
use crate::value::Percent;

pub mod action;
pub mod matching;

pub use action::{HeaderEdits, Redirect, Respond, Rewrite};
pub use matching::{Host, Match, PathMatch, Pattern, TextMatch};

#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// As written, or `routes[N]`.
    pub name: String,
    pub place: Place,
    /// Listener names; empty = every http listener.
    pub on: Vec<String>,
    pub matching: Match,
    pub action: Action,
    pub policies: Vec<String>,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Forward(Box<Forward>),
    Redirect(Redirect),
    Respond(Respond),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Forward {
    pub to: Destination,
    pub rewrite: Rewrite,
    pub timeout: Option<Duration>,
    pub idle_timeout: Option<Duration>,
    pub retry: Option<Retry>,
    pub mirror: Vec<Mirror>,
    pub websocket: bool,
}

impl Forward {
    pub fn to(to: Destination) -> Self {
        Forward {
            to,
            rewrite: Rewrite::default(),
            timeout: None,
            idle_timeout: None,
            retry: None,
            mirror: Vec::new(),
            websocket: true,
        }
    }
}

/// Clusters with weights; at least one, and not all of weight 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Destination(pub Vec<(String, u32)>);

#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// Envoy's words: `connect-failure`, `5xx`, …; numbers are statuses.
    pub on: Vec<String>,
    pub statuses: Vec<u32>,
    /// Tries after the first.
    pub attempts: u32,
    pub per_try_timeout: Option<Duration>,
    /// At most this share of active requests may be retries; kept by the clusters the route leads to.
    pub budget: Option<Percent>,
    pub backoff: Option<(Duration, Option<Duration>)>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Mirror {
    pub to: String,
    pub percent: Percent,
}

// === reading ===

const KEYS: Keys = Keys {
    known: &[
        "name",
        "on",
        "match",
        "to",
        "redirect",
        "respond",
        "rewrite",
        "headers",
        "timeout",
        "idle_timeout",
        "retry",
        "mirror",
        "websocket",
        "policies",
    ],
    not_yet: &["cache", "hedge", "static", "transform", "affinity", "priority"],
};

pub(crate) fn route(r: &mut Reader<'_>, name: &str, node: &Node) -> Option<Route> {
    let fields = r.fields(node, KEYS)?;
    let on = r.field(&fields, "on", |r, n| Some(r.each(n, |r, n| r.reference(n, Kind::Listener)))).unwrap_or_default();
    let matching = r.field(&fields, "match", matching::matching).unwrap_or_default();
    let actions = ["to", "redirect", "respond"].map(|key| fields.get(key));
    let action = match actions {
        [Some(_), None, None] => forward(r, &fields),
        [None, Some(n), None] => r.at("redirect", |r| action::redirect(r, n)).map(Action::Redirect),
        [None, None, Some(n)] => r.at("respond", |r| action::respond(r, n)).map(Action::Respond),
        [None, None, None] => {
            r.wrong(node, Code::Shape, "the route does nothing: one of `to`, `redirect`, `respond` is missing");
            None
        }
        _ => {
            r.wrong(node, Code::Conflict, "only one of `to`, `redirect`, `respond` is possible");
            None
        }
    };
    if actions[0].is_none() {
        for key in ["rewrite", "timeout", "idle_timeout", "retry", "mirror", "websocket"] {
            if let Some(node) = fields.get(key) {
                r.at(key, |r| r.wrong(node, Code::Conflict, format!("`{key}` means nothing without `to`")));
            }
        }
    }
    let policies = policies(r, &fields);
    let (request_headers, response_headers) = r.field(&fields, "headers", action::both_headers).unwrap_or_default();
    Some(Route {
        name: name.to_owned(),
        place: r.place(node),
        on,
        matching,
        action: action?,
        policies,
        request_headers,
        response_headers,
    })
}

fn forward(r: &mut Reader<'_>, fields: &crate::read::Fields<'_>) -> Option<Action> {
    let to = r.required(fields, "to", destination);
    let rewrite = r.field(fields, "rewrite", action::rewrite).unwrap_or_default();
    let timeout = r.field(fields, "timeout", Reader::duration);
    let idle_timeout = r.field(fields, "idle_timeout", Reader::duration);
    let retry = r.field(fields, "retry", retry);
    let mirror = r.field(fields, "mirror", |r, n| Some(r.each(n, mirror))).unwrap_or_default();
    let websocket = r.field(fields, "websocket", Reader::truth).unwrap_or(true);
    Some(Action::Forward(Box::new(Forward { to: to?, rewrite, timeout, idle_timeout, retry, mirror, websocket })))
}

/// `app`, or `{ blue: 90, green: 10 }`.
pub(crate) fn destination(r: &mut Reader<'_>, node: &Node) -> Option<Destination> {
    if let Value::Map(_) = node.value {
        let weights = r.entries(node, |r, name, n| {
            let weight = r.number(n, 0..=1_000_000);
            r.defined(n, Kind::Cluster, name).then_some((name.to_owned(), weight?))
        })?;
        if weights.iter().all(|(_, w)| *w == 0) {
            if !weights.is_empty() || matches!(&node.value, Value::Map(e) if e.is_empty()) {
                r.wrong(node, Code::Value, "the weights add up to nothing");
            }
            return None;
        }
        return Some(Destination(weights));
    }
    Some(Destination(vec![(r.reference(node, Kind::Cluster)?, 1)]))
}

const RETRY_WORDS: &[&str] = &[
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "refused-stream",
    "retriable-4xx",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

pub(crate) fn retry(r: &mut Reader<'_>, node: &Node) -> Option<Retry> {
    const RETRY: Keys = Keys {
        known: &["on", "attempts", "per_try_timeout", "budget", "backoff"],
        not_yet: &["per_try_idle_timeout", "avoid_previous_host"],
    };
    let fields = r.fields(node, RETRY)?;
    let mut statuses = Vec::new();
    let on = r.required(&fields, "on", |r, n| {
        Some(r.each(n, |r, n| {
            let word = r.word(n)?;
            if let Ok(status) = word.parse::<u32>() {
                if !(100..=599).contains(&status) {
                    r.wrong(n, Code::Value, format!("`{word}` is not a status"));
                }
                statuses.push(status);
                return None;
            }
            if !RETRY_WORDS.contains(&word.as_str()) {
                r.wrong(n, Code::Value, format!("`{word}` is not a reason to retry"));
                r.hint(match crate::problem::closest(&word, RETRY_WORDS.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("use a status, or one of {}", RETRY_WORDS.join(", ")),
                });
                return None;
            }
            Some(word)
        }))
    })?;
    let attempts = r.field(&fields, "attempts", |r, n| r.number(n, 1..=100)).unwrap_or(1);
    let per_try_timeout = r.field(&fields, "per_try_timeout", Reader::duration);
    let budget = r.field(&fields, "budget", Reader::percent);
    let backoff = r.field(&fields, "backoff", |r, n| {
        const BACKOFF: Keys = Keys { known: &["base", "max"], not_yet: &[] };
        if let Value::Scalar { .. } = n.value {
            return Some((r.duration(n)?, None));
        }
        let fields = r.fields(n, BACKOFF)?;
        let max = r.field(&fields, "max", Reader::duration);
        Some((r.required(&fields, "base", Reader::duration)?, max))
    });
    Some(Retry { on, statuses, attempts, per_try_timeout, budget, backoff })
}

fn mirror(r: &mut Reader<'_>, node: &Node) -> Option<Mirror> {
    const MIRROR: Keys = Keys { known: &["to", "percent"], not_yet: &[] };
    if let Value::Scalar { .. } = node.value {
        return Some(Mirror { to: r.reference(node, Kind::Cluster)?, percent: Percent::ALL });
    }
    let fields = r.fields(node, MIRROR)?;
    let percent = r.field(&fields, "percent", Reader::percent).unwrap_or(Percent::ALL);
    Some(Mirror { to: r.required(&fields, "to", |r, n| r.reference(n, Kind::Cluster))?, percent })
}
