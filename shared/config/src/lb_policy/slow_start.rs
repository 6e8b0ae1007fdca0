//! Slow start: an endpoint that became healthy takes its share of the load little by little.

use std::time::Duration;

use proto::envoy::config::cluster::v3::cluster as old;
use proto::envoy::config::core::v3 as core;
use proto::envoy::extensions::load_balancing_policies::common::v3 as common;

use crate::cluster::wire as read;
use crate::invalid::Problems;

/// weight × max(least, (time / window)^(1 / aggression)).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowStart {
    pub window: Duration,
    /// 1 grows evenly, more grows faster at first.
    pub aggression: f64,
    /// The least part of its weight that an endpoint has, from 0 to 1.
    pub least: f64,
}

/// The old message and the new one, which have the same fields.
pub(super) trait Fields {
    fn window(&self) -> Option<&prost_types::Duration>;
    fn aggression(&self) -> Option<&core::RuntimeDouble>;
    fn least(&self) -> Option<&proto::envoy::r#type::v3::Percent>;
}

macro_rules! fields {
    ($message:ty) => {
        impl Fields for $message {
            fn window(&self) -> Option<&prost_types::Duration> {
                self.slow_start_window.as_ref()
            }
            fn aggression(&self) -> Option<&core::RuntimeDouble> {
                self.aggression.as_ref()
            }
            fn least(&self) -> Option<&proto::envoy::r#type::v3::Percent> {
                self.min_weight_percent.as_ref()
            }
        }
    };
}
fields!(old::SlowStartConfig);
fields!(common::SlowStartConfig);

// === impl SlowStart ===

impl SlowStart {
    /// The part of its weight that an endpoint has after `time`; `None` when the window is over.
    pub fn held_back(&self, time: Duration) -> Option<f64> {
        let time = time.max(Duration::from_millis(1));
        let part = time.as_secs_f64() / self.window.as_secs_f64();
        (time < self.window).then(|| part.powf(1.0 / self.aggression).clamp(self.least, 1.0))
    }

    /// How often weights follow the curve.
    pub fn step(&self) -> Duration {
        (self.window / 50).clamp(Duration::from_millis(20), Duration::from_secs(5))
    }
}

// === decode ===

impl SlowStart {
    /// Reads the field `slow_start_config`; `Some(None)` when it is not set or has no window, which switches it off.
    pub(super) fn decode_at(proto: Option<&impl Fields>, p: &mut Problems) -> Option<Option<Self>> {
        let Some(proto) = proto else { return Some(None) };
        p.at("slow_start_config", |p| {
            let before = p.count();
            let window = crate::core::duration_at(proto.window(), "slow_start_window", p);
            let aggression = proto.aggression().map_or(1.0, |a| a.default_value);
            if !aggression.is_finite() || aggression <= 0.0 {
                p.refuse_at::<()>("aggression", "must be more than 0");
            }
            let least = read::percent_at("min_weight_percent", proto.least(), p).unwrap_or(10.0) / 100.0;
            if p.count() > before {
                return None;
            }
            let window = window.filter(|window| !window.is_zero());
            Some(window.map(|window| Self { window, aggression, least }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_is_envoys() {
        let check = |aggression, seconds, wanted: f64| {
            let slow = SlowStart { window: Duration::from_secs(60), aggression, least: 0.1 };
            let factor = slow.held_back(Duration::from_secs(seconds)).unwrap_or(1.0);
            assert!((factor - wanted).abs() < 1e-4, "{aggression} {seconds}: {factor} is not {wanted}");
        };
        check(1.0, 0, 0.1);
        check(1.0, 15, 0.25);
        check(1.0, 30, 0.5);
        check(1.0, 59, 0.98333);
        check(1.0, 60, 1.0);
        check(2.0, 15, 0.5);
        check(2.0, 30, std::f64::consts::FRAC_1_SQRT_2);
        check(0.5, 30, 0.25);
        check(0.5, 6, 0.1);
    }
}
