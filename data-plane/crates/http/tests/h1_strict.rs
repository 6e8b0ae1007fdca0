//! What a server must refuse and what it must not: request smuggling (RFC 9112 §11.2), targets, hosts, chunks, limits.
//!
//! Every row is bytes on the wire and what comes of them. A refusal is a status; a body that breaks is an error.

#![allow(clippy::unwrap_used)]

use std::fmt::Write;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;

use dp_http::h1::{ClientConn, ClientOptions, ServerConn, ServerOptions, Underscores};
use dp_http::{ClientStream, Frame, Method, RequestHead, StreamErrorKind};
use tokio::io::AsyncWriteExt;

/// All requests of a connection: `METHOD authority path [body] {trailers}`, then a refusal as a status, or `!` for a
/// body that broke.
async fn served(bytes: &[u8], options: ServerOptions) -> String {
    let (mut near, far) = tokio::io::duplex(1 << 20);
    near.write_all(bytes).await.unwrap();
    near.shutdown().await.unwrap();
    let mut conn = ServerConn::new(Box::new(far), Arc::new(options));
    let mut out = Vec::new();
    loop {
        let head = match conn.read_head().await {
            Ok(Some(head)) => head,
            Ok(None) => return out.join(", "),
            Err(error) => {
                out.push(error.status.to_string());
                return out.join(", ");
            }
        };
        let mut text = format!("{} {} {}", head.method, head.authority(), head.path());
        let mut body = Vec::new();
        while let Some(frame) = poll_fn(|cx| conn.poll_body(cx)).await {
            match frame {
                Ok(Frame::Data(data)) => body.extend_from_slice(&data),
                Ok(Frame::Trailers(trailers)) => write!(text, " {trailers:?}").unwrap(),
                Err(_) => {
                    out.push(text + "!");
                    return out.join(", ");
                }
            }
        }
        if !body.is_empty() {
            write!(text, " [{}]", String::from_utf8_lossy(&body)).unwrap();
        }
        out.push(text);
        conn.send_head(&dp_http::ResponseHead::new(204), true).unwrap();
    }
}

async fn check(bytes: &str, expected: &str) {
    assert_eq!(served(bytes.as_bytes(), ServerOptions::default()).await, expected, "{bytes:?}");
}

/// `fields` in a POST to host `a`, and then `rest`.
async fn check_post(fields: &str, rest: &str, expected: &str) {
    check(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n{rest}"), expected).await;
}

const SMUGGLED: &str = "GET /evil HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn a_length_that_two_readers_could_take_differently_is_refused() {
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: 5,\r\n",
        "Content-Length: ,5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: 5.0\r\n",
        "Content-Length: 5_0\r\n",
        "Content-Length: \"5\"\r\n",
        "Content-Length:\r\n",
        "Content-Length: five\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Content-Length: 000000000000000000005\r\n",
        "Content-Length : 5\r\n",
        "Content-Length\t: 5\r\n",
        " Content-Length: 5\r\n",
        "X: y\r\n Content-Length: 5\r\n",
        "X: y\r\n\tTransfer-Encoding: chunked\r\n",
        "X: y\nContent-Length: 5\r\n",
        "X: y\rContent-Length: 5\r\n",
        "X: y\0\r\n",
        "X\0: y\r\n",
        "X: \x0by\r\n",
        "X: \x7f\r\n",
        "X\x0bY: z\r\n",
        "Content-Length\r\n",
        ": 5\r\n",
        "X y: 5\r\n",
        "X\u{e9}: 5\r\n",
        "(X): 5\r\n",
    ] {
        check_post(fields, SMUGGLED, "400").await;
    }
}

