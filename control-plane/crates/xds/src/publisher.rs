//! What each group and class of clients is to have, and the quiet moment after which they are told.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cp_fleet::Class;
use dashmap::DashMap;
use shared_xds::Snapshot;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::resource::Res;

/// How long changes are collected before streams see them.
#[derive(Debug, Clone, Copy)]
pub struct Debounce {
    /// After this much time without a change.
    pub quiet: Duration,
    /// And after this much time in any case.
    pub most: Duration,
}

impl Default for Debounce {
    fn default() -> Self {
        Self { quiet: Duration::from_millis(10), most: Duration::from_millis(100) }
    }
}

type Key = (String, Class);

/// Where snapshots are put for the streams. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Publisher {
    slots: Arc<DashMap<Key, Arc<Slot>>>,
    debounce: Debounce,
}

#[derive(Debug)]
struct Slot {
    waiting: Mutex<Waiting>,
    streams: watch::Sender<Option<Arc<Snapshot>>>,
}

#[derive(Debug, Default)]
struct Waiting {
    latest: Option<Arc<Snapshot>>,
    /// First and last change that streams have not seen.
    unseen: Option<(Instant, Instant)>,
}

impl Default for Publisher {
    fn default() -> Self {
        Self::new(Debounce::default())
    }
}

impl Publisher {
    pub fn new(debounce: Debounce) -> Self {
        Self { slots: Arc::default(), debounce }
    }

    /// From now on the clients of this class in `group` are to have exactly these resources. Resources that did not
    /// change cost nothing, not even an encoding. Must be called within a tokio runtime.
    pub fn publish(&self, group: &str, class: Class, resources: Vec<Res>, revision: u64) {
        let slot = self.slot(group, class);
        let mut waiting = slot.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let first = waiting.latest.is_none();
        let before = waiting.latest.clone().unwrap_or_default();
        waiting.latest = Some(Arc::new(Snapshot::following(&before, revision, resources)));
        if first {
            slot.streams.send_replace(waiting.latest.clone());
            return;
        }
        let now = Instant::now();
        let started = waiting.unseen.is_some();
        waiting.unseen = Some((waiting.unseen.map_or(now, |(first, _)| first), now));
        drop(waiting);
        if !started {
            tokio::spawn(tell(slot, self.debounce));
        }
    }

    /// The latest snapshot of a group, whether streams have seen it or not.
    pub fn latest(&self, group: &str, class: Class) -> Option<Arc<Snapshot>> {
        let slot = self.slots.get(&(group.to_owned(), class))?.clone();
        let waiting = slot.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.latest.clone()
    }

    pub(crate) fn watch(&self, group: &str, class: Class) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.slot(group, class).streams.subscribe()
    }

    fn slot(&self, group: &str, class: Class) -> Arc<Slot> {
        let new = || Arc::new(Slot { waiting: Mutex::default(), streams: watch::channel(None).0 });
        self.slots.entry((group.to_owned(), class)).or_insert_with(new).clone()
    }
}

/// Waits until it is quiet, then shows the latest to the streams.
async fn tell(slot: Arc<Slot>, debounce: Debounce) {
    loop {
        let unseen = slot.waiting.lock().unwrap_or_else(PoisonError::into_inner).unseen;
        let Some((first, last)) = unseen else {
            return;
        };
        let due = (last + debounce.quiet).min(first + debounce.most);
        if Instant::now() < due {
            tokio::time::sleep_until(due).await;
            continue;
        }
        let mut waiting = slot.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // A change that came since is shown too, and starts no new wait.
        waiting.unseen = None;
        slot.streams.send_replace(waiting.latest.clone());
        return;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(content: u32) -> Vec<Res> {
        let cluster = proto::envoy::config::cluster::v3::Cluster {
            name: "a".to_owned(),
            per_connection_buffer_limit_bytes: Some(content),
            ..Default::default()
        };
        vec![crate::resource(proto::Any::pack(&cluster)).expect("valid")]
    }

    fn revision(watch: &watch::Receiver<Option<Arc<Snapshot>>>) -> Option<u64> {
        watch.borrow().as_ref().map(|snapshot| snapshot.revision)
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_shown_once_when_it_is_quiet() {
        let publisher = Publisher::default();
        let watch = publisher.watch("edge", Class::Weir);
        assert_eq!(revision(&watch), None);
        publisher.publish("edge", Class::Weir, cluster(1), 1);
        assert_eq!(revision(&watch), Some(1), "the first is not delayed");
        for number in 2..5 {
            publisher.publish("edge", Class::Weir, cluster(number), u64::from(number));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(revision(&watch), Some(1));
        tokio::time::sleep(Duration::from_millis(6)).await;
        assert_eq!(revision(&watch), Some(4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_without_end_is_shown_at_the_latest_after_the_bound() {
        let publisher = Publisher::default();
        let watch = publisher.watch("edge", Class::Envoy);
        for number in 1..=25 {
            publisher.publish("edge", Class::Envoy, cluster(number), u64::from(number));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(revision(&watch).is_some_and(|shown| shown >= 20), "{:?}", revision(&watch));
    }
}
