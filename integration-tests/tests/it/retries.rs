//! What happens when an origin fails: retries, timeouts, breakers, and what the client is told.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use integration_tests::config::{
    access_log, bootstrap, cluster, extension, hcm, listener, merge, simple, socket, to, with_admin,
};
use integration_tests::eventually::{eventually, found};
use integration_tests::proxy::{Running, start};
use integration_tests::upstream::{Origin, nowhere, reply, reply_with};
use integration_tests::wire::Wire;
use serde_json::{Value, json};
use tempfile::TempDir;

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody";
const RESET: &str = "upstream connect error or disconnect/reset before headers. reset reason: ";

/// A proxy whose access log has the flags and details of each request.
struct Lab {
    proxy: Running,
    directory: TempDir,
}

fn lab(origin: std::net::SocketAddr, action: Value) -> Lab {
    lab_with(vec![cluster("origin", &[origin])], action)
}

fn lab_with(clusters: Vec<Value>, action: Value) -> Lab {
    let directory = tempfile::tempdir().unwrap();
    let mut hcm = hcm(to("origin", action));
    let format = "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %UPSTREAM_REQUEST_ATTEMPT_COUNT%";
    merge(&mut hcm, json!({ "access_log": access_log(&directory.path().join("log"), format) }));
    Lab { proxy: start(&bootstrap(vec![listener("main", hcm)], clusters)), directory }
}

impl Lab {
    /// The line of the request with this number, from 0.
    #[track_caller]
    fn line(&self, number: usize) -> String {
        found("a line of the access log", || {
            let text = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            text.lines().nth(number).map(str::to_owned)
        })
    }
}

/// Fails the first `bad` requests with 503, then answers with the body it got.
fn flaky(bad: usize) -> Origin {
    let count = AtomicUsize::new(0);
    Origin::http(move |request| match count.fetch_add(1, Ordering::SeqCst) {
        n if n < bad => reply(503, "bad"),
        _ => reply(200, &request.text()),
    })
}

/// Serves one request a connection; on the second one it closes without an answer.
fn closes_when_reused() -> Origin {
    Origin::scripted(|_, wire, origin| {
        origin.note(wire.message());
        wire.send(reply(200, "first"));
        if let Some(again) = wire.try_message() {
            origin.note(again);
        }
    })
}

#[test]
fn a_get_on_a_reused_connection_that_closed_is_sent_again() {
    let origin = closes_when_reused();
    let lab = lab(origin.address, json!({}));
    let mut client = lab.proxy.connect();
    for _ in 0..5 {
        assert_eq!(client.ask(GET).text(), "first");
    }
}

#[test]
fn a_post_on_a_reused_connection_that_closed_is_never_sent_twice() {
    let origin = closes_when_reused();
    let lab = lab(origin.address, json!({}));
    let mut client = lab.proxy.connect();
    assert_eq!(client.ask(POST).text(), "first");
    let answer = client.ask(POST);
    assert_eq!((answer.status(), answer.text()), (503, format!("{RESET}connection termination")));
    assert_eq!(origin.seen().len(), 2, "the origin may have acted on the second one");
    assert_eq!(lab.line(1), "503 UC upstream_reset_before_response_started{connection_termination} 1");
}

#[test]
fn connections_that_the_origin_closed_while_idle_are_not_used() {
    let (tell, closed) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let origin = Origin::scripted(move |_, wire, origin| {
        origin.note(wire.message());
        wire.send(reply(200, "once"));
        wire.socket().shutdown(std::net::Shutdown::Both).unwrap();
        tell.lock().unwrap().send(()).unwrap();
    });
    let lab = lab(origin.address, json!({}));
    let mut client = lab.proxy.connect();
    for _ in 0..10 {
        let answer = client.ask(POST);
        assert_eq!((answer.status(), answer.text()), (200, "once".into()));
        closed.recv().unwrap();
    }
    assert_eq!(origin.seen().len(), 10);
}

