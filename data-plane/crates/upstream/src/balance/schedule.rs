//! Turns by weight: round robin that is smooth, exact over a cycle and without a lock.
//!
//! Each worker has a cursor of its own, so that workers never write to one cache line.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Whose turn it is, for each worker.
#[derive(Debug)]
pub(crate) struct Schedule {
    order: Order,
    cursors: Box<[Cursor]>,
}

#[derive(Debug)]
enum Order {
    /// All weights are equal.
    Even(u64),
    /// One whole cycle, earliest deadline first.
    Cycle(Box<[u32]>),
    /// A cycle would be too long to list: running sums of the weights, visited in steps of the golden ratio, which
    /// keeps every prefix of the visits close to the weights.
    Sums(Box<[u64]>),
}

#[derive(Debug)]
#[repr(align(64))]
struct Cursor(AtomicU64);

/// The longest cycle that is listed for `n` entries.
const fn longest_cycle(n: u64) -> u64 {
    let by_entries = n * 8;
    if by_entries > 1024 { by_entries } else { 1024 }
}

/// 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Schedule {
    /// Turns for `weights`, none of which is 0; each of `workers` starts at another place.
    pub(crate) fn build(weights: &[u64], workers: usize) -> Self {
        let cursors = (0..workers.max(1)).map(|_| Cursor(AtomicU64::new(fastrand::u64(..)))).collect();
        Self { order: Order::build(weights), cursors }
    }

    /// The index whose turn it is.
    pub(crate) fn next(&self, worker: usize) -> usize {
        self.at(self.cursor(worker).fetch_add(1, Relaxed))
    }

    /// The index whose turn comes after so many others.
    pub(crate) fn peek(&self, worker: usize, ahead: u64) -> usize {
        self.at(self.cursor(worker).load(Relaxed).wrapping_add(ahead))
    }

    fn cursor(&self, worker: usize) -> &AtomicU64 {
        &self.cursors[worker % self.cursors.len()].0
    }

    fn at(&self, turn: u64) -> usize {
        #[allow(clippy::cast_possible_truncation, reason = "an index below the number of entries")]
        match &self.order {
            Order::Even(count) => (turn % count) as usize,
            Order::Cycle(list) => list[(turn % list.len() as u64) as usize] as usize,
            Order::Sums(sums) => {
                let total = u128::from(sums.last().copied().unwrap_or(1));
                let point = ((u128::from(turn.wrapping_mul(GOLDEN)) * total) >> 64) as u64;
                sums.partition_point(|sum| *sum <= point)
            }
        }
    }
}

impl Order {
    fn build(weights: &[u64]) -> Self {
        let count = weights.len() as u64;
        if weights.windows(2).all(|pair| pair[0] == pair[1]) {
            return Self::Even(count.max(1));
        }
        let divisor = weights.iter().copied().fold(0, gcd).max(1);
        let cycle: u64 = weights.iter().map(|w| w / divisor).fold(0, u64::saturating_add);
        if cycle <= longest_cycle(count) {
            return Self::Cycle(earliest_deadline_first(weights, cycle));
        }
        let mut sum = 0;
        Self::Sums(
            weights
                .iter()
                .map(|w| {
                    sum += w;
                    sum
                })
                .collect(),
        )
    }
}

/// One cycle in which each entry comes as often as its weight says, spread out evenly.
fn earliest_deadline_first(weights: &[u64], cycle: u64) -> Box<[u32]> {
    // Deadlines are n / weight for the n-th turn, compared exactly: as (n, weight) by cross-multiplication.
    #[derive(PartialEq, Eq)]
    struct Turn {
        nth: u64,
        weight: u64,
        index: u32,
    }
    impl Ord for Turn {
        fn cmp(&self, other: &Self) -> std::cmp::Ordering {
            let left = u128::from(self.nth) * u128::from(other.weight);
            let right = u128::from(other.nth) * u128::from(self.weight);
            left.cmp(&right).then(self.index.cmp(&other.index))
        }
    }
    impl PartialOrd for Turn {
        fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
            Some(self.cmp(other))
        }
    }
    let turns = (0..).zip(weights).map(|(index, &weight)| Reverse(Turn { nth: 1, weight, index }));
    let mut heap: BinaryHeap<_> = turns.collect();
    (0..cycle)
        .map_while(|_| {
            let Reverse(turn) = heap.pop()?;
            let index = turn.index;
            heap.push(Reverse(Turn { nth: turn.nth + 1, ..turn }));
            Some(index)
        })
        .collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
