//! Clusters, and their endpoints.

use cp_model::Model;
use cp_model::cluster::{
    Balance, ClientTls, Cluster, Endpoint, Endpoints, HealthProbe, ProxyProtocol, UpstreamProtocol,
};
use cp_model::route::{Action, Destination, Retry};
use serde_json::{Value, json};

use crate::build::{ads, duration, extension, host_port, set, set_list, typed};
use crate::{Origin, Out, TranslateError, secret};

/// Where the proxies' machines keep the authorities everyone trusts.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

pub(crate) fn cluster(
    model: &Model,
    cluster: &Cluster,
    origin: Origin<'_>,
    out: &mut Out,
) -> Result<(), TranslateError> {
    let mut body = json!({ "name": cluster.name });
    match &cluster.endpoints {
        Endpoints::Fixed(endpoints) => {
            body["type"] = "EDS".into();
            body["eds_cluster_config"] = json!({ "eds_config": ads() });
            let assignment =
                typed("envoy.config.endpoint.v3.ClusterLoadAssignment", load_assignment(&cluster.name, endpoints));
            out.write(origin, &cluster.name, &assignment)?;
        }
        Endpoints::Dns(endpoints) => {
            body["type"] = "STRICT_DNS".into();
            body["respect_dns_ttl"] = true.into();
            body["load_assignment"] = load_assignment(&cluster.name, endpoints);
        }
    }
    set(&mut body, "connect_timeout", cluster.connect_timeout.map(duration));
    body["lb_policy"] = match cluster.balance {
        Balance::RoundRobin => "ROUND_ROBIN",
        Balance::LeastRequest => "LEAST_REQUEST",
        Balance::Random => "RANDOM",
        Balance::RingHash(_) => "RING_HASH",
        Balance::Maglev(_) => "MAGLEV",
    }
    .into();
    set(&mut body, "circuit_breakers", breakers(model, cluster));
    set(&mut body, "typed_extension_protocol_options", protocol_options(cluster));
    set_list(&mut body, "health_checks", cluster.health.iter().map(health_check).collect());
    set(&mut body, "outlier_detection", outlier(cluster));
    set(&mut body, "transport_socket", transport_socket(cluster, origin, out)?);
    out.write(origin, &cluster.name, &typed("envoy.config.cluster.v3.Cluster", body))
}

fn load_assignment(name: &str, endpoints: &[Endpoint]) -> Value {
    let mut localities: Vec<((u32, &str), Vec<Value>)> = Vec::new();
    for endpoint in endpoints {
        let key = (endpoint.priority, endpoint.zone.as_str());
        let mut value = json!({ "endpoint": { "address": host_port(&endpoint.address.host, endpoint.address.port) } });
        set(&mut value, "load_balancing_weight", (endpoint.weight != 1).then_some(endpoint.weight));
        match localities.iter_mut().find(|(k, _)| *k == key) {
            Some((_, list)) => list.push(value),
            None => localities.push((key, vec![value])),
        }
    }
    localities.sort_by_key(|(key, _)| *key);
    let locality = |((priority, zone), list): ((u32, &str), Vec<Value>)| {
        let mut value = json!({ "lb_endpoints": list });
        set(&mut value, "priority", (priority != 0).then_some(priority));
        set(&mut value, "locality", (!zone.is_empty()).then(|| json!({ "zone": zone })));
        value
    };
    let localities: Vec<Value> = localities.into_iter().map(locality).collect();
    json!({ "cluster_name": name, "endpoints": localities })
}

fn breakers(model: &Model, cluster: &Cluster) -> Option<Value> {
    let limits = &cluster.limits;
    let mut threshold = json!({});
    set(&mut threshold, "max_connections", limits.connections);
    set(&mut threshold, "max_pending_requests", limits.pending);
    set(&mut threshold, "max_requests", limits.requests);
    set(&mut threshold, "max_retries", limits.retries);
    if let Some(hundredths) = budget(model, &cluster.name) {
        threshold["retry_budget"] = json!({ "budget_percent": { "value": f64::from(hundredths) / 100.0 } });
    }
    let empty = threshold.as_object().is_some_and(serde_json::Map::is_empty);
    (!empty).then(|| json!({ "thresholds": [threshold] }))
}

/// Envoy keeps retry budgets in clusters: the largest that a route leading here allows.
fn budget(model: &Model, cluster: &str) -> Option<u32> {
    let leads = |to: &Destination| to.0.iter().any(|(name, _)| name == cluster);
    let routes = model.routes.iter().filter_map(|r| match &r.action {
        Action::Forward(f) if leads(&f.to) => f.retry.as_ref(),
        _ => None,
    });
    let versions =
        model.apis.iter().flat_map(|a| &a.versions).filter(|v| leads(&v.to)).filter_map(|v| v.retry.as_ref());
    routes.chain(versions).filter_map(|r: &Retry| r.budget).map(|p| p.0).max()
}

