//! Session tickets under keys that are given, so that several proxies can resume each other's sessions.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest;
use rustls::crypto::GetRandomFailed;
use rustls::server::ProducesTickets;

use crate::TlsError;

/// The length of a key: 16 bytes are its name, the rest is secret.
pub(crate) const KEY_LENGTH: usize = 80;
const NAME_LENGTH: usize = 16;
const TIME_LENGTH: usize = 8;
/// Browsers take no ticket for longer than a day; neither do we.
pub(crate) const DEFAULT_LIFETIME: Duration = Duration::from_secs(24 * 3600);

struct Key {
    name: [u8; NAME_LENGTH],
    secret: LessSafeKey,
}

/// Makes tickets with the first key and opens those of every key.
pub(crate) struct Ticketer {
    keys: Vec<Key>,
    lifetime: Duration,
}

impl Ticketer {
    /// From keys of 80 bytes, of which there is at least one.
    pub(crate) fn new(keys: &[Vec<u8>], lifetime: Duration) -> Result<Self, TlsError> {
        let keys = keys
            .iter()
            .enumerate()
            .map(|(index, bytes)| key(bytes).ok_or(TlsError::TicketKey { index, length: bytes.len() }));
        Ok(Self { keys: keys.collect::<Result<_, _>>()?, lifetime })
    }

    /// With a random key.
    pub(crate) fn random() -> Result<Box<dyn ProducesTickets>, GetRandomFailed> {
        let mut bytes = [0; KEY_LENGTH];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| GetRandomFailed)?;
        let key = key(&bytes).ok_or(GetRandomFailed)?;
        // The rotator around it limits the lifetime.
        Ok(Box::new(Self { keys: vec![key], lifetime: DEFAULT_LIFETIME * 7 }))
    }
}

fn key(bytes: &[u8]) -> Option<Key> {
    let (name, secret) = bytes.split_at_checked(NAME_LENGTH).filter(|_| bytes.len() == KEY_LENGTH)?;
    // 64 secret bytes into the 32 of one AES-256-GCM key.
    let secret = digest::digest(&digest::SHA256, secret);
    let secret = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, secret.as_ref()).ok()?);
    Some(Key { name: name.try_into().ok()?, secret })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.lifetime.as_secs()).unwrap_or(u32::MAX)
    }

    /// `name | nonce | sealed (time of issue | plain)`, with the name authenticated.
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let key = self.keys.first()?;
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).ok()?;
        let mut sealed = now().to_be_bytes().to_vec();
        sealed.extend_from_slice(plain);
        key.secret
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(key.name), &mut sealed)
            .ok()?;
        Some([&key.name[..], &nonce, &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME_LENGTH)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let key = self.keys.iter().find(|key| key.name == name)?;
        let mut opened = sealed.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let plain = key.secret.open_in_place(nonce, Aad::from(key.name), &mut opened).ok()?;
        let (issued, plain) = plain.split_at_checked(TIME_LENGTH)?;
        let age = now().saturating_sub(u64::from_be_bytes(issued.try_into().ok()?));
        (age <= self.lifetime.as_secs()).then(|| plain.to_vec())
    }
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticketer").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}
