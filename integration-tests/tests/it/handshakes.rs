//! What is counted of connections before their first request: TLS from either side, listener filters, connecting.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use integration_tests::config::{bootstrap, cluster, extension, hcm, listener, merge, simple, to, with_admin};
use integration_tests::eventually::eventually;
use integration_tests::proxy::{Running, start};
use integration_tests::tls::Identity;
use integration_tests::upstream::{Origin, nowhere};
use integration_tests::wire::Wire;
use serde_json::{Value, json};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

#[track_caller]
fn counted(proxy: &Running, name: &str, expected: u64) {
    eventually(name, || proxy.stat(name) == expected);
}

#[test]
fn handshakes_of_clients_are_counted_by_how_they_went() {
    let (ours, stranger) = (Identity::new(&["localhost"]), Identity::new(&["stranger"]));
    let mut socket = ours.downstream(&[]);
    let context = &mut socket["typed_config"];
    context["require_client_certificate"] = json!(true);
    context["common_tls_context"]["validation_context"] =
        json!({ "trusted_ca": { "inline_string": ours.certificate_pem() } });
    let mut main = listener("main", hcm(json!([{ "match": { "prefix": "/" }, "direct_response": { "status": 200 } }])));
    main["filter_chains"][0]["transport_socket"] = socket;
    let proxy = start(&with_admin(bootstrap(vec![main], vec![])));
    let address = proxy.address("main");
    let prefix = "listener.127.0.0.1_0.ssl.";
    let ask = |config: Arc<rustls::ClientConfig>| {
        let connection = rustls::ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, TcpStream::connect(address).unwrap());
        let mut answer = Vec::new();
        // Those that are refused learn it here or there.
        let sent = stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        sent.and_then(|()| stream.read_to_end(&mut answer)).is_ok() && answer.starts_with(b"HTTP/1.1 200")
    };
    let known = ours.client_with_certificate();
    assert!(ask(Arc::clone(&known)));
    counted(&proxy, &format!("{prefix}handshake"), 1);
    assert_eq!(proxy.stat(&format!("{prefix}session_reused")), 0);
    assert!(ask(known), "by the ticket of the first");
    counted(&proxy, &format!("{prefix}session_reused"), 1);
    assert!(!ask(ours.client(&[])));
    counted(&proxy, &format!("{prefix}fail_verify_no_cert"), 1);
    assert!(!ask(stranger.client_of(&ours)));
    counted(&proxy, &format!("{prefix}fail_verify_error"), 1);
    Wire::connect(address).send("this is no ClientHello").rest();
    counted(&proxy, &format!("{prefix}connection_error"), 1);
    assert_eq!(proxy.stat(&format!("{prefix}handshake")), 2);
}

#[test]
fn handshakes_with_origins_are_counted_by_how_they_went() {
    let identity = Identity::new(&["localhost"]);
    let config = identity.server(&[]);
    let origin = Origin::scripted(move |_, wire, _| {
        let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, wire.socket().try_clone().unwrap());
        let mut head = [0; 4096];
        // A client that refuses the certificate sends nothing.
        if stream.read(&mut head).is_ok_and(|length| length > 0) {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
            let _ = stream.read(&mut head);
        }
    });
    let over_tls = |name: &str, who: &Identity, validation: &Value| {
        let mut cluster = cluster(name, &[origin.address]);
        cluster["transport_socket"] = who.upstream();
        merge(
            &mut cluster["transport_socket"]["typed_config"]["common_tls_context"]["validation_context"],
            validation.clone(),
        );
        cluster
    };
    let names = json!({ "match_typed_subject_alt_names": [{ "san_type": "DNS", "matcher": { "exact": "other" } }] });
    let hash = json!({ "verify_certificate_hash": ["00".repeat(32)] });
    let clusters = vec![
        over_tls("good", &identity, &json!({})),
        over_tls("stranger", &Identity::new(&["localhost"]), &json!({})),
        over_tls("name", &identity, &names),
        over_tls("hash", &identity, &hash),
    ];
    let route = |name: &str| json!({ "match": { "path": format!("/{name}") }, "route": { "cluster": name } });
    let routes = json!([route("good"), route("stranger"), route("name"), route("hash")]);
    let proxy = start(&with_admin(bootstrap(vec![listener("main", hcm(routes))], clusters)));
    for (name, status, counter) in [
        ("good", 200, "handshake"),
        ("stranger", 503, "fail_verify_error"),
        ("name", 503, "fail_verify_san"),
        ("hash", 503, "fail_verify_cert_hash"),
    ] {
        let answer = proxy.connect().ask(format!("GET /{name} HTTP/1.1\r\nhost: a\r\n\r\n"));
        assert_eq!(answer.status(), status, "{name}: {}", answer.text());
        counted(&proxy, &format!("cluster.{name}.ssl.{counter}"), 1);
        let failed = u64::from(status != 200);
        counted(&proxy, &format!("cluster.{name}.upstream_rq_pending_failure_eject"), failed);
    }
}

