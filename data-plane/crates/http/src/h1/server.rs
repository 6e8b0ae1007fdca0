//! The server side of an HTTP/1 connection: requests in, responses out, one exchange after the other.
//!
//! Pipelined bytes wait in the input until their turn. Never closes by itself and keeps no time: the caller does.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

use super::body::{Body, BodyLimits};
use super::encode::{self, Answering, Writing};
use super::fields::{FieldRules, Underscores};
use super::wire::{HeadAt, Wire};
use super::{HeadError, parse, websocket};
use crate::stream::{StreamError, StreamErrorKind, WireSizes};
use crate::{Frame, Headers, Io, Method, Protocol, RequestHead, ResponseHead, authority, name};

/// What a listener says about HTTP/1; shared by its connections.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Bytes of a request head (Envoy's `max_request_headers_kb`).
    pub max_head_size: usize,
    /// Fields of a head, and of trailers.
    pub max_headers: usize,
    /// Bytes of all chunk extensions of a body.
    pub max_chunk_extensions: u32,
    /// Bytes of a trailer section.
    pub max_trailers_size: usize,
    pub underscores: Underscores,
    /// Pass trailers on, both ways (Envoy's `enable_trailers`); otherwise they are read and dropped.
    pub trailers: bool,
    /// Write names as `Content-Type` (Envoy's `proper_case_words`).
    pub proper_case: bool,
    /// Serve HTTP/1.0; otherwise it is answered with 426.
    pub accept_http10: bool,
    /// Accept targets like `http://host/path` (Envoy's `allow_absolute_url`).
    pub absolute_urls: bool,
    /// Take requests with `content-length` beside a chunked body, without the former (Envoy's `allow_chunked_length`).
    pub chunked_length: bool,
    /// A client that shut down its sending half still gets its response; otherwise that counts as going away.
    pub half_close: bool,
    /// How much output may wait before `poll_ready` waits.
    pub output_limit: usize,
    /// How much of a request body that nobody wanted is read so that the connection can be kept.
    pub drain_limit: u64,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            max_head_size: 60 * 1024,
            max_headers: 100,
            max_chunk_extensions: 4096,
            max_trailers_size: 16 * 1024,
            underscores: Underscores::Allow,
            trailers: true,
            proper_case: false,
            accept_http10: true,
            absolute_urls: true,
            chunked_length: false,
            half_close: false,
            output_limit: 64 * 1024,
            drain_limit: 64 * 1024,
        }
    }
}

/// What the first bytes of a connection speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http1,
    /// The preface of HTTP/2 with prior knowledge (RFC 9113 §3.3).
    Http2,
}

/// The server side of a connection. Its memory while idle is this struct.
pub struct ServerConn {
    wire: Wire,
    options: Arc<ServerOptions>,
    state: State,
    /// What the current request wants to upgrade to.
    upgrade: Option<Box<Upgrade>>,
    drained: u64,
}

struct Upgrade {
    protocol: Box<str>,
    /// What to answer to its WebSocket key, if the upstream does not.
    accept: Option<[u8; 28]>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    /// Between a request head and the end of its response.
    exchanging: bool,
    keep_alive: bool,
    expects_continue: bool,
    http10: bool,
    head: bool,
    connect: bool,
    /// The client itself said that this is its last request.
    last_request: bool,
    /// Before the request.
    empty_lines: u8,
}

const FRESH: State = State {
    exchanging: false,
    keep_alive: true,
    expects_continue: false,
    http10: false,
    head: false,
    connect: false,
    last_request: false,
    empty_lines: 0,
};

