//! The control plane as a whole: started in this process, asked over gRPC and over REST.

use std::net::SocketAddr;
use std::path::Path;

use control_plane::settings::{Access, Settings};
use control_plane::{Running, StartError, start};
use cp_management::Role;
use proto::weir::management::v1 as pb;
use proto::weir::management::v1::config_service_client::ConfigServiceClient;
use proto::weir::management::v1::fleet_service_client::FleetServiceClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::Channel;
use tonic_types::StatusExt;

const BASE: &str = "listeners:\n  web: \":8080\"\nroutes:\n  - to: app\nclusters:\n  app: [\"127.0.0.1:9000\"]\n";

fn settings(folder: &Path) -> Settings {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    Settings {
        store: folder.join("weir.redb"),
        xds_address: address,
        management_address: address,
        access: Access::InsecureLoopback,
        groups: Default::default(),
        load_interval: std::time::Duration::from_secs(1),
    }
}

struct Plane {
    management: SocketAddr,
    xds: SocketAddr,
    stop: tokio::sync::oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<Result<(), String>>,
}

impl Plane {
    async fn start(folder: &Path) -> Plane {
        Self::of(start(settings(folder)).await.expect("starts"))
    }
    fn of(running: Running) -> Plane {
        let (management, xds) = (running.management, running.xds);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let ended = tokio::spawn(running.until(async { drop(stopped.await) }));
        Plane { management, xds, stop, ended }
    }
    async fn config(&self) -> ConfigServiceClient<Channel> {
        ConfigServiceClient::new(self.channel().await)
    }
    async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.management)).expect("an address");
        endpoint.connect().await.expect("connects")
    }
    async fn stop(self) {
        self.stop.send(()).expect("runs");
        self.ended.await.expect("ends").expect("cleanly");
    }
    /// Status, head and body of one HTTP/1 exchange.
    async fn http(&self, request: &str, body: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.management).await.expect("connects");
        let length = body.len();
        let text = format!("{request}host: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(text.as_bytes()).await.expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("reads");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
        (status, head.to_owned(), body.to_owned())
    }
}

fn change(text: &str) -> Option<pb::ChangeSet> {
    let sources = vec![pb::Source { file_name: "f.yaml".into(), text: text.into() }];
    Some(pb::ChangeSet { sources, ..Default::default() })
}

fn apply(text: &str) -> pb::ApplyRequest {
    pb::ApplyRequest { change: change(text), message: "why".into(), ..Default::default() }
}

#[tokio::test]
async fn a_configuration_is_applied_read_changed_and_rolled_back_over_grpc() {
    let folder = tempfile::tempdir().expect("a folder");
    let plane = Plane::start(folder.path()).await;
    let mut config = plane.config().await;
    let applied = config.apply(apply(BASE)).await.expect("is right").into_inner();
    let revision = applied.revision.expect("made");
    assert_eq!((revision.id, revision.author.as_str(), revision.message.as_str()), (1, "anonymous", "why"));
    assert_eq!(applied.changes.len(), 3);

    let got = config.get(pb::GetRequest { kind: pb::Kind::Cluster.into(), name: "app".into(), revision: 0 }).await;
    let object = got.expect("is there").into_inner().object.expect("given");
    assert_eq!((object.json.as_str(), object.file.as_str(), object.line), ("[\"127.0.0.1:9000\"]", "f.yaml", 6));

    let diff =
        config.diff(pb::DiffRequest { change: change("clusters: { app: ['127.0.0.1:9001'] }"), ..Default::default() });
    let changes = diff.await.expect("is right").into_inner().changes;
    assert!(changes.len() == 1 && changes[0].diff.contains("9001"), "{changes:?}");

    let mut second = apply("clusters: { app: ['127.0.0.1:9001'] }");
    second.etag = revision.etag.clone();
    config.apply(second.clone()).await.expect("in time");
    let late = config.apply(second).await.expect_err("too late");
    assert_eq!(late.code(), Code::Aborted);
    assert_eq!(late.get_details_error_info().expect("given").reason, "ETAG_MISMATCH");

    let back = config.rollback(pb::RollbackRequest { id: 1, ..Default::default() }).await.expect("works").into_inner();
    assert_eq!(back.revision.expect("made").rollback_of, 1);
    let list = config
        .list_revisions(pb::ListRevisionsRequest { page_size: 2, ..Default::default() })
        .await
        .expect("works")
        .into_inner();
    assert_eq!(list.revisions.iter().map(|r| r.id).collect::<Vec<_>>(), [3, 2]);
    assert_eq!(list.next_page_token, "2");
    let export = config.export(pb::ExportRequest::default()).await.expect("works").into_inner().text;
    assert!(config.apply(apply(&export)).await.expect("its own export").into_inner().changes.is_empty(), "{export}");
    plane.stop().await;
}

