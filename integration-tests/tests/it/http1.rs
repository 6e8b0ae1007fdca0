//! HTTP/1.1 through the proxy: framing, connections, limits, and what happens when either side breaks.

use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use integration_tests::config::{hcm, merge, simple, to};
use integration_tests::eventually::eventually;
use integration_tests::proxy::{Running, start};
use integration_tests::upstream::{Origin, reply};
use integration_tests::wire::{Message, Wire};
use serde_json::{Value, json};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const MEGABYTE: usize = 1024 * 1024;

fn proxy(origin: &Origin) -> Running {
    proxy_with(origin, json!({}))
}

fn proxy_with(origin: &Origin, more: Value) -> Running {
    let mut hcm = hcm(to("origin", json!({})));
    merge(&mut hcm, more);
    start(&simple(hcm, origin.address))
}

/// Answers with the body of the request, framed as asked by the path.
fn echo() -> Origin {
    Origin::http(|request| {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        if request.path() == "/chunked" {
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
                .replace("\r\n0\r\n\r\n0\r\n\r\n", "\r\n0\r\n\r\n")
                .into_bytes()
        } else {
            reply(200, &body)
        }
    })
}

#[test]
fn bodies_pass_with_a_length_and_in_chunks_both_ways() {
    let origin = echo();
    let proxy = proxy(&origin);
    let mut client = proxy.connect();
    for path in ["/length", "/chunked"] {
        let answer = client.ask(format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello"));
        assert_eq!((answer.status(), answer.text(), answer.complete), (200, "hello".into(), true));
        assert_eq!(origin.last().header("content-length"), Some("5"));
        let chunks = "3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";
        let answer =
            client.ask(format!("POST {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunks}"));
        assert_eq!((answer.status(), answer.text(), answer.complete), (200, "hello".into(), true));
        let seen = origin.last();
        assert_eq!((seen.header("transfer-encoding"), seen.header("content-length")), (Some("chunked"), None));
        let framed = if path == "/length" { "content-length" } else { "transfer-encoding" };
        assert!(answer.header(framed).is_some(), "{answer:?}");
    }
    assert_eq!(origin.connections(), 1, "the connection to the origin is used again");
}

#[test]
fn the_answer_to_head_has_a_length_and_no_body() {
    let origin = Origin::http(|_| b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n".to_vec());
    let proxy = proxy(&origin);
    let mut client = proxy.connect();
    for _ in 0..2 {
        let head = client.send("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n").head().unwrap();
        assert_eq!((head.status(), head.header("content-length")), (200, Some("1234")));
    }
    assert!(client.is_quiet(Duration::from_millis(50)));
}

#[test]
fn statuses_without_a_body_keep_the_connection() {
    for status in [204, 304] {
        let origin = Origin::http(move |_| format!("HTTP/1.1 {status} X\r\n\r\n").into_bytes());
        let proxy = proxy(&origin);
        let mut client = proxy.connect();
        for _ in 0..2 {
            assert_eq!(client.ask(GET).status(), status);
        }
        assert_eq!(origin.connections(), 1);
    }
}

#[test]
fn ten_megabytes_pass_both_ways_unchanged() {
    let origin = echo();
    let proxy = proxy(&origin);
    let body: Vec<u8> = (0..10 * MEGABYTE).map(|i| b'a' + (i % 23) as u8).collect();
    let client = proxy.connect();
    let mut sender = Wire::new(client.socket().try_clone().unwrap());
    let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
    let sent = body.clone();
    let sending = std::thread::spawn(move || {
        sender.send(head);
        sender.send(sent);
    });
    let mut client = client;
    let answer = client.message();
    sending.join().unwrap();
    assert!(answer.complete);
    assert!(answer.body == body);
}

/// How much the sender could send to a reader that does not read, in the buffers of kernels and proxy together.
const BOUND: usize = 40 * MEGABYTE;

#[test]
fn a_client_that_does_not_read_slows_the_origin_down() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let origin = Origin::scripted(move |_, wire, _| {
        wire.message();
        wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 64 * MEGABYTE));
        for _ in 0..64 {
            if wire.try_send(&vec![b'x'; MEGABYTE]).is_err() {
                return;
            }
            counter.fetch_add(MEGABYTE, Ordering::SeqCst);
        }
    });
    let proxy = proxy(&origin);
    let mut client = proxy.connect();
    let head = client.send(GET).head().unwrap();
    assert_eq!(head.status(), 200);
    stands_still(&sent);
    assert!(sent.load(Ordering::SeqCst) < BOUND, "{}", sent.load(Ordering::SeqCst));
    assert_eq!(client.bytes(64 * MEGABYTE).len(), 64 * MEGABYTE);
}

