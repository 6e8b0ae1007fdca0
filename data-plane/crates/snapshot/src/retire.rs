//! What the old snapshot had and the new one lacks: drained, and cut when the drain time is over.
//!
//! A filter chain that stayed the same keeps its connections, whatever else changed around it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use shared_config::listener::TrafficDirection;
use stdx::drain::{Drain, Phase};
use tokio::time::Instant;

use crate::runtime::{FilterChain, Snapshot};

/// What is no more, and still in use.
#[derive(Default)]
pub(crate) struct Retiring {
    /// Chains that drain, with the moment at which their last connections are cut.
    chains: Vec<(Drain, Instant)>,
    /// Kept until this is the last one who has them: to free ten thousand endpoints takes milliseconds, which the
    /// control thread has and a worker has not.
    snapshots: Vec<Arc<Snapshot>>,
}

fn chains(snapshot: &Snapshot) -> HashMap<u64, &Arc<FilterChain>> {
    snapshot.listeners().iter().flat_map(|listener| listener.chains()).map(|chain| (chain.id, chain)).collect()
}

impl Retiring {
    /// Starts to drain the chains that `new` does not have any more.
    pub(crate) fn retire(&mut self, old: Arc<Snapshot>, new: &Snapshot, drain_time: Duration, now: Instant) {
        let kept = chains(new);
        for (id, chain) in chains(&old) {
            if !kept.contains_key(&id) {
                chain.drain.advance(Phase::Draining);
                self.chains.push((chain.drain.clone(), now + drain_time));
            }
        }
        self.forget();
        self.snapshots.push(old);
    }

    /// Frees the snapshots that nobody else has any more.
    pub(crate) fn forget(&mut self) {
        self.snapshots.retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }

    /// Cuts the connections that have drained long enough.
    pub(crate) fn cut(&mut self, now: Instant) {
        self.chains.retain(|(drain, until)| {
            let over = *until <= now;
            if over {
                drain.advance(Phase::Now);
            }
            !over && drain.running() > 0
        });
    }
}

/// Drains the listeners themselves (`/drain_listeners`, SIGTERM).
pub(crate) fn drain_listeners(snapshot: &Snapshot, inbound_only: bool) {
    for listener in snapshot.listeners() {
        if !inbound_only || listener.config.traffic_direction == TrafficDirection::Inbound {
            for chain in listener.chains() {
                chain.drain.advance(Phase::Draining);
            }
        }
    }
}
