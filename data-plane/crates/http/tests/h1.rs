//! HTTP/1 through its public face: one side against bytes, and both sides against each other.

use std::future::poll_fn;
use std::rc::Rc;

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
    (near, ServerConn::new(Box::new(far), Rc::new(options)))
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
