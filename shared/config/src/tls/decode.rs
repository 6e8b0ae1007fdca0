//! Decodes the TLS contexts and certificates.

use proto::envoy::extensions::transport_sockets::tls::v3 as pb;

use super::validation::validation_context;
use super::{
    CipherSuite, CommonTls, DownstreamTls, Group, SecretReference, SessionTickets, TlsCertificate, TlsParams,
    TlsVersion, UpstreamTls, Validation,
};
use crate::core::{DataSource, config_source, data_source, duration_at, watched_path};
use crate::invalid::Problems;
use crate::refuse_set;

/// Decodes the context of a filter chain.
pub fn downstream(proto: &pb::DownstreamTlsContext, p: &mut Problems) -> Option<DownstreamTls> {
    use pb::downstream_tls_context::SessionTicketKeysType as Keys;
    let before = p.count();
    refuse_set!(p, proto; ocsp_staple_policy);
    p.unimplemented_if("require_sni", proto.require_sni == Some(true));
    let tickets = match &proto.session_ticket_keys_type {
        Some(Keys::SessionTicketKeys(keys)) => {
            SessionTickets::Keys(p.at("session_ticket_keys", |p| session_ticket_keys(keys, p))?)
        }
        Some(Keys::SessionTicketKeysSdsSecretConfig(secret)) => {
            SessionTickets::Secret(p.at("session_ticket_keys_sds_secret_config", |p| secret_reference(secret, p))?)
        }
        Some(Keys::DisableStatelessSessionResumption(true)) => SessionTickets::Disabled,
        Some(Keys::DisableStatelessSessionResumption(false)) | None => SessionTickets::Generated,
    };
    let session_timeout = duration_at(proto.session_timeout.as_ref(), "session_timeout", p);
    if session_timeout.is_some_and(|timeout| timeout.as_secs() >= u64::from(u32::MAX)) {
        p.refuse_at::<()>("session_timeout", "must be below 4294967296s");
    }
    let common = common(proto.common_tls_context.as_ref(), p);
    if common.certificates.is_empty() && common.certificate_secrets.is_empty() {
        p.at("common_tls_context", |p| {
            p.refuse("a server needs tls_certificates or tls_certificate_sds_secret_configs")
        });
    }
    (p.count() == before).then_some(DownstreamTls {
        common,
        require_client_certificate: proto.require_client_certificate.unwrap_or(false),
        tickets,
        stateful_resumption: !proto.disable_stateful_session_resumption,
        session_timeout,
        full_scan_on_sni_mismatch: proto.full_scan_certs_on_sni_mismatch.unwrap_or(false),
        prefer_client_ciphers: proto.prefer_client_ciphers,
    })
}

/// Decodes the context of a cluster.
pub fn upstream(proto: &pb::UpstreamTlsContext, p: &mut Problems) -> Option<UpstreamTls> {
    let before = p.count();
    refuse_set!(p, proto; allow_renegotiation, enforce_rsa_key_usage);
    if proto.sni.len() > 255 {
        p.refuse_at::<()>("sni", "must have at most 255 bytes");
    }
    let common = common(proto.common_tls_context.as_ref(), p);
    if common.certificates.len() + common.certificate_secrets.len() > 1 {
        p.at("common_tls_context", |p| p.refuse("a client can have at most one certificate"));
    }
    if matches!(common.validation, Validation::None) {
        p.warn("common_tls_context.validation_context", "is not set: the certificate of the upstream is not verified");
    }
    if proto.auto_sni_san_validation && !has_roots(&common.validation) {
        p.refuse_at::<()>("auto_sni_san_validation", "needs a validation_context with trusted_ca");
    }
    (p.count() == before).then(|| UpstreamTls {
        common,
        sni: proto.sni.clone(),
        auto_host_sni: proto.auto_host_sni,
        auto_sni_san_validation: proto.auto_sni_san_validation,
        max_session_keys: proto.max_session_keys.unwrap_or(1),
    })
}

fn has_roots(validation: &Validation) -> bool {
    match validation {
        Validation::None => false,
        Validation::Inline(context) => context.trusted_ca.is_some() || context.system_roots,
        // The secret may bring them.
        Validation::Secret(_) | Validation::Combined { .. } => true,
    }
}