#[test]
fn a_server_error_is_tried_again_with_the_body() {
    let origin = flaky(2);
    let policy = json!({ "retry_on": "5xx", "num_retries": 3, "retry_back_off": { "base_interval": "0.001s" } });
    let lab = lab(origin.address, json!({ "retry_policy": policy }));
    let answer = lab.proxy.connect().ask(POST);
    assert_eq!((answer.status(), answer.text()), (200, "body".into()));
    let bodies: Vec<String> = origin.seen().iter().map(|request| request.text()).collect();
    assert_eq!(bodies, ["body", "body", "body"]);
    assert_eq!(lab.line(0), "200 - via_upstream 3");
}

#[test]
fn retries_that_are_used_up_are_flagged_and_the_last_answer_is_passed_on() {
    let origin = flaky(9);
    let policy = json!({ "retry_on": "5xx", "num_retries": 2, "retry_back_off": { "base_interval": "0.001s" } });
    let lab = lab(origin.address, json!({ "retry_policy": policy }));
    let answer = lab.proxy.connect().ask(GET);
    assert_eq!((answer.status(), answer.text()), (503, "bad".into()));
    assert_eq!(origin.seen().len(), 3);
    assert_eq!(lab.line(0), "503 URX via_upstream 3");
}

#[test]
fn without_a_policy_nothing_is_tried_again() {
    let origin = flaky(1);
    let lab = lab(origin.address, json!({}));
    assert_eq!(lab.proxy.connect().ask(GET).status(), 503);
    assert_eq!(origin.seen().len(), 1);
    assert_eq!(lab.line(0), "503 - via_upstream 1");
}

#[test]
fn a_connection_cut_before_the_answer_is_a_reset_that_may_be_tried_again() {
    let origin = Origin::scripted(|number, wire, origin| {
        origin.note(wire.message());
        if number > 0 {
            wire.send(reply(200, "second"));
            wire.rest();
        }
    });
    let policy = json!({ "retry_on": "reset", "retry_back_off": { "base_interval": "0.001s" } });
    let lab = lab(origin.address, json!({ "retry_policy": policy }));
    assert_eq!(lab.proxy.connect().ask(POST).text(), "second");
    assert_eq!(lab.line(0), "200 - via_upstream 2");
}

#[test]
fn a_try_that_takes_too_long_is_given_up_for_another() {
    let origin = Origin::scripted(|number, wire, origin| {
        origin.note(wire.message());
        if number > 0 {
            wire.send(reply(200, "second"));
        }
        wire.rest();
    });
    let policy = json!({
        "retry_on": "5xx", "per_try_timeout": "0.1s", "retry_back_off": { "base_interval": "0.001s" },
    });
    let lab = lab(origin.address, json!({ "retry_policy": policy }));
    assert_eq!(lab.proxy.connect().ask(GET).text(), "second");
}

/// Takes requests and never answers.
fn silent() -> Origin {
    Origin::scripted(|_, wire, origin| {
        origin.note(wire.message());
        wire.rest();
    })
}

#[test]
fn a_route_timeout_is_a_504() {
    let origin = silent();
    let lab = lab(origin.address, json!({ "timeout": "0.1s" }));
    let mut client = lab.proxy.connect();
    let answer = client.ask(GET);
    assert_eq!((answer.status(), answer.text()), (504, "upstream request timeout".into()));
    assert_eq!(client.ask(GET).status(), 504, "the connection of the client stays");
    assert_eq!(lab.line(0), "504 UT response_timeout 1");
    eventually("a connection each: a request that was given up leaves none", || origin.connections() == 2);
}

#[test]
fn a_route_timeout_after_the_head_breaks_the_response_off() {
    let origin = Origin::scripted(|_, wire, _| {
        wire.message();
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello");
        wire.rest();
    });
    let lab = lab(origin.address, json!({ "timeout": "0.1s" }));
    let mut client = lab.proxy.connect();
    let answer = client.ask(GET);
    assert_eq!((answer.status(), answer.text(), answer.complete), (200, "hello".into(), false));
    assert_eq!(lab.line(0), "200 UT response_timeout 1");
}

#[test]
fn an_origin_that_breaks_off_is_flagged() {
    let origin = Origin::scripted(|_, wire, _| {
        wire.message();
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello");
    });
    let lab = lab(origin.address, json!({}));
    assert!(!lab.proxy.connect().ask(GET).complete);
    let line = lab.line(0);
    assert!(line.starts_with("200 UC upstream_reset_after_response_started{connection_termination}"), "{line}");
}

