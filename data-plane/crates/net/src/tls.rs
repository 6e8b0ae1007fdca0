//! TLS on a connection: the handshake from either side, and what it agreed on.
//!
//! Never makes a TLS configuration, never has a deadline: both are the caller's.

use std::io;
use std::sync::Arc;

use dp_http::info::{PeerCertificate, TlsInfo};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CipherSuite, ClientConfig, CommonState, HandshakeKind, ProtocolVersion, ServerConfig};
use shared_tls::Unverified;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// What rustls refused; an alert was sent.
    #[error("TLS handshake failed: {0}")]
    Handshake(#[from] rustls::Error),
    #[error("TLS handshake failed: {0}")]
    Io(io::Error),
}

shared_telemetry::stats! {
    /// `listener.ADDRESS.ssl.` and `cluster.NAME.ssl.`
    pub struct TlsStats {
        counter handshake,
        counter connection_error,
        counter session_reused,
        counter no_certificate,
        counter fail_verify_no_cert,
        counter fail_verify_error,
        counter fail_verify_san,
        counter fail_verify_cert_hash,
    }
}

/// Reads a certificate chain, first the end entity, into what the log and the filters show of it.
pub type Describe = fn(&[CertificateDer<'_>]) -> PeerCertificate;

/// Takes a client's handshake.
pub async fn accept<S>(
    stream: S,
    config: Arc<ServerConfig>,
    describe: Describe,
) -> Result<(server::TlsStream<S>, TlsInfo), TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stream = TlsAcceptor::from(config).accept(stream).await.map_err(TlsError::from_io)?;
    let (_, session) = stream.get_ref();
    let mut info = info(session, describe);
    info.sni = session.server_name().map(|name| Arc::from(name.to_ascii_lowercase()));
    Ok((stream, info))
}

/// Starts a handshake with a server. `name` is what it is asked for, and what its certificate is checked against.
pub async fn connect<S>(
    stream: S,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    describe: Describe,
) -> Result<(client::TlsStream<S>, TlsInfo), TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let sni: Option<Arc<str>> = match &name {
        ServerName::DnsName(name) if config.enable_sni => Some(Arc::from(name.as_ref())),
        _ => None,
    };
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(TlsError::from_io)?;
    let (_, session) = stream.get_ref();
    let info = TlsInfo { sni, ..info(session, describe) };
    Ok((stream, info))
}

fn info(session: &CommonState, describe: Describe) -> TlsInfo {
    let alpn = session.alpn_protocol().and_then(|alpn| std::str::from_utf8(alpn).ok());
    TlsInfo {
        sni: None,
        alpn: alpn.map(Arc::from),
        version: session.protocol_version().map_or("", version_name),
        cipher: session.negotiated_cipher_suite().map_or("", |suite| cipher_name(suite.suite())),
        peer: session.peer_certificates().filter(|chain| !chain.is_empty()).map(|chain| Arc::new(describe(chain))),
        local: None,
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
    }
}

fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_2 => "TLSv1.2",
        ProtocolVersion::TLSv1_3 => "TLSv1.3",
        _ => "",
    }
}

/// The names of OpenSSL, as Envoy logs them.
fn cipher_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => "",
    }
}

// === impl TlsStats ===

impl TlsStats {
    /// Counts how a handshake went. A peer that only went away counts as nothing, as in Envoy.
    pub fn count(&self, outcome: Result<&TlsInfo, &TlsError>, shard: usize) {
        let refused = match outcome {
            Ok(info) => {
                self.handshake().inc(shard);
                if info.resumed {
                    self.session_reused().inc(shard);
                }
                if info.peer.is_none() {
                    self.no_certificate().inc(shard);
                }
                return;
            }
            Err(TlsError::Io(_)) => return,
            Err(TlsError::Handshake(error)) => shared_tls::unverified(error),
        };
        match refused {
            None => self.connection_error(),
            Some(Unverified::Missing) => self.fail_verify_no_cert(),
            Some(Unverified::Name) => self.fail_verify_san(),
            Some(Unverified::Hash) => self.fail_verify_cert_hash(),
            Some(Unverified::Chain) => self.fail_verify_error(),
        }
        .inc(shard);
    }
}

// === impl TlsError ===

impl TlsError {
    /// rustls' own errors arrive wrapped in an `io::Error`.
    fn from_io(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(inner) => Self::Handshake(inner.clone()),
            None => Self::Io(error),
        }
    }
}

#[cfg(test)]
mod tests;
