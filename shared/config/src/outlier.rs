//! Outlier detection: when an endpoint that fails requests is left out for a while.

use std::time::Duration;

use proto::envoy::config::cluster::v3 as wire;

use crate::cluster::wire::{positive, whole_percent};
use crate::core::duration_at;
use crate::invalid::Problems;

/// `enforcing` fields are the chance, in percent, that a detected outlier is really ejected.
#[derive(Debug, Clone, PartialEq)]
pub struct OutlierDetection {
    pub interval: Duration,
    pub base_ejection: Duration,
    pub max_ejection: Duration,
    pub max_ejection_jitter: Duration,
    /// Percent of the endpoints of the cluster that may be out at once.
    pub max_ejection_percent: u32,
    /// At least one endpoint may be out, whatever `max_ejection_percent` says.
    pub always_eject_one: bool,
    pub consecutive_5xx: Consecutive,
    pub consecutive_gateway: Consecutive,
    pub consecutive_local: Consecutive,
    /// Local failures (connect errors, timeouts) are counted apart from what the upstream answered.
    pub split_local: bool,
    pub success_rate: SuccessRate,
    pub failure_percentage: FailurePercentage,
    /// A good active health check ends an ejection.
    pub uneject_on_health_check: bool,
    /// An answer with `x-envoy-degraded` makes its endpoint degraded for as long as an ejection would last.
    pub detect_degraded: bool,
}

/// Ejects after `count` failures in a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Consecutive {
    pub count: u32,
    pub enforcing: u32,
}

/// Ejects endpoints whose success rate is far below the mean.
#[derive(Debug, Clone, PartialEq)]
pub struct SuccessRate {
    pub minimum_hosts: u32,
    pub request_volume: u32,
    /// Thousandths: 1900 means mean minus 1.9 standard deviations.
    pub stdev_factor: u32,
    pub enforcing: u32,
    pub enforcing_local: u32,
}

/// Ejects endpoints that fail more than `threshold` percent.
#[derive(Debug, Clone, PartialEq)]
pub struct FailurePercentage {
    pub threshold: u32,
    pub minimum_hosts: u32,
    pub request_volume: u32,
    pub enforcing: u32,
    pub enforcing_local: u32,
}

// === decode ===

impl OutlierDetection {
    pub(crate) fn decode(proto: &wire::OutlierDetection, p: &mut Problems) -> Self {
        crate::refuse_set!(p, proto; monitors);
        let consecutive = |name, count: Option<u32>, enforcing, default, p: &mut Problems| Consecutive {
            count: count.unwrap_or(5),
            enforcing: whole_percent(name, enforcing, default, p),
        };
        let base_ejection = positive("base_ejection_time", proto.base_ejection_time.as_ref(), p);
        let base_ejection = base_ejection.unwrap_or(Duration::from_secs(30));
        let max_ejection = positive("max_ejection_time", proto.max_ejection_time.as_ref(), p);
        if max_ejection.is_some_and(|max| max < base_ejection) {
            p.refuse_at::<()>("max_ejection_time", "must not be less than base_ejection_time");
        }
        Self {
            interval: positive("interval", proto.interval.as_ref(), p).unwrap_or(Duration::from_secs(10)),
            base_ejection,
            max_ejection: max_ejection.unwrap_or(base_ejection.max(Duration::from_secs(300))),
            max_ejection_jitter: duration_at(proto.max_ejection_time_jitter.as_ref(), "max_ejection_time_jitter", p)
                .unwrap_or_default(),
            max_ejection_percent: whole_percent("max_ejection_percent", proto.max_ejection_percent, 10, p),
            always_eject_one: proto.always_eject_one_host.unwrap_or(false),
            consecutive_5xx: consecutive(
                "enforcing_consecutive_5xx",
                proto.consecutive_5xx,
                proto.enforcing_consecutive_5xx,
                100,
                p,
            ),
            consecutive_gateway: consecutive(
                "enforcing_consecutive_gateway_failure",
                proto.consecutive_gateway_failure,
                proto.enforcing_consecutive_gateway_failure,
                0,
                p,
            ),
            consecutive_local: consecutive(
                "enforcing_consecutive_local_origin_failure",
                proto.consecutive_local_origin_failure,
                proto.enforcing_consecutive_local_origin_failure,
                100,
                p,
            ),
            split_local: proto.split_external_local_origin_errors,
            success_rate: SuccessRate::decode(proto, p),
            failure_percentage: FailurePercentage::decode(proto, p),
            detect_degraded: proto.detect_degraded_hosts.unwrap_or(false),
            uneject_on_health_check: proto.successful_active_health_check_uneject_host.unwrap_or(true),
        }
    }
}

impl SuccessRate {
    fn decode(proto: &wire::OutlierDetection, p: &mut Problems) -> Self {
        Self {
            minimum_hosts: proto.success_rate_minimum_hosts.unwrap_or(5),
            request_volume: proto.success_rate_request_volume.unwrap_or(100),
            stdev_factor: proto.success_rate_stdev_factor.unwrap_or(1900),
            enforcing: whole_percent("enforcing_success_rate", proto.enforcing_success_rate, 100, p),
            enforcing_local: whole_percent(
                "enforcing_local_origin_success_rate",
                proto.enforcing_local_origin_success_rate,
                100,
                p,
            ),
        }
    }
}

impl FailurePercentage {
    fn decode(proto: &wire::OutlierDetection, p: &mut Problems) -> Self {
        Self {
            threshold: whole_percent("failure_percentage_threshold", proto.failure_percentage_threshold, 85, p),
            minimum_hosts: proto.failure_percentage_minimum_hosts.unwrap_or(5),
            request_volume: proto.failure_percentage_request_volume.unwrap_or(50),
            enforcing: whole_percent("enforcing_failure_percentage", proto.enforcing_failure_percentage, 0, p),
            enforcing_local: whole_percent(
                "enforcing_failure_percentage_local_origin",
                proto.enforcing_failure_percentage_local_origin,
                0,
                p,
            ),
        }
    }
}
