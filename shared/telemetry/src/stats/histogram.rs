//! Histograms with fixed buckets, and counters for each status code.
//!
//! The buckets contain every default bound of Envoy exactly, and lie close enough for percentiles within about a tenth.
//! Memory is bounded: under 1 KiB for each shard that wrote, nothing before the first value.

use std::sync::OnceLock;

use stdx::shard::Shards;

/// The bounds Envoy shows to Prometheus by default, in the unit of the recorded values (mostly milliseconds).
pub const ENVOY_BOUNDS: [f64; 19] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0, 30000.0, 60000.0, 300000.0,
    600000.0, 1800000.0, 3600000.0,
];

/// The upper bounds of the buckets (inclusive); what lies above the last falls into one more.
const BOUNDS: [u64; 86] = [
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 18, 20, 22, 25, 28, 32, 36, 40, 45, 50, 56, 64, 72, 80, 90, 100,
    112, 125, 140, 160, 180, 200, 225, 250, 280, 320, 360, 400, 450, 500, 560, 640, 720, 800, 900, 1000, 1120, 1250,
    1400, 1600, 1800, 2000, 2250, 2500, 2800, 3200, 3600, 4000, 4500, 5000, 5600, 6400, 7200, 8000, 9000, 10000, 12500,
    16000, 20000, 25000, 30000, 40000, 50000, 60000, 90000, 150000, 300000, 600000, 1800000, 3600000, 36000000,
];

const BUCKETS: usize = BOUNDS.len() + 1;
/// The buckets, and the sum of the values.
const ROW: usize = BUCKETS + 1;

/// The percentiles Envoy prints.
pub const PERCENTILES: [f64; 10] = [0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 100.0];

/// A histogram of whole numbers, sharded.
#[derive(Debug)]
pub struct Histogram {
    shards: usize,
    rows: OnceLock<Shards>,
}

/// What a histogram held at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    counts: [u64; BUCKETS],
    pub sum: u64,
    pub count: u64,
}

/// The status codes that are counted one by one; others count in their class only.
const CODES: [u16; 64] = [
    100, 101, 102, 103, 200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 307, 308, 400,
    401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 423, 424, 425,
    426, 428, 429, 431, 444, 451, 499, 500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511,
];

/// One counter for each known status code, sharded.
#[derive(Debug)]
pub struct Codes {
    shards: usize,
    rows: OnceLock<Shards>,
}

// === impl Histogram ===

impl Histogram {
    pub fn new(shards: usize) -> Self {
        Self { shards: shards.clamp(1, stdx::shard::MAX_SHARDS), rows: OnceLock::new() }
    }

    /// Records `value` on behalf of `shard`.
    pub fn record(&self, shard: usize, value: u64) {
        let rows = self.rows.get_or_init(|| Shards::new(self.shards, ROW));
        rows.add(shard, BOUNDS.partition_point(|bound| *bound < value), 1);
        rows.add(shard, BUCKETS, value);
    }

    /// Records a time in whole milliseconds, as Envoy does.
    pub fn record_duration(&self, shard: usize, value: std::time::Duration) {
        self.record(shard, u64::try_from(value.as_millis()).unwrap_or(u64::MAX));
    }

    /// What was recorded so far; `None` when nothing was.
    pub fn snapshot(&self) -> Option<Snapshot> {
        let rows = self.rows.get()?;
        let counts: [u64; BUCKETS] = std::array::from_fn(|index| rows.sum(index));
        let count = counts.iter().sum();
        (count > 0).then(|| Snapshot { counts, count, sum: rows.sum(BUCKETS) })
    }

