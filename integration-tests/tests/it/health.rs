//! Active health checks: endpoints that go bad and come back, by every kind of check, and what becomes of traffic.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use dp_upstream::{Cluster, Endpoint};
use integration_tests::client;
use integration_tests::config::{assignment, bootstrap, cluster, hcm, listener, merge, to};
use integration_tests::eventually::eventually;
use integration_tests::proxy::{Running, start, try_start};
use integration_tests::upstream::{Origin, nowhere, reply, reply_with};
use integration_tests::wire::Wire;
use serde_json::{Value, json};
use tempfile::TempDir;

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// A health check of this kind, often enough for a test, with thresholds of one.
fn check(kind: &str, config: Value) -> Value {
    json!([{
        "timeout": "10s", "interval": "0.03s", "no_traffic_interval": "0.03s",
        "unhealthy_threshold": 1, "healthy_threshold": 1,
        kind: config,
    }])
}

fn http(config: Value) -> Value {
    let mut http = json!({ "path": "/health" });
    merge(&mut http, config);
    check("http_health_check", http)
}

/// A proxy in front of a cluster with this health check and further fields.
fn proxy(endpoints: &[std::net::SocketAddr], checks: Value, more: Value) -> Running {
    let mut cluster = cluster("origin", endpoints);
    merge(&mut cluster, json!({ "health_checks": checks }));
    merge(&mut cluster, more);
    start(&bootstrap(vec![listener("main", hcm(to("origin", json!({}))))], vec![cluster]))
}

/// Panic off: what is unhealthy gets nothing.
fn strict() -> Value {
    json!({ "common_lb_config": { "healthy_panic_threshold": { "value": 0 } } })
}

/// An origin that says its name, and at `/health` what it is told to.
struct Sick {
    origin: Origin,
    status: Arc<AtomicU16>,
}

impl Sick {
    fn new(name: &'static str, status: u16) -> Self {
        let status = Arc::new(AtomicU16::new(status));
        let told = Arc::clone(&status);
        let origin = Origin::http(move |request| match request.path() {
            "/health" => match told.load(SeqCst) {
                299 => reply_with(200, &[("x-envoy-degraded", "true")], "fine"),
                status => reply(status, "fine"),
            },
            _ => reply(200, name),
        });
        Self { origin, status }
    }

    fn becomes(&self, status: u16) {
        self.status.store(status, SeqCst);
    }
}

fn origin_cluster(proxy: &Running) -> Arc<Cluster> {
    Arc::clone(proxy.proxy.snapshot().cluster("origin").unwrap())
}

fn endpoint(proxy: &Running, index: usize) -> Arc<Endpoint> {
    Arc::clone(origin_cluster(proxy).endpoints().nth(index).unwrap())
}

fn healthy(proxy: &Running) -> u64 {
    origin_cluster(proxy).state.stats.membership_healthy().value()
}

fn wait_healthy(proxy: &Running, count: u64) {
    eventually(&format!("{count} healthy endpoints"), || healthy(proxy) == count);
}

fn flags(proxy: &Running, index: usize) -> Vec<&'static str> {
    endpoint(proxy, index).health_flags(false)
}

/// The answers to twenty requests, sorted, each once.
fn answers(proxy: &Running) -> Vec<String> {
    let mut client = proxy.connect();
    let mut texts: Vec<String> = (0..20).map(|_| client.ask(GET).text()).collect();
    texts.sort();
    texts.dedup();
    texts
}

