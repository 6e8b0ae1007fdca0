//! Decodes a bootstrap.

use std::collections::BTreeSet;

use prost::Name;
use proto::Any;
use proto::envoy::config::bootstrap::v3 as pb;
use proto::envoy::config::core::v3 as pb_core;
use proto::envoy::extensions::regex_engines::v3::GoogleRe2;

use super::overload;
use super::{Admin, Bootstrap, Node, StaticResource};
use crate::access_log::{self, AccessLog, Sink};
use crate::core::{Address, ApiSource, ConfigSource, Source, address, api_source, config_source, is_udp};
use crate::invalid::{Problems, is_set};
use crate::matcher::StringMatcher;
use crate::resource::{self, Resource};
use crate::{refuse_set, runtime};

/// Decodes a bootstrap.
pub fn decode(proto: &pb::Bootstrap, p: &mut Problems) -> Option<Bootstrap> {
    let before = p.count();
    refuse(proto, p);
    let static_resources = match &proto.static_resources {
        Some(resources) => p.at("static_resources", |p| static_resources(resources, p)),
        None => Vec::new(),
    };
    let dynamic = proto.dynamic_resources.clone().unwrap_or_default();
    let (ads, lds, cds) = p.at("dynamic_resources", |p| dynamic_resources(&dynamic, p));
    let manager = proto.cluster_manager.clone().unwrap_or_default();
    let (outlier_event_log, load_stats) = p.at("cluster_manager", |p| cluster_manager(&manager, p));
    let bootstrap = Bootstrap {
        node: proto.node.as_ref().map(|node| p.at("node", |p| node_of(node, p))).unwrap_or_default(),
        static_resources,
        ads,
        lds,
        cds,
        local_cluster: Some(manager.local_cluster_name).filter(|name| !name.is_empty()),
        admin: proto.admin.as_ref().and_then(|admin| p.at("admin", |p| admin_of(admin, p))),
        max_connections: proto
            .overload_manager
            .as_ref()
            .and_then(|manager| p.at("overload_manager", |p| overload::max_connections(manager, p))),
        load_stats,
        runtime_layers: match &proto.layered_runtime {
            Some(layered) => p.at("layered_runtime", |p| runtime::layers(layered, p)),
            None => Vec::new(),
        },
        outlier_event_log,
    };
    if p.count() == before {
        refuse_unknown_clusters(&bootstrap, p);
    }
    (p.count() == before).then_some(bootstrap)
}

/// What a bootstrap can say and we cannot do. Not refused because it changes nothing here: `stats_flush_interval`,
/// `stats_flush_on_admin` and `stats_eviction_interval` (statistics are read, not flushed), `deferred_stat_options`,
/// `grpc_async_client_manager_config` and `memory_allocator_manager` (how Envoy saves memory), and
/// `default_regex_engine` if it is RE2, whose language ours has.
fn refuse(proto: &pb::Bootstrap, p: &mut Problems) {
    refuse_set!(
        p, proto;
        node_context_params, hds_config, flags_path, stats_sinks, watchdog, watchdogs, tracing, enable_dispatcher_stats,
        stats_server_version_override, use_tcp_for_dns_lookups, dns_resolution_config,
        typed_dns_resolver_config, bootstrap_extensions, fatal_actions, config_sources, default_config_source,
        default_socket_interface, certificate_provider_instances, inline_headers, perf_tracing_file_path,
        xds_delegate_extension, xds_config_tracker_extension, listener_manager, application_log_config,
        enable_worker_cpu_affinity,
    );
    p.unimplemented_if("header_prefix", !matches!(proto.header_prefix.as_str(), "" | "x-envoy"));
    if let Some(stats) = &proto.stats_config {
        p.at("stats_config", |p| {
            refuse_set!(p, stats; stats_tags, stats_matcher, histogram_bucket_settings);
            p.unimplemented_if("use_all_default_tags", stats.use_all_default_tags == Some(false));
            p.unimplemented_if("allow_default_tag_overrides", stats.allow_default_tag_overrides == Some(true));
        });
    }
    let engine = proto.default_regex_engine.as_ref().and_then(|engine| engine.typed_config.as_ref());
    p.unimplemented_if("default_regex_engine", engine.is_some_and(|any| !any.is::<GoogleRe2>()));
}

fn node_of(proto: &pb_core::Node, p: &mut Problems) -> Node {
    // `user_agent_*`, `extensions` and `client_features` say what the proxy is, which is ours to say.
    refuse_set!(p, proto; dynamic_parameters, listening_addresses);
    let locality = proto.locality.clone().unwrap_or_default();
    let metadata = proto.metadata.as_ref().map(proto::json::struct_to_value);
    Node {
        id: proto.id.clone(),
        cluster: proto.cluster.clone(),
        metadata: match metadata {
            Some(serde_json::Value::Object(fields)) => fields.into_iter().collect(),
            _ => Default::default(),
        },
        region: locality.region,
        zone: locality.zone,
        sub_zone: locality.sub_zone,
    }
}

fn static_resources(proto: &pb::bootstrap::StaticResources, p: &mut Problems) -> Vec<StaticResource> {
    let mut all = each("listeners", &proto.listeners, p);
    all.extend(each("clusters", &proto.clusters, p));
    all.extend(each("secrets", &proto.secrets, p));
    all
}

