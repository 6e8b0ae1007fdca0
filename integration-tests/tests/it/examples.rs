//! The example configurations of `testdata/envoy`, served: each does what its file is about.
//!
//! Ports are replaced: 10000 is the listener, 9901 the admin server, 8080 to 8088 origins that say their port and what
//! they saw, 8089 a management server, 8443 an origin within TLS that says which name it was asked for.

mod harness;

use std::io::{Read, Write};
use std::time::Duration;

use bytes::Bytes;
use cp_xds::{Class, Fleet, Publisher, Settings, XdsServer};
use http::Method;
use integration_tests::client::{self, Client, push, soon};
use integration_tests::eventually::eventually;
use integration_tests::upstream::{Origin, reply};
use integration_tests::wire::Wire;
use proto::envoy::service::discovery::v3::DiscoveryResponse;

use harness::{Example, all, get, get_with, text};

const WEBSOCKET: &str = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// One request to an example: its status, and what the answer or the origin's account of the request holds.
#[track_caller]
fn check(name: &str, request: impl AsRef<[u8]>, status: u16, holds: &str) {
    let answer = Example::start(name).connect().ask(request);
    assert_eq!(answer.status(), status, "{name}: {answer:?}");
    assert!(text(&answer).contains(holds), "{name}: {holds:?} is not in {answer:?}");
}

#[test]
fn requests_are_proxied() {
    for name in ["service", "rbac", "load-balancing-policies"] {
        check(name, get("/x"), 200, "GET /x");
    }
    check("double-proxy", get("/"), 200, "host: flask.test");
}

#[test]
fn routes_choose_rewrite_and_redirect() {
    check("route-headers", get_with("/", "x-tier: gold"), 200, "8081 GET /");
    check("route-headers", get("/app/x?debug=1"), 200, "8081 GET /app/x?debug=1");
    check("route-headers", get("/plain"), 200, "x-added: /plain");
    check("route-redirect", get("/old"), 302, "location: http://a/new");
    check("route-redirect", get("/secure/x"), 301, "location: https://a/secure/x");
    check("route-redirect", get("/user/7"), 200, "8080 GET /by-id/7");
    check("route-redirect", get("/else"), 418, "teapot");
    check("admin-interface", get("/other"), 403, "");
    check("admin-interface", get("/stats"), 200, "cluster.admin.");
}

#[test]
fn weights_share_requests_out() {
    let example = Example::start("route-weighted");
    let mut client = example.connect();
    let hits = (0..100).filter(|_| client.ask(get("/")).text().starts_with("8081")).count();
    assert!((20..80).contains(&hits), "{hits} of 100");
}

#[test]
fn policies_balance() {
    let example = Example::start("load-balancing-policies");
    let mut client = example.connect();
    let mut ports = |path: &str, header: &str| {
        let mut seen: Vec<_> = (0..20).map(|_| client.ask(get_with(path, header)).text()[..4].to_owned()).collect();
        seen.sort();
        seen.dedup();
        seen.len()
    };
    for path in ["/ring", "/maglev"] {
        assert_eq!(ports(path, "x-user: one"), 1, "{path}");
    }
    for path in ["/least", "/random", "/"] {
        assert_eq!(ports(path, "x-user: one"), 2, "{path}");
    }
}

#[test]
fn responses_are_compressed() {
    for (name, coding) in
        [("gzip", "gzip"), ("brotli", "br"), ("zstd", "zstd"), ("compressor-request-response", "gzip")]
    {
        let coding_asked = format!("accept-encoding: {coding}");
        check(name, get_with("/", &coding_asked), 200, &format!("content-encoding: {coding}"));
    }
    check("compressor-per-route", get_with("/", "accept-encoding: gzip"), 200, "content-encoding: gzip");
    check("compressor-per-route", get_with("/plain", "accept-encoding: gzip"), 200, "8080 GET /plain");
}

