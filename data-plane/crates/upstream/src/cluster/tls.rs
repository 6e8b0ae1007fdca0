//! TLS towards a cluster: its configuration, once for each list of protocols that may be offered.

use std::sync::Arc;

use dp_net::tls::{Describe, TlsStats};
use rustls::ClientConfig;

/// TLS towards a cluster.
#[derive(Clone)]
pub struct Tls {
    /// As configured.
    pub config: Arc<ClientConfig>,
    /// The same, offering the versions of HTTP by ALPN.
    pub(crate) http1: Arc<ClientConfig>,
    pub(crate) http2: Arc<ClientConfig>,
    pub(crate) negotiated: Arc<ClientConfig>,
    /// The name to ask for; empty asks for none.
    pub sni: String,
    /// The endpoint's host name takes the place of `sni`, if it has one.
    pub auto_host_sni: bool,
    /// Reads certificates for logs and filters.
    pub describe: Describe,
    pub stats: Arc<TlsStats>,
}

// === impl Tls ===

impl Tls {
    /// `config` without a list of protocols offers the versions of HTTP that the cluster speaks.
    pub fn new(
        config: Arc<ClientConfig>,
        (sni, auto_host_sni): (String, bool),
        describe: Describe,
        stats: Arc<TlsStats>,
    ) -> Self {
        let offering = |protocols: &[&[u8]]| {
            if !config.alpn_protocols.is_empty() {
                return Arc::clone(&config);
            }
            let mut offering = ClientConfig::clone(&config);
            offering.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
            Arc::new(offering)
        };
        let (http1, http2) = (offering(&[b"http/1.1"]), offering(&[b"h2"]));
        let negotiated = offering(&[b"h2", b"http/1.1"]);
        Self { config, http1, http2, negotiated, sni, auto_host_sni, describe, stats }
    }
}
