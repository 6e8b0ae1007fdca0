//! Asking a silent peer whether it is still there, with PING (RFC 9113 §6.7).

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::PingPong;
use tokio::time::{Instant, Sleep, sleep};

use super::Ping;

pub(super) struct KeepAlive {
    ping: Ping,
    pings: PingPong,
    timer: Pin<Box<Sleep>>,
    waiting: bool,
}

impl Ping {
    /// How long to wait this time.
    fn next(self) -> Duration {
        self.interval + self.jitter.mul_f64(fastrand::f64())
    }
}

impl KeepAlive {
    /// `None` when no pings are wanted.
    pub(super) fn new(ping: Option<Ping>, pings: Option<PingPong>) -> Option<Self> {
        let ping = ping?;
        Some(Self { ping, pings: pings?, timer: Box::pin(sleep(ping.next())), waiting: false })
    }

    /// Ready when the peer is gone.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.waiting {
                match self.pings.poll_pong(cx) {
                    Poll::Ready(Ok(_)) => {
                        self.waiting = false;
                        self.timer.as_mut().reset(Instant::now() + self.ping.next());
                    }
                    // The connection reports its own failure.
                    Poll::Ready(Err(_)) => return Poll::Pending,
                    Poll::Pending => {
                        ready!(self.timer.as_mut().poll(cx));
                        return Poll::Ready(());
                    }
                }
            }
            ready!(self.timer.as_mut().poll(cx));
            if self.pings.send_ping(h2::Ping::opaque()).is_err() {
                return Poll::Pending;
            }
            self.waiting = true;
            self.timer.as_mut().reset(Instant::now() + self.ping.timeout);
        }
    }
}
