//! Listeners: filter chains, the connection manager or the TCP proxy, TLS, and the routes of each http listener.

use cp_model::Model;
use cp_model::listener::{ClientCertificate, Http, Listener, Protocol, ServerTls, TlsVersion};
use serde_json::{Value, json};

use crate::access_log::access_logs;
use crate::build::{ads, duration, extension, set, set_list, socket, typed};
use crate::http_filters::Filters;
use crate::{Audience, Origin, Out, TranslateError, route, secret};

mod accept;
mod connections;
mod udp;

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
    let mut chains = match &listener.protocol {
        Protocol::Http(http) => {
            let (routes, filters) = route::configuration(model, listener, http);
            out.write(origin, &listener.name, &routes)?;
            let api = typed(LISTENER, api_listener(listener));
            out.write_for(Audience::Grpc, origin, &listener.name, &api)?;
            let mut chain = json!({ "filters": [connection_manager(listener, http, &filters)] });
            if let Some(tls) = &http.tls {
                decrypt(&mut chain, server_tls(listener, alpn(http), tls, origin, out)?);
            }
            connections::chains(model, listener, http.idle_timeout, Some(chain))
        }
        Protocol::Tcp(tcp) => {
            let proxy = connections::tcp_proxy(model, listener, &tcp.to, tcp.idle_timeout);
            let mut chain = json!({ "filters": [proxy] });
            if let Some(tls) = &tcp.tls {
                decrypt(&mut chain, server_tls(listener, Vec::new(), tls, origin, out)?);
            }
            vec![chain]
        }
        Protocol::TlsPassthrough { idle_timeout } => connections::chains(model, listener, *idle_timeout, None),
        Protocol::Udp { to, idle_timeout, per_packet } => {
            body["address"]["socket_address"]["protocol"] = "UDP".into();
            body["udp_listener_config"] = json!({});
            body["listener_filters"] = json!([udp::proxy(model, listener, to, *idle_timeout, *per_packet)]);
            Vec::new()
        }
    };
    let inspects = matches!(listener.protocol, Protocol::TlsPassthrough { .. })
        || chains.iter().any(|chain| chain.get("filter_chain_match").is_some());
    if !matches!(listener.protocol, Protocol::Udp { .. }) {
        set_list(&mut body, "listener_filters", accept::listener_filters(listener, inspects));
    }
    let before = accept::network_filters(listener);
    for chain in &mut chains {
        if let Some(filters) = chain["filters"].as_array_mut() {
            filters.splice(0..0, before.iter().cloned());
        }
    }
    set_list(&mut body, "filter_chains", chains);
    out.write_for(Audience::Proxies, origin, &listener.name, &typed(LISTENER, body))
}

fn alpn(http: &Http) -> Vec<&'static str> {
    [(http.h2, "h2"), (http.h1, "http/1.1")].iter().filter(|(on, _)| *on).map(|(_, p)| *p).collect()
}

fn decrypt(chain: &mut Value, transport_socket: Value) {
    chain["transport_socket"] = transport_socket;
    chain["transport_socket_connect_timeout"] = "10s".into();
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
    let mut common = json!({});
    set(&mut common, "max_connection_duration", listener.accept.max_age.map(duration));
    set(&mut common, "max_requests_per_connection", listener.accept.max_requests);
    set(&mut manager, "common_http_protocol_options", (common != json!({})).then_some(common));
    set_list(&mut manager, "access_log", access_logs(listener.access_log.as_ref()));
    extension("envoy.filters.network.http_connection_manager", HCM, manager)
}

fn server_tls(
    listener: &Listener,
    alpn: Vec<&str>,
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
    let mut common = json!({
        "tls_params": { "tls_minimum_protocol_version": min },
        "tls_certificate_sds_secret_configs": references,
    });
    set_list(&mut common, "alpn_protocols", alpn.into_iter().map(Value::from).collect());
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