#[test]
fn a_plain_connection_goes_where_its_version_of_http_says() {
    let chain = |criteria: Value, body: &str| {
        let routes = json!([{ "match": { "prefix": "/" }, "direct_response": { "status": 200, "body": { "inline_string": body } } }]);
        json!({ "filter_chain_match": criteria, "filters": [{ "name": "http", "typed_config": hcm(routes) }] })
    };
    let mut main = listener("main", hcm(json!([])));
    let no_tls = extension("filters.listener.tls_inspector.v3.TlsInspector", json!({}));
    main["listener_filters"] =
        json!([no_tls, extension("filters.listener.http_inspector.v3.HttpInspector", json!({}))]);
    main["filter_chains"] = json!([
        chain(json!({ "application_protocols": ["h2c"] }), "two"),
        chain(json!({ "application_protocols": ["http/1.1"] }), "one"),
    ]);
    let proxy = start(&with_admin(bootstrap(vec![main], vec![])));
    assert_eq!(proxy.connect().ask(GET).text(), "one");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let two = runtime.block_on(async {
        let client = integration_tests::client::Client::connect(proxy.address("main")).await;
        client.get("/").await.unwrap()
    });
    assert_eq!(two.body, b"two");
    assert!(proxy.connect().send("EHLO mail\r\n").is_closed());
    proxy.connect().send("GE").finish_sending();
    for (name, expected) in [("http11_found", 1), ("http2_found", 1), ("http_not_found", 1)] {
        counted(&proxy, &format!("http_inspector.{name}"), expected);
    }
    counted(&proxy, "listener.127.0.0.1_0.no_filter_chain_match", 1);
    counted(&proxy, "listener.127.0.0.1_0.downstream_listener_filter_remote_close", 1);
}

#[test]
fn failures_of_origins_are_counted_by_their_kind() {
    let origin = Origin::scripted(|_, wire, _| {
        wire.head();
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n");
        wire.rest();
    });
    let mut far = cluster("far", &[origin.address]);
    // An address for documentation, which no machine has (RFC 5737).
    far["upstream_bind_config"] = json!({ "source_address": { "address": "192.0.2.1", "port_value": 0 } });
    let routes = json!([
        { "match": { "path": "/far" }, "route": { "cluster": "far" } },
        { "match": { "path": "/none" }, "route": { "cluster": "none" } },
        { "match": { "prefix": "/" }, "route": { "cluster": "origin" } },
    ]);
    let clusters = vec![cluster("origin", &[origin.address]), far, cluster("none", &[nowhere()])];
    let proxy = start(&with_admin(bootstrap(vec![listener("main", hcm(routes))], clusters)));
    for (path, status, counter) in [
        ("/", 502, "cluster.origin.upstream_cx_protocol_error"),
        ("/far", 503, "cluster.far.bind_errors"),
        ("/none", 503, "cluster.none.upstream_rq_pending_failure_eject"),
    ] {
        let answer = proxy.connect().ask(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n"));
        assert_eq!(answer.status(), status, "{path}: {}", answer.text());
        counted(&proxy, counter, 1);
    }
}

#[test]
fn a_stream_that_takes_longer_than_its_route_allows_is_counted() {
    let silent = Origin::scripted(|_, wire, _| {
        wire.rest();
    });
    let routes = to("origin", json!({ "max_stream_duration": { "max_stream_duration": "0.1s" } }));
    let proxy = start(&with_admin(simple(hcm(routes), silent.address)));
    let answer = proxy.connect().ask(GET);
    assert_eq!((answer.status(), answer.text()), (504, "downstream duration timeout".into()));
    counted(&proxy, "http.it.downstream_rq_max_duration_reached", 1);
}
