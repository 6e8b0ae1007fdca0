//! How the control thread hears that tables have to be made anew: an endpoint's health or weight changed outside of a
//! configuration push. Any thread tells, without waiting; only the control thread listens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::AcqRel, Ordering::Acquire};

use tokio::sync::Notify;

/// Rings when some cluster of the process changed. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Bell(Arc<Notify>);

/// The changes of one cluster, counted over all its versions: tables made before the last one are stale.
#[derive(Debug)]
pub struct HealthChanged {
    count: AtomicU64,
    bell: Bell,
}

// === impl Bell ===

impl Bell {
    /// Tells that some tables are stale.
    pub(crate) fn ring(&self) {
        self.0.notify_one();
    }

    /// Resolves when it was rung since the last time.
    pub async fn rung(&self) {
        self.0.notified().await;
    }
}

// === impl HealthChanged ===

impl HealthChanged {
    pub(crate) fn new(bell: Bell) -> Self {
        Self { count: AtomicU64::new(0), bell }
    }

    /// Something that the tables are made from changed. Call it after the change.
    pub fn notify_one(&self) {
        self.count.fetch_add(1, AcqRel);
        self.bell.ring();
    }

    /// How many changes there were.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Acquire)
    }
}
