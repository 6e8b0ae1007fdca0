//! TLS: configurations for servers and clients, certificates and how they are verified, session tickets.
//!
//! Knows rustls, and nothing about where bytes come from or what is served over the connections: callers hand in PEM and
//! settings, and get `Arc<rustls::ServerConfig>` and `Arc<rustls::ClientConfig>`.

mod certificate;
mod client;
mod info;
mod provider;
mod resolver;
mod server;
mod ticket;
mod verify;

pub use certificate::{Certificate, CertificateError};
pub use client::{ClientSettings, client_config};
pub use info::{CertificateInfo, describe};
pub use provider::{Params, Version, install_default};
pub use server::{ClientAuth, ServerSettings, Tickets, server_config};
pub use verify::{NameMatch, Roots, SanCheck, SanKind, Unverified, Verification, unverified};

/// Why a TLS configuration cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One of our certificates.
    #[error("certificate {index}: {source}")]
    Certificate { index: usize, source: CertificateError },
    /// The roots of trust.
    #[error("trusted_ca: {0}")]
    TrustedCa(String),
    /// The roots of the system.
    #[error("no root certificates were found on this system")]
    NoSystemRoots,
    /// The revocation lists.
    #[error("crl: {0}")]
    Crl(String),
    /// The key of session tickets at this position.
    #[error("session ticket key {index} has {length} bytes, 80 are needed")]
    TicketKey { index: usize, length: usize },
    /// A cipher suite or group that is not known.
    #[error("{0:?} is not a cipher suite or key exchange group we have")]
    UnknownAlgorithm(String),
    /// A server without a certificate.
    #[error("a server needs a certificate")]
    NoCertificate,
    /// What rustls does not accept.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

#[cfg(test)]
mod tests;
