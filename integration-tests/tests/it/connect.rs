//! CONNECT: a tunnel that ends here at a TCP endpoint, or goes on to the next proxy. Only where a route asks for it.

use bytes::Bytes;
use h2::RecvStream;
use http::{Method, Request};
use integration_tests::client::{self, Client, push, soon};
use integration_tests::config::{bootstrap, cluster, hcm, http2, listener, merge, simple, to};
use integration_tests::eventually::eventually;
use integration_tests::proxy::{Running, start, try_start};
use integration_tests::upstream::{Origin, nowhere};
use serde_json::{Value, json};

const ASK: &str = "CONNECT db:5432 HTTP/1.1\r\nhost: db:5432\r\n\r\n";

/// A route for CONNECT to `origin`; `config` is its upgrade.
fn route(config: Value) -> Value {
    let mut upgrade = json!({ "upgrade_type": "CONNECT" });
    merge(&mut upgrade, config);
    json!([{ "match": { "connect_matcher": {} }, "route": { "cluster": "origin", "upgrade_configs": [upgrade] } }])
}

/// Ends tunnels at the cluster `origin`.
fn ending_at(cluster: Value, config: Value) -> Running {
    let mut hcm = hcm(route(json!({ "connect_config": config })));
    merge(&mut hcm, json!({ "http2_protocol_options": { "allow_connect": true } }));
    start(&bootstrap(vec![listener("main", hcm)], vec![cluster]))
}

/// A TCP server that greets and sends every byte back, then what it thinks of the end.
fn tcp_echo() -> Origin {
    Origin::scripted(|_, wire, _| {
        wire.send("hello");
        loop {
            let byte = wire.bytes(1);
            if byte.is_empty() {
                wire.send("bye");
                return;
            }
            wire.send(byte);
        }
    })
}

fn to_authority(authority: &str) -> Request<()> {
    Request::builder().method(Method::CONNECT).uri(authority).body(()).expect("the head is good")
}

/// Reads `count` bytes of a tunnel.
async fn read(body: &mut RecvStream, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        let piece = soon(body.data()).await.expect("the tunnel is open").expect("the tunnel is sound");
        body.flow_control().release_capacity(piece.len()).expect("the window takes it back");
        bytes.extend_from_slice(&piece);
    }
    bytes
}

#[test]
fn a_tunnel_ends_at_a_tcp_endpoint() {
    let origin = tcp_echo();
    let proxy = ending_at(cluster("origin", &[origin.address]), json!({}));
    let mut client = proxy.connect();
    let head = client.send(ASK).head().unwrap();
    assert_eq!(head.status(), 200);
    assert_eq!((head.header("content-length"), head.header("transfer-encoding")), (None, None));
    assert_eq!(client.bytes(5), b"hello");
    for word in ["one", "\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"] {
        client.send(word);
        assert_eq!(client.bytes(word.len()), word.as_bytes());
    }
    // The client has said all; what the server says afterwards still comes.
    client.finish_sending();
    assert_eq!(client.bytes(3), b"bye");
    assert!(client.is_closed());
}

#[test]
fn bytes_right_behind_the_connect_are_the_first_of_the_tunnel() {
    let origin = tcp_echo();
    let proxy = ending_at(cluster("origin", &[origin.address]), json!({}));
    let mut client = proxy.connect();
    assert_eq!(client.send(format!("{ASK}early")).head().unwrap().status(), 200);
    assert_eq!(client.bytes(10), b"helloearly");
}

#[test]
fn a_server_that_has_said_all_still_listens() {
    let (tell, told) = std::sync::mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let origin = Origin::scripted(move |_, wire, _| {
        wire.send("all");
        wire.finish_sending();
        tell.lock().unwrap().send(wire.rest()).unwrap();
    });
    let proxy = ending_at(cluster("origin", &[origin.address]), json!({}));
    let mut client = proxy.connect();
    assert_eq!(client.send(ASK).head().unwrap().status(), 200);
    assert_eq!(client.bytes(4), b"all");
    client.send("still here");
    client.finish_sending();
    assert_eq!(told.recv().unwrap(), b"still here");
}

