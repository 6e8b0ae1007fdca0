//! The spine of a request besides bodies: routes, rewrites, headers, the proxy's own answers, the access log.

use integration_tests::config::{access_log, bootstrap, cluster, hcm, listener, merge, simple, to};
use integration_tests::eventually::found;
use integration_tests::proxy::{Running, start};
use integration_tests::upstream::{Origin, reply, reply_with};
use integration_tests::wire::Message;
use serde_json::{Value, json};

fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a.test\r\n{more}\r\n")
}

/// A proxy with these routes and fields of the connection manager.
fn proxy(routes: Value, more: Value, origin: &Origin) -> Running {
    let mut hcm = hcm(routes);
    merge(&mut hcm, more);
    start(&simple(hcm, origin.address))
}

fn ask(proxy: &Running, path: &str, more: &str) -> Message {
    proxy.connect().ask(get(path, more))
}

#[test]
fn redirects_change_what_they_are_told_to() {
    let origin = Origin::text("never");
    let check = |redirect: Value, path: &str, status: u16, location: &str| {
        let proxy = proxy(json!([{ "match": { "prefix": "/" }, "redirect": redirect }]), json!({}), &origin);
        let answer = ask(&proxy, path, "");
        assert_eq!((answer.status(), answer.header("location")), (status, Some(location)));
    };
    check(json!({ "https_redirect": true }), "/x?y=z", 301, "https://a.test/x?y=z");
    check(json!({ "host_redirect": "b.test" }), "/x?y=z", 301, "http://b.test/x?y=z");
    check(json!({ "path_redirect": "/new", "response_code": "FOUND" }), "/x?y=z", 302, "http://a.test/new?y=z");
    check(json!({ "prefix_rewrite": "/p/", "strip_query": true }), "/x?y=z", 301, "http://a.test/p/x");
    check(json!({ "port_redirect": 8443, "response_code": "PERMANENT_REDIRECT" }), "/", 308, "http://a.test:8443/");
}

#[test]
fn a_direct_response_has_its_status_and_body() {
    let origin = Origin::text("never");
    let routes = json!([{
        "match": { "path": "/teapot" },
        "direct_response": { "status": 418, "body": { "inline_string": "short and stout" } },
        "response_headers_to_add": [{ "header": { "key": "x-pot", "value": "%RESPONSE_CODE%" } }],
    }]);
    let proxy = proxy(routes, json!({}), &origin);
    let mut client = proxy.connect();
    let answer = client.ask(get("/teapot", ""));
    assert_eq!((answer.status(), answer.text()), (418, "short and stout".into()));
    assert_eq!(answer.header("content-type"), Some("text/plain"));
    assert!(answer.header("x-pot").is_some());
    let answer = client.ask(get("/other", ""));
    assert_eq!((answer.status(), answer.text(), answer.complete), (404, String::new(), true));
}

#[test]
fn a_prefix_is_rewritten_and_the_original_path_told() {
    let origin = Origin::text("ok");
    let routes =
        json!([{ "match": { "prefix": "/api/" }, "route": { "cluster": "origin", "prefix_rewrite": "/v1/" } }]);
    let proxy = proxy(routes, json!({}), &origin);
    assert_eq!(ask(&proxy, "/api/users?q=1", "").status(), 200);
    let seen = origin.last();
    assert_eq!(seen.path(), "/v1/users?q=1");
    assert_eq!(seen.header("x-envoy-original-path"), Some("/api/users?q=1"));
}

#[test]
fn a_path_is_rewritten_by_a_regex() {
    let origin = Origin::text("ok");
    let rewrite = json!({ "pattern": { "regex": "^/user/([0-9]+)/(.*)$" }, "substitution": "/\\2/of/\\1" });
    let proxy = proxy(to("origin", json!({ "regex_rewrite": rewrite })), json!({}), &origin);
    ask(&proxy, "/user/7/name?q=1", "");
    assert_eq!(origin.last().path(), "/name/of/7?q=1");
}

