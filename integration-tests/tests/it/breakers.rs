//! Circuit breakers as the statistics show them, and the limits besides requests and connections.

use integration_tests::config::{bootstrap, cluster, hcm, listener, to, with_admin};
use integration_tests::eventually::eventually;
use integration_tests::proxy::{Running, start};
use integration_tests::upstream::{Origin, reply};
use serde_json::{Value, json};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// Takes requests and never answers.
fn silent() -> Origin {
    Origin::scripted(|_, wire, origin| {
        origin.note(wire.message());
        wire.rest();
    })
}

fn run(endpoints: &[&Origin], thresholds: Value) -> Running {
    let addresses: Vec<_> = endpoints.iter().map(|origin| origin.address).collect();
    let mut cluster = cluster("origin", &addresses);
    cluster["circuit_breakers"] = json!({ "thresholds": [thresholds] });
    start(&with_admin(bootstrap(vec![listener("main", hcm(to("origin", json!({}))))], vec![cluster])))
}

#[test]
fn gauges_say_whether_a_breaker_is_open_and_how_much_is_left() {
    let origin = silent();
    let proxy = run(&[&origin], json!({ "max_requests": 2, "max_connections": 9, "track_remaining": true }));
    let stat = |name: &str| proxy.stat(&format!("cluster.origin.circuit_breakers.default.{name}"));
    assert_eq!((stat("rq_open"), stat("remaining_rq"), stat("remaining_cx")), (0, 2, 9));
    let mut clients = [proxy.connect(), proxy.connect()];
    for client in &mut clients {
        client.send(GET);
    }
    eventually("both requests are there", || origin.seen().len() == 2);
    assert_eq!((stat("rq_open"), stat("remaining_rq"), stat("remaining_cx")), (1, 0, 7));
    assert_eq!(proxy.connect().ask(GET).status(), 503);
    drop(clients);
    eventually("it closes again", || stat("rq_open") == 0);
}

#[test]
fn more_pools_than_allowed_overflow() {
    let origins = [silent(), silent()];
    let proxy = run(&[&origins[0], &origins[1]], json!({ "max_connection_pools": 1 }));
    let mut first = proxy.connect();
    first.send(GET);
    eventually("a request is there", || origins.iter().any(|origin| !origin.seen().is_empty()));
    assert_eq!(proxy.stat("cluster.origin.circuit_breakers.default.cx_pool_open"), 1);
    // Round robin: the next one wants a pool of the other endpoint.
    let answer = proxy.connect().ask(GET);
    assert_eq!((answer.status(), answer.header("x-envoy-overloaded")), (503, Some("true")));
    assert_eq!(proxy.stat("cluster.origin.upstream_cx_pool_overflow"), 1);
}

#[test]
fn with_an_interval_a_retry_budget_is_a_share_of_what_began_within_it() {
    // What fails is tried once more, and that try never ends.
    let origin = Origin::scripted(|_, wire, origin| {
        while let Some(request) = wire.try_message() {
            let path = request.path().to_owned();
            let again = origin.seen().iter().any(|seen| seen.path() == path);
            origin.note(request);
            match path.as_str() {
                "/" => wire.send(reply(200, "fine")),
                _ if again => return drop(wire.rest()),
                _ => wire.send(reply(503, "bad")),
            };
        }
    });
    let budget = |interval: Value| {
        let mut cluster = cluster("origin", &[origin.address]);
        let budget = json!({
            "budget_percent": { "value": 10 }, "min_retry_concurrency": 0, "budget_interval": interval,
        });
        cluster["circuit_breakers"] = json!({ "thresholds": [{ "retry_budget": budget }] });
        let retries = json!({ "retry_policy": { "retry_on": "5xx" }, "timeout": "0s" });
        start(&with_admin(bootstrap(vec![listener("main", hcm(to("origin", retries)))], vec![cluster])))
    };
    let retries = |proxy: &Running| proxy.stat("cluster.origin.upstream_rq_retry");
    // Of those in progress, a tenth is none.
    let proxy = budget(Value::Null);
    assert_eq!(proxy.connect().ask("GET /none HTTP/1.1\r\nhost: a\r\n\r\n").status(), 503);
    assert_eq!((retries(&proxy), proxy.stat("cluster.origin.upstream_rq_retry_overflow")), (0, 1));
    let proxy = budget("3600s".into());
    let mut client = proxy.connect();
    for _ in 0..20 {
        assert_eq!(client.ask(GET).status(), 200);
    }
    // Two tries of two requests come to the twenty.
    let mut held = [proxy.connect(), proxy.connect()];
    for (number, client) in held.iter_mut().enumerate() {
        client.send(format!("GET /{number} HTTP/1.1\r\nhost: a\r\n\r\n"));
        eventually("it is tried again", || retries(&proxy) == number as u64 + 1);
    }
    assert_eq!(proxy.connect().ask("GET /more HTTP/1.1\r\nhost: a\r\n\r\n").status(), 503);
    assert_eq!((retries(&proxy), proxy.stat("cluster.origin.upstream_rq_retry_overflow")), (2, 1));
    assert_eq!(proxy.stat("cluster.origin.circuit_breakers.default.rq_retry_open"), 1);
}
