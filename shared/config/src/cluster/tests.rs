//! Clusters: defaults, endpoints, policies, protocols and what is refused.

use super::*;
use crate::endpoint::HealthStatus;
use crate::lb_policy::{Algorithm, Consistent, LeastRequest, LocalityLb, Maglev};

fn decoded(yaml: &str) -> Result<Cluster, String> {
    let proto: pb::Cluster = proto::json::from_yaml(yaml).unwrap();
    decode(&prost::Message::encode_to_vec(&proto)).map_err(|invalid| invalid.to_string())
}

/// What a static cluster named `a` with the further fields `more` is refused for.
#[track_caller]
fn check_refused(more: &str, reason: &str) {
    assert_eq!(decoded(&format!("{{name: a, load_assignment: {{}}, {more}}}")).unwrap_err(), reason);
}

#[track_caller]
fn static_cluster(more: &str) -> Cluster {
    decoded(&format!("{{name: a, load_assignment: {{}}, {more}}}")).unwrap()
}

#[test]
fn a_cluster_has_envoys_defaults() {
    let cluster = static_cluster("");
    assert_eq!(cluster.connect_timeout, Duration::from_secs(5));
    assert_eq!(cluster.buffer_limit, 1024 * 1024);
    assert_eq!(cluster.panic_threshold, 50.0);
    assert_eq!(cluster.lb, LbPolicy::default());
    assert_eq!(cluster.breakers.default.retries, 3);
    assert_eq!(cluster.breakers.high.requests, 1024);
    assert_eq!(cluster.http, HttpOptions::default());
}

#[test]
fn endpoints_keep_their_priority_weight_and_health() {
    let cluster = decoded(
        "{name: a, load_assignment: {cluster_name: a, endpoints: [{priority: 1, load_balancing_weight: 3, locality: \
         {zone: z}, lb_endpoints: [{load_balancing_weight: 7, health_status: DRAINING, endpoint: {hostname: h, \
         address: {socket_address: {address: 127.0.0.1, port_value: 80}}}}]}]}}",
    )
    .unwrap();
    let locality = &cluster.assignment().unwrap().localities[0];
    assert_eq!((locality.priority, locality.weight, &*locality.locality.zone), (1, Some(3), "z"));
    let endpoint = &locality.endpoints[0];
    assert_eq!((endpoint.weight, endpoint.health, &*endpoint.hostname), (7, HealthStatus::Draining, "h"));
}

#[test]
fn only_dns_clusters_have_host_names() {
    let endpoints = "load_assignment: {endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: \
                     a.test, port_value: 80}}}}]}]}";
    assert_eq!(
        decoded(&format!("{{name: a, {endpoints}}}")).unwrap_err(),
        "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address: \"a.test\" is not an IP address; \
         a cluster of type STRICT_DNS or LOGICAL_DNS takes names"
    );
    let cluster = decoded(&format!("{{name: a, type: STRICT_DNS, respect_dns_ttl: true, {endpoints}}}")).unwrap();
    let Discovery::StrictDns(dns, _) = cluster.discovery else { panic!("{cluster:?}") };
    assert!(dns.respect_ttl);
    assert_eq!(dns.refresh, Duration::from_secs(5));
}

#[test]
fn the_dns_extension_says_the_same_as_the_old_fields() {
    let check = |more: &str| {
        let cluster = decoded(&format!(
            "{{name: a, {more}, load_assignment: {{endpoints: [{{lb_endpoints: [{{endpoint: {{address: \
             {{socket_address: {{address: a.test, port_value: 80}}}}}}}}]}}]}}}}"
        ));
        let Discovery::LogicalDns(dns, _) = cluster.unwrap().discovery else { panic!("{more}") };
        assert_eq!((dns.refresh, dns.family), (Duration::from_secs(9), LookupFamily::V4Only));
    };
    check("type: LOGICAL_DNS, dns_refresh_rate: 9s, dns_lookup_family: V4_ONLY");
    check(
        "cluster_type: {name: x, typed_config: {'@type': \
         type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster, dns_refresh_rate: 9s, \
         dns_lookup_family: V4_ONLY, all_addresses_in_single_endpoint: true}}",
    );
}

#[test]
fn the_first_policy_that_is_implemented_is_taken() {
    let policies = |list: &[&str]| {
        let list: Vec<_> = list
            .iter()
            .map(|p| {
                format!(
                    "{{typed_extension_config: {{name: x, typed_config: {{'@type': \
                     type.googleapis.com/envoy.extensions.load_balancing_policies.{p}}}}}}}"
                )
            })
            .collect();
        format!("load_balancing_policy: {{policies: [{}]}}", list.join(", "))
    };
    let unknown = "pick_first.v3.PickFirst";
    let cluster =
        static_cluster(&policies(&[unknown, "least_request.v3.LeastRequest, choice_count: 5", "random.v3.Random"]));
    let wanted = LeastRequest { choices: 5, bias: 1.0, full_scan: false };
    assert_eq!(cluster.lb.algorithm, Algorithm::LeastRequest(wanted));
    check_refused(&policies(&[unknown]), "load_balancing_policy: none of the policies is implemented: x");
    let inner = format!(
        "wrr_locality.v3.WrrLocality, endpoint_picking_policy: {{{}}}",
        "policies: [{typed_extension_config: \
        {name: inner, typed_config: {'@type': type.googleapis.com/envoy.extensions.load_balancing_policies.random.v3.Random}}}]"
    );
    let cluster = static_cluster(&policies(&[&inner]));
    assert_eq!(cluster.lb, LbPolicy { locality: LocalityLb::Weighted, ..LbPolicy::of(Algorithm::Random) });
}

