//! How many connections of clients the whole process may have (the overload manager's
//! `global_downstream_max_connections`).
//!
//! One number that all workers share; a connection pays for it once when it comes and once when it goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The limit and the count.
#[derive(Debug)]
pub struct Budget {
    max: u64,
    open: AtomicU64,
}

/// A connection that counts; free again when dropped.
#[derive(Debug)]
pub(crate) struct Counted(Arc<Budget>);

impl Budget {
    pub fn new(max: u64) -> Arc<Self> {
        Arc::new(Self { max, open: AtomicU64::new(0) })
    }

    /// A place for one more, if there is one.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<Counted> {
        let more = |open| (open < self.max).then_some(open + 1);
        self.open.fetch_update(Relaxed, Relaxed, more).is_ok().then(|| Counted(Arc::clone(self)))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_connection_ends() {
        let budget = Budget::new(1);
        let first = budget.admit();
        assert!(first.is_some() && budget.admit().is_none());
        drop(first);
        assert!(budget.admit().is_some());
    }
}
