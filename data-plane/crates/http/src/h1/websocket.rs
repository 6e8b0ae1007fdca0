//! The halves of a WebSocket handshake that only HTTP/1.1 has (RFC 6455 §4), made up where the other side spoke HTTP/2.
//!
//! Key and answer only show that both ends speak WebSocket; SHA-1 protects nothing here.

use std::hash::{BuildHasher, RandomState};

/// Sixteen random bytes in base64.
pub(super) fn new_key() -> [u8; 24] {
    let random = RandomState::new();
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&random.hash_one(0u8).to_be_bytes());
    bytes[8..].copy_from_slice(&random.hash_one(1u8).to_be_bytes());
    base64(&bytes)
}

/// What a server answers to a key in `sec-websocket-accept`.
pub(super) fn accept(key: &[u8]) -> [u8; 28] {
    base64(&sha1(&[key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat()))
}

/// `N` is the length of the text: four letters for every three bytes begun.
fn base64<const N: usize>(bytes: &[u8]) -> [u8; N] {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = [b'='; N];
    for (group, text) in bytes.chunks(3).zip(out.chunks_mut(4)) {
        let word = group.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for (index, letter) in text.iter_mut().enumerate().take(group.len() + 1) {
            *letter = ALPHABET[(word >> (18 - 6 * index) & 63) as usize];
        }
    }
    out
}

/// FIPS 180-4 §6.1.
fn sha1(message: &[u8]) -> [u8; 20] {
    let mut padded = message.to_vec();
    padded.push(0x80);
    padded.resize(padded.len().next_multiple_of(64), 0);
    if padded.len() - message.len() < 9 {
        padded.resize(padded.len() + 64, 0);
    }
    let end = padded.len() - 8;
    padded[end..].copy_from_slice(&(message.len() as u64 * 8).to_be_bytes());
    let mut state = [0x6745_2301u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    for block in padded.chunks_exact(64) {
        sha1_block(&mut state, block);
    }
    let mut digest = [0; 20];
    for (bytes, word) in digest.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    digest
}

fn sha1_block(state: &mut [u32; 5], block: &[u8]) {
    let mut words = [0u32; 80];
    for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
        *word = bytes.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
    }
    for t in 16..80 {
        words[t] = (words[t - 3] ^ words[t - 8] ^ words[t - 14] ^ words[t - 16]).rotate_left(1);
    }
    let [mut a, mut b, mut c, mut d, mut e] = *state;
    for (t, word) in words.iter().enumerate() {
        let (f, k) = match t {
            0..20 => (b & c | !b & d, 0x5a82_7999),
            20..40 => (b ^ c ^ d, 0x6ed9_eba1),
            40..60 => (b & c | b & d | c & d, 0x8f1b_bcdc),
            _ => (b ^ c ^ d, 0xca62_c1d6u32),
        };
        let next = a.rotate_left(5).wrapping_add(f).wrapping_add(e).wrapping_add(k).wrapping_add(*word);
        (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
    }
    for (old, new) in state.iter_mut().zip([a, b, c, d, e]) {
        *old = old.wrapping_add(new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_base64_of_sixteen_bytes() {
        assert_eq!(&base64::<24>(b"the sample nonce"), b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_ne!(new_key(), new_key());
    }

    #[test]
    fn the_answer_is_that_of_the_standard() {
        assert_eq!(&accept(b"dGhlIHNhbXBsZSBub25jZQ=="), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn digests_are_right_around_the_padding() {
        let hex = |n: usize| sha1(&vec![b'a'; n]).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(0), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        assert_eq!(hex(55), "c1c8bbdc22796e28c0e15163d20899b65621d65a");
        assert_eq!(hex(56), "c2db330f6083854c99d4b5bfb6e8f29f201be699");
        assert_eq!(hex(64), "0098ba824b5c16427bd7a1122a5a442a25ec644d");
    }
}