#[test]
fn an_endpoint_whose_check_fails_gets_no_traffic_until_it_passes_again() {
    let (a, b) = (Sick::new("a", 200), Sick::new("b", 200));
    let config = json!({
        "request_headers_to_add": [{ "header": { "key": "x-check", "value": "yes" } }],
        "request_headers_to_remove": ["user-agent"],
    });
    let proxy = proxy(&[a.origin.address, b.origin.address], http(config), strict());
    wait_healthy(&proxy, 2);
    assert_eq!(answers(&proxy), ["a", "b"]);
    b.becomes(503);
    wait_healthy(&proxy, 1);
    assert_eq!(answers(&proxy), ["a"]);
    assert_eq!(flags(&proxy, 1), ["failed_active_hc"]);
    b.becomes(200);
    wait_healthy(&proxy, 2);
    assert_eq!(answers(&proxy), ["a", "b"]);
    let asked = a.origin.seen().into_iter().find(|request| request.path() == "/health").unwrap();
    assert_eq!((asked.method(), asked.header("host"), asked.header("x-check")), ("GET", Some("origin"), Some("yes")));
    assert_eq!(asked.header("user-agent"), None);
    let cluster = origin_cluster(&proxy);
    let stats = cluster.health_stats().unwrap();
    assert_eq!(stats.healthy().value(), 2);
    assert!(stats.success().value() > 2 && stats.failure().value() >= 1 && stats.network_failure().value() == 0);
    assert_eq!(a.origin.connections(), 2, "one of the check, which is kept, and one of the traffic");
}

#[test]
fn nothing_listens_where_the_endpoint_was() {
    let a = Origin::text("a");
    let address = nowhere();
    let proxy = proxy(&[a.address, address], check("tcp_health_check", json!({})), strict());
    wait_healthy(&proxy, 1);
    assert_eq!(answers(&proxy), ["a"]);
    let back = TcpListener::bind(address).unwrap();
    wait_healthy(&proxy, 2);
    drop(back);
    wait_healthy(&proxy, 1);
    assert!(origin_cluster(&proxy).health_stats().unwrap().network_failure().value() >= 2);
}

#[test]
fn a_tcp_check_waits_for_what_it_expects() {
    let says_pong = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&says_pong);
    let origin = Origin::scripted(move |_, wire, _| {
        while wire.bytes(4) == b"PING" {
            wire.send(if told.load(SeqCst) { "+ PO..NG" } else { "- NO" });
        }
    });
    let config = json!({ "send": { "text": "50494e47" }, "receive": [{ "text": "504f" }, { "text": "4e47" }] });
    let mut checks = check("tcp_health_check", config);
    checks[0]["timeout"] = "0.5s".into();
    let proxy = proxy(&[origin.address], checks, json!({}));
    wait_healthy(&proxy, 1);
    says_pong.store(false, SeqCst);
    wait_healthy(&proxy, 0);
    eventually("the flag of a timeout", || flags(&proxy, 0).contains(&"active_hc_timeout"));
    says_pong.store(true, SeqCst);
    wait_healthy(&proxy, 1);
    assert_eq!(flags(&proxy, 0), [""; 0]);
}

#[test]
fn a_tcp_check_can_begin_with_a_proxy_header() {
    let seen = Arc::new(Mutex::new(String::new()));
    let heard = Arc::clone(&seen);
    let origin = Origin::scripted(move |_, wire, _| {
        let header = wire.line().unwrap_or_default();
        if wire.bytes(4) == b"PING" {
            *heard.lock().unwrap() = header;
            wire.send("PONG");
        }
        wire.rest();
    });
    let config = json!({
        "proxy_protocol_config": { "version": "V1" },
        "send": { "text": "50494e47" }, "receive": [{ "text": "504f4e47" }],
    });
    let proxy = proxy(&[origin.address], check("tcp_health_check", config), json!({}));
    wait_healthy(&proxy, 1);
    let header = seen.lock().unwrap().clone();
    let end = format!(" {}", origin.address.port());
    assert!(header.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 ") && header.ends_with(&end), "{header}");
}

#[test]
fn an_endpoint_that_stalls_times_out() {
    let stalls = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stalls);
    let origin = Origin::scripted(move |_, wire, _| {
        while wire.try_message().is_some() {
            if told.load(SeqCst) {
                // Holds the connection until the other side gives up.
                wire.rest();
                return;
            }
            wire.send(reply(200, "a"));
        }
    });
    let mut checks = http(json!({}));
    checks[0]["timeout"] = "0.5s".into();
    let proxy = proxy(&[origin.address], checks, json!({}));
    wait_healthy(&proxy, 1);
    stalls.store(true, SeqCst);
    wait_healthy(&proxy, 0);
    assert_eq!(flags(&proxy, 0), ["failed_active_hc", "active_hc_timeout"]);
    stalls.store(false, SeqCst);
    wait_healthy(&proxy, 1);
}

