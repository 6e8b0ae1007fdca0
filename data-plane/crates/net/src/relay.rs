//! Copying bytes between two streams, both ways, until both ended.
//!
//! Buffers grow while a direction keeps filling them, and are given back while it waits; a direction between two TCP
//! sockets that keeps filling the largest goes on without a copy (`splice.rs`). A direction reads on only when what it
//! read was written. Never looks at the bytes.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use dp_http::io::Transport;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::buffer::{Buffer, SIZES};
use crate::stream::Resettable;

mod splice;

use splice::Pipe;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the first stream to the second.
    Forward,
    Backward,
}

/// One of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    First,
    Second,
}

/// Why a relay ended.
#[derive(Debug)]
pub enum End {
    /// Both sides ended.
    Closed,
    /// Nothing moved for the idle time.
    Idle,
    /// This side broke: it was reset, or does not take or give bytes any more.
    Failed(Side, io::Error),
}

/// What a relay did.
#[derive(Debug)]
pub struct Relayed {
    pub forward: u64,
    pub backward: u64,
    pub end: End,
}

/// A direction gives way to other tasks after this many bytes in one turn.
const TURN: usize = 1 << 20;

/// Reads in a row that use less than a quarter of the buffer before a smaller one is taken.
const SMALL_READS: u8 = 4;

/// Reads in a row that fill the largest buffer, or nearly, before a direction goes without buffers.
const BULK_READS: u8 = 4;

/// Copies until both sides ended, one failed, or nothing moved for `idle`. The end of one side is passed on as a
/// half-close, but for the last one between sockets: dropping the streams closes them, and is left to the caller.
/// `moved` hears of bytes once they are written.
pub async fn relay(
    a: &mut dyn Transport,
    b: &mut dyn Transport,
    idle: Option<Duration>,
    mut moved: impl FnMut(Direction, usize),
) -> Relayed {
    let (mut forward, mut backward) = (Pump::new(), Pump::new());
    // Without an idle time the clock is never read.
    let last = Cell::new(idle.map(|_| Instant::now()));
    let mut timer = pin!(idle.map(|idle| tokio::time::sleep(idle)));
    let end = poll_fn(|cx| {
        let mut note = |direction, n| {
            moved(direction, n);
            if last.get().is_some() {
                last.set(Some(Instant::now()));
            }
        };
        forward.is_last = backward.state == State::Done;
        let there = match forward.poll(cx, a, b, &mut |n| note(Direction::Forward, n)) {
            Poll::Ready(Err(broken)) => return Poll::Ready(broken.end(Side::First, Side::Second)),
            there => there.is_ready(),
        };
        backward.is_last = there;
        let back = match backward.poll(cx, b, a, &mut |n| note(Direction::Backward, n)) {
            Poll::Ready(Err(broken)) => return Poll::Ready(broken.end(Side::Second, Side::First)),
            back => back.is_ready(),
        };
        if there && back {
            return Poll::Ready(End::Closed);
        }
        match (idle, last.get(), timer.as_mut().as_pin_mut()) {
            (Some(idle), Some(last), Some(timer)) => poll_idle(timer, last + idle, cx).map(|()| End::Idle),
            _ => Poll::Pending,
        }
    });
    let end = end.await;
    Relayed { forward: forward.written, backward: backward.written, end }
}

/// Ready when `deadline` passed. The timer is moved only when it fires, not with every byte.
fn poll_idle(mut timer: Pin<&mut Sleep>, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
    loop {
        ready!(timer.as_mut().poll(cx));
        if timer.deadline() >= deadline {
            return Poll::Ready(());
        }
        timer.as_mut().reset(deadline);
    }
}

/// One direction.
struct Pump {
    /// Held only with bytes in it.
    buffer: Option<Buffer>,
    start: usize,
    end: usize,
    /// The size of the next buffer, as an index into the sizes.
    size: usize,
    small_reads: u8,
    bulk: Bulk,
    bulk_reads: u8,
    /// Held only with bytes in it.
    pipe: Option<Pipe>,
    written: u64,
    flush: bool,
    /// The other direction is done.
    is_last: bool,
    state: State,
}

/// Whether a direction goes without a copy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bulk {
    /// Not yet, or not any more.
    No,
    Yes,
    /// One side is no TCP socket, there was no pipe, or the system cannot do it.
    Never,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The reading side ended; the writing side is to be shut down.
    Ended,
    Done,
}

/// Which end of a direction broke.
enum Broken {
    Reading(io::Error),
    Writing(io::Error),
}

// === impl Broken ===

impl Broken {
    fn end(self, from: Side, to: Side) -> End {
        match self {
            Self::Reading(error) => End::Failed(from, error),
            Self::Writing(error) => End::Failed(to, error),
        }
    }
}

// === impl Pump ===

