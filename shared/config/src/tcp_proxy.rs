//! The TCP proxy network filter.

use std::time::Duration;

use proto::envoy::config::core::v3 as pb_core;
use proto::envoy::extensions::filters::network::tcp_proxy::v3 as pb;
use proto::envoy::r#type::v3 as pb_type;

use crate::access_log::{self, AccessLog};
use crate::core::{Metadata, duration_at, metadata, percent, timeout_at};
use crate::invalid::Problems;
use crate::proxy_protocol::{self, Tlv};
use crate::refuse_set;

/// Relays bytes to a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct TcpProxy {
    /// Names its statistics.
    pub stat_prefix: String,
    /// The clusters with their weights; a single one has weight 1. The sum of the weights is not 0.
    pub clusters: Vec<TcpCluster>,
    /// What the metadata of the endpoint must be, in a cluster with subsets.
    pub metadata_match: Metadata,
    /// Without bytes in either direction for this long the connection is closed; 1 hour by default, `None` is never.
    pub idle_timeout: Option<Duration>,
    /// The longest life of a connection.
    pub max_downstream_connection_duration: Option<Duration>,
    /// The most that is added to it by chance, in percent of it.
    pub max_duration_jitter: f64,
    /// How many endpoints are tried at most, at least 1.
    pub max_connect_attempts: u32,
    /// The wait between attempts: the first, and the longest. None without.
    pub backoff: Option<(Duration, Duration)>,
    /// What the endpoint is chosen by, with a policy that hashes.
    pub hash: Option<TcpHash>,
    /// The logs; one line at the end of a connection, and when `log` says so.
    pub access_logs: Vec<AccessLog>,
    pub log: LogMoments,
    /// Sent in the PROXY protocol header to clusters that have one, when the client sent none itself.
    pub proxy_tlvs: Vec<Tlv>,
}

/// What a connection is hashed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TcpHash {
    SourceIp,
    /// The object that a filter before the proxy wrote under this key, if it can be hashed.
    FilterState(String),
}

/// One of the clusters.
#[derive(Debug, Clone, PartialEq)]
pub struct TcpCluster {
    pub name: String,
    pub weight: u32,
    /// Added to that of the proxy.
    pub metadata_match: Metadata,
}

/// When there is a line besides that at the end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogMoments {
    pub interval: Option<Duration>,
    pub on_connected: bool,
    pub on_start: bool,
}

/// Decodes the filter.
pub fn decode(proto: &pb::TcpProxy, p: &mut Problems) -> Option<TcpProxy> {
    let before = p.count();
    refuse_set!(
        p, proto;
        on_demand, downstream_idle_timeout, upstream_idle_timeout, tunneling_config,
        proxy_protocol_tlv_merge_policy, upstream_connect_mode, max_early_data_bytes, check_drain_close,
    );
    if proto.stat_prefix.is_empty() {
        p.refuse_at::<()>("stat_prefix", "must not be empty");
    }
    let clusters = clusters(proto, p);
    let hour = Some(Duration::from_secs(3600));
    if proto.max_connect_attempts == Some(0) {
        p.refuse_at::<()>("max_connect_attempts", "must be at least 1");
    }
    let decoded = TcpProxy {
        stat_prefix: proto.stat_prefix.clone(),
        clusters,
        metadata_match: metadata(proto.metadata_match.as_ref()),
        idle_timeout: timeout_at(proto.idle_timeout.as_ref(), "idle_timeout", hour, p),
        max_downstream_connection_duration: timeout_at(
            proto.max_downstream_connection_duration.as_ref(),
            "max_downstream_connection_duration",
            None,
            p,
        ),
        max_duration_jitter: proto
            .max_downstream_connection_duration_jitter_percentage
            .as_ref()
            .and_then(|jitter| p.at("max_downstream_connection_duration_jitter_percentage", |p| percent(jitter, p)))
            .unwrap_or(0.0),
        max_connect_attempts: proto.max_connect_attempts.unwrap_or(1),
        backoff: proto.backoff_options.as_ref().and_then(|backoff| p.at("backoff_options", |p| backoff_of(backoff, p))),
        hash: hash_policy(&proto.hash_policy, p),
        access_logs: access_log::decode_all(&proto.access_log, "access_log", p),
        log: log_moments(proto, p),
        proxy_tlvs: proxy_protocol::tlvs("proxy_protocol_tlvs", &proto.proxy_protocol_tlvs, p),
    };
    (p.count() == before).then_some(decoded)
}

