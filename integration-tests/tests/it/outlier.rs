//! Outlier detection: endpoints that fail are left out for a while, and who is told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use integration_tests::config::{bootstrap, cluster, hcm, listener, to, with_admin};
use integration_tests::eventually::{eventually, found};
use integration_tests::proxy::{Running, start};
use integration_tests::upstream::{Origin, nowhere, reply, reply_with};
use serde_json::{Value, json};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// Answers 500 while it is told to be bad.
fn moody(name: &'static str) -> (Origin, Arc<AtomicBool>) {
    let bad = Arc::new(AtomicBool::new(true));
    let mood = Arc::clone(&bad);
    let origin = Origin::http(move |_| if mood.load(Ordering::SeqCst) { reply(500, "bad") } else { reply(200, name) });
    (origin, bad)
}

fn detecting(endpoints: &[SocketAddr], outlier: Value) -> Value {
    let mut cluster = cluster("origin", endpoints);
    cluster["outlier_detection"] = outlier;
    cluster
}

fn run(cluster: Value) -> Running {
    start(&with_admin(bootstrap(vec![listener("main", hcm(to("origin", json!({}))))], vec![cluster])))
}

fn stat(proxy: &Running, name: &str) -> u64 {
    proxy.stat(&format!("cluster.origin.outlier_detection.{name}"))
}

#[test]
fn an_endpoint_that_fails_is_left_out_and_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("events");
    let (sick, bad) = moody("well");
    let good = Origin::text("good");
    let outlier = json!({
        "consecutive_5xx": 3, "interval": "0.05s", "base_ejection_time": "0.3s", "max_ejection_percent": 50,
    });
    let clusters = vec![detecting(&[sick.address, good.address], outlier)];
    let mut bootstrap = with_admin(bootstrap(vec![listener("main", hcm(to("origin", json!({}))))], clusters));
    bootstrap["cluster_manager"] = json!({ "outlier_detection": { "event_log_path": log } });
    let proxy = start(&bootstrap);
    let mut client = proxy.connect();
    eventually("the sick endpoint is out", || {
        client.ask(GET);
        stat(&proxy, "ejections_active") == 1
    });
    bad.store(false, Ordering::SeqCst);
    assert_eq!(stat(&proxy, "ejections_enforced_consecutive_5xx"), 1);
    assert_eq!(stat(&proxy, "ejections_detected_consecutive_5xx"), 1);
    eventually("it is back", || client.ask(GET).text() == "well");
    eventually("the gauge is back", || stat(&proxy, "ejections_active") == 0);
    let events: Vec<Value> = found("both events", || {
        let text = std::fs::read_to_string(&log).ok().filter(|text| text.lines().count() >= 2)?;
        Some(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    });
    let url = sick.address.to_string();
    assert_eq!((&events[0]["action"], &events[0]["type"]), (&json!("EJECT"), &json!("CONSECUTIVE_5XX")));
    assert_eq!((&events[0]["cluster_name"], &events[0]["upstream_url"]), (&json!("origin"), &json!(url)));
    assert_eq!((&events[0]["enforced"], &events[0]["num_ejections"]), (&json!(true), &json!(1)));
    assert_eq!((&events[1]["action"], &events[1]["upstream_url"]), (&json!("UNEJECT"), &json!(url)));
}

#[test]
fn while_an_endpoint_is_out_nothing_goes_there() {
    let (sick, _bad) = moody("never");
    let good = Origin::text("good");
    let outlier = json!({ "consecutive_5xx": 2, "base_ejection_time": "600s", "max_ejection_time": "600s", "max_ejection_percent": 50 });
    let proxy = run(detecting(&[sick.address, good.address], outlier));
    let mut client = proxy.connect();
    eventually("the sick endpoint is out", || {
        client.ask(GET);
        stat(&proxy, "ejections_active") == 1
    });
    let before = sick.seen().len();
    for _ in 0..20 {
        assert_eq!(client.ask(GET).text(), "good");
    }
    assert_eq!(sick.seen().len(), before);
}

