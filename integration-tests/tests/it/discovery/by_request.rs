//! Clusters that leave it to the request where it goes: original destinations and forwarded hosts.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use integration_tests::config::with_admin;
use integration_tests::tls::Identity;
use integration_tests::upstream::nowhere;

use super::*;

const HEADER: &str = "x-envoy-original-dst-host";

fn original(config: Value) -> Value {
    let mut cluster = json!({
        "name": "original",
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "5s",
        "cleanup_interval": "0.1s",
    });
    merge(&mut cluster, config);
    cluster
}

/// The filter chain of a listener, behind listener filters.
fn behind(filters: &[&str], network: Value) -> Value {
    let mut listener = listener("main", network);
    let filter =
        |name: &&str| json!({ "name": name, "typed_config": { "@type": format!("type.googleapis.com/{name}") } });
    listener["listener_filters"] = filters.iter().map(filter).collect();
    listener
}

const PROXY: &str = "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol";
const ORIGINAL: &str = "envoy.extensions.filters.listener.original_dst.v3.OriginalDst";

/// A client whose PROXY header says that it connected to `origin`.
fn redirected(proxy: &Running, origin: SocketAddr) -> Wire {
    let mut client = proxy.connect();
    client.send(format!("PROXY TCP4 127.0.0.1 {} 4000 {}\r\n", origin.ip(), origin.port()));
    client
}

fn members(proxy: &Running, cluster: &str) -> u64 {
    proxy.proxy.snapshot().cluster(cluster).unwrap().state.stats.membership_total().value()
}

#[test]
fn a_connection_goes_where_the_client_wanted_it() {
    let (a, b) = (Origin::text("a"), Origin::text("b"));
    let config = bootstrap(vec![behind(&[PROXY], hcm(to("original", json!({}))))], vec![original(json!({}))]);
    let proxy = start(&config);
    for (origin, text) in [(&a, "a"), (&b, "b"), (&a, "a")] {
        assert_eq!(redirected(&proxy, origin.address).ask(GET).text(), text);
    }
    assert_eq!(a.connections(), 1, "endpoints keep their pools");
    assert_eq!(redirected(&proxy, nowhere()).ask(GET).status(), 503);
    eventually("the endpoint without connections is forgotten", || members(&proxy, "original") == 2);
}

#[test]
fn bytes_go_where_the_client_wanted_them() {
    let origin = Origin::scripted(|_, wire, _| {
        let line = wire.line().unwrap();
        wire.send(format!("got {line}\r\n"));
    });
    let tcp = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "tcp",
        "cluster": "original",
    });
    let proxy = start(&bootstrap(vec![behind(&[PROXY], tcp)], vec![original(json!({}))]));
    let mut client = redirected(&proxy, origin.address);
    client.send("hello\r\n");
    assert_eq!(client.line().unwrap(), "got hello");
}

#[test]
fn a_header_chooses_the_destination_only_where_that_is_configured() {
    let a = Origin::text("a");
    let ask = |config: Value, header: &str| {
        let routes = hcm(to("original", json!({})));
        let proxy = start(&bootstrap(vec![behind(&[ORIGINAL], routes)], vec![original(config)]));
        let reply = proxy.connect().ask(format!("GET / HTTP/1.1\r\nhost: a\r\n{HEADER}: {header}\r\n\r\n"));
        let snapshot = proxy.proxy.snapshot();
        let stats = &snapshot.cluster("original").unwrap().state.stats;
        (reply.status(), reply.text(), stats.original_dst_host_invalid().value())
    };
    let by_header = |more: Value| {
        let mut config = json!({ "use_http_header": true });
        merge(&mut config, more);
        json!({ "original_dst_lb_config": config })
    };
    let address = a.address.to_string();
    assert_eq!(ask(by_header(json!({})), &address), (200, "a".to_owned(), 0));
    assert_eq!(ask(json!({}), &address).0, 503, "nobody asked for the header");
    let (status, _, invalid) = ask(by_header(json!({})), "not an address");
    assert_eq!((status, invalid), (503, 1));
    let port = json!({ "upstream_port_override": a.address.port() });
    assert_eq!(ask(by_header(port), "127.0.0.1:1").0, 200);
}

// === dynamic forward proxy ===

fn cache(server: &NameServer) -> Value {
    json!({
        "name": "names",
        "dns_min_refresh_rate": "1s",
        "dns_lookup_family": "V4_ONLY",
        "dns_refresh_rate": "0.02s",
        "typed_dns_resolver_config": server.resolver(),
    })
}

/// A proxy that forwards requests to the hosts they name; `/fixed` to another.
fn forwarding(server: &NameServer, fixed: &str) -> Value {
    let filter = "envoy.filters.http.dynamic_forward_proxy";
    let package = "type.googleapis.com/envoy.extensions.filters.http.dynamic_forward_proxy.v3";
    let mut hcm = hcm(json!([
        {
            "match": { "path": "/fixed" },
            "route": { "cluster": "forward" },
            "typed_per_filter_config": {
                filter: { "@type": format!("{package}.PerRouteConfig"), "host_rewrite_literal": fixed },
            },
        },
        { "match": { "prefix": "/" }, "route": { "cluster": "forward" } },
    ]));
    let config = json!({ "@type": format!("{package}.FilterConfig"), "dns_cache_config": cache(server) });
    hcm["http_filters"].as_array_mut().unwrap().insert(0, json!({ "name": filter, "typed_config": config }));
    let kind = "type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig";
    let cluster = by_extension("forward", json!({ "@type": kind, "dns_cache_config": cache(server) }));
    bootstrap(vec![listener("main", hcm)], vec![cluster])
}