fn backoff_of(proto: &pb_core::BackoffStrategy, p: &mut Problems) -> Option<(Duration, Duration)> {
    let base = match duration_at(proto.base_interval.as_ref(), "base_interval", p) {
        Some(base) if base >= Duration::from_millis(1) => base,
        _ => return p.refuse_at("base_interval", "must be at least 0.001s"),
    };
    let max = duration_at(proto.max_interval.as_ref(), "max_interval", p).unwrap_or(base * 10);
    if max < base {
        return p.refuse_at("max_interval", "must be at least base_interval");
    }
    Some((base, max))
}

/// The older fields beside `access_log_options` have no effect when that is set, as in Envoy.
fn log_moments(proto: &pb::TcpProxy, p: &mut Problems) -> LogMoments {
    let interval = |interval: Option<&prost_types::Duration>, p: &mut Problems| {
        let interval = duration_at(interval, "access_log_flush_interval", p)?;
        if interval < Duration::from_millis(1) {
            return p.refuse_at("access_log_flush_interval", "must be at least 0.001s");
        }
        Some(interval)
    };
    match &proto.access_log_options {
        Some(options) => p.at("access_log_options", |p| LogMoments {
            interval: interval(options.access_log_flush_interval.as_ref(), p),
            on_connected: options.flush_access_log_on_connected,
            on_start: options.flush_access_log_on_start,
        }),
        None => LogMoments {
            interval: interval(proto.access_log_flush_interval.as_ref(), p),
            on_connected: proto.flush_access_log_on_connected,
            on_start: false,
        },
    }
}

fn clusters(proto: &pb::TcpProxy, p: &mut Problems) -> Vec<TcpCluster> {
    use pb::tcp_proxy::ClusterSpecifier;
    match &proto.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => {
            if name.is_empty() {
                p.refuse_at::<()>("cluster", "must not be empty");
            }
            vec![TcpCluster { name: name.clone(), weight: 1, metadata_match: Metadata::new() }]
        }
        Some(ClusterSpecifier::WeightedClusters(weighted)) => p.at("weighted_clusters", |p| {
            if weighted.clusters.is_empty() {
                p.refuse_at::<()>("clusters", "must not be empty");
            }
            p.each("clusters", &weighted.clusters, |p, cluster| {
                if cluster.name.is_empty() {
                    p.refuse_at::<()>("name", "must not be empty");
                }
                if cluster.weight == 0 {
                    p.refuse_at::<()>("weight", "must be at least 1");
                }
                Some(TcpCluster {
                    name: cluster.name.clone(),
                    weight: cluster.weight,
                    metadata_match: metadata(cluster.metadata_match.as_ref()),
                })
            })
        }),
        None => {
            p.refuse("one of cluster and weighted_clusters is required");
            Vec::new()
        }
    }
}

fn hash_policy(protos: &[pb_type::HashPolicy], p: &mut Problems) -> Option<TcpHash> {
    use pb_type::hash_policy::PolicySpecifier;
    if protos.len() > 1 {
        return p.refuse_at("hash_policy", "at most 1 is allowed");
    }
    let mut policies = p.each("hash_policy", protos, |p, policy| match &policy.policy_specifier {
        Some(PolicySpecifier::SourceIp(_)) => Some(TcpHash::SourceIp),
        Some(PolicySpecifier::FilterState(state)) if state.key.is_empty() => {
            p.refuse_at("filter_state.key", "must not be empty")
        }
        Some(PolicySpecifier::FilterState(state)) => Some(TcpHash::FilterState(state.key.clone())),
        None => {
            p.refuse("a policy is required");
            None
        }
    });
    policies.pop()
}
