//! Streams of one connection that its client gave up at once: when there are too many of them (CVE-2023-44487).
//!
//! Pure, by Envoy's rule: counts, and never looks at the clock. The codec has bounds of its own for resets that come
//! before the proxy saw their streams.

use std::cell::Cell;
use std::time::Duration;

/// From so many streams on it counts whether half of them were given up (Envoy's
/// `overload.premature_reset_total_stream_count`); that many of which half are lost ends a connection before.
const STREAMS: u64 = 500;
/// A stream that lived longer was wanted once (Envoy's `overload.premature_reset_min_stream_lifetime_seconds`).
const AT_ONCE: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(crate) struct Resets {
    ended: Cell<u64>,
    premature: Cell<u64>,
}

// === impl Resets ===

impl Resets {
    /// A stream ended; `unanswered`: before it had a response.
    pub(crate) fn note(&self, unanswered: bool, lived: Duration) {
        self.ended.set(self.ended.get() + 1);
        if unanswered && lived < AT_ONCE {
            self.premature.set(self.premature.get() + 1);
        }
    }

    pub(crate) fn are_too_many(&self) -> bool {
        self.premature.get() * 2 >= self.ended.get().max(STREAMS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `streams` in turn: how many of each, whether unanswered, and how long they lived.
    fn check(streams: &[(u64, bool, u64)], too_many: bool) {
        let resets = Resets::default();
        for &(count, unanswered, seconds) in streams {
            (0..count).for_each(|_| resets.note(unanswered, Duration::from_secs(seconds)));
        }
        assert_eq!(resets.are_too_many(), too_many, "{streams:?}");
    }

    #[test]
    fn half_of_the_streams_given_up_at_once_are_too_many() {
        check(&[], false);
        check(&[(249, true, 0)], false);
        check(&[(250, true, 0)], true);
        check(&[(250, true, 2)], false);
        check(&[(1000, false, 0)], false);
        check(&[(1000, false, 0), (999, true, 1)], false);
        check(&[(1000, false, 0), (1000, true, 1)], true);
    }
}
