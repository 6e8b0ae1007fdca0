//! Jittered exponential back-off: how long to wait before the next try.
//!
//! Pure: the caller sleeps.

use std::time::Duration;

/// Full jitter: each delay is uniform in `0..=min(max, base * 2^n)`, as gRPC and Envoy do for reconnects.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    tries: u32,
}

impl Backoff {
    pub fn new(base: Duration, max: Duration) -> Self {
        Self { base, max: max.max(base), tries: 0 }
    }

    /// The delay before the next try; grows with each call until `reset`.
    pub fn next_delay(&mut self) -> Duration {
        let ceiling = self.ceiling();
        self.tries = self.tries.saturating_add(1);
        ceiling.mul_f64(fastrand::f64())
    }

    /// The longest that the next delay can be.
    pub fn ceiling(&self) -> Duration {
        self.base.saturating_mul(1 << self.tries.min(20)).min(self.max)
    }

    /// Starts over, after a success.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_maximum_and_start_over_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        let ceilings: Vec<_> = (0..8)
            .map(|_| {
                let ceiling = backoff.ceiling();
                assert!(backoff.next_delay() <= ceiling);
                ceiling.as_millis()
            })
            .collect();
        assert_eq!(ceilings, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        backoff.reset();
        assert_eq!(backoff.ceiling().as_millis(), 500);
    }
}
