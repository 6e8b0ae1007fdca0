//! The end of a tunnel: a TCP connection that takes the place of an upstream (Envoy `ConnectConfig`).
//!
//! No head goes out and none comes in: the answer is a 200 of our own, and bodies are the bytes of the connection.

use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};

use super::body::{Body, BodyLimits};
use super::wire::Wire;
use crate::stream::{StreamError, WireSizes};
use crate::{Frame, Io, ResponseHead};

/// A connection that speaks no HTTP.
pub struct RawConn {
    wire: Wire,
    output_limit: usize,
    answered: bool,
}

/// Raw bytes have neither chunks nor trailers.
const LIMITS: BodyLimits = BodyLimits { extensions: 0, trailers: 0, fields: 0 };

impl RawConn {
    /// `output_limit`: how much output may wait before `poll_ready` waits.
    pub fn new(io: Io, output_limit: usize) -> Self {
        let mut wire = Wire::new(io, BytesMut::new());
        wire.upgrade();
        Self { wire, output_limit, answered: false }
    }

    pub fn send_head(&mut self, end: bool) -> Result<(), StreamError> {
        if end { self.send_data(Bytes::new(), true) } else { self.wire.check() }
    }

    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        self.wire.check()?;
        let result = ready!(self.wire.poll_room(cx, self.output_limit));
        Poll::Ready(result.map_err(|error| self.wire.fail(StreamError::io(&error))))
    }

    pub fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), StreamError> {
        self.wire.send_data(data, end)
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        self.wire.check()?;
        let result = ready!(self.wire.poll_flush(cx));
        Poll::Ready(result.map_err(|error| self.wire.fail(StreamError::io(&error))))
    }

    /// The connection stands, so the tunnel is open.
    pub fn poll_head(&mut self) -> Poll<Result<ResponseHead, StreamError>> {
        self.wire.check()?;
        if std::mem::replace(&mut self.answered, true) {
            return Poll::Ready(Err(StreamError::protocol("head_out_of_order")));
        }
        Poll::Ready(Ok(ResponseHead::new(200)))
    }

    /// Sends what waits, too.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        if !self.wire.output.is_empty() && self.wire.failed.is_none() {
            let _ = self.poll_flush(cx)?;
        }
        self.wire.poll_frame(cx, &LIMITS, false)
    }

    pub fn is_response_complete(&self) -> bool {
        self.wire.reading == Body::Done
    }

    pub fn reset(&mut self) {
        self.wire.fail(StreamError::CLOSED);
        self.wire.output.clear();
    }

    pub fn sizes(&self) -> WireSizes {
        self.wire.sizes()
    }
}
