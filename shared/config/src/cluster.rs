//! Clusters: what a set of endpoints is, how connections to it are made and how much of them.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use proto::envoy::config::cluster::v3 as pb;
use proto::envoy::config::cluster::v3::cluster as kind;
use proto::envoy::config::core::v3::TransportSocket;

use crate::core::{Metadata, TcpKeepalive, metadata, tcp_keepalive};
use crate::endpoint::Assignment;
use crate::health_check::HealthCheck;
use crate::invalid::{Invalid, Problems};
use crate::lb_policy::{LbPolicy, panic_threshold};
use crate::outlier::OutlierDetection;
use crate::proxy_protocol::{self, Outbound};
use crate::tls::UpstreamTls;

pub mod breakers;
pub mod discovery;
pub mod eyeballs;
pub mod http;
pub(crate) mod wire;

pub use breakers::{Breakers, RetryBudget, Thresholds};
pub use discovery::{Discovery, Dns, DnsCache, ForwardProxy, LookupFamily, OriginalDst, Srv};
pub use eyeballs::{Family, HappyEyeballs};
pub use http::{HttpOptions, Protocols};

/// One cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    pub name: Arc<str>,
    /// The name in statistics: `alt_stat_name`, or the name with `:` replaced.
    pub stat_name: String,
    pub discovery: Discovery,
    /// Covers TCP and TLS.
    pub connect_timeout: Duration,
    /// How much of a body may wait in one connection.
    pub buffer_limit: u32,
    pub lb: LbPolicy,
    /// Percent of available endpoints below which health is disregarded; 0 never is.
    pub panic_threshold: f64,
    pub breakers: Breakers,
    pub http: HttpOptions,
    /// Plain text without.
    pub tls: Option<Arc<UpstreamTls>>,
    /// Connections begin with a PROXY protocol header, before TLS.
    pub proxy_protocol: Option<Arc<Outbound>>,
    pub keepalive: Option<TcpKeepalive>,
    pub happy_eyeballs: HappyEyeballs,
    /// Each downstream connection has connections of its own.
    pub pool_per_downstream: bool,
    /// Connections that are opened ahead: so many for each that is needed; at least 1.
    pub preconnect_ratio: f64,
    /// The same over all endpoints, for the requests to come.
    pub predictive_ratio: f64,
    /// The address that connections come from, when it is not left to the system.
    pub source_address: Option<std::net::SocketAddr>,
    pub outlier: Option<OutlierDetection>,
    pub health_check: Option<Arc<HealthCheck>>,
    /// Endpoints that were never checked do not count among those of the cluster.
    pub ignore_new_until_checked: bool,
    pub metadata: Arc<Metadata>,
    /// Removed endpoints are dropped at once, though active health checks still find them healthy.
    pub ignore_health_on_removal: bool,
    /// Connections to an endpoint are closed when a health check fails.
    pub close_on_health_failure: bool,
    /// All connections are made anew when endpoints come or go.
    pub close_on_set_change: bool,
}

/// Decodes a CDS resource.
///
/// # Errors
/// Every problem of the resource.
pub fn decode(bytes: &[u8]) -> Result<Cluster, Invalid> {
    let mut p = Problems::default();
    let cluster = match pb::Cluster::decode(bytes) {
        Ok(proto) => Cluster::decode(&proto, &mut p),
        Err(error) => {
            p.refuse(error);
            None
        }
    };
    p.finish(cluster)
}

// === impl Cluster ===

impl Cluster {
    /// A cluster with Envoy's defaults.
    pub fn new(name: &str, discovery: Discovery) -> Self {
        Self {
            name: name.into(),
            stat_name: name.replace(':', "_"),
            discovery,
            connect_timeout: Duration::from_secs(5),
            buffer_limit: 1 << 20,
            lb: LbPolicy::default(),
            panic_threshold: 50.0,
            breakers: Breakers::default(),
            http: HttpOptions::default(),
            tls: None,
            proxy_protocol: None,
            keepalive: None,
            happy_eyeballs: HappyEyeballs::default(),
            pool_per_downstream: false,
            preconnect_ratio: 1.0,
            predictive_ratio: 1.0,
            source_address: None,
            outlier: None,
            health_check: None,
            ignore_new_until_checked: false,
            metadata: Arc::default(),
            ignore_health_on_removal: false,
            close_on_health_failure: false,
            close_on_set_change: false,
        }
    }

