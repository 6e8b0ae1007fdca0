//! What strangers, and operators who mean no good, send to both servers.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use control_plane::settings::{Access, Settings};
use control_plane::start;
use proto::weir::management::v1 as pb;
use proto::weir::management::v1::config_service_client::ConfigServiceClient;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Code;
use tonic::transport::Channel;

struct Plane {
    management: SocketAddr,
    xds: SocketAddr,
    _folder: tempfile::TempDir,
}

async fn serve(access: impl FnOnce(&Path) -> Access) -> Plane {
    let folder = tempfile::tempdir().expect("a folder");
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let settings = Settings {
        store: folder.path().join("weir.redb"),
        xds_address: address,
        management_address: address,
        access: access(folder.path()),
        groups: Default::default(),
        load_interval: std::time::Duration::from_secs(1),
    };
    let running = start(settings).await.expect("starts");
    let (management, xds) = (running.management, running.xds);
    tokio::spawn(running.until(std::future::pending()));
    Plane { management, xds, _folder: folder }
}

async fn open() -> Plane {
    serve(|_| Access::InsecureLoopback).await
}

/// With the token `secret` for a viewer, and what its clients trust.
async fn guarded() -> (Plane, TlsConnector) {
    let identity = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
    let (certificate, key) = (identity.cert.pem(), identity.signing_key.serialize_pem());
    let plane = serve(|folder| {
        let file = |name: &str, text: &str| {
            std::fs::write(folder.join(name), text).expect("writes");
            folder.join(name)
        };
        Access::Guarded {
            tls_cert: file("c.pem", &certificate),
            tls_key: file("k.pem", &key),
            node_ca: file("ca.pem", &certificate),
            token_file: file("tokens", &format!("ann viewer {}\n", cp_management::hash_token("secret"))),
        }
    })
    .await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(identity.cert.der().clone()).expect("a certificate");
    let mut client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    (plane, TlsConnector::from(Arc::new(client)))
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, head: &str) -> String {
    let text = format!("{head}host: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await.expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("reads");
    answer
}

fn apply(text: String) -> pb::ApplyRequest {
    let sources = vec![pb::Source { file_name: "f.yaml".into(), text }];
    pb::ApplyRequest { change: Some(pb::ChangeSet { sources, ..Default::default() }), ..Default::default() }
}

#[tokio::test]
async fn a_client_of_http1_is_served_over_tls_and_has_one_token() {
    let (plane, connector) = guarded().await;
    for (fields, status) in [
        ("authorization: Bearer secret\r\n", "200"),
        ("", "401"),
        ("authorization: Bearer secret\r\nauthorization: Bearer other\r\n", "401"),
        ("authorization: Bearer secret\r\nauthorization: Bearer secret\r\n", "401"),
    ] {
        let stream = TcpStream::connect(plane.management).await.expect("connects");
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = connector.connect(name, stream).await.expect("shakes hands");
        let answer = ask(stream, &format!("GET /v1/nodes HTTP/1.1\r\n{fields}")).await;
        assert_eq!(answer.split(' ').nth(1), Some(status), "{fields}: {answer}");
    }
}

#[tokio::test]
async fn what_is_asked_under_a_condition_is_not_done_without() {
    let plane = open().await;
    for (fields, status) in [
        ("if-match: *\r\n", 200),
        ("if-match: \"\"\r\n", 400),
        ("if-match:\r\n", 400),
        ("if-match: \u{e9}\r\n", 400),
        ("if-match: \"1-x\"\r\n", 412),
        ("host: localhost\r\n", 400),
    ] {
        let stream = TcpStream::connect(plane.management).await.expect("connects");
        let answer = ask(stream, &format!("POST /v1/config/apply HTTP/1.1\r\n{fields}")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{fields}: {answer}");
    }
}

#[tokio::test]
async fn nobody_who_changes_something_is_overtaken_for_ever() {
    let plane = open().await;
    let endpoint = Channel::from_shared(format!("http://{}", plane.management)).expect("an address");
    let config = ConfigServiceClient::new(endpoint.connect().await.expect("connects"));
    let changes: Vec<_> = (0..30)
        .map(|i| {
            let mut config = config.clone();
            tokio::spawn(async move { config.apply(apply(format!("clusters: {{ c{i}: ['127.0.0.1:1'] }}"))).await })
        })
        .collect();
    for change in changes {
        change.await.expect("no panic").expect("in turn");
    }
}

#[tokio::test]
async fn what_the_library_refuses_is_a_problem_too() {
    let plane = open().await;
    let stream = TcpStream::connect(plane.management).await.expect("connects");
    let answer = ask(stream, "GET /v1/clusters/%ff HTTP/1.1\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("application/problem+json"), "{answer}");
}

#[tokio::test]
async fn an_error_about_something_long_is_short_and_comes_at_once() {
    let plane = open().await;
    let endpoint = Channel::from_shared(format!("http://{}", plane.management)).expect("an address");
    let mut config = ConfigServiceClient::new(endpoint.connect().await.expect("connects"));
    config.apply(apply("clusters:\n  app: [\"127.0.0.1:9000\"]\n".into())).await.expect("is right");
    // Comparing it with `app`, letter by letter, would take gigabytes.
    let name = "é".repeat(5 << 20);
    let get = pb::GetRequest { kind: pb::Kind::Cluster.into(), name: name.clone(), revision: 0 };
    let status = config.get(get).await.expect_err("is not there");
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().len() < 1100 && status.message().starts_with("cluster `éé"), "{}", status.message());
    let status = config.apply(apply(format!("listeners: {{ a: {{ address: {} }} }}\n", "9".repeat(1 << 20)))).await;
    let status = status.expect_err("is no address");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().len() + status.details().len() < 8 << 10, "{}", status.message());
}

/// The settings with which a server of HTTP/2 opens a connection.
async fn settings_of(address: SocketAddr) -> Vec<(u16, u32)> {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("writes");
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.expect("a frame");
    assert_eq!(head[3], 4, "settings come first");
    let mut payload = vec![0; usize::from(head[2])];
    stream.read_exact(&mut payload).await.expect("a frame");
    let setting = |s: &[u8]| (u16::from_be_bytes([s[0], s[1]]), u32::from_be_bytes([s[2], s[3], s[4], s[5]]));
    payload.chunks(6).map(setting).collect()
}

#[tokio::test]
async fn a_connection_has_only_so_many_streams() {
    let plane = open().await;
    for address in [plane.management, plane.xds] {
        let settings = settings_of(address).await;
        assert!(settings.iter().any(|(id, value)| *id == 3 && *value <= 1000), "{address}: {settings:?}");
    }
}
