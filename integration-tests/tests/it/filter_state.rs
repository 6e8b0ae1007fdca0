//! What filters write of a request or of a connection, and what reads it: hash policies, access control, the TCP proxy, logs.

use std::collections::BTreeSet;

use integration_tests::config::{access_log, bootstrap, cluster, extension, hcm, listener, tcp_proxy, to};
use integration_tests::eventually::eventually;
use integration_tests::proxy::{Running, start};
use integration_tests::upstream::Origin;
use serde_json::{Value, json};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

fn object(key: &str, factory: &str, format: &str) -> Value {
    let mut object =
        json!({ "object_key": key, "format_string": { "text_format_source": { "inline_string": format } } });
    if !factory.is_empty() {
        object["factory_key"] = factory.into();
    }
    object
}

/// Puts a network filter that writes `objects` before the others.
fn of_connection(mut listener: Value, objects: Value) -> Value {
    let set = extension("filters.network.set_filter_state.v3.Config", json!({ "on_new_connection": objects }));
    listener["filter_chains"][0]["filters"].as_array_mut().unwrap().insert(0, set);
    listener
}

/// Puts an HTTP filter that writes `objects` before the others.
fn of_request(mut hcm: Value, objects: Value) -> Value {
    let set = extension("filters.http.set_filter_state.v3.Config", json!({ "on_request_headers": objects }));
    hcm["http_filters"].as_array_mut().unwrap().insert(0, set);
    hcm
}

/// Origins that answer with their number, and a cluster of them that hashes.
fn hashed() -> (Vec<Origin>, Value) {
    let origins: Vec<Origin> = (0..4).map(|n| Origin::text(&n.to_string())).collect();
    let addresses: Vec<_> = origins.iter().map(|origin| origin.address).collect();
    let mut origin = cluster("origin", &addresses);
    origin["lb_policy"] = "MAGLEV".into();
    (origins, origin)
}

fn answer(proxy: &Running, user: &str) -> String {
    proxy.connect().ask(format!("GET / HTTP/1.1\r\nhost: a\r\nx-user: {user}\r\n\r\n")).text()
}

#[test]
fn a_request_is_hashed_by_what_a_filter_wrote_of_it() {
    let (_origins, cluster) = hashed();
    let by = |policy: Value, factory: &str| {
        let manager = hcm(to("origin", json!({ "hash_policy": [policy] })));
        let manager = of_request(manager, json!([object("user", factory, "%REQ(x-user)%")]));
        start(&bootstrap(vec![listener("main", manager)], vec![cluster.clone()]))
    };
    let state = || json!({ "filter_state": { "key": "user" } });
    let by_state = by(state(), "envoy.hashable_string");
    let by_header = by(json!({ "header": { "header_name": "x-user" } }), "envoy.hashable_string");
    let users: Vec<String> = (0..16).map(|n| format!("user-{n}")).collect();
    let chosen: Vec<String> = users.iter().map(|user| answer(&by_state, user)).collect();
    let expected: Vec<String> = users.iter().map(|user| answer(&by_header, user)).collect();
    assert_eq!(chosen, expected, "a text has one hash, wherever it comes from");
    assert!(chosen.iter().collect::<BTreeSet<_>>().len() > 1, "{chosen:?}");
    // A text that was not made for hashing has no hash.
    let by_text = by(state(), "envoy.string");
    let answers: BTreeSet<String> = (0..40).map(|_| answer(&by_text, "user-1")).collect();
    assert!(answers.len() > 1, "{answers:?}");
}

#[test]
fn a_tcp_connection_is_hashed_by_what_a_filter_wrote_of_it() {
    let check = |format: &str, all_to_one: bool| {
        let (_origins, cluster) = hashed();
        let tcp = tcp_proxy("origin", json!({ "hash_policy": [{ "filter_state": { "key": "by" } }] }));
        let listener = of_connection(listener("main", tcp), json!([object("by", "envoy.hashable_string", format)]));
        let proxy = start(&bootstrap(vec![listener], vec![cluster]));
        let answers: BTreeSet<String> = (0..40).map(|_| proxy.connect().ask(GET).text()).collect();
        assert_eq!(answers.len() == 1, all_to_one, "{format}: {answers:?}");
    };
    check("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", true);
    check("%DOWNSTREAM_REMOTE_PORT%", false);
}

#[test]
fn a_filter_chooses_the_cluster_of_a_tcp_connection() {
    let (a, b) = (Origin::text("a"), Origin::text("b"));
    let clusters = vec![cluster("a", &[a.address]), cluster("to-127.0.0.1", &[b.address])];
    let chosen = object("envoy.tcp_proxy.cluster", "", "to-%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%");
    let listener = of_connection(listener("main", tcp_proxy("a", json!({}))), json!([chosen]));
    let proxy = start(&bootstrap(vec![listener], clusters));
    assert_eq!(proxy.connect().ask(GET).text(), "b");
}

#[test]
fn requests_see_what_was_written_of_their_connection() {
    let origin = Origin::text("a");
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let ids = |key: &str, wanted: &str| json!({ "filter_state": { "key": key, "string_match": { "exact": wanted } } });
    let policy = json!({ "permissions": [{ "any": true }], "principals": [{
        "and_ids": { "ids": [ids("from", "127.0.0.1"), ids("both", "127.0.0.1 GET")] },
    }] });
    let rbac = extension("filters.http.rbac.v3.RBAC", json!({ "rules": { "policies": { "p": policy } } }));
    let mut manager = hcm(to("origin", json!({})));
    manager["http_filters"].as_array_mut().unwrap().insert(0, rbac);
    let both = object("both", "envoy.string", "%FILTER_STATE(from:PLAIN)% %REQ(:METHOD)%");
    let mut manager = of_request(manager, json!([both]));
    manager["access_log"] = access_log(&log, "%FILTER_STATE(from)% %FILTER_STATE(both:PLAIN)% %FILTER_STATE(no)%");
    let from = object("from", "envoy.string", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%");
    let listener = of_connection(listener("main", manager), json!([from]));
    let proxy = start(&bootstrap(vec![listener], vec![cluster("origin", &[origin.address])]));
    let mut client = proxy.connect();
    assert_eq!(client.ask(GET).status(), 200);
    assert_eq!(client.ask("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").status(), 403);
    let lines = "\"127.0.0.1\" 127.0.0.1 GET -\n\"127.0.0.1\" 127.0.0.1 POST -\n";
    eventually("the log", || std::fs::read_to_string(&log).is_ok_and(|text| text == lines));
}
