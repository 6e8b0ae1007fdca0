//! Decodes how the certificate of the other side is verified.

use base64::Engine as _;
use proto::envoy::extensions::transport_sockets::tls::v3 as pb;

use super::{SanKind, SanMatcher, ValidationContext};
use crate::core::{data_source, hex, watched_path};
use crate::invalid::Problems;
use crate::matcher::StringMatcher;
use crate::refuse_set;

/// Decodes a validation context, in place or from a secret.
pub fn validation_context(proto: &pb::CertificateValidationContext, p: &mut Problems) -> Option<ValidationContext> {
    use pb::certificate_validation_context::TrustChainVerification;
    let before = p.count();
    refuse_set!(
        p, proto;
        ca_certificate_provider_instance, custom_validator_config, max_verify_depth,
    );
    p.unimplemented_if(
        "require_signed_certificate_timestamp",
        proto.require_signed_certificate_timestamp == Some(true),
    );
    let accept_untrusted = match TrustChainVerification::try_from(proto.trust_chain_verification) {
        Ok(verification) => verification == TrustChainVerification::AcceptUntrusted,
        Err(_) => p.refuse_at::<bool>("trust_chain_verification", "unknown value").unwrap_or_default(),
    };
    let mut source = |name: &str, proto: &Option<_>| p.at(name, |p| proto.as_ref().and_then(|s| data_source(s, p)));
    let trusted_ca = source("trusted_ca", &proto.trusted_ca);
    let crl = source("crl", &proto.crl);
    if proto.trusted_ca.is_some() && proto.system_root_certs.is_some() {
        p.refuse_at::<()>("system_root_certs", "cannot be set together with trusted_ca");
    }
    if proto.allow_expired_certificate && proto.trusted_ca.is_none() && proto.system_root_certs.is_none() {
        p.refuse_at::<()>("allow_expired_certificate", "needs trusted_ca");
    }
    let context = ValidationContext {
        trusted_ca,
        system_roots: proto.system_root_certs.is_some(),
        watched_directory: proto
            .watched_directory
            .as_ref()
            .and_then(|watched| p.at("watched_directory", |p| watched_path(watched, p))),
        certificate_hashes: p.each("verify_certificate_hash", &proto.verify_certificate_hash, |p, text| {
            hash(hex(&text.replace(':', "")).as_deref(), text, "a SHA-256 in hex", p)
        }),
        spki_hashes: p.each("verify_certificate_spki", &proto.verify_certificate_spki, |p, text| {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok();
            hash(bytes.as_deref(), text, "a SHA-256 in base64", p)
        }),
        subject_alt_names: subject_alt_names(proto, p),
        crl,
        only_verify_leaf_cert_crl: proto.only_verify_leaf_cert_crl,
        allow_expired: proto.allow_expired_certificate,
        accept_untrusted,
        suppress_client_ca_list: proto.suppress_client_ca_list,
    };
    (p.count() == before).then_some(context)
}

fn subject_alt_names(proto: &pb::CertificateValidationContext, p: &mut Problems) -> Vec<SanMatcher> {
    let mut names = p.each("match_typed_subject_alt_names", &proto.match_typed_subject_alt_names, |p, san| {
        use pb::subject_alt_name_matcher::SanType;
        refuse_set!(p, san; oid);
        let kind = match SanType::try_from(san.san_type) {
            Ok(SanType::Email) => SanKind::Email,
            Ok(SanType::Dns) => SanKind::Dns,
            Ok(SanType::Uri) => SanKind::Uri,
            Ok(SanType::IpAddress) => SanKind::IpAddress,
            Ok(SanType::OtherName) => return p.refuse_at("san_type", "OTHER_NAME is not implemented by weir-proxy"),
            _ => return p.refuse_at("san_type", "must be one of EMAIL, DNS, URI and IP_ADDRESS"),
        };
        let Some(matcher) = &san.matcher else { return p.refuse_at("matcher", "is required") };
        Some(SanMatcher { kind: Some(kind), matcher: p.at("matcher", |p| StringMatcher::decode(matcher, p))? })
    });
    // The older form matches names of every kind.
    names.extend(p.each("match_subject_alt_names", &proto.match_subject_alt_names, |p, matcher| {
        Some(SanMatcher { kind: None, matcher: StringMatcher::decode(matcher, p)? })
    }));
    names
}

fn hash(bytes: Option<&[u8]>, text: &str, what: &str, p: &mut Problems) -> Option<[u8; 32]> {
    let hash = bytes.and_then(|bytes| bytes.try_into().ok());
    if hash.is_none() {
        p.refuse(format!("{text:?} is not {what}"));
    }
    hash
}