/// Empty lines before a request that are read over; the next one is taken for the request.
const EMPTY_LINES: u8 = 16;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl ServerConn {
    pub fn new(io: Io, options: Arc<ServerOptions>) -> Self {
        Self { wire: Wire::new(io, BytesMut::new()), options, state: FRESH, upgrade: None, drained: 0 }
    }

    // --- between requests ---

    /// Waits for the first byte of the next request, after the last exchange is finished. `false`: there will be none.
    /// The idle timeout is over this, the header timeout over [`ServerConn::read_head`] after it.
    pub async fn wait_readable(&mut self) -> bool {
        poll_fn(|cx| self.poll_readable(cx)).await
    }

    /// Reads the next request head; `None` when the client closed, or when the connection must close.
    ///
    /// # Errors
    /// The head is refused: answer with its status through the `send_*` methods, then [`ServerConn::close`].
    pub async fn read_head(&mut self) -> Result<Option<RequestHead>, HeadError> {
        poll_fn(|cx| self.poll_read_head(cx)).await
    }

    /// Tells HTTP/2 with prior knowledge from HTTP/1 by the first bytes; `None` when the client closed before.
    /// For HTTP/2, go on with [`ServerConn::into_parts`].
    pub async fn detect(&mut self) -> Option<Version> {
        poll_fn(|cx| {
            loop {
                let bytes = &self.wire.input.bytes;
                let common = bytes.len().min(PREFACE.len());
                if bytes[..common] != PREFACE[..common] {
                    return Poll::Ready(Some(Version::Http1));
                }
                if common == PREFACE.len() {
                    return Poll::Ready(Some(Version::Http2));
                }
                match ready!(self.wire.input.poll_fill(&mut self.wire.io, cx)) {
                    Ok(0) | Err(_) => return Poll::Ready((common > 0).then_some(Version::Http1)),
                    Ok(_) => {}
                }
            }
        })
        .await
    }

    /// The transport and the bytes already read from it.
    pub fn into_parts(mut self) -> (Io, Bytes) {
        let bytes = Bytes::copy_from_slice(&self.wire.input.bytes);
        (std::mem::replace(&mut self.wire.io, Box::new(tokio::io::empty())), bytes)
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            if !ready!(self.poll_finish(cx)) {
                return Poll::Ready(false);
            }
            self.skip_empty_lines();
            // Half of an empty line does not begin a request yet.
            if !matches!(&self.wire.input.bytes[..], b"" | b"\r") {
                return Poll::Ready(true);
            }
            if !matches!(ready!(self.wire.input.poll_fill(&mut self.wire.io, cx)), Ok(1..)) {
                return Poll::Ready(false);
            }
        }
    }

    /// An empty line before a request is left over by old clients (RFC 9112 §2.2).
    fn skip_empty_lines(&mut self) {
        while self.state.empty_lines < EMPTY_LINES && self.wire.input.bytes.starts_with(b"\r\n") {
            self.wire.input.bytes.advance(2);
            self.state.empty_lines += 1;
        }
    }

    /// Flushes the last response and reads what is left of its request; says whether another request may follow.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if !self.state.exchanging {
            return Poll::Ready(self.state.keep_alive && self.wire.failed.is_none());
        }
        if self.wire.failed.is_some() || ready!(self.wire.poll_flush(cx)).is_err() {
            return Poll::Ready(false);
        }
        if !self.state.keep_alive || self.wire.writing != Writing::Done {
            return Poll::Ready(false);
        }
        while let Some(frame) = ready!(self.poll_body(cx)) {
            let Ok(frame) = frame else { return Poll::Ready(false) };
            if let Frame::Data(data) = frame {
                self.drained += data.len() as u64;
            }
            if self.drained > self.options.drain_limit {
                self.state.keep_alive = false;
                return Poll::Ready(false);
            }
        }
        self.state = FRESH;
        self.upgrade = None;
        self.drained = 0;
        self.wire.begin();
        Poll::Ready(true)
    }

    fn poll_read_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<RequestHead>, HeadError>> {
        if !ready!(self.poll_readable(cx)) {
            return Poll::Ready(Ok(None));
        }
        let found = match ready!(self.wire.poll_head_bytes(cx, self.options.max_head_size)) {
            Ok(found) => found,
            Err(_) => return Poll::Ready(Ok(None)),
        };
        Poll::Ready(match found {
            Ok(HeadAt::Whole(size)) => self.take_head(size).map(Some),
            Ok(HeadAt::Eof) => Err(HeadError::bad("incomplete_head")),
            Err(error) => Err(error),
        })
        .map(|result| result.inspect_err(|_| self.refuse()))
    }

    fn take_head(&mut self, size: usize) -> Result<RequestHead, HeadError> {
        let rules = FieldRules { max_fields: self.options.max_headers, underscores: self.options.underscores };
        let bytes = &self.wire.input.bytes[..size];
        let absolute = !self.options.absolute_urls && is_absolute(bytes);
        let parsed = parse::request(bytes, &rules, self.options.chunked_length);
        self.wire.consume_head(size);
        let parsed = parsed?;
        if parsed.head.protocol == Protocol::Http10 && !self.options.accept_http10 {
            return Err(HeadError::new(426, "http10_not_accepted"));
        }
        if absolute && parsed.head.method != Method::Connect {
            return Err(HeadError::bad("absolute_url_not_accepted"));
        }
        self.state = State {
            exchanging: true,
            keep_alive: parsed.keep_alive,
            expects_continue: parsed.expects_continue && parsed.body != Body::Done,
            http10: parsed.head.protocol == Protocol::Http10,
            head: parsed.head.method == Method::Head,
            connect: parsed.head.method == Method::Connect,
            last_request: !parsed.keep_alive,
            empty_lines: 0,
        };
        self.upgrade = parsed.head.connect_protocol().map(|protocol| {
            let key = parsed.head.headers.get(&name::SEC_WEBSOCKET_KEY);
            Box::new(Upgrade { protocol: protocol.into(), accept: key.map(websocket::accept) })
        });
        self.wire.reading = parsed.body;
        Ok(parsed.head)
    }

    /// The bytes after a head that was refused cannot be understood: one answer, and the end.
    fn refuse(&mut self) {
        self.state = State { exchanging: true, keep_alive: false, ..FRESH };
        self.wire.reading = Body::Done;
    }

    // --- the request ---

    /// See [`crate::ServerStream::poll_body`].
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        let limits = BodyLimits {
            extensions: self.options.max_chunk_extensions,
            trailers: self.options.max_trailers_size,
            fields: self.options.max_headers,
        };
        self.wire.poll_frame(cx, &limits, self.options.trailers)
    }

    pub fn is_request_complete(&self) -> bool {
        self.wire.reading == Body::Done
    }

    pub fn expects_continue(&self) -> bool {
        self.state.expects_continue
    }

    /// See [`crate::ServerStream::poll_closed`]. While the request is incomplete, `poll_body` notices instead.
    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        if let Err(error) = self.wire.check() {
            return Poll::Ready(error);
        }
        if !self.is_request_complete() {
            return Poll::Pending;
        }
        loop {
            if self.wire.input.eof {
                return if self.options.half_close { Poll::Pending } else { Poll::Ready(StreamError::CLOSED) };
            }
            // Pipelined requests wait in the socket once the buffer is full.
            if self.wire.input.bytes.len() >= PIPELINED {
                return Poll::Pending;
            }
            if let Err(error) = ready!(self.wire.input.poll_fill(&mut self.wire.io, cx)) {
                return Poll::Ready(self.wire.fail(StreamError::io(&error)));
            }
        }
    }

    // --- the response ---

    /// See [`crate::ServerStream::send_informational`].
    ///
    /// # Errors
    /// The head holds what cannot be written.
    pub fn send_informational(&mut self, head: &ResponseHead) -> Result<(), StreamError> {
        self.wire.check()?;
        if !head.is_informational() || head.status == 101 || self.wire.writing != Writing::Head {
            return Err(StreamError::protocol("not_an_informational_head"));
        }
        if self.state.http10 {
            return Ok(());
        }
        if head.status == 100 {
            self.state.expects_continue = false;
        }
        self.wire.output.edit(|out| encode::informational(out, head, self.options.proper_case))
    }

    /// See [`crate::ServerStream::send_head`].
    ///
    /// # Errors
    /// The head holds what cannot be written.
    pub fn send_head(&mut self, head: &ResponseHead, end: bool) -> Result<(), StreamError> {
        self.wire.check()?;
        if self.wire.writing != Writing::Head || head.is_informational() && head.status != 101 {
            return Err(StreamError::protocol("head_out_of_order"));
        }
        // A client that was not told to continue may send the body or not, so its next byte has no meaning.
        if self.state.expects_continue && !self.is_request_complete() && head.status != 101 {
            self.state.keep_alive = false;
        }
        if self.wire.broken.is_some() {
            self.state.keep_alive = false;
        }
        let has_length = end || head.headers.contains(&name::CONTENT_LENGTH);
        if self.state.http10 && !has_length && !self.state.head && !matches!(head.status, 204 | 304) {
            self.state.keep_alive = false;
        }
        let answering = Answering {
            http10: self.state.http10,
            head: self.state.head,
            connect: self.state.connect,
            keep_alive: self.state.keep_alive,
            upgrade: self.upgrade.as_deref().map(|upgrade| &*upgrade.protocol),
            accept: self.upgrade.as_deref().and_then(|upgrade| upgrade.accept.as_ref()),
            proper_case: self.options.proper_case,
        };
        let mut writing = Writing::Head;
        let written = self.wire.output.edit(|out| {
            writing = encode::response(out, head, end, &answering)?;
            Ok(())
        });
        written?;
        self.wire.writing = if end { Writing::Done } else { writing };
        self.wire.note_head_out();
        Ok(())
    }

    /// See [`crate::ServerStream::poll_ready`].
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        self.wire.check()?;
        let result = ready!(self.wire.poll_room(cx, self.options.output_limit));
        Poll::Ready(result.map_err(|error| self.wire.fail(StreamError::io(&error))))
    }

    /// See [`crate::ServerStream::send_data`].
    ///
    /// # Errors
    /// More or fewer bytes than `content-length` promised.
    pub fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), StreamError> {
        self.wire.send_data(data, end)
    }

    /// See [`crate::ServerStream::send_trailers`].
    ///
    /// # Errors
    /// A field cannot be written.
    pub fn send_trailers(&mut self, trailers: &Headers) -> Result<(), StreamError> {
        self.wire.send_trailers(trailers, self.options.trailers, self.options.proper_case)
    }

    /// See [`crate::ServerStream::poll_flush`].
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        self.wire.check()?;
        let result = ready!(self.wire.poll_flush(cx));
        Poll::Ready(result.map_err(|error| self.wire.fail(StreamError::io(&error))))
    }

    /// Everything of this exchange went in and out.
    pub fn is_response_complete(&self) -> bool {
        self.wire.writing == Writing::Done
    }

    // --- the end ---

    /// See [`crate::ServerStream::upgrade`].
    pub fn upgrade(&mut self) {
        self.state.keep_alive = false;
        self.wire.upgrade();
    }

    /// No request follows this one; said in the response when its head was not sent yet.
    pub fn close_after_response(&mut self) {
        self.state.keep_alive = false;
    }

    pub fn is_keep_alive(&self) -> bool {
        self.state.keep_alive && self.wire.failed.is_none() && self.wire.broken.is_none()
    }

    /// Gives the connection up as it stands: nothing more is written.
    pub fn reset(&mut self) {
        self.state.keep_alive = false;
        self.wire.failed.get_or_insert(StreamErrorKind::Closed);
        self.wire.output.clear();
    }

    /// Flushes, says that nothing more comes, and reads on for a while so that the client can read the response before
    /// a reset of the connection destroys it (RFC 9112 §9.6). Bound it with a timeout.
    pub async fn close(&mut self) {
        if self.wire.failed.is_none() {
            let _ = poll_fn(|cx| self.wire.poll_flush(cx)).await;
            let _ = poll_fn(|cx| Pin::new(&mut self.wire.io).poll_shutdown(cx)).await;
            poll_fn(|cx| self.poll_linger(cx)).await;
        }
        self.reset();
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut left = LINGER;
        // A client that said all it had to say needs no patience.
        while !(self.is_request_complete() && self.state.last_request) && left > 0 {
            self.wire.input.bytes.clear();
            match ready!(self.wire.input.poll_fill(&mut self.wire.io, cx)) {
                Ok(0) | Err(_) => break,
                Ok(read) => left = left.saturating_sub(read),
            }
        }
        Poll::Ready(())
    }

    pub fn sizes(&self) -> WireSizes {
        self.wire.sizes()
    }
}

/// How much of the next requests is read ahead while a response is awaited.
const PIPELINED: usize = 16 * 1024;
/// How much is read in one go while lingering, before the caller's clock gets a chance.
const LINGER: usize = 1024 * 1024;

/// Whether the target of a head is neither a path nor `*`.
fn is_absolute(head: &[u8]) -> bool {
    let target = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    !authority::is_path(target) && target != b"*"
}
