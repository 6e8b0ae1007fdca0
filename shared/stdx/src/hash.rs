//! Content hashes: the same bytes give the same version on every machine and after every restart.

use std::hash::Hasher;

/// The 128-bit content hash of `bytes` as 32 hex digits; used for xDS versions and kept parts.
pub fn content_hash(bytes: &[u8]) -> String {
    format!("{:032x}", twox_hash::XxHash3_128::oneshot(bytes))
}

/// A 64-bit hash of `bytes`, stable across machines (XXH64, the one Envoy's ring hash uses).
pub fn xxh64(bytes: &[u8], seed: u64) -> u64 {
    twox_hash::XxHash64::oneshot(seed, bytes)
}

/// A hasher for keys that are already hashes: it passes the last eight bytes on.
#[derive(Debug, Default, Clone, Copy)]
pub struct PassHasher(u64);

/// Makes [`PassHasher`]s.
pub type BuildPassHasher = std::hash::BuildHasherDefault<PassHasher>;

impl Hasher for PassHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = u64::from_le_bytes(word);
        }
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_published_algorithms() {
        assert_eq!(xxh64(b"", 0), 0xef46_db37_51d8_e999);
        assert_eq!(content_hash(b""), "99aa06d3014798d86001c324468d497f");
    }
}
