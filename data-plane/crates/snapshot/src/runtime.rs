//! What a snapshot is made of: everything that workers need, compiled, immutable, shared.
//!
//! Only data and look-ups. How it comes about is in `compile/`, when it changes is in `engine.rs`.

use std::sync::Arc;
use std::time::Duration;

use dp_filters::Chain;
use dp_filters::network::NetworkChain;
use dp_filters::network::local_ratelimit::LocalRateLimit;
use dp_http::HeaderName;
use dp_http::info::{ConnectionInfo, Metadata};
use dp_net::proxy_protocol::ProxyProtocolOptions;
use dp_observe::access_log::AccessLog;
use dp_observe::stats::{
    HttpInspectorStats, HttpStats, ListenerStats, ProxyProtocolStats, ProxyProtocolVersionStats, RouteStats, TcpStats,
    TlsInspectorStats, UdpStats,
};
use dp_routing::{HashPolicies, HeaderPlan, HeaderSteps, HostRewrite, PathRewrite, Redirect, RouteTable, Weights};
use dp_upstream::{Cluster, Criteria};
use hashbrown::HashMap;
use shared_config::filter_state::TCP_CLUSTER;
use shared_config::hcm::HttpConnectionManager;
use shared_config::route::{Mirror, RouteAction, WeightSource};
use stdx::drain::Drain;

use crate::chain_match::{self, Facts};
use crate::local_reply::LocalReplies;
use crate::sockets::Sockets;

/// The whole configuration at one moment. A request sees exactly one.
#[derive(Default)]
pub struct Snapshot {
    /// Counts up with every publication.
    pub generation: u64,
    /// The revision of our own control plane that this is, when it came whole.
    pub revision: Option<u64>,
    pub(crate) listeners: Vec<Arc<Listener>>,
    pub(crate) clusters: HashMap<Arc<str>, Arc<Cluster>>,
}

/// Where connections come in.
pub struct Listener {
    pub name: Arc<str>,
    pub config: Arc<shared_config::listener::Listener>,
    pub sockets: Vec<Arc<Sockets>>,
    pub(crate) chains: Vec<Arc<FilterChain>>,
    pub(crate) default_chain: Option<Arc<FilterChain>>,
    /// Look at the first bytes of a connection, in order.
    pub filters: Vec<ListenerFilter>,
    /// What takes datagrams in place of chains.
    pub udp: Option<Arc<UdpProxy>>,
    /// For all listener filters together.
    pub filters_timeout: Option<Duration>,
    pub continue_on_timeout: bool,
    pub stats: Arc<ListenerStats>,
    pub access_logs: Vec<AccessLog>,
}

/// Looks at the first bytes of a connection.
pub enum ListenerFilter {
    /// Finds the ClientHello.
    TlsInspector {
        limit: usize,
        only_tls: bool,
        stats: Arc<TlsInspectorStats>,
    },
    HttpInspector(Arc<HttpInspectorStats>),
    /// Reads the PROXY header.
    ProxyProtocol(Box<ProxyFilter>),
    /// Asks the kernel where a redirected connection was to go.
    OriginalDst,
    /// Takes a token.
    LocalRateLimit(LocalRateLimit),
}

/// Reads the PROXY protocol header of connections.
pub struct ProxyFilter {
    pub options: ProxyProtocolOptions,
    pub config: shared_config::proxy_protocol::Inbound,
    pub stats: Arc<ProxyProtocolStats>,
    /// Of versions 1 and 2.
    pub versions: [Arc<ProxyProtocolVersionStats>; 2],
}

/// What serves the connections that it matches.
pub struct FilterChain {
    pub name: Arc<str>,
    /// The same over snapshots for as long as the configuration of the chain stays the same; routes do not count.
    pub id: u64,
    pub config: Arc<shared_config::listener::FilterChain>,
    pub tls: Option<Tls>,
    /// Let a connection in, or not.
    pub filters: NetworkChain,
    pub network: Network,
    /// Ends the connections of this chain once it is gone.
    pub drain: Drain,
}

/// TLS termination.
pub struct Tls {
    pub config: Arc<rustls::ServerConfig>,
    pub certificates: Vec<Arc<shared_tls::CertificateInfo>>,
    pub describe: dp_net::tls::Describe,
    pub handshake_timeout: Duration,
    pub stats: Arc<dp_net::tls::TlsStats>,
}

pub enum Network {
    Http(Arc<Hcm>),
    Tcp(Arc<TcpProxy>),
    /// The chain has no filters: what comes is closed.
    Close,
}

/// An HTTP connection manager.
pub struct Hcm {
    pub config: Arc<HttpConnectionManager>,
    pub routes: RouteTable<Arc<RouteEntry>>,
    /// The filters of requests that match no route.
    pub filters: Chain,
    pub http1: Arc<dp_http::h1::ServerOptions>,
    pub http2: Arc<dp_http::h2::ServerOptions>,
    pub stats: Arc<HttpStats>,
    pub access_logs: Vec<AccessLog>,
    pub local_replies: LocalReplies,
    /// How much of a request may be kept for a retry.
    pub buffer_limit: usize,
    /// Headers that only internal clients may send.
    pub internal_only: Vec<HeaderName>,
    /// A filter asks where dynamic forward proxy clusters are.
    pub forwards_names: bool,
    /// The cluster of this node, when it is told to upstreams (`add_user_agent`).
    pub user_agent: Option<Arc<str>>,
}