#[tokio::test]
async fn chunked_is_the_only_coding_and_stands_last() {
    for (coding, status) in [
        ("Transfer-Encoding: gzip, chunked\r\n", "501"),
        ("Transfer-Encoding: chunked, gzip\r\n", "400"),
        ("Transfer-Encoding: gzip\r\n", "400"),
        ("Transfer-Encoding: identity\r\n", "400"),
        ("Transfer-Encoding: xchunked\r\n", "400"),
        ("Transfer-Encoding: chunkedx\r\n", "400"),
        ("Transfer-Encoding: chunked, chunked\r\n", "400"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "400"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "400"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n", "400"),
        ("Transfer-Encoding: chunked;q=1\r\n", "400"),
        ("Transfer-Encoding: \"chunked\"\r\n", "400"),
        ("Transfer-Encoding: 'chunked'\r\n", "400"),
        ("Transfer-Encoding: chunked,\r\n", "400"),
        ("Transfer-Encoding: ,chunked\r\n", "400"),
        ("Transfer-Encoding:\r\n", "400"),
        ("Transfer-Encoding: \x0bchunked\r\n", "400"),
        ("Transfer-Encoding : chunked\r\n", "400"),
        ("Transfer\r\n-Encoding: chunked\r\n", "400"),
    ] {
        check_post(coding, "0\r\n\r\n", status).await;
    }
    check("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400").await;
    check_post("tRANSFER-eNCODING: \t CHUNKED \t\r\n", "1\r\nx\r\n0\r\n\r\n", "POST a / [x]").await;
}

#[tokio::test]
async fn what_is_allowed_stays_allowed() {
    let next = "GET /next HTTP/1.1\r\nhost: b\r\n\r\n";
    for (fields, body, expected) in [
        ("Content-Length: 2\r\n", "hi", "POST a / [hi]"),
        ("Content-Length: 2\r\nContent-Length: 2\r\n", "hi", "POST a / [hi]"),
        ("Content-Length: 2, 2\r\n", "hi", "POST a / [hi]"),
        ("Content-Length: 0002\r\n", "hi", "POST a / [hi]"),
        ("content-length:2\r\n", "hi", "POST a / [hi]"),
        ("Content-Length: 0\r\n", "", "POST a /"),
        ("", "", "POST a /"),
        ("", "\r\n\r\n", "POST a /"),
        ("X:\r\nY: \u{e9}\r\n", "", "POST a /"),
        ("Transfer-Encoding: chunked\r\n", "2\r\nhi\r\n00\r\n\r\n", "POST a / [hi]"),
        ("Transfer-Encoding: chunked\r\n", "A;x=y; z=\"1\"\r\n0123456789\r\n0;last\r\n\r\n", "POST a / [0123456789]"),
        ("Transfer-Encoding: chunked\r\n", "0\r\nX-Sum: 1\r\n\r\n", "POST a / {\"x-sum\": \"1\"}"),
        (
            "Transfer-Encoding: chunked\r\n",
            "0\r\nContent-Length: 5\r\nHost: x\r\nX-Forwarded-For: y\r\n\r\n",
            "POST a /",
        ),
    ] {
        check_post(fields, &format!("{body}{next}"), &format!("{expected}, GET b /next")).await;
    }
}

#[tokio::test]
async fn a_broken_chunk_breaks_the_body() {
    let long = format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(5000));
    for chunks in [
        "\r\nx",
        "x\r\n",
        "0x1\r\nx\r\n0\r\n\r\n",
        "+1\r\nx\r\n0\r\n\r\n",
        "-1\r\n",
        " 1\r\nx\r\n0\r\n\r\n",
        "1 \r\nx\r\n0\r\n\r\n",
        "1 ;a\r\nx\r\n0\r\n\r\n",
        "1\nx\r\n0\r\n\r\n",
        "1\rx\r\n0\r\n\r\n",
        "1\r\nx0\r\n\r\n",
        "1\r\nxy\r\n0\r\n\r\n",
        "1\r\nx\n0\r\n\r\n",
        "1;a\0\r\nx\r\n0\r\n\r\n",
        "1;a\nx\r\n0\r\n\r\n",
        "1;a\rb\r\nx\r\n0\r\n\r\n",
        ";a\r\nx\r\n0\r\n\r\n",
        "10000000000000000\r\nx",
        "ffffffffffffffff0\r\nx",
        "00000000000000001\r\nx\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFF\r\nx",
        "2\r\nx",
        "1\r\nx\r\n",
        "0\r\n",
        "0\r\nX: y\r\n",
        "0\r\nX y: z\r\n\r\n",
        "0\r\nX: y\n\n",
        "0\r\n X: y\r\n\r\n",
        "",
        &long,
    ] {
        check_post("Transfer-Encoding: chunked\r\n", chunks, "POST a /!").await;
    }
    check_post("Content-Length: 5\r\n", "four", "POST a /!").await;
}

