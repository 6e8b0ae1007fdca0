//! What is known about one stream while it lives: filters, formatters and the access log read it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use crate::flags::Flags;
use crate::head::Protocol;

/// Where bytes come from or go to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    Ip(SocketAddr),
    /// A unix socket; the path is empty for an unnamed one.
    Pipe(Arc<str>),
}

/// An IP address as text, made without an allocation.
#[derive(Debug, Clone, Copy)]
pub struct IpText {
    bytes: [u8; 45],
    len: usize,
}

/// What TLS said about a connection; `None` of this is known before the handshake ended.
#[derive(Debug, Clone, Default)]
pub struct TlsInfo {
    /// The server name the client asked for, in lower case.
    pub sni: Option<Arc<str>>,
    pub alpn: Option<Arc<str>>,
    /// For example `TLSv1.3`.
    pub version: &'static str,
    /// For example `TLS_AES_128_GCM_SHA256`.
    pub cipher: &'static str,
    pub peer: Option<Arc<PeerCertificate>>,
    pub local: Option<Arc<PeerCertificate>>,
    /// The session was resumed: no certificate was shown again.
    pub resumed: bool,
}

/// What a certificate says, read once a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerCertificate {
    pub uri_sans: Vec<String>,
    pub dns_sans: Vec<String>,
    pub ip_sans: Vec<String>,
    pub email_sans: Vec<String>,
    pub subject: String,
    pub issuer: String,
    /// Lower-case hex.
    pub serial: String,
    /// SHA-256 of the DER form, lower-case hex.
    pub fingerprint_256: String,
    /// SHA-1 of the DER form, lower-case hex.
    pub fingerprint_1: String,
    /// URL-encoded PEM, as `x-forwarded-client-cert` carries it.
    pub pem_url_encoded: String,
    /// The same for the whole chain.
    pub chain_url_encoded: String,
    pub not_before: Option<SystemTime>,
    pub not_after: Option<SystemTime>,
    /// Whether it was verified against a trusted authority.
    pub verified: bool,
}

/// What is known about the downstream connection; shared by its streams.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// Unique in the process; see [`ConnectionInfo::id`].
    pub id: u64,
    /// The address that the socket shows.
    pub direct_remote: Address,
    /// The same, or what the PROXY protocol said.
    pub remote: Address,
    pub local: Address,
    /// `local` is where the client wanted to go: the kernel or a PROXY header said so.
    pub is_restored: bool,
    pub tls: Option<TlsInfo>,
    /// The server name asked for, also when TLS is passed through.
    pub requested_server_name: Option<Arc<str>>,
    pub start: SystemTime,
    pub listener: Arc<str>,
    pub filter_chain: Arc<str>,
    /// What of the client's PROXY header may be passed on: its extensions by their type. `None` without a header.
    pub proxied: Option<Arc<[(u8, Bytes)]>>,
    /// What listener filters found; every stream of the connection begins with it.
    pub metadata: Option<Box<Metadata>>,
    /// What network filters wrote; likewise.
    pub filter_state: Option<Box<FilterState>>,
}

impl ConnectionInfo {
    /// The id of the connection number `count` of a worker, whose shard of the statistics is `shard`.
    pub fn id(shard: usize, count: u64) -> u64 {
        (shard as u64) << 48 | count
    }

    /// The shard of the worker that has this connection.
    pub fn shard(&self) -> usize {
        (self.id >> 48) as usize
    }
}

/// Moments of a stream, as time since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// The last byte of the request came in.
    pub request_complete: Option<Duration>,
    /// The first and last byte of the request went upstream.
    pub upstream_first_sent: Option<Duration>,
    pub upstream_last_sent: Option<Duration>,
    /// The first and last byte of the response came from upstream.
    pub upstream_first_received: Option<Duration>,
    pub upstream_last_received: Option<Duration>,
    /// The first and last byte of the response went downstream.
    pub downstream_first_sent: Option<Duration>,
    pub downstream_last_sent: Option<Duration>,
    pub upstream_connect_start: Option<Duration>,
    pub upstream_connect_complete: Option<Duration>,
    pub upstream_handshake_complete: Option<Duration>,
}

/// Bytes of a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Body bytes from the client (`%BYTES_RECEIVED%`).
    pub received: u64,
    /// Body bytes to the client (`%BYTES_SENT%`).
    pub sent: u64,
    pub request_headers: u64,
    pub response_headers: u64,
    pub response_trailers: u64,
    pub upstream_sent: u64,
    pub upstream_received: u64,
}

/// The upstream side of a stream, once an endpoint was picked.
#[derive(Debug, Clone, Default)]
pub struct UpstreamInfo {
    pub cluster: Option<Arc<str>>,
    pub host: Option<Address>,
    pub host_name: Option<Arc<str>>,
    pub local: Option<Address>,
    pub protocol: Option<Protocol>,
    pub connection_id: u64,
    /// Why connecting or TLS failed, for `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
    pub failure: Option<Cow<'static, str>>,
    pub tls: Option<TlsInfo>,
    /// Tries so far, the first included.
    pub attempts: u32,
}

/// The endpoint that a session sticks to, for the first try of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StickyHost {
    pub address: Address,
    /// No other endpoint will do.
    pub is_strict: bool,
    /// What is answered when a strict one is not there.
    pub status: u16,
}

