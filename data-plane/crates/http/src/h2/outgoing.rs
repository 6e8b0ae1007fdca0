//! The sending half of a stream: what was handed over and not yet taken by the connection.
//!
//! Takes no more from the caller than one piece beyond what the windows and the send buffer allow.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use http::HeaderMap;

use super::convert;
use crate::stream::StreamError;

pub(super) struct Outgoing {
    stream: SendStream<Bytes>,
    pending: VecDeque<Bytes>,
    end: End,
    /// The message has no body, whatever the caller has; it is dropped.
    bodiless: bool,
    pub(super) sent: u64,
}

enum End {
    Open,
    /// After what is pending.
    Wanted,
    Trailers(HeaderMap),
    Sent,
}

impl Outgoing {
    pub(super) fn new(stream: SendStream<Bytes>, ended: bool, bodiless: bool) -> Self {
        let end = if ended { End::Sent } else { End::Open };
        Self { stream, pending: VecDeque::new(), end, bodiless, sent: 0 }
    }

    pub(super) fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), StreamError> {
        if !matches!(self.end, End::Open) {
            let harmless = data.is_empty() || self.bodiless;
            return if harmless { Ok(()) } else { Err(StreamError::protocol("data_after_end")) };
        }
        self.sent += data.len() as u64;
        if !data.is_empty() {
            self.pending.push_back(data);
        }
        if end {
            self.end = End::Wanted;
        }
        self.advance()
    }

    pub(super) fn send_trailers(&mut self, trailers: HeaderMap) -> Result<(), StreamError> {
        if !matches!(self.end, End::Open) {
            return if self.bodiless { Ok(()) } else { Err(StreamError::protocol("trailers_after_end")) };
        }
        self.end = End::Trailers(trailers);
        self.advance()
    }

    /// Gives the connection what the windows allow, without waiting.
    fn advance(&mut self) -> Result<(), StreamError> {
        while let Some(data) = self.pending.front_mut() {
            let size = data.len();
            self.stream.reserve_capacity(size);
            let room = self.stream.capacity().min(size);
            if room == 0 {
                return Ok(());
            }
            let piece = data.split_to(room);
            if room == size {
                self.pending.pop_front();
            }
            let last = self.pending.is_empty() && matches!(self.end, End::Wanted);
            self.stream.send_data(piece, last).map_err(|error| convert::error(&error))?;
            if last {
                self.end = End::Sent;
            }
        }
        match std::mem::replace(&mut self.end, End::Sent) {
            End::Open => self.end = End::Open,
            End::Wanted => self.stream.send_data(Bytes::new(), true).map_err(|error| convert::error(&error))?,
            End::Trailers(trailers) => {
                self.stream.send_trailers(trailers).map_err(|error| convert::error(&error))?;
            }
            End::Sent => {}
        }
        Ok(())
    }

    /// Ready when the connection took all.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        loop {
            self.advance()?;
            if self.pending.is_empty() {
                return Poll::Ready(Ok(()));
            }
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(convert::error(&error))),
                None => return Poll::Ready(Err(self.why_closed(cx))),
            }
        }
    }

    fn why_closed(&mut self, cx: &mut Context<'_>) -> StreamError {
        match self.stream.poll_reset(cx) {
            Poll::Ready(Ok(reason)) => convert::reset_error(reason),
            Poll::Ready(Err(error)) => convert::error(&error),
            Poll::Pending => StreamError::CLOSED,
        }
    }

    pub(super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        self.stream.poll_reset(cx).map(|result| match result {
            Ok(reason) => convert::reset_error(reason),
            Err(error) => convert::error(&error),
        })
    }

    /// The peer wants no more of it.
    pub(super) fn discard(&mut self) {
        self.pending.clear();
        self.end = End::Sent;
        self.bodiless = true;
    }

    pub(super) fn reset(&mut self, reason: h2::Reason) {
        self.pending.clear();
        self.end = End::Sent;
        self.stream.send_reset(reason);
    }
}
