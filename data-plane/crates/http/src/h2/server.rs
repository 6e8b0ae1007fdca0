//! The server side of an HTTP/2 connection, and one stream of it.
//!
//! The caller's accept loop drives the connection: streams make progress only while `accept` is polled.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::StatusCode;

use super::convert::{self, Malformed};
use super::floods::{Heads, Watch};
use super::incoming::Incoming;
use super::keepalive::KeepAlive;
use super::outgoing::Outgoing;
use super::{Rewind, ServerOptions};
use crate::stream::{Reset, StreamError, StreamErrorKind, WireSizes};
use crate::{Frame, Headers, Io, Method, RequestHead, ResponseHead, name};

/// The server side of a connection.
pub struct ServerConn {
    conn: Connection<Rewind, Bytes>,
    watch: Rc<Watch>,
    keepalive: Option<KeepAlive>,
    max_headers: usize,
    /// Malformed heads that may still be answered with a reset of their stream alone.
    patience: usize,
    /// The connection ends because of a flood.
    flooded: bool,
}

/// One request of a connection.
pub struct ServerStream {
    incoming: Incoming,
    respond: SendResponse<Bytes>,
    outgoing: Option<Outgoing>,
    watch: Rc<Watch>,
    /// The request was an extended CONNECT, so that 101 means 200.
    upgrade: bool,
    head: bool,
    expects_continue: bool,
    failed: Option<StreamErrorKind>,
    head_in: u64,
    head_out: u64,
}

// === impl ServerConn ===

impl ServerConn {
    /// Exchanges prefaces. `read` was read from `io` already, as [`crate::h1::ServerConn::into_parts`] gives it.
    ///
    /// # Errors
    /// The client speaks something else, or went away.
    pub async fn handshake(io: Io, read: Bytes, options: &ServerOptions) -> Result<Self, StreamError> {
        let watch = Watch::of_client(options.frames);
        let io = Rewind::new(io, read, Heads::new(Rc::clone(&watch)));
        let handshake = options.builder().handshake(io).await;
        let mut conn = handshake.map_err(|error| convert::error(&error))?;
        let keepalive = KeepAlive::new(options.limits.ping, conn.ping_pong());
        let patience = options.limits.max_local_error_reset_streams;
        Ok(Self { conn, watch, keepalive, max_headers: options.limits.max_headers, patience, flooded: false })
    }

    /// The next request; `None` when the connection is over. Keep calling it while streams live.
    pub async fn accept(&mut self) -> Option<Result<(RequestHead, ServerStream), StreamError>> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    pub fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<(RequestHead, ServerStream), StreamError>>> {
        if let Some(keepalive) = &mut self.keepalive
            && keepalive.poll_gone(cx).is_ready()
        {
            return Poll::Ready(Some(Err(StreamError::new(StreamErrorKind::Timeout))));
        }
        loop {
            let accepted = match self.conn.poll_accept(cx) {
                Poll::Pending if self.watch.flood().is_some() => {
                    if self.flooded {
                        // A client that does not take even GOAWAY gets none.
                        return Poll::Ready(None);
                    }
                    self.flooded = true;
                    self.conn.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    continue;
                }
                polled => ready!(polled),
            };
            let Some(accepted) = accepted else { return Poll::Ready(None) };
            let (request, mut respond) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => return Poll::Ready(Some(Err(convert::error(&error)))),
            };
            let (parts, body) = request.into_parts();
            if parts.headers.len() > self.max_headers {
                let mut refusal = http::Response::new(());
                *refusal.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                let _ = respond.send_response(refusal, true);
                continue;
            }
            let upgrade = parts.extensions.get::<h2::ext::Protocol>().is_some();
            match convert::request_in(parts) {
                Ok(head) => {
                    let stream = stream(&head, body, respond, upgrade, Rc::clone(&self.watch));
                    return Poll::Ready(Some(Ok((head, stream))));
                }
                Err(Malformed(details)) => {
                    tracing::debug!(details, "malformed request head");
                    respond.send_reset(Reason::PROTOCOL_ERROR);
                    match self.patience.checked_sub(1) {
                        Some(patience) => self.patience = patience,
                        None => self.conn.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM),
                    }
                }
            }
        }
    }

    /// What the client sent too much of, if that ended the connection.
    pub fn flood(&self) -> Option<&'static str> {
        self.watch.flood()
    }

    /// Takes no new streams and lets the running ones end: GOAWAY, twice as RFC 9113 §6.8 describes.
    pub fn graceful_shutdown(&mut self) {
        self.conn.graceful_shutdown();
    }

    /// Ends all streams at once.
    pub fn abrupt_shutdown(&mut self, reason: Reset) {
        self.conn.abrupt_shutdown(convert::reset_out(reason));
    }
}

fn stream(
    head: &RequestHead,
    body: RecvStream,
    respond: SendResponse<Bytes>,
    upgrade: bool,
    watch: Rc<Watch>,
) -> ServerStream {
    let incoming = Incoming::new(body);
    let expects = head.headers.get(&name::EXPECT).is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
    ServerStream {
        expects_continue: expects && !incoming.is_complete(),
        incoming,
        respond,
        outgoing: None,
        watch,
        upgrade,
        head: head.method == Method::Head,
        failed: None,
        head_in: (head.headers.byte_size() + head.path().len() + head.authority().len()) as u64,
        head_out: 0,
    }
}