/// One stream, from its head to its access log.
#[derive(Debug, Clone)]
pub struct StreamInfo {
    pub connection: Arc<ConnectionInfo>,
    /// Wall clock at the first byte of the request.
    pub start: SystemTime,
    /// Monotonic clock at the same moment.
    pub began: Instant,
    /// Set when the stream ended.
    pub duration: Option<Duration>,
    pub protocol: Protocol,
    /// Who the request comes from, by the trusted hops of `x-forwarded-for`.
    pub client: Address,
    /// Whether the client counts as internal (Envoy's `x-envoy-internal`).
    pub internal: bool,
    /// Value of `x-request-id`, empty when there is none.
    pub request_id: String,
    pub flags: Flags,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: Cow<'static, str>,
    /// `%CONNECTION_TERMINATION_DETAILS%`.
    pub termination: Cow<'static, str>,
    /// 0 until a head was sent downstream.
    pub status: u16,
    pub route: Option<Arc<str>>,
    pub virtual_host: Option<Arc<str>>,
    pub upstream: UpstreamInfo,
    /// Boxed because most streams have none.
    pub sticky: Option<Box<StickyHost>>,
    pub timing: Timing,
    pub sizes: Sizes,
    /// Health-check requests answered here (`not_health_check_filter`).
    pub health_check: bool,
    pub grpc_status: Option<u8>,
    /// Path before any rewrite, when it was rewritten.
    pub original_path: Option<String>,
    /// Dynamic metadata by filter name; boxed because most streams have none.
    pub metadata: Option<Box<Metadata>>,
    /// `%ACCESS_LOG_TYPE%`: the moment that a line is written at.
    pub log_type: &'static str,
    /// Filter state objects by key.
    pub filter_state: Option<Box<FilterState>>,
    /// The route's static metadata, for `%METADATA(ROUTE:…)%`.
    pub route_metadata: Option<Arc<Metadata>>,
    pub cluster_metadata: Option<Arc<Metadata>>,
    pub host_metadata: Option<Arc<Metadata>>,
}

/// Filter state objects by key.
pub type FilterState = BTreeMap<String, FilterObject>;

/// What a filter wrote for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterObject {
    pub text: String,
    /// Hash policies may use it.
    pub hashable: bool,
}

/// Metadata of a stream or a resource: filter name → dotted path → text or JSON text.
pub type Metadata = BTreeMap<String, BTreeMap<String, String>>;

// === impl Address ===

impl Address {
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address.ip().to_canonical()),
            Self::Pipe(_) => None,
        }
    }

    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Ip(address) => Some(address.port()),
            Self::Pipe(_) => None,
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Pipe(path) => f.write_str(path),
        }
    }
}

// === impl IpText ===

impl IpText {
    pub fn new(ip: IpAddr) -> Self {
        let mut text = Self { bytes: [0; 45], len: 0 };
        match ip {
            IpAddr::V4(ip) => text.put_v4(ip.octets()),
            // The longest is `0000:0000:0000:0000:0000:ffff:255.255.255.255`.
            IpAddr::V6(ip) => {
                let mut free = &mut text.bytes[..];
                let written = write!(free, "{ip}");
                let left = free.len();
                debug_assert!(written.is_ok(), "an address fits");
                text.len = 45 - left;
            }
        }
        text
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn put_v4(&mut self, octets: [u8; 4]) {
        for (index, octet) in octets.into_iter().enumerate() {
            if index > 0 {
                self.put(b'.');
            }
            if octet >= 100 {
                self.put(b'0' + octet / 100);
            }
            if octet >= 10 {
                self.put(b'0' + octet / 10 % 10);
            }
            self.put(b'0' + octet % 10);
        }
    }

    fn put(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }
}

// === impl ConnectionInfo ===

impl ConnectionInfo {
    /// A connection of which only the addresses are known.
    pub fn between(remote: Address, local: Address) -> Self {
        Self {
            id: 0,
            direct_remote: remote.clone(),
            remote,
            local,
            is_restored: false,
            tls: None,
            requested_server_name: None,
            start: SystemTime::now(),
            listener: "".into(),
            filter_chain: "".into(),
            proxied: None,
            metadata: None,
            filter_state: None,
        }
    }
}

// === impl StreamInfo ===

impl StreamInfo {
    /// What a filter wrote under this key.
    pub fn filter_object(&self, key: &str) -> Option<&FilterObject> {
        self.filter_state.as_ref()?.get(key)
    }

    /// The same, for a hash policy.
    pub fn hashable(&self, key: &str) -> Option<&str> {
        self.filter_object(key).filter(|object| object.hashable).map(|object| &*object.text)
    }

    pub fn new(connection: Arc<ConnectionInfo>, protocol: Protocol, start: SystemTime, began: Instant) -> Self {
        let (metadata, filter_state) = (connection.metadata.clone(), connection.filter_state.clone());
        Self {
            client: connection.remote.clone(),
            connection,
            start,
            began,
            duration: None,
            protocol,
            internal: false,
            request_id: String::new(),
            flags: Flags::default(),
            details: Cow::Borrowed(""),
            termination: Cow::Borrowed(""),
            status: 0,
            route: None,
            virtual_host: None,
            upstream: UpstreamInfo::default(),
            sticky: None,
            timing: Timing::default(),
            sizes: Sizes::default(),
            health_check: false,
            grpc_status: None,
            original_path: None,
            metadata,
            log_type: "DownstreamEnd",
            filter_state,
            route_metadata: None,
            cluster_metadata: None,
            host_metadata: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_as_its_display_form() {
        for text in ["0.0.0.0", "127.0.0.1", "10.99.100.255", "::", "::1", "2001:db8::1", "::ffff:255.255.255.255"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(IpText::new(ip).as_bytes(), text.as_bytes());
        }
        let longest: IpAddr = "1111:2222:3333:4444:5555:6666:7777:8888".parse().unwrap();
        assert_eq!(IpText::new(longest).as_bytes(), longest.to_string().as_bytes());
    }
}
