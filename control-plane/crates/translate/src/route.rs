//! The routes of an http listener: one RouteConfiguration, virtual hosts by domain, first match wins as the operator wrote it.

use std::collections::BTreeMap;

use cp_model::cluster::{Discovery, HashKey};
use cp_model::listener::{Http, Listener, Protocol};
use cp_model::route::action::{HostRewrite, PathRewrite, RedirectPath};
use cp_model::route::{Action, Destination, Forward, HeaderEdits, Host, PathMatch, Redirect, Route, Target};
use cp_model::{Model, policy::Policy};
use serde_json::{Value, json};

use crate::api;
use crate::build::{duration, escape, extension, fraction, set, set_list, typed};
use crate::http_filters::{Effective, Filters};
use crate::matching::route_match;

mod retry;

/// One Envoy route, and the hosts it stands for; none = every host.
pub(crate) struct Entry {
    pub(crate) hosts: Vec<Host>,
    pub(crate) value: Value,
}

/// What the routes of one listener are made with.
pub(crate) struct Maker<'m> {
    pub(crate) model: &'m Model,
    pub(crate) http: &'m Http,
    pub(crate) filters: Filters,
}

pub(crate) fn configuration(model: &Model, listener: &Listener, http: &Http) -> (Value, Filters) {
    let mut maker = Maker { model, http, filters: Filters::default() };
    let virtual_hosts = match http.redirect_https {
        true => vec![to_https(model)],
        false => {
            let here = |on: &[String]| on.is_empty() || on.contains(&listener.name);
            let mut entries = Vec::new();
            // Apis always say what they match; a route may match everything and would hide them.
            for api in model.apis.iter().filter(|a| here(&a.on)) {
                api::routes(&mut maker, api, &mut entries);
            }
            for route in model.routes.iter().filter(|r| here(&r.on) && !r.matching.is_of_connections()) {
                if !on_passthrough(model, route) {
                    entries.push(maker.route(route));
                }
            }
            virtual_hosts(&entries)
        }
    };
    let mut body = json!({ "name": listener.name, "ignore_port_in_host_matching": true });
    set_list(&mut body, "virtual_hosts", virtual_hosts);
    (typed("envoy.config.route.v3.RouteConfiguration", body), maker.filters)
}

fn on_passthrough(model: &Model, route: &Route) -> bool {
    let tls = |name: &String| {
        model.listeners.iter().any(|l| l.name == *name && matches!(l.protocol, Protocol::TlsPassthrough { .. }))
    };
    route.on.iter().any(tls)
}

/// One virtual host a distinct domain, each with every route that covers it, in order. Envoy picks the virtual host first, so
/// a route with a wider domain must stand in the narrower ones too.
fn virtual_hosts(entries: &[Entry]) -> Vec<Value> {
    let mut domains: Vec<&Host> = entries.iter().flat_map(|e| &e.hosts).collect();
    if entries.iter().any(|e| e.hosts.is_empty()) {
        domains.push(&Host::Any);
    }
    domains.sort();
    domains.dedup();
    let covering = |domain: &Host| -> Vec<Value> {
        let covers = |e: &&Entry| e.hosts.is_empty() || e.hosts.iter().any(|h| h.covers(domain));
        entries.iter().filter(covers).map(|e| e.value.clone()).collect()
    };
    // Domains with the same routes share a virtual host.
    let mut groups: Vec<(Vec<Value>, Vec<String>)> = Vec::new();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for domain in domains {
        let routes = covering(domain);
        let key = Value::Array(routes.clone()).to_string();
        let at = *seen.entry(key).or_insert_with(|| {
            groups.push((routes, Vec::new()));
            groups.len() - 1
        });
        groups[at].1.push(domain.domain());
    }
    groups
        .into_iter()
        .map(|(routes, domains)| json!({ "name": domains[0], "domains": domains, "routes": routes }))
        .collect()
}

/// Everything to https; with the port of the one TLS listener when that is not 443.
fn to_https(model: &Model) -> Value {
    let ports: Vec<u16> = model
        .listeners
        .iter()
        .filter(|l| matches!(&l.protocol, Protocol::Http(h) if h.tls.is_some()))
        .map(|l| l.address.port())
        .collect();
    let mut redirect = json!({ "https_redirect": true });
    if let [port] = ports[..]
        && port != 443
    {
        redirect["port_redirect"] = port.into();
    }
    let route = json!({ "name": "to-https", "match": { "prefix": "/" }, "redirect": redirect });
    json!({ "name": "*", "domains": ["*"], "routes": [route] })
}

