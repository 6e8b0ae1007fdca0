//! Connections that are not HTTP: bytes both ways, half-close, routing by the name in the ClientHello.

use std::sync::{Arc, mpsc};

use integration_tests::config::{access_log, bootstrap, cluster, listener, merge};
use integration_tests::eventually::found;
use integration_tests::proxy::{Running, start};
use integration_tests::tls::Identity;
use integration_tests::upstream::{Origin, nowhere, reply};
use integration_tests::wire::Wire;
use serde_json::{Value, json};

const MEGABYTE: usize = 1024 * 1024;

fn tcp(cluster: &str) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "tcp",
        "cluster": cluster,
    })
}

fn proxy(origin: &Origin) -> Running {
    start(&bootstrap(vec![listener("main", tcp("origin"))], vec![cluster("origin", &[origin.address])]))
}

#[test]
fn bytes_pass_both_ways_unchanged() {
    let origin = Origin::scripted(|_, wire, _| {
        loop {
            let piece = wire.bytes(64 * 1024);
            if piece.is_empty() {
                return;
            }
            wire.send(piece);
        }
    });
    let proxy = proxy(&origin);
    let mut client = proxy.connect();
    let sent: Vec<u8> = (0..8 * MEGABYTE).map(|i| (i % 251) as u8).collect();
    let mut sender = Wire::new(client.socket().try_clone().unwrap());
    let copy = sent.clone();
    let sending = std::thread::spawn(move || {
        sender.send(copy);
        sender.finish_sending();
    });
    let received = client.rest();
    sending.join().unwrap();
    assert!(received == sent, "{} bytes", received.len());
}

#[test]
fn a_half_that_is_closed_leaves_the_other_one_open() {
    let origin = Origin::scripted(|_, wire, _| {
        let request = wire.rest();
        wire.send(format!("got {}", request.len()));
    });
    let proxy = proxy(&origin);
    let mut client = proxy.connect();
    client.send("12345");
    client.finish_sending();
    assert_eq!(client.rest(), b"got 5");
}

#[test]
fn an_origin_may_speak_first_and_close_first() {
    let (tell, told) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let origin = Origin::scripted(move |_, wire, _| {
        wire.send("220 hello\r\n");
        wire.finish_sending();
        tell.lock().unwrap().send(wire.rest()).unwrap();
    });
    let proxy = proxy(&origin);
    let mut client = proxy.connect();
    assert_eq!(client.rest(), b"220 hello\r\n");
    client.send("bye");
    client.finish_sending();
    assert_eq!(told.recv().unwrap(), b"bye");
}

#[test]
fn nobody_at_the_address_closes_the_connection_and_is_logged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mut tcp = tcp("origin");
    merge(&mut tcp, json!({ "access_log": access_log(&path, "%RESPONSE_FLAGS% %UPSTREAM_CLUSTER%") }));
    let proxy = start(&bootstrap(vec![listener("main", tcp)], vec![cluster("origin", &[nowhere()])]));
    assert!(proxy.connect().is_closed());
    let line = found("a line", || std::fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n')));
    assert!(line.contains("UF") && line.contains("origin"), "{line}");
}

/// A server with this name that answers every request with the name.
fn server(name: &'static str, identity: &Identity) -> Origin {
    let config = identity.server(&[]);
    Origin::scripted(move |_, wire, _| {
        let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, wire.socket().try_clone().unwrap());
        let mut byte = [0];
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && std::io::Read::read(&mut stream, &mut byte).is_ok_and(|n| n == 1) {
            head.push(byte[0]);
        }
        let _ = std::io::Write::write_all(&mut stream, &reply(200, name));
        stream.conn.send_close_notify();
        let _ = stream.conn.complete_io(&mut stream.sock);
    })
}

#[test]
fn tls_is_passed_through_to_the_cluster_of_its_server_name() {
    let identity = Identity::new(&["a.test", "b.test", "c.test"]);
    let (a, b) = (server("a", &identity), server("b", &identity));
    let mut listener = listener("main", tcp("a"));
    listener["listener_filters"] = json!([{
        "name": "tls",
        "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector" },
    }]);
    let chain = |name: &str, to: &str| {
        json!({
            "filter_chain_match": { "server_names": [name] },
            "filters": [{ "name": "tcp", "typed_config": tcp(to) }],
        })
    };
    listener["filter_chains"] = json!([chain("a.test", "a"), chain("*.b.test", "b"), chain("b.test", "b")]);
    let proxy = start(&bootstrap(vec![listener], vec![cluster("a", &[a.address]), cluster("b", &[b.address])]));
    let ask = |name: &'static str| -> std::io::Result<String> {
        let connection = rustls::ClientConnection::new(identity.client(&[]), name.try_into().unwrap()).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, std::net::TcpStream::connect(proxy.address("main"))?);
        std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stream, &mut text)?;
        Ok(text)
    };
    assert!(ask("a.test").unwrap().ends_with("\r\n\r\na"));
    assert!(ask("b.test").unwrap().ends_with("\r\n\r\nb"));
    assert!(ask("c.test").is_err(), "no filter chain matches");
    let mut plain = proxy.connect();
    plain.send("GET / HTTP/1.1\r\n\r\n");
    assert!(plain.is_closed());
}

#[test]
fn a_connection_without_traffic_is_closed_after_the_idle_timeout() {
    let origin = Origin::scripted(|_, wire, _| {
        wire.rest();
    });
    let mut tcp = tcp("origin");
    merge(&mut tcp, json!({ "idle_timeout": "0.1s" }));
    let proxy = start(&bootstrap(vec![listener("main", tcp)], vec![cluster("origin", &[origin.address])]));
    assert!(proxy.connect().is_closed());
}
