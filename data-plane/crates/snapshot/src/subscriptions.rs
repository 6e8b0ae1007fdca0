//! What EDS clusters count of the updates of their endpoints (`cluster.NAME.update_…`), also before their first version
//! is compiled.
//!
//! Written on the control thread; read by whoever asks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use dp_upstream::stats::ClusterStats;
use shared_config::cluster::{Cluster, Discovery};
use shared_telemetry::stats::{Field, Kind, Reading, Source};
use shared_telemetry::{Registry, Scope};

/// What was told of the endpoints of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told<'a> {
    /// They came, and are others than before if `changed`.
    Accepted {
        version: &'a str,
        changed: bool,
    },
    Rejected,
    /// The source has none.
    Nothing {
        version: &'a str,
    },
    /// The source could not be asked.
    Failed,
    /// No answer came in time.
    TimedOut,
}

/// The EDS clusters.
pub(crate) struct Subscriptions {
    registry: Registry,
    /// By the name of the endpoints and that of the cluster.
    all: BTreeMap<(String, Arc<str>), Subscription>,
    /// The name of the endpoints, by that of the cluster.
    services: BTreeMap<Arc<str>, String>,
}

struct Subscription {
    updates: Arc<ClusterStats>,
    stats: Arc<EdsStats>,
}

const FIELDS: &[Field] = &[
    Field { name: "update_rejected", kind: Kind::Counter },
    Field { name: "init_fetch_timeout", kind: Kind::Counter },
    Field { name: "update_time", kind: Kind::Gauge },
    Field { name: "version", kind: Kind::Gauge },
];

/// What only clusters with a subscription have. Versions are hashes, which take all the bits that there are.
#[derive(Default)]
struct EdsStats {
    rejected: AtomicU64,
    timed_out: AtomicU64,
    time: AtomicU64,
    version: AtomicU64,
}

// === impl EdsStats ===

impl EdsStats {
    fn cell(&self, index: usize) -> &AtomicU64 {
        match index {
            0 => &self.rejected,
            1 => &self.timed_out,
            2 => &self.time,
            _ => &self.version,
        }
    }
}

impl Source for EdsStats {
    fn fields(&self) -> &'static [Field] {
        FIELDS
    }

    fn read(&self, index: usize) -> Reading {
        Reading::Number(self.cell(index).load(Relaxed))
    }

    fn reset(&self) {
        self.rejected.store(0, Relaxed);
        self.timed_out.store(0, Relaxed);
    }
}

// === impl Subscriptions ===

impl Subscriptions {
    pub(crate) fn new(registry: &Registry) -> Self {
        Self { registry: registry.clone(), all: BTreeMap::new(), services: BTreeMap::new() }
    }

    /// A cluster came or changed.
    pub(crate) fn follow(&mut self, cluster: &Cluster) {
        let Discovery::Eds(eds) = &cluster.discovery else { return self.forget(&cluster.name) };
        let key = (eds.service.clone(), Arc::clone(&cluster.name));
        if self.all.contains_key(&key) {
            return;
        }
        self.forget(&cluster.name);
        let scope = || Scope::cluster(&cluster.stat_name);
        let subscription = Subscription {
            updates: ClusterStats::register(&self.registry, scope()),
            stats: self.registry.register(scope(), |_| EdsStats::default()),
        };
        // It is asked for now.
        subscription.updates.update_attempt().inc(0);
        self.all.insert(key, subscription);
        self.services.insert(Arc::clone(&cluster.name), eds.service.clone());
    }

    /// A cluster is gone.
    pub(crate) fn forget(&mut self, cluster: &str) {
        if let Some((name, service)) = self.services.remove_entry(cluster) {
            self.all.remove(&(service, name));
        }
    }

    /// Something was told of the endpoints `service`.
    pub(crate) fn note(&self, service: &str, told: Told<'_>) {
        let of_service = self.all.range((service.to_owned(), Arc::from(""))..);
        for (_, subscription) in of_service.take_while(|((of, _), _)| of == service) {
            subscription.note(told);
        }
    }
}

impl Subscription {
    fn note(&self, told: Told<'_>) {
        let Self { updates, stats } = self;
        updates.update_attempt().inc(0);
        match told {
            Told::Accepted { version, changed } => {
                if !changed {
                    updates.update_no_rebuild().inc(0);
                }
                self.succeeded(version);
            }
            Told::Nothing { version } => {
                updates.update_empty().inc(0);
                self.succeeded(version);
            }
            Told::Rejected => drop(stats.rejected.fetch_add(1, Relaxed)),
            Told::Failed => updates.update_failure().inc(0),
            Told::TimedOut => drop(stats.timed_out.fetch_add(1, Relaxed)),
        }
    }

    fn succeeded(&self, version: &str) {
        self.updates.update_success().inc(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.stats.time.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Relaxed);
        self.stats.version.store(stdx::hash::xxh64(version.as_bytes(), 0), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use shared_config::cluster::discovery::Eds;
    use shared_config::core::{ConfigSource, Source as ConfigFrom};
    use shared_telemetry::Selection;

    use super::*;

    fn eds(name: &str, service: &str) -> Cluster {
        let source = ConfigSource { source: ConfigFrom::Ads, initial_fetch_timeout: None };
        Cluster::new(name, Discovery::Eds(Eds { source, service: service.to_owned() }))
    }

    /// What is not zero after this was told of `s`.
    #[track_caller]
    fn check(told: &[Told<'_>], expected: &str) {
        let registry = Registry::new(1);
        let mut subscriptions = Subscriptions::new(&registry);
        ["a", "b"].into_iter().for_each(|name| subscriptions.follow(&eds(name, "s")));
        subscriptions.follow(&eds("c", "s2"));
        subscriptions.follow(&eds("b", "t"));
        told.iter().for_each(|told| subscriptions.note("s", *told));
        let mut text = String::new();
        registry.write_text(&Selection { used_only: true, ..Selection::default() }, &mut text).unwrap();
        let names = |line: &str| line.strip_prefix("cluster.a.").map(str::to_owned);
        let mut lines: Vec<String> =
            text.lines().filter_map(names).filter(|line| !line.starts_with("update_time")).collect();
        lines.sort_unstable();
        assert_eq!(lines.join(", "), expected);
        let others = text.lines().filter(|line| line.starts_with("cluster.b.") || line.starts_with("cluster.c."));
        assert!(others.clone().all(|line| line.ends_with("update_attempt: 1")), "{text}");
        subscriptions.forget("a");
        assert!(!subscriptions.services.contains_key("a") && subscriptions.all.len() == 2);
    }

    #[test]
    fn updates_are_counted_as_envoy_counts_them() {
        let accepted = |changed| Told::Accepted { version: "1", changed };
        let version = format!("version: {}", stdx::hash::xxh64(b"1", 0));
        check(&[], "update_attempt: 1");
        check(&[accepted(true)], &format!("update_attempt: 2, update_success: 1, {version}"));
        check(
            &[accepted(true), accepted(false)],
            &format!("update_attempt: 3, update_no_rebuild: 1, update_success: 2, {version}"),
        );
        check(&[Told::Rejected], "update_attempt: 2, update_rejected: 1");
        check(&[Told::Failed], "update_attempt: 2, update_failure: 1");
        check(&[Told::TimedOut], "init_fetch_timeout: 1, update_attempt: 2");
        check(
            &[Told::Nothing { version: "1" }],
            &format!("update_attempt: 2, update_empty: 1, update_success: 1, {version}"),
        );
    }
}
