//! Who is at the other end, by its certificate.

use std::net::SocketAddr;

use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

/// The other end of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    pub address: Option<SocketAddr>,
    /// The URIs in the subject alternative name of its certificate (`spiffe://…`), if it showed one.
    pub uris: Vec<String>,
    /// The DNS names in the same place.
    pub dns_names: Vec<String>,
    /// Whether it showed a certificate that was verified.
    pub authenticated: bool,
}

impl Peer {
    pub(crate) fn of<T>(request: &tonic::Request<T>) -> Self {
        let mut peer = Self { address: request.remote_addr(), ..Self::default() };
        let certificates = request.peer_certs();
        if let Some(leaf) = certificates.as_ref().and_then(|chain| chain.first()) {
            peer.authenticated = true;
            peer.read(leaf);
        }
        peer
    }

    fn read(&mut self, der: &[u8]) {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            return;
        };
        for extension in certificate.extensions() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() {
                for name in &names.general_names {
                    match name {
                        GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
                        GeneralName::DNSName(dns) => self.dns_names.push((*dns).to_owned()),
                        _ => {}
                    }
                }
            }
        }
    }
}
