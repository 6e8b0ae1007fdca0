//! How the certificate of the other side is verified: chain, revocation, pins, names.
//!
//! As in Envoy, a server's name is not checked unless a name matcher says so.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};
use webpki::{CertRevocationList, EndEntityCert, KeyUsage, OwnedCertRevocationList, RevocationCheckDepth};

use crate::TlsError;
use crate::info::{CertificateInfo, describe, parse};
use crate::provider::default_provider;

/// Decides about a name.
pub type NameMatch = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// What is verified; what is not set is not.
#[derive(Clone, Default)]
pub struct Verification {
    /// Roots of trust.
    pub roots: Roots,
    /// Revocation lists, PEM. With them, every certificate below a root needs one of its issuer.
    pub crl: Option<Vec<u8>>,
    /// Only the leaf is looked up in them.
    pub only_leaf_crl: bool,
    /// SHA-256 of the certificate; with either kind of pins, one of them must match.
    pub certificate_hashes: Vec<[u8; 32]>,
    /// SHA-256 of the public key.
    pub spki_hashes: Vec<[u8; 32]>,
    /// One of these must match, if there are any.
    pub subject_alt_names: Vec<SanCheck>,
    /// Clients only: the certificate must be for the name that was asked for.
    pub server_name: bool,
    /// Dates do not matter.
    pub allow_expired: bool,
    /// Whatever fails, the certificate is accepted.
    pub accept_untrusted: bool,
    /// Servers only: do not tell clients which authorities we trust.
    pub hide_roots: bool,
}

/// Roots of trust.
#[derive(Debug, Clone, Default)]
pub enum Roots {
    /// None: the chain is not verified.
    #[default]
    None,
    /// Those of the system.
    System,
    /// PEM.
    Pem(Vec<u8>),
}

/// One way a subject alternative name can match.
#[derive(Clone)]
pub struct SanCheck {
    /// Which names; every kind without one.
    pub kind: Option<SanKind>,
    /// How; not asked about DNS names when `exact` is set.
    pub matches: NameMatch,
    /// The one name that is meant: a wildcard in the certificate matches it too.
    pub exact: Option<String>,
}

/// The kinds of subject alternative names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SanKind {
    Email,
    Dns,
    Uri,
    IpAddress,
}

/// A certificate with none of the names or pins that are asked for.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("no subject alternative name of the certificate matches")]
    Name,
    #[error("the certificate has none of the pinned hashes")]
    Hash,
}

/// What was wrong with the certificate of the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unverified {
    /// None was shown.
    Missing,
    /// None of its names is one that is asked for.
    Name,
    /// It has none of the pinned hashes.
    Hash,
    /// Its chain, its dates, or something else.
    Chain,
}

/// Whether a handshake failed because of the certificate of the other side.
pub fn unverified(error: &Error) -> Option<Unverified> {
    match error {
        Error::NoCertificatesPresented => Some(Unverified::Missing),
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => Some(Unverified::Name),
        Error::InvalidCertificate(CertificateError::Other(OtherError(other))) => {
            Some(match other.downcast_ref::<Refused>() {
                Some(Refused::Name) => Unverified::Name,
                Some(Refused::Hash) => Unverified::Hash,
                None => Unverified::Chain,
            })
        }
        Error::InvalidCertificate(_) => Some(Unverified::Chain),
        _ => None,
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        CertificateError::Other(OtherError(Arc::new(refused))).into()
    }
}

/// A [`Verification`] with everything parsed.
pub(crate) struct Verifier {
    settings: Verification,
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    crls: Vec<CertRevocationList<'static>>,
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
    required: bool,
}

