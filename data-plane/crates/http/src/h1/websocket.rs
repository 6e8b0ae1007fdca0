//! The key of a WebSocket handshake (RFC 6455 §4.1), for requests that came by HTTP/2 without one.
//!
//! The key only shows that the server speaks WebSocket; it is no secret.

use std::hash::{BuildHasher, RandomState};

/// Sixteen random bytes in base64.
pub(super) fn new_key() -> [u8; 24] {
    let random = RandomState::new();
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&random.hash_one(0u8).to_be_bytes());
    bytes[8..].copy_from_slice(&random.hash_one(1u8).to_be_bytes());
    base64(bytes)
}

fn base64(bytes: [u8; 16]) -> [u8; 24] {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = [b'='; 24];
    for (group, text) in bytes.chunks(3).zip(out.chunks_mut(4)) {
        let word = group.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for (index, letter) in text.iter_mut().enumerate().take(group.len() + 1) {
            *letter = ALPHABET[(word >> (18 - 6 * index) & 63) as usize];
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_base64_of_sixteen_bytes() {
        assert_eq!(&base64(*b"the sample nonce"), b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_ne!(new_key(), new_key());
    }
}
