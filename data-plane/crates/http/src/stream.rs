//! One request as seen from either side: an enum over the codecs, so that nothing above names a version of HTTP.
//!
//! Polled, never spawned: whoever holds a stream drives it. No timers here; deadlines are the caller's.

use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::{Frame, Headers, RequestHead, ResponseHead, h1, h2};

/// The downstream side of one request.
pub enum ServerStream<'c> {
    H1(&'c mut h1::ServerConn),
    H2(Box<h2::ServerStream>),
}

/// The upstream side of one request.
pub enum ClientStream {
    H1(Box<h1::ClientConn>),
    H2(Box<h2::ClientStream>),
    /// No HTTP: a tunnel that ends here.
    Raw(Box<h1::RawConn>),
}

/// Why a stream ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct StreamError {
    pub kind: StreamErrorKind,
    /// Nothing of the request can have been processed, so that any request may be sent again.
    pub retry_safe: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamErrorKind {
    #[error("connection closed")]
    Closed,
    #[error("stream reset: {0:?}")]
    Reset(Reset),
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    #[error("input or output failed: {0}")]
    Io(io::ErrorKind),
    #[error("timed out")]
    Timeout,
    #[error("message too large")]
    TooLarge,
}

/// The error codes of RFC 9113 §7. On HTTP/1 every reset closes the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    NoError,
    Protocol,
    Internal,
    FlowControl,
    FrameSize,
    Refused,
    Cancel,
    Connect,
    EnhanceYourCalm,
    Http11Required,
    Other(u32),
}

/// Bytes of one message pair on the wire, heads and framing included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WireSizes {
    /// Bytes of the head that came in.
    pub head_in: u64,
    /// Bytes of the head that went out.
    pub head_out: u64,
    /// All bytes of the message that came in. HTTP/2: head and data, without frame headers.
    pub total_in: u64,
    /// All bytes of the message that went out.
    pub total_out: u64,
}

// === impl ServerStream ===

impl ServerStream<'_> {
    /// The next piece of the request; `None` when it is complete, and again `None` after that.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        match self {
            Self::H1(conn) => conn.poll_body(cx),
            Self::H2(stream) => stream.poll_body(cx),
        }
    }

    /// Known without reading: at once true for a request without a body.
    pub fn is_request_complete(&self) -> bool {
        match self {
            Self::H1(conn) => conn.is_request_complete(),
            Self::H2(stream) => stream.is_request_complete(),
        }
    }

    /// The client waits for a 100 before it sends the body.
    pub fn expects_continue(&self) -> bool {
        match self {
            Self::H1(conn) => conn.expects_continue(),
            Self::H2(stream) => stream.expects_continue(),
        }
    }

    /// Sends a 1xx head other than 101. An HTTP/1.0 client gets none.
    ///
    /// # Errors
    /// The head holds what cannot be written, or the stream is gone.
    pub fn send_informational(&mut self, head: &ResponseHead) -> Result<(), StreamError> {
        match self {
            Self::H1(conn) => conn.send_informational(head),
            Self::H2(stream) => stream.send_informational(head),
        }
    }

    /// Buffers the head of the response; `end`: it has no body.
    ///
    /// # Errors
    /// The head holds what cannot be written, or the stream is gone.
    pub fn send_head(&mut self, head: &ResponseHead, end: bool) -> Result<(), StreamError> {
        match self {
            Self::H1(conn) => conn.send_head(head, end),
            Self::H2(stream) => stream.send_head(head, end),
        }
    }

    /// Ready when there is room for more data; sends what it can while it waits.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        match self {
            Self::H1(conn) => conn.poll_ready(cx),
            Self::H2(stream) => stream.poll_ready(cx),
        }
    }

    /// Buffers a piece of the body.
    ///
    /// # Errors
    /// More or fewer bytes than `content-length` promised, or the stream is gone.
    pub fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), StreamError> {
        match self {
            Self::H1(conn) => conn.send_data(data, end),
            Self::H2(stream) => stream.send_data(data, end),
        }
    }

    /// Ends the response with trailer fields; on HTTP/1 they are left out when the body is not chunked.
    ///
    /// # Errors
    /// A field cannot be written, or the stream is gone.
    pub fn send_trailers(&mut self, trailers: &Headers) -> Result<(), StreamError> {
        match self {
            Self::H1(conn) => conn.send_trailers(trailers),
            Self::H2(stream) => stream.send_trailers(trailers),
        }
    }

    /// Ready when everything buffered was taken by the transport (HTTP/2: by the connection).
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        match self {
            Self::H1(conn) => conn.poll_flush(cx),
            Self::H2(stream) => stream.poll_flush(cx),
        }
    }

    /// Ready when the client went away or reset the stream. Never loses pipelined bytes.
    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        match self {
            Self::H1(conn) => conn.poll_closed(cx),
            Self::H2(stream) => stream.poll_closed(cx),
        }
    }

    /// After a 101, or a 2xx to CONNECT, was sent: frames are raw bytes of the tunnel both ways.
    pub fn upgrade(&mut self) {
        match self {
            Self::H1(conn) => conn.upgrade(),
            Self::H2(stream) => stream.upgrade(),
        }
    }

    /// Gives the stream up. On HTTP/1 the connection is not used again.
    pub fn reset(&mut self, reason: Reset) {
        match self {
            Self::H1(conn) => conn.reset(),
            Self::H2(stream) => stream.reset(reason),
        }
    }

    pub fn sizes(&self) -> WireSizes {
        match self {
            Self::H1(conn) => conn.sizes(),
            Self::H2(stream) => stream.sizes(),
        }
    }
}

