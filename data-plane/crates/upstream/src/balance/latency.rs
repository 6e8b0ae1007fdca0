//! How long an endpoint takes to respond: a moving average that all workers write, in one atomic.
//!
//! Never reads the clock: who measures brings the moments.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

/// The average in seconds (as `f32`, upper half) and when it was last written (as a [`Moment`], lower half); 0 when
/// nothing was measured yet.
#[derive(Debug, Default)]
pub struct Latency(AtomicU64);

/// Milliseconds since the process began; wraps around after 49 days.
pub(crate) type Moment = u32;

/// How fast averages forget where the policy does not say.
pub(crate) const DECAY: Duration = Duration::from_secs(10);
/// What a request that was lost is taken for at least.
pub(crate) const LOSS: Duration = Duration::from_secs(1);

pub(crate) fn moment(now: Instant) -> Moment {
    #[allow(clippy::cast_possible_truncation, reason = "it wraps around")]
    let millis = stamp(now) as u32;
    millis
}

/// Milliseconds since the process began.
#[allow(clippy::cast_possible_truncation, reason = "585 million years of milliseconds")]
pub(crate) fn stamp(now: Instant) -> u64 {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    now.saturating_duration_since(*BEGIN.get_or_init(|| now)).as_millis() as u64
}

impl Latency {
    /// Takes a measurement in. With `peak`, one that is longer than the average takes its place.
    pub(crate) fn note(&self, time: Duration, now: Moment, decay: Duration, peak: bool) {
        let time = time.as_secs_f32().max(f32::MIN_POSITIVE);
        let before = self.0.load(Relaxed);
        let average = match unpack(before) {
            Some((average, _)) if peak && time > average => time,
            Some((average, at)) => {
                let old = forget(now, at, decay);
                // Measurements that come at one moment still count.
                let old = old.min(0.95);
                average * old + time * (1.0 - old)
            }
            None => time,
        };
        // Two workers at one moment: one measurement is lost, which does not matter.
        let _ = self.0.compare_exchange(before, pack(average, now), Relaxed, Relaxed);
    }

    /// The average in seconds. It fades while nothing is measured, so that an endpoint that was slow once is tried again.
    pub(crate) fn read(&self, now: Option<Moment>, decay: Duration) -> Option<f64> {
        let (average, at) = unpack(self.0.load(Relaxed))?;
        Some(f64::from(now.map_or(average, |now| average * forget(now, at, decay))))
    }

    /// Nothing was measured yet.
    pub(crate) fn reset(&self) {
        self.0.store(0, Relaxed);
    }

    /// The average as it was last written.
    pub fn average(&self) -> Option<Duration> {
        unpack(self.0.load(Relaxed)).map(|(average, _)| Duration::from_secs_f32(average))
    }
}

/// What is left of an average.
fn forget(now: Moment, at: Moment, decay: Duration) -> f32 {
    // Another worker may have written a moment later than the one that this worker read.
    let millis = now.wrapping_sub(at);
    if millis > u32::MAX / 2 {
        return 1.0;
    }
    #[allow(clippy::cast_precision_loss, reason = "times are approximate here")]
    let passed = millis as f32 / 1000.0;
    (-passed / decay.as_secs_f32()).exp()
}

fn pack(average: f32, at: Moment) -> u64 {
    u64::from(average.to_bits()) << 32 | u64::from(at)
}

#[allow(clippy::cast_possible_truncation, reason = "halves of the word")]
fn unpack(word: u64) -> Option<(f32, Moment)> {
    (word != 0).then(|| (f32::from_bits((word >> 32) as u32), word as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let latency = Latency::default();
        let millis = Duration::from_millis;
        let check = |now, wanted: f64| {
            let read = latency.read(Some(now), DECAY).unwrap_or(0.0);
            assert!((read - wanted).abs() < wanted / 100.0 + 1e-9, "{read} is not {wanted}");
        };
        check(0, 0.0);
        latency.note(millis(10), 1000, DECAY, true);
        check(1000, 0.010);
        latency.note(millis(100), 1000, DECAY, true);
        check(1000, 0.100);
        // A worker whose clock was read a little earlier sees the same.
        check(990, 0.100);
        // After the time of decay a third is left.
        check(11_000, 0.100 / std::f64::consts::E);
        latency.note(millis(10), 11_000, DECAY, true);
        let e = 1.0 / std::f64::consts::E;
        check(11_000, 0.100 * e + 0.010 * (1.0 - e));
    }

    #[test]
    fn without_peaks_both_ways_are_gradual() {
        let latency = Latency::default();
        latency.note(Duration::from_millis(10), 0, DECAY, false);
        latency.note(Duration::from_millis(110), 0, DECAY, false);
        assert_eq!(latency.average().map(|time| time.as_millis()), Some(15));
    }
}
