//! However the bytes of HTTP/1 are cut into pieces, the same messages come out; and no bytes make a parser panic.

#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::fmt::Write;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use dp_http::h1::{ClientConn, ClientOptions, ServerConn, ServerOptions};
use dp_http::{ClientStream, Frame, Headers, Method, RequestHead, ResponseHead, ServerStream};
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A transport that gives its pieces one by one, not ready before each, and takes a few bytes at a time.
struct Pieces {
    pieces: VecDeque<Vec<u8>>,
    pause: bool,
    take: usize,
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.pause = !self.pause;
        if self.pause {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(piece) = self.pieces.front_mut() {
            let size = piece.len().min(buf.remaining());
            buf.put_slice(&piece[..size]);
            piece.drain(..size);
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len().min(self.take)))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// `bytes` cut at the given places.
fn cut(bytes: &[u8], cuts: &[usize]) -> Pieces {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).chain([0, bytes.len()]).collect();
    places.sort_unstable();
    places.dedup();
    let pieces = places.windows(2).map(|ends| bytes[ends[0]..ends[1]].to_vec()).collect();
    Pieces { pieces, pause: false, take: 7 }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn add(frame: Frame, text: &mut String, body: &mut Vec<u8>) {
    match frame {
        Frame::Data(data) => body.extend_from_slice(&data),
        Frame::Trailers(trailers) => write!(text, " {trailers:?}").unwrap(),
    }
}

/// All that a server understands; how it ends, but not in which words it refuses.
fn server_trace(pieces: Pieces) -> Vec<String> {
    block_on(async {
        let mut conn = ServerConn::new(Box::new(pieces), Arc::new(ServerOptions::default()));
        let mut out = Vec::new();
        loop {
            let head = match conn.read_head().await {
                Ok(Some(head)) => head,
                Ok(None) => return out,
                Err(_) => {
                    out.push("refused".into());
                    return out;
                }
            };
            let mut text = format!("{head:?} {:?}", head.connect_protocol());
            let mut body = Vec::new();
            while let Some(frame) = poll_fn(|cx| conn.poll_body(cx)).await {
                let Ok(frame) = frame else {
                    out.push(text + " broken");
                    return out;
                };
                add(frame, &mut text, &mut body);
            }
            out.push(format!("{text} {body:?}"));
            conn.send_head(&ResponseHead::new(200), true).unwrap();
        }
    })
}

fn client_trace(pieces: Pieces) -> Vec<String> {
    block_on(async {
        let conn = ClientConn::new(Box::new(pieces), Rc::new(ClientOptions::default()));
        let mut stream = ClientStream::H1(Box::new(conn));
        stream.send_head(&RequestHead::new(Method::Get, "a", "/"), true).unwrap();
        let mut out = Vec::new();
        loop {
            let Ok(head) = poll_fn(|cx| stream.poll_head(cx)).await else {
                out.push("refused".into());
                return out;
            };
            out.push(format!("{head:?}"));
            if !head.is_informational() {
                break;
            }
        }
        let (mut text, mut body) = (String::new(), Vec::new());
        while let Some(frame) = poll_fn(|cx| stream.poll_body(cx)).await {
            let Ok(frame) = frame else {
                out.push("broken".into());
                return out;
            };
            add(frame, &mut text, &mut body);
        }
        out.push(format!("{text} {body:?}"));
        out
    })
}

/// Text as it stands in messages, good and bad.
fn token() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::sample::select(vec![
            &b"GET / HTTP/1.1\r\nHost: a\r\n"[..],
            b"POST /p HTTP/1.1\r\nHost: a\r\n",
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"Content-Length: 3\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Connection: close\r\n",
            b"Upgrade: websocket\r\nConnection: upgrade\r\n",
            b"X-Field: value\r\n",
            b"\r\n",
            b"\r\nabc",
            b"\r\n3\r\nabc\r\n0\r\n\r\n",
            b"\r\n3;ext\r\nabc\r\n0\r\nx-t: 1\r\n\r\n",
            b"\n",
            b"\r",
            b":",
            b" ",
        ])
        .prop_map(<[u8]>::to_vec),
        prop::collection::vec(any::<u8>(), 0..6),
    ]
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(token(), 0..12).prop_map(|tokens| tokens.concat())
}

const REQUESTS: &[u8] = b"GET /a?b HTTP/1.1\r\nHost: a\r\nX-Long: 0123456789\r\n\r\n\
    POST /b HTTP/1.1\r\nHost: b:80\r\nContent-Length: 10\r\n\r\n0123456789\
    \r\nPOST /c HTTP/1.1\r\nHost: c\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\nx-sum: 1\r\n\r\n\
    OPTIONS * HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n";

const RESPONSES: &[&[u8]] = &[
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
];

