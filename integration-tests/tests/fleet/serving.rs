//! What is applied is served: first, changed, rolled back, refused, deleted; and never half of it.

use proto::weir::management::v1 as pb;
use tonic_types::StatusExt;

use crate::harness::*;

/// A configuration whose route, cluster and header all say the same number.
fn revision(number: usize, origins: &[std::net::SocketAddr]) -> String {
    let (name, origin) = (number / 5, origins[number % origins.len()]);
    format!(
        "listeners:\n  web: \"127.0.0.1:0\"\nroutes:\n  - to: app{name}\n    headers:\n      request: {{ set: {{ x-rev: \"{number}\" }} }}\n      \
         response: {{ set: {{ x-rev: \"{number}\" }} }}\nclusters:\n  app{name}: [\"{origin}\"]\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_applied_is_served_changed_rolled_back_refused_and_deleted() {
    let folder = tempfile::tempdir().expect("a folder");
    let origins = [origin(0).await, origin(1).await];
    let plane = Plane::start(folder.path(), LOOPBACK).await;
    let first = plane.apply(&revision(0, &origins)).await;
    let proxies = [proxy("delta", plane.xds, Api::Delta), proxy("sotw", plane.xds, Api::Sotw)];
    let ids = ["delta", "sotw"];
    let shown = async |revision: u64, expected: &str| {
        for proxy in &proxies {
            serves(proxy, revision).await;
            let answer = get(address(proxy, "web").await, "/").await.expect("an answer");
            assert_eq!((answer.status, answer.body.as_str()), (200, expected));
        }
    };
    plane.synced(&ids, first).await;
    shown(first, "0 0").await;
    let before = [address(&proxies[0], "web").await, address(&proxies[1], "web").await];

    let second = plane.apply(&revision(1, &origins)).await;
    plane.synced(&ids, second).await;
    shown(second, "1 1").await;

    let mut config = plane.config().await;
    let back = config.rollback(pb::RollbackRequest { id: first, ..Default::default() }).await.expect("works");
    let third = back.into_inner().revision.expect("made").id;
    plane.synced(&ids, third).await;
    shown(third, "0 0").await;
    let after = [address(&proxies[0], "web").await, address(&proxies[1], "web").await];
    assert_eq!(before, after, "the sockets stayed");

    let wrong = revision(1, &origins).replace("to: app0", "to: ap0");
    let status = config.apply(apply(&wrong)).await.expect_err("names no cluster");
    let details = status.get_details_error_info().expect("given").metadata;
    let place = ["file", "line", "column"].map(|key| details.get(key).map_or("", String::as_str));
    assert_eq!(place, ["fleet.yaml", "4", "9"]);
    plane.synced(&ids, third).await;
    shown(third, "0 0").await;

    let objects = [(pb::Kind::Listener, "web"), (pb::Kind::Route, "routes[0]"), (pb::Kind::Cluster, "app0")];
    let objects = objects.map(|(kind, name)| pb::ObjectName { kind: kind.into(), name: name.into() }).to_vec();
    let deleted = config.delete(pb::DeleteRequest { objects, ..Default::default() }).await.expect("works");
    plane.synced(&ids, deleted.into_inner().revision.expect("made").id).await;
    for (proxy, address) in proxies.iter().zip(before) {
        eventually("the listener is gone", || proxy.listener("web").is_none()).await;
        assert!(proxy.snapshot().cluster("app0").is_none());
        // Accepting stops with the snapshot; the socket is closed a moment later by its worker.
        eventually("nobody listens", || std::net::TcpStream::connect(address).is_err()).await;
    }
    drop(proxies);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_revision_is_one_snapshot_over_fifty_pushes_under_load() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut origins = Vec::new();
    for number in 0..4 {
        origins.push(origin(number).await);
    }
    let plane = Plane::start(folder.path(), LOOPBACK).await;
    plane.apply(&revision(0, &origins)).await;
    let proxies = [proxy("delta", plane.xds, Api::Delta), proxy("sotw", plane.xds, Api::Sotw)];
    let consistent = |answer: &Answer| {
        is_ok(answer)?;
        let number: usize = answer.revision.parse().map_err(|_| format!("{answer:?}"))?;
        let expected = format!("{} {number}", number % 4);
        if answer.body == expected { Ok(()) } else { Err(format!("a mixture: {answer:?}")) }
    };
    let mut loads = Vec::new();
    for proxy in &proxies {
        loads.push(Load::start(address(proxy, "web").await, consistent));
    }
    for number in 1..=50 {
        let id = plane.apply(&revision(number, &origins)).await;
        for proxy in &proxies {
            serves(proxy, id).await;
            let answer = get(address(proxy, "web").await, "/").await.expect("an answer");
            assert_eq!(answer.revision, number.to_string());
        }
    }
    for load in loads {
        assert!(load.end().await > 100);
    }
    drop(proxies);
    plane.stop().await;
}