#[test]
fn an_origin_that_does_not_read_slows_the_client_down() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::scripted(move |_, wire, _| {
        let mut head = wire.head().unwrap();
        let _ = wait.lock().unwrap().recv();
        wire.body_of(&mut head);
        wire.send(reply(200, &head.body.len().to_string()));
    });
    let proxy = proxy(&origin);
    let mut client = proxy.connect();
    let mut sender = Wire::new(client.socket().try_clone().unwrap());
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    std::thread::spawn(move || {
        sender.send(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", 64 * MEGABYTE));
        for _ in 0..64 {
            sender.send(vec![b'x'; MEGABYTE]);
            counter.fetch_add(MEGABYTE, Ordering::SeqCst);
        }
    });
    stands_still(&sent);
    assert!(sent.load(Ordering::SeqCst) < BOUND, "{}", sent.load(Ordering::SeqCst));
    go.send(()).unwrap();
    assert_eq!(client.message().text(), (64 * MEGABYTE).to_string());
}

/// Waits until the counter does not move any more.
fn stands_still(counter: &AtomicUsize) {
    let mut last = (0, 0);
    eventually("the sender stands still", || {
        let now = counter.load(Ordering::SeqCst);
        last = if now == last.0 && now > 0 { (now, last.1 + 1) } else { (now, 0) };
        last.1 > 60
    });
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let origin = Origin::http(|request| reply(200, request.path()));
    let proxy = proxy(&origin);
    let mut client = proxy.connect();
    let requests: String = (0..20).map(|i| format!("GET /{i} HTTP/1.1\r\nhost: a\r\n\r\n")).collect();
    client.send(requests);
    for i in 0..20 {
        assert_eq!(client.message().text(), format!("/{i}"));
    }
}

#[test]
fn a_request_byte_by_byte_is_a_request() {
    let origin = echo();
    let proxy = proxy(&origin);
    let mut client = proxy.connect();
    for byte in b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n" {
        client.send([*byte]);
    }
    assert_eq!(client.message().text(), "hi");
}

#[test]
fn http_1_0_is_answered_and_closed_when_accepted_and_refused_otherwise() {
    let origin = Origin::text("hi");
    let running = proxy_with(&origin, json!({ "http_protocol_options": { "accept_http_10": true } }));
    let mut client = running.connect();
    let answer = client.ask("GET / HTTP/1.0\r\nhost: a\r\n\r\n");
    assert_eq!((answer.status(), answer.text()), (200, "hi".into()));
    assert!(client.is_closed());
    assert_eq!(origin.last().start, "GET / HTTP/1.1");

    let proxy = proxy(&origin);
    let mut client = proxy.connect();
    assert_eq!(client.ask("GET / HTTP/1.0\r\nhost: a\r\n\r\n").status(), 426);
    assert!(client.is_closed());
}

#[test]
fn trailers_pass_both_ways_when_enabled() {
    let origin = Origin::scripted(|_, wire, origin| {
        while let Some(request) = wire.try_message() {
            origin.note(request);
            wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-down: 1\r\n\r\n");
        }
    });
    let mut hcm = hcm(to("origin", json!({})));
    hcm["http_protocol_options"] = json!({ "enable_trailers": true });
    let mut bootstrap = simple(hcm, origin.address);
    bootstrap["static_resources"]["clusters"][0]["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http_protocol_options": { "enable_trailers": true } },
        },
    });
    let proxy = start(&bootstrap);
    let answer = proxy
        .connect()
        .ask("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-up: 1\r\n\r\n");
    assert_eq!((answer.complete, answer.trailers), (true, vec![("x-down".into(), "1".into())]));
    assert_eq!(origin.last().trailers, [("x-up".into(), "1".into())]);
}

