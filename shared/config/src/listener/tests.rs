//! Listeners and their filter chains.

use super::*;
use crate::invalid::Problems;

const TCP: &str = "{name: tcp, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy\
    .v3.TcpProxy, stat_prefix: t, cluster: c}}";

fn read(yaml: &str) -> (Result<Listener, String>, Vec<String>) {
    let yaml = yaml.replace("TCP", TCP);
    let proto: proto::envoy::config::listener::v3::Listener = proto::json::from_yaml(&yaml).unwrap();
    let mut p = Problems::default();
    let listener = decode(&proto, &mut p);
    let warnings = p.warnings().iter().map(ToString::to_string).collect();
    (p.finish(listener).map_err(|invalid| invalid.to_string()), warnings)
}

/// The listener with these fields beside its address.
fn sound(fields: &str) -> Listener {
    read(&format!("{{name: l, address: {{socket_address: {{address: 0.0.0.0, port_value: 0}}}}, {fields}}}")).0.unwrap()
}

#[track_caller]
fn check(fields: &str, wanted: &str) {
    let yaml = format!("{{address: {{pipe: {{path: /s}}}}, {fields}}}");
    assert_eq!(read(&yaml).0.unwrap_err(), wanted);
}

#[test]
fn a_listener_has_envoys_defaults() {
    let listener = sound("filter_chains: [{filters: [TCP]}]");
    assert_eq!(listener.per_connection_buffer_limit, 1 << 20);
    assert_eq!(listener.listener_filters_timeout, Some(Duration::from_secs(15)));
    assert!(listener.reuse_port && listener.bind_to_port);
    assert_eq!((listener.drain, listener.tcp_backlog_size), (DrainType::Default, None));
    let chain = &listener.filter_chains[0];
    assert_eq!(chain.criteria, FilterChainMatch::default());
    assert!(chain.tls.is_none() && matches!(&chain.terminal, Terminal::Tcp(proxy) if proxy.clusters[0].name == "c"));
}

#[test]
fn a_chain_without_filters_closes() {
    assert_eq!(sound("filter_chains: [{}]").filter_chains[0].terminal, Terminal::Close);
}

#[test]
fn criteria_are_kept() {
    let listener = sound(
        "filter_chains: [{filters: [TCP], filter_chain_match: {destination_port: 443, server_names: [A.b, '*.C.d'], \
         transport_protocol: tls, application_protocols: [h2], source_type: EXTERNAL, source_ports: [7], \
         prefix_ranges: [{address_prefix: 10.1.1.1, prefix_len: 8}], \
         source_prefix_ranges: [{address_prefix: 1.1.1.1, prefix_len: 32}]}}]",
    );
    let criteria = &listener.filter_chains[0].criteria;
    assert_eq!(criteria.server_names, ["a.b", "*.c.d"]);
    assert_eq!((criteria.destination_port, criteria.source_type), (Some(443), SourceType::External));
    assert_eq!(criteria.destinations[0].to_string(), "10.0.0.0/8");
    assert_eq!(criteria.transport_protocol, Some(TransportProtocol::Tls));
}

#[test]
fn a_tls_inspector_is_added_where_a_chain_needs_one() {
    let yaml = |filters: &str| {
        format!(
            "{{address: {{pipe: {{path: /s}}}}, listener_filters: [{filters}], \
             filter_chains: [{{filters: [TCP], filter_chain_match: {{server_names: [a.b]}}}}]}}"
        )
    };
    let inspector = "{name: i, typed_config: {'@type': \
        type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}";
    for (filters, warned) in [("", 1), (inspector, 0)] {
        let (listener, warnings) = read(&yaml(filters));
        assert_eq!((listener.unwrap().listener_filters.len(), warnings.len()), (1, warned));
    }
}

#[test]
fn the_proxy_protocol_filter_is_read() {
    let filter = |fields: &str| {
        format!(
            "filter_chains: [{{}}], listener_filters: [{{name: p, typed_config: {{'@type': \
             type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol, {fields}}}}}]"
        )
    };
    let listener = sound(&filter("allow_requests_without_proxy_protocol: true, disallowed_versions: [V1]"));
    let [ListenerFilter::ProxyProtocol(read)] = &listener.listener_filters[..] else { panic!("{listener:?}") };
    assert_eq!((read.optional, read.v1, read.v2), (true, false, true));
    check(
        &filter("disallowed_versions: [V1, V2]"),
        "listener_filters[0].typed_config.disallowed_versions: at least one version must be allowed",
    );
}

#[test]
fn two_chains_for_the_same_connections_are_refused() {
    check(
        "filter_chains: [{filters: [TCP], filter_chain_match: {server_names: [a, b]}}, \
         {filters: [TCP], filter_chain_match: {server_names: [c, b]}}]",
        "filter_chains[1].filter_chain_match: matches the same connections as filter_chains[0]",
    );
    sound(
        "filter_chains: [{filters: [TCP], filter_chain_match: {server_names: [a]}}, \
         {filters: [TCP], filter_chain_match: {server_names: [a], application_protocols: [h2]}}]",
    );
}

#[test]
fn what_is_wrong_or_not_implemented_is_refused_by_name() {
    check("name: x", "filter_chains: at least one filter chain is required");
    check(
        "filter_chains: [{}], udp_listener_config: {quic_options: {}}",
        "udp_listener_config: needs an address of protocol UDP",
    );
    check("filter_chains: [{}], use_original_dst: true", "use_original_dst: not implemented by weir-proxy");
    check(
        "filter_chains: [{filter_chain_match: {server_names: ['a.*']}}]",
        "filter_chains[0].filter_chain_match.server_names[0]: \"a.*\" is not a server name: a wildcard can only be \
         the first label, as in *.example.com",
    );
    check(
        "filter_chains: [{filters: [TCP, TCP]}]",
        "filter_chains[0].filters[0]: must be the last filter of the chain",
    );
    check(
        "filter_chains: [{filters: [{name: x, typed_config: {'@type': \
         type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy}}]}]",
        "filter_chains[0].filters[0].typed_config: network filter \
         envoy.extensions.filters.network.redis_proxy.v3.RedisProxy is not implemented by weir-proxy",
    );
    check(
        "default_filter_chain: {filter_chain_match: {destination_port: 1}}",
        "default_filter_chain.filter_chain_match: the default chain must not have one",
    );
}

