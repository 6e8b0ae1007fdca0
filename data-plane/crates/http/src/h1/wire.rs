//! What both sides of HTTP/1 share: a transport, its two halves, and the framing of the messages under way.
//!
//! Knows bodies, not heads.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWrite;

use super::HeadError;
use super::body::{Body, BodyLimits, Decoded};
use super::encode::{self, Writing};
use super::fields;
use super::input::Input;
use super::output::Output;
use crate::stream::{StreamError, StreamErrorKind, WireSizes};
use crate::{Frame, Headers, Io};

pub(super) struct Wire {
    pub(super) io: Io,
    pub(super) input: Input,
    pub(super) output: Output,
    pub(super) reading: Body,
    pub(super) writing: Writing,
    /// Shut the writing half down once all is written (the end of a tunnel).
    shut: Shut,
    /// Bytes of the message coming in, its head among them.
    received: u64,
    head_in: u32,
    head_out: u32,
    /// `output.queued` when the message going out began.
    queued_before: u64,
    /// How far an incomplete head was searched for its end.
    scanned: u32,
    /// A failure ends the connection; all later calls say the same.
    pub(super) failed: Option<StreamErrorKind>,
    /// The body that came in broke the rules: nothing more is read, but an answer can still be written.
    pub(super) broken: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shut {
    No,
    Wanted,
    Done,
}

/// What waits at the front of the input when a head is looked for.
pub(super) enum HeadAt {
    /// A head of so many bytes is whole.
    Whole(usize),
    Eof,
}

impl Wire {
    pub(super) fn new(io: Io, bytes: BytesMut) -> Self {
        Self {
            io,
            input: Input::with(bytes),
            output: Output::default(),
            reading: Body::Done,
            writing: Writing::Head,
            shut: Shut::No,
            received: 0,
            head_in: 0,
            head_out: 0,
            queued_before: 0,
            scanned: 0,
            failed: None,
            broken: None,
        }
    }

    /// Forgets the last exchange.
    pub(super) fn begin(&mut self) {
        self.input.begin_message();
        self.reading = Body::Done;
        self.writing = Writing::Head;
        (self.received, self.head_in, self.head_out, self.scanned) = (0, 0, 0, 0);
        self.queued_before = self.output.queued;
    }

    pub(super) fn sizes(&self) -> WireSizes {
        WireSizes {
            head_in: u64::from(self.head_in),
            head_out: u64::from(self.head_out),
            total_in: self.received,
            total_out: self.output.queued - self.queued_before,
        }
    }

    pub(super) fn note_head_out(&mut self) {
        self.head_out = u32::try_from(self.output.queued - self.queued_before).unwrap_or(u32::MAX);
    }

    pub(super) fn fail(&mut self, error: StreamError) -> StreamError {
        self.failed.get_or_insert(error.kind);
        error
    }

    pub(super) fn check(&self) -> Result<(), StreamError> {
        self.failed.map_or(Ok(()), |kind| Err(StreamError::new(kind)))
    }

    // --- heads in ---

    /// Reads until a whole head is at the front of the input, which is at most `limit` bytes.
    pub(super) fn poll_head_bytes(
        &mut self,
        cx: &mut Context<'_>,
        limit: usize,
    ) -> Poll<Result<Result<HeadAt, HeadError>, io::Error>> {
        loop {
            let bytes = &self.input.bytes;
            let from = (self.scanned as usize).min(bytes.len());
            match fields::find_end(bytes, from.saturating_sub(3)) {
                Some(end) if end <= limit => return Poll::Ready(Ok(Ok(HeadAt::Whole(end)))),
                None if bytes.len() < limit => {}
                _ => return Poll::Ready(Ok(Err(too_large(&bytes[..limit])))),
            }
            if bytes.first().is_some_and(|byte| !fields::is_name(&[*byte])) {
                return Poll::Ready(Ok(Err(HeadError::bad("not_http"))));
            }
            if fields::has_bare_lf(bytes, from) {
                return Poll::Ready(Ok(Err(HeadError::bad("bare_lf"))));
            }
            self.scanned = bytes.len() as u32;
            if ready!(self.input.poll_fill(&mut self.io, cx))? == 0 {
                return Poll::Ready(Ok(Ok(HeadAt::Eof)));
            }
        }
    }

    /// The head at the front of the input was read.
    pub(super) fn consume_head(&mut self, size: usize) {
        bytes::Buf::advance(&mut self.input.bytes, size);
        self.received += size as u64;
        self.head_in = size as u32;
        self.scanned = 0;
    }

