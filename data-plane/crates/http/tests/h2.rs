//! HTTP/2 through its public face: our two sides against each other, and the server against heads a client may not send.

#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use dp_http::h2::{ClientConn, ClientOptions, Ping, ServerConn, ServerOptions};
use dp_http::{
    ClientStream, Frame, Headers, Method, Protocol, RequestHead, Reset, ResponseHead, Scheme, ServerStream,
    StreamErrorKind,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{LocalSet, spawn_local};

fn options() -> ServerOptions {
    ServerOptions { enable_connect_protocol: true, ..ServerOptions::default() }
}

fn head(method: Method, path: &str, fields: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead::new(method, "host", path);
    let fields: Headers = fields.iter().copied().collect();
    for (name, value) in fields.iter() {
        head.headers.append(name, value);
    }
    head
}

/// Runs `client` against a server that hands every request to `serve`.
async fn run<S: AsyncFn(RequestHead, ServerStream<'static>) + 'static>(
    options: ServerOptions,
    serve: S,
    client: impl AsyncFnOnce(ClientConn),
) {
    LocalSet::new()
        .run_until(async move {
            let (near, far) = tokio::io::duplex(1 << 16);
            let serve = Rc::new(serve);
            let served = Rc::new(RefCell::new(Vec::new()));
            let tasks = Rc::clone(&served);
            spawn_local(async move {
                let mut conn = ServerConn::handshake(Box::new(far), Bytes::new(), &options).await.unwrap();
                while let Some(Ok((head, stream))) = conn.accept().await {
                    let serve = Rc::clone(&serve);
                    if head.path() == "/goaway" {
                        conn.graceful_shutdown();
                    }
                    let task = spawn_local(async move { serve(head, ServerStream::H2(Box::new(stream))).await });
                    tasks.borrow_mut().push(task);
                }
            });
            let (handle, driver) = ClientConn::handshake(Box::new(near), &ClientOptions::default()).await.unwrap();
            spawn_local(driver);
            client(handle).await;
            // What the server side asserted counts, too.
            for task in served.take() {
                task.await.unwrap();
            }
        })
        .await;
}

fn open(handle: &ClientConn) -> ClientStream {
    ClientStream::H2(Box::new(handle.open_stream().expect("there is room")))
}

async fn answer(mut stream: ServerStream<'_>, head: ResponseHead, body: &'static str) {
    stream.send_head(&head, body.is_empty()).unwrap();
    if !body.is_empty() {
        stream.send_data(Bytes::from_static(body.as_bytes()), true).unwrap();
    }
    poll_fn(|cx| stream.poll_flush(cx)).await.unwrap();
}

async fn body(stream: &mut ClientStream) -> (Vec<u8>, Option<Headers>) {
    let (mut data, mut trailers) = (Vec::new(), None);
    while let Some(frame) = poll_fn(|cx| stream.poll_body(cx)).await {
        match frame.unwrap() {
            Frame::Data(piece) => data.extend_from_slice(&piece),
            Frame::Trailers(fields) => trailers = Some(fields),
        }
    }
    (data, trailers)
}

#[tokio::test]
async fn a_head_arrives_as_it_was_sent_without_fields_of_a_connection() {
    run(
        options(),
        async |head, stream| {
            assert_eq!((head.authority(), head.path(), head.scheme), ("host", "/a?b=c", Scheme::Http));
            assert_eq!((&head.method, head.protocol), (&Method::Get, Protocol::Http2));
            let expected: Headers = [("cookie", "a=1; b=2"), ("x-own", "v"), ("te", "trailers")].into_iter().collect();
            assert_eq!(sorted(&head.headers), sorted(&expected));
            assert!(stream.is_request_complete());
            let mut response = ResponseHead::new(200);
            response.headers = [("connection", "x"), ("content-type", "t"), ("keep-alive", "1")].into_iter().collect();
            answer(stream, response, "hi").await;
        },
        async |handle| {
            let mut stream = open(&handle);
            let fields = [
                ("cookie", "a=1"),
                ("cookie", "b=2"),
                ("x-own", "v"),
                ("te", "trailers"),
                ("connection", "close"),
                ("upgrade", "h2c"),
            ];
            stream.send_head(&head(Method::Get, "/a?b=c", &fields), true).unwrap();
            let head = poll_fn(|cx| stream.poll_head(cx)).await.unwrap();
            assert_eq!(
                (head.status, head.headers.iter().count(), head.headers.text("content-type")),
                (200, 1, Some("t"))
            );
            assert_eq!(body(&mut stream).await, (b"hi".to_vec(), None));
        },
    )
    .await;
}

fn sorted(headers: &Headers) -> Vec<(String, Vec<u8>)> {
    let mut fields: Vec<_> = headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    fields.sort();
    fields
}

#[tokio::test]
async fn trailers_and_informational_heads_travel_both_ways() {
    run(
        options(),
        async |head, mut stream| {
            assert!(stream.expects_continue(), "{head:?}");
            stream.send_informational(&ResponseHead::new(100)).unwrap();
            let mut trailers = None;
            while let Some(frame) = poll_fn(|cx| stream.poll_body(cx)).await {
                if let Frame::Trailers(fields) = frame.unwrap() {
                    trailers = Some(fields);
                }
            }
            assert_eq!(trailers.unwrap(), [("x-sum", "1")].into_iter().collect());
            stream.send_head(&ResponseHead::new(200), false).unwrap();
            stream.send_trailers(&[("grpc-status", "0")].into_iter().collect()).unwrap();
        },
        async |handle| {
            let mut stream = open(&handle);
            stream.send_head(&head(Method::Post, "/", &[("expect", "100-continue")]), false).unwrap();
            assert_eq!(poll_fn(|cx| stream.poll_head(cx)).await.unwrap().status, 100);
            stream.send_data(Bytes::from_static(b"body"), false).unwrap();
            let trailers = [("x-sum", "1"), ("content-length", "4")].into_iter().collect();
            stream.send_trailers(&trailers).unwrap();
            assert_eq!(poll_fn(|cx| stream.poll_head(cx)).await.unwrap().status, 200);
            assert_eq!(body(&mut stream).await.1.unwrap(), [("grpc-status", "0")].into_iter().collect());
        },
    )
    .await;
}

#[tokio::test]
async fn a_server_may_not_send_informational_heads_for_ever() {
    run(
        options(),
        async |_, mut stream| {
            for _ in 0..17 {
                stream.send_informational(&ResponseHead::new(103)).unwrap();
            }
            answer(stream, ResponseHead::new(204), "").await;
        },
        async |handle| {
            let mut stream = open(&handle);
            stream.send_head(&head(Method::Get, "/", &[]), true).unwrap();
            for _ in 0..16 {
                assert_eq!(poll_fn(|cx| stream.poll_head(cx)).await.unwrap().status, 103);
            }
            let error = poll_fn(|cx| stream.poll_head(cx)).await.unwrap_err();
            assert_eq!(error.kind, StreamErrorKind::Protocol("too_many_informational_heads"));
        },
    )
    .await;
}

#[tokio::test]
async fn a_reader_that_takes_nothing_stops_the_writer() {
    run(
        options(),
        async |_, mut stream| {
            stream.send_head(&ResponseHead::new(200), false).unwrap();
            let piece = Bytes::from(vec![7; 64 * 1024]);
            for _ in 0..64 {
                poll_fn(|cx| stream.poll_ready(cx)).await.unwrap();
                stream.send_data(piece.clone(), false).unwrap();
            }
            stream.send_data(Bytes::new(), true).unwrap();
            poll_fn(|cx| stream.poll_flush(cx)).await.unwrap();
        },
        async |handle| {
            let mut stream = open(&handle);
            stream.send_head(&head(Method::Get, "/", &[]), true).unwrap();
            poll_fn(|cx| stream.poll_head(cx)).await.unwrap();
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            // One window arrived and no more, so the next stream still has its turn.
            let mut other = open(&handle);
            assert_eq!(handle.active_streams(), 2);
            other.reset(Reset::Cancel);
            assert_eq!(body(&mut stream).await.0.len(), 4 << 20);
        },
    )
    .await;
}

#[tokio::test]
async fn a_reset_is_seen_on_the_other_side() {
    run(
        options(),
        async |head, mut stream| match head.path() {
            "/refuse" => stream.reset(Reset::Refused),
            "/fail" => stream.reset(Reset::Internal),
            _ => {
                let error = poll_fn(|cx| stream.poll_closed(cx)).await;
                assert_eq!(error.kind, StreamErrorKind::Reset(Reset::Cancel));
            }
        },
        async |handle| {
            for (path, reset, retry_safe) in [("/refuse", Reset::Refused, true), ("/fail", Reset::Internal, false)] {
                let mut stream = open(&handle);
                stream.send_head(&head(Method::Get, path, &[]), true).unwrap();
                let error = poll_fn(|cx| stream.poll_head(cx)).await.unwrap_err();
                assert_eq!((error.kind, error.retry_safe), (StreamErrorKind::Reset(reset), retry_safe));
            }
            let mut stream = open(&handle);
            stream.send_head(&head(Method::Get, "/wait", &[]), true).unwrap();
            tokio::task::yield_now().await;
            stream.reset(Reset::Cancel);
            drop(stream);
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert_eq!(handle.active_streams(), 0);
        },
    )
    .await;
}

#[tokio::test]
async fn an_answer_that_came_before_the_end_of_the_request_counts() {
    run(
        options(),
        // The stream is dropped unread, and reset with NO_ERROR.
        async |_, stream| answer(stream, ResponseHead::new(200), "").await,
        async |handle| {
            let mut stream = open(&handle);
            stream.send_head(&head(Method::Post, "/", &[]), false).unwrap();
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
            stream.send_data(Bytes::new(), true).unwrap();
            assert_eq!(poll_fn(|cx| stream.poll_head(cx)).await.unwrap().status, 200);
            assert_eq!(body(&mut stream).await, (Vec::new(), None));
        },
    )
    .await;
}

#[tokio::test]
async fn after_goaway_running_streams_end_and_no_new_ones_begin() {
    run(
        options(),
        async |_, stream| {
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
            answer(stream, ResponseHead::new(200), "late").await;
        },
        async |handle| {
            let mut stream = open(&handle);
            stream.send_head(&head(Method::Get, "/goaway", &[]), true).unwrap();
            poll_fn(|cx| stream.poll_head(cx)).await.unwrap();
            assert_eq!(body(&mut stream).await.0, b"late");
            assert!(handle.is_closing());
            assert!(handle.open_stream().is_none());
        },
    )
    .await;
}

#[tokio::test]
async fn no_more_streams_are_opened_than_the_server_allows() {
    let mut options = options();
    options.limits.max_concurrent_streams = 2;
    run(
        options,
        async |_, mut stream| {
            poll_fn(|cx| stream.poll_closed(cx)).await;
        },
        async |handle| {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert_eq!(handle.max_streams(), 2);
            let (first, _second) = (open(&handle), open(&handle));
            assert!(!handle.can_open());
            drop(first);
            assert!(handle.can_open());
        },
    )
    .await;
}

#[tokio::test]
async fn a_websocket_by_extended_connect_looks_like_an_upgrade() {
    run(
        options(),
        async |head, mut stream| {
            assert_eq!((&head.method, head.connect_protocol(), head.path()), (&Method::Get, Some("websocket"), "/ws"));
            stream.send_head(&ResponseHead::new(101), false).unwrap();
            stream.upgrade();
            while let Some(frame) = poll_fn(|cx| stream.poll_body(cx)).await {
                let Frame::Data(data) = frame.unwrap() else { panic!("a tunnel has no trailers") };
                stream.send_data(data, false).unwrap();
            }
            stream.send_data(Bytes::new(), true).unwrap();
        },
        async |handle| {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            let mut stream = open(&handle);
            let mut head = head(Method::Get, "/ws", &[]);
            head.set_connect_protocol(Some("websocket"));
            stream.send_head(&head, true).unwrap();
            assert_eq!(poll_fn(|cx| stream.poll_head(cx)).await.unwrap().status, 101);
            stream.upgrade();
            stream.send_data(Bytes::from_static(b"frame"), true).unwrap();
            assert_eq!(body(&mut stream).await.0, b"frame");
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_no_ping_is_gone() {
    let (near, _far) = tokio::io::duplex(1 << 16);
    let mut options = ClientOptions::default();
    options.limits.ping =
        Some(Ping { interval: Duration::from_secs(5), timeout: Duration::from_secs(1), jitter: Duration::ZERO });
    let (handle, driver) = ClientConn::handshake(Box::new(near), &options).await.unwrap();
    let began = tokio::time::Instant::now();
    assert_eq!(driver.await.unwrap_err().kind, StreamErrorKind::Timeout);
    assert_eq!(began.elapsed(), Duration::from_secs(6));
    assert!(handle.is_closing());
}

/// What a client of another make gets for a head: a status, or the code of a reset.
async fn foreign(request: http::Request<()>) -> Result<u16, h2::Reason> {
    let (near, far) = tokio::io::duplex(1 << 16);
    let local = LocalSet::new();
    local
        .run_until(async move {
            spawn_local(async move {
                let mut conn = ServerConn::handshake(Box::new(far), Bytes::new(), &options()).await.unwrap();
                while let Some(Ok((_, mut stream))) = conn.accept().await {
                    stream.send_head(&ResponseHead::new(200), true).unwrap();
                }
            });
            let (mut send, conn) = h2::client::handshake(near).await.unwrap();
            spawn_local(conn);
            let (response, _) = send.send_request(request, true).unwrap();
            response.await.map(|response| response.status().as_u16()).map_err(|error| error.reason().unwrap())
        })
        .await
}

#[tokio::test]
async fn a_malformed_head_is_a_stream_error() {
    let get = |uri: &str| http::Request::get(uri).version(http::Version::HTTP_2);
    let bad = Err(h2::Reason::PROTOCOL_ERROR);
    let many = (0..200).fold(get("http://a/"), |request, n| request.header(format!("x-{n}"), "1"));
    let cases = [
        (get("http://a/"), Ok(200)),
        (get("http://a/").header("host", "A"), Ok(200)),
        (get("http://a/").header("host", "b"), bad),
        (get("http://a/").header("host", "a").header("host", "a"), bad),
        (get("http://u@a/"), bad),
        (get("http://a/").header("x", " padded"), bad),
        (get("http://a/").header("content-length", "0").header("content-length", "0"), bad),
        (many, Ok(431)),
    ];
    for (request, expected) in cases {
        let request = request.body(()).unwrap();
        let shown = format!("{request:?}");
        assert_eq!(foreign(request).await, expected, "{shown}");
    }
}

#[tokio::test]
async fn nothing_is_ready_on_a_stream_that_waits() {
    run(
        options(),
        async |_, mut stream| {
            assert!(stream.poll_closed(&mut Context::from_waker(Waker::noop())).is_pending());
            answer(stream, ResponseHead::new(204), "").await;
        },
        async |handle| {
            let mut stream = open(&handle);
            stream.send_head(&head(Method::Get, "/", &[]), true).unwrap();
            assert!(matches!(stream.poll_head(&mut Context::from_waker(Waker::noop())), Poll::Pending));
            assert_eq!(poll_fn(|cx| stream.poll_head(cx)).await.unwrap().status, 204);
            assert!(stream.is_response_complete());
        },
    )
    .await;
}

/// A HEADERS frame that ends its stream, of fields that HPACK does not compress.
fn headers_frame(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        for (prefix, text) in [(Some(0), name), (None, value)] {
            block.extend(prefix);
            block.push(text.len() as u8);
            block.extend(text.as_bytes());
        }
    }
    let mut frame = vec![0, 0, block.len() as u8, 1, 5, 0, 0, 0, 1];
    frame.extend(block);
    frame
}

/// The first frame on stream 1: a status it carries, or the code of its reset.
async fn raw(fields: &[(&str, &str)]) -> Result<(), u8> {
    let (mut near, far) = tokio::io::duplex(1 << 16);
    LocalSet::new()
        .run_until(async move {
            spawn_local(async move {
                let mut conn = ServerConn::handshake(Box::new(far), Bytes::new(), &options()).await.unwrap();
                while let Some(Ok((_, mut stream))) = conn.accept().await {
                    stream.send_head(&ResponseHead::new(200), true).unwrap();
                }
            });
            near.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
            near.write_all(&headers_frame(fields)).await.unwrap();
            loop {
                let mut header = [0; 9];
                near.read_exact(&mut header).await.unwrap();
                let mut payload = vec![0; usize::from(header[1]) << 8 | usize::from(header[2])];
                near.read_exact(&mut payload).await.unwrap();
                match (header[3], header[8]) {
                    (1, 1) => return Ok(()),
                    (3, 1) => return Err(payload[3]),
                    (7, _) => return Err(payload[7]),
                    _ => {}
                }
            }
        })
        .await
}

#[tokio::test]
async fn a_head_no_library_would_send_is_refused() {
    const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
    assert_eq!(raw(&GET).await, Ok(()));
    let cases: &[&[(&str, &str)]] = &[
        &[("Upper", "1")],
        &[("connection", "close")],
        &[("transfer-encoding", "chunked")],
        &[("upgrade", "x")],
        &[("keep-alive", "1")],
        &[("proxy-connection", "1")],
        &[("te", "gzip")],
        &[(":path", "/twice")],
        &[(":status", "200")],
        &[(":unknown", "1")],
        &[("a", "1"), (":path", "/")],
        &[("a b", "1")],
        &[("", "1")],
        &[("a", "x\r\ny: 1")],
        &[("a", "x\0")],
        &[("a", " padded")],
        &[("host", "b")],
        &[("content-length", "5")],
        &[("content-length", "")],
        &[("content-length", "+0")],
        &[("content-length", "0, 0")],
    ];
    for more in cases {
        let fields: Vec<_> = GET.iter().chain(*more).copied().collect();
        assert_eq!(raw(&fields).await, Err(1), "{more:?}");
    }
    for connect in [
        &[(":method", "CONNECT"), (":authority", "a")][..],
        &[(":method", "CONNECT"), (":authority", "a:")],
        &[(":method", "CONNECT"), (":authority", "a:1"), (":path", "/")],
        &[(":method", "CONNECT"), (":protocol", ""), (":scheme", "http"), (":authority", "a"), (":path", "/")],
        &[(":method", "CONNECT"), (":protocol", "x\r\ny: 1"), (":scheme", "http"), (":authority", "a"), (":path", "/")],
    ] {
        assert_eq!(raw(connect).await, Err(1), "{connect:?}");
    }
    assert_eq!(raw(&[(":method", "CONNECT"), (":authority", "a:1")]).await, Ok(()));
    for without in 0..GET.len() {
        let mut fields = GET.to_vec();
        fields.remove(without);
        assert_eq!(raw(&fields).await, Err(1), "{fields:?}");
    }
    for (index, value) in [(3, ""), (3, "a"), (3, "*"), (3, "/a b"), (2, ""), (2, "a b"), (0, "G T"), (1, "1")] {
        let mut fields = GET.to_vec();
        fields[index].1 = value;
        assert_eq!(raw(&fields).await, Err(1), "{fields:?}");
    }
}

/// What a client makes of a response head that ends its stream.
async fn understood(fields: &[(&str, &str)]) -> Result<u16, StreamErrorKind> {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    LocalSet::new()
        .run_until(async move {
            far.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
            let (handle, driver) = ClientConn::handshake(Box::new(near), &ClientOptions::default()).await.unwrap();
            spawn_local(driver);
            let mut stream = open(&handle);
            stream.send_head(&head(Method::Get, "/", &[]), true).unwrap();
            far.read_exact(&mut [0; 24]).await.unwrap();
            loop {
                let mut header = [0; 9];
                far.read_exact(&mut header).await.unwrap();
                let mut payload = vec![0; usize::from(header[1]) << 8 | usize::from(header[2])];
                far.read_exact(&mut payload).await.unwrap();
                if header[3] == 1 {
                    break;
                }
            }
            far.write_all(&headers_frame(fields)).await.unwrap();
            poll_fn(|cx| stream.poll_head(cx)).await.map(|head| head.status).map_err(|error| error.kind)
        })
        .await
}

#[tokio::test]
async fn a_response_head_that_is_none_is_a_mistake_of_the_server() {
    let check = async |field: (&str, &str), expected| {
        assert_eq!(understood(&[(":status", "200"), field]).await, expected, "{field:?}");
    };
    let wrong = |details| Err(StreamErrorKind::Protocol(details));
    check(("x", "1"), Ok(200)).await;
    check(("content-length", "0"), Ok(200)).await;
    check(("content-length", ""), wrong("invalid_content_length")).await;
    check(("content-length", "5"), wrong("http2_codec_error")).await;
    check(("connection", "close"), wrong("http2_codec_error")).await;
    check(("x", "a\r\nb: c"), wrong("http2_codec_error")).await;
    assert_eq!(understood(&[(":status", "101")]).await, wrong("unexpected_101"));
}

#[tokio::test]
async fn a_path_that_only_http1_clients_send_goes_on_in_its_encoded_form() {
    run(
        options(),
        async |head, stream| {
            let path = head.path().to_owned();
            let mut response = ResponseHead::new(200);
            response.headers.append("x-path", path.as_bytes());
            answer(stream, response, "").await;
        },
        async |handle| {
            for (path, arrived) in [("/a|b?c={d}", "/a|b?c={d}"), ("/<a>?\"b", "/%3Ca%3E?%22b")] {
                let mut stream = open(&handle);
                stream.send_head(&head(Method::Get, path, &[]), true).unwrap();
                let head = poll_fn(|cx| stream.poll_head(cx)).await.unwrap();
                assert_eq!(head.headers.text("x-path"), Some(arrived));
            }
        },
    )
    .await;
}

/// The code of the GOAWAY that a server, which is patient with few errors, answers `frames` with.
async fn goaway(frames: Vec<u8>) -> u8 {
    let mut options = options();
    options.limits.max_local_error_reset_streams = 64;
    let (mut near, far) = tokio::io::duplex(1 << 20);
    near.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    near.write_all(&frames).await.unwrap();
    LocalSet::new()
        .run_until(async move {
            spawn_local(async move {
                let mut conn = ServerConn::handshake(Box::new(far), Bytes::new(), &options).await.unwrap();
                while let Some(Ok(_)) = conn.accept().await {}
            });
            loop {
                let mut header = [0; 9];
                near.read_exact(&mut header).await.unwrap();
                let mut payload = vec![0; usize::from(header[1]) << 8 | usize::from(header[2])];
                near.read_exact(&mut payload).await.unwrap();
                if header[3] == 7 {
                    return payload[7];
                }
            }
        })
        .await
}

#[tokio::test]
async fn floods_end_the_connection() {
    let head = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
    let rapid_reset: Vec<u8> = (0..100u8)
        .flat_map(|n| {
            let mut frames = headers_frame(&head);
            frames[8] = n * 2 + 1;
            frames.extend([0, 0, 4, 3, 0, 0, 0, 0, n * 2 + 1, 0, 0, 0, 8]);
            frames
        })
        .collect();
    assert_eq!(goaway(rapid_reset).await, 11);

    // What the codec lets pass and we do not: 65 at once, of which none is looked at.
    let malformed = head.iter().copied().chain([("x", " padded")]).collect::<Vec<_>>();
    let malformed = (0..65u8).flat_map(|n| {
        let mut frames = headers_frame(&malformed);
        frames[8] = n * 2 + 1;
        frames
    });
    assert_eq!(goaway(malformed.collect()).await, 11);

    let mut continuation = headers_frame(&head);
    continuation[4] = 1;
    for _ in 0..1000 {
        continuation.extend([0, 0, 0, 9, 0, 0, 0, 0, 1]);
    }
    assert_eq!(goaway(continuation).await, 11);
}
