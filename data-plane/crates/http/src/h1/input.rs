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
        let (room, read) = if self.make_room() {
            self.read_more(io, cx)
        } else {
            if let Some(tcp) = io.as_tcp() {
                ready!(tcp.poll_read_ready(cx))?;
            }
            self.read_first(io, cx)
        };
        let read = ready!(read)?;
        self.eof = read == 0;
        if read == room {
            self.next_class = (self.next_class + 1).min(CLASSES.len() as u8 - 1);
        } else if read < room / 4 {
            self.next_class = self.next_class.saturating_sub(1);
        }
        Poll::Ready(Ok(read))
    }

    /// Reads behind what is there, or into what is left of the buffer.
    fn read_more(&mut self, io: &mut Io, cx: &mut Context<'_>) -> (usize, Poll<io::Result<usize>>) {
        let room = self.bytes.capacity() - self.bytes.len();
        let read = poll_read_buf(Pin::new(io), cx, &mut self.bytes);
        self.release();
        (room, read)
    }

    /// Reads into a buffer that is only kept when something came.
    fn read_first(&mut self, io: &mut Io, cx: &mut Context<'_>) -> (usize, Poll<io::Result<usize>>) {
        let ((room, read), filled) = pool::read_into(usize::from(self.next_class), |buffer| {
            (buffer.capacity(), poll_read_buf(Pin::new(io), cx, buffer))
        });
        if let Some(bytes) = filled {
            self.bytes = bytes;
            self.class = self.next_class;
        }
        (room, read)
    }

    /// A new message begins: its head is read with the smallest buffer.
    pub(super) fn begin_message(&mut self) {
        self.next_class = 0;
    }

    /// Gives the buffer back when it holds nothing.
    pub(super) fn release(&mut self) {
        if self.bytes.is_empty() && self.bytes.capacity() > 0 {
            pool::give_read(std::mem::take(&mut self.bytes), usize::from(self.class));
        }
    }

    /// Whether there is a buffer with room to read into.
    fn make_room(&mut self) -> bool {
        if !self.bytes.is_empty() {
            if self.bytes.capacity() - self.bytes.len() < MIN_ROOM {
                self.bytes.reserve(self.bytes.len().max(CLASSES[0]));
            }
            return true;
        }
        if self.bytes.capacity() == 0 {
            return false;
        }
        let size = CLASSES[usize::from(self.next_class)];
        // What was handed on may still be in use; half of the buffer is worth a read all the same.
        if self.class == self.next_class && (self.bytes.try_reclaim(size) || self.bytes.capacity() >= size / 2) {
            return true;
        }
        self.release();
        false
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.bytes.clear();
        self.release();
    }
}
