//! What a certificate says, for logs, `x-forwarded-client-cert` and the admin server.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use base64::Engine as _;
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Name;

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CertificateInfo {
    /// URIs among the subject alternative names.
    pub uri_sans: Vec<String>,
    /// DNS names among them, as written, so wildcards are possible.
    pub dns_sans: Vec<String>,
    /// IP addresses among them.
    pub ip_sans: Vec<String>,
    /// Mail addresses among them.
    pub email_sans: Vec<String>,
    /// By RFC 2253: the most specific part first.
    pub subject: String,
    /// By RFC 2253.
    pub issuer: String,
    /// The common name of the subject.
    pub common_name: Option<String>,
    /// Lower-case hex.
    pub serial: String,
    /// SHA-256 of the DER form, lower-case hex.
    pub fingerprint_256: String,
    /// SHA-1 of the DER form, lower-case hex.
    pub fingerprint_1: String,
    /// URL-encoded PEM.
    pub pem_url_encoded: String,
    /// The same for the whole chain.
    pub chain_url_encoded: String,
    /// When it begins to be valid.
    pub not_before: Option<SystemTime>,
    /// When it ends to be valid.
    pub not_after: Option<SystemTime>,
}

impl CertificateInfo {
    /// Whole days until it ends to be valid, seen from `now`; 0 when it has.
    pub fn days_left(&self, now: SystemTime) -> u64 {
        let left = self.not_after.and_then(|end| end.duration_since(now).ok()).unwrap_or_default();
        left.as_secs() / 86_400
    }
}

/// Reads the first certificate of `chain`; what cannot be read stays empty.
pub fn describe(chain: &[CertificateDer<'_>]) -> CertificateInfo {
    let Some(leaf) = chain.first() else { return CertificateInfo::default() };
    let mut info = CertificateInfo {
        fingerprint_256: hex(digest::digest(&digest::SHA256, leaf).as_ref()),
        fingerprint_1: hex(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, leaf).as_ref()),
        pem_url_encoded: url_encoded_pem(leaf),
        chain_url_encoded: chain.iter().map(url_encoded_pem).collect(),
        ..CertificateInfo::default()
    };
    let Some(certificate) = parse(leaf) else { return info };
    info.subject = rfc2253(certificate.subject());
    info.issuer = rfc2253(certificate.issuer());
    info.common_name =
        certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok()).map(str::to_owned);
    info.serial = hex(certificate.raw_serial());
    info.not_before = time(certificate.validity().not_before.timestamp());
    info.not_after = time(certificate.validity().not_after.timestamp());
    let names = certificate.subject_alternative_name().ok().flatten();
    for name in names.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::DNSName(name) => info.dns_sans.push((*name).to_owned()),
            GeneralName::URI(uri) => info.uri_sans.push((*uri).to_owned()),
            GeneralName::RFC822Name(mail) => info.email_sans.push((*mail).to_owned()),
            GeneralName::IPAddress(bytes) => info.ip_sans.extend(ip(bytes)),
            _ => {}
        }
    }
    info
}

pub(crate) fn parse<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate)
}

fn time(seconds: i64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
}

fn ip(bytes: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(v4).to_string());
    }
    Some(std::net::Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_string())
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// `CN=a,O=b`: the parts in reverse order, with the characters escaped that RFC 2253 names.
fn rfc2253(name: &X509Name<'_>) -> String {
    let mut parts = Vec::new();
    for rdn in name.iter_rdn() {
        let attributes = rdn.iter().map(|attribute| {
            let key = x509_parser::objects::oid2abbrev(attribute.attr_type(), x509_parser::objects::oid_registry())
                .map_or_else(|_| attribute.attr_type().to_id_string(), str::to_owned);
            format!("{key}={}", escaped(attribute.as_str().unwrap_or_default()))
        });
        parts.push(attributes.collect::<Vec<_>>().join("+"));
    }
    parts.reverse();
    parts.join(",")
}

fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (position, c) in value.chars().enumerate() {
        let edge = (c == ' ' && (position == 0 || position == last)) || (c == '#' && position == 0);
        if edge || matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

fn url_encoded_pem(der: &CertificateDer<'_>) -> String {
    let base64 = base64::engine::general_purpose::STANDARD.encode(der);
    let mut text = String::from("-----BEGIN%20CERTIFICATE-----%0A");
    for (position, c) in base64.chars().enumerate() {
        if position > 0 && position % 64 == 0 {
            text.push_str("%0A");
        }
        match c {
            '+' => text.push_str("%2B"),
            '/' => text.push_str("%2F"),
            '=' => text.push_str("%3D"),
            c => text.push(c),
        }
    }
    text.push_str("%0A-----END%20CERTIFICATE-----%0A");
    text
}
