//! Routes: which requests, where to, and what happens on the way.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::draft::Kind;
use crate::listener::policies;
use crate::node::{Node, Value};
use crate::problem::{Code, Place};
use crate::read::{Keys, Reader};
use crate::value::Percent;

pub mod action;
pub mod matching;
pub mod retry;

pub use action::{HeaderEdits, Redirect, Respond, Rewrite};
pub use matching::{Host, Match, PathMatch, Pattern, TextMatch};
pub use retry::Retry;

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
    /// Another try is made beside the first one when `per_try_timeout` is over; the first answer counts.
    pub hedge: bool,
    pub mirror: Vec<Mirror>,
    pub websocket: bool,
    /// Counts against the clusters' `limits.high`.
    pub high_priority: bool,
}

impl Forward {
    pub fn to(to: Destination) -> Self {
        Forward {
            to,
            rewrite: Rewrite::default(),
            timeout: None,
            idle_timeout: None,
            retry: None,
            hedge: false,
            mirror: Vec::new(),
            websocket: true,
            high_priority: false,
        }
    }
}

/// Clusters with weights; at least one, and not all of weight 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Destination(pub Vec<Target>);

#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    pub cluster: String,
    pub weight: u32,
    /// Only endpoints with these labels.
    pub subset: BTreeMap<String, String>,
}

impl Destination {
    pub fn clusters(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|target| target.cluster.as_str())
    }

    pub fn leads_to(&self, cluster: &str) -> bool {
        self.clusters().any(|name| name == cluster)
    }
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
        "hedge",
        "mirror",
        "priority",
        "websocket",
        "policies",
    ],
    not_yet: &["cache", "static", "transform"],
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
        for key in ["rewrite", "timeout", "idle_timeout", "retry", "hedge", "mirror", "priority", "websocket"] {
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
    let retry = r.field(fields, "retry", retry::retry);
    let hedge = r.field(fields, "hedge", Reader::truth).unwrap_or(false);
    if let (true, Some(node)) = (hedge, fields.get("hedge"))
        && retry.as_ref().is_none_or(|retry| retry.per_try_timeout.is_none())
    {
        r.at("hedge", |r| r.wrong(node, Code::Conflict, "needs `retry` with `per_try_timeout`: when that is over"));
    }
    let mirror = r.field(fields, "mirror", |r, n| Some(r.each(n, mirror))).unwrap_or_default();
    let websocket = r.field(fields, "websocket", Reader::truth).unwrap_or(true);
    let priority = r.field(fields, "priority", |r, n| r.choice(n, &[("default", false), ("high", true)]));
    let high_priority = priority.unwrap_or(false);
    let to = to?;
    Some(Action::Forward(Box::new(Forward {
        to,
        rewrite,
        timeout,
        idle_timeout,
        retry,
        hedge,
        mirror,
        websocket,
        high_priority,
    })))
}

/// `app`, `{ blue: 90, green: 10 }`, or a list of `{ cluster, weight, subset }`.
pub(crate) fn destination(r: &mut Reader<'_>, node: &Node) -> Option<Destination> {
    let plain = |cluster, weight| Target { cluster, weight, subset: BTreeMap::new() };
    let targets = match &node.value {
        Value::Map(entries)
            if entries.iter().any(|(k, _)| k.text == "cluster") && !r.names.has(Kind::Cluster, "cluster") =>
        {
            return Some(Destination(vec![target(r, node)?]));
        }
        Value::Map(_) => r.entries(node, |r, name, n| {
            let weight = r.number(n, 0..=1_000_000);
            r.defined(n, Kind::Cluster, name).then_some(plain(name.to_owned(), weight?))
        })?,
        Value::List(_) => r.list(node, target)?,
        _ => return Some(Destination(vec![plain(r.reference(node, Kind::Cluster)?, 1)])),
    };
    if targets.iter().all(|t| t.weight == 0) {
        if !targets.is_empty() || matches!(&node.value, Value::Map(e) if e.is_empty()) {
            r.wrong(node, Code::Value, "the weights add up to nothing");
        }
        return None;
    }
    Some(Destination(targets))
}

fn target(r: &mut Reader<'_>, node: &Node) -> Option<Target> {
    const KEYS: Keys = Keys { known: &["cluster", "weight", "subset"], not_yet: &[] };
    let fields = r.fields(node, KEYS)?;
    let weight = r.field(&fields, "weight", |r, n| r.number(n, 0..=1_000_000)).unwrap_or(1);
    let subset = r.field(&fields, "subset", crate::cluster::endpoints::labels).unwrap_or_default();
    Some(Target { cluster: r.required(&fields, "cluster", |r, n| r.reference(n, Kind::Cluster))?, weight, subset })
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