    // --- bodies in ---

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        limits: &BodyLimits,
        keep_trailers: bool,
    ) -> Poll<Option<Result<Frame, StreamError>>> {
        loop {
            if self.reading == Body::Done {
                return Poll::Ready(None);
            }
            if let Some(details) = self.broken {
                return Poll::Ready(Some(Err(StreamError::protocol(details))));
            }
            if let Err(error) = self.check() {
                return Poll::Ready(Some(Err(error)));
            }
            let before = self.input.bytes.len();
            let decoded = self.reading.decode(&mut self.input.bytes, self.input.eof, limits);
            self.received += (before - self.input.bytes.len()) as u64;
            match decoded {
                Ok(Decoded::Data(data)) => return Poll::Ready(Some(Ok(Frame::Data(data)))),
                Ok(Decoded::Trailers(trailers)) if keep_trailers => {
                    return Poll::Ready(Some(Ok(Frame::Trailers(trailers))));
                }
                Ok(Decoded::End | Decoded::Trailers(_)) => return Poll::Ready(None),
                Ok(Decoded::More) => {}
                Err("body_ended_early") => return Poll::Ready(Some(Err(self.fail(StreamError::CLOSED)))),
                Err(details) => {
                    self.broken = Some(details);
                    return Poll::Ready(Some(Err(StreamError::protocol(details))));
                }
            }
            if let Err(error) = ready!(self.input.poll_fill(&mut self.io, cx)) {
                return Poll::Ready(Some(Err(self.fail(StreamError::io(&error)))));
            }
        }
    }

    // --- bodies out ---

    pub(super) fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), StreamError> {
        self.check()?;
        match &mut self.writing {
            Writing::Head | Writing::Done => {
                if data.is_empty() && self.writing == Writing::Done {
                    return Ok(());
                }
                return Err(self.fail(StreamError::protocol("data_outside_of_body")));
            }
            Writing::Bodiless => {}
            Writing::Length(left) => match left.checked_sub(data.len() as u64) {
                Some(now) if now == 0 || !end => {
                    *left = now;
                    self.output.push(data);
                }
                Some(_) => return Err(self.fail(StreamError::protocol("body_shorter_than_content_length"))),
                None => return Err(self.fail(StreamError::protocol("body_longer_than_content_length"))),
            },
            Writing::Chunked => self.send_chunk(data, end)?,
            Writing::UntilClose | Writing::Tunnel => self.output.push(data),
        }
        if end {
            if self.writing == Writing::Tunnel {
                self.shut = Shut::Wanted;
            }
            self.writing = Writing::Done;
        }
        Ok(())
    }

    fn send_chunk(&mut self, data: Bytes, end: bool) -> Result<(), StreamError> {
        if !data.is_empty() {
            self.output.edit(|out| {
                encode::chunk_size(out, data.len());
                Ok::<(), StreamError>(())
            })?;
            self.output.push(data);
            self.output.copy(b"\r\n");
        }
        if end {
            self.output.copy(b"0\r\n\r\n");
        }
        Ok(())
    }

    pub(super) fn send_trailers(&mut self, trailers: &Headers, keep: bool, case: bool) -> Result<(), StreamError> {
        if self.writing != Writing::Chunked || !keep {
            return self.send_data(Bytes::new(), true);
        }
        self.check()?;
        let written = self.output.edit(|out| encode::trailers(out, trailers, case));
        written.map_err(|error| self.fail(error))?;
        self.writing = Writing::Done;
        Ok(())
    }

    /// After the head of an upgrade: raw bytes both ways, those that came already among them.
    pub(super) fn upgrade(&mut self) {
        self.reading = Body::UntilEof;
        self.writing = Writing::Tunnel;
    }

    /// Ready when all is written, and the writing half is shut down if the tunnel ended.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.output.poll_flush(&mut self.io, cx))?;
        if self.shut == Shut::Wanted {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            self.shut = Shut::Done;
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when less than `limit` bytes wait.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>, limit: usize) -> Poll<io::Result<()>> {
        if self.output.len() < limit {
            return Poll::Ready(Ok(()));
        }
        match self.poll_flush(cx) {
            Poll::Pending if self.output.len() >= limit => Poll::Pending,
            Poll::Pending => Poll::Ready(Ok(())),
            Poll::Ready(result) => Poll::Ready(result),
        }
    }
}

/// The target alone, or the fields, took more than a head may.
fn too_large(bytes: &[u8]) -> HeadError {
    if bytes.contains(&b'\n') { HeadError::new(431, "headers_too_large") } else { HeadError::new(414, "uri_too_long") }
}
