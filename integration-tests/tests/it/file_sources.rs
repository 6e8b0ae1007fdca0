//! Routes, endpoints, secrets and filters of static resources that come from files (`path_config_source`).

use integration_tests::config::{assignment, bootstrap, cluster, hcm, listener, merge, to, with_admin};
use integration_tests::eventually::eventually;
use integration_tests::proxy::{start, try_start};
use integration_tests::tls::Identity;
use integration_tests::upstream::Origin;
use integration_tests::wire::Wire;
use serde_json::{Value, json};
use tempfile::TempDir;

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn source(&self, name: &str) -> Value {
        json!({ "path_config_source": { "path": self.0.path().join(name) }, "resource_api_version": "V3" })
    }

    /// Moves a file with this resource into place.
    fn put(&self, name: &str, kind: &str, mut resource: Value) {
        merge(&mut resource, json!({ "@type": format!("type.googleapis.com/envoy.{kind}") }));
        let fresh = self.0.path().join("fresh");
        std::fs::write(&fresh, json!({ "resources": [resource] }).to_string()).unwrap();
        std::fs::rename(fresh, self.0.path().join(name)).unwrap();
    }

    /// Routes that answer with this status.
    fn routes(&self, status: u16) {
        let routes = json!([{ "match": { "prefix": "/" }, "direct_response": { "status": status } }]);
        self.put("rds.json", "config.route.v3.RouteConfiguration", table(routes));
    }

    fn endpoints(&self, origin: &Origin) {
        let endpoints = assignment("origin", &[origin.address]);
        self.put("eds.json", "config.endpoint.v3.ClusterLoadAssignment", endpoints);
    }

    /// A filter that aborts with this status.
    fn fault(&self, status: u16) {
        let fault = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
            "abort": { "http_status": status, "percentage": { "numerator": 100 } },
        });
        self.put("ecds.json", "config.core.v3.TypedExtensionConfig", json!({ "name": "fault", "typed_config": fault }));
    }

    fn secret(&self, identity: &Identity) {
        let certificate = json!({
            "certificate_chain": { "inline_string": identity.certificate_pem() },
            "private_key": { "inline_string": identity.key_pem() },
        });
        let secret = json!({ "name": "server", "tls_certificate": certificate });
        self.put("sds.json", "extensions.transport_sockets.tls.v3.Secret", secret);
    }
}

fn table(routes: Value) -> Value {
    json!({ "name": "r", "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": routes }] })
}

fn with_rds(source: Value) -> Value {
    let mut hcm = hcm(json!([]));
    hcm.as_object_mut().unwrap().remove("route_config");
    hcm["rds"] = json!({ "route_config_name": "r", "config_source": source });
    hcm
}

#[test]
fn routes_of_a_static_listener_come_from_a_file() {
    let files = Files::new();
    files.routes(201);
    let proxy = start(&bootstrap(vec![listener("main", with_rds(files.source("rds.json")))], vec![]));
    let mut client = proxy.connect();
    assert_eq!(client.ask(GET).status(), 201);
    let old = std::sync::Arc::downgrade(&proxy.proxy.snapshot());
    files.routes(202);
    eventually("the new routes", || client.ask(GET).status() == 202);
    eventually("the old ones are freed", || old.strong_count() == 0);
}

#[test]
fn a_file_may_come_later() {
    let files = Files::new();
    let proxy = start(&bootstrap(vec![listener("main", with_rds(files.source("rds.json")))], vec![]));
    assert!(proxy.proxy.snapshot().listener("main").is_none(), "a listener warms until it has its routes");
    files.routes(201);
    assert_eq!(proxy.connect().ask(GET).status(), 201);
}

#[test]
fn a_file_written_in_place_is_read_once_it_is_whole() {
    use std::io::Write;
    let files = Files::new();
    files.routes(201);
    let proxy = start(&bootstrap(vec![listener("main", with_rds(files.source("rds.json")))], vec![]));
    let mut client = proxy.connect();
    assert_eq!(client.ask(GET).status(), 201);
    let path = files.0.path().join("rds.json");
    let text = std::fs::read_to_string(&path).unwrap().replace("201", "202");
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    eventually("the new routes", || client.ask(GET).status() == 202);
}

#[test]
fn endpoints_of_a_static_cluster_come_from_a_file() {
    let (a, b) = (Origin::text("a"), Origin::text("b"));
    let files = Files::new();
    files.endpoints(&a);
    let eds = json!({ "eds_config": files.source("eds.json") });
    let cluster = json!({ "name": "origin", "type": "EDS", "eds_cluster_config": eds });
    let proxy = start(&bootstrap(vec![listener("main", hcm(to("origin", json!({}))))], vec![cluster]));
    let mut client = proxy.connect();
    eventually("the endpoint of the file", || client.ask(GET).text() == "a");
    files.endpoints(&b);
    eventually("the new endpoint", || client.ask(GET).text() == "b");
}

