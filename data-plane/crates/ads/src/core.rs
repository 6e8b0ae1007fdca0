//! What all sources share: the consumer, what it wants, and what it accepted.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use shared_xds::client::Received;
use shared_xds::{KindMap, ResourceKind};
use tokio::sync::{Notify, watch};

use crate::consumer::{Consumer, Event, Raw, Verdict, Wanted};
use crate::last_good::{Kept, Store};
use crate::stats::{ResourceView, Stats};

pub(crate) struct Core {
    consumer: Box<dyn Consumer>,
    wanted: Wanted,
    wanted_changes: watch::Sender<u64>,
    pub(crate) stats: Arc<Stats>,
    store: Option<Store>,
    /// What was accepted and is worth keeping over a restart.
    kept: KindMap<Kept>,
    dirty: Rc<Notify>,
}

pub(crate) type Shared = Rc<RefCell<Core>>;

// Changes come in bursts; a file for each would wear the disk.
const SAVE_AFTER: Duration = Duration::from_secs(1);

impl Core {
    pub(crate) fn new(consumer: Box<dyn Consumer>, wanted: Wanted, stats: Arc<Stats>, store: Option<Store>) -> Self {
        let (wanted_changes, _) = watch::channel(0);
        let kept = store.as_ref().map(Store::load).unwrap_or_default();
        let dirty = Rc::default();
        Self { consumer, wanted, wanted_changes, stats, store, kept, dirty }
    }

    // === what is wanted ===

    pub(crate) fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    pub(crate) fn watch_wanted(&self) -> watch::Receiver<u64> {
        self.wanted_changes.subscribe()
    }

    fn set_wanted(&mut self, wanted: Wanted) {
        if wanted != self.wanted {
            self.wanted = wanted;
            self.wanted_changes.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// See [`Consumer::is_published`].
    pub(crate) fn is_published(&self) -> bool {
        self.consumer.is_published()
    }

    // === events ===

    /// Hands over an event that carries nothing to judge.
    pub(crate) fn tell(&mut self, event: Event) {
        let Verdict { wanted, .. } = self.consumer.on(event);
        self.set_wanted(wanted);
    }

    /// The source of these could not be reached, or read.
    pub(crate) fn failed(&mut self, kind: ResourceKind, names: Vec<String>) {
        self.stats.kind(kind, |stats| stats.update_failure += 1);
        if !names.is_empty() {
            self.tell(Event::Failed { kind, names });
        }
    }

    /// Hands over resources; gives those refused.
    pub(crate) fn update(
        &mut self,
        kind: ResourceKind,
        version: Option<String>,
        upserts: Vec<Raw>,
        removed: Vec<String>,
    ) -> Refused {
        let Verdict { rejected, wanted } = self.consumer.on(Event::Update { kind, version, upserts, removed });
        self.set_wanted(wanted);
        rejected
    }

    /// Hands over a response, and keeps what was accepted.
    pub(crate) fn receive(&mut self, received: &Received) -> Refused {
        let kind = received.kind;
        let raw = |item: &shared_xds::client::Item| Raw {
            name: item.name.clone(),
            version: item.version.clone(),
            any: item.any.clone(),
        };
        let (version, upserts) = (received.version.clone(), received.upserts.iter().map(raw).collect());
        let refused = self.update(kind, Some(version), upserts, received.removed.clone());
        let bad: BTreeSet<&str> = refused.iter().map(|(name, _)| name.as_str()).collect();
        for item in received.upserts.iter().filter(|item| !bad.contains(item.name.as_str())) {
            if item.mortal {
                self.kept[kind].remove(&item.name);
            } else {
                self.kept[kind].insert(item.name.clone(), raw(item));
            }
        }
        for name in &received.removed {
            self.kept[kind].remove(name);
        }
        if !received.upserts.is_empty() || !received.removed.is_empty() {
            self.dirty.notify_one();
        }
        refused
    }

    pub(crate) fn expire(&mut self, kind: ResourceKind, names: Vec<String>) {
        for name in &names {
            self.kept[kind].remove(name);
        }
        let refused = self.update(kind, None, Vec::new(), names);
        debug_assert!(refused.is_empty(), "a removal cannot be refused");
    }

    // === what was kept ===

    pub(crate) fn kept(&self, kind: ResourceKind) -> &Kept {
        &self.kept[kind]
    }

    /// These are no longer wanted, or were no good.
    pub(crate) fn forget(&mut self, kind: ResourceKind, names: &[String]) {
        for name in names {
            self.kept[kind].remove(name);
        }
    }

    /// What is worth keeping: of the kinds asked by name only what is wanted.
    fn worth_keeping(&self) -> KindMap<Kept> {
        KindMap::from_fn(|kind| {
            let mut kept = self.kept[kind].clone();
            if !kind.is_root() {
                let names = self.wanted.names.get(&kind);
                kept.retain(|name, _| names.is_some_and(|names| names.contains(name)));
            }
            kept
        })
    }

    pub(crate) fn drop_kept(&mut self, kind: ResourceKind) {
        self.kept[kind].clear();
    }

    /// Notes in the books what became of a response.
    pub(crate) fn note(&self, received: &Received, refused: &Refused) {
        let now = SystemTime::now();
        let reasons: BTreeMap<&str, &str> = refused.iter().map(|(name, why)| (&**name, &**why)).collect();
        self.stats.kind(received.kind, |stats| {
            stats.update_attempt += 1;
            for item in received.upserts.iter().filter(|item| !reasons.contains_key(&*item.name)) {
                let view = ResourceView { version: item.version.clone(), updated: now, error: None };
                stats.resources.insert(item.name.clone(), view);
            }
            for name in &received.removed {
                stats.resources.remove(name);
            }
            for (name, reason) in refused.iter().filter(|(name, _)| !name.is_empty()) {
                let view = || ResourceView { version: String::new(), updated: now, error: None };
                stats.resources.entry(name.clone()).or_insert_with(view).error = Some(reason.clone());
            }
            if refused.is_empty() {
                stats.update_success += 1;
                stats.version.clone_from(&received.version);
                stats.update_time = Some(now);
                stats.last_error = None;
            } else {
                stats.update_rejected += 1;
                stats.last_error = Some(shared_xds::client::refusal_text(refused));
            }
        });
    }
}

pub(crate) type Refused = Vec<(String, String)>;

/// Writes what was accepted to disk, some time after it changed.
pub(crate) async fn save(core: Shared) {
    let Some(store) = core.borrow().store.clone() else {
        return;
    };
    let dirty = core.borrow().dirty.clone();
    loop {
        dirty.notified().await;
        tokio::time::sleep(SAVE_AFTER).await;
        // Half a revision is never kept: a restart would serve it.
        while !core.borrow().is_published() {
            tokio::time::sleep(SAVE_AFTER).await;
        }
        let kept = core.borrow().worth_keeping();
        let store = store.clone();
        // Waiting for a disk must not hold up anything else on this thread.
        match tokio::task::spawn_blocking(move || store.save(&kept)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last good configuration was not written"),
            Err(error) => tracing::error!(%error, "writing the last good configuration failed"),
        }
    }
}
