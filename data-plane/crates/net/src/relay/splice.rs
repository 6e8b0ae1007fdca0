//! Bulk between two TCP sockets without a copy: the kernel moves the pages through a pipe (`splice(2)`).
//!
//! A pipe is held only with bytes in it; empty ones lie in a list of this thread, up to a bound.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// How much a pipe may hold: what Linux allows everyone (`fs.pipe-max-size`).
const SIZE: usize = 1 << 20;

/// How many empty pipes a thread keeps.
const KEPT: usize = 16;

thread_local! {
    static FREE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
pub(super) struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    held: usize,
}

impl Pipe {
    /// An empty pipe.
    ///
    /// # Errors
    /// The process or the user has too many files or pipe pages.
    pub(super) fn take() -> io::Result<Self> {
        if let Some(pipe) = FREE.with_borrow_mut(Vec::pop) {
            return Ok(pipe);
        }
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        fcntl_setpipe_size(&writer, SIZE)?;
        Ok(Self { reader, writer, held: 0 })
    }

    /// Gives an empty pipe back.
    pub(super) fn give_back(self) {
        // The list is gone when a thread ends; the pipe is simply closed then.
        let _ = FREE.try_with(|free| {
            let free = &mut free.borrow_mut();
            if free.len() < KEPT {
                free.push(self);
            }
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Fills the empty pipe with what the socket has. `Ok(0)`: its end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, from: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            ready!(from.poll_read_ready(cx))?;
            let moved = from.try_io(Interest::READABLE, || Ok(splice(from, None, &self.writer, None, SIZE, flags())?));
            match moved {
                Ok(n) => {
                    self.held = n;
                    return Poll::Ready(Ok(n));
                }
                Err(error) if retries(&error) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Moves what the socket takes out of the pipe, which is not empty.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            ready!(to.poll_write_ready(cx))?;
            let moved = to.try_io(Interest::WRITABLE, || Ok(splice(&self.reader, None, to, None, self.held, flags())?));
            match moved {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => {
                    self.held -= n;
                    return Poll::Ready(Ok(n));
                }
                Err(error) if retries(&error) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

fn flags() -> SpliceFlags {
    SpliceFlags::MOVE | SpliceFlags::NONBLOCK
}

/// `WouldBlock` cleared the readiness, so that the next look at it registers the task.
fn retries(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// The system, which may be a sandbox that is Linux only in part, cannot move bytes from this socket to a pipe.
pub(super) fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// How many empty pipes this thread keeps.
#[cfg(test)]
pub(super) fn kept() -> usize {
    FREE.with_borrow(Vec::len)
}
