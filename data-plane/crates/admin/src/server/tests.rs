//! The paths over a made-up proxy, and the server over loopback.

use std::sync::{Mutex, OnceLock};

use http_body_util::BodyExt;
use serde_json::{Value, json};
use shared_telemetry::Scope;
use shared_telemetry::log::{self, Format, Level, Levels};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::state::{Check, ClusterView, Drain, HostView, ListenerView, Ready, ThresholdsView, Unready};

shared_telemetry::stats! {
    struct TestStats {
        counter upstream_rq_total,
        counter upstream_rq_retry,
    }
}

struct Fake {
    ready: Ready,
    calls: Mutex<Vec<String>>,
}

impl Fake {
    fn note(&self, call: impl Into<String>) {
        self.calls.lock().unwrap().push(call.into());
    }
}

impl AdminState for Fake {
    fn ready(&self) -> Ready {
        self.ready
    }

    fn checks(&self) -> Vec<Check> {
        vec![Check { name: "listeners", ok: true }, Check { name: "configuration", ok: self.ready == Ready::Live }]
    }

    fn server_info(&self) -> Value {
        json!({ "state": "LIVE" })
    }

    fn config_dump(&self, include_eds: bool) -> Vec<Value> {
        let mut parts = vec![json!({ "@type": "S", "dynamic_active_secrets": [
            { "name": "key", "secret": { "tls_certificate": { "private_key": { "inline_string": "hush" } } } }] })];
        parts.extend(include_eds.then(|| json!({ "@type": "E" })));
        parts
    }

    fn clusters(&self) -> Vec<ClusterView> {
        let host = HostView { address: "127.0.0.1:80".into(), weight: 1, rq_success: 2, ..HostView::default() };
        let ill = HostView { address: "/tmp/s".into(), health_flags: vec!["failed_active_hc"], ..HostView::default() };
        let thresholds = vec![ThresholdsView { max_requests: 7, ..ThresholdsView::default() }];
        vec![ClusterView { name: "api".into(), thresholds, hosts: vec![host, ill], ..ClusterView::default() }]
    }

    fn unready(&self) -> Vec<Unready> {
        vec![Unready { name: "cluster_manager", targets: vec!["late".into()] }]
    }

    fn allows(&self, path: &str) -> bool {
        !path.starts_with("/memory")
    }

    fn log(&self, exchange: &Exchange<'_>) {
        self.note(format!("{} {} {} {}", exchange.method, exchange.path, exchange.status, exchange.sent));
    }

    fn listeners(&self) -> Vec<ListenerView> {
        vec![ListenerView { name: "web".into(), address: "0.0.0.0:80".into() }]
    }

    fn certs(&self) -> Value {
        json!({ "certificates": [] })
    }

    fn drain_listeners(&self, drain: Drain) {
        self.note(format!("{drain:?}"));
    }

    fn fail_health_check(&self, fail: bool) {
        self.note(format!("fail {fail}"));
    }

    fn quit(&self) {
        self.note("quit");
    }

    fn reopen_logs(&self) -> usize {
        self.note("reopen");
        0
    }
}

fn logs() -> LogHandle {
    static LOGS: OnceLock<LogHandle> = OnceLock::new();
    LOGS.get_or_init(|| log::init(Format::Text, Levels::new(Level::WARN)).unwrap()).clone()
}

fn admin(ready: Ready) -> (Admin, Arc<Fake>) {
    let fake = Arc::new(Fake { ready, calls: Mutex::default() });
    (Admin { state: Arc::clone(&fake) as Arc<dyn AdminState>, registry: Registry::new(1), logs: Some(logs()) }, fake)
}

