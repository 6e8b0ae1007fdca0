//! What happens to a connection before its filter chain: who may connect, how many, how fast, and the PROXY header.

use cp_model::listener::accept::ConnectionRate;
use cp_model::listener::{Listener, ProxyHeader};
use serde_json::{Value, json};

use crate::build::{duration, extension, network, set, set_list};

/// In the order a connection meets them.
pub(super) fn listener_filters(listener: &Listener, inspects: bool) -> Vec<Value> {
    let accept = &listener.accept;
    let mut out = Vec::new();
    out.extend(accept.rate.map(|rate| rate_limit(listener, rate)));
    out.extend(accept.proxy_header.as_ref().map(proxy_protocol));
    if accept.original_dst {
        out.push(extension(
            "envoy.filters.listener.original_dst",
            "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
            json!({}),
        ));
    }
    if inspects {
        out.push(extension(
            "envoy.filters.listener.tls_inspector",
            "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
            json!({}),
        ));
    }
    out
}

/// Those that stand before the one that takes the connection.
pub(super) fn network_filters(listener: &Listener) -> Vec<Value> {
    let accept = &listener.accept;
    let mut out = Vec::new();
    if let Some(header) = accept.proxy_header.as_ref().filter(|header| !header.from.is_empty()) {
        out.push(trusted_only(listener, header));
    }
    if let Some(most) = accept.max_connections {
        out.push(extension(
            "envoy.filters.network.connection_limit",
            "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit",
            json!({ "stat_prefix": listener.name, "max_connections": most }),
        ));
    }
    out
}

fn rate_limit(listener: &Listener, limit: ConnectionRate) -> Value {
    let bucket = json!({
        "max_tokens": limit.burst.unwrap_or(limit.rate.count),
        "tokens_per_fill": limit.rate.count,
        "fill_interval": duration(limit.rate.per),
    });
    extension(
        "envoy.filters.listener.local_ratelimit",
        "envoy.extensions.filters.listener.local_ratelimit.v3.LocalRateLimit",
        json!({ "stat_prefix": listener.name, "token_bucket": bucket }),
    )
}

fn proxy_protocol(header: &ProxyHeader) -> Value {
    let mut value = json!({});
    set(&mut value, "allow_requests_without_proxy_protocol", header.optional.then_some(true));
    let off = [(header.v1, "V1"), (header.v2, "V2")];
    let off = off.iter().filter(|(on, _)| !*on).map(|(_, version)| (*version).into()).collect();
    set_list(&mut value, "disallowed_versions", off);
    set(&mut value, "pass_through_tlvs", header.keep_tlvs.then(|| json!({ "match_type": "INCLUDE_ALL" })));
    extension(
        "envoy.filters.listener.proxy_protocol",
        "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
        value,
    )
}

/// Who says in a header who the client is must be one of these: the other end of the connection itself, whatever it says.
fn trusted_only(listener: &Listener, header: &ProxyHeader) -> Value {
    let principals: Vec<Value> = header.from.iter().map(|n| json!({ "direct_remote_ip": network(n) })).collect();
    let policy = json!({ "permissions": [{ "any": true }], "principals": principals });
    extension(
        "envoy.filters.network.rbac",
        "envoy.extensions.filters.network.rbac.v3.RBAC",
        json!({ "stat_prefix": listener.name, "rules": { "action": "ALLOW", "policies": { "proxy_protocol": policy } } }),
    )
}
