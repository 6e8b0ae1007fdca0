//! How many requests a stream may send (`rate_limit_settings`): a bucket of tokens.

use std::time::{Duration, Instant};

pub(crate) struct Limit {
    most: f64,
    per_second: f64,
    tokens: f64,
    at: Instant,
}

// === impl Limit ===

impl Limit {
    pub(crate) fn new((most, per_second): (u32, f64), now: Instant) -> Self {
        let most = f64::from(most.max(1));
        Self { most, per_second, tokens: most, at: now }
    }

    /// Takes a token; otherwise says when there will be one.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.tokens = (self.tokens + passed * self.per_second).min(self.most);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        // A little more than exactly, so that rounding does not make it wait twice.
        Err(now + Duration::from_secs_f64((1.0 - self.tokens) / self.per_second) + Duration::from_millis(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let start = Instant::now();
        let mut limit = Limit::new((2, 10.0), start);
        assert_eq!((limit.take(start), limit.take(start)), (Ok(()), Ok(())));
        let next = limit.take(start).unwrap_err();
        assert_eq!(next, start + Duration::from_millis(101));
        assert!(limit.take(start + Duration::from_millis(50)).is_err());
        assert!(limit.take(next).is_ok() && limit.take(next).is_err());
        let later = start + Duration::from_secs(60);
        assert!(limit.take(later).is_ok() && limit.take(later).is_ok() && limit.take(later).is_err());
    }
}