    /// The endpoints that the cluster resource itself names; those of an EDS cluster come from elsewhere.
    pub fn assignment(&self) -> Option<&Assignment> {
        match &self.discovery {
            Discovery::Static(assignment)
            | Discovery::StrictDns(_, assignment)
            | Discovery::LogicalDns(_, assignment) => Some(assignment),
            Discovery::Eds(_)
            | Discovery::Srv(_)
            | Discovery::Aggregate(_)
            | Discovery::OriginalDst(_)
            | Discovery::ForwardProxy(_) => None,
        }
    }

    pub(crate) fn decode(proto: &pb::Cluster, p: &mut Problems) -> Option<Self> {
        refuse_unimplemented(proto, p);
        if proto.name.is_empty() {
            p.refuse_at::<()>("name", "is empty");
        }
        let discovery = Discovery::decode(proto, p);
        let (tls, proxy_protocol) = match &proto.transport_socket {
            Some(socket) => p.at("transport_socket", |p| transport_socket(socket, true, p)).unzip(),
            None => (Some(None), None),
        };
        let lb = match &discovery {
            Some(discovery) if discovery.provides_balancing() => cluster_provided(proto, p),
            // What it was meant for is wrong already.
            None if proto.lb_policy == kind::LbPolicy::ClusterProvided as i32 => None,
            _ => LbPolicy::decode(proto, p),
        };
        let mut http = HttpOptions::decode(proto, p);
        if let (Some(Discovery::ForwardProxy(forward)), Some(Some(_)), Some(http)) = (&discovery, &tls, &mut http) {
            check_names(proto, forward, http, p);
        }
        let breakers = Breakers::decode(proto.circuit_breakers.as_ref(), p);
        let outlier = proto.outlier_detection.as_ref();
        if outlier.is_some() && matches!(discovery, Some(Discovery::OriginalDst(_) | Discovery::ForwardProxy(_))) {
            // Intervals look at the endpoints that a cluster has; these come with requests.
            p.unimplemented("outlier_detection");
        }
        let (preconnect_ratio, predictive_ratio) = preconnect(proto, p);
        let common = proto.common_lb_config.as_ref();
        // `update_merge_window` tells Envoy to batch health and weight changes; a snapshot is always one change.
        let health_check = health_check(proto, discovery.as_ref(), p);
        let stat_name = if proto.alt_stat_name.is_empty() { &proto.name } else { &proto.alt_stat_name };
        Some(Self {
            name: proto.name.as_str().into(),
            stat_name: stat_name.replace(':', "_"),
            discovery: discovery?,
            connect_timeout: wire::positive("connect_timeout", proto.connect_timeout.as_ref(), p)
                .unwrap_or(Duration::from_secs(5)),
            buffer_limit: proto.per_connection_buffer_limit_bytes.unwrap_or(1 << 20),
            lb: lb?,
            panic_threshold: panic_threshold(proto, p),
            breakers,
            http: http?,
            tls: tls?.map(Arc::new),
            proxy_protocol: proxy_protocol.flatten().map(Arc::new),
            keepalive: connection_options(proto, p),
            happy_eyeballs: HappyEyeballs::decode(proto, p),
            pool_per_downstream: proto.connection_pool_per_downstream_connection,
            preconnect_ratio,
            predictive_ratio,
            source_address: bind_config(proto, p),
            outlier: outlier.map(|o| p.at("outlier_detection", |p| OutlierDetection::decode(o, p))),
            health_check,
            ignore_new_until_checked: common.is_some_and(|common| common.ignore_new_hosts_until_first_hc),
            metadata: Arc::new(metadata(proto.metadata.as_ref())),
            ignore_health_on_removal: proto.ignore_health_on_host_removal,
            close_on_health_failure: proto.close_connections_on_host_health_failure,
            close_on_set_change: common.is_some_and(|common| common.close_connections_on_host_set_change),
        })
    }
}