#[test]
fn a_client_that_leaves_is_flagged() {
    let origin = silent();
    let lab = lab(origin.address, json!({}));
    let mut client = lab.proxy.connect();
    client.send(GET);
    eventually("the origin has the request", || !origin.seen().is_empty());
    drop(client);
    assert_eq!(lab.line(0), "0 DC downstream_remote_disconnect 1");
}

#[test]
fn nobody_at_the_address_is_a_503_with_the_reason() {
    let lab = lab(nowhere(), json!({}));
    let answer = lab.proxy.connect().ask(GET);
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.text(), format!("{RESET}remote connection failure"));
    assert!(lab.line(0).starts_with("503 UF upstream_reset_before_response_started{remote_connection_failure|"));
}

#[test]
fn a_connect_failure_is_tried_at_another_endpoint() {
    let origin = Origin::text("alive");
    let policy =
        json!({ "retry_on": "connect-failure", "num_retries": 5, "retry_back_off": { "base_interval": "0.001s" } });
    let clusters = vec![cluster("origin", &[nowhere(), origin.address])];
    let lab = lab_with(clusters, json!({ "retry_policy": policy }));
    let mut client = lab.proxy.connect();
    for _ in 0..6 {
        assert_eq!(client.ask(POST).text(), "alive");
    }
}

#[test]
fn a_cluster_without_endpoints_has_no_healthy_upstream() {
    let lab = lab_with(vec![cluster("origin", &[])], json!({}));
    let answer = lab.proxy.connect().ask(GET);
    assert_eq!((answer.status(), answer.text()), (503, "no healthy upstream".into()));
    assert_eq!(lab.line(0), "503 UH no_healthy_upstream 1");
}

#[test]
fn a_full_circuit_breaker_answers_503() {
    let origin = silent();
    let mut cluster = cluster("origin", &[origin.address]);
    cluster["circuit_breakers"] = json!({ "thresholds": [{ "max_requests": 1 }] });
    let lab = lab_with(vec![cluster], json!({}));
    let mut first = lab.proxy.connect();
    first.send(GET);
    eventually("the origin has the request", || !origin.seen().is_empty());
    let answer = lab.proxy.connect().ask(GET);
    assert_eq!((answer.status(), answer.text()), (503, format!("{RESET}overflow")));
    assert_eq!(answer.header("x-envoy-overloaded"), Some("true"));
    assert!(lab.line(0).starts_with("503 UO upstream_reset_before_response_started{overflow}"), "{}", lab.line(0));
}

#[test]
fn requests_beyond_the_connections_wait_and_then_overflow() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::scripted(move |_, wire, origin| {
        while let Some(request) = wire.try_message() {
            origin.note(request);
            let _ = wait.lock().unwrap().recv();
            wire.send(reply(200, "done"));
        }
    });
    let mut cluster = cluster("origin", &[origin.address]);
    cluster["circuit_breakers"] = json!({ "thresholds": [{ "max_connections": 1, "max_pending_requests": 1 }] });
    let lab = lab_with(vec![cluster], json!({}));
    let mut clients: Vec<_> = (0..3).map(|_| lab.proxy.connect()).collect();
    clients[0].send(GET);
    eventually("the origin has the request", || !origin.seen().is_empty());
    clients[1].send(GET);
    clients[2].send(GET);
    // One of the two waits, the other one overflows.
    assert!(lab.line(0).starts_with("503 UO"), "{}", lab.line(0));
    go.send(()).unwrap();
    go.send(()).unwrap();
    let mut statuses: Vec<u16> = clients.iter_mut().map(|client| client.message().status()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 503]);
    assert_eq!(origin.connections(), 1);
}

