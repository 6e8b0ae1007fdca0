//! Configuration that changes while requests run: files moved into place, and hundreds of pushes under load.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use bytes::Bytes;
use cp_xds::{Class, Fleet, Publisher, Settings, XdsServer};
use integration_tests::client::{self, Client, collect, push, request, soon};
use integration_tests::config::{assignment, cluster, hcm, http2, listener, merge};
use integration_tests::eventually::eventually;
use integration_tests::proxy::{Running, start, start_with};
use integration_tests::upstream::{Origin, reply};
use integration_tests::wire::Wire;
use proto::envoy::service::discovery::v3::DiscoveryResponse;
use serde_json::{Value, json};
use tempfile::TempDir;

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const SLOW: &str = "GET /slow HTTP/1.1\r\nhost: a\r\n\r\n";
const WEBSOCKET: &str = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Configuration in files that are replaced in one step.
struct Files {
    directory: TempDir,
}

impl Files {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn source(&self, name: &str) -> Value {
        json!({ "path_config_source": { "path": self.path(name) } })
    }

    /// Moves a file with these resources into place.
    fn put(&self, name: &str, kind: &str, resources: &[Value]) {
        let resources: Vec<Value> = resources.iter().map(|resource| typed(kind, resource.clone())).collect();
        self.put_text(name, &json!({ "resources": resources }).to_string());
    }