fn health_check(proto: &pb::Cluster, discovery: Option<&Discovery>, p: &mut Problems) -> Option<Arc<HealthCheck>> {
    let on_demand =
        matches!(discovery, Some(Discovery::Aggregate(_) | Discovery::OriginalDst(_) | Discovery::ForwardProxy(_)));
    if on_demand && !proto.health_checks.is_empty() {
        return p.refuse_at("health_checks", "a cluster without endpoints of its own cannot be checked");
    }
    if proto.health_checks.len() > 1 {
        return p.refuse_at("health_checks", "a cluster has at most one health check");
    }
    p.each("health_checks", &proto.health_checks, HealthCheck::decode).pop().map(Arc::new)
}

/// Refuses the fields that nothing here implements.
fn refuse_unimplemented(proto: &pb::Cluster, p: &mut Problems) {
    // cleanup_interval is read where it matters, for ORIGINAL_DST; wait_for_warm_on_init only delays the start of the server.
    crate::refuse_set!(p, proto; transport_socket_matches, transport_socket_matcher, stats_matcher,
        per_connection_buffer_high_watermark_timeout, filters, lrs_server,
        lrs_report_endpoint_metrics, upstream_config, queuing_policies);
    #[allow(deprecated)]
    {
        crate::refuse_set!(p, proto; track_timeout_budgets);
    }
    if let Some(track) = &proto.track_cluster_stats {
        p.at("track_cluster_stats", |p| {
            crate::refuse_set!(p, track; timeout_budgets, request_response_sizes, per_endpoint_stats);
        });
    }
}

/// TLS to whatever host a request names must ask for that host and check it, unless told otherwise. That is the
/// default where nothing is said about HTTP.
fn check_names(proto: &pb::Cluster, forward: &ForwardProxy, http: &mut HttpOptions, p: &mut Problems) {
    #[allow(deprecated)]
    let nothing_said =
        proto.typed_extension_protocol_options.is_empty() && proto.upstream_http_protocol_options.is_none();
    if nothing_said {
        (http.auto_sni, http.auto_san) = (true, true);
    } else if !(forward.allow_insecure || http.auto_sni && http.auto_san) {
        p.refuse_at::<()>(
            "upstream_http_protocol_options",
            "a dynamic forward proxy with TLS needs auto_sni and auto_san_validation, or allow_insecure_cluster_options",
        );
    }
}

/// A cluster that says itself where requests go must say so, as in Envoy; it has no policy to read.
fn cluster_provided(proto: &pb::Cluster, p: &mut Problems) -> Option<LbPolicy> {
    use proto::envoy::extensions::load_balancing_policies::cluster_provided::v3::ClusterProvided;
    let of_list = proto.load_balancing_policy.as_ref().map(|list| {
        let mut configs = list.policies.iter().filter_map(|p| p.typed_extension_config.as_ref()?.typed_config.as_ref());
        configs.any(proto::Any::is::<ClusterProvided>)
    });
    for (name, is_set) in
        [("health_checks", !proto.health_checks.is_empty()), ("outlier_detection", proto.outlier_detection.is_some())]
    {
        if is_set {
            p.refuse_at::<()>(name, "not implemented by weir-proxy for a cluster without endpoints of its own");
        }
    }
    if proto.lb_config.is_some() && !is_old_original_dst(proto) {
        return p.refuse_at("lb_config", "does not belong to a cluster of this type");
    }
    if !of_list.unwrap_or(proto.lb_policy == kind::LbPolicy::ClusterProvided as i32) {
        return p.refuse_at("lb_policy", "a cluster of this type takes only CLUSTER_PROVIDED");
    }
    Some(LbPolicy::default())
}

