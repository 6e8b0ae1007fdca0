//! How many requests began within the last interval, for retry budgets: ten slots that all workers write.
//!
//! Never reads the clock: who counts brings the moment (`latency::stamp`).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const SLOTS: usize = 10;

/// A slot has its number in the upper half and the requests of its tenth of the interval in the lower one.
#[derive(Debug, Default)]
pub(super) struct Started([AtomicU64; SLOTS]);

// === impl Started ===

impl Started {
    /// A request began.
    pub(super) fn note(&self, interval: Duration, stamp: u64) {
        let number = number(interval, stamp);
        let slot = self.slot(number);
        let count = |word: u64| Some(if split(word).0 == number { word + 1 } else { u64::from(number) << 32 | 1 });
        // The closure always gives a word.
        let _ = slot.fetch_update(Relaxed, Relaxed, count);
    }

    /// The requests of this tenth of an interval and of the nine before.
    pub(super) fn within(&self, interval: Duration, stamp: u64) -> u64 {
        let number = number(interval, stamp);
        let words = self.0.iter().map(|slot| split(slot.load(Relaxed)));
        words.filter(|(of, _)| number.wrapping_sub(*of) < SLOTS as u32).map(|(_, count)| u64::from(count)).sum()
    }

    fn slot(&self, number: u32) -> &AtomicU64 {
        &self.0[number as usize % SLOTS]
    }
}

/// The number of the tenth of an interval; it wraps around.
#[allow(clippy::cast_possible_truncation, reason = "it wraps around")]
fn number(interval: Duration, stamp: u64) -> u32 {
    let tenth = (interval.as_millis() as u64 / SLOTS as u64).max(1);
    // From 1, so that an empty slot is never one of now.
    ((stamp / tenth) as u32).wrapping_add(SLOTS as u32)
}

#[allow(clippy::cast_possible_truncation, reason = "the halves of a word")]
fn split(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_for_an_interval_and_not_longer() {
        let started = Started::default();
        let interval = Duration::from_secs(1);
        let check = |stamp, wanted| assert_eq!(started.within(interval, stamp), wanted, "at {stamp}");
        check(0, 0);
        (0..5).for_each(|_| started.note(interval, 0));
        check(0, 5);
        started.note(interval, 950);
        check(950, 6);
        // The first tenth is over an interval ago.
        check(1000, 1);
        started.note(interval, 1000);
        check(1000, 2);
        check(1900, 1);
        check(2000, 0);
        // Long afterwards, and with another interval.
        check(1_000_000_000, 0);
        assert_eq!(started.within(Duration::from_millis(20), 1000), 0);
        started.note(Duration::from_millis(20), 1000);
        assert_eq!(started.within(Duration::from_millis(20), 1001), 1);
    }
}