#[test]
fn when_too_many_fail_health_is_disregarded_until_enough_are_back() {
    let (a, b) = (Sick::new("a", 200), Sick::new("b", 200));
    let proxy = proxy(&[a.origin.address, b.origin.address], http(json!({})), json!({}));
    wait_healthy(&proxy, 2);
    a.becomes(500);
    b.becomes(500);
    wait_healthy(&proxy, 0);
    let panics = || origin_cluster(&proxy).state.stats.lb_healthy_panic().value();
    assert_eq!((answers(&proxy), panics()), (vec!["a".to_owned(), "b".to_owned()], 20));
    a.becomes(200);
    wait_healthy(&proxy, 1);
    assert_eq!((answers(&proxy), panics()), (vec!["a".to_owned()], 20), "half of them is not too few");
}

#[test]
fn without_panic_a_cluster_whose_endpoints_all_fail_says_so() {
    let a = Sick::new("a", 500);
    let proxy = proxy(&[a.origin.address], http(json!({})), strict());
    eventually("the first check", || origin_cluster(&proxy).health_stats().unwrap().failure().value() > 0);
    let answer = proxy.connect().ask(GET);
    assert_eq!((answer.status(), answer.text().as_str()), (503, "no healthy upstream"));
}

#[test]
fn a_degraded_endpoint_serves_only_when_the_others_do_not() {
    let (a, b) = (Sick::new("a", 200), Sick::new("b", 299));
    let proxy = proxy(
        &[a.origin.address, b.origin.address],
        http(json!({})),
        json!({
            "load_assignment": { "policy": { "overprovisioning_factor": 200 }, "cluster_name": "origin",
                "endpoints": assignment("origin", &[a.origin.address, b.origin.address])["endpoints"] },
        }),
    );
    eventually("one is degraded", || {
        let cluster = origin_cluster(&proxy);
        cluster.state.stats.membership_degraded().value() == 1 && cluster.state.stats.membership_healthy().value() == 1
    });
    assert_eq!(flags(&proxy, 1), ["degraded_active_hc"]);
    assert_eq!(answers(&proxy), ["a"]);
    a.becomes(503);
    wait_healthy(&proxy, 0);
    assert_eq!(answers(&proxy), ["b"]);
}

#[test]
fn statuses_bodies_and_the_name_of_the_cluster_are_looked_at() {
    let origin = |status: u16, body: &'static str| {
        Origin::http(move |_| reply_with(status, &[("x-envoy-upstream-healthchecked-cluster", "one")], body))
    };
    let verdict = |status, body, config: Value| {
        let origin = origin(status, body);
        let proxy = proxy(&[origin.address], http(config), json!({}));
        let cluster = origin_cluster(&proxy);
        let stats = cluster.health_stats().unwrap();
        eventually("a check", || stats.success().value() + stats.failure().value() > 0);
        stats.success().value() > 0
    };
    let range = json!([{ "start": 400, "end": 405 }]);
    assert!(verdict(404, "", json!({ "expected_statuses": range })));
    assert!(!verdict(405, "", json!({ "expected_statuses": range })));
    assert!(!verdict(200, "", json!({ "expected_statuses": range })));
    let receive = json!([{ "text": "6f6b" }]);
    assert!(verdict(200, "all ok", json!({ "receive": receive })));
    assert!(!verdict(200, "nothing", json!({ "receive": receive })));
    assert!(!verdict(200, "too far: ok", json!({ "receive": receive, "response_buffer_size": 9 })));
    assert!(verdict(200, "", json!({ "service_name_matcher": { "prefix": "o" } })));
    assert!(!verdict(200, "", json!({ "service_name_matcher": { "exact": "two" } })));
}

