//! `load_balancing_policy`: a list of policies, of which the first that is known is taken.

use proto::envoy::config::cluster::v3 as wire;
use proto::envoy::config::core::v3::TypedExtensionConfig;
use proto::envoy::extensions::load_balancing_policies as policies;
use proto::weir::load_balancing_policies::v1 as own;

use super::{
    Algorithm, ClientSide, Consistent, HashFunction, LbPolicy, LeastRequest, LeastTime, LocalityLb, Maglev,
    OverrideSource, PeakEwma, RingHash, SlowStart, Subset,
};
use crate::invalid::Problems;

/// How deep policies may be nested in each other.
const MAX_NESTING: usize = 4;

/// The first policy of the list that is implemented; the others are skipped, as Envoy does.
pub(super) fn decode_list(list: &wire::LoadBalancingPolicy, depth: usize, p: &mut Problems) -> Option<LbPolicy> {
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
        let slow_start = SlowStart::decode_at(proto.slow_start_config.as_ref(), p)?;
        let locality = LocalityLb::decode(proto.locality_lb_config.as_ref(), p)?;
        return Some(LbPolicy { slow_start, locality, ..LbPolicy::of(Algorithm::RoundRobin) });
    }
    if let Some(proto) = unpack::<policies::least_request::v3::LeastRequest>(any, p) {
        return least_request(&proto?, p);
    }
    if let Some(proto) = unpack::<policies::random::v3::Random>(any, p) {
        let locality = LocalityLb::decode(proto?.locality_lb_config.as_ref(), p)?;
        return Some(LbPolicy { locality, ..LbPolicy::of(Algorithm::Random) });
    }
    if let Some(proto) = unpack::<policies::ring_hash::v3::RingHash>(any, p) {
        return ring_hash(&proto?, p);
    }
    if let Some(proto) = unpack::<policies::maglev::v3::Maglev>(any, p) {
        let proto = proto?;
        let consistent = Consistent::decode(proto.consistent_hashing_lb_config.as_ref(), false, None, p)?;
        let algorithm = Algorithm::Maglev(Maglev::decode(proto.table_size, consistent, p)?);
        let locality = LocalityLb::weighted_if(proto.locality_weighted_lb_config.is_some());
        return Some(LbPolicy { locality, ..LbPolicy::of(algorithm) });
    }
    if let Some(proto) = unpack::<policies::wrr_locality::v3::WrrLocality>(any, p) {
        let Some(inner) = proto?.endpoint_picking_policy else {
            return p.refuse_at("endpoint_picking_policy", "is not set");
        };
        let policy = p.at("endpoint_picking_policy", |p| decode_list(&inner, depth + 1, p))?;
        return Some(LbPolicy { locality: LocalityLb::Weighted, ..policy });
    }
    if let Some(proto) = unpack::<policies::client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin>(any, p)
    {
        return ClientSide::decode(&proto?, p);
    }
    if let Some(proto) = unpack::<policies::subset::v3::Subset>(any, p) {
        return subset(&proto?, depth, p);
    }
    if let Some(proto) = unpack::<policies::override_host::v3::OverrideHost>(any, p) {
        return override_host(&proto?, depth, p);
    }
    if let Some(proto) = unpack::<own::PeakEwma>(any, p) {
        return Some(LbPolicy::of(Algorithm::PeakEwma(PeakEwma::decode(&proto?, p)?)));
    }
    if let Some(proto) = unpack::<own::LeastTime>(any, p) {
        return Some(LbPolicy::of(Algorithm::LeastTime(LeastTime::decode(&proto?, p)?)));
    }
    None
}

/// `None` when `any` holds another type; `Some(None)` when it does not decode, which is a problem.
fn unpack<M: prost::Name + Default>(any: &proto::Any, p: &mut Problems) -> Option<Option<M>> {
    any.unpack::<M>().map(|result| result.map_err(|error| p.refuse(error)).ok())
}

fn least_request(proto: &policies::least_request::v3::LeastRequest, p: &mut Problems) -> Option<LbPolicy> {
    use policies::least_request::v3::least_request::SelectionMethod;
    let slow_start = SlowStart::decode_at(proto.slow_start_config.as_ref(), p)?;
    #[allow(deprecated)]
    let old_full_scan = proto.enable_full_scan == Some(true);
    let full_scan = match SelectionMethod::try_from(proto.selection_method) {
        Ok(SelectionMethod::NChoices) => old_full_scan,
        Ok(SelectionMethod::FullScan) => true,
        Err(_) => return p.refuse_at("selection_method", "unknown value"),
    };
    let bias = proto.active_request_bias.as_ref().map(|b| b.default_value);
    let locality = LocalityLb::decode(proto.locality_lb_config.as_ref(), p)?;
    let algorithm = Algorithm::LeastRequest(LeastRequest::decode(proto.choice_count, bias, full_scan, p)?);
    Some(LbPolicy { slow_start, locality, ..LbPolicy::of(algorithm) })
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
    let locality = LocalityLb::weighted_if(proto.locality_weighted_lb_config.is_some());
    Some(LbPolicy { locality, ..LbPolicy::of(Algorithm::RingHash(ring)) })
}

fn override_host(
    proto: &policies::override_host::v3::OverrideHost,
    depth: usize,
    p: &mut Problems,
) -> Option<LbPolicy> {
    crate::refuse_set!(p, proto; selected_host_key);
    let Some(inner) = &proto.fallback_policy else {
        return p.refuse_at("fallback_policy", "is not set");
    };
    let policy = p.at("fallback_policy", |p| decode_list(inner, depth + 1, p))?;
    if proto.override_host_sources.is_empty() {
        return p.refuse_at("override_host_sources", "is empty");
    }
    let override_sources =
        p.each("override_host_sources", &proto.override_host_sources, |p, source| OverrideSource::decode(source, p));
    Some(LbPolicy { override_sources, ..policy })
}

fn subset(proto: &policies::subset::v3::Subset, depth: usize, p: &mut Problems) -> Option<LbPolicy> {
    let Some(inner) = &proto.subset_lb_policy else {
        return p.refuse_at("subset_lb_policy", "is not set");
    };
    let policy = p.at("subset_lb_policy", |p| decode_list(inner, depth + 1, p))?;
    if policy.subset.is_some() {
        return p.refuse_at("subset_lb_policy", "subsets cannot be divided into subsets");
    }
    Some(LbPolicy { subset: Subset::decode(proto, p)?, ..policy })
}
