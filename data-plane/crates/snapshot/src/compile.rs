//! Configuration → runtime, one part at a time, reusing what did not change.
//!
//! Nothing here can be seen by a request: sockets are bound, but nobody accepts before the snapshot is published.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dp_filters::{Health, KeepStore, Services};
use dp_observe::access_log::AccessLog;
use dp_observe::access_log::writer::LogWriter;
use dp_upstream::LocalCluster;
use dp_upstream::dns::cache::DnsCaches;
use dp_upstream::refresh::Bell;
use shared_config::endpoint::Assignment;
use shared_config::http_filter::HttpFilterConfig;
use shared_config::route::RouteConfiguration;
use shared_config::secret::Secret;
use shared_telemetry::Registry;

use crate::files::Files;
use crate::resources::{Kind, Resources};

mod cluster;
mod hcm;
mod listener;
mod local_reply;
pub(crate) mod members;
mod names;
mod route;
mod tcp;
mod tls;
mod udp;

pub(crate) use cluster::cluster;
pub(crate) use listener::listener;

/// The endpoints of a cluster as DNS has them.
pub type Resolved = Arc<Assignment>;

/// Why a part cannot be compiled, with the place in its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) String);

/// What the process gives to all snapshots.
pub struct Environment {
    pub workers: usize,
    pub registry: Registry,
    pub logs: LogWriter,
    pub health: Arc<dyn Health>,
    pub keep: KeepStore,
    pub files: Files,
    /// The hosts that requests ask for, for dynamic forward proxying.
    pub names: DnsCaches,
    pub drain_time: Duration,
    /// Other processes may listen on the same addresses.
    pub share_ports: bool,
    /// Rung when a cluster's tables are out of date.
    pub bell: Bell,
    /// What DNS found, by cluster.
    pub resolved: BTreeMap<String, Resolved>,
    /// The log of ejections, if there is one.
    pub outlier_events: Option<Arc<dyn dp_upstream::outlier::EventSink>>,
    /// How often an endpoint that was kept for its health became unhealthy, by cluster.
    pub left: BTreeMap<String, u64>,
    /// The cluster of this node, for `add_user_agent`.
    pub node_cluster: Arc<str>,
    /// The cluster that this node is one of, for zone-aware routing.
    pub local: Option<Arc<LocalCluster>>,
}

/// All that a cluster is compiled from. Equal inputs mean an equal cluster.
#[derive(Clone)]
pub(crate) struct ClusterInputs {
    pub(crate) config: Arc<shared_config::cluster::Cluster>,
    pub(crate) endpoints: Option<Arc<Assignment>>,
    pub(crate) resolved: Option<Resolved>,
    pub(crate) members: members::Members,
    left: Option<u64>,
    pub(crate) secrets: BTreeMap<String, Option<Arc<Secret>>>,
    files: u64,
}

/// All that a listener is compiled from.
#[derive(Clone)]
pub(crate) struct ListenerInputs {
    pub(crate) config: Arc<shared_config::listener::Listener>,
    pub(crate) routes: BTreeMap<String, Option<Arc<RouteConfiguration>>>,
    pub(crate) filters: BTreeMap<String, Option<Arc<HttpFilterConfig>>>,
    /// Filters that serve with their default configuration until another one comes.
    unawaited: BTreeSet<String>,
    /// The names of all clusters. A listener is not compiled again because they changed.
    pub(crate) clusters: Arc<BTreeSet<String>>,
    pub(crate) secrets: BTreeMap<String, Option<Arc<Secret>>>,
    files: u64,
}

// === impl Refusal ===

impl<E: std::error::Error> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

impl Refusal {
    /// Says where the reason stands.
    pub(crate) fn at(self, place: impl std::fmt::Display) -> Self {
        Self(format!("{place}: {}", self.0))
    }
}

// === impl Environment ===

impl Environment {
    /// What filters are given when they are compiled.
    pub(crate) fn services<'a>(
        &'a self,
        stat_prefix: &'a str,
        names: &'a names::Caches<'a>,
        discovered: &'a dyn Fn(&str) -> Option<Arc<HttpFilterConfig>>,
    ) -> Services<'a> {
        Services {
            names,
            keep: &self.keep,
            health: Arc::clone(&self.health),
            registry: &self.registry,
            stat_prefix,
            discovered,
            node_cluster: Arc::clone(&self.node_cluster),
            now: Instant::now(),
        }
    }
}

/// Compiles access logs; the index of one that cannot be is named.
fn access_logs(
    configs: &[shared_config::access_log::AccessLog],
    environment: &Environment,
) -> Result<Vec<AccessLog>, Refusal> {
    let compile = |(index, config)| {
        AccessLog::compile(config, &environment.logs)
            .map_err(|error| Refusal(error.to_string()).at(format!("access_log[{index}]")))
    };
    configs.iter().enumerate().map(compile).collect()
}

// === impl ClusterInputs ===

