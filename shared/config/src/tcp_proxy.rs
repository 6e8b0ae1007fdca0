//! The TCP proxy network filter.

use std::time::Duration;

use proto::envoy::extensions::filters::network::tcp_proxy::v3 as pb;
use proto::envoy::r#type::v3 as pb_type;

use crate::access_log::{self, AccessLog};
use crate::core::timeout_at;
use crate::invalid::Problems;
use crate::refuse_set;

/// Relays bytes to a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct TcpProxy {
    /// Names its statistics.
    pub stat_prefix: String,
    /// The clusters with their weights; a single one has weight 1. The sum of the weights is not 0.
    pub clusters: Vec<(String, u32)>,
    /// Without bytes in either direction for this long the connection is closed; 1 hour by default, `None` is never.
    pub idle_timeout: Option<Duration>,
    /// The longest life of a connection.
    pub max_downstream_connection_duration: Option<Duration>,
    /// How many endpoints are tried at most, at least 1.
    pub max_connect_attempts: u32,
    /// Choose the endpoint by a hash of the client's address.
    pub hash_source_ip: bool,
    /// The logs; one line at the end of a connection.
    pub access_logs: Vec<AccessLog>,
}

/// Decodes the filter.
pub fn decode(proto: &pb::TcpProxy, p: &mut Problems) -> Option<TcpProxy> {
    let before = p.count();
    refuse_set!(
        p, proto;
        on_demand, metadata_match, downstream_idle_timeout, upstream_idle_timeout, backoff_options, tunneling_config,
        max_downstream_connection_duration_jitter_percentage, proxy_protocol_tlvs, proxy_protocol_tlv_merge_policy,
        upstream_connect_mode, max_early_data_bytes, check_drain_close, access_log_options, access_log_flush_interval,
        flush_access_log_on_connected,
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
        idle_timeout: timeout_at(proto.idle_timeout.as_ref(), "idle_timeout", hour, p),
        max_downstream_connection_duration: timeout_at(
            proto.max_downstream_connection_duration.as_ref(),
            "max_downstream_connection_duration",
            None,
            p,
        ),
        max_connect_attempts: proto.max_connect_attempts.unwrap_or(1),
        hash_source_ip: hash_policy(&proto.hash_policy, p),
        access_logs: access_log::decode_all(&proto.access_log, "access_log", p),
    };
    (p.count() == before).then_some(decoded)
}

fn clusters(proto: &pb::TcpProxy, p: &mut Problems) -> Vec<(String, u32)> {
    use pb::tcp_proxy::ClusterSpecifier;
    match &proto.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => {
            if name.is_empty() {
                p.refuse_at::<()>("cluster", "must not be empty");
            }
            vec![(name.clone(), 1)]
        }
        Some(ClusterSpecifier::WeightedClusters(weighted)) => p.at("weighted_clusters", |p| {
            if weighted.clusters.is_empty() {
                p.refuse_at::<()>("clusters", "must not be empty");
            }
            p.each("clusters", &weighted.clusters, |p, cluster| {
                refuse_set!(p, cluster; metadata_match);
                if cluster.name.is_empty() {
                    p.refuse_at::<()>("name", "must not be empty");
                }
                if cluster.weight == 0 {
                    p.refuse_at::<()>("weight", "must be at least 1");
                }
                Some((cluster.name.clone(), cluster.weight))
            })
        }),
        None => {
            p.refuse("one of cluster and weighted_clusters is required");
            Vec::new()
        }
    }
}

fn hash_policy(protos: &[pb_type::HashPolicy], p: &mut Problems) -> bool {
    use pb_type::hash_policy::PolicySpecifier;
    p.at("hash_policy", |p| {
        if protos.len() > 1 {
            p.refuse("at most 1 is allowed");
        }
        for (index, policy) in protos.iter().enumerate() {
            p.index(index, |p| match &policy.policy_specifier {
                Some(PolicySpecifier::SourceIp(_)) => {}
                Some(PolicySpecifier::FilterState(_)) => p.unimplemented("filter_state"),
                None => p.refuse("a policy is required"),
            });
        }
    });
    !protos.is_empty()
}
