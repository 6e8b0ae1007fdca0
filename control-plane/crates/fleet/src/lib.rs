//! The nodes this control plane has seen: who they are, what each has, what each refused.
//!
//! Only in memory: all of it comes again when a node connects. Never talks to a node itself.

mod load;
mod node;
mod status;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use proto::envoy::config::endpoint::v3::ClusterStats;
use shared_xds::server::Observed;
use tokio::sync::watch;

pub use load::{EndpointReport, LoadReport, address_text};
pub use node::{Class, Locality, NodeInfo};
pub use status::{ConfigStatus, KindStatus, Refusal, names_in};

/// How much is remembered.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Nodes, connected or not.
    pub nodes: usize,
    /// How long a node that went away is remembered.
    pub forget_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { nodes: 100_000, forget_after: Duration::from_secs(3600) }
    }
}

/// What is known of one node.
#[derive(Debug, Clone)]
pub struct NodeStatus {
    pub info: Arc<NodeInfo>,
    pub group: String,
    /// Open streams: a node may have several.
    pub streams: usize,
    /// When the oldest open stream was opened.
    pub connected_since: Option<SystemTime>,
    /// When the last stream ended.
    pub disconnected_at: Option<SystemTime>,
    pub kinds: BTreeMap<shared_xds::ResourceKind, KindStatus>,
    /// The latest revision of which the node answered every response.
    pub revision: Option<u64>,
    pub load: Option<LoadReport>,
}

/// The book of all nodes.
#[derive(Debug)]
pub struct Fleet {
    nodes: DashMap<String, NodeStatus>,
    count: AtomicUsize,
    extensions: Mutex<node::Interner>,
    changes: watch::Sender<u64>,
    limits: Limits,
}

#[derive(Debug, thiserror::Error)]
#[error("{0} nodes are known, and all of them are connected or were lately")]
pub struct Full(usize);

impl Fleet {
    pub fn new(limits: Limits) -> Arc<Self> {
        let (changes, _) = watch::channel(0);
        let extensions = Mutex::default();
        Arc::new(Self { nodes: DashMap::new(), count: AtomicUsize::new(0), extensions, changes, limits })
    }

    /// What a client said of itself, with its extension list shared with its like.
    pub fn identify(&self, node: proto::envoy::config::core::v3::Node) -> Arc<NodeInfo> {
        let mut extensions = self.extensions.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::new(NodeInfo::new(node, &mut extensions))
    }

    /// Notes a new stream of `node`. The stream ends when the returned value is dropped.
    ///
    /// # Errors
    /// The book is full.
    pub fn connect(self: &Arc<Self>, info: Arc<NodeInfo>, group: &str, now: SystemTime) -> Result<Connection, Full> {
        if self.count.load(Ordering::Relaxed) >= self.limits.nodes && !self.nodes.contains_key(&info.id) {
            self.forget_old(now);
            if self.count.load(Ordering::Relaxed) >= self.limits.nodes {
                return Err(Full(self.limits.nodes));
            }
        }
        let id = info.id.clone();
        match self.nodes.entry(id.clone()) {
            Entry::Occupied(mut known) => {
                let status = known.get_mut();
                status.info = info;
                group.clone_into(&mut status.group);
                status.streams += 1;
                status.connected_since.get_or_insert(now);
                status.disconnected_at = None;
            }
            Entry::Vacant(new) => {
                self.count.fetch_add(1, Ordering::Relaxed);
                new.insert(NodeStatus {
                    info,
                    group: group.to_owned(),
                    streams: 1,
                    connected_since: Some(now),
                    disconnected_at: None,
                    kinds: BTreeMap::new(),
                    revision: None,
                    load: None,
                });
            }
        }
        self.changed();
        Ok(Connection { fleet: self.clone(), id })
    }

    /// Keeps the latest load report of a node that is known.
    pub fn report_load(&self, id: &str, clusters: &[ClusterStats], now: SystemTime) {
        let report = LoadReport::of(clusters, now);
        if let Some(mut status) = self.nodes.get_mut(id) {
            status.load = Some(report);
        }
        self.changed();
    }

    /// Every node, by id.
    pub fn nodes(&self) -> Vec<NodeStatus> {
        let mut nodes: Vec<NodeStatus> = self.nodes.iter().map(|status| status.value().clone()).collect();
        nodes.sort_by(|a, b| a.info.id.cmp(&b.info.id));
        nodes
    }

    pub fn node(&self, id: &str) -> Option<NodeStatus> {
        self.nodes.get(id).map(|status| status.value().clone())
    }

    /// Wakes when anything here changed.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Forgets nodes that went away too long ago. To be called now and then.
    pub fn forget_old(&self, now: SystemTime) {
        let is_old = |at: SystemTime| now.duration_since(at).is_ok_and(|age| age >= self.limits.forget_after);
        let before = self.nodes.len();
        self.nodes.retain(|_, status| status.streams > 0 || !status.disconnected_at.is_some_and(is_old));
        self.count.store(self.nodes.len(), Ordering::Relaxed);
        if self.nodes.len() != before {
            self.changed();
        }
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// One open stream of a node.
#[derive(Debug)]
pub struct Connection {
    fleet: Arc<Fleet>,
    id: String,
}

impl Connection {
    /// Notes what happened on the stream.
    pub fn observe(&self, observed: &[Observed], now: SystemTime) {
        if observed.is_empty() {
            return;
        }
        if let Some(mut status) = self.fleet.nodes.get_mut(&self.id) {
            for event in observed {
                status.observe(event, now);
            }
        }
        self.fleet.changed();
    }

    /// The node now belongs to another group.
    pub fn regroup(&self, group: &str) {
        if let Some(mut status) = self.fleet.nodes.get_mut(&self.id) {
            group.clone_into(&mut status.group);
        }
        self.fleet.changed();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(mut status) = self.fleet.nodes.get_mut(&self.id) {
            status.streams = status.streams.saturating_sub(1);
            if status.streams == 0 {
                status.connected_since = None;
                status.disconnected_at = Some(SystemTime::now());
            }
        }
        self.fleet.changed();
    }
}

impl NodeStatus {
    fn observe(&mut self, event: &Observed, now: SystemTime) {
        match event {
            Observed::Sent { kind, version, .. } => self.kinds.entry(*kind).or_default().sent(*version, now),
            Observed::Acked { kind, version } => self.kinds.entry(*kind).or_default().acked(*version, now),
            Observed::InSync { kind, version } => {
                let status = self.kinds.entry(*kind).or_default();
                status.sent(*version, now);
                status.acked(*version, now);
            }
            Observed::Nacked { kind, version, message } => {
                self.kinds.entry(*kind).or_default().nacked(*version, message, now);
            }
            Observed::Settled { revision } => self.revision = Some(*revision),
            Observed::GateTimeout { kind } => self.kinds.entry(*kind).or_default().gate_timeouts += 1,
        }
    }
}

#[cfg(test)]
mod tests;