// === impl ServerStream ===

impl ServerStream {
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        if let Some(kind) = self.failed {
            return Poll::Ready(Some(Err(StreamError::new(kind))));
        }
        self.incoming.poll_frame(cx)
    }

    pub fn is_request_complete(&self) -> bool {
        self.incoming.is_complete()
    }

    pub fn expects_continue(&self) -> bool {
        self.expects_continue
    }

    /// See [`crate::ServerStream::send_informational`].
    ///
    /// # Errors
    /// The stream is gone, or the final head was sent.
    pub fn send_informational(&mut self, head: &ResponseHead) -> Result<(), StreamError> {
        self.check()?;
        if !head.is_informational() || head.status == 101 || self.outgoing.is_some() {
            return Err(StreamError::protocol("not_an_informational_head"));
        }
        if head.status == 100 {
            self.expects_continue = false;
        }
        let response = convert::response_out(head)?;
        self.respond.send_informational(response).map_err(|error| self.fail(convert::error(&error)))
    }

    /// See [`crate::ServerStream::send_head`].
    ///
    /// # Errors
    /// The head holds what cannot be written, or the stream is gone.
    pub fn send_head(&mut self, head: &ResponseHead, end: bool) -> Result<(), StreamError> {
        self.check()?;
        let upgraded = head.status == 101 && self.upgrade;
        if self.outgoing.is_some() || head.is_informational() && !upgraded {
            return Err(StreamError::protocol("head_out_of_order"));
        }
        let mut response = convert::response_out(head)?;
        if upgraded {
            *response.status_mut() = StatusCode::OK;
            response.headers_mut().remove("sec-websocket-accept");
            response.headers_mut().remove(http::header::CONTENT_LENGTH);
        }
        // A response to HEAD, a 204 and a 304 end with their head, whatever the caller has.
        let end = end || self.head || matches!(head.status, 204 | 304);
        let sent = self.respond.send_response(response, end);
        let stream = sent.map_err(|error| self.fail(convert::error(&error)))?;
        self.outgoing = Some(Outgoing::new(stream, end, self.head || matches!(head.status, 204 | 304)));
        self.head_out = head.headers.byte_size() as u64;
        Ok(())
    }

    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        self.check()?;
        match &mut self.outgoing {
            Some(outgoing) => outgoing.poll_drain(cx).map_err(|error| fail(&mut self.failed, error)),
            None => Poll::Ready(Ok(())),
        }
    }

    /// See [`crate::ServerStream::send_data`].
    ///
    /// # Errors
    /// The stream is gone.
    pub fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), StreamError> {
        self.check()?;
        let outgoing = self.outgoing.as_mut().ok_or(StreamError::protocol("data_outside_of_body"))?;
        self.watch.sent(data.len());
        outgoing.send_data(data, end).map_err(|error| fail(&mut self.failed, error))
    }

    /// See [`crate::ServerStream::send_trailers`].
    ///
    /// # Errors
    /// A field cannot be written, or the stream is gone.
    pub fn send_trailers(&mut self, trailers: &Headers) -> Result<(), StreamError> {
        self.check()?;
        let outgoing = self.outgoing.as_mut().ok_or(StreamError::protocol("data_outside_of_body"))?;
        let trailers = convert::fields_out(trailers, false)?;
        outgoing.send_trailers(trailers).map_err(|error| fail(&mut self.failed, error))
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        self.poll_ready(cx)
    }

    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        if let Some(kind) = self.failed {
            return Poll::Ready(StreamError::new(kind));
        }
        let error = match &mut self.outgoing {
            Some(outgoing) => ready!(outgoing.poll_reset(cx)),
            None => match ready!(self.respond.poll_reset(cx)) {
                Ok(reason) => convert::reset_error(reason),
                Err(error) => convert::error(&error),
            },
        };
        Poll::Ready(self.fail(error))
    }

    /// Data of a tunnel travels as any other data.
    pub fn upgrade(&mut self) {}

    pub fn reset(&mut self, reason: Reset) {
        self.failed.get_or_insert(StreamErrorKind::Reset(reason));
        let reason = convert::reset_out(reason);
        match &mut self.outgoing {
            Some(outgoing) => outgoing.reset(reason),
            None => self.respond.send_reset(reason),
        }
    }

    pub fn sizes(&self) -> WireSizes {
        WireSizes {
            head_in: self.head_in,
            head_out: self.head_out,
            total_in: self.head_in + self.incoming.received,
            total_out: self.head_out + self.outgoing.as_ref().map_or(0, |outgoing| outgoing.sent),
        }
    }

    fn check(&self) -> Result<(), StreamError> {
        self.failed.map_or(Ok(()), |kind| Err(StreamError::new(kind)))
    }

    fn fail(&mut self, error: StreamError) -> StreamError {
        fail(&mut self.failed, error)
    }
}

fn fail(failed: &mut Option<StreamErrorKind>, error: StreamError) -> StreamError {
    failed.get_or_insert(error.kind);
    error
}
