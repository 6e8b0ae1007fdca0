//! decode → **compile → warm → publish → retire**: when a change becomes visible.
//!
//! The engine lives on the control thread. It keeps the newest good version of every resource, compiles what changed,
//! waits until what is new can serve, and publishes a whole snapshot by one pointer. Nothing it does before publishing
//! can be seen by a request.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dp_upstream::Cluster;
use shared_config::cluster::Discovery;
use shared_config::endpoint::Assignment;
use shared_config::resource::Resource;
use stdx::live::Live;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::compile::members::{self, Members, Standing};
use crate::compile::{self, Environment, Refusal, Resolved};
use crate::counts::Counts;
use crate::resources::{Kind, Origin, Resources};
use crate::retire::Retiring;
use crate::runtime::{Listener, Snapshot};
use crate::subscriptions::{Subscriptions, Told};
use crate::wanted::{self, Wanted};

/// How long a new part may wait for what it needs before the snapshot goes on without it (Envoy
/// `initial_fetch_timeout`).
const WARM_LIMIT: Duration = Duration::from_secs(15);

/// Compiles and publishes snapshots.
pub struct Engine {
    counts: Counts,
    environment: Environment,
    resources: Resources,
    subscriptions: Subscriptions,
    /// The part that is compiled, by name, and what it was compiled from.
    clusters: BTreeMap<String, Part<Cluster, compile::ClusterInputs>>,
    listeners: BTreeMap<String, Part<Listener, compile::ListenerInputs>>,
    /// Names that a source said it does not have, or did not answer for in time.
    missing: BTreeSet<(Kind, String)>,
    /// When endpoints count as gone unless they are confirmed.
    stale_at: BTreeMap<String, Instant>,
    /// A transaction is open: nothing is published until it ends.
    held: Option<u64>,
    /// When its source went away in the middle of it.
    lost: Option<Instant>,
    revision: Option<u64>,
    /// Half of a transaction was published, since its source did not come back with the rest.
    partial: bool,
    generation: u64,
    live: Live<Snapshot>,
    published: watch::Sender<u64>,
    retiring: Retiring,
    dirty: bool,
}

/// A compiled part with its inputs.
struct Part<T, I> {
    /// What serves now; `None` while the first version is warming or was refused.
    serving: Option<Arc<T>>,
    /// Compiled, and not yet what takes the place of the one that serves.
    warming: Option<Arc<T>>,
    inputs: Option<I>,
    /// When the version that is not serving yet began to wait.
    waiting_since: Option<Instant>,
    /// Why the newest version was refused.
    refused: Option<String>,
}

/// What came of settling.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Settled {
    /// The newest version of these was refused; the one before stays.
    pub refused: Vec<(Kind, String, String)>,
    /// A snapshot was published.
    pub published: bool,
    /// Parts that wait for something.
    pub warming: usize,
}

// === impl Part ===

impl<T, I> Default for Part<T, I> {
    fn default() -> Self {
        Self { serving: None, warming: None, inputs: None, waiting_since: None, refused: None }
    }
}

/// Whether a compiled part can take the place of the one that serves.
trait Warm {
    fn is_warm(&self) -> bool;
}

impl Warm for Cluster {
    fn is_warm(&self) -> bool {
        Cluster::is_warm(self)
    }
}

impl Warm for Listener {
    fn is_warm(&self) -> bool {
        true
    }
}

impl<T: Warm, I: PartialEq> Part<T, I> {
    /// Compiles these inputs, unless they are what the part is made from or still lack something. Whether another
    /// version serves now. `patient`: also a first version has to be warm.
    fn settle(
        &mut self,
        (kind, name): (Kind, &str),
        inputs: I,
        (lacks, patient): (bool, bool),
        now: Instant,
        settled: &mut Settled,
        compile: impl FnOnce(&I, Option<&Arc<T>>) -> Result<T, Refusal>,
    ) -> bool {
        let same = self.inputs.as_ref() == Some(&inputs);
        if !same || (self.waiting_since.is_some() && self.warming.is_none()) {
            if !self.may_go_on(lacks, now) {
                settled.warming += 1;
                self.warming = None;
                self.inputs = Some(inputs);
                return false;
            }
            let previous = self.warming.as_ref().or(self.serving.as_ref());
            match compile(&inputs, previous) {
                Ok(compiled) => {
                    self.warming = Some(Arc::new(compiled));
                    self.refused = None;
                }
                Err(Refusal(reason)) => {
                    self.warming = None;
                    self.refused = Some(reason);
                }
            }
            self.inputs = Some(inputs);
        }
        if let Some(reason) = &self.refused {
            settled.refused.push((kind, name.to_owned(), reason.clone()));
        }
        self.warm_up(patient, now, settled)
    }

