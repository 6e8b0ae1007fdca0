//! A proxy without ADS: a stream for each type of resource, each with what the others must not wait for.

use crate::harness::*;

fn separate(id: &str, xds: std::net::SocketAddr, api: Api) -> String {
    let kind = if api == Api::Delta { "DELTA_GRPC" } else { "GRPC" };
    let source = format!(
        "{{ resource_api_version: V3, api_config_source: {{ api_type: {kind}, transport_api_version: V3, \
         grpc_services: [{{ envoy_grpc: {{ cluster_name: xds }} }}] }} }}"
    );
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
    let text = |number: usize| {
        format!(
            "listeners:\n  web: \"127.0.0.1:0\"\nroutes:\n  - to: app{number}\n    headers: {{ response: {{ set: {{ x-rev: \"{number}\" }} }} }}\n\
             clusters:\n  app{number}: [\"{}\"]\n",
            origins[number]
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
