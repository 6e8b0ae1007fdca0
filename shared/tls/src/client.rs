//! The TLS configuration of a cluster.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::sign::SingleCertAndKey;

use crate::TlsError;
use crate::certificate::Certificate;
use crate::provider::Params;
use crate::verify::{Verification, Verifier};

/// What a client does.
#[derive(Clone, Default)]
pub struct ClientSettings {
    /// For servers that ask for one.
    pub certificate: Option<Certificate>,
    /// Versions and algorithms.
    pub params: Params,
    /// Protocols by preference.
    pub alpn: Vec<String>,
    /// How the server is verified.
    pub verification: Verification,
    /// Send the name of the server that a connection is for.
    pub send_sni: bool,
    /// Sessions kept for resumption; 0 for none.
    pub max_sessions: u32,
}

/// Builds the configuration of a client.
///
/// # Errors
/// Roots or lists are broken, or no version is left.
pub fn client_config(settings: ClientSettings) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(settings.params.provider()?)
        .with_protocol_versions(&settings.params.versions())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier::new(settings.verification, false)?));
    let mut config = match settings.certificate {
        Some(certificate) => {
            let key: Arc<rustls::sign::CertifiedKey> = certificate.key;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = settings.alpn.into_iter().map(String::into_bytes).collect();
    config.enable_sni = settings.send_sni;
    config.resumption = match usize::try_from(settings.max_sessions) {
        Ok(0) | Err(_) => Resumption::disabled(),
        Ok(sessions) => Resumption::in_memory_sessions(sessions),
    };
    Ok(Arc::new(config))
}