impl ClusterInputs {
    pub(crate) fn gather(
        config: &Arc<shared_config::cluster::Cluster>,
        resources: &Resources,
        members: members::Members,
        environment: &Environment,
    ) -> Self {
        let endpoints = match &config.discovery {
            shared_config::cluster::Discovery::Eds(eds) => resources.endpoints.get(&eds.service).cloned(),
            _ => None,
        };
        let names = config.tls.as_ref().map(|tls| crate::wanted::secret_names(&tls.common)).unwrap_or_default();
        Self {
            config: Arc::clone(config),
            endpoints,
            resolved: environment.resolved.get(&*config.name).cloned(),
            members,
            left: environment.left.get(&*config.name).copied(),
            secrets: secrets(&names, resources),
            files: environment.files.generation(),
        }
    }

    /// Whether something is still to come that the cluster cannot serve without.
    pub(crate) fn lacks(&self, missing: &BTreeSet<(Kind, String)>) -> bool {
        use shared_config::cluster::Discovery;
        let lacks_endpoints = match &self.config.discovery {
            Discovery::Eds(eds) => {
                self.endpoints.is_none() && !missing.contains(&(Kind::Endpoints, eds.service.clone()))
            }
            discovery if discovery.is_dns() => self.resolved.is_none(),
            Discovery::Aggregate(_) => self.members.is_warming,
            _ => false,
        };
        lacks_endpoints || lacks(&self.secrets, Kind::Secret, missing)
    }
}

impl PartialEq for ClusterInputs {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config)
            && same(self.endpoints.as_ref(), other.endpoints.as_ref())
            && self.resolved == other.resolved
            && self.members == other.members
            && self.left == other.left
            && same_all(&self.secrets, &other.secrets)
            && (self.files == other.files || self.config.tls.is_none())
    }
}

// === impl ListenerInputs ===

impl ListenerInputs {
    pub(crate) fn gather(
        config: &Arc<shared_config::listener::Listener>,
        resources: &Resources,
        clusters: &Arc<BTreeSet<String>>,
        environment: &Environment,
    ) -> Self {
        use shared_config::hcm::RouteSource;
        use shared_config::http_filter::FilterSource;
        use shared_config::listener::Terminal;
        let mut inputs = Self {
            config: Arc::clone(config),
            routes: BTreeMap::new(),
            filters: BTreeMap::new(),
            unawaited: BTreeSet::new(),
            clusters: Arc::clone(clusters),
            secrets: BTreeMap::new(),
            files: environment.files.generation(),
        };
        for chain in config.filter_chains.iter().chain(&config.default_filter_chain) {
            if let Some(tls) = &chain.tls {
                let mut names = crate::wanted::secret_names(&tls.common);
                names.extend(crate::wanted::ticket_secret(tls).map(|reference| reference.name.clone()));
                inputs.secrets.extend(secrets(&names, resources));
            }
            let Terminal::Http(hcm) = &chain.terminal else { continue };
            if let RouteSource::Rds { name, .. } = &hcm.routes {
                inputs.routes.insert(name.clone(), resources.routes.get(name).cloned());
            }
            for filter in &hcm.http_filters {
                if let FilterSource::Discovery(discovery) = &filter.source {
                    if discovery.apply_default_config_without_warming {
                        inputs.unawaited.insert(filter.name.clone());
                    }
                    inputs.filters.insert(filter.name.clone(), resources.filters.get(&filter.name).cloned());
                }
            }
        }
        inputs
    }

    /// Whether something is still to come that the listener cannot serve without.
    pub(crate) fn lacks(&self, missing: &BTreeSet<(Kind, String)>) -> bool {
        lacks(&self.routes, Kind::Routes, missing)
            || lacks(&self.secrets, Kind::Secret, missing)
            || self.filters.iter().any(|(name, filter)| {
                let is_awaited = filter.is_none() && !self.unawaited.contains(name);
                is_awaited && !missing.contains(&(Kind::Filter, name.clone()))
            })
    }
}

impl PartialEq for ListenerInputs {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config)
            && same_all(&self.routes, &other.routes)
            && same_all(&self.filters, &other.filters)
            && same_all(&self.secrets, &other.secrets)
            && self.files == other.files
    }
}

fn secrets(names: &BTreeSet<String>, resources: &Resources) -> BTreeMap<String, Option<Arc<Secret>>> {
    names.iter().map(|name| (name.clone(), resources.secrets.get(name).cloned())).collect()
}

fn lacks<T>(parts: &BTreeMap<String, Option<Arc<T>>>, kind: Kind, missing: &BTreeSet<(Kind, String)>) -> bool {
    parts.iter().any(|(name, part)| part.is_none() && !missing.contains(&(kind, name.clone())))
}

fn same<T>(a: Option<&Arc<T>>, b: Option<&Arc<T>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

fn same_all<T>(a: &BTreeMap<String, Option<Arc<T>>>, b: &BTreeMap<String, Option<Arc<T>>>) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|((an, a), (bn, b))| an == bn && same(a.as_ref(), b.as_ref()))
}