fn call(admin: &Admin, request: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let (method, uri) = request.split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = answer(admin, &request.body(()).unwrap());
    let status = response.status().as_u16();
    let body = futures_util::FutureExt::now_or_never(response.into_body().collect()).unwrap().unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[track_caller]
fn check(request: &str, status: u16, parts: &[&str]) {
    let (admin, _) = admin(Ready::Live);
    let stats = TestStats::register(&admin.registry, Scope::cluster("api"));
    stats.upstream_rq_total().add(0, 3);
    let (found, body) = call(&admin, request, &[]);
    assert_eq!(found, status, "{request}: {body}");
    for part in parts {
        assert!(body.contains(part), "{request}: {part:?} is not in\n{body}");
    }
}

#[test]
fn every_path_that_reads_answers() {
    check("GET /", 200, &["<form method=\"post\" action=\"/quitquitquit\">"]);
    check("GET /help", 200, &["admin commands are:\n", "  /logging (POST): "]);
    check("GET /ready", 200, &["LIVE\n"]);
    check("GET /livez", 200, &["ok"]);
    check("GET /readyz?verbose", 200, &["[+]listeners ok\n[+]configuration ok\nok\n"]);
    check("GET /server_info", 200, &["\"state\": \"LIVE\""]);
    check("GET /certs", 200, &["certificates"]);
    check("GET /memory", 403, &["request to path /memory not allowed"]);
    check("GET /init_dump", 200, &["unready_targets_dumps", "\"name\": \"cluster_manager\"", "\"late\""]);
    check("GET /runtime", 200, &["layers"]);
    check("GET /listeners", 200, &["web::0.0.0.0:80\n"]);
    check("GET /listeners?format=json", 200, &["\"address\": \"0.0.0.0\"", "\"port_value\": 80"]);
    check(
        "GET /clusters",
        200,
        &[
            "api::default_priority::max_requests::7\n",
            "api::127.0.0.1:80::rq_success::2\n",
            "api::127.0.0.1:80::health_flags::healthy\n",
            "api::/tmp/s::health_flags::/failed_active_hc\n",
        ],
    );
    check(
        "GET /clusters?format=json",
        200,
        &["\"failed_active_health_check\": true", "\"path\": \"/tmp/s\"", "\"value\": \"2\""],
    );
}

#[test]
fn statistics_come_in_three_formats() {
    check("GET /stats", 200, &["cluster.api.upstream_rq_total: 3\n", "cluster.api.upstream_rq_retry: 0\n"]);
    check("GET /stats?format=json&usedonly", 200, &["\"name\": \"cluster.api.upstream_rq_total\""]);
    for path in ["/stats/prometheus", "/metrics", "/stats?format=prometheus"] {
        check(&format!("GET {path}"), 200, &["envoy_cluster_upstream_rq_total{envoy_cluster_name=\"api\"} 3\n"]);
    }
    check("GET /stats?filter=(", 400, &["filter: "]);
    check("GET /stats?format=xml", 400, &["format must be"]);
    check("GET /stats?type=Texts", 400, &["type must be"]);
}

#[test]
fn the_dump_hides_secrets_and_knows_its_parameters() {
    check("GET /config_dump", 200, &["[redacted]"]);
    check("GET /config_dump?include_eds", 200, &["\"@type\": \"E\""]);
    check("GET /config_dump?resource=dynamic_active_secrets&mask=name", 200, &["\"name\": \"key\""]);
    check("GET /config_dump?resource=nothing", 404, &["nothing not found"]);
    check("GET /config_dump?name_regex=(", 400, &["name_regex: "]);
}

#[test]
fn an_unknown_path_lists_the_known_ones() {
    check("GET /nonsense", 404, &["invalid path. admin commands are:", "/config_dump"]);
}

#[test]
fn what_changes_something_is_post_only_and_not_for_other_sites() {
    let (admin, fake) = admin(Ready::Live);
    for path in PATHS.iter().filter(|path| path.changes) {
        let (status, body) = call(&admin, &format!("GET {}", path.path), &[]);
        assert_eq!((status, body.contains("use POST")), (405, true), "{}", path.path);
        assert_eq!(call(&admin, &format!("POST {}", path.path), &[("sec-fetch-site", "cross-site")]).0, 403);
        let foreign = [("origin", "http://evil.example"), ("host", "127.0.0.1:9901")];
        assert_eq!(call(&admin, &format!("POST {}", path.path), &foreign).0, 403);
        let rebound = [("origin", "http://evil.example:9901"), ("host", "evil.example:9901")];
        assert_eq!(call(&admin, &format!("POST {}", path.path), &rebound).0, 403);
        let rebound = [("sec-fetch-site", "same-origin"), ("host", "evil.example")];
        assert_eq!(call(&admin, &format!("POST {}", path.path), &rebound).0, 403);
    }
    assert!(fake.calls.lock().unwrap().is_empty());
    assert_eq!(call(&admin, "POST /ready", &[]).0, 405);
    let own = [("origin", "http://127.0.0.1:9901"), ("host", "127.0.0.1:9901")];
    for path in
        ["/healthcheck/fail", "/healthcheck/ok", "/drain_listeners?graceful&skip_exit", "/reopen_logs", "/quitquitquit"]
    {
        assert_eq!(call(&admin, &format!("POST {path}"), &own), (200, "OK\n".into()));
    }
    for own in ["[::1]:9901", "localhost"] {
        let fields = [("origin", &*format!("http://{own}")), ("host", own)];
        assert_eq!(call(&admin, "POST /nothing", &fields).0, 404);
        assert_eq!(call(&admin, "POST /reset_counters", &fields).0, 200);
    }
    let drain = "Drain { graceful: true, skip_exit: true, inbound_only: false }";
    assert_eq!(*fake.calls.lock().unwrap(), ["fail true", "fail false", drain, "reopen", "quit"]);
    assert_eq!(call(&admin, "POST /drain_listeners?skip_exit", &[]).0, 400);
}

#[test]
fn counters_are_reset_and_levels_are_changed() {
    let (admin, _) = admin(Ready::Live);
    let stats = TestStats::register(&admin.registry, Scope::cluster("api"));
    stats.upstream_rq_total().inc(0);
    assert_eq!(call(&admin, "POST /reset_counters", &[]).0, 200);
    assert_eq!(stats.upstream_rq_total().value(), 0);
    assert_eq!(call(&admin, "POST /logging?level=loud", &[]).0, 400);
    let (status, body) = call(&admin, "POST /logging?level=error&paths=dp_http:debug", &[]);
    assert_eq!((status, body.as_str()), (200, "active loggers:\n  default: error\n  dp_http: debug\n"));
}

#[test]
fn a_proxy_that_drains_or_starts_is_not_ready() {
    let (draining, _) = admin(Ready::Draining);
    assert_eq!(call(&draining, "GET /ready", &[]), (503, "DRAINING\n".into()));
    let (starting, _) = admin(Ready::Initializing);
    assert_eq!(call(&starting, "GET /ready", &[]), (503, "INITIALIZING\n".into()));
    assert_eq!(call(&starting, "GET /readyz?verbose", &[]).1, "[+]listeners ok\n[-]configuration failed\nnot ready\n");
}

#[tokio::test]
async fn the_server_answers_over_a_socket_and_stops() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (admin, fake) = admin(Ready::Live);
    let server = tokio::spawn(serve(listener, Arc::new(admin), async { drop(stopped.await) }));
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET /ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(*fake.calls.lock().unwrap(), ["GET /ready 200 5"]);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nLIVE\n"), "{answer}");
    let mut client = TcpStream::connect(address).await.unwrap();
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(HEAD_LIMIT * 2));
    let _ = client.write_all(long.as_bytes()).await;
    let mut answer = [0; 12];
    client.read_exact(&mut answer).await.unwrap();
    assert!(matches!(&answer, b"HTTP/1.1 431" | b"HTTP/1.1 414"), "{}", String::from_utf8_lossy(&answer));
    stop.send(()).unwrap();
    server.await.unwrap();
}

#[tokio::test]
async fn connections_that_are_kept_open_for_nothing_keep_nobody_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, Arc::new(admin(Ready::Live).0), std::future::pending()));
    let ask = async |client: &mut TcpStream| {
        client.write_all(b"HEAD /ready HTTP/1.1\r\nhost: a\r\n\r\n").await?;
        let mut answer = [0; 1024];
        let length = client.read(&mut answer).await?;
        assert!(answer[..length].starts_with(b"HTTP/1.1 200 ") || length == 0);
        if length == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        std::io::Result::Ok(())
    };
    let mut oldest = TcpStream::connect(address).await.unwrap();
    ask(&mut oldest).await.unwrap();
    let mut silent = Vec::new();
    for _ in 1..MAX_CONNECTIONS {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    // Idle for the shortest time again.
    ask(&mut oldest).await.unwrap();
    for _ in 0..MAX_CONNECTIONS / 2 {
        ask(&mut TcpStream::connect(address).await.unwrap()).await.unwrap();
    }
    ask(&mut oldest).await.unwrap();
    assert_eq!(silent[0].read(&mut [0]).await.unwrap_or_default(), 0, "the one that is idle longest is closed");
    server.abort();
}
