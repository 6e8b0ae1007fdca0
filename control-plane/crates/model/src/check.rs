//! Draft to model: every section read, every reference resolved, every contradiction found. All problems at once.

use std::collections::BTreeMap;

use proto::Any;
use proto::json::Segment;

use crate::api::{Api, api};
use crate::cluster::{Cluster, cluster};
use crate::draft::{Draft, Kind, Object, Source};
use crate::listener::{Listener, listener};
use crate::node::{FILE_TAG, Node, Value};
use crate::policy::{Policy, policy};
use crate::problem::{Code, Place, Problem, Problems};
use crate::read::{Attachments, Names, Reader};
use crate::route::{Route, route};

mod between;

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
    between::between(&model, &mut problems);
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