#[test]
fn expect_100_continue_is_answered_by_the_proxy() {
    let origin = echo();
    let proxy = proxy(&origin);
    let mut client = proxy.connect();
    let head = "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";
    assert_eq!(client.send(head).head().unwrap().status(), 100);
    assert_eq!(client.ask("hi").text(), "hi");
    assert_eq!(origin.last().header("expect"), None);
}

#[test]
fn early_hints_are_passed_on() {
    let origin = Origin::http(|_| {
        let mut bytes = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n".to_vec();
        bytes.extend(reply(200, "hi"));
        bytes
    });
    let proxy = proxy(&origin);
    let mut client = proxy.connect();
    let hints = client.send(GET).head().unwrap();
    assert_eq!((hints.status(), hints.header("link")), (103, Some("</a.css>")));
    assert_eq!(client.message().text(), "hi");
}

#[test]
fn a_response_may_come_while_the_request_still_does() {
    let origin = Origin::scripted(|_, wire, _| {
        wire.head();
        wire.send(reply(413, "too much"));
        wire.finish_sending();
        wire.rest();
    });
    let proxy = proxy(&origin);
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\npart");
    let answer = client.message();
    assert_eq!((answer.status(), answer.text()), (413, "too much".into()));
    assert!(client.is_closed(), "the rest of the request would be taken for the next one");
}

#[test]
fn a_response_streams_while_the_request_does() {
    let origin = Origin::scripted(|_, wire, _| {
        wire.head();
        wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        for _ in 0..3 {
            let size = wire.line().unwrap();
            let data = wire.line().unwrap();
            wire.send(format!("{size}\r\n{data}\r\n"));
        }
        wire.send("0\r\n\r\n");
        wire.rest();
    });
    let proxy = proxy(&origin);
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n");
    assert_eq!(client.head().unwrap().status(), 200);
    for next in ["1\r\nb\r\n", "1\r\nc\r\n", "0\r\n\r\n"] {
        assert_eq!(client.line().as_deref(), Some("1"));
        assert_eq!(client.line().map(|data| data.len()), Some(1));
        client.send(next);
    }
    assert_eq!(client.line().as_deref(), Some("0"));
}

