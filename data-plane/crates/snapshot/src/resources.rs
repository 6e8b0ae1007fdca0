//! The decoded resources that a snapshot is compiled from, by kind and name.
//!
//! A resource that comes again unchanged keeps its `Arc`, so that "is it the same" is a comparison of pointers.

use std::collections::BTreeMap;
use std::sync::Arc;

use shared_config::cluster::Cluster;
use shared_config::endpoint::Assignment;
use shared_config::http_filter::HttpFilterConfig;
use shared_config::listener::Listener;
use shared_config::resource::Resource;
use shared_config::route::RouteConfiguration;
use shared_config::secret::Secret;

/// What kinds of resources a snapshot is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Cluster,
    Endpoints,
    Listener,
    Routes,
    Secret,
    Filter,
}

/// Resources of one kind. Those of the bootstrap stay; those of xDS come and go, and win over nothing static.
#[derive(Debug)]
pub(crate) struct Shelf<T> {
    fixed: BTreeMap<String, Arc<T>>,
    dynamic: BTreeMap<String, Arc<T>>,
}

/// All resources.
#[derive(Debug, Default)]
pub(crate) struct Resources {
    pub(crate) clusters: Shelf<Cluster>,
    pub(crate) endpoints: Shelf<Assignment>,
    pub(crate) listeners: Shelf<Listener>,
    pub(crate) routes: Shelf<RouteConfiguration>,
    pub(crate) secrets: Shelf<Secret>,
    pub(crate) filters: Shelf<HttpFilterConfig>,
}

/// Where a resource comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The bootstrap.
    Static,
    Dynamic,
}

// === impl Shelf ===

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self { fixed: BTreeMap::new(), dynamic: BTreeMap::new() }
    }
}

impl<T: PartialEq> Shelf<T> {
    /// Puts a resource in; says whether anything changed.
    fn put(&mut self, origin: Origin, name: String, value: T) -> bool {
        let map = match origin {
            Origin::Static => &mut self.fixed,
            Origin::Dynamic => &mut self.dynamic,
        };
        if map.get(&name).is_some_and(|old| **old == value) {
            return false;
        }
        map.insert(name, Arc::new(value));
        true
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<T>> {
        self.fixed.get(name).or_else(|| self.dynamic.get(name))
    }

    /// All names with their resources; static ones first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Arc<T>)> {
        let dynamic = self.dynamic.iter().filter(|(name, _)| !self.fixed.contains_key(*name));
        self.fixed.iter().chain(dynamic)
    }
}

// === impl Resources ===

impl Resources {
    /// Puts a resource in; says whether anything changed.
    pub(crate) fn put(&mut self, origin: Origin, resource: Resource) -> bool {
        let name = resource.name().to_owned();
        match resource {
            Resource::Cluster(cluster) => self.clusters.put(origin, name, *cluster),
            Resource::Endpoints(endpoints) => self.endpoints.put(origin, name, *endpoints),
            Resource::Listener(listener) => self.listeners.put(origin, name, *listener),
            Resource::Routes(routes) => self.routes.put(origin, name, *routes),
            Resource::Secret(secret) => self.secrets.put(origin, name, *secret),
            Resource::Extension(extension) => self.filters.put(origin, name, extension.config),
        }
    }

    /// Takes a dynamic resource out; says whether it was there.
    pub(crate) fn remove(&mut self, kind: Kind, name: &str) -> bool {
        match kind {
            Kind::Cluster => self.clusters.dynamic.remove(name).is_some(),
            Kind::Endpoints => self.endpoints.dynamic.remove(name).is_some(),
            Kind::Listener => self.listeners.dynamic.remove(name).is_some(),
            Kind::Routes => self.routes.dynamic.remove(name).is_some(),
            Kind::Secret => self.secrets.dynamic.remove(name).is_some(),
            Kind::Filter => self.filters.dynamic.remove(name).is_some(),
        }
    }
}

// === impl Kind ===

impl Kind {
    /// The kind of a resource.
    pub fn of(resource: &Resource) -> Self {
        match resource {
            Resource::Cluster(_) => Self::Cluster,
            Resource::Endpoints(_) => Self::Endpoints,
            Resource::Listener(_) => Self::Listener,
            Resource::Routes(_) => Self::Routes,
            Resource::Secret(_) => Self::Secret,
            Resource::Extension(_) => Self::Filter,
        }
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Endpoints => "endpoints",
            Self::Listener => "listener",
            Self::Routes => "route configuration",
            Self::Secret => "secret",
            Self::Filter => "filter",
        }
    }
}
