//! The resource types we speak of, their type URLs, services and orders.
//!
//! A table; it never looks into a resource.

use std::fmt;
use std::ops::{Index, IndexMut};

/// A type of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceKind {
    Cluster,
    Endpoints,
    Listener,
    Route,
    ScopedRoute,
    VirtualHost,
    Secret,
    Runtime,
    Extension,
    /// Our own: where a revision begins and ends. Never stored, made by the stream.
    SnapshotMark,
}

/// The discovery service of one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    pub name: &'static str,
    pub sotw: Option<&'static str>,
    pub delta: Option<&'static str>,
}

/// The service that carries all types.
pub const AGGREGATED: Service = Service {
    name: "envoy.service.discovery.v3.AggregatedDiscoveryService",
    sotw: Some("StreamAggregatedResources"),
    delta: Some("DeltaAggregatedResources"),
};

struct Row {
    type_url: &'static str,
    short: &'static str,
    service: Option<Service>,
}

const fn row(
    type_url: &'static str,
    short: &'static str,
    name: &'static str,
    sotw: Option<&'static str>,
    delta: &'static str,
) -> Row {
    Row { type_url, short, service: Some(Service { name, sotw, delta: Some(delta) }) }
}

/// In the order of the enum.
const TABLE: [Row; ResourceKind::COUNT] = [
    row(
        "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "cds",
        "envoy.service.cluster.v3.ClusterDiscoveryService",
        Some("StreamClusters"),
        "DeltaClusters",
    ),
    row(
        "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "eds",
        "envoy.service.endpoint.v3.EndpointDiscoveryService",
        Some("StreamEndpoints"),
        "DeltaEndpoints",
    ),
    row(
        "type.googleapis.com/envoy.config.listener.v3.Listener",
        "lds",
        "envoy.service.listener.v3.ListenerDiscoveryService",
        Some("StreamListeners"),
        "DeltaListeners",
    ),
    row(
        "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "rds",
        "envoy.service.route.v3.RouteDiscoveryService",
        Some("StreamRoutes"),
        "DeltaRoutes",
    ),
    row(
        "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration",
        "srds",
        "envoy.service.route.v3.ScopedRoutesDiscoveryService",
        Some("StreamScopedRoutes"),
        "DeltaScopedRoutes",
    ),
    row(
        "type.googleapis.com/envoy.config.route.v3.VirtualHost",
        "vhds",
        "envoy.service.route.v3.VirtualHostDiscoveryService",
        None,
        "DeltaVirtualHosts",
    ),
    row(
        "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "sds",
        "envoy.service.secret.v3.SecretDiscoveryService",
        Some("StreamSecrets"),
        "DeltaSecrets",
    ),
    row(
        "type.googleapis.com/envoy.service.runtime.v3.Runtime",
        "rtds",
        "envoy.service.runtime.v3.RuntimeDiscoveryService",
        Some("StreamRuntime"),
        "DeltaRuntime",
    ),
    row(
        "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        "ecds",
        "envoy.service.extension.v3.ExtensionConfigDiscoveryService",
        Some("StreamExtensionConfigs"),
        "DeltaExtensionConfigs",
    ),
    Row { type_url: "type.googleapis.com/weir.xds.v1.SnapshotMark", short: "marks", service: None },
];

impl ResourceKind {
    pub const COUNT: usize = 10;

    /// All kinds in the order in which new and changed resources are sent: what is named goes before what names it.
    pub const PUSH_ORDER: [Self; Self::COUNT] = [
        Self::Cluster,
        Self::Endpoints,
        Self::Listener,
        Self::Route,
        Self::ScopedRoute,
        Self::VirtualHost,
        Self::Secret,
        Self::Runtime,
        Self::Extension,
        Self::SnapshotMark,
    ];

    /// The order in which removals are sent, after everything new: what names goes before what is named.
    pub const REMOVAL_ORDER: [Self; Self::COUNT] = [
        Self::Listener,
        Self::ScopedRoute,
        Self::Route,
        Self::VirtualHost,
        Self::Extension,
        Self::Runtime,
        Self::Cluster,
        Self::Endpoints,
        Self::Secret,
        Self::SnapshotMark,
    ];

