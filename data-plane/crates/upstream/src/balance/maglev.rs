//! Maglev: consistent hashing with a fixed-size table (Eisenbud et al., NSDI 2016, listing 1; weights as in Envoy).
//!
//! Pure: endpoints and shares in, a table out.

use std::sync::Arc;

use shared_config::lb_policy::Maglev;

use super::hash_ring::hash_key;
use crate::endpoint::Endpoint;

/// For each hash modulo the size of the table, an endpoint.
#[derive(Debug)]
pub(crate) struct Table(Box<[u32]>);

/// How one endpoint claims places.
struct Claim {
    index: u32,
    offset: u64,
    skip: u64,
    share: f64,
    /// It may claim again when its share of the rounds exceeds this.
    target: f64,
    next: u64,
}

const FREE: u32 = u32::MAX;

impl Table {
    /// `shares` add up to 1.
    pub(crate) fn build(config: &Maglev, endpoints: &[Arc<Endpoint>], shares: &[f64]) -> Self {
        let size = config.table_size;
        let mut keys: Vec<(String, u32)> = endpoints.iter().map(|e| hash_key(e, &config.consistent)).zip(0..).collect();
        // The table depends on the order in which places are claimed, so that order must not depend on the input's.
        keys.sort_unstable();
        let mut claims: Vec<Claim> = keys
            .iter()
            .map(|(key, index)| Claim {
                index: *index,
                offset: stdx::hash::xxh64(key.as_bytes(), 0) % size,
                skip: stdx::hash::xxh64(key.as_bytes(), 1) % (size - 1).max(1) + 1,
                share: shares[*index as usize],
                target: 0.0,
                next: 0,
            })
            .collect();
        let largest = shares.iter().copied().fold(0.0, f64::max);
        Self(fill(&mut claims, size, largest))
    }

    pub(crate) fn find(&self, hash: u64, attempt: u32) -> Option<usize> {
        // Another attempt changes many bits, so that it rarely finds the same endpoint.
        let hash = if attempt > 0 { hash ^ (u64::MAX - u64::from(attempt) + 1) } else { hash };
        #[allow(clippy::cast_possible_truncation, reason = "below the size of the table")]
        self.0.get((hash % self.0.len().max(1) as u64) as usize).map(|index| *index as usize)
    }
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "places are below the size of the table, which is at most 5,000,011"
)]
fn fill(claims: &mut [Claim], size: u64, largest: f64) -> Box<[u32]> {
    let mut table = vec![FREE; size as usize];
    let mut filled = 0;
    let mut round = 0.0;
    while filled < size && !claims.is_empty() {
        round += 1.0;
        for claim in &mut *claims {
            if round * claim.share < claim.target {
                continue;
            }
            claim.target += largest;
            let mut place = claim.place(size);
            while table[place] != FREE {
                claim.next += 1;
                place = claim.place(size);
            }
            table[place] = claim.index;
            claim.next += 1;
            filled += 1;
            if filled == size {
                break;
            }
        }
    }
    table.into()
}

impl Claim {
    #[allow(clippy::cast_possible_truncation, reason = "below the size of the table")]
    fn place(&self, size: u64) -> usize {
        ((self.offset + self.skip * self.next) % size) as usize
    }
}
