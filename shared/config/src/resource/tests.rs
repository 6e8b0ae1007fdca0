//! Resources by their type URL.

use serde_json::json;

use super::*;

/// The problems of the resource in `yaml`, as `path: reason`.
#[track_caller]
fn check(yaml: &str, wanted: &[&str]) {
    let any = proto::json::any_from_value(&proto::json::parse_yaml(yaml).unwrap()).unwrap();
    let problems = match decode_resource(&any) {
        Ok(_) => Vec::new(),
        Err(Invalid(problems)) => problems.iter().map(ToString::to_string).collect(),
    };
    assert_eq!(problems, wanted);
}

#[test]
fn a_resource_is_decoded_by_its_type() {
    let cluster = json!({"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "c", "type": "EDS",
        "eds_cluster_config": {"eds_config": {"ads": {}}}});
    let resource = decode_resource(&proto::json::any_from_value(&cluster).unwrap()).unwrap();
    assert_eq!(resource.name(), "c");
    assert!(matches!(resource, Resource::Cluster(_)));
}

#[test]
fn an_unknown_type_and_broken_bytes_are_refused() {
    let any = |type_name: &str, value: &'static [u8]| Any { type_url: format!("x/{type_name}"), value: value.into() };
    let error = decode_resource(&any("a.B", b"")).unwrap_err().to_string();
    assert_eq!(error, "resource type \"a.B\" is not implemented by weir-proxy");
    let error = decode_resource(&any("envoy.config.listener.v3.Listener", &[0x0a])).unwrap_err().to_string();
    assert!(error.contains("not a Listener"), "{error}");
}

#[test]
fn all_problems_of_a_resource_are_reported_once() {
    check(
        "
'@type': type.googleapis.com/envoy.config.listener.v3.Listener
name: l
address: { socket_address: { address: localhost, port_value: 80 } }
freebind: true
filter_chains:
- filters:
  - name: tcp
    typed_config:
      '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
      cluster: a
      max_connect_attempts: 0
",
        &[
            "freebind: not implemented by weir-proxy",
            "address.socket_address.address: a listener needs an IP address, not \"localhost\"",
            "filter_chains[0].filters[0].typed_config.stat_prefix: must not be empty",
            "filter_chains[0].filters[0].typed_config.max_connect_attempts: must be at least 1",
        ],
    );
}

#[test]
fn constraints_that_no_decoder_repeats_are_checked() {
    check(
        "{'@type': type.googleapis.com/envoy.config.cluster.v3.Cluster, name: c, type: EDS, eds_cluster_config: \
         {eds_config: {api_config_source: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: x}, \
         initial_metadata: [{key: \"a\\nb\"}]}]}}}}",
        &["eds_cluster_config.eds_config.api_config_source.grpc_services[0].initial_metadata[0].key: \"a\\nb\" is \
           not a header name"],
    );
}
