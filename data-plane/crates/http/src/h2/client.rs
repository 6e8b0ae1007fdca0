//! The client side of an HTTP/2 connection: a handle to open streams with, a future that drives it, and the streams.
//!
//! The handle knows how many streams run and whether the server said goodbye; it never opens more than is allowed.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};

use super::convert;
use super::floods::{Heads, Watch};
use super::incoming::Incoming;
use super::keepalive::KeepAlive;
use super::outgoing::Outgoing;
use super::{ClientOptions, Rewind};
use crate::stream::{Reset, StreamError, StreamErrorKind, WireSizes};
use crate::{Frame, Headers, Io, RequestHead, ResponseHead};

/// A handle to a connection. The connection ends when all handles and streams are gone.
#[derive(Clone)]
pub struct ClientConn {
    send: SendRequest<Bytes>,
    shared: Rc<Shared>,
}

struct Shared {
    watch: Rc<Watch>,
    active: Cell<usize>,
    closed: Cell<bool>,
    max_streams: usize,
    max_headers: usize,
}

/// Drives a connection; spawn it on the worker. Ends with the connection.
pub struct Driver {
    conn: Connection<Rewind, Bytes>,
    keepalive: Option<KeepAlive>,
    shared: Rc<Shared>,
}

/// One request on a connection. Holds its place among the streams until it is dropped.
pub struct ClientStream {
    place: Place,
    state: State,
    failed: Option<StreamError>,
    /// 1xx heads that may still come before the final one.
    informational: u16,
    head_in: u64,
    head_out: u64,
}

struct Place(ClientConn);

/// As many 1xx heads as by HTTP/1.
const MAX_INFORMATIONAL: u16 = 16;

#[expect(clippy::large_enum_variant, reason = "the stream is boxed already, and open for almost all of its life")]
enum State {
    /// No head was sent yet.
    Fresh,
    Open {
        outgoing: Outgoing,
        incoming: Result<Incoming, ResponseFuture>,
        /// 101 was asked for, and 2xx means it.
        upgrade: bool,
    },
}

// === impl ClientConn ===

impl ClientConn {
    /// Sends the preface and settings.
    ///
    /// # Errors
    /// The transport failed.
    pub async fn handshake(io: Io, options: &ClientOptions) -> Result<(Self, Driver), StreamError> {
        let watch = Watch::of_server(options.frames);
        let io = Rewind::new(io, Bytes::new(), Heads::new(Rc::clone(&watch)));
        let handshake = options.builder().handshake(io).await;
        let (send, mut conn) = handshake.map_err(|error| convert::error(&error))?;
        let keepalive = KeepAlive::new(options.limits.ping, conn.ping_pong());
        let shared = Rc::new(Shared {
            watch,
            active: Cell::new(0),
            closed: Cell::new(false),
            max_streams: options.limits.max_concurrent_streams as usize,
            max_headers: options.limits.max_headers,
        });
        Ok((Self { send, shared: Rc::clone(&shared) }, Driver { conn, keepalive, shared }))
    }

    /// Takes a place for one more stream, which sends nothing yet; `None` when the server allows no more, said GOAWAY,
    /// or is gone.
    pub fn open_stream(&self) -> Option<ClientStream> {
        if !self.can_open() {
            return None;
        }
        self.shared.active.set(self.shared.active.get() + 1);
        Some(ClientStream {
            place: Place(self.clone()),
            state: State::Fresh,
            failed: None,
            informational: MAX_INFORMATIONAL,
            head_in: 0,
            head_out: 0,
        })
    }

    pub fn can_open(&self) -> bool {
        self.active_streams() < self.max_streams() && !self.is_closing()
    }

    pub fn active_streams(&self) -> usize {
        self.shared.active.get()
    }

    /// What the server allows, and the configuration.
    pub fn max_streams(&self) -> usize {
        self.shared.max_streams.min(self.send.current_max_send_streams())
    }