#[test]
fn source_types_are_told_apart() {
    let ip = |text: &str| text.parse().unwrap();
    let check = |source_type: SourceType, source, local, wanted| {
        assert_eq!(source_type.matches(ip(source), ip(local)), wanted, "{source_type:?} {source} {local}");
    };
    check(SourceType::Any, "1.1.1.1", "2.2.2.2", true);
    check(SourceType::SameIpOrLoopback, "127.0.0.9", "2.2.2.2", true);
    check(SourceType::SameIpOrLoopback, "2.2.2.2", "2.2.2.2", true);
    check(SourceType::SameIpOrLoopback, "1.1.1.1", "2.2.2.2", false);
    check(SourceType::External, "1.1.1.1", "2.2.2.2", true);
    check(SourceType::External, "::1", "2.2.2.2", false);
}

#[test]
fn a_udp_listener_has_one_filter_and_no_chains() {
    let udp = |fields: &str| {
        let filter = "{name: u, typed_config: {'@type': \
                      type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig, stat_prefix: u, cluster: c}}";
        format!(
            "{{name: l, address: {{socket_address: {{protocol: UDP, address: 0.0.0.0, port_value: 53}}}}, {}}}",
            fields.replace("UDP", filter)
        )
    };
    let listener = read(&udp("listener_filters: [UDP]")).0.unwrap();
    assert!(listener.udp.is_some() && listener.filter_chains.is_empty());
    assert_eq!(
        read(&udp("listener_filters: [UDP, UDP]")).0.unwrap_err(),
        "listener_filters: a UDP listener has one filter, envoy.filters.udp_listener.udp_proxy"
    );
    assert_eq!(
        read(&udp("listener_filters: [UDP], filter_chains: [{}], udp_listener_config: {quic_options: {}}"))
            .0
            .unwrap_err(),
        "filter_chains: not implemented by weir-proxy; udp_listener_config.quic_options: not implemented by weir-proxy"
    );
    check("filter_chains: [{}], udp_listener_config: {}", "udp_listener_config: needs an address of protocol UDP");
}

#[test]
fn limits_of_connections_are_read() {
    let chain = |filter: &str| {
        format!(
            "filter_chains: [{{filters: [{{name: f, typed_config: {{'@type': \
                 type.googleapis.com/envoy.extensions.filters.network.{filter}}}}}, TCP]}}]"
        )
    };
    let listener = sound(&chain("connection_limit.v3.ConnectionLimit, stat_prefix: l, max_connections: 3, delay: 1s"));
    let [NetworkFilter::ConnectionLimit(limit)] = &listener.filter_chains[0].network_filters[..] else {
        panic!("{listener:?}")
    };
    assert_eq!((limit.max_connections, limit.delay, limit.enabled), (3, Some(Duration::from_secs(1)), true));
    check(
        &chain("connection_limit.v3.ConnectionLimit, stat_prefix: l"),
        "filter_chains[0].filters[0].typed_config.max_connections: is required",
    );
    check(
        &chain("rbac.v3.RBAC, stat_prefix: r, enforcement_type: CONTINUOUS"),
        "filter_chains[0].filters[0].typed_config.enforcement_type: not implemented by weir-proxy",
    );
}

#[test]
fn connections_are_forwarded_by_name_to_one_port_and_only_by_a_tcp_proxy() {
    let of = |first: &str, last: &str| {
        let package = "type.googleapis.com/envoy.extensions.filters.network";
        let yaml = format!(
            "{{name: l, address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, filter_chains: [{{filters: [\
             {{name: s, typed_config: {{'@type': {package}.{first}}}}}, \
             {{name: x, typed_config: {{'@type': {package}.{last}}}}}]}}]}}"
        );
        read(&yaml).0
    };
    let decoded = |fields: &str, last: &str| {
        of(&format!("sni_dynamic_forward_proxy.v3.FilterConfig, dns_cache_config: {{name: d}}, {fields}"), last)
    };
    let tcp = "tcp_proxy.v3.TcpProxy, stat_prefix: x, cluster: c";
    let listener = decoded("port_value: 443", tcp).unwrap();
    let filters = &listener.filter_chains[0].network_filters;
    assert!(matches!(&filters[0], NetworkFilter::SniForward(forward) if forward.port == 443), "{filters:?}");
    let check = |fields: &str, last: &str, reason: &str| {
        let refused = decoded(fields, last).unwrap_err();
        assert!(refused.contains(reason), "{refused}");
    };
    check("", tcp, "port_value: is required");
    check("port_value: 443, save_upstream_address: true", tcp, "save_upstream_address: not implemented by weir-proxy");
    let http = "http_connection_manager.v3.HttpConnectionManager, stat_prefix: x, route_config: {}, http_filters: [{name: r, \
                typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]";
    check("port_value: 443", http, "sni_dynamic_forward_proxy is only for tcp_proxy");
    let by_cluster = "sni_cluster.v3.SniCluster";
    assert!(of(by_cluster, tcp).is_ok());
    assert!(of(by_cluster, http).unwrap_err().contains("sni_cluster is only for tcp_proxy"));
}
