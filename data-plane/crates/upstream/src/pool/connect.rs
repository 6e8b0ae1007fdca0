//! Making one connection: the socket, TLS, and the HTTP version both agree on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use dp_http::Io;
use dp_http::info::{Address, TlsInfo};
use dp_net::{DialOptions, Keepalive, Reset, Resettable, Stream, dial, dial_first};
use rustls::ClientConfig;
use rustls::pki_types::{IpAddr, ServerName};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

use crate::cluster::{Cluster, Tls};
use crate::endpoint::Endpoint;
use crate::proxy_header::{self, Proxied};

/// What is to be spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wanted {
    Http1,
    Http2,
    /// What the endpoint chooses by ALPN; HTTP/1 if it does not choose.
    Negotiated,
    /// No HTTP.
    Raw,
}

/// Why there is no connection.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    #[error("too many requests wait for a connection")]
    PendingOverflow,
    #[error("too many connections")]
    ConnectionOverflow,
    #[error("too many connection pools")]
    PoolOverflow,
    #[error("connection timeout")]
    Timeout,
    /// Envoy's words, with the system's.
    #[error("delayed connect error: {0}")]
    Connect(Arc<str>),
    #[error("TLS_error: {0}")]
    Tls(Arc<str>),
    #[error("connection closed before it could be used")]
    Closed,
}

impl ConnectError {
    /// Whether a circuit breaker is open, rather than that connecting failed.
    pub fn is_overflow(&self) -> bool {
        matches!(self, Self::PendingOverflow | Self::ConnectionOverflow | Self::PoolOverflow)
    }
}

/// A new connection.
pub(crate) struct Made {
    pub io: Io,
    /// Makes the connection end with a reset.
    pub reset: Reset,
    pub http2: bool,
    pub remote: Address,
    pub local: Option<Address>,
    pub tls: Option<TlsInfo>,
    pub connected: Instant,
    pub handshake: Option<Instant>,
}

/// Connects within the cluster's connect timeout, TLS included.
pub(crate) async fn connect(
    cluster: &Cluster,
    endpoint: &Endpoint,
    wanted: Wanted,
    server_name: Option<&str>,
    proxied: Option<&Proxied>,
    worker: usize,
) -> Result<Made, ConnectError> {
    let target = Target { address: &endpoint.address, offer: None, proxied, shard: worker + 1 };
    let connecting = establish(cluster, endpoint, target, wanted, server_name);
    timeout(cluster.connect_timeout(), connecting).await.unwrap_or(Err(ConnectError::Timeout))
}

/// Where a connection goes, and on whose behalf.
pub(crate) struct Target<'a> {
    pub(crate) address: &'a Address,
    /// In place of the cluster's TLS.
    pub(crate) offer: Option<&'a Arc<ClientConfig>>,
    /// What a PROXY protocol header tells; `None`: the connection is our own.
    pub(crate) proxied: Option<&'a Proxied>,
    /// Of the statistics.
    pub(crate) shard: usize,
}

