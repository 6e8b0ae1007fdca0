//! How a priority level's traffic is split over its localities.

use proto::envoy::config::cluster::v3::cluster::common_lb_config as old;
use proto::envoy::extensions::load_balancing_policies::common::v3 as common;
use proto::envoy::extensions::load_balancing_policies::common::v3::locality_lb_config as new;

use crate::cluster::wire as read;
use crate::invalid::Problems;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LocalityLb {
    /// Localities play no part.
    Even,
    /// By the weights of the localities.
    Weighted,
    /// What can be kept in this node's own locality is.
    ZoneAware(ZoneAware),
}

/// Zone-aware routing. It needs a local cluster: the proxies that this one is one of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ZoneAware {
    /// Percent of the picks that it applies to.
    pub enabled: f64,
    /// With fewer healthy endpoints localities play no part.
    pub min_cluster_size: u64,
    /// In panic no endpoint is picked.
    pub fail_traffic_on_panic: bool,
    /// All traffic stays in the own locality, whatever the shares are.
    pub force_direct: bool,
    pub basis: LocalityBasis,
}

/// What a locality's share is measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalityBasis {
    HealthyEndpoints,
    HealthyWeight,
}

// === decode ===

impl LocalityLb {
    pub(super) fn weighted_if(weighted: bool) -> Self {
        if weighted { Self::Weighted } else { Self::Even }
    }

    /// Reads the field `locality_lb_config`.
    pub(super) fn decode(proto: Option<&common::LocalityLbConfig>, p: &mut Problems) -> Option<Self> {
        use new::LocalityConfigSpecifier;
        match proto.and_then(|l| l.locality_config_specifier.as_ref()) {
            Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => Some(Self::Weighted),
            Some(LocalityConfigSpecifier::ZoneAwareLbConfig(config)) => {
                p.at("locality_lb_config.zone_aware_lb_config", |p| ZoneAware::decode(config, p)).map(Self::ZoneAware)
            }
            None => Some(Self::Even),
        }
    }
}

impl ZoneAware {
    pub(super) fn decode_old(proto: &old::ZoneAwareLbConfig, p: &mut Problems) -> Option<Self> {
        let before = p.count();
        let enabled = read::percent_at("routing_enabled", proto.routing_enabled.as_ref(), p);
        (p.count() == before).then(|| Self {
            enabled: enabled.unwrap_or(100.0),
            min_cluster_size: proto.min_cluster_size.unwrap_or(6),
            fail_traffic_on_panic: proto.fail_traffic_on_panic,
            force_direct: false,
            basis: LocalityBasis::HealthyEndpoints,
        })
    }

    fn decode(proto: &new::ZoneAwareLbConfig, p: &mut Problems) -> Option<Self> {
        use new::zone_aware_lb_config::LocalityBasis as Basis;
        let before = p.count();
        crate::refuse_set!(p, proto; force_local_zone);
        let enabled = read::percent_at("routing_enabled", proto.routing_enabled.as_ref(), p);
        let basis = match Basis::try_from(proto.locality_basis) {
            Ok(Basis::HealthyHostsNum) => LocalityBasis::HealthyEndpoints,
            Ok(Basis::HealthyHostsWeight) => LocalityBasis::HealthyWeight,
            Err(_) => return p.refuse_at("locality_basis", "unknown value"),
        };
        #[allow(deprecated)]
        let force_direct = proto.force_locality_direct_routing;
        (p.count() == before).then(|| Self {
            enabled: enabled.unwrap_or(100.0),
            min_cluster_size: proto.min_cluster_size.unwrap_or(6),
            fail_traffic_on_panic: proto.fail_traffic_on_panic,
            force_direct,
            basis,
        })
    }
}
