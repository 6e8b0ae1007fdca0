//! WebSocket: raw bytes once both sides agreed. CONNECT is in `connect.rs`.

use bytes::Bytes;
use integration_tests::client::{self, Client, push, soon};
use integration_tests::config::{hcm, merge, simple, to};
use integration_tests::eventually::eventually;
use integration_tests::proxy::{Running, start};
use integration_tests::upstream::{Origin, reply};
use serde_json::json;

const ASK: &str = "GET /chat HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Accepts an upgrade and sends every byte back.
fn echo() -> Origin {
    Origin::scripted(|_, wire, origin| {
        let request = wire.message();
        let accepts = request.header("upgrade") == Some("websocket");
        origin.note(request);
        if !accepts {
            wire.send(reply(400, "not an upgrade"));
            return;
        }
        wire.send(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nhello",
        );
        loop {
            let byte = wire.bytes(1);
            if byte.is_empty() {
                return;
            }
            wire.send(byte);
        }
    })
}

/// How long the head of an answer may take.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

fn proxy(origin: &Origin) -> Running {
    let timeout = format!("{}s", TIMEOUT.as_secs());
    let mut hcm = hcm(to("origin", json!({ "timeout": timeout })));
    merge(
        &mut hcm,
        json!({ "upgrade_configs": [{ "upgrade_type": "websocket" }], "http2_protocol_options": { "allow_connect": true } }),
    );
    start(&simple(hcm, origin.address))
}

#[test]
fn a_websocket_is_a_tunnel_after_101() {
    let origin = echo();
    let proxy = proxy(&origin);
    let mut client = proxy.connect();
    let head = client.send(ASK).head().unwrap();
    assert_eq!(head.status(), 101);
    assert_eq!(head.header("upgrade"), Some("websocket"));
    assert_eq!(head.header("connection").map(str::to_ascii_lowercase).as_deref(), Some("upgrade"));
    assert_eq!(head.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!((head.header("content-length"), head.header("transfer-encoding")), (None, None));
    assert_eq!(client.bytes(5), b"hello");
    for word in ["one", "two\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"] {
        client.send(word);
        assert_eq!(client.bytes(word.len()), word.as_bytes());
    }
    // The timeout of the route ends with the head.
    std::thread::sleep(TIMEOUT + std::time::Duration::from_millis(200));
    client.send("late");
    assert_eq!(client.bytes(4), b"late");
    let seen = origin.last();
    assert_eq!(seen.header("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    client.finish_sending();
    assert!(client.is_closed());
}

#[test]
fn bytes_sent_along_with_the_upgrade_are_not_lost() {
    let origin = echo();
    let proxy = proxy(&origin);
    let mut client = proxy.connect();
    let head = client.send(format!("{ASK}early")).head().unwrap();
    assert_eq!(head.status(), 101);
    assert_eq!(client.bytes(10), b"helloearly");
}

#[test]
fn an_upgrade_that_is_not_configured_is_forbidden() {
    let origin = echo();
    let proxy = start(&simple(hcm(to("origin", json!({}))), origin.address));
    let answer = proxy.connect().ask(ASK);
    assert_eq!(answer.status(), 403);
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_route_may_forbid_what_the_manager_allows_and_the_other_way_round() {
    let origin = echo();
    let check = |manager: bool, route: bool| {
        let mut hcm =
            hcm(to("origin", json!({ "upgrade_configs": [{ "upgrade_type": "websocket", "enabled": route }] })));
        merge(&mut hcm, json!({ "upgrade_configs": [{ "upgrade_type": "websocket", "enabled": manager }] }));
        let proxy = start(&simple(hcm, origin.address));
        let status = proxy.connect().send(ASK).head().unwrap().status();
        assert_eq!(status, if route { 101 } else { 403 });
    };
    check(true, false);
    check(false, true);
}

#[test]
fn an_origin_that_refuses_the_upgrade_answers_itself() {
    let origin = Origin::text("no websocket here");
    let proxy = proxy(&origin);
    let mut client = proxy.connect();
    let answer = client.ask(ASK);
    assert_eq!((answer.status(), answer.text()), (200, "no websocket here".into()));
}

#[test]
fn the_origin_learns_that_a_client_left_its_tunnel() {
    let (tell, told) = std::sync::mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let origin = Origin::scripted(move |_, wire, _| {
        wire.message();
        wire.send("HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
        tell.lock().unwrap().send(wire.is_closed()).unwrap();
    });
    let proxy = proxy(&origin);
    let mut client = proxy.connect();
    assert_eq!(client.send(ASK).head().unwrap().status(), 101);
    drop(client);
    assert!(told.recv().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extended_connect_becomes_an_upgrade_for_http1() {
    let origin = echo();
    let proxy = proxy(&origin);
    let client = Client::connect(proxy.address("main")).await;
    let (mut up, mut body) = client::websocket(&client, "/chat").await;
    push(&mut up, Bytes::from_static(b"there"), false).await.unwrap();
    let mut text = Vec::new();
    while text.len() < 10 {
        let piece = soon(body.data()).await.unwrap().unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        text.extend_from_slice(&piece);
    }
    assert_eq!(text, b"hellothere");
    let seen = origin.last();
    assert_eq!(seen.start, "GET /chat HTTP/1.1");
    assert_eq!(seen.header("upgrade"), Some("websocket"));
    assert!(seen.header("sec-websocket-key").is_some(), "an HTTP/1.1 server needs one: {seen:?}");
    up.send_data(Bytes::new(), true).unwrap();
    assert!(soon(body.data()).await.is_none_or(|end| end.is_ok_and(|end| end.is_empty())));
}

#[test]
fn many_tunnels_end_without_a_trace() {
    let origin = echo();
    let proxy = proxy(&origin);
    let tunnels: Vec<_> = (0..20)
        .map(|_| {
            let mut client = proxy.connect();
            assert_eq!(client.send(ASK).head().unwrap().status(), 101);
            client
        })
        .collect();
    let snapshot = proxy.proxy.snapshot();
    let endpoint = snapshot.cluster("origin").unwrap().endpoints().next().unwrap().clone();
    assert_eq!(endpoint.state.active(), 20);
    drop(tunnels);
    eventually("no request is active", || endpoint.state.active() == 0);
}