#[test]
fn the_default_percentage_leaves_no_endpoint_of_two_out_unless_one_always_may_be() {
    for (always, wanted) in [(false, 0), (true, 1)] {
        let (sick, _bad) = moody("never");
        let good = Origin::text("good");
        let outlier = json!({ "consecutive_5xx": 1, "always_eject_one_host": always });
        let proxy = run(detecting(&[sick.address, good.address], outlier));
        let mut client = proxy.connect();
        eventually("the failure is noticed", || {
            client.ask(GET);
            stat(&proxy, "ejections_detected_consecutive_5xx") > 0
        });
        eventually("it is counted", || {
            stat(&proxy, "ejections_active") == wanted && (always || stat(&proxy, "ejections_overflow") > 0)
        });
    }
}

#[test]
fn an_endpoint_that_cannot_be_reached_counts_by_itself_when_split() {
    let good = Origin::text("good");
    let outlier = json!({
        "split_external_local_origin_errors": true, "consecutive_local_origin_failure": 2,
        "base_ejection_time": "600s", "max_ejection_time": "600s", "max_ejection_percent": 50,
    });
    let proxy = run(detecting(&[nowhere(), good.address], outlier));
    let mut client = proxy.connect();
    eventually("it is out", || {
        client.ask(GET);
        stat(&proxy, "ejections_enforced_consecutive_local_origin_failure") == 1
    });
    for _ in 0..10 {
        assert_eq!(client.ask(GET).text(), "good");
    }
    assert_eq!(stat(&proxy, "ejections_detected_consecutive_5xx"), 0);
}

#[test]
fn tcp_connections_count_too() {
    let good = Origin::scripted(|_, wire, _| {
        wire.send("hello");
        wire.rest();
    });
    let outlier = json!({
        "consecutive_5xx": 2, "base_ejection_time": "600s", "max_ejection_time": "600s", "max_ejection_percent": 50,
    });
    let tcp = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "tcp", "cluster": "origin",
    });
    let cluster = detecting(&[nowhere(), good.address], outlier);
    let proxy = start(&with_admin(bootstrap(vec![listener("main", tcp)], vec![cluster])));
    eventually("it is out", || {
        proxy.connect().bytes(5);
        stat(&proxy, "ejections_enforced_consecutive_5xx") == 1
    });
    for _ in 0..10 {
        assert_eq!(proxy.connect().bytes(5), b"hello");
    }
}

#[test]
fn a_good_active_check_ends_an_ejection() {
    let sick = Origin::http(|request| if request.path() == "/health" { reply(200, "") } else { reply(500, "bad") });
    let outlier = json!({ "consecutive_5xx": 3, "base_ejection_time": "300s", "max_ejection_percent": 100 });
    let mut cluster = detecting(&[sick.address], outlier);
    cluster["health_checks"] = json!([{
        "timeout": "5s", "interval": "0.2s", "no_traffic_interval": "0.2s", "unhealthy_threshold": 1, "healthy_threshold": 1,
        "http_health_check": { "path": "/health" },
    }]);
    let proxy = run(cluster);
    let mut client = proxy.connect();
    eventually("it serves", || client.ask(GET).status() == 500);
    eventually("it is out", || {
        client.ask(GET);
        stat(&proxy, "ejections_enforced_consecutive_5xx") > 0
    });
    eventually("it is back long before its time", || stat(&proxy, "ejections_active") == 0);
}

#[test]
fn an_endpoint_that_calls_itself_degraded_takes_what_others_cannot() {
    let tired = Origin::http(|_| reply_with(404, &[("x-envoy-degraded", "true")], "tired"));
    let fresh: Vec<Origin> = (0..4).map(|_| Origin::text("fresh")).collect();
    let endpoints: Vec<SocketAddr> = [&tired].into_iter().chain(&fresh).map(|origin| origin.address).collect();
    let outlier = json!({ "detect_degraded_hosts": true, "interval": "3600s", "base_ejection_time": "3600s" });
    let proxy = run(detecting(&endpoints, outlier));
    let mut client = proxy.connect();
    eventually("it is degraded", || {
        client.ask(GET);
        proxy.stat("cluster.origin.membership_degraded") == 1
    });
    let before = tired.seen().len();
    for _ in 0..20 {
        assert_eq!(client.ask(GET).text(), "fresh");
    }
    assert_eq!(tired.seen().len(), before);
    assert_eq!(stat(&proxy, "ejections_detected_degradation"), 1);
    assert_eq!((stat(&proxy, "ejections_active"), proxy.stat("cluster.origin.membership_healthy")), (0, 4));
}