    pub fn type_url(self) -> &'static str {
        TABLE[self as usize].type_url
    }

    /// The name Envoy gives the discovery service, `cds`; ours for our own types.
    pub fn short(self) -> &'static str {
        TABLE[self as usize].short
    }

    /// The service of this type alone; our own types are only on the aggregated stream.
    pub fn service(self) -> Option<Service> {
        TABLE[self as usize].service
    }

    pub fn from_type_url(type_url: &str) -> Option<Self> {
        Self::PUSH_ORDER.into_iter().find(|kind| kind.type_url() == type_url)
    }

    pub fn from_short(short: &str) -> Option<Self> {
        Self::PUSH_ORDER.into_iter().find(|kind| kind.short() == short)
    }

    /// Whether a state-of-the-world response of this type lists everything, so that absence deletes.
    pub fn is_full_set(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener | Self::ScopedRoute)
    }

    /// Whether clients take all resources of this type without naming them.
    pub fn is_root(self) -> bool {
        self.is_full_set()
    }

    /// Whether the name of a resource stands inside it as field 1 and must be the one on its envelope.
    pub fn has_inner_name(self) -> bool {
        // A virtual host is sent as `<route configuration>/<host>` and does not hold the first part.
        !matches!(self, Self::VirtualHost)
    }
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

/// One `T` for each kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindMap<T>([T; ResourceKind::COUNT]);

impl<T> KindMap<T> {
    pub fn from_fn(mut make: impl FnMut(ResourceKind) -> T) -> Self {
        Self(ResourceKind::PUSH_ORDER.map(&mut make))
    }

    pub fn iter(&self) -> impl Iterator<Item = (ResourceKind, &T)> {
        ResourceKind::PUSH_ORDER.into_iter().map(|kind| (kind, &self[kind]))
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut()
    }
}

impl<T: Default> Default for KindMap<T> {
    fn default() -> Self {
        Self::from_fn(|_| T::default())
    }
}

// The push order starts as the enum does, but an index must not depend on it.
const fn slot(kind: ResourceKind) -> usize {
    let mut i = 0;
    while i < ResourceKind::COUNT {
        if ResourceKind::PUSH_ORDER[i] as usize == kind as usize {
            return i;
        }
        i += 1;
    }
    0
}

impl<T> Index<ResourceKind> for KindMap<T> {
    type Output = T;
    fn index(&self, kind: ResourceKind) -> &T {
        &self.0[slot(kind)]
    }
}

impl<T> IndexMut<ResourceKind> for KindMap<T> {
    fn index_mut(&mut self, kind: ResourceKind) -> &mut T {
        &mut self.0[slot(kind)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_row_type_url_and_place_in_both_orders() {
        for (i, kind) in ResourceKind::PUSH_ORDER.into_iter().enumerate() {
            assert_eq!(ResourceKind::from_type_url(kind.type_url()), Some(kind));
            assert_eq!(ResourceKind::from_short(kind.short()), Some(kind));
            assert_eq!(ResourceKind::PUSH_ORDER.iter().filter(|k| **k == kind).count(), 1);
            assert_eq!(ResourceKind::REMOVAL_ORDER.iter().filter(|k| **k == kind).count(), 1);
            assert_eq!(KindMap::from_fn(|k| k)[kind], kind, "row {i}");
        }
    }

    #[test]
    fn type_urls_are_those_of_the_generated_messages() {
        use prost::Name;
        use proto::envoy::config;
        let check = |kind: ResourceKind, url: String| assert_eq!(kind.type_url(), url);
        check(ResourceKind::Cluster, config::cluster::v3::Cluster::type_url());
        check(ResourceKind::Endpoints, config::endpoint::v3::ClusterLoadAssignment::type_url());
        check(ResourceKind::Listener, config::listener::v3::Listener::type_url());
        check(ResourceKind::Route, config::route::v3::RouteConfiguration::type_url());
        check(ResourceKind::ScopedRoute, config::route::v3::ScopedRouteConfiguration::type_url());
        check(ResourceKind::VirtualHost, config::route::v3::VirtualHost::type_url());
        check(ResourceKind::Secret, proto::envoy::extensions::transport_sockets::tls::v3::Secret::type_url());
        check(ResourceKind::Runtime, proto::envoy::service::runtime::v3::Runtime::type_url());
        check(ResourceKind::Extension, config::core::v3::TypedExtensionConfig::type_url());
        check(ResourceKind::SnapshotMark, proto::weir::xds::v1::SnapshotMark::type_url());
    }
}
