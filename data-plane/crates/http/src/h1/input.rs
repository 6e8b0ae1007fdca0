//! The reading half of a connection: bytes that came and were not consumed yet.
//!
//! Holds no buffer while nothing is there. Reads larger pieces while a body keeps filling them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio_util::io::poll_read_buf;

use super::pool::{self, CLASSES};
use crate::Io;

/// A buffer with less room than this grows before it is read into.
const MIN_ROOM: usize = 2048;

#[derive(Default)]
pub(super) struct Input {
    pub(super) bytes: BytesMut,
    /// The class that the buffer came from, and the one to read with next.
    class: u8,
    next_class: u8,
    pub(super) eof: bool,
}

impl Input {
    pub(super) fn with(bytes: BytesMut) -> Self {
        Self { bytes, ..Self::default() }
    }

    /// Reads more behind what is there; 0 is the end of the input.
    pub(super) fn poll_fill(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.eof {
            return Poll::Ready(Ok(0));
        }
        self.make_room();
        let room = self.bytes.capacity() - self.bytes.len();
        let read = poll_read_buf(Pin::new(io), cx, &mut self.bytes);
        if self.bytes.is_empty() {
            self.release();
        }
        let read = ready!(read)?;
        self.eof = read == 0;
        if read == room {
            self.next_class = (self.next_class + 1).min(CLASSES.len() as u8 - 1);
        } else if read < room / 4 {
            self.next_class = self.next_class.saturating_sub(1);
        }
        Poll::Ready(Ok(read))
    }

    /// A new message begins: its head is read with the smallest buffer.
    pub(super) fn begin_message(&mut self) {
        self.next_class = 0;
    }

    /// Gives the buffer back when it holds nothing.
    pub(super) fn release(&mut self) {
        if self.bytes.is_empty() {
            pool::give_read(std::mem::take(&mut self.bytes), usize::from(self.class));
        }
    }

    fn make_room(&mut self) {
        let size = CLASSES[usize::from(self.next_class)];
        if !self.bytes.is_empty() {
            if self.bytes.capacity() - self.bytes.len() < MIN_ROOM {
                self.bytes.reserve(self.bytes.len().max(CLASSES[0]));
            }
            return;
        }
        // What was handed on may still be in use; half of the buffer is worth a read all the same.
        if self.class == self.next_class && (self.bytes.try_reclaim(size) || self.bytes.capacity() >= size / 2) {
            return;
        }
        self.release();
        self.bytes = pool::take_read(usize::from(self.next_class));
        self.class = self.next_class;
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.bytes.clear();
        self.release();
    }
}
