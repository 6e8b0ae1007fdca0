//! The HTTP connection manager: codecs, limits, timeouts, what becomes of addresses, paths and hosts, routes and filters.
//!
//! Defaults are Envoy's, and are filled in here; what is `Option` is off, unlimited or the codec's choice without a value.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::access_log::AccessLog;
use crate::core::ConfigSource;
use crate::http_filter::HttpFilter;
use crate::route::RouteConfiguration;

mod address;
mod decode;
mod local_reply;
mod protocol;

pub use decode::decode;
pub use local_reply::{LocalReply, ReplyMapper};
pub use protocol::{FrameLimits, HeadersWithUnderscores, Http1Options, Http2Options, HttpOptions, Keepalive};
pub use protocol::{http_options, http1_options, http2_options};

/// HTTP on a filter chain.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpConnectionManager {
    /// Names its statistics.
    pub stat_prefix: String,
    /// Which HTTP versions.
    pub codec: Codec,
    /// Where the routes come from.
    pub routes: RouteSource,
    /// The filters, the router last.
    pub http_filters: Vec<HttpFilter>,
    /// Upgrades and CONNECT, as routes may change them.
    pub upgrades: Vec<Upgrade>,
    /// Options of every version.
    pub http: HttpOptions,
    /// Options of HTTP/1.
    pub http1: Http1Options,
    /// Options of HTTP/2.
    pub http2: Http2Options,
    /// The largest request head, in KiB.
    pub max_request_headers_kb: u32,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// Value of the `server` header.
    pub server_name: String,
    /// What happens to the `server` header of the upstream.
    pub server_header: ServerHeader,
    /// What the scheme of a request becomes.
    pub scheme: Scheme,
    /// Who the client is.
    pub client: ClientAddress,
    /// What the upstream learns about the client's certificate.
    pub client_certificate: ForwardClientCertificate,
    /// `x-request-id`.
    pub request_id: RequestId,
    /// Text added to the `via` header; none when empty.
    pub via: String,
    /// Set `user-agent` and `x-envoy-downstream-service-cluster` to the cluster of this node.
    pub add_user_agent: bool,
    /// Send `expect: 100-continue` upstream instead of answering it.
    pub proxy_100_continue: bool,
    /// What happens to paths.
    pub path: PathOptions,
    /// What happens to host names.
    pub host: HostOptions,
    /// What our own replies look like.
    pub local_reply: LocalReply,
    /// The logs.
    pub access_logs: Vec<AccessLog>,
}

/// See [`HttpConnectionManager::codec`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Codec {
    /// By ALPN, else by the first bytes.
    #[default]
    Auto,
    /// HTTP/1.
    Http1,
    /// HTTP/2, with prior knowledge when there is no TLS.
    Http2,
}

/// Where the routes come from.
#[derive(Debug, Clone, PartialEq)]
pub enum RouteSource {
    /// A resource by name.
    Rds { name: String, source: ConfigSource },
    /// In place.
    Inline(Arc<RouteConfiguration>),
}

/// An upgrade of HTTP/1 (`websocket`), an extended CONNECT of HTTP/2, or `connect` for CONNECT itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Upgrade {
    /// The protocol, in lower case.
    pub protocol: String,
    /// Allowed where a route does not say otherwise.
    pub enabled: bool,
}

/// How long things may take; `None` is for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// Without bytes in either direction of a stream; 5 minutes by default. Routes may change it.
    pub stream_idle: Option<Duration>,
    /// From the first byte of a request to its last.
    pub request: Option<Duration>,
    /// From the first byte of a request to the end of its head; 1 minute by default, where Envoy has none.
    pub request_headers: Option<Duration>,
    /// How long we wait for the client to close after our last byte; 1 second by default, `None` is at once.
    pub delayed_close: Option<Duration>,
}

/// See [`HttpConnectionManager::server_header`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ServerHeader {
    /// It is ours.
    #[default]
    Overwrite,
    /// It is ours if there is none.
    AppendIfAbsent,
    /// It is left alone.
    PassThrough,
}

