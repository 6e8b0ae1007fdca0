//! Compiles TLS contexts: secrets resolved, files read, certificates parsed.

use std::collections::BTreeMap;
use std::sync::Arc;

use dp_http::info::PeerCertificate;
use rustls::pki_types::CertificateDer;
use shared_config::cluster::HttpOptions;
use shared_config::matcher::StringPattern;
use shared_config::secret::{Secret, SecretKind};
use shared_config::tls as config;
use shared_tls::{
    Certificate, CertificateInfo, ClientAuth, ClientSettings, Params, Roots, SanCheck, SanKind, ServerSettings,
    Tickets, Verification, Version,
};

use super::Refusal;
use crate::files::Files;

/// Secrets by name; `None` for one that is not there.
pub(super) type Secrets = BTreeMap<String, Option<Arc<Secret>>>;

/// TLS towards clients.
pub(super) fn server(
    context: &config::DownstreamTls,
    secrets: &Secrets,
    files: &mut Files,
) -> Result<(Arc<rustls::ServerConfig>, Vec<Arc<CertificateInfo>>), Refusal> {
    let common = &context.common;
    let validation = validation(&common.validation, secrets)?;
    let client_auth = match validation {
        None if context.require_client_certificate => {
            Some(ClientAuth { required: true, verification: Verification::default() })
        }
        None => None,
        Some(validation) => Some(ClientAuth {
            required: context.require_client_certificate,
            verification: verification(&validation, files)?,
        }),
    };
    let certificates = certificates(common, secrets, files)?;
    let infos = certificates.iter().map(|certificate| Arc::clone(&certificate.info)).collect();
    let settings = ServerSettings {
        certificates,
        params: params(&common.params),
        alpn: common.alpn.clone(),
        client_auth,
        tickets: tickets(&context.tickets, secrets, files)?,
        stateful_resumption: context.stateful_resumption,
        session_timeout: context.session_timeout,
        full_scan: context.full_scan_on_sni_mismatch,
        prefer_client_ciphers: context.prefer_client_ciphers,
    };
    Ok((shared_tls::server_config(settings)?, infos))
}

/// TLS towards upstreams.
///
/// Whether the name comes from the request, and the certificate must be for it, the options of HTTP say.
pub(super) fn client(
    context: &config::UpstreamTls,
    http: &HttpOptions,
    secrets: &Secrets,
    files: &mut Files,
) -> Result<Arc<rustls::ClientConfig>, Refusal> {
    let common = &context.common;
    let mut verification = match validation(&common.validation, secrets)? {
        None => Verification::default(),
        Some(validation) => verification(&validation, files)?,
    };
    verification.server_name = context.auto_sni_san_validation || http.auto_san;
    let settings = ClientSettings {
        certificate: certificates(common, secrets, files)?.into_iter().next(),
        params: params(&common.params),
        alpn: common.alpn.clone(),
        verification,
        send_sni: !context.sni.is_empty() || context.auto_host_sni || http.auto_sni,
        max_sessions: context.max_session_keys,
    };
    Ok(shared_tls::client_config(settings)?)
}

/// What the logs and filters are told of a certificate.
pub(super) fn describe(chain: &[CertificateDer<'_>]) -> PeerCertificate {
    let info = shared_tls::describe(chain);
    PeerCertificate {
        uri_sans: info.uri_sans,
        dns_sans: info.dns_sans,
        ip_sans: info.ip_sans,
        email_sans: info.email_sans,
        subject: info.subject,
        issuer: info.issuer,
        serial: info.serial,
        fingerprint_256: info.fingerprint_256,
        fingerprint_1: info.fingerprint_1,
        pem_url_encoded: info.pem_url_encoded,
        chain_url_encoded: info.chain_url_encoded,
        not_before: info.not_before,
        not_after: info.not_after,
        verified: true,
    }
}

fn secret<'s>(name: &str, secrets: &'s Secrets) -> Result<&'s SecretKind, Refusal> {
    let found = secrets.get(name).and_then(Option::as_ref);
    found.map(|secret| &secret.kind).ok_or_else(|| Refusal(format!("the secret {name} is not there")))
}

fn certificates(common: &config::CommonTls, secrets: &Secrets, files: &mut Files) -> Result<Vec<Certificate>, Refusal> {
    let mut certificates = Vec::new();
    for (index, inline) in common.certificates.iter().enumerate() {
        certificates.push(certificate(inline, files).map_err(|r| r.at(format!("tls_certificates[{index}]")))?);
    }
    for reference in &common.certificate_secrets {
        let SecretKind::Certificate(found) = secret(&reference.name, secrets)? else {
            return Err(Refusal(format!("the secret {} holds no certificate", reference.name)));
        };
        certificates.push(certificate(found, files).map_err(|r| r.at(format!("secret {}", reference.name)))?);
    }
    Ok(certificates)
}