    /// The server said GOAWAY, or the connection failed or ended.
    pub fn is_closing(&self) -> bool {
        // Without a stream that waits for its place, being ready means only that the connection is sound.
        let mut send = self.send.clone();
        self.shared.closed.get()
            || matches!(send.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err(_)))
    }
}

impl Future for Driver {
    type Output = Result<(), StreamError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(keepalive) = &mut self.keepalive
            && keepalive.poll_gone(cx).is_ready()
        {
            self.shared.closed.set(true);
            return Poll::Ready(Err(StreamError::new(StreamErrorKind::Timeout)));
        }
        let result = match Pin::new(&mut self.conn).poll(cx) {
            Poll::Pending if let Some(what) = self.shared.watch.flood() => {
                tracing::debug!(what, "an endpoint was cut off");
                self.shared.closed.set(true);
                return Poll::Ready(Err(StreamError::protocol(what)));
            }
            polled => ready!(polled),
        };
        self.shared.closed.set(true);
        Poll::Ready(result.map_err(|error| convert::error(&error)))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.closed.set(true);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let active = &self.0.shared.active;
        active.set(active.get().saturating_sub(1));
    }
}

// === impl ClientStream ===

impl ClientStream {
    /// See [`crate::ClientStream::send_head`].
    ///
    /// # Errors
    /// The head holds what cannot be written, or the connection is gone.
    pub fn send_head(&mut self, head: &RequestHead, end: bool) -> Result<(), StreamError> {
        self.check()?;
        if !matches!(self.state, State::Fresh) {
            return Err(StreamError::protocol("head_out_of_order"));
        }
        let upgrade = head.connect_protocol().is_some();
        let conn = &mut self.place.0;
        if upgrade && !conn.send.is_extended_connect_protocol_enabled() {
            return Err(unsent(StreamError::protocol("extended_connect_not_offered")));
        }
        let request = convert::request_out(head).map_err(unsent)?;
        // A tunnel stays open though the request has no body.
        let end = end && !upgrade;
        let (response, stream) =
            conn.send.send_request(request, end).map_err(|error| unsent(convert::error(&error)))?;
        conn.shared.watch.opened();
        self.state = State::Open { outgoing: Outgoing::new(stream, end, false), incoming: Err(response), upgrade };
        self.head_out = (head.headers.byte_size() + head.path().len() + head.authority().len()) as u64;
        Ok(())
    }

    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        self.check()?;
        match &mut self.state {
            State::Open { outgoing, .. } => {
                let result = ready!(outgoing.poll_drain(cx));
                Poll::Ready(self.note_write(result))
            }
            State::Fresh => Poll::Ready(Ok(())),
        }
    }

    /// See [`crate::ClientStream::send_data`].
    ///
    /// # Errors
    /// The stream is gone.
    pub fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), StreamError> {
        self.check()?;
        let State::Open { outgoing, .. } = &mut self.state else {
            return Err(StreamError::protocol("data_outside_of_body"));
        };
        self.place.0.shared.watch.sent(data.len());
        let result = outgoing.send_data(data, end);
        self.note_write(result)
    }

    /// See [`crate::ClientStream::send_trailers`].
    ///
    /// # Errors
    /// A field cannot be written, or the stream is gone.
    pub fn send_trailers(&mut self, trailers: &Headers) -> Result<(), StreamError> {
        self.check()?;
        let State::Open { outgoing, .. } = &mut self.state else {
            return Err(StreamError::protocol("data_outside_of_body"));
        };
        let trailers = convert::fields_out(trailers, false)?;
        let result = outgoing.send_trailers(trailers);
        self.note_write(result)
    }

    /// A server that needs no more of the request answers and resets with NO_ERROR (RFC 9113 §8.1): the response counts.
    /// The reset may have been taken note of already; then the stream is no place to write to, and reading tells why.
    fn note_write(&mut self, result: Result<(), StreamError>) -> Result<(), StreamError> {
        match (result, &mut self.state) {
            (Err(error), State::Open { outgoing, .. })
                if matches!(error.kind, StreamErrorKind::Reset(Reset::NoError) | convert::MISUSE) =>
            {
                outgoing.discard();
                Ok(())
            }
            (result, _) => result.inspect_err(|error| self.failed = self.failed.or(Some(*error))),
        }
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        self.poll_ready(cx)
    }

    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, StreamError>> {
        self.check()?;
        let _ = self.poll_ready(cx)?;
        let found = ready!(self.poll_response(cx));
        Poll::Ready(found.inspect_err(|error| self.failed = self.failed.or(Some(*error))))
    }

    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, StreamError>> {
        let State::Open { incoming, upgrade, .. } = &mut self.state else {
            return Poll::Ready(Err(StreamError::protocol("head_out_of_order")));
        };
        let Err(response) = incoming else {
            return Poll::Ready(Err(StreamError::protocol("head_out_of_order")));
        };
        let malformed = |malformed: convert::Malformed| StreamError::protocol(malformed.0);
        if let Poll::Ready(Some(informational)) = response.poll_informational(cx) {
            let (parts, ()) = informational.map_err(|error| convert::server_error(&error))?.into_parts();
            let Some(left) = self.informational.checked_sub(1) else {
                return Poll::Ready(Err(StreamError::protocol("too_many_informational_heads")));
            };
            self.informational = left;
            return Poll::Ready(convert::response_in(parts.status, &parts.headers).map_err(malformed));
        }
        let response = ready!(Pin::new(response).poll(cx)).map_err(|error| convert::server_error(&error))?;
        let (parts, body) = response.into_parts();
        if parts.headers.len() > self.place.0.shared.max_headers {
            return Poll::Ready(Err(StreamError::new(StreamErrorKind::TooLarge)));
        }
        let mut head = convert::response_in(parts.status, &parts.headers).map_err(malformed)?;
        // To the rest of the proxy an accepted extended CONNECT is a 101.
        if *upgrade && (200..300).contains(&head.status) {
            head.status = 101;
        }
        *incoming = Ok(Incoming::new(body));
        self.head_in = head.headers.byte_size() as u64;
        Poll::Ready(Ok(head))
    }

    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        if let Some(error) = self.failed {
            return Poll::Ready(Some(Err(error)));
        }
        let _ = self.poll_ready(cx)?;
        match &mut self.state {
            State::Open { incoming: Ok(incoming), .. } => incoming.poll_frame(cx),
            _ => Poll::Ready(Some(Err(StreamError::protocol("body_before_head")))),
        }
    }

    pub fn is_response_complete(&self) -> bool {
        matches!(&self.state, State::Open { incoming: Ok(incoming), .. } if incoming.is_complete())
    }

    /// Data of a tunnel travels as any other data.
    pub fn upgrade(&mut self) {}

    pub fn reset(&mut self, reason: Reset) {
        self.failed = self.failed.or(Some(StreamError::new(StreamErrorKind::Reset(reason))));
        if let State::Open { outgoing, .. } = &mut self.state {
            outgoing.reset(convert::reset_out(reason));
        }
    }

    pub fn sizes(&self) -> WireSizes {
        let (received, sent) = match &self.state {
            State::Fresh => (0, 0),
            State::Open { outgoing, incoming, .. } => {
                (incoming.as_ref().map_or(0, |incoming| incoming.received), outgoing.sent)
            }
        };
        WireSizes {
            head_in: self.head_in,
            head_out: self.head_out,
            total_in: self.head_in + received,
            total_out: self.head_out + sent,
        }
    }

    fn check(&self) -> Result<(), StreamError> {
        self.failed.map_or(Ok(()), Err)
    }
}

fn unsent(error: StreamError) -> StreamError {
    StreamError { retry_safe: true, ..error }
}
