//! Statistics and the admin server of the running proxy.

use integration_tests::config::{access_log, bootstrap, cluster, hcm, listener, merge, to};
use integration_tests::eventually::eventually;
use integration_tests::proxy::{Running, start};
use integration_tests::upstream::{Origin, reply};
use integration_tests::wire::Wire;
use serde_json::{Value, json};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

fn with_admin(mut bootstrap: Value, more: Value) -> Value {
    let mut admin = json!({ "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } } });
    merge(&mut admin, more);
    bootstrap["admin"] = admin;
    bootstrap
}

/// The status and the text of an admin page.
fn page(proxy: &Running, path: &str) -> (u16, String) {
    let address = proxy.proxy.admin().unwrap();
    let answer = Wire::connect(address).ask(format!("GET {path} HTTP/1.1\r\nhost: admin\r\n\r\n"));
    (answer.status(), answer.text())
}

#[track_caller]
fn check(proxy: &Running, expected: &[&str]) {
    let mut text = String::new();
    // What a request did is counted a moment after its answer.
    let mut missing = || {
        text = page(proxy, "/stats").1;
        expected.iter().find(|line| !text.lines().any(|found| found == **line)).copied()
    };
    let start = std::time::Instant::now();
    while let Some(line) = missing() {
        assert!(
            start.elapsed() < integration_tests::eventually::PATIENCE,
            "{line} never came: {}",
            page(proxy, "/stats").1
        );
    }
}

#[test]
fn requests_and_connections_are_counted_by_what_became_of_them() {
    let origin = Origin::http(|request| reply(if request.path() == "/bad" { 500 } else { 200 }, "x"));
    let routes = json!([
        { "match": { "path": "/direct" }, "direct_response": { "status": 204 } },
        { "match": { "path": "/there" }, "redirect": { "path_redirect": "/" } },
        { "match": { "prefix": "/" }, "route": { "cluster": "origin" }, "stat_prefix": "rest" },
    ]);
    let proxy = start(&with_admin(
        bootstrap(vec![listener("main", hcm(routes))], vec![cluster("origin", &[origin.address])]),
        json!({}),
    ));
    let mut client = proxy.connect();
    for (path, status) in [("/", 200), ("/bad", 500), ("/direct", 204), ("/there", 301)] {
        assert_eq!(client.ask(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).status(), status);
    }
    drop(client);
    check(
        &proxy,
        &[
            "vhost.all.route.rest.upstream_rq_total: 2",
            "vhost.all.route.rest.upstream_rq_200: 1",
            "vhost.all.route.rest.upstream_rq_5xx: 1",
            "http.it.rq_total: 4",
            "http.it.rq_direct_response: 1",
            "http.it.rq_redirect: 1",
            "http.it.downstream_rq_http1_total: 4",
            "http.it.downstream_cx_http1_total: 1",
            "http.it.downstream_cx_http1_active: 0",
            "http.it.downstream_cx_destroy_remote: 1",
            "server.live: 1",
            "server.state: 0",
            "server.concurrency: 1",
            "cluster_manager.cluster_added: 1",
            "cluster_manager.active_clusters: 1",
            "cluster_manager.warming_clusters: 0",
            "listener_manager.listener_added: 1",
            "listener_manager.total_listeners_active: 1",
            "control_plane.connected_state: 0",
            "cluster_manager.cds.update_success: 0",
        ],
    );
}

#[test]
fn what_waits_is_listed_until_it_serves() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rds.json");
    let mut manager = hcm(json!([]));
    manager.as_object_mut().unwrap().remove("route_config");
    manager["rds"] = json!({ "route_config_name": "r", "config_source": { "path_config_source": { "path": path } } });
    let proxy = start(&with_admin(bootstrap(vec![listener("main", manager)], vec![]), json!({})));
    let (status, text) = page(&proxy, "/init_dump");
    assert_eq!(status, 200);
    assert!(text.contains("listener_manager") && text.contains("\"main\""), "{text}");
    let routes = json!({ "resources": [{
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration", "name": "r",
    }] });
    std::fs::write(&path, routes.to_string()).unwrap();
    eventually("nothing waits", || !page(&proxy, "/init_dump").1.contains("main"));
}

#[test]
fn the_admin_server_answers_allowed_paths_only_and_logs() {
    let origin = Origin::text("a");
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("admin.log");
    let simple =
        bootstrap(vec![listener("main", hcm(to("origin", json!({}))))], vec![cluster("origin", &[origin.address])]);
    let admin = json!({
        "allow_paths": [{ "prefix": "/ready" }],
        "access_log": access_log(&log, "%REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE% %REQ(:AUTHORITY)%"),
    });
    let proxy = start(&with_admin(simple, admin));
    assert_eq!(proxy.connect().ask(GET).status(), 200);
    assert_eq!(page(&proxy, "/ready").0, 200);
    let (status, text) = page(&proxy, "/stats");
    assert_eq!((status, text.as_str()), (403, "request to path /stats not allowed\n"));
    let lines = "GET /ready 200 admin\nGET /stats 403 admin\n";
    eventually("the log", || std::fs::read_to_string(&log).is_ok_and(|text| text == lines));
}

#[test]
fn logs_show_the_metadata_of_cluster_and_endpoint() {
    let origin = Origin::text("a");
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("access.log");
    let mut manager = hcm(to("origin", json!({})));
    manager["access_log"] = access_log(&log, "%CLUSTER_METADATA(app:team)% %UPSTREAM_METADATA(app:version)%");
    let mut cluster = cluster("origin", &[origin.address]);
    cluster["metadata"] = json!({ "filter_metadata": { "app": { "team": "blue" } } });
    cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["metadata"] =
        json!({ "filter_metadata": { "app": { "version": "7" } } });
    let proxy = start(&bootstrap(vec![listener("main", manager)], vec![cluster]));
    assert_eq!(proxy.connect().ask(GET).status(), 200);
    eventually("the log", || std::fs::read_to_string(&log).is_ok_and(|text| text == "blue 7\n"));
}