fn common(proto: Option<&pb::CommonTlsContext>, p: &mut Problems) -> CommonTls {
    let Some(proto) = proto else { return CommonTls::default() };
    p.at("common_tls_context", |p| {
        refuse_set!(
            p, proto;
            tls_certificate_provider_instance, custom_tls_certificate_selector, tls_certificate_certificate_provider,
            tls_certificate_certificate_provider_instance, custom_handshaker, key_log,
        );
        if !proto.tls_certificates.is_empty() && !proto.tls_certificate_sds_secret_configs.is_empty() {
            p.refuse_at::<()>("tls_certificates", "cannot be set together with tls_certificate_sds_secret_configs");
        }
        let alpn = p.each("alpn_protocols", &proto.alpn_protocols, |p, protocol| {
            if protocol.is_empty() || protocol.len() > 255 {
                p.refuse("must have 1 to 255 bytes");
            }
            Some(protocol.clone())
        });
        CommonTls {
            params: proto
                .tls_params
                .as_ref()
                .map(|params| p.at("tls_params", |p| params_of(params, p)))
                .unwrap_or_default(),
            certificates: p.each("tls_certificates", &proto.tls_certificates, |p, proto| certificate(proto, p)),
            certificate_secrets: p.each(
                "tls_certificate_sds_secret_configs",
                &proto.tls_certificate_sds_secret_configs,
                |p, secret| secret_reference(secret, p),
            ),
            validation: validation(proto.validation_context_type.as_ref(), p),
            alpn,
        }
    })
}

fn validation(proto: Option<&pb::common_tls_context::ValidationContextType>, p: &mut Problems) -> Validation {
    use pb::common_tls_context::ValidationContextType as Kind;
    let decoded = match proto {
        None => return Validation::None,
        Some(Kind::ValidationContext(context)) => p.at("validation_context", |p| {
            let context = validation_context(context, p)?;
            validation_is_complete(&context, p);
            Some(Validation::Inline(Box::new(context)))
        }),
        Some(Kind::ValidationContextSdsSecretConfig(secret)) => {
            p.at("validation_context_sds_secret_config", |p| secret_reference(secret, p)).map(Validation::Secret)
        }
        Some(Kind::CombinedValidationContext(combined)) => {
            p.at("combined_validation_context", |p| combined_validation(combined, p))
        }
        Some(Kind::ValidationContextCertificateProvider(_)) => {
            p.unimplemented("validation_context_certificate_provider");
            None
        }
        Some(Kind::ValidationContextCertificateProviderInstance(_)) => {
            p.unimplemented("validation_context_certificate_provider_instance");
            None
        }
    };
    decoded.unwrap_or_default()
}

fn combined_validation(
    proto: &pb::common_tls_context::CombinedCertificateValidationContext,
    p: &mut Problems,
) -> Option<Validation> {
    refuse_set!(
        p, proto;
        validation_context_certificate_provider, validation_context_certificate_provider_instance,
    );
    let default = match &proto.default_validation_context {
        Some(default) => p.at("default_validation_context", |p| validation_context(default, p))?,
        None => return p.refuse_at("default_validation_context", "is required"),
    };
    let secret = match &proto.validation_context_sds_secret_config {
        Some(secret) => p.at("validation_context_sds_secret_config", |p| secret_reference(secret, p))?,
        None => return p.refuse_at("validation_context_sds_secret_config", "is required"),
    };
    Some(Validation::Combined { default: Box::new(default), secret })
}

/// Checks what must hold of a context to which no secret adds anything.
pub(super) fn validation_is_complete(context: &super::ValidationContext, p: &mut Problems) {
    let roots = context.trusted_ca.is_some() || context.system_roots;
    if !roots && !context.subject_alt_names.is_empty() {
        p.refuse_at::<()>(
            "match_typed_subject_alt_names",
            "needs trusted_ca: without it any certificate with the name would be accepted",
        );
    }
    if !roots && context.crl.is_some() {
        p.refuse_at::<()>("crl", "needs trusted_ca");
    }
}

/// Decodes a secret by name.
pub(super) fn secret_reference(proto: &pb::SdsSecretConfig, p: &mut Problems) -> Option<SecretReference> {
    if proto.name.is_empty() {
        return p.refuse_at("name", "must not be empty");
    }
    let source = match &proto.sds_config {
        Some(source) => Some(p.at("sds_config", |p| config_source(source, p))?),
        None => None,
    };
    Some(SecretReference { name: proto.name.clone(), source })
}

/// Decodes a certificate with its key.
pub fn certificate(proto: &pb::TlsCertificate, p: &mut Problems) -> Option<TlsCertificate> {
    let before = p.count();
    refuse_set!(p, proto; pkcs12, private_key_provider, password, signed_certificate_timestamp, tls_params);
    let mut source = |name: &str, proto: &Option<_>| p.at(name, |p| proto.as_ref().and_then(|s| data_source(s, p)));
    let chain = source("certificate_chain", &proto.certificate_chain);
    let private_key = source("private_key", &proto.private_key);
    let ocsp_staple = source("ocsp_staple", &proto.ocsp_staple);
    if proto.certificate_chain.is_none() {
        p.refuse_at::<()>("certificate_chain", "is required");
    }
    if proto.private_key.is_none() {
        p.refuse_at::<()>("private_key", "is required");
    }
    let watched_directory =
        proto.watched_directory.as_ref().and_then(|w| p.at("watched_directory", |p| watched_path(w, p)));
    let (chain, private_key) = (chain?, private_key?);
    (p.count() == before).then_some(TlsCertificate { chain, private_key, ocsp_staple, watched_directory })
}