#[test]
fn the_time_of_a_try_begins_after_the_wait_for_it() {
    let (count, both) = (AtomicUsize::new(0), Barrier::new(2));
    let origin = Origin::http(move |request| match request.path() {
        "/both" => {
            both.wait();
            reply(200, "")
        }
        _ if count.fetch_add(1, Ordering::SeqCst) == 0 => reply_with(503, &[("retry-after", "2")], ""),
        _ => {
            std::thread::sleep(Duration::from_millis(50));
            reply(200, "")
        }
    });
    let policy = json!({
        "retry_on": "5xx", "per_try_timeout": "1.8s",
        "rate_limited_retry_back_off": { "reset_headers": [{ "name": "retry-after", "format": "SECONDS" }] },
    });
    let lab = lab(origin.address, json!({ "retry_policy": policy }));
    // Two connections, so that both tries find one that is there.
    let mut clients = [lab.proxy.connect(), lab.proxy.connect()];
    for client in &mut clients {
        client.send("GET /both HTTP/1.1\r\nhost: a\r\n\r\n");
    }
    for client in &mut clients {
        assert_eq!(client.message().status(), 200);
    }
    assert_eq!(clients[0].ask(GET).status(), 200);
    assert_eq!((lab.line(2), origin.connections()), ("200 - via_upstream 2".to_owned(), 2));
}

#[test]
fn a_mirror_gets_a_copy_and_its_answer_is_dropped() {
    let (origin, mirror) = (Origin::http(|request| reply(200, &request.text())), Origin::text("ignored"));
    let clusters = vec![cluster("origin", &[origin.address]), cluster("mirror", &[mirror.address])];
    let lab = lab_with(clusters, json!({ "request_mirror_policies": [{ "cluster": "mirror" }] }));
    let mut client = lab.proxy.connect();
    for _ in 0..3 {
        assert_eq!(client.ask(POST).text(), "body");
    }
    eventually("the mirror has all", || mirror.seen().len() == 3);
    let seen = mirror.last();
    assert_eq!((seen.text(), seen.complete, seen.header("host")), ("body".into(), true, Some("a-shadow")));
}

#[test]
fn what_a_mirror_answers_counts_at_its_endpoint() {
    let origin = Origin::text("fine");
    let report = ("endpoint-load-metrics", "TEXT rps_fractional=90, cpu_utilization=0.5");
    let tired = Origin::http(move |_| reply_with(200, &[("x-envoy-degraded", "true"), report], "ignored"));
    let kind = "load_balancing_policies.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin";
    let policy = extension(kind, json!({ "blackout_period": "0s", "weight_update_period": "0.1s" }));
    let mut mirror = cluster("mirror", &[tired.address, nowhere()]);
    merge(
        &mut mirror,
        json!({
            "load_balancing_policy": { "policies": [{ "typed_extension_config": policy }] },
            "outlier_detection": { "detect_degraded_hosts": true, "base_ejection_time": "600s", "max_ejection_time": "600s" },
        }),
    );
    let route = to("origin", json!({ "request_mirror_policies": [{ "cluster": "mirror" }] }));
    let clusters = vec![cluster("origin", &[origin.address]), mirror];
    let proxy = start(&with_admin(bootstrap(vec![listener("main", hcm(route))], clusters)));
    let mut client = proxy.connect();
    let stat = |name: &str| proxy.stat(&format!("cluster.mirror.{name}"));
    // Which of the two is asked when depends on when the tables are made anew.
    eventually("both endpoints were asked", || {
        assert_eq!(client.ask(GET).text(), "fine");
        stat("upstream_rq_200") >= 1 && stat("upstream_rq_503") >= 1 && stat("upstream_cx_connect_fail") >= 1
    });
    for (name, wanted) in [("membership_degraded", 1), ("max_host_weight", 180), ("upstream_rq_active", 0)] {
        eventually(name, || stat(name) == wanted);
    }
    eventually("every copy has its end", || {
        stat("upstream_rq_total") == stat("upstream_rq_200") + stat("upstream_rq_503")
    });
}

#[test]
fn a_mirror_gets_its_share_its_host_and_its_headers() {
    let (origin, mirror, never) = (Origin::text("fine"), Origin::text("ignored"), Origin::text("ignored"));
    let clusters = vec![
        cluster("origin", &[origin.address]),
        cluster("mirror", &[mirror.address]),
        cluster("never", &[never.address]),
    ];
    let share = |percent: u32| json!({ "default_value": { "numerator": percent, "denominator": "HUNDRED" } });
    let header = json!({ "append": { "header": { "key": "x-copy", "value": "yes" } } });
    let mirrors = json!([
        {
            "cluster": "mirror", "runtime_fraction": share(50), "disable_shadow_host_suffix_append": true,
            "request_headers_mutations": [header],
        },
        { "cluster": "never", "runtime_fraction": share(0) },
    ]);
    let lab = lab_with(clusters, json!({ "request_mirror_policies": mirrors }));
    let mut client = lab.proxy.connect();
    for _ in 0..100 {
        assert_eq!(client.ask(GET).text(), "fine");
    }
    eventually("about half is mirrored", || (20..=80).contains(&mirror.seen().len()));
    let seen = mirror.last();
    assert_eq!((seen.header("host"), seen.header("x-copy")), (Some("a"), Some("yes")));
    assert_eq!(origin.last().header("x-copy"), None);
    assert!(never.seen().is_empty());
}