#[test]
fn a_large_transfer_is_whole_both_ways() {
    let origin = Origin::scripted(|_, wire, _| {
        loop {
            let piece = wire.bytes(64 * 1024);
            if piece.is_empty() {
                return;
            }
            wire.send(piece);
        }
    });
    let proxy = ending_at(cluster("origin", &[origin.address]), json!({}));
    let mut client = proxy.connect();
    assert_eq!(client.send(ASK).head().unwrap().status(), 200);
    let data: Vec<u8> = (0..8u32 << 20).map(|n| (n ^ (n >> 8)) as u8).collect();
    let mut socket = client.socket().try_clone().unwrap();
    let sent = data.clone();
    let writer = std::thread::spawn(move || {
        std::io::Write::write_all(&mut socket, &sent).unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
    });
    assert!(client.rest() == data, "the bytes differ");
    writer.join().unwrap();
}

#[test]
fn an_endpoint_that_cannot_be_reached_is_a_503() {
    let proxy = ending_at(cluster("origin", &[nowhere()]), json!({}));
    assert_eq!(proxy.connect().ask(ASK).status(), 503);
}

#[test]
fn connect_passes_only_where_a_route_asks_for_it() {
    let origin = tcp_echo();
    let check = |routes: Value, expected: u16| {
        let answer = start(&simple(hcm(routes.clone()), origin.address)).connect().ask(ASK);
        assert_eq!(answer.status(), expected, "{routes}");
    };
    check(to("origin", json!({})), 404);
    check(to("origin", json!({ "upgrade_configs": [{ "upgrade_type": "CONNECT", "connect_config": {} }] })), 404);
    check(json!([{ "match": { "connect_matcher": {} }, "route": { "cluster": "origin" } }]), 403);
    check(route(json!({ "enabled": false, "connect_config": {} })), 403);
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_request_that_is_no_connect_is_not_for_a_connect_route() {
    let origin = tcp_echo();
    let proxy = ending_at(cluster("origin", &[origin.address]), json!({ "allow_post": true }));
    for ask in ["GET / HTTP/1.1\r\nhost: a\r\n\r\n", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"] {
        assert_eq!(proxy.connect().ask(ask).status(), 404, "{ask}");
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_post_is_a_tunnel_where_the_route_allows_it() {
    let check = |allowed: bool| {
        let origin = Origin::scripted(move |_, wire, _| {
            let bytes = wire.bytes(4);
            wire.send([b"got ", &bytes[..]].concat());
        });
        let upgrade = json!({ "upgrade_type": "CONNECT", "connect_config": { "allow_post": allowed } });
        let proxy = start(&simple(hcm(to("origin", json!({ "upgrade_configs": [upgrade] }))), origin.address));
        proxy.connect().ask("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nping")
    };
    let answer = check(true);
    assert_eq!((answer.status(), answer.text(), answer.complete), (200, "got ping".into(), true));
    // The origin speaks no HTTP.
    assert!([502, 503].contains(&check(false).status()));
}

#[test]
fn what_a_tunnel_cannot_do_is_refused_by_name() {
    let origin = nowhere();
    let check = |config: Value, expected: &str| {
        let error = try_start(&simple(hcm(route(config)), origin), 1).map(|_| ()).unwrap_err();
        assert!(error.contains(expected), "{error}");
    };
    check(json!({ "connect_config": { "proxy_protocol_config": { "version": "V2" } } }), "proxy_protocol_config");
    check(json!({ "upgrade_type": "websocket", "connect_config": {} }), "connect_config");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_one_http2_connection_are_tunnels_of_their_own() {
    let origin = tcp_echo();
    let proxy = ending_at(cluster("origin", &[origin.address]), json!({}));
    let client = Client::connect(proxy.address("main")).await;
    let mut tunnels = Vec::new();
    for n in 0..4u8 {
        let (response, mut up) = client.open(to_authority("db:5432"), false).await.unwrap();
        // Before the answer, as a client may that does not want to wait.
        push(&mut up, Bytes::from(vec![b'a' + n; 3]), false).await.unwrap();
        let response = soon(response).await.unwrap();
        assert_eq!(response.status(), 200);
        tunnels.push((up, response.into_body()));
    }
    for (n, (up, body)) in tunnels.iter_mut().enumerate() {
        let own = "abcd".as_bytes()[n];
        assert_eq!(read(body, 8).await, [b"hello", &[own; 3][..]].concat());
        up.send_data(Bytes::new(), true).unwrap();
        assert_eq!(read(body, 3).await, b"bye");
        assert!(soon(body.data()).await.is_none_or(|end| end.is_ok_and(|end| end.is_empty())));
    }
    assert_eq!(origin.connections(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_resets_its_tunnel_closes_the_connection_behind_it() {
    let (tell, told) = std::sync::mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let origin = Origin::scripted(move |_, wire, _| {
        wire.send("hello");
        tell.lock().unwrap().send(wire.is_closed()).unwrap();
    });
    let proxy = ending_at(cluster("origin", &[origin.address]), json!({}));
    let client = Client::connect(proxy.address("main")).await;
    let (response, mut up) = client.open(to_authority("db:5432"), false).await.unwrap();
    let mut body = soon(response).await.unwrap().into_body();
    assert_eq!(read(&mut body, 5).await, b"hello");
    up.send_reset(h2::Reason::CANCEL);
    assert!(tokio::task::spawn_blocking(move || told.recv().unwrap()).await.unwrap());
    let snapshot = proxy.proxy.snapshot();
    let endpoint = snapshot.cluster("origin").unwrap().endpoints().next().unwrap().clone();
    eventually("no request is active", || endpoint.state.active() == 0);
}

/// The next proxy: takes one CONNECT, then is what the tunnel leads to.
fn next_proxy() -> Origin {
    Origin::scripted(|_, wire, origin| {
        let Some(head) = wire.head() else { return };
        origin.note(head);
        // What comes before the answer would be taken for the next request.
        assert!(wire.is_quiet(std::time::Duration::from_millis(200)), "bytes came before the tunnel stood");
        wire.send("HTTP/1.1 200 Connection established\r\n\r\nhello");
        loop {
            let byte = wire.bytes(1);
            if byte.is_empty() {
                return;
            }
            wire.send(byte);
        }
    })
}

#[test]
fn connect_goes_on_to_the_next_proxy() {
    let origin = next_proxy();
    let proxy = start(&simple(hcm(route(json!({}))), origin.address));
    let mut client = proxy.connect();
    assert_eq!(client.send(format!("{ASK}early")).head().unwrap().status(), 200);
    assert_eq!(client.bytes(10), b"helloearly");
    assert_eq!(origin.last().start, "CONNECT db:5432 HTTP/1.1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connect_by_http2_goes_on_to_a_proxy_that_speaks_http1() {
    let origin = next_proxy();
    let proxy = start(&simple(hcm(route(json!({}))), origin.address));
    let client = Client::connect(proxy.address("main")).await;
    let (response, mut up) = client.open(to_authority("db:5432"), false).await.unwrap();
    push(&mut up, Bytes::from_static(b"early"), false).await.unwrap();
    let mut body = soon(response).await.unwrap().into_body();
    assert_eq!(read(&mut body, 10).await, b"helloearly");
    assert_eq!(origin.last().start, "CONNECT db:5432 HTTP/1.1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connect_goes_on_to_a_proxy_that_speaks_http2() {
    let origin = client::origin(None, |request, mut respond| async move {
        assert_eq!((request.method(), request.uri().to_string()), (&Method::CONNECT, "db:5432".to_owned()));
        let mut up = request.into_body();
        let head = http::Response::builder().status(200).body(()).unwrap();
        let Ok(mut down) = respond.send_response(head, false) else { return };
        while let Some(Ok(piece)) = up.data().await {
            let _ = up.flow_control().release_capacity(piece.len());
            let _ = push(&mut down, piece, false).await;
        }
        let _ = down.send_data(Bytes::from_static(b"bye"), true);
    })
    .await;
    let hcm = hcm(route(json!({})));
    let proxy = start(&bootstrap(vec![listener("main", hcm)], vec![http2(cluster("origin", &[origin]))]));
    let mut client = proxy.connect();
    let end = tokio::task::spawn_blocking(move || {
        assert_eq!(client.send(ASK).head().unwrap().status(), 200);
        client.send("ping");
        assert_eq!(client.bytes(4), b"ping");
        client.finish_sending();
        client.rest()
    });
    assert_eq!(soon(end).await.unwrap(), b"bye");
}
