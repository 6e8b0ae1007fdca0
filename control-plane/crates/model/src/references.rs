//! Who refers to whom, for "still referenced" and "never used".

use std::collections::BTreeSet;

use crate::check::Model;
use crate::cluster::Discovery;
use crate::draft::Kind;
use crate::listener::Protocol;
use crate::route::{Action, Destination};

/// One object refers to another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    pub from: (Kind, String),
    pub to: (Kind, String),
}

/// Every reference in a model.
pub fn references(model: &Model) -> Vec<Reference> {
    let mut out = Vec::new();
    let mut add = |from: (Kind, &str), kind: Kind, to: &str| {
        out.push(Reference { from: (from.0, from.1.to_owned()), to: (kind, to.to_owned()) });
    };
    let destination = |d: &Destination| d.clusters().map(str::to_owned).collect::<Vec<_>>();
    for listener in &model.listeners {
        let from = (Kind::Listener, listener.name.as_str());
        match &listener.protocol {
            Protocol::Http(http) => http.policies.iter().for_each(|p| add(from, Kind::Policy, p)),
            Protocol::Tcp(tcp) => destination(&tcp.to).iter().for_each(|c| add(from, Kind::Cluster, c)),
            Protocol::Udp { to, .. } => add(from, Kind::Cluster, to),
            Protocol::TlsPassthrough { .. } => (),
        }
    }
    for route in &model.routes {
        let from = (Kind::Route, route.name.as_str());
        route.on.iter().for_each(|l| add(from, Kind::Listener, l));
        route.policies.iter().for_each(|p| add(from, Kind::Policy, p));
        if let Action::Forward(forward) = &route.action {
            destination(&forward.to).iter().for_each(|c| add(from, Kind::Cluster, c));
            forward.mirror.iter().for_each(|m| add(from, Kind::Cluster, &m.to));
        }
    }
    for api in &model.apis {
        let from = (Kind::Api, api.name.as_str());
        api.on.iter().for_each(|l| add(from, Kind::Listener, l));
        api.policies.iter().for_each(|p| add(from, Kind::Policy, p));
        for version in &api.versions {
            version.policies.iter().for_each(|p| add(from, Kind::Policy, p));
            destination(&version.to).iter().for_each(|c| add(from, Kind::Cluster, c));
        }
    }
    for cluster in &model.clusters {
        if let Discovery::Failover(members) = &cluster.discovery {
            members.iter().for_each(|m| add((Kind::Cluster, &cluster.name), Kind::Cluster, m));
        }
    }
    out.sort();
    out.dedup();
    out
}

/// The clusters something leads to.
pub(crate) fn clusters(model: &Model) -> BTreeSet<String> {
    references(model).into_iter().filter(|r| r.to.0 == Kind::Cluster).map(|r| r.to.1).collect()
}
