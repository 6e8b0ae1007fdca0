//! What the sources did, for statistics and for the configuration dump.
//!
//! Written by the control thread and read by whoever asks; never on the path of a request.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use shared_xds::ResourceKind;

/// Where one resource stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceView {
    /// Of the resource in use; empty when none ever was.
    pub version: String,
    pub updated: SystemTime,
    /// Why the latest one was refused, if it was.
    pub error: Option<String>,
}

/// The counters of one kind, in Envoy's names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KindStats {
    pub update_attempt: u64,
    pub update_success: u64,
    pub update_rejected: u64,
    pub update_failure: u64,
    pub init_fetch_timeout: u64,
    /// The version of the latest accepted response.
    pub version: String,
    pub update_time: Option<SystemTime>,
    pub last_error: Option<String>,
    pub resources: BTreeMap<String, ResourceView>,
}

/// All of it at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatsView {
    /// Streams that are open now.
    pub connected: usize,
    pub kinds: BTreeMap<ResourceKind, KindStats>,
    /// The latest revision whose end was marked.
    pub revision: Option<u64>,
    /// Configuration is served from disk, since no control plane answered yet.
    pub from_disk: bool,
}

#[derive(Debug, Default)]
pub struct Stats(Mutex<StatsView>);

impl Stats {
    pub fn view(&self) -> StatsView {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same without copying; keep `read` short.
    pub fn with<R>(&self, read: impl FnOnce(&StatsView) -> R) -> R {
        read(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut StatsView)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn kind(&self, kind: ResourceKind, change: impl FnOnce(&mut KindStats)) {
        self.change(|view| change(view.kinds.entry(kind).or_default()));
    }
}