impl<'m> Maker<'m> {
    /// What the listener's policies and these amount to.
    pub(crate) fn effective<'n>(&self, names: impl Iterator<Item = &'n String>) -> Effective<'m> {
        let (model, http) = (self.model, self.http);
        let of_listener = http.policies.iter().filter_map(|name| model.policies.get(name));
        let policies: Vec<&'m Policy> = of_listener.chain(names.filter_map(|name| model.policies.get(name))).collect();
        Effective::of(&policies)
    }

    fn route(&mut self, route: &Route) -> Entry {
        let mut effective = self.effective(route.policies.iter());
        let mut value = json!({ "name": route.name, "match": route_match(&route.matching) });
        match &route.action {
            Action::Forward(forward) => {
                value["route"] = self.forward(forward, route.matching.path.as_ref());
                self.affinity(&forward.to, &mut effective);
            }
            Action::Redirect(to) => value["redirect"] = redirect(to),
            Action::Respond(answer) => {
                let mut direct = json!({ "status": answer.status });
                set(&mut direct, "body", answer.body.as_ref().map(|b| json!({ "inline_string": b })));
                value["direct_response"] = direct;
            }
        }
        self.dress(&mut value, &effective, &route.request_headers, &route.response_headers);
        Entry { hosts: route.matching.hosts.clone(), value }
    }

    /// What the clusters of a destination ask of the filters.
    pub(crate) fn affinity(&mut self, to: &Destination, effective: &mut Effective<'m>) {
        let clusters = self.model.clusters.iter().filter(|c| to.leads_to(&c.name));
        for cluster in clusters {
            effective.sticky = cluster.sticky.as_ref().or(effective.sticky);
            if let Discovery::ForwardProxy(config) = &cluster.discovery {
                self.filters.forward_proxy(config);
            }
        }
    }

    /// Adds what the policies and header edits make of a route.
    pub(crate) fn dress(&mut self, route: &mut Value, effective: &Effective<'_>, up: &HeaderEdits, down: &HeaderEdits) {
        headers(route, "request", &effective.request_headers.clone().and(up));
        headers(route, "response", &effective.response_headers.clone().and(down));
        let per_filter = self.filters.per_route(effective);
        set(route, "typed_per_filter_config", (!per_filter.is_empty()).then_some(Value::Object(per_filter)));
    }

    pub(crate) fn forward(&self, forward: &Forward, path: Option<&PathMatch>) -> Value {
        let mut action = json!({});
        destination(&mut action, &forward.to);
        if let Some(rewrite) = &forward.rewrite.path {
            path_rewrite(&mut action, rewrite, path);
        }
        match &forward.rewrite.host {
            Some(HostRewrite::Literal(host)) => action["host_rewrite_literal"] = host.as_str().into(),
            Some(HostRewrite::Endpoint) => action["auto_host_rewrite"] = true.into(),
            None => (),
        }
        set(&mut action, "timeout", forward.timeout.map(duration));
        set(&mut action, "idle_timeout", forward.idle_timeout.map(duration));
        set(&mut action, "retry_policy", forward.retry.as_ref().map(retry::policy));
        set(&mut action, "hedge_policy", forward.hedge.then(|| json!({ "hedge_on_per_try_timeout": true })));
        set(&mut action, "priority", forward.high_priority.then_some("HIGH"));
        let mirror = |m: &cp_model::route::Mirror| {
            let mut value = json!({ "cluster": m.to });
            if m.percent != cp_model::value::Percent::ALL {
                value["runtime_fraction"] = json!({ "default_value": fraction(m.percent) });
            }
            value
        };
        set_list(&mut action, "request_mirror_policies", forward.mirror.iter().map(mirror).collect());
        set_list(&mut action, "hash_policy", self.hash_policies(&forward.to));
        if self.http.websocket && !forward.websocket {
            action["upgrade_configs"] = json!([{ "upgrade_type": "websocket", "enabled": false }]);
        }
        action
    }

    /// In Envoy the route says what to hash; here the cluster does.
    fn hash_policies(&self, to: &Destination) -> Vec<Value> {
        let mut keys: Vec<&HashKey> = Vec::new();
        for cluster in self.model.clusters.iter().filter(|c| to.leads_to(&c.name)) {
            for key in cluster.balance.hash_keys() {
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
        }
        keys.into_iter().map(hash_policy).collect()
    }
}

