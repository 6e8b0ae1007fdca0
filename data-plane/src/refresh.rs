//! Makes the tables of clusters anew when something changed outside of a configuration push.
//!
//! The one place that does: health checks, outlier detection and whatever else changes an endpoint's flags tell
//! `ClusterState::health_changed` from any thread; what changes with time answers `Cluster::next_refresh`. One task, on
//! the control thread.

use std::time::Duration;

use dp_snapshot::Snapshot;
use dp_upstream::refresh::Bell;
use stdx::live::Live;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::control::until;

/// At most one round in this time, however often something changes. The first change is acted upon at once.
const PACE: Duration = Duration::from_millis(10);

/// Refreshes the clusters that serve, for ever.
pub(crate) async fn follow(live: Live<Snapshot>, bell: Bell, mut published: watch::Receiver<u64>) {
    loop {
        let next = round(&live.load(), Instant::now());
        tokio::select! {
            () = bell.rung() => {}
            // A version that waited before it was published may have missed changes.
            changed = published.changed() => if changed.is_err() { return },
            () = until(next) => {}
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Refreshes what is stale or due; when the next cluster is due.
fn round(snapshot: &Snapshot, now: Instant) -> Option<Instant> {
    let mut next: Option<Instant> = None;
    for cluster in snapshot.clusters() {
        if cluster.is_stale() || cluster.next_refresh().is_some_and(|due| due <= now) {
            cluster.refresh();
        }
        next = [next, cluster.next_refresh()].into_iter().flatten().min();
    }
    next
}