/// See [`HttpConnectionManager::scheme`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Scheme {
    /// As it came.
    #[default]
    Keep,
    /// Always this one.
    Http,
    /// Always this one.
    Https,
    /// What the upstream connection is.
    MatchUpstream,
}

/// Who the client is and what the upstream is told about it.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientAddress {
    /// The client is the other end of the connection; what it says about itself is not believed.
    pub use_remote_address: bool,
    /// Proxies in front of us whose entries in `x-forwarded-for` are believed.
    pub xff_trusted_hops: u32,
    /// Leave `x-forwarded-for` alone.
    pub skip_xff_append: bool,
    /// Write IPv4 addresses as IPv6 in `x-forwarded-for`.
    pub as_mapped_ipv6: bool,
    /// Send `x-forwarded-port`.
    pub append_x_forwarded_port: bool,
    /// Which clients are internal.
    pub internal: InternalAddresses,
    /// The first of these that finds an address wins; none leaves it to the fields above.
    pub detection: Vec<AddressDetection>,
}

/// Which clients are internal: their `x-envoy-*` headers are believed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InternalAddresses {
    /// Clients on a Unix socket.
    pub unix_sockets: bool,
    /// Clients with these addresses; nobody when empty.
    pub ranges: Vec<IpNet>,
}

/// A way to find the client's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressDetection {
    /// From `x-forwarded-for`.
    Xff {
        /// Count this many entries from the end...
        trusted_hops: u32,
        /// ...or skip those in these ranges.
        trusted_ranges: Vec<IpNet>,
        /// Leave the header alone.
        skip_append: bool,
    },
    /// From a header with one address.
    Header {
        /// Its name, in lower case.
        name: String,
        /// The address makes the client internal if it is an internal one.
        trusted: bool,
        /// Answer with this status when there is no valid address; go on without one.
        reject_with: Option<u16>,
    },
}

/// `x-forwarded-client-cert`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ForwardClientCertificate {
    /// What happens to the header.
    pub mode: ForwardMode,
    /// Tell the subject.
    pub subject: bool,
    /// Tell the certificate.
    pub certificate: bool,
    /// Tell the whole chain.
    pub chain: bool,
    /// Tell the DNS names.
    pub dns: bool,
    /// Tell the URI.
    pub uri: bool,
}

/// See [`ForwardClientCertificate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForwardMode {
    /// It is removed.
    #[default]
    Sanitize,
    /// It is passed on if the client has a certificate, else removed.
    ForwardOnly,
    /// Our entry is added if the client has a certificate, else it is removed.
    AppendForward,
    /// It is replaced by our entry if the client has a certificate, else removed.
    SanitizeSet,
    /// It is passed on always.
    AlwaysForwardOnly,
}

/// `x-request-id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    /// Make one when there is none.
    pub generate: bool,
    /// Believe the one of external clients.
    pub preserve_external: bool,
    /// Tell it to the client.
    pub in_response: bool,
}

/// What happens to paths before routing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PathOptions {
    /// By RFC 3986: dot segments are resolved, escapes of unreserved characters too.
    pub normalize: bool,
    /// `//` becomes `/`.
    pub merge_slashes: bool,
    /// `%2F` and `%5C`.
    pub escaped_slashes: EscapedSlashes,
}

/// See [`PathOptions`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EscapedSlashes {
    /// They stay.
    #[default]
    Keep,
    /// 400.
    Reject,
    /// 307 to the path without escapes.
    UnescapeAndRedirect,
    /// The path without escapes is used.
    UnescapeAndForward,
}

/// What happens to `host` and `:authority` before routing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostOptions {
    /// Take off a port.
    pub strip_port: StripPort,
    /// Take off a dot at the end.
    pub strip_trailing_dot: bool,
}

/// See [`HostOptions`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StripPort {
    /// Leave it.
    #[default]
    Keep,
    /// If it is the one of the listener.
    Matching,
    /// Always.
    Any,
}

#[cfg(test)]
mod tests;