#[test]
fn the_host_is_rewritten_and_the_original_told_where_asked() {
    let origin = Origin::text("ok");
    let proxy = proxy(
        to("origin", json!({ "host_rewrite_literal": "inner.test", "append_x_forwarded_host": true })),
        json!({}),
        &origin,
    );
    ask(&proxy, "/", "");
    let seen = origin.last();
    assert_eq!((seen.header("host"), seen.header("x-forwarded-host")), (Some("inner.test"), Some("a.test")));
}

#[test]
fn headers_are_added_overwritten_and_removed_with_values_of_the_request() {
    let origin = Origin::http(|_| reply_with(200, &[("x-secret", "1"), ("x-kept", "1")], "ok"));
    let routes = json!([{
        "match": { "prefix": "/" },
        "route": { "cluster": "origin" },
        "request_headers_to_add": [
            { "header": { "key": "x-client", "value": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%" } },
            { "header": { "key": "x-agent", "value": "new" }, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD" },
            { "header": { "key": "x-there", "value": "b" }, "append_action": "APPEND_IF_EXISTS_OR_ADD" },
            { "header": { "key": "x-copy", "value": "%REQ(x-there)%" }, "append_action": "ADD_IF_ABSENT" },
        ],
        "request_headers_to_remove": ["x-gone"],
        "response_headers_to_add": [{ "header": { "key": "x-cluster", "value": "%UPSTREAM_CLUSTER%" } }],
        "response_headers_to_remove": ["x-secret"],
    }]);
    let proxy = proxy(routes, json!({}), &origin);
    let answer = ask(&proxy, "/", "x-agent: old\r\nx-there: a\r\nx-gone: 1\r\n");
    assert_eq!(answer.header("x-secret"), None);
    assert_eq!((answer.header("x-kept"), answer.header("x-cluster")), (Some("1"), Some("origin")));
    let seen = origin.last();
    let all = |name: &str| -> Vec<&str> {
        seen.headers.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect()
    };
    assert_eq!(all("x-client"), ["127.0.0.1"]);
    assert_eq!(all("x-agent"), ["new"]);
    assert_eq!(all("x-there"), ["a", "b"]);
    assert_eq!(all("x-gone"), [""; 0]);
}

#[test]
fn weights_divide_the_requests() {
    let (a, b) = (Origin::text("a"), Origin::text("b"));
    let weighted = json!({ "clusters": [{ "name": "a", "weight": 90 }, { "name": "b", "weight": 10 }] });
    let routes = json!([{ "match": { "prefix": "/" }, "route": { "weighted_clusters": weighted } }]);
    let clusters = vec![cluster("a", &[a.address]), cluster("b", &[b.address])];
    let proxy = start(&bootstrap(vec![listener("main", hcm(routes))], clusters));
    let mut client = proxy.connect();
    let to_b = (0..400).filter(|_| client.ask(get("/", "")).text() == "b").count();
    assert!((10..=90).contains(&to_b), "{to_b} of 400");
}

#[test]
fn requests_go_to_the_route_that_matches_first() {
    let origin = Origin::text("forwarded");
    let direct = |text: &str| json!({ "status": 200, "body": { "inline_string": text } });
    let routes = json!([
        { "match": { "path": "/exact" }, "direct_response": direct("path") },
        { "match": { "safe_regex": { "regex": "/r[0-9]+" } }, "direct_response": direct("regex") },
        { "match": { "prefix": "/", "headers": [{ "name": "x-v", "string_match": { "exact": "2" } }] }, "direct_response": direct("header") },
        { "match": { "prefix": "/", "query_parameters": [{ "name": "q", "present_match": true }] }, "direct_response": direct("query") },
        { "match": { "path_separated_prefix": "/sep" }, "direct_response": direct("separated") },
        { "match": { "prefix": "/" }, "route": { "cluster": "origin" } },
    ]);
    let proxy = proxy(routes, json!({}), &origin);
    let check = |path: &str, more: &str, expected: &str| assert_eq!(ask(&proxy, path, more).text(), expected, "{path}");
    check("/exact", "", "path");
    check("/exact?a", "", "path");
    check("/r12", "", "regex");
    check("/r12x", "", "forwarded");
    check("/x", "x-v: 2\r\n", "header");
    check("/x?q", "", "query");
    check("/sep/x", "", "separated");
    check("/separate", "", "forwarded");
}

#[test]
fn virtual_hosts_are_chosen_by_the_host() {
    let origin = Origin::text("never");
    let mut hcm = hcm(json!([]));
    let host = |name: &str, domain: &str| {
        json!({ "name": name, "domains": [domain], "routes": [
            { "match": { "prefix": "/" }, "direct_response": { "status": 200, "body": { "inline_string": name } } },
        ] })
    };
    hcm["route_config"]["virtual_hosts"] =
        json!([host("exact", "a.test"), host("suffix", "*.b.test"), host("prefix", "c.*")]);
    let proxy = start(&simple(hcm, origin.address));
    let check = |name: &str, expected: &str| {
        let answer = proxy.connect().ask(format!("GET / HTTP/1.1\r\nhost: {name}\r\n\r\n"));
        assert_eq!(answer.text(), expected, "{name}");
        assert_eq!(answer.status(), if expected.is_empty() { 404 } else { 200 });
    };
    check("a.test", "exact");
    check("A.TEST", "exact");
    check("x.b.test", "suffix");
    check("b.test", "");
    check("c.example", "prefix");
    check("d.test", "");
}

#[test]
fn an_edge_proxy_believes_only_what_it_sees() {
    let origin = Origin::text("ok");
    let proxy = proxy(to("origin", json!({})), json!({ "use_remote_address": true, "via": "weir" }), &origin);
    let lies =
        "x-forwarded-for: 6.6.6.6\r\nx-forwarded-proto: https\r\nx-envoy-retry-on: 5xx\r\nx-envoy-internal: true\r\n";
    let answer = ask(&proxy, "/", lies);
    assert_eq!(answer.header("via"), Some("weir"));
    let seen = origin.last();
    assert_eq!(seen.header("x-forwarded-for"), Some("6.6.6.6,127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("x-envoy-retry-on"), None, "{seen:?}");
    assert_eq!(seen.header("x-envoy-internal"), None);
    assert_eq!(seen.header("via"), Some("weir"));
    assert_eq!(seen.header("x-request-id").map(str::len), Some(36));
}

#[test]
fn a_request_id_is_made_once_and_kept_inside() {
    let origin = Origin::text("ok");
    let proxy = proxy(to("origin", json!({})), json!({}), &origin);
    ask(&proxy, "/", "x-request-id: mine\r\n");
    assert_eq!(origin.last().header("x-request-id"), Some("mine"));
    ask(&proxy, "/", "");
    let first = origin.last();
    ask(&proxy, "/", "");
    assert_ne!(first.header("x-request-id"), origin.last().header("x-request-id"));
}

#[test]
fn what_concerns_one_connection_stays_there() {
    let origin = Origin::http(|_| {
        reply_with(
            200,
            &[("connection", "x-hop, keep-alive"), ("x-hop", "1"), ("keep-alive", "timeout=5"), ("x-stays", "1")],
            "ok",
        )
    });
    let proxy = proxy(to("origin", json!({})), json!({}), &origin);
    let more = "connection: keep-alive, x-private\r\nx-private: 1\r\nkeep-alive: 1\r\nte: gzip\r\nproxy-connection: close\r\nx-public: 1\r\n";
    let answer = ask(&proxy, "/", more);
    for name in ["connection", "x-hop", "keep-alive"] {
        assert_eq!(answer.header(name), None, "{answer:?}");
    }
    assert_eq!(answer.header("x-stays"), Some("1"));
    let seen = origin.last();
    for name in ["connection", "x-private", "keep-alive", "te", "proxy-connection"] {
        assert_eq!(seen.header(name), None, "{seen:?}");
    }
    assert_eq!(seen.header("x-public"), Some("1"));
}

#[test]
fn answers_say_who_served_them_and_when() {
    let origin = Origin::http(|_| reply_with(200, &[("server", "origin/1")], "ok"));
    let check = |transformation: &str, expected: &str| {
        let proxy = proxy(to("origin", json!({})), json!({ "server_header_transformation": transformation }), &origin);
        let answer = ask(&proxy, "/", "");
        assert_eq!(answer.header("server"), Some(expected));
        assert!(answer.header("date").is_some_and(|date| date.ends_with("GMT")));
        assert!(
            answer.header("x-envoy-upstream-service-time").is_some_and(|ms| ms.parse::<u64>().is_ok()),
            "{answer:?}"
        );
    };
    check("PASS_THROUGH", "origin/1");
    check("APPEND_IF_ABSENT", "origin/1");
    let proxy = proxy(to("origin", json!({})), json!({ "server_name": "me" }), &origin);
    assert_eq!(ask(&proxy, "/", "").header("server"), Some("me"));
}

#[test]
fn paths_are_normalised_before_they_are_routed() {
    let origin = Origin::text("ok");
    let more =
        json!({ "normalize_path": true, "merge_slashes": true, "path_with_escaped_slashes_action": "REJECT_REQUEST" });
    let proxy = proxy(to("origin", json!({})), more, &origin);
    let check = |path: &str, seen: &str| {
        assert_eq!(ask(&proxy, path, "").status(), 200, "{path}");
        assert_eq!(origin.last().path(), seen);
    };
    check("/a/../b", "/b");
    check("/a/./b//c", "/a/b/c");
    check("/%2e%2e/b", "/b");
    check("/../../etc", "/etc");
    check("/a?x=/../y", "/a?x=/../y");
    assert_eq!(ask(&proxy, "/a%2fb", "").status(), 400);
    assert_eq!(ask(&proxy, "/a%5Cb", "").status(), 400);
}

#[test]
fn answers_of_the_proxy_are_rewritten_as_configured() {
    let origin = Origin::text("never");
    let mapper = json!({
        "filter": { "status_code_filter": { "comparison": { "op": "EQ", "value": { "default_value": 404, "runtime_key": "k" } } } },
        "status_code": 410,
        "body": { "inline_string": "gone" },
        "headers_to_add": [{ "header": { "key": "x-mapped", "value": "1" } }],
    });
    let config = json!({
        "mappers": [mapper],
        "body_format": { "json_format": { "status": "%RESPONSE_CODE%", "text": "%LOCAL_REPLY_BODY%" } },
    });
    let routes = json!([{ "match": { "path": "/down" }, "direct_response": { "status": 503 } }]);
    let proxy = proxy(routes, json!({ "local_reply_config": config }), &origin);
    let answer = ask(&proxy, "/nowhere", "");
    assert_eq!((answer.status(), answer.header("x-mapped")), (410, Some("1")));
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((&body["status"], &body["text"]), (&json!(410), &json!("gone")));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(ask(&proxy, "/down", "").status(), 503);
}

#[test]
fn the_access_log_tells_how_it_went() {
    let origin = Origin::http(|request| reply(200, &request.text()));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let format = "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% \
        %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_CLUSTER% %UPSTREAM_HOST% %REQ(:AUTHORITY)% %ROUTE_NAME% %RESPONSE_CODE_DETAILS%";
    let routes = json!([{ "name": "named", "match": { "prefix": "/" }, "route": { "cluster": "origin" } }]);
    let proxy = proxy(routes, json!({ "access_log": access_log(&path, format) }), &origin);
    proxy.connect().ask("POST /x?y HTTP/1.1\r\nhost: a.test\r\ncontent-length: 5\r\n\r\nhello");
    let line = found("a line", || std::fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n')));
    let upstream = origin.address;
    assert_eq!(line, format!("POST /x?y HTTP/1.1 200 - 5 5 origin {upstream} a.test named via_upstream\n"));
}

#[test]
fn a_grpc_client_gets_faults_as_trailers() {
    let origin = Origin::text("never");
    let proxy = proxy(json!([]), json!({}), &origin);
    let answer = proxy.connect().ask(
        "POST /pkg.Service/Method HTTP/1.1\r\nhost: a\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n\r\n",
    );
    assert_eq!((answer.status(), answer.header("grpc-status")), (200, Some("12")));
}
