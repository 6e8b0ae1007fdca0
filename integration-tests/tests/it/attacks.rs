//! What a stranger sends to get past the rules of the proxy, or to make it work for nothing.

use integration_tests::client::{Client, request, soon};
use integration_tests::config::{extension, hcm, merge, simple, to, with_admin};
use integration_tests::eventually::eventually;
use integration_tests::proxy::{Running, start};
use integration_tests::upstream::Origin;
use serde_json::{Value, json};

fn proxy(origin: &Origin, more: Value) -> Running {
    let mut hcm = hcm(to("origin", json!({})));
    merge(&mut hcm, more);
    start(&with_admin(simple(hcm, origin.address)))
}

/// A GET with these fields.
fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\n{fields}\r\n")
}

#[test]
fn a_redirect_to_the_unescaped_path_stays_on_its_host() {
    let origin = Origin::text("never");
    let check = |normalize: bool, path: &str, location: &str| {
        let more = json!({ "normalize_path": normalize, "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT" });
        let answer = proxy(&origin, more).connect().ask(get(path, ""));
        assert_eq!((answer.status(), answer.header("location")), (307, Some(location)), "{path}");
    };
    check(false, "/a%2fb", "/a/b");
    check(false, "/%2Fevil.test/", "/.//evil.test/");
    check(false, "/%5cevil.test", "/./\\evil.test");
    check(true, "/%5Cevil.test", "/.//evil.test");
}

#[test]
fn an_expectation_goes_no_further_than_the_proxy() {
    let origin = Origin::text("hi");
    let proxy = proxy(&origin, json!({}));
    let check = |fields: &str, body: &str, status: u16| {
        let answer = proxy.connect().ask(format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n{body}"));
        assert_eq!(answer.status(), status, "{fields}");
        assert!(origin.seen().iter().all(|request| request.header("expect").is_none()), "{fields}");
    };
    check("expect: 100-continue\r\n", "", 200);
    check("expect: 100-continue\r\ncontent-length: 0\r\n", "", 200);
    check("expect: y 100-continue\r\ncontent-length: 2\r\n", "hi", 417);
}

#[tokio::test]
async fn an_unknown_expectation_does_not_pass_from_http2_to_http1() {
    let origin = Origin::text("hi");
    let proxy = proxy(&origin, json!({}));
    let client = Client::connect(proxy.address("main")).await;
    let mut head = request("POST", "/");
    head.headers_mut().insert("expect", http::HeaderValue::from_static("y 100-continue"));
    assert_eq!(client.ask(head, b"hi").await.unwrap().status, 417);
    assert_eq!(origin.seen().len(), 0);
}

#[test]
fn a_denied_value_does_not_hide_behind_another() {
    let origin = Origin::text("hi");
    let header = json!({ "name": "x-role", "string_match": { "exact": "admin" } });
    let policy = json!({ "permissions": [{ "header": header }], "principals": [{ "any": true }] });
    let rules = json!({ "rules": { "action": "DENY", "policies": { "p": policy } } });
    let mut hcm = hcm(to("origin", json!({})));
    let filters = hcm["http_filters"].as_array_mut().unwrap();
    filters.insert(0, extension("filters.http.rbac.v3.RBAC", rules));
    let proxy = start(&simple(hcm, origin.address));
    let check = |fields: &str, status: u16| {
        assert_eq!(proxy.connect().ask(get("/", fields)).status(), status, "{fields}");
    };
    check("x-role: user\r\n", 200);
    check("x-role: admin\r\n", 403);
    check("x-role: user\r\nx-role: admin\r\n", 403);
    check("x-role: admin\r\nx-role: user\r\n", 403);
}

#[test]
fn a_stranger_does_not_steer_the_proxy() {
    let origin = Origin::text("hi");
    let ours = json!({ "cidr_ranges": [{ "address_prefix": "127.0.0.0", "prefix_len": 8 }] });
    let fields = ["x-envoy-upstream-stream-duration-ms: 5000", "x-envoy-original-url: /b"];
    let check = |more: Value, passed: &[&str]| {
        let proxy = proxy(&origin, more);
        proxy.connect().ask(get("/", &fields.map(|field| format!("{field}\r\n")).concat()));
        let seen = origin.last();
        let seen: Vec<String> = seen.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let seen: Vec<&str> = fields.into_iter().filter(|field| seen.iter().any(|seen| seen == field)).collect();
        assert_eq!(seen, passed);
    };
    check(json!({}), &[]);
    check(json!({ "use_remote_address": true }), &[]);
    check(json!({ "use_remote_address": true, "internal_address_config": ours }), &["x-envoy-original-url: /b"]);
}

#[test]
fn of_two_schemes_that_were_forwarded_the_worse_one_counts() {
    let origin = Origin::text("hi");
    let mut hcm = hcm(to("origin", json!({})));
    hcm["route_config"]["virtual_hosts"][0]["require_tls"] = "ALL".into();
    let proxy = start(&simple(hcm, origin.address));
    let check = |fields: &str, status: u16| {
        assert_eq!(proxy.connect().ask(get("/", fields)).status(), status, "{fields}");
    };
    check("x-forwarded-proto: https\r\n", 200);
    check("x-forwarded-proto: https\r\nx-forwarded-proto: http\r\n", 301);
}

/// Resets that come when the proxy is at work for their requests, so that the codec sees nothing wrong with them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_gives_up_all_its_streams_loses_its_connection() {
    let origin = Origin::scripted(|_, wire, _| {
        let _ = wire.head();
        wire.is_closed();
    });
    let proxy = proxy(&origin, json!({}));
    let client = Client::connect(proxy.address("main")).await;
    let mut opened = 0;
    while opened < 1000 && !client.driver.is_finished() {
        let mut streams = Vec::new();
        while streams.len() < 50
            && let Ok(stream) = client.open(request("GET", "/"), true).await
        {
            streams.push(stream);
        }
        opened += streams.len() as u64;
        eventually("the proxy has all requests", || {
            client.driver.is_finished() || proxy.stat("http.it.downstream_rq_total") == opened
        });
        // Dropped, which resets them.
        drop(streams);
    }
    let error = soon(client.driver).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::ENHANCE_YOUR_CALM));
    assert!(opened <= 300, "{opened}");
    eventually("it is counted", || proxy.stat("http.it.downstream_rq_too_many_premature_resets") == 1);
}

