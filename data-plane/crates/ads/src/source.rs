//! The sources of configuration, as plain values that the binary makes from a bootstrap.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use shared_xds::{Protocol, ResourceKind};

use crate::consumer::{FileWanted, Wanted};
use crate::node::NodeIdentity;

/// All of it.
#[derive(Debug, Clone)]
pub struct Setup {
    pub node: NodeIdentity,
    pub streams: Vec<StreamSource>,
    /// Full sets that come from files; single resources follow from what the consumer wants.
    pub files: Vec<FileWanted>,
    /// What the consumer wants before the first event.
    pub wanted: Wanted,
    pub last_good: Option<LastGoodOptions>,
}

/// One management server (with its replicas) and what is taken from it.
#[derive(Debug, Clone)]
pub struct StreamSource {
    /// All kinds on one aggregated stream; otherwise each kind has a stream of its own service.
    pub aggregated: bool,
    pub protocol: Protocol,
    /// Kinds of which everything is taken.
    pub roots: BTreeSet<ResourceKind>,
    /// Kinds that are asked by name when the consumer wants them.
    pub named: BTreeSet<ResourceKind>,
    /// `http://host:port` or `https://host:port`, tried in turn.
    pub endpoints: Vec<String>,
    pub tls: Option<Tls>,
    /// The `:authority` of the requests, if not that of the endpoint.
    pub authority: Option<String>,
    /// Sent with the stream (`initial_metadata`).
    pub metadata: Vec<(String, String)>,
    /// How long to wait for a first answer; `None` waits for ever.
    pub fetch_timeout: Option<Duration>,
    pub backoff_base: Duration,
    pub backoff_max: Duration,
    pub keepalive_interval: Duration,
    pub keepalive_timeout: Duration,
    pub connect_timeout: Duration,
    /// Bytes of the largest message that is taken.
    pub max_message: usize,
    /// Requests at once, and then per second; `None` is unlimited.
    pub rate_limit: Option<(u32, f64)>,
    /// Asks for the marks of our own control plane (aggregated streams with roots).
    pub marks: bool,
}

/// Certificates in PEM.
#[derive(Clone, Default)]
pub struct Tls {
    /// The authorities the server's certificate is checked against.
    pub ca_pem: Vec<u8>,
    /// Our certificate and its key, for mutual TLS.
    pub identity_pem: Option<(Vec<u8>, Vec<u8>)>,
    /// The name in the server's certificate, if not the host of the endpoint.
    pub server_name: Option<String>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// A file that holds resources as a `DiscoveryResponse`: JSON by `.json`, binary by `.pb`, otherwise YAML.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileSource {
    pub path: PathBuf,
    /// A change of this directory is looked at too (a mounted directory behind a symbolic link).
    pub watched_directory: Option<PathBuf>,
}

/// Where the last good configuration is kept.
#[derive(Debug, Clone)]
pub struct LastGoodOptions {
    pub directory: PathBuf,
    /// Private keys are written too, readable by the owner only.
    pub keep_secrets: bool,
}

impl StreamSource {
    /// An aggregated delta stream that takes listeners and clusters, and by name whatever they refer to, with Envoy's
    /// defaults.
    pub fn aggregated(endpoints: Vec<String>) -> Self {
        use ResourceKind::{Cluster, Endpoints, Extension, Listener, Route, Secret};
        Self {
            aggregated: true,
            protocol: Protocol::Delta,
            roots: [Listener, Cluster].into(),
            named: [Endpoints, Route, Secret, Extension].into(),
            endpoints,
            tls: None,
            authority: None,
            metadata: Vec::new(),
            fetch_timeout: Some(Duration::from_secs(15)),
            backoff_base: Duration::from_millis(500),
            backoff_max: Duration::from_secs(30),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            max_message: usize::MAX,
            rate_limit: None,
            marks: true,
        }
    }

    /// One source for each stream there will be.
    pub(crate) fn split(self) -> Vec<Self> {
        if self.aggregated {
            return vec![self];
        }
        let only = |roots: &[ResourceKind], named: &[ResourceKind]| Self {
            roots: roots.iter().copied().collect(),
            named: named.iter().copied().collect(),
            marks: false,
            ..self.clone()
        };
        let roots = self.roots.iter().map(|kind| only(&[*kind], &[]));
        roots.chain(self.named.difference(&self.roots).map(|kind| only(&[], &[*kind]))).collect()
    }

    /// The path of the method to call.
    pub(crate) fn method(&self) -> Option<String> {
        let kind = self.roots.iter().chain(&self.named).next();
        let service = if self.aggregated { shared_xds::kind::AGGREGATED } else { kind?.service()? };
        let method = match self.protocol {
            Protocol::Sotw => service.sotw?,
            Protocol::Delta => service.delta?,
        };
        Some(format!("/{}/{method}", service.name))
    }
}
