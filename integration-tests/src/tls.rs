//! Certificates for `localhost`, and both ends of TLS that use them.

use std::sync::Arc;

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::RootCertStore;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};

/// A self-signed certificate with its key.
pub struct Identity {
    certified: CertifiedKey<KeyPair>,
}

// === impl Identity ===

impl Identity {
    /// # Panics
    /// A key cannot be made.
    pub fn new(names: &[&str]) -> Self {
        // Whoever comes first installs it; it is the same one.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        Self { certified: generate_simple_self_signed(names).expect("a key can be made") }
    }

    pub fn certificate_pem(&self) -> String {
        self.certified.cert.pem()
    }

    pub fn key_pem(&self) -> String {
        self.certified.signing_key.serialize_pem()
    }

    /// The transport socket of a filter chain.
    pub fn downstream(&self, alpn: &[&str]) -> Value {
        json!({ "name": "tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": alpn,
                "tls_certificates": [{
                    "certificate_chain": { "inline_string": self.certificate_pem() },
                    "private_key": { "inline_string": self.key_pem() },
                }],
            },
        } })
    }

    /// The transport socket of a cluster that trusts this identity.
    pub fn upstream(&self) -> Value {
        json!({ "name": "tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": "localhost",
            "common_tls_context": { "validation_context": { "trusted_ca": { "inline_string": self.certificate_pem() } } },
        } })
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certified.cert.der().clone()).expect("the certificate is good");
        roots
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.certified.signing_key.serialize_der()))
    }

    /// A client that trusts this identity, and has it too.
    pub fn client_with_certificate(&self) -> Arc<rustls::ClientConfig> {
        self.client_of(self)
    }

    /// A client with this identity that trusts a server with another one.
    ///
    /// # Panics
    /// The key does not fit.
    pub fn client_of(&self, server: &Self) -> Arc<rustls::ClientConfig> {
        let chain = vec![self.certified.cert.der().clone()];
        let config = rustls::ClientConfig::builder().with_root_certificates(server.roots());
        Arc::new(config.with_client_auth_cert(chain, self.key()).expect("the key fits the certificate"))
    }

    /// A client that trusts this identity.
    ///
    /// # Panics
    /// The certificate is none.
    pub fn client(&self, alpn: &[&[u8]]) -> Arc<rustls::ClientConfig> {
        let mut config = rustls::ClientConfig::builder().with_root_certificates(self.roots()).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }

    /// A server with this identity.
    ///
    /// # Panics
    /// The key does not fit.
    pub fn server(&self, alpn: &[&[u8]]) -> Arc<rustls::ServerConfig> {
        let chain = vec![self.certified.cert.der().clone()];
        let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, self.key());
        let mut config = config.expect("the key fits the certificate");
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }
}
