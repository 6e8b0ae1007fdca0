//! `envoy.extensions.filters.http.health_check.v3.HealthCheck`: requests that ask whether this proxy is well.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::envoy::extensions::filters::http::health_check::v3::HealthCheck;

use super::{Decode, NoOverride};
use crate::core;
use crate::invalid::Problems;
use crate::matcher::HeaderMatcher;

#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub mode: Mode,
    /// A request that matches all of these is a health check.
    pub headers: Vec<HeaderMatcher>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Mode {
    /// The origin answers; its answer may be kept for a while.
    PassThrough { cache_time: Option<Duration> },
    /// We answer: well if each of these clusters has at least so many percent of its endpoints healthy.
    Answer { cluster_min_healthy_percentages: BTreeMap<String, f64> },
}

pub type Override = NoOverride;

// === decode ===

impl Decode for Config {
    type Proto = HealthCheck;

    fn decode(proto: &HealthCheck, p: &mut Problems) -> Option<Self> {
        let before = p.count();
        let headers = p.each("headers", &proto.headers, |p, header| HeaderMatcher::decode(header, p));
        let cache_time = core::duration_at(proto.cache_time.as_ref(), "cache_time", p);
        let percentages = p.at("cluster_min_healthy_percentages", |p| {
            let each = proto.cluster_min_healthy_percentages.iter();
            each.filter_map(|(name, percent)| Some((name.clone(), p.index(name, |p| core::percent(percent, p))?)))
                .collect::<BTreeMap<_, _>>()
        });
        let mode = match proto.pass_through_mode {
            None => p.refuse_at("pass_through_mode", "required")?,
            Some(true) if !percentages.is_empty() => {
                p.refuse_at("cluster_min_healthy_percentages", "has no meaning when pass_through_mode is true")?
            }
            Some(true) => Mode::PassThrough { cache_time: cache_time.filter(|time| !time.is_zero()) },
            Some(false) if cache_time.is_some_and(|time| !time.is_zero()) => {
                p.refuse_at("cache_time", "needs pass_through_mode to be true")?
            }
            Some(false) => Mode::Answer { cluster_min_healthy_percentages: percentages },
        };
        (p.count() == before).then_some(Self { mode, headers })
    }
}