/// Decodes the keys of session tickets.
pub fn session_ticket_keys(proto: &pb::TlsSessionTicketKeys, p: &mut Problems) -> Option<Vec<DataSource>> {
    if proto.keys.is_empty() {
        return p.refuse_at("keys", "must not be empty");
    }
    let keys = p.each("keys", &proto.keys, |p, key| {
        let key = data_source(key, p)?;
        match &key {
            DataSource::Inline(bytes) if bytes.len() != 80 => {
                p.refuse(format!("a key has 80 bytes, not {}", bytes.len()));
                None
            }
            _ => Some(key),
        }
    });
    (keys.len() == proto.keys.len()).then_some(keys)
}

fn params_of(proto: &pb::TlsParameters, p: &mut Problems) -> TlsParams {
    refuse_set!(p, proto; signature_algorithms, compliance_policies);
    let minimum = version(proto.tls_minimum_protocol_version, "tls_minimum_protocol_version", p);
    let maximum = version(proto.tls_maximum_protocol_version, "tls_maximum_protocol_version", p);
    if let (Some(minimum), Some(maximum)) = (minimum, maximum)
        && minimum > maximum
    {
        p.refuse_at::<()>("tls_minimum_protocol_version", "is above tls_maximum_protocol_version");
    }
    let ciphers = p.each("cipher_suites", &proto.cipher_suites, |p, names| {
        // `[a|b]` is a group of equal preference; ours have an order, which is one way to be equal.
        let names = names.trim_start_matches('[').trim_end_matches(']');
        Some(names.split('|').filter_map(|name| cipher(name, p)).collect::<Vec<_>>())
    });
    let groups = p.each("ecdh_curves", &proto.ecdh_curves, |p, name| group(name, p));
    TlsParams { minimum, maximum, cipher_suites: ciphers.into_iter().flatten().collect(), groups }
}

fn version(version: i32, name: &str, p: &mut Problems) -> Option<TlsVersion> {
    use pb::tls_parameters::TlsProtocol;
    match TlsProtocol::try_from(version) {
        Ok(TlsProtocol::TlsAuto) => None,
        Ok(TlsProtocol::TlSv12) => Some(TlsVersion::V1_2),
        Ok(TlsProtocol::TlSv13) => Some(TlsVersion::V1_3),
        Ok(_) => p.refuse_at(name, "TLS 1.0 and 1.1 are not implemented by weir-proxy, use TLSv1_2"),
        Err(_) => p.refuse_at(name, format!("unknown value {version}")),
    }
}

fn cipher(name: &str, p: &mut Problems) -> Option<CipherSuite> {
    match name {
        "ECDHE-ECDSA-AES128-GCM-SHA256" => Some(CipherSuite::EcdheEcdsaAes128GcmSha256),
        "ECDHE-ECDSA-AES256-GCM-SHA384" => Some(CipherSuite::EcdheEcdsaAes256GcmSha384),
        "ECDHE-ECDSA-CHACHA20-POLY1305" => Some(CipherSuite::EcdheEcdsaChacha20Poly1305),
        "ECDHE-RSA-AES128-GCM-SHA256" => Some(CipherSuite::EcdheRsaAes128GcmSha256),
        "ECDHE-RSA-AES256-GCM-SHA384" => Some(CipherSuite::EcdheRsaAes256GcmSha384),
        "ECDHE-RSA-CHACHA20-POLY1305" => Some(CipherSuite::EcdheRsaChacha20Poly1305),
        other => {
            p.refuse(format!(
                "cipher suite {other:?} is not implemented by weir-proxy, which has ECDHE with AES-GCM and ChaCha20"
            ));
            None
        }
    }
}

fn group(name: &str, p: &mut Problems) -> Option<Group> {
    match name {
        "X25519" => Some(Group::X25519),
        "P-256" => Some(Group::P256),
        "P-384" => Some(Group::P384),
        "X25519MLKEM768" => Some(Group::X25519MlKem768),
        other => {
            p.refuse(format!(
                "curve {other:?} is not implemented by weir-proxy, which has X25519, P-256, P-384 and X25519MLKEM768"
            ));
            None
        }
    }
}
