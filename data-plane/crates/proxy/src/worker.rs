//! One worker: what a thread owns, and nothing that two threads share without saying so.
//!
//! The counters, pools and random numbers here are this thread's alone. A connection never leaves its worker.

use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use dp_snapshot::Snapshot;
use dp_upstream::Pools;
use stdx::drain::{Drain, Phase};
use stdx::live::Reader;
use tokio::sync::watch;

use crate::budget::Budget;
use crate::listener;

/// What a worker is given when it starts.
pub struct WorkerSetup {
    /// 1 for the first worker; 0 is the control thread.
    pub shard: usize,
    pub snapshots: Reader<Snapshot>,
    /// Changes whenever a snapshot was published.
    pub published: watch::Receiver<u64>,
    /// The whole process drains.
    pub drain: Drain,
    /// The most connections of clients; no limit without.
    pub budget: Option<Arc<Budget>>,
}

/// One thread's own state; connections and streams hold it by `Rc`.
pub(crate) struct Worker {
    pub(crate) shard: usize,
    snapshots: RefCell<Reader<Snapshot>>,
    pub(crate) pools: Pools,
    pub(crate) drain: Drain,
    pub(crate) budget: Option<Arc<Budget>>,
    rng: RefCell<fastrand::Rng>,
    next_id: Cell<u64>,
}

/// Runs one worker on this thread until its drain is over.
///
/// # Errors
/// The runtime cannot be made.
pub fn run(setup: WorkerSetup) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Sockets are polled again after this many task polls, so that a busy connection does not starve accepting.
        .event_interval(61)
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(serve(setup));
    Ok(())
}

async fn serve(setup: WorkerSetup) {
    let ended = setup.drain.reached(Phase::Now);
    let worker = Rc::new(Worker {
        shard: setup.shard,
        snapshots: RefCell::new(setup.snapshots),
        pools: Pools::new(setup.shard - 1),
        drain: setup.drain,
        budget: setup.budget,
        rng: RefCell::default(),
        next_id: Cell::new(0),
    });
    tokio::task::spawn_local(worker.pools.clone().maintain());
    tokio::task::spawn_local(flush_logs());
    let following = tokio::task::spawn_local(listener::follow(Rc::clone(&worker), setup.published));
    ended.await;
    following.abort();
    dp_observe::access_log::writer::flush();
}

/// Hands over what this worker's access logs collected, once a second.
async fn flush_logs() {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        dp_observe::access_log::writer::flush();
    }
}

// === impl Worker ===

impl Worker {
    /// The snapshot of this moment: one atomic load while nothing changed.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(self.snapshots.borrow_mut().get())
    }

    /// The number of this worker, from 0.
    pub(crate) fn index(&self) -> usize {
        self.shard - 1
    }

    /// This worker's random numbers; hold the guard for one use.
    pub(crate) fn rng(&self) -> RefMut<'_, fastrand::Rng> {
        self.rng.borrow_mut()
    }

    /// An id that no other connection or stream of the process has.
    pub(crate) fn next_id(&self) -> u64 {
        let n = self.next_id.get();
        self.next_id.set(n + 1);
        dp_http::info::ConnectionInfo::id(self.shard, n)
    }
}