fn is_old_original_dst(proto: &pb::Cluster) -> bool {
    let is_type = matches!(proto.cluster_discovery_type, Some(kind::ClusterDiscoveryType::Type(number))
        if number == kind::DiscoveryType::OriginalDst as i32);
    is_type && matches!(proto.lb_config, Some(kind::LbConfig::OriginalDstLbConfig(_)))
}

/// TLS, or plain text without, and the header before either; `outer` unless it is within another one.
fn transport_socket(
    socket: &TransportSocket,
    outer: bool,
    p: &mut Problems,
) -> Option<(Option<UpstreamTls>, Option<Outbound>)> {
    use proto::envoy::config::core::v3::transport_socket::ConfigType;
    use proto::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
    use proto::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
    use proto::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
    let Some(ConfigType::TypedConfig(any)) = &socket.config_type else {
        return p.refuse_at("typed_config", "is not set");
    };
    p.at("typed_config", |p| {
        let any = crate::core::extension(any, p)?;
        if any.is::<RawBuffer>() {
            return Some((None, None));
        }
        if any.is::<UpstreamTlsContext>() {
            let context = crate::core::unpack::<UpstreamTlsContext>(&any, p)?;
            return crate::tls::upstream(&context, p).map(|tls| (Some(tls), None));
        }
        if any.is::<ProxyProtocolUpstreamTransport>() && outer {
            let transport = crate::core::unpack::<ProxyProtocolUpstreamTransport>(&any, p)?;
            // `allow_unspecified_address` and `tlv_as_pool_key` are not in Envoy's documentation.
            crate::refuse_set!(p, transport; allow_unspecified_address, tlv_as_pool_key);
            let config = transport.config.unwrap_or_default();
            let header = p.at("config", |p| proxy_protocol::outbound(&config, p));
            let Some(inner) = &transport.transport_socket else {
                return p.refuse_at("transport_socket", "is required, for example envoy.transport_sockets.raw_buffer");
            };
            let (tls, _) = p.at("transport_socket", |p| transport_socket(inner, false, p))?;
            return Some((tls, Some(header?)));
        }
        p.refuse(format!("{} is not implemented by weir-proxy", any.type_name()));
        None
    })
}

fn connection_options(proto: &pb::Cluster, p: &mut Problems) -> Option<TcpKeepalive> {
    let options = proto.upstream_connection_options.as_ref()?;
    p.at("upstream_connection_options", |p| {
        crate::refuse_set!(p, options; set_local_interface_name_on_upstream_connections);
    });
    options.tcp_keepalive.as_ref().map(tcp_keepalive)
}

/// For each endpoint, and over all of them.
fn preconnect(proto: &pb::Cluster, p: &mut Problems) -> (f64, f64) {
    let Some(policy) = &proto.preconnect_policy else { return (1.0, 1.0) };
    p.at("preconnect_policy", |p| {
        crate::refuse_set!(p, policy; preconnect_enabled_metadata);
        let mut ratio = |name, ratio: Option<f64>| match ratio {
            Some(ratio) if !(1.0..=3.0).contains(&ratio) => {
                p.refuse_at::<()>(name, "must be from 1 to 3");
                1.0
            }
            ratio => ratio.unwrap_or(1.0),
        };
        (
            ratio("per_upstream_preconnect_ratio", policy.per_upstream_preconnect_ratio),
            ratio("predictive_preconnect_ratio", policy.predictive_preconnect_ratio),
        )
    })
}

fn bind_config(proto: &pb::Cluster, p: &mut Problems) -> Option<std::net::SocketAddr> {
    let bind = proto.upstream_bind_config.as_ref()?;
    p.at("upstream_bind_config", |p| {
        #[allow(deprecated)]
        {
            crate::refuse_set!(p, bind; socket_options, extra_source_addresses, additional_source_addresses,
                local_address_selector, validate_network_namespaces);
        }
        p.unimplemented_if("freebind", bind.freebind == Some(true));
        let source = bind.source_address.as_ref()?;
        p.at("source_address", |p| crate::core::ip_address(source, p))
    })
}

#[cfg(test)]
mod tests;