#[test]
fn a_retriable_status_counts_towards_the_threshold() {
    let (a, b) = (Sick::new("a", 200), Sick::new("b", 200));
    let mut checks = http(json!({ "retriable_statuses": [{ "start": 503, "end": 504 }] }));
    checks[0]["unhealthy_threshold"] = 1_000_000.into();
    let proxy = proxy(&[a.origin.address, b.origin.address], checks, json!({}));
    wait_healthy(&proxy, 2);
    a.becomes(503);
    b.becomes(500);
    wait_healthy(&proxy, 1);
    let cluster = origin_cluster(&proxy);
    let failures = cluster.health_stats().unwrap().failure().value();
    eventually("more failures", || cluster.health_stats().unwrap().failure().value() > failures + 4);
    assert_eq!(flags(&proxy, 0), [""; 0]);
    assert_eq!(flags(&proxy, 1), ["failed_active_hc"]);
}

#[test]
fn a_check_may_go_elsewhere() {
    let traffic = Origin::text("traffic");
    let checked = Sick::new("checked", 200);
    let mut endpoints = assignment("origin", &[traffic.address, traffic.address]);
    let list = &mut endpoints["endpoints"][0]["lb_endpoints"];
    list[0]["endpoint"]["health_check_config"] =
        json!({ "port_value": checked.origin.address.port(), "hostname": "own" });
    list[1]["endpoint"]["hostname"] = "second".into();
    list[1]["endpoint"]["health_check_config"] = json!({ "disable_active_health_check": true });
    let proxy = proxy(&[], http(json!({ "host": "configured" })), json!({ "load_assignment": endpoints }));
    wait_healthy(&proxy, 2);
    checked.becomes(503);
    wait_healthy(&proxy, 1);
    assert_eq!(checked.origin.last().header("host"), Some("own"));
    assert!(traffic.seen().is_empty());
}

#[test]
fn an_answer_to_traffic_can_take_its_endpoint_out_at_once() {
    let fails = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&fails);
    let origin = Origin::http(move |request| match (request.path(), told.load(SeqCst)) {
        ("/health", true) => reply(503, ""),
        ("/health", false) => reply(200, ""),
        _ => reply_with(200, &[("x-envoy-immediate-health-check-fail", "true")], "bye"),
    });
    fails.store(false, SeqCst);
    let mut checks = http(json!({}));
    // Only the first check is made within this test.
    merge(&mut checks[0], json!({ "interval": "1000s", "no_traffic_interval": "1000s" }));
    let proxy = proxy(&[origin.address], checks, strict());
    wait_healthy(&proxy, 1);
    assert_eq!(proxy.connect().ask(GET).text(), "bye");
    eventually("no more traffic", || proxy.connect().ask(GET).status() == 503);
    wait_healthy(&proxy, 0);
    eventually("the checker heard", || flags(&proxy, 0) == ["failed_active_hc", "excluded_via_immediate_hc_fail"]);
    eventually("it is counted", || origin_cluster(&proxy).state.stats.membership_excluded().value() == 1);
    assert!(origin_cluster(&proxy).health_stats().unwrap().passive_failure().value() >= 1);
}

#[test]
fn events_are_written_as_envoy_writes_them() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("events");
    let a = Sick::new("a", 200);
    let mut checks = http(json!({}));
    checks[0]["event_log_path"] = log.to_str().unwrap().into();
    let proxy = proxy(&[a.origin.address], checks.clone(), json!({}));
    wait_healthy(&proxy, 1);
    a.becomes(503);
    wait_healthy(&proxy, 0);
    let lines = || -> Vec<Value> {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    eventually("two events", || lines().len() == 2);
    let lines = lines();
    assert_eq!(lines[0]["add_healthy_event"], json!({ "first_check": true }));
    assert_eq!(lines[1]["eject_unhealthy_event"], json!({ "failure_type": "ACTIVE" }));
    for line in lines {
        assert_eq!((&line["health_checker_type"], &line["cluster_name"]), (&json!("HTTP"), &json!("origin")));
        assert_eq!(line["host"]["socket_address"]["port_value"], json!(a.origin.address.port()));
    }
    checks[0]["event_log_path"] = "/nonexistent/events".into();
    let mut cluster = cluster("origin", &[a.origin.address]);
    cluster["health_checks"] = checks;
    let refused = try_start(&bootstrap(vec![], vec![cluster]), 1).err().unwrap();
    assert!(refused.contains("event log: /nonexistent/events"), "{refused}");
}