    /// Lets the version that warms serve, when it is warm or has waited long enough.
    fn warm_up(&mut self, patient: bool, now: Instant, settled: &mut Settled) -> bool {
        let Some(warming) = self.warming.take() else { return false };
        // Without an older version that serves meanwhile, a cold one is better than none.
        let waits = !warming.is_warm() && (patient || self.serving.is_some());
        if !self.may_go_on(waits, now) {
            settled.warming += 1;
            self.warming = Some(warming);
            return false;
        }
        self.serving = Some(warming);
        true
    }

    /// Whether the part can go on: it lacks nothing, or has waited long enough.
    fn may_go_on(&mut self, lacks: bool, now: Instant) -> bool {
        if !lacks {
            self.waiting_since = None;
            return true;
        }
        let since = *self.waiting_since.get_or_insert(now);
        if now.duration_since(since) < WARM_LIMIT {
            return false;
        }
        self.waiting_since = None;
        true
    }
}

// === impl Engine ===

impl Engine {
    pub fn new(environment: Environment) -> Self {
        Self {
            counts: Counts::register(&environment.registry),
            subscriptions: Subscriptions::new(&environment.registry),
            environment,
            resources: Resources::default(),
            clusters: BTreeMap::new(),
            listeners: BTreeMap::new(),
            missing: BTreeSet::new(),
            stale_at: BTreeMap::new(),
            held: None,
            lost: None,
            revision: None,
            partial: false,
            generation: 0,
            live: Live::new(Snapshot::default()),
            published: watch::Sender::new(0),
            retiring: Retiring::default(),
            dirty: true,
        }
    }

    /// Where workers read snapshots.
    pub fn live(&self) -> &Live<Snapshot> {
        &self.live
    }

    /// Changes with every publication.
    pub fn published(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }

    /// A resource came; says whether it is another one than before.
    pub fn put(&mut self, origin: Origin, resource: Resource) -> bool {
        self.missing.remove(&(Kind::of(&resource), resource.name().to_owned()));
        self.note_confirmed(&resource);
        if let Resource::Cluster(cluster) = &resource {
            self.subscriptions.follow(cluster);
        }
        let changed = self.resources.put(origin, resource);
        self.dirty |= changed;
        changed
    }

    /// Counts what became of asking for the endpoints `name`.
    pub fn endpoints_told(&self, name: &str, told: Told<'_>) {
        self.subscriptions.note(name, told);
    }

    /// Endpoints that have to be confirmed now and then were.
    fn note_confirmed(&mut self, resource: &Resource) {
        let Resource::Endpoints(endpoints) = resource else { return };
        match endpoints.stale_after {
            Some(limit) => self.stale_at.insert(endpoints.cluster.clone(), Instant::now() + limit),
            None => self.stale_at.remove(&endpoints.cluster),
        };
    }

    /// Empties the assignments that nobody confirmed in time (`endpoint_stale_after`).
    fn drop_stale(&mut self, now: Instant) {
        let stale: Vec<String> =
            self.stale_at.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
        for cluster in stale {
            self.stale_at.remove(&cluster);
            tracing::warn!(cluster, "its endpoints were not confirmed in time and are dropped");
            for part in self.clusters.values().filter_map(|part| part.serving.as_ref()) {
                if matches!(&part.config.discovery, Discovery::Eds(eds) if eds.service == cluster) {
                    part.state.stats.assignment_stale().inc(0);
                }
            }
            let nothing = Assignment { cluster, ..Assignment::of(Vec::new()) };
            self.dirty |= self.resources.put(Origin::Dynamic, Resource::Endpoints(Box::new(nothing)));
        }
    }

    /// A resource is gone. Endpoints, routes, secrets and filters that something still names stay as they were.
    pub fn remove(&mut self, kind: Kind, name: &str) {
        let keep = !matches!(kind, Kind::Cluster | Kind::Listener);
        if keep && self.wanted().has(kind, name) {
            self.missing.insert((kind, name.to_owned()));
        } else {
            self.dirty |= self.resources.remove(kind, name);
        }
        if kind == Kind::Cluster && self.resources.clusters.get(name).is_none() {
            self.subscriptions.forget(name);
        }
        self.dirty = true;
    }

    /// A source does not have these, or did not answer in time.
    pub fn not_found(&mut self, kind: Kind, names: impl IntoIterator<Item = String>) {
        self.missing.extend(names.into_iter().map(|name| (kind, name)));
        self.dirty = true;
    }

    /// Holds publication back until [`Engine::end`]: what comes in between is one change.
    pub fn begin(&mut self, revision: u64) {
        self.held = Some(revision);
        self.lost = None;
    }

    /// All of a revision came.
    pub fn end(&mut self, revision: u64) {
        self.held = None;
        self.lost = None;
        self.revision = Some(revision);
        self.partial = false;
        self.dirty = true;
    }

