//! One lazy timer a connection: many deadlines a second, a timer entry only now and then.
//!
//! A deadline that moves later costs nothing: the armed timer fires early, sees the new deadline and arms again. Only
//! a deadline that moves earlier touches the timer wheel.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// A deadline that is checked while something else is polled.
#[derive(Debug, Default)]
pub(crate) struct LazyTimer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl LazyTimer {
    /// Ready when `deadline` passed. Must be polled by the one task that owns the timer; `None` never passes.
    #[inline(never)]
    pub(crate) fn poll_deadline(&mut self, cx: &mut Context<'_>, deadline: Option<Instant>) -> Poll<()> {
        let Some(deadline) = deadline else { return Poll::Pending };
        let sleep = match &mut self.sleep {
            Some(sleep) => sleep,
            None => arm(&mut self.sleep, deadline),
        };
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            match sleep.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if Instant::now() >= deadline => return Poll::Ready(()),
                Poll::Ready(()) => sleep.as_mut().reset(deadline),
            }
        }
    }

    /// Resolves with `future`, or with `None` when `deadline` passes first.
    pub(crate) async fn before<F: Future>(&mut self, deadline: Option<Instant>, future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            self.poll_deadline(cx, deadline).map(|()| None)
        })
        .await
    }
}

#[cold]
fn arm(sleep: &mut Option<Pin<Box<Sleep>>>, deadline: Instant) -> &mut Pin<Box<Sleep>> {
    sleep.insert(Box::pin(sleep_until(deadline)))
}

/// The earlier of two deadlines, where `None` is never.
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// The moment `after` from `from`; `None` is never.
pub(crate) fn deadline(from: Instant, after: Option<Duration>) -> Option<Instant> {
    after.map(|after| from + after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_later_is_honoured_and_so_is_one_that_moves_earlier() {
        let start = Instant::now();
        let mut timer = LazyTimer::default();
        let never = std::future::pending::<()>;
        assert!(timer.before(Some(start + Duration::from_secs(10)), async {}).await.is_some());
        assert!(timer.before(Some(start + Duration::from_secs(5)), never()).await.is_none());
        assert_eq!(start.elapsed().as_secs(), 5);
        assert!(timer.before(Some(start + Duration::from_secs(20)), never()).await.is_none());
        assert_eq!(start.elapsed().as_secs(), 20);
    }
}
