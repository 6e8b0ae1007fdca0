//! How long tries and streams may take, what upstreams are told of it, and what clients are told when it was too long.

use integration_tests::config::{bootstrap, cluster, hcm, listener, merge, to, with_admin};
use integration_tests::proxy::{Running, start};
use integration_tests::upstream::{Origin, nowhere, reply};
use serde_json::{Value, json};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// An origin that does not answer the first `count` requests.
fn silent_at_first(count: usize) -> Origin {
    Origin::scripted(move |_, wire, origin| {
        while let Some(request) = wire.try_message() {
            origin.note(request);
            if origin.seen().len() <= count {
                wire.rest();
                return;
            }
            wire.send(reply(200, "ok"));
        }
    })
}

/// A proxy whose virtual host counts tries on both sides.
fn proxy(cluster: Value, action: Value) -> Running {
    let mut hcm = hcm(to("origin", action));
    let counts = json!({ "include_request_attempt_count": true, "include_attempt_count_in_response": true });
    merge(&mut hcm["route_config"]["virtual_hosts"][0], counts);
    start(&with_admin(bootstrap(vec![listener("main", hcm)], vec![cluster])))
}

fn retries(fields: Value) -> Value {
    let mut policy = json!({ "num_retries": 2, "retry_back_off": { "base_interval": "0.001s" } });
    merge(&mut policy, fields);
    policy
}

fn expected(origin: &Origin) -> Vec<u64> {
    let of = |request: &integration_tests::wire::Message| {
        request.header("x-envoy-expected-rq-timeout-ms").unwrap().parse().unwrap()
    };
    origin.seen().iter().map(of).collect()
}

#[test]
fn an_upstream_is_told_what_is_left_of_the_time() {
    let slow = |_: &integration_tests::wire::Message| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        reply(503, "no")
    };
    let origin = Origin::http(slow);
    let action = json!({ "timeout": "10s", "retry_policy": retries(json!({ "retry_on": "5xx" })) });
    let proxy = proxy(cluster("origin", &[origin.address]), action);
    assert_eq!(proxy.connect().ask(GET).status(), 503);
    let told = expected(&origin);
    assert!(told[0] == 10_000 && told[1] <= 9_950 && told[2] + 50 <= told[1], "{told:?}");
}

#[test]
fn a_hedged_try_may_take_all_of_the_time() {
    for (hedged, first) in [(true, 10_000), (false, 100)] {
        let origin = silent_at_first(1);
        let policy = retries(json!({ "retry_on": "5xx", "per_try_timeout": "0.1s" }));
        let hedge = json!({ "hedge_on_per_try_timeout": hedged });
        let action = json!({ "timeout": "10s", "hedge_policy": hedge, "retry_policy": policy });
        let proxy = proxy(cluster("origin", &[origin.address]), action);
        assert_eq!(proxy.connect().ask(GET).text(), "ok");
        assert_eq!(expected(&origin)[0], first);
    }
}

#[test]
fn a_try_may_take_as_long_as_the_cluster_allows() {
    let mut cluster = cluster("origin", &[]);
    let protocol = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    cluster["typed_extension_protocol_options"] = json!({ protocol: {
        "@type": format!("type.googleapis.com/{protocol}"),
        "common_http_protocol_options": { "max_stream_duration": "0.1s" },
        "explicit_http_config": { "http_protocol_options": {} },
    } });
    let of = |origin: &Origin, action: Value| {
        let mut cluster = cluster.clone();
        cluster["load_assignment"] = integration_tests::config::assignment("origin", &[origin.address]);
        proxy(cluster, action)
    };
    let origin = silent_at_first(1);
    let once = of(&origin, json!({ "timeout": "0s" }));
    let answer = once.connect().ask(GET);
    assert_eq!((answer.status(), answer.text()), (504, "upstream max stream duration reached".into()));
    assert_eq!(once.stat("cluster.origin.upstream_rq_max_duration_reached"), 1);
    let origin = silent_at_first(1);
    let again = of(&origin, json!({ "timeout": "0s", "retry_policy": retries(json!({ "retry_on": "reset" })) }));
    assert_eq!(again.connect().ask(GET).text(), "ok");
    // A response that goes on for longer ends in the middle.
    let endless = Origin::scripted(|_, wire, _| {
        wire.message();
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf");
        wire.rest();
    });
    let cut = of(&endless, json!({ "timeout": "0s" }));
    let mut client = cut.connect();
    client.send(GET);
    assert!(client.rest().ends_with(b"half"));
    assert_eq!(cut.stat("cluster.origin.upstream_rq_max_duration_reached"), 1);
}

#[test]
fn a_try_without_activity_is_made_again() {
    let origin = silent_at_first(2);
    let policy = retries(json!({ "retry_on": "reset", "per_try_idle_timeout": "0.1s" }));
    let proxy = proxy(cluster("origin", &[origin.address]), json!({ "timeout": "0s", "retry_policy": policy }));
    let answer = proxy.connect().ask(GET);
    assert_eq!((answer.text().as_str(), answer.header("x-envoy-attempt-count")), ("ok", Some("3")));
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_per_try_idle_timeout"), 2);
}

#[test]
fn answers_of_the_proxy_tell_how_many_tries_were_made() {
    let check = |cluster: Value, action: Value, status: u16, tries: Option<&str>| {
        let answer = proxy(cluster, action).connect().ask(GET);
        assert_eq!((answer.status(), answer.header("x-envoy-attempt-count")), (status, tries));
        answer
    };
    let policy = json!({ "retry_policy": retries(json!({ "retry_on": "connect-failure" })) });
    check(cluster("origin", &[nowhere()]), json!({}), 503, Some("1"));
    check(cluster("origin", &[nowhere()]), policy, 503, Some("3"));
    check(cluster("origin", &[]), json!({}), 503, Some("1"));
    check(cluster("origin", &[silent_at_first(1).address]), json!({ "timeout": "0.05s" }), 504, Some("1"));
    let mut dropping = cluster("origin", &[nowhere()]);
    let drop = |percent: u32| json!([{ "category": "all", "drop_percentage": { "numerator": percent } }]);
    dropping["load_assignment"]["policy"] = json!({ "drop_overloads": drop(100) });
    let answer = check(dropping, json!({}), 503, None);
    assert_eq!(answer.text(), "unconditional drop overload");
    assert_eq!(answer.header("x-envoy-unconditional-drop-overload"), Some("true"));
}
