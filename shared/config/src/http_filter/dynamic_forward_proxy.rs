//! `envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig`: resolves the host of a request before it is
//! sent to a dynamic forward proxy cluster.

use proto::envoy::extensions::filters::http::dynamic_forward_proxy::v3 as wire;

use super::Decode;
use crate::cluster::DnsCache;
use crate::invalid::Problems;

#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The cache that the cluster names too.
    pub cache: DnsCache,
}

/// The host that takes the place of the request's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Override {
    Literal(String),
    /// The value of this header, if it is there.
    Header(String),
}

// === decode ===

impl Decode for Config {
    type Proto = wire::FilterConfig;

    fn decode(proto: &wire::FilterConfig, p: &mut Problems) -> Option<Self> {
        use wire::filter_config::ImplementationSpecifier as Kind;
        crate::refuse_set!(p, proto; save_upstream_address, allow_dynamic_host_from_filter_state);
        match &proto.implementation_specifier {
            Some(Kind::DnsCacheConfig(config)) => {
                Some(Self { cache: p.at("dns_cache_config", |p| DnsCache::decode(config, p))? })
            }
            Some(Kind::SubClusterConfig(_)) => {
                p.unimplemented("sub_cluster_config");
                None
            }
            None => p.refuse_at("dns_cache_config", "is not set"),
        }
    }
}

impl Decode for Override {
    type Proto = wire::PerRouteConfig;

    fn decode(proto: &wire::PerRouteConfig, p: &mut Problems) -> Option<Self> {
        use wire::per_route_config::HostRewriteSpecifier as Kind;
        match &proto.host_rewrite_specifier {
            Some(Kind::HostRewriteLiteral(host)) if !host.is_empty() => Some(Self::Literal(host.clone())),
            Some(Kind::HostRewriteHeader(name)) if !name.is_empty() => Some(Self::Header(name.to_ascii_lowercase())),
            _ => p.refuse_at("host_rewrite_literal", "one of host_rewrite_literal and host_rewrite_header is required"),
        }
    }
}