/// Decodes the static resources in the field `name`; two of the same name are refused.
fn each<M: Name>(name: &str, protos: &[M], p: &mut Problems) -> Vec<StaticResource> {
    let mut seen = BTreeSet::new();
    p.each(name, protos, |p, message| {
        let any = Any::pack(message);
        let resource = resource::decode(&any, p)?;
        // A listener without a name gets one of its own.
        if !resource.name().is_empty() && !seen.insert(resource.name().to_owned()) {
            return p.refuse_at("name", format!("there is another one with the name {:?}", resource.name()));
        }
        Some(StaticResource { type_url: any.type_url, value: any.value, resource })
    })
}

type Sources = (Option<ApiSource>, Option<ConfigSource>, Option<ConfigSource>);

fn dynamic_resources(proto: &pb::bootstrap::DynamicResources, p: &mut Problems) -> Sources {
    refuse_set!(p, proto; lds_resources_locator, cds_resources_locator);
    let ads = proto.ads_config.as_ref().and_then(|ads| p.at("ads_config", |p| api_source(ads, p)));
    let mut source = |name: &str, source: &Option<pb_core::ConfigSource>| {
        let source = source.as_ref()?;
        let decoded = p.at(name, |p| config_source(source, p))?;
        if decoded.source == Source::Ads && proto.ads_config.is_none() {
            return p.refuse_at(name, "ads needs dynamic_resources.ads_config");
        }
        Some(decoded)
    };
    let lds = source("lds_config", &proto.lds_config);
    let cds = source("cds_config", &proto.cds_config);
    (ads, lds, cds)
}

/// The path of the outlier event log, and the server that load is reported to.
fn cluster_manager(proto: &pb::ClusterManager, p: &mut Problems) -> (Option<String>, Option<ApiSource>) {
    // `enable_deferred_cluster_creation`: clusters take no memory per worker until they are used anyway.
    refuse_set!(p, proto; upstream_bind_config);
    let outlier = proto.outlier_detection.as_ref();
    let path = outlier.map(|outlier| {
        p.at("outlier_detection", |p| refuse_set!(p, outlier; event_service));
        outlier.event_log_path.clone()
    });
    let load = proto.load_stats_config.as_ref();
    let load = load.and_then(|source| p.at("load_stats_config", |p| api_source(source, p)));
    (path.filter(|path| !path.is_empty()), load)
}

fn admin_of(proto: &pb::Admin, p: &mut Problems) -> Option<Admin> {
    // `profile_path` is where Envoy's profiler writes, and there is none; `ignore_global_conn_limit`: the limit of the
    // process does not count connections to the admin server.
    refuse_set!(p, proto; socket_options);
    let mut access_logs = access_log::decode_all(&proto.access_log, "access_log", p);
    if !matches!(proto.access_log_path.as_str(), "" | "/dev/null") {
        access_logs.push(AccessLog {
            name: String::new(),
            filter: None,
            sink: Sink::File(proto.access_log_path.clone()),
            format: None,
        });
    }
    let allow_paths = p.each("allow_paths", &proto.allow_paths, |p, matcher| StringMatcher::decode(matcher, p));
    if !is_set(&proto.address) {
        return None;
    }
    if is_udp(proto.address.as_ref()) {
        return p.refuse_at("address.socket_address.protocol", "must be TCP");
    }
    let address = match p.at("address", |p| address(proto.address.as_ref(), p))? {
        Address::Name { host, .. } => {
            let reason = format!("the admin server needs an IP address, not {host:?}");
            return p.refuse_at("address.socket_address.address", reason);
        }
        address => address,
    };
    Some(Admin { address, access_logs, allow_paths })
}

/// Control planes are reached through clusters, which must be there before anything else.
fn refuse_unknown_clusters(bootstrap: &Bootstrap, p: &mut Problems) {
    let clusters: BTreeSet<&str> = bootstrap
        .statics(|resource| match resource {
            Resource::Cluster(cluster) => Some(cluster),
            _ => None,
        })
        .map(|cluster| &*cluster.name)
        .collect();
    let api = |source: &'_ Option<ConfigSource>| match source {
        Some(ConfigSource { source: Source::Api(api), .. }) => Some((**api).clone()),
        _ => None,
    };
    if let Some(name) = bootstrap.local_cluster.as_ref().filter(|name| !clusters.contains(name.as_str())) {
        let reason = format!("there is no static cluster {name:?}");
        p.at("cluster_manager", |p| p.refuse_at::<()>("local_cluster_name", reason));
    }
    for (path, source) in [
        ("dynamic_resources.ads_config", bootstrap.ads.clone()),
        ("cluster_manager.load_stats_config", bootstrap.load_stats.clone()),
        ("dynamic_resources.lds_config.api_config_source", api(&bootstrap.lds)),
        ("dynamic_resources.cds_config.api_config_source", api(&bootstrap.cds)),
    ] {
        for (index, service) in source.iter().flat_map(|source| &source.services).enumerate() {
            if !clusters.contains(service.cluster.as_str()) {
                p.at(path, |p| {
                    p.at("grpc_services", |p| {
                        p.index(index, |p| {
                            let reason = format!("there is no static cluster {:?}", service.cluster);
                            p.refuse_at::<()>("envoy_grpc.cluster_name", reason);
                        });
                    });
                });
            }
        }
    }
}