/// A route, ready to be followed.
pub struct RouteEntry {
    pub name: Arc<str>,
    pub action: Action,
    pub headers: Headers,
    pub filters: Chain,
    pub metadata: Option<Arc<Metadata>>,
    pub buffer_limit: Option<usize>,
    pub attempt_count_in_request: bool,
    pub attempt_count_in_response: bool,
    pub is_timeout_retry_header: bool,
    /// For routes that ask for statistics of their own.
    pub stats: Option<Arc<RouteStats>>,
}

/// The header changes of route, virtual host and route configuration together.
pub struct Headers {
    pub request: HeaderPlan,
    pub response: HeaderPlan,
}

pub enum Action {
    Forward(Box<Forward>),
    Redirect(Redirect),
    Direct(Direct),
    NonForwarding,
}

/// Where a request is sent, and how.
pub struct Forward {
    pub config: Arc<RouteAction>,
    pub path: Option<PathRewrite>,
    pub host: Option<HostRewrite>,
    pub targets: Targets,
    pub hash: HashPolicies,
    /// What the endpoint's metadata must be; a weighted cluster has the two merged.
    pub criteria: Option<Criteria>,
    pub mirrors: Vec<MirrorPlan>,
}

/// One cluster, or several by weight.
pub enum Targets {
    One(ClusterName),
    Weighted { targets: Vec<Target>, weights: Weights, source: WeightSource },
}

/// A cluster by name, or by what a request header says.
pub enum ClusterName {
    Fixed(Arc<str>),
    Header(HeaderName),
}

/// A weighted cluster with what it changes of its route.
pub struct Target {
    pub cluster: ClusterName,
    pub headers: Headers,
    pub criteria: Option<Criteria>,
    pub filters: Chain,
    pub host_rewrite: Option<String>,
}

pub struct MirrorPlan {
    pub cluster: ClusterName,
    pub config: Mirror,
    pub headers: HeaderSteps,
}

/// An answer that stands in the configuration.
pub struct Direct {
    pub status: u16,
    pub body: bytes::Bytes,
}

/// A TCP proxy.
pub struct TcpProxy {
    pub config: shared_config::tcp_proxy::TcpProxy,
    pub(crate) targets: Vec<TcpTarget>,
    pub(crate) total: u64,
    pub(crate) by_server_name: bool,
    /// Connections go to the host that they name by TLS.
    pub forward: Option<ByServerName>,
    /// What is asked of endpoints whatever the cluster.
    pub(crate) criteria: Option<Criteria>,
    pub stats: Arc<TcpStats>,
    pub access_logs: Vec<AccessLog>,
}

/// Where the server names of connections are resolved, and the port of the hosts.
pub struct ByServerName {
    pub names: Arc<dyn dp_filters::Names>,
    pub port: u16,
}

/// A cluster of a TCP proxy.
pub(crate) struct TcpTarget {
    pub(crate) cluster: Arc<str>,
    pub(crate) weight: u32,
    pub(crate) criteria: Option<Criteria>,
}

/// A UDP proxy.
pub struct UdpProxy {
    pub config: shared_config::udp_proxy::UdpProxy,
    /// Longer datagrams of clients are dropped.
    pub max_datagram: usize,
    pub stats: Arc<UdpStats>,
    pub access_logs: Vec<AccessLog>,
    pub proxy_access_logs: Vec<AccessLog>,
}

// === impl Snapshot ===

impl Snapshot {
    /// All listeners, in the order of their names.
    pub fn listeners(&self) -> &[Arc<Listener>] {
        &self.listeners
    }

    pub fn listener(&self, name: &str) -> Option<&Arc<Listener>> {
        let at = self.listeners.binary_search_by(|listener| (*listener.name).cmp(name)).ok()?;
        self.listeners.get(at)
    }

    pub fn cluster(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.clusters.get(name)
    }

    pub fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.clusters.values()
    }
}

// === impl Listener ===

impl Listener {
    /// Whether workers accept here (`bind_to_port`).
    pub fn accepts(&self) -> bool {
        !self.sockets.is_empty()
    }

    /// The chain for a connection, by Envoy's match order.
    pub fn choose(&self, facts: &Facts<'_>) -> Option<&Arc<FilterChain>> {
        chain_match::choose(self.chains.iter().map(|chain| &chain.config.criteria), facts)
            .and_then(|at| self.chains.get(at))
            .or(self.default_chain.as_ref())
    }

    /// All chains, the default one last.
    pub fn chains(&self) -> impl Iterator<Item = &Arc<FilterChain>> {
        self.chains.iter().chain(&self.default_chain)
    }

    /// The chain as it is now, for a connection that was given it earlier.
    pub fn chain_by_id(&self, id: u64) -> Option<&Arc<FilterChain>> {
        self.chains().find(|chain| chain.id == id)
    }
}

// === impl TcpProxy ===

impl TcpProxy {
    /// The cluster for a connection, and what is asked of its endpoints: what a filter wrote, the one named like the
    /// server it asked for, or one by weight.
    pub fn choose<'a>(&'a self, info: &'a ConnectionInfo, random: u64) -> Option<(&'a str, Option<&'a Criteria>)> {
        if let Some(object) = info.filter_state.as_ref().and_then(|state| state.get(TCP_CLUSTER)) {
            return Some((&object.text, self.criteria.as_ref()));
        }
        if self.by_server_name {
            let server_name = info.requested_server_name.as_deref();
            return server_name.map(|name| (name, self.criteria.as_ref()));
        }
        let mut left = random % self.total.max(1);
        self.targets.iter().find_map(|target| match left.checked_sub(u64::from(target.weight)) {
            None => Some((&*target.cluster, target.criteria.as_ref())),
            Some(rest) => {
                left = rest;
                None
            }
        })
    }
}
