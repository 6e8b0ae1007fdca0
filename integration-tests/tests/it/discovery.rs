//! Where endpoints come from: names, other clusters, the request itself.

use std::net::SocketAddr;

use integration_tests::config::{assignment, bootstrap, cluster, extension, hcm, listener, merge, tcp_proxy, to};
use integration_tests::dns::{NameServer, Service};
use integration_tests::eventually::eventually;
use integration_tests::proxy::{Running, start, try_start};
use integration_tests::upstream::Origin;
use integration_tests::wire::{Message, Wire};
use serde_json::{Value, json};

mod by_request;
mod redirected;

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// Two origins at one port of two addresses.
fn pair() -> (Origin, Origin) {
    for _ in 0..100 {
        let a = Origin::text("a");
        let at = SocketAddr::from(([127, 0, 0, 2], a.address.port()));
        // The port may be in use there.
        if std::net::TcpListener::bind(at).is_ok() {
            return (a, Origin::text_at(at, "b"));
        }
    }
    panic!("no port is free on two addresses");
}

/// A cluster of what `name` resolves to, at this port.
fn by_dns(cluster_name: &str, kind: &str, name: &str, port: u16, server: &NameServer) -> Value {
    let endpoint = json!({ "address": { "socket_address": { "address": name, "port_value": port } } });
    json!({
        "name": cluster_name,
        "type": kind,
        "dns_lookup_family": "V4_ONLY",
        "dns_refresh_rate": "0.02s",
        "typed_dns_resolver_config": server.resolver(),
        "load_assignment": { "cluster_name": cluster_name, "endpoints": [{ "lb_endpoints": [{ "endpoint": endpoint }] }] },
    })
}

fn by_extension(name: &str, config: Value) -> Value {
    json!({ "name": name, "lb_policy": "CLUSTER_PROVIDED", "cluster_type": { "name": "x", "typed_config": config } })
}

fn to_cluster(name: &str, clusters: Vec<Value>) -> Value {
    bootstrap(vec![listener("main", hcm(to(name, json!({}))))], clusters)
}

fn ask(proxy: &Running) -> Message {
    proxy.connect().ask(GET)
}

#[track_caller]
fn answers(proxy: &Running, text: &str) {
    eventually(text, || ask(proxy).text() == text);
}

#[track_caller]
fn refuses(proxy: &Running) {
    eventually("503", || ask(proxy).status() == 503);
}

/// Returns when the server was asked some more times.
fn after_more_questions(server: &NameServer) {
    let before = server.asked();
    eventually("more questions", || server.asked() >= before + 3);
}

#[test]
fn endpoints_follow_a_name_and_outlive_its_server() {
    let (a, _b) = pair();
    let server = NameServer::start();
    server.set("app.test", &[[127, 0, 0, 1]]);
    let proxy = start(&to_cluster("c", vec![by_dns("c", "STRICT_DNS", "app.test", a.address.port(), &server)]));
    answers(&proxy, "a");
    server.fail(true);
    after_more_questions(&server);
    assert_eq!(ask(&proxy).text(), "a", "a failure is no answer");
    server.set("app.test", &[[127, 0, 0, 2]]).fail(false);
    answers(&proxy, "b");
    server.set("app.test", &[]);
    refuses(&proxy);
    server.set("app.test", &[[127, 0, 0, 1]]);
    answers(&proxy, "a");
}

#[test]
fn a_logical_name_keeps_its_endpoint_and_long_answers_come_by_tcp() {
    let (a, _b) = pair();
    let server = NameServer::start();
    server.set("app.test", &[[127, 0, 0, 1]]).truncate();
    let proxy = start(&to_cluster("c", vec![by_dns("c", "LOGICAL_DNS", "app.test", a.address.port(), &server)]));
    answers(&proxy, "a");
    assert!(server.asked_by_tcp() > 0);
    server.set("app.test", &[]);
    after_more_questions(&server);
    assert_eq!(ask(&proxy).text(), "a", "the only endpoint stays");
}