#[test]
fn filters_do_what_they_are_for() {
    check("cors", get_with("/", "origin: http://b.test"), 200, "access-control-allow-origin: http://b.test");
    check("fault-injection", get_with("/", "x-envoy-fault-abort-request: 418"), 418, "fault filter abort");
    check("fault-injection", get("/"), 200, "8080 GET /");
    check("rbac-cel", get("/"), 200, "8080 GET /");
    check("rbac-cel", "DELETE / HTTP/1.1\r\nhost: a\r\n\r\n", 403, "RBAC: access denied");
    check("security-rbac-header", get("/secret"), 403, "RBAC: access denied");
    check("security-rbac-header", get_with("/secret", "x-pass: open"), 200, "8080 GET /secret");
    check("buffer-health-check-header-mutation", get("/path"), 200, "x-a: /path");
    let large = [b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2000\r\n\r\n", &[b'x'; 2000][..]].concat();
    check("buffer-health-check-header-mutation", large, 413, "");
    let example = Example::start("buffer-health-check-header-mutation");
    assert_eq!(example.connect().ask(get("/healthz")).status(), 200);
    assert_eq!(example.origin(8080).connections(), 0, "the proxy answers for itself");
}

#[test]
fn rates_are_limited() {
    let statuses = |name: &str, requests: &[String]| -> Vec<u16> {
        let example = Example::start(name);
        let mut client = example.connect();
        requests.iter().map(|request| client.ask(request).status()).collect()
    };
    let three = |path: &str| vec![get(path); 3];
    assert_eq!(statuses("local-ratelimit", &three("/")), [200, 200, 429]);
    assert_eq!(statuses("local-ratelimit-per-route", &three("/limited")), [200, 200, 429]);
    assert_eq!(statuses("local-ratelimit-per-route", &three("/free")), [200; 3]);
    let (small, other) = (get_with("/", "x-client: small"), get_with("/", "x-client: other"));
    assert_eq!(
        statuses("local-ratelimit-descriptors", &[small.clone(), small, other.clone(), other]),
        [200, 429, 200, 200]
    );
}

#[test]
fn requests_are_mirrored() {
    let example = Example::start("route-mirror");
    assert!(example.connect().ask(get("/m")).text().starts_with("8080 GET /m"));
    let shadow = example.origin(8081);
    eventually("the copy comes", || !shadow.seen().is_empty());
    assert_eq!((shadow.last().path(), shadow.last().header("host")), ("/m", Some("a-shadow")));
}

#[test]
fn requests_are_sent_again() {
    let flaky = Origin::scripted(|_, wire, origin| {
        while let Some(request) = wire.try_message() {
            origin.note(request);
            wire.send(if origin.seen().len() < 3 { reply(503, "no") } else { reply(200, "third") });
        }
    });
    let example = Example::with("retry-policy", &[(8080, flaky.address)]);
    assert_eq!(example.connect().ask(get("/")).text(), "third");
    let broken = Origin::http(|_| reply(503, "broken"));
    let example = Example::with("retry-previous-hosts", &[(8080, broken.address)]);
    let mut client = example.connect();
    for _ in 0..10 {
        assert!(client.ask(get("/")).text().starts_with("8081"), "the other host answers");
    }
    assert!(broken.connections() > 0);
}

#[test]
fn the_sender_of_a_proxy_header_is_the_client() {
    let request = format!("PROXY TCP4 192.0.2.7 127.0.0.1 9 10\r\n{}", get("/"));
    check("proxy-protocol-in", request, 200, "x-forwarded-for: 192.0.2.7");
}

/// What was not implemented when the example was written is refused by name, or does what it is for.
fn once_implemented(name: &str, own: &[(u16, std::net::SocketAddr)]) -> Option<Example> {
    match Example::try_with(name, own, false) {
        Ok(example) => Some(example),
        Err(error) => {
            assert!(error.contains("not implemented") || error.contains("no HTTP filter of type"), "{name}: {error}");
            None
        }
    }
}

#[test]
fn unhealthy_endpoints_are_left_out() {
    let sick = Origin::http(|_| reply(503, "sick"));
    for (name, path) in [("health-checking", "/"), ("locality-load-balancing", "/")] {
        let Some(example) = once_implemented(name, &[(8080, sick.address)]) else { continue };
        let mut client = example.connect();
        let mut in_a_row = 0;
        eventually("only the healthy one is asked", || {
            in_a_row = if client.ask(get(path)).text().starts_with("8081") { in_a_row + 1 } else { 0 };
            in_a_row == 10
        });
    }
}

#[test]
fn the_first_of_several_clusters_is_asked() {
    let Some(example) = once_implemented("aggregate-cluster", &[]) else { return };
    assert!(example.connect().ask(get("/")).text().starts_with("8080"));
}

#[test]
fn sessions_stay_with_their_endpoint() {
    for (name, set, sent) in
        [("stateful-session-cookie", "set-cookie", "cookie"), ("stateful-session-header", "x-session", "x-session")]
    {
        let Some(example) = once_implemented(name, &[]) else { continue };
        let mut client = example.connect();
        let first = client.ask(get("/"));
        let session = first.header(set).unwrap_or_else(|| panic!("{name} names the session: {first:?}"));
        let session = session.split(';').next().unwrap_or_default();
        for _ in 0..10 {
            let again = client.ask(get_with("/", &format!("{sent}: {session}")));
            assert_eq!(again.text()[..4], first.text()[..4], "{name}");
        }
    }
}

#[test]
fn the_upstream_is_told_the_client() {
    let origin = Origin::scripted(|_, wire, _| {
        let line = wire.line().unwrap_or_default();
        wire.send(line);
    });
    let Some(example) = once_implemented("proxy-protocol", &[(8080, origin.address)]) else { return };
    let mut client = example.connect();
    client.send("PROXY TCP4 192.0.2.7 127.0.0.1 9 10\r\nhello");
    client.finish_sending();
    assert!(String::from_utf8_lossy(&client.rest()).starts_with("PROXY TCP4 192.0.2.7 127.0.0.1 9 "));
}

#[test]
fn datagrams_are_passed_on() {
    let origin = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let Some(example) = once_implemented("udp", &[(8080, origin.local_addr().unwrap())]) else { return };
    let address = example.address();
    std::thread::spawn(move || {
        let mut bytes = [0; 100];
        while let Ok((size, from)) = origin.recv_from(&mut bytes) {
            origin.send_to(&bytes[..size], from).unwrap();
        }
    });
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    eventually("the datagram comes back", || {
        client.send_to(b"ping", address).unwrap();
        let mut bytes = [0; 100];
        client.recv(&mut bytes).is_ok_and(|size| &bytes[..size] == b"ping")
    });
}

// === TLS ===

#[test]
fn tls_ends_at_the_proxy() {
    for name in ["front-proxy", "tls-https-to-http", "double-proxy-tls-downstream", "security-tls-curves"] {
        let example = Example::start(name);
        let answer = example.ask_tls("localhost", &[], &get("/service/1"));
        assert!(answer.contains("8080 GET /service/1"), "{name}: {answer}");
    }
    let answer = Example::start("front-proxy").ask_tls("localhost", &[], &get("/service/2"));
    assert!(answer.contains("8081 GET /service/2"), "{answer}");
}

#[test]
fn tls_begins_at_the_proxy() {
    for name in ["tls-http-to-https", "double-proxy-tls-upstream"] {
        check(name, get("/x"), 200, "sni origin.test GET /x");
    }
    check("tls-sni-client", get("/domain1"), 200, "sni domain1.test GET / ");
    check("tls-sni-client", get("/domain2"), 200, "sni domain2.test GET / ");
    let example = Example::start("demo");
    let answer = example.connect().ask(get("/"));
    assert!(answer.text().contains("sni www.test GET /") && answer.text().contains("host: www.test"), "{answer:?}");
    let answer = Example::start("tls-https-to-https").ask_tls("localhost", &[], &get("/x"));
    assert!(answer.contains("sni origin.test GET /x"), "{answer}");
}

#[test]
fn tls_passes_through() {
    for (name, server, alpn) in [
        ("tls-sni", "a.test", &[][..]),
        ("tls-sni", "x.b.test", &[]),
        ("tls-inspector-alpn", "a.test", &[&b"h2"[..]]),
        ("tls-passthrough", "a.test", &[]),
        ("websocket-passthrough", "a.test", &[]),
    ] {
        let example = Example::passthrough(name);
        let answer = example.ask_tls(server, alpn, &get("/x"));
        assert!(answer.contains(&format!("sni {server} GET /x")), "{name}: {answer}");
    }
    for (name, server) in [("tls-sni", "b.test"), ("tls-inspector-alpn", "a.test")] {
        assert!(Example::passthrough(name).try_tls(server, &[]).is_err(), "{name} has no chain for it");
    }
}

#[test]
fn clients_prove_who_they_are() {
    let example = Example::start("security-mutual-tls");
    let answer = example.ask_tls_as_client("localhost", &get("/"));
    assert!(answer.contains("x-forwarded-client-cert:") && answer.contains("DNS=localhost"), "{answer}");
    let refused = example.try_tls("localhost", &[]).and_then(|mut stream| {
        stream.write_all(get("/").as_bytes())?;
        let mut byte = [0];
        stream.read_exact(&mut byte)
    });
    assert!(refused.is_err(), "no certificate, no answer");
}

// === upgrades, HTTP/2, management servers ===

#[test]
fn websockets_pass() {
    for name in ["websocket", "websocket-route"] {
        let example = Example::start(name);
        let mut client = example.connect();
        assert_eq!(client.send(WEBSOCKET).head().unwrap().status(), 101, "{name}");
        client.send("ping");
        assert_eq!(client.bytes(4), b"ping");
    }
    let elsewhere = WEBSOCKET.replace("/ws", "/other");
    assert_eq!(Example::start("websocket-route").connect().ask(elsewhere).status(), 403);
    let example = Example::start("websocket-tls");
    let mut stream = example.tls("localhost", &[]);
    stream.write_all(WEBSOCKET.as_bytes()).unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
}

#[test]
fn a_connect_becomes_a_connection() {
    let origin = Origin::scripted(|_, wire, _| {
        let bytes = wire.bytes(4);
        wire.send(bytes);
    });
    let example = Example::with("connect-terminate", &[(8080, origin.address)]);
    let mut client = example.connect();
    assert_eq!(client.send("CONNECT db:1 HTTP/1.1\r\nhost: db:1\r\n\r\n").head().unwrap().status(), 200);
    client.send("ping");
    assert_eq!(client.bytes(4), b"ping");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_is_spoken_upstream() {
    let origin = client::origin(None, |request, mut respond| async move {
        if *request.method() != Method::CONNECT {
            return client::answer(&mut respond, 200, &format!("h2 {}", request.uri().path()));
        }
        let Ok(mut down) = respond.send_response(http::Response::new(()), false) else { return };
        let mut up = request.into_body();
        while let Some(Ok(piece)) = up.data().await {
            let _ = push(&mut down, piece, false).await;
        }
    })
    .await;
    let example = Example::with("grpc-upstream", &[(8080, origin)]);
    let client = Client::connect(example.address()).await;
    assert_eq!(soon(client.get("/pkg.Service/Method")).await.unwrap().body, b"h2 /pkg.Service/Method");

    let edge = Example::with("edge", &[(8080, origin)]);
    let client = Client::connect_tls(edge.address(), edge.client(&[b"h2"])).await;
    for (path, status, body) in
        [("/content//x", 200, "h2 /content/x"), ("/content/%2e%2e/x", 403, "denied\n"), ("/x", 403, "denied\n")]
    {
        let answer = soon(client.get(path)).await.unwrap();
        assert_eq!((answer.status, String::from_utf8_lossy(&answer.body).as_ref()), (status, body), "{path}");
    }

    let example = Example::with("connect-forward", &[(8080, origin)]);
    let client = Client::connect(example.address()).await;
    let request = http::Request::builder().method(Method::CONNECT).uri("db:1").body(()).unwrap();
    let (response, mut up) = client.open(request, false).await.unwrap();
    let mut body = soon(response).await.unwrap().into_body();
    push(&mut up, Bytes::from_static(b"ping"), false).await.unwrap();
    assert_eq!(soon(body.data()).await.unwrap().unwrap(), "ping");
}

#[test]
fn configuration_comes_from_files() {
    check("dynamic-files", get("/x"), 200, "8080 GET /x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configuration_comes_from_a_management_server() {
    for name in ["dynamic-ads", "dynamic-sotw-lenient"] {
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let management = socket.local_addr().unwrap();
        let publisher = Publisher::default();
        let server = XdsServer::new(publisher.clone(), Fleet::new(Default::default()), Settings::one_group("edge"));
        tokio::spawn(cp_xds::serve(server, socket, None, std::future::pending()));
        let example = Example::with(name, &[(8089, management)]);
        let resources = ["lds", "cds"].iter().flat_map(|file| {
            let response: DiscoveryResponse = proto::json::from_yaml(&example.file(&format!("{file}.yaml"))).unwrap();
            response.resources.into_iter().map(|any| cp_xds::resource(any).unwrap())
        });
        publisher.publish("edge", Class::Weir, resources.collect(), 1);
        let address = tokio::task::block_in_place(|| example.address());
        let answer = tokio::task::spawn_blocking(move || {
            // The listener is there before its routes may be.
            std::thread::sleep(Duration::from_millis(50));
            Wire::connect(address).ask(get("/x"))
        });
        assert!(answer.await.unwrap().text().starts_with("8080 GET /x"), "{name}");
    }
}

#[test]
fn what_no_program_can_serve_is_refused_with_its_place() {
    for name in all().into_iter().filter(|name| name.starts_with("wrong-")) {
        let error = Example::try_with(&name, &[], false).map(|_| ()).unwrap_err();
        assert!(error.contains("static_resources."), "{name}: {error}");
    }
}
