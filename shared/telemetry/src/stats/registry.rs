//! The registry: every living block of statistics with its scope.
//!
//! Blocks are held weakly: who counts owns the block, and a dropped cluster leaves the next scrape. Never on the
//! request path: the lock is taken when something is made, and at a scrape.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::Source;
use super::scope::Scope;

/// The living blocks of a process. Clones share one state.
#[derive(Clone)]
pub struct Registry {
    shards: usize,
    blocks: Arc<Mutex<Blocks>>,
}

#[derive(Default)]
struct Blocks {
    /// By prefix, then by type, so that a scrape comes out in order and one scope may carry several types.
    by_name: BTreeMap<(Arc<str>, usize), Remembered>,
    /// Dropped blocks are cleared out when the map has grown to this.
    sweep_at: usize,
}

type Remembered = (Arc<Scope>, Weak<dyn Source>);

/// A block as a scrape sees it.
pub struct Entry {
    pub scope: Arc<Scope>,
    pub source: Arc<dyn Source>,
}

const FIRST_SWEEP: usize = 64;

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("shards", &self.shards).finish_non_exhaustive()
    }
}

// === impl Registry ===

impl Registry {
    /// A registry for `shards` writers: one for the control thread (shard 0) and one for each worker.
    pub fn new(shards: usize) -> Self {
        Self { shards: shards.clamp(1, stdx::shard::MAX_SHARDS), blocks: Arc::default() }
    }

    pub fn shards(&self) -> usize {
        self.shards
    }

    /// How many blocks are remembered, with those that were dropped since the last sweep.
    pub fn len(&self) -> usize {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).by_name.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The living block of this scope and type, or a new one. So what counts in the same scope counts together.
    pub fn register<T: Source>(&self, scope: Scope, make: impl FnOnce(usize) -> T) -> Arc<T> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let made = Arc::new(make(self.shards));
        let key = (Arc::from(scope.prefix()), made.fields().as_ptr() as usize);
        if let Some(living) = blocks.by_name.get(&key).and_then(|(_, source)| source.upgrade())
            && let Ok(living) = (living as Arc<dyn Any + Send + Sync>).downcast::<T>()
        {
            return living;
        }
        if blocks.by_name.len() >= blocks.sweep_at.max(FIRST_SWEEP) {
            blocks.by_name.retain(|_, (_, source)| source.strong_count() > 0);
            blocks.sweep_at = blocks.by_name.len() * 2;
        }
        let source: Arc<dyn Source> = Arc::clone(&made) as Arc<dyn Source>;
        blocks.by_name.insert(key, (Arc::new(scope), Arc::downgrade(&source)));
        made
    }

    /// The living blocks, by prefix.
    pub fn entries(&self) -> Vec<Entry> {
        let blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let living = blocks.by_name.values().filter_map(|(scope, source)| {
            let source = source.upgrade()?;
            Some(Entry { scope: Arc::clone(scope), source })
        });
        living.collect()
    }

    /// Sets all counters and histograms back to zero.
    pub fn reset_counters(&self) {
        self.entries().iter().for_each(|entry| entry.source.reset());
    }
}
