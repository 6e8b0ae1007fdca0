//! Bootstrap texts: merged, read and refused.

use super::*;
use crate::invalid::Invalid;

const SOUND: &str = "
node: { id: n, cluster: c, locality: { zone: z }, metadata: { a: 1 } }
admin:
  access_log_path: /dev/null
  address: { socket_address: { address: 127.0.0.1, port_value: 0 } }
dynamic_resources:
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    grpc_services: { envoy_grpc: { cluster_name: xds } }
  lds_config: { ads: {}, resource_api_version: V3 }
  cds_config: { path_config_source: { path: /x/cds.yaml } }
layered_runtime: { layers: [ { name: s, static_layer: { a: { b: 1 } } } ] }
static_resources:
  clusters:
  - name: xds
    type: STRICT_DNS
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: { http2_protocol_options: {} }
    load_assignment:
      cluster_name: xds
      endpoints:
      - lb_endpoints:
        - endpoint: { address: { socket_address: { address: localhost, port_value: 18000 } } }
  secrets:
  - name: s
    generic_secret: { secret: { inline_string: x } }
";

/// The problems of reading `texts`.
#[track_caller]
fn check(texts: &[&str], wanted: &[&str]) {
    let problems = match read(texts) {
        Ok(_) => Vec::new(),
        Err(Invalid(problems)) => problems.iter().map(ToString::to_string).collect(),
    };
    assert_eq!(problems, wanted);
}

#[test]
fn a_bootstrap_is_read() {
    let bootstrap = read(&[SOUND]).unwrap();
    assert_eq!((bootstrap.node.id.as_str(), bootstrap.node.zone.as_str()), ("n", "z"));
    assert_eq!(bootstrap.ads.unwrap().services[0].cluster, "xds");
    assert_eq!(bootstrap.static_resources.len(), 2);
    assert_eq!(bootstrap.admin.unwrap().address.to_string(), "127.0.0.1:0");
    assert_eq!(bootstrap.runtime_layers.len(), 1);
}

#[test]
fn a_later_text_is_merged_over_an_earlier_one() {
    let bootstrap = read(&[SOUND, "{node: {id: other}}"]).unwrap();
    assert_eq!((bootstrap.node.id.as_str(), bootstrap.node.cluster.as_str()), ("other", "c"));
}

#[test]
fn an_empty_bootstrap_is_sound() {
    check(&[""], &[]);
}

#[test]
fn problems_have_line_and_column() {
    check(&["node:\n  idd: x\n"], &["node.idd: Node has no such field, did you mean id? (line 2, column 3)"]);
    check(
        &[
            "admin:\n  address:\n    socket_address: { address: localhost, port_value: 1 }\nhds_config: {api_type: GRPC}\n",
        ],
        &[
            "hds_config: not implemented by weir-proxy (line 4, column 1)",
            "admin.address.socket_address.address: the admin server needs an IP address, not \"localhost\" \
             (line 3, column 23)",
        ],
    );
    check(&["a: ["], &["1:4: not YAML: unclosed bracket '['"]);
}

#[test]
fn ads_needs_its_stream_and_the_stream_its_cluster() {
    check(
        &["{dynamic_resources: {lds_config: {ads: {}}}}"],
        &["dynamic_resources.lds_config: ads needs dynamic_resources.ads_config (line 1, column 22)"],
    );
    check(
        &["{dynamic_resources: {ads_config: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: x}}]}}}"],
        &["dynamic_resources.ads_config.grpc_services[0].envoy_grpc.cluster_name: there is no static cluster \"x\" \
           (line 1, column 81)"],
    );
}

#[test]
fn two_static_resources_of_one_name_are_refused() {
    check(
        &["static_resources:\n  secrets:\n  - {name: s, generic_secret: {secret: {inline_string: x}}}\n  \
           - {name: s, generic_secret: {secret: {inline_string: y}}}\n"],
        &["static_resources.secrets[1].name: there is another one with the name \"s\" (line 4, column 6)"],
    );
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    let monitor = "type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig";
    let monitors = format!("[{{name: m, typed_config: {{'@type': {monitor}, max_heap_size_bytes: 1}}}}]");
    check(
        &[&format!(
            "{{overload_manager: {{actions: [{{name: a, triggers: [{{name: m}}]}}], resource_monitors: {monitors}}}}}"
        )],
        &[
            "overload_manager.actions: not implemented by weir-proxy (line 1, column 21)",
            "overload_manager.resource_monitors[0].typed_config: resource monitor \
             envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig is not implemented by weir-proxy \
             (line 1, column 96)",
        ],
    );
}

#[test]
fn the_process_may_have_a_limit_of_connections() {
    let monitor =
        "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig";
    let limit = |max: i64| {
        format!(
            "{{overload_manager: {{resource_monitors: [{{name: m, typed_config: {{'@type': {monitor}, \
             max_active_downstream_connections: {max}}}}}]}}}}"
        )
    };
    assert_eq!(read(&[&limit(7)]).unwrap().max_connections, Some(7));
    assert!(read(&[&limit(0)]).unwrap_err().to_string().contains("must be greater than 0"));
}
