//! Listeners: filter chains, the connection manager or the TCP proxy, TLS, and the routes of each http listener.

use cp_model::Model;
use cp_model::listener::{ClientCertificate, Http, Listener, Protocol, ServerTls, TlsVersion};
use cp_model::route::{Action, Destination, Host};
use serde_json::{Value, json};

use crate::access_log::access_logs;
use crate::build::{ads, duration, extension, set, set_list, socket, typed};
use crate::http_filters::Filters;
use crate::{Audience, Origin, Out, TranslateError, cluster, route, secret};

const LISTENER: &str = "envoy.config.listener.v3.Listener";
const HCM: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
/// Larger heads are answered with 431.
const MAX_HEADER_KIB: u64 = 64;

pub(crate) fn listener(
    model: &Model,
    listener: &Listener,
    origin: Origin<'_>,
    out: &mut Out,
) -> Result<(), TranslateError> {
    let mut body = json!({ "name": listener.name, "address": socket(listener.address) });
    let chains = match &listener.protocol {
        Protocol::Http(http) => {
            let (routes, filters) = route::configuration(model, listener, http);
            out.write(origin, &listener.name, &routes)?;
            let api = typed(LISTENER, api_listener(listener));
            out.write_for(Audience::Grpc, origin, &listener.name, &api)?;
            let mut chain = json!({ "filters": [connection_manager(listener, http, &filters)] });
            if let Some(tls) = &http.tls {
                chain["transport_socket"] = server_tls(listener, http, tls, origin, out)?;
                chain["transport_socket_connect_timeout"] = "10s".into();
            }
            vec![chain]
        }
        Protocol::Tcp { to, idle_timeout } => {
            vec![json!({ "filters": [tcp_proxy(model, listener, to, *idle_timeout)] })]
        }
        Protocol::TlsPassthrough { idle_timeout } => {
            body["listener_filters"] = json!([extension(
                "envoy.filters.listener.tls_inspector",
                "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
                json!({})
            )]);
            passthrough(model, listener, *idle_timeout)
        }
    };
    set_list(&mut body, "filter_chains", chains);
    out.write_for(Audience::Proxies, origin, &listener.name, &typed(LISTENER, body))
}

/// The listener as a gRPC program sees it: a name it dials (`xds:///name`), and the routes behind it.
fn api_listener(listener: &Listener) -> Value {
    let router = extension("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router", json!({}));
    let manager = json!({
        "stat_prefix": listener.name,
        "rds": { "config_source": ads(), "route_config_name": listener.name },
        "http_filters": [router],
    });
    json!({ "name": listener.name, "api_listener": { "api_listener": typed(HCM, manager) } })
}

fn connection_manager(listener: &Listener, http: &Http, filters: &Filters) -> Value {
    let codec = match (http.h1, http.h2) {
        (true, false) => "HTTP1",
        (false, true) => "HTTP2",
        _ => "AUTO",
    };
    let header_kib = http.max_header_size.map_or(MAX_HEADER_KIB, |bytes| bytes.div_ceil(1024));
    let mut manager = json!({
        "stat_prefix": listener.name,
        "codec_type": codec,
        "rds": { "config_source": ads(), "route_config_name": listener.name },
        "http_filters": filters.chain(),
        "use_remote_address": true,
        "normalize_path": true,
        "merge_slashes": true,
        "max_request_headers_kb": header_kib,
        "request_headers_timeout": "10s",
    });
    set(&mut manager, "xff_num_trusted_hops", (http.trusted_hops > 0).then_some(http.trusted_hops));
    set(&mut manager, "stream_idle_timeout", http.idle_timeout.map(duration));
    set(&mut manager, "request_timeout", http.request_timeout.map(duration));
    set(&mut manager, "upgrade_configs", http.websocket.then(|| json!([{ "upgrade_type": "websocket" }])));
    set_list(&mut manager, "access_log", access_logs(listener.access_log.as_ref()));
    extension("envoy.filters.network.http_connection_manager", HCM, manager)
}