#[tokio::test]
async fn the_request_line_has_one_form() {
    for (line, expected) in [
        ("GET / HTTP/1.1", "GET a /"),
        ("get / HTTP/1.1", "get a /"),
        ("PURGE /x HTTP/1.1", "PURGE a /x"),
        ("GET /?q=\"{}|^`<> HTTP/1.1", "GET a /?q=\"{}|^`<>"),
        ("GET  / HTTP/1.1", "400"),
        ("GET /  HTTP/1.1", "400"),
        ("GET / HTTP/1.1 ", "400"),
        (" GET / HTTP/1.1", "400"),
        ("GET\t/ HTTP/1.1", "400"),
        ("GET /", "400"),
        ("GET", "400"),
        ("GET / HTTP/1.1\rX", "400"),
        ("GET / HTTP/2.0", "505"),
        ("GET / HTTP/1.2", "505"),
        ("GET / HTTP/0.9", "505"),
        ("PRI * HTTP/2.0", "505"),
        ("GET / HTTP/1.10", "400"),
        ("GET / HTTP/11", "400"),
        ("GET / http/1.1", "400"),
        ("GET / XTTP/1.1", "400"),
        ("GET / HTTP/1.\u{661}", "400"),
        ("G(T / HTTP/1.1", "400"),
        ("G\0T / HTTP/1.1", "400"),
        ("GET /a#b HTTP/1.1", "400"),
        ("GET /\x7f HTTP/1.1", "400"),
        ("GET /\u{e9} HTTP/1.1", "400"),
        ("GET /\0 HTTP/1.1", "400"),
        ("GET a HTTP/1.1", "400"),
        ("GET * HTTP/1.1", "400"),
        ("OPTIONS * HTTP/1.1", "OPTIONS a *"),
        ("OPTIONS http://b HTTP/1.1", "OPTIONS b *"),
        ("GET http://b HTTP/1.1", "GET b /"),
        ("GET http://b?x HTTP/1.1", "GET b /?x"),
        ("GET HTTPS://b:1/c?d HTTP/1.1", "GET b:1 /c?d"),
        ("GET http://[::1]:1/ HTTP/1.1", "GET [::1]:1 /"),
        ("GET http:///x HTTP/1.1", "400"),
        ("GET http://u:p@b/ HTTP/1.1", "400"),
        ("GET ftp://b/ HTTP/1.1", "400"),
        ("GET http:/b HTTP/1.1", "400"),
        ("GET //b/c HTTP/1.1", "GET a //b/c"),
        ("CONNECT b:443 HTTP/1.1", "CONNECT b:443 "),
        ("CONNECT b HTTP/1.1", "400"),
        ("CONNECT /b HTTP/1.1", "400"),
        ("CONNECT http://b:1/ HTTP/1.1", "400"),
        ("CONNECT u@b:1 HTTP/1.1", "400"),
    ] {
        check(&format!("{line}\r\nHost: a\r\n\r\n"), expected).await;
    }
}

