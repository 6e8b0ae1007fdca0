//! Our own policies by response time: `weir.load_balancing_policies.v1`.

use std::time::Duration;

use proto::weir::load_balancing_policies::v1 as own;

use crate::cluster::wire as read;
use crate::invalid::Problems;

/// Of two endpoints, the one with the smaller expected wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeakEwma {
    /// After this time an old value counts for a third.
    pub decay: Duration,
    /// What an endpoint that was never measured is taken for while it has a request.
    pub default_rtt: Duration,
}

/// The endpoint with the smallest average time, for its weight and what runs there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeastTime {
    pub measure: Measure,
    /// How many endpoints are compared; `None`: all.
    pub choices: Option<u32>,
}

/// The moment that ends a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    Header,
    LastByte,
}

// === decode ===

impl PeakEwma {
    pub(super) fn decode(proto: &own::PeakEwma, p: &mut Problems) -> Option<Self> {
        let before = p.count();
        let decay = read::at_least_1ms("decay_time", proto.decay_time.as_ref(), p);
        let default_rtt = read::at_least_1ms("default_rtt", proto.default_rtt.as_ref(), p);
        (p.count() == before).then(|| Self {
            decay: decay.unwrap_or(Duration::from_secs(10)),
            default_rtt: default_rtt.unwrap_or(Duration::from_secs(1)),
        })
    }
}

impl LeastTime {
    pub(super) fn decode(proto: &own::LeastTime, p: &mut Problems) -> Option<Self> {
        let measure = match own::least_time::Measure::try_from(proto.measure) {
            Ok(own::least_time::Measure::Header) => Measure::Header,
            Ok(own::least_time::Measure::LastByte) => Measure::LastByte,
            Err(_) => return p.refuse_at("measure", "unknown value"),
        };
        if proto.choice_count.is_some_and(|count| count < 2) {
            return p.refuse_at("choice_count", "must be at least 2");
        }
        Some(Self { measure, choices: proto.choice_count })
    }
}
