//! The pieces of a bootstrap as JSON values, which tests change as they like.

use std::net::SocketAddr;

use serde_json::{Value, json};

/// A static cluster with these endpoints.
pub fn cluster(name: &str, endpoints: &[SocketAddr]) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": assignment(name, endpoints),
    })
}

pub fn assignment(name: &str, endpoints: &[SocketAddr]) -> Value {
    let endpoints: Vec<Value> =
        endpoints.iter().map(|address| json!({ "endpoint": { "address": socket(*address) } })).collect();
    json!({ "cluster_name": name, "endpoints": [{ "lb_endpoints": endpoints }] })
}

pub fn socket(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}

/// Speaks HTTP/2 to a cluster, with prior knowledge unless it has TLS.
pub fn http2(mut cluster: Value) -> Value {
    cluster["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http2_protocol_options": {} },
        },
    });
    cluster
}

/// A connection manager with one virtual host that takes these routes.
pub fn hcm(routes: Value) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "it",
        "route_config": { "name": "r", "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": routes }] },
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
        }],
    })
}

/// A route for everything, to one cluster; `more` are further fields of the action.
pub fn to(cluster: &str, more: Value) -> Value {
    let mut action = json!({ "cluster": cluster });
    merge(&mut action, more);
    json!([{ "match": { "prefix": "/" }, "route": action }])
}

/// A TCP proxy to a cluster; `more` are further fields.
pub fn tcp_proxy(cluster: &str, more: Value) -> Value {
    let mut proxy = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "tcp",
        "cluster": cluster,
    });
    merge(&mut proxy, more);
    proxy
}

/// A filter, an extension or a transport socket: `kind` is its message below `envoy.extensions`.
pub fn extension(kind: &str, mut fields: Value) -> Value {
    fields["@type"] = format!("type.googleapis.com/envoy.extensions.{kind}").into();
    json!({ "name": kind, "typed_config": fields })
}

/// A listener on a free port with one filter chain of one network filter.
pub fn listener(name: &str, network: Value) -> Value {
    json!({
        "name": name,
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } },
        "filter_chains": [{ "filters": [{ "name": "network", "typed_config": network }] }],
    })
}

pub fn bootstrap(listeners: Vec<Value>, clusters: Vec<Value>) -> Value {
    json!({
        "node": { "id": "it", "cluster": "it" },
        "static_resources": { "listeners": listeners, "clusters": clusters },
    })
}

/// Adds an admin server on a free port.
pub fn with_admin(mut bootstrap: Value) -> Value {
    bootstrap["admin"] = json!({ "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } } });
    bootstrap
}

/// The listener `main` in front of the cluster `origin`.
pub fn simple(hcm: Value, origin: SocketAddr) -> Value {
    bootstrap(vec![listener("main", hcm)], vec![cluster("origin", &[origin])])
}

/// An access log of one line a request in a file.
pub fn access_log(path: &std::path::Path, format: &str) -> Value {
    json!([{
        "name": "file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": { "text_format_source": { "inline_string": format!("{format}\n") } },
        },
    }])
}

/// Puts the fields of `more` into `into`.
pub fn merge(into: &mut Value, more: Value) {
    if let (Some(into), Value::Object(more)) = (into.as_object_mut(), more) {
        into.extend(more);
    }
}
