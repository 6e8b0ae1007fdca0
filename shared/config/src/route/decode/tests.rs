//! Route configurations: defaults, inheritance and what is refused.

use proto::envoy::config::core::v3 as core;
use proto::envoy::config::route::v3::{route::Action as ProtoAction, route_action, route_match};

use super::*;
use crate::route::{BackOff, ClusterSpecifier, PathMatcher, RetryOn};

fn prefix(prefix: &str) -> Option<route::RouteMatch> {
    let path_specifier = Some(route_match::PathSpecifier::Prefix(prefix.into()));
    Some(route::RouteMatch { path_specifier, ..Default::default() })
}

fn to_cluster(cluster: &str) -> route::RouteAction {
    let cluster_specifier = Some(route_action::ClusterSpecifier::Cluster(cluster.into()));
    route::RouteAction { cluster_specifier, ..Default::default() }
}

fn route_to(action: route::RouteAction) -> route::Route {
    route::Route { r#match: prefix("/"), action: Some(ProtoAction::Route(action)), ..Default::default() }
}

fn host(name: &str, domains: &[&str], routes: Vec<route::Route>) -> route::VirtualHost {
    let domains = domains.iter().map(|d| (*d).to_owned()).collect();
    route::VirtualHost { name: name.into(), domains, routes, ..Default::default() }
}

fn config(virtual_hosts: Vec<route::VirtualHost>) -> route::RouteConfiguration {
    route::RouteConfiguration { name: "r".into(), virtual_hosts, ..Default::default() }
}

fn decode(proto: &route::RouteConfiguration) -> Result<RouteConfiguration, String> {
    let mut problems = Problems::default();
    let decoded = RouteConfiguration::decode(proto, &mut problems);
    problems.finish(decoded).map_err(|invalid| invalid.to_string())
}

/// The problems of one route with this action.
fn refused(action: route::RouteAction, expected: &str) {
    let error = decode(&config(vec![host("h", &["*"], vec![route_to(action)])])).unwrap_err();
    assert_eq!(error, format!("virtual_hosts[0].routes[0].route{expected}"));
}

#[test]
fn a_plain_route_has_the_defaults_of_envoy() {
    let decoded = decode(&config(vec![host("h", &["A.com"], vec![route_to(to_cluster("c"))])])).unwrap();
    let host = &decoded.virtual_hosts[0];
    assert_eq!(host.domains, ["a.com"]);
    let Action::Route(action) = &host.routes[0].action else { panic!("a route") };
    assert_eq!(action.cluster, ClusterSpecifier::Cluster("c".into()));
    assert_eq!(action.timeout, Some(std::time::Duration::from_secs(15)));
    assert_eq!(action.cluster_not_found, 503);
    assert_eq!(host.routes[0].matches.path, PathMatcher::Prefix("/".into()));
    assert!(host.routes[0].matches.case_sensitive);
}

#[test]
fn retry_policy_mirrors_and_buffer_limit_are_inherited() {
    let mirror = |cluster: &str| route_action::RequestMirrorPolicy { cluster: cluster.into(), ..Default::default() };
    let policy = |on: &str| Some(route::RetryPolicy { retry_on: on.into(), ..Default::default() });
    let own = route::RouteAction {
        retry_policy: policy("reset"),
        request_mirror_policies: vec![mirror("own")],
        ..to_cluster("c")
    };
    let mut outer = host("h", &["*"], vec![route_to(to_cluster("c")), route_to(own)]);
    outer.retry_policy = policy("5xx,cancelled");
    outer.per_request_buffer_limit_bytes = Some(9);
    let mut proto = config(vec![outer]);
    proto.request_mirror_policies = vec![mirror("global")];
    let decoded = decode(&proto).unwrap();
    let action = |n: usize| match &decoded.virtual_hosts[0].routes[n].action {
        Action::Route(action) => action,
        other => panic!("{other:?}"),
    };
    let on = action(0).retry.as_ref().unwrap().retry_on;
    assert!(on.has(RetryOn::SERVER_ERROR) && on.has(RetryOn::GRPC_CANCELLED) && !on.has(RetryOn::RESET));
    assert_eq!(action(0).mirrors[0].cluster, ClusterSpecifier::Cluster("global".into()));
    assert_eq!(action(1).mirrors[0].cluster, ClusterSpecifier::Cluster("own".into()));
    assert_eq!(action(1).retry.as_ref().unwrap().back_off, BackOff::default());
    assert_eq!(decoded.virtual_hosts[0].routes[0].buffer_limit, Some(9));
}

#[test]
fn what_is_wrong_with_a_route_is_refused_by_name() {
    refused(route::RouteAction::default(), ": needs cluster, cluster_header or weighted_clusters");
    refused(
        route::RouteAction {
            hedge_policy: Some(route::HedgePolicy { initial_requests: Some(2), ..Default::default() }),
            ..to_cluster("c")
        },
        ".hedge_policy.initial_requests: not implemented by weir-proxy",
    );
    refused(
        route::RouteAction {
            retry_policy: Some(route::RetryPolicy {
                retry_back_off: Some(route::retry_policy::RetryBackOff::default()),
                ..Default::default()
            }),
            ..to_cluster("c")
        },
        ".retry_policy.retry_back_off.base_interval: is required",
    );
    refused(
        route::RouteAction {
            request_mirror_policies: vec![route_action::RequestMirrorPolicy {
                cluster: "m".into(),
                trace_sampled: Some(true),
                ..Default::default()
            }],
            ..to_cluster("c")
        },
        ".request_mirror_policies[0].trace_sampled: not implemented by weir-proxy",
    );
    let weighted = route::WeightedCluster {
        clusters: vec![route::weighted_cluster::ClusterWeight { name: "c".into(), ..Default::default() }],
        ..Default::default()
    };
    refused(
        route::RouteAction {
            cluster_specifier: Some(route_action::ClusterSpecifier::WeightedClusters(weighted)),
            ..Default::default()
        },
        ".weighted_clusters.clusters: the sum of the weights must be more than zero",
    );
    refused(
        route::RouteAction { prefix_rewrite: "/".into(), regex_rewrite: Some(Default::default()), ..to_cluster("c") },
        ": may have only one of prefix_rewrite, regex_rewrite and path_rewrite_policy",
    );
    let upgrade = |upgrade: &str| route_action::UpgradeConfig { upgrade_type: upgrade.into(), ..Default::default() };
    refused(
        route::RouteAction { upgrade_configs: vec![upgrade("websocket"), upgrade("WebSocket")], ..to_cluster("c") },
        ".upgrade_configs[1].upgrade_type: \"WebSocket\" is there twice",
    );
}

#[test]
fn domains_are_unique_and_have_a_star_at_one_end_only() {
    let check = |first: &[&str], second: &[&str], expected: &str| {
        let hosts = vec![host("a", first, vec![]), host("b", second, vec![])];
        assert_eq!(decode(&config(hosts)).unwrap_err(), expected);
    };
    check(&["*"], &["*"], "virtual_hosts: domain \"*\" is both in \"a\" and in \"b\"");
    check(&["x.com"], &["X.com"], "virtual_hosts: domain \"x.com\" is both in \"a\" and in \"b\"");
    let star = "has a `*` that is neither its first nor its last character";
    check(&["a.*.b"], &["c"], &format!("virtual_hosts[0].domains[0]: \"a.*.b\" {star}"));
    check(&[], &["c"], "virtual_hosts[0].domains: needs at least one domain");
}

#[test]
fn headers_to_add_and_remove_are_checked() {
    let check = |key: &str, value: &str, expected: Option<&str>| {
        let mut proto = config(vec![]);
        let header = Some(core::HeaderValue { key: key.into(), value: value.into(), ..Default::default() });
        proto.request_headers_to_add = vec![core::HeaderValueOption { header, ..Default::default() }];
        let result = decode(&proto).map(|config| config.headers.request.add[0].name.clone());
        match expected {
            None => assert_eq!(result.unwrap(), key.to_ascii_lowercase()),
            Some(reason) => assert_eq!(result.unwrap_err(), format!("request_headers_to_add[0].header.{reason}")),
        }
    };
    check("X-A", "v", None);
    check(":path", "v", Some("key: \":path\" may not be changed here; use a rewrite"));
    check("Host", "v", Some("key: \"Host\" may not be changed here; use a rewrite"));
    check("x", "a\r\nb: c", Some("value: must not hold a line break or a zero byte"));
    let mut proto = config(vec![]);
    proto.response_headers_to_remove = vec![":status".into()];
    assert!(decode(&proto).unwrap_err().starts_with("response_headers_to_remove[0]: \":status\" may not be removed"));
}

#[test]
fn an_inline_body_has_a_limit() {
    let respond = |bytes: usize, limit: Option<u32>| {
        let body = core::DataSource {
            specifier: Some(core::data_source::Specifier::InlineString("x".repeat(bytes))),
            ..Default::default()
        };
        let action = route::DirectResponseAction { status: 200, body: Some(body), ..Default::default() };
        let route = route::Route {
            r#match: prefix("/"),
            action: Some(ProtoAction::DirectResponse(action)),
            ..Default::default()
        };
        let mut proto = config(vec![host("h", &["*"], vec![route])]);
        proto.max_direct_response_body_size_bytes = limit;
        decode(&proto)
    };
    assert!(respond(4096, None).is_ok());
    assert!(respond(4097, None).unwrap_err().contains("max_direct_response_body_size_bytes"));
    assert!(respond(4097, Some(5000)).is_ok());
}

#[test]
fn settings_of_unknown_filters_are_refused_with_their_place() {
    let any = proto::Any { type_url: "type.googleapis.com/x.Y".into(), ..Default::default() };
    let mut proto = config(vec![]);
    proto.typed_per_filter_config = [("f".to_owned(), any)].into();
    assert!(decode(&proto).unwrap_err().starts_with("typed_per_filter_config[f]"));
}
