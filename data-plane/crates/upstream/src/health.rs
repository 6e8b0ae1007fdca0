//! Active health checks: one task an endpoint asks it at intervals whether it is well, and sets its flags.
//!
//! Runs once in a process, on the control thread, whatever the number of workers. A task lives as long as its endpoint
//! and what it is asked stay the same, whatever else changes in the configuration.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use hashbrown::HashMap;
use shared_config::health_check::HealthCheck;
use tokio::task::AbortHandle;

mod dial;
mod exchange;
mod grpc;
mod http;
mod payload;
mod session;
pub mod status;
mod tcp;

use crate::cluster::{Cluster, Identity};
use crate::endpoint::Endpoint;
use dial::Subject;
use status::Event;

/// Who is told what checks find, besides the endpoint and its cluster.
pub trait Observer {
    /// Something for the event log.
    fn event(&self, cluster: &Cluster, endpoint: &Endpoint, check: &HealthCheck, event: Event);

    /// An endpoint was checked for the first time: its cluster may be warm.
    fn checked(&self, cluster: &Cluster);

    /// An endpoint that service discovery no longer has is unhealthy now: the cluster is to be made without it.
    fn left(&self, cluster: &Cluster);
}

/// The checks of all clusters.
pub struct Checks {
    observer: Rc<dyn Observer>,
    clusters: HashMap<Arc<str>, ClusterChecks>,
}

/// The checks of one cluster.
#[derive(Default)]
struct ClusterChecks {
    /// The versions that the sessions are of.
    versions: Vec<Arc<Cluster>>,
    sessions: HashMap<Identity, Session>,
}

/// The checks of one endpoint; they end when it is dropped.
struct Session {
    subject: Rc<RefCell<Subject>>,
    task: AbortHandle,
}

// === impl Checks ===

impl Checks {
    pub fn new(observer: Rc<dyn Observer>) -> Self {
        Self { observer, clusters: HashMap::new() }
    }

    /// Checks the endpoints of these clusters from now on, and no others. A cluster may come in two versions, the newer
    /// one last.
    pub fn update(&mut self, clusters: impl IntoIterator<Item = Arc<Cluster>>) {
        let mut wanted: HashMap<Arc<str>, Vec<Arc<Cluster>>> = HashMap::new();
        for cluster in clusters {
            wanted.entry(Arc::clone(cluster.name())).or_default().push(cluster);
        }
        self.clusters.retain(|name, _| wanted.contains_key(name));
        for (name, versions) in wanted {
            self.clusters.entry(name).or_default().update(versions, &self.observer);
        }
    }

    /// How many endpoints are checked.
    pub fn len(&self) -> usize {
        self.clusters.values().map(|cluster| cluster.sessions.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

// === impl ClusterChecks ===

impl ClusterChecks {
    fn update(&mut self, versions: Vec<Arc<Cluster>>, observer: &Rc<dyn Observer>) {
        let same = |(a, b): (&Arc<Cluster>, &Arc<Cluster>)| Arc::ptr_eq(a, b);
        if versions.len() == self.versions.len() && versions.iter().zip(&self.versions).all(same) {
            return;
        }
        let mut wanted = HashMap::new();
        for cluster in &versions {
            let Some(check) = &cluster.config.health_check else { continue };
            for (identity, endpoint) in cluster.identified().filter(|(_, endpoint)| endpoint.checked) {
                let subject =
                    Subject { cluster: Arc::clone(cluster), endpoint: Arc::clone(endpoint), check: Arc::clone(check) };
                wanted.insert(identity, subject);
            }
        }
        self.sessions.retain(|identity, session| wanted.get(identity).is_some_and(|subject| session.asks(subject)));
        for (identity, subject) in wanted {
            match self.sessions.get(identity) {
                Some(session) => *session.subject.borrow_mut() = subject,
                None => {
                    self.sessions.insert(identity.clone(), Session::start(subject, Rc::clone(observer)));
                }
            }
        }
        self.versions = versions;
    }
}

// === impl Session ===

impl Session {
    fn start(subject: Subject, observer: Rc<dyn Observer>) -> Self {
        let subject = Rc::new(RefCell::new(subject));
        let task = tokio::task::spawn_local(session::run(Rc::clone(&subject), observer));
        Self { subject, task: task.abort_handle() }
    }

    /// Whether this subject is asked the same in the same way.
    fn asks(&self, subject: &Subject) -> bool {
        let own = self.subject.borrow();
        own.check == subject.check && own.endpoint.health_check == subject.endpoint.health_check
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}
