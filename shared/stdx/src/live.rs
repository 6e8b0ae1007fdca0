//! A value that one thread replaces and many read: the hot swap.
//!
//! Reading through a [`Reader`] costs one atomic load while nothing changed (`arc_swap::Cache`).

use std::sync::Arc;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;

/// A value that is replaced as a whole; a reader sees the old one or the new one, never a mixture.
#[derive(Debug)]
pub struct Live<T> {
    value: Arc<ArcSwap<T>>,
}

/// One reader's cached view of a [`Live`] value; keep one per worker.
#[derive(Debug, Clone)]
pub struct Reader<T> {
    cache: Cache<Arc<ArcSwap<T>>, Arc<T>>,
}

// === impl Live ===

impl<T> Live<T> {
    pub fn new(value: T) -> Self {
        Self { value: Arc::new(ArcSwap::from_pointee(value)) }
    }

    /// Replaces the value. Readers see it at their next `get`.
    pub fn publish(&self, value: Arc<T>) {
        self.value.store(value);
    }

    /// The value of this moment, for those who ask rarely.
    pub fn load(&self) -> Arc<T> {
        self.value.load_full()
    }

    pub fn reader(&self) -> Reader<T> {
        Reader { cache: Cache::new(Arc::clone(&self.value)) }
    }
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self { value: Arc::clone(&self.value) }
    }
}

// === impl Reader ===

impl<T> Reader<T> {
    /// The value as last published: one atomic load when it did not change since the last call.
    pub fn get(&mut self) -> &Arc<T> {
        self.cache.load()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_what_was_published() {
        let live = Live::new(1);
        let mut reader = live.reader();
        assert_eq!(**reader.get(), 1);
        live.publish(Arc::new(2));
        assert_eq!(**reader.get(), 2);
    }
}
