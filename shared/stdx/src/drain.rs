//! Graceful drain: a signal that goes from "serving" to "draining" to "now", and a count of what is still running.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, watch};

/// How far a shutdown has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Phase {
    #[default]
    Serving,
    /// No new work; what runs may finish.
    Draining,
    /// What still runs is cut.
    Now,
}

/// Starts and watches a drain. Clones share one state.
#[derive(Debug, Clone)]
pub struct Drain {
    phase: watch::Sender<Phase>,
    running: Arc<Running>,
}

#[derive(Debug, Default)]
struct Running {
    count: AtomicUsize,
    idle: Notify,
}

/// Something that must end before a drain is complete; dropping it says so.
#[derive(Debug)]
pub struct Guard(Arc<Running>);

// === impl Drain ===

impl Default for Drain {
    fn default() -> Self {
        Self { phase: watch::Sender::new(Phase::Serving), running: Arc::default() }
    }
}

impl Drain {
    /// Moves on to `phase`; a drain never goes back.
    pub fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let later = phase > *now;
            if later {
                *now = phase;
            }
            later
        });
    }

    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Follows the phase.
    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Counts one more running thing until the guard is dropped.
    pub fn guard(&self) -> Guard {
        self.running.count.fetch_add(1, Ordering::AcqRel);
        Guard(Arc::clone(&self.running))
    }

    /// How many guards are alive.
    pub fn running(&self) -> usize {
        self.running.count.load(Ordering::Acquire)
    }

    /// Resolves when no guard is alive.
    pub async fn idle(&self) {
        loop {
            let notified = self.running.idle.notified();
            if self.running() == 0 {
                return;
            }
            notified.await;
        }
    }
}

// === impl Guard ===

impl Drop for Guard {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drain_waits_for_what_runs_and_never_goes_back() {
        let drain = Drain::default();
        let guard = drain.guard();
        drain.advance(Phase::Draining);
        drain.advance(Phase::Serving);
        assert_eq!((drain.phase(), drain.running()), (Phase::Draining, 1));
        let waiting = tokio::spawn({
            let drain = drain.clone();
            async move { drain.idle().await }
        });
        drop(guard);
        waiting.await.unwrap();
    }
}
