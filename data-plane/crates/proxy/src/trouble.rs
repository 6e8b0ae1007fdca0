//! What ends a stream from outside while it waits for something: a client that left, a deadline that passed.
//!
//! Looked at only when the stream could not go on by itself. Never answers: `fault.rs` and `reply.rs` do.

use std::task::{Context, Poll, ready};

use dp_http::Protocol;

use crate::clocks::Expired;
use crate::fault::Fault;
use crate::relay::downstream_fault;
use crate::stream::Stream;

impl Stream<'_> {
    /// Ready when the stream cannot go on: the client left, or a deadline passed.
    pub(crate) fn poll_trouble<T>(&mut self, cx: &mut Context<'_>, expired: impl Fn(Expired) -> T) -> Poll<T>
    where
        T: From<Fault>,
    {
        // While the request is still coming in, reading it notices a client that left.
        if (self.body.complete || self.awaits_tunnel())
            && !self.reply.tunnelled
            && let Poll::Ready(error) = self.down.poll_closed(cx)
        {
            return Poll::Ready(downstream_fault(error).into());
        }
        if let Poll::Ready(fault) = self.poll_hedges(cx) {
            return Poll::Ready(fault.into());
        }
        self.clocks.settle();
        loop {
            ready!(self.timer.poll_deadline(cx, self.clocks.next()));
            let now = tokio::time::Instant::now();
            if let Some(limit) = self.clocks.expired(now) {
                return Poll::Ready(expired(limit));
            }
        }
    }

    /// Whether the client speaks HTTP/1.
    pub(crate) fn client_is_http1(&self) -> bool {
        self.request.protocol != Protocol::Http2
    }
}
