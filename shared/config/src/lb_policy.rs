//! Load-balancing policies: which endpoint of a cluster takes the next request.

use proto::envoy::config::cluster::v3 as wire;
use proto::envoy::config::core::v3 as core;

use crate::cluster::wire as read;
use crate::endpoint::HealthStatus;
use crate::invalid::Problems;

mod client_side;
mod consistent;
mod latency;
mod list;
mod locality;
mod old;
mod override_host;
mod slow_start;
mod subset;

pub use client_side::{ClientSide, Metric, OutOfBand};
pub use consistent::{Consistent, HashFunction, Maglev, RingHash};
pub use latency::{LeastTime, Measure, PeakEwma};
pub use locality::{LocalityBasis, LocalityLb, ZoneAware};
pub use override_host::OverrideSource;
pub use slow_start::SlowStart;
pub use subset::{Fallback, Selector, SelectorFallback, Subset};

/// How endpoints are picked.
#[derive(Debug, Clone, PartialEq)]
pub struct LbPolicy {
    pub algorithm: Algorithm,
    /// How traffic is first split over localities.
    pub locality: LocalityLb,
    /// Endpoints that became healthy take their share little by little.
    pub slow_start: Option<SlowStart>,
    /// Endpoints are divided by their metadata, and picked by that of the route.
    pub subset: Option<Subset>,
    /// The request may say which endpoint it wants.
    pub override_sources: Vec<OverrideSource>,
    /// How well an endpoint must be to be taken because a session sticks to it or the request says so.
    pub override_host: HealthStatuses,
}

/// A set of health statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthStatuses(u8);

#[derive(Debug, Clone, PartialEq)]
pub enum Algorithm {
    /// Weighted when the weights differ.
    RoundRobin,
    LeastRequest(LeastRequest),
    /// Weights play no part.
    Random,
    RingHash(RingHash),
    Maglev(Maglev),
    PeakEwma(PeakEwma),
    LeastTime(LeastTime),
    /// Round robin, with weights from what endpoints report.
    ClientSide(ClientSide),
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

// === impl HealthStatuses ===

impl HealthStatuses {
    pub fn of(statuses: &[HealthStatus]) -> Self {
        Self(statuses.iter().fold(0, |set, status| set | 1 << *status as u8))
    }

    pub fn contains(self, status: HealthStatus) -> bool {
        self.0 & 1 << status as u8 != 0
    }
}

impl Default for HealthStatuses {
    /// What Envoy takes without `override_host_status`.
    fn default() -> Self {
        Self::of(&[HealthStatus::Unknown, HealthStatus::Healthy, HealthStatus::Degraded])
    }
}

impl LbPolicy {
    /// An algorithm with nothing around it.
    pub fn of(algorithm: Algorithm) -> Self {
        Self {
            algorithm,
            locality: LocalityLb::Even,
            slow_start: None,
            subset: None,
            override_sources: Vec::new(),
            override_host: HealthStatuses::default(),
        }
    }
}

impl Default for LbPolicy {
    fn default() -> Self {
        Self::of(Algorithm::RoundRobin)
    }
}

// === decode ===

impl LbPolicy {
    pub(crate) fn decode(proto: &wire::Cluster, p: &mut Problems) -> Option<Self> {
        let policy = match &proto.load_balancing_policy {
            Some(list) => p.at("load_balancing_policy", |p| list::decode_list(list, 0, p))?,
            None => old::decode(proto, p)?,
        };
        let statuses = proto.common_lb_config.as_ref().and_then(|c| c.override_host_status.as_ref());
        let override_host = match statuses {
            Some(set) => p.at("common_lb_config.override_host_status", |p| HealthStatuses::decode(set, p)),
            None => HealthStatuses::default(),
        };
        Some(Self { override_host, ..policy })
    }
}

impl HealthStatuses {
    fn decode(proto: &core::HealthStatusSet, p: &mut Problems) -> Self {
        let statuses = p.each("statuses", &proto.statuses, |p, status| {
            let known = HealthStatus::decode(*status);
            if known.is_none() {
                p.refuse("unknown value");
            }
            known
        });
        Self::of(&statuses)
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

/// Reads `healthy_panic_threshold`: percent of available endpoints below which health is disregarded.
pub(crate) fn panic_threshold(proto: &wire::Cluster, p: &mut Problems) -> f64 {
    let common = proto.common_lb_config.as_ref();
    let percent = p.at("common_lb_config", |p| {
        read::percent_at("healthy_panic_threshold", common.and_then(|c| c.healthy_panic_threshold.as_ref()), p)
    });
    percent.unwrap_or(50.0)
}

#[cfg(test)]
mod tests;
