//! Which of our certificates a client gets: by server name, then by what keys it can verify.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};

use crate::certificate::Certificate;

/// Certificates by the names they are for.
#[derive(Debug)]
pub(crate) struct ByServerName {
    /// Lower-case names; `*.x` under `x`.
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
    all: Vec<Arc<CertifiedKey>>,
    /// Look through all for a name that we do not have, instead of taking the first.
    full_scan: bool,
}

impl ByServerName {
    pub(crate) fn new(certificates: &[Certificate], full_scan: bool) -> Self {
        let mut resolver = Self { exact: HashMap::new(), wildcard: HashMap::new(), all: Vec::new(), full_scan };
        for certificate in certificates {
            let key = &certificate.key;
            for name in certificate.names() {
                let name = name.to_ascii_lowercase();
                let (map, name) = match name.strip_prefix("*.") {
                    Some(rest) => (&mut resolver.wildcard, rest.to_owned()),
                    None => (&mut resolver.exact, name),
                };
                map.entry(name).or_default().push(Arc::clone(key));
            }
            resolver.all.push(Arc::clone(key));
        }
        // Where a client can verify both, ECDSA is cheaper for both sides.
        for keys in resolver.exact.values_mut().chain(resolver.wildcard.values_mut()) {
            keys.sort_by_key(|key| is_rsa(key));
        }
        resolver
    }

    fn candidates(&self, server_name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let by_name = server_name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let wildcard = || self.wildcard.get(name.split_once('.')?.1);
            self.exact.get(&name).or_else(wildcard)
        });
        match by_name {
            Some(keys) => keys,
            None if self.full_scan || server_name.is_none() => &self.all,
            None => &self.all[..1.min(self.all.len())],
        }
    }
}

impl ResolvesServerCert for ByServerName {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        pick(self.candidates(client_hello.server_name()), client_hello.signature_schemes())
    }
}

/// The first key that can sign with one of `schemes`; the first one at all lets the handshake say what is wrong.
fn pick(keys: &[Arc<CertifiedKey>], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
    keys.iter().find(|key| key.key.choose_scheme(schemes).is_some()).or_else(|| keys.first()).cloned()
}

fn is_rsa(key: &CertifiedKey) -> bool {
    key.key.algorithm() == SignatureAlgorithm::RSA
}
