//! Counters that workers bump without sharing a cache line and without waiting for each other.
//!
//! Every worker has rows of its own and is the only one that writes them, so that counting is a load and a store, with
//! no locked instruction. Shard 0 is for everyone else: the control thread and whoever has no shard.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The most shards a process has: one for the control thread and one a worker.
pub const MAX_SHARDS: usize = 257;

/// The counters or gauges of one thing (a cluster, a listener) for each shard; a shard's row is made when it first
/// writes. A gauge may be raised on one shard and lowered on another.
#[derive(Debug)]
pub struct Shards {
    rows: Box<[OnceLock<Row>]>,
    /// Counters in a row.
    width: usize,
}

type Row = Box<[Line]>;

/// A row fills whole cache lines, so that two workers never write to one line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line([AtomicU64; LINE]);

const LINE: usize = 8;

impl Shards {
    /// `width` counters for each of `shards` writers (workers and the control thread).
    pub fn new(shards: usize, width: usize) -> Self {
        Self { rows: (0..shards.clamp(1, MAX_SHARDS)).map(|_| OnceLock::new()).collect(), width }
    }

    /// Adds `n` to counter `index`. A `shard` above 0 is the calling worker's own; one that there is not counts as 0.
    // One piece of code for all that is counted in a request stays in the cache of the processor.
    #[inline(never)]
    pub fn add(&self, shard: usize, index: usize, n: u64) {
        match self.rows.get(shard) {
            Some(row) if shard > 0 => {
                let cell = self.cell(row, index);
                cell.store(cell.load(Relaxed).wrapping_add(n), Relaxed);
            }
            _ => {
                self.cell(&self.rows[0], index).fetch_add(n, Relaxed);
            }
        }
    }

    fn cell<'r>(&self, row: &'r OnceLock<Row>, index: usize) -> &'r AtomicU64 {
        let row = row.get_or_init(|| (0..self.width.div_ceil(LINE)).map(|_| Line::default()).collect());
        &row[index / LINE].0[index % LINE]
    }

    /// Lowers gauge `index` by `n` on behalf of `shard`.
    pub fn sub(&self, shard: usize, index: usize, n: u64) {
        self.add(shard, index, n.wrapping_neg());
    }

    /// The sum over all shards (wrapping, so that a gauge moved between shards still adds up).
    pub fn sum(&self, index: usize) -> u64 {
        let rows = self.rows.iter().filter_map(OnceLock::get);
        rows.fold(0, |sum, row| sum.wrapping_add(row[index / LINE].0[index % LINE].load(Relaxed)))
    }

    /// Sets a counter back to zero, unless nobody ever wrote it. What workers count meanwhile stays.
    pub fn clear(&self, index: usize) {
        let sum = self.sum(index);
        if sum != 0 {
            self.sub(0, index, sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_add_up_even_when_a_gauge_moves_between_them() {
        let counters = Shards::new(3, 10);
        counters.add(1, 0, 5);
        counters.sub(2, 0, 2);
        assert_eq!((counters.sum(0), counters.sum(1)), (3, 0));
        counters.clear(0);
        counters.add(9, 9, 4);
        assert_eq!((counters.sum(0), counters.sum(9)), (0, 4));
    }

    #[test]
    fn nothing_is_lost_when_all_count_at_once() {
        let counters = Shards::new(3, 1);
        std::thread::scope(|scope| {
            for shard in [0, 0, 1, 2] {
                let counters = &counters;
                scope.spawn(move || (0..10_000).for_each(|_| counters.add(shard, 0, 1)));
            }
        });
        assert_eq!(counters.sum(0), 40_000);
    }
}