#[test]
fn a_mirror_that_is_down_changes_nothing() {
    let origin = Origin::text("fine");
    let clusters = vec![cluster("origin", &[origin.address]), cluster("mirror", &[nowhere()])];
    let lab = lab_with(clusters, json!({ "request_mirror_policies": [{ "cluster": "mirror" }] }));
    let mut client = lab.proxy.connect();
    for _ in 0..3 {
        assert_eq!(client.ask(POST).text(), "fine");
    }
}

#[test]
fn a_cluster_that_is_not_there_is_a_503() {
    let directory = tempfile::tempdir().unwrap();
    let mut hcm = hcm(json!([{ "match": { "prefix": "/" }, "route": { "cluster_header": "x-to" } }]));
    merge(&mut hcm, json!({ "access_log": access_log(&directory.path().join("log"), "%RESPONSE_FLAGS%") }));
    let origin = Origin::text("here");
    let proxy = start(&simple(hcm, origin.address));
    let mut client = proxy.connect();
    assert_eq!(client.ask("GET / HTTP/1.1\r\nhost: a\r\nx-to: nobody\r\n\r\n").status(), 503);
    assert_eq!(client.ask("GET / HTTP/1.1\r\nhost: a\r\nx-to: origin\r\n\r\n").text(), "here");
    let text = found("both lines", || {
        std::fs::read_to_string(directory.path().join("log")).ok().filter(|text| text.lines().count() == 2)
    });
    assert_eq!(text, "NC\n-\n");
}

#[test]
fn counters_of_active_requests_end_at_zero() {
    let origin = flaky(5);
    let policy = json!({ "retry_on": "5xx", "num_retries": 2, "retry_back_off": { "base_interval": "0.001s" } });
    let lab = lab(origin.address, json!({ "retry_policy": policy }));
    let mut client = lab.proxy.connect();
    for _ in 0..3 {
        client.ask(POST);
    }
    let snapshot = lab.proxy.proxy.snapshot();
    let endpoint = Arc::clone(snapshot.cluster("origin").unwrap().endpoints().next().unwrap());
    eventually("nothing is active", || endpoint.state.active() == 0);
}