#[test]
fn a_maglev_table_has_a_prime_size() {
    let cluster = static_cluster("lb_policy: MAGLEV");
    let wanted = Maglev { table_size: 65537, consistent: Consistent::default() };
    assert_eq!(cluster.lb.algorithm, Algorithm::Maglev(wanted));
    check_refused(
        "lb_policy: MAGLEV, maglev_lb_config: {table_size: 65536}",
        "maglev_lb_config.table_size: must be a prime of at most 5000011",
    );
    check_refused(
        "lb_policy: RANDOM, maglev_lb_config: {table_size: 65537}",
        "lb_config: does not belong to lb_policy RANDOM",
    );
}

#[test]
fn protocol_options_choose_the_version_of_http() {
    let explicit = |options: &str| {
        static_cluster(&format!(
            "typed_extension_protocol_options: {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{'@type': \
             type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, {options}}}}}"
        ))
        .http
    };
    assert_eq!(static_cluster("http2_protocol_options: {}").http.protocols, Protocols::Http2);
    assert_eq!(explicit("explicit_http_config: {http2_protocol_options: {}}").protocols, Protocols::Http2);
    assert_eq!(explicit("auto_config: {}").protocols, Protocols::Auto);
    assert_eq!(explicit("use_downstream_protocol_config: {}").protocols, Protocols::Downstream);
    let idle =
        explicit("explicit_http_config: {http_protocol_options: {}}, common_http_protocol_options: {idle_timeout: 0s}");
    assert_eq!(idle.idle_timeout, None);
}

#[test]
fn a_retry_budget_may_count_over_an_interval() {
    let budget = |fields: &str| {
        let cluster = static_cluster(&format!("circuit_breakers: {{thresholds: [{{retry_budget: {{{fields}}}}}]}}"));
        cluster.breakers.default.retry_budget.unwrap()
    };
    assert_eq!(budget(""), RetryBudget { percent: 20.0, minimum: 3, interval: None });
    let seconds = Some(Duration::from_secs(10));
    assert_eq!(budget("budget_interval: 10s"), RetryBudget { percent: 20.0, minimum: 3, interval: seconds });
    assert_eq!(budget("budget_interval: 0s, min_retry_concurrency: 0").interval, None);
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    check_refused("filters: [{name: x}]", "filters: not implemented by weir-proxy");
    check_refused("connect_timeout: 0s", "connect_timeout: must be more than 0s");
    check_refused("eds_cluster_config: {}", "eds_cluster_config: is only for clusters of type EDS");
    check_refused(
        "outlier_detection: {max_ejection_percent: 101}",
        "outlier_detection.max_ejection_percent: must be from 0 to 100",
    );
    check_refused(
        "outlier_detection: {base_ejection_time: 60s, max_ejection_time: 30s}",
        "outlier_detection.max_ejection_time: must not be less than base_ejection_time",
    );
}

/// A cluster of a type by extension, without endpoints of its own.
fn by_extension(config: &str, more: &str) -> Result<Cluster, String> {
    decoded(&format!(
        "{{name: a, cluster_type: {{name: x, typed_config: {{'@type': type.googleapis.com/{config}}}}}, {more}}}"
    ))
}

const PROVIDED: &str = "lb_policy: CLUSTER_PROVIDED";
const AGGREGATE: &str = "envoy.extensions.clusters.aggregate.v3.ClusterConfig";
const FORWARD: &str = "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig, dns_cache_config";

#[test]
fn an_aggregate_names_other_clusters_once() {
    let members = |names: &str| format!("{AGGREGATE}, clusters: [{names}]");
    let cluster = by_extension(&members("b, c"), PROVIDED).unwrap();
    assert_eq!(cluster.discovery, Discovery::Aggregate(vec!["b".into(), "c".into()]));
    let policies = "load_balancing_policy: {policies: [{typed_extension_config: {name: x, typed_config: {'@type': \
                    type.googleapis.com/envoy.extensions.load_balancing_policies.cluster_provided.v3.ClusterProvided}}}]}";
    assert!(by_extension(&members("b"), policies).is_ok());
    let check = |names: &str, more: &str, reason: &str| {
        assert_eq!(by_extension(&members(names), more).unwrap_err(), reason);
    };
    check("", PROVIDED, "cluster_type.typed_config.clusters: is empty");
    check(
        "b, a, b",
        PROVIDED,
        "cluster_type.typed_config.clusters[1]: is the cluster itself; \
         cluster_type.typed_config.clusters[2]: is named twice",
    );
    let outlier = format!("{PROVIDED}, outlier_detection: {{}}");
    let refused = by_extension(&members("b"), &outlier).unwrap_err();
    assert!(refused.contains("outlier_detection: not implemented by weir-proxy for a cluster without"), "{refused}");
    check("b", "", "lb_policy: a cluster of this type takes only CLUSTER_PROVIDED");
    check_refused(PROVIDED, "lb_policy: CLUSTER_PROVIDED is for clusters that say themselves where requests go");
}

