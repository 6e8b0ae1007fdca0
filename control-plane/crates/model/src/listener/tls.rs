//! TLS of a listener, and the secrets everywhere: certificates and keys as PEM.

use crate::node::Node;
use crate::problem::Code;
use crate::read::{Fields, Keys, Reader};

#[derive(Debug, Clone, PartialEq)]
pub struct ServerTls {
    pub certificates: Vec<KeyPair>,
    pub min_version: TlsVersion,
    /// Clients must show a certificate of this authority.
    pub client_ca: Option<String>,
    pub client_certificate: ClientCertificate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificate {
    Required,
    Optional,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

/// PEM texts.
#[derive(Clone, PartialEq)]
pub struct KeyPair {
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyPair").field("certificate", &self.certificate.len()).finish_non_exhaustive()
    }
}

const TLS: Keys = Keys {
    known: &["cert", "key", "certificates", "min_version", "client_ca", "client_certificate"],
    not_yet: &["acme", "ocsp", "ciphers", "max_version", "session_tickets"],
};

pub(crate) fn server_tls(r: &mut Reader<'_>, node: &Node) -> Option<ServerTls> {
    let fields = r.fields(node, TLS)?;
    let mut certificates = Vec::new();
    if fields.get("cert").is_some() || fields.get("key").is_some() {
        certificates.extend(key_pair(r, &fields));
    }
    if let Some(list) = fields.get("certificates") {
        const PAIR: Keys = Keys { known: &["cert", "key"], not_yet: &[] };
        let pairs = r.at("certificates", |r| {
            r.list(list, |r, n| {
                let fields = r.fields(n, PAIR)?;
                key_pair(r, &fields)
            })
        });
        certificates.extend(pairs.unwrap_or_default());
    } else if fields.get("cert").is_none() && fields.get("key").is_none() && fields.get("acme").is_none() {
        r.wrong(node, Code::Shape, "`cert` and `key` are missing");
    }
    let versions = [("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
    let min_version = r.field(&fields, "min_version", |r, n| r.choice(n, &versions)).unwrap_or(TlsVersion::V1_2);
    let client_ca = r.field(&fields, "client_ca", certificate);
    let wanted = [("required", ClientCertificate::Required), ("optional", ClientCertificate::Optional)];
    let client_certificate = r.field(&fields, "client_certificate", |r, n| r.choice(n, &wanted));
    if let (Some(node), None) = (fields.get("client_certificate"), fields.get("client_ca")) {
        r.at("client_certificate", |r| r.wrong(node, Code::Conflict, "needs `client_ca`"));
    }
    let client_certificate = client_certificate.unwrap_or(ClientCertificate::Required);
    Some(ServerTls { certificates, min_version, client_ca, client_certificate })
}

pub(crate) fn key_pair(r: &mut Reader<'_>, fields: &Fields<'_>) -> Option<KeyPair> {
    let certificate = r.required(fields, "cert", certificate);
    let key = r.required(fields, "key", |r, n| pem(r, n, "PRIVATE KEY-----", "private key"));
    Some(KeyPair { certificate: certificate?, key: key? })
}

pub(crate) fn certificate(r: &mut Reader<'_>, node: &Node) -> Option<String> {
    pem(r, node, "-----BEGIN CERTIFICATE-----", "certificate")
}

fn pem(r: &mut Reader<'_>, node: &Node, marker: &str, what: &str) -> Option<String> {
    let text = r.secret(node)?;
    if !text.contains(marker) {
        r.wrong(node, Code::Value, format!("holds no PEM {what}"));
        return None;
    }
    Some(text)
}
