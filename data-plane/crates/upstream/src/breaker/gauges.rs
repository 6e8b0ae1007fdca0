//! What the circuit breakers show: whether each is open, and where asked for how much is left.
//!
//! Computed when somebody reads them, so that requests pay nothing.

use std::sync::Arc;

use arc_swap::ArcSwap;
use shared_config::cluster::{Breakers as Limits, Thresholds};
use shared_telemetry::stats::{Field, Kind, Reading, Source};
use shared_telemetry::{Registry, Scope};

use super::{Breakers, Priority, Resource};

/// The gauges of one cluster; shown for as long as somebody holds them.
#[derive(Default)]
pub(crate) struct Gauges {
    _open: [Option<Arc<Open>>; 2],
    _remaining: [Option<Arc<Remaining>>; 2],
}

/// `circuit_breakers.PRIORITY.*_open`.
struct Open(Breaker);

/// `circuit_breakers.PRIORITY.remaining_*`.
struct Remaining(Breaker);

/// The breakers of one priority.
#[derive(Clone)]
struct Breaker {
    counts: Arc<Breakers>,
    limits: Arc<ArcSwap<Limits>>,
    priority: Priority,
}

const fn gauge(name: &'static str) -> Field {
    Field { name, kind: Kind::Gauge }
}

/// In the order of [`RESOURCES`].
static OPEN: [[Field; 5]; 2] = [
    [
        gauge("circuit_breakers.default.cx_open"),
        gauge("circuit_breakers.default.rq_pending_open"),
        gauge("circuit_breakers.default.rq_open"),
        gauge("circuit_breakers.default.rq_retry_open"),
        gauge("circuit_breakers.default.cx_pool_open"),
    ],
    [
        gauge("circuit_breakers.high.cx_open"),
        gauge("circuit_breakers.high.rq_pending_open"),
        gauge("circuit_breakers.high.rq_open"),
        gauge("circuit_breakers.high.rq_retry_open"),
        gauge("circuit_breakers.high.cx_pool_open"),
    ],
];

static REMAINING: [[Field; 5]; 2] = [
    [
        gauge("circuit_breakers.default.remaining_cx"),
        gauge("circuit_breakers.default.remaining_pending"),
        gauge("circuit_breakers.default.remaining_rq"),
        gauge("circuit_breakers.default.remaining_retries"),
        gauge("circuit_breakers.default.remaining_cx_pools"),
    ],
    [
        gauge("circuit_breakers.high.remaining_cx"),
        gauge("circuit_breakers.high.remaining_pending"),
        gauge("circuit_breakers.high.remaining_rq"),
        gauge("circuit_breakers.high.remaining_retries"),
        gauge("circuit_breakers.high.remaining_cx_pools"),
    ],
];

const RESOURCES: [Resource; 5] =
    [Resource::Connections, Resource::Pending, Resource::Requests, Resource::Retries, Resource::Pools];

// === impl Gauges ===

impl Gauges {
    /// Shows the breakers of a cluster under its scope, as `limits` has it.
    pub(crate) fn show(
        counts: &Arc<Breakers>,
        limits: &Arc<ArcSwap<Limits>>,
        registry: &Registry,
        scope: impl Fn() -> Scope,
    ) -> Self {
        let of = |priority| Breaker { counts: Arc::clone(counts), limits: Arc::clone(limits), priority };
        let priorities = [Priority::Default, Priority::High];
        Self {
            _open: priorities.map(|priority| Some(registry.register(scope(), |_| Open(of(priority))))),
            _remaining: priorities.map(|priority| {
                let breaker = of(priority);
                let tracked = breaker.with_limits(|limits| limits.track_remaining);
                tracked.then(|| registry.register(scope(), |_| Remaining(breaker)))
            }),
        }
    }
}

// === impl Breaker ===

impl Breaker {
    fn with_limits<R>(&self, read: impl FnOnce(&Thresholds) -> R) -> R {
        let limits = self.limits.load();
        read(match self.priority {
            Priority::Default => &limits.default,
            Priority::High => &limits.high,
        })
    }

    /// How many are in use, and how many may be.
    fn use_of(&self, index: usize) -> (u32, u32) {
        let resource = RESOURCES[index];
        let limit = self.with_limits(|limits| self.counts.limit(limits, self.priority, resource));
        (self.counts.used(self.priority, resource), limit)
    }
}

impl Source for Open {
    fn fields(&self) -> &'static [Field] {
        &OPEN[self.0.priority as usize]
    }

    fn read(&self, index: usize) -> Reading {
        let (used, limit) = self.0.use_of(index);
        Reading::Number((used >= limit).into())
    }

    fn reset(&self) {}
}

impl Source for Remaining {
    fn fields(&self) -> &'static [Field] {
        &REMAINING[self.0.priority as usize]
    }

    fn read(&self, index: usize) -> Reading {
        // A budget depends on what else runs, so that what is left of it says nothing.
        if RESOURCES[index] == Resource::Retries && self.0.with_limits(|limits| limits.retry_budget.is_some()) {
            return Reading::Number(0);
        }
        let (used, limit) = self.0.use_of(index);
        Reading::Number(limit.saturating_sub(used).into())
    }

    fn reset(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(registry: &Registry) -> Vec<(&'static str, u64)> {
        let read = |source: &Arc<dyn Source>| -> Vec<_> {
            let fields = source.fields().iter().enumerate();
            fields
                .filter_map(|(index, field)| match source.read(index) {
                    Reading::Number(number) => Some((field.name, number)),
                    _ => None,
                })
                .collect()
        };
        registry.entries().iter().flat_map(|entry| read(&entry.source)).collect()
    }

    #[test]
    fn gauges_follow_use_and_limits_and_show_what_is_left_only_where_it_is_tracked() {
        let registry = Registry::new(1);
        let counts = Arc::new(Breakers::default());
        let high = Thresholds { requests: 2, track_remaining: true, ..Thresholds::default() };
        let mut limits = Limits { high, ..Limits::default() };
        let shared = Arc::new(ArcSwap::from_pointee(limits.clone()));
        let _gauges = Gauges::show(&counts, &shared, &registry, || Scope::cluster("c"));
        let value = |name: &str| shown(&registry).into_iter().find(|(shown, _)| *shown == name).map(|(_, n)| n);
        let _first = counts.admit_anyway(Priority::High, Resource::Requests);
        assert_eq!(value("circuit_breakers.high.rq_open"), Some(0));
        assert_eq!(value("circuit_breakers.high.remaining_rq"), Some(1));
        assert_eq!(value("circuit_breakers.default.remaining_rq"), None);
        let _second = counts.admit_anyway(Priority::High, Resource::Requests);
        assert_eq!(value("circuit_breakers.high.rq_open"), Some(1));
        assert_eq!(value("circuit_breakers.default.rq_open"), Some(0));
        limits.high.requests = 5;
        shared.store(Arc::new(limits));
        assert_eq!(value("circuit_breakers.high.rq_open"), Some(0));
        assert_eq!(value("circuit_breakers.high.remaining_rq"), Some(3));
    }
}
