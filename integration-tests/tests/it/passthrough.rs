//! TLS that is passed through or terminated by what the ClientHello says; with OpenSSL as client and server too.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use integration_tests::config::{bootstrap, cluster, extension, listener, merge, tcp_proxy, with_admin};
use integration_tests::dns::NameServer;
use integration_tests::proxy::{Running, start};
use integration_tests::tls::Identity;
use integration_tests::upstream::Origin;
use serde_json::{Value, json};

fn inspector(fields: Value) -> Value {
    json!([extension("filters.listener.tls_inspector.v3.TlsInspector", fields)])
}

fn chain(criteria: Value, to: &str) -> Value {
    json!({ "filter_chain_match": criteria, "filters": [{ "name": "tcp", "typed_config": tcp_proxy(to, json!({})) }] })
}

/// An origin that answers over TLS, as who has `identity`, with its name.
fn tls_origin(name: &'static str, identity: &Identity, alpn: &[&[u8]]) -> Origin {
    let config = identity.server(alpn);
    Origin::scripted(move |_, wire, _| {
        let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, wire.socket().try_clone().unwrap());
        let _ = stream.write_all(name.as_bytes());
        stream.conn.send_close_notify();
        let _ = stream.flush();
        wire.rest();
    })
}

/// What the server at the other end of a connection says.
fn ask(proxy: &Running, identity: &Identity, name: &'static str, alpn: &[&[u8]]) -> std::io::Result<String> {
    let connection = rustls::ClientConnection::new(identity.client(alpn), name.try_into().unwrap()).unwrap();
    let stream = std::net::TcpStream::connect(proxy.address("main"))?;
    let mut stream = rustls::StreamOwned::new(connection, stream);
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn one_listener_terminates_some_names_and_passes_others_through() {
    let ours = Identity::new(&["ours.test"]);
    let theirs = Identity::new(&["theirs.test"]);
    let plain = Origin::scripted(|_, wire, _| {
        wire.send("plain");
        wire.finish_sending();
        wire.rest();
    });
    let secret = tls_origin("secret", &theirs, &[]);
    let mut listener = listener("main", tcp_proxy("plain", json!({})));
    let mut terminated = chain(json!({ "server_names": ["ours.test"] }), "plain");
    merge(&mut terminated, json!({ "transport_socket": ours.downstream(&[]) }));
    listener["listener_filters"] = inspector(json!({}));
    listener["filter_chains"] = json!([terminated, chain(json!({ "server_names": ["theirs.test"] }), "secret")]);
    let clusters = vec![cluster("plain", &[plain.address]), cluster("secret", &[secret.address])];
    let proxy = start(&bootstrap(vec![listener], clusters));
    assert_eq!(ask(&proxy, &ours, "ours.test", &[]).unwrap(), "plain");
    // The certificate is the origin's: nobody in between decrypted.
    assert_eq!(ask(&proxy, &theirs, "theirs.test", &[]).unwrap(), "secret");
}

#[test]
fn a_connection_goes_where_its_application_protocol_says() {
    let identity = Identity::new(&["a.test"]);
    let (h2, other) = (tls_origin("h2", &identity, &[b"h2"]), tls_origin("other", &identity, &[b"x"]));
    let mut listener = listener("main", tcp_proxy("other", json!({})));
    listener["listener_filters"] = inspector(json!({}));
    listener["filter_chains"] =
        json!([chain(json!({ "application_protocols": ["h2"] }), "h2"), chain(json!({}), "other")]);
    let clusters = vec![cluster("h2", &[h2.address]), cluster("other", &[other.address])];
    let proxy = start(&bootstrap(vec![listener], clusters));
    assert_eq!(ask(&proxy, &identity, "a.test", &[b"h2"]).unwrap(), "h2");
    assert_eq!(ask(&proxy, &identity, "a.test", &[b"x"]).unwrap(), "other");
}

#[test]
fn a_connection_goes_to_the_host_that_it_names() {
    let names = NameServer::start();
    names.set("theirs.test", &[[127, 0, 0, 1]]);
    let theirs = Identity::new(&["theirs.test", "absent.test"]);
    let secret = tls_origin("secret", &theirs, &[]);
    let cache =
        json!({ "name": "names", "dns_lookup_family": "V4_ONLY", "typed_dns_resolver_config": names.resolver() });
    let forward = extension(
        "filters.network.sni_dynamic_forward_proxy.v3.FilterConfig",
        json!({ "port_value": secret.address.port(), "dns_cache_config": cache }),
    );
    let mut listener = listener("main", tcp_proxy("forward", json!({})));
    listener["listener_filters"] = inspector(json!({}));
    listener["filter_chains"][0]["filters"].as_array_mut().unwrap().insert(0, forward);
    let kind = extension("clusters.dynamic_forward_proxy.v3.ClusterConfig", json!({ "dns_cache_config": cache }));
    let cluster = json!({ "name": "forward", "lb_policy": "CLUSTER_PROVIDED", "cluster_type": kind });
    let proxy = start(&with_admin(bootstrap(vec![listener], vec![cluster])));
    for _ in 0..2 {
        assert_eq!(ask(&proxy, &theirs, "theirs.test", &[]).unwrap(), "secret");
    }
    assert!(ask(&proxy, &theirs, "absent.test", &[]).is_err());
    assert_eq!(proxy.stat("cluster.forward.upstream_cx_none_healthy"), 1);
    assert_eq!(secret.connections(), 2);
}

// === what is wrong with a ClientHello ===

/// The bytes of a ClientHello for `a.test`.
fn client_hello(identity: &Identity) -> Vec<u8> {
    let mut connection = rustls::ClientConnection::new(identity.client(&[]), "a.test".try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

/// An origin that counts what it gets.
fn counter() -> Origin {
    Origin::scripted(|_, wire, _| {
        let got = wire.rest().len();
        wire.send(got.to_string());
    })
}

/// A listener with one chain for `a.test`, and what else it has.
fn inspecting(fields: Value, more: Value, origin: &Origin) -> Running {
    let mut listener = listener("main", tcp_proxy("origin", json!({})));
    listener["listener_filters"] = inspector(fields);
    listener["filter_chains"] = json!([chain(json!({ "server_names": ["a.test"] }), "origin")]);
    merge(&mut listener, more);
    start(&bootstrap(vec![listener], vec![cluster("origin", &[origin.address])]))
}

#[test]
fn a_client_hello_in_pieces_is_read_as_one() {
    let (identity, origin) = (Identity::new(&["a.test"]), counter());
    let proxy = inspecting(json!({}), json!({}), &origin);
    let hello = client_hello(&identity);
    let mut client = proxy.connect();
    for piece in hello.chunks(100) {
        client.send(piece);
        std::thread::yield_now();
    }
    client.finish_sending();
    assert_eq!(client.rest(), hello.len().to_string().into_bytes());
    // The same as two records of TLS.
    let body = &hello[5..];
    let (first, second) = body.split_at(40);
    let record = |piece: &[u8]| [&[22, 3, 1][..], &(piece.len() as u16).to_be_bytes(), piece].concat();
    let mut client = proxy.connect();
    client.send(record(first)).send(record(second));
    client.finish_sending();
    assert_eq!(client.rest(), (hello.len() + 5).to_string().into_bytes());
}

#[test]
fn a_client_hello_that_is_too_large_ends_the_connection() {
    let (identity, origin) = (Identity::new(&["a.test"]), counter());
    let proxy = inspecting(json!({ "max_client_hello_size": 256 }), json!({}), &origin);
    let mut client = proxy.connect();
    client.send(client_hello(&identity));
    client.finish_sending();
    assert!(client.rest().is_empty());
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_client_that_says_nothing_is_closed_or_goes_on_as_unknown() {
    let origin = counter();
    let timeout = json!({ "listener_filters_timeout": "0.1s" });
    let proxy = inspecting(json!({}), timeout, &origin);
    assert!(proxy.connect().is_closed());
    let going_on = json!({
        "listener_filters_timeout": "0.1s",
        "continue_on_listener_filters_timeout": true,
        "default_filter_chain": chain(json!({}), "origin"),
    });
    let mut default = going_on;
    default["default_filter_chain"].as_object_mut().unwrap().remove("filter_chain_match");
    let proxy = inspecting(json!({}), default, &origin);
    let mut client = proxy.connect();
    integration_tests::eventually::eventually("it was connected", || origin.connections() == 1);
    client.send("late");
    client.finish_sending();
    assert_eq!(client.rest(), b"4");
}

#[test]
fn plain_text_is_only_refused_where_tls_is_all_there_may_be() {
    let origin = counter();
    let default = json!({ "default_filter_chain": { "filters": [{ "name": "tcp", "typed_config": tcp_proxy("origin", json!({})) }] } });
    let send = |fields| {
        let proxy = inspecting(fields, default.clone(), &origin);
        let mut client = proxy.connect();
        client.send("plain");
        client.finish_sending();
        client.rest()
    };
    assert_eq!(send(json!({})), b"5");
    assert_eq!(send(json!({ "close_connection_on_client_hello_parsing_errors": true })), b"");
}

// === OpenSSL ===

fn has_openssl(test: &str) -> bool {
    let there = Command::new("openssl").arg("version").output().is_ok_and(|output| output.status.success());
    if !there {
        integration_tests::skip::skipped(test, "there is no openssl here");
    }
    there
}

/// A program that ends with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn openssl(arguments: &[&str]) -> (Program, BufReader<ChildStdout>) {
    let mut command = Command::new("openssl");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    (Program(child), output)
}

/// A server that answers every line with the line reversed, and its port.
fn reversing_server(identity: &Identity, directory: &std::path::Path) -> (Program, u16) {
    let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    std::fs::write(&certificate, identity.certificate_pem()).unwrap();
    std::fs::write(&key, identity.key_pem()).unwrap();
    let files = ["-cert", certificate.to_str().unwrap(), "-key", key.to_str().unwrap()];
    let (server, mut output) = openssl(&[&["s_server", "-accept", "127.0.0.1:0", "-rev"][..], &files].concat());
    let mut line = String::new();
    while !line.starts_with("ACCEPT") {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "s_server ended");
    }
    let port = line.trim().rsplit(':').next().unwrap().parse().unwrap();
    // What it goes on to print must not fill the pipe.
    std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
    (server, port)
}

/// Asks by `s_client` as who looks for `a.test`, and checks the certificate against `identity`.
fn reversed(proxy: &Running, identity: &Identity, directory: &std::path::Path) -> String {
    let trusted = directory.join("trusted.pem");
    std::fs::write(&trusted, identity.certificate_pem()).unwrap();
    let address = proxy.address("main").to_string();
    let (mut client, mut output) = openssl(&[
        "s_client",
        "-connect",
        &address,
        "-servername",
        "a.test",
        "-quiet",
        "-verify_return_error",
        "-CAfile",
        trusted.to_str().unwrap(),
    ]);
    client.0.stdin.as_mut().unwrap().write_all(b"tseb si tahw\n").unwrap();
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    line.trim().to_owned()
}

#[test]
fn an_openssl_client_talks_to_an_openssl_server_through_the_proxy() {
    if !has_openssl("TLS passed through") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let identity = Identity::new(&["a.test"]);
    let (_server, port) = reversing_server(&identity, directory.path());
    let mut listener = listener("main", tcp_proxy("origin", json!({})));
    listener["listener_filters"] = inspector(json!({}));
    listener["filter_chains"] = json!([chain(json!({ "server_names": ["a.test"] }), "origin")]);
    let clusters = vec![cluster("origin", &[([127, 0, 0, 1], port).into()])];
    let proxy = start(&bootstrap(vec![listener], clusters));
    assert_eq!(reversed(&proxy, &identity, directory.path()), "what is best");
}

#[test]
fn an_openssl_client_and_server_meet_a_proxy_that_terminates_and_originates() {
    if !has_openssl("TLS terminated and originated") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Identity::new(&["a.test"]), Identity::new(&["localhost"]));
    let (_server, port) = reversing_server(&theirs, directory.path());
    let mut listener = listener("main", tcp_proxy("origin", json!({})));
    listener["filter_chains"][0]["transport_socket"] = ours.downstream(&[]);
    let mut origin = cluster("origin", &[([127, 0, 0, 1], port).into()]);
    origin["transport_socket"] = theirs.upstream();
    let proxy = start(&bootstrap(vec![listener], vec![origin]));
    assert_eq!(reversed(&proxy, &ours, directory.path()), "what is best");
}
