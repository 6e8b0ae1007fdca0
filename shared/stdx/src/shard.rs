//! Counters that workers bump without sharing a cache line.
//!
//! A block holds the counters of one thing (a cluster, a listener) for every worker. A worker writes only its own
//! shard with relaxed stores; a scrape adds the shards up. Shard 0 belongs to the control thread.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The most shards a process has: one for the control thread and one a worker.
pub const MAX_SHARDS: usize = 257;

/// `N` counters or gauges for each shard. A gauge may be raised on one shard and lowered on another.
#[derive(Debug)]
pub struct Block<const N: usize> {
    shards: Box<[Row<N>]>,
}

/// A row fills whole cache lines, so that two workers never write to one line.
#[derive(Debug)]
#[repr(align(64))]
struct Row<const N: usize>([AtomicU64; N]);

impl<const N: usize> Block<N> {
    /// A block for `shards` writers (workers and the control thread).
    pub fn new(shards: usize) -> Self {
        let row = || Row(std::array::from_fn(|_| AtomicU64::new(0)));
        Self { shards: (0..shards.clamp(1, MAX_SHARDS)).map(|_| row()).collect() }
    }

    /// Adds `n` to counter `index` on behalf of `shard`.
    pub fn add(&self, shard: usize, index: usize, n: u64) {
        if let Some(cell) = self.shards.get(shard).or(self.shards.first()).and_then(|row| row.0.get(index)) {
            cell.fetch_add(n, Relaxed);
        }
    }

    /// Lowers gauge `index` by `n` on behalf of `shard`.
    pub fn sub(&self, shard: usize, index: usize, n: u64) {
        if let Some(cell) = self.shards.get(shard).or(self.shards.first()).and_then(|row| row.0.get(index)) {
            cell.fetch_sub(n, Relaxed);
        }
    }

    /// The sum over all shards (wrapping, so that a gauge moved between shards still adds up).
    pub fn sum(&self, index: usize) -> u64 {
        self.shards.iter().filter_map(|row| row.0.get(index)).fold(0, |sum, c| sum.wrapping_add(c.load(Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_add_up_even_when_a_gauge_moves_between_them() {
        let block = Block::<2>::new(3);
        block.add(1, 0, 5);
        block.sub(2, 0, 2);
        assert_eq!((block.sum(0), block.sum(1)), (3, 0));
    }
}