// === impl ClientStream ===

impl ClientStream {
    /// Buffers the head of the request; `end`: it has no body. Once per stream.
    ///
    /// # Errors
    /// The head holds what cannot be written, or the stream is gone.
    pub fn send_head(&mut self, head: &RequestHead, end: bool) -> Result<(), StreamError> {
        match self {
            Self::H1(conn) => conn.send_head(head, end),
            Self::H2(stream) => stream.send_head(head, end),
            Self::Raw(conn) => conn.send_head(end),
        }
    }

    /// Ready when there is room for more data; sends what it can while it waits.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        match self {
            Self::H1(conn) => conn.poll_ready(cx),
            Self::H2(stream) => stream.poll_ready(cx),
            Self::Raw(conn) => conn.poll_ready(cx),
        }
    }

    /// Buffers a piece of the body.
    ///
    /// # Errors
    /// More or fewer bytes than `content-length` promised, or the stream is gone.
    pub fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), StreamError> {
        match self {
            Self::H1(conn) => conn.send_data(data, end),
            Self::H2(stream) => stream.send_data(data, end),
            Self::Raw(conn) => conn.send_data(data, end),
        }
    }

    /// Ends the request with trailer fields; on HTTP/1 they are left out when the body is not chunked.
    ///
    /// # Errors
    /// A field cannot be written, or the stream is gone.
    pub fn send_trailers(&mut self, trailers: &Headers) -> Result<(), StreamError> {
        match self {
            Self::H1(conn) => conn.send_trailers(trailers),
            Self::H2(stream) => stream.send_trailers(trailers),
            Self::Raw(conn) => conn.send_data(Bytes::new(), true),
        }
    }

    /// Ready when everything buffered was taken by the transport (HTTP/2: by the connection).
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        match self {
            Self::H1(conn) => conn.poll_flush(cx),
            Self::H2(stream) => stream.poll_flush(cx),
            Self::Raw(conn) => conn.poll_flush(cx),
        }
    }

    /// The next head of the response: 1xx heads first (call again after one), then the final one.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, StreamError>> {
        match self {
            Self::H1(conn) => conn.poll_head(cx),
            Self::H2(stream) => stream.poll_head(cx),
            Self::Raw(conn) => conn.poll_head(),
        }
    }

    /// The next piece of the response; `None` when it is complete, and again `None` after that.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        match self {
            Self::H1(conn) => conn.poll_body(cx),
            Self::H2(stream) => stream.poll_body(cx),
            Self::Raw(conn) => conn.poll_body(cx),
        }
    }

    /// Known without reading, once the final head came.
    pub fn is_response_complete(&self) -> bool {
        match self {
            Self::H1(conn) => conn.is_response_complete(),
            Self::H2(stream) => stream.is_response_complete(),
            Self::Raw(conn) => conn.is_response_complete(),
        }
    }

    /// After a 101, or a 2xx to CONNECT, came: frames are raw bytes of the tunnel both ways.
    pub fn upgrade(&mut self) {
        match self {
            Self::H1(conn) => conn.upgrade(),
            Self::H2(stream) => stream.upgrade(),
            Self::Raw(_) => {}
        }
    }

    /// Gives the stream up. On HTTP/1 the connection is not used again.
    pub fn reset(&mut self, reason: Reset) {
        match self {
            Self::H1(conn) => conn.reset(),
            Self::H2(stream) => stream.reset(reason),
            Self::Raw(conn) => conn.reset(),
        }
    }

    /// The connection, when another request may go over it: both directions complete, keep-alive, nothing left over.
    pub fn into_reusable(self) -> Option<Box<h1::ClientConn>> {
        match self {
            Self::H1(conn) => conn.into_reusable(),
            Self::H2(_) | Self::Raw(_) => None,
        }
    }

    pub fn sizes(&self) -> WireSizes {
        match self {
            Self::H1(conn) => conn.sizes(),
            Self::H2(stream) => stream.sizes(),
            Self::Raw(conn) => conn.sizes(),
        }
    }
}

// === impl StreamError ===

impl StreamError {
    pub const CLOSED: Self = Self::new(StreamErrorKind::Closed);

    // As `HeadError::new`: the call marks the way to it as rare.
    #[cold]
    #[inline(never)]
    pub(crate) const fn new(kind: StreamErrorKind) -> Self {
        Self { kind, retry_safe: false }
    }

    #[cold]
    #[inline(never)]
    pub(crate) const fn protocol(details: &'static str) -> Self {
        Self::new(StreamErrorKind::Protocol(details))
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => Self::CLOSED,
            kind => Self::new(StreamErrorKind::Io(kind)),
        }
    }
}
