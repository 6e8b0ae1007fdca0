//! Where endpoints come from, in Envoy's words.

use std::net::SocketAddr;

use cp_model::cluster::{Cluster, Discovery, Dns, Endpoint, Family, ForwardProxy, Lookup, OriginalDst, Srv};
use serde_json::{Value, json};

use crate::build::{ads, duration, extension, host_port, set, set_list, socket, typed};
use crate::{Origin, Out, TranslateError};

pub(super) fn discovery(
    cluster: &Cluster,
    body: &mut Value,
    origin: Origin<'_>,
    out: &mut Out,
) -> Result<(), TranslateError> {
    match &cluster.discovery {
        Discovery::Fixed(endpoints) => {
            body["type"] = "EDS".into();
            body["eds_cluster_config"] = json!({ "eds_config": ads() });
            let assignment =
                typed("envoy.config.endpoint.v3.ClusterLoadAssignment", load_assignment(cluster, endpoints));
            out.write(origin, &cluster.name, &assignment)?;
        }
        Discovery::Dns(dns) => by_dns(cluster, dns, body),
        Discovery::Srv(srv) => body["cluster_type"] = by_srv(srv),
        Discovery::Failover(members) => {
            body["cluster_type"] = extension(
                "envoy.clusters.aggregate",
                "envoy.extensions.clusters.aggregate.v3.ClusterConfig",
                json!({ "clusters": members }),
            );
        }
        Discovery::OriginalDst(config) => {
            body["type"] = "ORIGINAL_DST".into();
            set(body, "original_dst_lb_config", original_dst(config));
        }
        Discovery::ForwardProxy(config) => {
            body["cluster_type"] = extension(
                "envoy.clusters.dynamic_forward_proxy",
                "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig",
                json!({ "dns_cache_config": dns_cache(config) }),
            );
        }
    }
    Ok(())
}

fn by_dns(cluster: &Cluster, dns: &Dns, body: &mut Value) {
    body["type"] = if dns.logical { "LOGICAL_DNS" } else { "STRICT_DNS" }.into();
    lookup(&dns.lookup, body);
    if let Some(config) = resolvers(&dns.lookup.resolvers) {
        body["typed_dns_resolver_config"] =
            json!({ "name": "envoy.network.dns_resolver.cares", "typed_config": config });
    }
    body["load_assignment"] = load_assignment(cluster, &dns.names);
}

/// Only weir-proxy knows this type of cluster.
fn by_srv(srv: &Srv) -> Value {
    let mut body = json!({ "name": srv.name });
    lookup(&srv.lookup, &mut body);
    set(&mut body, "typed_dns_resolver_config", resolvers(&srv.lookup.resolvers));
    extension("weir.clusters.srv", "weir.clusters.srv.v1.SrvCluster", body)
}

/// The fields that a cluster and an `SrvCluster` have in common.
fn lookup(lookup: &Lookup, body: &mut Value) {
    set(body, "respect_dns_ttl", lookup.ttl.then_some(true));
    set(body, "dns_refresh_rate", lookup.refresh.map(duration));
    set(body, "dns_jitter", lookup.jitter.map(duration));
    set(body, "dns_lookup_family", lookup.family.map(family));
}

fn resolvers(addresses: &[SocketAddr]) -> Option<Value> {
    let list: Vec<Value> = addresses.iter().copied().map(socket).collect();
    const MESSAGE: &str = "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig";
    (!list.is_empty()).then(|| typed(MESSAGE, json!({ "resolvers": list })))
}

fn family(family: Family) -> &'static str {
    match family {
        Family::V4 => "V4_ONLY",
        Family::V6 => "V6_ONLY",
        Family::V4First => "V4_PREFERRED",
        Family::V6First => "AUTO",
        Family::All => "ALL",
    }
}

/// Priority, region and zone.
type Level<'e> = (u32, &'e str, &'e str);

fn load_assignment(cluster: &Cluster, endpoints: &[Endpoint]) -> Value {
    let port = cluster.health.iter().find_map(|h| h.port);
    let mut localities: Vec<(Level<'_>, Vec<Value>)> = Vec::new();
    for endpoint in endpoints {
        let key = (endpoint.priority, endpoint.region.as_str(), endpoint.zone.as_str());
        match localities.iter_mut().find(|(k, _)| *k == key) {
            Some((_, list)) => list.push(lb_endpoint(endpoint, port)),
            None => localities.push((key, vec![lb_endpoint(endpoint, port)])),
        }
    }
    localities.sort_by_key(|(key, _)| *key);
    let weights = &cluster.localities.weights;
    let locality = |((priority, region, zone), list): (Level<'_>, Vec<Value>)| {
        let mut value = json!({ "lb_endpoints": list });
        set(&mut value, "priority", (priority != 0).then_some(priority));
        let mut place = json!({});
        set(&mut place, "region", (!region.is_empty()).then_some(region));
        set(&mut place, "zone", (!zone.is_empty()).then_some(zone));
        set(&mut value, "locality", (place != json!({})).then_some(place));
        if !weights.is_empty() {
            // A locality without weight gets no requests, which nobody means who gave another one a weight.
            set(&mut value, "load_balancing_weight", Some(weights.get(zone).copied().unwrap_or(1)));
        }
        value
    };
    let localities: Vec<Value> = localities.into_iter().map(locality).collect();
    let mut out = json!({ "cluster_name": cluster.name, "endpoints": localities });
    let factor = cluster.localities.overprovisioning.map(|share| json!({ "overprovisioning_factor": share.0 / 100 }));
    set(&mut out, "policy", factor);
    out
}

fn lb_endpoint(endpoint: &Endpoint, health_port: Option<u32>) -> Value {
    let mut inner = json!({ "address": host_port(&endpoint.address.host, endpoint.address.port) });
    let also = endpoint.also.iter().map(|a| json!({ "address": host_port(&a.host, a.port) })).collect();
    set_list(&mut inner, "additional_addresses", also);
    set(&mut inner, "health_check_config", health_port.map(|port| json!({ "port_value": port })));
    let mut value = json!({ "endpoint": inner });
    set(&mut value, "load_balancing_weight", (endpoint.weight != 1).then_some(endpoint.weight));
    if !endpoint.labels.is_empty() {
        value["metadata"] = json!({ "filter_metadata": { "envoy.lb": endpoint.labels } });
    }
    value
}

fn original_dst(config: &OriginalDst) -> Option<Value> {
    let mut value = json!({});
    if let Some(header) = &config.header {
        value["use_http_header"] = true.into();
        value["http_header_name"] = header.as_str().into();
    }
    set(&mut value, "upstream_port_override", config.port);
    (value != json!({})).then_some(value)
}

/// The cache of names that the cluster and the HTTP filter share.
pub(crate) fn dns_cache(config: &ForwardProxy) -> Value {
    let lookup = config.family.map_or("V4_PREFERRED", family);
    let mut value = json!({ "name": "forward_proxy", "dns_lookup_family": lookup });
    set(&mut value, "max_hosts", config.max_hosts);
    set(&mut value, "host_ttl", config.host_ttl.map(duration));
    set(&mut value, "dns_refresh_rate", config.refresh.map(duration));
    value
}
