//! Where the endpoints of a cluster come from.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proto::envoy::config::cluster::v3 as wire;
use proto::envoy::config::cluster::v3::cluster as kind;
use proto::envoy::config::core::v3 as pb;
use proto::envoy::extensions::clusters::aggregate::v3 as aggregate;
use proto::envoy::extensions::clusters::dns::v3 as ext;
use proto::envoy::extensions::clusters::dynamic_forward_proxy::v3 as dynamic_forward_proxy;
use proto::envoy::extensions::clusters::original_dst::v3::OriginalDstCluster;
use proto::envoy::extensions::network::dns_resolver as resolvers;
use proto::weir::clusters::srv::v1::SrvCluster;

use super::wire::{at_least_1ms, positive};
use crate::core::{Address, ConfigSource, config_source, duration_at, socket_address};
use crate::endpoint::{Assignment, Names};
use crate::invalid::Problems;

mod forward;
mod original_dst;
mod srv;

pub use forward::{DnsCache, ForwardProxy};
pub use original_dst::{MetadataKey, OriginalDst};
pub use srv::Srv;

#[derive(Debug, Clone, PartialEq)]
pub enum Discovery {
    Static(Assignment),
    /// Every address that a name resolves to is an endpoint.
    StrictDns(Dns, Assignment),
    /// One endpoint, whose new connections go to the first address that its name resolves to.
    LogicalDns(Dns, Assignment),
    Eds(Eds),
    /// Priorities, weights, ports and targets of an SRV name.
    Srv(Srv),
    /// The endpoints of other clusters, by name, in the order of preference.
    Aggregate(Vec<Arc<str>>),
    OriginalDst(OriginalDst),
    ForwardProxy(ForwardProxy),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Eds {
    pub source: ConfigSource,
    /// The name to ask for; the cluster's name when none is given.
    pub service: String,
}

/// How names are resolved, and how often.
#[derive(Debug, Clone, PartialEq)]
pub struct Dns {
    pub refresh: Duration,
    pub jitter: Duration,
    /// Delay between tries after a failure: grows from the first to the second; `refresh` when not given.
    pub failure_refresh: Option<(Duration, Duration)>,
    /// The TTL of the answer takes the place of `refresh`.
    pub respect_ttl: bool,
    /// A TTL shorter than this counts as this.
    pub minimum_refresh: Duration,
    pub family: LookupFamily,
    pub resolver: Resolver,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LookupFamily {
    /// IPv6 addresses, and IPv4 ones when there are none.
    #[default]
    Auto,
    V4Only,
    V6Only,
    V4Preferred,
    All,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Resolver {
    /// Empty takes the system's.
    pub servers: Vec<SocketAddr>,
    /// `servers` are asked only when the system names none.
    pub only_as_fallback: bool,
    pub tcp: bool,
    /// Names are taken as absolute.
    pub no_search: bool,
    pub query_timeout: Option<Duration>,
    pub tries: Option<u32>,
}

// === decode ===

impl Discovery {
    /// The cluster itself says where each request goes, so that it has no balancing policy of its own.
    pub fn provides_balancing(&self) -> bool {
        matches!(self, Self::Aggregate(_) | Self::OriginalDst(_) | Self::ForwardProxy(_))
    }

    /// The endpoints are found by DNS.
    pub fn is_dns(&self) -> bool {
        matches!(self, Self::StrictDns(..) | Self::LogicalDns(..) | Self::Srv(_))
    }

    pub(super) fn decode(proto: &wire::Cluster, p: &mut Problems) -> Option<Self> {
        let discovery = match &proto.cluster_discovery_type {
            None => Self::decode_static(proto, p),
            Some(kind::ClusterDiscoveryType::Type(number)) => match kind::DiscoveryType::try_from(*number) {
                Ok(kind::DiscoveryType::Static) => Self::decode_static(proto, p),
                Ok(kind::DiscoveryType::StrictDns) => Self::strict_dns(Dns::old(proto, p)?, proto, p),
                Ok(kind::DiscoveryType::LogicalDns) => Self::logical_dns(Dns::old(proto, p)?, proto, p),
                Ok(kind::DiscoveryType::Eds) => return Self::decode_eds(proto, p),
                Ok(kind::DiscoveryType::OriginalDst) if proto.load_assignment.is_some() => {
                    p.refuse_at("load_assignment", "a cluster of type ORIGINAL_DST has no endpoints of its own")
                }
                Ok(kind::DiscoveryType::OriginalDst) => OriginalDst::old(proto, p).map(Self::OriginalDst),
                Err(_) => p.refuse_at("type", "unknown value"),
            },
            Some(kind::ClusterDiscoveryType::ClusterType(custom)) => Self::custom(custom, proto, p),
        };
        if proto.eds_cluster_config.is_some() {
            return p.refuse_at("eds_cluster_config", "is only for clusters of type EDS");
        }
        discovery
    }

    fn decode_static(proto: &wire::Cluster, p: &mut Problems) -> Option<Self> {
        assignment(proto, Names::Refused, p).map(Self::Static)
    }

    fn decode_eds(proto: &wire::Cluster, p: &mut Problems) -> Option<Self> {
        if proto.load_assignment.is_some() {
            p.refuse_at::<()>("load_assignment", "a cluster of type EDS takes its endpoints from EDS");
        }
        let Some(eds) = &proto.eds_cluster_config else {
            return p.refuse_at("eds_cluster_config", "is not set");
        };
        p.at("eds_cluster_config", |p| {
            let Some(source) = &eds.eds_config else { return p.refuse_at("eds_config", "is not set") };
            let source = p.at("eds_config", |p| config_source(source, p))?;
            let service = if eds.service_name.is_empty() { &proto.name } else { &eds.service_name };
            Some(Self::Eds(Eds { source, service: service.clone() }))
        })
    }

    fn custom(custom: &kind::CustomClusterType, proto: &wire::Cluster, p: &mut Problems) -> Option<Self> {
        let any = p.at("cluster_type.typed_config", |p| match &custom.typed_config {
            Some(any) => crate::core::extension(any, p),
            None => p.refuse_at("", "is not set"),
        })?;
        if any.is::<ext::DnsCluster>() {
            let (dns, single) = p.at("cluster_type.typed_config", |p| {
                let config = crate::core::unpack::<ext::DnsCluster>(&any, p)?;
                Some((Dns::decode(&config, p)?, config.all_addresses_in_single_endpoint))
            })?;
            return if single { Self::logical_dns(dns, proto, p) } else { Self::strict_dns(dns, proto, p) };
        }
        if proto.load_assignment.is_some() {
            p.refuse_at::<()>(
                "load_assignment",
                format!("a cluster by {} finds its endpoints itself", any.type_name()),
            );
        }
        p.at("cluster_type.typed_config", |p| {
            if any.is::<aggregate::ClusterConfig>() {
                return Self::aggregate(&crate::core::unpack(&any, p)?, proto, p);
            }
            if any.is::<OriginalDstCluster>() {
                let config = crate::core::unpack(&any, p)?;
                return OriginalDst::extension(proto, &config, p).map(Self::OriginalDst);
            }
            if any.is::<dynamic_forward_proxy::ClusterConfig>() {
                return ForwardProxy::decode(&crate::core::unpack(&any, p)?, p).map(Self::ForwardProxy);
            }
            if any.is::<SrvCluster>() {
                return Srv::decode(&crate::core::unpack(&any, p)?, p).map(Self::Srv);
            }
            p.refuse(format!("{} is not implemented by weir-proxy", any.type_name()));
            None
        })
    }

    fn aggregate(config: &aggregate::ClusterConfig, proto: &wire::Cluster, p: &mut Problems) -> Option<Self> {
        if config.clusters.is_empty() {
            return p.refuse_at("clusters", "is empty");
        }
        let mut seen = std::collections::BTreeSet::new();
        let names = p.each("clusters", &config.clusters, |p, name| {
            let reason = match name.as_str() {
                "" => "is empty",
                own if own == proto.name => "is the cluster itself",
                other if !seen.insert(other.to_owned()) => "is named twice",
                other => return Some(Arc::from(other)),
            };
            p.refuse(reason);
            None
        });
        Some(Self::Aggregate(names))
    }

    fn strict_dns(dns: Dns, proto: &wire::Cluster, p: &mut Problems) -> Option<Self> {
        Some(Self::StrictDns(dns, assignment(proto, Names::Resolved, p)?))
    }

    fn logical_dns(dns: Dns, proto: &wire::Cluster, p: &mut Problems) -> Option<Self> {
        let assignment = assignment(proto, Names::Resolved, p)?;
        if assignment.localities.len() != 1 || assignment.endpoints().count() != 1 {
            return p.refuse_at("load_assignment", "a logical DNS cluster has one locality with one endpoint");
        }
        Some(Self::LogicalDns(dns, assignment))
    }
}

fn assignment(proto: &wire::Cluster, names: Names, p: &mut Problems) -> Option<Assignment> {
    let Some(assignment) = &proto.load_assignment else {
        return p.refuse_at("load_assignment", "is not set");
    };
    p.at("load_assignment", |p| {
        let assignment = Assignment::decode(assignment, names, p);
        if assignment.stale_after.is_some() {
            p.refuse_at::<()>("policy.endpoint_stale_after", "is only for endpoints that EDS delivers");
        }
        Some(assignment)
    })
}

impl Dns {
    #[allow(deprecated)]
    fn old(proto: &wire::Cluster, p: &mut Problems) -> Option<Self> {
        let mut resolver = Resolver::old(proto, p)?;
        if let Some(typed) = &proto.typed_dns_resolver_config {
            resolver = p.at("typed_dns_resolver_config", |p| Resolver::typed(typed, p))?;
        }
        let failure = proto.dns_failure_refresh_rate.as_ref();
        let times = Times {
            refresh: proto.dns_refresh_rate.as_ref(),
            jitter: proto.dns_jitter.as_ref(),
            failure: failure.map(|f| (f.base_interval.as_ref(), f.max_interval.as_ref())),
            respect_ttl: proto.respect_dns_ttl,
            minimum: None,
        };
        let family = kind::DnsLookupFamily::try_from(proto.dns_lookup_family).ok();
        Self::of(times, family.map(|f| f.as_str_name()), resolver, p)
    }

    fn decode(proto: &ext::DnsCluster, p: &mut Problems) -> Option<Self> {
        use proto::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily;
        let failure = proto.dns_failure_refresh_rate.as_ref();
        let times = Times {
            refresh: proto.dns_refresh_rate.as_ref(),
            jitter: proto.dns_jitter.as_ref(),
            failure: failure.map(|f| (f.base_interval.as_ref(), f.max_interval.as_ref())),
            respect_ttl: proto.respect_dns_ttl,
            minimum: proto.dns_min_refresh_rate.as_ref(),
        };
        let resolver = match &proto.typed_dns_resolver_config {
            Some(typed) => p.at("typed_dns_resolver_config", |p| Resolver::typed(typed, p))?,
            None => Resolver::default(),
        };
        let family = DnsLookupFamily::try_from(proto.dns_lookup_family).ok();
        Self::of(times, family.map(|f| f.as_str_name()), resolver, p)
    }

    /// The fields that every message with names has in common.
    fn of(times: Times<'_>, family: Option<&str>, resolver: Resolver, p: &mut Problems) -> Option<Self> {
        Some(Self {
            refresh: at_least_1ms("dns_refresh_rate", times.refresh, p).unwrap_or(DEFAULT_REFRESH),
            jitter: duration_at(times.jitter, "dns_jitter", p).unwrap_or_default(),
            failure_refresh: match times.failure {
                Some((base, max)) => Some(failure_rate(base, max, p)?),
                None => None,
            },
            respect_ttl: times.respect_ttl,
            minimum_refresh: positive("dns_min_refresh_rate", times.minimum, p).unwrap_or(MINIMUM_REFRESH),
            family: LookupFamily::named(family, p)?,
            resolver,
        })
    }
}

impl LookupFamily {
    /// Every message has an enum of its own, with the same names.
    fn named(name: Option<&str>, p: &mut Problems) -> Option<Self> {
        Some(match name {
            Some("UNSPECIFIED" | "AUTO") => Self::Auto,
            Some("V4_ONLY") => Self::V4Only,
            Some("V6_ONLY") => Self::V6Only,
            Some("V4_PREFERRED") => Self::V4Preferred,
            Some("ALL") => Self::All,
            _ => return p.refuse_at("dns_lookup_family", "unknown value"),
        })
    }
}

/// When names are asked for again, as on the wire.
struct Times<'p> {
    refresh: Option<&'p prost_types::Duration>,
    jitter: Option<&'p prost_types::Duration>,
    /// The first delay and the longest.
    failure: Option<(Option<&'p prost_types::Duration>, Option<&'p prost_types::Duration>)>,
    respect_ttl: bool,
    minimum: Option<&'p prost_types::Duration>,
}

/// Envoy's default between two resolutions.
const DEFAULT_REFRESH: Duration = Duration::from_secs(5);
/// A name server that answers with a TTL of 0 is not asked more often than this.
const MINIMUM_REFRESH: Duration = Duration::from_secs(1);

fn failure_rate(
    base: Option<&prost_types::Duration>,
    max: Option<&prost_types::Duration>,
    p: &mut Problems,
) -> Option<(Duration, Duration)> {
    p.at("dns_failure_refresh_rate", |p| {
        let Some(base) = at_least_1ms("base_interval", base, p) else {
            return if base.is_none() { p.refuse_at("base_interval", "is not set") } else { None };
        };
        let max = at_least_1ms("max_interval", max, p).unwrap_or(base * 10);
        if max < base {
            return p.refuse_at("max_interval", "is less than base_interval");
        }
        Some((base, max))
    })
}

impl Resolver {
    #[allow(deprecated)]
    fn old(proto: &wire::Cluster, p: &mut Problems) -> Option<Self> {
        let mut resolver = Self { tcp: proto.use_tcp_for_dns_lookups, ..Self::default() };
        resolver.servers = p.each("dns_resolvers", &proto.dns_resolvers, server);
        if let Some(config) = &proto.dns_resolution_config {
            p.at("dns_resolution_config", |p| {
                resolver.servers = p.each("resolvers", &config.resolvers, server);
                resolver.options(config.dns_resolver_options.as_ref());
            });
        }
        Some(resolver)
    }

