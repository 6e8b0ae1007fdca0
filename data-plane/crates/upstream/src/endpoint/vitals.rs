//! What picks read of endpoints, packed: four of them share a cache line, so that those of a large cluster stay in the
//! cache of a core, where an endpoint that is drawn by chance is not.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use crate::balance::latency::Latency;

/// What changes of an endpoint with every request, and its health.
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    /// Requests in progress on all workers.
    pub active: AtomicU32,
    /// See [`Flag`](super::Flag).
    pub flags: AtomicU32,
    pub latency: Latency,
}

/// The vitals of one endpoint; another one may have them when this is dropped.
#[derive(Debug)]
pub(super) struct Held(pub &'static Vitals);

#[derive(Debug, Default)]
#[repr(align(64))]
struct Line([Vitals; 4]);

/// Lines that are made at once. As many endpoints in a row have a line of their own.
const LINES: usize = 256;

/// Vitals that nobody has; memory that was taken for them is kept.
static FREE: Mutex<Vec<&'static Vitals>> = Mutex::new(Vec::new());

// === impl Vitals ===

impl Vitals {
    pub(crate) fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }
}

// === impl Held ===

impl Default for Held {
    fn default() -> Self {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        if free.is_empty() {
            let lines: Vec<Line> = (0..LINES).map(|_| Line::default()).collect();
            let lines: &'static [Line] = Box::leak(lines.into());
            // The last ones are taken first: the first of each line, then the second of each line.
            free.extend((0..4).rev().flat_map(|at| lines.iter().rev().map(move |line| &line.0[at])));
        }
        Self(free.pop().unwrap_or_else(|| Box::leak(Box::default())))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.active.store(0, Relaxed);
        self.0.flags.store(0, Relaxed);
        self.0.latency.reset();
        FREE.lock().unwrap_or_else(PoisonError::into_inner).push(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_share_a_line_and_neighbours_do_not() {
        assert_eq!(size_of::<Line>(), 64);
        let line = |held: &Held| std::ptr::from_ref(held.0) as usize / 64;
        // Other tests take some meanwhile; two in a row are in one line only where a page begins anew.
        let all: Vec<Held> = (0..2 * LINES).map(|_| Held::default()).collect();
        let beside = all.windows(2).filter(|pair| line(&pair[0]) == line(&pair[1])).count();
        assert!(beside < 16, "{beside}");
    }

    #[test]
    fn what_one_endpoint_left_the_next_does_not_find() {
        for _ in 0..100 {
            let held = Held::default();
            assert_eq!(held.0.active.fetch_add(7, Relaxed), 0);
            assert_eq!(held.0.flags.fetch_or(7, Relaxed), 0);
            assert_eq!(held.0.latency.average(), None);
        }
    }
}