    pub fn reset(&self) {
        if let Some(rows) = self.rows.get() {
            (0..ROW).for_each(|index| rows.clear(index));
        }
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// How many values are at most `bound`; exact for Envoy's default bounds.
    pub fn at_most(&self, bound: f64) -> u64 {
        self.counts.iter().zip(BOUNDS).take_while(|(_, upper)| *upper as f64 <= bound).map(|(count, _)| count).sum()
    }

    /// The value below which `percent` of the values lie, interpolated within its bucket.
    pub fn percentile(&self, percent: f64) -> f64 {
        let wanted = percent / 100.0 * self.count as f64;
        let mut seen = 0.0;
        for (index, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let count = *count as f64;
            if seen + count >= wanted {
                return interpolate(index, (wanted - seen) / count);
            }
            seen += count;
        }
        BOUNDS[BOUNDS.len() - 1] as f64
    }
}

/// A point within bucket `index`. A bucket holds the values above the bound before it, up to and with its own.
fn interpolate(index: usize, part: f64) -> f64 {
    let upper = BOUNDS[index.min(BOUNDS.len() - 1)] as f64;
    let lower = if index == 0 { 0.0 } else { (BOUNDS[index - 1] as f64 + 1.0).min(upper) };
    lower + (upper - lower) * part.clamp(0.0, 1.0)
}

// === impl Codes ===

impl Codes {
    pub fn new(shards: usize) -> Self {
        Self { shards: shards.clamp(1, stdx::shard::MAX_SHARDS), rows: OnceLock::new() }
    }

    /// Counts one response with this status; a status that no registry of codes knows is left to its class counter.
    pub fn inc(&self, shard: usize, status: u16) {
        if let Ok(index) = CODES.binary_search(&status) {
            self.rows.get_or_init(|| Shards::new(self.shards, CODES.len())).add(shard, index, 1);
        }
    }

    /// The codes seen, in order.
    pub fn counts(&self) -> Vec<(u16, u64)> {
        let Some(rows) = self.rows.get() else { return Vec::new() };
        let counts = CODES.iter().enumerate().map(|(index, code)| (*code, rows.sum(index)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    pub fn reset(&self) {
        if let Some(rows) = self.rows.get() {
            (0..CODES.len()).for_each(|index| rows.clear(index));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_rise_and_hold_every_default_bound_of_envoy() {
        assert!(BOUNDS.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(CODES.windows(2).all(|pair| pair[0] < pair[1]));
        for bound in ENVOY_BOUNDS.iter().filter(|bound| **bound >= 1.0) {
            assert!(BOUNDS.contains(&(*bound as u64)), "{bound}");
        }
    }

    #[test]
    fn values_fall_on_the_right_side_of_a_bound() {
        let histogram = Histogram::new(2);
        assert_eq!(histogram.snapshot(), None);
        for (shard, value) in [(0, 0), (1, 5), (1, 6), (0, 250), (1, u64::from(u32::MAX))] {
            histogram.record(shard, value);
        }
        let snapshot = histogram.snapshot().unwrap();
        let at_most = ENVOY_BOUNDS.map(|bound| snapshot.at_most(bound));
        assert_eq!(at_most[..8], [1, 1, 2, 3, 3, 3, 3, 4]);
        assert_eq!((snapshot.at_most(3_600_000.0), snapshot.count), (4, 5));
        assert_eq!(snapshot.sum, 261 + u64::from(u32::MAX));
        histogram.reset();
        assert_eq!(histogram.snapshot(), None);
    }

    proptest::proptest! {
        #[test]
        fn percentiles_are_within_a_bucket_of_the_truth(mut values in proptest::collection::vec(0u64..20_000, 1..200)) {
            let histogram = Histogram::new(1);
            values.iter().for_each(|value| histogram.record(0, *value));
            values.sort_unstable();
            let snapshot = histogram.snapshot().unwrap();
            for percent in PERCENTILES {
                let rank = ((percent / 100.0 * values.len() as f64).ceil() as usize).clamp(1, values.len());
                let truth = values[rank - 1] as f64;
                let got = snapshot.percentile(percent);
                proptest::prop_assert!((got - truth).abs() <= truth * 0.35 + 1.0, "P{percent}: {got} for {truth}");
            }
        }
    }
}