fn hash_policy(key: &HashKey) -> Value {
    match key {
        HashKey::Cookie { name, ttl, path } => {
            let mut cookie = json!({ "name": name, "path": path.as_deref().unwrap_or("/") });
            // A ttl makes Envoy set the cookie itself; 0 makes it one of the session.
            cookie["ttl"] = duration(ttl.unwrap_or_default()).into();
            json!({ "cookie": cookie })
        }
        HashKey::Header(name) => json!({ "header": { "header_name": name } }),
        HashKey::Query(name) => json!({ "query_parameter": { "name": name } }),
        HashKey::ClientIp => json!({ "connection_properties": { "source_ip": true } }),
    }
}

pub(crate) fn destination(action: &mut Value, to: &Destination) {
    match &to.0[..] {
        [only] => {
            action["cluster"] = only.cluster.as_str().into();
            set(action, "metadata_match", subset(only));
        }
        several => {
            let target = |target: &Target| {
                let mut value = json!({ "name": target.cluster, "weight": target.weight });
                set(&mut value, "metadata_match", subset(target));
                value
            };
            action["weighted_clusters"] = json!({ "clusters": several.iter().map(target).collect::<Vec<_>>() });
        }
    }
}

/// The labels that the endpoint must have.
pub(crate) fn subset(target: &Target) -> Option<Value> {
    (!target.subset.is_empty()).then(|| json!({ "filter_metadata": { "envoy.lb": target.subset } }))
}

fn path_rewrite(action: &mut Value, rewrite: &PathRewrite, path: Option<&PathMatch>) {
    match rewrite {
        PathRewrite::Regex { pattern, substitution } => {
            action["regex_rewrite"] = json!({ "pattern": { "regex": pattern }, "substitution": substitution });
        }
        PathRewrite::Template(template) => {
            action["path_rewrite_policy"] = extension(
                "envoy.path.rewrite.uri_template.uri_template_rewriter",
                "envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig",
                json!({ "path_template_rewrite": template }),
            );
        }
        PathRewrite::Strip { strip, prefix } => {
            // The plain prefix rewrite is right only where both ends have a slash: `/api/` for `/v1/`.
            if matches!(path, Some(PathMatch::Prefix(p)) if p.strip_suffix('/') == Some(strip.as_str())) {
                action["prefix_rewrite"] = format!("{prefix}/").into();
                return;
            }
            let (pattern, substitution) = match prefix.as_str() {
                "" => (format!("^{}(?:/(.*))?$", escape(strip)), "/\\1".to_owned()),
                prefix => (format!("^{}(/.*)?$", escape(strip)), format!("{}\\1", prefix.replace('\\', "\\\\"))),
            };
            action["regex_rewrite"] = json!({ "pattern": { "regex": pattern }, "substitution": substitution });
        }
    }
}

fn redirect(to: &Redirect) -> Value {
    let mut value = json!({});
    set(&mut value, "https_redirect", to.https.then_some(true));
    set(&mut value, "host_redirect", to.host.as_deref());
    set(&mut value, "port_redirect", to.port);
    match &to.path {
        Some(RedirectPath::Whole(path)) => value["path_redirect"] = path.as_str().into(),
        Some(RedirectPath::Prefix(prefix)) => value["prefix_rewrite"] = prefix.as_str().into(),
        None => (),
    }
    let code = match to.status {
        302 => Some("FOUND"),
        303 => Some("SEE_OTHER"),
        307 => Some("TEMPORARY_REDIRECT"),
        308 => Some("PERMANENT_REDIRECT"),
        _ => None,
    };
    set(&mut value, "response_code", code);
    set(&mut value, "strip_query", to.strip_query.then_some(true));
    value
}

fn headers(route: &mut Value, side: &str, edits: &HeaderEdits) {
    set_list(route, &format!("{side}_headers_to_add"), header_options(edits));
    set_list(route, &format!("{side}_headers_to_remove"), edits.remove.iter().map(|n| n.as_str().into()).collect());
}

pub(crate) fn header_options(edits: &HeaderEdits) -> Vec<Value> {
    let option = |(name, value): &(String, String), action: &str| {
        // `%` begins a command operator in Envoy; the operator's text is meant as it is.
        json!({ "header": { "key": name, "value": value.replace('%', "%%") }, "append_action": action })
    };
    let set = edits.set.iter().map(|h| option(h, "OVERWRITE_IF_EXISTS_OR_ADD"));
    set.chain(edits.add.iter().map(|h| option(h, "APPEND_IF_EXISTS_OR_ADD"))).collect()
}