#[tokio::test]
async fn problems_come_as_details_with_file_line_and_column() {
    let folder = tempfile::tempdir().expect("a folder");
    let plane = Plane::start(folder.path()).await;
    let mut config = plane.config().await;
    let status = config.apply(apply("routes:\n  - to: ap\nclusters:\n  app: [\"x\"]\n")).await.expect_err("is wrong");
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_error_details_vec();
    let infos: Vec<_> = details
        .iter()
        .filter_map(|d| match d {
            tonic_types::ErrorDetail::ErrorInfo(info) => Some(info),
            _ => None,
        })
        .collect();
    assert_eq!(infos.len(), 2, "{status:?}");
    let meta = |key: &str| infos[0].metadata.get(key).map(String::as_str);
    assert_eq!(
        (infos[0].reason.as_str(), meta("file"), meta("line"), meta("column")),
        ("W0101", Some("f.yaml"), Some("2"), Some("9"))
    );
    assert_eq!(meta("hint"), Some("did you mean `app`?"));
    assert_eq!(status.get_details_bad_request().expect("given").field_violations.len(), 2);

    config.apply(apply(BASE)).await.expect("is right");
    let object = pb::ObjectName { kind: pb::Kind::Cluster.into(), name: "app".into() };
    let status =
        config.delete(pb::DeleteRequest { objects: vec![object], ..Default::default() }).await.expect_err("is used");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(status.get_details_precondition_failure().expect("given").violations[0].subject, "route/routes[0]");
    plane.stop().await;
}

#[tokio::test]
async fn a_watch_tells_every_revision_and_ends_with_the_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let plane = Plane::start(folder.path()).await;
    let mut config = plane.config().await;
    config.apply(apply(BASE)).await.expect("is right");
    let mut watch = config.watch_revisions(pb::WatchRevisionsRequest { after: 0 }).await.expect("opens").into_inner();
    let id = |r: Option<pb::WatchRevisionsResponse>| r.and_then(|r| r.revision).map(|r| r.id);
    assert_eq!(id(watch.message().await.expect("open")), Some(1));
    for port in 1..4 {
        config.apply(apply(&format!("clusters: {{ app: ['127.0.0.1:{port}'] }}"))).await.expect("is right");
    }
    for expected in 2..5 {
        assert_eq!(id(watch.message().await.expect("open")), Some(expected));
    }
    let mut again = config.watch_revisions(pb::WatchRevisionsRequest { after: 2 }).await.expect("opens").into_inner();
    assert_eq!(id(again.message().await.expect("open")), Some(3));
    plane.stop().await;
}