fn protocol_options(cluster: &Cluster) -> Option<Value> {
    let idle = cluster.idle_timeout.map(duration);
    let requests = cluster.limits.requests_per_connection;
    if cluster.protocol == UpstreamProtocol::H1 && idle.is_none() && requests.is_none() {
        return None;
    }
    let mut options = match cluster.protocol {
        UpstreamProtocol::H1 => json!({ "explicit_http_config": { "http_protocol_options": {} } }),
        UpstreamProtocol::H2 => json!({ "explicit_http_config": { "http2_protocol_options": {} } }),
        UpstreamProtocol::Auto => {
            json!({ "auto_config": { "http_protocol_options": {}, "http2_protocol_options": {} } })
        }
    };
    if idle.is_some() || requests.is_some() {
        let mut common = json!({});
        set(&mut common, "idle_timeout", idle);
        set(&mut common, "max_requests_per_connection", requests);
        options["common_http_protocol_options"] = common;
    }
    const NAME: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    Some(json!({ NAME: typed(NAME, options) }))
}

fn health_check(check: &cp_model::cluster::HealthCheck) -> Value {
    let mut value = json!({
        "timeout": duration(check.timeout),
        "interval": duration(check.interval),
        "unhealthy_threshold": check.unhealthy,
        "healthy_threshold": check.healthy,
    });
    match &check.probe {
        HealthProbe::Http { path, host, method } => {
            let mut http = json!({ "path": path });
            set(&mut http, "host", host.as_deref());
            set(&mut http, "method", method.as_deref());
            value["http_health_check"] = http;
        }
        HealthProbe::Tcp => value["tcp_health_check"] = json!({}),
        HealthProbe::Grpc(service) => {
            let mut grpc = json!({});
            set(&mut grpc, "service_name", (!service.is_empty()).then_some(service.as_str()));
            value["grpc_health_check"] = grpc;
        }
    }
    value
}

fn outlier(cluster: &Cluster) -> Option<Value> {
    let outlier = cluster.outlier.as_ref()?;
    let mut value = json!({});
    set(&mut value, "consecutive_5xx", outlier.consecutive_5xx);
    set(&mut value, "consecutive_gateway_failure", outlier.consecutive_gateway_errors);
    // Envoy counts gateway errors and ejects nothing for them unless told to.
    set(&mut value, "enforcing_consecutive_gateway_failure", outlier.consecutive_gateway_errors.map(|_| 100));
    set(&mut value, "interval", outlier.interval.map(duration));
    set(&mut value, "base_ejection_time", outlier.eject.map(duration));
    set(&mut value, "max_ejection_percent", outlier.max_ejected);
    Some(value)
}

fn transport_socket(cluster: &Cluster, origin: Origin<'_>, out: &mut Out) -> Result<Option<Value>, TranslateError> {
    let tls = match &cluster.tls {
        Some(tls) => Some(client_tls(cluster, tls, origin, out)?),
        None => None,
    };
    let Some(version) = cluster.proxy_protocol else { return Ok(tls) };
    let raw = || {
        extension(
            "envoy.transport_sockets.raw_buffer",
            "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
            json!({}),
        )
    };
    let version = match version {
        ProxyProtocol::V1 => "V1",
        ProxyProtocol::V2 => "V2",
    };
    Ok(Some(extension(
        "envoy.transport_sockets.upstream_proxy_protocol",
        "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
        json!({ "config": { "version": version }, "transport_socket": tls.unwrap_or_else(raw) }),
    )))
}

fn client_tls(cluster: &Cluster, tls: &ClientTls, origin: Origin<'_>, out: &mut Out) -> Result<Value, TranslateError> {
    let server_name = tls.sni.clone().or_else(|| match &cluster.endpoints {
        Endpoints::Dns(endpoints) => endpoints.first().map(|e| e.address.host.clone()),
        Endpoints::Fixed(_) => None,
    });
    let mut common = json!({});
    match cluster.protocol {
        UpstreamProtocol::H1 => (),
        UpstreamProtocol::H2 => common["alpn_protocols"] = json!(["h2"]),
        UpstreamProtocol::Auto => common["alpn_protocols"] = json!(["h2", "http/1.1"]),
    }
    if let Some(identity) = &tls.identity {
        let name = format!("cluster/{}/identity", cluster.name);
        out.write(origin, &name, &secret::key_pair(&name, identity))?;
        common["tls_certificate_sds_secret_configs"] = json!([secret::reference(&name)]);
    }
    if let (true, Some(ca)) = (tls.verify, &tls.ca) {
        let name = format!("cluster/{}/ca", cluster.name);
        out.write(origin, &name, &secret::authority(&name, ca, server_name.as_deref()))?;
        common["validation_context_sds_secret_config"] = secret::reference(&name);
    } else if tls.verify {
        let mut context = json!({ "trusted_ca": { "filename": SYSTEM_AUTHORITIES } });
        set(&mut context, "match_typed_subject_alt_names", server_name.as_deref().map(secret::subject));
        common["validation_context"] = context;
    }
    let mut context = json!({ "common_tls_context": common });
    set(&mut context, "sni", server_name);
    const MESSAGE: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    Ok(extension("envoy.transport_sockets.tls", MESSAGE, context))
}

/// Whether this cluster picks endpoints by the client's address, as TCP can.
pub(crate) fn hashes_client_ip(model: &Model, name: &str) -> bool {
    let hashed = |c: &&Cluster| c.name == name && c.balance.hash_keys().contains(&cp_model::cluster::HashKey::ClientIp);
    model.clusters.iter().any(|c| hashed(&c))
}