    fn typed(proto: &pb::TypedExtensionConfig, p: &mut Problems) -> Option<Self> {
        p.at("typed_config", |p| {
            let Some(any) = &proto.typed_config else {
                p.refuse("is not set");
                return None;
            };
            Self::any(any, p)
        })
    }

    fn any(any: &proto::Any, p: &mut Problems) -> Option<Self> {
        let any = crate::core::extension(any, p)?;
        if any.is::<resolvers::cares::v3::CaresDnsResolverConfig>() {
            return Some(Self::cares(&crate::core::unpack(&any, p)?, p));
        }
        if any.is::<resolvers::getaddrinfo::v3::GetAddrInfoDnsResolverConfig>() {
            let proto: resolvers::getaddrinfo::v3::GetAddrInfoDnsResolverConfig = crate::core::unpack(&any, p)?;
            // num_resolver_threads: lookups need no threads here.
            return Some(Self { tries: proto.num_retries.map(|n| n.saturating_add(1)), ..Self::default() });
        }
        if any.is::<resolvers::hickory::v3::HickoryDnsResolverConfig>() {
            return Some(Self::hickory(&crate::core::unpack(&any, p)?, p));
        }
        p.refuse(format!("{} is not implemented by weir-proxy", any.type_name()));
        None
    }

