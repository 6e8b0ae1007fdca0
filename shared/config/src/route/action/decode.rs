//! `RouteAction` from the wire.

use std::time::Duration;

use proto::envoy::config::core::v3::RoutingPriority;
use proto::envoy::config::route::v3 as route;
use proto::envoy::config::route::v3::route_action as proto_action;
use proto::envoy::extensions::path::rewrite::uri_template::v3 as uri_template;

use super::{
    ClusterSpecifier, ClusterWeight, ConnectConfig, HostRewrite, MaxStreamDuration, Mirror, PathRewrite, Priority,
    RouteAction, UpgradeConfig, WeightSource, WeightedClusters,
};
use crate::core::{duration_at, metadata, runtime_fraction, timeout_at};
use crate::header::{HeaderMutation, is_header_name};
use crate::invalid::Problems;
use crate::matcher::Substitution;
use crate::route::decode::http_filter_overrides;
use crate::route::respond::check_value;
use crate::route::template::TemplateRewrite;
use crate::route::{HashPolicy, PathMatcher, RetryPolicy};
use crate::{decode_mutations, refuse_set};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// What a route takes from its virtual host when it has none of its own.
#[derive(Clone, Copy)]
pub(in crate::route) struct Inherited<'a> {
    pub(in crate::route) retry: Option<&'a RetryPolicy>,
    pub(in crate::route) hedge_on_per_try_timeout: bool,
    pub(in crate::route) mirrors: &'a [Mirror],
}

impl RouteAction {
    pub(in crate::route) fn decode(
        proto: &route::RouteAction,
        path: Option<&PathMatcher>,
        inherited: Inherited<'_>,
        p: &mut Problems,
    ) -> Option<Self> {
        refuse_set!(p, proto; flush_timeout);
        refuse_set!(p, proto;
            path_rewrite, early_data_policy, retry_policy_typed_config, rate_limits,
            include_vh_rate_limits, cors, max_grpc_timeout, grpc_timeout_offset, internal_redirect_policy,
            internal_redirect_action, max_internal_redirects);
        let cluster = decode_specifier(proto.cluster_specifier.as_ref(), p);
        let path_rewrite = decode_path_rewrite(proto, path, p);
        let host_rewrite = decode_host_rewrite(proto.host_rewrite_specifier.as_ref(), p);
        let retry = match &proto.retry_policy {
            Some(policy) => Some(p.at("retry_policy", |p| RetryPolicy::decode(policy, p))?),
            None => inherited.retry.cloned(),
        };
        let mut mirrors = decode_mirrors(&proto.request_mirror_policies, p);
        if proto.request_mirror_policies.is_empty() {
            mirrors = inherited.mirrors.to_vec();
        }
        use proto_action::ClusterNotFoundResponseCode as Code;
        let cluster_not_found = match Code::try_from(proto.cluster_not_found_response_code) {
            Ok(Code::ServiceUnavailable) => 503,
            Ok(Code::NotFound) => 404,
            Ok(Code::InternalServerError) => 500,
            Err(_) => return p.refuse_at("cluster_not_found_response_code", "is not one of the known codes"),
        };
        let priority = match RoutingPriority::try_from(proto.priority) {
            Ok(RoutingPriority::Default) => Priority::Default,
            Ok(RoutingPriority::High) => Priority::High,
            Err(_) => return p.refuse_at("priority", "is not DEFAULT or HIGH"),
        };
        let timeout = timeout_at(proto.timeout.as_ref(), "timeout", Some(DEFAULT_TIMEOUT), p);
        Some(Self {
            cluster_not_found,
            timeout,
            idle_timeout: duration_at(proto.idle_timeout.as_ref(), "idle_timeout", p),
            max_stream_duration: proto.max_stream_duration.as_ref().map(|max| decode_max_stream_duration(max, p)),
            append_x_forwarded_host: proto.append_x_forwarded_host,
            retry,
            hedge_on_per_try_timeout: match &proto.hedge_policy {
                Some(policy) => p.at("hedge_policy", |p| decode_hedge(policy, p)),
                None => inherited.hedge_on_per_try_timeout,
            },
            mirrors,
            metadata_match: metadata(proto.metadata_match.as_ref()),
            hash: p.each("hash_policy", &proto.hash_policy, |p, policy| HashPolicy::decode(policy, p)),
            priority,
            upgrades: decode_upgrades(&proto.upgrade_configs, p),
            cluster: cluster?,
            path_rewrite: path_rewrite?,
            host_rewrite: host_rewrite?,
        })
    }
}

