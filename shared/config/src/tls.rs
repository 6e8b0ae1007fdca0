//! TLS as configured: the contexts of listeners and clusters, and what secrets hold.
//!
//! Names bytes, reads none: files are opened and PEM is parsed by whoever builds the TLS configuration.

use std::path::PathBuf;
use std::time::Duration;

use crate::core::{ConfigSource, DataSource};
use crate::matcher::StringMatcher;

mod decode;
mod socket;
mod validation;

pub use decode::{certificate, downstream, session_ticket_keys, upstream};
pub use socket::downstream_socket;
pub use validation::validation_context;

/// TLS towards clients.
#[derive(Debug, Clone, PartialEq)]
pub struct DownstreamTls {
    /// What both sides have.
    pub common: CommonTls,
    /// Refuse clients without a certificate. Without it a certificate is asked for when there is a validation context.
    pub require_client_certificate: bool,
    /// Keys of session tickets.
    pub tickets: SessionTickets,
    /// Keep sessions in memory for clients that come back with a session id.
    pub stateful_resumption: bool,
    /// How long a session can be resumed; the default of the TLS library without one.
    pub session_timeout: Option<Duration>,
    /// When no certificate fits the SNI, look through all for one the client can use; otherwise the first is used.
    pub full_scan_on_sni_mismatch: bool,
    /// Choose the first cipher of the client's list instead of ours.
    pub prefer_client_ciphers: bool,
}

/// TLS towards upstreams.
#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamTls {
    /// What both sides have.
    pub common: CommonTls,
    /// The server name; none is sent when empty.
    pub sni: String,
    /// Use the host name of the endpoint instead of `sni`, if it has one.
    pub auto_host_sni: bool,
    /// The certificate must be for the name that was sent as SNI.
    pub auto_sni_san_validation: bool,
    /// Sessions kept for resumption; 0 disables it.
    pub max_session_keys: u32,
}

/// What contexts of both directions have.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CommonTls {
    /// Versions and ciphers.
    pub params: TlsParams,
    /// Our certificates, in place.
    pub certificates: Vec<TlsCertificate>,
    /// Our certificates, as secrets.
    pub certificate_secrets: Vec<SecretReference>,
    /// How the certificate of the other side is verified.
    pub validation: Validation,
    /// Protocols by preference.
    pub alpn: Vec<String>,
}

/// Where a validation context comes from.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Validation {
    /// Nothing is verified.
    #[default]
    None,
    /// In place.
    Inline(Box<ValidationContext>),
    /// A secret.
    Secret(SecretReference),
    /// A secret, with what is set in place added to it (see [`ValidationContext::merged`]).
    Combined { default: Box<ValidationContext>, secret: SecretReference },
}

/// A secret by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SecretReference {
    /// Its name.
    pub name: String,
    /// Where it comes from; a static secret of the bootstrap without one.
    pub source: Option<ConfigSource>,
}

/// Protocol versions and what goes with them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct TlsParams {
    /// The lowest version; 1.2 without one.
    pub minimum: Option<TlsVersion>,
    /// The highest version; 1.3 without one.
    pub maximum: Option<TlsVersion>,
    /// TLS 1.2 cipher suites in OpenSSL's names, by preference; all when empty. TLS 1.3 suites are always all.
    pub cipher_suites: Vec<CipherSuite>,
    /// Key exchange groups by preference; the default when empty.
    pub groups: Vec<Group>,
}

/// A protocol version we speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    /// TLS 1.2.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

/// The TLS 1.2 cipher suites we speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CipherSuite {
    EcdheEcdsaAes128GcmSha256,
    EcdheEcdsaAes256GcmSha384,
    EcdheEcdsaChacha20Poly1305,
    EcdheRsaAes128GcmSha256,
    EcdheRsaAes256GcmSha384,
    EcdheRsaChacha20Poly1305,
}

/// The key exchange groups we speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Group {
    X25519,
    P256,
    P384,
    X25519MlKem768,
}