fn get(proxy: &Running, path: &str, host: &str) -> Message {
    proxy.connect().ask(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n"))
}

#[test]
fn a_request_goes_to_the_host_that_it_names() {
    let (a, b) = (Origin::text("a"), Origin::text("b"));
    let server = NameServer::start();
    server.set("a.test", &[[127, 0, 0, 1]]);
    let proxy = start(&forwarding(&server, &b.address.to_string()));
    let host = format!("A.test:{}", a.address.port());
    for _ in 0..3 {
        assert_eq!(get(&proxy, "/", &host).text(), "a");
    }
    assert_eq!(a.connections(), 1, "a host keeps its pool");
    assert_eq!(a.last().header("host"), Some(&*host));
    assert_eq!(get(&proxy, "/", &b.address.to_string()).text(), "b");
    assert_eq!(get(&proxy, "/fixed", &host).text(), "b");
    eventually("both hosts are members", || members(&proxy, "forward") == 2);
}

#[test]
fn a_host_that_does_not_resolve_is_answered_and_found_later() {
    let a = Origin::text("a");
    let server = NameServer::start();
    let proxy = start(&forwarding(&server, "unused"));
    let host = format!("a.test:{}", a.address.port());
    let refused = get(&proxy, "/", &host);
    assert_eq!((refused.status(), refused.text().as_str()), (503, "DNS resolution failure"));
    server.set("a.test", &[[127, 0, 0, 1]]);
    eventually("the name resolves", || get(&proxy, "/", &host).text() == "a");
    server.fail(true);
    after_more_questions(&server);
    assert_eq!(get(&proxy, "/", &host).text(), "a", "an address that was found stays");
}

/// An origin that answers over TLS as who has `identity`, and the names that it was asked for.
fn tls_origin(identity: &Identity) -> (Origin, Arc<Mutex<Vec<String>>>) {
    let (config, asked) = (identity.server(&[]), Arc::new(Mutex::new(Vec::new())));
    let names = Arc::clone(&asked);
    let origin = Origin::scripted(move |_, wire, _| {
        let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, wire.socket().try_clone().unwrap());
        let mut head = [0; 4096];
        // A client that refuses the certificate sends nothing.
        while stream.read(&mut head).is_ok_and(|length| length > 0) {
            names.lock().unwrap().push(stream.conn.server_name().unwrap_or_default().to_owned());
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
        }
    });
    (origin, asked)
}

#[test]
fn a_forwarded_host_is_asked_for_by_tls_and_has_to_be_it() {
    let identity = Identity::new(&["a.test", "b.test"]);
    let (origin, asked) = tls_origin(&identity);
    let server = NameServer::start();
    for name in ["a.test", "b.test", "other.test"] {
        server.set(name, &[[127, 0, 0, 1]]);
    }
    let options = |fields: Value| {
        let kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        json!({ kind: {
            "@type": format!("type.googleapis.com/{kind}"),
            "explicit_http_config": { "http_protocol_options": {} },
            "upstream_http_protocol_options": fields,
        } })
    };
    // Both are the default.
    for said in [json!({}), options(json!({ "auto_sni": true, "auto_san_validation": true }))] {
        let mut config = with_admin(forwarding(&server, "unused"));
        let cluster = &mut config["static_resources"]["clusters"][0];
        cluster["transport_socket"] = identity.upstream();
        cluster["transport_socket"]["typed_config"].as_object_mut().unwrap().remove("sni");
        cluster["typed_extension_protocol_options"] = said;
        let proxy = start(&config);
        let port = origin.address.port();
        for name in ["a.test", "b.test", "A.test"] {
            assert_eq!(get(&proxy, "/", &format!("{name}:{port}")).status(), 200, "{name}");
        }
        assert_eq!(std::mem::take(&mut *asked.lock().unwrap()), ["a.test", "b.test", "a.test"]);
        let refused = get(&proxy, "/", &format!("other.test:{port}"));
        assert_eq!(refused.status(), 503, "{}", refused.text());
        eventually("the name is not in the certificate", || proxy.stat("cluster.forward.ssl.fail_verify_san") == 1);
        assert_eq!(*asked.lock().unwrap(), [""; 0]);
    }
    let mut unsafe_one = forwarding(&server, "unused");
    let cluster = &mut unsafe_one["static_resources"]["clusters"][0];
    cluster["transport_socket"] = identity.upstream();
    cluster["typed_extension_protocol_options"] = options(json!({ "auto_sni": true }));
    let refused = try_start(&unsafe_one, 1).err().unwrap();
    assert!(refused.contains("needs auto_sni and auto_san_validation"), "{refused}");
}

#[test]
fn filter_and_cluster_must_agree_on_the_cache() {
    let server = NameServer::start();
    let mut config = forwarding(&server, "unused");
    config["static_resources"]["clusters"][0]["cluster_type"]["typed_config"]["dns_cache_config"]["max_hosts"] =
        json!(7);
    let refused = try_start(&config, 1).err().unwrap();
    assert!(refused.contains("the DNS cache \"names\" is in use with other settings"), "{refused}");
}
