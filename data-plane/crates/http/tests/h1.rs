//! HTTP/1 through its public face: one side against bytes, and both sides against each other.

#![allow(clippy::unwrap_used)]

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use dp_http::h1::{ClientConn, ClientOptions, ServerConn, ServerOptions, Version};
use dp_http::{
    ClientStream, Frame, Headers, Method, RequestHead, ResponseHead, ServerStream, StreamError, StreamErrorKind,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

fn server(size: usize) -> (DuplexStream, ServerConn) {
    server_with(size, ServerOptions::default())
}

fn server_with(size: usize, options: ServerOptions) -> (DuplexStream, ServerConn) {
    let (near, far) = tokio::io::duplex(size);
    (near, ServerConn::new(Box::new(far), Arc::new(options)))
}

fn client(size: usize) -> (DuplexStream, ClientStream) {
    let (near, far) = tokio::io::duplex(size);
    (near, ClientStream::H1(Box::new(ClientConn::new(Box::new(far), Rc::new(ClientOptions::default())))))
}

fn get(path: &str) -> RequestHead {
    RequestHead::new(Method::Get, "host", path)
}

/// All of a body, its trailers, and the error it ended with.
#[derive(Debug, Default, PartialEq)]
struct Body {
    data: Vec<u8>,
    trailers: Option<Headers>,
    error: Option<StreamErrorKind>,
}

impl Body {
    fn add(&mut self, frame: Result<Frame, StreamError>) {
        match frame {
            Ok(Frame::Data(data)) => self.data.extend_from_slice(&data),
            Ok(Frame::Trailers(trailers)) => self.trailers = Some(trailers),
            Err(error) => self.error = Some(error.kind),
        }
    }
}

async fn request_body(stream: &mut ServerStream<'_>) -> Body {
    let mut body = Body::default();
    while body.error.is_none() {
        let Some(frame) = poll_fn(|cx| stream.poll_body(cx)).await else { break };
        body.add(frame);
    }
    body
}

async fn response_body(stream: &mut ClientStream) -> Body {
    let mut body = Body::default();
    while body.error.is_none() {
        let Some(frame) = poll_fn(|cx| stream.poll_body(cx)).await else { break };
        body.add(frame);
    }
    body
}

async fn received(near: &mut DuplexStream, length: usize) -> String {
    let mut bytes = vec![0; length];
    near.read_exact(&mut bytes).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Everything the server side wrote for `head` and `body` in answer to `request`.
async fn answer(request: &str, head: ResponseHead, body: Option<&'static [u8]>) -> String {
    let (mut near, mut conn) = server(1 << 16);
    near.write_all(request.as_bytes()).await.unwrap();
    conn.read_head().await.unwrap().unwrap();
    let mut stream = ServerStream::H1(&mut conn);
    stream.send_head(&head, body.is_none()).unwrap();
    if let Some(body) = body {
        stream.send_data(Bytes::from_static(body), true).unwrap();
    }
    poll_fn(|cx| stream.poll_flush(cx)).await.unwrap();
    drop(conn);
    let mut text = String::new();
    near.read_to_string(&mut text).await.unwrap();
    text
}

fn ok(fields: &[(&str, &str)]) -> ResponseHead {
    let mut head = ResponseHead::new(200);
    head.headers = fields.iter().copied().collect();
    head
}

#[tokio::test]
async fn a_response_is_framed_for_the_client_that_asked() {
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let head = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    let old = "GET / HTTP/1.0\r\n\r\n";
    let old_alive = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let close = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n";
    let cases: &[(&str, ResponseHead, Option<&'static [u8]>, &str)] = &[
        (get, ok(&[("x-a", "1")]), None, "HTTP/1.1 200 OK\r\nx-a: 1\r\ncontent-length: 0\r\n\r\n"),
        (get, ok(&[("content-length", "2")]), Some(b"hi"), "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"),
        (get, ok(&[]), Some(b"hi"), "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"),
        (get, ok(&[]), Some(b""), "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        (head, ok(&[("content-length", "7")]), None, "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n"),
        (head, ok(&[]), Some(b"dropped"), "HTTP/1.1 200 OK\r\n\r\n"),
        (old, ok(&[]), Some(b"hi"), "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhi"),
        (
            old_alive,
            ok(&[("content-length", "2")]),
            Some(b"hi"),
            "HTTP/1.1 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nhi",
        ),
        (old_alive, ok(&[]), Some(b"hi"), "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhi"),
        (close, ok(&[]), None, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"),
        (get, ResponseHead::new(204), None, "HTTP/1.1 204 No Content\r\n\r\n"),
        (get, ResponseHead::new(304), None, "HTTP/1.1 304 Not Modified\r\n\r\n"),
        (
            get,
            ok(&[("connection", "x"), ("transfer-encoding", "gzip"), ("keep-alive", "1"), ("upgrade", "y")]),
            None,
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        ),
    ];
    for (request, head, body, expected) in cases {
        assert_eq!(answer(request, head.clone(), *body).await, *expected, "{request}");
    }
}

#[tokio::test]
async fn pipelined_requests_are_served_in_order() {
    let (mut near, mut conn) = server(1 << 16);
    near.write_all(b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET /b HTTP/1.1\r\nHost: h\r\n\r\n")
        .await
        .unwrap();
    for (path, body) in [("/a", &b"abc"[..]), ("/b", b"")] {
        let head = conn.read_head().await.unwrap().unwrap();
        assert_eq!(head.path(), path);
        let mut stream = ServerStream::H1(&mut conn);
        assert_eq!(request_body(&mut stream).await.data, body);
        stream.send_head(&ResponseHead::new(204), true).unwrap();
    }
    drop(near);
    assert!(!conn.wait_readable().await);
}

#[tokio::test]
async fn a_connection_is_used_again_after_a_whole_exchange() {
    let (mut near, mut stream) = client(1 << 16);
    for _ in 0..2 {
        stream.send_head(&get("/x"), true).unwrap();
        poll_fn(|cx| stream.poll_flush(cx)).await.unwrap();
        let expected = "GET /x HTTP/1.1\r\nhost: host\r\n\r\n";
        assert_eq!(received(&mut near, expected.len()).await, expected);
        near.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await.unwrap();
        let head = poll_fn(|cx| stream.poll_head(cx)).await.unwrap();
        assert_eq!((head.status, head.headers.text("content-length")), (200, Some("2")));
        assert_eq!(response_body(&mut stream).await.data, b"hi");
        stream = ClientStream::H1(stream.into_reusable().expect("complete and keep-alive"));
    }
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_told_from_http1() {
    for (bytes, version) in [
        (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nrest"[..], Some(Version::Http2)),
        (b"P", Some(Version::Http1)),
        (b"PRI / HTTP/1.1", Some(Version::Http1)),
        (b"", None),
    ] {
        let (mut near, mut conn) = server(64);
        near.write_all(bytes).await.unwrap();
        drop(near);
        assert_eq!(conn.detect().await, version);
        assert_eq!(conn.into_parts().1, bytes);
    }
}

/// What the client side writes for `head`.
async fn asked(head: &RequestHead, body: Option<&'static [u8]>) -> Result<String, StreamErrorKind> {
    let (mut near, mut stream) = client(1 << 16);
    stream.send_head(head, body.is_none()).map_err(|error| error.kind)?;
    if let Some(body) = body {
        stream.send_data(Bytes::from_static(body), true).map_err(|error| error.kind)?;
    }
    poll_fn(|cx| stream.poll_flush(cx)).await.map_err(|error| error.kind)?;
    drop(stream);
    let mut text = String::new();
    near.read_to_string(&mut text).await.unwrap();
    Ok(text)
}

fn request(method: Method, path: &str, fields: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead::new(method, "host", path);
    for (name, value) in fields {
        head.headers.append(*name, value.as_bytes());
    }
    head
}

#[tokio::test]
async fn a_request_is_framed_by_the_codec_alone() {
    let mut connect = RequestHead::new(Method::Connect, "b:443", "");
    connect.headers.append("x", b"1");
    let hop = [("connection", "x"), ("keep-alive", "1"), ("host", "evil"), ("transfer-encoding", "gzip"), ("x", "1")];
    let cases: &[(RequestHead, Option<&'static [u8]>, &str)] = &[
        (request(Method::Get, "/a?b", &hop), None, "GET /a?b HTTP/1.1\r\nhost: host\r\nx: 1\r\n\r\n"),
        (request(Method::Post, "/", &[]), None, "POST / HTTP/1.1\r\nhost: host\r\ncontent-length: 0\r\n\r\n"),
        (request(Method::Options, "*", &[]), None, "OPTIONS * HTTP/1.1\r\nhost: host\r\ncontent-length: 0\r\n\r\n"),
        (connect, Some(b""), "CONNECT b:443 HTTP/1.1\r\nhost: b:443\r\nx: 1\r\n\r\n"),
        (
            request(Method::Put, "/", &[("content-length", "2")]),
            Some(b"hi"),
            "PUT / HTTP/1.1\r\nhost: host\r\ncontent-length: 2\r\n\r\nhi",
        ),
        (
            request(Method::Put, "/", &[]),
            Some(b"hi"),
            "PUT / HTTP/1.1\r\nhost: host\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        ),
        (
            request(Method::Get, "/", &[("te", "trailers")]),
            None,
            "GET / HTTP/1.1\r\nhost: host\r\nte: trailers\r\nconnection: te\r\n\r\n",
        ),
    ];
    for (head, body, expected) in cases {
        assert_eq!(asked(head, *body).await.as_deref(), Ok(*expected), "{head:?}");
    }
}

#[tokio::test]
async fn what_a_filter_put_into_a_head_cannot_split_it() {
    let cannot = |details| Err(StreamErrorKind::Protocol(details));
    let head = "request_head_cannot_be_written";
    let other = Method::Other("G T".into());
    for (head, expected) in [
        (request(Method::Get, "/ HTTP/1.1\r\nx: y", &[]), cannot(head)),
        (request(Method::Get, "/a b", &[]), cannot(head)),
        (request(Method::Get, "", &[]), cannot(head)),
        (request(other, "/", &[]), cannot(head)),
        (RequestHead::new(Method::Get, "a\r\nx: y", "/"), cannot(head)),
        (request(Method::Get, "/", &[("x", "a\r\ny: b")]), cannot("header_value_cannot_be_written")),
        (request(Method::Get, "/", &[("x", "a\0")]), cannot("header_value_cannot_be_written")),
        (request(Method::Get, "/", &[("content-length", "1, 2")]), cannot("invalid_content_length")),
        (request(Method::Get, "/", &[("content-length", "2")]), cannot("body_shorter_than_content_length")),
    ] {
        assert_eq!(asked(&head, None).await, expected, "{head:?}");
    }
    let length = request(Method::Put, "/", &[("content-length", "2")]);
    assert_eq!(asked(&length, Some(b"h")).await, cannot("body_shorter_than_content_length"));
    assert_eq!(asked(&length, Some(b"hi!")).await, cannot("body_longer_than_content_length"));
}

#[tokio::test]
async fn names_are_written_in_proper_case_when_asked_for() {
    let (mut near, mut conn) = server_with(1024, ServerOptions { proper_case: true, ..ServerOptions::default() });
    near.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    conn.read_head().await.unwrap().unwrap();
    conn.send_head(&ok(&[("x-my-field", "v")]), true).unwrap();
    poll_fn(|cx| conn.poll_flush(cx)).await.unwrap();
    let expected = "HTTP/1.1 200 OK\r\nX-My-Field: v\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(received(&mut near, expected.len()).await, expected);
}

#[tokio::test]
async fn a_reader_that_takes_nothing_stops_the_writer() {
    let (mut near, mut conn) = server(1024);
    near.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    conn.read_head().await.unwrap().unwrap();
    conn.send_head(&ok(&[]), false).unwrap();
    let piece = Bytes::from(vec![b'x'; 10_000]);
    let mut sent = 0;
    while let Some(ready) = poll_now(|cx| conn.poll_ready(cx)) {
        ready.unwrap();
        conn.send_data(piece.clone(), false).unwrap();
        sent += 1;
    }
    // One pipe and one output limit, and not a piece more.
    assert_eq!(sent, 7);
    conn.send_data(Bytes::new(), true).unwrap();
    let mut text = Vec::new();
    let ((), read) = tokio::join!(
        async {
            poll_fn(|cx| conn.poll_flush(cx)).await.unwrap();
            conn.reset();
            drop(conn);
        },
        near.read_to_end(&mut text)
    );
    read.unwrap();
    assert!(text.ends_with(b"x\r\n0\r\n\r\n"));
    assert_eq!(text.iter().filter(|byte| **byte == b'x').count(), 70_000);
}

/// The result of a poll that is ready now.
fn poll_now<T>(mut poll: impl FnMut(&mut std::task::Context<'_>) -> std::task::Poll<T>) -> Option<T> {
    match poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

#[tokio::test]
async fn a_client_that_expects_to_continue_is_told_or_not_kept() {
    let text = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    for (told, expected) in [
        (true, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        (false, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"),
    ] {
        let (mut near, mut conn) = server(1024);
        near.write_all(text).await.unwrap();
        conn.read_head().await.unwrap().unwrap();
        assert!(conn.expects_continue());
        if told {
            conn.send_informational(&ResponseHead::new(100)).unwrap();
        }
        conn.send_head(&ok(&[]), true).unwrap();
        poll_fn(|cx| conn.poll_flush(cx)).await.unwrap();
        assert_eq!(received(&mut near, expected.len()).await, expected);
        assert_eq!(conn.is_keep_alive(), told);
    }
}

#[tokio::test]
async fn an_upgrade_turns_into_a_tunnel_with_the_bytes_that_came_early() {
    let (mut near, mut conn) = server(1024);
    near.write_all(
        b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\nearly",
    )
    .await
    .unwrap();
    let head = conn.read_head().await.unwrap().unwrap();
    assert_eq!(head.connect_protocol(), Some("websocket"));
    let mut stream = ServerStream::H1(&mut conn);
    stream.send_head(&ResponseHead::new(101), false).unwrap();
    stream.upgrade();
    stream.send_data(Bytes::from_static(b"hello"), true).unwrap();
    poll_fn(|cx| stream.poll_flush(cx)).await.unwrap();
    let expected = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello";
    let mut text = String::new();
    near.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, expected);
    near.write_all(b" and late").await.unwrap();
    near.shutdown().await.unwrap();
    assert_eq!(request_body(&mut stream).await.data, b"early and late");
    assert!(!conn.wait_readable().await);
}

#[tokio::test]
async fn a_client_side_upgrade_turns_into_a_tunnel() {
    for (head, response, status) in [
        (RequestHead::new(Method::Connect, "b:1", ""), "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nraw", 200),
        (upgrade(), "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nraw", 101),
    ] {
        let (mut near, mut stream) = client(1024);
        stream.send_head(&head, true).unwrap();
        near.write_all(response.as_bytes()).await.unwrap();
        near.shutdown().await.unwrap();
        assert_eq!(poll_fn(|cx| stream.poll_head(cx)).await.unwrap().status, status);
        stream.upgrade();
        assert_eq!(response_body(&mut stream).await.data, b"raw");
        stream.send_data(Bytes::from_static(b"back"), true).unwrap();
        poll_fn(|cx| stream.poll_flush(cx)).await.unwrap();
        let mut text = String::new();
        near.read_to_string(&mut text).await.unwrap();
        assert!(text.ends_with("\r\n\r\nback"), "{text}");
        assert!(stream.into_reusable().is_none());
    }
}

fn upgrade() -> RequestHead {
    let mut head = get("/ws");
    head.set_connect_protocol(Some("websocket"));
    head
}

#[tokio::test]
async fn a_websocket_without_key_gets_one() {
    let text = asked(&upgrade(), None).await.unwrap();
    assert!(text.starts_with(
        "GET /ws HTTP/1.1\r\nhost: host\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: "
    ));
}

#[tokio::test]
async fn a_client_that_goes_away_is_noticed_and_pipelined_bytes_are_not_lost() {
    let (mut near, mut conn) = server(1024);
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    near.write_all(request).await.unwrap();
    conn.read_head().await.unwrap().unwrap();
    assert!(poll_now(|cx| conn.poll_closed(cx)).is_none());
    near.write_all(request).await.unwrap();
    assert!(poll_now(|cx| conn.poll_closed(cx)).is_none());
    conn.send_head(&ok(&[]), true).unwrap();
    assert!(conn.read_head().await.unwrap().is_some());
    drop(near);
    assert_eq!(poll_fn(|cx| conn.poll_closed(cx)).await.kind, StreamErrorKind::Closed);
}

#[tokio::test]
async fn a_half_closed_client_gets_its_response_when_that_is_allowed() {
    let (mut near, mut conn) = server_with(1024, ServerOptions { half_close: true, ..ServerOptions::default() });
    near.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    near.shutdown().await.unwrap();
    conn.read_head().await.unwrap().unwrap();
    assert!(poll_now(|cx| conn.poll_closed(cx)).is_none());
    conn.send_head(&ResponseHead::new(204), true).unwrap();
    assert!(!conn.wait_readable().await);
    assert_eq!(received(&mut near, 27).await, "HTTP/1.1 204 No Content\r\n\r\n");
}

#[tokio::test]
async fn an_unwanted_body_is_read_up_to_a_limit() {
    for (length, next) in [(60_000, true), (70_000, false)] {
        let (mut near, mut conn) = server(1 << 20);
        near.write_all(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        near.write_all(&vec![b'x'; length]).await.unwrap();
        near.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        conn.read_head().await.unwrap().unwrap();
        conn.send_head(&ok(&[]), true).unwrap();
        assert_eq!(conn.read_head().await.unwrap().is_some(), next, "{length}");
    }
}

#[tokio::test]
async fn a_refused_request_is_answered_and_the_rest_is_read_away() {
    let (mut near, mut conn) = server(1 << 16);
    near.write_all(b"GET / HTTP/9.9\r\nHost: a\r\n\r\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert_eq!(conn.read_head().await.unwrap_err().status, 505);
    conn.send_head(&ResponseHead::new(505), true).unwrap();
    let closing = async {
        let mut text = String::new();
        near.read_to_string(&mut text).await.unwrap();
        drop(near);
        text
    };
    let ((), text) = tokio::join!(conn.close(), closing);
    assert_eq!(text, "HTTP/1.1 505 HTTP Version Not Supported\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    assert!(conn.read_head().await.unwrap().is_none());
}

#[tokio::test]
async fn the_last_response_says_so() {
    let (mut near, mut conn) = server(1024);
    near.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    conn.read_head().await.unwrap().unwrap();
    conn.close_after_response();
    conn.send_head(&ok(&[]), true).unwrap();
    assert!(conn.read_head().await.unwrap().is_none());
    let expected = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(received(&mut near, expected.len()).await, expected);
}

#[tokio::test]
async fn an_early_answer_counts_though_the_request_could_not_be_written() {
    let (mut near, mut stream) = client(100);
    stream.send_head(&request(Method::Post, "/", &[]), false).unwrap();
    poll_fn(|cx| stream.poll_flush(cx)).await.unwrap();
    near.write_all(b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    drop(near);
    stream.send_data(Bytes::from(vec![0; 10_000]), false).unwrap();
    poll_fn(|cx| stream.poll_flush(cx)).await.unwrap();
    assert_eq!(poll_fn(|cx| stream.poll_head(cx)).await.unwrap().status, 413);
    assert!(stream.into_reusable().is_none());
}

#[tokio::test]
async fn a_request_that_was_never_written_may_be_sent_again() {
    let (near, mut stream) = client(100);
    drop(near);
    stream.send_head(&get("/"), true).unwrap();
    let error = poll_fn(|cx| stream.poll_head(cx)).await.unwrap_err();
    assert_eq!(error, StreamError { kind: StreamErrorKind::Closed, retry_safe: true });

    let (mut near, mut stream) = client(100);
    stream.send_head(&get("/"), true).unwrap();
    poll_fn(|cx| stream.poll_flush(cx)).await.unwrap();
    near.shutdown().await.unwrap();
    let error = poll_fn(|cx| stream.poll_head(cx)).await.unwrap_err();
    assert_eq!(error, StreamError { kind: StreamErrorKind::Closed, retry_safe: false });
}

#[tokio::test]
async fn a_pooled_connection_that_closes_or_speaks_is_dropped() {
    for bytes in [&b""[..], b"HTTP/1.1 408 Request Timeout\r\n\r\n"] {
        let (near, far) = tokio::io::duplex(1024);
        let mut near = near;
        let mut conn = ClientConn::new(Box::new(far), Rc::new(ClientOptions::default()));
        assert!(poll_now(|cx| conn.poll_idle(cx)).is_none());
        near.write_all(bytes).await.unwrap();
        if bytes.is_empty() {
            near.shutdown().await.unwrap();
        }
        assert!(poll_now(|cx| conn.poll_idle(cx)).is_some());
    }
}

#[tokio::test]
async fn bytes_are_counted_for_each_exchange() {
    let (mut near, mut conn) = server(1024);
    for _ in 0..2 {
        near.write_all(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").await.unwrap();
        conn.read_head().await.unwrap().unwrap();
        let mut stream = ServerStream::H1(&mut conn);
        request_body(&mut stream).await;
        stream.send_head(&ok(&[]), false).unwrap();
        stream.send_data(Bytes::from_static(b"hi"), true).unwrap();
        let sizes = stream.sizes();
        assert_eq!((sizes.head_in, sizes.total_in), (46, 48));
        assert_eq!((sizes.head_out, sizes.total_out), (47, 47 + 12));
    }
}

#[tokio::test]
async fn a_websocket_key_is_answered_when_the_upstream_did_not() {
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let text = answer(request, ResponseHead::new(101), Some(b"")).await;
    assert!(
        text.ends_with("upgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"),
        "{text}"
    );
    let mut own = ResponseHead::new(101);
    own.headers.append("sec-websocket-accept", b"own");
    let text = answer(request, own, Some(b"")).await;
    assert_eq!(text.matches("sec-websocket-accept").count(), 1, "{text}");
}

#[tokio::test]
async fn a_broken_body_can_still_be_answered_once() {
    let (mut near, mut conn) = server(1024);
    near.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz").await.unwrap();
    conn.read_head().await.unwrap().unwrap();
    let mut stream = ServerStream::H1(&mut conn);
    let error = Some(StreamErrorKind::Protocol("chunk_size_invalid"));
    assert_eq!(request_body(&mut stream).await.error, error);
    assert_eq!(request_body(&mut stream).await.error, error);
    stream.send_head(&ResponseHead::new(400), true).unwrap();
    assert!(!conn.wait_readable().await);
    let expected = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(received(&mut near, expected.len()).await, expected);
}
