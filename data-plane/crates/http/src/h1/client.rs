//! The client side of an HTTP/1 connection: one request out, its response in, and again.
//!
//! Reads the response even when writing the request failed: a server may answer early and close. Keeps no time.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};

use super::body::{Body, BodyLimits};
use super::encode::{self, Writing};
use super::fields::FieldRules;
use super::parse::{self, Asked};
use super::wire::{HeadAt, Wire};
use crate::stream::{StreamError, StreamErrorKind, WireSizes};
use crate::{Frame, Headers, Io, Method, RequestHead, ResponseHead};

/// What a cluster says about HTTP/1; shared by its connections.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Bytes of a response head.
    pub max_head_size: usize,
    /// Fields of a head, and of trailers.
    pub max_headers: usize,
    pub max_chunk_extensions: u32,
    pub max_trailers_size: usize,
    /// 1xx heads before the final one.
    pub max_informational: u16,
    /// Pass trailers on, both ways.
    pub trailers: bool,
    /// Write names as `Content-Type`.
    pub proper_case: bool,
    /// How much output may wait before `poll_ready` waits.
    pub output_limit: usize,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            max_head_size: 60 * 1024,
            max_headers: 100,
            max_chunk_extensions: 4096,
            max_trailers_size: 16 * 1024,
            max_informational: 16,
            trailers: true,
            proper_case: false,
            output_limit: 64 * 1024,
        }
    }
}

/// The client side of a connection.
pub struct ClientConn {
    wire: Wire,
    options: Rc<ClientOptions>,
    asked: Asked,
    /// The final head came.
    answered: bool,
    keep_alive: bool,
    informational: u16,
    /// `output.written` when this request began: nothing written means nothing processed.
    written_before: u64,
    /// Writing failed; the response may still come.
    write_failed: bool,
}

impl ClientConn {
    pub fn new(io: Io, options: Rc<ClientOptions>) -> Self {
        Self {
            wire: Wire::new(io, BytesMut::new()),
            options,
            asked: Asked::default(),
            answered: false,
            keep_alive: true,
            informational: 0,
            written_before: 0,
            write_failed: false,
        }
    }