    /// Whether all that came serves, and is no half of a transaction.
    pub fn is_published(&self) -> bool {
        self.held.is_none() && !self.dirty && !self.partial
    }

    /// The source went away, perhaps in the middle of a transaction. Half of one is not published while the source may
    /// soon tell the rest; but it cannot hold up for long what comes from elsewhere (names, certificates), so that
    /// after a while what came stands on its own.
    pub fn abandon(&mut self, now: Instant) {
        if self.held.is_some() {
            self.lost.get_or_insert(now);
        }
    }

    /// Endpoints of a cluster that were found by DNS.
    pub fn resolved(&mut self, cluster: &str, endpoints: Resolved) {
        let old = self.environment.resolved.insert(cluster.to_owned(), Arc::clone(&endpoints));
        self.dirty |= old.as_ref() != Some(&endpoints);
    }

    /// An endpoint that service discovery no longer has, and that stayed because it was healthy, is not healthy any more.
    pub fn endpoint_left(&mut self, cluster: &str) {
        *self.environment.left.entry(cluster.to_owned()).or_default() += 1;
        self.dirty = true;
    }

    /// The versions of clusters whose endpoints may have to be checked: what serves, and then what warms.
    pub fn checked_clusters(&self) -> Vec<Arc<Cluster>> {
        let versions = self.clusters.values().flat_map(|part| part.serving.iter().chain(&part.warming));
        versions.filter(|cluster| cluster.config.health_check.is_some()).cloned().collect()
    }

    /// Whether a cluster that waited for health checks is warm now; settle then.
    pub fn has_warmed(&mut self) -> bool {
        let warm = self.clusters.values().any(|part| part.warming.as_ref().is_some_and(|cluster| cluster.is_warm()));
        self.dirty |= warm;
        warm
    }

    /// Reads certificates and other files again: `all`, or those that changed. Says whether there is any.
    pub fn reload_files(&mut self, all: bool) -> bool {
        let files = &mut self.environment.files;
        let changed = if all { files.forget() } else { files.forget_changed() };
        self.dirty |= changed;
        changed
    }

    /// The names that the resources refer to, for those who fetch them.
    pub fn wanted(&self) -> Wanted {
        wanted::of(&self.resources, |_, _| false)
    }

    /// The same without what is referred to by the resources of which `skip` says so.
    pub fn wanted_without(&self, skip: impl Fn(Kind, &str) -> bool) -> Wanted {
        wanted::of(&self.resources, skip)
    }

    /// The clusters that DNS has to resolve.
    pub fn dns_clusters(&self) -> impl Iterator<Item = &Arc<shared_config::cluster::Cluster>> {
        self.resources.clusters.iter().map(|(_, cluster)| cluster).filter(|cluster| cluster.discovery.is_dns())
    }

    /// When something that waits has waited long enough.
    pub fn next_deadline(&self) -> Option<Instant> {
        let clusters = self.clusters.values().filter_map(|part| part.waiting_since);
        let listeners = self.listeners.values().filter_map(|part| part.waiting_since);
        let waiting = clusters.chain(listeners).chain(self.lost).min().map(|since| since + WARM_LIMIT);
        waiting.into_iter().chain(self.stale_at.values().copied()).min()
    }

    /// Compiles what changed and publishes what can serve. Call after every batch of changes, and at the deadline.
    pub fn settle(&mut self, now: Instant) -> Settled {
        let mut settled = Settled::default();
        if self.lost.is_some_and(|since| now.duration_since(since) >= WARM_LIMIT) {
            (self.lost, self.held, self.dirty, self.partial) = (None, None, true, true);
        }
        self.drop_stale(now);
        if !self.dirty && self.next_deadline().is_none_or(|deadline| deadline > now) {
            return settled;
        }
        self.dirty = false;
        let mut changed = self.settle_clusters(now, &mut settled);
        // A new listener opens when the clusters do, so that its first requests find them (Envoy's initialization).
        let hold = self.clusters.values().any(|part| part.serving.is_none() && part.waiting_since.is_some());
        changed |= self.settle_listeners(hold, now, &mut settled);
        self.counts.warming(self.warming(Kind::Cluster).len(), self.warming(Kind::Listener).len());
        if self.held.is_some() {
            self.dirty = true;
        } else if changed || self.generation == 0 || self.live.load().revision != self.revision {
            // One revision is one snapshot: while parts of it warm, all of the old one serves.
            if self.revision.is_none() || settled.warming == 0 {
                self.publish(now);
                settled.published = true;
            } else {
                self.dirty = true;
            }
        }
        settled
    }

