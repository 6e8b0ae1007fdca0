//! `client_side_weighted_round_robin`: weights from what endpoints report of their load (ORCA, gRFC A58).

use std::time::Duration;

use proto::envoy::extensions::load_balancing_policies::client_side_weighted_round_robin::v3 as wire;

use super::{Algorithm, LbPolicy, SlowStart};
use crate::core::duration_at;
use crate::invalid::Problems;

/// weight = requests a second / (utilization + penalty × errors a second / requests a second).
#[derive(Debug, Clone, PartialEq)]
pub struct ClientSide {
    /// An endpoint must have reported for so long before its weight counts.
    pub blackout: Duration,
    /// A weight that was not reported again for so long counts no more.
    pub expiration: Duration,
    /// How often weights change.
    pub update: Duration,
    pub error_penalty: f64,
    /// Endpoints are asked for reports apart from requests, whose answers count no more then.
    pub out_of_band: Option<OutOfBand>,
    /// The largest of these is the utilization; without any, `application_utilization`, else `cpu_utilization`.
    pub metrics: Vec<Metric>,
}

/// How endpoints are asked for reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutOfBand {
    /// How often they are to report.
    pub period: Duration,
    /// In place of that of the endpoint.
    pub port: Option<u16>,
    /// The host to name; empty takes that of the endpoint.
    pub authority: String,
}

/// What a report says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Metric<Name = String> {
    Cpu,
    Memory,
    Application,
    Errors,
    Requests,
    Named(Name),
    Utilization(Name),
    RequestCost(Name),
}

// === impl ClientSide ===

impl ClientSide {
    pub(super) fn decode(proto: &wire::ClientSideWeightedRoundRobin, p: &mut Problems) -> Option<LbPolicy> {
        let before = p.count();
        // The other fields about it have a meaning only with it.
        let out_of_band = match proto.enable_oob_load_report {
            Some(true) => Some(OutOfBand::decode(proto, p)),
            _ => None,
        };
        let mut period = |name, field: Option<&prost_types::Duration>, default| {
            duration_at(field, name, p).unwrap_or(Duration::from_secs(default))
        };
        let blackout = period("blackout_period", proto.blackout_period.as_ref(), 10);
        let expiration = period("weight_expiration_period", proto.weight_expiration_period.as_ref(), 180);
        let update = period("weight_update_period", proto.weight_update_period.as_ref(), 1);
        let error_penalty = f64::from(proto.error_utilization_penalty.unwrap_or(0.0));
        if !error_penalty.is_finite() || error_penalty < 0.0 {
            p.refuse_at::<()>("error_utilization_penalty", "must be 0 or more");
        }
        let metrics = p.each(
            "metric_names_for_computing_utilization",
            &proto.metric_names_for_computing_utilization,
            |p, name| {
                let metric = Metric::of(name).map(Metric::owned);
                if metric.is_none() {
                    p.refuse(format!(
                        "no report has {name:?}: known are cpu_utilization, mem_utilization, \
                         application_utilization, eps, rps_fractional, named_metrics.*, utilization.*, request_cost.*"
                    ));
                }
                metric
            },
        );
        let slow_start = SlowStart::decode_at(proto.slow_start_config.as_ref(), p)?;
        if p.count() > before {
            return None;
        }
        // "Values less than 100ms are capped at 100ms."
        let update = update.max(Duration::from_millis(100));
        let out_of_band = out_of_band.flatten();
        let config = Self { blackout, expiration, update, error_penalty, out_of_band, metrics };
        Some(LbPolicy { slow_start, ..LbPolicy::of(Algorithm::ClientSide(config)) })
    }
}

// === impl OutOfBand ===

impl OutOfBand {
    fn decode(proto: &wire::ClientSideWeightedRoundRobin, p: &mut Problems) -> Option<Self> {
        let period = duration_at(proto.oob_reporting_period.as_ref(), "oob_reporting_period", p);
        let period = period.filter(|period| !period.is_zero()).unwrap_or(Duration::from_secs(10));
        let config = proto.oob_reporting_config.clone().unwrap_or_default();
        let port = p.at("oob_reporting_config", |p| {
            crate::refuse_set!(p, config; transport_socket_match_criteria);
            match u16::try_from(config.port_value) {
                Ok(port) => Some(Some(port).filter(|port| *port > 0)),
                Err(_) => p.refuse_at("port_value", "must be at most 65535"),
            }
        })?;
        Some(Self { period, port, authority: config.authority })
    }
}

// === impl Metric ===

impl<'a> Metric<&'a str> {
    /// The metric of this name, as Envoy spells it.
    pub fn of(name: &'a str) -> Option<Self> {
        Some(match name {
            "cpu_utilization" => Self::Cpu,
            "mem_utilization" => Self::Memory,
            "application_utilization" => Self::Application,
            "eps" => Self::Errors,
            "rps_fractional" => Self::Requests,
            _ => match name.split_once('.').filter(|(_, name)| !name.is_empty())? {
                ("named_metrics", name) => Self::Named(name),
                ("utilization", name) => Self::Utilization(name),
                ("request_cost", name) => Self::RequestCost(name),
                _ => return None,
            },
        })
    }

    fn owned(self) -> Metric {
        match self {
            Self::Cpu => Metric::Cpu,
            Self::Memory => Metric::Memory,
            Self::Application => Metric::Application,
            Self::Errors => Metric::Errors,
            Self::Requests => Metric::Requests,
            Self::Named(name) => Metric::Named(name.to_owned()),
            Self::Utilization(name) => Metric::Utilization(name.to_owned()),
            Self::RequestCost(name) => Metric::RequestCost(name.to_owned()),
        }
    }
}

impl Metric {
    /// Whether it is what a report tells; `*` is every name.
    pub fn is(&self, told: &Metric<&str>) -> bool {
        let same = |name: &str, told: &str| name == "*" || name == told;
        match (self, told) {
            (Self::Named(name), Metric::Named(told))
            | (Self::Utilization(name), Metric::Utilization(told))
            | (Self::RequestCost(name), Metric::RequestCost(told)) => same(name, told),
            (Self::Cpu, Metric::Cpu)
            | (Self::Memory, Metric::Memory)
            | (Self::Application, Metric::Application)
            | (Self::Errors, Metric::Errors)
            | (Self::Requests, Metric::Requests) => true,
            _ => false,
        }
    }
}
