//! The balancing fields of a cluster from before `load_balancing_policy`.

use proto::envoy::config::cluster::v3 as wire;
use proto::envoy::config::cluster::v3::cluster as old;

use super::{
    Algorithm, Consistent, HashFunction, LbPolicy, LeastRequest, LocalityLb, Maglev, RingHash, SlowStart, Subset,
    ZoneAware,
};
use crate::invalid::Problems;

/// Reads `lb_policy`, `lb_config`, `common_lb_config` and `lb_subset_config`.
pub(super) fn decode(proto: &wire::Cluster, p: &mut Problems) -> Option<LbPolicy> {
    let kind = old::LbPolicy::try_from(proto.lb_policy).ok();
    if kind == Some(old::LbPolicy::Random) && proto.lb_config.is_some() {
        return p.refuse_at("lb_config", "does not belong to lb_policy RANDOM");
    }
    let (algorithm, slow_start) = match kind {
        Some(old::LbPolicy::RoundRobin) => round_robin(proto, p)?,
        Some(old::LbPolicy::LeastRequest) => least_request(proto, p)?,
        Some(old::LbPolicy::Random) => (Algorithm::Random, None),
        Some(old::LbPolicy::RingHash) => (ring_hash(proto, p)?, None),
        Some(old::LbPolicy::Maglev) => (maglev(proto, p)?, None),
        Some(old::LbPolicy::LoadBalancingPolicyConfig) => {
            return p.refuse_at("load_balancing_policy", "is not set");
        }
        Some(old::LbPolicy::ClusterProvided) => {
            return p.refuse_at("lb_policy", "CLUSTER_PROVIDED is for clusters that say themselves where requests go");
        }
        None => return p.refuse_at("lb_policy", "unknown value"),
    };
    let subset = match &proto.lb_subset_config {
        Some(config) => p.at("lb_subset_config", |p| Subset::decode_old(config, p))?,
        None => None,
    };
    Some(LbPolicy { algorithm, slow_start, locality: locality(proto, p)?, subset, ..LbPolicy::default() })
}

fn locality(proto: &wire::Cluster, p: &mut Problems) -> Option<LocalityLb> {
    use old::common_lb_config::LocalityConfigSpecifier;
    match proto.common_lb_config.as_ref().and_then(|c| c.locality_config_specifier.as_ref()) {
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => Some(LocalityLb::Weighted),
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(config)) => p
            .at("common_lb_config.zone_aware_lb_config", |p| ZoneAware::decode_old(config, p))
            .map(LocalityLb::ZoneAware),
        None => Some(LocalityLb::Even),
    }
}

type Picked = (Algorithm, Option<SlowStart>);

fn round_robin(proto: &wire::Cluster, p: &mut Problems) -> Option<Picked> {
    let mut slow_start = None;
    match &proto.lb_config {
        None => {}
        Some(old::LbConfig::RoundRobinLbConfig(config)) => {
            slow_start =
                p.at("round_robin_lb_config", |p| SlowStart::decode_at(config.slow_start_config.as_ref(), p))?;
        }
        Some(_) => return p.refuse_at("lb_config", "does not belong to lb_policy ROUND_ROBIN"),
    }
    Some((Algorithm::RoundRobin, slow_start))
}

fn least_request(proto: &wire::Cluster, p: &mut Problems) -> Option<Picked> {
    match &proto.lb_config {
        None => Some((Algorithm::LeastRequest(LeastRequest::decode(None, None, false, p)?), None)),
        Some(old::LbConfig::LeastRequestLbConfig(config)) => p.at("least_request_lb_config", |p| {
            let slow_start = SlowStart::decode_at(config.slow_start_config.as_ref(), p)?;
            let bias = config.active_request_bias.as_ref().map(|b| b.default_value);
            let algorithm = Algorithm::LeastRequest(LeastRequest::decode(config.choice_count, bias, false, p)?);
            Some((algorithm, slow_start))
        }),
        Some(_) => p.refuse_at("lb_config", "does not belong to lb_policy LEAST_REQUEST"),
    }
}

fn ring_hash(proto: &wire::Cluster, p: &mut Problems) -> Option<Algorithm> {
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

fn maglev(proto: &wire::Cluster, p: &mut Problems) -> Option<Algorithm> {
    let consistent = Consistent::old(proto, p)?;
    match &proto.lb_config {
        None => Maglev::decode(None, consistent, p).map(Algorithm::Maglev),
        Some(old::LbConfig::MaglevLbConfig(config)) => {
            p.at("maglev_lb_config", |p| Maglev::decode(config.table_size, consistent, p).map(Algorithm::Maglev))
        }
        Some(_) => p.refuse_at("lb_config", "does not belong to lb_policy MAGLEV"),
    }
}
