//! Connections that are passed on as they come, by what a TLS client says before anything is decrypted.

use std::time::Duration;

use cp_model::Model;
use cp_model::listener::{Listener, Protocol};
use cp_model::route::{Action, Destination, Host, Route, Target};
use serde_json::{Value, json};

use crate::access_log::access_logs;
use crate::build::{duration, extension, set, set_list};
use crate::{cluster, route};

pub(super) fn tcp_proxy(model: &Model, listener: &Listener, to: &Destination, idle_timeout: Option<Duration>) -> Value {
    let mut proxy = json!({ "stat_prefix": listener.name });
    match &to.0[..] {
        [only] => {
            proxy["cluster"] = only.cluster.as_str().into();
            set(&mut proxy, "metadata_match", route::subset(only));
        }
        several => {
            let target = |target: &Target| {
                let mut value = json!({ "name": target.cluster, "weight": target.weight });
                set(&mut value, "metadata_match", route::subset(target));
                value
            };
            let clusters: Vec<Value> = several.iter().filter(|t| t.weight > 0).map(target).collect();
            proxy["weighted_clusters"] = json!({ "clusters": clusters });
        }
    }
    let hashed = to.clusters().any(|name| cluster::hashes_client_ip(model, name));
    set(&mut proxy, "hash_policy", hashed.then(|| json!([{ "source_ip": {} }])));
    set(&mut proxy, "idle_timeout", idle_timeout.map(duration));
    set(&mut proxy, "max_downstream_connection_duration", listener.accept.max_age.map(duration));
    if let Protocol::Tcp(tcp) = &listener.protocol {
        set(&mut proxy, "max_connect_attempts", tcp.attempts);
    }
    set_list(&mut proxy, "access_log", access_logs(listener.access_log.as_ref()));
    extension("envoy.filters.network.tcp_proxy", "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", proxy)
}

/// One way out of the listener: a route, or (None) the chain that decrypts.
struct Way<'m> {
    route: Option<&'m Route>,
    hosts: Vec<Host>,
    /// Empty: whatever the client offers.
    alpn: Vec<String>,
}

/// The filter chains of a listener: one for each route that is about connections, and `decrypting` for all else.
///
/// A proxy looks at the server name first and never goes back to a wider one, so a route for a wider name must stand at the
/// narrower ones too.
pub(super) fn chains(
    model: &Model,
    listener: &Listener,
    idle_timeout: Option<Duration>,
    decrypting: Option<Value>,
) -> Vec<Value> {
    let mut ways: Vec<Way<'_>> = Vec::new();
    // With a chain that decrypts, routes without `sni` and `alpn` are routes of its requests.
    let is_way = |r: &&Route| decrypting.is_none() || r.matching.is_of_connections();
    for route in model.routes.iter().filter(|r| r.on.contains(&listener.name)).filter(is_way) {
        let hosts = if route.matching.sni.is_empty() { vec![Host::Any] } else { route.matching.sni.clone() };
        ways.push(Way { route: Some(route), hosts, alpn: route.matching.alpn.clone() });
    }
    if decrypting.is_some() {
        ways.push(Way { route: None, hosts: vec![Host::Any], alpn: Vec::new() });
    }
    let made = placed(&ways).into_iter().map(|(way, alpn, hosts)| {
        let mut chain = match (ways[way].route, &decrypting) {
            (Some(route), _) => passing(model, listener, route, idle_timeout),
            (None, decrypting) => decrypting.clone().unwrap_or_default(),
        };
        let names: Vec<String> = hosts.iter().filter(|h| **h != Host::Any).map(Host::domain).collect();
        if let (Some(route), true) = (ways[way].route, names.is_empty()) {
            chain["name"] = format!("{} (any)", route.name).into();
        }
        let mut matching = json!({});
        set(&mut matching, "server_names", (!names.is_empty()).then(|| json!(names)));
        set(&mut matching, "application_protocols", (!alpn.is_empty()).then(|| json!(alpn)));
        set(&mut chain, "filter_chain_match", (matching != json!({})).then_some(matching));
        chain
    });
    made.collect()
}

fn passing(model: &Model, listener: &Listener, route: &Route, idle_timeout: Option<Duration>) -> Value {
    let mut chain = json!({ "name": route.name });
    if let Action::Forward(forward) = &route.action {
        chain["filters"] = json!([tcp_proxy(model, listener, &forward.to, idle_timeout)]);
    }
    chain
}

/// Which way has which protocols at which names: the first that fits, at every name.
fn placed(ways: &[Way<'_>]) -> Vec<(usize, Vec<String>, Vec<Host>)> {
    let mut names: Vec<&Host> = Vec::new();
    for host in ways.iter().flat_map(|w| &w.hosts) {
        if !names.contains(&host) {
            names.push(host);
        }
    }
    let mut out: Vec<(usize, Vec<String>, Vec<Host>)> = Vec::new();
    for name in names {
        let mut taken: Vec<&String> = Vec::new();
        for (index, way) in ways.iter().enumerate().filter(|(_, w)| w.hosts.iter().any(|h| h.covers(name))) {
            let left: Vec<String> = way.alpn.iter().filter(|a| !taken.contains(a)).cloned().collect();
            if !way.alpn.is_empty() && left.is_empty() {
                continue;
            }
            // A chain for any name has no names, so it stands alone.
            let same = |(i, alpn, hosts): &&mut (usize, Vec<String>, Vec<Host>)| {
                *i == index && *alpn == left && hosts.contains(&Host::Any) == (*name == Host::Any)
            };
            match out.iter_mut().find(same) {
                Some((_, _, hosts)) => hosts.push(name.clone()),
                None => out.push((index, left, vec![name.clone()])),
            }
            taken.extend(&way.alpn);
            if way.alpn.is_empty() {
                break;
            }
        }
    }
    out.sort_by_key(|(index, _, hosts)| (*index, hosts.contains(&Host::Any)));
    out
}