#[tokio::test]
async fn the_same_over_rest() {
    let folder = tempfile::tempdir().expect("a folder");
    let plane = Plane::start(folder.path()).await;
    let body = serde_json::json!({ "change": { "sources": [{ "file_name": "f.yaml", "text": BASE }] } }).to_string();
    let (status, head, answer) = plane.http("POST /v1/config/apply HTTP/1.1\r\n", &body).await;
    assert_eq!(status, 200, "{answer}");
    let etag = head.lines().find_map(|l| l.strip_prefix("etag: ")).expect("an etag").to_owned();
    let (status, _, answer) = plane.http("GET /v1/clusters/app HTTP/1.1\r\n", "").await;
    assert!(status == 200 && answer.contains("127.0.0.1:9000"), "{answer}");
    let other = body.replace("9000", "9001");
    let guarded = format!("POST /v1/config/apply HTTP/1.1\r\nif-match: {etag}\r\n");
    assert_eq!(plane.http(&guarded, &other).await.0, 200);
    assert_eq!(plane.http(&guarded, &body).await.0, 412);
    let wrong = body.replace("to: app", "to: ap");
    let (status, head, answer) = plane.http("POST /v1/config/apply HTTP/1.1\r\n", &wrong).await;
    assert!(status == 400 && head.contains("application/problem+json"), "{head}");
    let problem: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(problem["problems"][0]["line"], 4, "{problem}");
    for (request, expected) in [
        ("GET /v1/revisions/1 HTTP/1.1\r\n", 200),
        ("GET /v1/revisions/99 HTTP/1.1\r\n", 404),
        ("GET /v1/nodes HTTP/1.1\r\n", 200),
        ("GET /v1/nodes/x HTTP/1.1\r\n", 404),
        ("GET /v1/config/export?format=envoy-yaml HTTP/1.1\r\n", 200),
        ("GET /v1/zebras HTTP/1.1\r\n", 400),
        ("DELETE /v1/clusters/app HTTP/1.1\r\n", 409),
        ("POST /v1/revisions/1/rollback HTTP/1.1\r\n", 200),
        ("GET /nothing HTTP/1.1\r\n", 404),
        ("GET /healthz HTTP/1.1\r\n", 200),
    ] {
        let (status, _, answer) = plane.http(request, "").await;
        assert_eq!(status, expected, "{request}: {answer}");
    }
    plane.stop().await;
}

#[tokio::test]
async fn revisions_are_there_after_a_restart_and_the_port_is_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let plane = Plane::start(folder.path()).await;
    plane.config().await.apply(apply(BASE)).await.expect("is right");
    plane.stop().await;
    let plane = Plane::start(folder.path()).await;
    let head = plane.config().await.get_revision(pb::GetRevisionRequest { id: 0 }).await.expect("reads").into_inner();
    assert_eq!((head.revision.expect("kept").id, head.objects.len()), (1, 3));
    TcpStream::connect(plane.xds).await.expect("nodes can connect");
    plane.stop().await;
}

#[tokio::test]
async fn a_port_or_a_store_in_use_starts_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let plane = Plane::start(folder.path()).await;
    let other = tempfile::tempdir().expect("a folder");
    let mut taken = settings(other.path());
    taken.management_address = plane.management;
    match start(taken).await.err().expect("refused") {
        StartError::Listen { address, .. } => assert_eq!(address, plane.management),
        other => panic!("{other}"),
    }
    let error = start(settings(folder.path())).await.err().expect("refused").to_string();
    assert!(error.contains("in use by another process"), "{error}");
    plane.stop().await;
}

#[tokio::test]
async fn unknown_nodes_and_groups_are_not_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let plane = Plane::start(folder.path()).await;
    let mut fleet = FleetServiceClient::new(plane.channel().await);
    assert_eq!(fleet.list_nodes(pb::ListNodesRequest::default()).await.expect("works").into_inner().nodes.len(), 0);
    let status = fleet.get_node(pb::GetNodeRequest { id: "x".into() }).await.expect_err("not there");
    assert_eq!(status.code(), Code::NotFound);
    let unknown = "group `defalt` is not known: did you mean `default`?";
    let status = fleet.list_nodes(pb::ListNodesRequest { group: "defalt".into() }).await.expect_err("no such group");
    assert_eq!((status.code(), status.message()), (Code::NotFound, unknown));
    let watched = fleet.watch_nodes(pb::WatchNodesRequest { group: "defalt".into() }).await.expect("opens");
    let status = watched.into_inner().message().await.expect_err("no such group");
    assert_eq!((status.code(), status.message()), (Code::NotFound, unknown));
    plane.stop().await;
}

