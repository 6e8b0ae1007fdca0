//! Draft to model: every section read, every reference resolved, every contradiction found. All problems at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use proto::Any;
use proto::json::Segment;

use crate::api::{Api, api};
use crate::cluster::{Cluster, cluster};
use crate::draft::{Draft, Kind, Object, Source};
use crate::listener::{Listener, Protocol, listener};
use crate::node::{FILE_TAG, Node, Value};
use crate::policy::{Policy, policy};
use crate::problem::{Code, Place, Problem, Problems};
use crate::read::{Attachments, Names, Reader};
use crate::route::{Action, Route, route};

/// A configuration without contradictions.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Model {
    pub listeners: Vec<Listener>,
    pub routes: Vec<Route>,
    pub apis: Vec<Api>,
    pub policies: BTreeMap<String, Policy>,
    pub clusters: Vec<Cluster>,
    pub envoy: Vec<RawResource>,
}

/// A raw Envoy resource, as given.
#[derive(Debug, Clone, PartialEq)]
pub struct RawResource {
    /// `<message>/<resource name>`.
    pub name: String,
    pub place: Place,
    pub any: Any,
}

/// A model, and what is accepted but suspicious in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    pub model: Model,
    pub warnings: Vec<Problem>,
}

/// Texts to model: what `weir check` does offline.
pub fn check_files(sources: &[Source], attachments: Attachments) -> Result<Checked, Vec<Problem>> {
    let mut problems = Problems::default();
    let draft = Draft::read(sources, &[], attachments, &mut problems);
    let (model, problems) = read_all(&draft, problems);
    finish(model, problems)
}

/// Draft to model.
pub fn check(draft: &Draft) -> Result<Checked, Vec<Problem>> {
    let (model, problems) = read_all(draft, Problems::default());
    finish(model, problems)
}

fn finish(model: Model, problems: Problems) -> Result<Checked, Vec<Problem>> {
    if problems.errors.is_empty() {
        return Ok(Checked { model, warnings: in_order(problems.warnings) });
    }
    Err(in_order(problems.errors))
}

fn in_order(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort_by(|a, b| {
        (&a.place.file, a.place.line, a.place.column).cmp(&(&b.place.file, b.place.line, b.place.column))
    });
    problems
}

/// What the names of raw resources stand for in the short language.
fn names(draft: &Draft) -> Names {
    let mut names = Names::default();
    for object in draft.objects.iter().filter(|o| !o.name.is_empty()) {
        names.add(object.kind, &object.name);
        if let Some(cluster) = object.name.strip_prefix("Cluster/").filter(|_| object.kind == Kind::Envoy) {
            names.add(Kind::Cluster, cluster);
        }
    }
    names
}

fn read_all(draft: &Draft, mut problems: Problems) -> (Model, Problems) {
    let names = names(draft);
    let mut model = Model::default();
    for (object, display_name) in draft.objects.iter().zip(draft.display_names()) {
        let path = match display_name.starts_with("routes[") {
            true => display_name.clone(),
            false => format!("{}.{display_name}", object.kind.section()),
        };
        let mut reader = Reader::new(&object.file, path, &names, &draft.attachments, &mut problems);
        let r = &mut reader;
        match object.kind {
            Kind::Listener => model.listeners.extend(listener(r, &object.name, &object.node)),
            Kind::Route => model.routes.extend(route(r, &display_name, &object.node)),
            Kind::Api => model.apis.extend(api(r, &object.name, &object.node)),
            Kind::Cluster => model.clusters.extend(cluster(r, &object.name, &object.node)),
            Kind::Envoy => model.envoy.extend(raw(r, object)),
            Kind::Policy => {
                model.policies.extend(policy(r, &object.name, &object.node).map(|p| (object.name.clone(), p)));
            }
        }
    }
    between(&model, &mut problems);
    (model, problems)
}

fn raw(r: &mut Reader<'_>, object: &Object) -> Option<RawResource> {
    let json = object.node.to_json();
    if json.to_string().contains(&format!("\"{FILE_TAG}")) {
        r.wrong(&object.node, Code::Value, "`!file` is not allowed in raw Envoy resources");
        r.hint("use `inline_string`, or `filename` for a file of the proxy's machine");
        return None;
    }
    match proto::json::any_from_value(&json) {
        Ok(any) => Some(RawResource { name: object.name.clone(), place: r.place(&object.node), any }),
        Err(error) => {
            for problem in error.problems() {
                let at = problem.path.0.iter().fold(&object.node, step);
                let path = problem.path.to_string();
                r.at(&path, |r| r.wrong(at, Code::Value, problem.reason));
            }
            None
        }
    }
}

/// One step down a path, or no step where the path leaves the tree.
fn step<'n>(node: &'n Node, segment: &Segment) -> &'n Node {
    let child = match (&node.value, segment) {
        (Value::Map(entries), Segment::Key(key)) => entries.iter().find(|(k, _)| k.text == *key).map(|(_, n)| n),
        (Value::List(items), Segment::Index(index)) => items.get(*index),
        _ => None,
    };
    child.unwrap_or(node)
}

