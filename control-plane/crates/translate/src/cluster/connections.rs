//! Connections to endpoints, and the limits on them, in Envoy's words.

use cp_model::Model;
use cp_model::cluster::connections::{HappyEyeballs, Keepalive, Preconnect};
use cp_model::cluster::{Cluster, Discovery, Family, Pool, UpstreamProtocol};
use cp_model::route::{Action, Retry};
use serde_json::{Value, json};

use crate::build::{duration, percent, set, set_list, typed};

pub(super) fn connections(model: &Model, cluster: &Cluster, body: &mut Value) {
    set(body, "circuit_breakers", breakers(model, cluster));
    set(body, "typed_extension_protocol_options", protocol_options(cluster));
    let of = &cluster.connections;
    let mut options = json!({});
    set(&mut options, "tcp_keepalive", of.keepalive.as_ref().map(keepalive));
    set(&mut options, "happy_eyeballs_config", of.happy_eyeballs.as_ref().map(happy_eyeballs));
    set(body, "upstream_connection_options", (options != json!({})).then_some(options));
    set(body, "preconnect_policy", of.preconnect.as_ref().map(preconnect));
}

fn breakers(model: &Model, cluster: &Cluster) -> Option<Value> {
    let limits = &cluster.limits;
    let mut default = threshold(&limits.default);
    if let (Some(hundredths), None) = (budget(model, &cluster.name), limits.default.budget) {
        default["retry_budget"]["budget_percent"] = json!({ "value": f64::from(hundredths) / 100.0 });
    }
    let mut thresholds = Vec::new();
    if default != json!({}) {
        thresholds.push(default);
    }
    if let Some(high) = &limits.high {
        let mut high = threshold(high);
        high["priority"] = "HIGH".into();
        thresholds.push(high);
    }
    let mut value = json!({});
    set_list(&mut value, "thresholds", thresholds);
    let per_host = limits.connections_per_endpoint.map(|most| json!([{ "max_connections": most }]));
    set(&mut value, "per_host_thresholds", per_host);
    (value != json!({})).then_some(value)
}

fn threshold(pool: &Pool) -> Value {
    let mut value = json!({});
    set(&mut value, "max_connections", pool.connections);
    set(&mut value, "max_pending_requests", pool.pending);
    set(&mut value, "max_requests", pool.requests);
    set(&mut value, "max_retries", pool.retries);
    let mut budget = json!({});
    set(&mut budget, "budget_percent", pool.budget.map(percent));
    set(&mut budget, "budget_interval", pool.budget_interval.map(duration));
    set(&mut budget, "min_retry_concurrency", pool.min_retries);
    set(&mut value, "retry_budget", (budget != json!({})).then_some(budget));
    value
}

/// Envoy keeps retry budgets in clusters: the largest that a route leading here allows.
fn budget(model: &Model, cluster: &str) -> Option<u32> {
    let routes = model.routes.iter().filter_map(|r| match &r.action {
        Action::Forward(f) if f.to.leads_to(cluster) => f.retry.as_ref(),
        _ => None,
    });
    let versions = model.apis.iter().flat_map(|a| &a.versions).filter(|v| v.to.leads_to(cluster));
    let versions = versions.filter_map(|v| v.retry.as_ref());
    routes.chain(versions).filter_map(|r: &Retry| r.budget).map(|p| p.0).max()
}

fn protocol_options(cluster: &Cluster) -> Option<Value> {
    let mut common = json!({});
    set(&mut common, "idle_timeout", cluster.idle_timeout.map(duration));
    set(&mut common, "max_requests_per_connection", cluster.connections.max_requests);
    set(&mut common, "max_connection_duration", cluster.connections.max_age.map(duration));
    let common = (common != json!({})).then_some(common);
    // Only the request knows the name of the other end, and its certificate must be for that one.
    let by_host = matches!(cluster.discovery, Discovery::ForwardProxy(_))
        .then(|| cluster.tls.as_ref())
        .flatten()
        .filter(|tls| tls.sni.is_none());
    if cluster.protocol == UpstreamProtocol::H1 && common.is_none() && by_host.is_none() {
        return None;
    }
    let mut options = match cluster.protocol {
        UpstreamProtocol::H1 => json!({ "explicit_http_config": { "http_protocol_options": {} } }),
        UpstreamProtocol::H2 => json!({ "explicit_http_config": { "http2_protocol_options": {} } }),
        UpstreamProtocol::Auto => {
            json!({ "auto_config": { "http_protocol_options": {}, "http2_protocol_options": {} } })
        }
    };
    set(&mut options, "common_http_protocol_options", common);
    if let Some(tls) = by_host {
        options["upstream_http_protocol_options"] = json!({ "auto_sni": true, "auto_san_validation": tls.verify });
    }
    const NAME: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    Some(json!({ NAME: typed(NAME, options) }))
}

fn keepalive(keepalive: &Keepalive) -> Value {
    let mut value = json!({});
    set(&mut value, "keepalive_time", keepalive.idle.map(|d| d.as_secs()));
    set(&mut value, "keepalive_interval", keepalive.interval.map(|d| d.as_secs()));
    set(&mut value, "keepalive_probes", keepalive.probes);
    value
}

fn happy_eyeballs(config: &HappyEyeballs) -> Value {
    let mut value = json!({});
    let first = config.first.map(|family| if family == Family::V4 { "V4" } else { "V6" });
    set(&mut value, "first_address_family_version", first);
    set(&mut value, "first_address_family_count", config.count);
    value
}

fn preconnect(config: &Preconnect) -> Value {
    let mut value = json!({});
    set(&mut value, "per_upstream_preconnect_ratio", config.ratio.map(|r| r.value()));
    set(&mut value, "predictive_preconnect_ratio", config.predictive.map(|r| r.value()));
    value
}