/// Whether a try that takes longer than its time goes on beside the next one.
pub(in crate::route) fn decode_hedge(proto: &route::HedgePolicy, p: &mut Problems) -> bool {
    // Envoy has fields for more than that, and does nothing with them.
    p.unimplemented_if("initial_requests", proto.initial_requests.is_some_and(|n| n != 1));
    p.unimplemented_if("additional_request_chance", proto.additional_request_chance.is_some_and(|c| c.numerator > 0));
    proto.hedge_on_per_try_timeout
}

fn decode_specifier(proto: Option<&proto_action::ClusterSpecifier>, p: &mut Problems) -> Option<ClusterSpecifier> {
    use proto_action::ClusterSpecifier as Proto;
    match proto {
        Some(Proto::Cluster(name)) if name.is_empty() => p.refuse_at("cluster", "must not be empty"),
        Some(Proto::Cluster(name)) => Some(ClusterSpecifier::Cluster(name.clone())),
        Some(Proto::ClusterHeader(name)) => cluster_header(name, p),
        Some(Proto::WeightedClusters(weighted)) => {
            p.at("weighted_clusters", |p| WeightedClusters::decode(weighted, p)).map(ClusterSpecifier::Weighted)
        }
        Some(Proto::ClusterSpecifierPlugin(_)) => {
            p.unimplemented("cluster_specifier_plugin");
            None
        }
        Some(Proto::InlineClusterSpecifierPlugin(_)) => {
            p.unimplemented("inline_cluster_specifier_plugin");
            None
        }
        None => {
            p.refuse("needs cluster, cluster_header or weighted_clusters");
            None
        }
    }
}

fn cluster_header(name: &str, p: &mut Problems) -> Option<ClusterSpecifier> {
    if !is_header_name(name) {
        return p.refuse_at("cluster_header", format!("{name:?} is not a header name"));
    }
    Some(ClusterSpecifier::Header(name.to_ascii_lowercase()))
}

/// The pair `cluster` (or `name`) and `cluster_header`, of which exactly one is set.
fn cluster_or_header(field: &str, name: &str, header: &str, p: &mut Problems) -> Option<ClusterSpecifier> {
    match (name.is_empty(), header.is_empty()) {
        (false, true) => Some(ClusterSpecifier::Cluster(name.to_owned())),
        (true, false) => cluster_header(header, p),
        _ => {
            p.refuse(format!("needs either {field} or cluster_header"));
            None
        }
    }
}

impl WeightedClusters {
    fn decode(proto: &route::WeightedCluster, p: &mut Problems) -> Option<Self> {
        use route::weighted_cluster::RandomValueSpecifier as Random;
        if proto.clusters.is_empty() {
            p.refuse_at::<()>("clusters", "needs at least one cluster");
        }
        let clusters = p.each("clusters", &proto.clusters, |p, cluster| ClusterWeight::decode(cluster, p));
        let sum: u64 = proto.clusters.iter().map(|cluster| u64::from(cluster.weight.unwrap_or(0))).sum();
        let total = match u32::try_from(sum) {
            Ok(0) => return p.refuse_at("clusters", "the sum of the weights must be more than zero"),
            Ok(total) => total,
            Err(_) => return p.refuse_at("clusters", "the sum of the weights is more than 4294967295"),
        };
        if proto.total_weight.is_some_and(|expected| expected != total) {
            p.refuse_at::<()>("total_weight", format!("the sum of the weights is {total}"));
        }
        let source = match &proto.random_value_specifier {
            None | Some(Random::UseHashPolicy(false)) => WeightSource::Random,
            Some(Random::UseHashPolicy(true)) => WeightSource::Hash,
            Some(Random::HeaderName(name)) if is_header_name(name) => WeightSource::Header(name.to_ascii_lowercase()),
            Some(Random::HeaderName(name)) => {
                return p.refuse_at("header_name", format!("{name:?} is not a header name"));
            }
        };
        Some(Self { clusters, total, runtime_key_prefix: proto.runtime_key_prefix.clone(), source })
    }
}