#[test]
fn connections_to_an_endpoint_that_fails_are_closed_if_the_cluster_says_so() {
    let a = Sick::new("a", 200);
    let echo = Origin::scripted(|_, wire, _| {
        while let Some(&byte) = wire.bytes(1).first() {
            wire.send([byte]);
        }
    });
    let mut endpoints = assignment("origin", &[echo.address]);
    endpoints["endpoints"][0]["lb_endpoints"][0]["endpoint"]["health_check_config"] =
        json!({ "port_value": a.origin.address.port() });
    let mut cluster = cluster("origin", &[]);
    merge(
        &mut cluster,
        json!({
            "load_assignment": endpoints,
            "health_checks": http(json!({})),
            "close_connections_on_host_health_failure": true,
        }),
    );
    let tcp = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "tcp", "cluster": "origin",
    });
    let proxy = start(&bootstrap(vec![listener("main", tcp)], vec![cluster]));
    wait_healthy(&proxy, 1);
    let mut client = proxy.connect();
    assert_eq!(client.send("x").bytes(1), b"x");
    a.becomes(503);
    assert_eq!(client.rest(), b"", "the proxy closed it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_endpoints_must_be_serving() {
    let status = Arc::new(AtomicU16::new(1));
    let told = Arc::clone(&status);
    let origin = client::origin(None, move |request, mut respond| {
        let status = told.load(SeqCst);
        async move {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            assert_eq!(request.uri().authority().unwrap().as_str(), "the.service");
            let (body, _) = client::drain(&mut request.into_body()).await.unwrap();
            assert_eq!(body, [0, 0, 0, 0, 3, 0x0a, 1, b's']);
            let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            let mut down = respond.send_response(head, false).unwrap();
            down.send_data(Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status as u8]), false).unwrap();
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            down.send_trailers(trailers).unwrap();
        }
    })
    .await;
    let config = json!({ "service_name": "s", "authority": "the.service" });
    let proxy = proxy(&[origin], check("grpc_health_check", config), json!({}));
    tokio::task::block_in_place(|| {
        wait_healthy(&proxy, 1);
        status.store(2, SeqCst);
        wait_healthy(&proxy, 0);
        status.store(1, SeqCst);
        wait_healthy(&proxy, 1);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_may_speak_http2() {
    let status = Arc::new(AtomicU16::new(200));
    let told = Arc::clone(&status);
    let origin = client::origin(None, move |_, mut respond| {
        client::answer(&mut respond, told.load(SeqCst), "");
        async {}
    })
    .await;
    let proxy = proxy(&[origin], http(json!({ "codec_client_type": "HTTP2" })), json!({}));
    tokio::task::block_in_place(|| {
        wait_healthy(&proxy, 1);
        status.store(503, SeqCst);
        wait_healthy(&proxy, 0);
        status.store(200, SeqCst);
        wait_healthy(&proxy, 1);
    });
}

/// A file that is replaced in one step.
struct File {
    directory: TempDir,
}

impl File {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("resources")
    }

    fn put(&self, kind: &str, mut resource: Value) {
        merge(&mut resource, json!({ "@type": format!("type.googleapis.com/envoy.config.{kind}") }));
        let new = self.directory.path().join("new");
        std::fs::write(&new, json!({ "resources": [resource] }).to_string()).unwrap();
        std::fs::rename(new, self.path()).unwrap();
    }
}

#[test]
fn an_endpoint_that_discovery_lost_stays_while_its_checks_pass() {
    let (a, b) = (Sick::new("a", 200), Sick::new("b", 200));
    let file = File::new();
    let put = |endpoints: &[std::net::SocketAddr]| {
        file.put("endpoint.v3.ClusterLoadAssignment", assignment("origin", endpoints));
    };
    put(&[a.origin.address, b.origin.address]);
    let eds = json!({
        "name": "origin", "type": "EDS", "health_checks": http(json!({})),
        "eds_cluster_config": { "eds_config": { "path_config_source": { "path": file.path() } } },
    });
    let proxy = start(&bootstrap(vec![listener("main", hcm(to("origin", json!({}))))], vec![eds]));
    eventually("the cluster", || proxy.proxy.snapshot().cluster("origin").is_some());
    wait_healthy(&proxy, 2);
    put(&[a.origin.address]);
    eventually("it leaves", || flags(&proxy, 1) == ["pending_dynamic_removal"]);
    assert_eq!(answers(&proxy), ["a", "b"], "it still serves");
    put(&[a.origin.address, b.origin.address]);
    eventually("it is back", || flags(&proxy, 1).is_empty());
    put(&[a.origin.address]);
    eventually("it leaves", || flags(&proxy, 1) == ["pending_dynamic_removal"]);
    b.becomes(503);
    eventually("it is gone", || origin_cluster(&proxy).endpoints().count() == 1);
    assert_eq!(answers(&proxy), ["a"]);
}

/// A proxy whose one cluster comes from a file.
fn cds(file: &File) -> Running {
    let mut hcm = hcm(to("origin", json!({})));
    hcm["route_config"]["validate_clusters"] = false.into();
    start(&json!({
        "node": { "id": "it", "cluster": "it" },
        "static_resources": { "listeners": [listener("main", hcm)] },
        "dynamic_resources": { "cds_config": { "path_config_source": { "path": file.path() } } },
    }))
}

fn checked_cluster(endpoints: &[std::net::SocketAddr], more: Value) -> Value {
    let mut cluster = cluster("origin", endpoints);
    merge(&mut cluster, json!({ "health_checks": http(json!({})) }));
    merge(&mut cluster, more);
    cluster
}

#[test]
fn health_is_kept_when_the_cluster_changes() {
    let (a, b) = (Sick::new("a", 200), Sick::new("b", 503));
    let endpoints = [a.origin.address, b.origin.address];
    let file = File::new();
    file.put("cluster.v3.Cluster", checked_cluster(&endpoints, strict()));
    let proxy = cds(&file);
    eventually("the cluster", || proxy.proxy.snapshot().cluster("origin").is_some());
    wait_healthy(&proxy, 1);
    let mut changed = strict();
    merge(&mut changed, json!({ "connect_timeout": "3s" }));
    let before = proxy.proxy.snapshot().generation;
    file.put("cluster.v3.Cluster", checked_cluster(&endpoints, changed));
    eventually("the change", || proxy.proxy.snapshot().generation > before);
    assert_eq!(healthy(&proxy), 1, "no endpoint is unchecked again");
    assert_eq!(answers(&proxy), ["a"]);
    b.becomes(200);
    wait_healthy(&proxy, 2);
    // Nobody checks any more: what was found is forgotten.
    b.becomes(503);
    wait_healthy(&proxy, 1);
    file.put("cluster.v3.Cluster", cluster("origin", &endpoints));
    wait_healthy(&proxy, 2);
}

#[test]
fn a_changed_cluster_takes_over_when_its_endpoints_were_checked() {
    let a = Origin::text("a");
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = Mutex::new(held);
    let b = Origin::scripted(move |_, wire: &mut Wire, origin| {
        while let Some(request) = wire.try_message() {
            let is_check = request.path() == "/health";
            origin.note(request);
            if is_check {
                // Answers no check before it is let.
                let _ = held.lock().unwrap().recv();
            }
            wire.send(reply(200, "b"));
        }
    });
    let file = File::new();
    file.put("cluster.v3.Cluster", checked_cluster(&[a.address], json!({})));
    let proxy = cds(&file);
    eventually("the cluster", || proxy.proxy.snapshot().cluster("origin").is_some());
    wait_healthy(&proxy, 1);
    file.put("cluster.v3.Cluster", checked_cluster(&[b.address], json!({})));
    eventually("the new endpoint is checked", || !b.seen().is_empty());
    assert_eq!(answers(&proxy), ["a"], "the old version serves while the new one is not warm");
    drop(release);
    eventually("the new version", || proxy.connect().ask(GET).text() == "b");
}