#[test]
fn a_body_too_large_to_keep_passes_and_is_not_tried_again() {
    let origin = Origin::http(|request| reply(503, &request.body.len().to_string()));
    let policy = json!({ "retry_on": "5xx", "num_retries": 3, "retry_back_off": { "base_interval": "0.001s" } });
    let lab = lab(origin.address, json!({ "retry_policy": policy }));
    let size = 8 * 1024 * 1024;
    let client = lab.proxy.connect();
    let mut sender = Wire::new(client.socket().try_clone().unwrap());
    let sending = std::thread::spawn(move || {
        sender.send(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {size}\r\n\r\n"));
        sender.send(vec![b'x'; size]);
    });
    let mut client = client;
    let answer = client.message();
    sending.join().unwrap();
    assert_eq!((answer.status(), answer.text()), (503, size.to_string()));
    assert_eq!(origin.seen().len(), 1);
}

#[test]
fn a_retry_while_the_body_still_comes_gets_all_of_it() {
    let origin = Origin::scripted(|number, wire, origin| {
        if number == 0 {
            wire.head();
            wire.bytes(2);
            wire.send(reply(503, "early"));
            wire.rest();
            return;
        }
        let request = wire.message();
        let text = request.text();
        origin.note(request);
        wire.send(reply(200, &text));
    });
    let policy = json!({ "retry_on": "5xx", "retry_back_off": { "base_interval": "0.001s" } });
    let lab = lab(origin.address, json!({ "retry_policy": policy }));
    let mut client = lab.proxy.connect();
    client.send("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n");
    eventually("the second try", || origin.connections() == 2);
    client.send("2\r\ncd\r\n0\r\n\r\n");
    assert_eq!(client.message().text(), "abcd");
}

/// A cluster with endpoints of these priorities and metadata.
fn with_endpoints(endpoints: &[(&Origin, u32, Value)]) -> Value {
    let localities: Vec<Value> = endpoints
        .iter()
        .enumerate()
        .map(|(index, (origin, priority, metadata))| {
            json!({
                "priority": priority,
                "locality": { "zone": index.to_string() },
                "lb_endpoints": [{
                    "endpoint": { "address": socket(origin.address) },
                    "metadata": { "filter_metadata": { "envoy.lb": metadata } },
                }],
            })
        })
        .collect();
    let mut cluster = cluster("origin", &[]);
    cluster["load_assignment"] = json!({ "cluster_name": "origin", "endpoints": localities });
    cluster
}

#[test]
fn retries_avoid_the_endpoints_that_the_policy_names() {
    let extension = |kind: &str, mut config: Value| {
        config["@type"] = json!(format!("type.googleapis.com/envoy.extensions.retry.host.{kind}"));
        json!({ "name": kind, "typed_config": config })
    };
    let previous = extension("previous_hosts.v3.PreviousHostsPredicate", json!({}));
    let canary = extension("omit_canary_hosts.v3.OmitCanaryHostsPredicate", json!({}));
    let match_old = json!({ "metadata_match": { "filter_metadata": { "envoy.lb": { "version": "old" } } } });
    let metadata = extension("omit_host_metadata.v3.OmitHostMetadataConfig", match_old);
    for (predicates, metadata) in [
        (json!([previous]), json!({})),
        (json!([previous, canary]), json!({ "canary": true })),
        (json!([previous, metadata]), json!({ "version": "old" })),
    ] {
        let (bad, unwanted, good) =
            (Origin::http(|_| reply(503, "bad")), Origin::http(|_| reply(200, "unwanted")), Origin::text("good"));
        let is_unwanted = metadata != json!({});
        let policy = json!({
            "retry_on": "5xx", "num_retries": 1, "retry_back_off": { "base_interval": "0.001s" },
            "retry_host_predicate": predicates, "host_selection_retry_max_attempts": 20,
        });
        let mut endpoints = vec![(&bad, 0, json!({})), (&good, 0, json!({}))];
        if is_unwanted {
            endpoints.push((&unwanted, 0, metadata));
        }
        let lab = lab_with(vec![with_endpoints(&endpoints)], json!({ "retry_policy": policy }));
        let mut client = lab.proxy.connect();
        for number in 0..12 {
            let answer = client.ask(GET);
            assert_eq!(answer.status(), 200, "{predicates}");
            if lab.line(number).ends_with(" 2") {
                assert_eq!(answer.text(), "good", "{predicates}");
            }
        }
        assert!(!bad.seen().is_empty());
    }
}

#[test]
fn retries_go_to_another_priority() {
    let (bad, good) = (Origin::http(|_| reply(503, "bad")), Origin::text("good"));
    let previous = json!({
        "name": "previous",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
            "update_frequency": 1,
        },
    });
    let policy = json!({
        "retry_on": "5xx", "num_retries": 1, "retry_back_off": { "base_interval": "0.001s" }, "retry_priority": previous,
    });
    let cluster = with_endpoints(&[(&bad, 0, json!({})), (&good, 1, json!({}))]);
    let lab = lab_with(vec![cluster], json!({ "retry_policy": policy }));
    let mut client = lab.proxy.connect();
    for _ in 0..5 {
        assert_eq!(client.ask(GET).text(), "good");
    }
    assert_eq!(bad.seen().len(), 5);
}