impl ClusterWeight {
    fn decode(proto: &route::weighted_cluster::ClusterWeight, p: &mut Problems) -> Option<Self> {
        use route::weighted_cluster::cluster_weight::HostRewriteSpecifier;
        let cluster = cluster_or_header("name", &proto.name, &proto.cluster_header, p);
        let host_rewrite = match &proto.host_rewrite_specifier {
            Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
                check_value("host_rewrite_literal", host, p);
                Some(host.clone())
            }
            None => None,
        };
        Some(Self {
            weight: proto.weight.unwrap_or(0),
            metadata_match: metadata(proto.metadata_match.as_ref()),
            headers: decode_mutations!(proto, p),
            filters: http_filter_overrides(&proto.typed_per_filter_config, p),
            host_rewrite,
            cluster: cluster?,
        })
    }
}

fn decode_path_rewrite(
    proto: &route::RouteAction,
    path: Option<&PathMatcher>,
    p: &mut Problems,
) -> Option<PathRewrite> {
    let set = [!proto.prefix_rewrite.is_empty(), proto.regex_rewrite.is_some(), proto.path_rewrite_policy.is_some()];
    if set.iter().filter(|set| **set).count() > 1 {
        p.refuse("may have only one of prefix_rewrite, regex_rewrite and path_rewrite_policy");
        return None;
    }
    if !proto.prefix_rewrite.is_empty() {
        check_value("prefix_rewrite", &proto.prefix_rewrite, p);
        if matches!(path, Some(PathMatcher::Template(_))) {
            return p.refuse_at("prefix_rewrite", "may not be used with path_match_policy");
        }
        return Some(PathRewrite::Prefix(proto.prefix_rewrite.clone()));
    }
    if let Some(rewrite) = &proto.regex_rewrite {
        return Some(PathRewrite::Regex(p.at("regex_rewrite", |p| Substitution::decode(rewrite, p))?));
    }
    let Some(policy) = &proto.path_rewrite_policy else { return Some(PathRewrite::None) };
    p.at("path_rewrite_policy", |p| {
        let any = policy.typed_config.clone().unwrap_or_default();
        p.at("typed_config", |p| match any.unpack::<uri_template::UriTemplateRewriteConfig>() {
            Some(Ok(config)) => {
                let template = match path {
                    Some(PathMatcher::Template(template)) => template,
                    // The match itself was refused; one problem is enough.
                    None => return None,
                    Some(_) => {
                        p.refuse("needs a path_match_policy with a uri template to rewrite by");
                        return None;
                    }
                };
                match TemplateRewrite::parse(&config.path_template_rewrite, template) {
                    Ok(rewrite) => Some(PathRewrite::Template(rewrite)),
                    Err(reason) => p.refuse_at("path_template_rewrite", reason),
                }
            }
            Some(Err(error)) => {
                p.refuse(format!("is not a UriTemplateRewriteConfig: {error}"));
                None
            }
            None => {
                p.refuse(format!("{:?} is not implemented by weir-proxy", any.type_name()));
                None
            }
        })
    })
}