/// Connects at `target`. The caller has the deadline.
pub(crate) async fn establish(
    cluster: &Cluster,
    endpoint: &Endpoint,
    target: Target<'_>,
    wanted: Wanted,
    server_name: Option<&str>,
) -> Result<Made, ConnectError> {
    let options = DialOptions {
        source: cluster.config.source_address,
        keepalive: cluster.config.keepalive.map(|k| Keepalive { time: k.time, interval: k.interval, probes: k.probes }),
    };
    let dialled = match &*endpoint.addresses {
        all if !all.is_empty() && *target.address == endpoint.address => {
            dial_first(all, &options).await.map(|(stream, index)| (stream, &all[index]))
        }
        _ => dial(target.address, &options).await.map(|stream| (stream, target.address)),
    };
    let (mut stream, remote) = dialled.map_err(|error| {
        if dp_net::dial::is_of_source(&error) {
            cluster.state.stats.bind_errors().inc(target.shard);
        }
        ConnectError::Connect(reason(&error))
    })?;
    let local = local_address(&stream);
    let connected = Instant::now();
    if let Some(config) = &cluster.config.proxy_protocol {
        let header = proxy_header::header(config, endpoint, target.proxied, local.as_ref());
        stream.write_all(&header).await.map_err(|error| ConnectError::Connect(reason(&error)))?;
    }
    let made = |io: Io, reset, http2, tls, handshake| Made {
        io,
        reset,
        http2,
        remote: remote.clone(),
        local,
        tls,
        connected,
        handshake,
    };
    let Some(tls) = &cluster.tls else {
        let http2 = wanted == Wanted::Http2;
        return Ok(match stream {
            // HTTP ends its connections itself.
            Stream::Tcp(stream) if wanted != Wanted::Raw => made(Box::new(stream), Reset::default(), http2, None, None),
            stream => {
                let (stream, reset) = Resettable::new(stream);
                made(Box::new(stream), reset, http2, None, None)
            }
        });
    };
    let (stream, reset) = Resettable::new(stream);
    let name = name(tls, endpoint, server_name)?;
    let config = target.offer.cloned().unwrap_or_else(|| tls.for_protocol(wanted));
    let handshake = dp_net::tls::connect(stream, config, name, tls.describe).await;
    tls.stats.count(handshake.as_ref().map(|(_, info)| info), target.shard);
    let (stream, info) = handshake.map_err(|error| ConnectError::Tls(error.to_string().into()))?;
    let http2 = match wanted {
        Wanted::Http2 => true,
        Wanted::Negotiated => info.alpn.as_deref() == Some("h2"),
        Wanted::Http1 | Wanted::Raw => false,
    };
    Ok(made(Box::new(stream), reset, http2, Some(info), Some(Instant::now())))
}

/// The words of the system, without Rust's error number.
fn reason(error: &io::Error) -> Arc<str> {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).into()
}

fn local_address(stream: &Stream) -> Option<Address> {
    match stream {
        Stream::Tcp(stream) => stream.local_addr().ok().map(Address::Ip),
        Stream::Unix(_) => None,
    }
}

/// The name to ask for and to check the certificate against; an IP address is never asked for.
fn name(tls: &Tls, endpoint: &Endpoint, wanted: Option<&str>) -> Result<ServerName<'static>, ConnectError> {
    let hostname = &*endpoint.state.hostname;
    let text = match wanted {
        Some(name) => name,
        None if tls.auto_host_sni && !hostname.is_empty() => hostname,
        None => &*tls.sni,
    };
    if !text.is_empty() {
        let name = ServerName::try_from(text.to_owned());
        return name.map_err(|_| ConnectError::Tls(format!("{text:?} is not a server name").into()));
    }
    let ip = endpoint.address.ip().unwrap_or(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
    Ok(ServerName::IpAddress(IpAddr::from(ip)))
}

/// Counts a failure to connect.
pub(crate) fn count_failure(cluster: &Cluster, endpoint: &Endpoint, worker: usize, error: &ConnectError) {
    let stats = &cluster.state.stats;
    stats.upstream_cx_connect_fail().inc(worker + 1);
    if matches!(error, ConnectError::Timeout) {
        stats.upstream_cx_connect_timeout().inc(worker + 1);
    }
    endpoint.state.counters.cx_connect_fail.fetch_add(1, Relaxed);
}

// === impl Tls ===

impl Tls {
    /// The configuration that offers what is wanted by ALPN, unless the list was configured.
    fn for_protocol(&self, wanted: Wanted) -> Arc<ClientConfig> {
        Arc::clone(match wanted {
            Wanted::Http1 => &self.http1,
            Wanted::Http2 => &self.http2,
            Wanted::Negotiated => &self.negotiated,
            Wanted::Raw => &self.config,
        })
    }
}