#[test]
fn retries_are_counted_and_what_was_retried_is_counted_apart() {
    let origin = flaky(2);
    let policy = json!({ "retry_on": "5xx", "num_retries": 1, "retry_back_off": { "base_interval": "0.001s" } });
    let action = json!({ "retry_policy": policy });
    let clusters = vec![cluster("origin", &[origin.address])];
    let proxy = start(&with_admin(bootstrap(vec![listener("main", hcm(to("origin", action)))], clusters)));
    let mut client = proxy.connect();
    assert_eq!(client.ask(GET).status(), 503);
    assert_eq!(client.ask(GET).status(), 200);
    let stat = |name: &str| proxy.stat(&format!("cluster.origin.{name}"));
    assert_eq!((stat("upstream_rq_retry"), stat("upstream_rq_retry_limit_exceeded")), (1, 1));
    assert_eq!((stat("retry.upstream_rq_503"), stat("upstream_rq_503"), stat("upstream_rq_200")), (1, 1, 1));
    assert_eq!((stat("upstream_rq_retry_backoff_exponential"), stat("upstream_rq_retry_success")), (1, 0));
}

#[test]
fn a_success_after_a_retry_is_counted_and_overflow_too() {
    let origin = flaky(1);
    let policy = json!({ "retry_on": "5xx", "num_retries": 1, "retry_back_off": { "base_interval": "0.001s" } });
    for (max_retries, wanted) in [(1, (1, 0)), (0, (0, 1))] {
        let origin = if max_retries == 1 { origin.clone() } else { flaky(1) };
        let mut cluster = cluster("origin", &[origin.address]);
        cluster["circuit_breakers"] = json!({ "thresholds": [{ "max_retries": max_retries }] });
        let action = json!({ "retry_policy": policy });
        let listeners = vec![listener("main", hcm(to("origin", action)))];
        let proxy = start(&with_admin(bootstrap(listeners, vec![cluster])));
        proxy.connect().ask(GET);
        let stat = |name: &str| proxy.stat(&format!("cluster.origin.{name}"));
        assert_eq!((stat("upstream_rq_retry_success"), stat("upstream_rq_retry_overflow")), wanted);
    }
}

#[test]
fn headers_of_internal_clients_ask_for_retries_and_those_of_strangers_do_not() {
    let internal = "GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 10.0.0.1\r\n";
    let stranger = "GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 8.8.8.8\r\n";
    for (who, status) in [(internal, 200), (stranger, 503)] {
        let origin = flaky(2);
        let mut hcm = hcm(to("origin", json!({})));
        let ranges = json!([{ "address_prefix": "10.0.0.0", "prefix_len": 8 }]);
        merge(&mut hcm, json!({ "internal_address_config": { "cidr_ranges": ranges } }));
        let proxy = start(&simple(hcm, origin.address));
        let request = format!("{who}x-envoy-retry-on: 5xx\r\nx-envoy-max-retries: 2\r\n\r\n");
        assert_eq!(proxy.connect().ask(request).status(), status);
        assert_eq!(origin.last().header("x-envoy-max-retries"), None);
    }
}

#[test]
fn timeouts_of_internal_clients_count_and_may_be_answered_204() {
    let origin = silent();
    let mut hcm = hcm(to("origin", json!({})));
    let ranges = json!([{ "address_prefix": "10.0.0.0", "prefix_len": 8 }]);
    merge(&mut hcm, json!({ "internal_address_config": { "cidr_ranges": ranges } }));
    let proxy = start(&simple(hcm, origin.address));
    let ask = |more: &str| {
        let request = format!("GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 10.0.0.1\r\n{more}\r\n");
        proxy.connect().ask(request).status()
    };
    assert_eq!(ask("x-envoy-upstream-rq-timeout-ms: 100\r\n"), 504);
    assert_eq!(ask("x-envoy-upstream-rq-timeout-ms: 100\r\nx-envoy-upstream-rq-timeout-alt-response: 1\r\n"), 204);
    assert_eq!(ask("x-envoy-upstream-rq-per-try-timeout-ms: 100\r\n"), 504);
    assert_eq!(origin.last().header("x-envoy-upstream-rq-per-try-timeout-ms"), None);
}

#[test]
fn the_answer_after_retries_says_so() {
    let policy = json!({ "retry_on": "reset", "num_retries": 1, "retry_back_off": { "base_interval": "0.001s" } });
    let origin = Origin::scripted(|_, wire, _| drop(wire.message()));
    let lab = lab(origin.address, json!({ "retry_policy": policy }));
    let wanted = "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: \
                  connection termination";
    assert_eq!(lab.proxy.connect().ask(GET).text(), wanted);
}