fn certificate(config: &config::TlsCertificate, files: &mut Files) -> Result<Certificate, Refusal> {
    let chain = files.load(&config.chain)?;
    let key = files.load(&config.private_key)?;
    let ocsp = config.ocsp_staple.as_ref().map(|source| files.load(source)).transpose()?;
    Ok(Certificate::from_pem(&chain, &key, ocsp.map(|bytes| bytes.to_vec()))?)
}

fn tickets(config: &config::SessionTickets, secrets: &Secrets, files: &mut Files) -> Result<Tickets, Refusal> {
    use config::SessionTickets;
    let keys = match config {
        SessionTickets::Generated => return Ok(Tickets::Generated),
        SessionTickets::Disabled => return Ok(Tickets::Disabled),
        SessionTickets::Keys(keys) => keys,
        SessionTickets::Secret(reference) => match secret(&reference.name, secrets)? {
            SecretKind::SessionTicketKeys(keys) => keys,
            _ => return Err(Refusal(format!("the secret {} holds no session ticket keys", reference.name))),
        },
    };
    let keys = keys.iter().map(|key| files.load(key).map(|bytes| bytes.to_vec())).collect::<Result<_, _>>()?;
    Ok(Tickets::Keys(keys))
}

/// The validation context in force.
fn validation(config: &config::Validation, secrets: &Secrets) -> Result<Option<config::ValidationContext>, Refusal> {
    use config::Validation;
    let of_secret = |name: &str| match secret(name, secrets)? {
        SecretKind::Validation(context) => Ok((**context).clone()),
        _ => Err(Refusal(format!("the secret {name} holds no validation context"))),
    };
    Ok(match config {
        Validation::None => None,
        Validation::Inline(context) => Some((**context).clone()),
        Validation::Secret(reference) => Some(of_secret(&reference.name)?),
        Validation::Combined { default, secret } => Some(default.merged(&of_secret(&secret.name)?)),
    })
}

fn verification(config: &config::ValidationContext, files: &mut Files) -> Result<Verification, Refusal> {
    let roots = match &config.trusted_ca {
        Some(source) => Roots::Pem(files.load(source)?.to_vec()),
        None if config.system_roots => Roots::System,
        None => Roots::None,
    };
    let san = |san: &config::SanMatcher| {
        let matcher = san.matcher.clone();
        SanCheck {
            kind: san.kind.map(|kind| match kind {
                config::SanKind::Email => SanKind::Email,
                config::SanKind::Dns => SanKind::Dns,
                config::SanKind::Uri => SanKind::Uri,
                config::SanKind::IpAddress => SanKind::IpAddress,
            }),
            exact: match &matcher.pattern {
                StringPattern::Exact(text) => Some(text.clone()),
                _ => None,
            },
            matches: Arc::new(move |name: &str| matcher.matches(name.as_bytes())),
        }
    };
    Ok(Verification {
        roots,
        crl: config.crl.as_ref().map(|source| files.load(source)).transpose()?.map(|bytes| bytes.to_vec()),
        only_leaf_crl: config.only_verify_leaf_cert_crl,
        certificate_hashes: config.certificate_hashes.clone(),
        spki_hashes: config.spki_hashes.clone(),
        subject_alt_names: config.subject_alt_names.iter().map(san).collect(),
        server_name: false,
        allow_expired: config.allow_expired,
        accept_untrusted: config.accept_untrusted,
        hide_roots: config.suppress_client_ca_list,
    })
}

fn params(config: &config::TlsParams) -> Params {
    let version = |version: config::TlsVersion| match version {
        config::TlsVersion::V1_2 => Version::V1_2,
        config::TlsVersion::V1_3 => Version::V1_3,
    };
    Params {
        minimum: config.minimum.map(version),
        maximum: config.maximum.map(version),
        cipher_suites: config.cipher_suites.iter().map(|suite| cipher_suite(*suite).to_owned()).collect(),
        groups: config.groups.iter().map(|group| group_name(*group).to_owned()).collect(),
    }
}

fn cipher_suite(suite: config::CipherSuite) -> &'static str {
    use config::CipherSuite as Suite;
    match suite {
        Suite::EcdheEcdsaAes128GcmSha256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        Suite::EcdheEcdsaAes256GcmSha384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        Suite::EcdheEcdsaChacha20Poly1305 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        Suite::EcdheRsaAes128GcmSha256 => "ECDHE-RSA-AES128-GCM-SHA256",
        Suite::EcdheRsaAes256GcmSha384 => "ECDHE-RSA-AES256-GCM-SHA384",
        Suite::EcdheRsaChacha20Poly1305 => "ECDHE-RSA-CHACHA20-POLY1305",
    }
}

fn group_name(group: config::Group) -> &'static str {
    match group {
        config::Group::X25519 => "X25519",
        config::Group::P256 => "P-256",
        config::Group::P384 => "P-384",
        config::Group::X25519MlKem768 => "X25519MLKEM768",
    }
}
