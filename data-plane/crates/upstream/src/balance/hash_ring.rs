//! Ring hash: each endpoint owns points on a ring, a request goes to the next point after its hash.
//!
//! The points are Envoy's: the hash of `KEY_0`, `KEY_1` and so on, as many as the endpoint's share asks for.

use std::fmt::Write;
use std::sync::Arc;

use shared_config::lb_policy::{Consistent, HashFunction, RingHash};

use crate::endpoint::Endpoint;

/// A ring of hashes and whose they are.
#[derive(Debug)]
pub(crate) struct Ring {
    hashes: Box<[u64]>,
    indexes: Box<[u32]>,
}

impl Ring {
    /// `shares` add up to 1.
    #[allow(clippy::cast_precision_loss, reason = "ring sizes are at most 2^23")]
    pub(crate) fn build(config: &RingHash, endpoints: &[Arc<Endpoint>], shares: &[f64]) -> Self {
        let least = shares.iter().copied().fold(1.0, f64::min);
        // The endpoint with the smallest share gets a whole number of points.
        let scale = ((least * config.minimum_size as f64).ceil() / least).min(config.maximum_size as f64);
        let mut points: Vec<(u64, u32)> = Vec::new();
        let (mut current, mut target) = (0.0, 0.0);
        let mut key = String::new();
        for ((index, endpoint), share) in (0..).zip(endpoints).zip(shares) {
            target += scale * share;
            key.clear();
            key.push_str(&hash_key(endpoint, &config.consistent));
            key.push('_');
            let length = key.len();
            let mut copy = 0u64;
            while current < target {
                key.truncate(length);
                let _ = write!(key, "{copy}");
                points.push((hash(config.function, key.as_bytes()), index));
                copy += 1;
                current += 1.0;
            }
        }
        points.sort_unstable();
        Self { hashes: points.iter().map(|p| p.0).collect(), indexes: points.iter().map(|p| p.1).collect() }
    }

    /// The endpoint after `hash`; each further attempt goes one point on.
    pub(crate) fn find(&self, hash: u64, attempt: u32) -> Option<usize> {
        if self.hashes.is_empty() {
            return None;
        }
        let at = self.hashes.partition_point(|point| *point < hash) + attempt as usize;
        Some(self.indexes[at % self.indexes.len()] as usize)
    }
}

/// What an endpoint is hashed by.
pub(crate) fn hash_key(endpoint: &Endpoint, consistent: &Consistent) -> String {
    let by_metadata = endpoint.metadata.get("envoy.lb").and_then(|lb| lb.get("hash_key")).and_then(|key| key.as_str());
    match by_metadata {
        Some(key) if !key.is_empty() => key.to_owned(),
        _ if consistent.use_hostname => endpoint.state.hostname.to_string(),
        _ => endpoint.address.to_string(),
    }
}

fn hash(function: HashFunction, bytes: &[u8]) -> u64 {
    match function {
        HashFunction::Xx => stdx::hash::xxh64(bytes, 0),
        HashFunction::Murmur2 => murmur2(bytes),
    }
}

/// MurmurHash64A with the seed of the GNU C++ library, as Envoy has it.
fn murmur2(bytes: &[u8]) -> u64 {
    const MIX: u64 = 0xc6a4_a793_5bd1_e995;
    const SEED: u64 = 0xc70f_6907;
    let shift_mix = |value: u64| value ^ (value >> 47);
    let mut hash = SEED ^ (bytes.len() as u64).wrapping_mul(MIX);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let data = shift_mix(u64::from_le_bytes(*word).wrapping_mul(MIX)).wrapping_mul(MIX);
        hash = (hash ^ data).wrapping_mul(MIX);
    }
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0, |tail, byte| (tail << 8) | u64::from(*byte));
        hash = (hash ^ tail).wrapping_mul(MIX);
    }
    shift_mix(shift_mix(hash).wrapping_mul(MIX))
}
