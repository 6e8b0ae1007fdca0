//! Holds the response body to a rate that a filter asked for (fault injection's `response_rate_limit`).
//!
//! A bucket that fills every 50 ms, as Envoy's stream rate limiter does.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

const TICK: Duration = Duration::from_millis(50);

pub(crate) struct Pace {
    per_second: f64,
    /// Bytes that may be sent now; below zero after a piece larger than the bucket.
    allowed: f64,
    filled: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Pace {
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Option<Self> {
        let per_second = bytes_per_second? as f64;
        let now = Instant::now();
        let allowed = per_second * TICK.as_secs_f64();
        Some(Self { per_second, allowed, filled: now, sleep: Box::pin(sleep_until(now)) })
    }

    /// Ready when another piece may be sent.
    pub(crate) fn poll_allowed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.allowed > 0.0 {
                return Poll::Ready(());
            }
            let now = Instant::now();
            self.allowed += self.per_second * now.duration_since(self.filled).as_secs_f64();
            self.allowed = self.allowed.min(self.per_second * TICK.as_secs_f64());
            self.filled = now;
            if self.allowed <= 0.0 {
                let missing = Duration::from_secs_f64((1.0 - self.allowed) / self.per_second);
                self.sleep.as_mut().reset(now + missing.max(TICK));
                if self.sleep.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
        }
    }

    pub(crate) fn spent(&mut self, bytes: usize) {
        self.allowed -= bytes as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_takes_as_long_as_its_rate_says() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(1000)).unwrap();
        for _ in 0..20 {
            std::future::poll_fn(|cx| pace.poll_allowed(cx)).await;
            pace.spent(100);
        }
        let seconds = start.elapsed().as_secs_f64();
        assert!((1.7..2.2).contains(&seconds), "{seconds}");
    }
}
