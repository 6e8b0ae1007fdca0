//! `weir.clusters.srv.v1.SrvCluster`: endpoints by an SRV name.

use proto::weir::clusters::srv::v1 as wire;

use super::{Dns, Resolver, Times};
use crate::invalid::Problems;

/// Endpoints by an SRV name.
#[derive(Debug, Clone, PartialEq)]
pub struct Srv {
    pub name: String,
    pub dns: Dns,
}

impl Srv {
    pub(super) fn decode(proto: &wire::SrvCluster, p: &mut Problems) -> Option<Self> {
        if proto.name.trim_matches('.').is_empty() {
            return p.refuse_at("name", "is empty; write an SRV name such as _http._tcp.api.example.com");
        }
        let failure = proto.dns_failure_refresh_rate.as_ref();
        let times = Times {
            refresh: proto.dns_refresh_rate.as_ref(),
            jitter: proto.dns_jitter.as_ref(),
            failure: failure.map(|f| (f.base_interval.as_ref(), f.max_interval.as_ref())),
            respect_ttl: proto.respect_dns_ttl,
            minimum: proto.dns_min_refresh_rate.as_ref(),
        };
        let resolver = match &proto.typed_dns_resolver_config {
            Some(any) => p.at("typed_dns_resolver_config", |p| Resolver::any(any, p))?,
            None => Resolver::default(),
        };
        let family = wire::srv_cluster::LookupFamily::try_from(proto.dns_lookup_family).ok();
        let dns = Dns::of(times, family.map(|f| f.as_str_name()), resolver, p)?;
        Some(Self { name: proto.name.clone(), dns })
    }
}
