//! What is told about ejections: Envoy's `OutlierDetectionEvent`, as plain data.

use std::time::Duration;

use dp_http::info::Address;

/// Takes events, for the event log. Called from workers too: it must not wait.
pub trait EventSink: Send + Sync {
    fn outlier(&self, event: &Event<'_>);
}

/// An endpoint was found to be an outlier, or is none any more.
#[derive(Debug)]
pub struct Event<'a> {
    pub cluster: &'a str,
    pub address: &'a Address,
    pub action: Action,
    /// How often the endpoint was ejected so far.
    pub ejections: u32,
    /// Since the opposite happened, if it ever did.
    pub since_last: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// `enforced` is false when the endpoint stays in use, because the reason is only to be reported.
    Eject {
        reason: Reason,
        enforced: bool,
        rates: Option<Rates>,
    },
    Uneject,
}

/// Why an endpoint is an outlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Consecutive5xx,
    ConsecutiveGateway,
    ConsecutiveLocal,
    SuccessRate,
    SuccessRateLocal,
    FailurePercentage,
    FailurePercentageLocal,
}

/// What an ejection by success rate was decided on, in percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    pub endpoint: f64,
    pub average: f64,
    pub threshold: f64,
}

// === impl Reason ===

impl Reason {
    /// As in `envoy.data.cluster.v3.OutlierEjectionType`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "CONSECUTIVE_5XX",
            Self::ConsecutiveGateway => "CONSECUTIVE_GATEWAY_FAILURE",
            Self::ConsecutiveLocal => "CONSECUTIVE_LOCAL_ORIGIN_FAILURE",
            Self::SuccessRate => "SUCCESS_RATE",
            Self::SuccessRateLocal => "SUCCESS_RATE_LOCAL_ORIGIN",
            Self::FailurePercentage => "FAILURE_PERCENTAGE",
            Self::FailurePercentageLocal => "FAILURE_PERCENTAGE_LOCAL_ORIGIN",
        }
    }
}