/// A certificate of ours with its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TlsCertificate {
    /// PEM, leaf first.
    pub chain: DataSource,
    /// PEM, not encrypted.
    pub private_key: DataSource,
    /// A DER response to staple.
    pub ocsp_staple: Option<DataSource>,
    /// Files are read again when something is moved into this directory.
    pub watched_directory: Option<PathBuf>,
}

/// How session tickets are made.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum SessionTickets {
    /// With keys of our own, replaced regularly.
    #[default]
    Generated,
    /// With the first of these keys, 80 bytes each; the others still open older tickets.
    Keys(Vec<DataSource>),
    /// With the keys of a secret.
    Secret(SecretReference),
    /// Not at all.
    Disabled,
}

/// How the certificate of the other side is verified. What is not set is not checked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ValidationContext {
    /// Roots of trust, PEM.
    pub trusted_ca: Option<DataSource>,
    /// The roots of the system.
    pub system_roots: bool,
    /// Files are read again when something is moved into this directory.
    pub watched_directory: Option<PathBuf>,
    /// SHA-256 of the certificate; with `certificate_hashes` or `spki_hashes` set, one of either must match.
    pub certificate_hashes: Vec<[u8; 32]>,
    /// SHA-256 of the public key.
    pub spki_hashes: Vec<[u8; 32]>,
    /// One of these must match; all certificates do when empty.
    pub subject_alt_names: Vec<SanMatcher>,
    /// Revocation lists, PEM.
    pub crl: Option<DataSource>,
    /// Only the leaf must not be revoked, not the rest of the chain.
    pub only_verify_leaf_cert_crl: bool,
    /// Dates do not matter.
    pub allow_expired: bool,
    /// A chain that does not lead to a root is accepted; what was verified is only noted.
    pub accept_untrusted: bool,
    /// Do not tell clients which authorities we trust.
    pub suppress_client_ca_list: bool,
}

/// A subject alternative name to match.
#[derive(Debug, Clone, PartialEq)]
pub struct SanMatcher {
    /// Which names; every kind without one.
    pub kind: Option<SanKind>,
    /// How. A DNS name in the certificate may be a wildcard, which an exact matcher honours.
    pub matcher: StringMatcher,
}

/// The kinds of subject alternative names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SanKind {
    Email,
    Dns,
    Uri,
    IpAddress,
}

impl ValidationContext {
    /// This context with what `secret` sets on top, as protobuf merges messages: lists are joined, set fields replace.
    #[must_use]
    pub fn merged(&self, secret: &Self) -> Self {
        let mut merged = self.clone();
        if secret.trusted_ca.is_some() || secret.system_roots {
            merged.trusted_ca.clone_from(&secret.trusted_ca);
            merged.system_roots = secret.system_roots;
        }
        merged.watched_directory = secret.watched_directory.clone().or(merged.watched_directory);
        merged.certificate_hashes.extend_from_slice(&secret.certificate_hashes);
        merged.spki_hashes.extend_from_slice(&secret.spki_hashes);
        merged.subject_alt_names.extend_from_slice(&secret.subject_alt_names);
        merged.crl = secret.crl.clone().or(merged.crl);
        merged.only_verify_leaf_cert_crl |= secret.only_verify_leaf_cert_crl;
        merged.allow_expired |= secret.allow_expired;
        merged.accept_untrusted |= secret.accept_untrusted;
        merged.suppress_client_ca_list |= secret.suppress_client_ca_list;
        merged
    }
}

impl CommonTls {
    /// The secrets this context waits for.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretReference> {
        let validation = match &self.validation {
            Validation::Secret(secret) | Validation::Combined { secret, .. } => Some(secret),
            _ => None,
        };
        self.certificate_secrets.iter().chain(validation)
    }
}

impl DownstreamTls {
    /// The secrets this context waits for.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretReference> {
        let tickets = match &self.tickets {
            SessionTickets::Secret(secret) => Some(secret),
            _ => None,
        };
        self.common.secrets().chain(tickets)
    }
}

#[cfg(test)]
mod tests;