#[test]
fn what_became_of_the_endpoints_of_a_cluster_is_counted() {
    let (files, origin) = (Files::new(), Origin::text("a"));
    let mut eds = cluster("origin", &[]);
    eds.as_object_mut().unwrap().remove("load_assignment");
    let source = json!({ "eds_config": files.source("eds.json") });
    merge(&mut eds, json!({ "type": "EDS", "eds_cluster_config": source }));
    files.endpoints(&origin);
    let proxy = start(&with_admin(bootstrap(vec![listener("main", hcm(to("origin", json!({}))))], vec![eds])));
    assert_eq!(proxy.connect().ask(GET).text(), "a");
    let counts = || {
        let count = |name| proxy.stat(&format!("cluster.origin.{name}"));
        ["update_attempt", "update_success", "update_no_rebuild", "update_rejected", "update_failure"].map(count)
    };
    assert_eq!(counts(), [2, 1, 0, 0, 0]);
    let at = proxy.stat("cluster.origin.update_time");
    files.endpoints(&origin);
    eventually("the same again", || counts() == [3, 2, 1, 0, 0]);
    assert!(proxy.stat("cluster.origin.update_time") > at && at > 1_700_000_000_000);
    let wrong =
        json!({ "cluster_name": "origin", "endpoints": [{ "lb_endpoints": [{ "load_balancing_weight": 0 }] }] });
    files.put("eds.json", "config.endpoint.v3.ClusterLoadAssignment", wrong);
    eventually("refused", || counts() == [4, 2, 1, 1, 0]);
    std::fs::remove_file(files.0.path().join("eds.json")).unwrap();
    eventually("nothing to read", || counts() == [5, 2, 1, 1, 1]);
    assert_eq!(proxy.connect().ask(GET).text(), "a", "what was good stays");
    let prometheus =
        Wire::connect(proxy.proxy.admin().unwrap()).ask("GET /stats/prometheus HTTP/1.1\r\nhost: a\r\n\r\n");
    let line = "envoy_cluster_update_success{envoy_cluster_name=\"origin\"} 2";
    assert!(prometheus.text().lines().any(|found| found == line));
}

#[test]
fn a_filter_comes_from_a_file_and_only_of_the_types_that_were_named() {
    let origin = Origin::text("a");
    let files = Files::new();
    files.fault(418);
    let discovered = |type_url: &str| {
        let mut hcm = hcm(to("origin", json!({})));
        let filter = json!({ "name": "fault", "config_discovery": {
            "config_source": files.source("ecds.json"),
            "type_urls": [format!("type.googleapis.com/envoy.extensions.filters.http.{type_url}")],
        } });
        hcm["http_filters"].as_array_mut().unwrap().insert(0, filter);
        hcm
    };
    let listeners =
        vec![listener("main", discovered("fault.v3.HTTPFault")), listener("other", discovered("cors.v3.Cors"))];
    let proxy = start(&bootstrap(listeners, vec![cluster("origin", &[origin.address])]));
    let mut client = proxy.connect();
    assert_eq!(client.ask(GET).status(), 418);
    files.fault(419);
    eventually("the new configuration", || client.ask(GET).status() == 419);
    assert!(proxy.proxy.snapshot().listener("other").is_none(), "its filter is of another type");
}

#[test]
fn a_certificate_comes_from_a_file() {
    let (one, two) = (Identity::new(&["localhost"]), Identity::new(&["localhost"]));
    let files = Files::new();
    files.secret(&one);
    let mut main = listener("main", hcm(json!([{ "match": { "prefix": "/" }, "direct_response": { "status": 200 } }])));
    main["filter_chains"][0]["transport_socket"] = json!({ "name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": { "tls_certificate_sds_secret_configs": [
            { "name": "server", "sds_config": files.source("sds.json") },
        ] },
    } });
    let proxy = start(&bootstrap(vec![main], vec![]));
    let address = proxy.address("main");
    let trusts = |identity: &Identity| {
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let mut tls = rustls::ClientConnection::new(identity.client(&[]), name).unwrap();
        let mut tcp = std::net::TcpStream::connect(address).unwrap();
        tls.complete_io(&mut tcp).is_ok()
    };
    assert!(trusts(&one) && !trusts(&two));
    files.secret(&two);
    eventually("the new certificate", || trusts(&two));
}

#[test]
fn a_source_that_cannot_be_reached_is_refused() {
    let check = |source: Value, reason: &str| {
        let bootstrap = bootstrap(vec![listener("main", with_rds(source))], vec![]);
        let error = try_start(&bootstrap, 1).err().expect("it is refused");
        assert!(error.contains(reason), "{error}");
    };
    check(json!({ "ads": {} }), "route configuration \"r\": ads needs dynamic_resources.ads_config");
    let service = json!({ "envoy_grpc": { "cluster_name": "x" } });
    let api = json!({ "api_config_source": { "api_type": "GRPC", "grpc_services": [service] } });
    check(api, "an api_config_source of its own is not implemented");
}

#[test]
fn one_name_from_two_files_is_refused() {
    let files = Files::new();
    let listeners = ["a.json", "b.json"].map(|name| listener(name, with_rds(files.source(name))));
    let error = try_start(&bootstrap(listeners.into(), vec![]), 1).err().expect("it is refused");
    assert!(error.contains("\"r\": another resource takes it from elsewhere"), "{error}");
}
