//! What operators do to a running fleet, and what they see of it.

use std::time::{Duration, Instant};

use data_plane::{Options, Proxy};
use proto::weir::management::v1 as pb;

use crate::harness::*;

const REPORTS: &str = "cluster_manager:
  load_stats_config:
    api_type: GRPC
    transport_api_version: V3
    grpc_services: [{ envoy_grpc: { cluster_name: xds } }]
";

fn reporting(id: &str, plane: &Plane) -> Proxy {
    let bootstrap = bootstrap(id, plane.xds, Api::Delta, "");
    start(&format!("{REPORTS}{bootstrap}"), Options::default())
}

/// Waits until the endpoints of `app` are as `is_so` wants them.
async fn endpoints(plane: &Plane, what: &str, is_so: impl Fn(&[pb::Endpoint]) -> bool) -> Vec<pb::Endpoint> {
    let (mut fleet, since) = (plane.fleet().await, Instant::now());
    loop {
        let request = pb::ListEndpointsRequest { cluster: "app".into() };
        let found = fleet.list_endpoints(request).await.expect("works").into_inner().endpoints;
        if is_so(&found) {
            return found;
        }
        assert!(since.elapsed() < Duration::from_secs(60), "never: {what}: {found:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Who answered so many requests.
async fn answers(proxy: &Proxy, many: usize) -> Vec<String> {
    let to = address(proxy, "web").await;
    let mut bodies = Vec::new();
    for _ in 0..many {
        bodies.push(get(to, "/").await.expect("an answer").body);
    }
    bodies.sort();
    bodies.dedup();
    bodies
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_are_seen_with_their_load_and_one_is_drained_and_brought_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let (zero, one) = (origin(0).await, origin(1).await);
    let plane = Plane::start(folder.path(), LOOPBACK).await;
    let text = format!(
        "listeners: {{ web: '127.0.0.1:0' }}\nroutes: [{{ to: app }}]\nclusters:\n  app:\n    endpoints:\n      \
         - {{ address: '{zero}', zone: a, labels: {{ disk: ssd }} }}\n      - {{ address: '{one}', zone: b }}\n"
    );
    let first = plane.apply(&text).await;
    let proxy = reporting("n", &plane);
    serves(&proxy, first).await;
    assert_eq!(answers(&proxy, 20).await, ["0 -", "1 -"]);

    let reported = |found: &[pb::Endpoint]| found.len() == 2 && found.iter().all(|e| e.nodes.len() == 1);
    let found = endpoints(&plane, "the node reports both", reported).await;
    assert!(found.iter().all(|e| e.health() == pb::EndpointHealth::Healthy), "{found:#?}");
    let of_zero = found.iter().find(|e| e.address == zero.to_string()).expect("is there");
    assert_eq!((of_zero.zone.as_str(), of_zero.labels.get("disk").map(String::as_str)), ("a", Some("ssd")));
    assert_eq!(of_zero.nodes[0].node, "n");

    // A report with requests has their latency.
    let to = address(&proxy, "web").await;
    let load = Load::start(to, is_ok);
    let busy =
        |found: &[pb::Endpoint]| found.iter().all(|e| e.nodes.iter().any(|n| n.requests > 0 && n.latency.is_some()));
    endpoints(&plane, "requests are reported", busy).await;

    // Drained: nothing new goes there, nothing fails, and another revision does not bring it back.
    let drain = pb::DrainEndpointRequest { cluster: "app".into(), address: zero.to_string(), ..Default::default() };
    plane.fleet().await.drain_endpoint(drain).await.expect("works");
    let draining = |found: &[pb::Endpoint]| {
        let drained = found.iter().find(|e| e.address == zero.to_string());
        drained.is_some_and(|e| {
            e.health() == pb::EndpointHealth::Draining
                && e.nodes.iter().all(|n| n.health() == pb::EndpointHealth::Draining)
        })
    };
    endpoints(&plane, "the node drains it", draining).await;
    load.more().await;
    assert_eq!(answers(&proxy, 20).await, ["1 -"]);
    let second = plane.apply(&text.replace("to: app", "to: app, timeout: 7s")).await;
    serves(&proxy, second).await;
    assert_eq!(answers(&proxy, 20).await, ["1 -"]);

    let undrain = pb::UndrainEndpointRequest { cluster: "app".into(), address: zero.to_string() };
    plane.fleet().await.undrain_endpoint(undrain).await.expect("works");
    endpoints(&plane, "it is back", |found| found.iter().all(|e| e.health() == pb::EndpointHealth::Healthy)).await;
    assert_eq!(answers(&proxy, 20).await, ["0 -", "1 -"]);
    load.end().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_with_a_time_ends_by_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let (zero, one) = (origin(0).await, origin(1).await);
    let plane = Plane::start(folder.path(), LOOPBACK).await;
    let text = format!(
        "listeners: {{ web: '127.0.0.1:0' }}\nroutes: [{{ to: app }}]\nclusters: {{ app: ['{zero}', '{one}'] }}\n"
    );
    let revision = plane.apply(&text).await;
    let proxy = proxy("n", plane.xds, Api::Delta);
    serves(&proxy, revision).await;
    let drain = pb::DrainEndpointRequest {
        cluster: "app".into(),
        address: zero.to_string(),
        duration: Some(prost_types::Duration { seconds: 3, nanos: 0 }),
        ..Default::default()
    };
    plane.fleet().await.drain_endpoint(drain).await.expect("works");
    endpoints(&plane, "it comes back", |found| found.len() == 2 && found.iter().all(|e| e.drain.is_none())).await;
    let since = Instant::now();
    while answers(&proxy, 20).await != ["0 -", "1 -"] {
        assert!(since.elapsed() < Duration::from_secs(60), "it never came back");
    }
    plane.stop().await;
}
