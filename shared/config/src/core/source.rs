//! Where resources come from: ADS, a file, or an xDS server of their own.

use std::path::PathBuf;
use std::time::Duration;

use proto::envoy::config::core::v3 as pb;

use super::{duration_at, timeout_at, watched_path};
use crate::invalid::{Problems, is_set};
use crate::refuse_set;

/// Where the resources of one type come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConfigSource {
    /// From where.
    pub source: Source,
    /// How long warming waits for the first answer; `None` waits for ever.
    pub initial_fetch_timeout: Option<Duration>,
}

/// See [`ConfigSource`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// The aggregated stream of the bootstrap.
    Ads,
    /// A file with a `DiscoveryResponse`, read again when it is replaced by a move.
    File { path: PathBuf, watched_directory: Option<PathBuf> },
    /// A stream of its own.
    Api(Box<ApiSource>),
}

/// An xDS server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ApiSource {
    /// How it is spoken to.
    pub kind: TransportKind,
    /// The servers, in the order of preference.
    pub services: Vec<GrpcService>,
    /// At most this many requests at once, and then per second; `None` is unlimited.
    pub rate_limit: Option<RateLimit>,
    /// Send the node in the first message of a stream only.
    pub set_node_on_first_message_only: bool,
}

/// See [`ApiSource::rate_limit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// The size of the bucket.
    pub max_tokens: u32,
    /// Tokens a second, in thousandths.
    pub fill_rate_milli: u64,
}

/// The protocol variants of xDS over gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransportKind {
    /// State of the world.
    Grpc,
    /// Incremental.
    DeltaGrpc,
}

/// A gRPC service behind one of our clusters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GrpcService {
    /// The cluster.
    pub cluster: String,
    /// `:authority`; the cluster name when empty.
    pub authority: String,
    /// How long one call may take; `None` is unlimited.
    pub timeout: Option<Duration>,
    /// Headers of every call.
    pub initial_metadata: Vec<(String, String)>,
    /// The largest message we take; `None` is unlimited.
    pub max_receive_message_length: Option<u32>,
}

// === decode ===

/// Decodes a source; `initial_fetch_timeout` defaults to 15 seconds, 0 disables it.
pub fn config_source(proto: &pb::ConfigSource, p: &mut Problems) -> Option<ConfigSource> {
    use pb::config_source::ConfigSourceSpecifier as Specifier;
    refuse_set!(p, proto; authorities);
    version(proto.resource_api_version, "resource_api_version", p);
    let initial_fetch_timeout =
        timeout_at(proto.initial_fetch_timeout.as_ref(), "initial_fetch_timeout", Some(Duration::from_secs(15)), p);
    let source = match &proto.config_source_specifier {
        Some(Specifier::Ads(_)) => Source::Ads,
        Some(Specifier::Path(path)) => Source::File { path: path.into(), watched_directory: None },
        Some(Specifier::PathConfigSource(path)) => p.at("path_config_source", |p| path_source(path, p))?,
        Some(Specifier::ApiConfigSource(api)) => {
            Source::Api(Box::new(p.at("api_config_source", |p| api_source(api, p))?))
        }
        Some(Specifier::Self_(_)) => {
            p.unimplemented("self");
            return None;
        }
        None => {
            p.refuse("one of ads, path_config_source and api_config_source is required");
            return None;
        }
    };
    Some(ConfigSource { source, initial_fetch_timeout })
}

fn path_source(proto: &pb::PathConfigSource, p: &mut Problems) -> Option<Source> {
    refuse_set!(p, proto; poll_interval);
    if proto.path.is_empty() {
        return p.refuse_at("path", "must not be empty");
    }
    let watched_directory = match &proto.watched_directory {
        Some(watched) => Some(p.at("watched_directory", |p| watched_path(watched, p))?),
        None => None,
    };
    Some(Source::File { path: proto.path.clone().into(), watched_directory })
}

/// Decodes an xDS server; only gRPC is implemented, both variants.
pub fn api_source(proto: &pb::ApiConfigSource, p: &mut Problems) -> Option<ApiSource> {
    use pb::api_config_source::ApiType;
    let before = p.count();
    refuse_set!(p, proto; cluster_names, refresh_delay, request_timeout, config_validators);
    version(proto.transport_api_version, "transport_api_version", p);
    let kind = match ApiType::try_from(proto.api_type) {
        Ok(ApiType::Grpc | ApiType::AggregatedGrpc) => Some(TransportKind::Grpc),
        Ok(ApiType::DeltaGrpc | ApiType::AggregatedDeltaGrpc) => Some(TransportKind::DeltaGrpc),
        Ok(ApiType::Rest) => p.refuse_at("api_type", "REST is not implemented by weir-proxy, use GRPC or DELTA_GRPC"),
        _ => p.refuse_at("api_type", "GRPC or DELTA_GRPC is required"),
    };
    if proto.grpc_services.is_empty() {
        p.refuse_at::<()>("grpc_services", "must not be empty");
    }
    let services = p.each("grpc_services", &proto.grpc_services, |p, service| grpc_service(service, p));
    let rate_limit = proto.rate_limit_settings.as_ref().map(rate_limit);
    (p.count() == before).then_some(ApiSource {
        kind: kind?,
        services,
        rate_limit,
        set_node_on_first_message_only: proto.set_node_on_first_message_only,
    })
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped before")]
fn rate_limit(proto: &pb::RateLimitSettings) -> RateLimit {
    let rate = proto.fill_rate.unwrap_or(10.0).clamp(0.001, 1e9);
    RateLimit { max_tokens: proto.max_tokens.unwrap_or(100), fill_rate_milli: (rate * 1000.0) as u64 }
}

/// Decodes a gRPC service; only one behind a cluster of ours is implemented.
pub fn grpc_service(proto: &pb::GrpcService, p: &mut Problems) -> Option<GrpcService> {
    use pb::grpc_service::TargetSpecifier;
    let before = p.count();
    refuse_set!(p, proto; retry_policy);
    let timeout = duration_at(proto.timeout.as_ref(), "timeout", p);
    let initial_metadata = p.each("initial_metadata", &proto.initial_metadata, |p, header| {
        p.unimplemented_if("raw_value", is_set(&header.raw_value));
        Some((header.key.to_ascii_lowercase(), header.value.clone()))
    });
    let envoy = match &proto.target_specifier {
        Some(TargetSpecifier::EnvoyGrpc(envoy)) => envoy,
        Some(TargetSpecifier::GoogleGrpc(_)) => {
            return p.refuse_at("google_grpc", "not implemented by weir-proxy, use envoy_grpc with a cluster");
        }
        None => return p.refuse_at("envoy_grpc", "is required"),
    };
    p.at("envoy_grpc", |p| {
        refuse_set!(p, envoy; retry_policy);
        if envoy.cluster_name.is_empty() {
            p.refuse_at::<()>("cluster_name", "must not be empty");
        }
    });
    // `skip_envoy_headers`: our control-plane client never adds any.
    (p.count() == before).then(|| GrpcService {
        cluster: envoy.cluster_name.clone(),
        authority: envoy.authority.clone(),
        timeout: timeout.filter(|t| !t.is_zero()),
        initial_metadata,
        max_receive_message_length: envoy.max_receive_message_length.filter(|n| *n > 0),
    })
}

fn version(version: i32, name: &str, p: &mut Problems) {
    // AUTO means v2 for Envoy, which is gone; everyone who leaves it out means v3.
    if version == pb::ApiVersion::V2 as i32 {
        p.refuse_at::<()>(name, "v2 is not implemented, use V3");
    }
}
