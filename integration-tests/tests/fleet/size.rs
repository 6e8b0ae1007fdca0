//! Ten thousand clusters in one revision: how long until they serve, and what they cost.
//!
//! Asserts generous bounds only. With `WEIR_PROXY=…/weir-proxy` that program takes them too, and its figures are
//! printed (`--nocapture`).

use std::fmt::Write;
use std::net::SocketAddr;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::harness::*;

const CLUSTERS: usize = 10_000;

fn text(origin: SocketAddr, clusters: usize, revision: usize) -> String {
    let mut text = format!(
        "listeners:\n  web: \"127.0.0.1:0\"\nroutes:\n  - to: app0\n    headers: {{ request: {{ set: {{ x-rev: \"{revision}\" }} }} }}\nclusters:\n"
    );
    for number in 0..clusters {
        writeln!(text, "  app{number}: [\"{origin}\"]").expect("memory");
    }
    text
}

/// The program, ended with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    fn start(path: &str, bootstrap: &str) -> Self {
        let arguments = ["--concurrency", "1", "-l", "warn", "--config-yaml", bootstrap];
        Self(Command::new(path).args(arguments).spawn().expect("weir-proxy starts"))
    }

    fn kib(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a figure");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stderr)] // figures are for people
async fn ten_thousand_clusters_are_taken_in_one_revision() {
    let folder = tempfile::tempdir().expect("a folder");
    let origin = origin(0).await;
    let plane = Plane::start(folder.path(), LOOPBACK).await;
    let first = plane.apply(&text(origin, 1, 0)).await;
    let program = std::env::var("WEIR_PROXY").ok();
    let program = program.map(|path| Program::start(&path, &bootstrap("program", plane.xds, Api::Delta, "")));
    // One at a time, for there are more proxies than cores.
    let inside = program.is_none().then(|| proxy("inside", plane.xds, Api::Delta));
    let id = if inside.is_some() { "inside" } else { "program" };
    plane.synced(&[id], first).await;
    let before = program.as_ref().map_or(0, Program::kib);

    let since = Instant::now();
    let second = plane.apply(&text(origin, CLUSTERS, 1)).await;
    let stored = since.elapsed();
    plane.synced(&[id], second).await;
    let served = since.elapsed() - stored;
    let since = Instant::now();
    let third = plane.apply(&text(origin, CLUSTERS, 2)).await;
    plane.synced(&[id], third).await;
    let again = since.elapsed();
    let kib = program.as_ref().map_or(0, Program::kib).saturating_sub(before);
    eprintln!(
        "{id}: {CLUSTERS} clusters stored in {stored:?}, then served in {served:?}; one header changed in {again:?}; {kib} KiB more"
    );
    assert!(stored + served < Duration::from_secs(60));
    if let Some(proxy) = &inside {
        serves(proxy, third).await;
        assert_eq!(get(address(proxy, "web").await, "/").await.expect("an answer").body, "0 2");
        assert!(proxy.snapshot().cluster("app9999").is_some());
    }
    drop(inside);
    drop(program);
    plane.stop().await;
}
