//! Consistent hashing: what ring hash and Maglev share, and what each has of its own.

use proto::envoy::config::cluster::v3 as wire;
use proto::envoy::extensions::load_balancing_policies as policies;

use crate::invalid::Problems;

#[derive(Debug, Clone, PartialEq)]
pub struct RingHash {
    pub minimum_size: u64,
    pub maximum_size: u64,
    pub function: HashFunction,
    pub consistent: Consistent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashFunction {
    Xx,
    Murmur2,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Maglev {
    /// A prime.
    pub table_size: u64,
    pub consistent: Consistent,
}

/// What ring hash and Maglev share.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Consistent {
    pub use_hostname: bool,
    /// Percent of the mean load that an endpoint may have, at least 100.
    pub balance_factor: Option<u32>,
}

/// The largest ring and the largest table that Envoy takes.
const MAX_RING: u64 = 8_388_608;
const MAX_TABLE: u64 = 5_000_011;

// === decode ===

impl RingHash {
    pub(super) fn decode(
        minimum: Option<u64>,
        maximum: Option<u64>,
        function: HashFunction,
        consistent: Consistent,
        p: &mut Problems,
    ) -> Option<Self> {
        let (minimum_size, maximum_size) = (minimum.unwrap_or(1024), maximum.unwrap_or(MAX_RING));
        if !(1..=MAX_RING).contains(&minimum_size) {
            return p.refuse_at("minimum_ring_size", format!("must be from 1 to {MAX_RING}"));
        }
        if maximum_size > MAX_RING {
            return p.refuse_at("maximum_ring_size", format!("must be at most {MAX_RING}"));
        }
        if minimum_size > maximum_size {
            return p.refuse_at("minimum_ring_size", "is more than maximum_ring_size");
        }
        Some(Self { minimum_size, maximum_size, function, consistent })
    }
}

impl Maglev {
    pub(super) fn decode(table_size: Option<u64>, consistent: Consistent, p: &mut Problems) -> Option<Self> {
        let table_size = table_size.unwrap_or(65537);
        if table_size > MAX_TABLE || !is_prime(table_size) {
            return p.refuse_at("table_size", format!("must be a prime of at most {MAX_TABLE}"));
        }
        Some(Self { table_size, consistent })
    }
}

fn is_prime(n: u64) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

impl Consistent {
    pub(super) fn decode(
        proto: Option<&policies::common::v3::ConsistentHashingLbConfig>,
        use_hostname: bool,
        factor: Option<u32>,
        p: &mut Problems,
    ) -> Option<Self> {
        let mut consistent = Self { use_hostname, balance_factor: factor };
        if let Some(proto) = proto {
            p.at("consistent_hashing_lb_config", |p| crate::refuse_set!(p, proto; hash_policy));
            consistent =
                Self { use_hostname: proto.use_hostname_for_hashing, balance_factor: proto.hash_balance_factor };
        }
        consistent.checked(p)
    }

    pub(super) fn old(proto: &wire::Cluster, p: &mut Problems) -> Option<Self> {
        let Some(config) = proto.common_lb_config.as_ref().and_then(|c| c.consistent_hashing_lb_config.as_ref()) else {
            return Some(Self::default());
        };
        let consistent =
            Self { use_hostname: config.use_hostname_for_hashing, balance_factor: config.hash_balance_factor };
        p.at("common_lb_config.consistent_hashing_lb_config", |p| consistent.checked(p))
    }

    fn checked(self, p: &mut Problems) -> Option<Self> {
        if self.balance_factor.is_some_and(|factor| factor < 100) {
            return p.refuse_at("hash_balance_factor", "must be at least 100");
        }
        Some(self)
    }
}