impl Pump {
    fn new() -> Self {
        Self {
            buffer: None,
            start: 0,
            end: 0,
            size: 0,
            small_reads: 0,
            bulk: Bulk::No,
            bulk_reads: 0,
            pipe: None,
            written: 0,
            flush: false,
            is_last: false,
            state: State::Open,
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut dyn Transport,
        to: &mut dyn Transport,
        moved: &mut impl FnMut(usize),
    ) -> Poll<Result<(), Broken>> {
        let mut turn = 0;
        loop {
            ready!(self.poll_write(cx, to, moved)).map_err(Broken::Writing)?;
            ready!(self.poll_drain(cx, to, moved)).map_err(Broken::Writing)?;
            match self.state {
                State::Open => {}
                State::Ended => {
                    // A socket whose other half has ended is closed next, which says the same.
                    if !self.is_last || socket(to).is_none() {
                        // A side that is gone already needs no half-close.
                        let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    }
                    self.state = State::Done;
                    return Poll::Ready(Ok(()));
                }
                State::Done => return Poll::Ready(Ok(())),
            }
            if turn >= TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let read = match self.bulk {
                Bulk::Yes => self.poll_fill(cx, from, to),
                Bulk::No | Bulk::Never => self.poll_read(cx, from),
            };
            match read {
                Poll::Ready(read) => turn += read.map_err(Broken::Reading)?,
                Poll::Pending => {
                    if self.flush {
                        ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Broken::Writing)?;
                        self.flush = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Writes what the buffer holds and gives the buffer back.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut dyn Transport,
        moved: &mut impl FnMut(usize),
    ) -> Poll<io::Result<()>> {
        let Some(buffer) = &self.buffer else { return Poll::Ready(Ok(())) };
        while self.start < self.end {
            let n = ready!(Pin::new(&mut *to).poll_write(cx, &buffer[self.start..self.end]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.start += n;
            self.written += n as u64;
            self.flush = true;
            moved(n);
        }
        self.buffer = None;
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, from: &mut dyn Transport) -> Poll<io::Result<usize>> {
        let mut buffer = Buffer::take(self.size);
        let mut space = ReadBuf::new(&mut buffer);
        ready!(Pin::new(from).poll_read(cx, &mut space))?;
        let n = space.filled().len();
        if n == 0 {
            self.state = State::Ended;
            return Poll::Ready(Ok(0));
        }
        self.adapt(n);
        (self.start, self.end) = (0, n);
        self.buffer = Some(buffer);
        Poll::Ready(Ok(n))
    }

    /// Moves what the pipe holds and gives the pipe back.
    fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        to: &dyn Transport,
        moved: &mut impl FnMut(usize),
    ) -> Poll<io::Result<()>> {
        let (Some(pipe), Some(to)) = (&mut self.pipe, socket(to)) else { return Poll::Ready(Ok(())) };
        while !pipe.is_empty() {
            let n = ready!(pipe.poll_drain(cx, to))?;
            self.written += n as u64;
            moved(n);
        }
        self.pipe.take().into_iter().for_each(Pipe::give_back);
        Poll::Ready(Ok(()))
    }

    /// As [`Self::poll_read`], into a pipe if there can be one.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut dyn Transport,
        to: &dyn Transport,
    ) -> Poll<io::Result<usize>> {
        let (Some(tcp), Some(_), Ok(mut pipe)) = (socket(from), socket(to), Pipe::take()) else {
            self.bulk = Bulk::Never;
            return self.poll_read(cx, from);
        };
        let filled = pipe.poll_fill(cx, tcp);
        match &filled {
            Poll::Ready(Ok(n)) if *n > 0 => {
                self.adapt(*n);
                self.pipe = Some(pipe);
                return filled;
            }
            Poll::Ready(Ok(_)) => self.state = State::Ended,
            Poll::Ready(Err(error)) if splice::is_unsupported(error) => {
                self.bulk = Bulk::Never;
                return self.poll_read(cx, from);
            }
            _ => {}
        }
        pipe.give_back();
        filled
    }

    /// Chooses the next buffer, or none, by what the last read brought.
    fn adapt(&mut self, read: usize) {
        let size = SIZES[self.size];
        let is_bulk = self.size == SIZES.len() - 1 && read >= size / 2;
        self.bulk_reads = if is_bulk { self.bulk_reads.saturating_add(1) } else { 0 };
        if self.bulk == Bulk::No && self.bulk_reads >= BULK_READS {
            self.bulk = Bulk::Yes;
        }
        if read == size {
            self.size = (self.size + 1).min(SIZES.len() - 1);
            self.small_reads = 0;
        } else if read < size / 4 && self.size > 0 {
            self.small_reads += 1;
            if self.small_reads == SMALL_READS {
                self.size -= 1;
                self.small_reads = 0;
                if self.bulk == Bulk::Yes {
                    self.bulk = Bulk::No;
                }
            }
        } else {
            self.small_reads = 0;
        }
    }
}

/// The TCP socket that a stream is, with nothing around it that looks at the bytes.
fn socket(io: &dyn Transport) -> Option<&TcpStream> {
    io.as_tcp().or_else(|| io.as_any().downcast_ref::<Resettable>()?.tcp())
}

#[cfg(test)]
mod tests;
