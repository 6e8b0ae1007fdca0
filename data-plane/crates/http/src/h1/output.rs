//! The writing half of a connection: heads and small pieces in one buffer, large pieces by reference, one writev for all.
//!
//! Never decides framing and never waits for more: what is there goes out when asked.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use super::pool;
use crate::Io;

/// A piece up to this size is copied behind the head: cheaper than one more element of a writev.
const COPY: usize = 2048;
/// Pieces in one writev.
const SLICES: usize = 32;
/// So many written bytes are kept before the rest moves to the front.
const COMPACT: usize = 16 * 1024;

#[derive(Default)]
pub(super) struct Output {
    small: Vec<u8>,
    /// How much of `small` was written.
    at: usize,
    pieces: VecDeque<Piece>,
    /// Bytes that wait.
    len: usize,
    /// Bytes that were ever put in, and that the transport ever took.
    pub(super) queued: u64,
    pub(super) written: u64,
}

enum Piece {
    /// The next so many bytes of `small`.
    Small(usize),
    Shared(Bytes),
}

impl Output {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Lets `write` append to the output. When it fails, nothing of it stays.
    pub(super) fn edit<E>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        if self.small.capacity() == 0 {
            self.small = pool::take_output();
        }
        let before = self.small.len();
        let result = write(&mut self.small);
        if result.is_err() {
            self.small.truncate(before);
        }
        let added = self.small.len() - before;
        if added > 0 {
            match self.pieces.back_mut() {
                Some(Piece::Small(len)) => *len += added,
                _ => self.pieces.push_back(Piece::Small(added)),
            }
            self.count(added);
        }
        result
    }

    pub(super) fn copy(&mut self, bytes: &[u8]) {
        let Ok(()) = self.edit(|out| {
            out.extend_from_slice(bytes);
            Ok::<(), std::convert::Infallible>(())
        });
    }

    pub(super) fn push(&mut self, data: Bytes) {
        if data.len() <= COPY {
            self.copy(&data);
        } else {
            self.count(data.len());
            self.pieces.push_back(Piece::Shared(data));
        }
    }

    fn count(&mut self, added: usize) {
        self.len += added;
        self.queued += added as u64;
    }

    /// Forgets what was not written.
    pub(super) fn clear(&mut self) {
        self.pieces.clear();
        self.len = 0;
        self.release();
    }

    /// Ready when all is written and the transport was flushed.
    pub(super) fn poll_flush(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.len > 0 {
            let written = ready!(self.poll_write(io, cx))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        self.release();
        Pin::new(io).poll_flush(cx)
    }

    fn poll_write(&self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut small = &self.small[self.at..];
        let mut count = 0;
        for piece in self.pieces.iter().take(SLICES) {
            slices[count] = match piece {
                Piece::Small(len) => {
                    let (now, later) = small.split_at(*len);
                    small = later;
                    IoSlice::new(now)
                }
                Piece::Shared(data) => IoSlice::new(data),
            };
            count += 1;
        }
        if count == 1 {
            return Pin::new(io).poll_write(cx, &slices[0]);
        }
        Pin::new(io).poll_write_vectored(cx, &slices[..count])
    }

    fn advance(&mut self, mut written: usize) {
        self.len -= written;
        self.written += written as u64;
        while written > 0 {
            let Some(piece) = self.pieces.front_mut() else { return };
            let size = match piece {
                Piece::Small(len) => *len,
                Piece::Shared(data) => data.len(),
            };
            let taken = size.min(written);
            written -= taken;
            match piece {
                Piece::Small(len) => {
                    *len -= taken;
                    self.at += taken;
                }
                Piece::Shared(data) => data.advance(taken),
            }
            if taken == size {
                self.pieces.pop_front();
            }
        }
        // A peer that never takes all would let the written part grow for ever.
        if self.at > COMPACT {
            self.small.drain(..self.at);
            self.at = 0;
        }
    }

    fn release(&mut self) {
        self.at = 0;
        pool::give_output(std::mem::take(&mut self.small));
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.release();
    }
}