#[test]
fn an_srv_name_says_ports_and_who_stands_in() {
    let (a, b) = (Origin::text("a"), Origin::text("b"));
    let server = NameServer::start();
    let service = |priority, port| Service { priority, weight: 1, port, target: "host.test" };
    let (first, second) = (service(10, a.address.port()), service(20, b.address.port()));
    server.set("host.test", &[[127, 0, 0, 1]]).set_services("_http._tcp.app.test", &[second.clone(), first]);
    let mut cluster = by_extension(
        "c",
        json!({
            "@type": "type.googleapis.com/weir.clusters.srv.v1.SrvCluster",
            "name": "_http._tcp.app.test",
            "dns_lookup_family": "V4_ONLY",
            "dns_refresh_rate": "0.02s",
            "typed_dns_resolver_config": server.resolver_config(),
        }),
    );
    cluster["lb_policy"] = json!("ROUND_ROBIN");
    let proxy = start(&to_cluster("c", vec![cluster]));
    answers(&proxy, "a");
    assert!((0..10).all(|_| ask(&proxy).text() == "a"), "the second only stands in");
    server.set_services("_http._tcp.app.test", &[second]);
    answers(&proxy, "b");
}

fn aggregate(name: &str, members: &[&str]) -> Value {
    let kind = "type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig";
    by_extension(name, json!({ "@type": kind, "clusters": members }))
}

fn requests(proxy: &Running, cluster: &str) -> u64 {
    proxy.proxy.snapshot().cluster(cluster).unwrap().state.stats.upstream_rq_total().value()
}

#[test]
fn an_aggregate_sends_requests_to_the_next_member_when_one_has_no_endpoints() {
    let (a, b) = (Origin::text("a"), Origin::text("b"));
    let server = NameServer::start();
    server.set("app.test", &[[127, 0, 0, 1]]);
    let first = by_dns("first", "STRICT_DNS", "app.test", a.address.port(), &server);
    let clusters = vec![
        aggregate("all", &["inner", "unknown"]),
        aggregate("inner", &["first", "second"]),
        cluster("second", &[b.address]),
        first,
    ];
    let proxy = start(&to_cluster("all", clusters));
    answers(&proxy, "a");
    assert!((0..10).all(|_| ask(&proxy).text() == "a"));
    server.set("app.test", &[]);
    answers(&proxy, "b");
    assert!((0..10).all(|_| ask(&proxy).text() == "b"));
    assert!(requests(&proxy, "second") >= 10, "the member counts");
    server.set("app.test", &[[127, 0, 0, 1]]);
    answers(&proxy, "a");
}

#[test]
fn an_aggregate_may_not_be_its_own_member() {
    let clusters = vec![aggregate("a", &["b"]), aggregate("b", &["a"])];
    let refused = try_start(&to_cluster("a", clusters), 1).err().unwrap();
    assert!(refused.contains("the aggregate is, through its members, a member of itself"), "{refused}");
}

#[test]
fn aggregates_are_nested_only_so_deep() {
    let chain = |length: usize| {
        let inner = (1..length).map(|n| aggregate(&format!("a{n}"), &[&format!("a{}", n + 1)]));
        let last = cluster(&format!("a{length}"), &["127.0.0.1:1".parse().unwrap()]);
        let all = [aggregate("a", &["a1"])].into_iter().chain(inner).chain([last]);
        try_start(&to_cluster("a", all.collect()), 1).err()
    };
    assert_eq!(chain(33), None);
    let refused = chain(2000).unwrap();
    assert!(refused.contains("its members hold aggregates more than 32 deep"), "{refused}");
}

/// A cluster whose endpoints are in a file.
struct Eds {
    directory: tempfile::TempDir,
}

