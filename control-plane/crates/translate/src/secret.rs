//! Secrets: certificates and keys, served by SDS and never inside another resource.

use cp_model::listener::KeyPair;
use serde_json::{Value, json};

use crate::build::{ads, typed};

const SECRET: &str = "envoy.extensions.transport_sockets.tls.v3.Secret";

pub(crate) fn key_pair(name: &str, pair: &KeyPair) -> Value {
    let certificate = json!({
        "certificate_chain": { "inline_string": pair.certificate },
        "private_key": { "inline_string": pair.key },
    });
    typed(SECRET, json!({ "name": name, "tls_certificate": certificate }))
}

/// An authority, and the name its certificates must have if one is required.
pub(crate) fn authority(name: &str, ca: &str, server_name: Option<&str>) -> Value {
    let mut context = json!({ "trusted_ca": { "inline_string": ca } });
    if let Some(server_name) = server_name {
        context["match_typed_subject_alt_names"] = subject(server_name);
    }
    typed(SECRET, json!({ "name": name, "validation_context": context }))
}

pub(crate) fn subject(server_name: &str) -> Value {
    json!([{ "san_type": "DNS", "matcher": { "exact": server_name } }])
}

/// How a TLS context refers to a secret.
pub(crate) fn reference(name: &str) -> Value {
    json!({ "name": name, "sds_config": ads() })
}
