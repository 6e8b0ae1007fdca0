//! What filters are given when they are compiled, and the state of theirs that outlives a reconfiguration.
//!
//! Never used on the request path, except for what a filter took from here into its own fields.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use shared_config::cluster::DnsCache;
use shared_config::http_filter::{HttpFilter, HttpFilterConfig};
use shared_config::invalid::Problem;
use shared_telemetry::Registry;

/// What the snapshot compiler hands to filters.
pub struct Services<'a> {
    pub keep: &'a KeepStore,
    pub health: Arc<dyn Health>,
    pub registry: &'a Registry,
    /// What the connection manager is called in statistics.
    pub stat_prefix: &'a str,
    pub names: &'a dyn NameCaches,
    /// The configuration that discovery (ECDS) delivered for the filter of this name, if it came.
    pub discovered: &'a dyn Fn(&str) -> Option<Arc<HttpFilterConfig>>,
    /// `node.cluster` of the bootstrap.
    pub node_cluster: Arc<str>,
    /// The moment of this compilation, for state that is a function of time.
    pub now: Instant,
}

/// Answers the health_check filter. Asked while requests run, so an answer must be cheap.
pub trait Health: Send + Sync {
    /// Whether this process wants no new requests: it drains, or an operator failed its health check.
    fn is_failing(&self) -> bool;
    /// The state of a cluster by name; `None` when there is no such cluster.
    fn cluster(&self, name: &str) -> Option<ClusterHealth>;
}

/// How many endpoints of a cluster could take a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClusterHealth {
    pub healthy: u64,
    pub degraded: u64,
    pub total: u64,
}

/// The caches of names that filters and clusters share.
pub trait NameCaches {
    /// The cache of this configuration.
    ///
    /// # Errors
    /// Why it cannot be had.
    fn cache(&self, config: &DnsCache) -> Result<Arc<dyn Names>, String>;
}

/// Resolves the hosts that requests name. Asked while requests run.
pub trait Names: Send + Sync {
    /// Looks up a host; `port` counts when `authority` has none.
    fn look_up(&self, authority: &str, port: u16) -> NameLookup;
}

/// What a look-up comes to.
pub enum NameLookup {
    Found,
    /// The name does not resolve.
    Failed,
    /// The cache is full.
    Overflow,
    /// Too many requests wait for names.
    PendingOverflow,
    /// Whether it was found, later.
    Waiting(Pin<Box<dyn Future<Output = bool>>>),
}

/// Where in the configuration a filter is being compiled.
pub struct Scope<'a> {
    pub services: &'a Services<'a>,
    /// Listener, filter name, and the levels with overrides: what tells two equal configurations apart.
    pub(crate) place: &'a str,
    /// The whole chain, and where in it the filter stands.
    pub(crate) filters: &'a [HttpFilter],
    pub(crate) slot: usize,
    pub(crate) refused: &'a RefCell<Vec<Problem>>,
}

/// State shared by workers, such as token buckets. It lives as long as a filter of some snapshot holds it, so a new
/// snapshot with an equal configuration at the same place goes on with the same state.
#[derive(Debug, Default)]
pub struct KeepStore {
    parts: Mutex<HashMap<String, Weak<dyn Any + Send + Sync>>>,
}

// === impl Scope ===

impl Scope<'_> {
    /// Says that the snapshot cannot be used with this configuration: for what only the data plane can judge, such as
    /// formats. Ends up in `Compiler::problems`.
    pub fn refuse(&self, reason: impl std::fmt::Display) {
        let path = self.filters.get(self.slot).map(|filter| filter.name.clone()).unwrap_or_default();
        self.refused.borrow_mut().push(Problem { path, reason: reason.to_string() });
    }

    /// Where the statistics of a filter stand: `http.STAT_PREFIX.NAME.`
    pub fn stats(&self, name: &str) -> shared_telemetry::Scope {
        shared_telemetry::Scope::http(self.services.stat_prefix).child(name)
    }

    pub fn registry(&self) -> &Registry {
        self.services.registry
    }

    /// The state of `kind` for `config`: the one that an earlier snapshot has, or a new one. The text that `Debug`
    /// writes of a configuration is its identity.
    pub fn keep<T: Any + Send + Sync>(
        &self,
        kind: &str,
        config: &impl std::fmt::Debug,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        let mut key = format!("{kind}\0{}\0", self.place);
        // Writing to a String cannot fail.
        let _ = write!(key, "{config:?}");
        self.services.keep.get_or_make(key, make)
    }
}

// === impl KeepStore ===

impl KeepStore {
    pub(crate) fn get_or_make<T: Any + Send + Sync>(&self, key: String, make: impl FnOnce() -> T) -> Arc<T> {
        // A panic in `make` leaves the map whole, so a poisoned lock is still good.
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = parts.get(&key).and_then(Weak::upgrade).and_then(|part| part.downcast().ok()) {
            return part;
        }
        // Each time the map would grow, what no snapshot holds any more goes first.
        if parts.len() == parts.capacity() {
            parts.retain(|_, part| part.strong_count() > 0);
        }
        let part = Arc::new(make());
        let weak: Weak<T> = Arc::downgrade(&part);
        parts.insert(key, weak);
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_shared_while_someone_holds_it_and_forgotten_afterwards() {
        let store = KeepStore::default();
        let first = store.get_or_make("a".into(), || 1);
        assert_eq!(*store.get_or_make("a".into(), || 2), 1);
        assert_eq!(*store.get_or_make("b".into(), || 3), 3);
        drop(first);
        assert_eq!(*store.get_or_make("a".into(), || 4), 4);
    }
}
