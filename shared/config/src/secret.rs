//! Secrets: certificates, validation contexts, session ticket keys and opaque data, by name.

use std::collections::BTreeMap;

use proto::envoy::extensions::transport_sockets::tls::v3 as pb;

use crate::core::{DataSource, data_source};
use crate::invalid::Problems;
use crate::tls::{self, TlsCertificate, ValidationContext};

/// A secret.
#[derive(Debug, Clone, PartialEq)]
pub struct Secret {
    /// What others refer to it by.
    pub name: String,
    /// What it is.
    pub kind: SecretKind,
}

/// See [`Secret`].
#[derive(Debug, Clone, PartialEq)]
pub enum SecretKind {
    /// A certificate with its key.
    Certificate(Box<TlsCertificate>),
    /// How certificates of the other side are verified.
    Validation(Box<ValidationContext>),
    /// Keys of session tickets.
    SessionTicketKeys(Vec<DataSource>),
    /// Opaque data under names; the single unnamed one has the empty name.
    Generic(BTreeMap<String, DataSource>),
}

/// Decodes a secret.
pub fn decode(proto: &pb::Secret, p: &mut Problems) -> Option<Secret> {
    use pb::secret::Type;
    let kind = match &proto.r#type {
        Some(Type::TlsCertificate(certificate)) => {
            SecretKind::Certificate(Box::new(p.at("tls_certificate", |p| tls::certificate(certificate, p))?))
        }
        Some(Type::ValidationContext(context)) => {
            SecretKind::Validation(Box::new(p.at("validation_context", |p| tls::validation_context(context, p))?))
        }
        Some(Type::SessionTicketKeys(keys)) => {
            SecretKind::SessionTicketKeys(p.at("session_ticket_keys", |p| tls::session_ticket_keys(keys, p))?)
        }
        Some(Type::GenericSecret(generic)) => {
            SecretKind::Generic(p.at("generic_secret", |p| generic_secret(generic, p))?)
        }
        None => {
            p.refuse("one of tls_certificate, validation_context, session_ticket_keys and generic_secret is required");
            return None;
        }
    };
    Some(Secret { name: proto.name.clone(), kind })
}

fn generic_secret(proto: &pb::GenericSecret, p: &mut Problems) -> Option<BTreeMap<String, DataSource>> {
    let mut secrets = BTreeMap::new();
    if let Some(secret) = &proto.secret {
        secrets.insert(String::new(), p.at("secret", |p| data_source(secret, p))?);
    }
    for (name, secret) in &proto.secrets {
        secrets.insert(name.clone(), p.at("secrets", |p| p.index(name, |p| data_source(secret, p)))?);
    }
    if secrets.is_empty() {
        return p.refuse_at("secret", "is required");
    }
    Some(secrets)
}
