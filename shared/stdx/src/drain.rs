//! Graceful drain: a signal that goes from "serving" to "draining" to "now", and a count of what is still running.

use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use slab::Slab;
use tokio::sync::Notify;

/// How far a shutdown has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum Phase {
    #[default]
    Serving,
    /// No new work; what runs may finish.
    Draining,
    /// What still runs is cut.
    Now,
}

/// Starts and watches a drain. Clones share one state.
#[derive(Debug, Clone, Default)]
pub struct Drain(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// A [`Phase`]. Changes only while `waiting` is locked.
    phase: AtomicU8,
    waiting: Mutex<Slab<Waker>>,
    running: AtomicUsize,
    idle: Notify,
}

/// Something that must end before a drain is complete; dropping it says so.
#[derive(Debug)]
pub struct Guard(Drain);

/// Resolves once a drain has come to a phase, and from then on always. Polled again by the same task it costs one
/// atomic load, because it stays registered.
#[derive(Debug)]
pub struct Reached {
    drain: Drain,
    phase: Phase,
    registered: Option<(usize, Waker)>,
}

// === impl Drain ===

impl Drain {
    /// Moves on to `phase`; a drain never goes back.
    pub fn advance(&self, phase: Phase) {
        let waiting = self.0.waiting();
        if self.0.phase.fetch_max(phase as u8, Ordering::AcqRel) < phase as u8 {
            waiting.iter().for_each(|(_, waker)| waker.wake_by_ref());
        }
    }

    pub fn phase(&self) -> Phase {
        match self.0.phase.load(Ordering::Acquire) {
            0 => Phase::Serving,
            1 => Phase::Draining,
            _ => Phase::Now,
        }
    }

    /// Waits until the drain has come to `phase`.
    pub fn reached(&self, phase: Phase) -> Reached {
        Reached { drain: self.clone(), phase, registered: None }
    }

    /// Counts one more running thing until the guard is dropped.
    pub fn guard(&self) -> Guard {
        self.0.running.fetch_add(1, Ordering::AcqRel);
        Guard(self.clone())
    }

    /// How many guards are alive.
    pub fn running(&self) -> usize {
        self.0.running.load(Ordering::Acquire)
    }

    /// Resolves when no guard is alive.
    pub async fn idle(&self) {
        loop {
            let notified = self.0.idle.notified();
            if self.running() == 0 {
                return;
            }
            notified.await;
        }
    }
}

impl State {
    fn waiting(&self) -> MutexGuard<'_, Slab<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Guard ===

impl Drop for Guard {
    fn drop(&mut self) {
        let state = &*self.0.0;
        if state.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            state.idle.notify_waiters();
        }
    }
}

// === impl Reached ===

impl Future for Reached {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.drain.phase() >= this.phase {
            return Poll::Ready(());
        }
        if this.registered.as_ref().is_some_and(|(_, waker)| waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        let mut waiting = this.drain.0.waiting();
        if this.drain.phase() >= this.phase {
            return Poll::Ready(());
        }
        let key = match this.registered.take() {
            Some((key, _)) => {
                waiting[key].clone_from(cx.waker());
                key
            }
            None => waiting.insert(cx.waker().clone()),
        };
        this.registered = Some((key, cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Reached {
    fn drop(&mut self) {
        if let Some((key, _)) = self.registered.take() {
            self.drain.0.waiting().remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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

    #[tokio::test(start_paused = true)]
    async fn a_phase_wakes_those_who_wait_for_it_through_the_phases_before() {
        let drain = Drain::default();
        let wait = |phase| tokio::spawn(drain.reached(phase));
        let (draining, now) = (wait(Phase::Draining), wait(Phase::Now));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(drain.0.waiting().len(), 2);
        drain.advance(Phase::Draining);
        draining.await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(!now.is_finished());
        drain.advance(Phase::Now);
        now.await.unwrap();
        // Who comes late does not wait, and nobody stays behind.
        drain.reached(Phase::Draining).await;
        assert!(drain.0.waiting().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_moves_to_another_task_wakes_that_one() {
        let drain = Drain::default();
        let mut reached = drain.reached(Phase::Now);
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut reached).await.is_err());
        let moved = tokio::spawn(reached);
        tokio::time::sleep(Duration::from_millis(1)).await;
        drain.advance(Phase::Now);
        moved.await.unwrap();
    }
}
