//! Who may connect, how many and how often: network filters, listener filters and the limit of the process.

use integration_tests::config::{bootstrap, cluster, extension, listener, tcp_proxy};
use integration_tests::eventually::eventually;
use integration_tests::proxy::{Running, start, start_with, try_start};
use integration_tests::tls::Identity;
use integration_tests::upstream::Origin;
use integration_tests::wire::Wire;
use serde_json::{Value, json};

/// An origin that greets and waits.
fn greeter() -> Origin {
    Origin::scripted(|_, wire, _| {
        wire.send("hi");
        wire.rest();
    })
}

/// A listener whose chain has a filter before the TCP proxy.
fn guarded(kind: &str, fields: Value) -> Value {
    let mut listener = listener("main", tcp_proxy("origin", json!({})));
    let tcp = listener["filter_chains"][0]["filters"][0].take();
    listener["filter_chains"][0]["filters"] = json!([extension(kind, fields), tcp]);
    listener
}

fn proxy(listener: Value, origin: &Origin) -> Running {
    start(&bootstrap(vec![listener], vec![cluster("origin", &[origin.address])]))
}

/// A connection that was let in.
#[track_caller]
fn admitted(proxy: &Running) -> Wire {
    let mut wire = proxy.connect();
    assert_eq!(wire.bytes(2), b"hi");
    wire
}

#[test]
fn connections_beyond_the_limit_are_closed_until_one_ends() {
    let origin = greeter();
    let limit = json!({ "stat_prefix": "l", "max_connections": 2 });
    let listener = guarded("filters.network.connection_limit.v3.ConnectionLimit", limit);
    let config = bootstrap(vec![listener], vec![cluster("origin", &[origin.address])]);
    // The count is that of all workers.
    let proxy = start_with(&config, 2);
    let first = admitted(&proxy);
    let _second = admitted(&proxy);
    for _ in 0..4 {
        assert!(proxy.connect().is_closed());
    }
    drop(first);
    eventually("a place is free", || proxy.connect().bytes(2) == b"hi");
}

#[test]
fn a_connection_too_many_is_refused_before_the_tls_handshake() {
    let origin = greeter();
    let identity = Identity::new(&["localhost"]);
    let limit = json!({ "stat_prefix": "l", "max_connections": 1, "delay": "0.05s" });
    let mut listener = guarded("filters.network.connection_limit.v3.ConnectionLimit", limit);
    listener["filter_chains"][0]["transport_socket"] = identity.downstream(&[]);
    let proxy = proxy(listener, &origin);
    // The first is in the middle of its handshake, and counts.
    let mut first = proxy.connect();
    first.send(b"\x16\x03\x01");
    eventually("it counts", || proxy.connect().is_closed());
}

#[test]
fn connections_that_come_too_often_are_closed() {
    let origin = greeter();
    let bucket = json!({ "max_tokens": 2, "fill_interval": "3600s" });
    let limit = json!({ "stat_prefix": "l", "token_bucket": bucket });
    let by_chain = guarded("filters.network.local_ratelimit.v3.LocalRateLimit", limit.clone());
    let mut by_listener = listener("main", tcp_proxy("origin", json!({})));
    by_listener["listener_filters"] =
        json!([extension("filters.listener.local_ratelimit.v3.LocalRateLimit", limit.clone())]);
    for listener in [by_chain, by_listener] {
        let proxy = proxy(listener, &origin);
        let _held = [admitted(&proxy), admitted(&proxy)];
        assert!(proxy.connect().is_closed());
    }
}

#[test]
fn access_control_decides_by_the_address_of_a_client() {
    let origin = greeter();
    let rules = |action: &str, prefix: &str| {
        let principal = json!({ "direct_remote_ip": { "address_prefix": prefix, "prefix_len": 8 } });
        let policy = json!({ "permissions": [{ "any": true }], "principals": [principal] });
        json!({ "stat_prefix": "r", "rules": { "action": action, "policies": { "p": policy } } })
    };
    let check = |action, prefix, expected: bool| {
        let listener = guarded("filters.network.rbac.v3.RBAC", rules(action, prefix));
        let proxy = proxy(listener, &origin);
        assert_eq!(proxy.connect().bytes(2) == b"hi", expected, "{action} {prefix}");
    };
    check("ALLOW", "127.0.0.0", true);
    check("ALLOW", "10.0.0.0", false);
    check("DENY", "127.0.0.0", false);
}

#[test]
fn a_network_filter_cannot_ask_about_requests() {
    let policy =
        json!({ "permissions": [{ "url_path": { "path": { "exact": "/" } } }], "principals": [{ "any": true }] });
    let rules = json!({ "stat_prefix": "r", "rules": { "policies": { "p": policy } } });
    let listener = guarded("filters.network.rbac.v3.RBAC", rules);
    let error = try_start(&bootstrap(vec![listener], vec![]), 1).err().unwrap();
    assert!(error.contains("filters[0].typed_config.rules.policies[p]: asks about a request"), "{error}");
}

#[test]
fn the_process_has_a_limit_of_connections() {
    let origin = greeter();
    let mut unlimited = listener("spare", tcp_proxy("origin", json!({})));
    unlimited["ignore_global_conn_limit"] = true.into();
    let listeners = vec![listener("main", tcp_proxy("origin", json!({}))), unlimited];
    let mut config = bootstrap(listeners, vec![cluster("origin", &[origin.address])]);
    let monitor = extension(
        "resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        json!({ "max_active_downstream_connections": 2 }),
    );
    config["overload_manager"] = json!({ "resource_monitors": [monitor] });
    let proxy = start(&config);
    let first = admitted(&proxy);
    let _second = admitted(&proxy);
    assert!(proxy.connect().is_closed());
    assert_eq!(Wire::connect(proxy.address("spare")).bytes(2), b"hi");
    drop(first);
    eventually("a place is free", || proxy.connect().bytes(2) == b"hi");
}
