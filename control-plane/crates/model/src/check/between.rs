//! What only shows when the parts of a configuration are seen together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::Model;
use crate::cluster::{Cluster, Discovery, ForwardProxy, Sticky};
use crate::listener::{Listener, Protocol};
use crate::problem::{Code, Place, Problems};
use crate::route::{Action, Destination, Forward, Match, Route};

pub(super) fn between(model: &Model, problems: &mut Problems) {
    same_address(model, problems);
    routes_fit_listeners(model, problems);
    destinations_fit_clusters(model, problems);
    clusters_fit_each_other(model, problems);
    raw_names(model, problems);
    unreachable(model, problems);
    unused_clusters(model, problems);
}

fn same_address(model: &Model, problems: &mut Problems) {
    let mut seen: BTreeMap<(bool, SocketAddr), &str> = BTreeMap::new();
    for listener in model.listeners.iter().filter(|l| l.address.port() != 0) {
        let datagrams = matches!(listener.protocol, Protocol::Udp { .. });
        if let Some(other) = seen.insert((datagrams, listener.address), &listener.name) {
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
        let on: Vec<(&str, &Protocol)> =
            route.on.iter().filter_map(|name| Some((name.as_str(), &by_name.get(name.as_str())?.protocol))).collect();
        for (name, protocol) in &on {
            match protocol {
                Protocol::Tcp(_) => {
                    wrong(format!("listener `{name}` speaks tcp and has its own `to`; no route can be on it"));
                }
                Protocol::Udp { .. } => {
                    wrong(format!("listener `{name}` speaks udp and has its own `to`; no route can be on it"));
                }
                Protocol::Http(http) if http.redirect_https => {
                    wrong(format!("listener `{name}` redirects everything to https; no route can be on it"));
                }
                Protocol::Http(_) | Protocol::TlsPassthrough { .. } => (),
            }
        }
        let passthrough = on.iter().filter(|(_, p)| matches!(p, Protocol::TlsPassthrough { .. })).count();
        if route.matching.is_of_connections() {
            let decrypts = |p: &Protocol| matches!(p, Protocol::Http(http) if http.tls.is_some());
            let fits = |p: &Protocol| matches!(p, Protocol::TlsPassthrough { .. }) || decrypts(p);
            if on.is_empty() || !on.iter().all(|(_, p)| fits(p)) {
                wrong(
                    "`match.sni` and `match.alpn` need `on` with listeners of protocol tls, or with `tls`".to_owned(),
                );
            }
        } else if passthrough == 0 {
            continue;
        } else if passthrough < on.len() {
            wrong("`on` mixes http and tls passthrough listeners".to_owned());
        }
        if !of_connections_only(route) {
            wrong(
                "these connections are not decrypted: only `match.sni`, `match.alpn` and `to` are possible".to_owned(),
            );
        }
    }
}

/// Whether the route says nothing that needs a decrypted request.
fn of_connections_only(route: &Route) -> bool {
    let m = &route.matching;
    let only = Match { sni: m.sni.clone(), alpn: m.alpn.clone(), ..Match::default() };
    let plain = matches!(&route.action, Action::Forward(f) if **f == Forward::to(f.to.clone()));
    *m == only
        && plain
        && route.policies.is_empty()
        && route.request_headers.is_empty()
        && route.response_headers.is_empty()
}

/// Every destination, with its place and path.
fn destinations(model: &Model) -> Vec<(&Place, String, &Destination)> {
    let mut out = Vec::new();
    for route in &model.routes {
        if let Action::Forward(forward) = &route.action {
            out.push((&route.place, format!("{}.to", path_of(route)), &forward.to));
        }
    }
    for listener in &model.listeners {
        if let Protocol::Tcp(tcp) = &listener.protocol {
            out.push((&listener.place, format!("listeners.{}.to", listener.name), &tcp.to));
        }
    }
    for api in &model.apis {
        for version in &api.versions {
            out.push((&api.place, format!("apis.{}.versions.{}.to", api.name, version.name), &version.to));
        }
    }
    out
}

fn destinations_fit_clusters(model: &Model, problems: &mut Problems) {
    let by_name: BTreeMap<&str, &Cluster> = model.clusters.iter().map(|c| (c.name.as_str(), c)).collect();
    for (place, path, to) in destinations(model) {
        let mut sticky: Option<(&str, &Sticky)> = None;
        for target in &to.0 {
            let Some(cluster) = by_name.get(target.cluster.as_str()) else { continue };
            if !target.subset.is_empty() {
                let keys: Vec<&String> = target.subset.keys().collect();
                let known =
                    cluster.subsets.iter().flat_map(|s| &s.selectors).any(|s| s.iter().eq(keys.iter().copied()));
                if !known {
                    let keys: Vec<&str> = keys.into_iter().map(String::as_str).collect();
                    let message =
                        format!("cluster `{}` has no subsets by {}: see its `subsets`", cluster.name, keys.join(", "));
                    problems.push(place, path.clone(), Code::Conflict, message);
                }
            }
            match (&cluster.sticky, sticky) {
                (Some(here), Some((other, there))) if here != there => {
                    let message = format!("`{other}` and `{}` are sticky in different ways", cluster.name);
                    problems.push(place, path.clone(), Code::Conflict, message);
                }
                (Some(here), _) => sticky = Some((&cluster.name, here)),
                (None, _) => (),
            }
        }
    }
}

/// A way from a cluster back to itself, and one cache of names for all forward proxies.
fn clusters_fit_each_other(model: &Model, problems: &mut Problems) {
    let members = |name: &str| -> &[String] {
        match model.clusters.iter().find(|c| c.name == name).map(|c| &c.discovery) {
            Some(Discovery::Failover(members)) => members,
            _ => &[],
        }
    };
    for cluster in &model.clusters {
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let mut next: Vec<&str> = members(&cluster.name).iter().map(String::as_str).collect();
        while let Some(name) = next.pop() {
            if seen.insert(name) {
                next.extend(members(name).iter().map(String::as_str));
            }
        }
        if seen.contains(cluster.name.as_str()) {
            let path = format!("clusters.{}.failover", cluster.name);
            problems.push(&cluster.place, path, Code::Conflict, "leads back to this cluster");
        }
    }
    let mut first: Option<(&str, &ForwardProxy)> = None;
    for cluster in &model.clusters {
        let Discovery::ForwardProxy(here) = &cluster.discovery else { continue };
        match first {
            Some((other, there)) if there != here => {
                let path = format!("clusters.{}.forward_proxy", cluster.name);
                let message = format!("differs from that of `{other}`, and all share one cache of names");
                problems.push(&cluster.place, path, Code::Conflict, message);
            }
            _ => first = Some((&cluster.name, here)),
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
                && !route.matching.is_of_connections()
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