    /// Ready when a pooled connection is of no use any more: closed, or bytes came that nobody asked for.
    pub fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.wire.failed.is_some() || !self.wire.input.bytes.is_empty() || self.wire.input.eof {
            return Poll::Ready(());
        }
        self.wire.input.poll_fill(&mut self.wire.io, cx).map(|_| ())
    }

    // --- the request ---

    /// See [`crate::ClientStream::send_head`].
    ///
    /// # Errors
    /// The head holds what cannot be written.
    pub fn send_head(&mut self, head: &RequestHead, end: bool) -> Result<(), StreamError> {
        self.check()?;
        if self.wire.writing != Writing::Head {
            return Err(StreamError::protocol("head_out_of_order"));
        }
        let mut writing = Writing::Head;
        let written = self.wire.output.edit(|out| {
            writing = encode::request(out, head, end, self.options.proper_case)?;
            Ok(())
        });
        written.map_err(|error: StreamError| StreamError { retry_safe: true, ..error })?;
        self.asked = Asked {
            head: head.method == Method::Head,
            connect: head.method == Method::Connect,
            upgrade: head.connect_protocol().is_some(),
        };
        self.wire.writing = if end { Writing::Done } else { writing };
        self.wire.note_head_out();
        Ok(())
    }

    /// See [`crate::ClientStream::poll_ready`].
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        self.check()?;
        let result = ready!(self.wire.poll_room(cx, self.options.output_limit));
        Poll::Ready(self.note_write(result))
    }

    /// See [`crate::ClientStream::send_data`].
    ///
    /// # Errors
    /// More or fewer bytes than `content-length` promised.
    pub fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), StreamError> {
        self.wire.send_data(data, end).map_err(|error| self.judge(error))?;
        self.drop_unwritable();
        Ok(())
    }

    /// See [`crate::ClientStream::send_trailers`].
    ///
    /// # Errors
    /// A field cannot be written.
    pub fn send_trailers(&mut self, trailers: &Headers) -> Result<(), StreamError> {
        self.wire.send_trailers(trailers, self.options.trailers, self.options.proper_case)?;
        self.drop_unwritable();
        Ok(())
    }

    /// See [`crate::ClientStream::poll_flush`].
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        self.check()?;
        let result = ready!(self.wire.poll_flush(cx));
        Poll::Ready(self.note_write(result))
    }

    /// A failed write is not the last word: the server may have answered and closed.
    fn note_write(&mut self, result: std::io::Result<()>) -> Result<(), StreamError> {
        let Err(error) = result else { return Ok(()) };
        if self.wire.output.written == self.written_before || self.wire.writing == Writing::Tunnel {
            let error = self.wire.fail(StreamError::io(&error));
            return Err(self.judge(error));
        }
        self.write_failed = true;
        self.drop_unwritable();
        Ok(())
    }

    fn drop_unwritable(&mut self) {
        if self.write_failed {
            self.wire.output.clear();
        }
    }

    // --- the response ---

    /// See [`crate::ClientStream::poll_head`]. Sends what waits, too.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, StreamError>> {
        self.check()?;
        if self.answered || self.wire.writing == Writing::Head {
            return Poll::Ready(Err(StreamError::protocol("head_out_of_order")));
        }
        if let Poll::Ready(Err(error)) = self.poll_output(cx) {
            return Poll::Ready(Err(error));
        }
        let found = match ready!(self.wire.poll_head_bytes(cx, self.options.max_head_size)) {
            Ok(Ok(HeadAt::Whole(size))) => self.take_head(size),
            Ok(Ok(HeadAt::Eof)) => Err(StreamError::CLOSED),
            Ok(Err(error)) if error.status == 431 => Err(StreamError::new(StreamErrorKind::TooLarge)),
            Ok(Err(error)) => Err(StreamError::protocol(error.details)),
            Err(error) => Err(StreamError::io(&error)),
        };
        Poll::Ready(found.map_err(|error| {
            let error = self.wire.fail(error);
            self.judge(error)
        }))
    }

    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        if self.wire.output.is_empty() { Poll::Ready(Ok(())) } else { self.poll_flush(cx) }
    }

    fn take_head(&mut self, size: usize) -> Result<ResponseHead, StreamError> {
        let rules = FieldRules { max_fields: self.options.max_headers, ..FieldRules::default() };
        let parsed = parse::response(&self.wire.input.bytes[..size], &rules, self.asked);
        self.wire.consume_head(size);
        let parsed = parsed.map_err(|error| match error.status {
            431 => StreamError::new(StreamErrorKind::TooLarge),
            _ => StreamError::protocol(error.details),
        })?;
        match parsed.head.status {
            101 if !self.asked.upgrade => return Err(StreamError::protocol("unexpected_101")),
            100 | 102..=199 => {
                self.informational += 1;
                if self.informational > self.options.max_informational {
                    return Err(StreamError::protocol("too_many_informational_heads"));
                }
                return Ok(parsed.head);
            }
            _ => {}
        }
        self.answered = true;
        self.keep_alive = parsed.keep_alive;
        self.wire.reading = parsed.body;
        Ok(parsed.head)
    }

    /// See [`crate::ClientStream::poll_body`]. Sends what waits, too.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        if !self.wire.output.is_empty() && self.wire.failed.is_none() {
            let _ = self.poll_flush(cx)?;
        }
        let limits = BodyLimits {
            extensions: self.options.max_chunk_extensions,
            trailers: self.options.max_trailers_size,
            fields: self.options.max_headers,
        };
        self.wire.poll_frame(cx, &limits, self.options.trailers)
    }

    pub fn is_response_complete(&self) -> bool {
        self.answered && self.wire.reading == Body::Done
    }

    // --- the end ---

    /// See [`crate::ClientStream::upgrade`].
    pub fn upgrade(&mut self) {
        self.keep_alive = false;
        self.wire.upgrade();
    }

    /// Gives the connection up.
    pub fn reset(&mut self) {
        self.keep_alive = false;
        self.wire.failed.get_or_insert(StreamErrorKind::Closed);
        self.wire.output.clear();
    }

    /// The connection, when another request may go over it.
    pub fn into_reusable(mut self: Box<Self>) -> Option<Box<Self>> {
        let complete = self.is_response_complete() && self.wire.writing == Writing::Done;
        let clean = self.wire.input.bytes.is_empty() && self.wire.output.is_empty() && !self.wire.input.eof;
        if !complete || !clean || !self.keep_alive || self.write_failed || self.wire.failed.is_some() {
            return None;
        }
        self.wire.input.release();
        self.wire.begin();
        self.asked = Asked::default();
        self.answered = false;
        self.informational = 0;
        self.written_before = self.wire.output.written;
        Some(self)
    }

    pub fn sizes(&self) -> WireSizes {
        self.wire.sizes()
    }

    fn check(&self) -> Result<(), StreamError> {
        self.wire.check().map_err(|error| self.judge(error))
    }

    /// Nothing that was never written can have been processed.
    fn judge(&self, error: StreamError) -> StreamError {
        StreamError { retry_safe: self.wire.output.written == self.written_before, ..error }
    }
}
