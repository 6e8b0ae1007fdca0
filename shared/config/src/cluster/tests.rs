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
    let unknown = "client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin";
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
fn what_is_not_implemented_is_refused_by_name() {
    check_refused("type: ORIGINAL_DST", "type: ORIGINAL_DST is not implemented by weir-proxy");
    check_refused("filters: [{name: x}]", "filters: not implemented by weir-proxy");
    check_refused("connect_timeout: 0s", "connect_timeout: must be more than 0s");
    check_refused("eds_cluster_config: {}", "eds_cluster_config: is only for clusters of type EDS");
    check_refused(
        "outlier_detection: {max_ejection_percent: 101}",
        "outlier_detection: outlier detection is not implemented by weir-proxy; \
         outlier_detection.max_ejection_percent: must be from 0 to 100",
    );
}