impl Verifier {
    pub(crate) fn new(settings: Verification, required: bool) -> Result<Self, TlsError> {
        let roots = load_roots(&settings.roots)?;
        let mut anchors = Vec::with_capacity(roots.len());
        for (index, der) in roots.iter().enumerate() {
            match webpki::anchor_from_trusted_cert(der) {
                Ok(anchor) => anchors.push(anchor.to_owned()),
                // The system's store may have what we cannot read; a configured one must be right.
                Err(_) if matches!(settings.roots, Roots::System) => {}
                Err(error) => return Err(TlsError::TrustedCa(format!("certificate {index}: {error}"))),
            }
        }
        let crls = load_crls(settings.crl.as_deref())?;
        let hints = if settings.hide_roots {
            Vec::new()
        } else {
            anchors.iter().map(|anchor| DistinguishedName::in_sequence(&anchor.subject)).collect()
        };
        let algorithms = default_provider().signature_verification_algorithms;
        Ok(Self { settings, roots, anchors, crls, hints, algorithms, required })
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: Option<&ServerName<'_>>,
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<(), Error> {
        if self.settings.accept_untrusted {
            return Ok(());
        }
        if !matches!(self.settings.roots, Roots::None) {
            self.verify_chain(leaf, intermediates, usage, now)?;
        }
        if let Some(name) = name.filter(|_| self.settings.server_name) {
            let certificate = EndEntityCert::try_from(leaf).map_err(pki_error)?;
            certificate.verify_is_valid_for_subject_name(name).map_err(pki_error)?;
        }
        self.verify_pins(leaf)?;
        self.verify_names(leaf)
    }

    fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<(), Error> {
        // A certificate that is itself trusted needs no chain. Self-signed ones are used this way.
        if self.roots.iter().any(|root| root == leaf) {
            return self.verify_dates(leaf, now);
        }
        match self.chain_at(leaf, intermediates, usage, now) {
            Err(webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. })
                if self.settings.allow_expired =>
            {
                // Everything but the dates is verified as of a time when all were valid.
                let start = |der: &CertificateDer<'_>| parse(der).map(|c| c.validity().not_before.timestamp());
                let chain = std::iter::once(leaf).chain(intermediates).chain(&self.roots);
                let start = chain.filter_map(start).max().and_then(|time| u64::try_from(time).ok()).unwrap_or(0);
                let then = UnixTime::since_unix_epoch(std::time::Duration::from_secs(start + 1));
                self.chain_at(leaf, intermediates, usage, then).map_err(pki_error)
            }
            result => result.map_err(pki_error),
        }
    }

    fn chain_at(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: KeyUsage,
        time: UnixTime,
    ) -> Result<(), webpki::Error> {
        let certificate = EndEntityCert::try_from(leaf)?;
        let crls: Vec<&CertRevocationList<'_>> = self.crls.iter().collect();
        let revocation = webpki::RevocationOptionsBuilder::new(&crls).ok().map(|builder| {
            let depth =
                if self.settings.only_leaf_crl { RevocationCheckDepth::EndEntity } else { RevocationCheckDepth::Chain };
            builder.with_depth(depth).with_expiration_policy(webpki::ExpirationPolicy::Enforce).build()
        });
        certificate
            .verify_for_usage(self.algorithms.all, &self.anchors, intermediates, time, usage, revocation, None)
            .map(|_| ())
    }

    fn verify_dates(&self, leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
        let Some(certificate) = parse(leaf) else { return Err(CertificateError::BadEncoding.into()) };
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if self.settings.allow_expired {
            return Ok(());
        }
        if now > certificate.validity().not_after.timestamp() {
            return Err(CertificateError::Expired.into());
        }
        if now < certificate.validity().not_before.timestamp() {
            return Err(CertificateError::NotValidYet.into());
        }
        Ok(())
    }

    fn verify_pins(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        let settings = &self.settings;
        if settings.certificate_hashes.is_empty() && settings.spki_hashes.is_empty() {
            return Ok(());
        }
        let hash = |bytes: &[u8]| digest::digest(&digest::SHA256, bytes);
        let is_in = |pins: &[[u8; 32]], bytes: &[u8]| {
            let hash = hash(bytes);
            pins.iter().any(|pin| pin.as_slice() == hash.as_ref())
        };
        let spki = || parse(leaf).is_some_and(|certificate| is_in(&settings.spki_hashes, certificate.public_key().raw));
        if is_in(&settings.certificate_hashes, leaf) || spki() { Ok(()) } else { Err(Refused::Hash.into()) }
    }

