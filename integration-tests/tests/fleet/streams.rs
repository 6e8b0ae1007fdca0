//! A proxy without ADS: a stream for each type of resource, each with what the others must not wait for.

use crate::harness::*;

/// The server called `xds` in bootstraps, without ADS.
fn source(kind: &str) -> String {
    format!(
        "{{ resource_api_version: V3, api_config_source: {{ api_type: {kind}, transport_api_version: V3, \
         grpc_services: [{{ envoy_grpc: {{ cluster_name: xds }} }}] }} }}"
    )
}

fn separate(id: &str, xds: std::net::SocketAddr, api: Api) -> String {
    let source = source(if api == Api::Delta { "DELTA_GRPC" } else { "GRPC" });
    let aggregated = bootstrap(id, xds, api, "");
    let statics = aggregated.find("static_resources:").expect("there");
    let node = aggregated.lines().next().expect("a node");
    format!("{node}\ndynamic_resources:\n  cds_config: {source}\n  lds_config: {source}\n{}", &aggregated[statics..])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_with_a_stream_for_each_type_serves_and_follows_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    let origins = [origin(0).await, origin(1).await];
    let plane = Plane::start(folder.path(), LOOPBACK).await;
    // What is made from the short language refers to ADS; without it, resources say themselves where from.
    let text = |number: usize| {
        let (source, port) = (source("GRPC"), origins[number].port());
        format!(
            "envoy:
  - \"@type\": type.googleapis.com/envoy.config.listener.v3.Listener
    name: web
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
      - filters:
          - name: http
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
              stat_prefix: web
              rds: {{ route_config_name: routes, config_source: {source} }}
              http_filters:
                - name: router
                  typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
  - \"@type\": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
    name: routes
    virtual_hosts:
      - {{ name: all, domains: [\"*\"], routes: [{{ match: {{ prefix: / }}, route: {{ cluster: app }} }}] }}
  - \"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster
    name: app
    type: EDS
    eds_cluster_config: {{ eds_config: {source} }}
  - \"@type\": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment
    cluster_name: app
    endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}]
"
        )
    };
    plane.apply(&text(0)).await;
    for (id, api) in [("delta", Api::Delta), ("sotw", Api::Sotw)] {
        let proxy = start(&separate(id, plane.xds, api), Default::default());
        for number in [0, 1, 0] {
            plane.apply(&text(number)).await;
            let web = address(&proxy, "web").await;
            let expected = format!("{number} -");
            let since = std::time::Instant::now();
            loop {
                let answer = get(web, "/").await.expect("an answer");
                assert!(answer.status == 200 || since.elapsed().as_secs() < 20, "{api:?}: {answer:?}");
                if answer.body == expected {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
    }
    plane.stop().await;
}