/// Frames that cost the proxy more than the client (CVE-2019-9511 to 9518), by HTTP/2 with prior knowledge.
#[test]
fn a_client_that_floods_with_frames_loses_its_connection() {
    let origin = Origin::text("hi");
    let proxy = proxy(&origin, json!({}));
    let frame = |kind: u8, payload: &[u8]| {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, 0, 0, 0, 0, 0]);
        frame.extend(payload);
        frame
    };
    let priority = [&[0, 0, 5, 2, 0, 0, 0, 0, 3][..], &[0; 5]].concat();
    let rows = [
        ("PRIORITY", priority, 300),
        ("WINDOW_UPDATE", frame(8, &[0, 0, 0, 1]), 300),
        ("an unknown kind", frame(99, &[0; 16_000]), 800),
    ];
    for (what, frame, count) in rows {
        let mut wire = proxy.connect();
        wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").send([0, 0, 0, 4, 0, 0, 0, 0, 0]);
        let answer = wire.send(frame.repeat(count)).rest();
        let goaway = answer.windows(9).position(|head| head[..4] == [0, 0, 8, 7]);
        let reason = goaway.and_then(|at| answer.get(at + 13..at + 17));
        assert_eq!(reason, Some(&[0, 0, 0, 11][..]), "{what}: {answer:?}");
    }
    eventually("they are counted", || proxy.stat("http.it.downstream_cx_protocol_error") == 3);
    assert_eq!(proxy.connect().ask(get("/", "")).status(), 200);
}