fn server_tls(
    listener: &Listener,
    http: &Http,
    tls: &ServerTls,
    origin: Origin<'_>,
    out: &mut Out,
) -> Result<Value, TranslateError> {
    let mut references = Vec::new();
    for (i, pair) in tls.certificates.iter().enumerate() {
        let name = format!("listener/{}/{i}", listener.name);
        out.write(origin, &name, &secret::key_pair(&name, pair))?;
        references.push(secret::reference(&name));
    }
    let min = match tls.min_version {
        TlsVersion::V1_2 => "TLSv1_2",
        TlsVersion::V1_3 => "TLSv1_3",
    };
    let alpn: Vec<&str> =
        [(http.h2, "h2"), (http.h1, "http/1.1")].iter().filter(|(on, _)| *on).map(|(_, p)| *p).collect();
    let mut common = json!({
        "tls_params": { "tls_minimum_protocol_version": min },
        "tls_certificate_sds_secret_configs": references,
        "alpn_protocols": alpn,
    });
    let mut context = json!({});
    if let Some(ca) = &tls.client_ca {
        let name = format!("listener/{}/client_ca", listener.name);
        out.write(origin, &name, &secret::authority(&name, ca, None))?;
        common["validation_context_sds_secret_config"] = secret::reference(&name);
        context["require_client_certificate"] = (tls.client_certificate == ClientCertificate::Required).into();
    }
    context["common_tls_context"] = common;
    const MESSAGE: &str = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
    Ok(extension("envoy.transport_sockets.tls", MESSAGE, context))
}

fn tcp_proxy(model: &Model, listener: &Listener, to: &Destination, idle_timeout: Option<std::time::Duration>) -> Value {
    let mut proxy = json!({ "stat_prefix": listener.name });
    match &to.0[..] {
        [(cluster, _)] => proxy["cluster"] = cluster.as_str().into(),
        several => {
            let clusters: Vec<Value> = several
                .iter()
                .filter(|(_, weight)| *weight > 0)
                .map(|(name, weight)| json!({ "name": name, "weight": weight }))
                .collect();
            proxy["weighted_clusters"] = json!({ "clusters": clusters });
        }
    }
    let hashed = to.0.iter().any(|(name, _)| cluster::hashes_client_ip(model, name));
    set(&mut proxy, "hash_policy", hashed.then(|| json!([{ "source_ip": {} }])));
    set(&mut proxy, "idle_timeout", idle_timeout.map(duration));
    set_list(&mut proxy, "access_log", access_logs(listener.access_log.as_ref()));
    extension("envoy.filters.network.tcp_proxy", "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", proxy)
}

/// One filter chain a server name; the first route that names it wins.
fn passthrough(model: &Model, listener: &Listener, idle_timeout: Option<std::time::Duration>) -> Vec<Value> {
    let mut taken: Vec<Host> = Vec::new();
    let mut chains = Vec::new();
    for route in model.routes.iter().filter(|r| r.on.contains(&listener.name)) {
        let Action::Forward(forward) = &route.action else { continue };
        let hosts = match route.matching.sni.is_empty() {
            true => vec![Host::Any],
            false => route.matching.sni.clone(),
        };
        // A name that came first, or a wider one, hides this one.
        let open: Vec<Host> = hosts.into_iter().filter(|h| !taken.iter().any(|t| t.covers(h))).collect();
        let names: Vec<String> = open.iter().filter(|h| **h != Host::Any).map(Host::domain).collect();
        let filters = json!([tcp_proxy(model, listener, &forward.to, idle_timeout)]);
        if !names.is_empty() {
            let server_names = json!({ "server_names": names });
            chains.push(json!({ "name": route.name, "filter_chain_match": server_names, "filters": filters.clone() }));
        }
        if open.contains(&Host::Any) {
            chains.push(json!({ "name": format!("{} (any)", route.name), "filters": filters }));
        }
        taken.extend(open);
    }
    chains
}