    fn settle_clusters(&mut self, now: Instant, settled: &mut Settled) -> bool {
        let mut changed = false;
        // Under a revision all of the old snapshot serves until all of the new one can.
        let patient = self.revision.is_some() || self.held.is_some();
        let gone: Vec<String> =
            self.clusters.keys().filter(|name| self.resources.clusters.get(name).is_none()).cloned().collect();
        for name in gone {
            self.clusters.remove(&name);
            self.environment.resolved.remove(&name);
            self.environment.left.remove(&name);
            changed = true;
        }
        for config in members::in_order(&self.resources) {
            let name = config.name.to_string();
            let standing = |name: &str| match self.clusters.get(name) {
                Some(Part { serving: Some(cluster), .. }) => Standing::Serving(Arc::clone(cluster)),
                Some(Part { refused: Some(_), .. }) => Standing::Refused,
                _ => Standing::Warming,
            };
            let members = Members::gather(&config, &self.resources, standing);
            let inputs = compile::ClusterInputs::gather(&config, &self.resources, members, &self.environment);
            let part = self.clusters.entry(name.clone()).or_default();
            let lacks = inputs.lacks(&self.missing);
            let id = (Kind::Cluster, &*name);
            changed |= part.settle(id, inputs, (lacks, patient), now, settled, |inputs, serving| {
                compile::cluster(inputs, serving, &mut self.environment)
            });
        }
        changed
    }

    fn settle_listeners(&mut self, hold: bool, now: Instant, settled: &mut Settled) -> bool {
        let mut changed = false;
        let gone: Vec<String> =
            self.listeners.keys().filter(|name| self.resources.listeners.get(name).is_none()).cloned().collect();
        for name in gone {
            self.listeners.remove(&name);
            changed = true;
        }
        let clusters = Arc::new(self.resources.clusters.iter().map(|(name, _)| name.clone()).collect());
        let wanted: Vec<_> = self.resources.listeners.iter().map(|(n, l)| (n.clone(), Arc::clone(l))).collect();
        for (name, config) in wanted {
            let inputs = compile::ListenerInputs::gather(&config, &self.resources, &clusters, &self.environment);
            let part = self.listeners.entry(name.clone()).or_default();
            let lacks = inputs.lacks(&self.missing) || hold && part.serving.is_none();
            let id = (Kind::Listener, &*name);
            changed |= part.settle(id, inputs, (lacks, false), now, settled, |inputs, serving| {
                compile::listener(inputs, serving, &mut self.environment)
            });
        }
        changed
    }

    fn publish(&mut self, now: Instant) {
        self.generation += 1;
        let snapshot = Arc::new(Snapshot {
            generation: self.generation,
            revision: self.revision,
            listeners: self.listeners.values().filter_map(|part| part.serving.clone()).collect(),
            clusters: self
                .clusters
                .values()
                .filter_map(|part| part.serving.clone())
                .map(|cluster| (Arc::clone(cluster.name()), cluster))
                .collect(),
        });
        let old = self.live.load();
        self.counts.published(&old, &snapshot);
        for cluster in snapshot.clusters() {
            let before = old.cluster(cluster.name());
            if before.is_none_or(|before| !Arc::ptr_eq(before, cluster)) {
                cluster.take_over(before.map(|before| &**before));
            }
        }
        self.live.publish(Arc::clone(&snapshot));
        self.published.send_replace(self.generation);
        // Removals go last: what the old snapshot had and the new one lacks drains now.
        for cluster in old.clusters().filter(|cluster| snapshot.cluster(cluster.name()).is_none()) {
            cluster.retire();
        }
        self.retiring.retire(old, &snapshot, self.environment.drain_time, now);
        tracing::info!(generation = self.generation, revision = self.revision, "published a snapshot");
    }

    /// Drains everything, or with `inbound_only` the inbound listeners.
    pub fn drain_listeners(&mut self, inbound_only: bool) {
        crate::retire::drain_listeners(&self.live.load(), inbound_only);
    }

    /// Cuts what has drained long enough, and forgets endpoints that nobody uses any more; call now and then.
    pub fn sweep(&mut self, now: Instant) {
        self.retiring.cut(now);
        self.retiring.forget();
        self.live.load().clusters().for_each(|cluster| cluster.sweep(now));
    }

    /// The parts of a kind whose newest version waits for something, for `/init_dump`.
    pub fn warming(&self, kind: Kind) -> Vec<String> {
        let clusters = self.clusters.iter().map(|(name, part)| (Kind::Cluster, name, part.waiting_since));
        let listeners = self.listeners.iter().map(|(name, part)| (Kind::Listener, name, part.waiting_since));
        let waiting = clusters.chain(listeners).filter(|(of, _, since)| *of == kind && since.is_some());
        waiting.map(|(_, name, _)| name.clone()).collect()
    }
}
