//! Small readers for what cluster messages check beyond the shared types: positive durations, whole percentages.

use std::time::Duration;

use crate::core::{duration_at, percent};
use crate::invalid::Problems;

/// Reads a duration that must be more than zero.
pub(crate) fn positive(name: &str, proto: Option<&prost_types::Duration>, p: &mut Problems) -> Option<Duration> {
    match duration_at(proto, name, p) {
        Some(Duration::ZERO) => p.refuse_at(name, "must be more than 0s"),
        other => other,
    }
}

/// Reads a duration of at least one millisecond.
pub(crate) fn at_least_1ms(name: &str, proto: Option<&prost_types::Duration>, p: &mut Problems) -> Option<Duration> {
    match duration_at(proto, name, p) {
        Some(short) if short < Duration::from_millis(1) => p.refuse_at(name, "must be at least 0.001s"),
        other => other,
    }
}

/// Reads a percentage from 0 to 100.
pub(crate) fn percent_at(
    name: &str,
    proto: Option<&proto::envoy::r#type::v3::Percent>,
    p: &mut Problems,
) -> Option<f64> {
    p.at(name, |p| percent(proto?, p))
}

/// Reads a whole percentage from 0 to 100.
pub(crate) fn whole_percent(name: &str, proto: Option<u32>, default: u32, p: &mut Problems) -> u32 {
    match proto {
        Some(value) if value > 100 => {
            p.refuse_at::<()>(name, "must be from 0 to 100");
            default
        }
        Some(value) => value,
        None => default,
    }
}