#[tokio::test]
async fn a_request_has_one_valid_host() {
    for (host, expected) in [
        ("Host: a", "GET a /"),
        ("Host: a.b:8080", "GET a.b:8080 /"),
        ("Host: [::1]", "GET [::1] /"),
        ("Host: a_b", "GET a_b /"),
        ("X: y", "400"),
        ("Host:", "400"),
        ("Host: a\r\nHost: a", "400"),
        ("Host: a\r\nHost: b", "400"),
        ("Host: a/b", "400"),
        ("Host: a?b", "400"),
        ("Host: a#b", "400"),
        ("Host: a b", "400"),
        ("Host: u@a", "400"),
        ("Host: a:b", "400"),
        ("Host: a:99999", "400"),
        ("Host: [::1", "400"),
        ("Host: a\u{e9}", "400"),
        ("Host: http://a", "400"),
        ("Host : a", "400"),
    ] {
        check(&format!("GET / HTTP/1.1\r\n{host}\r\n\r\n"), expected).await;
    }
    check("GET / HTTP/1.0\r\n\r\n", "GET  /").await;
    check("GET http://b/ HTTP/1.1\r\n\r\n", "400").await;
    check("GET http://b/ HTTP/1.1\r\nHost: a b\r\n\r\n", "400").await;
}

#[tokio::test]
async fn limits_are_answered_with_their_status() {
    let options = ServerOptions { max_head_size: 200, max_headers: 3, ..ServerOptions::default() };
    let long = "x".repeat(300);
    for (bytes, expected) in [
        (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), "414"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"), "431"),
        ("GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 1\r\n\r\n".into(), "GET a /"),
        ("GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 1\r\nC: 1\r\n\r\n".into(), "431"),
        ("GET / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n".into(), "417"),
        ("GET / HTTP/1.1\r\nHost: a\r\n".into(), "400"),
        ("\x16\x03\x01\x02".into(), "400"),
        ("GET / HTTP/1.1\nHost: a\n\n".into(), "400"),
    ] {
        assert_eq!(served(bytes.as_bytes(), options.clone()).await, expected, "{bytes:?}");
    }
}

#[tokio::test]
async fn only_so_many_empty_lines_come_before_a_request() {
    let check = async |lines: usize, expected: &str| {
        check(&format!("{}GET / HTTP/1.1\r\nHost: a\r\n\r\n", "\r\n".repeat(lines)), expected).await;
    };
    check(16, "GET a /").await;
    check(17, "400").await;
    check(10_000, "400").await;
}

#[tokio::test]
async fn policies_decide_what_rules_leave_open() {
    let underscore = "GET / HTTP/1.1\r\nHost: a\r\nX_Y: 1\r\n\r\n";
    let absolute = "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n";
    let old = "GET / HTTP/1.0\r\n\r\n";
    let plain = ServerOptions::default;
    for (bytes, options, expected) in [
        (underscore, plain(), "GET a /"),
        (underscore, ServerOptions { underscores: Underscores::Drop, ..plain() }, "GET a /"),
        (underscore, ServerOptions { underscores: Underscores::Reject, ..plain() }, "400"),
        (absolute, plain(), "GET b /"),
        (absolute, ServerOptions { absolute_urls: false, ..plain() }, "400"),
        (old, plain(), "GET  /"),
        (old, ServerOptions { accept_http10: false, ..plain() }, "426"),
    ] {
        assert_eq!(served(bytes.as_bytes(), options).await, expected, "{bytes:?}");
    }
}

#[tokio::test]
async fn a_field_with_an_underscore_is_dropped_alone() {
    let (mut near, far) = tokio::io::duplex(1 << 10);
    let options = ServerOptions { underscores: Underscores::Drop, ..ServerOptions::default() };
    near.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\nX: 1\r\n\r\n").await.unwrap();
    let head = ServerConn::new(Box::new(far), Arc::new(options)).read_head().await.unwrap().unwrap();
    assert_eq!(head.headers, [("x", "1")].into_iter().collect());
}