impl Eds {
    fn cluster(&self) -> Value {
        let source = json!({ "path_config_source": { "path": self.directory.path().join("eds.json") } });
        json!({ "name": "c", "type": "EDS", "eds_cluster_config": { "eds_config": source } })
    }

    fn put(&self, mut assignment: Value) {
        merge(
            &mut assignment,
            json!({ "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment" }),
        );
        let new = self.directory.path().join("new");
        std::fs::write(&new, json!({ "resources": [assignment] }).to_string()).unwrap();
        std::fs::rename(new, self.directory.path().join("eds.json")).unwrap();
    }

    fn start(&self) -> Running {
        let cds = self.directory.path().join("cds.json");
        let mut cluster = self.cluster();
        merge(&mut cluster, json!({ "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster" }));
        std::fs::write(&cds, json!({ "resources": [cluster] }).to_string()).unwrap();
        let mut hcm = hcm(to("c", json!({})));
        hcm["route_config"]["validate_clusters"] = json!(false);
        let mut config = bootstrap(vec![listener("main", hcm)], vec![]);
        config["dynamic_resources"] = json!({ "cds_config": { "path_config_source": { "path": cds } } });
        start(&config)
    }
}

#[test]
fn an_endpoint_that_drains_takes_no_new_requests_and_finishes_those_it_has() {
    let (arrived, arrival) = std::sync::mpsc::channel();
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let (arrived, gate) = (std::sync::Mutex::new(arrived), std::sync::Mutex::new(gate));
    let a = Origin::http(move |request| {
        if request.path() == "/slow" {
            arrived.lock().unwrap().send(()).unwrap();
            gate.lock().unwrap().recv().unwrap();
        }
        integration_tests::upstream::reply(200, "a")
    });
    let b = Origin::text("b");
    let eds = Eds { directory: tempfile::tempdir().unwrap() };
    eds.put(assignment("c", &[a.address]));
    let proxy = eds.start();
    answers(&proxy, "a");
    let mut slow = proxy.connect();
    slow.send("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n");
    arrival.recv().unwrap();
    let mut both = assignment("c", &[a.address, b.address]);
    both["endpoints"][0]["lb_endpoints"][0]["health_status"] = json!("DRAINING");
    eds.put(both);
    answers(&proxy, "b");
    assert!((0..10).all(|_| ask(&proxy).text() == "b"));
    go.send(()).unwrap();
    assert_eq!(slow.message().text(), "a");
}

#[test]
fn endpoints_that_nobody_confirms_are_dropped_when_they_are_stale() {
    let a = Origin::text("a");
    let eds = Eds { directory: tempfile::tempdir().unwrap() };
    let mut stale = assignment("c", &[a.address]);
    stale["policy"] = json!({ "endpoint_stale_after": "1s" });
    eds.put(stale);
    let proxy = eds.start();
    answers(&proxy, "a");
    refuses(&proxy);
    assert_eq!(proxy.proxy.snapshot().cluster("c").unwrap().state.stats.assignment_stale().value(), 1);
    eds.put(assignment("c", &[a.address]));
    answers(&proxy, "a");
}

#[test]
fn connections_are_made_anew_when_endpoints_change_where_that_is_asked_for() {
    let (a, _b) = pair();
    let server = NameServer::start();
    server.set("app.test", &[[127, 0, 0, 1]]);
    let mut dns = by_dns("c", "STRICT_DNS", "app.test", a.address.port(), &server);
    dns["common_lb_config"] = json!({ "close_connections_on_host_set_change": true });
    let proxy = start(&to_cluster("c", vec![dns]));
    answers(&proxy, "a");
    let before = a.connections();
    assert!((0..5).all(|_| ask(&proxy).text() == "a"));
    assert_eq!(a.connections(), before, "one connection serves them all");
    server.set("app.test", &[[127, 0, 0, 1], [127, 0, 0, 2]]);
    answers(&proxy, "b");
    answers(&proxy, "a");
    assert!(a.connections() > before);
}
