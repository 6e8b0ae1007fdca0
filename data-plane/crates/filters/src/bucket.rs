//! A token bucket that workers share without a lock: one number, the moment at which it would have been empty.
//!
//! Tokens come in steadily, `tokens_per_fill` in each `fill_interval`. Never reads the clock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use shared_config::http_filter::local_ratelimit::TokenBucket;

/// See the module.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// Full at this moment.
    since: Instant,
    /// Time that one token takes to come in, in nanoseconds; rounded up, so never more tokens than configured.
    cost: u64,
    /// Time that all tokens take to come in.
    whole: u64,
    /// Nanoseconds after `since - whole`.
    empty_at: AtomicU64,
}

impl Bucket {
    pub(crate) fn new(config: &TokenBucket, now: Instant) -> Self {
        let interval = u64::try_from(config.fill_interval.as_nanos()).unwrap_or(u64::MAX / 4);
        let cost = interval.div_ceil(config.tokens_per_fill.max(1).into()).clamp(1, u64::MAX / 4);
        let whole = cost.saturating_mul(config.max_tokens.into()).min(u64::MAX / 4);
        Self { since: now, cost, whole, empty_at: AtomicU64::new(0) }
    }

    /// Takes `tokens`, all or none.
    pub(crate) fn take(&self, now: Instant, tokens: u32) -> bool {
        let now = self.moment(now);
        let price = self.cost.saturating_mul(tokens.into());
        // A failed exchange means that another worker took tokens, so its outcome counts.
        self.empty_at
            .fetch_update(Relaxed, Relaxed, |empty_at| {
                // What would overflow the bucket is lost.
                let paid = empty_at.max(now.saturating_sub(self.whole)).checked_add(price)?;
                (paid <= now).then_some(paid)
            })
            .is_ok()
    }

    pub(crate) fn max_tokens(&self) -> u64 {
        self.whole / self.cost
    }

    pub(crate) fn remaining(&self, now: Instant) -> u64 {
        self.saved(now) / self.cost
    }

    /// How long until there is a token.
    pub(crate) fn next_token(&self, now: Instant) -> Duration {
        Duration::from_nanos(self.cost.saturating_sub(self.saved(now)))
    }

    /// Nanoseconds' worth of tokens.
    fn saved(&self, now: Instant) -> u64 {
        self.moment(now).saturating_sub(self.empty_at.load(Relaxed)).min(self.whole)
    }

    fn moment(&self, now: Instant) -> u64 {
        let passed = u64::try_from(now.saturating_duration_since(self.since).as_nanos()).unwrap_or(u64::MAX / 4);
        passed.saturating_add(self.whole)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    fn bucket(max_tokens: u32, tokens_per_fill: u32, fill_interval: Duration, now: Instant) -> Bucket {
        Bucket::new(&TokenBucket { max_tokens, tokens_per_fill, fill_interval }, now)
    }

    /// How many of ten requests pass at each moment, in milliseconds since the start.
    fn check(bucket_of: (u32, u32, u64), moments: &[(u64, u32)]) {
        let start = Instant::now();
        let bucket = bucket(bucket_of.0, bucket_of.1, Duration::from_millis(bucket_of.2), start);
        for (at, expected) in moments {
            let now = start + Duration::from_millis(*at);
            let passed = (0..10).filter(|_| bucket.take(now, 1)).count();
            assert_eq!(passed as u32, *expected, "at {at} ms");
        }
    }

    #[test]
    fn a_full_bucket_empties_and_fills_steadily() {
        check((3, 1, 1000), &[(0, 3), (999, 0), (1000, 1), (1999, 0), (4000, 2 + 1)]);
        check((5, 10, 1000), &[(0, 5), (100, 1), (350, 2), (5000, 5)]);
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_gives_nothing_away() {
        check((1, 1, 1000), &[(5000, 1), (5000, 0), (1000, 0), (5999, 0), (6000, 1)]);
    }

    #[test]
    fn tokens_are_taken_all_or_none() {
        let now = Instant::now();
        let bucket = bucket(3, 1, Duration::from_secs(1), now);
        assert!(!bucket.take(now, 4));
        assert!(bucket.take(now, 2));
        assert!(!bucket.take(now, 2));
        assert_eq!((bucket.remaining(now), bucket.max_tokens()), (1, 3));
        assert!(bucket.take(now, 1));
        assert_eq!(bucket.next_token(now + Duration::from_millis(300)), Duration::from_millis(700));
    }

    #[test]
    fn many_workers_at_once_get_exactly_what_is_there() {
        let now = Instant::now();
        let bucket = bucket(1000, 1, Duration::from_secs(1), now);
        let passed = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        passed.fetch_add(bucket.take(now, 1).into(), Relaxed);
                    }
                });
            }
        });
        assert_eq!(passed.into_inner(), 1000);
        assert_eq!(bucket.remaining(now), 0);
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let now = Instant::now();
        let bucket = bucket(u32::MAX, 1, Duration::MAX, now);
        assert!(bucket.take(now, 1));
        assert!(!bucket.take(now + Duration::from_secs(u32::MAX.into()), u32::MAX));
    }
}