/// What a client makes of a response: the heads' statuses, the body, and the error if one ended it.
async fn understood(method: Method, bytes: &str) -> Result<(u16, String, bool), StreamErrorKind> {
    let (mut near, far) = tokio::io::duplex(1 << 20);
    let mut stream = ClientStream::H1(Box::new(ClientConn::new(Box::new(far), Rc::new(ClientOptions::default()))));
    stream.send_head(&RequestHead::new(method, "a", "/"), true).unwrap();
    near.write_all(bytes.as_bytes()).await.unwrap();
    near.shutdown().await.unwrap();
    let head = loop {
        let head = poll_fn(|cx| stream.poll_head(cx)).await.map_err(|error| error.kind)?;
        if !head.is_informational() {
            break head;
        }
    };
    let mut body = String::new();
    while let Some(frame) = poll_fn(|cx| stream.poll_body(cx)).await {
        if let Frame::Data(data) = frame.map_err(|error| error.kind)? {
            body.push_str(std::str::from_utf8(&data).unwrap());
        }
    }
    Ok((head.status, body, stream.into_reusable().is_some()))
}

#[tokio::test]
async fn a_response_is_read_as_strictly_as_a_request() {
    let many = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(17);
    let protocol = |details| Err(StreamErrorKind::Protocol(details));
    let ok = |status, body: &str, reusable| Ok((status, body.to_owned(), reusable));
    let get = Method::Get;
    for (method, bytes, expected) in [
        (&get, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", ok(200, "hi", true)),
        (&get, "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi", ok(200, "hi", true)),
        (&get, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 \r\n\r\n", ok(204, "", true)),
        (&get, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi!", ok(200, "hi", false)),
        (&get, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi", ok(200, "hi", false)),
        (&get, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", ok(200, "hi", false)),
        (&get, "HTTP/1.1 200 OK\r\n\r\nhi", ok(200, "hi", false)),
        (&get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", ok(200, "hi", true)),
        (&Method::Head, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", ok(200, "", true)),
        (&get, "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", ok(304, "", true)),
        (&get, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi", Err(StreamErrorKind::Closed)),
        (&get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n", Err(StreamErrorKind::Closed)),
        (&get, "HTTP/1.1 200 OK\r\n", Err(StreamErrorKind::Closed)),
        (&get, "", Err(StreamErrorKind::Closed)),
        (
            &get,
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
            protocol("content_length_and_transfer_encoding"),
        ),
        (
            &get,
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
            protocol("several_content_lengths"),
        ),
        (&get, "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", protocol("transfer_encoding_not_allowed")),
        (&get, "HTTP/1.1 204 OK\r\nTransfer-Encoding: chunked\r\n\r\n", protocol("transfer_encoding_not_allowed")),
        (&get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", protocol("invalid_transfer_encoding")),
        (&get, "HTTP/1.1 101 Switching Protocols\r\n\r\n", protocol("unexpected_101")),
        (&get, "HTTP/2.0 200 OK\r\n\r\n", protocol("http_version_not_supported")),
        (&get, "HTTP/1.1 099 OK\r\n\r\n", protocol("invalid_status")),
        (&get, "HTTP/1.1 2000 OK\r\n\r\n", protocol("invalid_reason")),
        (&get, "HTTP/1.1  200 OK\r\n\r\n", protocol("invalid_status")),
        (&get, "HTTP/1.1 200 O\0K\r\n\r\n", protocol("invalid_reason")),
        (&get, "HTTP/1.1 200 OK\r\nX : y\r\n\r\n", protocol("invalid_header_name")),
        (&get, "HTTP/1.1 200 OK\r\nX: y\r\n folded\r\n\r\n", protocol("obs_fold")),
        (&get, "HTTP/1.1 200 OK\nX: y\n\n", protocol("bare_lf")),
        (&get, "\x15\x03\x01", protocol("not_http")),
        (&get, &many, protocol("too_many_informational_heads")),
    ] {
        assert_eq!(understood(method.clone(), bytes).await, expected, "{bytes:?}");
    }
}
