//! The connection_limit filter: so many connections at a time, over all workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use shared_config::network_filter::ConnectionLimit as Config;
use shared_telemetry::{Registry, Scope, stats};

use super::Refusal;
use crate::services::KeepStore;

stats! {
    /// `connection_limit.STAT_PREFIX.`
    pub struct ConnectionLimitStats {
        counter limited_connections,
        gauge active_connections,
    }
}

pub struct ConnectionLimit {
    max: u64,
    delay: Option<Duration>,
    enabled: bool,
    active: Arc<AtomicU64>,
    stats: Arc<ConnectionLimitStats>,
}

/// A connection's place among those that are counted; free again when dropped.
#[derive(Debug)]
pub struct Place {
    active: Arc<AtomicU64>,
    stats: Arc<ConnectionLimitStats>,
    shard: usize,
}

impl ConnectionLimit {
    pub(super) fn compile(config: &Config, place: &str, keep: &KeepStore, registry: &Registry) -> Self {
        let scope = Scope::new(&format!("connection_limit.{}", config.stat_prefix), "connection_limit");
        let scope = scope.label("envoy_connection_limit_prefix", &config.stat_prefix);
        Self {
            max: config.max_connections,
            delay: config.delay,
            enabled: config.enabled,
            // The count goes on when only the limit changes.
            active: keep.get_or_make(format!("connection_limit\0{place}"), || AtomicU64::new(0)),
            stats: ConnectionLimitStats::register(registry, scope),
        }
    }

    /// A place for one more connection; none if nobody counts.
    pub(super) fn admit(&self, shard: usize) -> Result<Option<Place>, Refusal> {
        if !self.enabled {
            return Ok(None);
        }
        if self.active.fetch_update(Relaxed, Relaxed, |active| (active < self.max).then_some(active + 1)).is_err() {
            self.stats.limited_connections().inc(shard);
            return Err(Refusal { delay: self.delay, details: "connection_limit".into() });
        }
        self.stats.active_connections().inc(shard);
        Ok(Some(Place { active: Arc::clone(&self.active), stats: Arc::clone(&self.stats), shard }))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.active.fetch_sub(1, Relaxed);
        self.stats.active_connections().dec(self.shard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(max_connections: u64, enabled: bool, keep: &KeepStore) -> ConnectionLimit {
        let delay = Some(Duration::from_secs(1));
        let config = Config { stat_prefix: "p".into(), max_connections, delay, enabled };
        ConnectionLimit::compile(&config, "l/c/0", keep, &Registry::new(2))
    }

    #[test]
    fn a_connection_too_many_is_refused_until_another_one_ends() {
        let limit = limit(2, true, &KeepStore::default());
        let first = limit.admit(1).unwrap();
        let _second = limit.admit(1).unwrap();
        assert_eq!(limit.admit(1).unwrap_err().delay, Some(Duration::from_secs(1)));
        drop(first);
        assert!(limit.admit(1).unwrap().is_some());
        assert_eq!((limit.stats.limited_connections().value(), limit.stats.active_connections().value()), (1, 1));
    }

    #[test]
    fn the_count_outlives_a_change_of_the_limit() {
        let keep = KeepStore::default();
        let before = limit(1, true, &keep);
        let _held = before.admit(1).unwrap();
        let after = limit(2, true, &keep);
        let _second = after.admit(1).unwrap();
        assert!(after.admit(1).is_err());
        assert!(limit(1, false, &keep).admit(1).unwrap().is_none());
    }
}