    fn cares(proto: &resolvers::cares::v3::CaresDnsResolverConfig, p: &mut Problems) -> Self {
        // udp_max_queries, max_udp_channel_duration and reinit_channel_on_timeout: every query has its own socket here.
        crate::refuse_set!(p, proto; filter_unroutable_families, rotate_nameservers, edns0_max_payload_size, qcache_max_ttl);
        let mut resolver = Self {
            servers: p.each("resolvers", &proto.resolvers, server),
            only_as_fallback: proto.use_resolvers_as_fallback,
            query_timeout: proto.query_timeout_seconds.map(Duration::from_secs),
            tries: proto.query_tries,
            ..Self::default()
        };
        resolver.options(proto.dns_resolver_options.as_ref());
        resolver
    }

    fn hickory(proto: &resolvers::hickory::v3::HickoryDnsResolverConfig, p: &mut Problems) -> Self {
        // cache_size and num_resolver_threads: a name is asked for when its TTL ends, so there is no cache to size.
        crate::refuse_set!(p, proto; dns_over_tls, dns_over_https, enable_dnssec);
        Self {
            servers: p.each("resolvers", &proto.resolvers, server),
            query_timeout: duration_at(proto.query_timeout.as_ref(), "query_timeout", p),
            tries: proto.query_tries,
            ..Self::default()
        }
    }

    fn options(&mut self, proto: Option<&pb::DnsResolverOptions>) {
        if let Some(options) = proto {
            self.tcp = options.use_tcp_for_dns_lookups;
            self.no_search = options.no_default_search_domain;
        }
    }
}

fn server(p: &mut Problems, proto: &pb::Address) -> Option<SocketAddr> {
    use pb::address::Address as Kind;
    let Some(Kind::SocketAddress(socket)) = &proto.address else {
        return p.refuse_at("socket_address", "is not set");
    };
    p.at("socket_address", |p| match socket_address(socket, p)? {
        Address::Ip(address) => {
            Some(SocketAddr::new(address.ip(), if address.port() == 0 { 53 } else { address.port() }))
        }
        _ => p.refuse_at("address", "a name server is given by its IP address"),
    })
}
