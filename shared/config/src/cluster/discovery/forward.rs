//! Dynamic forward proxying: the DNS cache that filter and cluster share, and the cluster.

use std::time::Duration;

use proto::envoy::config::core::v3 as core;
use proto::envoy::extensions::clusters::dynamic_forward_proxy::v3 as wire;
use proto::envoy::extensions::common::dynamic_forward_proxy::v3 as cache;

use super::{LookupFamily, Resolver, failure_rate, kind, server};
use crate::cluster::wire::{at_least_1ms, positive};
use crate::invalid::Problems;

/// A cluster whose endpoint is the host that the request names.
#[derive(Debug, Clone, PartialEq)]
pub struct ForwardProxy {
    pub cache: DnsCache,
    /// TLS without the name of the host, or without checking it, is allowed.
    pub allow_insecure: bool,
}

/// A cache of names, shared by all that name it.
#[derive(Debug, Clone, PartialEq)]
pub struct DnsCache {
    pub name: String,
    pub family: LookupFamily,
    /// Between tries for a name that did not resolve yet.
    pub refresh: Duration,
    /// The TTL of a name that resolves counts at least this.
    pub minimum_refresh: Duration,
    /// A name that nobody asked for this long is forgotten.
    pub host_ttl: Duration,
    pub max_hosts: usize,
    /// A name that does not resolve is forgotten, and asked for again by the next request.
    pub forget_failures: bool,
    pub failure_refresh: Option<(Duration, Duration)>,
    /// Requests that may wait for names at a time.
    pub max_pending: u32,
    pub resolver: Resolver,
    /// Host and port of names that are resolved before anybody asks.
    pub preresolve: Vec<(String, u16)>,
    pub query_timeout: Option<Duration>,
}

// === decode ===

impl ForwardProxy {
    pub(super) fn decode(proto: &wire::ClusterConfig, p: &mut Problems) -> Option<Self> {
        use wire::cluster_config::ClusterImplementationSpecifier as Kind;
        crate::refuse_set!(p, proto; allow_coalesced_connections);
        let config = match &proto.cluster_implementation_specifier {
            Some(Kind::DnsCacheConfig(config)) => config,
            Some(Kind::SubClustersConfig(_)) => {
                p.unimplemented("sub_clusters_config");
                return None;
            }
            None => return p.refuse_at("dns_cache_config", "is not set"),
        };
        let cache = p.at("dns_cache_config", |p| DnsCache::decode(config, p))?;
        Some(Self { cache, allow_insecure: proto.allow_insecure_cluster_options })
    }
}

impl DnsCache {
    pub(crate) fn decode(proto: &cache::DnsCacheConfig, p: &mut Problems) -> Option<Self> {
        let before = p.count();
        crate::refuse_set!(p, proto; key_value_config, resolved_address_filter);
        if proto.name.is_empty() {
            p.refuse_at::<()>("name", "is empty");
        }
        let failure = proto.dns_failure_refresh_rate.as_ref();
        let max_pending = proto.dns_cache_circuit_breaker.as_ref().and_then(|b| b.max_pending_requests);
        let minimum_refresh =
            super::super::wire::positive("dns_min_refresh_rate", proto.dns_min_refresh_rate.as_ref(), p);
        if minimum_refresh.is_some_and(|rate| rate < Duration::from_secs(1)) {
            p.refuse_at::<()>("dns_min_refresh_rate", "must be at least 1s");
        }
        if proto.max_hosts == Some(0) {
            p.refuse_at::<()>("max_hosts", "must be at least 1");
        }
        let family = kind::DnsLookupFamily::try_from(proto.dns_lookup_family).ok();
        let decoded = Self {
            name: proto.name.clone(),
            family: LookupFamily::named(family.map(|f| f.as_str_name()), p)?,
            refresh: at_least_1ms("dns_refresh_rate", proto.dns_refresh_rate.as_ref(), p)
                .unwrap_or(Duration::from_secs(60)),
            minimum_refresh: minimum_refresh.unwrap_or(Duration::from_secs(5)),
            host_ttl: positive("host_ttl", proto.host_ttl.as_ref(), p).unwrap_or(Duration::from_secs(300)),
            max_hosts: proto.max_hosts.unwrap_or(1024) as usize,
            forget_failures: proto.disable_dns_refresh_on_failure,
            failure_refresh: match failure {
                Some(f) => Some(failure_rate(f.base_interval.as_ref(), f.max_interval.as_ref(), p)?),
                None => None,
            },
            max_pending: max_pending.unwrap_or(1024),
            resolver: Self::resolver(proto, p)?,
            preresolve: p.each("preresolve_hostnames", &proto.preresolve_hostnames, name),
            query_timeout: match proto.dns_query_timeout.as_ref() {
                // 0s waits for the resolver's own timeouts.
                Some(timeout) => {
                    crate::core::duration_at(Some(timeout), "dns_query_timeout", p).filter(|t| !t.is_zero())
                }
                None => Some(Duration::from_secs(5)),
            },
        };
        (p.count() == before).then_some(decoded)
    }

    #[allow(deprecated)]
    fn resolver(proto: &cache::DnsCacheConfig, p: &mut Problems) -> Option<Resolver> {
        let mut resolver = Resolver { tcp: proto.use_tcp_for_dns_lookups, ..Resolver::default() };
        if let Some(config) = &proto.dns_resolution_config {
            p.at("dns_resolution_config", |p| {
                resolver.servers = p.each("resolvers", &config.resolvers, server);
                resolver.options(config.dns_resolver_options.as_ref());
            });
        }
        match &proto.typed_dns_resolver_config {
            Some(typed) => p.at("typed_dns_resolver_config", |p| Resolver::typed(typed, p)),
            None => Some(resolver),
        }
    }
}

/// A host and a port to resolve early.
fn name(p: &mut Problems, proto: &core::SocketAddress) -> Option<(String, u16)> {
    use core::socket_address::PortSpecifier;
    if proto.address.is_empty() {
        return p.refuse_at("address", "is empty");
    }
    match proto.port_specifier {
        Some(PortSpecifier::PortValue(port)) => match u16::try_from(port) {
            Ok(port) if port > 0 => Some((proto.address.clone(), port)),
            _ => p.refuse_at("port_value", "must be from 1 to 65535"),
        },
        _ => p.refuse_at("port_value", "is not set"),
    }
}