#[test]
fn connection_close_closes_after_the_answer() {
    let origin = Origin::text("hi");
    let proxy = proxy(&origin);
    let mut client = proxy.connect();
    let answer = client.ask("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    assert_eq!((answer.text(), answer.header("connection")), ("hi".into(), Some("close")));
    assert!(client.is_closed());
    let seen = origin.last();
    assert_eq!(seen.header("connection"), None, "{seen:?}");
}

#[test]
fn an_origin_that_closes_after_its_answer_does_not_close_the_client() {
    let origin = Origin::scripted(|_, wire, _| {
        wire.message();
        wire.send("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end");
    });
    let proxy = proxy(&origin);
    let mut client = proxy.connect();
    for _ in 0..2 {
        let answer = client.ask(GET);
        assert_eq!((answer.text(), answer.complete), ("until the end".into(), true));
        assert_eq!(answer.header("connection"), None);
    }
    assert_eq!(origin.connections(), 2);
}

#[test]
fn heads_that_could_be_read_in_two_ways_are_refused_and_the_connection_closed() {
    let origin = Origin::text("never");
    let proxy = proxy(&origin);
    let check = |name: &str, status: u16, request: &str| {
        let mut client = proxy.connect();
        let answer = client.send(request).message();
        assert_eq!(answer.status(), status, "{name}");
        assert_eq!(answer.header("connection"), Some("close"), "{name}");
        assert!(client.is_closed(), "{name}");
    };
    let post = "POST / HTTP/1.1\r\nhost: a\r\n";
    check("both framings", 400, &format!("{post}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET"));
    check("two lengths", 400, &format!("{post}content-length: 5\r\ncontent-length: 6\r\n\r\nhello"));
    check("a signed length", 400, &format!("{post}content-length: +5\r\n\r\nhello"));
    check("a coding that does not end", 400, &format!("{post}transfer-encoding: gzip\r\n\r\n"));
    check("an unknown coding", 501, &format!("{post}transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"));
    check("chunked twice", 400, &format!("{post}transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n"));
    check("a space before the colon", 400, &format!("{post}content-length : 5\r\n\r\nhello"));
    check("a folded line", 400, "GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n 2\r\n\r\n");
    check("a bare line feed in a value", 400, "GET / HTTP/1.1\r\nhost: a\r\nx: 1\n2\r\n\r\n");
    check("a NUL", 400, "GET / HTTP/1.1\r\nhost: a\r\nx: \0\r\n\r\n");
    check("two hosts", 400, "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n");
    check("no host", 400, "GET / HTTP/1.1\r\n\r\n");
    check("no version", 400, "GET /\r\n\r\n");
    check("no request at all", 400, "\x16\x03\x01\r\n\r\n");
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_broken_chunk_never_completes_a_request() {
    let complete = Arc::new(AtomicBool::new(false));
    let ended = Arc::new(AtomicUsize::new(0));
    let (flag, counter) = (Arc::clone(&complete), Arc::clone(&ended));
    let origin = Origin::scripted(move |_, wire, _| {
        let request = wire.try_message();
        flag.fetch_or(request.is_some_and(|request| request.complete), Ordering::SeqCst);
        counter.fetch_add(1, Ordering::SeqCst);
    });
    let proxy = proxy(&origin);
    for chunk in ["zz\r\nhi\r\n", "2\r\nhiXX0\r\n\r\n", "ffffffffffffffffff\r\nhi", "-1\r\n\r\n", "2;\n\r\nhi\r\n"] {
        let mut client = proxy.connect();
        client.send(format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n{chunk}"));
        let answer = client.try_message();
        assert!(answer.is_none_or(|answer| answer.status() == 400), "{chunk}");
    }
    eventually("the origin saw every request break", || ended.load(Ordering::SeqCst) == origin.connections());
    assert!(!complete.load(Ordering::SeqCst));
}

#[test]
fn heads_that_are_too_large_are_refused() {
    let origin = Origin::text("hi");
    let proxy = proxy_with(
        &origin,
        json!({ "max_request_headers_kb": 8, "common_http_protocol_options": { "max_headers_count": 20 } }),
    );
    let check = |name: &str, status: u16, headers: String| {
        let mut client = proxy.connect();
        assert_eq!(client.ask(format!("GET / HTTP/1.1\r\nhost: a\r\n{headers}\r\n")).status(), status, "{name}");
    };
    check("many bytes", 431, format!("x: {}\r\n", "v".repeat(9 * 1024)));
    check("many headers", 431, (0..21).map(|i| format!("x-{i}: v\r\n")).collect());
    check("as many as are allowed", 200, (0..15).map(|i| format!("x-{i}: v\r\n")).collect());
}

#[test]
fn a_head_that_does_not_come_in_time_is_answered_with_408() {
    let origin = Origin::text("hi");
    let proxy = proxy_with(&origin, json!({ "request_headers_timeout": "0.05s" }));
    let mut client = proxy.connect();
    assert_eq!(client.ask("GET / HTTP/1.1\r\nhost").status(), 408);
    assert!(client.is_closed());
}

#[test]
fn a_body_that_does_not_come_in_time_is_answered_with_408() {
    let origin = Origin::text("hi");
    let proxy = proxy_with(&origin, json!({ "request_timeout": "0.05s" }));
    let mut client = proxy.connect();
    let answer = client.ask("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhel");
    assert_eq!((answer.status(), answer.text()), (408, "request timeout".into()));
    assert!(client.is_closed());
}

#[test]
fn an_idle_connection_is_closed_after_the_idle_timeout() {
    let origin = Origin::text("hi");
    let proxy = proxy_with(&origin, json!({ "common_http_protocol_options": { "idle_timeout": "0.1s" } }));
    let mut client = proxy.connect();
    assert_eq!(client.ask(GET).text(), "hi");
    assert!(client.is_closed());
    assert!(proxy.connect().is_closed(), "also before the first request");
}

#[test]
fn a_stream_without_activity_is_answered_with_504_or_408() {
    let origin = Origin::scripted(|_, wire, _| {
        wire.message();
        wire.rest();
    });
    let proxy = proxy_with(&origin, json!({ "stream_idle_timeout": "0.05s" }));
    let check = |request: &str, status: u16| {
        let answer = proxy.connect().ask(request);
        assert_eq!((answer.status(), answer.text()), (status, "stream timeout".into()));
    };
    check(GET, 504);
    // The client is the one who is waited for.
    check("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n", 408);
}

#[test]
fn a_client_that_leaves_cancels_the_request_at_the_origin() {
    let (left, gone) = mpsc::channel();
    let left = std::sync::Mutex::new(left);
    let origin = Origin::scripted(move |_, wire, origin| {
        origin.note(wire.message());
        left.lock().unwrap().send(wire.is_closed()).unwrap();
    });
    let proxy = proxy(&origin);
    let mut client = proxy.connect();
    client.send(GET);
    eventually("the origin has the request", || !origin.seen().is_empty());
    drop(client);
    assert!(gone.recv().unwrap());
}

#[test]
fn a_client_that_leaves_in_mid_response_cancels_it() {
    let (left, gone) = mpsc::channel();
    let left = std::sync::Mutex::new(left);
    let origin = Origin::scripted(move |_, wire, _| {
        wire.message();
        wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n");
        left.lock().unwrap().send(wire.is_closed()).unwrap();
    });
    let proxy = proxy(&origin);
    let mut client = proxy.connect();
    assert_eq!(client.send(GET).head().unwrap().status(), 200);
    drop(client);
    assert!(gone.recv().unwrap());
}

#[test]
fn a_response_that_breaks_off_is_never_complete_for_the_client() {
    let bodies = [
        "content-length: 10\r\n\r\nhello",
        "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "transfer-encoding: chunked\r\n\r\n5\r\nhe",
        "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
    ];
    for body in bodies {
        let origin = Origin::scripted(move |_, wire, _| {
            wire.message();
            wire.send(format!("HTTP/1.1 200 OK\r\n{body}"));
        });
        let proxy = proxy(&origin);
        let mut client = proxy.connect();
        let answer = client.ask(GET);
        assert_eq!(answer.status(), 200, "{body}");
        assert!(!answer.complete, "{body}: {answer:?}");
        assert!(client.is_closed());
    }
}

#[test]
fn an_origin_that_is_no_http_server_is_a_bad_gateway() {
    let check = |name: &str, bytes: &'static str, status: u16| {
        let origin = Origin::scripted(move |_, wire, _| {
            wire.message();
            wire.send(bytes);
        });
        let proxy = proxy(&origin);
        let answer = proxy.connect().ask(GET);
        assert_eq!((answer.status(), answer.complete), (status, true), "{name}");
    };
    check("not HTTP", "SSH-2.0-OpenSSH\r\n\r\n", 502);
    check("two lengths", "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nhi", 502);
    check("nothing", "", 503);
    check("half a head", "HTTP/1.1 200 OK\r\nconte", 503);
}

#[test]
fn bytes_after_a_response_do_not_reach_the_next_client() {
    let origin = Origin::http(|request: &Message| {
        let mut bytes = reply(200, request.path());
        bytes.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil");
        bytes
    });
    let proxy = proxy(&origin);
    let mut client = proxy.connect();
    for path in ["/a", "/b", "/c"] {
        let answer = client.ask(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n"));
        assert_eq!(answer.text(), path);
    }
}

#[test]
fn the_last_answer_reaches_a_client_that_still_sends() {
    let origin = Origin::text("hi");
    let proxy = proxy(&origin);
    let client = proxy.connect();
    let mut socket = client.socket().try_clone().unwrap();
    let mut client = client;
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n");
    client.send(vec![b'x'; MEGABYTE]);
    let mut text = String::new();
    let _ = socket.read_to_string(&mut text);
    assert!(text.starts_with("HTTP/1.1 400"), "{text:?}");
}
