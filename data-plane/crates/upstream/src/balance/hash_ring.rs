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
    points: Box<[Point]>,
    /// Where the points begin whose hashes have the index as their highest bits, and one more: the end. A search looks at
    /// the few points between two of them, not at twenty all over a large ring.
    starts: Box<[u32]>,
    /// How many bits of a hash are not in that index.
    shift: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C, packed(4))] // Five of them in a cache line, not four.
struct Point {
    hash: u64,
    /// Whose it is.
    index: u32,
}

/// A range of hashes has up to so many points on average; no ring has more than 2^23 points.
const POINTS_A_RANGE: usize = 4;

impl Ring {
    /// `shares` add up to 1.
    #[allow(clippy::cast_precision_loss, reason = "ring sizes are at most 2^23")]
    pub(crate) fn build(config: &RingHash, endpoints: &[Arc<Endpoint>], shares: &[f64]) -> Self {
        let least = shares.iter().copied().fold(1.0, f64::min);
        // The endpoint with the smallest share gets a whole number of points.
        let scale = ((least * config.minimum_size as f64).ceil() / least).min(config.maximum_size as f64);
        let mut points = Vec::new();
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
                points.push(Point { hash: hash(config.function, key.as_bytes()), index });
                copy += 1;
                current += 1.0;
            }
        }
        points.sort_unstable();
        Self::of(points.into())
    }

    /// `points` are sorted.
    #[allow(clippy::cast_possible_truncation, reason = "ranges and points are at most 2^23")]
    fn of(points: Box<[Point]>) -> Self {
        // At least two ranges: a shift by 64 bits is none.
        let ranges = (points.len() / POINTS_A_RANGE).next_power_of_two().max(2);
        let shift = u64::BITS - ranges.trailing_zeros();
        let mut starts = Vec::with_capacity(ranges + 1);
        for (at, point) in (0..).zip(&points) {
            let range = (point.hash >> shift) as usize;
            while starts.len() <= range {
                starts.push(at);
            }
        }
        starts.resize(ranges + 1, points.len() as u32);
        Self { points, starts: starts.into(), shift }
    }

    /// The endpoint after `hash`; each further attempt goes one point on.
    pub(crate) fn find(&self, hash: u64, attempt: u32) -> Option<usize> {
        if self.points.is_empty() {
            return None;
        }
        #[allow(clippy::cast_possible_truncation, reason = "below the number of ranges")]
        let range = (hash >> self.shift) as usize;
        let (start, end) = (self.starts[range] as usize, self.starts[range + 1] as usize);
        let before = self.points[start..end].partition_point(|point| point.hash < hash);
        let mut at = start + before + attempt as usize;
        if at >= self.points.len() {
            at %= self.points.len();
        }
        Some(self.points[at].index as usize)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_point_is_found_whatever_the_size_of_the_ring() {
        let mut rng = fastrand::Rng::with_seed(1);
        for count in [1, 2, 3, 7, 8, 9, 1000] {
            let mut points: Vec<Point> = (0..count).map(|index| Point { hash: rng.u64(..), index }).collect();
            points.sort_unstable();
            let ring = Ring::of(points.clone().into());
            let beside = points.iter().flat_map(|point| [-1, 0, 1].map(|by| point.hash.wrapping_add_signed(by)));
            let by_chance: Vec<u64> = (0..1000).map(|_| rng.u64(..)).collect();
            for hash in beside.chain(by_chance).chain([0, 1, u64::MAX]) {
                let next = points.iter().find(|point| point.hash >= hash).unwrap_or(&points[0]).index as usize;
                assert_eq!(ring.find(hash, 0), Some(next), "{hash:x} of {count}");
            }
            assert_eq!(ring.find(0, u32::MAX), ring.find(0, u32::MAX % count));
        }
        assert_eq!(Ring::of(Box::default()).find(7, 0), None);
    }
}