// === what only shows when the parts are seen together ===

fn between(model: &Model, problems: &mut Problems) {
    same_address(model, problems);
    routes_fit_listeners(model, problems);
    raw_names(model, problems);
    unreachable(model, problems);
    unused_clusters(model, problems);
}

fn same_address(model: &Model, problems: &mut Problems) {
    let mut seen: BTreeMap<SocketAddr, &str> = BTreeMap::new();
    for listener in model.listeners.iter().filter(|l| l.address.port() != 0) {
        if let Some(other) = seen.insert(listener.address, &listener.name) {
            let message = format!("listens on {}, and so does listener `{other}`", listener.address);
            problems.push(&listener.place, format!("listeners.{}", listener.name), Code::Conflict, message);
        }
    }
}

fn path_of(route: &Route) -> String {
    if route.name.starts_with("routes[") { route.name.clone() } else { format!("routes.{}", route.name) }
}

fn routes_fit_listeners(model: &Model, problems: &mut Problems) {
    let by_name: BTreeMap<&str, &Listener> = model.listeners.iter().map(|l| (l.name.as_str(), l)).collect();
    for route in &model.routes {
        let mut wrong = |message: String| problems.push(&route.place, path_of(route), Code::Conflict, message);
        let passthrough =
            |l: &&str| matches!(by_name.get(l).map(|l| &l.protocol), Some(Protocol::TlsPassthrough { .. }));
        let (tls, other): (Vec<&str>, Vec<&str>) = route.on.iter().map(String::as_str).partition(passthrough);
        for name in &other {
            match by_name.get(name).map(|l| &l.protocol) {
                Some(Protocol::Tcp { .. }) => {
                    wrong(format!("listener `{name}` speaks tcp and has its own `to`; no route can be on it"));
                }
                Some(Protocol::Http(http)) if http.redirect_https => {
                    wrong(format!("listener `{name}` redirects everything to https; no route can be on it"));
                }
                _ => (),
            }
        }
        let m = &route.matching;
        if !tls.is_empty() && !other.is_empty() {
            wrong("`on` mixes http and tls passthrough listeners".to_owned());
        } else if tls.is_empty() && !m.sni.is_empty() {
            wrong("`match.sni` needs `on` with a listener of protocol tls".to_owned());
        } else if !tls.is_empty() {
            let http_only = !m.hosts.is_empty() || m.path.is_some() || !m.headers.is_empty() || !m.query.is_empty();
            if http_only || !m.methods.is_empty() || !route.policies.is_empty() {
                wrong("TLS is not decrypted on this listener: only `match.sni` and `to` are possible".to_owned());
            }
            match &route.action {
                Action::Forward(f) if **f == crate::route::Forward::to(f.to.clone()) => (),
                _ => wrong("TLS is not decrypted on this listener: only `match.sni` and `to` are possible".to_owned()),
            }
        }
    }
}

/// A raw resource may not take the name of something the short language makes.
fn raw_names(model: &Model, problems: &mut Problems) {
    let mut made: BTreeSet<String> = BTreeSet::new();
    made.extend(
        model.listeners.iter().flat_map(|l| [format!("Listener/{}", l.name), format!("RouteConfiguration/{}", l.name)]),
    );
    made.extend(
        model
            .clusters
            .iter()
            .flat_map(|c| [format!("Cluster/{}", c.name), format!("ClusterLoadAssignment/{}", c.name)]),
    );
    for raw in model.envoy.iter().filter(|r| made.contains(&r.name)) {
        let message = format!("`{}` is also made from the short language", raw.name);
        problems.push(&raw.place, format!("envoy.{}", raw.name), Code::Duplicate, message);
    }
}

/// A route after one that matches everything on the same listeners.
fn unreachable(model: &Model, problems: &mut Problems) {
    let mut earlier: Vec<&Route> = Vec::new();
    for route in &model.routes {
        let hidden = earlier.iter().find(|e| {
            (e.on.is_empty() || (!route.on.is_empty() && route.on.iter().all(|l| e.on.contains(l))))
                && route.matching.sni.is_empty()
        });
        if let Some(by) = hidden {
            problems.warn(
                &route.place,
                path_of(route),
                format!("never reached: `{}` before it matches everything", by.name),
            );
        }
        if route.matching == crate::route::Match::default() {
            earlier.push(route);
        }
    }
}

fn unused_clusters(model: &Model, problems: &mut Problems) {
    let used = crate::references::clusters(model);
    let any_raw = !model.envoy.is_empty();
    for cluster in model.clusters.iter().filter(|c| !any_raw && !used.contains(c.name.as_str())) {
        problems.warn(&cluster.place, format!("clusters.{}", cluster.name), "no route, api or listener leads here");
    }
}
