//! What outlier detection knows of one endpoint. Lives as long as the endpoint does, over all versions of its cluster.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use shared_config::outlier::OutlierDetection as Config;

use super::{Reason, millis};

/// Times are milliseconds of the cluster's detector; 0 is never.
#[derive(Debug, Default)]
pub struct Monitor {
    server_errors: AtomicU32,
    gateway_errors: AtomicU32,
    local_errors: AtomicU32,
    pub(super) answers: Rate,
    pub(super) local: Rate,
    ejections: AtomicU32,
    pub(super) out: Term,
    /// It called itself degraded.
    pub(super) degraded: Term,
}

/// A state that ends after a while, later each time it is entered again.
#[derive(Debug, Default)]
pub(super) struct Term {
    /// How many times the base time the next one lasts.
    multiplier: AtomicU32,
    began_at: AtomicU64,
    ended_at: AtomicU64,
    jitter: AtomicU64,
}

/// Failures in a row, this one included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InARow {
    pub(super) server: u32,
    /// When the last one was a gateway's.
    pub(super) gateway: Option<u32>,
}

/// How many of how many succeeded in the current interval and in the one before: one atomic addition a request.
#[derive(Debug)]
pub(super) struct Rate {
    /// All of them in the upper half, those that succeeded in the lower.
    counts: AtomicU64,
    /// The success rate of the last interval in thousandths of a percent; `u32::MAX` when there was too little traffic.
    last: AtomicU32,
}

impl Default for Rate {
    fn default() -> Self {
        Self { counts: AtomicU64::new(0), last: AtomicU32::new(u32::MAX) }
    }
}

/// The traffic of one interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Volume {
    pub(super) all: u32,
    pub(super) good: u32,
}

// === impl Monitor ===

impl Monitor {
    /// Counts an answer; says how many failures came in a row if it is one.
    pub(super) fn answered(&self, status: u16) -> Option<InARow> {
        let failed = (500..600).contains(&status);
        self.answers.count(!failed);
        if !failed {
            clear(&self.server_errors);
            clear(&self.gateway_errors);
            return None;
        }
        let gateway = if (502..=504).contains(&status) {
            Some(self.gateway_errors.fetch_add(1, Relaxed) + 1)
        } else {
            clear(&self.gateway_errors);
            None
        };
        Some(InARow { server: self.server_errors.fetch_add(1, Relaxed) + 1, gateway })
    }

    pub(super) fn local_success(&self) {
        self.local.count(true);
        clear(&self.local_errors);
    }

    /// Counts a failure to reach the endpoint; how many came in a row.
    pub(super) fn local_failure(&self) -> u32 {
        self.local.count(false);
        self.local_errors.fetch_add(1, Relaxed) + 1
    }

    /// Counts failures in a row from 0 again.
    pub(super) fn start_over(&self, reason: Reason) {
        match reason {
            Reason::Consecutive5xx => clear(&self.server_errors),
            Reason::ConsecutiveGateway => clear(&self.gateway_errors),
            Reason::ConsecutiveLocal => clear(&self.local_errors),
            _ => {}
        }
    }

    /// Remembers an ejection.
    pub(super) fn ejected(&self, now: u64, config: &Config) {
        self.ejections.fetch_add(1, Relaxed);
        self.out.begin(now, config);
    }

    pub(super) fn returned(&self, now: u64) {
        self.out.end(now);
        // So that few new errors do not eject it again.
        [&self.server_errors, &self.gateway_errors, &self.local_errors].into_iter().for_each(clear);
    }

    pub(super) fn since_return(&self, now: u64) -> Option<Duration> {
        since(&self.out.ended_at, now)
    }

    pub(super) fn since_ejection(&self, now: u64) -> Option<Duration> {
        since(&self.out.began_at, now)
    }

    pub(super) fn ejections(&self) -> u32 {
        self.ejections.load(Relaxed)
    }

    /// The share of requests that succeeded in the last interval, in thousandths of a percent, if there were enough.
    pub fn success_rate(&self) -> Option<u32> {
        self.answers.last()
    }

    /// The same for reaching the endpoint at all, when that is counted apart.
    pub fn local_success_rate(&self) -> Option<u32> {
        self.local.last()
    }
}

/// Writes only when there is something to clear, so that the line stays shared while all is well.
fn clear(count: &AtomicU32) {
    if count.load(Relaxed) != 0 {
        count.store(0, Relaxed);
    }
}

fn since(at: &AtomicU64, now: u64) -> Option<Duration> {
    let at = at.load(Relaxed);
    (at != 0).then(|| Duration::from_millis(now.saturating_sub(at)))
}

// === impl Term ===

impl Term {
    /// Each one lasts a base time longer than the one before, up to the maximum.
    pub(super) fn begin(&self, now: u64, config: &Config) {
        let (base, max) = (millis(config.base_ejection), millis(config.max_ejection));
        self.began_at.store(now, Relaxed);
        self.jitter.store(fastrand::u64(..=millis(config.max_ejection_jitter)), Relaxed);
        let grow = |times: u32| (u64::from(times) * base < max.saturating_add(base)).then_some(times + 1);
        // As long as it can be already.
        let _ = self.multiplier.fetch_update(Relaxed, Relaxed, grow);
    }

    /// Whether its time is over.
    pub(super) fn may_end(&self, now: u64, config: &Config) -> bool {
        let (base, max) = (millis(config.base_ejection), millis(config.max_ejection));
        let time = base.saturating_mul(self.multiplier.load(Relaxed).into()).min(max);
        now.saturating_sub(self.began_at.load(Relaxed)) >= time.saturating_add(self.jitter.load(Relaxed))
    }

    pub(super) fn end(&self, now: u64) {
        self.ended_at.store(now, Relaxed);
    }

    /// Over for a whole interval: the next one is a base time shorter.
    pub(super) fn forgive(&self, now: u64, config: &Config) {
        let ended = self.ended_at.load(Relaxed);
        if ended != 0 && now.saturating_sub(ended) >= millis(config.interval) {
            let _ = self.multiplier.fetch_update(Relaxed, Relaxed, |times| times.checked_sub(1));
        }
    }
}

// === impl Rate ===

impl Rate {
    fn count(&self, good: bool) {
        self.counts.fetch_add((1 << 32) | u64::from(good), Relaxed);
    }

    /// Ends the interval.
    #[allow(clippy::cast_possible_truncation, reason = "the halves of a number")]
    pub(super) fn take(&self) -> Volume {
        let counts = self.counts.swap(0, Relaxed);
        Volume { all: (counts >> 32) as u32, good: counts as u32 }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a percentage")]
    pub(super) fn report(&self, percent: Option<f64>) {
        self.last.store(percent.map_or(u32::MAX, |percent| (percent * 1000.0).round() as u32), Relaxed);
    }

    fn last(&self) -> Option<u32> {
        Some(self.last.load(Relaxed)).filter(|last| *last != u32::MAX)
    }
}

// === impl Volume ===

impl Volume {
    /// In percent.
    pub(super) fn success_rate(self) -> f64 {
        f64::from(self.good) * 100.0 / f64::from(self.all.max(1))
    }
}
