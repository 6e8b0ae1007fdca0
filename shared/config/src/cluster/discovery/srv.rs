//! `weir.clusters.srv.v1.SrvCluster`: endpoints by an SRV name.

use std::time::Duration;

use proto::weir::clusters::srv::v1 as wire;

use super::{DEFAULT_REFRESH, Dns, LookupFamily, MINIMUM_REFRESH, Resolver, failure_rate};
use crate::cluster::wire::{at_least_1ms, positive};
use crate::core::duration_at;
use crate::invalid::Problems;

/// Endpoints by an SRV name.
#[derive(Debug, Clone, PartialEq)]
pub struct Srv {
    pub name: String,
    pub dns: Dns,
}

impl Srv {
    pub(super) fn decode(proto: &wire::SrvCluster, p: &mut Problems) -> Option<Self> {
        use wire::srv_cluster::LookupFamily as Wire;
        if proto.name.trim_matches('.').is_empty() {
            return p.refuse_at("name", "is empty; write an SRV name such as _http._tcp.api.example.com");
        }
        let failure = proto.dns_failure_refresh_rate.as_ref();
        let refresh: Option<Duration> = at_least_1ms("dns_refresh_rate", proto.dns_refresh_rate.as_ref(), p);
        let dns = Dns {
            refresh: refresh.unwrap_or(DEFAULT_REFRESH),
            jitter: duration_at(proto.dns_jitter.as_ref(), "dns_jitter", p).unwrap_or_default(),
            failure_refresh: match failure {
                Some(f) => Some(failure_rate(f.base_interval.as_ref(), f.max_interval.as_ref(), p)?),
                None => None,
            },
            respect_ttl: proto.respect_dns_ttl,
            minimum_refresh: positive("dns_min_refresh_rate", proto.dns_min_refresh_rate.as_ref(), p)
                .unwrap_or(MINIMUM_REFRESH),
            family: match Wire::try_from(proto.dns_lookup_family) {
                Ok(Wire::Auto) => LookupFamily::Auto,
                Ok(Wire::V4Only) => LookupFamily::V4Only,
                Ok(Wire::V6Only) => LookupFamily::V6Only,
                Ok(Wire::V4Preferred) => LookupFamily::V4Preferred,
                Ok(Wire::All) => LookupFamily::All,
                Err(_) => return p.refuse_at("dns_lookup_family", "unknown value"),
            },
            resolver: match &proto.typed_dns_resolver_config {
                Some(any) => p.at("typed_dns_resolver_config", |p| Resolver::any(any, p))?,
                None => Resolver::default(),
            },
        };
        Some(Self { name: proto.name.clone(), dns })
    }
}