    fn put_text(&self, name: &str, text: &str) {
        let new = self.path("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }

    fn routes(&self, routes: Value) {
        let hosts = json!([{ "name": "all", "domains": ["*"], "routes": routes }]);
        self.put("rds.yaml", "route.v3.RouteConfiguration", &[json!({ "name": "r", "virtual_hosts": hosts })]);
    }

    fn listeners(&self, listeners: &[Value]) {
        self.put("lds.yaml", "listener.v3.Listener", listeners);
    }

    fn endpoints(&self, origin: &Origin) {
        self.put("eds.yaml", "endpoint.v3.ClusterLoadAssignment", &[assignment("origin", &[origin.address])]);
    }

    /// A listener whose routes come from `rds.yaml`, and a cluster whose endpoints come from `eds.yaml`.
    fn all(&self, origin: &Origin) {
        self.endpoints(origin);
        self.routes(says("one"));
        let eds = json!({ "eds_config": self.source("eds.yaml") });
        let cluster = json!({ "name": "origin", "type": "EDS", "eds_cluster_config": eds });
        self.put("cds.yaml", "cluster.v3.Cluster", &[cluster]);
        self.listeners(&[self.listener("main")]);
    }

    fn listener(&self, name: &str) -> Value {
        listener(name, with_rds(self.source("rds.yaml")))
    }

    fn start(&self) -> Running {
        start(&json!({
            "node": { "id": "it", "cluster": "it" },
            "dynamic_resources": { "lds_config": self.source("lds.yaml"), "cds_config": self.source("cds.yaml") },
        }))
    }
}

fn typed(kind: &str, mut resource: Value) -> Value {
    merge(&mut resource, json!({ "@type": format!("type.googleapis.com/envoy.config.{kind}") }));
    resource
}

/// A connection manager whose routes `r` come from elsewhere.
fn with_rds(source: Value) -> Value {
    let mut hcm = hcm(json!([]));
    hcm.as_object_mut().unwrap().remove("route_config");
    hcm["rds"] = json!({ "route_config_name": "r", "config_source": source });
    hcm
}

/// Routes that add this word to the response of the origin.
fn says(word: &str) -> Value {
    json!([{
        "match": { "prefix": "/" },
        "route": { "cluster": "origin" },
        "response_headers_to_add": [{ "header": { "key": "x-word", "value": word } }],
    }])
}

fn word(client: &mut Wire) -> String {
    client.ask(GET).header("x-word").unwrap_or_default().to_owned()
}

#[test]
fn files_moved_into_place_are_followed() {
    let (a, b) = (Origin::text("a"), Origin::text("b"));
    let files = Files::new();
    files.all(&a);
    let proxy = files.start();
    let mut client = proxy.connect();
    let answer = client.ask(GET);
    assert_eq!((answer.text(), answer.header("x-word")), ("a".into(), Some("one")));
    files.routes(says("two"));
    eventually("the new route", || word(&mut client) == "two");
    files.endpoints(&b);
    eventually("the new endpoint", || client.ask(GET).text() == "b");
    assert_eq!(word(&mut client), "two", "the connection of the client outlived it all");
}

#[test]
fn a_broken_push_keeps_the_last_good_one() {
    let origin = Origin::text("a");
    let files = Files::new();
    files.all(&origin);
    let proxy = files.start();
    let mut client = proxy.connect();
    assert_eq!(word(&mut client), "one");
    let generation = proxy.proxy.snapshot().generation;
    let unknown = json!({ "resources": [{ "@type": "type.googleapis.com/nobody.knows.It" }] });
    let bad_regex =
        || files.routes(json!([{ "match": { "safe_regex": { "regex": "(" } }, "route": { "cluster": "origin" } }]));
    let breaks: [&dyn Fn(); 4] = [
        &|| files.put_text("rds.yaml", "resources: ["),
        &|| files.put_text("rds.yaml", &unknown.to_string()),
        &|| files.put_text("lds.yaml", "no: resources"),
        &bad_regex,
    ];
    for (number, put) in breaks.iter().enumerate() {
        put();
        // What is moved into place later is seen later, so the broken one has been looked at by then.
        let text = format!("after {number}");
        files.endpoints(&Origin::text(&text));
        eventually("the endpoints after it", || client.ask(GET).text() == text);
        assert_eq!(word(&mut client), "one");
    }
    assert!(proxy.proxy.snapshot().generation > generation);
    files.routes(says("good again"));
    eventually("the next good one", || word(&mut client) == "good again");
}

#[test]
fn listeners_come_and_go() {
    let origin = Origin::text("a");
    let files = Files::new();
    files.all(&origin);
    let proxy = files.start();
    let mut first = proxy.connect();
    assert_eq!(word(&mut first), "one");
    files.listeners(&[files.listener("main"), files.listener("second")]);
    let second = proxy.address("second");
    let mut idle = Wire::connect(second);
    assert_eq!(word(&mut idle), "one");
    files.listeners(&[files.listener("main")]);
    assert!(idle.is_closed(), "an idle connection of a removed listener ends");
    eventually("nobody listens there any more", || std::net::TcpStream::connect(second).is_err());
    assert_eq!(word(&mut first), "one", "the other listener is not touched");
}

/// An origin whose answer to `/slow` waits for a word of the test.
fn slow_origin() -> (Origin, mpsc::Sender<()>) {
    let (go, wait) = mpsc::channel();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::scripted(move |_, wire, origin| {
        while let Some(request) = wire.try_message() {
            let path = request.path().to_owned();
            origin.note(request);
            if path == "/slow" {
                let _ = wait.lock().unwrap().recv();
            }
            wire.send(reply(200, &path));
        }
    });
    (origin, go)
}

fn has_slow(origin: &Origin) -> bool {
    origin.seen().iter().any(|request| request.path() == "/slow")
}

#[test]
fn a_changed_filter_chain_drains_only_its_own_connections() {
    let (origin, go) = slow_origin();
    let files = Files::new();
    files.all(&origin);
    let both = |prefix: &str| {
        let mut listener = files.listener("main");
        listener["address"]["socket_address"]["address"] = json!("0.0.0.0");
        let mut changed = listener["filter_chains"][0].clone();
        changed["filters"][0]["typed_config"]["stat_prefix"] = json!(prefix);
        changed["filter_chain_match"] =
            json!({ "prefix_ranges": [{ "address_prefix": "127.0.0.2", "prefix_len": 32 }] });
        listener["filter_chains"].as_array_mut().unwrap().push(changed);
        listener
    };
    files.listeners(&[both("before")]);
    let proxy = files.start();
    let port = proxy.address("main").port();
    let connect = |ip: [u8; 4]| Wire::connect((ip, port).into());
    let mut kept = connect([127, 0, 0, 1]);
    let (mut idle, mut busy) = (connect([127, 0, 0, 2]), connect([127, 0, 0, 2]));
    for client in [&mut kept, &mut idle, &mut busy] {
        assert_eq!(client.ask(GET).text(), "/");
    }
    busy.send(SLOW);
    eventually("the origin has the request", || has_slow(&origin));
    files.listeners(&[both("after")]);
    assert!(idle.is_closed(), "an idle connection of the old chain ends");
    go.send(()).unwrap();
    let answer = busy.message();
    assert_eq!((answer.text(), answer.header("connection")), ("/slow".into(), Some("close")));
    assert!(busy.is_closed());
    assert_eq!(connect([127, 0, 0, 2]).ask(GET).text(), "/");
    let answer = kept.ask(GET);
    assert_eq!((answer.text(), answer.header("connection")), ("/".into(), None));
}

#[test]
fn shutting_down_lets_requests_finish_and_ends_idle_connections() {
    let (origin, go) = slow_origin();
    let files = Files::new();
    files.all(&origin);
    let proxy = files.start();
    let (mut idle, mut busy) = (proxy.connect(), proxy.connect());
    assert_eq!(idle.ask(GET).text(), "/");
    busy.send(SLOW);
    eventually("the origin has the request", || has_slow(&origin));
    let address = proxy.address("main");
    proxy.proxy.shut_down();
    assert!(idle.is_closed());
    eventually("nothing new is accepted", || std::net::TcpStream::connect(address).is_err());
    go.send(()).unwrap();
    let answer = busy.message();
    assert_eq!((answer.text(), answer.header("connection")), ("/slow".into(), Some("close")));
    assert!(busy.is_closed());
    proxy.proxy.join();
}

// === pushes under load ===

const PUSHES: u64 = 200;

/// What a management server sends at a revision: routes that tell the origin and the client which one it is.
fn resources(revision: u64, origin: &Origin, two: std::net::SocketAddr) -> Value {
    let mut hcm = with_rds(json!({ "ads": {}, "resource_api_version": "V3" }));
    let upgrades = json!([{ "upgrade_type": "websocket" }]);
    merge(&mut hcm, json!({ "upgrade_configs": upgrades, "http2_protocol_options": { "allow_connect": true } }));
    let header = |name: &str, value: &str| json!({ "header": { "key": name, "value": value } });
    let revision_text = revision.to_string();
    let route = |prefix: &str, cluster: &str| {
        json!({
            "match": { "prefix": prefix },
            "route": { "cluster": cluster },
            "request_headers_to_add": [header("x-up", &revision_text)],
            "response_headers_to_add": [header("x-down", &revision_text), header("x-cluster", "%UPSTREAM_CLUSTER%")],
        })
    };
    // A cluster of its own for each revision: no request may see a route without its cluster.
    let own = format!("own-{revision}");
    let routes = json!([route("/own", &own), route("/", "origin")]);
    let hosts = json!([{ "name": "all", "domains": ["*"], "routes": routes }]);
    json!({ "resources": [
        typed("listener.v3.Listener", listener("main", hcm)),
        typed("route.v3.RouteConfiguration", json!({ "name": "r", "virtual_hosts": hosts })),
        typed("cluster.v3.Cluster", cluster("origin", &[origin.address])),
        typed("cluster.v3.Cluster", http2(cluster(&own, &[two]))),
    ] })
}

fn publish(publisher: &Publisher, revision: u64, resources: &Value) {
    let response: DiscoveryResponse = proto::json::from_yaml(&resources.to_string()).unwrap();
    let resources = response.resources.into_iter().map(|any| cp_xds::resource(any).unwrap()).collect();
    publisher.publish("edge", Class::Weir, resources, revision);
}

/// What an answer must say when the origin saw this generation: the route of it, and its cluster.
fn one_snapshot(path: &str, generation: &str) -> [String; 2] {
    let cluster = if path == "/own" { format!("own-{generation}") } else { "origin".to_owned() };
    [generation.to_owned(), cluster]
}

/// Sends requests over one connection until told to stop; answers how many there were.
fn load_http1(proxy: &Running, path: &'static str, stop: &Arc<AtomicBool>) -> JoinHandle<usize> {
    let (address, stop) = (proxy.address("main"), Arc::clone(stop));
    std::thread::spawn(move || {
        let mut client = Wire::connect(address);
        let mut count = 0;
        while !stop.load(Ordering::SeqCst) {
            let answer = client.ask(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n"));
            assert_eq!((answer.status(), answer.complete), (200, true), "{path} after {count}: {answer:?}");
            let saw = [answer.header("x-down"), answer.header("x-cluster")].map(Option::unwrap_or_default);
            assert_eq!(saw, one_snapshot(path, &answer.text()), "one request saw two snapshots");
            assert_eq!(answer.header("connection"), None);
            count += 1;
        }
        count
    })
}

/// Says which generation the request was of; sends back what comes by WebSocket.
fn generations() -> Origin {
    Origin::scripted(|_, wire, _| {
        while let Some(request) = wire.try_message() {
            if request.path() == "/ws" {
                wire.send("HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
                while let [byte] = wire.bytes(1)[..] {
                    wire.send([byte]);
                }
                return;
            }
            if request.path() == "/slow" {
                // Several pushes pass before the answer.
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            wire.send(reply(200, request.header("x-up").unwrap_or_default()));
        }
    })
}

fn bootstrap(management: std::net::SocketAddr) -> Value {
    let ads = json!({ "api_type": "DELTA_GRPC", "transport_api_version": "V3",
        "grpc_services": [{ "envoy_grpc": { "cluster_name": "xds" } }] });
    let of_ads = json!({ "ads": {}, "resource_api_version": "V3" });
    json!({
        "node": { "id": "it", "cluster": "it" },
        "dynamic_resources": { "ads_config": ads, "lds_config": of_ads, "cds_config": of_ads },
        "static_resources": { "clusters": [http2(cluster("xds", &[management]))] },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_pushes_under_load_break_nothing() {
    let origin = generations();
    let two = integration_tests::client::origin(None, |request, mut respond| async move {
        let generation = request.headers().get("x-up").and_then(|value| value.to_str().ok()).unwrap_or_default();
        integration_tests::client::answer(&mut respond, 200, generation);
    })
    .await;
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let management = socket.local_addr().unwrap();
    let publisher = Publisher::default();
    let server = XdsServer::new(publisher.clone(), Fleet::new(Default::default()), Settings::one_group("edge"));
    tokio::spawn(cp_xds::serve(server, socket, None, std::future::pending()));
    publish(&publisher, 1, &resources(1, &origin, two));
    let proxy = start_with(&bootstrap(management), 2);

    let stop = Arc::new(AtomicBool::new(false));
    let mut websocket = proxy.connect();
    assert_eq!(websocket.send(WEBSOCKET).head().unwrap().status(), 101);
    let loads = ["/", "/own", "/slow"].map(|path| load_http1(&proxy, path, &stop));
    let streams = Arc::new(AtomicUsize::new(0));
    let client = Client::connect(proxy.address("main")).await;
    let mut websocket_of_two = client::websocket(&client, "/ws").await;
    // Side by side on the connection that has the WebSocket.
    let over_http2 = ["/", "/own", "/slow"].map(|path| {
        let (stop, streams, requests) = (Arc::clone(&stop), Arc::clone(&streams), client.requests.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let (response, _) =
                    requests.clone().ready().await.unwrap().send_request(request("GET", path), true).unwrap();
                let answer = soon(collect(soon(response).await.unwrap())).await.unwrap();
                assert_eq!(answer.status, 200, "{path}: {answer:?}");
                let saw = ["x-down", "x-cluster"].map(|name| answer.headers[name].to_str().unwrap());
                assert_eq!(
                    saw,
                    one_snapshot(path, &String::from_utf8_lossy(&answer.body)),
                    "one request saw two snapshots"
                );
                streams.fetch_add(1, Ordering::SeqCst);
            }
        })
    });
    for revision in 2..=PUSHES {
        publish(&publisher, revision, &resources(revision, &origin, two));
        let seen = async {
            while proxy.proxy.snapshot().revision != Some(revision) {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        soon(seen).await;
        websocket.send([revision as u8]);
        assert_eq!(websocket.bytes(1), [revision as u8], "the WebSocket lives");
        push(&mut websocket_of_two.0, Bytes::from(vec![revision as u8]), false).await.unwrap();
        let back = soon(websocket_of_two.1.data()).await.unwrap().unwrap();
        assert_eq!(&back[..], [revision as u8], "the WebSocket over HTTP/2 lives");
    }
    stop.store(true, Ordering::SeqCst);
    for (load, least) in loads.into_iter().zip([50, 50, 2]) {
        assert!(load.join().unwrap() > least);
    }
    for load in over_http2 {
        load.await.unwrap();
    }
    assert!(streams.load(Ordering::SeqCst) > 50);
    assert_eq!(proxy.connect().ask(GET).text(), PUSHES.to_string());
}
