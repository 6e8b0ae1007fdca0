//! A certificate of ours with its key, from PEM. Says which part is wrong.

use std::sync::Arc;

use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::info::{CertificateInfo, describe, parse};
use crate::provider::default_provider;

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// There is no PEM block of a certificate.
    #[error("certificate_chain: no PEM certificate in it")]
    NoCertificate,
    /// Broken PEM.
    #[error("certificate_chain: broken PEM: {0}")]
    ChainPem(PemError),
    /// A block is no X.509 certificate.
    #[error("certificate_chain: block {index} is not an X.509 certificate")]
    NotX509 { index: usize },
    /// There is no PEM block of a key.
    #[error("private_key: no PEM private key in it")]
    NoKey,
    /// The key needs a password.
    #[error("private_key: it is encrypted, which is not supported")]
    EncryptedKey,
    /// Broken PEM.
    #[error("private_key: broken PEM: {0}")]
    KeyPem(PemError),
    /// A key of a kind that is not known.
    #[error("private_key: not a key we can use (RSA, ECDSA P-256, P-384, P-521 or Ed25519): {0}")]
    UnusableKey(rustls::Error),
    /// The key belongs to another certificate.
    #[error("private_key: it is not the key of the certificate")]
    WrongKey,
}

/// A certificate with its key, ready for handshakes.
#[derive(Debug, Clone)]
pub struct Certificate {
    pub(crate) key: Arc<CertifiedKey>,
    /// What the leaf says.
    pub info: Arc<CertificateInfo>,
}

impl Certificate {
    /// Reads a chain (leaf first) and the key of its leaf; `ocsp` is a DER response to staple.
    ///
    /// # Errors
    /// A part is missing, broken, of a kind we do not have, or they do not belong together.
    pub fn from_pem(chain: &[u8], key: &[u8], ocsp: Option<Vec<u8>>) -> Result<Self, CertificateError> {
        let chain = chain_from_pem(chain)?;
        let key = key_from_pem(key)?;
        let key = default_provider().key_provider.load_private_key(key).map_err(CertificateError::UnusableKey)?;
        let info = Arc::new(describe(&chain));
        let mut certified = CertifiedKey::new(chain, key);
        certified.ocsp = ocsp;
        match certified.keys_match() {
            // What cannot be told is left to handshakes.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(_) => return Err(CertificateError::WrongKey),
        }
        Ok(Self { key: Arc::new(certified), info })
    }

    /// The names that clients ask for: DNS names, else the common name.
    pub(crate) fn names(&self) -> Vec<String> {
        if self.info.dns_sans.is_empty() {
            self.info.common_name.iter().cloned().collect()
        } else {
            self.info.dns_sans.clone()
        }
    }
}

fn chain_from_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(CertificateError::ChainPem)?;
    if chain.is_empty() {
        return Err(CertificateError::NoCertificate);
    }
    match chain.iter().position(|der| parse(der).is_none()) {
        Some(index) => Err(CertificateError::NotX509 { index }),
        None => Ok(chain),
    }
}

fn key_from_pem(pem: &[u8]) -> Result<PrivateKeyDer<'static>, CertificateError> {
    match PrivateKeyDer::from_pem_slice(pem) {
        Ok(key) if !mentions(pem, b"Proc-Type: 4,ENCRYPTED") => Ok(key),
        Ok(_) => Err(CertificateError::EncryptedKey),
        Err(_) if mentions(pem, b"ENCRYPTED") => Err(CertificateError::EncryptedKey),
        Err(PemError::NoItemsFound) => Err(CertificateError::NoKey),
        Err(error) => Err(CertificateError::KeyPem(error)),
    }
}

fn mentions(pem: &[u8], what: &[u8]) -> bool {
    pem.windows(what.len()).any(|window| window == what)
}
