//! Listeners: addresses, listener filters, and the filter chains a connection is matched against.
//!
//! The match keeps Envoy's criteria as they are; which chain wins is decided by whoever compiles them, in Envoy's order:
//! destination port, destination address, server name, transport protocol, application protocol, directly connected source
//! address, source type, source address, source port; the most specific at each step, without going back.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::access_log::AccessLog;
use crate::core::{Address, Metadata, TcpKeepalive};
use crate::hcm::HttpConnectionManager;
use crate::network_filter::{NetworkFilter, RateLimit};
use crate::proxy_protocol;
use crate::tcp_proxy::TcpProxy;
use crate::tls::DownstreamTls;
use crate::udp_proxy::UdpListener;

mod chain;
mod decode;
mod filter;

pub use decode::decode;

/// A listener.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Unique.
    pub name: String,
    /// Names its statistics; the address when empty.
    pub stat_prefix: String,
    /// Where it listens, never empty. Port 0 lets the system choose.
    pub addresses: Vec<ListenerAddress>,
    /// Run before a chain is chosen, in order. Has a TLS inspector if any chain needs one.
    pub listener_filters: Vec<ListenerFilter>,
    /// How long listener filters may take; `None` is unlimited.
    pub listener_filters_timeout: Option<Duration>,
    /// After the timeout go on with what is known instead of closing the connection.
    pub continue_on_listener_filters_timeout: bool,
    /// See [`FilterChain`].
    pub filter_chains: Vec<FilterChain>,
    /// For connections that no chain matches; they are closed without it.
    pub default_filter_chain: Option<FilterChain>,
    /// How much a connection may buffer in each direction, roughly.
    pub per_connection_buffer_limit: u32,
    /// Length of the accept queue; the system's maximum without one.
    pub tcp_backlog_size: Option<u32>,
    /// Each worker has its own socket; otherwise they share one.
    pub reuse_port: bool,
    /// Accept connections at all. A listener that is not bound only gets those handed over by another.
    pub bind_to_port: bool,
    /// When it drains.
    pub drain: DrainType,
    /// Which side of a service it serves.
    pub traffic_direction: TrafficDirection,
    /// Probing of idle client connections.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Logs of connections that no chain or no HTTP connection manager logs.
    pub access_logs: Vec<AccessLog>,
    /// Takes datagrams in place of connections.
    pub udp: Option<Box<UdpListener>>,
    /// Its connections neither count for the limit of the process nor are refused by it.
    pub ignore_global_limit: bool,
    /// Free-form.
    pub metadata: Metadata,
}

/// One address of a listener.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerAddress {
    /// An IP address or a pipe, never a name.
    pub address: Address,
    /// Overrides that of the listener.
    pub tcp_keepalive: Option<TcpKeepalive>,
}

/// See [`Listener::drain`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DrainType {
    /// When the process drains, fails its health check, or the listener is changed or removed.
    #[default]
    Default,
    /// When the listener is changed or removed only.
    ModifyOnly,
}

/// See [`Listener::traffic_direction`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TrafficDirection {
    /// Not said.
    #[default]
    Unspecified,
    /// Towards a service.
    Inbound,
    /// From a service.
    Outbound,
}

/// Looks at the first bytes of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenerFilter {
    /// Finds server name and application protocols of a TLS client hello.
    TlsInspector {
        /// Larger client hellos are an error.
        max_client_hello_size: u32,
        /// What is no client hello is an error too.
        only_tls: bool,
    },
    /// Finds the version of HTTP that a plain connection begins with.
    HttpInspector,
    /// Asks the kernel where a redirected connection was to go.
    OriginalDst,
    /// Takes the addresses from a PROXY protocol header.
    ProxyProtocol(Box<proxy_protocol::Inbound>),
    /// Limits how many connections come in a time.
    LocalRateLimit(Box<RateLimit>),
}

/// What happens to a connection that it matches.
#[derive(Debug, Clone, PartialEq)]
pub struct FilterChain {
    /// May be empty.
    pub name: String,
    /// Which connections.
    pub criteria: FilterChainMatch,
    /// TLS, or plain bytes without it.
    pub tls: Option<Box<DownstreamTls>>,
    /// How long the TLS handshake may take; the data plane's default without one.
    pub transport_socket_connect_timeout: Option<Duration>,
    /// Run before the terminal filter, in order.
    pub network_filters: Vec<NetworkFilter>,
    /// What the bytes mean.
    pub terminal: Terminal,
    /// Free-form.
    pub metadata: Metadata,
}

/// Which connections a chain takes. What is empty matches all; within a list one must match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FilterChainMatch {
    /// The port the client wanted, as PROXY protocol or the socket say.
    pub destination_port: Option<u16>,
    /// The address the client wanted.
    pub destinations: Vec<IpNet>,
    /// Server names in lower case; `*.x` is any name below x.
    pub server_names: Vec<String>,
    /// `tls` or `raw_buffer`.
    pub transport_protocol: Option<TransportProtocol>,
    /// Offered by the client in its TLS hello.
    pub application_protocols: Vec<String>,
    /// The address on the other end of the connection, whatever PROXY protocol says.
    pub direct_sources: Vec<IpNet>,
    /// Where the client is.
    pub source_type: SourceType,
    /// The client's address.
    pub sources: Vec<IpNet>,
    /// The client's port.
    pub source_ports: Vec<u16>,
}

/// See [`FilterChainMatch::transport_protocol`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransportProtocol {
    /// TLS, as the inspector found.
    Tls,
    /// Anything else.
    RawBuffer,
}

/// See [`FilterChainMatch::source_type`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SourceType {
    /// Anywhere.
    #[default]
    Any,
    /// On this machine.
    SameIpOrLoopback,
    /// Elsewhere.
    External,
}

impl SourceType {
    /// Whether a client at `source` that connected to `local` is of this type.
    pub fn matches(self, source: IpAddr, local: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::SameIpOrLoopback => source.is_loopback() || source == local,
            Self::External => !source.is_loopback() && source != local,
        }
    }
}

/// The last network filter.
#[derive(Debug, Clone, PartialEq)]
pub enum Terminal {
    /// HTTP.
    Http(Box<HttpConnectionManager>),
    /// Bytes.
    Tcp(Box<TcpProxy>),
    /// The chain has no filter: its connections are closed.
    Close,
}

impl Listener {
    /// Every chain, the default one last.
    pub fn chains(&self) -> impl Iterator<Item = &FilterChain> {
        self.filter_chains.iter().chain(&self.default_filter_chain)
    }
}

#[cfg(test)]
mod tests;
