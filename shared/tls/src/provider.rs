//! The cryptography: one provider in the process, narrowed where a configuration asks for it.

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

use crate::TlsError;

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));

/// Makes aws-lc-rs the provider of the process. The first thing in every `main`; does nothing the second time.
pub fn install_default() {
    // An error says that it was installed before.
    let _ = aws_lc_rs::default_provider().install_default();
}

/// A protocol version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// TLS 1.2.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

/// Versions and algorithms; what is empty or `None` is the default.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Params {
    /// The lowest version.
    pub minimum: Option<Version>,
    /// The highest version.
    pub maximum: Option<Version>,
    /// TLS 1.2 cipher suites by preference, in OpenSSL's names. TLS 1.3 has all of its own always.
    pub cipher_suites: Vec<String>,
    /// Key exchange groups by preference: `X25519`, `P-256`, `P-384`, `X25519MLKEM768`.
    pub groups: Vec<String>,
}

impl Params {
    pub(crate) fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        let within =
            |version| self.minimum.is_none_or(|min| version >= min) && self.maximum.is_none_or(|max| version <= max);
        let all = [(Version::V1_3, &rustls::version::TLS13), (Version::V1_2, &rustls::version::TLS12)];
        all.into_iter().filter(|(version, _)| within(*version)).map(|(_, supported)| supported).collect()
    }

    pub(crate) fn provider(&self) -> Result<Arc<CryptoProvider>, TlsError> {
        if self.cipher_suites.is_empty() && self.groups.is_empty() {
            return Ok(Arc::clone(&PROVIDER));
        }
        let mut provider = (**PROVIDER).clone();
        if !self.cipher_suites.is_empty() {
            let tls13 = provider.cipher_suites.iter().copied().filter(|suite| suite.tls13().is_some());
            let tls12 = self.cipher_suites.iter().map(|name| suite(name));
            provider.cipher_suites = tls13.map(Ok).chain(tls12).collect::<Result<_, _>>()?;
        }
        if !self.groups.is_empty() {
            provider.kx_groups = self.groups.iter().map(|name| group(name)).collect::<Result<_, _>>()?;
        }
        Ok(Arc::new(provider))
    }
}

pub(crate) fn default_provider() -> &'static Arc<CryptoProvider> {
    &PROVIDER
}

fn suite(name: &str) -> Result<SupportedCipherSuite, TlsError> {
    use aws_lc_rs::cipher_suite as suites;
    Ok(match name {
        "ECDHE-ECDSA-AES128-GCM-SHA256" => suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        "ECDHE-ECDSA-AES256-GCM-SHA384" => suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        "ECDHE-ECDSA-CHACHA20-POLY1305" => suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        "ECDHE-RSA-AES128-GCM-SHA256" => suites::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        "ECDHE-RSA-AES256-GCM-SHA384" => suites::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        "ECDHE-RSA-CHACHA20-POLY1305" => suites::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        other => return Err(TlsError::UnknownAlgorithm(other.to_owned())),
    })
}

fn group(name: &str) -> Result<&'static dyn rustls::crypto::SupportedKxGroup, TlsError> {
    use aws_lc_rs::kx_group as groups;
    Ok(match name {
        "X25519" => groups::X25519,
        "P-256" => groups::SECP256R1,
        "P-384" => groups::SECP384R1,
        "X25519MLKEM768" => groups::X25519MLKEM768,
        other => return Err(TlsError::UnknownAlgorithm(other.to_owned())),
    })
}