fn decode_host_rewrite(proto: Option<&proto_action::HostRewriteSpecifier>, p: &mut Problems) -> Option<HostRewrite> {
    use proto_action::HostRewriteSpecifier as Proto;
    match proto {
        None | Some(Proto::AutoHostRewrite(false)) => Some(HostRewrite::None),
        Some(Proto::AutoHostRewrite(true)) => Some(HostRewrite::Auto),
        Some(Proto::HostRewriteLiteral(host)) => {
            check_value("host_rewrite_literal", host, p);
            Some(if host.is_empty() { HostRewrite::None } else { HostRewrite::Literal(host.clone()) })
        }
        Some(Proto::HostRewriteHeader(name)) if name.is_empty() => Some(HostRewrite::None),
        Some(Proto::HostRewriteHeader(name)) if is_header_name(name) => {
            Some(HostRewrite::Header(name.to_ascii_lowercase()))
        }
        Some(Proto::HostRewriteHeader(name)) => {
            p.refuse_at("host_rewrite_header", format!("{name:?} is not a header name"))
        }
        Some(Proto::HostRewritePathRegex(rewrite)) => {
            Some(HostRewrite::PathRegex(p.at("host_rewrite_path_regex", |p| Substitution::decode(rewrite, p))?))
        }
        Some(Proto::HostRewrite(_)) => {
            p.unimplemented("host_rewrite");
            None
        }
    }
}

fn decode_max_stream_duration(proto: &proto_action::MaxStreamDuration, p: &mut Problems) -> MaxStreamDuration {
    p.at("max_stream_duration", |p| MaxStreamDuration {
        max: duration_at(proto.max_stream_duration.as_ref(), "max_stream_duration", p),
        grpc_timeout_max: duration_at(proto.grpc_timeout_header_max.as_ref(), "grpc_timeout_header_max", p),
        grpc_timeout_offset: duration_at(proto.grpc_timeout_header_offset.as_ref(), "grpc_timeout_header_offset", p),
    })
}

pub(in crate::route) fn decode_mirrors(mirrors: &[proto_action::RequestMirrorPolicy], p: &mut Problems) -> Vec<Mirror> {
    p.each("request_mirror_policies", mirrors, |p, proto| {
        // Mirrored requests are not traced.
        p.unimplemented_if("trace_sampled", proto.trace_sampled == Some(true));
        let cluster = cluster_or_header("cluster", &proto.cluster, &proto.cluster_header, p);
        let fraction = match &proto.runtime_fraction {
            Some(fraction) => Some(p.at("runtime_fraction", |p| runtime_fraction(fraction, p))?),
            None => None,
        };
        check_value("host_rewrite_literal", &proto.host_rewrite_literal, p);
        Some(Mirror {
            cluster: cluster?,
            fraction,
            shadow_suffix: !proto.disable_shadow_host_suffix_append,
            headers: p.each("request_headers_mutations", &proto.request_headers_mutations, |p, mutation| {
                HeaderMutation::decode(mutation, p)
            }),
            host_rewrite: Some(proto.host_rewrite_literal.clone()).filter(|host| !host.is_empty()),
        })
    })
}

fn decode_upgrades(upgrades: &[proto_action::UpgradeConfig], p: &mut Problems) -> Vec<UpgradeConfig> {
    let mut seen = Vec::new();
    p.each("upgrade_configs", upgrades, |p, proto| {
        let upgrade = proto.upgrade_type.to_ascii_lowercase();
        if upgrade.is_empty() {
            return p.refuse_at("upgrade_type", "must not be empty");
        }
        if seen.contains(&upgrade) {
            return p.refuse_at("upgrade_type", format!("{:?} is there twice", proto.upgrade_type));
        }
        seen.push(upgrade.clone());
        let connect = match &proto.connect_config {
            Some(_) if upgrade != "connect" => {
                return p.refuse_at("connect_config", "may only be set for upgrade type CONNECT");
            }
            Some(config) => p.at("connect_config", |p| {
                refuse_set!(p, config; proxy_protocol_config);
                Some(ConnectConfig { allow_post: config.allow_post })
            }),
            None => None,
        };
        Some(UpgradeConfig { upgrade, enabled: proto.enabled.unwrap_or(true), connect })
    })
}