/// A control plane that asks for tokens: `secret-of-ROLE` for each role.
struct Guarded {
    plane: Plane,
    channel: Channel,
    folder: tempfile::TempDir,
    key: String,
}

impl Guarded {
    async fn start() -> Guarded {
        let folder = tempfile::tempdir().expect("a folder");
        let identity = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("writes");
            path
        };
        let line =
            |role: &str| format!("{role}-1 {role} {}\n", cp_management::hash_token(&format!("secret-of-{role}")));
        let (certificate, key) = (identity.cert.pem(), identity.signing_key.serialize_pem());
        let mut guarded = settings(folder.path());
        guarded.access = Access::Guarded {
            tls_cert: file("c.pem", &certificate),
            tls_key: file("k.pem", &key),
            node_ca: file("ca.pem", &certificate),
            token_file: file("tokens", &["viewer", "editor", "admin"].map(line).concat()),
        };
        let plane = Plane::of(start(guarded).await.expect("starts"));
        let ca = tonic::transport::Certificate::from_pem(&certificate);
        let tls = tonic::transport::ClientTlsConfig::new().ca_certificate(ca).domain_name("localhost");
        let endpoint = Channel::from_shared(format!("https://{}", plane.management)).expect("an address");
        let channel = endpoint.tls_config(tls).expect("usable").connect().await.expect("connects");
        Guarded { plane, channel, folder, key: certificate + &key }
    }

    fn config(&self) -> ConfigServiceClient<Channel> {
        ConfigServiceClient::new(self.channel.clone())
    }

    /// Status and body of a request over HTTP/2, which REST answers as well.
    async fn http(&self, method: &str, path: &str, token: Option<&str>) -> (u16, String) {
        use tonic::client::GrpcService;
        let mut request = axum::http::Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let mut channel = self.channel.clone();
        std::future::poll_fn(|cx| GrpcService::<tonic::body::Body>::poll_ready(&mut channel, cx)).await.expect("ready");
        let answer = channel.call(request.body(tonic::body::Body::empty()).expect("a request")).await.expect("answers");
        let status = answer.status().as_u16();
        // A watch has no end.
        let event = answer.headers().get("content-type").is_some_and(|v| v == "text/event-stream");
        let body = axum::body::Body::new(answer.into_body());
        let bytes = if event { Default::default() } else { axum::body::to_bytes(body, 1 << 20).await.expect("reads") };
        (status, String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn with<T>(role: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer secret-of-{role}").parse().expect("ascii"));
    request
}

#[tokio::test]
async fn with_tokens_and_tls_a_caller_may_do_what_the_role_allows() {
    let guarded = Guarded::start().await;
    let mut config = guarded.config();
    assert_eq!(config.apply(apply(BASE)).await.expect_err("no token").code(), Code::Unauthenticated);
    assert_eq!(config.apply(with("guess", apply(BASE))).await.expect_err("unknown").code(), Code::Unauthenticated);
    let denied = config.apply(with("viewer", apply(BASE))).await.expect_err("a viewer");
    assert_eq!(denied.code(), Code::PermissionDenied);
    assert_eq!(denied.message(), "`viewer-1` has the role viewer; ConfigService/Apply needs editor");
    let applied = config.apply(with("editor", apply(BASE))).await.expect("an editor").into_inner();
    assert_eq!(applied.revision.expect("made").author, "editor-1");
    guarded.plane.stop().await;
}

#[tokio::test]
async fn every_path_and_every_method_asks_for_the_role_of_its_call() {
    let guarded = Guarded::start().await;
    for call in cp_management::calls::CALLS {
        let (method, path) = call.rest;
        let path = path.replace("{section}", "clusters").replace("{*name}", "none").replace("{id}", "7");
        for (token, role) in [
            (None, None),
            (Some("guess"), None),
            (Some("secret-of-viewer"), Some(Role::Viewer)),
            (Some("secret-of-editor"), Some(Role::Editor)),
            (Some("secret-of-admin"), Some(Role::Admin)),
        ] {
            let (status, body) = guarded.http(method, &path, token).await;
            let right = match role {
                None => status == 401,
                Some(role) if role < call.role => status == 403 && body.contains(&format!("needs {}", call.role)),
                // There is nothing to find, but that is another answer.
                Some(_) => ![401, 403, 405].contains(&status) && !body.contains("no such path"),
            };
            assert!(right, "{method} {path} with {token:?}: {status} {body}");

            let rpc = format!("/weir.management.v1.{}", call.rpc);
            let mut client = tonic::client::Grpc::new(guarded.channel.clone());
            client.ready().await.expect("ready");
            let mut request = tonic::Request::new(());
            if let Some(token) = token {
                request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ascii"));
            }
            let codec = tonic_prost::ProstCodec::<(), ()>::default();
            let answer = client.server_streaming(request, rpc.parse().expect("a path"), codec).await;
            // What an empty message gets from the call itself is its own affair.
            let refused =
                |code: Code| matches!(code, Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented);
            let code = answer.err().map(|status| status.code()).filter(|code| refused(*code));
            let expected = match role {
                None => Some(Code::Unauthenticated),
                Some(role) if role < call.role => Some(Code::PermissionDenied),
                Some(_) => None,
            };
            assert_eq!(code, expected, "{} with {token:?}", call.rpc);
        }
    }
    for (path, status) in [("/healthz", 200), ("/v2", 404), ("/v1/config/apply", 405)] {
        assert_eq!(guarded.http("GET", path, None).await.0, status, "{path}");
    }
    guarded.plane.stop().await;
}

#[tokio::test]
async fn private_keys_are_for_admins_and_what_was_left_out_cannot_be_written_back() {
    let guarded = Guarded::start().await;
    let mut config = guarded.config();
    let pem = guarded.key.lines().fold(String::new(), |text, line| text + "        " + line + "\n");
    let inside = guarded.key.lines().find(|l| l.starts_with("MIG")).expect("a line of the key").to_owned();
    let text = format!(
        "listeners:\n  web:\n    address: ':8443'\n    tls:\n      cert: |\n{pem}      key: |\n{pem}routes: [{{ respond: 200 }}]\n\
         envoy:\n- '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n  name: s\n  \
         generic_secret: {{ secret: {{ inline_string: hush }} }}\n"
    );
    config.apply(with("editor", apply(&text))).await.expect("an editor writes keys");
    for (role, seen) in [("viewer", false), ("editor", false), ("admin", true)] {
        let export = config.export(with(role, pb::ExportRequest::default())).await.expect("reads").into_inner();
        let list = config.list(with(role, pb::ListRequest::default())).await.expect("reads").into_inner();
        let revision = config.get_revision(with(role, Default::default())).await.expect("reads").into_inner();
        let get = pb::GetRequest { kind: pb::Kind::Listener.into(), name: "web".into(), revision: 0 };
        let get = config.get(with(role, get)).await.expect("reads").into_inner();
        let object = get.object.expect("given");
        assert_eq!((object.json.contains(&inside), object.line), (seen, 3), "{role}");
        for text in [export.text, format!("{list:?}"), format!("{revision:?}")] {
            assert_eq!((text.contains(&inside), text.contains("hush")), (seen, seen), "{role}: {text}");
            assert_ne!(text.contains("[redacted]"), seen, "{role}: {text}");
        }
    }
    let other = apply(&text.replace("hush", "whisper")).change;
    let request = pb::DiffRequest { change: other, envoy: true, ..Default::default() };
    let diff = config.diff(with("editor", request)).await.expect("compares").into_inner();
    let text = format!("{diff:?}");
    assert!(text.contains("[redacted] (after)") && !text.contains("whisper") && !text.contains("hush"), "{text}");
    assert_eq!(diff.changes.len(), 1, "a change of nothing but a secret is one: {text}");
    let export = config.export(with("editor", pb::ExportRequest::default())).await.expect("reads").into_inner();
    let refused = config.apply(with("editor", apply(&export.text))).await.expect_err("the keys are not in it");
    assert!(refused.message().contains("stands for a secret that was left out"), "{refused:?}");
    drop(guarded.folder);
    guarded.plane.stop().await;
}

#[tokio::test]
async fn an_endpoint_is_drained_beside_the_revisions_and_comes_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let plane = Plane::start(folder.path()).await;
    plane.config().await.apply(apply(BASE)).await.expect("is right");
    let mut fleet = FleetServiceClient::new(plane.channel().await);
    let drain = |cluster: &str, address: &str| pb::DrainEndpointRequest {
        cluster: cluster.into(),
        address: address.into(),
        message: "disk".into(),
        ..Default::default()
    };
    for (cluster, address, says) in [
        ("app", "127.0.0.1:9001", "has no endpoint 127.0.0.1:9001: did you mean `127.0.0.1:9000`?"),
        ("app", "10.1.2.3:80", "has no endpoint 10.1.2.3:80; it has 127.0.0.1:9000"),
        ("ap", "127.0.0.1:9000", "cluster `ap` does not exist: did you mean `app`?"),
        ("nothing", "127.0.0.1:9000", "cluster `nothing` does not exist"),
    ] {
        let refused = fleet.drain_endpoint(drain(cluster, address)).await.expect_err("is not there");
        assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
        assert!(refused.message().ends_with(says), "{refused:?}");
    }
    let of = |cluster: &str| pb::ListEndpointsRequest { cluster: cluster.into() };
    let refused = fleet.list_endpoints(of("apps")).await.expect_err("is not there");
    assert_eq!(refused.message(), "cluster `apps` does not exist: did you mean `app`?");
    let get = pb::GetRequest { kind: pb::Kind::Listener.into(), name: "wep".into(), revision: 0 };
    let refused = plane.config().await.get(get).await.expect_err("is not there");
    assert_eq!(refused.message(), "listener `wep` does not exist: did you mean `web`?");
    let drained = fleet.drain_endpoint(drain("app", "127.0.0.1:9000")).await.expect("works").into_inner();
    let drained = drained.endpoint.and_then(|e| e.drain).expect("drained");
    assert_eq!((drained.author.as_str(), drained.message.as_str()), ("anonymous", "disk"));

    // Another revision and a restart change nothing about it.
    let more = "clusters: { app: ['127.0.0.1:9000', '127.0.0.1:9001'] }";
    plane.config().await.apply(apply(more)).await.expect("is right");
    plane.stop().await;
    let plane = Plane::start(folder.path()).await;
    let mut fleet = FleetServiceClient::new(plane.channel().await);
    let since = std::time::Instant::now();
    let endpoints = loop {
        let (status, _, body) = plane.http("GET /v1/endpoints?cluster=app HTTP/1.1\r\n", "").await;
        assert_eq!(status, 200, "{body}");
        let value: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        if value["endpoints"].as_array().is_some_and(|list| list.len() == 2) {
            break value;
        }
        assert!(since.elapsed().as_secs() < 60, "never published: {value}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    assert_eq!(endpoints["endpoints"][0]["health"], "ENDPOINT_HEALTH_DRAINING", "{endpoints}");
    assert_eq!(endpoints["endpoints"][1]["health"], serde_json::Value::Null, "nobody has reported: {endpoints}");
    let revision = plane.config().await.get_revision(pb::GetRevisionRequest::default()).await.expect("works");
    assert_eq!(revision.into_inner().revision.expect("given").id, 2, "draining makes no revision");

    let undrain = || pb::UndrainEndpointRequest { cluster: "app".into(), address: "127.0.0.1:9000".into() };
    let back = fleet.undrain_endpoint(undrain()).await.expect("works").into_inner().endpoint.expect("given");
    assert_eq!(back.drain, None);
    assert_eq!(fleet.undrain_endpoint(undrain()).await.expect_err("it is back").code(), Code::NotFound);
    plane.stop().await;
}

#[tokio::test]
async fn a_route_is_tested_against_the_newest_revision_and_revisions_are_watched_over_rest() {
    let folder = tempfile::tempdir().expect("a folder");
    let plane = Plane::start(folder.path()).await;
    plane.config().await.apply(apply(BASE)).await.expect("is right");
    let body = r#"{"request": "GET http://shop.test:8080/x"}"#;
    let (status, _, answer) =
        plane.http("POST /v1/route-test HTTP/1.1\r\ncontent-type: application/json\r\n", body).await;
    let value: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!((status, &value["route"], &value["action"]), (200, &"routes[0]".into(), &"to cluster app".into()));
    let (status, _, answer) = plane.http("POST /v1/route-test HTTP/1.1\r\n", r#"{"request": "GET /x"}"#).await;
    assert!(status == 400 && answer.contains("is not a URL"), "{answer}");

    let mut stream = TcpStream::connect(plane.management).await.expect("connects");
    let request = "GET /v1/watch/revisions HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("writes");
    let mut seen = String::new();
    for wanted in ["id: 1", "id: 2"] {
        while !seen.contains(wanted) {
            let mut buffer = [0; 4096];
            let read = tokio::time::timeout(std::time::Duration::from_secs(60), stream.read(&mut buffer));
            let length = read.await.expect("in time").expect("reads");
            assert!(length > 0, "ended: {seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        if wanted == "id: 1" {
            plane.config().await.apply(apply("clusters: { app: ['127.0.0.1:9001'] }")).await.expect("is right");
        }
    }
    assert!(seen.contains("text/event-stream") && seen.contains("event: revision"), "{seen}");
    plane.stop().await;
}

#[tokio::test]
async fn what_belongs_to_a_tag_is_pruned_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let plane = Plane::start(folder.path()).await;
    let mut config = plane.config().await;
    config.apply(apply(BASE)).await.expect("is right");
    let tagged = |text: &str, tag: &str| {
        let mut request = apply(text);
        if let Some(change) = &mut request.change {
            (change.prune, change.select_tag) = (true, tag.into());
            change.sources[0].file_name = format!("{tag}.yaml");
        }
        request
    };
    let two = "clusters: { one: ['127.0.0.1:1'], two: ['127.0.0.1:2'] }";
    config.apply(tagged(two, "shop")).await.expect("is right");
    let one = config.apply(tagged("clusters: { one: ['127.0.0.1:1'] }", "shop")).await.expect("is right").into_inner();
    let changes: Vec<_> = one.changes.iter().map(|c| (c.action(), c.name.as_str())).collect();
    assert_eq!(changes, [(pb::change::Action::Removed, "two")]);
    let taken = config.apply(tagged("clusters: { one: ['127.0.0.1:9'] }", "billing")).await.expect_err("is taken");
    assert!(taken.message().contains("belongs to the tag `shop`"), "{taken:?}");
    let list = config.list(pb::ListRequest { kind: pb::Kind::Cluster.into(), ..Default::default() }).await;
    let objects = list.expect("works").into_inner().objects;
    let tags: Vec<_> = objects.iter().map(|o| (o.name.as_str(), o.tag.as_str())).collect();
    assert_eq!(tags, [("app", ""), ("one", "shop")]);
    plane.stop().await;
}