#[test]
fn an_original_destination_comes_from_a_header_only_when_asked() {
    let found = |more: &str| {
        let cluster = decoded(&format!("{{name: a, type: ORIGINAL_DST, {PROVIDED}, {more}}}")).unwrap();
        let Discovery::OriginalDst(found) = cluster.discovery else { panic!("{more}") };
        found
    };
    let plain = found("");
    assert_eq!((plain.header, plain.cleanup_interval), (None, Duration::from_secs(5)));
    let header =
        found("original_dst_lb_config: {use_http_header: true, upstream_port_override: 81}, cleanup_interval: 9s");
    assert_eq!((header.header.as_deref(), header.port), (Some("x-envoy-original-dst-host"), Some(81)));
    assert_eq!(header.cleanup_interval, Duration::from_secs(9));
    let keyed = found("original_dst_lb_config: {metadata_key: {key: envoy.lb, path: [{key: a}, {key: b}]}}");
    assert_eq!(keyed.metadata, Some(discovery::MetadataKey { filter: "envoy.lb".into(), path: "a.b".into() }));
    let named = by_extension(
        "envoy.extensions.clusters.original_dst.v3.OriginalDstCluster, use_http_header: true, http_header_name: X-Dst",
        PROVIDED,
    );
    let Discovery::OriginalDst(named) = named.unwrap().discovery else { panic!() };
    assert_eq!(named.header.as_deref(), Some("x-dst"));
    assert_eq!(
        decoded(
            "{name: a, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, original_dst_lb_config: {http_header_name: h}}"
        )
        .unwrap_err(),
        "original_dst_lb_config.http_header_name: has no effect without use_http_header: true"
    );
}

#[test]
fn a_forward_proxy_with_tls_checks_the_name_of_the_host() {
    const TLS: &str = "transport_socket: {name: tls, typed_config: {'@type': \
                       type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext}}";
    let plain = by_extension(&format!("{FORWARD}: {{name: c}}"), PROVIDED).unwrap();
    assert!(!plain.http.auto_sni);
    let Discovery::ForwardProxy(forward) = plain.discovery else { panic!() };
    assert_eq!((forward.cache.max_hosts, forward.cache.host_ttl), (1024, Duration::from_secs(300)));
    assert_eq!(forward.cache.minimum_refresh, Duration::from_secs(5));
    let tls = by_extension(&format!("{FORWARD}: {{name: c}}"), &format!("{PROVIDED}, {TLS}")).unwrap();
    assert!(tls.http.auto_sni && tls.http.auto_san);
    let weak = format!("{PROVIDED}, {TLS}, upstream_http_protocol_options: {{auto_sni: true}}");
    assert_eq!(
        by_extension(&format!("{FORWARD}: {{name: c}}"), &weak).unwrap_err(),
        "upstream_http_protocol_options: a dynamic forward proxy with TLS needs auto_sni and auto_san_validation, \
         or allow_insecure_cluster_options"
    );
    assert!(by_extension(&format!("{FORWARD}: {{name: c}}, allow_insecure_cluster_options: true"), &weak).is_ok());
    let refused = by_extension(&format!("{FORWARD}: {{key_value_config: {{}}, max_hosts: 0}}"), PROVIDED).unwrap_err();
    for reason in ["key_value_config: not implemented", "name: is empty", "max_hosts: must be at least 1"] {
        assert!(refused.contains(reason), "{refused}");
    }
}

#[test]
fn an_srv_cluster_asks_for_a_name() {
    let check = |config: &str| by_extension(&format!("weir.clusters.srv.v1.SrvCluster, {config}"), "lb_policy: RANDOM");
    let cluster = check("name: _http._tcp.a.test, respect_dns_ttl: true, dns_lookup_family: V4_ONLY").unwrap();
    let Discovery::Srv(srv) = cluster.discovery else { panic!() };
    assert_eq!((&*srv.name, srv.dns.respect_ttl, srv.dns.family), ("_http._tcp.a.test", true, LookupFamily::V4Only));
    assert_eq!(
        check("name: ''").unwrap_err(),
        "cluster_type.typed_config.name: is empty; write an SRV name such as _http._tcp.api.example.com"
    );
}