#[test]
fn an_empty_line_before_a_request_may_come_in_two_pieces() {
    let request = b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(server_trace(cut(request, &[1])), ["GET a / {} None []"]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn requests_do_not_depend_on_where_the_bytes_are_cut(cuts in prop::collection::vec(any::<usize>(), 0..40)) {
        let whole = server_trace(cut(REQUESTS, &[]));
        prop_assert_eq!(whole.len(), 4);
        prop_assert_eq!(server_trace(cut(REQUESTS, &cuts)), whole);
    }

    #[test]
    fn responses_do_not_depend_on_where_the_bytes_are_cut(
        which in 0..RESPONSES.len(),
        cuts in prop::collection::vec(any::<usize>(), 0..40),
    ) {
        let whole = client_trace(cut(RESPONSES[which], &[]));
        prop_assert!(!whole.iter().any(|line| line == "refused" || line == "broken"), "{:?}", whole);
        prop_assert_eq!(client_trace(cut(RESPONSES[which], &cuts)), whole);
    }

    #[test]
    fn no_bytes_make_a_server_panic_or_disagree_with_itself(
        bytes in message(),
        cuts in prop::collection::vec(any::<usize>(), 0..10),
    ) {
        prop_assert_eq!(server_trace(cut(&bytes, &cuts)), server_trace(cut(&bytes, &[])));
    }

    #[test]
    fn no_bytes_make_a_client_panic_or_disagree_with_itself(
        bytes in message(),
        cuts in prop::collection::vec(any::<usize>(), 0..10),
    ) {
        prop_assert_eq!(client_trace(cut(&bytes, &cuts)), client_trace(cut(&bytes, &[])));
    }

    #[test]
    fn what_one_side_writes_the_other_reads(
        pieces in prop::collection::vec(0usize..5000, 0..6),
        length_known: bool,
        trailers: bool,
        window in 1usize..20_000,
    ) {
        block_on(both_sides(&pieces, length_known, trailers, window));
    }
}

/// An echo through both sides over a pipe of `window` bytes.
async fn both_sides(pieces: &[usize], length_known: bool, trailers: bool, window: usize) {
    let (near, far) = tokio::io::duplex(window);
    let mut conn = ServerConn::new(Box::new(far), Arc::new(ServerOptions::default()));
    let conn_client = ClientConn::new(Box::new(near), Rc::new(ClientOptions::default()));
    let mut client = Some(ClientStream::H1(Box::new(conn_client)));
    let whole: Vec<u8> = pieces.iter().enumerate().flat_map(|(n, size)| vec![n as u8; *size]).collect();
    let fields: Headers = [("x-sum", "1")].into_iter().collect();
    for _ in 0..2 {
        let serve = async {
            let head = conn.read_head().await.unwrap().unwrap();
            let mut stream = ServerStream::H1(&mut conn);
            let mut response = ResponseHead::new(200);
            response.headers = head.headers;
            stream.send_head(&response, false).unwrap();
            while let Some(frame) = poll_fn(|cx| stream.poll_body(cx)).await {
                poll_fn(|cx| stream.poll_ready(cx)).await.unwrap();
                match frame.unwrap() {
                    Frame::Data(data) => stream.send_data(data, false).unwrap(),
                    Frame::Trailers(trailers) => stream.send_trailers(&trailers).unwrap(),
                }
            }
            stream.send_data(Bytes::new(), true).unwrap();
            poll_fn(|cx| stream.poll_flush(cx)).await.unwrap();
        };
        let ask = async {
            let mut stream = client.take().unwrap();
            let mut head = RequestHead::new(Method::Post, "a", "/");
            if length_known {
                head.headers.append("content-length", whole.len().to_string().as_bytes());
            }
            stream.send_head(&head, false).unwrap();
            for (n, size) in pieces.iter().enumerate() {
                stream.send_data(Bytes::from(vec![n as u8; *size]), false).unwrap();
            }
            if trailers {
                stream.send_trailers(&fields).unwrap()
            } else {
                stream.send_data(Bytes::new(), true).unwrap()
            }
            let head = poll_fn(|cx| stream.poll_head(cx)).await.unwrap();
            let (mut body, mut end) = (Vec::new(), None);
            while let Some(frame) = poll_fn(|cx| stream.poll_body(cx)).await {
                match frame.unwrap() {
                    Frame::Data(data) => body.extend_from_slice(&data),
                    Frame::Trailers(trailers) => end = Some(trailers),
                }
            }
            assert_eq!((head.status, body == whole), (200, true));
            assert_eq!(end, (trailers && !length_known).then(|| fields.clone()));
            client = Some(ClientStream::H1(stream.into_reusable().expect("whole and keep-alive")));
        };
        tokio::join!(serve, ask);
    }
}