    fn verify_names(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        let checks = &self.settings.subject_alt_names;
        if checks.is_empty() {
            return Ok(());
        }
        let info = describe(std::slice::from_ref(leaf));
        if checks.iter().any(|check| check.holds(&info)) { Ok(()) } else { Err(Refused::Name.into()) }
    }
}

impl SanCheck {
    fn holds(&self, info: &CertificateInfo) -> bool {
        let wanted = |kind| self.kind.is_none_or(|only| only == kind);
        let any = |kind, names: &[String]| wanted(kind) && names.iter().any(|name| (self.matches)(name));
        let dns = |name: &String| match &self.exact {
            Some(exact) => dns_matches(name, exact),
            None => (self.matches)(name),
        };
        (wanted(SanKind::Dns) && info.dns_sans.iter().any(dns))
            || any(SanKind::Uri, &info.uri_sans)
            || any(SanKind::Email, &info.email_sans)
            || any(SanKind::IpAddress, &info.ip_sans)
    }
}

/// Whether the name `san` of a certificate, perhaps with a wildcard for its first label, is for `host`.
fn dns_matches(san: &str, host: &str) -> bool {
    match san.strip_prefix("*.") {
        Some(rest) => {
            host.split_once('.').is_some_and(|(label, parent)| !label.is_empty() && parent.eq_ignore_ascii_case(rest))
        }
        None => san.eq_ignore_ascii_case(host),
    }
}

fn load_roots(roots: &Roots) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    match roots {
        Roots::None => Ok(Vec::new()),
        Roots::System => {
            let found = rustls_native_certs::load_native_certs().certs;
            if found.is_empty() { Err(TlsError::NoSystemRoots) } else { Ok(found) }
        }
        Roots::Pem(pem) => {
            let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
            let found = found.map_err(|error| TlsError::TrustedCa(format!("broken PEM: {error}")))?;
            if found.is_empty() {
                return Err(TlsError::TrustedCa("no PEM certificate in it".to_owned()));
            }
            Ok(found)
        }
    }
}

fn load_crls(pem: Option<&[u8]>) -> Result<Vec<CertRevocationList<'static>>, TlsError> {
    let Some(pem) = pem else { return Ok(Vec::new()) };
    let mut crls = Vec::new();
    for (index, der) in CertificateRevocationListDer::pem_slice_iter(pem).enumerate() {
        let der = der.map_err(|error| TlsError::Crl(format!("broken PEM: {error}")))?;
        let crl =
            OwnedCertRevocationList::from_der(&der).map_err(|error| TlsError::Crl(format!("list {index}: {error}")))?;
        crls.push(CertRevocationList::Owned(crl));
    }
    if crls.is_empty() {
        return Err(TlsError::Crl("no PEM revocation list in it".to_owned()));
    }
    Ok(crls)
}

fn pki_error(error: webpki::Error) -> Error {
    use webpki::Error as Pki;
    let error = match error {
        Pki::BadDer | Pki::BadDerTime | Pki::TrailingData(_) => CertificateError::BadEncoding,
        Pki::CertNotValidYet { .. } | Pki::InvalidCertValidity => CertificateError::NotValidYet,
        Pki::CertExpired { .. } => CertificateError::Expired,
        Pki::CertRevoked => CertificateError::Revoked,
        Pki::UnknownIssuer => CertificateError::UnknownIssuer,
        Pki::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        Pki::CrlExpired { .. } => CertificateError::ExpiredRevocationList,
        Pki::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        Pki::CertNotValidForName(_) => CertificateError::NotValidForName,
        Pki::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    };
    error.into()
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, None, KeyUsage::client_auth(), now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, Some(server_name), KeyUsage::server_auth(), now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("roots", &self.roots.len()).finish_non_exhaustive()
    }
}
