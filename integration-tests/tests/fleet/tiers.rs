//! Two tiers from one control plane: an edge fleet that routes to an internal fleet of balancers, as in
//! `deploy/examples/two-tier`.

use std::net::SocketAddr;

use control_plane::settings::{Given, GivenGroup};
use data_plane::{Options, Proxy};

use crate::harness::*;

fn group(name: &str) -> GivenGroup {
    GivenGroup { name: name.to_owned(), cluster: Some(name.to_owned()), labels: Default::default() }
}

/// One that nobody has now, and that the proxies of a fleet share later.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(LOOPBACK).expect("a free port");
    listener.local_addr().expect("bound").port()
}

fn of_group(plane: &Plane, group: &str, id: &str) -> Proxy {
    start(&bootstrap_of(group, id, plane.xds, Api::Delta, ""), Options { share_ports: true, ..Options::default() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_edge_fleet_routes_to_the_internal_fleet_and_each_gets_only_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let given = Given {
        store: Some(folder.path().join("weir.redb")),
        xds_address: Some(LOOPBACK),
        management_address: Some(LOOPBACK),
        insecure_loopback: Some(true),
        groups: vec![group("edge"), group("internal")],
        ..Given::default()
    };
    let plane = Plane::of(given.complete().expect("right")).await;
    let example =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/two-tier/weir.yaml"));
    let mut text = example.expect("the example");
    // The example's own ports may be taken here.
    let origins = [origin(0).await, origin(1).await, origin(2).await, origin(3).await];
    let mut replace = |from: &str, to: SocketAddr| {
        assert!(text.contains(from), "the example has no {from}");
        text = text.replace(from, &to.to_string());
    };
    let (edge, internal) = (free_port(), free_port());
    let loopback = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    replace("127.0.0.1:8080", loopback(edge));
    replace("127.0.0.1:8081", loopback(internal));
    for (i, origin) in origins.iter().enumerate() {
        replace(&format!("127.0.0.1:910{}", i + 1), *origin);
    }
    let revision = plane.apply(&text).await;
    let fleet = [
        of_group(&plane, "edge", "edge-1"),
        of_group(&plane, "edge", "edge-2"),
        of_group(&plane, "internal", "internal-1"),
        of_group(&plane, "internal", "internal-2"),
    ];
    for proxy in &fleet {
        serves(proxy, revision).await;
    }
    for (proxy, own, other) in [(&fleet[0], "edge", "internal"), (&fleet[2], "internal", "edge")] {
        address(proxy, own).await;
        assert!(proxy.listener(other).is_none(), "{other}");
    }
    let mut bodies = Vec::new();
    for _ in 0..60 {
        let answer = get(loopback(edge), "/orders/7").await.expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        bodies.push(answer.body);
    }
    bodies.sort();
    bodies.dedup();
    assert!(bodies.len() >= 2, "the internal fleet balances over the endpoints of orders: {bodies:?}");
    plane.stop().await;
}
