//! Load-balancing policies: which endpoint of a cluster takes the next request.

use proto::envoy::config::cluster::v3 as wire;
use proto::envoy::config::cluster::v3::cluster as old;
use proto::envoy::config::core::v3::TypedExtensionConfig;
use proto::envoy::extensions::load_balancing_policies as policies;

use crate::cluster::wire as read;
use crate::invalid::Problems;

/// How endpoints are picked.
#[derive(Debug, Clone, PartialEq)]
pub struct LbPolicy {
    pub algorithm: Algorithm,
    /// Traffic is first split over localities by their weights.
    pub locality_weighted: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Algorithm {
    /// Weighted when the weights differ.
    RoundRobin,
    LeastRequest(LeastRequest),
    /// Weights play no part.
    Random,
    RingHash(RingHash),
    Maglev(Maglev),
}

#[derive(Debug, Clone, PartialEq)]
pub struct LeastRequest {
    /// How many endpoints are compared for a request; at least 2.
    pub choices: u32,
    /// With unequal weights: weight / (active + 1)^bias.
    pub bias: f64,
    /// All endpoints are compared.
    pub full_scan: bool,
}

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
/// How deep policies may be nested in each other.
const MAX_NESTING: usize = 4;

impl Default for LbPolicy {
    fn default() -> Self {
        Self { algorithm: Algorithm::RoundRobin, locality_weighted: false }
    }
}

// === decode ===

impl LbPolicy {
    pub(crate) fn decode(proto: &wire::Cluster, p: &mut Problems) -> Option<Self> {
        let kind = old::LbPolicy::try_from(proto.lb_policy).ok();
        if let Some(list) = &proto.load_balancing_policy {
            return p.at("load_balancing_policy", |p| decode_list(list, 0, p));
        }
        let common = proto.common_lb_config.as_ref();
        if kind == Some(old::LbPolicy::Random) && proto.lb_config.is_some() {
            return p.refuse_at("lb_config", "does not belong to lb_policy RANDOM");
        }
        let algorithm = match kind {
            Some(old::LbPolicy::RoundRobin) => old_round_robin(proto, p)?,
            Some(old::LbPolicy::LeastRequest) => old_least_request(proto, p)?,
            Some(old::LbPolicy::Random) => Algorithm::Random,
            Some(old::LbPolicy::RingHash) => old_ring_hash(proto, p)?,
            Some(old::LbPolicy::Maglev) => old_maglev(proto, p)?,
            Some(old::LbPolicy::LoadBalancingPolicyConfig) => {
                return p.refuse_at("load_balancing_policy", "is not set");
            }
            Some(old::LbPolicy::ClusterProvided) => return p.refuse_at("lb_policy", "not implemented by weir-proxy"),
            None => return p.refuse_at("lb_policy", "unknown value"),
        };
        let locality = common.and_then(|c| c.locality_config_specifier.as_ref());
        let locality_weighted = match locality {
            Some(old::common_lb_config::LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => true,
            Some(old::common_lb_config::LocalityConfigSpecifier::ZoneAwareLbConfig(_)) => {
                p.at("common_lb_config", |p| p.unimplemented("zone_aware_lb_config"));
                false
            }
            None => false,
        };
        Some(Self { algorithm, locality_weighted })
    }
}

fn old_round_robin(proto: &wire::Cluster, p: &mut Problems) -> Option<Algorithm> {
    match &proto.lb_config {
        None => {}
        Some(old::LbConfig::RoundRobinLbConfig(config)) => {
            p.at("round_robin_lb_config", |p| crate::refuse_set!(p, config; slow_start_config));
        }
        Some(_) => return p.refuse_at("lb_config", "does not belong to lb_policy ROUND_ROBIN"),
    }
    Some(Algorithm::RoundRobin)
}

fn old_least_request(proto: &wire::Cluster, p: &mut Problems) -> Option<Algorithm> {
    match &proto.lb_config {
        None => LeastRequest::decode(None, None, false, p).map(Algorithm::LeastRequest),
        Some(old::LbConfig::LeastRequestLbConfig(config)) => p.at("least_request_lb_config", |p| {
            crate::refuse_set!(p, config; slow_start_config);
            let bias = config.active_request_bias.as_ref().map(|b| b.default_value);
            LeastRequest::decode(config.choice_count, bias, false, p).map(Algorithm::LeastRequest)
        }),
        Some(_) => p.refuse_at("lb_config", "does not belong to lb_policy LEAST_REQUEST"),
    }
}

fn old_ring_hash(proto: &wire::Cluster, p: &mut Problems) -> Option<Algorithm> {
    let consistent = Consistent::old(proto, p)?;
    match &proto.lb_config {
        None => RingHash::decode(None, None, HashFunction::Xx, consistent, p).map(Algorithm::RingHash),
        Some(old::LbConfig::RingHashLbConfig(config)) => p.at("ring_hash_lb_config", |p| {
            let function = match old::ring_hash_lb_config::HashFunction::try_from(config.hash_function) {
                Ok(old::ring_hash_lb_config::HashFunction::XxHash) => HashFunction::Xx,
                Ok(old::ring_hash_lb_config::HashFunction::MurmurHash2) => HashFunction::Murmur2,
                Err(_) => return p.refuse_at("hash_function", "unknown value"),
            };
            RingHash::decode(config.minimum_ring_size, config.maximum_ring_size, function, consistent, p)
                .map(Algorithm::RingHash)
        }),
        Some(_) => p.refuse_at("lb_config", "does not belong to lb_policy RING_HASH"),
    }
}

fn old_maglev(proto: &wire::Cluster, p: &mut Problems) -> Option<Algorithm> {
    let consistent = Consistent::old(proto, p)?;
    match &proto.lb_config {
        None => Maglev::decode(None, consistent, p).map(Algorithm::Maglev),
        Some(old::LbConfig::MaglevLbConfig(config)) => {
            p.at("maglev_lb_config", |p| Maglev::decode(config.table_size, consistent, p).map(Algorithm::Maglev))
        }
        Some(_) => p.refuse_at("lb_config", "does not belong to lb_policy MAGLEV"),
    }
}

/// The first policy of the list that is implemented; the others are skipped, as Envoy does.
fn decode_list(list: &wire::LoadBalancingPolicy, depth: usize, p: &mut Problems) -> Option<LbPolicy> {
    if depth > MAX_NESTING {
        p.refuse("policies are nested too deep");
        return None;
    }
    for (i, policy) in list.policies.iter().enumerate() {
        let Some(extension) = &policy.typed_extension_config else {
            p.at("policies", |p| p.index(i, |p| p.refuse_at::<()>("typed_extension_config", "is not set")));
            continue;
        };
        let before = p.count();
        let found = p.at("policies", |p| {
            p.index(i, |p| p.at("typed_extension_config.typed_config", |p| decode_policy(extension, depth, p)))
        });
        if found.is_some() || p.count() > before {
            return found;
        }
    }
    let names: Vec<_> = list.policies.iter().filter_map(|p| Some(&*p.typed_extension_config.as_ref()?.name)).collect();
    p.refuse(format!("none of the policies is implemented: {}", names.join(", ")));
    None
}

/// `None` without a problem means that the policy is not one of ours.
fn decode_policy(extension: &TypedExtensionConfig, depth: usize, p: &mut Problems) -> Option<LbPolicy> {
    let any = extension.typed_config.as_ref()?;
    if let Some(proto) = unpack::<policies::round_robin::v3::RoundRobin>(any, p) {
        let proto = proto?;
        crate::refuse_set!(p, proto; slow_start_config);
        let locality_weighted = locality(proto.locality_lb_config.as_ref(), p);
        return Some(LbPolicy { algorithm: Algorithm::RoundRobin, locality_weighted });
    }
    if let Some(proto) = unpack::<policies::least_request::v3::LeastRequest>(any, p) {
        return least_request(&proto?, p);
    }
    if let Some(proto) = unpack::<policies::random::v3::Random>(any, p) {
        let locality_weighted = locality(proto?.locality_lb_config.as_ref(), p);
        return Some(LbPolicy { algorithm: Algorithm::Random, locality_weighted });
    }
    if let Some(proto) = unpack::<policies::ring_hash::v3::RingHash>(any, p) {
        return ring_hash(&proto?, p);
    }
    if let Some(proto) = unpack::<policies::maglev::v3::Maglev>(any, p) {
        let proto = proto?;
        let consistent = Consistent::decode(proto.consistent_hashing_lb_config.as_ref(), false, None, p)?;
        let algorithm = Algorithm::Maglev(Maglev::decode(proto.table_size, consistent, p)?);
        return Some(LbPolicy { algorithm, locality_weighted: proto.locality_weighted_lb_config.is_some() });
    }
    if let Some(proto) = unpack::<policies::wrr_locality::v3::WrrLocality>(any, p) {
        let Some(inner) = proto?.endpoint_picking_policy else {
            return p.refuse_at("endpoint_picking_policy", "is not set");
        };
        let policy = p.at("endpoint_picking_policy", |p| decode_list(&inner, depth + 1, p))?;
        return Some(LbPolicy { locality_weighted: true, ..policy });
    }
    None
}

/// `None` when `any` holds another type; `Some(None)` when it does not decode, which is a problem.
fn unpack<M: prost::Name + Default>(any: &proto::Any, p: &mut Problems) -> Option<Option<M>> {
    any.unpack::<M>().map(|result| result.map_err(|error| p.refuse(error)).ok())
}

fn least_request(proto: &policies::least_request::v3::LeastRequest, p: &mut Problems) -> Option<LbPolicy> {
    use policies::least_request::v3::least_request::SelectionMethod;
    crate::refuse_set!(p, proto; slow_start_config);
    #[allow(deprecated)]
    let old_full_scan = proto.enable_full_scan == Some(true);
    let full_scan = match SelectionMethod::try_from(proto.selection_method) {
        Ok(SelectionMethod::NChoices) => old_full_scan,
        Ok(SelectionMethod::FullScan) => true,
        Err(_) => return p.refuse_at("selection_method", "unknown value"),
    };
    let bias = proto.active_request_bias.as_ref().map(|b| b.default_value);
    let locality_weighted = locality(proto.locality_lb_config.as_ref(), p);
    let algorithm = Algorithm::LeastRequest(LeastRequest::decode(proto.choice_count, bias, full_scan, p)?);
    Some(LbPolicy { algorithm, locality_weighted })
}

fn ring_hash(proto: &policies::ring_hash::v3::RingHash, p: &mut Problems) -> Option<LbPolicy> {
    use policies::ring_hash::v3::ring_hash::HashFunction as Function;
    let function = match Function::try_from(proto.hash_function) {
        Ok(Function::DefaultHash | Function::XxHash) => HashFunction::Xx,
        Ok(Function::MurmurHash2) => HashFunction::Murmur2,
        Err(_) => return p.refuse_at("hash_function", "unknown value"),
    };
    #[allow(deprecated)]
    let (hostname, factor) = (proto.use_hostname_for_hashing, proto.hash_balance_factor);
    let consistent = Consistent::decode(proto.consistent_hashing_lb_config.as_ref(), hostname, factor, p)?;
    let ring = RingHash::decode(proto.minimum_ring_size, proto.maximum_ring_size, function, consistent, p)?;
    let locality_weighted = proto.locality_weighted_lb_config.is_some();
    Some(LbPolicy { algorithm: Algorithm::RingHash(ring), locality_weighted })
}

fn locality(proto: Option<&policies::common::v3::LocalityLbConfig>, p: &mut Problems) -> bool {
    use policies::common::v3::locality_lb_config::LocalityConfigSpecifier;
    match proto.and_then(|l| l.locality_config_specifier.as_ref()) {
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => true,
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(_)) => {
            p.at("locality_lb_config", |p| p.unimplemented("zone_aware_lb_config"));
            false
        }
        None => false,
    }
}

impl LeastRequest {
    /// The runtime key of the bias plays no part: runtime layers that could override it are refused.
    fn decode(choices: Option<u32>, bias: Option<f64>, full_scan: bool, p: &mut Problems) -> Option<Self> {
        let choices = choices.unwrap_or(2);
        if choices < 2 {
            return p.refuse_at("choice_count", "must be at least 2");
        }
        let bias = bias.unwrap_or(1.0);
        if !bias.is_finite() || bias < 0.0 {
            return p.refuse_at("active_request_bias", "must be 0 or more");
        }
        Some(Self { choices, bias, full_scan })
    }
}

impl RingHash {
    fn decode(
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
    fn decode(table_size: Option<u64>, consistent: Consistent, p: &mut Problems) -> Option<Self> {
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
    fn decode(
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

    fn old(proto: &wire::Cluster, p: &mut Problems) -> Option<Self> {
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

/// Reads `healthy_panic_threshold`: percent of available endpoints below which health is disregarded.
pub(crate) fn panic_threshold(proto: &wire::Cluster, p: &mut Problems) -> f64 {
    let common = proto.common_lb_config.as_ref();
    let percent = p.at("common_lb_config", |p| {
        read::percent_at("healthy_panic_threshold", common.and_then(|c| c.healthy_panic_threshold.as_ref()), p)
    });
    percent.unwrap_or(50.0)
}
