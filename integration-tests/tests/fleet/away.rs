//! The control plane is away, comes back, comes back with something else or with nothing: traffic never fails.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use data_plane::Options;
use proto::weir::management::v1 as pb;

use crate::harness::*;

fn text(origin: SocketAddr, revision: usize) -> String {
    format!(
        "listeners:\n  web: \"127.0.0.1:0\"\nroutes:\n  - to: app\n    headers: {{ request: {{ set: {{ x-rev: \"{revision}\" }} }} }}\n\
         clusters:\n  app: [\"{origin}\"]\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_that_stops_and_comes_back_in_any_state_breaks_nothing() {
    let (folder, empty) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let origin = origin(0).await;
    let plane = Plane::start(folder.path(), LOOPBACK).await;
    let xds = plane.xds;
    let first = plane.apply(&text(origin, 1)).await;
    let proxies = [proxy("delta", xds, Api::Delta), proxy("sotw", xds, Api::Sotw)];
    let ids = ["delta", "sotw"];
    plane.synced(&ids, first).await;
    let mut loads = Vec::new();
    for proxy in &proxies {
        loads.push(Load::start(address(proxy, "web").await, is_ok));
    }
    for proxy in &proxies {
        serves(proxy, first).await;
    }
    let generations = || proxies.each_ref().map(|proxy| proxy.snapshot().generation);
    let before = generations();
    plane.stop().await;
    for load in &loads {
        load.more().await;
    }
    assert_eq!(generations(), before, "a loss changes nothing");

    let plane = Plane::start(folder.path(), xds).await;
    plane.synced(&ids, first).await;
    assert_eq!(generations(), before, "the same configuration changes nothing");
    plane.stop().await;

    let plane = Plane::start(folder.path(), xds).await;
    let second = plane.apply(&text(origin, 2)).await;
    plane.synced(&ids, second).await;
    for proxy in &proxies {
        serves(proxy, second).await;
        let answer = get(address(proxy, "web").await, "/").await.expect("an answer");
        assert_eq!(answer.body, "0 2");
    }
    plane.stop().await;

    let before = generations();
    let plane = Plane::start(empty.path(), xds).await;
    let (mut fleet, since) = (plane.fleet().await, Instant::now());
    loop {
        let nodes = fleet.list_nodes(pb::ListNodesRequest::default()).await.expect("works").into_inner().nodes;
        if nodes.iter().filter(|node| node.connected).count() == 2 {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(60), "{nodes:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for load in &loads {
        load.more().await;
    }
    assert_eq!(generations(), before, "a control plane without a revision publishes nothing");
    for load in loads {
        assert!(load.end().await > 100);
    }
    drop(proxies);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_starts_without_its_control_plane_serves_the_last_good_configuration() {
    for api in [Api::Delta, Api::Sotw] {
        let (folder, state) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let origin = origin(0).await;
        let plane = Plane::start(folder.path(), LOOPBACK).await;
        let xds = plane.xds;
        let first = plane.apply(&text(origin, 1)).await;
        let options = || Options { state_dir: Some(state.path().to_owned()), ..Options::default() };
        let boot = bootstrap("one", xds, api, "");
        let proxy = start(&boot, options());
        plane.synced(&["one"], first).await;
        let saved = state.path().join("last-good.binpb");
        eventually("it is on disk", || saved.exists()).await;
        plane.stop().await;
        drop(proxy);

        let since = Instant::now();
        let proxy = start(&boot, options());
        let answer = get(address(&proxy, "web").await, "/").await.expect("an answer");
        assert_eq!((answer.status, answer.body.as_str()), (200, "0 1"), "{api:?}");
        assert!(since.elapsed() < Duration::from_secs(2), "{api:?} took {:?}", since.elapsed());

        // And when it is back, it is followed again.
        let plane = Plane::start(folder.path(), xds).await;
        plane.synced(&["one"], first).await;
        let second = plane.apply(&text(origin, 2)).await;
        plane.synced(&["one"], second).await;
        serves(&proxy, second).await;
        let answer = get(address(&proxy, "web").await, "/").await.expect("an answer");
        assert_eq!(answer.body, "0 2", "{api:?}");
        drop(proxy);
        plane.stop().await;
    }
}
