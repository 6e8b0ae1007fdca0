//! Asks endpoints for reports of their load, for the clusters that serve and are balanced by them.

use dp_snapshot::Snapshot;
use dp_upstream::orca::stream::Reports;
use stdx::live::Live;
use tokio::sync::watch;

/// Follows the snapshots, for ever.
pub(crate) async fn follow(live: Live<Snapshot>, mut published: watch::Receiver<u64>) {
    let mut reports = Reports::default();
    loop {
        reports.update(live.load().clusters().cloned());
        if published.changed().await.is_err() {
            return;
        }
    }
}
